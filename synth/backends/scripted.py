"""A backend that answers from a function: the whole pipeline runs on a laptop, in tests, without a GPU.

It ships in the product. `reply` decides what is said; `latency` and `faults` make it as slow and as unreliable as a real
server, from the request's own key, so that a run that misbehaves can be run again.
"""

import asyncio
import hashlib
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tracemill.schemas.errors import EngineLost, RequestRefused
from tracemill.schemas.request import Capability, Completion, Request, Reward, TokenScores

Reply = Callable[[Request], str | Completion]


@dataclass
class Scripted:
    """Replies with `reply(request)` after a delay, and remembers what it was asked."""

    reply: Reply
    latency: float = 0.0
    """Mean seconds to an answer; each request takes between 0 and twice that, by its key."""
    refuse: float = 0.0
    """Share of requests that are refused for good."""
    lose_after: int | None = None
    """The backend is gone once so many requests were answered."""
    at_once: int = 1024
    capabilities: frozenset[Capability] = frozenset({"complete", "prefix", "logprobs", "score", "adapter", "reward"})
    asked: list[Request] = field(default_factory=list)
    remember: bool = True
    answered: int = 0

    def __post_init__(self) -> None:
        """Raise TypeError for what a recipe may give and no request could be asked with."""
        given: dict[str, Any] = {"latency": self.latency, "refuse": self.refuse, "lose_after": self.lose_after or 0}
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise TypeError(f"{name} = {value!r}: write a number that is not negative")

    async def start(self) -> None:
        """Nothing to make ready."""

    async def complete(self, request: Request) -> Completion:
        await self._misbehave(request)
        said = self.reply(request)
        if isinstance(said, Completion):
            return said
        words = said.split()
        limit = request.sampling.max_tokens
        cut = limit is not None and len(words) > limit
        if cut:
            words = words[:limit]
        ids = array("i", map(_token, words))
        scores = None
        if request.sampling.logprobs is not None:
            scores = TokenScores(token_ids=ids, logprobs=array("f", (-(i % 1000) / 1000 for i in ids)))
        return Completion(
            text=" ".join(words) if cut else said,
            finish_reason="length" if cut else "stop",
            n_tokens=len(words),
            prompt_tokens=len(request.prompt),
            token_ids=ids,
            scores=scores,
        )

    async def score(self, request: Request) -> TokenScores:
        """Log-probs made from each token's own id: stable, and between -1 and 0. Before a multiple of 5 the next id is likelier."""
        await self._misbehave(request)
        tokens = request.prefix if isinstance(request.prefix, tuple) else tuple(map(ord, request.prefix or ""))
        logprobs = array("f", (-(t % 1000) / 1000 for t in tokens))
        k = request.sampling.logprobs or 0
        top = tuple(tuple((t + (t % 5 == 0) + i, -float(i)) for i in range(k)) for t in tokens) if k else None
        return TokenScores(token_ids=array("i", tokens), logprobs=logprobs, top=top)

    async def reward(self, request: Request) -> Reward:
        """The numbers that the script replies with: on one line for the whole, or a line for each step."""
        await self._misbehave(request)
        said = self.reply(request)
        lines = said.splitlines() if isinstance(said, str) else []
        try:
            values = tuple(tuple(float(word) for word in line.split()) for line in lines)
        except ValueError:
            values = ()
        if not values:
            raise RequestRefused(f"the script answers a {request.kind} with {said!r}; it has to reply with numbers")
        return Reward(values=values)

    async def close(self) -> None:
        """Nothing to let go of."""

    def facts(self) -> dict[str, Any]:
        return {"engine": "scripted"}

    def progress(self) -> list[str]:
        return []

    async def _misbehave(self, request: Request) -> None:
        if self.remember:
            self.asked.append(request)
        die = int(request.key[12:20], 16) / 0xFFFFFFFF
        if self.latency:
            await asyncio.sleep(2 * self.latency * int(request.key[20:28], 16) / 0xFFFFFFFF)
        if self.lose_after is not None and self.answered >= self.lose_after:
            raise EngineLost(f"the scripted backend was told to be lost after {self.lose_after} answers")
        if die < self.refuse:
            raise RequestRefused("the scripted backend was told to refuse this request")
        self.answered += 1


@lru_cache(maxsize=1 << 16)
def _token(word: str) -> int:
    """The id of a word in a vocabulary of 65,536 that needs no file."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:2], "big")


NUMBER = re.compile(r"\d+")


def guess(request: Request) -> str:
    """The reply without a script of one's own: a boxed sum, right for some problems and draws, wrong for others.

    It adds two or more of the numbers that the question names, so a dry run shows correct, wrong and missing answers.
    """
    prompt = request.prompt
    text = prompt if isinstance(prompt, str) else " ".join(m["content"] for m in prompt if isinstance(m, Mapping))
    numbers = [int(n) for n in NUMBER.findall(text)][:8] or [0]
    luck = request.rng_seed % 10
    if luck == 0:
        return "I cannot tell."
    chosen = numbers if luck < 7 else numbers[: 1 + luck % len(numbers)]
    steps = " ".join(f"Add {n}." for n in chosen)
    return f"{'Let us see. ' * (luck % 4)}{steps} The answer is \\boxed{{{sum(chosen)}}}."
