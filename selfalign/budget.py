"""What a run or a sweep may spend and has spent: settings and stages at work in, a stop at the bound and a ledger out.

A run spends where it computes: hours of the clock, tokens that engines read and write, and money by the price of its devices. What
is reused costs nothing. The ledger is a file of the run folder, so that a run that is stopped and started again goes on counting.
A sweep spends what its runs do: a stage that several of them share stands in the ledger of the one that computed it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from selfalign import jsonl
from selfalign.errors import StageError
from selfalign.pipeline import NodeResult
from selfalign.progress import Progress

LEDGER = "spent.jsonl"
"""A row for each node that a run worked on: node, artifact, seconds, tokens."""


class BudgetError(StageError):
    """A run has spent what it may."""


class SweepSpent(KeyboardInterrupt):
    """A sweep has spent what it may. It ends the run at work as Ctrl-C does: nothing failed, and later the run goes on."""


@dataclass(frozen=True)
class BudgetSettings:
    """What may be spent, over all attempts: by a run (`budget`; in a sweep, by each job), or by all jobs of a sweep together
    (`sweep_budget`). 0 is no bound."""

    hours: float = 0.0
    """Hours of the clock that it may compute (>= 0); those of jobs side by side are added up. It is stopped in the middle of a
    stage, which goes on from there later."""
    tokens: int = 0
    """Tokens that its generating stages may read and write, prompts counted whole (>= 0). Looked at whenever a stage is done."""
    money: float = 0.0
    """Hours times plan.devices times plan.price_per_hour (>= 0)."""


def problems(settings: BudgetSettings, price_per_hour: float, key: str = "budget") -> list[str]:
    """What is wrong with the settings below a key; a bound in money needs a price."""
    found = [
        f"{key}.{name}: expected 0 (no bound) or more, found {value}"
        for name, value in vars(settings).items()
        if not value >= 0
    ]
    if settings.money > 0 and not price_per_hour > 0:
        found.append(
            f"{key}.money={settings.money:g} needs the price of a device for an hour, found plan.price_per_hour="
            f"{price_per_hour:g}; set it, or bound the hours ({key}.hours)"
        )
    return found


@dataclass(frozen=True)
class Spent:
    """What was spent, in the units of the settings."""

    hours: float = 0.0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(self.hours + other.hours, self.tokens + other.tokens, self.money + other.money)


def passed(settings: BudgetSettings, spent: Spent) -> str:
    """The first bound that more was spent than; empty where there is none."""
    return next((name for name, most in vars(settings).items() if 0 < most < getattr(spent, name)), "")


def tokens_of(folder: Path) -> tuple[int, int]:
    """Tokens that the generation behind an artifact read and wrote; zeros where it generated nothing."""
    files = [folder / "completions.jsonl", *sorted((folder / "completions").glob("*.jsonl"))]
    rows = [row for file in files if file.is_file() for row in jsonl.iterate(file)]
    return sum(row["prompt_tokens"] for row in rows), sum(row["new_tokens"] for row in rows)


def spent(run: Path) -> list[jsonl.Row]:
    """The rows of a run's ledger; none where it computed nothing. Another process may be adding one: it counts once it is whole."""
    path = run / LEDGER
    text = path.read_bytes() if path.is_file() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


@dataclass(frozen=True)
class Purse:
    """What the runs of a sweep may spend together, and where it stands what they have."""

    settings: BudgetSettings
    runs: Mapping[Path, float]
    """Folder of each run -> price of an hour of all its devices."""

    def spent(self, *, without: Path | None = None) -> Spent:
        """What stands in the ledgers of all runs, or of all but one."""
        found = Spent()
        for run, price in self.runs.items():
            rows = spent(run) if run != without else []
            hours = sum(row["seconds"] for row in rows) / 3600
            found += Spent(hours, sum(row["tokens"] for row in rows), hours * price)
        return found

    def excess(self, found: Spent | None = None) -> str:
        """Which bound was passed and by how much; empty where none was. `found`: instead of what the ledgers say."""
        found = found or self.spent()
        if not (name := passed(self.settings, found)):
            return ""
        return (
            f"sweep_budget.{name}: expected at most {getattr(self.settings, name):,.10g} to be spent on this sweep, found "
            f"{getattr(found, name):,.6g}; no further job is begun and what is done is kept: give a larger sweep_budget.{name} "
            "to go on"
        )

    def told(self) -> str:
        """What was spent, beside the bounds that there are, in a line."""
        found = self.spent()
        parts = []
        for name, most in vars(self.settings).items():
            value = getattr(found, name)
            text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            if name != "money" or value or most:
                parts.append(f"{text} of {most:,.10g} {name}" if most else f"{text} {name}")
        return f"spent: {', '.join(parts)}"


class Ledger:
    """What a run has spent so far, and the stop when that is too much."""

    def __init__(
        self,
        folder: Path,
        settings: BudgetSettings,
        price_of_an_hour: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        purse: Purse | None = None,
    ) -> None:
        """`folder` is the run's; `price_of_an_hour` that of all devices together; `purse` that of its sweep."""
        self._file, self._settings, self._price, self._clock = folder / LEDGER, settings, price_of_an_hour, clock
        self._purse, self._others = purse, Spent()
        rows = jsonl.recover(self._file)
        self._seconds = sum(row["seconds"] for row in rows)
        self._tokens = sum(row["tokens"] for row in rows)
        self._node, self._begun = "", 0.0

    def begin(self, node: str) -> None:
        """A node's turn has come. Raises BudgetError, or SweepSpent, where nothing is left to spend."""
        if self._purse is not None:
            self._others = self._purse.spent(without=self._file.parent)
        self.check()
        self._node, self._begun = node, self._clock()

    def end(self, result: NodeResult | None = None) -> None:
        """The node is done, or (without a result) given up; where it computed, that is written down."""
        node, self._node = self._node, ""
        if not node or (result and result.status not in ("computed", "failed")):
            return
        seconds = round(self._clock() - self._begun, 3)
        tokens = sum(tokens_of(Path(result.path))) if result and result.status == "computed" else 0
        self._seconds, self._tokens = self._seconds + seconds, self._tokens + tokens
        row = {"node": node, "artifact": result.artifact if result else "", "seconds": seconds, "tokens": tokens}
        jsonl.append(self._file, [row])

    def check(self) -> None:
        """Raise BudgetError, naming the bound, where the run has spent more than it may, and SweepSpent where its sweep has.

        What the sweep's other runs spent is what stood in their ledgers when this run's node began.
        """
        hours = (self._seconds + (self._clock() - self._begun if self._node else 0.0)) / 3600
        own = Spent(hours, self._tokens, hours * self._price)
        if name := passed(self._settings, own):
            raise BudgetError(
                f"budget.{name}: expected at most {getattr(self._settings, name):,.10g} to be spent on this run, found "
                f"{getattr(own, name):,.6g}; what is done is kept: raise budget.{name} and run the same command again to go on"
            )
        if self._purse is not None and (why := self._purse.excess(self._others + own)):
            raise SweepSpent(why)

    def watched(
        self, progress: Callable[[str, int, str], AbstractContextManager[Progress]]
    ) -> Callable[[str, int, str], AbstractContextManager[Progress]]:
        """The same progress, which stops a stage at work once its run, or its sweep, has spent too much."""

        @contextmanager
        def shown(label: str, total: int, unit: str) -> Iterator[Progress]:
            with progress(label, total, unit) as inner:

                def tell(done: int, note: str = "") -> None:
                    inner(done, note)
                    self.check()

                yield tell

        return shown
