"""What `tracemill report` takes: a version of a million rows, beside as many that were turned down, with samples and problems of their own.

    python tests/bench/report.py --rows 1000000

The rows are those of the first version in `diff.py`, which leaves one of a hundred out: a text of some 120 characters in two columns, a problem
and a sample each, and one turned-down trace beside each, for one of a hundred reasons of two stages. The process that makes the page is measured from its start to its end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from diff import as_table, pieces, say, turned_down

from tracemill.pipelines.store import Store
from tracemill.schemas.tables import PROBLEMS, REJECTED, ROWS, SAMPLES

CODE = """
import json, resource, sys, time
start = time.perf_counter()
from pathlib import Path
from tracemill.pipelines.report.report import report
from tracemill.pipelines.store import Store
dataset = Store(Path(sys.argv[1]), read_only=True).open(f"wide@{sys.argv[2]}")
page = report(dataset)
seconds = time.perf_counter() - start
usage = resource.getrusage(resource.RUSAGE_SELF)
peak, cpu = usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime
rows = {name: table["rows"] for name, table in dataset.manifest()["tables"].items()}
print(json.dumps({**rows, "seconds": seconds, "CPU": cpu, "peak MB": peak, "page kB": len(page.encode()) / 1000}))
"""


def down(n: int) -> Iterator[pl.DataFrame]:
    """For a hundred reasons in two stages; of an evidence that differs from row to row."""
    number = pl.col("problem_id").str.slice(1).cast(pl.Int64)
    for frame in pieces(n, second=False):
        yield turned_down(frame, second=False).with_columns(
            pl.when(number % 3 == 0).then(pl.lit("filter:length")).otherwise(pl.lit("select:keep")).alias("stage"),
            pl.concat_str(pl.lit("reason "), (number % 50).cast(pl.String)).alias("reason"),
            pl.concat_str(pl.lit('{"n_tokens":'), number.cast(pl.String), pl.lit("}")).alias("evidence"),
        )


def problems(n: int) -> Iterator[pl.DataFrame]:
    for frame in pieces(n, second=False):
        right = (pl.col("number") % 3).alias("correct")
        role = pl.struct(
            pl.lit("solver").alias("role"),
            right,
            pl.lit(2).alias("total"),
            pl.lit(0).alias("undecided"),
            pl.lit(0).alias("truncated"),
        )
        yield as_table(
            frame.with_columns(pl.lit("chosen").alias("outcome"), pl.concat_list(role).alias("roles")), PROBLEMS
        )


def samples(n: int) -> Iterator[pl.DataFrame]:
    for frame in pieces(n, second=False):
        key = pl.concat_str(pl.col("problem_id"), pl.lit("0" * 55)).alias("key")
        yield as_table(
            frame.with_columns(key, pl.lit("solver").alias("role"), pl.col("content").alias("text")), SAMPLES
        )


def commit(store: Store, n: int) -> str:
    with store.draft("wide") as draft:
        draft.table("rows", ROWS, (as_table(frame, ROWS) for frame in pieces(n, second=False)))
        draft.table("rejected", REJECTED, down(n))
        draft.table("problems", PROBLEMS, problems(n))
        draft.table("samples", SAMPLES, samples(n))
        return draft.commit(recipe_toml="", identity={}, manifest={}).version


def main() -> None:
    """Make the version, write its page three times, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        start = time.perf_counter()
        version = commit(store, asked.rows)
        sys.stderr.write(f"made a version in {time.perf_counter() - start:.0f} s\n")
        say("| rows | turned down | page, kB | wall s | CPU s | peak MB |\n| --: | --: | --: | --: | --: | --: |")
        for _ in range(asked.rounds):
            done = subprocess.run(
                [sys.executable, "-c", CODE, folder, version], capture_output=True, text=True, check=True
            )
            found = json.loads(done.stdout)
            took = " | ".join(
                f"{found[name]:,.{digits}f}"
                for name, digits in (("page kB", 0), ("seconds", 1), ("CPU", 1), ("peak MB", 0))
            )
            say(f"| {found['rows']:,} | {found['rejected']:,} | {took} |")


if __name__ == "__main__":
    main()
