"""`show`: a stage's rows, kept and dropped, in a pager."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from selfalign import jsonl
from selfalign.commands.arguments import new_parser, nodes_of, whole_number
from selfalign.errors import SelfAlignError, unknown
from selfalign.runner import resolve_run

ROW_FILES = (
    "critiques.jsonl", "responses.jsonl", "prompts.jsonl", "matches.jsonl", "gaps.jsonl", "verdicts.jsonl", "items.jsonl",
    "metrics.jsonl",
)  # fmt: skip
"""What `show` takes for the rows of a stage: the first of these that it has."""
PLAIN_ROWS = 10
"""Rows that `show` prints where nothing pages them."""
_LABEL = 16
"""Width of a field's name, with what stands behind it."""


def show(arguments: list[str]) -> int:
    """Rows of a stage, one below the other; dropped ones with their reasons. Pages where the output is a terminal."""
    parser = new_parser("show", "Page through a stage's rows ($PAGER or less on a terminal, plain text elsewhere).")
    parser.add_argument("run", help="run folder, or its name in runs/")
    parser.add_argument("stage", nargs="?", help="node of the pipeline; without it, the funnel of all")
    parser.add_argument(
        "--dropped", nargs="?", const="", metavar="REASON",
        help="dropped rows: how many for each reason, then all; of one reason if given",
    )  # fmt: skip
    parser.add_argument("--file", default="", help="another JSONL file of the stage, such as topics.jsonl")
    parser.add_argument(
        "--limit", type=whole_number, default=None, help=f"rows to show (default: all in a pager, {PLAIN_ROWS} elsewhere; 0 = all)"
    )  # fmt: skip
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    folder = resolve_run(given.run, Path(given.runs))
    nodes = nodes_of(folder, given.stage)
    if given.stage is None:
        for name, entry in nodes.items():
            counts = entry["counts"]
            dropped = ", ".join(f"{reason} {number}" for reason, number in counts.get("dropped", {}).items())
            funnel = f"in {counts.get('in', 0):>6,}  kept {counts.get('kept', 0):>6,}  {dropped}"
            print(f"{name:<18} {entry['status']:<9} {funnel}".rstrip())
        return 0
    file = _row_file(folder, given.stage, given.file)
    counts = Counter(_reason(row) for row in jsonl.iterate(file))
    if given.dropped and given.dropped not in counts:
        raise SelfAlignError(f"{file}: {unknown('reason', given.dropped, sorted(filter(None, counts)))}")
    pager = _pager()
    limit = given.limit if given.limit is not None else 0 if pager else PLAIN_ROWS
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    _print_paged(_row_lines(file, counts, given.dropped, limit, width), pager)
    return 0


def _row_file(folder: Path, stage: str, name: str) -> Path:
    """The file with the rows of a stage. Raises SelfAlignError where it has none, or none of that name."""
    from selfalign.report import load_run

    node = next(node for node in load_run(folder).nodes if node.name == stage)
    there = sorted(path.name for path in node.folder.glob("*.jsonl")) if node.folder else []
    if name and name not in there:
        raise SelfAlignError(f"{stage}: {unknown('file', name, there)}")
    found = name or next((file for file in ROW_FILES if file in there), "")
    if node.folder is None or not found:
        raise SelfAlignError(f"{stage} has no rows to show: its status is {node.status}")
    return node.folder / found


def _reason(row: jsonl.Row) -> str:
    """Why a row was dropped; empty where it was kept, or where its kind is never dropped."""
    return "" if row.get("kept", True) else str(row.get("reason") or "no reason given")


def _row_lines(file: Path, counts: Counter[str], dropped: str | None, limit: int, width: int) -> Iterator[str]:
    """The text of a stage's rows, read as it is asked for; `width` 0 leaves lines as long as they are."""
    reasons = sorted(((r, n) for r, n in counts.items() if r), key=lambda item: (-item[1], item[0]))
    if dropped == "":
        total = sum(number for _, number in reasons)
        yield f"{total:,} of {counts.total():,} rows of {file} were dropped{':' if reasons else ''}"
        yield from (f"{number:>10,}  {reason}" for reason, number in reasons)
    wanted = {""} if dropped is None else {dropped} if dropped else {reason for reason, _ in reasons}
    total = sum(counts[reason] for reason in wanted)
    shown = min(total, limit or total)
    chosen = (row for row in jsonl.iterate(file) if _reason(row) in wanted)
    for row in itertools.islice(chosen, shown):
        yield "-" * (min(width, 80) or 80)
        for key, value in row.items():
            if value not in ("", None, []):
                yield f"{key:>{_LABEL - 2}}: {_readable(value, width)}"
    yield "-" * (min(width, 80) or 80)
    kind = "rows" if dropped is None else f"rows dropped as {dropped}" if dropped else "dropped rows"
    yield f"{shown:,} of {total:,} {kind} of {file}"


def _readable(value: Any, width: int) -> str:
    """A value as text: indented below itself, wrapped at words where a width is given, without control characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A model can write anything, also what moves a terminal's cursor.
    text = "".join("\ufffd" if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    lines = text.split("\n")
    if width:
        room = max(width - _LABEL, 24)
        lines = [part for line in lines for part in textwrap.wrap(line, room, break_on_hyphens=False) or [""]]
    return ("\n" + " " * _LABEL).join(lines)


def _pager() -> list[str]:
    """The command that pages: $PAGER, else less; empty where the output is no terminal or there is none to start."""
    if not sys.stdout.isatty():
        return []
    chosen = os.environ.get("PAGER", "").strip()
    try:
        command = shlex.split(chosen or "less")
    except ValueError:
        command = []
    if command and shutil.which(command[0]):
        return command
    if chosen:
        print(f"PAGER='{chosen}' cannot be started; this is plain text", file=sys.stderr)
    return []


def _print_paged(lines: Iterable[str], pager: Sequence[str]) -> None:
    """Print lines through a pager, or plainly without one. Ctrl-C and a reader that has seen enough end it quietly."""
    if not pager:
        try:
            for line in lines:
                print(line)
        except KeyboardInterrupt:
            print()
        return
    # Quit where all fits the screen, show colours, leave the text there: what git asks of less, unless the user says more.
    environment = {"LESS": "FRX", **os.environ}
    with subprocess.Popen(pager, stdin=subprocess.PIPE, encoding="utf-8", env=environment) as process:
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                pipe.writelines(f"{line}\n" for line in lines)
        except (BrokenPipeError, KeyboardInterrupt):
            pass
        while True:
            try:
                process.wait()
                return
            except KeyboardInterrupt:
                # The pager has the terminal and answers to Ctrl-C itself: left alone, it would leave the terminal raw.
                continue
