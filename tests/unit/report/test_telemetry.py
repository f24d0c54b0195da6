"""Laws of a run's data in report and tracker: complete, the same bytes in any order, readable with many runs."""

from __future__ import annotations

import json
import random
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfalign import jsonl, runner
from selfalign.report import Run, drawings, load_run, load_runs, telemetry, track
from selfalign.report.data_figures import Group, Line, Measure, Segment, grouped_bars, histogram, matrix, split_bars
from selfalign.report.diversity import word_histogram
from selfalign.report.html import DETAILED_RUNS, figure_page, render
from tests.unit.report.run_folders import HOSTILE, counts, write_run

Edit = Callable[[str, Callable[[Any], Any]], Run]
TOPICS = [
    {"topic": topic, "question_type": f"Questions about {kind}", "kept": not reason, "reason": reason}
    for kind in ("law", "art")
    for topic, reason in (("Cats", ""), ("Dogs", ""), ("cats", "duplicate"))
]


def add_red_team(folder: Path) -> Path:
    """Give a run a red-teaming node with topics and questions."""
    stage = folder / "stages" / "red_team"
    stage.mkdir()
    asked = [
        {"id": f"{index:02d}", "instruction": f"Is number {index} a law?", "input": "", "source": "red_team", "topic": "Cats",
         "question_type": "Questions about law", "kept": index > 1, "reason": "" if index > 1 else "too_similar"}
        for index in range(6)
    ]  # fmt: skip
    jsonl.write(stage / "prompts.jsonl", asked)
    jsonl.write(stage / "topics.jsonl", TOPICS)
    content = json.loads((folder / "manifest.json").read_text())
    node = {
        "stage": "RedTeam",
        "status": "computed",
        "path": "",
        "artifact": "RedTeam-1-dddddddddddd",
        "counts": counts(asked),
    }
    content["nodes"] = {"red_team": node, **content["nodes"]}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def red_team(run_folder: Path) -> Path:
    return add_red_team(run_folder)


def found(folder: Path) -> telemetry.Telemetry:
    (one,) = telemetry.collect([load_run(folder)])
    return one


