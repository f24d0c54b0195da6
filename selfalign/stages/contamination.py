"""Contamination: which prompts say what a question of an evaluation set says; reported, or taken out.

Source: Brown et al. 2020 (GPT-3), appendix C: runs of words that a training text shares with a test item; Broder 1997: the
resemblance of two texts as the Jaccard index of their shingles. MinHash estimates that index where both sides are large;
evaluation sets have a thousand questions, so it is computed here, by an index over their shingles. The reference checks nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from selfalign import jsonl
from selfalign.artifacts import Artifact, Outcome
from selfalign.errors import DataError
from selfalign.evaluation import data as questions
from selfalign.evaluation.catalogue import CALF, TaskFile, catalogue
from selfalign.identity import plain
from selfalign.records import Prompt, to_row
from selfalign.similarity import ngrams, rouge_tokens
from selfalign.stages.base import Context, count, read_prompts

SHINGLE = 3
"""Words of a shingle: long enough that sharing some says something, short enough for questions of six words."""


class Contaminated(StrEnum):
    """What is done about a contaminated prompt."""

    report = "report"
    """It is counted and listed; the run goes on with it."""
    remove = "remove"
    """It is dropped before it is answered, with the reason `contaminated`."""
    off = "off"
    """Nothing is compared."""


@dataclass(frozen=True)
class ContaminationSettings:
    """Settings of the check."""

    mode: Contaminated = Contaminated.report
    """What is done about a contaminated prompt."""
    ngram_words: int = 8
    """A prompt that shares so many words in a row with a question is contaminated; a shorter question counts where the prompt
    holds all of it (> 0). GPT-3 took 13, for documents; prompts are a sentence long."""
    resemblance: float = 0.5
    """A prompt whose shingles of three words have at least this Jaccard index with a question's is contaminated (0..1)."""


@dataclass(frozen=True, slots=True)
class Match:
    """One prompt and the question of an evaluation set that it resembles most."""

    prompt_id: str
    task: str
    """Task that the question belongs to."""
    item_id: str
    question: str
    prompt: str
    run: str
    """The longest run of words in common, where it is long enough; else empty."""
    resemblance: float
    """Jaccard index of the shingles, 0..1."""


@dataclass(frozen=True)
class Contamination:
    """The check of a run's prompts against every evaluation set that its data folder holds, scored in this run or not.

    A set that the folder does not hold is named in the metric `not_compared`.
    """

    settings: ContaminationSettings = field(default_factory=ContaminationSettings)
    """What counts, and what follows."""
    data: str = CALF
    """Where the evaluation sets are: `calf`, or a folder as for evaluation; their content names the result, not the place."""

    VERSION: ClassVar[str] = "2"
    READS: ClassVar[tuple[str, ...]] = ("prompts",)
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = False

    def _sets(self) -> list[TaskFile]:
        """Every evaluation set once: of two tasks that read the same questions, the one that has protocols."""
        found: dict[tuple[str, ...], TaskFile] = {}
        for task in catalogue().values():
            if task.protocols or task.files not in found:
                found[task.files] = task
        return list(found.values())

    def _tasks(self) -> list[TaskFile]:
        return [task for task in self._sets() if all(path.is_file() for path in task.paths(self.data))]

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, and the content of every question file."""
        files = {task.reported(self.data): task.identity(self.data)["data"] for task in self._tasks()}
        return {"settings": plain(self.settings), "content": files}

    def problems(self, context: Context) -> list[str]:
        """Numbers out of range, and question files that cannot be read."""
        found = []
        if self.settings.ngram_words < 1:
            found.append(
                f"contamination.ngram_words: expected 1 or more, found {self.settings.ngram_words}; set it to 8"
            )
        if not 0 < self.settings.resemblance <= 1:
            found.append(
                f"contamination.resemblance: expected a number above 0, at most 1, found {self.settings.resemblance}; "
                "the default is 0.5"
            )
        try:
            self._questions()
        except DataError as error:
            found.append(f"contamination: {error}")
        return found

    def unfit(self, context: Context) -> str:
        """Nothing: no model takes part."""
        return ""

    def _questions(self) -> list[tuple[str, questions.Item]]:
        return [(task.reported(self.data), item) for task in self._tasks() for item in questions.load(task, self.data)]

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `matches.jsonl` (one Match for each contaminated prompt) and, where they are removed, `prompts.jsonl`."""
        rows, asked = read_prompts(inputs["prompts"]), self._questions()
        matches = compare(rows, asked, self.settings)
        jsonl.write(out / "matches.jsonl", map(asdict, matches))
        if self.settings.mode is Contaminated.remove:
            gone = {match.prompt_id for match in matches}
            rows = [replace(row, kept=False, reason="contaminated") if row.id in gone else row for row in rows]
            jsonl.write(out / "prompts.jsonl", map(to_row, rows))
        outcome = count(rows)
        of_task = Counter(match.task for match in matches)
        there = {task.name for task in self._tasks()}
        missing = [task.name for task in self._sets() if task.name not in there]
        outcome.metrics = {"contaminated": len(matches), "questions": len(asked), "not_compared": ", ".join(missing)}
        outcome.metrics |= {f"contaminated/{task}": of_task[task] for task in dict.fromkeys(task for task, _ in asked)}
        return outcome


