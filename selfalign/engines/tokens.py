"""Texts in, token ids and budgets out: what every engine with a tokenizer decides alike, before any model computes.

Where a text ends, what stands for an empty one, where a context ends and its continuation begins, and how many tokens
a request may have.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.engines.base import GenerateRequest, ScoreRequest
from selfalign.engines.model import model_config
from selfalign.errors import StageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def end_tokens(named: Any, tokenizer: Tokenizer, special: Mapping[str, str]) -> frozenset[int]:
    """Ids that end a text: those named by the model's generation settings (an id, a list or None) and the tokenizer's."""
    ids = [named] if isinstance(named, int) else list(named or [])
    own = tokenizer.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return frozenset([*ids, *([own] if own is not None else [])])


def named_ends(folder: Path) -> Any:
    """`eos_token_id` as transformers finds it without the model: in generation_config.json, else in config.json."""
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else model_config(folder)
    return settings.get("eos_token_id")


def first_token(named: Any, tokenizer: Tokenizer, special: Mapping[str, str], ends: Collection[int]) -> int:
    """The id that stands for an empty prompt: the beginning-of-text token, else an end token (documents end there)."""
    own = tokenizer.token_to_id(special["bos_token"]) if "bos_token" in special else None
    ids = [i for i in (own, named, *sorted(ends)) if isinstance(i, int)]
    return ids[0] if ids else 0


def token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text's tokens as a prompt: those of `encode`, which also finds out where in the text each stands and takes half as
    long again."""
    return tokenizer.encode_batch_fast([text])[0].ids


def token_budget(request: GenerateRequest, prompt_tokens: int, context_length: int) -> int:
    """The most tokens that a request's completion may have: what it asks for, or what its prompt leaves of the context.

    Raises StageError naming a request whose prompt leaves no room, or that cannot be met.
    """
    room = context_length - prompt_tokens
    if room < 1:
        raise StageError(
            f"request '{request.id}': expected a prompt of at most {context_length - 1} tokens, found "
            f"{prompt_tokens} (context window {context_length}); shorten the prompt or take another model"
        )
    if request.sampling.max_new_tokens < 1 or "" in request.stop:
        raise StageError(
            f"request '{request.id}': expected max_new_tokens >= 1 and no empty stop string, found "
            f"max_new_tokens={request.sampling.max_new_tokens}, stop={request.stop}; correct the request"
        )
    return min(room, request.most_tokens())


def pair_tokens(
    request: ScoreRequest, tokenizer: Tokenizer, first: int, most: int, window: int
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The tokens of a context and of its continuation, and how many were cut from the context's start.

    Trailing whitespace of a context moves to the continuation (lm-eval's rule). Where the tokens of both texts
    together start with the context's tokens, the continuation has the rest of them; else, where a token spans the
    border, both are tokenised apart. An empty context is the token `first`. At most `window` tokens remain of both.
    Raises StageError for a continuation that is empty or longer than `most` tokens.
    """
    context_text = request.context.rstrip()
    moved = request.context[len(context_text) :] + request.continuation
    context = _context_tokens(tokenizer, context_text) if context_text else ()
    whole = tuple(token_ids(tokenizer, context_text + moved))
    if context and whole[: len(context)] == context:
        continuation = whole[len(context) :]
    else:
        continuation = tuple(tokenizer.encode(moved, add_special_tokens=False).ids)
    context = context or (first,)
    if not continuation or len(continuation) > most:
        raise StageError(
            f"request '{request.id}': expected a continuation of 1 to {most} tokens (what the context window holds), "
            f"found {len(continuation)}; correct the request"
        )
    cut = max(0, len(context) + len(continuation) - window)
    return context[cut:], continuation, cut


@functools.lru_cache(maxsize=16)
def _context_tokens(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Tokens of a context. The continuations of one come one after another, and a long text takes a millisecond."""
    return tuple(token_ids(tokenizer, text))
