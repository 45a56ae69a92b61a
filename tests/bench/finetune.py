"""What a dataset is worth: the small model before and after fine-tuning with TRL on what `tracemill export` writes.

    python tests/bench/finetune.py [--steps 200] [--problems 1000] [--draws 4] [--engine vllm] [--only mixchain sample] [--store FOLDER]

1,000 problems that the small model never saw are split by the SHA-256 of their question: three in ten are held out. From the others
the recipes demo.toml and demo-mixchain.toml make datasets on a real engine; `datasets` loads their exports (trl-sft, prompt-completion)
and TRL's SFTTrainer trains on the completions, in float32 on the CPU. Model folders before and after then answer the held-out problems
at temperature 1 in the layout that their data has, by a build like any other. Answers to one problem are no independent trials:
intervals (95 %) are over problems, those of a change over the pairs of a problem's shares before and after.
"""

import argparse
import hashlib
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from common import scratch, table

from tracemill.pipelines.build import Built, build
from tracemill.pipelines.export import export
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import load_recipe
from tracemill.synth.tiny.held_out import measured

DATA = Path(__file__).resolve().parent.parent.parent / "data"
A_LEVEL = 200
ROWS = 8
HELD_OUT_TENTHS = 3
PROMPT = "## Question\n{question}\n## Task\n%s"


@dataclass(frozen=True)
class Bench:
    """Where things are, and how much is done."""

    folder: Path
    store: Store
    steps: int
    draws: int
    rate: float
    engine: str
    problems: int


@dataclass(frozen=True)
class Arm:
    """A dataset, or several that are trained on one after another, and the model that is to learn from it."""

    name: str
    model: str
    task: str
    recipe: str
    stages: Sequence[Sequence[str]] = field(default_factory=lambda: [[]])
    """The overrides of the recipe that give each dataset."""


SHORTEST = 'select=[{use="length_dial"}]'
ANY = 'select=[{use="keep", k=1, prefer="random"}]'
LONG = ['synth.layout="long"', "views.mixchain-wide=false"]
CHAINS = ("tiny-reasoner-slow", "Solve.", "demo-mixchain.toml")
SAMPLES = ("tiny-reasoner", "Explain.", "demo.toml")
ARMS: Mapping[str, Sequence[Arm]] = {
    "mixchain": [Arm("MixChain, the shortest right chain", *CHAINS, [[*LONG, SHORTEST]])],
    "sample": [Arm("`sample`, a right answer of eight", *SAMPLES, [[ANY]])],
    "progressive": [
        Arm(
            "MixChain, right chains of alpha 0.8, then 0.6, 0.4, 0.2",
            *CHAINS,
            [[*LONG, f"synth.alphas=[{alpha}]"] for alpha in (0.8, 0.6, 0.4, 0.2)],
        )
    ],
    "mixed": [Arm("MixChain, all right chains", *CHAINS)],
}


def write_problems(folder: Path) -> dict[str, Path]:
    """Two files of problems, equal questions on one side."""
    rows = {problem.question: problem for problem in measured(A_LEVEL)}
    sides: dict[str, list[dict[str, str]]] = {"train": [], "held out": []}
    for question, problem in rows.items():
        digest = hashlib.sha256(question.encode()).hexdigest()
        side = "held out" if int(digest, 16) % 10 < HELD_OUT_TENTHS else "train"
        about = {"answer": str(problem.answer), "difficulty": str(problem.difficulty)}
        sides[side].append({"id": digest[:16], "question": question, **about})
    for side, found in sides.items():
        lines = [json.dumps(row) + "\n" for row in found]
        (folder / f"{side}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{side}: {len(found)} problems", flush=True)
    return {side: folder / f"{side}.jsonl" for side in sides}


def made(bench: Bench, recipe: str, name: str, problems: Path, task: str, more: Sequence[str]) -> Built:
    """A version of one of the recipes, over these problems and with this task."""
    sets = {
        "name": name,
        "source.0.path": str(problems),
        "engine.kind": bench.engine,
        "synth.prompt": PROMPT % task,
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in sets.items()]
    return build(load_recipe(DATA / "recipes" / recipe, [*overrides, *more]), bench.store)


def answers(bench: Bench, model: Path, task: str, problems: Path) -> pl.DataFrame:
    """Of each problem: the share of right answers and the mean of their tokens, over `draws` of them."""
    more = [f"model.name={json.dumps(str(model))}", f"synth.n={bench.draws}", "select=[]", "filters=[]"]
    built = made(bench, "demo.toml", "held-out", problems, task, more)
    right = pl.col("correct").fill_null(value=False)
    rows = built.dataset.scan("rows").group_by("problem_id").agg(
        right.mean().alias("right"), pl.col("n_tokens").mean().alias("tokens"), pl.len().alias("draws")
    )  # fmt: skip
    found = rows.sort("problem_id").collect()
    if found["draws"].min() != bench.draws:
        raise SystemExit("a held-out problem has fewer answers than were asked for")
    return found


