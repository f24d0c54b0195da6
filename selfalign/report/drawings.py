"""The telemetry of a run as figures and as tables: what the report shows of it and what the tracker logs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from selfalign.report import data_figures as draw
from selfalign.report.diversity import Card, Histogram, QuestionType
from selfalign.report.model import Node
from selfalign.report.principle_use import SOURCE_ORDER, PrincipleUse, Standing
from selfalign.report.telemetry import Telemetry

OPENINGS_SHOWN = 24
"""Verbs and question words with a bar of their own."""
SECONDS_SHOWN = 4
"""Objects of a verb that have a part of its bar of their own."""
ABSENT_SHOWN = 8
"""Cited principles that are not there which are listed, the most cited first; a model can invent any number."""
STANDING_NOTES = {Standing.rule: "", Standing.dropped: "left out in this run", Standing.absent: "not a rule here"}
SHORT_NOTES = {Standing.rule: "", Standing.dropped: "left out", Standing.absent: "not a rule"}


@dataclass(frozen=True)
class Drawing:
    """A figure with what a reader needs to understand it."""

    title: str
    svg: Markup
    legend: tuple[tuple[str, str], ...]
    """CSS class of a colour -> what it stands for."""
    says: str
    """How its numbers came about."""


def source_css(source: str) -> str:
    """The colour of a source: the same in every figure."""
    return f"src-{SOURCE_ORDER.index(source) if source in SOURCE_ORDER else len(SOURCE_ORDER)}"


def source_name(source: str) -> str:
    """`self_instruct` -> `self-instruct`, as it is printed."""
    return {"self_instruct": "self-instruct", "red_team": "red-teaming"}.get(source, source)


def listed(use: PrincipleUse) -> list[int]:
    """Indices of the citations that are shown: the whole set, and the most cited of what is absent."""
    absent = [i for i, one in enumerate(use.citations) if one.standing is Standing.absent]
    shown = set(sorted(absent, key=lambda i: (-use.citations[i].count, i))[:ABSENT_SHOWN])
    return [i for i, one in enumerate(use.citations) if one.standing is not Standing.absent or i in shown]


def drawings(found: Telemetry) -> dict[str, Drawing]:
    """The figures of a run by name; one that has nothing to show is not there."""
    made = {f"principle_use/{node}": _use_drawing(node, use) for node, use in found.uses}
    made |= {f"co_citations/{node}": _together_drawing(node, use) for node, use in found.uses}
    if found.card and found.card.prompts:
        made |= _card_drawings(found.card, found.novelty)
    for node, words in found.answers:
        made[f"answer_words/{node}"] = _words_drawing(words, f"Words of an answer: {node}", "kept answers")
    if found.red_team:
        made["red_team/topics"] = _topics_drawing(found.red_team)
    return {name: drawing for name, drawing in made.items() if drawing.svg}


def _use_drawing(node: str, use: PrincipleUse) -> Drawing:
    groups = []
    for index in listed(use):
        one = use.citations[index]
        bars = tuple(
            draw.Measure(
                source_css(source),
                use.source_share(one, place),
                f"{one.principle}, {source_name(source)}: {one.by_source[place]:,} of {total:,} answers "
                f"({100 * use.source_share(one, place):.1f} %)",
            )
            for place, (source, total) in enumerate(use.sources)
        )
        groups.append(draw.Group(one.principle, bars, SHORT_NOTES[one.standing]))
    title = f"Principle use by source: {node}"
    return Drawing(
        title,
        draw.grouped_bars(groups, x_label="answers whose thoughts cite the principle, % of the source's", title=title),
        tuple((source_css(name), f"{source_name(name)} ({total:,} answers)") for name, total in use.sources),
        "kept answers; each principle counts once an answer",
    )


def _together_drawing(node: str, use: PrincipleUse) -> Drawing:
    chosen = listed(use)
    names = [use.citations[i].principle for i in chosen]
    cells = [[use.together[i][j] for j in chosen] for i in chosen]
    noted = [use.citations[i].standing is not Standing.rule for i in chosen]
    title = f"Principles cited together: {node}"
    svg = draw.matrix(names, cells, noted, title=title) if use.answers else Markup("")
    says = "kept answers whose thoughts cite both; framed, on the diagonal: answers that cite the principle at all"
    return Drawing(title, svg, (), says)


def _card_drawings(found: Card, novelty: float | None) -> dict[str, Drawing]:
    made = {
        "prompts/requests": _openings_drawing(found, "request", "Requests: verbs and their objects"),
        "prompts/questions": _openings_drawing(found, "question", "Questions: question words and the next word"),
    }
    if found.instructions:
        made["prompts/instruction_words"] = _words_drawing(found.instructions, "Words of an instruction", "prompts")
    if found.inputs:
        made["prompts/input_words"] = _words_drawing(found.inputs, "Words of an input", "prompts with an input")
    if near := found.nearest:
        title = "ROUGE-L to the nearest other instruction"
        of = f"{near.compared:,} of {near.total:,} instructions"
        says = f"{of}; median {near.histogram.median:.2f}"
        if near.without_tokens:
            says += f"; {near.without_tokens:,} without a token of a-z or 0-9 are left out"
        if near.is_sample:
            says += "; a sample, in which the nearest one is less near than among all"
        if novelty is not None:
            says += "; the line is the threshold of self_instruct.novelty"
        label = "" if novelty is None else f"novelty {novelty:g}"
        svg = draw.histogram(
            near.histogram, x_label="ROUGE-L F (1 = the same tokens)", title=title, mark=novelty, mark_label=label
        )
        made["prompts/nearest"] = Drawing(title, svg, (), says)
    return made


def _words_drawing(found: Histogram, title: str, what: str) -> Drawing:
    says = f"{found.total:,} {what}; mean {found.mean:.1f}, median {found.median:g}, longest {found.largest:g}"
    return Drawing(title, draw.histogram(found, x_label="words", title=title), (), says)


_HOW = {
    "request": "the first sentence that begins with a known verb; its object is the next word that is no determiner, "
    "pronoun, preposition, number or frequent adjective",
    "question": "the first sentence that asks something, with the word behind its question word",
}


def _openings_drawing(found: Card, kind: str, title: str) -> Drawing:
    groups = [group for group in found.openings if group.kind == kind]
    lines = []
    for group in groups[:OPENINGS_SHOWN]:
        named = [item for item in group.seconds if item[0]][:SECONDS_SHOWN]
        parts = [draw.Segment(f"kind-{kind}", count, second) for second, count in named]
        rest = group.count - sum(count for _, count in named)
        note = ", ".join(f"{second} {count:,}" for second, count in named)
        lines.append(
            draw.Line(group.first, ((*parts, draw.Segment(f"kind-{kind} pale", rest, "none, or rarer")),), note)
        )
    if further := sum(group.count for group in groups[OPENINGS_SHOWN:]):
        label = f"{len(groups) - OPENINGS_SHOWN} rarer ones"
        lines.append(draw.Line(label, ((draw.Segment(f"kind-{kind} pale", further),),)))
    says = (
        f"{found.of_kind(kind):,} of {found.prompts:,} kept prompts"
        + (f", {found.pairs:,} distinct pairs" if kind == "request" else "")
        + f" (neither request nor question: {found.of_kind('other'):,}). By English word lists, not by a parser: "
        f"{_HOW[kind]}. Pale: no such word, or a rarer one"
    )
    return Drawing(title, draw.split_bars(lines, [""], title=title, left=130.0, notes=250.0), (), says)


def _topics_drawing(found: Sequence[QuestionType]) -> Drawing:
    prefix = _common_beginning([one.name for one in found if one.topics_kept or one.topics_dropped])
    lines = [
        draw.Line(
            one.name.removeprefix(prefix),
            (_split(one.topics_kept, one.topics_dropped), _split(one.questions_kept, one.questions_dropped)),
        )
        for one in found
    ]
    title = "Red-teaming: topics and questions by question type"
    says = "new topics of the brainstorming, before any type is cut to its share of topics; questions as they were filtered"
    if prefix:
        says += f"; each type begins with “{prefix.strip()}”"
    svg = draw.split_bars(lines, ["topics", "questions"], title=title, left=290.0)
    return Drawing(title, svg, (("kept", "kept"), ("lost", "dropped")), says)


def _split(kept: int, dropped: Iterable[tuple[str, int]]) -> tuple[draw.Segment, ...]:
    return (draw.Segment("kept", kept, "kept"), *(draw.Segment("lost", count, reason) for reason, count in dropped))


def _common_beginning(names: Sequence[str]) -> str:
    """The whole words that all of several names begin with, with the space behind them."""
    if len(names) < 2:
        return ""
    words = [name.split(" ") for name in names]
    same = 0
    while all(len(one) > same + 1 and one[same] == words[0][same] for one in words):
        same += 1
    return " ".join(words[0][:same]) + " " if same else ""


# ----------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class DataTable:
    """A table for the tracker."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def tables(found: Telemetry) -> list[DataTable]:
    """Everything that is counted, as tables with one fact a row."""
    made = [DataTable("funnel", ("node", "rows_in", "outcome", "rows"), tuple(_funnel_rows(found.funnels)))]
    for node, use in found.uses:
        made += _use_tables(node, use)
    lengths = [(f"answer: {node}", words) for node, words in found.answers]
    if found.card:
        sources = tuple((name, count, count / found.card.prompts) for name, count in found.card.sources)
        begin = tuple((g.kind, g.first, second, n) for g in found.card.openings for second, n in g.seconds)
        made.append(DataTable("prompts/sources", ("source", "prompts", "share"), sources))
        made.append(DataTable("prompts/openings", ("kind", "first", "second", "prompts"), begin))
        lengths += [(name, one) for name, one in _lengths(found.card) if one]
        if near := found.card.nearest:
            rows = tuple(row[1:] for row in _bins("", near.histogram))
            made.append(DataTable("prompts/nearest", ("rouge_l_from", "rouge_l_below", "prompts"), rows))
    rows = tuple(row for name, words in lengths for row in _bins(name, words))
    made.append(DataTable("lengths", ("text", "words_from", "words_below", "texts"), rows))
    columns = ("question_type", "topics_kept", "topics_dropped", "questions_kept", "questions_dropped", "topics")
    types = tuple(
        (one.name, one.topics_kept, _sum(one.topics_dropped), one.questions_kept, _sum(one.questions_dropped),
         ", ".join(one.topics))
        for one in found.red_team
    )  # fmt: skip
    made.append(DataTable("red_team/topics", columns, types))
    if found.contamination:
        keys = ("task", "run", "resemblance", "prompt", "question", "prompt_id", "item_id")
        matches = tuple(tuple(match.get(key) for key in keys) for match in found.contamination.matches)
        made.append(DataTable("contamination", keys, matches))
    arms = tuple((cut.node, one.arm or "this run", one.asked, one.kept, one.cut, cut.common)
                 for cut in found.parity for one in cut.arms)  # fmt: skip
    made.append(DataTable("parity", ("node", "arm", "asked", "kept", "cut", "common"), arms))
    return [table for table in made if table.rows]


