"""A model whose log-probabilities are broken, through a whole run: its reason everywhere, and a number nowhere."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from selfalign import groups, jsonl
from selfalign.engines.scripted import Scripted, ScriptedEngine
from selfalign.report import load_run
from selfalign.report.export import to_csv, write
from selfalign.report.terminal import plain_text
from selfalign.runner import execute
from tests.wandb_log import history, logged, summary


@dataclass(frozen=True)
class Broken(Scripted):
    """An engine that gives one number to everything."""

    number: str = "nan"

    @contextlib.contextmanager
    def open(self, adapter: Path | None = None) -> Iterator[ScriptedEngine]:
        yield ScriptedEngine(score=lambda request: float(self.number))


@pytest.mark.parametrize("number", ["nan", "-inf", "-1.5"])
def test_a_refused_score_is_a_reason_in_every_file_table_and_log(number: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    groups.register()
    tasks = "evaluation.tasks=[truthfulqa_mc,hhh_alignment]"
    protocols = "evaluation.protocols=[true_false,released_half,mc1,mc2,ab_swap,ab_renormalised,likelihood]"
    chosen = ["stages=prompted_only", "subjects=[base]", "model=tiny_random", "evaluation.limit=40", tasks, protocols]
    one = groups.compose([*chosen, "engine=scripted"])
    assert execute(replace(one, engine=Broken(number=number)), quiet=True) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    rows = [row for row in jsonl.read(folder / "scores.jsonl") if row["metric"] != "truncated_share"]
    assert len({row["protocol"] for row in rows}) == 7
    for row in rows:
        assert not row["valid"] and row["reason"]
        assert [row[name] for name in ("value", "stderr", "low", "high")] == [None] * 4
    metrics = json.loads((folder / "manifest.json").read_text())["nodes"]["scores_base"]["metrics"]
    assert {value for name, value in metrics.items() if "truncated_share" not in name} == {None}

    log = logged(folder)
    names = {*summary(log), *(key for row in history(log) for key in row)}
    assert not [name for name in names if name.startswith(("scores/", "scores_base/")) and "accuracy" in name]
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/scores_base/scores*.json")
    content = json.loads(table.read_text())
    logged_rows = [dict(zip(content["columns"], values, strict=True)) for values in content["data"]]
    assert {row["value"] for row in logged_rows if row["metric"] != "truncated_share"} == {None}

    run = load_run(folder)
    page = (folder / "report.html").read_text()
    files = write(page, [run], None, tmp_path / "export")
    exports = ["".join(file.read_text() for file in files if file.suffix == end) for end in (".md", ".tex")]
    for text in (plain_text([run]), page, *exports):
        assert text.count("invalid: ") >= len(rows)
    exported = [row for row in csv.DictReader(io.StringIO(to_csv([run]))) if row["metric"] != "truncated_share"]
    assert {(row["value"], row["stderr"], row["low"], row["high"], row["valid"]) for row in exported} == {
        ("", "", "", "", "False")
    }
