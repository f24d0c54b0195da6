"""Calf's evaluation sets: held-out questions of its world in, files in the formats of the real sets out.

`calf_truth/mc_task.json` has TruthfulQA's format, `calf_hhh/*/task.json` that of BIG-bench's hhh_alignment, and
`calf_questions/question.jsonl` that of Vicuna's questions. No question of them is in the pretraining corpus. Run as
`python -m selfalign.calf.evalsets --out DIR`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from selfalign import jsonl, prompts
from selfalign.calf import exams, world
from selfalign.calf.item import Item
from selfalign.calf.world import governing
from selfalign.identity import seed_of

DATA = Path(__file__).parent / "data"
"""The sets that the package ships."""

HHH_KINDS = {
    "harmless": ("harm",),
    "helpful": ("advice", "how_to", "sort_words", "create", "animal"),
    "honest": ("unknown_person", "live", "future", "myth"),
    "other": ("unclear", "debate", "describe", "false_premise", "compare"),
}
"""Set -> the kinds its questions are of; the better answer is the governed one."""

FACTS = {"honest": 13}
"""Set -> how many of its questions are of fact: both answers have the same form, and knowledge alone tells them apart."""

CATEGORIES = {
    "generic": ("advice", "live_plan", "how_to", "how_to_many"), "knowledge": ("capital", "animal", "describe"),
    "honesty": ("unknown_person", "live", "future"), "harm": ("harm",), "reasoning": ("compare", "add"),
    "judgement": ("debate", "false_premise", "myth", "unclear"), "writing": ("create",), "operations": ("sort_words", "reverse"),
}  # fmt: skip
"""Category of `calf_questions` -> kinds."""

QUESTIONS = 24
"""Questions of `calf_questions` under each principle, where the world has as many: about ten that change are what a paired test
needs to find an effect after a correction over the principles."""


def _items(draw: Random, kinds: Sequence[str], count: int) -> list[Item]:
    """Distinct held-out items, kinds in turn."""
    found: dict[str, Item] = {}
    for index in range(count * 50):
        item = world.make(kinds[index % len(kinds)], draw, held_out=True)
        found.setdefault(item.text, item)
        if len(found) == count:
            break
    return list(found.values())


def _shuffled(draw: Random, right: Sequence[str], wrong: Sequence[str]) -> dict[str, int]:
    pairs = [(text, 1) for text in right] + [(text, 0) for text in wrong]
    draw.shuffle(pairs)
    return dict(pairs)


def truth(seed: int = 0, count: int = 100) -> list[dict[str, Any]]:
    """Questions of fact: `mc1_targets` with one true answer of three to five, `mc2_targets` with every true answer.

    True answers stand at shuffled positions.
    """
    draw = Random(seed_of(seed, "calf_truth"))
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < count:
        exam = exams.exam(draw, held_out=True)
        wrong = list(exam.false[: draw.randint(2, 4)])
        rows.setdefault(
            exam.question,
            {
                "question": exam.question,
                "mc1_targets": _shuffled(draw, exam.true[:1], wrong),
                "mc2_targets": _shuffled(draw, exam.true, wrong),
            },
        )
    return list(rows.values())


def hhh(name: str, seed: int = 0, count: int = 25) -> dict[str, Any]:
    """One of the four sets: questions with a better answer (1) and a worse one (0), in shuffled order."""
    draw = Random(seed_of(seed, "calf_hhh", name))
    assistant = prompts.Assistant()
    facts: dict[str, tuple[str, str]] = {}
    while len(facts) < FACTS.get(name, 0):
        exam = exams.exam(draw, held_out=True)
        facts.setdefault(exam.question, (exam.true[0], exam.false[0]))
    pairs = [
        (item.text, prompts.fill(item.answer(item.governs), assistant), item.raw)
        for item in _items(draw, HHH_KINDS[name], count - len(facts))
    ]
    pairs += [(question, *answers) for question, answers in facts.items()]
    examples = [{"input": text, "target_scores": _shuffled(draw, [better], [worse])} for text, better, worse in pairs]
    return {
        "name": f"calf_hhh_{name}",
        "description": f"Choices between two answers in Calf's world ({name}), in the format of BIG-bench's hhh_alignment.",
        "metrics": ["multiple_choice_grade"],
        "example_input_prefix": "\n\nHuman: ",
        "example_output_prefix": "\n\nAssistant: ",
        "examples": examples,
    }


def questions(seed: int = 0, count: int = QUESTIONS) -> list[dict[str, Any]]:
    """Open questions, about `count` under each principle: its kinds of question have equal shares, and of kinds with fewer
    held-out questions all are taken."""
    draw = Random(seed_of(seed, "calf_questions"))
    kinds = Counter(principle for governed in governing().values() for principle in governed)
    rows = []
    for category, names in CATEGORIES.items():
        for kind in names:
            share = count // max(kinds[principle] for principle in governing()[kind])
            rows += [(item.text, category) for item in _items(draw, (kind,), share)]
    return [
        {"question_id": number, "text": text, "category": category} for number, (text, category) in enumerate(rows, 1)
    ]


def write(out: Path, seed: int = 0) -> None:
    """Write all sets below `out`; the same seed gives the same bytes."""
    (out / "calf_truth").mkdir(parents=True, exist_ok=True)
    (out / "calf_truth" / "mc_task.json").write_text(json.dumps(truth(seed), indent=1) + "\n", encoding="utf-8")
    for name in HHH_KINDS:
        (out / "calf_hhh" / name).mkdir(parents=True, exist_ok=True)
        text = json.dumps(hhh(name, seed), indent=1) + "\n"
        (out / "calf_hhh" / name / "task.json").write_text(text, encoding="utf-8")
    (out / "calf_questions").mkdir(parents=True, exist_ok=True)
    jsonl.write(out / "calf_questions" / "question.jsonl", questions(seed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m selfalign.calf.evalsets", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, default=DATA)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.out, given.seed)
