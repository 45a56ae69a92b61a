"""Drop problems, or traces, that hold an item of a benchmark: by shared n-grams, or as a near copy."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import polars as pl

from tracemill.filters.texts import judge_texts
from tracemill.schemas.benchmarks import Benchmarks, Item, given
from tracemill.schemas.contamination import enough, hits_in, rank_of_net, wanted
from tracemill.schemas.overlap import (
    COMMON,
    NEAR,
    NGRAM,
    NGRAM_SHARE,
    SHORT_NGRAM,
    Index,
    Rules,
    check_rules,
    check_share,
)

NEEDS = ("question",)

Net = Literal["ngram", "near"]

SHOWN: dict[str, Any] = {
    "reason": pl.String,
    "benchmark": pl.String,
    "item": pl.String,
    "part": pl.String,
    "net": pl.String,
    "score": pl.Float64,
    "threshold": pl.Float64,
    "same_numbers": pl.Boolean,
    "start": pl.UInt32,
    "end": pl.UInt32,
    "span": pl.String,
}
"""The reason, and the evidence beside the column."""


def check(
    *,
    column: str,
    nets: Sequence[str],
    ngram: int,
    short_ngram: int,
    ngram_share: float,
    common: int,
    near: float,
    **_: Any,
) -> None:
    """Raise ValueError for options that cannot work."""
    if not column:
        raise ValueError("column = '': name a text column, such as 'question' or 'content'")
    if not nets:
        raise ValueError("nets = []: 'ngram', 'near' or both")
    check_rules(ngram=ngram, short_ngram=short_ngram, common=common)
    check_share("ngram_share", ngram_share)
    check_share("near", near, least=0.3)


def contaminated(
    *,
    benchmarks: Benchmarks | None = None,
    column: str = "question",
    against: tuple[str, ...] = (),
    nets: tuple[Net, ...] = ("ngram", "near"),
    ngram: int = NGRAM,
    short_ngram: int = SHORT_NGRAM,
    ngram_share: float = NGRAM_SHARE,
    common: int = COMMON,
    near: float = NEAR,
) -> pl.Expr:
    """Keep a row whose text in `column` holds no item of the recipe's `[benchmarks]`; under `[[source.keep]]`, before a token is spent.

    The nets `ngram` and `near` of the selector `decontaminate`, with its options. A filter sees one row, so n-grams are common here
    where more than `common` items of a benchmark have them, whatever other rows say, and there is no report: the evidence names the
    strongest hit. Reasons: `contaminated`, and `no_text`. `against` names the benchmarks, all unless given.
    """
    named = given("contaminated", benchmarks)
    rules = Rules(ngram=ngram, short_ngram=short_ngram, common=common, near_floor=near if "near" in nets else None)
    thresholds: dict[str, float] = {
        net: share for net, share in (("ngram", ngram_share), ("near", near)) if net in nets
    }
    measure = partial(_measure, index=named.index(against, rules), items=named.items(against), thresholds=thresholds)
    return judge_texts("contaminated", column, measure)


def _measure(texts: pl.DataFrame, *, index: Index, items: Sequence[Item], thresholds: dict[str, float]) -> pl.DataFrame:
    found = index.candidates(texts["text"]).struct.unnest().with_row_index("row")
    found = found.filter(pl.col("grams").is_not_null() | pl.col("near").is_not_null())
    rows = texts.select("text").with_row_index("row")
    if found.is_empty():
        return pl.DataFrame(schema=SHOWN).clear(rows.height)
    look = wanted(found, ("row",), index, thresholds.get("ngram"))
    named = pl.DataFrame(
        {
            "item": range(len(items)),
            "benchmark": [item.benchmark for item in items],
            "benchmark_item": [item.id for item in items],
            "part": [item.part for item in items],
        },
        schema_overrides={"item": pl.UInt32},
    )
    hits = rows.join(look, on="row").select("row", hits_in(pl.col("text"), pl.col("wanted"), index).alias("hit"))
    hits = hits.explode("hit").drop_nulls("hit").unnest("hit").filter(enough(thresholds))
    best = hits.sort("row", rank_of_net(), pl.col("score"), "item", descending=[False, False, True, False])
    best = best.unique("row", keep="first", maintain_order=True).join(named, on="item", maintain_order="left")
    threshold = pl.col("net").replace_strict(list(thresholds), list(thresholds.values()), return_dtype=pl.Float64)
    shown = best.with_columns(reason=pl.lit("contaminated"), item=pl.col("benchmark_item"), threshold=threshold).select(
        "row", *SHOWN
    )
    return rows.select("row").join(shown, on="row", how="left", maintain_order="left").drop("row")
