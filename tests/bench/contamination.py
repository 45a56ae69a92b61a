"""What decontamination finds of planted items, by kind and net; what it removes by mistake; and how fast texts pass.

    python tests/bench/contamination.py --data FOLDER [--model FOLDER] [--rows 20000] [--kinds KIND ...] [--speed 200000]

Clean rows are GSM8K's training problems (FOLDER/gsm8k/train.jsonl), filled up with problems of the project's own generator. Without
--model (a sentence encoder, such as all-MiniLM-L6-v2) the third net is left out. CPU seconds, since other work may share the cores.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from exam import AROUND, exam, kinds

from tracemill.schemas.benchmarks import Benchmark, Benchmarks, Item
from tracemill.selectors.decontaminate import decontaminate
from tracemill.synth.tiny.problems import arith


def main() -> None:
    """Print the tables of docs/benchmarks.md."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--data", type=Path, required=True)
    asked.add_argument("--model", type=Path)
    asked.add_argument("--rows", type=int, default=20_000)
    asked.add_argument("--speed", type=int, default=200_000)
    asked.add_argument("--kinds", nargs="*", help="of what is planted, such as paraphrase; all unless given")
    asked.add_argument("--dtype", default="float32")
    asked.add_argument("--only", choices=("recall", "speed"))
    given = asked.parse_args()
    clean = clean_rows(given.data, given.rows)
    if given.only != "speed":
        recall(clean, opened(given.model, given.dtype) if given.model else None, given.kinds)
    if given.only != "recall":
        speed(clean, given.speed)


def marks() -> Benchmarks:
    items = [Item("exam", item.id, "question", item.question) for item in exam()]
    return Benchmarks({"exam": Benchmark(name="exam", items=items, rows=len(items), sha256="", revision="1")})


def clean_rows(folder: Path, rows: int) -> list[str]:
    file = folder / "gsm8k" / "train.jsonl"
    found = [json.loads(line)["question"] for line in file.read_text(encoding="utf-8").splitlines()]
    own = (problem["question"] for problem in arith(seed=99))
    return [*found, *islice(own, max(0, rows - len(found)))][:rows]


def recall(clean: list[str], embedder: Any, wanted: list[str] | None) -> None:
    planted = [(kind, item.id, text) for item in exam() for kind, text in kinds(item, random.Random(item.id))]
    planted = [row for row in planted if wanted is None or row[0] in wanted]
    ids = [f"c{number:06}/t" for number in range(len(clean))] + [f"p{number:06}/t" for number in range(len(planted))]
    texts = [*clean, *(text for _, _, text in planted)]
    pool = pl.LazyFrame({"id": ids, "problem_id": ids, "question": texts})
    nets: list[tuple[str, dict[str, Any]]] = [("ngram", {"nets": ("ngram",)}), ("near", {"nets": ("near",)})]
    nets += [("both", {"nets": ("ngram", "near")})]
    if embedder is not None:
        nets += [
            (f"meaning {at}", {"nets": ("meaning",), "meaning": at, "meaning_floor": at})
            for at in (0.75, 0.8, 0.85, 0.9)
        ]
        nets += [("all three", {"nets": ("ngram", "near", "meaning")})]
    found: dict[str, Mapping[str, set[str]]] = {}
    seconds = {}
    for name, options in nets:
        start = time.process_time()
        table = (
            decontaminate(pool, engine=embedder, benchmarks=marks(), columns=("question",), **options)
            .tables["contamination"]
            .collect()
        )
        seconds[name] = time.process_time() - start
        hits: dict[str, set[str]] = {}
        for row, item in table.filter("removed").select("id", "item").iter_rows():
            hits.setdefault(row, set()).add(item)
        found[name] = hits
    found["MinHash"] = minhash(texts, ids)
    show_recall(planted, len(clean), found)
    sys.stdout.write(f"CPU seconds: { ({name: round(value, 1) for name, value in seconds.items()}) }\n")


