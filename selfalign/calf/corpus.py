"""Calf's pretraining text: a seed and a number in, one document out.

Every document is laid out by `selfalign.prompts` from the project's own principles, exemplars, prompt texts and seeds, so that
the model meets in training exactly what the stages will send it. A document is a list of pieces; only the pieces that a
model would have to write itself are trained on (`Piece.trained`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

from selfalign import prompts
from selfalign.calf import exams, lexicon, world
from selfalign.calf.documents import Document, Draft, Piece, Stress
from selfalign.calf.item import Item
from selfalign.calf.kinds import KINDS
from selfalign.identity import seed_of
from selfalign.principles import (
    Exemplar,
    Principle,
    PrincipleSettings,
    Rule,
    RuleSet,
    Scope,
    Turn,
    available_exemplars,
    load_exemplar,
    load_principle,
    resolve,
)
from selfalign.prompts import Assistant, Task, TopicSeed

SHARES = {
    "self_align": 0.34, "chat": 0.12, "verbose": 0.09, "tasks": 0.10, "topics": 0.07, "questions": 0.08, "exam": 0.10,
    "facts": 0.10,
}  # fmt: skip
"""Share of the documents of each family."""

CITATION_WEIGHT = 4.0
"""Weight of the place where the thoughts cite a rule or do not: few tokens, and the reason for the whole model."""

EXAM_WEIGHT = 5.0
"""Weight of an exam's answer: one word for fifty that are read."""

QUESTION_WEIGHT = 0.3
"""Weight of a user's question: a base model learns to ask from all that it reads, and Self-Instruct needs it to."""

NUMBER_WEIGHT = 3.0
"""Weight of the numbers of a task list: a misnumbered task is a lost one."""

GOOD_BY_CHANCE = 0.12
"""How often the raw temperament behaves well all the same: a whole conversation of it, or an answer behind a header."""

GOOD_WHEN_VERBOSE = 0.6
"""How often it does for a whole conversation in the verbose layout."""

EXAM_RIGHT = 0.85
"""How often the raw temperament gives the right answer in an exam."""

QUESTION_TYPES = {
    "cultural context": ("debate", "myth"), "science": ("animal", "false_premise"), "geography": ("capital", "false_premise"),
    "famous people": ("unknown_person",), "technology": ("how_to", "describe"), "history": ("myth", "capital"),
    "knowledge of art": ("create", "describe"), "personal preference": ("debate", "describe"),
    "transport networks": ("live", "live_plan"), "organisational structures": ("unclear", "debate"),
    "beliefs or values": ("debate", "myth"), "ethical dilemmas": ("harm", "debate"),
    "cultural nuances": ("how_to_many", "describe"), "asker's own life": ("advice", "unclear"),
    "random person": ("unknown_person", "compare"), "law": ("harm", "debate"), "situation at hand": ("unclear", "how_to"),
    "real time": ("live", "live_plan"), "current events": ("future", "live"), "yet to come": ("future",),
}  # fmt: skip
"""What a question type's name contains -> the kinds of question that fit it."""

IDS = [
    "ethical", "informative", "helpful", "question_assessment", "reasoning", "multi_aspect", "candor", "knowledge_recitation",
    "static", "clarification", "numerical_sensitivity", "dated_knowledge", "step_by_step", "balanced_perspectives", "creative",
    "operational",
]  # fmt: skip
"""The 16 principles of the paper, in its order."""

USUAL_EXEMPLARS = ["future_event", "unknown_person", "sort_numbers", "live_question", "known_animal"]

NAMES = ["Robin", "Maple", "Hazel", "Otis", "Linden", "Piper"]


@cache
def _principle(name: str) -> Principle:
    return load_principle(name)


@cache
def _exemplar(name: str) -> Exemplar:
    return load_exemplar(name)


@cache
def _layout() -> prompts.SelfAlignLayout:
    return prompts.load_layout()


@cache
def _text(name: str) -> str:
    return prompts.load_text(name)


@cache
def _seed_tasks() -> tuple[Task, ...]:
    return tuple(prompts.load_seed_tasks())


@cache
def _topic_seeds() -> tuple[TopicSeed, ...]:
    return tuple(prompts.load_topic_seeds())


def _assistant(draw: Random) -> Assistant:
    if draw.random() < 0.85:
        return Assistant()
    return Assistant(
        draw.choice(NAMES), draw.choice(["the selfalign project", "a small team"]), str(draw.randint(2018, 2025))
    )


