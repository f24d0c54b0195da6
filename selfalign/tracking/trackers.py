"""Trackers: metrics, tables and artifacts of one run in; a W&B run below the run folder, or nothing, out.

Facts of wandb 0.31 that this file answers to: a second `init` returns the first run unless `reinit='create_new'`; files
added to an artifact are copied below the home folder unless told otherwise; offline `resume` does nothing, so steps are
logged explicitly; a failed run looks finished unless `finish(exit_code=1)` says so.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from selfalign.errors import MissingDependencyError, SelfAlignError
from selfalign.tracking.scrub import scrub
from selfalign.tracking.settings import INSTALL, Mode, TrackingSettings, is_installed

if TYPE_CHECKING:
    import wandb

STEP = "global_step"
"""Name of the explicit step: it goes on over restarts, where W&B's own starts at 0 again."""


class Tracker(Protocol):
    """Where one run is logged. Nothing is written outside the run folder."""

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of one moment, at `step` on the x axis; what is not finite is noted in the summary instead."""
        ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of at most `tables_max_rows` rows; how many there were is in the summary."""
        ...

    def figure(self, name: str, page: str) -> None:
        """A figure as an HTML page of its own, which asks for nothing outside itself."""
        ...

    def artifact(self, name: str, kind: str, folder: Path, metadata: Mapping[str, Any]) -> None:
        """A folder, by reference: its files are not copied, so they must stay where they are until they are synced."""
        ...

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final values of the run: numbers or short texts."""
        ...

    def finish(self, exit_code: int) -> None:
        """End the run; any exit code but 0 marks it as failed. A second call does nothing."""
        ...


class NoTracker:
    """Logs nothing."""

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Do nothing."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing."""

    def figure(self, name: str, page: str) -> None:
        """Do nothing."""

    def artifact(self, name: str, kind: str, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Do nothing."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self, exit_code: int) -> None:
        """Do nothing."""


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """wandb's folders inside `folder` and its voice off, for the length of one call; then all is as before."""
    inside = {
        "WANDB_DATA_DIR": str(folder / "wandb" / "data"),
        "WANDB_CACHE_DIR": str(folder / "wandb" / "cache"),
        "WANDB_ARTIFACT_DIR": str(folder / "wandb" / "artifacts"),
        "WANDB_SILENT": "true",
    }
    # The background service leaves its address here for child processes; ours log nothing.
    touched = {name: os.environ.get(name) for name in (*inside, "WANDB_SERVICE")}
    os.environ.update(inside)
    try:
        yield
    finally:
        for name, value in touched.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def wandb_id(run_id: str) -> str:
    """A run id that W&B accepts: at most 64 characters, none of them reserved; the same for the same `run_id`."""
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "-", run_id)
    if cleaned == run_id and len(run_id) <= 64:
        return run_id
    return f"{cleaned[:51]}-{hashlib.sha256(run_id.encode()).hexdigest()[:12]}"


