"""Which points each strategy keeps: the known truths, the degenerate cases, and the same rules on columns."""

from collections.abc import Mapping
from itertools import combinations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.synth.hints.outcomes import bits, outcomes
from tracemill.synth.hints.predictive import Completions, Luck
from tracemill.synth.hints.strategies import (
    STRATEGIES,
    Config,
    Count,
    Rules,
    Table,
    at_random,
    choose,
    configs_needed,
    css_sets,
    first_stage,
    removable,
    second_stage,
)
from tracemill.synth.hints.summary import _redundancy

NONE, ALL, LESS_1, LESS_2, LESS_3 = (), (0, 1, 2), (1, 2), (0, 2), (0, 1)
KNOWN = {NONE: 10, ALL: 16, LESS_1: 18, LESS_2: 16, LESS_3: 15}
RULES = Rules()


def of(counts: Mapping[Config, int], m: int = 32) -> dict[Config, Count]:
    return {config: Count(correct, m) for config, correct in counts.items()}


def alike(n: int, correct: int, m: int = 32) -> dict[Config, Count]:
    return of(dict.fromkeys(first_stage(n), correct), m)


def test_leave_one_out_with_and_without_tolerance():
    table = of(KNOWN)
    assert removable(3, table, "s_loo") == (0, 1)
    assert removable(3, table, "t_loo") == (0, 1, 2)
    assert choose("s_loo", 3, table).kept == (2,)
    assert choose("t_loo", 3, table).kept == ()


def test_max_score_is_the_best_single_removal():
    assert choose("max_score", 3, of(KNOWN)).kept == LESS_1


@pytest.mark.parametrize(("joint", "kept"), [(20, (2,)), (12, LESS_1), (18, (2,))])
def test_css_tries_what_is_left_when_harmless_removals_go_together(joint: int, kept: Config):
    assert css_sets(3, of(KNOWN)) == ((0, 1), (0,), (1,))
    assert configs_needed(3, ["css"], of(KNOWN)) == [(2,)]
    done = of({**KNOWN, (2,): joint})
    assert configs_needed(3, ["css"], done) == []
    found = choose("css", 3, done)
    assert (found.kept, found.h_set, found.n_set, found.c_set) == (kept, (0, 1), (0,), (1,))


def runs(*tables: Mapping[Config, int]) -> dict[Config, Count]:
    """A table of several runs."""
    first, *more = map(of, tables)
    return {c: Count(count.correct, 32, runs=tuple(table[c] for table in more)) for c, count in first.items()}


def test_cbrs_keeps_what_is_near_optimal_in_every_run():
    two = runs({**KNOWN, LESS_2: 17}, {NONE: 10, ALL: 18, LESS_1: 17, LESS_2: 16, LESS_3: 16})
    found = choose("cbrs", 3, two, rules=Rules(runs=2))
    assert found.kept == LESS_1
    assert found.near_optimal == {NONE: 0, ALL: 1, LESS_1: 2, LESS_2: 1, LESS_3: 0}


@pytest.mark.parametrize(("second", "kept"), [(16, LESS_1), (12, ALL)])
def test_cbrs_without_agreement_takes_the_most_frequent_and_then_the_total(second: int, kept: Config):
    two = runs({**KNOWN, LESS_2: 17}, {NONE: 10, ALL: 18, LESS_1: second, LESS_2: 12, LESS_3: 12})
    found = choose("cbrs", 3, two, rules=Rules(runs=2))
    assert [found.near_optimal[config] for config in (ALL, LESS_1, LESS_2)] == [1, 1, 1]
    assert found.kept == kept


def test_cbrs_needs_all_its_runs():
    assert configs_needed(3, ["cbrs"], of(KNOWN)) == first_stage(3)
    assert configs_needed(3, ["cbrs"], runs(*[KNOWN] * 8)) == []


@pytest.mark.parametrize("strategy", ["max_score", "s_loo", "t_loo", "css"])
def test_where_no_hint_beats_none_nothing_is_kept(strategy: str):
    table = of({NONE: 16, ALL: 10, LESS_1: 12, LESS_2: 12, LESS_3: 12})
    found = choose(strategy, 3, table)
    assert (found.kept, found.guard_empty) == ((), True)
    assert not choose(strategy, 3, of({**KNOWN, (2,): 0})).guard_empty


@pytest.mark.parametrize("strategy", ["max_score", "s_loo", "t_loo", "css", "cbrs"])
@pytest.mark.parametrize(("correct", "flag"), [(0, "all_zero"), (32, "saturated")])
def test_all_wrong_and_all_right_keep_nothing_and_are_flagged(strategy: str, correct: int, flag: str):
    found = choose(strategy, 4, {**alike(4, correct), (): Count(correct, 32)}, rules=Rules(runs=1))
    assert found.kept == ()
    assert getattr(found, flag)
    assert found.guard_empty
    assert found.all_zero != found.saturated


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_points_need_no_draws_and_keep_nothing(strategy: str):
    assert configs_needed(0, [strategy], {}) == []
    assert choose(strategy, 0, {}).kept == ()


