"""Every stage in selfalign/stages/ keeps the promises that reuse and resume rest on."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import selfalign.stages
from selfalign import jsonl, resources
from selfalign.artifacts import Store
from selfalign.engines.base import Completion, GenerateRequest, ScoreRequest
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.identity import digest
from selfalign.pipeline import Node, plan, run
from selfalign.principles import ExemplarSettings, PrincipleSettings
from selfalign.stages.base import Context, Stage
from selfalign.stages.merge import Merge
from selfalign.stages.red_team import RedTeam
from selfalign.stages.self_align import SelfAlign
from selfalign.stages.self_critique import SelfCritique
from selfalign.stages.self_instruct import SelfInstruct
from selfalign.stages.verbose_clone import VerboseClone
from tests.factories import FIVE, SIXTEEN, respond

FOLDER = Path(selfalign.stages.__file__).parent


def discovered() -> dict[str, type]:
    """Stage classes by file: every frozen dataclass with a VERSION."""
    found = {}
    for path in sorted(FOLDER.glob("[a-z]*.py")):
        module = importlib.import_module(f"selfalign.stages.{path.stem}")
        for kind in vars(module).values():
            if (
                isinstance(kind, type)
                and kind.__module__ == module.__name__
                and isinstance(getattr(kind, "VERSION", 0), str)
            ):
                found[path.stem] = kind
    return found


STAGES = discovered()
CONTEXT = Context(engine=ScriptedSettings(ScriptedEngine(respond)))


def small(kind: type) -> Stage:
    """The stage in a size for tests."""
    sized: dict[str, dict[str, object]] = {
        "SelfInstruct": {"target": 20, "requests_per_round": 4, "max_rounds": 4},
        "RedTeam": {"topic_rounds": 1},
        "SelfAlign": {"principles": PrincipleSettings(ids=SIXTEEN), "exemplars": ExemplarSettings(ids=FIVE)},
        "SelfCritique": {"principles": PrincipleSettings(ids=SIXTEEN)},
    }
    return kind(**sized.get(kind.__name__, {}))


def test_all_stages_are_found() -> None:
    assert set(STAGES) >= {
        "self_instruct",
        "red_team",
        "merge",
        "self_align",
        "self_critique",
        "given_answers",
        "engrave",
        "verbose_clone",
        "evaluate",
        "parity",
        "pretrain",
        "engraving_gap",
        "judge",
        "assess",
    }


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_states_its_source_and_is_frozen(name: str) -> None:
    module = importlib.import_module(f"selfalign.stages.{name}")
    assert "Source:" in (module.__doc__ or ""), "the module says which paper section or reference file it follows"
    assert STAGES[name].__dataclass_params__.frozen  # type: ignore[attr-defined]
    with pytest.raises(dataclasses.FrozenInstanceError):
        small(STAGES[name]).VERSION = "9"  # type: ignore[misc]


@pytest.mark.parametrize("name", STAGES)
def test_an_identity_is_plain_json_and_holds_no_path(name: str) -> None:
    text = json.dumps(small(STAGES[name]).identity(CONTEXT))
    assert str(Path.cwd()) not in text and "/tmp" not in text


def changed(value: object) -> object:
    """Another value of the same type; None where there is no obvious one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.5 + 0.1
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            other = changed(getattr(value, field.name))
            if other is not None and not field.metadata.get("transient"):
                return dataclasses.replace(value, **{field.name: other})
    return None


@pytest.mark.parametrize("name", STAGES)
def test_every_setting_renames_the_result_and_transient_ones_do_not(name: str) -> None:
    stage, seen = small(STAGES[name]), 0
    before = digest(stage.identity(CONTEXT))
    for field in dataclasses.fields(stage):  # type: ignore[arg-type]
        other = changed(getattr(stage, field.name))
        if other is None:
            continue
        after = digest(dataclasses.replace(stage, **{field.name: other}).identity(CONTEXT))  # type: ignore[type-var]
        assert (after == before) == bool(field.metadata.get("transient")), field.name
        seen += 1
    assert seen >= 1 or not dataclasses.fields(stage)  # type: ignore[arg-type]


