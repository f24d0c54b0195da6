"""Questions, headers and readings of Calf's card."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selfalign import prompts
from selfalign.calf import measure, world
from selfalign.calf.item import Item
from selfalign.calf.kinds import KINDS
from selfalign.errors import ConfigError
from selfalign.principles import PrincipleSettings, RuleSet, Turn, resolve, slug
from tests.factories import SIXTEEN

ASSISTANT = prompts.Assistant()
LAYOUT = prompts.load_layout()
SETTINGS = PrincipleSettings(ids=SIXTEEN)


def item(kind: str, number: int = 0) -> Item:
    return measure.questions(kind, number + 1, ASSISTANT)[0][number]


def completion(item: Item, rule_set: RuleSet, *, answer: str | None = None) -> str:
    """What a faultless model writes behind a header."""
    turn = Turn(item.text, item.remark, item.governs, "")
    thoughts = prompts.fill(prompts.thoughts_text(LAYOUT, rule_set, turn), ASSISTANT)
    marker = prompts.fill(LAYOUT.answer, ASSISTANT)
    return f" {thoughts}\n\n{marker} {item.answer(rule_set.by_id()) if answer is None else answer}"


def read(item: Item, rule_set: RuleSet, text: str) -> measure.Reading:
    return measure.read_completion(item, LAYOUT, rule_set, ASSISTANT, text, lambda answer: len(answer.split()))


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_distinct_and_those_of_a_smaller_count_come_first(kind: str) -> None:
    many, framed = measure.questions(kind, 12, ASSISTANT)
    few, _ = measure.questions(kind, 5, ASSISTANT)
    assert len({one.text for one in many}) == 12 and [one.text for one in few] == [one.text for one in many[:5]]
    assert all(one.kind == kind for one in many)
    assert all(one.held_out for one in many[: 12 - framed]), "what is asked was never in the corpus"
    assert not any("{" in text for one in many for text in (one.raw, *(good for _, good in one.good)))


def test_a_kind_with_few_held_out_questions_goes_on_behind_frames() -> None:
    found, framed = measure.questions("capital", 200, ASSISTANT)
    assert len({one.text for one in found}) == 200 and 0 < framed < 200
    plain = {one.text for one in found[: 200 - framed]}
    assert all(any(one.text.endswith(text) for text in plain) for one in found[200 - framed :])


def test_each_rule_is_left_out_once_and_the_rest_is_renumbered() -> None:
    headers = measure.leave_one_out(SETTINGS)
    assert [header.family for header in headers] == ["all"] + ["without"] * 16
    for header, gone in zip(headers[1:], SIXTEEN, strict=True):
        assert header.name == f"without_{gone}"
        assert [rule.id for rule in header.rule_set.rules] == [name for name in SIXTEEN if name != gone]
        assert [rule.number for rule in header.rule_set.rules] == list(range(1, 16))


def test_headers_vary_in_rules_order_and_numbers() -> None:
    headers = measure.varied(SETTINGS, each=8)
    assert [header.name for header in headers] == [h.name for h in measure.varied(SETTINGS, each=8)]
    seen = {header.family: set() for header in headers}
    for header in headers:
        ids, numbers = ([getattr(rule, key) for rule in header.rule_set.rules] for key in ("id", "number"))
        seen[header.family].add((*ids, *numbers))
        if header.family == "subset":
            assert 6 <= len(ids) <= 14 and ids == [name for name in SIXTEEN if name in ids]
            assert numbers == list(range(1, len(ids) + 1))
        elif header.family == "order":
            assert sorted(ids) == sorted(SIXTEEN) and ids != SIXTEEN and numbers == list(range(1, 17))
        else:
            assert ids == SIXTEEN and sorted(numbers) == list(range(1, 17)) and numbers != list(range(1, 17))
    assert {family: len(found) for family, found in seen.items()} == {"subset": 8, "order": 8, "numbers": 8}


@pytest.mark.parametrize("header", measure.varied(SETTINGS, each=2), ids=lambda header: header.name)
@pytest.mark.parametrize("kind", KINDS)
def test_a_faultless_completion_is_read_as_such(kind: str, header: measure.Header) -> None:
    one = item(kind)
    reading = read(one, header.rule_set, completion(one, header.rule_set))
    listed = set(one.governs) & header.rule_set.by_id().keys()
    assert reading.listed == reading.shown == listed and reading.is_governed is bool(listed)
    numbers = header.rule_set.by_id()
    assert reading.cited == reading.fitting == {(numbers[name].number, slug(numbers[name].name)) for name in listed}
    assert reading.exact and (reading.copied is not False or listed != set(one.governs))


def test_a_completion_without_an_answer_shows_nothing_and_cites_what_it_cites() -> None:
    reading = read(item("harm"), resolve(SETTINGS), " The user plans harm. Rules that apply: 1 (ethical), 9 (candor).")
    assert reading.shown == frozenset() and not reading.is_governed and reading.tokens == 0
    assert reading.cited == {(1, "ethical"), (9, "candor")} and reading.fitting == {(1, "ethical")}


def test_a_right_name_under_a_wrong_number_counts_for_the_name_alone() -> None:
    one, rules = item("harm"), resolve(SETTINGS)
    reading = read(one, rules, completion(one, rules).replace("1 (ethical)", "4 (ethical)"))
    both, names = (measure.agreement([reading], numbers=flag) for flag in (True, False))
    assert (both.precision, both.recall, both.worse) == (0.0, 0.0, 0.0)
    assert (names.precision, names.recall, names.worse) == (1.0, 1.0, 1.0)


def test_nothing_cited_is_no_precision_and_nothing_fitting_no_recall() -> None:
    silent = measure.Agreement(cited=0, fitting=3, both=0)
    assert (silent.precision, silent.recall, silent.worse) == (None, 0.0, 0.0)
    assert measure.Agreement(0, 0, 0).worse == 1.0


def test_a_mark_too_many_is_no_behaviour_of_a_listed_rule_but_a_mark() -> None:
    one = item("how_to_many")
    first, second = one.governs
    rest = resolve(replace(SETTINGS, drop=[second]))
    reading = read(one, rest, completion(one, rest, answer=one.answer(one.governs)))
    assert reading.shown == {first, second} and not reading.is_governed
    assert (measure.behaviour([reading], first), measure.marked([reading], first)) == (0.0, 1.0)
    assert (measure.behaviour([reading], second), measure.marked([reading], second)) == (1.0, 1.0)
    assert measure.behaviour([reading], "ethical") is None


def test_an_entity_that_is_not_repeated_is_not_copied() -> None:
    one = next(found for kind in KINDS if (found := item(kind)).entities)
    answer = one.answer(one.governs)
    wrong = answer
    for entity in one.entities:
        wrong = wrong.replace(entity, "something else")
    assert measure.read_answer(one, one.governs, answer, 1).copied is True
    assert measure.read_answer(one, one.governs, wrong, 1).copied is False
    assert measure.read_answer(one, one.governs, wrong, 1).exact is False


def test_a_base_model_under_no_rules_is_governed_where_it_shows_any_mark() -> None:
    one = item("live_plan")
    raw = measure.read_answer(one, (), one.raw, 1)
    good = measure.read_answer(one, (), one.answer([one.governs[0]]), 1)
    assert (raw.is_governed, good.is_governed) == (False, True)
    assert (
        measure.behaviour([raw, good], one.governs[0]) == 0.5 and measure.behaviour([raw, good], one.governs[1]) == 0.0
    )


def test_more_questions_than_a_kind_has_are_refused_instead_of_looked_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(world, "FRAMES", ["Please be so kind. "])
    with pytest.raises(ConfigError, match="of the kind 'unclear'.*found 500; ask for fewer"):
        measure.questions("unclear", 500, prompts.Assistant())
