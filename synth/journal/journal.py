"""All that a model ever said and what it was asked, and every verdict, by the hash of the request. What is here is never asked again.

    put ──▶ queue ──▶ writer thread: one transaction for all that waits ──▶ own segment      <store>/.journal/*.sqlite
    get ──▶ queue ──▶ reader thread: one SELECT for all that waits ◀── every segment

A store has one journal. Each process appends to a segment of its own; everybody reads the union of the segments that were
there when they opened it, and their own. A `put` that has returned survives kill -9 and loss of power. Two different
answers under one key: one of them, always the same one, is the answer (segment.py says which).
"""

import asyncio
import copy
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from tracemill.schemas.errors import TracemillError
from tracemill.schemas.request import Completion, Request, Reward, TokenScores
from tracemill.synth.journal.asked import take_apart
from tracemill.synth.journal.codec import Value, decode, encode
from tracemill.synth.journal.folder import Folder
from tracemill.synth.journal.history import History
from tracemill.synth.journal.segment import AT_ONCE, Entry, payload_of

QUEUED_BYTES = 64 << 20
"""What may wait to be written, and at most so much goes into one transaction; further writers wait for room."""
KEYS_AT_ONCE = 2 * AT_ONCE

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class JournalStats:
    """`entries` counts a key once for each segment that has it; `bytes` is what the segments take on disk."""

    entries: int
    bytes: int
    segments: int


class Journal:
    """Completions, scores and verdicts by key: `get` and `put` for the event loop, `read` for everybody else."""

    def __init__(self, folder: Path | None = None, *, mark: str = "", housekeeping: bool = True) -> None:
        """Open the journal in `folder`, or one in memory. RecipeError: not writable, not local, damaged, too new.

        `mark` ends the names of the segments that this process writes; `housekeeping=False` leaves the set of segments as it
        is, for whoever looks and does not build.
        """
        self._folder = Folder(folder, mark, housekeeping=housekeeping)
        self._closed = False
        self._lookups = _Batcher("journal-reader", self._answer, KEYS_AT_ONCE)
        self._writes = _Batcher("journal-writer", self._write, QUEUED_BYTES)

    async def get(self, keys: Sequence[str]) -> dict[str, Value]:
        """Those of the keys that are in the journal. Lookups that arrive while one runs are answered together."""
        return await self._lookups.submit(keys, len(keys)) if keys else {}

    async def put(self, key: str, value: Value, request: Request | None = None) -> None:
        """Returns once the value is on disk, with the request that it answers. A cancelled `put` may still be written, never half."""
        await self._writes.submit((_key(key), value, request), _weight(value) + _size(request))

    async def seal(self) -> None:
        """Returns once all that was put is in segments that never change again."""
        await self._writes.submit(None, 0)

    def tidy(self) -> None:
        """Merge sealed segments in the background, where there are many."""
        self._folder.tidy()

    def read(self, keys: Iterable[str]) -> Iterator[tuple[str, Value]]:
        """Those of the keys that are in the journal, in their order, a batch in memory at a time."""
        keys = iter(keys)
        while some := list(islice(keys, AT_ONCE)):
            self._refuse_if_closed()
            stored = self._folder.lookup(list({_key(key) for key in some}))
            for key in some:
                if entry := stored.get(_key(key)):
                    yield key, decode(payload_of(entry), key)

    def requests(self, keys: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Those of the keys whose request is kept, with all its fields as JSON has them, a batch in memory at a time.

        Fields are given only where they hash to their key; entries of an older format have none.
        """
        keys = iter(keys)
        while some := list(islice(keys, AT_ONCE)):
            self._refuse_if_closed()
            found = self._folder.asked_for(list({_key(key) for key in some}))
            yield from ((key, found[_key(key)]) for key in some if _key(key) in found)

    def history(self) -> History:
        """All that was asked, by problem; for a journal without housekeeping that nobody writes to through this object."""
        self._refuse_if_closed()
        return History(self._folder)

    def __len__(self) -> int:
        return self.stats().entries

    def stats(self) -> JournalStats:
        self._refuse_if_closed()
        return JournalStats(*self._folder.measure())

    def close(self) -> None:
        """Finish what is queued, seal the own segment, join the threads; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._writes.close()
        self._lookups.close()
        self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the journal is closed")

    def _answer(self, lookups: Sequence[Sequence[str]]) -> "list[dict[str, Value] | Exception]":
        wanted = {key: _key(key) for keys in lookups for key in keys}
        stored = self._folder.lookup(list(dict.fromkeys(wanted.values())))
        values = {key: decode(payload_of(stored[binary]), key) for key, binary in wanted.items() if binary in stored}
        return [{key: values[key] for key in keys if key in values} for keys in lookups]

    def _write(self, entries: Sequence[tuple[bytes, Value, Request | None] | None]) -> list[Exception | None]:
        """Append the entries; None among them asks that the segment be sealed behind them."""
        answers: list[Exception | None] = []
        encoded: list[Entry] = []
        for entry in entries:
            if entry is None:
                answers.append(None)
                continue
            key, value, request = entry
            try:
                encoded.append((key, encode(value), None if request is None else take_apart(request)))
                answers.append(None)
            except (TypeError, ValueError, OverflowError) as error:  # this value is at fault, its neighbours are not
                answers.append(error)
        if encoded:
            self._folder.append(encoded)
        if None in entries:
            self._folder.seal()
        return answers


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Item, Answer]):
    item: Item
    weight: int
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Answer]"


