"""Laws of principle telemetry: every citation is counted once, where it belongs, whatever the order of the rows."""

from __future__ import annotations

import random
from typing import Any

import pytest

from selfalign.report.principle_use import (
    CHECKS,
    PrincipleUse,
    Rules,
    Standing,
    compare,
    principle_use,
    rules_of,
)
from tests.unit.report.run_folders import RULES, responses

ARM = Rules(tuple(RULES), ("multi_aspect",))


def row(**fields: Any) -> dict[str, Any]:
    made = {"id": "0", "source": "self_instruct", "thoughts": "I think of 7 (candor).", "cited": ["candor"],
            "text": "An answer.", "kept": True, "reason": ""}  # fmt: skip
    return made | fields


def rows() -> list[dict[str, Any]]:
    """60 rows, a third of them of red-teaming; some dropped, some cite a rule that is left out, some `#19`."""
    made = responses(3, [])
    return [{**one, "source": "red_team" if index % 3 else "self_instruct"} for index, one in enumerate(made)]


def use(made: list[dict[str, Any]], rules: Rules = ARM) -> PrincipleUse:
    found = principle_use(made, rules)
    assert found is not None
    return found


def check(made: list[dict[str, Any]], code: str, rules: Rules = ARM) -> tuple[int, int, str]:
    (found,) = [one for one in use(made, rules).checks if one.code == code]
    return found.kept, found.dropped, found.example


# --------------------------------------------------------------------------------------------------------- citations


def test_citations_by_source_add_up_and_so_do_the_sources():
    found = use(rows())
    kept = [one for one in rows() if one["kept"]]
    assert found.answers == len(kept) == sum(total for _, total in found.sources)
    assert [name for name, _ in found.sources] == ["self_instruct", "red_team"]
    for one in found.citations:
        assert sum(one.by_source) == one.count
    assert sum(one.count for one in found.citations) == sum(len(set(one["cited"])) for one in kept)


def test_dropped_answers_are_not_counted():
    made = [row(id="a"), row(id="b", kept=False, reason="unfinished", cited=["ethical"])]
    found = {one.principle: one.count for one in use(made).citations}
    assert (found["candor"], found["ethical"]) == (1, 0)


def test_a_principle_cited_twice_by_an_answer_counts_once():
    found = {one.principle: one.count for one in use([row(cited=["candor", "candor", "Candor"])]).citations}
    assert found == {**dict.fromkeys(RULES, 0), "candor": 1}


def test_the_co_citation_matrix_is_symmetric_and_its_diagonal_is_the_citation_count():
    found = use(rows())
    size = len(found.citations)
    assert [len(line) for line in found.together] == [size] * size
    for i in range(size):
        assert found.together[i][i] == found.citations[i].count
        for j in range(size):
            assert found.together[i][j] == found.together[j][i] <= min(found.together[i][i], found.together[j][j])
    assert any(found.together[i][j] for i in range(size) for j in range(i))


@pytest.mark.parametrize("name", ["#7", "#99", "politeness"])
def test_a_citation_of_an_absent_rule_is_counted_as_such_and_nowhere_else(name: str):
    without = use([row(id="a")])
    found = use([row(id="a", cited=["candor", name])])
    assert [one for one in found.citations if one.principle != name] == list(without.citations)
    (absent,) = [one for one in found.citations if one.standing is Standing.absent]
    assert (absent.principle, absent.count) == (name, 1)
    assert (without.citing_absent, found.citing_absent) == (0, 1)


def test_a_dropped_principle_keeps_its_place_and_says_what_it_is_even_uncited():
    found = use([row()])
    assert [one.principle for one in found.citations] == RULES
    assert {one.principle for one in found.citations if one.standing is Standing.dropped} == {"multi_aspect"}


def test_absent_numbers_stand_behind_the_set_by_size():
    found = use([row(cited=["#10", "#9", "politeness"])])
    assert [one.principle for one in found.citations] == [*RULES, "politeness", "#9", "#10"]


def test_rows_in_another_order_give_the_same():
    made = rows()
    mixed = made[:]
    random.Random(1).shuffle(mixed)
    assert mixed != made and use(mixed) == use(made)


def test_answers_without_any_thoughts_have_no_telemetry():
    assert principle_use([row(thoughts="", cited=[])], ARM) is None
    assert principle_use([], ARM) is None


