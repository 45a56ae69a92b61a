"""select2reason, its baselines and CISC: the published numbers by hand, every row back, and the same rows in any order."""

import json
import math
import random
from fractions import Fraction
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.rows import Selection, draw
from tracemill.selectors import baseline as baseline_module
from tracemill.selectors import cisc as cisc_module
from tracemill.selectors import select2reason as select2reason_module
from tracemill.selectors.baseline import Kind, baseline
from tracemill.selectors.cisc import cisc, wqd
from tracemill.selectors.select2reason import select2reason

SCHEMA = {
    "id": pl.String,
    "problem_id": pl.String,
    "reasoning": pl.String,
    "content": pl.String,
    "answer": pl.String,
    "gold": pl.String,
    "correct": pl.Boolean,
    "n_tokens": pl.Int64,
    "d0": pl.Float64,
    "p1": pl.Float64,
    "p0": pl.Float64,
    "p_returned": pl.Float64,
    "conf": pl.Float64,
    "problem_type": pl.String,
}


def table(*rows: dict[str, Any]) -> pl.LazyFrame:
    filled = [{"id": f"r{i}", "problem_id": f"q{i}", "n_tokens": 10, **row} for i, row in enumerate(rows)]
    return pl.LazyFrame(filled, schema=SCHEMA)


def chosen(selection: Selection) -> list[str]:
    return selection.rows.filter("selected").sort("id").collect()["id"].to_list()


def column(selection: Selection, name: str) -> dict[str, Any]:
    return dict(selection.rows.select("id", name).collect().iter_rows())


def why(selection: Selection) -> dict[str, tuple[str, dict[str, Any]]]:
    found = selection.rows.filter(~pl.col("selected")).collect()
    return {row["id"]: (row["reason"], json.loads(row["evidence"])) for row in found.to_dicts()}


def holds(traces: pl.LazyFrame, selection: Selection) -> pl.DataFrame:
    """Every row came back once and as it was, with a reason and evidence exactly where it was not selected."""
    rows = selection.rows.collect()
    assert rows.select(*SCHEMA).equals(traces.collect())
    assert rows["selected"].null_count() == 0
    assert rows.select(pl.col("selected") == pl.col("reason").is_null())["selected"].all()
    assert rows.select(pl.col("selected") == pl.col("evidence").is_null())["selected"].all()
    assert not [name for name in rows.columns if name.startswith("_")]
    return rows


some_rows = st.lists(
    st.fixed_dictionaries(
        {
            "problem_id": st.sampled_from(["p", "q", "r"]),
            "reasoning": st.none() | st.sampled_from(["", "wait\n\nwait", "a\n\nb\n\na", "However"]),
            "content": st.none() | st.sampled_from(["so 3", "maybe\n \nso 3"]),
            "answer": st.none() | st.sampled_from(["3", "4", " 3", "x", ""]),
            "correct": st.sampled_from([True, False, None]),
            "n_tokens": st.none() | st.integers(0, 4),
            "d0": st.none() | st.sampled_from([0.1, 0.5, math.nan]),
            "conf": st.none() | st.sampled_from([0.1, 0.5, 0.9, math.nan]),
            "problem_type": st.none() | st.sampled_from(["algebra", "geometry"]),
        }
    ),
    max_size=16,
)

# ---- select2reason: core-algorithms 5.9, test T12

FOUR = (
    {"id": "a", "d0": 0.9, "n_tokens": 100},
    {"id": "b", "d0": 0.7, "n_tokens": 400},
    {"id": "c", "d0": 0.4, "n_tokens": 300},
    {"id": "d", "d0": 0.1, "n_tokens": 200},
)


def of_four(**options: Any) -> Selection:
    return select2reason(table(*FOUR), d_method="column", column="d0", **options)


