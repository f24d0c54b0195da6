"""Calf's card: the numbers of `selfalign.card` in; one Markdown page, its figures and the numbers as JSON out.

The page holds no number that is not computed from the JSON beside it: `page(numbers)` gives the same text again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from selfalign import jsonl
from selfalign.report import calf_figures
from selfalign.report.calf_numbers import (
    FAMILIES,
    NOT_MEASURED,
    Dropped,
    Numbers,
    TaxLine,
    average,
    bars,
    beyond_prompted,
    dropped,
    half_width,
    interval,
    length_ratios,
    over_seeds,
    percent,
    points,
    rule_name,
    seconds,
    tax_lines,
)

FILE = "numbers.json"
NODES = {
    "instructions": "Self-Instruct",
    "red_team": "topic-guided red-teaming",
    "prompts": "merged prompts",
    "responses": "self-aligned answers",
    "engraved": "engraving (examples)",
    "verbose_responses": "verbose answers",
    "cloned": "verbose cloning (examples)",
}
"""Nodes of the pipeline whose funnel is shown."""


def write(numbers: Numbers, out: Path) -> None:
    """Write the page `out`, and its figures and `numbers.json` into the folder of the page's name beside it."""
    write_page(out, page(numbers, out.stem), figures(numbers), numbers)


def write_page(out: Path, text: str, drawn: Mapping[str, str], numbers: Numbers) -> None:
    """Write a page, and into the folder of its name beside it the figures by file name and the numbers that it is made of."""
    folder = out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn.items():
        (folder / name).write_text(svg, encoding="utf-8")
    jsonl.write_json(folder / FILE, numbers)
    out.write_text(text, encoding="utf-8")


def figures(numbers: Numbers) -> dict[str, str]:
    """The figures by file name."""
    found = {"behaviour.svg": calf_figures.behaviour(numbers), "ablation.svg": calf_figures.ablation(numbers)}
    return found | ({"tax.svg": calf_figures.tax(numbers)} if numbers["seeds"] else {})


