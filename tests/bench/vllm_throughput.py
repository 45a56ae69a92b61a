"""Output tokens a second of the `vllm` backend over bare `LLM.generate`: same prompts, same settings, taken in turns.

    python tests/bench/vllm_throughput.py [--requests 512] [--rounds 5]

Two engines run side by side and only one works at a time, each round in another order, so that a busy machine slows both
alike. A ratio is the median of the rounds' ratios. `same answers` compares every token of the seeded runs.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tracemill.schemas.recipe import ModelTable
from tracemill.schemas.request import Model, Request, Sampling
from tracemill.synth.backends.vllm import Vllm
from tracemill.synth.backends.vllm.args import environment

MODEL = Path(__file__).parents[2] / "data/models/tiny-reasoner"
SEATS = 256
WAYS = {"bare": SEATS, "auto": SEATS + SEATS // 4, "256": SEATS}
"""How many requests are in flight; bare vLLM has them all and works on SEATS."""


def requests(count: int, seeds: str) -> list[Request]:
    model, sampling = Model(name="bench", revision="0", dtype="float32"), Sampling(temperature=1.0, max_tokens=256)
    encode = Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode
    names = ("Tom", "Ann", "Dan", "Eva")
    tasks = ("Be brief.", "Explain.", "Think carefully.", "Solve step by step.")
    asked = []
    for i in range(count):
        question = f"{names[i % 4]} has {i % 97} apples and buys {i % 13}. How many apples does {names[i % 4]} have?"
        prompt = tuple(encode(f"## Question\n{question}\n## Task\n{tasks[i // 4 % 4]}\n## Answer\n").ids)
        mode = "request" if seeds == "seeded" else "none"
        asked.append(
            Request(model=model, prompt=prompt, sampling=sampling, problem_id=str(i), index=i, seeds=mode)  # type: ignore[arg-type]
        )
    return asked


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare(count: int) -> None:
    """Generate once for every line that is read, `seeded` or `unseeded`, with vLLM's own offline interface."""
    from vllm import LLM, SamplingParams

    settings = {"dtype": "float32", "enforce_eager": True, "enable_chunked_prefill": False, "max_num_seqs": SEATS}
    engine = LLM(str(MODEL), max_num_batched_tokens=2048, **settings)
    print("READY", flush=True)
    for line in sys.stdin:
        asked = requests(count, line.strip())
        prompts = [{"prompt_token_ids": list(request.prompt)} for request in asked]
        seeds = [request.rng_seed if request.seeds == "request" else None for request in asked]
        params = [SamplingParams(temperature=1.0, max_tokens=256, seed=seed) for seed in seeds]
        began, cpu = time.perf_counter(), time.process_time()
        outputs = engine.generate(prompts, params, use_tqdm=False)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        ids = [list(output.outputs[0].token_ids) for output in outputs]
        print("RESULT " + json.dumps({"seconds": took, "cpu": cpu, "ids": ids}), flush=True)


class Bare:
    """The process that runs `bare`."""

    def __init__(self, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--bare", "--requests", str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment(local=True), "VLLM_LOGGING_LEVEL": "ERROR"},
        )
        self._await("READY")

    def run(self, seeds: str) -> dict[str, Any]:
        print(seeds, file=self._process.stdin, flush=True)
        return json.loads(self._await("RESULT "))

    def _await(self, wanted: str) -> str:
        for line in self._process.stdout:
            if line.startswith(wanted):
                return line.removeprefix(wanted)
        raise SystemExit("bare vLLM ended early")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


async def ours(backend: Vllm, asked: list[Request], at_once: int) -> dict[str, Any]:
    seats = asyncio.Semaphore(at_once)

    async def one(request: Request) -> list[int]:
        async with seats:
            return list((await backend.complete(request)).token_ids)

    host = backend._host._process.pid
    began, build, engine_host = time.perf_counter(), time.process_time(), cpu_seconds(host)
    ids = await asyncio.gather(*map(one, asked))
    took, build = time.perf_counter() - began, time.process_time() - build
    return {"seconds": took, "cpu": build + cpu_seconds(host) - engine_host, "build": build, "ids": ids}


async def compare(backend: Vllm, other: Bare, count: int, rounds: int) -> dict[str, list[float]]:
    """Tokens a second of every way and round."""
    rates: dict[str, list[float]] = {}
    for number in range(rounds):
        for seeds in ("seeded", "unseeded"):
            order = list(WAYS)[:: -1 if number % 2 else 1]
            asked, found = requests(count, seeds), {}
            for way in order:
                found[way] = other.run(seeds) if way == "bare" else await ours(backend, asked, WAYS[way])
                rate = sum(map(len, found[way]["ids"])) / found[way]["seconds"]
                rates.setdefault(f"{way} {seeds}", []).append(rate)
                cost = 1000 * found[way]["cpu"] / count
                share = f", of it the build's {1000 * found[way]['build'] / count:.2f}" if way != "bare" else ""
                print(
                    f"{number} {way:>4} {seeds:8} {rate:6.0f} tok/s, {cost:.2f} ms CPU a request beside EngineCore{share}"
                )
            if seeds == "seeded":
                print("same answers:", all(found[way]["ids"] == found["bare"]["ids"] for way in found), flush=True)
    return rates


async def main(count: int, rounds: int) -> None:
    table = ModelTable(name="bench", max_tokens=256, dtype="float32")
    with tempfile.TemporaryDirectory() as runtime:
        backend = Vllm(MODEL, model=table, runtime=Path(runtime), engine_args={"max_num_seqs": SEATS})
        other = Bare(count)
        try:
            await backend.start()
            await ours(backend, requests(SEATS, "seeded"), SEATS)  # both have run their kernels once
            other.run("seeded")
            rates = await compare(backend, other, count, rounds)
        finally:
            other.close()
            await backend.close()
    for way, base in (
        ("auto seeded", "bare seeded"),
        ("256 seeded", "bare seeded"),
        ("auto unseeded", "bare unseeded"),
        ("auto seeded", "bare unseeded"),
    ):
        ratios = sorted(mine / theirs for mine, theirs in zip(rates[way], rates[base], strict=True))
        print(f"{way} over {base}: {statistics.median(ratios):.3f} (rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.bare:
        bare(options.requests)
    else:
        asyncio.run(main(options.requests, options.rounds))
