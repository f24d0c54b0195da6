"""What judges said of a run's answers, to its tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.commands.arguments import read_manifest

if TYPE_CHECKING:
    from selfalign.experiment import Experiment
    from selfalign.pipeline import NodeResult
    from selfalign.report.drawings import DataTable


def track(
    folder: Path,
    node: str,
    result: NodeResult,
    stage: Any,
    settings: Experiment,
    summary: Mapping[str, float | int | str],
    tables: Sequence[DataTable],
) -> None:
    """Log what came of a judge's node, once, as a W&B run of its own in the group of the run: an offline run that has ended cannot
    be gone on with."""
    from selfalign import tracking
    from selfalign.identity import plain

    manifest = read_manifest(folder)
    run_id = f"{manifest['run_id']}-{result.artifact}"
    if tracking.is_logged(folder, run_id):
        return
    tracker = tracking.open_tracker(
        settings.tracking,
        folder=folder,
        run_id=run_id,
        name=f"{manifest['run_id']} {node}",
        group=manifest["group"],
        job_type="judge",
        config={
            "run_id": manifest["run_id"],
            "judge": plain(stage, keep_transient=True),
            "engine": plain(settings.engine, keep_transient=True),
        },
    )
    code = 1
    try:
        tracker.summary(summary)
        for table in tables:
            tracker.table(table.name, table.columns, table.rows)
        tracker.artifact(node, "evaluation", Path(result.path), {"artifact": result.artifact, "counts": result.counts})
        code = 0
    finally:
        tracker.finish(code)