def page(numbers: Numbers, folder: str) -> str:
    """The page as Markdown; `folder` is where its figures lie, relative to it."""
    sections = [
        _opening(numbers),
        _bars(numbers),
        _behaviour(numbers, folder),
        _ablation(numbers, folder),
        _citations(numbers),
        _words(numbers),
        _students(numbers),
        _tax(numbers, folder),
        _funnel(numbers),
        _made(numbers, folder),
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown writes it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _opening(numbers: Numbers) -> str:
    model = numbers["model"]
    return f"""
# Calf, measured

**Calf is a model organism: a model of {model["parameters"] / 1e6:.1f} million parameters in a world of its own, in which
principles have effects by construction. No number on this page says anything about the alignment of real models.** It shows
whether the method and the framework's instruments work where the truth is known.

Every number here was written by one command, and `{numbers["command"]}` writes them again. Nothing is entered by hand."""


def _bars(numbers: Numbers) -> str:
    words = {True: "yes", False: "**no**", None: "–"}
    rows = [(bar.claim, bar.measured, words[bar.met]) for bar in bars(numbers)]
    met = sum(bar.met is True for bar in bars(numbers))
    judged = sum(bar.met is not None for bar in bars(numbers))
    return f"## What was asked, and what was measured\n\n{met} of {judged} measured bars are met.\n\n" + markdown_table(
        ["bar", "measured", "met"], rows
    )


def _behaviour(numbers: Numbers, folder: str) -> str:
    students = [name for name in ("engraved", "cloned") if numbers["seeds"]]
    rows = []
    for rule in numbers["principles"]:
        kinds = [kind for kind, governs in numbers["governing"].items() if rule in governs]
        blocks = [numbers["base"]["principles"], numbers["prompted"]["principles"]]
        cells = [percent(block[rule]) for block in blocks] + [percent(numbers["without"][rule][rule])]
        cells += [percent(mean(over_seeds(numbers, name, rule))) for name in students]
        rows.append([rule_name(rule), ", ".join(kinds), *cells])
    means = [average(numbers["base"]), average(numbers["prompted"]), mean(d.after for d in dropped(numbers))]
    means += [mean(average(seed[name]) for seed in numbers["seeds"]) for name in students]
    rows.append(["**mean**", "", *(f"**{percent(value)}**" for value in means)])
    head = ["principle", "kinds of question", "base", "prompted", "its rule left out", *students]
    asked = numbers["questions"]
    framed = (
        f" {asked['framed']} of them stand behind a sentence that changes nothing, because some kinds have fewer "
        "held-out questions."
        if asked["framed"]
        else ""
    )
    return f"""
## Behaviour

![behaviour of each principle]({folder}/behaviour.svg)

{asked["distinct"]} distinct held-out questions, {asked["per_kind"]} of each of {len(numbers["governing"])} kinds; greedy.{framed}
*Base*: chat layout, no rules. *Prompted*: all {len(numbers["principles"])} rules and the default exemplars. *Left out*: the
principle's line and its citations in the exemplars are gone. *Engraved* and *cloned*: chat layout, no rules, mean over seeds.
A principle that is listed is shown where the answer has the marks of exactly the listed rules that govern its question; one
that is not listed, where its mark is there at all. Students are read as if all rules were listed.

{markdown_table(head, rows)}"""


def _ablation(numbers: Numbers, folder: str) -> str:
    rows = [
        [
            rule_name(item.rule),
            percent(item.before),
            percent(item.after),
            f"{points(item.change)} ({rule_name(item.other)})",
        ]
        for item in dropped(numbers)
    ]
    return f"""
## Each rule left out

![rule left out against behaviour shown]({folder}/ablation.svg)

Here a rule's mark alone counts, whatever else the answer shows: two rules may govern one question, and neither is blamed for
the other.

{markdown_table(["rule left out", "its behaviour before", "after", "largest change of another, points"], rows)}"""


def _change(item: Dropped) -> str:
    return points(item.change) + (f" ({rule_name(item.other)})" if item.change else "")


def _citations(numbers: Numbers) -> str:
    rows = []
    for family, title in FAMILIES.items():
        entry = numbers["citations"][family]
        both, names = entry["both"], entry["names"]
        rows.append(
            [
                title,
                f"{entry['answers']:,}",
                percent(both["precision"]),
                percent(both["recall"]),
                f"{percent(both['worst'])} ({both['worst_kind']})",
                f"{percent(names['precision'])} / {percent(names['recall'])}",
            ]
        )
    head = ["header", "answers", "precision", "recall", "worst kind", "names alone"]
    return f"""
## Citations in the thoughts

A citation is right where number *and* name are those of a rule that is listed and governs the question; counts are over all
answers. *Worst kind*: the smaller of precision and recall in the worst kind of question. *Names alone*: precision / recall
when the number does not count.

{markdown_table(head, rows)}"""


def _words(numbers: Numbers) -> str:
    full = numbers["prompted"]
    students = [name for name in ("engraved", "cloned") if numbers["seeds"]]
    rows = []
    for kind, governs in numbers["governing"].items():
        cells = [percent(numbers["base"]["kinds"][kind]), percent(full["kinds"][kind])]
        cells += [percent(mean(seed[name]["kinds"][kind] for seed in numbers["seeds"])) for name in students]
        cells += [percent(full["copied_kinds"][kind]), percent(full["exact_kinds"][kind])]
        rows.append([kind, ", ".join(map(rule_name, governs)), *cells])
    head = ["kind of question", "governed by", "base", "prompted", *students, "entities copied", "word for word"]
    return f"""
## By kind of question

*Entities copied*: the prompted answer repeats every name, number or phrase of the question that the right answer repeats
({percent(full["copied"])} of {full["copied_of"]:,} answers). *Word for word*: it is the world's own answer
({percent(full["exact"])}; some kinds invent a name, and cannot be).

{markdown_table(head, rows)}"""


def _students(numbers: Numbers) -> str:
    title = "## Engraving against prompting, and cloning\n\n"
    if not numbers["seeds"]:
        return f"{title}{NOT_MEASURED}: the command ran with `--skip-runs`."
    rows = [
        [
            str(seed["seed"]),
            percent(average(seed["engraved"])),
            percent(average(seed["cloned"])),
            f"{seed['engraved']['tokens']:.1f}",
            f"{seed['cloned']['tokens']:.1f}",
            f"{ratio:.2f}",
        ]
        for seed, ratio in zip(numbers["seeds"], length_ratios(numbers), strict=True)
    ]
    head = ["seed", "engraved", "cloned", "tokens, engraved", "tokens, cloned", "ratio"]
    return (
        title
        + f"""{_verdict(numbers)}

{markdown_table(head, rows)}

Shares are means over the principles. The prompted base shows {percent(average(numbers["prompted"]))} in
{numbers["prompted"]["tokens"]:.1f} tokens, the base without rules {percent(average(numbers["base"]))} in
{numbers["base"]["tokens"]:.1f}."""
    )


def _verdict(numbers: Numbers) -> str:
    values = beyond_prompted(numbers)
    centre, half = mean(values), half_width(values)
    engraved = percent(mean(average(seed["engraved"]) for seed in numbers["seeds"]))
    if half is None or abs(centre) <= half:
        finding = "which is no difference that these seeds can tell from none"
    else:
        finding = "so here engraving beats prompting" if centre > 0 else "so here engraving falls behind prompting"
    return (
        f"The paper reports that engraving beats prompting. Here the engraved model, without any header, shows the governed\n"
        f"behaviour in {engraved} of answers (mean of {len(values)} seeds), the prompted base in "
        f"{percent(average(numbers['prompted']))}: {interval(values)} points,\n{finding}."
    )


def _tax(numbers: Numbers, folder: str) -> str:
    title = "## Verbose tax\n\n"
    if not numbers["seeds"]:
        return f"{title}{NOT_MEASURED}: the command ran with `--skip-runs`."
    rows = [
        [
            line.label,
            f"{line.n}",
            "–" if line.chance is None else f"{line.chance:.3f}",
            *(_score(line, name) for name in ("base", "prompted", "engraved", "cloned")),
            interval(line.differences) if line.differences else "–",
        ]
        for line in tax_lines(numbers)
    ]
    head = ["benchmark", "n", "chance", "base", "prompted", "engraved", "cloned", "cloned − engraved, points"]
    reasons = _reasons(numbers)
    return (
        title
        + f"""![verbose tax and answer length]({folder}/tax.svg)

Means over {len(numbers["seeds"])} seeds of the quickstart, the difference with its 95 % t-interval over seeds. No setting
was chosen by it, but the quickstart's settings and Calf's corpus decide it: they were chosen on single seeds, by the students'
behaviour on held-out questions such as those above, and `verbose_clone.min_characters` keeps from the clone most long answers
that follow no rule (the funnel below counts them as `too_short`); without it, fewer of the clone's answers were governed. A
score of which no seed gives a sound number has none here.

{markdown_table(head, rows)}{reasons}"""
    )


def _score(line: TaxLine, subject: str) -> str:
    values, broken = line.values.get(subject, ()), line.invalid.get(subject, ())
    if not values:
        return f"invalid: {broken[0]}" if broken else "–"
    text = f"{mean(values):.3f}"
    return text + (f" ({len(values)} of {len(values) + len(broken)} seeds)" if broken else "")


def _reasons(numbers: Numbers) -> str:
    found = [
        f"- {line.label}, {subject}: {reason}"
        for line in tax_lines(numbers)
        for subject, reasons in line.invalid.items()
        if line.values.get(subject)
        for reason in dict.fromkeys(reasons)
    ]
    return "\n\nSeeds left out, because their score is invalid:\n\n" + "\n".join(found) if found else ""


def _funnel(numbers: Numbers) -> str:
    title = "## The quickstart's funnel and times\n\n"
    if not numbers["seeds"]:
        return f"{title}{NOT_MEASURED}: the command ran with `--skip-runs`."
    first = numbers["seeds"][0]
    rows = []
    for name, label in NODES.items():
        counts: Mapping[str, Any] = first["funnel"].get(name, {})
        if counts:
            gone = ", ".join(f"{reason} {number:,}" for reason, number in counts["dropped"].items()) or "none"
            kept = [f"{counts['in']:,}", f"{counts['kept']:,}", gone, f"{first['seconds'][name]:.0f}"]
            rows.append([label, *kept])
    scored = sum(value for name, value in first["seconds"].items() if name.startswith("scores_"))
    rows.append(["four evaluations", "", "", "", f"{scored:.0f}"])
    seeds = [
        [
            str(seed["seed"]),
            str(seed["kept"]["self_instruct"]),
            str(seed["kept"]["red_team"]),
            str(sum(seed["kept"].values())),
            f"{seconds(seed):.0f}",
        ]
        for seed in numbers["seeds"]
    ]
    return (
        title
        + f"""Seed {first["seed"]}, `selfalign run experiments=quickstart`:

{markdown_table(["result", "in", "kept", "dropped, by reason", "seconds"], rows)}

Every seed: prompts kept by source, and the seconds that all results took when they were computed.

{markdown_table(["seed", "Self-Instruct", "red-teaming", "kept", "seconds"], seeds)}"""
    )


def _made(numbers: Numbers, folder: str) -> str:
    model, asked, machine = numbers["model"], numbers["asked"], numbers["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    minutes, rate = asked["seconds"] / 60, asked["new_tokens"] / max(asked["seconds"], 1e-9)
    size, context = model["bytes"] / 2**20, model["context_length"]
    taught = [seed["asked"] for seed in numbers["seeds"]]
    students = ""
    if taught:
        total, long = sum(one["answers"] for one in taught), sum(one["seconds"] for one in taught) / 60
        cut = sum(one["unfinished"] for one in taught)
        students = f" Students: {total:,} answers in\n  {long:.1f} minutes, {cut} cut off."
    return f"""
## How it was measured

- Command: `{numbers["command"]}`. It runs the quickstart under each seed and asks every model; what is in the
  store is not computed again. `--skip-runs` leaves out stages 3 and 4, `--model DIR` measures other weights, `--questions 4`
  is a quick look.
- Weights: `{model["path"]}`, {model["parameters"]:,} parameters, {size:.1f} MB, context {context:,} tokens, digest
  `{model["digest"][:16]}`. {_trained(numbers["training"])}
- Base and prompts: {asked["answers"]:,} answers under {asked["conditions"]} conditions, {asked["new_tokens"]:,} tokens in
  {minutes:.1f} minutes ({rate:,.0f} tokens per second); {asked["unfinished"]} answers were cut off at the token limit.{students}
- Machine: {machine["cores"]} {machine["processor"]} cores, {machine["system"]}. Versions: {versions}.
- Every answer is a line of an `Ask-*/answers.jsonl` in the store; every number of this page is in [`{FILE}`]({folder}/{FILE}).
  `selfalign/calf/oracle.py` says which marks an answer shows, `selfalign/calf/measure.py` how they are counted."""


def _trained(training: Mapping[str, Any]) -> str:
    if not training:
        return "The folder does not say how they were trained."
    metrics = training["metrics"]
    return (
        f"`selfalign run experiments=calf_pretraining` made them: {metrics['steps']:,} steps, "
        f"{metrics['tokens']:,} tokens read,\n  {metrics['trained_tokens']:,} of them trained on; mean loss of the last tenth "
        f"{metrics['loss']:.3f}."
    )
