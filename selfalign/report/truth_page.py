"""The page of known truth: the numbers of `truth` in; one Markdown page, its figures and the numbers as JSON out.

The page holds no number that is not computed from the JSON beside it: `page(numbers)` gives the same text again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfalign import jsonl
from selfalign.evaluation.scores import EVERY
from selfalign.report import truth_figures
from selfalign.report.ablation import ALPHA
from selfalign.report.ablation_view import p_text
from selfalign.report.calf_card import FILE, markdown_table
from selfalign.report.calf_numbers import percent, points, rule_name
from selfalign.report.html import seconds
from selfalign.report.truth import Numbers, is_found, others, own

MODELS = ("engraved", "cloned")
"""Models whose own effects are judged: those that are asked without any rule in sight."""


def write(numbers: Numbers, out: Path) -> None:
    """Write the page `out`, and its figures and `numbers.json` into the folder of the page's name beside it."""
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in figures(numbers).items():
        (folder / name).write_text(text, encoding="utf-8")
    jsonl.write_json(folder / FILE, numbers)
    out.write_text(page(numbers, folder.name), encoding="utf-8")


def _models(numbers: Numbers) -> list[str]:
    return [name for name in MODELS if name in numbers["models"]]


def figures(numbers: Numbers) -> dict[str, str]:
    """The figures by file name."""
    found = {
        "own_effects.svg": truth_figures.forest(numbers, _models(numbers)),
        "power.svg": truth_figures.power(numbers),
    }
    return found | {f"all_effects_{name}.svg": truth_figures.heat_map(numbers, name) for name in _models(numbers)}


def page(numbers: Numbers, folder: str) -> str:
    """The page as Markdown; `folder` is where its figures lie, relative to it."""
    sections = [
        _opening(numbers),
        _bars(numbers),
        _own(numbers, folder),
        _all(numbers, folder),
        _inert(numbers),
        _exams(numbers),
    ]
    sections += [_simulated(numbers, folder), _made(numbers, folder)]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _opening(numbers: Numbers) -> str:
    return f"""
# A leave-one-out ablation whose truth is known

**Calf is a model organism: each of its {len(numbers["planted"])} principles has an effect by construction. No number on this
page says anything about the alignment of real models.** It shows whether a sweep, its pairing and its tests find what is
there, and nothing else.

One run has all rules, each other one leaves out a rule with its citations in the exemplars; every run writes its answers, is
engraved, cloned and scored, over {numbers["seeds"]} seeds. {len(numbers["inert"])} further rules ask for nothing
({", ".join(map(rule_name, numbers["inert"]))}): an arm without one of them shows what an arm does that does nothing. Every
number here was computed by `{numbers["command"]}` from the stored items of the runs."""


def _bars(numbers: Numbers) -> str:
    rows = []
    for name in _models(numbers):
        cells = {rule: own(numbers, name, rule) for rule in numbers["planted"]}
        hits = [rule for rule, cell in cells.items() if is_found(cell)]
        missed = (
            f" (not: {', '.join(rule_name(rule) for rule in cells if rule not in hits)})"
            if len(hits) < len(cells)
            else ""
        )
        rows.append(
            [
                f"{name}: every planted effect is found, with the right sign",
                f"{len(hits)} of {len(cells)}{missed}",
                _met(len(hits) == len(cells)),
            ]
        )
        wrong = [cell for rule, _, cell in others(numbers, name) if rule in numbers["inert"]]
        tests = sum(len(numbers["models"][name]["cells"][rule]) for rule in numbers["inert"])
        rows.append(
            [
                f"{name}: no rule that asks for nothing has an effect",
                f"{len(wrong)} of {tests} comparisons",
                _met(not wrong),
            ]
        )
    null = numbers["simulated"]["null"]
    for key, what in (("any_in_table", "sweeps"), ("any_in_metric", "metrics")):
        rate = null[key]["value"]
        claim = f"{null['repeats']} simulated sweeps without any effect: at most 5 % (+2) of {what} show one"
        rows.append([claim, percent(rate), _met(rate <= 0.07)])
    return (
        "## What was asked, and what was found\n\n"
        + markdown_table(["bar", "found", "met"], rows)
        + f"\n\nAn effect counts as found where p is below {ALPHA:g} after Holm over *all* comparisons of a model: every arm on "
        "every metric."
    )