def test_ranks_of_four_rows_are_those_worked_out_by_hand():
    found = of_four(percent=50)
    assert column(found, "rank_d") == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert column(found, "rank_l") == {"a": 4, "b": 1, "c": 2, "d": 3}
    assert column(found, "rank_j") == {"a": 3.25, "b": 1.25, "c": 2.25, "d": 3.25}
    assert chosen(found) == ["b", "c"]
    assert why(found)["d"] == (
        "not_in_top",
        {"place": 3, "rank_j": 3.25, "rank_d": 4, "rank_l": 3, "d": 0.1, "len_dedup": 200, "k": 2, "of": 4},
    )


def test_of_two_rows_with_one_joint_rank_the_longer_is_taken():
    assert chosen(of_four(percent=75)) == ["b", "c", "d"]
    assert chosen(of_four(k=3)) == ["b", "c", "d"]


@pytest.mark.parametrize(("w", "order"), [(1.0, "abcd"), (0.0, "bcda"), (0.25, "bcda")])
def test_the_weight_decides_between_difficulty_and_length(w: float, order: str):
    places = column(of_four(w=w, k=1), "place")
    assert "".join(sorted(places, key=places.__getitem__)) == order


def test_joint_ranks_that_are_equal_in_tenths_are_equal():
    # 0.1 * 11 + 0.9 * 2 and 0.1 * 2 + 0.9 * 3 are both 2.9, and differ in floats
    rows = [{"id": f"{i:02}", "d0": float(-i), "n_tokens": -((i * 5) % 12)} for i in range(12)]
    for tenths in range(11):
        found = select2reason(table(*rows), d_method="column", column="d0", w=tenths / 10, k=5)
        rank_d, rank_l, places = (column(found, name) for name in ("rank_d", "rank_l", "place"))
        joint = {i: tenths * rank_d[i] + (10 - tenths) * rank_l[i] for i in rank_d}
        by_hand = sorted(rank_d, key=lambda i: (joint[i], rank_l[i], rank_d[i], i))
        assert sorted(places, key=places.__getitem__) == by_hand


def test_equal_values_share_their_average_rank_and_ties_end_at_the_id():
    found = select2reason(table({"d0": 0.5}, {"d0": 0.5}, {"d0": 0.2}), d_method="column", column="d0", k=1)
    assert column(found, "rank_d") == {"r0": 1.5, "r1": 1.5, "r2": 3}
    assert column(found, "rank_l") == {"r0": 2, "r1": 2, "r2": 2}
    assert chosen(found) == ["r0"]


def judged(p1: float | None, p0: float | None, returned: float, method: Any) -> tuple[float | None, list[str]]:
    found = select2reason(table({"p1": p1, "p0": p0, "p_returned": returned}), d_method=method).rows.collect()
    return found["d"][0], found["flags"][0].to_list()


@pytest.mark.parametrize(
    ("p1", "p0", "returned", "as_released", "as_corrected"),
    [
        (0.6, 0.3, 0.9, 2 / 3, 2 / 3),  # "1" and "0" came back
        (None, 0.7, 0.9, 0.0, 0.0),  # "0" and "The"
        (0.4, None, 0.8, 0.5, 1.0),  # "1" and "Diff": the script divides by whatever came back
        (0.4, 0.0, 0.8, 0.5, 1.0),
    ],
)
def test_a_judges_difficulty_as_released_and_corrected(
    p1: float | None, p0: float | None, returned: float, as_released: float, as_corrected: float
):
    assert judged(p1, p0, returned, "judge_released")[0] == pytest.approx(as_released)
    assert judged(p1, p0, returned, "judge")[0] == pytest.approx(as_corrected)


@pytest.mark.parametrize("method", ["judge", "judge_released"])
def test_a_judge_that_said_neither_one_nor_nought_leaves_no_difficulty_and_a_flag(method: str):
    d, flags = judged(None, None, 0.9, method)
    assert d is None
    assert "no_difficulty" in flags
    rows = ({"p1": 0.0, "p0": 0.9, "p_returned": 0.9}, {"p_returned": 0.9}, {"p_returned": 0.9})
    assert column(select2reason(table(*rows), d_method=method), "rank_d") == {"r0": 1, "r1": 2.5, "r2": 2.5}


