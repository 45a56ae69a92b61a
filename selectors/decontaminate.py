"""Rows that hold an item of a benchmark are removed, and it is said which, where, how much of it, and what was nearly enough.

n-grams as in Brown et al. 2020 (arXiv:2005.14165), appendix C, with a share that counts; the rules are in `schemas/overlap.py`.

    traces ──n-grams──┐
           ──near─────┼──▶ hits: row, benchmark, item, net, span, score ──thresholds──▶ removed, and the report `contamination`
           ──meaning──┘

Texts pass by in pieces; in memory are the index of the benchmarks and what was found.
"""

from collections.abc import Sequence
from typing import Any, Literal

import polars as pl

from tracemill.schemas.benchmarks import PART_QUESTION, Benchmarks, Item, given
from tracemill.schemas.contamination import common_grams, enough, found_in, hits_in, rank_of_net, wanted
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.overlap import (
    COMMON,
    HIT,
    NEAR,
    NEAR_FLOOR,
    NGRAM,
    NGRAM_FLOOR,
    NGRAM_SHARE,
    SHORT_NGRAM,
    Index,
    Rules,
    check_rules,
    check_share,
)
from tracemill.schemas.plugins import Embedder
from tracemill.schemas.rows import Selection, Summary
from tracemill.selectors.neighbours import neighbours
from tracemill.selectors.shares import require, verdict

REACH = "table"
NEEDS = ("id", "problem_id")

Net = Literal["ngram", "near", "meaning"]
COSINE, COSINE_FLOOR = 0.8, 0.7

REPORT = {
    "id": pl.String,
    "benchmark": pl.String,
    "item": pl.String,
    "part": pl.String,
    "net": pl.String,
    "column": pl.String,
    "score": pl.Float64,
    "threshold": pl.Float64,
    "removed": pl.Boolean,
    "same_numbers": pl.Boolean,
    "start": pl.Int64,
    "end": pl.Int64,
    "span": pl.String,
}
_KEYS = ("id", "column")


def check(
    *,
    columns: Sequence[str],
    ngram: int,
    short_ngram: int,
    ngram_share: float,
    ngram_floor: float,
    common: int,
    near: float,
    near_floor: float,
    meaning: float,
    meaning_floor: float,
    meaning_columns: Sequence[str],
    **_: Any,
) -> None:
    """Raise ValueError for options that cannot work."""
    if not columns or not meaning_columns:
        raise ValueError("columns and meaning_columns: name a text column at least, such as 'question'")
    check_rules(ngram=ngram, short_ngram=short_ngram, common=common)
    check_share("ngram_share", ngram_share, ngram_floor)
    check_share("near", near, near_floor, least=0.3)
    check_share("meaning", meaning, meaning_floor, least=0.3)


