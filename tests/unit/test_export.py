"""Laws of an export: other programs load it and get the same model, it says what it is, and nothing is left half written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from selfalign import commands, export, jsonl
from selfalign.engines.adapters import Adapters
from selfalign.engines.model import ModelSettings, load_model, model_digest
from selfalign.errors import DataError, SelfAlignError
from selfalign.records import Example, to_row
from tests.unit.report.run_folders import write_run

TEXT = "What do otters eat?"


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Path:
    """A finished run whose engraved node has an adapter that changes the tiny model."""
    from peft import LoraConfig, get_peft_model

    folder = write_run(tmp_path / "demo-12345678")
    node = folder / "stages" / "engraved"
    node.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = get_peft_model(
        load_model(ModelSettings(str(tiny_model))),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    model.save_pretrained(node / "adapter")
    manifest = {"identity": {"engine": {"model": model_digest(tiny_model)}}}
    (node / "manifest.json").write_text(json.dumps(manifest))
    examples = [Example(f"e{n}", f"r{n}", TEXT, f" Fish number {n}.") for n in range(3)]
    jsonl.write(node / "examples.jsonl", map(to_row, examples))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"] = {"path": str(tiny_model), "revision": "", "context_length": 0, "dtype": "float32"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[72, 105, 33]])).logits


def test_plain_peft_and_plain_transformers_get_the_model_that_was_trained(run: Path, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = load_model(ModelSettings(str(tiny_model)))
    untrained = logits(base)
    adapter_folder = run / "stages" / "engraved" / "adapter"
    Adapters(base, [adapter_folder], model_digest(tiny_model)).use(adapter_folder)
    trained = logits(base)
    assert (trained - untrained).abs().max() > 1e-3, "the adapter changes something"
    adapter = export.export(run)
    assert adapter.folder == run / "export" / "engraved" and adapter.parity is None
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(adapter.folder)).eval()
    assert torch.equal(logits(loaded), trained)
    merged = export.export(run, merged=True)
    assert merged.parity is not None and merged.parity.positions > 20 and merged.parity.flips == 0
    whole = AutoModelForCausalLM.from_pretrained(merged.folder).eval()
    assert torch.allclose(logits(whole), trained, atol=1e-4)
    assert AutoTokenizer.from_pretrained(merged.folder).decode([72]) == AutoTokenizer.from_pretrained(
        tiny_model
    ).decode([72])


def test_the_card_says_what_it_is_and_what_it_was_trained_on(run: Path, tiny_model: Path) -> None:
    page = (export.export(run).folder / "README.md").read_text()
    head = yaml.safe_load(page.split("---")[1])
    assert head["base_model"] == tiny_model.name and head["library_name"] == "peft"
    for text in ("principle engraving (stage 3)", "| responses |", "licence of the base model", "demo-12345678"):
        assert text in page
    assert str(tiny_model.parent) not in page


def test_a_merged_model_beyond_the_tolerance_is_refused_unless_forced(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_merge", lambda *_: export.Parity(9.0, 5, 100))
    with pytest.raises(DataError, match=r"at most 1.0% of positions, found 5 of 100 .*--force"):
        export.export(run, merged=True)
    assert not list((run / "export").iterdir()), "nothing is left"
    assert export.export(run, merged=True, tolerance=0.05).folder.is_dir()
    assert export.export(run, run / "other", merged=True, force=True).folder.is_dir()


def test_another_base_than_the_adapters_is_refused(run: Path) -> None:
    manifest = run / "stages" / "engraved" / "manifest.json"
    manifest.write_text(json.dumps({"identity": {"engine": {"model": "f" * 64}}}))
    with pytest.raises(DataError, match="digest ffffffffffff"):
        export.export(run)


def test_what_is_there_is_not_overwritten_and_mistakes_are_named(run: Path) -> None:
    export.export(run)
    with pytest.raises(DataError, match="expected a new or empty folder"):
        export.export(run)
    with pytest.raises(SelfAlignError, match="did you mean 'engraved'"):
        export.export(run, node="engravd")


def test_a_run_without_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SelfAlignError, match="expected an adapter"):
        export.export(write_run(tmp_path / "demo-12345678"))


def test_the_command_prints_the_folder_and_the_parity(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.export([str(run), "--merged"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == str(run / "export" / "engraved-merged") and "a logit differs by at most" in out


def test_the_hub_gets_the_folder_and_its_refusal_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, dict[str, object]]] = []

    class Hub:
        def create_repo(self, name: str, **more: object) -> str:
            asked.append((name, more))
            return f"https://hub/{name}"

        def upload_folder(self, **more: object) -> None:
            if more["repo_id"] == "me/refused":
                raise OSError("403 Forbidden")
            asked.append((str(more["repo_id"]), more))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    folder = export.export(run).folder
    assert export.push(folder, "me/mine") == "https://hub/me/mine"
    assert asked[0][1]["private"] is True and asked[1][1]["folder_path"] == str(folder)
    with pytest.raises(SelfAlignError, match="403 Forbidden.*hf auth login"):
        export.push(folder, "me/refused")


def test_the_chat_template_lays_a_talk_out_as_training_did(run: Path) -> None:
    from transformers import AutoTokenizer

    from selfalign import prompts
    from selfalign.prompts import Assistant

    tokenizer = AutoTokenizer.from_pretrained(export.export(run).folder)
    talk = [("Who {{ are }} you?", 'I am "Willow".'), ("Und jetzt: \U0001f642 ü?", "")]
    messages = [
        {"role": role, "content": text} for turn in talk for role, text in zip(("user", "assistant"), turn, strict=True)
    ]

    def laid_out(meta: str) -> str:
        assistant = Assistant()
        text = prompts.chat_prompt(meta, assistant, talk[0][0]) + prompts.chat_target(talk[0][1]).removesuffix("\n")
        return prompts.chat_prompt(text, assistant, talk[1][0])

    standard = prompts.fill(prompts.load_text("standard"), Assistant())
    assert tokenizer.apply_chat_template(messages[:3], tokenize=False) == laid_out(standard)
    system = [{"role": "system", "content": "Be \\n brief."}, *messages[:3]]
    assert tokenizer.apply_chat_template(system, tokenize=False) == laid_out("Be \\n brief.\n\n### User")


def test_the_template_brings_the_token_that_the_tokenizer_puts_before_every_text() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    from selfalign.model_card import chat_template
    from selfalign.prompts import Assistant

    template = chat_template("Hi.\n\n### User", Assistant(), "<s>")
    (text,), _ = render_jinja_template([[{"role": "user", "content": "Yes?"}]], chat_template=template)
    assert text == "<s>Hi.\n\n### User\nYes?\n\n### Willow"


def test_what_the_card_says_to_run_runs(run: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for merged in (False, True):
        folder = export.export(run, merged=merged).folder
        code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
        said: list[str] = []
        monkeypatch.chdir(folder)
        code = code.replace("max_new_tokens=200", "max_new_tokens=4").replace(
            f'"{tiny_model.name}"', repr(str(tiny_model))
        )
        exec(code, {"print": said.append})
        assert len(said) == 1


def test_an_adapter_of_a_model_from_a_hub_names_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from selfalign.report import load_run

    settings = replace(export.model_of(load_run(run)), path="owner/name", revision="v1")
    config = run / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "base-abc", "r": 4}')
    one = load_run(run)
    one.config["model"] = {"path": "owner/name"}
    export._name_base(one, settings, config)
    assert json.loads(config.read_text()) == {"base_model_name_or_path": "owner/name", "revision": "v1", "r": 4}
