"""Laws of the tables of a page: all of them are exported in every format, and a number that was changed is found."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.report import export_tables, load_runs, write
from selfalign.report.check import check
from selfalign.report.export import as_csv, as_latex, as_markdown
from selfalign.report.html import render
from selfalign.report.page import Cell, PageTable, about, differences, tables
from tests.unit.report.run_folders import HOSTILE, answer_row, exam_row, write_run, write_scores

TABLE = PageTable(
    "Effects: a & b_c",
    ("arm", "difference"),
    ((Cell("x | 5 % <y>"), Cell("−0.031 ± 0.002", "-0.0312")), (Cell("=1+1"), Cell("–"))),
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A folder with a report of two arms."""
    folders = []
    for name, drop, wrong in (("all", [], 3), ("candor", ["candor"], 15)):
        rows = [exam_row(item, float(item >= wrong)) for item in range(40)]
        rows += [answer_row(item, 10 + item + wrong) for item in range(6)]
        engraved = [exam_row(item, float(item >= 2)) for item in range(40)] + [
            answer_row(item, 10 + item) for item in range(6)
        ]
        folders.append(write_scores(write_run(tmp_path / name, drop=drop), {"engraved": engraved, "cloned": rows}))
    write(folders, tmp_path / "sweep" / "report.html")
    return tmp_path / "sweep"


def test_every_table_of_a_page_is_exported_in_three_formats_and_none_is_lost(sweep: Path, tmp_path: Path):
    folders = [tmp_path / "all", tmp_path / "candor"]
    page = (sweep / "report.html").read_text()
    found = tables(page)
    assert len(found) == page.count("<table") > 12
    written = export_tables(folders, tmp_path / "out")
    kinds = [path.suffix for path in written if path.name not in ("scores.csv", "effects.csv")]
    assert all(kinds.count(kind) == len(found) for kind in (".csv", ".tex", ".md"))
    assert len(set(written)) == len(written) == len(list((tmp_path / "out").iterdir()))
    for part in (
        "effects",
        "verbose-tax",
        "what-changed",
        "methods-protocols",
        "principle-use",
        "nodes",
        "scores",
    ):
        assert any(part in path.name for path in written), part


def test_a_table_says_the_same_in_every_format(sweep: Path):
    for table in tables((sweep / "report.html").read_text()):
        rows = list(csv.reader(io.StringIO(as_csv(table))))
        assert len(rows) == len(table.rows) + 1 and len({len(row) for row in rows}) == 1
        assert as_latex(table).count(r"\\") == len(table.rows) + 1
        assert len(as_markdown(table).splitlines()) == len(table.rows) + 4


def test_numbers_stand_beside_their_texts_in_full_precision_and_no_cell_is_a_formula():
    head, first, second = csv.reader(io.StringIO(as_csv(TABLE)))
    assert head == ["arm", "difference", "difference, value"] and first[1:] == ["−0.031 ± 0.002", "-0.0312"]
    assert second == ["'=1+1", "–", ""]


def test_signs_that_mean_something_to_a_format_are_written_as_signs():
    assert r"x $|$ 5 \% $<$y$>$ & $-$0.031 $\pm$ 0.002 \\" in as_latex(TABLE)
    assert r"| x \| 5 % &lt;y> |" in as_markdown(TABLE)


def test_markup_of_a_model_is_text_in_the_tables_of_a_page(sweep: Path, tmp_path: Path):
    run = write_run(tmp_path / "hostile")
    path = run / "stages" / "responses" / "responses.jsonl"
    jsonl.write(path, [{**row, "cited": [HOSTILE]} for row in jsonl.read(path)])
    cells = [cell.text for table in tables(render(load_runs([run]))) for row in table.rows for cell in row]
    assert any(cell.startswith("<script>alert('planted')</script>") for cell in cells)


def test_a_page_says_which_runs_it_is_about(sweep: Path):
    found = about((sweep / "report.html").read_text())
    assert found is not None and (found.runs, found.control) == (("all", "candor"), "")
    assert about("<html><body><table></table></body></html>") is None


def test_a_report_that_its_items_give_is_found_right(sweep: Path):
    cells, wrong = check(sweep)
    assert wrong == [] and cells > 200
    assert check(sweep.parent / "all") == (0, []), "no report there"


@pytest.mark.parametrize(
    ("section", "table"),
    [
        ("effects", "Effects of the arms"),
        ("verbose-tax", "Verbose tax"),
        ("changes", "What changed"),
        ("methods", "Methods"),
    ],
)
def test_one_number_that_was_changed_in_any_section_is_found_and_named(sweep: Path, section: str, table: str):
    path = sweep / "report.html"
    page = path.read_text()
    start = page.index("<tbody>", page.index(f'id="{section}"'))
    cell = re.compile(r">([^<>]*\d[^<>]*)</td>").search(page, start)
    assert cell is not None
    digit = next(at for at in range(cell.start(1), cell.end(1)) if page[at].isdigit())
    path.write_text(page[:digit] + str((int(page[digit]) + 1) % 10) + page[digit + 1 :])
    _, wrong = check(sweep)
    assert len(wrong) == 1 and table in wrong[0] and "the stored items give" in wrong[0]


def test_a_number_of_a_figure_or_of_the_changes_that_was_changed_is_found_too(sweep: Path):
    path = sweep / "report.html"
    page = path.read_text()
    path.write_text(page.replace('"direction":"lost"', '"direction":"gained"', 1))
    assert len(check(sweep)[1]) == 1 and "texts or figures" in check(sweep)[1][0]


def test_an_item_that_was_changed_after_the_report_is_found(sweep: Path, tmp_path: Path):
    items = tmp_path / "candor" / "stages" / "scores_cloned" / "items.jsonl"
    rows = jsonl.read(items)
    rows[20]["correct"] = 0.0
    jsonl.write(items, rows)
    assert any("without candor" in line for line in check(sweep)[1])


def test_a_run_that_is_gone_and_a_page_of_another_making_are_named(sweep: Path, tmp_path: Path):
    (tmp_path / "candor" / "manifest.json").unlink()
    assert "about candor" in check(sweep)[1][0]
    (sweep / "report.html").write_text("<html></html>")
    assert "write it anew" in check(sweep)[1][0]


def test_tables_that_are_missing_or_new_are_named():
    page = "<h2>A</h2><table><thead><tr><th>x</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>"
    assert differences(page, page) == []
    assert differences("", page) == ["table 'A': it is missing"]
    assert differences(page, page.replace("<td>1", "<td>1</td></tr><tr><td>2"))[0].startswith(
        "table 'A': expected 2 rows"
    )
    assert json.dumps(differences(page, page.replace("1", "2")))
