"""One thought on its way to a pair: taken apart, closed behind its segments, pruned, and put together again."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from tracemill.schemas.errors import ProblemFailed
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Problem, Rejection, Trace, Verdict
from tracemill.schemas.steps import segment
from tracemill.synth.closing import Closed, Token, close, count_tokens, cut, spelled, text_of, verdict
from tracemill.synth.engine import together
from tracemill.synth.pattern_prune_pairs.columns import COLUMNS
from tracemill.synth.pattern_prune_pairs.exits import Ends, first_exit
from tracemill.synth.pattern_prune_pairs.needed import Pruned, ask, prune
from tracemill.synth.prompts import worded

SCOPE = "pattern_prune_pairs"


@dataclass(frozen=True, slots=True)
class Task:
    """One problem, and the options that say what is done with its thoughts."""

    problem: Problem
    engine: Engine
    asked: tuple[Message, ...]
    answers: int
    threshold: Fraction
    fall: Fraction
    min_tokens: int
    cues: tuple[str, ...]
    paragraphs: bool
    lead: str
    think: tuple[str, str]
    judge: str
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Segment:
    label: str
    tokens: tuple[Token, ...]
    n_tokens: int


@dataclass(slots=True)
class Thought:
    """One reply on its way to a pair."""

    task: Task
    completion: Completion
    verdict: Verdict
    number: int
    opening: list[Token] = field(default_factory=list)
    """The opening tag, where the model writes it itself; it is no segment and never dropped."""
    segments: list[Segment] = field(default_factory=list)
    ends: dict[int, Ends] = field(default_factory=dict)
    """What closing behind each segment gave, as far as it was measured."""

    async def pair(self) -> Trace | tuple[Trace, Rejection]:
        """The row, or the original with the reason why there is none."""
        if self.verdict.correct is None and not self.completion.truncated:
            return self._down("undecided", why=self.verdict.reason)
        if not self._split():
            return self._down("no_thought")
        if len(self.segments) == 1:
            return self._down("one_segment")
        exit_at = await first_exit(self._above, len(self.segments))
        if exit_at is None:
            return self._down(
                "unsolved", right={str(j): self.ends[j].right for j in sorted(self.ends)}, of=self.task.answers
            )
        said = await together(self._asked(j, exit_at) for j in range(exit_at))
        pruned = await prune(said, self.ends[exit_at], self._measured, self.task.fall)
        best = pruned.ends.best()
        if best is None:
            raise ProblemFailed("no answer behind the pruned thought is right, and `fall` lets no share down to 0")
        if self.verdict.correct and best.whole.n_tokens >= self.completion.n_tokens:
            return self._down("not_shorter", original=self.completion.n_tokens, optimised=best.whole.n_tokens)
        return self._row(exit_at, pruned, best)

    def _split(self) -> bool:
        """Take the reply apart; False where it has no thought."""
        opening, closing = self.task.think
        text = self.completion.text
        thought, closed, _ = text.rpartition(closing)
        if not closed:
            thought = text if self.completion.truncated else ""
        if not thought.strip():
            return False
        start = match.end() if (match := re.match(rf"\s*{re.escape(opening)}\s*", thought)) else 0
        tokens = spelled(self.task.engine, self.completion)
        self.opening = cut(tokens, 0, start)
        for part, label in segment(thought[start:], cues=self.task.cues, paragraphs=self.task.paragraphs):
            own = cut(tokens, start, start + len(part))
            start += len(part)
            self._add(Segment(label, tuple(own), count_tokens(self.task.engine, own)))
        return bool(self.segments)

    def _add(self, new: Segment) -> None:
        """One more segment; it goes into the one before where either is too short to stand alone."""
        least = self.task.min_tokens
        if not self.segments or min(new.n_tokens, self.segments[-1].n_tokens) >= least:
            self.segments.append(new)
            return
        last = self.segments[-1]
        self.segments[-1] = Segment(last.label, last.tokens + new.tokens, last.n_tokens + new.n_tokens)

    async def _above(self, j: int) -> bool:
        if j not in self.ends:
            self.ends[j] = await self._measured(range(j), f"exit:{j}")
        return self.ends[j].share >= self.task.threshold

    async def _measured(self, kept: Sequence[int], salt: str) -> Ends:
        """Answers behind the thought that has these segments alone."""
        task = self.task
        tokens = [*self.opening, *(token for i in kept for token in self.segments[i].tokens)]
        closed = await close(
            task.engine, task.asked, tokens, n=task.answers, scope=SCOPE, salt=f"{self.number}:{salt}", sampling=task.sampling,
            close=f"\n{task.think[1]}\n\n", lead=task.lead,
        )  # fmt: skip
        return Ends(closed, await together(verdict(task.engine, one, task.problem.gold) for one in closed))

    async def _asked(self, j: int, exit_at: int) -> str:
        """What the auxiliary model says of a segment."""
        task = self.task
        thought = text_of(token for one in self.segments[:exit_at] for token in one.tokens)
        own = text_of(self.segments[j].tokens)
        return await ask(task.engine, task.judge, worded(task.problem), thought, own, f"{self.number}:{j}")

    def _row(self, exit_at: int, pruned: Pruned, best: Closed) -> Trace:
        right = self.verdict.correct is True
        return Trace.of(
            self.task.problem,
            best.whole,
            name=f"pruned-{self.number:04d}",
            prompt=self.task.asked,
            model=self.task.engine.model_name(),
            segments=[self._segment(j, pruned) for j in range(len(self.segments))],
            exit_idx=exit_at,
            optimised=best.whole.text,
            original=self.completion.text,
            original_correct=right,
            n_tok_original=self.completion.n_tokens,
            p_before=float(self.ends[exit_at].share),
            p_after=float(pruned.ends.share),
            tag="shorter" if right else "repair",
            trivial=exit_at == 1,
            n_dropped=exit_at - len(pruned.kept),
            n_restored=pruned.restored,
            n_unclear=pruned.unclear,
        )

    def _segment(self, j: int, pruned: Pruned) -> dict[str, Any]:
        one = self.segments[j]
        return {
            "text": text_of(one.tokens),
            "label": one.label,
            "n_tok": one.n_tokens,
            "kept": j in pruned.kept,
            "p_exit": float(self.ends[j + 1].share) if j + 1 in self.ends else None,
            "said": pruned.said[j] if j < len(pruned.said) else None,
        }

    def _down(self, reason: str, **evidence: Any) -> tuple[Trace, Rejection]:
        blank = Trace.of(
            self.task.problem,
            self.completion,
            name=f"solve-{self.number:04d}",
            prompt=self.task.asked,
            model=self.task.engine.model_name(),
            **dict.fromkeys(COLUMNS),
        )
        return blank, Rejection(reason, evidence)