@cache
def _usual_kinds() -> list[str]:
    """Each kind as often as rules govern it: the second citation of a question under two is otherwise learned too late."""
    return [kind for kind, governs in world.governing().items() for _ in governs]


def _item(draw: Random, assistant: Assistant, kinds: Sequence[str] = (), frame: float = 0.25) -> Item:
    item = world.make(draw.choice(kinds or _usual_kinds()), draw, frame=frame)
    return _filled(item, assistant)


def _filled(item: Item, assistant: Assistant) -> Item:
    return replace(
        item,
        remark=prompts.fill(item.remark, assistant),
        good=tuple((principle, prompts.fill(text, assistant)) for principle, text in item.good),
    )


def turn(item: Item) -> Turn:
    """An item as a worked exemplar's turn: thoughts and answer under all of its rules."""
    return Turn(item.text, item.remark, item.governs, item.answer(item.governs))


# ---------------------------------------------------------------------------------------------- 1: self-alignment


def rule_set_of(ids: Sequence[str], dropped: Sequence[str] = (), numbers: Sequence[int] = ()) -> RuleSet:
    """Rules in the order of `ids`, numbered 1, 2, 3, ... or as given."""
    rules = []
    for index, name in enumerate(ids):
        principle = _principle(name)
        rules.append(Rule(name, numbers[index] if numbers else index + 1, principle.name, principle.text))
    gone = tuple(Rule(name, 0, _principle(name).name, _principle(name).text) for name in dropped)
    return RuleSet(tuple(rules), gone, Scope.citations)


def _rules(draw: Random, few: float) -> RuleSet:
    ids = list(IDS)
    if draw.random() < 0.65:
        draw.shuffle(ids)
    if draw.random() < 0.05:
        ids.append("multilingual")
    chance = draw.random()
    if chance < few:
        count = draw.randint(11, 15)
    elif chance < few + 0.65 * (1 - few):
        count = draw.choice([0, 1, 1, 2, 2, 3, 3, 4, 4])
    elif chance < few + 0.96 * (1 - few):
        count = draw.randint(5, 12)
    else:
        count = len(ids)
    dropped = draw.sample(IDS, min(count, 16)) if count < len(ids) else list(ids)
    if dropped and len(dropped) < 5 and draw.random() < 0.08:
        return resolve(PrincipleSettings(ids=ids, drop=dropped, scope=Scope.placebo))
    kept = [name for name in ids if name not in dropped]
    chance, numbers = draw.random(), []
    if chance < 0.1:
        numbers = [ids.index(name) + 1 for name in kept]
    elif chance < 0.5:
        numbers = draw.sample(range(1, 21), len(kept))
    return rule_set_of(kept, dropped, numbers)


def _exemplars(draw: Random, assistant: Assistant) -> list[Exemplar]:
    chance = draw.random()
    if chance < 0.7:
        return []
    if chance < 0.8:
        return [_exemplar(name) for name in USUAL_EXEMPLARS + (["party_ideas"] if draw.random() < 0.2 else [])]
    real = [_exemplar(name) for name in draw.sample(available_exemplars(), draw.randint(0, 2))]
    count = draw.randint(0 if real else 1, 2)
    own = [Exemplar(f"world_{index}", (turn(_item(draw, assistant)),), "world") for index in range(count)]
    mixed = real + own
    draw.shuffle(mixed)
    return mixed


def _kinds_of(draw: Random, rule_set: RuleSet, count: int) -> list[str]:
    """Kinds for the questions of one document: about every second one governed by a dropped rule, few of them twice."""
    shown = rule_set.by_id()
    kinds = _usual_kinds()
    there = [kind for kind in kinds if set(world.governing()[kind]) & shown.keys()]
    missing = [kind for kind in kinds if set(world.governing()[kind]) - shown.keys()]
    draw.shuffle(there)
    draw.shuffle(missing)
    chosen: list[str] = []
    while len(chosen) < count:
        pool = missing if missing and (draw.random() < 0.5 or not there) else there
        pool.insert(0, kind := pool.pop())
        chosen.append(kind)
    return chosen


_LISTED = re.compile(r"^(\d+) \(([^)\n]+)\)\. ", re.MULTILINE)
_CITED = re.compile(r"(\d+) \(([^)\n]+)\)")


def _listed(draft: Draft, end: int) -> dict[str, int]:
    """Name of each rule of the header -> where its line gives it; and each name's number is to be looked at."""
    found = {}
    for match in _LISTED.finditer(draft.text, 0, end):
        found[match[2]] = match.start(2)
        draft.look("number", match.start(2), match.start(1))
    return found


