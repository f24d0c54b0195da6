"""Judged answers of runs: what a judge's stored reviews come to, and the judge's card."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.evaluation.judge import Contest, Review, review_of
from selfalign.evaluation.judge_card import Card, Tally, card
from selfalign.report.drawings import DataTable
from selfalign.report.model import Run
from selfalign.report.scores import ABSENT, number, with_error
from selfalign.report.sheet import Sheet

HEAD = ("questions", "n", "won", "tied", "lost", "win rate", "length-controlled", "marks", "others' marks", "relative")


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
        _row("all", found.whole, found.reason, _win_rate(found), _controlled(found)),
        *(_row(name, one, found.reason) for name, one in found.categories.items()),
    ]
    return Sheet(title, " ".join(said(found)), HEAD, tuple(rows))


REVIEW_COLUMNS = (
    *("question_id", "category", "question", "ours", "theirs", "shown_first", "mark_ours", "mark_theirs", "winner"),
    *("review", "link"),
)


def tables(found: Card, reviews: Sequence[Review], contests: Sequence[Contest], place: str) -> list[DataTable]:
    """The card and every review as tables for the tracker, a review with its question, both answers and its line in `place`."""
    table = sheet("", found)
    asked = {contest.question.id: contest for contest in contests}
    rows = []
    for number_, review in enumerate(reviews, start=1):
        contest = asked[review.question_id]
        rows.append(
            (
                *(review.question_id, contest.question.category, contest.question.text),
                *(contest.ours.text, contest.theirs.text, "theirs" if review.is_swapped else "ours"),
                *(review.by_side(review.score) if review.kept else (None, None)),
                *(review.winner or review.reason, review.text, f"{place}:{number_}"),
            )
        )
    return [DataTable("judge/card", table.head, table.rows), DataTable("judge/reviews", REVIEW_COLUMNS, tuple(rows))]


def summary(found: Card) -> dict[str, float | int | str]:
    """The card as numbers for the tracker: how the judge behaved, and what its reviews come to unless they are refused."""
    low, high = found.interval or (None, None)
    values = {
        "reviews": found.reviews,
        "without_marks": found.unread,
        "without_verdict": found.unjudged,
        "flip_rate": found.flip_rate,
        "tie_rate": found.tie_rate,
        "longer_wins": found.longer_wins,
        "first_wins": found.first_wins,
        "prompt_tokens": found.prompt_tokens,
        "new_tokens": found.new_tokens,
        "invalid": found.reason or None,
    }
    if not found.reason:
        whole = found.whole
        values |= {"questions": whole.questions, "wins": whole.wins, "ties": whole.ties, "losses": whole.losses}
        values |= {"win_rate": found.win_rate, "stderr": found.stderr, "low": low, "high": high}
        values |= {"relative": whole.relative, "not_length_controlled": found.uncontrolled or None}
        if one := found.controlled:
            values |= {"length_controlled": one.win_rate.value, "length_controlled_stderr": one.stderr}
            values |= {"length_controlled_low": one.win_rate.low, "length_controlled_high": one.win_rate.high}
    return {f"judge/{name}": value for name, value in values.items() if value is not None}


def said(found: Card) -> list[str]:
    """What the reviews come to and how the judge behaved, in sentences."""
    texts = [f"Invalid: {found.reason}." if found.reason else ""]
    if found.win_rate is not None:
        texts += [
            f"Won {_win_rate(found)} of the questions, a tie counting half; its standard error and 95 % interval are over "
            "questions.",
            f"At equal length it would win {_controlled(found)}, by a logistic regression on the difference in words; error and "
            "interval: a bootstrap over questions."
            if found.controlled
            else f"What it would win at equal length is not known: {found.uncontrolled}.",
        ]
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


def _win_rate(found: Card) -> str:
    if found.win_rate is None:
        return ABSENT
    low, high = found.interval or (found.win_rate, found.win_rate)
    return f"{with_error(found.win_rate, found.stderr)} [{number(low)}, {number(high)}]"


def _controlled(found: Card) -> str:
    if found.controlled is None:
        return ABSENT
    one = found.controlled.win_rate
    return f"{with_error(one.value, found.controlled.stderr)} [{number(one.low)}, {number(one.high)}]"


def _row(name: str, tally: Tally, reason: str, win_rate: str = "", controlled: str = ABSENT) -> tuple[str, ...]:
    """A line of the table; by category, the win rate stands without an interval, and too few questions for one at equal length."""
    if reason or tally.relative is None or tally.share is None:
        return name, str(tally.questions), *([ABSENT] * (len(HEAD) - 2))
    counts = map(str, (tally.questions, tally.wins, tally.ties, tally.losses))
    marks = f"{tally.ours:g}", f"{tally.theirs:g}", number(tally.relative)
    return name, *counts, win_rate or number(tally.share), controlled, *marks
