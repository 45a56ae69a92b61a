"""Numbers with a lower and an upper end, as several filters take them."""

import polars as pl

from tracemill.schemas.plugins import reject


def check_bounds(at_least: int | None, at_most: int | None) -> None:
    """Raise ValueError unless the two bounds leave room and say something."""
    if at_least is None and at_most is None:
        raise ValueError("needs at_least, at_most or both")
    for name, bound in (("at_least", at_least), ("at_most", at_most)):
        if bound is not None and bound < 0:
            raise ValueError(f"{name} = {bound}: must be 0 or more")
    if at_least is not None and at_most is not None and at_least > at_most:
        raise ValueError(f"at_least = {at_least} is above at_most = {at_most}: nothing would be kept")


def outside(size: pl.Expr, at_least: int | None, at_most: int | None, *, unit: str, **evidence: str) -> pl.Expr:
    """The verdict on a size: `unknown_length`, `too_short`, `too_long`, or null where it lies within the bounds."""
    shown = {unit: size, "at_least": at_least, "at_most": at_most, **evidence}
    verdicts = [reject(size.is_null(), "unknown_length", **shown)]
    if at_least is not None:
        verdicts.append(reject(size < at_least, "too_short", **shown))
    if at_most is not None:
        verdicts.append(reject(size > at_most, "too_long", **shown))
    return pl.coalesce(verdicts)
