"""What Prefect adds to a build: the same scripted build by the bare flow and in a run against a running server.

    python tests/bench/flows.py --problems 100 5000

Each in a process of its own whose imports are done, in turns; seconds of the call. The flow run's include the server's bookkeeping, log lines
and artifacts. The goal: at most 10 s more in all, and no more for 5,000 problems than for 100.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import common

from tests.prefect_server import Prefect

HEADER = ("problems", "bare, s", "in a run, s", "more, s", "more, each round")
TIMED = """
import sys, time
from tracemill.flows.build import build
recipe, store, how = sys.argv[1:]
began = time.perf_counter()
(build.fn if how == "bare" else build)(recipe, store)
print("took", time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, nargs="+", default=[100, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Prefect(Path(folder)) as server:
        common.table(HEADER, (row(server, count, options.rounds) for count in options.problems))


def row(server: Prefect, problems: int, rounds: int) -> tuple[object, ...]:
    folder = server.folder / str(problems)
    folder.mkdir()
    recipe = common.write_recipe(folder, problems=problems)
    times = [
        tuple(seconds(server, recipe, folder / f"{how}-{turn}", how) for how in ("bare", "run"))
        for turn in range(rounds)
    ]
    bare, run = (median(column) for column in zip(*times, strict=True))
    more = ", ".join(f"{after - before:.1f}" for before, after in times)
    return f"{problems:,}", f"{bare:.1f}", f"{run:.1f}", f"{run - bare:.1f}", more


def seconds(server: Prefect, recipe: Path, store: Path, how: str) -> float:
    said = server.run("-c", TIMED, str(recipe), str(store), how)
    return float(next(line for line in said.splitlines() if line.startswith("took ")).split()[1])


if __name__ == "__main__":
    main()
