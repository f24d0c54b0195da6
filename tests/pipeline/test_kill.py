"""SIGKILL at random moments in every stage, then the same command again: the results are those of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from selfalign import jsonl
from tests.contract.test_every_stage import contents
from tests.factories import script_rows

pytestmark = pytest.mark.slow

STAGES = ["SelfInstruct", "RedTeam", "SelfAlign", "Engrave", "VerboseClone", "Engrave", "EngravingGap",
          "Evaluate", "Evaluate"]  # fmt: skip
"""Whose partial folder a process must be working in when it is killed, in the order of a run."""
CALF = [
    "experiments=quickstart", "tracking=none", "self_instruct.target=24", "self_instruct.requests_per_round=8",
    "engine.batch_size=8", "red_team.topic_rounds=1", "red_team.max_topics_per_type=2", "merge.limit=40",
    "verbose_clone.sampling.max_new_tokens=60", "engrave.training.epochs=2", "verbose_engrave.training.epochs=1",
    "trainer.checkpoint_every_steps=1", "evaluation.limit=16", "engine.threads=1", "trainer.threads=1",
]  # fmt: skip


def start(folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    """The program in a process group of its own, so that a kill takes nothing of it out by courtesy."""
    env = {**os.environ, "SELFALIGN_HOME": str(folder / "home")}
    command = [sys.executable, "-m", "selfalign", "run", *arguments]
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(command, cwd=folder, env=env, stderr=log, stdout=log, start_new_session=True)


def manifests(store: Path) -> dict[str, dict[str, object]]:
    """What the manifests say, without what a clock or a machine decides."""
    found = {path.parent.name: json.loads(path.read_text()) for path in store.glob("*/manifest.json")}
    for manifest in found.values():
        for volatile in ("seconds", "created", "git"):
            manifest.pop(volatile, None)
        for timed in ("speed.jsonl", "training.csv"):
            manifest["files"].pop(timed, None)
    return found


def seconds_of(store: Path) -> dict[str, float]:
    """Stage -> what the shortest of its nodes took."""
    found: dict[str, float] = {}
    for path in store.glob("*/manifest.json"):
        stage, seconds = path.parent.name.split("-")[0], json.loads(path.read_text())["seconds"]
        found[stage] = min(seconds, found.get(stage, seconds))
    return found


def kill_in(stage: str, sign: str, delay_s: float, folder: Path, arguments: list[str]) -> bool:
    """Start a run, kill it `delay_s` after a stage's partial folder shows a sign; whether it was still at that stage.

    Where the stage is over before, the run is killed all the same: no later stage is to be done before its turn.
    """
    process, partial = start(folder, arguments), folder / "store" / ".partial"
    begun, since = False, None
    while process.poll() is None:
        here = any(partial.glob(f"{stage}-*"))
        begun = begun or here
        if since is None and any(partial.glob(f"{stage}-*{sign}")):
            since = time.monotonic()
        if (begun and not here) or (since is not None and time.monotonic() - since >= delay_s):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return any(partial.glob(f"{stage}-*"))
        time.sleep(0.01)
    assert process.returncode == 0, (folder / "log.txt").read_text()[-2000:]
    return False


def test_a_run_killed_in_every_stage_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert start(whole, CALF).wait(900) == 0, (whole / "log.txt").read_text()[-2000:]
    draw, hit, seconds = random.Random(0), Counter[str](), seconds_of(whole / "store")
    for stage in STAGES:
        # Once as it begins, while the model is loaded, and once just after it wrote its first file.
        for sign, longest_s in (("", 0.4 * seconds[stage]), ("/*", 0.1 * seconds[stage])):
            hit[stage] += kill_in(stage, sign, draw.uniform(0.0, longest_s), killed, CALF)
    print(dict(hit))
    assert start(killed, CALF).wait(900) == 0, (killed / "log.txt").read_text()[-2000:]
    assert all(hit[stage] for stage in STAGES), f"a stage was never killed at work: {dict(hit)}"
    assert contents(killed / "store") == contents(whole / "store") and len(contents(whole / "store")) > 30
    assert manifests(killed / "store") == manifests(whole / "store")


def test_two_processes_on_one_store_compute_each_stage_once(tmp_path: Path) -> None:
    jsonl.write(tmp_path / "script.jsonl", script_rows())
    arguments = [
        "model=tiny_random", "engine=scripted", "engine.script=script.jsonl", "tracking=none", "evaluation.limit=8",
        "engrave.training.global_batch_size=8", "engrave.training.max_seq_length=1500", "stages=no_cloning",
        "self_instruct.requests_per_round=4", "self_instruct.max_rounds=2",
    ]  # fmt: skip
    both = [start(tmp_path, [*arguments, f"runs=runs_{number}"]) for number in (1, 2)]
    assert [process.wait(600) for process in both] == [0, 0], (tmp_path / "log.txt").read_text()[-2000:]
    nodes = [json.loads(next(tmp_path.glob(f"runs_{n}/*/manifest.json")).read_text())["nodes"] for n in (1, 2)]
    assert len(nodes[0]) == 10
    for name in nodes[0]:
        assert sorted(run[name]["status"] for run in nodes) == ["computed", "reused"], name
