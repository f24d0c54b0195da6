"""Stage 2: rules, exemplars and a question in, the exact prompt out; a completion parsed into thoughts, citations and answer.

Source: IBM/Dromedary, branch dromedary_v1, `prompts/watson_self_align_prompt.txt`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfalign import resources
from selfalign.principles import Exemplar, RuleSet, Turn, below, shown_citations, slug
from selfalign.prompts.texts import Assistant, exactly, fill


@dataclass(frozen=True)
class SelfAlignLayout:
    """The fixed parts of the self-align prompt; one YAML file, one field a key."""

    title: str
    rules_heading: str
    rules_intro: str
    no_rules_intro: str
    """Stands in place of heading, intro and rules where an arm has no rule."""
    rule: str
    examples_heading: str
    examples_intro: str
    user: str
    thoughts: str
    answer: str
    thoughts_format: str
    """The thoughts of an exemplar: {remark} and {citations}."""
    uncited_format: str
    """The thoughts of an exemplar none of whose principles is shown: {remark}."""
    citation: str
    closing: str
    """Ends a conversation."""
    tail: str
    """Follows the open `user` slot in the file; not sent to a model."""


def load_layout(folder: str = "") -> SelfAlignLayout:
    """The layout `principles/<folder>/prompts/self_align.yaml`. Raises DataError for missing or unknown keys."""
    path = resources.find(f"{below(folder)}/prompts/self_align.yaml")
    return SelfAlignLayout(**exactly(SelfAlignLayout, resources.read_yaml(path), str(path)))


def citations_text(layout: SelfAlignLayout, rule_set: RuleSet, cites: Iterable[str]) -> str:
    """`3 (helpful), 7 (candor)`: the citations that this arm shows; empty where none is left."""
    return ", ".join(
        layout.citation.replace("{number}", str(rule.number)).replace("{name}", rule.name)
        for rule in shown_citations(rule_set, cites)
    )


def thoughts_text(layout: SelfAlignLayout, rule_set: RuleSet, turn: Turn) -> str:
    """The internal thoughts of one exemplar turn, as this arm shows them."""
    cited = citations_text(layout, rule_set, turn.cites)
    if not cited:
        return layout.uncited_format.replace("{remark}", turn.remark)
    template = turn.thoughts_format or layout.thoughts_format
    return template.replace("{citations}", cited).replace("{remark}", turn.remark)


def self_align_stem(
    layout: SelfAlignLayout, rule_set: RuleSet, exemplars: Sequence[Exemplar], assistant: Assistant
) -> str:
    """The shared part of every self-align prompt: title, rules, exemplars and the open `User:` slot."""
    blocks = [layout.title]
    if rule_set.rules:
        lines = [
            layout.rule.replace("{number}", str(rule.number)).replace("{name}", rule.name).replace("{text}", rule.text)
            for rule in rule_set.rules
        ]
        blocks += [layout.rules_heading, layout.rules_intro, "\n".join(lines)]
    else:
        blocks.append(layout.no_rules_intro)
    if exemplars:
        blocks += [layout.examples_heading, layout.examples_intro]
    for exemplar in exemplars:
        for turn in exemplar.turns:
            blocks += [
                f"{layout.user} {turn.user}",
                f"{layout.thoughts} {thoughts_text(layout, rule_set, turn)}",
                f"{layout.answer} {turn.answer}",
            ]
        blocks.append(exemplar.closing or layout.closing)
    blocks.append(layout.user)
    return fill("\n\n".join(blocks), assistant)


def self_align_prompt(stem: str, layout: SelfAlignLayout, assistant: Assistant, question: str) -> str:
    """One question behind the stem, with the slot for the thoughts left open."""
    return f"{stem} {question}\n\n{fill(layout.thoughts, assistant)}"


def self_align_answer_prompt(stem: str, layout: SelfAlignLayout, assistant: Assistant, question: str) -> str:
    """One question behind the stem with the slot for the answer left open: thoughts are skipped."""
    return f"{stem} {question}\n\n{fill(layout.answer, assistant)}"


def self_align_marker(layout: SelfAlignLayout, assistant: Assistant) -> str:
    """What stands between the thoughts and the answer."""
    return f"\n\n{fill(layout.answer, assistant)}"


def self_align_stops(layout: SelfAlignLayout, assistant: Assistant) -> tuple[str, ...]:
    """Strings that begin the next turn: an answer ends before the first of them."""
    closing = fill(layout.closing, assistant).split("\n")[0]
    return tuple(dict.fromkeys((f"\n\n{layout.user}", f"\n\n{closing}")))


@dataclass(frozen=True)
class ParsedResponse:
    """A self-align completion, taken apart."""

    thoughts: str
    cited: tuple[str, ...]
    """Principle ids in order of citation; `#<number>` for a number that no shown rule has."""
    answer: str | None
    """None where the completion never came to the answer."""


_CITATION = re.compile(r"(?<![\w.])#?(\d{1,3})\s*\(([^()\n]{1,60})\)")


def parse_response(layout: SelfAlignLayout, rule_set: RuleSet, assistant: Assistant, text: str) -> ParsedResponse:
    """Thoughts, cited principles and answer of a completion. Never raises: what is missing comes back empty.

    A citation counts for the rule whose name it gives; where the name is unknown, for the rule with its number.
    """
    thoughts, marker, answer = text.partition(self_align_marker(layout, assistant))
    by_name = {slug(rule.name): rule.id for rule in rule_set.rules if not rule.is_placebo}
    by_number = {rule.number: rule.id for rule in rule_set.rules if not rule.is_placebo}
    cited = [
        by_name.get(slug(name)) or by_number.get(int(number)) or f"#{number}"
        for number, name in _CITATION.findall(thoughts)
    ]
    return ParsedResponse(thoughts.strip(), tuple(dict.fromkeys(cited)), answer.strip() if marker else None)
