"""What a run may spend and what it has spent: settings and stages at work in, a stop at the bound and a ledger out.

A run spends where it computes: hours of the clock, tokens that engines read and write, and money by the price of its devices. What
is reused costs nothing. The ledger is a file of the run folder, so that a run that is stopped and started again goes on counting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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


@dataclass(frozen=True)
class BudgetSettings:
    """What one run may spend, over all its attempts; in a sweep, each job. 0 is no bound."""

    hours: float = 0.0
    """Hours of the clock that it may compute (>= 0). It is stopped in the middle of a stage, which goes on from there later."""
    tokens: int = 0
    """Tokens that its generating stages may read and write, prompts counted whole (>= 0). Looked at whenever a stage is done."""
    money: float = 0.0
    """Hours times plan.devices times plan.price_per_hour (>= 0)."""


def problems(settings: BudgetSettings, price_per_hour: float) -> list[str]:
    """What is wrong with the settings; a bound in money needs a price."""
    found = [
        f"budget.{name}: expected 0 (no bound) or more, found {value}"
        for name, value in vars(settings).items()
        if not value >= 0
    ]
    if settings.money > 0 and not price_per_hour > 0:
        found.append(
            f"budget.money={settings.money:g} needs the price of a device for an hour, found plan.price_per_hour="
            f"{price_per_hour:g}; set it, or bound the hours (budget.hours)"
        )
    return found


def tokens_of(folder: Path) -> tuple[int, int]:
    """Tokens that the generation behind an artifact read and wrote; zeros where it generated nothing."""
    files = [folder / "completions.jsonl", *sorted((folder / "completions").glob("*.jsonl"))]
    rows = [row for file in files if file.is_file() for row in jsonl.iterate(file)]
    return sum(row["prompt_tokens"] for row in rows), sum(row["new_tokens"] for row in rows)


def spent(run: Path) -> list[jsonl.Row]:
    """The rows of a run's ledger; none where it computed nothing."""
    return jsonl.recover(run / LEDGER)


class Ledger:
    """What a run has spent so far, and the stop when that is too much."""

    def __init__(
        self,
        folder: Path,
        settings: BudgetSettings,
        price_of_an_hour: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` is the run's; `price_of_an_hour` that of all devices together."""
        self._file, self._settings, self._price, self._clock = folder / LEDGER, settings, price_of_an_hour, clock
        rows = spent(folder)
        self._seconds = sum(row["seconds"] for row in rows)
        self._tokens = sum(row["tokens"] for row in rows)
        self._node, self._begun = "", 0.0

    def begin(self, node: str) -> None:
        """A node's turn has come. Raises BudgetError where nothing is left to spend."""
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
        """Raise BudgetError, naming the bound, where a run has spent more than it may."""
        hours = (self._seconds + (self._clock() - self._begun if self._node else 0.0)) / 3600
        spent = {"hours": hours, "tokens": self._tokens, "money": hours * self._price}
        for name, value in spent.items():
            most = getattr(self._settings, name)
            if 0 < most < value:
                raise BudgetError(
                    f"budget.{name}: expected at most {most:,g} to be spent on this run, found {value:,.6g}; what is done is kept: "
                    f"raise budget.{name} and run the same command again to go on"
                )

    def watched(
        self, progress: Callable[[str, int, str], AbstractContextManager[Progress]]
    ) -> Callable[[str, int, str], AbstractContextManager[Progress]]:
        """The same progress, which stops a stage at work once its run has spent too much."""

        @contextmanager
        def shown(label: str, total: int, unit: str) -> Iterator[Progress]:
            with progress(label, total, unit) as inner:

                def tell(done: int, note: str = "") -> None:
                    inner(done, note)
                    self.check()

                yield tell

        return shown
