"""How many requests one endpoint should have in flight: a window that finds its size by itself.

Three things move it. A server that shows its queue (vLLM does, under `/metrics`) lets it grow while nothing waits there,
however long the chains are. Elsewhere it grows while a larger window answers more tokens a second. Pushback (429, 503, a
timeout) halves it, once for all requests that were already on their way.
"""

from dataclasses import dataclass

START = 64
"""Gentle on a small server; growth is quick from here."""
MOST = 4096
"""No engine batches more; beyond it requests would only wait there instead of here."""
STEP = 8
GAIN = 1.05
"""A larger window must answer so much faster to be worth its memory; below this is noise."""
FORGET = 0.98
"""The best rate fades by this each round, so that a window tries again now and then."""


@dataclass(slots=True)
class Window:
    """The window of one endpoint. The caller counts `in_flight` through `enter` and `leave`."""

    size: float = START
    fixed: bool = False
    in_flight: int = 0
    crowded: bool = False
    """Whether it was full since the last decision: a window that nobody fills has no reason to grow."""
    gauged: bool = False
    _steep: bool = True
    _grown: float = 0.0
    """By how much it last grew, to be taken back should it bring nothing."""
    _best: float = 0.0
    _tokens: int = 0
    _answers: int = 0
    _since: float = 0.0
    _cut_at: float = -1.0

    @property
    def limit(self) -> int:
        return max(1, int(self.size))

    @property
    def full(self) -> bool:
        return self.in_flight >= self.limit

    def enter(self, now: float) -> None:
        if self.in_flight == 0:
            self._new_round(now)
        self.in_flight += 1
        self.crowded = self.crowded or self.full

    def leave(self) -> None:
        self.in_flight -= 1

    def answered(self, tokens: int, now: float) -> None:
        """Count an answer; a round is over when a whole window of them has come."""
        self._tokens += tokens
        self._answers += 1
        if self._answers < self.limit:
            return
        rate = self._tokens / max(now - self._since, 1e-9)
        if not self.gauged:
            self._grow(better=rate >= GAIN * self._best)
        self._best = max(rate, FORGET * self._best)
        self._new_round(now)

    def queue_seen(self, waiting: float) -> None:
        """Learn how many requests wait inside the server, which knows best."""
        self.gauged = True
        self._grow(better=waiting == 0)
        self._grown = 0.0
        self.crowded = self.full

    def pushed_back(self, sent: float, now: float) -> None:
        """Halve, unless the request was sent before the last halving and so says nothing new."""
        if self.fixed or sent < self._cut_at:
            return
        self.size = max(1.0, self.size / 2)
        self._steep = False
        self._grown = 0.0
        self._best /= 2
        self._cut_at = now
        self._new_round(now)

    def _grow(self, *, better: bool) -> None:
        if self.fixed or not self.crowded:
            return
        before = self.size
        if better:
            self.size = min(MOST, self.size * 2 if self._steep else self.size + STEP)
        else:
            self._steep = False
            self.size = max(1.0, self.size - self._grown)
        self._grown = max(0.0, self.size - before)

    def _new_round(self, now: float) -> None:
        self._tokens = self._answers = 0
        self._since = now
        self.crowded = self.full
