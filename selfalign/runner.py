"""One experiment from configuration to report: the run folder, tracking, and what the terminal shows meanwhile.

A run folder can be read by a person: config.yaml, manifest.json, scores.jsonl, report.html, and under stages/ a link to
every artifact. Running the same settings again reuses all artifacts and writes the same folder anew.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from selfalign import claims, cost, jsonl, shards, tracking
from selfalign import experiment as experiments
from selfalign.artifacts import Store, provenance
from selfalign.budget import Ledger, Purse
from selfalign.errors import ConfigError, SelfAlignError
from selfalign.experiment import Experiment
from selfalign.identity import differences, plain
from selfalign.pipeline import Node, NodeResult, run
from selfalign.report.model import SWEEP

TABLE_FILES = ("prompts.jsonl", "responses.jsonl", "critiques.jsonl", "gaps.jsonl", "scores.jsonl")
"""Files of an artifact that go to the tracker as tables."""


def run_folder(experiment: Experiment) -> Path:
    """Where the run of these settings is written; shards after the first have a folder each in that of the first."""
    folder, shard = Path(experiment.runs) / experiments.run_id(experiment), shards.read(experiment.shard)
    return folder if _is_first(experiment) else folder / "shards" / str(shard)


def _is_first(experiment: Experiment) -> bool:
    """Whether this is the process that tracks the run: several would log everything once each."""
    shard = shards.read(experiment.shard)
    return shard is None or shard.number == 1


def execute(
    experiment: Experiment,
    *,
    arguments: Sequence[str] = (),
    group: str = "",
    quiet: bool = False,
    purse: Purse | None = None,
) -> int:
    """Run an experiment and write its folder; returns the exit code: 0, or 1 where a stage failed.

    `purse` is that of the sweep that it is a job of. Raises ConfigError, before anything is computed, with every problem of the
    settings, and SweepSpent once the sweep has spent what it may.
    """
    if found := experiments.problems(experiment):
        raise ConfigError(found)
    manifest = _begun(experiment, arguments, group)
    folder = run_folder(experiment)
    (folder / "stages").mkdir(parents=True, exist_ok=True)
    stated = settings(experiment)
    (folder / "config.yaml").write_text(yaml.safe_dump(stated, sort_keys=False, allow_unicode=True), encoding="utf-8")
    run_name = experiments.run_id(experiment)
    if (folder / "manifest.json").is_file():
        # What was reckoned before the first attempt is what all of them together are held against.
        before = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest["reckoned"] = before.get("reckoned", {})
    jsonl.write_json(folder / "manifest.json", manifest)
    say = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    say(f"{run_name}: {folder}")
    tracker = tracking.open_tracker(
        experiment.tracking if _is_first(experiment) else tracking.TrackingSettings(tracking.Mode.disabled),
        folder=folder,
        run_id=run_name,
        name=" ".join(arguments) or experiment.name,
        group=manifest["group"],
        job_type="run",
        config=stated,
    )
    devices, price = experiment.plan.devices, experiment.plan.price_per_hour
    ledger = Ledger(folder, experiment.budget, devices * price, purse=purse)
    started = time.monotonic()
    code = 1
    try:
        nodes, left_out = experiments.fitting(experiment, experiments.pipeline(experiment))
        manifest["nodes"] |= {name: _left_out(name, why, say) for name, why in left_out.items()}
        manifest["reckoned"] = manifest.get("reckoned") or _reckoned(experiment)
        watcher = _Watcher(folder, manifest, tracker, say, nodes, ledger)
        context = experiments.context(experiment, quiet=quiet)
        context = replace(context, progress=ledger.watched(context.progress))
        results = run(nodes, Store(Path(experiment.store)), context, watcher)
        code = int(any(result.status in ("failed", "blocked") for result in results.values()))
        manifest["status"] = "failed" if code else "done"
    except KeyboardInterrupt:
        manifest["status"] = "interrupted"
        code = 130
        raise
    except BaseException as error:
        manifest["status"], manifest["error"] = "failed", f"{type(error).__name__}: {error}"
        raise
    finally:
        ledger.end()
        manifest["seconds"] = round(time.monotonic() - started, 3)
        _finish(folder, manifest, tracker, code)
    _show(folder, manifest, say, quiet)
    return code


def _begun(experiment: Experiment, arguments: Sequence[str], group: str = "") -> dict[str, Any]:
    """The manifest of a run that has computed nothing yet."""
    return {
        "run_id": experiments.run_id(experiment),
        "name": experiment.name,
        "group": group or experiment.name,
        "arguments": tracking.scrub_arguments(arguments),
        "status": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "claims": claims.of_overrides(arguments),
        **provenance(),
        "nodes": {},
        "arms": {arm: {} for arm in experiment.arms},
    }


def _reckoned(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """What each node was reckoned to do before anything ran: `selfalign plan --actual` holds it against what it did."""
    alone = replace(experiment, arms={})
    nodes, _ = experiments.fitting(alone, experiments.pipeline(alone))
    try:
        parameters = cost.parameters_of(experiment.plan, experiment.model)
    except ConfigError:
        parameters = None  # a served model's size is nobody's business here: no seconds
    found = cost.costs(
        nodes,
        experiment.plan,
        experiment.engine.count_tokens,
        recompute=experiment.trainer.gradient_checkpointing,
        adapter_parameters=cost.adapter_parameters_of(experiment.plan, experiment.model),
    )
    return {
        name: {
            "kept": one.kept,
            "requests": one.requests,
            "read_tokens": one.read_tokens,
            "new_tokens": one.new_tokens,
            "bytes": one.bytes,
            "seconds": None
            if parameters is None
            else round(one.device_seconds(experiment.plan, parameters, cost.BYTES[experiment.model.dtype]), 3),
        }
        for name, one in found.items()
    }


def note_failure(experiment: Experiment, arguments: Sequence[str], why: str, details: str) -> None:
    """Write down for a run that it failed without saying so itself: in its manifest, and with `details` in error.txt."""
    folder = run_folder(experiment)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else _begun(experiment, arguments)
    jsonl.write_json(path, manifest | {"status": "failed", "error": why})
    (folder / "error.txt").write_text(f"{why}\n\n{details}".rstrip() + "\n", encoding="utf-8")


def settings(experiment: Experiment) -> dict[str, Any]:
    """The settings of a run for people and trackers, without secrets: of another arm, what differs from this run's.

    What concerns the sweep that a run is part of is no setting of the run.
    """
    alone = _of_a_run(experiment)
    others = {label: _of_a_run(arm) for label, arm in experiment.arms.items()}
    alone["arms"] = {label: {key: new for key, _, new in differences(alone, arm)} for label, arm in others.items()}
    return tracking.scrub(alone)


def _of_a_run(experiment: Experiment) -> dict[str, Any]:
    found = plain(replace(experiment, arms={}), keep_transient=True)
    for key in ("on_failure", "design", "sweep_budget"):
        del found[key]
    return found


def _left_out(name: str, why: str, say: Any) -> dict[str, Any]:
    say(f"  {name:<18} left out   {why}")
    return {"stage": "", "artifact": "", "path": "", "status": "skipped", "why": why, "seconds": 0.0,
            "counts": {}, "metrics": {}}  # fmt: skip


class _Watcher:
    """Follows a run: a line for each node, its manifest entry, its link in the run folder, its tables in the
    tracker."""

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        tracker: tracking.Tracker,
        say: Any,
        nodes: Mapping[str, Node],
        ledger: Ledger,
    ) -> None:
        self.folder, self.manifest, self.tracker, self.say, self.nodes = folder, manifest, tracker, say, nodes
        self.ledger = ledger

    def __call__(self, name: str, result: NodeResult | None) -> None:
        if result is None:
            self.ledger.begin(name)
            return
        self.ledger.end(result)
        arm = self.nodes[name].arm
        # What belongs to another arm is no result of this run: it is named, and neither counted, linked nor tracked.
        (self.manifest["arms"][arm] if arm else self.manifest["nodes"])[name] = asdict(result)
        jsonl.write_json(self.folder / "manifest.json", self.manifest)
        if arm and result.status == "reused":
            return
        self.say(
            f"  {name:<18} {result.status:<9} {_counts(result.counts)}  {result.seconds:.1f} s  {result.why}".rstrip()
        )
        if arm:
            return
        self.tracker.log({f"funnel/{name}/kept": float(result.counts.get("kept", 0)),
                          f"funnel/{name}/in": float(result.counts.get("in", 0))}, step=None)  # fmt: skip
        if result.status in ("computed", "reused"):
            _link(self.folder / "stages" / name, Path(result.path))
            self._track(name, result)

    def _track(self, name: str, result: NodeResult) -> None:
        path = Path(result.path)
        numbers = {f"{name}/{key}": value for key, value in result.metrics.items() if isinstance(value, (int, float))}
        self.tracker.summary(numbers)
        for file in TABLE_FILES:
            if (path / file).is_file() and (rows := jsonl.read(path / file)):
                rows = [_flat(row) for row in rows]
                columns = list(dict.fromkeys(key for row in rows for key in row))
                values = [[_cell(row.get(column)) for column in columns] for row in rows]
                self.tracker.table(f"{name}/{file.removesuffix('.jsonl')}", columns, values)
        for file in (file for file in ("metrics.jsonl", "speed.jsonl") if (path / file).is_file()):
            for row in jsonl.iterate(path / file):
                step = row.get("step")
                values = {
                    f"{name}/{k}": float(v) for k, v in row.items() if k != "step" and isinstance(v, (int, float))
                }
                self.tracker.log(values, step=int(step) if step is not None else None)
        trained = any((path / folder).is_dir() for folder in ("adapter", "model"))
        kind = "model" if trained else "evaluation" if name.startswith("scores_") else "dataset"
        self.tracker.artifact(name, kind, path, {"artifact": result.artifact, "counts": dict(result.counts)})


def _flat(row: jsonl.Row) -> jsonl.Row:
    """A row in which what is named within a field has a column of its own."""
    inner = {
        f"{key}/{name}": one for key, value in row.items() if isinstance(value, Mapping) for name, one in value.items()
    }
    return {key: value for key, value in row.items() if not isinstance(value, Mapping)} | inner


def _cell(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _counts(counts: Mapping[str, Any]) -> str:
    if not counts:
        return ""
    if not counts["in"]:
        return "no rows"
    dropped = counts["in"] - counts["kept"]
    return f"{counts['kept']:,} kept" + (f", {dropped:,} dropped" if dropped else "")


def _link(link: Path, target: Path) -> None:
    """A relative link to an artifact; where links are not possible, a text file that names it."""
    relative = os.path.relpath(target.resolve(), link.parent.resolve())
    # Made beside and moved over: another process with the same settings may be writing this folder too.
    fresh = link.with_name(f".{link.name}-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(relative, target_is_directory=True)
    except OSError:
        fresh.write_text(relative + "\n", encoding="utf-8")
    os.replace(fresh, link)


def _finish(folder: Path, manifest: dict[str, Any], tracker: tracking.Tracker, code: int) -> None:
    """Scores, manifest and report of what there is, then the end of tracking; also after a failure."""
    from selfalign import report

    rows = []
    for name, entry in manifest["nodes"].items():
        path = Path(entry["path"]) / "scores.jsonl"
        if name.startswith("scores_") and entry["status"] in ("computed", "reused") and path.is_file():
            rows += jsonl.read(path)
    jsonl.write(folder / "scores.jsonl", rows)
    tracker.summary(
        {
            f"scores/{row['subject']}/{row['task']}/{row['protocol']}/{row['metric']}": row["value"]
            for row in rows
            if row["valid"] and row["value"] is not None
        }
    )
    failed = {name: entry["why"] for name, entry in _entries(manifest) if entry["status"] in ("failed", "blocked")}
    error = folder / "error.txt"
    if failed or "error" in manifest:
        lines = [f"{name}: {why}" for name, why in failed.items()] + [manifest.get("error", "")]
        error.write_text("\n\n".join(line for line in lines if line) + "\n", encoding="utf-8")
    else:
        error.unlink(missing_ok=True)
    jsonl.write_json(folder / "manifest.json", manifest)
    try:
        report.write([folder], folder / "report.html")
        if not isinstance(tracker, tracking.NoTracker):
            report.track(folder, tracker)
    finally:
        tracker.finish(0 if code == 0 else 1)


def _entries(manifest: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Every node that ran, those of other arms too."""
    return [item for nodes in (manifest["nodes"], *manifest["arms"].values()) for item in nodes.items()]