class _Batcher(Generic[Item, Answer]):
    """A thread that handles everything that queued up while it was busy in one go, in order of arrival."""

    def __init__(self, name: str, handle: Callable[[list[Item]], Sequence[Answer | Exception]], limit: int) -> None:
        """`limit` bounds the weight that is queued, and that of one batch unless a single item is heavier."""
        self._name = name
        self._handle = handle
        self._limit = limit
        self._changed = threading.Condition()
        self._queue: deque[_Waiting[Item, Answer]] = deque()
        self._queued = 0
        self._blocked: deque[_Waiting[None, None]] = deque()
        self._closed = False
        self._thread: threading.Thread | None = None

    async def submit(self, item: Item, weight: int) -> Answer:
        """The answer to this item, or the exception that stands for it."""
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Answer] = _Waiting(item, weight, loop, loop.create_future())
        while room := self._enter(waiting):
            try:
                await room
            except asyncio.CancelledError:
                self._let_in()  # somebody else may have the room that was meant for us
                raise
        return await waiting.future

    def _enter(self, waiting: _Waiting[Item, Answer]) -> "asyncio.Future[None] | None":
        """Queue it, or say what to wait for before trying again."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the journal is closed")
            if self._queue and self._queued + waiting.weight > self._limit:
                room: asyncio.Future[None] = waiting.loop.create_future()
                self._blocked.append(_Waiting(None, waiting.weight, waiting.loop, room))
                return room
            self._queue.append(waiting)
            self._queued += waiting.weight
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return None

    def close(self) -> None:
        """Handle what is queued, then end the thread. Whoever still waits for room is refused."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._let_in()

    def _run(self) -> None:
        while batch := self._next():
            self._let_in()
            try:
                answers = self._handle([waiting.item for waiting in batch])
            except Exception as error:  # noqa: BLE001 - raised in every waiter, who would else wait for ever
                answers = [error] * len(batch)
            _deliver(zip(batch, answers, strict=True))

    def _next(self) -> list[_Waiting[Item, Answer]]:
        """All that is queued, up to the limit; nothing once it is closed and empty."""
        with self._changed:
            while not self._queue and not self._closed:
                self._changed.wait()
            batch, self._queue, self._queued = list(self._queue), deque(), 0
            return batch

    def _let_in(self) -> None:
        """Wake as many of those who wait for room as there is room for, longest waiting first; all once closed."""
        with self._changed:
            woken = []
            free = self._limit - self._queued
            while self._blocked and (self._closed or free > 0):
                waiting = self._blocked.popleft()
                if not waiting.future.cancelled():
                    woken.append(waiting)
                    free -= waiting.weight
        _deliver([(waiting, None) for waiting in woken])


def _deliver(answers: "Iterable[tuple[_Waiting[Any, Any], Any]]") -> None:
    """Hand over the answers, with one wake-up for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
    for waiting, answer in answers:
        by_loop.setdefault(waiting.loop, []).append((waiting.future, answer))
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, settled)
        except RuntimeError:  # the loop is closed, so nobody waits any more
            continue


def _settle(answers: "Iterable[tuple[asyncio.Future[Any], Any]]") -> None:
    for future, answer in answers:
        if future.done():  # cancelled
            continue
        if isinstance(answer, TracemillError):
            future.set_exception(copy.copy(answer))  # one each, or the tracebacks of all pile up on it
        elif isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def _key(key: str) -> bytes:
    if len(key) != 64:
        raise ValueError(f"a key is 64 hex digits, not {key!r}")
    return bytes.fromhex(key)


def _weight(value: Value) -> int:
    """Roughly its bytes in memory."""
    if isinstance(value, Completion):
        ids = 4 * len(value.token_ids) if value.token_ids is not None else 0
        return len(value.text) + ids + (_weight(value.scores) if value.scores is not None else 0)
    if isinstance(value, TokenScores):
        return 8 * len(value.token_ids) + 100 * sum(map(len, value.top or ()))
    if isinstance(value, Reward):
        return 200 + 32 * sum(map(len, value.values))
    return 200


def _size(request: Request | None) -> int:
    """Roughly the bytes of what it shows and forces."""
    if request is None:
        return 0
    turns = [turn["content"] for turn in request.prompt if isinstance(turn, Mapping)]
    return 6 * (len(request.prompt) + sum(map(len, turns)) + len(request.prefix or ()))
