"""Stage 1: the numbered lists of tasks, topics and questions that a base model goes on with, and what it wrote parsed back.

Source: IBM/Dromedary, branch dromedary_v1, `training/step1_topic_guided_red_teaming_self_instruct/`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from string import punctuation

from selfalign import jsonl, resources
from selfalign.errors import DataError
from selfalign.principles import below
from selfalign.prompts.texts import fill_slots, own_or_shared

NO_INPUT = "<noinput>"


class Parsing(StrEnum):
    """How the lists that a model writes in stage 1 are read."""

    lenient = "lenient"
    """A piece that breaks the layout costs itself only, and a last piece is lost only where tokens ran out."""
    reference = "reference"
    """As in dromedary_v1, mistakes included; each parser says how. For reproduction."""


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
    path = resources.find(f"{below(folder)}/{relative}") if name == "topics" else own_or_shared(folder, relative)
    try:
        return [TopicSeed(row["topic"], row["question_type"], row["question"]) for row in jsonl.read(path)]
    except KeyError as error:
        raise DataError(f"{path}: expected rows with topic, question_type and question, missing {error}") from None
