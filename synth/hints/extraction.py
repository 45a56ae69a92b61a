"""From a problem to knowledge points: a solution that verifies, the principles it rests on, and the gate they have to pass.

solution of the source, if it verifies ──┐
else drawn until one does, 16 at most  ──┴▶ extract ──▶ points ──▶ gate (L1 to L6, two rewritings) ──▶ kp_list
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tracemill.schemas.plugins import Engine
from tracemill.schemas.rows import Problem, Rejection
from tracemill.synth.engine import together
from tracemill.synth.hints.asking import extract_prompt
from tracemill.synth.hints.knowledge import Point, parsed, sifted
from tracemill.synth.hints.rollouts import Rollout, Rollouts
from tracemill.synth.reply import split_reasoning
from tracemill.synth.roles import THINK

ROUND = 4
"""Solutions drawn at a time."""
ASKS = 3
"""How often the principles are asked for until a reply can be read."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A worked solution whose answer equals the gold."""

    text: str
    origin: str
    """source, or the role that wrote it."""


async def verified_solution(rollouts: Rollouts, *, teacher: str, tries: int) -> Solution | Rejection:
    """The source's solution where it verifies, else the first that is drawn and does; or why there is none.

    The solver's solutions are its draws without hints, so that none of them is spent twice.
    """
    problem, engine = rollouts.problem, rollouts.engine
    given = None
    if problem.solution and problem.solution.strip():
        given = await engine.verify(problem.solution, problem.gold)
        if given.status == "equal":
            return Solution(problem.solution, "source")
    undecided = 0
    for start in range(0, tries, ROUND):
        drawn = await _solutions(rollouts, teacher, start, min(ROUND, tries - start))
        if right := next((rollout for rollout in drawn if rollout.verdict.status == "equal"), None):
            return Solution(right.completion.text, teacher)
        undecided += sum(rollout.verdict.status == "undecided" for rollout in drawn)
    evidence = {"drawn": tries, "undecided": undecided, "role": teacher}
    return Rejection("no_correct_sample", evidence | ({"solution": given.status} if given else {}))


async def _solutions(rollouts: Rollouts, teacher: str, start: int, n: int) -> list[Rollout]:
    if teacher == "solver":
        return await rollouts.draw((), start, n)
    drawn = await rollouts.engine.sample(rollouts.prompt_of(()), n=n, start=start, role=teacher)
    verdicts = await together(rollouts.engine.verify(completion, rollouts.problem.gold) for completion in drawn)
    return [Rollout(start + at, *pair) for at, pair in enumerate(zip(drawn, verdicts, strict=True))]


async def extracted(
    problem: Problem, solution: Solution, engine: Engine, *, teacher: str, most: int, longest: int
) -> list[Point] | Rejection:
    """The principles of a solution as `teacher` names them, those that are not kept among them."""
    _, spoken = split_reasoning(solution.text, THINK)
    asked = extract_prompt(problem.question, spoken, most)
    ends: list[str] = []
    for number in range(ASKS):
        [reply] = await engine.sample(asked, start=number, role=teacher, scope="hints_extract")
        texts, malformed = parsed(reply.text)
        if texts and not reply.truncated:
            return _numbered(texts, malformed, most=most, longest=longest)
        ends.append("truncated" if reply.truncated else reply.text[-200:])
    return Rejection("generator_error", {"asked_for": "knowledge points", "replies": len(ends), "ends": ends})


def _numbered(texts: Sequence[str], malformed: Sequence[str], *, most: int, longest: int) -> list[Point]:
    points = sifted(texts, longest=longest)
    for point in [point for point in points if point.kept][most:]:
        point.fate = "over_the_limit"
    return points + [Point(len(points) + at, text, "malformed") for at, text in enumerate(malformed)]
