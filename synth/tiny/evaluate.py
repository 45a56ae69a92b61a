"""Measures trained models on held-out problems: what `make model` ends with.

    python -m tracemill.synth.tiny.evaluate --models build/models

writes numbers.json beside the models, a list of rows like

    {"table": "skills", "row": "long", "temperature": 1.0, "level": 3, "n": 240, "right": 201, "tokens": 150.2, "ended": 240}

The tables: `skills` (each skill on problems without hints), `hints` (Solve. with the right hints, with others among them, with none
and with the others alone), `scale` (Solve. along the adapter and along the line from the base to the full checkpoint).
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tracemill.synth.tiny.held_out import measured
from tracemill.synth.tiny.network import Weights, load_model
from tracemill.synth.tiny.problems import Dice, WordProblem, distractors, mixed, with_chatter
from tracemill.synth.tiny.texts import HARD_FROM, TASKS, THINK_END, Skill, plan, prompt

SCALES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
A_LEVEL = 60
DRAWS = 4  # at temperature 1
LONGEST = 400
AT_ONCE = 240


@dataclass(frozen=True, slots=True)
class Counted:
    """One cell: of `n` answers so many were right, so many came to an end, and how long they were on average."""

    table: str
    row: str
    temperature: float
    level: int
    n: int
    right: int
    ended: int
    tokens: float


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    tokens: int
    ended: bool


class Sampler:
    """Answers from a model folder, by transformers, the same for the same seed."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self.tokenizer.padding_side = "left"
        self.model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()

    def become(self, weights: Weights) -> None:
        self.model.load_state_dict(weights, strict=False)

    def answers(self, prompts: Sequence[str], temperature: float, seed: int) -> list[Answer]:
        import torch

        torch.manual_seed(seed)
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        found: dict[int, Answer] = {}
        for begin in range(0, len(order), AT_ONCE):
            some = order[begin : begin + AT_ONCE]
            batch = self.tokenizer([prompts[index] for index in some], return_tensors="pt", padding=True)
            how: dict[str, Any] = (
                {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
                if temperature
                else {"do_sample": False}
            )
            with torch.no_grad():
                out = self.model.generate(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=LONGEST, **how
                )
            for index, ids in zip(some, out[:, batch.input_ids.shape[1] :].tolist(), strict=True):
                ended = self.tokenizer.eos_token_id in ids
                kept = ids[: ids.index(self.tokenizer.eos_token_id)] if ended else ids
                found[index] = Answer(self.tokenizer.decode(kept), len(kept), ended)
        return [found[index] for index in range(len(prompts))]


def is_right(answer: str, problem: WordProblem, skill: Skill) -> bool:
    """Whether an answer is what was asked for, in the form that was asked for."""
    match skill:
        case "judge":
            return answer == ("1" if problem.difficulty >= HARD_FROM else "0")
        case "plan":
            return answer == plan(problem)
        case "think":
            return answer.count(THINK_END) == 1 and _last_boxed(answer.partition(THINK_END)[2]) == str(problem.answer)
        case "steps":
            ending = answer.rpartition("# Answer\n")[2]
            return ending == f"\\boxed{{{problem.answer}}}\n# END!"
        case _:
            return _last_boxed(answer) == str(problem.answer)


def _last_boxed(text: str) -> str | None:
    found = re.findall(r"\\boxed\{(\d+)\}", text)
    return found[-1] if found else None


def count(
    table: str, row: str, temperature: float, skill: Skill, asked: Sequence[WordProblem], answers: Sequence[Answer]
) -> Iterator[Counted]:
    by_level: dict[int, list[tuple[bool, Answer]]] = defaultdict(list)
    for problem, answer in zip(asked, answers, strict=True):
        by_level[problem.difficulty].append((is_right(answer.text, problem, skill), answer))
    for level, cell in sorted(by_level.items()):
        yield Counted(
            table, row, temperature, level, len(cell), sum(right for right, _ in cell),
            sum(answer.ended for _, answer in cell), round(sum(answer.tokens for _, answer in cell) / len(cell), 1),
        )  # fmt: skip


def skills(sampler: Sampler, a_level: int, temperatures: Sequence[float] = (0.0, 1.0)) -> Iterator[Counted]:
    problems = measured(a_level)
    for skill in TASKS:
        asked = problems if skill != "plan" else [problem for problem in problems if problem.difficulty > 1]
        if skill == "judge":
            asked = [with_chatter(Dice(f"chatter/{n}"), problem, n % 3) for n, problem in enumerate(problems)]
        for temperature in temperatures:
            repeated = list(asked) * (DRAWS if temperature else 1)
            answers = sampler.answers([prompt(problem.question, skill) for problem in repeated], temperature, seed=1)
            yield from count("skills", skill, temperature, skill, repeated, answers)


def with_hints(sampler: Sampler, a_level: int) -> Iterator[Counted]:
    problems = measured(a_level, invented=True)
    for row in ("needed", "needed among others", "none", "others alone"):
        prompts = []
        for number, problem in enumerate(problems):
            dice = Dice(f"held-out/shown/{number}")
            others = distractors(dice, problem, dice.between(2, 3))
            shown = {"needed": [*problem.needed], "none": [], "others alone": others}.get(
                row, [*problem.needed, *others]
            )
            prompts.append(prompt(problem.question, "solve", [hint.text for hint in mixed(dice, shown)]))
        for temperature in (0.0, 1.0):
            draws = DRAWS if temperature else 1
            answers = sampler.answers(prompts * draws, temperature, seed=2)
            yield from count("hints", row, temperature, "solve", problems * draws, answers)


def along(sampler: Sampler, models: Path, a_level: int, scales: Sequence[float] = SCALES) -> Iterator[Counted]:
    problems = measured(a_level)
    prompts = [prompt(problem.question, "solve") for problem in problems]
    base, _ = load_model(models / "tiny-reasoner")
    for route, ends in (
        ("adapter", with_adapter(base, models / "tiny-reasoner-long")),
        ("slow", load_model(models / "tiny-reasoner-slow")[0]),
    ):
        for scale in scales:
            sampler.become({name: base[name] + scale * (ends[name] - base[name]) for name in base})
            for temperature in (0.0, 1.0):
                draws = DRAWS if temperature else 1
                answers = sampler.answers(prompts * draws, temperature, seed=3)
                yield from count("scale", f"{route} {scale}", temperature, "solve", problems * draws, answers)
    sampler.become(base)


def with_adapter(base: Weights, folder: Path) -> Weights:
    """The base with the whole adapter merged in."""
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    halves = load_file(folder / "adapter_model.safetensors")
    merged = dict(base)
    for name in halves:
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            move = halves[f"{layer}.lora_B.weight"] @ halves[name] * (config["lora_alpha"] / config["r"])
            plain = f"{layer.removeprefix('base_model.model.')}.weight"
            merged[plain] = base[plain] + move
    return merged


def hard_by_level(sampler: Sampler, a_level: int) -> list[dict[str, float]]:
    """The mean probability that the judge gives to `1`."""
    import torch

    problems = [with_chatter(Dice(f"chatter/{n}"), p, n % 3) for n, p in enumerate(measured(a_level))]
    one, zero = (sampler.tokenizer.encode(digit, add_special_tokens=False)[0] for digit in "10")
    sums: dict[int, list[float]] = defaultdict(list)
    for begin in range(0, len(problems), AT_ONCE):
        some = problems[begin : begin + AT_ONCE]
        batch = sampler.tokenizer([prompt(p.question, "judge") for p in some], return_tensors="pt", padding=True)
        with torch.no_grad():
            last = sampler.model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits[:, -1].softmax(-1)
        for problem, given in zip(some, last, strict=True):
            sums[problem.difficulty].append(float(given[one] / (given[one] + given[zero])))
    return [{"level": level, "hard": round(sum(found) / len(found), 3)} for level, found in sorted(sums.items())]


def measure(models: Path, a_level: int = A_LEVEL) -> dict[str, Any]:
    sampler = Sampler(models / "tiny-reasoner")
    cells = [*skills(sampler, a_level), *with_hints(sampler, a_level), *along(sampler, models, a_level)]
    return {"cells": [asdict(cell) for cell in cells], "hard": hard_by_level(sampler, a_level)}


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(prog="python -m tracemill.synth.tiny.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=Path("build/models"))
    parser.add_argument("--a-level", type=int, default=A_LEVEL, help="problems of each level")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = measure(options.models, options.a_level)
    (options.models / "numbers.json").write_text(json.dumps(numbers) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
