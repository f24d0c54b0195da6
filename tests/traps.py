"""An engine that does to its process what jobs of a sweep may do."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfalign.engines.scripted import Scripted, ScriptedEngine


@dataclass(frozen=True)
class Trap(Scripted):
    """A scripted engine that says in a file that it was opened, and then acts."""

    log: str = ""
    act: str = ""

    @contextlib.contextmanager
    def open(self, adapter: Path | None = None, more: Sequence[Path] = ()) -> Iterator[ScriptedEngine]:
        with open(self.log, "a") as log:
            log.write(f"{os.getpid()}\n")
        if self.act == "raise":
            raise RuntimeError("the floor gives way")
        if self.act == "exit":
            sys.exit(0)
        if self.act == "leave":
            os._exit(0)
        if self.act.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[self.act])
        with super().open(adapter, more) as engine:
            yield engine
