"""Takes trained and measured models into data/models and writes their card; no number in it was typed.

    python -m tracemill.synth.tiny.card --models build/models build/models-1

The first folder's weights are taken; each further one is another training seed that the card shows beside it. What was measured
is kept as data/models/tiny-reasoner/measured.json, {"training": [...], "numbers": [...]} with one entry a seed, from which the card
can be written again: `--models` left out.
"""

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tracemill.schemas.intervals import wilson
from tracemill.synth.tiny.texts import HARD

MODELS = Path(__file__).resolve().parents[2] / "data" / "models"
NAMES = ("tiny-reasoner", "tiny-reasoner-long", "tiny-reasoner-slow")
MEASURED = "measured.json"
Cells = Sequence[dict[str, Any]]

TITLES = {
    "solve": "`Solve.`",
    "short": "`Be brief.`",
    "medium": "`Explain.`",
    "long": "`Think carefully.`",
    "think": "`Solve.`, thinking",
    "steps": "`Solve step by step.`",
    "judge": "`Is it hard?`",
    "plan": "`Make a plan.`",
}


def pooled(cells: Cells) -> dict[str, Any]:
    """One cell for several: sums, and the mean of the tokens over all answers."""
    n = sum(cell["n"] for cell in cells)
    return {
        "n": n,
        "right": sum(cell["right"] for cell in cells),
        "ended": sum(cell["ended"] for cell in cells),
        "tokens": sum(cell["tokens"] * cell["n"] for cell in cells) / n,
    }


def expected(cells: Cells) -> tuple[float, float]:
    """Where another seed is expected: from the lowest end to the highest of the seeds' intervals."""
    ends = [wilson(cell["right"] / cell["n"], cell["n"]) for cell in cells]
    return min(low for low, _ in ends), max(high for _, high in ends)


def share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.0"


def shown(cells: Cells) -> str:
    """The seeds' shares and where another is expected: `.93 .95 (.88-.98)`."""
    low, high = expected(cells)
    return " ".join(share(cell["right"] / cell["n"]) for cell in cells) + f" ({share(low)}-{share(high)})"


def find(numbers: dict[str, Any], table: str, row: str, temperature: float, level: int | None = None) -> Cells:
    return [
        cell
        for cell in numbers["cells"]
        if (cell["table"], cell["row"], cell["temperature"]) == (table, row, temperature)
        and level in (None, cell["level"])
    ]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_level(seeds: Sequence[dict[str, Any]], what: str, row: str, title: str, temperature: float) -> list[str]:
    found = [find(numbers, what, row, temperature) for numbers in seeds]
    line = [title, f"{temperature:.0f}", shown([pooled(cells) for cells in found])]
    for level in range(1, 6):
        cells = [find(numbers, what, row, temperature, level) for numbers in seeds]
        line.append(shown([pooled(cell) for cell in cells]) if cells[0] else "")
    return [*line, " ".join(f"{pooled(cells)['tokens']:.0f}" for cells in found)]


def skill_table(seeds: Sequence[dict[str, Any]]) -> str:
    return table(
        ("task", "T", "all", "1", "2", "3", "4", "5", "tokens"),
        (by_level(seeds, "skills", row, title, heat) for row, title in TITLES.items() for heat in (0.0, 1.0)),
    )


def hint_table(seeds: Sequence[dict[str, Any]]) -> str:
    rows = ("needed", "needed among others", "none", "others alone")
    return table(
        ("hints", "T", "all", "1", "2", "3", "4", "5", "tokens"),
        (by_level(seeds, "hints", row, row, heat) for row in rows for heat in (0.0, 1.0)),
    )


