"""Nodes of a prefix tree in, their keys and values out: every token of the tree is computed once.

What is short is computed many nodes at a time: a row of a batch holds a whole subtree, one node behind the other, and a
mask lets every token see its own ancestors only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from selfalign.engines.attention import Columns, Segment, Sight, forward
from selfalign.engines.prefix_tree import Node, PrefixTree

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    Place = tuple[Node[Segment], int]
    Take = Callable[[Sequence[Place], torch.Tensor], None]

PACK = 256
"""Tokens of a row that holds several nodes: beyond it the mask over all of them costs more than a further row."""
CHUNK = 1024
"""Tokens of a long node that are computed at a time."""
BATCH = 4096
"""Tokens, padding included, of one forward pass over several rows."""
REMEMBERED = 2
"""Stems that are kept when nothing waits for them: within a call two may alternate, and the next call often begins with one."""
LOGITS = 2**26
"""Logits of one forward pass: 256 MiB."""


@dataclass
class _Row:
    """Nodes in one row of a batch, parents before children, behind the computed nodes of `path`."""

    path: list[Node[Segment]]
    nodes: list[Node[Segment]]
    length: int = 0
    starts: dict[int, int] = field(default_factory=dict)
    """Node (by `id`) -> its first column."""

    def __post_init__(self) -> None:
        for node in self.nodes:
            self.starts[id(node)] = self.length
            self.length += len(node.tokens)


class Forest:
    """A prefix tree over a model whose attention is `attention.share`d."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.tree: PrefixTree[Segment] = PrefixTree()
        self.computed = 0
        """Tokens that went through the model here, padding left out."""
        self._model = model
        self._recent: list[Node[Segment]] = []

    def remember(self, stem: Node[Segment]) -> None:
        """Keep this node and those above it, though nothing may wait for them: the next call often begins alike."""
        if stem in self._recent:
            return
        self.tree.hold(stem, users=0)
        self._recent.append(stem)
        if len(self._recent) > REMEMBERED:
            self.tree.release(self._recent.pop(0))

    def begin(self, tokens: Sequence[int]) -> None:
        """Before the first text of a call, which begins with a named stem of these tokens (none: empty): keep what was computed for
        the same stem, and nothing else. What another stem left behind would cut texts that begin alike where it ends, which moves
        their last bits: a call would not repeat to the bit."""
        for stem in [one for one in self._recent if one.start or one.tokens != tuple(tokens)]:
            self._recent.remove(stem)
            self.tree.release(stem)

    def forget(self) -> None:
        """Free all keys and values, and the stems that were kept; what is still needed is computed again."""
        self.begin(())
        for node in self.tree.nodes():
            node.state = None

    def compute(
        self,
        ends: Iterable[Node[Segment]],
        wanted: Mapping[Node[Segment], Sequence[int]] | None = None,
        take: Take | None = None,
    ) -> None:
        """Give every node on the way to these ends its segment.

        `take` gets logits float32 `[n, vocab]` behind the tokens that `wanted` names (node -> places in it) as they are
        computed, with their n places. A wanted node has to be without a segment.
        """
        ends, wanted = list(ends), wanted or {}
        while True:
            missing = {id(node): node for end in ends for node in end.path() if node.state is None}
            if not missing:
                return
            alone: list[Node[Segment]] = []
            items: list[list[Node[Segment]]] = []
            for node in missing.values():
                if node.parent is not None and id(node.parent) not in missing:
                    subtree = _subtree(node, missing)
                    fits = sum(len(one.tokens) for one in subtree) <= PACK
                    if node.stem or len(node.tokens) > PACK:
                        alone.append(node)
                    else:
                        items.append(subtree if fits else [node])
            for node in alone:
                self._long(node, wanted, take)
            for batch in self._batches(_rows(items), wanted):
                self._short(batch, wanted, take)

    def _batches(self, rows: list[_Row], wanted: Mapping[Node[Segment], Sequence[int]]) -> list[list[_Row]]:
        """Rows in groups for one forward pass each: of about one length, with few logits."""
        most = max(1, LOGITS // self._model.config.get_text_config().vocab_size)
        found: list[list[_Row]] = []
        logits = 0
        for row in sorted(rows, key=lambda row: -row.length):
            own = sum(len(wanted.get(node, ())) for node in row.nodes)
            if not found or (len(found[-1]) + 1) * found[-1][0].length > BATCH or logits + own > most:
                found.append([])
                logits = 0
            found[-1].append(row)
            logits += own
        return found

    def _long(
        self, node: Node[Segment], wanted: Mapping[Node[Segment], Sequence[int]], take: Take | None
    ) -> None:  # fmt: skip
        """Compute one node by itself, a piece at a time."""
        import torch

        seen = _segments(node)
        parts: list[Segment] = []
        device = self._model.device
        for start in range(0, len(node.tokens), CHUNK):
            piece = node.tokens[start : start + CHUNK]
            places = [place for place in wanted.get(node, ()) if start <= place < start + len(piece)]
            columns = Columns()
            sight = Sight(segments=[(None, one) for one in (*seen, *parts)])
            at = torch.tensor([place - start for place in places], dtype=torch.long, device=device)
            tokens = torch.tensor([piece], device=device)
            logits = forward(self._model, tokens, node.start + start, columns, sight, at)
            parts.append(columns.segment(0, 0, len(piece)))
            if take and places:
                take([(node, place) for place in places], logits)
        self.computed += len(node.tokens)
        node.state = parts[0] if len(parts) == 1 else Segment.join(parts)

    def _short(
        self, rows: list[_Row], wanted: Mapping[Node[Segment], Sequence[int]], take: Take | None
    ) -> None:  # fmt: skip
        """Compute several rows of nodes in one forward pass."""
        import torch

        width, device = max(row.length for row in rows), self._model.device
        tokens = torch.zeros(len(rows), width, dtype=torch.long)
        positions = torch.zeros(len(rows), width, dtype=torch.long)
        # A padding token sees itself, so that no row of the softmax is empty and no NaN spreads from it.
        seen = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
        seeing: dict[int, tuple[Segment, list[int]]] = {}
        places: list[Place] = []
        at: list[int] = []
        for number, row in enumerate(rows):
            for node in row.nodes:
                start = row.starts[id(node)]
                end = start + len(node.tokens)
                tokens[number, start:end] = torch.tensor(node.tokens)
                positions[number, start:end] = torch.arange(node.start, node.start + len(node.tokens))
                seen[number, start:end, start:end] = torch.ones(end - start, end - start, dtype=torch.bool).tril()
                for above in node.path()[:-1]:
                    if (first := row.starts.get(id(above))) is not None:
                        seen[number, start:end, first : first + len(above.tokens)] = True
                for place in wanted.get(node, ()):
                    places.append((node, place))
                    at.append(number * width + start + place)
            for above in row.path:
                assert above.state is not None
                seeing.setdefault(id(above), (above.state, []))[1].append(number)
        mask = torch.zeros(seen.shape, dtype=self._model.dtype).masked_fill_(~seen, float("-inf"))
        segments = [
            (None if len(numbers) == len(rows) else torch.tensor(numbers, device=device), segment)
            for segment, numbers in seeing.values()
        ]
        columns = Columns()
        logits = forward(
            self._model, tokens.to(device), positions.to(device), columns,
            Sight(mask[:, None].to(device), segments), torch.tensor(at, dtype=torch.long, device=device),
        )  # fmt: skip
        for number, row in enumerate(rows):
            self.computed += row.length
            for node in row.nodes:
                start = row.starts[id(node)]
                node.state = columns.segment(number, start, start + len(node.tokens))
        if take and places:
            take(places, logits)


def _subtree(node: Node[Segment], among: Mapping[int, Node[Segment]]) -> list[Node[Segment]]:
    """The node and what hangs below it among some nodes, parents before children."""
    found = [node]
    for child in node.children.values():
        if id(child) in among:
            found += _subtree(child, among)
    return found


def _segments(node: Node[Segment]) -> list[Segment]:
    """What the node's tokens see of the computed nodes above."""
    return [above.state for above in node.path()[:-1] if above.state is not None]


def _rows(items: list[list[Node[Segment]]]) -> list[_Row]:
    """Subtrees that hang below the same node stand in one row, up to PACK tokens, the longest first."""
    families: dict[int, list[list[Node[Segment]]]] = {}
    for item in items:
        families.setdefault(id(item[0].parent), []).append(item)
    rows: list[_Row] = []
    for family in families.values():
        bins: list[tuple[int, list[Node[Segment]]]] = []
        for item in sorted(family, key=lambda item: -_size(item)):
            fitting = next((i for i, (size, _) in enumerate(bins) if size + _size(item) <= PACK), None)
            if fitting is None:
                bins.append((_size(item), list(item)))
            else:
                size, nodes = bins[fitting]
                bins[fitting] = (size + _size(item), nodes + item)
        path = family[0][0].path()[:-1]
        rows += [_Row(path, nodes) for _, nodes in bins]
    return rows


def _size(item: list[Node[Segment]]) -> int:
    """Tokens of a subtree."""
    return sum(len(node.tokens) for node in item)
