"""Laws of what `plan` and a sweep print about the prompts of their arms."""

from __future__ import annotations

from selfalign import groups
from selfalign.commands.linting import lines
from selfalign.pipeline import Memo


def told(*arms: str) -> list[str]:
    groups.register()
    return lines({arm or "whole": groups.compose([arm] if arm else []) for arm in arms}, Memo())


def test_each_arm_has_a_line_that_says_how_it_differs_from_the_one_that_leaves_nothing_out() -> None:
    _, _, dropped, control, placebo, naive = told(
        "principles.drop=[candor]",
        "",
        "principles={drop:[candor],scope:placebo}",
        "principles={drop:[helpful],scope:rule}",
    )
    assert control.split()[:6:2] == ["whole", "5", "control"] and "no exemplar shows: ethical" in control
    tokens = {line: int(line.split()[3].replace(",", "")) for line in (control, dropped)}
    change = tokens[dropped] - tokens[control]
    assert change < 0 and dropped.split()[4:6] == [str(change), "9"]
    assert "no exemplar shows" not in dropped, "what the control has too is said once"
    assert placebo.split()[-2:] == ["+0", "0"], "a line in the place of the rule costs as many tokens, and moves none"
    assert naive.endswith("exemplars cite what is not listed: helpful")


def test_the_table_says_what_prompts_were_counted_in() -> None:
    assert told("", "principles.drop=[candor]")[0].startswith("prompts of the arms, in tokens by the tokenizer of")
    assert told("engine=scripted", "principles=none")[0].startswith("prompts of the arms, in words")


def test_arms_that_send_the_same_prompts_are_not_listed() -> None:
    assert told("seed=0", "seed=1") == []
    assert len(told("", "seed=1", "principles.drop=[candor]")) == 4
    assert told("", "stages=no_cloning") == []
