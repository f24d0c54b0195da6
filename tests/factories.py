"""A scripted model that behaves: it continues task lists, topic lists, questions and conversations in their layouts."""

from __future__ import annotations

import random
import re

from selfalign.engines.base import GenerateRequest
from selfalign.engines.scripted import ScriptedEngine
from selfalign.prompts import load_topic_seeds

SIXTEEN = (
    "ethical informative helpful question_assessment reasoning multi_aspect candor knowledge_recitation static "
    "clarification numerical_sensitivity dated_knowledge step_by_step balanced_perspectives creative operational"
).split()
"""The paper's principles, in its order."""
FIVE = "future_event unknown_person sort_numbers live_question known_animal".split()
"""The default exemplars."""
NOUNS = "otter badger heron lantern harbour orchard violin compass kettle glacier meadow baker tailor pepper saffron".split()
VERBS = "Describe Compare Explain List Praise Question Summarise Rename Imagine Count".split()
PLACES = "Lisbon Bergen Quito Hanoi Tartu Dakar Perth Lima".split()


def _task(draw: random.Random) -> str:
    words = draw.sample(NOUNS, 3)
    return f"{draw.choice(VERBS)} the {words[0]} of {draw.choice(PLACES)} for a {words[1]} with one {words[2]}."


def respond(request: GenerateRequest) -> str:
    """What a well-behaved model would write, drawn from the request's seed."""
    draw = random.Random(request.seed)
    prompt = request.prompt
    if prompt.endswith("Instruction:"):
        first = int(re.findall(r"(\d+)\. Instruction:$", prompt)[0])
        text = f" {_task(draw)}\n{first}. Input:\n<noinput>\n"
        for number in range(first + 1, first + 6):
            text += f"###\n{number}. Instruction: {_task(draw)}\n{number}. Input:\n<noinput>\n"
        return text
    if prompt.rstrip().endswith("instruction:"):
        hints = re.findall(r"^(\d+\. type: .*, topic: [^\n,]+)$", prompt, flags=re.MULTILINE)
        done = len(re.findall(r", instruction: \S", prompt))
        lines = [f" {_task(draw)}"] + [f"{hint}, instruction: {_task(draw)}" for hint in hints[done + 1 :]]
        return "\n".join(lines) + "\n"
    if any(f"{seed.topic}\n" in prompt for seed in load_topic_seeds()) and re.search(r"\n\d+\.$", prompt):
        return f" {draw.choice(NOUNS).capitalize()}\n3. {draw.choice(PLACES)} {draw.choice(NOUNS)}\n"
    if prompt.endswith("(internal thoughts):"):
        return (
            f" The user asks about {draw.choice(NOUNS)}. Rules that apply: 3 (helpful), 7 (candor).\n\n"
            f"Willow: I think that the {draw.choice(NOUNS)} is close to {draw.choice(PLACES)}."
        )
    return f"\nThe {draw.choice(NOUNS)} is in {draw.choice(PLACES)}, and so is the {draw.choice(NOUNS)}."


def scripted(**more: object) -> ScriptedEngine:
    """An engine over `respond`."""
    return ScriptedEngine(respond, **more)  # type: ignore[arg-type]


REMARK = "Nothing is said about its cubs."
"""The critique of a script."""


def script_rows() -> list[dict[str, str]]:
    """A script for `engine=scripted` that carries a run through all stages: every request of a kind gets one text."""
    draw = random.Random(0)
    tasks = [f"{verb} the {noun} of {place}." for verb, noun, place in zip(VERBS * 2, NOUNS, PLACES * 2, strict=False)]
    draw.shuffle(tasks)
    listed = f" {tasks[0]}\n6. Input:\n<noinput>\n" + "".join(
        f"###\n{number}. Instruction: {task}\n{number}. Input:\n<noinput>\n"
        for number, task in enumerate(tasks[1:], start=7)
    )
    return [
        {"prompt_contains": "6. Instruction:", "text": listed},
        {"prompt_contains": "hints:", "text": " Why does the harbour of Quito freeze?\n"},
        {"prompt_contains": "List of 10 topics:", "text": " Silver\n3. Old bridges\n"},
        {
            "prompt_contains": "(internal thoughts):",
            "text": " A question. Rules that apply: 3 (helpful).\n\nWillow: The otter of Lisbon is well and friendly.",
        },
        {
            "prompt_contains": "(extensive)",
            "text": "\nThe otter of Lisbon is well. It swims in the river, and people like it.",
        },
        # A revision prompt holds the critique, so it comes first.
        {"prompt_contains": REMARK, "text": " The otter of Lisbon is well, and its cubs are too."},
        {"prompt_contains": "First answer:", "text": f" {REMARK}"},
        {"text": " The otter of Lisbon."},
    ]
