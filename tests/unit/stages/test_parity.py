"""Laws of the cut to common prompts: the intersection, whoever asks first, and nothing lost without a reason."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.artifacts import Artifact
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.errors import StageError
from selfalign.records import Prompt, Response
from selfalign.stages.base import Context
from selfalign.stages.engrave import Engrave
from selfalign.stages.parity import NOT_IN_EVERY_ARM, Parity, common_prompts
from tests.unit.stages.recorded import artifact

CONTEXT = Context(engine=ScriptedSettings(ScriptedEngine()))
ASKED = [Prompt(f"p{number:02d}", f"Question {number}?", "", "self_instruct") for number in range(20)]


def answers(folder: Path, kept: set[str]) -> Artifact:
    rows = [
        Response(
            f"r of {p.id} in {folder.name}", p.id, p.instruction, "", p.source, "", (), f"Answer to {p.id}.", "", "stop",
            p.id in kept, "" if p.id in kept else "too_short",
        )
        for p in ASKED
    ]  # fmt: skip
    return artifact(folder, "responses.jsonl", rows)


def cut(folder: Path, arms: list[set[str]]) -> tuple[dict[str, Artifact], Artifact]:
    inputs = {"prompts": artifact(folder / "asked", "prompts.jsonl", ASKED)}
    inputs |= {f"arm_{n:03}": answers(folder / f"arm{n}", kept) for n, kept in enumerate(arms)}
    out = folder / "cut"
    out.mkdir()
    outcome = Parity().run(inputs, out, CONTEXT)
    assert outcome.rows_in == outcome.kept + sum(outcome.dropped.values())
    assert set(outcome.dropped) <= {NOT_IN_EVERY_ARM}
    manifest = {"files": {"prompts.jsonl": "", "arms.jsonl": ""}, "counts": {"dropped": outcome.dropped}}
    return inputs, Artifact("cut", out, manifest)


@pytest.mark.parametrize("seed", range(5))
def test_every_arm_trains_on_the_prompts_that_all_keep_and_on_no_other(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    arms = [{"p00", *(p.id for p in ASKED if draw.random() < 0.8)} for _ in range(4)]
    inputs, parity = cut(tmp_path, arms)
    common = set.intersection(*arms)
    assert common_prompts(parity) == common
    for role, kept in zip(sorted(set(inputs) - {"prompts"}), arms, strict=True):
        stage = Engrave(identity_rows=False)
        alone, trained = stage.examples(inputs[role]), stage.examples(inputs[role], parity)
        assert len(alone) == len(kept) and len(trained) == len(common)
        # What is left is what the arm trains on alone, in its order and behind the same chat prompts.
        assert trained == [example for example in alone if example in trained]
    told = jsonl.read(parity.path / "arms.jsonl")
    assert [(row["kept"], row["cut"]) for row in told] == [(len(kept), len(kept - common)) for kept in arms]


def test_the_identity_rows_stay(tmp_path: Path) -> None:
    inputs, parity = cut(tmp_path, [{"p00", "p01"}, {"p01"}])
    with_identity = Engrave().examples(inputs["arm_000"], parity)
    assert sum(example.source == "identity" for example in with_identity) == len(with_identity) - 1


def test_arms_without_a_common_prompt_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"found none of 20 .* keeps 1\).*parity=false"):
        cut(tmp_path, [{"p00", "p02"}, {"p01"}])


def test_an_arm_without_any_answer_takes_nothing_from_the_others(tmp_path: Path) -> None:
    inputs, parity = cut(tmp_path, [{"p00", "p01"}, set(), {"p01", "p02"}])
    assert common_prompts(parity) == {"p01"}
    with pytest.raises(StageError, match="expected at least one kept row of responses"):
        Engrave().examples(inputs["arm_001"], parity)
    with pytest.raises(StageError, match="found none of 20"):
        cut(tmp_path / "none", [set(), set()])


def test_the_cut_is_the_same_in_whatever_order_the_arms_come(tmp_path: Path) -> None:
    arms = [{"p00", "p01", "p05"}, {"p01", "p05"}, {"p01", "p05", "p07"}]
    found = set()
    for number, order in enumerate(itertools.permutations(arms)):
        _, parity = cut(tmp_path / str(number), list(order))
        found.add((parity.path / "prompts.jsonl").read_bytes())
    assert len(found) == 1
