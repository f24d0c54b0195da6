"""A run's model in words and as a chat: the model card of an export, and the template by which other programs lay out a talk."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign import prompts
from selfalign.prompts import Assistant
from selfalign.report import Run
from selfalign.report.principle_use import rules_of
from selfalign.report.scores import is_number


@dataclass(frozen=True)
class Parity:
    """How a merged model's logits differ from those of base and adapter, over all positions of some texts."""

    max_difference: float
    """Largest absolute difference of a logit."""
    flips: int
    """Positions at which another token is the likeliest one."""
    positions: int


_PLACES = ("store=", "runs=", "tracking")
"""Overrides that say where a run was, not what it is."""


def training_of(run: Run, node: str) -> Mapping[str, Any]:
    """The settings that a node was trained with."""
    return run.config.get("verbose_engrave" if node == "cloned" else "engrave") or {}


def chat_text(run: Run, node: str) -> tuple[str, Assistant]:
    """The text before the first question of a talk with a node, filled in, and who its assistant is.

    Of the chat prompts that it was trained behind, `standard` where it is among them, else the first.
    """
    assistant = Assistant(**run.config.get("assistant", {}))
    names = list(training_of(run, node).get("chat_prompts") or ["standard"])
    text = prompts.load_text("standard" if "standard" in names else names[0], str(run.config.get("texts") or ""))
    return prompts.fill(text, assistant), assistant


def chat_template(meta: str, assistant: Assistant, beginning: str = "") -> str:
    """The chat layout of training as a Jinja template, for transformers' `apply_chat_template` and for servers.

    `meta` ends in its open user heading; a message of the system takes its place. `beginning` is the text of the tokens that the
    tokenizer puts before every text, which `apply_chat_template` leaves to the template.
    """
    asked, answered = "\n\n### User", f"\n\n{prompts.chat_heading(assistant)}"
    # A JSON string is a string of Jinja's too, whatever braces and quotes it has.
    literal = {
        name: json.dumps(text, ensure_ascii=False)
        for name, text in {"beginning": beginning, "meta": meta, "asked": asked, "answered": answered}.items()
    }
    return (
        f"{{%- set start = {literal['meta']} -%}}\n"
        "{%- if messages[0]['role'] == 'system' -%}\n"
        f"{{%- set start = messages[0]['content'] + {literal['asked']} -%}}\n"
        "{%- endif -%}\n"
        f"{{{{- {literal['beginning']} + start -}}}}\n"
        "{%- for message in messages if message['role'] != 'system' -%}\n"
        f"{{%- set heading = {literal['answered']} if message['role'] == 'user' else {literal['asked']} -%}}\n"
        "{{- '\\n' + message['content'] + heading -}}\n"
        "{%- endfor -%}\n"
    )


def base_name(run: Run) -> str:
    """What a card calls the base model: its name on a hub, else the last part of its folder, since a place says nothing."""
    model = run.config.get("model", {})
    base = str(model.get("path", "unknown")) if isinstance(model, Mapping) else str(model)
    return Path(base).name if base.startswith(("/", "~", ".")) else base


def card(run: Run, node: str, parity: Parity | None, *, merged: bool) -> str:
    """The card in Markdown: what it is and how to use it, how it was made, what it was trained on, what it scored, its licence."""
    rules, name = rules_of(run.config), base_name(run)
    kind = "merged weights" if merged else "a LoRA adapter"
    stage = "verbose cloning (stage 4)" if node == "cloned" else "principle engraving (stage 3)"
    measured = (
        f"\nMerged and loaded again, it differs from base and adapter by at most {parity.max_difference:.3g} in a logit, and finds "
        f"another token the likeliest in {parity.flips:,} of {parity.positions:,} positions of its training texts.\n"
        if parity
        else ""
    )
    dropped = f" Left out: {', '.join(rules.dropped)}." if rules.dropped else ""
    return f"""---
base_model: {name}
library_name: {"transformers" if merged else "peft"}
tags: [selfalign]
---

# {run.name}: {node}

{kind[0].upper()}{kind[1:]} after {stage} of SELF-ALIGN (Sun et al. 2023, arXiv:2305.03047), on the base model `{name}`.
{measured}
## How to use it

{_use(name, merged)}

## How it was made

`{_command(run)}` with selfalign {run.manifest.get("selfalign", "")}, run `{run.run_id}`. Principles shown when the answers were
written: {", ".join(rules.shown) or "none"}.{dropped}
{_sweep(run)}
## What it was trained on

{_origin(run, node)} A dropped row stays in the run with its reason.

{_funnel(run)}

{_recipe(run, node)}

## What it scored

{_scores(run, node)}

## Licence

The licence of the base model holds for what is derived from it, these weights included; read it before you pass them on. The
texts that were trained on are outputs of that model. selfalign's own texts are under Apache-2.0; a set of principles or
exemplars that was imported keeps its own licence.
"""


