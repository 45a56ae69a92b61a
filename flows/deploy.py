"""`tracemill schedule`: the flow `nightly` with a recipe, as a deployment on a process work pool.

A deployment names the installed package and absolute paths, so a worker may be started in any folder. Making it again changes it.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from httpx import HTTPError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import WorkerStatus
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)
from prefect.utilities.callables import parameter_schema
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from tracemill.flows.nightly import nightly
from tracemill.schemas.errors import RecipeError

ENTRYPOINT = "tracemill.flows.nightly.nightly"
START = "start one (`prefect server start`) and name it: export PREFECT_API_URL=http://127.0.0.1:4200/api"
ALLOWED = {
    "cron": 'write five fields, minute hour day month weekday, such as "0 2 * * *", or @daily',
    "timezone": "write a name such as Europe/Berlin or UTC",
}


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A deployment as it stands on the server."""

    name: str
    """FLOW/NAME, as `prefect deployment run` takes it."""
    server: str
    pool_made: bool
    workers: int
    """Workers of its pool that have been heard of lately."""


def timetable(cron: str, timezone: str) -> CronSchedule:
    """When to run; RecipeError for what is no cron expression, or no time zone."""
    try:
        return CronSchedule(cron=cron, timezone=timezone)
    except ValidationError as error:
        [first, *_] = error.errors()
        key = str(first["loc"][0])
        said = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"--{key} {first['input']!r}: {said}; {ALLOWED[key]}") from None


def deploy(
    name: str, when: CronSchedule, parameters: Mapping[str, Any], *, pool: str, paused: bool, description: str
) -> Scheduled:
    """Make or change the deployment `nightly/<name>`, and its pool where that is missing; RecipeError where no server answers."""
    with server() as (client, url):
        pool_made = _pool_there_or_made(client, pool)
        client.create_deployment(
            client.create_flow(nightly),
            name,
            schedules=[DeploymentScheduleCreate(schedule=when, active=not paused)],
            parameters=dict(parameters),
            parameter_openapi_schema=parameter_schema(nightly).model_dump(exclude_unset=True),
            enforce_parameter_schema=True,
            work_pool_name=pool,
            entrypoint=ENTRYPOINT,
            pull_steps=[],
            paused=False,
            description=description,
            tags=["tracemill"],
        )
        workers = client.read_workers_for_work_pool(pool)
        online = sum(worker.status == WorkerStatus.ONLINE for worker in workers)
        return Scheduled(f"nightly/{name}", url, pool_made, online)


def remove(name: str) -> str:
    """Take the deployment `nightly/<name>` away; RecipeError where there is none."""
    with server() as (client, url):
        try:
            client.delete_deployment(client.read_deployment_by_name(f"nightly/{name}").id)
        except ObjectNotFound:
            raise RecipeError(
                f"{url} has no deployment nightly/{name}; `prefect deployment ls` shows what there is"
            ) from None
        return url


@contextmanager
def server() -> Iterator[tuple[SyncPrefectClient, str]]:
    """A client of the server that PREFECT_API_URL or Prefect's profile names; RecipeError, within seconds, where none answers."""
    url = PREFECT_API_URL.value()
    if not url:
        raise RecipeError(f"no Prefect server is named; {START}")
    quick = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: 10.0}
    with temporary_settings(quick), get_client(sync_client=True) as probe:
        if (error := probe.api_healthcheck()) is not None:
            raise RecipeError(f"no Prefect server answers at {url} ({type(error).__name__}: {error}); {START}")
        _check_version(probe, url)
    with get_client(sync_client=True) as client:
        try:
            yield client, url
        except HTTPError as error:
            raise RecipeError(f"the Prefect server at {url} refused: {error}") from error


def _check_version(client: SyncPrefectClient, url: str) -> None:
    """A server gives its page for any address, with 200 for what is its health and what is not; its version it gives as JSON."""
    try:
        client.api_version()
    except (ValueError, HTTPError):
        raise RecipeError(
            f"what answers at {url} is not the API of a Prefect server; its address ends in /api, such as http://127.0.0.1:4200/api"
        ) from None


def _pool_there_or_made(client: SyncPrefectClient, name: str) -> bool:
    """Whether the pool had to be made. One of another type is refused: its workers do not run where the store is."""
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
        except ObjectAlreadyExists:  # somebody else was faster
            return False
        return True
    if found.type != "process":
        raise RecipeError(
            f"the work pool {name!r} is of type {found.type!r}; name one of type 'process', or a new one: --pool NAME"
        )
    return False
