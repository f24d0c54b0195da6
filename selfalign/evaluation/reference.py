"""Published results as data: `reference_scores.yaml` in, tables out. Reported, not re-run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign import resources
from selfalign.errors import DataError

SCORES = Path(__file__).with_name("reference_scores.yaml")
REPORTED = "reported, not re-run"
"""What stands beside every published number."""


@dataclass(frozen=True)
class Row:
    """What one source prints of one model."""

    model: str
    values: tuple[float | None, ...]
    """In the order of the table's metrics; None where the source has none."""
    source: str


@dataclass(frozen=True)
class Table:
    """Published scores of one task and protocol."""

    task: str
    protocol: str
    metrics: tuple[str, ...]
    about: str
    """How the numbers were made, and what they can be compared with."""
    rows: tuple[Row, ...]


def tables(path: Path = SCORES) -> list[Table]:
    """Every published table, in the order of the file. Raises DataError for a row without one value for each metric."""
    return [_table(path, content) for content in resources.read_yaml(path)]


def _table(path: Path, content: dict[str, Any]) -> Table:
    metrics = tuple(content["metrics"])
    rows = [Row(row["model"], tuple(row["values"]), row.get("from", content["source"])) for row in content["rows"]]
    for row in rows:
        if len(row.values) != len(metrics):
            raise DataError(
                f"{path}: expected {len(metrics)} values for {row.model} of {content['task']} ({', '.join(metrics)}), found "
                f"{len(row.values)}; write null where the source has none"
            )
    return Table(content["task"], content["protocol"], metrics, content["about"], tuple(rows))
