"""Runs in, one self-contained HTML file out: no network, no clock, every text of a model or a user escaped.

The page's content security policy allows its own inline script by hash and nothing else, so a text that slipped
through escaping would still be inert.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from selfalign import __version__
from selfalign.report import (
    ablation,
    ablation_view,
    design_view,
    drawings,
    figures,
    flips,
    flips_view,
    gap,
    matrix,
    samples,
    scores,
    selection,
    tax,
    tradeoff_view,
    verdicts,
)
from selfalign.report.adherence import assessed
from selfalign.report.arms import arms
from selfalign.report.design import designed
from selfalign.report.drawings import Drawing
from selfalign.report.judged import judged
from selfalign.report.methods import methods, settings, software
from selfalign.report.model import Node, Run
from selfalign.report.outcomes import gate, protocols
from selfalign.report.page import META, meta
from selfalign.report.pareto import fronts
from selfalign.report.principle_use import Citation, Compared, PrincipleUse, Rules, compare, rules_of
from selfalign.report.published import published
from selfalign.report.score_rows import compared, score_row
from selfalign.report.telemetry import MATCHES_SHOWN, PARITY, Telemetry, collect
from selfalign.report.terminal import CALF_NOTICE
from selfalign.report.truncation import truncated
from selfalign.tracking.scrub import scrub

HERE = Path(__file__).resolve().parent
TEMPLATE = "report.html.j2"
FIGURE_TEMPLATE = "figure.html.j2"
SCRIPTS = ("report.js", "report_flips.js")
STYLE = "report.css"
REASON_COLOURS = 10
"""Colours that report.css has for reasons of a funnel; a node with more reasons uses them again."""
DETAILED_RUNS = 6
"""Runs of one report whose data are drawn at length: of a large sweep, the rest have numbers only."""


@dataclass(frozen=True)
class Bar:
    """A part of a funnel's bar."""

    label: str
    count: int
    percent: float
    css: str


@dataclass(frozen=True)
class RunView:
    """One run with everything that the template shows of it."""

    run: Run
    anchor: str
    settings: list[tuple[str, str]]
    config: str
    software: list[tuple[str, str]]
    funnels: list[tuple[Node, list[Bar]]]
    curves: list[tuple[str, list[figures.Curve], Markup]]
    rules: Rules
    data: Telemetry
    drawings: dict[str, Drawing]
    """Figures of the data by name; the large ones only where `is_detailed`."""
    uses: list[tuple[str, PrincipleUse, list[Citation], int]]
    """Node, its principle use, the citations shown, and how many cited principles are not shown."""
    is_detailed: bool
    same_prompts: tuple[str, str]
    """Anchor and id of an earlier run on this page with the same prompts; empty texts where there is none."""
    samples: list[samples.SampleSet]
    opened: str
    """Node whose samples are unfolded: the first one with thoughts."""
    dots: Markup
    failures: list[Node]


