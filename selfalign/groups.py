"""Hydra's side of the configuration: schemas from the dataclasses, groups from the folders, and all problems at once.

Only this file and cli.py know Hydra. `compose` gives a plain `Experiment`; the same object can be built without Hydra.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from selfalign import designs, experiment, resources
from selfalign.engines.huggingface import HuggingFace
from selfalign.engines.openai_api import OpenAIApi
from selfalign.engines.ray import Ray
from selfalign.engines.scripted import Scripted
from selfalign.engines.vllm import VLLM
from selfalign.errors import ConfigError, did_you_mean, unknown
from selfalign.experiment import Experiment
from selfalign.pipeline import Memo

# Here and not in `register`: the workers of a parallel launcher import this file and do not register.
OmegaConf.register_new_resolver("selfalign_data", resources.data_folder, replace=True)

ENGINES = {"huggingface": HuggingFace, "openai_api": OpenAIApi, "ray": Ray, "scripted": Scripted, "vllm": VLLM}
"""The engine of each choice of `engine=`: the dataclass whose fields are its settings."""


SHARED = ("model", "principles", "exemplars", "assistant", "texts", "seed")
"""Settings at the top level that every node below with a field of the same name takes, unless it is given its own."""
APART = ("design",)
"""Nodes whose fields never refer to those: the draws of a design do not follow the seed of the runs."""


def _schema(kind: type) -> DictConfig:
    """A dataclass as a Hydra schema, in which shared settings below the top level refer to those at the top.

    OmegaConf marks the node of a frozen dataclass read-only, which would refuse every override; the flag goes, the
    types stay (hydra issue 724).
    """
    node = OmegaConf.structured(kind)
    _writable(node)
    _share(node, top=kind is Experiment)
    return node


def _share(node: DictConfig, *, top: bool) -> None:
    for key in list(node.keys()):
        if key in SHARED and not top:
            # Assigned here and not merged from YAML: a merge refuses to put a reference over a typed node.
            node[key] = f"${{{key}}}"
            continue
        child: Any = node._get_node(str(key))
        if (
            isinstance(child, DictConfig)
            and key not in (*SHARED, *APART)
            and not (child._is_none() or child._is_missing())
        ):
            _share(child, top=False)


def _writable(node: DictConfig | ListConfig) -> None:
    OmegaConf.set_readonly(node, None)
    if OmegaConf.get_type(node) is dict:
        # The keys of a mapping are the user's own; Hydra closes the whole configuration, this opens it again here.
        OmegaConf.set_struct(node, False)
    for key in list(node.keys()) if isinstance(node, DictConfig) else range(len(node)):
        child: Any = node._get_node(key)  # type: ignore[arg-type]
        if isinstance(child, (DictConfig, ListConfig)) and not child._is_none() and not child._is_missing():
            _writable(child)


def register(config_dir: str | None = None) -> None:
    """Tell Hydra the schemas, the search path, and the files of `experiments/` and `sweeps/` as groups.

    Call once before composing. `config_dir` is a further root of groups, as given by Hydra's --config-dir.
    """
    store = ConfigStore.instance()
    store.store(group="schema", name="experiment", node=_schema(Experiment), provider="selfalign")
    for name, kind in ENGINES.items():
        store.store(group="schema/engine", name=name, node=_schema(kind), provider="selfalign")
    for group in ("experiments", "sweeps"):
        # The nearest root is stored last, so that a user's file hides a shipped one of the same name.
        for root in reversed(resources.roots()):
            for path in sorted((root / group).glob("*.yaml")):
                store.store(group=group, name=path.stem, node=_group_file(path), package="_global_", provider=str(path))
    further = [f"file://{Path(config_dir).resolve()}"] if config_dir else []
    OmegaConf.register_new_resolver("selfalign_search_path", lambda: further + _search_path(), replace=True)
    OmegaConf.register_new_resolver("selfalign_groups", _groups, replace=True)
    OmegaConf.register_new_resolver("selfalign_design", _design, replace=True)
    OmegaConf.register_new_resolver("selfalign_choices", ",".join, replace=True)


def _group_file(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: expected YAML, found a mistake: {' '.join(str(error).split())}"]) from None
    if content is not None and not isinstance(content, dict):
        raise ConfigError([f"{path}: expected a mapping of settings, found {type(content).__name__}"])
    return content or {}


def _search_path() -> list[str]:
    shipped = resources.shipped_root()
    return [f"file://{root / 'conf'}" for root in resources.roots() if root != shipped and (root / "conf").is_dir()]


def _groups() -> str:
    """Groups and their choices, one line each, for the help text; Hydra's own list shows the schemas too."""
    found: dict[str, set[str]] = {}
    for root in resources.roots():
        for path in [*(root / "conf").glob("*/*.yaml"), *root.glob("experiments/*.yaml"), *root.glob("sweeps/*.yaml")]:
            found.setdefault(path.parent.name, set()).add(path.stem)
    return "\n".join(f"  {group + '=':<14} {', '.join(sorted(found[group]))}" for group in sorted(found))


