"""kill -9 on a build with a real engine, again and again; then its version beside that of a build that nobody disturbed.

    python tests/bench/kill.py              # 20 kills: half an hour, most of it engines that start
    python tests/bench/kill.py --kills 2

Each life ends after a number of journaled samples drawn at random. A life that is counted as a kill was alive when it was
killed; an engine that outlives its build stops the benchmark.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from common import scratch, table

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tests.kill import Ordeal, lives
from tests.test_kill import VLLM

PROBLEMS, N = 100, 4
HEADER = ("kills", "samples", "replayed by the last life", "wall s", "left behind", "undisturbed", "killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20261120)
    options = parser.parse_args()
    with scratch() as folder:
        row = run(folder, options.kills, options.seed)
    table(HEADER, [row])
    if row[-1] != row[-2]:
        sys.exit("the versions differ")


def run(folder: Path, kills: int, seed: int) -> tuple[object, ...]:
    began = time.monotonic()
    (folder / "recipe.toml").write_text(VLLM)
    with (folder / "problems.jsonl").open("w") as file:
        for i in range(PROBLEMS):
            question = f"Tom has {i} apples and buys {i % 7 + 2} more. How many apples does Tom have?"
            file.write(json.dumps({"id": f"p{i:03}", "question": question, "answer": str(i + i % 7 + 2)}) + "\n")
    ordeal = Ordeal(folder / "recipe.toml", folder / "store")
    for target in lives(seed, PROBLEMS * N - 24, kills):  # what is in flight may still land: leave some to be killed
        ordeal.live_until(lambda target=target: ordeal.journal_entries() >= target, timeout=600)
        print(f"kill {ordeal.kills}: {ordeal.journal_entries()} of {PROBLEMS * N} samples journaled", flush=True)
    left = ordeal.left_behind(patience=60)
    assert not left, f"processes {left} outlived the builds that started them"
    killed = ordeal.finish()
    assert killed["samples_new"] + killed["samples_replayed"] == PROBLEMS * N
    undisturbed = ordeal.finish(folder / "undisturbed")
    wall = f"{time.monotonic() - began:.0f}"
    versions = undisturbed["version"], killed["version"]
    return ordeal.kills, PROBLEMS * N, killed["samples_replayed"], wall, len(left), *versions


if __name__ == "__main__":
    main()
