"""TRL itself, with the small model: what cards tell people to type runs, and exports become the tokens that they should."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_trainers import CALLING, PLAIN, SEVERAL, TOOLS, talks
from tests.test_views import frame, problem, sample, version
from tracemill.pipelines.asking.templated import Text, texts
from tracemill.pipelines.build import build
from tracemill.pipelines.export import export, find_view, tables_of
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.recipe import load_recipe
from tracemill.schemas.request import Request
from tracemill.schemas.tables import PROBLEMS, SAMPLES
from tracemill.synth.models import open_renderer

DATA = Path(__file__).resolve().parent.parent / "data"
MODEL = DATA / "models" / "tiny-reasoner"
FEW = (
    'max_steps=1, per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to="none", save_strategy="no", '
    "disable_tqdm=True, dataloader_pin_memory=False"
)
"""What a user has no need of: one step, on a CPU, and nothing left behind."""
START = f"""
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import datasets
from datasets import load_dataset
datasets.disable_progress_bars()
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained({str(MODEL)!r})
def learnt_from(ids, labels):
    return [tokenizer.decode(ids), tokenizer.decode([i for i, label in zip(ids, labels) if label != -100])]
said = {{}}
"""
LOOK = """
row = next(iter(trainer.train_dataset))
said[trainer.__class__.__name__] = {
    "steps": trainer.state.global_step,
    "rows": len(trainer.train_dataset),
    "learnt": learnt_from(row["input_ids"], row["labels"]) if "labels" in row else None,
    "prompt": tokenizer.decode(row["prompt_ids"]) if "prompt_ids" in row else None,
    "reward": [e["reward"] for e in trainer.state.log_history if "reward" in e],
}
"""
PREPARE = f"""
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
known = {{"trl-sft": (SFTConfig, SFTTrainer), "trl-dpo": (DPOConfig, DPOTrainer), "trl-kto": (KTOConfig, KTOTrainer)}}
for folder in sorted(Path("exports").iterdir()):
    Config, Trainer = known[folder.name[:7]]
    args = Config(output_dir="out", max_length=None, {FEW})
    trainer = Trainer({str(MODEL)!r}, args=args, train_dataset=load_dataset(str(folder), split="train"))
    said[folder.name] = [
        {{name: tokenizer.decode(ids) for name, ids in row.items() if name.endswith("ids")}}
        | ({{"learnt": learnt_from(row["input_ids"], row["labels"])[1]}} if "labels" in row else {{}})
        for row in trainer.train_dataset
    ]
"""
"""What TRL makes of every export, before it trains."""


def reply(request: Request) -> str:
    """Right for three draws of four, shorter in some than in others; the fourth is wrong."""
    return (
        "Hm. " * (request.rng_seed % 4)
        + rf"The answer is \boxed{{{GOLD[request.problem_id] if request.index % 4 else 200}}}."
    )


GOLD = {
    row["id"]: row["answer"] for row in map(json.loads, (DATA / "problems" / "arith.jsonl").read_text().splitlines())
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A version of the scripted demo with every view that TRL trains on."""
    views = [f"views.trl-{method}=true" for method in ("dpo", "kto")]
    recipe = load_recipe(DATA / "recipes" / "demo-scripted.toml", ["source.0.limit=12", *views])
    return build(recipe, Store(tmp_path_factory.mktemp("store")), reply=reply).dataset


def blocks(card: str, heading: str, language: str = "python") -> list[str]:
    """The code under a heading of a card."""
    section = card.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def run(folder: Path, script: str) -> dict[str, Any]:
    """What a script leaves in `said`, from a process that reaches no network."""
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-c", f"{START}\n{script}\nprint(json.dumps(said))"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(300)
def test_the_snippets_of_a_card_train_the_small_model(dataset: Dataset, tmp_path: Path):
    card = (dataset.path / "README.md").read_text(encoding="utf-8")
    load, _ = blocks(card, "Load it")
    model, *snippets = blocks(card, "Train on it")
    assert [re.findall(r"(\w+)Trainer\(", code)[-1] for code in snippets] == ["SFT", "DPO", "KTO", "GRPO"]
    typed = [load.replace("str(Path.cwd())", repr(str(dataset.path))), model.replace("tiny-reasoner", str(MODEL))]
    for code in snippets:
        cheap = "num_generations=2, max_completion_length=24" if "GRPO" in code else "max_length=None"
        code = re.sub(r"max_(completion_)?length=\w+", cheap, code)
        typed += [code.replace("Config(", f"Config({FEW}, "), LOOK]
    said = run(tmp_path, "\n".join(typed))
    assert {name: found["steps"] for name, found in said.items()} == dict.fromkeys(
        ("SFTTrainer", "DPOTrainer", "KTOTrainer", "GRPOTrainer"), 1
    )
    text, learnt = said["SFTTrainer"]["learnt"]
    assert re.fullmatch(r"<s>.*\n## Answer\n(Hm. )*The answer is \\boxed\{\d+\}\.</s>", text, re.DOTALL)
    assert learnt == text.partition("## Answer\n")[2]
    assert said["SFTTrainer"]["rows"] == 12
    assert said["GRPOTrainer"]["reward"], "the reward read the column `solution`"


@pytest.mark.timeout(300)
def test_trl_makes_the_tokens_of_every_export_that_the_preview_shows(tmp_path: Path):
    made_of = talks(PLAIN, SEVERAL, CALLING, tools=TOOLS)
    path = version(
        tmp_path / "sums" / "0123456789abcdef",
        **made_of,
        problems=frame(PROBLEMS, [problem("p", prompt=PLAIN[:2])]),
        samples=frame(SAMPLES, [sample("a", 5), sample("b", 9), sample("c", 2, "different")]),
    )
    shown: dict[str, list[list[Text]]] = {}
    renderer = open_renderer("here", str(MODEL))
    for to, options in (
        ("trl-sft", {"form": "messages"}),
        ("trl-sft", {"form": "prompt-completion"}),
        ("trl-dpo", {}),
        ("trl-kto", {}),
    ):
        name = "-".join([to, *options.values()])
        export(path, to, tmp_path / "exports" / name, **options)
        rows = find_view(to, options).rows(tables_of(path)).collect().iter_rows(named=True)
        shown[name] = [texts(row, renderer) for row in rows]
    said = run(tmp_path, PREPARE)
    assert said.keys() == shown.keys()
    for row, (text,) in zip(said["trl-sft-messages"], shown["trl-sft-messages"], strict=True):
        assert row["input_ids"] == row["learnt"] == text.learnt
    for row, (text,) in zip(said["trl-sft-prompt-completion"], shown["trl-sft-prompt-completion"], strict=True):
        assert (row["input_ids"], row["learnt"]) == (text.whole, text.learnt)
    for row, (better, worse) in zip(said["trl-dpo"], shown["trl-dpo"], strict=True):
        assert row == {"prompt_ids": better.prompt, "chosen_ids": better.learnt, "rejected_ids": worse.learnt}
    for row, (text,) in zip(said["trl-kto"], shown["trl-kto"], strict=True):
        assert (row["prompt_ids"], row["completion_ids"]) == (text.prompt, text.learnt)
