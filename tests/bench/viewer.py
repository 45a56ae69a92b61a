"""What `tracemill view` takes on a version of a million rows: its first page, pages anywhere, a row by its id, searches, memory.

    python tests/bench/viewer.py --rows 1000000

The version is the one of `diff.py`: narrow rows, each with one beside it that was turned down. The viewer is the real command in a
process of its own, asked over the loopback; every request is one page with all its HTML.
"""

import argparse
import contextlib
import http.client
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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


Line = tuple[str, str, str, str, str]


class Meter:
    """Times requests: seconds that the client waits, and CPU seconds of the viewer, which a busy machine does not change."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")

    def cpu(self) -> float:
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def line(self, told: str, acts: Sequence[Callable[[], object]]) -> Line:
        """A line of the table: median, 95th percentile and slowest of all, and CPU of one."""
        before, took = self.cpu(), []
        for act in acts:
            start = time.perf_counter()
            act()
            took.append(time.perf_counter() - start)
        took.sort()
        numbers = (median(took), took[int(0.95 * len(took))], took[-1], (self.cpu() - before) / len(acts))
        return (told, *(f"{1000 * number:,.0f} ms" for number in numbers))  # type: ignore[return-value]


def searched(client: Client, meter: Meter, told: str, **asked: object) -> Line:
    """A search followed to its first hit or to the end of the table."""
    took, start, before = [], "0", meter.cpu()
    while True:
        begin = time.perf_counter()
        body = client.get("table", t="rows", **asked, **{"from": start})
        took.append(time.perf_counter() - begin)
        more = re.search(r'href="table\?([^"]*)">continue from here', body)
        if more is None or not re.search(r"\b0 found", body):
            break
        start = re.findall(r"from=(\d+)", unescape(more[1]))[-1]
    pages = f"{sum(took):.1f} s, {len(took)} pages"
    return f"search: {told}", pages, "", f"{1000 * max(took):,.0f} ms", f"{meter.cpu() - before:.1f} s in all"


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


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
        up, client, meter = time.perf_counter() - start, Client(url), Meter(pid)
        lines = [("from the command to its address", f"{up:.1f} s", "", "", f"{meter.cpu():.1f} s")]
        lines.append(meter.line("first page of the rows", [lambda: client.get("table", t="rows")]))
        lines += measured(client, meter, asked.rows, asked.pages)
        lines.append(("largest memory of the process", f"{peak_mb(pid):,.0f} MB", "", "", ""))
    table((f"{asked.rows:,} rows", "median", "p95", "slowest", "CPU of one"), lines)


def measured(client: Client, meter: Meter, rows: int, pages: int) -> Iterator[Line]:
    rng = random.Random(7)
    numbers = [rng.randrange(rows * 98 // 100) for _ in range(pages)]
    ids = [f"p{n:08}/solve-0000" for n in rng.sample(range(rows), pages) if n % 100 != 9]
    last = rows * 98 // 100

    def page(name: str, **asked: object) -> Callable[[], object]:
        return lambda: client.get(name, **asked)

    yield meter.line("50 rows at random", [page("table", t="rows", **{"from": n}) for n in numbers])
    yield meter.line(
        "50 rows and the next, at the end", [page("table", **{"from": last + 50 * n}) for n in range(pages)]
    )
    yield meter.line("50 rejected rows at random", [page("table", t="rejected", **{"from": n}) for n in numbers])
    yield meter.line("a row by its id", [page("row", t="rows", id=name) for name in ids])
    late = f"p{rows - 2:08}"
    yield searched(client, meter, "text of the last rows, in any column", q=late)
    yield searched(client, meter, "content contains what is nowhere", f="content", o="contains", v="nowhere")
    yield searched(client, meter, "problem_id is, by statistics", f="problem_id", o="is", v=late)
    yield meter.line("explain", [page("life", id=name) for name in ids[:3]])


if __name__ == "__main__":
    main()
