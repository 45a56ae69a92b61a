"""How long each selector takes over a million narrow rows: `python -m tests.bench.selectors [rows]`, one line of JSON each."""

import json
import sys
import time
from collections.abc import Callable

import polars as pl

from tracemill.schemas.rows import Selection
from tracemill.selectors.baseline import baseline
from tracemill.selectors.budget import budget
from tracemill.selectors.cisc import cisc
from tracemill.selectors.exact_target import exact_target
from tracemill.selectors.select2reason import select2reason
from tracemill.selectors.stratified import stratified

PER_PROBLEM = 4


def pool(rows: int) -> pl.LazyFrame:
    """Traces of four a problem with scattered lengths, answers and confidences; texts are a line or two."""
    at = pl.int_range(rows, dtype=pl.Int64, eager=True).alias("at")
    mixed = (pl.col("at") * 2654435761) % 1000003
    problem = pl.format("p{}", pl.col("at") // PER_PROBLEM)
    return pl.DataFrame(at).select(
        pl.format("{}/solve-{}", problem, pl.col("at") % PER_PROBLEM).alias("id"),
        problem.alias("problem_id"),
        pl.lit("wait\n\nso 3\n\nso 3").alias("reasoning"),
        pl.lit("3").alias("content"),
        (mixed % 3).cast(pl.String).alias("answer"),
        pl.lit("0").alias("gold"),
        (mixed % 3 == 0).alias("correct"),
        (mixed % 4001).alias("n_tokens"),
        (mixed % 5).cast(pl.String).alias("difficulty"),
        (mixed / 1000003).alias("conf"),
    ).lazy()  # fmt: skip


SHAPE = {"0": 0.1, "1": 0.2, "2": 0.4, "3": 0.2, "4": 0.1}
RUNS: dict[str, Callable[[pl.LazyFrame], Selection]] = {
    "select2reason": lambda t: select2reason(t, percent=10),
    "baseline random": lambda t: baseline(t, kind="random", percent=10),
    "baseline middle": lambda t: baseline(t, kind="middle", percent=10),
    "baseline diverse": lambda t: baseline(t, kind="diverse", percent=10, by="difficulty"),
    "baseline keyword": lambda t: baseline(t, kind="keyword", percent=10),
    "cisc": lambda t: cisc(t, confidence="conf", temperature=0.2),
    "stratified": lambda t: stratified(t, by=("difficulty",), percent=10, at_most=30_000),
    "stratified by problem": lambda t: stratified(t, by=("problem_id",), percent=50),
    "budget prefix": lambda t: budget(t, tokens=500_000_000),
    "budget greedy": lambda t: budget(t, tokens=500_000_000, rule="greedy"),
    "budget greedy per problem": lambda t: budget(t, tokens=5_000, rule="greedy", per=("problem_id",)),
    "exact_target": lambda t: exact_target(t, rows=100_000, by="difficulty", histogram=SHAPE),
    "exact_target median": lambda t: exact_target(t, rows=100_000, by="difficulty", histogram=SHAPE, median=900),
    "exact_target mean": lambda t: exact_target(t, rows=100_000, by="difficulty", histogram=SHAPE, mean=900),
}


def main() -> None:
    """Print seconds and rows taken, a selector a line."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    traces = pool(rows).collect().lazy()
    for name, select in RUNS.items():
        start = time.perf_counter()
        found = select(traces)
        decided = found.rows.select("id", "selected", "reason", "evidence").collect(engine="streaming")
        tables = {table: frame.collect().height for table, frame in found.tables.items()}
        taken, seconds = decided["selected"].sum(), round(time.perf_counter() - start, 2)
        assert decided.height == rows
        sys.stdout.write(json.dumps({"selector": name, "seconds": seconds, "taken": taken, "tables": tables}) + "\n")


if __name__ == "__main__":
    main()
