"""What all problems of a build share: the roles behind one journal, the gates before their backends, and the meter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tracemill.schemas.request import Adapter, Backend
from tracemill.schemas.rows import Problem
from tracemill.synth.gate import Gate, Stopped
from tracemill.synth.journal import Journal
from tracemill.synth.roles import Role
from tracemill.synth.verify import Verifier


@dataclass(slots=True)
class Meter:
    """What a build has drawn so far, for the panel, the budget and the manifest."""

    samples_new: int = 0
    samples_replayed: int = 0
    tokens_new: int = 0
    tokens_replayed: int = 0
    truncated: int = 0

    def begin_pass(self) -> None:
        """Replays are counted anew: what an earlier pass over the problems drew comes out of the journal in each later one."""
        self.samples_replayed, self.tokens_replayed = -self.samples_new, -self.tokens_new


@dataclass(frozen=True, slots=True)
class Drawn:
    """One completion that a problem's outcome rests on: its row in `samples`, less what the journal holds."""

    key: str
    role: str
    seed: int | None
    n_tokens: int
    truncated: bool
    unclosed: bool = False
    adapter: str | None = None
    scale: str | None = None


@dataclass(slots=True)
class Workshop:
    """What all problems of a build share."""

    roles: Mapping[str, Role]
    journal: Journal
    verifier: Verifier
    meter: Meter = field(default_factory=Meter)
    held: int = 0
    """Bytes of completions that open problems hold."""
    housekeeping: list[str] = field(default_factory=list)
    """What those who look after the journal want a person to see now."""
    neighbours: Callable[[Problem], tuple[Problem, ...]] | None = None
    """Which problems of the build stand beside one; None where the method declares no NEIGHBOURS."""
    loaded: str | None = None
    """The scale whose merged weights are loaded in this pass over the problems; those of others wait for their own."""
    _gates: dict[tuple[str, str | None], Gate] = field(default_factory=dict)
    """By role, and by the scale of merged weights."""
    _stopped: str | None = None

    def gate(self, role: Role, adapter: Adapter | None = None) -> Gate:
        backend = role.backend_of(adapter)
        own = adapter.scale if adapter is not None and backend is not role.backend else None
        if own is not None and own != self.loaded:
            raise Stopped(f"the weights at {own} are loaded in another pass")
        if (role.name, own) not in self._gates:
            gate = self._gates[role.name, own] = Gate(backend)
            if self._stopped is not None:
                gate.close(self._stopped)
        return self._gates[role.name, own]

    def stop(self, why: str) -> None:
        """Let no further request in; what is in flight may finish."""
        self._stopped = why
        for gate in self._gates.values():
            gate.close(why)

    def passes(self) -> list[str]:
        """The scales of merged weights, each of which takes a pass over the problems; empty where one pass does it all."""
        return list(dict.fromkeys(scale for role in self.roles.values() for scale in role.passes()))

    async def unload(self, scale: str) -> None:
        """Make room: the merged weights at `scale` are not asked any more."""
        for role in self.roles.values():
            level = role.levels.get(scale)
            if level is not None and level.backend is not None:
                await level.backend.close()

    def worth_opening(self) -> int:
        """How many problems are worth having open: each has a request in flight or verdicts to wait for."""
        return max((backend.at_once for backend in self._at_work()), default=256)

    def notes(self) -> list[str]:
        """What the backends want a person to see now."""
        return [*self.housekeeping, *(note for backend in self._at_work() for note in backend.progress())]

    def gpus(self) -> int:
        """GPUs that the build occupies, by what its backends say; at least 1."""
        return max(1, sum(int(backend.facts().get("gpus", 1)) for backend in self._at_work()))

    def _at_work(self) -> list[Backend]:
        """The backends of this pass: of a role whose levels are merged weights, that of the level which is loaded."""
        levels = [(role, role.levels.get(self.loaded or "")) for role in self.roles.values()]
        return [level.backend if level and level.backend else role.backend for role, level in levels]

    async def close(self) -> None:
        """Stop the engines and the verifier; the journal stays open for whoever reads it next."""
        for role in self.roles.values():
            for backend in role.backends():
                await backend.close()
        self.verifier.close()