def tuned(bench: Bench, arm: Arm, exports: Sequence[Path], to: Path) -> None:
    """Fine-tune with SFTTrainer, on one export after another, each with its share of the steps; losses count answers only."""
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    source = str(DATA / "models" / arm.model)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source)
    for folder in exports:
        config = SFTConfig(
            output_dir=str(bench.folder / "trainer"), max_steps=bench.steps // len(exports),
            per_device_train_batch_size=ROWS, learning_rate=bench.rate, lr_scheduler_type="cosine", warmup_steps=20,
            max_length=1024, completion_only_loss=True, use_cpu=True, bf16=False, gradient_checkpointing=False,
            seed=0, save_strategy="no", report_to="none", logging_steps=100, disable_tqdm=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        rows = load_dataset(str(folder), split="train", cache_dir=str(bench.folder / "cache"))
        trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
        model = trainer.model
    model.save_pretrained(str(to))
    tokenizer.save_pretrained(str(to))


def mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of the width of its 95 % interval."""
    return statistics.fmean(values), 1.96 * statistics.stdev(values) / math.sqrt(len(values))


def line(name: str, rows: int | str, after: pl.DataFrame, before: pl.DataFrame | None, seconds: float) -> list[Any]:
    share, around = mean((100 * after["right"]).to_list())
    tokens, within = mean(after["tokens"].to_list())
    cells = [
        name,
        rows,
        after.height,
        int(after["draws"].sum()),
        f"{share:.1f} ± {around:.1f}",
        f"{tokens:.1f} ± {within:.1f}",
    ]
    if before is None:
        return [*cells, "", "", ""]
    pairs = after.join(before, on="problem_id", suffix="_before")
    gain, spread = mean((100 * (pairs["right"] - pairs["right_before"])).to_list())
    shorter, wide = mean((pairs["tokens"] - pairs["tokens_before"]).to_list())
    return [*cells, f"{gain:+.1f} ± {spread:.1f}", f"{shorter:+.1f} ± {wide:.1f}", f"{seconds:.0f}"]


def compared(bench: Bench, arms: Sequence[Arm]) -> Iterator[list[Any]]:
    problems = write_problems(bench.folder)
    before: dict[tuple[str, str], pl.DataFrame] = {}
    for arm in arms:
        start = (arm.model, arm.task)
        if start not in before:
            before[start] = answers(bench, DATA / "models" / arm.model, arm.task, problems["held out"])
            yield line(f"{arm.model}, `{arm.task}`", "", before[start], None, 0)
        folder = bench.folder / hashlib.sha256(arm.name.encode()).hexdigest()[:8]
        exports, rows = [], 0
        for number, more in enumerate(arm.stages):
            some = [f"source.0.limit={bench.problems}", *more]
            version = made(bench, arm.recipe, f"finetune-{number}", problems["train"], arm.task, some)
            exports.append(
                export(version.dataset.path, "trl-sft", folder / f"stage-{number}", form="prompt-completion")
            )
            rows += pl.scan_parquet(exports[-1] / "*.parquet").select(pl.len()).collect().item()
        began = time.monotonic()
        tuned(bench, arm, exports, folder / "model")
        seconds = time.monotonic() - began
        after = answers(bench, folder / "model", arm.task, problems["held out"])
        yield line(f"after {arm.name}", f"{rows:,}", after, before[start], seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=200, help=f"optimizer steps for each model, {ROWS} rows each")
    parser.add_argument("--rate", type=float, default=3e-4, help="the learning rate")
    parser.add_argument("--problems", type=int, default=1000, help="problems of the training side to use at most")
    parser.add_argument("--draws", type=int, default=4, help="answers to each held-out problem")
    parser.add_argument("--engine", default="vllm", choices=["vllm", "hf"])
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument(
        "--store", type=Path, help="a store to keep the samples in; one that is thrown away unless given"
    )
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with scratch() as folder:
        store = Store(options.store or folder / "store")
        bench = Bench(folder, store, options.steps, options.draws, options.rate, options.engine, options.problems)
        head = ["model", "rows trained on", "held-out problems", "answers", "right %", "tokens"]
        arms = [arm for name in options.only for arm in ARMS[name]]
        table([*head, "change of right", "change of tokens", "training s"], compared(bench, arms))


if __name__ == "__main__":
    main()
