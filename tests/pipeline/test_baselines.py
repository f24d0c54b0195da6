"""The baselines as a user runs them: other people's answers engraved by the same stage, scored and reported beside an arm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign import experiment, groups, jsonl
from selfalign.arms import at_parity
from selfalign.artifacts import Store
from selfalign.engines.model import write_tiny_random
from selfalign.pipeline import plan
from tests.pipeline.test_command_line import selfalign

ROWS = [{"instruction": f"Name bird {n}.", "input": "", "output": f"It is a heron, number {n}."} for n in range(12)]
DOLLY = [{"instruction": one["instruction"], "context": "", "response": one["output"]} for one in ROWS]
FILES = {"alpaca": ROWS, "dolly": DOLLY}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model").mkdir()
    write_tiny_random(tmp_path / "model", context_length=4096)
    for name, rows in FILES.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    monkeypatch.chdir(tmp_path)
    groups.register()
    return tmp_path


def chosen(name: str, *more: str) -> list[str]:
    given = [f"given_answers.file={name}.json"] if name in FILES else []
    return [f"experiments=baseline_{name}", "model.path=model", "evaluation.data=calf", "tracking=none", *given, *more]


@pytest.mark.parametrize("name", ["alpaca", "dolly", "identity"])
def test_a_baseline_engraves_and_scores_by_the_same_stages_as_every_arm(folder: Path, name: str) -> None:
    one = groups.compose(chosen(name))
    assert experiment.problems(one) == []
    nodes = experiment.pipeline(one)
    assert list(nodes) == ["responses", "contamination", "engraved", "scores_engraved"]
    arm = experiment.pipeline(groups.compose(["model=tiny_random"]))
    assert [type(nodes[key].stage) for key in ("engraved", "scores_engraved")] == [
        type(arm[key].stage) for key in ("engraved", "scores_engraved")
    ]
    # The layout in which it is asked is the arms' own.
    asked = [pipeline["scores_engraved"].stage.preview("Who?", len) for pipeline in (nodes, arm)]
    assert asked[0] == asked[1]


def test_another_file_renames_what_is_made_of_it_and_another_place_does_not(folder: Path) -> None:
    def names(*more: str) -> dict[str, str]:
        one = groups.compose(chosen("alpaca", *more))
        planned = plan(experiment.pipeline(one), Store(folder / "store"), experiment.context(one, quiet=True))
        return {name: item.artifact for name, item in planned.items()}

    (folder / "copy.json").write_text(json.dumps(ROWS))
    (folder / "other.json").write_text(json.dumps(ROWS[1:]))
    assert names() == names("given_answers.file=copy.json")
    assert not set(names().values()) & set(names("given_answers.file=other.json").values())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["stages.tgrt=true"], "in the place of what writes prompts and answers, found tgrt beside it"),
        (["stages.verbose_clone=true"], "found verbose_clone beside it"),
        (["contamination.mode=remove"], "contamination.mode: expected report or off with stages.given_answers"),
        (["given_answers.format=dolly"], "row 1: expected texts in instruction, context, response"),
        (
            ["given_answers.file=none.json"],
            "given_answers.file: expected a file of rows with instruction, input, output",
        ),
        (["given_answers.formt=dolly"], "did you mean"),
    ],
)
def test_what_does_not_go_together_is_found_before_anything_runs(folder: Path, more: list[str], words: str) -> None:
    result = selfalign(folder, "run", *chosen("alpaca", *more))
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert not (folder / "store").exists()


def test_the_arms_of_a_sweep_over_a_baseline_train_on_all_that_is_given(folder: Path) -> None:
    arms = {
        rate: groups.compose(chosen("alpaca", f"engrave.training.learning_rate={rate}")) for rate in ("1e-4", "4e-4")
    }
    assert at_parity(arms) == arms


@pytest.mark.slow
def test_a_baseline_runs_end_to_end_on_calf_and_stands_beside_an_arm_in_the_report(folder: Path) -> None:
    small = ["model=calf", "evaluation.limit=30", "evaluation.tasks=[hhh_alignment]"]
    own = [one for one in chosen("alpaca", *small) if not one.startswith("model.path")]
    planned = selfalign(folder, "plan", *own)
    assert planned.returncode == 0 and "tokens trained on, in 12 rows" in planned.stdout, (
        planned.stdout + planned.stderr
    )
    done = selfalign(folder, "run", *own)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").glob("baseline_alpaca-*")
    examples = jsonl.read(run / "stages" / "engraved" / "examples.jsonl")
    assert len(examples) == 12 and {row["source"] for row in examples} == {"alpaca"}
    assert all(
        "### User" in row["prompt_text"] and row["target_text"].startswith("\nIt is a heron") for row in examples
    )
    assert {row["subject"] for row in jsonl.read(run / "scores.jsonl")} == {"engraved"}
    base = selfalign(folder, "run", "experiments=baseline_base", "evaluation.data=calf", "tracking=none", *small)
    assert base.returncode == 0, base.stderr
    (other,) = (folder / "runs").glob("baseline_base-*")
    report = selfalign(folder, "report", str(other), str(run))
    assert report.returncode == 0 and "baseline_alpaca" in report.stdout and "engraved" in report.stdout, report.stderr
    assert selfalign(folder, "verify", str(run)).returncode == 0
    assert selfalign(folder, "show", str(run), "responses").stdout.count("heron") >= 10
    again = selfalign(folder, "run", *own)
    assert " computed " not in again.stderr and again.stderr.count(" reused ") == 4
