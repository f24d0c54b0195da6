"""Laws of what a run or a sweep may spend: it stops at the bound, over all attempts, and pays for nothing that it reuses."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.budget import (
    LEDGER,
    BudgetError,
    BudgetSettings,
    Ledger,
    Purse,
    Spent,
    SweepSpent,
    passed,
    problems,
    spent,
    tokens_of,
)
from selfalign.errors import SelfAlignError
from selfalign.pipeline import NodeResult
from selfalign.progress import silent


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def result(folder: Path, status: str = "computed", tokens: int = 0) -> NodeResult:
    if tokens:
        jsonl.write(folder / "completions.jsonl", [{"id": "a", "prompt_tokens": tokens - 1, "new_tokens": 1}])
    return NodeResult("Stage", "Stage-1-abc", str(folder), status)


def test_a_stage_at_work_is_stopped_once_its_run_has_computed_for_too_long(tmp_path: Path) -> None:
    clock = Clock()
    ledger = Ledger(tmp_path, BudgetSettings(hours=1.0), clock=clock)
    ledger.begin("responses")
    told = []
    with ledger.watched(lambda *_: nullcontext(lambda done, note="": told.append(done)))("", 0, "") as progress:
        clock.now = 3600.0
        progress(1)
        clock.now = 3601.0
        with pytest.raises(
            BudgetError, match=r"budget\.hours: expected at most 1 .* found 1\.0002.*raise budget\.hours"
        ):
            progress(2)
    assert told == [1, 2], "what was done before the stop was told"
    ledger.end(result(tmp_path, "failed"))
    assert [row["seconds"] for row in spent(tmp_path)] == [3601.0]
    with pytest.raises(BudgetError):
        ledger.begin("engraved")


def test_all_attempts_count_and_what_is_reused_or_waits_between_stages_does_not(tmp_path: Path) -> None:
    clock = Clock()
    for attempt in range(3):
        ledger = Ledger(tmp_path, BudgetSettings(hours=1.0), clock=clock)
        clock.now += 50_000.0
        ledger.begin("reused")
        clock.now += 50_000.0
        ledger.end(result(tmp_path, "reused"))
        ledger.begin("responses")
        clock.now += 1500.0
        ledger.end() if attempt == 1 else ledger.end(result(tmp_path))
    assert [row["seconds"] for row in spent(tmp_path)] == [1500.0] * 3, (
        "a stage that is given up has taken its time too"
    )
    with pytest.raises(BudgetError, match=r"found 1\.25"):
        Ledger(tmp_path, BudgetSettings(hours=1.0), clock=clock).begin("responses")
    Ledger(tmp_path, BudgetSettings(hours=1.3), clock=clock).begin("responses")
    Ledger(tmp_path, BudgetSettings(), clock=clock).begin("responses")


def test_tokens_read_and_written_are_counted_when_a_stage_is_done(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, BudgetSettings(tokens=100))
    for tokens in (60, 40):
        ledger.begin("responses")
        ledger.end(result(tmp_path, tokens=tokens))
    ledger.begin("verbose_responses")
    ledger.end(result(tmp_path, tokens=1))
    with pytest.raises(BudgetError, match=r"budget\.tokens: expected at most 100 .* found 101"):
        ledger.begin("cloned")


def test_money_is_hours_times_the_price_of_all_devices(tmp_path: Path) -> None:
    clock = Clock()
    ledger = Ledger(tmp_path, BudgetSettings(money=30.0), price_of_an_hour=8 * 2.5, clock=clock)
    ledger.begin("engraved")
    clock.now = 1.5 * 3600
    ledger.check()
    clock.now += 1
    with pytest.raises(BudgetError, match=r"budget\.money: expected at most 30"):
        ledger.check()


def test_tokens_of_all_files_of_completions_are_added_up(tmp_path: Path) -> None:
    assert tokens_of(tmp_path) == (0, 0)
    (tmp_path / "completions").mkdir()
    for name in ("completions.jsonl", "completions/1.jsonl", "completions/2.jsonl"):
        jsonl.write(tmp_path / name, [{"prompt_tokens": 10, "new_tokens": 3}, {"prompt_tokens": 1, "new_tokens": 2}])
    assert tokens_of(tmp_path) == (33, 15)


def test_bounds_that_make_no_sense_are_named() -> None:
    assert problems(BudgetSettings(1.5, 10, 0.0), 0.0) == []
    negative, nan = problems(BudgetSettings(-1.0, 10, float("nan")), 2.0)
    assert "budget.hours: expected 0 (no bound) or more, found -1.0" in negative and "budget.money" in nan
    (price,) = problems(BudgetSettings(money=5.0), 0.0, "sweep_budget")
    assert "plan.price_per_hour" in price and "sweep_budget.hours" in price


def other_run(folder: Path, seconds: float, tokens: int = 0) -> Path:
    """The folder of another run of the sweep, which has spent something."""
    folder.mkdir()
    jsonl.append(folder / LEDGER, [{"node": "responses", "artifact": "a", "seconds": seconds, "tokens": tokens}])
    return folder


def test_a_stage_at_work_is_stopped_once_all_runs_of_the_sweep_together_have_spent_too_much(tmp_path: Path) -> None:
    clock, own = Clock(), tmp_path / "own"
    own.mkdir()
    others = [other_run(tmp_path / name, 1200.0) for name in "ab"]
    purse = Purse(BudgetSettings(hours=1.0), dict.fromkeys([own, *others], 0.0))
    ledger = Ledger(own, BudgetSettings(), clock=clock, purse=purse)
    ledger.begin("responses")
    clock.now = 1200.0
    ledger.check()
    clock.now = 1201.0
    with pytest.raises(
        SweepSpent, match=r"sweep_budget\.hours: expected at most 1 .* found 1\.00028.*larger"
    ) as stopped:
        ledger.check()
    assert not isinstance(stopped.value, SelfAlignError), "the pipeline would take the stage for failed"
    ledger.end()
    assert [row["seconds"] for row in spent(own)] == [1201.0]
    with pytest.raises(SweepSpent):
        ledger.begin("engraved")


def test_what_the_other_runs_have_spent_is_looked_at_whenever_a_stage_begins(tmp_path: Path) -> None:
    own, other = tmp_path / "own", other_run(tmp_path / "a", 1.0, tokens=60)
    own.mkdir()
    ledger = Ledger(own, BudgetSettings(), purse=Purse(BudgetSettings(tokens=100), {own: 0.0, other: 0.0}))
    ledger.begin("responses")
    ledger.end(result(own, tokens=40))
    ledger.begin("reused")
    ledger.end(result(own, "reused"))
    jsonl.append(other / LEDGER, [{"node": "engraved", "artifact": "b", "seconds": 1.0, "tokens": 1}])
    with pytest.raises(SweepSpent, match=r"sweep_budget\.tokens: expected at most 100 .* found 101"):
        ledger.begin("verbose_responses")


def test_a_runs_own_bound_holds_beside_that_of_its_sweep(tmp_path: Path) -> None:
    clock = Clock()
    purse = Purse(BudgetSettings(hours=2.0), {tmp_path: 0.0})
    ledger = Ledger(tmp_path, BudgetSettings(hours=1.0), clock=clock, purse=purse)
    ledger.begin("responses")
    clock.now = 3601.0
    with pytest.raises(BudgetError, match=r"^budget\.hours"):
        ledger.check()


def test_each_run_of_a_sweep_pays_the_price_of_its_own_devices(tmp_path: Path) -> None:
    runs = {other_run(tmp_path / name, 1800.0, tokens=5): price for name, price in (("a", 2.0), ("b", 16.0))}
    purse = Purse(BudgetSettings(money=8.0), runs)
    assert purse.spent() == Spent(1.0, 10, 9.0) and purse.spent(without=tmp_path / "b") == Spent(0.5, 5, 1.0)
    assert "sweep_budget.money: expected at most 8" in purse.excess() and not purse.excess(Spent(9.0, 9, 8.0))
    assert purse.told() == "spent: 1 hours, 10 tokens, 9 of 8 money"
    assert Purse(BudgetSettings(tokens=1_000_000), {}).told() == "spent: 0 hours, 0 of 1,000,000 tokens"


def test_a_row_that_another_process_is_writing_counts_once_it_is_whole_and_is_left_alone(tmp_path: Path) -> None:
    run = other_run(tmp_path / "a", 10.0)
    whole = (run / LEDGER).read_bytes()
    (run / LEDGER).write_bytes(whole + whole[:20])
    assert [row["seconds"] for row in spent(run)] == [10.0]
    assert (run / LEDGER).read_bytes() == whole + whole[:20]


def test_a_bound_is_passed_by_more_than_it_and_0_is_none() -> None:
    assert passed(BudgetSettings(), Spent(1e9, 10**9, 1e9)) == ""
    assert passed(BudgetSettings(1.0, 5, 2.0), Spent(1.0, 5, 2.0)) == ""
    assert passed(BudgetSettings(1.0, 5, 2.0), Spent(1.0, 6, 3.0)) == "tokens"


def test_without_a_bound_progress_is_what_it_was(tmp_path: Path) -> None:
    with Ledger(tmp_path, BudgetSettings()).watched(lambda *_: nullcontext(silent))("", 0, "") as progress:
        progress(1, "note")
    assert spent(tmp_path) == []
