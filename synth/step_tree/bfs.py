"""The trees that HRM was trained on (arXiv:2503.13551, released code): every node is expanded, breadth first.

There it goes under the name of Monte-Carlo tree search; it has no selection, no visits and no rollouts. A node's label is the share of right
leaves among the leaves below it: not the mean of its children's labels.
"""

from collections.abc import Sequence

from tracemill.schemas.request import Completion
from tracemill.synth.step_tree.search import Search, Spent, leaf_kind
from tracemill.synth.step_tree.tree import Node, walk

# HRM's released code: five children of each node, one call for all of them; its height of 6 means at most five steps; nearly greedy.
BRANCHING, HEIGHT, TEMPERATURE = 5, 5, 0.1


async def bfs(search: Search, *, branching: int, height: int) -> tuple[str | None, str | None]:
    """Expand every node up to `height`; a tree is kept whatever its leaves are, so there is never a reason to return.

    Children of one text become one node, which is expanded once: its leaves stand for as many as the text came.
    """
    frontier = [search.root]
    try:
        for level in range(1, height + 1):
            frontier = await _level(search, frontier, branching, level)
    except Spent:
        for node in walk(search.root):  # nobody knows what would have come of them
            if not node.children and node.leaf_kind is None:
                node.leaf_kind = "undecided"
        raise
    for node in frontier:
        node.leaf_kind = "height_limit"
    return None, None


async def _level(search: Search, frontier: Sequence[Node], branching: int, level: int) -> list[Node]:
    """The nodes of the next level that are to be expanded."""
    for wave in search.waves(frontier):
        for node, drawn in await search.draw_steps([(node, branching) for node in wave], level):
            await _expand(search, node, drawn)
    return [child for node in frontier for child in node.children if child.leaf_kind is None]


async def _expand(search: Search, node: Node, drawn: Sequence[Completion]) -> None:
    if node in search.refused:
        node.leaf_kind = "error"
    before = search.layout.prefix(node.steps(), opened=True) or ""
    for completion in drawn:
        step, last = search.layout.one(completion.text, finished=not completion.truncated)
        child = search.child(node, step, last=last, key=completion.key)
        if not step:
            child.leaf_kind = "error"
        elif last:
            child.leaf_kind = leaf_kind((await search.verdict(before, completion)).correct)
        elif completion.truncated:
            child.leaf_kind = "height_limit"
