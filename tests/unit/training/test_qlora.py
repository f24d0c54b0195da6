"""QLoRA and the paged optimiser by bitsandbytes itself, on CPUs; skipped where it is not installed (the extra `quantized`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from selfalign import jsonl
from selfalign.training import checkpoints, launch, lora, worker
from selfalign.training.settings import Optimizer, Precision, Strategy, Training
from tests.unit.training.training_runs import TRAINER, TRAINING, contents, make_job

bitsandbytes = pytest.importorskip("bitsandbytes")

QLORA = dataclasses.replace(TRAINER, strategy=Strategy.qlora)


class CrashError(Exception):
    pass


def test_the_base_is_held_in_four_bits_and_the_adapter_in_float32(tiny_model: Path) -> None:
    trainer = dataclasses.replace(QLORA, precision=Precision.bf16_mixed)
    model = lora.add_lora(lora.load_base(tiny_model, trainer), Training(), trainer)
    layers = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    # Seven in each of two blocks; the head stays whole.
    assert len(layers) == 14
    for layer in layers:
        assert layer.weight.dtype is torch.uint8 and layer.weight.quant_type == "nf4"
        assert layer.weight.quant_state.nested and layer.compute_dtype is torch.bfloat16
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {torch.float32}


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_a_crashed_run_goes_on_to_the_same_bytes(tmp_path: Path, examples: Path, tiny_model: Path) -> None:
    settings = {"optimizer": Optimizer.paged_adamw}
    whole = make_job(tmp_path / "whole", examples, tiny_model, settings, strategy=Strategy.qlora)
    assert worker.run(whole, lambda line: None) == 0

    def crash(line: dict) -> None:
        if line["step"] == 3:
            raise CrashError

    killed = make_job(tmp_path / "killed", examples, tiny_model, settings, strategy=Strategy.qlora)
    with pytest.raises(CrashError):
        worker.run(killed, crash)
    found = checkpoints.latest(killed.out / "checkpoints")
    assert found is not None and found[1] == 2
    assert worker.run(killed, lambda line: None) == 0
    assert contents(killed.out / "adapter") == contents(whole.out / "adapter")
    assert (killed.out / "metrics.jsonl").read_bytes() == (whole.out / "metrics.jsonl").read_bytes()


@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_the_paged_optimiser_takes_the_steps_of_the_other(tmp_path: Path, examples: Path, tiny_model: Path) -> None:
    losses = []
    for optimizer in Optimizer:
        job = make_job(tmp_path / optimizer, examples, tiny_model, {"optimizer": optimizer, "weight_decay": 0.1})
        assert worker.run(job, lambda line: None) == 0
        losses.append([row["loss"] for row in jsonl.read(job.out / "metrics.jsonl") if "loss" in row])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_two_processes_with_a_quantised_base_each_learn_what_one_does(
    tmp_path: Path, examples: Path, tiny_model: Path
) -> None:
    training = dataclasses.replace(TRAINING, dropout=0.0, learning_rate=1e-3)
    for devices in (1, 2):
        launch.train(
            examples, tiny_model, tmp_path / str(devices), training, dataclasses.replace(QLORA, devices=devices)
        )
    one, two = (
        [row["loss"] for row in jsonl.read(tmp_path / name / "metrics.jsonl") if "loss" in row] for name in "12"
    )
    assert two == pytest.approx(one, rel=1e-5)
