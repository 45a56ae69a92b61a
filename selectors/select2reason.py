"""Select2Reason: the rows that rank high in difficulty and length together, ranks and not scores being added.

    rank_j = w * rank_d + (1 - w) * rank_l        rank 1: the hardest, the longest; the smallest rank_j are taken

Yang et al. 2025 (arXiv:2505.17266). How ties are broken, how steps are told apart and which difficulty is the default
are choices made here; each is an option or is said below.
"""

from functools import partial
from typing import Literal

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Workers
from tracemill.schemas.rows import Selection
from tracemill.selectors.shares import (
    amount,
    anew,
    check_amount,
    check_decimals,
    place_by,
    ratio,
    require,
    verdict,
    written,
)

REACH = "table"
NEEDS = ("id", "n_tokens", "reasoning", "content", "correct", "problem_id")
MEANING = {
    "d": "Difficulty, larger is harder; null where there is none.",
    "d_method": "Where the difficulty comes from.",
    "p1": "The judge's probability that the problem is hard; null without a judge.",
    "p0": "Its probability that it is not.",
    "len_raw": "Length of the whole output.",
    "len_dedup": "Length without later copies of a step.",
    "dup_ratio": "The share of the copies.",
    "n_rethink_words": "How often it says wait, alternatively, maybe or however.",
    "rank_d": "Average rank by difficulty; 1 is the hardest.",
    "rank_l": "Average rank by length; 1 is the longest.",
    "rank_j": "Both ranks joined.",
    "place": "1 for the first: a smaller share of the same pool is the rows up to a smaller place.",
    "flags": "`no_difficulty`, `no_thinking_part`, `unknown_length`, `mixed_tokenizers`, as they apply.",
}
"""What its columns mean, for cards."""

# arXiv:2505.17266, the joint ranker's best weight and the headline's share of the pool
W = 0.25
PERCENT = 10.0
# the same, the keyword baseline
RETHINKING = ("wait", "alternatively", "maybe", "however")

DMethod = Literal["pass_rate", "judge", "judge_released", "column"]
LengthUnit = Literal["tokens", "words", "characters"]

BLANK_LINES = r"\n\s*\n"
_TEXT, _THOUGHT, _DUPLICATE, _ALL = ("_s2r_text", "_s2r_thought", "_s2r_duplicate", "_s2r_all")
_RANK_D, _RANK_L, _RANK_J, _PLACE, _K = ("_s2r_rank_d", "_s2r_rank_l", "_s2r_rank_j", "_s2r_place", "_s2r_k")

MEASURES = ("len_raw", "len_dedup", "n_rethink_words", "dup_ratio", _THOUGHT)
"""What is read off the texts, row by row."""


def check(
    *,
    w: float,
    k: int | None,
    percent: float | None,
    d_method: DMethod,
    column: str | None,
    length: LengthUnit = "tokens",
    length_column: str | None = None,
    dedup: bool = True,
    **_: object,
) -> None:
    """Raise ValueError for options that cannot work."""
    if not 0 <= w <= 1:
        raise ValueError(f"w = {w}: the weight of difficulty lies between 0 (length alone) and 1 (difficulty alone)")
    check_decimals("w", w)
    check_amount(k, None if k is not None and percent == PERCENT else percent)
    if (d_method == "column") != (column is not None):
        raise ValueError(f"d_method = {d_method!r}, column = {column!r}: a column is named with d_method = 'column'")
    if length_column is not None and (length, dedup) != ("tokens", True):
        raise ValueError(
            f"length_column = {length_column!r}: the column holds the length that is ranked; leave out length and dedup"
        )


