"""A written report beside the runs that it is about: what it says that their stored items do not give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from selfalign import __version__
from selfalign.errors import SelfAlignError
from selfalign.report import page as pages
from selfalign.report.html import render
from selfalign.report.model import MANIFEST, load_run

REPORT = "report.html"


def check(folder: Path) -> tuple[int, list[str]]:
    """How many cells of the `report.html` of a run or sweep were compared, and what is wrong with which.

    The page is computed anew from the stored items of the runs that it names, with the control that it was written with,
    and compared cell by cell: scores, effects, intervals, p-values, counts. What is not in a table is compared as text. A
    folder without a report has nothing to compare.
    """
    path = folder / REPORT
    if not path.is_file():
        return 0, []
    told = path.read_text(encoding="utf-8")
    about = pages.about(told)
    if about is None:
        return 0, [f"{REPORT}: it does not say which runs it is about; write it anew: selfalign report {folder}"]
    folders = {name: _run_folder(folder, name) for name in about.runs}
    if missing := _missing(folders):
        return 0, [f"{REPORT}: it is about {', '.join(missing)}, and no such run lies beside {folder}"]
    found = render([load_run(one) for one in folders.values()], control=about.control)
    wrong = pages.differences(told, found)
    other = f" (written by selfalign {about.version}; this is {__version__})" if about.version != __version__ else ""
    cells = sum(len(row) for table in pages.tables(found) for row in table.rows)
    return cells, [f"{REPORT}{other}: {line}" for line in wrong]


def runs_of(page: Path) -> list[Path]:
    """The folders of the runs that a written page is about. Raises SelfAlignError where it does not say, or one is not there."""
    about = pages.about(page.read_text(encoding="utf-8"))
    folders = {name: _run_folder(page.parent, name) for name in about.runs} if about else {}
    if not folders or _missing(folders):
        raise SelfAlignError(
            f"{page}: expected the report of runs that lie beside {page.parent}, found "
            f"{'no such run as ' + ', '.join(_missing(folders)) if folders else 'none named in it'}; write it anew: selfalign "
            f"report {page.parent}"
        )
    return list(folders.values())


def _run_folder(folder: Path, name: str) -> Path:
    """The folder of a run: the report's own, or one beside it."""
    return folder if folder.resolve().name == name else folder.resolve().parent / name


def _missing(folders: Mapping[str, Path]) -> list[str]:
    return [name for name, folder in folders.items() if not (folder / MANIFEST).is_file()]
