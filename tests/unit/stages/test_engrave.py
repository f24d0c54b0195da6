"""What engraving says and counts; what it learns is the training's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.records import Response
from selfalign.stages.base import Context
from selfalign.stages.engrave import Engrave
from selfalign.training import launch
from selfalign.training.settings import Strategy, TrainerSettings, Training
from tests.unit.stages.recorded import artifact


def test_the_arithmetic_of_a_step_is_said_before_the_first(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def train(*_, **__):
        told.append("training begins")
        return {"untrainable_rows": 1}

    monkeypatch.setattr(launch, "train", train)
    rows = [Response(f"r{n}", f"p{n}", "Who?", "", "s", "", (), "I.", "", "stop", True, "") for n in range(3)]
    trainer = TrainerSettings(strategy=Strategy.ddp, devices=2, micro_batch_size=16)
    context = Context(ScriptedSettings(ScriptedEngine()), trainer, lambda: tiny_model)
    stage = Engrave(training=Training(global_batch_size=128), identity_rows=False)
    inputs = {"responses": artifact(tmp_path / "in", "responses.jsonl", rows)}
    outcome = stage.run(inputs, tmp_path, dataclasses.replace(context, say=told.append))
    assert told == ["  training: 128 rows a step = 16 rows x 2 devices x 4 passes", "training begins"]
    assert (outcome.rows_in, outcome.kept, outcome.dropped) == (3, 2, {"no_trainable_token": 1})
