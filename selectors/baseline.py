"""The baselines that Select2Reason is held against (arXiv:2505.17266): each takes as many rows by one plain rule."""

from typing import Literal

import polars as pl

from tracemill.schemas.rows import Selection
from tracemill.selectors.select2reason import DMethod, rethink_words, with_difficulty
from tracemill.selectors.shares import amount, check_amount, lot, place_by, require, verdict

REACH = "table"
NEEDS = ("id", "n_tokens", "reasoning", "content", "correct", "problem_id")

Kind = Literal["random", "longest", "shortest", "middle", "diverse", "difficulty", "keyword"]
NOT_CHOSEN = {
    "random": "not_drawn",
    "longest": "not_longest",
    "shortest": "not_shortest",
    "middle": "not_middle",
    "diverse": "not_drawn",
    "difficulty": "not_hardest",
    "keyword": "fewer_keywords",
}
_PLACE, _K, _OF, _BY = ("_baseline_place", "_baseline_k", "_baseline_of", "_baseline_by")


def check(
    *, kind: Kind, k: int | None, percent: float | None, d_method: DMethod, column: str | None, **_: object
) -> None:
    """Raise ValueError for options that cannot work."""
    if kind == "diverse" and k is not None:
        raise ValueError(f"kind = 'diverse', k = {k}: it takes a share of each type, so give percent")
    check_amount(k, percent)
    if (d_method == "column") != (column is not None):
        raise ValueError(f"d_method = {d_method!r}, column = {column!r}: a column is named with d_method = 'column'")


def baseline(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
    kind: Kind,
    percent: float | None = None,
    k: int | None = None,
    by: str = "problem_type",
    d_method: DMethod = "pass_rate",
    column: str | None = None,
    seed: int = 0,
) -> Selection:
    """Take `k` rows, or `percent` of all rounded down and at least one, by one rule. Ties go to the smaller id.

    `random` draws from `seed` and the id. `longest`, `shortest` and `middle` go by tokens; `middle` takes the rows nearest the
    median's place, of two as near the shorter. `difficulty` takes the hardest, with `d_method` and `column` as in
    select2reason. `keyword` takes those that say wait, alternatively, maybe or however most often. `diverse` draws from every
    value of the column `by` that share of its rows, at least one of each, so it may take more than the share of the whole.
    What has no length or difficulty comes last.
    """
    check(kind=kind, k=k, percent=percent, d_method=d_method, column=column)
    by_value, descending = pl.col(_BY), kind in ("longest", "difficulty", "keyword")
    measured = _measured(traces, kind, by, seed, d_method, column)
    groups = [by] if kind == "diverse" else []
    size, order = pl.len(), place_by([by_value], [descending])
    if groups:
        size = pl.len().over(groups)
        measured = measured.with_columns(order.alias(_PLACE))
        order = pl.int_range(1, pl.len() + 1).over(groups, order_by=_PLACE)
    placed = measured.with_columns(order.alias(_PLACE), size.alias(_OF), amount(size, k, percent, at_least=1).alias(_K))
    reason = pl.when(pl.col(_PLACE) > pl.col(_K)).then(pl.lit(NOT_CHOSEN[kind]))
    evidence = {"place": pl.col(_PLACE), "k": pl.col(_K), "of": pl.col(_OF), "value": by_value}
    rows = placed.with_columns(*verdict(reason, **evidence, **({"type": pl.col(by)} if groups else {})))
    return Selection(rows=rows.drop(_PLACE, _K, _OF, _BY))


def _measured(
    traces: pl.LazyFrame, kind: Kind, by: str, seed: int, d_method: DMethod, column: str | None
) -> pl.LazyFrame:
    """The traces with the number that they are taken by."""
    if kind == "difficulty":
        hard = with_difficulty(traces.select("id", *_read(traces, column)), d_method, column)
        return traces.join(hard.select("id", pl.col("d").alias(_BY)), on="id", how="left", maintain_order="left")
    if kind == "keyword":
        require("baseline", traces, "reasoning", "content")
        thought = (pl.col("reasoning").str.strip_chars() != "").fill_null(value=False)
        return traces.with_columns(rethink_words(pl.when(thought).then("reasoning").otherwise("content")).alias(_BY))
    if kind in ("random", "diverse"):
        require("baseline", traces, *([by] if kind == "diverse" else []))
        return traces.with_columns(lot(seed).alias(_BY))
    require("baseline", traces, "n_tokens")
    if kind == "middle":
        known = pl.col("n_tokens").count().cast(pl.Int64)
        at = place_by([pl.col("n_tokens")], [False])
        # nearest the middle first: 0, 1, 2, ...; of two as near, the shorter
        away = 2 * (2 * at - known - 1).abs() + (2 * at > known + 1).cast(pl.Int64)
        return traces.with_columns(pl.when(pl.col("n_tokens").is_not_null()).then(away).alias(_BY))
    return traces.with_columns(pl.col("n_tokens").alias(_BY))


def _read(traces: pl.LazyFrame, column: str | None) -> list[str]:
    """The columns that tell the difficulty; a missing one is named where it is asked for."""
    wanted = {"problem_id", "correct", "problem_correct", "problem_total", "p1", "p0", "p_returned", column}
    return [name for name in traces.collect_schema().names() if name in wanted and name != "id"]
