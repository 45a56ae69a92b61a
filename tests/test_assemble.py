"""Tables are written a part at a time, and nothing of that shows in them."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import PROBLEMS, solve
from tracemill.pipelines import curate, staging
from tracemill.pipelines.assemble import _merged
from tracemill.pipelines.build import build
from tracemill.pipelines.store import Store
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
