"""What every engine does: a new file in selfalign/engines/ needs an entry in `settings` below and is held to it."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import selfalign.engines
from selfalign.engines.base import BY_TOKENIZER, GenerateRequest, Sampling, ScoreRequest
from selfalign.errors import StageError
from selfalign.identity import canonical

FOLDER = Path(selfalign.engines.__file__).parent
PARTS = {
    "__init__", "adapters", "answers", "attention", "base", "forest", "generation", "http", "memory", "model", "openai_chat",
    "penalties", "pieces", "plain", "prefix_tree", "rows", "sampling", "scoring", "serving", "slots", "tokens",
}  # fmt: skip
"""Files of that folder that are no engine."""
ENGINES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in PARTS)
HEAVY = ("torch", "transformers", "peft", "vllm", "openai", "httpx", "ray", "hydra", "lm_eval")


@pytest.fixture
def completions_server():
    from tests.unit.engines.stub_server import served

    with served() as stub:
        yield stub


@pytest.fixture(scope="module")
def cluster():
    """Ray for all tests of this file: it takes seconds to start."""
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'selfalign[ray]'")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name == "ray" else ()) for name in ENGINES])
def settings(request, tiny_model):
    """Settings of each engine, as cheap as they get."""
    from selfalign.engines.huggingface import HuggingFace
    from selfalign.engines.model import ModelSettings
    from selfalign.engines.openai_api import OpenAIApi
    from selfalign.engines.ray import Ray
    from selfalign.engines.scripted import Scripted
    from selfalign.engines.vllm import VLLM

    def served():
        url = request.getfixturevalue("completions_server").url
        return OpenAIApi(ModelSettings(str(tiny_model), context_length=512), base_url=url, concurrency=4, batch_size=4)

    def distributed():
        request.getfixturevalue("cluster")
        return Ray(Scripted(context_words=512, batch_size=4), workers=2, gpus_per_worker=0.0)

    def in_process():
        from tests.unit.engines import vllm_double

        vllm_double.put_in(request.getfixturevalue("monkeypatch"))
        return VLLM(ModelSettings(str(tiny_model), context_length=512), batch_size=4)

    known = {
        "huggingface": lambda: HuggingFace(ModelSettings(str(tiny_model), context_length=512), batch_size=4),
        "openai_api": served,
        "ray": distributed,
        "scripted": lambda: Scripted(context_words=512, batch_size=4),
        "vllm": in_process,
    }
    assert request.param in known, f"selfalign/engines/{request.param}.py: add its settings here, or name it in PARTS"
    return known[request.param]()


@pytest.fixture
def engine(settings):
    with settings.open() as opened:
        yield opened


def asked(count: int = 7, **sampling) -> list[GenerateRequest]:
    options = {"max_new_tokens": 12, "temperature": 1.0} | sampling
    return [
        GenerateRequest(f"r{i}", f"A start. Prompt {i} {'more ' * i}", Sampling(**options), seed=i, shared="A start. ")
        for i in range(count)
    ]


def test_the_engines_of_birth_are_still_found():
    assert len(ENGINES) >= 2


@pytest.mark.parametrize("name", ENGINES)
def test_importing_an_engine_loads_no_heavy_library(name):
    code = f"import sys, selfalign.engines.{name}; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_settings_are_frozen_plain_documented_and_without_problems(settings):
    assert settings.problems() == []
    kind = type(settings)
    assert kind.__dataclass_params__.frozen
    source = inspect.getsource(kind)
    for field in dataclasses.fields(kind):
        after = source[source.index(f"    {field.name}: ") :].split("\n", 2)[1]
        assert after.strip().startswith('"""'), f"{kind.__name__}.{field.name} has no docstring under it"
    assert json.loads(canonical(dict(settings.identity())))["engine"] in ENGINES
    assert settings.identity() == settings.identity()


def test_speed_settings_stay_out_of_the_identity(settings):
    transient = [field.name for field in dataclasses.fields(settings) if field.metadata.get("transient")]
    speed = {name: value + 1 for name in transient if type(value := getattr(settings, name)) is int}
    assert speed and replace(settings, **speed).identity() == settings.identity()


def test_tokens_are_counted_alike_with_and_without_the_model(settings, engine):
    for text in ("", "one", "one two  three\n\nfour é"):
        assert settings.count_tokens(text) == engine.count_tokens(text)
    assert settings.context_length() == engine.context_length == 512
    assert engine.group_size >= 4
    # What counts words is no tokenizer, and says so.
    assert (settings.counted() == BY_TOKENIZER) == (settings.count_tokens("otters and herons") != 3)


def written(engine, requests) -> list:
    """The completions in the order of the requests: an engine gives them as they are finished."""
    requests = list(requests)
    found = list(engine.generate(iter(requests)))
    by_id = {completion.id: completion for completion in found}
    assert len(found) == len(by_id) == len(requests)
    return [by_id[request.id] for request in requests]


