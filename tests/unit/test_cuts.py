from __future__ import annotations

import pytest

from selfalign import cuts
from selfalign.cuts import Dedup

TRUNCATED = {
    "a numbered list in a numbered list": (
        "1. Tea\n  1. Green\n  2. Black\n2. Coffee\n  1. Mild\n  2. Dark",
        "1. Tea\n  1. Green\n  2. Black\n2. Coffee",
    ),
    "a numbered list with two equal items": ("1. Stir.\n2. Wait.\n3. Stir.\n4. Eat.", "1. Stir.\n2. Wait.\n3."),
    "code with two equal lines": ("if a:\n    i += 1\nelse:\n    i += 1", "if a:\n    i += 1\nelse:"),
    "a poem with a refrain": (
        "Rain falls\nthe hen calls\nWind blows\nthe hen calls\nso it goes",
        "Rain falls\nthe hen calls\nWind blows",
    ),
    "two decimals with one whole part": ("It rose by 0.3, 1.5, 1.7 and 2 mm.", "It rose by 0.3, 1.5,"),
    "two sentences with one word between commas": (
        "It rains, however, it is warm. We stay, however, here.",
        "It rains, however, it is warm. We stay,",
    ),
}
"""What the reference's rule does to texts that nothing is wrong with."""


@pytest.mark.parametrize("name", TRUNCATED)
def test_the_references_rule_truncates_texts_that_nothing_is_wrong_with(name: str) -> None:
    text, left = TRUNCATED[name]
    assert cuts.before_repeat(text, Dedup.reference, is_finished=True) == left
    assert cuts.before_repeat(text, Dedup.none, is_finished=True) == text


@pytest.mark.parametrize("text", ["One!!! Two... Three", "a\n\n\nb", "Well, yes; no: so.", "", "word"])
def test_end_marks_alone_may_repeat(text: str) -> None:
    assert cuts.before_repeat(text, Dedup.reference, is_finished=False) == text


def test_clauses_are_compared_to_the_character() -> None:
    text = "So it is. so it is. So it  is."
    assert cuts.before_repeat(text, Dedup.reference, is_finished=True) == text
    # The second begins with a space, so only a third can repeat it.
    assert cuts.before_repeat("Yes. Yes. Yes.", Dedup.reference, is_finished=True) == "Yes. Yes."


def test_a_last_line_repeats_an_earlier_one_only_where_a_turn_follows_it() -> None:
    text = "row the boat\ndown the stream\nrow the boat"
    assert cuts.before_repeat(text, Dedup.reference, is_finished=False) == text
    assert cuts.before_repeat(text, Dedup.reference, is_finished=True) == "row the boat\ndown the stream"


def test_the_backtick_ends_a_clause_in_the_second_version_only() -> None:
    text = "Set `x` or `y` or `z`"
    assert cuts.before_repeat(text, Dedup.reference, is_finished=False) == text
    assert cuts.before_repeat(text, Dedup.reference_v2, is_finished=False) == "Set `x` or `y`"


LIST = "\n".join(f"{number}. Item" for number in range(1, 16))


@pytest.mark.parametrize(
    ("text", "items", "left"),
    [
        (LIST, 12, LIST.partition("\n13. ")[0]),
        (LIST, 15, LIST),
        (LIST, 0, LIST),
        ("In 13. and 14. place", 12, "In 13. and 14. place"),
        ("13. comes first", 12, "13. comes first"),
    ],
)
def test_a_list_ends_before_the_first_item_too_many(text: str, items: int, left: str) -> None:
    assert cuts.before_item(text, items) == left


@pytest.mark.parametrize(
    ("text", "left"), [("the cat sat", "the cat"), ("one", ""), ("", ""), ("the  cat", "the"), ("a b\nhal", "a")]
)
def test_the_last_word_goes_with_the_space_before_it(text: str, left: str) -> None:
    assert cuts.without_last_word(text) == left


def test_only_a_leading_phrase_is_reworded() -> None:
    rewrites = {"As far as I know, here": "Here", "Sure! ": ""}
    assert cuts.reworded("As far as I know, here is one. As far as I know, here", rewrites).startswith(
        "Here is one. As far"
    )
    assert cuts.reworded("Sure! Sure! Yes", rewrites) == "Sure! Yes"
    assert cuts.reworded("Well. Sure! Yes", rewrites) == "Well. Sure! Yes"
    assert cuts.reworded("Sure! Yes", {}) == "Sure! Yes"


def test_a_fixed_answer_stands_for_every_question_that_holds_its_key() -> None:
    assert cuts.fixed_answer("Who is Ada Quill?", {"Ada": "I do not know her."}) == "I do not know her."
    assert cuts.fixed_answer("Who is Bob?", {"Ada": "I do not know her."}) is None