def test_another_model_renames_the_results_of_every_stage_that_uses_it() -> None:
    other = Context(engine=ScriptedSettings(ScriptedEngine(respond, identity_name="other")))
    for name, kind in STAGES.items():
        same = digest(small(kind).identity(CONTEXT)) == digest(small(kind).identity(other))
        assert same == (name in ("contamination", "given_answers", "merge", "parity", "pretrain")), name


# ---------------------------------------------------------------------------------------- crash, resume, reproducibility


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it on the way out."""


class DyingEngine(ScriptedEngine):
    """Dies before the n-th request of a process, having yielded those before it."""

    def __init__(self, dies_after: int) -> None:
        super().__init__(respond, group_size=4)
        self.left = dies_after

    def generate(self, requests: list[GenerateRequest]) -> Iterator[Completion]:  # type: ignore[override]
        for request in requests:
            if self.left == 0:
                raise Killed
            self.left -= 1
            yield from super().generate([request])

    def score(self, requests: list[ScoreRequest]) -> Iterator[object]:  # type: ignore[override]
        for request in requests:
            if self.left == 0:
                raise Killed
            self.left -= 1
            yield from super().score([request])


def generating() -> dict[str, Stage | Node]:
    """Every generating stage, wired; the adapter of verbose cloning is stood for by any artifact."""
    return {
        "instructions": small(SelfInstruct),
        "red_team": small(RedTeam),
        "prompts": Node(Merge(), {"self_instruct": "instructions", "red_team": "red_team"}),
        "responses": small(SelfAlign),
        "critiqued": small(SelfCritique),
        "verbose_responses": Node(VerboseClone(), {"prompts": "prompts", "adapter": "responses"}),
    }


def contents(store: Path) -> dict[str, str]:
    """Digest of every published file but those that hold times."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file()
        and path.name not in ("manifest.json", "speed.jsonl", "training.csv")
        and not path.relative_to(store).parts[0].startswith(".")
    }


def context(engine: ScriptedEngine) -> Context:
    return Context(engine=ScriptedSettings(engine))


