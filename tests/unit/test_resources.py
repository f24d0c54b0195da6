from __future__ import annotations

from pathlib import Path

import pytest

from selfalign import resources
from selfalign.errors import ConfigError


def test_the_nearest_root_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("work", "home"):
        (tmp_path / root / "principles").mkdir(parents=True)
        (tmp_path / root / "principles" / "mine.yaml").write_text(root)
    monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    assert resources.find("principles/mine.yaml").read_text() == "work"
    (tmp_path / "work" / "principles" / "mine.yaml").unlink()
    assert resources.find("principles/mine.yaml").read_text() == "home"
    assert resources.find("principles/ethical.yaml").is_relative_to(resources.shipped_root())


def test_a_folder_without_groups_is_no_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFALIGN_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    assert resources.roots() == [resources.shipped_root()]


def test_a_missing_file_names_the_nearest_and_the_places() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'ethical\.yaml'\?.*looked in"):
        resources.find("principles/etical.yaml")


def test_names_are_those_of_all_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "principles").mkdir()
    (tmp_path / "principles" / "mine.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert {"mine", "ethical"} <= set(resources.names("principles", ".yaml"))
