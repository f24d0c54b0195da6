"""Laws of claims: read from headers, written down with the run, judged by the paired test and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from selfalign import claims, resources
from selfalign.claims import header, read
from selfalign.evaluation.catalogue import catalogue
from selfalign.evaluation.protocols import EXAMS
from selfalign.evaluation.scores import ADHERENCE
from selfalign.report import load_runs
from selfalign.report.ablation import Contrast, compare
from selfalign.report.html import render
from selfalign.report.model import Run
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
    folders = [claiming(tmp_path / name, text, wrong={"engraved": 0, "cloned": wrong}, drop=drop)
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
