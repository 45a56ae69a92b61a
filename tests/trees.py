"""Step trees written down: {"A": {"A1": "correct", "A2": "wrong"}, "B": "wrong"}."""

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

from tracemill.schemas.rows import Problem
from tracemill.synth.step_tree.tree import Node, walk

Spec = Mapping[str, Any]
QUESTION = "How many?"


def grown(spec: Spec, *, counted: bool = True) -> Node:
    """The tree of a spec, its nodes named in the order in which they stand there; with the counts of its leaves."""
    root, numbers = Node(step=""), count(1)

    def add(node: Node, below: Spec) -> None:
        for step, value in below.items():
            child = node.add(Node(step=step, name=f"n{next(numbers):06}", n_tokens=len(step.split())))
            if isinstance(value, str):
                child.leaf_kind = value  # type: ignore[assignment]
            else:
                add(child, value)

    add(root, spec)
    if counted:
        count_leaves(root)
    return root


def count_leaves(root: Node) -> None:
    """Every leaf as often as it and the nodes above it stand for identical siblings."""
    weight = {root: 1}
    for node in walk(root):
        weight |= {child: weight[node] * child.mult for child in node.children}
    for node in reversed(list(weight)):
        below = node.children
        node.n_total = sum(c.n_total for c in below) if below else weight[node]
        node.n_correct = sum(c.n_correct for c in below) if below else weight[node] * (node.leaf_kind == "correct")
        node.n_undecided = (
            sum(c.n_undecided for c in below) if below else weight[node] * (node.leaf_kind == "undecided")
        )


def at(root: Node, step: str) -> Node:
    """The node of a step."""
    return next(node for node in walk(root) if node.step == step)


def share(node: Node) -> tuple[int, int]:
    return node.n_correct, node.n_total


def problem(name: str = "p1") -> Problem:
    return Problem(problem_id=name, question=QUESTION, gold="7")


def node_rows(root: Node, problem_id: str = "p1", **labels: Any) -> Iterator[dict[str, Any]]:
    """Rows of the table `nodes`; `labels` are the hard labels by step where they are not those of the counts."""
    for node in walk(root):
        yield {
            "id": f"{problem_id}/{node.name}",
            "problem_id": problem_id,
            "node_id": node.name,
            "parent_id": f"{problem_id}/{node.parent.name}" if node.parent else None,
            "step": node.step,
            "height": node.height,
            "mult": node.mult,
            "n_correct": node.n_correct,
            "n_total": node.n_total,
            "n_undecided": node.n_undecided,
            "label_soft": node.n_correct / node.n_total if node.n_total else None,
            "label_hard": labels.get(node.step, int(node.n_correct > 0)),
            "low": node.low,
            "high": node.high,
            "leaf_kind": node.leaf_kind,
            "n_tokens": node.n_tokens,
        }
