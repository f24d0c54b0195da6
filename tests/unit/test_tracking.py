"""Laws of tracking: offline by default, inside the run folder, nothing secret, nothing left behind, pushed once."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfalign.errors import DataError, MissingDependencyError, SelfAlignError
from selfalign.identity import digest, plain
from selfalign.tracking import (
    Mode,
    NoTracker,
    TrackingSettings,
    WandbTracker,
    open_tracker,
    problems,
    scrub,
    scrub_arguments,
    sync,
)
from selfalign.tracking.offline import is_synced, offline_runs
from selfalign.tracking.scrub import REMOVED, is_secret_key
from selfalign.tracking.trackers import wandb_id
from tests.wandb_log import history, logged, summary

PLANTED = "sk-planted0123456789abcdefghij"
PLANTED_WANDB = "0123456789abcdef0123456789abcdef01234567"
PLANTED_ENVIRONMENT = "correct horse battery staple"
FIGURE = "<!doctype html><html><head><title>use</title></head><body><svg></svg></body></html>"


def start(folder: Path, run_id: str = "demo-12345678", config: dict[str, Any] | None = None, **more: Any) -> Any:
    return open_tracker(
        TrackingSettings(tags=["test"], **more),
        folder=folder,
        run_id=run_id,
        name="drop=ethical",
        group="loo",
        job_type="experiment",
        config=config if config is not None else {"seed": 7},
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and no W&B variable in the environment."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith(("WANDB_", "XDG_")) or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    return folder


# -------------------------------------------------------------------------------------------------------- settings


def test_no_tracking_setting_is_part_of_an_identity():
    assert plain(TrackingSettings()) == {}
    assert digest(plain(TrackingSettings(mode=Mode.online, tags=["a"]))) == digest(plain(TrackingSettings()))


def test_mode_names_equal_their_values():
    assert all(mode.name == mode.value for mode in Mode)


def test_defaults_have_no_problem(home: Path):
    assert problems(TrackingSettings()) == []


def test_online_without_a_key_is_a_problem_before_anything_runs(home: Path):
    (problem,) = problems(TrackingSettings(mode=Mode.online))
    assert "WANDB_API_KEY" in problem and "selfalign sync" in problem


def test_online_with_a_key_in_the_environment_is_fine(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", PLANTED_WANDB)
    assert problems(TrackingSettings(mode=Mode.online)) == []


@pytest.mark.parametrize(("host", "count"), [("api.wandb.ai", 0), ("wandb.example.org", 1)])
def test_online_takes_the_netrc_entry_of_its_own_server_only(home: Path, host: str, count: int):
    (home / ".netrc").write_text(f"machine {host}\n  login user\n  password {PLANTED_WANDB}\n")
    (home / ".netrc").chmod(0o600)
    assert len(problems(TrackingSettings(mode=Mode.online))) == count


def test_all_problems_are_reported_together(home: Path):
    found = problems(TrackingSettings(mode=Mode.online, project="a/b", tags=["x" * 65], tables_max_rows=0))
    assert len(found) == 4


def test_without_wandb_offline_is_a_problem_with_a_remedy_and_disabled_is_not(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("selfalign.tracking.settings.is_installed", lambda: False)
    monkeypatch.setattr("selfalign.tracking.trackers.is_installed", lambda: False)
    (problem,) = problems(TrackingSettings())
    assert "pip install" in problem and "tracking=none" in problem
    assert problems(TrackingSettings(mode=Mode.disabled)) == []
    with pytest.raises(MissingDependencyError, match="pip install"):
        start(tmp_path / "run")
    assert isinstance(start(tmp_path / "run", mode=Mode.disabled), NoTracker)


def test_importing_tracking_does_not_import_wandb():
    code = "import sys, selfalign.tracking; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ----------------------------------------------------------------------------------------------------------- scrub


@pytest.mark.parametrize(
    "key",
    ["api_key", "judge.api_key", "apiKey", "OPENAI_API_KEY", "HF_TOKEN", "token", "auth_token", "password",
     "client_secret", "Authorization", "aws_secret_access_key", "private-key", "db_passwd", "credentials",
     "basic_auth"],
)  # fmt: skip
def test_a_key_that_names_a_secret_is_recognised(key: str):
    assert is_secret_key(key)


@pytest.mark.parametrize(
    "key",
    ["max_new_tokens", "tokens", "tokenizer", "pad_token", "eos_token", "token_count", "keyboard", "key", "secretary",
     "author", "monkey", "n_tokens", "tokens_per_second", "api_key_env", "password_file", "end_of_turn", "max_token",
     "PWD", "target_modules"],
)  # fmt: skip
def test_a_key_that_only_resembles_a_secret_is_kept(key: str):
    assert not is_secret_key(key)


@pytest.mark.parametrize(
    "text",
    [PLANTED, "hf_abcdefghijklmnopqrstuv", PLANTED_WANDB, "ghp_" + "a1" * 18, "AKIAABCDEFGHIJKLMNOP",
     "Authorization: Bearer abcdefghijklmnop", "https://user:hunter22@example.org/x", "wandb_v1_" + "Ab9" * 12,
     "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", f"a word, {PLANTED}, another"],
)  # fmt: skip
def test_a_value_shaped_like_a_key_is_removed_under_any_name(text: str):
    assert REMOVED in scrub({"note": text}, {})["note"]


def test_what_is_no_secret_comes_back_unchanged():
    config = {
        "engine": {
            "max_new_tokens": 256,
            "tokenizer": "calf",
            "stop": ["### User"],
            "temperature": 0.5,
            "adapter": None,
        },
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "sha256": "a" * 64,
        "ids": ["helpful", "candor"],
    }
    assert scrub(config, {}) == config


def test_secrets_are_removed_at_any_depth_and_empty_ones_are_left():
    config = {"judge": {"api_key": PLANTED, "token": "", "auth_token": True, "password": 12345, "secret": {"a": ["b"]}}}
    assert scrub(config, {})["judge"] == {
        "api_key": REMOVED, "token": "", "auth_token": True, "password": REMOVED, "secret": REMOVED,
    }  # fmt: skip


def test_secrets_in_a_command_line_are_removed():
    command = [
        "selfalign",
        "run",
        "judge.api_key=hunter2",
        "+judge.token=abc",
        "--password",
        "hunter3",
        "max_new_tokens=5",
    ]
    assert scrub({"command": command}, {})["command"] == [
        "selfalign", "run", f"judge.api_key={REMOVED}", f"+judge.token={REMOVED}", "--password", REMOVED,
        "max_new_tokens=5",
    ]  # fmt: skip


def test_arguments_are_scrubbed_as_a_list_of_texts():
    assert scrub_arguments(("judge.token=abc", "seed=3")) == [f"judge.token={REMOVED}", "seed=3"]


def test_the_value_of_a_secret_environment_variable_is_removed_wherever_it_stands():
    cleaned = scrub(
        {"header": f"X {PLANTED_ENVIRONMENT}", PLANTED_ENVIRONMENT: 1}, {"MY_PASSWORD": PLANTED_ENVIRONMENT}
    )
    assert PLANTED_ENVIRONMENT not in json.dumps(cleaned)


# -------------------------------------------------------------------------------------------------------- trackers


def test_no_tracker_accepts_everything(tmp_path: Path):
    tracker = start(tmp_path / "run", mode=Mode.disabled)
    tracker.log({"loss": math.nan}, 3)
    tracker.table("t", ["a"], [[1]])
    tracker.figure("f", "<svg></svg>")
    tracker.artifact("a", "adapter", tmp_path, {})
    tracker.summary({"x": 1})
    tracker.finish(0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("run_id", ["a" * 65, "drop=[ethical,candor]/1", "x#?%:"])
def test_a_wandb_id_is_short_plain_and_the_same_every_time(run_id: str):
    found = wandb_id(run_id)
    assert len(found) <= 64 and not set(found) & set("/\\#?%:")
    assert found == wandb_id(run_id) and found != wandb_id(run_id + "x")
    assert wandb_id("demo-12345678") == "demo-12345678"


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One run with a planted secret in every place, logged offline, with the world around it before and after."""
    root = tmp_path_factory.mktemp("offline")
    home, run, result = root / "home", root / "run", root / "store" / "adapter"
    home.mkdir()
    result.mkdir(parents=True)
    (result / "adapter_model.safetensors").write_bytes(b"weights")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("WANDB_", "XDG_")):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_API_KEY", PLANTED_WANDB)
        patch.setenv("MY_SECRET", PLANTED_ENVIRONMENT)
        patch.setattr(sys, "argv", ["selfalign", f"judge.api_key={PLANTED}"])
        before = dict(os.environ)
        config = {
            "judge": {"api_key": PLANTED, "max_new_tokens": 256},
            "note": f"key {PLANTED}",
            "login": PLANTED_WANDB,
            "phrase": PLANTED_ENVIRONMENT,
        }
        tracker = start(run, config=config, tables_max_rows=2)
        during = dict(os.environ)
        tracker.log({"train/loss": 2.5, "train/bad": math.nan}, 40)
        tracker.log({"train/loss": 1.5, "train/worse": math.inf}, 41)
        tracker.log({"score": 0.5})
        tracker.table("samples", ["id", "text"], [[1, "<b>one</b>"], ["two", math.nan], [3, None]])
        tracker.figure("figures/use", FIGURE)
        tracker.artifact("adapter/engraved", "adapter", result, {"token": PLANTED, "r": 16})
        tracker.summary({"final": 0.25, "broken": math.nan, "password": PLANTED})
        tracker.finish(1)
        tracker.finish(0)
        yield {
            "run": run,
            "home": home,
            "before": before,
            "during": during,
            "after": dict(os.environ),
            "tracker": tracker,
        }


