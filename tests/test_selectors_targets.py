"""stratified, budget and exact_target: counts met exactly or stated as short, every row back, the same rows in any order."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, product
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.pipelines.recipes import catalog
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Step
from tracemill.schemas.rows import Selection, draw
from tracemill.selectors import budget as budget_module
from tracemill.selectors import exact_target as exact_target_module
from tracemill.selectors import stratified as stratified_module
from tracemill.selectors.budget import budget
from tracemill.selectors.exact_target import exact_target
from tracemill.selectors.shares import greedy_fill, greedy_fills, ratio, spread
from tracemill.selectors.stratified import stratified

SCHEMA = {"id": pl.String, "difficulty": pl.String, "d": pl.Float64, "n_tokens": pl.Int64, "source": pl.String}


def table(*rows: dict[str, Any]) -> pl.LazyFrame:
    filled = [{"id": f"r{i:02}", "difficulty": "easy", "n_tokens": 10, **row} for i, row in enumerate(rows)]
    return pl.LazyFrame(filled, schema=SCHEMA)


def lengths(*sizes: int | None) -> pl.LazyFrame:
    return table(*({"n_tokens": size} for size in sizes))


def chosen(selection: Selection) -> list[str]:
    return selection.rows.filter("selected").sort("id").collect()["id"].to_list()


def why(selection: Selection) -> dict[str, tuple[str, dict[str, Any]]]:
    found = selection.rows.filter(~pl.col("selected")).collect()
    return {row["id"]: (row["reason"], json.loads(row["evidence"])) for row in found.to_dicts()}


def holds(traces: pl.LazyFrame, selection: Selection) -> pl.DataFrame:
    """Every row came back once and as it was, with a reason and evidence exactly where it was not selected."""
    rows = selection.rows.collect()
    assert rows.columns == [*SCHEMA, "selected", "reason", "evidence"]
    assert rows.select(*SCHEMA).equals(traces.collect())
    assert rows["selected"].null_count() == 0
    assert rows.select(pl.col("selected") == pl.col("reason").is_null())["selected"].all()
    assert rows.select(pl.col("selected") == pl.col("evidence").is_null())["selected"].all()
    return rows


def same_when_shuffled(traces: pl.LazyFrame, seed: int, select: Callable[[pl.LazyFrame], Selection]) -> bool:
    frame = traces.collect()
    order = random.Random(seed).sample(range(frame.height), frame.height)
    first, again = select(traces), select(frame[order].lazy())
    for name, found in first.tables.items():
        known = found.collect()
        assert known.sort(known.columns).equals(again.tables[name].collect().sort(known.columns)), name
    return bool(first.rows.sort("id").collect().equals(again.rows.sort("id").collect()))


some_rows = st.lists(
    st.fixed_dictionaries(
        {
            "difficulty": st.none() | st.sampled_from(["easy", "hard", "odd"]),
            "d": st.none() | st.sampled_from([0.0, 0.25, 0.5, 0.99, 1.0, math.nan]),
            "n_tokens": st.none() | st.integers(0, 9),
            "source": st.sampled_from(["a", "b"]),
        }
    ),
    max_size=18,
)

# ---- whole-number shares


@pytest.mark.parametrize(
    ("total", "weights", "caps", "shares"),
    [
        (10, [1, 1, 1], [9, 9, 9], [4, 3, 3]),  # the remainder goes to the first of equals
        (7, [50, 30, 20], [9, 9, 9], [4, 2, 1]),  # 3.5, 2.1, 1.4
        (10, [6, 3, 1], [2, 9, 9], [2, 6, 2]),  # what the first cannot give the others do, 3 to 1
        (10, [6, 3, 1], [2, 3, 9], [2, 3, 5]),
        (99, [1, 1], [2, 3], [2, 3]),
        (5, [0, 1], [9, 3], [0, 3]),
        (5, [], [], []),
        (0, [3, 4], [3, 4], [0, 0]),
    ],
)
def test_shares_are_whole_and_by_largest_remainder(total: int, weights: Any, caps: Any, shares: Any):
    assert spread(total, weights, caps) == shares


@given(total=st.integers(0, 60), parts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8))
def test_shares_add_up_keep_to_their_caps_and_stay_within_one_of_their_due(total: int, parts: list[tuple[int, int]]):
    weights, caps = [weight for weight, _ in parts], [cap for _, cap in parts]
    shares = spread(total, weights, caps)
    assert sum(shares) == min(total, sum(cap for weight, cap in parts if weight))
    assert all(0 <= share <= cap for share, cap in zip(shares, caps, strict=True))
    open_ = [i for i in range(len(parts)) if shares[i] < caps[i] and weights[i]]
    for i, j in product(open_, repeat=2):
        assert abs(Fraction(shares[i], weights[i]) - Fraction(shares[j], weights[j])) < Fraction(1, weights[i]) + Fraction(1, weights[j])  # fmt: skip


@given(sizes=st.lists(st.integers(0, 12), max_size=200), room=st.integers(0, 300))
def test_a_greedy_fill_by_runs_is_the_one_row_by_row(sizes: list[int], room: int):
    by_hand, left = [], room
    for size in sizes:
        by_hand.append(size <= left)
        left -= size if size <= left else 0
    assert greedy_fill(np.array(sizes, dtype=np.int64), room).tolist() == by_hand


@given(groups=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=100), max_size=8), room=st.integers(0, 90))
def test_groups_filled_side_by_side_are_filled_as_each_alone(groups: list[list[int]], room: int):
    sizes = np.array([size for group in groups for size in group], dtype=np.int64)
    starts = np.cumsum([0, *(len(group) for group in groups)], dtype=np.int64)[:-1]
    alone = [greedy_fill(np.array(group, dtype=np.int64), room) for group in groups]
    assert greedy_fills(sizes, starts, room).tolist() == [bool(taken) for group in alone for taken in group]


def test_a_ratio_has_the_same_last_bit_wherever_its_row_stands():
    part = pl.Series("part", [i % 977 for i in range(5001)])
    found = part.to_frame().select(ratio(pl.col("part"), 20))["part"].to_list()
    assert found == [i % 977 / 20 for i in range(5001)]


# ---- stratified

KINDS = table(*({"difficulty": kind} for kind in ["easy"] * 10 + ["hard"] * 6 + ["odd"] * 3 + [None]))


def taken(selection: Selection, column: str = "difficulty") -> dict[Any, int]:
    return dict(selection.rows.filter("selected").collect()[column].value_counts().iter_rows())


def strata(selection: Selection) -> dict[Any, tuple[int, int, int]]:
    rows = selection.tables["strata"].collect().select("stratum", "rows", "wanted", "taken").iter_rows()
    return {json.loads(stratum)["difficulty"]: tuple(counts) for stratum, *counts in rows}


def test_so_many_rows_of_every_value_and_what_a_value_is_short_of():
    found = stratified(KINDS, by=("difficulty",), each=4)
    assert taken(found) == {"easy": 4, "hard": 4, "odd": 3, None: 1}
    assert strata(found) == {None: (1, 4, 1), "easy": (10, 4, 4), "hard": (6, 4, 4), "odd": (3, 4, 3)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"k": 10}, {"easy": 5, "hard": 3, "odd": 2}),  # 5, 3, 1.5, 0.5: of equal remainders the larger value's
        ({"percent": 50}, {"easy": 5, "hard": 3, "odd": 2}),
        ({"k": 9}, {"easy": 5, "hard": 3, "odd": 1}),  # 4.5, 2.7, 1.35, 0.45
        ({"k": 12, "share": "even"}, {"easy": 4, "hard": 4, "odd": 3, None: 1}),
        ({"k": 10, "at_most": 4}, {"easy": 4, "hard": 4, "odd": 2}),  # 4, then 6 among 6, 3, 1: 3.6, 1.8, 0.6
        ({"k": 99}, {"easy": 10, "hard": 6, "odd": 3, None: 1}),
        ({"percent": 1}, {}),  # a fifth of a row, rounded down
    ],
)
def test_rows_in_all_are_shared_out_among_the_values(options: Any, expected: dict[str, int]):
    assert taken(stratified(KINDS, by=("difficulty",), **options)) == expected


def test_within_a_value_rows_come_by_lot_or_in_the_order_asked_for():
    rows = lengths(30, 10, None, 20, 20)
    by_lot = sorted((f"r{i:02}" for i in range(5)), key=lambda name: draw(f"3|{name}"))[:2]
    assert chosen(stratified(rows, by=("difficulty",), each=2, seed=3)) == sorted(by_lot)
    assert chosen(stratified(rows, by=("difficulty",), each=2, order=("n_tokens",))) == ["r01", "r03"]
    assert chosen(stratified(rows, by=("difficulty",), each=2, order=("-n_tokens",))) == ["r00", "r03"]
    assert why(stratified(rows, by=("difficulty",), each=4, order=("n_tokens",)))["r02"] == (
        "over_quota",
        {"stratum": {"difficulty": "easy"}, "place": 5, "quota": 4, "of": 5},
    )


def test_strata_by_two_columns_are_their_pairs():
    rows = table(*({"difficulty": d, "source": s} for d, s in product(("x", None), ("a", "b")) for _ in range(2)))
    found = stratified(rows, by=("difficulty", "source"), each=1)
    assert len(chosen(found)) == 4


@given(rows=some_rows, k=st.integers(1, 20), share=st.sampled_from(["proportional", "even"]), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_stratified_gives_back_every_row_and_chooses_alike_in_any_order(rows: Any, k: int, share: Any, seed: int):
    traces = table(*rows)
    kept = holds(traces, stratified(traces, by=("difficulty",), k=k, share=share))
    assert kept["selected"].sum() == min(k, len(rows))
    assert same_when_shuffled(traces, seed, lambda t: stratified(t, by=("difficulty",), k=k, share=share))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": ()}, "by = "),
        ({"each": 1, "k": 1}, "give one, rows of every value or rows in all"),
        ({"each": 0}, "each = 0: at least one row"),
        ({}, "give one of them"),
        ({"k": 3, "at_most": 0}, "at_most = 0"),
    ],
)
def test_stratified_refuses_options_that_cannot_work(options: Any, message: str):
    defaults = {"by": ("difficulty",), "each": None, "k": None, "percent": None, "at_most": None}
    with pytest.raises(ValueError, match=message):
        stratified_module.check(**{**defaults, **options})


# ---- budget


def test_a_prefix_stops_at_the_first_row_that_does_not_fit_and_a_greedy_fill_goes_on():
    rows = lengths(40, 30, 50, None, 20, 10)
    prefix = budget(rows, tokens=100, order=("id",))
    assert chosen(prefix) == ["r00", "r01"]
    assert why(prefix)["r04"] == ("over_budget", {"n_tokens": 20, "place": 5, "tokens": 100, "with_all_before": 140})
    assert why(prefix)["r03"][0] == "unknown_length"
    assert prefix.tables["budgets"].collect().to_dicts() == [
        {"budget": "{}", "rows": 6, "taken": 2, "tokens": 100, "used": 70, "left": 30}
    ]
    greedy = budget(rows, tokens=100, order=("id",), rule="greedy")
    assert chosen(greedy) == ["r00", "r01", "r04", "r05"]
    assert greedy.tables["budgets"].collect()["left"].to_list() == [0]


@pytest.mark.parametrize("rule", ["prefix", "greedy"])
def test_a_budget_may_be_filled_to_the_last_token(rule: Any):
    assert chosen(budget(lengths(40, 30, 5), tokens=70, order=("id",), rule=rule)) == ["r00", "r01"]


def test_every_group_has_a_budget_of_its_own():
    rows = table(*({"n_tokens": n, "source": s} for n, s in [(5, "a"), (6, "a"), (5, "b"), (4, "b"), (9, "b")]))
    for rule in ("prefix", "greedy"):
        found = budget(rows, tokens=10, per=("source",), order=("id",), rule=rule)  # type: ignore[arg-type]
        assert chosen(found) == ["r00", "r02", "r03"]
        used = {
            json.loads(row["budget"])["source"]: row["used"] for row in found.tables["budgets"].collect().to_dicts()
        }
        assert used == {"a": 5, "b": 9}


@given(
    rows=some_rows,
    tokens=st.integers(1, 60),
    rule=st.sampled_from(["prefix", "greedy"]),
    per=st.sampled_from([(), ("source",), ("difficulty", "source")]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_budget_gives_back_every_row_and_agrees_with_filling_by_hand(
    rows: Any, tokens: int, rule: Any, per: Any, seed: int
):
    traces = table(*rows)
    kept = holds(traces, budget(traces, tokens=tokens, rule=rule, per=per, seed=seed)).to_dicts()
    expected, used, closed = set(), Counter[Any](), set()
    for row in sorted(kept, key=lambda row: draw(f"{seed}|{row['id']}")):
        group = tuple(row[name] for name in per)
        if row["n_tokens"] is None or group in closed:
            continue
        if used[group] + row["n_tokens"] <= tokens:
            used[group] += row["n_tokens"]
            expected.add(row["id"])
        elif rule == "prefix":
            closed.add(group)
    assert {row["id"] for row in kept if row["selected"]} == expected
    assert same_when_shuffled(traces, seed, lambda t: budget(t, tokens=tokens, rule=rule, per=per, seed=seed))


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="tokens = 0"):
        budget_module.check(tokens=0)
    with pytest.raises(RecipeError, match="no column 'n_token'; did you mean 'n_tokens'"):
        budget(lengths(1), tokens=5, order=("n_token",))


# ---- exact_target


def shortfall(selection: Selection) -> dict[Any, tuple[Any, ...]]:
    rows = selection.tables["shortfall"].collect().iter_rows()
    return {target if value is None else value: tuple(rest) for target, value, *rest in rows}


MIXED = table(*({"difficulty": d, "n_tokens": n} for d in ("easy", "hard", "odd") for n in range(10)))


def test_so_many_rows_in_the_histogram_that_was_asked_for():
    found = exact_target(MIXED, rows=10, by="difficulty", histogram={"hard": 0.7, "easy": 0.3})
    assert taken(found) == {"easy": 3, "hard": 7}
    assert shortfall(found) == {"rows": (10, 10, 20, 0), "easy": (3, 3, 10, 0), "hard": (7, 7, 10, 0)}
    reasons = Counter(reason for reason, _ in why(found).values())
    assert reasons == {"not_in_histogram": 10, "quota_full": 10}
    counts = exact_target(MIXED, rows=10, by="difficulty", histogram={"easy": 3, "hard": 7})
    assert chosen(counts) == chosen(found)


def test_shares_become_whole_rows_by_largest_remainder():
    thirds = {"easy": 0.333333, "hard": 0.333333, "odd": 0.333334}
    assert taken(exact_target(MIXED, rows=10, by="difficulty", histogram=thirds)) == {"easy": 3, "hard": 3, "odd": 4}


def test_a_histogram_that_cannot_be_met_says_by_how_much():
    asked = {"rows": 16, "by": "difficulty", "histogram": {"hard": 0.75, "easy": 0.25}}
    fewer = exact_target(MIXED, **asked)
    assert shortfall(fewer) == {"rows": (16, 14, 20, 2), "easy": (4, 4, 10, 0), "hard": (12, 10, 10, 2)}
    assert {evidence["rows_short"] for _, evidence in why(fewer).values()} == {2}
    filled = exact_target(MIXED, **asked, if_short="fill")
    assert shortfall(filled) == {"rows": (16, 16, 20, 0), "easy": (4, 6, 10, -2), "hard": (12, 10, 10, 2)}
    assert len(chosen(exact_target(MIXED, rows=100))) == 30
    assert shortfall(exact_target(MIXED, rows=100))["rows"] == (100, 30, 30, 70)


def test_a_histogram_over_ranges_counts_the_low_end_in_and_the_high_end_out():
    rows = table(*({"d": d} for d in (0.0, 0.49, 0.5, 0.99, 1.0, None, math.nan)))
    found = exact_target(rows, rows=4, by="d", histogram={"..0.5": 2, "0.5..1": 2}, order=("id",))
    assert chosen(found) == ["r00", "r01", "r02", "r03"]
    assert why(found)["r04"] == (
        "not_in_histogram",
        {"value": "1.0", "bin": None, "place": 1, "quota": None, "rows_short": 0},
    )


def test_a_median_is_met_by_the_fewest_exchanges_in_the_order_asked_for():
    found = exact_target(lengths(1, 2, 3, 7, 8, 9), rows=3, median=7, order=("id",))
    assert chosen(found) == ["r00", "r03", "r04"], "1 stays, 2 and 3 make room"
    assert shortfall(found)["median_length"] == (7, 7, None, 0)
    assert why(found)["r01"][0] == "exchanged_for_length"
    assert exact_target(lengths(1, 2, 3, 7), rows=3, median=2, order=("id",)).rows.collect()["selected"].to_list() == [
        True, True, True, False,
    ]  # fmt: skip


def test_a_median_that_the_pool_does_not_have_is_the_nearest_and_says_so():
    found = exact_target(lengths(1, 2, 3, 20, 21), rows=3, median=10, tolerance=2)
    assert shortfall(found)["median_length"] == (10, 3, None, 5)
    assert chosen(found)


def test_a_mean_is_met_by_exchanges_of_long_for_short():
    found = exact_target(lengths(9, 9, 9, 1, 2, 3, None), rows=3, mean=6, tolerance=1, order=("id",))
    assert shortfall(found)["mean_length"] == (18, 19, None, 0)
    assert chosen(found) == ["r00", "r01", "r03"]
    assert why(found)["r06"][0] == "unknown_length"
    far = exact_target(lengths(9, 9, 1), rows=2, mean=20, tolerance=1, order=("id",))
    assert shortfall(far)["mean_length"] == (40, 18, None, 20)


def test_a_mean_is_met_by_no_more_exchanges_than_it_takes():
    found = exact_target(lengths(9, 9, 9, 1, 7, 8), rows=3, mean=6, tolerance=1, order=("id",))
    assert chosen(found) == ["r00", "r01", "r03"], "9 for 1 is enough; 9 for 7 would fit too"


def test_a_median_may_take_exchanges_on_both_sides():
    kinds = [("easy", 1), ("easy", 1), ("easy", 9), ("hard", 9), ("hard", 5)]
    rows = table(*({"difficulty": kind, "n_tokens": n} for kind, n in kinds))
    asked = {"by": "difficulty", "histogram": {"easy": 2, "hard": 1}, "order": ("id",)}
    found = exact_target(rows, rows=3, median=5, **asked)  # type: ignore[arg-type]
    assert chosen(found) == ["r00", "r02", "r04"], "easy has nothing near: one of its 1s for 9, and so hard's 9 for 5"


def test_an_empty_pool_and_a_pool_of_one_say_what_is_missing():
    empty = exact_target(table(), rows=5, by="difficulty", histogram={"easy": 5}, median=3)
    assert shortfall(empty) == {
        "rows": (5, 0, 0, 5),
        "easy": (5, 0, 0, 5),
        "median_length": (3, None, None, None),
    }
    assert chosen(exact_target(lengths(4), rows=1, median=4)) == ["r00"]
    assert shortfall(exact_target(lengths(4), rows=1, mean=3))["mean_length"] == (3, 4, None, 1)


def best_median(rows: list[dict[str, Any]], quotas: dict[str, int], aim: int) -> int:
    """How near the lower median can come, by trying every choice."""
    pools = [[r["n_tokens"] for r in rows if r["difficulty"] == name] for name in quotas]
    choices = product(*(combinations(pool, quota) for pool, quota in zip(pools, quotas.values(), strict=True)))
    medians = (sorted(sum(choice, ()))[(sum(quotas.values()) - 1) // 2] for choice in choices)
    return min(abs(median - aim) for median in medians)


@given(
    rows=st.lists(
        st.fixed_dictionaries({"difficulty": st.sampled_from(["easy", "hard"]), "n_tokens": st.integers(0, 6)}),
        max_size=9,
    ),
    easy=st.integers(0, 4),
    hard=st.integers(0, 4),
    median=st.integers(0, 6),
    tolerance=st.integers(0, 2),
    seed=st.integers(0, 9),
)
@settings(max_examples=300, deadline=None)
def test_no_choice_in_the_histogram_comes_nearer_to_the_median(
    rows: Any, easy: int, hard: int, median: int, tolerance: int, seed: int
):
    if easy + hard == 0:
        return
    found = exact_target(
        table(*rows), rows=easy + hard, by="difficulty", histogram={"easy": easy, "hard": hard},
        median=median, tolerance=tolerance, seed=seed,
    )  # fmt: skip
    there = Counter(row["difficulty"] for row in rows)
    quotas = {"easy": min(easy, there["easy"]), "hard": min(hard, there["hard"])}
    assert taken(found) == {name: quota for name, quota in quotas.items() if quota}
    _, got, _, short = shortfall(found)["median_length"]
    if sum(quotas.values()):
        sizes = sorted(found.rows.filter("selected").collect()["n_tokens"])
        assert got == sizes[(len(sizes) - 1) // 2]
        assert short == max(0, best_median(rows, quotas, median) - tolerance) == max(0, abs(got - median) - tolerance)


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=40), rows=st.integers(1, 30), mean=st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_a_mean_within_the_widest_step_is_always_met(sizes: list[int], rows: int, mean: int):
    found = exact_target(lengths(*sizes), rows=rows, mean=mean, tolerance=50)
    _, got, _, short = shortfall(found)["mean_length"]
    assert short == 0
    assert got == found.rows.filter("selected").collect()["n_tokens"].sum()
    narrow = exact_target(lengths(*sizes), rows=rows, mean=mean)
    n = min(rows, len(sizes))
    low, high = sum(sorted(sizes)[:n]), sum(sorted(sizes)[-n:])
    _, got, _, short = shortfall(narrow)["mean_length"]
    assert low <= got <= high
    if not low <= mean * n <= high:
        assert got == (high if mean * n > high else low), "the nearest there is"


@given(
    rows=some_rows,
    count=st.integers(1, 20),
    aim=st.sampled_from([{}, {"median": 4}, {"mean": 4}, {"mean": 4, "tolerance": 2}]),
    short=st.sampled_from(["fewer", "fill"]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_exact_target_gives_back_every_row_and_chooses_alike_in_any_order(
    rows: Any, count: int, aim: Any, short: Any, seed: int
):
    def select(t: pl.LazyFrame) -> Selection:
        return exact_target(
            t, rows=count, by="difficulty", histogram={"hard": 0.25, "easy": 0.75}, if_short=short, seed=seed, **aim
        )

    traces = table(*rows)
    kept = holds(traces, select(traces))
    counted = shortfall(select(traces))
    assert kept["selected"].sum() == counted["rows"][1] == counted["easy"][1] + counted["hard"][1]
    if short == "fill":
        assert counted["rows"][1] == min(count, counted["rows"][2])
    assert same_when_shuffled(traces, seed, select)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "rows = 0: ask for at least one row"),
        ({"by": "difficulty"}, "give both or neither"),
        ({"histogram": {"easy": 10}}, "give both or neither"),
        ({"median": 5, "mean": 5}, "leave the other out"),
        ({"tolerance": -1}, "tolerance = -1"),
        ({"by": "d", "histogram": {}}, "name at least one value"),
        ({"by": "d", "histogram": {"a": 4, "b": 5}}, "histogram adds up to 9 and rows = 10"),
        ({"by": "d", "histogram": {"a": 0.4, "b": 0.5}}, "histogram adds up to 0.9"),
        ({"by": "d", "histogram": {"a": -1, "b": 11}}, "histogram.a = -1"),
        ({"by": "d", "histogram": {"0..0.5": 5, "0.4..1": 5}}, "overlap between 0.4 and 0.5"),
        ({"by": "d", "histogram": {"0..0.5": 5, "easy": 5}}, r"histogram.easy: beside other ranges"),
        ({"by": "d", "histogram": {"1..0": 10}}, "the low end first"),
    ],
)
def test_exact_target_refuses_a_target_that_contradicts_itself(options: Any, message: str):
    defaults = {"rows": 10, "by": None, "histogram": None, "median": None, "mean": None, "tolerance": 0}
    with pytest.raises(ValueError, match=message):
        exact_target_module.check(**{**defaults, **options})


def test_a_recipe_writes_a_histogram_as_counts_or_as_shares_and_is_told_before_the_first_token():
    for histogram in ({"easy": 3, "hard": 7}, {"easy": 0.3, "hard": 0.7}, {"easy": 1.0}):
        step = Step.model_validate({"use": "exact_target", "rows": 10, "by": "difficulty", "histogram": histogram})
        assert catalog.find("selectors", step).options["histogram"] == histogram
    wrong = Step.model_validate({"use": "exact_target", "rows": 10, "by": "difficulty", "histogram": {"easy": "3"}})
    with pytest.raises(RecipeError, match="histogram"):
        catalog.find("selectors", wrong)
    with pytest.raises(RecipeError, match=r"'d' holds Float64; name a column of whole numbers"):
        exact_target(lengths(1), rows=1, mean=1, length="d")
