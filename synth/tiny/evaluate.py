"""Measures trained models on held-out problems: what `make model` ends with.

    python -m tracemill.synth.tiny.evaluate --models build/models

writes numbers.json beside the models: `cells`, a list of rows like

    {"table": "skills", "row": "long", "temperature": 1.0, "level": 3, "n": 100, "right": 81, "ended": 100, "tokens": 150.2}

and what the judge gives to "1" (`hard`), what is wrong with long chains (`flaws`) and an answer of each skill (`examples`).
The tables: `skills` (each skill on problems without hints), `hints` (Solve. with the right hints, with others among them, with none
and with the others alone), `scale` (Solve. along the adapter and along the line from the base to the full checkpoint).
Every answer is to a problem of its own, so that shares have binomial intervals.
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tracemill.synth.tiny.held_out import measured
from tracemill.synth.tiny.network import Weights, load_model
from tracemill.synth.tiny.problems import NAMES, Dice, WordProblem, distractors, mixed, with_chatter
from tracemill.synth.tiny.texts import HARD_FROM, TASKS, THINK_END, Skill, message, plan, prompt

SCALES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
A_LEVEL = {"skills": 100, "hints": 60, "scale": 60}
LONGEST = 400
AT_ONCE = 64
EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
NOTICED = ", not "


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
            return answer.count(THINK_END) == 1 and last_boxed(answer.partition(THINK_END)[2]) == str(problem.answer)
        case "steps":
            ending = answer.rpartition("# Answer\n")[2]
            return ending == f"\\boxed{{{problem.answer}}}\n# END!"
        case _:
            return last_boxed(answer) == str(problem.answer)


def last_boxed(text: str) -> str | None:
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
            answers = sampler.answers([prompt(problem.question, skill) for problem in asked], temperature, seed=1)
            yield from count("skills", skill, temperature, skill, asked, answers)


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
            answers = sampler.answers(prompts, temperature, seed=2)
            yield from count("hints", row, temperature, "solve", problems, answers)


def along(sampler: Sampler, models: Path, a_level: int, scales: Sequence[float] = SCALES) -> Iterator[Counted]:
    problems = measured(a_level)
    prompts = [prompt(problem.question, "solve") for problem in problems]
    base, _ = load_model(models / "tiny-reasoner")
    ends = {
        "adapter": with_adapter(base, models / "tiny-reasoner-long"),
        "slow": load_model(models / "tiny-reasoner-slow")[0],
    }
    for route, end in ends.items():
        for scale in scales:
            sampler.become({name: base[name] + scale * (end[name] - base[name]) for name in base})
            answers = sampler.answers(prompts, 1.0, seed=3)
            yield from count("scale", f"{route} {scale}", 1.0, "solve", problems, answers)
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


def flaws(sampler: Sampler, a_level: int) -> dict[str, int]:
    """What is wrong with long chains at temperature 1, in numbers of chains."""
    problems = measured(a_level)
    answers = sampler.answers([prompt(problem.question, "long") for problem in problems], 1.0, seed=1)
    found: Counter[str] = Counter()
    for problem, answer in zip(problems, answers, strict=True):
        right = is_right(answer.text, problem, "long")
        sound = all(
            {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operator] == int(value)
            for a, operator, b, value in EQUATION.findall(answer.text)
        )
        found["chains"] += 1
        found["right"] += right
        found["right with a false equation"] += right and not sound
        found["wrong with true equations only"] += sound and not right
        found["an error found by a check"] += NOTICED in answer.text
        found["an error found and the answer right"] += right and NOTICED in answer.text
        found["wrong and no error found"] += not right and NOTICED not in answer.text
        found["names a person"] += any(name in answer.text for name in NAMES)
        found["no end"] += not answer.ended
    return dict(found)


def examples(sampler: Sampler) -> list[dict[str, str]]:
    """The greedy answer of each skill to one problem, which has three steps and needs a hint."""
    problem = next(
        problem for problem in measured(20, invented=True) if problem.difficulty == 3 and len(problem.parts) == 2
    )
    dice = Dice("held-out/example")
    hints = [hint.text for hint in mixed(dice, (*problem.needed, *distractors(dice, problem, 1)))]
    answers = [sampler.answers([prompt(problem.question, skill, hints)], 0.0, seed=0)[0].text for skill in TASKS]
    return [
        {
            "skill": skill,
            "message": message(problem.question, task, hints),
            "answer": answer,
            "right": str(problem.answer),
        }
        for (skill, task), answer in zip(TASKS.items(), answers, strict=True)
    ]


def measure(models: Path, a_level: Mapping[str, int]) -> dict[str, Any]:
    sampler = Sampler(models / "tiny-reasoner")
    cells = [
        *skills(sampler, a_level["skills"]),
        *with_hints(sampler, a_level["hints"]),
        *along(sampler, models, a_level["scale"]),
    ]
    return {
        "cells": [asdict(cell) for cell in cells],
        "hard": hard_by_level(sampler, a_level["skills"]),
        "flaws": flaws(sampler, a_level["skills"]),
        "examples": examples(sampler),
    }


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(prog="python -m tracemill.synth.tiny.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=Path("build/models"))
    parser.add_argument("--a-level", type=int, help="problems of each level in every table, to be quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = measure(options.models, dict.fromkeys(A_LEVEL, options.a_level) if options.a_level else A_LEVEL)
    (options.models / "numbers.json").write_text(json.dumps(numbers, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
