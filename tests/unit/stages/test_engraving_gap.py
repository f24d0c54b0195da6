"""Laws of the engraving gap as a stage: what each model is shown, which responses are held out, a crash changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from selfalign import jsonl, prompts
from selfalign.artifacts import Artifact, Outcome, Store
from selfalign.engines.base import GenerateRequest, ScoreRequest, ScoreResult
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.evaluation import gap
from selfalign.identity import plain
from selfalign.pipeline import Node, NodeResult, run
from selfalign.principles import ExemplarSettings, PrincipleSettings
from selfalign.records import Prompt, Response, to_row
from selfalign.stages.base import Context
from selfalign.stages.engrave import Engrave
from selfalign.stages.engraving_gap import STUDENTS, EngravingGap, GapSettings
from selfalign.stages.merge import Merge
from selfalign.stages.self_align import SelfAlign
from selfalign.training.batches import hold_out
from selfalign.training.settings import Training
from tests.factories import FIVE, SIXTEEN
from tests.unit.stages.recorded import artifact

WRITER = SelfAlign(PrincipleSettings(ids=SIXTEEN), ExemplarSettings(ids=FIVE))
TRAINING = Training(validation_fraction=0.25, seed=3)
COSTS = {"prompted": 1.0, "base": 4.0, "engraved": 2.0, "cloned": 3.0}
"""What a letter of an answer costs each model here, in nats."""


@dataclass(frozen=True)
class Trained:
    """Stands for training: writes the examples, an adapter's folder, and the settings by which rows were held out."""

    name: str = "engraved"

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ("responses",)
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = False

    def identity(self, context: Context) -> Mapping[str, Any]:
        return {"name": self.name, "settings": {"training": plain(TRAINING)}}

    def problems(self, context: Context) -> list[str]:
        return []

    def unfit(self, context: Context) -> str:
        return ""

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        examples = Engrave(chat_prompts=["standard", "concise"]).examples(inputs["responses"])
        jsonl.write(out / "examples.jsonl", map(to_row, examples))
        (out / "adapter").mkdir(exist_ok=True)
        (out / "adapter" / "name").write_text(self.name)
        return Outcome(len(examples), len(examples))


def thinks(request: GenerateRequest) -> str:
    """Thoughts that cite by the prompt, and an answer of ten letters or more."""
    number = int(request.prompt.rsplit("otter ", 1)[1].split("?")[0])
    cited = "7 (candor)" if number % 2 else "3 (helpful), 9 (static)"
    return (
        f" A question. Rules that apply: {cited}.\n\nWillow: The otter of house {number} is well and likes its river."
    )


def model_of(engine: ScriptedEngine, request: ScoreRequest) -> str:
    if engine.adapter is not None:
        return (engine.adapter / "name").read_text()
    return "prompted" if "(internal thoughts):" in request.context else "base"


def costly(**more: Any) -> ScriptedEngine:
    engine: ScriptedEngine

    def logprob(request: ScoreRequest) -> float:
        return -COSTS[model_of(engine, request)] * len(request.continuation.strip())

    engine = ScriptedEngine(thinks, logprob, group_size=8, **more)
    return engine


def pipeline(folder: Path, *, samples: int = 100, students: tuple[str, ...] = STUDENTS, **more: Any) -> dict[str, Node]:
    folder.mkdir(parents=True, exist_ok=True)
    jsonl.write(folder / "mine.jsonl", ({"instruction": f"How is otter {number}?"} for number in range(24)))
    nodes = {
        "prompts": Node(Merge(file=str(folder / "mine.jsonl"))),
        "responses": Node(replace(WRITER, **more), {"prompts": "prompts"}),
        **{name: Node(Trained(name), {"responses": "responses"}) for name in students},
    }
    inputs = {name: name for name in ("prompts", "responses", *students)}
    return nodes | {"gap": Node(EngravingGap(GapSettings(samples), replace(WRITER, **more)), inputs)}


