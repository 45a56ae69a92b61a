"""Writing a net's texts: all steps of a frontier at once, each from its goal, the plan and the texts that it depends on.

A frontier waits for the one before it, and within it nothing waits: ten steps in three frontiers take the time of three. A step
is asked for under its number and the round in which it is written, so that a step written anew is another draw and the others
come out of the journal.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tracemill.schemas.filling import fill
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Sampling
from tracemill.schemas.rows import Problem
from tracemill.synth.engine import together
from tracemill.synth.petri_trace.net import Net, Step
from tracemill.synth.petri_trace.premises import facts
from tracemill.synth.petri_trace.prompts import PROMPTS, sentences
from tracemill.synth.petri_trace.text import plan_text
from tracemill.synth.prompts import worded
from tracemill.synth.reply import split_reasoning

Execution = Literal["frontier", "sequential"]
SCOPE = "petri_trace"
THINK = ("<think>", "</think>")


@dataclass(frozen=True)
class Asker:
    """Asks the models of one problem what the prompts say."""

    problem: Problem
    engine: Engine
    prompts: Mapping[str, str]
    prefixes: Mapping[str, str]
    stops: Mapping[str, Sequence[str]]
    begins: str
    show_answer: bool
    temperature: float | None
    planner: str
    judge: str | None

    @property
    def question(self) -> str:
        return worded(self.problem)

    @property
    def goal(self) -> str:
        """The question and, where it is shown, the gold: MedVerse's step writer sees both."""
        shown = f"\nAnswer: {self.problem.gold}" if self.show_answer and self.problem.gold else ""
        return f"Question: {self.question}{shown}"

    async def ask(
        self,
        call: str,
        values: Mapping[str, object],
        *,
        salt: str = "",
        role: str = "solver",
        draw: int = 0,
        begins: str = "",
    ) -> Completion:
        """One completion of a call, forced to begin with its prefix and `begins`."""
        asked = sentences(self.problem.question)
        filling = {"question": self.question, "goal": self.goal, "asked": asked[-1] if asked else "", **values}
        prefix = fill(self.prefixes.get(call, ""), **filling) + begins
        sampling = Sampling(temperature=self.temperature, stop=tuple(self.stops[call]) if call in self.stops else None)
        [said] = await self.engine.sample(
            fill(self.prompts.get(call, PROMPTS[call]), **filling),
            start=draw,
            role=role,
            scope=SCOPE,
            salt=f"{call}/{salt}",
            sampling=sampling,
            prefix=prefix or None,
        )
        return said

    async def of_chains(self, call: str, salt: str, **values: object) -> str:
        """What the planner says to a call about chains, or the judge where one is asked to judge."""
        role = self.judge if call == "judge" and self.judge else self.planner
        return content(await self.ask(call, values, salt=salt, role=role))

    def shown(self, steps: Sequence[Step]) -> str:
        """Steps as later prompts show them, one after the other."""
        form = self.prompts.get("shown", PROMPTS["shown"])
        return "".join(fill(form, **about(step, place)) for place, step in enumerate(steps, start=1))


def about(step: Step, place: int) -> dict[str, object]:
    """What a prompt may say of a step."""
    left = ", ".join(step.left)
    return {"n": step.n, "place": place, "left": left, "right": step.right, "title": step.title, "text": step.text}


def content(said: Completion, begins: str = "") -> str:
    """What a completion says, without what was thought before it."""
    return split_reasoning(begins + said.text, THINK)[1].strip()


@dataclass
class Draft:
    """The steps as far as they are written."""

    steps: list[Step]
    last: dict[int, Completion] = field(default_factory=dict)
    """By step, the completion that its text is."""

    @property
    def truncated(self) -> list[int]:
        """Steps whose texts the token limit cut off."""
        return [n for n, said in sorted(self.last.items()) if said.truncated]


async def write(
    draft: Draft, asker: Asker, *, only: Collection[int], draw: int, execution: Execution, clean: bool
) -> None:
    """Write the texts of `only` these steps, frontier by frontier, or one by one in their order."""
    plan, known = plan_text(draft.steps), facts(draft.steps)
    frontiers = Net.of_steps(draft.steps).frontiers()
    if execution == "sequential":
        frontiers = [[step.n] for step in draft.steps]
    place = {step.n: index for index, step in enumerate(draft.steps)}

    async def one(n: int) -> tuple[Step, Completion]:
        step = draft.steps[place[n]]
        before = [draft.steps[place[dep]] for dep in step.deps]
        values = {**about(step, len(before) + 1), "plan": plan, "facts": known[n], "shown": asker.shown(before)}
        begins = fill(asker.begins, **values)
        said = await asker.ask("step", values, salt=str(n), draw=draw, begins=begins)
        text = content(said, begins)
        if clean and text:
            cleaned = await asker.ask("clean", {**values, "text": text}, salt=str(n), draw=draw)
            said, text = cleaned, content(cleaned)
        return replace(step, text=text, n_tokens=asker.engine.count_tokens(text)), said

    for frontier in frontiers:
        written = await together(one(n) for n in frontier if n in only)
        for step, said in written:
            draft.steps[place[step.n]] = step
            draft.last[step.n] = said


def and_after(steps: Sequence[Step], wanted: Collection[int]) -> set[int]:
    """These steps and all that rest on them: what was built on a text that is written anew is stale."""
    found = set(wanted)
    for step in steps:
        if found.intersection(step.deps):
            found.add(step.n)
    return found