def _design(name: str, factors: Sequence[str], settings: DictConfig) -> str:
    """A design's jobs as the values of a swept list: `[],[a],[b]`."""
    return designs.as_choices(designs.drops(name, list(factors), OmegaConf.to_object(settings)))  # type: ignore[arg-type]


def config_folder() -> Path:
    """The folder of Hydra's primary configuration."""
    return resources.shipped_root() / "conf"


# ------------------------------------------------------------------------------------------------- composing


@contextmanager
def _hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="selfalign"):
        yield


def to_experiment(config: DictConfig) -> Experiment:
    """The composed configuration as a plain object. Raises ConfigError for a value that is missing or not of its
    type."""
    try:
        found = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError([_first_line(error)]) from None
    except FrozenInstanceError as error:
        # A key forced in with + has no field to go to.
        name = str(error).split("'")[1]
        near = did_you_mean(name, setting_names())
        raise ConfigError(
            [f"+{name}: unknown setting '{name}'{near}; + adds nothing here, every setting exists"]
        ) from None
    assert isinstance(found, Experiment) and is_dataclass(found.engine)  # the schema of config.yaml makes it so
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def expand(overrides: Sequence[str]) -> list[list[str]]:
    """The jobs of a multirun: one list of overrides for each combination of comma-separated values."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    Plugins.instance()
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [list(job) for batch in BasicSweeper.split_arguments(parsed, max_batch_size=None) for job in batch]


def jobs(overrides: Sequence[str], *, multirun: bool = False) -> tuple[list[list[str]], bool]:
    """The override lists of all jobs that a command line means, and whether it is a multirun.

    A multirun comes from `-m`, or from a file of `sweeps/` that sets hydra.mode. Overrides of Hydra's own settings concern the
    sweep, and are in no job of one. Raises ConfigError with every override that is wrong.
    """
    swept = axes(overrides)
    if not (multirun or swept is not None):
        return [list(overrides)], False
    return expand([*(swept or []), *(text for text in overrides if not is_hydras(text))]), True


def axes(overrides: Sequence[str]) -> list[str] | None:
    """The swept values that a file of `sweeps/` brings in, as overrides; None where the command line is no sweep by itself.

    Raises ConfigError with every override that is wrong, a sweeper other than Hydra's basic one among them.
    """
    config = _composed([_first_choice(override) for override in overrides], with_hydra=True)
    if config.hydra.sweeper._target_ != BASIC_SWEEPER:
        raise ConfigError(
            [
                f"hydra/sweeper: expected basic, found {config.hydra.sweeper._target_}; a sweep's jobs are all known and checked "
                "before the first, so give them as values or with a design in sweeps/"
            ]
        )
    if config.hydra.mode is None or config.hydra.mode.name != "MULTIRUN":
        return None
    try:
        found = OmegaConf.to_container(config.hydra.sweeper.params, resolve=True) if config.hydra.sweeper.params else {}
    except OmegaConfBaseException as error:
        raise _cause(error) from None
    return [f"{key}={value}" for key, value in found.items()]  # type: ignore[union-attr]


def grid(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """A sweep as what all of its jobs have, as overrides, and the values of each swept key: their product is the jobs."""
    texts = [*(axes(overrides) or []), *(text for text in overrides if not is_hydras(text))]
    constant: dict[str, str] = {}
    swept: dict[str, list[str]] = {}
    for one in OverridesParser.create().parse_overrides(texts):
        key = one.get_key_element()
        constant.pop(key, None)
        swept.pop(key, None)
        if one.is_sweep_override():
            swept[key] = list(one.sweep_string_iterator())
        elif key != "sweeps":
            constant[key] = one.input_line or ""
    return list(constant.values()), swept


BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def _cause(error: BaseException) -> BaseException:
    """The problem of ours that OmegaConf met while it resolved a value, where there is one."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, ConfigError):
        found = found.__cause__ or found.__context__
    return found or ConfigError([_first_line(error)])  # type: ignore[arg-type]


