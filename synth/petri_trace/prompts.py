"""What models are asked, in words of our own; a recipe replaces any of it under `prompts`.

The released scripts of MedVerse (arXiv:2602.07529) ask for the same things in the same order; their prompts are bound to medicine. In a
prompt `{name}` is replaced by what `VALUES` says, once: what a model wrote is never taken for a place to fill.
"""

import re
from collections.abc import Mapping

_LINES = (
    "Write one chain a line as `N: A->B->C`: numbers 1, 2, 3 ... without a gap, `->` without spaces between the nodes, each node "
    "a short noun phrase without ; [ ] < >. Write nothing else."
)

PROMPTS: Mapping[str, str] = {
    "plan": (
        "{goal}\n\nLay out how the answer follows from what the question gives: one to six chains of reasoning, each from "
        "something given to the answer, the same thing always under the same name.\n" + _LINES
    ),
    "filter": (
        "{goal}\n\nCandidate chains of reasoning:\n{chains}\n\nKeep only those that help to derive the answer and do not "
        "contradict it, at most ten, in their order and with their texts unchanged; leave out repetitions. Number them anew.\n"
        + _LINES
    ),
    "repair": (
        "These lines should be chains of reasoning and are not well formed ({fault}):\n{chains}\n\nRepair numbering, "
        "separators and white space only; change no node.\n" + _LINES
    ),
    "compose": (
        "{goal}\n\nChains of reasoning at hand:\n{chains}\n\nCompose up to six chains, better two than one, each from "
        "something that the question gives to the answer. Use the nodes and links at hand as far as they go; you may add one "
        "new node in all.\n" + _LINES
    ),
    "fill": (
        "{goal}\n\nChains of reasoning:\n{chains}\n\nWhere a chain leaps, insert one or two nodes that close the gap. Change "
        "no node that is there and leave complete chains as they are.\n" + _LINES
    ),
    "judge": (
        "{goal}\n\nChains of reasoning:\n{chains}\n\nJudge as an expert in the field: is each link sound, and do the chains "
        "lead to the answer? Reply with the one word PASS, or with FAIL and the reason in one sentence."
    ),
    "mend": (
        "{goal}\n\nChains of reasoning:\n{chains}\n\nAn expert found: {fault}\nRepair them with as few edits as possible; you "
        "may add one or two chains.\n" + _LINES
    ),
    "entities": (
        "Question: {question}\nAnswer: {gold}\n\nName the entities of the question and of its answer that stand in a knowledge "
        "graph. Write one a line as SIDE | TYPE | NAME and nothing else: SIDE is question or answer, TYPE is one of: {types}."
    ),
    "pick": (
        "Question: {question}\nAnswer: {gold}\n\nThe entity {entity} ({kind}) is to be found in a knowledge graph. Candidates:\n"
        "{candidates}\n\nWhich of them is it? Reply with its number, or with the word NONE."
    ),
    "relevant": (
        "Question: {question}\nAnswer: {gold}\n\nPaths of a knowledge graph:\n{paths}\n\nWhich of them help to derive the "
        "answer? Reply with the numbers of at most {most}, the most helpful first, such as 2, 1, or with the word NONE."
    ),
    "step": (
        "{goal}\n\nPlan:\n{plan}\n\nWhat the steps before this one found:\n{shown}\nWrite step {n}: {left} -> {right}. One "
        "short paragraph of facts and reasoning that leads to it from what stands before the arrow, and no further."
    ),
    "shown": "Step {n} ({title}): {text}\n",
    "clean": (
        "A step of a longer reasoning, {title}:\n{text}\n\nWrite it again as one short paragraph: without headings, lists, "
        "remarks on yourself or on the task, and with the same content."
    ),
    "deduplicate": (
        "Steps of one reasoning:\n{shown}\nSome may say again what an earlier one says. Write all of them again, each on a line "
        "of its own as `N: text`, with the same numbers, saying nothing twice and adding nothing."
    ),
    "missing": (
        "{question}\n\nSteps of a reasoning:\n{shown}\nWhich one thing that the question names and that matters for the answer "
        "do the steps not mention? Reply with the number of the step where it belongs, a colon and the thing, such as "
        "`2: fever`, or with the word none."
    ),
    "insert": (
        "A step of a longer reasoning, {title}:\n{text}\n\nAdd exactly one sentence to it that brings in: {missing}. Reply with "
        "the step as it then reads."
    ),
    "uses": (
        "{question}\n\nSteps of a solution:\n{shown}\nThe next step:\n{text}\n\nWhich of the numbered steps does it directly "
        "use? Reply with their numbers, such as 1, 3, or with the word none."
    ),
    "conclusion": (
        "{question}\n\nReasoning:\n{shown}\nAnswer the question from these steps alone. Reply with two lines:\n"
        "Explanation: how the answer follows from the last steps, by their names\nAnswer: \\boxed{the final answer}"
    ),
    "consistent": (
        "{goal}\n\nReasoning:\n{shown}\nConclusion:\n{explanation}\nAnswer: {answer}\n\nDoes the conclusion follow from these "
        "steps alone, and is its answer the right one? Reply with the one word PASS, or with FAIL and the reason in one sentence."
    ),
}
VALUES: Mapping[str, str] = {
    "question": "the question, with its options",
    "asked": "the last sentence of the question",
    "goal": "the question and, with show_answer, the gold",
    "plan": "the plan as text",
    "chains": "the chains, a numbered line each",
    "fault": "what is wrong with them",
    "facts": "the premises that a step rests on, itself or through others, as sentences",
    "shown": "the texts of the steps it depends on, each as the prompt `shown` has it; for the other prompts, of all steps",
    "n": "the number of the step",
    "place": "its place behind what is shown, from 1",
    "left": "the names before its arrow",
    "right": "the name behind it",
    "title": "both",
    "text": "its text",
    "missing": "what is to be brought in",
    "gold": "the gold in words: of a multiple choice the option itself",
    "types": "the types of nodes in the graph",
    "entity": "a name to be found in the graph",
    "kind": "its type",
    "candidates": "the nodes that come near it, a numbered line each",
    "paths": "the paths between two entities, a numbered line each, with what their edges say",
    "most": "how many paths are kept",
    "explanation": "the explanation of the conclusion",
    "answer": "its answer",
}
"""What stands for `{name}` in prompts, prefixes and `begins`."""

