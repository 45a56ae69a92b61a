"""The engine a method talks to: the roles of a build behind one journal, for one problem.

A completion is in the journal before the method sees it. After kill -9 the method starts again from its first line: what
the journal holds comes back at once, the rest is sampled.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec

from tracemill.schemas.errors import EngineLost, ProblemFailed, RequestRefused
from tracemill.schemas.plugins import PromptLike
from tracemill.schemas.request import (
    Adapter,
    Completion,
    Message,
    Rendered,
    Request,
    Reward,
    Rewarding,
    Sampling,
    TokenScores,
)
from tracemill.schemas.rows import Judgement, Problem, Verdict
from tracemill.synth.judge import judgement
from tracemill.synth.reply import never_closed
from tracemill.synth.roles import Role
from tracemill.synth.workshop import Drawn, Workshop

T = TypeVar("T")


@dataclass(slots=True)
class ProblemEngine:
    """`schemas.plugins.Engine` for one problem."""

    shop: Workshop
    problem: Problem
    drawn: list[Drawn] = field(default_factory=list)
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """Verdicts by the key of the completion they are about, where a method verified one."""
    held: int = 0
    """Bytes of completions drawn for this problem, as `Workshop.held` counts them."""
    _asked: set[str] = field(default_factory=set)
    _once: dict[str, asyncio.Lock] = field(default_factory=dict)
    """By key: the same question, asked twice at a time, waits for its answer."""

    async def sample(
        self,
        prompt: PromptLike,
        *,
        n: int = 1,
        start: int = 0,
        role: str = "solver",
        scope: str = "solve",
        salt: str = "",
        sampling: Sampling = Sampling(),
        prefix: str | tuple[int, ...] | None = None,
        adapter: Adapter | None = None,
    ) -> list[Completion]:
        """See schemas/plugins.py."""
        asked = self._role(role)
        first = asked.request(
            prompt,
            sampling=sampling,
            prefix=prefix,
            tools=self.problem.tools,
            adapter=adapter,
            problem_id=self.problem.problem_id,
            scope=scope,
            salt=salt,
        )
        requests = [replace(first, index=index) for index in range(start, start + n)]
        self._note(requests)
        found = await self.shop.journal.get([request.key for request in requests])
        known = {key: value for key, value in found.items() if isinstance(value, Completion)}
        drawn = iter(await together(self._complete(asked, request) for request in requests if request.key not in known))
        answers = [self._replayed(known[r.key]) if r.key in known else next(drawn) for r in requests]
        self.drawn.extend(_drawn(asked, r, c) for r, c in zip(requests, answers, strict=True))
        size = sum(len(c.text) + 4 * c.n_tokens for c in answers)
        self.held += size
        self.shop.held += size
        return answers

    async def score(
        self,
        prompt: PromptLike,
        continuation: str | tuple[int, ...],
        *,
        role: str = "solver",
        adapter: Adapter | None = None,
        top: int = 0,
    ) -> TokenScores:
        """See schemas/plugins.py."""
        asked = self._role(role)
        request = asked.request(
            prompt,
            sampling=Sampling(max_tokens=1, logprobs=top),
            prefix=continuation,
            tools=self.problem.tools,
            kind="score",
            adapter=adapter,
            problem_id="",  # a score is no draw: whoever asks for the same one gets it
            scope="score",
        )
        async with self._once.setdefault(request.key, asyncio.Lock()):
            known = (await self.shop.journal.get([request.key])).get(request.key)
            if isinstance(known, TokenScores):
                return known
            async with self.shop.gate(asked, adapter).entered():
                scores = await _unless_refused(asked.backend_of(adapter).score(request))
            await self.shop.journal.put(request.key, scores, request)
            return scores

    async def judge(
        self, prompt: PromptLike, answers: Sequence[str], *, role: str = "judge", top: int = 20
    ) -> Judgement:
        """See schemas/plugins.py."""
        asked = self._role(role)
        sampling = Sampling(temperature=0.0, max_tokens=1, logprobs=top)
        request = asked.request(
            prompt, sampling=sampling, prefix=None, tools=None, problem_id=self.problem.problem_id, scope="judge"
        )
        async with self._once.setdefault(request.key, asyncio.Lock()):
            known = (await self.shop.journal.get([request.key])).get(request.key)
            if isinstance(known, Completion):
                completion = known if request.key in self._asked else self._replayed(known)
            else:
                completion = await self._complete(asked, request)
            if request.key not in self._asked:
                self._asked.add(request.key)
                # one token is all that was asked for: nothing was cut off
                self.drawn.append(replace(_drawn(asked, request, completion), truncated=False, unclosed=False))
        return judgement(completion, answers, asked.renderer.text_of if asked.renderer else None)

    async def reward(
        self, prompt: str | tuple[Message, ...], reply: str, *, role: str = "reward", by_step: bool = False
    ) -> Reward:
        """See schemas/plugins.py."""
        asked = self._role(role)
        backend = asked.backend
        if not isinstance(backend, Rewarding):
            raise ProblemFailed(f"the engine of the role {role!r} serves no reward model: declare NEEDS for it")
        request = asked.reward_request(prompt, reply, by_step=by_step)
        known = (await self.shop.journal.get([request.key])).get(request.key)
        if isinstance(known, Reward):
            return known
        async with self.shop.gate(asked).entered():
            reward = await _unless_refused(backend.reward(request))
        await self.shop.journal.put(request.key, reward, request)
        return reward

    async def verify(self, text: str | Completion, gold: str | None, *, truncated: bool = False) -> Verdict:
        """See schemas/plugins.py."""
        solver = self.shop.roles.get("solver")
        opened = solver is not None and solver.opens_thought
        if isinstance(text, str):
            return (await self.verify_all([(text, truncated, opened)], gold))[0]
        if text.key not in self.verdicts:
            self.verdicts[text.key] = (await self.verify_all([(text.text, text.truncated, opened)], gold))[0]
        return self.verdicts[text.key]

    async def verifiable(self, gold: str | None) -> bool:
        """See schemas/plugins.py."""
        if gold is None or not gold.strip():
            return False
        if (probe := self.shop.verifier.probe(gold)) is None:
            return True
        known = self.shop.verifier.quick_answer(probe, gold, options=self.problem.options)
        return (known or await self._compare(probe, gold)).correct is not None

    def level(self, scale: str, role: str = "solver") -> Adapter:
        """See schemas/plugins.py."""
        levels = self._role(role).levels
        if scale not in levels:
            raise ProblemFailed(
                f"the method asks {role!r} for level {scale!r}; it declared: {', '.join(levels) or 'none'}"
            )
        return levels[scale].adapter

    async def verify_all(self, texts: Iterable[tuple[str, bool, bool]], gold: str | None) -> list[Verdict]:
        """`verify` for each text, whether it was truncated, and whether it begins inside a thought.

        Most are decided at once, and only what is not costs a task.
        """
        quick = self.shop.verifier.quick
        options = self.problem.options
        known = [quick(text, gold, truncated=cut, opened=opened, options=options) for text, cut, opened in texts]
        slow = iter(await asyncio.gather(*(self._compare(answer, gold) for answer in known if isinstance(answer, str))))
        return [next(slow) if isinstance(verdict, str) else verdict for verdict in known]

    async def _compare(self, answer: str, gold: str | None) -> Verdict:
        verifier = self.shop.verifier
        key = _verdict_key(verifier.identity, answer, gold or "")
        journaled = (await self.shop.journal.get([key])).get(key)
        if isinstance(journaled, Verdict):
            return journaled
        verdict = await verifier.compare(answer, gold or "")
        await self.shop.journal.put(key, verdict)
        return verdict

    def neighbours(self) -> tuple[Problem, ...]:
        """See schemas/plugins.py."""
        if self.shop.neighbours is None:
            raise ProblemFailed(
                "the method asks for other problems and declares none: write NEIGHBOURS = 1 beside its COLUMNS"
            )
        return self.shop.neighbours(self.problem)

    def model_name(self, role: str = "solver") -> str:
        return self._role(role).model.name

    def revision(self, role: str = "solver") -> str:
        return self._role(role).model.revision

    def rendered(self, prompt: PromptLike, role: str = "solver") -> Rendered:
        """See schemas/plugins.py."""
        return self._role(role).rendered(prompt, self.problem.tools)

    def conversation(self, prompt: str | tuple[Message, ...], role: str = "solver") -> tuple[Message, ...]:
        return self._role(role).conversation(prompt)

    def counter(self, role: str = "solver") -> str | None:
        asked = self.shop.roles.get(role)
        return None if asked and asked.renderer else "words"

    def count_tokens(self, text: str, role: str = "solver") -> int:
        asked = self.shop.roles.get(role)
        return asked.count(text) if asked else len(text.split())

    def text_of(self, tokens: Sequence[int], role: str = "solver") -> str:
        """See schemas/plugins.py."""
        renderer = self._role(role).renderer
        return renderer.decode(tokens) if renderer else " ".join(map(str, tokens))

    def tokens_of(self, text: str, role: str = "solver") -> tuple[int, ...] | None:
        """See schemas/plugins.py."""
        renderer = self._role(role).renderer
        return renderer.encode(text) if renderer else None

    def vocabulary(self, role: str = "solver") -> int | None:
        """See schemas/plugins.py."""
        renderer = self._role(role).renderer
        known = renderer.tokenizer.get_vocab(with_added_tokens=True).values() if renderer else None
        return None if known is None else 1 + max(known, default=-1)

    def token_starts(
        self, text: str, prompt: str | tuple[Message, ...] | None = None, role: str = "solver"
    ) -> list[int] | None:
        """See schemas/plugins.py."""
        asked = self.shop.roles.get(role)
        return asked.token_starts(text, prompt, self.problem.tools) if asked else None

    def _role(self, name: str) -> Role:
        if name not in self.shop.roles:
            raise ProblemFailed(
                f"the method asks for a role {name!r}; the recipe has: {', '.join(self.shop.roles) or 'none'}"
            )
        return self.shop.roles[name]

    def _note(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.key in self._asked:
                raise ProblemFailed(
                    f"the same draw was asked for twice (scope={request.scope!r}, salt={request.salt!r}, "
                    f"index={request.index}); give each draw its own index or salt, as in engine.sample(..., start=4)"
                )
            self._asked.add(request.key)

    def _replayed(self, known: Completion) -> Completion:
        self.shop.meter.samples_replayed += 1
        self.shop.meter.tokens_replayed += known.n_tokens
        return known

    async def _complete(self, role: Role, request: Request) -> Completion:
        meter = self.shop.meter
        async with self.shop.gate(role, request.adapter).entered():
            completion = _counted(role, await _unless_refused(role.backend_of(request.adapter).complete(request)))
            await self.shop.journal.put(request.key, completion, request)
        meter.samples_new += 1
        meter.tokens_new += completion.n_tokens
        meter.truncated += completion.truncated
        return replace(completion, key=request.key)


def _counted(role: Role, completion: Completion) -> Completion:
    """The completion with its tokens counted by the recipe's tokenizer, where the server counted nothing."""
    if completion.counted != "words" or role.renderer is None:
        return completion
    return replace(completion, n_tokens=role.renderer.count(completion.text), counted=role.renderer.name)


