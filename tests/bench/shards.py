"""Shards: two workers against one, and what joining shards costs.

    python tests/bench/shards.py                          # all three: some minutes, more on a busy machine
    python tests/bench/shards.py --only workers           # a scripted engine with a fixed latency
    python tests/bench/shards.py --only vllm              # the small model, an engine for each worker on this machine's cores
    python tests/bench/shards.py --only gather --problems 25000

`workers`: the whole command, from its start to the version, and the sampling alone: from the first answer to the last. Every
request takes 0 to 2 seconds, eight of a shard are in flight at once. `gather`: n = 4, 1 KB of text and 250 token ids a sample,
four shards; on the store of the shards, and on an empty one that has to fetch all segments; against a build of the same
recipe that has only the journal.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import common
from common import scratch, table, write_recipe

WORKERS = ("engine", "workers", "samples", "wall s", "sampling s", "over one worker")
GATHER = ("step", "samples", "wall s", "CPU s", "peak MB", "CPU us a sample")
SLOW = f"""kind = "scripted"
script = "{Path(common.__file__).resolve()}:stamped"
at_once = 8
args = {{ latency = 1.0 }}
"""
VLLM = """
name = "bench"
[source]
path = "{problems}"
limit = {limit}
[model]
name = "tiny-reasoner"
max_tokens = 200
temperature = 1.0
dtype = "float32"
[engine]
kind = "vllm"
at_once = 32
[synth]
use = "sample"
n = 8
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=("workers", "vllm", "gather"), default=("workers", "vllm", "gather")
    )
    parser.add_argument("--problems", type=int, default=25_000, help="of `gather`")
    parser.add_argument("--sums", type=int, default=600, help="problems of `workers`")
    parser.add_argument("--limit", type=int, default=200, help="problems of `vllm`")
    parser.add_argument("--folder", type=Path, help="where to write (default: the temporary folder)")
    options = parser.parse_args()
    if "workers" in options.only:
        table(WORKERS, workers(options.sums, options.folder))
    if "vllm" in options.only:
        table(WORKERS, real(options.limit, options.folder))
    if "gather" in options.only:
        table(GATHER, gather(options.problems, options.folder))


def workers(problems: int, where: Path | None) -> Iterator[tuple[object, ...]]:
    with scratch(where) as folder:
        recipe = write_recipe(folder, problems=problems, engine=SLOW)
        yield from _compared("scripted, 1 s", recipe, folder)


def real(limit: int, where: Path | None) -> Iterator[tuple[object, ...]]:
    arith = Path(__file__).resolve().parents[2] / "data" / "problems" / "arith.jsonl"
    with scratch(where) as folder:
        recipe = folder / "recipe.toml"
        recipe.write_text(VLLM.format(problems=arith, limit=limit))
        yield from _compared("vllm on the CPU", recipe, folder)


def _compared(engine: str, recipe: Path, folder: Path) -> Iterator[tuple[object, ...]]:
    alone, versions = 0.0, set()
    for count in (1, 2):
        stamps = folder / f"stamps-{count}"
        began = time.monotonic()
        summary = _run(
            "build",
            str(recipe),
            "--store",
            str(folder / f"{count}"),
            "--workers",
            str(count),
            "--json",
            BENCH_STAMPS=str(stamps),
        )
        wall = time.monotonic() - began
        said = sorted(map(float, stamps.read_text().split())) if stamps.exists() else [0.0, wall]
        sampling = said[-1] - said[0]
        alone = alone or sampling
        versions.add(summary["version"])
        yield engine, count, summary["samples_new"], f"{wall:.1f}", f"{sampling:.1f}", f"{alone / sampling:.2f}x"
    assert len(versions) == 1, versions


def gather(problems: int, where: Path | None) -> Iterator[tuple[object, ...]]:
    with scratch(where) as folder:
        shared = f'segments = "{folder}/shared"\n'
        recipe = write_recipe(folder, problems=problems, engine=common.SCRIPTED + shared)
        plain = write_recipe(folder, problems=problems, name="plain.toml")
        samples = 4 * problems
        for step, arguments in (
            *(
                (f"shard {i} of 4", ("build", str(recipe), "--store", f"{folder}/node", "--shard", f"{i}/4"))
                for i in range(4)
            ),
            ("gather, empty store", ("gather", str(recipe), "--store", f"{folder}/empty")),
            ("gather, store of the shards", ("gather", str(recipe), "--store", f"{folder}/node")),
            ("build, only the journal", ("build", str(plain), "--store", f"{folder}/empty", "--set", "name=other")),
        ):
            wall, cpu, peak = _measured(*arguments, "--quiet")
            of = samples / 4 if step.startswith("shard") else samples
            yield step, f"{of:,.0f}", f"{wall:.1f}", f"{cpu:.1f}", f"{peak:.0f}", f"{cpu / of * 1e6:.0f}"


def _run(*arguments: str, **environment: str) -> dict[str, object]:
    command = [sys.executable, "-m", "tracemill.pipelines.cli", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return said


def _measured(*arguments: str) -> tuple[float, float, float]:
    """Wall and CPU seconds and peak MB of one command with its children."""
    code = (
        "import resource, subprocess, sys, time; began = time.monotonic(); "
        "subprocess.run([sys.executable, '-m', 'tracemill.pipelines.cli', *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)"
    )
    out = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout
    wall, cpu, peak = map(float, out.split())
    return wall, cpu, peak


if __name__ == "__main__":
    main()