def select2reason(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; what a judge said stands in columns
    workers: Workers | None = None,
    d_method: DMethod = "pass_rate",
    column: str | None = None,
    percent: float | None = PERCENT,
    k: int | None = None,
    w: float = W,
    length: LengthUnit = "tokens",
    length_column: str | None = None,
    dedup: bool = True,
) -> Selection:
    """Take the `percent` of all rows (rounded down, at least one), or the `k`, that are hardest and longest by joint rank.

    Difficulty `d`, larger is harder. `pass_rate`: the share of a problem's samples that were not correct, over all that was
    sampled. `judge`: p1 / (p1 + p0), from a score's columns `p1` and `p0`, the probabilities of the answers 1 (difficult) and
    0. `judge_released`: p1 / `p_returned`, the sum of the two probabilities that came back, whatever their tokens, as the
    published script has it, and 0 where p1 did not come back. `column`: the number in `column`. Where neither 1 nor 0 came
    back, or nothing was sampled, `d` is null, flagged, and ranks last.

    Length: steps are what blank lines part in the reasoning, or in the whole output where there is none (flagged); later
    exact copies of a step do not count. `len_raw` is the whole output's, `len_dedup` is without the copies. In `tokens` these
    are taken off by their share of the steps' characters, since only the whole was counted; `words` and `characters` are
    counted. `dedup = false` ranks by `len_raw`: with `characters` that is the first published version. A row of unknown
    length ranks last. Where several tokenizers counted, all rows are flagged. `length_column` names a column of tokens without copies, where they
    are known: then no text is read, `len_raw` is the row's `n_tokens`, and `n_rethink_words` is null.

    Equal values share their average rank. Equal `rank_j` goes to the smaller `rank_l`, then `rank_d`, then id. All rows get
    `d`, `d_method`, `p1`, `p0`, `len_raw`, `len_dedup`, `dup_ratio`, `n_rethink_words`, `rank_d`, `rank_l`, `rank_j`, `place` and
    `flags`. An empty pool gives an empty choice.
    """
    check(
        w=w,
        k=k,
        percent=percent,
        d_method=d_method,
        column=column,
        length=length,
        length_column=length_column,
        dedup=dedup,
    )
    judged, weight = with_difficulty(traces, d_method, column), written(w)
    if length_column is None:
        require("select2reason", traces, "n_tokens", "reasoning", "content")
        measured = with_lengths(judged, length, workers)
    else:
        measured = with_known_lengths(judged, length_column)
    ranked = measured.with_columns(
        twice_rank(pl.col("d")).alias(_RANK_D),
        twice_rank(pl.col("len_dedup" if dedup else "len_raw")).alias(_RANK_L),
    ).with_columns(
        (weight.numerator * pl.col(_RANK_D) + (weight.denominator - weight.numerator) * pl.col(_RANK_L)).alias(_RANK_J),
        amount(pl.len(), k, percent, at_least=1).alias(_K),
    )
    placed = ranked.with_columns(
        place_by([pl.col(_RANK_J), pl.col(_RANK_L), pl.col(_RANK_D)], [False] * 3).alias("place"),
        (pl.col(_RANK_D) / 2).alias("rank_d"),
        (pl.col(_RANK_L) / 2).alias("rank_l"),
        ratio(pl.col(_RANK_J), 2 * weight.denominator).alias("rank_j"),
    )
    reason = pl.when(pl.col("place") > pl.col(_K)).then(pl.lit("not_in_top"))
    shown = {name: pl.col(name) for name in ("place", "rank_j", "rank_d", "rank_l", "d", "len_dedup")}
    rows = placed.with_columns(*verdict(reason, **shown, k=pl.col(_K), of=pl.len()))
    return Selection(rows=rows.drop(_RANK_D, _RANK_L, _RANK_J, _K))


def twice_rank(value: pl.Expr) -> pl.Expr:
    """Twice the average rank, 1 for the largest, as a whole number; what has no value shares the last ranks."""
    known = value.is_not_null()
    last = 2 * known.sum() + (~known).sum() + 1
    return (
        pl.when(known).then((2 * value.rank("average", descending=True)).cast(pl.Int64)).otherwise(last).cast(pl.Int64)
    )


