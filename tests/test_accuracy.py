"""pass@k and maj@k agree with trying every set of draws, and their intervals with what is known of them."""

from collections import Counter
from fractions import Fraction
from itertools import combinations
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.pipelines.cards.accuracy import Draws, Estimate, accuracy_table, estimate, majority_at, pass_at, tabulate

drawn = st.lists(
    st.sampled_from([("a", True), ("A ", True), ("b", False), ("c", False), ("d", None), (None, None), ("e", True)]),
    min_size=1,
    max_size=7,
)


def estimated(values: dict[Fraction, int], draws: int) -> Estimate:
    found = estimate(values, draws)
    assert found is not None
    return found


def elected(votes: list[tuple[str | None, bool | None]], right: set[str]) -> Fraction:
    """The share of right answers among those with most votes."""
    counts = Counter(answer.strip().lower() for answer, _ in votes if answer)
    leaders = [answer for answer, count in counts.items() if count == max(counts.values())]
    return Fraction(sum(answer in right for answer in leaders), max(1, len(leaders)))


@given(total=st.integers(1, 8), data=st.data())
def test_pass_at_k_is_the_share_of_sets_that_hold_a_right_draw(total: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, total)), data.draw(st.integers(1, total))
    sets = list(combinations([i < correct for i in range(total)], k))
    assert pass_at(k, correct=correct, total=total) == Fraction(sum(map(any, sets)), len(sets))


@given(answers=drawn, data=st.data())
@settings(max_examples=200)
def test_majority_at_k_is_the_mean_over_all_sets(answers: Any, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(answers)))
    right = {answer.strip().lower() for answer, correct in answers if correct}
    sets = [elected(list(votes), right) for votes in combinations(answers, k)]
    assert majority_at(k, answers) == sum(sets, Fraction(0)) / len(sets)


@given(answers=drawn)
def test_one_draw_passes_votes_and_counts_alike(answers: Any) -> None:
    answered = [(answer or f"no answer {i}", correct) for i, (answer, correct) in enumerate(answers)]
    right = sum(correct is True for _, correct in answered)
    assert majority_at(1, answered) == pass_at(1, correct=right, total=len(answered)) == Fraction(right, len(answered))


def test_a_draw_without_an_answer_does_not_vote() -> None:
    assert majority_at(3, [(None, None), (" ", None), ("7", True)]) == 1
    assert majority_at(2, [(None, None), (None, None)]) == 0


def test_a_tie_counts_its_share() -> None:
    assert majority_at(4, [("6", False), ("7", True), ("6", False), ("7", True)]) == Fraction(1, 2)


def test_a_large_vote_is_exact() -> None:
    answers = [("7", True)] * 20 + [("6", False)] * 20 + [(f"x{i}", False) for i in range(24)]
    assert majority_at(1, answers) == Fraction(20, 64)
    assert Fraction(20, 64) < majority_at(8, answers) < Fraction(1, 2)
    assert majority_at(32, answers) == Fraction(
        1, 2
    )  # at least 8 of 32 are a 6 or a 7, and either is as likely to lead


