"""A judgement: what a model gives to each of a few one-word answers, read from the first token's log-probs.

top of the first position: ("1", -0.51), ("0", -1.20), (" 1", -4.6), ("The", -5.1)
answers ("1", "0")   ->   probabilities {"1": 0.61, "0": 0.30}
"""

import math
from collections.abc import Callable, Sequence

from tracemill.schemas.request import Completion
from tracemill.schemas.rows import Judgement


def judgement(completion: Completion, answers: Sequence[str], text_of: Callable[[int], str] | None) -> Judgement:
    """The probabilities of `answers` in the first token of a completion that was drawn with log-probs.

    Tokens count for an answer whatever white space is around them. `text_of` gives the text of a token id; without it, only the
    token that was drawn has a text.
    """
    returned = _returned(completion, text_of)
    probabilities = {
        answer: sum(p for text, p in returned if text.strip() == answer)
        for answer in answers
        if any(text.strip() == answer for text, _ in returned)
    }
    return Judgement(probabilities=probabilities, returned=returned)


def _returned(completion: Completion, text_of: Callable[[int], str] | None) -> tuple[tuple[str, float], ...]:
    """Text and probability of each token that came back at the first position, the likeliest first."""
    scores = completion.scores
    if scores is None or not scores.logprobs:
        return ()
    if text_of is None or not scores.top or not scores.top[0]:
        return ((completion.text, math.exp(scores.logprobs[0])),)
    return tuple((text_of(token), math.exp(logprob)) for token, logprob in scores.top[0])
