"""What the `openai` client costs: CPU and memory of the calling process, the server in another.

    python tests/bench/client_cost.py                 # all three rows, about a minute
    python tests/bench/client_cost.py --only short

`long`: samples of 30,000 tokens with their token ids, 1,000 of them, 256 in flight. `short`: 10,000 requests in flight at
once, 16 tokens each. `bare`: the same bytes as `long` read with plain aiohttp and thrown away, the floor under it.
"""

import argparse
import asyncio
import contextlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp

from tracemill.schemas.request import Model, Request, Sampling
from tracemill.synth.backends.openai import OpenAI

SERVER = Path(__file__).parent.parent / "loopback.py"
MODEL = Model(name="tiny", revision="0")


@contextlib.contextmanager
def server(*, latency: float, tokens: int) -> Iterator[str]:
    """A loopback server in a process of its own; its URL."""
    command = [sys.executable, str(SERVER), "--latency", str(latency), "--tokens", str(tokens)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


def ask(index: int, tokens: int) -> Request:
    prompt = f"Problem {index}: what is the smallest number with this many divisors?"
    return Request(model=MODEL, prompt=prompt, sampling=Sampling(max_tokens=tokens), problem_id=str(index), index=index)


async def through_backend(url: str, count: int, at_once: int, tokens: int) -> str:
    """Draw `count` samples, dropping each as it comes."""
    backend = OpenAI([url], served_model="tiny", send="text", at_once=at_once)
    await backend.start()
    todo = iter(range(count))

    async def draw() -> None:
        for index in todo:
            completion = await backend.complete(ask(index, tokens))
            assert completion.n_tokens == tokens

    await asyncio.gather(*(draw() for _ in range(at_once)))
    async with aiohttp.ClientSession() as session, session.get(url.removesuffix("/v1") + "/version") as response:
        said = (await response.json())["version"]
    await backend.close()
    return str(said)


async def bare(url: str, count: int, at_once: int, tokens: int) -> str:
    """The same traffic, read and thrown away."""
    todo = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def draw() -> None:
            for index in todo:
                body = {"model": "tiny", "prompt": f"Problem {index}", "max_tokens": tokens}
                async with session.post(f"{url}/completions", json=body) as response:
                    await response.read()

        await asyncio.gather(*(draw() for _ in range(at_once)))
    return "-"


Load = Callable[[str, int, int, int], Coroutine[Any, Any, str]]


def measure(name: str, load: Load, *, count: int, at_once: int, tokens: int, latency: float) -> None:
    """Run one row in a fresh child, so that memory is its own."""
    with server(latency=latency, tokens=tokens) as url:
        began, cpu = time.perf_counter(), time.process_time()
        before = resident()
        said = asyncio.run(load(url, count, at_once, tokens))
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {name} | {count:,} | {tokens:,} | {at_once:,} | {wall:.1f} | {1000 * cpu / count:.2f} "
        f"| {before:.0f} | {peak:.0f} | {said} |",
        flush=True,
    )


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


ROWS: dict[str, tuple[Load, dict[str, Any]]] = {
    "long": (through_backend, {"count": 1000, "at_once": 256, "tokens": 30000, "latency": 0.5}),
    "bare": (bare, {"count": 1000, "at_once": 256, "tokens": 30000, "latency": 0.5}),
    "short": (through_backend, {"count": 20000, "at_once": 10000, "tokens": 16, "latency": 20.0}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ROWS)
    only = parser.parse_args().only
    if only:
        load, settings = ROWS[only]
        measure(only, load, **settings)
        return
    print(
        "| load | samples | tokens each | in flight | wall s | client CPU s per 1,000 | MB before | MB peak | server |"
    )
    print("| --- | --: | --: | --: | --: | --: | --: | --: | --- |", flush=True)
    for name in ROWS:
        subprocess.run([sys.executable, __file__, "--only", name], check=True)


if __name__ == "__main__":
    main()
