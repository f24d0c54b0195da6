"""Laws of adapters that are swapped on one loaded base: in every order the results of an engine opened with one alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from selfalign.engines.base import GenerateRequest, Sampling, ScoreRequest
from selfalign.engines.forest import Forest
from selfalign.engines.huggingface import HuggingFace
from selfalign.engines.model import ModelSettings, load_model, model_digest
from selfalign.errors import DataError, StageError
from selfalign.identity import base_name

START = "w001 w017 w023 w042 w005 w011 w030 "
SCORED = [ScoreRequest(f"s{n}", f"{START}w00{n}", f" w01{n} w02{n}", shared=START) for n in range(5)]
WRITTEN = [GenerateRequest(f"g{n}", f"{START}w00{n}", Sampling(10, temperature=0.0), shared=START) for n in range(3)]


@pytest.fixture(scope="module")
def adapters(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path | None]:
    """The bare base and three adapters of it, of different layers, ranks and scales."""
    import torch
    from peft import LoraConfig, get_peft_model

    made: dict[str, Path | None] = {"base": None}
    kinds = {
        "one": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        "two": {"r": 8, "target_modules": ["q_proj", "gate_proj"], "lora_alpha": 32},
        "three": {"r": 2, "target_modules": ["down_proj"], "use_dora": True},
    }
    for number, (name, kind) in enumerate(kinds.items()):
        with torch.random.fork_rng():
            torch.random.default_generator.manual_seed(number)
            config = LoraConfig(init_lora_weights=False, **kind)  # type: ignore[arg-type]
            model = get_peft_model(load_model(ModelSettings(str(llama))), config)
        folder = tmp_path_factory.mktemp("adapters") / name
        model.save_pretrained(str(folder), save_embedding_layers=False)
        says_its_base(folder, base_name(model_digest(llama)))
        made[name] = folder
    return made


def says_its_base(folder: Path, name: str) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": name}))


def said(engine) -> tuple[list[float], list[str]]:
    scores = {one.id: one.logprob for one in engine.score(SCORED)}
    texts = {one.id: one.text for one in engine.generate(WRITTEN)}
    return [scores[one.id] for one in SCORED], [texts[one.id] for one in WRITTEN]


@pytest.fixture(scope="module")
def alone(llama: Path, adapters: dict[str, Path | None]) -> dict[str, tuple[list[float], list[str]]]:
    """What an engine says that was opened with one of them and nothing else."""
    found = {}
    for name, folder in adapters.items():
        with HuggingFace(ModelSettings(str(llama)), batch_size=4).open(folder) as engine:
            found[name] = said(engine)
    return found


def test_each_of_them_is_another_model(alone: dict[str, tuple[list[float], list[str]]]) -> None:
    for one, other in itertools.combinations(alone.values(), 2):
        assert max(abs(a - b) for a, b in zip(one[0], other[0], strict=True)) > 1e-2


@pytest.mark.parametrize("order", list(itertools.permutations(("base", "one", "two", "three"))))
def test_in_every_order_a_swapped_model_is_the_one_that_is_opened_alone(
    order: tuple[str, ...], llama: Path, adapters: dict[str, Path | None], alone
) -> None:
    settings = HuggingFace(ModelSettings(str(llama)), batch_size=4)
    with settings.open(None, [folder for folder in adapters.values() if folder]) as engine:
        for name in (*order, order[0]):
            engine.swap(adapters[name])
            scores, texts = said(engine)
            assert scores == pytest.approx(alone[name][0], abs=1e-6), name
            assert texts == alone[name][1], name


def test_an_engine_begins_with_the_adapter_it_is_opened_with(llama: Path, adapters, alone) -> None:
    with HuggingFace(ModelSettings(str(llama)), batch_size=4).open(adapters["two"], [adapters["one"]]) as engine:
        assert said(engine)[0] == pytest.approx(alone["two"][0], abs=1e-6)
        engine.swap(None)
        assert said(engine)[0] == pytest.approx(alone["base"][0], abs=1e-6)


@pytest.mark.parametrize("forgets", [True, False])
def test_a_swap_serves_no_prefix_of_the_model_before(forgets: bool, llama: Path, adapters, alone, monkeypatch) -> None:
    # The second case shows that the first can fail: without forgetting, the start's keys and values are the base's.
    if not forgets:
        monkeypatch.setattr(Forest, "forget", lambda self: None)
    with HuggingFace(ModelSettings(str(llama)), batch_size=4).open(None, [adapters["one"]]) as engine:
        said(engine)
        engine.swap(adapters["one"])
        same = said(engine)[0] == pytest.approx(alone["one"][0], abs=1e-6)
    assert same == forgets


def test_the_base_is_loaded_once_whatever_is_swapped(llama: Path, adapters, monkeypatch) -> None:
    from selfalign.engines import huggingface

    loads = []
    monkeypatch.setattr(huggingface, "load_model", lambda settings: loads.append(settings) or load_model(settings))
    with HuggingFace(ModelSettings(str(llama))).open(
        None, [folder for folder in adapters.values() if folder]
    ) as engine:
        for folder in (*adapters.values(), *adapters.values()):
            engine.swap(folder)
    assert len(loads) == 1


def test_an_adapter_of_another_base_is_refused_and_one_that_does_not_say_is_not(
    llama: Path, adapters, tmp_path
) -> None:
    import shutil

    folder = tmp_path / "adapter"
    shutil.copytree(adapters["one"], folder)
    settings = HuggingFace(ModelSettings(str(llama)))
    says_its_base(folder, "base-000000000000")
    for arguments in ((folder,), (None, [folder])):
        with pytest.raises(DataError, match="base-000000000000.*train the adapter again"), settings.open(*arguments):
            pass
    says_its_base(folder, "/models/somewhere")
    with settings.open(folder) as engine:
        assert said(engine)[0]


def test_an_adapter_that_was_not_named_at_the_start_is_refused(llama: Path, adapters) -> None:
    for more in ([], [adapters["one"]]):
        opened = HuggingFace(ModelSettings(str(llama))).open(None, more)
        with opened as engine, pytest.raises(StageError, match="name it when the engine is opened"):
            engine.swap(adapters["two"])


def test_no_swap_comes_between_the_results_of_a_call(llama: Path, adapters) -> None:
    with HuggingFace(ModelSettings(str(llama)), batch_size=2).open(None, [adapters["one"]]) as engine:
        results = iter(engine.score(SCORED))
        next(results)
        with pytest.raises(StageError, match="1 calls under way"):
            engine.swap(adapters["one"])
        list(results)
        engine.swap(adapters["one"])
        answers = iter(engine.generate(WRITTEN))
        next(answers)
        with pytest.raises(StageError, match="under way"):
            engine.swap(None)
        del answers
        engine.swap(None)


def test_a_swap_leaves_nothing_of_earlier_texts(llama: Path) -> None:
    with HuggingFace(ModelSettings(str(llama)), batch_size=4).open() as engine:
        list(engine.score(SCORED))
        assert engine._forest is not None and engine._forest.tree.nodes() != []
        engine.swap(None)
        assert engine._forest.tree.nodes() == []