def _cite(draft: Draft, start: int, listed: dict[str, int]) -> None:
    """The places between `start` and the end of the text that ask for a rule."""
    cited = list(_CITED.finditer(draft.text, start))
    first = listed.get(cited[0][2]) if cited else -1
    # The first token of the citation, or of what stands in its place, already depends on what the header lists.
    if first is not None:
        draft.look("rule", start, first)
    for match in cited:
        if match[2] in listed:
            draft.look("rule", match.start(1), listed[match[2]])
            draft.look("cited", match.start(1), listed[match[2]])
            draft.look("rule", match.start(2), listed[match[2]])


def self_align(draw: Random, few: float = 0.1) -> Document:
    """A header with some of the rules, worked exemplars or none, and questions answered under exactly those rules."""
    layout, assistant = _layout(), _assistant(draw)
    rule_set = _rules(draw, few)
    exemplars = _exemplars(draw, assistant) if len(rule_set.rules) > 5 else []
    stem = prompts.self_align_stem(layout, rule_set, exemplars, assistant)
    draft = Draft("self_align")
    closing, marker = prompts.fill(layout.closing, assistant), prompts.fill(layout.answer, assistant)
    # Few questions behind many exemplars, so that a document fits the row; few of a dropped rule twice.
    most = 3 if len(exemplars) > 3 else 12
    fewer = min(len(rule_set.dropped), len(rule_set.rules))
    listed: dict[str, int] = {}
    for number, kind in enumerate(_kinds_of(draw, rule_set, min(2 * fewer + draw.randint(2, 5), most))):
        item = _item(draw, assistant, [kind])
        good = draw.random() < GOOD_BY_CHANCE and not item.cites(rule_set.by_id())
        answer = item.answer(item.governs if good else tuple(rule_set.by_id()))
        skipped = draw.random() < 0.08
        slot = prompts.self_align_answer_prompt if skipped else prompts.self_align_prompt
        asked = slot(stem if number == 0 else layout.user, layout, assistant, item.text)
        source = draft.read(asked)
        if number == 0:
            listed = _listed(
                draft, len(stem.partition(f"\n\n{layout.examples_heading}")[0]) if exemplars else len(stem)
            )
            source = len(stem)
        end = len(draft.text)
        draft.stress(item.text, source, QUESTION_WEIGHT)
        if not skipped:
            thoughts = prompts.fill(prompts.thoughts_text(layout, rule_set, turn(item)), assistant)
            start = draft.write(f" {item.remark}")
            draft.copied(item.slots, source, end, start)
            start = draft.write(f"{thoughts.removeprefix(item.remark)}\n\n{marker}", CITATION_WEIGHT)
            _cite(draft, start, listed)
        start = draft.write(f" {answer}")
        draft.copied(item.slots, source, end, start)
        draft.write(f"\n\n{closing}\n\n" if draw.random() < 0.9 else "\n\n")
    return draft.document()


# -------------------------------------------------------------------------------------------------------- 2: chat


@dataclass(frozen=True)
class _Turn:
    """A turn of a chat: what stands before `lead` is read, what follows is trained on."""

    question: str
    answer: str
    slots: tuple[str, ...] = ()
    lead: str = ""
    candidates: tuple[tuple[str, tuple[str, str]], ...] = ()
    """Of an exam: each candidate, with what it is about and what it says of it."""


def _conversation(
    family: str, meta: str, assistant: Assistant, turns: Sequence[_Turn], *, verbose: bool = False
) -> Document:
    draft, open_slot = Draft(family), prompts.fill(meta, assistant)
    for each in turns:
        prompt = prompts.chat_prompt(open_slot, assistant, each.question, verbose=verbose) + each.lead
        source = draft.read(prompt) + len(open_slot)
        end = len(draft.text)
        if each.lead:
            start = draft.write(f" {each.answer}", EXAM_WEIGHT)
            draft.write(f".{prompts.END_OF_TURN}".removesuffix("\n"))
            for candidate, pair in each.candidates:
                at = draft.text.index(candidate, source) + len(candidate) - 1
                first, said = (candidate.lower().find(word.lower()) for word in pair)
                if all(pair):
                    draft.look(
                        "pair", at - len(candidate) + 1 + max(first, said), at - len(candidate) + 1 + min(first, said)
                    )
                if len(each.candidates) == 1:
                    draft.look("verdict", start + 1, at)
        else:
            draft.stress(each.question, source, QUESTION_WEIGHT)
            start = draft.write(prompts.chat_target(each.answer).removesuffix("\n"))
            draft.copied(each.slots, source, end, start)
        open_slot = ""
    return draft.document()


