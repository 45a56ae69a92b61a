"""How a trace is carried out: write, check, conclude, check again, and write anew what failed, at most so many times."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tracemill.synth.petri_trace.conclude import Conclusion, conclude, faults_of, judged
from tracemill.synth.petri_trace.net import Entity, Net, Step
from tracemill.synth.petri_trace.plan import Edge
from tracemill.synth.petri_trace.polish import Polish, polish
from tracemill.synth.petri_trace.text import escaped, execution_text, plan_text, readable
from tracemill.synth.petri_trace.validators import Fault, check
from tracemill.synth.petri_trace.writer import Asker, Draft, Execution, and_after, write


@dataclass(frozen=True, slots=True)
class Begun:
    """What there is before the first text is asked for."""

    chains: Sequence[Sequence[str]]
    entities: Sequence[Entity]
    steps: Sequence[Step]
    """Those with a text are kept as they are until a check fails."""
    removed: Sequence[Edge] = ()
    conclusion: Conclusion | None = None
    draws: int = 0
    """How many rounds it took to come here: plans drawn before one could be used, or steps of a given trace that are to be written."""
    grounding: Mapping[str, Any] = field(default_factory=dict)
    """Columns that say how the chains were found in a graph."""


@dataclass(frozen=True, slots=True)
class Way:
    """How texts are written, and how often again."""

    execution: Execution
    rounds: int
    rewrite_steps: bool
    """Whether a conclusion that fails has the steps written anew as well."""
    polish: Collection[Polish] = ()


@dataclass(slots=True)
class Result:
    begun: Begun
    draft: Draft
    conclusion: Conclusion | None = None
    faults: list[Fault] = field(default_factory=list)
    sound: bool = False
    """Whether plan and execution passed their checks."""
    regenerations: int = 0

    @property
    def steps(self) -> list[Step]:
        return self.draft.steps

    @property
    def eligible(self) -> int:
        """0: plan or execution failed; 1: they passed and the conclusion did not; 2: both passed."""
        return int(self.sound) + int(self.sound and not self.faults)


async def carry_out(begun: Begun, asker: Asker, way: Way) -> Result:
    """Bring a trace as far as its rounds allow. A round writes again only what failed, and what was built on it."""
    result = Result(begun, Draft(list(begun.steps)), begun.conclusion)
    redo = {step.n for step in begun.steps if not step.text}
    for draw in range(way.rounds + 1):
        result.regenerations = begun.draws + draw
        if redo:
            await _write(result, asker, way, redo, draw)
        result.faults, redo = _structural(result.draft)
        result.sound = not result.faults
        if result.sound:
            await _conclude(result, asker, draw)
            if not result.faults:
                break
            redo = {step.n for step in result.steps} if way.rewrite_steps else set()
        elif not redo:
            break  # the plan is at fault, and no text mends it
        if draw < way.rounds:
            result.conclusion = None
    return result


async def _write(result: Result, asker: Asker, way: Way, redo: set[int], draw: int) -> None:
    clean = "clean" in way.polish
    await write(result.draft, asker, only=redo, draw=draw, execution=way.execution, clean=clean)
    if all(step.text for step in result.steps):
        await polish(result.draft, asker, way.polish, draw)


def _structural(draft: Draft) -> tuple[list[Fault], set[int]]:
    """What is wrong with plan and execution, and the steps that have to be written again."""
    names = {name for step in draft.steps for name in (*step.left, step.right)}
    faults = check(plan_text(draft.steps), execution_text(draft.steps), names=names)
    if any(fault.check == "V1" for fault in faults):
        faults += [Fault("V1", f"step {n} holds characters that XML cannot write", (n,)) for n in _unreadable(draft)]
    faults += [Fault("V11", fault) for fault in Net.of_steps(draft.steps).faults()]
    if cut := draft.truncated:
        faults.append(Fault("truncated", f"the token limit cut off the steps {cut}", tuple(cut)))
    return faults, and_after(draft.steps, {n for fault in faults for n in fault.steps})


def _unreadable(draft: Draft) -> list[int]:
    """Steps whose texts, escaped, are no XML: control characters cannot be escaped."""
    return [step.n for step in draft.steps if not readable(f"<Step>{escaped(step.text)}</Step>")]


async def _conclude(result: Result, asker: Asker, draw: int) -> None:
    """The conclusion, where there is none yet, and what is wrong with it."""
    conclusion = result.conclusion or await conclude(result.steps, asker, draw)
    result.faults = faults_of(conclusion, result.steps, asker.problem.options)
    if not result.faults:
        verdict, fault = await judged(conclusion, result.steps, asker, draw)
        conclusion = replace(conclusion, judged=verdict)
        result.faults = [fault] if fault else []
    result.conclusion = conclusion
