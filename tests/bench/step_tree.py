"""Step trees in numbers: many at once on one engine, what a label costs and what it is worth, and what a node costs without a model.

    python tests/bench/step_tree.py                        # all three: half an hour
    python tests/bench/step_tree.py --only nodes --nodes 100000

`trees` grows trees on vLLM with the small model, all at once and one after another (rollouts of one probe together, as reference
codes draw them). `labels` labels the steps of the same problems with OmegaPRM's search and adaptive rollouts, and with
Math-Shepherd's fixed eight; the problems' equations are known, so the true first error of every solution is. `nodes` has no model.
"""

import argparse
import asyncio
import json
import random
import resource
import statistics
import time
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from common import build, scratch, table
from step_truth import first_error, word_problems

from tracemill.schemas.recipe import EngineTable, ModelTable
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Outcome, Problem, Verdict, draw
from tracemill.schemas.tables import declared
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.journal import Journal
from tracemill.synth.models import open_role
from tracemill.synth.step_tree import COLUMNS, TABLES, bfs, step_tree
from tracemill.synth.step_tree.evidence import Rule
from tracemill.synth.step_tree.hnc import compressed
from tracemill.synth.step_tree.labels import finish
from tracemill.synth.step_tree.layout import Layout
from tracemill.synth.step_tree.rows import Rules, outcome_of, tables_of
from tracemill.synth.step_tree.search import Search
from tracemill.synth.step_tree.tables import node_rows
from tracemill.synth.verify import Verifier
from tracemill.synth.workshop import Workshop

PROMPT = "## Question\n{question}\n## Task\nSolve step by step."
TEMPERATURE = 1.3
"""At 1 the small model is right too often for a search to find much."""
SEED = 7


# ---- on vLLM


@asynccontextmanager
async def vllm(folder: Path, block_size: int = 32) -> AsyncIterator[Workshop]:
    """One engine behind a journal of its own."""
    model = ModelTable(name="tiny-reasoner", max_tokens=256, temperature=TEMPERATURE, dtype="float32")
    engine = EngineTable(kind="vllm", args={"block_size": block_size})
    (folder / "engines").mkdir()
    role = open_role("solver", model, engine, runtime=folder / "engines")
    shop = Workshop({"solver": role}, Journal(folder / "journal"), Verifier())
    try:
        await ProblemEngine(shop, problems(1, 0)[0]).sample("1 + 1?")  # the engine is up before anything is timed
        yield shop
    finally:
        await shop.close()
        shop.journal.close()


def problems(count: int, start: int) -> list[Problem]:
    rows = islice(word_problems(SEED), start, start + count)
    return [Problem(problem_id=f"p{start + i}", question=p.question, gold=str(p.answer)) for i, p in enumerate(rows)]


async def grow(
    shop: Workshop, some: Sequence[Problem], *, at_once: bool, **options: Any
) -> tuple[list[Outcome], dict[str, float]]:
    """The outcomes of these problems, and what growing them took."""
    role = shop.roles["solver"]
    before, drawn, began = role.facts(), shop.meter.samples_new, time.perf_counter()
    each = (step_tree(problem, ProblemEngine(shop, problem), prompt=PROMPT, **options) for problem in some)
    made = await asyncio.gather(*each) if at_once else [await one for one in each]
    wall, after = time.perf_counter() - began, role.facts()
    read = after["prompt_tokens"] - before["prompt_tokens"]
    return list(made), {
        "wall": wall,
        "rollouts": shop.meter.samples_new - drawn,
        "hits": (after["cached_tokens"] - before["cached_tokens"]) / max(1, read),
    }


async def trees(folder: Path, count: int, few: int, block_size: int, ways: Sequence[str]) -> None:
    rows = []
    async with vllm(folder, block_size) as shop:
        start = 0
        for rollouts in ways:
            rates = {}
            for how, size in (("one after another", few), ("all at once", count)):
                _, took = await grow(shop, problems(size, start), at_once=size == count, rollouts=rollouts)
                start += size
                rates[how] = took["rollouts"] / took["wall"]
                share = rates[how] / rates["one after another"]
                rows.append([f"{rollouts}, {how}", size, f"{took['rollouts']:,.0f}", f"{took['wall']:.0f}", f"{rates[how]:.1f}", f"{share:.1f}x", f"{100 * took['hits']:.0f} %"])  # fmt: skip
    table(
        ["omega", "trees", "rollouts", "wall s", "rollouts a second", "over one after another", "prefix-cache hits"],
        rows,
    )


