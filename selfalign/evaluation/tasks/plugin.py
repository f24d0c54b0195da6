"""The classes and the loader that the YAML files beside this one name; lm-eval imports it, nothing in selfalign does.

Serves selfalign's harness, which sets `chat` on each task, and plain lm-eval
(`lm_eval --include_path "$(selfalign tasks)" --metadata '{"data": "/folder", "protocols": ["mc1"]}'`), which puts
questions into the model's own chat template where asked to (`--apply_chat_template`), and into selfalign's standard
chat prompt otherwise.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from selfalign import resources
from selfalign.errors import ConfigError, DataError
from selfalign.evaluation.catalogue import CALF, data_paths
from selfalign.evaluation.data import Item, choose, item_of, read
from selfalign.evaluation.protocols import EXAMS, Chat, default_chat
from selfalign.evaluation.scores import ANSWER_METRICS, GENERATE, answer_row, outcome_row, scores_of

Row = dict[str, Any]
STDERR = "_stderr"
"""End of the metric that lm-eval prints as the standard error of the one before it: of aggregations that it does not know, it has
none of its own."""


class Number(NamedTuple):
    """A number of a Score."""

    protocol: str
    metric: str
    part: str
    """`value`, `stderr` or `chance`."""


def load(**metadata: Any) -> dict[str, datasets.Dataset]:
    """The items of a task as lm-eval's split `test`, from the YAML file's metadata and that of the command line.

    Raises DataError where nobody says which data to use, or where the files are not what they should be.
    """
    files, calf = metadata["files"], metadata["calf"]
    data = metadata.get("data") or resources.data_folder()
    if not data:
        raise DataError(
            f"expected to be told which data to score, found neither metadata nor SELFALIGN_DATA nor what `selfalign data fetch` "
            f"leaves; allowed: a folder "
            f"with {', '.join(files)}, or '{CALF}' for the questions inside selfalign; add --metadata "
            '\'{"data": "/folder"}\' to the command or set SELFALIGN_DATA=/folder'
        )
    items = read(metadata["format"], data_paths(data, files, calf["files"]))
    items = choose(items, metadata.get("limit", 0), metadata.get("seed", 0))
    return {"test": datasets.Dataset.from_list([dataclasses.asdict(item) for item in items])}


def templated_chat(chat_template: Callable[..., str]) -> Chat:
    """A model's own chat template as a Chat: the answer follows the template's generation prompt directly."""
    return Chat(lambda question: chat_template([{"role": "user", "content": question}]), stops=(), joint="")


class _Task(ConfigurableTask):
    """What both kinds of tasks share: items, the chat layout, and metrics that are no number for a broken model."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        self.chat: Chat | None = None
        """Layout set by selfalign's harness; without one the standard layout, or the model's template."""
        self.categories = list(dict.fromkeys(doc["category"] for doc in map(dict, self.eval_docs) if doc["category"]))

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: Any = None) -> str:
        """The bare question: the layout is added where requests are made."""
        return doc["question"]

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: Any = None) -> str:
        """The right answer as lm-eval logs it; empty where answers are generated."""
        return doc["choices"][doc["right"]] if doc["choices"] else ""

    def build_all_requests(
        self,
        *,
        limit: int | None = None,
        samples: list[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        chat_template: Callable[..., str] | None = None,
        **_: Any,
    ) -> None:
        """Every request of every item. Raises ConfigError for a system instruction: the chat prompt is in its place."""
        if system_instruction:
            raise ConfigError(
                [
                    f"{self.config.task}: expected no system instruction, found {system_instruction[:40]!r}; the text "
                    "before a question is selfalign's chat prompt or the model's template; remove --system_instruction"
                ]
            )
        templated = templated_chat(chat_template) if apply_chat_template and chat_template else None
        chat = templated or self.chat or default_chat()
        self._instances = [
            Instance(
                request_type="generate_until" if self.OUTPUT_TYPE == "generate_until" else "loglikelihood",
                doc=doc,  # type: ignore[arg-type]
                arguments=arguments,
                idx=number,
                metadata=(self.config.task, doc_id, 1),
            )
            for doc_id, doc in self.doc_iterator(rank=rank, limit=limit, samples=samples, world_size=world_size)
            for number, arguments in enumerate(self.arguments(chat, item_of(doc)))
        ]

    def arguments(self, chat: Chat, item: Item) -> Sequence[tuple[Any, ...]]:
        """What the model is asked about one item."""
        raise NotImplementedError

    def metrics(self) -> dict[str, Number]:
        """Metric as lm-eval shows it -> the number that it is."""
        raise NotImplementedError

    def aggregation(self) -> dict[str, Callable[[list[Row]], float]]:
        """Rows of all items -> the number, by metric; NaN where the protocol is not valid, or where there is none."""

        def of(wanted: Number) -> Callable[[list[Row]], float]:
            def value(rows: list[Row]) -> float:
                for one in scores_of("", rows):
                    if (one.protocol, one.metric) == (wanted.protocol, wanted.metric):
                        found = getattr(one, wanted.part)
                        return math.nan if found is None else found
                return math.nan

            return value

        return {name: of(wanted) for name, wanted in self.metrics().items()}

    def higher_is_better(self) -> dict[str, bool]:
        """True for accuracies and shares of probability; what stands beside a score is neither better nor worse."""
        return {name: one.metric not in ANSWER_METRICS for name, one in self.metrics().items() if one.part == "value"}


class Exam(_Task):
    """Items with candidates, scored by the protocols that the YAML file names."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        # In lm-eval's results, under `configs`.
        self.config.metadata["comparability"] = {  # type: ignore[index]
            name: {"chance": EXAMS[name].chance, "can_be_compared_with": EXAMS[name].note}
            for name in self.config.metadata["protocols"]  # type: ignore[index]
        }

    def arguments(self, chat: Chat, item: Item) -> list[tuple[str, str]]:
        """The pairs of all protocols, one after the other."""
        return [pair for name in self.config.metadata["protocols"] for pair in EXAMS[name].pairs(chat, item)]  # type: ignore[index]

    def metrics(self) -> dict[str, Number]:
        """One metric for each protocol and each of its categories, with their standard errors, and the protocol's chance."""
        found: dict[str, Number] = {}
        for name in self.config.metadata["protocols"]:  # type: ignore[index]
            for end in [(), *((category,) for category in self.categories)]:
                metric = "_".join((EXAMS[name].metric, *end))
                found[f"{name}_{metric}"] = Number(name, metric, "value")
                found[f"{name}_{metric}{STDERR}"] = Number(name, metric, "stderr")
            found[f"{name}_chance"] = Number(name, EXAMS[name].metric, "chance")
        return found

    def process_results(self, doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Row]:
        """The row of each protocol, under each of its metrics."""
        item, layout = item_of(doc), Chat(lambda question: question)
        logprobs = [float(logprob) for logprob, _ in results]
        rows: dict[str, Row] = {}
        start = 0
        for name in self.config.metadata["protocols"]:  # type: ignore[index]
            end = start + len(EXAMS[name].pairs(layout, item))
            rows[name] = outcome_row(str(self.config.task), EXAMS[name].outcome(item, logprobs[start:end]))
            start = end
        return {metric: rows[one.protocol] for metric, one in self.metrics().items()}


class Answers(_Task):
    """Open questions: answers are generated and recorded."""

    def arguments(self, chat: Chat, item: Item) -> list[tuple[str, dict[str, Any]]]:
        """One prompt, with the generation settings of the YAML file; the harness sets its own there."""
        options = copy.deepcopy(self.config.generation_kwargs or {})
        return [(chat.wrap(item.question), options)]

    def metrics(self) -> dict[str, Number]:
        """What is measured on answers, each with its standard error."""
        parts = (("", "value"), (STDERR, "stderr"))
        return {f"{metric}{end}": Number(GENERATE, metric, part) for metric in ANSWER_METRICS for end, part in parts}

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Row]:
        """The row of the answer, under each metric."""
        row = answer_row(str(self.config.task), item_of(doc), results[0])
        return dict.fromkeys(self.metrics(), row)
