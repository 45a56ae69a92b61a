"""What a Dask worker does for a spread build: it keeps one shard a process of its own, watches it, and tells how far it is.

    driver ──submit──▶ run_shard (a thread of the worker) ──▶ python -m tracemill.pipelines.scale.worker_shard (the shard, its engine)
    driver ──pulse, every second, on every worker──▶ progress of its shards; no pulse for a minute: nobody waits, so they drain

The shard's standard input is a pipe that the worker holds: when the worker ends, however it ends, the shard ends at once.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracemill.pipelines.scale.devices import devices
from tracemill.pipelines.scale.shard_work import Shard

LEASE = 60.0
"""Seconds without a pulse of the driver after which a shard drains: its driver is gone."""
PATIENCE = 60.0
"""Seconds that a shard waits for its lock, which a killed worker's shard may still hold for a moment."""


@dataclass(frozen=True, slots=True)
class Job:
    """One shard of one run, as a task carries it."""

    run: str
    name: str
    recipe: str
    """As TOML, all paths absolute."""
    store: str
    shard: str
    gpus_each: int = 0
    """GPUs that a shard's engine takes; where the workers are the driver's own, each gets its share. 0: leave that alone."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a shard's process ended."""

    shard: str
    code: int
    said: dict[str, Any]
    """The JSON on its standard output."""
    last_words: str
    worker: str
    host: str


@dataclass
class _Running:
    process: "subprocess.Popen[str]"
    progress: Path
    shard: str
    signals: int = 0


@dataclass
class _Here:
    """What this worker process does, by run."""

    running: dict[tuple[str, str], _Running] = field(default_factory=dict)
    pulses: dict[str, float] = field(default_factory=dict)
    stops: dict[str, int] = field(default_factory=dict)


_here = _Here()


def look(store: str) -> dict[str, Any]:
    """What the driver has to know of a worker before it gives it anything."""
    from tracemill.pipelines.plan import code_hash
    from tracemill.synth.backends.vllm.guard import machine

    return {"host": socket.gethostname(), "machine": machine().split()[0], "code": code_hash(), "store": _inode(store)}


def _inode(path: str) -> int | None:
    with contextlib.suppress(OSError):
        return Path(path).stat().st_ino
    return None


def pulse(run: str, stop: int) -> list[dict[str, Any]]:
    """The driver lives; how far are its shards here? `stop` 1 lets them drain, 2 lets go of what is in flight."""
    _here.pulses[run] = time.monotonic()
    _here.stops[run] = stop
    told = []
    for (of, _), shard in list(_here.running.items()):
        if of != run:
            continue
        _signal(shard, stop)
        with contextlib.suppress(OSError, ValueError):  # not begun yet
            told.append({"shard": shard.shard, **json.loads(shard.progress.read_text(encoding="utf-8"))})
    return told


def _signal(shard: _Running, stop: int) -> None:
    while shard.signals < stop:
        shard.signals += 1
        shard.process.send_signal(signal.SIGTERM)


def run_shard(job: Job) -> Ended:
    """Run a shard to its end, in the thread of a task; its errors are in what comes back, for they are the driver's to weigh."""
    from distributed import get_worker

    worker = get_worker()
    key = (job.run, job.shard)
    place = Shard.parse(job.shard).folder(Path(job.store) / ".work" / job.name)
    recipe, log = place / "recipe.toml", place / "shard.log"
    if _here.stops.get(job.run, 0):
        return Ended(job.shard, -signal.SIGTERM, {}, "not begun", worker.address, socket.gethostname())
    recipe.write_text(job.recipe, encoding="utf-8")
    command = [sys.executable, "-P", "-m", "tracemill.pipelines.scale.worker_shard", str(recipe), job.store, job.shard]
    (place / "progress.json").unlink(missing_ok=True)
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=_environment(job, worker.name),
            start_new_session=True,
        )
    shard = _here.running[key] = _Running(process, place / "progress.json", job.shard)
    _here.pulses.setdefault(job.run, time.monotonic())
    try:
        while process.poll() is None:
            _signal(shard, _here.stops.get(job.run, 0))
            if time.monotonic() - _here.pulses[job.run] > LEASE:
                _signal(shard, 1)
            if worker.status.name not in ("init", "running", "paused"):
                process.kill()  # this worker ends, and who answers for the shard next is not known here
            time.sleep(0.1)
        out = process.stdout.read() if process.stdout else ""
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        del _here.running[key]
    words = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
    return Ended(job.shard, process.returncode, _json(out), "\n".join(words), worker.address, socket.gethostname())


def _json(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, IndexError):
        said = json.loads(text.strip().splitlines()[-1])
        return said if isinstance(said, dict) else {}
    return {}


def _environment(job: Job, worker: object) -> dict[str, str]:
    """The worker's own, with its share of the GPUs where it is the driver's child and so one of several on this machine."""
    environment = dict(os.environ)
    if job.gpus_each and isinstance(worker, int):
        first = worker * job.gpus_each
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices()[first : first + job.gpus_each])
    return environment


def _follow_the_worker() -> None:
    """End at once, as by kill -9, when the worker that holds the other end of standard input has ended."""
    while os.read(0, 1024):
        pass
    os._exit(1)


def main() -> None:
    """The shard's process: RECIPE STORE i/N, as `tracemill build --shard --json`, for as long as its worker lives."""
    from tracemill.pipelines.commands.shards import build_one

    threading.Thread(target=_follow_the_worker, name="worker", daemon=True).start()
    recipe, store, shard = sys.argv[1:4]
    build_one(recipe, Path(store), None, shard, as_json=True, quiet=False, patience=PATIENCE)


if __name__ == "__main__":
    import typer

    try:
        main()
    except typer.Exit as end:
        sys.exit(end.exit_code)
