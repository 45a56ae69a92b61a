"""The way through: text in, verdict out.

Most verdicts take microseconds and are made here. What needs algebra, and whatever a user's grader does, happens in worker
processes that are started with the first such answer.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import suggest
from tracemill.schemas.rows import Verdict
from tracemill.synth.reply import never_closed
from tracemill.synth.verify.choice import read_choice
from tracemill.synth.verify.compare import decide
from tracemill.synth.verify.extract import DEFAULT_THINK, EXTRACTS, MAX_ANSWER_CHARS, extract_answer
from tracemill.synth.verify.identity import check_grader, identity
from tracemill.synth.verify.latex import MAX_CHARS
from tracemill.synth.verify.pool import Pool
from tracemill.synth.verify.worker import Answer, Caps

KINDS = ("math", "choice", "exact")
MAX_ALGEBRA_CHARS = 10_000
"""Longest answer that math-verify is given."""
_REMEMBERED = 20_000


class Verifier:
    """Compares final answers with golds. Safe to share between tasks, event loops and threads."""

    def __init__(
        self,
        *,
        use: str = "math",
        extract: str = "boxed",
        options: Mapping[str, Any] | None = None,
        workers: int | None = None,
        think: tuple[str, str] | None = None,
        caps: Caps = Caps(),  # noqa: B008 - frozen
    ) -> None:
        """`use` and `extract` as in a recipe's `[verify]`; `options` go to a grader of the user's own.

        `workers` is the number of processes at most, by default one less than there are cores, and two at least, so that one
        hostile answer holds up nobody; it changes no verdict.
        """
        if extract not in EXTRACTS:
            raise RecipeError(f"[verify] extract = {extract!r} is unknown{suggest(extract, EXTRACTS)}")
        if ":" not in use and use not in KINDS:
            raise RecipeError(
                f"[verify] use = {use!r} is unknown{suggest(use, KINDS)}; a grader of your own is './file.py:function'"
            )
        self.use = use
        self.extract = extract
        self.think = think
        grader = use if use not in KINDS else None
        if grader is not None:
            check_grader(grader, options or {})
        elif options:
            raise RecipeError(
                f"[verify] use = {use!r} takes no option {sorted(options)}; only a grader of your own has options"
            )
        cores = len(os.sched_getaffinity(0))
        self._pool = Pool(workers or max(2, min(8, cores - 1)), caps, grader, options or {})
        self._known: OrderedDict[tuple[str, str], Future[Answer]] = OrderedDict()
        self.identity = identity(use, extract, think, options or {}, caps)

    async def verify(
        self,
        text: str,
        gold: str | None,
        *,
        truncated: bool = False,
        opened: bool = False,
        options: tuple[str, ...] | None = None,
    ) -> Verdict:
        """Whether the final answer of a text equals the gold. Never raises for anything the text or the gold holds.

        `truncated` says that the text was cut off by the token limit: it has no final answer, whatever it boxed on
        the way. `opened` says that it begins inside a thought: an answer in a thought that never closes was not given.
        `options` are the texts of a multiple choice.
        """
        known = self.quick(text, gold, truncated=truncated, opened=opened, options=options)
        return known if isinstance(known, Verdict) else await self.compare(known, gold or "")

    def quick(
        self,
        text: str,
        gold: str | None,
        *,
        truncated: bool = False,
        opened: bool = False,
        options: tuple[str, ...] | None = None,
    ) -> Verdict | str:
        """The verdict where this process can decide it for next to nothing, else the answer that `compare` has to look at."""
        if gold is None or not gold.strip():
            return Verdict(status="undecided", reason="no_gold")
        if truncated:
            return Verdict(status="different", reason="truncated")
        if never_closed(text, self.think or DEFAULT_THINK, opened=opened):
            return Verdict(status="undecided", reason="unclosed_thought")
        answer = extract_answer(text, self.extract, self.think)
        if answer is None:
            return Verdict(status="undecided", reason="no_answer")
        fast = self._fast(answer, gold, options)
        return answer if fast is None else _verdict(answer, fast)

    def quick_answer(self, answer: str, gold: str, *, options: tuple[str, ...] | None = None) -> Verdict | None:
        """`quick` for an answer that is already extracted; None where `compare` has to look at it."""
        fast = self._fast(answer, gold, options)
        return None if fast is None else _verdict(answer, fast)

    async def verify_answer(self, answer: str, gold: str, *, options: tuple[str, ...] | None = None) -> Verdict:
        """The same for an answer that is already extracted."""
        known = self.quick_answer(answer, gold, options=options)
        return await self.compare(answer, gold) if known is None else known

    def probe(self, gold: str | None) -> str | None:
        """An answer that a gold can be told from, or equals, if it is one that this verifier understands.

        None where any text will do as a gold: `exact` compares letters, and what a grader of one's own takes only it knows.
        """
        if self.use == "math":
            return "0"
        return gold if self.use == "choice" else None

    async def compare(self, answer: str, gold: str) -> Verdict:
        """The verdict of a worker process, at a price worth remembering."""
        # shielded: several tasks may wait for one comparison, and one that is cancelled must not take it from the others
        slow = await asyncio.shield(asyncio.wrap_future(self._slow(answer, gold)))
        return _verdict(answer, slow)

    def close(self) -> None:
        """End the worker processes; whoever waits for a comparison is cancelled. Safe to call twice."""
        self._pool.close()

    def _fast(self, answer: str, gold: str, options: tuple[str, ...] | None) -> Answer | None:
        """What can be decided in this process, at a price bounded by a few thousand characters; None for the rest."""
        if self.use == "exact":
            same = " ".join(answer.split()) == " ".join(gold.split())
            return ("equal" if same else "different"), None, "exact"
        if self.use == "choice":
            return _choose(answer, gold, options)
        if self.use != "math":
            return ("undecided", "too_long", "") if len(answer) > MAX_ANSWER_CHARS else None
        if answer.strip() == gold.strip():
            return "equal", None, "exact"
        if len(answer) > MAX_ALGEBRA_CHARS or len(gold) > MAX_ALGEBRA_CHARS:
            return "undecided", "too_long", ""
        if len(answer) > MAX_CHARS or len(gold) > MAX_CHARS:
            return None
        decision = decide(answer, gold)
        if decision.equal is None:
            return ("undecided", decision.reason, "") if decision.reason else None
        return ("equal" if decision.equal else "different"), None, decision.how

    def _slow(self, answer: str, gold: str) -> "Future[Answer]":
        """The comparison by the workers. Samples repeat their answers, so what was asked lately is not asked again."""
        key = (answer, gold)
        known = self._known.get(key)
        if known is None or known.cancelled() or (known.done() and known.exception() is not None):
            known = self._known[key] = self._pool.submit(answer, gold)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return known


def _choose(answer: str, gold: str, options: tuple[str, ...] | None) -> Answer:
    meant = read_choice(gold, options)
    if meant is None:
        return "undecided", "gold_is_no_choice", ""
    said = read_choice(answer, options)
    if said is None:
        return "undecided", "no_choice", ""
    return ("equal" if said == meant else "different"), None, "choice"


def _verdict(answer: str, found: Answer) -> Verdict:
    status, reason, how = found
    return Verdict(status=status, reason=reason, answer=answer, how=how)  # type: ignore[arg-type]
