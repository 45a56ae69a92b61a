"""The conclusion: an explanation and an answer from the texts of the steps alone, and whether they hold.

It is looked at only once plan and execution passed their checks: MedVerse's released scripts (arXiv:2602.07529) let a row that failed
them become a fully valid one by its conclusion.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tracemill.schemas.request import Completion
from tracemill.schemas.rows import Verdict
from tracemill.synth.petri_trace.net import Step
from tracemill.synth.petri_trace.plan import sinks
from tracemill.synth.petri_trace.refine import passes
from tracemill.synth.petri_trace.text import inside, unescaped
from tracemill.synth.petri_trace.validators import Fault
from tracemill.synth.petri_trace.writer import Asker, content

_EXPLANATION = "Explanation:"
_ANSWER_LINE = re.compile(r"^[^\S\n]*Answer:", re.MULTILINE)
_ANSWER = re.compile(r"Answer:\s*(.+)")
_FORMS = ("Answer: {}", "\\boxed{{{}}}", "#### {}", "<answer>{}</answer>")


@dataclass(frozen=True, slots=True)
class Conclusion:
    explanation: str
    answer: str
    """What counted as the final answer; empty where none was found."""
    verdict: Verdict
    said: Completion | None = None
    """None for one that was given."""
    judged: bool | None = None
    """What the judge said of it; None where none was asked, or its word could not be read."""


async def conclude(steps: Sequence[Step], asker: Asker, draw: int) -> Conclusion:
    """Ask for the conclusion and compare its answer with the gold."""
    shown = asker.shown(steps)
    said = await asker.ask("conclusion", {"shown": shown, "place": len(steps) + 1}, draw=draw)
    verdict = await asker.engine.verify(said, asker.problem.gold)
    explanation, answer = _read(content(said))
    if verdict.answer is None and answer and not said.truncated:
        verdict = await _of_answer(answer, asker)
    return Conclusion(explanation or of_sinks(steps), verdict.answer or answer, verdict, said)


async def given(text: str, steps: Sequence[Step], asker: Asker) -> Conclusion:
    """The conclusion of a trace that exists: what stands in its tag, or else its last line."""
    explanation, answer = _read(unescaped(inside(text, "Conclusion") or text))
    verdict = await (_of_answer(answer, asker) if answer else asker.engine.verify(text, asker.problem.gold))
    return Conclusion(explanation or of_sinks(steps), verdict.answer or answer, verdict)


def _read(text: str) -> tuple[str, str]:
    """Explanation and answer of a reply; each empty where it has none."""
    named = _ANSWER.findall(text)
    explained = _ANSWER_LINE.split(text.partition(_EXPLANATION)[2], maxsplit=1)[0]
    return explained.strip(), (named[-1].strip() if named else "")


async def _of_answer(answer: str, asker: Asker) -> Verdict:
    """The verdict on a bare answer, put in the words of whichever way of finding answers the recipe goes by."""
    engine, gold = asker.engine, asker.problem.gold
    verdicts = [await engine.verify(form.format(answer), gold) for form in _FORMS]
    return next((verdict for verdict in verdicts if verdict.answer is not None), verdicts[0])


def of_sinks(steps: Sequence[Step]) -> str:
    """The explanation of a reply that brings none: what the last steps say."""
    last = set(sinks(steps))
    return " ".join(step.text for step in steps if step.n in last)


def faults_of(conclusion: Conclusion, steps: Sequence[Step], options: Sequence[str] | None) -> list[Fault]:
    """What is wrong with a conclusion: V11 where no last step leads to its answer, else what the rules say of it."""
    if conclusion.said is not None and conclusion.said.truncated:
        return [Fault("conclusion_truncated", "the token limit cut the conclusion off")]
    if not conclusion.answer:
        return [Fault("conclusion_unanswered", "no final answer was found in the conclusion")]
    last = [step for step in steps if step.n in set(sinks(steps))]
    apart = [step for step in last if not _linked(step, conclusion, options)]
    found = []
    if len(apart) == len(last):
        found.append(Fault("V11", f"no last step is linked to the answer {conclusion.answer[:80]!r}"))
    elif apart:
        found.append(
            Fault("conclusion_unused", f"the conclusion does not use {', '.join(s.title for s in apart)}"[:300])
        )
    if conclusion.verdict.status != "equal":
        code = "conclusion_differs" if conclusion.verdict.status == "different" else "conclusion_undecided"
        found.append(
            Fault(code, f"the answer is {conclusion.answer[:80]!r}; {conclusion.verdict.reason or ''}".rstrip("; "))
        )
    return found


def _linked(step: Step, conclusion: Conclusion, options: Sequence[str] | None) -> bool:
    """Whether the explanation names what a step led to, or repeats its text, or the step holds the answer."""
    if holds(conclusion.explanation, step.right) or (step.text and step.text in conclusion.explanation):
        return True
    return any(holds(f"{step.right} {step.text}", form) for form in forms(conclusion.answer, options))


def forms(answer: str, options: Sequence[str] | None) -> list[str]:
    """An answer as texts may have it: the letter of a multiple choice stands for the text of its option."""
    letter = answer.strip().upper()
    if options and len(letter) == 1 and 0 <= ord(letter) - ord("A") < len(options):
        return [options[ord(letter) - ord("A")]]
    return [answer.strip()]


def holds(text: str, answer: str) -> bool:
    """Whether an answer stands in a text as a word or number of its own, neither 1 nor 200 of which 1,200 is."""
    before = r"(?<!\d,)" if re.match(r"\d{3}(?!\d)", answer) else ""
    own = rf"(?<![\w.]){before}{re.escape(answer)}(?!\w|\.\d|,\d{{3}}(?!\d))"
    return bool(answer) and re.search(own, text, re.IGNORECASE) is not None


def leaks(steps: Sequence[Step], gold: str | None, options: Sequence[str] | None) -> list[int]:
    """The steps before the last ones whose texts hold the gold answer, which the step writer may have been shown."""
    if not gold:
        return []
    last = set(sinks(steps))
    wanted = forms(gold, options)
    return [step.n for step in steps if step.n not in last and any(holds(step.text, form) for form in wanted)]


async def judged(
    conclusion: Conclusion, steps: Sequence[Step], asker: Asker, draw: int
) -> tuple[bool | None, Fault | None]:
    """What the judge says of a conclusion that the rules let pass."""
    if asker.judge is None:
        return None, None
    values = {
        "shown": asker.shown(steps),
        "explanation": conclusion.explanation,
        "answer": conclusion.answer,
    }
    said = await asker.ask("consistent", values, role=asker.judge, draw=draw)
    reply = content(said)
    verdict = passes(reply)
    if verdict:
        return True, None
    check = "conclusion_judged_wrong" if verdict is False else "conclusion_judge_unclear"
    return verdict, Fault(check, reply[:300])
