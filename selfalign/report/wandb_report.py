"""A report as a W&B Report: its tables as Markdown, its runs' scores and losses as panels. The specification is written offline.

Built with wandb-workspaces 0.4, of whose inside this file uses `_to_model` and `_from_model` (hence the pin). Facts that it
answers to: a run set with entity or project asks the server for the project while it is built, so that both are left empty,
which means the report's own; `Report.save` makes a new report unless `id` is set, so that the id is kept in a file beside the page.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign import jsonl
from selfalign.errors import MissingDependencyError, SelfAlignError
from selfalign.identity import file_digest
from selfalign.report.export import as_markdown
from selfalign.report.model import Run
from selfalign.report.page import PageTable, tables
from selfalign.report.scores import is_number
from selfalign.tracking.settings import TrackingSettings, has_credentials
from selfalign.tracking.trackers import STEP, wandb_id

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr  # pyright: ignore[reportMissingImports]

INSTALL = "pip install 'selfalign[publish]'"
LONGEST_TITLE = 128
"""Characters of a title that W&B takes."""
PANELS = 24
"""Panels of a report at most: W&B draws each from the runs themselves."""


@dataclass(frozen=True)
class Published:
    """Where a report is on the server."""

    id: str
    url: str
    is_new: bool
    """False where the report was there before and was brought up to date."""

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{'published' if self.is_new else 'brought up to date'}: {self.url}"


def spec_path(page: Path) -> Path:
    """Where the specification of a page is written."""
    return page.with_suffix(".wandb.json")


def _memory(page: Path) -> Path:
    return page.with_suffix(".published.json")


def published(page: Path) -> dict[str, str]:
    """What is remembered of a page's report once it was sent: `id` and `url` on the server; `spec`, a digest of what was sent."""
    memory = _memory(page)
    return json.loads(memory.read_text(encoding="utf-8")) if memory.is_file() else {}


def is_waiting(page: Path) -> bool:
    """Whether `publish` wrote a specification that W&B has not got: there was no login, or no network."""
    path = spec_path(page)
    return path.is_file() and published(page).get("spec") != file_digest(path)


def write_spec(page: Path, runs: Sequence[Run]) -> Path:
    """Write the specification of a written page beside it, without network and login; returns its path.

    What is written was read back and means the same. Raises MissingDependencyError without wandb-workspaces.
    """
    made = _report(page, runs)
    text = json.dumps(
        {"title": made.title, "description": made.description, "project": made.project,
         "spec": json.loads(_spec(made))}, indent=1, ensure_ascii=False,
    )  # fmt: skip
    validate(json.loads(text)["spec"])
    spec_path(page).write_text(text + "\n", encoding="utf-8")
    return spec_path(page)


def validate(spec: Any) -> int:
    """How many blocks a specification has, read as W&B's own classes read it. Raises SelfAlignError where it is none."""
    from pydantic import ValidationError
    from wandb_workspaces.reports.v2 import internal  # pyright: ignore[reportMissingImports]

    try:
        return len(internal.Spec.model_validate_json(json.dumps(spec)).blocks)
    except ValidationError as error:
        raise SelfAlignError(
            f"expected a W&B report's specification, found: {str(error).splitlines()[0]}; write it anew: selfalign "
            f"report RUN --publish"
        ) from None


def publish(page: Path, runs: Sequence[Run]) -> Published:
    """Send the report of a written page to W&B, into the project of its runs; a second call brings the same report up to date.

    Raises MissingDependencyError without wandb-workspaces, and SelfAlignError without login or where the server refuses.
    """
    path = write_spec(page, runs)
    if not has_credentials():
        raise SelfAlignError(
            f"`selfalign report --publish` expected a W&B login, found neither WANDB_API_KEY nor a netrc entry; the "
            f"specification is "
            f"written ({path}): run `wandb login`, then the same command again, or `selfalign sync`"
        )
    made = _report(page, runs)
    memory, known = _memory(page), published(page)
    import wandb

    try:
        made.entity = _tracking(runs).get("entity") or wandb.Api().default_entity or ""
        made.id = known.get("id", "")
        made.save()
        found = Published(made.id, made.url, not known)
    except Exception as error:
        # The client raises whatever its transport does; the server's own words say which it was.
        raise SelfAlignError(
            f"expected W&B to take the report, found: {type(error).__name__}: {error}; check the login and the network"
            + (f", or delete {memory} where the report was deleted there," if known else "")
            + " and run the same command again"
        ) from error
    jsonl.write_json(memory, {"id": found.id, "url": found.url, "spec": file_digest(path)})
    return found


