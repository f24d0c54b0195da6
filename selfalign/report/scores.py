"""Scores of runs as lines: a line a task, protocol and metric, a column a model. What is not valid is never a number.

The verbose tax (Sun et al. 2023 find one on TruthfulQA and HHH) is the score after verbose cloning minus
the score before it. Both models answer the same items, and where those are stored its error is that of their differences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfalign.evaluation.scores import mean
from selfalign.records import Score
from selfalign.report.model import Run

SUBJECTS = ("base", "prompted", "engraved", "cloned")
"""Columns in the order of the method; others follow in the order in which they appear."""
TAX = "verbose tax"
ABSENT = "–"
CHECKS = ("truncated_share",)
"""Metrics that matter only where they are not 0."""


@dataclass(frozen=True)
class Line:
    """The scores of one metric in one run."""

    run: Run
    task: str
    protocol: str
    metric: str
    scores: dict[str, Score]
    """By subject."""

    @property
    def n(self) -> int | None:
        """Items scored, where all subjects agree."""
        counts = {score.n for score in self.scores.values()}
        return counts.pop() if len(counts) == 1 else None

    @property
    def chance(self) -> float | None:
        """What a model that knows nothing would score, where all subjects agree."""
        values = {score.chance for score in self.scores.values()}
        return values.pop() if len(values) == 1 else None

    @property
    def tax(self) -> tuple[float, float | None] | None:
        """cloned - engraved with the standard error of `change`; None unless both are valid."""
        return change((self, "cloned"), (self, "engraved"))

    @property
    def is_tax_paired(self) -> bool:
        """Whether the error of the tax is that of the items' differences."""
        return self.tax is not None and is_paired((self, "cloned"), (self, "engraved"))

    def values(self, subject: str) -> Mapping[str, float]:
        """Item id -> value behind the score of a subject; empty where not exactly the scored items are stored."""
        node, score = self.run.evaluation(subject), self.scores.get(subject)
        found = node.values.get((self.task, self.protocol, self.metric), {}) if node else {}
        return found if score is not None and len(found) == score.n else {}


def is_number(score: Score | None) -> bool:
    """Whether a score may be shown as a number."""
    return score is not None and score.valid and score.value is not None and math.isfinite(score.value)


def invalid(score: Score) -> str:
    """`invalid: <reason>` for a score that may not be shown as a number."""
    if score.reason:
        return f"invalid: {score.reason}"
    return "invalid: no value" if score.value is None else "invalid: not a finite number" if score.valid else "invalid"


def difference(left: Score | None, right: Score | None) -> tuple[float, float | None] | None:
    """left - right with its standard error as if the two were independent; None unless both are valid."""
    if left is None or right is None or not (is_number(left) and is_number(right)):
        return None
    assert left.value is not None and right.value is not None
    if left.stderr is None or right.stderr is None:
        return left.value - right.value, None
    return left.value - right.value, math.hypot(left.stderr, right.stderr)


def change(left: tuple[Line, str], right: tuple[Line, str]) -> tuple[float, float | None] | None:
    """left - right, each a line and one of its subjects, with its standard error: that of the items' differences where both
    have the same items stored, else as if the two were independent. None unless both are valid."""
    found = difference(*(line.scores.get(subject) for line, subject in (left, right)))
    paired = _item_differences(left, right) if found else []
    return (found[0], mean(paired)[1]) if found and paired else found


def is_paired(left: tuple[Line, str], right: tuple[Line, str]) -> bool:
    """Whether the error of `change` is that of the items' differences."""
    return bool(_item_differences(left, right))


def errors(paired: Sequence[bool], others: str) -> str:
    """What the errors of some differences are: over items where all are paired, as if independent where none is."""
    if paired and all(paired):
        return "their errors are over the differences of items, which both answer"
    alone = f"treat {others} as independent although they answer the same items, so that they are rather too wide"
    if not any(paired):
        return f"their errors {alone}"
    return f"their errors are over the differences of items where those are stored, and elsewhere {alone}"


def _item_differences(left: tuple[Line, str], right: tuple[Line, str]) -> list[float]:
    """left - right item by item; empty where the two have other items, or none stored."""
    ours, theirs = (line.values(subject) for line, subject in (left, right))
    return [value - theirs[item] for item, value in ours.items()] if ours.keys() == theirs.keys() else []


def number(value: float, *, signed: bool = False, digits: int | None = None) -> str:
    """Three decimals below ten, one above, or as many as asked for; a minus sign as wide as a plus."""
    digits = _digits(value) if digits is None else digits
    # What is left of a mean over seeds that is 0 is not below it.
    value = 0.0 if abs(value) < 1e-12 else value
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return text.replace("-", "−")


def _digits(value: float) -> int:
    return 3 if abs(value) < 10 else 1


def with_error(value: float, stderr: float | None, *, like: float | None = None) -> str:
    """`0.731 ± 0.014`, or the value alone where it has no standard error.

    A difference is written with a sign and with as many digits as the value that it belongs to, given as `like`.
    """
    digits = _digits(value if like is None else like)
    text = number(value, signed=like is not None, digits=digits)
    return text if stderr is None or not math.isfinite(stderr) else f"{text} ± {number(stderr, digits=digits)}"


def lines(run: Run) -> list[Line]:
    """The score lines of a run, in the order of its scores.jsonl; a check that found nothing has no line."""
    found: dict[tuple[str, str, str], dict[str, Score]] = {}
    for score in run.scores:
        found.setdefault((score.task, score.protocol, score.metric), {})[score.subject] = score
    return [
        Line(run, *key, scores)
        for key, scores in found.items()
        if key[2] not in CHECKS or any(score.value != 0 for score in scores.values())
    ]


def subjects(runs: Sequence[Run]) -> list[str]:
    """The models that any of these runs scored, in column order."""
    present = dict.fromkeys(score.subject for run in runs for score in run.scores)
    return [name for name in SUBJECTS if name in present] + [name for name in present if name not in SUBJECTS]


def interval(score: Score) -> str:
    """` [0.702, 0.757]`, the 95 % interval over items; empty where a score has none."""
    if score.low is None or score.high is None or score.value is None:
        return ""
    digits = _digits(score.value)
    return f" [{number(score.low, digits=digits)}, {number(score.high, digits=digits)}]"


def cell(line: Line, subject: str) -> str:
    """What stands in a subject's column: value, standard error and 95 % interval, `invalid: <reason>`, or a dash."""
    score = line.scores.get(subject)
    if score is None:
        return ABSENT
    if not is_number(score) or score.value is None:
        return invalid(score)
    text = with_error(score.value, score.stderr) + interval(score)
    return text if line.n is not None else f"{text} (n={score.n})"


def tax_cell(line: Line) -> str:
    """What stands in the column of the verbose tax."""
    return with_error(*line.tax, like=line.scores["engraved"].value) if line.tax else ABSENT


def grid(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the score table, all as text; with several runs, the first column names the run."""
    columns = subjects(runs)
    with_tax = "engraved" in columns and "cloned" in columns
    head = (["run"] if len(runs) > 1 else []) + ["task", "protocol", "metric", "n", "chance", *columns]
    rows = []
    for run in runs:
        for line in lines(run):
            row = [run.run_id] if len(runs) > 1 else []
            row += [line.task, line.protocol, line.metric]
            row.append(ABSENT if line.n is None else f"{line.n:,}")
            row.append(ABSENT if line.chance is None else number(line.chance))
            row += [cell(line, subject) for subject in columns]
            rows.append(row + ([tax_cell(line)] if with_tax else []))
    return head + ([TAX] if with_tax else []), rows
