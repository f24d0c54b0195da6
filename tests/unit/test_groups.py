from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from selfalign import experiment, groups, resources
from selfalign.errors import ConfigError
from selfalign.experiment import Experiment


@pytest.fixture(autouse=True)
def registered() -> None:
    groups.register()


def wrong(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        groups.checked([list(overrides)])
    return error.value.problems


def test_what_hydra_composes_is_what_python_builds() -> None:
    one = groups.compose([])
    assert isinstance(one, Experiment) and isinstance(one.engine, groups.HuggingFace)
    built = Experiment(
        principles=one.principles,
        exemplars=one.exemplars,
        engine=groups.HuggingFace(model=one.model),
        verbose_engrave=one.verbose_engrave,
    )
    shared = dataclasses.replace(built.self_align, principles=one.principles, exemplars=one.exemplars)
    critique = dataclasses.replace(built.self_critique, principles=one.principles)
    assert dataclasses.replace(built, self_align=shared, self_critique=critique) == one


def test_shared_settings_reach_every_stage_and_can_be_overridden_in_one() -> None:
    one = groups.compose(["seed=7", "assistant.name=Zoe", "self_align.seed=8", "principles.drop=[candor]"])
    assert (one.self_instruct.seed, one.self_align.seed, one.engrave.training.seed) == (7, 8, 7)
    assert one.verbose_clone.assistant.name == "Zoe" and one.self_align.principles.drop == ["candor"]
    assert one.self_critique.principles.drop == ["candor"] and one.self_critique.seed == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engien=huggingface", "did you mean 'engine'"),
        ("model=claf", "did you mean 'calf'"),
        ("self_align.sampling.temprature=1", "did you mean 'temperature'"),
        ("seed=abc", "could not be converted to Integer"),
        ("principles.drop=ethical", "principles.drop=ethical"),
        ("principles.drop=[candour]", "did you mean 'candor'"),
        ("principles.scope=rules", "Invalid value 'rules'"),
        ("exemplars.drop=[otters]", "unknown exemplar 'otters'"),
        ("stages.tgr=false", "did you mean 'tgrt'"),
        ("experiments=quickstrat", "did you mean 'quickstart'"),
        ("foo bar", "expected KEY=VALUE"),
        ("+nonsense=1", "unknown setting 'nonsense'"),
        ("evaluation.tasks=[truthfulqa]", "did you mean 'truthfulqa_mc'"),
        ("subjects=[bas]", "did you mean 'base'"),
        ("stages.self_align=false", "it reads the responses of self_align, which is off"),
        ("self_instruct.target=0", "expected at least 1, found 0"),
        ("model.path=/no/such/folder", "no folder '/no/such/folder'"),
        ("model=hf", "found an empty path"),
        ("engrave.training.global_batch_size=7", "must be a multiple of"),
        ("self_align.sampling.max_new_tokens=99999", "responses: expected 100031 of the model's"),
        ("name=a/b", "expected a name without '/'"),
    ],
)
def test_a_wrong_override_is_explained(override: str, message: str) -> None:
    found = wrong("model=tiny_random", "evaluation=none", override)
    assert any(message in problem for problem in found), found


def test_all_problems_come_at_once() -> None:
    found = wrong("engien=x", "seed=abc", "principles.drop=[candour]", "model.path=/no/such/folder", "subjects=[bas]")
    assert len(found) >= 5


def test_a_problem_of_one_arm_names_the_arm() -> None:
    jobs, multirun = groups.jobs(
        ["model=tiny_random", "evaluation=none", "principles.drop=[],[candour],[ethical]"], multirun=True
    )
    assert multirun and len(jobs) == 3
    with pytest.raises(ConfigError, match=r"\[in 1 of 3 jobs: .*principles.drop=\[candour\]"):
        groups.checked(jobs)


def test_a_sweep_file_becomes_its_jobs_and_follows_the_chosen_set() -> None:
    jobs, multirun = groups.jobs(["sweeps=leave_one_out"])
    assert multirun and len(jobs) == 17 and jobs[0][0] == "principles.drop=[]"
    assert len(groups.jobs(["sweeps=leave_one_out", "principles=dromedary2_17"])[0]) == 18
    assert len(groups.jobs(["sweeps=verbose_tax"])[0]) == 5


def test_a_run_without_a_sweep_is_one_job() -> None:
    assert groups.jobs(["seed=3"]) == ([["seed=3"]], False)


def test_a_users_own_folder_adds_choices_and_hides_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("conf/principles", "experiments"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "conf" / "principles" / "three.yaml").write_text("ids: [ethical, candor, helpful]\n")
    (tmp_path / "experiments" / "mine.yaml").write_text("defaults: [{override /principles: three}]\nname: mine\n")
    monkeypatch.chdir(tmp_path)
    groups.register()
    one = groups.compose(["experiments=mine"])
    assert (one.name, one.principles.ids) == ("mine", ["ethical", "candor", "helpful"])


def test_a_users_file_that_is_no_yaml_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "bad.yaml").write_text("a: [\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"bad\.yaml: expected YAML"):
        groups.register()


def test_the_run_id_depends_on_results_and_not_on_places() -> None:
    base = ["model=tiny_random", "evaluation=none"]
    same = [groups.compose([*base, more]) for more in ("store=/x", "engine.batch_size=4", "tracking=none")]
    assert {experiment.run_id(one) for one in same} == {experiment.run_id(groups.compose(base))}
    assert experiment.run_id(groups.compose([*base, "seed=1"])) != experiment.run_id(groups.compose(base))


def test_every_setting_is_documented() -> None:
    import ast
    import inspect

    checked = 0
    for kind in _dataclasses(Experiment) | {cls for engine in groups.ENGINES.values() for cls in _dataclasses(engine)}:
        source = inspect.getsource(inspect.getmodule(kind))  # type: ignore[arg-type]
        body = next(
            n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.ClassDef) and n.name == kind.__name__
        ).body
        for here, after in zip(body, [*body[1:], ast.Pass()], strict=True):
            if isinstance(here, ast.AnnAssign) and "ClassVar" not in ast.dump(here.annotation):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert documented, f"{kind.__name__}.{ast.unparse(here.target)} has no docstring"
                checked += 1
    assert checked > 100


def _dataclasses(kind: type) -> set[type]:
    found = {kind}
    for field in dataclasses.fields(kind):
        inner = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default  # type: ignore[misc]
        if dataclasses.is_dataclass(inner):
            found |= _dataclasses(type(inner))
    return found


def test_every_choice_composes() -> None:
    folder, seen = resources.shipped_root() / "conf", 0
    for path in sorted(folder.glob("*/*.yaml")):
        groups.compose([f"{path.parent.name}={path.stem}"])
        assert path.read_text(encoding="utf-8").startswith("# "), f"{path} does not say what it is"
        seen += 1
    assert seen >= 20


def test_every_experiment_and_sweep_composes_and_states_its_claim() -> None:
    seen = 0
    for group, word in (("experiments", "Claim:"), ("sweeps", "Question:")):
        for path in sorted((resources.shipped_root() / group).glob("*.yaml")):
            groups.jobs([f"{group}={path.stem}"])
            header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
            assert word in header and "Run: selfalign run" in header, path
            assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)
            seen += 1
    assert seen >= 3
