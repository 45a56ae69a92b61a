"""What the journal costs: replaying, opening, bytes, writing. Prints one table, and the command that made it.

    python tests/bench/journal.py                      # full size: some minutes and 3 GB of disk
    python tests/bench/journal.py --scale 0.05         # a quick look
    python tests/bench/journal.py --only replay open   # some of them

Text is made of invented words drawn by Zipf's law, with phrases that come back as they do in reasoning; each word is 1 to 3
tokens of about 4 characters, with ids spread over a vocabulary of 150,000.
"""

import argparse
import asyncio
import hashlib
import platform
import random
import resource
import shutil
import sqlite3
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path

from tracemill.schemas.request import Completion, Model, Request, Sampling
from tracemill.synth.journal import Journal
from tracemill.synth.journal.codec import encode
from tracemill.synth.journal.folder import Folder

VOCABULARY = 20_000
Row = tuple[str, str, str]


def key(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


class Writer:
    """Invents completions; the same seed, the same completions."""

    def __init__(self, seed: int, *, repeat: float) -> None:
        """`repeat` is the chance that, instead of a new word, a phrase of up to 16 earlier tokens follows."""
        self._random = random.Random(seed)
        self._repeat = repeat
        letters = "etaoinshrdlucmfwypvbgk"
        self._pieces = ["".join(self._random.choices(letters, k=self._random.randint(1, 5))) for _ in range(VOCABULARY)]
        self._pieces = [(" " if self._random.random() < 0.7 else "") + piece for piece in self._pieces]
        self._ids = self._random.sample(range(150_000), VOCABULARY)
        self._weights = list(accumulate(1 / (rank + 2.7) for rank in range(VOCABULARY)))

    def completion(self, tokens: int) -> Completion:
        new = iter(self._random.choices(range(VOCABULARY), cum_weights=self._weights, k=tokens))
        drawn: list[int] = []
        while len(drawn) < tokens:
            if drawn and self._random.random() < self._repeat:
                start = self._random.randrange(len(drawn))
                drawn += drawn[start : start + self._random.randint(2, 16)]
            else:
                drawn.append(next(new))
        del drawn[tokens:]
        return Completion(
            text="".join(self._pieces[piece] for piece in drawn),
            finish_reason="stop",
            n_tokens=tokens,
            token_ids=array("i", [self._ids[piece] for piece in drawn]),
        )


def some_completions(tokens: int, distinct: int = 200) -> list[Completion]:
    writer = Writer(7, repeat=0.1)
    return [writer.completion(tokens) for _ in range(distinct)]


def request(number: int) -> Request:
    """One of four draws of a problem whose prompt has 200 tokens."""
    problem = number // 4
    return Request(
        model=Model(name="bench", revision="sha256:0"),
        prompt=tuple((problem * 7919 + place * 104_729) % 150_000 for place in range(200)),
        sampling=Sampling(temperature=1.0, max_tokens=4096),
        problem_id=f"problem-{problem}",
        index=number % 4,
    )


async def fill(folder: Path, count: int, tokens: int, writers: int = 256) -> float:
    """Write `count` completions; puts a second."""
    made = some_completions(tokens)
    numbers = iter(range(count))

    async def write(journal: Journal) -> None:
        for number in numbers:
            await journal.put(key(number), made[number % len(made)], request(number))

    with Journal(folder) as journal:
        start = time.perf_counter()
        await asyncio.gather(*(write(journal) for _ in range(writers)))
        return count / (time.perf_counter() - start)


def fill_quickly(folder: Path, count: int, tokens: int) -> None:
    """The same entries, compressed once and written below the queues: for benchmarks that only need them there."""
    payloads = [encode(completion) for completion in some_completions(tokens)]
    journal = Folder(folder)
    for start in range(0, count, 1000):
        numbers = range(start, min(count, start + 1000))
        journal.append([(bytes.fromhex(key(number)), payloads[number % len(payloads)], None) for number in numbers])
    journal.close()


async def replay(folder: Path, count: int, workers: int = 256) -> tuple[float, float]:
    """Ask for every completion from many workers at once, as a rebuild does; wall and CPU seconds."""
    numbers = iter(range(count))
    characters = 0

    async def ask(journal: Journal) -> None:
        nonlocal characters
        for number in numbers:
            name = key(number)
            found = await journal.get([name])
            completion = found[name]
            assert isinstance(completion, Completion)
            characters += len(completion.text)

    start, cpu = time.perf_counter(), time.process_time()
    with Journal(folder) as journal:
        await asyncio.gather(*(ask(journal) for _ in range(workers)))
    return time.perf_counter() - start, time.process_time() - cpu


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bench_replay(folder: Path, scale: float) -> Iterator[Row]:
    count = max(256, int(100_000 * scale))
    asyncio.run(fill(folder, count, 2000))
    filled = peak_mb()
    wall, cpu = asyncio.run(replay(folder, count))
    what = f"replay {count:,} completions of 8 KB text and 2,000 token ids"
    yield what, f"{wall:.1f} s, {cpu:.1f} s CPU", f"{count / wall:,.0f}/s"
    yield "peak memory of writing and replaying them", f"{peak_mb():.0f} MB", f"{filled:.0f} MB after writing"
    start = time.perf_counter()
    with Journal(folder) as journal:
        read = sum(1 for _ in journal.read(map(key, range(count))))
        per_entry = journal.stats().bytes / len(journal)
    yield f"read {read:,} of them as a stream", f"{time.perf_counter() - start:.1f} s", f"{per_entry:,.0f} bytes each"


def bench_open(folder: Path, scale: float) -> Iterator[Row]:
    count = max(1000, int(1_000_000 * scale))
    start = time.perf_counter()
    fill_quickly(folder, count, 500)
    yield (
        f"write {count:,} of 2 KB text, 1,000 a transaction",
        f"{time.perf_counter() - start:.0f} s",
        "compressed before",
    )

    async def first() -> tuple[float, float, float]:
        start = time.perf_counter()
        with Journal(folder) as journal:
            opened = time.perf_counter() - start
            assert await journal.get([key(count // 2), "f" * 64])
            looked = time.perf_counter() - start
            start = time.perf_counter()
            for number in range(1000):
                await journal.get([key(number * 7919 % count)])
            return opened, looked, (time.perf_counter() - start) / 1000

    opened, looked, each = asyncio.run(first())
    size = sum(path.stat().st_size for path in folder.iterdir())
    yield f"open and first lookup, {count:,} entries", f"{looked * 1000:.0f} ms", f"open {opened * 1000:.0f} ms"
    yield "one lookup at a time, random keys", f"{each * 1e6:.0f} us", f"{size / count:,.0f} bytes an entry"


def bench_bytes(folder: Path, scale: float) -> Iterator[Row]:
    for what, repeat in (("every token independent", 0.0), ("with recurring phrases", 0.1)):
        sample = Writer(1, repeat=repeat).completion(30_000)
        raw = len(sample.text.encode()) + 4 * 30_000
        start = time.thread_time()
        payload = encode(sample)
        took = time.thread_time() - start
        alone = len(encode(Completion(text="", finish_reason="stop", n_tokens=0, token_ids=sample.token_ids)))
        shown = f"{raw:,} -> {len(payload):,} bytes"
        yield f"30,000 tokens, {what}", shown, f"{raw / len(payload):.1f}x; ids {alone:,}; {took * 1000:.1f} ms CPU"


def bench_writers(folder: Path, scale: float) -> Iterator[Row]:
    for writers in (1, 256, 10_000):
        count = max(writers, int((2000 if writers == 1 else 40_000) * scale))
        cpu = time.process_time()
        rate = asyncio.run(fill(folder / str(writers), count, 500, writers))
        cpu = time.process_time() - cpu
        yield (
            f"{writers:,} writers, durable puts of 2 KB text",
            f"{rate:,.0f} puts/s",
            f"{cpu / count * 1e6:.0f} us CPU each",
        )


BENCHES: dict[str, Callable[[Path, float], Iterator[Row]]] = {
    "replay": bench_replay,
    "open": bench_open,
    "bytes": bench_bytes,
    "writers": bench_writers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the full sizes (default 1)")
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES))
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    options = parser.parse_args()
    print(f"python {' '.join(sys.argv)}")
    print(
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.system()} {platform.machine()}"
    )
    for name in options.only:
        folder = Path(tempfile.mkdtemp(prefix="journal-bench-", dir=options.folder))
        try:
            for row in BENCHES[name](folder, options.scale):
                print("{:<62} {:>28}  {}".format(*row), flush=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
