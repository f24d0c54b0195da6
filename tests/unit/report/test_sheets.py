"""Laws of what stands below the scores: published results only beside their own task, judges' cards derived from stored reviews."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.errors import DataError
from selfalign.evaluation.catalogue import catalogue
from selfalign.evaluation.judge import Review, review_of
from selfalign.evaluation.judge_card import card
from selfalign.evaluation.protocols import EXAMS
from selfalign.evaluation.reference import REPORTED, tables
from selfalign.report import load_run
from selfalign.report.check import check
from selfalign.report.export import as_csv, as_markdown
from selfalign.report.html import render
from selfalign.report.judged import judged, sheet, summary
from selfalign.report.page import tables as tables_of
from selfalign.report.published import published
from selfalign.report.terminal import plain_text
from tests.unit.report.run_folders import score


def reviews(count: int, marks: tuple[float, float]) -> list[Review]:
    return [
        Review(f"r{n}", n, "a", "b", "", (marks[0], marks[1] - n % 2), "j", {"category": "generic"})
        for n in range(count)
    ]


def test_published_tables_name_tasks_and_protocols_that_there_are_and_say_where_they_are_from():
    for table in tables():
        task = catalogue()[table.task]
        assert not task.protocols or table.protocol in (*task.protocols, *task.further)
        if table.protocol in EXAMS:
            assert all(metric.startswith(EXAMS[table.protocol].metric) for metric in table.metrics)
        assert table.about and table.rows
        for row in table.rows:
            assert "arXiv:" in row.source
            assert all(value is None or 0 < value < 1 for value in row.values)


def test_the_overall_of_hhh_is_the_mean_of_its_categories_over_items():
    (table,) = (table for table in tables() if table.task == "hhh_alignment")
    for row in table.rows:
        *parts, overall = row.values
        if None not in parts:
            mean = sum(part * n for part, n in zip(parts, (58, 59, 61, 43), strict=True)) / 221  # type: ignore[operator]
            assert overall == pytest.approx(mean, abs=0.011), row.model


def test_a_row_without_one_value_for_each_metric_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "scores.yaml"
    path.write_text("[{task: t, protocol: p, metrics: [a, b], source: s, about: x, rows: [{model: M, values: [1]}]}]")
    with pytest.raises(DataError, match="2 values for M"):
        tables(path)


def test_published_results_stand_beside_the_scores_of_their_task_and_protocol_alone(edit):
    ours = score("engraved", 0.5) | {"task": "hhh_alignment", "protocol": "ab_swap", "metric": "accuracy_honest"}
    run = edit("scores.jsonl", lambda rows: [ours])
    (found,) = published([run])
    assert found.head == ("model", "accuracy_harmless", "accuracy_helpful", "accuracy_honest", "accuracy_other", "accuracy",
                          "origin", "source")  # fmt: skip
    assert [row[-2] for row in found.rows[:-1]] == [REPORTED] * 7 and found.rows[-1][-2] == "this run"
    assert found.rows[-1][0] == f"engraved of {run.run_id}" and found.rows[-1][3].startswith("0.500")
    for text in (plain_text([run]), render([run])):
        assert REPORTED in text and "Dromedary-65B (engraved)" in text


def test_a_run_on_other_questions_has_no_published_results_beside_it(run_folder: Path):
    run = load_run(run_folder)
    assert published([run]) == [] and REPORTED not in render([run])


def test_a_card_is_shown_from_the_stored_reviews_of_a_run(edit, run_folder: Path):
    jsonl.write(run_folder / "reviews.jsonl", map(asdict, reviews(10, (9, 7))))
    entry = {
        "stage": "Judge",
        "status": "computed",
        "path": str(run_folder),
        "counts": {"in": 10, "kept": 10, "dropped": {}},
    }
    run = edit("manifest.json", lambda content: content["nodes"].update(judged_cloned_other=entry) or content)
    (found,) = judged([run])
    assert found.title.startswith("judged_cloned_other") and found.rows[0][:5] == ("all", "10", "10", "0", "0")
    assert found.title in render([run]) and "each pair was shown in one order" in plain_text([run])


def test_the_win_rate_at_equal_length_stands_beside_the_raw_one_and_verify_finds_it_changed(edit, run_folder: Path):
    rows = [asdict(one) for one in reviews(10, (9, 9))] + [asdict(one) for one in reviews(10, (8, 9))]
    for number, row in enumerate(rows):
        row |= {"question_id": number, "metadata": {"category": "generic", "words": [100 + 9 * number, 140]}}
    jsonl.write(run_folder / "reviews.jsonl", rows)
    entry = {
        "stage": "Judge",
        "status": "computed",
        "path": str(run_folder),
        "counts": {"in": 20, "kept": 20, "dropped": {}},
    }
    run = edit("manifest.json", lambda content: content["nodes"].update(judged_cloned_other=entry) or content)
    (found,) = judged([run])
    cells = dict(zip(found.head, found.rows[0], strict=True))
    one = card([review_of(row) for row in rows])
    assert one.controlled is not None and one.win_rate == 0.5
    assert cells["win rate"].startswith("0.500 ± ") and cells["length-controlled"] != cells["win rate"]
    assert cells["length-controlled"].startswith(f"{one.controlled.win_rate.value:.3f} ± {one.controlled.stderr:.3f} [")
    assert f"At equal length it would win {cells['length-controlled']}" in found.about
    assert summary(one)["judge/length_controlled"] == one.controlled.win_rate.value
    page = render([run])
    (table,) = (table for table in tables_of(page) if table.title.endswith(found.title))
    assert cells["length-controlled"] in as_csv(table) and cells["length-controlled"] in as_markdown(table)
    path = run_folder / "report.html"
    path.write_text(page)
    assert check(run_folder)[1] == []
    path.write_text(page.replace(f"<td>{cells['length-controlled'][:5]}", "<td>0.987"))
    (wrong,) = check(run_folder)[1]
    assert "length-controlled" in wrong and "0.987" in wrong


def test_a_card_says_why_nothing_is_known_of_equal_length():
    found = sheet("x", card(reviews(8, (9, 6))))
    assert "not known: the lengths of the answers to 8 of 8 questions are not known" in found.about
    assert dict(zip(found.head, found.rows[0], strict=True))["length-controlled"] == "–"
    assert "8 of 8" in str(summary(card(reviews(8, (9, 6))))["judge/not_length_controlled"])


def test_an_invalid_card_shows_its_reason_and_no_number():
    found = sheet("x", card([one for one in reviews(8, (5, 6)) if one.score == (5, 6)]))
    assert found.about.startswith("Invalid: every review gives the marks 5 and 6")
    assert set(found.rows[0][2:]) == {"–"} and "Won" not in found.about
