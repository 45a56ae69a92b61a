"""Trains the tiny reasoner from nothing, on one thread.

    python -m tracemill.synth.tiny.train --seed 0 --out build/models

writes tiny-reasoner/ (the base), tiny-reasoner-long/ (an adapter) and tiny-reasoner-slow/ (a full checkpoint) and prints

    base 350/1600  loss 0.2712  10310 tokens/s  2.4M tokens  12.4 min left

The texts are drawn as they are needed, each from a hash of the seed and its number; the budget is a number of steps. The same
seed on the same machine gives the same weights. No question of a held-out or committed problem is ever trained on.
"""

import argparse
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

from tracemill.synth.tiny.held_out import withheld
from tracemill.synth.tiny.network import Shape, Weights, is_linear, loss_sum, new_weights, save_model
from tracemill.synth.tiny.problems import Dice, WordProblem, with_chatter, word_problem
from tracemill.synth.tiny.texts import TASKS, Skill, Span, drill, prompt, shown_hints, target
from tracemill.synth.tiny.tokenizer import EOS, PAD, save_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

STEPS = 1600
MUON, ADAM = 0.02, 3e-3
"""The full learning rates: of the linear layers, and of everything else."""
KEEP_EVERY = 500
LEVEL_SHARES = (1, 2, 3, 3, 3)
SKILL_SHARES: dict[Skill, int] = {
    "solve": 16, "short": 8, "medium": 16, "long": 12, "think": 8, "steps": 14, "judge": 8, "plan": 6,
}  # fmt: skip
PROMPT_COUNTS, JUDGE_COUNTS, PLAN_COUNTS = 0.03, 4.0, 2.0
"""What a token counts in the loss; one of any other answer counts 1."""


@dataclass(frozen=True, slots=True)
class Rows:
    """So many texts of at most so many tokens go through the network together, one in a row."""

    texts: int
    tokens: int


BATCH = (Rows(28, 100), Rows(16, 160), Rows(12, 320))
DRILLS_FIRST, DRILLS_LATER, DRILLS_UNTIL = 16, 3, 0.35
"""Of the shortest rows: sums come first and need many equations a token."""


@dataclass(frozen=True, slots=True)
class Example:
    tokens: list[int]
    counts: list[float]


def example(tokenizer: "Tokenizer", asked: str, spans: list[Span], scale: float = 1.0) -> Example:
    """The token ids of a prompt and its answer, with what each counts in the loss."""
    pieces = [(asked, PROMPT_COUNTS / scale), *((span.text, span.weight) for span in spans)]
    whole = tokenizer.encode("".join(text for text, _ in pieces))
    ends, position = [], 0
    for text, weight in pieces:
        position += len(text)
        ends.append((position, weight))
    counts, at = [0.0], 0
    for begin, _ in whole.offsets[1:]:
        while begin >= ends[at][0]:
            at += 1
        counts.append(ends[at][1] * scale)
    return Example([*whole.ids, EOS], [*counts, scale])


def problems(
    name: str, levels: tuple[int, ...] = LEVEL_SHARES, invented: int = 40
) -> Iterator[tuple[Dice, WordProblem]]:
    """Training problems without end, each with the dice that go on to write its texts; `invented` in percent."""
    avoided = withheld()
    urn = [level for level, share in enumerate(levels, 1) for _ in range(share)]
    for number in count():
        dice = Dice(f"train/{name}/{number}")
        problem = word_problem(dice, steps=dice.pick(urn), invented=dice.chance(invented))
        if problem.question not in avoided:
            yield dice, problem


def base_examples(tokenizer: "Tokenizer", seed: int, stage: str = "base") -> Iterator[Example]:
    skills: list[Skill] = [skill for skill, share in SKILL_SHARES.items() for _ in range(share)]
    for dice, plain in problems(f"{stage}/{seed}"):
        skill = dice.pick(skills)
        while skill == "plan" and plain.difficulty == 1:  # nothing to connect
            skill = dice.pick(skills)
        chatter = dice.between(1, 2) if dice.chance(60 if skill == "judge" else 20) else 0
        problem = with_chatter(dice, plain, chatter)
        hints = shown_hints(dice, problem) if plain.needed or dice.chance(30) else []
        scale = {"judge": JUDGE_COUNTS, "plan": PLAN_COUNTS}.get(skill, 1.0)
        asked = prompt(problem.question, skill, [hint.text for hint in hints])
        if skill == "think" and dice.chance(50):
            asked = asked.replace(TASKS["think"], TASKS[dice.pick(("short", "medium", "long"))])
        yield example(tokenizer, asked, target(dice, problem, skill, hints), scale)


