from __future__ import annotations

from pathlib import Path

import pytest

from selfalign.errors import StageError
from selfalign.records import Example
from selfalign.training.encode import IGNORE_INDEX, Encoded, check, check_fit, encode, leading_ids


class Words:
    """A tokenizer of one token per word; `start` and `end` stand for special tokens it may add around a text."""

    eos_token_id = 2

    def __init__(self, start: list[int] | None = None, end: list[int] | None = None) -> None:
        self.start, self.end = start or [], end or []

    def __call__(self, text, add_special_tokens=True):
        if isinstance(text, list):
            return {"input_ids": [self(one, add_special_tokens)["input_ids"] for one in text]}
        ids = [10 + len(word) for word in text.split()]
        return {"input_ids": self.start + ids + self.end if add_special_tokens else ids}


def example(prompt: str, target: str, name: str = "e") -> Example:
    return Example(name, "r", prompt, target)


def test_every_prompt_token_is_masked_and_every_target_token_is_a_label():
    row = encode([example("a bb ccc", "dddd eeeee")], Words(start=[1]), 16).rows[0]
    assert list(row.ids) == [1, 11, 12, 13, 14, 15]
    assert row.labels == [IGNORE_INDEX] * 4 + [14, 15]
    assert row.n_labels == 2


def test_the_first_token_of_a_row_without_prompt_has_no_label():
    row = encode([example("", "a bb")], Words(), 16).rows[0]
    assert row.labels == [IGNORE_INDEX, 12]
    assert row.n_labels == 1


def test_special_tokens_are_added_in_front_where_the_tokenizer_adds_them_and_never_behind():
    assert leading_ids(Words()) == []
    assert leading_ids(Words(start=[1], end=[2])) == [1]
    assert list(encode([example("a", "bb")], Words(start=[1], end=[2]), 16).rows[0].ids) == [1, 11, 12]


def test_the_end_token_is_trained_on_only_where_asked_for():
    row = encode([example("a", "bb")], Words(), 16, add_eos=True).rows[0]
    assert row.labels == [IGNORE_INDEX, 12, Words.eos_token_id]


def test_asking_for_an_end_token_that_does_not_exist_is_an_error():
    tokenizer = Words()
    tokenizer.eos_token_id = None
    with pytest.raises(StageError, match="add_eos"):
        encode([example("a", "bb")], tokenizer, 16, add_eos=True)


def test_a_long_row_loses_the_end_of_its_target_and_nothing_of_its_prompt():
    encoded = encode([example("a bb ccc", "dddd eeeee ffffff"), example("a", "bb")], Words(), 4)
    assert [row.labels for row in encoded.rows] == [[IGNORE_INDEX] * 3 + [14], [IGNORE_INDEX, 12]]
    assert encoded.truncated == 1


def test_a_prompt_loses_its_beginning_and_a_target_its_end_where_each_has_a_length_of_its_own():
    rows = [example("a bb ccc dddd", "eeeee ffffff ggggggg", "long"), example("a", "bb", "short")]
    encoded = encode(rows, Words(start=[1]), 16, max_prompt_length=3, max_target_length=2)
    assert [list(row.ids) for row in encoded.rows] == [[1, 13, 14, 15, 16], [1, 11, 12]]
    assert [row.prompt_length for row in encoded.rows] == [3, 2]
    assert encoded.cut_prompts == encoded.truncated == 1
    # An end token is cut off with the end of its target, so that no cut target looks finished.
    ended = encode(rows, Words(), 16, add_eos=True, max_target_length=2).rows
    assert [row.labels[row.prompt_length :] for row in ended] == [[15, 16], [12, Words.eos_token_id]]
    # What the tokenizer puts first stays, even where nothing else does.
    assert list(encode(rows[:1], Words(start=[1]), 16, max_prompt_length=1).rows[0].ids)[:2] == [1, 15]


def test_rows_without_a_trainable_token_are_refused_with_their_number_and_names():
    rows = [example("a bb ccc dddd", "e", f"long{n}") for n in range(12)] + [
        example("a", "b", str(n)) for n in range(28)
    ]
    encoded = encode(rows, Words(), 4)
    assert len(encoded.rows) == 28
    with pytest.raises(StageError, match=r"12 of 40 rows have no trainable token.*long0, long1.*max_seq_length"):
        check(encoded, 4, 0.0)
    with pytest.raises(StageError):
        check(encoded, 4, 0.29)
    check(encoded, 4, 0.3)


def test_rows_that_the_model_cannot_read_are_refused_before_the_first_step():
    rows = encode([example("a bb ccc", "dddd eeeee", "five"), example("a", "b", "two")], Words(), 16).rows
    check_fit(rows, 5, 16)
    check_fit(rows, None, None)
    with pytest.raises(StageError, match=r"at most 4 tokens.*found 1 longer ones of up to 5 tokens \(five\).*to 4"):
        check_fit(rows, 4, 16)
    with pytest.raises(StageError, match=r"below 15.*ids of up to 15 in 1 rows \(five\).*resize"):
        check_fit(rows, 5, 15)


def test_an_empty_target_is_not_trainable_even_with_an_end_token():
    assert encode([example("a", "")], Words(), 8, add_eos=True).untrainable == ["e"]


def test_nothing_to_train_on_is_refused_whatever_share_is_allowed():
    with pytest.raises(StageError, match="found none"):
        check(Encoded([]), 8, 1.0)
    with pytest.raises(StageError, match="1 of 1 rows"):
        check(Encoded([], untrainable=["e"]), 8, 1.0)


def test_a_real_tokenizer_gives_the_tokens_of_prompt_and_target_apart(tiny_model: Path):
    from selfalign.training.lora import load_tokenizer

    tokenizer = load_tokenizer(tiny_model)
    row = encode([example("### A\n", "owl\n")], tokenizer, 64).rows[0]
    assert tokenizer.decode(list(row.ids)[: row.prompt_length]) == "### A\n"
    assert tokenizer.decode([label for label in row.labels if label != IGNORE_INDEX]) == "owl\n"
