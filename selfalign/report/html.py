"""Runs in, one self-contained HTML file out: no network, no clock, every text of a model or a user escaped.

The page's content security policy allows its own two inline scripts by hash and nothing else, so a text that slipped
through escaping would still be inert.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from selfalign.identity import differences
from selfalign.report import ablation, ablation_view, drawings, figures, gap, samples, scores, tax
from selfalign.report.adherence import assessed
from selfalign.report.arms import comparable
from selfalign.report.drawings import Drawing
from selfalign.report.judged import judged
from selfalign.report.model import Node, Run
from selfalign.report.outcomes import gate, protocols
from selfalign.report.principle_use import Citation, Compared, PrincipleUse, Rules, compare, rules_of
from selfalign.report.published import published
from selfalign.report.telemetry import MATCHES_SHOWN, PARITY, Telemetry, collect
from selfalign.report.terminal import CALF_NOTICE
from selfalign.tracking.scrub import scrub

HERE = Path(__file__).resolve().parent
TEMPLATE = "report.html.j2"
FIGURE_TEMPLATE = "figure.html.j2"
SCRIPT = "report.js"
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
class ScoreCell:
    """A cell of the score table."""

    text: str
    sort: str
    """Value to sort by; empty where there is none."""
    css: str
    detail: str
    """n and chance of this score, for the tooltip."""


@dataclass(frozen=True)
class RunView:
    """One run with everything that the template shows of it."""

    run: Run
    anchor: str
    settings: list[tuple[str, str]]
    config: str
    software: list[tuple[str, str]]
    protocols: list[tuple[str, str, str]]
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
    effects, cost = ablation.compare(runs, control), tax.verbose_tax(runs)
    views = _views(runs)
    script = _asset(SCRIPT)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=runs[0].run_id if len(runs) == 1 else f"{len(runs)} runs of {_group(runs)}",
            runs=runs,
            views=views,
            columns=columns,
            with_tax="engraved" in columns and "cloned" in columns,
            score_rows=[_score_row(line, columns) for line in lines],
            tax_errors=scores.errors([line.is_tax_paired for line in lines if line.tax], "the two models"),
            sheets=[*protocols(runs), *gate(runs), *judged(runs), *assessed(runs), *published(runs)],
            gaps=gap.views(runs),
            tax=ablation_view.tax_view(cost) if cost else None,
            effects=ablation_view.effects(effects) if effects else None,
            compared=_compared(runs) if len(runs) > 1 else None,
            arms=_arms(views) if len(runs) > 1 else [],
            detailed_runs=DETAILED_RUNS,
            matches_shown=MATCHES_SHOWN,
            standing_notes=drawings.STANDING_NOTES,
            calf_notice=CALF_NOTICE if any(run.uses_calf for run in runs) else "",
            notes=[(view.run.run_id, note) for view in views for note in (*view.run.notes, *view.data.notes)],
            style=Markup(_asset(STYLE)),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
        )
    )


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


def _group(runs: Sequence[Run]) -> str:
    groups = list(dict.fromkeys(run.group or run.name for run in runs))
    return groups[0] if len(groups) == 1 else f"{len(groups)} groups"


# ------------------------------------------------------------------------------------------------------------ scores


def _score_row(line: scores.Line, columns: Sequence[str]) -> dict[str, Any]:
    tax = line.tax
    return {
        "line": line,
        "cells": [_score_cell(line, subject) for subject in columns],
        "tax": ScoreCell(
            scores.tax_cell(line),
            "" if tax is None else repr(tax[0]),
            "absent" if tax is None else "",
            "cloned minus engraved" if tax else "needs a valid score before and after verbose cloning",
        ),
    }


def _score_cell(line: scores.Line, subject: str) -> ScoreCell:
    score = line.scores.get(subject)
    text = scores.cell(line, subject)
    if score is None:
        return ScoreCell(text, "", "absent", "not scored in this run")
    chance = "no chance level" if score.chance is None else f"chance {scores.number(score.chance)}"
    detail = f"n = {score.n:,}, {chance}"
    if not scores.is_number(score):
        return ScoreCell(text, "", "invalid", detail)
    return ScoreCell(text, repr(score.value), "", detail)


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


def _compared(runs: Sequence[Run]) -> dict[str, Any]:
    """What differs between runs: settings, answers, and each metric with one row a run."""
    reference = runs[0]
    configs = [comparable(run) for run in runs]
    keys = sorted({key for config in configs[1:] for key, _, _ in differences(configs[0], config)})
    changes = [(run, samples.changed_answers(reference, run)) for run in runs[1:]]
    metrics = _metrics(runs)
    paired = [row["is_paired"] for table in metrics for row in table["rows"] if row["is_paired"] is not None]
    return {
        "reference": reference,
        "settings": [(key, [_shown(_at(config, key)) for config in configs]) for key in keys],
        "answers": [(run, found) for run, found in changes if found],
        "metrics": metrics,
        "errors": scores.errors(paired, "runs"),
    }


def _metrics(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One table a metric: rows are runs, columns are models and the last model's difference from the first run."""
    by_key: dict[tuple[str, str, str], dict[int, scores.Line]] = {}
    for index, run in enumerate(runs):
        for line in scores.lines(run):
            by_key.setdefault((line.task, line.protocol, line.metric), {})[index] = line
    tables = []
    for key, found in by_key.items():
        columns = [name for name in scores.subjects(runs) if any(name in line.scores for line in found.values())]
        with_tax = "engraved" in columns and "cloned" in columns
        last, first = columns[-1], found.get(0)
        rows = []
        for index, line in found.items():
            sides = ((line, last), (first, last)) if first and index else None
            against = scores.change(*sides) if sides else None
            like = first.scores[last].value if first and against else None
            text = scores.with_error(*against, like=like) if against else scores.ABSENT
            delta = ScoreCell(text, repr(against[0]) if against else "", "" if against else "absent", "")
            is_paired = scores.is_paired(*sides) if sides and against else None
            rows.append({**_score_row(line, columns), "delta": delta, "is_paired": is_paired})
        name = " · ".join(key)
        tables.append({"name": name, "columns": columns, "last": last, "with_tax": with_tax, "rows": rows})
    return tables


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "—" if value is None or value == "" else str(value)


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
        settings=_settings(run),
        config=yaml.safe_dump(scrub(dict(run.config)), sort_keys=False, allow_unicode=True) if run.config else "",
        software=_software(run),
        protocols=_protocols(run),
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


