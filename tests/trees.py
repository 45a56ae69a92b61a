"""Step trees written down: {"A": {"A1": "correct", "A2": "wrong"}, "B": "wrong"}."""

from collections.abc import Iterator, Mapping
from itertools import count as numbers_from
from typing import Any

from tracemill.schemas.rows import Problem
from tracemill.synth.step_tree.hnc import count_leaves
from tracemill.synth.step_tree.tables import node_rows as table_rows
from tracemill.synth.step_tree.tree import Node, walk

Spec = Mapping[str, Any]
QUESTION = "How many?"


def grown(spec: Spec, *, counted: bool = True) -> Node:
    """The tree of a spec, its nodes named in the order in which they stand there; with the counts of its leaves."""
    root, numbers = Node(step=""), numbers_from(1)

    def add(node: Node, below: Spec) -> None:
        for step, value in below.items():
            child = node.add(Node(step=step, name=f"n{next(numbers):06}", n_tokens=len(step.split())))
            if isinstance(value, str):
                child.leaf_kind = value  # type: ignore[assignment]
            else:
                add(child, value)

    add(root, spec)
    if counted:
        count(root)
    return root


def count(root: Node) -> None:
    """The counts and labels that leaves of these kinds give."""
    count_leaves(root)
    for node in walk(root):
        node.label_hard = 1 if node.n_correct else None if node.n_undecided else 0


def at(root: Node, step: str) -> Node:
    """The node of a step."""
    return next(node for node in walk(root) if node.step == step)


def share(node: Node) -> tuple[int, int]:
    return node.n_correct, node.n_total


def problem(name: str = "p1") -> Problem:
    return Problem(problem_id=name, question=QUESTION, gold="7")


def node_rows(root: Node, problem_id: str = "p1", **labels: Any) -> Iterator[dict[str, Any]]:
    """Rows of the table `nodes`; `labels` are the hard labels by step where they are not those of the counts."""
    for row in table_rows(problem_id, root):
        yield row | {"problem_id": problem_id, "label_hard": labels.get(row["step"], row["label_hard"])}