# ------------------------------------------------------------------------------------------------------------ blocks


def _report(page: Path, runs: Sequence[Run]) -> wr.interface.Report:
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise MissingDependencyError(
            f"`selfalign report --publish` expected the package wandb-workspaces, found it missing; {INSTALL}"
        )
    import wandb_workspaces.reports.v2 as wr  # pyright: ignore[reportMissingImports]

    title = runs[0].run_id if len(runs) == 1 else f"{len(runs)} runs of {runs[0].group or runs[0].name}"
    blocks: list[Any] = [wr.TableOfContents()]
    section = ""
    for table in tables(page.read_text(encoding="utf-8")):
        name = _section(table, runs)
        if name is None:
            continue
        if name != section:
            section = name
            blocks.append(wr.H1(text=section))
        blocks.append(wr.MarkdownBlock(text=as_markdown(table)))
    if panels := _panels(runs):
        blocks += [wr.H1(text="Runs"), wr.PanelGrid(runsets=[_runset(runs)], panels=panels)]
    # An entity that is left out would be asked of the server here and now.
    return wr.interface.Report(
        project=_tracking(runs).get("project") or TrackingSettings().project,
        entity="",
        title=f"selfalign: {title}"[:LONGEST_TITLE],
        description=f"Written from {', '.join(run.run_id for run in runs)}; the page beside it has figures and single items.",
        blocks=blocks,
        width="fluid",
    )


def _section(table: PageTable, runs: Sequence[Run]) -> str | None:
    """The section that a table stands in; None for what concerns a single run of several."""
    first = table.title.partition(": ")[0]
    return None if first in {run.run_id for run in runs} and len(runs) > 1 else first


def _runset(runs: Sequence[Run]) -> Any:
    """Exactly these runs, by the ids that they have in W&B: a group also holds those of other sweeps."""
    import wandb_workspaces.reports.v2 as wr  # pyright: ignore[reportMissingImports]

    names = ", ".join(f"'{wandb_id(run.run_id)}'" for run in runs)
    return wr.interface.Runset(name=runs[0].group or runs[0].name, filters=f"ID in [{names}]")


def _panels(runs: Sequence[Run]) -> list[Any]:
    """Scores as bars, one a metric with its models, and training losses over the steps."""
    import wandb_workspaces.reports.v2 as wr  # pyright: ignore[reportMissingImports]

    metrics: dict[tuple[str, str, str], list[str]] = {}
    for score in (score for run in runs for score in run.scores if is_number(score)):
        name = f"scores/{score.subject}/{score.task}/{score.protocol}/{score.metric}"
        metrics.setdefault((score.task, score.protocol, score.metric), []).append(name)
    bars = [wr.BarPlot(title=" · ".join(key), metrics=list(dict.fromkeys(names))) for key, names in metrics.items()]
    trained = dict.fromkeys(node.name for run in runs for node in run.nodes if any(node.rows("metrics.jsonl")))
    lines = [wr.LinePlot(title=f"{name}: loss", x=STEP, y=[f"{name}/loss"]) for name in trained]
    return [*lines, *bars][:PANELS]


def _tracking(runs: Sequence[Run]) -> dict[str, str]:
    found = runs[0].config.get("tracking")
    return (
        {key: str(value) for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}
    )


def _spec(made: wr.interface.Report) -> str:
    return made._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
