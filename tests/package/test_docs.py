"""What the documents say is true: commands parse, files exist, tables list what there is."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from selfalign import cli, groups

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "docs" / "architecture.md",
    ROOT / "docs" / "engines.md",
]


def commands() -> list[list[str]]:
    """Every `selfalign ...` line of the README's code blocks, without its comment."""
    blocks = re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("selfalign ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_every_command_of_the_readme_exists() -> None:
    assert len(commands()) >= 10
    assert {command[0] for command in commands()} <= set(cli.COMMANDS)
    for name in cli.COMMANDS:
        assert f"selfalign {name}" in cli.USAGE


@pytest.mark.parametrize("command", [c for c in commands() if c[0] in ("run", "plan")], ids=" ".join)
def test_every_run_of_the_readme_composes(command: list[str]) -> None:
    groups.register()
    jobs, _ = groups.jobs([word for word in command[1:] if "=" in word])
    for job in jobs[:2]:
        assert groups.compose(job).name


def test_the_table_of_groups_lists_every_choice() -> None:
    conf = ROOT / "conf"
    for folder in sorted({path.parent for path in conf.rglob("*.yaml")} - {conf}):
        group = folder.relative_to(conf).as_posix()
        row = next((line for line in README.splitlines() if line.startswith(f"| `{group}=`")), None)
        assert row, f"README has no row for {group}="
        for path in folder.glob("*.yaml"):
            assert f"`{path.stem}`" in row, f"README does not list {group}={path.stem}"
        for name in re.findall(r"`([a-z0-9_]+)`", row.split("|")[2].split(";")[0]):
            assert (folder / f"{name}.yaml").is_file(), f"README lists {group}={name}, which is not there"


def test_every_make_target_of_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"\bmake ([a-z-]+)\b(?= |`|\n|\))", document.read_text()):
            if f"`make {target}" in document.read_text() or f"\nmake {target}" in document.read_text():
                assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{document.name}: make {target}"


def test_every_file_that_the_documents_name_exists() -> None:
    seen = 0
    for document in DOCUMENTS:
        for name in re.findall(
            r"`((?:selfalign|tests|conf|principles|experiments|sweeps|docs|benchmarks)/[\w./-]*)`", document.read_text()
        ):
            assert (ROOT / name).exists(), f"{document.name} names {name}"
            seen += 1
    assert seen >= 5


def test_the_top_level_is_what_it_should_be() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listed.stdout.splitlines()}
    folders = {"conf", "selfalign", "experiments", "principles", "sweeps", "tests", "benchmarks", "docs", ".ci"}
    files = {
        "pyproject.toml", "constraints.txt", "Makefile", ".pre-commit-config.yaml", "README.md", "CONTRIBUTING.md",
        "CHANGELOG.md", "LICENSE", ".gitignore",
    }  # fmt: skip
    assert top <= folders | files
