"""OmegaPRM (arXiv:2406.06592): find the first wrong step of solutions that end wrong, by binary search over rollouts.

Of eight steps with a value of 0.25 after four, 0.5 after six and 0 after seven, three prefixes are probed, 4, 6 and 7, and the seventh is
the error: 24 rollouts where brute force takes 64. What is probed becomes a prefix whose own wrong rollouts may be searched next.

A piece is a step: the paper's sixteenths of a mean solution cut through words, and none of its prefixes is one that a trainer could use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

from tracemill.synth.step_tree.evidence import Counts
from tracemill.synth.step_tree.search import Rollout, Search
from tracemill.synth.step_tree.tree import Node

# OmegaPRM, section 4 (parameter choice): alpha, beta, L and c_puct of the tree policy, and the filter's 32 rollouts.
ALPHA, BETA, LENGTH, C_PUCT = 0.5, 0.9, 500, 0.125
PREFILTER, SEARCH_LIMIT = 32, 100
LOOK = 4
"""Of adaptive filtering: the first look at the question; later ones double it. Not in the paper; our default."""


def score(counts: Counts, n_tokens: int, visits: int, all_visits: int) -> float:
    """Q + U: prefers wrong rollouts from prefixes that mostly end right, short ones, and prefixes that were searched little."""
    value = counts.correct / counts.total
    quality: float = ALPHA ** (1 - value) * BETA ** (n_tokens / LENGTH)
    return quality + C_PUCT * sqrt(all_visits) / (1 + visits)


@dataclass(slots=True)
class Pool:
    """Wrong rollouts that wait to be searched, in the order in which their prefixes were probed."""

    waiting: list[Rollout] = field(default_factory=list)
    searched: int = 0
    _seen: set[tuple[Node, Node]] = field(default_factory=set)

    def offer(self, search: Search, node: Node) -> None:
        """Take the wrong rollouts of the question, or of a prefix that is good. One that was cut off has no step to blame."""
        if node is not search.root and not search.positive(node):
            return
        for rollout in search.rollouts.get(node, ()):
            if rollout.correct is False and not rollout.truncated and rollout.path:
                ends = (node, rollout.path[-1])
                if ends not in self._seen:
                    self._seen.add(ends)
                    self.waiting.append(rollout)

    def pop(self, search: Search) -> Rollout:
        """The most promising one; of equals the first. Scores are compared to nine decimals, which all machines agree on."""

        def key(rollout: Rollout) -> float:
            return round(score(search.counts[rollout.start], rollout.n_tokens, rollout.start.visits, self.searched), 9)

        best = max(self.waiting, key=key)
        self.waiting.remove(best)
        self.searched += 1
        best.start.visits += 1
        return best


async def omega(search: Search, *, prefilter: int, search_limit: int) -> tuple[str | None, str | None]:
    """Grow the tree; returns why the question is not worth one (no rollout of it is right, or none is wrong), and what ended it early."""
    if (why := await _filtered(search, prefilter)) is not None:
        return why, None
    pool = Pool()
    pool.offer(search, search.root)
    while pool.waiting and pool.searched < search_limit:
        await _binary_search(search, pool, pool.pop(search))
    return None, "search_limit" if pool.waiting else None


async def _filtered(search: Search, prefilter: int) -> str | None:
    """Draw `prefilter` solutions of the question; adaptively no more than it takes to see a right and a wrong one."""
    look = LOOK if search.rule.k is None else prefilter
    while True:
        have = search.counts.get(search.root, Counts())
        await search.draw([(search.root, min(look, prefilter) - have.total)])
        have = search.counts[search.root]
        if 0 < have.correct < have.decided:
            return None
        if have.total >= prefilter:
            return "all_correct" if have.correct else "no_correct_sample"
        look *= 2


async def _binary_search(search: Search, pool: Pool, rollout: Rollout) -> None:
    """Probe prefixes of a wrong rollout until a right one and a wrong one are neighbours."""
    path = (rollout.start, *rollout.path)
    low, high = _bounds(search, path) if search.rule.k is None else (0, len(path) - 1)
    while high - low > 1:
        middle = (low + high) // 2
        if await _probe(search, pool, path[middle]):
            low = middle
        else:
            high = middle
    last = high == len(path) - 1
    if last or search.rule.hard(search.counts.get(path[high], Counts())) == 0:
        path[high].is_first_error = True


def _bounds(search: Search, path: Sequence[Node]) -> tuple[int, int]:
    """What is known of a path already: its last good prefix, and the first bad one behind that."""
    low = max(number for number, node in enumerate(path) if number == 0 or _good(search, node))
    bad = (n for n in range(low + 1, len(path) - 1) if search.rule.hard(search.counts.get(path[n], Counts())) == 0)
    return low, next(bad, len(path) - 1)


def _good(search: Search, node: Node) -> bool:
    """A right solution through a prefix proves that it can be finished, wherever it was drawn from; adaptively that is enough."""
    proof = search.rule.k is None and search.rule.threshold == 0 and node in search.proven
    return proof or search.positive(node)


async def _probe(search: Search, pool: Pool, node: Node) -> bool:
    if _good(search, node):
        return True
    if node.search_iter is None:
        node.search_iter = pool.searched
    await search.estimate([node])
    if node not in search.refused:
        pool.offer(search, node)
    return search.positive(node)