def _use(base: str, merged: bool) -> str:
    """Python that talks to it."""
    imports, load = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "AutoModelForCausalLM.from_pretrained(folder)",
    )
    if not merged:
        imports = f"from peft import PeftModel\n{imports}"
        load = "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)"
    stop = json.dumps(prompts.CHAT_STOPS[0])
    where = "" if merged else f'\nbase = "{base}"  # its folder, or its name on a hub'
    return f"""```python
{imports}

folder = "."  # where this file is{where}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {load}
talk = [{{"role": "user", "content": "Who are you?"}}]
inputs = tokenizer.apply_chat_template(talk, return_dict=True, return_tensors="pt")
answer = model.generate(**inputs, max_new_tokens=200, stop_strings=[{stop}], tokenizer=tokenizer)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:]))
```

`chat_template.jinja` is the layout that it was trained in. A turn ends in text: servers need `{stop}` as a stop string."""


def _command(run: Run) -> str:
    arguments = [str(text) for text in run.manifest.get("arguments") or [] if not str(text).startswith(_PLACES)]
    return shlex.join(["selfalign", "run", *arguments])


def _sweep(run: Run) -> str:
    others = ", ".join(run.manifest.get("arms") or {})
    if not others:
        return ""
    return f"\nAn arm of a sweep: it was trained on those prompts alone whose answers the other arms keep too ({others}).\n"


def _origin(run: Run, node: str) -> str:
    """Whose texts it was trained on."""
    names = {one.name for one in run.nodes}
    own = "its own prompts" if names & {"instructions", "red_team"} else ""
    given = "prompts of a file" if (run.config.get("merge") or {}).get("file") else ""
    asked = " and to ".join(filter(None, (own, given))) or "prompts"
    identity = ", and written answers about who the assistant is" if training_of(run, node).get("identity_rows") else ""
    return f"Answers that the base model wrote itself, to {asked}{identity}."


def _funnel(run: Run) -> str:
    rows = [
        f"| {one.name} | {one.rows_in:,} | {one.kept:,} | {', '.join(f'{why} {n:,}' for why, n in one.dropped.items()) or 'none'} |"
        for one in run.nodes
        if one.rows_in is not None and not one.name.startswith("scores_")
    ]
    return "\n".join(["| result | in | kept | dropped, by reason |", "| --- | --- | --- | --- |", *rows])


def _recipe(run: Run, node: str) -> str:
    """The settings of training in a line."""
    found = training_of(run, node).get("training") or {}
    layers = ", ".join(found.get("target_modules") or [])
    parts = [f"LoRA of rank {found['rank']} (alpha {found['alpha']}) on {layers}"] if "rank" in found else []
    words = {
        "learning_rate": "learning rate", "schedule": "schedule", "epochs": "epochs", "global_batch_size": "rows a step",
        "max_seq_length": "tokens a row",
    }  # fmt: skip
    parts += [f"{word} {found[name]}" for name, word in words.items() if name in found]
    return f"{'; '.join(parts)}." if parts else ""


def _scores(run: Run, node: str) -> str:
    rows = [
        f"| {score.task} | {score.protocol} | {score.metric} | {score.value:.4g} ± {score.stderr:.2g} | {score.n:,} |"
        for score in run.scores
        if score.subject == node and is_number(score) and score.stderr is not None
    ]
    if not rows:
        return "It was not scored in this run."
    return "\n".join(["| task | protocol | metric | value | n |", "| --- | --- | --- | --- | --- |", *rows])
