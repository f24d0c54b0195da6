"""The evaluation tasks that selfalign ships: a folder of lm-eval YAML files in, what each one reads and reports out.

The files are read here without lm-eval, so that settings can be checked before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from selfalign import identity, resources
from selfalign.errors import ConfigError, DataError

CALF = "calf"
"""The value of `data` that stands for the question sets inside the package."""


@dataclass(frozen=True)
class TaskFile:
    """One task as its YAML file states it."""

    name: str
    """What the task is called, in settings and for lm-eval."""
    path: Path
    """The YAML file."""
    version: int
    """Raised whenever the same model would score differently."""
    source: str
    """Paper and data file that the task follows."""
    format: str
    """How its data files are read: a name in `data.READERS`."""
    files: tuple[str, ...]
    """Data files below a data folder."""
    protocols: tuple[str, ...]
    """How its items are scored: names in `protocols.EXAMS`; empty where answers are generated."""
    further: tuple[str, ...]
    """Protocols that are scored only where the settings name them."""
    calf_name: str
    """What it is called in results where it scores Calf's own questions."""
    calf_files: tuple[str, ...]
    """Data files below the package's folder of Calf's questions."""
    sample: dict[str, Any]
    """One record in the format of the data file: an example for readers, and the input of the contract test."""

    def reported(self, data: str) -> str:
        """The name in results, for this choice of data."""
        return self.calf_name if data == CALF else self.name

    def scored(self, chosen: Sequence[str]) -> tuple[str, ...]:
        """The protocols that a choice of them means for this task, in the order of the file; its own where none is chosen."""
        if not chosen:
            return self.protocols
        return tuple(name for name in (*self.protocols, *self.further) if name in chosen)

    def paths(self, data: str) -> list[Path]:
        """The data files of this task, for this choice of data: `calf` or a folder."""
        return data_paths(data, self.files, self.calf_files)

    def identity(self, data: str) -> dict[str, Any]:
        """What the task's results depend on besides the model: name, definition and content of the data, no path."""
        return {
            "task": self.reported(data),
            "version": self.version,
            "definition": identity.file_digest(self.path),
            "data": [identity.file_digest(path) for path in self.paths(data)],
        }


IN_ANOTHER_FORMAT = {"truthfulqa/mc_task.json": "truthfulqa/TruthfulQA.csv"}
"""Data file -> the one with the same questions in another official format, which is read where the first is missing."""


def data_paths(data: str, files: Sequence[str], calf_files: Sequence[str]) -> list[Path]:
    """The files that a choice of data stands for: `calf`, or a folder of the user's."""
    if data == CALF:
        return [resources.PACKAGE / "calf" / "data" / name for name in calf_files]
    folder = Path(data).expanduser()

    def there(name: str) -> Path:
        other = IN_ANOTHER_FORMAT.get(name, name)
        return folder / (name if (folder / name).exists() or not (folder / other).exists() else other)

    return [there(name) for name in files]


class _Loader(resources.YAML_LOADER):
    """Safe YAML in which `!function name` is its name: nothing is imported."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]


def tasks_folder() -> Path:
    """The folder for `lm_eval --include_path`."""
    return Path(__file__).resolve().parent / "tasks"


def read_task(path: Path) -> TaskFile:
    """One task file. Raises DataError naming the file and the key that is missing."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        about = content["metadata"]
        return TaskFile(
            name=content["task"],
            path=path,
            version=about["version"],
            source=about["source"],
            format=about["format"],
            files=tuple(about["files"]),
            protocols=tuple(about["protocols"]),
            further=tuple(about["further"]),
            calf_name=about["calf"]["task"],
            calf_files=tuple(about["calf"]["files"]),
            sample=about["sample"],
        )
    except yaml.YAMLError as error:
        raise DataError(f"{path}: expected a YAML file, found {error}; repair it") from None
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected task and metadata with version, source, format, files, protocols, further, calf.task, "
            f"calf.files and sample, missing {error}; add it"
        ) from None


def catalogue() -> dict[str, TaskFile]:
    """Every task in the folder, by name. Raises ConfigError where two files define one name."""
    found: dict[str, TaskFile] = {}
    for path in sorted(tasks_folder().rglob("*.yaml")):
        task = read_task(path)
        if task.name in found:
            raise ConfigError(
                [f"expected one file for each task, found '{task.name}' in {found[task.name].path} and {path}; rename"]
            )
        found[task.name] = task
    return found


def available_tasks() -> list[str]:
    """Names of the tasks in the folder, sorted."""
    return sorted(catalogue())
