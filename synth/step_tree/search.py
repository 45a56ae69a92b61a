"""One tree while it grows: what is drawn for it, what was counted, and what that cost. The three searches decide what to draw.

All that can be drawn at once is: prefixes that begin alike are in the engine close together in time, so that what it computed for
one is still in its prefix cache for the others.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tracemill.schemas.errors import ProblemFailed, RequestRefused
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Problem, Verdict
from tracemill.synth.engine import together
from tracemill.synth.step_tree.evidence import Counts, Rule
from tracemill.synth.step_tree.layout import Layout
from tracemill.synth.step_tree.tree import LeafKind, Node

SCOPE = "step_tree"
"""Of what goes on from a prefix. Whole solutions are in the scope that all methods share."""
WAVE = 16
"""Prefixes that are worked on at once where a budget is watched: it is overshot by what these cost, and not by a tree."""


class Spent(Exception):
    """The tree has cost what it may; it stays as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One solution, from the prefix that it was drawn from to its end."""

    start: Node
    path: tuple[Node, ...]
    """The steps after `start`, as far as the tree has them."""
    n_steps: int
    correct: bool | None
    n_tokens: int
    truncated: bool


@dataclass(slots=True, eq=False)
class Search:
    """The tree of one problem."""

    problem: Problem
    engine: Engine
    layout: Layout
    messages: tuple[Message, ...]
    rule: Rule
    temperature: float | None = None
    budget: int | None = None
    """Tokens after which nothing more is drawn; None: no limit."""
    root: Node = field(default_factory=lambda: Node(""))
    counts: dict[Node, Counts] = field(default_factory=dict)
    """What is known of the value of each prefix."""
    ended: dict[Node, Counts] = field(default_factory=dict)
    """Solutions that end in a node."""
    rollouts: dict[Node, list[Rollout]] = field(default_factory=dict)
    proven: set[Node] = field(default_factory=set)
    """Prefixes that a right solution goes through."""
    refused: set[Node] = field(default_factory=set)
    """Prefixes that the backend will not go on from, such as one that leaves no room in the context."""
    tokens: int = 0
    drawn: int = 0
    _asked: Counter[Node] = field(default_factory=Counter)
    _known: dict[tuple[Node, str, bool], Node] = field(default_factory=dict)

    async def draw(self, wants: Sequence[tuple[Node, int]], *, grow: bool = True) -> None:
        """Draw so many solutions from each of these prefixes, all at once, and count them; `grow` adds their steps to the tree."""
        sampling = Sampling(
            temperature=self.temperature, stop=self.layout.stop, include_stop=self.layout.stop is not None
        )
        for node, found in await self._ask(wants, sampling, opened=False):
            self.counts.setdefault(node, Counts())
            before = self.layout.prefix(node.steps()) or ""
            for completion in found:
                self._count(node, completion, await self.verdict(before, completion), grow)

    async def draw_steps(self, wants: Sequence[tuple[Node, int]], height: int) -> list[tuple[Node, list[Completion]]]:
        """Draw so many next steps of each of these nodes, all at once; they lead to `height`. Nothing is counted yet."""
        sampling = Sampling(temperature=self.temperature, stop=self.layout.step_stop(height), include_stop=True)
        return await self._ask(wants, sampling, opened=True)

    async def estimate(self, nodes: Sequence[Node], *, grow: bool = True) -> None:
        """Draw from these prefixes what the rule asks for, in rounds that depend on counts alone."""
        while wants := [(node, n) for node in nodes if node not in self.refused and (n := self._more(node))]:
            await self.draw(wants, grow=grow)

    async def verdict(self, before: str, completion: Completion) -> Verdict:
        """On a whole solution: the text `before`, and what the model went on with."""
        return await self.engine.verify(replace(completion, text=before + completion.text), self.problem.gold)

    def count(self, node: Node, correct: bool | None) -> None:
        """One more continuation of this prefix has this outcome."""
        self.counts[node] = self.counts.get(node, Counts()).and_one(correct)

    def positive(self, node: Node) -> bool:
        """Whether the value of this prefix is known to be above the threshold."""
        return self.rule.hard(self.counts.get(node, Counts())) == 1

    def child(self, parent: Node, step: str, *, last: bool, key: str) -> Node:
        """The child with this text; a twin counts as one more of it. A step that ends a solution is no twin of one that does not.

        `key` is that of the completion that the step was cut from.
        """
        if (known := self._known.get((parent, step, last))) is not None:
            known.mult += 1
            return known
        node = Node(step, n_tokens=self.engine.count_tokens(step), key=key)
        self._known[parent, step, last] = node
        return parent.add(node)

    def waves(self, nodes: Sequence[Node]) -> Iterator[Sequence[Node]]:
        """All at once; where a budget is watched, some at a time."""
        size = len(nodes) if self.budget is None else WAVE
        for start in range(0, len(nodes), max(1, size)):
            yield nodes[start : start + size]

    def _more(self, node: Node) -> int:
        return self.rule.more(self.counts.get(node, Counts()))

    async def _ask(
        self, wants: Sequence[tuple[Node, int]], sampling: Sampling, *, opened: bool
    ) -> list[tuple[Node, list[Completion]]]:
        if self.budget is not None and self.tokens >= self.budget:
            raise Spent
        answers = await together(self._from(node, n, sampling, opened) for node, n in wants)
        for (node, n), found in zip(wants, answers, strict=True):
            self._asked[node] += n
            cost = sum(completion.n_tokens for completion in found)
            node.rollout_tokens += cost
            self.tokens += cost
            self.drawn += len(found)
        return [(node, found) for (node, _), found in zip(wants, answers, strict=True)]

    async def _from(self, node: Node, n: int, sampling: Sampling, opened: bool) -> list[Completion]:
        prefix = self.layout.prefix(node.steps(), opened=opened)
        try:
            return await self.engine.sample(
                self.messages,
                n=n,
                start=self._asked[node],
                scope="solve" if prefix is None else SCOPE,
                sampling=sampling,
                prefix=prefix,
            )
        except ProblemFailed as failure:
            if node is self.root or not isinstance(failure.__cause__, RequestRefused):
                raise
            self.refused.add(node)
            return []

    def _count(self, start: Node, completion: Completion, verdict: Verdict, grow: bool) -> None:
        """Note a solution where it started and, adaptively, at every prefix on its way (see evidence.py)."""
        correct, steps = verdict.correct, self.layout.split(completion.text)
        path = self._grown(start, steps, completion.key) if grow else self._along(start, steps)
        self.count(start, correct)
        if self.rule.k is None:
            for node in path[: len(steps) - 1]:
                self.count(node, correct)
        if path and grow:
            self.end(path[-1], "height_limit" if completion.truncated else leaf_kind(correct))
        if correct:
            self.proven.update(start.path(), path)
        rollout = Rollout(start, path, len(steps), correct, completion.n_tokens, completion.truncated)
        self.rollouts.setdefault(start, []).append(rollout)

    def _grown(self, start: Node, steps: Sequence[str], key: str) -> tuple[Node, ...]:
        path: list[Node] = []
        node = start
        for number, step in enumerate(steps, start=1):
            node = self.child(node, step, last=number == len(steps), key=key)
            path.append(node)
        return tuple(path)

    def _along(self, start: Node, steps: Sequence[str]) -> tuple[Node, ...]:
        """As much of the way as the tree has."""
        path: list[Node] = []
        node: Node | None = start
        for number, step in enumerate(steps, start=1):
            node = self._known.get((node, step, number == len(steps))) if node else None
            if node is None:
                break
            path.append(node)
        return tuple(path)

    def end(self, node: Node, kind: LeafKind) -> None:
        """A solution ends here. One that ran out of tokens says nothing of its last step, which it did not finish."""
        node.leaf_kind = kind
        outcomes: dict[LeafKind, bool | None] = {"correct": True, "undecided": None}
        if kind != "height_limit":
            self.ended[node] = self.ended.get(node, Counts()).and_one(outcomes.get(kind, False))


def leaf_kind(correct: bool | None) -> LeafKind:
    return "undecided" if correct is None else "correct" if correct else "wrong"
