"""Examples in, token rows out: loss on the target only; the target is cut where it does not fit, the prompt only where asked for.

Prompt and target are tokenised apart and joined, so that a label never covers a token that straddles the border
(the reference measures the length of the tokenised prompt instead, training/finetune.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from selfalign.errors import StageError
from selfalign.records import Example

IGNORE_INDEX = -100
"""Label of a token that carries no loss."""

UNTRAINABLE = "no_trainable_token"
"""Reason code of a row whose prompt leaves no room for a target, or whose target is empty."""

NAMED_ROWS = 5
"""Rows that an error names before it only counts."""


@dataclass(frozen=True, slots=True)
class Row:
    """One example as tokens."""

    id: str
    """Id of the example."""
    ids: array[int]
    """Token ids of prompt and target together (32-bit)."""
    prompt_length: int
    """Tokens of the prompt; the labels before this position are IGNORE_INDEX."""
    source: str = ""
    """Source of the prompt behind it."""

    @property
    def n_labels(self) -> int:
        """Tokens that carry loss; the first token of a row has nothing before it to be predicted from."""
        return len(self.ids) - max(self.prompt_length, 1)

    @property
    def labels(self) -> list[int]:
        """One label per token: its id where it carries loss, else IGNORE_INDEX."""
        silent = max(self.prompt_length, 1)
        return [IGNORE_INDEX] * min(silent, len(self.ids)) + self.ids[silent:].tolist()


@dataclass(frozen=True)
class Encoded:
    """All rows of a training file, with what was lost on the way."""

    rows: list[Row]
    """Rows with at least one trainable token, in file order."""
    truncated: int = 0
    """Rows whose target lost its end."""
    cut_prompts: int = 0
    """Rows whose prompt lost its beginning."""
    untrainable: list[str] = field(default_factory=list)
    """Ids of the examples whose prompt leaves no room for a single target token, or whose target is empty."""


def leading_ids(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer puts before every text (a beginning-of-text token, or none)."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return list(full[:start])
    return []


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    max_seq_length: int,
    add_eos: bool = False,
    max_prompt_length: int = 0,
    max_target_length: int = 0,
) -> Encoded:
    """Tokenise examples; a target is cut on the right at `max_seq_length` tokens in all.

    Where they are not 0, a prompt is cut on the left at `max_prompt_length` tokens, and a target on the right at
    `max_target_length` (IBM/Dromedary, branch main, training/finetune_qlora.py); tokens that the tokenizer puts before every text
    stay and count as the prompt's.

    Raises StageError where `add_eos` is set and the tokenizer has no end token.
    """
    if add_eos and tokenizer.eos_token_id is None:
        raise StageError(
            "training.add_eos=true needs a tokenizer with an end token, found none; set training.add_eos=false"
        )
    if not examples:
        return Encoded([])
    start = leading_ids(tokenizer)
    end = [tokenizer.eos_token_id] if add_eos else []
    prompts = tokenizer([example.prompt_text for example in examples], add_special_tokens=False)["input_ids"]
    targets = tokenizer([example.target_text for example in examples], add_special_tokens=False)["input_ids"]
    rows, untrainable, truncated, cut_prompts = [], [], 0, 0
    for example, prompt, target in zip(examples, prompts, targets, strict=True):
        surplus = max(len(start) + len(prompt) - max_prompt_length, 0) if max_prompt_length else 0
        asked = prompt[surplus:]
        answer = [*target, *end]
        wanted = answer[:max_target_length] if max_target_length else answer
        tokens = [*start, *asked, *wanted]
        row = Row(example.id, array("i", tokens[:max_seq_length]), len(start) + len(asked), example.source)
        if not target or row.n_labels < 1:
            untrainable.append(example.id)
            continue
        truncated += len(tokens) > max_seq_length or len(wanted) < len(answer)
        cut_prompts += surplus > 0
        rows.append(row)
    return Encoded(rows, truncated, cut_prompts, untrainable)


def check(encoded: Encoded, max_seq_length: int, allowed_share: float) -> None:
    """Refuse rows that cannot be trained on. Raises StageError above `allowed_share`, and where no row is left."""
    lost, total = len(encoded.untrainable), len(encoded.rows) + len(encoded.untrainable)
    if total == 0:
        raise StageError("training needs at least one example, found none; see why the stage before kept no row")
    if encoded.rows and lost <= allowed_share * total:
        return
    named = _named(encoded.untrainable)
    raise StageError(
        f"{lost} of {total} rows have no trainable token: the prompt alone fills training.max_seq_length="
        f"{max_seq_length} tokens, or the target is empty ({named}); allowed: a share of {allowed_share:g}; "
        "raise training.max_seq_length, shorten the training prompt, or raise training.max_untrainable_share"
    )


def check_fit(rows: Sequence[Row], context: int | None, vocabulary: int | None) -> None:
    """Refuse rows that the model cannot read: longer than its context, or with tokens that it has no embedding for.

    None stands for a limit that the model does not state. Raises StageError.
    """
    long = [row.id for row in rows if context is not None and len(row.ids) > context]
    if long:
        raise StageError(
            f"expected rows of at most {context} tokens, the model's context, found {len(long)} longer ones of up to "
            f"{max(len(row.ids) for row in rows)} tokens ({_named(long)}); lower training.max_seq_length to {context}"
        )
    strange = [row.id for row in rows if vocabulary is not None and max(row.ids) >= vocabulary]
    if strange:
        raise StageError(
            f"expected token ids below {vocabulary}, the size of the model's vocabulary, found ids of up to "
            f"{max(max(row.ids) for row in rows)} in {len(strange)} rows ({_named(strange)}); tokens were added to the tokenizer "
            "and not to the model (often one for padding, which training here does not need): take the tokenizer that belongs "
            "to the model, or resize the model's embeddings"
        )


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:NAMED_ROWS]) + (", ..." if len(ids) > NAMED_ROWS else "")
