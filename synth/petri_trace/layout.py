"""What a trace carries so that a trainer can see its structure: spans, ancestors, frontiers, chunks and positions.

A trace is one text: a prefix (prompt, plan and whatever else stands before the first step), the steps, and what follows them.
The text that separates two steps belongs to the first of them, so the parts leave nothing out and share nothing.

    steps 1 [], 2 [1], 3 [1], 4 [1], 5 [2, 3, 4] of 4, 3, 5, 2, 4 tokens behind a prefix of 10:
    tokens 10-13, 14-16, 17-21, 22-23, 24-27; positions from 10, 14, 14, 14, 19; what follows goes on at 23

Spans are stored, not matrices: `attention.py` makes masks and positions of them. Two schemes say which steps see each other and
where their positions begin. `exact`: a step sees its ancestors, and begins where the last of those it depends on ends (what
MedVerse, arXiv:2602.07529, sets out to do). `chunk`: steps are read in order, a new chunk begins where a step depends on one of
the current chunk, and a step sees all earlier chunks and no member of its own (its released training code; there the shift
behind a chunk is counted again at every later one, so that from the third chunk on positions collide: not here).
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal, Protocol

import pyarrow as pa

from tracemill.synth.petri_trace.net import Step

Scheme = Literal["exact", "chunk"]

_NUMBERS = pa.list_(pa.int64())


def _by_step(value: pa.DataType) -> pa.DataType:
    """A map from a step's number, in the form that every reader knows."""
    return pa.list_(pa.struct([("key", pa.int64()), ("value", value)]))


_SPAN = pa.struct(
    [
        ("n", pa.int64()),
        ("deps", _NUMBERS),
        ("char_start", pa.int64()),  # in the text of the assistant's turn
        ("char_end", pa.int64()),
        ("tok_start", pa.int64()),  # in the whole conversation as the model is shown it
        ("tok_end", pa.int64()),
    ]
)
COLUMNS: Mapping[str, Any] = {
    "spans": pa.list_(_SPAN),
    "frontiers": pa.list_(_NUMBERS),
    "ancestors": _by_step(_NUMBERS),
    "chunk": _by_step(pa.int64()),
    "level": _by_step(pa.int64()),
    "prompt_end": int,
    "prefix_end": int,
    "post_start": int,
    "seq_len": int,
    "pos_start": _by_step(pa.int64()),
    "pos_start_chunk": _by_step(pa.int64()),
    "post_pos": int,
    "post_pos_chunk": int,
}
"""Columns of a laid-out trace. Ends are exclusive. From `prompt_end` on they count tokens, and are null without a tokenizer."""


class Numbered(Protocol):
    """What a layout asks of a step."""

    @property
    def n(self) -> int: ...
    @property
    def deps(self) -> Sequence[int]: ...


def of(
    steps: Sequence[Numbered],
    prefix: str,
    blocks: Sequence[str],
    *,
    starts: Sequence[int] | None,
) -> dict[str, Any]:
    """The columns of the trace whose text is `prefix`, then `blocks`, one a step and in their order, then whatever follows.

    A block is all that belongs to its step: tags, and the separator behind it. `starts` says where each token begins, counted
    in characters of that text and negative for those of the prompt: `engine.token_starts(text, prompt)`. A token belongs to
    the part in which it begins. None: no tokenizer is at hand, and what counts tokens is None.

    Raises ValueError for steps that share a number or depend on one that does not stand before them.
    """
    if len(blocks) != len(steps):
        raise ValueError(f"{len(steps)} steps with {len(blocks)} blocks of text; a layout needs one for each")
    edges = list(accumulate(map(len, blocks), initial=len(prefix)))
    spans = [
        {"n": step.n, "deps": sorted(set(step.deps)), "char_start": begin, "char_end": end}
        for step, begin, end in zip(steps, edges, edges[1:], strict=False)
    ]
    return over(spans, starts)


def over(spans: Sequence[Mapping[str, Any]], starts: Sequence[int] | None) -> dict[str, Any]:
    """The columns of steps at known characters, for the tokens of any tokenizer: `of` for a row that exists.

    `spans` is that column of a row: n, deps, char_start and char_end of each step in the order of the text. A trainer whose
    tokenizer is another one than the row's (special tokens were added, say) gets the row's structure in its own tokens.
    """
    deps = _checked(spans)
    levels = levels_of(deps)
    columns: dict[str, Any] = {
        "frontiers": _frontiers(levels),
        "ancestors": _pairs(ancestors_of(deps)),
        "chunk": _pairs(chunks_of(deps)),
        "level": _pairs(levels),
    }
    if starts is None:
        uncounted = [{**span, "tok_start": None, "tok_end": None} for span in spans]
        return {**dict.fromkeys(COLUMNS), "spans": uncounted, **columns}
    begins = list(starts)
    if begins != sorted(begins):  # some tokenizers give a special token the offset 0, wherever it stands
        begins = list(accumulate(begins, max))
    edges = [bisect_left(begins, span["char_start"]) for span in spans]
    edges.append(bisect_left(begins, spans[-1]["char_end"]) if spans else len(begins))
    counted = [
        {**span, "tok_start": begin, "tok_end": end} for span, begin, end in zip(spans, edges, edges[1:], strict=False)
    ]
    return {
        "spans": counted,
        **columns,
        "prompt_end": bisect_left(begins, 0),
        "prefix_end": edges[0],
        "post_start": edges[-1],
        "seq_len": len(begins),
        **_positions(edges[0], {span["n"]: span["tok_end"] - span["tok_start"] for span in counted}, deps),
    }