def with_difficulty(traces: pl.LazyFrame, d_method: DMethod, column: str | None = None) -> pl.LazyFrame:
    """The traces with `d`, `d_method`, `p1` and `p0`."""
    names = traces.collect_schema().names()
    nothing = pl.lit(None, pl.Float64)
    p1, p0 = ((pl.col(p).cast(pl.Float64) if p in names else nothing) for p in ("p1", "p0"))
    if d_method == "judge":
        require("select2reason", traces, "p1", "p0")
        d = corrected(p1, p0)
    elif d_method == "judge_released":
        require("select2reason", traces, "p1", "p0", "p_returned")
        d = released(p1, p0, pl.col("p_returned").cast(pl.Float64))
    elif d_method == "column":
        kind = require("select2reason", traces, str(column))[str(column)]
        if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)):
            raise RecipeError(
                f"select2reason: column = {column!r} holds {kind}; a difficulty is a number, the larger the harder"
            )
        d = pl.col(str(column)).cast(pl.Float64)
    else:
        d = _failed_share(traces)
    said = d_method if column is None else f"column {column}"
    finite = pl.when(d.is_finite()).then(d)
    return traces.with_columns(finite.alias("d"), pl.lit(said).alias("d_method"), p1.alias("p1"), p0.alias("p0"))


def corrected(p1: pl.Expr, p0: pl.Expr) -> pl.Expr:
    """The judge's difficulty among its two answers alone; null where it gave neither."""
    both = p1.fill_null(0.0) + p0.fill_null(0.0)
    return pl.when(both > 0).then(ratio(p1.fill_null(0.0), both))


def released(p1: pl.Expr, p0: pl.Expr, returned: pl.Expr) -> pl.Expr:
    """The judge's difficulty as published: of all the probability that came back, 0 where no 1 did.

    Where no 0 came back either there is nothing to go by, and it is null.
    """
    neither = (p1.fill_null(0.0) + p0.fill_null(0.0)) <= 0
    return pl.when(~neither & (returned > 0)).then(ratio(p1.fill_null(0.0), returned))


def _failed_share(traces: pl.LazyFrame) -> pl.Expr:
    """The share that was not correct. One division of whole numbers: equal shares are equal floats, so ranks are exact."""
    if {"problem_correct", "problem_total"} <= set(traces.collect_schema().names()):
        correct, total = pl.col("problem_correct"), pl.col("problem_total")
    else:
        correct, total = pl.col("correct").sum().over("problem_id"), pl.len().over("problem_id")
    correct, total = correct.cast(pl.Int64), total.cast(pl.Int64)
    return pl.when(total > 0).then(ratio(total - correct, total))


def with_lengths(traces: pl.LazyFrame, length: LengthUnit = "tokens", workers: Workers | None = None) -> pl.LazyFrame:
    """The traces with `len_raw`, `len_dedup`, `dup_ratio`, `n_rethink_words` and `flags`; `workers` read the texts."""
    if workers is None:
        counted = _counted(traces, length)
    else:
        known = workers.rows(partial(lengths, length=length)).lazy()
        counted = anew(traces, known)
    raw = pl.col("len_raw")
    flags = [
        pl.when(pl.col("d").is_null()).then(pl.lit("no_difficulty")),
        pl.when(~pl.col(_THOUGHT)).then(pl.lit("no_thinking_part")),
        pl.when(raw.is_null()).then(pl.lit("unknown_length")),
        pl.when(_mixed(traces, length)).then(pl.lit("mixed_tokenizers")),
    ]
    return counted.with_columns(pl.concat_list(flags).list.drop_nulls().alias("flags")).drop(_THOUGHT)


