"""Which hints are needed is known for the small model's problems: how much of it each strategy finds, and for how many rollouts.

    python tests/bench/hints.py [--problems 60] [--store FOLDER] [--cbrs-fixed]

Builds data/recipes/hints.toml on real vLLM with each strategy alone, by both allocations, all in one store: what one build drew is
replayed in the next, and rollouts are those that a build rests on, new or not. Precision and recall are over all points of all
problems; `exact` counts the problems of which just the needed points are kept.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
from common import scratch, table

from tracemill.pipelines.build import Built, build
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import load_recipe
from tracemill.synth.hints.strategies import STRATEGIES, first_stage

DATA = Path(__file__).resolve().parent.parent.parent / "data"
HEAD = ["strategy", "KPs", "precision", "recall", "exact", "accuracy %"]
Kept = dict[str, list[int]]


def built(store: Store, strategy: str, allocation: str, problems: int) -> Built:
    """The recipe with one strategy alone, over the first so many problems."""
    sets = [
        'name="bench-hints"',
        f'synth.strategies=["{strategy}"]',
        f'synth.allocation="{allocation}"',
        f"source.0.limit={problems}",
    ]
    return build(load_recipe(DATA / "recipes" / "hints.toml", sets), store)


def choices(made: Built) -> pl.DataFrame:
    return made.dataset.scan("choices").collect()


def rollouts(made: Built) -> int:
    """Draws that the choices rest on, and those of a choice that had to be drawn to be shown."""
    return int(made.dataset.scan("subset_accuracies").select("total").sum().collect().item())


def measured(strategy: str, found: pl.DataFrame, needed: Kept) -> list[str]:
    """How the kept points of a strategy compare with the needed ones."""
    pairs = [(set(kept), set(needed[p])) for p, kept in found.select("problem_id", "kept_kp_index").iter_rows()]
    hits = sum(len(kept & need) for kept, need in pairs)
    kept, need = sum(len(kept) for kept, _ in pairs), sum(len(need) for _, need in pairs)
    accuracy = (100 * found["fresh_correct"] / found["fresh_total"]).mean()
    return [
        strategy,
        f"{kept / len(pairs):.2f}",
        f"{hits / kept:.2f}" if kept else "",
        f"{hits / need:.2f}",
        f"{sum(kept == need for kept, need in pairs)} of {len(pairs)}",
        f"{accuracy:.1f}",
    ]


def compared(store: Store, problems: int, needed: Kept, *, cbrs_fixed: bool) -> Iterable[list[Any]]:
    for strategy in STRATEGIES:
        sequential = built(store, strategy, "sequential", problems)
        found, spent = choices(sequential), rollouts(sequential)
        drawn = cbrs_fixed or strategy != "cbrs"
        if drawn:
            fixed = built(store, strategy, "fixed", problems)
            full, same = rollouts(fixed), _same(found, choices(fixed))
        else:  # known without drawing them: 8 runs of 32 for each configuration of the first stage
            points = sequential.dataset.scan("rows").select("n_kp").collect()["n_kp"].to_list()
            full, same = sum(8 * 32 * len(first_stage(n)) for n in points), "not drawn"
        yield [*measured(strategy, found, needed), f"{spent:,}", f"{full:,}", f"{spent / full:.2f}", same]


def _same(one: pl.DataFrame, other: pl.DataFrame) -> str:
    both = one.join(other, on="problem_id", suffix="_fixed")
    return f"{(both['kept_kp_index'] == both['kept_kp_index_fixed']).sum()} of {both.height}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--store", type=Path, help="a store to keep the draws in; one that is thrown away unless given")
    parser.add_argument("--cbrs-fixed", action="store_true", help="draw all of CBRS too: 90,000 rollouts")
    options = parser.parse_args()
    lines = (DATA / "problems" / "hints.jsonl").read_text(encoding="utf-8").splitlines()
    needed = {row["id"]: row["needed"] for row in map(json.loads, lines)}
    with scratch() as folder:
        store = Store(options.store or folder / "store")
        rows = list(compared(store, options.problems, needed, cbrs_fixed=options.cbrs_fixed))
        table([*HEAD, "rollouts, sequential", "fixed", "share", "same choice"], rows)


if __name__ == "__main__":
    main()
