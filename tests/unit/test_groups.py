from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from selfalign import experiment, groups, resources, runner
from selfalign.engines.base import NgramPenalty
from selfalign.engines.model import write_tiny_random
from selfalign.errors import ConfigError
from selfalign.experiment import Experiment
from selfalign.identity import canonical, plain


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
    ("override", "found"),
    [
        ("self_align.sampling.logit_bias.Sorry=-100", {"Sorry": -100.0}),
        ("+self_align.sampling.logit_bias.Sorry=-100", {"Sorry": -100.0}),
        ("self_align.sampling.logit_bias={Sorry:-100,I am:-2.5}", {"Sorry": -100.0, "I am": -2.5}),
    ],
)
def test_a_mapping_takes_keys_of_the_users_own(override: str, found: dict[str, float]) -> None:
    one, other = groups.compose([override]), groups.compose([])
    assert one.self_align.sampling.logit_bias == found and type(one.self_align.sampling.logit_bias) is dict
    assert other.self_align.sampling.logit_bias == one.verbose_clone.sampling.logit_bias == {}
    assert json.loads(canonical(plain(one.self_align)))["sampling"]["logit_bias"] == found
    assert experiment.run_id(one) != experiment.run_id(other)
    assert "self_align.sampling.logit_bias" in groups.setting_names()


