"""One experiment: the whole configuration as plain dataclasses, the pipeline it describes, and what is wrong with it.

This is what Hydra composes (`groups.py`) and what Python users build themselves:

    experiment = Experiment(principles=..., engine=HuggingFace(...))
    run(pipeline(experiment), Store(Path("store")), context(experiment))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from selfalign import budget, cost, designs, progress, shards
from selfalign.budget import BudgetSettings
from selfalign.cost import PlanSettings
from selfalign.designs import DesignSettings
from selfalign.engines.model import ModelSettings, model_folder, model_problems
from selfalign.engines.openai_api import Endpoint, OpenAIApi
from selfalign.errors import SelfAlignError, did_you_mean
from selfalign.evaluation.catalogue import CALF, catalogue
from selfalign.evaluation.settings import EvaluationSettings
from selfalign.evaluation.settings import problems as evaluation_problems
from selfalign.identity import digest, plain, transient
from selfalign.pipeline import Memo, Node
from selfalign.principles import ExemplarSettings, PrincipleSettings
from selfalign.prompts import Assistant
from selfalign.stages.base import Context
from selfalign.stages.contamination import Contaminated, Contamination, ContaminationSettings
from selfalign.stages.engrave import Engrave
from selfalign.stages.engraving_gap import EngravingGap, GapSettings
from selfalign.stages.evaluate import SUBJECTS, Evaluate
from selfalign.stages.given_answers import GivenAnswers
from selfalign.stages.merge import Merge
from selfalign.stages.parity import Parity
from selfalign.stages.pretrain import Pretrain
from selfalign.stages.red_team import RedTeam
from selfalign.stages.self_align import SelfAlign
from selfalign.stages.self_critique import SelfCritique
from selfalign.stages.self_instruct import SelfInstruct
from selfalign.stages.verbose_clone import VerboseClone
from selfalign.tracking import TrackingSettings
from selfalign.tracking import problems as tracking_problems
from selfalign.training.settings import TrainerSettings


@dataclass(frozen=True)
class Stages:
    """Which stages run."""

    self_instruct: bool = True
    """Stage 1a: the model writes its own prompts."""
    tgrt: bool = True
    """Stage 1b: topic-guided red-teaming."""
    self_align: bool = True
    """Stage 2: answers behind the principles."""
    self_critique: bool = False
    """Between 2 and 3: each answer criticised under one drawn principle and revised. No part of the paper's method."""
    engrave: bool = True
    """Stage 3: LoRA training on the answers."""
    verbose_clone: bool = True
    """Stage 4: long answers of the engraved model, and a second LoRA training on them."""
    evaluate: bool = True
    """Scores of every model that the run has."""
    engraving_gap: bool = True
    """How much of the prompted behaviour engraving put into the weights, where stage 3 runs."""
    given_answers: bool = False
    """Instructions and answers of a file in the place of stages 1 and 2 (the baselines)."""
    pretrain: bool = False
    """Calf, the embedded base model, trained from nothing."""
    follow_first: bool = False
    """Whether the verbose student starts from the engraved adapter instead of the base model (the reference: the base)."""
    leave_out_unfit: bool = False
    """Whether a stage whose prompt does not fit the model's context is left out, with what depends on it, instead of refused."""