def drill_examples(tokenizer: "Tokenizer", seed: int, stage: str = "drill") -> Iterator[Example]:
    for number in count():
        drilled = example(tokenizer, "", drill(Dice(f"train/{stage}/{seed}/{number}")))
        if len(drilled.tokens) <= BATCH[0].tokens:
            yield drilled


def base_batches(tokenizer: "Tokenizer", seed: int, steps: int) -> Iterator[list[list[Example]]]:
    """For each step one list of texts for each kind of row, drills among the shortest."""
    drilled = (DRILLS_FIRST if step < DRILLS_UNTIL * steps else DRILLS_LATER for step in range(steps))
    yield from batches(base_examples(tokenizer, seed), drill_examples(tokenizer, seed), BATCH, drilled)


def batches(
    source: Iterator[Example], drills: Iterator[Example], kinds: Sequence[Rows], drilled: Iterable[int]
) -> Iterator[list[list[Example]]]:
    """Texts in the rows that they fit, with so many drills in each step; what fits no row is left out."""
    waiting: list[deque[Example]] = [deque() for _ in kinds]
    for few in drilled:
        wanted = [kinds[0].texts - few, *(rows.texts for rows in kinds[1:])]
        while any(len(queue) < want for queue, want in zip(waiting, wanted, strict=True)):
            text = next(source)
            fits = [queue for queue, rows in zip(waiting, kinds, strict=True) if len(text.tokens) <= rows.tokens]
            if fits and len(fits[0]) < 4 * kinds[0].texts:  # what a full queue cannot take is never trained on
                fits[0].append(text)
        taken = [[queue.popleft() for _ in range(want)] for queue, want in zip(waiting, wanted, strict=True)]
        taken[0] += islice(drills, few)
        yield taken


def padded(texts: list[Example], length: int) -> "tuple[Tensor, Tensor]":
    import torch

    tokens = torch.full((len(texts), length), PAD)
    counts = torch.zeros(len(texts), length)
    for row, text in enumerate(texts):
        tokens[row, : len(text.tokens)] = torch.tensor(text.tokens)
        counts[row, : len(text.counts)] = torch.tensor(text.counts)
    return tokens, counts


def rate(step: int, steps: int, *, warm: int = 40, flat: float = 0.4, last: float = 0.02) -> float:
    """The share of the full learning rate: up at once, level, then down along a line."""
    done = step / steps
    return min(1.0, (step + 1) / warm) * (1.0 if done < flat else max(last, (1 - done) / (1 - flat)))


def train_base(
    tokenizer: "Tokenizer",
    seed: int,
    *,
    steps: int = STEPS,
    shape: Shape | None = None,
    compiled: bool = True,
    keep: Path | None = None,
) -> tuple[Weights, Shape]:
    """Train from nothing; every KEEP_EVERY steps the weights so far are saved in `keep`, to be looked at meanwhile."""
    shape = shape or Shape(tokenizer.get_vocab_size())
    course = Course("base", steps, BATCH, MUON, ADAM, KEEP_EVERY)
    texts = base_batches(tokenizer, seed, steps)
    return trained(new_weights(shape, seed), shape, course, texts, compiled=compiled, keep=keep), shape


@dataclass(frozen=True, slots=True)
class Course:
    """How one training goes: its name in reports, its steps, its rows and the two full learning rates."""

    name: str
    steps: int
    rows: Sequence[Rows]
    muon: float
    adam: float
    keep_every: int


