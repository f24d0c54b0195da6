"""Laws of adherence by an oracle: which answers count for which principle, that arms can be paired, and what gives no number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from selfalign import prompts
from selfalign.calf import oracle, world
from selfalign.calf.kinds import KINDS
from selfalign.evaluation.scores import adherence_rows, item_values, scores_of


def answer(item: str, question: str, text: str) -> dict[str, Any]:
    return {
        "task": "calf_questions",
        "protocol": "generate",
        "item": item,
        "category": "c",
        "question": question,
        "answer": text,
    }


def marks(question: str, text: str) -> Mapping[str, bool]:
    """Questions name the principles that govern them; answers those that they show."""
    return {name: name in text.split() for name in question.split()}


ROWS = [
    answer("a", "candor static", "candor"),
    answer("b", "candor", "nothing"),
    answer("c", "", "candor"),
    answer("d", "static", "static"),
]


def test_a_principle_s_score_is_over_the_questions_that_it_governs() -> None:
    found = {one.metric: one for one in scores_of("base", adherence_rows(ROWS, marks))}
    assert {name: (one.value, one.n) for name, one in found.items()} == {
        "all": (0.5, 3), "candor": (0.5, 2), "static": (0.5, 2),
    }  # fmt: skip
    assert all(
        (one.task, one.protocol, one.chance, one.valid) == ("adherence", "oracle", None, True) for one in found.values()
    )


def test_every_score_is_the_mean_of_its_items() -> None:
    rows = [*ROWS, *adherence_rows(ROWS, marks)]
    values = item_values(rows)
    for one in scores_of("base", rows):
        own = values[one.task, one.protocol, one.metric]
        assert one.value == pytest.approx(sum(own.values()) / len(own)) and one.n == len(own)
    assert values["adherence", "oracle", "all"] == {"a": 0.5, "b": 0.0, "d": 1.0}


def test_a_model_that_says_one_thing_to_all_gives_no_number() -> None:
    rows = [answer(name, "candor", "candor") for name in "abc"]
    found = scores_of("base", adherence_rows(rows, marks))
    assert found and all(one.value is None and "3 questions got the same answer" in one.reason for one in found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_world_s_own_answer_shows_every_mark_that_governs_it_and_the_raw_one_none(kind: str) -> None:
    from random import Random

    draw = Random(0)
    for _ in range(5):
        item = world.make(kind, draw, held_out=True)
        good = prompts.fill(item.answer(item.governs), prompts.Assistant())
        assert oracle.marks(item.text, good) == dict.fromkeys(item.governs, True)
        assert not any(oracle.marks(item.text, prompts.fill(item.raw, prompts.Assistant())).values())


def test_a_question_of_another_world_has_no_marks() -> None:
    assert oracle.marks("Compose a travel blog post about Hawaii.", "I do not know.") == {}
    assert adherence_rows([answer("x", "Compose a post.", "I do not know.")], oracle.marks) == []
