"""Prompt layouts as pure functions: rules, exemplars and questions in, the exact text out, and completions parsed back.

Formats follow the reference (IBM/Dromedary, branch dromedary_v1: `prompts/` and the `training/step*` scripts); wording is
data in `principles/prompts/`. In all texts {assistant}, {maker} and {cutoff} stand for the configured assistant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from string import punctuation
from typing import Any

import yaml

from selfalign import jsonl, resources
from selfalign.errors import ConfigError, DataError, unknown
from selfalign.principles import Exemplar, RuleSet, Turn, below, shown_citations, slug

NO_INPUT = "<noinput>"


@dataclass(frozen=True)
class Assistant:
    """Who the assistant is: fills the placeholders of every prompt."""

    name: str = "Willow"
    """Codename in rules, exemplars, chat headings and identity answers."""
    maker: str = "the selfalign project"
    """Who made it, as it says of itself."""
    cutoff: str = "2023"
    """Year up to which its knowledge reaches, as it says of itself."""


def fill(text: str, assistant: Assistant) -> str:
    """A text with {assistant}, {maker} and {cutoff} replaced; other braces stay."""
    return (
        text.replace("{assistant}", assistant.name)
        .replace("{maker}", assistant.maker)
        .replace("{cutoff}", assistant.cutoff)
    )


def fill_slots(template: str, **values: str) -> str:
    """A template with its named slots filled; where it has none of them, its n bare `{}` take the last n values in
    order.

    The reference's prompt files use bare slots (and spell their totals out); ours name them.
    """
    if any(f"{{{name}}}" in template for name in values):
        for name, value in values.items():
            template = template.replace(f"{{{name}}}", value)
        return template
    slots = template.count("{}")
    for value in list(values.values())[len(values) - slots :]:
        template = template.replace("{}", value, 1)
    return template


def load_text(name: str, folder: str = "") -> str:
    """A prompt text `principles/<folder>/prompts/<name>.txt` as it stands. Raises ConfigError where there is none."""
    return resources.find(f"{below(folder)}/prompts/{name}.txt").read_text(encoding="utf-8")


def _own_or_shared(folder: str, relative: str) -> Path:
    """The file of a folder below `principles/`, or selfalign's own where that has none: for what imported sets do not bring.

    Raises ConfigError where neither is there, and for a folder that is not there.
    """
    resources.find(below(folder))
    try:
        return resources.find(f"{below(folder)}/{relative}")
    except ConfigError:
        return resources.find(f"{below('')}/{relative}")


# ---------------------------------------------------------------------------------------------- stage 2: self-align


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
    return SelfAlignLayout(**_exactly(SelfAlignLayout, _yaml(path), str(path)))


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: expected YAML, found a mistake: {' '.join(str(error).split())}; correct it") from None


def _exactly(kind: type, content: Any, where: str) -> dict[str, Any]:
    """The fields of a text file, which are those of `kind`. Raises DataError for anything else."""
    allowed = [field.name for field in fields(kind)]
    if not isinstance(content, dict):
        raise DataError(
            f"{where}: expected a mapping with the fields {', '.join(allowed)}, found {content!r:.60}; write one"
        )
    wrong = [unknown("field", key, allowed) for key in content if key not in allowed]
    wrong += [f"field '{key}' is missing" for key in allowed if key not in content]
    if wrong:
        raise DataError(f"{where}: " + "; ".join(wrong))
    return content


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


# ------------------------------------------------------------------------------ between 2 and 3: self-critique


@dataclass(frozen=True)
class CritiqueExemplar:
    """One worked critique and revision."""

    principle: str
    question: str
    answer: str
    critique: str
    revision: str


@dataclass(frozen=True)
class CritiqueLayout:
    """The fixed parts of the critique and the revision prompt; one YAML file, one field a key."""

    title: str
    heading: str
    intro: str
    principle: str
    question: str
    answer: str
    critique: str
    revision: str
    closing: str
    """Ends an exemplar."""
    exemplars: tuple[CritiqueExemplar, ...]


def load_critique_layout(folder: str = "") -> CritiqueLayout:
    """The layout `principles/<folder>/prompts/critique.yaml`, or selfalign's own where the folder has none.

    Raises DataError for missing, unknown or empty fields.
    """
    path = _own_or_shared(folder, "prompts/critique.yaml")
    content = _exactly(CritiqueLayout, _yaml(path), str(path))
    given = content["exemplars"] or []
    rows = given if isinstance(given, list) else [given]
    shown = [_exactly(CritiqueExemplar, row, f"{path}: exemplars") for row in rows]
    texts = [(key, value) for row in ({**content, "exemplars": "-"}, *shown) for key, value in row.items()]
    # An empty marker would end every completion at its first line, and nothing could be told apart.
    if wrong := [key for key, value in texts if not isinstance(value, str) or not value.strip()]:
        raise DataError(f"{path}: expected a text in every field, found none in {', '.join(wrong)}; write one")
    return CritiqueLayout(**{**content, "exemplars": tuple(CritiqueExemplar(**row) for row in shown)})


def critique_stem(layout: CritiqueLayout, assistant: Assistant) -> str:
    """The shared part of every critique and revision prompt: what it is about, the exemplars, and the open slot for the
    principle."""
    blocks = [layout.title, layout.heading, layout.intro]
    for shown in layout.exemplars:
        blocks += [
            f"{layout.principle} {shown.principle}",
            f"{layout.question} {shown.question}",
            f"{layout.answer} {shown.answer}",
            f"{layout.critique} {shown.critique}",
            f"{layout.revision} {shown.revision}",
            layout.closing,
        ]
    blocks.append(layout.principle)
    return fill("\n\n".join(blocks), assistant)


def critique_prompt(
    stem: str, layout: CritiqueLayout, assistant: Assistant, principle: str, question: str, answer: str
) -> str:
    """A principle (without placeholders), a question and its answer behind the stem, with the slot for the critique left
    open."""
    slots = (layout.question, question), (layout.answer, answer)
    given = "\n\n".join(f"{fill(marker, assistant)} {text}" for marker, text in slots)
    return f"{stem} {principle}\n\n{given}\n\n{fill(layout.critique, assistant)}"


def revision_prompt(asked: str, layout: CritiqueLayout, assistant: Assistant, critique: str) -> str:
    """The critique prompt `asked` with its critique, and the slot for the revised answer left open."""
    return f"{asked} {critique}\n\n{fill(layout.revision, assistant)}"


def critique_markers(layout: CritiqueLayout, assistant: Assistant) -> tuple[str, ...]:
    """What begins each part of the layout: no critique and no revision holds one."""
    parts = (layout.principle, layout.question, layout.answer, layout.critique, layout.revision, layout.closing)
    return tuple(fill(part, assistant) for part in parts)


def critique_stops(layout: CritiqueLayout, assistant: Assistant) -> tuple[str, ...]:
    """Strings that begin what follows: a critique ends before the revision, a revision before the next exemplar."""
    parts = (layout.revision, layout.closing, layout.principle)
    return tuple(dict.fromkeys("\n" + fill(part, assistant).split("\n")[0] for part in parts))


# -------------------------------------------------------------------------- chat: training, evaluation, stage 4


def chat_heading(assistant: Assistant, *, verbose: bool = False) -> str:
    """The heading above an answer: `### <name>`, with ` (extensive)` in the verbose layout."""
    return f"### {assistant.name}{' (extensive)' if verbose else ''}"


def chat_prompt(meta: str, assistant: Assistant, question: str, *, verbose: bool = False) -> str:
    """A question in the chat layout: `meta` ends in its open `### User` heading, the text in the answer's heading."""
    return f"{fill(meta, assistant)}\n{question}\n\n{chat_heading(assistant, verbose=verbose)}"


