"""Hierarchical node compression (HRM, arXiv:2503.13551): a step and the one before it become one step, one level higher.

    before   P (2/5) -> c1..c5, of which c1 and c2 are correct
    after    P (1/4) -> c2..c5, and beside P a node "P c1" (1/1): the same solutions below the root as before

Where a tree counts its leaves, only the old parent's label changes: that is the noise the method adds. In a tree that counts
rollouts drawn from each prefix, no label changes: what was drawn from a prefix was drawn from it, wherever its children hang.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import fields
from operator import attrgetter
from typing import Literal

from tracemill.schemas.rows import draw
from tracemill.synth.step_tree.tree import Node, walk

Order = Literal["shuffled", "reference"]
Counted = Literal["leaves", "rollouts"]
"""What the counts of an inner node are: of the leaves below it, or of rollouts drawn from its prefix."""

RATE = 0.5
"""Of the coin, in the released code."""
LEAST_CHILDREN = 4
"""Children of a parent that may lose one; also of the released code."""
BETWEEN = "\n"
"""What stands between two steps that became one."""


def compressed(
    root: Node, problem_id: str, *, rate: float = RATE, order: Order = "shuffled", seed: int = 0, counted: Counted
) -> Node:
    """A copy of the tree in which at most one child of each parent has moved up, joined with the parent's step.

    Every coin is the hash of seed, problem and node: the same in every run, whatever else is in the tree. The released code
    asks the children in order, so that the first is joined with probability `rate`, the second with half of that, and so
    on; `shuffled` asks them in an order drawn by hash.
    """
    copy = copied(root)

    def heads(child: Node) -> bool:
        return chance(seed, "hnc", problem_id, child.name) < rate

    def in_turn(parent: Node) -> list[Node]:
        if order == "reference":
            return list(parent.children)
        return sorted(parent.children, key=lambda child: chance(seed, "hnc-order", problem_id, child.name))

    merge(copy, heads, in_turn, counted=counted)
    return copy


def chance(seed: int, stage: str, problem_id: str, name: str) -> float:
    """A number from 0 to 1 that seed, stage, problem and name keep for ever."""
    return draw(f"{seed}|{stage}|{problem_id}|{name}") / (1 << 64)


def merge(
    root: Node, heads: Callable[[Node], bool], in_turn: Callable[[Node], list[Node]], *, counted: Counted = "leaves"
) -> None:
    """Move children up in place, parents before their children.

    A child is asked where it has a step, its height is 2 or more, its parent has 4 children or more and was not joined with
    another step, and no sibling has moved. Prefixes are read along the parents, so its whole subtree follows.
    """
    waiting = deque([root])
    while waiting:
        node = waiting.popleft()
        above = node.parent
        if above is not None and not node.merged and len(node.children) >= LEAST_CHILDREN:
            moved = next((child for child in in_turn(node) if child.step and heads(child)), None)
            if moved is not None:
                _move_up(moved, node, above, counted)
                waiting.append(moved)
        waiting.extend(node.children)


def _move_up(child: Node, parent: Node, above: Node, counted: Counted) -> None:
    """Join a step with its parent's, and hang it beside the parent, which keeps the leaves that are left."""
    parent.children.remove(child)
    if counted == "leaves":
        parent.n_total -= child.mult * child.n_total
        parent.n_correct -= child.mult * child.n_correct
        parent.n_undecided -= child.mult * child.n_undecided
        parent.low = parent.high = None  # of the counts that were
        parent.label_hard = 1 if parent.n_correct else None if parent.n_undecided else 0
        child.mult *= parent.mult
    child.step = f"{parent.step}{BETWEEN}{child.step}"
    child.n_tokens += parent.n_tokens
    child.merged = (parent.name, child.name)
    above.add(child)


def count_leaves(root: Node) -> None:
    """Give every node the counts of the leaves below it, each as often as it and its ancestors stand for identical siblings.

    A leaf counts one solution for itself, and its parent weighs it by its `mult`. A node without children is a leaf whatever
    its kind; only `correct` is correct and only `undecided` undecided.
    """
    for node in reversed(list(walk(root))):
        if not node.children:
            node.n_total = 1
            node.n_correct = int(node.leaf_kind == "correct")
            node.n_undecided = int(node.leaf_kind == "undecided")
            continue
        node.n_total = sum(child.mult * child.n_total for child in node.children)
        node.n_correct = sum(child.mult * child.n_correct for child in node.children)
        node.n_undecided = sum(child.mult * child.n_undecided for child in node.children)


def copied(root: Node) -> Node:
    """The whole tree again, sharing nothing but its texts."""
    top = _alone(root)
    waiting = deque([(root, top)])
    while waiting:
        node, copy = waiting.popleft()
        for child in node.children:
            twin = copy.add(_alone(child))
            if child.children:
                waiting.append((child, twin))
    return top


def _alone(node: Node) -> Node:
    return Node(**dict(zip(_OWN, _own(node), strict=True)))


_OWN = tuple(field.name for field in fields(Node) if field.name not in ("parent", "children"))
_own = attrgetter(*_OWN)
