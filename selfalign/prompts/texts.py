"""What all prompts share: who the assistant is, the placeholders of a text, and the files that texts come from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from selfalign import jsonl, resources
from selfalign.errors import ConfigError, DataError, unknown
from selfalign.principles import below


@dataclass(frozen=True)
class Assistant:
    """Who the assistant is: fills the placeholders of every prompt."""

    name: str = "Willow"
    """Codename in rules, exemplars, chat headings and identity answers."""
    maker: str = "the selfalign project"
    """Who made it, as it says of itself."""
    cutoff: str = "2023"
    """Year up to which its knowledge reaches, as it says of itself."""


def fill(text: str, assistant: Assistant) -> str:
    """A text with {assistant}, {maker} and {cutoff} replaced; other braces stay."""
    return (
        text.replace("{assistant}", assistant.name)
        .replace("{maker}", assistant.maker)
        .replace("{cutoff}", assistant.cutoff)
    )


def fill_slots(template: str, **values: str) -> str:
    """A template with its named slots filled; where it has none of them, its n bare `{}` take the last n values in
    order.

    The reference's prompt files use bare slots (and spell their totals out); ours name them.
    """
    if any(f"{{{name}}}" in template for name in values):
        for name, value in values.items():
            template = template.replace(f"{{{name}}}", value)
        return template
    slots = template.count("{}")
    for value in list(values.values())[len(values) - slots :]:
        template = template.replace("{}", value, 1)
    return template


def load_text(name: str, folder: str = "") -> str:
    """A prompt text `principles/<folder>/prompts/<name>.txt` as it stands. Raises ConfigError where there is none."""
    return resources.find(f"{below(folder)}/prompts/{name}.txt").read_text(encoding="utf-8")


def own_or_shared(folder: str, relative: str) -> Path:
    """The file of a folder below `principles/`, or selfalign's own where that has none: for what imported sets do not bring.

    Raises ConfigError where neither is there, and for a folder that is not there.
    """
    resources.find(below(folder))
    try:
        return resources.find(f"{below(folder)}/{relative}")
    except ConfigError:
        return resources.find(f"{below('')}/{relative}")


def exactly(kind: type, content: Any, where: str) -> dict[str, Any]:
    """The fields of a text file, which are those of `kind`. Raises DataError for anything else."""
    allowed = [field.name for field in fields(kind)]
    if not isinstance(content, dict):
        raise DataError(
            f"{where}: expected a mapping with the fields {', '.join(allowed)}, found {content!r:.60}; write one"
        )
    wrong = [unknown("field", key, allowed) for key in content if key not in allowed]
    wrong += [f"field '{key}' is missing" for key in allowed if key not in content]
    if wrong:
        raise DataError(f"{where}: " + "; ".join(wrong))
    return content


def load_identity(assistant: Assistant, folder: str = "") -> list[tuple[str, str]]:
    """(question, answer) pairs about who the assistant is, filled in for the configured assistant
    (`identity.jsonl`)."""
    path = resources.find(f"{below(folder)}/identity.jsonl")
    try:
        return [(fill(row["question"], assistant), fill(row["answer"], assistant)) for row in jsonl.read(path)]
    except KeyError as error:
        raise DataError(f"{path}: expected rows with question and answer, missing {error}") from None
