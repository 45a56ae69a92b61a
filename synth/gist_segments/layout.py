"""The row that a student is trained on: markers and their ids, where they stand, and how much is held at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Engine

SPLIT, GIST, CONTINUE = "<|splitter|>", "<|o_{}|>", "<|continue|>"
"""As the released code names them."""


def marker_names(n_gist: int) -> list[str]:
    """The tokens that a student needs: one that ends a thought, one for each gist slot, one that goes on."""
    return [SPLIT, *(GIST.format(i) for i in range(n_gist)), CONTINUE]


def marker_ids(engine: Engine, names: Sequence[str], given: Mapping[str, int] | None) -> dict[str, int]:
    """An id for each marker: the given one, or what adding the tokens to the tokenizer would give."""
    free = engine.vocabulary()
    if free is None:
        raise RecipeError(
            "gist_segments lays out token ids, and there is no tokenizer at hand: name one, model.tokenizer = '...'"
        )
    found: dict[str, int] = {}
    for name in names:
        own = engine.tokens_of(name) or ()
        known = own[0] if len(own) == 1 and engine.text_of(own) == name else None
        if given is not None and given[name] != known and given[name] < free:
            raise RecipeError(
                f"markers: {name} = {given[name]} is {engine.text_of([given[name]])!r} to the tokenizer; ids of added tokens begin at {free}"
            )
        fresh = free + sum(value >= free for value in found.values())
        found[name] = given[name] if given is not None else fresh if known is None else known
    return found


def layout(
    before: Sequence[int], thoughts: Sequence[Sequence[int]], answer: Sequence[int], markers: Mapping[str, int]
) -> dict[str, Any]:
    """The row's token ids, where its thoughts and gist tokens stand, and how many tokens are held at most."""
    split, *gist, go_on = markers.values()
    ids, spans = list(before), []
    for thought in thoughts:
        start, end = len(ids), len(ids) + len(thought)
        ids += [*thought, split, *gist, go_on]
        spans.append({"start": start, "end": end, "gist_start": end + 1, "gist_end": end + 1 + len(gist)})
    lengths = [len(thought) for thought in thoughts]
    return {
        "input_ids": [*ids, *answer],
        "prompt_len": len(before),
        "spans": spans,
        "peak_tokens": max(peaks(len(before), lengths, len(gist), len(answer))),
        "vanilla_peak": len(before) + sum(lengths) + len(answer),
    }


def peaks(prompt: int, thoughts: Sequence[int], n_gist: int, answer: int = 0) -> list[int]:
    """Tokens held when each thought has been compressed but is still there, and at the end of the answer."""
    held = [prompt + i * n_gist + length + n_gist for i, length in enumerate(thoughts)]
    return [*held, prompt + len(thoughts) * n_gist + answer]
