from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign.errors import DataError
from selfalign.evaluation.catalogue import catalogue
from selfalign.evaluation.data import choose, load, read

real = pytest.mark.skipif("SELFALIGN_DATA" not in os.environ, reason="SELFALIGN_DATA names no folder of real data")


def truthful(path: Path, *records: dict | str) -> Path:
    texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("[" + ",\n".join(texts) + "]", encoding="utf-8")
    return path


GOOD = {"question": "Q?", "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1, "b": 0}}


def test_the_right_choice_is_first_in_the_file_and_anywhere_when_shown(items):
    positions = Counter(item.right for item in items["truthfulqa_mc"])
    assert len(positions) > 2
    assert 0.2 < sum(item.right == 0 for item in items["hhh_alignment"]) / len(items["hhh_alignment"]) < 0.8


def test_the_order_shown_depends_on_the_candidates_and_not_on_their_order_in_the_file(tmp_path):
    there = read("truthfulqa", [truthful(tmp_path / "a.json", GOOD)])
    turned = GOOD | {"mc1_targets": {"b": 0, "a": 1}, "mc2_targets": {"b": 0, "a": 1}}
    here = read("truthfulqa", [truthful(tmp_path / "b.json", turned)])
    # Only the place in the file, which released_half needs, is another one.
    assert [replace(item, filed=()) for item in there] == [replace(item, filed=()) for item in here]
    assert {there[0].filed, here[0].filed} == {(0, 1), (1, 0)}


def test_a_repeated_candidate_counts_once(tmp_path):
    text = '{"question": "Q?", "mc1_targets": {"a": 1, "b": 0, "b ": 0}, "mc2_targets": {"a": 1, "a": 1, "b": 0}}'
    (item,) = read("truthfulqa", [truthful(tmp_path / "mc_task.json", text)])
    assert sorted(item.choices) == sorted(item.statements) == ["a", "b"]


def test_an_item_that_is_there_twice_is_kept_twice_with_two_ids(tmp_path):
    first, second = read("truthfulqa", [truthful(tmp_path / "mc_task.json", GOOD, GOOD)])
    assert first.id != second.id
    assert first.question == second.question


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ('{"question": "Q?", "mc1_targets": {"a": 1, "a": 0}, "mc2_targets": {"a": 1, "b": 0}}', "found both for 'a'"),
        (GOOD | {"mc1_targets": {"a": 1, "b": 1}}, "found 2 with 2 right"),
        (GOOD | {"mc1_targets": {"a": 1}}, "found 1 with 1 right"),
        (GOOD | {"mc1_targets": {"a": 1, "b": 2}}, "labelled 2"),
        (GOOD | {"mc1_targets": {"a": 1, " ": 0}}, "labelled 0"),
        (GOOD | {"mc2_targets": {"a": 1, "b": 1}}, "only one kind"),
        (GOOD | {"mc2_targets": ["a"]}, "expected a field 'mc2_targets' (object)"),
        ({"question": "Q?"}, "expected a field 'mc1_targets' (object), found None"),
        (GOOD | {"question": 3}, "expected a field 'question' (str), found 3"),
    ],
)
def test_a_bad_item_is_named_with_file_and_number(tmp_path, record, says):
    path = truthful(tmp_path / "mc_task.json", GOOD, record)
    with pytest.raises(DataError, match="item 2") as caught:
        read("truthfulqa", [path])
    assert str(path) in str(caught.value)
    assert says in str(caught.value)


def test_text_that_is_not_json_is_named_with_its_line(tmp_path):
    path = truthful(tmp_path / "mc_task.json", GOOD, "{oops}")
    with pytest.raises(DataError, match=r"mc_task\.json:2: expected JSON"):
        read("truthfulqa", [path])


def test_a_choice_between_three_is_no_hhh_item(tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps({"examples": [{"input": "Q?", "target_scores": {"a": 1, "b": 0, "c": 0}}]}))
    with pytest.raises(DataError, match="example 1: expected two candidates, found 3"):
        read("hhh", [path])


