"""What is printed about the prompts of arms before they run: rules, tokens, and what an ablation leaves behind in them."""

from __future__ import annotations

from collections.abc import Mapping

from selfalign.experiment import Experiment
from selfalign.identity import digest, plain
from selfalign.pipeline import Memo
from selfalign.prompts.lint import lint, moved, sentences


def lines(arms: Mapping[str, Experiment], memo: Memo) -> list[str]:
    """A line for each arm (label -> experiment) whose rules or exemplars differ, compared with the first that leaves out no
    principle; none where all are alike. Raises ConfigError for a wrong choice."""
    asked: dict[str, tuple[str, Experiment]] = {}
    for label, one in arms.items():
        if one.stages.self_align or "prompted" in one.subjects:
            own = (one.self_align.principles, one.self_align.exemplars, one.self_align.texts, one.self_align.assistant)
            asked.setdefault(digest([plain(part) for part in own]), (label, one))
    if len(asked) < 2:
        return []
    found = [_Arm(label, one, memo) for label, one in asked.values()]
    control = next((arm for arm in found if not arm.drops), found[0])
    width = max(len(arm.label) for arm in found)
    told = [f"prompts of the arms, in {control.counted} (`selfalign prompt OVERRIDES --diff` shows one):",
            f"  {'':<{width}}  rules  exemplars   tokens   change  moved  beside the rule"]  # fmt: skip
    for arm in found:
        change = "control" if arm is control else f"{arm.tokens - control.tokens:+,}"
        notes = sentences(arm.lint, None if arm is control else control.lint)
        told.append(
            f"  {arm.label:<{width}}  {len(arm.rules.rules):>5}  {len(arm.exemplars):>9}  {arm.tokens:>7,}  {change:>7}  "
            f"{moved(control.rules, arm.rules):>5}  {'; '.join(notes)}".rstrip()
        )
    return told


class _Arm:
    """The prompt of one arm."""

    def __init__(self, label: str, one: Experiment, memo: Memo) -> None:
        self.label = label
        self.drops = bool(one.self_align.principles.drop)
        _, self.rules, self.exemplars, stem = one.self_align.arm(one.engine.count_tokens)
        self.tokens = memo("stem", (one.self_align, one.model), lambda: one.engine.count_tokens(stem))
        self.counted = one.engine.counted()
        self.lint = lint(self.rules, self.exemplars)
