from __future__ import annotations

from array import array

import pytest

from selfalign.training.batches import StepLoader, StepPlan, collate, common_beginning, epoch_order, hold_out, split
from selfalign.training.encode import IGNORE_INDEX, Row
from selfalign.training.settings import Batching


def rows(count: int) -> list[Row]:
    return [Row(f"r{n}", array("i", range(2 + n * 7 % 11)), 1) for n in range(count)]


def steps(plan: StepPlan) -> list[list[str]]:
    return [[row.id for row in plan.rows_of(step)] for step in range(plan.total_steps)]


def test_order_is_a_function_of_seed_and_epoch():
    first = steps(StepPlan(rows(20), 8, 2, seed=1))
    epoch_order.cache_clear()
    assert steps(StepPlan(rows(20), 8, 2, seed=1)) == first
    assert steps(StepPlan(rows(20), 8, 2, seed=2)) != first
    assert first[:3] != first[3:]


def test_every_epoch_visits_every_row_once():
    plan = StepPlan(rows(20), 8, 3, seed=0)
    assert plan.steps_per_epoch == 3
    for epoch in range(3):
        visited = sum(steps(plan)[3 * epoch : 3 * epoch + 3], [])
        assert sorted(visited) == sorted(row.id for row in plan.rows)


def test_a_loader_that_starts_late_gives_what_an_earlier_one_would_have_given():
    plan = StepPlan(rows(20), 8, 2, seed=3)
    whole = list(StepLoader(plan, 0, 4, Batching.bucket, 0, 1))
    late = list(StepLoader(plan, 4, 4, Batching.bucket, 0, 1))
    assert len(late) == plan.total_steps - 4
    for one, other in zip(whole[4:], late, strict=True):
        assert one["step"] == other["step"]
        assert all(
            (a["input_ids"] == b["input_ids"]).all() for a, b in zip(one["micros"], other["micros"], strict=True)
        )


@pytest.mark.parametrize("batching", list(Batching))
@pytest.mark.parametrize("count", [8, 5, 1])
def test_processes_share_the_rows_of_a_step_and_make_equally_many_passes(batching, count):
    shares = [split(rows(count), 2, batching, rank, 2) for rank in range(2)]
    assert len(shares[0]) == len(shares[1])
    assert sorted(row.id for share in shares for micro in share for row in micro) == sorted(r.id for r in rows(count))


def test_bucketing_sorts_within_a_step_and_leaves_its_rows_alone():
    micros = split(rows(16), 4, Batching.bucket, 0, 1)
    lengths = [len(row.ids) for micro in micros for row in micro]
    assert lengths == sorted(lengths, reverse=True)


def test_a_process_alone_packs_rows_into_the_tokens_of_the_longest_ones_and_never_fewer_than_it_is_told():
    long, short = ([Row(f"{n}{k}", array("i", [1, 2, 3, 9, *([k] * n)]), 4) for k in range(6)] for n in (16, 6))
    micros = split([*long, *short], 2, Batching.pack, 0, 1)
    # Two rows of twenty tokens are forty: two long ones behind their beginning, or five short ones.
    assert all(len(micro) >= 2 for micro in micros[:-1])
    assert all(collate(micro, Batching.pack)["input_ids"].shape[1] <= 40 for micro in micros)
    assert sorted(row.id for micro in micros for row in micro) == sorted(row.id for row in [*long, *short])
    assert len(micros) < 6 and len(split([*long, *short], 2, Batching.bucket, 0, 1)) == 6
    # Of several processes each has as many rows as it is told.
    shares = [split([*long, *short], 2, Batching.pack, rank, 2) for rank in range(2)]
    assert {len(micro) for share in shares for micro in share} == {2}