def compare(
    prompts: Iterable[Prompt], asked: Sequence[tuple[str, questions.Item]], settings: ContaminationSettings
) -> list[Match]:
    """For each contaminated prompt, the question that it shares the longest run of words with, or resembles most.

    Words are ROUGE's (lower case, a-z and 0-9); what has none, such as text in another script, is compared whole.
    """
    index = _Index(asked, settings.ngram_words)
    return [match for row in prompts if (match := index.match(row, settings)) is not None]


class _Index:
    """The questions of all sets by their runs of words and by their shingles."""

    def __init__(self, asked: Sequence[tuple[str, questions.Item]], size: int) -> None:
        self.asked = asked
        self.size = size
        self.words = [_words(item.question) for _, item in asked]
        self.shingles = [_shingles(words) for words in self.words]
        self.with_shingle: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self.with_run: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, words in enumerate(self.words):
            for shingle in self.shingles[number]:
                self.with_shingle[shingle].append(number)
            for run in dict.fromkeys(ngrams(words, min(size, len(words)))):
                self.with_run[run].append(number)
        self.lengths = sorted({min(size, len(words)) for words in self.words})

    def match(self, row: Prompt, settings: ContaminationSettings) -> Match | None:
        """The nearest question of a prompt, where it is near enough."""
        words = _words(row.text)
        mine = _shingles(words)
        common = Counter(number for shingle in mine for number in self.with_shingle.get(shingle, ()))
        found = {
            number for length in self.lengths for run in ngrams(words, length) for number in self.with_run.get(run, ())
        }
        near = {number: share / len(mine | self.shingles[number]) for number, share in common.items()}
        chosen = found | {number for number, value in near.items() if value >= settings.resemblance}
        if not chosen:
            return None
        runs = {number: _longest_run(words, self.words[number]) if number in found else [] for number in chosen}
        best = min(chosen, key=lambda number: (-len(runs[number]), -near.get(number, 0.0), number))
        task, item = self.asked[best]
        return Match(
            row.id, task, item.id, item.question, row.text, " ".join(runs[best]), round(near.get(best, 0.0), 6)
        )  # fmt: skip


def _words(text: str) -> list[str]:
    return rouge_tokens(text) or text.split()


def _shingles(words: Sequence[str]) -> frozenset[tuple[str, ...]]:
    return frozenset(ngrams(words, min(SHINGLE, len(words)))) if words else frozenset()


def _longest_run(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """The longest run of words that both have, the first of them."""
    best, end, before = 0, 0, [0] * (len(right) + 1)
    for row, word in enumerate(left, start=1):
        now = [0] * (len(right) + 1)
        for column, other in enumerate(right, start=1):
            if word == other:
                now[column] = before[column - 1] + 1
                if now[column] > best:
                    best, end = now[column], row
        before = now
    return list(left[end - best : end])
