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
from selfalign.training.batches import StepPlan, collate, split
from selfalign.training.encode import Row
from selfalign.training.module import Finetuning
from selfalign.training.settings import Batching, TrainerSettings, Training
from tests.unit.training.training_runs import make_job


def ignore(line: dict) -> None:
    pass


def module_around(model, training: Training | None = None) -> Finetuning:
    module = Finetuning(Path(), training or Training(), TrainerSettings(), StepPlan([], 1, 1, 0), [], 0)
    module.model = model
    module.takes_logits_to_keep = False
    return module


class FixedLogits(torch.nn.Module):
    """A model whose logits [batch, seq, vocab] are one parameter, whatever it reads."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, **_):
        return SimpleNamespace(logits=self.logits)


def positions_with_gradient(row: Row) -> list[int]:
    model = FixedLogits(torch.randn((1, len(row.ids), 4), generator=torch.Generator().manual_seed(0)))
    module_around(model).loss_sum(collate([row], Batching.bucket)).backward()
    assert model.logits.grad is not None
    return torch.nonzero(model.logits.grad[0].abs().sum(-1)).flatten().tolist()


def test_only_the_predictions_of_target_tokens_carry_loss():
    row = Row("r", array("i", [0, 1, 2, 3, 1, 2]), prompt_length=4)
    assert positions_with_gradient(row) == [3, 4]
    # The law must notice a border that is off by one.
    assert positions_with_gradient(Row("r", row.ids, prompt_length=3)) != [3, 4]


def test_the_loss_of_three_tokens_is_what_a_hand_computes():
    probabilities = [[0.1, 0.7, 0.2], [0.5, 0.25, 0.25], [0.9, 0.05, 0.05]]
    module = module_around(FixedLogits(torch.tensor([probabilities]).log()))
    loss = module.loss_sum(collate([Row("r", array("i", [0, 1, 2]), 1)], Batching.bucket))
    assert float(loss) == pytest.approx(-math.log(0.7) - math.log(0.25), rel=1e-6)


def test_an_empty_micro_batch_has_zero_loss_and_zero_gradient():
    model = FixedLogits(torch.randn((1, 2, 4), generator=torch.Generator().manual_seed(0)))
    loss = module_around(model).loss_sum(collate([], Batching.bucket))
    loss.backward()
    assert float(loss) == 0.0 and model.logits.grad is not None and not model.logits.grad.any()


def adapted(folder: Path) -> Finetuning:
    module = module_around(
        lora.add_lora(lora.load_base(folder, TrainerSettings()), Training(dropout=0.0), TrainerSettings())
    )
    module.takes_logits_to_keep = True
    module.model.eval()
    return module


@pytest.mark.parametrize("batching", list(Batching))
def test_a_batch_of_rows_has_the_loss_of_its_rows_one_by_one(tiny_model: Path, batching: Batching):
    module = adapted(tiny_model)
    rows = [Row(str(n), array("i", [3 * n + k for k in range(4 + 3 * n)]), 2 + n) for n in range(4)]
    with torch.no_grad():
        alone = sum(float(module.loss_sum(collate([row], Batching.bucket))) for row in rows)
        together = float(module.loss_sum(collate(rows, batching)))
    assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("batching", [Batching.pack, Batching.share])
def test_no_row_sees_another_and_a_model_that_leaks_is_refused(tiny_model: Path, batching: Batching):
    module = adapted(tiny_model)
    module.training_settings = Training(batching=batching)
    module.check_batching()

    class Leaking(torch.nn.Module):
        """The same model, but with a cache where it should have none, and none where it should."""

        def forward(self, use_cache: bool, past_key_values=None, **inputs):
            return model(use_cache=True, **inputs)

    model = module.model
    module.model = Leaking()
    with pytest.raises(StageError, match=f"batching={batching}.*use training.batching=bucket"):
        module.check_batching()


def test_rows_behind_one_beginning_have_the_gradients_of_rows_that_stand_alone(tiny_model: Path):
    module = adapted(tiny_model)
    first, second = [7, 8, 9, 10, 11, 12], [20, 21, 22, 23]
    rows = [Row("a", array("i", [*first, 1, 2, 3]), 7), Row("b", array("i", [*first, 1, 4]), 7)]
    rows += [Row("same prompt, other answer", array("i", [*first, 1, 5, 6]), 7)]
    rows += [Row("c", array("i", [*second, 5, 6, 7]), 5), Row("d", array("i", [*second, 3, 1, 1, 1]), 4)]
    rows += [Row("no prompt", array("i", [3, 4, 5]), 0)]
    gradients = []
    # LoRA begins with a zero matrix, behind which the other one has no gradient.
    generator = torch.Generator().manual_seed(0)
    for parameter in module.trainable().values():
        parameter.data.normal_(0, 0.1, generator=generator)
    for batching in (Batching.bucket, Batching.share):
        module.model.zero_grad()
        for micro in split(rows, 4, batching, 0, 1):
            module.loss_sum(collate(micro, batching)).backward()
        gradients.append({name: p.grad.clone() for name, p in module.trainable().items() if p.grad is not None})
    assert gradients[0].keys() == module.trainable().keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5)


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
    for row in held_out(job):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.ids.tolist()])).logits[0].log_softmax(-1)
        for place in range(row.prompt_length, len(row.ids)):
            total -= float(logits[place - 1, row.ids[place]])
            tokens += 1
    assert metrics["validation_loss_after"] == pytest.approx(total / tokens, rel=1e-5)
    parameters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert metrics["trainable_parameters"] == parameters


def held_out(job) -> list[Row]:
    from selfalign.records import Example, from_row
    from selfalign.training import batches, encode

    rows = [from_row(Example, row) for row in jsonl.read(job.examples)]
    encoded = encode.encode(rows, lora.load_tokenizer(job.model_folder), job.training.max_seq_length)
    return batches.hold_out(encoded.rows, job.training.validation_fraction, job.training.seed)[1]


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
    with pytest.raises(StageError, match="r 4 instead of 8.*same rank"):
        worker.run(make_job(tmp_path / "third", examples, tiny_model, {"rank": 8}, initial_adapter=adapter), ignore)
