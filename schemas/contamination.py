"""From candidates to hits: which of the n-grams in a text count, how much of an item they are, and where it stands. For rows and problems."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial

import polars as pl

from tracemill.schemas.overlap import FOUND, HIT, Index, mapped
from tracemill.schemas.words import prepared

NETS = ("ngram", "near", "meaning")
"""In the order in which they are believed."""
WANTED = pl.List(pl.Struct({"item": pl.UInt32, "near": pl.Boolean}))
HITS = pl.List(pl.Struct(HIT))


def found_in(column: pl.Expr, index: Index) -> pl.Expr:
    """`words`, `grams` and `near` of every text of a column, as a struct: nothing but hashes was compared."""
    return mapped(column, index.candidates, FOUND)


def held(found: pl.DataFrame, keys: Sequence[str], index: Index, without: frozenset[int] = frozenset()) -> pl.DataFrame:
    """How many different n-grams of an item each text holds, and of how many: `keys`, words, item, held, of, size.

    n-grams of the numbers `without` count for nothing, in the text and in the item.
    """
    dropped = pl.DataFrame({"gram": sorted(without)}, schema={"gram": pl.UInt32})
    holders = index.holders().join(dropped, on="gram", how="anti")
    totals = holders.group_by("item").agg(pl.len().alias("of"))
    grams = found.select(*keys, "words", pl.col("grams").alias("gram")).explode("gram").drop_nulls("gram")
    shared = grams.join(holders, on="gram").group_by(*keys, "words", "item").agg(pl.len().alias("held"))
    sizes = pl.DataFrame(
        {"item": range(len(index.words)), "size": index.lengths}, schema={"item": pl.UInt32, "size": pl.Int64}
    )
    return shared.join(totals, on="item").join(sizes, on="item")


def common_grams(found: pl.DataFrame, index: Index) -> frozenset[int]:
    """The n-grams in more problems than may have them by chance; `found` has problem_id and id of each text.

    A problem does not count for an n-gram where a text of it holds half of an item with that n-gram, or is half such an item: a
    benchmark that was copied a hundred times would hide itself. (arXiv:2005.14165, appendix C counts all documents.)
    """
    keys = ("problem_id", "id", "column")
    shares = held(found, keys, index)
    whole = (pl.col("size") >= 2 * index.rules.short_ngram) | (2 * pl.col("size") >= pl.col("words"))
    copies = shares.filter((2 * pl.col("held") >= pl.col("of")) & whole).select("problem_id", "item").unique()
    there = found.select("problem_id", pl.col("grams").alias("gram")).explode("gram").drop_nulls("gram").unique()
    copied = there.join(index.holders(), on="gram").join(copies, on=("problem_id", "item"), how="semi")
    counted = there.join(copied, on=("problem_id", "gram"), how="anti").group_by("gram").len()
    return frozenset(counted.filter(pl.col("len") > index.rules.common)["gram"].to_list())


def wanted(
    found: pl.DataFrame,
    keys: Sequence[str],
    index: Index,
    floor: float | None,
    without: frozenset[int] = frozenset(),
) -> pl.DataFrame:
    """What is worth a look at the words: `keys` and `wanted`, a list of items and nets, for texts that have any.

    `floor` is the least share of an item's n-grams; None leaves that net out.
    """
    schema = found.select(*keys, pl.lit(0, pl.UInt32).alias("item"), near=pl.lit(value=True)).schema
    parts = [pl.DataFrame(schema=schema)]
    if floor is not None:
        shares = held(found, keys, index, without).filter(at_least(pl.col("held"), pl.col("of"), floor))
        parts.append(shares.select(*keys, "item", near=pl.lit(value=False)))
    copies = found.select(*keys, pl.col("near").alias("item")).explode("item").drop_nulls("item")
    parts.append(copies.with_columns(near=pl.lit(value=True)))
    listed = pl.concat(parts, how="vertical_relaxed").sort(*keys, "near", "item")
    return listed.group_by(*keys, maintain_order=True).agg(pl.struct("item", "near").cast(WANTED.inner).alias("wanted"))


def hits_in(text: pl.Expr, items: pl.Expr, index: Index, without: frozenset[int] = frozenset()) -> pl.Expr:
    """The hits of every text on its list of wanted items, a list of structs; the words decide here."""
    seen = pl.struct(text.alias("text"), items.alias("wanted"))
    return mapped(seen, partial(_hits, index, without), HITS)


def _hits(index: Index, without: frozenset[int], rows: pl.Series) -> pl.Series:
    frame = rows.struct.unnest()
    found = [
        index.hits(text, ready, [(pair["item"], pair["near"]) for pair in pairs], without)
        for text, ready, pairs in zip(frame["text"], prepared(frame["text"]), frame["wanted"].to_list(), strict=True)
    ]
    return pl.Series(rows.name, found, dtype=HITS)


def at_least(part: pl.Expr, whole: pl.Expr, share: float) -> pl.Expr:
    """Whether `part` of `whole` is the share as it was written, on whole numbers."""
    exact = Fraction(str(share))
    return part.cast(pl.Int64) * exact.denominator >= whole.cast(pl.Int64) * exact.numerator


def enough(thresholds: Mapping[str, float]) -> pl.Expr:
    """Whether a hit reaches the threshold of its net; a net without one has no such hits."""
    counted = [
        (pl.col("net") == net) & at_least(pl.col("found"), pl.col("of"), share)
        for net, share in thresholds.items()
        if net != "meaning"
    ]
    measured = [
        (pl.col("net") == net) & (pl.col("score") >= share) for net, share in thresholds.items() if net == "meaning"
    ]
    return pl.any_horizontal(*counted, *measured) if thresholds else pl.lit(value=False)


def rank_of_net() -> pl.Expr:
    """0 for the net that is believed first."""
    return pl.col("net").replace_strict(list(NETS), list(range(len(NETS))), return_dtype=pl.UInt8)
