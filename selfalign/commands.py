"""The commands beside `run`: plan, prompt, why, show, report, verify, sync, import, tasks look; calf runs and asks."""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfalign import experiment as experiments
from selfalign import jsonl
from selfalign.artifacts import MANIFEST, Store
from selfalign.errors import ConfigError, SelfAlignError, unknown
from selfalign.experiment import Experiment
from selfalign.identity import differences
from selfalign.runner import resolve_run, run_folder


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"selfalign {name}", description=description)


def _overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as for `selfalign run`")


def _compose(overrides: Sequence[str]) -> Experiment:
    from selfalign import groups

    groups.register()
    return groups.compose(overrides)


# ---------------------------------------------------------------------------------------------------------- plan


def plan(arguments: list[str]) -> int:
    """What a run would do: each node, whether its result is there, and the prompt tokens it would send."""
    parser = _parser("plan", "What would run, and what is there already. Computes nothing.")
    _overrides(parser)
    parser.add_argument("-m", "--multirun", action="store_true", help="expand comma-separated values into many runs")
    given = parser.parse_intermixed_args(arguments)
    from selfalign import arms, groups
    from selfalign.pipeline import plan as plan_pipeline

    groups.register()
    jobs, multirun = groups.jobs(given.overrides, multirun=given.multirun)
    checked = groups.checked(jobs)
    if multirun:
        checked = list(arms.at_parity(dict(zip(arms.labels(jobs), checked, strict=True))).values())
    planned: set[str] = set()
    for job, one in zip(jobs, checked, strict=True):
        nodes, left_out = experiments.fitting(one, experiments.pipeline(one))
        store = Store(Path(one.store))
        print(f"{' '.join(job) or one.name}: {run_folder(one)}")
        for name, why in left_out.items():
            print(f"  {name:<18} left out   {why}")
        for name, item in plan_pipeline(nodes, store, experiments.context(one, quiet=True)).items():
            status = "reuse" if item.is_published else "shared" if item.artifact in planned else "compute"
            planned.add(item.artifact)
            print(f"  {name:<18} {status:<9}  {item.artifact}  {_prompt_tokens(item.node.stage, one)}".rstrip())
    return 0


def _prompt_tokens(stage: Any, one: Experiment) -> str:
    preview = getattr(stage, "preview", None)
    if preview is None:
        return ""
    tokens = ", ".join(f"{one.engine.count_tokens(text):,}" for text in preview("").values())
    return f"prompt of {tokens} tokens"


# -------------------------------------------------------------------------------------------------------- prompt


def prompt(arguments: list[str]) -> int:
    """The exact prompts of a stage, or how the principles' and exemplars' settings change them."""
    parser = _parser("prompt", "Print the exact prompt that a stage would send, with token counts.")
    _overrides(parser)
    parser.add_argument(
        "--stage", default="responses", help="node of the pipeline (default: responses, the self-align prompt)"
    )
    parser.add_argument("--question", default="How do otters keep warm?", help="the question in the prompt's open slot")
    parser.add_argument(
        "--diff", action="store_true", help="show what the overrides of principles and exemplars change, line by line"
    )
    given = parser.parse_intermixed_args(arguments)
    one = _compose(given.overrides)
    texts = _previews(one, given.stage, given.question)
    if not given.diff:
        for label, text in texts.items():
            # A file that one prompt is written to holds that prompt and not a byte more.
            print(text, end="\n" if sys.stdout.isatty() or len(texts) > 1 else "", flush=True)
            print(
                f"\n[{label}: {one.engine.count_tokens(text):,} tokens by the tokenizer of the model]", file=sys.stderr
            )
        return 0
    rest = [text for text in given.overrides if not text.lstrip("+~").startswith(("principles", "exemplars"))]
    whole = _compose(rest)
    for label, before in _previews(whole, given.stage, given.question).items():
        after = texts[label]
        for line in difflib.unified_diff(before.split("\n"), after.split("\n"), "before", "after", lineterm="", n=1):
            print(line)
        tokens = [one.engine.count_tokens(text) for text in (before, after)]
        print(f"\n[{label}: {tokens[0]:,} -> {tokens[1]:,} tokens ({tokens[1] - tokens[0]:+,})]", file=sys.stderr)
    return 0


def _previews(one: Experiment, node: str, question: str) -> dict[str, str]:
    nodes = experiments.pipeline(one)
    known = [name for name, item in nodes.items() if hasattr(item.stage, "preview")]
    if node not in known:
        raise ConfigError([f"--stage: {unknown('node with a prompt', node, known)}"])
    if found := nodes[node].stage.problems(experiments.context(one, quiet=True)):
        raise ConfigError(found)
    return nodes[node].stage.preview(question)  # type: ignore[attr-defined]


