"""Laws of HuggingFaceEngine.score, against one teacher-forced pass of the plain model per request."""

from __future__ import annotations

import math
import random

import pytest

from selfalign.engines.base import ScoreRequest, ScoreResult
from selfalign.engines.huggingface import HuggingFace, HuggingFaceEngine
from selfalign.engines.model import ModelSettings, load_model, raw_tokenizer
from selfalign.errors import StageError
from tests.unit.engines.word_models import END, WORDS

LIMIT = 128


def words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def teacher_forced(model, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """log p and greediness by one pass without cache, in float64 after the logits."""
    import torch

    whole = (context + continuation)[-(LIMIT + 1) :]
    with torch.inference_mode():
        logits = model(torch.tensor([whole[:-1]]), use_cache=False).logits[0, -len(continuation) :].double()
    targets = torch.tensor(continuation)
    chosen = logits.log_softmax(-1).gather(1, targets[:, None])
    return float(chosen.sum()), bool((logits.argmax(-1) == targets).all())


@pytest.fixture(scope="module")
def plain(llama):
    return load_model(ModelSettings(str(llama)))


def expected(plain, llama, request: ScoreRequest) -> tuple[float, bool]:
    tokenizer = raw_tokenizer(llama)
    context = tokenizer.encode(request.context).ids or [tokenizer.token_to_id(END)]
    return teacher_forced(plain, context, tokenizer.encode(request.continuation).ids)


def scored(engine, asked) -> list[ScoreResult]:
    """The scores in the order of the requests."""
    found = {result.id: result for result in engine.score(asked)}
    return [found[request.id] for request in asked]


def mixed_requests() -> list[ScoreRequest]:
    """Two families with long common starts, equal contexts, loners, an empty context and one that is too long."""
    starts = [words(30, seed=50), words(20, seed=51)]
    contexts = [f"{starts[i % 2]} {words(1 + i % 7, seed=i)}" for i in range(24)]
    contexts += [words(3, seed=60), words(9, seed=61), "", starts[0], words(140, seed=62)]
    contexts += contexts[:5]
    return [
        ScoreRequest(f"s{i}.{j}", context, " " + words(1 + (i + j) % 4, seed=100 + 10 * i + j))
        for i, context in enumerate(contexts)
        for j in range(2)
    ]


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "gpt2", "falcon", "mistral_window"])
def test_scores_equal_a_teacher_forced_pass(random_model, kind):
    folder = random_model(kind)
    model = load_model(ModelSettings(str(folder)))
    asked = mixed_requests()
    with HuggingFace(ModelSettings(str(folder)), batch_size=8).open() as engine:
        found = scored(engine, asked)
    for request, result in zip(asked, found, strict=True):
        logprob, greedy = expected(model, folder, request)
        assert result.logprob == pytest.approx(logprob, abs=1e-4, rel=1e-5), request
        assert result.is_greedy == greedy
        assert result.n_tokens == len(request.continuation.split())


def test_a_context_that_does_not_fit_is_cut_from_the_left_and_counted(engine, plain, llama):
    request = ScoreRequest("long", words(140, seed=62), " w001 w002 w003")
    (result,) = engine.score([request])
    assert result.truncated_tokens == 140 + 3 - 1 - LIMIT
    assert result.logprob == pytest.approx(expected(plain, llama, request)[0], abs=1e-4)


def test_greedy_continuations_are_known_as_such(engine, plain, llama):
    import torch

    tokenizer = raw_tokenizer(llama)
    ids = tokenizer.encode(words(12, seed=5)).ids
    for _ in range(3):
        with torch.inference_mode():
            ids.append(int(plain(torch.tensor([ids])).logits[0, -1].argmax()))
    context, best = tokenizer.decode(ids[:12]), tokenizer.decode(ids[12:])
    last = "w001" if best.split()[-1] != "w001" else "w002"
    other = " ".join([*best.split()[:-1], last])
    found = scored(engine, [ScoreRequest("a", context, " " + best), ScoreRequest("b", context, " " + other)])
    assert [result.is_greedy for result in found] == [True, False]