@dataclass(frozen=True)
class Experiment:
    """Every setting of a run; each top-level key is a Hydra group or a plain value."""

    name: str = "selfalign"
    """Name of the experiment: the folder below `runs` and the W&B group."""
    seed: int = 0
    """Seed that every stage takes unless it has its own."""
    store: str = transient("store")
    """Folder of the artifacts; shared by all runs, so that they reuse one another's stages."""
    runs: str = transient("runs")
    """Folder of the run folders."""
    shard: str = transient("")
    """`i/n` for the i-th of n processes that generate together, on one store (`selfalign.shards`); empty for one alone."""
    texts: str = ""
    """Folder below `principles/` that prompt texts and seeds come from; empty for selfalign's own."""
    assistant: Assistant = field(default_factory=Assistant)
    """Who the assistant is."""
    principles: PrincipleSettings = field(default_factory=PrincipleSettings)
    """The rules (group `principles=`)."""
    exemplars: ExemplarSettings = field(default_factory=ExemplarSettings)
    """The worked exemplars (group `exemplars=`)."""
    stages: Stages = field(default_factory=Stages)
    """Which stages run (group `stages=`)."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """The base model (group `model=`)."""
    engine: Any = None
    """How text is generated and scored (group `engine=`)."""
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    """Devices, strategy and precision of training (group `trainer=`)."""
    self_instruct: SelfInstruct = field(default_factory=SelfInstruct)
    """Stage 1a."""
    red_team: RedTeam = field(default_factory=RedTeam)
    """Stage 1b."""
    merge: Merge = field(default_factory=Merge)
    """Stage 1c."""
    contamination: ContaminationSettings = field(default_factory=ContaminationSettings)
    """Comparison of all prompts with the evaluation sets."""
    self_align: SelfAlign = field(default_factory=SelfAlign)
    """Stage 2."""
    self_critique: SelfCritique = field(default_factory=SelfCritique)
    """Between 2 and 3, where `stages.self_critique` is on."""
    given_answers: GivenAnswers = field(default_factory=GivenAnswers)
    """What is engraved where `stages.given_answers` is on."""
    engrave: Engrave = field(default_factory=Engrave)
    """Stage 3."""
    verbose_clone: VerboseClone = field(default_factory=VerboseClone)
    """Stage 4, generation."""
    verbose_engrave: Engrave = field(default_factory=Engrave)
    """Stage 4, training."""
    engraving_gap: GapSettings = field(default_factory=GapSettings)
    """Which responses the engraving gap is measured on."""
    pretrain: Pretrain = field(default_factory=Pretrain)
    """Pretraining of the embedded base model."""
    parity: bool = True
    """Whether the arms of a sweep that answer the same prompts train only on those prompts whose answers all of them keep
    (`selfalign.stages.parity`)."""
    arms: dict[str, Any] = field(default_factory=dict)
    """The other arms of the sweep that this run must be at parity with: label -> Experiment. A sweep sets it (`selfalign.arms`)."""
    subjects: list[str] = field(default_factory=lambda: list(SUBJECTS))
    """Which models of the run are scored: some of base, prompted, engraved, cloned."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """What is scored and how (group `evaluation=`)."""
    on_failure: str = transient("continue")
    """What a sweep does when a job has failed: `continue` with the others, `stop`, or `max:k`: begin no further job once k
    have failed."""
    design: DesignSettings = field(default_factory=DesignSettings, metadata={"transient": True})
    """Which jobs the designs of `sweeps/` make."""
    plan: PlanSettings = field(default_factory=PlanSettings, metadata={"transient": True})
    """What `selfalign plan` reckons with."""
    budget: BudgetSettings = field(default_factory=BudgetSettings, metadata={"transient": True})
    """What the run may spend; in a sweep, each job."""
    sweep_budget: BudgetSettings = field(default_factory=BudgetSettings, metadata={"transient": True})
    """What the jobs of a sweep may spend together."""
    tracking: TrackingSettings = field(default_factory=TrackingSettings, metadata={"transient": True})
    """Where runs are logged (group `tracking=`)."""


def run_id(experiment: Experiment) -> str:
    """`<name>-<8 hex>`: the same settings give the same run folder, whatever they are stored in and wherever they run."""
    settings = plain(replace(experiment, arms={}))
    del settings["arms"]
    if experiment.arms:
        settings["arms"] = sorted(digest(plain(arm)) for arm in experiment.arms.values())
    return f"{experiment.name}-{digest(settings)[:8]}"


def context(experiment: Experiment, *, quiet: bool = False) -> Context:
    """What the stages of this experiment share; loads nothing yet."""
    shown = {} if quiet else {"progress": progress.shown, "say": progress.say}
    return Context(
        engine=experiment.engine,
        trainer=experiment.trainer,
        shard=shards.read(experiment.shard),
        model_folder=lambda: model_folder(experiment.model),
        **shown,
    )


def pipeline(experiment: Experiment) -> dict[str, Node]:
    """The nodes of this experiment, whatever is wrong with them; `problems` says what is."""
    nodes, asked = _prompts(experiment)
    arms = {"": replace(experiment, arms={}), **experiment.arms}
    for label, arm in arms.items():
        nodes |= _answers(arm, asked, label)
    parity = _parity("parity", arms, asked, nodes)
    nodes |= parity
    for label, arm in arms.items() if experiment.stages.engrave else ():
        # What another arm engraves matters where this one is cut to the long answers of both.
        if not label or (experiment.stages.verbose_clone and arm.stages.verbose_clone):
            nodes |= _engraved(arm, asked, label, parity)
    if experiment.stages.verbose_clone:
        parity = _parity("verbose_parity", arms, asked, nodes)
        start = {"adapter": "engraved"} if experiment.stages.follow_first else {}
        inputs = {"responses": "verbose_responses", **start, **_role(parity)}
        nodes |= {**parity, "cloned": Node(experiment.verbose_engrave, inputs)}
    # Answers that are given have no writer whose log-probabilities could be asked for.
    if experiment.stages.engrave and experiment.stages.engraving_gap and not experiment.stages.given_answers:
        students = {"engraved": "engraved", **({"cloned": "cloned"} if experiment.stages.verbose_clone else {})}
        inputs = {"prompts": asked, "responses": _answers_node(experiment.stages), **students}
        nodes["engraving_gap"] = Node(EngravingGap(experiment.engraving_gap, experiment.self_align), inputs)
    if experiment.stages.evaluate:
        nodes |= _evaluations(experiment)
    return nodes


def _prompts(experiment: Experiment) -> tuple[dict[str, Node], str]:
    """The nodes up to the prompts, and the one of them that holds the prompts to be answered."""
    on, nodes = experiment.stages, {}
    sources = {}
    if on.pretrain:
        nodes["calf"] = Node(experiment.pretrain)
    if on.self_instruct:
        nodes["instructions"] = Node(experiment.self_instruct)
        sources["self_instruct"] = "instructions"
    if on.tgrt:
        nodes["red_team"] = Node(experiment.red_team)
        sources["red_team"] = "red_team"
    if sources or experiment.merge.file:
        nodes["prompts"] = Node(experiment.merge, sources)
    asked = "prompts"
    if asked in nodes and experiment.contamination.mode is not Contaminated.off:
        nodes["contamination"] = Node(_check(experiment), {"prompts": asked})
        # Only where the check takes prompts out does anything depend on the evaluation sets.
        asked = "contamination" if experiment.contamination.mode is Contaminated.remove else asked
    return nodes, asked


def _check(experiment: Experiment) -> Contamination:
    return Contamination(experiment.contamination, experiment.evaluation.data or CALF)


def _of(node: str, arm: str) -> str:
    """The name of an arm's node; the run's own have their plain names."""
    return f"{node} ({arm})" if arm else node


def _answers(arm: Experiment, asked: str, label: str) -> dict[str, Node]:
    nodes = {}
    if arm.stages.given_answers:
        nodes[_of("responses", label)] = Node(arm.given_answers, {}, label)
        if arm.contamination.mode is not Contaminated.off:
            nodes[_of("contamination", label)] = Node(_check(arm), {"prompts": _of("responses", label)}, label)
    elif arm.stages.self_align:
        nodes[_of("responses", label)] = Node(arm.self_align, {"prompts": asked}, label)
    if arm.stages.self_critique:
        nodes[_of("critiqued", label)] = Node(arm.self_critique, {"responses": _of("responses", label)}, label)
    return nodes


def _answers_node(stages: Stages) -> str:
    """The node whose answers are engraved."""
    return "critiqued" if stages.self_critique else "responses"


def _engraved(arm: Experiment, asked: str, label: str, parity: dict[str, Node]) -> dict[str, Node]:
    inputs = {"responses": _of(_answers_node(arm.stages), label), **_role(parity)}
    nodes = {_of("engraved", label): Node(arm.engrave, inputs, label)}
    if arm.stages.verbose_clone:
        inputs = {"prompts": asked, "adapter": _of("engraved", label)}
        nodes[_of("verbose_responses", label)] = Node(arm.verbose_clone, inputs, label)
    return nodes


def _parity(name: str, arms: Mapping[str, Experiment], asked: str, nodes: Mapping[str, Node]) -> dict[str, Node]:
    """The node that cuts the arms of a sweep to their common prompts; none where nothing that it compares differs."""
    compared: dict[str, str] = {}
    for label, arm in arms.items():
        makers = [arm.self_align, arm.self_critique if arm.stages.self_critique else None]
        makers += [arm.engrave, arm.verbose_clone] if name == "verbose_parity" else []
        node = _of("verbose_responses" if name == "verbose_parity" else _answers_node(arm.stages), label)
        if node in nodes:
            compared.setdefault(digest(plain(makers)), node)
    if len(compared) < 2:
        return {}
    # In an order of the settings' own, so that every arm names the cut alike and it is computed once.
    inputs = {f"arm_{number:03}": compared[key] for number, key in enumerate(sorted(compared), start=1)}
    return {name: Node(Parity(), {"prompts": asked, **inputs})}


def _role(parity: Mapping[str, Node]) -> dict[str, str]:
    return {"parity": next(iter(parity))} if parity else {}


def _evaluations(experiment: Experiment) -> dict[str, Node]:
    on, nodes = experiment.stages, {}
    trained = {"engraved": on.engrave, "cloned": on.verbose_clone}
    for subject in experiment.subjects:
        if not trained.get(subject, True):
            continue
        stage = Evaluate(
            settings=experiment.evaluation,
            subject=subject,
            texts=experiment.texts,
            assistant=experiment.assistant,
            # Rules and exemplars matter to the prompted base alone: the other scores are shared between arms.
            prompted=experiment.self_align if subject == "prompted" else None,
        )
        nodes[f"scores_{subject}"] = Node(stage, {"adapter": subject} if subject in trained else {})
    return nodes


def fitting(
    experiment: Experiment, nodes: dict[str, Node], memo: Memo | None = None
) -> tuple[dict[str, Node], dict[str, str]]:
    """The nodes that can run with this model, and why each of the others is left out.

    Nothing is left out unless `stages.leave_out_unfit` asks for it: an unfit stage is then a problem. `memo` is the command's.
    """
    if not experiment.stages.leave_out_unfit:
        return nodes, {}
    asked = _Asked(experiment, memo or Memo())
    left_out = {name: unfit for name, node in nodes.items() if (unfit := asked.unfit(node))}
    changed = True
    while changed:
        changed = False
        for name, node in nodes.items():
            gone = [source for source in node.inputs.values() if source in left_out]
            needed = [source for role, source in node.inputs.items() if role in node.stage.READS and source in left_out]
            everything = bool(node.inputs) and len(gone) == len(node.inputs) and not experiment.merge.file
            if name not in left_out and (needed or everything):
                left_out[name] = f"reads {', '.join(gone)}, which is left out"
                changed = True
    kept = {
        name: replace(node, inputs={role: source for role, source in node.inputs.items() if source not in left_out})
        for name, node in nodes.items()
        if name not in left_out
    }
    return kept, left_out


class _Asked:
    """What the stages of an experiment say about themselves, each asked once for all arms that have it alike."""

    def __init__(self, experiment: Experiment, memo: Memo) -> None:
        self.context, self.memo = context(replace(experiment, shard=""), quiet=True), memo
        self.machine = (experiment.engine, experiment.trainer)

    def unfit(self, node: Node) -> str:
        """Why a node cannot run with this model."""
        return self.memo("unfit", (node.stage, *self.machine), partial(node.stage.unfit, self.context))

    def problems(self, node: Node) -> list[str]:
        """What is wrong with a node's settings and the texts that they name."""

        def found() -> list[str]:
            try:
                return node.stage.problems(self.context)
            except SelfAlignError as error:
                return [str(error)]

        return self.memo("problems", (node.stage, *self.machine), found)


