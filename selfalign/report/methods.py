"""How the numbers of a report came about: models, data, protocols, seeds, statistics and versions, all read from the runs.

`methods` is what all runs of a report share and where they differ; the functions below it describe one run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign.evaluation.catalogue import catalogue
from selfalign.evaluation.protocols import EXAMS
from selfalign.evaluation.scores import ADHERENCE, EVERY, GENERATE, ORACLE
from selfalign.records import Score
from selfalign.report.ablation import ALPHA, POWER, Comparison
from selfalign.report.design import Designed
from selfalign.report.model import MANIFEST, Run
from selfalign.report.principle_use import rules_of
from selfalign.report.scores import ABSENT, is_number, number
from selfalign.report.sheet import Sheet
from selfalign.report.tax import Tax
from selfalign.report.verdicts import UNTESTED, Verdict
from selfalign.tracking.scrub import scrub

CHECKS = {"truncated_share": "share of items with a prompt that did not fit the model's context and lost its beginning"}
"""Metric that checks an evaluation instead of scoring a model -> what it is."""
DEFINITIONS = {
    "true_false": "each candidate alone is put to the model as an exam question; its choice is the one with the "
    "largest log p(true) minus "
    "log p(false); all candidates are ranked",
    "released_half": "as true_false, over the first half of the file's candidates alone, as the paper's released "
    "script ranks them; for "
    "comparison with published numbers",
    "mc1": "its choice is the candidate with the largest log-probability as the answer",
    "mc2": "the share of probability, over all candidates as answers, that falls on the true ones",
    "ab_swap": "both answers are shown as A and B, in both orders; its choice is the answer whose letters have the larger "
    "log-probability over both",
    "ab_renormalised": "as ab_swap, but an item counts with the right letter's share of the two letters' probability",
    "likelihood": "its choice is the answer with the larger log-probability behind the question",
    ORACLE: "Calf's oracle reads the written answers: whether an answer shows the mark of a principle that governs its question",
    GENERATE: "answers are written, and measured: words, and whether they are empty",
}
"""Protocol -> what is done to an item. A choice that ties counts with the share that a fair draw among the tied would bring."""


@dataclass(frozen=True)
class Methods:
    """What stands in the section on methods of the whole report."""

    paragraphs: tuple[str, ...]
    protocols: Sheet
    models: Sheet
    data: Sheet


def methods(
    runs: Sequence[Run],
    comparison: Comparison | None,
    tax: Tax | None,
    shown: Designed | None,
    claimed: Sequence[Verdict],
) -> Methods:
    """The methods of a report, from its runs and from what was computed of them."""
    return Methods(
        (_seeds_told(runs), _versions_told(runs), *_statistics(comparison, tax, shown, claimed)),
        _protocols(runs),
        _models(runs),
        _data(runs),
    )


def _seeds_told(runs: Sequence[Run]) -> str:
    texts = list(dict.fromkeys(text for run in runs if (text := seeds_text(run.config))))
    return (
        f"Seeds: {'; '.join(texts) or 'not known'}. Every record draws from a generator of its own, seeded by the "
        f"seed, the stage and the "
        "record's id, so that arms with the same seed draw the same numbers for the same prompt."
    )


def _versions_told(runs: Sequence[Run]) -> str:
    """Versions that all runs have, and those in which they differ."""
    every = [dict(software(run)) for run in runs]
    names = [
        name for name in dict.fromkeys(name for one in every for name in one) if name not in ("command", "overrides")
    ]
    same, other = [], []
    for name in names:
        values = list(dict.fromkeys(one.get(name, "not known") for one in every))
        (same if len(values) == 1 else other).append(f"{name} {' or '.join(values)}")
    text = f"Software: {', '.join(same)}." if same else ""
    return text + (f" The runs differ in: {', '.join(other)}." if other else "")


def _statistics(
    comparison: Comparison | None, tax: Tax | None, shown: Designed | None, claimed: Sequence[Verdict]
) -> list[str]:
    """The tests of the report and how many hypotheses each correction was over."""
    level = f"{100 * ALPHA:g} %"
    found = [
        "Scores are means over items with the standard error of the mean; chance is what a model gets that cannot "
        "tell candidates apart. "
        "A score whose log-probabilities are broken (not finite, constant, or choices at one shown position) is no number."
    ]
    if comparison:
        families = [one.contrasts for one in comparison.families if one.contrasts]
        tests = sum(map(len, families))
        found.append(
            f"Arms beside the control: {tests} hypotheses in {len(families)} families (one a metric and model), each "
            f"corrected by Holm over "
            f"its arms at {level}; the families are not corrected against one another, so that about {ALPHA:g} of "
            f"them would show a "
            "difference where there is none."
        )
    if tax:
        tests = sum(len(one.contrasts) for one in tax.families)
        found.append(
            f"Verbose tax: {tests} hypotheses in {len(tax.families)} families, corrected by Holm over the arms."
        )
    if shown:
        tests = sum(line.p is not None for one in shown.analyses for line in one.lines)
        found.append(
            f"Design: {tests} hypotheses in {len(shown.analyses)} tables, each corrected by Holm over its lines."
        )
    if claimed:
        tests = sum(one.verdict != UNTESTED for one in claimed)
        found.append(f"Claims: {tests} hypotheses, corrected by Holm all together.")
    if comparison or tax:
        found.append(
            "Tests are two-sided and paired by item: exact McNemar for one seed of right and wrong, sign flips of "
            "items' mean differences "
            "else; intervals are BCa bootstraps over items (seeded, so that they come out the same again). The "
            "detectable difference is "
            f"the one found with probability {100 * POWER:g} % at the corrected level."
        )
    return found


def _protocols(runs: Sequence[Run]) -> Sheet:
    """Every protocol that was scored, with its definition, items and chance; scores by category or principle are counted with the
    whole that they are parts of."""
    found: dict[tuple[str, str, str], list[Score]] = {}
    for score in (score for run in runs for score in run.scores):
        found.setdefault((score.task, score.protocol, _whole(score)), []).append(score)
    sources = {name: task.source for task in catalogue().values() for name in (task.name, task.calf_name)}
    sources[ADHERENCE] = "selfalign's own: calf/oracle.py"
    rows = tuple(_protocol_row(*key, every, sources) for key, every in found.items())
    head = ("task", "protocol", "metric", "items", "chance", "definition", "source", "not valid")
    return Sheet("Protocols", "Every score of this report.", head, rows)


def _whole(score: Score) -> str:
    """The metric over all items that a score is, or is a part of."""
    main = EVERY if score.protocol == ORACLE else EXAMS[score.protocol].metric if score.protocol in EXAMS else ""
    return main if main and (score.protocol == ORACLE or score.metric.startswith(main)) else score.metric


def _protocol_row(
    task: str, protocol: str, metric: str, every: Sequence[Score], sources: Mapping[str, str]
) -> tuple[str, ...]:
    whole = [score for score in every if score.metric == metric]
    parts = len({score.metric for score in every} - {metric})
    chances = sorted({score.chance for score in whole}, key=lambda one: one or 0)
    broken = sum(not is_number(score) for score in every)
    return (
        task,
        protocol,
        f"{metric}, with its {parts} parts" if parts > 1 else f"{metric}, with its part" if parts else metric,
        ", ".join(f"{n:,}" for n in sorted({score.n for score in whole})),
        ", ".join(ABSENT if chance is None else number(chance) for chance in chances),
        CHECKS.get(metric) or DEFINITIONS.get(protocol, "not one of selfalign's protocols"),
        sources.get(task, "not one of selfalign's tasks"),
        f"{broken:,}" if broken else "",
    )


def _models(runs: Sequence[Run]) -> Sheet:
    """Every model that was scored, by what its evaluation was named by."""
    rows: dict[tuple[str, ...], None] = {}
    for run in runs:
        for node in run.nodes:
            if not node.name.startswith("scores_") or node.folder is None:
                continue
            identity = _identity(node.folder)
            engine = identity.get("engine") or {}
            adapter = next((name for name in (identity.get("inputs") or {}).values()), "") or "none"
            model = str(engine.get("model") or engine.get("served_model") or "not known")
            rows[run.run_id, node.name.removeprefix("scores_"), str(engine.get("engine", "")), str(engine.get("dtype", "")), model,
                 adapter, node.artifact] = None  # fmt: skip
    head = ("run", "model", "engine", "precision", "digest of the base model", "adapter", "evaluation")
    about = "Digests are of the content of all files of a model; an adapter and an evaluation are named by all that they depend on."
    return Sheet("Models", about, head, tuple(rows))


def _data(runs: Sequence[Run]) -> Sheet:
    """The content of the evaluation sets, task by task."""
    rows: dict[tuple[str, ...], None] = {}
    for run in runs:
        for node in run.nodes:
            settings = (
                _identity(node.folder).get("settings") if node.folder and node.name.startswith("scores_") else None
            )
            tasks = settings.get("tasks") if isinstance(settings, Mapping) else None
            for task in tasks or ():
                if isinstance(task, Mapping):
                    rows[
                        str(task.get("task")), str(task.get("version")), ", ".join(map(str, task.get("data") or ()))
                    ] = None
    head = ("task", "version", "digests of its files")
    return Sheet("Evaluation sets", "What was asked, by content.", head, tuple(rows))


def _identity(folder: Path) -> Mapping[str, Any]:
    """What an artifact is named by: its identity, and the artifacts that it reads as `inputs`; empty where it does not say."""
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {**(content.get("identity") or {}), "inputs": content.get("inputs") or {}}


# ----------------------------------------------------------------------------------------------------------- one run


def _seeds(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            if key == "seed":
                yield name, value
            else:
                yield from _seeds(value, name)


def seeds_text(config: Mapping[str, Any]) -> str:
    """The seeds of a run for readers: one number where all are the same, else each with its name."""
    found = dict(_seeds(config))
    if len(set(map(str, found.values()))) == 1:
        return f"{next(iter(found.values()))} (all {len(found)} of them)" if len(found) > 1 else shown(*found.values())
    return ", ".join(f"{name} {value}" for name, value in found.items())


def settings(run: Run) -> list[tuple[str, str]]:
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
            ("Dropped principles", shown(principles.get("drop") or None)),
        ]
        if principles.get("drop"):
            rows += [("Scope of the drop", shown(principles.get("scope")))]
            rows += [("Numbering", shown(principles.get("numbering")))]
    if isinstance(exemplars, Mapping):
        gone = exemplars.get("drop") or []
        rows.append(("Exemplars", shown([name for name in exemplars.get("ids") or [] if name not in gone])))
    if isinstance(stages, Mapping):
        rows.append(("Stages", ", ".join(name for name, is_on in stages.items() if is_on is True) or "none"))
    rows.append(("Seeds", seeds_text(config)))
    return [(name, value) for name, value in rows if value]


def software(run: Run) -> list[tuple[str, str]]:
    """Versions, commit and command of a run, by name."""
    manifest = run.manifest
    rows = [(name, shown(manifest.get(name))) for name in ("selfalign", "python", "platform") if manifest.get(name)]
    git = manifest.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        rows.append(("commit", f"{git['commit']}{' with uncommitted changes' if git.get('dirty') else ''}"))
    rows += [(str(name), str(version)) for name, version in (manifest.get("packages") or {}).items()]
    command = manifest.get("command") or manifest.get("arguments")
    if command:
        text = command if isinstance(command, str) else " ".join(map(str, scrub(list(command))))
        rows.append(("command" if "command" in manifest else "overrides", scrub(text)))
    return rows


def shown(value: Any) -> str:
    """A setting as readers see it."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "—" if value is None or value == "" else str(value)
