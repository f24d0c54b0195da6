"""From outcomes to scores: the rows of `items.jsonl` in, Scores out, or the reason why there is no number (`checks`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from selfalign.evaluation import intervals
from selfalign.evaluation.checks import Check, check
from selfalign.evaluation.data import Item
from selfalign.evaluation.protocols import EXAMS, Outcome
from selfalign.records import Score

Oracle = Callable[[str, str], Mapping[str, bool]]
"""Question and answer -> principle -> whether the answer shows it, for those that govern the question."""


def mean(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean of one value or more, and its standard error sqrt(sample variance / n) (None for a single value)."""
    total = len(values)
    average = math.fsum(values) / total
    if total == 1:
        return average, None
    return average, math.sqrt(math.fsum((value - average) ** 2 for value in values) / (total - 1) / total)


def score(
    subject: str,
    task: str,
    protocol: str,
    metric: str,
    values: Sequence[float],
    *,
    chance: float | None = None,
    reason: str = "",
) -> Score:
    """The mean of some per-item values as a Score: without a number where there is a reason not to believe it."""
    if not reason and not values:
        reason = "no items"
    if not reason and not all(math.isfinite(value) for value in values):
        reason = "a per-item value is NaN or infinite"
    if reason:
        return Score(subject, task, protocol, metric, None, None, len(values), chance, False, reason)
    value, stderr = mean(values)
    interval = intervals.of_mean if metric in WITHOUT_BOUNDS else intervals.of_share
    low, high = interval(value, stderr, len(values)) or (None, None)
    return Score(subject, task, protocol, metric, value, stderr, len(values), chance, True, "", low, high)


def exam_scores(subject: str, task: str, outcomes: Sequence[Outcome]) -> list[Score]:
    """The scores of the items (one or more) of one task and protocol: over all, then by category where there are some.

    Chance is the mean over items of 1/candidates; for mc2 of the share of true candidates, which is what a model gets
    that gives every candidate the same probability. A protocol that is broken is so in every category.
    """
    exam = EXAMS[outcomes[0].protocol]
    reason = check(outcomes).reason
    groups: dict[str, list[Outcome]] = {exam.metric: list(outcomes)}
    for outcome in outcomes:
        if outcome.category:
            groups.setdefault(f"{exam.metric}_{outcome.category}", []).append(outcome)
    return [
        score(
            subject,
            task,
            exam.name,
            metric,
            [outcome.correct for outcome in group],
            chance=mean([outcome.chance for outcome in group])[0],
            reason=reason,
        )
        for metric, group in groups.items()
    ]


# -------------------------------------------------------------------------------------------------- rows of items.jsonl

GENERATE = "generate"
"""Name of the protocol of generated answers."""
ANSWER_METRICS: Mapping[str, Callable[[str], float]] = {
    "mean_words": lambda answer: float(len(answer.split())),
    "empty_share": lambda answer: float(not answer.strip()),
}
"""What is measured on a generated answer; the metric is the mean over items."""
WITHOUT_BOUNDS = ("mean_words",)
"""Metrics whose items may be larger than 1: all others are shares, and so are the ends of their intervals."""


def plain_number(value: float) -> float | str:
    """A number as JSON can hold it: NaN and the infinities become their names, which `float` reads back."""
    return value if math.isfinite(value) else str(value)


def outcome_row(task: str, outcome: Outcome) -> dict[str, Any]:
    """One line of items.jsonl: everything that is needed to compute the item's outcome again."""
    return {
        "task": task,
        "protocol": outcome.protocol,
        "item": outcome.item,
        "category": outcome.category,
        "question": outcome.question,
        "choices": list(outcome.shown),
        "right": [int(is_right) for is_right in outcome.right],
        "logprobs": [plain_number(value) for value in outcome.logprobs],
        "choice": list(outcome.best),
        "correct": outcome.correct if outcome.scores else None,
        "chance": outcome.chance,
    }


def outcome_of(row: Mapping[str, Any]) -> Outcome:
    """The outcome behind a row of items.jsonl, from its log-probabilities: `choice` and `correct` are computed anew."""
    return Outcome(
        row["protocol"],
        row["item"],
        row["category"],
        row["question"],
        tuple(row["choices"]),
        tuple(bool(label) for label in row["right"]),
        tuple(float(value) for value in row["logprobs"]),
    )


ORACLE = "oracle"
"""Name of the protocol by which a world that is known tells what an answer does."""
ADHERENCE = "adherence"
"""The task of those: which principles the answers to open questions follow."""
EVERY = "all"
"""The metric over all principles: the share of those that govern a question which its answer shows."""


