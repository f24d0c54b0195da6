import json

import pytest

from selfalign import jsonl
from selfalign.artifacts import Store
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.pipeline import Node, run
from selfalign.stages.base import Context
from selfalign.stages.merge import Merge
from selfalign.stages.self_instruct import SelfInstruct
from tests.factories import respond

CONTEXT = Context(engine=ScriptedSettings(ScriptedEngine(respond)))
FIRST = SelfInstruct(target=20, requests_per_round=4, max_rounds=4)


def merged(tmp_path, extra, **settings):
    """The rows of a merge of written prompts with a file of others."""
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"instruction": text}) + "\n" for text in extra))
    nodes = {
        "instructions": Node(FIRST),
        "prompts": Node(Merge(file=str(file), **settings), {"self_instruct": "instructions"}),
    }
    results = run(nodes, Store(tmp_path / "store"), CONTEXT)
    assert results["prompts"].status in ("computed", "reused"), results["prompts"].why
    rows = list(jsonl.iterate(Store(tmp_path / "store").path(results["prompts"].artifact) / "prompts.jsonl"))
    counts = results["prompts"].counts
    assert counts["in"] == len(rows) == counts["kept"] + sum(counts["dropped"].values())
    return rows


def of(rows, source):
    return [row for row in rows if row["source"] == source]


def written(tmp_path):
    return of(merged(tmp_path, ["Something else entirely, by hand."]), "self_instruct")[0]["instruction"]


def test_what_another_source_says_nearly_is_kept_once(tmp_path):
    own = written(tmp_path)
    near, far = f"Please {own[0].lower()}{own[1:]}", f"{own} And then write a long letter to my aunt about it."
    rows = of(merged(tmp_path, [own.upper(), near, far]), "file")
    assert {row["instruction"]: row["reason"] for row in rows} == {
        own.upper(): "duplicate",
        near: "near_duplicate",
        far: "",
    }


def test_within_one_source_and_with_a_limit_of_one_only_duplicates_go(tmp_path):
    own = written(tmp_path)
    near = f"Please {own[0].lower()}{own[1:]}"
    assert all(row["kept"] for row in merged(tmp_path, [near], near_duplicate=1.0))
    birds = [f"Name one bird of the north coast, please, {word} its song." for word in ("with", "and")]
    assert all(row["kept"] for row in merged(tmp_path, birds))


@pytest.mark.parametrize("settings", [{"near_duplicate": 0.0}, {"near_duplicate": 1.2}, {"limit": -1}])
def test_impossible_numbers_are_named(settings):
    (found,) = Merge(**settings).problems(CONTEXT)
    assert next(iter(settings)) in found and "expected" in found and "found" in found
