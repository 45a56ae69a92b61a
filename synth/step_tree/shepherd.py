"""Math-Shepherd (arXiv:2312.08935): the value of every step of some solutions, by brute force.

With counts 6, 3, 0, 0 of eight completions after each of four steps, the soft labels are 0.75, 0.375, 0, 0 and the hard ones 1, 1, 0, 0.
"""

from tracemill.synth.step_tree.search import Search
from tracemill.synth.step_tree.tree import walk

SOLUTIONS, K = 15, 8
"""Math-Shepherd, section 4.1: 15 solutions a problem (from two generators; here from one), 8 completions a step."""


async def shepherd(search: Search, *, solutions: int) -> tuple[str | None, str | None]:
    """Draw solutions and label all their steps; returns why that says nothing (none of them is right), and what ended it early.

    Completions of prefixes are counted and do not make the tree grow: it holds the steps of the solutions.
    """
    await search.draw([(search.root, solutions)])
    if search.counts[search.root].correct == 0:
        return "no_correct_sample", None
    inner = [node for node in walk(search.root) if node is not search.root and node.leaf_kind is None]
    for wave in search.waves(inner):
        await search.estimate(wave, grow=False)
    return None, None