WAYS: dict[str, dict[str, Any]] = {
    "shepherd, k = 8": {"search": "shepherd", "rollouts": "fixed"},
    "shepherd, adaptive": {"search": "shepherd"},
    "omega, k = 8": {"rollouts": "fixed"},
    "omega, adaptive": {},
    "omega, adaptive, prefilter = 8": {"prefilter": 8},
}


async def labels(folder: Path, count: int, probes: int, ways: Sequence[str]) -> None:
    costs, worths, nodes = [], [], dict[str, list[dict[str, Any]]]()
    asked = problems(count, 0)
    truths = {f"p{i}": problem for i, problem in enumerate(islice(word_problems(SEED), count))}
    async with vllm(folder) as shop:
        for name in ways:
            made, _ = await grow(shop, asked, at_once=True, **WAYS[name])
            nodes[name] = [
                row | {"problem_id": p.problem_id}
                for p, o in zip(asked, made, strict=True)
                for row in o.tables["nodes"]
            ]
            costs.append([name, *cost(made, nodes[name]), *errors(nodes[name], truths)])
        table(
            [
                "labels",
                "trees",
                "draws",
                "tokens",
                "hard labels",
                "tokens a label",
                "wrong solutions",
                "precision",
                "recall",
            ],
            costs,
        )
        measured: dict[tuple[str, ...], float] = {}
        for name, found in nodes.items() if probes else ():
            worths.append([name, *await worth(shop, asked, found, probes, measured)])
    if worths:
        table(["labels", "steps measured", "soft off by, mean", "bias", "value where soft = 1", "value where soft = 0", "intervals that hold it", "hard 0, value > 0.4"], worths)  # fmt: skip


def cost(made: Sequence[Outcome], nodes: Sequence[dict[str, Any]]) -> list[str]:
    rows = [outcome.tables["trees"][0] for outcome in made]
    labelled = sum(row["label_hard"] is not None and row["height"] > 0 for row in nodes)
    tokens = sum(row["tokens"] for row in rows)
    return [
        f"{len(rows)}",
        f"{sum(row['rollouts'] for row in rows):,}",
        f"{tokens:,}",
        f"{labelled:,}",
        f"{tokens / labelled:.0f}",
    ]


def errors(nodes: Sequence[dict[str, Any]], truths: dict[str, Any]) -> list[str]:
    """Over solutions that end wrong: is the step that is marked as the first error the one that is?"""
    by_id = {row["id"]: row for row in nodes}
    wrong = marked = right = 0
    for leaf in (row for row in nodes if row["leaf_kind"] == "wrong"):
        path = way(leaf, by_id)
        true = first_error(truths[leaf["problem_id"]], [row["step"] for row in path])
        said = next((number for number, row in enumerate(path) if row["is_first_error"]), None)
        wrong += true is not None
        marked += said is not None
        right += true is not None and said == true
    return [f"{wrong:,}", f"{right / max(1, marked):.3f}", f"{right / max(1, wrong):.3f}"]


