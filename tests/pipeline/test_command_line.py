"""The whole program as a user runs it: scripted completions, real training on a random model, real files."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from selfalign import cli, jsonl
from tests.factories import REMARK, script_rows

SMALL = [
    "model=tiny_random", "engine=scripted", "engine.script=script.jsonl", "evaluation.limit=12",
    "self_instruct.requests_per_round=4", "self_instruct.max_rounds=2",
    "engrave.training.global_batch_size=8", "verbose_engrave.training.global_batch_size=8",
    "engrave.training.max_seq_length=1500", "verbose_engrave.training.max_seq_length=1500",
]  # fmt: skip


def selfalign(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a folder of its own, with a home of its own."""
    env = {**os.environ, "SELFALIGN_HOME": str(folder / "home"), **environment}
    command = [sys.executable, "-m", "selfalign", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder in which one run of all stages is done, and that run's folder."""
    folder = tmp_path_factory.mktemp("work")
    jsonl.write(folder / "script.jsonl", script_rows())
    result = selfalign(folder, "run", *SMALL)
    assert result.returncode == 0, result.stderr
    return folder, next((folder / "runs").glob("*"))


def test_a_run_folder_can_be_read_by_a_person(done: tuple[Path, Path]) -> None:
    _, run = done
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "manifest.json", "scores.jsonl", "report.html", "stages", "wandb"} <= names
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "done" and {node["status"] for node in manifest["nodes"].values()} == {"computed"}
    assert len(manifest["nodes"]) == 13
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 0
    assert (run / "stages" / "responses" / "responses.jsonl").is_file()
    assert (run / "stages" / "cloned" / "adapter" / "adapter_model.safetensors").is_file()
    subjects = {row["subject"] for row in jsonl.read(run / "scores.jsonl")}
    assert subjects == {"base", "prompted", "engraved", "cloned"}


def test_a_number_can_be_walked_back_to_its_prompt(done: tuple[Path, Path]) -> None:
    _, run = done
    examples = jsonl.read(run / "stages" / "engraved" / "examples.jsonl")
    responses = {row["id"]: row for row in jsonl.read(run / "stages" / "responses" / "responses.jsonl")}
    prompts = {row["id"]: row for row in jsonl.read(run / "stages" / "prompts" / "prompts.jsonl")}
    raw = {row["id"] for row in jsonl.read(run / "stages" / "responses" / "completions.jsonl")}
    followed = [row for row in examples if row["source"] != "identity"]
    assert followed
    for row in followed:
        response = responses[row["response_id"]]
        assert response["kept"] and prompts[response["prompt_id"]]["kept"] and response["prompt_id"] in raw


