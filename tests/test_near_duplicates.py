"""Near-duplicates: removed only because of a row that is kept, by an exact similarity, and found as surely as is said."""

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.schemas.errors import RecipeError
from tracemill.selectors.near_duplicates import PERMUTATIONS, RECALL, bands, check, near_duplicates, sequences

pytest.importorskip("rensa", reason="needs the extra: pip install 'tracemill[dedup]'")


def frame(texts: Sequence[str | None], **columns: Sequence[Any]) -> pl.LazyFrame:
    ids = [f"r{i:03}" for i in range(len(texts))]
    return pl.DataFrame(
        {"id": ids, "question": texts, **columns}, schema_overrides={"id": pl.String, "question": pl.String}
    ).lazy()


def fate(
    texts: Sequence[str | None], columns: dict[str, Sequence[Any]] | None = None, **options: Any
) -> dict[int, int]:
    """By number of the row that is removed: the number of the row because of which."""
    rows = near_duplicates(frame(texts, **(columns or {})), **options).rows.collect()
    assert rows["id"].to_list() == [f"r{i:03}" for i in range(len(texts))]
    down = rows.filter(~pl.col("selected")).with_columns(pl.col("evidence").str.json_path_match("$.removed_by"))
    assert set(down["reason"]) <= {"near_duplicate"}
    return {int(name[1:]): int(by[1:]) for name, by in down.select("id", "evidence").iter_rows()}


def brute(texts: Sequence[str], threshold: Fraction, shingle: int) -> dict[int, int]:
    """The definition: every row against every kept row before it."""
    sets = [set(sequences(text, shingle).tolist()) for text in texts]
    kept: list[int] = []
    removed: dict[int, int] = {}
    for number, own in enumerate(sets):
        alike = [(Fraction(len(own & sets[k]), len(own | sets[k])), -k) for k in kept]
        if alike and max(alike)[0] >= threshold:
            removed[number] = -max(alike)[1]
        else:
            kept.append(number)
    return removed


def words(rng: random.Random, count: int) -> list[str]:
    return [f"w{rng.randrange(500)}" for _ in range(count)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.6, 0.8, 0.9, 1.0]), st.integers(1, 5))
def test_it_is_the_definition(seed: int, threshold: float, shingle: int):
    rng = random.Random(seed)
    texts = [words(rng, rng.randrange(1, 60)) for _ in range(8)]
    for _ in range(40):
        text = list(rng.choice(texts))
        for _ in range(rng.randrange(3)):
            text[rng.randrange(len(text))] = f"x{rng.randrange(9)}"
        texts.append(text)
    joined = [" ".join(text) for text in texts]
    assert fate(joined, threshold=threshold, shingle=shingle) == brute(joined, Fraction(str(threshold)), shingle)


def test_a_chain_is_not_removed_as_a_whole():
    """Each is like the one before, and the third is not like the first: it stays, because the second is not there to remove it."""
    text = [f"w{i}" for i in range(20)]
    chain = [" ".join([*(f"x{i}" for i in range(changed)), *text[changed:]]) for changed in (0, 2, 4)]
    assert fate(chain, shingle=1, threshold=0.8) == {1: 0}
    assert brute(chain, Fraction("0.8"), 1) == {1: 0}


def test_the_kept_row_most_alike_is_named_and_the_evidence_is_what_was_counted():
    base = [f"w{i}" for i in range(20)]
    other = ["y", "y2", "y3", "y4", *base[4:]]
    near_both = ["y", "y2", *base[2:]]
    rows = near_duplicates(
        frame([" ".join(t) for t in (base, other, near_both)]), shingle=1, threshold=0.81
    ).rows.collect()
    assert rows["selected"].to_list() == [True, True, False]
    assert pl.Series([rows["evidence"][2]]).str.json_decode(
        pl.Struct({"removed_by": pl.String, "jaccard": pl.Float64, "shared": pl.Int64, "of": pl.Int64})
    ).to_list() == [{"removed_by": "r000", "jaccard": 18 / 22, "shared": 18, "of": 22}]


def test_case_and_marks_do_not_count_and_the_order_says_who_stays():
    texts = ["Tom has 3 pens.", "tom has 3 pens", "TOM, has 3... PENS!"]
    assert fate(texts) == {1: 0, 2: 0}
    assert fate(texts, {"score": [1, 3, 2]}, order=("-score",)) == {0: 1, 2: 1}


def test_rows_of_one_group_are_never_compared_but_others_are():
    texts = ["a b c d e f"] * 4
    assert fate(texts, {"problem_id": ["p", "p", "q", "q"]}, once=("problem_id",)) == {2: 0, 3: 0}


def test_odd_texts_are_kept_or_compared_and_nothing_fails():
    assert fate([None, "", "  \n", "?", "?", "!", "wort " * 200_000, "wort " * 200_000, "日本 語", "日本 語"]) == {
        4: 3,
        7: 6,
        9: 8,
    }


def test_many_copies_take_no_comparisons():
    selection = near_duplicates(frame(["one and the same text of some words"] * 20_000))
    assert selection.rows.collect()["selected"].sum() == 1
    [facts] = selection.tables["near_duplicate_search"].collect().to_dicts()
    assert (facts["rows"], facts["kept"], facts["compared"]) == (20_000, 1, 0)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75, 0.8, 0.95, 1.0])
def test_the_chance_is_that_of_the_bands(threshold: float):
    count, chance = bands(threshold)
    assert PERMUTATIONS % count == 0
    assert chance >= RECALL
    assert chance == pytest.approx(1 - (1 - threshold ** (PERMUTATIONS / count)) ** count)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": 0.0}, "threshold = 0.0: a similarity above 0"),
        ({"threshold": 1.5}, "up to 1"),
        ({"threshold": 0.01}, "permutations find"),
        ({"shingle": 0}, "at least 1"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        check(**{"threshold": 0.8, "shingle": 5, **options})


def test_columns_that_do_not_fit_are_named():
    with pytest.raises(RecipeError, match="no column 'questio'; did you mean 'question'"):
        near_duplicates(frame(["a"]), column="questio")
    with pytest.raises(RecipeError, match="column 'n' is Int64; name a column of text"):
        near_duplicates(frame(["a"], n=[1]), column="n")


def test_no_rows_give_no_rows():
    assert near_duplicates(frame([])).rows.collect().height == 0
