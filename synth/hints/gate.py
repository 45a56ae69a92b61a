"""The leakage gate: a point that gives its problem away is rewritten twice at most, and then dropped.

    L1 to L4 of leakage.py, then   L5  a model is asked whether the point is bound to the problem
                                   L6  the solver is shown all points without the problem, and must not find the answer

L6 looks at the points together first. Where the answer is found, each is shown alone, and those that suffice are rewritten; where
none does, they tell it only together, and all are dropped. Golds that a guess hits (0, 1, 2, a letter) make L6 a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Sampling
from tracemill.schemas.rows import Problem
from tracemill.synth.engine import together
from tracemill.synth.hints.asking import ALONE, dropped, judged, revise_prompt, verify_prompt
from tracemill.synth.hints.knowledge import Finding, Point, parsed
from tracemill.synth.hints.leakage import Secrets, guessable, leaks
from tracemill.synth.hints.prompts import alone

REVISIONS = 2
ASKS = 2
"""How often L5 is asked for a reply that can be read."""


def report(points: Sequence[Point], secrets: Secrets) -> None:
    """Note what the rules find that need no model; no point is dropped for it."""
    for point in points:
        if point.kept:
            _note(point, secrets)


@dataclass(frozen=True)
class Gate:
    """The gate of one problem."""

    problem: Problem
    engine: Engine
    secrets: Secrets
    teacher: str
    """The role that judges and rewrites; the solver is asked by L6."""
    samples: int
    """Draws of L6."""
    sampling: Sampling

    async def pass_through(self, points: Sequence[Point]) -> None:
        """Rewrite and drop until all that is kept passes every rule."""
        waiting = [point for point in points if point.kept]
        for turn in range(len(points) * (REVISIONS + 1) + 1):
            while waiting:
                failing = [
                    p for p, fails in zip(waiting, await together(map(self._fails, waiting)), strict=True) if fails
                ]
                waiting = await self._rewritten(failing)
            culprits = await self._without_the_problem([point for point in points if point.kept], turn)
            if not culprits:
                return
            waiting = await self._rewritten(culprits)

    async def _fails(self, point: Point) -> bool:
        """L1 to L5 on a point as it now is."""
        fails = _note(point, self.secrets)
        evidence = await self._bound(point)
        if evidence is not None:
            point.findings.append(Finding("L5", "fails", point.revision, evidence))
        return fails or evidence is not None

    async def _bound(self, point: Point) -> str | None:
        """L5: why the point is bound to the problem; None where it is not."""
        asked = verify_prompt(self.problem.question, point.text)
        for number in range(ASKS):
            [reply] = await self.engine.sample(
                asked, start=number, role=self.teacher, scope="hints_verify", salt=f"{point.number}.{point.revision}"
            )
            if (found := judged(reply.text)) is not None:
                return (found.evidence or "no evidence given") if found.fails else None
        return "no reply that can be read"

    async def _rewritten(self, points: Sequence[Point]) -> list[Point]:
        """Those of the points that have a new text; the others are dropped."""
        changed = await together(map(self._rewrite, points))
        return [point for point, new in zip(points, changed, strict=True) if new]

    async def _rewrite(self, point: Point) -> bool:
        if point.revision == REVISIONS:
            point.fate = "leaks"
            return False
        why = [(f.rule, f.evidence) for f in point.findings if f.revision == point.revision and f.weight == "fails"]
        asked = revise_prompt(self.problem.question, point.text, why)
        [reply] = await self.engine.sample(
            asked, role=self.teacher, scope="hints_revise", salt=f"{point.number}.{point.revision}"
        )
        point.revision += 1
        texts, malformed = parsed(reply.text)
        if dropped(reply.text) or len(texts) != 1 or malformed:
            point.fate = "leaks"
            return False
        point.text = texts[0]
        return True

    async def _without_the_problem(self, points: Sequence[Point], turn: int) -> list[Point]:
        """L6: the points to rewrite; those that tell the answer only together are dropped here."""
        if not points or not self.samples or not await self._answer_found(points, f"{turn}"):
            return []
        if guessable(self.secrets.gold):
            for point in points:
                point.findings.append(Finding("L6", "warns", point.revision, "the gold is easily guessed"))
            return []
        found = await together(self._answer_found([point], f"{turn}/{point.number}") for point in points)
        culprits = [point for point, hit in zip(points, found, strict=True) if hit]
        evidence = "the answer follows from it alone" if culprits else "the answer follows from the points together"
        for point in culprits or points:
            point.findings.append(Finding("L6", "fails", point.revision, evidence))
            point.fate = point.fate if culprits else "leaks"
        return culprits

    async def _answer_found(self, points: Sequence[Point], salt: str) -> bool:
        """Whether one of the solver's draws finds the gold from the points alone."""
        drawn = await self.engine.sample(
            alone([point.text for point in points], ALONE),
            n=self.samples,
            scope="hints_alone",
            salt=salt,
            sampling=self.sampling,
        )
        verdicts = await together(self.engine.verify(completion, self.problem.gold) for completion in drawn)
        return any(verdict.status == "equal" for verdict in verdicts)


def _note(point: Point, secrets: Secrets) -> bool:
    """Note L1 to L4 on a point as it now is; True where one of them fails."""
    found = leaks(point.text, secrets)
    point.findings += [
        Finding(leak.rule, "fails" if leak.fails else "warns", point.revision, leak.evidence) for leak in found
    ]
    return any(leak.fails for leak in found)