def test_one_point_has_two_configurations_and_two_points_have_four():
    assert first_stage(1) == [(), (0,)]
    assert len(first_stage(2)) == 4
    assert choose("css", 1, of({(): 3, (0,): 9})).kept == (0,)
    assert choose("s_loo", 1, of({(): 3, (0,): 9})).kept == (0,)
    assert choose("t_loo", 1, of({(): 9, (0,): 9})).kept == ()


def test_without_a_harmless_removal_css_is_the_best_of_the_first_stage():
    found = choose("css", 3, of({NONE: 5, ALL: 20, LESS_1: 9, LESS_2: 8, LESS_3: 12}))
    assert (found.kept, found.h_set) == (ALL, ())


def test_ties_go_to_the_fewest_points_and_then_to_the_smallest_indices():
    assert choose("max_score", 3, of({NONE: 5, ALL: 20, LESS_1: 20, LESS_2: 20, LESS_3: 9})).kept == LESS_2


def test_thirty_points_are_capped_and_flagged():
    table = alike(30, 20)
    table[()] = Count(1, 32)
    table[tuple(range(1, 30))] = Count(25, 32)
    found = choose("css", 30, table)
    assert found.css_truncated
    assert len(found.c_set) == 29
    asked = configs_needed(30, ["css"], table)
    assert {len(config) for config in asked} == {26, 27, 28}
    assert len(asked) == 29 + 29 * 28 // 2 + 29 * 28 * 27 // 6


def test_eleven_removals_are_too_many_and_ten_are_not():
    for many in (10, 11):
        tried = tuple(range(1, many + 1))
        found = second_stage(12, (0,), tried)
        sizes = {12 - 1 - len(config) for config in found}
        assert max(sizes) == (10 if many == 10 else 3)


def test_tau_prunes_first_what_lies_a_little_below_the_best():
    assert css_sets(3, of(KNOWN), Rules(tau=2)) == ((0, 1), (0, 1), ())


def test_random_has_the_size_of_css_and_depends_on_the_problem_alone():
    table = of({**KNOWN, (2,): 12})
    found = {choose("random", 3, table, seed_key=f"p{i}").kept for i in range(40)}
    assert found == set(combinations(range(3), 2))
    assert at_random(9, 4, "p1") == at_random(9, 4, "p1")


def test_undecided_answers_count_as_drawn():
    table = of(KNOWN)
    table[LESS_1] = Count(18, 32, undecided=14)
    assert choose("max_score", 3, table).kept == LESS_1
    assert table[LESS_1].sum == Count(18, 32, 14)


def test_fewer_draws_are_compared_as_shares():
    table = of(KNOWN)
    table[LESS_2] = Count(5, 8)
    assert choose("max_score", 3, table).kept == LESS_2


def test_a_strategy_that_there_is_none_of_and_a_table_without_a_configuration_are_named():
    with pytest.raises(ValueError, match="'cs' is none; choose among none, all"):
        choose("cs", 3, of(KNOWN))
    with pytest.raises(ValueError, match=r"css needs the configuration \(0, 1\)"):
        choose("css", 3, {config: count for config, count in of(KNOWN).items() if config != LESS_3})


def draw_table(data: st.DataObject, n: int, m: int, strategy: str, rules: Rules) -> Table:
    """All that the full protocol needs, with counts that often tie."""
    table: dict[Config, Count] = {}
    count = st.integers(0, m)
    while missing := configs_needed(n, [strategy], table, rules=rules):
        for config in missing:
            more = tuple(Count(data.draw(count), m) for _ in range(rules.runs - 1)) if strategy == "cbrs" else ()
            table[config] = Count(data.draw(count), m, runs=more)
    return table


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_on_columns_the_rules_are_the_same(data: st.DataObject):
    strategy = data.draw(st.sampled_from(["max_score", "s_loo", "t_loo", "cbrs", "css"]))
    n, m = data.draw(st.integers(1, 5)), data.draw(st.sampled_from([1, 3, 8]))
    rules = Rules(m=m, runs=3, tau=data.draw(st.integers(0, 1)), delta=data.draw(st.integers(0, 2)))
    table = draw_table(data, n, m, strategy, rules)
    decided = outcomes(strategy, Completions(n, table, rules, Luck("p", 3))).kept
    kept = choose(strategy, n, table, rules=rules).kept
    assert set(decided.tolist()) == {bits(kept)}
    assert list(kept) == sorted(set(kept))


def test_points_that_are_not_missed_and_points_that_do_harm_are_counted_where_measured_in_full():
    rows = [("*", 3, 16, 32), ("1,2", 2, 18, 32), ("0,2", 2, 15, 32), ("0,1", 2, 14, 32), ("", 0, 10, 32)]
    later = [("*", 2, 1, 3), ("0", 1, 3, 3), ("1", 1, 0, 3)]
    frame = pl.DataFrame(
        [("p1", *row) for row in rows] + [("p2", *row) for row in later],
        schema=["problem_id", "config", "n_kept", "correct", "total"],
        orient="row",
    )
    [said] = _redundancy({"subset_accuracies": frame.lazy()}, 32, "fixed")
    assert "Of 3 points" in said
    assert "2 are not missed (67%) and 1 (33%)" in said
    assert list(_redundancy({"subset_accuracies": frame.head(0).lazy()}, 32, "fixed")) == []