def _lengths(found: Card) -> list[tuple[str, Histogram | None]]:
    return [("instruction", found.instructions), ("input", found.inputs)]


def _sum(reasons: Iterable[tuple[str, int]]) -> int:
    return sum(count for _, count in reasons)


def _funnel_rows(nodes: Iterable[Node]) -> Iterable[tuple[Any, ...]]:
    for node in nodes:
        yield node.name, node.rows_in, "kept", node.kept
        yield from ((node.name, node.rows_in, reason, count) for reason, count in sorted(node.dropped.items()))


def _bins(name: str, found: Histogram) -> Iterable[tuple[Any, ...]]:
    for index, count in enumerate(found.counts):
        low = found.low + index * found.width
        yield name, round(low, 9), round(low + found.width, 9), count
    if found.beyond:
        yield name, found.high, None, found.beyond


def _use_tables(node: str, use: PrincipleUse) -> list[DataTable]:
    columns = ["principle", "standing", "answers", "share"]
    for source, _ in use.sources:
        columns += [f"answers_{source}", f"share_{source}"]
    rows = []
    for one in use.citations:
        split = ((count, use.source_share(one, index)) for index, count in enumerate(one.by_source))
        rows.append(
            (one.principle, one.standing.value, one.count, one.share, *(value for pair in split for value in pair))
        )
    chosen = listed(use)
    names = tuple(use.citations[i].principle for i in chosen)
    pairs = tuple((use.citations[i].principle, *(use.together[i][j] for j in chosen)) for i in chosen)
    checks = tuple((one.code, one.says, one.kept, one.dropped, one.example) for one in use.checks)
    return [
        DataTable(f"principle_use/{node}", tuple(columns), tuple(rows)),
        DataTable(f"co_citations/{node}", ("principle", *names), pairs),
        DataTable(f"thought_checks/{node}", ("check", "says", "kept", "dropped", "example"), checks),
    ]
