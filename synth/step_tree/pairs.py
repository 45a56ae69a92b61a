"""Pairs of sibling steps, the better one known: as rStar-Math forms them for its process preference model (arXiv:2501.04519).

Q of a node is (right - wrong) / all of the solutions through it: what +1 for each right end and -1 for each wrong one come to
on the way up. An undecided end counts among all and adds nothing.

    siblings with Q 0.9 and 0.5 (lead to right ends), -0.2 and -0.8 (to wrong ones)  ->  margins 1.7, 1.1, 1.3, 0.7
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

from tracemill.synth.step_tree.hnc import Counted
from tracemill.synth.step_tree.tree import Node, walk

EACH_SIDE = 2
"""Steps of each side at a node, in the released code ..."""
BESIDE_ONE = 4
"""... and of the other side where one has a single step."""
MARGIN = 0.5
EDITS = 20
"""The least difference of Q, and the least edit distance in characters, of the released sampling."""
SLACK = 1e-9
"""Means that are equal as fractions differ in their last bits."""

PAIR_COLUMNS = {
    "node_id": str,
    "height": int,
    "pos_id": str,
    "neg_id": str,
    "prefix": list[str],
    "pos": str,
    "neg": str,
    "q_pos": float,
    "q_neg": float,
    "margin": float,
    "pos_count": int,
    "neg_count": int,
}
"""`node_id` is the node that the two steps follow; `pos_count` and `neg_count` are how many steps of each side were paired there."""

Best = dict[int, float]
"""By the number of steps: the extreme of the sum of Q over a way down of so many."""


@dataclass(frozen=True, slots=True)
class Side:
    """A step that may stand on a side of a pair."""

    node: Node
    q: float
    best: float
    """Largest mean of Q on a way down to a right end; minus infinity where there is none."""
    worst: float
    """Smallest mean of Q on a way down to a wrong end; infinity where there is none."""


def pair_rows(
    root: Node, *, margin: float = MARGIN, edits: int = EDITS, counted: Counted = "leaves"
) -> Iterator[dict[str, Any]]:
    """The pairs at every node, parents before their children."""
    nodes = list(walk(root))
    ways = ways_down(nodes, counted)
    for node in nodes:
        children = [child for child in node.children if child.step]  # a draw that failed is a leaf without a step
        qs = [q_of(child) for child in children]
        if len(qs) < 2 or max(qs) - min(qs) < margin - SLACK:
            continue
        sides = [side_of(child, *ways[child.name]) for child in children]
        pairs, counts = paired(sides, margin=margin)
        if not pairs:
            continue
        prefix = node.steps()
        for pos, neg in pairs:
            if differ(pos.node.step, neg.node.step, edits):
                yield {
                    "node_id": node.name,
                    "height": len(prefix) + 1,
                    "pos_id": pos.node.name,
                    "neg_id": neg.node.name,
                    "prefix": prefix,
                    "pos": pos.node.step,
                    "neg": neg.node.step,
                    "q_pos": pos.q,
                    "q_neg": neg.q,
                    "margin": pos.q - neg.q,
                    "pos_count": counts[0],
                    "neg_count": counts[1],
                }


def paired(sides: Sequence[Side], *, margin: float = MARGIN) -> tuple[list[tuple[Side, Side]], tuple[int, int]]:
    """The pairs among siblings, and how many steps stood on each side.

    On one side those with the largest Q that lead to a right end, on the other those with the smallest Q that lead to a wrong
    one, ties by their order. Kept where Q differs by the margin and the better one's best way down is better than the other's
    worst.
    """
    good = sorted((s for s in sides if s.best > -inf), key=lambda s: -s.q)
    bad = sorted((s for s in sides if s.worst < inf), key=lambda s: s.q)
    most_good = BESIDE_ONE if len(bad) == 1 else EACH_SIDE
    most_bad = BESIDE_ONE if len(good) == 1 else EACH_SIDE
    good, bad = good[:most_good], bad[:most_bad]
    return [(p, n) for p in good for n in bad if _kept(p, n, margin)], (len(good), len(bad))


def _kept(pos: Side, neg: Side, margin: float) -> bool:
    return pos.q > neg.q and pos.q - neg.q >= margin - SLACK and pos.best > neg.worst + SLACK


def q_of(node: Node) -> float:
    """(right - wrong) / all; 0 where nothing was counted."""
    wrong = node.n_total - node.n_correct - node.n_undecided
    return (node.n_correct - wrong) / node.n_total if node.n_total else 0.0


def side_of(node: Node, right: Best, wrong: Best) -> Side:
    best = max((total / steps for steps, total in right.items()), default=-inf)
    worst = min((total / steps for steps, total in wrong.items()), default=inf)
    return Side(node, q_of(node), best, worst)


def ways_down(nodes: Sequence[Node], counted: Counted) -> dict[str, tuple[Best, Best]]:
    """For each node the extremes over the ways from it, itself counted, down to right ends and to wrong ones.

    A rollout drawn from a node ends there: nothing is known of the steps it took.
    """
    ways: dict[str, tuple[Best, Best]] = {}
    for node in reversed(nodes):
        q = q_of(node)
        right: Best = {}
        wrong: Best = {}
        if not node.children or counted == "rollouts":
            if node.n_correct:
                right[1] = q
            if node.n_total > node.n_correct + node.n_undecided:
                wrong[1] = q
        for child in node.children:
            below_right, below_wrong = ways[child.name]
            for steps, total in below_right.items():
                right[steps + 1] = max(right.get(steps + 1, -steps - 2.0), total + q)
            for steps, total in below_wrong.items():
                wrong[steps + 1] = min(wrong.get(steps + 1, steps + 2.0), total + q)
        ways[node.name] = (right, wrong)
    return ways


def differ(one: str, other: str, edits: int) -> bool:
    """Whether the Levenshtein distance of two texts is `edits` or more; in time linear in their length for a fixed `edits`."""
    if abs(len(one) - len(other)) >= edits:
        return True
    ahead = _same(one, 0, other, 0)
    one, other = one[ahead:][::-1], other[ahead:][::-1]
    behind = _same(one, 0, other, 0)
    one, other = one[behind:], other[behind:]
    if max(len(one), len(other)) < edits:
        return False
    if _apart(Counter(one), Counter(other)) >= edits:
        return True  # so many characters have no partner at all
    if _apart(Counter(pairwise(one)), Counter(pairwise(other))) > 2 * (edits - 1):
        return True  # an edit touches two pairs of neighbours at most
    return not _within(one, other, edits - 1)


def _apart(one: Counter[Any], other: Counter[Any]) -> int:
    """How many of either side have no partner on the other; a Counter's own minus is slow."""
    shared = sum(min(count, other[key]) for key, count in one.items() if key in other)
    return max(one.total(), other.total()) - shared


