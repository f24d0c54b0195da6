"""What a run would cost, before it runs: requests, tokens, device hours and money of each node, from its settings alone.

Times are right in their order of magnitude, no more: they follow from `utilisation`, which is what one has to know.

What prompts share is counted to the token, and so are whole prompts where the questions are there already; else demonstrations and
questions, which differ from one to the next, are counted by examples from the seeds. What a model will write is not known before it
has written: `Expected` says what is reckoned with, a finished run (`selfalign plan --pilot RUN`) replaces that by what it
measured. Nothing here changes a result.

Operations by Kaplan et al. 2020 (arXiv:2001.08361, section 2.1): 2 per parameter for a token that is read or written. LoRA's
backward pass goes through the frozen weights and computes no gradient of them: 4 per parameter for a token that is trained on, 6
where activations are computed again. Written tokens are bounded by reading the weights once for each step of a batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Any

from selfalign import disk, jsonl, prompts
from selfalign.artifacts import MANIFEST
from selfalign.devices import DEVICES
from selfalign.engines.model import Dtype, ModelSettings, model_folder, parameter_count, weight_shapes
from selfalign.errors import ConfigError, unknown
from selfalign.evaluation import data as questions
from selfalign.evaluation.catalogue import catalogue
from selfalign.evaluation.protocols import EXAMS, Chat
from selfalign.pipeline import Memo, Node
from selfalign.records import Prompt
from selfalign.stages.contamination import Contamination
from selfalign.stages.engrave import Engrave
from selfalign.stages.engraving_gap import STUDENTS, EngravingGap
from selfalign.stages.evaluate import Evaluate
from selfalign.stages.given_answers import GivenAnswers
from selfalign.stages.merge import Merge
from selfalign.stages.parity import Parity
from selfalign.stages.red_team import RedTeam
from selfalign.stages.self_align import SelfAlign
from selfalign.stages.self_critique import SelfCritique
from selfalign.stages.self_instruct import SelfInstruct
from selfalign.stages.verbose_clone import VerboseClone
from selfalign.training.settings import Training


@dataclass(frozen=True)
class Expected:
    """What models are expected to do, as shares and numbers; the reference's where it published them."""

    instructions_kept: float = 0.6
    """Share of the tasks written that stage 1a keeps (0..1]. No published number."""
    topics_kept: float = 0.63
    """Share of the topics written that are new (0..1]. The reference's 99,121 questions after six rounds ask for it."""
    questions_kept: float = 0.9
    """Share of the topics that get a question (0..1]. No published number."""
    responses_kept: float = 0.706
    """Share of the answers that stage 2 keeps (0..1]: 258,878 of 366,718 in the reference."""
    verbose_kept: float = 0.976
    """Share of the long answers that stage 4 keeps (0..1]: 358,777 of 367,628 in the reference."""
    budget_used: float = 0.6
    """Share of its budget of new tokens that an answer takes (0..1]. Lists of tasks and questions take all of theirs."""


@dataclass(frozen=True)
class PlanSettings:
    """What `selfalign plan` reckons with."""

    device: str = "a100_80gb"
    """Kind of device: a name in `selfalign.devices.DEVICES`."""
    devices: int = 8
    """Number of devices that work at once, without loss (> 0): for the time; device hours do not depend on it."""
    price_per_hour: float = 0.0
    """Price of one device for an hour, in a currency of yours; 0 prints no money."""
    parameters: float = 0.0
    """Parameters of the base model; 0 takes them from the model's files."""
    prompts: int = 0
    """Rows of `merge.file` where the file is not there yet."""
    batch: int = 64
    """Sequences that are written side by side (> 0)."""
    utilisation: float = 0.4
    """Share of the device's peak that is reached, of operations and of bandwidth (0..1]."""
    expected: Expected = field(default_factory=Expected)
    """What models are expected to do."""


