"""Laws of claims: read from headers, written down with the run, judged by the paired test and by nothing else."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from selfalign import claims, resources
from selfalign.claims import header, read
from selfalign.evaluation.catalogue import catalogue
from selfalign.evaluation.protocols import EXAMS
from selfalign.evaluation.scores import ADHERENCE
from selfalign.report import load_runs
from selfalign.report.ablation import Contrast, compare
from selfalign.report.html import render
from selfalign.report.model import Run
from selfalign.report.page import tables
from selfalign.report.terminal import plain_text, print_runs
from selfalign.report.verdicts import CONTRADICTED, SUPPORTED, UNDECIDED, UNTESTED, Verdict, verdicts
from tests.unit.report.run_folders import exam_row, write_json, write_run, write_scores

HEADER = """\
# @package _global_
# Claim: engraving helps,
#   and cloning costs.
# Expected: more, then less.
# Test: engraved > base on calf_truth/mc1
# Test: cloned < engraved on calf_truth
#
# Sources: a paper
name: x
"""


def claiming(folder: Path, text: str = HEADER, *, wrong: dict[str, int], drop: list[str] | None = None) -> Path:
    """A run that was begun under a claim: each model gets the first so many of 40 items wrong."""
    write_run(folder, drop=drop)
    rows = {name: [exam_row(item, float(item >= count)) for item in range(40)] for name, count in wrong.items()}
    write_scores(folder, rows)
    path = folder / "manifest.json"
    write_json(path, json.loads(path.read_text()) | {"claims": [{"file": "experiments/x", "header": header(text)}]})
    return folder


def judged(*folders: Path) -> dict[str, Verdict]:
    runs: list[Run] = load_runs(folders)
    return {str(one.test): one for one in verdicts(runs, compare(runs))}


def test_every_shipped_header_can_be_read_and_names_tasks_and_protocols_that_there_are():
    tasks = {name for task in catalogue().values() for name in (task.name, task.calf_name)}
    files = [path for group in claims.GROUPS for path in sorted((resources.shipped_root() / group).glob("*.yaml"))]
    found = {path: read(path.stem, header(path.read_text(encoding="utf-8"))) for path in files}
    assert len(files) >= 15 and all(found.values())
    tests = [test for one in found.values() if one for test in one.tests]
    assert len(tests) >= 6
    for test in tests:
        for place in test.places:
            task, _, protocol = place.partition("/")
            assert task in (ADHERENCE, *tasks) and protocol in ("", *EXAMS)


def test_a_difference_is_supported_contradicted_or_undecided_by_its_sign_and_its_corrected_p(tmp_path: Path):
    found = judged(claiming(tmp_path / "a", wrong={"base": 20, "engraved": 0, "cloned": 1}))
    assert {name: one.verdict for name, one in found.items()} == {
        "engraved > base": SUPPORTED, "cloned < engraved": UNDECIDED,
    }  # fmt: skip
    undecided = found["cloned < engraved"]
    assert isinstance(undecided.found, Contrast) and undecided.detectable > abs(undecided.found.difference.value)
    other = judged(claiming(tmp_path / "b", wrong={"base": 0, "engraved": 20, "cloned": 0}))
    assert {one.verdict for one in other.values()} == {CONTRADICTED}


def test_sameness_is_supported_only_where_every_larger_difference_is_shut_out(tmp_path: Path):
    def verdict(name: str, cloned: int, margin: str) -> Verdict:
        text = HEADER.replace("cloned < engraved on calf_truth", f"cloned = engraved on calf_truth within {margin}")
        found = judged(claiming(tmp_path / name, text, wrong={"base": 20, "engraved": 4, "cloned": cloned}))
        return found[f"cloned = engraved within {float(margin):g}"]

    assert verdict("same", 4, "0.15").verdict == SUPPORTED
    assert verdict("few", 4, "0.04").verdict == UNDECIDED, "40 items that agree do not prove that 41 would"
    assert verdict("other", 24, "0.15").verdict == CONTRADICTED
    near = verdict("near", 8, "0.12")
    assert near.verdict == UNDECIDED and "two one-sided" in render(load_runs([tmp_path / "near"]))
    both = [verdict("one", 4, "0.15"), verdict("two", 5, "0.15")]
    assert both[0].p < both[1].p, "a difference within the margin makes sameness less sure"


def test_all_tests_of_a_report_are_corrected_together(tmp_path: Path):
    # Six items lost: p is 0.03 alone, and 0.06 beside a second test that is as weak.
    found = judged(claiming(tmp_path / "a", wrong={"base": 6, "engraved": 0, "cloned": 6}))
    for one in found.values():
        assert isinstance(one.found, Contrast)
        assert one.found.test.p < 0.05 < one.adjusted and one.verdict == UNDECIDED


def test_a_score_that_is_not_there_is_not_tested_and_says_why(tmp_path: Path):
    found = judged(claiming(tmp_path / "a", wrong={"base": 3, "engraved": 0}))
    assert found["cloned < engraved"].verdict == UNTESTED and "no such score of cloned" in str(
        found["cloned < engraved"].found
    )


def test_arms_are_held_against_the_control_in_the_direction_that_was_claimed(tmp_path: Path):
    text = HEADER.replace("engraved > base on calf_truth/mc1", "control > arm on calf_truth")
    folders = [claiming(tmp_path / name, text, wrong={"engraved": wrong, "cloned": 0}, drop=drop)
               for name, wrong, drop in (("all", 2, []), ("candor", 20, ["candor"]))]  # fmt: skip
    found = judged(*folders)["control > arm"]
    assert (found.verdict, found.arm) == (SUPPORTED, "without candor")
    assert isinstance(found.found, Contrast) and found.found.difference.value > 0


def test_the_page_states_claim_expectation_and_verdict_and_a_run_without_claims_has_no_such_section(tmp_path: Path):
    page = render(load_runs([claiming(tmp_path / "a", wrong={"base": 20, "engraved": 0, "cloned": 1})]))
    for part in ("engraving helps, and cloning costs.", "more, then less.", ">supported<", ">undecided<"):
        assert part in page
    assert 'id="claims"' not in render(load_runs([write_run(tmp_path / "bare")]))


def test_a_claim_about_a_set_that_no_run_was_scored_on_is_said_to_be_untested(tmp_path: Path):
    text = HEADER.replace("cloned < engraved on calf_truth", "cloned < engraved on hhh_alignment/ab_swap")
    folder = claiming(tmp_path / "a", text, wrong={"base": 20, "engraved": 0, "cloned": 1})
    one = judged(folder)["cloned < engraved"]
    assert one.verdict == UNTESTED and one.place == "hhh_alignment/ab_swap"
    assert "no run of this report was scored on it" in render(load_runs([folder]))


def test_a_claim_about_arms_of_a_run_alone_is_said_to_be_untested(tmp_path: Path):
    text = HEADER.replace("engraved > base on calf_truth/mc1", "control > arm on calf_truth")
    one = judged(claiming(tmp_path / "a", text, wrong={"engraved": 0, "cloned": 1}))["control > arm"]
    assert one.verdict == UNTESTED and "no other arm" in str(one.found)


def terminal(folders: list[Path]) -> list[list[str]]:
    """The rows of the claims as they are printed where there is no terminal, without the headings."""
    text = plain_text(load_runs(folders))
    lines = text.partition("\n\nClaims\n")[2].partition("\n\n")[0].splitlines()
    assert lines[0].startswith("Each claimed difference")
    return [[cell for cell in line.split("  ") if cell] for line in lines[2:]]


def of_the_page(folders: list[Path]) -> list[list[str]]:
    (table,) = [one for one in tables(render(load_runs(folders))) if one.title == "Claims"]
    return [[row[number].text for number in (0, 1, 2, 3, 4, 5, 6, 10)] for row in table.rows]


def sweep_of_arms(folder: Path, wrong: list[int]) -> list[Path]:
    """A control with 4 of 40 items wrong, and an arm for each number of wrong ones."""
    text = HEADER.replace("engraved > base on calf_truth/mc1", "control > arm on calf_truth")
    counts = [4, *wrong]
    return [claiming(folder / f"run-{at:02}", text, wrong={"engraved": count, "cloned": 4}, drop=[f"rule_{at:02}"] * (at > 0))
            for at, count in enumerate(counts)]  # fmt: skip


def test_the_terminal_says_of_each_test_what_the_page_says(tmp_path: Path):
    folders = [claiming(tmp_path / "a", wrong={"base": 20, "engraved": 0, "cloned": 1})]
    told = terminal(folders)
    assert told == of_the_page(folders) and [row[1] for row in told] == [SUPPORTED, UNDECIDED]
    assert told[0][0] == "engraved > base" and told[0][4] == "+0.500" and " to " in told[0][5]


def test_arms_of_which_the_same_is_to_be_said_are_one_line(tmp_path: Path):
    folders = sweep_of_arms(tmp_path, [4 + number % 3 for number in range(20)])
    (together,) = [row for row in terminal(folders) if row[0] == "control > arm"]
    assert together[1:5] == [UNDECIDED, "calf_truth · mc1 · accuracy, engraved", "all 20 arms", "+0.000 to +0.050"]
    assert len([row for row in of_the_page(folders) if row[0] == "control > arm"]) == 20


def test_arms_that_differ_have_a_line_each(tmp_path: Path):
    folders = sweep_of_arms(tmp_path, [30, 4, 5])
    told = [row for row in terminal(folders) if row[0] == "control > arm"]
    assert told == [row for row in of_the_page(folders) if row[0] == "control > arm"]
    assert {row[1] for row in told} == {SUPPORTED, UNDECIDED} and len({row[3] for row in told}) == 3


def test_what_was_not_tested_is_said_on_the_terminal_with_its_reason_and_no_claim_is_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "240")
    one = claiming(tmp_path / "a", wrong={"base": 3, "engraved": 0})
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    print_runs(load_runs([one]), stream)
    shown = " ".join(stream.getvalue().split())
    assert "Claims" in shown and f"{UNTESTED}: " in shown
    assert "Claims" not in plain_text(load_runs([write_run(tmp_path / "bare")]))
