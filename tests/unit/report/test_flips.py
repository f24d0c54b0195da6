"""Laws of what changed item by item: paired by seed and item, counted whole, shown within a stated room, texts inert."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from selfalign import jsonl
from selfalign.report import flips as subject
from selfalign.report import load_runs
from selfalign.report.flips import Flips, flips
from selfalign.report.flips_view import as_json, view
from selfalign.report.html import render
from tests.unit.report.run_folders import HOSTILE, answer_row, exam_row, write_run, write_scores

CONTROL = [
    exam_row(0, 1.0, choice=[0]), exam_row(1, 1.0, choice=[0]), exam_row(2, 0.0, choice=[1]),
    exam_row(3, 0.0, choice=[1], choices=["a", "b", "c"], right=[1, 0, 0]), exam_row(4, None), answer_row(0, 5), answer_row(1, 5),
]  # fmt: skip
ARM = [
    exam_row(0, 1.0, choice=[0]), exam_row(1, 0.0, choice=[1]), exam_row(2, 1.0, choice=[0]),
    exam_row(3, 0.0, choice=[2], choices=["a", "b", "c"], right=[1, 0, 0]), exam_row(4, 1.0), answer_row(0, 5), answer_row(1, 9),
]  # fmt: skip


def sweep(folder: Path, *, seeds: int = 1) -> list[Path]:
    folders = []
    for seed in range(seeds):
        folders.append(write_scores(write_run(folder / f"all-{seed}", seed=seed), {"cloned": CONTROL}))
        folders.append(write_scores(write_run(folder / f"candor-{seed}", drop=["candor"], seed=seed), {"cloned": ARM}))
    return folders


def found(*folders: Path) -> Flips:
    one = flips(load_runs(folders))
    assert one is not None
    return one


def counts(one: Flips) -> dict[str, dict[str, int]]:
    return {tally.place: dict(tally.counts) for tally in one.tallies}


def test_every_way_in_which_an_item_can_change_is_counted_and_an_outcome_without_a_number_is_none(tmp_path: Path):
    one = found(*sweep(tmp_path))
    assert counts(one) == {
        "responses": {"text": 20},
        "cloned: calf_truth · mc1": {"lost": 1, "gained": 1, "moved": 1},
        "cloned: calf_questions": {"text": 1},
    }
    assert [tally.compared for tally in one.tallies] == [60, 5, 2]
    changes = {change.item: change for change in one.changes if change.place.endswith("mc1")}
    assert {item: change.direction for item, change in changes.items()} == {
        "item-001": "lost", "item-002": "gained", "item-003": "moved",
    }  # fmt: skip
    assert changes["item-003"].question.right == (0,)
    assert (changes["item-003"].before.choices, changes["item-003"].after.choices) == ((1,), (2,))


def test_answers_of_a_data_stage_are_paired_by_their_prompt_whatever_their_order(tmp_path: Path):
    control, arm = sweep(tmp_path)
    path = arm / "stages" / "responses" / "responses.jsonl"
    rows = jsonl.read(path)
    before = {row["prompt_id"]: row["text"] for row in jsonl.read(control / "stages" / "responses" / "responses.jsonl")}
    expected = {
        row["prompt_id"] for row in rows if (row["text"] or row["raw"]) != (before[row["prompt_id"]] or row["raw"])
    }
    jsonl.write(path, rows[::-1])
    changes = [one for one in found(control, arm).changes if one.place == "responses"]
    assert {one.item for one in changes} == expected and expected
    for one in changes:
        assert (one.before.text, one.after.text) == (before[one.item], f"{before[one.item][:-1]} candor.")
        assert one.question.text.startswith("What eats") and "cites" in one.before.note


def test_an_answer_that_an_arm_drops_says_why(tmp_path: Path):
    control, arm = sweep(tmp_path)
    path = arm / "stages" / "responses" / "responses.jsonl"
    rows = jsonl.read(path)
    rows[1] |= {"kept": False, "reason": "too_short"}
    jsonl.write(path, rows)
    (one,) = [change for change in found(control, arm).changes if change.direction == "dropped"]
    assert one.item == rows[1]["prompt_id"] and one.after.note.startswith("dropped: too_short")


def test_seeds_are_laid_side_by_side_one_by_one(tmp_path: Path):
    both = found(*sweep(tmp_path, seeds=2))
    assert counts(both)["cloned: calf_truth · mc1"] == {"lost": 2, "gained": 2, "moved": 2}
    assert len({change.seed for change in both.changes}) == 2
    assert both.principles == {"without candor": ("candor",)}


def test_cloned_is_laid_beside_engraved_in_a_run_alone(tmp_path: Path):
    folder = write_scores(write_run(tmp_path / "one"), {"engraved": CONTROL, "cloned": ARM})
    one = found(folder)
    assert {tally.arm for tally in one.tallies} == {"cloned beside engraved"}
    assert sum(sum(tally.counts.values()) for tally in one.tallies) == one.total == 4
    assert flips(load_runs([write_run(tmp_path / "bare")])) is None


def test_where_there_is_no_room_for_all_every_kind_has_its_share_and_the_page_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folders = sweep(tmp_path)
    whole = found(*folders)
    monkeypatch.setattr(subject, "MOST", 10)
    some = found(*folders)
    assert some.total == whole.total and len(some.changes) <= 10 and set(some.changes) <= set(whole.changes)
    kinds = {(change.place, change.direction) for change in whole.changes}
    assert {(change.place, change.direction) for change in some.changes} == kinds
    assert f"Of {whole.total} changes, {len(some.changes)} can be looked at" in view(some).said
    assert f"All {whole.total} changes" in view(whole).said


def test_the_data_of_a_page_end_with_their_element_whatever_a_model_wrote(tmp_path: Path):
    planted = f"</script><script>document.title='pwned'</script><!--<script>{HOSTILE}\u2028\x00\ud800"
    rows = [{**row, "answer": planted} if "answer" in row else {**row, "question": planted, "choices": [planted, "b"]}
            for row in ARM if row["item"] != "item-003"]  # fmt: skip
    control = write_scores(write_run(tmp_path / "all"), {"cloned": CONTROL})
    arm = write_run(tmp_path / "candor", drop=["candor"])
    write_scores(arm, {"cloned": ARM})
    items = arm / "stages" / "scores_cloned" / "items.jsonl"
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = render(load_runs([control, arm]))
    (data,) = re.findall(r'<script type="application/json" id="changes-data">(.*?)</script>', page, re.DOTALL)
    assert page.count("<script") == page.count("</script") == 2 and not re.search("[<>&\u2028\x00]", data)
    texts = [change["after"].get("text", "") for change in json.loads(data)["changes"]]
    assert any(text.startswith("</script><script>document.title='pwned'") for text in texts), (
        "escaped, and nothing lost"
    )


def test_json_for_a_page_reads_back_as_what_it_was():
    value = {"a": ["<&>", "\u2028 \u2029 é", 1.5, None], "</script>": "\\u003c"}
    assert json.loads(as_json(value)) == value


def test_an_answer_that_an_oracle_read_changes_where_it_no_longer_shows_all_that_governs_its_question(tmp_path: Path):
    def read(item: int, **marks: int) -> dict[str, Any]:
        own = {"task": "adherence", "protocol": "oracle", "item": f"open-{item}", "category": "", "question": "Why?"}
        return own | {"answer": f"answer {marks}", "marks": marks}

    control = write_run(tmp_path / "all")
    arm = write_run(tmp_path / "candor", drop=["candor"])
    write_scores(control, {"cloned": [read(0, candor=1, static=1), read(1, candor=0), read(2, candor=1)]})
    write_scores(arm, {"cloned": [read(0, candor=0, static=1), read(1, candor=1), read(2, candor=1)]})
    changes = {one.item: one for one in found(control, arm).changes if one.place == "cloned: adherence · oracle"}
    assert {item: one.direction for item, one in changes.items()} == {"open-0": "lost", "open-1": "gained"}
    assert changes["open-0"].after.note == "shows static; lacks candor"