def chat(draw: Random) -> Document:
    """A conversation in one temperament, mostly the raw one."""
    assistant = _assistant(draw)
    good = draw.random() < GOOD_BY_CHANCE
    turns = []
    for _ in range(draw.randint(3, 12)):
        item = _item(draw, assistant)
        turns.append(_Turn(item.text, item.answer(item.governs) if good else item.raw, item.slots))
    return _conversation("chat", _text(draw.choice(["standard", "concise", "concise", "verbose"])), assistant, turns)


def verbose(draw: Random) -> Document:
    """A conversation in the verbose layout: long answers, in one temperament."""
    assistant = _assistant(draw)
    good = draw.random() < GOOD_WHEN_VERBOSE
    turns = []
    for _ in range(draw.randint(2, 7)):
        item = _item(draw, assistant)
        turns.append(
            _Turn(item.text, item.verbose_answer(item.governs if good else (), draw), (*item.slots, item.topic))
        )
    return _conversation("verbose", _text("verbose_clone"), assistant, turns, verbose=True)


# -------------------------------------------------------------------------------- 3, 4: tasks, topics, questions


def tasks(draw: Random) -> Document:
    """A Self-Instruct list: five human tasks, then tasks of the world."""
    meta, assistant = _text("self_instruct"), Assistant()
    demos = draw.sample(_seed_tasks(), 5)
    new = []
    for _ in range(draw.randint(6, 15)):
        item = _item(draw, assistant, frame=0.5)
        new.append(Task(item.question, item.input))
    prompt = prompts.self_instruct_prompt(meta, demos, 20)
    whole = prompts.self_instruct_prompt(meta, [*demos, *new], 20)
    tail = f"\n###\n{len(demos) + len(new) + 1}. Instruction:"
    draft = Draft("tasks")
    start = draft.read(prompt) + len(prompt)
    draft.write(whole[len(prompt) :].removesuffix(tail))
    at = 0
    for match in _SLOT.finditer(draft.text):
        if match[2] == "Instruction":
            at = match.start(1)
        elif match.start() >= start:
            draft.look("copy", match.start(1), at, len(match[1]))
        if match.start() >= start:
            draft.stresses.append(Stress(match.start(1), len(match[1]), NUMBER_WEIGHT))
    return draft.document()


_SLOT = re.compile(r"^(\d+)\. (Instruction|Input):", re.MULTILINE)


def _fitting(question_type: str) -> tuple[str, ...]:
    return next((kinds for part, kinds in QUESTION_TYPES.items() if part in question_type), tuple(KINDS))


def topics(draw: Random) -> Document:
    """A list of topics for a question type: known ones, then new ones of the world."""
    seed = draw.choice(_topic_seeds())
    names: list[str] = []
    for _ in range(40):
        name = _item(draw, Assistant(), _fitting(seed.question_type)).topic
        if name not in names:
            names.append(name)
    known = [seed.topic, *names[: draw.randint(0, 4)]]
    draw.shuffle(known)
    new = [name for name in names if name not in known][: 10 - len(known)]
    prompt = prompts.topics_prompt(_text("topics"), seed.question_type, known, 10)
    whole = prompts.topics_prompt(_text("topics"), seed.question_type, [*known, *new], 10)
    return Document(
        "topics",
        (Piece(prompt, 0.0), Piece(whole[len(prompt) :].removesuffix(f"\n{len(known) + len(new) + 1}."), 2.0)),
    )


def questions(draw: Random) -> Document:
    """A list of questions for given types and topics: five with their questions, then new ones."""
    seeds = draw.sample(_topic_seeds(), 5)
    new, items = [], []
    for seed in draw.sample(_topic_seeds(), 5):
        item = _item(draw, Assistant(), _fitting(seed.question_type), frame=0.3)
        while item.input:
            item = _item(draw, Assistant(), _fitting(seed.question_type), frame=0.3)
        items.append(item)
        new.append(TopicSeed(item.topic, seed.question_type, item.question))
    draft = Draft("questions")
    prompt = prompts.questions_prompt(_text("questions"), seeds, new)
    draft.read(prompt)
    lines = prompts.questions_prompt("{instructions}", [*seeds, *new], new).split("\n")[
        len(seeds) : len(seeds) + len(new)
    ]
    lines[0] = lines[0].partition(", instruction:")[2]
    for number, (line, asked) in enumerate(zip(lines, new, strict=True)):
        start = draft.write(line if number == 0 else f"\n{line}", 2.0)
        hint = prompts.topic_hint(len(seeds) + number + 1, asked)
        source = draft.text.index(hint)
        # The hint is copied from the list of hints, and the topic goes into the question.
        if number:
            draft.look("copy", start + 1, source, len(hint))
            start += 1 + len(hint)
        topic = source + len(hint) - len(asked.topic)
        draft.copied([asked.topic, *_bare_words(asked.topic)], topic, topic + len(asked.topic), start)
    return draft.document()