def _show(folder: Path, manifest: Mapping[str, Any], say: Any, quiet: bool) -> None:
    from selfalign import report

    if not quiet:
        report.print_scores([folder], nodes=False)
    say(f"report: {folder / 'report.html'}")
    for name, entry in _entries(manifest):
        if entry["status"] == "failed":
            say(f"failed: {name}: {entry['why']}")


def resolve_run(name: str, runs: Path = Path("runs")) -> Path:
    """The folder of a run given by path or by the name of a folder in `runs`.

    Raises SelfAlignError naming the nearest run there is.
    """
    from selfalign.errors import did_you_mean

    for folder in (Path(name), runs / name):
        if (folder / "manifest.json").is_file() and (folder / "config.yaml").is_file():
            return folder
    known = [path.parent.name for path in runs.glob("*/config.yaml")]
    raise SelfAlignError(
        f"expected a run folder (with config.yaml and manifest.json), found none at '{name}'{did_you_mean(name, known)} "
        f"(runs in {runs}: {', '.join(sorted(known)) or 'none'})"
    )


def resolve_sweep(name: str, runs: Path = Path("runs")) -> list[Path]:
    """The folder of a sweep by path or by its name in `runs`; none where it is no sweep's."""
    return [folder for folder in (Path(name), runs / name) if (folder / SWEEP).is_file()][:1]


