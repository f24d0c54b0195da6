"""The child process: few tests, since each start of it takes seconds."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from selfalign import jsonl
from selfalign.errors import ConfigError, DataError, StageError
from selfalign.training import launch
from selfalign.training.settings import Precision, Strategy
from tests.unit.training.training_runs import TRAINER, TRAINING, contents, make_job

FILES = ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "metrics.jsonl", "result.json"]


def kill(worker: subprocess.Popen) -> None:
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


class Interrupted(BaseException):
    pass


def interrupt_at(step: int):
    def on_progress(line: dict) -> None:
        if line["step"] == step and "loss" in line:
            raise Interrupted

    return on_progress


def killed_and_resumed(out: Path, examples: Path, model: Path, step: int, monkeypatch) -> dict[str, bytes]:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(launch, "stop", kill)
        launch.train(examples, model, out, TRAINING, TRAINER, interrupt_at(step))
    assert not (out / "result.json").exists()
    lines: list[dict] = []
    metrics = launch.train(examples, model, out, TRAINING, TRAINER, lines.append)
    assert metrics["steps"] == 6
    assert lines[-1]["step"] == 6 and all(line["total"] == 6 for line in lines)
    # Done already: no process is started.
    patched = []
    monkeypatch.setattr(launch, "run_worker", lambda *_: patched.append(1))
    assert launch.train(examples, model, out, TRAINING, TRAINER) == metrics and not patched
    return contents(out)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bytes_of_a_whole_one(tmp_path, examples, tiny_model, monkeypatch):
    from selfalign.training import worker

    # The same run in this process, which also shows that the child depends on nothing around it.
    job = make_job(tmp_path / "whole", examples, tiny_model)
    assert worker.run(job, lambda line: None) == 0
    whole = contents(tmp_path / "whole")
    files = killed_and_resumed(tmp_path / "killed", examples, tiny_model, 3, monkeypatch)
    assert sorted(files) == FILES
    assert files == {name: whole[name] for name in FILES}


@pytest.mark.slow
def test_two_runs_and_runs_killed_elsewhere_are_equal_to_the_byte(tmp_path, examples, tiny_model, monkeypatch):
    launch.train(examples, tiny_model, tmp_path / "one", TRAINING, TRAINER)
    one = contents(tmp_path / "one")
    for step in (1, 4, 6):
        with monkeypatch.context() as patch:
            assert killed_and_resumed(tmp_path / str(step), examples, tiny_model, step, patch) == one, step


@pytest.mark.slow
def test_a_run_killed_at_ten_random_steps_ends_with_the_adapter_of_a_whole_one(
    tmp_path, examples, tiny_model, monkeypatch
):
    training = dataclasses.replace(TRAINING, epochs=8)
    launch.train(examples, tiny_model, tmp_path / "whole", training, TRAINER)
    steps = sorted(random.Random(0).sample(range(1, 24), 10))
    with monkeypatch.context() as patch:
        patch.setattr(launch, "stop", kill)
        for step in steps:
            with pytest.raises(Interrupted):
                launch.train(examples, tiny_model, tmp_path / "killed", training, TRAINER, interrupt_at(step))
    launch.train(examples, tiny_model, tmp_path / "killed", training, TRAINER)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_torchrun_starts_the_processes_of_a_sharded_run(tmp_path, examples, tiny_model):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    training = dataclasses.replace(TRAINING, dropout=0.0, learning_rate=1e-3, epochs=1)
    sharded = dataclasses.replace(
        TRAINER, strategy=Strategy.fsdp, devices=2, launcher=launcher, precision=Precision.bf16_mixed
    )
    launch.train(examples, tiny_model, tmp_path / "one", training, TRAINER)
    metrics = launch.train(examples, tiny_model, tmp_path / "two", training, sharded)
    one, two = (
        [row["loss"] for row in jsonl.read(tmp_path / name / "metrics.jsonl") if "loss" in row]
        for name in ("one", "two")
    )
    assert metrics["steps"] == 3
    # bfloat16 has eight bits: the losses are near one another and no more.
    assert two == pytest.approx(one, rel=0.02)


def test_settings_and_files_are_checked_before_a_process_is_started(tmp_path, examples, tiny_model, monkeypatch):
    monkeypatch.setattr(launch, "run_worker", lambda *_: pytest.fail("started a process"))
    with pytest.raises(ConfigError, match="multiple of"):
        launch.train(examples, tiny_model, tmp_path, dataclasses.replace(TRAINING, global_batch_size=6), TRAINER)
    with pytest.raises(DataError, match="examples"):
        launch.train(tmp_path / "none.jsonl", tiny_model, tmp_path, TRAINING, TRAINER)
    with pytest.raises(DataError, match=r"config\.json"):
        launch.train(examples, tmp_path, tmp_path, TRAINING, TRAINER)


def damaged(model: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


def test_a_damaged_model_folder_is_an_error_in_words(tmp_path, examples, tiny_model):
    from selfalign.training import lora, worker

    broken = damaged(tiny_model, tmp_path / "broken")
    with pytest.raises(StageError, match="expected a causal language model in .*broken.*copy the model again"):
        worker.run(make_job(tmp_path / "out", examples, broken), lambda line: None)
    for name in ("config.json", "tokenizer.json"):
        (broken / name).write_text("{", encoding="utf-8")
    for load in (lora.load_tokenizer, lambda folder: lora.load_base(folder, TRAINER)):
        with pytest.raises(StageError, match="copy the model again"):
            load(broken)


@pytest.mark.slow
def test_an_error_of_the_worker_is_raised_in_its_own_words(tmp_path, examples, tiny_model):
    broken = damaged(tiny_model, tmp_path / "broken")
    with pytest.raises(StageError, match="^expected a causal language model in .*broken"):
        launch.train(examples, broken, tmp_path / "out", TRAINING, TRAINER)


@pytest.mark.slow
def test_rows_without_trainable_token_are_refused_through_the_process(tmp_path, examples, tiny_model):
    training = dataclasses.replace(TRAINING, max_seq_length=20)
    with pytest.raises(StageError, match="24 of 24 rows have no trainable token"):
        launch.train(examples, tiny_model, tmp_path, training, TRAINER)


@pytest.mark.slow
def test_a_process_that_dies_without_a_word_is_reported_with_its_log(tmp_path, examples, tiny_model):
    trainer = dataclasses.replace(TRAINER, launcher=["sh", "-c", "echo no room left >&2; exit 9", "sh"])
    with pytest.raises(StageError, match="status 9.*\n.*no room left"):
        launch.train(examples, tiny_model, tmp_path, TRAINING, trainer)


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.unit.training.training_runs import TRAINING, TRAINER
import dataclasses
from selfalign.training import launch
training = dataclasses.replace(TRAINING, epochs=2000)
launch.train(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), training, TRAINER, lambda l: print(l, flush=True))
"""


