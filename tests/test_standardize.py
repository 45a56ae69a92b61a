"""The selector `standardize`: a mean of 0 and a deviation of 1, whatever the order."""

import math
import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracemill.schemas.errors import RecipeError
from tracemill.selectors.standardize import standardize


def standard(values: list[float | None], per: list[str] | None = None) -> list[float | None]:
    groups = per or ["g"] * len(values)
    frame = pl.LazyFrame(
        {"id": [f"r{i}" for i in range(len(values))], "g": groups, "w": pl.Series(values, dtype=pl.Float64)}
    )
    found = standardize(frame, column="w", into="weight", per=("g",) if per else ()).rows.collect()
    assert found["selected"].all()
    assert found["id"].to_list() == [f"r{i}" for i in range(len(values))]
    return found["weight"].to_list()


def test_by_hand():
    assert standard([2.75, -2.0]) == [1.0, -1.0]
    assert standard([1, 2, 6]) == pytest.approx([-2 / math.sqrt(14 / 3), -1 / math.sqrt(14 / 3), 3 / math.sqrt(14 / 3)])


def test_within_groups():
    assert standard([1, 3, 10, 30], ["a", "a", "b", "b"]) == [-1.0, 1.0, -1.0, 1.0]


def test_equal_values_are_0_and_what_is_no_number_stays_null_and_counts_in_no_mean():
    assert standard([0.1, 0.1, 0.1]) == [0.0, 0.0, 0.0]
    assert standard([1, None, math.nan, 3, math.inf]) == [-1.0, None, None, 1.0, None]
    assert standard([None, None]) == [None, None]
    assert standard([]) == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_order_changes_no_bit(values: list[float], shuffle: random.Random):
    mixed = list(enumerate(values))
    shuffle.shuffle(mixed)
    found = dict(zip((i for i, _ in mixed), standard([value for _, value in mixed]), strict=True))
    assert [found[i] for i in range(len(values))] == standard(list(values))


def test_a_column_that_is_not_there_or_holds_no_numbers_is_refused():
    frame = pl.LazyFrame({"id": ["a"], "w": [1.0], "v": [2.0], "text": ["x"]})
    with pytest.raises(RecipeError, match="no column 'ww'; did you mean 'w'"):
        standardize(frame, column="ww", into="weight")
    with pytest.raises(RecipeError, match="holds String, not numbers"):
        standardize(frame, column="text", into="weight")
    with pytest.raises(RecipeError, match="have a column 'w' already"):
        standardize(frame, column="v", into="w")
    with pytest.raises(ValueError, match="column and into are both 'w'"):
        standardize(frame, column="w", into="w")
