"""Prompt scoring through `engine.score`, journal and all, against bare vLLM that reads the same tokens; taken in turns.

    python tests/bench/prompt_scoring.py [--tokens 1000000] [--rounds 3] [--top 0]

Bare vLLM runs twice: `scored` gives the log-prob of every prompt token, as `engine.score` does, and is what ours is compared with;
`prefill` reads the prompts and throws everything away, which is the floor that no scoring reaches: its difference to `scored` is vLLM's own price of
taking log-probs out, and the smaller the model the larger that is beside it. No round repeats a prompt, so no prefix cache helps anybody.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.vllm_throughput import MODEL, SEATS, cpu_seconds
from tracemill.schemas.recipe import EngineTable, ModelTable
from tracemill.schemas.request import Rendered
from tracemill.schemas.rows import Problem
from tracemill.synth.backends.vllm.args import environment
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.journal import Journal
from tracemill.synth.models import open_role
from tracemill.synth.verify import Verifier
from tracemill.synth.workshop import Workshop

PROMPT, CONTINUATION = 64, 448
"""Tokens of each text, as a trace has them: a question, and what is said to it."""
WARM = 1 << 20
"""The round before the first; its texts come in no other."""
FIRST, LAST = 10, 570
"""Token ids to draw from: ordinary ones of the small model."""


def texts(count: int, round_: int) -> list[list[int]]:
    dice = random.Random(round_)
    return [[dice.randint(FIRST, LAST) for _ in range(PROMPT + CONTINUATION)] for _ in range(count)]


def bare(count: int, top: int) -> None:
    """Read the texts of a round for each line `ROUND WAY`, with vLLM's own offline interface."""
    from vllm import LLM, SamplingParams

    settings = {"dtype": "float32", "enforce_eager": True, "enable_chunked_prefill": False, "max_num_seqs": SEATS}
    engine = LLM(str(MODEL), max_num_batched_tokens=2048, **settings)
    print("READY", flush=True)
    for line in sys.stdin:
        round_, way = line.split()
        prompts = [{"prompt_token_ids": ids} for ids in texts(count, int(round_))]
        wanted = {"prompt_logprobs": top} if way == "scored" else {}
        params = SamplingParams(temperature=1.0, max_tokens=1, detokenize=False, **wanted)
        began = time.perf_counter()
        outputs = engine.generate(prompts, params, use_tqdm=False)
        took = time.perf_counter() - began
        said = outputs[0].prompt_logprobs
        first = (
            [said[at][token].logprob for at, token in list(enumerate(outputs[0].prompt_token_ids))[PROMPT:]]
            if said
            else None
        )
        print("RESULT " + json.dumps({"seconds": took, "first": first}), flush=True)


class Bare:
    """The process that runs `bare`."""

    def __init__(self, count: int, top: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--bare", "--count", str(count), "--top", str(top)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**environment(local=True), "VLLM_LOGGING_LEVEL": "ERROR"},
        )  # fmt: skip
        self._await("READY")

    def run(self, round_: int, way: str) -> dict[str, Any]:
        print(round_, way, file=self._process.stdin, flush=True)
        return json.loads(self._await("RESULT "))

    def _await(self, wanted: str) -> str:
        for line in self._process.stdout or ():
            if line.startswith(wanted):
                return line.removeprefix(wanted)
        raise SystemExit("bare vLLM ended early")

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()


async def ours(shop: Workshop, count: int, round_: int, top: int) -> dict[str, Any]:
    """The same texts by `engine.score`, as many at once as a build has open."""
    asked = texts(count, round_)
    backend = shop.roles["solver"].backend
    seats = asyncio.Semaphore(backend.at_once)

    async def one(number: int, ids: list[int]) -> Any:
        async with seats:
            engine = ProblemEngine(shop, Problem(problem_id=f"{round_}-{number}", question=""))
            return await engine.score(Rendered(tuple(ids[:PROMPT]), None), tuple(ids[PROMPT:]), top=top)

    running = backend._host  # type: ignore[attr-defined] # the first request starts it
    began, build = time.perf_counter(), time.process_time()
    engine_host = cpu_seconds(running._process.pid) if running else 0.0
    scores = await asyncio.gather(*(one(number, ids) for number, ids in enumerate(asked)))
    took, build = time.perf_counter() - began, time.process_time() - build
    host = cpu_seconds(backend._host._process.pid) - engine_host  # type: ignore[attr-defined]
    return {"seconds": took, "first": list(scores[0].logprobs), "build": build, "host": host}


async def main(tokens: int, rounds: int, top: int) -> None:
    count = max(1, tokens // (PROMPT + CONTINUATION))
    total = count * (PROMPT + CONTINUATION)
    with tempfile.TemporaryDirectory() as folder:
        table = ModelTable(name=str(MODEL), max_tokens=16, dtype="float32")
        role = open_role("solver", table, EngineTable(kind="vllm", args={"max_num_seqs": SEATS}), runtime=Path(folder))
        shop = Workshop({"solver": role}, Journal(Path(folder) / "journal"), Verifier())
        other = Bare(count, top)
        rates: dict[str, list[float]] = {"prefill": [], "scored": [], "ours": []}
        try:
            await ours(shop, min(count, SEATS), WARM, top)  # both have run their kernels once
            other.run(WARM, "scored")
            for round_ in range(rounds):
                found: dict[str, dict[str, Any]] = {}
                for way in list(rates)[:: -1 if round_ % 2 else 1]:
                    # the bare ways read texts of their own numbers: the second would find those of the first in its cache
                    found[way] = (
                        await ours(shop, count, round_, top)
                        if way == "ours"
                        else other.run(round_ + rounds * (way == "prefill"), way)
                    )
                    rates[way].append(total / found[way]["seconds"])
                    cpu = (
                        f", CPU a token: build {1e6 * found[way]['build'] / total:.1f} us, host {1e6 * found[way]['host'] / total:.1f} us"
                        if way == "ours"
                        else ""
                    )
                    print(f"{round_} {way:8} {rates[way][-1]:8,.0f} tokens/s{cpu}", flush=True)
                apart = max(abs(a - b) for a, b in zip(found["ours"]["first"], found["scored"]["first"], strict=True))
                print(f"{round_} log-probs of the first text differ by at most {apart:.1e}", flush=True)
        finally:
            other.close()
            await shop.close()
            shop.journal.close()
    for one, base in (("ours", "scored"), ("ours", "prefill"), ("scored", "prefill")):
        ratios = sorted(a / b for a, b in zip(rates[one], rates[base], strict=True))
        print(f"{one} over {base}: {statistics.median(ratios):.3f} (rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--top", type=int, default=0)
    options = parser.parse_args()
    if options.bare:
        bare(options.count, options.top)
    else:
        asyncio.run(main(options.tokens, options.rounds, options.top))
