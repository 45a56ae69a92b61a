"""Five levels of one adapter side by side, in five passes, and as five merged models; and what adapters cost in tokens a second.

    python tests/bench/levels.py [--problems 200] [--requests 256] [--only builds]

The first table is of whole builds with the small model, engine starts included: what a person waits for. The second is of engines
that run: the same questions to the model itself on an engine without adapters, and to five levels side by side, in turns.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from common import build, scratch, table

from tracemill.schemas.levels import Levels
from tracemill.schemas.recipe import EngineTable, ModelTable
from tracemill.schemas.request import Sampling
from tracemill.synth.backends.vllm.args import environment
from tracemill.synth.models import EMBEDDED, open_role
from tracemill.synth.roles import Role
from tracemill.synth.tiny.problems import arith

ALPHAS = ("0.2", "0.4", "0.6", "0.8", "1")
TABLE = ModelTable(name="tiny-reasoner", max_tokens=300, dtype="float32")
RECIPE = """
name = "bench"
[source]
path = "{source}"
limit = {problems}
[model]
name = "tiny-reasoner"
max_tokens = 300
dtype = "float32"
[engine]
kind = "vllm"
[synth]
use = "mixchain"
alphas = [{alphas}]
{direction}
prompt = '''## Question
{{question}}
## Task
Solve.'''
"""


def whole_builds(folder: Path, problems: int) -> None:
    def built(name: str, alphas: str, direction: str) -> tuple[float, int]:
        recipe = folder / f"{name}.toml"
        source = EMBEDDED.parent / "problems" / "arith.jsonl"
        recipe.write_text(RECIPE.format(source=source, problems=problems, alphas=alphas, direction=direction))
        run = build(recipe, folder / name)
        return run.wall, int(run.summary["tokens_new"])

    adapter, models = 'adapter = "tiny-reasoner-long"', 'end = "tiny-reasoner-slow"'
    side, tokens = built("side", ", ".join(ALPHAS), adapter)
    passes = [built(f"pass-{alpha}", alpha, adapter) for alpha in ALPHAS]
    merged, merged_tokens = built("merged", ", ".join(ALPHAS), models)
    five = sum(wall for wall, _ in passes)
    rows: list[list[Any]] = [
        ["side by side, one engine", 1, f"{tokens:,}", f"{side:.0f}", "1.00"],
        ["five builds, one level each", 5, f"{sum(t for _, t in passes):,}", f"{five:.0f}", f"{five / side:.2f}"],
        ["five merged models, one build", 5, f"{merged_tokens:,}", f"{merged:.0f}", f"{merged / side:.2f}"],
    ]
    table(["five levels", "engine starts", "tokens", "wall s", "over side by side"], rows)


@asynccontextmanager
async def opened(kind: str, folder: Path, *, levels: bool) -> AsyncIterator[Role]:
    """A role that runs: on the model alone, or on five levels of its adapter."""
    asked = Levels(scales=ALPHAS, adapter="tiny-reasoner-long") if levels else None
    if kind != "openai":
        role = open_role("solver", TABLE, EngineTable(kind=kind), runtime=folder, levels=asked)  # type: ignore[arg-type]
        async with running(role):
            yield role
        return
    process, url = serve(folder, asked)
    try:
        await asyncio.to_thread(wait_for, f"{url}/models")
        engine = EngineTable(kind="openai", base_urls=(url,), send="tokens")
        served = Levels(scales=ALPHAS, served={alpha: alpha for alpha in ALPHAS}) if levels else None
        own = TABLE.model_copy(update={"tokenizer": "tiny-reasoner"})
        role = open_role("solver", own, engine, runtime=folder, levels=served)
        async with running(role):
            yield role
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def serve(folder: Path, levels: Levels | None) -> tuple["subprocess.Popen[bytes]", str]:
    """vLLM's server of the small model, with its adapter loaded at every level, and the URL that it will have."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(EMBEDDED / "tiny-reasoner")]
    command += ["--served-model-name", "tiny-reasoner", "--dtype", "float32", "--enforce-eager", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "2048"]
    if levels is not None:
        role = open_role("solver", TABLE, EngineTable(kind="vllm"), runtime=folder, levels=levels)
        places = {scale: next((folder / "adapters").glob(f"*-{scale}")) for scale in role.levels}
        command += [
            "--enable-lora",
            "--max-loras",
            "6",
            "--lora-modules",
            *(f"{s}={place}" for s, place in places.items()),
        ]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(local=True), start_new_session=True)
    return process, f"http://127.0.0.1:{port}/v1"


@asynccontextmanager
async def running(role: Role) -> AsyncIterator[None]:
    await role.backend.start()
    try:
        yield
    finally:
        await role.backend.close()


def wait_for(url: str) -> None:
    while True:
        try:
            urllib.request.urlopen(url).read()
        except OSError:
            time.sleep(0.5)
        else:
            return


async def rate(role: Role, requests: int) -> float:
    """Tokens a second of so many requests at once, spread over the role's levels."""
    adapters = [level.adapter for level in role.levels.values()] or [None]
    asked = [
        role.request(
            f"## Question\n{row['question']}\n## Task\nThink carefully.",
            sampling=Sampling(temperature=1.0),
            prefix=None,
            tools=None,
            adapter=adapters[number % len(adapters)],
            problem_id=str(number),
        )
        for number, row in enumerate(islice(arith(seed=5), requests))
    ]
    began = time.perf_counter()
    answers = await asyncio.gather(*map(role.backend.complete, asked))
    return sum(answer.n_tokens for answer in answers) / (time.perf_counter() - began)


async def engines(folder: Path, requests: int, rounds: int) -> None:
    rows = []
    for kind in ("vllm", "openai", "hf"):
        places = [folder / f"{kind}-{with_levels}" for with_levels in (False, True)]
        for place in places:
            place.mkdir()
        async with opened(kind, places[0], levels=False) as plain, opened(kind, places[1], levels=True) as adapted:
            await rate(plain, 16)
            await rate(adapted, 16)
            pairs = []
            for number in range(rounds):
                order = [plain, adapted][:: -1 if number % 2 else 1]
                found = {id(role): await rate(role, requests) for role in order}
                pairs.append((found[id(plain)], found[id(adapted)]))
        ratios = sorted(after / before for before, after in pairs)
        before, after = (statistics.median(side) for side in zip(*pairs, strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        rows.append([kind, f"{before:,.0f}", f"{after:,.0f}", f"{statistics.median(ratios):.2f}", spread])
    table(["engine", "tokens/s without", "with five levels", "with over without", "rounds from"], rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("builds", "engines"))
    options = parser.parse_args()
    with scratch() as place:
        if options.only != "engines":
            whole_builds(place, options.problems)
        if options.only != "builds":
            asyncio.run(engines(place, options.requests, options.rounds))
