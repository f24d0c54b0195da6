"""Laws of the score table: what is not valid is never a number, differences need two valid numbers."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import pytest

from selfalign.report import load_run, load_runs, print_scores
from selfalign.report.export import as_markdown, to_csv
from selfalign.report.html import render
from selfalign.report.page import tables
from selfalign.report.scores import ABSENT, TAX, cell, difference, grid, is_number, lines
from selfalign.report.terminal import node_table, plain_text, print_runs, score_table
from tests.unit.report.run_folders import score, write_run

BROKEN = [
    {"valid": False, "value": 1.0, "reason": "NaN in 120 of 120 items"},
    {"valid": False, "value": None, "reason": "constant choice"},
    {"valid": False, "value": 1.0},
    {"valid": True, "value": math.nan},
    {"valid": True, "value": math.inf},
    {"valid": True, "value": None},
]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("subject", ["engraved", "cloned"])
def test_a_score_that_is_not_valid_is_never_a_number(edit, broken: dict, subject: str):
    run = edit(
        "scores.jsonl",
        lambda rows: [
            score(name, 0.5) | (broken if name == subject else {}) for name in ("base", "engraved", "cloned")
        ],
    )
    (line,) = lines(run)
    text = cell(line, subject)
    assert text.startswith("invalid") and "1.000" not in text
    if broken.get("reason"):
        assert text == f"invalid: {broken['reason']}"
    assert line.tax is None
    head, (row,) = grid([run])
    assert row[head.index(TAX)] == ABSENT
    (exported,) = [entry for entry in csv.DictReader(io.StringIO(to_csv([run]))) if entry["subject"] == subject]
    assert (exported["value"], exported["valid"]) == ("", "False")


def test_the_verbose_tax_is_cloned_minus_engraved_with_both_errors(run_folder: Path):
    line = lines(load_run(run_folder))[0]
    assert line.tax is not None
    assert line.tax == pytest.approx((-0.04, math.hypot(0.02, 0.02)))


def test_a_difference_without_an_error_has_none(edit):
    run = edit("scores.jsonl", lambda rows: [score("engraved", 0.5, stderr=None), score("cloned", 0.75)])
    (line,) = lines(run)
    assert line.tax == (0.25, None)
    assert difference(None, line.scores["cloned"]) is None and not is_number(None)


def test_columns_are_in_the_order_of_the_method_and_others_follow(edit):
    run = edit("scores.jsonl", lambda rows: [score(name, 0.5) for name in ("merged", "cloned", "base", "engraved")])
    head, _ = grid([run])
    assert head == ["task", "protocol", "metric", "n", "chance", "base", "engraved", "cloned", "merged", TAX]


def test_a_run_without_cloning_has_no_column_for_the_tax(edit):
    head, _ = grid([edit("scores.jsonl", lambda rows: [score("base", 0.5), score("engraved", 0.5)])])
    assert TAX not in head


def test_where_item_counts_differ_each_score_states_its_own(edit):
    run = edit("scores.jsonl", lambda rows: [score("base", 0.5, n=120), score("engraved", 0.5, n=118)])
    head, (row,) = grid([run])
    assert row[head.index("n")] == ABSENT and row[head.index("engraved")].endswith("(n=118)")


def test_several_runs_share_one_table_whose_first_column_names_the_run(run_folder: Path, tmp_path: Path):
    other = write_run(tmp_path / "demo-other", drop=["ethical"])
    head, rows = grid(load_runs([run_folder, other]))
    assert head[0] == "run" and [row[0] for row in rows] == ["demo-12345678"] * 3 + ["demo-other"] * 3


def test_csv_keeps_full_precision(edit):
    run = edit("scores.jsonl", lambda rows: [score("base", 1 / 3)])
    (row,) = csv.DictReader(io.StringIO(to_csv([run])))
    assert float(row["value"]) == 1 / 3 and row["run_id"] == "demo-12345678"


def test_csv_text_is_never_a_formula(edit):
    run = edit("scores.jsonl", lambda rows: [score("base", None, valid=False, reason="=cmd()")])
    (row,) = csv.DictReader(io.StringIO(to_csv([run])))
    assert row["reason"] == "'=cmd()"


def test_markdown_has_one_line_a_row_and_escapes_what_would_break_it(edit):
    run = edit("scores.jsonl", lambda rows: [score("base", None, valid=False, reason="a | b\nc <b>")])
    table = next(table for table in tables(render([run])) if table.title == "Scores")
    text = as_markdown(table).splitlines()[2:]
    assert len(text) == 3 and "a \\| b c &lt;b>" in text[2]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in text}) == 1


def test_plain_text_names_nodes_notes_scores_and_the_model_organism(edit):
    run = edit("manifest.json", lambda content: content["nodes"]["responses"]["counts"].update(kept=39) or content)
    text = plain_text([run])
    for part in ("SelfAlign", "reused", "note: responses", "0.710 ± 0.020", "−0.040 ± 0.028", "model organism"):
        assert part in text


def test_output_that_is_no_terminal_is_plain(run_folder: Path, capsys: pytest.CaptureFixture[str]):
    print_scores([run_folder])
    text = capsys.readouterr().out
    assert "\x1b" not in text and "─" not in text and text == plain_text([load_run(run_folder)])


def test_a_terminal_gets_tables(run_folder: Path):
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    print_runs([load_run(run_folder)], stream)
    assert "─" in stream.getvalue() and "model organism" in " ".join(stream.getvalue().split())


def test_rich_tables_do_not_read_markup_in_texts(edit):
    from rich.console import Console

    edit("scores.jsonl", lambda rows: [score("base", None, valid=False, reason="[bold]planted[/bold]")])
    run = edit("manifest.json", lambda content: content["nodes"]["prompts"].update(why="[red]why[/red]") or content)
    console = Console(width=200, file=io.StringIO())
    console.print(score_table([run]), node_table(run))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]planted[/bold]" in shown and "[red]why[/red]" in shown


def test_a_run_without_scores_still_prints(run_folder: Path):
    (run_folder / "scores.jsonl").unlink()
    assert "no scores" in plain_text([load_run(run_folder)])
