"""Laws of model settings: what is found, what is refused and with which words, what a digest covers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.huggingface import HuggingFace
from selfalign.engines.model import (
    ModelSettings,
    count_tokens,
    load_model,
    load_tokenizer,
    model_context_length,
    model_digest,
    model_folder,
    model_problems,
    raw_tokenizer,
    write_tiny_random,
)
from selfalign.errors import ConfigError, DataError

TEXTS = ["", "a", "  two  spaces\n\nlines\t", "héllo €", "<|endoftext|>mid<|endoftext|>"]


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    write_tiny_random(made, context_length=256)
    return made


def problem(path: Path | str, **more) -> str:
    (found,) = model_problems(ModelSettings(str(path), **more))
    return found


def test_a_good_folder_has_no_problems(folder):
    assert model_problems(ModelSettings(str(folder))) == []
    assert model_context_length(ModelSettings(str(folder))) == 256
    assert model_context_length(ModelSettings(str(folder), context_length=100)) == 100


def test_the_tiny_random_model_is_written_once_and_the_same_everywhere(tmp_path, monkeypatch):
    digests = []
    for home in ("one", "two"):
        monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path / home))
        made = model_folder(ModelSettings("tiny_random"))
        written = (made / "model.safetensors").stat().st_mtime_ns
        assert model_folder(ModelSettings("tiny_random")) == made
        assert (made / "model.safetensors").stat().st_mtime_ns == written
        assert [path.name for path in made.parent.iterdir()] == [made.name]
        digests.append(model_digest(made))
    assert digests[0] == digests[1]


def test_plans_and_counts_load_no_torch(folder):
    code = (
        "import sys; from pathlib import Path; from selfalign.engines.huggingface import HuggingFace\n"
        "from selfalign.engines.model import ModelSettings\n"
        f"settings = HuggingFace(ModelSettings({str(folder)!r}))\n"
        "settings.identity(), settings.problems(), settings.count_tokens('text'), settings.context_length()\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        ("config.json", ["no config.json", "give the model's folder"]),
        ("tokenizer.json", ["expected a tokenizer.json", "save_pretrained"]),
        ("model.safetensors", ["expected *.safetensors", "no weights"]),
    ],
)
def test_a_missing_file_is_named_with_what_to_do(folder, removed, words):
    (folder / removed).unlink()
    assert all(word in problem(folder) for word in words)
    with pytest.raises(ConfigError), HuggingFace(ModelSettings(str(folder))).open():
        pass


def test_pickled_weights_are_refused_with_the_way_out(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin, which is a pickle" in problem(folder) and "save_pretrained" in problem(folder)


def test_a_path_that_is_nearly_right_gets_a_suggestion(folder):
    assert f"did you mean '{folder}'?" in problem(f"{folder}s")
    assert "did you mean 'calf'?" in problem("clf")
    assert "empty path" in problem("")


def test_a_hub_name_that_is_not_on_this_disk_is_a_problem_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = problem("nobody/no-such-model")
    assert "HF_HUB_OFFLINE" in found and "nobody/no-such-model" in found and "give its folder" in found


def test_a_context_beyond_the_models_own_is_refused(folder):
    assert "at most the model's own 256 tokens, found 300" in problem(folder, context_length=300)
    assert "found -1" in problem(folder, context_length=-1)
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "does not say its context window" in problem(folder)
    assert model_problems(ModelSettings(str(folder), context_length=300)) == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_the_digest_covers_what_results_depend_on_and_not_the_place(folder, tmp_path, name):
    before = model_digest(folder)
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("words")
    assert model_digest(copy) == before
    data = bytearray((copy / name).read_bytes())
    data[-2] ^= 1
    (copy / name).write_bytes(data)
    os.utime(copy / name, ns=(1, 1))
    assert model_digest(copy) != before


def test_identity_has_content_and_no_paths_and_no_speed(folder, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    one = HuggingFace(ModelSettings(str(folder)), batch_size=4, threads=1)
    other = HuggingFace(ModelSettings(str(copy)), batch_size=8)
    assert one.identity() == other.identity()
    assert one.identity() != HuggingFace(ModelSettings(str(folder), context_length=99)).identity()
    assert str(tmp_path) not in json.dumps(dict(one.identity()))


def test_all_tokenizers_of_a_folder_agree(folder):
    settings = ModelSettings(str(folder))
    ready = load_tokenizer(settings)
    for text in TEXTS:
        ids = raw_tokenizer(folder).encode(text).ids
        assert ready(text).input_ids == ids
        assert count_tokens(settings, text) == len(ids)
    with HuggingFace(settings).open() as engine:
        assert [engine.count_tokens(text) for text in TEXTS] == [count_tokens(settings, text) for text in TEXTS]


def test_a_beginning_of_text_token_is_counted_where_the_tokenizer_adds_one(folder):
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    settings = ModelSettings(str(folder))
    plain = count_tokens(settings, "abc")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    assert count_tokens(settings, "abc") == plain + 1 == len(load_tokenizer(settings)("abc").input_ids)


def test_a_tokenizer_without_padding_pads_with_its_end_token(folder):
    names = json.loads((folder / "tokenizer_config.json").read_text())
    del names["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    tokenizer = load_tokenizer(ModelSettings(str(folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id is not None
    del names["eos_token"], names["bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    with pytest.raises(ConfigError, match="expected a pad, eos or unk token"):
        load_tokenizer(ModelSettings(str(folder)))


def test_a_folder_without_an_adapter_is_named(folder, tmp_path):
    with (
        pytest.raises(DataError, match=r"no adapter_config\.json"),
        HuggingFace(ModelSettings(str(folder))).open(adapter=tmp_path),
    ):
        pass


def test_an_adapter_changes_the_text_as_peft_itself_would(folder, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    from selfalign.engines.base import GenerateRequest, Sampling, ScoreRequest

    settings = HuggingFace(ModelSettings(str(folder)))
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(3)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapted = get_peft_model(load_model(settings.model), lora).eval()
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    asked = [
        GenerateRequest(str(i), f"common start {i}", Sampling(12, temperature=0), shared="common start ")
        for i in range(3)
    ]
    score = [ScoreRequest("s", "abc", " def")]
    with settings.open() as engine:
        plain = [completion.text for completion in engine.generate(asked)], next(iter(engine.score(score))).logprob
    with settings.open(adapter=tmp_path / "adapter") as engine:
        changed = [completion.text for completion in engine.generate(asked)], next(iter(engine.score(score))).logprob
    assert plain != changed and plain[0] != changed[0]
    ids = torch.tensor([raw_tokenizer(folder).encode("abc def").ids])
    with torch.inference_mode():
        logprobs = adapted(ids).logits[0, 2:-1].log_softmax(-1)
    assert changed[1] == pytest.approx(float(logprobs.gather(1, ids[0, 3:, None]).sum()), abs=1e-4)


@pytest.mark.slow
def test_compiled_blocks_write_the_same_text(llama):
    if not shutil.which("c++") and not shutil.which("g++"):
        pytest.skip("needs a C++ compiler, found none")
    asked = [GenerateRequest(str(i), f"w00{i} w017 w1{i}3", Sampling(12, 0.0)) for i in range(4)]
    texts = {}
    for compiled in (False, True):
        with HuggingFace(ModelSettings(str(llama)), compile=compiled).open() as engine:
            texts[compiled] = {one.id: one.text for one in engine.generate(asked)}
            mine = [module for module in engine._model.modules() if getattr(module, "_compiled_call_impl", None)]
            # Two norms and a feed-forward block in each of two layers.
            assert len(mine) == 6 * compiled
    assert texts[True] == texts[False]
