"""Several endpoints as one: who gets the next request, who is in quarantine, and when too few are left.

    usable ──connection refused, five faults in a row, a hang──▶ quarantine ──one token written──▶ usable
                                                                     └─ fewer than `min_endpoints` for `patience` s: EngineLost

What counts as a hang. A completion that is not streamed sends nothing until it is done, so silence alone says nothing: a
chain of 30,000 tokens is silent for many minutes and must live. Streaming would tell, at the price of an event a token.
So an endpoint that has sent no byte for a while is asked for its token counter (`/metrics`: vLLM has one, and it stands
still when the engine hangs behind a healthy `/health`). While the counter moves, all is well. If it stands still for
`stall` seconds the endpoint is hung. Where there is no counter, one further token is asked for, with `stall` seconds to
come. Should such an endpoint turn out to be alive after all, it is given twice the time from then on.
"""

import asyncio
import random
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Any

from tracemill.schemas.errors import EngineLost, RecipeError
from tracemill.synth.backends.openai.endpoint import Endpoint, Setback

FAULTS = 5
"""Faults in a row, of any requests, after which an endpoint is looked at before it gets more."""
PUSHBACKS = 8
"""Rounds of pushback in a row, without one answer, after which an endpoint is left alone for a while."""
LONGEST_WAIT = 60.0
ONLY_PUSHBACK = 600.0
"""Seconds of nothing but pushback, with nothing of ours in flight, after which an endpoint counts as lost."""
Probe = tuple[str, dict[str, Any]]


