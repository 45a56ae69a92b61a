"""Whole builds, small and large: time and memory by step, rebuilds, a changed filter; and builds on a server with latency.

    python tests/bench/scale.py                                  # everything: 20 minutes or more, 2 GB of disk
    python tests/bench/scale.py --only growth --problems 2000    # a quick look
    python tests/bench/scale.py --only flight

`growth` runs on the scripted engine: n = 4, a sample is about 1 KB of text with 250 token ids. `flight` runs on the `openai`
engine against a server in a process of its own: 10,000 requests in flight, and samples of 30,000 tokens. CPU is that of
the building process with all its threads.
"""

import argparse
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from client_cost import server
from common import Run, build, scratch, table, write_recipe

N = 4
LENGTH = '[[filters]]\nuse = "length"\nat_least = 1'
HEADER = ("build", "problems", "wall s", "CPU s", "peak MB", "CPU us a sample", "new samples")
STEPS = ("build", "problems", "step", "wall s", "CPU s", "peak MB", "CPU us a sample")
FLIGHT = ("samples", "tokens each", "at once", "wall s", "CPU s per 1,000", "peak MB", "server saw")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("growth", "flight"), default=("growth", "flight"))
    parser.add_argument("--problems", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    options = parser.parse_args()
    if "growth" in options.only:
        steps: list[tuple[object, ...]] = []
        table(HEADER, growth(options.problems, options.folder, steps))
        table(STEPS, steps)
    if "flight" in options.only:
        table(FLIGHT, flight(options.folder))


def growth(sizes: list[int], where: Path | None, steps: list[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
    """A row for each kind of build at each size, then how memory grew."""
    peaks: dict[str, list[float]] = {}
    for count in sizes:
        with scratch(where) as folder:
            for what, run in kinds(folder, count):
                peaks.setdefault(what, []).append(run.peak_mb)
                steps.extend(by_step(what, count, run))
                each = f"{run.cpu / count / N * 1e6:.0f}"
                new = f"{run.summary['samples_new']:,}"
                yield what, f"{count:,}", f"{run.wall:.1f}", f"{run.cpu:.1f}", f"{run.peak_mb:.0f}", each, new
    for what, (first, *_, last) in peaks.items() if len(sizes) > 1 else ():
        yield f"memory of {what}, last over first", "", "", "", f"{last / first:.2f}x", "", ""


def kinds(folder: Path, count: int) -> Iterator[tuple[str, Run]]:
    """The same recipe built, built again, with another filter, and under another name, which has only the journal."""
    store = folder / "store"
    recipe = write_recipe(folder, problems=count, n=N)
    yield "new", build(recipe, store)
    yield "again, unchanged", build(recipe, store)
    yield (
        "with one filter more",
        build(write_recipe(folder, problems=count, n=N, filters=LENGTH, name="more.toml"), store),
    )
    other = write_recipe(folder, problems=count, n=N, name="other.toml")
    other.write_text(other.read_text().replace('name = "bench"', 'name = "other"'))
    yield "another recipe, replayed", build(other, store)


def by_step(what: str, count: int, run: Run) -> Iterator[tuple[object, ...]]:
    for step in run.steps:
        each = f"{step.cpu / count / N * 1e6:.0f}"
        yield what, f"{count:,}", step.name, f"{step.wall:.1f}", f"{step.cpu:.1f}", f"{step.peak_mb:.0f}", each


def flight(where: Path | None) -> Iterator[tuple[object, ...]]:
    """Builds on a server that answers all alike after a while."""
    for samples, tokens, at_once, latency in ((1000, 30_000, 256, 0.5), (20_000, 250, 10_000, 20.0)):
        with server(latency=latency, tokens=tokens) as url, scratch(where) as folder:
            engine = f'kind = "openai"\nbase_urls = ["{url}"]\nsend = "text"\nat_once = {at_once}'
            recipe = write_recipe(folder, problems=samples // N, n=N, engine=engine)
            recipe.write_text(recipe.read_text().replace("scripted-solver", "tiny"))
            run = build(recipe, folder / "store")
            with urllib.request.urlopen(url.removesuffix("/v1") + "/version") as said:
                seen = json.load(said)["version"]
        each = f"{1000 * run.cpu / samples:.2f}"
        yield f"{samples:,}", f"{tokens:,}", f"{at_once:,}", f"{run.wall:.1f}", each, f"{run.peak_mb:.0f}", seen


if __name__ == "__main__":
    main()