def _met(is_met: bool) -> str:
    return "yes" if is_met else "**no**"


def _own(numbers: Numbers, folder: str) -> str:
    head = ["rule left out", "items", *(f"{name}: with → without" for name in _models(numbers))]
    head += [f"{name}: difference, points" for name in _models(numbers)]
    head += [f"{name}: p, p over the table" for name in _models(numbers)]
    head += [f"{name}: p, new seeds too" for name in _models(numbers)]
    rows = []
    for rule in numbers["planted"]:
        cells = [own(numbers, name, rule) for name in _models(numbers)]
        row = [rule_name(rule), str(cells[0]["items"])]
        row += [f"{percent(cell['control'])} → {percent(cell['arm'])}" for cell in cells]
        row += [f"{points(cell['difference'])} ({points(cell['low'])} to {points(cell['high'])})" for cell in cells]
        row += [f"{p_text(cell['p'])}, {p_text(cell['p_table'])}" for cell in cells]
        row += ["–" if cell["p_seeds_holm"] is None else p_text(cell["p_seeds_holm"]) for cell in cells]
        rows.append(row)
    return f"""
## Each rule's own behaviour

![effect of every rule that is left out]({folder}/own_effects.svg)

Filled: found. Items are held-out questions that the rule governs; an item's outcomes are averaged over seeds, and the test
flips the signs of items' differences, exactly. *p, new seeds too* asks whether other seeds would show it as well (min F', Holm over
the arms of the metric).

{markdown_table(head, rows)}"""


def _all(numbers: Numbers, folder: str) -> str:
    parts = [
        "## Everything that moved",
        "Framed: a difference after the correction over the whole table. The diagonal is what was planted.",
    ]
    for name in _models(numbers):
        parts.append(
            f"![every rule left out against every metric of the {name} model]({folder}/all_effects_{name}.svg)"
        )
        found = [(rule, metric, cell) for rule, metric, cell in others(numbers, name) if rule not in numbers["inert"]]
        if not found:
            parts.append(
                f"Nothing off the diagonal is left of the {name} model's {numbers['models'][name]['tests']:,} comparisons."
            )
            continue
        metrics = numbers["models"][name]["metrics"]
        lines = [
            [rule_name(rule), metrics[metric], f"{points(cell['difference'])} ({points(cell['low'])} to {points(cell['high'])})",
             p_text(cell["p_table"])]
            for rule, metric, cell in found
        ]  # fmt: skip
        parts.append(f"Off the diagonal of the {name} model ({numbers['models'][name]['tests']:,} comparisons):")
        parts.append(markdown_table(["rule left out", "metric", "difference, points", "p over the table"], lines))
    return "\n\n".join(parts)


def _inert(numbers: Numbers) -> str:
    rows = []
    for name in _models(numbers):
        metrics = numbers["models"][name]["metrics"]
        for rule in numbers["inert"]:
            cells: Mapping[str, Any] = numbers["models"][name]["cells"][rule]
            whole, (largest, cell) = cells[EVERY], min(cells.items(), key=lambda item: item[1]["p"])
            rows.append(
                [rule_name(rule), name, f"{points(whole['difference'])} ({points(whole['low'])} to {points(whole['high'])})",
                 f"{metrics[largest]}: {points(cell['difference'])}", f"{p_text(cell['p'])}, {p_text(cell['p_table'])}"]
            )  # fmt: skip
    head = ["rule left out", "model", "all behaviours, points", "metric with the smallest p", "p, p over the table"]
    return f"## Rules that ask for nothing\n\n{markdown_table(head, rows)}"


