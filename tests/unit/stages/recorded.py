"""Stages over recorded completions: what a model wrote goes in through the scripted engine, rows come out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfalign import jsonl
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.records import Prompt, Response, from_row, to_row
from selfalign.stages.base import Context
from selfalign.stages.self_align import SelfAlign
from selfalign.stages.verbose_clone import VerboseClone


def artifact(folder: Path, file: str, rows: Sequence[object]) -> Artifact:
    """A published result that holds these rows alone."""
    folder.mkdir(parents=True, exist_ok=True)
    jsonl.write(folder / file, [to_row(row) for row in rows])
    counts = {"in": len(rows), "kept": len(rows), "dropped": {}}
    return Artifact("recorded", folder, {"files": {file: {}}, "counts": counts, "metrics": {}})


def answered(
    stage: SelfAlign | VerboseClone, texts: Sequence[str], folder: Path, questions: Sequence[tuple[str, str]] = ()
) -> tuple[list[Response], Outcome]:
    """The stage's rows where the model writes `texts` in turn, to `questions` (instruction, input) or to any."""
    asked = questions or [(f"Question {number}?", "") for number in range(len(texts))]
    prompts = [Prompt(f"p{number:03d}", *pair, "self_instruct") for number, pair in enumerate(asked)]
    written = {prompt.id: text for prompt, text in zip(prompts, texts, strict=True)}
    engine = ScriptedEngine(lambda request: written[request.id])
    out = folder / "out"
    out.mkdir(parents=True)
    inputs = {"prompts": artifact(folder / "prompts", "prompts.jsonl", prompts)}
    if isinstance(stage, VerboseClone):
        inputs["adapter"] = Artifact("recorded", folder, {})
    outcome = stage.run(inputs, out, Context(engine=ScriptedSettings(engine)))
    return [from_row(Response, row) for row in jsonl.read(out / "responses.jsonl")], outcome
