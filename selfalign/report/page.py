"""A written report in, its tables out: what the exports write and what `selfalign verify` compares.

Tables are read from the page itself, so that none can be missing from an export and none can differ from what readers see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

META = "selfalign-report"
"""Name of the meta element that says which runs a page is about."""
SUMMARIES = ("h3", "h4", "summary")
"""Elements whose text names the table below them, inside a section that an h2 names."""


@dataclass(frozen=True)
class Cell:
    """One cell."""

    text: str
    value: str = ""
    """What it is sorted by, a number in full precision; empty where there is none beside the text."""


@dataclass(frozen=True)
class PageTable:
    """One table."""

    title: str
    """Run (of a page with several), section, and what stands above the table."""
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class About:
    """What a page says of itself."""

    version: str
    """Of selfalign."""
    runs: tuple[str, ...]
    """Run ids, in the order of the page."""
    control: str
    """Run id of the control that was asked for; empty where none was."""


def tables(page: str) -> list[PageTable]:
    """The tables of a page, in order."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    return reader.tables


def about(page: str) -> About | None:
    """What a page says of itself; None for a page of another making, or of a version that said nothing."""
    reader = _Reader()
    reader.feed(page.partition("<body>")[0])
    if reader.about is None:
        return None
    found = json.loads(reader.about)
    return About(found["version"], tuple(found["runs"]), found["control"])


class _Reader(HTMLParser):
    """Follows the elements of a page; markup in a text is escaped there, and comes here as text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[PageTable] = []
        self.about: str | None = None
        self._names = {"run": "", "h2": "", "below": ""}
        self._details: list[bool] = []
        self._collected: list[str] | None = None
        self._head: list[str] = []
        self._rows: list[list[Cell]] = []
        self._value = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "meta" and found.get("name") == META:
            self.about = found.get("content", "")
        elif tag == "details":
            self._details.append(found.get("class") == "run")
        elif tag == "table":
            self._head, self._rows = [], []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td", "h2", *SUMMARIES):
            self._collected, self._value = [], found.get("data-v", "")
        elif tag == "br" and self._collected is not None:
            self._collected.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == "details":
            if self._details.pop():
                self._names = {"run": "", "h2": "", "below": ""}
        elif tag == "table":
            rows = tuple(tuple(row) for row in self._rows if row)
            self.tables.append(PageTable(self._title(), tuple(self._head), rows))
        elif tag in ("th", "td", "h2", *SUMMARIES) and self._collected is not None:
            text = " ".join("".join(self._collected).split())
            self._collected = None
            self._take(tag, text)

    def handle_data(self, data: str) -> None:
        if self._collected is not None:
            self._collected.append(data)

    def _take(self, tag: str, text: str) -> None:
        if tag == "th":
            self._head.append(text)
        elif tag == "td":
            self._rows[-1].append(Cell(text, self._value if self._value != text else ""))
        elif tag == "h2":
            self._names |= {"h2": text, "below": ""}
        elif tag == "summary" and self._details == [True]:
            self._names = {"run": text, "h2": "", "below": ""}
        else:
            self._names["below"] = text

    def _title(self) -> str:
        return ": ".join(name for name in self._names.values() if name) or "Runs"


def differences(told: str, found: str) -> list[str]:
    """Where a page says something else than another one of the same runs, cell by cell; `found` is what stands to be true."""
    if told == found:
        return []
    theirs, ours = _named(tables(told)), _named(tables(found))
    lines = [f"table '{title}': it is in no report of these runs" for title in theirs if title not in ours]
    lines += [f"table '{title}': it is missing" for title in ours if title not in theirs]
    for title in (title for title in ours if title in theirs):
        lines += _cells(theirs[title], ours[title])
    return lines or [f"its texts or figures: {_first(told, found)}"]


def _named(found: Sequence[PageTable]) -> dict[str, PageTable]:
    """Tables by title; of those with the same, the second is called `(2)`."""
    named: dict[str, PageTable] = {}
    for one in found:
        number = sum(other.title == one.title for other in named.values()) + 1
        named[one.title + (f" ({number})" if number > 1 else "")] = one
    return named


def _cells(told: PageTable, found: PageTable) -> list[str]:
    if told.head != found.head or len(told.rows) != len(found.rows):
        return [f"table '{told.title}': expected {len(found.rows)} rows of {len(found.head)} columns, found {len(told.rows)} of "
                f"{len(told.head)}, or other headings"]  # fmt: skip
    lines = []
    for theirs, ours in zip(told.rows, found.rows, strict=True):
        for index, (was, now) in enumerate(zip(theirs, ours, strict=False)):
            if was != now:
                column = found.head[index] if index < len(found.head) else str(index + 1)
                lines.append(f"table '{told.title}', row '{ours[0].text}', {column}: it says {_said(was)}, and the "
                f"stored items give "
                             f"{_said(now)}")  # fmt: skip
        if len(theirs) != len(ours):
            lines.append(f"table '{told.title}', row '{ours[0].text}': expected {len(ours)} cells, found {len(theirs)}")
    return lines


def _said(cell: Cell) -> str:
    return f"'{cell.text}'" + (f" ({cell.value})" if cell.value else "")


def _first(told: str, found: str) -> str:
    """Some signs around the first difference."""
    at = next(
        (index for index, (a, b) in enumerate(zip(told, found, strict=False)) if a != b), min(len(told), len(found))
    )
    start = max(0, at - 20)
    return f"it says {told[start : at + 20]!r}, and the stored items give {found[start : at + 20]!r}"


def meta(version: str, runs: Sequence[str], control: str) -> str:
    """The content of the meta element META."""
    content: dict[str, Any] = {"version": version, "runs": list(runs), "control": control}
    return json.dumps(content, ensure_ascii=False)


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")[:80]