def test_difficulty_by_pass_rate_counts_whole_samples_and_undecided_ones_among_the_total():
    traces = table({}, {}, {}, {}).with_columns(
        problem_correct=pl.Series([1, 2, 0, 5]), problem_total=pl.Series([3, 6, 0, 5]), problem_undecided=pl.lit(1)
    )
    found = select2reason(traces)
    assert column(found, "d") == {"r0": 2 / 3, "r1": 2 / 3, "r2": None, "r3": 0.0}
    assert column(found, "rank_d") == {"r0": 1.5, "r1": 1.5, "r2": 4, "r3": 3}
    alone = select2reason(table({"correct": True}, {"problem_id": "q0", "correct": None}))
    assert column(alone, "d") == {"r0": 0.5, "r1": 0.5}
    assert set(column(alone, "d_method").values()) == {"pass_rate"}


STEP = {"x": "x says ten", "y": "y says ten", "z": "z says ten"}
LOOP = "\n\n".join((STEP["x"], STEP["y"], f"  {STEP['y']}", STEP["z"]))


@pytest.mark.parametrize(("unit", "raw", "kept"), [("tokens", 40, 30), ("words", 12, 9)])
def test_a_step_said_again_does_not_count_as_length(unit: Any, raw: int, kept: int):
    found = select2reason(table({"reasoning": LOOP, "n_tokens": 40}), length=unit)
    assert column(found, "len_raw") == {"r0": raw}
    assert column(found, "len_dedup") == {"r0": kept}
    assert column(found, "dup_ratio") == {"r0": 0.25}


def test_steps_are_parted_by_blank_lines_and_differ_by_case():
    said = "One.\n \t\nTwo\nlines.\r\n\r\nOne.\n\n\n\none.\n\nOne."
    found = select2reason(table({"reasoning": said, "content": "1"}), length="words")
    assert column(found, "len_raw") == {"r0": 7}
    assert column(found, "len_dedup") == {"r0": 5}


def test_the_first_published_length_is_the_characters_of_the_whole_output():
    rows = table({"reasoning": "aa\n\naa", "content": "b"}, {"reasoning": "cccccc", "content": ""})
    released = select2reason(rows, length="characters", dedup=False, k=1)
    assert column(released, "len_raw") == {"r0": 7, "r1": 6}
    assert chosen(released) == ["r0"]
    assert chosen(select2reason(rows, length="characters", k=1)) == ["r1"]


def test_without_a_thinking_part_the_whole_output_is_parted_and_flagged():
    found = select2reason(table({"reasoning": " ", "content": "a\n\na", "n_tokens": 8}))
    assert column(found, "len_dedup") == {"r0": 4}
    assert "no_thinking_part" in column(found, "flags")["r0"]


def test_a_row_of_unknown_length_ranks_last_and_is_flagged():
    found = select2reason(table({"n_tokens": None}, {"n_tokens": 1}), w=0.0, k=1)
    assert chosen(found) == ["r1"]
    assert column(found, "flags")["r0"] == ["no_thinking_part", "unknown_length"]


def test_lengths_that_several_tokenizers_counted_are_flagged_where_they_are_compared():
    rows = table({"reasoning": "a"}, {"reasoning": "b"}).with_columns(tokenizer=pl.Series(["one", "two"]))
    assert column(select2reason(rows, k=1), "flags")["r0"] == ["mixed_tokenizers"]
    assert column(select2reason(rows, k=1, length="words"), "flags")["r0"] == []


def test_words_of_rethinking_are_whole_words_in_any_case():
    said = "Wait, wait. Awaiting. MAYBE; alternatively however maybes"
    assert column(select2reason(table({"reasoning": said})), "n_rethink_words") == {"r0": 5}


def test_with_one_difficulty_length_decides_and_a_single_row_is_taken():
    same = [{**row, "d0": 0.5} for row in FOUR]
    assert chosen(select2reason(table(*same), d_method="column", column="d0", w=0.5, k=2)) == ["b", "c"]
    assert chosen(select2reason(table({"n_tokens": None}))) == ["r0"]
    assert chosen(of_four(k=9)) == ["a", "b", "c", "d"]
    assert chosen(of_four(percent=1)) == ["b"], "at least one"