@dataclass(frozen=True)
class Cost:
    """What one node has to do."""

    kept: int = 0
    """Rows that come out."""
    requests: int = 0
    shared_tokens: int = 0
    """Tokens that all prompts begin with: read once for each batch."""
    prompt_tokens: int = 0
    """Tokens of all prompts behind those."""
    new_tokens: int = 0
    """Tokens that are written."""
    trained_tokens: int = 0
    """Tokens of all rows of all epochs, prompts included."""
    operations_per_trained_token: float = 4.0
    """Per parameter."""
    bytes: int = 0
    """What it leaves on the disk."""
    checkpoint_bytes: int = 0
    """What it needs there beside that, until it ends."""
    note: str = ""
    """What is not counted."""

    @property
    def read_tokens(self) -> int:
        """Tokens of all prompts, each counted whole."""
        return self.requests * self.shared_tokens + self.prompt_tokens

    def device_seconds(self, settings: PlanSettings, parameters: float, bytes_per_parameter: int) -> float:
        """Seconds of one device of the kind, at the utilisation that is reckoned with."""
        device = DEVICES[settings.device]
        batches = ceil(self.requests / settings.batch)
        read = self.prompt_tokens + self.shared_tokens * batches
        operations = 2 * parameters * read + self.operations_per_trained_token * parameters * self.trained_tokens
        steps = self.new_tokens / settings.batch
        written = max(
            2 * parameters * self.new_tokens / device.flops, steps * parameters * bytes_per_parameter / device.bandwidth
        )
        return (operations / device.flops + written) / settings.utilisation


@dataclass(frozen=True)
class Measured:
    """What a node of a pilot run did."""

    kept: float | None = None
    """Kept rows of those that went in, 0..1; of stage 1, of those that its lists held."""
    new_tokens: float | None = None
    """Tokens written for one request."""
    kept_per_request: float | None = None


def problems(settings: PlanSettings) -> list[str]:
    """What is wrong with the settings."""
    found = []
    if settings.device not in DEVICES:
        found.append(f"device: {unknown('device', settings.device, DEVICES)}")
    for name in ("devices", "batch"):
        if getattr(settings, name) < 1:
            found.append(f"{name}: expected 1 or more, found {getattr(settings, name)}")
    for name in ("price_per_hour", "parameters"):
        if getattr(settings, name) < 0:
            found.append(f"{name}: expected 0 or more, found {getattr(settings, name)}")
    shares = {"utilisation": settings.utilisation, **{f"expected.{k}": v for k, v in vars(settings.expected).items()}}
    found += [
        f"{k}: expected a share above 0, at most 1, found {v:g}" for k, v in shares.items() if not 0 < float(v) <= 1
    ]
    return found


BYTES = {Dtype.float32: 4, Dtype.bfloat16: 2, Dtype.float16: 2}
"""Bytes of a parameter."""


def parameters_of(settings: PlanSettings, model: ModelSettings) -> float:
    """Parameters of the base model: the setting, else those of its weights. Raises ConfigError where neither is there."""
    found = settings.parameters or float(parameter_count(model_folder(model, weights=False)))
    if not found:
        raise ConfigError(
            [
                f"plan.parameters: expected the size of a model whose weights are not here ({model.path}), found 0; set "
                "it, as in plan.parameters=7e9"
            ]
        )
    return found


def adapter_parameters_of(settings: PlanSettings, model: ModelSettings) -> Callable[[Training], float]:
    """How many numbers a training's adapter of this base model has: by its weights, else by `plan.parameters`; 0 for a model of
    which neither is known, such as a served one."""
    try:
        shapes = weight_shapes(model_folder(model, weights=False)) if model.path else {}
    except ConfigError:
        shapes = {}  # nothing of the model is here
    return lambda training: disk.lora_parameters(training, shapes, settings.parameters)