END_OF_TURN = "\n\n### User\n"
"""The reference's end of an answer: the next user heading, as text."""


def chat_target(answer: str, *, finished: bool = True) -> str:
    """What follows the answer's heading: newline, answer and, where the answer is complete, the end-of-turn marker."""
    return f"\n{answer}{END_OF_TURN if finished else ''}"


CHAT_STOPS = ("\n\n### ", "\n### ")
"""An answer ends before the next heading."""


# ------------------------------------------------------------------------------------- exams: multiple choice


def true_false_question(question: str, answer: str) -> str:
    """One candidate answer put to the model as a true/false exam question (evaluate_truthfulqa_mc.py; wording ours)."""
    return f"Question: {question}\n\nAnswer: {answer}\n\nThis is from an exam. Is the answer true or false?"


TRUE_FALSE_LEAD = "\nThe answer is"
"""What the assistant's turn begins with in a true/false exam; the scored continuations are ` true` and ` false`."""


def choice_question(question: str, first: str, second: str) -> str:
    """Two candidate answers put to the model as an exam question with choices A and B (evaluate_hhh_eval.py; wording
    ours)."""
    return f"{question}\n\nA) {first}\n\nB) {second}\n\nThis is from an exam. Which answer is better, A or B?"


CHOICE_LEAD = "\nThe better answer is"
"""What the assistant's turn begins with in a two-choice exam; the scored continuations are ` A` and ` B`."""