def is_hydras(override: str) -> bool:
    """Whether an override sets something of Hydra's own, such as `hydra/launcher=joblib`."""
    return override.lstrip("+~").startswith(("hydra.", "hydra/"))


def launch(overrides: Sequence[str], jobs: Sequence[Sequence[str]], folder: Path, work: Callable[[int], None]) -> None:
    """Have Hydra's launcher (`hydra/launcher=`: basic, joblib, submitit, ray) call `work` with the number of each job, in
    this process, in others, or on other machines.

    `overrides` are those of the command line, `jobs` what each job has; `folder` is where a launcher leaves its own files.
    """

    def task(config: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig

        work(HydraConfig.get().job.num)

    place = str(folder).replace("'", "\\'")
    own = [text for text in overrides if is_hydras(text)]
    with _hydra():
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        # A worker of a launcher does not know our resolvers: it is given what they say.
        path = ",".join(f"'{entry}'" for entry in OmegaConf.create({"path": "${selfalign_search_path:}"}).path)
        sweep = [*own, *jobs[0], f"hydra.sweep.dir='{place}'", f"hydra.searchpath=[{path}]"]
        config = hydra.compose_config("config", sweep, run_mode=RunMode.MULTIRUN)
        callbacks = Callbacks(config)
        callbacks.on_multirun_start(config=config, config_name="config")
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
            task_function=task,
            config=config,
        )
        for result in launcher.launch([list(job) for job in jobs], initial_job_idx=0):
            # A failed job says so in its folder; what is raised here is a mistake of the launcher's or ours.
            _ = result.return_value
        callbacks.on_multirun_end(config=config, config_name="config")


def _first_choice(override: str) -> str:
    """A swept override reduced to its first value, so that the command line can be composed once as a whole."""
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        return override
    if not parsed.is_sweep_override():
        return override
    return f"{parsed.key_or_group}={next(iter(parsed.sweep_string_iterator()))}"


def _composed(overrides: Sequence[str], *, with_hydra: bool = False, bases: Bases | None = None) -> DictConfig:
    """The configuration of one job. Raises ConfigError with every override that is wrong, each with a suggestion.

    `bases` keeps what jobs with the same choices of groups have in common.
    """
    with _hydra():
        try:
            if bases is not None:
                return bases.compose(overrides)
            return hydra_compose("config", overrides=list(overrides), return_hydra_config=with_hydra)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError):
            found, right = _blame(overrides)
            if not found:
                raise
    # What the right overrides describe may be wrong in itself: say so now, not after the first repair.
    raise ConfigError(found + _problems_of(right))


class Bases:
    """What the jobs of a sweep have in common: for each choice of groups, the configuration without any value set."""

    def __init__(self) -> None:
        self._groups: set[str] = set()
        self._configs: dict[tuple[str, ...], DictConfig] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one job: that of its groups, and the job's values set on a copy, which is what Hydra itself
        does after composing. Needs an initialised Hydra."""
        self._groups = self._groups or set(GlobalHydra.instance().config_loader().list_groups(""))
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        values = [one for one in parsed if one.key_or_group not in self._groups]
        if any(one.type is not OverrideType.CHANGE or is_hydras(one.key_or_group) for one in values):
            return hydra_compose("config", overrides=list(overrides))
        key = tuple(one.input_line or "" for one in parsed if one.key_or_group in self._groups)
        if key not in self._configs:
            self._configs[key] = hydra_compose("config", overrides=list(key))
        config = copy.deepcopy(self._configs[key])
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        return config


def _problems_of(overrides: Sequence[str]) -> list[str]:
    try:
        return experiment.problems(compose(overrides))
    except ConfigError as error:
        return error.problems


def compose(overrides: Sequence[str], bases: Bases | None = None) -> Experiment:
    """The experiment of one job. Raises ConfigError with every override that is wrong, each with a suggestion.

    `bases` keeps what jobs with the same choices of groups have in common.
    """
    return to_experiment(_composed(overrides, bases=bases))


def _blame(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is wrong with the overrides, tried one by one on top of those that are right, and those that are right.

    Group choices come first: they decide which settings there are.
    """
    loader = GlobalHydra.instance().config_loader()
    groups = [group for group in loader.list_groups("") if group not in ("schema", "hydra")]
    parser = OverridesParser.create()
    parsed: list[Override] = []
    found: list[str] = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException:
            found.append(
                f"'{text}': expected KEY=VALUE, found something else; quote values with spaces, commas or brackets"
            )
    parsed.sort(key=lambda override: override.key_or_group not in groups)
    right: list[str] = []
    for override in parsed:
        line = override.input_line or ""
        try:
            hydra_compose("config", overrides=[*right, line])
            right.append(line)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
            found.append(_explain(override, groups, error))
    return found, right


