"""Five calls on candidate chains: filter, repair of the form, compose, fill gaps, judge (MedVerse, arXiv:2602.07529, released scripts).

What a call may not do is not left to the model: filtered chains are among those given, composed ones bring in one new node at
most, filled ones keep every node that was there. Chains that are not well formed are repaired by one more call. After a FAIL and
the repair that follows it the judge is asked again, and a second FAIL turns the problem down: the released scripts take the
repaired chains unseen.
"""

import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from tracemill.synth.petri_trace.chains import Chains, Unusable, read, write

Call = Literal["filter", "repair", "compose", "fill", "judge"]
CALLS: tuple[Call, ...] = ("filter", "repair", "compose", "fill", "judge")

# MedVerse, released scripts: what each call may return.
MOST_FILTERED = 10
MOST_COMPOSED = 6
NEW_NODES = 1
MOST_FILLED = 2
MOST_MENDED = 2

Ask = Callable[..., Awaitable[str]]
"""`await ask("filter", salt, chains=...)`: what the model replies to a prompt."""
_WORD = re.compile(r"\b(PASS|FAIL)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Refiner:
    """The calls that a recipe asks for, by way of `ask`."""

    ask: Ask
    calls: Collection[Call]
    longest: int

    async def refined(self, given: str | Sequence[Sequence[str]], draw: int = 0) -> Chains:
        """Chains that went through every call; Unusable where none are left, or they stay ill-formed or judged to fail."""
        chains = await self._read(given, f"given-{draw}")
        if "filter" in self.calls:
            chains = kept(await self._asked("filter", chains, draw), chains)
        if "compose" in self.calls:
            chains = composed(await self._asked("compose", chains, draw), chains)
        if "fill" in self.calls:
            chains = filled(await self._asked("fill", chains, draw), chains)
        return await self._judged(chains, draw) if "judge" in self.calls else chains

    async def _asked(self, call: str, chains: Chains, draw: int, **values: str) -> Chains:
        reply = await self.ask(call, f"{call}-{draw}", chains=write(chains), **values)
        return await self._read(_lines(reply), f"{call}-{draw}")

    async def _read(self, given: str | Sequence[Sequence[str]], salt: str) -> Chains:
        try:
            return read(given, longest=self.longest)
        except Unusable as fault:
            if "repair" not in self.calls or not isinstance(given, str) or not given.strip():
                raise
            says = f"{fault.reason}: {fault.evidence.get('says', '')}".rstrip(": ")
            reply = await self.ask("repair", f"repair-{salt}", chains=given, fault=says)
            return read(_lines(reply), longest=self.longest)

    async def _judged(self, chains: Chains, draw: int) -> Chains:
        verdict = await self.ask("judge", f"judge-{draw}", chains=write(chains))
        if passes(verdict):
            return chains
        mended = await self._asked("mend", chains, draw, fault=verdict.strip())
        if len(mended) > len(chains) + MOST_MENDED:
            mended = mended[: len(chains) + MOST_MENDED]
        again = await self.ask("judge", f"judge-again-{draw}", chains=write(mended))
        if not passes(again):
            raise Unusable("judged_to_fail", first=verdict.strip()[:500], second=again.strip()[:500])
        return mended


def passes(reply: str) -> bool | None:
    """What the first PASS or FAIL of a reply says; None where there is neither."""
    match = _WORD.search(reply)
    return match[1].upper() == "PASS" if match else None


def kept(replied: Chains, given: Chains) -> Chains:
    """Those of the given chains that the reply holds, in the order given, at most MOST_FILTERED."""
    chains = tuple(chain for chain in given if chain in replied)[:MOST_FILTERED]
    if not chains:
        raise Unusable("empty_candidate_set", says="the filter kept none of the chains")
    return chains


def composed(replied: Chains, given: Chains) -> Chains:
    """The first MOST_COMPOSED chains of the reply that together bring in no more than NEW_NODES nodes."""
    known = {node for chain in given for node in chain}
    new: set[str] = set()
    chains = []
    for chain in replied:
        more = new | {node for node in chain if node not in known}
        if len(more) <= NEW_NODES:
            new = more
            chains.append(chain)
    if not chains:
        raise Unusable("empty_candidate_set", says=f"every composed chain brings in more than {NEW_NODES} new node")
    return tuple(chains[:MOST_COMPOSED])


def filled(replied: Chains, given: Chains) -> Chains:
    """The given chains, each with up to MOST_FILLED nodes put in where the reply keeps all that was there."""
    found = []
    for chain in given:
        longer = (other for other in replied if _within(chain, other) and len(other) <= len(chain) + MOST_FILLED)
        found.append(next(longer, chain))
    return tuple(dict.fromkeys(found))


def _within(chain: Sequence[str], other: Sequence[str]) -> bool:
    """Whether all nodes of a chain are in another, in their order and with the same ends."""
    if (chain[0], chain[-1]) != (other[0], other[-1]):
        return False
    rest = iter(other)
    return all(node in rest for node in chain)


def _lines(reply: str) -> str:
    """The lines of a reply that look like chains, or the reply where none does."""
    lines = [line for line in reply.splitlines() if "->" in line]
    return "\n".join(lines) or reply