def test_a_percentage_is_rounded_down_as_written():
    rows = table(*({} for _ in range(1000)))
    assert len(chosen(select2reason(rows, percent=0.7))) == 7  # 0.7 / 100 * 1000 is below 7 in floats
    assert len(chosen(select2reason(rows, percent=29))) == 290
    assert len(chosen(select2reason(rows, percent=0.19))) == 1


@given(rows=some_rows, w=st.integers(0, 10), k=st.integers(1, 20), data=st.data())
@settings(max_examples=40, deadline=None)
def test_select2reason_gives_back_every_row_and_chooses_alike_in_any_order(rows: Any, w: int, k: int, data: Any):
    traces = table(*rows)
    found = select2reason(traces, d_method="column", column="d0", w=w / 10, k=k)
    kept = holds(traces, found)
    assert kept["selected"].sum() == min(k, len(rows))
    assert same_when_shuffled(traces, data, lambda t: select2reason(t, d_method="column", column="d0", w=w / 10, k=k))
    by_hand = sorted(
        kept.to_dicts(),
        key=lambda r: (w * Fraction(r["rank_d"]) + (10 - w) * Fraction(r["rank_l"]), r["rank_l"], r["rank_d"], r["id"]),
    )
    assert sorted(row["id"] for row in by_hand[:k]) == chosen(found)


def same_when_shuffled(traces: pl.LazyFrame, data: Any, select: Any) -> bool:
    frame = traces.collect()
    order = list(range(frame.height))
    random.Random(data.draw(st.integers(0, 99))).shuffle(order)
    first, again = select(traces), select(frame[order].lazy())
    assert first.tables.keys() == again.tables.keys()
    for name, found in first.tables.items():
        known = found.collect()
        assert known.sort(known.columns[:1]).equals(again.tables[name].collect().sort(known.columns[:1])), name
    return bool(first.rows.sort("id").collect().equals(again.rows.sort("id").collect()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w": 1.5}, "w = 1.5: the weight of difficulty"),
        ({"w": 1 / 3}, "at most 6 decimals"),
        ({"percent": 0.0}, "percent = 0.0: above 0"),
        ({"percent": None}, "give one of them"),
        ({"k": 5, "percent": 3.0}, "give one of them"),
        ({"k": 0}, "k = 0: take at least one"),
        ({"d_method": "column"}, "a column is named with d_method = 'column'"),
        ({"column": "d"}, "a column is named with d_method = 'column'"),
    ],
)
def test_select2reason_refuses_options_that_cannot_work(options: Any, message: str):
    defaults = {"w": 0.25, "k": None, "percent": 10.0, "d_method": "pass_rate", "column": None}
    with pytest.raises(ValueError, match=message):
        select2reason_module.check(**{**defaults, **options})


def test_a_column_that_is_not_there_is_the_recipes_fault():
    with pytest.raises(RecipeError, match=r"no column 'd9'"):
        select2reason(table({}), d_method="column", column="d9")
    with pytest.raises(RecipeError, match=r"no column 'p1'"):
        select2reason(table({}).drop("p1"), d_method="judge")
    with pytest.raises(RecipeError, match=r"no column 'topic'"):
        baseline(table({}), kind="diverse", percent=10, by="topic")
    with pytest.raises(RecipeError, match=r"no column 'sure'"):
        cisc(table({}), confidence="sure")


# ---- baseline

