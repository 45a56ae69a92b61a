"""From chains to a plan: entities in topological order, and the steps that lead from one to the next.

    1: A->C      ->    1 A [], 2 B [], 3 C [1, 2]    ->    Transient Step 1: A, B -> C; Dependency: []
    2: B->C

As MedVerse's released scripts do it (arXiv:2602.07529), save for what goes wrong there: a cycle is an error and not a plan with nodes
missing, and the order is Kahn's with a queue, so that the same chains give the same numbers. Nothing here recurses.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Literal

from tracemill.synth.petri_trace.chains import Chains, Unusable
from tracemill.synth.petri_trace.net import Entity, Step, walk_back

BreakCycles = Literal["never", "last_chain"]
Edge = tuple[str, str]
_SHOWN = 10
Shape = Literal["linear", "tree", "dag"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Entities in topological order, and the edges that were taken out to make one possible."""

    entities: tuple[Entity, ...]
    removed: tuple[Edge, ...] = ()


def plan(chains: Chains, *, break_cycles: BreakCycles = "never") -> Plan:
    """The entities of chains, numbered in topological order: Kahn's, with a first-in first-out queue.

    The queue begins with the roots in order of first appearance, and takes up successors in the order of their first edges.
    Unusable: self_loop for an edge from a node to itself, cycle where the chains run in circles. `last_chain` leaves out
    the edge by which a later chain closes a cycle, and says so in `removed`; a node that is left alone is no entity then.
    """
    edges = list(dict.fromkeys(edge for chain in chains for edge in pairwise(chain)))
    for before, after in edges:
        if before == after:
            raise Unusable("self_loop", entity=before)
    removed: list[Edge] = []
    order = _kahn(chains, edges)
    if _left(edges, order) and break_cycles == "last_chain":
        edges, removed = _without_cycles(edges)
        order = _kahn(chains, edges)
    if left := _left(edges, order):
        raise Unusable("cycle", says=_told(walk_back(left, _after(edges))))
    number = {name: n for n, name in enumerate(order, start=1)}
    deps: dict[str, list[int]] = {name: [] for name in order}
    for before, after in edges:
        deps[after].append(number[before])
    return Plan(tuple(Entity(number[name], name, tuple(sorted(deps[name]))) for name in order), tuple(removed))


def _left(edges: Sequence[Edge], order: Sequence[str]) -> set[str]:
    """The nodes that an order misses: those on a cycle, and those behind one."""
    return {name for edge in edges for name in edge}.difference(order)


def _kahn(chains: Chains, edges: Sequence[Edge]) -> list[str]:
    """The nodes with an edge in topological order, as far as no cycle is in the way."""
    after = _after(edges)
    waits = dict.fromkeys((name for edge in edges for name in edge), 0)
    for _, target in edges:
        waits[target] += 1
    appearance = dict.fromkeys(name for chain in chains for name in chain if name in waits)
    ready = deque(name for name in appearance if waits[name] == 0)
    order = []
    while ready:
        name = ready.popleft()
        order.append(name)
        for target in after.get(name, ()):
            waits[target] -= 1
            if waits[target] == 0:
                ready.append(target)
    return order


def _after(edges: Sequence[Edge]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for before, after in edges:
        found.setdefault(before, []).append(after)
    return found


def _without_cycles(edges: Sequence[Edge]) -> tuple[list[Edge], list[Edge]]:
    """The edges in their order, without each that closes a cycle with those before it."""
    kept: list[Edge] = []
    removed: list[Edge] = []
    after: dict[str, list[str]] = {}
    for before, target in edges:
        if before in _reached(target, after):
            removed.append((before, target))
            continue
        kept.append((before, target))
        after.setdefault(before, []).append(target)
    return kept, removed


def _reached(start: str, after: dict[str, list[str]]) -> set[str]:
    seen, waiting = {start}, [start]
    while waiting:
        new = [name for name in after.get(waiting.pop(), ()) if name not in seen]
        seen.update(new)
        waiting.extend(new)
    return seen


def _told(cycle: Sequence[str]) -> str:
    """A cycle for a person to read, who does not want to read a long one."""
    shown = [*cycle[:_SHOWN], f"... ({len(cycle) - 1:,} in all)"] if len(cycle) > 2 * _SHOWN else cycle
    return " -> ".join(shown)


def steps_of(entities: Sequence[Entity]) -> list[Step]:
    """A step for every entity that others lead to; those that none leads to are premises (MedVerse's transient steps)."""
    name = {entity.n: entity.name for entity in entities}
    step_for: dict[int, int] = {}
    steps: list[Step] = []
    for entity in entities:
        if not entity.deps:
            continue
        deps = tuple(sorted(step_for[dep] for dep in entity.deps if dep in step_for))
        step_for[entity.n] = len(steps) + 1
        steps.append(Step(len(steps) + 1, tuple(name[dep] for dep in entity.deps), entity.name, deps))
    return steps


def sinks(steps: Sequence[Step]) -> list[int]:
    """The steps that no other builds on."""
    used = {dep for step in steps for dep in step.deps}
    return [step.n for step in steps if step.n not in used]


def ancestors(steps: Sequence[Step]) -> dict[int, frozenset[int]]:
    """By step all steps that it rests on, over any number of others; steps come after those they rest on."""
    found: dict[int, frozenset[int]] = {}
    for step in steps:
        found[step.n] = frozenset(step.deps).union(*(found[dep] for dep in step.deps))
    return found


def paths(steps: Sequence[Step], limit: int) -> tuple[list[list[int]], bool]:
    """All ways from a first step to a last one, depth first, and whether there are more than the `limit` that is shown."""
    after: dict[int, list[int]] = {step.n: [] for step in steps}
    for step in steps:
        for dep in step.deps:
            after[dep].append(step.n)
    ways = _ways(after, [step.n for step in steps if not step.deps])
    found = [list(way) for way in islice(ways, limit)]
    return found, next(ways, None) is not None


def _ways(after: dict[int, list[int]], sources: Sequence[int]) -> Iterator[list[int]]:
    for source in sources:
        way, choices = [source], [iter(after[source])]
        if not after[source]:
            yield way
        while choices:
            following = next(choices[-1], None)
            if following is None:
                choices.pop()
                way.pop()
            elif after[following]:
                way.append(following)
                choices.append(iter(after[following]))
            else:
                yield [*way, following]


def shape(steps: Sequence[Step]) -> Shape:
    """What AGoT (arXiv:2502.05078) calls its graphs: linear where each step follows the one before, tree where none has two parents."""
    if any(len(step.deps) > 1 for step in steps):
        return "dag"
    roots = sum(not step.deps for step in steps)
    parents = [dep for step in steps for dep in step.deps]
    return "linear" if roots <= 1 and len(set(parents)) == len(parents) else "tree"
