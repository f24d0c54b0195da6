"""`calf`: the embedded model, measured."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from selfalign.commands.arguments import new_parser, positive_number

CALF = ("card",)
"""What `selfalign calf` can do."""


def calf(arguments: list[str]) -> int:
    """Calf's card: base, prompts, ablations and the quickstart's students measured, docs/calf.md written."""
    parser = new_parser(
        "calf", "Measure the embedded model on held-out questions of its world and write the page of results."
    )
    parser.add_argument("what", choices=CALF, help="card: the measured page")
    parser.add_argument(
        "--out",
        type=_page,
        default="docs/calf.md",
        help="page to write; its figures go into the folder of its name beside it (default: %(default)s)",
    )
    parser.add_argument(
        "--questions", type=positive_number, default=40, help="held-out questions of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=positive_number, default=5, help="runs of the quickstart (default: %(default)s)"
    )
    parser.add_argument(
        "--work",
        default=".",
        metavar="DIR",
        help="folder of store/ and runs/, where answers are kept (default: this one)",
    )
    parser.add_argument("--skip-runs", action="store_true", help="leave out the quickstart, and so stages 3 and 4")
    parser.add_argument(
        "--model", default="calf", metavar="DIR", help="weights to measure (default: those in the package)"
    )
    given = parser.parse_args(arguments)
    from selfalign import card, groups
    from selfalign.report import calf_card

    groups.register()
    # In quotes, a path may hold what Hydra would read as syntax.
    path = given.model.replace("\\", "\\\\").replace("'", "\\'")
    shared = ["experiments=quickstart", f"model.path='{path}'", "tracking=none"]
    jobs = [[*shared, f"seed={seed}"] for seed in range(1 if given.skip_runs else given.seeds)]
    work = {name: str(Path(given.work) / name) for name in ("store", "runs")}
    runs = [replace(one, **work) for one in groups.checked(jobs)]
    numbers = card.numbers(runs, questions=given.questions, with_runs=not given.skip_runs, command=_card_command(given))
    calf_card.write(numbers, Path(given.out))
    print(given.out)
    return 0


def _card_command(given: argparse.Namespace) -> str:
    """The command that measures the same again, whatever folders it worked in."""
    words = ["selfalign", "calf", "card", "--questions", str(given.questions)]
    words += ["--skip-runs"] if given.skip_runs else ["--seeds", str(given.seeds)]
    return shlex.join([*words, *(["--model", Path(given.model).name] if given.model != "calf" else [])])


def _page(text: str) -> str:
    # Found before an hour is spent on measuring.
    if Path(text).suffix != ".md" or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a file that ends in .md, such as docs/calf.md, found '{text}'")
    return text
