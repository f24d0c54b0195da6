"""Laws of `until`: what stands before a marker has one budget, what stands behind it another, and the text is one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.scripted import ScriptedEngine
from selfalign.errors import StageError
from tests.unit.engines.word_models import WORDS

PROMPT = " ".join(WORDS[5:17])
LONG = GenerateRequest("r", PROMPT, Sampling(max_new_tokens=60, temperature=1.0), seed=3)
SCRIPT = " one two\nthree four: five six\n\nseven eight nine ten"


def two(until: str, until_tokens: int, max_new_tokens: int, **more) -> GenerateRequest:
    sampling = replace(LONG.sampling, max_new_tokens=max_new_tokens)
    return replace(LONG, sampling=sampling, until=until, until_tokens=until_tokens, **more)


def one(engine, request: GenerateRequest):
    (completion,) = engine.generate([request])
    return completion


@pytest.fixture
def words(engine) -> list[str]:
    """What the model writes with one large budget; its first words are all different."""
    found = one(engine, LONG).text.split()
    assert len(found) == 60 and len(set(found[:12])) == 12
    return found


def test_behind_the_marker_the_budget_begins_anew(engine, words):
    for at in (0, 3, 7):
        found = one(engine, two(words[at], 10, 5))
        assert (found.text.split(), found.finish, found.new_tokens) == (words[: at + 6], "length", at + 6)


def test_a_marker_is_found_across_tokens_and_inside_one(engine, words):
    across, inside = f"{words[4]} {words[5]}", f"{words[4]} {words[5][:2]}"
    for marker in (across, inside, f" {across}"):
        found = one(engine, two(marker, 6, 3))
        assert (found.text.split(), found.new_tokens) == (words[:9], 9)


def test_a_budget_used_up_before_the_marker_ends_the_text(engine, words):
    for marker in (words[6], f"{words[5]} {words[6]}", "never"):
        found = one(engine, two(marker, 6, 30))
        assert (found.text.split(), found.finish, found.new_tokens) == (words[:6], "length", 6)
    assert one(engine, two(words[6], 7, 1)).text.split() == words[:8]


def test_two_large_budgets_are_one(engine, words):
    plain = replace(LONG, stop=(f" {words[20]}",))
    assert one(engine, plain).finish == "stop"
    split = two(words[8], 50, 50, stop=plain.stop)
    assert one(engine, split) == one(engine, plain)


def test_stop_strings_and_the_context_end_a_text_on_either_side_of_the_marker(engine, words):
    before, behind = one(engine, two(words[8], 50, 50, stop=(words[4],))), two(words[2], 9, 9, stop=(words[6],))
    assert (before.text.split(), before.finish) == (words[:4], "stop")
    assert (one(engine, behind).text.split(), one(engine, behind).finish) == (words[:6], "stop")
    tight = two(words[8], 500, 500)
    found = one(engine, tight)
    assert (found.finish, found.prompt_tokens + found.new_tokens) == ("length", engine.context_length)


def test_batch_mates_with_other_budgets_do_not_change_a_row(engine, words):
    asked = [two(words[at], 4 + at, 3 * at, id=str(at)) for at in range(1, 8)]
    asked = [replace(LONG, id="plain"), *asked]
    found = {completion.id: completion for completion in engine.generate(asked)}
    assert [found[request.id] for request in asked] == [one(engine, request) for request in asked]
    assert {completion.new_tokens for completion in found.values()} > {5, 9, 13}


@pytest.mark.parametrize(
    ("until", "until_tokens", "text", "finish"),
    [
        ("four:", 9, " one two\nthree four: five six", "length"),
        ("four", 4, " one two\nthree four: five six", "length"),
        ("two\nthree", 9, " one two\nthree four: five", "length"),
        # The token behind the whitespace in which a marker ends has its end in it.
        ("six\n\n", 9, " one two\nthree four: five six\n\nseven eight nine", "length"),
        ("four:", 3, " one two\nthree", "length"),
        ("never", 6, " one two\nthree four: five six", "length"),
        ("nine", 9, SCRIPT, "eos"),
        ("never", 10, SCRIPT, "eos"),
    ],
)
def test_a_script_has_both_budgets_in_words(until, until_tokens, text, finish):
    found = one(ScriptedEngine(lambda request: SCRIPT), two(until, until_tokens, 2))
    assert (found.text, found.finish, found.new_tokens) == (text, finish, len(text.split()))


@pytest.mark.parametrize(("until", "until_tokens"), [("marker", 0), ("", 5), ("marker", -1), ("", -1)])
def test_a_marker_without_a_budget_or_a_budget_without_a_marker_is_named(engine, until, until_tokens):
    for asked in (engine, ScriptedEngine()):
        with pytest.raises(StageError, match=f"'r'.*until={until!r}, until_tokens={until_tokens}"):
            one(asked, two(until, until_tokens, 5))
