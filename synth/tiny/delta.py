"""The direction in weight space along which the answer to `Solve.` grows from short to long.

    weights of the base + scale * direction          scale 0: the base itself; 1: the longest chains

Each batch draws a scale and trains on chains that are as wordy as the scale says, with the base held fixed: a direction that was
trained at its full length alone would jump somewhere on the way instead of growing. As an adapter of low rank the direction
is {"model.layers.0.mlp.up_proj": (A of 16 x 128, B of 384 x 16), ...}; at full rank it is added to the base and saved as a
checkpoint.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tracemill.synth.tiny.network import Shape, Weights, is_linear
from tracemill.synth.tiny.problems import Dice, with_chatter
from tracemill.synth.tiny.texts import prompt, shown_hints, target
from tracemill.synth.tiny.train import BATCH, Example, Progress, example, loss_function, padded, problems, rate

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

RANK = 16
GAIN = 2.0  # lora_alpha / rank
STEPS = 300
BATCHES_A_STEP = 2
Adapter: TypeAlias = "dict[str, tuple[Tensor, Tensor]]"


def long_direction(
    tokenizer: "Tokenizer",
    base: Weights,
    shape: Shape,
    seed: int,
    *,
    rank: int | None,
    steps: int = STEPS,
    compiled: bool = True,
) -> tuple[Adapter, Weights]:
    """The pairs of an adapter (none if `rank` is None) and the weights at scale 1."""
    import torch

    random = torch.Generator().manual_seed(seed)
    linear = {name.removesuffix(".weight"): tensor for name, tensor in base.items() if is_linear(name)}
    adapter: Adapter = {}
    if rank:
        for name, tensor in linear.items():
            narrow = torch.randn(rank, tensor.shape[1], generator=random) / tensor.shape[1] ** 0.5
            adapter[name] = (narrow.requires_grad_(), torch.zeros(tensor.shape[0], rank, requires_grad=True))
    full = {} if rank else {name: torch.zeros_like(tensor, requires_grad=True) for name, tensor in linear.items()}
    learned = [half for pair in adapter.values() for half in pair] if rank else list(full.values())

    def at(scale: float) -> Weights:
        moved = {name: GAIN * (wide @ narrow) for name, (narrow, wide) in adapter.items()} if rank else full
        return base | {f"{name}.weight": linear[name] + scale * move for name, move in moved.items()}

    top = 2e-3 if rank else 4e-4
    optimizer = torch.optim.AdamW(learned, lr=top, betas=(0.9, 0.95), weight_decay=0.0)
    run = loss_function(shape, compiled)
    report = Progress("adapter" if rank else "slow", steps)
    batches = _batches(tokenizer, seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = top * rate(step, steps)
        loss, seen = 0.0, 0
        for _ in range(BATCHES_A_STEP):
            scale, texts = next(batches)
            tokens, counts = padded(texts, BATCH[-1].tokens)
            part = run(at(scale), tokens, counts) / counts.sum() / BATCHES_A_STEP
            part.backward()
            loss += part.item()
            seen += sum(len(text.tokens) for text in texts)
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        report.step(loss, seen)
    with torch.no_grad():
        return adapter, at(1.0)


def _batches(tokenizer: "Tokenizer", seed: int) -> Iterator[tuple[float, list[Example]]]:
    """A scale and texts as wordy as it says; half of the scales from a grid with both ends, half from between."""
    source = problems(f"delta/{seed}")
    dice = Dice(f"train/scales/{seed}")
    while True:
        percent = dice.pick((0, 20, 40, 60, 80, 100)) if dice.chance(50) else dice.between(0, 100)
        texts: list[Example] = []
        while len(texts) < BATCH[-1].texts:
            own, problem = next(source)
            problem = with_chatter(own, problem, 1 if own.chance(15) else 0)
            hints = shown_hints(own, problem) if problem.needed or own.chance(30) else []
            asked = prompt(problem.question, "solve", [hint.text for hint in hints])
            text = example(tokenizer, asked, target(own, problem, "solve", hints, percent))
            if len(text.tokens) <= BATCH[-1].tokens:
                texts.append(text)
        yield percent / 100, texts


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """In the layout of PEFT, which vLLM and peft load."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, (narrow, wide) in adapter.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = narrow.detach().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = wide.detach().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    rank = next(iter(adapter.values()))[0].shape[0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-reasoner",
        "r": rank,
        "lora_alpha": round(GAIN * rank),
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rpartition(".")[2] for name in adapter}),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
