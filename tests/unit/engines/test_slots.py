"""Laws of the batch whose slots are filled again: what is computed how often, and what happens when memory is short."""

from __future__ import annotations

import logging
import random
from dataclasses import replace

import pytest

from selfalign.engines import generation
from selfalign.engines.attention import Segment
from selfalign.engines.base import Completion, GenerateRequest, Sampling, ScoreRequest
from selfalign.engines.huggingface import SPANNED, HuggingFace, HuggingFaceEngine
from selfalign.engines.model import ModelSettings, load_model, raw_tokenizer
from selfalign.engines.slots import Slots
from selfalign.errors import StageError
from tests.unit.engines.word_models import WORDS

DRAWN = Sampling(max_new_tokens=12, temperature=1.0, top_p=0.95)


def words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def opened(folder, **settings):
    return HuggingFace(ModelSettings(str(folder)), **settings).open()


def written(engine, asked) -> list[Completion]:
    found = {completion.id: completion for completion in engine.generate(asked)}
    return [found[request.id] for request in asked]


def arms(count: int, questions: int, named: bool) -> list[GenerateRequest]:
    """Prompts of an ablation: each arm leaves out one rule, so that all behind it stand elsewhere."""
    rules = [words(3, seed=100 + rule) for rule in range(count - 1)]
    stems = [" ".join(rule for number, rule in enumerate(rules) if number != left) for left in range(count)]
    return [
        GenerateRequest(
            f"{arm}.{question}", f"{stem} {words(4, seed=question)}", replace(DRAWN, max_new_tokens=4 + question % 9),
            seed=question, shared=f"{stem} " if named else "",
        )
        for arm, stem in enumerate(stems)
        for question in range(questions)
    ]  # fmt: skip


def distinct(folder, asked) -> int:
    """Tokens of a tree of all prompts but for their last tokens, which are what the first steps begin with."""
    read = [raw_tokenizer(folder).encode(request.prompt).ids[:-1] for request in asked]
    return len({tuple(tokens[: end + 1]) for tokens in read for end in range(len(tokens))})


@pytest.mark.parametrize("named", [True, False], ids=["named", "found"])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_prompts_of_all_arms_are_computed_once_and_each_is_answered_as_if_alone(llama, batch_size, named):
    asked = arms(17, 3, named)
    random.Random(0).shuffle(asked)
    with opened(llama, batch_size=batch_size) as engine:
        together = written(engine, asked)
        assert engine.computed_tokens == distinct(llama, asked)
    with opened(llama, batch_size=8) as engine:
        for arm in range(17):
            own = [request for request in asked if request.id.startswith(f"{arm}.")]
            alone = {completion.id: completion for completion in engine.generate(own)}
            assert all(alone[found.id] == found for found in together if found.id in alone)


def test_a_long_start_is_held_once_and_not_copied(llama, monkeypatch):
    copied, held = [], []
    fill = Slots.fill
    monkeypatch.setattr(
        Slots, "fill",
        lambda self, slot, own, shared: (copied.append(sum(map(len, own))), held.append(sum(map(len, shared))),
                                         fill(self, slot, own, shared)),
    )  # fmt: skip
    stem = words(80, seed=5) + " "
    asked = [GenerateRequest(str(i), stem + words(5, seed=i), DRAWN, seed=i, shared=stem) for i in range(20)]
    with opened(llama, batch_size=16) as engine:
        list(engine.generate(asked))
    assert set(held) == {80 - SPANNED}
    assert max(copied) <= 5 + SPANNED


def test_the_rules_of_an_arm_are_one_piece_for_its_rows_though_other_arms_branch_off_between_them(llama, monkeypatch):
    asked = arms(9, 4, named=True)
    with opened(llama, batch_size=4) as engine:
        expected = written(engine, asked)
    seen, joined = [], []
    fill, join = Slots.fill, Segment.join
    monkeypatch.setattr(generation, "HELD", 20)
    monkeypatch.setattr(
        Slots, "fill", lambda self, slot, own, shared: (seen.append(shared), fill(self, slot, own, shared))
    )
    monkeypatch.setattr(Segment, "join", staticmethod(lambda parts: (joined.append(len(parts)), join(parts))[1]))
    with opened(llama, batch_size=4) as engine:
        assert written(engine, asked) == expected
        assert engine.computed_tokens == distinct(llama, asked)
    assert {len(shared) for shared in seen} == {1}
    assert max(joined) >= 8, "the last arm's rules are as many nodes of the tree"
    assert len(joined) < len(asked) / 2, "rows that stand together see the same piece"


def test_a_start_that_was_named_is_kept_for_the_next_call_and_others_are_not(llama):
    stem = words(30, seed=5) + " "
    asked = [GenerateRequest(str(i), stem + words(5, seed=i), DRAWN, seed=i, shared=stem) for i in range(6)]
    with opened(llama) as engine:
        list(engine.generate(asked))
        first = engine.computed_tokens
        list(engine.generate(asked))
        assert engine.computed_tokens == 2 * first - (30 - SPANNED)
        nodes = engine._forest.tree.nodes()
        assert sum(len(node.tokens) for node in nodes) == 30 - SPANNED


