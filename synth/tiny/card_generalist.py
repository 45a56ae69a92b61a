"""Takes a trained and measured tiny-generalist into data/models and writes its card; no number in it was typed.

    python -m tracemill.synth.tiny.card_generalist --models build/models

What was measured is kept as data/models/tiny-generalist/measured.json, {"training": {...}, "numbers": {...}}, from which the card
can be written again: `--models` left out. Old tasks stand beside what the base measured, from its own measured.json.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tracemill.synth.tiny.card import (
    MEASURED,
    MODELS,
    NAMES,
    TITLES,
    as_lines,
    by_level,
    find,
    pooled,
    read,
    share,
    table,
)
from tracemill.synth.tiny.generalist import NAME

HEAD = ("T", "all", "1", "2", "3", "4", "5", "tokens")
STATES = ("not yet stated", "right answer stated", "wrong answer stated")
POOR = 0.8
Numbers = dict[str, Any]


def rows(numbers: Numbers, what: str) -> list[str]:
    return list(dict.fromkeys(cell["row"] for cell in numbers["cells"] if cell["table"] == what))


def levels_table(numbers: Numbers, what: str, title: str, named: Sequence[str] = ()) -> str:
    chosen = named or rows(numbers, what)
    body = (
        by_level([numbers], what, row, f"`{row}`" if what == "tasks" else row, heat)
        for row in chosen
        for heat in (0.0, 1.0)
    )
    return table((title, *HEAD), body)


def sure_table(numbers: Numbers) -> str:
    body = []
    for state in STATES:
        cells = [cell for cell in numbers["sure"] if cell["state"] == state]
        mean = sum(cell["yes"] * cell["n"] for cell in cells) / sum(cell["n"] for cell in cells)
        body.append([state, share(mean), *(share(cell["yes"]) for cell in cells)])
    return table(("so far", "all", "1", "2", "3", "4", "5"), body)


def kept_table(numbers: Numbers, base: Numbers) -> str:
    """The old tasks, over all levels: what the base reached, what is left, and the difference in points."""
    body = []
    for row, title in TITLES.items():
        for heat in (0.0, 1.0):
            before, after = (pooled(find(some, "skills", row, heat)) for some in (base, numbers))
            was, now = (cell["right"] / cell["n"] for cell in (before, after))
            lengths = f"{before['tokens']:.0f} -> {after['tokens']:.0f}"
            body.append([title, f"{heat:.0f}", share(was), share(now), f"{100 * (now - was):+.1f}", lengths])
    return table(("task", "T", "tiny-reasoner", NAME, "points", "tokens"), body)


def poor(numbers: Numbers) -> str:
    """The tasks that stay under POOR, greedy, at one to three steps."""
    found = []
    for row in rows(numbers, "tasks"):
        cell = pooled([cell for level in (1, 2, 3) for cell in find(numbers, "tasks", row, 0.0, level)])
        if cell["right"] / cell["n"] < POOR:
            found.append(f"`{row}` {share(cell['right'] / cell['n'])}")
    return ", ".join(found) or "none"


def shown(examples: Sequence[dict[str, str]]) -> Iterator[str]:
    """Each example as one block: what is asked, what stands behind it already, and after a bar what the model writes."""
    for example in examples:
        yield f"```\n{example['asked']}{example['so_far']}▌{example['answer']}\n```"


def card(measured: dict[str, Any], base: dict[str, Any]) -> str:
    training, numbers = measured["training"], measured["numbers"]
    of_each = pooled(find(numbers, "tasks", "Follow the plan.", 1.0, 3))["n"]
    talks = pooled(find(numbers, "tasks", "Talk.", 1.0))["n"]
    return TEXT.format(
        seed=training["seed"],
        minutes=training["minutes"],
        steps=", ".join(str(steps) for steps in training["steps"]),
        old=", ".join(str(share) for share in training["old"]),
        of_each=of_each,
        talks=talks,
        tasks=levels_table(numbers, "tasks", "task"),
        cut=levels_table(numbers, "cut", "there"),
        choice=levels_table(numbers, "choice", "share that"),
        moves=levels_table(numbers, "moves", "share that is"),
        sure=sure_table(numbers),
        kept=kept_table(numbers, base["numbers"][0]),
        poor=poor(numbers),
        limit=share(POOR),
        examples="\n\n".join(shown(numbers["examples"])),
    )


TEXT = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [arithmetic, tiny]
---

# tiny-generalist

[tiny-reasoner](../tiny-reasoner/README.md) trained on: the same 0.93 million parameters, shape and tokenizer, so that token ids mean the
same for both, and more tasks. It thinks aloud in paragraphs that can be cut short, says whether it is sure, writes and follows
plans, judges texts, and solves by moves over notes that fold. It is of no other use: it knows only the sentences, names, things
and sizes of numbers that `synth/tiny/` writes.

`make model` trains it last, from the base, in rounds of {steps} steps: {minutes} minutes on one thread of a CPU that did other work
too. Of the texts of each {old} % were of the old tasks. One seed was trained ({seed}): where another would come out was not measured.

## How to ask it

One user message, with no line break at the end; the chat template adds `## Answer`, and with `enable_thinking` also `<think>`. Sections
stand in the order shown. All answers below are greedy; the bar ▌ is where the model begins to write, and what stands before it
behind `## Answer` is given as a prefix. One paragraph a piece, `\\n</think>\\n\\nThe answer is \\boxed{{` closes a thought
by force, `\\n\\nAm I sure?` asks whether it is sure, and `...\\n` leaves it the choice whether to think.

{examples}

## What it can do

Shares of right answers to held-out problems, {of_each} at each level, which is the number of steps; T is the temperature, 0 greedy. In
brackets the 95 % interval (Wilson) of this one training. The sampler is transformers' in fp32. A plan, a code, a walk along a plan and a
verdict are right if they are the very text; where an answer is boxed, if the number is right. Half of the solutions that `Is it right?` is
shown are wrong. `Talk.` is measured on {talks} sentences that were held back, which have no levels and stand under 1.

Under {limit}, greedy, at one to three steps: {poor}.
A judgement of one token has only the four layers to compare in: do not take it for a verifier.

{tasks}

### Closed by force

Its own thoughts to `Think aloud.` at temperature 1, closed after so many quarters of their paragraphs; `at once` closes before the first
and lets it write the whole sentence of the answer. A share is of answers that are right.

{cut}

### Left the choice

Behind `...` it closes at once or thinks.

{choice}

### Sure

Mean probability of a yes against a no at all ends of paragraphs of thoughts that were written by rule. In training 5 % of the labels
were turned, so that it should not be surer than that.

{sure}

### Moves

Whole trajectories of `Next move.`, from no notes to the answer; an illegal move ends one. A look is a move `expand`.

{moves}

## What it lost

The old tasks over all levels, without hints, beside the base that it was trained on from. The base was measured on more problems.

{kept}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tracemill.synth.tiny.card_generalist", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--models", type=Path, help="the folder that training and measuring wrote")
    parser.add_argument("--into", type=Path, default=MODELS)
    options = parser.parse_args()
    home: Path = options.into / NAME
    if options.models:
        shutil.copytree(options.models / NAME, home, dirs_exist_ok=True)
        taken = {
            "training": read(options.models / "training-generalist.json"),
            "numbers": [read(options.models / "numbers-generalist.json")],
        }
        (home / MEASURED).write_text(as_lines(taken), encoding="utf-8")
    measured = read(home / MEASURED)
    measured["numbers"] = measured["numbers"][0]
    text = card(measured, read(options.into / NAMES[0] / MEASURED))
    (home / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
