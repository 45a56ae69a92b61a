"""`tracemill build RECIPE --workers N`: shards of a build on the workers of a Dask cluster, gathered into one version.

    problems ──N shards──▶ workers: a shard each, as a process with an engine of its own ──▶ journals ──gather──▶ version

There are several shards for each worker, so that one who is slow or lost holds up little. Workers decide nothing: a shard is
`build_shard`, the version is `gather`, and which worker did what is in no key and no row.
"""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracemill.pipelines.build import Built, read_problems
from tracemill.pipelines.plan import resolve
from tracemill.pipelines.recipes.toml import to_toml
from tracemill.pipelines.running.brake import Brake
from tracemill.pipelines.running.progress import Report, span
from tracemill.pipelines.running.spool import Spool
from tracemill.pipelines.running.tally import Tally
from tracemill.pipelines.scale.cluster import cluster
from tracemill.pipelines.scale.devices import devices, gpus_of
from tracemill.pipelines.scale.shard_work import Shard, alone_with_problems
from tracemill.pipelines.scale.shards import check_shards, gather
from tracemill.pipelines.scale.worker_progress import add_up, stragglers
from tracemill.pipelines.scale.worker_shard import Ended, Job, look, pulse, run_shard
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import (
    DiskFull,
    EngineLost,
    Interrupted,
    LawBroken,
    LockHeld,
    RecipeError,
    TracemillError,
    WorkersLost,
)
from tracemill.schemas.recipe import Recipe
from tracemill.synth.workshop import Meter

if TYPE_CHECKING:
    from distributed import Client, Future

SHARDS_EACH = (4, 16)
"""Shards for a worker, in a small build and in a large one: so much of a worker's time a straggler costs at most."""
LARGE, SMALLEST = 10_000, 25
"""Problems of a shard: more are cut into further shards, fewer are not worth a process that takes seconds to start."""
ATTEMPTS = 5
"""How often a shard is begun whose process, or whose worker, ends for no reason of the build's."""
ALONE = 600.0
"""Seconds without any worker after which a run ends: a scheduler of jobs may bring others until then."""
STRIKES = 2
"""Engines that a worker may lose in a row before it gets no further shard."""


def spread(
    recipe: Recipe,
    store: Store,
    *,
    workers: int = 0,
    scheduler: str | None = None,
    report: Report | None = None,
    called: str | None = None,
    brake: Brake | None = None,
) -> Built:
    """Build on `workers` processes of this machine, or on the workers of a Dask scheduler; the version is that of one process.

    Raises what `build` raises, with the shard and the worker it happened on; WorkersLost where scheduler or workers are gone.
    """
    report = report or Report()
    plan = resolve(recipe, runtime=store.engines_folder, vectors=store.vectors_folder)
    check_shards(recipe)
    work = store.work_folder(recipe.name)
    with _the_only_driver(work, recipe.name):
        with alone_with_problems(work), Spool(work / "spool.sqlite") as spool:
            read_problems(plan, store, spool, report)
            total = spool.count_problems()
        report.step("starting workers" if scheduler is None else f"joining {scheduler}")
        with cluster(workers, scheduler) as client:
            driver = Driver(recipe, store, client, total, report, owned=scheduler is None)
            with brake.on(driver.stop) if brake is not None else contextlib.nullcontext():
                driver.run()
            built = gather(recipe, store, called=called, report=report, client=client, brake=brake)
    built.tally.meter = driver.meter_of(built.tally.meter)
    return built