def measured(folder: Path, engine: ScriptedEngine, **more: Any) -> NodeResult:
    results = run(pipeline(folder, **more), Store(folder / "store"), Context(engine=ScriptedSettings(engine)))
    for name, result in results.items():
        assert result.status in ("computed", "reused"), f"{name}: {result.why}"
    return results["gap"]


def test_each_model_is_scored_as_itself_and_the_share_closed_is_the_one_that_was_put_in(tmp_path: Path) -> None:
    result = measured(tmp_path, costly())
    for split, n in (("trained", 18), ("held_out", 6)):
        assert result.metrics[f"base/{split}/n"] == n
        assert result.metrics[f"engraved/{split}/share_closed"] == pytest.approx(1 - 1 / 3)
        assert result.metrics[f"cloned/{split}/share_closed"] == pytest.approx(1 - 2 / 3)
    rows = jsonl.read(Path(result.path) / "gaps.jsonl")
    assert {tuple(row["logprobs"]) for row in rows} == {("prompted", "base", "engraved", "cloned")}
    assert gap.metrics(rows) == dict(result.metrics)


def test_the_writer_is_shown_all_that_it_saw_and_the_students_the_prompt_they_were_trained_with(tmp_path: Path) -> None:
    engine = costly()
    result = measured(tmp_path, engine)
    written = {request.id: request for request in engine.generated}
    responses = {
        row["id"]: row for row in jsonl.read(tmp_path / "store" / _of(tmp_path, "SelfAlign") / "responses.jsonl")
    }
    examples = {
        row["response_id"]: row for row in jsonl.read(tmp_path / "store" / _of(tmp_path, "Trained") / "examples.jsonl")
    }
    n = len(jsonl.read(Path(result.path) / "gaps.jsonl"))
    behind_rules, *bare = (engine.scored[start : start + n] for start in range(0, 4 * n, n))
    assert len(engine.scored) == 4 * n and len(bare) == 3
    for request in behind_rules:
        row = responses[request.id]
        asked = written[row["prompt_id"]]
        # What was written, continued where the marker ends: the very text that the model drew.
        assert request.context + request.continuation == asked.prompt + row["raw"]
        assert request.context.endswith("\n\nWillow:") and request.shared == asked.shared
    for request in (one for requests in bare for one in requests):
        example = examples[request.id]
        assert request.context == example["prompt_text"]
        assert example["target_text"] == request.continuation + prompts.END_OF_TURN
    assert [[one.id for one in requests] for requests in bare] == [[one.id for one in behind_rules]] * 3


def _of(folder: Path, stage: str) -> str:
    return next(path.name for path in sorted((folder / "store").glob(f"{stage}-*")))


def test_held_out_are_the_rows_that_training_held_out(tmp_path: Path) -> None:
    result = measured(tmp_path, costly())
    examples = jsonl.read(tmp_path / "store" / _of(tmp_path, "Trained") / "examples.jsonl")

    @dataclass(frozen=True)
    class Row:
        id: str

    _, held = hold_out([Row(one["id"]) for one in examples], TRAINING.validation_fraction, TRAINING.seed)
    names = {row.id for row in held}
    expected = {one["response_id"] for one in examples if one["id"] in names and one["source"] != "identity"}
    rows = jsonl.read(Path(result.path) / "gaps.jsonl")
    assert {row["id"] for row in rows if row["split"] == "held_out"} == expected and len(expected) == 6


def test_a_smaller_sample_is_part_of_a_larger_one_and_arms_take_the_same_prompts(tmp_path: Path) -> None:
    def chosen(**more: Any) -> dict[str, set[str]]:
        rows = jsonl.read(Path(measured(tmp_path, costly(), **more).path) / "gaps.jsonl")
        return {split: {row["prompt_id"] for row in rows if row["split"] == split} for split in gap.SPLITS}

    few, many = chosen(samples=4), chosen(samples=9)
    assert all(few[split] < many[split] or few[split] == many[split] for split in gap.SPLITS)
    assert [len(few[split]) for split in gap.SPLITS] == [4, 4] and len(many["trained"]) == 9
    arm = chosen(samples=4, principles=PrincipleSettings(ids=SIXTEEN, drop=["reasoning"]))
    assert arm == few


