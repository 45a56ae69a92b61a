"""What of a thought is needed: an auxiliary model's word on each segment, held against how often answers are right without it."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from tracemill.schemas.filling import fill
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Sampling
from tracemill.synth.pattern_prune_pairs.exits import Ends

JUDGE = (
    "Problem:\n{question}\n\nA chain of thought on it:\n{solution}\n\nOne of its segments:\n{segment}\n\nDoes this segment bring in, or "
    "change, any quantity or claim that a later segment or the answer rests on? Reply with one line: `keep: ` or `drop: `, and why, in a "
    "few words."
)
"""The paper's wording was not at hand: our default."""

CASE = ("question", "solution", "segment")
"""What a planted case for the auxiliary model says."""
_WORD = re.compile(r"\b(keep|drop)\s*:", re.IGNORECASE)
_BARE = re.compile(r"\W*(keep|drop)\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What is left of a thought, and how often answers behind that are right."""

    kept: tuple[int, ...]
    """Segments, from 0."""
    ends: Ends
    restored: int
    unclear: int
    said: tuple[str, ...]


async def ask(engine: Engine, judge: str, question: str, thought: str, segment: str, salt: str) -> str:
    """The auxiliary model's reply on one segment of a thought."""
    asked = fill(judge, question=question, solution=thought.strip(), segment=segment.strip())
    [reply] = await engine.sample(
        asked, role="judge", scope="pattern_prune_pairs", salt=salt, sampling=Sampling(temperature=0.0)
    )
    return reply.text


async def calibrate(case: Mapping[str, str], engine: Engine, *, judge: str) -> bool | None:
    """Whether the auxiliary model keeps a segment: a good case is needed, a bad one is not. None where its word cannot be read."""
    reply = await ask(engine, judge, case["question"], case["solution"], case["segment"], "planted")
    word = decision(reply)
    return None if word is None else word == "keep"


def decision(reply: str) -> Literal["keep", "drop"] | None:
    """What a reply says; None where it says nothing of the kind, or both. What stands before a closing think tag does not count."""
    said = reply.rpartition("</think>")[2]
    bare = _BARE.fullmatch(said)
    words = {bare[1].lower()} if bare else {word.lower() for word in _WORD.findall(said)}
    if len(words) != 1:
        return None
    return "keep" if words == {"keep"} else "drop"


async def prune(
    said: Sequence[str],
    before: Ends,
    measured: Callable[[Sequence[int], str], Awaitable[Ends]],
    fall: Fraction,
) -> Pruned:
    """Drop all that the replies call needless at once; where right answers fall by more than `fall`, bring it back from the end.

    `said` has a reply for each segment up to the exit, `before` is what closing there gave. An unclear reply keeps its segment. With
    everything back the thought is the one that was measured before, and is not measured again.
    """
    decisions = [decision(reply) for reply in said]
    dropped = [j for j, word in enumerate(decisions) if word == "drop"]
    total, unclear = len(dropped), decisions.count(None)
    while dropped:
        kept = tuple(j for j in range(len(said)) if j not in dropped)
        ends = await measured(kept, f"pruned:{total - len(dropped)}")
        if ends.share >= before.share - fall:
            return Pruned(kept, ends, total - len(dropped), unclear, tuple(said))
        dropped.pop()
    return Pruned(tuple(range(len(said))), before, total, unclear, tuple(said))
