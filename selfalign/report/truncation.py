"""Open answers cut to a budget of words, before and after verbose cloning: is what makes an answer good still in its beginning?

A cloned answer is several times as long. Where a reader (or a budget) stops early, only what was said by then counts, and an answer
that comes to the point late scores as one that never does. That needs a score of any beginning of an answer: Calf's oracle
gives one (`calf/oracle.py`), for the questions of Calf's world alone. Choices are scored by log-probabilities and have no
length; marks of a judge are of whole answers, and would have to be asked for anew at each budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfalign.calf import oracle
from selfalign.calf.world import governing
from selfalign.evaluation.scores import GENERATE
from selfalign.report.ablation import Contrast, Family, family, side_by_side
from selfalign.report.arms import Arm
from selfalign.report.model import Run

TASK = "calf_questions"
"""The open questions whose answers the oracle can read."""
BUDGETS = (4, 8, 16, 32, 64)
"""Words that are left of an answer, from about a clause to about the longest answer of a cloned Calf (a quickstart's are 16 and 61
tokens long on average); the whole answers stand behind them."""


def truncated(found_arms: Sequence[Arm]) -> dict[int | None, Family]:
    """Budget in words (None: the whole answer) -> cloned minus engraved in the share of answers that show what governs their
    question, one contrast or refusal an arm; empty where no run has such answers of both models."""
    found = {budget: _family(found_arms, budget) for budget in (*BUDGETS, None)}
    return found if any(one.contrasts for one in found.values()) else {}


def _family(found_arms: Sequence[Arm], budget: int | None) -> Family:
    words = "whole answers" if budget is None else f"first {budget} words"
    sides = [
        side_by_side(
            arm.label,
            [(governed(run, "engraved", budget), governed(run, "cloned", budget)) for run in arm.runs.values()],
            is_exam=True,
        )
        for arm in found_arms
    ]
    return family((TASK, words, "governed"), "cloned", sides)


def governed(run: Run, subject: str, budget: int | None = None) -> Mapping[str, float] | str:
    """Question -> 1 where its answer, or the first `budget` words of it, shows the mark of every principle that
    governs it, else 0; or why there is nothing to read."""
    node = run.evaluation(subject)
    rows = (
        [row for row in node.rows("items.jsonl") if (row["task"], row["protocol"]) == (TASK, GENERATE)] if node else []
    )
    found = {}
    for row in rows:
        kind = oracle.kind_of(row["question"])
        if kind is not None and governing()[kind]:
            beginning = row["answer"] if budget is None else " ".join(row["answer"].split()[:budget])
            found[str(row["item"])] = float(oracle.shown(kind, beginning) == set(governing()[kind]))
    return found or f"{run.run_id} has no answers of {subject} to Calf's open questions"


def curve(found: Mapping[int | None, Family], side: str) -> list[tuple[float, float]]:
    """(words, share governed) of one model of the first arm, the whole answers left out; `side` is a field of Contrast:
    `control` is the engraved model, `value` the cloned one."""
    points = []
    for budget, one in found.items():
        first: Contrast | None = next(iter(one.contrasts), None)
        if budget is not None and first is not None:
            points.append((float(budget), float(getattr(first, side))))
    return points
