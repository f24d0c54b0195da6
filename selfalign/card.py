"""Calf's card: the quickstart's settings in; the numbers of `docs/calf.md` out, measured on held-out questions.

Every condition (a model, and a header before the questions) is a node of the pipeline: its answers are an artifact of the
store, named by the prompts, the sampling and the model, so that nothing is computed twice and Ctrl-C costs one group.
`selfalign.calf.measure` draws questions and headers and reads answers; `selfalign.report.calf_card` writes the page.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from selfalign import experiment as experiments
from selfalign import jsonl, prompts, runner
from selfalign.artifacts import MANIFEST, Artifact, Outcome, Store, provenance
from selfalign.calf import measure, world
from selfalign.calf.item import Item
from selfalign.calf.kinds import KINDS
from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.model import model_folder
from selfalign.errors import StageError
from selfalign.experiment import Experiment
from selfalign.identity import digest, plain
from selfalign.pipeline import Node, NodeResult, run
from selfalign.principles import resolve, resolve_exemplars
from selfalign.stages.base import COMPLETIONS, Context, generate, no_room
from selfalign.stages.pretrain import RECORD, corpus_digest

ANSWERS = "answers.jsonl"
GROUP = 128
"""Questions that are answered at once: more is faster, until memory is full."""
CHAT_TOKENS = 256
"""Token budget of an answer in the chat layout: no answer of the cloned model is cut."""
VARIED = 8
"""Random subsets, orders and numberings of the rules; each meets one question in so many."""
TRAINED = {"engraved": "engrave", "cloned": "verbose_engrave"}
"""The two students and the settings that they were trained with."""


@dataclass(frozen=True)
class Asked:
    """One question as it is put."""

    id: str
    question: str
    prompt: str


@dataclass(frozen=True)
class Ask:
    """A stage that puts prompts to the base model or a student and keeps the answers."""

    asked: tuple[Asked, ...]
    """The prompts."""
    shared: str
    """What they all begin with."""
    sampling: Sampling
    """How answers are drawn."""
    stop: tuple[str, ...]
    """Strings that end an answer."""
    condition: str = field(default="", metadata={"transient": True})
    """What the condition is called on the terminal."""

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ("adapter",)
    GENERATES: ClassVar[bool] = True

    def identity(self, context: Context) -> Mapping[str, Any]:
        """The prompts and their ids, sampling, stop strings and model."""
        content = [[asked.id, asked.prompt] for asked in self.asked]
        return {
            "content": digest(content),
            "sampling": plain(self.sampling),
            "stop": list(self.stop),
            "engine": context.engine.identity(),
        }

    def problems(self, context: Context) -> list[str]:
        """None: prompts are made by the program."""
        return []

    def unfit(self, context: Context) -> str:
        """A prompt that leaves no room for its answer."""
        longest = max((asked.prompt for asked in self.asked), key=len)
        return no_room(context, longest, self.sampling.max_new_tokens, "take a model with a longer context", "a prompt")

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `answers.jsonl`: id, question, completion, why it ended, tokens."""
        if unfit := self.unfit(context):
            raise StageError(f"{self.condition}: {unfit}")
        requests = [
            GenerateRequest(asked.id, asked.prompt, self.sampling, stop=self.stop, shared=self.shared)
            for asked in self.asked
        ]
        adapter = inputs["adapter"].path / "adapter" if "adapter" in inputs else None
        with (
            context.engine.open(adapter) as engine,
            context.progress(self.condition, len(requests), "answers") as progress,
        ):
            answers = generate(engine, requests, out / COMPLETIONS, progress, context.shard)
        rows = [
            {
                "id": asked.id,
                "question": asked.question,
                "text": answer.text,
                "finish": answer.finish,
                "new_tokens": answer.new_tokens,
            }
            for asked, answer in zip(self.asked, answers, strict=True)
        ]
        jsonl.write(out / ANSWERS, rows)
        (out / COMPLETIONS).unlink()
        outcome = Outcome(rows_in=len(rows), kept=len(rows))
        outcome.metrics = {
            "condition": self.condition,
            "new_tokens": sum(answer.new_tokens for answer in answers),
            "unfinished": sum(answer.finish == "length" for answer in answers),
        }
        return outcome