def _chat_problems(experiment: Experiment) -> list[str]:
    """Stages and tasks that need more than the answers of a chat model."""
    found = []
    if experiment.stages.engrave:
        found.append(
            "stages: expected none that train with engine.endpoint=chat, found engrave; take stages=prompted_only, or a base "
            "model with engine.endpoint=completions"
        )
    tasks = catalogue()
    scored = [name for name in experiment.evaluation.tasks if name in tasks and tasks[name].protocols]
    if experiment.stages.evaluate and scored:
        generated = [name for name, task in tasks.items() if not task.protocols]
        found.append(
            f"evaluation.tasks: expected tasks whose answers are generated with engine.endpoint=chat, found {', '.join(scored)}, "
            f"which need log-probabilities (allowed: {', '.join(generated)}); set evaluation.tasks=[{','.join(generated)}]"
        )
    return found


def problems(experiment: Experiment, memo: Memo | None = None) -> list[str]:
    """Everything that is wrong with an experiment, found before any model is loaded; empty where nothing is.

    `memo` is the command's.
    """
    memo = memo or Memo()
    if isinstance(experiment.engine, OpenAIApi) and experiment.engine.endpoint == Endpoint.chat:
        # Of a chat model nothing lies here.
        found = _chat_problems(experiment)
    else:
        # Whether generation needs the weights, its engine says below; training always does.
        model = model_problems(experiment.model, weights=experiment.stages.engrave)
        found = [f"model: {problem}" for problem in model]
    found += _wiring_problems(experiment)
    found += [f"tracking: {problem}" for problem in tracking_problems(experiment.tracking)]
    evaluation = memo("evaluation", (experiment.evaluation,), partial(evaluation_problems, experiment.evaluation))
    found += [f"evaluation: {problem}" for problem in evaluation]
    found += [f"plan: plan.{problem}" for problem in cost.problems(experiment.plan)]
    for key in ("budget", "sweep_budget"):
        found += budget.problems(getattr(experiment, key), experiment.plan.price_per_hour, key)
    found += designs.problems(experiment.design)
    try:
        designs.failure_limit(experiment.on_failure)
    except SelfAlignError as error:
        found.append(str(error))
    found += [
        f"subjects: expected some of {', '.join(SUBJECTS)}, found '{name}'{did_you_mean(name, SUBJECTS)}"
        for name in experiment.subjects
        if name not in SUBJECTS
    ]
    found += shards.problems(experiment.shard)
    if not experiment.name or "/" in experiment.name or experiment.name.startswith("."):
        found.append(f"name: expected a name without '/' that does not start with a dot, found '{experiment.name}'")
    if not all(isinstance(arm, Experiment) for arm in experiment.arms.values()):
        found.append("arms: expected nothing, for a sweep sets it, found something; use -m or sweeps=<name>")
        return found
    # The arms of a sweep are runs of their own, and checked as such.
    nodes, asked = pipeline(replace(experiment, arms={})), _Asked(experiment, memo)
    for node in nodes.values():
        found += asked.problems(node)
    engine = [f"engine: {problem}" for problem in memo("engine", (experiment.engine,), experiment.engine.problems)]
    # Without a sound model and sound texts there is nothing to measure: only the first complaint would be repeated.
    if not found and not engine and not experiment.stages.leave_out_unfit:
        unfit = {name: asked.unfit(node) for name, node in nodes.items()}
        found = [f"{name}: {why}; or stages=fitting to leave it out" for name, why in unfit.items() if why]
    known = " ".join(found)
    return list(dict.fromkeys([*found, *(text for text in engine if text.removeprefix("engine: ") not in known)]))


