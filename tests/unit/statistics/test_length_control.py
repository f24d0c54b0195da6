"""Laws of the win rate at equal length: what length alone does is taken out, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from selfalign.errors import DataError
from selfalign.statistics.length_control import RIDGE, LengthControlled, length_controlled

SEEDS = range(40)


def verdicts(seed: int, *, at_equal_length: float, effect: float, longer_by: float = 30.0, questions: int = 80) -> Any:
    """Points and lengths from a judge who likes length by `effect`, of answers that are longer by `longer_by` ± 50 words."""
    random = np.random.default_rng(seed)
    extra = np.rint(random.normal(longer_by, 50, questions))
    chance = expit(logit(at_equal_length) + effect * np.tanh(extra / extra.std()))
    return (random.random(questions) < chance).astype(float), extra


def controlled(points: Any, extra: Any, draws: int = 99) -> LengthControlled:
    found = length_controlled(points, extra, draws=draws)
    assert found is not None
    return found


@pytest.mark.parametrize("points", [[1, 0, 0.5, 1, 1], [1, 1, 1], [0], [0.5, 0.5]])
def test_answers_of_equal_length_win_at_equal_length_what_they_win(points):
    assert controlled(points, [0] * len(points)).win_rate.value == pytest.approx(np.mean(points), abs=1e-12)


def test_a_preference_for_length_alone_comes_back_as_a_half_and_the_raw_win_rate_does_not():
    drawn = [verdicts(seed, at_equal_length=0.5, effect=2.0) for seed in SEEDS]
    raw, values = [one.mean() for one, _ in drawn], [controlled(*one).win_rate.value for one in drawn]
    assert np.mean(raw) > 0.62 and abs(np.mean(values) - 0.5) < 3 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize(("longer_by", "questions"), [(0.0, 80), (30.0, 80), (75.0, 80), (30.0, 20)])
def test_intervals_cover_the_truth_about_as_often_as_they_say_and_the_standard_error_is_the_spread(
    longer_by, questions
):
    drawn = [
        verdicts(seed, at_equal_length=0.5, effect=2.0, longer_by=longer_by, questions=questions) for seed in range(150)
    ]
    found = [controlled(*one, draws=399) for one in drawn if one[1].min() <= 0 <= one[1].max()]
    # 0.9 is what the docstring promises; 150 draws of it have a standard error of 0.024.
    assert np.mean([one.win_rate.low <= 0.5 <= one.win_rate.high for one in found]) >= 0.9 - 2 * 0.024
    spread = np.std([one.win_rate.value for one in found])
    assert np.mean([one.stderr for one in found]) == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize(("truth", "effect"), [(0.7, 0.0), (0.7, 2.0), (0.3, 2.0), (0.7, -2.0)])
def test_a_true_effect_is_recovered_whatever_the_judge_thinks_of_length(truth, effect):
    values = [controlled(*verdicts(seed, at_equal_length=truth, effect=effect)).win_rate.value for seed in SEEDS]
    assert abs(np.mean(values) - truth) < 3 * np.std(values) / np.sqrt(len(values))


def test_the_fit_is_the_maximum_of_the_likelihood_with_its_stated_penalty():
    points, extra = verdicts(3, at_equal_length=0.6, effect=1.0)
    points[::7] = 0.5
    length = np.tanh(extra / extra.std())

    def loss(weights: np.ndarray) -> float:
        odds = weights[0] + weights[1] * length
        return float(np.logaddexp(0, odds).sum() - points @ odds + RIDGE / 2 * weights[1] ** 2)

    best = minimize(loss, np.zeros(2), tol=1e-12).x
    assert controlled(points, extra).win_rate.value == pytest.approx(expit(best[0]), abs=1e-6)


def test_the_other_side_wins_the_rest():
    points, extra = verdicts(1, at_equal_length=0.7, effect=1.0)
    both = controlled(points, extra).win_rate.value + controlled(1 - points, -extra).win_rate.value
    assert both == pytest.approx(1)


LENGTHS = np.array([-40.0, -10, -3, 0, 2, 15, 30, 80])


@pytest.mark.parametrize(
    ("points", "least", "most"),
    [
        (np.ones(8), 1, 1),
        (np.zeros(8), 0, 0),
        (LENGTHS > 0, 0, 0.5),  # the longer answer always wins, and what is equal is lost
        ((1 + np.sign(LENGTHS)) / 2, 0.4, 0.6),
        (LENGTHS < 0, 0, 0.5),
        (LENGTHS > -20, 0.5, 1),
        (np.full(8, 0.5), 0.5, 0.5),
    ],
)
def test_verdicts_that_length_separates_have_a_number_and_an_interval_with_a_width(points, least, most):
    found = controlled(points, LENGTHS, draws=399)
    assert least <= found.win_rate.value <= most
    assert 0 <= found.win_rate.low < found.win_rate.high <= 1 and found.stderr > 0


def test_where_every_answer_is_longer_nothing_is_said_of_equal_length():
    assert length_controlled([1, 0, 1], [5, 9, 1]) is None and length_controlled([1, 0, 1], [-5, -9, -1]) is None
    assert length_controlled([1, 1], [7, 7]) is None
    assert length_controlled([1, 0, 1], [0, 9, 1]) is not None


def test_few_answers_on_one_side_make_a_wide_interval():
    points, extra = verdicts(5, at_equal_length=0.5, effect=2.0, longer_by=80)
    thin = controlled(points, extra, draws=399).win_rate
    broad = controlled(*verdicts(5, at_equal_length=0.5, effect=2.0, longer_by=0), draws=399).win_rate
    assert thin.high - thin.low > 1.5 * (broad.high - broad.low)


def test_the_order_of_questions_and_the_unit_of_length_change_nothing():
    points, extra = verdicts(2, at_equal_length=0.6, effect=1.0)
    order = np.random.default_rng(0).permutation(points.size)
    assert length_controlled(points, extra) == length_controlled(points[order], extra[order])
    assert controlled(points, extra).win_rate.value == pytest.approx(controlled(points, 6 * extra).win_rate.value)


@pytest.mark.parametrize(
    ("points", "extra", "confidence"),
    [
        ([], [], 0.95),
        ([1, 2], [0, 1], 0.95),
        ([1], [0, 1], 0.95),
        ([1], [np.nan], 0.95),
        ([np.nan], [0], 0.95),
        ([1], [0], 1),
    ],
)
def test_what_is_no_verdict_or_length_is_refused(points, extra, confidence):
    with pytest.raises(DataError, match="allowed are points from 0 to 1"):
        length_controlled(points, extra, confidence=confidence)
