"""The solver's draws on one problem, by the points that it was shown, each of them asked for once."""

from dataclasses import dataclass, field
from itertools import groupby

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Problem, Verdict
from tracemill.synth.engine import together
from tracemill.synth.hints.prompts import hinted
from tracemill.synth.hints.strategies import Config


@dataclass(frozen=True, slots=True)
class Rollout:
    """One draw and what it is worth."""

    index: int
    completion: Completion
    verdict: Verdict


@dataclass
class Rollouts:
    """Draws without hints are plain solutions and stand in their scope, so that other methods and recipes share them."""

    problem: Problem
    engine: Engine
    prompt: str
    sampling: Sampling
    points: tuple[str, ...] = ()
    """Known once they are extracted."""
    _known: dict[Config, dict[int, Rollout]] = field(default_factory=dict)

    def prompt_of(self, config: Config) -> tuple[Message, ...]:
        """What the solver is shown."""
        return hinted(self.problem, [self.points[place] for place in config], self.prompt)

    async def draw(self, config: Config, start: int, n: int) -> list[Rollout]:
        """The draws `start` to `start + n - 1`; what is known of them is not asked for again."""
        known = self._known.setdefault(config, {})
        missing = [index for index in range(start, start + n) if index not in known]
        scope = "hints" if config else "solve"
        for _, run in groupby(enumerate(missing), key=lambda pair: pair[1] - pair[0]):
            indices = [index for _, index in run]
            known |= {r.index: r for r in await self._ask(config, indices[0], len(indices), scope)}
        return [known[index] for index in range(start, start + n)]

    async def statuses(self, config: Config, start: int, n: int) -> list[str]:
        """equal, different or undecided for each of these draws: all that a choice of hints rests on."""
        return [rollout.verdict.status for rollout in await self.draw(config, start, n)]

    def drawn(self, config: Config) -> list[Rollout]:
        """All draws so far, by number."""
        return sorted(self._known.get(config, {}).values(), key=lambda rollout: rollout.index)

    async def fresh(self, config: Config, n: int) -> list[str]:
        """The same for draws that take no part in any choice."""
        return [rollout.verdict.status for rollout in await self._ask(config, 0, n, "hints_fresh")] if n else []

    async def _ask(self, config: Config, start: int, n: int, scope: str) -> list[Rollout]:
        drawn = await self.engine.sample(self.prompt_of(config), n=n, start=start, scope=scope, sampling=self.sampling)
        verdicts = await together(self.engine.verify(completion, self.problem.gold) for completion in drawn)
        return [Rollout(start + at, *pair) for at, pair in enumerate(zip(drawn, verdicts, strict=True))]
