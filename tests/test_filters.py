"""Filters: null keeps a row, a reason and evidence turn it down, and no row can break one."""

import json
from collections.abc import Callable
from datetime import date

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.filters.answered import answered
from tracemill.filters.characters import characters
from tracemill.filters.correct import correct
from tracemill.filters.length import length
from tracemill.filters.truncated import truncated
from tracemill.filters.where import where
from tracemill.schemas.errors import RecipeError

SCHEMA = {
    "id": pl.String,
    "content": pl.String,
    "answer": pl.String,
    "gold": pl.String,
    "correct": pl.Boolean,
    "verdict": pl.String,
    "n_tokens": pl.Int64,
    "finish_reason": pl.String,
    "difficulty": pl.String,
    "score": pl.Float64,
}
FILTERS: dict[str, Callable[[], pl.Expr]] = {
    "correct": correct,
    "answered": answered,
    "truncated": truncated,
    "length": lambda: length(at_least=2, at_most=900),
    "characters": lambda: characters(at_least=1, at_most=5),
    "where": lambda: where(sql="score > 0.5 AND difficulty IN ('1', '2') OR CAST(answer AS INT) / n_tokens > 3 -- so"),
}

text = st.none() | st.text(max_size=6) | st.sampled_from(["", " ", '"', "\\boxed{1}", "7", "x" * 5000])
whole = st.none() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 2, 900, 901])
real = st.none() | st.floats()
cells = {pl.String: text, pl.Int64: whole, pl.Float64: real, pl.Boolean: st.none() | st.booleans()}
rows = st.fixed_dictionaries({name: cells[dtype] for name, dtype in SCHEMA.items()})


def verdicts(keep: pl.Expr, *found: dict[str, object]) -> list[tuple[str, dict[str, object]] | None]:
    """What a filter says of rows: null, or the reason with its evidence."""
    frame = pl.DataFrame(list(found), schema=SCHEMA)
    said = frame.lazy().select(keep.alias("verdict")).collect().to_series().to_list()
    return [said_of and (said_of["reason"], json.loads(said_of["evidence"])) for said_of in said]


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("name", FILTERS)
@given(found=st.lists(rows, max_size=5))
@settings(max_examples=40, deadline=None)
def test_every_row_is_kept_or_has_a_reason_and_evidence_in_json(name: str, found: list[dict[str, object]]) -> None:
    frame = pl.DataFrame(found, schema=SCHEMA)
    said = frame.lazy().select(FILTERS[name]().alias("verdict")).collect().to_series()
    assert len(said) == len(found)
    for verdict in said.to_list():
        assert verdict is None or verdict["reason"]
        assert verdict is None or isinstance(json.loads(verdict["evidence"], parse_constant=no_constant), dict)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_says_the_same_in_the_streaming_engine(name: str) -> None:
    frame = pl.DataFrame(
        [{"id": f"{i}", "answer": "7" if i % 2 else None, "correct": None, "n_tokens": i} for i in range(50)],
        schema=SCHEMA,
    ).lazy()
    judged = frame.with_columns(FILTERS[name]().alias("verdict"))
    assert judged.collect(engine="streaming").equals(judged.collect())


def test_wrong_and_undecided_are_told_apart() -> None:
    shown = {"answer": "6", "gold": "7", "verdict": "different"}
    said = verdicts(correct(), {"correct": True}, {"correct": False, **shown}, {"correct": None})
    assert said == [None, ("wrong", shown), ("undecided", {"answer": None, "gold": None, "verdict": None})]


def test_an_answer_of_white_space_is_none() -> None:
    said = verdicts(answered(), {"answer": "0"}, {"answer": " \n"}, {"answer": None, "finish_reason": "length"})
    assert [verdict and verdict[0] for verdict in said] == [None, "unanswered", "unanswered"]
    assert said[2] == ("unanswered", {"finish_reason": "length", "n_tokens": None})


def test_what_was_cut_off_goes_even_if_it_is_right() -> None:
    ends = [{"finish_reason": end, "correct": True} for end in ("stop", "given", "length", None)]
    assert [verdict and verdict[0] for verdict in verdicts(truncated(), *ends)] == [
        None,
        None,
        "truncated",
        "truncated",
    ]