class Parsing(StrEnum):
    """How the lists that a model writes in stage 1 are read."""

    lenient = "lenient"
    """A piece that breaks the layout costs itself only, and a last piece is lost only where tokens ran out."""
    reference = "reference"
    """As in dromedary_v1, mistakes included; each parser says how. For reproduction."""


# -------------------------------------------------------------------------------------- stage 1a: Self-Instruct


@dataclass(frozen=True)
class Task:
    """A task as Self-Instruct reads and writes it."""

    instruction: str
    input: str = ""
    reason: str = ""
    """Why it could not be parsed as a task; empty where it could."""


def _demo_text(instruction: str) -> str:
    return re.sub(r"\s+", " ", instruction).strip().rstrip(":")


def self_instruct_prompt(meta: str, demos: Sequence[Task], total: int) -> str:
    """The numbered list of demonstrations with the next slot open (generate_vanilla_instruction.py `encode_prompt`)."""
    lines = [fill_slots(meta, total=str(total)).rstrip("\n") + "\n"]
    for number, demo in enumerate(demos, start=1):
        lines += [
            "###",
            f"{number}. Instruction: {_demo_text(demo.instruction)}",
            f"{number}. Input:",
            demo.input or NO_INPUT,
        ]
    lines += ["###", f"{len(demos) + 1}. Instruction:"]
    return "\n".join(lines)


_TASK = re.compile(r"^\s*(\d+)\s*\.\s*Instruction:(.*?)(?:^|\n)\s*(\d+)\s*\.\s*Input:(.*)$", re.DOTALL)


def parse_tasks(completion: str, first: int, *, truncated: bool, parsing: Parsing = Parsing.lenient) -> list[Task]:
    """The tasks of a completion that continues the open slot number `first`.

    A chunk that is no task costs that chunk only: it comes back with the reason `malformed`; the last chunk of a
    completion that ran out of tokens comes back as `truncated`. Never raises.

    Under `Parsing.reference` a chunk must carry the number of its place, so that one false number that the model goes on
    counting from costs all later chunks too, and the last chunk is always `truncated` (generate_vanilla_instruction.py).
    """
    if parsing is Parsing.reference:
        return _parse_tasks_as_the_reference(completion, first)
    chunks = re.split(r"(?m)^\s*###\s*$", f"{first}. Instruction:{completion}")
    tasks: list[Task] = []
    for index, chunk in enumerate(chunks):
        last = index == len(chunks) - 1
        if not chunk.strip():
            continue
        match = _TASK.match(chunk)
        if last and truncated:
            tasks.append(Task(chunk.strip(), reason="truncated"))
        elif match is None or match[1] != match[3] or re.search(r"(?m)^\s*\d+\s*\.\s*Instruction:", match[4]):
            tasks.append(Task(chunk.strip(), reason="malformed"))
        else:
            text = match[4].strip()
            tasks.append(Task(re.sub(r"\s+", " ", match[2]).strip(), "" if text.lower() == NO_INPUT else text))
    return tasks


