"""Trees as tables that a reader can walk: `nodes`, a row a step, and `trees`, a row a problem.

{"id": "p7/n000004", "problem_id": "p7", "parent_id": "p7/n000001", "height": 2, "step": "B is A less 5: 24 - 5 = 19.",
 "n_correct": 3, "n_total": 4, "label_soft": 0.75, "label_hard": 1, "low": 0.11, "high": 0.99, ...}
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tracemill.synth.step_tree.search import Search
from tracemill.synth.step_tree.tree import Node

TABLES: Mapping[str, Mapping[str, type]] = {
    "nodes": {
        "id": str,
        "node_id": str,
        "parent_id": str,
        "height": int,
        "step": str,
        "mult": int,
        "leaf_kind": str,
        "n_correct": int,
        "n_total": int,
        "n_undecided": int,
        "label_soft": float,
        "label_hard": int,
        "label_source": str,
        "low": float,
        "high": float,
        "is_first_error": bool,
        "non_monotone": bool,
        "visits": int,
        "search_iter": int,
        "n_tokens": int,
        "rollout_tokens": int,
    },
    "trees": {
        "id": str,
        "search": str,
        "outcome": str,
        "stopped": str,
        "n_nodes": int,
        "n_labelled": int,
        "n_correct": int,
        "n_total": int,
        "n_undecided": int,
        "rollouts": int,
        "tokens": int,
    },
}
"""Types of the columns, as the hook TABLES declares them; docs/step-trees.md says what they mean."""


def node_rows(problem_id: str, root: Node) -> Iterator[dict[str, Any]]:
    """A row a node, the root first: parents before their children."""
    order = [(root, 0, "")]
    for node, height, parent in order:
        name = f"{problem_id}/{node.name}"
        order += [(child, height + 1, name) for child in node.children]
        yield {
            "id": name,
            "node_id": node.name,
            "parent_id": parent or None,
            "height": height,
            "step": node.step,
            "mult": node.mult,
            "leaf_kind": node.leaf_kind,
            "n_correct": node.n_correct,
            "n_total": node.n_total,
            "n_undecided": node.n_undecided,
            "label_soft": node.n_correct / node.n_total if node.n_total else None,
            "label_hard": node.label_hard,
            "label_source": node.label_source,
            "low": node.low,
            "high": node.high,
            "is_first_error": node.is_first_error,
            "non_monotone": node.non_monotone,
            "visits": node.visits,
            "search_iter": node.search_iter,
            "n_tokens": node.n_tokens,
            "rollout_tokens": node.rollout_tokens,
        }


def tree_row(search: Search, name: str, outcome: str, stopped: str | None) -> dict[str, Any]:
    """What a tree cost and what came of it. `outcome`: ok, all_correct, all_wrong, or why it was turned down."""
    root, nodes, labelled = search.root, 0, 0
    waiting = list(root.children)
    while waiting:
        node = waiting.pop()
        waiting += node.children
        nodes += 1
        labelled += node.label_hard is not None
    return {
        "id": f"{search.problem.problem_id}/tree",
        "search": name,
        "outcome": outcome,
        "stopped": stopped,
        "n_nodes": nodes,
        "n_labelled": labelled,
        "n_correct": root.n_correct,
        "n_total": root.n_total,
        "n_undecided": root.n_undecided,
        "rollouts": search.drawn,
        "tokens": search.tokens,
    }
