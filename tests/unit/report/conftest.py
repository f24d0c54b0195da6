"""Fixtures: a complete run folder, and a way to change one of its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfalign import jsonl
from selfalign.report import Run, load_run
from tests.unit.report.run_folders import write_json, write_run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "demo-12345678")


@pytest.fixture
def edit(run_folder: Path) -> Callable[[str, Callable[[Any], Any]], Run]:
    """Change one file of the run folder with a function and load the run again."""

    def change(file: str, function: Callable[[Any], Any]) -> Run:
        path = run_folder / file
        if path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in function(jsonl.read(path))))
        elif path.suffix == ".yaml":
            path.write_text(yaml.safe_dump(function(yaml.safe_load(path.read_text()))))
        else:
            write_json(path, function(json.loads(path.read_text())))
        return load_run(run_folder)

    return change
