"""`chat`, `export`, `serve-command`: what is done with the models of a run."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from selfalign.commands.arguments import new_parser, positive_number, whole_number
from selfalign.runner import resolve_run


def chat(arguments: list[str]) -> int:
    """A talk with the models of a run: base, engraved, cloned."""
    parser = new_parser("chat", "Talk to a run's models in the terminal; /help there lists the orders.")
    parser.add_argument("run", help="run folder, or its name in runs/")
    parser.add_argument(
        "--stage", default="", help="base, engraved, cloned, or all of them (default: the last that the run has)"
    )
    parser.add_argument(
        "--temperature", type=_temperature, default=0.7, help="0 takes the likeliest token (default: %(default)s)"
    )
    parser.add_argument(
        "--max-new-tokens", type=positive_number, default=256, help="of one answer (default: %(default)s)"
    )
    parser.add_argument("--seed", type=whole_number, default=0, help="of what is drawn (default: %(default)s)")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    from selfalign import chat as chats
    from selfalign.report import load_run

    run = load_run(resolve_run(given.run, Path(given.runs)))
    speakers = chats.Speakers(run)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        print(f"{', '.join(speakers.names)} of {run.run_id}; /help lists the orders, Ctrl-D ends", file=sys.stderr)
    chats.talk(
        run,
        speakers,
        _typed() if is_terminal else iter(sys.stdin),
        lambda text: print(text, end="", flush=True),
        stage=given.stage,
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        seed=given.seed,
    )
    return 0


def _temperature(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {text}")
    return value


def _typed() -> Iterator[str]:
    """Lines from the terminal, with history and line editing where Python has them, until Ctrl-D."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - `input` uses it once it is there
    while True:
        try:
            yield input("> ")
        except KeyboardInterrupt:
            # As in a shell: what was typed is thrown away, the talk goes on.
            print()
        except EOFError:
            print()
            return


def export(arguments: list[str]) -> int:
    """A run's adapter or merged model as a folder that other programs load."""
    parser = new_parser(
        "export", "Write a run's adapter, or its merged model, as a folder for peft, transformers and vLLM."
    )
    parser.add_argument("run", help="run folder, or its name in runs/")
    parser.add_argument("--node", default="", help="engraved or cloned (default: the last that the run has)")
    parser.add_argument("--merged", action="store_true", help="the base model with the adapter merged into its weights")
    parser.add_argument("--to", default="", metavar="DIR", help="folder to write (default: RUN/export/<node>)")
    parser.add_argument(
        "--tolerance", type=float, default=0.01, metavar="SHARE",
        help="share of positions at which merging may change the likeliest token (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write a merged model beyond the tolerance too")
    parser.add_argument(
        "--push", default="", metavar="OWNER/NAME", help="also upload it to the Hugging Face hub, as private"
    )
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    from selfalign import export as exports

    run = resolve_run(given.run, Path(given.runs))
    done = exports.export(
        run,
        Path(given.to) if given.to else None,
        node=given.node,
        merged=given.merged,
        force=given.force,
        tolerance=given.tolerance,
    )
    if done.parity:
        print(
            f"{done.node}: merged and loaded again, a logit differs by at most {done.parity.max_difference:.3g}, the likeliest "
            f"token in {done.parity.flips:,} of {done.parity.positions:,} positions"
        )
    print(done.folder)
    if given.push:
        print(exports.push(done.folder, given.push))
    return 0


def serve_command(arguments: list[str]) -> int:
    """The command by which vLLM serves a run's base model, and its adapters under names that hold their digests."""
    parser = new_parser(
        "serve-command",
        "Print the vLLM command that serves a run's base model and its adapters (engraved, cloned), for engine=openai_api.",
    )
    parser.add_argument("run", help="run folder, or its name in runs/")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    from selfalign import export as exports
    from selfalign.engines import serving
    from selfalign.report import load_run

    run = load_run(resolve_run(given.run, Path(given.runs)))
    model = exports.model_of(run)
    served = (run.config.get("engine") or {}).get("served_model") or serving.default_name(model)
    # In the order of the stages.
    adapters = list(reversed(exports.adapters_of(run).values()))
    print(shlex.join(serving.serve_command(model, served, adapters)))
    return 0
