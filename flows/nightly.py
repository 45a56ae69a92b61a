"""The flow that `tracemill schedule` deploys: build, then curate what was built, then publish."""

from typing import Any

from prefect import flow

from tracemill.flows.logs import run_logger
from tracemill.flows.steps import make, send, step


@flow(persist_result=False, result_serializer="json")
def nightly(
    recipe: str,
    store: str = "",
    overrides: list[str] | None = None,
    curate: str = "",
    repo: str = "",
    to: str = "",
    public: bool = False,
    uncalibrated: bool = False,
    gpu_limit: str = "auto",
    workers: int = 0,
    scheduler: str = "",
) -> dict[str, Any]:
    """Build, curate and publish; returns what each of them said, by its name.

    Args:
        recipe: What to build, as in the flow `build`.
        store: The absolute path of the store; unless given, that of TRACEMILL_STORE.
        overrides: Keys of `recipe` as `KEY=VALUE`.
        curate: A recipe without synthesis that takes the dataset as its source (`ref = "NAME"`); nothing is curated unless given.
        repo: ORG/NAME on the Hub for what was made last; nothing is published unless this or `to` is given.
        to: A folder, or a URL that fsspec takes, instead of the Hub.
        public: Whether the repository is one that everybody may read.
        uncalibrated: Whether rows go out that a judge decided about whom nobody measured.
        gpu_limit: As in the flow `build`.
        workers: As in the flow `build`; for curating, too.
        scheduler: As in the flow `build`; for curating, too.
    """
    said = {"build": step(make)(recipe, store, overrides or [], gpu_limit, workers, scheduler)}
    last = said["build"]
    if not last["complete"]:
        run_logger().warning(
            "a budget was reached, so the version is partial: the next run goes on, nothing is published"
        )
        return said
    if curate:
        last = said["curate"] = step(make)(curate, store, [], gpu_limit, workers, scheduler, given=True)
    if repo or to:
        said["publish"] = step(send)(
            f"{last['name']}@{last['version']}", store, repo, to, public=public, uncalibrated=uncalibrated
        )
    return said