def test_an_offline_run_states_project_group_type_tags_and_id(offline: dict[str, Any]):
    run = logged(offline["run"])["run"][0]
    assert (run.project, run.run_group, run.job_type, run.run_id) == ("selfalign", "loo", "experiment", "demo-12345678")
    assert run.display_name == "drop=ethical" and list(run.tags) == ["test"]


def test_a_failed_run_ends_with_exit_code_1_even_if_finished_twice(offline: dict[str, Any]):
    assert [entry.exit_code for entry in logged(offline["run"])["exit"]] == [1]


def test_metrics_carry_their_explicit_step(offline: dict[str, Any]):
    rows = history(logged(offline["run"]))
    assert [(row["global_step"], row["train/loss"]) for row in rows if "train/loss" in row] == [(40, 2.5), (41, 1.5)]
    assert any(row.get("score") == 0.5 for row in rows)
    metrics = logged(offline["run"])["metric"]
    assert any(metric.glob_name == "*" and metric.step_metric == "global_step" for metric in metrics)


def test_a_number_that_is_not_finite_is_never_logged_as_one(offline: dict[str, Any]):
    found = logged(offline["run"])
    assert all("train/bad" not in row and "train/worse" not in row for row in history(found))
    values = summary(found)
    assert values["not_finite/train/bad"] == "nan at step 40" and values["not_finite/train/worse"] == "inf at step 41"
    assert values["broken"] == "nan" and values["final"] == 0.25


