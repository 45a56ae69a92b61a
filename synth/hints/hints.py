r"""Knowledge-point hints (KnowRL, arXiv:2604.12627): the fewest principles with which a model solves a problem most often.

    verified solution ──▶ knowledge points ──▶ right answers by subset that is shown ──▶ what each strategy keeps ──▶ hinted prompt

A trace is one of the solver's answers to the prompt with the points that the first of `strategies` keeps; a row is a problem:

    {"id": "p7", "question": ..., "prompt": [{"role": "user", "content": "...\n\n## Hint\n1. ..."}], "gold": "72",
     "kp_list": ["**Knowledge Point**: ...", ...], "css_kept_kp_index": [0, 3], "css_selected_kps": [...], "strategy": "css", ...}
"""

from dataclasses import dataclass
from typing import Any, Literal

from tracemill.schemas.errors import ProblemFailed, RecipeError
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Sampling
from tracemill.schemas.rows import Outcome, Problem, Rejection
from tracemill.synth.hints.extraction import extracted, verified_solution
from tracemill.synth.hints.gate import Gate, report
from tracemill.synth.hints.knowledge import places, sifted
from tracemill.synth.hints.leakage import Secrets
from tracemill.synth.hints.prompts import PROMPT, check_layout
from tracemill.synth.hints.rollouts import Rollouts
from tracemill.synth.hints.selection import Allocation, Found, Protocol, Strategy, decided
from tracemill.synth.prompts import check_temperature
from tracemill.synth.reply import split_reasoning
from tracemill.synth.roles import THINK

NEEDS = {"solver": ("complete",)}
TEACHER = "teacher"
"""The role that solves, extracts, judges and rewrites where the recipe has it; else the solver does."""


def check(
    *,
    strategies: tuple[Strategy, ...],
    m: int,
    evaluate: int,
    curve: tuple[float, ...],
    confidence: float,
    prompt: str,
    temperature: float | Literal["model"],
    tries: int,
    most: int,
    longest: int,
    leak_samples: int,
    **_: Any,
) -> None:
    """Raise ValueError for options that cannot work."""
    if not strategies or len(set(strategies)) < len(strategies):
        raise ValueError(f"strategies = {list(strategies)}: name one or more, each once; the first decides the prompt")
    for name, value, least in (("m", m, 2), ("tries", tries, 1), ("most", most, 1), ("longest", longest, 40)):
        if value < least:
            raise ValueError(f"{name} = {value}: at least {least}")
    for name, value in (("evaluate", evaluate), ("leak_samples", leak_samples)):
        if value < 0:
            raise ValueError(f"{name} = {value}: a number of draws, or 0 for none")
    if not 0.5 < confidence <= 1:
        raise ValueError(f"confidence = {confidence}: more than 0.5 and at most 1, such as 0.95")
    if any(not 0 <= share < 1 for share in curve) or len({f"{share:g}" for share in curve}) < len(curve):
        raise ValueError(
            f"curve = {list(curve)}: shares of a solution from 0 to below 1, each once, such as [0, 0.25, 0.5, 0.75]"
        )
    check_layout(prompt)
    check_temperature(_number(temperature))
    if temperature == 0:
        raise ValueError("temperature = 0: all draws of one prompt would be one; use a temperature above 0")