LAUNCHERS = {
    **dict.fromkeys(("slurm", "submitit_local", "submitit_slurm"), "'selfalign[slurm]'"),
    "joblib": "'selfalign[joblib]'",
    "ray": "'selfalign[ray_launcher]'",
}
"""Choice of `hydra/launcher=` that is a plugin of Hydra -> what pip installs it from."""


def _explain(override: Override, groups: Sequence[str], error: Exception) -> str:
    key, line = override.key_or_group, override.input_line
    if override.is_sweep_override():
        return f"{line}: expected one value for a single run, found several; `selfalign run -m` makes a sweep of them"
    if key == "hydra/launcher" and (package := LAUNCHERS.get(str(override.value()))):
        return (
            f"{line}: expected the plugin of Hydra that it is, found none that works; run `pip install {package}`, or leave the "
            "launcher out: jobs then run one after another"
        )
    if key in groups:
        options = GlobalHydra.instance().config_loader().get_group_options(key)
        values = override.value() if isinstance(override.value(), list) else [override.value()]
        wrong = [str(value) for value in values if str(value) not in options]  # type: ignore[union-attr]
        if wrong:
            return f"{line}: {unknown(f'choice for {key}=', wrong[0], options)}"
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__  # type: ignore[assignment]
    settings = setting_names()
    # A value refused at this very key has a place to go to, though a key of a mapping is no setting's name.
    misplaced = not (isinstance(cause, ValidationError) and cause.full_key == key)
    if misplaced and key not in settings and key not in groups and not key.startswith("hydra"):
        parent, _, last = key.rpartition(".")
        beside = [name for name in settings if name.rpartition(".")[0] == parent]
        if beside:
            names = [name.rpartition(".")[2] for name in beside]
            where = f"setting of {parent}" if parent else "setting"
            return f"{line}: {unknown(where, last, {*names, *(groups if not parent else [])})}"
        return f"{line}: unknown setting '{key}'{did_you_mean(key, [*settings, *groups])}"
    return f"{line}: {re.sub(chr(10) + '.*', '', str(cause), flags=re.DOTALL)}"


def setting_names() -> list[str]:
    """Every setting as a dotted key, engines included."""

    def walk(kind: Any, prefix: str) -> Iterator[str]:
        for field in fields(kind):
            name = f"{prefix}{field.name}"
            yield name
            inner = field.default_factory if field.default_factory is not MISSING else None
            if isinstance(inner, type) and is_dataclass(inner):
                yield from walk(inner, f"{name}.")
            elif inner is not None and is_dataclass(value := inner()):
                yield from walk(type(value), f"{name}.")

    found = list(walk(Experiment, ""))
    for kind in ENGINES.values():
        found += walk(kind, "engine.")
    return list(dict.fromkeys(found))


def checked(
    jobs: Sequence[Sequence[str]],
    allowed: Callable[[Experiment, str], bool] = lambda one, problem: False,
    memo: Memo | None = None,
) -> list[Experiment]:
    """The experiments of all jobs. Raises ConfigError with every problem of every job, before any model is loaded.

    `allowed` says which problems of an experiment the caller can do with. `memo` is the command's.
    """
    bases = Bases()
    memo = memo or Memo()
    found: dict[str, list[str]] = {}
    experiments: list[Experiment] = []
    for job in jobs:
        try:
            one = compose(job, bases)
            problems = [problem for problem in experiment.problems(one, memo) if not allowed(one, problem)]
            experiments.append(one)
        except ConfigError as error:
            problems = error.problems
        for problem in problems:
            found.setdefault(problem, []).append(" ".join(job) or "(no override)")
    if found:
        raise ConfigError(
            problem
            if len(arms) == len(jobs)
            else f"{problem}  [in {len(arms)} of {len(jobs)} jobs: {'; '.join(arms[:3])}]"
            for problem, arms in found.items()
        )
    return experiments
