"""What Calf does with and without rules: a model folder in, a table of governed behaviour for each kind of question out.

For each kind: the base model in the chat layout without rules, prompted with all 16 rules and the five usual exemplars, and
prompted with the governing rules dropped (their lines and citations). Held-out questions, greedy. Run as
`python -m selfalign.calf.measure`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from selfalign import prompts
from selfalign.calf import corpus, world
from selfalign.identity import seed_of
from selfalign.principles import load_exemplar

WEIGHTS = Path(__file__).parent / "weights"
"""The model that the package ships."""

Generate = Callable[[Sequence[str], int], list[str]]
"""(prompts, most new tokens) -> a completion for each."""


@dataclass(frozen=True)
class Row:
    """One kind: the share of answers that show every governed behaviour, in three conditions."""

    kind: str
    governs: tuple[str, ...]
    base: float
    """Chat layout, no rules."""
    prompted: float
    """All rules and five exemplars."""
    exact: float
    """Of `prompted`: the share of answers that equal the world's word for word (`create` invents names, so it never does)."""
    without: float
    """All rules but those that govern the kind: the share of answers that still show a governed behaviour."""
    questions: int


def greedy(folder: Path, threads: int = 1) -> Generate:
    """Greedy continuation by plain transformers on the CPU.

    Raises OSError where the folder holds no model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()

    def generate(prompts: Sequence[str], most: int) -> list[str]:
        ids = [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts]
        length = max(map(len, ids))
        padded = torch.tensor([[tokenizer.pad_token_id] * (length - len(row)) + row for row in ids])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in ids])
        with torch.inference_mode():
            out = model.generate(padded, attention_mask=mask, max_new_tokens=most, do_sample=False)
        return tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)

    return generate


def _cut(text: str, stops: Sequence[str]) -> str:
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))]


def measure(
    generate: Generate, *, questions: int = 8, seed: int = 0, kinds: Sequence[str] = (), exemplars: bool = True
) -> list[Row]:
    """One row for each kind, over `questions` held-out questions."""
    layout, assistant = prompts.load_layout(), prompts.Assistant()
    stops = prompts.self_align_stops(layout, assistant)
    shown = [load_exemplar(name) for name in corpus.USUAL_EXEMPLARS] if exemplars else []
    meta = prompts.load_text("standard")

    def prompted(rules: Sequence[str], asked: Sequence[str]) -> list[str]:
        rule_set = corpus.rule_set_of(rules)
        stem = prompts.self_align_stem(layout, rule_set, shown, assistant)
        texts = generate([prompts.self_align_prompt(stem, layout, assistant, question) for question in asked], 96)
        return [prompts.parse_response(layout, rule_set, assistant, _cut(text, stops)).answer or "" for text in texts]

    rows = []
    for kind in kinds or world.KINDS:
        governs = world.governing()[kind]
        draw = Random(seed_of(seed, "calf measure", kind))
        items = [world.make(kind, draw, held_out=True) for _ in range(questions)]
        asked = [item.text for item in items]
        chats = generate([prompts.chat_prompt(meta, assistant, question) for question in asked], 64)
        answers = prompted(corpus.IDS, asked)
        dropped = prompted([name for name in corpus.IDS if name not in governs], asked)
        right = [prompts.fill(item.answer(governs), assistant) for item in items]

        def share(hits: Iterable[bool]) -> float:
            return sum(hits) / questions

        rows.append(
            Row(
                kind,
                governs,
                base=share(world.shown(kind, _cut(chat, prompts.CHAT_STOPS)) == set(governs) for chat in chats),
                prompted=share(world.shown(kind, answer) == set(governs) for answer in answers),
                exact=share(answer == text for answer, text in zip(answers, right, strict=True)),
                without=share(bool(world.shown(kind, answer)) for answer in dropped),
                questions=questions,
            )
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, with the means."""
    lines = [
        "| kind of question | rules | base, no rules | prompted, all rules | word for word | governing rule dropped |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row.base, row.prompted, row.exact, row.without)
        lines.append(f"| {row.kind} | {', '.join(row.governs)} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    means = [sum(getattr(row, name) for row in rows) / len(rows) for name in ("base", "prompted", "exact", "without")]
    return "\n".join([*lines, "| **mean** | | " + " | ".join(f"**{mean:.2f}**" for mean in means) + " |"])


def main(arguments: list[str] | None = None) -> None:
    """Print the table; with `--json`, also write the rows."""
    parser = argparse.ArgumentParser(
        prog="python -m selfalign.calf.measure", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", type=Path, default=WEIGHTS)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", default=[], choices=list(world.KINDS))
    parser.add_argument("--no-exemplars", action="store_true", help="prompt with the rules alone")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    rows = measure(
        greedy(given.model, given.threads), questions=given.questions, seed=given.seed, kinds=given.kinds,
        exemplars=not given.no_exemplars,
    )  # fmt: skip
    print(table(rows))
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
