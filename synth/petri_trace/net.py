"""A Petri net of reasoning: places are entities, transitions are steps, and a frontier of steps fires at once.

    Net.of_steps([Step(1, ("A",), "C", ()), Step(2, ("B",), "D", ()), Step(3, ("C", "D"), "E", (1, 2))]).frontiers()
    [[1, 2], [3]]

A step is enabled when every place it reads is marked and it has not fired. Firing marks the place it writes and takes nothing
away, because one conclusion may serve many steps; each step fires once. So a run is the same in whatever order the steps of a
frontier fire, and ends after at most as many frontiers as there are steps (MedVerse, arXiv:2602.07529: its overview figure
marks entities; that firing does not consume is in its released engine).
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Entity:
    """A node of the plan: `n` from 1 in topological order, `deps` the numbers of those that lead to it, ascending."""

    n: int
    name: str
    deps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What leads to an entity: those on the left jointly produce the one on the right."""

    n: int
    left: tuple[str, ...]
    right: str
    deps: tuple[int, ...]
    """The steps whose right sides stand on the left, ascending."""
    text: str = ""
    n_tokens: int = 0

    @property
    def title(self) -> str:
        return f"{', '.join(self.left)} -> {self.right}"


@dataclass(frozen=True, slots=True)
class Transition:
    """Reads all of `inputs`, writes `output`; `weight` is what it costs, in tokens."""

    n: int
    inputs: tuple[str, ...]
    output: str
    weight: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """How far a run is: the places that hold a token, and the transitions that have fired."""

    marked: frozenset[str]
    fired: frozenset[int]


