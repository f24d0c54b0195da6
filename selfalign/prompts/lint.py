"""What the choice of rules and exemplars leaves behind in the self-align prompt: rules and exemplars of an arm in, findings out.

An ablation is honest where the dropped rule is gone and nothing else is different. What else is different can be read off the
prompt before anything runs: citations of a rule that is not listed, rules that no exemplar shows, exemplars whose thoughts have
nothing left to cite, rules that stand elsewhere under another number (REFERENCE: 13 of the paper's 16 principles are cited in its
exemplars, and 3 in none).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.principles import Exemplar, RuleSet, shown_citations


@dataclass(frozen=True)
class Lint:
    """What is to be known about one arm's prompt; names of rules, in the order of the prompt."""

    dangling: tuple[str, ...]
    """Rules that exemplars cite and that are not listed."""
    undemonstrated: tuple[str, ...]
    """Listed rules that no exemplar cites."""
    uncited: tuple[str, ...]
    """Ids of exemplars one of whose thoughts cites no rule any more."""
    gaps: tuple[int, ...]
    """Numbers that no listed rule has, below the largest."""


def lint(rule_set: RuleSet, exemplars: Sequence[Exemplar]) -> Lint:
    """The findings on an arm's rules and the exemplars that it shows."""
    turns = [(exemplar, turn) for exemplar in exemplars for turn in exemplar.turns]
    cited = [rule for _, turn in turns for rule in shown_citations(rule_set, turn.cites)]
    listed, numbers = rule_set.by_id(), {rule.number for rule in rule_set.rules}
    return Lint(
        dangling=tuple(dict.fromkeys(rule.name for rule in cited if rule.id not in listed)),
        undemonstrated=tuple(
            rule.name for rule in listed.values() if exemplars and rule.id not in {one.id for one in cited}
        ),
        uncited=tuple(
            dict.fromkeys(
                exemplar.id for exemplar, turn in turns if turn.cites and not shown_citations(rule_set, turn.cites)
            )
        ),
        gaps=tuple(sorted(set(range(1, max(numbers, default=0))) - numbers)),
    )


def moved(before: RuleSet, after: RuleSet) -> int:
    """How many rules that both arms list stand under another number, or behind other neighbours, in the second."""
    common = before.by_id().keys() & after.by_id().keys()
    numbers = [{rule.id: rule.number for rule in one.rules if rule.id in common} for one in (before, after)]
    places = [{name: place for place, name in enumerate(one)} for one in numbers]
    return sum(numbers[0][name] != numbers[1][name] or places[0][name] != places[1][name] for name in common)


def sentences(found: Lint, than: Lint | None = None) -> list[str]:
    """The findings in words; of an arm that is compared with the control, those that the control does not have."""
    new = {
        key: tuple(one for one in getattr(found, key) if than is None or one not in getattr(than, key))
        for key in ("dangling", "undemonstrated", "uncited", "gaps")
    }
    said = {
        "dangling": "exemplars cite what is not listed: {}",
        "undemonstrated": "no exemplar shows: {}",
        "uncited": "thoughts without a rule in: {}",
        "gaps": "no rule has number: {}",
    }
    return [said[key].format(", ".join(map(str, names))) for key, names in new.items() if names]