def test_two_runs_are_identical_to_the_byte(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(generating(), Store(tmp_path / name), context(ScriptedEngine(respond, group_size=4)))
    assert contents(tmp_path / "one") == contents(tmp_path / "two") and len(contents(tmp_path / "one")) >= 12


def test_a_run_killed_again_and_again_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    run(generating(), Store(tmp_path / "whole"), context(ScriptedEngine(respond, group_size=4)))
    kills = 0
    for attempt in range(400):
        engine = DyingEngine(dies_after=5 + attempt % 7)
        try:
            run(generating(), Store(tmp_path / "killed"), context(engine))
            break
        except Killed:
            kills += 1
            tear(tmp_path / "killed", attempt)
    assert kills > 10
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def tear(store: Path, attempt: int) -> None:
    """Every third kill leaves a half-written line, as a process that dies while writing does."""
    for path in (store / ".partial").rglob("*.jsonl"):
        if attempt % 3 == 0 and path.stat().st_size > 40:
            with open(path, "r+b") as stream:
                stream.truncate(path.stat().st_size - 25)


def test_results_do_not_depend_on_the_size_of_groups(tmp_path: Path) -> None:
    for size in (1, 8, 32):
        run(generating(), Store(tmp_path / str(size)), context(ScriptedEngine(respond, group_size=size)))
    assert contents(tmp_path / "1") == contents(tmp_path / "8") == contents(tmp_path / "32")


@pytest.mark.slow
def test_a_models_records_are_the_same_to_the_byte_for_any_number_of_rows_at_once(tmp_path: Path) -> None:
    from selfalign.engines.base import NgramPenalty, Sampling
    from selfalign.engines.huggingface import HuggingFace

    questions = jsonl.read(resources.PACKAGE / "calf" / "data" / "calf_questions" / "question.jsonl")[:33]
    jsonl.write(tmp_path / "mine.jsonl", ({"instruction": row["text"]} for row in questions))
    drawn = Sampling(
        60, temperature=0.9, top_p=0.95, logit_bias={"Sorry": -100.0}, ngram_penalty=NgramPenalty(trigram=1.0)
    )
    answers = SelfAlign(PrincipleSettings(ids=SIXTEEN), ExemplarSettings(ids=FIVE), sampling=drawn, thoughts_tokens=40)
    found = []
    for size in (1, 8, 32):
        store = tmp_path / str(size)
        engine = HuggingFace(batch_size=size, threads=1)
        run({"prompts": Merge(file=str(tmp_path / "mine.jsonl")), "responses": answers}, Store(store), Context(engine))
        found.append(contents(store))
    assert found[0] == found[1] == found[2] and len(found[0]) > 3


def test_every_funnel_adds_up_and_drops_nothing_without_a_reason(tmp_path: Path) -> None:
    results = run(generating(), Store(tmp_path), context(ScriptedEngine(respond, group_size=4)))
    for name, result in results.items():
        counts = result.counts
        assert counts["in"] == counts["kept"] + sum(counts["dropped"].values()) > 0, name
        for file in ("prompts.jsonl", "responses.jsonl", "critiques.jsonl"):
            path = Path(result.path) / file
            rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
            assert all(row["kept"] == (row["reason"] == "") for row in rows)
            assert not rows or len(rows) == counts["in"]


def test_arms_share_every_stage_above_the_change(tmp_path: Path) -> None:
    store, whole, arm = Store(tmp_path), generating(), generating()
    arm["responses"] = dataclasses.replace(small(SelfAlign), principles=PrincipleSettings(ids=SIXTEEN, drop=["candor"]))  # type: ignore[type-var]
    run(whole, store, CONTEXT)
    status = {name: item.is_published for name, item in plan(arm, store, CONTEXT).items()}
    assert status == {
        "instructions": True,
        "red_team": True,
        "prompts": True,
        "responses": False,
        "critiqued": False,
        "verbose_responses": False,
    }


def test_arms_share_their_random_numbers_record_by_record(tmp_path: Path) -> None:
    engine = ScriptedEngine(respond)
    arms = [PrincipleSettings(ids=SIXTEEN), PrincipleSettings(ids=SIXTEEN, drop=["candor"])]
    for settings in arms:
        nodes = generating()
        nodes["responses"] = dataclasses.replace(small(SelfAlign), principles=settings)  # type: ignore[type-var]
        del nodes["verbose_responses"]
        run(nodes, Store(tmp_path), context(engine))
    thoughts = [request for request in engine.generated if "(internal thoughts):" in request.prompt[-40:]]
    half = len(thoughts) // 2
    assert [(r.id, r.seed) for r in thoughts[:half]] == [(r.id, r.seed) for r in thoughts[half:]] and half > 10


DIGESTS = Path(__file__).parent / "stage_digests.json"


def test_a_stage_whose_code_changed_raised_its_version() -> None:
    # If the meaning is unchanged: UPDATE_GOLDEN=1 make test refreshes the digests. If results change: raise VERSION too.
    import os

    found = {}
    for name, kind in STAGES.items():
        tree = ast.parse((FOLDER / f"{name}.py").read_text())
        found[name] = [kind.VERSION, hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]]  # type: ignore[attr-defined]
    if os.environ.get("UPDATE_GOLDEN"):
        DIGESTS.write_text(json.dumps(found, indent=1) + "\n")
    known = json.loads(DIGESTS.read_text())
    stale = [name for name in found if found[name] != known.get(name)]
    assert not stale, f"changed: {stale}; raise VERSION if results change, then refresh with UPDATE_GOLDEN=1"
