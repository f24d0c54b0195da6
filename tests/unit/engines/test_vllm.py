"""Laws of `engine=vllm`, on a double of the part of vLLM that it calls (`vllm_double`)."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace

import pytest

from selfalign import experiment, groups
from selfalign.engines.base import GenerateRequest, NgramPenalty, Sampling, ScoreRequest
from selfalign.engines.model import ModelSettings, model_digest, raw_tokenizer
from selfalign.engines.openai_api import OpenAIApi
from selfalign.engines.penalties import Vocabulary
from selfalign.engines.serving import adapter_name
from selfalign.engines.vllm import VLLM
from selfalign.errors import ConfigError, DataError, StageError
from selfalign.identity import base_name
from tests.unit.engines import vllm_double
from tests.unit.engines.stub_server import END_ID, served
from tests.unit.engines.test_openai_api import LONG, split, table, write_adapter


@pytest.fixture
def settings(tiny_model, monkeypatch) -> VLLM:
    vllm_double.put_in(monkeypatch)
    return VLLM(ModelSettings(str(tiny_model), context_length=512), batch_size=4)


def requests(count: int = 24, **sampling) -> list[GenerateRequest]:
    options = {"max_new_tokens": 12, "temperature": 1.0} | sampling
    return [GenerateRequest(f"r{i}", f"Prompt {i}:", Sampling(**options), seed=i) for i in range(count)]


def completions(settings, asked: list[GenerateRequest]):
    """In the order of the requests."""
    order = {request.id: place for place, request in enumerate(asked)}
    with settings.open() as engine:
        return sorted(engine.generate(iter(asked)), key=lambda completion: order[completion.id])


def inside() -> vllm_double.LLM:
    """The vLLM that was opened last."""
    return vllm_double.LLM.made[-1]


# ----------------------------------------------------------------------------------------------- completions


def test_a_request_is_put_as_it_is_meant(settings, tiny_model):
    sampling = Sampling(9, 0.7, 0.9, 40, 0.05, {"Sorry": -100.0, "<eos>": 5.0})
    completions(settings, [GenerateRequest("r", "Say it.", sampling, stop=("\n",), seed=2**62 + 7)])
    ((name, ids, params, adapter),) = inside().llm_engine.asked
    tokenizer = raw_tokenizer(tiny_model)
    tokens = Vocabulary(tokenizer, [END_ID])
    assert (name, ids, adapter) == ("r", tokenizer.encode("Say it.").ids, None)
    assert params == vllm_double.SamplingParams(
        temperature=0.7, top_p=0.9, top_k=40, min_p=0.05, seed=7, stop=["\n"], stop_token_ids=[END_ID], max_tokens=9,
        logit_bias={**dict.fromkeys(tokens.first_tokens("Sorry"), -100.0), END_ID: 5.0},
    )  # fmt: skip


def test_the_model_is_loaded_as_the_settings_say_and_given_back(settings, tiny_model):
    with pytest.raises(ZeroDivisionError), replace(settings, tensor_parallel_size=2).open():
        assert not inside().llm_engine.engine_core.is_down
        raise ZeroDivisionError
    assert inside().llm_engine.engine_core.is_down
    assert inside().options == {
        "model": str(tiny_model.resolve()), "dtype": "float32", "max_model_len": 512, "max_num_seqs": 4,
        "gpu_memory_utilization": 0.9, "tensor_parallel_size": 2, "enable_prefix_caching": True,
        "generation_config": "vllm", "enable_lora": False, "max_loras": 1, "max_lora_rank": 16,
    }  # fmt: skip


def test_what_vllm_writes_is_what_a_server_with_it_writes(settings, tiny_model):
    """Whole texts, stop strings, and both budgets: two ways to one model."""
    stops = [replace(one, stop=("e", " a")) for one in requests(12, max_new_tokens=60)]
    two = [replace(split("a", 9, 20), id=f"t{i}", seed=i) for i in range(12)]
    asked = [*requests(), *(replace(one, id=f"s{one.id}") for one in stops), *two]
    with served() as stub:
        there = completions(OpenAIApi(settings.model, stub.url, batch_size=4), asked)
    assert completions(settings, asked) == there
    assert {one.finish for one in there} == {"stop", "length"} and len({one.text for one in there}) > 40


def test_the_second_half_has_numbers_of_its_own_and_the_first_ones_text(settings):
    (whole,) = completions(settings, [LONG])
    marker = whole.text[10:13]
    completions(settings, [split(marker, 20, 7, stop=("zz",))])
    (_, ids, first, _), (_, longer, second, _) = inside().llm_engine.asked
    assert first.stop == ["zz", marker] and second.stop == ["zz"] and first.seed != second.seed
    assert (first.max_tokens, second.max_tokens) == (20, 7) and longer[: len(ids)] == ids
    assert len(longer) == len(ids) + 13


def test_as_many_requests_as_make_up_a_group_are_at_work_all_the_time(settings):
    loads = []
    with settings.open() as engine:
        found = list(engine.generate(iter(requests(40, max_new_tokens=30)), loads.append))
    assert len(found) == 40 and inside().llm_engine.most_at_once == 4
    # The last request is taken long before the first 36 are finished together.
    assert [load.live for load in loads if load.finished <= 36 and load.live < 3] == []


def test_what_is_given_up_is_taken_out_of_vllm(settings):
    with settings.open() as engine:
        stream = engine.generate(requests())
        next(stream)
        stream.close()
        assert 1 <= len(inside().llm_engine.aborted) <= 4
        assert len(list(engine.generate(requests()))) == 24


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        ({"ngram_penalty": NgramPenalty(trigram=1.0)}, "ngram_penalty.*engine=huggingface"),
        ({"logit_bias": {"Sorry": -101.0}}, "-100 to 100"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_what_vllm_cannot_do_is_refused_before_it_is_asked(settings, sampling, words):
    with pytest.raises(StageError, match=f"'r0'.*{words}"):
        completions(settings, requests(1, **sampling))
    assert inside().llm_engine.asked == []


def test_an_end_that_is_none_of_ours_is_an_error(settings, monkeypatch):
    monkeypatch.setattr(vllm_double.Stub, "complete", lambda self, body: ENDED)
    with pytest.raises(StageError, match="'r0'.*'abort'"):
        completions(settings, requests(1))


ENDED = {"choices": [{"text": "", "finish_reason": "abort", "stop_reason": None}], "usage": {"completion_tokens": 1}}


# ---------------------------------------------------------------------------------------- scores and adapters


def test_scores_are_the_sums_of_the_tokens_log_probabilities(settings):
    pairs = [(f"Question {i}?", f" Answer {i}") for i in range(9)] + [("Q?", "A")]
    with settings.open() as engine:
        found = {one.id: one for one in engine.score(ScoreRequest(f"s{i}", *pair) for i, pair in enumerate(pairs))}
    for number, pair in enumerate(pairs):
        values = table(*pair)
        assert found[f"s{number}"].logprob == pytest.approx(sum(values))
        assert found[f"s{number}"].is_greedy == all(value == -0.25 for value in values)
        assert found[f"s{number}"].n_tokens == len(pair[1])
    params = inside().llm_engine.asked[0][2]
    assert (params.prompt_logprobs, params.max_tokens, params.temperature) == (1, 1, 0.0)


def test_a_context_is_cut_so_that_the_token_that_must_be_written_fits(settings):
    with settings.open() as engine:
        (found,) = engine.score([ScoreRequest("long", "x" * 600, " yes")])
        assert found.truncated_tokens == 600 + 4 - 511
        with pytest.raises(StageError, match="'none'.*1 to 510 tokens"):
            list(engine.score([ScoreRequest("none", "x", "")]))


def test_an_adapter_speaks_under_a_name_with_its_digest(settings, tmp_path):
    names = []
    for content in (b"one", b"two"):
        adapter = write_adapter(tmp_path / content.decode(), content, r=20)
        with settings.open(adapter) as engine:
            list(engine.generate(requests(2)))
            list(engine.score([ScoreRequest("s", "a", "b")]))
        assert inside().options["enable_lora"] and inside().options["max_lora_rank"] == 32
        speakers = {one[3] for one in inside().llm_engine.asked}
        assert speakers == {vllm_double.LoRARequest(adapter_name("tiny", adapter), 1, str(adapter.resolve()))}
        names += [one.lora_name for one in speakers]
    assert len(set(names)) == 2
    with pytest.raises(DataError, match="adapter"), settings.open(tmp_path):
        pass
    with pytest.raises(StageError, match="DoRA"), settings.open(write_adapter(tmp_path / "d", b"", use_dora=True)):
        pass


def test_adapters_are_swapped_by_names_that_hold_their_content_and_another_base_s_is_refused(
    settings, tiny_model, tmp_path
):
    own = base_name(model_digest(tiny_model))
    one, other = (
        write_adapter(tmp_path / name, name.encode(), r=rank, base_model_name_or_path=own)
        for name, rank in (("one", 8), ("other", 33))
    )
    with settings.open(None, [one, other]) as engine:
        assert inside().options["max_lora_rank"] == 64
        for adapter, number in ((None, 0), (one, 1), (other, 2), (None, 0)):
            engine.swap(adapter)
            before = len(inside().llm_engine.asked)
            list(engine.generate(requests(2)))
            speaker = (
                vllm_double.LoRARequest(adapter_name("tiny", adapter), number, str(adapter.resolve()))
                if adapter
                else None
            )
            assert {asked[3] for asked in inside().llm_engine.asked[before:]} == {speaker}
        with pytest.raises(StageError, match="name it when the engine is opened"):
            engine.swap(tmp_path)
    strange = write_adapter(tmp_path / "strange", b"", base_model_name_or_path="base-000000000000")
    with pytest.raises(DataError, match="of another"), settings.open(None, [strange]):
        pass


# ------------------------------------------------------------------------------------- environment and settings


def test_a_missing_vllm_is_refused_before_the_run_with_the_way_that_works(tiny_model):
    groups.register()
    one = groups.compose(["model=tiny_random", "engine=vllm", "stages=fitting", "evaluation=none"])
    if importlib.metadata.packages_distributions().get("vllm"):
        pytest.skip("vLLM is installed here")
    (problem,) = one.engine.problems()
    assert "serve-command" in problem and "engine=openai_api" in problem
    assert f"engine: {problem}" in experiment.problems(one)
    with pytest.raises(ConfigError, match="serve-command"), one.engine.open():
        pass


def test_pins_that_do_not_agree_are_refused_with_the_way_that_works(settings, monkeypatch):
    versions = {"vllm": "0.33.0", "torch": "2.13.0+cpu", "transformers": "5.20.3", "tokenizers": "0.23.3"}
    needed = ["torch==2.14.0", "transformers<5.21.0,>=5.16.1", "tokenizers>=0.23.2", "numpy", "torch==9; extra == 'x'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    (problem,) = settings.problems()
    assert "torch==2.14.0 for vllm 0.33.0, found torch 2.13.0+cpu" in problem and "engine=openai_api" in problem
    versions |= {"torch": "2.14.0+cu130"}
    assert settings.problems() == []


def test_a_vllm_that_does_not_start_is_quoted_with_what_to_do(settings, monkeypatch):
    monkeypatch.setattr(vllm_double.LLM, "error", RuntimeError("Failed to infer device type"))
    with pytest.raises(StageError, match="infer device type.*engine=openai_api"), settings.open():
        pass


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch_size": 0}, "engine.batch_size"),
        ({"tensor_parallel_size": 0}, "engine.tensor_parallel_size"),
        ({"gpu_memory_utilization": 1.1}, "engine.gpu_memory_utilization"),
        ({"model": ModelSettings("/no/such/folder")}, "no folder"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_loaded(settings, wrong, words):
    (problem,) = replace(settings, **wrong).problems()
    assert words in problem
    with pytest.raises(ConfigError), replace(settings, **wrong).open():
        pass
    assert vllm_double.LLM.made == []
