"""Laws of `engine=ray`: what one process gives, whatever becomes of the workers, and no process left behind."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import experiment, groups
from selfalign.engines.base import GenerateRequest, Sampling, ScoreRequest
from selfalign.engines.huggingface import HuggingFace
from selfalign.engines.model import ModelSettings
from selfalign.engines.ray import Ray
from selfalign.engines.scripted import Scripted
from selfalign.errors import ConfigError, StageError
from selfalign.stages.base import generate

TWO = {"workers": 2, "gpus_per_worker": 0.0}


@pytest.fixture
def local(tiny_model) -> HuggingFace:
    return HuggingFace(ModelSettings(str(tiny_model), context_length=1024), batch_size=1, threads=1)


@pytest.fixture
def ray():
    """Skips where Ray is not installed, and sees that none of its processes is left."""
    yield pytest.importorskip("ray", reason="ray is not installed: pip install 'selfalign[ray]'")
    # They are the children of this process, or of one that has ended.
    assert gone(list(descendants(os.getpid()).items()), "ray"), "Ray's processes outlive the engine"


def requests(count: int = 48, **sampling) -> list[GenerateRequest]:
    options = {"max_new_tokens": 500, "temperature": 1.0} | sampling
    return [GenerateRequest(f"r{i}", f"Prompt {i}:", Sampling(**options), seed=i) for i in range(count)]


def descendants(process: int) -> dict[int, str]:
    """The processes below another one, by id, each with its title."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    found, new = {}, {process}
    while new := {one for one, parent in parents.items() if parent in new}:
        found |= {one: titles[one] for one in new}
    return found


def gone(processes: list[tuple[int, str]], word: str, within_s: float = 60.0) -> bool:
    """Whether those of some processes whose title has a word end in time."""
    mine = [Path(f"/proc/{process}/cmdline") for process, title in processes if word in title]
    until = time.monotonic() + within_s
    while any(path.exists() and word.encode() in path.read_bytes() for path in mine):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


# ------------------------------------------------------------------------------------------------ without Ray


def test_results_have_the_local_engines_name(local):
    one = Ray(local)
    assert one.identity() == local.identity() == replace(one, workers=9, gpus_per_worker=0.5, address="auto").identity()
    assert one.count_tokens("four") == local.count_tokens("four") and one.counted() == local.counted()
    assert one.context_length() == local.context_length()
    groups.register()
    settings = ["model=tiny_random", "seed=3", "stages=prompted_only", "evaluation=none"]
    runs = [groups.compose([*settings, *more]) for more in (["engine=ray", "engine.inner.batch_size=1"], [])]
    assert runs[0].engine.inner == replace(runs[1].engine, batch_size=1)
    assert runs[0].engine.identity() == runs[1].engine.identity()


def test_a_missing_ray_is_refused_with_how_to_get_it(local, monkeypatch):
    monkeypatch.setattr("selfalign.engines.ray.find_spec", lambda name: None)
    (problem,) = Ray(local).problems()
    assert "pip install 'selfalign[ray]'" in problem
    groups.register()
    one = groups.compose(["model=tiny_random", "engine=ray", "stages=fitting", "evaluation=none"])
    assert f"engine: {problem}" in experiment.problems(one)
    with pytest.raises(ConfigError, match="selfalign"), Ray(local).open():
        pass


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"workers": 0}, "engine.workers"),
        ({"gpus_per_worker": -1.0}, "engine.gpus_per_worker"),
        ({"cpus_per_worker": float("nan")}, "engine.cpus_per_worker"),
        ({"address": ""}, "engine.address"),
        ({"inner": Scripted(batch_size=0)}, "engine"),
        ({"inner": HuggingFace(batch_size=0)}, "engine.inner.batch_size"),
    ],
)
def test_wrong_settings_are_told_before_anything_starts(local, monkeypatch, wrong, words):
    monkeypatch.setattr("selfalign.engines.ray.find_spec", lambda name: name)
    (problem,) = replace(Ray(local), **wrong).problems()
    assert words in problem


def test_problems_stay_apart_on_their_way_from_a_worker():
    assert pickle.loads(pickle.dumps(ConfigError(["one", "two"]))).problems == ["one", "two"]


