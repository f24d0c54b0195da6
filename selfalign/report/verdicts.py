"""The claims that runs were begun under, and what the paired tests say of each: supported, contradicted, or undecided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from selfalign import statistics as stats
from selfalign.claims import EQUAL, LESS, Claim, Expectation, claims
from selfalign.evaluation.protocols import EXAMS
from selfalign.evaluation.scores import EVERY, ORACLE, Key
from selfalign.report.ablation import ALPHA, POWER, REACH, Comparison, Contrast, Refusal, side_by_side, values
from selfalign.report.ablation_view import Cell, Table, interval_text, p_text
from selfalign.report.arms import Arm, arms
from selfalign.report.model import Run, sweep_of
from selfalign.report.scores import ABSENT, number
from selfalign.report.sheet import Sheet

SUPPORTED, CONTRADICTED, UNDECIDED, UNTESTED = "supported", "contradicted", "undecided", "not tested"
EQUAL_TOLD = (
    " Sameness to within a margin: supported where two one-sided t tests over items, corrected with the others, shut out every "
    "larger difference; contradicted where the interval lies beyond the margin."
)
TOLD = ("claimed", "verdict", "where", "arm", "difference", "95 % interval", "p, Holm", "file")
"""Headings on the terminal; the page has more."""


@dataclass(frozen=True)
class Verdict:
    """What one test says of one claim in one place."""

    file: str
    test: Expectation
    arm: str
    place: str
    found: Contrast | Refusal
    """Left minus right."""
    adjusted: float = 1.0
    """p after Holm over all tests of all claims of the report."""
    detectable: float = 0.0
    """Smallest difference that would have been found with probability POWER at a level of ALPHA / tests."""

    @property
    def verdict(self) -> str:
        """One word for it."""
        if isinstance(self.found, Refusal):
            return UNTESTED
        if self.test.relation == EQUAL:
            beyond = max(self.found.difference.low, -self.found.difference.high) > self.test.margin
            return SUPPORTED if self.adjusted < ALPHA else CONTRADICTED if beyond else UNDECIDED
        if self.adjusted >= ALPHA:
            return UNDECIDED
        return SUPPORTED if (self.found.difference.value < 0) == (self.test.relation == LESS) else CONTRADICTED

    @property
    def p(self) -> float:
        """Of the test of the claim: for a difference the paired one, for sameness two one-sided ones; 1 where there was none."""
        if isinstance(self.found, Refusal):
            return 1.0
        if self.test.relation != EQUAL:
            return self.found.test.p
        if self.found.items < 2:
            return 1.0
        return stats.equivalence(self.found.by_item, self.test.margin, reach=REACH).p

    @property
    def said(self) -> str:
        """The verdict, and why nothing was tested where nothing was."""
        return f"{UNTESTED}: {self.found.reason}" if isinstance(self.found, Refusal) else self.verdict


def told(runs: Sequence[Run]) -> list[Claim]:
    """The claims that some runs, and the sweep that they are of, were begun under."""
    sweep = sweep_of(runs)
    stored = [one for content in (*(run.manifest for run in runs), sweep) for one in content.get("claims") or ()]
    return claims(stored)


def verdicts(runs: Sequence[Run], comparison: Comparison | None, control: str = "") -> list[Verdict]:
    """Every test of every claim of some runs. Models are compared within the control's own runs; arms are those of `comparison`."""
    found_arms, _ = arms(runs, control)
    if not found_arms:
        return []
    found = [
        one
        for claim in told(runs)
        for test in claim.tests
        for place in test.places
        for one in _test(claim.file, test, place, found_arms[0], comparison)
    ]
    return _adjusted(found)


def _test(file: str, test: Expectation, place: str, control: Arm, comparison: Comparison | None) -> list[Verdict]:
    task, _, protocol = place.partition("/")
    scored = {(score.task, score.protocol, score.metric) for run in control.runs.values() for score in run.scores}
    keys = [key for key in sorted(scored) if key[0] == task and protocol in ("", key[1]) and _is_overall(key)]
    if not keys:
        return [Verdict(file, test, ABSENT, place, Refusal(control.label, "no run of this report was scored on it"))]
    found = []
    for key in keys:
        name = " · ".join(key)
        if test.right in ("arm", "control"):
            of_arms = [Verdict(file, test, one.arm, f"{name}, {subject}", _turned(one, test.left == "control"))
                       for subject, contrasts in _of_arms(comparison, key) for one in contrasts]  # fmt: skip
            alone = Refusal(control.label, "no other arm can be compared with the control")
            found += of_arms or [Verdict(file, test, ABSENT, name, alone)]
        else:
            sides = [(values(run, key, test.right), values(run, key, test.left)) for run in control.runs.values()]
            found.append(Verdict(file, test, control.label, name, side_by_side(control.label, sides, is_exam=True)))
    return found


def _is_overall(key: Key) -> bool:
    return key[2] == (EVERY if key[1] == ORACLE else EXAMS[key[1]].metric if key[1] in EXAMS else "")


