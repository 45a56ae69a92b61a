"""Who is inside the engine, who waits, and, when the engine dies, who is under suspicion.

An engine dies with everything inside it. One death says nothing about who was to blame: all go in again. Whoever was
inside at two deaths is a suspect, and suspects go in a half at a time with nobody else, until one is left that has
died alone twice: that request is convicted. A half that gets its answers is innocent.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from tracemill.synth.backends.vllm.wire import Answer, Ask, Scores

ALONE = 2
"""Deaths alone in the engine that convict; one may be the machine's fault."""
DEATHS = 3
"""Deaths in all that convict, for a request that was alone from the start."""


@dataclass(eq=False)
class Call:
    """A request on its way, and how often the engine has died or failed on it."""

    ask: Ask
    problem_id: str
    answer: "asyncio.Future[Answer | Scores]"
    deaths: int = 0
    alone: int = 0
    hiccups: int = 0


@dataclass
class Queue:
    """Plain bookkeeping: no clock, no process, no loop."""

    inside: dict[int, Call] = field(default_factory=dict)
    _waiting: deque[Call] = field(default_factory=deque)
    _suspects: deque[list[Call]] = field(default_factory=deque)

    @property
    def isolating(self) -> int:
        """How many suspects are left, those inside the engine included; 0 when all is well."""
        return sum(map(len, self._suspects))

    def longest(self) -> int | None:
        """Length of the longest prompt inside, in tokens or, an upper bound, characters; None where nobody is."""
        return max((len(call.ask.prompt) for call in self.inside.values()), default=None)

    def add(self, call: Call) -> None:
        self._waiting.append(call)

    def admit(self) -> list[Call]:
        """Who may go in now; they count as inside from here on."""
        if self._suspects:
            if self.inside:
                return []
            entering = list(self._suspects[0])
        else:
            entering = list(self._waiting)
            self._waiting.clear()
        self.inside.update((call.ask.id, call) for call in entering)
        return entering

    def leave(self, call: Call) -> bool:
        """It is answered, or nobody waits for it any more; whether it was inside."""
        was_inside = self.inside.pop(call.ask.id, None) is not None
        for group in self._suspects:
            if call in group:
                group.remove(call)
        if call in self._waiting:
            self._waiting.remove(call)
        self._suspects = deque(group for group in self._suspects if group)
        return was_inside

    def died(self) -> Call | None:
        """The engine died. Everyone inside goes back in line; the convicted call, if there is one, is taken out."""
        inside = list(self.inside.values())
        self.inside.clear()
        for call in inside:
            call.deaths += 1
        if len(inside) == 1:
            inside[0].alone += 1
        if not self._suspects:
            self._suspect(inside)
        elif len(inside) > 1:
            self._halve(self._suspects.popleft())
        convicted = inside[0] if len(inside) == 1 else None
        if convicted is None or convicted.alone < ALONE or convicted.deaths < DEATHS:
            return None
        self.leave(convicted)
        return convicted

    def _suspect(self, inside: list[Call]) -> None:
        again = [call for call in inside if call.deaths > 1]
        self._waiting.extendleft(reversed([call for call in inside if call not in again]))
        if len(again) == len(inside) > 1:
            self._halve(again)
        elif again:
            self._suspects.append(again)

    def _halve(self, group: list[Call]) -> None:
        middle = len(group) // 2
        self._suspects.extendleft((group[middle:], group[:middle]))

    def everyone(self) -> list[Call]:
        """All who still wait for an answer."""
        known = {id(call): call for call in (*self.inside.values(), *self._waiting)}
        known.update((id(call), call) for group in self._suspects for call in group)
        return list(known.values())
