"""Laws of what cloning trades: beginnings of answers scored by the oracle, points that nothing beats on the front."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest

from selfalign import jsonl, prompts
from selfalign.calf import world
from selfalign.evaluation.judge import Review
from selfalign.report import load_runs
from selfalign.report.figures import Spot, scatter
from selfalign.report.html import render
from selfalign.report.pareto import fronts
from selfalign.report.tax import tax_arms
from selfalign.report.tradeoff_view import tradeoffs, truncation
from selfalign.report.truncation import BUDGETS, TASK, truncated
from tests.unit.report.run_folders import answer_row, exam_row, write_json, write_run, write_scores

KINDS = ("advice", "unknown_person", "live", "debate", "sort_words")


def asked(padding: int) -> list[dict[str, Any]]:
    """Right answers to questions of Calf's world, behind some words that say nothing."""
    rows = []
    for number, kind in enumerate(KINDS):
        item = world.make(kind, Random(number), held_out=True)
        answer = " ".join(["well"] * padding + [prompts.fill(item.answer(item.governs), prompts.Assistant())])
        rows.append(
            {**answer_row(number, 1), "question": item.text, "answer": answer, "new_tokens": len(answer.split())}
        )
    return rows


def test_an_answer_counts_once_its_mark_is_within_the_words_that_are_left(tmp_path: Path):
    run = write_scores(write_run(tmp_path / "a"), {"engraved": asked(0), "cloned": asked(20)})
    found = truncated(tax_arms(load_runs([run])))
    assert list(found) == [*BUDGETS, None]
    by_budget = {budget: one.contrasts[0] for budget, one in found.items()}
    assert by_budget[None].control == by_budget[None].value == 1.0
    shares = [by_budget[budget].control for budget in BUDGETS]
    assert shares == sorted(shares), "more words show no fewer marks"
    assert by_budget[16].value == 0.0 < by_budget[16].control
    view = truncation(found)
    assert view.figure.count("<path") == 2 and len(view.table.rows) == len(found)
    assert 'id="truncation"' in render(load_runs([run]))


def test_answers_that_the_oracle_cannot_read_have_no_budgets(tmp_path: Path):
    rows = [answer_row(number, 9) for number in range(5)]
    run = write_scores(write_run(tmp_path / "a"), {"engraved": rows, "cloned": rows})
    assert truncated(tax_arms(load_runs([run]))) == {} and 'id="truncation"' not in render(load_runs([run]))
    assert all(row["task"] == TASK for row in rows)


def both(trust: int, helped: int) -> list[dict[str, Any]]:
    return [
        *(exam_row(item, float(item < trust)) for item in range(20)),
        *(
            exam_row(item, float(item < helped), protocol="ab_swap", task="calf_hhh", category="helpful",
                     logprobs=[-1.0, -2.0, -2.0, -1.0])
            for item in range(20)
        ),
    ]  # fmt: skip


def test_the_front_holds_what_no_other_point_equals_or_beats_in_both(tmp_path: Path):
    models = {"base": both(5, 5), "prompted": both(10, 5), "engraved": both(15, 10), "cloned": both(9, 18)}
    run = write_scores(write_run(tmp_path / "a"), models)
    (front,) = fronts(load_runs([run]))
    assert front.trust == "calf_truth · mc1 · accuracy" and front.help == "calf_hhh · ab_swap · accuracy_helpful"
    assert {point.subject: point.is_on_front for point in front.points} == {
        "base": False, "prompted": False, "engraved": True, "cloned": True,
    }  # fmt: skip
    assert all(point.trust.stderr is not None and point.trust.n == 20 for point in front.points)
    (one,) = tradeoffs([front])
    assert one.figure.count("<circle") == 4 and one.figure.count("curve front") == 1
    assert 'id="tradeoff"' in render(load_runs([run]))


def test_points_of_equal_coordinates_are_on_the_front_together_and_a_model_that_arms_share_is_one_point(tmp_path: Path):
    shared = {"base": "Evaluate-1-base"}
    runs = [write_scores(write_run(tmp_path / name, drop=drop), {"base": both(9, 9), "cloned": both(9, 9)}, artifacts=shared)
            for name, drop in (("all", []), ("candor", ["candor"]))]  # fmt: skip
    (front,) = fronts(load_runs(runs))
    assert len(front.points) == 3 and all(point.is_on_front for point in front.points)


def test_without_both_axes_there_is_no_front(tmp_path: Path):
    run = write_scores(write_run(tmp_path / "a"), {"base": both(5, 5)[:20], "cloned": both(6, 6)[:20]})
    assert fronts(load_runs([run])) == [] and 'id="tradeoff"' not in render(load_runs([run]))


@pytest.mark.parametrize("error", [None, 0.0, 0.4])
def test_a_scatter_plot_of_one_place_can_be_drawn_and_none_is_empty(error: float | None):
    figure = scatter([Spot("a", "s-base", (0.5, error), (0.5, error))], x_label="x", y_label="y", title="t")
    assert "<circle" in figure and "nan" not in figure and figure.count("whisker") == (2 if error else 0)
    assert scatter([], x_label="x", y_label="y", title="t") == ""


def add_reviews(run: Path, subject: str, rows: list[dict[str, Any]]) -> None:
    """A judge's reviews of a model's answers against those of gpt, as a node of the run."""
    place = run / "stages" / f"judged_{subject}_gpt"
    place.mkdir()
    jsonl.write(place / "reviews.jsonl", rows)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["nodes"][place.name] = {"stage": "Judge", "status": "computed", "path": str(place),
                                     "counts": {"in": len(rows), "kept": len(rows), "dropped": {}}}  # fmt: skip
    write_json(run / "manifest.json", manifest)


def test_judged_answers_make_a_front_of_their_own_and_a_card_that_is_invalid_none(tmp_path: Path):
    run = write_scores(write_run(tmp_path / "a"), {"engraved": both(15, 10)[:20], "cloned": both(9, 18)[:20]})
    for subject, marks in (("engraved", (8.0, 6.0)), ("cloned", (7.0, 9.0)), ("base", (5.0, 5.0))):
        rows = [asdict(Review(f"r{n}", n, "a", "b", "", (marks[0], marks[1] - n % 2), "j", {})) for n in range(10)]
        add_reviews(run, subject, rows)
    (front,) = fronts(load_runs([run]))
    assert front.help == "share of questions won against gpt"
    assert {point.subject: point.help.value for point in front.points} == {"engraved": 1.0, "cloned": 0.0}


def test_what_a_model_wins_by_longer_answers_alone_is_gone_from_the_front_at_equal_length(tmp_path: Path):
    run = write_scores(write_run(tmp_path / "a"), {"engraved": both(15, 10)[:20], "cloned": both(9, 18)[:20]})
    for subject, extra in (("engraved", 0), ("cloned", 30)):
        # The longer answer wins, whatever it says.
        ours = [8 + extra + 8 * n for n in range(24)]
        rows = [asdict(Review(f"r{n}", n, "a", "b", "", (9.0, 4.0) if words > 100 else (4.0, 9.0), "j", {"words": [words, 100]}))
                for n, words in enumerate(ours)]  # fmt: skip
        add_reviews(run, subject, rows)
    raw, controlled = fronts(load_runs([run]))
    assert controlled.help == f"{raw.help}, length-controlled"
    won, at_equal_length = ({p.subject: p.help.value for p in front.points} for front in (raw, controlled))
    assert won["cloned"] > won["engraved"] + 0.15 and abs(at_equal_length["cloned"] - at_equal_length["engraved"]) < 0.1
    assert all(point.help.stderr for point in controlled.points)
