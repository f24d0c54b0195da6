"""Hydra's launchers: what `hydra/launcher=slurm` asks of Slurm, and a sweep by joblib, submitit and Ray, each on this machine.

Each is skipped where its plugin is not installed (the extras `joblib`, `slurm`, `ray_launcher`); they need no Slurm and no cluster.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose
from hydra.core.config_store import ConfigStore

from selfalign import groups, jsonl, resources
from selfalign.errors import ConfigError
from tests.factories import script_rows
from tests.pipeline.test_sweep_life import FIVE, states


def has_submitit() -> bool:
    try:
        return importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is not None
    except ModuleNotFoundError:
        return False


needs_submitit = pytest.mark.skipif(not has_submitit(), reason="pip install 'selfalign[slurm]'")


@needs_submitit
def test_a_job_for_slurm_is_queued_again_after_its_time_and_told_before() -> None:
    groups.register()
    with groups._hydra():
        overrides = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=8"]
        launcher = compose("config", overrides=overrides, return_hydra_config=True).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.partition, launcher.gpus_per_node, launcher.tasks_per_node) == ("gpu", 8, 1)
    assert launcher.max_num_timeout > 0 and launcher.signal_delay_s >= 60


@needs_submitit
def test_the_jobs_of_a_sweep_for_slurm_are_those_of_any_sweep() -> None:
    groups.register()
    jobs, is_multirun = groups.jobs(["seed=0,1", "hydra/launcher=slurm"], multirun=True)
    assert is_multirun and jobs == [["seed=0"], ["seed=1"]]


@pytest.mark.parametrize(
    ("choice", "package"),
    [
        ("slurm", "'selfalign[slurm]'"),
        ("joblib", "'selfalign[joblib]'"),
        ("ray", "'selfalign[ray_launcher]'"),
    ],
)
def test_a_launcher_that_is_not_installed_says_how_to_get_it(
    choice: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups.register()
    groups.compose([])
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    for name in [name for name in launchers if name != "basic.yaml"]:
        monkeypatch.delitem(launchers, name)
    with pytest.raises(ConfigError) as caught:
        groups.jobs(["seed=0,1", f"hydra/launcher={choice}"], multirun=True)
    (problem,) = caught.value.problems
    assert problem.startswith(f"hydra/launcher={choice}: ") and f"`pip install {package}`" in problem


def swept(folder: Path, *overrides: str) -> str:
    """Run five jobs by a launcher of Hydra's; returns what was printed."""
    jsonl.write(folder / "script.jsonl", script_rows())
    env = {**os.environ, "SELFALIGN_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "selfalign", "run", "-m", *FIVE, *overrides]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert states(folder) == ["done"] * 5
    return done.stdout + done.stderr


@pytest.mark.slow
def test_joblib_runs_the_jobs_of_a_sweep_side_by_side(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'selfalign[joblib]'")
    said = swept(tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert all(f"[{number}/5]" in said for number in range(1, 6))


@pytest.mark.slow
def test_jobs_side_by_side_spend_one_budget_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'selfalign[joblib]'")
    jsonl.write(tmp_path / "script.jsonl", script_rows())
    env = {**os.environ, "SELFALIGN_HOME": str(tmp_path / "home")}
    side_by_side = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]

    def selfalign(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "selfalign", *arguments, *side_by_side]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)

    stopped = selfalign("run", "-m", *FIVE, "sweep_budget.tokens=1")
    assert stopped.returncode == 1 and "sweep_budget.tokens: expected at most 1 to be spent" in stopped.stderr
    assert states(tmp_path) == ["pending"] * 5, "a stage that all jobs share has spent more than all may"
    assert stopped.stderr.count("not begun, for the sweep has spent its budget") >= 3
    (sweep,) = (tmp_path / "runs").glob("arms-sweep-*")
    done = selfalign("sweep", "resume", str(sweep.relative_to(tmp_path)), "sweep_budget.tokens=1000000")
    assert done.returncode == 0, done.stderr[-2000:]
    assert states(tmp_path) == ["done"] * 5


@pytest.mark.slow
def test_ray_runs_the_jobs_of_a_sweep(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install 'selfalign[ray_launcher]'")
    assert "_run_job pid=" in swept(tmp_path, "hydra/launcher=ray"), "each job was a task of Ray's"


@pytest.mark.slow
@needs_submitit
def test_submitit_runs_the_jobs_of_a_sweep(tmp_path: Path) -> None:
    swept(tmp_path, "hydra/launcher=submitit_local")
    logs = list((tmp_path / "runs").glob("arms-sweep-*/.submitit/*/*_log.out"))
    assert len(logs) == 5, "each job was one of submitit's"


def test_the_preset_is_shipped() -> None:
    assert (resources.shipped_root() / "conf" / "hydra" / "launcher" / "slurm.yaml").is_file()