def test_padding_is_on_the_right_and_has_no_label():
    micro = collate([Row("a", array("i", [5, 6, 7]), 2), Row("b", array("i", [8, 9]), 1)], Batching.bucket)
    assert micro["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert micro["labels"].tolist() == [[-100, -100, 7], [-100, 9, -100]]
    assert micro["first"] == 1


def test_packing_restarts_positions_and_labels_no_first_token():
    micro = collate([Row("a", array("i", [5, 6, 7]), 2), Row("b", array("i", [8, 9]), 0)], Batching.pack)
    assert micro["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert micro["labels"].tolist() == [[-100, -100, 7, -100, 9]]
    assert micro["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert micro["at"].tolist() == [1, 3]
    assert micro["rows"]["common"] == 0
    assert micro["rows"]["places"].tolist() == [[0, 1, 2], [3, 4, 3]]
    assert micro["rows"]["slots"].tolist() == [0, 1, 2, 3, 4]
    assert micro["counts"] == [1, 1]


def test_what_packed_rows_begin_with_stands_once_and_every_row_goes_on_behind_it():
    rows = [Row("a", array("i", [5, 6, 7, 1, 2]), 4), Row("b", array("i", [5, 6, 7, 3, 4, 4]), 4)]
    micro = collate(rows, Batching.pack)
    assert micro["input_ids"].tolist() == [[5, 6, 7, 1, 2, 3, 4, 4]]
    assert micro["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 5]]
    assert micro["labels"].tolist() == [[-100, -100, -100, -100, 2, -100, 4, 4]]
    assert micro["at"].tolist() == [3, 5, 6]
    assert micro["rows"]["common"] == 3
    assert micro["rows"]["places"].flatten()[micro["rows"]["slots"]].tolist() == [3, 4, 5, 6, 7]


def test_the_order_of_packing_is_that_of_the_rows_and_not_of_the_file():
    given = [Row(str(n), array("i", [1, 2, n % 3, n, n]), 3) for n in range(16)]
    one, other = (split(order, 4, Batching.pack, 0, 1) for order in (given, given[::-1]))
    assert [[row.id for row in micro] for micro in one] == [[row.id for row in micro] for micro in other]


def test_what_rows_begin_with_is_laid_out_once_and_never_reaches_a_label():
    rows = [Row("a", array("i", [5, 6, 7, 1, 2]), 4), Row("b", array("i", [5, 6, 7, 3, 4, 4]), 4)]
    micro = collate(rows, Batching.share)
    assert micro["prefix"].tolist() == [[5, 6, 7]]
    assert micro["input_ids"].tolist() == [[1, 2, 0], [3, 4, 4]]
    assert micro["labels"].tolist() == [[-100, 2, -100], [-100, 4, 4]]
    assert micro["first"] == 1
    # One prompt, two answers: the prompt's last token stays with each row, since each is predicted from it.
    assert common_beginning([Row("a", array("i", [5, 6, 7]), 2), Row("b", array("i", [5, 6, 8]), 2)]) == 1
    # Rows with little in common are not computed together.
    others = [*rows, Row("c", array("i", [9, 8]), 1), Row("d", array("i", [5, 1, 1, 1, 1]), 4)]
    found = {tuple(sorted(row.id for row in micro)) for micro in split(others, 4, Batching.share, 0, 1)}
    assert found == {("a", "b"), ("c",), ("d",)}
    assert "prefix" not in collate([others[0], others[2]], Batching.share)


@pytest.mark.parametrize("batching", list(Batching))
def test_an_empty_micro_batch_has_no_label(batching):
    assert set(collate([], batching)["labels"].flatten().tolist()) == {IGNORE_INDEX}


def test_held_out_rows_depend_on_ids_and_seed_and_not_on_the_order_of_the_file():
    train, held = hold_out(rows(40), 0.1, seed=0)
    assert len(held) == 4 and len(train) == 36
    backwards = hold_out(rows(40)[::-1], 0.1, seed=0)[1]
    assert {row.id for row in held} == {row.id for row in backwards}
    assert {row.id for row in held} != {row.id for row in hold_out(rows(40), 0.1, seed=1)[1]}


def test_a_fraction_above_zero_holds_out_at_least_one_row_and_never_all():
    assert [len(part) for part in hold_out(rows(2), 0.01, 0)] == [1, 1]
    assert [len(part) for part in hold_out(rows(2), 0.99, 0)] == [1, 1]
    assert [len(part) for part in hold_out(rows(1), 0.5, 0)] == [1, 0]
    assert [len(part) for part in hold_out(rows(9), 0.0, 0)] == [9, 0]
