"""`why`, `report`, `verify`, `sync`: what is done with runs that are there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from selfalign import jsonl
from selfalign.artifacts import MANIFEST, Store
from selfalign.commands.arguments import new_parser, nodes_of, read_manifest
from selfalign.identity import differences
from selfalign.runner import resolve_run, resolve_runs, resolve_sweep


def why(arguments: list[str]) -> int:
    """For each node of a run: computed or reused, and how it differs from the nearest other result of its stage."""
    parser = new_parser(
        "why", "Why a stage ran or was reused: the setting or text that differs from the nearest other result."
    )
    parser.add_argument("run", help="run folder, or its name in runs/")
    parser.add_argument("stage", nargs="?", help="node of the pipeline; all without it")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    folder = resolve_run(given.run, Path(given.runs))
    for name, entry in nodes_of(folder, given.stage).items():
        print(f"{name}: {entry['status']}  {entry['artifact']}  {entry['why']}".rstrip())
        own = Path(entry["path"] or ".")
        if not entry["path"] or not (own / MANIFEST).is_file():
            continue
        nearest = _nearest(own)
        if nearest is None:
            print(f"  no other result of {entry['stage']} in {own.parent}")
            continue
        other, changes = nearest
        print(f"  nearest other result: {other.name}")
        for key, old, new in changes:
            print(f"    {key}: {_brief(old)} -> {_brief(new)}")
    return 0


def _nearest(own: Path) -> tuple[Path, list[tuple[str, Any, Any]]] | None:
    """The other artifact of the same stage that differs in the fewest keys, and those keys."""
    keys = ("version", "identity", "inputs")
    mine = {key: value for key, value in read_manifest(own).items() if key in keys}
    found = []
    for path in own.parent.glob(f"{own.name.split('-')[0]}-*"):
        if path != own and (path / MANIFEST).is_file():
            theirs = {key: value for key, value in read_manifest(path).items() if key in keys}
            found.append((path, differences(theirs, mine)))
    return min(found, key=lambda item: (len(item[1]), item[0].name), default=None)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def report(arguments: list[str]) -> int:
    """The comparison of one run or several: a table in the terminal, one HTML file."""
    parser = new_parser("report", "Compare runs: terminal table and one self-contained HTML file.")
    parser.add_argument("run", nargs="+", help="folders of runs or sweeps, or their names in runs/")
    parser.add_argument(
        "--out",
        default="",
        help="HTML file to write (default: report.html in the folder of the sweep, or of the first run)",
    )
    parser.add_argument("--control", default="", metavar="RUN",
                        help="run that the others are compared with (default: the first that leaves out no principle)")  # fmt: skip
    parser.add_argument(
        "--export", default="", metavar="DIR", help="also write every table as CSV, LaTeX and Markdown into a folder"
    )
    parser.add_argument("--publish", action="store_true",
                        help="also send it to W&B as a report, or bring the one that was sent up to date")  # fmt: skip
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    from selfalign import report as reports

    folders = [folder for name in given.run for folder in resolve_runs(name, Path(given.runs))]
    first = (resolve_sweep(given.run[0], Path(given.runs)) or folders)[0]
    out = Path(given.out) if given.out else first / "report.html"
    control = resolve_run(given.control, Path(given.runs)).resolve().name if given.control else ""
    reports.print_scores(folders, control=control)
    reports.write(folders, out, control=control)
    print(f"report: {out}", file=sys.stderr)
    if given.export:
        written = reports.export_tables(folders, Path(given.export), control=control)
        print(f"tables: {len(written)} files in {given.export}", file=sys.stderr)
    if given.publish:
        print(reports.publish(folders, out), file=sys.stderr)
    return 0


def verify(arguments: list[str]) -> int:
    """Every number of a run or sweep, its report included, computed anew from stored items; every file against its checksum."""
    parser = new_parser(
        "verify",
        "Compute every number of some runs, sweeps and their reports anew from stored items; exit 1 on any mismatch.",
    )
    parser.add_argument("run", nargs="+", help="folders of runs or sweeps, or their names in runs/")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    from selfalign.report.check import check

    wrong = 0
    runs = Path(given.runs)
    folders = dict.fromkeys(
        folder for name in given.run for folder in (*resolve_runs(name, runs), *resolve_sweep(name, runs))
    )
    for folder in folders:
        checked, found = _verify_run(folder) if (folder / MANIFEST).is_file() else (0, [])
        cells, differ = check(folder)
        found += differ
        wrong += len(found)
        for line in found:
            print(f"{folder}: {line}")
        print(f"{folder}: {checked} scores and files, {cells:,} cells of its report checked, {len(found)} wrong")
    return 1 if wrong else 0


def _verify_run(folder: Path) -> tuple[int, list[str]]:
    """How many scores and files of a run were checked, and what is wrong with which."""
    from selfalign.evaluation.harness import rescore
    from selfalign.records import to_row

    checked, found, derived = 0, [], []
    for name, entry in nodes_of(folder, None).items():
        if entry["status"] not in ("computed", "reused"):
            continue
        path = Path(entry["path"])
        if not (path / MANIFEST).is_file():
            found.append(f"{name}: its artifact is gone from {path}")
            continue
        files = read_manifest(path)["files"]
        checked += len(files)
        if damage := Store.damage(path, files):
            found.append(f"{name}: {damage} ({path})")
        found += [f"{name}: {text}" for text in _underived(path, entry)]
        if name.startswith("scores_"):
            derived += [to_row(score) for score in rescore(path, name.removeprefix("scores_"))]
    stated = jsonl.read(folder / "scores.jsonl")
    checked += len(derived)

    def key(row: jsonl.Row) -> tuple[str, ...]:
        return (row["subject"], row["task"], row["protocol"], row["metric"])

    by_key = {key(row): row for row in stated}
    for row in derived:
        label = "/".join(key(row))
        old = by_key.pop(key(row), None)
        if old is None:
            found.append(f"{label}: its items give {row['value']}, and scores.jsonl does not have it")
        elif old != row:
            changed = ", ".join(f"{k} {old.get(k)} instead of {row[k]}" for k in row if old.get(k) != row[k])
            found.append(f"{label}: scores.jsonl says {changed}")
    found += [f"{'/'.join(left)}: in scores.jsonl, but no stored item stands behind it" for left in by_key]
    return checked, found


def _underived(path: Path, entry: jsonl.Row) -> list[str]:
    """Numbers of a node that its rows do not give: of the engraving gap, of verdicts, and marks of Calf's answers."""
    from selfalign.calf import oracle
    from selfalign.evaluation import gap, rubric
    from selfalign.evaluation.scores import ORACLE, adherence_rows

    found = []
    for file, derive in (("gaps.jsonl", gap.metrics), ("verdicts.jsonl", rubric.metrics)):
        if (path / file).is_file():
            given, stated = derive(jsonl.read(path / file)), dict(entry["metrics"])
            found += [
                f"{key}: the manifest says {stated.get(key)}, its rows give {given.get(key)}"
                for key in sorted({*given, *stated})
                if given.get(key) != stated.get(key)
            ]
    items = jsonl.read(path / "items.jsonl") if (path / "items.jsonl").is_file() else []
    if stored := [row for row in items if row["protocol"] == ORACLE]:
        known = {row["item"]: row["marks"] for row in adherence_rows(items, oracle.marks)}
        found += [
            f"{row['item']}: items.jsonl has the marks {row['marks']}, its answer gives {known.get(row['item'])}"
            for row in stored
            if row["marks"] != known.get(row["item"])
        ]
    return found


def sync(arguments: list[str]) -> int:
    """Push the offline W&B runs of some run folders and the reports that wait; what was pushed before is not pushed again."""
    parser = new_parser(
        "sync",
        "Push offline W&B runs, and a report that `selfalign report --publish` could not send; once, however often it is called.",
    )
    parser.add_argument("run", nargs="+", help="folders of runs or sweeps, or their names in runs/")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    from selfalign import report as reports
    from selfalign import tracking

    runs = Path(given.runs)
    for line in tracking.sync([folder for name in given.run for folder in resolve_runs(name, runs)]):
        print(line)
    for name in given.run:
        folder = (resolve_sweep(name, runs) or [resolve_run(name, runs)])[0]
        if told := reports.sync(folder / "report.html", name):
            print(told)
    return 0