def resolve_runs(name: str, runs: Path = Path("runs")) -> list[Path]:
    """The folder of a run, or those of the runs of a sweep that are done, by path or by the name of a folder in `runs`.

    Raises SelfAlignError naming the nearest run there is, and for a sweep of which nothing is done.
    """
    for folder in resolve_sweep(name, runs):
        content = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
        found = [folder.parent / job["id"] for job in content["jobs"] if _status(folder.parent / job["id"]) == "done"]
        if not found:
            raise SelfAlignError(
                f"{folder}: expected a sweep with finished runs, found none of {len(content['jobs'])}; go on with it: selfalign "
                f"sweep resume {folder}"
            )
        return found
    return [resolve_run(name, runs)]


def _status(folder: Path) -> str:
    manifest = folder / "manifest.json"
    return json.loads(manifest.read_text(encoding="utf-8"))["status"] if manifest.is_file() else ""


def parity_lines(folder: Path) -> list[str]:
    """What the cut to common prompts left of the arms, a line for each; arms of one sweep say the same."""
    nodes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["nodes"]
    cuts = {name: entry for name, entry in nodes.items() if entry["stage"] == "Parity" and entry["counts"]}
    return [
        f"{name}: {cut['metrics']['arms']} arms train on the {cut['counts']['kept']:,} prompts that all of them keep (one by "
        f"itself {cut['metrics']['fewest_kept']:,} to {cut['metrics']['most_kept']:,})"
        for name, cut in cuts.items()
    ]
