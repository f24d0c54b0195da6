from __future__ import annotations

from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.errors import DataError

ROWS = [{"a": 1, "text": "zwei\nZeilen"}, {"a": 2, "text": "日本語 \u2028 \x85"}, {"a": 3, "text": ""}]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert jsonl.write(path, ROWS) == 3
    assert jsonl.read(path) == ROWS
    assert len(path.read_text().splitlines()) == 3, "no character inside a row may end a line"


def test_appending_in_pieces_equals_writing_at_once(tmp_path: Path) -> None:
    whole, pieces = tmp_path / "whole.jsonl", tmp_path / "pieces.jsonl"
    jsonl.write(whole, ROWS)
    jsonl.append(pieces, ROWS[:1])
    jsonl.append(pieces, ROWS[1:])
    assert pieces.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_cut_off_and_the_rows_before_it_stay(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    jsonl.write(path, ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = jsonl.recover(path)
    assert kept == ROWS[: len(kept)]
    jsonl.append(path, ROWS[len(kept) :])
    assert path.read_bytes() == whole


def test_a_missing_file_has_no_rows_to_recover(tmp_path: Path) -> None:
    assert jsonl.recover(tmp_path / "none.jsonl") == []


def test_a_bad_line_is_named_with_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": oops}\n{"a": 3}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2: expected one JSON object"):
        jsonl.read(path)
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        jsonl.recover(path)


def test_a_line_that_is_not_an_object_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("[1, 2]\n")
    with pytest.raises(DataError, match="expected a JSON object, found list"):
        jsonl.read(path)


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "\xff"}\n')
    with pytest.raises(DataError, match="expected UTF-8"):
        jsonl.read(path)


def test_a_missing_file_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a JSONL file, found nothing there"):
        jsonl.read(tmp_path / "none.jsonl")


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        jsonl.write(tmp_path / "rows.jsonl", [{"a": float("nan")}])
    assert not (tmp_path / "rows.jsonl").exists()