# ----------------------------------------------------------------------------------------------------- why, show


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


def _nodes(folder: Path, chosen: str | None) -> dict[str, dict[str, Any]]:
    nodes = _manifest(folder)["nodes"]
    if chosen is not None and chosen not in nodes:
        raise SelfAlignError(f"{folder}: {unknown('stage', chosen, nodes)}")
    return nodes if chosen is None else {chosen: nodes[chosen]}


def why(arguments: list[str]) -> int:
    """For each node of a run: computed or reused, and how it differs from the nearest other result of its stage."""
    parser = _parser(
        "why", "Why a stage ran or was reused: the setting or text that differs from the nearest other result."
    )
    parser.add_argument("run", help="run folder, or its name in runs/")
    parser.add_argument("stage", nargs="?", help="node of the pipeline; all without it")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    folder = resolve_run(given.run, Path(given.runs))
    for name, entry in _nodes(folder, given.stage).items():
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
    mine = {key: value for key, value in _manifest(own).items() if key in keys}
    found = []
    for path in own.parent.glob(f"{own.name.split('-')[0]}-*"):
        if path != own and (path / MANIFEST).is_file():
            theirs = {key: value for key, value in _manifest(path).items() if key in keys}
            found.append((path, differences(theirs, mine)))
    return min(found, key=lambda item: (len(item[1]), item[0].name), default=None)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


ROW_FILES = ("critiques.jsonl", "responses.jsonl", "prompts.jsonl", "matches.jsonl", "items.jsonl", "metrics.jsonl")
"""What `show` takes for the rows of a stage: the first of these that it has."""
PLAIN_ROWS = 10
"""Rows that `show` prints where nothing pages them."""
_LABEL = 16
"""Width of a field's name, with what stands behind it."""


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, found '{text}'")
    return number


def show(arguments: list[str]) -> int:
    """Rows of a stage, one below the other; dropped ones with their reasons. Pages where the output is a terminal."""
    parser = _parser("show", "Page through a stage's rows ($PAGER or less on a terminal, plain text elsewhere).")
    parser.add_argument("run", help="run folder, or its name in runs/")
    parser.add_argument("stage", nargs="?", help="node of the pipeline; without it, the funnel of all")
    parser.add_argument(
        "--dropped", nargs="?", const="", metavar="REASON",
        help="dropped rows: how many for each reason, then all; of one reason if given",
    )  # fmt: skip
    parser.add_argument("--file", default="", help="another JSONL file of the stage, such as topics.jsonl")
    parser.add_argument(
        "--limit", type=_count, default=None, help=f"rows to show (default: all in a pager, {PLAIN_ROWS} elsewhere; 0 = all)"
    )  # fmt: skip
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    folder = resolve_run(given.run, Path(given.runs))
    nodes = _nodes(folder, given.stage)
    if given.stage is None:
        for name, entry in nodes.items():
            counts = entry["counts"]
            dropped = ", ".join(f"{reason} {number}" for reason, number in counts.get("dropped", {}).items())
            funnel = f"in {counts.get('in', 0):>6,}  kept {counts.get('kept', 0):>6,}  {dropped}"
            print(f"{name:<18} {entry['status']:<9} {funnel}".rstrip())
        return 0
    file = _row_file(folder, given.stage, given.file)
    counts = Counter(_reason(row) for row in jsonl.iterate(file))
    if given.dropped and given.dropped not in counts:
        raise SelfAlignError(f"{file}: {unknown('reason', given.dropped, sorted(filter(None, counts)))}")
    pager = _pager()
    limit = given.limit if given.limit is not None else 0 if pager else PLAIN_ROWS
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    _print_paged(_row_lines(file, counts, given.dropped, limit, width), pager)
    return 0


def _row_file(folder: Path, stage: str, name: str) -> Path:
    """The file with the rows of a stage. Raises SelfAlignError where it has none, or none of that name."""
    from selfalign.report import load_run

    node = next(node for node in load_run(folder).nodes if node.name == stage)
    there = sorted(path.name for path in node.folder.glob("*.jsonl")) if node.folder else []
    if name and name not in there:
        raise SelfAlignError(f"{stage}: {unknown('file', name, there)}")
    found = name or next((file for file in ROW_FILES if file in there), "")
    if node.folder is None or not found:
        raise SelfAlignError(f"{stage} has no rows to show: its status is {node.status}")
    return node.folder / found


def _reason(row: jsonl.Row) -> str:
    """Why a row was dropped; empty where it was kept, or where its kind is never dropped."""
    return "" if row.get("kept", True) else str(row.get("reason") or "no reason given")


