"""What a tracker wrote, read back from the log of an offline W&B run."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file (LevelDB log format); stops at a torn tail."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    magic, number, _ = struct.unpack("<4sHB", data[:7])
    assert (magic, number) == (b":W&B", 0xBEE1)
    at, buffer = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        checksum, size, kind = struct.unpack("<IHB", data[at : at + 7])
        chunk = data[at + 7 : at + 7 + size]
        if len(chunk) < size:
            return
        assert zlib.crc32(chunk, zlib.crc32(bytes([kind]))) == checksum
        at, buffer = at + 7 + size, buffer + chunk
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(buffer)
            buffer = b""
            yield record


def logged(folder: Path, end: str = "") -> dict[str, list[Any]]:
    """The records of the one offline run below a folder whose id ends so, by kind.

    wandb may still be writing when `finish` returns.
    """
    (path,) = folder.glob(f"wandb/offline-run-*{end}/*.wandb")
    found: dict[str, list[Any]] = {}
    deadline = time.monotonic() + 10
    while "exit" not in found and time.monotonic() < deadline:
        found = {}
        for record in records(path):
            kind = record.WhichOneof("record_type")
            found.setdefault(kind, []).append(getattr(record, kind))
        time.sleep(0 if "exit" in found else 0.02)
    return found


def history(found: dict[str, list[Any]]) -> list[dict[str, Any]]:
    rows = []
    for entry in found.get("history", []):
        rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in entry.item})
    return rows


def summary(found: dict[str, list[Any]]) -> dict[str, Any]:
    values = {}
    for entry in found.get("summary", []):
        values |= {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in entry.update}
    return values
