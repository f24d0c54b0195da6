"""Laws of claims: read from the headers of experiments and sweeps, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfalign import groups, runner
from selfalign.claims import Claim, Expectation, header, of_overrides, read
from selfalign.errors import ConfigError

HEADER = """\
# @package _global_
# Claim: engraving helps,
#   and cloning costs.
# Expected: more, then less.
# Test: engraved > base on calf_truth/mc1
# Test: cloned < engraved on calf_truth
#
# Sources: a paper
name: x
"""


def test_a_header_is_read_with_the_lines_that_go_on_and_no_further():
    one = read("experiments/x", header(HEADER))
    assert one == Claim(
        "experiments/x", "Claim", "engraving helps, and cloning costs.", "more, then less.",
        (Expectation("engraved", ">", "base", ("calf_truth/mc1",)), Expectation("cloned", "<", "engraved", ("calf_truth",))),
    )  # fmt: skip
    assert read("experiments/y", header("# nothing is claimed here\nname: y")) is None


@pytest.mark.parametrize(
    "said",
    [
        *("engraved = base on x", "engraved > bass on x", "engraved > base", "arm < engraved on x"),
        *("engraved = base on x within 5", "engraved > base on x within 0.05", "engraved = base within 0.05"),
    ],
)
def test_a_test_that_cannot_be_understood_is_refused_with_what_is_allowed(said: str):
    with pytest.raises(ConfigError, match="left < right on task"):
        read("experiments/x", f"Claim: a\nTest: {said}")


def test_sameness_is_claimed_with_a_margin():
    one = read("experiments/x", "Claim: a\nTest: cloned = engraved on adherence, calf_hhh within 0.05")
    assert one is not None
    assert one.tests == (Expectation("cloned", "=", "engraved", ("adherence", "calf_hhh"), 0.05),)
    assert str(one.tests[0]) == "cloned = engraved within 0.05"


def test_a_header_that_cannot_be_held_to_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    text = "# @package _global_\n# Claim: a\n# Test: cloned = engraved on adherence\nname: mine\n"
    (tmp_path / "experiments" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="experiments/mine: expected a test"):
        of_overrides(["experiments=mine"])
    groups.register()
    with pytest.raises(ConfigError, match="experiments/mine: expected a test"):
        runner.execute(groups.compose(["experiments=mine", "tracking=none"]), arguments=["experiments=mine"])
    assert not (tmp_path / "runs").exists() and not (tmp_path / "store").exists()


def test_a_command_line_names_the_headers_that_a_run_is_held_to():
    found = of_overrides(["experiments=[quickstart,dromedary]", "seed=3", "sweeps=verbose_tax"])
    assert [one["file"] for one in found] == ["experiments/quickstart", "experiments/dromedary", "sweeps/verbose_tax"]
    assert str(found[0]["header"]).startswith("Claim: the whole method")
    assert of_overrides(["experiments=that_is_gone", "principles.drop=[candor]"]) == []
