"""One try at a shorter reply: the thought step by step, reflections replaced by phrases, closed once the model is sure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Problem, draw
from tracemill.schemas.steps import inside_block, starts_with
from tracemill.synth.closing import Closed, Token, close, count_tokens, cut, spelled, spelling, text_of, verdict
from tracemill.synth.confidence_concise.confidence import How, confidence

SCOPE = "confidence_concise"
BLANK = "\n\n"


class Abandoned(Exception):
    """A try that comes to nothing; says why in a word."""


@dataclass(frozen=True, slots=True)
class Task:
    """One problem with the options that say how its thoughts are kept short."""

    problem: Problem
    engine: Engine
    asked: tuple[Message, ...]
    limit: Fraction
    """Tokens that a reply has to stay below."""
    cues: Sequence[str]
    answer: re.Pattern[str]
    phrases: Sequence[str]
    in_a_row: int
    injections: int
    probe: str
    confident: Sequence[str]
    doubt: Sequence[str]
    threshold: float
    think: tuple[str, str]
    seed: int
    temperature: float | None


@dataclass(slots=True)
class Try:
    """A thought while it grows."""

    task: Task
    number: int
    tokens: list[Token] = field(default_factory=list)
    steps: int = 0
    draws: int = 0
    in_a_row: int = 0
    answered: bool = False
    injections: list[dict[str, Any]] = field(default_factory=list)
    stop_step: int | None = None
    stop_conf: float | None = None
    stop_how: How | None = None
    closed: Closed | None = None

    async def run(self) -> str | None:
        """Write it to its end. None where it is right and short enough, else why it is given up."""
        task = self.task
        try:
            while not await self._step():
                if count_tokens(task.engine, self.tokens) >= task.limit:
                    return "not_shorter"
        except Abandoned as why:
            return str(why)
        [self.closed] = await close(
            task.engine, task.asked, self.tokens, n=1, scope=SCOPE, salt=f"{self.number}:answer",
            sampling=Sampling(temperature=task.temperature), close=f"\n{task.think[1]}\n\n",
        )  # fmt: skip
        whole = self.closed.whole
        found = await verdict(task.engine, self.closed, task.problem.gold)
        if found.correct is not True:
            return "truncated" if whole.truncated else "wrong" if found.correct is False else "undecided"
        return None if whole.n_tokens < task.limit else "not_shorter"

    async def _step(self) -> bool:
        """Let the model write one step, and keep or replace it; whether the thought ends with it."""
        task = self.task
        written = await self._drawn()
        text, closed, _ = written.text.partition(task.think[1])
        if not closed and not text.endswith(BLANK):
            raise Abandoned("truncated" if written.truncated else "unclosed")
        new = cut(spelled(task.engine, written), 0, len(text))
        if not self.tokens and (opening := re.match(rf"\s*{re.escape(task.think[0])}\s*", text)):
            self.tokens = cut(new, 0, opening.end())  # where the model itself opens its thought: no part of the step
            new, text = cut(new, opening.end(), len(text)), text[opening.end() :]
        inside = inside_block(text_of(self.tokens))
        if not inside and not self.answered and starts_with(text, task.cues):
            self._inject(text)
            return False
        self.tokens += new
        self.steps += 1
        self.in_a_row = 0
        self.answered = self.answered or bool(task.answer.search(text))
        return bool(closed) or (self.answered and not inside_block(text_of(self.tokens)) and await self._sure())

    async def _drawn(self) -> Completion:
        task = self.task
        self.draws += 1
        [written] = await task.engine.sample(
            task.asked, scope=SCOPE, salt=f"{self.number}:{self.draws}",
            prefix=spelling(task.engine, task.asked, self.tokens) if self.tokens else None,
            sampling=Sampling(temperature=task.temperature, stop=(BLANK,), include_stop=True),
        )  # fmt: skip
        return written

    def _inject(self, removed: str) -> None:
        """A phrase in the place of a step that reflects."""
        task, count = self.task, len(self.injections)
        self.in_a_row += 1
        if self.in_a_row > task.in_a_row or count >= task.injections:
            raise Abandoned("injection_loop")
        lot = draw(f"{task.seed}|{task.problem.problem_id}|{self.number}|{count}")
        phrase = task.phrases[lot % len(task.phrases)]
        place = len(text_of(self.tokens))
        self.injections.append({"char_pos": place, "phrase": phrase, "removed_step": removed.strip()})
        self.tokens.append((phrase + BLANK, ()))

    async def _sure(self) -> bool:
        """Whether the model, asked now, is sure enough of its answer."""
        task = self.task
        sure, how = await confidence(
            task.engine, task.asked, self.tokens, probe=task.probe, confident=task.confident, doubt=task.doubt
        )
        if sure is None or sure < task.threshold:
            return False
        self.stop_step, self.stop_conf, self.stop_how = self.steps, sure, how
        return True
