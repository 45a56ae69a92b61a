"""What `tracemill diff` takes: two versions of a million rows, of which one in a hundred changed and as many came and went.

    python tests/bench/diff.py --rows 1000000

The rows are narrow: a text of some 120 characters in two columns. Every row has a problem, and beside every row stands one
that a filter turned down. The process that compares them is measured from its start to its end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from tracemill.pipelines.store import Store
from tracemill.schemas.tables import PROBLEMS, REJECTED, ROWS

PIECE = 50_000
CODE = """
import json, resource, sys, time
start = time.perf_counter()
from pathlib import Path
from tracemill.pipelines.asking.diff import diff
from tracemill.pipelines.store import Store
store = Store(Path(sys.argv[1]), read_only=True)
found = diff(store.open(f"wide@{sys.argv[2]}"), store.open(f"wide@{sys.argv[3]}"))
seconds = time.perf_counter() - start
usage = resource.getrusage(resource.RUSAGE_SELF)
peak, cpu = usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime
print(json.dumps({"seconds": seconds, "CPU": cpu, "peak MB": peak, **found["rows"], "reasons": len(found["reasons"])}))
"""


def pieces(n: int, *, second: bool) -> Iterator[pl.DataFrame]:
    """Rows in the order of their ids. One of 100 stands in one version only, one of 100 has another key and text."""
    for start in range(0, n, PIECE):
        number = pl.int_range(start, min(n, start + PIECE), eager=True).alias("number")
        problem = "p" + number.cast(pl.String).str.zfill(8)
        redrawn = (number % 100 == 7) & second
        text = "step " + pl.Series([str((i * 2654435761) % 2**32) * 12 for i in number])
        text = (text + (redrawn.cast(pl.Int8)).cast(pl.String)).alias("content")
        frame = pl.DataFrame({"number": number, "problem_id": problem, "content": text}).with_columns(
            pl.concat_str("problem_id", pl.lit("/solve-0000")).alias("id"),
            pl.concat_str(pl.lit("What is it, in number "), "problem_id").alias("question"),
            pl.col("content").hash().cast(pl.String).str.zfill(64).alias("key"),
            pl.lit("7").alias("answer"),
            pl.lit("7").alias("gold"),
            pl.lit(value=True).alias("correct"),
            pl.lit("equal").alias("verdict"),
            (pl.col("number") % 4096 + redrawn).alias("n_tokens"),
            pl.lit("stop").alias("finish_reason"),
            (pl.col("number") % 5).cast(pl.String).alias("difficulty"),
            pl.lit("bench").alias("source"),
            pl.concat_list(
                pl.struct(pl.lit("user").alias("role"), pl.col("problem_id").alias("content")),
                pl.struct(pl.lit("assistant").alias("role"), pl.col("content")),
            ).alias("messages"),
        )
        there = pl.col("number") % 100 != (8 if second else 9)
        yield frame.filter(there)


def as_table(frame: pl.DataFrame, schema: Any) -> pl.DataFrame:
    missing = [pl.lit(None).alias(name) for name in schema.names if name not in frame.columns]
    return frame.with_columns(missing).select(schema.names)


def turned_down(frame: pl.DataFrame, *, second: bool) -> pl.DataFrame:
    """Every problem's other trace, and the row of the version that the filter of this one no longer lets through."""
    other = frame.with_columns(pl.col("id").str.replace("0000$", "0001"))
    down = other.with_columns(
        pl.lit("filter:length").alias("stage"),
        pl.lit("too_long").alias("reason"),
        pl.lit('{"n_tokens":9,"at_most":8}').alias("evidence"),
        pl.struct("id", "key", "verdict", "content").struct.json_encode().alias("row"),
    )
    return as_table(down, REJECTED).sort("problem_id", "id")


def commit(store: Store, n: int, *, second: bool) -> str:
    with store.draft("wide") as draft:
        draft.table("rows", ROWS, (as_table(frame, ROWS) for frame in pieces(n, second=second)))
        down = (turned_down(frame, second=second) for frame in pieces(n, second=second))
        draft.table("rejected", REJECTED, down)
        outcome = pl.lit("chosen").alias("outcome")
        problems = (as_table(frame.with_columns(outcome), PROBLEMS) for frame in pieces(n, second=second))
        draft.table("problems", PROBLEMS, problems)
        identity = {"models": {"solver": {"seed": int(second)}}}
        return draft.commit(recipe_toml="", identity=identity, manifest={}).version


def main() -> None:
    """Make both versions, compare them three times, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        start = time.perf_counter()
        versions = [commit(store, asked.rows, second=second) for second in (False, True)]
        sys.stderr.write(f"made two versions in {time.perf_counter() - start:.0f} s\n")
        say(
            "| rows | added | removed | changed | wall s | CPU s | peak MB |\n| --: | --: | --: | --: | --: | --: | --: |"
        )
        for _ in range(asked.rounds):
            command = [sys.executable, "-c", CODE, folder, *versions]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            counts = " | ".join(f"{found[name]:,}" for name in ("added", "removed", "changed"))
            took = f"{found['seconds']:.1f} | {found['CPU']:.1f} | {found['peak MB']:,.0f}"
            say(f"| {asked.rows:,} | {counts} | {took} |")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
