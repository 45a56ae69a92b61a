"""Keep traces that turn round on themselves as often as wanted: `wait`, `let me check`, `hmm`."""

from functools import partial

import polars as pl

from tracemill.filters.bounds import check_bounds
from tracemill.filters.texts import first_reason, judge_texts
from tracemill.schemas.cues import CueList, cue_count, cue_counts

NEEDS = ("messages", "n_tokens")


def reflection(
    *,
    column: str | None = None,
    at_least: int | None = None,
    at_most: int | None = None,
    at_least_per_1000_tokens: float | None = None,
    at_most_per_1000_tokens: float | None = None,
    cues: CueList = "all",
) -> pl.Expr:
    """Keep a text with so many reflection cues, both ends inside, by number or by 1,000 tokens.

    The cues are those of `schemas/cues.py`, whole words in any case, without code between fences: `all` is the published list of ARLCP,
    in which `but`, `however` and `check` count as they do in plain prose; `strict` leaves out what prose has anyway. Without
    `column`: the whole trace, thoughts included; only there are tokens known, `n_tokens`, so shares take no `column`.
    An empty text has no cue. Reasons: `few_reflections`, `many_reflections`, and `unknown_length` for a share of no tokens.
    """
    shares = (at_least_per_1000_tokens, at_most_per_1000_tokens)
    shared = any(bound is not None for bound in shares)
    if at_least is not None or at_most is not None or not shared:
        check_bounds(at_least, at_most)
    if shared and column is not None:
        raise ValueError(f"tokens are known of whole traces, not of column = {column!r}: leave one of the two out")
    for bound in shares:
        if bound is not None and not bound >= 0:
            raise ValueError(f"{bound} cues per 1,000 tokens: must be 0 or more")
    low, high = shares
    if low is not None and high is not None and low > high:
        raise ValueError(f"at least {low} is above at most {high} per 1,000 tokens: nothing would be kept")
    measure = partial(_measure, numbers=(at_least, at_most), shares=shares, cues=cues)
    return judge_texts("reflection", column, measure, also=("n_tokens",) if shared else ())


def _measure(
    texts: pl.DataFrame,
    *,
    numbers: tuple[int | None, int | None],
    shares: tuple[float | None, float | None],
    cues: CueList,
) -> pl.DataFrame:
    shared = shares != (None, None)
    found = pl.col("reflections").cast(pl.Int64)
    tokens = pl.col("n_tokens")
    rules = [("unknown_length", tokens.is_null() | (tokens < 1))] if shared else []
    for (low, high), size, unit in ((numbers, found, 1), (shares, found * 1000, tokens)):
        rules += [("few_reflections", size < low * unit)] if low is not None else []
        rules += [("many_reflections", size > high * unit)] if high is not None else []
    measured = texts.with_columns(reflections=cue_count(pl.col("text"), cues)).with_columns(reason=first_reason(*rules))
    down = measured.with_row_index("row").filter(pl.col("reason").is_not_null())
    shown = down.select("row", cues=cue_counts(pl.col("text"), cues))
    told = measured.with_row_index("row").join(shown, on="row", how="left", maintain_order="left")
    rate = [(found * 1000 / tokens).round(4).alias("per_1000_tokens"), tokens] if shared else []
    bounds = {"at_least": numbers[0], "at_most": numbers[1]}
    bounds_shares = {"at_least_per_1000_tokens": shares[0], "at_most_per_1000_tokens": shares[1]}
    limits = [pl.lit(v).alias(k) for k, v in (bounds | bounds_shares).items() if v is not None]
    return told.select("reason", "reflections", *rate, *limits, "cues")
