"""How long a restarted build takes to its first new request, by how much the journal holds.

    python tests/bench/restart.py                       # up to 1,000,000 samples of 2 KB: some minutes, 3 GB of disk
    python tests/bench/restart.py --samples 40000       # a quick look

All samples of a recipe with n = 4 are in the journal; then n = 5 is asked for, and the clock runs from the start of the
process until its scripted model is asked. `cold` has to read the problems first; `warm` has them in the work folder.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import common
from common import scratch, table, write_recipe
from journal import some_completions

N = 4
HEADER = ("samples in the journal", "problems", "journal MB", "start", "s to the first request", "CPU s", "peak MB")
ENGINE = f"""kind = "scripted"
script = "{Path(common.__file__).resolve()}:first_request"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.fill)
        return
    table(HEADER, (row for count in options.samples for row in rows(count, options.folder)))


def rows(samples: int, where: Path | None) -> Iterator[tuple[object, ...]]:
    problems = samples // N
    with scratch(where) as folder:
        recipe = write_recipe(folder, problems=problems, n=N + 1, engine=ENGINE)
        subprocess.run([sys.executable, __file__, "--fill", str(folder)], check=True)
        size = sum(file.stat().st_size for file in (folder / "store" / ".journal").iterdir()) / 2**20
        for start in ("cold", "warm", "warm"):
            began = time.time()
            command = [
                sys.executable,
                "-m",
                "tracemill.pipelines.cli",
                "build",
                str(recipe),
                "--store",
                str(folder / "store"),
            ]
            out = subprocess.run([*command, "--quiet"], stdout=subprocess.PIPE, text=True, check=False).stdout
            asked, cpu, peak, index = out.split()
            assert index == str(N), f"draw {index} was asked for again"
            took = f"{float(asked) - began:.2f}"
            yield f"{samples:,}", f"{problems:,}", f"{size:.0f}", start, took, f"{float(cpu):.2f}", f"{float(peak):.0f}"


def fill(folder: Path) -> None:
    """Journal all draws of n = 4, compressed once and written below the queues."""
    from tracemill.synth.journal.codec import encode
    from tracemill.synth.journal.folder import Folder

    payloads = [encode(completion) for completion in some_completions(500)]
    entries = ((bytes.fromhex(key), payloads[i % len(payloads)]) for i, key in enumerate(keys(folder)))
    journal = Folder(folder / "store" / ".journal")
    while some := list(islice(entries, 5000)):
        journal.append(some)
    journal.close()


def keys(folder: Path) -> Iterator[str]:
    """The keys that `sample` asks for with n = 4."""
    from tracemill.pipelines.plan import resolve
    from tracemill.schemas.recipe import load_recipe
    from tracemill.schemas.request import Message, Sampling
    from tracemill.synth.sample import PROMPT

    role = resolve(load_recipe(folder / "recipe.toml"), runtime=folder).roles["solver"]
    with (folder / "problems.jsonl").open() as file:
        for problem in map(json.loads, file):
            first = role.request(
                (Message(role="user", content=PROMPT.replace("{question}", problem["question"])),),
                sampling=Sampling(),
                prefix=None,
                tools=None,
                problem_id=problem["id"],
            )
            yield from (replace(first, index=index).key for index in range(N))


if __name__ == "__main__":
    main()
