"""Laws of `shard=i/n`: what one process computes, in parts and once each, whatever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import experiment, groups, jsonl, runner, shards
from selfalign.artifacts import Store
from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.errors import ConfigError, DataError
from selfalign.pipeline import run
from selfalign.shards import Shard
from selfalign.stages.base import Context, generate
from tests.contract.test_every_stage import DyingEngine, Killed, contents, generating
from tests.factories import respond, script_rows


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "POLL_S", 0.01)


def one_of(number: int, of: int, engine: ScriptedEngine, store: Path) -> dict[str, str]:
    """One shard's run of every generating stage: what became of each node."""
    context = Context(engine=ScriptedSettings(engine), shard=Shard(number, of))
    return {name: result.status for name, result in run(generating(), Store(store), context).items()}


def together(engines: list[ScriptedEngine], store: Path) -> list[dict[str, str]]:
    """The runs of all shards at once, each in a thread of its own."""
    found: dict[int, dict[str, str]] = {}

    def work(number: int) -> None:
        found[number] = one_of(number, len(engines), engines[number - 1], store)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, len(engines) + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in sorted(found)]


def engine() -> ScriptedEngine:
    return ScriptedEngine(respond, group_size=4)


def asked(count: int = 10) -> list[GenerateRequest]:
    return [GenerateRequest(f"r{i}", f"Prompt {i}", Sampling(), seed=i) for i in range(count)]


