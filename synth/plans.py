r"""Plans in front of solutions: how they are asked for, whether they give the solution away, and whether an execution follows them.

    1. Set up the equation      ─┐  titles ["Set up the equation", "Solve for x"]
    2. Solve for x              ─┘  leaks nothing, whatever its numbering: those numbers are no part of it

Adherence and titles are those of the released code of E2C (arXiv:2509.23946), less its search for titles in the middle of lines.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

from tracemill.schemas.filling import fill
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Outcome, Problem, Rejection
from tracemill.schemas.words import common_length
from tracemill.synth.engine import together
from tracemill.synth.hints.leakage import Secrets, leaks, numbers
from tracemill.synth.prompts import earlier, shown, worded
from tracemill.synth.reply import split_reasoning
from tracemill.synth.roles import THINK

Matching = Literal["loose", "strict"]

# the released code of E2C: a title is matched where more than this share of the shorter one's words stands in the other, in order
LOOSE = Fraction(3, 10)
# not stated in the paper; our default: at three words, one that every sentence has is enough for 0.3
STRICT = Fraction(1, 2)
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a all an and any are as at be by each every for from has have if in into is it its of on or our so that the their then there these "
        "this those to up us use we what which will with",
    )
)

GREEDY, AGAIN = Sampling(temperature=0.0), Sampling(temperature=0.6)
"""How plans and their executions are drawn, first and once more; not stated in either paper; our default."""

_TITLE = re.compile(r"^[ \t>#]*\d+\.(?!\d)[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_NUMBERING = re.compile(r"^[ \t>#*]*(?:step\s+\d+[.):]?|\d+[.):])(?!\d)", re.MULTILINE | re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:'\w+)?")


def check_shares(**shares: float) -> None:
    """Raise ValueError for an option that is no share."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} = {share}: a share, from 0 to 1")


def asking(problem: Problem, template: str, **texts: str) -> tuple[Message, ...]:
    """`template` with {question} and the names of `texts` filled in, as the last turn of whatever the problem brings before its question."""
    texts["question"] = worded(problem)
    return (*earlier(problem), Message(role="user", content=fill(template, **texts)))


async def right_one(
    problem: Problem, engine: Engine, prompt: str, n: int, temperature: float | None
) -> Completion | None:
    """The first right one of `n` solutions, which are those of `sample`, that is not cut off; without a gold the first one."""
    drawn = await engine.sample(shown(problem, prompt), n=n, sampling=Sampling(temperature=temperature))
    whole = [completion for completion in drawn if not completion.truncated and spoken(completion.text)]
    if problem.gold is None:
        return next(iter(whole), None)
    verdicts = await together(engine.verify(completion, problem.gold) for completion in whole)
    return next((completion for completion, verdict in zip(whole, verdicts, strict=True) if verdict.correct), None)


def turned_down(reason: str, **evidence: Any) -> Outcome:
    """A problem without a row, and why."""
    return Outcome(rejections=[(None, Rejection(reason, evidence))])


def spoken(text: str) -> str:
    """A reply without the thought before it."""
    return split_reasoning(text, THINK)[1].strip()


def leak(plan: str, gold: str | None, solution: str, share: float) -> dict[str, Any] | None:
    """What `plan` gives away: the gold, or more than `share` of the different numbers in `solution`; None where it is neither.

    A gold that is a number is looked for as a whole number, any other as whole words; one of a single letter stands in any text and is
    not looked for. Numbers at the beginning of a line that count steps are no numbers, in neither text.
    """
    bare = _NUMBERING.sub(" ", plan)
    if gold is not None and any(found.fails or any(numbers(gold)) for found in leaks(bare, Secrets(gold, ""))):
        return {"gold": gold}
    worked_out = set(numbers(_NUMBERING.sub(" ", solution)))
    told = worked_out & set(numbers(bare))
    if len(told) > Fraction(str(share)) * len(worked_out):
        return {"numbers": sorted(map(str, told)), "of": len(worked_out), "share": share}
    return None


def titles(text: str) -> list[str]:
    """What stands behind `1.`, `2.` and so on at the beginning of lines, without asterisks."""
    return _TITLE.findall(text.replace("*", ""))


def matches(title: str, other: str, matching: Matching) -> bool:
    """Whether a plan's title is that of a section: in the released way, or without stop words and at half of the words.

    `loose`: it stands in the other, or their longest common subsequence of words is more than 0.3 of the shorter one.
    """
    if matching == "loose":
        return title.lower() in other.lower() or _likeness(title.lower().split(), other.lower().split()) > LOOSE
    return _likeness(_content_words(title), _content_words(other)) > STRICT


def followed(plan: Sequence[str], sections: Sequence[str], matching: Matching) -> tuple[Fraction, bool]:
    """The share of the plan's titles that some section bears, and whether those stand in the plan's order, each in a section of its own."""
    if not plan:
        return Fraction(0), False
    count, last, ordered = 0, -1, True
    for title in plan:
        found = [i for i, section in enumerate(sections) if matches(title, section, matching)]
        count += bool(found)
        later = min((i for i in found if i > last), default=None)
        ordered = ordered and (later is not None or not found)
        last = last if later is None else later
    return Fraction(count, len(plan)), ordered


def _likeness(left: Sequence[str], right: Sequence[str]) -> Fraction:
    """The longest common subsequence of words, as a share of the shorter sequence."""
    if not left or not right:
        return Fraction(0)
    return Fraction(common_length(left, right), min(len(left), len(right)))


def _content_words(title: str) -> list[str]:
    """Words without stop words, or all of them where there are no others."""
    words = _WORD.findall(title.lower())
    return [word for word in words if word not in STOP_WORDS] or words
