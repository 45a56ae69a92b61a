"""semantic_dedup: every pair is found whatever the bounds rule out, a row that is gone keeps nothing out, and odd vectors are rows too."""

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.rows import Selection
from tracemill.selectors import near, tiles
from tracemill.selectors import semantic_dedup as module
from tracemill.selectors.keeping import components, decide, distinct, greedy
from tracemill.selectors.near import near_pairs
from tracemill.selectors.semantic_dedup import rethreshold, semantic_dedup
from tracemill.selectors.tiles import down, heads_of

Matrix = Any


def pool(vectors: Matrix, **columns: Any) -> pl.LazyFrame:
    rows = [None if v is None else [float(x) for x in v] for v in vectors]
    ids = [f"p/r{i:05}" for i in range(len(rows))]
    frame = pl.DataFrame({"id": pl.Series(ids, dtype=pl.String), "v": pl.Series(rows, dtype=pl.List(pl.Float64))})
    return frame.with_columns(pl.Series(k, c) for k, c in {"n_tokens": [9] * len(rows), **columns}.items()).lazy()


def at(*degrees: float) -> Matrix:
    return [[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees]


def kept(selection: Selection) -> list[int]:
    return [int(i[-5:]) for i in selection.rows.filter("selected").sort("id").collect()["id"]]


def why(selection: Selection) -> dict[int, tuple[int, float]]:
    """The row that removed each row, and their cosine."""
    down = selection.rows.filter(~pl.col("selected")).collect()
    found = {int(i[-5:]): json.loads(e) for i, e in down.select("id", "evidence").iter_rows()}
    return {row: (int(e["removed_by"][-5:]), e["similarity"]) for row, e in found.items()}


def clouds(n: int, d: int, seed: int, *, spread: float = 0.8, groups: int = 40) -> Matrix:
    """Unit rows in groups, three in ten of them a shaken copy of another."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(groups, d))[rng.integers(0, groups, n)] + spread * rng.normal(size=(n, d))
    copies = n * 3 // 10
    rows[:copies] = rows[n - copies :] + rng.normal(size=(copies, d)) * rng.uniform(0, 0.7, (copies, 1))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def all_pairs(vectors: Matrix, floor: float) -> set[tuple[int, int]]:
    unit = np.asarray(vectors, np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    first, second = np.nonzero(np.triu(np.round(unit @ unit.T, 12) >= floor, 1))
    return set(zip(first.tolist(), second.tolist(), strict=True))


def found_pairs(found: near.Near) -> set[tuple[int, int]]:
    return set(zip(found.first.tolist(), found.second.tolist(), strict=True))


# ---- every pair


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("n", "d", "floor"), [(2000, 384, 0.9), (2000, 96, 0.8), (2000, 24, 0.95), (300, 384, 0.7)])
def test_the_pairs_of_a_search_with_bounds_are_those_of_a_search_without(
    dtype: str, n: int, d: int, floor: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiles, "head_type", lambda: dtype)
    monkeypatch.setattr(near, "SMALL", 1000)
    vectors = clouds(n, d, seed=d)
    found = near_pairs(vectors, floor)
    assert found_pairs(found) == all_pairs(vectors, floor)
    said = found.certificate
    assert said["pairs"] == n * (n - 1) // 2
    assert said["pairs"] == said["ruled_out_by_cells"] + said["ruled_out_by_heads"] + said["checked"]
    assert said["checked"] >= said["found"] == len(found.first)
    if n > near.SMALL:
        assert said["ruled_out_by_cells"] > 0.3 * said["pairs"], "the bounds should be worth their while here"


@pytest.mark.parametrize(("dtype", "seen"), [("float32", 1e-8), ("bfloat16", 0.0045)])
def test_a_product_of_heads_lies_no_further_below_a_cosine_than_the_margin(
    dtype: str, seen: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tiles, "head_type", lambda: dtype)
    worst = 0.0
    for d in (2, 3, 100):
        vectors = np.asarray(np.random.default_rng(d).normal(size=(700, d)), np.float32)
        unit = np.asarray(vectors, np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        heads = heads_of(vectors, 0.9)
        below = (unit @ unit.T - (heads.table @ heads.table.T).double().numpy()).max()
        assert below <= heads.margin
        worst = max(worst, float(below))
    assert worst > seen, "rounding should be large enough here to need the margin"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pairs_exactly_at_the_floor_are_found_in_every_type(dtype: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tiles, "head_type", lambda: dtype)
    monkeypatch.setattr(near, "SMALL", 8)
    rng = np.random.default_rng(3)
    base = rng.normal(size=(400, 80))
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    side = rng.normal(size=base.shape)
    side -= (side * base).sum(axis=1, keepdims=True) * base
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    vectors = np.asarray(np.concatenate([base, 0.9 * base + math.sqrt(1 - 0.81) * side]), np.float32)
    exact = near.cosines(vectors[:400], vectors[400:])
    for floor in np.sort(exact)[[0, 100, 399]]:
        expected = {(i, 400 + i) for i in np.flatnonzero(exact >= floor).tolist()}
        assert found_pairs(near_pairs(vectors, float(floor))) == expected


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2, 3, 5, 70]), st.floats(0.05, 1.0), st.sampled_from([1, 2, 9, 60, 257]))
def test_no_pair_is_missed_whatever_the_vectors(seed: int, d: int, floor: float, n: int):
    rng = np.random.default_rng(seed)
    vectors = np.asarray(rng.normal(size=(n, d)) * 10.0 ** rng.integers(-3, 4, (n, 1)), np.float32)
    vectors[: n // 3] = vectors[n - n // 3 :] * rng.uniform(0.5, 2, (n // 3, 1))
    small, near.SMALL = near.SMALL, 4
    try:
        found = near_pairs(vectors, floor)
    finally:
        near.SMALL = small
    assert found_pairs(found) == all_pairs(vectors, floor)


def test_a_number_is_rounded_down_to_a_type_and_never_up():
    for number in (0.9, 0.8999, 1.0, 0.1, 1e-3, 0.89453125):
        for dtype in ("float32", "bfloat16"):
            assert number - 0.01 < down(number, dtype) <= number
    assert down(0.89453125, "bfloat16") == 0.89453125


def test_threads_and_order_of_work_do_not_show(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near, "SMALL", 1000)
    vectors = clouds(2000, 64, seed=5)
    many = near_pairs(vectors, 0.85)
    monkeypatch.setattr(near, "_threads", lambda: 1)
    one = near_pairs(vectors, 0.85)
    assert one.certificate == many.certificate
    assert np.array_equal(one.cosine, many.cosine)


def test_too_many_pairs_are_an_error_that_says_what_to_do():
    with pytest.raises(RecipeError, match=r"more than 10 pairs at or above 0.5; take a higher threshold"):
        semantic_dedup(pool(at(*np.linspace(0, 5, 50))), vectors="v", threshold=0.5, most_pairs=10)


# ---- who stays


def test_a_row_that_is_gone_keeps_no_other_out():
    found = semantic_dedup(pool(at(0, 8, 16)), vectors="v", threshold=0.98)
    assert kept(found) == [0, 2]
    assert why(found) == {1: (0, 0.990268)}


def test_a_row_is_removed_by_the_nearest_row_that_stays():
    found = semantic_dedup(pool(at(0, 20, 12)), vectors="v", threshold=0.97)
    assert kept(found) == [0, 1]
    assert why(found) == {2: (1, 0.990268)}


@pytest.mark.parametrize(
    ("options", "stays"),
    [
        ({}, 0),
        ({"order": "longest"}, 1),
        ({"order": "shortest"}, 2),
        ({"by": "reward"}, 2),
        ({"by": "-reward"}, 0),
    ],
)
def test_the_order_says_which_of_a_group_stays(options: dict[str, Any], stays: int):
    rows = pool(at(0, 1, 2), n_tokens=[20, 30, 10], reward=[0.9, None, 0.1])
    assert kept(semantic_dedup(rows, vectors="v", **options)) == [stays]


def test_tables_name_removed_rows_groups_and_pairs():
    found = semantic_dedup(pool([*at(0, 5, 90), *at(0, 91)]), vectors="v", threshold=0.99, floor=0.5)
    tables = {name: table.collect().to_dicts() for name, table in found.tables.items()}
    assert [(r["id"], r["removed_by"], r["identical"]) for r in tables["duplicates"]] == [
        ("p/r00001", "p/r00000", False),
        ("p/r00003", "p/r00000", True),
        ("p/r00004", "p/r00002", False),
    ]
    groups: dict[str, set[str]] = {}
    for row in tables["components"]:
        groups.setdefault(row["component"], set()).add(row["id"])
    assert groups == {"p/r00000": {"p/r00000", "p/r00001", "p/r00003"}, "p/r00002": {"p/r00002", "p/r00004"}}
    assert {r["size"] for r in tables["components"]} == {3, 2}
    assert len(tables["near_pairs"]) == 3
    [said] = tables["certificate"]
    assert (said["pool"], said["identical"], said["compared"], said["pairs"], said["near"]) == (5, 1, 4, 6, 2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([2, 3, 6]), st.sampled_from([0.8, 0.95, 1.0]), st.integers(0, 40))
def test_the_choice_is_that_of_one_row_after_another(seed: int, d: int, threshold: float, n: int):
    rng = np.random.default_rng(seed)
    vectors = np.asarray(rng.normal(size=(n, d)), np.float32)
    vectors[: n // 4] = vectors[n - n // 4 :]
    lengths = rng.integers(0, 9, n)
    found = semantic_dedup(
        pool(vectors, n_tokens=lengths), vectors="v", threshold=threshold, floor=0.5, order="longest"
    )
    order = sorted(range(n), key=lambda i: (-lengths[i], i))
    stays, by = one_after_another(vectors, threshold, order)
    assert kept(found) == sorted(stays)
    assert {row: other for row, (other, _) in why(found).items()} == by
    pairs, ids = found.tables["near_pairs"].collect(), pool(vectors).collect()["id"]
    for other in (threshold, 0.6):
        anew = rethreshold(pairs, ids.gather(order) if n else ids, other)
        assert {int(i[-5:]) for i in anew.filter("selected")["id"]} == one_after_another(vectors, other, order)[0]


def one_after_another(vectors: Matrix, threshold: float, order: list[int]) -> tuple[set[int], dict[int, int]]:
    stays: list[int] = []
    by: dict[int, int] = {}
    for place, row in enumerate(order):
        earlier = [other for other in order[:place] if np.array_equal(vectors[row], vectors[other])]
        if earlier:  # goes with the first of its equals
            by[row] = by.get(earlier[0], earlier[0])
            continue
        cosine = {k: float(near.cosines(vectors[row][None], vectors[k][None])[0]) for k in stays}
        near_ones = [k for k, c in cosine.items() if c >= threshold]
        if near_ones:
            by[row] = max(near_ones, key=lambda k: (cosine[k], -order.index(k)))
        else:
            stays.append(row)
    return set(stays), by


def test_rows_and_pairs_in_any_order_give_the_same():
    vectors = clouds(300, 16, seed=9)
    rows = pool(vectors).collect()
    one = semantic_dedup(rows.lazy(), vectors="v", threshold=0.8)
    other = semantic_dedup(rows.sample(fraction=1, shuffle=True, seed=1).lazy(), vectors="v", threshold=0.8)
    assert one.rows.sort("id").collect().equals(other.rows.sort("id").collect())
    assert all(one.tables[name].collect().equals(other.tables[name].collect()) for name in one.tables)


# ---- odd input


def test_rows_without_a_direction_stay_and_are_flagged():
    vectors = [[1, 0], [math.nan, 1], [0, 0], None, [math.inf, 1], [1, 0.01], [], [0, 0]]
    found = semantic_dedup(pool(vectors), vectors="v")
    rows = found.rows.sort("id").collect()
    assert kept(found) == [0, 1, 2, 3, 4, 6, 7]
    flags = [None, "not_finite", "zero_vector", "no_text", "not_finite", None, "no_text", "zero_vector"]
    assert rows["vector_flag"].to_list() == flags
    assert found.tables["certificate"].collect()["without_direction"].item() == 6


def test_fifty_thousand_identical_rows_make_no_pairs():
    frame = pl.DataFrame({"id": [f"p/r{i:05}" for i in range(50_000)], "n_tokens": 1})
    frame = frame.with_columns(pl.concat_list(pl.lit(0.6), pl.lit(0.8)).alias("v"))
    found = semantic_dedup(frame.lazy(), vectors="v")
    assert kept(found) == [0]
    said = found.tables["certificate"].collect().to_dicts()[0]
    assert (said["identical"], said["compared"], said["pairs"]) == (49_999, 1, 0)
    assert found.tables["near_pairs"].collect().height == 49_999


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows_are_a_pool_too(n: int):
    found = semantic_dedup(pool(at(*range(0, 90 * n, 90))), vectors="v")
    assert kept(found) == list(range(n))
    assert found.tables["duplicates"].collect().height == 0


@pytest.mark.parametrize("mapped", [False, True])
def test_copies_and_rows_without_a_direction_are_passed_over_in_place(mapped: bool, monkeypatch: pytest.MonkeyPatch):
    """The search looks at some rows of one table, in memory or mapped, and not at copies of them."""
    if mapped:
        monkeypatch.setattr("tracemill.schemas.mapped.IN_MEMORY", 0)
    vectors = clouds(400, 16, seed=3)
    rows = [None, *vectors[:200], [0.0] * 16, *vectors[:50], [math.nan, *[1.0] * 15], *vectors[200:]]
    found = semantic_dedup(pool(rows), vectors="v", threshold=0.9)
    plain = semantic_dedup(pool(vectors), vectors="v", threshold=0.9)
    certificate = found.tables["certificate"].collect().row(0, named=True)
    assert (certificate["compared"], certificate["identical"], certificate["without_direction"]) == (400, 50, 3)
    assert certificate["near"] == plain.tables["certificate"].collect()["near"][0]
    places = [*range(1, 201), *range(253, 453)]
    assert kept(found) == sorted([0, 201, 252, *(places[row] for row in kept(plain))])


def test_all_unique_rows_stay():
    found = semantic_dedup(pool(np.eye(200, dtype=np.float32)), vectors="v", threshold=0.01)
    assert len(kept(found)) == 200


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, math.nan])
def test_a_threshold_outside_its_range_is_refused(threshold: float):
    with pytest.raises(ValueError, match=r"threshold = .*: a cosine above 0 and up to 1"):
        semantic_dedup(pool(at(0)), vectors="v", threshold=threshold)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"floor": 0.95}, "floor = 0.95: above 0 and up to threshold = 0.9"),
        ({"by": "n_tokens", "order": "longest"}, "give one of them"),
        ({"chunks": 0}, "chunks = 0: 1 embeds the head"),
        ({"text": "question"}, "nothing is embedded where vectors are given"),
        ({"most_pairs": 0}, "most_pairs = 0"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        semantic_dedup(pool(at(0)), vectors="v", **options)


def test_vectors_of_two_dimensions_or_of_words_are_refused():
    with pytest.raises(RecipeError, match=r"vectors of 2, 3 numbers in one column 'v' \(row p/r00001, for one\)"):
        semantic_dedup(pool([[1, 0], [1, 0, 0]]), vectors="v")
    with pytest.raises(RecipeError, match="vectors = 'n_tokens' names a column of Int64; vectors are lists of numbers"):
        semantic_dedup(pool(at(0)), vectors="n_tokens")
    with pytest.raises(RecipeError, match="the traces have no column 'w'"):
        semantic_dedup(pool(at(0)), vectors="w")


def test_memory_is_said_before_the_search_and_grows_with_the_rows(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger=module.__name__)
    semantic_dedup(pool(at(0, 1)), vectors="v")
    assert "semantic_dedup of 2 vectors needs up to" in caplog.text
    million = near.memory_of(1_000_000, 384)
    assert sum(million.values()) - million["vectors_mapped"] < million["vectors_mapped"]


# ---- the pieces


def test_a_greedy_choice_follows_the_order_through_a_chain():
    first, second = np.arange(9), np.arange(1, 10)
    stays, by, cosine = greedy(10, first, second, np.full(9, 0.95), np.arange(10))
    assert np.flatnonzero(stays).tolist() == [0, 2, 4, 6, 8]
    assert by.tolist() == [-1, 0, -1, 2, -1, 4, -1, 6, -1, 8]
    assert np.isnan(cosine[::2]).all()


def test_a_copy_of_a_row_that_goes_is_removed_by_what_removed_that_row():
    pairs = np.array([0]), np.array([1]), np.array([0.93])
    stays, by, cosine = decide(3, *pairs, np.array([0, 1, 1]), np.arange(3))
    assert stays.tolist() == [True, False, False]
    assert by.tolist() == [-1, 0, 0]
    assert cosine[1:].tolist() == [0.93, 0.93]


def test_groups_are_what_chains_of_pairs_join():
    assert components(6, np.array([4, 2, 1]), np.array([5, 4, 3])).tolist() == [0, 1, 2, 1, 2, 2]


def test_of_equal_rows_the_first_by_rank_stands_for_all():
    vectors = np.array([[1, 2], [3, 4], [1, 2], [1, 2]], np.float32)
    firsts, twin = distinct(vectors, np.array([3, 0, 1, 2]))
    assert firsts.tolist() == [1, 2]
    assert firsts[twin].tolist() == [2, 1, 2, 2]
