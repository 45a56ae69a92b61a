"""Filters in one pass against `datasets.map` with the same rules, and how long a changed filter takes over ten million narrow rows.

    python tests/bench/filters.py [--rows 1000000] [--narrow 10000000] [--only rules|again]

Each side runs in a process of its own, on the same Parquet file, and has to turn down the same rows for the same reasons.
"""

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import table

RULES: list[dict[str, Any]] = [
    {"use": "truncated"},
    {"use": "length", "at_least": 8, "at_most": 90},
    {"use": "characters", "at_most": 600},
    {"use": "refusal"},
    {"use": "repetition", "compressed_at_least": 0.0},
    {"use": "correct"},
]
PIECE = 50_000


def write_texts(path: Path, rows: int) -> None:
    """Short traces: 20 to 100 words; some loop, some decline, some are cut or wrong."""
    import polars as pl
    import pyarrow.parquet as pq

    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(5000)]
    text = " ".join(rng.choices(words, k=400_000))
    writer = None
    for start in range(0, rows, PIECE):
        made = [_row(rng, text, start + i) for i in range(min(PIECE, rows - start))]
        piece = pl.DataFrame(
            made, schema_overrides={"messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String}))}
        )
        arrow = piece.to_arrow()
        writer = writer or pq.ParquetWriter(path, arrow.schema)
        writer.write_table(arrow)
    if writer is not None:
        writer.close()


def _row(rng: random.Random, text: str, number: int) -> dict[str, Any]:
    kind = rng.random()
    start = rng.randrange(len(text) - 700)
    said = text[start : start + rng.randint(120, 640)]
    if kind < 0.03:
        said = "so we go on and on. " * rng.randint(8, 20)
    elif kind < 0.06:
        said = f"I'm sorry, but I can't help with that. {said[:150]}"
    return {
        "id": f"p{number // 4:08}/t-{number % 4}",
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}],
        "content": said,
        "n_tokens": len(said.split()),
        "finish_reason": "length" if kind > 0.96 else "stop",
        "correct": rng.random() < 0.7,
        "verdict": "equal",
        "answer": "1",
        "gold": "1",
    }


def ours(path: Path) -> Counter[str]:
    """The way of `tracemill curate`: one expression over a scan."""
    import polars as pl

    from tracemill.pipelines.curate import _filtered
    from tracemill.pipelines.plan import resolve
    from tracemill.schemas.recipe import parse_recipe

    with tempfile.TemporaryDirectory() as folder:
        source = {"path": str(path), "response": "content"}
        plan = resolve(
            parse_recipe({"name": "b", "source": source, "filters": RULES}), given=True, runtime=Path(folder)
        )
        frame = _filtered(plan, pl.scan_parquet(path))
    return Counter(dict(frame["reason"].fill_null("").value_counts().iter_rows()))


def theirs(path: Path, processes: int) -> Counter[str]:
    """`datasets.map` with a Python function that applies the same rules to a row."""
    import datasets

    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        datasets.disable_progress_bars()
        rows = datasets.Dataset.from_parquet(str(path), cache_dir=cache)
        judged = rows.map(judge, num_proc=processes if processes > 1 else None, remove_columns=rows.column_names)
        return Counter(judged["reason"])


def judge(row: dict[str, Any]) -> dict[str, str]:
    """What RULES say, as one would write it by hand."""
    text = row["content"]
    reason = ""
    if row["finish_reason"] == "length":
        reason = "truncated"
    elif row["n_tokens"] < 8:
        reason = "too_short"
    elif row["n_tokens"] > 90 or len(text) > 600:
        reason = "too_long"
    elif _declines(text):
        reason = "refusal"
    elif (loops := _loops(text)) is not None:
        reason = loops
    elif not row["correct"]:
        reason = "wrong"
    return {"reason": reason}


_patterns: list[re.Pattern[str]] = []


def _declines(text: str) -> bool:
    if not _patterns:
        from tracemill.filters.refusal import _CLAUSE, REFUSALS

        _patterns.append(re.compile(f"{_CLAUSE}(?:{'|'.join(REFUSALS)})"))
    return _patterns[0].search(" ".join(text[:200].lower().split())) is not None


def _loops(text: str) -> str | None:
    words = text.split()
    if len(words) < 16:
        return "few_words"
    lines = Counter(line.strip() for line in text.split("\n") if len(line.split()) > 1)
    if max(lines.values(), default=0) > 5:
        return "looped_line"
    grams = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return "looped_words" if grams and len(set(grams)) / len(grams) < 0.3 else None


# ---- narrow


