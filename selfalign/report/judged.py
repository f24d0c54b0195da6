"""Judged answers of runs: what a judge's stored reviews come to, and the judge's card."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.evaluation.judge import Card, Tally, card, review_of
from selfalign.report.model import Run
from selfalign.report.scores import ABSENT, number, with_error
from selfalign.report.sheet import Sheet

HEAD = ("questions", "n", "won", "tied", "lost", "marks", "others' marks", "relative")


def judged(runs: Sequence[Run]) -> list[Sheet]:
    """A sheet for each comparison that a run's models were judged in, derived anew from its reviews."""
    found = []
    for run in runs:
        for node in run.nodes:
            reviews = [review_of(row) for row in node.rows("reviews.jsonl")]
            if reviews:
                found.append(sheet(f"{node.name} of {run.run_id}", card(reviews)))
    return found


def sheet(title: str, found: Card) -> Sheet:
    """A card as a table, all and by category; what is to be known about the judge stands above it."""
    rows = [
        _row("all", found.whole, found.reason),
        *(_row(name, one, found.reason) for name, one in found.categories.items()),
    ]
    return Sheet(title, " ".join(said(found)), HEAD, tuple(rows))


def said(found: Card) -> list[str]:
    """What the reviews come to and how the judge behaved, in sentences."""
    texts = [f"Invalid: {found.reason}." if found.reason else ""]
    if found.win_rate is not None:
        texts.append(f"Won {with_error(found.win_rate, found.stderr)} of the questions, a tie counting half.")
    texts.append(
        f"{found.reviews:,} reviews, {found.unread:,} of them without marks; {found.unjudged:,} questions without verdict."
    )
    orders = (
        "each pair was shown in one order"
        if found.flip_rate is None
        else f"the winner changes with the order in {_percent(found.flip_rate)}"
    )
    texts.append(f"The judge: {orders}; ties {_percent(found.tie_rate)}, the longer answer wins {_percent(found.longer_wins)}, "
                 f"the first one shown {_percent(found.first_wins)}.")  # fmt: skip
    if found.prompt_tokens:
        texts.append(f"It read {found.prompt_tokens:,} tokens and wrote {found.new_tokens:,}.")
    return [text for text in texts if text]


def _percent(share: float | None) -> str:
    return "(not known)" if share is None else f"{100 * share:.1f} %"


def _row(name: str, tally: Tally, reason: str) -> tuple[str, ...]:
    if reason or tally.relative is None:
        return name, str(tally.questions), *([ABSENT] * 6)
    counts = map(str, (tally.questions, tally.wins, tally.ties, tally.losses))
    return name, *counts, f"{tally.ours:g}", f"{tally.theirs:g}", number(tally.relative)
