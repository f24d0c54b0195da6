"""The errors that selfalign raises on purpose, each with the exit code that the command line returns for it.

A message has four parts: what was expected, what was found, what is allowed, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SelfAlignError(Exception):
    """Base of every error that selfalign raises on purpose; shown without a traceback, exit code 1."""

    exit_code = 1


class ConfigError(SelfAlignError):
    """One or more problems in the configuration, all found before any model is loaded; exit code 2."""

    exit_code = 2

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """The problems, not the text made of them: an error may come from another process."""
        return type(self), (self.problems,)


class DataError(SelfAlignError):
    """A file that cannot be read as what it should be; names the file and, where there is one, the line."""


class StageError(SelfAlignError):
    """A stage that cannot do its work with the rows it was given (no rows, no trainable token, ...)."""


class MissingDependencyError(SelfAlignError):
    """An optional package that is not installed; the message holds the command that installs it."""

    exit_code = 2


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest of `allowed`, or an empty string where none is near."""
    near = difflib.get_close_matches(found, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def unknown(kind: str, found: str, allowed: Iterable[str]) -> str:
    """The message for a name that is not among `allowed`: what was found, the nearest, and the whole list."""
    names = sorted(allowed)
    return f"unknown {kind} '{found}'{did_you_mean(found, names)} (allowed: {', '.join(names)})"