_ALWAYS = ("question", "asked", "goal")
_OF_A_STEP = ("n", "place", "left", "right", "title", "text")
PLACES: Mapping[str, tuple[str, ...]] = {
    "plan": _ALWAYS,
    **dict.fromkeys(("filter", "compose", "fill", "judge"), (*_ALWAYS, "chains")),
    **dict.fromkeys(("repair", "mend"), (*_ALWAYS, "chains", "fault")),
    "entities": (*_ALWAYS, "gold", "types"),
    "pick": (*_ALWAYS, "gold", "entity", "kind", "candidates"),
    "relevant": (*_ALWAYS, "gold", "paths", "most"),
    "shown": _OF_A_STEP,
    **dict.fromkeys(("step", "clean"), (*_ALWAYS, *_OF_A_STEP, "plan", "facts", "shown")),
    **dict.fromkeys(("deduplicate", "missing"), (*_ALWAYS, "shown")),
    "insert": (*_ALWAYS, *_OF_A_STEP, "missing"),
    "uses": (*_ALWAYS, "shown", "text", "n"),
    "conclusion": (*_ALWAYS, "shown", "place"),
    "consistent": (*_ALWAYS, "shown", "explanation", "answer"),
}
"""Which of these each call fills."""

_MEANT = re.compile(r"(?<!\w)\{(\w+)\}")  # not the braces of \boxed{x}


def check_prompts(prompts: Mapping[str, str], *, option: str) -> None:
    """Raise ValueError for names that no call has, and for places that it does not fill."""
    for name, template in prompts.items():
        if name not in PROMPTS:
            raise ValueError(f"{option}.{name}: no such call; known: {', '.join(PROMPTS)}")
        strays = [place for place in _MEANT.findall(template) if place not in PLACES[name]]
        if strays:
            raise ValueError(f"{option}.{name}: nothing fills {{{strays[0]}}}; known: {', '.join(PLACES[name])}")


def sentences(text: str) -> list[str]:
    """The sentences of a question: what ends in . ? or ! before white space."""
    return [part.strip() for part in re.split(r"(?<=[.?!])\s+", text) if part.strip()]
