"""The artifact store: a stage's result is computed once, published by one rename, and found again by its name.

A store is a folder. `<store>/<Stage>-<version>-<hash>/` is complete or not there; `.partial/` holds work that a crash
may have interrupted and the next attempt continues; `.locks/` keeps two processes from computing the same thing;
`.damaged/` keeps what no longer matches its checksums."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from selfalign import __version__, jsonl
from selfalign.errors import DataError, StageError
from selfalign.identity import file_digest
from selfalign.resources import PACKAGE

MANIFEST = "manifest.json"
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "pytorch-lightning",
    "lm-eval",
    "hydra-core",
    "omegaconf",
    "wandb",
    "tokenizers",
)


@dataclass
class Outcome:
    """What a stage reports about its work: goes into the manifest."""

    rows_in: int = 0
    """Rows that the stage looked at."""
    kept: int = 0
    """Rows that stayed."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows dropped, by reason; `kept` and these add up to `rows_in`."""
    metrics: dict[str, float | int | str | None] = field(default_factory=dict)
    """Numbers worth showing, none of them dependent on the clock."""


@dataclass(frozen=True)
class Artifact:
    """A published result: a folder and its manifest."""

    name: str
    path: Path
    manifest: Mapping[str, Any]

    def file(self, relative: str) -> Path:
        """A file of the artifact. Raises DataError where the manifest does not list it."""
        if relative not in self.manifest["files"]:
            raise DataError(f"{self.name} has no file '{relative}'; it has: {', '.join(self.manifest['files'])}")
        return self.path / relative


@cache
def provenance() -> dict[str, Any]:
    """Which software this process runs: versions of selfalign, Python and the packages results rest on, and the git
    commit."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "selfalign": __version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": versions,
        "git": _git(),
    }


def _git() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that selfalign runs from; None for an installed wheel."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        ask = ["git", "-C", str(PACKAGE.parent)]
        commit = subprocess.run([*ask, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run([*ask, "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


class Store:
    """A folder of artifacts; safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: set[str] = set()

    def path(self, name: str) -> Path:
        """Where the artifact of this name lies, or will lie."""
        return self.root / name

    def find(self, name: str) -> Artifact | None:
        """The published artifact of this name, its checksums verified; None where there is none.

        A damaged one is moved to `.damaged/` and named on standard error: it will be computed again.
        """
        path = self.path(name)
        if not path.is_dir():
            return None
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            damage = None if name in self._verified else self.damage(path, manifest["files"])
        except (OSError, ValueError, KeyError) as error:
            manifest, damage = {}, f"{MANIFEST} cannot be read ({error})"
        if damage is None:
            self._verified.add(name)
            return Artifact(name, path, manifest)
        aside = self.root / ".damaged" / f"{name}-{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        os.replace(path, aside)
        print(f"damaged: {name}: {damage}; moved to {aside}, computing it again", file=sys.stderr)
        return None

    @staticmethod
    def damage(path: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
        """The first file that is missing or does not match the checksum its manifest states; None where all do."""
        for relative, stated in files.items():
            file = path / relative
            if not file.is_file():
                return f"{relative} is missing"
            if file.stat().st_size != stated["bytes"] or file_digest(file) != stated["sha256"]:
                return f"{relative} does not match its checksum"
        return None

    def is_published(self, name: str) -> bool:
        """Whether an artifact of this name is there; cheap, without verifying it."""
        return (self.path(name) / MANIFEST).is_file()

    def is_busy(self, name: str) -> bool:
        """Whether another process is computing the artifact of this name at this moment, so that `compute` would wait."""
        if self.is_published(name):
            return False
        try:
            with self._lock(name).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def compute(
        self,
        name: str,
        description: Mapping[str, Any],
        work: Callable[[Path], Outcome],
        on_wait: Callable[[], None],
        part: str = "",
    ) -> tuple[Artifact, bool]:
        """The artifact of this name, and whether this call computed it.

        `work` gets the partial folder, which may hold what an earlier attempt left there. `description` (stage,
        settings, inputs) goes into the manifest. `on_wait` is called once if another process holds the lock. Processes that
        name different parts do the same work at once, each in a folder of its own, and the first to end publishes.
        Raises StageError when the disk is full; what is done so far stays for the next attempt.
        """
        own = f"{name}.{part}" if part else name
        partial = self.root / ".partial" / own
        try:
            with self._locked(own, on_wait):
                if (found := self.find(name)) is not None:
                    self.drop_partial(own)
                    return found, False
                partial.mkdir(parents=True, exist_ok=True)
                started = time.monotonic()
                outcome = work(partial)
                self._check(name, outcome)
                with self._locked(name, on_wait) if part else nullcontext():
                    if part and (found := self.find(name)) is not None:
                        self.drop_partial(own)
                        return found, False
                    self._publish(name, partial, description, outcome, time.monotonic() - started)
        except OSError as error:
            if error.errno in (28, 122):  # ENOSPC, EDQUOT
                raise StageError(
                    f"{name}: no space left on the disk of {self.root}; the work so far is kept in {partial}: "
                    "free some space and run the same command again"
                ) from error
            raise
        artifact = self.find(name)
        if artifact is None:
            raise DataError(
                f"{name}: just published, but it does not match its checksums; check the disk of {self.root}"
            )
        return artifact, True

    @contextmanager
    def _locked(self, name: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """The lock of this name, for the length of a `with` block; `on_wait` is called once if another process holds it."""
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _lock(self, name: str) -> FileLock:
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{name}.lock")

    def exchange(self, name: str) -> Path:
        """The folder in which processes that compute parts of this artifact lay them down."""
        return self.root / ".partial" / f"{name}.shards"

    @staticmethod
    def _check(name: str, outcome: Outcome) -> None:
        total = outcome.kept + sum(outcome.dropped.values())
        if total != outcome.rows_in:
            raise StageError(
                f"{name}: {outcome.rows_in} rows went in, but {outcome.kept} kept and {outcome.dropped} dropped "
                f"make {total}; this is a mistake in the stage, please report it"
            )

    def _publish(
        self, name: str, partial: Path, description: Mapping[str, Any], outcome: Outcome, seconds: float
    ) -> None:
        files = {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(partial.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        }
        manifest = {
            "artifact": name,
            **description,
            "counts": {"in": outcome.rows_in, "kept": outcome.kept, "dropped": dict(sorted(outcome.dropped.items()))},
            "metrics": outcome.metrics,
            "seconds": round(seconds, 3),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **provenance(),
            "files": files,
        }
        jsonl.write_json(partial / MANIFEST, manifest)
        os.replace(partial, self.path(name))

    def drop_partial(self, name: str) -> None:
        """Forget interrupted work of this name."""
        shutil.rmtree(self.root / ".partial" / name, ignore_errors=True)
