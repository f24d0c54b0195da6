"""A tree of token sequences in which every start that several of them share stands once.

Texts of one stage share their rules and exemplars, arms of a sweep the rules before the dropped one, answers to one
question the question. What was computed for a node (its `state`) serves all sequences that pass through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar


class Splittable(Protocol):
    """What was computed for some tokens, and can be cut where their node is."""

    def split(self: S, at: int) -> tuple[S, S]:
        """What belongs to the first `at` tokens, and the rest."""
        ...


S = TypeVar("S", bound=Splittable)


class Node(Generic[S]):
    """Some tokens that follow those of the parent."""

    __slots__ = ("children", "parent", "start", "state", "stem", "tokens", "users", "waiting")

    def __init__(self, tokens: tuple[int, ...], parent: Node[S] | None, start: int) -> None:
        self.tokens = tokens
        self.parent = parent
        self.start = start
        """Tokens before this node's."""
        self.children: dict[int, Node[S]] = {}
        """By their first token."""
        self.state: S | None = None
        """What was computed for the tokens; None before."""
        self.waiting = 0
        """Sequences through this node that are still to be computed."""
        self.users = 0
        """Sequences that ever passed through it."""
        self.stem = False
        """True where a caller said that many sequences begin so: computed by itself, whatever else is asked for, so that
        its state does not depend on the company."""

    def path(self) -> list[Node[S]]:
        """The nodes from the root's child down to this one; empty for the root."""
        found: list[Node[S]] = []
        node: Node[S] | None = self
        while node is not None and node.parent is not None:
            found.append(node)
            node = node.parent
        return found[::-1]


class PrefixTree(Generic[S]):
    """Token sequences, inserted one by one; a sequence is known by the node in which it ends."""

    def __init__(self) -> None:
        self.root: Node[S] = Node((), None, 0)

    def insert(self, tokens: Sequence[int]) -> Node[S]:
        """The node in which the sequence ends, made where it is not there; nodes that hold more are split.

        A split node keeps its end: who holds it still holds the end of the same sequence.
        """
        tokens = tuple(tokens)
        node, at = self.root, 0
        while at < len(tokens):
            child = node.children.get(tokens[at])
            if child is None:
                child = Node(tokens[at:], node, at)
                node.children[tokens[at]] = child
                return child
            common = _common(child.tokens, tokens, at)
            if common < len(child.tokens):
                child = _split(child, common)
            node, at = child, at + common
        return node

    def stem(self, tokens: Sequence[int], users: int) -> Node[S]:
        """The node in which a start ends that many sequences are said to have, as if so many used it."""
        node = self.insert(tokens)
        for one in node.path():
            one.stem = True
            one.users = max(one.users, users)
        return node

    def hold(self, node: Node[S], users: int = 1) -> None:
        """A sequence that ends here is to be computed: its nodes stay until it is released."""
        for one in node.path():
            one.waiting += 1
            one.users += users

    def release(self, node: Node[S]) -> None:
        """The sequence is computed; nodes for which nothing waits any more go."""
        for one in node.path():
            one.waiting -= 1
        while node.parent is not None and not (node.waiting or node.children):
            del node.parent.children[node.tokens[0]]
            node = node.parent

    def nodes(self) -> list[Node[S]]:
        """All nodes, parents before their children."""
        found, open_nodes = list[Node[S]](), [self.root]
        while open_nodes:
            children = list(open_nodes.pop().children.values())
            found += children
            open_nodes += children
        return found


def _common(own: tuple[int, ...], tokens: tuple[int, ...], at: int) -> int:
    """How many of a node's tokens the sequence has from `at` on."""
    if tokens[at : at + len(own)] == own:
        return len(own)
    return next(i for i, token in enumerate(own) if at + i == len(tokens) or token != tokens[at + i])


def _split(node: Node[S], at: int) -> Node[S]:
    """A new node with the first `at` tokens, between the parent and this node, which has the rest."""
    parent = node.parent
    assert parent is not None
    upper: Node[S] = Node(node.tokens[:at], parent, node.start)
    parent.children[node.tokens[0]] = upper
    upper.children[node.tokens[at]] = node
    upper.waiting, upper.users, upper.stem = node.waiting, node.users, node.stem
    node.tokens, node.start, node.parent = node.tokens[at:], node.start + at, upper
    if node.state is not None:
        upper.state, node.state = node.state.split(at)
    return upper
