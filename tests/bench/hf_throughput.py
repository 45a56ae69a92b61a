"""Output tokens a second of the `hf` backend and of the `vllm` backend: the same seeded requests on the small model, in turns.

    python tests/bench/hf_throughput.py [--requests 128] [--rounds 3]

Both are loaded at the same time and only one works; the ratio is the median over the rounds.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from tracemill.schemas.recipe import ModelTable
from tracemill.schemas.request import Backend, Model, Request, Sampling
from tracemill.synth.backends.hf import Hf
from tracemill.synth.backends.vllm import Vllm
from tracemill.synth.render import Renderer

MODEL = Path(__file__).parents[2] / "data/models/tiny-reasoner"
TABLE = ModelTable(name="bench", max_tokens=256, dtype="float32")


def requests(count: int) -> list[Request]:
    encode = Renderer.load(MODEL, "bench").encode
    model, sampling = Model(name="bench", revision="0", dtype="float32"), Sampling(temperature=1.0, max_tokens=256)
    text = "## Question\nTom has {} apples and buys {}. How many apples does Tom have?\n## Task\nThink carefully.\n## Answer\n"
    prompts = (encode(text.format(i % 97, i % 13), special=True) for i in range(count))
    return [
        Request(model=model, prompt=prompt, sampling=sampling, problem_id=str(i), index=i)
        for i, prompt in enumerate(prompts)
    ]


async def rate(backend: Backend, asked: list[Request]) -> float:
    seats = asyncio.Semaphore(backend.at_once)

    async def one(request: Request) -> int:
        async with seats:
            return (await backend.complete(request)).n_tokens

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*map(one, asked)))
    return tokens / (time.perf_counter() - began)


async def main(count: int, rounds: int) -> None:
    asked = requests(count)
    with tempfile.TemporaryDirectory() as runtime:
        backends: dict[str, Backend] = {
            "hf": Hf(MODEL, model=TABLE),
            "vllm": Vllm(MODEL, model=TABLE, runtime=Path(runtime)),
        }
        try:
            for backend in backends.values():
                await backend.start()
                await rate(backend, asked[:32])
            ratios = []
            for number in range(rounds):
                found = {name: await rate(backend, asked) for name, backend in backends.items()}
                ratios.append(found["hf"] / found["vllm"])
                print(number, ", ".join(f"{name} {tokens:.0f} tok/s" for name, tokens in found.items()), flush=True)
            print(f"hf over vllm: {statistics.median(ratios):.2f} (rounds from {min(ratios):.2f} to {max(ratios):.2f})")
        finally:
            for backend in backends.values():
                await backend.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(main(options.requests, options.rounds))
