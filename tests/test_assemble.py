"""Tables are written a part at a time, and nothing of that shows in them."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import PROBLEMS, solve
from tracemill.pipelines import curate
from tracemill.pipelines.build import build
from tracemill.pipelines.choosing import staging
from tracemill.pipelines.choosing.assemble import _merged
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe

METHOD = """
from tracemill.schemas.rows import Outcome, Rejection, Trace


async def some(problem, engine, *, n: int = 4):
    number = int(problem.problem_id[1:])
    answers = await engine.sample(problem.question, n=n)
    prompt = engine.conversation(problem.question)
    traces = [
        Trace.of(problem, a, name=f"t{i}", prompt=prompt, model="m", **({"odd": i + 0.5 * (number > 9)} if number % 2 else {}))
        for i, a in enumerate(answers)
    ]
    turned_down = [(trace, Rejection("first", {"n": number})) for trace in traces[: number % 3]]
    if number % 5 == 0:
        turned_down.append((None, Rejection("whole")))
    return Outcome(traces=traces[number % 3 :], rejections=turned_down)
"""


@pytest.mark.parametrize("part_rows", [1, 3, 7])
def test_where_parts_are_cut_changes_no_version(
    part_rows: int, recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "some.py").write_text(METHOD)
    bad = [{"id": "p05", "question": "a twin that differs"}, {"id": "zz", "question": None}, {"question": None}]
    source = tmp_path / "bad.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in [*PROBLEMS, *bad]))
    two = [{"use": "keep", "k": 2}, {"use": "keep", "k": 1, "prefer": "longest"}]
    asked = recipe(select=two, source={"path": str(source)}, synth={"use": f"{tmp_path}/some.py:some"})
    whole = build(asked, Store(tmp_path / "whole"), reply=solve).dataset
    monkeypatch.setattr(staging, "PART_ROWS", part_rows)
    monkeypatch.setattr(curate, "PIECE_ROWS", part_rows)
    parts = build(asked, Store(tmp_path / "parts"), reply=solve).dataset
    assert parts.version == whole.version
    stages = whole.scan("rejected").collect()["stage"].value_counts()
    assert set(stages["stage"]) == {"source", "method", "filter:correct", "select:keep"}


def test_merging_keeps_every_row_in_order_and_equals_together():
    def stream(*pieces: list[str]):
        return iter([pl.DataFrame({"k": piece}, schema={"k": pl.String}) for piece in pieces])

    merged = [
        piece["k"].to_list()
        for piece in _merged([stream(["a", "c"], ["c", "e"], ["z"]), stream(), stream([], ["b", "c"], ["c"])], "k")
    ]
    together = [key for piece in merged for key in sorted(piece)]
    assert together == ["a", "b", "c", "c", "c", "c", "e", "z"]
    assert sum("c" in piece for piece in merged) == 1


TABLED = """
import pyarrow as pa

from tracemill.schemas.rows import Outcome, Summary, Trace

COLUMNS = {"tags": list[str], "span": pa.struct([("start", pa.int64()), ("end", pa.int64())])}
TABLES = {"nodes": {"id": str, "height": int, "path": list[int]}, "nothing": {"id": str}}


async def tabled(problem, engine):
    answers = await engine.sample(problem.question, n=2)
    trace = Trace.of(problem, answers[1], name="t", prompt=engine.conversation(problem.question), model="m", tags=[], span=None)
    nodes = [{"id": f"{problem.problem_id}/n{i}", "height": i, "path": []} for i in reversed(range(len(problem.problem_id)))]
    return Outcome(traces=[trace], tables={"nodes": nodes})


def summary(traces, *, tables):
    rows = tables["nodes"].collect().height
    return Summary(title="Nodes", rows=[{"nodes": rows, "tagged": traces.select("tags", "span").collect().height}])
"""


@pytest.mark.parametrize("part_rows", [1, 4096])
def test_declared_columns_and_tables_keep_their_types_where_nothing_is_in_them(
    part_rows: int, recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(staging, "PART_ROWS", part_rows)
    (tmp_path / "tabled.py").write_text(TABLED)
    built = build(recipe(synth={"use": f"{tmp_path}/tabled.py:tabled"}, filters=[]), Store(tmp_path), reply=solve)
    rows, nodes, nothing = (built.dataset.scan(name).collect() for name in ("rows", "nodes", "nothing"))
    assert rows.schema["tags"] == pl.List(pl.String)
    assert rows.schema["span"] == pl.Struct({"start": pl.Int64, "end": pl.Int64})
    assert nodes.schema == {"problem_id": pl.String, "id": pl.String, "height": pl.Int64, "path": pl.List(pl.Int64)}
    assert nodes["id"].is_sorted()
    assert nodes.height == 3 * len(PROBLEMS)
    assert nothing.schema == {"problem_id": pl.String, "id": pl.String}
    assert nothing.height == 0
    [row] = built.dataset.manifest()["summary"]["rows"]
    assert row == {"nodes": nodes.height, "tagged": rows.height}


@pytest.mark.parametrize(
    ("declares", "says"),
    [
        ('COLUMNS = {"tags": dict}', r"COLUMNS\['tags'\] = <class 'dict'> is no type of a column"),
        ('TABLES = {"n": {"a": list[dict]}}', r"TABLES\['n'\]\['a'\] = <class 'dict'> is no type of a column"),
        ('TABLES = {"samples": {"a": int}}', "declares a table 'samples', which every version has"),
    ],
)
def test_a_declaration_that_cannot_be_is_said_before_the_first_token(
    declares: str, says: str, recipe: Callable[..., Recipe], tmp_path: Path
):
    (tmp_path / "odd.py").write_text(
        f"{declares}\nfrom tracemill.synth.sample import sample\nasync def odd(problem, engine): ...\n"
    )
    with pytest.raises(RecipeError, match=says):
        build(recipe(synth={"use": f"{tmp_path}/odd.py:odd"}), Store(tmp_path), reply=solve)
