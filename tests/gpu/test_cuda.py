"""What only a CUDA device can show: the same greedy text as the CPU, bf16 that runs, training that goes down."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.engines.base import GenerateRequest, Sampling, ScoreRequest
from selfalign.engines.huggingface import Device, HuggingFace
from selfalign.engines.model import Dtype, ModelSettings
from selfalign.identity import short_id
from selfalign.records import Example, to_row
from selfalign.training.launch import train
from selfalign.training.settings import Accelerator, Optimizer, Precision, Strategy, TrainerSettings, Training

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, found none")


REQUESTS = [
    GenerateRequest(str(n), f"{'shared words ' * 20}{'x' * n}", Sampling(32, 0.0), shared="shared words " * 20)
    for n in range(1, 9)
]


def test_greedy_text_is_that_of_the_cpu(tiny_model: Path) -> None:
    texts = {}
    for device in (Device.cpu, Device.cuda):
        with HuggingFace(model=ModelSettings(str(tiny_model)), device=device).open() as engine:
            texts[device] = [completion.text for completion in engine.generate(REQUESTS)]
    assert texts[Device.cpu] == texts[Device.cuda]


def test_bf16_scores_are_near_those_of_float32(tiny_model: Path) -> None:
    found = []
    for dtype in (Dtype.float32, Dtype.bfloat16):
        with HuggingFace(model=ModelSettings(str(tiny_model), dtype=dtype), device=Device.cuda).open() as engine:
            found.append([r.logprob for r in engine.score([ScoreRequest("a", "some context", " and an end")])])
    assert found[0] == pytest.approx(found[1], rel=0.05)


@pytest.mark.parametrize(
    ("strategy", "more", "optimizer"),
    [
        (Strategy.single, {}, Optimizer.adamw),
        (Strategy.fsdp, {}, Optimizer.adamw),
        (Strategy.fsdp, {"cpu_offload": True}, Optimizer.adamw),
        (Strategy.qlora, {}, Optimizer.paged_adamw),
    ],
)
def test_training_on_cuda_learns(
    tiny_model: Path, tmp_path: Path, strategy: Strategy, more: dict, optimizer: Optimizer
) -> None:
    if strategy is Strategy.qlora:
        pytest.importorskip("bitsandbytes")
    rows = [Example(short_id(n), str(n), f"Question {n}", " the same answer", "test") for n in range(32)]
    jsonl.write(tmp_path / "examples.jsonl", map(to_row, rows))
    trainer = TrainerSettings(
        strategy, accelerator=Accelerator.cuda, precision=Precision.bf16_mixed, micro_batch_size=8, **more
    )
    training = Training(
        epochs=8, global_batch_size=16, warmup_steps=2, learning_rate=5e-3, validation_fraction=0.1, optimizer=optimizer
    )
    metrics = train(tmp_path / "examples.jsonl", tiny_model, tmp_path / "out", training, trainer)
    assert metrics["validation_loss_after"] < metrics["validation_loss_before"]
