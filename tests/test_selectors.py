"""Selectors: every row comes back, the choice is the one a person would make by hand, and order of arrival does not matter."""

import json
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.rows import draw
from tracemill.selectors import keep as keep_module
from tracemill.selectors import pass_rate as pass_rate_module
from tracemill.selectors.keep import keep, places_by_likeness
from tracemill.selectors.pass_rate import pass_rate

SCHEMA = {
    "id": pl.String,
    "problem_id": pl.String,
    "correct": pl.Boolean,
    "answer": pl.String,
    "gold": pl.String,
    "verdict": pl.String,
    "n_tokens": pl.Int64,
    "content": pl.String,
    "model": pl.String,
}


def table(*rows: dict[str, Any]) -> pl.LazyFrame:
    """Traces; a row that does not say otherwise is a correct one of problem p."""
    filled = [{"id": f"p/{i}", "problem_id": "p", "correct": True, "n_tokens": 10, **row} for i, row in enumerate(rows)]
    return pl.LazyFrame(filled, schema=SCHEMA)


def chosen(rows: pl.LazyFrame) -> list[str]:
    return rows.filter("selected").sort("id").collect()["id"].to_list()


def why(rows: pl.LazyFrame) -> dict[str, tuple[str, dict[str, Any]]]:
    found = rows.filter(~pl.col("selected")).collect()
    return {row["id"]: (row["reason"], json.loads(row["evidence"])) for row in found.to_dicts()}


some_rows = st.lists(
    st.fixed_dictionaries(
        {
            "problem_id": st.sampled_from(["p", "q", "r"]),
            "correct": st.sampled_from([True, True, False, None]),
            "n_tokens": st.none() | st.integers(0, 4),
            "content": st.none() | st.text("ab ", max_size=8),
            "model": st.sampled_from(["a", "b"]),
        }
    ),
    max_size=24,
)


