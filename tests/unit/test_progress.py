from __future__ import annotations

import pytest

from selfalign import progress


def test_without_a_terminal_a_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.shown("answers", 100, "rows") as show:
        for done in range(0, 101, 10):
            show(done, "loss 1.5")
            now[0] += 3.0
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 4
    assert lines[0].startswith("  answers: ") and "/100 rows" in lines[0] and "/s loss 1.5" in lines[0]
    assert "100/100" in lines[-1]


def test_a_rate_counts_only_what_this_process_did(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.shown("answers", 1000, "rows") as show:
        show(900)
        now[0] = 20.0
        show(920)
    assert "920/1000 rows, 1.0/s" in capsys.readouterr().err


def test_a_new_part_starts_its_rate_anew(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.shown("requests", 0, "requests") as show:
        show(500)
        now[0] = 11.0
        show(0)
        now[0] = 22.0
        show(22)
    assert "-" not in capsys.readouterr().err.replace("requests:", "")