# ------------------------------------------------------------------------------------------------------ the conditions


@dataclass(frozen=True)
class Bench:
    """What all conditions share: the experiment whose settings are used, and the questions."""

    one: Experiment
    items: Mapping[str, Item]
    """By id, `<kind>/<number>`, kind by kind: answers of a kind are about as long as one another."""
    framed: int
    """Questions that stand behind a sentence that changes nothing."""

    @classmethod
    def of(cls, one: Experiment, questions: int) -> Bench:
        """The bench of an experiment, with `questions` held-out questions of every kind."""
        items: dict[str, Item] = {}
        framed = 0
        for kind in KINDS:
            drawn, behind = measure.questions(kind, questions, one.assistant)
            items |= {f"{kind}/{number:03d}": item for number, item in enumerate(drawn)}
            framed += behind
        return cls(one, items, framed)

    def chat(self, condition: str, chat_prompt: str) -> Ask:
        """Every question in the chat layout, without a header."""
        assistant = self.one.assistant
        meta = prompts.fill(prompts.load_text(chat_prompt, self.one.texts), assistant)
        asked = tuple(
            Asked(id, item.text, prompts.chat_prompt(meta, assistant, item.text)) for id, item in self.items.items()
        )
        return Ask(asked, meta, Sampling(CHAT_TOKENS, temperature=0.0), prompts.CHAT_STOPS, condition)

    def prompted(self, header: measure.Header, ids: Iterable[str]) -> Ask:
        """Some questions behind a header and the experiment's exemplars."""
        stage = self.one.self_align
        layout, speaker = prompts.load_layout(stage.texts), stage.speaker()
        exemplars = resolve_exemplars(stage.exemplars, header.rule_set)
        stem = prompts.self_align_stem(layout, header.rule_set, exemplars, speaker)
        asked = tuple(
            Asked(id, self.items[id].text, prompts.self_align_prompt(stem, layout, speaker, self.items[id].text))
            for id in ids
        )
        sampling = Sampling(stage.sampling.max_new_tokens, temperature=0.0)
        return Ask(asked, stem, sampling, prompts.self_align_stops(layout, speaker), header.name)

    def read_chat(self, rows: Iterable[jsonl.Row], rules: Iterable[str]) -> list[measure.Reading]:
        """Answers in the chat layout, read as those of a model under some rules."""
        found, in_force = [], set(rules)
        for row in rows:
            answer = row["text"].strip()
            tokens = self.one.engine.count_tokens(answer)
            found.append(measure.read_answer(self.items[row["id"]], in_force, answer, tokens))
        return found

    def read_prompted(self, rows: Iterable[jsonl.Row], header: measure.Header) -> list[measure.Reading]:
        """Completions behind a header."""
        layout, speaker = prompts.load_layout(self.one.self_align.texts), self.one.self_align.speaker()
        count = self.one.engine.count_tokens
        return [
            measure.read_completion(self.items[row["id"]], layout, header.rule_set, speaker, row["text"], count)
            for row in rows
        ]


def _answer(nodes: Mapping[str, Node], one: Experiment) -> dict[str, NodeResult]:
    """Run some nodes in the experiment's store. Raises StageError for the first that failed."""
    engine = one.engine
    if "batch_size" in {item.name for item in fields(engine)}:
        engine = replace(engine, batch_size=GROUP)
    shared = experiments.context(replace(one, engine=engine))
    results = run(nodes, Store(Path(one.store)), shared, _tell)
    for name, result in results.items():
        if result.status not in ("computed", "reused"):
            raise StageError(f"{name}: {result.why}")
    return results


def _tell(name: str, result: NodeResult | None) -> None:
    if result is not None and result.stage == Ask.__name__:
        text = f"  {name:<30} {result.status:<9} {result.counts.get('in', 0):>5,} answers  {result.seconds:.1f} s"
        print(text, file=sys.stderr, flush=True)


def _rows(result: NodeResult) -> list[jsonl.Row]:
    return jsonl.read(Path(result.path) / ANSWERS)