def test_three_shards_compute_what_one_process_does_and_each_request_once(tmp_path: Path) -> None:
    alone = engine()
    run(generating(), Store(tmp_path / "whole"), Context(engine=ScriptedSettings(alone)))
    engines = [engine() for _ in range(3)]
    states = together(engines, tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    # One of them publishes each; nothing is left of the exchange.
    assert all(sorted(state[name] for state in states) == ["computed", "reused", "reused"] for name in states[0])
    assert not list((tmp_path / "parts" / ".partial").iterdir())

    def prompts(engine: ScriptedEngine) -> list[str]:
        return [request.prompt for request in engine.generated]

    assert sorted(sum(map(prompts, engines), [])) == sorted(prompts(alone))
    assert all(len(prompts(one)) > len(prompts(alone)) / 5 for one in engines)


def test_a_shard_that_dies_is_started_again_and_the_others_wait_for_it(tmp_path: Path) -> None:
    run(generating(), Store(tmp_path / "whole"), Context(engine=ScriptedSettings(engine())))
    ended: list[dict[str, str]] = []
    others = [
        threading.Thread(target=lambda n=n: ended.append(one_of(n, 3, engine(), tmp_path / "parts"))) for n in (1, 3)
    ]
    for other in others:
        other.start()
    deaths = 0
    while True:
        try:
            one_of(2, 3, DyingEngine(dies_after=5 + deaths % 3), tmp_path / "parts")
            break
        except Killed:
            deaths += 1
            assert all(other.is_alive() for other in others)
    for other in others:
        other.join()
    assert deaths > 3 and len(ended) == 2
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_shard_that_comes_when_all_is_done_finds_it(tmp_path: Path) -> None:
    together([engine(), engine()], tmp_path)
    late = engine()
    assert set(one_of(2, 2, late, tmp_path).values()) == {"reused"}
    assert late.generated == []


def test_more_shards_than_groups_are_no_harm(tmp_path: Path) -> None:
    run(generating(), Store(tmp_path / "whole"), Context(engine=ScriptedSettings(engine())))
    engines = [ScriptedEngine(respond, group_size=64) for _ in range(4)]
    together(engines, tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole") and engines[3].generated == []


def test_who_is_waited_for_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = [Shard(number, 3, tmp_path / "exchange") for number in (1, 2, 3)]
    path = tmp_path / "completions.jsonl"
    waits = threading.Thread(target=lambda: generate(engine(), asked(), path, shard=first[0]))
    waits.start()
    told = ""
    while "waiting for" not in told:
        told += capsys.readouterr().err
        time.sleep(0.01)
    assert told == "  shard 1/3 is done with completions; waiting for 2/3, 3/3\n"
    for number, shard in enumerate(first[1:], start=2):
        threading.Thread(
            target=lambda n=number, s=shard: generate(engine(), asked(), tmp_path / f"{n}" / path.name, shard=s),
            daemon=True,
        ).start()
        (tmp_path / f"{number}").mkdir(exist_ok=True)
    waits.join()
    assert [row["id"] for row in jsonl.read(path)] == [request.id for request in asked()]


def test_shards_with_other_groups_are_refused(tmp_path: Path) -> None:
    shard = Shard(1, 2, tmp_path)
    for number in (1, 2):
        jsonl.write(tmp_path / f"completions.{number}-of-2.jsonl", [{"id": "r0"}])
    with pytest.raises(DataError, match=r"shard 1/2.*same settings"):
        generate(engine(), asked(), tmp_path / "completions.jsonl", shard=shard)


def test_a_shard_has_the_names_of_the_whole_and_a_folder_of_its_own() -> None:
    groups.register()
    one = groups.compose(["model=tiny_random", "engine=scripted"])
    second = groups.compose(["model=tiny_random", "engine=scripted", "shard=2/4"])
    assert replace(second, shard="") == one and experiment.run_id(second) == experiment.run_id(one)
    assert experiment.context(second).shard == Shard(2, 4) and experiment.context(one).shard is None
    folder = runner.run_folder(one)
    assert runner.run_folder(second) == folder / "shards" / "2-of-4"
    assert runner.run_folder(replace(one, shard="1/4")) == folder


@pytest.mark.parametrize("wrong", ["0/4", "5/4", "a", "1", "1/", "/4", "-1/4", "1/4/2", "1.5/4"])
def test_other_values_are_refused_with_what_is_meant(wrong: str) -> None:
    groups.register()
    with pytest.raises(ConfigError, match=r"shard: expected i/n .* found '.*' \(allowed: .*SLURM_ARRAY_TASK_ID"):
        groups.checked([["model=tiny_random", "stages=fitting", "evaluation=none", f"shard='{wrong}'"]])
    with pytest.raises(ConfigError, match="shard"):
        shards.read(wrong)
    assert shards.read("1/1") is None and shards.problems("4/4") == shards.problems("") == []


@pytest.mark.slow
def test_three_processes_one_of_them_killed_end_as_one_process(tmp_path: Path) -> None:
    jsonl.write(tmp_path / "script.jsonl", script_rows())
    arguments = [
        "model=tiny_random", "engine=scripted", f"engine.script={tmp_path / 'script.jsonl'}", "engine.batch_size=2",
        "tracking=none", "evaluation.limit=8", "engrave.training.global_batch_size=8",
        "engrave.training.max_seq_length=1500", "stages=no_cloning", "self_instruct.requests_per_round=4",
        "self_instruct.max_rounds=2",
    ]  # fmt: skip

    def start(folder: str, *more: str) -> subprocess.Popen[bytes]:
        (tmp_path / folder).mkdir(exist_ok=True)
        with open(tmp_path / folder / "log.txt", "ab") as log:
            command = [sys.executable, "-m", "selfalign", "run", *arguments, *more]
            return subprocess.Popen(command, cwd=tmp_path / folder, stderr=log, stdout=log, start_new_session=True)

    assert start("whole").wait(600) == 0, (tmp_path / "whole" / "log.txt").read_text()[-2000:]
    first, second, third = (start("parts", f"shard={number}/3") for number in (1, 2, 3))
    partial = tmp_path / "parts" / "store" / ".partial"
    until = time.monotonic() + 120
    while not any(partial.glob("*.2-of-3")) and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(second.pid, signal.SIGKILL)
    assert second.wait() == -signal.SIGKILL and first.poll() is None and third.poll() is None
    again = start("parts", "shard=2/3")
    assert [one.wait(600) for one in (first, again, third)] == [0, 0, 0], (tmp_path / "parts" / "log.txt").read_text()[
        -2000:
    ]
    assert contents(tmp_path / "parts" / "store") == contents(tmp_path / "whole" / "store")
    assert len(list((tmp_path / "parts" / "runs").glob("*/shards/*/manifest.json"))) == 2
