"""A leave-one-out sweep on Calf against as many runs by themselves: what sharing and running side by side save.

    python benchmarks/sweep.py [--of PRINCIPLE ...] [--alone 4] [--workers 2] [--experiment quickstart]

The sweep is `selfalign run experiments=quickstart sweeps=leave_one_out` in an empty store, its jobs side by side by joblib. A run
by itself is one of its jobs in an empty store of its own and without parity (which needs the others). All runs by themselves cost
about the same, so only some are made (`--alone`), half of them before the sweep and half after it; the rest are reckoned at their
mean. Wall time is from start to exit of the command; CPU time is that of all its processes.

Two ratios are printed. By wall time: the sweep against the runs one after another, as one would start them by hand on this machine.
By CPU time: what sharing alone saves, whatever runs beside what.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from selfalign import groups


@dataclass(frozen=True)
class Cost:
    """What a command took, in seconds."""

    wall: float
    cpu: float


def measured(folder: Path, name: str, overrides: list[str]) -> Cost:
    """One command in an empty store. Raises SystemExit, with the end of its output, where it fails."""
    place = folder / name
    place.mkdir()
    before, start = os.times(), time.perf_counter()
    with open(place / "log.txt", "wb") as log:
        command = [
            sys.executable,
            "-m",
            "selfalign",
            "run",
            *overrides,
            "tracking=none",
            f"store={place}/store",
            f"runs={place}/runs",
        ]
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    wall, after = time.perf_counter() - start, os.times()
    if code:
        raise SystemExit(f"{' '.join(command)}: exit {code}\n" + (place / "log.txt").read_text()[-3000:])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{name:40} {wall:8.1f} s wall {cpu:8.1f} s CPU", flush=True)
    return Cost(wall, cpu)


def main() -> None:
    """Run both ways and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--of", nargs="*", default=[], metavar="PRINCIPLE", help="leave out only these (default: each of the set)"
    )
    parser.add_argument("--alone", type=int, default=4, help="runs by themselves that are made (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="jobs of the sweep side by side (default: %(default)s)")
    parser.add_argument("--experiment", default="quickstart")
    given = parser.parse_args()
    groups.register()
    shared = [f"experiments={given.experiment}"]
    sweep = [*shared, "sweeps=leave_one_out", *([f"design.of=[{','.join(given.of)}]"] if given.of else [])]
    jobs, _ = groups.jobs(sweep, multirun=False)
    step = max(1, len(jobs) // given.alone)
    # Without what makes it a sweep again.
    own = [[text for text in job if not text.startswith(("sweeps=", "design."))] for job in jobs]
    chosen = own[::step][: given.alone]
    launcher = ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={given.workers}"] if given.workers > 1 else []
    with tempfile.TemporaryDirectory(prefix="selfalign-sweep-") as name:
        folder = Path(name)
        half = (len(chosen) + 1) // 2
        alone = [
            measured(folder, f"alone-{number}", [*job, "parity=false"]) for number, job in enumerate(chosen[:half])
        ]
        whole = measured(folder, "sweep", [*sweep, *launcher])
        alone += [
            measured(folder, f"alone-{half + number}", [*job, "parity=false"])
            for number, job in enumerate(chosen[half:])
        ]
    mean = Cost(statistics.mean(one.wall for one in alone), statistics.mean(one.cpu for one in alone))
    every = Cost(mean.wall * len(jobs), mean.cpu * len(jobs))
    found = {"jobs": len(jobs), "alone": len(alone), "workers": given.workers, "sweep_wall_s": whole.wall, "sweep_cpu_s": whole.cpu,
             "one_wall_s": mean.wall, "one_cpu_s": mean.cpu}  # fmt: skip
    print(json.dumps({key: round(value, 1) for key, value in found.items()}))
    print(f"{len(jobs)} jobs in {whole.wall / 60:.1f} min; a run by itself {mean.wall / 60:.1f} min")
    ratios = f"{whole.wall / every.wall:.2f} of the wall time, {whole.cpu / every.cpu:.2f} of the CPU time"
    print(f"sweep / {len(jobs)} runs one after another: {ratios}")


if __name__ == "__main__":
    main()
