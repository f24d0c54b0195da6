"""What a result is called: content hashes of settings, inputs and files.

The hash of a stage covers its resolved settings (defaults included), the ids of its inputs and the content of
every file it reads. Fields marked `transient` change speed but not results, and stay out.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ID_LENGTH = 12
"""Hexadecimal digits of a record or artifact id: 48 bits, so a million records collide with probability 0.002."""


def transient(default: Any, **more: Any) -> Any:
    """A dataclass field that changes speed or place, never results: it stays out of every identity."""
    return dataclasses.field(default=default, metadata={"transient": True}, **more)


def canonical(value: Any) -> str:
    """The one JSON text of a plain value: keys sorted, no spaces. Raises TypeError for anything that is not plain."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 (64 hex digits) of the canonical JSON of a plain value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


BASE_PREFIX = "base-"
"""What adapters that this project trained call their base begins with; the digest of its content follows."""


def base_name(model_digest: str) -> str:
    """What an adapter says about the base that it was trained on: content, not a place."""
    return f"{BASE_PREFIX}{model_digest[:ID_LENGTH]}"


def short_id(*parts: Any) -> str:
    """A record id: the first 12 hex digits of the digest of its parts."""
    return digest(list(parts))[:ID_LENGTH]


def file_digest(path: Path) -> str:
    """sha256 (64 hex digits) of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path, patterns: tuple[str, ...] = ("*",)) -> str:
    """sha256 over the relative names and contents of the files below a folder that match a pattern; hidden files are
    left out."""
    files = {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and any(path.match(pattern) for pattern in patterns)
    }
    return digest(files)


def plain(value: Any, *, keep_transient: bool = False) -> Any:
    """Settings as plain JSON values: dataclasses become dicts (without their transient fields), tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name), keep_transient=keep_transient)
            for field in dataclasses.fields(value)
            if keep_transient or not field.metadata.get("transient")
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, keep_transient=keep_transient) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, keep_transient=keep_transient) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"expected a plain setting (str, int, float, bool, None, list, dict, dataclass), found {value!r}")


def differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted keys in which two plain values differ, each with the old and the new value (None where absent)."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: list[tuple[str, Any, Any]] = []
        for key in sorted({*old, *new}):
            found += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        return found
    return [] if old == new else [(prefix, old, new)]


def seed_of(*parts: Any) -> int:
    """A seed of 63 bits for a record's own random generator: a pure function of its parts, the same on every
    machine."""
    return int(digest(list(parts))[:16], 16) >> 1
