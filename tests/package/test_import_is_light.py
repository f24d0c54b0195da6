"""Start-up loads nothing heavy: `selfalign --help` and composing a configuration stay quick."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = [
    "torch",
    "transformers",
    "pytorch_lightning",
    "lightning",
    "lm_eval",
    "wandb",
    "peft",
    "datasets",
    "matplotlib",
]


def loaded(program: str) -> list[str]:
    """The heavy modules that a fresh process has loaded after running some code."""
    code = f"{program}\nimport sys, json\nprint('\\n' + json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_guard_itself_can_fail() -> None:
    assert loaded("import wandb") == ["wandb"]


@pytest.mark.parametrize(
    "program",
    [
        "from selfalign.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from selfalign.cli import main\ntry: main(['run', '--cfg', 'job'])\nexcept SystemExit: pass",
        "from selfalign import groups, experiment\ngroups.register()\nexperiment.problems(groups.compose(['evaluation=none']))",
    ],
)
def test_the_front_door_loads_nothing_heavy(program: str) -> None:
    assert loaded(program) == []


def test_help_costs_less_than_half_a_second_of_cpu() -> None:
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'selfalign', '--help'], stdout=subprocess.DEVNULL, check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\nprint(used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5


def test_every_module_can_be_imported() -> None:
    import importlib
    import pkgutil

    import selfalign

    names = [m.name for m in pkgutil.walk_packages(selfalign.__path__, "selfalign.") if not m.name.endswith("__main__")]
    assert len(names) > 40
    for name in names:
        if ".evaluation.tasks" not in name:
            importlib.import_module(name)
