"""Values of steps as ReST-MCTS* gives them (arXiv:2406.03816): how far along a right solution a step is.

With m the fewest further steps to a right end, and r = 1 for a step that no right solution is known to go through:

    w = (1 - v_before) / (m + 1) * (1 - 2 r)        v = max(0, v_before + w)        v(root) = 0

A right solution of three steps has the values 1/3, 2/3, 1. A wrong step takes the m of its nearest ancestor that has one.
"""

from collections.abc import Iterator
from typing import Any

from tracemill.synth.step_tree.tree import Node, walk

VALUE_COLUMNS = {"node_id": str, "height": int, "m": int, "r": int, "value": float}


def value_rows(root: Node) -> Iterator[dict[str, Any]]:
    """One row a node that has a step; none where the fewest steps to a right end are known of no node at all."""
    nodes = list(walk(root))
    ahead = _steps_ahead(nodes)
    if root.name not in ahead:
        return
    value, reach, height = {root.name: 0.0}, {root.name: ahead[root.name]}, {root.name: 0}
    for above in nodes:
        before = value[above.name]
        for node in above.children:
            name = node.name
            height[name] = height[above.name] + 1
            m = reach[name] = ahead.get(name, reach[above.name])
            r = int(name not in ahead and node.n_correct == 0)
            value[name] = max(0.0, before + (1 - before) / (m + 1) * (1 - 2 * r))
            if not node.step:
                continue  # a draw that failed
            yield {
                "node_id": name,
                "height": height[name],
                "m": m,
                "r": r,
                "value": value[name],
            }


def _steps_ahead(nodes: list[Node]) -> dict[str, int]:
    """The fewest steps from a node to a right end, by name; absent where none is known."""
    ahead: dict[str, int] = {}
    for node in reversed(nodes):
        known = [ahead[child.name] + 1 for child in node.children if child.name in ahead]
        if node.leaf_kind == "correct":
            known.append(0)
        if node.steps_left is not None:
            known.append(node.steps_left)
        if known:
            ahead[node.name] = min(known)
    return ahead
