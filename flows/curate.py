"""The flow of `tracemill curate`: traces that exist already, verified, filtered and selected."""

from typing import Any

from prefect import flow

from tracemill.flows.steps import make, step


@flow(persist_result=False, result_serializer="json")
def curate(
    recipe: str,
    store: str = "",
    overrides: list[str] | None = None,
    gpu_limit: str = "auto",
    workers: int = 0,
    scheduler: str = "",
) -> dict[str, Any]:
    """Curate the traces of a recipe; returns what `tracemill curate --json` ends with. The arguments are those of `build`."""
    return step(make)(recipe, store, overrides or [], gpu_limit, workers, scheduler, given=True)
