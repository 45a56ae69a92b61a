"""A net of what exists: a solved chain, by asking which earlier steps each of its steps uses, or a trace in MedVerse's tags.

    Tom has 3 * 4 = 12 pens.  Ann has 5 + 2 = 7 pens.  Together 12 + 7 = 19.    ->    steps 1 [], 2 [], 3 [1, 2], a DAG

Whether a chain of thought is really linear, a tree or a graph is what AGoT (arXiv:2502.05078) calls its shape.
"""

import re
from collections.abc import Sequence
from typing import Literal

from tracemill.schemas.steps import split_steps
from tracemill.synth.engine import together
from tracemill.synth.petri_trace.chains import Unusable, name
from tracemill.synth.petri_trace.net import Entity, Step
from tracemill.synth.petri_trace.premises import QUESTION
from tracemill.synth.petri_trace.text import Outline, between, body, read_block, read_header, read_outline
from tracemill.synth.petri_trace.validators import split_names
from tracemill.synth.petri_trace.writer import Asker, content

Uses = Literal["asked", "numbers"]

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_HEADER = re.compile(r"^(?:#+\s*)?step\s+\d+\s*[:.]?\s*", re.IGNORECASE)
_ENDING = re.compile(r"^(?:#+\s*(?:answer|end!?)\b|\\boxed\{.*\}\s*$)", re.IGNORECASE)


def split_solution(text: str) -> list[str]:
    """The steps of a solution: its paragraphs, or its lines where it is one paragraph, or its sentences where it is one line.

    Headers such as `# Step 2` and a bare final answer are no steps.
    """
    parts = split_steps(text)
    if len(parts) < 2:
        parts = text.strip().splitlines()
    if len(parts) < 2:
        parts = re.split(r"(?<=[.!?])\s+", text.strip())
    bare = [_HEADER.sub("", part.strip()).strip() for part in parts]
    return [part for part in bare if part and not _ENDING.match(part)]


async def steps_used(texts: Sequence[str], asker: Asker, *, uses: Uses, rounds: int) -> list[Step]:
    """The steps with the earlier ones that each uses; Unusable where a model's word on one cannot be read."""
    if uses == "numbers":
        deps = by_numbers(texts)
    else:
        deps = [(), *await together(_asked(texts, n, asker, rounds) for n in range(2, len(texts) + 1))]
    return [
        Step(
            n,
            tuple(f"Step {dep}" for dep in used) or (QUESTION,),
            f"Step {n}",
            used,
            text,
            asker.engine.count_tokens(text),
        )
        for n, (text, used) in enumerate(zip(texts, deps, strict=True), start=1)
    ]


async def _asked(texts: Sequence[str], n: int, asker: Asker, rounds: int) -> tuple[int, ...]:
    """What the model says step `n` uses; asked again where the reply cannot be read or names a later step."""
    shown = asker.shown([Step(k, (), f"Step {k}", (), text) for k, text in enumerate(texts[: n - 1], start=1)])
    reply = ""
    for draw in range(rounds + 1):
        said = await asker.ask("uses", {"shown": shown, "text": texts[n - 1], "n": n}, salt=str(n), draw=draw)
        reply = content(said)
        used = sorted({int(number) for number in re.findall(r"\d{1,6}", reply)})
        if used and all(0 < dep < n for dep in used):
            return tuple(used)
        if not used and "none" in reply.casefold():
            return ()
    raise Unusable("uses_unclear", step=n, reply=reply[:300])


def by_numbers(texts: Sequence[str]) -> list[tuple[int, ...]]:
    """For each step the latest earlier ones whose results, the last number of each, stand in it before its own."""
    made: dict[str, int] = {}
    found = []
    for n, text in enumerate(texts, start=1):
        numbers = [number.replace(",", "") for number in _NUMBER.findall(text)]
        found.append(tuple(sorted({made[number] for number in numbers[:-1] if number in made})))
        if numbers:
            made[numbers[-1]] = n
    return found


def entities_of(steps: Sequence[Step]) -> tuple[Entity, ...]:
    """The plan over entities that steps imply: what none of them makes comes first."""
    made = {step.right for step in steps}
    names = dict.fromkeys(given for step in steps for given in step.left if given not in made)
    number = {given: n for n, given in enumerate((*names, *(step.right for step in steps)), start=1)}
    roots = [Entity(number[given], given, ()) for given in names]
    rest = [Entity(number[s.right], s.right, tuple(sorted({number[given] for given in s.left}))) for s in steps]
    return (*roots, *rest)


def links(steps: Sequence[Step]) -> tuple[tuple[str, ...], ...]:
    """What leads to what, as chains of two nodes."""
    return tuple((given, step.right) for step in steps for given in step.left)


def blocks_of(text: str) -> tuple[str, str]:
    """The plan and the execution of a trace in tags; Unusable where it has none."""
    plan, execution = between(text, "Plan"), between(text, "Execution")
    if plan is None or execution is None:
        missing = "Plan" if plan is None else "Execution"
        raise Unusable("V2_wrong_tags", failed_checks=["V2"], says=f"the text holds no <{missing}> ... </{missing}>")
    return plan, execution


def steps_written(plan: str, execution: str, *, longest: int) -> list[Step]:
    """The steps of a sound plan with those texts of the execution that stand under their titles; the others are empty."""
    outlines = [outline for _, text in read_block(plan).children if (outline := read_outline(text)) is not None]
    headed: dict[tuple[int, str], str] = {}
    for _, text in read_block(execution).children:
        if (header := read_header(text)) is not None:
            headed.setdefault(header, body(text))
    known = {outline.right for outline in outlines}
    return [_step(outline, known, headed.get((outline.n, outline.title), ""), longest) for outline in outlines]


def _step(outline: Outline, known: set[str], text: str, longest: int) -> Step:
    left = tuple(name(part, longest=longest) for part in split_names(outline.left, known))
    return Step(outline.n, left, name(outline.right, longest=longest), tuple(sorted(outline.deps)), text)