def backoff(tries: int) -> float:
    """Seconds to wait after so many failures: doubling from a half, capped, and never the same for two."""
    return min(LONGEST_WAIT, 0.5 * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not secrets


class Pool:
    """Hands out slots of endpoints, and looks after them in the background."""

    def __init__(
        self, endpoints: Sequence[Endpoint], *, min_endpoints: int, stall: float, patience: float, probe: Probe
    ) -> None:
        """`probe`: path and body of a request for one token."""
        self.endpoints = endpoints
        self.lost: EngineLost | RecipeError | None = None
        self._min_endpoints = min_endpoints
        self._stall = stall
        self._patience = patience
        self.probe = probe
        self._waiting: deque[asyncio.Future[Endpoint]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next_probe: dict[Endpoint, float] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()

    def start(self) -> None:
        """Begin to watch; needs the running loop."""
        for endpoint in self.endpoints:
            self._spawn(self._watch(endpoint))

    async def close(self) -> None:
        """Stop watching and turn away whoever waits."""
        self.lose(self.lost or EngineLost("the openai backend was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def at_once(self) -> int:
        return max(1, sum(endpoint.window.limit for endpoint in self.endpoints if endpoint.usable))

    async def pause(self, seconds: float) -> None:
        """Sleep, unless the run ends meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            return

    async def take(self, *, again: bool = False) -> Endpoint:
        """Wait for a slot of the least loaded endpoint; requests that were sent before go first."""
        if self.lost:
            raise self.lost
        endpoint = self._free()
        if endpoint is not None and (again or not self._waiting):
            endpoint.window.enter(_now())
            return endpoint
        slot: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
        if again:
            self._waiting.appendleft(slot)
        else:
            self._waiting.append(slot)
        try:
            return await slot
        except asyncio.CancelledError:
            if slot.done() and not slot.cancelled() and slot.exception() is None:
                self.give(slot.result())
            raise

    def give(self, endpoint: Endpoint) -> None:
        """Give a slot back."""
        endpoint.window.leave()
        self.hand_out()

    def hand_out(self) -> None:
        """Serve whoever waits, as far as there are slots."""
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
                continue
            endpoint = self._free()
            if endpoint is None:
                return
            endpoint.window.enter(_now())
            self._waiting.popleft().set_result(endpoint)

    def answered(self, endpoint: Endpoint, tokens: int) -> None:
        """Note a good answer."""
        endpoint.failures = endpoint.pushbacks = 0
        endpoint.pushed_since = None
        endpoint.window.answered(tokens, _now())

    def failed(self, endpoint: Endpoint, setback: Setback, sent: float) -> None:
        """Note what went wrong with a request that was sent at `sent`, and draw the consequence."""
        if setback.kind == "requeued" or not endpoint.usable:
            return
        endpoint.last_error = str(setback)
        if setback.after:
            self._rest(endpoint, setback.after)
        if setback.kind == "pushback":
            self._pushed_back(endpoint, setback, sent)
        else:
            endpoint.failures += 1
            if setback.kind == "unreachable" or endpoint.failures >= FAULTS:
                self.quarantine(endpoint, str(setback))

    def quarantine(self, endpoint: Endpoint, reason: str) -> None:
        """Send it nothing more and look after it until it comes back.

        What it still works on it may finish: one refused connection must not cost ten thousand half-written chains. A
        process that died resets its connections by itself, and a machine that vanished is noticed by TCP.
        """
        if not endpoint.usable:
            return
        endpoint.usable = False
        endpoint.last_error = reason
        if self._usable() < self._min_endpoints and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(self._patience, self._too_few)
        self._spawn(self._revive(endpoint))

    def condemn(self, endpoint: Endpoint, reason: str) -> None:
        """Quarantine it and send what it had elsewhere."""
        self.quarantine(endpoint, reason)
        endpoint.last_error = reason
        endpoint.condemned = True
        endpoint.requeue()

    def lose(self, error: EngineLost | RecipeError) -> None:
        """End of the run: everyone who waits or retries gets `error`."""
        self.lost = self.lost or error
        self._over.set()
        if self._alarm is not None:
            self._alarm.cancel()
        while self._waiting:
            slot = self._waiting.popleft()
            if not slot.done():
                slot.set_exception(error)

    def progress(self) -> list[str]:
        lines = []
        now, count = _now(), len(self.endpoints)
        for endpoint in self.endpoints:
            name = f"endpoint {endpoint.number} of {count}"
            if not endpoint.usable:
                wait = max(0.0, self._next_probe.get(endpoint, now) - now)
                lines.append(f"{name} in quarantine: {endpoint.last_error}; next probe in {wait:.0f} s")
            elif endpoint.rests_until > now:
                lines.append(f"{name} rests for {endpoint.rests_until - now:.0f} s: {endpoint.last_error}")
            elif endpoint.pushed_since is not None and now - endpoint.pushed_since > LONGEST_WAIT:
                lines.append(f"{name} only pushes back for {now - endpoint.pushed_since:.0f} s: {endpoint.last_error}")
        return lines

    def _free(self) -> Endpoint | None:
        best, least, now = None, 1.0, _now()
        for endpoint in self.endpoints:
            if endpoint.usable and endpoint.rests_until <= now:
                load = endpoint.window.in_flight / endpoint.window.limit
                if load < least:
                    best, least = endpoint, load
        return best

    def _usable(self) -> int:
        return sum(endpoint.usable for endpoint in self.endpoints)

    def _rest(self, endpoint: Endpoint, seconds: float) -> None:
        endpoint.rests_until = max(endpoint.rests_until, _now() + seconds)
        asyncio.get_running_loop().call_later(seconds + 0.001, self.hand_out)

    def _pushed_back(self, endpoint: Endpoint, setback: Setback, sent: float) -> None:
        now = _now()
        endpoint.window.pushed_back(sent, now)
        endpoint.pushed_since = endpoint.pushed_since or now
        if sent >= endpoint.pushed_at:
            endpoint.pushbacks += 1
            endpoint.pushed_at = now
        if now - endpoint.pushed_since > ONLY_PUSHBACK and endpoint.window.in_flight <= 1:
            self.quarantine(endpoint, f"nothing but pushback for {now - endpoint.pushed_since:.0f} s: {setback}")
        elif endpoint.pushbacks >= PUSHBACKS:
            self._rest(endpoint, backoff(endpoint.pushbacks - PUSHBACKS))

    def _too_few(self) -> None:
        self._alarm = None
        told = "; ".join(f"{e}: {e.last_error}" for e in self.endpoints if not e.usable)
        self.lose(
            EngineLost(
                f"{self._usable()} of {len(self.endpoints)} endpoints usable for {self._patience:g} s, and "
                f"min_endpoints = {self._min_endpoints}; {told}. Bring them back and run again to resume"
            )
        )

    async def _revive(self, endpoint: Endpoint) -> None:
        tries = 0
        while not endpoint.usable:
            wait = backoff(tries)
            self._next_probe[endpoint] = _now() + wait
            await asyncio.sleep(wait)
            wrong = await endpoint.writes(*self.probe, within=self._limit(endpoint))
            tries += 1
            endpoint.last_error = wrong or endpoint.last_error
            endpoint.usable = wrong is None
        if endpoint.condemned and tries == 1 and not endpoint.has_gauges:
            endpoint.patience *= 2
        endpoint.condemned = False
        endpoint.failures = endpoint.pushbacks = 0
        endpoint.pushed_since = None
        endpoint.heard = _now()
        if self._alarm is not None and self._usable() >= self._min_endpoints:
            self._alarm.cancel()
            self._alarm = None
        self.hand_out()

    def _limit(self, endpoint: Endpoint) -> float:
        return self._stall * endpoint.patience

    async def _watch(self, endpoint: Endpoint) -> None:
        while True:
            await asyncio.sleep(min(5.0, self._stall / 4))
            if not endpoint.busy:
                continue
            silent = _now() - endpoint.heard
            may_grow = endpoint.window.full and not endpoint.window.fixed and endpoint.has_gauges
            if silent < self._stall / 4 and not may_grow:
                continue
            if await self._moves(endpoint) or _now() - endpoint.heard < self._limit(endpoint):
                continue
            if await self._hangs(endpoint):
                self.condemn(endpoint, f"hung: not a token for {_now() - endpoint.heard:.0f} s, requests in flight")

    async def _moves(self, endpoint: Endpoint) -> bool:
        """Read its counters; whether tokens were written since they were last read."""
        try:
            gauges = await endpoint.gauges()
        except Setback:
            return False
        if gauges is None:
            return False
        if gauges.waiting is not None:
            endpoint.window.queue_seen(gauges.waiting)
            self.hand_out()
        moved = endpoint.tokens_seen is not None and gauges.tokens != endpoint.tokens_seen
        endpoint.tokens_seen = gauges.tokens
        if moved:
            endpoint.heard = _now()
        return moved

    async def _hangs(self, endpoint: Endpoint) -> bool:
        """The last word on a silent endpoint: one that has no counter may write one token to be believed."""
        if endpoint.tokens_seen is not None:
            return True
        heard = endpoint.heard
        wrong = await endpoint.writes(*self.probe, within=self._limit(endpoint))
        if wrong is None or endpoint.heard > heard:
            endpoint.heard = _now()
            return False
        return True

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()