def write_narrow(path: Path, rows: int) -> None:
    """What decisions read of so many traces, four a problem, and the counts of their problems."""
    import polars as pl

    at = pl.int_range(rows, dtype=pl.Int64, eager=True).alias("at")
    mixed = (pl.col("at") * 2654435761) % 1000003
    problem = pl.format("p{}", (pl.col("at") // 4).cast(pl.String).str.zfill(8))
    pl.DataFrame(at).lazy().select(
        pl.format("{}/solve-{}", problem, pl.col("at") % 4).alias("id"),
        problem.alias("problem_id"),
        pl.lit("3").alias("answer"),
        pl.lit("3").alias("gold"),
        (mixed % 3 > 0).alias("correct"),
        pl.lit("equal").alias("verdict"),
        (mixed % 4001).alias("n_tokens"),
        pl.lit("stop").alias("finish_reason"),
    ).sink_parquet(path)
    counts = {"correct": pl.col("correct").sum(), "total": pl.len(), "undecided": pl.lit(0)}
    role = pl.struct(**{name: n.cast(pl.Int64) for name, n in counts.items()})
    pl.scan_parquet(path).group_by("problem_id", maintain_order=True).agg(role.alias("role")).select(
        "problem_id", roles=pl.concat_list("role")
    ).sink_parquet(path.with_suffix(".problems"))


def again(path: Path, at_most: int) -> Counter[str]:
    """All decisions of a recipe whose bound is this one."""
    import polars as pl

    from tracemill.pipelines.curate import decide
    from tracemill.pipelines.plan import resolve
    from tracemill.schemas.recipe import parse_recipe

    filters = [{"use": "truncated"}, {"use": "length", "at_most": at_most}, {"use": "correct"}]
    select = [{"use": "keep", "k": 1, "prefer": "shortest"}]
    with tempfile.TemporaryDirectory() as folder:
        table_ = {"name": "b", "source": {"path": str(path), "response": "x"}, "filters": filters, "select": select}
        plan = resolve(parse_recipe(table_), given=True, runtime=Path(folder))
        decisions = decide(plan, pl.scan_parquet(path), pl.scan_parquet(path.with_suffix(".problems")))
    return Counter(dict(decisions.frame["stage"].fill_null("chosen").value_counts().iter_rows()))


# ---- processes


def side(name: str, path: Path, argument: int) -> None:
    """Run one side here, and print what it took."""
    begin, cpu = time.perf_counter(), _cpu()
    found = {
        "ours": lambda: ours(path),
        "theirs": lambda: theirs(path, argument),
        "again": lambda: again(path, argument),
    }[name]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        json.dumps({"wall": time.perf_counter() - begin, "cpu": _cpu() - cpu, "peak": peak, "found": dict(found)})
        + "\n"
    )


def _cpu() -> float:
    """Of this process and the ones it has waited for."""
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(t.ru_utime + t.ru_stime for t in times)


def _measured(name: str, path: Path, argument: int = 0) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", name, "--path", str(path), "--argument", str(argument)]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def rules(folder: Path, rows: int, processes: list[int]) -> None:
    """Print the table of the two sides."""
    path = folder / "texts.parquet"
    write_texts(path, rows)
    runs = {"tracemill, one pass": _measured("ours", path)}
    runs |= {f"datasets.map, {n} process{'es' if n > 1 else ''}": _measured("theirs", path, n) for n in processes}
    first = runs["tracemill, one pass"]
    assert all(run["found"] == first["found"] for run in runs.values()), {k: r["found"] for k, r in runs.items()}
    lines = [
        [
            name,
            f"{rows:,}",
            f"{r['wall']:.1f}",
            f"{r['cpu']:.1f}",
            f"{r['peak']:,.0f}",
            f"{r['wall'] / first['wall']:.1f}x",
            f"{r['cpu'] / first['cpu']:.1f}x",
        ]
        for name, r in runs.items()
    ]
    table(["filters", "rows", "wall s", "CPU s", "peak MB", "wall over ours", "CPU over ours"], lines)


def narrow(folder: Path, rows: int) -> None:
    """Print what a changed bound takes."""
    path = folder / "narrow.parquet"
    write_narrow(path, rows)
    lines = []
    for at_most in (3000, 2500):
        run = _measured("again", path, at_most)
        lines.append(
            [
                f"at_most = {at_most}",
                f"{rows:,}",
                f"{run['wall']:.1f}",
                f"{run['cpu']:.1f}",
                f"{run['peak']:,.0f}",
                f"{run['found']['chosen']:,}",
            ]
        )
    table(["length", "rows", "wall s", "CPU s", "peak MB", "chosen"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--narrow", type=int, default=10_000_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of datasets.map")
    parser.add_argument("--only", choices=("rules", "again"))
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--argument", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.path, options.argument)
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "again":
            rules(Path(folder), options.rows, options.processes)
        if options.only != "rules":
            narrow(Path(folder), options.narrow)


if __name__ == "__main__":
    main()
