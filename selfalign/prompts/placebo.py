"""Neutral lines in the places of dropped rules: an arm's rules in, the same rules out with lines that keep its prompt's length.

How many tokens a line has hangs on the tokenizer and on what stands beside it, and the citations of a dropped rule are gone from
the exemplars. So the whole prompt is counted: with all rules, and with each line that might stand in the place of one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import accumulate, count

from selfalign.principles import NEUTRAL, Exemplar, Rule, RuleSet
from selfalign.prompts.self_align import SelfAlignLayout, self_align_stem
from selfalign.prompts.texts import Assistant, fill

TRIED = 32
"""Lines that are tried in the prompt before the nearest is taken: mostly the first fits, but tokens may merge across its ends."""


def with_neutral_lines(
    layout: SelfAlignLayout,
    rule_set: RuleSet,
    exemplars: Sequence[Exemplar],
    assistant: Assistant,
    count_tokens: Callable[[str], int],
) -> RuleSet:
    """The rules, their neutral lines such that the stem has as many tokens by `count_tokens` as with every rule in its place and
    cited; where no line gives as many, one that misses the fewest. The first line is fitted first, the next to what it leaves.

    The result is a function of the texts and of how they are counted. Raises what `count_tokens` raises.
    """
    gone = {rule.id: rule for rule in rule_set.dropped}
    rules = [replace(gone[rule.id], number=rule.number) if rule.is_placebo else rule for rule in rule_set.rules]

    def tokens(shown: Sequence[Rule]) -> int:
        return count_tokens(self_align_stem(layout, replace(rule_set, rules=tuple(shown)), exemplars, assistant))

    def too_many(place: int, line: str) -> int:
        return tokens([*rules[:place], replace(rule_set.rules[place], text=line), *rules[place + 1 :]]) - whole

    whole = tokens(rules)
    alone = cache(lambda line: count_tokens(fill(line, assistant)))
    for place, rule in enumerate(rule_set.rules):
        if rule.is_placebo:
            rules[place] = replace(rule, text=_nearest(partial(too_many, place), alone))
    return replace(rule_set, rules=tuple(rules))


def _nearest(too_many: Callable[[str], int], alone: Callable[[str], int]) -> str:
    """The line behind which the prompt has the fewest tokens too many or too few; by its tokens `alone` one is thought near."""
    lines: list[str] = []
    needed = 0
    for alike in _lines():
        needed = needed if lines else alone(alike[0]) - too_many(alike[0])
        # The longest first: of two that come as near, the one with fewer spare words.
        lines = [*alike, *lines]
        if alone(alike[0]) >= needed:
            break
    missed: dict[str, int] = {}
    for line in sorted(lines, key=lambda line: abs(alone(line) - needed))[:TRIED]:
        missed[line] = abs(too_many(line))
        if missed[line] == 0:
            break
    return min(missed, key=missed.__getitem__)


def _lines() -> Iterator[list[str]]:
    """Neutral lines without end, longer and longer: NEUTRAL up to each of its cuts, then behind itself once, and so on. Those of a
    list end at the same cut, with none of the spare words before it or with neighbours among them, the fewest first."""
    whole = _with(NEUTRAL.replace("|", ""), range(0))
    for sentences in count():
        for text in accumulate(NEUTRAL.split("|")):
            spare = range(text.count("["))
            sizes = range(1, len(spare) + 1)
            chosen = [spare[start : start + size] for size in sizes for start in range(len(spare) - size + 1)]
            yield [f"{whole}. " * sentences + _with(text, some) + "." for some in (range(0), *chosen)]


def _with(text: str, chosen: range) -> str:
    """A text with the chosen ones of its words in brackets, and without the others."""
    pieces = re.split(r"\[(.*?)\]", text)
    return "".join(piece for place, piece in enumerate(pieces) if place % 2 == 0 or place // 2 in chosen)