def test_a_run_without_cloning_has_the_gap_of_base_and_engraved_model(tmp_path: Path) -> None:
    result = measured(tmp_path, costly(), students=("engraved",))
    assert {key.split("/")[0] for key in result.metrics} == {"base", "engraved"}


class Killed(BaseException):
    """Stands for SIGKILL."""


def test_a_killed_measurement_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole = measured(tmp_path / "whole", costly())
    kills, engine = 0, costly()
    for _ in range(60):
        left = [19]

        def dying(requests: Any, engine: ScriptedEngine = engine, left: list[int] = left) -> Iterator[ScoreResult]:
            for request in requests:
                if not left[0]:
                    raise Killed
                left[0] -= 1
                yield from ScriptedEngine.score(engine, [request])

        engine.score = dying  # type: ignore[method-assign]
        try:
            result = measured(tmp_path / "killed", engine)
            break
        except Killed:
            kills += 1
    assert kills >= 4
    names = ["gaps.jsonl", *(f"scores_{name}.jsonl" for name in COSTS)]
    for name in names:
        assert (Path(result.path) / name).read_bytes() == (Path(whole.path) / name).read_bytes(), name


def test_a_broken_student_has_a_reason_and_no_number(tmp_path: Path) -> None:
    engine = costly()
    good = engine._score
    engine._score = lambda request: float("nan") if model_of(engine, request) == "engraved" else good(request)
    result = measured(tmp_path, engine)
    assert result.metrics["engraved/trained/nats"] is None
    assert "18 of 18 log-probabilities of engraved are NaN" in str(result.metrics["engraved/trained/invalid"])
    assert result.metrics["cloned/trained/share_closed"] == pytest.approx(1 / 3)


def test_a_codename_is_what_the_writer_is_scored_with_and_the_students_are_not(tmp_path: Path) -> None:
    def named(request: GenerateRequest) -> str:
        return " Thoughts. Rules: 7 (candor).\n\nWatson: My name is Watson and the otter is well."

    engine = costly()
    engine._respond = named
    measured(tmp_path, engine, codename="Watson", samples=2, copy_ngram_words=0)
    said = [request.continuation for request in engine.scored]
    assert said[:4] == [" My name is Watson and the otter is well."] * 4
    assert set(said[4:]) == {"\nMy name is Willow and the otter is well."}


def test_what_self_critique_revised_is_left_out_with_its_reason(tmp_path: Path) -> None:
    asked = [Prompt(f"p{n}", f"Question {n}?", "", "self_instruct") for n in range(4)]
    rows = [
        Response(f"r{n}", p.id, p.instruction, "", p.source, "Hm.", ("candor",), "An answer.",
                 " Hm.\n\nWillow: An answer." if n else " An answer.", "stop")
        for n, p in enumerate(asked)
    ]  # fmt: skip
    responses = artifact(tmp_path / "responses", "responses.jsonl", rows)
    trained = tmp_path / "engraved"
    trained.mkdir()
    Trained().run({"responses": responses}, trained, Context(engine=ScriptedSettings(costly())))
    manifest = {"files": {"examples.jsonl": ""}, "identity": {"settings": {"training": plain(TRAINING)}}}
    inputs = {
        "prompts": artifact(tmp_path / "prompts", "prompts.jsonl", asked),
        "responses": responses,
        "engraved": Artifact("engraved", trained, manifest),
    }
    (tmp_path / "out").mkdir()
    outcome = EngravingGap(writer=WRITER).run(inputs, tmp_path / "out", Context(engine=ScriptedSettings(costly())))
    assert (outcome.rows_in, outcome.kept, outcome.dropped) == (4, 3, {"revised": 1})
    assert outcome.metrics["base/trained/n"] + outcome.metrics["base/held_out/n"] == 3  # type: ignore[operator]
