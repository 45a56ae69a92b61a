"""Measures tiny-generalist on held-out problems: each task, the thought that is cut short, and what the base could do before.

    python -m tracemill.synth.tiny.evaluate_generalist --models build/models

writes numbers-generalist.json: `cells` as in `evaluate`, and `sure`, the mean probability of a yes by what has been said so far.
The tables: `tasks`; `cut` (a thought closed by force where so much of it is there); `choice` (behind an ellipsis); `moves` (whole
trajectories); `skills` (the old tasks).
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tracemill.synth.tiny.aloud import (
    ALOUD,
    AT_ONCE,
    ELLIPSIS,
    FORCED,
    NO,
    PROBE,
    YES,
    Paragraph,
    is_stated,
    joined,
    thought,
)
from tracemill.synth.tiny.asking import Sections, rendered
from tracemill.synth.tiny.astray import astray
from tracemill.synth.tiny.evaluate import AT_ONCE as BATCHED
from tracemill.synth.tiny.evaluate import Answer, Counted, Sampler, last_boxed, skills
from tracemill.synth.tiny.generalist import NAME
from tracemill.synth.tiny.held_out import measured
from tracemill.synth.tiny.judging import DIFFER, NEEDED, RIGHT, differ, needed, right
from tracemill.synth.tiny.moves import MOVE, Notebook, asked, step
from tracemill.synth.tiny.plans import (
    CODING,
    FOLLOWING,
    NAMING,
    PLANNED,
    code,
    coding,
    following,
    naming,
    solution,
    strategy,
)
from tracemill.synth.tiny.problems import Dice, WordProblem
from tracemill.synth.tiny.talk import TALK, exchange, is_answer, is_held_back, is_listed
from tracemill.synth.tiny.texts import TASKS, THINK_END

A_LEVEL = 20
QUARTERS = (0, 1, 2, 3, 4)
MOST_MOVES = 16
Judged = tuple[WordProblem, bool, Answer]


def counted(table: str, row: str, temperature: float, judged: Sequence[Judged]) -> Iterator[Counted]:
    by_level: dict[int, list[tuple[bool, Answer]]] = defaultdict(list)
    for problem, good, answer in judged:
        by_level[problem.difficulty].append((good, answer))
    for level, cell in sorted(by_level.items()):
        ended = sum(answer.ended for _, answer in cell)
        mean = round(sum(answer.tokens for _, answer in cell) / len(cell), 1)
        yield Counted(table, row, temperature, level, len(cell), sum(good for good, _ in cell), ended, mean)


def thinks_aloud(problem: WordProblem) -> str:
    return rendered({"Question": problem.question}, ALOUD, thinking=True)


def tasks(sampler: Sampler, problems: Sequence[WordProblem]) -> Iterator[Counted]:
    """Every task that has one right answer, or whose last number is right or wrong."""
    made = {NAMING: naming, FOLLOWING: following, CODING: coding, NEEDED: needed, DIFFER: differ, RIGHT: right}
    for task, make in made.items():
        texts = [make(Dice(f"held-out/{task}/{number}"), problem) for number, problem in enumerate(problems)]
        for heat in (0.0, 1.0):
            answers = sampler.answers([text.asked for text in texts], heat, seed=4)
            pairs = zip(problems, texts, answers, strict=True)
            yield from counted(
                "tasks", task, heat, [(p, answer.text == text.answer, answer) for p, text, answer in pairs]
            )
    for skill in PLANNED:
        prompts = [rendered({"Question": p.question, "Plan": code(p)}, TASKS[skill]) for p in problems]
        yield from _boxed(sampler, "tasks", f"{TASKS[skill]} with a plan", prompts, problems)
    yield from talk(sampler)


def _boxed(
    sampler: Sampler,
    table: str,
    row: str,
    prompts: Sequence[str],
    problems: Sequence[WordProblem],
    heats: Sequence[float] = (0.0, 1.0),
) -> Iterator[Counted]:
    """Right where the last box holds the answer, behind the end of a thought if there is one."""
    for heat in heats:
        pairs = zip(problems, sampler.answers(prompts, heat, seed=5), strict=True)
        judged = [(p, last_boxed(a.text.rpartition(THINK_END)[2]) == str(p.answer), a) for p, a in pairs]
        yield from counted(table, row, heat, judged)


def talk(sampler: Sampler, how_many: int = 100) -> Iterator[Counted]:
    """Sentences that training has held back; there are no levels, all count as the first."""
    drawn = (exchange(Dice(f"held-out/talk/{number}"))[0] for number in range(20 * how_many))
    questions = list(dict.fromkeys(q for q in drawn if is_held_back(q) and not is_listed(q)))[:how_many]
    for heat in (0.0, 1.0):
        answers = sampler.answers([rendered({"Question": question}, TALK) for question in questions], heat, seed=6)
        good = sum(is_answer(question, answer.text) for question, answer in zip(questions, answers, strict=True))
        mean = round(sum(answer.tokens for answer in answers) / len(answers), 1)
        yield Counted("tasks", TALK, heat, 1, len(answers), good, sum(answer.ended for answer in answers), mean)


def aloud(sampler: Sampler, problems: Sequence[WordProblem]) -> Iterator[Counted]:
    """The whole thought, and the model's own thoughts at temperature 1 cut after so many quarters of their paragraphs."""
    yield from _boxed(sampler, "tasks", ALOUD, [thinks_aloud(p) for p in problems], problems)
    own = sampler.answers([thinks_aloud(p) for p in problems], 1.0, seed=5)
    paragraphs = [answer.text.partition(f"\n{THINK_END}")[0].split("\n\n") for answer in own]
    for quarters in QUARTERS:
        prompts = []
        for problem, some in zip(problems, paragraphs, strict=True):
            kept = some[: len(some) * quarters // 4]
            prompts.append(thinks_aloud(problem) + ("\n\n".join(kept) + FORCED if kept else FORCED.lstrip()))
        for heat in (0.0, 1.0):
            pairs = zip(problems, sampler.answers(prompts, heat, seed=7), strict=True)
            judged = [(p, answer.text == f"{p.answer}}}.", answer) for p, answer in pairs]
            yield from counted("cut", f"{quarters}/4", heat, judged)
    yield from _boxed(sampler, "cut", "at once", [thinks_aloud(p) + AT_ONCE for p in problems], problems)


def choice(sampler: Sampler, problems: Sequence[WordProblem]) -> Iterator[Counted]:
    prompts = [thinks_aloud(problem) + ELLIPSIS for problem in problems]
    for heat in (0.0, 1.0):
        pairs = list(zip(problems, sampler.answers(prompts, heat, seed=8), strict=True))
        yield from counted("choice", "closes at once", heat, [(p, a.text.startswith(THINK_END), a) for p, a in pairs])
        judged = [(p, last_boxed(a.text.rpartition(THINK_END)[2]) == str(p.answer), a) for p, a in pairs]
        yield from counted("choice", "right", heat, judged)


def moves(sampler: Sampler, problems: Sequence[WordProblem]) -> Iterator[Counted]:
    """Trajectories from no notes to the answer; an illegal move ends one."""
    for heat in (0.0, 1.0):
        books = [Notebook() for _ in problems]
        legal, written, looked = [True] * len(problems), [0] * len(problems), [False] * len(problems)
        going = list(range(len(problems)))
        for turn in range(MOST_MOVES):
            prompts = [asked(problems[index].question, books[index].shown) for index in going]
            for index, answer in zip(going, sampler.answers(prompts, heat, seed=100 + turn), strict=True):
                legal[index] = books[index].take(answer.text)
                written[index] += answer.tokens
                looked[index] |= answer.text.startswith("expand")
            going = [index for index in going if legal[index] and books[index].answer is None]
            if not going:
                break
        ends = [Answer("", tokens, book.answer is not None) for tokens, book in zip(written, books, strict=True)]
        good = [book.answer == str(problem.answer) for book, problem in zip(books, problems, strict=True)]
        for row, flags in (("legal to the end", [end.ended for end in ends]), ("right", good), ("with a look", looked)):
            yield from counted("moves", row, heat, list(zip(problems, flags, ends, strict=True)))


def sure(sampler: Sampler, problems: Sequence[WordProblem]) -> list[dict[str, Any]]:
    """The mean probability of a yes, over all ends of paragraphs of thoughts written by rule, right and wrong."""
    asked_at: dict[tuple[str, int], list[str]] = defaultdict(list)
    for number, problem in enumerate(problems):
        dice = Dice(f"held-out/sure/{number}")
        for told in (problem, astray(dice, problem)):
            paragraphs = thought(dice, told, reflects=60 if told == problem else 20)
            for kept in (paragraphs[:end] for end in range(1, len(paragraphs) + 1)):
                text = thinks_aloud(problem) + joined(kept) + PROBE
                asked_at[_state(kept, told, problem), problem.difficulty].append(text)
    return [
        {"state": state, "level": level, "n": len(texts), "yes": round(sum(found) / len(found), 3)}
        for (state, level), texts in sorted(asked_at.items())
        if (found := yes(sampler, texts))
    ]


def _state(kept: list[Paragraph], told: WordProblem, problem: WordProblem) -> str:
    if not is_stated(kept, told):
        return "not yet stated"
    return "right answer stated" if told == problem else "wrong answer stated"


def yes(sampler: Sampler, prompts: Sequence[str]) -> list[float]:
    """The probability of a yes against a no behind each prompt; the two part at one token."""
    import torch

    yeses, noes = (sampler.tokenizer.encode(text, add_special_tokens=False) for text in (YES, NO))
    part = next(at for at, (one, other) in enumerate(zip(yeses, noes, strict=False)) if one != other)
    found: list[float] = []
    for begin in range(0, len(prompts), BATCHED):
        texts = [text + sampler.tokenizer.decode(yeses[:part]) for text in prompts[begin : begin + BATCHED]]
        batch = sampler.tokenizer(texts, return_tensors="pt", padding=True)
        with torch.no_grad():
            last = sampler.model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits[:, -1].softmax(-1)
        found += (last[:, yeses[part]] / (last[:, yeses[part]] + last[:, noes[part]])).tolist()
    return found


def examples(sampler: Sampler) -> list[dict[str, str]]:
    """The greedy answer to each task, of one problem with three steps; what stands behind the prompt already is `so_far`."""
    problem = next(p for p in measured(20) if p.difficulty == 3 and len(p.parts) == 2)
    dice, question = Dice("held-out/generalist/example"), {"Question": problem.question}
    solved = {**question, "Solution": solution(dice, problem, "solve")}
    paragraphs = thought(dice, problem, slips=0)
    begun, told = joined(paragraphs[:2]), {**question, "Solution": joined(paragraphs)}
    first, second = step(problem, 0).split("\n")
    folded = "1. " + second.removeprefix("commit: ")
    asked_for: list[tuple[Sections, str, str | None]] = [
        (question, ALOUD, ""),
        (question, ALOUD, begun + FORCED),
        (question, ALOUD, AT_ONCE),
        (question, ALOUD, ELLIPSIS),
        (question, ALOUD, begun + PROBE),
        (solved, NAMING, None),
        ({**question, "Plan": strategy(problem)}, FOLLOWING, None),
        (solved, CODING, None),
        ({**question, "Plan": code(problem)}, TASKS["solve"], None),
        ({**told, "Segment": paragraphs[1].text}, NEEDED, None),
        ({**told, "Segment": paragraphs[-1].text}, NEEDED, None),
        ({"First": "9 = 27.", "Second": "6 = 18."}, DIFFER, None),
        (solved, RIGHT, None),
        (question, MOVE, None),
        ({**question, "Notes": folded}, MOVE, None),
        ({**question, "Notes": f"1. {first}"}, MOVE, None),
        ({"Question": "Say hello to Tom."}, TALK, None),
    ]
    found = []
    for sections, task, so_far in asked_for:
        prompt = rendered(sections, task, thinking=so_far is not None) + (so_far or "")
        answer = sampler.answers([prompt], 0.0, seed=0)[0].text
        found.append({"asked": prompt.removesuffix(so_far or ""), "so_far": so_far or "", "answer": answer})
    return found


def measure(models: Path, a_level: int = A_LEVEL) -> dict[str, Any]:
    sampler = Sampler(models / NAME)
    problems = measured(a_level)
    cells = [
        *aloud(sampler, problems),
        *tasks(sampler, problems),
        *choice(sampler, problems),
        *moves(sampler, problems),
        *skills(sampler, a_level),
    ]
    return {"cells": [asdict(cell) for cell in cells], "sure": sure(sampler, problems), "examples": examples(sampler)}


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(
        prog="python -m tracemill.synth.tiny.evaluate_generalist", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--models", type=Path, default=Path("build/models"))
    parser.add_argument("--a-level", type=int, default=A_LEVEL, help="problems of each level, fewer to be quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    numbers = measure(options.models, options.a_level)
    (options.models / "numbers-generalist.json").write_text(json.dumps(numbers, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
