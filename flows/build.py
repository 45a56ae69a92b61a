"""The flow of `tracemill build`: MixChain, step trees, Petri-net traces, hints; the recipe says which."""

from typing import Any

from prefect import flow

from tracemill.flows.steps import make, step


@flow(persist_result=False, result_serializer="json")
def build(
    recipe: str,
    store: str = "",
    overrides: list[str] | None = None,
    gpu_limit: str = "auto",
    workers: int = 0,
    scheduler: str = "",
) -> dict[str, Any]:
    """Build a dataset, or go on where its last build stopped; returns what `tracemill build --json` ends with.

    Args:
        recipe: The absolute path of a recipe file, or the name of one that ships.
        store: The absolute path of the store; unless given, that of TRACEMILL_STORE.
        overrides: Keys of the recipe as `KEY=VALUE`, as behind `--set`.
        gpu_limit: The global concurrency limit that a token is taken of for each GPU, made where it is missing. `auto` is
            `gpu` where the recipe starts an engine on a GPU of this machine, and none elsewhere; `none` is none.
        workers: So many processes, each with an engine of its own, take one shard after another; as behind `--workers`.
        scheduler: The address of a Dask scheduler, such as tcp://host:8786, whose workers do it instead.
    """
    return step(make)(recipe, store, overrides or [], gpu_limit, workers, scheduler)
