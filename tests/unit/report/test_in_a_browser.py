"""Laws of the page as a browser runs it: no error, no request, sorting and the browser of changes work, planted scripts do
not run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.report import write
from tests.browser import ADVICE, Page, browser, executable
from tests.unit.report.run_folders import answer_row, exam_row, write_run, write_scores

pytestmark = [pytest.mark.slow, pytest.mark.skipif(executable() is None, reason=ADVICE)]

WIDTHS = (390, 1280)
"""A phone, and a screen."""
PLANTED = "</script><script>window.planted=1</script><img src=x onerror=window.planted=2><svg onload=window.planted=3>"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two arms with changes of every kind, and a script planted in every text of a model."""
    folder = tmp_path_factory.mktemp("pages")
    rows = {
        name: [*(exam_row(item, float(item % 4 > 0 and item % wrong > 0), choice=[int(item % wrong == 0)],
                          question=f"{PLANTED} {item}", choices=[PLANTED, "b"]) for item in range(80)),
               *({**answer_row(item, 4 + item), "answer": f"{PLANTED} {name} {item}"} for item in range(8))]
        for name, wrong in (("all", 97), ("candor", 3))
    }  # fmt: skip
    folders = []
    for name, drop in (("all", []), ("candor", ["candor"])):
        run = write_run(folder / name, drop=drop)
        responses = run / "stages" / "responses" / "responses.jsonl"
        jsonl.write(responses, [{**row, "text": f"{row['text']} {PLANTED}"} for row in jsonl.read(responses)])
        folders.append(write_scores(run, {"engraved": rows["all"], "cloned": rows[name]}))
    return write(folders, folder / "report.html")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture(params=WIDTHS)
def page(started: Page, page_file: Path, request: pytest.FixtureRequest) -> Page:
    started.open(page_file, width=request.param)
    return started


def texts(page: Page, selector: str) -> list[str]:
    return json.loads(
        page.run(f"JSON.stringify([...document.querySelectorAll({selector!r})].map(e => e.textContent.trim()))")
    )


def test_the_page_asks_for_nothing_says_no_error_and_runs_nothing_planted(page: Page, page_file: Path):
    assert page.run("document.readyState") == "complete" and page.run("document.querySelectorAll('table').length") > 5
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.run("window.planted") is None
    assert page.run("[...document.scripts].filter(s => s.type !== 'application/json').length") == 1
    assert page.errors == [] and page.requests == [page_file.resolve().as_uri()]


def test_the_test_itself_sees_errors_requests_and_scripts_that_run(started: Page, tmp_path: Path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<script>window.planted=1; console.error('x'); fetch('http://127.0.0.1:9/').catch(() => 0)</script>"
    )
    started.open(path, width=390)
    assert started.run("window.planted") == 1 and started.errors and len(started.requests) > 1


def test_nothing_is_wider_than_the_window(started: Page, page_file: Path):
    for width in WIDTHS:
        started.open(page_file, width=width)
        # A phone widens its window for what does not fit: the width that was asked for is what counts.
        assert started.run("document.documentElement.scrollWidth") <= width


def test_a_table_sorts_up_and_down_by_a_click_and_by_the_keyboard(page: Page):
    column = "#changes table tbody tr td:nth-child(3)"
    button = "document.querySelector('#changes thead th:nth-child(3) button')"
    page.run(f"{button}.click()")
    up = [int(text) for text in texts(page, column)]
    assert up == sorted(up) and len(set(up)) > 1
    page.run(f"{button}.focus()")
    page.press("Enter", 13)
    assert [int(text) for text in texts(page, column)] == up[::-1]
    assert (
        page.run("document.querySelector('#changes thead th:nth-child(3)').getAttribute('aria-sort')") == "descending"
    )


def test_the_browser_of_changes_filters_searches_and_shows_both_sides(page: Page):
    total = page.run("JSON.parse(document.getElementById('changes-data').textContent).changes.length")
    assert texts(page, "#browser [role=status]")[0].startswith(f"{total} of {total} changes fit")
    choose = "(() => {{ const s = document.querySelector('#browser select[name={0}]'); s.value = {1!r}; " \
             "s.dispatchEvent(new Event('input')); }})()"  # fmt: skip
    page.run(choose.format("where", "cloned: calf_truth · mc1"))
    page.run(choose.format("direction", "right → wrong"))
    cards = texts(page, "#browser article")
    lost = [item for item in range(80) if item % 3 == 0 and item % 4]
    assert len(cards) == 12 < len(lost) == 20 and all("right → wrong" in card for card in cards)
    assert page.run("document.querySelectorAll('#browser article:first-child .side').length") == 2
    assert page.run("document.querySelectorAll('#browser article:first-child li.chosen').length") == 2
    page.run("document.querySelector('#browser button.more').click()")
    assert len(texts(page, "#browser article")) == 20
    page.run(choose.format("where", ""))
    page.run(choose.format("direction", ""))
    page.run("(() => { const s = document.querySelector('#browser input'); s.value = 'candor 5'; "
             "s.dispatchEvent(new Event('input')); })()")  # fmt: skip
    (card,) = texts(page, "#browser article")
    assert "candor 5" in card and PLANTED in card and page.run("window.planted") is None


def test_every_control_can_be_reached_with_the_keyboard(page: Page):
    reached = "document.querySelectorAll('#browser select, #browser input, #browser button, thead button, summary, nav a').length"
    skipped = (
        "[...document.querySelectorAll('#browser select, #browser input, thead button, summary, nav a')]"
        ".filter(e => e.tabIndex < 0).length"
    )
    assert page.run(reached) > 20 and page.run(skipped) == 0


def test_print_opens_what_is_folded_and_hides_the_controls(page: Page, tmp_path: Path):
    page.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000 and page.errors == []
    page.run("window.dispatchEvent(new Event('beforeprint'))")
    assert page.run("[...document.querySelectorAll('details')].every(d => d.open)")
    page.run("window.dispatchEvent(new Event('afterprint'))")
    assert not page.run("[...document.querySelectorAll('details')].every(d => d.open)")
