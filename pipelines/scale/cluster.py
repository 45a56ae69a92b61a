"""Several processes of one machine, or those of a Dask scheduler that is there: `with cluster(4) as client`.

Tasks bring paths and small facts; engines and shards of builds are plain subprocesses (workers.py), for Dask's own worker
processes are daemonic and may have no children of multiprocessing.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tracemill.schemas.errors import RecipeError

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 60.0
"""Seconds that a scheduler, and the first of its workers, have to answer."""


@contextmanager
def cluster(workers: int = 0, scheduler: str | None = None) -> Iterator[Client]:
    """A client of `workers` new processes of one thread each, or of the scheduler at an address such as tcp://host:8786.

    New processes listen on the loopback only, have no dashboard, and end with the block. At a scheduler, whoever is there
    when `workers` of them are, or a minute has passed, takes part; more may come later. Raises RecipeError where Dask is
    not installed, nobody answers at the address, or no worker comes.
    """
    _check_installed()
    if scheduler is None and workers < 1:
        raise RecipeError(
            f"--workers {workers}: give a number of processes, 1 or more, or the address of a --scheduler"
        )
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the driver tells what matters
    with _joined(scheduler, workers) if scheduler is not None else _started(workers) as client:
        yield client


@contextmanager
def _started(workers: int) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    # A worker that is killed takes its task along; the task is given to another as often as that may happen in days.
    patient = {"distributed.scheduler.allowed-failures": 20, "distributed.comm.timeouts.connect": "30s"}
    with (
        dask.config.set(patient),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            worker_dashboard_address=None,
            silence_logs=logging.CRITICAL,
            preload="tracemill.pipelines.scale.cluster",
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        client.wait_for_workers(workers, timeout=PATIENCE)
        yield client


@contextmanager
def _joined(scheduler: str, workers: int) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(scheduler, timeout=min(PATIENCE, 20.0), set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({error}); start one with `dask scheduler`, or leave "
            "the option out for processes of this machine"
        ) from None
    with client:
        try:
            client.wait_for_workers(max(1, workers), timeout=PATIENCE)
        except TimeoutError:
            if not client.scheduler_info()["workers"]:
                raise RecipeError(
                    f"--scheduler {scheduler}: it has no workers after {PATIENCE:.0f} s; start some with `dask worker {scheduler}`"
                ) from None
        yield client


def dask_setup(worker: Any) -> None:
    """Run by Dask in each new worker process: Ctrl-C is the driver's to answer, who lets the workers finish in order."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _check_installed() -> None:
    try:
        import distributed  # noqa: F401 - only whether it is there
    except ImportError:
        raise RecipeError("several workers need Dask: pip install 'tracemill[dask]'") from None
