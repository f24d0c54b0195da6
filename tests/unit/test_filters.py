from __future__ import annotations

import pytest

from selfalign import filters


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a b c", "too_few_words"),
        ("a b c d", ""),
        ("w " * 150, ""),
        ("w " * 151, "too_many_words"),
        ("", "too_few_words"),
    ],
)
def test_word_count_limits_are_inclusive(text: str, reason: str) -> None:
    assert filters.word_count(text, 4, 150) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Draw a cat", "forbidden_word"), ("Please go to Rome", "forbidden_word"), ("The MAPS are old", "forbidden_word"),
        ("Withdraw some money", ""), ("A maple tree", ""), ("going to Rome", ""),
    ],
)  # fmt: skip
def test_forbidden_words_are_whole_words_in_any_case(text: str, reason: str) -> None:
    assert filters.forbidden_word(text, ["draw", "go to", "maps"]) == reason
    assert filters.forbidden_word(text, []) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Why?", ""),
        ("'Why?'", "starts_with_punctuation"),
        ("日本", "starts_non_ascii"),
        ("", "empty"),
        ("7 apples", ""),
    ],
)
def test_first_character(text: str, reason: str) -> None:
    assert filters.first_character(text) == reason


@pytest.mark.parametrize(
    "text",
    [
        "1. Take 1.5 cups.\n2. Take 1.5 cups of milk.\n3. Take 1.5 cups of flour.",
        "for i in range(3):\n    print(i)\nfor i in range(3):\n    print(i)",
        "Row, row, row your boat\ngently down the stream\nrow, row, row your boat\ngently down the stream",
        "However, it rains. However, it is warm. However, we go.",
    ],
)
def test_code_poems_lists_and_refrains_are_no_repetition(text: str) -> None:
    assert filters.repetition(text, 3) == ""


@pytest.mark.parametrize(
    "text", ["I do not know. " * 6, "so the cat and " * 5 + "end", "well, " + "a b c d e f g " * 5]
)
def test_going_in_a_circle_is_repetition(text: str) -> None:
    assert filters.repetition(text, 3) == "repetition"


def test_an_answer_copied_from_an_exemplar_is_found_unless_the_question_says_it() -> None:
    copies = filters.ExemplarCopies(["It is a fixed model that cannot see the weather in any town"], 6)
    assert copies.reason("Well, it cannot see the weather in any town.", "Rain?") == "exemplar_copy"
    assert (
        copies.reason("Well, it cannot see the weather in any town.", "Why cannot see the weather in any town?") == ""
    )
    assert copies.reason("The weather is nice in any town.", "Rain?") == ""


@pytest.mark.parametrize(
    ("text", "reason"), [("", "empty"), ("  \n", "empty"), ("short", "too_short"), ("long enough text", "")]
)
def test_too_short(text: str, reason: str) -> None:
    assert filters.too_short(text, 10) == reason


def test_a_marker_inside_an_answer_is_found() -> None:
    assert filters.contains_marker("Yes.\nUser: and then?", ["User:"]) == "contains_marker"
    assert filters.contains_marker("The user: nobody.", ["User:", ""]) == ""


@pytest.mark.parametrize(
    ("text", "reason"), [("I think so.", ""), (" \n I think", ""), ("So I think", "wrong_start"), ("", "wrong_start")]
)
def test_thoughts_must_begin_as_asked_white_space_aside(text: str, reason: str) -> None:
    assert filters.wrong_start(text, "I think") == reason
    assert filters.wrong_start(text, "") == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [("Tell the president.", "forbidden_text"), ("presidents", "forbidden_text"), ("The President", ""), ("", "")],
)
def test_forbidden_texts_are_pieces_to_the_letter(text: str, reason: str) -> None:
    assert filters.forbidden_text(text, ["president", "1, 1, 4"]) == reason
    assert filters.forbidden_text(text, []) == ""


@pytest.mark.parametrize(
    ("text", "reason"), [("I'm sorry, no", "forbidden_start"), ("Well, I'm sorry", ""), ("i'm sorry", ""), ("", "")]
)
def test_forbidden_starts_count_at_the_start_only(text: str, reason: str) -> None:
    assert filters.forbidden_start(text, ["I'm sorry", "I am sorry"]) == reason
    assert filters.forbidden_start(text, []) == ""


@pytest.mark.parametrize(
    ("part", "longer_than", "reason"),
    [
        ("Name a large river", 16, "question_copy"),
        ("Name a large rive", 16, "question_copy"),
        ("Name a large riv", 16, ""),
        ("name a large river", 16, ""),
        ("Name a large river", 0, ""),
    ],
)
def test_a_long_part_of_the_question_may_not_stand_in_the_answer(part: str, longer_than: int, reason: str) -> None:
    assert filters.question_copy("You said: Name a large river.", ("other", part), longer_than) == reason


def test_no_limit_of_repeats_finds_no_circle() -> None:
    assert filters.repetition("I do not know. " * 6, 0) == ""
