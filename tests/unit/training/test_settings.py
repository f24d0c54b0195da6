from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from selfalign import identity as identities
from selfalign.training import job, settings
from selfalign.training.schedules import learning_rate
from selfalign.training.settings import (
    Accelerator,
    Batching,
    Optimizer,
    Precision,
    Schedule,
    Strategy,
    TrainerSettings,
    Training,
    identity,
    problems,
)


def test_defaults_have_no_problem():
    assert problems(Training(), TrainerSettings()) == []


def test_a_batch_that_does_not_divide_is_refused_with_its_arithmetic_and_two_ways_out():
    trainer = TrainerSettings(
        strategy=Strategy.ddp,
        devices=2,
        micro_batch_size=16,
        accelerator=Accelerator.cpu,
        num_nodes=3,
        launcher=["srun"],
    )
    (text,) = problems(Training(global_batch_size=768 + 5), trainer)
    assert "16 x 2 x 3 = 96" in text and "773 = 8 x 96 + 5" in text and "use 768 or 864" in text
    assert problems(Training(global_batch_size=768), trainer) == []


def test_a_batch_that_divides_is_told_as_arithmetic():
    trainer = TrainerSettings(strategy=Strategy.ddp, devices=2, micro_batch_size=16)
    assert (
        settings.arithmetic(Training(global_batch_size=128), trainer)
        == "128 rows a step = 16 rows x 2 devices x 4 passes"
    )
    one = TrainerSettings(micro_batch_size=1)
    assert settings.arithmetic(Training(global_batch_size=1), one) == "1 row a step = 1 row x 1 device x 1 pass"
    # A device alone fills its packs.
    assert settings.arithmetic(Training(global_batch_size=4), one).endswith("x 4 passes, or fewer full packs")
    nodes = dataclasses.replace(trainer, num_nodes=2)
    assert "16 rows x 4 devices on 2 nodes x 2 passes" in settings.arithmetic(Training(global_batch_size=128), nodes)


def test_a_global_batch_smaller_than_a_micro_batch_is_told_the_smallest_that_works():
    assert "use 8," in problems(Training(global_batch_size=4), TrainerSettings(micro_batch_size=8))[0]


def test_all_problems_are_collected():
    found = problems(
        Training(rank=0, dropout=1.0, learning_rate=0.0, target_modules=[]), TrainerSettings(threads=-1, devices=2)
    )
    for name in ("rank=0", "dropout=1.0", "learning_rate=0.0", "target_modules", "threads=-1", "devices=2"):
        assert any(name in text for text in found), name


def test_early_stopping_without_held_out_rows_is_refused():
    (problem,) = problems(Training(early_stopping_patience=2, validation_fraction=0.0), TrainerSettings())
    assert "early_stopping_patience=2 needs held-out rows" in problem and "0.02" in problem


@pytest.mark.parametrize(
    ("training", "trainer"),
    [
        (Training(), TrainerSettings(strategy=Strategy.qlora)),
        (Training(optimizer=Optimizer.paged_adamw), TrainerSettings()),
    ],
)
def test_what_needs_bitsandbytes_says_how_to_install_it(training, trainer, monkeypatch):
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: None)
    assert any("pip install 'selfalign[quantized]'" in text for text in problems(training, trainer))


def test_what_a_strategy_has_no_use_for_is_refused_with_a_way_out(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: name)
    for strategy in (Strategy.single, Strategy.ddp, Strategy.qlora):
        (problem,) = problems(Training(), TrainerSettings(strategy=strategy, cpu_offload=True))
        assert f"found strategy={strategy}" in problem and "use trainer.strategy=fsdp" in problem
    paged = Training(optimizer=Optimizer.paged_adamw)
    (problem,) = problems(paged, TrainerSettings(strategy=Strategy.fsdp))
    assert "cannot page the shards" in problem and "trainer.cpu_offload=true" in problem
    assert problems(Training(), TrainerSettings(strategy=Strategy.fsdp, cpu_offload=True)) == []
    assert problems(paged, TrainerSettings(strategy=Strategy.qlora, devices=8)) == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (problem,) = problems(paged, TrainerSettings())
    assert "training.optimizer=paged_adamw needs a CUDA device" in problem and "use training.optimizer=adamw" in problem