def _wiring_problems(experiment: Experiment) -> list[str]:
    """Stages that are on although what they read is switched off."""
    on, found = experiment.stages, []
    if (on.self_align or on.verbose_clone) and not (on.self_instruct or on.tgrt or experiment.merge.file):
        found.append(
            "stages: self_align and verbose_clone read prompts, but self_instruct and tgrt are both off; switch one of them "
            "on or give merge.file=<JSONL of instructions>"
        )
    if on.engrave and not (on.self_align or on.given_answers):
        found.append("stages.engrave: it reads the responses of self_align, which is off; switch both on or both off")
    if on.given_answers:
        found += _given_problems(experiment)
    if on.self_critique and not on.self_align:
        found.append(
            "stages.self_critique: it reads the responses of self_align, which is off; switch both on or both off"
        )
    if on.verbose_clone and not on.engrave:
        found.append(
            "stages.verbose_clone: it reads the adapter of engrave, which is off; switch both on, or use stages=no_cloning"
        )
    if on.follow_first and not on.verbose_clone:
        found.append("stages.follow_first: it concerns verbose_clone, which is off; switch both on or both off")
    if not any(
        getattr(on, f.name) for f in fields(on) if f.name not in ("follow_first", "leave_out_unfit", "engraving_gap")
    ):
        found.append("stages: every stage is off, so there is nothing to do; switch one on")
    return found


def _given_problems(experiment: Experiment) -> list[str]:
    """What does not go together with answers that are given."""
    on, found = experiment.stages, []
    beside = [name for name in ("self_instruct", "tgrt", "self_align", "verbose_clone") if getattr(on, name)]
    beside += ["merge.file"] if experiment.merge.file else []
    if beside:
        found.append(
            f"stages.given_answers: it stands in the place of what writes prompts and answers, found {', '.join(beside)} beside "
            "it; switch that off (stages=given_answers does)"
        )
    if experiment.contamination.mode is Contaminated.remove:
        found.append(
            "contamination.mode: expected report or off with stages.given_answers, whose answers are there already, found remove; "
            "take the rows out of the file instead (contamination/matches.jsonl names them)"
        )
    return found
