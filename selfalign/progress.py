"""Progress with counts and rates: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

PLAIN_INTERVAL_S = 10.0
"""Seconds between two lines where standard error is no terminal."""


class Progress(Protocol):
    """What a stage calls as its work goes on."""

    def __call__(self, done: int, note: str = "") -> None:
        """State how many units are done, with an optional short note (`loss 2.31`)."""
        ...


def silent(done: int, note: str = "") -> None:
    """Progress that shows nothing: for tests and for use from Python."""


def say(text: str) -> None:
    """A line on standard error, before or after a progress display."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def shown(label: str, total: int, unit: str) -> Iterator[Progress]:
    """Progress on standard error for a piece of work of `total` units (0 = not known before)."""
    if sys.stderr.isatty():
        with _bar(label, total, unit) as progress:
            yield progress
    else:
        yield _lines(label, total, unit)


@contextmanager
def _bar(label: str, total: int, unit: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("  {task.description:<18}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    started = time.monotonic()
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total or None, note="", rate="")
        first: list[int] = []

        def progress(done: int, note: str = "") -> None:
            first.append(done) if not first else None
            elapsed = max(time.monotonic() - started, 1e-6)
            bar.update(task, completed=done, note=note, rate=f"{(done - first[0]) / elapsed:.1f}/s")

        yield progress


def _lines(label: str, total: int, unit: str) -> Progress:
    started = last = time.monotonic()
    first: list[int] = []

    def progress(done: int, note: str = "") -> None:
        nonlocal last, started
        now = time.monotonic()
        if first and done < first[0]:
            # The next part of the work counts from the start again.
            first.clear()
            started = now
        if not first:
            first.append(done)
        if now - last < PLAIN_INTERVAL_S and not (total and done >= total and now - started > PLAIN_INTERVAL_S):
            return
        last = now
        rate = (done - first[0]) / max(now - started, 1e-6)
        of = f"/{total}" if total else ""
        print(f"  {label}: {done}{of} {unit}, {rate:.1f}/s {note}".rstrip(), file=sys.stderr, flush=True)

    return progress
