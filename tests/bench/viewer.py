"""What `tracemill view` takes on a version of a million rows: its first page, pages anywhere, a row by its id, searches, memory.

    python tests/bench/viewer.py --rows 1000000

The version is the one of `diff.py`: narrow rows, each with one beside it that was turned down. The viewer is the real command in a
process of its own, asked over the loopback; every request is one page with all its HTML.
"""

import argparse
import contextlib
import http.client
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from statistics import median
from urllib.parse import urlencode, urlsplit

from common import scratch, table
from diff import commit

from tracemill.pipelines.store import Store


class Client:
    """One connection to the viewer, as a browser keeps it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._path = parts.path
        self._line = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=120)

    def get(self, page: str, **asked: object) -> str:
        self._line.request("GET", f"{self._path}{page}?{urlencode(asked)}")
        answer = self._line.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise RuntimeError(f"{page} {asked}: {answer.status} {body[-300:]}")
        return body


@contextlib.contextmanager
def viewing(store: Path) -> Iterator[tuple[int, str]]:
    command = [sys.executable, "-m", "tracemill.pipelines.cli", "view", "wide", "--store", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.terminate()


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def searched(client: Client, **asked: object) -> tuple[float, int, float]:
    """A search followed to the end of the table or to its first hit: seconds in all, pages, seconds of the slowest page."""
    took, start = [], "0"
    while True:
        begin = time.perf_counter()
        body = client.get("table", **asked, **{"from": start})
        took.append(time.perf_counter() - begin)
        more = re.search(r'href="table\?([^"]*)">continue from here', body)
        if more is None or not re.search(r"\b0 found", body):
            return sum(took), len(took), max(took)
        start = re.findall(r"from=(\d+)", unescape(more[1]))[-1]


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def ms(times: list[float]) -> tuple[str, str, str]:
    ranked = sorted(times)
    return tuple(f"{1000 * one:,.0f} ms" for one in (median(ranked), ranked[int(0.95 * len(ranked))], ranked[-1]))  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--store", type=Path, help="A store that holds the version already, or will.")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = asked.store or stack.enter_context(scratch())
        store = Store(folder)
        if not (folder / "wide").exists():
            commit(store, asked.rows, second=False)
        start = time.perf_counter()
        pid, url = stack.enter_context(viewing(folder))
        up = time.perf_counter() - start
        client = Client(url)
        lines = [("address printed, from the start of the command", f"{up:.1f} s", "", "")]
        first = seconds(lambda: client.get("table", t="rows"))
        lines.append(("first page of the rows", f"{1000 * first:,.0f} ms", "", ""))
        lines += measured(client, asked.rows, asked.pages)
        lines.append(("largest memory of the process", f"{peak_mb(pid):,.0f} MB", "", ""))
    table((f"{asked.rows:,} rows", "median", "p95", "slowest"), lines)


def measured(client: Client, rows: int, pages: int) -> Iterator[tuple[str, str, str, str]]:
    rng = random.Random(7)
    numbers = [rng.randrange(rows * 99 // 100) for _ in range(pages)]
    ids = [f"p{n:08}/solve-0000" for n in rng.sample(range(rows), pages) if n % 100 != 9]
    yield (
        "a page of 50 rows at random",
        *ms([seconds(lambda n=n: client.get("table", t="rows", **{"from": n})) for n in numbers]),
    )
    last = rows * 98 // 100
    yield (
        "pages in order, to the end",
        *ms([seconds(lambda n=n: client.get("table", **{"from": last + 50 * n})) for n in range(pages // 2)]),
    )
    yield (
        "rejected rows at random",
        *ms([seconds(lambda n=n: client.get("table", t="rejected", **{"from": n})) for n in numbers[: pages // 2]]),
    )
    yield "a row by its id", *ms([seconds(lambda n=n: client.get("row", t="rows", id=n)) for n in ids])
    for told, wanted in (
        ("text in the last rows, all columns of text", {"q": f"p{rows - 2:08}"}),
        ("content contains, nowhere", {"f": "content", "o": "contains", "v": "nowhere"}),
        ("problem_id is, by statistics", {"f": "problem_id", "o": "is", "v": f"p{rows - 2:08}"}),
    ):
        whole, count, slowest = searched(client, t="rows", **wanted)
        yield f"search: {told}", f"{whole:.1f} s in all", f"{count} pages", f"{1000 * slowest:,.0f} ms"
    yield "explain", *ms([seconds(lambda n=n: client.get("life", id=n)) for n in ids[:3]])


if __name__ == "__main__":
    main()