def decontaminate(
    traces: pl.LazyFrame,
    *,
    engine: Embedder | None = None,
    benchmarks: Benchmarks | None = None,
    against: tuple[str, ...] = (),
    columns: tuple[str, ...] = ("question", "reasoning", "content"),
    nets: tuple[Net, ...] = (),
    ngram: int = NGRAM,
    short_ngram: int = SHORT_NGRAM,
    ngram_share: float = NGRAM_SHARE,
    ngram_floor: float = NGRAM_FLOOR,
    common: int = COMMON,
    near: float = NEAR,
    near_floor: float = NEAR_FLOOR,
    meaning: float = COSINE,
    meaning_floor: float = COSINE_FLOOR,
    meaning_columns: tuple[str, ...] = ("question",),
) -> Selection:
    """Remove the rows in which an item of the recipe's `[benchmarks]` stands, word for word, nearly, or in other words.

    `ngram`: in one of `columns` stands at least `ngram_share` of the sequences of `ngram` words of an item; of `short_ngram` words, where the item
    has fewer than twice `ngram`; all of it, where it has fewer than `short_ngram`. An item of fewer than 4 words has to be the whole text. An
    n-gram counts for nothing where more than `common` items of a benchmark have it, or more than `common` problems that hold less than half of
    its item. `near`: within twice the length of an item stands at least the share `near` of its sequences of three words, so other numbers and
    names are no escape (`same_numbers` tells them apart). `meaning`: an item's question has at least this cosine to the head of one of `meaning_columns`, by the
    recipe's `[embedder]`. `nets` says which are used: unless given the first two, and the third where there is an `[embedder]`.

    The evidence of a row names its strongest hit. Table `contamination`: every hit from `ngram_floor`, `near_floor` and `meaning_floor` up, with
    `removed` where it is enough to remove its row; `start` and `end` count characters of `column`. `against` names the benchmarks, all unless given.
    """
    check(**{name: value for name, value in locals().items() if name not in ("traces", "engine", "benchmarks")})
    named = given("decontaminate", benchmarks)
    _check_columns(traces, (*columns, *meaning_columns))
    used = nets or (("ngram", "near", "meaning") if engine is not None else ("ngram", "near"))
    if "meaning" in used and engine is None:
        raise RecipeError(
            "decontaminate: the net 'meaning' compares texts by what they mean and the recipe names no encoder; add [embedder] with "
            "name = 'sentence-transformers/all-MiniLM-L6-v2', or leave 'meaning' out of nets"
        )
    items = named.items(against)
    floors = {"ngram": ngram_floor, "near": near_floor, "meaning": meaning_floor}
    limits = {"ngram": ngram_share, "near": near, "meaning": meaning}
    thresholds: dict[str, float] = {net: limits[net] for net in used}
    found = [pl.DataFrame(schema={"id": pl.String, "column": pl.String, **HIT})]
    rules = Rules(
        ngram=ngram, short_ngram=short_ngram, common=common, near_floor=near_floor if "near" in used else None
    )
    index = named.index(against, rules)
    without: frozenset[int] = frozenset()
    if {"ngram", "near"} & set(used):
        hits, without = _by_words(traces, columns, index, ngram_floor if "ngram" in used else None)
        found.append(hits.filter(enough({net: floors[net] for net in used})))
    if "meaning" in used:
        found += [_by_meaning(traces, engine, items, column, meaning_floor) for column in meaning_columns]
    report = _report(pl.concat(found, how="diagonal_relaxed"), items, thresholds)
    facts = _facts(named, against, report, index, used, len(without))
    return Selection(
        rows=_rows(traces, report),
        tables={"contamination": report.lazy()},
        facts=facts,
        summary=_summary(facts),
    )


def _check_columns(traces: pl.LazyFrame, columns: Sequence[str]) -> None:
    schema = require("decontaminate", traces, *NEEDS, *columns)
    for column in columns:
        if schema[column] not in (pl.String, pl.Null):
            raise RecipeError(f"decontaminate: column {column!r} is {schema[column]}; name a column of text")


def _by_words(
    traces: pl.LazyFrame, columns: Sequence[str], index: Index, floor: float | None
) -> tuple[pl.DataFrame, frozenset[int]]:
    """The hits of the first two nets from their floors up, and the n-grams that count for nothing."""
    parts = []
    for column in columns:
        looked = traces.select(
            "id",
            "problem_id",
            pl.lit(column).alias("column"),
            found_in(pl.col(column).cast(pl.String), index).alias("found"),
        ).unnest("found")
        there = pl.col("grams").is_not_null() | pl.col("near").is_not_null()
        parts.append(looked.filter(there).collect(engine="streaming"))
    found = pl.concat(parts)
    without = common_grams(found, index)
    look = wanted(found, _KEYS, index, floor, without)
    hits = [pl.DataFrame(schema={"id": pl.String, "column": pl.String, **HIT})]
    for column in columns:
        here = look.filter(pl.col("column") == column)
        if here.height:
            rows = traces.select("id", column).join(here.drop("column").lazy(), on="id")
            seen = hits_in(pl.col(column), pl.col("wanted"), index, without).alias("hit")
            part = rows.select("id", seen).explode("hit").drop_nulls("hit").unnest("hit").collect(engine="streaming")
            hits.append(part.with_columns(column=pl.lit(column)))
    return pl.concat(hits, how="diagonal_relaxed"), without


