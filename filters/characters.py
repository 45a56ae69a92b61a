"""Keep texts of a sensible number of characters: of traces, or of problems before a token is spent on them."""

import polars as pl

from tracemill.filters.bounds import check_bounds, outside


def characters(*, column: str = "content", at_least: int | None = None, at_most: int | None = None) -> pl.Expr:
    """Keep a row whose text in `column` has `at_least` to `at_most` characters, both ends inside.

    Under `[[source.keep]]` the column is one of the problem's, such as `question`.
    """
    check_bounds(at_least, at_most)
    if not column:
        raise ValueError("column = '': name a text column, such as 'content' or 'question'")
    return outside(pl.col(column).str.len_chars(), at_least, at_most, unit="characters", column=column)