def test_both_ends_of_a_length_are_inside() -> None:
    said = verdicts(length(at_least=2, at_most=3), *({"n_tokens": n} for n in (1, 2, 3, 4, None)))
    assert [verdict and verdict[0] for verdict in said] == ["too_short", None, None, "too_long", "unknown_length"]
    assert said[3] == ("too_long", {"n_tokens": 4, "at_least": 2, "at_most": 3})


def test_characters_are_counted_not_bytes() -> None:
    assert verdicts(characters(at_most=2), {"content": "żó"}) == [None]


def test_characters_serve_the_questions_of_problems() -> None:
    problems = pl.DataFrame({"problem_id": ["a", "b"], "question": ["1+1?", "?"]})
    kept = problems.filter(characters(column="question", at_least=3).is_null())
    assert kept["problem_id"].to_list() == ["a"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: length(), "needs at_least, at_most or both"),
        (lambda: length(at_least=-1), "at_least = -1: must be 0 or more"),
        (lambda: length(at_least=3, at_most=2), "nothing would be kept"),
        (lambda: characters(column="", at_most=2), "name a text column"),
        (lambda: where(sql="n_tokens >"), "not a condition in SQL"),
        (lambda: where(sql="n_tokens > AVG(n_tokens)"), "AVG looks across rows"),
        (lambda: where(sql="n_tokens > SUM(n_tokens) OVER (PARTITION BY id)"), "SUM looks across rows"),
        (lambda: where(sql="id IN (SELECT id FROM self)"), "SELECT looks across rows"),
        (lambda: where(sql="nonsense(id)"), "not a condition in SQL"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(make: Callable[[], pl.Expr], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        make()


def test_a_condition_shows_the_columns_it_speaks_of() -> None:
    sql = "difficulty IN ('1', '2') AND n_tokens < 9"
    said = verdicts(
        where(sql=sql), {"difficulty": "2", "n_tokens": 3}, {"difficulty": "3", "n_tokens": 3}, {"n_tokens": 3}
    )
    assert said[0] is None
    assert said[1] == ("not_met", {"difficulty": "3", "n_tokens": 3, "sql": sql, "error": None})
    assert said[2] is not None
    assert said[2][0] == "unknown"


def test_words_in_quotes_are_not_taken_for_sql() -> None:
    assert verdicts(where(sql="answer = 'over (select max(x))'"), {"answer": "over (select max(x))"}) == [None]


def test_one_value_that_does_not_convert_costs_one_row() -> None:
    found = [{"answer": answer} for answer in ("5", "a word", "1", "9")]
    said = verdicts(where(sql="CAST(answer AS INT) > 3"), *found)
    assert [verdict and verdict[0] for verdict in said] == [None, "not_computable", "not_met", None]
    assert said[1] is not None
    assert "conversion" in str(said[1][1]["error"])


def test_a_constant_condition_holds_for_every_row() -> None:
    assert verdicts(where(sql="true"), {}, {}) == [None, None]
    assert [verdict and verdict[0] for verdict in verdicts(where(sql="1 > 2"), {}, {})] == ["not_met", "not_met"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("colour = 'red'", r'"colour"; the columns are: .*\bn_tokens \(Int64\)'),
        ("difficulty <= 3", "cannot compare"),
        ("n_tokens", "not a condition"),
    ],
)
def test_a_condition_that_fits_no_row_is_the_recipes_fault(sql: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        verdicts(where(sql=sql), {"n_tokens": 1})


def test_a_condition_reads_the_other_columns_of_a_source() -> None:
    problems = pl.DataFrame(
        {
            "problem_id": ["a", "b"],
            "seen": [date(2024, 1, 1), date(2025, 1, 1)],
            "raw": [b"\xff", b""],
            "tags": [["x"], []],
        }
    )
    said = problems.select(where(sql="seen < DATE '2024-06-01' AND raw IS NOT NULL AND tags IS NOT NULL").alias("v"))
    assert said["v"][0] is None
    assert json.loads(said["v"][1]["evidence"])["seen"] == "2025-01-01"
