"""Log-probs of given tokens: rows of about the same length are read together, a chunk of columns at a time."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracemill.schemas.request import TokenScores
from tracemill.synth.backends.hf.batch import STRIDE, logprobs_of, padded
from tracemill.synth.backends.hf.model import Loaded

CHUNK = 256
"""Columns of logits that are made at once: all of a long text's at a large vocabulary do not fit anywhere."""
NUMBERS = 1 << 27
"""Logits of one forward pass over all its rows: half a gigabyte."""


@dataclass(frozen=True)
class Given:
    """Tokens to score after a prompt."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    k: int
    """So many of the likeliest at each position."""

    @property
    def shape(self) -> tuple[int, int]:
        """Width in whole strides, and the stride where the scoring begins. Only rows of equal shape are read together."""
        width = -(-(len(self.prompt) + len(self.tokens)) // STRIDE) * STRIDE
        return width, (width - len(self.tokens) - 1) // STRIDE * STRIDE


def most_rows(loaded: Loaded) -> int:
    """How many rows one call of `scores` may take."""
    return max(1, min(loaded.batch, NUMBERS // (CHUNK * loaded.vocabulary)))


def scores(loaded: Loaded, rows: Sequence[Given]) -> list[TokenScores]:
    """The scores of rows of one shape, in order."""
    import torch
    from transformers import DynamicCache

    width, begin = rows[0].shape
    texts = [(*row.prompt, *row.tokens) for row in rows]
    ids, mask = padded(texts, width, [text[0] for text in texts], loaded)
    cache = DynamicCache()
    if begin:
        loaded.forward(ids[:, :begin], mask[:, :begin], cache)
    found: list[list[tuple[float, Any]]] = [[] for _ in rows]
    for left in range(begin, width, CHUNK):
        right = min(width, left + CHUNK)
        logits = loaded.forward(ids[:, left:right], mask[:, :right], cache, keep=right - left)
        for row, own, notes in zip(rows, logits, found, strict=True):
            start = width - len(row.tokens) - 1  # the column whose logits speak of the first token
            first, last = max(left, start), min(right, width - 1)
            if first < last:
                wanted = torch.tensor(row.tokens[first - start : last - start], device=own.device)
                notes.extend(logprobs_of(own[first - left : last - left], wanted, row.k))
    return [_token_scores(row, notes) for row, notes in zip(rows, found, strict=True)]


def _token_scores(row: Given, notes: Sequence[tuple[float, Any]]) -> TokenScores:
    return TokenScores(
        token_ids=array("i", row.tokens),
        logprobs=array("f", (logprob for logprob, _ in notes)),
        top=tuple(top for _, top in notes) if row.k else None,
    )
