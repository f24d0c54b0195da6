"""Stage 1a, Self-Instruct: the model continues a numbered list of tasks; what passes the filters becomes prompts.

Source: Sun et al. 2023, section 3.1 and appendix; IBM/Dromedary dromedary_v1 `generate_vanilla_instruction.py`; Wang et
al. 2022 (Self-Instruct) for machine-written demonstrations.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from selfalign import filters, jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.errors import ConfigError
from selfalign.identity import digest, plain, seed_of, short_id
from selfalign.prompts import Parsing
from selfalign.records import Prompt, to_row
from selfalign.similarity import Novelty
from selfalign.stages.base import Context, CountTokens, count, generate, no_room

FORBIDDEN_WORDS = [
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot",
    "go to", "video", "audio", "music", "flowchart", "diagram",
]  # fmt: skip
"""What a text model cannot make or open: the 18 entries of the reference."""


SHORTEST_TASK_TOKENS = 48
"""Tokens of a short task: a request that leaves fewer cannot yield anything."""


@dataclass(frozen=True)
class SelfInstruct:
    """Settings of stage 1a."""

    target: int = 300
    """Prompts to keep; generation stops when they are reached (reference: 8,192 in each of 32 groups)."""
    seed_demos: int = 5
    """Human seed tasks shown in each request (reference: 5)."""
    machine_demos: int = 0
    """Kept machine-written tasks shown in each request (reference: 0; original Self-Instruct: 2)."""
    shuffle_demos: bool = False
    """Whether seed and machine-written demonstrations are mixed (original Self-Instruct: yes), instead of the seeds first."""
    list_length: int = 20
    """How many tasks the prompt announces (reference: 20)."""
    requests_per_round: int = 32
    """Requests between two looks at the yield (> 0); with machine demonstrations also between two updates of their
    pool."""
    max_rounds: int = 40
    """Rounds after which generation stops, whatever is kept."""
    min_yield: float = 0.02
    """Generation stops when a round keeps a smaller share of the tasks it wrote (0..1)."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=384, temperature=1.0, top_p=0.98))
    """How lists are drawn (paper: 384 tokens, temperature 1, top-p 0.98; the released script allows 1,024 tokens)."""
    stops: list[str] = field(default_factory=list)
    """Texts before which a list ends (reference: none; original Self-Instruct: a blank line, and the number 16 at the start
    of a line or before a full stop)."""
    parsing: Parsing = Parsing.lenient
    """How lists are read: under `reference`, one false number may cost all later tasks of its list, and the last task is
    always dropped."""
    drop_truncated_lists: bool = False
    """Whether every task of a list that ran out of tokens is dropped (original Self-Instruct: yes)."""
    min_words: int = 4
    """Fewest words of an instruction."""
    max_words: int = 150
    """Most words of an instruction."""
    forbidden_words: list[str] = field(default_factory=lambda: list(FORBIDDEN_WORDS))
    """Whole words that drop a task, in instruction or input (reference: these 18; original Self-Instruct: the first 13, in
    the instruction alone)."""
    forbidden_starts: list[str] = field(default_factory=list)
    """Texts that drop an instruction which begins with them to the letter (reference: none; original Self-Instruct: "Write a
    program")."""
    novelty: float = 0.7
    """Highest ROUGE-L F with any seed or kept instruction (0..1)."""
    seed: int = 0
    """Seed of demonstrations and sampling."""
    texts: str = ""
    """Folder below `principles/` with `prompts/self_instruct.txt` and `seeds/tasks.jsonl`; empty for selfalign's
    own."""
    assistant: prompts.Assistant = field(default_factory=prompts.Assistant)
    """Fills placeholders of the prompt text."""

    VERSION: ClassVar[str] = "2"
    READS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = True

    def _texts(self) -> tuple[str, list[prompts.Task]]:
        meta = prompts.fill(prompts.load_text("self_instruct", self.texts), self.assistant)
        return meta, prompts.load_seed_tasks(self.texts)

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, prompt text, seeds and model."""
        meta, seeds = self._texts()
        settings = plain(self)
        del settings["texts"], settings["assistant"]
        content = {"prompt": digest(meta), "seeds": digest(plain(seeds))}
        return {"settings": settings, "content": content, "engine": context.engine.identity()}

    def problems(self, context: Context) -> list[str]:
        """Impossible counts and missing texts."""
        found = []
        for name, least in (
            ("target", 1),
            ("seed_demos", 0),
            ("machine_demos", 0),
            ("requests_per_round", 1),
            ("max_rounds", 1),
        ):
            if getattr(self, name) < least:
                found.append(f"self_instruct.{name}: expected at least {least}, found {getattr(self, name)}")
        found += [
            f"self_instruct.{name}: expected texts of at least one character, found an empty one, which begins every "
            "instruction and ends every list; remove it"
            for name in ("stops", "forbidden_words", "forbidden_starts")
            if "" in getattr(self, name)
        ]
        try:
            _, seeds = self._texts()
        except ConfigError as error:
            return found + [f"self_instruct.texts: {problem}" for problem in error.problems]
        if self.seed_demos > len(seeds):
            found.append(
                f"self_instruct.seed_demos: expected at most {len(seeds)} (the seeds), found {self.seed_demos}"
            )
        return found

    def unfit(self, context: Context) -> str:
        """A prompt that leaves no room for one short task."""
        meta, seeds = self._texts()
        demos = sorted(seeds, key=lambda task: len(task.instruction) + len(task.input))
        middle = demos[len(demos) // 2 :][: self.seed_demos + self.machine_demos]
        prompt = prompts.self_instruct_prompt(meta, middle, self.list_length)
        remedy = f"use fewer self_instruct.seed_demos (now {self.seed_demos}) or a model with a longer context"
        return no_room(context, prompt, SHORTEST_TASK_TOKENS, remedy, "a request")

    def preview(self, question: str, count_tokens: CountTokens) -> dict[str, str]:
        """A request of the first round, with the first seeds as demonstrations; `question` has no place in it."""
        meta, seeds = self._texts()
        return {"self_instruct": prompts.self_instruct_prompt(meta, seeds[: self.seed_demos], self.list_length)}

    def _requests(
        self, meta: str, seeds: list[prompts.Task], machine: list[prompts.Task], round_number: int
    ) -> tuple[list[GenerateRequest], list[int]]:
        """The requests of a round, and for each the number of its first open slot."""
        requests, firsts = [], []
        shared = prompts.fill_slots(meta, total=str(self.list_length)).rstrip("\n")
        for index in range(self.requests_per_round):
            name = f"{round_number:04d}-{index:04d}"
            draw = random.Random(seed_of(self.seed, "self_instruct demos", name))
            demos = draw.sample(seeds, self.seed_demos) + draw.sample(machine, min(self.machine_demos, len(machine)))
            if self.shuffle_demos:
                draw.shuffle(demos)
            prompt = prompts.self_instruct_prompt(meta, demos, self.list_length)
            seed = seed_of(self.seed, "self_instruct", name)
            requests.append(
                GenerateRequest(name, prompt, self.sampling, stop=tuple(self.stops), seed=seed, shared=shared)
            )
            firsts.append(len(demos) + 1)
        return requests, firsts

    def _reason(self, task: prompts.Task, novelty: Novelty, *, truncated: bool) -> str:
        return task.reason or filters.first_reason(
            check()
            for check in (
                lambda: "truncated_list" if truncated and self.drop_truncated_lists else "",
                lambda: filters.word_count(task.instruction, self.min_words, self.max_words),
                lambda: filters.forbidden_word(f"{task.instruction}\n{task.input}", self.forbidden_words),
                lambda: filters.forbidden_start(task.instruction, self.forbidden_starts),
                lambda: filters.first_character(task.instruction),
                lambda: novelty.reason(task.instruction),
            )
        )

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `prompts.jsonl` (kept and dropped) and `completions/` (what the model wrote, round by round)."""
        meta, seeds = self._texts()
        novelty = Novelty(self.novelty)
        for seed_task in seeds:
            novelty.add(seed_task.instruction)
        rows: list[Prompt] = []
        machine: list[prompts.Task] = []
        stopped, rounds = "max_rounds", 0
        completions = out / "completions"
        completions.mkdir(exist_ok=True)
        with (
            context.engine.open() as engine,
            context.progress("self_instruct", self.target, "prompts kept") as progress,
        ):
            for round_number in range(self.max_rounds):
                rounds += 1
                requests, firsts = self._requests(meta, seeds, machine, round_number)
                path = completions / f"{round_number:04d}.jsonl"
                answers = generate(engine, requests, path, shard=context.shard)
                before, wrote = len(machine), 0
                for answer, first in zip(answers, firsts, strict=True):
                    ran_out = answer.finish == "length"
                    for task in prompts.parse_tasks(answer.text, first, truncated=ran_out, parsing=self.parsing):
                        wrote += 1
                        reason = self._reason(task, novelty, truncated=ran_out)
                        if not reason and len(machine) >= self.target:
                            reason = "beyond_target"
                        if not reason:
                            novelty.add(task.instruction)
                            machine.append(task)
                        identity = short_id(task.instruction, task.input)
                        rows.append(
                            Prompt(identity, task.instruction, task.input, "self_instruct",
                                   kept=not reason, reason=reason, completion_id=answer.id)
                        )  # fmt: skip
                progress(len(machine), f"{len(rows)} written")
                if len(machine) >= self.target:
                    stopped = "target"
                    break
                if len(machine) - before < self.min_yield * max(wrote, 1):
                    stopped = "low_yield"
                    break
        jsonl.write(out / "prompts.jsonl", map(to_row, rows))
        outcome = count(rows)
        outcome.metrics = {"stopped": stopped, "rounds": rounds}
        return outcome