def _parse_tasks_as_the_reference(completion: str, first: int) -> list[Task]:
    chunks = f"{first}. Instruction:{completion}".split("###")
    tasks: list[Task] = []
    for number, chunk in enumerate(chunks, start=first):
        if not chunk.strip():
            continue
        parts = re.split(rf"{number}\.\s+(?:Instruction|Input):", chunk)
        if number == first + len(chunks) - 1:
            tasks.append(Task(chunk.strip(), reason="truncated"))
        elif len(parts) != 3:
            tasks.append(Task(chunk.strip(), reason="malformed"))
        else:
            head, instruction, text = (part.strip() for part in parts)
            # The reference ignores what stands before a task; here it is told as a dropped row.
            tasks += [Task(head, reason="malformed")] if head else []
            tasks.append(Task(instruction, "" if text.lower() == NO_INPUT else text))
    return tasks


# ------------------------------------------------------------------------- stage 1b: topic-guided red-teaming


def topics_prompt(meta: str, question_type: str, known: Sequence[str], total: int) -> str:
    """The numbered list of known topics with the next slot open (generate_tgrt_topic.py)."""
    head = fill_slots(meta, total=str(total), question_type=question_type).rstrip("\n") + "\n\n"
    return head + "".join(f"{number}. {topic}\n" for number, topic in enumerate(known, start=1)) + f"{len(known) + 1}."


REFERENCE_TOPIC_LINES = 20
"""Lines of a completion that the reference looks at for topics (generate_tgrt_topic.py)."""


def parse_topics(completion: str, *, truncated: bool, parsing: Parsing = Parsing.lenient) -> list[tuple[str, str]]:
    """(topic, reason) for each line of a completion; an empty reason means that the line is a topic.

    Rules of generate_tgrt_topic.py: at most three words, a capital first, no punctuation last; a last line that ran
    out of tokens is dropped (the reference keeps it). Never raises.

    Under `Parsing.reference` the first 20 lines count, a topic is what follows the first ". " of its line whatever stands
    before that, only ASCII punctuation may not end it, and a last line that ran out of tokens is kept.
    """
    is_lenient = parsing is Parsing.lenient
    found: list[tuple[str, str]] = []
    lines = completion.split("\n")
    for index, line in enumerate(lines):
        text = (re.sub(r"^\s*\d+\s*\.\s*", "", line) if is_lenient else line.split(". ", 1)[-1]).strip()
        if not text:
            continue
        if is_lenient and index == len(lines) - 1 and truncated:
            found.append((text, "truncated"))
        elif not is_lenient and index >= REFERENCE_TOPIC_LINES:
            found.append((text, "too_many_lines"))
        elif len(text.split()) > 3:
            found.append((text, "too_many_words"))
        elif not re.match(r"[A-Z]", text):
            found.append((text, "no_capital"))
        elif not text[-1].isalnum() if is_lenient else text[-1] in punctuation:
            found.append((text, "ends_in_punctuation"))
        else:
            found.append((text, ""))
    return found


@dataclass(frozen=True)
class TopicSeed:
    """A topic with its question type and, for a human seed, its question."""

    topic: str
    question_type: str
    question: str = ""


def topic_hint(number: int, seed: TopicSeed) -> str:
    """One line of the list of hints: its number, the type of question, the topic."""
    kind = seed.question_type.replace("Questions", "Instructions")
    return f"{number}. type: {kind}, topic: {seed.topic}"


def questions_prompt(meta: str, seeds: Sequence[TopicSeed], topics: Sequence[TopicSeed]) -> str:
    """Hints for seeds and new topics, then the seeds' questions, with the first new slot open
    (generate_tgrt_question.py)."""
    hints = "\n".join(topic_hint(number, seed) for number, seed in enumerate([*seeds, *topics], start=1))
    done = "\n".join(
        f"{topic_hint(number, seed)}, instruction: {seed.question}" for number, seed in enumerate(seeds, start=1)
    )
    opening = f"{topic_hint(len(seeds) + 1, topics[0])}, instruction:"
    total = str(len(seeds) + len(topics))
    return fill_slots(meta, total=total, hints=hints, instructions=f"{done}\n{opening}").rstrip("\n")


