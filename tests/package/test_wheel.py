"""Installed from a wheel, in another folder, with no checkout near: configs, texts and Calf are all there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked by pip into a folder that comes before the checkout on the path."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site), "SELFALIGN_HOME": str(folder / "home")}
    env["PYTHONSAFEPATH"] = "1"
    command = [sys.executable, "-m", "selfalign", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_the_wheel_holds_every_data_file_of_the_checkout(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = [
        path for folder in ("conf", "experiments", "sweeps", "principles") for path in (ROOT / folder).rglob("*.*")
    ]
    assert len(wanted) > 50
    missing = [str(p) for p in wanted if f"selfalign/_bundled/{p.relative_to(ROOT).as_posix()}" not in names]
    assert missing == []
    assert "selfalign/calf/weights/model.safetensors" in names and "selfalign/report/report.html.j2" in names
    assert not any(name.startswith(("tests/", "benchmarks/", "conf/")) for name in names)


def test_the_installed_program_finds_its_own_files(site: Path, tmp_path: Path) -> None:
    shown = run(site, tmp_path, "run", "--info", "searchpath")
    assert f"{site}/selfalign/_bundled/conf" in shown.stdout, shown.stdout + shown.stderr
    prompt = run(site, tmp_path, "prompt", "principles.drop=[candor]")
    assert prompt.returncode == 0 and "1 (ethical). Willow" in prompt.stdout and "(candor)" not in prompt.stdout
    plan = run(site, tmp_path, "plan", "experiments=quickstart", "sweeps=leave_one_out")
    assert plan.returncode == 0 and plan.stdout.count("runs/quickstart-") == 17, plan.stderr
    assert Path(run(site, tmp_path, "tasks").stdout.strip()).is_relative_to(site)


def test_the_installed_program_runs_an_experiment(site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, "run", "stages=prompted_only", "evaluation.limit=4", "evaluation.tasks=[hhh_alignment]")
    assert done.returncode == 0, done.stderr
    assert next((tmp_path / "runs").glob("*/report.html")).stat().st_size > 10_000
