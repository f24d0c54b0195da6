"""Laws of the tree of token sequences: every shared start stands once, and what was computed for it stays with it."""

from __future__ import annotations

import random

from selfalign.engines.prefix_tree import PrefixTree


class Spelled:
    """Stands for keys and values: the tokens themselves."""

    def __init__(self, tokens):
        self.tokens = tuple(tokens)

    def split(self, at):
        return Spelled(self.tokens[:at]), Spelled(self.tokens[at:])


def sequences(count: int, seed: int) -> list[tuple[int, ...]]:
    """Short ones over three tokens, so that many share a start or contain another."""
    draw = random.Random(seed)
    return [tuple(draw.choices(range(3), k=draw.randrange(9))) for _ in range(count)]


def spelled(node) -> tuple[int, ...]:
    return tuple(token for one in node.path() for token in one.tokens)


def distinct(known) -> int:
    return len({tokens[: end + 1] for tokens in known for end in range(len(tokens))})


def test_a_sequence_ends_where_it_was_inserted_whatever_came_after():
    for seed in range(30):
        tree, known = PrefixTree(), sequences(40, seed)
        ends = [tree.insert(tokens) for tokens in known]
        assert [spelled(end) for end in ends] == known
        assert [tree.insert(tokens) for tokens in known] == ends


def test_every_shared_start_stands_once():
    for seed in range(30):
        tree, known = PrefixTree(), sequences(40, seed)
        for tokens in known:
            tree.insert(tokens)
        assert sum(len(node.tokens) for node in tree.nodes()) == distinct(known)
        for node in tree.nodes():
            assert node.start == len(spelled(node)) - len(node.tokens)


def test_what_was_computed_is_split_with_its_node():
    tree, draw = PrefixTree(), random.Random(1)
    for tokens in sequences(200, seed=2):
        for node in tree.insert(tokens).path():
            if node.state is None and draw.random() < 0.7:
                node.state = Spelled(node.tokens)
        assert all(node.state is None or node.state.tokens == node.tokens for node in tree.nodes())


def test_nodes_go_when_nothing_waits_for_them_and_not_before():
    for seed in range(30):
        tree, draw, waiting = PrefixTree(), random.Random(seed), []
        for tokens in sequences(60, seed):
            waiting.append((tokens, tree.insert(tokens)))
            tree.hold(waiting[-1][1])
            if draw.random() < 0.5:
                _, node = waiting.pop(draw.randrange(len(waiting)))
                tree.release(node)
            assert sum(len(node.tokens) for node in tree.nodes()) == distinct([tokens for tokens, _ in waiting])
        for _, node in waiting:
            tree.release(node)
        assert tree.nodes() == []


def test_parents_come_before_their_children():
    tree = PrefixTree()
    for tokens in sequences(80, seed=3):
        tree.insert(tokens)
    seen = {id(tree.root)}
    for node in tree.nodes():
        assert id(node.parent) in seen
        seen.add(id(node))
