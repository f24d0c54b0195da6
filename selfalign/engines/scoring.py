"""Continuations in, log-probabilities out: every token that contexts and continuations share is computed once.

Contexts and continuations of many requests are one prefix tree: the answers to a question share the question, questions
their preamble, answers that begin alike their beginning. The head, which is most of a small model's work, runs only behind
tokens whose successor is asked for.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from selfalign.engines.base import ScoreRequest, ScoreResult
from selfalign.engines.memory import is_out_of_memory, no_memory

if TYPE_CHECKING:
    import torch

    from selfalign.engines.attention import Segment
    from selfalign.engines.forest import Forest, Place
    from selfalign.engines.prefix_tree import Node

log = logging.getLogger(__name__)

WINDOW = 1024
"""Requests that are looked at together: those of one question should be among them."""
TOKENS = 8192
"""Tokens of the tree whose keys and values are held at a time."""


class Item:
    """One request while it is scored: its tokens, and log-probabilities of its continuation as they come."""

    def __init__(
        self,
        request: ScoreRequest,
        context: tuple[int, ...],
        continuation: tuple[int, ...],
        truncated: int,
        shared: int,
    ) -> None:
        self.request = request
        self.context = context
        self.continuation = continuation
        self.shared = shared
        """Leading tokens of the context that many requests have in common, by what the request says."""
        self.tokens = context + continuation[:-1]
        """What the model reads: the last token is only predicted."""
        self._truncated = truncated
        self._logprobs = [0.0] * len(continuation)
        self._greedy = True

    def place(self, number: int, logprob: float, greedy: bool) -> None:
        """Take in the log-probability of a token of the continuation, and whether it is the likeliest there."""
        self._logprobs[number] = logprob
        self._greedy = self._greedy and greedy

    def result(self) -> ScoreResult:
        """The finished score."""
        return ScoreResult(
            self.request.id, sum(self._logprobs), self._greedy, len(self.continuation), self._truncated
        )  # fmt: skip


def score(forest: Forest, items: Iterable[Item]) -> Iterator[Item]:
    """Every item, when it is scored."""
    items, begun = iter(items), False
    while window := sorted(itertools.islice(items, WINDOW), key=lambda item: item.tokens):
        if not begun:
            forest.begin(window[0].tokens[: window[0].shared])
            begun = True
        for item in window:
            if item.shared:
                forest.remember(forest.tree.stem(item.tokens[: item.shared], WINDOW))
        ends: list[Node[Segment]] = []
        for item in window:
            # A border behind the context: what is asked behind its last token asks nothing of the tokens before.
            forest.tree.insert(item.tokens[: len(item.context) - 1])
            ends.append(forest.tree.insert(item.tokens))
        for end in ends:
            forest.tree.hold(end)
        released = 0
        try:
            for part in _parts(window, ends):
                _score_what_fits(forest, window[part], ends[part])
                for end in ends[part]:
                    forest.tree.release(end)
                    released += 1
                yield from window[part]
        finally:
            for end in ends[released:]:
                forest.tree.release(end)


def _parts(items: Sequence[Item], ends: Sequence[Node[Segment]]) -> Iterator[slice]:
    """Consecutive items of about TOKENS tokens of the tree; those of one context stay together."""
    start, tokens, seen = 0, 0, set[int]()
    for number, (item, end) in enumerate(zip(items, ends, strict=True)):
        if tokens >= TOKENS and item.context != items[number - 1].context:
            yield slice(start, number)
            start, tokens, seen = number, 0, set()
        for node in end.path():
            if id(node) not in seen:
                seen.add(id(node))
                tokens += len(node.tokens)
    yield slice(start, len(items))


def _score_what_fits(forest: Forest, items: Sequence[Item], ends: Sequence[Node[Segment]]) -> None:
    """Score some items, in halves where memory runs out. Raises StageError where it does with one."""
    try:
        _score_part(forest, items, ends)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise no_memory(error) from error
        log.warning("memory ran out: %d requests are scored in two parts", len(items))
        forest.forget()
        half = len(items) // 2
        _score_what_fits(forest, items[:half], ends[:half])
        _score_what_fits(forest, items[half:], ends[half:])


def _score_part(forest: Forest, items: Sequence[Item], ends: Sequence[Node[Segment]]) -> None:
    """Compute some items' tokens, and take the log-probabilities of their continuations."""
    import torch

    asked: dict[tuple[int, int], list[tuple[Item, int]]] = {}
    wanted: dict[Node[Segment], set[int]] = {}
    for item, end in zip(items, ends, strict=True):
        first = len(item.context) - 1
        for node in end.path():
            for at in range(max(first, node.start), node.start + len(node.tokens)):
                asked.setdefault((id(node), at - node.start), []).append((item, at - first))
                wanted.setdefault(node, set()).add(at - node.start)

    def take(places: Sequence[Place], logits: torch.Tensor) -> None:
        rows: list[int] = []
        targets: list[int] = []
        takers: list[tuple[Item, int]] = []
        for row, (node, place) in enumerate(places):
            for item, number in asked[id(node), place]:
                rows.append(row)
                targets.append(item.continuation[number])
                takers.append((item, number))
        at, target = (torch.tensor(numbers, device=logits.device) for numbers in (rows, targets))
        logprobs = logits[at, target] - logits.logsumexp(dim=-1)[at]
        greedy = logits.argmax(dim=-1)[at] == target
        for (item, number), logprob, likeliest in zip(takers, logprobs.tolist(), greedy.tolist(), strict=True):
            item.place(number, logprob, likeliest)

    with torch.inference_mode():
        for node in wanted:
            # Its keys and values may be there from another part; its logits are not.
            node.state = None
        forest.compute(ends, {node: sorted(places) for node, places in wanted.items()}, take)