def test_a_second_run_reuses_every_stage(done: tuple[Path, Path]) -> None:
    folder, run = done
    before = {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*.jsonl")}
    again = selfalign(folder, "run", *SMALL)
    assert again.returncode == 0, again.stderr
    manifest = json.loads((run / "manifest.json").read_text())
    assert {node["status"] for node in manifest["nodes"].values()} == {"reused"}
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*.jsonl")}


def test_plan_why_show_report_and_prompt_look_without_computing(done: tuple[Path, Path]) -> None:
    folder, run = done
    plan = selfalign(folder, "plan", *SMALL, "principles.drop=[helpful]")
    assert (
        plan.returncode == 0
        and "responses          compute" in plan.stdout
        and "prompts            reuse" in plan.stdout
    )
    shown = selfalign(folder, "show", run.name, "instructions", "--dropped", "too_similar")
    assert shown.returncode == 0 and "reason: too_similar" in shown.stdout
    assert "funnel" not in shown.stderr and selfalign(folder, "show", run.name).stdout.count("kept") >= 11
    why = selfalign(folder, "why", run.name, "responses")
    assert why.returncode == 0 and "responses: " in why.stdout
    report = selfalign(folder, "report", run.name, "--out", "page.html")
    assert report.returncode == 0 and (folder / "page.html").stat().st_size > 10_000
    prompt = selfalign(folder, "prompt", *SMALL, "principles.drop=[helpful]", "--diff")
    assert prompt.returncode == 0 and "-3 (helpful)." in prompt.stdout and "tokens" in prompt.stderr
    assert "no exemplar shows: ethical" in prompt.stderr
    other = selfalign(
        folder, "prompt", *SMALL, "principles.drop=[helpful]", "--against", "principles.order=['...',candor]"
    )
    assert "-16 (candor)." in other.stdout and "+6 (candor)." in other.stdout and "-3 (helpful)." in other.stdout
    assert Path(selfalign(folder, "tasks").stdout.strip()).is_dir()
    actual = selfalign(folder, "plan", "--actual", run.name)
    responses = next(line for line in actual.stdout.splitlines() if line.startswith("responses "))
    counts = json.loads((run / "manifest.json").read_text())["nodes"]["responses"]["counts"]
    completions = jsonl.read(run / "stages" / "responses" / "completions.jsonl")
    assert f" / {counts['kept']} " in responses
    assert f" / {sum(row['prompt_tokens'] for row in completions):,} " in responses


def test_a_run_that_has_spent_its_budget_stops_says_so_and_goes_on_with_a_larger_one(tmp_path: Path) -> None:
    jsonl.write(tmp_path / "script.jsonl", script_rows())
    short = [*SMALL, "tracking=none", "stages=no_cloning", "evaluation=none"]
    stopped = selfalign(tmp_path, "run", *short, "budget.tokens=10")
    assert stopped.returncode == 1 and "budget.tokens: expected at most 10 to be spent on this run" in stopped.stderr
    (run,) = (tmp_path / "runs").iterdir()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "failed" and list(manifest["nodes"]) == ["instructions"]
    assert "budget.tokens" in (run / "error.txt").read_text()
    assert selfalign(tmp_path, "run", *short).returncode == 0
    nodes = json.loads((run / "manifest.json").read_text())["nodes"]
    assert nodes["instructions"]["status"] == "reused" and nodes["engraved"]["status"] == "computed"
    assert not (run / "error.txt").exists()


def test_verify_finds_a_number_that_its_items_do_not_give(done: tuple[Path, Path]) -> None:
    folder, run = done
    clean = selfalign(folder, "verify", run.name)
    assert clean.returncode == 0 and ", 0 wrong" in clean.stdout, clean.stdout
    scores = (run / "scores.jsonl").read_text()
    rows = jsonl.read(run / "scores.jsonl")
    rows[0]["value"] = 0.987
    jsonl.write(run / "scores.jsonl", rows)
    tampered = selfalign(folder, "verify", run.name)
    (run / "scores.jsonl").write_text(scores)
    assert tampered.returncode == 1 and "scores.jsonl says value 0.987 instead of" in tampered.stdout
    page = (run / "report.html").read_text()
    cell = re.search(r"([0-9]\.[0-9]{3})<span class=\"err\">", page)
    assert cell is not None
    (run / "report.html").write_text(page[: cell.start(1)] + "9.999" + page[cell.end(1) :])
    planted = selfalign(folder, "verify", run.name)
    (run / "report.html").write_text(page)
    assert planted.returncode == 1 and "it says '9.999" in planted.stdout, planted.stdout
    examples = run / "stages" / "engraved" / "examples.jsonl"
    text = examples.read_text()
    examples.write_text(text.replace("Lisbon", "London", 1))
    damaged = selfalign(folder, "verify", run.name)
    examples.write_text(text)
    assert damaged.returncode == 1 and "examples.jsonl does not match its checksum" in damaged.stdout


def test_why_names_what_differs(done: tuple[Path, Path]) -> None:
    folder, _ = done
    arm = [*SMALL, "stages=no_cloning", "stages.engrave=false", "subjects=[base]", "principles.drop=[helpful]"]
    assert selfalign(folder, "run", *arm, "name=arm").returncode == 0
    run = next((folder / "runs").glob("arm-*"))
    why = selfalign(folder, "why", run.name, "responses")
    assert "identity.content.stem" in why.stdout and "nearest other result: SelfAlign-" in why.stdout


def test_with_self_critique_the_revisions_are_engraved_and_can_be_walked_back(done: tuple[Path, Path]) -> None:
    folder, _ = done
    arm = [*SMALL, "stages=self_critique", "stages.verbose_clone=false", "stages.evaluate=false", "name=critiqued"]
    result = selfalign(folder, "run", *arm)
    assert result.returncode == 0, result.stderr
    run = next((folder / "runs").glob("critiqued-*"))
    nodes = json.loads((run / "manifest.json").read_text())["nodes"]
    status = {name: node["status"] for name, node in nodes.items()}
    assert status == {
        "instructions": "reused", "red_team": "reused", "prompts": "reused", "contamination": "reused",
        "responses": "reused", "critiqued": "computed", "engraved": "computed",
        "engraving_gap": "computed",
    }  # fmt: skip
    first = {row["id"]: row for row in jsonl.read(run / "stages" / "responses" / "responses.jsonl")}
    critiques = {row["id"]: row for row in jsonl.read(run / "stages" / "critiqued" / "critiques.jsonl")}
    examples = jsonl.read(run / "stages" / "engraved" / "examples.jsonl")
    followed = [row for row in examples if row["source"] != "identity"]
    assert followed
    for row in followed:
        critique = critiques[row["response_id"]]
        assert first[critique["response_id"]]["text"] == critique["original"] != critique["text"]
        assert critique["critique"] == REMARK and critique["text"] in row["target_text"]
    assert "First answer:" in (run / "report.html").read_text() and REMARK in (run / "report.html").read_text()
    shown = selfalign(folder, "show", run.name, "critiqued")
    assert shown.returncode == 0 and f"critique: {REMARK}" in shown.stdout


def test_a_sweep_runs_every_arm_and_compares_them(done: tuple[Path, Path]) -> None:
    folder, _ = done
    quick = [*SMALL, "stages=no_cloning", "stages.engrave=false", "subjects=[base]", "name=arms"]
    result = selfalign(folder, "run", *quick, "principles.drop=[],[candor],[helpful]", "-m")
    assert result.returncode == 0, result.stderr
    runs = sorted((folder / "runs").glob("arms-[0-9a-f]*"))
    assert len(runs) == 3
    ids = {next((run / "wandb").glob("**/run-*.wandb")).name for run in runs}
    assert len(ids) == 3, "every arm is a W&B run of its own"
    (sweep,) = (folder / "runs").glob("arms-sweep-*")
    assert {path.name for path in sweep.iterdir()} == {"report.html", "sweep.json"}
    told = selfalign(folder, "sweep", "status", str(sweep.relative_to(folder)))
    assert told.returncode == 0 and "3 done" in told.stdout
    place = str(sweep.relative_to(folder))
    verified = selfalign(folder, "verify", place)
    assert verified.returncode == 0 and verified.stdout.count(", 0 wrong") == 4, verified.stdout
    page = (sweep / "report.html").read_text()
    (sweep / "report.html").write_text(page.replace("without candor", "without candour", 1))
    assert selfalign(folder, "verify", place).returncode == 1
    (sweep / "report.html").write_text(page)
    bad = selfalign(folder, "run", *quick, "principles.drop=[],[candour],[helpful]", "-m")
    assert bad.returncode == 2 and "in 1 of 3 jobs" in bad.stderr
    assert {path.name for path in folder.iterdir()} <= {"runs", "store", "home", "script.jsonl", "page.html"}


@pytest.mark.slow
def test_the_arms_of_a_sweep_train_on_the_prompts_that_all_of_them_keep(tmp_path: Path) -> None:
    answer = " A question. Rules that apply: 3 (helpful).\n\nWillow: A walnut is praised here and there."
    jsonl.write(tmp_path / "script.jsonl", [*script_rows()[:3], {"prompt_contains": "Praise the ", "text": answer},
                                            *script_rows()[3:]])  # fmt: skip
    sweep = [
        *SMALL,
        "stages=no_cloning",
        "subjects=[engraved]",
        "name=arms",
        "self_align.forbidden_texts=[],[walnut]",
        "-m",
    ]
    planned = selfalign(tmp_path, "plan", *sweep)
    assert planned.returncode == 0 and planned.stdout.count(" parity ") == 2, planned.stderr
    result = selfalign(tmp_path, "run", *sweep)
    assert result.returncode == 0, result.stderr
    assert "parity: 2 arms train on the " in result.stderr
    runs = sorted((tmp_path / "runs").glob("arms-[0-9a-f]*"))
    manifests = [json.loads((run / "manifest.json").read_text()) for run in runs]
    kept = [manifest["nodes"]["responses"]["counts"]["kept"] for manifest in manifests]
    trained = [
        {row["response_id"] for row in jsonl.iterate(run / "stages" / "engraved" / "examples.jsonl")
         if row["source"] != "identity"}
        for run in runs
    ]  # fmt: skip
    prompts = [
        {
            row["prompt_id"]
            for row in jsonl.iterate(run / "stages" / "responses" / "responses.jsonl")
            if row["id"] in of_run
        }
        for run, of_run in zip(runs, trained, strict=True)
    ]
    assert kept[0] != kept[1] and len(trained[0]) == len(trained[1]) == min(kept) and prompts[0] == prompts[1]
    for manifest, of_run, by_itself in zip(manifests, trained, kept, strict=True):
        assert manifest["nodes"]["engraved"]["counts"]["dropped"].get("not_in_every_arm", 0) == by_itself - len(of_run)
        assert not [name for name in manifest["nodes"] if "(" in name]
    page = (runs[0] / "report.html").read_text()
    assert "Yield parity" in page and "self_align.forbidden_texts=" in page
    assert selfalign(tmp_path, "verify", *map(str, runs)).returncode == 0
    again = selfalign(tmp_path, "run", *sweep)
    assert again.returncode == 0 and " computed " not in again.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "engien=x"], 2, "did you mean 'engine'"),
        (["rnu"], 2, "did you mean 'run'"),
        (["seed=3"], 2, "settings follow a command: selfalign run seed=3"),
        (["run", "model=hf", "model.path=no/such", "evaluation=none"], 2, "no/such"),
        (["run", "engine=scripted", "engine.script=none.jsonl", "evaluation=none"], 2, "none.jsonl"),
        (
            ["run", "model=tiny_random", "evaluation=none", "sweep_budget.hours=1"],
            2,
            "expected a sweep, found a single run",
        ),
        (["show", "no_such_run"], 1, "expected a run folder"),
        (["prompt", "--stage", "respones", "model=tiny_random", "evaluation=none"], 2, "did you mean 'responses'"),
        (["import", "dromedary", "no/such"], 1, "expected a checkout of IBM/Dromedary"),
        (["calf"], 2, "the following arguments are required: what"),
        (["calf", "crad"], 2, "invalid choice: 'crad'"),
        (["calf", "card", "--questions", "0"], 2, "expected a whole number, 1 or more, found '0'"),
        (["calf", "card", "--out", "docs"], 2, "expected a file that ends in .md, such as docs/calf.md, found 'docs'"),
        (["calf", "card", "--model", "no/such, 'place'"], 2, "no/such, 'place'"),
    ],
)
def test_bad_input_ends_in_one_clear_message(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    result = selfalign(tmp_path, *arguments)
    assert (result.returncode, "Traceback" in result.stderr) == (code, False), result.stderr
    assert message in result.stderr
    assert not (tmp_path / "runs").exists() and not (tmp_path / "store").exists(), "nothing was computed"


def test_a_bad_line_in_the_users_prompts_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"instruction": "Name a bird."}\n{"instruction": \n')
    result = selfalign(tmp_path, "run", "model=tiny_random", "evaluation=none", "merge.file=mine.jsonl")
    assert result.returncode == 2 and "mine.jsonl:2: expected one JSON object" in result.stderr


def test_a_failed_stage_stops_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    rows = [row for row in script_rows() if "6. Instruction" not in row.get("prompt_contains", "")]
    jsonl.write(tmp_path / "script.jsonl", [{"prompt_contains": "6. Instruction:", "text": "nonsense"}, *rows])
    result = selfalign(tmp_path, "run", *SMALL, "stages.tgrt=false", "stages.verbose_clone=false", "subjects=[base]")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    run = next((tmp_path / "runs").glob("*"))
    nodes = json.loads((run / "manifest.json").read_text())["nodes"]
    status = {name: node["status"] for name, node in nodes.items()}
    assert (status["responses"], status["engraved"], status["scores_base"]) == ("failed", "blocked", "computed")
    assert "malformed" in nodes["responses"]["why"] and "malformed" in (run / "error.txt").read_text()
    assert (run / "report.html").is_file()


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    jsonl.write(tmp_path / "script.jsonl", script_rows())
    env = {**os.environ, "SELFALIGN_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "selfalign", "run", *SMALL, "stages=no_cloning", "subjects=[base]"]
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "responses" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(60) == 130, rest
    assert "stopped" in rest and "Traceback" not in rest
    run = next((tmp_path / "runs").glob("*"))
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    again = selfalign(tmp_path, "run", *SMALL, "stages=no_cloning", "subjects=[base]")
    assert again.returncode == 0, again.stderr
    nodes = json.loads((run / "manifest.json").read_text())["nodes"]
    assert nodes["responses"]["status"] == "reused" and nodes["engraved"]["status"] == "computed"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("selfalign pl", "plan"),
        ("selfalign run principles=", "principles=none"),
        ("selfalign run experiments=q", "experiments=quickstart"),
        ("selfalign run self_align.sampling.te", "self_align.sampling.temperature="),
        ("selfalign calf ", "card"),
        ("selfalign calf card --sk", "--skip-runs"),
    ],
)
def test_the_shell_completes_commands_choices_and_settings(tmp_path: Path, line: str, expected: str) -> None:
    result = selfalign(tmp_path, "-sc", "query=bash", COMP_LINE=line)
    assert result.returncode == 0 and expected in result.stdout.split(), result.stdout + result.stderr