async def hints(
    problem: Problem,
    engine: Engine,
    *,
    strategies: tuple[Strategy, ...] = ("css",),
    m: int = 32,
    allocation: Allocation = "sequential",
    confidence: float = 0.95,
    evaluate: int = 0,
    paradox: bool = False,
    curve: tuple[float, ...] = (),
    prompt: str = PROMPT,
    temperature: float | Literal["model"] = 0.7,
    top_p: float | Literal["model"] = 0.9,
    tries: int = 16,
    most: int = 10,
    longest: int = 2000,
    leak_samples: int = 8,
) -> Outcome:
    """Find the knowledge points of a problem that are worth showing, and show them.

    The points come from the source's column `kp_list`, or are extracted from a solution that verifies: the source's `solution`, or
    the first right one of `tries`. The role `teacher` solves, extracts and judges where the recipe has one, else the solver. At
    most `most` points a problem pass the leakage gate, none of them longer than `longest` characters; rule L6 takes
    `leak_samples` draws. Given points are only looked at.

    `strategies` choose by the solver's right answers to the configurations that they compare, `m` draws of each with `allocation =
    "fixed"`; `sequential` stops once it is as sure as `confidence` that the rest would not change the choice, for problems of 12
    points at most. The first strategy decides the prompt; `given` is the source's own choice, its column `kp_kept`. `evaluate`
    draws so many more of each choice, for an accuracy that the choice itself has not made better than it is.

    `paradox` reports where points that may each be left out may not be so together (S-LOO and T-LOO); it draws all `m` of what it
    compares. `curve` reports right answers by the share of a verified solution that the reply is forced to begin with; beside given
    points that is the source's `solution`.

    `prompt` has places for {question} and {hints}. `temperature` and `top_p` are KnowRL's; `model` takes the model's own.
    """
    if "given" in strategies and problem.kp_kept is None:
        raise RecipeError(
            "strategies names 'given', and the source gives no choice: add kp_kept = '<column>' to [source]"
        )
    if not await engine.verifiable(problem.gold):
        return Outcome(rejections=[(None, Rejection("unverifiable_gold", {"gold": problem.gold}))])
    sampling = Sampling(temperature=_number(temperature), top_p=_number(top_p))
    rollouts = Rollouts(problem, engine, prompt, sampling)
    maker = _Maker(
        curve=bool(curve),
        problem=problem,
        engine=engine,
        rollouts=rollouts,
        tries=tries,
        most=most,
        longest=longest,
        leak_samples=leak_samples,
    )
    made = await (maker.extract() if problem.kp_list is None else maker.take(problem.kp_list))
    if isinstance(made, Rejection):
        return Outcome(rejections=[(None, made)])
    rollouts.points = tuple(point.text for point in made.points if point.kept)
    protocol = Protocol(
        strategies=strategies,
        m=m,
        allocation=allocation,
        confidence=confidence,
        evaluate=evaluate,
        paradox=paradox,
        curve=curve,
    )
    return (await decided(rollouts, made, protocol)).outcome()


def _number(value: float | Literal["model"]) -> float | None:
    """None, the model's own, where the recipe says `model`."""
    return None if value == "model" else float(value)


@dataclass(frozen=True, kw_only=True)
class _Maker:
    """How one problem comes by its points."""

    problem: Problem
    engine: Engine
    rollouts: Rollouts
    tries: int
    most: int
    longest: int
    leak_samples: int
    curve: bool

    async def take(self, texts: tuple[str, ...]) -> Found:
        """Given points: looked at, and kept."""
        points = sifted(texts, longest=self.longest)
        report(points, self._secrets(self.problem.solution))
        place = places(points)
        given = sorted({place[number] for number in self.problem.kp_kept or () if number in place})
        return Found(points, "", tuple(given), await self._known_solution())

    async def extract(self) -> Found | Rejection:
        """Points of a verified solution that passed the gate, or why there are none."""
        teacher = self._teacher()
        solution = await verified_solution(self.rollouts, teacher=teacher, tries=self.tries)
        if isinstance(solution, Rejection):
            return solution
        points = await extracted(
            self.problem, solution, self.engine, teacher=teacher, most=self.most, longest=self.longest
        )
        if isinstance(points, Rejection):
            return points
        gate = Gate(
            problem=self.problem,
            engine=self.engine,
            secrets=self._secrets(solution.text),
            teacher=teacher,
            samples=self.leak_samples,
            sampling=self.rollouts.sampling,
        )
        await gate.pass_through(points)
        return Found(points, solution.origin, solution=split_reasoning(solution.text, THINK)[1])

    async def _known_solution(self) -> str | None:
        """The source's solution, where it verifies."""
        text = self.problem.solution
        if not self.curve or not text or not text.strip():
            return None
        return text if (await self.engine.verify(text, self.problem.gold)).status == "equal" else None

    def _secrets(self, solution: str | None) -> Secrets:
        return Secrets(self.problem.gold, self.problem.question, solution)

    def _teacher(self) -> str:
        try:
            self.engine.model_name(TEACHER)
        except ProblemFailed:  # the recipe has no such role
            return "solver"
        return TEACHER