def test_a_long_table_is_cut_and_says_so(offline: dict[str, Any]):
    values = summary(logged(offline["run"]))
    assert (values["tables/samples/rows"], values["tables/samples/shown"]) == (3, 2)
    (path,) = offline["run"].glob("wandb/offline-run-*/files/media/table/*.table.json")
    assert json.loads(path.read_text())["data"] == [[1, "<b>one</b>"], ["two", "nan"]]


def test_a_figure_is_logged_as_the_page_it_is(offline: dict[str, Any]):
    (row,) = [row for row in history(logged(offline["run"])) if row.get("figures/use._type") == "html-file"]
    (path,) = offline["run"].glob("wandb/offline-run-*/files/" + row["figures/use.path"])
    assert path.read_text() == FIGURE


def test_an_artifact_lists_its_files_without_copying_them(offline: dict[str, Any]):
    (artifact,) = [entry for entry in logged(offline["run"])["artifact"] if entry.type == "adapter"]
    assert artifact.name == "adapter-engraved"
    assert [entry.path for entry in artifact.manifest.contents] == ["adapter_model.safetensors"]
    assert not list(offline["run"].rglob("*.safetensors"))


def test_no_planted_secret_is_in_any_byte_of_the_run_folder(offline: dict[str, Any]):
    logged(offline["run"])
    files = [path for path in offline["run"].rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    for secret in (PLANTED, PLANTED_WANDB, PLANTED_ENVIRONMENT):
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
    assert any(b"max_new_tokens" in path.read_bytes() for path in files)


def test_nothing_is_written_to_the_home_folder(offline: dict[str, Any]):
    assert [path for path in offline["home"].rglob("*") if path.is_file()] == []


def test_the_environment_is_as_it_was(offline: dict[str, Any]):
    assert offline["during"] == offline["before"]
    assert offline["after"] == offline["before"]


def test_two_runs_in_one_process_have_two_ids_and_two_folders(home: Path, tmp_path: Path):
    first = start(tmp_path / "a", run_id="arm-a")
    second = start(tmp_path / "b", run_id="arm-b")
    first.log({"x": 1.0}, 1)
    second.log({"x": 2.0}, 1)
    first.finish(1)
    second.finish(0)
    for name, value, code in (("a", 1.0, 1), ("b", 2.0, 0)):
        found = logged(tmp_path / name)
        assert found["run"][0].run_id == f"arm-{name}" and found["exit"][0].exit_code == code
        assert [row["x"] for row in history(found)] == [value]


def test_a_wandb_run_is_silent(home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    tracker = start(tmp_path / "run")
    tracker.log({"x": 1.0}, 1)
    tracker.artifact("a", "data", tmp_path / "home", {})
    tracker.finish(0)
    assert capfd.readouterr() == ("", "")
    assert isinstance(tracker, WandbTracker) and tracker.sync_folder.is_dir()


def test_an_artifact_without_a_folder_is_an_error(home: Path, tmp_path: Path):
    tracker = start(tmp_path / "run")
    try:
        with pytest.raises(SelfAlignError, match="expected a folder"):
            tracker.artifact("a", "data", tmp_path / "missing", {})
    finally:
        tracker.finish(1)


# ------------------------------------------------------------------------------------------------------------ sync


def fake_run(folder: Path, name: str = "offline-run-20260101_000000-x") -> Path:
    path = folder / "wandb" / name
    path.mkdir(parents=True)
    (path / "run-x.wandb").write_bytes(b":W&B")
    return path


def fake_wandb(tmp_path: Path, body: str) -> list[str]:
    """A stand-in for `wandb sync` that notes its calls."""
    script = tmp_path / "fake_wandb.py"
    script.write_text(
        f"import pathlib, sys\npath = pathlib.Path(sys.argv[1])\n"
        f"open({str(tmp_path / 'calls')!r}, 'a').write(path.name + chr(10))\n{body}\n"
    )
    return [sys.executable, str(script)]


UPLOADS = "[p.with_suffix('.wandb.synced').touch() for p in path.glob('*.wandb')]"


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login, and a server that answers."""
    monkeypatch.setenv("WANDB_API_KEY", PLANTED_WANDB)
    monkeypatch.setattr("selfalign.tracking.offline._reach", lambda url, timeout_s: None)


def test_sync_pushes_each_offline_run_once(server: None, tmp_path: Path):
    run = tmp_path / "run"
    later = fake_run(run, "offline-run-20260102_000000-x")
    earlier = fake_run(run, "offline-run-20260101_000000-x")
    command = fake_wandb(tmp_path, UPLOADS)
    assert [(entry.offline_run, entry.is_new) for entry in sync([run], command=command)] == [
        (earlier, True),
        (later, True),
    ]
    assert [entry.is_new for entry in sync([run], command=command)] == [False, False]
    assert (tmp_path / "calls").read_text().split() == [earlier.name, later.name]


def test_sync_goes_on_where_it_was_interrupted(server: None, tmp_path: Path):
    run = tmp_path / "run"
    fake_run(run, "offline-run-20260101_000000-x")
    (fake_run(run, "offline-run-20260102_000000-x") / "run-x.wandb.synced").touch()
    assert [entry.is_new for entry in sync([run], command=fake_wandb(tmp_path, UPLOADS))] == [True, False]


def test_a_sync_that_wandb_does_not_confirm_is_an_error_with_its_words(server: None, tmp_path: Path):
    path = fake_run(tmp_path / "run")
    with pytest.raises(SelfAlignError, match="permission denied"):
        sync([tmp_path / "run"], command=fake_wandb(tmp_path, "print('permission denied')"))
    assert not is_synced(path)


def test_a_sync_that_hangs_is_ended(server: None, tmp_path: Path):
    fake_run(tmp_path / "run")
    with pytest.raises(SelfAlignError, match="within 0.2 s"):
        sync([tmp_path / "run"], command=fake_wandb(tmp_path, "import time; time.sleep(30)"), timeout_s=0.2)


def test_sync_without_network_says_so_and_sends_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_run(tmp_path / "run")
    monkeypatch.setenv("WANDB_API_KEY", PLANTED_WANDB)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(SelfAlignError, match="nothing is lost") as caught:
        sync([tmp_path / "run"], command=fake_wandb(tmp_path, UPLOADS))
    assert caught.value.exit_code != 0 and not (tmp_path / "calls").exists()


def test_sync_without_login_says_so(home: Path, tmp_path: Path):
    fake_run(tmp_path / "run")
    with pytest.raises(SelfAlignError, match="wandb login"):
        sync([tmp_path / "run"], command=fake_wandb(tmp_path, UPLOADS))


def test_sync_of_a_folder_without_offline_runs_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="wandb_offline"):
        sync([tmp_path])
    with pytest.raises(DataError, match="check the path"):
        sync([tmp_path / "missing"])


def test_sync_finds_what_a_tracker_wrote(offline: dict[str, Any]):
    assert offline_runs(offline["run"]) == [offline["tracker"].sync_folder]