def _within(one: str, other: str, most: int) -> bool:
    """Whether `most` edits make one text the other: the furthest point on each diagonal after 0, 1, ... edits (Ukkonen 1985)."""
    goal = len(other) - len(one)
    furthest = {0: _same(one, 0, other, 0)}
    for edit in range(most + 1):
        if furthest.get(goal, -1) >= len(one):
            return True
        step: dict[int, int] = {}
        for diagonal in range(-edit - 1, edit + 2):
            at = max(
                furthest.get(diagonal, -2) + 1,  # one character for another
                furthest.get(diagonal + 1, -2) + 1,  # one left out
                furthest.get(diagonal - 1, -1),  # one put in
            )
            at = min(at, len(one), len(other) - diagonal)
            if at >= max(0, -diagonal):
                step[diagonal] = at + _same(one, at, other, at + diagonal)
        furthest = step
    return False


def _same(one: str, start: int, other: str, other_start: int) -> int:
    """How many characters two texts have in common from two places on."""
    length, block = 0, 64
    while one[start + length : start + length + block] == other[other_start + length : other_start + length + block]:
        if start + length >= len(one) or other_start + length >= len(other):
            return min(len(one) - start, len(other) - other_start)
        length, block = length + block, block * 2
    a = one[start + length : start + length + block]
    b = other[other_start + length : other_start + length + block]
    return length + next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
