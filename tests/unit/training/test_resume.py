"""A run that ends at any moment and is started again leaves the bytes of one that was never disturbed."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.training import checkpoints, launch, lora, worker
from selfalign.training import job as jobs
from selfalign.training.progress import STOP_SIGNALS
from tests.unit.training.training_runs import contents, make_job


class CrashError(Exception):
    pass


REPORTS = 9
"""Six steps in two epochs, and validation before, between and after."""

KEPT = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors", "metrics.jsonl", "result.json")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, examples: Path, tiny_model: Path) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    lines: list[dict] = []
    assert worker.run(make_job(out, examples, tiny_model), lines.append) == 0
    assert len(lines) == REPORTS
    return result(out)


def result(out: Path) -> dict[str, bytes]:
    files = contents(out)
    assert sorted(set(files) - {"job.json", "worker.lock"}) == sorted(KEPT)
    return {name: files[name] for name in KEPT}


def crash_after(number: int):
    seen = []

    def report(line: dict) -> None:
        seen.append(line)
        if len(seen) == number:
            raise CrashError

    return report


def test_a_run_that_crashes_anywhere_ends_with_the_same_bytes(tmp_path, undisturbed, examples, tiny_model):
    for number in range(1, REPORTS + 1):
        job = make_job(tmp_path / str(number), examples, tiny_model)
        with pytest.raises(CrashError):
            worker.run(job, crash_after(number))
        resumed: list[dict] = []
        assert worker.run(job, resumed.append) == 0
        assert result(job.out) == undisturbed, f"crashed after report {number}"
        # Checkpoints after steps 2 and 4, so that at most two steps are done again.
        assert resumed[0]["step"] == {1: 0, 2: 0, 3: 0}.get(number, 3 if number <= 6 else 5)


def test_a_run_that_crashes_while_it_saves_ends_with_the_same_bytes(
    tmp_path, undisturbed, examples, tiny_model, monkeypatch
):
    def crash(*_args, **_more):
        raise CrashError

    def save_then_crash(folder, tensors, step, rows):
        original(folder, tensors, step, rows)
        raise CrashError

    original = checkpoints.save
    places = [
        (checkpoints.os, "replace", crash),
        (checkpoints, "save", save_then_crash),
        (lora.Path, "rename", crash),
        (jsonl, "write_json", crash),
    ]
    for number, (holder, name, fault) in enumerate(places):
        job = make_job(tmp_path / str(number), examples, tiny_model)
        with monkeypatch.context() as patch, pytest.raises(CrashError):
            patch.setattr(holder, name, fault)
            worker.run(job, lambda line: None)
        assert worker.run(job, lambda line: None) == 0
        assert result(job.out) == undisturbed, name


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_leaves_a_checkpoint_of_the_step_and_the_status_of_a_stop(
    tmp_path, undisturbed, examples, tiny_model, number
):
    job = make_job(tmp_path, examples, tiny_model)
    before = signal.getsignal(number)

    def terminate_at_three(line: dict) -> None:
        if line["step"] == 3 and "loss" in line:
            os.kill(os.getpid(), number)

    assert worker.run(job, terminate_at_three) == worker.STOPPED
    assert signal.getsignal(number) is before
    found = checkpoints.latest(tmp_path / "checkpoints")
    assert found is not None and found[1] == 3
    resumed: list[dict] = []
    assert worker.run(job, resumed.append) == 0
    assert resumed[0]["step"] == 4
    assert result(tmp_path) == undisturbed


def test_all_that_was_measured_stands_in_one_table(tmp_path, examples, tiny_model):
    job = make_job(tmp_path, examples, tiny_model)
    with pytest.raises(CrashError):
        worker.run(job, crash_after(6))
    assert worker.run(job, lambda line: None) == 0
    with open(tmp_path / "training.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [line["step"] for line in table] == [str(step) for step in range(7)]
    for row in (*jsonl.read(tmp_path / "metrics.jsonl"), *jsonl.read(tmp_path / "speed.jsonl")):
        assert {key: table[row["step"]][key] for key in row} == {key: str(value) for key, value in row.items()}
    assert table[0]["loss"] == "" and all(line["grad_norm"] and line["tokens_per_s"] for line in table[1:])


def test_what_changes_only_speed_changes_no_byte(tmp_path, undisturbed, examples, tiny_model):
    job = make_job(tmp_path, examples, tiny_model, checkpoint_every_steps=5, gradient_checkpointing=True)
    assert worker.run(job, lambda line: None) == 0
    assert result(tmp_path) == undisturbed


def test_a_checkpoint_is_alone_and_small(tmp_path, examples, tiny_model, undisturbed):
    job = make_job(tmp_path, examples, tiny_model)
    with pytest.raises(CrashError):
        worker.run(job, crash_after(8))
    (path,) = (tmp_path / "checkpoints").iterdir()
    assert path.stat().st_size < 3.5 * len(undisturbed["adapter/adapter_model.safetensors"]) + 4096


def test_the_files_name_no_place_and_no_time(undisturbed, tiny_model, examples):
    config = json.loads(undisturbed["adapter/adapter_config.json"])
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["base_model_name_or_path"].startswith("base-")
    for name, content in undisturbed.items():
        assert str(tiny_model).encode() not in content and str(examples.parent).encode() not in content, name
    rows = [json.loads(line) for line in undisturbed["metrics.jsonl"].splitlines()]
    assert {key for row in rows for key in row} == {
        *("step", "epoch", "loss", "grad_norm", "learning_rate", "tokens", "validation_loss")
    }


def test_what_another_job_left_is_cleared_away_and_what_the_same_left_is_kept(tmp_path, examples, tiny_model):
    job = make_job(tmp_path, examples, tiny_model)
    job.write(tmp_path / "job.json")
    jsonl.write(tmp_path / "metrics.jsonl", [{"step": 1}])
    checkpoints.save(tmp_path / "checkpoints", {}, 2, 1)
    launch.prepare(make_job(tmp_path, examples, tiny_model, checkpoint_every_steps=7))
    assert (tmp_path / "checkpoints").exists() and (tmp_path / "metrics.jsonl").exists()
    other = make_job(tmp_path, examples, tiny_model, {"seed": 1})
    launch.prepare(other)
    assert sorted(contents(tmp_path)) in (["job.json"], ["job.json", "worker.lock"])
    assert jobs.digest_in(tmp_path / "job.json") == other.digest