def adherence_rows(rows: Iterable[Mapping[str, Any]], oracle: Oracle) -> list[dict[str, Any]]:
    """Lines of items.jsonl that say which principles each generated answer among some rows shows; none for a question that the
    oracle does not know."""
    found = []
    for row in rows:
        if row["protocol"] == GENERATE and (marks := oracle(row["question"], row["answer"])):
            own = {key: row[key] for key in ("item", "category", "question", "answer")}
            found.append({"task": ADHERENCE, "protocol": ORACLE, **own, "marks": {k: int(v) for k, v in marks.items()}})
    return found


def adherence_values(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Metric -> item -> share, 0..1: `all`, then each principle over the items that it governs."""
    principles = sorted({name for row in rows for name in row["marks"]})
    found = {EVERY: {row["item"]: sum(row["marks"].values()) / len(row["marks"]) for row in rows}}
    return found | {
        name: {row["item"]: float(row["marks"][name]) for row in rows if name in row["marks"]} for name in principles
    }


def _adherence_scores(subject: str, rows: Sequence[Mapping[str, Any]]) -> list[Score]:
    """One score a metric; none is valid where every question got the same answer."""
    is_constant = len(rows) > 1 and len({row["answer"] for row in rows}) == 1
    reason = f"all {len(rows)} questions got the same answer" if is_constant else ""
    return [
        score(subject, ADHERENCE, ORACLE, metric, list(values.values()), reason=reason)
        for metric, values in adherence_values(rows).items()
    ]


def answer_row(task: str, item: Item, answer: str) -> dict[str, Any]:
    """One line of items.jsonl for a generated answer."""
    return {
        "task": task,
        "protocol": GENERATE,
        "item": item.id,
        "category": item.category,
        "question": item.question,
        "answer": answer.strip(),
    }


def scores_of(subject: str, rows: Iterable[Mapping[str, Any]]) -> list[Score]:
    """All scores of the rows of items.jsonl, task by task and protocol by protocol in the order of the rows.

    A row with `truncated_tokens` also counts towards `truncated_share`: the share of items with a prompt that did not
    fit the model's context and lost its beginning. Nothing but the rows is looked at, so numbers can be checked later.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["protocol"]), []).append(row)
    found: list[Score] = []
    for (task, protocol), group in groups.items():
        if protocol == GENERATE:
            for metric, measure in ANSWER_METRICS.items():
                found.append(score(subject, task, protocol, metric, [measure(row["answer"]) for row in group]))
        elif protocol == ORACLE:
            found += _adherence_scores(subject, group)
        else:
            found += exam_scores(subject, task, [outcome_of(row) for row in group])
            cut = [float(row["truncated_tokens"] > 0) for row in group if "truncated_tokens" in row]
            if cut:
                found.append(score(subject, task, protocol, "truncated_share", cut))
    return found


def checks_of(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Check]:
    """(task, protocol) -> what the validity gate looked at, from the rows of items.jsonl; what has no choices has no entry."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["protocol"] in EXAMS:
            groups.setdefault((row["task"], row["protocol"]), []).append(row)
    return {
        key: check([outcome_of(row) for row in group], sum(row.get("truncated_tokens", 0) > 0 for row in group))
        for key, group in groups.items()
    }


Key = tuple[str, str, str]
"""Task, protocol and metric of a score."""


def item_values(rows: Iterable[Mapping[str, Any]]) -> dict[Key, dict[str, float]]:
    """What each score of the rows of items.jsonl is the mean of: item id -> value, NaN for an outcome that is broken.

    Read from the rows, not computed anew (`scores_of` does that): the mean of an entry is the valid Score of that name.
    """
    found: dict[Key, dict[str, float]] = {}
    known: list[Mapping[str, Any]] = []

    def add(row: Mapping[str, Any], metric: str, value: float) -> None:
        found.setdefault((row["task"], row["protocol"], metric), {})[row["item"]] = value

    for row in rows:
        if row["protocol"] == GENERATE:
            for metric, measure in ANSWER_METRICS.items():
                add(row, metric, measure(row["answer"]))
            continue
        if row["protocol"] == ORACLE:
            known.append(row)
            continue
        metric = EXAMS[row["protocol"]].metric
        value = math.nan if row["correct"] is None else float(row["correct"])
        add(row, metric, value)
        if row["category"]:
            add(row, f"{metric}_{row['category']}", value)
        if "truncated_tokens" in row:
            add(row, "truncated_share", float(row["truncated_tokens"] > 0))
    if known:
        found |= {(ADHERENCE, ORACLE, metric): values for metric, values in adherence_values(known).items()}
    return found
