"""Whole builds on the scripted engine, small and large: time and memory by step, rebuilds, a changed filter.

    python tests/bench/scale.py                    # 10,000 and 100,000 problems, n = 4: several minutes, 2 GB of disk
    python tests/bench/scale.py --problems 2000    # a quick look

A sample is about 1 KB of text with 250 token ids. CPU is that of the building process with all its threads.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from common import Run, build, scratch, table, write_recipe

N = 4
LENGTH = '[[filters]]\nuse = "length"\nat_least = 1'
HEADER = ("build", "problems", "wall s", "CPU s", "peak MB", "CPU us a sample", "new samples")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    options = parser.parse_args()
    runs: dict[int, Run] = {}
    steps: list[tuple[object, ...]] = []

    def rows() -> Iterator[tuple[object, ...]]:
        for count in options.problems:
            with scratch(options.folder) as folder:
                for what, run in kinds(folder, count):
                    runs.setdefault(count, run)
                    steps.extend(by_step(what, count, run))
                    yield row(what, count, run)
        if len(runs) > 1:
            first, *_, last = runs.values()
            yield "memory, last over first", "", "", "", f"{last.peak_mb / first.peak_mb:.2f}x", "", ""

    table(HEADER, rows())
    table(("build", "problems", "step", "wall s", "CPU s", "peak MB", "CPU us a sample"), steps)


def kinds(folder: Path, count: int) -> Iterator[tuple[str, Run]]:
    """The same recipe built, built again, with another filter, and under another name, which has only the journal."""
    store = folder / "store"
    recipe = write_recipe(folder, problems=count, n=N)
    yield "new", build(recipe, store)
    yield "again, unchanged", build(recipe, store)
    yield "a filter more", build(write_recipe(folder, problems=count, n=N, filters=LENGTH, name="more.toml"), store)
    other = write_recipe(folder, problems=count, n=N, name="other.toml")
    other.write_text(other.read_text().replace('name = "bench"', 'name = "other"'))
    yield "another recipe, replayed", build(other, store)


def row(what: str, count: int, run: Run) -> tuple[object, ...]:
    each = f"{run.cpu / count / N * 1e6:.0f}"
    return (
        what,
        f"{count:,}",
        f"{run.wall:.1f}",
        f"{run.cpu:.1f}",
        f"{run.peak_mb:.0f}",
        each,
        run.summary["samples_new"],
    )


def by_step(what: str, count: int, run: Run) -> Iterator[tuple[object, ...]]:
    for step in run.steps:
        each = f"{step.cpu / count / N * 1e6:.0f}"
        yield what, f"{count:,}", step.name, f"{step.wall:.1f}", f"{step.cpu:.1f}", f"{step.peak_mb:.0f}", each


if __name__ == "__main__":
    main()
