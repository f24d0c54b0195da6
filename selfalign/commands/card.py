"""`calf`: the embedded model, measured, and an ablation on it whose truth is known."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path

from selfalign.commands.arguments import new_parser, positive_number
from selfalign.runner import resolve_runs

CALF = {"card": "docs/calf.md", "ablation": "docs/ablation_on_calf.md"}
"""What `selfalign calf` can do -> the page that it writes."""


def calf(arguments: list[str]) -> int:
    """Calf's card: base, prompts, ablations and the quickstart's students measured, docs/calf.md written. `ablation`: a
    leave-one-out sweep on Calf held against what was planted, docs/ablation_on_calf.md written."""
    parser = new_parser("calf", "Measure the embedded model where the truth is known, and write a page of results.")
    parser.add_argument(
        "what",
        choices=CALF,
        help="card: held-out questions of its world, base, prompted and trained; ablation: the runs of a leave-one-out sweep",
    )
    parser.add_argument("runs", nargs="*", metavar="DIR", help="ablation: the sweep, or its runs")
    parser.add_argument(
        "--cloned",
        nargs="*",
        default=[],
        metavar="DIR",
        help="ablation: further sweeps of the same, with verbose cloning",
    )
    parser.add_argument(
        "--out",
        type=_page,
        help="page to write; its figures go into the folder of its name beside it "
        f"(default: {', '.join(f'{page} for {what}' for what, page in CALF.items())})",
    )
    parser.add_argument(
        "--questions",
        type=positive_number,
        default=40,
        help="card: held-out questions of each kind (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=positive_number, default=5, help="card: runs of the quickstart (default: %(default)s)"
    )
    parser.add_argument(
        "--work",
        default=".",
        metavar="DIR",
        help="card: folder of store/ and runs/, where answers are kept (default: this one)",
    )
    parser.add_argument(
        "--skip-runs", action="store_true", help="card: leave out the quickstart, and so stages 3 and 4"
    )
    parser.add_argument(
        "--model", default="calf", metavar="DIR", help="card: weights to measure (default: those in the package)"
    )
    given = parser.parse_args(arguments)
    if (given.what == "ablation") != bool(given.runs):
        parser.error(
            "ablation: expected the folder of a sweep, found none; give the one that `selfalign run` named"
            if given.what == "ablation"
            else f"card: expected no folder, found {' '.join(given.runs)}; leave it out"
        )
    out = Path(given.out or CALF[given.what])
    _ablation(given.runs, given.cloned, out) if given.what == "ablation" else _card(given, out)
    print(out)
    return 0


def _ablation(names: list[str], cloned: list[str], out: Path) -> None:
    from selfalign.report import Run, load_runs, truth, truth_page

    def runs(several: list[str]) -> list[Run]:
        return load_runs([folder for name in several for folder in resolve_runs(name, Path("runs"))])

    further = ["--cloned", *(Path(name).name for name in cloned)] if cloned else []
    command = shlex.join(["selfalign", "calf", "ablation", *(Path(name).name for name in names), *further])
    found = truth.numbers(runs(names), command=command, cloned=[runs([name]) for name in cloned])
    truth_page.write(found, out)


def _card(given: argparse.Namespace, out: Path) -> None:
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
    calf_card.write(numbers, out)


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
