"""What the parent tells its worker, as one JSON file: folders, settings, and the digest that names the job.

Two attempts belong together where their digests are equal; what only changes speed or place is no part of it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from selfalign import identity, jsonl
from selfalign.training.settings import TrainerSettings, Training

S = TypeVar("S")

VERSION = 2
"""Raise it when the same settings and rows lead to another adapter."""


@dataclass(frozen=True)
class Job:
    """One training run."""

    examples: Path
    """JSONL of Example records."""
    model_folder: Path
    """Transformers folder of the base model."""
    out: Path
    """Folder of the result, and of what a killed attempt left."""
    model_digest: str
    """Content digest of the base model."""
    examples_digest: str
    """sha256 of the examples file."""
    training: Training
    trainer: TrainerSettings
    initial_adapter: Path | None = None
    """Folder of the adapter to go on from; None starts afresh."""
    initial_digest: str = ""
    """Content digest of that folder."""

    @property
    def digest(self) -> str:
        """Names what will be computed: 64 hex digits."""
        settings = [identity.plain(self.training), identity.plain(self.trainer)]
        return identity.digest([VERSION, self.model_digest, self.examples_digest, self.initial_digest, *settings])

    @property
    def base_name(self) -> str:
        """What the adapter says about its base: content, not a place."""
        return identity.base_name(self.model_digest)

    def write(self, path: Path) -> None:
        """Write the job file: complete under its name or not there at all."""
        values = {
            field.name: identity.plain(getattr(self, field.name), keep_transient=True)
            for field in dataclasses.fields(self)
        }
        jsonl.write_json(path, {**values, "digest": self.digest})


def read(path: Path) -> Job:
    """The job of a job file."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values.pop("digest")
    for name in ("examples", "model_folder", "out", "initial_adapter"):
        values[name] = Path(values[name]) if values[name] else None
    values["training"] = from_plain(Training, values["training"])
    values["trainer"] = from_plain(TrainerSettings, values["trainer"])
    return Job(**values)


def from_plain(kind: type[S], values: dict[str, Any]) -> S:
    """Settings from their plain values: strings become enum members again."""
    hints = typing.get_type_hints(kind)
    enums = {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, enum.Enum)}
    return kind(**{name: enums[name](value) if name in enums else value for name, value in values.items()})


def digest_in(path: Path) -> str | None:
    """The digest that a job or result file names; None where there is no such file or it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return value.get("digest") if isinstance(value, dict) else None