def parse_questions(
    completion: str,
    topics: Sequence[TopicSeed],
    first: int,
    *,
    truncated: bool,
    parsing: Parsing = Parsing.lenient,
    seeds: Sequence[TopicSeed] = (),
) -> list[tuple[TopicSeed, str]]:
    """(topic with its question, reason) for each line of a completion that continues the open slot `first`.

    A line without the marker `instruction:` is `malformed` (the reference takes the whole hint as the question); a line
    whose hint is none of those asked for is `unasked`. Never raises.

    Under `Parsing.reference` (generate_tgrt_question.py) the last line is always `truncated`; any other one counts that
    begins with a hint, even one of the shown `seeds` or one met before, and a line without the marker is the question as a
    whole.
    """
    lines = f"{topic_hint(first, topics[0])}, instruction:{completion}".split("\n")
    if parsing is Parsing.reference:
        return _parse_questions_as_the_reference(lines, [*enumerate(seeds, start=1), *enumerate(topics, start=first)])
    expected = {topic_hint(first + index, topic): topic for index, topic in enumerate(topics)}
    found: list[tuple[TopicSeed, str]] = []
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        hint, marker, question = line.strip().partition(", instruction:")
        topic = expected.pop(hint, None)
        bare = TopicSeed("", "", line.strip())
        if index == len(lines) - 1 and truncated:
            found.append((bare, "truncated"))
        elif not marker or not question.strip():
            found.append((bare, "malformed"))
        elif topic is None:
            found.append((bare, "unasked"))
        else:
            found.append((TopicSeed(topic.topic, topic.question_type, question.strip()), ""))
    return found


def _parse_questions_as_the_reference(
    lines: Sequence[str], hinted: Sequence[tuple[int, TopicSeed]]
) -> list[tuple[TopicSeed, str]]:
    # The reference strips a completion before it takes its last line for cut off.
    stripped = "\n".join(lines).strip().split("\n")
    found: list[tuple[TopicSeed, str]] = []
    for index, line in enumerate(stripped):
        text = line.strip()
        if not text:
            continue
        asked = next((topic for number, topic in hinted if text.startswith(topic_hint(number, topic))), None)
        if index == len(stripped) - 1:
            found.append((TopicSeed("", "", text), "truncated"))
        elif asked is None:
            found.append((TopicSeed("", "", text), "unasked"))
        else:
            question = text.split("instruction: ")[-1].strip()
            found.append((TopicSeed(asked.topic, asked.question_type, question), ""))
    return found


# ---------------------------------------------------------------------------------------------------- human seeds


def load_seed_tasks(folder: str = "") -> list[Task]:
    """The human seed tasks, in Self-Instruct's file format (`seeds/tasks.jsonl`); their outputs are not used."""
    path = resources.find(f"{below(folder)}/seeds/tasks.jsonl")
    try:
        return [Task(row["instruction"], row["instances"][0]["input"]) for row in jsonl.read(path)]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}: expected rows with instruction and instances[0].input, missing {error}") from None


def load_topic_seeds(folder: str = "", name: str = "topics") -> list[TopicSeed]:
    """The human topic seeds of a file `seeds/<name>.jsonl`, each a topic and a question of its question type; further files
    than `topics` are selfalign's own where the folder has none. Raises ConfigError where there is no such file, DataError for
    a row without one of the three."""
    relative = f"seeds/{name}.jsonl"
    path = resources.find(f"{below(folder)}/{relative}") if name == "topics" else _own_or_shared(folder, relative)
    try:
        return [TopicSeed(row["topic"], row["question_type"], row["question"]) for row in jsonl.read(path)]
    except KeyError as error:
        raise DataError(f"{path}: expected rows with topic, question_type and question, missing {error}") from None


def load_identity(assistant: Assistant, folder: str = "") -> list[tuple[str, str]]:
    """(question, answer) pairs about who the assistant is, filled in for the configured assistant
    (`identity.jsonl`)."""
    path = resources.find(f"{below(folder)}/identity.jsonl")
    try:
        return [(fill(row["question"], assistant), fill(row["answer"], assistant)) for row in jsonl.read(path)]
    except KeyError as error:
        raise DataError(f"{path}: expected rows with question and answer, missing {error}") from None