# ----------------------------------------------------------------------------------------------------------- numbers


def numbers(runs: Sequence[Experiment], *, questions: int, with_runs: bool, command: str) -> dict[str, Any]:
    """Everything that the page states, as plain JSON: `runs` are the quickstart under each seed, all in one store.

    Without `with_runs`, the two students are not measured. Raises StageError where a stage or a condition failed.
    """
    one = runs[0]
    bench = Bench.of(one, questions)
    held = measure.leave_one_out(one.self_align.principles)
    varied = measure.varied(one.self_align.principles, each=VARIED)
    nodes = {"base": Node(bench.chat("base", one.evaluation.chat_prompt))}
    nodes |= {header.name: Node(bench.prompted(header, bench.items)) for header in held}
    for header in varied:
        turn = int(header.name.rpartition("_")[2])
        ids = [id for number, id in enumerate(bench.items) if number % VARIED == turn]
        if ids:
            nodes[header.name] = Node(bench.prompted(header, ids))
    results = _answer(nodes, one)
    readings = {
        header.name: bench.read_prompted(_rows(results[header.name]), header)
        for header in (*held, *varied)
        if header.name in results
    }
    base = bench.read_chat(_rows(results["base"]), ())
    rules = list(resolve(one.self_align.principles).by_id())
    families = {header.name: header.family for header in (*held, *varied)}
    full = readings["all"]
    found: dict[str, Any] = {
        "command": command,
        "model": _model(one),
        "training": _training(one),
        "questions": {"per_kind": questions, "distinct": len(bench.items), "framed": bench.framed},
        "principles": rules,
        "governing": {kind: list(governs) for kind, governs in world.governing().items()},
        "base": _behaviour(base, rules),
        "prompted": {**_behaviour(full, rules), **_words(full)},
        "without": {
            header.name.removeprefix("without_"): _behaviour(readings[header.name], rules)["marks"]
            for header in held
            if header.family == "without"
        },
        "citations": {
            family: _citations([r for name, rows in readings.items() if families[name] == family for r in rows])
            for family in ("all", "without", "subset", "order", "numbers")
        },
        "asked": _asked(results.values()),
        "machine": _machine(),
        "versions": _versions(),
        "seeds": [],
    }
    if with_runs:
        found["seeds"] = [_seed(run, bench, rules) for run in runs]
    return found


def _behaviour(readings: Sequence[measure.Reading], rules: Sequence[str]) -> dict[str, Any]:
    kinds = {kind: measure.of_kind(readings, kind) for kind in KINDS}
    return {
        "principles": {name: measure.behaviour(readings, name) for name in rules},
        "marks": {name: measure.marked(readings, name) for name in rules},
        "kinds": {kind: measure.share(r.is_governed for r in rows) for kind, rows in kinds.items()},
        "tokens": sum(r.tokens for r in readings) / len(readings),
    }


def _words(readings: Sequence[measure.Reading]) -> dict[str, Any]:
    kinds = {kind: measure.of_kind(readings, kind) for kind in KINDS}

    def copied(rows: Sequence[measure.Reading]) -> float | None:
        return measure.share(bool(r.copied) for r in rows if r.copied is not None)

    return {
        "copied": copied(readings),
        "copied_of": sum(r.copied is not None for r in readings),
        "copied_kinds": {kind: copied(rows) for kind, rows in kinds.items()},
        "exact": measure.share(r.exact for r in readings),
        "exact_kinds": {kind: measure.share(r.exact for r in rows) for kind, rows in kinds.items()},
    }


def _citations(readings: Sequence[measure.Reading]) -> dict[str, Any]:
    found: dict[str, Any] = {"answers": len(readings)}
    for key, with_numbers in (("names", False), ("both", True)):
        whole = measure.agreement(readings, numbers=with_numbers)
        kinds = {kind: measure.agreement(measure.of_kind(readings, kind), numbers=with_numbers).worse for kind in KINDS}
        worst = min(kinds, key=lambda kind: kinds[kind])
        found[key] = {
            "precision": whole.precision,
            "recall": whole.recall,
            "cited": whole.cited,
            "fitting": whole.fitting,
            "worst_kind": worst,
            "worst": kinds[worst],
        }
    return found


