"""What the benchmarks of whole builds share: a model that answers for next to nothing, and a build in a process of its own.

As a script it is that process:  python tests/bench/common.py RECIPE STORE
"""

import contextlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CHARACTERS = 1000
TOKENS = 250
PROMPT = "Add the two numbers. Think step by step, check every step, and box the answer. "

RECIPE = """
name = "bench"
[source]
path = "problems.jsonl"
[model]
name = "scripted-solver"
max_tokens = 65536
[engine]
{engine}
[synth]
use = "sample"
n = {n}
[[filters]]
use = "correct"
{filters}
[[select]]
use = "keep"
"""
SCRIPTED = f"""kind = "scripted"
script = "{Path(__file__).resolve()}:reply"
"""


def reply(request: Any) -> Any:
    """A text of about 1 KB, right for three draws of four: slices of one long text, so that it costs microseconds."""
    from tracemill.schemas.request import Completion

    text, ids = _material()
    number = int(request.problem_id[1:])
    start = request.rng_seed % (len(text) - CHARACTERS)
    answer = number + number % 3 if request.index % 4 else 1000
    place = start % (len(ids) - TOKENS)
    return Completion(
        text=rf"{text[start : start + CHARACTERS]} so \boxed{{{answer}}}",
        finish_reason="stop",
        n_tokens=TOKENS,
        token_ids=ids[place : place + TOKENS],
    )


def stamped(request: Any) -> Any:
    """The usual answer, and a line with the moment it was given."""
    log = os.environ.get("BENCH_STAMPS")
    if log:
        with Path(log).open("a") as file:
            file.write(f"{time.time()}\n")
    return reply(request)


def first_request(request: Any) -> str:
    """The script of a model that is asked once: say when that was and what it took, and end the process."""
    print(time.time(), time.process_time(), _peak_mb(), request.index, flush=True)
    os._exit(0)


_made: list[tuple[str, "array[int]"]] = []


def _material() -> tuple[str, "array[int]"]:
    if not _made:
        rng = random.Random(0)
        words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(5000)]
        _made.append((" ".join(rng.choices(words, k=200_000)), array("i", rng.choices(range(50_000), k=50_000))))
    return _made[0]


def write_recipe(
    folder: Path, *, problems: int, n: int = 4, engine: str = SCRIPTED, filters: str = "", name: str = "recipe.toml"
) -> Path:
    """A recipe over `problems` sums, beside the file that holds them."""
    source = folder / "problems.jsonl"
    if not source.exists():
        with source.open("w") as file:
            for i in range(problems):
                row = {"id": f"p{i:07}", "question": f"{PROMPT}What is {i} + {i % 3}?", "answer": str(i + i % 3)}
                file.write(json.dumps(row) + "\n")
    recipe = folder / name
    recipe.write_text(RECIPE.format(n=n, engine=engine, filters=filters))
    return recipe


@dataclass
class Step:
    """One step of a build; CPU of the building process with all its threads."""

    name: str
    wall: float
    cpu: float
    peak_mb: float


@dataclass
class Run:
    """What one build took."""

    summary: Mapping[str, Any]
    steps: list[Step] = field(default_factory=list)

    @property
    def wall(self) -> float:
        return sum(step.wall for step in self.steps)

    @property
    def cpu(self) -> float:
        return sum(step.cpu for step in self.steps)

    @property
    def peak_mb(self) -> float:
        return max(step.peak_mb for step in self.steps)


def build(recipe: Path, store: Path) -> Run:
    """Build in a fresh process, so that memory and CPU are its own."""
    command = [sys.executable, __file__, str(recipe), str(store)]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    said = json.loads(out.splitlines()[-1])
    return Run(said["summary"], [Step(**step) for step in said["steps"]])


@contextlib.contextmanager
def scratch(where: Path | None = None) -> Iterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tracemill-bench-", dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A Markdown table, a row as it comes, under the command that made it."""
    print("\n```\npython " + " ".join(sys.argv) + "\n```\n")
    print(f"| {' | '.join(header)} |")
    print(f"| {' | '.join(['---', *['--:'] * (len(header) - 1)])} |")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    print()


def _measured(recipe: Path, store: Path) -> Run:
    from tracemill.pipelines.build import build as build_here
    from tracemill.pipelines.running.progress import Report
    from tracemill.pipelines.store import Store
    from tracemill.schemas.recipe import load_recipe

    steps: list[Step] = []
    now = [("starting", time.perf_counter(), _cpu())]

    def enter(name: str) -> None:
        before, wall, cpu = now[-1]
        steps.append(Step(before, time.perf_counter() - wall, _cpu() - cpu, _peak_mb()))
        now.append((name, time.perf_counter(), _cpu()))

    class Steps(Report):
        every = 0.25

        def step(self, name: str) -> None:
            enter(name)

        def update(self, tally: Any) -> None:
            if now[-1][0] == "reading problems":
                enter("synthesizing")

    built = build_here(load_recipe(recipe), Store(store), report=Steps())
    enter("done")
    return Run(built.summary(), steps)


def _cpu() -> float:
    """Of this process with all its threads, and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _peak_mb() -> float:
    """The largest resident size since the last call."""
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    with contextlib.suppress(OSError):  # not everybody may reset it: then the peaks only rise
        Path("/proc/self/clear_refs").write_text("5")
    return peak / 1024


def main() -> None:
    run = _measured(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"summary": run.summary, "steps": [asdict(step) for step in run.steps]}))


if __name__ == "__main__":
    main()
