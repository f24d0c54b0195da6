"""Laws of what is said about an arm's prompt: what an ablation leaves behind in it is found, and an honest one leaves nothing."""

from __future__ import annotations

import pytest

from selfalign import prompts
from selfalign.principles import ExemplarSettings, Numbering, PrincipleSettings, Scope, resolve, resolve_exemplars
from selfalign.prompts.lint import Lint, lint, moved, sentences
from tests.factories import FIVE, SIXTEEN


def found(exemplars: list[str] | None = None, **settings: object) -> Lint:
    rules = resolve(PrincipleSettings(ids=SIXTEEN, **settings))  # type: ignore[arg-type]
    return lint(rules, resolve_exemplars(ExemplarSettings(ids=FIVE if exemplars is None else exemplars), rules))


def test_of_the_whole_set_three_rules_are_shown_by_no_exemplar() -> None:
    # REFERENCE: rules 1, 4 and 14 are never demonstrated there, and ours show the same rules.
    assert found() == Lint((), ("ethical", "question assessment", "balanced perspectives"), (), ())


@pytest.mark.parametrize("dropped", SIXTEEN)
def test_a_dropped_rule_dangles_where_its_line_alone_goes_and_an_exemplar_cites_it(dropped: str) -> None:
    shown = found()
    name = {rule.id: rule.name for rule in resolve(PrincipleSettings(ids=SIXTEEN)).rules}[dropped]
    left = found(drop=[dropped], scope=Scope.rule)
    assert left.dangling == (() if name in shown.undemonstrated else (name,))
    for scope in (Scope.citations, Scope.exemplars, Scope.placebo):
        assert found(drop=[dropped], scope=scope).dangling == ()


@pytest.mark.parametrize("dropped", SIXTEEN)
def test_a_citation_in_the_prompt_dangles_exactly_where_it_is_said_to(dropped: str) -> None:
    layout = prompts.load_layout()
    for scope in Scope:
        rules = resolve(PrincipleSettings(ids=SIXTEEN, drop=[dropped], scope=scope))
        exemplars = resolve_exemplars(ExemplarSettings(ids=FIVE), rules)
        text = prompts.self_align_stem(layout, rules, exemplars, prompts.Assistant())
        name = rules.dropped[0].name
        assert (f"({name})" in text) == (name in lint(rules, exemplars).dangling)


def test_exemplars_that_go_with_a_rule_leave_others_that_nothing_shows() -> None:
    assert "dated knowledge" in found(drop=["candor"], scope=Scope.exemplars).undemonstrated
    assert found(exemplars=[]) == Lint((), (), (), ()), "without exemplars nothing is shown, and nothing is said"


def test_thoughts_that_cite_nothing_any_more_and_numbers_that_no_rule_has_are_named() -> None:
    assert found(drop=["numerical_sensitivity", "operational"]).uncited == ("sort_numbers",)
    assert found(drop=["candor"], numbering=Numbering.keep).gaps == (7,)
    assert found(drop=["operational"], numbering=Numbering.keep).gaps == (), "the last one leaves no gap"


def test_moved_counts_the_rules_with_another_number_or_place() -> None:
    whole = resolve(PrincipleSettings(ids=SIXTEEN))

    def count(**settings: object) -> int:
        return moved(whole, resolve(PrincipleSettings(ids=SIXTEEN, **settings)))  # type: ignore[arg-type]

    assert count() == 0
    assert count(drop=["candor"]) == 9 and count(drop=["operational"]) == 0
    assert count(drop=["candor"], scope=Scope.placebo) == 0
    assert count(drop=["candor"], numbering=Numbering.keep) == 0
    assert count(order=["helpful"]) == 3
    assert count(order=["helpful"], numbering=Numbering.keep) == 3


def test_an_arms_findings_are_those_that_the_control_does_not_have() -> None:
    own = found()
    assert sentences(own, own) == []
    assert sentences(own) == ["no exemplar shows: ethical, question assessment, balanced perspectives"]
    assert sentences(found(drop=["candor"], scope=Scope.rule), own) == ["exemplars cite what is not listed: candor"]
