"""Grades by a rubric: a model says of each criterion how far a trace meets it.

    {"rubric": 3.9, "rubric_correctness": 4.6, "rubric_correctness_p": [0, 0, 0.1, 0.2, 0.7], "rubric_correctness_on_scale": 0.98, ...}

Each criterion is asked about in a prompt of its own: where several are graded in one reply, the first grade pulls the others
along. The grade is the mean over the probabilities of the first token (Liu et al. 2023, arXiv:2303.16634, section 2), which tells 3.6
from 4.4 where the likeliest digit is 4 for both, and which a small model cannot spoil by a wrong form. `reasons` asks for words first.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tracemill.filters.asking import Shown, check_name, number_in, shown
from tracemill.schemas.filling import check_places, fill
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Sampling

# Not stated in a paper; our defaults
LOWEST, HIGHEST = 1, 5
ON_SCALE = 0.5

PROMPT = (
    "You grade a solution by one criterion and by nothing else.\n\nProblem:\n{question}\n\nSolution:\n{solution}\n\n"
    "Criterion: {criterion}\n{text}\n\nThe grade is a whole number {scale}. {task}"
)
NUMBER_ALONE = "Reply with the number alone."
REASONS_FIRST = (
    "First say in a few sentences what in the solution speaks for and against it. Then write the grade on a last line of its own, "
    "as in `Score: {lowest}`."
)


def check(
    *,
    rubric: Mapping[str, str],
    lowest: int,
    highest: int,
    reasons: bool,
    on_scale: float,
    prompt: str,
    name: str,
    **_: Any,
) -> None:
    """Raise ValueError for options that cannot work."""
    check_places("prompt", prompt, "solution", "text", "scale", "task")
    check_name("name", name)
    if not rubric:
        raise ValueError(
            'rubric is empty: name what is graded, as in rubric = {clarity = "Every step says what it does."}'
        )
    for criterion, text in rubric.items():
        check_name("the name of a criterion", criterion)
        if not text.strip():
            raise ValueError(f"rubric.{criterion} is empty: say what a solution has to have for it")
    most = 100 if reasons else 9
    if not 0 <= lowest < highest <= most:
        why = (
            ""
            if reasons
            else ", since a grade is one token, and one digit surely is; reasons = true reads numbers up to 100"
        )
        raise ValueError(f"lowest = {lowest}, highest = {highest}: 0 <= lowest < highest <= {most}{why}")
    if not 0 < on_scale <= 1:
        raise ValueError(f"on_scale = {on_scale}: a probability, above 0 and at most 1")
    names = list(_columns(rubric, reasons, name))
    if twice := {column for column, _ in names if [c for c, _ in names].count(column) > 1}:
        raise ValueError(f"rubric: two columns would be named {min(twice)!r}; give a criterion another name")


def needs(*, role: str, reasons: bool) -> dict[str, tuple[str, ...]]:
    """Log-probs, unless grades are read from written replies."""
    return {role: ("complete",) if reasons else ("logprobs",)}


def columns(*, rubric: Mapping[str, str], reasons: bool, name: str) -> dict[str, Any]:
    """The rubric's criteria name them."""
    return dict(_columns(rubric, reasons, name))


def _columns(rubric: Mapping[str, str], reasons: bool, name: str) -> Iterator[tuple[str, Any]]:
    yield name, float
    yield f"{name}_unread", str
    for criterion in rubric:
        yield f"{name}_{criterion}", float
        if reasons:
            yield f"{name}_{criterion}_reply", str
        else:
            yield f"{name}_{criterion}_p", list[float]
            yield f"{name}_{criterion}_on_scale", float


