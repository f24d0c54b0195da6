"""The real evaluation sets into the user's data folder: by URL or from a local copy, every file against its checksum.

A file stands under its name complete and checked, or not at all. `sources.yaml` names the files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign import identity, resources
from selfalign.errors import ConfigError, DataError, unknown

SOURCES = Path(__file__).with_name("sources.yaml")
TIMEOUT_S = 60.0
"""Seconds without a byte after which a download counts as failed."""


@dataclass(frozen=True)
class Source:
    """One published file."""

    group: str
    """The evaluation set that it belongs to."""
    path: str
    """Where it lies below the data folder."""
    url: str
    digest: str
    """sha256 (64 hex digits), as `measure` takes it."""
    measure: Callable[[Path], str]
    """How the checksum is taken: of the file's bytes, or of the examples in it."""

    def state(self, folder: Path) -> str:
        """`there`, `absent`, or `other` for a file with another checksum."""
        path = folder / self.path
        if not path.is_file():
            return "absent"
        return "there" if self.measure(path) == self.digest else "other"


def examples_digest(path: Path) -> str:
    """sha256 of what a BIG-bench `task.json` asks: its inputs, candidates and labels, runs of white space as one space.

    A file that is no such thing gets the digest of its bytes, which equals none of those.
    """
    try:
        examples = json.loads(path.read_text(encoding="utf-8"))["examples"]
        asked = [
            [_squeezed(one["input"]), [[_squeezed(text), label] for text, label in one["target_scores"].items()]]
            for one in examples
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return identity.file_digest(path)
    return identity.digest(asked)


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def sources(path: Path = SOURCES) -> list[Source]:
    """Every published file, in the order of `sources.yaml`."""
    content: dict[str, Any] = resources.read_yaml(path)
    found = []
    for group, about in content.items():
        for file in about["files"]:
            whole = "sha256" in file
            measure = identity.file_digest if whole else examples_digest
            digest = file["sha256"] if whole else file["examples"]
            found.append(Source(group, file["path"], about["url"] + file["from"], digest, measure))
    return found


def chosen(groups: Sequence[str], known: Sequence[Source]) -> list[Source]:
    """The files of some evaluation sets; all where none is named. Raises ConfigError for a set that is not there."""
    names = {source.group for source in known}
    if wrong := [unknown("evaluation set", group, names) for group in groups if group not in names]:
        raise ConfigError(wrong)
    return [source for source in known if not groups or source.group in groups]


def fetch(wanted: Sequence[Source], folder: Path, local: Path | None = None) -> list[tuple[Source, bool]]:
    """Bring the files that are not in the folder yet, from their URLs or from a local folder of the same shape.

    Returns each file with whether it was brought now. A file that cannot be had, or whose checksum is not the published one, does
    not keep the others from coming. Raises DataError with all of those, each with both checksums, and where there is
    no such local folder.
    """
    if local is not None and not local.is_dir():
        sets = ", ".join(dict.fromkeys(source.group for source in wanted))
        raise DataError(
            f"--from: expected a folder with {sets} in it, as a data folder has them, found none at '{local}'; check the path, or "
            "leave --from out to download"
        )
    done: list[tuple[Source, bool]] = []
    problems: list[str] = []
    for source in wanted:
        missing = source.state(folder) != "there"
        if missing and (problem := _bring(source, folder, local)):
            problems.append(problem)
        else:
            done.append((source, missing))
    if problems:
        raise DataError(
            "\n  ".join(
                [f"expected {len(wanted)} files with their published checksums, found {len(done)}:", *problems]
                + [
                    "give a folder with the published files (--from DIR), or score files of your own as they are with "
                    "evaluation.data=DIR"
                ]
            )
        )
    return done


def _bring(source: Source, folder: Path, local: Path | None) -> str:
    """Put one file into the folder; what is wrong where that is not possible, else empty."""
    path = folder / source.path
    if local is not None and not (local / source.path).is_file():
        return f"{source.path}: not in {local}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Under a name of its own until it is whole and checked: what a kill leaves behind is never taken for the file.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if local is not None:
            shutil.copyfile(local / source.path, part)
        elif problem := _download(source.url, part):
            return f"{source.path}: {problem}"
        found = source.measure(part)
        if found != source.digest:
            where = local / source.path if local is not None else source.url
            return f"{source.path}: expected the checksum {source.digest}, found {found} at {where}; it was not taken"
        os.replace(part, path)
        return ""
    finally:
        part.unlink(missing_ok=True)


def _download(url: str, to: Path) -> str:
    """Write what a URL holds to a file; what went wrong, or empty."""
    import httpx

    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=TIMEOUT_S) as answer, open(to, "wb") as stream:
            answer.raise_for_status()
            for piece in answer.iter_bytes():
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
    except httpx.HTTPStatusError as error:
        return f"{url} answered {error.response.status_code}"
    except httpx.HTTPError as error:
        return f"{url} could not be read ({type(error).__name__}: {error})"
    return ""