def _asked(results: Iterable[NodeResult]) -> dict[str, Any]:
    """Answers, tokens and seconds of some conditions, as they were when they were computed."""
    manifests = [_manifest(Path(result.path)) for result in results if result.stage == Ask.__name__]
    return {
        "conditions": len(manifests),
        "answers": sum(manifest["counts"]["in"] for manifest in manifests),
        "new_tokens": sum(manifest["metrics"]["new_tokens"] for manifest in manifests),
        "unfinished": sum(manifest["metrics"]["unfinished"] for manifest in manifests),
        "seconds": round(sum(manifest["seconds"] for manifest in manifests), 1),
    }


def _manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------------- seeds


def _seed(one: Experiment, bench: Bench, rules: Sequence[str]) -> dict[str, Any]:
    """One run of the quickstart: its funnel, times and scores, and both students on the held-out questions."""
    folder = runner.run_folder(one)
    if runner.execute(one, arguments=["experiments=quickstart", f"seed={one.seed}"]):
        raise StageError(f"{folder}: a stage failed, see error.txt there; repair it and run the same command again")
    nodes = {name: node for name, node in experiments.pipeline(one).items() if not name.startswith("scores_")}
    for name, trained in TRAINED.items():
        # Asked as they are evaluated, where they were trained behind that text too.
        texts = getattr(one, trained).chat_prompts
        text = one.evaluation.chat_prompt if one.evaluation.chat_prompt in texts else texts[0]
        nodes[f"asked_{name}"] = Node(bench.chat(f"{name} of seed {one.seed}", text), {"adapter": name})
    results = _answer(nodes, one)
    manifest = _manifest(folder)
    paths = {name: Path(entry["path"]) for name, entry in manifest["nodes"].items() if entry["path"]}
    kept = [row for row in jsonl.iterate(paths["prompts"] / "prompts.jsonl") if row["kept"]]
    found: dict[str, Any] = {
        "seed": one.seed,
        "run_id": manifest["run_id"],
        "kept": {source: sum(row["source"] == source for row in kept) for source in ("self_instruct", "red_team")},
        "funnel": {name: entry["counts"] for name, entry in manifest["nodes"].items() if entry["counts"]},
        "seconds": {name: round(_manifest(path)["seconds"], 1) for name, path in paths.items()},
        "scores": [row for row in jsonl.iterate(folder / "scores.jsonl")],
        "asked": _asked(results.values()),
    }
    for name in TRAINED:
        readings = bench.read_chat(_rows(results[f"asked_{name}"]), rules)
        found[name] = {**_behaviour(readings, rules), **_words(readings)}
    return found


# ------------------------------------------------------------------------------------------- where it was measured


def _model(one: Experiment) -> dict[str, Any]:
    folder = model_folder(one.model)
    files = sorted(folder.glob("*.safetensors"))
    return {
        "path": one.model.path,
        "digest": one.engine.identity().get("model", ""),
        "parameters": sum(map(_parameters, files)),
        "bytes": sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".json", ".safetensors")),
        "context_length": one.engine.context_length(),
    }


def _training(one: Experiment) -> dict[str, Any]:
    """How the weights were trained, and whether the recipe of this checkout is still the same; empty where nothing says."""
    path = model_folder(one.model) / RECORD
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        "metrics": found["metrics"],
        "same_corpus": found["corpus"] == corpus_digest(),
        "same_settings": found["settings"] == plain(one.pretrain),
    }


def _parameters(path: Path) -> int:
    """Numbers in a safetensors file, by its header."""
    with open(path, "rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for side in tensor["shape"]:
                size *= side
            total += size
    return total


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": cores, "processor": platform.machine(), "system": platform.system()}


def _versions() -> dict[str, str]:
    found = provenance()
    names = ("torch", "transformers", "peft", "pytorch-lightning", "lm-eval")
    return {"selfalign": found["selfalign"], "python": found["python"], **{n: found["packages"][n] for n in names}}
