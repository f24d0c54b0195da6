"""Offline W&B runs to the server: run folders in, each offline run below them pushed once with `wandb sync`.

wandb marks a run that it has uploaded with a file `run-<id>.wandb.synced` beside it; its exit code says little (it is 0
even where a run could not be sent), so that mark alone counts as success.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from selfalign.errors import DataError, MissingDependencyError, SelfAlignError
from selfalign.tracking.settings import INSTALL, base_url, has_credentials, is_installed
from selfalign.tracking.trackers import wandb_id

WANDB_SYNC = (sys.executable, "-m", "wandb", "sync")


@dataclass(frozen=True)
class Synced:
    """What became of one offline run."""

    run_folder: Path
    """The run folder that it belongs to."""
    offline_run: Path
    """The folder `offline-run-...` that was, or had been, pushed."""
    is_new: bool
    """False where an earlier call had already pushed it."""

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{'pushed' if self.is_new else 'already pushed'}: {self.offline_run}"


def offline_runs(run_folder: Path) -> list[Path]:
    """The offline W&B runs below a run folder, the oldest first. Raises DataError where the folder does not exist."""
    if not run_folder.is_dir():
        raise DataError(f"{run_folder}: expected a run folder, found none; check the path")
    found = [path.parent for path in run_folder.glob("**/offline-run-*/*.wandb") if not path.parent.is_symlink()]
    return sorted(set(found), key=lambda path: path.name)


def is_logged(run_folder: Path, run_id: str) -> bool:
    """Whether there is an offline run of this id below a run folder already: a second one would be pushed beside it."""
    return run_folder.is_dir() and any(path.name.endswith(f"-{wandb_id(run_id)}") for path in offline_runs(run_folder))


def is_synced(offline_run: Path) -> bool:
    """Whether wandb has marked every log of this offline run as uploaded."""
    return all(path.with_suffix(".wandb.synced").exists() for path in offline_run.glob("*.wandb"))


def _reach(url: str, timeout_s: float) -> None:
    """Raise SelfAlignError where the server cannot be reached: `wandb sync` itself would try again for hours."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s):
            pass
    except urllib.error.HTTPError:
        # Any answer at all means that the server is there.
        return
    except (OSError, ValueError) as error:
        raise SelfAlignError(
            f"expected to reach the W&B server at {url}, found: {getattr(error, 'reason', error)}; nothing was sent "
            "and nothing is lost: check network, proxy and WANDB_BASE_URL, then run the same command again"
        ) from None


def sync(
    run_folders: Iterable[Path],
    *,
    command: Sequence[str] = WANDB_SYNC,
    timeout_s: float = 1800.0,
    reach_timeout_s: float = 10.0,
) -> list[Synced]:
    """Push every offline run below these folders that has not been pushed yet; a second call sends nothing.

    Raises DataError for a folder without any offline run, MissingDependencyError without wandb, and SelfAlignError
    without login or network, after `timeout_s` seconds for one run, or where wandb did not mark a run as sent.
    """
    results: list[Synced] = []
    waiting: list[Synced] = []
    for run_folder in run_folders:
        found = offline_runs(run_folder)
        if not found:
            raise DataError(
                f"{run_folder}: expected offline W&B runs (wandb/offline-run-*), found none; only runs with "
                "tracking=wandb_offline have them"
            )
        for path in found:
            entry = Synced(run_folder, path, is_new=not is_synced(path))
            results.append(entry)
            if entry.is_new:
                waiting.append(entry)
    if not waiting:
        return results
    if not is_installed():
        raise MissingDependencyError(f"`selfalign sync` expected the package wandb, found it missing; {INSTALL}")
    if not has_credentials():
        raise SelfAlignError(
            "`selfalign sync` expected a W&B login, found neither WANDB_API_KEY nor a netrc entry; "
            "run `wandb login` first"
        )
    _reach(base_url(os.environ), reach_timeout_s)
    for entry in waiting:
        _push(entry, command, timeout_s)
    return results


def _push(entry: Synced, command: Sequence[str], timeout_s: float) -> None:
    cache = entry.offline_run.parent / "cache"
    environment = {
        **os.environ,
        "WANDB_CACHE_DIR": str(cache),
        "WANDB_DATA_DIR": str(entry.offline_run.parent / "data"),
    }
    try:
        done = subprocess.run(
            [*command, str(entry.offline_run)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SelfAlignError(
            f"{entry.offline_run}: expected wandb to send it within {timeout_s:g} s, found it still trying; check the "
            "network and run the same command again: what was sent is not sent twice"
        ) from None
    if done.returncode != 0 or not is_synced(entry.offline_run):
        said = " | ".join((done.stderr + done.stdout).strip().splitlines()[-4:]) or "nothing"
        raise SelfAlignError(
            f"{entry.offline_run}: expected wandb to mark it as synced, found exit code {done.returncode}; wandb said: "
            f"{said}; put that right and run the same command again"
        )
