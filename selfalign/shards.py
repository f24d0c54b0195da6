"""`shard=i/n`: several processes with the same settings and one shared folder divide each generation among themselves.

Shard i computes every n-th group of requests, from the i-th on, in a file of its own, and waits for the files of the others.
All of them then go on with all completions, as a process alone would; which of them publishes does not matter. Nothing but
files is exchanged, so that a Slurm array on a common file system is enough.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from selfalign import jsonl
from selfalign.errors import ConfigError, DataError

POLL_S = 2.0
"""Seconds between two looks for the other shards' files."""
GONE = "left"


@dataclass(frozen=True)
class Shard:
    """One of the processes."""

    number: int
    """Which, from 1 on."""
    of: int
    """How many there are."""
    folder: Path = Path()
    """Where the shards of one stage lay down what they have computed."""

    def __str__(self) -> str:
        """`2-of-4`: its name in those of files."""
        return f"{self.number}-of-{self.of}"

    def at(self, folder: Path) -> Shard:
        """The same shard, for the stage whose files are exchanged in this folder."""
        return replace(self, folder=folder)

    def exchange(
        self, name: str, ids: Sequence[Sequence[str]], compute: Callable[[Path], object]
    ) -> dict[str, jsonl.Row]:
        """The rows of all shards by id, once all have computed theirs.

        `ids` are those of the requests, group by group. `compute` writes the rows of this shard's groups to a file, which may
        hold what an earlier attempt left there. Raises DataError where another shard has computed other requests.
        """
        own = self._file(name, self.number)
        if not own.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = own.with_suffix(".part")
            # Also where no group is this shard's.
            part.touch()
            compute(part)
            os.replace(part, own)
        self._wait(name)
        rows: dict[str, jsonl.Row] = {}
        for number in range(1, self.of + 1):
            found = {row["id"]: row for row in jsonl.read(self._file(name, number))}
            expected = {one for group in ids[number - 1 :: self.of] for one in group}
            if found.keys() != expected:
                raise DataError(
                    f"{self._file(name, number)}: expected the {len(expected)} requests of shard {number}/{self.of}, found "
                    f"{len(found)} and not the same; start all shards with the same settings, engine.batch_size too, and "
                    f"delete {self.folder}"
                )
            rows |= found
        return rows

    def _file(self, name: str, number: int) -> Path:
        """The rows of a shard; it is there once it is complete."""
        return self.folder / f"{name}.{number}-of-{self.of}.jsonl"

    def _wait(self, name: str) -> None:
        """Return when all shards' files are there; says on standard error which are not, whenever that changes."""
        told: list[str] = []
        while missing := [f"{n}/{self.of}" for n in range(1, self.of + 1) if not self._file(name, n).exists()]:
            if missing != told:
                print(
                    f"  shard {self.number}/{self.of} is done with {name}; waiting for {', '.join(missing)}",
                    file=sys.stderr,
                    flush=True,
                )
                told = missing
            time.sleep(POLL_S)

    def leave(self) -> None:
        """Say that this shard needs the folder no more; the last one deletes it."""
        if not self.folder.is_dir():
            return
        try:
            (self.folder / f"{self}.{GONE}").touch()
            if len(list(self.folder.glob(f"*-of-{self.of}.{GONE}"))) == self.of:
                shutil.rmtree(self.folder, ignore_errors=True)
        except FileNotFoundError:
            # Another shard was the last in the same moment.
            return


def problems(text: str) -> list[str]:
    """What is wrong with a value of `shard`."""
    if not text or ((found := re.fullmatch(r"(\d+)/(\d+)", text)) and 1 <= int(found[1]) <= int(found[2])):
        return []
    return [
        f"shard: expected i/n with i from 1 to n, found '{text}' (allowed: 1/4 to 4/4 for four processes, or nothing for one); "
        "give every process its own number, as shard=$SLURM_ARRAY_TASK_ID/4 does in sbatch --array=1-4"
    ]


def read(text: str) -> Shard | None:
    """The shard that `i/n` means; None for a process alone. Raises ConfigError for anything else."""
    if found := problems(text):
        raise ConfigError(found)
    number, _, of = text.partition("/")
    return Shard(int(number), int(of)) if text and int(of) > 1 else None