@pytest.mark.slow
def test_a_worker_ends_when_its_parent_is_killed(tmp_path, examples, tiny_model):
    import filelock

    here = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", PARENT, here, str(examples), str(tiny_model), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        next(line for line in parent.stdout if "'step': 2" in line)
        parent.kill()
    # The worker holds the lock as long as it lives.
    start = time.monotonic()
    with filelock.FileLock(tmp_path / "worker.lock", timeout=30):
        assert time.monotonic() - start < 30
    assert list((tmp_path / "checkpoints").glob("step-*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "cpu_offload"), [(Strategy.ddp, False), (Strategy.fsdp, False), (Strategy.fsdp, True)]
)
def test_two_processes_learn_what_one_does_and_resume_too(
    tmp_path, examples, tiny_model, strategy, cpu_offload, monkeypatch
):
    # 22 rows in steps of 8: the last step of an epoch leaves the second process with fewer rows.
    training = dataclasses.replace(TRAINING, dropout=0.0, learning_rate=1e-3)
    two = dataclasses.replace(TRAINER, strategy=strategy, devices=2, cpu_offload=cpu_offload)
    launch.train(examples, tiny_model, tmp_path / "one", training, TRAINER)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(launch, "stop", kill)
        launch.train(examples, tiny_model, tmp_path / "two", training, two, interrupt_at(3))
    launch.train(examples, tiny_model, tmp_path / "two", training, two)
    launch.train(examples, tiny_model, tmp_path / "whole", training, two)
    assert contents(tmp_path / "two") == contents(tmp_path / "whole")
    adapters = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    assert adapters[0].keys() == adapters[1].keys()
    for name, weight in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], weight, rtol=1e-3, atol=1e-5)
    one, other = (jsonl.read(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert right[key] == pytest.approx(value, rel=1e-5 if "loss" in key else 1e-3), key
