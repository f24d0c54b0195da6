"""What an experiment or a sweep claims: the header of its YAML file in, claim, expectation and tests out.

A header is the comment at the top of a file in `experiments/` or `sweeps/`. Its lines `# Claim:` (or `# Question:`), `# Expected:`
and any number of `# Test:` are read, each with the unlabelled lines that go on with it:

    # Test: cloned < engraved on truthfulqa_mc, hhh_alignment/ab_swap
    # Test: cloned = engraved on adherence within 0.05

A run writes down the claims that it was begun under, so that a report holds it to what was claimed before there were results.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from selfalign import resources
from selfalign.errors import ConfigError

GROUPS = ("experiments", "sweeps")
SIDES = ("base", "prompted", "engraved", "cloned", "arm", "control")
"""What a test can compare: two models of the same run, or the arms of a sweep with their control."""
_LABEL = re.compile(r"^(Claim|Question|Expected|Test|Run|Sources|Source|Not the same):\s*(.*)$")
LESS, GREATER, EQUAL = "<", ">", "="
_TEST = re.compile(r"^(\w+) ([<>=]) (\w+) on (.+?)(?: within (0?\.\d+))?$")


@dataclass(frozen=True)
class Expectation:
    """A difference with a direction, or that there is none to speak of."""

    left: str
    relation: str
    """LESS, GREATER, or EQUAL to within the margin."""
    right: str
    places: tuple[str, ...]
    """`task`, which means every protocol of it, or `task/protocol`."""
    margin: float = 0.0
    """Of EQUAL: the largest difference that does not matter, as a share (0..1); 0 for the others."""

    def __str__(self) -> str:
        """As it stands in the header, without the places."""
        within = f" within {self.margin:g}" if self.margin else ""
        return f"{self.left} {self.relation} {self.right}{within}"


@dataclass(frozen=True)
class Claim:
    """The header of one file."""

    file: str
    """Group and name, such as `experiments/quickstart`."""
    kind: str
    """`Claim` or `Question`."""
    text: str
    expected: str
    tests: tuple[Expectation, ...]


def of_overrides(overrides: Iterable[str]) -> list[dict[str, object]]:
    """The headers of the files that a command line names, as plain values: what a run or sweep writes down about itself.

    Raises ConfigError for a test that cannot be understood: a report could not hold the run to it.
    """
    found = []
    for override in overrides:
        group, _, names = override.partition("=")
        for name in re.findall(r"[\w.-]+", names) if group in GROUPS else ():
            try:
                text = resources.find(f"{group}/{name}.yaml").read_text(encoding="utf-8")
            except ConfigError:
                # A file that was there when the settings were composed and is gone since: there is nothing to hold the run to.
                continue
            found.append({"file": f"{group}/{name}", "header": header(text)})
            read(f"{group}/{name}", header(text))
    return [one for one in found if one["header"]]


def header(text: str) -> str:
    """The comment at the top of a file, without its signs; without the line that is Hydra's."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line[1:].removeprefix(" ").rstrip())
    return "\n".join(lines).strip()


def read(file: str, text: str) -> Claim | None:
    """A header as a claim; None where it makes none. Raises ConfigError for a test that cannot be understood."""
    parts: list[tuple[str, str]] = []
    is_open = False
    for line in text.splitlines():
        if label := _LABEL.match(line):
            parts.append((label[1], label[2].strip()))
            is_open = True
        elif not line.strip():
            is_open = False
        elif is_open:
            name, so_far = parts[-1]
            parts[-1] = (name, f"{so_far} {line.strip()}")
    first = next(((name, said) for name, said in parts if name in ("Claim", "Question")), None)
    if first is None:
        return None
    expected = " ".join(said for name, said in parts if name == "Expected")
    tests = tuple(_test(file, said) for name, said in parts if name == "Test")
    return Claim(file, *first, expected, tests)


def _test(file: str, said: str) -> Expectation:
    found = _TEST.match(said)
    if (
        found is None
        or not {found[1], found[3]} <= set(SIDES)
        or ("arm" in found.groups()) != ("control" in found.groups())
        or (found[2] == EQUAL) != bool(found[5])
    ):
        raise ConfigError(
            [
                f"{file}: expected a test as `left < right on task, task/protocol` or `left = right on task within 0.05`, found "
                f"'{said}'; allowed sides are two of {', '.join(SIDES[:4])}, or arm and control; repair the header"
            ]
        )
    places = tuple(place.strip() for place in found[4].split(","))
    return Expectation(found[1], found[2], found[3], places, float(found[5] or 0))


def claims(stored: Sequence[object]) -> list[Claim]:
    """What `of_overrides` wrote down, read; each claim once."""
    found = [read(str(one["file"]), str(one["header"])) for one in stored if isinstance(one, dict)]
    return list(dict.fromkeys(one for one in found if one is not None))
