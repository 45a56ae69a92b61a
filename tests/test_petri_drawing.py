"""The net of a row in the terminal: nothing is left out, nothing that a name holds gets through."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.petri_rows import HOSTILE, LYNCH, dags, row_of, row_of_deps
from tracemill.synth.petri_trace.drawing import LINES, columns, critical_steps, legible, lines, picture
from tracemill.synth.petri_trace.layout import steps_of
from tracemill.synth.petri_trace.net import Net


def found(asked: str, *ids: str) -> dict:
    """What `tracemill explain --json` would print, as far as a picture reads it."""
    return {"asked": {"kind": "trace", "id": asked}, "traces": [{"id": i, "row": row_of(LYNCH, i)} for i in ids]}


def test_the_lynch_net_in_the_terminal():
    assert list(picture(found("p1/plan", "p1/plan"))) == [
        "p1/plan: 5 steps in 3 frontiers; width 3, parallelism 1.67; critical path (*) 13 of 18 tokens",
        "  premises    FH, CM",
        "  frontier 1  * [1] FH, CM -> LS                            4 tokens",
        "  frontier 2    [2] FH, LS -> MLH1           after 1        3 tokens",
        "              * [3] LS -> MSH2               after 1        5 tokens",
        "                [4] LS -> MSH6               after 1        2 tokens",
        "  frontier 3  * [5] MLH1, MSH2, MSH6 -> MMR  after 2, 3, 4  4 tokens",
    ]


def test_of_a_problem_the_first_traces_are_drawn_and_of_a_trace_only_that_one():
    traces = [f"p1/plan-{number}" for number in range(5)]
    of_problem = list(picture(found("p1", *traces)))
    assert [line.split(":")[0] for line in of_problem if line[0] == "p"] == traces[:3]
    assert of_problem[-1] == "and 2 more traces: name one to see its net"
    assert next(iter(picture(found("p1/plan-4", *traces)))).startswith("p1/plan-4: ")
    assert list(picture({"asked": {"kind": "trace", "id": "x"}, "traces": [{"id": "x", "row": {"steps": None}}]})) == []


@given(dags(), st.lists(st.integers(1, 9), min_size=7, max_size=7))
def test_the_critical_path_is_a_way_through_the_net_with_the_weight_that_the_net_says(deps, tokens):
    steps = steps_of(row_of_deps(deps, tokens))
    by_number = {step.n: step for step in steps}
    way = critical_steps(steps)
    assert all(before in by_number[n].deps for before, n in pairwise(way))
    assert sum(by_number[n].n_tokens for n in way) == Net.of_steps(steps).critical_path


@given(dags())
def test_where_no_tokens_are_known_the_longest_way_is_critical(deps):
    steps = steps_of(row_of_deps(deps))
    assert len(critical_steps(steps)) == Net.of_steps(steps).depth


@given(dags())
def test_every_step_is_listed_once(deps):
    row = row_of_deps(deps)
    listed = list(lines(steps_of(row)))
    assert sum(f"[{n}] " in line for n in deps for line in listed) == len(deps)


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_gets_through_to_the_terminal(name: str):
    row = row_of({1: ([name], f"{name} x", [], 3)}, row_id=name)
    shown = list(picture({"asked": {"kind": "trace", "id": name}, "traces": [{"id": name, "row": row}]}))
    assert all(line.isprintable() and len(line) < 200 for line in shown)


def test_a_trace_of_two_thousand_steps_fits_a_screen():
    row = row_of_deps({n: [n - 1] if n > 1 else [] for n in range(1, 2001)})
    shown = list(lines(steps_of(row)))
    assert len(shown) == LINES + 2
    assert shown[-1] == "  and 1,940 steps more"


def test_wide_characters_are_counted_as_two_columns_and_combining_ones_as_none():
    row = row_of({1: (["肝" * 40], "糖新生", [], 4), 2: (["糖新生"], "a\u0301" * 20, [1], 3)})
    listed = list(lines(steps_of(row)))
    assert len({columns(line.partition("tokens")[0]) for line in listed[1:]}) == 1
    assert columns(legible("肝" * 40, 27)) <= 27
    assert legible("a\u0301" * 20, 27) == "a\u0301" * 20
