from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.training.training_runs import make_examples


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_examples(tmp_path_factory.mktemp("examples") / "examples.jsonl")