def with_known_lengths(traces: pl.LazyFrame, column: str) -> pl.LazyFrame:
    """The traces with MEASURES and `flags`, their lengths without copies being those in `column`."""
    schema = require("select2reason", traces, "n_tokens", column)
    if not schema[column].is_integer():
        raise RecipeError(
            f"select2reason: length_column {column!r} holds {schema[column]}, not whole numbers of tokens"
        )
    kept, raw = pl.col(column).cast(pl.Int64), pl.col("n_tokens").cast(pl.Int64)
    flags = [
        pl.when(pl.col("d").is_null()).then(pl.lit("no_difficulty")),
        pl.when(kept.is_null()).then(pl.lit("unknown_length")),
        pl.when(_mixed(traces, "tokens")).then(pl.lit("mixed_tokenizers")),
    ]
    return traces.with_columns(
        raw.alias("len_raw"),
        kept.alias("len_dedup"),
        pl.lit(None, pl.Int64).alias("n_rethink_words"),
        pl.when(raw > 0).then(ratio(raw - kept, raw)).when(raw == 0).then(0.0).alias("dup_ratio"),
        pl.concat_list(flags).list.drop_nulls().alias("flags"),
    )


def lengths(traces: pl.LazyFrame, *, length: LengthUnit) -> pl.LazyFrame:
    """What of each row's texts counts, by `id`."""
    return _counted(traces, length).select("id", *MEASURES)


def _counted(traces: pl.LazyFrame, length: LengthUnit) -> pl.LazyFrame:
    """The traces with MEASURES, each row by itself."""
    thought = pl.col("reasoning").str.strip_chars() != ""
    thought = thought.fill_null(value=False)
    content = pl.col("content").fill_null("")
    size = _characters if length != "words" else _words
    steps = _steps(pl.col(_TEXT))
    rest = pl.when(thought).then(size(_steps(content))).otherwise(0)
    measured = traces.with_columns(
        pl.when(thought).then("reasoning").otherwise(content).alias(_TEXT), thought.alias(_THOUGHT)
    ).with_columns((size(steps) + rest).alias(_ALL), (size(steps) - size(steps.list.unique())).alias(_DUPLICATE))
    if length == "tokens":
        raw = pl.col("n_tokens").cast(pl.Int64)
        duplicate = pl.when(pl.col(_ALL) > 0).then(raw * pl.col(_DUPLICATE) // pl.col(_ALL)).otherwise(0)
    elif length == "characters":
        raw = (pl.col("reasoning").fill_null("").str.len_chars() + content.str.len_chars()).cast(pl.Int64)
        duplicate = pl.col(_DUPLICATE)
    else:
        raw, duplicate = pl.col(_ALL), pl.col(_DUPLICATE)
    counted = measured.with_columns(
        raw.alias("len_raw"),
        (raw - duplicate).alias("len_dedup"),
        rethink_words(pl.col(_TEXT)).alias("n_rethink_words"),
    )
    raw, kept = pl.col("len_raw"), pl.col("len_dedup")
    share = pl.when(raw > 0).then(ratio(raw - kept, raw)).when(raw == 0).then(0.0)
    return counted.with_columns(share.alias("dup_ratio")).drop(_TEXT, _ALL, _DUPLICATE)


def _mixed(traces: pl.LazyFrame, length: LengthUnit) -> pl.Expr:
    """Whether lengths are compared that not one tokenizer counted."""
    if length != "tokens" or "tokenizer" not in traces.collect_schema():
        return pl.lit(value=False)
    return pl.col("tokenizer").n_unique() > 1


def rethink_words(text: pl.Expr) -> pl.Expr:
    """How often a text says one of the words of rethinking, whole words in any case."""
    return text.fill_null("").str.count_matches(rf"(?i)\b(?:{'|'.join(RETHINKING)})\b").cast(pl.Int64)


def _steps(text: pl.Expr) -> pl.Expr:
    """What blank lines part. What is blank itself stays among them, of size 0: to filter within lists costs more than all else."""
    return text.str.replace_all(BLANK_LINES, "\n\n").str.split("\n\n").list.eval(pl.element().str.strip_chars())


def _characters(steps: pl.Expr) -> pl.Expr:
    return steps.list.eval(pl.element().str.len_chars()).list.sum().cast(pl.Int64)


def _words(steps: pl.Expr) -> pl.Expr:
    return steps.list.eval(pl.element().str.count_matches(r"\S+")).list.sum().cast(pl.Int64)
