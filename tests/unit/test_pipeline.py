from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from selfalign.artifacts import Store
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.errors import ConfigError
from selfalign.pipeline import Node, NodeResult, as_nodes, plan, run
from selfalign.principles import PrincipleSettings
from selfalign.shards import Shard
from selfalign.stages.base import Context
from selfalign.stages.merge import Merge
from selfalign.stages.self_align import SelfAlign
from selfalign.stages.self_instruct import SelfInstruct
from tests.factories import SIXTEEN, respond

CONTEXT = Context(engine=ScriptedSettings(ScriptedEngine(respond)))


def test_bare_stages_are_wired_by_the_names_of_their_roles(tmp_path: Path) -> None:
    nodes = {
        "prompts": SelfInstruct(target=8, requests_per_round=4),
        "responses": SelfAlign(principles=PrincipleSettings(ids=SIXTEEN)),
    }
    results = run(nodes, Store(tmp_path), CONTEXT)
    assert [result.status for result in results.values()] == ["computed", "computed"]
    assert results["responses"].counts["in"] == results["prompts"].counts["kept"] == 8


def test_nodes_run_in_the_order_given_as_far_as_their_inputs_allow() -> None:
    nodes = {"responses": SelfAlign(), "other": SelfInstruct(seed=1), "prompts": SelfInstruct()}
    assert list(as_nodes(nodes)) == ["other", "prompts", "responses"]


def test_all_wiring_mistakes_are_reported_together() -> None:
    with pytest.raises(ConfigError) as error:
        as_nodes(
            {
                "prompts": SelfInstruct(),
                "responses": Node(SelfAlign(), {"prompts": "promts"}),
                "bare": SelfAlign(),
                "merged": Node(Merge(), {"adapter": "prompts"}),
                "empty": Node(SelfAlign()),
            }
        )
    text = str(error.value)
    assert "reads 'promts', which is no node; did you mean 'prompts'?" in text
    assert "fills the role 'adapter', which its stage does not read" in text
    assert "needs an input for the role 'prompts'" in text


def test_nodes_that_read_one_another_are_refused() -> None:
    with pytest.raises(ConfigError, match="in a circle: one, two"):
        as_nodes({"one": Node(SelfAlign(), {"prompts": "two"}), "two": Node(SelfAlign(), {"prompts": "one"})})


def test_a_failed_node_blocks_what_reads_it_and_nothing_else(tmp_path: Path) -> None:
    silent = Context(engine=ScriptedSettings(ScriptedEngine(lambda request: "nonsense")))
    nodes = {
        "prompts": SelfInstruct(max_rounds=1, requests_per_round=2),
        "responses": SelfAlign(),
        "again": Node(SelfAlign(), {"prompts": "responses"}),
        "apart": SelfInstruct(seed=1, max_rounds=1, requests_per_round=2),
    }
    results = run(nodes, Store(tmp_path), silent)
    assert {name: result.status for name, result in results.items()} == {
        "prompts": "computed", "responses": "failed", "again": "blocked", "apart": "computed",
    }  # fmt: skip
    assert "malformed 2" in results["responses"].why and "responses" in results["again"].why


def test_a_mistake_in_the_code_is_not_a_failed_node(tmp_path: Path) -> None:
    def broken(request: object) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run({"prompts": SelfInstruct()}, Store(tmp_path), Context(engine=ScriptedSettings(ScriptedEngine(broken))))


def test_what_another_process_is_computing_is_left_for_last(tmp_path: Path) -> None:
    nodes = {
        "taken": SelfInstruct(target=8, requests_per_round=4),
        "behind": Node(SelfAlign(principles=PrincipleSettings(ids=SIXTEEN)), {"prompts": "taken"}),
        "free": SelfInstruct(target=8, requests_per_round=4, seed=1),
    }
    store, ended = Store(tmp_path), list[str]()
    lock = FileLock(tmp_path / ".locks" / f"{plan(nodes, store, CONTEXT)['taken'].artifact}.lock")
    (tmp_path / ".locks").mkdir()

    def on_node(name: str, result: NodeResult | None) -> None:
        if result is not None:
            ended.append(name)
            lock.release()

    with lock.acquire(timeout=0):
        results = run(nodes, store, CONTEXT, on_node)
    assert ended == ["free", "taken", "behind"]
    assert list(results) == list(nodes) and {result.status for result in results.values()} == {"computed"}


def test_a_shard_leaves_nothing_for_later_because_the_others_wait_for_it(tmp_path: Path) -> None:
    nodes = {
        "taken": SelfInstruct(target=8, requests_per_round=4),
        "free": SelfInstruct(target=8, requests_per_round=4, seed=1),
    }
    store, ended = Store(tmp_path), list[str]()
    lock = FileLock(tmp_path / ".locks" / f"{plan(nodes, store, CONTEXT)['taken'].artifact}.lock")
    (tmp_path / ".locks").mkdir()
    threads = [
        threading.Thread(
            target=lambda number=number: run(
                nodes,
                Store(tmp_path),
                replace(CONTEXT, shard=Shard(number, 2)),
                lambda name, result: ended.append(name) if result is None else None,
            )
        )
        for number in (1, 2)
    ]
    with lock.acquire(timeout=0):
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert set(ended) == {"taken"}
    for thread in threads:
        thread.join()
    assert ended == ["taken", "taken", "free", "free"]


def test_planning_computes_nothing_and_names_what_running_publishes(tmp_path: Path) -> None:
    nodes = {"prompts": SelfInstruct(target=8, requests_per_round=4)}
    planned = plan(nodes, Store(tmp_path / "store"), CONTEXT)
    assert not (tmp_path / "store").exists() and not planned["prompts"].is_published
    results = run(nodes, Store(tmp_path / "store"), CONTEXT)
    assert results["prompts"].artifact == planned["prompts"].artifact
    assert plan(nodes, Store(tmp_path / "store"), CONTEXT)["prompts"].is_published


def test_a_damaged_artifact_is_computed_again_to_the_same_bytes(tmp_path: Path) -> None:
    nodes = {"prompts": SelfInstruct(target=8, requests_per_round=4)}
    path = Path(run(nodes, Store(tmp_path), CONTEXT)["prompts"].path) / "prompts.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[:-9])
    assert run(nodes, Store(tmp_path), CONTEXT)["prompts"].status == "computed"
    assert path.read_bytes() == before