def costs(
    nodes: Mapping[str, Node],
    settings: PlanSettings,
    count_tokens: Callable[[str], int],
    *,
    recompute: bool = False,
    pilot: Mapping[str, Measured] | None = None,
    memo: Memo | None = None,
    given: Mapping[str, Sequence[Prompt]] | None = None,
    adapter_parameters: Callable[[Training], float] = lambda _: 0.0,
) -> dict[str, Cost]:
    """What each node has to do, in the order of the nodes, which must stand behind what they read.

    `recompute`: whether training computes activations again (gradient checkpointing). `pilot`: node -> what it did in a
    finished run; the rest is `settings.expected`. `memo`: what was counted by the same tokenizer before. `given`: node -> its
    prompts, where they are there already: what is asked about them is counted to the token. `adapter_parameters`: numbers of the
    adapter that a training makes.
    """
    estimate = _Estimate(settings, count_tokens, recompute, pilot or {}, memo or Memo())
    given = given or {}
    found: dict[str, Cost] = {}
    for name, node in nodes.items():
        kept = {
            role: len(given[source]) if source in given else found[source].kept for role, source in node.inputs.items()
        }
        asked = given.get(node.inputs.get("prompts", ""))
        one = estimate.of(name.removesuffix(f" ({node.arm})"), node.stage, kept, asked)
        found[name] = _with_disk(node.stage, one, adapter_parameters)
    return found


def _with_disk(stage: Any, one: Cost, adapter_parameters: Callable[[Training], float]) -> Cost:
    adapter = adapter_parameters(stage.training) if isinstance(stage, Engrave) else 0.0
    size = disk.bytes_of(
        stage, kept=one.kept, requests=one.requests, new_tokens=one.new_tokens, trained_tokens=one.trained_tokens,
        adapter_parameters=adapter,
    )  # fmt: skip
    return replace(one, bytes=size, checkpoint_bytes=round(disk.checkpoint_bytes(adapter)))


