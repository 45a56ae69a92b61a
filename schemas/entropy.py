"""How unsure a model was at each token, from the likeliest tokens that came back with it (`TokenScores.top`). Natural logarithms.

    probabilities 0.5, 0.25 came back   ->   0.75 covered, entropy at least 1.0397

What did not come back is known by its sum alone. No token of it is likelier than the last that came back, and the least entropy that
allows is the one of few large pieces: as many of that size as go into the rest, and what remains. That is the lower bound. The upper
one spreads the rest over the whole vocabulary, where its size is known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tracemill.schemas.request import TokenScores


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """What is known of the distribution over the next token at one position."""

    covered: float
    """The probability of the tokens that came back, together."""
    at_least: float
    """A lower bound of the entropy in nats, which the true one reaches where everything came back."""
    at_most: float | None
    """An upper bound, where the size of the vocabulary is known."""


def uncertainties(scores: TokenScores, vocabulary: int | None = None) -> list[Uncertainty]:
    """One for each token that was scored; ValueError where the scores came without the likeliest tokens."""
    if scores.top is None:
        raise ValueError("the scores hold no likeliest tokens: ask for them with logprobs = 1 to 20, or top = 1 to 20")
    return [uncertainty([logprob for _, logprob in best], vocabulary) for best in scores.top]


def uncertainty(logprobs: Sequence[float], vocabulary: int | None = None) -> Uncertainty:
    """From the log-probs of the likeliest tokens, in any order; ValueError where there are none, or more than the vocabulary has."""
    known = [math.exp(logprob) for logprob in logprobs]
    if not known or (vocabulary is not None and len(known) > vocabulary):
        raise ValueError(f"{len(known)} likeliest tokens of a vocabulary of {vocabulary}")
    covered = math.fsum(known)
    rest = max(0.0, 1.0 - covered)
    own = math.fsum(map(_part, known))
    unseen = None if vocabulary is None else vocabulary - len(known)
    most = None if unseen is None else own + (_part(rest / unseen) * unseen if unseen else 0.0)
    return Uncertainty(min(covered, 1.0), own + _least(rest, min(known)), most)


def _least(rest: float, largest: float) -> float:
    """The least that `rest` adds to the entropy in pieces of at most `largest`: -p ln p is concave, so few pieces are best."""
    if largest <= 0 or rest <= 0:
        return 0.0
    pieces = math.floor(rest / largest)
    return pieces * _part(largest) + _part(rest - pieces * largest)


def _part(p: float) -> float:
    return -p * math.log(p) if p > 0 else 0.0