@given(
    rows=some_rows,
    prefer=st.sampled_from(["shortest", "longest", "random", "central"]),
    k=st.integers(1, 3),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_keep_returns_every_row_and_chooses_alike_in_any_order(
    rows: Any, prefer: Any, k: int, data: st.DataObject
) -> None:
    traces = table(*rows)
    kept = keep(traces, prefer=prefer, k=k).rows.collect()
    assert kept.select(*SCHEMA).equals(traces.collect())
    assert kept.select(pl.col("selected") == pl.col("reason").is_null())["selected"].all()
    assert kept.select(pl.col("selected") == pl.col("evidence").is_null())["selected"].all()
    candidates = kept.filter(pl.col("correct"))["problem_id"].value_counts()
    taken = dict(kept.filter("selected")["problem_id"].value_counts().iter_rows())
    assert taken == {problem: min(k, count) for problem, count in candidates.iter_rows()}
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = keep(traces.collect()[list(order)].lazy() if rows else traces, prefer=prefer, k=k).rows.collect()
    assert shuffled.sort("id").equals(kept.sort("id"))


@given(rows=some_rows, k=st.integers(1, 3), prefer=st.sampled_from(["shortest", "longest", "random"]))
@settings(max_examples=60, deadline=None)
def test_keep_agrees_with_sorting_by_hand(rows: Any, k: int, prefer: Any) -> None:
    traces = table(*rows)
    orders: dict[str, Any] = {
        "shortest": lambda row: (row["n_tokens"] is None, row["n_tokens"] or 0),
        "longest": lambda row: (row["n_tokens"] is None, -(row["n_tokens"] or 0)),
        "random": lambda row: draw(f"7|{row['id']}"),
    }
    expected: list[str] = []
    for problem in ("p", "q", "r"):
        group = [row for row in traces.collect().to_dicts() if row["problem_id"] == problem and row["correct"]]
        expected += [row["id"] for row in sorted(group, key=lambda row: (orders[prefer](row), row["id"]))[:k]]
    assert chosen(keep(traces, prefer=prefer, k=k, seed=7).rows) == sorted(expected)


def test_the_shortest_correct_trace_is_kept_and_the_others_say_why() -> None:
    rows = keep(
        table(
            {"n_tokens": 30},
            {"n_tokens": 20},
            {"n_tokens": 5, "correct": False, "answer": "6", "gold": "7", "verdict": "different"},
            {"n_tokens": 4, "correct": None, "verdict": "undecided: no answer"},
        )
    ).rows
    assert chosen(rows) == ["p/1"]
    assert why(rows) == {
        "p/0": (
            "not_shortest",
            {"rank": 2, "of": 2, "k": 1, "n_tokens": 30, "chosen": [{"id": "p/1", "n_tokens": 20}]},
        ),
        "p/2": ("wrong", {"answer": "6", "gold": "7", "verdict": "different"}),
        "p/3": ("undecided", {"answer": None, "gold": None, "verdict": "undecided: no answer"}),
    }


def test_ties_go_to_the_smaller_id() -> None:
    for prefer in ("shortest", "longest", "central"):
        assert chosen(keep(table({}, {}, {}), prefer=prefer).rows) == ["p/0"]


def test_a_seed_draws_anew_and_the_same_seed_draws_alike() -> None:
    traces = table(*({} for _ in range(64)))
    draws = [chosen(keep(traces, prefer="random", k=4, seed=seed).rows) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_a_lot_does_not_depend_on_who_else_is_there() -> None:
    traces = table(*({} for _ in range(32)))
    first = chosen(keep(traces, prefer="random").rows)
    rest = traces.filter(pl.col("id").is_in([*first, "p/3", "p/4"]))
    assert chosen(keep(rest, prefer="random").rows) == first


def test_the_most_central_trace_shares_most_words_with_the_others() -> None:
    contents = ["a b c d e", "a b c d x", "a b c z z", "u v w", None]
    assert chosen(keep(table(*({"content": c} for c in contents)), prefer="central").rows) == ["p/0"]
    # by hand: 0 and 1 share 2 of 4 shingles, each shares 1 of 5 with 2; so 0 and 1 tie at 7/10, 2 has 4/10, the rest none
    assert places_by_likeness(contents) == [0, 0, 1, 2, 2]


def test_wrong_traces_compete_only_when_asked_to() -> None:
    traces = table({"n_tokens": 9}, {"n_tokens": 3, "correct": False}, {"n_tokens": 4, "correct": None})
    assert chosen(keep(traces).rows) == ["p/0"]
    assert chosen(keep(traces, correct_only=False).rows) == ["p/1"]


def test_a_group_may_be_finer_than_a_problem() -> None:
    traces = table({"model": "a"}, {"model": "a"}, {"model": "b"}, {"model": None}, {"model": None})
    assert chosen(keep(traces, per=("problem_id", "model")).rows) == ["p/0", "p/2", "p/3"]


def test_a_group_by_a_column_that_is_not_there_is_the_recipes_fault() -> None:
    with pytest.raises(RecipeError, match=r"no column \['colour'\]"):
        keep(table({}), per=("problem_id", "colour"))


@pytest.mark.parametrize(
    ("options", "message"), [({"k": 0, "per": ("id",)}, "k = 0: keep at least one"), ({"k": 1, "per": ()}, "per = ")]
)
def test_keep_refuses_options_that_cannot_work(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keep_module.check(**options)


@given(rows=some_rows, bounds=st.lists(st.integers(0, 20), min_size=2, max_size=2).map(sorted))
@settings(max_examples=80, deadline=None)
def test_pass_rate_agrees_with_fractions(rows: Any, bounds: list[int]) -> None:
    low, high = (bound / 20 for bound in bounds)
    traces = table(*rows)
    kept = pass_rate(traces, at_least=low, at_most=high).rows.collect()
    assert kept.select(*SCHEMA).equals(traces.collect())
    for row in kept.to_dicts():
        group = [other for other in rows if other["problem_id"] == row["problem_id"]]
        rate = Fraction(sum(other["correct"] is True for other in group), len(group))
        inside = Fraction(bounds[0], 20) <= rate <= Fraction(bounds[1], 20)
        assert row["selected"] == inside
        assert row["reason"] == (None if inside else "too_hard" if rate < Fraction(bounds[0], 20) else "too_easy")


def test_a_bound_means_what_was_written() -> None:
    tenth = table(*({"correct": i < 3} for i in range(30)))  # 3 * (1 / 30) > 0.1 in floats
    assert len(chosen(pass_rate(tenth, at_least=0.1, at_most=0.1).rows)) == 30


def test_undecided_samples_are_in_the_total_and_never_correct() -> None:
    rows = pass_rate(table({}, {"correct": None}, {"correct": None}), at_least=0.5).rows
    assert why(rows)["p/0"] == (
        "too_hard",
        {"correct": 1, "total": 3, "undecided": 2, "at_least": 0.5, "at_most": 1.0},
    )


def test_a_pass_rate_counts_what_the_filters_dropped() -> None:
    kept_by_filters = table({}, {}).with_columns(problem_correct=2, problem_total=8, problem_undecided=1)
    assert chosen(pass_rate(kept_by_filters, at_least=0.1, at_most=0.6).rows) == ["p/0", "p/1"]
    assert chosen(pass_rate(table({}, {}), at_least=0.1, at_most=0.6).rows) == []


def test_a_problem_nobody_tried_has_no_rate() -> None:
    traces = table({}, {}).with_columns(
        problem_correct=pl.lit(0), problem_total=pl.Series([0, None], dtype=pl.Int64), problem_undecided=pl.lit(0)
    )
    assert {reason for reason, _ in why(pass_rate(traces).rows).values()} == {"not_sampled"}


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (-0.1, 1.0, "at_least = -0.1: a pass rate lies between 0 and 1"),
        (0.0, float("nan"), "at_most = nan"),
        (0.7, 0.6, "nothing would be kept"),
        (1 / 3, 1.0, "at most 9 decimals"),
    ],
)
def test_pass_rate_refuses_bands_that_cannot_work(low: float, high: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_rate_module.check(at_least=low, at_most=high)


@pytest.mark.parametrize(("prefer", "first"), [("shortest", "p/1"), ("longest", "p/2")])
def test_a_trace_of_unknown_length_comes_last(prefer: Any, first: str) -> None:
    assert chosen(keep(table({"n_tokens": None}, {"n_tokens": 1}, {"n_tokens": 2}), prefer=prefer).rows) == [first]
