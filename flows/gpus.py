"""Who may use the GPUs: a token of a global concurrency limit says when, a lock on this machine says which.

A limit counts the GPUs of all machines that share it, and its tokens come back by themselves a while after their holder is gone. Where
the server is gone tokens are lost to their holders, too; the lock, which the kernel keeps, then still gives each GPU to one build.
"""

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from httpx import HTTPError
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from tracemill.flows.logs import Logger, in_a_run
from tracemill.pipelines.scale.devices import devices
from tracemill.schemas.errors import RecipeError

LIMIT = "gpu"
LEASE = 120.0
"""Seconds after which the tokens of a flow that was killed are free again."""


@contextmanager
def token(limit: str, count: int, logger: Logger) -> Iterator[None]:
    """Hold tokens of a limit, one a GPU, and locks on as many GPUs of this machine, waiting for both; see the flow `build`.

    `count` 0, engines that start nothing here, is one token of a limit that is named.
    """
    gpus = devices() if count else []
    if limit == "none" or (limit == "auto" and not gpus):
        yield
        return
    if gpus and count > len(gpus):
        raise RecipeError(f"the engines of this recipe take {count} GPUs, and this machine shows {len(gpus)}: {gpus}")
    with ExitStack() as held:
        if in_a_run():
            held.enter_context(_tokens(LIMIT if limit == "auto" else limit, count or 1, len(gpus), logger))
        if gpus:
            held.enter_context(using(locked(gpus, count, logger, held)))
        yield


@contextmanager
def _tokens(limit: str, count: int, gpus: int, logger: Logger) -> Iterator[None]:
    """Tokens of a limit that is made where it is missing. A server that goes away meanwhile stops nothing."""
    _there_or_made(limit, count, max(gpus, count), logger)
    holding = concurrency(limit, occupy=count, strict=True, lease_duration=LEASE, raise_on_lease_renewal_failure=False)
    logger.info("waiting for %d of the concurrency limit %r", count, limit)
    holding.__enter__()
    logger.info("holding %d of the concurrency limit %r", count, limit)
    try:
        yield
    finally:
        try:
            holding.__exit__(None, None, None)
        except HTTPError as error:
            logger.warning(
                "the Prefect server did not take the tokens back (%s); they are free in %.0f s", error, LEASE
            )


def _there_or_made(name: str, count: int, gpus: int, logger: Logger) -> None:
    """A limit that is missing limits nothing, or with `strict` is an error; one that is too small is waited for without end."""
    with get_client(sync_client=True) as client:
        try:
            found = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            with suppress(ObjectAlreadyExists):  # another flow was faster
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=gpus))
            logger.warning(
                "made the concurrency limit %r of %d; where other machines share it, say how many GPUs there are in all: "
                "prefect global-concurrency-limit update %s --limit N",
                *(name, gpus, name),
            )
            return
    if found.active and found.limit < count:
        raise RecipeError(
            f"the engines of this recipe take {count} of the concurrency limit {name!r}, which is {found.limit}: "
            f"prefect global-concurrency-limit update {name} --limit N"
        )


def locked(
    gpus: Sequence[str], count: int, logger: Logger, held: ExitStack, *, folder: Path | None = None, every: float = 5.0
) -> list[str]:
    """Lock `count` of these GPUs against the other flows of this machine, waiting until so many are free; `held` lets go of them."""
    told = False
    while True:
        mine: list[str] = []
        with ExitStack() as tried:
            for gpu in gpus:
                if len(mine) < count and _lock(gpu, tried, folder or Path(tempfile.gettempdir())):
                    mine.append(gpu)
            if len(mine) == count:
                held.enter_context(tried.pop_all())
                return mine
        if not told:
            logger.info("waiting for %d of the GPUs %s, which other flows of this machine use", count, ", ".join(gpus))
            told = True
        time.sleep(every)


def _lock(gpu: str, held: ExitStack, folder: Path) -> bool:
    path = folder / f"tracemill-gpu-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}.lock"
    try:
        handle = os.open(path, os.O_RDONLY)  # another user's file may be locked, and not be written
    except FileNotFoundError:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    held.callback(os.close, handle)
    return True


@contextmanager
def using(gpus: Sequence[str]) -> Iterator[None]:
    """Show these GPUs and no others to engines that this process starts."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