def write(runs: Sequence[Run], path: Path, *, control: str = "") -> Path:
    """Write the report of these runs to `path`: complete under its name or not there at all. Returns the path.

    `control` is as in `ablation.compare`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(render(runs, control=control), encoding="utf-8")
    os.replace(temporary, path)
    return path


def render(runs: Sequence[Run], *, control: str = "") -> str:
    """The page as text; the same runs give the same bytes."""
    columns = scores.subjects(runs)
    lines = [line for run in runs for line in scores.lines(run)]
    views = _views(runs)
    script = "".join(map(_asset, SCRIPTS))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            meta_name=META,
            meta=meta(__version__, [run.run_id for run in runs], control),
            title=runs[0].run_id if len(runs) == 1 else f"{len(runs)} runs of {_group(runs)}",
            runs=runs,
            labels=_labels(runs, control),
            views=views,
            columns=columns,
            with_tax="engraved" in columns and "cloned" in columns,
            score_rows=[score_row(line, columns) for line in lines],
            tax_errors=scores.errors([line.is_tax_paired for line in lines if line.tax], "the two models"),
            sheets=[*protocols(runs), *gate(runs), *judged(runs), *assessed(runs), *published(runs)],
            gaps=gap.views(runs),
            compared=compared(runs) if len(runs) > 1 else None,
            arms=_arms(views) if len(runs) > 1 else [],
            detailed_runs=DETAILED_RUNS,
            matches_shown=MATCHES_SHOWN,
            standing_notes=drawings.STANDING_NOTES,
            calf_notice=CALF_NOTICE if any(run.uses_calf for run in runs) else "",
            notes=[(view.run.run_id, note) for view in views for note in (*view.run.notes, *view.data.notes)],
            style=Markup(_asset(STYLE)),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            **_analyses(runs, control),
        )
    )


def _analyses(runs: Sequence[Run], control: str) -> dict[str, Any]:
    """What was computed of the runs, section by section; None where a section has nothing to say."""
    effects, cost, design = ablation.compare(runs, control), tax.verbose_tax(runs), designed(runs)
    changes, budgets = flips.flips(runs, control), truncated(tax.tax_arms(runs))
    claimed = verdicts.verdicts(runs, effects, control)
    return {
        "claims": verdicts.view(runs, claimed),
        "effects": _effects(effects) if effects else None,
        "design": design_view.view(design) if design else None,
        "changes": flips_view.view(changes) if changes else None,
        "tax": ablation_view.tax_view(cost) if cost else None,
        "truncation": tradeoff_view.truncation(budgets) if budgets else None,
        "tradeoffs": tradeoff_view.tradeoffs(fronts(runs, control)),
        "methods": methods(runs, effects, cost, design, claimed),
    }


def _effects(comparison: ablation.Comparison) -> dict[str, Any]:
    found, selected = matrix.matrices(comparison), selection.selections(comparison)
    return ablation_view.effects(comparison) | {
        "matrices": matrix.views(found),
        "matrix_method": matrix.method(found) if found else "",
        "selected": selection.sheet(selected),
        "is_selected_by": any(one.is_shown for one in selected),
    }


def figure_page(drawing: Drawing) -> str:
    """One figure with its legend as a page of its own, in the colours of the report."""
    return _environment().get_template(FIGURE_TEMPLATE).render(drawing=drawing, style=Markup(_asset(STYLE)))


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Control characters and halves of surrogate pairs are no text: a page may not contain them.
        finalize=lambda value: value if isinstance(value, Markup) else figures.CONTROL.sub("\ufffd", str(value)),
    )
    environment.filters |= {
        "seconds": seconds,
        "percent": lambda value: f"{100 * value:.0f} %",
        "source": drawings.source_name,
        "source_css": drawings.source_css,
    }
    return environment


@functools.cache
def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8").strip() + "\n"


def seconds(value: float) -> str:
    """`3.2 s`, `4 min 05 s`, `2 h 07 min`."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _labels(runs: Sequence[Run], control: str) -> dict[str, str]:
    """Run id -> the arm that it is of, with its seed where arms have several; empty where all runs are one arm."""
    found, _ = arms(runs, control)
    several = any(len(arm.runs) > 1 for arm in found)
    named = {
        run.run_id: arm.label + (f", seed {run.config.get('seed')}" if several else "")
        for arm in found
        for run in arm.runs.values()
    }
    return {run.run_id: named.get(run.run_id, "") for run in runs} if len(found) > 1 else {}


def _group(runs: Sequence[Run]) -> str:
    groups = list(dict.fromkeys(run.group or run.name for run in runs))
    return groups[0] if len(groups) == 1 else f"{len(groups)} groups"


# ------------------------------------------------------------------------------------------------------------ scores


