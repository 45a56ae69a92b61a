"""From a drawn reply to its thoughts and its answer, in the token ids that the model drew."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from tracemill.schemas.errors import ProblemFailed
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion
from tracemill.schemas.steps import split_steps
from tracemill.synth.closing import Token, cut, ids_of, spelled, text_of
from tracemill.synth.modes import CLOSE, OPEN

# not stated in the paper; our defaults: tokens that a thought has at least, and that sentences are put together to
SHORTEST, GROUP = 3, 60
_SENTENCE = re.compile(r"(?<=[.!?。！？\n])\s+|(?<=[。！？])")  # noqa: RUF001 - full-width ones end sentences too


def segments(
    engine: Engine, completion: Completion, granularity: str, step: int
) -> tuple[tuple[int, ...], list[tuple[int, ...]], tuple[int, ...]]:
    """(what opens the thought, its segments, the answer behind it), in token ids as they were drawn; no segments without a closed thought."""
    text, tokens = completion.text, spelled(engine, completion)
    end = text.find(CLOSE)
    if end < 0:
        return (), [], _ids(engine, tokens)
    begin = re.match(rf"\s*(?:{re.escape(OPEN)}\s*)?", text)
    start = min(begin.end() if begin else 0, end)
    starts = [start, *_starts(engine, text[start:end], start)] if granularity == "thought" else [start]
    head, *parts, answer = (_ids(engine, part) for part in parted(tokens, [*starts, end]))
    stop = (
        tuple(completion.token_ids or ())[sum(len(ids) for _, ids in tokens) :] if all(ids for _, ids in tokens) else ()
    )
    if granularity == "token":
        [thought] = parts
        return head, [thought[at : at + step] for at in range(0, len(thought), step)], (*answer, *stop)
    return head, joined([part for part in parts if part]), (*answer, *stop)


def _starts(engine: Engine, thought: str, offset: int) -> list[int]:
    """Where all thoughts but the first begin, in characters; without a blank line, groups of sentences."""
    starts, at = [], 0
    for one in split_steps(thought):
        at = thought.index(one, at)
        starts.append(offset + at)
        at += len(one)
    if len(starts) > 1:
        return starts[1:]
    groups, first = [], 0
    for sentence in _SENTENCE.finditer(thought):
        if engine.count_tokens(thought[first : sentence.start()]) >= GROUP:
            groups.append(
                offset + sentence.start()
            )  # a space belongs to the word behind it, as most tokenizers have it
            first = sentence.start()
    return [group for group in groups if group < offset + len(thought.rstrip())]


def parted(tokens: Sequence[Token], starts: Sequence[int]) -> list[list[Token]]:
    """The tokens before the first of `starts`, and from each of them on; a token belongs where it begins, text without ids is cut there."""
    parts: list[list[Token]] = [[] for _ in range(len(starts) + 1)]
    at = 0
    for token in tokens:
        end = at + len(token[0])
        if token[1]:
            parts[bisect_right(starts, at)].append(token)
        else:
            edges = [at, *(edge for edge in starts if at < edge < end), end]
            for low, high in pairwise(edges):
                parts[bisect_right(starts, low)] += cut([token], low - at, high - at)
        at = end
    return parts


def _ids(engine: Engine, tokens: Sequence[Token]) -> tuple[int, ...]:
    found = ids_of(engine, tokens)
    if found is None:
        raise ProblemFailed(f"there are no token ids for {text_of(tokens)[:40]!r}: name a tokenizer")
    return found


def joined(parts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Thoughts of which none has fewer than three tokens: such a one joins the one before it, the first the one behind it."""
    found: list[tuple[int, ...]] = []
    for part in parts:
        if found and (len(part) < SHORTEST or len(found[-1]) < SHORTEST):
            found[-1] += part
        else:
            found.append(part)
    return found