def _by_meaning(
    traces: pl.LazyFrame, engine: Embedder | None, items: Sequence[Item], column: str, floor: float
) -> pl.DataFrame:
    places = [place for place, item in enumerate(items) if item.part == PART_QUESTION and item.text.strip()]
    texts = [items[place].text for place in places]
    pairs = neighbours("decontaminate", traces, engine, texts, column=column, floor=floor)
    whole = pl.Series("item", places, dtype=pl.UInt32).gather(pairs["item"])
    return pairs.with_columns(whole, net=pl.lit("meaning"), column=pl.lit(column))


def _report(hits: pl.DataFrame, items: Sequence[Item], thresholds: dict[str, float]) -> pl.DataFrame:
    """The table `contamination`, strongest hit of a row first."""
    named = pl.DataFrame(
        {
            "item": pl.Series(range(len(items)), dtype=pl.UInt32),
            "benchmark": pl.Series([item.benchmark for item in items], dtype=pl.String),
            "name": pl.Series([item.id for item in items], dtype=pl.String),
            "part": pl.Series([item.part for item in items], dtype=pl.String),
        }
    )
    limit = pl.col("net").replace_strict(list(thresholds), list(thresholds.values()), return_dtype=pl.Float64)
    known = hits.join(named, on="item", how="left").with_columns(removed=enough(thresholds), threshold=limit)
    ranked = known.sort(
        "id", ~pl.col("removed"), rank_of_net(), -pl.col("score"), "item", "column", maintain_order=True
    )
    return ranked.drop("item").rename({"name": "item"}).select(pl.col(name).cast(kind) for name, kind in REPORT.items())


def _rows(traces: pl.LazyFrame, report: pl.DataFrame) -> pl.LazyFrame:
    shown = [name for name in REPORT if name not in ("id", "removed")]
    best = report.filter("removed").unique("id", keep="first", maintain_order=True)
    struct = best.select("id", pl.struct(shown).alias("_hit"))
    rows = traces.join(struct.lazy(), on="id", how="left", maintain_order="left")
    reason = pl.when(pl.col("_hit").is_not_null()).then(pl.lit("contaminated"))
    evidence = {name: pl.col("_hit").struct.field(name) for name in shown}
    return rows.with_columns(*verdict(reason, **evidence)).drop("_hit")


def _facts(
    named: Benchmarks, against: Sequence[str], report: pl.DataFrame, index: Index, nets: Sequence[str], dropped: int
) -> dict[str, Any]:
    """By benchmark: what it is, how much of it can be found, what was."""
    items = named.items(against)
    findable = index.looks_for()
    told: dict[str, Any] = {}
    for benchmark in named.named(against):
        mine = [place for place, item in enumerate(items) if item.benchmark == benchmark.name]
        hits = report.filter(pl.col("benchmark") == benchmark.name)
        enough_ = hits.filter("removed")
        told[benchmark.name] = {
            "revision": benchmark.revision,
            "sha256": benchmark.sha256,
            "items": benchmark.rows,
            "texts": len(mine),
            **{f"findable_{net}": int(able[mine].sum()) for net, able in findable.items() if net in nets},
            "items_hit": enough_["item"].n_unique(),
            **{f"items_hit_{net}": enough_.filter(pl.col("net") == net)["item"].n_unique() for net in nets},
            "rows_removed": enough_["id"].n_unique(),
            "rows_below": hits.filter(~pl.col("id").is_in(enough_["id"].implode()))["id"].n_unique(),
        }
    return {"nets": list(nets), "common_ngrams": dropped, "benchmarks": told}


def _summary(facts: dict[str, Any]) -> Summary:
    rows = [
        {
            "benchmark": name,
            "revision": said["revision"] or said["sha256"][:12],
            "items": said["items"],
            "items found": said["items_hit"],
            "rows removed": said["rows_removed"],
            "rows below a threshold": said["rows_below"],
        }
        for name, said in facts["benchmarks"].items()
    ]
    note = (
        f"By {', '.join(facts['nets'])}; every hit is in the table `contamination`. A rewritten item that shares neither word sequences "
        "nor, to the encoder, its meaning is not found."
    )
    return Summary(title="Contamination", rows=rows, note=note)
