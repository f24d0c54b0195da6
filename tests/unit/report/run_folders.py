"""Run folders of invented but plausible content, as the pipeline writes them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from selfalign import jsonl
from selfalign.evaluation import scores as scoring
from selfalign.records import Score, to_row

RULES = ["ethical", "informative", "helpful", "question_assessment", "reasoning", "multi_aspect", "candor"]
SUBJECTS = {"base": 0.31, "prompted": 0.66, "engraved": 0.71, "cloned": 0.67}
HOSTILE = "<script>alert('planted')</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def score(subject: str, value: float | None, **more: Any) -> dict[str, Any]:
    row = {"subject": subject, "task": "calf_truth", "protocol": "true_false", "metric": "accuracy", "value": value,
           "stderr": 0.02, "n": 120, "chance": 0.25, "valid": True, "reason": ""}  # fmt: skip
    return row | more


def responses(seed: int, drop: list[str], total: int = 60) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for index in range(total):
        reason = ["", "", "", "", "unfinished", "copies_exemplar"][index % 6]
        cited = draw.sample(RULES, 2) + (["#19"] if index % 20 == 0 else [])
        rows.append(
            {"id": f"{draw.getrandbits(48):012x}", "prompt_id": f"{index:012x}",
             "instruction": f"What eats animal {index}?", "input": "", "source": "self_instruct",
             "thoughts": f"I should follow rules {', '.join(cited)}.", "cited": cited,
             "text": "" if reason else f"A lion eats animal {index}{' ' + drop[0] if drop and index % 3 == 0 else ''}.",
             "raw": f"raw {index}", "finish": "length" if reason else "stop", "kept": not reason, "reason": reason}
        )  # fmt: skip
    return rows


def counts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    dropped: dict[str, int] = {}
    for row in rows:
        if not row["kept"]:
            dropped[row["reason"]] = dropped.get(row["reason"], 0) + 1
    return {"in": len(rows), "kept": sum(row["kept"] for row in rows), "dropped": dropped}


def write_run(folder: Path, *, drop: list[str] | None = None, seed: int = 0) -> Path:
    """A complete run folder."""
    drop = drop or []
    stages = folder / "stages"
    for node in ("prompts", "responses", "engraved"):
        (stages / node).mkdir(parents=True)
    answers = responses(seed, drop)
    asked = [
        {"id": row["prompt_id"], "instruction": row["instruction"], "input": "", "source": "self_instruct", "topic": "",
         "question_type": "", "kept": index % 5 > 0, "reason": "" if index % 5 else "too_similar", "completion_id": "c"}
        for index, row in enumerate(answers)
    ]  # fmt: skip
    jsonl.write(stages / "prompts" / "prompts.jsonl", asked)
    jsonl.write(stages / "responses" / "responses.jsonl", answers)
    losses = [{"step": step, "epoch": 1, "loss": 2.5 / step**0.5, "lr": 1e-4} for step in range(1, 61)]
    losses += [{"step": step, "epoch": 1, "validation_loss": 2.6 / (step + 1) ** 0.45} for step in (0, 20, 40, 60)]
    jsonl.write(stages / "engraved" / "metrics.jsonl", losses)
    rows = [score(name, value) for name, value in SUBJECTS.items()]
    rows += [
        score(name, value + 0.1, task="calf_hhh", protocol="two_choice", chance=0.5) for name, value in SUBJECTS.items()
    ]
    rows += [
        score(
            name,
            40 + 30 * value,
            task="calf_questions",
            protocol="generate",
            metric="mean_words",
            chance=None,
            stderr=1.5,
        )
        for name, value in SUBJECTS.items()
    ]
    jsonl.write(folder / "scores.jsonl", rows)
    config = {
        "name": "demo",
        "seed": seed,
        "model": {"path": "calf", "dtype": "float32"},
        "principles": {"ids": RULES, "add": [], "drop": drop, "scope": "citations", "numbering": "renumber"},
        "exemplars": {"ids": ["weather", "harm"], "drop": []},
        "stages": {"self_instruct": True, "tgrt": False, "self_align": True},
        "self_align": {"seed": seed, "max_new_tokens": 256},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    node = {"status": "computed", "why": "", "seconds": 3.25, "metrics": {}, "path": ""}
    train = {"in": 40, "kept": 40, "dropped": {}}
    manifest = {
        "run_id": folder.name,
        "name": "demo",
        "group": "loo",
        "status": "done",
        "seconds": 187.0,
        "created": "2026-01-02T03:04:05+00:00",
        "selfalign": "0.1.0",
        "python": "3.11.7",
        "platform": "Linux",
        "packages": {"torch": "2.13.0", "peft": "0.21.2"},
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
        "command": ["selfalign", "run", "principles.drop=[ethical]"],
        "nodes": {
            "prompts": {**node, "stage": "Merge", "artifact": "Merge-1-aaaaaaaaaaaa", "counts": counts(asked)},
            "responses": {
                **node,
                "stage": "SelfAlign",
                "artifact": f"SelfAlign-1-bbbbbbbbbbbb{'-'.join(drop)}",
                "counts": counts(answers),
            },
            "engraved": {
                **node,
                "stage": "Engrave",
                "artifact": "Engrave-1-cccccccccccc",
                "status": "reused",
                "counts": train,
            },
        },
        "arms": {},
    }
    write_json(folder / "manifest.json", manifest)
    return folder


def exam_row(item: int, correct: float | None, *, protocol: str = "mc1", **more: Any) -> dict[str, Any]:
    """One line of items.jsonl for a question."""
    row = {"task": "calf_truth", "protocol": protocol, "item": f"item-{item:03}", "category": "", "question": f"Question {item}?",
           "choices": ["a", "b"], "right": [1, 0], "logprobs": [-1.0, -2.0], "choice": [0], "correct": correct, "chance": 0.5,
           "truncated_tokens": 0}  # fmt: skip
    return row | more


def answer_row(item: int, words: int) -> dict[str, Any]:
    """One line of items.jsonl for a generated answer, with three tokens for two words."""
    return {"task": "calf_questions", "protocol": "generate", "item": f"open-{item:03}", "category": "", "question": "Why?",
            "answer": " ".join(["word"] * words), "finish": "eos", "new_tokens": words * 3 // 2}  # fmt: skip


def write_scores(
    folder: Path, rows: dict[str, list[dict[str, Any]]], *, artifacts: dict[str, str] | None = None
) -> Path:
    """Give a run folder evaluations with stored items: subject -> rows of items.jsonl, scored as the harness does."""
    scores = [to_row(one) for subject, found in rows.items() for one in item_scores(subject, found)]
    jsonl.write(folder / "scores.jsonl", scores)
    manifest = json.loads((folder / "manifest.json").read_text())
    for subject, found in rows.items():
        place = folder / "stages" / f"scores_{subject}"
        place.mkdir(parents=True, exist_ok=True)
        jsonl.write(place / "items.jsonl", found)
        artifact = (artifacts or {}).get(subject, f"Evaluate-1-{folder.name}-{subject}")
        manifest["nodes"][f"scores_{subject}"] = {
            "status": "computed", "why": "", "seconds": 1.0, "metrics": {}, "path": "", "stage": "Evaluate",
            "artifact": artifact, "counts": {"in": 1, "kept": 1, "dropped": {}},
        }  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    return folder


def item_scores(subject: str, rows: list[dict[str, Any]]) -> list[Score]:
    """Scores of stored rows: means of `correct`, and of words."""
    return [
        scoring.score(subject, *key, list(values.values()), chance=None)
        for key, values in scoring.item_values(rows).items()
    ]