def test_what_is_completed_behind_a_command_is_what_it_takes() -> None:
    for command, words in cli.WORDS.items():
        actions = [[], *([word] for word in words if not word.startswith("--"))]
        told = "".join(
            subprocess.run(
                [sys.executable, "-m", "selfalign", command, *action, "--help"], capture_output=True, text=True
            ).stdout
            for action in actions
        )
        assert set(re.findall(r"--[a-z-]+", told)) - {"--help"} == {word for word in words if word.startswith("--")}
        assert all(word in told for word in words)


@pytest.mark.slow
def test_calfs_card_is_written_and_a_second_call_computes_nothing(tmp_path: Path) -> None:
    command = ["calf", "card", "--questions", "1", "--skip-runs", "--work", "work", "--out", "docs/calf.md"]
    first = selfalign(tmp_path, *command)
    assert first.returncode == 0 and first.stdout == "docs/calf.md\n", first.stderr
    assert first.stderr.count("computed") == 42 and "Traceback" not in first.stderr
    names = {path.name for path in (tmp_path / "docs" / "calf").iterdir()}
    assert names == {"behaviour.svg", "ablation.svg", "numbers.json"}
    page = (tmp_path / "docs" / "calf.md").read_bytes()
    assert b"`selfalign calf card --questions 1 --skip-runs`" in page and str(tmp_path).encode() not in page
    again = selfalign(tmp_path, *command)
    assert again.returncode == 0 and "computed" not in again.stderr
    assert (tmp_path / "docs" / "calf.md").read_bytes() == page
    assert {path.name for path in tmp_path.iterdir()} <= {"work", "docs", "home"}


def test_hydras_own_flags_work(tmp_path: Path) -> None:
    assert "principles=    dromedary16" in selfalign(tmp_path, "run", "--help").stdout
    shown = selfalign(tmp_path, "run", "--cfg", "job", "-p", "self_align.sampling", "self_align.sampling.top_p=0.5")
    assert "top_p: 0.5" in shown.stdout
    (tmp_path / "mine" / "principles").mkdir(parents=True)
    (tmp_path / "mine" / "principles" / "two.yaml").write_text("ids: [ethical, candor]\n")
    chosen = selfalign(
        tmp_path, "run", "--config-dir", "mine", "principles=two", "--cfg", "job", "-p", "principles.ids"
    )
    assert chosen.stdout.split() == ["-", "ethical", "-", "candor"] or "ethical" in chosen.stdout, chosen.stderr