def test_a_file_can_bias_the_end_token_and_a_sweep_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments").mkdir()
    text = 'self_instruct: {sampling: {logit_bias: {"<eos>": -100}, ngram_penalty: {trigram: 1, quadgram: 2}}}\n'
    (tmp_path / "experiments" / "endless.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    groups.register()
    arms, _ = groups.jobs(
        ["experiments=endless", "self_instruct.sampling.logit_bias.Sorry=-100,0", "model=tiny_random"], multirun=True
    )
    found = [one.self_instruct.sampling for one in map(groups.compose, arms)]
    assert [one.logit_bias for one in found] == [{"<eos>": -100.0, "Sorry": value} for value in (-100.0, 0.0)]
    assert found[0].ngram_penalty == NgramPenalty(trigram=1.0, quadgram=2.0)


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
        ("self_align.sampling.max_new_tokens=99999", "responses: expected 100159 of the model's"),
        ("name=a/b", "expected a name without '/'"),
        ("self_align.sampling.logit_bias.Sorry=never", "'never' of type 'str' could not be converted to Float"),
        ("self_align.sampling.logit_bias=3", "Cannot assign int to Dict[str, float]"),
        ("self_align.sampling.logit_bais.Sorry=1", "did you mean 'self_align.sampling.logit_bias'"),
        ("self_align.sampling.ngram_penalty.trigam=1", "did you mean 'trigram'"),
        ("seed.part=1", "unknown setting 'seed.part'"),
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
    assert len(groups.jobs(["sweeps=verbose_tax"])[0]) == 10


@pytest.mark.parametrize(
    ("sweep", "number", "last"),
    [
        (["add_one", "design.of=[candor,static]"], 3, "principles.drop=[candor]"),
        (["pairs", "design.of=[candor,static,helpful]"], 7, "principles.drop=[candor,static]"),
        (["plackett_burman"], 20, None),
        (["random_subsets", "design.subsets=5"], 6, None),
        (["shapley", "design.of=[candor,static]"], 4, None),
        (["exemplars"], 6, "exemplars.drop=[known_animal]"),
        (["model_size", "design.models=[small,large]"], 2, "model.path=large"),
        (["leave_one_out", "seed=0,1"], 34, None),
    ],
)
def test_a_design_becomes_its_jobs_and_follows_its_settings(sweep: list[str], number: int, last: str | None) -> None:
    jobs, multirun = groups.jobs([f"sweeps={sweep[0]}", *sweep[1:]])
    assert multirun and len(jobs) == number and (last is None or jobs[-1][0] == last)


def test_a_designs_mistake_is_told_like_any_other() -> None:
    with pytest.raises(ConfigError, match="did you mean 'candor'"):
        groups.jobs(["sweeps=pairs", "design.of=[candour]"])
    with pytest.raises(ConfigError, match=r"design\.permutations: expected an even number"):
        groups.jobs(["sweeps=shapley", "design.permutations=3"])
    assert any("on_failure: expected continue, stop or max:k" in problem for problem in wrong("on_failure=perhaps"))


def test_the_draws_of_a_design_do_not_follow_the_seed_of_the_runs() -> None:
    one = groups.compose(["seed=3"])
    assert (one.design.seed, one.seed, one.self_align.seed) == (0, 3, 3)


def test_what_concerns_the_sweep_changes_no_run() -> None:
    base = groups.compose([])
    for override in ("on_failure=stop", "design.seed=4", "sweep_budget.hours=1"):
        one = groups.compose([override])
        assert experiment.run_id(one) == experiment.run_id(base) and runner.settings(one) == runner.settings(base)


@pytest.mark.parametrize(
    "job",
    [
        ["experiments=quickstart", "principles.drop=[candor]", "seed=3"],
        ["model=tiny_random", "self_align.sampling.logit_bias={Sorry:-100}", "name=a", "name=b"],
        ["principles=dromedary2_17", "stages=no_cloning", "stages.tgrt=false"],
        ["+self_align.sampling.logit_bias.Sorry=-1", "engine=scripted", "engine.script=x"],
    ],
)
def test_a_job_composed_on_what_jobs_have_in_common_is_what_hydra_composes(job: list[str]) -> None:
    bases = groups.Bases()
    groups.compose(["experiments=quickstart", "principles.drop=[ethical]", "seed=1"], bases)
    assert groups.compose(job, bases) == groups.compose(job, bases) == groups.compose(job)


def test_hydras_own_settings_are_in_no_job_of_a_sweep() -> None:
    jobs, _ = groups.jobs(["seed=0,1", "hydra/launcher=basic", "hydra.verbose=false"], multirun=True)
    assert jobs == [["seed=0"], ["seed=1"]]


def test_the_grid_of_a_sweep_has_its_jobs_as_product() -> None:
    constant, grid = groups.grid(["experiments=quickstart", "sweeps=verbose_tax", "seed=7,8"])
    assert constant == ["experiments=quickstart"]
    assert grid == {"stages.follow_first": ["False", "True"], "seed": ["7", "8"]}


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


GIVEN = {
    "model.path": "model: model.path",
    "merge.file": "stages: self_align",
    "evaluation.data": "evaluation: ",
    "given_answers.file": "given_answers.file",
}
"""What an experiment may leave to its user -> how the problem begins where it is not given."""


def test_every_experiment_is_sound_but_for_what_its_run_line_leaves_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SELFALIGN_DATA", raising=False)
    (tmp_path / "model").mkdir()
    write_tiny_random(tmp_path / "model", context_length=32768)
    (tmp_path / "prompts.jsonl").write_text('{"instruction": "Name a bird."}\n')
    # Rows that both formats would take.
    (tmp_path / "answers.jsonl").write_text(
        '{"instruction": "Name a bird.", "output": "An owl.", "response": "An owl."}\n'
    )
    here = {"model.path": tmp_path / "model", "merge.file": tmp_path / "prompts.jsonl", "evaluation.data": "calf"}
    here["given_answers.file"] = tmp_path / "answers.jsonl"
    seen = 0
    for path in sorted((resources.shipped_root() / "experiments").glob("*.yaml")):
        line = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# Run: "))
        left = [key for key in GIVEN if f"{key}=" in line]
        # A GPU is no part of a recipe's soundness.
        chosen = [f"experiments={path.stem}", "trainer=single", "trainer.devices=1", "engrave.training.optimizer=adamw"]
        assert experiment.problems(groups.compose([*chosen, *(f"{key}={here[key]}" for key in left)])) == [], path
        found = experiment.problems(groups.compose(chosen))
        assert len(found) == len(left), (path, found)
        assert all(any(problem.startswith(GIVEN[key]) for problem in found) for key in left), (path, found)
        seen += 1
    assert seen >= 5


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


def test_several_values_for_a_single_run_are_told_how_to_be_a_sweep() -> None:
    with pytest.raises(
        ConfigError, match=r"seed=0,1: expected one value for a single run, found several; `selfalign run -m`"
    ):
        groups.compose(["seed=0,1"])