def scored(engine, requests) -> list:
    """The scores in the order of the requests."""
    requests = list(requests)
    found = list(engine.score(iter(requests)))
    by_id = {result.id: result for result in found}
    assert len(found) == len(by_id) == len(requests)
    return [by_id[request.id] for request in requests]


def test_completions_come_one_per_request(engine):
    found = written(engine, asked())
    for completion, request in zip(found, asked(), strict=True):
        assert completion.finish in ("stop", "eos", "length")
        assert completion.prompt_tokens == engine.count_tokens(request.prompt)
        assert 0 <= completion.new_tokens <= request.sampling.max_new_tokens


def test_nothing_asked_gives_nothing(engine):
    assert list(engine.generate([])) == []
    assert list(engine.score([])) == []


def test_the_same_seed_repeats_and_another_one_does_not(engine):
    first, again = written(engine, asked()), written(engine, asked())
    assert first == again
    other = written(engine, [replace(request, seed=request.seed + 100) for request in asked()])
    assert [completion.text for completion in other] != [completion.text for completion in first]


def test_greedy_decoding_ignores_the_seed(engine):
    greedy = asked(temperature=0.0)
    other = [replace(request, seed=request.seed + 100) for request in greedy]
    assert written(engine, greedy) == written(engine, other)


def test_a_whole_group_repeated_alone_gives_the_same_completions(engine):
    size = engine.group_size
    whole = [completion for at in (0, size) for completion in written(engine, asked(2 * size)[at : at + size])]
    assert written(engine, asked(2 * size)[size:]) == whole[size:]


def test_texts_are_cut_before_their_stop_strings(engine):
    plain = written(engine, asked(temperature=0.0))
    stops = [completion.text[2:4] or "never" for completion in plain]
    found = written(
        engine, [replace(request, stop=(stop,)) for request, stop in zip(asked(temperature=0.0), stops, strict=True)]
    )
    for before, after, stop in zip(plain, found, stops, strict=True):
        assert after.text == before.text.split(stop)[0]
        assert after.finish == ("stop" if stop in before.text else before.finish)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_budget_behind_a_marker_is_counted_from_its_end(engine, temperature):
    (first,) = asked(1, max_new_tokens=40, temperature=temperature)
    plain = [replace(first, sampling=replace(first.sampling, max_new_tokens=budget)) for budget in range(1, 41)]
    cut = written(engine, [replace(one, id=f"b{number}") for number, one in enumerate(plain)])
    middle = len(cut[29].text) // 2
    marker = cut[29].text[middle : middle + 3]
    at = next(budget for budget, completion in enumerate(cut, start=1) if marker in completion.text)
    assert len(marker) == 3 and 2 <= at <= 30
    for until_tokens, new, total in ((at, 3, at + 3), (at + 9, 1, at + 1), (at - 1, 5, at - 1), (30, 40 - at, 40)):
        sampling = replace(first.sampling, max_new_tokens=new)
        (found,) = engine.generate([replace(first, sampling=sampling, until=marker, until_tokens=until_tokens)])
        assert replace(found, id="") == replace(cut[total - 1], id=""), (until_tokens, new)


@pytest.mark.parametrize("bad", [{"until": "marker"}, {"until_tokens": 5}])
def test_half_a_second_budget_is_an_error_that_names_the_request(engine, bad):
    with pytest.raises(StageError, match="'r0'.*until"):
        list(engine.generate([replace(asked(1)[0], **bad)]))


def test_a_prompt_that_does_not_fit_is_an_error_that_names_it(engine):
    with pytest.raises(StageError, match="'long'"):
        list(engine.generate([*asked(2), GenerateRequest("long", "word " * 600, Sampling())]))


def test_scores_come_one_per_request_whatever_they_share(engine):
    pairs = [ScoreRequest(f"s{i}", f"Question {i % 3}, asked at length", f" answer {i}") for i in range(9)]
    found = scored(engine, pairs)
    assert all(result.logprob <= 0 and result.n_tokens > 0 and result.truncated_tokens == 0 for result in found)
    assert len({result.logprob for result in found}) > 1
    assert scored(engine, pairs) == found


def test_an_endless_source_is_answered_and_not_read_far_ahead(engine):
    endless = (replace(asked(1, max_new_tokens=2)[0], id=f"n{number}") for number in itertools.count())
    stream = engine.generate(endless)
    ids = {next(stream).id for _ in range(3 * engine.group_size)}
    assert len(ids) == 3 * engine.group_size
    assert int(next(endless).id[1:]) <= 4 * max(engine.group_size, 1024)


def test_the_load_is_told_and_ends_with_everything_finished(engine):
    loads = []
    completions = list(engine.generate(asked(), watch=loads.append))
    assert loads[-1].finished == len(completions) and loads[-1].live == 0
    assert [load.finished for load in loads] == sorted(load.finished for load in loads)
    assert loads[-1].new_tokens == sum(completion.new_tokens for completion in completions)


def test_a_swap_to_the_base_alone_changes_nothing_where_no_adapter_was_at_work(engine):
    before = written(engine, asked())
    engine.swap(None)
    assert written(engine, asked()) == before