def _dots(run: Run) -> Markup:
    rows = []
    for line in scores.lines(run):
        chosen = [
            figures.Dot(name, _css(name), score.value, score.stderr)
            for name, score in line.scores.items()
            if scores.is_number(score) and score.value is not None
        ]
        if chosen and all(0 <= dot.value <= 1 for dot in chosen):
            chance = line.chance if line.chance is not None and math.isfinite(line.chance) else None
            label = " · ".join((line.task, line.protocol, line.metric))
            rows.append(figures.DotLine(label, tuple(chosen), chance))
    return figures.dots(rows, title="Scores with whiskers of 1.96 standard errors; the tick is chance")


def _css(subject: str) -> str:
    return f"s-{subject}" if subject in scores.SUBJECTS else "s-other"


# --------------------------------------------------------------------------------------------------------------- run


def _views(runs: Sequence[Run]) -> list[RunView]:
    drawn: dict[str, tuple[str, str]] = {}
    views = []
    for index, (run, found) in enumerate(zip(runs, collect(runs), strict=True)):
        artifact = found.prompts.artifact if found.prompts else ""
        view = _view(run, index, found, drawn.get(artifact, ("", "")))
        # An artifact is named by its content; one without a name is nobody else's.
        if artifact and view.is_detailed:
            drawn.setdefault(artifact, (view.anchor, run.run_id))
        views.append(view)
    return views


def _view(run: Run, index: int, data: Telemetry, same_prompts: tuple[str, str]) -> RunView:
    loss = [(node.name, samples.loss_curves(node)) for node in run.nodes]
    is_detailed = index < DETAILED_RUNS
    drawn = drawings.drawings(data)
    if not is_detailed:
        drawn = {name: drawing for name, drawing in drawn.items() if name.startswith("principle_use/")}
    if same_prompts[0]:
        drawn = {name: one for name, one in drawn.items() if not name.startswith(("prompts/", "red_team/"))}
    return RunView(
        run=run,
        anchor=f"run-{index + 1}",
        settings=settings(run),
        config=yaml.safe_dump(scrub(dict(run.config)), sort_keys=False, allow_unicode=True) if run.config else "",
        software=software(run),
        funnels=[(node, _bars(node)) for node in data.funnels],
        curves=[
            (
                name,
                found,
                figures.curves(found, x_label="step", y_label="loss per target token", title=f"Loss of {name}"),
            )
            for name, found in loss
            if found
        ],
        rules=rules_of(run.config),
        data=data,
        drawings=drawn,
        uses=[_use_view(node, use) for node, use in data.uses],
        is_detailed=is_detailed,
        same_prompts=same_prompts,
        samples=[shown for node in run.nodes if node.stage != PARITY and (shown := samples.samples(node)) is not None],
        opened=next((node for node, _ in data.uses), ""),
        dots=_dots(run),
        failures=[node for node in run.nodes if node.status in ("failed", "blocked")],
    )


def _use_view(node: str, use: PrincipleUse) -> tuple[str, PrincipleUse, list[Citation], int]:
    shown = [use.citations[index] for index in drawings.listed(use)]
    return node, use, shown, len(use.citations) - len(shown)


@dataclass(frozen=True)
class Arms:
    """The citations of one node over all runs."""

    node: str
    lines: list[Compared]
    uses: list[PrincipleUse | None]
    """One a run; None where its answers have no thoughts."""


def _arms(views: Sequence[RunView]) -> list[Arms]:
    nodes = dict.fromkeys(node for view in views for node, _ in view.data.uses)
    found = []
    for node in nodes:
        uses = [dict(view.data.uses).get(node) for view in views]
        if sum(use is not None for use in uses) > 1:
            found.append(Arms(node, compare(uses), uses))
    return found


def _bars(node: Node) -> list[Bar]:
    total = max(node.rows_in or 0, node.kept + sum(node.dropped.values()), 1)
    parts = [("kept", node.kept, "kept")]
    dropped = sorted(node.dropped.items(), key=lambda item: (-item[1], item[0]))
    parts += [(reason, count, f"reason-{index % REASON_COLOURS}") for index, (reason, count) in enumerate(dropped)]
    return [Bar(label, count, round(100 * count / total, 3), css) for label, count, css in parts]