def _positions(prefix_end: int, lengths: Mapping[int, int], deps: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    exact, post = exact_positions(prefix_end, lengths, deps)
    chunked, post_chunk = chunk_positions(prefix_end, lengths, deps)
    return {
        "pos_start": _pairs(exact),
        "pos_start_chunk": _pairs(chunked),
        "post_pos": post,
        "post_pos_chunk": post_chunk,
    }


def _checked(spans: Sequence[Mapping[str, Any]]) -> dict[int, list[int]]:
    """Dependencies by number, in the order of the text."""
    deps: dict[int, list[int]] = {}
    for span in spans:
        n = span["n"]
        if n in deps:
            raise ValueError(f"two steps have the number {n}")
        if missing := [dep for dep in span["deps"] if dep not in deps]:
            raise ValueError(f"step {n} depends on {missing}, which do not stand before it; before it: {list(deps)}")
        deps[n] = list(span["deps"])
    return deps


def levels_of(deps: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """By step the frontier in which it fires, from 1: one more than the last of those it depends on."""
    levels: dict[int, int] = {}
    for n, before in deps.items():
        levels[n] = 1 + max((levels[dep] for dep in before), default=0)
    return levels


def _frontiers(levels: Mapping[int, int]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(max(levels.values(), default=0))]
    for n, level in sorted(levels.items()):
        found[level - 1].append(n)
    return found


def ancestors_of(deps: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
    """By step all that it rests on, directly or not, ascending."""
    numbers = sorted(deps)
    bit = {n: 1 << place for place, n in enumerate(numbers)}
    known: dict[int, int] = {}  # a set as the bits of one number: 2,000 steps in a row take milliseconds
    for n, before in deps.items():
        known[n] = 0
        for dep in before:
            known[n] |= known[dep] | bit[dep]
    return {n: [numbers[place] for place in _bits(found)] for n, found in known.items()}


def _bits(found: int) -> list[int]:
    return [place for place, digit in enumerate(reversed(f"{found:b}")) if digit == "1"]


def chunks_of(deps: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """By step the chunk it is in, from 1, the steps read in the order of the text."""
    chunks: dict[int, int] = {}
    current = 1
    for n, before in deps.items():
        current += any(chunks[dep] == current for dep in before)
        chunks[n] = current
    return chunks


def exact_positions(
    prefix_end: int, lengths: Mapping[int, int], deps: Mapping[int, Sequence[int]]
) -> tuple[dict[int, int], int]:
    """By step the position of its first token, and that of the first token behind all steps."""
    begin: dict[int, int] = {}
    for n, before in deps.items():
        begin[n] = max((begin[dep] + lengths[dep] for dep in before), default=prefix_end)
    return begin, max((begin[n] + lengths[n] for n in begin), default=prefix_end)


def chunk_positions(
    prefix_end: int, lengths: Mapping[int, int], deps: Mapping[int, Sequence[int]]
) -> tuple[dict[int, int], int]:
    """The same with all members of a chunk side by side, and the next chunk behind the longest of them."""
    chunks = chunks_of(deps)
    longest: dict[int, int] = {}
    for n, chunk in chunks.items():
        longest[chunk] = max(longest.get(chunk, 0), lengths[n])
    bases = list(accumulate(longest.values(), initial=prefix_end))
    return {n: bases[chunk - 1] for n, chunk in chunks.items()}, bases[-1]


def _pairs(found: Mapping[int, Any]) -> list[dict[str, Any]]:
    return [{"key": n, "value": value} for n, value in sorted(found.items())]


def by_step(pairs: Iterable[Mapping[str, Any]]) -> dict[int, Any]:
    """A column of pairs as a dict by step."""
    return {pair["key"]: pair["value"] for pair in pairs}


def steps_of(row: Mapping[str, Any]) -> list[Step]:
    """The steps of a row, as its column `steps` holds them; ValueError where it has none."""
    if not row.get("steps"):
        raise ValueError(
            f"{row.get('id', 'the row')} has no column 'steps'; give a row of a dataset that petri_trace made"
        )
    return [
        Step(
            step["n"],
            tuple(step["left"]),
            step["right"],
            tuple(step["deps"]),
            step.get("text") or "",
            step.get("n_tokens") or 0,
        )
        for step in row["steps"]
    ]
