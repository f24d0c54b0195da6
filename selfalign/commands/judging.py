"""`judge`: the answers of a run's model compared with others by a judge, and published reviews read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from selfalign.commands import asking, assessing
from selfalign.commands.arguments import (
    add_overrides,
    composed,
    new_parser,
    positive_number,
    whole_number,
)
from selfalign.errors import ConfigError, DataError, SelfAlignError
from selfalign.runner import resolve_run

if TYPE_CHECKING:
    from selfalign.evaluation.judge_card import Card

TASK = "vicuna_questions"
"""The task whose answers are judged."""


def judge(arguments: list[str]) -> int:
    """A comparison of two sets of answers by a judge, its verdicts on one set by the principles, or the card of a file of
    reviews."""
    parser = new_parser(
        "judge",
        "Let a judge compare a run's answers to open questions with others, in both orders, or hold them against principles "
        "(--rubric). The settings are the judge's: "
        "engine=openai_api engine.base_url=... model.path=..., or model=hf model.path=... . What is finished is kept.",
    )
    parser.add_argument("run", nargs="?", default="", help="run folder, or its name in runs/")
    add_overrides(parser)
    parser.add_argument("--subject", default="", help="which model's answers (default: the last that the run scored)")
    parser.add_argument(
        "--against", default="", metavar="WHAT", help="file of answers (FastChat's, or items.jsonl), or RUN:SUBJECT"
    )
    parser.add_argument("--rubric", default="", metavar="IDS",
                        help="instead of comparing: hold answers against these principles (`all`, or ids with commas)")  # fmt: skip
    parser.add_argument("--questions", default="", metavar="FILE", help="question file (default: the run's)")
    parser.add_argument("--prompt", default="", metavar="FILE", help="a prompt of your own for the judge")
    parser.add_argument("--one-order", action="store_true", help="show each pair once, the run's answer first")
    parser.add_argument(
        "--max-new-tokens", type=positive_number, default=None, help="of a review (default: 1024; of a verdict: 256)"
    )
    parser.add_argument("--temperature", type=float, default=None, help="of the judge (default: 0.2; of verdicts: 0)")
    parser.add_argument("--seed", type=whole_number, default=0, help="of the reviews (default: %(default)s)")
    parser.add_argument("--price", type=float, nargs=2, metavar=("READ", "WRITTEN"),
                        help="of a million tokens, to print what the reviews cost")  # fmt: skip
    parser.add_argument("--reviews", default="", metavar="FILE", help="instead of judging: the card of these reviews")
    parser.add_argument(
        "--answers", nargs=2, metavar=("FIRST", "SECOND"), help="with --reviews: the answers, for their lengths"
    )
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_intermixed_args(arguments)
    if given.reviews:
        return _read(given)
    if not given.run or bool(given.against) == bool(given.rubric) or not given.overrides:
        parser.error(
            "expected RUN, either --against WHAT or --rubric IDS, and the judge's settings (engine=..., model=...), or "
            "--reviews FILE"
        )
    if given.rubric:
        folder = resolve_run(given.run, Path(given.runs))
        return assessing.assess(given, folder, *_items(folder, given.subject), TASK)
    return _judge(given)


def _read(given: argparse.Namespace) -> int:
    """Print the card of a file of reviews."""
    from selfalign.evaluation import judge as judging
    from selfalign.evaluation.judge_card import card

    questions = judging.read_questions(Path(given.questions)) if given.questions else []
    if given.answers and not questions:
        raise ConfigError(
            ["--answers: expected --questions FILE with it, found none; give the questions that they answer"]
        )
    answers = [judging.read_answers(Path(path), questions) for path in given.answers or ()]
    reviews = judging.read_reviews(Path(given.reviews), questions, answers)
    _print(given.reviews, card(reviews), given.price)
    return 0


def _judge(given: argparse.Namespace) -> int:
    """Judge, note the result in the run's manifest, write its report anew, and print the card."""
    from selfalign.evaluation import judge as judging
    from selfalign.evaluation.judge_card import card
    from selfalign.report import judged, load_run
    from selfalign.stages.judge import REVIEWS, Judge

    folder = resolve_run(given.run, Path(given.runs))
    subject, ours = _items(folder, given.subject)
    theirs, name = _opponent(given.against, Path(given.runs))
    settings = composed(given.overrides)
    stage = Judge(
        questions=given.questions or _questions(folder),
        ours=str(ours),
        theirs=str(theirs),
        prompt=given.prompt,
        swap=not given.one_order,
        sampling=asking.sampling(given, Judge().sampling),
        seed=given.seed,
    )
    asking.check(stage, settings, "judge")
    print(f"{len(stage.contests())} questions answered by both sides", file=sys.stderr)
    node = f"judged_{subject}_{name}"
    result = asking.ask(folder, node, stage, settings, ours)
    reviews = judging.read_reviews(Path(result.path) / REVIEWS)
    found = card(reviews)
    rows = judged.tables(found, reviews, stage.contests(), f"{result.artifact}/{REVIEWS}")
    asking.track(folder, node, result, stage, settings, judged.summary(found), rows)
    _print(f"{node} of {load_run(folder).run_id}", found, given.price)
    print(f"reviews: {Path(result.path) / REVIEWS}", file=sys.stderr)
    return 0


def _items(folder: Path, subject: str) -> tuple[str, Path]:
    """A model of a run (the last that was scored, where none is named), and the items of its evaluation."""
    from selfalign.report import load_run

    run = load_run(folder)
    scored = {
        node.name.removeprefix("scores_"): node.folder / "items.jsonl"
        for node in run.nodes
        if node.name.startswith("scores_") and node.folder is not None
    }
    chosen = subject or next(reversed(scored), "")
    if chosen not in scored:
        raise DataError(
            f"{folder}: expected the scores of {subject or 'a model'}, found those of {', '.join(scored) or 'none'}; name one of "
            "them, or run the evaluation first"
        )
    return chosen, scored[chosen]


def _opponent(against: str, runs: Path) -> tuple[Path, str]:
    """The file of the other answers, and what they are called."""
    if Path(against).is_file():
        return Path(against), Path(against).stem.removeprefix("answer_")
    name, _, subject = against.partition(":")
    try:
        folder = resolve_run(name, runs)
    except SelfAlignError as error:
        raise DataError(
            f"--against: expected a file of answers or RUN:SUBJECT, found no file '{against}'; {error}"
        ) from None
    subject, path = _items(folder, subject)
    return path, f"{folder.name}_{subject}"


def _questions(folder: Path) -> str:
    """The questions that a run was asked. Raises DataError where its data folder does not have them."""
    from selfalign.evaluation.catalogue import catalogue
    from selfalign.report import load_run

    data = str((load_run(folder).config.get("evaluation") or {}).get("data") or "")
    (path,) = catalogue()[TASK].paths(data)
    if not data or not path.is_file():
        raise DataError(
            f"{folder}: expected the questions of {TASK} in its evaluation.data, found none at '{path}'; give --questions FILE"
        )
    return str(path)


def _print(title: str, found: Card, price: list[float] | None) -> None:
    from selfalign.report.judged import sheet
    from selfalign.report.terminal import sheet_text

    print(sheet_text(sheet(title, found)))
    asking.cost(found.prompt_tokens, found.new_tokens, price)
