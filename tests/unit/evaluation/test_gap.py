"""Laws of the engraving gap's numbers: means by hand, the share closed, and no number from what is broken."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from selfalign.evaluation import gap


def row(number: int, writer: float, base: float, engraved: float, *, tokens: int = 10, **more: Any) -> dict[str, Any]:
    logprobs = {"prompted": writer, "base": base, "engraved": engraved}
    return {
        "id": f"r{number}", "prompt_id": f"p{number}", "source": "self_instruct", "cited": ["candor"], "split": "trained",
        "n_tokens": tokens, "logprobs": logprobs, "kept": True, "reason": "",
    } | more  # fmt: skip


TWO = [row(1, -2.0, -12.0, -4.0, tokens=10), row(2, -3.0, -9.0, -3.0, tokens=4)]


def test_the_gap_of_two_responses_is_what_the_hand_gives() -> None:
    base, engraved = gap.gap(TWO, "base"), gap.gap(TWO, "engraved")
    # Gaps of the base: 10 and 6; of the engraved model: 2 and 0.
    assert (base.nats, base.nats_error) == (8.0, pytest.approx(2.0))
    assert (engraved.nats, engraved.nats_error) == (1.0, pytest.approx(1.0))
    assert base.per_token == pytest.approx((1.0 + 1.5) / 2) and engraved.per_token == pytest.approx((0.2 + 0.0) / 2)
    assert base.closed is None and engraved.closed == pytest.approx(1 - 1 / 8)
    # Residuals 2 - 10/8 and 0 - 6/8 around the ratio 1/8: their standard error, over the base's gap.
    assert engraved.closed_error == pytest.approx(0.75 / 8)


def test_the_base_has_closed_nothing_and_a_student_as_good_as_the_writer_all() -> None:
    rows = [row(n, -2.0 - n, -30.0 - n, -2.0 - n) for n in range(8)]
    assert gap.gap(rows, "engraved").closed == 1.0 and gap.gap(rows, "engraved").nats == 0.0
    rows = [one | {"logprobs": one["logprobs"] | {"engraved": one["logprobs"]["base"]}} for one in rows]
    assert gap.gap(rows, "engraved").closed == 0.0


def test_the_error_of_the_share_is_that_of_samples_drawn_again() -> None:
    draw = random.Random(0)

    def share(n: int) -> gap.Gap:
        rows = []
        for number in range(n):
            size = draw.gauss(20, 6)
            own = -5.0 - draw.random()
            rows.append(row(number, own, own - size, own - 0.25 * size - draw.gauss(0, 2)))
        return gap.gap(rows, "engraved")

    found = [share(60) for _ in range(400)]
    values = [one.closed for one in found if one.closed is not None]
    spread = math.sqrt(sum((value - 0.75) ** 2 for value in values) / len(values))
    errors = [one.closed_error for one in found if one.closed_error is not None]
    assert len(values) == 400 and sum(errors) / len(errors) == pytest.approx(spread, rel=0.1)


def test_no_share_is_counted_of_a_gap_that_is_not_there() -> None:
    draw = random.Random(1)
    rows = [row(n, -5.0 - n, -5.0 - n + draw.gauss(0, 1), -7.0 - 2 * n) for n in range(20)]
    found = gap.gap(rows, "engraved")
    assert found.closed is None and found.closed_error is None and found.nats is not None


@pytest.mark.parametrize("name", ["prompted", "base", "engraved"])
@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_a_broken_model_has_no_number_but_a_reason(name: str, value: str) -> None:
    rows = [dict(one) for one in TWO]
    rows[0]["logprobs"] = rows[0]["logprobs"] | {name: value}
    found = gap.gap(rows, "engraved")
    assert found.nats is None and found.closed is None and f"1 of 2 log-probabilities of {name}" in found.reason


def test_a_model_to_which_all_responses_are_alike_has_no_number() -> None:
    rows = [row(n, -2.0 - n, -9.0 - n, -4.0) for n in range(3)]
    assert "same log-probability under engraved" in gap.gap(rows, "engraved").reason
    assert gap.gap(rows, "base").reason == "" and gap.gap([], "base").reason == "no responses"


def test_dropped_rows_count_for_nothing_and_a_single_response_has_no_error() -> None:
    rows = [TWO[0], TWO[1] | {"kept": False, "reason": "revised", "logprobs": {}}]
    found = gap.gap(rows, "engraved")
    assert (found.n, found.nats, found.nats_error, found.per_token_error) == (1, 2.0, None, None)


def test_a_response_counts_for_each_principle_it_cites_once() -> None:
    rows = [row(1, -2, -9, -3, cited=["candor", "candor", "static"]), row(2, -2, -9, -3, cited=[])]
    found = gap.by(rows, lambda one: one["cited"])
    assert {name: [one["id"] for one in own] for name, own in found.items()} == {"candor": ["r1"], "static": ["r1"]}


def test_the_manifest_s_numbers_name_model_and_split() -> None:
    rows = [*TWO, row(3, -1.0, -5.0, -2.0, split="held_out")]
    found = gap.metrics(rows)
    assert found["base/trained/nats"] == 8.0 and found["engraved/held_out/nats"] == 1.0
    assert found["engraved/trained/share_closed"] == pytest.approx(0.875) and "base/trained/share_closed" not in found
    assert not any("invalid" in key for key in found) and not any(key.startswith("prompted") for key in found)
