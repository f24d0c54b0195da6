"""A sweep as a user runs it, and SIGKILL: of everything, and of its driver alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from selfalign import jsonl
from tests.factories import script_rows

pytestmark = pytest.mark.slow
FIVE = [
    "model=tiny_random", "engine=scripted", "engine.script=script.jsonl", "tracking=none", "evaluation.limit=8", "name=arms",
    "self_instruct.requests_per_round=4", "self_instruct.max_rounds=2", "stages=no_cloning", "stages.engrave=false",
    "subjects=[prompted]", "principles.drop=[],[candor],[helpful],[static],[ethical]",
]  # fmt: skip


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "SELFALIGN_HOME": str(folder / "home")}
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "selfalign", *arguments],
            cwd=folder,
            env=env,
            stderr=log,
            stdout=log,
            start_new_session=True,
        )


def states(folder: Path) -> list[str]:
    """What `sweep status` says of each job."""
    sweep = next((folder / "runs").glob("arms-sweep-*"))
    env = {**os.environ, "SELFALIGN_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "selfalign", "sweep", "status", str(sweep.relative_to(folder))]
    told = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return [line.split()[0] for line in told.stdout.splitlines() if " arms-" in line]


def until_job_two(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Return as soon as the second job has begun."""
    while process.poll() is None:
        begun = [
            json.loads(path.read_text())["status"] for path in (folder / "runs").glob("arms-[0-9a-f]*/manifest.json")
        ]
        if len(begun) == 2 and "running" in begun:
            return
        time.sleep(0.01)
    raise AssertionError((folder / "log.txt").read_text()[-2000:])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    jsonl.write(tmp_path / "script.jsonl", script_rows())
    return tmp_path


def test_after_a_kill_in_job_two_of_five_only_unfinished_jobs_run(place: Path) -> None:
    process = start(place, "run", *FIVE, "-m")
    until_job_two(place, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert states(place) == ["done", "pending", "pending", "pending", "pending"]
    first = next(p.parent for p in (place / "runs").glob("arms-[0-9a-f]*/manifest.json") if '"done"' in p.read_text())
    before = {path: (path.lstat().st_mtime_ns, path.stat().st_size) for path in [first, *first.rglob("*")]}
    sweep = next((place / "runs").glob("arms-sweep-*"))
    assert start(place, "sweep", "resume", str(sweep)).wait(300) == 0, (place / "log.txt").read_text()[-2000:]
    assert states(place) == ["done"] * 5 and (sweep / "report.html").is_file()
    assert {path: (path.lstat().st_mtime_ns, path.stat().st_size) for path in [first, *first.rglob("*")]} == before
    log = (place / "log.txt").read_text()
    assert log.count(f"{first.name}: runs/") == 1, "the finished job was not begun again"


def test_a_killed_driver_leaves_its_job_to_finish_and_another_goes_on(place: Path) -> None:
    process = start(place, "run", *FIVE, "-m")
    until_job_two(place, process)
    process.kill()
    process.wait()
    sweep = next((place / "runs").glob("arms-sweep-*"))
    both = [start(place, "sweep", "resume", str(sweep)) for _ in range(2)]
    assert [one.wait(300) for one in both] == [0, 0], (place / "log.txt").read_text()[-2000:]
    assert states(place) == ["done"] * 5
    log = (place / "log.txt").read_text()
    for run in (place / "runs").glob("arms-[0-9a-f]*"):
        assert log.count(f"{run.name}: runs/") == 1, f"{run.name} ran once\n{log}"


def test_a_sweep_is_exported_as_the_grid_of_its_jobs(place: Path) -> None:
    env = {**os.environ, "SELFALIGN_HOME": str(place / "home")}
    command = [
        sys.executable,
        "-m",
        "selfalign",
        "sweep",
        "export-wandb",
        "experiments=quickstart",
        "sweeps=leave_one_out",
    ]
    told = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    content = yaml.safe_load(told.stdout)
    assert set(content) == {"program", "method", "command", "parameters"} and content["method"] == "grid"
    assert content["command"] == ["selfalign", "run", "experiments=quickstart", "${args_no_hyphens}"]
    values = content["parameters"]["principles.drop"]["values"]
    assert len(values) == 17 and values[:2] == ["[]", "[ethical]"]