@pytest.mark.parametrize("text", ["[]", '{"examples": []}'])
def test_a_file_without_items_is_an_error(tmp_path, text):
    path = tmp_path / "task.json"
    path.write_text(text)
    with pytest.raises(DataError, match="found none"):
        read("truthfulqa" if text == "[]" else "hhh", [path])


def test_a_missing_file_and_an_unknown_format_are_errors(tmp_path):
    with pytest.raises(DataError, match="found nothing there"):
        read("hhh", [tmp_path / "task.json"])
    with pytest.raises(DataError, match="did you mean 'hhh'"):
        read("hhhh", [tmp_path / "task.json"])


def test_a_limit_takes_a_sample_that_grows_with_it_and_differs_by_seed(items):
    every = items["truthfulqa_mc"]
    ten, twenty = choose(every, 10, 0), choose(every, 20, 0)
    assert (len(ten), len(twenty)) == (10, 20)
    assert set(ten) < set(twenty)
    assert ten != every[:10]
    assert ten != choose(every, 10, 1)
    assert ten == [item for item in every if item in set(ten)]
    assert choose(every, 0, 0) == choose(every, 1000, 0) == every


@real
@pytest.mark.parametrize(("name", "size"), [("truthfulqa_mc", 817), ("hhh_alignment", 221), ("vicuna_questions", 80)])
def test_every_item_of_the_real_data_is_kept_under_an_id_of_its_own(name, size):
    items = load(catalogue()[name], os.environ["SELFALIGN_DATA"])
    assert len(items) == len({item.id for item in items}) == size


@real
def test_the_real_data_has_the_known_categories_and_chance():
    folder = os.environ["SELFALIGN_DATA"]
    hhh = Counter(item.category for item in load(catalogue()["hhh_alignment"], folder))
    assert hhh == {"harmless": 58, "helpful": 59, "honest": 61, "other": 43}
    truthfulqa = load(catalogue()["truthfulqa_mc"], folder)
    assert sum(1 / len(item.choices) for item in truthfulqa) / 817 == pytest.approx(0.2225, abs=5e-5)
    # First in all 817 in the file: shown in random order, about as often as chance.
    assert sum(item.right == 0 for item in truthfulqa) / 817 == pytest.approx(0.2225, abs=0.05)


HEADER = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source"


def test_a_csv_gives_the_items_of_the_json_file_and_is_read_where_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "truthfulqa").mkdir()
    row = "A,B,Do stones float?,No,No; Pumice may float.,Yes; Only at night,https://x"
    (tmp_path / "truthfulqa" / "TruthfulQA.csv").write_text(f"{HEADER}\n{row}\n", encoding="utf-8")
    record = {"question": "Do stones float?", "mc1_targets": {"No.": 1, "Yes.": 0, "Only at night.": 0},
              "mc2_targets": {"No.": 1, "Pumice may float.": 1, "Yes.": 0, "Only at night.": 0}}  # fmt: skip
    task = catalogue()["truthfulqa_mc"]
    from_csv = load(task, str(tmp_path))
    file = truthful(tmp_path / "truthfulqa" / "mc_task.json", record)
    assert task.paths(str(tmp_path)) == [file]
    assert load(task, str(tmp_path)) == from_csv


def test_a_csv_without_its_columns_is_refused_and_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "TruthfulQA.csv").write_text("Question,Answer\nWhy?,Because\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"missing Best Answer, Correct Answers, Incorrect Answers \(found: Question, Answer\)"
    ):
        read("truthfulqa", [tmp_path / "TruthfulQA.csv"])


@real
def test_the_real_csv_has_the_real_items() -> None:
    folder = Path(os.environ["SELFALIGN_DATA"]) / "truthfulqa"
    # The two files have the questions in different orders.
    found, expected = (
        {item.id: item for item in read("truthfulqa", [folder / name])} for name in ("TruthfulQA.csv", "mc_task.json")
    )
    assert len(found) == 817 and found == expected
