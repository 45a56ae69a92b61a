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
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

from tracemill.synth.tiny import aloud, judging, moves, plans
from tracemill.synth.tiny.asking import Text
from tracemill.synth.tiny.astray import astray
from tracemill.synth.tiny.held_out import withheld
from tracemill.synth.tiny.network import load_model, save_model
from tracemill.synth.tiny.problems import Dice, WordProblem, word_problem
from tracemill.synth.tiny.talk import listing, talking
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
DRILLS = 3
KEEP_EVERY = 200
EASY = 2
Shares = dict[str, int]


@dataclass(frozen=True, slots=True)
class Round:
    """One course over a mixture: percent of the base's texts, before texts are sorted into rows, and shares of levels and tasks."""

    steps: int
    rows: tuple[Rows, ...]
    muon: float
    adam: float
    old: int
    levels: tuple[int, ...]
    shares: Shares


def _sure(dice: Dice, problem: WordProblem) -> Text:
    return aloud.sure(dice, problem, astray(dice, problem) if dice.chance(25) else problem)


def _talk(dice: Dice, problem: WordProblem) -> Text:  # noqa: ARG001
    return talking(dice)


def _right_brief(dice: Dice, problem: WordProblem) -> Text:
    return judging.right(dice, problem, "solve")


def _coding_brief(dice: Dice, problem: WordProblem) -> Text:
    return plans.coding(dice, problem, "solve")


def _list(dice: Dice, problem: WordProblem) -> Text:  # noqa: ARG001
    return listing(dice)


def _at_once_easy(dice: Dice, problem: WordProblem) -> Text:
    """A problem of one or two steps in place of a longer one."""
    while problem.difficulty > EASY or problem.question in withheld():
        problem = word_problem(dice, steps=dice.pick((1, 1, EASY)))
    return aloud.at_once(dice, problem)


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
    "right, brief": _right_brief,
    "coding, brief": _coding_brief,
    "moving": moves.moving,
    "talk": _talk,
    "talk, lists": _list,
    "at once, easy": _at_once_easy,
    "differ, read": judging.differ_read,
    "right, ending": judging.right_ending,
}
ROUNDS = (
    Round(
        1200, (Rows(24, 104), Rows(18, 200), Rows(13, 416)), 0.009, 1.5e-3, 35, (2, 2, 3, 3, 3),
        {"whole": 4, "forced": 12, "at once": 5, "own choice": 5, "sure": 9, "naming": 5, "following": 7, "coding": 6,
         "planned": 3, "needed": 7, "differ": 5, "right": 9, "moving": 11, "talk": 3},
    ),
    Round(
        1500, (Rows(40, 104), Rows(10, 152), Rows(10, 240), Rows(6, 400)), 0.012, 2e-3, 25, (4, 3, 3, 3, 3),
        {"whole": 6, "forced": 9, "at once": 6, "at once, easy": 18, "own choice": 7, "sure": 9, "naming": 2, "following": 5,
         "coding": 3, "coding, brief": 2, "planned": 3, "needed": 7, "differ": 7, "differ, read": 14, "right": 6,
         "right, brief": 20, "moving": 7, "talk": 9, "talk, lists": 9},
    ),
    Round(
        500, (Rows(40, 104), Rows(10, 152), Rows(10, 240), Rows(6, 400)), 0.009, 2e-3, 25, (4, 3, 3, 3, 3),
        {"whole": 5, "forced": 8, "at once": 3, "at once, easy": 16, "own choice": 6, "sure": 8, "naming": 2, "following": 4,
         "coding": 3, "coding, brief": 1, "planned": 2, "needed": 8, "differ": 8, "differ, read": 10, "right": 5,
         "right, brief": 8, "right, ending": 12, "moving": 6, "talk": 6},
    ),
    Round(
        200, (Rows(40, 104), Rows(10, 152), Rows(10, 240), Rows(6, 400)), 0.006, 1e-3, 20, (2, 3, 3, 4, 6),
        {"whole": 5, "forced": 8, "at once, easy": 10, "own choice": 5, "sure": 6, "naming": 5, "following": 8, "coding": 4,
         "planned": 2, "needed": 7, "differ": 10, "differ, read": 4, "right": 2, "moving": 34, "talk": 6},
    ),
)  # fmt: skip
"""Each later one gives more to what those before left poor: answers at once, two of the judgements, small talk; and at last
the moves of long solutions, which had come to look at notes without an end."""


def round_examples(tokenizer: "Tokenizer", seed: int, number: int) -> Iterator[Example]:
    """The texts of a round, counted from 0; none of them comes in another."""
    this, stage = ROUNDS[number], _stage(number)
    old = base_examples(tokenizer, seed, f"{stage}/old")
    urn = [task for task, share in this.shares.items() for _ in range(share)]
    for dice, problem in problems(f"{stage}/{seed}", this.levels, invented=0):
        if dice.chance(this.old):
            yield next(old)
            continue
        text = TASKS[dice.pick(urn)](dice, problem)
        yield example(tokenizer, text.asked, text.spans)


def round_batches(tokenizer: "Tokenizer", seed: int, number: int, steps: int) -> Iterator[list[list[Example]]]:
    drills = drill_examples(tokenizer, seed, f"{_stage(number)}/drill")
    yield from batches(round_examples(tokenizer, seed, number), drills, ROUNDS[number].rows, repeat(DRILLS, steps))


def _stage(number: int) -> str:
    return "generalist" + (f"-{number + 1}" if number else "")


def main() -> None:
    import torch
    from tokenizers import Tokenizer

    parser = argparse.ArgumentParser(
        prog="python -m tracemill.synth.tiny.generalist", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--continue-from", type=Path, default=Path("build/models/tiny-reasoner"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/models"))
    parser.add_argument("--steps", type=int, help="of each round; fewer for a try")
    parser.add_argument("--rounds", type=int, nargs="+", default=[*range(len(ROUNDS))], help="counted from 0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    home: Path = options.out / NAME
    home.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copyfile(options.continue_from / name, home / name)
    tokenizer = Tokenizer.from_file(str(home / "tokenizer.json"))
    weights, shape = load_model(options.continue_from)
    for number in options.rounds:
        this, steps = ROUNDS[number], options.steps or ROUNDS[number].steps
        course = Course(_stage(number), steps, this.rows, this.muon, this.adam, KEEP_EVERY)
        texts = round_batches(tokenizer, options.seed, number, steps)
        weights = trained(weights, shape, course, texts, keep=home)
        save_model(weights, shape, home)
    minutes = round((time.monotonic() - began) / 60)
    steps = [options.steps or ROUNDS[number].steps for number in options.rounds]
    facts = {"seed": options.seed, "steps": steps, "old": [ROUNDS[n].old for n in options.rounds], "minutes": minutes}
    (options.out / "training-generalist.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
