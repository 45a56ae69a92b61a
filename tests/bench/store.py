"""What a version costs: the speed of a commit, the bytes that a second version adds, the speed of fsck.

python tests/bench/store.py --rows 1000000
"""

import argparse
import random
import shutil
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import scratch, table

from tracemill.pipelines.store import Dataset, Draft, Store
from tracemill.pipelines.versions.fsck import fsck

BATCH = 4096
SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("problem_id", pa.string()), ("question", pa.string()), ("content", pa.string()),
        ("answer", pa.string()), ("correct", pa.bool_()), ("n_tokens", pa.int64()), ("score", pa.float64()),
    ]
)  # fmt: skip
SCORES = pa.schema([("id", pa.string()), ("score", pa.float64())])
_pool: list[str] = []


def text(start: int, size: int) -> str:
    """Words drawn by Zipf's law: a piece of one long text, so that making rows costs little."""
    if not _pool:
        rng = np.random.default_rng(0)
        letters = random.Random(0)
        words = ["".join(letters.choices("etaoinshrdlucmfwyp", k=letters.randint(2, 9))) for _ in range(30_000)]
        ranks = np.minimum(rng.zipf(1.2, 8_000_000), len(words)) - 1
        _pool.append(" ".join([words[rank] for rank in ranks.tolist()]))
    start %= len(_pool[0]) - size
    return _pool[0][start : start + size]


def number(i: int, what: str) -> int:
    return int.from_bytes(sha256(f"{what}{i}".encode()).digest()[:6], "big")