def _row_lines(file: Path, counts: Counter[str], dropped: str | None, limit: int, width: int) -> Iterator[str]:
    """The text of a stage's rows, read as it is asked for; `width` 0 leaves lines as long as they are."""
    reasons = sorted(((r, n) for r, n in counts.items() if r), key=lambda item: (-item[1], item[0]))
    if dropped == "":
        total = sum(number for _, number in reasons)
        yield f"{total:,} of {counts.total():,} rows of {file} were dropped{':' if reasons else ''}"
        yield from (f"{number:>10,}  {reason}" for reason, number in reasons)
    wanted = {""} if dropped is None else {dropped} if dropped else {reason for reason, _ in reasons}
    total = sum(counts[reason] for reason in wanted)
    shown = min(total, limit or total)
    chosen = (row for row in jsonl.iterate(file) if _reason(row) in wanted)
    for row in itertools.islice(chosen, shown):
        yield "-" * (min(width, 80) or 80)
        for key, value in row.items():
            if value not in ("", None, []):
                yield f"{key:>{_LABEL - 2}}: {_readable(value, width)}"
    yield "-" * (min(width, 80) or 80)
    kind = "rows" if dropped is None else f"rows dropped as {dropped}" if dropped else "dropped rows"
    yield f"{shown:,} of {total:,} {kind} of {file}"


