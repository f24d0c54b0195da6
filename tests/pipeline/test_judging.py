"""`selfalign judge` as a user runs it: a run's answers, a judge by a script, its card in W&B, the report and the manifest."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from selfalign import cli, groups, jsonl, resources
from selfalign.runner import execute
from selfalign.tracking import sync
from tests.wandb_log import history, logged, summary

QUESTIONS = resources.PACKAGE / "calf" / "data" / "calf_questions" / "question.jsonl"
ASKED = 12


def write_answers(path: Path) -> Path:
    """Answers of somebody else to the first questions, and one that nobody asked."""
    rows = [{"question_id": row["question_id"], "text": "Two words."} for row in jsonl.read(QUESTIONS)[:ASKED]]
    jsonl.write(path, [*rows, {"question_id": 9999, "text": "To nothing."}])
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder in which the answers of one model were recorded, and the run's folder."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SELFALIGN_HOME", str(folder / "home"))
        groups.register()
        chosen = ["stages=prompted_only", "subjects=[base]", "evaluation.tasks=[vicuna_questions]", "name=asked"]
        experiment = groups.compose([*chosen, "model=tiny_random", "engine=scripted"])
        assert execute(experiment, quiet=True) == 0
    return folder, next((folder / "runs").glob("*"))


@pytest.fixture
def judge(done: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command on that run, with a judge whose reviews are a script."""
    folder, run = done
    monkeypatch.chdir(folder)
    write_answers(folder / "others.jsonl")

    def call(script: list[dict[str, str]], *more: str) -> int:
        name = f"judge{len(list(folder.glob('judge*.jsonl')))}.jsonl"
        jsonl.write(folder / name, script)
        arguments = ["judge", run.name, "--against", "others.jsonl", "--max-new-tokens", "9"]
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, *more, "engine=scripted", f"engine.script={name}", "model=tiny_random"])
        return int(ended.value.code or 0)

    return call


def short_wins() -> list[dict[str, str]]:
    """A judge that likes the answer `Two words.` wherever it stands."""
    return [
        {"prompt_contains": "[Assistant 1]\nTwo words.", "text": "9 4\nShort."},
        {"text": "4 9\nShort."},
    ]


def test_the_card_and_every_review_reach_wandb_once_in_the_group_of_the_run(done, judge, capsys, monkeypatch, tmp_path):
    folder, run = done
    assert judge(short_wins()) == 0
    told = capsys.readouterr()
    assert f"{ASKED} questions answered by both sides" in told.err and "Won 0.000 ± 0.000 [0.000, 0.2" in told.out
    manifest = json.loads((run / "manifest.json").read_text())
    node = manifest["nodes"]["judged_base_others"]
    assert node["counts"] == {"in": 2 * ASKED, "kept": 2 * ASKED, "dropped": {}} and node["metrics"]["losses"] == ASKED
    found = logged(run, node["artifact"])
    first = logged(run, run.name)["run"][0]
    assert (found["run"][0].run_group, found["run"][0].job_type) == (first.run_group, "judge")
    values = summary(found)
    assert (values["judge/losses"], values["judge/wins"], values["judge/flip_rate"]) == (ASKED, 0, 0.0)
    assert values["judge/low"] == 0.0 < values["judge/high"] < 0.3 and "judge/invalid" not in values
    tables = {key.removesuffix("._type") for row in history(found) for key in row if key.endswith("._type")}
    assert tables == {"judge/card", "judge/reviews"} and values["tables/judge/reviews/rows"] == 2 * ASKED
    (table,) = run.glob(f"wandb/offline-run-*{node['artifact']}/files/media/table/judge/reviews*.json")
    content = json.loads(table.read_text())
    row = dict(zip(content["columns"], content["data"][1], strict=True))
    assert (row["theirs"], row["shown_first"], row["winner"]) == ("Two words.", "theirs", "theirs")
    stored, line = row["link"].rsplit(":", 1)
    assert jsonl.read(folder / "store" / stored)[int(line) - 1]["text"] == row["review"]
    assert "judged_base_others of" in (run / "report.html").read_text()
    # The same command finds everything in the store and logs nothing anew; both runs are pushed once.
    before = sorted(run.glob("wandb/offline-run-*"))
    assert judge(short_wins()) == 0 and sorted(run.glob("wandb/offline-run-*")) == before and len(before) == 2
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("selfalign.tracking.offline._reach", lambda url, timeout_s: None)
    fake = tmp_path / "fake.py"
    fake.write_text(
        "import pathlib, sys\n[p.with_suffix('.wandb.synced').touch() for p in pathlib.Path(sys.argv[1]).glob('*.wandb')]"
    )
    pushed = [[one.is_new for one in sync([run], command=[sys.executable, str(fake)])] for _ in range(2)]
    assert pushed == [[True, True], [False, False]]


def test_a_judge_that_goes_by_position_leaves_no_number_anywhere(done, judge, capsys):
    _, run = done
    by_place = [one | {"text": one["text"].replace("4 9", "9 5")} for one in short_wins()]
    assert judge(by_place, "tracking.tables_max_rows=3") == 0
    assert "Invalid: the winner changes with the order" in capsys.readouterr().out
    node = json.loads((run / "manifest.json").read_text())["nodes"]["judged_base_others"]
    assert {node["metrics"][name] for name in ("wins", "ties", "losses", "win_rate")} == {None}
    values = summary(logged(run, node["artifact"]))
    assert not {"judge/wins", "judge/win_rate", "judge/relative"} & set(values)
    assert values["judge/flip_rate"] == 1.0 and "order of the answers" in values["judge/invalid"]
    assert values["tables/judge/reviews/shown"] == 3


def test_tracking_can_be_left_out_and_wrong_settings_of_it_are_found_before_the_judge_is_asked(done, judge, capsys):
    _, run = done
    before = len(list(run.glob("wandb/offline-run-*")))
    assert judge([{"text": "5 6\nHm."}], "tracking=none") == 0
    assert len(list(run.glob("wandb/offline-run-*"))) == before
    assert judge([{"text": "6 7\nHm."}], "--against", "none.jsonl") == 1
    assert "expected a file of answers or RUN:SUBJECT, found no file 'none.jsonl'" in capsys.readouterr().err
    assert judge([{"text": "6 7\nHm."}], "tracking.project=a/b") == 2
    assert "tracking: project: expected a name without any of" in capsys.readouterr().err
