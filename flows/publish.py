"""The flow of `tracemill publish`: a version goes to the Hub, or to a folder or URL."""

from typing import Any

from prefect import flow

from tracemill.flows.steps import send, step


@flow(persist_result=False, result_serializer="json")
def publish(
    ref: str, store: str = "", repo: str = "", to: str = "", public: bool = False, uncalibrated: bool = False
) -> dict[str, Any]:
    """Publish a version; returns what `tracemill publish --json` prints.

    Args:
        ref: NAME, for its newest complete version, or NAME@VERSION.
        store: The absolute path of the store; unless given, that of TRACEMILL_STORE.
        repo: ORG/NAME on the Hub; the token is that of the worker, HF_TOKEN or `hf auth login`.
        to: A folder, or a URL that fsspec takes, instead of the Hub.
        public: Whether the repository is one that everybody may read.
        uncalibrated: Whether rows go out that a judge decided about whom nobody measured.
    """
    return step(send)(ref, store, repo, to, public=public, uncalibrated=uncalibrated)