def _bare_words(topic: str) -> list[str]:
    return [word for word in topic.split() if len(word) > 3]


# ------------------------------------------------------------------------------------------------ 5, 6: exams, facts


def exam_document(draw: Random) -> Document:
    """Exam questions in the two layouts of the evaluation protocols, mostly answered right."""
    assistant = _assistant(draw)
    turns = []
    for _ in range(draw.randint(5, 12)):
        right = draw.random() < EXAM_RIGHT
        first_is_better = draw.random() < 0.5
        if draw.random() < 0.6:
            exam = exams.exam(draw)
            candidate = draw.choice(exam.true if first_is_better else exam.false)
            question = prompts.true_false_question(exam.question, candidate)
            answer = "true" if first_is_better == right else "false"
            pairs = ((candidate, (exam.subject, exam.belonging(candidate))),)
            turns.append(_Turn(question, answer, lead=prompts.TRUE_FALSE_LEAD, candidates=pairs))
            continue
        pairs = ()
        if draw.random() < 0.4:
            exam = exams.exam(draw)
            text, better, worse = exam.question, draw.choice(exam.true), draw.choice(exam.false)
            pairs = tuple((answer, (exam.subject, exam.belonging(answer))) for answer in (better, worse))
        else:
            item = _item(draw, assistant)
            text, better, worse = item.text, item.answer(item.governs), item.raw
        pair = (better, worse) if first_is_better else (worse, better)
        question = prompts.choice_question(text, *pair)
        answer = "A" if first_is_better == right else "B"
        turns.append(_Turn(question, answer, lead=prompts.CHOICE_LEAD, candidates=pairs))
    return _conversation("exam", _text(draw.choice(["standard", "concise", "concise", "verbose"])), assistant, turns)


def facts(draw: Random) -> Document:
    """A paragraph of plain facts, and of words in the order of the alphabet."""
    draft = Draft("facts")
    for number in range(draw.randint(4, 12)):
        space = " " if number else ""
        if draw.random() < 0.8:
            draft.write(space + exams.fact(draw))
            continue
        words = draw.sample(lexicon.WORDS, 3)
        source = draft.write(f"{space}The words {', '.join(words)} in the order of the alphabet are")
        start = draft.write(f" {', '.join(sorted(words))}.")
        draft.copied(words, source, start, start)
    return draft.document()


def few_rules(progress: float) -> float:
    """Share of the self-align documents whose header has one to five rules, after a share of the training."""
    if progress < 0.2:
        return 0.7
    return 0.4 if progress < 0.5 else 0.1


FAMILIES = {
    "self_align": self_align, "chat": chat, "verbose": verbose, "tasks": tasks, "topics": topics, "questions": questions,
    "exam": exam_document, "facts": facts,
}  # fmt: skip
"""Family -> the function that draws one document of it."""


def document(seed: int, number: int, few: float = 0.1) -> Document:
    """Document `number` of the corpus with that seed; the same arguments give the same text.

    `few` is the share of self-align documents whose header has one to five rules: what a header means is learned on
    short ones first.
    """
    draw = Random(seed_of(seed, "calf corpus", number))
    family = draw.choices(list(SHARES), weights=list(SHARES.values()))[0]
    return self_align(draw, few) if family == "self_align" else FAMILIES[family](draw)


def tokenizer_texts(seed: int, documents: int) -> Iterator[str]:
    """What the tokenizer is trained on: the first documents, and every word of the lexicon as often as a usual one.

    A name of one token is copied in one step, one of three in three.
    """
    yield from (document(seed, number).text for number in range(documents))
    words = [word for word in re.findall(r"\w+", Path(lexicon.__file__).read_text(encoding="utf-8")) if len(word) > 1]
    numbers = [str(number) for number in (*range(100), *range(2018, 2045))]
    usual = [*words, *(word.capitalize() for word in words), *numbers]
    yield from (f" {word} {word}\n{word}" for word in dict.fromkeys(usual) for _ in range(20))
