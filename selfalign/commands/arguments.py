"""What the commands have in common: parsers, types of arguments, the settings of a command line, the nodes of a run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfalign.artifacts import MANIFEST
from selfalign.errors import SelfAlignError, unknown
from selfalign.experiment import Experiment


def new_parser(name: str, description: str) -> argparse.ArgumentParser:
    """A parser of the arguments behind a command's name."""
    return argparse.ArgumentParser(prog=f"selfalign {name}", description=description)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Let a parser take settings."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for `selfalign run`")


def composed(overrides: Sequence[str]) -> Experiment:
    """The experiment of some overrides. Raises ConfigError with every one that is wrong."""
    from selfalign import groups

    groups.register()
    return groups.compose(overrides)


def whole_number(text: str) -> int:
    """A number, 0 or more, from the command line."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, found '{text}'")
    return number


def positive_number(text: str) -> int:
    """A number, 1 or more, from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more, found '{text}'")
    return int(text)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run or an artifact."""
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def nodes_of(folder: Path, chosen: str | None) -> dict[str, dict[str, Any]]:
    """The nodes of a run, or the chosen one. Raises SelfAlignError naming the nearest there is."""
    nodes = read_manifest(folder)["nodes"]
    if chosen is not None and chosen not in nodes:
        raise SelfAlignError(f"{folder}: {unknown('stage', chosen, nodes)}")
    return nodes if chosen is None else {chosen: nodes[chosen]}
