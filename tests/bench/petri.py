"""Steps of a frontier side by side against one step after another, on real vLLM; and what checks and layout cost a net.

    python tests/bench/petri.py [--nets 200] [--rounds 5] [--checked 100000] [--only checks]

The same nets are written both ways by the same engine, in turns. Every step is 64 tokens long, so that steps over frontiers is
what is to be had; the times are of writing alone, with the journal in memory.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from common import scratch, table

from tracemill.pipelines.running.collector import collected_rarely
from tracemill.schemas.recipe import EngineTable, ModelTable
from tracemill.schemas.rows import Problem
from tracemill.synth.journal import Journal
from tracemill.synth.models import open_role
from tracemill.synth.petri_trace import layout
from tracemill.synth.petri_trace.chains import read
from tracemill.synth.petri_trace.net import Net, Step
from tracemill.synth.petri_trace.plan import plan, steps_of
from tracemill.synth.petri_trace.text import execution_text, plan_text, training_parts
from tracemill.synth.petri_trace.validators import check
from tracemill.synth.petri_trace.writer import Asker, Draft, Execution, write
from tracemill.synth.tiny.problems import arith
from tracemill.synth.verify import Verifier
from tracemill.synth.workshop import Workshop

TABLE = ModelTable(name="tiny-reasoner", max_tokens=64, dtype="float32", temperature=1.0)
PROMPT = "## Question\n{question}\n## Task\nThink carefully."
LYNCH = "1: FH->LS->MLH1->MMR\n2: CM->LS->MSH2->MMR\n3: FH->LS->MSH6->MMR\n4: FH->MLH1"
NETS = {
    "a row of 5": "1: A->B->C->D->E->F",
    "Lynch, 5 steps in 3 frontiers": LYNCH,
    "two arms of 3 and a join": "1: A->B->C->D->end\n2: P->Q->R->S->end",
    "one, 8 side by side, one": "\n".join(f"{k}: A->B->c{k}->end" for k in range(1, 9)),
}


def steps(chains: str) -> list[Step]:
    return steps_of(plan(read(chains)).entities)


class Writing:
    """An engine that runs, and problems to write nets for."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._questions = arith(seed=9)
        self._number = 0

    def asker(self) -> Asker:
        self._number += 1
        row = next(self._questions)
        problem = Problem(problem_id=str(self._number), question=row["question"], gold=row["answer"])
        prompts = {"step": PROMPT, "shown": ""}
        return Asker(problem, self._shop.engine(problem), prompts, {}, {}, "", True, None, "solver", None)

    async def net(self, planned: Sequence[Step], execution: Execution) -> int:
        """Write a net; how many tokens its steps have."""
        draft = Draft(list(planned))
        numbers = {step.n for step in planned}
        await write(draft, self.asker(), only=numbers, draw=0, execution=execution, clean=False)
        return sum(said.n_tokens for said in draft.last.values())

    async def timed(self, nets: Sequence[Sequence[Step]], execution: Execution, *, at_once: bool) -> tuple[float, int]:
        began = time.perf_counter()
        if at_once:
            tokens = sum(await asyncio.gather(*(self.net(planned, execution) for planned in nets)))
        else:
            tokens = sum([await self.net(planned, execution) for planned in nets])
        return time.perf_counter() - began, tokens


