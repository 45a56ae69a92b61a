"""Traces that exist already: what `tracemill curate` verifies, filters and commits.

A source row {"question": ..., "a.solution": "...", "b.solution": "..."} with `responses = ["a.solution", "b.solution"]` is
two traces, of the models `a` and `b`. Two rows {"question": ..., "response": "..."} of one question are two traces as well.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Message
from tracemill.schemas.rows import Given, Outcome, Problem, Rejection, Trace, Verdict

COLUMNS: dict[str, type] = {}
"""Its traces have the common columns and those that the source names to come along, and no others."""
SAID = ("model", "n_tokens", "tokenizer", "finish_reason", "correct", "verdict", "answer")
"""Columns that come along in place of what would be found here; others are the trace's own."""


async def given(problem: Problem, engine: Engine) -> Outcome:
    """Take the responses of the source as they are, one trace a column; two columns with one text stay two traces.

    Columns that come along say what they say of a trace: its length, its model, whether it is correct. A null among the
    responses of a list is turned down as `missing_response`.
    """
    if not problem.responses:
        return Outcome(rejections=[(None, Rejection("no_response"))])
    return Outcome(
        traces=[
            _trace(problem, engine, name, text, problem.given.get(name, Given()))
            for name, text in problem.responses.items()
            if text is not None
        ],
        rejections=[
            (None, Rejection("missing_response", {"column": column}))
            for column, text in problem.responses.items()
            if text is None
        ],
    )


def _trace(problem: Problem, engine: Engine, name: str, text: str, told: Given) -> Trace:
    said = told.columns
    counted = said.get("n_tokens")
    if not isinstance(counted, int) or isinstance(counted, bool) or counted < 0:
        counted = None
    own: dict[str, Any] = {column: value for column, value in said.items() if column not in SAID}
    own |= {"source": told.source} if told.source else {}
    own |= {"licence": told.licence} if told.licence else {}
    return Trace(
        problem_id=problem.problem_id,
        name=name,
        prompt=told.prompt or problem.messages or (Message(role="user", content=problem.question),),
        text=text,
        n_tokens=engine.count_tokens(text) if counted is None else counted,
        counted=None if counted is None else str(said.get("tokenizer") or "given"),
        finish_reason=str(said.get("finish_reason") or "given"),
        model=str(said.get("model") or name.partition(".")[0]),
        columns=own,
        verdict=_verdict(said),
    )


def _verdict(said: Mapping[str, Any]) -> Verdict | None:
    """The verdict that came along; None where none did, and the trace is verified like any other."""
    status, _, reason = str(said.get("verdict") or "").partition(": ")
    answer = said.get("answer")
    found = partial(Verdict, reason=reason or None, answer=answer if isinstance(answer, str) else None, how="given")
    match status, said.get("correct"):
        case ("equal", _) | ("", True):
            return found(status="equal")
        case ("different", _) | ("", False):
            return found(status="different")
        case ("undecided", _):
            return found(status="undecided")
    return None