class _Estimate:
    """The costs of nodes, one at a time."""

    def __init__(
        self,
        settings: PlanSettings,
        count: Callable[[str], int],
        recompute: bool,
        pilot: Mapping[str, Measured],
        memo: Memo,
    ) -> None:
        self.expected, self.prompts = settings.expected, settings.prompts
        self.count, self.recompute, self.pilot, self.memo = count, recompute, pilot, memo
        self.answer_tokens = 0.0
        self.long_answer_tokens = 0.0

    def of(self, name: str, stage: Any, kept: Mapping[str, int], asked: Sequence[Prompt] | None = None) -> Cost:
        """The cost of a node, from the rows that its inputs keep, and the prompts that it asks where they are known."""
        found = self._of(name, stage, kept, self.pilot.get(name, Measured()))
        if asked is None or not isinstance(stage, SelfAlign | VerboseClone):
            return found
        sent = self.memo(
            "sent",
            (stage, list(asked)),
            lambda: sum(self.count(one.prompt) for one in stage.requests(asked, self.count)),
        )
        return replace(found, prompt_tokens=sent - found.requests * found.shared_tokens)

    def _of(self, name: str, stage: Any, kept: Mapping[str, int], measured: Measured) -> Cost:
        match stage:
            case SelfInstruct():
                return self._self_instruct(stage, measured)
            case RedTeam():
                return self._red_team(stage, measured)
            case SelfAlign():
                return self._self_align(stage, kept["prompts"], measured)
            case SelfCritique():
                return self._self_critique(stage, kept["responses"], measured)
            case VerboseClone():
                return self._verbose_clone(stage, kept["prompts"], measured)
            case Engrave():
                long = name == "cloned"
                return self._engrave(stage, kept, self.long_answer_tokens if long else self.answer_tokens)
            case EngravingGap():
                return self._engraving_gap(stage, kept)
            case Evaluate():
                return self._evaluate(stage)
            case GivenAnswers():
                return self._given_answers(stage)
            case Merge():
                return Cost(kept=sum(kept.values()) + (_rows_of(stage.file) or self.prompts))
            case Contamination():
                return Cost(kept=kept["prompts"])
            case Parity():
                return Cost(kept=min(number for role, number in kept.items() if role != "prompts"))
            case _:
                return Cost(note="not counted")

    def _tokens(self, stage: Any) -> dict[str, int]:
        """Tokens of each prompt that a stage sends, its open slot empty."""
        return self.memo(
            "tokens",
            (stage,),
            lambda: {label: self.count(text) for label, text in stage.preview("", self.count).items()},
        )

    @cached_property
    def _question(self) -> int:
        """Tokens of a usual question: the mean of the seed tasks."""
        return ceil(
            mean(self.count(f"{task.instruction}\n\n{task.input}".strip()) for task in prompts.load_seed_tasks())
        )

    def _self_instruct(self, stage: SelfInstruct, measured: Measured) -> Cost:
        (tokens,) = self._tokens(stage).values()
        seeds = prompts.load_seed_tasks(stage.texts)
        demo = mean(
            self.count(f"\n###\n20. Instruction: {task.instruction}\n20. Input:\n{task.input}") for task in seeds
        )
        listed = min(stage.list_length - stage.seed_demos - stage.machine_demos, stage.sampling.max_new_tokens / demo)
        each = measured.kept_per_request or max(listed, 1.0) * self.expected.instructions_kept
        requests = min(ceil(stage.target / each), stage.requests_per_round * stage.max_rounds)
        written = measured.new_tokens or stage.sampling.max_new_tokens
        shared = self.count(prompts.load_text("self_instruct", stage.texts))
        return Cost(
            kept=min(stage.target, int(requests * each)),
            requests=requests,
            shared_tokens=shared,
            prompt_tokens=requests * (tokens - shared),
            new_tokens=ceil(requests * written),
        )

    def _red_team(self, stage: RedTeam, measured: Measured) -> Cost:
        tokens = self._tokens(stage)
        files = ("topics", *stage.extra_seeds)
        types = {seed.question_type for name in files for seed in prompts.load_topic_seeds(stage.texts, name)}
        topics, topic_requests = float(len(types)), 0.0
        for _ in range(stage.topic_rounds):
            topic_requests += topics
            topics *= 1 + stage.topics_per_prompt * self.expected.topics_kept
            if stage.max_topics_per_type:
                topics = min(topics, stage.max_topics_per_type * len(types))
        asked = ceil((topics - len(types)) / stage.questions_per_prompt)
        share = measured.kept if measured.kept is not None else self.expected.questions_kept
        return Cost(
            kept=int((topics - len(types)) * share),
            requests=ceil(topic_requests) + asked,
            prompt_tokens=ceil(topic_requests) * tokens["topics"] + asked * tokens["questions"],
            new_tokens=ceil(
                topic_requests * stage.topic_sampling.max_new_tokens + asked * stage.question_sampling.max_new_tokens
            ),
        )

    def _self_align(self, stage: SelfAlign, asked: int, measured: Measured) -> Cost:
        stem = self.memo("stem", (stage,), lambda: self.count(stage.arm(self.count)[3]))
        budget = stage.thoughts_tokens + stage.sampling.max_new_tokens
        written = measured.new_tokens or budget * self.expected.budget_used
        share = measured.kept if measured.kept is not None else self.expected.responses_kept
        # What is trained on is the answer alone: of a shared budget, the half that the thoughts leave.
        self.answer_tokens = written * (stage.sampling.max_new_tokens / budget if stage.thoughts_tokens else 0.5)
        return Cost(
            kept=int(asked * share),
            requests=asked,
            shared_tokens=stem,
            prompt_tokens=asked * (self._tokens(stage)["self_align"] - stem + self._question),
            new_tokens=ceil(asked * written),
        )

    def _self_critique(self, stage: SelfCritique, asked: int, measured: Measured) -> Cost:
        empty = sum(self._tokens(stage).values())
        own = 2 * (self._question + ceil(self.answer_tokens))
        budget = stage.critique_sampling.max_new_tokens + stage.revision_sampling.max_new_tokens
        written = 2 * measured.new_tokens if measured.new_tokens else budget * self.expected.budget_used
        return Cost(
            kept=asked,
            requests=2 * stage.rounds * asked,
            prompt_tokens=stage.rounds * asked * (empty + own),
            new_tokens=ceil(stage.rounds * asked * written),
        )

    def _verbose_clone(self, stage: VerboseClone, asked: int, measured: Measured) -> Cost:
        (shared,) = self._tokens(stage).values()
        written = measured.new_tokens or stage.sampling.max_new_tokens * self.expected.budget_used
        share = measured.kept if measured.kept is not None else self.expected.verbose_kept
        self.long_answer_tokens = written
        return Cost(int(asked * share), asked, shared, asked * self._question, ceil(asked * written))

    def _given_answers(self, stage: GivenAnswers) -> Cost:
        """Nothing is computed; a sample of the rows says how long the answers are that will be trained on."""
        rows = [row for row in stage.responses() if row.kept]
        sample = rows[:: max(1, len(rows) // 200)]
        self.answer_tokens = mean(self.count(row.text) for row in sample) if sample else 0.0
        return Cost(kept=len(rows))

    def _engrave(self, stage: Engrave, kept: Mapping[str, int], answer: float) -> Cost:
        rows = min(kept["responses"], kept.get("parity", kept["responses"]))
        identity = prompts.load_identity(stage.assistant, stage.texts) if stage.identity_rows else []
        prompt = mean(self._tokens(stage).values())
        row = min(stage.training.max_seq_length, prompt + self._question + answer)
        tokens = ceil((rows + len(identity)) * row * stage.training.epochs)
        return Cost(
            kept=rows + len(identity),
            trained_tokens=tokens,
            operations_per_trained_token=6.0 if self.recompute else 4.0,
        )

    def _engraving_gap(self, stage: EngravingGap, kept: Mapping[str, int]) -> Cost:
        rows = min(2 * stage.settings.samples, kept["responses"])
        bare = 1 + sum(name in kept for name in STUDENTS)
        stem = self.memo("stem", (stage.writer,), lambda: self.count(stage.writer.arm(self.count)[3]))
        thoughts = ceil(stage.writer.thoughts_tokens * self.expected.budget_used)
        read = (1 + bare) * (self._question + ceil(self.answer_tokens)) + thoughts
        # What all prompts begin with is read once, whatever the batches.
        return Cost(kept=rows, requests=(1 + bare) * rows, prompt_tokens=stem + rows * read)

    def _evaluate(self, stage: Evaluate) -> Cost:
        settings = stage.settings
        (prompt,) = self._tokens(stage).values()
        requests, read, written = 0, 0, 0
        asked = _asked(tuple(settings.tasks), tuple(settings.protocols), settings.data)
        for task, (items, texts) in asked.items():
            share = min(settings.limit, items) / items if settings.limit else 1.0
            requests += ceil(share * len(texts))
            read += ceil(share * sum(map(self.count, texts)))
            written += 0 if catalogue()[task].protocols else ceil(share * len(texts)) * settings.max_new_tokens
        missing = [name for name in settings.tasks if name not in asked]
        note = f"without {', '.join(missing)}, whose questions are not in evaluation.data" if missing else ""
        return Cost(0, requests, prompt, read, written, note=note)


@lru_cache(maxsize=4)
def _asked(tasks: tuple[str, ...], protocols: tuple[str, ...], data: str) -> dict[str, tuple[int, list[str]]]:
    """Task that is there -> its items, and what is sent behind the chat prompt: each pair of context and continuation once."""
    bare, found = Chat(wrap=lambda question: question), {}
    for name in tasks:
        task = catalogue()[name]
        if all(path.is_file() for path in task.paths(data)):
            items = questions.load(task, data)
            pairs = {
                pair
                for item in items
                for protocol in task.scored(protocols)
                for pair in EXAMS[protocol].pairs(bare, item)
            }
            texts = ["".join(pair) for pair in pairs] if task.protocols else [item.question for item in items]
            found[name] = (len(items), texts)
    return found


def _rows_of(file: str) -> int:
    """Rows of the user's own prompts; 0 where no file is given or it is not there yet."""
    return sum(1 for _ in jsonl.iterate(Path(file))) if file and Path(file).is_file() else 0


def measured(run: Path) -> dict[str, Measured]:
    """What each node of a finished run did: shares of kept rows, tokens written for a request."""
    found = {}
    for name, entry in json.loads((run / MANIFEST).read_text(encoding="utf-8"))["nodes"].items():
        if entry["status"] not in ("computed", "reused"):
            continue
        folder, counts = Path(entry["path"]), entry["counts"]
        files = [folder / "completions.jsonl", *sorted((folder / "completions").glob("*.jsonl"))]
        written = [row["new_tokens"] for file in files if file.is_file() for row in jsonl.iterate(file)]
        if written:
            found[name] = Measured(
                counts["kept"] / counts["in"] if counts["in"] else None, mean(written), counts["kept"] / len(written)
            )
    return found
