"""The trees that HRM was trained on (arXiv:2503.13551, released code): every node is expanded, breadth first.

There it goes under the name of Monte-Carlo tree search; it has no selection, no visits and no rollouts. A node's label is the share of right
leaves among the leaves below it: not the mean of its children's labels.
"""

from tracemill.synth.step_tree.search import Drawn, Search, leaf_kind
from tracemill.synth.step_tree.tree import Node

# HRM's released code: five children of each node, one call for all of them; its height of 6 means at most five steps; nearly greedy.
BRANCHING, HEIGHT, TEMPERATURE = 5, 5, 0.1


async def bfs(search: Search, *, branching: int, height: int) -> str | None:
    """Expand every node up to `height`; returns None: a tree is kept whatever its leaves are.

    Children of one text become one node, which is expanded once: its leaves stand for as many as the text came.
    """
    frontier = [search.root]
    for level in range(1, height + 1):
        grown: list[Node] = []
        for wave in search.waves(frontier):
            for node, drawn in await search.draw_steps([(node, branching) for node in wave], level):
                _expand(search, node, drawn)
                grown += node.children
        frontier = [node for node in grown if node.leaf_kind is None]
    for node in frontier:
        node.leaf_kind = "height_limit"
    return None


def _expand(search: Search, node: Node, drawn: Drawn) -> None:
    if node in search.refused:
        node.leaf_kind = "error"
    for completion, verdict in drawn:
        step, last = search.layout.one(completion.text, finished=not completion.truncated)
        child = search.child(node, step, last=last)
        if not step:
            child.leaf_kind = "error"
        elif last:
            child.leaf_kind = leaf_kind(verdict.correct)
        elif completion.truncated:
            child.leaf_kind = "height_limit"


def count_leaves(root: Node) -> None:
    """Counts of all nodes, from their leaves. One leaf of a text that came twice, under one that came three times, is six."""
    order = [(root, 1)]
    for node, weight in order:
        order += [(child, weight * child.mult) for child in node.children]
    for node, weight in reversed(order):
        if not node.children:
            node.n_total = weight
            node.n_correct = weight * (node.leaf_kind == "correct")
            node.n_undecided = weight * (node.leaf_kind == "undecided")
        else:
            node.n_total = sum(child.n_total for child in node.children)
            node.n_correct = sum(child.n_correct for child in node.children)
            node.n_undecided = sum(child.n_undecided for child in node.children)
