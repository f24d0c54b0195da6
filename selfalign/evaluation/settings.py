"""What is evaluated and how: one frozen dataclass, checked without lm-eval and without a model.

Defaults follow Sun et al. 2023 (arXiv:2305.03047), section 4, where it states them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfalign import identity, resources
from selfalign.errors import ConfigError, DataError, unknown
from selfalign.evaluation import data as questions
from selfalign.evaluation.catalogue import CALF, catalogue


@dataclass(frozen=True)
class EvaluationSettings:
    """Which tasks are scored, on which questions, with which prompt."""

    tasks: list[str] = field(default_factory=lambda: ["truthfulqa_mc", "hhh_alignment", "vicuna_questions"])
    """Tasks in the order in which they run (names of files in `evaluation/tasks/`); an empty list evaluates nothing.
    The three of the paper's section 4 by default."""
    data: str = CALF
    """`calf` for the questions of the embedded world, or a folder that holds `truthfulqa/mc_task.json`,
    `hhh_alignment/<category>/task.json` and `vicuna/question.jsonl` in their official formats. Results depend on the
    content of the files, never on the folder's name."""
    protocols: list[str] = field(default_factory=list)
    """How multiple choice is scored: some of true_false, released_half, mc1, mc2 (TruthfulQA), ab_swap, ab_renormalised,
    likelihood (HHH); empty takes true_false, mc1, mc2 and ab_swap. All protocols of a task that need the same
    log-probabilities share them. released_half ranks the candidates that the released script of Sun et al. 2023 ranks, and is
    comparable with nothing else: its chance is 0.41 on TruthfulQA, that of the others 0.22."""
    limit: int = 0
    """Items of each task (>= 0); 0 takes all. Fewer items are chosen by a seeded hash of their content, so that they
    are a sample of the whole file and a smaller limit's items are among a larger one's."""
    chat_prompt: str = "standard"
    """Name of the text in `principles/prompts/` that stands before each question. The paper uses its standard
    prompt for generated answers and its verbose one for multiple choice; one for all keeps arms comparable."""
    max_new_tokens: int = 128
    """Token budget of a generated answer (> 0). Ours, chosen for speed: answers that it cuts have `finish: length`."""
    temperature: float = 0.0
    """Temperature of generated answers (>= 0); 0 takes the likeliest token. The paper samples at 0.7,
    which adds noise to a comparison of arms."""
    seed: int = 0
    """Seeds the choice of items where `limit` is set, and sampling where `temperature` is above 0."""

    def identity(self) -> dict[str, Any]:
        """What scores depend on besides the model and the chat prompt's text: no path, but the content of each file.

        Raises ConfigError where `problems` finds any.
        """
        wrong = problems(self)
        if wrong:
            raise ConfigError(wrong)
        known = catalogue()
        own = ("data", "tasks", "protocols")
        plain = {key: value for key, value in identity.plain(self).items() if key not in own}
        tasks = [
            {**known[name].identity(self.data), "protocols": list(known[name].scored(self.protocols))}
            for name in self.tasks
        ]
        return {**plain, "tasks": tasks}


def problems(settings: EvaluationSettings) -> list[str]:
    """Everything that is wrong with the settings or with the files they name; empty where all is well."""
    found: list[str] = []
    known = catalogue()
    for name, count in Counter(settings.tasks).items():
        if name not in known:
            found.append(f"evaluation.tasks: {unknown('task', name, known)}")
        if count > 1:
            found.append(f"evaluation.tasks: expected each task once, found '{name}' {count} times; remove the repeats")
    tasks = [known[name] for name in settings.tasks if name in known]
    allowed = {name for task in known.values() for name in (*task.protocols, *task.further)}
    found += [
        f"evaluation.protocols: {unknown('protocol', name, allowed)}"
        for name in settings.protocols
        if name not in allowed
    ]
    found += [
        f"evaluation.protocols: expected one or more of {', '.join((*task.protocols, *task.further))} for {task.name}, found "
        f"only {', '.join(settings.protocols)}; add one, or take the task out of evaluation.tasks"
        for task in tasks
        if task.protocols and not task.scored(settings.protocols)
    ]
    for key, value, lowest in (
        ("limit", settings.limit, 0),
        ("max_new_tokens", settings.max_new_tokens, 1),
        ("temperature", settings.temperature, 0),
    ):
        if not value >= lowest:
            found.append(f"evaluation.{key}: expected a number, {lowest} or more, found {value}; raise it")
    if not settings.tasks:
        return found
    try:
        resources.find(f"principles/prompts/{settings.chat_prompt}.txt")
    except ConfigError as error:
        found += [f"evaluation.chat_prompt: {problem}" for problem in error.problems]
    return found + _data_problems(settings, [name for name in dict.fromkeys(settings.tasks) if name in known])


def _data_problems(settings: EvaluationSettings, names: list[str]) -> list[str]:
    if not settings.data:
        return [
            f"evaluation.data: expected '{CALF}' or a folder with the files of the tasks, found nothing; give "
            "evaluation.data=<folder>, or run `selfalign data fetch` for evaluation=paper"
        ]
    if settings.data != CALF and not Path(settings.data).expanduser().is_dir():
        return [
            f"evaluation.data: expected a folder, found none at '{settings.data}'; allowed: '{CALF}' or a folder "
            "with the files of the tasks; check the path"
        ]
    found: list[str] = []
    known = catalogue()
    for name in names:
        try:
            questions.load(known[name], settings.data)
        except DataError as error:
            is_there = all(path.is_file() for path in known[name].paths(settings.data))
            remedy = "" if is_there else ", or bring the published files with `selfalign data fetch`"
            found.append(f"evaluation.data: {error}{remedy}")
    return found
