"""Laws of the diversity card: counts add up, similarities are ROUGE-L's, and the order of the rows changes nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
from rouge_score import rouge_scorer

from selfalign.report.diversity import (
    NO_TYPE,
    Opening,
    card,
    nearest,
    nearest_similarities,
    opening,
    openings,
    question_types,
    word_histogram,
)

WORDS = "write tell the a poem cat about dogs why is it so blue four 7 otters' don't Überraschung end".split()


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(count)]


def prompt(instruction: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": instruction,
        "instruction": instruction,
        "input": "",
        "source": "self_instruct",
        "kept": True,
    } | fields


# ---------------------------------------------------------------------------------------------------------- openings


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Write a short poem about the sea.", Opening("request", "write", "poem")),
        ("Please give me three tips for sleep", Opening("request", "give", "tips")),
        ("Tell me about lions.", Opening("request", "tell", "lions")),
        ("Explain how to pack a bag.", Opening("request", "explain", "")),
        ("Tell me, what is the time in Rome?", Opening("request", "tell", "")),
        ("For our school paper. What can you say about a candle?", Opening("question", "what", "can")),
        ("Could you name a river?", Opening("question", "yes or no", "could")),
        ("In which city did he live?", Opening("question", "which", "city")),
        ("How many legs has a spider", Opening("question", "how", "many")),
        ("Sentence one.\nTranslate the text: hello", Opening("request", "translate", "text")),
        ("Emma and I could not agree.", Opening("other", "", "")),
        ("You did what? Describe it-like things.", Opening("question", "what", "")),
        ("春はどこですか", Opening("other", "", "")),
        ("?! 7 ...", Opening("other", "", "")),
        ("", Opening("other", "", "")),
    ],
)
def test_an_opening_is_read_by_the_stated_rule(text: str, found: Opening):
    assert opening(text) == found


def test_openings_add_up_to_the_texts():
    many = texts(200)
    groups = openings(many)
    assert sum(group.count for group in groups) == 200
    assert all(sum(count for _, count in group.seconds) == group.count for group in groups)
    assert [group.count for group in groups] == sorted((group.count for group in groups), reverse=True)


# ----------------------------------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize("lengths", [[1], [3, 3, 3], list(range(1, 300)), [5] * 99 + [4000], [10**6, 1]])
def test_a_histogram_holds_every_text_once(lengths: list[int]):
    found = word_histogram("x " * length for length in lengths)
    assert found is not None
    assert sum(found.counts) + found.beyond == found.total == len(lengths)
    assert found.largest == max(lengths) and 1 <= len(found.counts) <= 21
    assert found.high > (max(lengths) if not found.beyond else 0)
    for index, count in enumerate(found.counts):
        low = found.low + index * found.width
        assert count == sum(low <= length < low + found.width for length in lengths)


def test_one_very_long_text_does_not_squeeze_the_others():
    found = word_histogram(["x " * 5] * 99 + ["x " * 4000])
    assert found is not None and found.beyond == 1 and found.high < 10


def test_empty_texts_have_no_length():
    assert word_histogram(["", "  \n"]) is None
    found = word_histogram(["", "two words"])
    assert found is not None and found.total == 1


# ----------------------------------------------------------------------------------------------------------- nearest


def test_the_nearest_neighbour_is_that_of_a_brute_force_with_rouge_score():
    many = [text for text in texts(30, seed=4) if any(c.isascii() and c.isalnum() for c in text)]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    expected = [
        max(scorer.score(left, right)["rougeL"].fmeasure for j, right in enumerate(many) if j != i)
        for i, left in enumerate(many)
    ]
    assert nearest_similarities(many) == pytest.approx(expected, abs=1e-9)


def test_the_nearest_neighbour_does_not_depend_on_the_block_it_is_compared_in(monkeypatch: pytest.MonkeyPatch):
    many = texts(40)
    whole = nearest_similarities(many)
    monkeypatch.setattr("selfalign.report.diversity._BLOCK", 7)
    assert nearest_similarities(many) == whole


@pytest.mark.parametrize("many", [["one"], ["one", "?"], []])
def test_what_cannot_be_compared_is_refused(many: list[str]):
    with pytest.raises(ValueError, match="two texts or more"):
        nearest_similarities(many)


def test_texts_of_other_scripts_are_left_out_and_counted():
    found = nearest([prompt(text) for text in ("a cat sat", "a cat ran", "春はどこ", "?")])
    assert found is not None and (found.compared, found.without_tokens, found.total) == (2, 2, 4)
    assert not found.is_sample
    assert nearest([prompt("a cat"), prompt("春はどこ")]) is None


def test_a_sample_is_chosen_by_id_and_says_how_large_it_is():
    rows = [prompt(text, id=f"{index:03d}") for index, text in enumerate(texts(50, seed=2))]
    found = nearest(rows, sample=20)
    assert found is not None and found.is_sample and (found.compared, found.total) == (20, 50)
    assert found.histogram == nearest(rows[:20]).histogram  # type: ignore[union-attr]
    assert nearest(rows[::-1], sample=20) == found


def test_two_equal_instructions_lie_in_the_last_bin():
    found = nearest([prompt("a cat", id="1"), prompt("A cat!", id="2")])
    assert found is not None and found.histogram.counts[-1] == 2


# -------------------------------------------------------------------------------------------------------------- card


def mixed(count: int = 40) -> list[dict[str, Any]]:
    sources = ("red_team", "self_instruct", "file", "elsewhere")
    return [
        prompt(text, id=f"{index:03d}", source=sources[index % 4], input="some input" if index % 5 == 0 else "",
               kept=index % 7 > 0)
        for index, text in enumerate(texts(count))
    ]  # fmt: skip


def test_a_card_counts_kept_prompts_and_its_parts_add_up():
    rows = mixed()
    found = card(rows)
    assert found.prompts == sum(row["kept"] for row in rows) == sum(count for _, count in found.sources)
    assert [name for name, _ in found.sources] == ["self_instruct", "red_team", "file", "elsewhere"]
    assert sum(found.of_kind(kind) for kind in ("request", "question", "other")) == found.prompts
    assert found.instructions is not None and found.instructions.total == found.prompts
    assert found.inputs is not None and found.inputs.total == sum(bool(row["input"]) and row["kept"] for row in rows)


def test_a_card_does_not_depend_on_the_order_of_its_rows():
    rows = mixed()
    others = rows[:]
    random.Random(5).shuffle(others)
    assert others != rows and card(others) == card(rows)


def test_a_card_of_nothing_is_empty():
    found = card([prompt("Dropped", kept=False)])
    assert found.prompts == 0 and found.nearest is None and found.instructions is None and not found.openings


# ------------------------------------------------------------------------------------------------------------ topics


def test_question_types_count_topics_and_questions_kept_and_dropped():
    topics = [
        {"topic": "Cats", "question_type": "T", "kept": True, "reason": ""},
        {"topic": "Dogs", "question_type": "T", "kept": True, "reason": ""},
        {"topic": "cats", "question_type": "T", "kept": False, "reason": "duplicate"},
        {"topic": "Law", "question_type": "S", "kept": True, "reason": ""},
    ]
    questions = [
        prompt("q1", topic="Dogs", question_type="T"),
        prompt("q2", topic="Dogs", question_type="T", kept=False, reason="too_similar"),
        prompt("q3", kept=False, reason="unasked"),
    ]
    found = {one.name: one for one in question_types(topics, questions)}
    assert list(found) == ["S", "T", NO_TYPE]
    one = found["T"]
    assert (one.topics_kept, one.topics_dropped, one.topics) == (2, (("duplicate", 1),), ("Dogs", "Cats"))
    assert (one.questions_kept, one.questions_dropped) == (1, (("too_similar", 1),))
    assert found[NO_TYPE].questions_dropped == (("unasked", 1),)
    assert question_types(topics[::-1], questions[::-1]) == tuple(found.values())
