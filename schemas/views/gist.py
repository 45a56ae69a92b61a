"""LightThinker's rows (arXiv:2502.15589): thoughts with gist tokens behind them, what is learnt of them, and what each token may see.

    prompt | thought 1 | split gist gist continue | thought 2 | split gist gist continue | answer
             └ start   └ end   └ gist_start └ gist_end

Up to its gist tokens a thought is there; what comes behind them sees the gist tokens in its place, and the thought no more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.views.tables import Tables, chosen

IGNORED = -100
"""The label of a token that is not learnt, as PyTorch's cross entropy has it."""


def visible(length: int, spans: Sequence[Mapping[str, int]]) -> npt.NDArray[np.bool_]:
    """[length, length], from `spans` as rows have them: whether the token of a line may see the token of a column.

    A token sees itself and those before it, but for thoughts, split tokens among them, whose gist tokens stand before it.
    """
    mask = np.tril(np.ones((length, length), dtype=np.bool_))
    for span in spans:
        mask[span["gist_end"] :, span["start"] : span["gist_start"]] = False
    return mask


def labels(input_ids: Sequence[int], prompt_len: int, spans: Sequence[Mapping[str, int]]) -> list[int]:
    """The token ids, with -100 for the prompt, for gist tokens and for the continue token behind them."""
    found = list(input_ids)
    found[:prompt_len] = [IGNORED] * prompt_len
    for span in spans:
        found[span["gist_start"] : span["gist_end"] + 1] = [IGNORED] * (span["gist_end"] + 1 - span["gist_start"])
    return found


def gist_segments(tables: Tables, *, mask: Literal["spans", "dense"] = "spans") -> pl.LazyFrame:
    """One row a trace: `input_ids`, `labels`, and what the attention mask follows from: `spans`, or with `dense` the mask itself.

    A dense `attention_mask` is a list of lines of 0 and 1: line t says what token t sees. It grows with the square of the length; a trainer makes
    the same from `spans` by `tracemill.schemas.views.gist.visible`. Labels stand at their tokens: the trainer shifts them. `marker_names`
    are the tokens to be added to the student, whose ids have to come out as `marker_ids`.
    """
    rows = chosen(tables)
    if "marker_ids" not in rows.collect_schema().names():
        raise RecipeError("this format needs rows of the method gist_segments; these have no marker_ids")
    whole = pl.struct("input_ids", "prompt_len", "spans")
    learnt = whole.map_elements(lambda row: labels(**row), return_dtype=pl.List(pl.Int32))
    last = {"spans": pl.col("spans")} if mask == "spans" else {
        "attention_mask": whole.map_elements(_dense, return_dtype=pl.List(pl.List(pl.Int8)))
    }  # fmt: skip
    return rows.sort("id").select(
        "id", "input_ids", labels=learnt, **last, marker_names="marker_names", marker_ids="marker_ids"
    )


def _dense(row: Mapping[str, Any]) -> list[list[int]]:
    lines: list[list[int]] = visible(len(row["input_ids"]), row["spans"]).astype(np.int8).tolist()
    return lines