FIVE = table(*({"n_tokens": n, "reasoning": said} for n, said in zip((50, 20, 40, 10, None), ("wait", None, "maybe, wait", "x", ""), strict=True)))  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "k", "expected"),
    [
        ("longest", 2, ["r0", "r2"]),
        ("shortest", 2, ["r1", "r3"]),
        ("middle", 1, ["r1"]),  # 10, 20, 40, 50: of the two in the middle the shorter
        ("middle", 3, ["r1", "r2", "r3"]),
        ("middle", 5, ["r0", "r1", "r2", "r3", "r4"]),
        ("keyword", 2, ["r0", "r2"]),
    ],
)
def test_a_baseline_takes_the_rows_that_a_person_would(kind: Kind, k: int, expected: list[str]):
    assert chosen(baseline(FIVE, kind=kind, k=k)) == expected


def test_the_random_baseline_draws_by_the_hash_of_seed_and_id():
    rows = table(*({} for _ in range(40)))
    by_hand = sorted((f"r{i}" for i in range(40)), key=lambda name: draw(f"5|{name}"))[:4]
    assert chosen(baseline(rows, kind="random", percent=10, seed=5)) == sorted(by_hand)
    assert chosen(baseline(rows, kind="random", percent=10, seed=6)) != sorted(by_hand)


def test_the_diverse_baseline_takes_a_share_of_each_type_and_at_least_one_row():
    kinds = ["algebra"] * 25 + ["geometry"] * 3 + [None] * 2
    found = baseline(table(*({"problem_type": kind} for kind in kinds)), kind="diverse", percent=10)
    taken = dict(found.rows.filter("selected").collect()["problem_type"].value_counts().iter_rows())
    assert taken == {"algebra": 2, "geometry": 1, None: 1}, "4 rows, though 10 % of 30 are 3"
    assert {reason for reason, _ in why(found).values()} == {"not_drawn"}


def test_the_difficulty_baseline_takes_the_hardest_and_leaves_the_columns_alone():
    found = baseline(table(*FOUR), kind="difficulty", d_method="column", column="d0", k=2)
    assert chosen(found) == ["a", "b"]
    assert why(found)["d"] == ("not_hardest", {"place": 4, "k": 2, "of": 4, "value": 0.1})


