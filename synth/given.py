"""Traces that exist already: what `tracemill curate` verifies, filters and commits.

A source row {"question": ..., "a.solution": "...", "b.solution": "..."} with `responses = ["a.solution", "b.solution"]` is
two traces, of the models `a` and `b`.
"""

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Message
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace

COLUMNS: dict[str, type] = {}
"""Its traces have the common columns and no others."""


async def given(problem: Problem, engine: Engine) -> Outcome:
    """Take the responses of the source as they are, one trace a column; two columns with one text stay two traces.

    A null among the responses of a list is turned down as `missing_response`.
    """
    if not problem.responses:
        return Outcome(rejections=[(None, Rejection("no_response"))])
    prompt = problem.messages or (Message(role="user", content=problem.question),)
    return Outcome(
        traces=[
            Trace(
                problem_id=problem.problem_id,
                name=column,
                prompt=prompt,
                text=text,
                n_tokens=engine.count_tokens(text),
                finish_reason="given",
                model=column.partition(".")[0],
            )
            for column, text in problem.responses.items()
            if text is not None
        ],
        rejections=[
            (None, Rejection("missing_response", {"column": column}))
            for column, text in problem.responses.items()
            if text is None
        ],
    )
