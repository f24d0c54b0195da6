"""Laws of the W&B report: written without login, read back by W&B's own classes, sent once and then brought up to date."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from selfalign.errors import MissingDependencyError, SelfAlignError
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
    assert remembered == {"id": first.id, "url": first.url}


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
