"""Laws of the reckoning: it follows the settings, a pilot replaces what is expected, what is there costs nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import commands, cost, disk, experiment, groups, jsonl
from selfalign.artifacts import Artifact
from selfalign.cost import Cost, Measured, PlanSettings
from selfalign.engines.model import ModelSettings
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.errors import ConfigError
from selfalign.experiment import Experiment
from selfalign.records import Prompt, to_row
from selfalign.stages.base import Context
from selfalign.training.settings import Training


def composed(*overrides: str) -> Experiment:
    groups.register()
    return groups.compose(["tracking=none", *overrides])


def costs(one: Experiment, **more: object) -> dict[str, Cost]:
    return cost.costs(experiment.pipeline(one), one.plan, one.engine.count_tokens, **more)  # type: ignore[arg-type]


def test_every_node_is_counted_and_rows_flow_from_one_to_the_next() -> None:
    found = costs(composed("experiments=quickstart"))
    assert not [name for name, one in found.items() if one.note]
    assert found["prompts"].kept == found["instructions"].kept + found["red_team"].kept
    assert found["responses"].requests == found["verbose_responses"].requests == found["prompts"].kept
    assert found["engraved"].kept == found["responses"].kept
    assert all(
        one.requests or one.trained_tokens for name, one in found.items() if name not in ("prompts", "contamination")
    )


def test_shared_tokens_are_those_of_the_prompt_that_would_be_sent() -> None:
    whole, less = composed("experiments=quickstart"), composed("experiments=quickstart", "principles.drop=[candor]")
    before, after = costs(whole), costs(less)
    for one, found in ((whole, before), (less, after)):
        count_tokens = one.engine.count_tokens
        assert found["responses"].shared_tokens == count_tokens(one.self_align.arm(count_tokens)[3])
    assert after["responses"].shared_tokens < before["responses"].shared_tokens
    assert after["instructions"] == before["instructions"]


def test_the_questions_of_the_evaluation_are_counted_as_they_are_asked() -> None:
    one = composed("experiments=quickstart", "evaluation.limit=0")
    found = costs(one)["scores_base"]
    # Every pair of a context and a continuation that a protocol scores, each once, and the questions answered freely.
    from selfalign.evaluation import data
    from selfalign.evaluation.catalogue import catalogue
    from selfalign.evaluation.protocols import EXAMS, default_chat

    asked = 0
    for name in one.evaluation.tasks:
        task = catalogue()[name]
        items = data.load(task, "calf")
        pairs = {pair for item in items for p in task.protocols for pair in EXAMS[p].pairs(default_chat(), item)}
        asked += len(pairs) or len(items)
    assert found.requests == asked > 500


def test_a_pilot_replaces_what_is_expected() -> None:
    one = composed("experiments=quickstart")
    pilot = {"responses": Measured(kept=0.5, new_tokens=10.0), "verbose_responses": Measured(kept=1.0, new_tokens=20.0)}
    expected, found = costs(one), costs(one, pilot=pilot)
    asked = expected["responses"].requests
    assert found["responses"].new_tokens == 10 * asked and found["responses"].kept == asked // 2
    assert found["verbose_responses"].new_tokens == 20 * asked
    assert found["cloned"].trained_tokens < expected["cloned"].trained_tokens
    assert found["instructions"] == expected["instructions"]


def test_a_finished_run_is_measured(tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    jsonl.write(folder / "completions.jsonl", [{"id": str(n), "new_tokens": n} for n in (10, 20, 30)])
    entry = {"status": "computed", "path": str(folder), "counts": {"in": 3, "kept": 2}}
    nodes = {"responses": entry, "cloned": {**entry, "status": "failed"}}
    (tmp_path / "manifest.json").write_text(json.dumps({"nodes": nodes}))
    assert cost.measured(tmp_path) == {"responses": Measured(2 / 3, 20.0, 2 / 3)}


def test_device_seconds_follow_the_device_and_the_model() -> None:
    settings = PlanSettings(device="a100_80gb", utilisation=1.0, batch=1)
    read = Cost(requests=1, prompt_tokens=1_000_000)
    assert read.device_seconds(settings, 1e9, 2) == pytest.approx(2 * 1e9 * 1e6 / 312e12)
    # One sequence at a time: each token waits for all weights to be read.
    written = Cost(requests=1, new_tokens=1000)
    assert written.device_seconds(settings, 1e9, 2) == pytest.approx(1000 * 2e9 / 2039e9)
    batched = replace(settings, batch=100)
    assert written.device_seconds(batched, 1e9, 2) < written.device_seconds(settings, 1e9, 2) / 50
    half = replace(settings, utilisation=0.5)
    for one in (read, written, Cost(trained_tokens=1000)):
        assert one.device_seconds(half, 1e9, 2) == pytest.approx(2 * one.device_seconds(settings, 1e9, 2))
        assert one.device_seconds(settings, 2e9, 2) == pytest.approx(2 * one.device_seconds(settings, 1e9, 2))


def test_an_adapter_is_reckoned_to_the_number_where_the_weights_are_there() -> None:
    from selfalign.engines.model import model_folder, weight_shapes
    from selfalign.training import lora
    from selfalign.training.settings import TrainerSettings

    one = composed("experiments=quickstart", "model=tiny_random")
    training = one.engrave.training
    model = lora.add_lora(lora.empty_base(model_folder(one.model)), training, TrainerSettings())
    built = sum(each.numel() for name, each in model.named_parameters() if "lora_" in name)
    assert cost.adapter_parameters_of(one.plan, one.model)(training) == built > 0
    assert len(weight_shapes(model_folder(one.model))) > 10


def test_a_model_that_is_not_here_is_reckoned_by_its_size_or_not_at_all() -> None:
    gone = ModelSettings(path="nobody/has-this-model")
    assert cost.adapter_parameters_of(PlanSettings(), gone)(Training()) == 0
    assert cost.adapter_parameters_of(PlanSettings(parameters=7e9), gone)(Training()) > 1e7


@pytest.mark.parametrize(("parameters", "published"), [(6.74e9, 16.8e6), (65.3e9, 83.9e6)])
def test_the_adapter_of_a_llama_is_reckoned_without_its_weights(parameters: float, published: float) -> None:
    """Rank 16 in the four matrices of attention: 2 x 16 x 4 x width x layers, of widths 4,096 and 8,192 and 32 and 80 layers."""
    assert disk.lora_parameters(Training(), {}, parameters) == pytest.approx(published, rel=0.15)


def test_what_a_stage_leaves_on_the_disk_follows_its_rows_and_tokens() -> None:
    stage = composed("experiments=quickstart").self_align
    few, many, long = (
        disk.bytes_of(stage, kept=0, requests=rows, new_tokens=tokens, trained_tokens=0, adapter_parameters=0)
        for rows, tokens in ((100, 5_000), (200, 10_000), (100, 10_000))
    )
    assert many == 2 * few and few < long < many
    found = costs(composed("experiments=quickstart"), adapter_parameters=lambda _: 1_000_000.0)
    assert all(one.bytes > 0 for one in found.values())
    assert {name for name, one in found.items() if one.checkpoint_bytes} == {"engraved", "cloned"}
    assert found["engraved"].bytes > 4_000_000 and found["engraved"].checkpoint_bytes == 12_000_000


def test_a_plan_says_when_a_budget_would_not_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = ["experiments=quickstart", "tracking=none", f"store={tmp_path}", "stages=no_cloning"]
    sweep = [*one, "principles.drop=[],[candor]", "-m"]
    assert commands.plan([*one, "budget.tokens=1000000000", "budget.hours=100"]) == 0
    assert "would not do" not in capsys.readouterr().out
    assert commands.plan([*one, "budget.tokens=1000"]) == 0
    assert "budget.tokens=1000 would not do" in capsys.readouterr().out
    assert commands.plan([*sweep, "budget.hours=1000", "sweep_budget.hours=0.001"]) == 0
    out = capsys.readouterr().out
    assert out.count("would not do") == 1 and "sweep_budget.hours=0.001 would not do" in out
    assert " on the disk, and " in out and " more while a training runs" in out


def test_wrong_settings_are_named() -> None:
    one = composed()
    wrong = replace(one, plan=PlanSettings(device="a100", devices=0, utilisation=40, price_per_hour=-1))
    found = " ".join(experiment.problems(wrong))
    for text in (
        "did you mean 'a100_",
        "plan.devices: expected 1",
        "plan.utilisation: expected a share",
        "plan.price_per_hour",
    ):
        assert text in found


@pytest.mark.parametrize("preset", ["dromedary", "dromedary2"])
def test_a_preset_is_reckoned_before_anything_of_it_is_there(
    preset: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SELFALIGN_DATA", raising=False)
    assert commands.plan([f"experiments={preset}", "plan.price_per_hour=2"]) == 0
    out = capsys.readouterr().out
    for text in (
        "not there yet: model.path",
        "not there yet: evaluation.data",
        " an hour of a device",
        "at least",
        " h of ",
    ):
        assert text in out
    assert out.count(" tokens trained on") == (2 if preset == "dromedary" else 1)


def test_a_mistake_is_named_where_the_model_is_not_there_yet_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="self_align.min_characters"):
        commands.plan(["experiments=dromedary", "self_align.min_characters=-3"])


def test_arms_of_a_sweep_pay_for_what_they_share_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = [
        "experiments=quickstart",
        "tracking=none",
        f"store={tmp_path}",
        "stages=no_cloning",
        "principles.drop=[],[candor]",
    ]
    assert commands.plan([*sweep, "-m"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # Each node's answers and training are named by both arms and reckoned once.
    assert sum("476 requests" in line for line in lines) == 2
    assert sum("tokens trained on" in line for line in lines) == 2
    assert sum(line.split()[:2] == ["instructions", "shared"] for line in lines) == 1


def test_two_devices_are_reckoned_each_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = ["experiments=quickstart", "tracking=none", f"store={tmp_path}", "stages=no_cloning", "evaluation=none"]
    assert commands.plan([*two, "plan.device=cpu_core,h100_80gb", "-m"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(" of one cpu_core" in line for line in lines) == sum(" of one h100_80gb" in line for line in lines) == 1
    assert sum("tokens trained on" in line for line in lines) == 2 and not [
        line for line in lines if " shared  " in line
    ]


def test_a_preset_without_a_model_hides_no_other_mistake() -> None:
    with pytest.raises(ConfigError, match="merge.near_duplicate"):
        commands.plan(["experiments=dromedary", "merge.near_duplicate=3"])


def test_where_the_prompts_are_there_the_tokens_planned_are_the_tokens_sent(
    tmp_path: Path,
) -> None:
    prompts = [Prompt(f"p{number}", f"Name {number} uses of a spoon.", "" if number % 2 else "tea", "self_instruct")
               for number in range(7)]  # fmt: skip
    one = composed("experiments=quickstart", "principles.drop=[candor]")
    found = cost.costs(experiment.pipeline(one), one.plan, one.engine.count_tokens, given={"prompts": prompts})
    for name, stage in (("responses", one.self_align), ("verbose_responses", one.verbose_clone)):
        out = tmp_path / name
        (out / "given").mkdir(parents=True)
        jsonl.write(out / "given" / "prompts.jsonl", map(to_row, prompts))
        inputs = {
            role: Artifact("Merge-0-0", out / "given", {"files": {"prompts.jsonl": {}}, "counts": {}})
            for role in ("prompts", "adapter")
        }
        engine = ScriptedEngine(context_length=10_000)
        stage.run(inputs, out, Context(ScriptedSettings(engine)))
        assert found[name].requests == len(engine.generated) == 7
        assert found[name].read_tokens == sum(one.engine.count_tokens(asked.prompt) for asked in engine.generated)