@dataclass(frozen=True)
class Net:
    """Places, transitions, arcs and the initial marking; `final` are the places that have to be marked in the end."""

    places: tuple[str, ...]
    transitions: tuple[Transition, ...]
    initial: frozenset[str]
    final: frozenset[str]

    @classmethod
    def of_steps(cls, steps: Sequence[Step]) -> "Net":
        """The net of steps: what no step produces holds a token from the start, what no step uses has to be reached."""
        transitions = tuple(Transition(step.n, step.left, step.right, step.n_tokens) for step in steps)
        used = {name for step in steps for name in step.left}
        made = {step.right for step in steps}
        places = dict.fromkeys(name for step in steps for name in (*step.left, step.right))
        return cls(tuple(places), transitions, frozenset(used - made), frozenset(made - used))

    @classmethod
    def of_entities(cls, entities: Sequence[Entity]) -> "Net":
        """The net of a plan: a step for every entity that others lead to, numbered in the order of the entities."""
        name = {entity.n: entity.name for entity in entities}
        produced = [entity for entity in entities if entity.deps]
        transitions = tuple(
            Transition(number, tuple(name[dep] for dep in entity.deps), entity.name)
            for number, entity in enumerate(produced, start=1)
        )
        used = {dep for entity in entities for dep in entity.deps}
        return cls(
            places=tuple(name.values()),
            transitions=transitions,
            initial=frozenset(entity.name for entity in entities if not entity.deps),
            final=frozenset(entity.name for entity in produced if entity.n not in used),
        )

    def arcs(self) -> list[tuple[str | int, str | int]]:
        """(place, transition) for what is read and (transition, place) for what is written."""
        reads: list[tuple[str | int, str | int]] = [(place, t.n) for t in self.transitions for place in t.inputs]
        return [*reads, *((t.n, t.output) for t in self.transitions)]

    def start(self) -> State:
        return State(self.initial, frozenset())

    def enabled(self, state: State) -> list[int]:
        """The transitions that may fire now: the frontier, ascending."""
        ready = (t.n for t in self.transitions if t.n not in state.fired and state.marked.issuperset(t.inputs))
        return sorted(ready)

    def fire(self, state: State, numbers: Iterable[int]) -> State:
        """The state after these transitions; ValueError for one that is not enabled."""
        wanted = set(numbers)
        if not wanted <= (allowed := set(self.enabled(state))):
            raise ValueError(f"transitions {sorted(wanted - allowed)} are not enabled; enabled: {sorted(allowed)}")
        written = {t.output for t in self.transitions if t.n in wanted}
        return State(state.marked | written, state.fired | wanted)

    @cached_property
    def _run(self) -> tuple[list[list[int]], State]:
        """Fires whole frontiers until nothing is enabled; linear in the arcs."""
        waits = [len(set(t.inputs) - self.initial) for t in self.transitions]
        readers = self._readers
        marked = set(self.initial)
        frontiers: list[list[int]] = []
        ready = [index for index, missing in enumerate(waits) if missing == 0]
        while ready:
            frontiers.append(sorted(self.transitions[index].n for index in ready))
            new = dict.fromkeys(self.transitions[index].output for index in ready)
            ready = []
            for place in new:
                if place in marked:
                    continue
                marked.add(place)
                for index in readers.get(place, ()):
                    waits[index] -= 1
                    if waits[index] == 0:
                        ready.append(index)
        return frontiers, State(frozenset(marked), frozenset(n for frontier in frontiers for n in frontier))

    @cached_property
    def _readers(self) -> Mapping[str, list[int]]:
        """By place the transitions that read it, as their places in `transitions`."""
        found: dict[str, list[int]] = {}
        for index, transition in enumerate(self.transitions):
            for place in dict.fromkeys(transition.inputs):
                found.setdefault(place, []).append(index)
        return found

    def run(self) -> State:
        """The state in which nothing is enabled any more."""
        return self._run[1]

    def frontiers(self) -> list[list[int]]:
        """The transitions that fire together, frontier by frontier, each ascending."""
        return [list(frontier) for frontier in self._run[0]]

    @property
    def width(self) -> int:
        """The most transitions that fire at once."""
        return max(map(len, self._run[0]), default=0)

    @property
    def depth(self) -> int:
        """How many frontiers there are."""
        return len(self._run[0])

    @property
    def parallelism(self) -> float:
        """Steps over depth: 1.0 where each waits for the one before it; 0.0 where nothing fires."""
        return len(self.run().fired) / self.depth if self.depth else 0.0

    @cached_property
    def critical_path(self) -> int:
        """Weight of the heaviest way through the net, in tokens: what has to be written one after the other."""
        by_number = {t.n: t for t in self.transitions}
        done: dict[str, int] = {}
        for frontier in self._run[0]:
            finished = []
            for n in frontier:
                transition = by_number[n]
                begun = max((done.get(place, 0) for place in transition.inputs), default=0)
                finished.append((transition.output, begun + transition.weight))
            for place, at in finished:
                done[place] = max(at, done.get(place, 0))
        return max(done.values(), default=0)

    @property
    def speed_up(self) -> float:
        """All tokens over those of the critical path; 1.0 where there are none."""
        return sum(t.weight for t in self.transitions) / self.critical_path if self.critical_path else 1.0

    def cycle(self) -> list[str]:
        """Places on a cycle, the first of them again at the end; empty where the net has none."""
        after: dict[str, list[str]] = {}
        waits = dict.fromkeys(self.places, 0)
        for transition in self.transitions:
            for place in dict.fromkeys(transition.inputs):
                after.setdefault(place, []).append(transition.output)
                waits[transition.output] += 1
        ready = deque(place for place, count in waits.items() if count == 0)
        while ready:
            for place in after.get(ready.popleft(), ()):
                waits[place] -= 1
                if waits[place] == 0:
                    ready.append(place)
        left = {place for place, count in waits.items() if count > 0}
        return walk_back(left, after)

    def faults(self) -> list[str]:
        """What keeps the net from being sound, a line each; empty for a net on which a trace can be built."""
        found = []
        numbers = [t.n for t in self.transitions]
        if len(set(numbers)) != len(numbers):
            found.append(
                f"transitions share a number: {sorted(n for n, times in Counter(numbers).items() if times > 1)}"
            )
        state = self.run()
        in_order = len(state.fired) == len(numbers) and self.initial.isdisjoint(t.output for t in self.transitions)
        if not in_order and (
            cycle := self.cycle()
        ):  # else all fired after what they read was written, so there is none
            found.append(f"cycle: {' -> '.join(cycle)}")
        found += [
            f"transition {t.n} never fires: no token in {', '.join(sorted(set(t.inputs) - state.marked))}"
            for t in self.transitions
            if t.n not in state.fired
        ]
        found += [f"final place {place} is never marked" for place in sorted(self.final - state.marked)]
        if not self.final:
            found.append("there is no final place")
        if in_order and all(place in self._readers or place in self.final for place in self.places):
            return found  # without a cycle every way ends, and here only in final places
        return [*found, *(f"{node} leads nowhere" for node in self._dead())]

    def _dead(self) -> list[str]:
        """Places and transitions from which no final place can be reached."""
        alive = set(self.final)
        writers: dict[str, list[Transition]] = {}
        for transition in self.transitions:
            writers.setdefault(transition.output, []).append(transition)
        waiting = deque(self.final)
        while waiting:
            for transition in writers.get(waiting.popleft(), ()):
                new = set(transition.inputs) - alive
                alive |= new
                waiting.extend(sorted(new))
        dead = [f"place {place}" for place in self.places if place not in alive]
        return [*dead, *(f"transition {t.n}" for t in self.transitions if t.output not in alive)]


def walk_back(left: set[str], after: Mapping[str, Sequence[str]]) -> list[str]:
    """A cycle among places of which each has one before it in `left`: walk against the arcs until a place comes twice."""
    if not left:
        return []
    before = {
        target: place for place in sorted(left, reverse=True) for target in after.get(place, ()) if target in left
    }
    place = min(left)
    seen: dict[str, int] = {}
    way: list[str] = []
    while place not in seen:
        seen[place] = len(way)
        way.append(place)
        place = before[place]
    return [*way[seen[place] :], place][::-1]
