"""Keep traces of a sensible number of tokens."""

import polars as pl

from tracemill.filters.bounds import check_bounds, outside

NEEDS = ("n_tokens",)


def length(*, at_least: int | None = None, at_most: int | None = None) -> pl.Expr:
    """Keep a trace of `at_least` to `at_most` tokens, both ends inside, in the tokens of the solver's tokenizer.

    Where the column `tokenizer` says `words` (the server counted nothing, say), these are words.
    """
    check_bounds(at_least, at_most)
    return outside(pl.col("n_tokens"), at_least, at_most, unit="n_tokens")
