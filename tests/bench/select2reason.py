"""`select2reason` on long traces against a straightforward script: read JSON lines, rank, write.

    python tests/bench/select2reason.py [--traces 200000] [--bytes 20000] [--curate 10000] [--only known|stage|curate]

Difficulty and length in tokens are given to both sides. In `known` the length without copies of steps is given too, so nobody has to read a
text to rank; in the others both sides take the copies off themselves. The same rows are chosen. The selector's stage reads Parquet, as it
does within a build; the whole of `tracemill curate` reads the JSON lines.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import table

PERCENT = 10
PIECE = 2_000
W = 0.25


def traces(count: int, size: int) -> Iterator[dict[str, Any]]:
    """Traces of some `size` characters in steps, of which one in ten repeats an earlier one."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(5000)]
    text = " ".join(rng.choices(words, k=200_000))
    for number in range(count):
        steps: list[str] = []
        length = 0
        while length < size:
            again = steps and rng.random() < 0.1
            start = rng.randrange(len(text) - 600)
            steps.append(rng.choice(steps) if again else text[start : start + rng.randint(80, 600)].strip())
            length += len(steps[-1]) + 2
        said = "\n\n".join(steps)
        everything, once = sum(map(len, steps)), sum(map(len, dict.fromkeys(steps)))
        yield {
            "id": f"p{number:07}",
            "question": f"What is {number} + 1?",
            "answer": str(number + 1),
            "response": rf"<think>{said}</think> So \boxed{{{number + 1}}}",
            "d": rng.randrange(1000) / 1000,
            "n_tokens": len(said) // 4,
            "known": len(said) // 4 * once // everything,
            "tokenizer": "given",
            "correct": True,
        }


def write(folder: Path, count: int, size: int) -> None:
    """The traces as JSON lines, and as the columns that a build stages of them."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, pile = None, []
    with (folder / "traces.jsonl").open("w") as file:
        for number, row in enumerate(traces(count, size), start=1):
            file.write(json.dumps(row) + "\n")
            thought, _, content = row["response"].removeprefix("<think>").partition("</think>")
            pile.append(
                {
                    **row,
                    "id": f"{row['id']}/response",
                    "problem_id": row["id"],
                    "reasoning": thought,
                    "content": content,
                }
            )
            pile[-1].pop("response")
            if len(pile) == PIECE or number == count:
                piece: pa.Table = pl.DataFrame(pile).to_arrow()
                writer = writer or pq.ParquetWriter(folder / "traces.parquet", piece.schema, compression="lz4")
                writer.write_table(piece)
                pile = []
    if writer is not None:
        writer.close()


def script(folder: Path, out: Path, *, known: bool = False) -> list[str]:
    """What one would write by hand; `known`: the length without copies is in the file."""
    rows = []
    with (folder / "traces.jsonl").open() as file:
        for number, line in enumerate(file):
            row = json.loads(line)
            if known:
                rows.append((row["id"], row["d"], row["known"], number))
                continue
            thought = row["response"].removeprefix("<think>").partition("</think>")[0]
            content = row["response"].partition("</think>")[2]
            steps = [step for part in thought.split("\n\n") if (step := part.strip())]
            everything, once = sum(map(len, steps)), sum(map(len, dict.fromkeys(steps)))
            size = row["n_tokens"]
            size -= size * (everything - once) // (everything + len(content.strip()))
            rows.append((row["id"], row["d"], size, number))
    hard, long = (_ranks([row[place] for row in rows]) for place in (1, 2))
    order = sorted(range(len(rows)), key=lambda i: (W * hard[i] + (1 - W) * long[i], long[i], hard[i], rows[i][0]))
    chosen = {rows[i][3] for i in order[: len(rows) * PERCENT // 100]}
    with (folder / "traces.jsonl").open() as file, (out / "chosen.jsonl").open("w") as target:
        for number, line in enumerate(file):
            if number in chosen:
                target.write(line)
    return sorted(rows[i][0] for i in chosen)


def _ranks(values: list[float]) -> list[float]:
    """Average ranks, 1 for the largest."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for i in order[start:end]:
            ranks[i] = (start + 1 + end) / 2
        start = end
    return ranks


