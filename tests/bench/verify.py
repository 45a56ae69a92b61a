"""Verdicts a second of CPU time, over plain math-verify on the same responses; and both on the hard set.

    python tests/bench/verify.py            # about a minute; reads ../shared/data, or the folder in TRACEMILL_TEST_DATA

Plain math-verify is `verify(parse("$gold$"), parse(response))` in this process. Ours counts the CPU time of every process,
the start of the workers apart.
"""

import asyncio
import json
import logging
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tracemill.synth.verify import Verifier, read_gold

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TRACEMILL_TEST_DATA", ROOT.parent / "shared" / "data"))
PAIRS = ROOT / "tests" / "verify_pairs.jsonl"

Case = tuple[str, str]
"""A response and the gold."""


def gsm8k(count: int = 3000) -> list[Case]:
    """Solutions of four models to problems of the GSM8K test split, about two of five correct."""
    cases = []
    for line in (DATA / "gsm8k" / "example_model_solutions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gold = read_gold(row["ground_truth"], "gsm8k") or ""
        cases += [(told["solution"], gold) for told in row.values() if isinstance(told, dict)]
    return cases[:count]


def math500() -> list[Case]:
    """The reference solution of each problem, and a box with the answer to another one."""
    rows = [json.loads(line) for line in (DATA / "math500" / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    others = random.Random(0).sample(rows, len(rows))
    right = [(row["solution"], row["answer"]) for row in rows]
    wrong = [
        (rf"So it is $\boxed{{{other['answer']}}}$.", row["answer"]) for row, other in zip(rows, others, strict=True)
    ]
    return right + wrong


def math500_rewritten() -> list[Case]:
    """Correct answers that are written differently, so that nothing but algebra can tell: the worst case for us."""
    rows = [json.loads(line) for line in (DATA / "math500" / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    golds = {row["answer"] for row in rows if any(sign in row["answer"] for sign in (r"\sqrt", r"\pi", "x", "k"))}
    return [(rf"$\boxed{{0 + {gold}}}$", gold) for gold in sorted(golds) if "," not in gold and "=" not in gold]


WAKE = (r"\sqrt{2}", r"\sqrt{3}")
"""An answer and a gold that start the workers."""


def ours(cases: Sequence[Case], extract: Literal["boxed", "gsm8k"]) -> tuple[list[str], float, float]:
    """Statuses, CPU seconds of this process and the workers, and those that starting the workers took."""

    async def run() -> tuple[list[str], float, float]:
        verifier = Verifier(extract=extract, workers=2)
        await verifier.verify_answer(*WAKE)
        nursery = verifier._pool._nursery
        assert nursery is not None
        start, before = tree_cpu(nursery.process.pid), time.process_time()
        verdicts = await asyncio.gather(*(verifier.verify(*case) for case in cases))
        used = time.process_time() - before + tree_cpu(nursery.process.pid) - start
        verifier.close()
        return [verdict.status for verdict in verdicts], used, start

    return asyncio.run(run())


def tree_cpu(pid: int) -> float:
    """CPU seconds of a process, its children, and those of them that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(tree_cpu(int(child)) for child in children)


def plain(cases: Sequence[Case]) -> tuple[list[str], float]:
    from math_verify import parse, verify

    before = time.process_time()
    same = [verify(parse(f"${gold}$"), parse(text)) for text, gold in cases]
    return ["equal" if each else "different" for each in same], time.process_time() - before


def race(name: str, cases: list[Case], extract: Literal["boxed", "gsm8k"]) -> None:
    _, mine, _ = ours(cases, extract)
    _, theirs = plain(cases)
    print(
        f"{name:24} {len(cases):5} responses   ours {len(cases) / mine:8.0f}/s   plain {len(cases) / theirs:6.0f}/s   "
        f"ratio {theirs / mine:5.1f}"
    )


def hard_set() -> None:
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    cases = [
        (p["answer"] if r"\boxed" in p["answer"] else rf"It is $\boxed{{{p['answer']}}}$.", p["gold"]) for p in pairs
    ]
    print(f"\nhard set, {len(pairs)} pairs      false positives   false negatives   undecided")
    runs: dict[str, Callable[[], list[str]]] = {
        "ours": lambda: ours(cases, "boxed")[0],
        "plain math-verify": lambda: plain(cases)[0],
    }
    for name, run in runs.items():
        counts = Counter((pair["truth"], status) for pair, status in zip(pairs, run(), strict=True))
        undecided = counts["equal", "undecided"] + counts["different", "undecided"]
        print(f"{name:24} {counts['different', 'equal']:15} {counts['equal', 'different']:17} {undecided:11}")


def main() -> None:
    logging.disable(logging.CRITICAL)
    _, _, start = ours([], "boxed")
    plain([(r"$\boxed{\sqrt{2}}$", r"\sqrt{3}")])
    print(f"starting the workers, once: {start:.1f} s of CPU time")
    if DATA.is_dir():
        race("GSM8K solutions", gsm8k(), "gsm8k")
        race("MATH-500", math500(), "boxed")
        race("MATH-500, algebra only", math500_rewritten(), "boxed")
    else:
        print(f"no throughput: it needs the data sets in {DATA}")
    hard_set()


if __name__ == "__main__":
    main()
