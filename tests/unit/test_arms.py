"""Laws of the arms of a sweep: who is at parity with whom, what is named alike, and what a job takes for itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import arms, experiment, groups
from selfalign.artifacts import Store
from selfalign.experiment import Experiment
from selfalign.pipeline import plan

BASE = ["model=tiny_random", "engine=scripted", "tracking=none", "evaluation=none",
        "engrave.training.max_seq_length=512", "verbose_engrave.training.max_seq_length=512"]  # fmt: skip


def sweep(tmp_path: Path, *more: str) -> dict[str, Experiment]:
    groups.register()
    script = tmp_path / "script.jsonl"
    script.write_text('{"contains": "", "text": "x"}\n')
    jobs, _ = groups.jobs([*BASE, f"engine.script={script}", f"store={tmp_path}/store", *more], multirun=True)
    made = [groups.compose(job) for job in jobs]
    return arms.at_parity(dict(zip(arms.labels(jobs), made, strict=True)))


def planned(one: Experiment) -> dict[str, str]:
    found = plan(experiment.pipeline(one), Store(Path(one.store)), experiment.context(one, quiet=True))
    return {name: item.artifact for name, item in found.items()}


def test_arms_that_answer_the_same_prompts_are_at_parity_and_share_every_cut(tmp_path: Path) -> None:
    found = sweep(tmp_path, "principles.drop=[],[candor],[helpful]", "stages=no_cloning")
    names = [planned(one) for one in found.values()]
    assert [sorted(one.arms) for one in found.values()] == [sorted(set(found) - {label}) for label in found]
    assert len({one["parity"] for one in names}) == 1 and len({one["engraved"] for one in names}) == 3
    # What one arm calls another's answers is what that one calls its own.
    for label, one in zip(found, names, strict=True):
        for other, of_other in zip(found, names, strict=True):
            if other != label:
                assert one[f"responses ({other})"] == of_other["responses"]


def test_long_answers_are_cut_too_and_every_arm_names_them_alike(tmp_path: Path) -> None:
    found = sweep(tmp_path, "principles.drop=[],[candor]")
    first, second = map(planned, found.values())
    assert first["verbose_parity"] == second["verbose_parity"] != first["parity"] == second["parity"]
    other = next(iter(found.values())).arms
    assert first[f"verbose_responses ({next(iter(other))})"] == second["verbose_responses"]


def test_arms_with_prompts_of_their_own_form_groups_of_their_own(tmp_path: Path) -> None:
    found = sweep(tmp_path, "seed=0,1", "principles.drop=[],[candor]", "stages=no_cloning")
    for label, one in found.items():
        (other,) = one.arms.values()
        assert other.seed == one.seed and other.principles.drop != one.principles.drop, label


@pytest.mark.parametrize(
    "axes",
    [
        ("seed=0,1",),
        ("principles.drop=[],[candor]", "parity=false"),
        ("subjects=[base],[engraved]", "stages=no_cloning"),
        ("principles.drop=[],[candor]", "stages=no_cloning", "stages.engrave=false"),
    ],
)
def test_nothing_is_cut_where_nothing_can_differ_or_it_is_switched_off(axes: tuple[str, ...], tmp_path: Path) -> None:
    for one in sweep(tmp_path, *axes).values():
        assert not one.arms
        assert not [name for name in planned(one) if "parity" in name]


def test_what_is_only_scored_otherwise_is_trained_once(tmp_path: Path) -> None:
    found = sweep(tmp_path, "principles.drop=[],[candor]", "subjects=[base],[engraved]", "stages=no_cloning")
    engraved = [planned(one)["engraved"] for one in found.values()]
    assert len(found) == 4 and len(set(engraved)) == 2


def test_arms_that_differ_in_training_share_their_answers_and_are_cut_where_they_write_long_ones(
    tmp_path: Path,
) -> None:
    found = sweep(tmp_path, "engrave.training.epochs=1,2")
    for one in map(planned, found.values()):
        assert "parity" not in one and "verbose_parity" in one


def test_a_run_at_parity_has_a_folder_of_its_own_whatever_the_labels_are(tmp_path: Path) -> None:
    one, _ = sweep(tmp_path, "principles.drop=[],[candor]", "stages=no_cloning").values()
    other = replace(one, arms={f"renamed {label}": arm for label, arm in one.arms.items()})
    assert experiment.run_id(one) == experiment.run_id(other) != experiment.run_id(replace(one, arms={}))


def test_arms_are_refused_as_a_setting() -> None:
    groups.register()
    one = groups.compose([*BASE[:1], "tracking=none", "evaluation=none"])
    assert any("arms: expected nothing" in problem for problem in experiment.problems(replace(one, arms={"x": 1})))


@pytest.mark.parametrize(
    ("jobs", "labels"),
    [
        ([["a=1", "b=2"], ["a=2", "b=2"]], ["a=1", "a=2"]),
        ([["a=1"], ["a=1"], ["a=1"]], ["as it is", "as it is #2", "as it is #3"]),
        ([["a=1", "x=0"], ["a=1", "x=1"], ["a=1", "x=1"]], ["x=0", "x=1", "x=1 #3"]),
        ([], []),
    ],
)
def test_a_job_is_named_by_what_it_has_of_its_own(jobs: list[list[str]], labels: list[str]) -> None:
    assert arms.labels(jobs) == labels
