"""Laws of `selfalign show`: pages on a terminal, plain elsewhere, reasons with counts first, long texts readable."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.commands import rows
from selfalign.errors import SelfAlignError
from tests.unit.report.run_folders import write_run

Show = Callable[..., str]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo-12345678")


@pytest.fixture
def show(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    """What `selfalign show RUN ...` prints."""

    def call(*arguments: str) -> str:
        assert rows.show([str(run_folder), *arguments]) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A terminal 60 columns wide whose pager writes what it is given to the returned file."""
    paged, pager = tmp_path / "paged", tmp_path / "pager.py"
    pager.write_text(f"import sys\nopen({str(paged)!r}, 'w').write(sys.stdin.read())\n")
    # The class of what pytest captures with: the object is another one when the test begins.
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    monkeypatch.setenv("PAGER", f"{sys.executable} {pager}")
    monkeypatch.setenv("COLUMNS", "60")
    return paged


def test_without_a_stage_the_funnel_is_shown(show: Show):
    assert show().count("kept") == 3


def test_kept_rows_are_limited_and_the_last_line_says_of_how_many(show: Show):
    printed = show("responses", "--limit", "3")
    assert printed.count("prompt_id:") == 3 and "3 of 40 rows of" in printed and "reason:" not in printed
    assert show("responses").count("prompt_id:") == rows.PLAIN_ROWS
    assert show("responses", "--limit", "0").count("prompt_id:") == 40


def test_dropped_without_a_reason_lists_reasons_with_counts_first_then_the_rows(show: Show):
    lines = show("responses", "--dropped", "--limit", "0").splitlines()
    assert lines[0].startswith("20 of 60 rows of")
    assert [line.split() for line in lines[1:3]] == [["10", "copies_exemplar"], ["10", "unfinished"]]
    assert sum("reason: " in line for line in lines) == 20 and lines[-1].startswith("20 of 20 dropped rows")


def test_dropped_with_a_reason_shows_those_rows_only(show: Show):
    printed = show("responses", "--dropped", "unfinished")
    assert printed.count("reason: unfinished") == 10 and "copies_exemplar" not in printed


def test_a_stage_that_dropped_nothing_says_so(show: Show):
    assert show("engraved", "--dropped").startswith("0 of 64 rows of")


def test_an_unknown_reason_names_those_there_are(show: Show):
    with pytest.raises(SelfAlignError, match="unfinished"):
        show("responses", "--dropped", "unfinishd")


def test_another_file_of_a_stage_can_be_shown_and_a_wrong_one_is_an_error(show: Show, run_folder: Path):
    jsonl.write(run_folder / "stages" / "prompts" / "topics.jsonl", [{"topic": "Cats", "kept": True, "reason": ""}])
    assert "topic: Cats" in show("prompts", "--file", "topics.jsonl")
    with pytest.raises(SelfAlignError, match="topics.jsonl"):
        show("prompts", "--file", "topic.jsonl")


@pytest.mark.parametrize("limit", ["-1", "many"])
def test_a_limit_is_a_whole_number(show: Show, limit: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        show("responses", "--limit", limit)
    assert "0 or more" in capsys.readouterr().err


def test_on_a_terminal_all_rows_go_through_the_pager(show: Show, terminal: Path):
    assert show("responses") == ""
    assert terminal.read_text().count("prompt_id:") == 40


def test_on_a_terminal_long_texts_are_wrapped_and_elsewhere_a_line_stays_a_line(
    show: Show, run_folder: Path, request: pytest.FixtureRequest
):
    long = "word " * 60 + "\n    indented = 1"
    path = run_folder / "stages" / "responses" / "responses.jsonl"
    jsonl.write(path, [{**row, "text": long} for row in jsonl.read(path)])
    assert max(map(len, show("responses").splitlines())) > 300
    paged: Path = request.getfixturevalue("terminal")
    show("responses")
    lines = paged.read_text().splitlines()
    assert max(len(line) for line in lines if "rows of" not in line) <= 60
    assert " " * 16 + "    indented = 1" in lines


def test_control_characters_do_not_reach_the_terminal(show: Show, run_folder: Path):
    path = run_folder / "stages" / "responses" / "responses.jsonl"
    path.write_text(path.read_text().replace("raw 0", "a\\u001b[2J\\ud800b"))
    printed = show("responses", "--limit", "0")
    assert "a\ufffd[2J\ufffdb" in printed and "\x1b" not in printed


def test_a_pager_that_cannot_be_started_is_named_and_the_text_printed(
    show: Show, terminal: Path, monkeypatch: pytest.MonkeyPatch, run_folder: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PAGER", "no-such-pager --flag")
    assert rows.show([str(run_folder), "responses"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("prompt_id:") == rows.PLAIN_ROWS and "no-such-pager" in printed.err


def test_a_pager_that_is_left_early_is_no_error(show: Show, terminal: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAGER", f"{sys.executable} -c pass")
    monkeypatch.setattr(rows, "_row_lines", lambda *_: ("x" * 100 for _ in range(10_000)))
    assert show("responses") == ""


@pytest.mark.parametrize("in_pager", [False, True])
def test_an_interrupt_while_rows_are_printed_is_no_error(
    show: Show, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, in_pager: bool
):
    def interrupted(*_: object):
        yield "first"
        raise KeyboardInterrupt

    monkeypatch.setattr(rows, "_row_lines", interrupted)
    paged = request.getfixturevalue("terminal") if in_pager else None
    printed = show("responses")
    assert (paged.read_text() if paged else printed).strip() == "first"


def test_a_closed_pipe_is_no_error(run_folder: Path):
    path = run_folder / "stages" / "responses" / "responses.jsonl"
    jsonl.write(path, [{**row, "text": "x" * 2000} for row in jsonl.read(path)])
    command = [sys.executable, "-m", "selfalign", "show", str(run_folder), "responses", "--limit", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
