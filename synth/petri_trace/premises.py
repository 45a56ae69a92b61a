"""What a plan begins with: places that hold a token from the start."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from tracemill.synth.petri_trace.chains import Chains, name
from tracemill.synth.petri_trace.net import Step
from tracemill.synth.petri_trace.plan import ancestors
from tracemill.synth.petri_trace.prompts import sentences

Premises = Literal["roots", "question", "sentences"]

QUESTION = "Question"
_LETTER = re.compile(r"[A-Z]")


def with_premises(chains: Chains, question: str, premises: Premises, *, longest: int) -> Chains:
    """Chains that begin with what they rest on; `roots` leaves them as they are: their first nodes are the premises.

    `question` puts one premise before every chain. `sentences` reads entities A, B, C ... as what the question's first, second,
    third ... sentence gives, and lets each of these sentences but the last, which asks, lead to its letter.
    """
    if premises == "question":
        return tuple((QUESTION, *chain) for chain in chains)
    if premises == "roots":
        return chains
    told = [name(sentence.rstrip(".!?"), longest=longest) for sentence in sentences(question)[:-1]]
    nodes = {node for chain in chains for node in chain if _LETTER.fullmatch(node)}
    lettered = {chr(ord("A") + number): sentence for number, sentence in enumerate(told[:26])}
    return (*((sentence, letter) for letter, sentence in lettered.items() if letter in nodes), *chains)


def facts(steps: Sequence[Step]) -> Mapping[int, str]:
    """By step, the premises that it rests on, itself or through others, in the order of their first use, as sentences."""
    made = {step.right for step in steps}
    order = {given: place for place, given in enumerate(dict.fromkeys(n for step in steps for n in step.left))}
    own = {step.n: {given for given in step.left if given not in made} for step in steps}
    found = {}
    for n, before in ancestors(steps).items():
        rests_on = own[n].union(*(own[dep] for dep in before))
        found[n] = " ".join(f"{given}." for given in sorted(rests_on, key=order.__getitem__))
    return found