def _readable(value: Any, width: int) -> str:
    """A value as text: indented below itself, wrapped at words where a width is given, without control characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # A model can write anything, also what moves a terminal's cursor.
    text = "".join("\ufffd" if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    lines = text.split("\n")
    if width:
        room = max(width - _LABEL, 24)
        lines = [part for line in lines for part in textwrap.wrap(line, room, break_on_hyphens=False) or [""]]
    return ("\n" + " " * _LABEL).join(lines)


def _pager() -> list[str]:
    """The command that pages: $PAGER, else less; empty where the output is no terminal or there is none to start."""
    if not sys.stdout.isatty():
        return []
    chosen = os.environ.get("PAGER", "").strip()
    try:
        command = shlex.split(chosen or "less")
    except ValueError:
        command = []
    if command and shutil.which(command[0]):
        return command
    if chosen:
        print(f"PAGER='{chosen}' cannot be started; this is plain text", file=sys.stderr)
    return []


def _print_paged(lines: Iterable[str], pager: Sequence[str]) -> None:
    """Print lines through a pager, or plainly without one. Ctrl-C and a reader that has seen enough end it quietly."""
    if not pager:
        try:
            for line in lines:
                print(line)
        except KeyboardInterrupt:
            print()
        return
    # Quit where all fits the screen, show colours, leave the text there: what git asks of less, unless the user says more.
    environment = {"LESS": "FRX", **os.environ}
    with subprocess.Popen(pager, stdin=subprocess.PIPE, encoding="utf-8", env=environment) as process:
        assert process.stdin is not None
        try:
            with process.stdin as pipe:
                pipe.writelines(f"{line}\n" for line in lines)
        except (BrokenPipeError, KeyboardInterrupt):
            pass
        while True:
            try:
                process.wait()
                return
            except KeyboardInterrupt:
                # The pager has the terminal and answers to Ctrl-C itself: left alone, it would leave the terminal raw.
                continue


# -------------------------------------------------------------------------------------- report, sync, import, tasks


def report(arguments: list[str]) -> int:
    """The comparison of one run or several: a table in the terminal, one HTML file."""
    parser = _parser("report", "Compare runs: terminal table and one self-contained HTML file.")
    parser.add_argument("run", nargs="+", help="run folders, or their names in runs/")
    parser.add_argument("--out", default="", help="HTML file to write (default: report.html in the first run's folder)")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    from selfalign import report as reports

    folders = [resolve_run(name, Path(given.runs)) for name in given.run]
    out = Path(given.out) if given.out else folders[0] / "report.html"
    reports.print_scores(folders)
    reports.write(folders, out)
    print(f"report: {out}", file=sys.stderr)
    return 0


def verify(arguments: list[str]) -> int:
    """Every number of a run computed anew from its stored items, every file against its checksum."""
    parser = _parser("verify", "Re-derive every score of some runs from stored items; exit 1 on any mismatch.")
    parser.add_argument("run", nargs="+", help="run folders, or their names in runs/")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    wrong = 0
    for name in given.run:
        folder = resolve_run(name, Path(given.runs))
        checked, found = _verify_run(folder)
        wrong += len(found)
        for line in found:
            print(f"{folder}: {line}")
        print(f"{folder}: {checked} scores and files checked, {len(found)} wrong")
    return 1 if wrong else 0


def _verify_run(folder: Path) -> tuple[int, list[str]]:
    """How many scores and files of a run were checked, and what is wrong with which."""
    from selfalign.evaluation.harness import rescore
    from selfalign.records import to_row

    checked, found, derived = 0, [], []
    for name, entry in _nodes(folder, None).items():
        if entry["status"] not in ("computed", "reused"):
            continue
        path = Path(entry["path"])
        if not (path / MANIFEST).is_file():
            found.append(f"{name}: its artifact is gone from {path}")
            continue
        files = _manifest(path)["files"]
        checked += len(files)
        if damage := Store.damage(path, files):
            found.append(f"{name}: {damage} ({path})")
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


def sync(arguments: list[str]) -> int:
    """Push the offline W&B runs of some run folders; what was pushed before is not pushed again."""
    parser = _parser("sync", "Push offline W&B runs, once, however often it is called.")
    parser.add_argument("run", nargs="+", help="run folders, or their names in runs/")
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_args(arguments)
    from selfalign import tracking

    for line in tracking.sync([resolve_run(name, Path(given.runs)) for name in given.run]):
        print(line)
    return 0


def import_reference(arguments: list[str]) -> int:
    """The reference's texts, verbatim, as sets of the user's own."""
    parser = _parser("import", "Read principles, exemplars, prompts and seeds from a checkout of the reference.")
    parser.add_argument("what", choices=["dromedary"], help="which reference")
    parser.add_argument("folder", help="its checkout (the folder that holds prompts/)")
    parser.add_argument(
        "--name", default="", help="name of the set (default: dromedary_v1 or dromedary_v2, by what is found)"
    )
    parser.add_argument("--to", default="", help="root to write to (default: SELFALIGN_HOME, else ~/.config/selfalign)")
    given = parser.parse_args(arguments)
    from selfalign import importer, resources

    to = Path(given.to) if given.to else resources.user_root()
    for line in importer.import_dromedary(Path(given.folder), to, given.name):
        print(line)
    return 0


CALF = ("card",)
"""What `selfalign calf` can do."""


def calf(arguments: list[str]) -> int:
    """Calf's card: base, prompts, ablations and the quickstart's students measured, docs/calf.md written."""
    parser = _parser(
        "calf", "Measure the embedded model on held-out questions of its world and write the page of results."
    )
    parser.add_argument("what", choices=CALF, help="card: the measured page")
    parser.add_argument(
        "--out",
        type=_page,
        default="docs/calf.md",
        help="page to write; its figures go into the folder of its name beside it (default: %(default)s)",
    )
    parser.add_argument(
        "--questions", type=_positive, default=40, help="held-out questions of each kind (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=_positive, default=5, help="runs of the quickstart (default: %(default)s)")
    parser.add_argument(
        "--work",
        default=".",
        metavar="DIR",
        help="folder of store/ and runs/, where answers are kept (default: this one)",
    )
    parser.add_argument("--skip-runs", action="store_true", help="leave out the quickstart, and so stages 3 and 4")
    parser.add_argument(
        "--model", default="calf", metavar="DIR", help="weights to measure (default: those in the package)"
    )
    given = parser.parse_args(arguments)
    from selfalign import card, groups
    from selfalign.report import calf_card

    groups.register()
    # In quotes, a path may hold what Hydra would read as syntax.
    path = given.model.replace("\\", "\\\\").replace("'", "\\'")
    shared = ["experiments=quickstart", f"model.path='{path}'", "tracking=none"]
    jobs = [[*shared, f"seed={seed}"] for seed in range(1 if given.skip_runs else given.seeds)]
    work = {name: str(Path(given.work) / name) for name in ("store", "runs")}
    runs = [replace(one, **work) for one in groups.checked(jobs)]
    numbers = card.numbers(runs, questions=given.questions, with_runs=not given.skip_runs, command=_card_command(given))
    calf_card.write(numbers, Path(given.out))
    print(given.out)
    return 0


def _card_command(given: argparse.Namespace) -> str:
    """The command that measures the same again, whatever folders it worked in."""
    words = ["selfalign", "calf", "card", "--questions", str(given.questions)]
    words += ["--skip-runs"] if given.skip_runs else ["--seeds", str(given.seeds)]
    return shlex.join([*words, *(["--model", Path(given.model).name] if given.model != "calf" else [])])


def _page(text: str) -> str:
    # Found before an hour is spent on measuring.
    if Path(text).suffix != ".md" or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a file that ends in .md, such as docs/calf.md, found '{text}'")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more, found '{text}'")
    return int(text)


def tasks(arguments: list[str]) -> int:
    """The folder of the lm-eval tasks."""
    _parser(
        "tasks", 'Print the folder of the lm-eval tasks, for lm_eval --include_path "$(selfalign tasks)".'
    ).parse_args(arguments)
    from selfalign.evaluation.catalogue import tasks_folder

    print(tasks_folder())
    return 0