def _of_arms(comparison: Comparison | None, key: Key) -> list[tuple[str, tuple[Contrast, ...]]]:
    """The contrasts of the model that a metric is read on first."""
    leading = comparison.leading if comparison else ()
    return [(one.subject, one.contrasts) for one in leading if one.key == key]


def _turned(one: Contrast, is_turned: bool) -> Contrast:
    if not is_turned:
        return one
    difference = one.difference
    return replace(
        one,
        control=one.value,
        value=one.control,
        # From 0, for -0.0 would be shown with its sign.
        difference=stats.Estimate(0.0 - difference.value, 0.0 - difference.high, 0.0 - difference.low),
    )


def _adjusted(found: Sequence[Verdict]) -> list[Verdict]:
    tested = [one for one in found if isinstance(one.found, Contrast)]
    adjusted = iter(stats.holm([one.p for one in tested]))
    level = ALPHA / max(1, len(tested))
    return [
        one
        if isinstance(one.found, Refusal)
        else replace(
            one,
            adjusted=float(next(adjusted)),
            # Of sameness it is the margin that says what would have been seen.
            detectable=0.0
            if one.test.relation == EQUAL
            else stats.minimum_detectable_effect(one.found.discordance, one.found.items, alpha=level, power=POWER),
        )
        for one in found
    ]


# --------------------------------------------------------------------------------------------------------------- view


def view(runs: Sequence[Run], found: Sequence[Verdict]) -> dict[str, Any] | None:
    """What the page shows of the claims; None where there are none."""
    every = told(runs)
    if not every:
        return None
    about = (
        f"{_about(found)} Undecided is no evidence of sameness: the smallest difference that would have been found with "
        f"probability {100 * POWER:g} % stands beside it, with as many items differing as did."
    )
    head = (
        "claimed",
        "verdict",
        "where",
        "arm",
        "difference",
        "95 % interval",
        "p, Holm",
        "detectable",
        "n",
        "seeds",
        "file",
    )
    rows = tuple((str(one.test), _cells(one)) for one in found)
    return {"claims": every, "about": about, "table": Table("Claims", "", head, rows, Markup(""), True)}


def _about(found: Sequence[Verdict]) -> str:
    tests = sum(isinstance(one.found, Contrast) for one in found)
    return (
        f"Each claimed difference beside the paired one, {tests} {'test' if tests == 1 else 'tests'} in all, corrected together by "
        f"Holm. Supported or contradicted: the corrected p is below {ALPHA:g} and the sign is the claimed one, or the other."
    ) + (EQUAL_TOLD if any(one.test.relation == EQUAL for one in found) else "")


def _cells(one: Verdict) -> tuple[Cell, ...]:
    if isinstance(one.found, Refusal):
        return (Cell(one.said), Cell(one.place), Cell(one.arm), *[Cell(ABSENT)] * 6, Cell(one.file))
    difference, like = one.found.difference, one.found.control
    return (
        Cell(one.verdict),
        Cell(one.place),
        Cell(one.arm),
        Cell(number(difference.value, signed=True), difference.value),
        Cell(interval_text(difference, like), difference.low),
        Cell(p_text(one.adjusted), one.adjusted),
        Cell(number(one.detectable), one.detectable) if one.detectable else Cell(ABSENT),
        Cell(f"{one.found.items:,}", one.found.items),
        Cell(str(one.found.seeds), one.found.seeds),
        Cell(one.file),
    )


def sheets(found: Sequence[Verdict]) -> list[Sheet]:
    """What the terminal says of the claims: a line for each test and arm, or one for all arms of a test of which the same is to be
    said. No sheet where there is no test."""
    groups: dict[tuple[str, str, str], list[Verdict]] = {}
    for one in found:
        groups.setdefault((one.file, str(one.test), one.place), []).append(one)
    rows = [row for group in groups.values() for row in _lines(group)]
    about = f"{_about(found)} Undecided is no evidence of sameness: the page shows what would have been found, and each arm."
    return [Sheet("Claims", about, TOLD, tuple(rows))] if rows else []


def _lines(arms: Sequence[Verdict]) -> list[tuple[str, ...]]:
    """The lines of one test in one place."""
    if len(arms) == 1 or len({one.said for one in arms}) > 1:
        texts = [[str(one.test), *(cell.text for cell in _cells(one))] for one in arms]
        return [(*row[: len(TOLD) - 1], row[-1]) for row in texts]
    first = arms[0]
    found = [one.found for one in arms if isinstance(one.found, Contrast)]
    differences = _range(one.difference.value for one in found)
    ps = _range(one.adjusted for one in arms) if found else []
    return [
        (
            *(str(first.test), first.said, first.place, f"all {len(arms)} arms"),
            " to ".join(number(value, signed=True) for value in differences) or ABSENT,
            ABSENT,
            " to ".join(map(p_text, ps)) or ABSENT,
            first.file,
        )
    ]


def _range(values: Iterable[float]) -> list[float]:
    """The lowest and the highest of some values; one where they are the same, none where there is none."""
    found = sorted({*values})
    return [found[0], found[-1]] if len(found) > 1 else found