class WandbTracker:
    """One W&B run; obtained from `open_tracker`."""

    def __init__(self, start: Callable[[], wandb.Run], folder: Path, tables_max_rows: int) -> None:
        self._folder = folder.resolve()
        self._tables_max_rows = tables_max_rows
        self._finished = False
        with _environment(self._folder):
            self._run = start()
            self._run.define_metric(STEP, hidden=True)
            self._run.define_metric("*", step_metric=STEP)

    @property
    def sync_folder(self) -> Path:
        """The folder that `wandb sync` takes."""
        return Path(self._run.settings.sync_dir)

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers of one moment, at `step` on the x axis; what is not finite is noted in the summary instead."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        at = "" if step is None else f" at step {step}"
        with _environment(self._folder):
            if broken := {f"not_finite/{name}": f"{metrics[name]}{at}" for name in metrics if name not in finite}:
                self._run.summary.update(broken)
            if finite:
                self._run.log(finite if step is None else {**finite, STEP: step})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of at most `tables_max_rows` rows; how many there were is in the summary."""
        import wandb

        shown: Any = [[_cell(value) for value in row] for row in rows[: self._tables_max_rows]]
        with _environment(self._folder):
            table = wandb.Table(columns=list(columns), data=shown, allow_mixed_types=True)
            self._run.log({name: table})
            self._run.summary.update({f"tables/{name}/rows": len(rows), f"tables/{name}/shown": len(shown)})

    def figure(self, name: str, page: str) -> None:
        """A figure as an HTML page of its own: W&B's images are made of pixels, and this one keeps its texts."""
        import wandb

        with _environment(self._folder):
            # Unless told otherwise, wandb links a style sheet of its server into the page.
            self._run.log({name: wandb.Html(page, inject=False, data_is_not_path=True)})

    def artifact(self, name: str, kind: str, folder: Path, metadata: Mapping[str, Any]) -> None:
        """A folder, by reference: its files are not copied, so they must stay where they are until they are synced.

        Raises SelfAlignError where there is no such folder.
        """
        import wandb

        if not folder.is_dir():
            raise SelfAlignError(f"artifact '{name}': expected a folder, found none at {folder}; check the path")
        safe = re.sub(r"[^A-Za-z0-9._-]", "-", name)[:128]
        with _environment(self._folder):
            artifact = wandb.Artifact(safe, type=kind, metadata=scrub(dict(metadata)))
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                artifact.add_file(str(path.resolve()), name=path.relative_to(folder).as_posix(), policy="immutable")
            self._run.log_artifact(artifact)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final values of the run: numbers or short texts."""
        with _environment(self._folder):
            self._run.summary.update(scrub({name: _cell(value) for name, value in values.items()}))

    def finish(self, exit_code: int) -> None:
        """End the run; any exit code but 0 marks it as failed. A second call does nothing."""
        if self._finished:
            return
        self._finished = True
        with _environment(self._folder):
            self._run.finish(exit_code=exit_code)


def _cell(value: Any) -> Any:
    """A value as W&B can hold it: a number that is not finite becomes its name."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


def open_tracker(
    settings: TrackingSettings,
    *,
    folder: Path,
    run_id: str,
    name: str,
    group: str,
    job_type: str,
    config: Mapping[str, Any],
) -> Tracker:
    """The tracker of one run; everything that it writes lies in `folder / "wandb"`. `config` is scrubbed of secrets.

    Raises MissingDependencyError where wandb is wanted but not installed, SelfAlignError where the server is silent.
    """
    if settings.mode is Mode.disabled:
        return NoTracker()
    if not is_installed():
        raise MissingDependencyError(
            f"tracking.mode={settings.mode.value} expected the package wandb, found it missing; {INSTALL}, "
            "or use tracking=none"
        )
    (folder / "wandb").mkdir(parents=True, exist_ok=True)

    def start() -> wandb.Run:
        import wandb

        quiet = wandb.Settings(
            silent=True,
            console="off",
            # W&B's own record of the machine holds command line, host, user and mail; the config holds versions.
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            save_code=False,
            # Seconds between writes to the disk: a killed run loses no more than this (wandb's default is 15).
            x_transaction_log_flush_interval=1.0,
        )
        try:
            return wandb.init(
                project=settings.project,
                entity=settings.entity or None,
                tags=list(settings.tags),
                group=group,
                job_type=job_type,
                name=scrub(name),
                id=wandb_id(run_id),
                config=scrub(dict(config)),
                # Resolved here: wandb's own process may have been started in another folder.
                dir=str(folder.resolve()),
                mode=settings.mode.value,
                # Offline, `resume` has no effect; online, a repeated run goes on under its id instead of failing.
                resume="allow",
                reinit="create_new",
                settings=quiet,
            )
        except wandb.Error as error:
            raise SelfAlignError(
                f"expected a W&B run in project '{settings.project}', found: {error}; check the login and the network, "
                "or use tracking=wandb_offline and push later with `selfalign sync`"
            ) from error

    return WandbTracker(start, folder, settings.tables_max_rows)