def stage(folder: Path, out: Path, *, known: bool = False) -> list[str]:
    """The selector over a scan, and the chosen rows written; `known` as above."""
    import polars as pl

    from tracemill.selectors.select2reason import select2reason

    rows = pl.scan_parquet(folder / "traces.parquet")
    column = "known" if known else None
    found = select2reason(rows, d_method="column", column="d", percent=PERCENT, w=W, length_column=column)
    narrow = ["id", "selected", "reason", "evidence", "len_raw", "len_dedup", "rank_j", "place", "flags"]
    decided = found.rows.select(narrow).collect(engine="streaming")
    chosen = decided.filter("selected").select("id").lazy()
    rows.join(chosen, on="id", how="semi").sink_parquet(out / "chosen.parquet")
    return sorted(decided.filter("selected")["id"].str.strip_suffix("/response"))


def curate(folder: Path, out: Path, *, counted: bool = False) -> list[str]:
    """`tracemill curate`, JSON lines to a version; `counted`: lengths by a tokenizer, and not as given."""
    from tracemill.pipelines.build import build
    from tracemill.pipelines.store import Store
    from tracemill.schemas.recipe import parse_recipe

    columns = ["d"] if counted else ["d", "n_tokens", "tokenizer", "correct"]
    source = {"path": str(folder / "traces.jsonl"), "response": "response", "columns": columns}
    select = {"use": "select2reason", "d_method": "column", "column": "d", "percent": float(PERCENT), "w": W}
    recipe: dict[str, Any] = {"name": "long", "source": source, "select": [select]}
    if counted:
        recipe |= {"model": {"name": "tiny-reasoner", "max_tokens": 64}, "engine": {"kind": "scripted"}}
    dataset = build(parse_recipe(recipe), Store(out / "store"), given=True).dataset
    return sorted(dataset.scan("rows").select("problem_id").collect()["problem_id"])


def tokenizer(folder: Path, out: Path) -> list[str]:
    """The same with a clock around the tokenizer."""
    from tracemill.synth.render import Renderer

    spent = [0.0]
    count = Renderer.count

    def timed(self: Renderer, text: str) -> int:
        begin = time.process_time()
        found = count(self, text)
        spent[0] += time.process_time() - begin
        return found

    Renderer.count = timed  # type: ignore[method-assign]
    chosen = curate(folder, out, counted=True)
    sys.stdout.write(json.dumps({"tokenizer": spent[0]}) + "\n")
    return chosen


SIDES: dict[str, Callable[[Path, Path], list[str]]] = {
    "script": script,
    "script_known": partial(script, known=True),
    "stage": stage,
    "stage_known": partial(stage, known=True),
    "curate": curate,
    "tokenizer": tokenizer,
}


def _measured(name: str, folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, __file__, "--side", name, "--path", str(folder), "--out", out]
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    told: dict[str, Any] = {}
    for line in run.stdout.splitlines():
        told |= json.loads(line) if line.startswith("{") else {}
    return told


def side(name: str, folder: Path, out: Path) -> None:
    """Run one side here, and print what it took."""
    begin, cpu = time.perf_counter(), time.process_time()
    chosen = SIDES[name](folder, out)
    taken = {"wall": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({**taken, "peak": peak, "chosen": chosen}) + "\n")


def compared(count: int, size: int, sides: dict[str, str]) -> None:
    """Print the table of these sides on so many traces."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write(folder, count, size)
        runs = {title: _measured(name, folder) for name, title in sides.items()}
    first = next(iter(runs.values()))
    lines = []
    for title, run in runs.items():
        same = run["chosen"] == first["chosen"] if "tokenizer" not in run else "-"
        share = f"{run['tokenizer'] / run['cpu']:.0%}" if "tokenizer" in run else ""
        faster = [f"{first[key] / run[key]:.2f}x" for key in ("wall", "cpu")]
        took = [f"{run['wall']:.1f}", f"{run['cpu']:.1f}", f"{run['peak']:,.0f}"]
        lines.append([title, f"{count:,}", *took, *faster, "yes" if same is True else same, share])
    head = ["select2reason", "traces", "wall s", "CPU s", "peak MB", "script's wall over it", "script's CPU over it"]
    table([*head, "same choice", "tokenizer's share"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--traces", type=int, default=200_000)
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--curate", type=int, default=10_000, help="how many of them the whole build is measured on")
    parser.add_argument("--only", choices=("known", "stage", "curate"))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.path, options.out)
        return
    if options.only in (None, "known"):
        compared(options.traces, options.bytes, {"script_known": "a script", "stage_known": "the selector on Parquet"})
    if options.only in (None, "stage"):
        compared(options.traces, options.bytes, {"script": "a script", "stage": "the selector on Parquet"})
    if options.only in (None, "curate"):
        whole = {"curate": "tracemill curate, lengths given", "tokenizer": "tracemill curate, lengths counted"}
        compared(options.curate, options.bytes, {"script": "a script", **whole})


if __name__ == "__main__":
    main()
