"""Laws of a sweep's life: what a job does to its process stops no other, and what became of each can be read from its folder."""

from __future__ import annotations

import json
import pickle
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import drive as driving
from selfalign import groups, sweep
from selfalign.budget import tokens_of
from selfalign.commands import sweeps as commands
from selfalign.errors import ConfigError, SelfAlignError
from selfalign.experiment import Experiment
from selfalign.pipeline import Memo
from selfalign.runner import resolve_runs
from selfalign.sweep import Job, State
from tests.factories import script_rows
from tests.traps import Trap

ROOT = Path(__file__).parents[2]
RULES = ["candor", "helpful", "static", "ethical"]
ANSWERS_ONLY = [
    "model=tiny_random", "engine=scripted", "engine.script=script.jsonl", "tracking=none", "merge.file=prompts.jsonl", "name=arms",
    *(f"stages.{name}=false" for name in ("self_instruct", "tgrt", "engrave", "verbose_clone", "evaluate")),
]  # fmt: skip


WRITING = (
    "stages.self_instruct=true",
    "self_instruct.requests_per_round=4",
    "self_instruct.max_rounds=2",
    "sweep_budget.tokens=1",
)
"""Jobs that have a first stage in common, which alone spends more than all may."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prompts, a script, and a principle of one's own; a job's process finds the tests."""
    (tmp_path / "prompts.jsonl").write_text('{"instruction": "Name a bird."}\n')
    (tmp_path / "script.jsonl").write_text("".join(json.dumps(row) + "\n" for row in script_rows()))
    (tmp_path / "principles").mkdir()
    (tmp_path / "principles" / "candor.yaml").write_text((ROOT / "principles" / "candor.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def overrides(*more: str) -> list[list[str]]:
    groups.register()
    swept = "principles.drop=" + ",".join(["[]", *(f"[{name}]" for name in RULES)])
    return groups.jobs([*ANSWERS_ONLY, swept, *more], multirun=True)[0]


def members(acts: dict[int, str] | None = None, more: tuple[str, ...] = ()) -> list[Job]:
    """Five jobs, some of which act; each says in the file `opened` that its engine was opened."""
    memo, jobs = Memo(), overrides(*more)

    def armed(number: int, one: Experiment) -> Experiment:
        act = (acts or {}).get(number, "")
        return replace(one, engine=Trap(script=one.engine.script, log="opened", act=act))

    made = [armed(number, one) for number, one in enumerate(groups.checked(jobs, memo=memo))]
    return sweep.jobs(jobs, made, memo)


def drive(jobs: list[Job], chosen: list[Job] | None = None, on_failure: str = "continue") -> Path:
    folder = sweep.begin(jobs, ["-m"])
    attempt = driving.drive(folder, jobs, jobs if chosen is None else chosen, on_failure)
    for number in range(len(attempt.chosen)):
        attempt.attempt(number)
    attempt.finish()
    return folder


def opened() -> int:
    return len(Path("opened").read_text().splitlines()) if Path("opened").exists() else 0


def states(jobs: list[Job]) -> list[str]:
    return [sweep.standing(job).state.value for job in jobs]


def photograph(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Time and bytes of everything in a run folder."""
    return {
        path: (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() and not path.is_symlink() else b"")
        for path in [folder, *sorted(folder.rglob("*"))]
    }


def test_a_job_that_exits_raises_or_dies_by_a_signal_stops_no_other_and_says_why(
    capfd: pytest.CaptureFixture[str],
) -> None:
    jobs = members({0: "exit", 1: "SIGSEGV", 2: "raise", 3: "leave"})
    folder = drive(jobs)
    assert states(jobs) == ["failed", "failed", "failed", "failed", "done"]
    why = [sweep.standing(job).why for job in jobs]
    assert why[:4] == [
        "SystemExit: 0",
        "its process ended by signal 11 (SIGSEGV) before the run did",
        "RuntimeError: the floor gives way",
        "its process ended by exit code 0 before the run did",
    ]
    texts = [(job.folder / "error.txt").read_text() for job in jobs[:4]]
    assert all("traps.py" in text and why in text for why, text in zip(why, texts[:3], strict=False))
    assert "Fatal Python error: Segmentation fault" in texts[1]
    written = json.loads((folder / "sweep.json").read_text())["jobs"]
    assert [(entry["state"], entry["why"]) for entry in written] == [
        (s, w) for s, w in zip(states(jobs), why, strict=True)
    ]
    assert not list(Path("runs").glob(f"*/{driving.FAULT}"))
    assert sweep.tell(folder, jobs) == 1 and f"selfalign sweep retry {folder}" in capfd.readouterr().err
    assert resolve_runs(str(folder)) == [jobs[4].folder]


@pytest.mark.parametrize(("on_failure", "begun"), [("stop", 2), pytest.param("max:2", 3, marks=pytest.mark.slow)])
def test_no_job_is_begun_once_enough_have_failed(on_failure: str, begun: int) -> None:
    jobs = members({1: "leave", 2: "leave"})
    drive(jobs, on_failure=on_failure)
    assert opened() == begun and states(jobs)[begun:] == ["pending"] * (5 - begun)


def test_only_what_is_not_done_runs_again_and_what_is_done_stays_as_it_is() -> None:
    jobs = members({1: "SIGKILL"})
    drive(jobs, jobs[:3])
    assert states(jobs) == ["done", "failed", "done", "pending", "pending"]
    before = [photograph(jobs[number].folder) for number in (0, 2)]
    assert opened() == 3
    drive(jobs)
    assert states(jobs) == ["done", "failed", "done", "done", "done"] and opened() == 6
    assert [photograph(jobs[number].folder) for number in (0, 2)] == before


def test_a_sweep_that_has_spent_its_budget_begins_no_further_job_and_says_so_once_for_each(
    capfd: pytest.CaptureFixture[str],
) -> None:
    jobs = members(more=("sweep_budget.tokens=1",))
    folder = drive(jobs)
    assert states(jobs) == ["done"] + ["pending"] * 4 and opened() == 1
    assert sweep.tell(folder, jobs) == 1
    told = capfd.readouterr().err
    assert told.count("not begun, for the sweep has spent its budget") == 4
    tokens = sum(sum(tokens_of(Path("store") / name)) for name in jobs[0].artifacts.values())
    assert f", {tokens:,} of 1 tokens" in told
    assert f"sweep_budget.tokens: expected at most 1 to be spent on this sweep, found {tokens}" in told
    assert f"go on with: selfalign sweep resume {folder} sweep_budget.tokens=..." in told
    content = json.loads((folder / "sweep.json").read_text())
    assert content["sweep_budget"] == {"hours": 0.0, "tokens": 1, "money": 0.0} and content["spent"]["tokens"] == tokens
    assert content["stopped"].startswith("sweep_budget.tokens: expected at most 1")


def test_a_job_at_work_is_stopped_when_its_sweep_has_spent_its_budget_and_has_not_failed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    jobs = members(more=WRITING)
    folder = drive(jobs)
    assert states(jobs) == ["pending"] * 5 and sweep.standing(jobs[0]).why == "interrupted"
    told = capfd.readouterr().err
    assert f"{jobs[0].id}: stopped, for the sweep has spent its budget" in told and told.count("not begun") == 4
    manifest = json.loads((jobs[0].folder / "manifest.json").read_text())
    assert {name: node["status"] for name, node in manifest["nodes"].items()} == {"instructions": "computed"}
    assert not (jobs[0].folder / "error.txt").exists() and "Traceback" not in told
    assert json.loads((folder / "sweep.json").read_text())["stopped"]


@pytest.mark.slow
def test_a_larger_budget_goes_on_with_what_is_left_and_what_jobs_share_is_paid_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    memo, jobs = Memo(), overrides(*WRITING)[:3]
    found = sweep.jobs(jobs, groups.checked(jobs, memo=memo), memo)
    folder = drive(found)
    assert commands.sweep(["resume", str(folder)]) == 1 and states(found) == ["pending"] * 3
    assert commands.sweep(["status", str(folder)]) == 0
    assert "sweep_budget.tokens: expected at most 1 " in capsys.readouterr().out
    assert commands.sweep(["resume", str(folder), "sweep_budget.tokens=1000000"]) == 0
    capsys.readouterr()
    assert commands.sweep(["status", str(folder)]) == 0
    told = capsys.readouterr().out
    names = {name for job in found for name in job.artifacts.values()}
    tokens = sum(sum(tokens_of(Path("store") / name)) for name in names)
    assert "3 done" in told and "of 1,000,000 tokens" in told and "expected" not in told
    content = json.loads((folder / "sweep.json").read_text())
    assert content["spent"]["tokens"] == tokens and content["stopped"] == ""
    assert content["sweep_budget"]["tokens"] == 1_000_000
    before = [photograph(job.folder) for job in found]
    assert commands.sweep(["resume", str(folder), "sweep_budget.tokens=1"]) == 0
    assert [photograph(job.folder) for job in found] == before


def test_a_driver_that_a_launcher_sends_elsewhere_stops_at_the_budget_too() -> None:
    jobs = members(more=("sweep_budget.tokens=1",))
    folder = sweep.begin(jobs, [])
    sent = pickle.loads(pickle.dumps(driving.drive(folder, jobs, jobs, "continue")))
    for number in (0, 1):
        sent.attempt(number)
    assert states(jobs) == ["done"] + ["pending"] * 4 and opened() == 1


@pytest.mark.slow
def test_two_drivers_spend_one_budget() -> None:
    jobs = members(more=("sweep_budget.tokens=1",))
    both = [threading.Thread(target=drive, args=(jobs,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    # Each may have begun one before the other's was paid; one that still had a stage to go is stopped before it.
    assert 1 <= opened() <= 2 and set(states(jobs)) <= {"done", "pending"} and states(jobs)[2:] == ["pending"] * 3


def test_a_budget_that_is_none_or_that_jobs_do_not_share_is_refused() -> None:
    memo, jobs = Memo(), overrides("sweep_budget.hours=1,2")
    with pytest.raises(ConfigError, match="sweep_budget: expected one that all jobs have alike, found 2"):
        sweep.jobs(jobs, groups.checked(jobs, memo=memo), memo)
    jobs = overrides()[:2]
    folder = sweep.begin(sweep.jobs(jobs, groups.checked(jobs, memo=memo), memo), [])
    for told in ("sweep_budget.hours=-1", "sweep_budget.money=5", "sweep_budget.huors=1"):
        with pytest.raises(ConfigError, match=r"sweep_budget\."):
            commands.sweep(["resume", str(folder), told])
    assert json.loads((folder / "sweep.json").read_text())["sweep_budget"]["hours"] == 0.0


def test_a_job_that_was_killed_with_its_driver_is_pending() -> None:
    jobs = members()
    drive(jobs, jobs[:1])
    manifest = jobs[0].folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"status": "running"}))
    assert sweep.standing(jobs[0]) == sweep.Standing(State.pending, "interrupted")


@pytest.mark.slow
def test_two_drivers_at_once_run_each_job_once() -> None:
    jobs = members()
    both = [threading.Thread(target=drive, args=(jobs,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert opened() == 5 and states(jobs) == ["done"] * 5


def test_a_job_whose_process_outlived_its_driver_is_running_and_is_not_run_twice() -> None:
    jobs = members()
    folder = sweep.begin(jobs, [])
    with sweep.job_lock(jobs[0], "work"):
        assert sweep.standing(jobs[0]).state is State.running
        late = threading.Thread(target=driving.drive(folder, jobs, jobs[:1], "continue").attempt, args=(0,))
        late.start()
        late.join(0.5)
        assert late.is_alive() and opened() == 0
    late.join()
    assert opened() == 1 and states(jobs)[0] == "done"


def test_a_finished_job_that_another_driver_looks_at_is_done() -> None:
    jobs = members()
    drive(jobs, jobs[:1])
    with sweep.job_lock(jobs[0], "job"), sweep.job_lock(jobs[1], "job"):
        assert states(jobs)[:2] == ["done", "running"]


def test_jobs_with_equal_settings_are_one() -> None:
    memo, jobs = Memo(), [*overrides()[:2], *overrides()[:2]]
    assert len(sweep.jobs(jobs, groups.checked(jobs, memo=memo), memo)) == 2


@pytest.mark.slow
def test_a_changed_file_makes_finished_jobs_stale_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    memo, jobs = Memo(), overrides()[:3]
    found = sweep.jobs(jobs, groups.checked(jobs, memo=memo), memo)
    folder = drive(found)
    assert commands.sweep(["status", str(folder)]) == 0 and "3 done" in capsys.readouterr().out
    path = Path("principles/candor.yaml")
    path.write_text(path.read_text().replace("text: ", "text: Now, "))
    assert commands.sweep(["status", str(folder)]) == 1
    told = capsys.readouterr().out
    # The arm that leaves it out has no line of it, and stays what it was.
    assert "2 stale" in told and "1 done" in told and "principles/candor.yaml" in told and "responses would be" in told
    with pytest.raises(ConfigError, match="the sweep would mix two of them"):
        commands.sweep(["resume", str(folder)])
    assert commands.sweep(["retry", str(folder)]) == 0
    capsys.readouterr()
    assert commands.sweep(["status", str(folder)]) == 0 and "3 done" in capsys.readouterr().out


@pytest.mark.slow
def test_a_setting_that_changed_below_a_sweep_is_refused() -> None:
    Path("experiments").mkdir()
    Path("experiments/mine.yaml").write_text("seed: 3\n")
    memo, jobs = Memo(), overrides("experiments=mine")[:2]
    folder = drive(sweep.jobs(jobs, groups.checked(jobs, memo=memo), memo))
    Path("experiments/mine.yaml").write_text("seed: 4\n")
    assert commands.sweep(["status", str(folder)]) == 1
    with pytest.raises(ConfigError, match=r"files that changed: experiments/mine\.yaml"):
        commands.sweep(["retry", str(folder)])
    Path("experiments/mine.yaml").write_text("seed: 3\n")
    assert commands.sweep(["resume", str(folder)]) == 0


def test_a_folder_that_is_no_sweep_and_a_setting_of_the_jobs_are_refused() -> None:
    with pytest.raises(SelfAlignError, match="expected the folder of a sweep"):
        commands.sweep(["status", "runs/none"])
    with pytest.raises(ConfigError, match="found one of the jobs'"):
        commands.sweep(["resume", "runs/none", "seed=3"])
