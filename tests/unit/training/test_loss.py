from __future__ import annotations

import dataclasses
import json
import math
from array import array
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from selfalign import jsonl
from selfalign.errors import StageError
from selfalign.training import lora, worker
from selfalign.training.batches import StepPlan, collate, labels_by_source, split
from selfalign.training.data import Rows
from selfalign.training.encode import IGNORE_INDEX, Row
from selfalign.training.module import Finetuning
from selfalign.training.settings import Batching, TrainerSettings, Training
from tests.unit.training.training_runs import contents, make_job


def ignore(line: dict) -> None:
    pass


def module_of(training: Training) -> Finetuning:
    return Finetuning(Path(), training, TrainerSettings(), StepPlan([], 1, 1, 0), [], 0)


def module_around(model) -> Finetuning:
    module = module_of(Training())
    module.model = model
    module.takes_logits_to_keep = False
    return module


class FixedLogits(torch.nn.Module):
    """A model whose logits [batch, seq, vocab] are one parameter, whatever it reads; a cache of it holds nothing."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, **_):
        return SimpleNamespace(
            logits=self.logits, past_key_values=SimpleNamespace(batch_repeat_interleave=lambda count: None)
        )


def expect_loss_on_targets_alone(batching: Batching) -> None:
    """Two rows that begin alike, of whose tokens 4 to 5 and 2 to 3 are the target."""
    rows = [Row("long", array("i", [0, 1, 2, 3, 1, 2]), 4), Row("short", array("i", [0, 1, 0, 2]), 2)]
    micro = collate(rows, batching)
    model = FixedLogits(torch.randn((*micro["input_ids"].shape, 4), generator=torch.Generator().manual_seed(0)))
    module_around(model).losses(micro).sum().backward()
    assert model.logits.grad is not None
    assert torch.nonzero(model.logits.grad.abs().sum(-1)).tolist() == PREDICTING[batching]


PREDICTING = {
    Batching.bucket: [[0, 3], [0, 4], [1, 1], [1, 2]],
    # Their first token stands before both.
    Batching.share: [[0, 2], [0, 3], [1, 0], [1, 1]],
    # Their first token, the five others of the first row, the three others of the second.
    Batching.pack: [[0, 3], [0, 4], [0, 6], [0, 7]],
}
"""Where the tokens stand from which those of the targets are predicted: row and position."""


@pytest.mark.parametrize("batching", list(Batching))
def test_only_the_predictions_of_target_tokens_carry_loss(batching: Batching):
    expect_loss_on_targets_alone(batching)


@pytest.mark.parametrize("batching", list(Batching))
@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_mask_that_is_off_by_one_breaks_that_law(batching: Batching, off_by: int, monkeypatch: pytest.MonkeyPatch):
    def labels(row: Row) -> list[int]:
        silent = row.prompt_length + off_by
        return [IGNORE_INDEX] * silent + row.ids[silent:].tolist()

    monkeypatch.setattr(Row, "labels", property(labels))
    monkeypatch.setattr(Row, "n_labels", property(lambda row: len(row.ids) - row.prompt_length - off_by))
    with pytest.raises(AssertionError):
        expect_loss_on_targets_alone(batching)


def test_the_loss_of_three_tokens_is_what_a_hand_computes():
    probabilities = [[0.1, 0.7, 0.2], [0.5, 0.25, 0.25], [0.9, 0.05, 0.05]]
    module = module_around(FixedLogits(torch.tensor([probabilities]).log()))
    (loss,) = module.losses(collate([Row("r", array("i", [0, 1, 2]), 1)], Batching.bucket))
    assert float(loss) == pytest.approx(-math.log(0.7) - math.log(0.25), rel=1e-6)


def test_an_empty_micro_batch_has_zero_loss_and_zero_gradient():
    model = FixedLogits(torch.randn((1, 2, 4), generator=torch.Generator().manual_seed(0)))
    loss = module_around(model).losses(collate([], Batching.bucket)).sum()
    loss.backward()
    assert float(loss) == 0.0 and model.logits.grad is not None and not model.logits.grad.any()


def adapted(folder: Path, batching: Batching = Batching.bucket) -> Finetuning:
    module = module_of(Training(dropout=0.0, batching=batching))
    module.adopt(lora.add_lora(lora.load_base(folder, TrainerSettings()), module.training_settings, TrainerSettings()))
    module.model.eval()
    return module


@pytest.mark.parametrize("batching", list(Batching))
def test_a_batch_of_rows_has_the_loss_of_its_rows_one_by_one(tiny_model: Path, batching: Batching):
    plain, module = adapted(tiny_model), adapted(tiny_model, batching)
    rows = [Row(str(n), array("i", [3 * n + k for k in range(4 + 3 * n)]), 2 + n) for n in range(4)]
    with torch.no_grad():
        alone = [float(plain.losses(collate([row], Batching.bucket))) for row in rows]
        together = module.losses(collate(rows, batching)).tolist()
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("batching", [Batching.pack, Batching.share])
def test_no_row_sees_another_and_a_model_that_leaks_is_refused(tiny_model: Path, batching: Batching):
    module = adapted(tiny_model, batching)
    module.check_batching()

    class Leaking(torch.nn.Module):
        """The same model, but with a cache where it should have none, and none where it should."""

        def forward(self, use_cache: bool, past_key_values=None, rows=None, **inputs):
            inputs |= {"rows": merged(rows)} if rows else {}
            return model(use_cache=True, **inputs)

        def get_base_model(self):
            return model.get_base_model()

    def merged(rows: dict) -> dict:
        """All of them as one long row."""
        places = rows["places"].flatten()[rows["slots"]][None]
        return {"common": rows["common"], "places": places, "slots": torch.arange(places.numel())}

    model = module.model
    module.model = Leaking()
    with pytest.raises(StageError, match=f"batching={batching}.*use training.batching=bucket"):
        module.check_batching()


@pytest.mark.parametrize("together", [Batching.pack, Batching.share])
def test_rows_behind_one_beginning_have_the_gradients_of_rows_that_stand_alone(tiny_model: Path, together: Batching):
    first, second = [7, 8, 9, 10, 11, 12], [20, 21, 22, 23]
    rows = [Row("a", array("i", [*first, 1, 2, 3]), 7), Row("b", array("i", [*first, 1, 4]), 7)]
    rows += [Row("same prompt, other answer", array("i", [*first, 1, 5, 6]), 7)]
    rows += [Row("c", array("i", [*second, 5, 6, 7]), 5), Row("d", array("i", [*second, 3, 1, 1, 1]), 4)]
    rows += [Row("no prompt", array("i", [3, 4, 5]), 0)]
    gradients = []
    for batching in (Batching.bucket, together):
        module = adapted(tiny_model, batching)
        # LoRA begins with a zero matrix, behind which the other one has no gradient.
        generator = torch.Generator().manual_seed(0)
        for parameter in module.trainable().values():
            parameter.data.normal_(0, 0.1, generator=generator)
        for micro in split(rows, 4, batching, 0, 1):
            module.losses(collate(micro, batching)).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in module.trainable().items() if p.grad is not None})
    assert gradients[0].keys() == module.trainable().keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)


def test_attention_that_is_more_than_a_softmax_over_the_whole_row_is_not_packed():
    from selfalign.training.attention import attention

    micro = collate([Row("a", array("i", [1, 2, 3, 4]), 2), Row("b", array("i", [5, 6]), 1)], Batching.pack)
    query = torch.randn(1, 2, 6, 4, generator=torch.Generator().manual_seed(0))
    given = (torch.nn.Module(), query, query, query, None, micro["rows"])
    plain, _ = attention(*given)
    whole = torch.nn.functional.scaled_dot_product_attention(
        query[:, :, :4], query[:, :, :4], query[:, :, :4], is_causal=True
    )
    torch.testing.assert_close(plain[:, :4], whole.transpose(1, 2))
    torch.testing.assert_close(attention(*given, sliding_window=4)[0], plain)
    with pytest.raises(StageError, match="one of 4 tokens and a sliding window of 3.*batching=bucket"):
        attention(*given, sliding_window=3)
    with pytest.raises(StageError, match="softcap.*batching=bucket"):
        attention(*given, softcap=30.0)


def step_rows(out: Path) -> list[dict]:
    return [row for row in jsonl.read(out / "metrics.jsonl") if "loss" in row]


def test_how_a_step_is_cut_into_batches_does_not_change_what_is_learned(
    tmp_path: Path, examples: Path, tiny_model: Path
):
    runs = {}
    ways = [
        ("whole", Batching.bucket, 8),
        ("single", Batching.bucket, 1),
        ("packed", Batching.pack, 4),
        ("shared", Batching.share, 4),
    ]
    for name, batching, micro in ways:
        settings = {"dropout": 0.0, "epochs": 1, "learning_rate": 1e-3, "schedule": "constant", "batching": batching}
        job = make_job(tmp_path / name, examples, tiny_model, settings, micro_batch_size=micro)
        assert worker.run(job, ignore) == 0
        runs[name] = step_rows(job.out)
    assert len(runs["whole"]) == 3
    for name in ("single", "packed", "shared"):
        for one, other in zip(runs["whole"], runs[name], strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3)


def test_the_metrics_agree_with_the_files_and_with_plain_peft(tmp_path: Path, examples: Path, tiny_model: Path):
    from peft import PeftModel

    job = make_job(tmp_path, examples, tiny_model)
    assert worker.run(job, ignore) == 0
    metrics = json.loads((tmp_path / "result.json").read_text())["metrics"]
    assert metrics["examples"] == 24 and metrics["train_examples"] == 22 and metrics["validation_examples"] == 2
    assert metrics["steps"] == 6 and metrics["truncated_rows"] == metrics["untrainable_rows"] == 0
    assert metrics["validation_loss_after"] < metrics["validation_loss_before"]
    # The validation loss of the run, from the files that it left, by nothing but transformers and PEFT.
    model = PeftModel.from_pretrained(lora.load_base(tiny_model, TrainerSettings()), tmp_path / "adapter")
    total, tokens = 0.0, 0
    for row in Rows(job).validation:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids.tolist()])).logits[0].log_softmax(-1)
        for place in range(row.prompt_length, len(row.ids)):
            total -= float(logits[place - 1, row.ids[place]])
            tokens += 1
    assert metrics["validation_loss_after"] == pytest.approx(total / tokens, rel=1e-5)
    parameters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert metrics["trainable_parameters"] == parameters
    speeds = jsonl.read(tmp_path / "speed.jsonl")
    assert [row["step"] for row in speeds] == [1, 2, 3, 4, 5, 6] and all(row["tokens_per_s"] > 0 for row in speeds)


@pytest.mark.parametrize("batching", list(Batching))
def test_losses_by_source_add_up_to_the_loss_per_token(
    tmp_path: Path, examples: Path, tiny_model: Path, batching: Batching
):
    rows = [{**row, "source": ("red_team", "self_instruct")[n % 2]} for n, row in enumerate(jsonl.read(examples))]
    jsonl.write(tmp_path / "examples.jsonl", rows)
    settings = {"validation_fraction": 0.3, "validate_every_steps": 1, "epochs": 1, "batching": batching}
    job = make_job(tmp_path, tmp_path / "examples.jsonl", tiny_model, settings)
    assert worker.run(job, ignore) == 0
    data = Rows(job)
    held = labels_by_source(data.validation)
    scored = [row for row in jsonl.read(tmp_path / "metrics.jsonl") if "validation_loss" in row]
    assert [row["step"] for row in scored] == [0, 1, 2, 3] and list(held) == ["red_team", "self_instruct"]
    expect_sum("validation_loss", scored, [held] * 4)
    trained = [labels_by_source(data.plan.rows_of(step)) for step in range(3)]
    expect_sum("loss", step_rows(tmp_path), trained)


def expect_sum(name: str, rows: list[dict], tokens: list[dict[str, int]]) -> None:
    for row, counts in zip(rows, tokens, strict=True):
        assert {key for key in row if key.startswith(f"{name}/")} == {f"{name}/{source}" for source in counts}
        parts = sum(row[f"{name}/{source}"] * count for source, count in counts.items())
        assert row[name] == pytest.approx(parts / sum(counts.values()), rel=1e-9)


class CrashError(Exception):
    pass


def test_training_ends_early_where_scores_bring_no_new_minimum_and_resumes_to_the_same(
    tmp_path: Path, examples: Path, tiny_model: Path
):
    # A rate at which nothing is learned: no score is lower than the one before.
    settings = {"learning_rate": 1e-30, "warmup_steps": 0, "validate_every_steps": 1, "early_stopping_patience": 2}
    whole = make_job(tmp_path / "whole", examples, tiny_model, settings, checkpoint_every_steps=1)
    assert worker.run(whole, ignore) == 0
    result = json.loads((whole.out / "result.json").read_text())["metrics"]
    scored = [row["validation_loss"] for row in jsonl.read(whole.out / "metrics.jsonl") if "validation_loss" in row]
    assert result["stopped_early"] and result["steps"] == len(scored) - 1 < 6
    assert min(scored[-2:]) >= min(scored[:-2])

    def crash(line: dict) -> None:
        if line["step"] == result["steps"]:
            raise CrashError

    killed = make_job(tmp_path / "killed", examples, tiny_model, settings, checkpoint_every_steps=1)
    with pytest.raises(CrashError):
        worker.run(killed, crash)
    assert worker.run(killed, ignore) == 0
    assert contents(killed.out / "adapter") == contents(whole.out / "adapter")
    assert (killed.out / "metrics.jsonl").read_bytes() == (whole.out / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [([3, 2, 2], 1, True), ([3, 2, 1], 1, False), ([2, 3, 3], 2, True), ([2, 3, 1], 2, False), ([1, 2, 3], 0, False)],
)
def test_losses_stall_where_the_last_ones_are_no_lower_than_one_before(losses: list[float], patience: int, ends: bool):
    from selfalign.training.progress import no_better

    assert no_better(losses, patience) is ends


def test_a_layer_that_the_model_does_not_have_is_refused_by_name(tmp_path: Path, examples: Path, tiny_model: Path):
    job = make_job(tmp_path, examples, tiny_model, {"target_modules": ["q_proj", "v_prj"]})
    with pytest.raises(StageError, match="'v_prj'; did you mean 'v_proj'"):
        worker.run(job, ignore)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path, examples: Path, tiny_model: Path):
    job = make_job(tmp_path, examples, tiny_model, {"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(StageError, match="finite loss.*learning_rate"):
        worker.run(job, ignore)


def test_training_goes_on_from_an_adapter_and_refuses_one_of_another_shape(
    tmp_path: Path, examples: Path, tiny_model: Path
):
    first = make_job(tmp_path / "first", examples, tiny_model)
    assert worker.run(first, ignore) == 0
    adapter = first.out / "adapter"
    second = make_job(tmp_path / "second", examples, tiny_model, initial_adapter=adapter)
    assert second.digest != dataclasses.replace(second, initial_adapter=None, initial_digest="").digest
    assert worker.run(second, ignore) == 0
    rows = [jsonl.read(job.out / "metrics.jsonl") for job in (first, second)]
    assert rows[1][0]["validation_loss"] == pytest.approx(rows[0][-1]["validation_loss"], rel=1e-6)
    assert rows[0][0]["validation_loss"] != rows[1][0]["validation_loss"]
    other = dataclasses.replace(second, model_digest="0" * 64)
    with pytest.raises(StageError, match="trained on another.*base-.*same base weights"):
        worker.run(dataclasses.replace(other, out=tmp_path), ignore)
    with pytest.raises(StageError, match="r 4 instead of 8.*same rank"):
        worker.run(make_job(tmp_path / "third", examples, tiny_model, {"rank": 8}, initial_adapter=adapter), ignore)