@given(rows=some_rows, kind=st.sampled_from(list(baseline_module.NOT_CHOSEN)), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_baseline_gives_back_every_row_and_chooses_alike_in_any_order(rows: Any, kind: Any, data: Any):
    traces = table(*rows)
    kept = holds(traces, baseline(traces, kind=kind, percent=40))
    if kind != "diverse":
        assert kept["selected"].sum() == (max(1, len(rows) * 2 // 5) if rows else 0)
    assert same_when_shuffled(traces, data, lambda t: baseline(t, kind=kind, percent=40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "diverse", "k": 3}, "so give percent"),
        ({"kind": "random"}, "give one of them"),
        ({"kind": "random", "percent": 101.0}, "up to 100"),
        ({"kind": "difficulty", "k": 3, "column": "d"}, "a column is named"),
    ],
)
def test_a_baseline_refuses_options_that_cannot_work(options: Any, message: str):
    defaults = {"k": None, "percent": None, "d_method": "pass_rate", "column": None}
    with pytest.raises(ValueError, match=message):
        baseline_module.check(**{**defaults, **options})


# ---- cisc: core-algorithms 6.1 and 6.8


def votes(*given: tuple[str | None, float | None], **options: Any) -> Selection:
    rows = [{"problem_id": "q", "answer": answer, "conf": conf} for answer, conf in given]
    return cisc(table(*rows), confidence="conf", **options)


def masses(selection: Selection) -> dict[str | None, float]:
    [vote] = selection.tables["votes"].collect().to_dicts()
    return {mass["answer"]: mass["mass"] for mass in vote["masses"]}


SIX = (("A", 0.6), ("A", 0.58), ("A", 0.55), ("A", 0.2), ("B", 0.7), ("B", 0.1))


def test_six_scored_traces_have_the_masses_worked_out_by_hand():
    found = votes(*SIX, temperature=0.5)
    assert {a: round(m, 4) for a, m in masses(found).items()} == {"a": 0.6759, "b": 0.3241}
    assert chosen(found) == ["r0"]
    assert [reason for reason, _ in why(found).values()] == ["not_representative"] * 3 + ["outvoted"] * 2
    [vote] = found.tables["votes"].collect().to_dicts()
    assert (vote["n"], vote["n_answers"], vote["T"], vote["vote"]) == (6, 2, 0.5, "confidence")
    assert (vote["sc_answer"], vote["cisc_answer"]) == ("a", "a")
    assert sum(column(found, "weight").values()) == pytest.approx(1)


def test_four_representatives_alone_turn_the_vote():
    found = votes(("A", 0.6), ("A", 0.2), ("B", 0.7), ("B", 0.1), temperature=0.5)
    assert {a: round(m, 4) for a, m in masses(found).items()} == {"a": 0.4770, "b": 0.5230}


@pytest.mark.parametrize(
    ("temperature", "mass", "winner"), [(1.0, 0.3314, "b"), (0.2, 0.6942, "a"), (0.05, 0.9971, "a")]
)
def test_the_temperature_decides_between_the_many_and_the_confident(temperature: float, mass: float, winner: str):
    found = votes(("A", 0.9), ("B", 0.5), ("B", 0.6), ("B", 0.4), temperature=temperature)
    assert round(masses(found)["a"], 4) == mass
    [vote] = found.tables["votes"].collect().to_dicts()
    assert (vote["cisc_answer"], vote["sc_answer"]) == (winner, "b")


def test_a_very_large_temperature_is_the_majority_and_a_very_small_one_the_most_confident_trace():
    given = (("A", 0.9), ("B", 0.5), ("B", 0.6), ("B", 0.4))
    assert masses(votes(*given, temperature=1e12))["b"] == pytest.approx(0.75)
    assert masses(votes(*given, temperature=1e-300)) == {"a": 1.0, "b": 0.0}


def test_answers_vote_as_text_without_regard_to_case_and_white_space():
    assert masses(votes((" x  +1", 0.5), ("X +1\n", 0.5), ("y", 0.5))) == pytest.approx({"x +1": 2 / 3, "y": 1 / 3})


@pytest.mark.parametrize(
    ("given", "winner"),
    [
        ([("B", 0.5), ("A", 0.5)], "a"),  # all alike: the smaller text
        ([("B", 0.9), ("A", 0.9), ("A", None)], "a"),  # equal mass: more traces
        ([(None, 0.9), (None, 0.9), ("A", 0.1)], "a"),  # no answer never wins
        ([("A", None), ("B", None), ("B", None)], "b"),  # no confidence at all: majority
        ([("A", 0.1), ("B", None), ("B", math.nan)], "a"),  # a trace without a confidence has no weight
        ([("A", 0.3)], "a"),
    ],
)
def test_ties_and_gaps_are_settled_by_rule(given: Any, winner: str):
    found = votes(*given)
    [vote] = found.tables["votes"].collect().to_dicts()
    assert vote["cisc_answer"] == winner
    assert len(chosen(found)) == 1


def test_equal_mass_and_members_go_to_the_class_with_the_surest_trace():
    # at this temperature everything below the best rounds to nothing, so 0.2 and 0.1 weigh alike: nought
    found = votes(("A", 0.1), ("B", 0.2), (None, 0.9), temperature=1e-6)
    [vote] = found.tables["votes"].collect().to_dicts()
    assert vote["cisc_answer"] == "b"


def test_a_problem_without_any_answer_has_no_winner():
    found = votes((None, 0.5), (" ", 0.6))
    assert chosen(found) == []
    assert {reason for reason, _ in why(found).values()} == {"no_answer"}
    [vote] = found.tables["votes"].collect().to_dicts()
    assert (vote["cisc_answer"], vote["sc_answer"], vote["n_answers"], vote["n"]) == (None, None, 0, 2)


def test_all_traces_of_the_winning_answer_are_taken_when_asked_for():
    assert chosen(votes(*SIX, temperature=0.5, take="all")) == ["r0", "r1", "r2", "r3"]


def test_of_equally_sure_traces_the_shortest_represents_the_answer():
    rows = [{"problem_id": "q", "answer": "A", "conf": 0.5, "n_tokens": n} for n in (None, 7, 5, 5)]
    assert chosen(cisc(table(*rows), confidence="conf")) == ["r2"]


def test_within_question_discrimination_of_four_traces_is_three_of_four_pairs():
    rows = [{"problem_id": "q", "correct": right, "conf": c} for right, c in ((True, 0.8), (True, 0.6), (False, 0.7), (False, 0.1))]  # fmt: skip
    others = [
        {"problem_id": "only right", "correct": True, "conf": 0.1},
        {"problem_id": "q", "correct": None, "conf": 1.0},
    ]
    found = wqd(table(*rows, *others), confidence="conf")
    assert dict(found.select("problem_id", "wqd_pairs").collect().iter_rows()) == {"q": 4, "only right": 0}
    summed = found.select(pl.col("wqd_halves", "wqd_pairs").sum()).collect().row(0)
    assert Fraction(summed[0], 2 * summed[1]) == Fraction(3, 4)


@given(rows=some_rows)
@settings(max_examples=40, deadline=None)
def test_discrimination_by_ranks_agrees_with_every_pair_counted(rows: Any):
    found = {row["problem_id"]: row for row in wqd(table(*rows), confidence="conf").collect().to_dicts()}
    for problem, row in found.items():
        known = [r for r in rows if r["problem_id"] == problem and r["conf"] is not None and not math.isnan(r["conf"])]
        right = [r["conf"] for r in known if r["correct"] is True]
        wrong = [r["conf"] for r in known if r["correct"] is False]
        halves = [2 * (a > b) + (a == b) for a in right for b in wrong]
        assert (row["wqd_pairs"], row["wqd_halves"]) == (len(halves), sum(halves))


@given(rows=some_rows, take=st.sampled_from(["best", "all"]), data=st.data())
@settings(max_examples=40, deadline=None)
def test_cisc_gives_back_every_row_and_chooses_alike_in_any_order(rows: Any, take: Any, data: Any):
    traces = table(*rows)
    kept = holds(traces, cisc(traces, confidence="conf", temperature=0.3, take=take))
    answered = {row["problem_id"] for row in rows if (row["answer"] or "").strip()}
    assert set(kept.filter("selected")["problem_id"]) == answered
    assert same_when_shuffled(traces, data, lambda t: cisc(t, confidence="conf", temperature=0.3, take=take))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_cisc_refuses_a_temperature_that_cannot_work(temperature: float):
    with pytest.raises(ValueError, match="a number above 0"):
        cisc_module.check(temperature=temperature)


def test_lengths_that_are_known_rank_as_those_that_are_counted_and_no_text_is_read():
    rows = [
        {"d0": d, "n_tokens": n, "content": "x\n\n" * copies + "y" * 9}
        for d, n, copies in [(0.9, 100, 1), (0.7, 400, 8), (0.4, 300, 2), (0.1, 200, 5), (0.1, None, 1)]
    ]
    counted = select2reason(table(*rows), d_method="column", column="d0", percent=50).rows.sort("id").collect()
    known = counted.select(*SCHEMA, given="len_dedup")
    options = {"d_method": "column", "column": "d0", "percent": 50, "length_column": "given"}
    found = select2reason(known.lazy(), **options).rows.sort("id").collect()
    same = ["id", "selected", "rank_l", "rank_j", "place", "len_raw", "len_dedup", "dup_ratio"]
    assert found.select(same).equals(counted.select(same))
    assert found["n_rethink_words"].null_count() == len(rows)
    assert found["flags"].to_list() == [[], [], [], [], ["unknown_length"]]
    without = known.drop("reasoning", "content").lazy()
    assert select2reason(without, **options).rows.sort("id").collect()["place"].equals(found["place"])
    with pytest.raises(RecipeError, match="'gold' holds String, not whole numbers"):
        select2reason(known.lazy(), **{**options, "length_column": "gold"})
    with pytest.raises(ValueError, match="leave out length and dedup"):
        select2reason(known.lazy(), **options, length="words")
