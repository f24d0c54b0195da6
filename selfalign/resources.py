"""Where configs, principles and the embedded model lie: in a checkout, in an installed wheel, in the user's own
folders.

A resource is looked for in each root in turn: the current folder, the user's folder (`SELFALIGN_HOME`, else
`~/.config/selfalign`), and what selfalign ships. All roots have the same shape: conf/, experiments/, sweeps/,
principles/.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from selfalign.errors import ConfigError, DataError, unknown

GROUP_FOLDERS = ("conf", "experiments", "sweeps", "principles")
PACKAGE = Path(__file__).resolve().parent
YAML_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader in C, five times faster, where PyYAML was built with it."""


def shipped_root() -> Path:
    """The root that selfalign ships: the checkout it runs from, or the copy inside the wheel."""
    checkout = PACKAGE.parent
    # An editable install may leave an old copy of the wheel's folder behind, so the checkout comes first.
    if (checkout / "pyproject.toml").is_file() and (checkout / "conf" / "config.yaml").is_file():
        return checkout
    return PACKAGE / "_bundled"


def user_root() -> Path:
    """The user's own root: `SELFALIGN_HOME`, else `~/.config/selfalign`. It need not exist."""
    return Path(os.environ.get("SELFALIGN_HOME") or Path.home() / ".config" / "selfalign")


def data_folder() -> str:
    """The folder of the real evaluation sets: `SELFALIGN_DATA`, else `data/` in the user's root where it exists, else empty."""
    own = user_root() / "data"
    return os.environ.get("SELFALIGN_DATA") or (str(own) if own.is_dir() else "")


def roots() -> list[Path]:
    """Every root that exists, the nearest first, none twice."""
    candidates = (Path.cwd(), user_root(), shipped_root())
    return list(_existing(tuple((root, _state(root)) for root in candidates)))


def _state(folder: Path) -> tuple[int, ...]:
    """Changes whenever something is added to a folder or taken from it; empty where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_nlink, found.st_mtime_ns


@lru_cache(maxsize=16)
def _existing(candidates: tuple[tuple[Path, tuple[int, ...]], ...]) -> tuple[Path, ...]:
    """The roots among some folders in one state of theirs: every file is looked for in all of them."""
    found = [root.resolve() for root, _ in candidates if any((root / name).is_dir() for name in GROUP_FOLDERS)]
    return tuple(dict.fromkeys(found))


def find(relative: str) -> Path:
    """The first root's file or folder of this relative name.

    Raises ConfigError naming the nearest existing name beside it and every place that was looked at.
    """
    for root in roots():
        if (root / relative).exists():
            return root / relative
    parent = str(Path(relative).parent)
    beside = {path.name for root in roots() for path in (root / parent).glob("*")}
    places = ", ".join(str(root) for root in roots())
    raise ConfigError([f"{unknown(f'file in {parent}/', Path(relative).name, beside)}; looked in {places}"])


def names(relative: str, suffix: str) -> list[str]:
    """Names (without suffix) of the files with this suffix directly in a folder, over all roots."""
    return sorted({path.name.removesuffix(suffix) for root in roots() for path in (root / relative).glob(f"*{suffix}")})


def read_yaml(path: Path) -> Any:
    """A YAML file as plain values. Raises DataError where it is not YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER)
    except yaml.YAMLError as error:
        raise DataError(f"{path}: expected YAML, found a mistake: {' '.join(str(error).split())}; correct it") from None