def test_cuda_devices_that_are_not_there_are_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    two = TrainerSettings(strategy=Strategy.fsdp, devices=2, micro_batch_size=4)
    assert "this machine has 1 CUDA" in problems(Training(), two)[0]
    assert problems(Training(), dataclasses.replace(two, accelerator=Accelerator.cpu)) == []


def test_more_than_one_node_needs_a_launcher():
    found = problems(Training(), TrainerSettings(strategy=Strategy.ddp, num_nodes=2, accelerator=Accelerator.cpu))
    assert any("trainer.launcher" in text for text in found)


def test_what_changes_only_speed_is_no_part_of_the_identity():
    fast = TrainerSettings(
        threads=4, checkpoint_every_steps=7, gradient_checkpointing=True, accelerator=Accelerator.cpu, launcher=["env"]
    )
    assert identity(fast) == identity(TrainerSettings())
    others = [{"micro_batch_size": 4}, {"precision": Precision.bf16_mixed}, {"cpu_offload": True}]
    for other in (TrainerSettings(**changed) for changed in others):
        assert identity(other) != identity(TrainerSettings())


@pytest.mark.parametrize("kind", [Training, TrainerSettings])
def test_settings_survive_the_way_through_a_job_file(kind):
    chosen = dataclasses.replace(kind(), **({"schedule": Schedule.cosine} if kind is Training else {"devices": 3}))
    assert job.from_plain(kind, identities.plain(chosen, keep_transient=True)) == chosen


@pytest.mark.parametrize("schedule", list(Schedule))
def test_learning_rate_rises_to_its_peak_at_the_end_of_the_warm_up(schedule):
    training = Training(schedule=schedule, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(training, step, 100) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[0] > 0
    assert rates[9] == pytest.approx(1.0)
    assert max(rates) <= 1.0 + 1e-12


def test_schedules_end_where_they_should():
    rates = {kind: learning_rate(Training(schedule=kind, learning_rate=1.0), 99, 100) for kind in Schedule}
    assert rates[Schedule.constant] == 1.0
    assert rates[Schedule.warmup_decay] == pytest.approx(1 / 90)
    assert 0 < rates[Schedule.cosine] < 0.001


def test_a_run_shorter_than_its_warm_up_has_a_rate_at_every_step():
    assert all(0 < learning_rate(Training(warmup_steps=100), step, 3) < 4e-4 for step in range(3))


def test_importing_what_the_parent_needs_loads_no_heavy_library():
    code = (
        "import sys, selfalign.training.launch, selfalign.training.worker, selfalign.training.batches, "
        "selfalign.training.encode, selfalign.training.lora, selfalign.training.checkpoints\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'pytorch_lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_rows_begin_with_cannot_be_shared_under_gradient_checkpointing():
    shared = Training(batching=Batching.share)
    assert problems(shared, TrainerSettings()) == []
    (problem,) = problems(shared, TrainerSettings(gradient_checkpointing=True))
    assert "training.batching=share" in problem and "use training.batching=bucket" in problem


def test_a_surrounding_job_of_slurm_is_lightnings_business_only_under_a_launcher_and_never_queued_again(monkeypatch):
    from selfalign.training import worker

    names = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    (alone,) = worker.environment(TrainerSettings())
    assert type(alone).__name__ == "LightningEnvironment"
    (slurm,) = worker.environment(TrainerSettings(launcher=["srun"]))
    assert type(slurm).__name__ == "SLURMEnvironment" and slurm.auto_requeue is False
    # torchrun numbers its processes itself, inside Slurm too.
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert worker.environment(TrainerSettings(launcher=["torchrun"])) is None
