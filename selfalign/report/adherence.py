"""Adherence to principles by a judge's rubric: what the stored verdicts of a run's models come to, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfalign.evaluation.rubric import Verdict, broken, count, metrics, scores
from selfalign.evaluation.scores import EVERY
from selfalign.report.drawings import DataTable
from selfalign.report.model import Run
from selfalign.report.scores import ABSENT, interval, with_error
from selfalign.report.sheet import Sheet

HEAD = ("principle", "n", "follow it", "followed", "broken", "does not apply", "no verdict")


def assessed(runs: Sequence[Run]) -> list[Sheet]:
    """A sheet for each model of a run that was assessed, derived anew from its verdicts."""
    found = []
    for run in runs:
        for node in run.nodes:
            if rows := list(node.rows("verdicts.jsonl")):
                found.append(sheet(f"{node.name} of {run.run_id}", rows))
    return found


def sheet(title: str, rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """Verdicts as a table, all and by principle; what is to be known about the judge stands above it."""
    table = []
    for one in scores("", rows):
        share = ABSENT if one.value is None else with_error(one.value, one.stderr) + interval(one)
        name = "" if one.metric == EVERY else one.metric
        counts = (str(count(rows, kind, name)) for kind in (*Verdict, ""))
        table.append((one.metric, str(one.n), share, *counts))
    return Sheet(title, " ".join(said(rows)), HEAD, tuple(table))


COLUMNS = ("item", "category", "question", "answer", "principle", "verdict", "judgement", "link")


def tables(rows: Sequence[Mapping[str, Any]], place: str) -> list[DataTable]:
    """The scores and every judgement as tables for the tracker, a judgement with its line in `place`."""
    table = sheet("", rows)
    judgements = [
        (
            *(row["item"], row["category"], row["question"], row["answer"], row["principle"]),
            *(row["verdict"] or row["reason"], row["text"], f"{place}:{number}"),
        )
        for number, row in enumerate(rows, start=1)
    ]
    return [
        DataTable("rubric/scores", table.head, table.rows),
        DataTable("rubric/judgements", COLUMNS, tuple(judgements)),
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | int | str]:
    """The shares, where they are not refused, verdicts by kind and tokens, as numbers for the tracker."""
    return {f"rubric/{name}": value for name, value in metrics(rows).items() if value not in (None, "")}


def said(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the numbers came about, in sentences."""
    reason = broken(rows)
    answers = len({row["item"] for row in rows})
    read, written = (sum(int(row[name]) for row in rows) for name in ("prompt_tokens", "new_tokens"))
    return [
        *([f"Invalid: {reason}."] if reason else []),
        f"{answers:,} answers, each held against each principle by a judge with its rubric. Shares are of the answers to which a "
        "principle applies; `all` is the mean over answers of the share of their principles that they follow.",
        f"{len(rows):,} judgements, {count(rows, ''):,} of them without a verdict that can be read.",
        f"The judge read {read:,} tokens and wrote {written:,}.",
    ]
