"""Laws of what filters keep in one arm only: counted by prompt, tested as pairs, named where the filter depends on the arm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfalign import jsonl
from selfalign.report import load_runs
from selfalign.report.ablation import compare
from selfalign.report.html import render
from selfalign.report.page import tables
from selfalign.report.selection import TITLE, Selection, selections, sheet
from selfalign.report.terminal import plain_text
from tests.unit.report.run_folders import write_run

Row = dict[str, Any]


def changed(folder: Path, drop: list[str], change: Callable[[int, Row], Row], seed: int = 0) -> Path:
    """A run whose answers are changed, each with its number."""
    write_run(folder, drop=drop, seed=seed)
    path = folder / "stages" / "responses" / "responses.jsonl"
    jsonl.write(path, [change(at, row) for at, row in enumerate(jsonl.read(path))])
    return folder


def short(first: int) -> Callable[[int, Row], Row]:
    """Drops the first so many kept answers as too short."""

    def change(at: int, row: Row) -> Row:
        return row | {"kept": False, "reason": "too_short"} if row["kept"] and at < first else row

    return change


def found(*folders: Path) -> dict[str, Selection]:
    comparison = compare(load_runs(folders))
    assert comparison is not None
    return {one.arm: one for one in selections(comparison)}


@pytest.fixture
def sweep(tmp_path: Path) -> list[Path]:
    """A control, an arm whose filter takes 20 of 60 answers more, and one whose filter takes none."""
    return [
        write_run(tmp_path / "all"),
        changed(tmp_path / "candor", ["candor"], short(30)),
        write_run(tmp_path / "helpful", drop=["helpful"]),
    ]


def test_rows_that_one_side_drops_are_counted_with_their_reasons(sweep: list[Path]) -> None:
    one = found(*sweep)["without candor"]
    assert (one.node, one.prompts, dict(one.dropped), dict(one.kept)) == ("responses", 60, {"too_short": 20}, {})
    turned = compare(load_runs(sweep), control="candor")
    assert turned is not None
    back = {item.arm: item for item in selections(turned)}["principles.drop=[]"]
    assert (dict(back.dropped), dict(back.kept)) == ({}, {"too_short": 20}), (
        "the reason that the control drops them for"
    )


def test_a_filter_that_takes_more_in_one_arm_is_named_and_one_that_does_not_is_not(sweep: list[Path]) -> None:
    by_arm = found(*sweep)
    assert by_arm["without candor"].is_shown and not by_arm["without helpful"].is_shown
    assert by_arm["without candor"].p == pytest.approx(2 * 0.5**20)
    assert by_arm["without candor"].adjusted == pytest.approx(2 * by_arm["without candor"].p), "Holm over two arms"
    runs = load_runs(sweep)
    (table,) = [one for one in tables(render(runs)) if one.title.endswith(TITLE)]
    assert [row[1].text for row in table.rows] == ["without candor"]
    assert TITLE in plain_text(runs)


def test_as_many_rows_lost_as_gained_are_no_evidence(tmp_path: Path) -> None:
    def other(at: int, row: Row) -> Row:
        if at % 12 == 0:
            return row | {"kept": False, "reason": "too_short"}
        return row | {"kept": True, "reason": ""} if at % 12 == 4 else row

    one = found(write_run(tmp_path / "all"), changed(tmp_path / "candor", ["candor"], other))["without candor"]
    assert one.dropped.total() == one.kept.total() == 5 and one.p == 1.0 and not one.is_shown
    assert TITLE not in plain_text(load_runs([tmp_path / "all", tmp_path / "candor"])), "on the page alone"


def test_seeds_are_added_up_and_one_without_a_pair_is_left_out(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"all-{seed}", seed=seed) for seed in (0, 1, 2)]
    folders += [changed(tmp_path / f"candor-{seed}", ["candor"], short(6), seed) for seed in (0, 1)]
    one = found(*folders)["without candor"]
    assert (one.prompts, dict(one.dropped)) == (120, {"too_short": 8})


def test_where_both_keep_the_same_rows_there_is_no_table(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "all"), write_run(tmp_path / "candor", drop=["candor"])]
    assert sheet(list(found(*folders).values())) is None
    assert all(not one.title.endswith(TITLE) for one in tables(render(load_runs(folders))))