def minhash(texts: list[str], ids: list[str]) -> dict[str, set[str]]:
    """The same by rensa's MinHash over the sequences of three words, at a Jaccard similarity of 0.5, whole text against whole item."""
    from rensa import RMinHash, RMinHashLSH

    from tracemill.schemas.words import prepared, words

    def signature(text: str) -> tuple[Any, set[str]]:
        said = words(text)
        sequences = {" ".join(said[i : i + 3]) for i in range(max(1, len(said) - 2))}
        made = RMinHash(num_perm=128, seed=1)
        made.update(sorted(sequences))
        return made, sequences

    items = exam()
    index = RMinHashLSH(threshold=0.5, num_perm=128, num_bands=32)
    known = []
    for number, text in enumerate(prepared(pl.Series([item.question for item in items]))):
        made, sequences = signature(text)
        index.insert(number, made)
        known.append(sequences)
    found: dict[str, set[str]] = {}
    for row, text in zip(ids, prepared(pl.Series(texts)), strict=True):
        made, sequences = signature(text)
        for number in index.query(made):
            if 2 * len(sequences & known[number]) >= len(sequences | known[number]):
                found.setdefault(row, set()).add(items[number].id)
    return found


def show_recall(planted: list[tuple[str, str, str]], clean: int, found: Mapping[str, Mapping[str, set[str]]]) -> None:
    sys.stdout.write(f"| planted | rows | {' | '.join(found)} |\n| --- | --: |{' --: |' * len(found)}\n")
    for kind in dict.fromkeys(kind for kind, _, _ in planted):
        rows = [(f"p{number:06}/t", item) for number, (k, item, _) in enumerate(planted) if k == kind]
        shares = [sum(row in hits for row, _ in rows) / len(rows) for hits in found.values()]
        sys.stdout.write(f"| {kind} | {len(rows)} | {' | '.join(f'{share:.1%}' for share in shares)} |\n")
    named = [
        sum(item in hits.get(f"p{number:06}/t", ()) for number, (_, item, _) in enumerate(planted))
        / max(1, sum(row.startswith("p") for row in hits))
        for hits in found.values()
    ]
    sys.stdout.write(f"| the item named is among those hit | | {' | '.join(f'{share:.1%}' for share in named)} |\n")
    wrong = [sum(row.startswith("c") for row in hits) for hits in found.values()]
    sys.stdout.write(f"| removed of the clean | {clean:,} | {' | '.join(map(str, wrong))} |\n")


def opened(model: Path, dtype: str) -> Any:
    from tracemill.schemas.recipe import EmbedderTable
    from tracemill.synth.embed import open_embedder

    folder = Path(tempfile.mkdtemp())
    return open_embedder(
        EmbedderTable.model_validate({"name": str(model), "dtype": dtype}), runtime=folder, cache=folder / "vectors"
    )


def speed(clean: list[str], rows: int) -> None:
    """Rows of a question and a trace of some 2 KB, from Parquet files; a hundredth of them hold an item."""
    items = exam()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = 0
        for start in range(0, rows, 10_000):
            ids = [f"r{number:08}/t" for number in range(start, min(rows, start + 10_000))]
            traces = [" ".join([*rng.sample(clean, 8), *AROUND]) for _ in ids]
            questions = [rng.choice(items).question if rng.random() < 0.01 else rng.choice(clean) for _ in ids]
            size += sum(map(len, traces)) + sum(map(len, questions))
            frame = pl.DataFrame({"id": ids, "problem_id": ids, "question": questions, "content": traces})
            frame.write_parquet(folder / f"{start:08}.parquet", row_group_size=4096)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = time.perf_counter(), time.process_time()
        chosen = decontaminate(pl.scan_parquet(folder), benchmarks=marks(), columns=("question", "content"))
        down = chosen.rows.select((~pl.col("selected")).sum()).collect(engine="streaming").item()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(
        "\n| rows | MB of text | removed | wall s | CPU s | rows a CPU s | MB a CPU s | start MB | peak MB | 10M rows, CPU h |\n"
    )
    sys.stdout.write(f"| --: |{' --: |' * 9}\n")
    sys.stdout.write(
        f"| {rows:,} | {size / 1e6:,.0f} | {down:,} | {wall:.1f} | {cpu:.1f} | {rows / cpu:,.0f} | {size / 1e6 / cpu:.1f} | "
        f"{before / 1024:,.0f} | {peak / 1024:,.0f} | {1e7 / rows * cpu / 3600:.1f} |\n"
    )


if __name__ == "__main__":
    main()
