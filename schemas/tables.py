"""Arrow schemas of the tables that every version holds. Column names are a contract: docs/tables.md explains them."""

from typing import Any

import pyarrow as pa

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("problem_id", pa.string()),
        ("question", pa.string()),
        ("messages", MESSAGES),
        ("reasoning", pa.string()),  # what stands between the think tags; null where the model has none
        ("content", pa.string()),  # what follows them, or the whole text
        ("answer", pa.string()),  # what counted as the final answer; null where none was found
        ("gold", pa.string()),
        ("correct", pa.bool_()),  # null: undecided
        ("verdict", pa.string()),  # equal | different | undecided: <reason>
        ("n_tokens", pa.int64()),
        ("tokenizer", pa.string()),  # whose tokens n_tokens counts
        ("finish_reason", pa.string()),  # stop | length | given
        ("model", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("difficulty", pa.string()),
        ("key", pa.string()),  # the completion it is made of, in `samples` and the journal
    ]
)
"""The common columns of `rows` and `traces`; a method's own columns follow them."""

REJECTED = pa.schema(
    [
        ("id", pa.string()),  # null where a problem, not a trace, was turned down
        ("problem_id", pa.string()),
        ("stage", pa.string()),  # source | problem_filter | method | verify | score | filter:NAME | select:NAME
        ("reason", pa.string()),
        ("evidence", pa.string()),  # JSON
        ("row", pa.string()),  # JSON of the row as it was
    ]
)

ROLES = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("correct", pa.int64()),
            ("total", pa.int64()),
            ("undecided", pa.int64()),
            ("truncated", pa.int64()),
        ]
    )
)
"""Counts over the samples of each role; undecided and truncated stand inside total, never in correct."""

PROBLEMS = pa.schema(
    [
        pa.field("problem_id", pa.string()),
        pa.field("question", pa.string()),
        pa.field("gold", pa.string()),
        pa.field("source", pa.string()),
        pa.field("difficulty", pa.string()),
        pa.field("outcome", pa.string()),  # chosen | none_chosen | rejected | failed
        pa.field("reason", pa.string()),
        pa.field("roles", ROLES),
        # what the model was shown, up to its answer; the question alone where nothing was shown
        pa.field("prompt", MESSAGES),
    ]
)

_SAMPLE_COLUMNS: list[Any] = [
    pa.field("key", pa.string()),
    pa.field("problem_id", pa.string()),
    pa.field("role", pa.string()),
    pa.field("adapter", pa.string()),
    pa.field("scale", pa.string()),
    pa.field("seed", pa.int64()),
    pa.field("text", pa.string()),
    pa.field("token_ids", pa.list_(pa.int32())),
    pa.field("n_tokens", pa.int64()),
    pa.field("finish_reason", pa.string()),
    pa.field("verdict", pa.string()),
]
SAMPLES = pa.schema(_SAMPLE_COLUMNS)