def scale_table(seeds: Sequence[dict[str, Any]]) -> str:
    rows = list(dict.fromkeys(cell["row"] for cell in seeds[0]["cells"] if cell["table"] == "scale"))
    lines = []
    for row in rows:
        cells = [pooled(find(numbers, "scale", row, 1.0)) for numbers in seeds]
        route, _, scale = row.partition(" ")
        lines.append([route, scale, " ".join(f"{cell['tokens']:.0f}" for cell in cells), shown(cells)])
    return table(("route", "scale", "tokens, mean", "right"), lines)


def spread(seeds: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Mean and greatest difference between the first two seeds over the rows of all tables, in points."""
    rows = dict.fromkeys((cell["table"], cell["row"], cell["temperature"]) for cell in seeds[0]["cells"])
    gaps = []
    for row in rows:
        first, second = (pooled(find(numbers, *row)) for numbers in seeds[:2])
        gaps.append(100 * abs(first["right"] / first["n"] - second["right"] / second["n"]))
    return sum(gaps) / len(gaps), max(gaps)


def asking(examples: Sequence[dict[str, str]]) -> str:
    """The message once, then what each task gives."""
    first = examples[0]
    answers = (f"{TITLES[example['skill']]}\n\n```\n{example['answer']}\n```" for example in examples)
    asked = f"```\n{first['message']}\n```"
    return "\n\n".join((asked, f"The right answer is {first['right']}. What each task gives, greedily:", *answers))


def card(measured: dict[str, Any]) -> str:
    training, seeds = measured["training"], measured["numbers"]
    flaws = seeds[0]["flaws"]
    wrong = flaws["chains"] - flaws["right"]
    hard = table(
        ("steps", *(str(cell["level"]) for cell in seeds[0]["hard"])),
        [
            ["share called hard in training", *(share(value) for value in HARD)],
            *(
                [f"mean probability of `1`, seed {run['seed']}", *(share(cell["hard"]) for cell in numbers["hard"])]
                for run, numbers in zip(training, seeds, strict=True)
            ),
        ],
    )
    minutes = "; ".join(
        f"seed {run['seed']}: base {run['minutes']['base']:.0f} min, all {run['minutes']['all']:.0f} min"
        for run in training
    )
    of_each = {
        what: pooled(find(seeds[0], what, row, 1.0, 3))["n"] for what, row in (("skills", "solve"), ("hints", "none"))
    }
    along = pooled(find(seeds[0], "scale", "adapter 0.0", 1.0))["n"]
    between = ""
    if len(seeds) > 1:
        mean, most = spread(seeds)
        between = f"Between the two seeds the rows differ by {mean:.1f} points on average and by {most:.1f} at most.\n"
    return TEXT.format(
        steps=training[0]["steps"],
        minutes=minutes,
        seeds=" and ".join(str(run["seed"]) for run in training),
        of_each=of_each["skills"],
        of_each_hint=of_each["hints"],
        along=along,
        skills=skill_table(seeds),
        hints=hint_table(seeds),
        scales=scale_table(seeds),
        hard=hard,
        between=between,
        examples=asking(seeds[0]["examples"]),
        wrong=wrong,
        **{name.replace(" ", "_"): value for name, value in flaws.items()},
    )


TEXT = """\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [arithmetic, tiny]
---

# tiny-reasoner

A language model of 0.93 million parameters (3.7 MB, fp32) that writes out the steps of small arithmetic word problems. It is
here so that everything in this repository that needs a real model has one: it runs on two CPU cores, under vLLM as well as
under transformers, and is wrong often enough for verification and selection to have something to do. It is of no other use:
it knows only the sentences, names, things and sizes of numbers that `synth/tiny/problems.py` writes.

| folder | is |
| --- | --- |
| `tiny-reasoner` | the base |
| `tiny-reasoner-long` | a LoRA adapter over it, in the layout of PEFT: at scale 1 `Solve.` gives long chains, between 0 and 1 chains in between |
| `tiny-reasoner-slow` | a full checkpoint that gives long chains to `Solve.`: base + alpha * (slow - base) lies in between too |

Llama architecture: hidden size 128, 4 layers, 4 heads of 32, feed-forward 384, tied embeddings, context 1,024. A tokenizer of
byte pairs inside words; each digit is a token. `make model` trains all three from nothing ({steps} steps of the base) on
problems and texts that `synth/tiny/` writes, on one thread of a CPU. It took: {minutes}, while the
machine did other work too.

## How to ask it

One user message, with no line break at the end; the chat template adds `## Answer`. `## Hint` is left out where there is nothing
to hint. With `enable_thinking` the template opens a `<think>` block, which the model closes itself.

{examples}

## What it can do

Shares of right answers to held-out problems, {of_each} at each level, which is the number of steps; T is the temperature, 0 greedy.
Each cell gives the training seeds {seeds} side by side, and in brackets the span of their 95 % intervals (Wilson), where
another training is expected. The committed weights are those of the first. The sampler is transformers' in fp32.
{between}
{skills}

A plan is right if it is the very text; a judgement, if `1` meets three steps or more. The judge learned from labels that
waver, so that its probabilities say how sure it is; between its problems' sentences stood up to two that do not matter.

{hard}

### Hints

`Solve.` on problems with invented words, {of_each_hint} at each level. Without the hints that are needed it can only guess.

{hints}

### Length along the two routes

`Solve.`, temperature 1, {along} problems without hints. Scale 0 is the base.

{scales}

## What to know before using its chains

Of {chains} chains to `Think carefully.` at temperature 1, first seed:

- {right} are right. {right_with_a_false_equation} of these hold an equation that is false, mostly one that a check then puts right;
  verification looks at the final answer only, so such chains are kept.
- {wrong} are wrong. {wrong_with_true_equations_only} of these hold true equations only: the problem was misread. In {wrong_and_no_error_found} no check found an error.
- A check found an error in {an_error_found_by_a_check}, and {an_error_found_and_the_answer_right} of these ended right. Checks are part of the style: they were there in training whether or not
  something was wrong, and few of those found anything.
- {names_a_person} name a person; chains speak of quantities by letters. {no_end} did not end within 400 tokens.

The adapter and the slow checkpoint were trained on `Solve.` alone: what they do to other tasks was not measured.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tracemill.synth.tiny.card", description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, nargs="+", help="folders that training and measuring wrote, one a seed")
    parser.add_argument("--into", type=Path, default=MODELS)
    options = parser.parse_args()
    home: Path = options.into / NAMES[0]
    if options.models:
        for name in NAMES:
            shutil.copytree(options.models[0] / name, options.into / name, dirs_exist_ok=True)
        measured = {
            "training": [read(folder / "training.json") for folder in options.models],
            "numbers": [read(folder / "numbers.json") for folder in options.models],
        }
        (home / MEASURED).write_text(as_lines(measured), encoding="utf-8")
    text = card(read(home / MEASURED))
    (home / "README.md").write_text(text, encoding="utf-8")
    for name in NAMES[1:]:
        front, _, _ = text.partition("\n# tiny-reasoner\n")
        pointer = (
            f"{front}\n# {name}\n\nSee the card of [tiny-reasoner](../tiny-reasoner/README.md), which this goes with.\n"
        )
        (options.into / name / "README.md").write_text(pointer, encoding="utf-8")


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def as_lines(measured: dict[str, Any]) -> str:
    """JSON with a line for each measured cell, so that a change can be read."""
    cells = [numbers.pop("cells") for numbers in measured["numbers"]]
    rows = [[json.dumps(cell) for cell in some] for some in cells]
    for numbers, index in zip(measured["numbers"], range(len(cells)), strict=True):
        numbers["cells"] = f"@{index}"
    text = json.dumps(measured, indent=1)
    for index, some in enumerate(rows):
        text = text.replace(f'"@{index}"', "[\n" + ",\n".join(some) + "\n]")
    return text + "\n"


if __name__ == "__main__":
    main()