def _exams(numbers: Numbers) -> str:
    rows = []
    for name in _models(numbers):
        metrics = {key: text for key, text in numbers["models"][name]["metrics"].items() if " · " in key}
        for key, text in metrics.items():
            cells = {rule: found[key] for rule, found in numbers["models"][name]["cells"].items() if key in found}
            rule, cell = min(cells.items(), key=lambda item: item[1]["p"])
            clear = [other for other, found in cells.items() if found["p_table"] < ALPHA]
            rows.append(
                [name, text, f"{cell['control']:.3f}", f"{rule_name(rule)}: {points(cell['difference'])}", p_text(cell["p_table"]),
                 ", ".join(map(rule_name, clear)) or "none"]
            )  # fmt: skip
    head = [
        "model",
        "exam",
        "with all rules",
        "rule with the smallest p: difference, points",
        "its p over the table",
        "found",
    ]
    return f"""
## Multiple choice

Nothing was planted here: Calf's principles govern answers, not what it holds for true. What leaving one out does to exams is
a finding, not a check.

{markdown_table(head, rows)}"""


def _simulated(numbers: Numbers, folder: str) -> str:
    made = numbers["simulated"]
    null = made["null"]
    rows = []
    for name, curve in made["power"].items():
        for point in curve["points"]:
            rows.append([name, str(point["lost"]), percent(point["lost"] / curve["items"]), percent(point["paired"]["value"]),
                         percent(point["unpaired"]["value"])])  # fmt: skip
    table, metric = (
        f"{percent(null[key]['value'])} (± {100 * null[key]['stderr']:.1f})"
        for key in ("any_in_table", "any_in_metric")
    )
    return f"""
## By chance, and by how much more

{null["repeats"]} sweeps of {made["arms"]} arms and {numbers["seeds"]} seeds were drawn in which no arm does anything: every item is
right as often as in the {made["runs"]} runs that miss no planted rule ({made["model"]} model). Of these sweeps {table} show
an effect after Holm over all {null["tests"]:,} comparisons; of their metrics {metric} show one after Holm over the arms, which
is what the report's tables of single metrics correct for.

![power of the paired and the unpaired test]({folder}/power.svg)

The same, with one arm that gets some items always wrong; found at level {made["level"]:.4f}, which is what Holm asks of the
smallest p of {made["arms"]} arms. *Paired*: sign flips of items' differences. *Unpaired*: Welch's test, as if the arms had been
asked other items.

{markdown_table(["items of", "lost", "of all", "found, paired", "found, unpaired"], rows)}"""


def _made(numbers: Numbers, folder: str) -> str:
    rows = [
        [seed, str(one["jobs"]), seconds(one["seconds"]), seconds(one["job_seconds"])]
        for seed, one in numbers["time"].items()
    ]
    kept = [
        [str(row["seed"]), *(f"{row[name]['kept']:,} of {row[name]['in']:,}" if name in row else "–" for name in NODES)]
        for row in numbers["rows"]
    ]
    versions = ", ".join(f"{name} {value}" for name, value in numbers["versions"].items())
    return f"""
## How it was made

- The sweep: `selfalign run "experiments=[quickstart,known_truth]" sweeps=leave_one_out seed=0,1,2 hydra/launcher=joblib
  hydra.launcher.n_jobs=2`; then `{numbers["command"]}` wrote this page, and [`{FILE}`]({folder}/{FILE}), which holds every
  number of it.
- {versions}.

Jobs that ran side by side on one machine; *jobs' own time* is their sum:

{markdown_table(["seed", "jobs", "from begin to end", "jobs' own time"], rows)}

All arms of a seed are cut to the prompts whose answers every arm keeps, so that they train on the same ones:

{markdown_table(["seed", *NODES.values()], kept)}"""


NODES = {
    "prompts": "prompts",
    "responses": "answers of the control",
    "parity": "prompts in common",
    "verbose_parity": "in common, long answers",
}
"""Node -> its heading."""