def text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def change_rows(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Apply a change to every file of rows of a run."""
    for path in folder.glob("stages/*/*.jsonl"):
        if path.name != "metrics.jsonl":
            jsonl.write(path, change(jsonl.read(path)))


def recount(folder: Path, edit: Edit) -> None:
    """Make the manifest count what the files hold."""

    def change(content: dict[str, Any]) -> dict[str, Any]:
        for name, file in (("prompts", "prompts.jsonl"), ("responses", "responses.jsonl")):
            content["nodes"][name]["counts"] = counts(jsonl.read(folder / "stages" / name / file))
        return content

    edit("manifest.json", change)


# ------------------------------------------------------------------------------------------------------------ funnel


def test_every_generating_node_has_a_funnel_that_adds_up_and_topics_have_one_of_their_own(red_team: Path):
    funnels = {node.name: node for node in found(red_team).funnels}
    assert list(funnels) == ["red_team", "red_team: topics", "prompts", "responses", "engraved"]
    assert all(node.rows_in == node.kept + sum(node.dropped.values()) for node in funnels.values())
    assert (funnels["red_team: topics"].kept, dict(funnels["red_team: topics"].dropped)) == (4, {"duplicate": 2})
    assert "duplicate 2" in text(render([load_run(red_team)]))


def test_a_node_without_counts_is_named_below_the_funnel(edit: Edit, run_folder: Path):
    left_out = {"stage": "", "status": "skipped", "why": "its prompt is too long\nby far", "counts": {}}
    edit("manifest.json", lambda content: content["nodes"].update(red_team=left_out, scores_base=left_out) or content)
    assert "Without rows: red_team (skipped: its prompt is too long)." in text(render([load_run(run_folder)]))


def test_rows_that_are_not_what_the_manifest_counts_are_a_visible_warning(run_folder: Path):
    assert found(run_folder).notes == ()
    path = run_folder / "stages" / "responses" / "responses.jsonl"
    jsonl.write(path, jsonl.read(path)[1:])
    (note,) = found(run_folder).notes
    assert "responses: the manifest counts 40 kept" in note and "its rows are 39 kept" in note
    assert "39 kept" in text(render([load_run(run_folder)]))


# ---------------------------------------------------------------------------------------------------------- the page


def test_the_page_has_every_section_and_figure(red_team: Path):
    path = red_team / "stages" / "prompts" / "prompts.jsonl"
    rows = [{**row, "input": "some words"} for row in jsonl.read(path)]
    jsonl.write(path, [{**row, "instruction": f"Write a poem {row['id']}."} for row in rows[:30]] + rows[30:])
    shown = text(render([load_run(red_team)]))
    for part in (
        "Principle use", "Thoughts and answers", "Principles cited together", "Requests: verbs and their objects",
        "Questions: question words and the next word", "Words of an instruction", "Words of an input",
        "ROUGE-L to the nearest other instruction", "Words of an answer: responses",
        "Red-teaming: topics and questions by question type", "Topics of each type",
    ):  # fmt: skip
        assert part in shown, part


def test_a_figure_that_would_have_no_bar_is_left_out(run_folder: Path):
    assert "prompts/questions" in drawings.drawings(found(run_folder))
    assert not {"prompts/requests", "prompts/input_words", "red_team/topics"} & set(
        drawings.drawings(found(run_folder))
    )


def test_rows_in_another_order_give_the_same_bytes(red_team: Path):
    page = render([load_run(red_team)])
    tables = drawings.tables(found(red_team))
    change_rows(red_team, lambda rows: random.Random(7).sample(rows, len(rows)))
    assert render([load_run(red_team)]) == page
    assert drawings.tables(found(red_team)) == tables


def test_a_run_without_thoughts_and_without_red_teaming_has_a_report(edit: Edit, run_folder: Path):
    change_rows(run_folder, lambda rows: [{**row, "thoughts": "", "cited": []} for row in rows])
    shown = text(render([load_run(run_folder)]))
    assert "No node of this run has answers with thoughts" in shown and "Words of an answer: responses" in shown
    assert "Red-teaming" not in shown


def test_a_run_that_kept_no_row_has_a_report(edit: Edit, run_folder: Path):
    change_rows(run_folder, lambda rows: [{**row, "kept": False, "reason": "empty"} for row in rows])
    recount(run_folder, edit)
    shown = text(render([load_run(run_folder)]))
    assert "No answer was kept" in shown and "No prompt was kept" in shown and "nan" not in shown.lower()


def test_a_run_with_empty_files_has_a_report(edit: Edit, run_folder: Path):
    change_rows(run_folder, lambda rows: [])
    recount(run_folder, edit)
    shown = text(render([load_run(run_folder)]))
    assert "has answers with thoughts" in shown and "No prompt was kept" in shown


def test_hostile_names_in_topics_principles_and_prompts_are_inert(red_team: Path):
    planted = {"topic": HOSTILE, "question_type": f"Q {HOSTILE}\x07", "instruction": f"Write {HOSTILE}", "cited": [HOSTILE],
               "source": HOSTILE}  # fmt: skip
    change_rows(red_team, lambda rows: [{**row, **{k: v for k, v in planted.items() if k in row}} for row in rows])
    page = render([load_run(red_team)])
    assert page.count("<script") == 1 and "<img" not in page and "\x07" not in page
    for drawing in drawings.drawings(found(red_team)).values():
        assert "<script" not in figure_page(drawing)
        ET.fromstring(str(drawing.svg))


def test_a_page_begins_with_its_doctype(run_folder: Path):
    assert render([load_run(run_folder)]).startswith("<!doctype html>")
    assert all(figure_page(one).startswith("<!doctype html>") for one in drawings.drawings(found(run_folder)).values())


# ------------------------------------------------------------------------------------------------------ several runs


def test_arms_are_compared_with_the_left_out_principle_marked_in_its_column(run_folder: Path, tmp_path: Path):
    arm = write_run(tmp_path / "demo-arm", drop=["candor"])
    page = render(load_runs([run_folder, arm]))
    table = page[page.index("Principle use: responses") :]
    line = re.findall(r"<tr><td>candor</td>.*?</tr>", table, re.DOTALL)[0]
    cells = re.findall(r"<td.*?</td>", line, re.DOTALL)[1:]
    assert "%" in cells[0] and "left out, cited" in cells[1]
    assert "without candor" in text(table)


def test_a_card_that_runs_share_is_drawn_once_and_referred_to(run_folder: Path, tmp_path: Path):
    page = render(load_runs([run_folder, write_run(tmp_path / "demo-arm", drop=["candor"])]))
    assert page.count("ROUGE-L to the nearest other instruction</h4>") == 1
    assert "These are the prompts of demo-12345678" in text(page)


def test_of_many_runs_only_the_first_are_drawn_at_length_and_the_rest_say_so(tmp_path: Path):
    folders = [write_run(tmp_path / f"arm-{index:02d}", seed=index) for index in range(DETAILED_RUNS + 2)]
    page = render(load_runs(folders))
    assert page.count("Principles cited together</summary>") == DETAILED_RUNS
    assert page.count(f"Figures are drawn for the first {DETAILED_RUNS} runs") >= 2
    assert page.count("Citations in numbers") == len(folders)


# ----------------------------------------------------------------------------------------------------------- tracker


class Noted:
    """A tracker that remembers tables and figures."""

    def __init__(self) -> None:
        self.tables: dict[str, tuple[list[str], list[Any]]] = {}
        self.figures: dict[str, str] = {}
        self.ended_after: int | None = None

    def summary(self, values: Any) -> None:
        pass

    def finish(self, exit_code: int) -> None:
        self.ended_after = len(self.tables)

    def table(self, name: str, columns: Any, rows: Any) -> None:
        self.tables[name] = (list(columns), list(rows))

    def figure(self, name: str, page: str) -> None:
        self.figures[name] = page


def test_everything_that_the_report_draws_is_tracked_as_table_and_figure(red_team: Path):
    noted = Noted()
    track(red_team, noted)  # type: ignore[arg-type]
    for name in ("funnel", "principle_use/responses", "co_citations/responses", "thought_checks/responses",
                 "prompts/sources", "prompts/openings", "prompts/nearest", "lengths", "red_team/topics"):  # fmt: skip
        columns, rows = noted.tables[f"data/{name}"]
        assert rows and all(len(row) == len(columns) for row in rows), name
    drawn = drawings.drawings(found(red_team))
    assert set(noted.figures) == {f"figures/{name}" for name in drawn} and len(drawn) >= 6
    assert not set(noted.tables) & set(noted.figures)
    for page in noted.figures.values():
        assert "<svg" in page and not re.search(r"https?://|<script|<link|<img", page)


def test_the_tracked_funnel_holds_every_row_once(red_team: Path):
    noted = Noted()
    track(red_team, noted)  # type: ignore[arg-type]
    _, rows = noted.tables["data/funnel"]
    for name in {row[0] for row in rows}:
        assert len({row[1] for row in rows if row[0] == name}) == 1
        assert sum(row[3] for row in rows if row[0] == name) == next(row[1] for row in rows if row[0] == name)


def test_a_finished_run_logs_its_data_before_tracking_ends(red_team: Path):
    noted, manifest = Noted(), json.loads((red_team / "manifest.json").read_text())
    runner._finish(red_team, manifest, noted, 0)  # type: ignore[arg-type]
    assert noted.figures and noted.ended_after == len(noted.tables) > 5
    assert (red_team / "report.html").is_file()


def test_a_run_without_artifacts_is_tracked_without_an_error(run_folder: Path):
    shutil.rmtree(run_folder / "stages")
    noted = Noted()
    track(run_folder, noted)  # type: ignore[arg-type]
    assert list(noted.tables) == ["data/funnel", "protocols"] and not noted.figures


# ----------------------------------------------------------------------------------------------------------- figures


def test_bars_are_as_long_as_their_shares():
    groups = [
        Group("a", (Measure("x", 0.2, ""), Measure("y", 0.4, ""))),
        Group("b", (Measure("x", 0.1, ""),) * 2, "left out"),
    ]
    figure = grouped_bars(groups, x_label="share", title="t")
    widths = [float(width) for width in re.findall(r'<rect class="fill [xy]"[^>]* width="([\d.]+)"', figure)]
    assert [round(width / widths[0], 1) for width in widths] == [1.0, 2.0, 0.5, 0.5]
    assert "b: left out" in figure and "noted" in figure


def test_a_matrix_needs_a_row_and_a_column_for_each_name():
    with pytest.raises(ValueError, match="one row and one column a name"):
        matrix(["a", "b"], [[1, 0]], [False, False], title="t")
    figure = matrix(["a", "b"], [[3, 1], [1, 2]], [False, True], title="t")
    assert figure.count('class="cell') == 4 and "a and b: 1" in figure


def test_a_histogram_draws_a_bar_a_bin_and_one_for_what_lies_beyond():
    shown = word_histogram(["x " * 5] * 99 + ["x " * 4000])
    assert shown is not None
    figure = histogram(shown, x_label="words", title="t", mark=3, mark_label="here")
    assert figure.count("<rect") == len(shown.counts) + 1 and "6 and more: 1" in figure and "here" in figure


def test_the_parts_of_a_split_bar_are_as_long_as_their_counts():
    lines = [Line("a", ((Segment("x", 30), Segment("y", 10)),)), Line("b", ((Segment("x", 0),),))]
    figure = split_bars(lines, [""], title="t")
    widths = [float(width) + 1 for width in re.findall(r'<rect class="fill [xy]"[^>]* width="([\d.]+)"', figure)]
    assert len(widths) == 2 and widths[0] / widths[1] == pytest.approx(3, rel=0.01)
    with pytest.raises(ValueError, match="one for each of left, right"):
        split_bars(lines, ["left", "right"], title="t")


def test_figures_of_nothing_are_empty():
    assert grouped_bars([], x_label="", title="t") == grouped_bars([Group("a", ())], x_label="", title="t") == ""
    assert matrix([], [], [], title="t") == split_bars([], [""], title="t") == ""


MATCHES = [
    {"prompt_id": f"p{number}", "task": "truth", "item_id": f"q{number}", "question": "Why do veins appear blue?",
     "prompt": f"Why do veins appear blue? <b>{number}</b>", "run": " ".join("why do veins appear".split()[: number + 1]),
     "resemblance": 0.5}
    for number in range(4)
]  # fmt: skip


def add_contamination(folder: Path, matches: list[dict[str, Any]]) -> Path:
    stage = folder / "stages" / "contamination"
    stage.mkdir()
    jsonl.write(stage / "matches.jsonl", matches)
    content = json.loads((folder / "manifest.json").read_text())
    content["nodes"]["contamination"] = {
        "stage": "Contamination", "status": "computed", "path": "", "artifact": "Contamination-1-eeeeeeeeeeee",
        "counts": {"in": 9, "kept": 9, "dropped": {}},
        "metrics": {"contaminated": len(matches), "questions": 7, "contaminated/truth": len(matches), "contaminated/open": 0,
                    "not_compared": "vicuna_questions"},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("matches", [MATCHES, []])
def test_contamination_is_told_with_every_set_and_the_longest_runs_first(run_folder: Path, matches: list) -> None:
    add_contamination(run_folder, matches)
    told = found(run_folder).contamination
    assert told is not None and (told.prompts, told.questions, told.is_removed) == (9, 7, False)
    assert told.by_task == (("truth", len(matches)), ("open", 0))
    assert [match["prompt_id"] for match in told.matches] == [match["prompt_id"] for match in reversed(matches)]
    page = render([load_run(run_folder)])
    assert f"truth: {len(matches)}, open: 0." in page and "<b>0</b>" not in page
    assert ("Why do veins appear blue? &lt;b&gt;3&lt;/b&gt;" in page) == bool(matches)
    assert "not in evaluation.data: vicuna_questions." in page


def add_parity(folder: Path) -> Path:
    stage = folder / "stages" / "parity"
    stage.mkdir()
    arms = [("SelfAlign-2-own", 5), ("SelfAlign-2-few", 2), ("SelfAlign-2-most", 9)]
    jsonl.write(stage / "arms.jsonl", [{"artifact": a, "asked": 9, "kept": k, "cut": k - 2} for a, k in arms])
    jsonl.write(stage / "prompts.jsonl", [
        {"id": str(n), "instruction": f"Question {n}?", "input": "", "source": "self_instruct", "kept": n < 2,
         "reason": "" if n < 2 else "not_in_every_arm"}
        for n in range(9)
    ])  # fmt: skip
    content = json.loads((folder / "manifest.json").read_text())
    content["nodes"]["parity"] = {
        "stage": "Parity", "status": "computed", "path": "", "artifact": "Parity-1-eeeeeeeeeeee",
        "counts": {"in": 9, "kept": 2, "dropped": {"not_in_every_arm": 7}},
        "metrics": {"arms": 3, "fewest_kept": 2, "most_kept": 9},
    }  # fmt: skip
    content["nodes"]["responses"]["artifact"] = "SelfAlign-2-own"
    content["arms"] = {
        f"drop=<{name}>": {f"responses (drop=<{name}>)": {"artifact": f"SelfAlign-2-{name}"}}
        for name in ("most", "few")
    }
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def test_the_cut_of_a_sweep_says_what_each_arm_keeps_and_changes_nothing_else(run_folder: Path) -> None:
    before = found(run_folder)
    told = found(add_parity(run_folder))
    (cut,) = told.parity
    assert [(one.arm, one.kept, one.cut) for one in cut.arms] == [
        ("", 5, 3),
        ("drop=<few>", 2, 0),
        ("drop=<most>", 9, 7),
    ]
    assert (cut.node, cut.common) == ("parity", 2)
    # The cut repeats prompts that are counted elsewhere.
    assert (told.card, told.prompts, told.red_team) == (before.card, before.prompts, before.red_team)
    assert not told.notes
    page = render([load_run(run_folder)])
    assert "2 prompts that all 3 arms keep" in page and "drop=&lt;few&gt;" in page and "drop=<few>" not in page
    names = {table.name: table for table in drawings.tables(told)}
    assert [row[1:] for row in names["parity"].rows][0] == ("this run", 9, 5, 3, 2)