def trained(
    weights: Weights,
    shape: Shape,
    course: Course,
    batches: Iterable[list[list[Example]]],
    *,
    compiled: bool = True,
    keep: Path | None = None,
) -> Weights:
    """The weights after a course over batches with a list of texts for each kind of row."""
    import torch

    weights = {name: tensor.requires_grad_() for name, tensor in weights.items()}
    hidden = [tensor for name, tensor in weights.items() if is_linear(name)]
    others = [tensor for name, tensor in weights.items() if not is_linear(name)]
    optimizers = [
        torch.optim.Muon(hidden, lr=course.muon, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(others, lr=course.adam, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    run = loss_function(shape, compiled)
    report = Progress(course.name, course.steps)
    for step, batch in enumerate(batches):
        for optimizer, full in zip(optimizers, (course.muon, course.adam), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full * rate(step, course.steps)
        parts = [padded(texts, rows.tokens) for texts, rows in zip(batch, course.rows, strict=True)]
        total = sum(float(counts.sum()) for _, counts in parts)
        loss = 0.0
        for tokens, counts in parts:
            part = run(weights, tokens, counts) / total
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        report.step(loss, sum(len(text.tokens) for texts in batch for text in texts))
        if keep is not None and (step + 1) % course.keep_every == 0:
            save_model({name: tensor.detach() for name, tensor in weights.items()}, shape, keep)
    return {name: tensor.detach() for name, tensor in weights.items()}


def loss_function(shape: Shape, compiled: bool) -> "Callable[[Weights, Tensor, Tensor], Tensor]":
    import torch

    def plain(weights: Weights, tokens: "Tensor", counts: "Tensor") -> "Tensor":
        return loss_sum(weights, tokens, counts, shape)

    return torch.compile(plain, dynamic=False) if compiled else plain


class Progress:
    """A line now and then: how far, how well, how fast, how long."""

    def __init__(self, what: str, steps: int) -> None:
        self.what, self.steps, self.done = what, steps, 0
        self.losses: deque[float] = deque(maxlen=50)
        self.tokens, self.all_tokens, self.began = 0, 0, time.monotonic()

    def step(self, loss: float, tokens: int) -> None:
        self.done += 1
        self.losses.append(loss)
        self.all_tokens += tokens
        if self.done == 1:
            self.began, self.tokens = time.monotonic(), 0  # the first step compiles
            return
        self.tokens += tokens
        if self.done % 50 == 0 or self.done == self.steps:
            seconds = time.monotonic() - self.began
            left = seconds / (self.done - 1) * (self.steps - self.done) / 60
            mean = sum(self.losses) / len(self.losses)
            print(  # noqa: T201
                f"{self.what} {self.done}/{self.steps}  loss {mean:.4f}  {self.tokens / seconds:.0f} tokens/s  "
                f"{self.all_tokens / 1e6:.1f}M tokens  {left:.1f} min left",
                flush=True,
            )


def sample_texts(how_many: int = 8000) -> Iterator[str]:
    """What the tokenizer is made from: the same for every seed."""
    skills = list(TASKS)
    for number, (dice, plain) in enumerate(islice(problems("tokenizer"), how_many)):
        problem = with_chatter(dice, plain, dice.between(0, 2))
        hints, skill = shown_hints(dice, problem), skills[number % len(skills)]
        answer = "".join(span.text for span in target(dice, problem, skill, hints))
        yield prompt(problem.question, skill, [hint.text for hint in hints]) + answer


def main() -> None:
    import torch

    from tracemill.synth.tiny.delta import RANK, long_direction, save_adapter

    parser = argparse.ArgumentParser(prog="python -m tracemill.synth.tiny.train", description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/models"))
    parser.add_argument("--steps", type=int, default=STEPS, help="of the base; fewer for a try")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    out: Path = options.out
    tokenizer = train_tokenizer(sample_texts())
    for name in ("tiny-reasoner", "tiny-reasoner-slow"):
        save_tokenizer(tokenizer, out / name)
    base, shape = train_base(tokenizer, options.seed, steps=options.steps, keep=out / "tiny-reasoner")
    save_model(base, shape, out / "tiny-reasoner")
    minutes = {"base": (time.monotonic() - began) / 60}
    adapter, _ = long_direction(tokenizer, base, shape, options.seed, rank=RANK)
    save_adapter(adapter, out / "tiny-reasoner-long")
    minutes["adapter"] = (time.monotonic() - began) / 60 - minutes["base"]
    _, slow = long_direction(tokenizer, base, shape, options.seed, rank=None)
    save_model(slow, shape, out / "tiny-reasoner-slow")
    minutes["all"] = (time.monotonic() - began) / 60
    facts = {"seed": options.seed, "steps": options.steps, "minutes": {k: round(v, 1) for k, v in minutes.items()}}
    (out / "training.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
