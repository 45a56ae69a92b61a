"""A judge asked about planted cases, by the way that rows go: through the journal, with the same prompt, before the first problem.

    case ──trace──▶ score ──columns──▶ the recipe's filters ──▶ kept | turned down | undecided      expected: good | bad
    case ─────────▶ method's `calibrate` ─────────────────────▶ True | False       | None

What was asked once is not asked again, so a changed file asks its new cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tracemill.pipelines.cards.summaries import plain_estimate
from tracemill.pipelines.judging.cases import Case, Cases
from tracemill.pipelines.judging.deciding import check_given, judged, scores_needed
from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.pipelines.running.outcomes import scored, trace_row
from tracemill.schemas.errors import DiskFull, EngineLost, JudgeRefused, LawBroken, RecipeError
from tracemill.schemas.request import Message
from tracemill.schemas.rows import Problem, Share, Trace
from tracemill.synth.engine import ProblemEngine, together
from tracemill.synth.gate import Stopped
from tracemill.synth.workshop import Workshop

if TYPE_CHECKING:
    from tracemill.pipelines.plan import Plan

SHOWN = 20
"""Cases judged wrongly that are named."""
NAME = "case"


@dataclass(frozen=True, slots=True)
class Measured:
    """How often a judge was right."""

    cases: Cases
    found: Sequence[bool | None]
    """Kept, turned down or undecided, in the order of the cases; of cases that name columns, right or wrong."""
    faults: Mapping[str, str]
    """What went wrong, by case, where the judge could not be asked."""

    @property
    def accuracy(self) -> Share:
        """Undecided ones are among all of them, and never right."""
        return Share(len(self.found) - len(self.missed), len(self.found))

    @property
    def missed(self) -> list[str]:
        """The cases that were not judged rightly."""
        pairs = zip(self.cases.all, self.found, strict=True)
        return [case.name for case, said in pairs if said is not (True if case.good is None else case.good)]

    @property
    def undecided(self) -> int:
        return sum(said is None for said in self.found)

    def share(self, *, good: bool) -> Share:
        """Good ones kept, or bad ones caught, of all of them: an undecided one is neither."""
        said = [s for case, s in zip(self.cases.all, self.found, strict=True) if case.good is good]
        return Share(sum(s is good for s in said), len(said))

    def plain(self, roles: Mapping[str, str]) -> dict[str, Any]:
        """For the manifest; `roles` are the models that were asked, by role."""
        sides = {"good_kept": self.share(good=True), "bad_caught": self.share(good=False)} if self.cases.sided else {}
        return {
            "use": self.cases.plugin.name,
            "kind": self.cases.kind,
            "models": dict(roles),
            "file": self.cases.file,
            "sha256": self.cases.sha256,
            "cases": len(self.found),
            **{name: plain_estimate(share) for name, share in {"accuracy": self.accuracy, **sides}.items()},
            "undecided": self.undecided,
            **({"least_accuracy": self.cases.least_accuracy} if self.cases.least_accuracy is not None else {}),
            "missed": self.missed[:SHOWN],
            **({"faults": dict(list(self.faults.items())[:SHOWN])} if self.faults else {}),
        }


async def calibrate(plan: "Plan", shop: Workshop) -> list[Measured]:
    """Ask every judge of the recipe about its cases; one after another, since two may ask the same.

    Raises JudgeRefused for one that is worse than its `least_accuracy`, RecipeError where no case could be asked, and Stopped where the run may not sample.
    """
    found = []
    for cases in plan.calibrations:
        faults: dict[str, str] = {}
        if cases.kind == "method":
            said = await _of_method(cases, shop, faults)
        else:
            said = await _of_score(plan, cases, shop, faults)
        if len(faults) == len(cases.all):
            name, fault = next(iter(faults.items()))
            raise RecipeError(
                f"{cases.plugin.name}: none of the {len(faults)} cases of {cases.file} could be asked; of {name}: {fault}"
            )
        found.append(Measured(cases, said, faults))
        _refuse_below(found[-1])
    return found


async def _of_method(cases: Cases, shop: Workshop, faults: dict[str, str]) -> list[bool | None]:
    hook = cases.plugin.about("calibrate", None)

    async def ask(case: Case) -> bool | None:
        problem = Problem(problem_id=_problem_id(case), question="")
        return _said(cases.plugin, await cases.plugin.ask(hook, dict(case.given), ProblemEngine(shop, problem)))

    return await together(_caught(case, ask(case), faults) for case in cases.all)


async def _of_score(plan: "Plan", cases: Cases, shop: Workshop, faults: dict[str, str]) -> list[bool | None]:
    problems = [_problem(case) for case in cases.all]
    engines = [ProblemEngine(shop, problem) for problem in problems]
    rows = [await _row(plan, *of) for of in zip(cases.all, problems, engines, strict=True)]
    check_given(plan, cases, rows)
    scores = scores_needed(plan, cases.plugin)

    async def ask(row: dict[str, Any], engine: ProblemEngine) -> Mapping[str, Any]:
        for score in scores:
            await scored(score, row, engine)
        return row

    asked = zip(cases.all, rows, engines, strict=True)
    made = await together(_caught(case, ask(row, engine), faults) for case, row, engine in asked)
    return judged(plan, cases, made)


def _problem_id(case: Case) -> str:
    return f"calibration-{case.name}"


def _problem(case: Case) -> Problem:
    given = case.given
    return Problem(
        problem_id=_problem_id(case), question=given["question"], gold=given.get("gold"), difficulty=given.get("difficulty")
    )  # fmt: skip


async def _row(plan: "Plan", case: Case, problem: Problem, engine: ProblemEngine) -> dict[str, Any]:
    """The case as the trace that it would be, verified where it has a gold."""
    given = case.given
    turns = [Message(role=turn["role"], content=turn["content"]) for turn in given.get("messages") or ()]
    text = turns[-1]["content"] if turns else given["solution"]
    prompt = tuple(turns[:-1]) or (Message(role="user", content=problem.question),)
    own = {name: value for name, value in given.items() if name in (plan.method.columns() or {})}
    trace = Trace(
        problem_id=problem.problem_id, name=NAME, prompt=prompt, text=text, n_tokens=engine.count_tokens(text),
        finish_reason="stop", model="calibration", columns=own,
    )  # fmt: skip
    verdict = await engine.verify(text, problem.gold) if problem.gold is not None else None
    return trace_row(plan, problem, trace, verdict)


async def _caught(case: Case, asking: Any, faults: dict[str, str]) -> Any:
    """What a case comes to; None where asking fails for it alone, as a problem would."""
    try:
        return await asking
    except (Stopped, EngineLost, RecipeError, LawBroken, DiskFull):
        raise
    except Exception as failure:  # noqa: BLE001 - one case that cannot be asked is data, as a bad problem is
        faults[case.name] = f"{type(failure).__name__}: {failure}"
        return None


def _said(plugin: Plugin, said: object) -> bool | None:
    if said is None or isinstance(said, bool):
        return said
    raise RecipeError(
        f"{plugin.name}: its `calibrate` returned {said!r}; True for good, False for bad, None for undecided"
    )


def _refuse_below(measured: Measured) -> None:
    least, accuracy = measured.cases.least_accuracy, measured.accuracy
    if least is None or accuracy.part >= Fraction(repr(least)) * accuracy.whole:
        return
    raise JudgeRefused(
        f"{measured.cases.plugin.name}: its judge was right about {accuracy.part} of {accuracy.whole} cases of {measured.cases.file}, "
        f"{measured.undecided} of them undecided, and least_accuracy = {least:g} asks for more; no problem was worked on. Not right: "
        f"{', '.join(measured.missed[:5])}. Take another judge or prompt, or lower least_accuracy"
    )
