r"""What the method asks a model about knowledge points, and how the replies are read.

KnowRL's prompts were not published; these are ours. A reply that does not have the form asked for is no answer.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tracemill.synth.reply import split_reasoning
from tracemill.synth.roles import THINK

EXTRACT = """Below are a problem and a correct solution of it.

List the {fewest} to {most} principles without which this solution would fail: theorems, formulas, methods, definitions. \
Each has to be of use for other problems as well, and say one thing. Do not mention numbers, names or quantities of this \
problem, the order of its steps, intermediate results, or its answer. Leave out what every reader knows.

Write each principle as two lines, and nothing else before, between or after them:
**Knowledge Point**: the principle in one sentence.
   **Key Considerations**: when it holds and what is easily overlooked.

Problem:
{question}

Solution:
{solution}"""

VERIFY = """Below are a problem and a hint that somebody will be shown with it.

A hint is bound to the problem if it would read differently for another problem to which the same principle applies: it holds \
numbers, names, variables or intermediate results of this one. It reveals the answer if the answer can be read off it.

Reply with one JSON object and nothing else:
{{"instance_bound": true or false, "reveals_answer": true or false, "evidence": "the words that decide it"}}

Problem:
{question}

Hint:
{point}"""

REVISE = """Below are a problem and a hint that says too much about it: {faults}.

Rewrite the hint so that it states the principle in general: no numbers, names, variables or intermediate results of this \
problem, and not its answer. Write two lines and nothing else:
**Knowledge Point**: the principle in one sentence.
   **Key Considerations**: when it holds and what is easily overlooked.
Where nothing general is left, write the one word DROP.

Problem:
{question}

Hint:
{point}"""

ALONE = """{hints}

These are hints for a problem that is not shown. Put the final answer of that problem within \\boxed{}."""
"""Rule L6: the hints without the problem."""

FEWEST, MOST = 2, 10
"""Points a solution: KnowRL's released lists have 2 to 10."""

DROP = "DROP"
_FAULTS = {
    "L1": "it holds the answer",
    "L2": "it holds numbers of the problem or its solution ({})",
    "L3": "it repeats the words of the problem or its solution ({})",
    "L4": "it names what belongs to the problem ({})",
    "L5": "it is bound to the problem ({})",
    "L6": "the answer follows from it without the problem",
}


@dataclass(frozen=True, slots=True)
class Judged:
    """What a model says of one point by rule L5."""

    instance_bound: bool
    reveals_answer: bool
    evidence: str

    @property
    def fails(self) -> bool:
        return self.instance_bound or self.reveals_answer


def extract_prompt(question: str, solution: str, most: int) -> str:
    """Asks for the principles of a solution."""
    return EXTRACT.format(fewest=min(FEWEST, most), most=most, question=question, solution=solution)


def verify_prompt(question: str, point: str) -> str:
    """Asks whether a point is bound to its problem."""
    return VERIFY.format(question=question, point=point)


def revise_prompt(question: str, point: str, found: Sequence[tuple[str, str]]) -> str:
    """Asks for a general wording; `found` holds the rules that failed, with their evidence."""
    faults = "; ".join(_FAULTS[rule].format(evidence) for rule, evidence in found)
    return REVISE.format(faults=faults, question=question, point=point)


def judged(reply: str) -> Judged | None:
    """A reply to VERIFY: one JSON object, in a code fence or not; None for anything else."""
    _, said = split_reasoning(reply, THINK)
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", said.strip(), re.DOTALL)
    try:
        found = json.loads(fenced[1] if fenced else said)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    bound, reveals, evidence = (found.get(name) for name in ("instance_bound", "reveals_answer", "evidence"))
    if not isinstance(bound, bool) or not isinstance(reveals, bool):
        return None
    return Judged(bound, reveals, evidence if isinstance(evidence, str) else "")


def dropped(reply: str) -> bool:
    """Whether a reply to REVISE gives the point up."""
    return split_reasoning(reply, THINK)[1].strip().strip(".") == DROP
