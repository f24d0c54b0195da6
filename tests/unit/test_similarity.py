import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from selfalign.similarity import Alphabet, Novelty, ngrams, rouge_l, rouge_tokens

SCORER = RougeScorer(["rougeL"], use_stemmer=False)


def reference(left: str, right: str) -> float:
    return SCORER.score(left, right)["rougeL"].fmeasure


def test_rouge_l_equals_the_reference_library_on_random_pairs():
    draw = random.Random(0)
    words = ["the", "a", "Cat", "dog's", "runs,", "sleeps!", "12", "7th", "tea-pot", "Über"]
    for _ in range(500):
        left, right = (" ".join(draw.choices(words, k=draw.randrange(1, 15))) for _ in range(2))
        assert rouge_l(rouge_tokens(left), rouge_tokens(right)) == pytest.approx(reference(left, right), abs=1e-12)


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.7, 0.9, 1.0])
def test_novelty_decides_as_all_pairs_of_the_reference_library_would(threshold):
    draw = random.Random(1)
    words = ["name", "the", "largest", "river", "city", "animal", "in", "of", "a", "which", "is", "old", "new"]
    novelty, kept = Novelty(threshold), []
    for _ in range(130):
        text = " ".join(draw.choices(words, k=draw.randrange(1, 11)))
        is_close = any(reference(text, other) > threshold for other in kept)
        assert novelty.reason(text) == ("too_similar" if is_close else "")
        if not is_close:
            novelty.add(text)
            kept.append(text)
    assert len(kept) > 10


def test_on_the_threshold_the_rounding_of_the_reference_library_decides():
    shared = [f"w{number}" for number in range(21)]
    for common, left, right in (
        (7, 10, 10),
        (7, 6 + 4, 10),
        (14, 20, 20),
        (7, 8, 12),
        (14, 17, 23),
        (21, 27, 33),
        (21, 29, 31),
    ):
        one = " ".join(shared[:common] + [f"a{number}" for number in range(left - common)])
        two = " ".join(shared[:common] + [f"b{number}" for number in range(right - common)])
        novelty = Novelty(0.7)
        novelty.add(one)
        assert reference(one, two) == pytest.approx(0.7, abs=1e-12)
        assert (novelty.reason(two) == "too_similar") == (reference(two, one) > 0.7)


def test_what_comes_later_may_be_of_any_length_and_of_words_not_seen_before():
    novelty = Novelty(0.7)
    novelty.add("tell me the name of the longest river")
    assert novelty.reason("please tell me now the name of the longest river") == "too_similar"
    assert novelty.reason("name the longest river of zanzibar quickly please sir") == ""
    assert novelty.reason("zanzibar") == ""


def test_novelty_of_text_without_latin_letters_is_exact_equality():
    novelty = Novelty(0.7)
    novelty.add("天気はどうですか")
    assert novelty.reason("天気はどうですか") == "too_similar"
    assert novelty.reason("お名前は何ですか") == ""


def test_ngrams_are_all_runs_of_their_size():
    assert ngrams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert ngrams(["a", "b"], 3) == []


def test_every_distinct_token_has_a_character_of_its_own_and_none_is_half_a_pair():
    alphabet = Alphabet()
    encoded = alphabet.encode(" ".join(f"w{number}" for number in range(140_000)))
    assert len(encoded) == len(set(encoded)) == 140_000 and encoded.encode("utf-8")
    assert alphabet.encode("W7, w7?") == 2 * encoded[7]