@pytest.mark.parametrize(("k", "correct", "total"), [(0, 1, 2), (3, 1, 2), (1, 3, 2)])
def test_what_cannot_be_estimated_is_refused(k: int, correct: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {correct} right among {total}"):
        pass_at(k, correct=correct, total=total)


@pytest.mark.parametrize(
    ("right", "wrong", "low", "high"), [(7, 3, 0.3968, 0.8922), (0, 10, 0.0, 0.2775), (10, 0, 0.7225, 1.0)]
)
def test_yes_or_no_problems_have_wilsons_interval(right: int, wrong: int, low: float, high: float) -> None:
    found = estimated({Fraction(1): right, Fraction(0): wrong}, draws=80)
    assert (found.mean, found.problems) == (right / 10, 10)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


@given(values=st.dictionaries(st.fractions(0, 1, max_denominator=8), st.integers(1, 9), min_size=1))
def test_an_interval_holds_its_mean_and_has_width(values: dict[Fraction, int]) -> None:
    found = estimated(values, draws=8 * sum(values.values()))
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.low < found.high


def test_draws_of_one_problem_are_no_independent_evidence() -> None:
    clustered = estimated({Fraction(1): 5, Fraction(0): 5}, draws=10_000)
    spread_out = estimated({Fraction(1, 2): 10}, draws=10_000)
    assert clustered.high - clustered.low > 10 * (spread_out.high - spread_out.low)


def test_the_table_has_a_line_a_difficulty_by_number_and_one_in_all() -> None:
    right, wrong, open_ = ("7", True), ("6", False), ("5", None)
    table = tabulate(
        [
            Draws("10", [wrong, wrong, wrong, open_]),
            Draws("9", [right, right, right, wrong]),
            Draws("9", [right, wrong, wrong, wrong]),
            Draws(None, [right, right, right, right]),
            Draws("hard", [open_, open_, open_, open_]),
            Draws("9", []),
        ]
    )
    assert [line["difficulty"] for line in table] == ["9", "10", "hard", None, "all"]
    keys = [
        "difficulty",
        "problems",
        "draws",
        "correct",
        "undecided",
        "accuracy",
        "pass@1",
        "pass@2",
        "pass@4",
        "maj@4",
    ]
    assert list(table[0]) == keys
    total = table[-1]
    assert [total[key] for key in keys[1:5]] == [5, 20, 8, 5]
    assert total["accuracy"].mean == total["pass@1"].mean == pytest.approx(8 / 20)
    assert total["pass@4"].mean == pytest.approx(3 / 5)
    assert table[0]["pass@2"].mean == pytest.approx((1 + 1 / 2) / 2)
    assert table[0]["maj@4"].mean == pytest.approx(1 / 2)


def test_a_problem_with_fewer_draws_is_left_out_where_it_cannot_tell() -> None:
    total = tabulate([Draws(None, [("7", True)]), Draws(None, [("6", False)] * 3)])[-1]
    assert [total[key].problems for key in ("accuracy", "pass@1", "pass@2", "pass@3", "maj@3")] == [2, 2, 1, 1, 1]
    assert total["accuracy"].mean == 0.5


def test_a_difficulty_without_enough_draws_makes_no_claim() -> None:
    table = tabulate([Draws("1", [("7", True)]), Draws("2", [("7", True)] * 2)])
    assert (table[0]["difficulty"], table[0]["pass@2"], table[0]["maj@2"]) == ("1", None, None)


def test_an_estimate_reads_as_a_person_writes_it() -> None:
    assert str(estimate({Fraction(1): 7, Fraction(0): 3}, draws=10)) == "0.700 [0.397, 0.892]"


def test_nothing_drawn_makes_no_table() -> None:
    assert tabulate([Draws("1", [])]) == []


def traces(*rows: tuple[str, str | None, str | None, bool | None]) -> pl.LazyFrame:
    schema = {"problem_id": pl.String, "difficulty": pl.String, "answer": pl.String, "correct": pl.Boolean}
    return pl.LazyFrame(rows, schema=schema, orient="row")


def test_traces_are_tabulated_by_their_problems() -> None:
    table = accuracy_table(
        traces(("p", "1", "7", True), ("q", "1", "6", False), ("p", "1", "6", False), ("q", "1", None, None))
    )
    assert [line["difficulty"] for line in table] == ["1", "all"]
    assert (table[0]["draws"], table[0]["undecided"]) == (4, 1)
    assert (table[0]["pass@2"].mean, table[0]["maj@2"].mean) == (0.5, 0.25)


def test_where_nothing_was_decided_nothing_is_claimed() -> None:
    assert accuracy_table(traces(("p", None, "7", None))) == accuracy_table(traces()) == []
