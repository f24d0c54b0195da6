"""Laws of the W&B report: written without login, read back by W&B's own classes, sent once and then brought up to date."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from selfalign.commands import report as report_command
from selfalign.commands import sync as sync_command
from selfalign.errors import MissingDependencyError, SelfAlignError
from selfalign.identity import file_digest
from selfalign.report import load_runs, wandb_report, write
from selfalign.report.wandb_report import publish, spec_path, validate, write_spec
from tests.unit.report.run_folders import exam_row, write_run, write_scores

IS_THERE = importlib.util.find_spec("wandb_workspaces") is not None
needs_it = pytest.mark.skipif(not IS_THERE, reason=f"wandb-workspaces is not installed; {wandb_report.INSTALL}")


class Server:
    """A double of the API that wandb-workspaces talks to: it keeps views by id."""

    def __init__(self) -> None:
        self.views: dict[str, dict[str, Any]] = {}
        self.calls: list[dict[str, Any]] = []
        self.made: list[str] = []
        self.default_entity = "somebody"
        self._service_api = self
        self.app_url = "https://wandb.test"

    def projects(self, entity: str) -> list[Any]:
        return []

    def create_project(self, name: str, entity: str) -> None:
        self.made.append(f"{entity}/{name}")

    def execute_graphql(self, query: Any, variables: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(variables)
        number = variables["id"] or f"view{len(self.views) + 1}"
        self.views[number] = {
            "id": number, "name": variables["name"], "displayName": variables["displayName"],
            "description": variables["description"], "spec": variables["spec"], "type": variables["type"],
            "project": {"name": variables["projectName"], "entityName": variables["entityName"]},
            "createdAt": "2026-01-02T03:04:05", "updatedAt": "2026-01-02T03:04:05",
        }  # fmt: skip
        return {"upsertView": {"view": self.views[number]}}


@pytest.fixture
def page(tmp_path: Path) -> tuple[Path, list[Path]]:
    folders = []
    for name, drop, wrong in (("all", [], 3), ("candor", ["candor"], 15)):
        rows = {"cloned": [exam_row(item, float(item >= wrong)) for item in range(40)]}
        folders.append(write_scores(write_run(tmp_path / name, drop=drop), rows))
    return write(folders, tmp_path / "report.html"), folders


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    import wandb
    from wandb_workspaces.reports.v2 import interface

    found = Server()
    monkeypatch.setattr(interface, "_get_api", lambda: found)
    monkeypatch.setattr(wandb, "Api", lambda: found)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    return found


@needs_it
def test_the_specification_is_written_without_login_and_means_the_same_when_read_back(
    page, monkeypatch: pytest.MonkeyPatch
):
    from wandb_workspaces.reports.v2 import interface

    def refused() -> None:
        raise AssertionError("the server was asked")

    monkeypatch.setattr(interface, "_get_api", refused)
    path, folders = page
    written = write_spec(path, load_runs(folders))
    assert written == spec_path(path) and written.name == "report.wandb.json"
    content = json.loads(written.read_text())
    assert validate(content["spec"]) > 6
    text = json.dumps(content["spec"], ensure_ascii=False)
    for part in (
        "without candor",
        "Effects of the arms",
        "Methods",
        "scores/cloned/calf_truth/mc1/accuracy",
        "engraved/loss",
    ):
        assert part in text
    (grid,) = [block for block in content["spec"]["blocks"] if block["type"] == "panel-grid"]
    (filters,) = [one["filters"]["filters"] for one in grid["metadata"]["runSets"]]
    assert filters[0]["value"] == ["all", "candor"], "no run of another sweep"


@needs_it
def test_a_specification_that_is_none_is_refused():
    with pytest.raises(SelfAlignError, match="write it anew"):
        validate({"blocks": [{"type": "no such block"}], "version": "x"})


@needs_it
def test_a_second_call_brings_the_same_report_up_to_date(page, server: Server):
    path, folders = page
    first = publish(path, load_runs(folders))
    second = publish(path, load_runs(folders))
    assert (first.is_new, second.is_new) == (True, False) and first.id == second.id and first.url == second.url
    assert list(server.views) == [first.id] and [call["id"] for call in server.calls] == [None, first.id]
    assert server.made[0] == "somebody/selfalign"
    remembered = json.loads((path.parent / "report.published.json").read_text())
    assert remembered == {"id": first.id, "url": first.url, "spec": file_digest(spec_path(path))}


@needs_it
def test_without_a_login_the_specification_is_there_and_the_way_to_log_in_is_said(
    page, monkeypatch: pytest.MonkeyPatch
):
    path, folders = page
    monkeypatch.setattr(wandb_report, "has_credentials", lambda: False)
    with pytest.raises(SelfAlignError, match="wandb login"):
        publish(path, load_runs(folders))
    assert spec_path(path).is_file() and not (path.parent / "report.published.json").exists()


@needs_it
def test_what_the_server_says_reaches_the_user_and_nothing_is_remembered(
    page, server: Server, monkeypatch: pytest.MonkeyPatch
):
    def refuse(query: Any, variables: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("permission denied")

    monkeypatch.setattr(server, "execute_graphql", refuse)
    path, folders = page
    with pytest.raises(SelfAlignError, match="permission denied"):
        publish(path, load_runs(folders))
    assert not (path.parent / "report.published.json").exists()


def test_without_the_package_the_command_that_installs_it_is_said(page, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wandb_report.importlib.util, "find_spec", lambda name: None)
    path, folders = page
    with pytest.raises(MissingDependencyError, match=r"pip install 'selfalign\[publish\]'"):
        publish(path, load_runs(folders))


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[list[Path]]:
    """The run folders of each call that pushes runs, none of which has any."""
    calls: list[list[Path]] = []
    monkeypatch.setattr("selfalign.tracking.sync", lambda folders: calls.append(folders) or [])
    return calls


@needs_it
def test_a_report_that_waited_for_a_login_is_sent_with_the_offline_runs_once(
    page, server: Server, pushed: list[list[Path]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    _, (first, second) = page
    with monkeypatch.context() as away:
        away.setattr(wandb_report, "has_credentials", lambda: False)
        with pytest.raises(SelfAlignError, match="selfalign sync"):
            report_command([str(first), str(second), "--publish"])
    assert not server.views
    capsys.readouterr()
    for expected in ("published: ", "already published: "):
        assert sync_command([str(first)]) == 0
        assert capsys.readouterr().out.startswith(expected)
    (view,) = server.views.values()
    assert len(server.calls) == 1 and "all, candor" in view["description"], "the report of both runs"
    assert pushed == [[first], [first]]


@needs_it
def test_a_report_that_could_not_be_brought_up_to_date_is_by_the_next_sync(
    page, server: Server, pushed: list[list[Path]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    _, (first, second) = page
    assert report_command([str(first), "--publish"]) == 0
    with monkeypatch.context() as away:
        away.setattr(wandb_report, "has_credentials", lambda: False)
        with pytest.raises(SelfAlignError):
            report_command([str(first), str(second), "--publish"])
    capsys.readouterr()
    assert sync_command([str(first)]) == 0 and capsys.readouterr().out.startswith("brought up to date: ")
    assert [call["id"] for call in server.calls] == [None, *server.views]


def test_a_report_that_nobody_asked_to_publish_is_not_sent_and_the_command_that_sends_it_is_said(
    page, pushed: list[list[Path]], capsys: pytest.CaptureFixture[str]
):
    _, (first, _) = page
    assert sync_command([str(first)]) == 0 and capsys.readouterr().out == ""
    write([first], first / "report.html")
    assert sync_command([str(first)]) == 0
    assert f"`selfalign report {first} --publish` sends" in capsys.readouterr().out
    assert not spec_path(first / "report.html").exists()


@needs_it
def test_a_waiting_report_whose_runs_are_gone_is_named(page, pushed: list[list[Path]]):
    _, (first, second) = page
    path = write([first, second], first / "report.html")
    write_spec(path, load_runs([first, second]))
    second.rename(second.parent.parent / "elsewhere")
    with pytest.raises(SelfAlignError, match="no such run as candor; write it anew: selfalign report"):
        sync_command([str(first)])
