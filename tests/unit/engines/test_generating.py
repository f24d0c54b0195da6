"""Laws of HuggingFaceEngine.generate, against transformers' own generate where there is a reference."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from selfalign.engines.base import Completion, GenerateRequest, Sampling
from selfalign.engines.huggingface import HuggingFace, HuggingFaceEngine
from selfalign.engines.model import ModelSettings, load_model, raw_tokenizer
from selfalign.errors import StageError
from tests.unit.engines.word_models import END, WORDS

GREEDY = Sampling(max_new_tokens=20, temperature=0)
DRAWN = Sampling(max_new_tokens=16, temperature=1.0, top_p=0.95)


def words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


SHARED = words(25, seed=99) + " "


def requests(sampling: Sampling, shared: str = SHARED, count: int = 8) -> list[GenerateRequest]:
    """Requests of mixed lengths behind a shared text."""
    return [
        GenerateRequest(f"r{i}", shared + words(1 + 3 * (i % 5), seed=i), sampling, seed=1000 + i, shared=shared)
        for i in range(count)
    ]


def written(engine, asked) -> list[Completion]:
    """The completions in the order of the requests."""
    found = {completion.id: completion for completion in engine.generate(asked)}
    return [found[request.id] for request in asked]


def texts(engine, asked) -> list[str]:
    return [completion.text for completion in written(engine, asked)]


def reference(folder, request: GenerateRequest) -> str:
    """The completion by transformers' generate, one request at a time."""
    import torch

    model, tokenizer = load_model(ModelSettings(str(folder))), raw_tokenizer(folder)
    ids = tokenizer.encode(request.prompt).ids
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=request.sampling.max_new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    text = tokenizer.decode(out[0, len(ids) :].tolist())
    return " " + text if text else ""


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt_neox", "gpt2", "falcon", "mistral_window"])
@pytest.mark.parametrize("shared", [SHARED, ""], ids=["shared", "apart"])
def test_greedy_tokens_equal_those_of_transformers_generate(random_model, kind, shared):
    folder = random_model(kind)
    asked = requests(GREEDY, shared, count=6)
    with HuggingFace(ModelSettings(str(folder)), batch_size=8).open() as engine:
        found = texts(engine, asked)
    assert found == [reference(folder, request) for request in asked]
    assert len({word for text in found for word in text.split()}) > 20, "the oracle must not be degenerate"


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_batch_mates_do_not_change_a_row(engine, sampling):
    asked = requests(sampling)
    together = texts(engine, asked)
    assert [texts(engine, [request])[0] for request in asked] == together
    assert texts(engine, asked[::-1]) == together[::-1]


def test_rows_that_leave_the_batch_do_not_change_the_others(engine):
    asked = requests(DRAWN)
    uneven = [
        replace(request, sampling=replace(DRAWN, max_new_tokens=1 + 4 * (i % 4))) for i, request in enumerate(asked)
    ]
    for full, short, request in zip(texts(engine, asked), texts(engine, uneven), uneven, strict=True):
        assert short.split() == full.split()[: request.sampling.max_new_tokens]


def test_a_group_repeated_gives_the_same_completions(engine):
    asked = requests(DRAWN, count=20)
    whole = written(engine, asked)
    assert written(engine, asked[8:16]) == whole[8:16]


def test_the_seed_decides_a_drawn_text_and_nothing_of_a_greedy_one(engine):
    asked = requests(DRAWN)
    other = [replace(request, seed=request.seed + 1) for request in asked]
    assert texts(engine, asked) == texts(engine, asked)
    assert all(a != b for a, b in zip(texts(engine, asked), texts(engine, other), strict=True))
    greedy = [replace(request, sampling=GREEDY) for request in asked]
    assert texts(engine, greedy) == texts(engine, [replace(request, seed=5) for request in greedy])


def test_a_shared_text_changes_no_completion(engine):
    asked = requests(DRAWN)
    assert texts(engine, asked) == texts(engine, [replace(request, shared="") for request in asked])


def test_a_prompt_that_is_the_shared_text_itself_still_gets_a_completion(engine):
    asked = [GenerateRequest("a", SHARED, GREEDY, shared=SHARED), *requests(GREEDY, count=2)]
    assert texts(engine, asked) == [texts(engine, [replace(request, shared="")])[0] for request in asked]


def test_stop_strings_cut_the_text_before_the_earliest(engine):
    (request,) = requests(GREEDY, count=1)
    full = texts(engine, [request])[0].split()
    stop = (f"{full[6]}", f"{full[3]} {full[4]}", "never")
    (completion,) = engine.generate([replace(request, stop=stop)])
    assert completion.finish == "stop"
    assert completion.text.split() == full[:3]
    assert completion.new_tokens == 5


def test_the_end_token_ends_a_text_and_is_not_in_it(llama, engine):
    (request,) = requests(GREEDY, count=1)
    full = texts(engine, [request])[0].split()
    end = raw_tokenizer(llama).token_to_id(full[4])
    with HuggingFace(ModelSettings(str(llama))).open() as other:
        assert other._ends == {raw_tokenizer(llama).token_to_id(END)}
        other._ends = frozenset([end])
        (completion,) = other.generate([request])
    assert (completion.finish, completion.text.split(), completion.new_tokens) == ("eos", full[:4], 5)


def test_budgets_hold_per_request_and_the_context_ends_a_text(engine):
    long = GenerateRequest("long", words(120, seed=1), Sampling(max_new_tokens=50, temperature=0))
    short = GenerateRequest("short", "w001", Sampling(max_new_tokens=3, temperature=0))
    found = written(engine, [long, short])
    assert [(c.finish, c.prompt_tokens, c.new_tokens) for c in found] == [("length", 120, 8), ("length", 1, 3)]


def test_an_empty_prompt_is_the_first_token(engine):
    (empty, first) = written(engine, [GenerateRequest("e", "", GREEDY), GenerateRequest("f", END, GREEDY)])
    assert empty.text == first.text


def test_a_prompt_without_room_is_named_with_its_numbers(engine):
    asked = [GenerateRequest("fits", "w001", GREEDY), GenerateRequest("too-long", words(128, seed=3), GREEDY)]
    with pytest.raises(StageError, match=r"'too-long'.*at most 127 tokens, found 128"):
        list(engine.generate(asked))


@pytest.mark.parametrize("bad", [{"sampling": Sampling(max_new_tokens=0)}, {"stop": ("",)}])
def test_a_request_that_cannot_be_met_is_named(engine, bad):
    with pytest.raises(StageError, match="'r0'"):
        list(engine.generate([replace(requests(GREEDY, count=1)[0], **bad)]))


def test_a_broken_model_is_an_error_and_not_a_text(llama):
    import torch

    model = load_model(ModelSettings(str(llama)))
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    engine = HuggingFaceEngine(model, llama, context_length=128)
    with pytest.raises(StageError, match=r"'r0'.*NaN"):
        list(engine.generate(requests(DRAWN, count=1)))


def test_no_requests_give_no_completions(engine):
    assert list(engine.generate([])) == []
    assert list(engine.score([])) == []


def test_open_restores_the_number_of_threads(llama):
    import torch

    before = torch.get_num_threads()
    with HuggingFace(ModelSettings(str(llama)), threads=before + 1).open():
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