def test_scores_do_not_depend_on_the_other_requests(engine):
    asked = mixed_requests()
    together = {result.id: result.logprob for result in engine.score(asked)}
    for request in asked[::9]:
        (alone,) = engine.score([request])
        assert alone.logprob == pytest.approx(together[request.id], abs=1e-4)
    assert {result.id: result.logprob for result in engine.score(asked)} == together


def distinct(sequences) -> int:
    """Tokens of a tree of all sequences."""
    return len({tuple(sequence[: end + 1]) for sequence in sequences for end in range(len(sequence))})


@pytest.mark.parametrize("shared", [False, True])
def test_every_token_of_the_tree_of_contexts_and_continuations_is_computed_once(llama, shared):
    tokenizer = raw_tokenizer(llama)
    stem = words(20, seed=1)
    asked = [
        ScoreRequest(f"{i}.{j}", f"{stem} {words(6, seed=i)}", f" {words(1 + j % 3, seed=j)} w{j:03}", stem * shared)
        for i in range(30)
        for j in range(7)
    ]
    with HuggingFace(ModelSettings(str(llama))).open() as engine:
        first = scored(engine, asked)
        read = [tokenizer.encode(one.context + one.continuation).ids[:-1] for one in asked]
        assert engine.computed_tokens == distinct(read)
        assert scored(engine, asked) == first
        # A stem that was named is still there; the last tokens of it may be cut otherwise and are not.
        again = distinct(read) - (18 if shared else 0)
        assert engine.computed_tokens == distinct(read) + again


def test_trailing_spaces_of_the_context_belong_to_the_continuation(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path))
    with HuggingFace(ModelSettings("tiny_random")).open() as engine:
        moved, plain = scored(engine, [ScoreRequest("a", "Is it? ", "yes"), ScoreRequest("b", "Is it?", " yes")])
    assert (moved.logprob, moved.n_tokens) == (plain.logprob, plain.n_tokens) == (plain.logprob, 4)


def test_a_broken_model_gives_nan_and_no_error(llama):
    import torch

    model = load_model(ModelSettings(str(llama)))
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    engine = HuggingFaceEngine(model, llama, context_length=LIMIT)
    (result,) = engine.score([ScoreRequest("a", "w001 w002", " w003 w004")])
    assert math.isnan(result.logprob)


@pytest.mark.parametrize("continuation", ["", "w001 " * (LIMIT + 1)], ids=["empty", "too long"])
def test_a_continuation_that_cannot_be_scored_is_named(engine, continuation):
    with pytest.raises(StageError, match="'bad'"):
        list(engine.score([ScoreRequest("bad", "w001", continuation)]))


def test_when_memory_runs_out_requests_are_scored_in_smaller_parts_and_alike(llama, monkeypatch):
    from selfalign.engines.forest import Forest

    with HuggingFace(ModelSettings(str(llama))).open() as engine:
        expected = scored(engine, mixed_requests())
    real, parts = Forest.compute, []

    def failing(self, ends, *more):
        ends = list(ends)
        parts.append(len(ends))
        if len(ends) > 9:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return real(self, ends, *more)

    monkeypatch.setattr(Forest, "compute", failing)
    with HuggingFace(ModelSettings(str(llama))).open() as engine:
        found = scored(engine, mixed_requests())
    assert max(parts) > 9 and [one.id for one in found] == [one.id for one in expected]
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in expected], abs=1e-4)
    monkeypatch.setattr(Forest, "compute", lambda *_: (_ for _ in ()).throw(MemoryError("none at all")))
    with HuggingFace(ModelSettings(str(llama))).open() as engine, pytest.raises(StageError, match="none at all"):
        list(engine.score(mixed_requests()))