def test_thoughts_of_dropped_rows_alone_have_telemetry_of_zeros():
    found = use([row(kept=False, reason="unfinished")])
    assert found.answers == 0 and not found.sources
    assert all(one.count == 0 and one.share == 0.0 for one in found.citations)


# ------------------------------------------------------------------------------------------------------------- rules


def test_rules_are_those_of_stage_2_where_it_has_its_own():
    whole = {"ids": ["Multi-aspect", "candor"], "add": ["polite"], "drop": ["multi aspect"]}
    assert rules_of({"principles": whole}) == Rules(("Multi-aspect", "candor", "polite"), ("Multi-aspect",))
    own = rules_of({"principles": whole, "self_align": {"principles": {"ids": ["candor"]}}})
    assert own == Rules(("candor",), ()) and own.shown == ("candor",)


def test_a_rule_is_known_under_any_spelling():
    rules = Rules(("Multi-aspect",), ())
    assert rules.standing("multi_aspect") is Standing.rule and rules.standing("#6") is Standing.absent


@pytest.mark.parametrize("config", [{}, {"principles": None}, {"principles": "dromedary16"}])
def test_without_known_rules_a_name_is_a_rule_and_a_bare_number_is_not(config: dict[str, Any]):
    rules = rules_of(config)
    assert rules.standing("candor") is Standing.rule and rules.standing("#3") is Standing.absent


# ------------------------------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("no_thoughts", {"thoughts": "", "cited": []}),
        ("no_answer", {"text": " "}),
        ("cites_nothing", {"cited": []}),
        ("cites_absent", {"cited": ["candor", "#7"]}),
        ("cites_absent", {"cited": ["multi_aspect"]}),
        ("names_dropped", {"thoughts": "I should follow rule 7 (Multi-aspect).", "cited": ["candor"]}),
        ("repeats_thoughts", {"thoughts": "He asks why the sky is blue. 7 (candor).",
                              "text": "Well: he asks, why the sky is blue!"}),
        ("cites_in_answer", {"text": "By rule 7 (candor), I do not know."}),
    ],
)  # fmt: skip
def test_each_check_finds_what_it_says_and_nothing_in_a_sound_row(code: str, fields: dict[str, Any]):
    sound = row(id="b")
    odd = row(id="a", **fields)
    assert check([sound, odd], code) == (1, 0, "a")
    assert check([sound, {**odd, "kept": False, "reason": "x"}], code) == (0, 1, "a")
    assert check([sound], code) == (0, 0, "")


def test_brackets_behind_a_number_are_no_citation_unless_they_name_a_principle():
    assert check([row(text="Python 3 (released in 2008) is newer.")], "cites_in_answer") == (0, 0, "")


def test_a_short_sentence_that_thoughts_and_answer_share_is_no_repetition():
    assert check([row(thoughts="It is so. 7 (candor).", text="It is so.")], "repeats_thoughts") == (0, 0, "")


def test_the_same_thoughts_with_different_answers_are_found_and_with_one_answer_are_not():
    made = [row(id="a", text="Yes."), row(id="b", text="No."), row(id="c", text="No.", thoughts="Others.")]
    assert check(made, "shared_thoughts") == (2, 0, "a")
    assert check([row(id="a"), row(id="b")], "shared_thoughts") == (0, 0, "")


def test_every_check_is_reported_also_where_nothing_was_found():
    assert [one.code for one in use([row()]).checks] == [*CHECKS, "shared_thoughts"]


# -------------------------------------------------------------------------------------------------------------- arms


def test_arms_are_compared_principle_by_principle_and_a_left_out_one_is_marked():
    whole, arm = use(rows(), Rules(tuple(RULES))), use(rows(), ARM)
    lines = {line.principle: line.cells for line in compare([whole, arm, None])}
    assert list(lines) == RULES
    first, second, none = lines["multi_aspect"]
    assert first is not None and first.standing is Standing.rule
    assert second is not None and second.standing is Standing.dropped
    assert none is None


def test_a_principle_that_only_one_arm_has_is_empty_in_the_others():
    one, other = use([row()], Rules(("candor",))), use([row()], Rules(("candor", "polite")))
    assert [line.cells[0] is None for line in compare([one, other])] == [False, True]
