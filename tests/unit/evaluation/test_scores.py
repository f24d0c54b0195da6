from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from selfalign import jsonl
from selfalign.evaluation.catalogue import catalogue
from selfalign.evaluation.checks import LETTERS, MIN_FOR_POSITION, check
from selfalign.evaluation.protocols import EXAMS, default_chat
from selfalign.evaluation.scores import (
    answer_row,
    checks_of,
    exam_scores,
    mean,
    outcome_of,
    outcome_row,
    scores_of,
)


def outcomes(items, protocol: str, logprobs):
    task = next(task for task in catalogue().values() if protocol in (*task.protocols, *task.further))
    chosen = items[task.name]
    return [EXAMS[protocol].outcome(item, logprobs(item)) for item in chosen]


def pair_count(protocol: str, item) -> int:
    return len(EXAMS[protocol].pairs(default_chat(), item))


@pytest.mark.parametrize("protocol", EXAMS)
def test_a_model_that_knows_every_answer_scores_one(items, make, protocol):
    scores = exam_scores("base", "t", outcomes(items, protocol, lambda item: make.right_logprobs(protocol, item)))
    assert all(score.valid and score.value == 1.0 and score.stderr == 0.0 for score in scores)


@pytest.mark.parametrize("value", [-1.0, 0.0, math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("protocol", EXAMS)
def test_a_model_that_answers_everything_with_one_number_gets_none(items, protocol, value):
    scores = exam_scores("base", "t", outcomes(items, protocol, lambda item: [value] * pair_count(protocol, item)))
    assert all(not score.valid and score.value is None and score.stderr is None and score.reason for score in scores)


@pytest.mark.parametrize("protocol", EXAMS)
def test_a_single_nan_among_all_items_is_enough(items, make, protocol):
    found = outcomes(items, protocol, lambda item: make.right_logprobs(protocol, item))
    found[7] = replace(found[7], logprobs=(math.nan, *found[7].logprobs[1:]))
    assert check(found).reason == f"1 of {len(found)} items have a log-probability that is NaN or infinite"


def test_a_model_that_always_takes_the_first_choice_shown_gets_no_number(items):
    found = outcomes(items, "mc1", lambda item: [-1.0] + [-4.0] * (len(item.choices) - 1))
    assert "shown position 1 in 40 of 40 items" in check(found).reason
    few = found[: MIN_FOR_POSITION - 1]
    assert check(few).reason == ""
    (score,) = exam_scores("base", "t", few)
    assert score.value is not None and score.stderr is not None and score.chance is not None
    assert abs(score.value - score.chance) < 3 * score.stderr


def test_ties_on_half_of_the_items_are_accepted_and_on_more_are_not(items, make):
    found = outcomes(items, "mc1", lambda item: make.right_logprobs("mc1", item))
    tied = [replace(one, logprobs=(-1.0,) * len(one.logprobs)) for one in found]
    assert check(tied[:20] + found[20:]).reason == ""
    assert "all candidates tie on 21 of 40 items" in check(tied[:21] + found[21:]).reason


@pytest.mark.parametrize("protocol", LETTERS)
def test_a_liking_for_a_letter_is_counted_and_refused_only_where_nothing_else_is_there(items, make, protocol):
    # Each letter is asked for in both orders: content moves the preference, and the letter's part cancels out.
    def fond_of_a(item, sure: float) -> list[float]:
        moved = sure if item.right == 0 else -sure
        return [-1.0 + moved, -9.0, -1.0 - moved, -9.0]

    knowing = check(outcomes(items, protocol, lambda item: fond_of_a(item, 0.5)))
    assert (knowing.same_letter, knowing.tied, knowing.reason) == (40, 0, "")
    empty = check(outcomes(items, protocol, lambda item: fond_of_a(item, 0.0)))
    assert empty.same_letter == 40 and "all candidates tie on 40 of 40" in empty.reason
    right = check(outcomes(items, protocol, lambda item: make.right_logprobs(protocol, item)))
    assert right.same_letter == 0
    assert check(outcomes(items, "mc1", lambda item: make.right_logprobs("mc1", item))).same_letter is None


def test_what_the_gate_saw_is_derived_from_the_rows_alone(items, make):
    found = outcomes(items, "mc1", lambda item: make.right_logprobs("mc1", item))
    found[3] = replace(found[3], logprobs=(-math.inf, *found[3].logprobs[1:]))
    rows = [outcome_row("t", one) | {"truncated_tokens": int(n < 5)} for n, one in enumerate(found)]
    answer = answer_row("t", items["vicuna_questions"][0], "Yes.")
    seen = checks_of(json.loads(jsonl.dumps(row)) for row in [*rows, answer])
    assert list(seen) == [("t", "mc1")]
    one = seen["t", "mc1"]
    assert (one.items, one.infinite, one.truncated, one.choices) == (40, 1, 5, 40)
    assert 0 < one.at_position < 40 and one.reason.startswith("1 of 40 items")
    assert check([]).reason == "no items"


def test_the_overall_score_is_the_mean_over_items_and_categories_follow(items, make):
    wrong = {"harmless"}
    found = outcomes(
        items,
        "ab_swap",
        lambda item: (
            [-x for x in make.right_logprobs("ab_swap", item)]
            if item.category in wrong
            else make.right_logprobs("ab_swap", item)
        ),
    )
    by_metric = {score.metric: score for score in exam_scores("base", "hhh_alignment", found[5:])}
    assert list(by_metric) == [
        "accuracy",
        "accuracy_harmless",
        "accuracy_helpful",
        "accuracy_honest",
        "accuracy_other",
    ]
    assert by_metric["accuracy_harmless"].value == 0.0
    assert by_metric["accuracy_helpful"].value == 1.0
    assert by_metric["accuracy"].value == pytest.approx(30 / 35)
    assert (by_metric["accuracy"].n, by_metric["accuracy_harmless"].n) == (35, 5)


def test_mean_and_standard_error_are_those_of_the_textbook():
    assert mean([1.0, 2.0, 3.0, 6.0]) == (3.0, pytest.approx(math.sqrt(14 / 3 / 4)))
    assert mean([0.25]) == (0.25, None)


@pytest.mark.parametrize("protocol", EXAMS)
def test_an_outcome_comes_back_from_its_row_bit_for_bit(items, make, protocol):
    random_logprob = make.random_logprob(3)
    for one in outcomes(
        items, protocol, lambda item: [random_logprob(*pair) for pair in EXAMS[protocol].pairs(default_chat(), item)]
    ):
        row = jsonl.dumps(outcome_row("t", one))
        assert outcome_of(json.loads(row)) == one


def test_a_row_holds_numbers_that_json_has_no_word_for(items):
    item = items["truthfulqa_mc"][0]
    one = EXAMS["mc1"].outcome(item, [math.nan] + [-math.inf] * (len(item.choices) - 1))
    row = outcome_row("t", one)
    jsonl.dumps(row)
    assert row["logprobs"][:2] == ["nan", "-inf"]
    assert row["correct"] is None
    assert math.isnan(outcome_of(row).logprobs[0])


def test_answers_are_measured_in_words_and_emptiness(items):
    rows = [
        answer_row("t", item, answer)
        for item, answer in zip(items["vicuna_questions"], ["one two three", "  ", "one"], strict=False)
    ]
    words, empty = scores_of("base", rows)
    assert (words.protocol, words.metric, words.value, words.n) == ("generate", "mean_words", pytest.approx(4 / 3), 3)
    assert (empty.metric, empty.value, empty.chance) == ("empty_share", pytest.approx(1 / 3), None)