def _seeds(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            if key == "seed":
                yield name, value
            else:
                yield from _seeds(value, name)


def _seeds_text(config: Mapping[str, Any]) -> str:
    found = dict(_seeds(config))
    if len(set(map(str, found.values()))) == 1:
        return f"{next(iter(found.values()))} (all {len(found)} of them)" if len(found) > 1 else _shown(*found.values())
    return ", ".join(f"{name} {value}" for name, value in found.items())


def _settings(run: Run) -> list[tuple[str, str]]:
    """The settings that a reader asks for first; the whole configuration stands below them."""
    config = run.config
    if not config:
        return []
    model, principles = config.get("model") or {}, config.get("principles") or {}
    stages, exemplars = config.get("stages") or {}, config.get("exemplars") or {}
    base = str(model.get("path", "")) if isinstance(model, Mapping) else str(model)
    rules = rules_of(config)
    rows = [("Base model", Path(base).name if base.startswith(("/", "~", ".")) else base)]
    if isinstance(principles, Mapping):
        rows += [
            ("Principles", f"{len(rules.shown)}: {', '.join(rules.shown)}" if rules.shown else "none"),
            ("Dropped principles", _shown(principles.get("drop") or None)),
        ]
        if principles.get("drop"):
            rows += [("Scope of the drop", _shown(principles.get("scope")))]
            rows += [("Numbering", _shown(principles.get("numbering")))]
    if isinstance(exemplars, Mapping):
        gone = exemplars.get("drop") or []
        rows.append(("Exemplars", _shown([name for name in exemplars.get("ids") or [] if name not in gone])))
    if isinstance(stages, Mapping):
        rows.append(("Stages", ", ".join(name for name, is_on in stages.items() if is_on is True) or "none"))
    rows.append(("Seeds", _seeds_text(config)))
    return [(name, value) for name, value in rows if value]


def _software(run: Run) -> list[tuple[str, str]]:
    manifest = run.manifest
    rows = [(name, _shown(manifest.get(name))) for name in ("selfalign", "python", "platform") if manifest.get(name)]
    git = manifest.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        rows.append(("commit", f"{git['commit']}{' with uncommitted changes' if git.get('dirty') else ''}"))
    rows += [(str(name), str(version)) for name, version in (manifest.get("packages") or {}).items()]
    command = manifest.get("command") or manifest.get("arguments")
    if command:
        text = command if isinstance(command, str) else " ".join(map(str, scrub(list(command))))
        rows.append(("command" if "command" in manifest else "overrides", scrub(text)))
    return rows


def _protocols(run: Run) -> list[tuple[str, str, str]]:
    """(task, protocol, items) of everything that was scored."""
    found: dict[tuple[str, str], set[int]] = {}
    for score in run.scores:
        found.setdefault((score.task, score.protocol), set()).add(score.n)
    return [(task, protocol, ", ".join(f"{n:,}" for n in sorted(counts))) for (task, protocol), counts in found.items()]
