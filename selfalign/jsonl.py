"""JSON lines and JSON: append durably, read back after a crash, write a whole file at once.

A process that dies while it appends leaves a torn last line. `read` refuses it (a published file has none);
`recover` cuts it off and returns the rows before it, so that a stage goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from selfalign.errors import DataError

Row = dict[str, Any]


def dumps(row: Mapping[str, Any]) -> str:
    """One row as one line of canonical JSON: keys in the order given, UTF-8 kept, no line separator inside.

    Raises ValueError for NaN or infinity: neither is JSON, and a score that is not a number must say why in words.
    """
    text = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))
    # U+2028 and U+2029 are legal in JSON but end a line for str.splitlines and for some viewers.
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")


def iterate(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file, in order; blank lines are passed over.

    Raises DataError with file and line number for a line that is not a JSON object.
    """
    if not path.is_file():
        raise DataError(f"{path}: expected a JSONL file, found nothing there; check the path")
    with open(path, encoding="utf-8-sig", newline="\n") as stream:
        number = 0
        try:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{path}:{number}: expected one JSON object, found {line.strip()[:60]!r} ({error.msg}); "
                        "repair or delete that line"
                    ) from None
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
                yield row
        except UnicodeDecodeError as error:
            raise DataError(f"{path}:{number + 1}: expected UTF-8 text, found other bytes ({error.reason})") from None


def read(path: Path) -> list[Row]:
    """All rows of a JSONL file. Raises DataError as `iterate` does."""
    return list(iterate(path))


def recover(path: Path) -> list[Row]:
    """The rows of a file that a killed process may have been appending to; cuts a torn last line off the file.

    A missing file has no rows. Raises DataError for a bad line that is not the last one.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end != len(data):
        with open(path, "r+b") as stream:
            stream.truncate(end)
    return read(path)


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows at the end of a file in one write, and wait until they are on the disk."""
    data = "".join(dumps(row) + "\n" for row in rows).encode()
    with open(path, "ab") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a whole file: complete under its name or not there at all. Returns the number of rows."""
    temporary = path.with_name(path.name + ".tmp")
    count = 0
    with open(temporary, "w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(dumps(row) + "\n")
            count += 1
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    return count


def write_json(path: Path, value: Any) -> None:
    """Write one value as readable JSON: complete under its name or not there at all."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
