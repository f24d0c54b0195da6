"""Run folders in, the comparison out: a terminal table, one self-contained HTML file, Markdown and CSV.

Nothing here loads a model or computes a score anew: scores are read from the files of a run, and differences between
runs are computed from the items behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from selfalign.report.model import Node, Run, load_run, load_runs
from selfalign.tracking import Tracker

if TYPE_CHECKING:
    from selfalign.report.wandb_report import Published

__all__ = [
    "Node",
    "Run",
    "export_tables",
    "load_run",
    "load_runs",
    "print_scores",
    "publish",
    "sync",
    "track",
    "write",
]


def write(folders: Sequence[Path], path: Path, *, control: str = "") -> Path:
    """Write the report of these run folders (or folders of runs) as one HTML file; returns its path.

    `control` is the id of the run that the others are compared with (default: the first that leaves out no principle).
    Raises DataError for a folder that is no run, and for a control that is none of them.
    """
    # Imported here: the command line reads this package at start-up, and jinja2 is needed only now.
    from selfalign.report import html

    return html.write(load_runs(folders), path, control=control)


def export_tables(folders: Sequence[Path], out: Path, *, control: str = "") -> list[Path]:
    """Write every table of the report of these runs as CSV, LaTeX and Markdown into a folder; returns the paths. As `write`."""
    from selfalign.report import ablation, html
    from selfalign.report.export import write as write_tables

    runs = load_runs(folders)
    return write_tables(html.render(runs, control=control), runs, ablation.compare(runs, control), out)


def publish(folders: Sequence[Path], page: Path) -> Published:
    """Send a written report of these runs to W&B; a second call brings it up to date. As `wandb_report.publish`."""
    from selfalign.report import wandb_report

    return wandb_report.publish(page, load_runs(folders))


def sync(page: Path, name: str) -> str:
    """Send the report of a page to W&B where `publish` was asked for and could not, and say what became of it; `name` is what
    `selfalign report` calls its run or sweep. Empty where no page is written. Raises as `wandb_report.publish`."""
    from selfalign.report import check, wandb_report

    if not page.is_file():
        return ""
    if wandb_report.is_waiting(page):
        return str(publish(check.runs_of(page), page))
    if known := wandb_report.published(page):
        return f"already published: {known['url']}; `selfalign report {name} --publish` brings it up to date"
    return f"report: not on W&B; `selfalign report {name} --publish` sends {page}"


def track(folder: Path, tracker: Tracker) -> None:
    """Log what a run's data look like (funnel, principle use, diversity) and what stands behind its scores: tables as `data/...`,
    `protocols`, `validity` and `items/...`, figures as `figures/...`.

    Raises DataError for a folder that is no run.
    """
    from selfalign.report import drawings, html, outcomes, telemetry

    run = load_run(folder)
    (found,) = telemetry.collect([run])
    for table in drawings.tables(found):
        tracker.table(f"data/{table.name}", table.columns, table.rows)
    for name, sheets in (("protocols", outcomes.protocols([run])), ("validity", outcomes.gate([run]))):
        for sheet in sheets:
            tracker.table(name, sheet.head, sheet.rows)
    for table in outcomes.tables(run):
        tracker.table(table.name, table.columns, table.rows)
    for name, drawing in drawings.drawings(found).items():
        tracker.figure(f"figures/{name}", html.figure_page(drawing))


def print_scores(folders: Sequence[Path], *, nodes: bool = True, control: str = "") -> None:
    """Print the nodes (unless told not to), scores and effects of these runs: tables on a terminal, plain text elsewhere.

    `control` is as in `write`. Raises DataError for a folder that is no run, and for a control that is none of them.
    """
    from selfalign.report import terminal

    terminal.print_runs(load_runs(folders), nodes=nodes, control=control)
