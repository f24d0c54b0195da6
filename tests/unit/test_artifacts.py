from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from selfalign.artifacts import Outcome, Store
from selfalign.errors import DataError, StageError


def nothing() -> None:
    """Nobody waits."""


def writes(text: str, calls: list[str] | None = None):
    def work(out: Path) -> Outcome:
        if calls is not None:
            calls.append(text)
        (out / "rows.txt").write_text(text)
        return Outcome(rows_in=3, kept=2, dropped={"too_short": 1})

    return work


def test_a_result_is_computed_once_and_found_again(tmp_path: Path) -> None:
    calls: list[str] = []
    first, computed = Store(tmp_path).compute("Stage-1-abc", {"stage": "Stage"}, writes("hello", calls), nothing)
    again, computed_again = Store(tmp_path).compute("Stage-1-abc", {}, writes("other", calls), nothing)
    assert (computed, computed_again, calls) == (True, False, ["hello"])
    assert again.file("rows.txt").read_text() == "hello"
    assert first.manifest["counts"] == {"in": 3, "kept": 2, "dropped": {"too_short": 1}}


def test_the_manifest_says_what_made_it(tmp_path: Path) -> None:
    artifact, _ = Store(tmp_path).compute("Stage-1-abc", {"stage": "Stage", "inputs": {}}, writes("x"), nothing)
    stated = json.loads((artifact.path / "manifest.json").read_text())
    assert {"stage", "seconds", "packages", "git", "python", "created", "selfalign", "files"} <= set(stated)
    assert stated["files"]["rows.txt"]["bytes"] == 1


def test_a_crash_leaves_the_partial_folder_and_nothing_published(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def dies(out: Path) -> Outcome:
        (out / "half.txt").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        store.compute("Stage-1-abc", {}, dies, nothing)
    assert store.find("Stage-1-abc") is None and not store.is_published("Stage-1-abc")

    def goes_on(out: Path) -> Outcome:
        assert (out / "half.txt").read_text() == "half", "the next attempt finds what the first one left"
        return Outcome()

    assert store.compute("Stage-1-abc", {}, goes_on, nothing)[1]
    assert not (tmp_path / ".partial" / "Stage-1-abc").exists()


@pytest.mark.parametrize("harm", ["change", "delete", "manifest"])
def test_damage_is_noticed_named_and_computed_again(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, _ = Store(tmp_path).compute("Stage-1-abc", {}, writes("hello"), nothing)
    if harm == "change":
        (artifact.path / "rows.txt").write_text("jello")
    elif harm == "delete":
        (artifact.path / "rows.txt").unlink()
    else:
        (artifact.path / "manifest.json").write_text("{")
    repaired, computed = Store(tmp_path).compute("Stage-1-abc", {}, writes("hello"), nothing)
    assert computed and repaired.file("rows.txt").read_text() == "hello"
    assert "damaged: Stage-1-abc" in capsys.readouterr().err
    assert len(list((tmp_path / ".damaged").iterdir())) == 1, "the damaged one is kept aside, not lost"


def test_counts_that_do_not_add_up_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="5 rows went in"):
        Store(tmp_path).compute("Stage-1-abc", {}, lambda out: Outcome(rows_in=5, kept=1), nothing)
    assert Store(tmp_path).find("Stage-1-abc") is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_so_and_keeps_the_work(tmp_path: Path, number: int) -> None:
    def full(out: Path) -> Outcome:
        (out / "half.txt").write_text("half")
        raise OSError(number, "no space")

    with pytest.raises(StageError, match="no space left on the disk"):
        Store(tmp_path).compute("Stage-1-abc", {}, full, nothing)
    assert (tmp_path / ".partial" / "Stage-1-abc" / "half.txt").exists()


def test_a_file_that_is_not_listed_is_refused_by_name(tmp_path: Path) -> None:
    artifact, _ = Store(tmp_path).compute("Stage-1-abc", {}, writes("x"), nothing)
    with pytest.raises(DataError, match="has no file 'other.txt'; it has: rows.txt"):
        artifact.file("other.txt")


def test_threads_that_need_the_same_result_compute_it_once(tmp_path: Path) -> None:
    calls: list[str] = []
    threads = [
        threading.Thread(target=lambda: Store(tmp_path).compute("Stage-1-abc", {}, writes("x", calls), nothing))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == ["x"]


def test_processes_that_need_the_same_result_compute_it_once(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom selfalign.artifacts import Outcome, Store\n"
        "root = Path(sys.argv[1])\n"
        "def work(out):\n"
        "    (root / 'calls.txt').open('a').write('x')\n"
        "    time.sleep(0.5)\n"
        "    (out / 'rows.txt').write_text('x')\n"
        "    return Outcome()\n"
        "Store(root / 'store').compute('Stage-1-abc', {}, work, lambda: None)\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (tmp_path / "calls.txt").read_text() == "x"