# --------------------------------------------------------------------------------------------------- with Ray


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing_and_changes_nothing(ray, local, tmp_path):
    with local.open() as engine:
        calm = generate(engine, requests(), tmp_path / "one.jsonl")
        pairs = [ScoreRequest(f"s{i}", f"Question {i % 3}, asked at length", f" answer {i}") for i in range(30)]
        scores = [result for at in range(0, 30, 8) for result in engine.score(pairs[at : at + 8])]
    loads = []
    with Ray(local, **TWO).open() as engine:
        assert engine.group_size == 8 * 2 * 4
        stream = engine.generate(iter(requests()), loads.append)
        found = [next(stream)]
        killed = kill_a_worker_at_work()
        found += list(stream)
        assert killed and {one.id: one for one in found} == {one.id: one for one in calm} and len(found) == len(calm)
        assert (loads[-1].finished, loads[-1].live) == (48, 0) and max(load.live for load in loads) > 4
        assert {one.id: one for one in engine.score(iter(pairs))} == {one.id: one for one in scores}
        # What a stage writes is the same to the byte too.
        generate(engine, requests(), tmp_path / "two.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def kill_a_worker_at_work() -> int:
    """SIGKILL to a worker that computes a group; its id."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for process, title in descendants(os.getpid()).items():
            if title.startswith("ray::_Worker.generate"):
                os.kill(process, signal.SIGKILL)
                return process
    raise AssertionError("no worker was seen at work")


@pytest.mark.slow
def test_workers_swap_adapters_and_one_that_is_started_again_has_the_one_at_work(ray, local, tiny_model, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    from selfalign.engines.model import load_model

    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(1)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(load_model(ModelSettings(str(tiny_model))), lora).save_pretrained(str(tmp_path / "adapter"))
    pairs = [ScoreRequest(f"s{i}", f"Question {i}", f" answer {i}") for i in range(20)]

    def scores(engine) -> list[float]:
        found = {one.id: one.logprob for one in engine.score(iter(pairs))}
        return [found[pair.id] for pair in pairs]

    known = {}
    for adapter in (None, tmp_path / "adapter"):
        with local.open(adapter) as engine:
            written = generate(engine, requests(), tmp_path / f"{adapter is None}.jsonl")
            known[adapter] = scores(engine), {one.id: one.text for one in written}
    with Ray(local, **TWO).open(None, [tmp_path / "adapter"]) as engine:
        for adapter in (None, tmp_path / "adapter", None, tmp_path / "adapter"):
            engine.swap(adapter)
            # Groups are of another size than in one process, which moves the last bits.
            assert scores(engine) == pytest.approx(known[adapter][0], abs=1e-5)
        stream = engine.generate(iter(requests()))
        found = [next(stream)]
        assert kill_a_worker_at_work()
        assert {one.id: one.text for one in (*found, *stream)} == known[tmp_path / "adapter"][1]
        with pytest.raises(StageError, match="name it when the engine is opened"):
            engine.swap(tmp_path)
    assert known[None] != known[tmp_path / "adapter"]


@pytest.mark.slow
def test_a_workers_error_is_the_engines_own_and_ends_everything(ray, local):
    long = GenerateRequest("long", "word " * 600, Sampling())
    with Ray(local, **TWO).open() as engine:
        with pytest.raises(StageError, match="request 'long': expected a prompt of at most 1023 tokens"):
            list(engine.generate([*requests(3, max_new_tokens=2), long]))
        # The workers are as good as before.
        assert len(list(engine.generate(requests(9, max_new_tokens=2)))) == 9


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named_with_what_to_do(ray, local):
    refused = pytest.raises(StageError, match="engine.address.*'nowhere'.*engine=huggingface")
    with refused, Ray(local, **TWO, address="nowhere").open():
        pass


@pytest.mark.slow
def test_what_this_machine_has_not_is_refused(ray, local):
    refused = pytest.raises(ConfigError, match=r"expected 900 GPUs for 9 workers, found .*engine.gpus_per_worker=0")
    with refused, Ray(local, workers=9, gpus_per_worker=100.0).open():
        pass


@pytest.mark.slow
def test_no_process_is_left_behind_by_ctrl_c(ray, tmp_path):
    command = [
        "run", "model=tiny_random", "engine=ray", "engine.workers=2", "engine.gpus_per_worker=0", "tracking=none",
        "stages=prompted_only", "stages.self_instruct=true", "stages.evaluate=false", "self_instruct.requests_per_round=999",
    ]  # fmt: skip
    with open(tmp_path / "log.txt", "wb") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "selfalign", *command], cwd=tmp_path, stderr=log, start_new_session=True
        )
    at_work, until = {}, time.monotonic() + 120
    while not any("_Worker.generate" in title for title in at_work.values()) and time.monotonic() < until:
        assert run.poll() is None, (tmp_path / "log.txt").read_text()
        time.sleep(0.1)
        at_work = descendants(run.pid)
    assert len(at_work) > 4
    # Ctrl-C reaches every process of the terminal's foreground.
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(60) == 130
    assert gone(list(at_work.items()), "ray")