async def written(folder: Path, nets: int, rounds: int) -> None:
    role = open_role("solver", TABLE, EngineTable(kind="vllm"), runtime=folder)
    shop = Workshop({"solver": role}, Journal(), Verifier())
    await role.backend.start()
    try:
        writing = Writing(shop)
        await writing.timed([steps(chains) for chains in NETS.values()] * 8, "frontier", at_once=True)
        idle = [await _ratio(writing, [steps(chains)], 2 * rounds, at_once=False) for chains in NETS.values()]
        full = await _ratio(
            writing, [steps(chains) for chains in NETS.values()] * (nets // len(NETS)), rounds, at_once=True
        )
    finally:
        await shop.close()
        shop.journal.close()
    rows = []
    for (name, chains), (ratio, spread, _) in zip(NETS.items(), idle, strict=True):
        net = Net.of_steps(steps(chains))
        share = f"{ratio / net.parallelism:.2f}"
        rows.append([name, net.width, f"{net.parallelism:.2f}", f"{ratio:.2f}", spread, share])
    header = [
        "one net at a time",
        "width",
        "steps over frontiers",
        "sequential over frontier, wall",
        "rounds from, to",
        "share",
    ]
    table(header, rows)
    ratio, spread, rates = full
    shown = [f"{rate:,.0f}" for rate in rates]
    table(
        ["at once", "frontier tok/s", "sequential tok/s", "frontier over sequential", "rounds from, to"],
        [[f"{nets} nets", *shown, f"{ratio:.2f}", spread]],
    )


async def _ratio(
    writing: Writing, nets: Sequence[Sequence[Step]], rounds: int, *, at_once: bool
) -> tuple[float, str, list[float]]:
    """The median over rounds of tokens a second, frontier over sequential; its range; and both medians."""
    rates: dict[Execution, list[float]] = {"frontier": [], "sequential": []}
    for number in range(rounds):
        ways: list[Execution] = ["frontier", "sequential"]
        for way in ways[:: -1 if number % 2 else 1]:
            took, tokens = await writing.timed(nets, way, at_once=at_once)
            rates[way].append(tokens / took)
            print(f"{len(nets)} nets, {way}: {tokens} tokens in {took:.2f} s", file=sys.stderr, flush=True)
    ratios = sorted(a / b for a, b in zip(rates["frontier"], rates["sequential"], strict=True))
    return (
        statistics.median(ratios),
        f"{ratios[0]:.2f}, {ratios[-1]:.2f}",
        [statistics.median(r) for r in rates.values()],
    )


def nets_of_12(count: int) -> list[list[Step]]:
    """Steps that each depend on up to two earlier ones, with texts of about 40 words."""
    luck = random.Random(0)
    text = " ".join(luck.choices([row["question"] for row in islice(arith(seed=1), 50)], k=2))
    nets = []
    for _ in range(count):
        net: list[Step] = []
        for n in range(1, 13):
            deps = tuple(sorted(luck.sample(range(1, n), min(n - 1, luck.randint(0, 2)))))
            left = tuple(f"entity {dep}" for dep in deps) or ("premise",)
            net.append(Step(n, left, f"entity {n}", deps, f"{text} {n}", 60))
        nets.append(net)
    return nets


def checks(count: int) -> None:
    """Texts, V1 to V12, the net and its measures, and the layout with a token every four characters."""
    nets = nets_of_12(1000)
    began, spent = time.perf_counter(), []
    for first in range(0, count, 200):
        cpu = time.process_time()
        for number in range(first, min(first + 200, count)):
            check_and_lay_out(nets[number % len(nets)])
        spent.append((time.process_time() - cpu) / min(200, count - first))
    wall, load = time.perf_counter() - began, os.getloadavg()[0]
    each = sorted(1e6 * seconds for seconds in spent)
    shown = [f"{count:,} nets of 12 steps", f"{wall:.1f}", f"{sum(spent) * 200:.1f}"]
    shown += [f"{each[0]:.0f}", f"{statistics.median(each):.0f}", f"{load:.0f}"]
    table(["checked and laid out", "wall s", "CPU s", "CPU us a net, best 200", "median", "load"], [shown])


def check_and_lay_out(planned: Sequence[Step]) -> None:
    if faults := check(plan_text(planned), execution_text(planned)):
        raise SystemExit(f"a net that should pass fails: {faults}")
    net = Net.of_steps(planned)
    if net.faults() or net.width < 1 or net.critical_path < 60:
        raise SystemExit("a net that should be sound is not")
    before, blocks, after = training_parts([("premise", "entity 12")], planned, "so", "7")
    size = len(before) + sum(map(len, blocks)) + len(after)
    layout.of(planned, before, blocks, starts=range(-40, size, 4))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checked", type=int, default=100_000)
    parser.add_argument("--only", choices=("checks", "engine"))
    options = parser.parse_args()
    if options.only != "engine":
        with collected_rarely():  # as in a build
            checks(options.checked)
    if options.only != "checks":
        with scratch() as folder:
            asyncio.run(written(folder, options.nets, options.rounds))


if __name__ == "__main__":
    main()