@pytest.mark.parametrize("repeats", [0, 1])
def test_a_call_gives_the_same_bits_whatever_was_asked_before_it_though_texts_begin_alike(llama, repeats):
    long = words(60, seed=1)
    before = [ScoreRequest(f"b{n}", f"{long} w10{n}", " w001", shared=f"{long} ") for n in range(3)]
    # They begin as the stem before does, and go on otherwise.
    start = " ".join(long.split()[:13]) + " w200 w201 "
    asked = [ScoreRequest(f"a{n}", f"{start}w10{n}", f" w00{n} w15{n}", shared=start) for n in range(5)]
    with opened(llama, batch_size=4) as engine:
        fresh = sorted((one.id, one.logprob) for one in engine.score(asked))
    with opened(llama, batch_size=4) as engine:
        for requests in (before, *[asked] * repeats):
            list(engine.score(requests))
        list(engine.generate([GenerateRequest("g", f"{long} w005", DRAWN, shared=f"{long} ")]))
        assert sorted((one.id, one.logprob) for one in engine.score(asked)) == fresh


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_completions_are_the_same_for_any_batch_size_and_order(llama, order, batch_size):
    asked = [
        GenerateRequest(
            f"r{i}", f"{words(20, seed=i % 3)} {words(1 + i % 7, seed=i)}", replace(DRAWN, max_new_tokens=1 + (7 * i) % 40), seed=i
        )
        for i in range(40)
    ]  # fmt: skip
    with opened(llama, batch_size=8) as engine:
        expected = {completion.id: completion for completion in engine.generate(asked)}
    random.Random(order).shuffle(asked)
    with opened(llama, batch_size=batch_size) as engine:
        assert {completion.id: completion for completion in engine.generate(asked)} == expected


def test_a_finished_row_is_handed_out_while_others_are_written_and_its_slot_is_filled_again(llama):
    asked = [
        GenerateRequest(f"r{i}", words(4, seed=i), replace(DRAWN, max_new_tokens=60 if i == 0 else 2 + i % 5), seed=i)
        for i in range(40)
    ]  # fmt: skip
    loads = []
    with opened(llama, batch_size=4) as engine:
        order = [completion.id for completion in engine.generate(asked, watch=loads.append)]
    assert order.index("r0") > 30
    assert max(load.live for load in loads) <= 4
    assert sum(load.live >= 2 for load in loads if load.finished < 30) > 15, "slots stay filled"


def test_a_stream_that_is_given_up_leaves_nothing_behind(llama):
    asked = [GenerateRequest(f"r{i}", words(9, seed=i), DRAWN, seed=i) for i in range(40)]
    with opened(llama, batch_size=2) as engine:
        stream = engine.generate(asked)
        next(stream)
        stream.close()
        assert engine._forest.tree.nodes() == []
        assert len(written(engine, asked)) == 40


# ----------------------------------------------------------------------------------------------- memory that is short


def uneven(count: int = 24) -> list[GenerateRequest]:
    return [
        GenerateRequest(f"r{i}", words(3 + 5 * (i % 4), seed=i), replace(DRAWN, max_new_tokens=2 + (11 * i) % 70), seed=i)
        for i in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("columns", [60, 200, 700])
def test_rows_never_take_more_memory_than_they_may_and_come_out_the_same(llama, monkeypatch, columns):
    model = load_model(ModelSettings(str(llama)))
    column_bytes = 2 * 2 * 2 * 12 * 4  # layers, keys and values, kv heads, dims, bytes
    resize, most = Slots.resize, []
    monkeypatch.setattr(
        Slots,
        "resize",
        lambda self, keep, count, room: (most.append((count, count * room)), resize(self, keep, count, room)),
    )
    with opened(llama, batch_size=16) as engine:
        expected = written(engine, uneven())
    assert max(size for _, size in most) > columns, "the limit must bind"
    most.clear()
    tight = HuggingFaceEngine(model, llama, context_length=128, batch_size=16, memory=columns * column_bytes)
    assert written(tight, uneven()) == expected
    # One row alone is always let in: less would be nothing.
    assert all(size <= columns or count == 1 for count, size in most)


@pytest.mark.parametrize("broken", ["step", "compute", "fill", "resize"])
def test_when_memory_runs_out_half_as_many_rows_go_on_and_nothing_changes(llama, monkeypatch, caplog, broken):
    from selfalign.engines.forest import Forest

    with opened(llama, batch_size=16) as engine:
        expected = written(engine, uneven())
    place = Forest if broken == "compute" else Slots
    real, calls = getattr(place, broken), []

    def failing(self, *given, **named):
        calls.append(1)
        if len(calls) in (1, 7, 20):
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return real(self, *given, **named)

    monkeypatch.setattr(place, broken, failing)
    with opened(llama, batch_size=16) as engine, caplog.at_level(logging.WARNING):
        assert written(engine, uneven()) == expected
    assert [record.args for record in caplog.records if "memory ran out" in record.message][0] == (8,)


def test_memory_that_does_not_suffice_for_one_row_is_an_error_with_a_remedy(llama, monkeypatch):
    def failing(self, *given, **named):
        raise MemoryError("not even this")

    monkeypatch.setattr(Slots, "step", failing)
    with (
        opened(llama, batch_size=4) as engine,
        pytest.raises(StageError, match=r"one request.*not even this.*smaller model"),
    ):
        list(engine.generate(uneven()))


def test_another_error_is_not_taken_for_a_lack_of_memory(llama, monkeypatch):
    def failing(self, *given, **named):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Slots, "step", failing)
    with opened(llama, batch_size=4) as engine, pytest.raises(RuntimeError, match="shapes"):
        list(engine.generate(uneven()))


def test_rows_wait_for_an_eighth_of_the_slots_to_be_free(llama, monkeypatch):
    admitted = []
    compute = generation.Generation._fitting
    monkeypatch.setattr(
        generation.Generation,
        "_fitting",
        lambda self, live, needs: admitted.append(len(needs)) or compute(self, live, needs),
    )
    asked = [
        GenerateRequest(f"r{i}", words(4, seed=i), replace(DRAWN, max_new_tokens=2 + i % 9), seed=i) for i in range(100)
    ]
    with opened(llama, batch_size=32) as engine:
        list(engine.generate(asked))
    assert min(admitted[:-1]) >= 4