def batches(
    ids: range, changed: Callable[[int], bool] = lambda i: False, scores: str = "score"
) -> Iterator[pa.RecordBatch]:
    """Rows of about 2 KB; `changed` says which have another content."""
    for begin in range(0, len(ids), BATCH):
        some = ids[begin : begin + BATCH]
        columns = [
            [f"p{i // 4:07}/solve-{i % 4:04}" for i in some],
            [f"p{i // 4:07}" for i in some],
            [text(number(i // 4, "question"), 250) for i in some],
            [text(number(i, "new" if changed(i) else "old"), 1700) for i in some],
            [str(i % 977) for i in some],
            [i % 3 > 0 for i in some],
            [300 + i % 199 for i in some],
            [number(i, scores) / 2**48 for i in some],
        ]
        yield pa.RecordBatch.from_arrays(
            [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
        )


def commit(store: Store, write: Callable[[Draft], None]) -> Dataset:
    with store.draft("bench") as draft:
        write(draft)
        return draft.commit(recipe_toml="", identity={}, manifest={})


def speed(folder: Path, rows: int) -> Iterator[list[object]]:
    """Plain pyarrow and a commit, in turns, each over batches that are there already."""
    made = list(batches(range(rows)))
    size = sum(batch.nbytes for batch in made)
    took: dict[str, list[float]] = {"plain": [], "commit": []}
    for round_ in range(3):
        start, cpu = time.perf_counter(), time.process_time()
        with pq.ParquetWriter(folder / "plain.parquet", SCHEMA, compression="zstd") as writer:
            for batch in made:
                writer.write_batch(batch, row_group_size=1 << 20)
        plain = (time.perf_counter() - start, time.process_time() - cpu)
        start, cpu = time.perf_counter(), time.process_time()
        store = Store(folder / f"speed-{round_}")
        dataset = commit(store, lambda draft: draft.table("rows", SCHEMA, made) and None)
        ours = (time.perf_counter() - start, time.process_time() - cpu)
        took["plain"].append(plain[0])
        took["commit"].append(ours[0])
        files = len(dataset.files())
        bytes_ = sum(file.stat().st_size for file in dataset.files())
        single = (folder / "plain.parquet").stat().st_size
        yield [
            round_ + 1, f"{rows:,}", f"{size / 1e6:,.0f}", f"{plain[0]:.1f}", f"{plain[1]:.1f}", f"{ours[0]:.1f}", f"{ours[1]:.1f}",
            f"{plain[0] / ours[0]:.2f}", f"{plain[1] / ours[1]:.2f}", f"{single / 1e6:,.0f}", f"{bytes_ / 1e6:,.0f}", files,
        ]  # fmt: skip
        shutil.rmtree(store.root)


def second(folder: Path, rows: int, only: str = "") -> Iterator[list[object]]:
    """What a second version adds to the disk, and to an upload that sends each chunk once; cases whose names have `only` in them."""
    middle, few = rows // 2, rows // 100
    one_percent = lambda i: number(i, "scattered") % 100 == 0  # noqa: E731
    cases: dict[str, tuple[range, Callable[[int], bool], str]] = {
        "1 % changed, contiguous": (range(rows), lambda i: middle <= i < middle + few, "score"),
        "1 % appended": (range(rows + few), lambda i: False, "score"),
        "1 % inserted before all": (range(-few, rows), lambda i: False, "score"),
        "a column in a table of its own, all rows": (range(rows), lambda i: False, "other"),
        "a column of `rows`, all rows": (range(rows), lambda i: False, "other"),
        "1 % changed, scattered": (range(rows), one_percent, "score"),
    }
    for case, (ids, changed, scores) in cases.items():
        if only not in case:
            continue
        apart = "of its own" in case
        store = Store(folder / "second")
        shift = few if ids[0] < 0 else 0
        old = commit(store, rows_of(range(shift, rows + shift), lambda i: False, "score", apart))
        new = commit(store, rows_of(range(ids[0] + shift, ids[-1] + 1 + shift), changed, scores, apart))
        yield [case, *compared(old, new)]
        shutil.rmtree(store.root)


def rows_of(ids: range, changed: Callable[[int], bool], scores: str, apart: bool) -> Callable[[Draft], None]:
    """Writes the rows of one version; `apart` puts the column `score` into a table of its own, too."""

    def write(draft: Draft) -> None:
        draft.table("rows", SCHEMA, batches(ids, changed, "score" if apart else scores))
        if apart:
            draft.table("scores", SCORES, (batch.select(["id", "score"]) for batch in batches(ids, changed, scores)))

    return write


def compared(old: Dataset, new: Dataset) -> list[object]:
    have = {file.stat().st_ino for file in parquet_of(old)}
    added = [file for file in parquet_of(new) if file.stat().st_ino not in have]
    total = sum(file.stat().st_size for file in parquet_of(new))
    disk = sum(file.stat().st_size for file in added)
    known = {digest for file in parquet_of(old) for digest, _ in chunks(file)} if added else set()
    upload = sum(size for file in added for digest, size in chunks(file) if digest not in known)
    files = len(parquet_of(new))
    return [
        f"{total / 1e6:,.0f}",
        files,
        len(added),
        f"{disk / 1e6:,.1f}",
        f"{disk / total:.1%}",
        f"{upload / total:.1%}",
    ]


def parquet_of(dataset: Dataset) -> list[Path]:
    return sorted(dataset.path.rglob("*.parquet"))


GEAR = np.random.default_rng(7).integers(0, 1 << 32, 256, dtype=np.uint32)


def chunks(file: Path) -> Iterator[tuple[bytes, int]]:
    """Content-defined chunks of about 64 KiB by a gear hash over 32 bytes, as Xet cuts them, though not at its places."""
    data = np.fromfile(file, np.uint8)
    rolling = GEAR[data]
    for step in (1, 2, 4, 8, 16):
        rolling[step:] += rolling[:-step] << np.uint32(step)
    marked = np.flatnonzero(rolling < (1 << 32) // 65_536).tolist()
    raw, start = data.tobytes(), 0
    for end in [*marked, len(raw)]:
        if end - start >= 8192 or end == len(raw):
            yield sha256(raw[start:end]).digest(), end - start
            start = end


def checking(folder: Path, rows: int) -> Iterator[list[object]]:
    store = Store(folder / "check")
    commit(store, lambda draft: draft.table("rows", SCHEMA, batches(range(rows))) and None)
    for deep in (False, True):
        start, cpu = time.perf_counter(), time.process_time()
        report = fsck(store.root, deep=deep)
        wall = time.perf_counter() - start
        assert not report.faults
        rate = report.bytes / 1e6 / wall
        yield [
            "--deep" if deep else "",
            f"{report.bytes / 1e6:,.0f}",
            f"{wall:.1f}",
            f"{time.process_time() - cpu:.1f}",
            f"{rate:,.0f}",
        ]


HEADS = {
    "commit": ["round", "rows", "MB of values", "plain s", "plain CPU s", "commit s", "commit CPU s", "speed over plain", "by CPU", "MB plain", "MB commit", "files"],
    "second": ["second version", "MB", "files", "new files", "new MB on disk", "of it on disk", "of it uploaded, by chunk"],
    "fsck": ["fsck", "MB read", "wall s", "CPU s", "MB a second"],
}  # fmt: skip
PARTS: dict[str, Callable[..., Iterator[list[object]]]] = {"commit": speed, "second": second, "fsck": checking}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--case", default="", help="of `second`, those with this in their name, such as scattered")
    parser.add_argument("--in", dest="where", type=Path, help="where to make the stores")
    asked = parser.parse_args()
    for name, part in PARTS.items():
        if asked.only in (None, name):
            with scratch(asked.where) as folder:
                more = {"only": asked.case} if name == "second" else {}
                table(HEADS[name], part(folder, asked.rows, **more))


if __name__ == "__main__":
    main()
