"""The page of known truth: the numbers of `truth` in; one Markdown page, its figures and the numbers as JSON out.

The page holds no number that is not computed from the JSON beside it: `page(numbers)` gives the same text again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfalign.evaluation.scores import EVERY
from selfalign.report import truth_figures
from selfalign.report.ablation import ALPHA
from selfalign.report.ablation_view import p_text
from selfalign.report.calf_card import FILE, markdown_table, write_page
from selfalign.report.calf_numbers import percent, points, rule_name
from selfalign.report.html import seconds
from selfalign.report.truth import JUDGED, Numbers, is_found, others, own

NODES = {
    "prompts": "prompts",
    "responses": "answers of the control",
    "parity": "prompts in common",
    "engraved": "trained on",
}
"""Node -> its heading."""


def write(numbers: Numbers, out: Path) -> None:
    """Write the page `out`, and its figures and `numbers.json` into the folder of the page's name beside it."""
    write_page(out, page(numbers, out.stem), figures(numbers), numbers)


def figures(numbers: Numbers) -> dict[str, str]:
    """The figures by file name."""
    return {
        "own_effects.svg": truth_figures.forest(numbers),
        "all_effects.svg": truth_figures.heat_map(numbers),
        "power.svg": truth_figures.power(numbers),
    }


def page(numbers: Numbers, folder: str) -> str:
    """The page as Markdown; `folder` is where its figures lie, relative to it."""
    sections = [
        _opening(numbers),
        _bars(numbers),
        _own(numbers, folder),
        _all(numbers, folder),
        _inert(numbers),
        _exams(numbers),
        _others(numbers),
        _simulated(numbers, folder),
        _made(numbers, folder),
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _opening(numbers: Numbers) -> str:
    return f"""
# A leave-one-out ablation whose truth is known

**Calf is a model organism: each of its {len(numbers["planted"])} principles has an effect by construction. No number on this
page says anything about the alignment of real models.** It shows whether a sweep, its pairing and its tests find what is
there, and nothing else.

One run has all rules, each other one leaves out a rule with its citations in the exemplars. Every run writes its answers, is
engraved on them, and is asked held-out questions without any rule in sight; seeds: {numbers["seeds"]}.
{len(numbers["inert"])} further rules ask for nothing ({", ".join(map(rule_name, numbers["inert"]))}): an arm without one of
them shows what an arm does that does nothing. Every number here was computed from the stored items of the runs, by

    {numbers["command"]}"""


def _bars(numbers: Numbers) -> str:
    cells = {rule: own(numbers, JUDGED, rule) for rule in numbers["planted"]}
    missed = [rule_name(rule) for rule, cell in cells.items() if not is_found(cell)]
    strict = [rule for rule, cell in cells.items() if is_found(cell) and cell["p_table"] < ALPHA]
    wrong = [cell for rule, _, cell in others(numbers, JUDGED, "p_holm") if rule in numbers["inert"]]
    tests = sum(len(numbers["models"][JUDGED]["cells"][rule]) for rule in numbers["inert"])
    more = f" (not: {', '.join(missed)})" if missed else ""
    found = f"{len(cells) - len(missed)} of {len(cells)}{more}"
    rows = [
        ["every planted effect is found, with the right sign", found, _met(not missed)],
        [
            "no rule that asks for nothing has an effect",
            f"{len(wrong)} of {tests} comparisons",
            _met(not wrong) if tests else "–",
        ],
    ]
    for name, null in numbers["simulated"]["null"].items():
        for key, what in (("any_in_table", "sweeps"), ("any_in_metric", "metrics")):
            rate = null[key]["value"]
            claim = f"{null['repeats']} simulated sweeps without any effect, items {name}: at most 5 % (+2) of {what} show one"
            rows.append([claim, percent(rate), _met(rate <= 0.07)])
    least = min(cell["items"] for cell in cells.values())
    return f"""
## What was asked, and what was found

{markdown_table(["bar", "found", "met"], rows)}

An effect counts as found where p is below {ALPHA:g} after Holm over the arms of its metric, as in the tables of a report.
{len(strict)} of the {len(cells)} are also left after Holm over all {numbers["models"][JUDGED]["tests"]:,} comparisons of the model,
every arm on every metric. That asks for more items than some rules have questions: {least} items that all change give
p = {2.0 ** (1 - least):.2g} at best.

The model that is judged and the correction that decides were settled after the first seed had been looked at. That is why the
stricter correction and what the other models show stand below too."""


def _met(is_met: bool) -> str:
    return "yes" if is_met else "**no**"


def _points(cell: Mapping[str, Any]) -> str:
    return f"{points(cell['difference'])} ({points(cell['low'])} to {points(cell['high'])})"


def _own(numbers: Numbers, folder: str) -> str:
    head = [
        "rule left out",
        "items",
        "with it",
        "without",
        "difference, points (95 %)",
        "by seed",
        "p",
        "Holm",
        "over all",
    ]
    head += ["new seeds too", "its training answers that show it"]
    rows = []
    for rule in numbers["planted"]:
        cell, answers = own(numbers, JUDGED, rule), numbers["answers"][rule]
        row = [rule_name(rule), str(cell["items"]), percent(cell["control"]), percent(cell["arm"])]
        row += [_points(cell), ", ".join(f"{100 * value:+.0f}".replace("-", "−") for value in cell["by_seed"])]
        row += [p_text(cell[key]) for key in ("p", "p_holm", "p_table")]
        row.append("–" if cell["p_seeds_holm"] is None else p_text(cell["p_seeds_holm"]))
        rows.append([*row, _share(answers, "kept")])
    unsure = [
        rule_name(rule) for rule in numbers["planted"] if (own(numbers, JUDGED, rule)["p_seeds_holm"] or 0.0) >= ALPHA
    ]
    warned = (
        f"\n\nOf these seeds alone, and not of new ones, it can be said of {', '.join(unsure)}: seeds differ."
        if unsure
        else ""
    )
    return f"""
## Each rule's own behaviour

![effect of every rule that is left out]({folder}/own_effects.svg)

Filled: found. Items are held-out questions that the rule governs; an item's outcomes are averaged over seeds, and the test
flips the signs of items' differences, exactly. *Holm*: over the arms of the metric; *over all*: over every comparison of the
model; *new seeds too*: whether other seeds would show it as well (min F', Holm over the arms of the metric). An interval
counts one item more on either side. The last column is stage 2 of the arm without the rule: the answers it keeps, and trains on,
to questions that the rule governs. Where a good part of them shows it all the same, the rule was not wholly left out.{warned}

{markdown_table(head, rows)}"""


def _all(numbers: Numbers, folder: str) -> str:
    model = numbers["models"][JUDGED]
    parts = [
        "## Everything that moved",
        f"![every rule left out against every metric]({folder}/all_effects.svg)",
        "Framed: a difference after the correction over the whole table. The diagonal is what was planted.",
    ]
    found = [(rule, metric, cell) for rule, metric, cell in others(numbers, JUDGED) if rule not in numbers["inert"]]
    if not found:
        return "\n\n".join([*parts, f"Off the diagonal nothing is left of the {model['tests']:,} comparisons."])
    lines = [
        [rule_name(rule), model["metrics"][metric], _points(cell), p_text(cell["p_table"])]
        for rule, metric, cell in found
    ]
    table = markdown_table(["rule left out", "metric", "difference, points (95 %)", "p over the table"], lines)
    return "\n\n".join([*parts, f"Off the diagonal, of {model['tests']:,} comparisons:", table])


def _inert(numbers: Numbers) -> str:
    model, rows = numbers["models"][JUDGED], []
    for rule in numbers["inert"]:
        cells: Mapping[str, Any] = model["cells"][rule]
        smallest, cell = min(cells.items(), key=lambda item: item[1]["p"])
        moved = f"{model['metrics'][smallest]}: {points(cell['difference'])}"
        rows.append([rule_name(rule), _points(cells[EVERY]), moved, p_text(cell["p"]), p_text(cell["p_table"])])
    if not rows:
        return ""
    head = ["rule left out", "all behaviours, points (95 %)", "metric with the smallest p", "its p", "over the table"]
    return f"## Rules that ask for nothing\n\n{markdown_table(head, rows)}"


def _exams(numbers: Numbers) -> str:
    model, rows = numbers["models"][JUDGED], []
    for key, text in model["metrics"].items():
        if " · " not in key:
            continue
        cells = {rule: found[key] for rule, found in model["cells"].items() if key in found}
        rule, cell = min(cells.items(), key=lambda item: item[1]["p"])
        clear = [rule_name(other) for other, found in cells.items() if found["p_table"] < ALPHA]
        moved = f"{rule_name(rule)}: {points(cell['difference'])}"
        rows.append([text, f"{cell['control']:.3f}", moved, p_text(cell["p_table"]), ", ".join(clear) or "none"])
    head = ["exam", "with all rules", "rule with the smallest p: difference, points", "its p over the table", "found"]
    return f"""
## Multiple choice

Nothing was planted here: Calf's principles govern answers, not what it holds for true. What leaving one out does to exams is
a finding, not a check.

{markdown_table(head, rows)}"""


def _others(numbers: Numbers) -> str:
    """Models in which the effect is not planted, or not alone."""
    sweeps, rules = numbers["cloned"], numbers["planted"]
    prompted = numbers["models"].get("prompted")
    if not sweeps:
        return ""
    head = ["rule left out", *(["prompted, points"] if prompted else [])]
    for one in sweeps:
        head += [f"cloned, {_filter(one)}: points", "p, Holm", "long answers that show it: kept", "dropped"]
    rows = []
    for rule in rules:
        row = [rule_name(rule), *([points(prompted["cells"][rule][rule]["difference"])] if prompted else [])]
        for one in sweeps:
            cell, long = one["own"][rule], one["long_answers"][rule]
            row += [points(cell["difference"]), p_text(cell["p_holm"]), _share(long, "kept"), _share(long, "dropped")]
        rows.append(row)
    found = "; ".join(
        f"{sum(is_found(cell) for cell in one['own'].values())} of {len(rules)} with {_filter(one)} "
        f"({one['seeds']} seed{'s' if one['seeds'] > 1 else ''}, {', '.join(map(str, one['trained_on']))} long answers to train on)"
        for one in sweeps
    )
    return f"""
## Where an ablation is lost

The same sweep with verbose cloning. The cloned model is trained on long answers of the engraved one, and by them the ablation
can be undone: Calf behaves in many long answers whatever its rules are (its corpus has it so), and a filter on their length
keeps those of them that follow the very rule that was left out, because the others are short. The columns on long answers
count, in the arm without the rule, those to questions that it governs. Planted effects found in the cloned model: {found}.

So a filter whose reason hangs on what is ablated is part of the treatment. Parity makes arms equal in number; it cannot make
what is left of them alike. The prompted base is asked for its answer without thoughts, which Calf gives by habit too.

{markdown_table(head, rows)}"""


def _filter(one: Mapping[str, Any]) -> str:
    least = one["min_characters"]
    return f"at least {least} characters" if least > 1 else "any length"


def _share(long: Mapping[str, int], part: str) -> str:
    return f"{long[f'{part}_shown']} of {long[part]}"


def _simulated(numbers: Numbers, folder: str) -> str:
    made = numbers["simulated"]
    rows = [
        [f"{curve['items']} items {difficulty} ({name})", str(point["lost"]), percent(point["lost"] / curve["items"]),
         *(percent(point[key]["value"]) for key in ("paired", "unpaired"))]
        for difficulty, curves in made["power"].items()
        for name, curve in curves.items()
        for point in curve["points"]
    ]  # fmt: skip
    null = [
        [name, f"{one['tests']:,}", *(f"{percent(one[key]['value'])} ± {100 * one[key]['stderr']:.1f}" for key in
         ("any_in_table", "any_in_metric"))]
        for name, one in made["null"].items()
    ]  # fmt: skip
    head = [
        "items",
        "comparisons of a sweep",
        "sweeps with one after Holm over all",
        "metrics with one after Holm over their arms",
    ]
    repeats = next(iter(made["null"].values()))["repeats"]
    return f"""
## By chance, and by how much more

{repeats} sweeps of {made["arms"]} arms and {numbers["seeds"]} seed(s) were drawn in which no arm does anything. *As observed*:
every item is right as often as in the {made["runs"]} runs that miss no planted rule ({made["model"]} model), which agree on
most items.
*Of every difficulty*: each item's probability is drawn evenly from 0 to 1, so that luck decides much of a run.

{markdown_table(head, null)}

![power of the paired and the unpaired test]({folder}/power.svg)

The same, with one arm that gets some items always wrong; found at level {made["level"]:.4f}, which is what Holm asks of the
smallest p of {made["arms"]} arms. *Paired*: sign flips of items' differences. *Unpaired*: Welch's test, as if the arms had been
asked other items.

{markdown_table(["items", "lost", "of all", "found, paired", "found, unpaired"], rows)}"""


def _made(numbers: Numbers, folder: str) -> str:
    rows = [[name, f"{one['results']:,}", seconds(one["seconds"])] for name, one in numbers["stages"].items()]
    total = sum(one["seconds"] for one in numbers["stages"].values())
    rows.append(["**all**", f"{sum(one['results'] for one in numbers['stages'].values()):,}", seconds(total)])
    kept = [
        [str(row["seed"]), *(f"{row[name]['kept']:,} of {row[name]['in']:,}" if name in row else "–" for name in NODES)]
        for row in numbers["rows"]
    ]
    versions = ", ".join(f"{name} {value}" for name, value in numbers["versions"].items())
    filters = " and ".join(f"`verbose_clone.min_characters={one['min_characters']}`" for one in numbers["cloned"])
    further = f"\n- The sweeps with cloning: the same with `seed=0 stages=full`, {filters}." if filters else ""
    return f"""
## How it was made

- The sweep: `selfalign run "experiments=[quickstart,known_truth]" sweeps=leave_one_out seed=0,1,2 hydra/launcher=joblib
  hydra.launcher.n_jobs=2`. Every number of this page is in [`{FILE}`]({folder}/{FILE}).{further}
- {versions}.

What the runs of the first sweep hold, each result counted once, and the time that it took when it was computed (two jobs side
by side on one machine):

{markdown_table(["stage", "results", "time"], rows)}

All arms of a seed are cut to the prompts whose answers every arm keeps, so that they train on the same ones:

{markdown_table(["seed", *NODES.values()], kept)}"""