def _verdict_key(identity: str, answer: str, gold: str) -> str:
    """What a verdict is good for: this way of comparing, this answer, this gold."""
    return hashlib.sha256(msgspec.json.encode(["verdict", identity, answer, gold])).hexdigest()


def _drawn(role: Role, request: Request, completion: Completion) -> Drawn:
    adapter = request.adapter
    return Drawn(
        key=request.key,
        role=role.name,
        seed=request.rng_seed if request.seeds == "request" else None,
        n_tokens=completion.n_tokens,
        truncated=completion.truncated,
        unclosed=_unclosed(role, request, completion.text),
        adapter=adapter.name if adapter else None,
        scale=adapter.scale if adapter else None,
    )


def _unclosed(role: Role, request: Request, text: str) -> bool:
    """Whether a reply ends inside a thought, a forced prefix counted as its beginning; a step that its stop string ended does not end there."""
    if request.sampling.include_stop and text.endswith(request.sampling.stop or ()):
        return False
    before = request.prefix or ""
    if not isinstance(before, str):
        before = role.renderer.decode(before) if role.renderer else ""
    return never_closed(before + text, role.think, opened=role.opens_thought)


async def _unless_refused(call: Awaitable[T]) -> T:
    """Await a backend's answer; a refusal is this problem's failure, not the run's."""
    try:
        return await call
    except RequestRefused as refusal:
        raise ProblemFailed(f"the model's backend refuses a request of this problem: {refusal}") from refusal


async def together(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Every answer, in order. Where one fails the others are still waited for, and so journaled, before it is raised."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in sorted(failures, key=lambda failure: not isinstance(failure, EngineLost)):
        raise failure
    return [result for result in results if not isinstance(result, BaseException)]
