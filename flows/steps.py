"""What the flows are made of: a task that makes a version and one that publishes it.

They take paths and names and give back what the command line prints as JSON; rows never pass through Prefect. Nothing is cached
by Prefect and no result is pickled: to run a task again is to run its build again, which the journal makes cheap.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from tracemill.flows.gpus import token
from tracemill.flows.logs import in_a_run, run_logger
from tracemill.flows.view import built_in_view
from tracemill.pipelines.build import Built, build
from tracemill.pipelines.hub import publish_to_hub
from tracemill.pipelines.publish import publish_to, published_lines
from tracemill.pipelines.recipes.shipped import read_recipe
from tracemill.pipelines.report.beside import with_report
from tracemill.pipelines.running.brake import Brake
from tracemill.pipelines.running.progress import Lines, ProgressFile, Report, Several
from tracemill.pipelines.scale.cluster import cluster
from tracemill.pipelines.scale.devices import gpus_of
from tracemill.pipelines.scale.workers import spread
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import EngineLost, HubLost, RecipeError, SegmentsLost, WorkersLost
from tracemill.schemas.recipe import Recipe

T = TypeVar("T")
WAITS = [60, 300, 900]
"""Seconds before an engine or a Hub that was lost is tried again, each time in the same flow run."""


def comes_back(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure may pass by itself: exit code 3. A wrong recipe or a broken promise waits for a person."""
    del task, run
    return isinstance(state.data, EngineLost | HubLost | SegmentsLost | WorkersLost)


LASTING: Mapping[str, Any] = {
    "retries": len(WAITS),
    "retry_delay_seconds": WAITS,
    "retry_condition_fn": comes_back,
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "result_serializer": "json",
}
"""Of every task: it is tried again where that may help, and leaves nothing with Prefect."""


@task(name="build", task_run_name="build {recipe}", **LASTING)
def make(
    recipe: str,
    store: str,
    overrides: Sequence[str],
    gpu_limit: str,
    workers: int = 0,
    scheduler: str = "",
    *,
    given: bool = False,
) -> dict[str, Any]:
    """Make the recipe's version, or go on with it."""
    place = opened(store)
    read = read_recipe(recipe, overrides)
    made = Making(read, place, recipe, workers, scheduler, given=given)
    try:
        with token(gpu_limit, made.gpus_here(), run_logger()):
            return _built(read.name, place, made).summary()
    except EngineLost as error:
        raise EngineLost(f"{error}; what was sampled is kept: run this flow again, and it goes on") from error


@task(name="publish", task_run_name="publish {ref}", **LASTING)
def send(
    ref: str, store: str, repo: str, to: str, *, public: bool = False, uncalibrated: bool = False
) -> dict[str, Any]:
    """Publish a version; what is there already is not sent again."""
    if bool(repo) == bool(to):
        raise RecipeError(
            f"say where to, by one of two parameters: repo = {repo!r}, ORG/NAME of the Hub, or to = {to!r}"
        )
    place = opened(store)
    dataset = place.hold(place.open(ref))
    if repo:
        done = publish_to_hub(dataset, repo, public=public, uncalibrated=uncalibrated)
    else:
        done = publish_to(dataset, to, uncalibrated=uncalibrated)
    told = {
        "dataset": done.dataset,
        "to": done.to,
        "commit": done.commit,
        "files": len(done.files),
        "sent": len(done.sent),
    }
    run_logger().info("\n".join(published_lines(done)))
    return told


def step(task: Task[..., T]) -> Callable[..., T]:
    """The task, or outside of a flow run (`flow.fn(...)`) what it does, for which no server is needed."""
    return task if in_a_run() else task.fn


def opened(store: str) -> Store:
    """The store of a flow; RecipeError where it would lie in the folder that a worker deletes after the run."""
    root = Path(store or os.environ.get("TRACEMILL_STORE", "")).expanduser()
    if not root.is_absolute():
        raise RecipeError(
            f"the store is {str(root)!r}: a worker runs each flow in a folder that it deletes afterwards, so name an absolute "
            "one, by the parameter `store` or by TRACEMILL_STORE where the worker runs"
        )
    return Store(root)


@dataclass(frozen=True, slots=True)
class Making:
    """How a version is made: by this process, or by `workers` processes of this machine or the workers of a Dask scheduler."""

    recipe: Recipe
    store: Store
    called: str
    workers: int
    scheduler: str
    given: bool

    def __call__(self, report: Report, brake: Brake | None = None) -> Built:
        return with_report(self._made(report, brake), self.recipe, self.store)

    def _made(self, report: Report, brake: Brake | None) -> Built:
        if not (self.workers or self.scheduler):
            return build(self.recipe, self.store, given=self.given, report=report, brake=brake)
        where: dict[str, Any] = {"workers": self.workers, "scheduler": self.scheduler or None}
        if not self.given:
            return spread(self.recipe, self.store, called=self.called, report=report, brake=brake, **where)
        with cluster(**where) as client:
            return build(self.recipe, self.store, given=True, report=report, brake=brake, client=client)

    def gpus_here(self) -> int:
        """GPUs that are taken on this machine: one engine's, one's for each worker, or none where a scheduler gives them out."""
        return 0 if self.scheduler else gpus_of(self.recipe) * max(1, self.workers)


def _built(name: str, store: Store, making: Making) -> Built:
    file = ProgressFile(store.work_folder(name))
    if in_a_run():
        return built_in_view(name, making, file, run_logger())
    return making(Several([file, Lines(sys.stderr)]))
