"""Trains the second small model on from the base: the tasks of tiny-generalist beside the old ones, on one thread.

    python -m tracemill.synth.tiny.generalist --continue-from build/models/tiny-reasoner --out build/models

writes tiny-generalist/ with the same tokenizer and shape. As in `train`, the texts are drawn from hashes of the seed and their
number, and no question of a held-out or committed problem is among them.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from tracemill.synth.tiny import aloud, judging, moves, plans
from tracemill.synth.tiny.asking import Text
from tracemill.synth.tiny.astray import astray
from tracemill.synth.tiny.network import load_model, save_model
from tracemill.synth.tiny.problems import Dice, WordProblem
from tracemill.synth.tiny.talk import talking
from tracemill.synth.tiny.train import (
    Course,
    Example,
    Rows,
    base_examples,
    batches,
    drill_examples,
    example,
    problems,
    trained,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAME = "tiny-generalist"
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
STEPS, KEEP_EVERY = 1200, 200
MUON, ADAM = 0.009, 1.5e-3
BATCH = (Rows(24, 104), Rows(18, 200), Rows(13, 416))
DRILLS = 3
LEVEL_SHARES = (2, 2, 3, 3, 3)
OLD_SHARE = 35
"""Percent of the texts, before they are sorted into rows, that are the base's."""


def _sure(dice: Dice, problem: WordProblem) -> Text:
    return aloud.sure(dice, problem, astray(dice, problem) if dice.chance(25) else problem)


def _talk(dice: Dice, problem: WordProblem) -> Text:  # noqa: ARG001
    return talking(dice)


TASKS: dict[str, Callable[[Dice, WordProblem], Text]] = {
    "whole": aloud.whole,
    "forced": aloud.forced,
    "at once": aloud.at_once,
    "own choice": aloud.own_choice,
    "sure": _sure,
    "naming": plans.naming,
    "following": plans.following,
    "coding": plans.coding,
    "planned": plans.planned,
    "needed": judging.needed,
    "differ": judging.differ,
    "right": judging.right,
    "moving": moves.moving,
    "talk": _talk,
}
SHARES = {
    "whole": 4, "forced": 12, "at once": 5, "own choice": 5, "sure": 9, "naming": 5, "following": 7, "coding": 6, "planned": 3,
    "needed": 7, "differ": 5, "right": 9, "moving": 11, "talk": 3,
}  # fmt: skip


def generalist_examples(tokenizer: "Tokenizer", seed: int, shares: dict[str, int]) -> Iterator[Example]:
    old = base_examples(tokenizer, seed, "generalist/old")
    urn = [task for task, share in shares.items() for _ in range(share)]
    for dice, problem in problems(f"generalist/{seed}", LEVEL_SHARES, invented=0):
        if dice.chance(OLD_SHARE):
            yield next(old)
            continue
        text = TASKS[dice.pick(urn)](dice, problem)
        yield example(tokenizer, text.asked, text.spans)


def generalist_batches(tokenizer: "Tokenizer", seed: int, steps: int) -> Iterator[list[list[Example]]]:
    source = generalist_examples(tokenizer, seed, SHARES)
    yield from batches(source, drill_examples(tokenizer, seed, "generalist/drill"), BATCH, repeat(DRILLS, steps))


def main() -> None:
    import torch
    from tokenizers import Tokenizer

    parser = argparse.ArgumentParser(
        prog="python -m tracemill.synth.tiny.generalist", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--continue-from", type=Path, default=Path("build/models/tiny-reasoner"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/models"))
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer for a try")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    home: Path = options.out / NAME
    home.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(options.continue_from / name, home / name)
    tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
    weights, shape = load_model(options.continue_from)
    course = Course("generalist", options.steps, BATCH, MUON, ADAM, KEEP_EVERY)
    texts = generalist_batches(tokenizer, options.seed, options.steps)
    save_model(trained(weights, shape, course, texts, keep=home), shape, home)
    minutes = round((time.monotonic() - began) / 60)
    facts = {"seed": options.seed, "steps": options.steps, "minutes": minutes, "old_share": OLD_SHARE}
    (options.out / "training-generalist.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
