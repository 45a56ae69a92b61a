"""The thread that the model runs in: takes calls, shares forward passes out among them, and says how each ended.

Each adapter, and the base model, has a lane: a batch of its own, because in a mixed one peft reads the rows of each
adapter on their own anyhow, in other matrix sizes for other mates. Lanes take turns of a stride; at the end of each
stride rows that are done make room for those that wait. So no row waits for a longer one to end.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tracemill.schemas.request import Adapter, Completion, TokenScores
from tracemill.synth.backends.hf.batch import Batch
from tracemill.synth.backends.hf.model import Loaded
from tracemill.synth.backends.hf.row import Row, Settings
from tracemill.synth.backends.hf.score import Given, most_rows, scores


@dataclass(eq=False)
class Call:
    """Somebody waits for this. `answer` may be called from any thread."""

    adapter: Adapter | None
    task: Row | Given
    answer: Callable[[Completion | TokenScores | Exception], None]
    dropped: bool = False

    def drop(self) -> None:
        """Nobody waits any more."""
        self.dropped = True
        if isinstance(self.task, Row):
            self.task.over = True


class TooLarge(Exception):
    """A request does not fit in memory even alone."""


@dataclass
class Lane:
    """What runs with one adapter, and what waits for it."""

    adapter: Adapter | None
    batch: Batch
    inside: dict[Row, Call] = field(default_factory=dict)
    waiting: deque[Call] = field(default_factory=deque)
    given: deque[Call] = field(default_factory=deque)

    @property
    def busy(self) -> bool:
        return bool(self.inside or self.waiting or self.given)


class Worker:
    """Runs one model. `submit` calls from any thread; `close` ends the thread after the step it is in."""

    def __init__(self, loaded: Loaded, lost: Callable[[str], None]) -> None:
        """`lost` hears, from the worker's thread, that nothing will be answered any more, and why."""
        self._loaded, self._lost = loaded, lost
        self.rows = loaded.batch
        """Rows that a lane may have: fewer once memory ran out."""
        self._together = True
        """Whether lanes may have rows at the same time: not once memory ran out."""
        self._lanes = {adapter: Lane(adapter, Batch(loaded)) for adapter in (None, *loaded.names)}
        self._reading: list[Call] = []
        """What is being scored now."""
        self._arrived: deque[Call] = deque()
        self._bell = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tracemill-hf", daemon=True)

    def start(self) -> None:
        """Answer one small request to see that all of it works, then whatever comes."""
        self.warm_up()
        self._thread.start()

    def warm_up(self) -> None:
        import torch

        loaded = self._loaded
        for lane in self._lanes.values():
            row = Row([0, 0], Settings(), 2, loaded.ends, loaded.tokenizer, seed=0)
            with torch.inference_mode(), loaded.wearing(lane.adapter):
                lane.batch.settle([row])
                lane.batch.advance(lambda: False, lambda _: None)
                lane.batch.drop()

    def submit(self, call: Call) -> None:
        with self._bell:
            self._arrived.append(call)
            self._bell.notify()

    def close(self) -> None:
        with self._bell:
            self._closing = True
            self._bell.notify()
        if self._thread.is_alive():
            self._thread.join()

    # -- in the thread

    def _run(self) -> None:
        import torch

        try:
            with torch.inference_mode():
                while self._next():
                    for lane in self._turns():
                        self._turn(lane)
        except Exception as error:  # noqa: BLE001 - a broken device or a bug: whatever it was, nobody may wait for ever
            self._lost(f"{type(error).__name__}: {error}")

    def _next(self) -> bool:
        """Wait until there is something to do; False when there never will be."""
        with self._bell:
            while not (self._arrived or self._closing or any(lane.busy for lane in self._lanes.values())):
                self._bell.wait()
            while self._arrived:
                call = self._arrived.popleft()
                lane = self._lanes[call.adapter]
                (lane.waiting if isinstance(call.task, Row) else lane.given).append(call)
        return not self._closing

    def _turns(self) -> list[Lane]:
        busy = [lane for lane in self._lanes.values() if lane.busy]
        if self._together or len(busy) < 2:
            return busy
        running = [lane for lane in busy if lane.inside]
        return (running or busy)[:1]

    def _turn(self, lane: Lane) -> None:
        try:
            with self._loaded.wearing(lane.adapter):
                self._write(lane)
                self._read(lane)
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._make_room()

    def _write(self, lane: Lane) -> None:
        def finished(row: Row) -> None:
            lane.inside.pop(row).answer(row.completion())

        lane.inside = {row: call for row, call in lane.inside.items() if not row.over}
        lane.batch.settle(self._joining(lane))
        lane.batch.advance(lambda: self._closing, finished)

    def _joining(self, lane: Lane) -> list[Row]:
        """Who comes in now. They count as inside at once, so that a lack of memory finds them."""
        others = any(other.busy for other in self._lanes.values() if other is not lane)
        if lane.inside and others and not self._together:
            return []  # the others have waited for this lane to empty
        rows = []
        while lane.waiting and len(lane.inside) < self.rows:
            call = lane.waiting.popleft()
            if not call.dropped:
                assert isinstance(call.task, Row)  # noqa: S101 - so it was sorted
                lane.inside[call.task] = call
                rows.append(call.task)
        return rows

    def _read(self, lane: Lane) -> None:
        """Score the rows that wait and have the shape of the first."""
        alive = [call for call in lane.given if not call.dropped]
        lane.given = deque(alive)
        if not alive:
            return
        tasks: list[tuple[Call, Given]] = [(call, call.task) for call in alive if isinstance(call.task, Given)]
        together = [(call, task) for call, task in tasks if task.shape == tasks[0][1].shape]
        together = together[: min(self.rows, most_rows(self._loaded))]
        self._reading = [call for call, _ in together]
        results = scores(self._loaded, [task for _, task in together])
        self._reading = []
        for (call, _), found in zip(together, results, strict=True):
            lane.given.remove(call)
            call.answer(found)

    def _make_room(self) -> None:
        """Memory ran out: everybody begins anew, first in one lane at a time, then in half as many rows."""
        import torch

        running = [lane for lane in self._lanes.values() if lane.inside]
        held = [call for lane in running for call in lane.inside.values()] + self._reading
        for lane in running:
            lane.batch.drop()
            lane.waiting.extendleft(reversed(lane.inside.values()))
            lane.inside.clear()
        if len(held) > 1 and len(running) > 1 and self._together:
            self._together = False
        elif len(held) > 1 and self.rows > 1:
            self.rows = max(1, min(len(held), self.rows) // 2)
        else:
            guilty = (self._reading or held)[0]
            guilty.drop()
            guilty.answer(TooLarge())
        self._reading = []
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def out_of_memory(error: Exception) -> bool:
    """Whether a device, or the machine, had no memory left. The CPU's allocator has no error of its own."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
