"""Where a flow says something: the log of its run in Prefect, or outside of one Python's own."""

import logging

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from tracemill.pipelines.running.progress import Lines

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


def in_a_run() -> bool:
    """Whether this is called from a flow that Prefect runs."""
    return FlowRunContext.get() is not None


def run_logger() -> Logger:
    """The log of the flow run or task run that this is called from."""
    return get_run_logger() if in_a_run() else logging.getLogger("tracemill.flows")


class LogLines(Lines):
    """The lines of the terminal, in a log."""

    def __init__(self, logger: Logger, *, between: float = 10.0) -> None:
        self._logger, self._between = logger, between
        self._last = 0.0

    def say(self, text: str) -> None:
        self._logger.info(text)