def way(row: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    path = []
    while row["parent_id"] is not None:
        path.append(row)
        row = by_id[row["parent_id"]]
    return path[::-1]


async def worth(
    shop: Workshop,
    asked: Sequence[Problem],
    nodes: Sequence[dict[str, Any]],
    probes: int,
    measured: dict[tuple[str, ...], float],
) -> list[str]:
    """Soft labels against values measured with 256 rollouts, on steps chosen by hash."""
    by_id, of = {row["id"]: row for row in nodes}, {p.problem_id: p for p in asked}
    inner = [row for row in nodes if row["height"] > 0 and row["leaf_kind"] is None and row["n_total"]]
    prefixes = [(row["problem_id"], tuple(r["step"] for r in way(row, by_id))) for row in inner]
    # by hash of the prefix: the ways to label share many of the steps that are measured
    chosen = sorted(zip(inner, prefixes, strict=True), key=lambda pair: draw(repr(pair[1])))[:probes]
    new = [(p, steps) for p, steps in dict.fromkeys(prefix for _, prefix in chosen) if (p, *steps) not in measured]
    found = await asyncio.gather(*(true_value(shop, of[p], steps) for p, steps in new))
    measured.update({(p, *steps): value for (p, steps), value in zip(new, found, strict=True)})
    pairs = [(row, measured[p, *steps]) for row, (p, steps) in chosen]
    off = [row["label_soft"] - value for row, value in pairs]
    ones, zeros = ([v for row, v in pairs if row["label_soft"] == end] for end in (1, 0))
    held = sum(row["low"] - 0.03 <= value <= row["high"] + 0.03 for row, value in pairs)
    bad = [value for row, value in pairs if row["label_hard"] == 0]
    return [
        f"{len(pairs)}",
        f"{statistics.fmean(map(abs, off)):.3f}",
        f"{statistics.fmean(off):+.3f}",
        *(f"{statistics.fmean(end):.2f} of {len(end)}" if end else "none" for end in (ones, zeros)),
        f"{held} of {len(pairs)}",
        f"{sum(value > 0.4 for value in bad)} of {len(bad)}",
    ]


async def true_value(shop: Workshop, problem: Problem, steps: tuple[str, ...], n: int = 256) -> float:
    engine, layout = ProblemEngine(shop, problem), Layout("headers")
    prefix = layout.prefix(steps)
    sampling = Sampling(stop=layout.stop, include_stop=True)
    asked = (Message(role="user", content=PROMPT.replace("{question}", problem.question)),)
    drawn = await engine.sample(asked, n=n, scope="truth", sampling=sampling, prefix=prefix)
    verdicts = [await engine.verify(replace(c, text=(prefix or "") + c.text), problem.gold) for c in drawn]
    return sum(verdict.correct is True for verdict in verdicts) / n


# ---- without a model


def sayings() -> list[str]:
    """A thousand sentences of a dozen words."""
    luck = random.Random(0)
    words = ["".join(luck.choices("etaoinshrdlu", k=luck.randint(2, 9))) for _ in range(2000)]
    return [" ".join(luck.choices(words, k=12)) for _ in range(1000)]


SAYINGS = sayings()


class Policy:
    """What a method needs of an engine, from a function: no journal, no verifier processes, no backend."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ids = array("i", range(40))

    async def sample(
        self, prompt: Any, *, n: int = 1, start: int = 0, prefix: str | None = None, **_: Any
    ) -> list[Completion]:
        height = (prefix or "").count("# Step")
        luck = random.Random(f"{self.number}/{prefix}")
        return [self._step(height, index, luck.random()) for index in range(start, start + n)]

    def _step(self, height: int, index: int, luck: float) -> Completion:
        text = f"{SAYINGS[int(luck * 1000)]}: {index} + {height} = {index + height}."
        text += f"\n# Answer\n\\boxed{{{int(luck < 0.5)}}}\n# END!" if height == 5 else f"\n# Step {height + 1}"
        return Completion(text=text, finish_reason="stop", n_tokens=20, token_ids=self.ids, key=f"{luck}")

    async def verify(self, text: Completion, gold: str | None, **_: Any) -> Verdict:
        return Verdict(status="equal" if text.text.endswith("{1}\n# END!") else "different")

    async def verifiable(self, gold: str | None) -> bool:
        return True

    def count_tokens(self, text: str, role: str = "solver") -> int:
        return text.count(" ") + 1

    def model_name(self, role: str = "solver") -> str:
        return "policy"

    def counter(self, role: str = "solver") -> str | None:
        return "words"


class Parts:
    """CPU seconds by part of the work, and what was written."""

    def __init__(self, folder: Path) -> None:
        self.seconds: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        schemas = {name: declared(columns, where=name) for name, columns in TABLES.items()}
        self._schemas = {**schemas, "rows": declared(COLUMNS, where="rows")}
        self._writers = {name: pq.ParquetWriter(folder / f"{name}.parquet", s) for name, s in self._schemas.items()}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[part] += time.process_time() - began

    def write(self, name: str, rows: list[Any]) -> None:
        self.written[name] += len(rows)
        self._writers[name].write_table(pa.Table.from_pylist(rows, schema=self._schemas[name]))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


async def nodes(folder: Path, count: int) -> None:
    """Grow, label, compress and write trees of 3,906 nodes each, as bfs of HRM's size grows them."""
    parts, began = Parts(folder), time.perf_counter()
    for number in range(max(1, round(count / 3906))):
        await one_tree(parts, number)
    parts.close()
    wall, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    of = parts.written["nodes"]
    table(["part", "CPU s", "CPU s for a million nodes"], [[part, f"{s:.1f}", f"{s / of * 1e6:.0f}"] for part, s in parts.seconds.items()])  # fmt: skip
    counts = [f"{parts.written[name]:,}" for name in ("nodes", "rows", "values", "pairs")]
    rows = [
        ["without engine, journal and driver", *counts, f"{wall:.0f}", f"{parts.seconds.total():.0f}", f"{peak:.0f}"]
    ]
    rows.append(whole_build(folder, max(1, round(count / 10 / 3906))))
    table(["trees", "nodes", "rows", "values", "pairs", "wall s", "CPU s", "peak MB"], rows)


async def one_tree(parts: Parts, number: int) -> None:
    problem = Problem(problem_id=f"p{number}", question=f"What is {number}?", gold="1")
    asked = (Message(role="user", content=problem.question),)
    tree = Search(problem, Policy(number), Layout("headers"), asked, Rule())  # type: ignore[arg-type]
    with parts.timed("growing it from the policy"):
        await bfs.bfs(tree, branching=5, height=5)
    with parts.timed("counts and labels"):
        finish(tree, leaves=True)
    with parts.timed("compressing a copy (HNC)"):
        compressed(tree.root, problem.problem_id, counted="leaves")
    with parts.timed("the table of nodes, written"):
        parts.write("nodes", list(node_rows(problem.problem_id, tree.root)))
    with parts.timed("pairs and values, written"):
        for name, found in tables_of(tree.root, Rules(), "leaves").items():
            parts.write(name, found)
    with parts.timed("rows of both trees, fine and coarse, written"):
        rules = Rules(pairs=False, rest=False)
        made = outcome_of(problem, tree.root, rules=rules, prompt=asked, model="policy")
        parts.write("rows", [trace.columns for trace in made.traces])


def reply(request: Any) -> Completion:
    """The same policy as the script of an engine."""
    height = str(request.prefix or "").count("# Step")
    return replace(Policy(0)._step(height, request.index, request.rng_seed / 2**48), key="")


def whole_build(folder: Path, trees: int) -> list[Any]:
    """The same trees through `tracemill build`: each step is a sample with a place in journal and table."""
    source = folder / "problems.jsonl"
    source.write_text(
        "".join(json.dumps({"id": f"p{i}", "question": f"What is {i}?", "answer": "1"}) + "\n" for i in range(trees))
    )
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f'name = "nodes"\n[source]\npath = "problems.jsonl"\n[model]\nname = "policy"\nmax_tokens = 99\n'
        f'[engine]\nkind = "scripted"\nscript = "{Path(__file__).resolve()}:reply"\n[synth]\nuse = "step_tree"\nsearch = "bfs"\n'
    )
    run = build(recipe, folder / "store")
    tables = json.loads((Path(run.summary["path"]) / "manifest.json").read_text())["tables"]
    counts = [f"{tables[name]['rows']:,}" for name in ("nodes", "rows", "values", "pairs")]
    return ["tracemill build, a tenth of them", *counts, f"{run.wall:.0f}", f"{run.cpu:.0f}", f"{run.peak_mb:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("trees", "labels", "nodes"), default=("nodes", "trees", "labels"))
    parser.add_argument("--trees", type=int, default=200, help="grown all at once")
    parser.add_argument("--few", type=int, default=20, help="grown one after another")
    parser.add_argument(
        "--rollouts", nargs="+", choices=("fixed", "adaptive"), default=("adaptive", "fixed"), help="of `trees`"
    )
    parser.add_argument("--block-size", type=int, default=32, help="tokens of a block of the prefix cache")
    parser.add_argument("--problems", type=int, default=100, help="of `labels`")
    parser.add_argument("--probes", type=int, default=60, help="steps whose value is measured")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=tuple(WAYS), help="to label, of `labels`")
    parser.add_argument("--nodes", type=int, default=1_000_000)
    options = parser.parse_args()
    for part in options.only:
        with scratch() as folder:
            match part:
                case "trees":
                    asyncio.run(trees(folder, options.trees, options.few, options.block_size, options.rollouts))
                case "labels":
                    asyncio.run(labels(folder, options.problems, options.probes, options.ways))
                case "nodes":
                    asyncio.run(nodes(folder, options.nodes))


if __name__ == "__main__":
    main()
