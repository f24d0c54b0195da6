"""The records that flow between stages: each gains lineage, none loses it.

Prompt -> Response -> Example -> adapter -> Score; a Critique links a revised Response to the one it revises. Ids are
content hashes (`identity.short_id`). A dropped row is a row like the others, with `kept` false and the reason.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from selfalign.errors import DataError

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Prompt:
    """An instruction, as a stage wrote it (REFERENCE: Self-Instruct and topic-guided red-teaming)."""

    id: str
    """Content hash of instruction and input."""
    instruction: str
    """The question or request."""
    input: str
    """The material the instruction works on; empty where it needs none."""
    source: str
    """`self_instruct`, `red_team` or `identity`."""
    topic: str = ""
    """Topic of a red-teaming prompt."""
    question_type: str = ""
    """Question type of a red-teaming prompt."""
    kept: bool = True
    """False where a filter dropped it."""
    reason: str = ""
    """Code of the filter that dropped it; empty where kept."""
    completion_id: str = ""
    """Id of the raw completion it was parsed from."""

    @property
    def text(self) -> str:
        """What the user would type: the instruction, then the input after a blank line."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction


@dataclass(frozen=True, slots=True)
class Response:
    """A model's answer to a prompt, with the thoughts that led to it."""

    id: str
    """Content hash of prompt id and raw completion; after self_critique, id of the Critique that says what it was."""
    prompt_id: str
    """The prompt it answers."""
    instruction: str
    """Instruction of that prompt, repeated so that a row can be read alone."""
    input: str
    """Input of that prompt."""
    source: str
    """Source of that prompt."""
    thoughts: str
    """The internal thoughts, without their marker; empty in the verbose layout."""
    cited: tuple[str, ...]
    """Ids of the principles that the thoughts cite, in order; a number that no rule has is `#<number>`."""
    text: str
    """The answer as it will be trained on."""
    raw: str
    """The completion as the model wrote it."""
    finish: str
    """`stop`, `eos` or `length`."""
    kept: bool = True
    """False where a filter dropped it."""
    reason: str = ""
    """Code of the filter that dropped it; empty where kept."""
    cut: tuple[str, ...] = ()
    """Codes of the rules that took something from the answer's end, in the order in which they did (`selfalign.cuts`)."""

    @property
    def prompt_text(self) -> str:
        """What the user would have typed."""
        return f"{self.instruction}\n\n{self.input}" if self.input else self.instruction

    @property
    def is_finished(self) -> bool:
        """Whether `text` ends where the model ended its answer; only then is it trained on with an end-of-turn marker."""
        return self.finish != "length" and not self.cut


@dataclass(frozen=True, slots=True)
class Critique:
    """One response held against one principle, and what became of its answer."""

    id: str
    """Id of the response as it stands after this round; after the last round, the row of `responses.jsonl`."""
    response_id: str
    """The response that was criticised: self_align's in the first round, the round before's after it."""
    prompt_id: str
    """The prompt it answers."""
    instruction: str
    """Instruction of that prompt, repeated so that a row can be read alone."""
    input: str
    """Input of that prompt."""
    round: int
    """Number of the round, from 1."""
    principle: str
    """Id of the principle that was drawn."""
    original: str
    """The answer before this round."""
    critique: str
    """The critique as the model wrote it, without the space around it; empty where none was asked for."""
    critique_finish: str
    """`stop`, `eos` or `length`; empty where none was asked for."""
    revision_raw: str
    """The revision as the model wrote it; empty where none was asked for."""
    revision_finish: str
    """`stop`, `eos` or `length`; empty where none was asked for."""
    text: str
    """The answer after this round."""
    kept: bool = True
    """False where the revision did not take the answer's place."""
    reason: str = ""
    """Why it did not: code of the filter, with `critique_` in front where the critique failed; empty where it did."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: loss on `target_text` only."""

    id: str
    """Content hash of both texts."""
    response_id: str
    """The response it was made from."""
    prompt_text: str
    """The chat prompt up to and including the assistant's heading."""
    target_text: str
    """What the model learns to continue with, end-of-turn marker included."""
    source: str = ""
    """Source of the prompt behind it."""


@dataclass(frozen=True, slots=True)
class Score:
    """One number of an evaluation, with what is needed to doubt it."""

    subject: str
    """Which model was scored: `base`, `prompted`, `engraved` or `cloned`."""
    task: str
    """Task name, such as `truthfulqa_mc`."""
    protocol: str
    """How the items were scored, such as `true_false`."""
    metric: str
    """Metric name, such as `accuracy`."""
    value: float | None
    """The score; None where it is not valid."""
    stderr: float | None
    """Standard error of the mean over items; None where it has none."""
    n: int
    """Number of items scored."""
    chance: float | None
    """Expected value of a model that knows nothing, from the items themselves; None where it has none."""
    valid: bool
    """False where the numbers behind it are broken (NaN, constant choice, ...)."""
    reason: str = ""
    """Why it is not valid; empty where it is."""
    low: float | None = None
    """Lower end of the 95 % interval over items; None where it has none."""
    high: float | None = None
    """Upper end of it."""


def to_row(record: Any) -> dict[str, Any]:
    """A record as a plain row for JSONL."""
    return dataclasses.asdict(record)


def from_row(kind: type[R], row: dict[str, Any]) -> R:
    """A record from its row. Raises DataError naming the fields that are missing or not known."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    extra = sorted(set(row) - set(fields))
    missing = sorted(name for name, field in fields.items() if name not in row and field.default is dataclasses.MISSING)
    if extra or missing:
        raise DataError(f"not a {kind.__name__} record: missing {missing}, not known {extra}; allowed: {list(fields)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