def how_many(workers: int, problems: int) -> int:
    """Shards for so many workers and problems."""
    few, many = (each * workers for each in SHARDS_EACH)
    return max(workers, min(problems // SMALLEST, max(few, min(many, problems // LARGE))))


@contextmanager
def _the_only_driver(work: Path, name: str) -> Iterator[None]:
    with (work / "driver.lock").open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockHeld(f"another process spreads {name!r} over workers in this store; wait for it") from None
        yield


class Driver:
    """Gives shards to workers until all are done, and tells how far they are."""

    def __init__(
        self, recipe: Recipe, store: Store, client: Client, total: int, report: Report, *, owned: bool
    ) -> None:
        self._client, self._report, self._total = client, report, total
        self._run = secrets.token_hex(6)
        each = gpus_of(recipe)
        nodes = client.run(look, str(store.root))
        self._check_workers(recipe, nodes, store, each if owned else 0)
        self._gpus = {"GPU": each or 1} if any(_resources(client, node).get("GPU") for node in nodes) else {}
        count = how_many(len(nodes), total)
        text = to_toml(recipe.model_dump(mode="json", exclude_unset=True))
        shared = each if owned and devices() else 0
        self._jobs = {
            shard: Job(self._run, recipe.name, text, str(store.root), shard, shared)
            for shard in (str(Shard(count, number)) for number in range(count))
        }
        self._futures: dict[str, Future] = {}
        self._done: dict[str, Mapping[str, Any]] = {}
        self._running: dict[str, Mapping[str, Any]] = {}
        self._attempts: Counter[str] = Counter()
        self._strikes: dict[str, int] = defaultdict(int)
        self._out: dict[str, str] = {}
        """Workers that get nothing any more, and why."""
        self._fatal: TracemillError | None = None
        self._signals: list[int] = []
        self._tally = Tally(Meter(), total=total)
        self._seen = time.monotonic()

    def run(self) -> None:
        """Return when every shard is done; raise what ended the run otherwise, when all others have drained."""
        with self._drained_by_signals():
            for shard in self._jobs:
                self._submit(shard)
            while self._futures:
                self._beat()
                for shard, future in list(self._futures.items()):
                    if future.status in ("finished", "error", "cancelled", "lost"):
                        del self._futures[shard]
                        self._weigh(shard, future)
                self._show()
                time.sleep(0.3)
        if self._signals:
            raise Interrupted(
                f"stopped by a signal with {len(self._done)} of {len(self._jobs)} shards done; all samples drawn are kept: run "
                "the same command again to go on",
                signal=self._signals[0],
            )
        if self._fatal is not None:
            raise self._fatal

    def meter_of(self, gathered: Meter) -> Meter:
        """What all shards drew, and what they and the gathering took from journals."""
        new = sum(int(facts["samples_new"]) for facts in self._done.values())
        tokens = sum(int(facts["tokens_new"]) for facts in self._done.values())
        return Meter(new, gathered.samples_replayed - new, tokens, gathered.tokens_replayed - tokens)

    # ---- what a shard's end means

    def _weigh(self, shard: str, future: Future) -> None:
        if future.status != "finished":
            self._try_again(shard, f"its worker was lost ({future.status}: {_why(future)})")
            return
        ended: Ended = future.result()
        where = f"shard {shard} on {ended.host} ({ended.worker})"
        why = str(ended.said.get("error") or ended.last_words or "it said nothing")
        if ended.code == 0:
            self._done[shard] = ended.said
            self._strikes[ended.worker] = 0
        elif self._stopping and ended.code in (130, 143, -15):
            pass  # drained, as it was told
        elif ended.code in (3, 6):
            kind = EngineLost if ended.code == 3 else DiskFull
            self._strike(shard, ended.worker, kind(f"{where}: {why}"))
        elif ended.code in (2, 4, 5):
            self._end(RecipeError(f"{where}: {why}") if ended.code == 2 else LawBroken(f"{where}: {why}"))
        else:
            self._try_again(shard, f"{where} ended with {ended.code}: {why}")

    def _strike(self, shard: str, worker: str, error: TracemillError) -> None:
        """A worker without an engine, or without room on its disk, would take one shard after another and do none."""
        self._strikes[worker] += 1
        if isinstance(error, DiskFull) or self._strikes[worker] >= STRIKES:
            self._out[worker] = str(error)
        left = [node for node in self._workers() if node not in self._out]
        if not left or self._attempts[shard] >= ATTEMPTS:
            self._end(error)
            return
        self._submit(shard, [node for node in left if node != worker] or left)
        if worker in self._out:
            with contextlib.suppress(OSError, TimeoutError):
                self._client.retire_workers([worker])

    def _try_again(self, shard: str, why: str) -> None:
        if self._stopping:
            return
        if self._attempts[shard] >= ATTEMPTS:
            self._end(
                WorkersLost(f"shard {shard} was begun {ATTEMPTS} times and never ended: {why}; run again to go on")
            )
        else:
            self._submit(shard)

    def _end(self, error: TracemillError) -> None:
        """Stop with this; what the other shards have in flight may finish."""
        self._fatal = self._fatal or error
        self._cancel_waiting()

    @property
    def _stopping(self) -> bool:
        return self._fatal is not None or bool(self._signals)

    # ---- Dask

    def _submit(self, shard: str, workers: list[str] | None = None) -> None:
        self._attempts[shard] += 1
        self._futures[shard] = self._client.submit(
            run_shard,
            self._jobs[shard],
            key=f"tracemill-{self._run}-{shard}-{self._attempts[shard]}",
            workers=workers,
            allow_other_workers=workers is not None,  # those named may be gone when its turn comes
            resources=self._gpus,
            pure=False,
        )

    def _beat(self) -> None:
        """Ask every worker how far it is, and tell it that somebody waits, or that it is to stop."""
        if self._client.status != "running":
            raise WorkersLost(
                "the Dask scheduler is gone; the shards end with its workers, and what was sampled is kept in their journals: run "
                "the same command again to go on"
            )
        if self._workers():
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > ALONE:
            raise WorkersLost(
                f"there has been no worker for {span(ALONE)}; what was sampled is kept in their journals: bring some back and run the "
                "same command again"
            )
        stop = min(2, len(self._signals)) or int(self._fatal is not None)
        if stop:
            self._cancel_waiting()
        try:
            told = self._client.run(pulse, self._run, stop, on_error="ignore")
        except (OSError, TimeoutError, ValueError):  # a worker or the scheduler went just now; the next beat tells
            return
        self._running = {
            facts["shard"]: {**facts, "worker": worker} for worker, some in told.items() for facts in some or ()
        }

    def _cancel_waiting(self) -> None:
        """Take back the shards that no worker has begun."""
        begun = {key for keys in self._client.processing().values() for key in keys}
        busy = {shard for shard in self._futures if shard in self._running}
        for shard, future in list(self._futures.items()):
            if shard not in busy and future.key not in begun and future.status == "pending":
                future.cancel()
                del self._futures[shard]

    def _workers(self) -> list[str]:
        return list(self._client.scheduler_info(n_workers=-1)["workers"])

    def _check_workers(self, recipe: Recipe, nodes: Mapping[str, Any], store: Store, gpus_each: int) -> None:
        mine = look(str(store.root))
        for worker, node in nodes.items():
            if node["code"] != mine["code"]:
                raise RecipeError(
                    f"the worker {worker} on {node['host']} runs another tracemill than this; install the same one"
                )
        apart = [
            node for node in nodes.values() if (node["machine"], node["store"]) != (mine["machine"], mine["store"])
        ]
        if apart and not any(table.segments for table in recipe.engines.values()):
            raise RecipeError(
                f"{len(apart)} workers, such as one on {apart[0]['host']}, do not share the disk of {store.root}: say where journals "
                'meet, such as [engine] segments = "s3://bucket/folder"'
            )
        if gpus_each and (there := len(devices())) and gpus_each * len(nodes) > there:
            raise RecipeError(
                f"{len(nodes)} workers of {gpus_each} GPUs each need more than the {there} of this machine"
            )

    # ---- people

    def _show(self) -> None:
        add_up(self._tally, self._total, self._done, self._running)
        self._tally.stopped = (
            f"signal {self._signals[0]}" if self._signals else str(self._fatal) if self._fatal else None
        )
        self._tally.notes = [
            f"{len(self._done)} of {len(self._jobs)} shards are done, {len(self._running)} run",
            *(f"gets no more: {why}" for why in self._out.values()),
            *stragglers(self._tally),
        ]
        self._report.update(self._tally)

    @contextmanager
    def _drained_by_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM let the shards drain; asked twice, they let go of what is in flight."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, lambda number, _: self.stop(number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self, number: int) -> None:
        """Let all shards drain, as for this signal; a second time, let go of what is in flight."""
        self._signals.append(number)


def _why(future: Future) -> str:
    return str(future.exception()) if future.status == "error" else "cancelled"


def _resources(client: Client, worker: str) -> Mapping[str, float]:
    facts: Mapping[str, Any] = client.scheduler_info(n_workers=-1)["workers"].get(worker, {})
    return dict(facts.get("resources", {}))