async def rubric_judge(
    trace: Mapping[str, Any],
    engine: Engine,
    *,
    rubric: Mapping[str, str],
    lowest: int = LOWEST,
    highest: int = HIGHEST,
    reasons: bool = False,
    both_orders: bool = False,
    on_scale: float = ON_SCALE,
    role: str = "judge",
    show: Shown = "trace",
    prompt: str = PROMPT,
    name: str = "rubric",
) -> dict[str, Any]:
    """Add a grade for each criterion of `rubric`, from `lowest` to `highest`, and `rubric`, their mean.

    `rubric = {clarity = "..."}` makes `rubric_clarity`, the expected grade, `rubric_clarity_p`, how likely each grade from the lowest to the highest
    is, and `rubric_clarity_on_scale`, how likely the reply begins with a grade at all. Below `on_scale` the grade is null and so is the mean.
    With `reasons` the model writes first and grades on its last line, a number and nothing else; the reply stands in `rubric_clarity_reply`.
    `rubric_unread` is JSON of what came in place of a grade, by criterion. `both_orders` asks with the scale upwards and downwards
    and takes the mean: some models like the end they read last. `prompt` may hold {question}, {solution}, {criterion}, {text}, {scale}, {task} and {gold}.
    """
    places = {
        "question": trace["question"],
        "solution": shown(trace, show),
        "gold": trace["gold"] if trace["gold"] is not None else "(not known)",
        "task": fill(REASONS_FIRST, lowest=str(lowest)) if reasons else NUMBER_ALONE,
    }

    async def ask(criterion: str, text: str, upwards: bool) -> dict[str, Any]:
        asked = fill(prompt, **places, criterion=criterion, text=text, scale=_scale(lowest, highest, upwards))
        if not reasons:
            return await _first_token(engine, asked, role, lowest, highest, on_scale)
        return await _written(engine, asked, role, lowest, highest, f"{criterion}/{trace['id']}")

    orders = (True, False) if both_orders else (True,)
    questions = [(criterion, text, upwards) for criterion, text in rubric.items() for upwards in orders]
    replies = iter(await asyncio.gather(*(ask(*question) for question in questions)))
    graded = {criterion: [next(replies) for _ in orders] for criterion in rubric}
    return _row(graded, name, reasons)


def _scale(lowest: int, highest: int, upwards: bool) -> str:
    ends = f"{lowest} (not met at all)", f"{highest} (met in full)"
    first, last = ends if upwards else ends[::-1]
    return f"from {first} to {last}"


async def _first_token(
    engine: Engine, asked: str, role: str, lowest: int, highest: int, least: float
) -> dict[str, Any]:
    """The grade as an expectation over the digits; `unread` says what the reply begins with instead."""
    digits = [str(number) for number in range(lowest, highest + 1)]
    judged = await engine.judge(asked, digits, role=role)
    known = [judged.probabilities.get(digit, 0.0) for digit in digits]
    mass = sum(known)
    if mass < least:
        begins = judged.returned[0][0] if judged.returned else None
        return {"grade": None, "p": None, "on_scale": mass, "unread": {"begins": begins, "on_scale": mass}}
    p = [share / mass for share in known]
    grade = sum(int(digit) * share for digit, share in zip(digits, p, strict=True))
    return {"grade": grade, "p": p, "on_scale": mass}


async def _written(engine: Engine, asked: str, role: str, lowest: int, highest: int, salt: str) -> dict[str, Any]:
    """The grade on the last line of a written reply; `unread` says what is wrong with it."""
    [reply] = await engine.sample(asked, role=role, scope="rubric_judge", salt=salt, sampling=Sampling(temperature=0.0))
    number, fault = number_in(reply.text, lowest, highest, truncated=reply.truncated)
    found: dict[str, Any] = {"grade": None if number is None else float(number), "reply": reply.text}
    return found if fault is None else found | {"unread": {"fault": fault, "reply": reply.text}}


def _row(graded: Mapping[str, list[dict[str, Any]]], name: str, reasons: bool) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for criterion, asked in graded.items():
        row[f"{name}_{criterion}"] = _mean([one["grade"] for one in asked])
        if reasons:
            row[f"{name}_{criterion}_reply"] = "\n\n".join(one["reply"] for one in asked)
        else:
            spread = [one["p"] for one in asked]
            known = [p for p in spread if p is not None]
            row[f"{name}_{criterion}_p"] = (
                [_mean(list(at)) for at in zip(*known, strict=True)] if known == spread else None
            )
            row[f"{name}_{criterion}_on_scale"] = min(one["on_scale"] for one in asked)
    unread = {criterion: [one["unread"] for one in asked if "unread" in one] for criterion, asked in graded.items()}
    said = {criterion: faults[0] for criterion, faults in unread.items() if faults}
    row[f"{name}_unread"] = json.dumps(said, ensure_ascii=False) if said else None
    row[name] = _mean([row[f"{name}_{criterion}"] for criterion in graded])
    return row


def _mean(values: list[float | None]) -> float | None:
    """None where one is not known: a mean of those that are would compare rows by different things."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
