"""What the lengths of one question's chains say: ranks, order, and beta.

CoT-Valve, section 3.3: beta_j = 1 - (m_j - m_min) / (m_max - m_min), with m_j tokens in chain j and both extremes taken within the
question. Lengths 116, 280, 311, 387, 497 have betas 1, 0.5696, 0.4882, 0.2887, 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tracemill.schemas.request import Completion
from tracemill.schemas.rows import Verdict


@dataclass(frozen=True, slots=True)
class Chain:
    """One answer to a question, at its place in the order of alpha; index 0 is the reference."""

    index: int
    completion: Completion
    verdict: Verdict
    scale: str | None
    """Canonical text of alpha; None for the reference."""

    @property
    def name(self) -> str:
        return "solution-0" if self.scale is None else f"alpha-{self.scale}"

    @property
    def right(self) -> bool:
        return self.verdict.status == "equal"

    @property
    def fault(self) -> str:
        """The reason code of a chain that is not right."""
        if self.completion.truncated:
            return "truncated"
        return "undecided" if self.verdict.status == "undecided" else "wrong"

    @property
    def evidence(self) -> dict[str, Any]:
        return {"answer": self.verdict.answer, "verdict": self.verdict.status, "why": self.verdict.reason}


def measures(chains: Sequence[Chain], direction: str, *, include_index0: bool) -> dict[int, dict[str, Any]]:
    """By index: length_rank, length_monotone, beta, dup_of (the name of the first chain with the same text).

    A reference whose tokens are not counted as those of the other chains are (the server's against words) is compared with none.
    """
    counters = {chain.completion.counted for chain in chains if chain.index > 0}
    alike = [chain for chain in chains if chain.index > 0 or counters <= {chain.completion.counted}]
    tokens = {chain.index: chain.completion.n_tokens for chain in alike}
    ranks = {length: rank for rank, length in enumerate(sorted(set(tokens.values())), start=1)}
    monotone = is_monotone(tokens, direction)
    betas = betas_of({c.index: tokens[c.index] for c in alike if c.right and (c.index > 0 or include_index0)})
    first: dict[str, str] = {}
    return {
        chain.index: {
            "length_rank": ranks[tokens[chain.index]] if chain.index in tokens else None,
            "length_monotone": monotone,
            "beta": betas.get(chain.index),
            "dup_of": None if (same := first.setdefault(chain.completion.text, chain.name)) == chain.name else same,
        }
        for chain in chains
    }


def betas_of(tokens: Mapping[int, int]) -> dict[int, float | None]:
    """Beta by index, for the lengths of a question's right chains; None where all lengths are one, for 0 / 0 says nothing."""
    shortest, longest = min(tokens.values(), default=0), max(tokens.values(), default=0)
    if shortest == longest:
        return dict.fromkeys(tokens)
    return {index: 1 - (length - shortest) / (longest - shortest) for index, length in tokens.items()}


def is_monotone(tokens: Mapping[int, int], direction: str) -> bool:
    """Whether lengths follow the order of alpha: never shorter with `short_to_long`, never longer with `long_to_short`.

    The reference is shorter than all that is drawn, so it stands in the order only where lengths grow with the index.
    """
    grows = direction == "short_to_long"
    ordered = [length for index, length in sorted(tokens.items()) if index > 0 or grows]
    return all(a <= b if grows else a >= b for a, b in pairwise(ordered))


def acu(accuracy_percent: float, params_billions: float, tokens: float) -> float:
    """Accuracy per computation unit, CoT-Valve section 4.1: 95.1 % with 32 billion parameters and 741.1 tokens is 0.401."""
    return 100 * accuracy_percent / (params_billions * tokens)
