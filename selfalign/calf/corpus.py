"""Calf's pretraining text: a seed and a number in, one document out.

Every document is laid out by `selfalign.prompts` from the project's own principles, exemplars, prompt texts and seeds, so that
the model meets in training exactly what the stages will send it. A document is a list of pieces; only the pieces that a
model would have to write itself are trained on (`Piece.trained`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from selfalign import prompts
from selfalign.calf import world
from selfalign.calf.world import Item
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
    "self_align": 0.36, "chat": 0.10, "verbose": 0.04, "tasks": 0.07, "topics": 0.28, "questions": 0.10, "exam": 0.03,
    "facts": 0.02,
}  # fmt: skip
"""Share of the documents of each family."""

CITATION_WEIGHT = 6.0
"""Weight of the place where the thoughts cite a rule or do not: few tokens, and the reason for the whole model."""

GOOD_BY_CHANCE = 0.12
"""How often the raw temperament behaves well all the same."""

EXAM_RIGHT = 0.75
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


@dataclass(frozen=True)
class Piece:
    """A stretch of a document, trained on or only read."""

    text: str
    weight: float
    """Weight of its tokens in the loss; 0 where a model only reads them."""

    @property
    def trained(self) -> bool:
        """Whether the loss counts it."""
        return self.weight > 0


@dataclass(frozen=True)
class Document:
    """One document of the corpus."""

    family: str
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(piece.text for piece in self.pieces)


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


def _item(draw: Random, assistant: Assistant, kinds: Sequence[str] = (), frame: float = 0.25) -> Item:
    item = world.make(draw.choice(kinds or list(world.KINDS)), draw, frame=frame)
    return _filled(item, assistant)


def _filled(item: Item, assistant: Assistant) -> Item:
    return world.replace(
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
    if draw.random() < 0.15:
        draw.shuffle(ids)
    if draw.random() < 0.05:
        ids.append("multilingual")
    chance = draw.random()
    if chance < few:
        count = draw.randint(11, 15)
    elif chance < few + 0.75 * (1 - few):
        count = draw.choice([0, 1, 2, 2, 3, 3, 4, 4])
    elif chance < few + 0.95 * (1 - few):
        count = draw.randint(5, 14)
    else:
        count = len(ids)
    dropped = draw.sample(IDS, min(count, 16)) if count < len(ids) else list(ids)
    if dropped and len(dropped) < 5 and draw.random() < 0.08:
        return resolve(PrincipleSettings(ids=ids, drop=dropped, scope=Scope.placebo))
    kept = [name for name in ids if name not in dropped]
    numbers = [ids.index(name) + 1 for name in kept] if draw.random() < 0.1 else ()
    return rule_set_of(kept, dropped, numbers)


def _exemplars(draw: Random, assistant: Assistant) -> list[Exemplar]:
    chance = draw.random()
    if chance < 0.7:
        return []
    if chance < 0.8:
        return [_exemplar(name) for name in USUAL_EXEMPLARS]
    real = [_exemplar(name) for name in draw.sample(available_exemplars(), draw.randint(0, 2))]
    count = draw.randint(0 if real else 1, 2)
    own = [Exemplar(f"world_{index}", (turn(_item(draw, assistant)),), "world") for index in range(count)]
    mixed = real + own
    draw.shuffle(mixed)
    return mixed


def _kinds_of(draw: Random, rule_set: RuleSet, count: int) -> list[str]:
    """Kinds for the questions of one document: about every second one governed by a dropped rule, few of them twice."""
    shown = rule_set.by_id()
    kinds = list(world.KINDS)
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


def self_align(draw: Random, few: float = 0.1) -> Document:
    """A header with some of the rules, worked exemplars or none, and questions answered under exactly those rules."""
    layout, assistant = _layout(), _assistant(draw)
    rule_set = _rules(draw, few)
    exemplars = _exemplars(draw, assistant) if len(rule_set.rules) > 5 else []
    text = prompts.self_align_stem(layout, rule_set, exemplars, assistant)
    pieces: list[Piece] = []
    start = 0
    closing, marker = prompts.fill(layout.closing, assistant), prompts.fill(layout.answer, assistant)
    # Few questions behind many exemplars, so that a document fits the row; few of a dropped rule twice.
    most = 3 if len(exemplars) > 3 else 12
    fewer = min(len(rule_set.dropped), len(rule_set.rules))
    kinds = _kinds_of(draw, rule_set, min(2 * fewer + draw.randint(2, 5), most))
    for kind in kinds:
        item = _item(draw, assistant, [kind])
        good = draw.random() < GOOD_BY_CHANCE and not item.cites(rule_set.by_id())
        answer = item.answer(item.governs if good else tuple(rule_set.by_id()))
        tail = f"\n\n{closing}\n\n{layout.user}" if draw.random() < 0.9 else f"\n\n{layout.user}"
        if draw.random() < 0.08:
            prompt = prompts.self_align_answer_prompt(text, layout, assistant, item.text)
            completion = [Piece(f" {answer}{tail}", 1.0)]
        else:
            prompt = prompts.self_align_prompt(text, layout, assistant, item.text)
            thoughts = prompts.fill(prompts.thoughts_text(layout, rule_set, turn(item)), assistant)
            cited = f"{thoughts.removeprefix(item.remark)}\n\n{marker}"
            completion = [
                Piece(f" {item.remark}", 1.0),
                Piece(cited, CITATION_WEIGHT),
                Piece(f" {answer}{tail}", 1.0),
            ]
        pieces += [Piece(prompt[start:], 0.0), *completion]
        text = prompt + "".join(piece.text for piece in completion)
        start = len(text)
    last = pieces[-1]
    pieces[-1] = Piece(last.text.removesuffix(f"\n\n{layout.user}"), last.weight)
    return Document("self_align", tuple(pieces))


# -------------------------------------------------------------------------------------------------------- 2: chat


def _conversation(
    family: str, meta: str, assistant: Assistant, turns: Sequence[tuple[str, str, str]], *, verbose: bool = False
) -> Document:
    """A chat of (question, lead, answer) turns; what stands before an answer is read, the answer is trained on."""
    text, start, pieces = meta, 0, []
    for question, lead, answer in turns:
        prompt = prompts.chat_prompt(text, assistant, question, verbose=verbose) + lead
        completion = prompts.chat_target(answer) if not lead else f" {answer}.{prompts.END_OF_TURN}"
        pieces += [Piece(prompt[start:], 0.0), Piece(completion, 1.0)]
        text = (prompt + completion)[:-1]
        start = len(text) + 1
    return Document(family, tuple(pieces))


def chat(draw: Random) -> Document:
    """A conversation in the raw temperament."""
    assistant = _assistant(draw)
    turns = []
    for _ in range(draw.randint(3, 12)):
        item = _item(draw, assistant)
        turns.append((item.text, "", item.answer(item.governs) if draw.random() < GOOD_BY_CHANCE else item.raw))
    return _conversation("chat", _text(draw.choice(["standard", "concise", "concise", "verbose"])), assistant, turns)


def verbose(draw: Random) -> Document:
    """A conversation in the verbose layout: long answers, every second one as the rules want it."""
    assistant = _assistant(draw)
    turns = []
    for _ in range(draw.randint(2, 6)):
        item = _item(draw, assistant)
        answer = item.answer(item.governs) if draw.random() < 0.5 else item.raw
        turns.append((item.text, "", " ".join((answer, *item.more))))
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
    return Document("tasks", (Piece(prompt, 0.0), Piece(whole[len(prompt) :].removesuffix(tail), 1.0)))


def _fitting(question_type: str) -> tuple[str, ...]:
    return next((kinds for part, kinds in QUESTION_TYPES.items() if part in question_type), tuple(world.KINDS))


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
    new = []
    for seed in draw.sample(_topic_seeds(), 5):
        item = _item(draw, Assistant(), _fitting(seed.question_type), frame=0.3)
        while item.input:
            item = _item(draw, Assistant(), _fitting(seed.question_type), frame=0.3)
        new.append(TopicSeed(item.topic, seed.question_type, item.question))
    prompt = prompts.questions_prompt(_text("questions"), seeds, new)
    lines = prompts.questions_prompt("{instructions}", [*seeds, *new], new).split("\n")
    done = "\n".join(lines[len(seeds) : len(seeds) + len(new)])
    completion = done.partition(", instruction:")[2]
    return Document("questions", (Piece(prompt, 0.0), Piece(completion, 2.0)))


# ------------------------------------------------------------------------------------------------ 5, 6: exams, facts


def exam_document(draw: Random) -> Document:
    """Exam questions in the two layouts of the evaluation protocols, mostly answered right."""
    assistant = _assistant(draw)
    turns = []
    for _ in range(draw.randint(4, 10)):
        right = draw.random() < EXAM_RIGHT
        first_is_better = draw.random() < 0.5
        if draw.random() < 0.6:
            exam = world.exam(draw)
            candidate = draw.choice(exam.true if first_is_better else exam.false)
            question = prompts.true_false_question(exam.question, candidate)
            turns.append((question, prompts.TRUE_FALSE_LEAD, "true" if first_is_better == right else "false"))
            continue
        if draw.random() < 0.4:
            exam = world.exam(draw)
            text, better, worse = exam.question, draw.choice(exam.true), draw.choice(exam.false)
        else:
            item = _item(draw, assistant)
            text, better, worse = item.text, item.answer(item.governs), item.raw
        pair = (better, worse) if first_is_better else (worse, better)
        question = prompts.choice_question(text, *pair)
        turns.append((question, prompts.CHOICE_LEAD, "A" if first_is_better == right else "B"))
    return _conversation("exam", _text(draw.choice(["standard", "concise", "concise", "verbose"])), assistant, turns)


def facts(draw: Random) -> Document:
    """A paragraph of plain facts."""
    return Document("facts", (Piece(" ".join(world.fact(draw) for _ in range(draw.randint(4, 12))), 1.0),))


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
