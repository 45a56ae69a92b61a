"""Texts as sequences of words that survive being copied: one way to cut them, for what is looked for and where it is looked for.

    "Tom's CAFÉ, $x^2$ 日本" ──prepared──▶ "tom's cafe, $x^2$  日  本 " ──▶ tom s cafe x 2 日 本

Compatibility forms are undone (NFKD), case and accents dropped, characters that nobody sees removed, letters that look like Latin ones
read as these, and characters of scripts without blanks are words of their own. Everything else that is no letter and no number parts words.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

Hashes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_ALIKE = dict(
    zip(
        "авсԁеһіјкӏмнорԛѕтухѵѡαβεικνορτυχγς",
        "abcdehijklmhopqstyxvwabeiknoptuxy\u03c3",
        strict=True,
    )
)
"""Small letters of Cyrillic and Greek that stand in for Latin ones, and the sigma at the end of a word. Our choice."""
_UNSEEN = r"[\p{M}\p{Cf}\p{Default_Ignorable_Code_Point}]"
_ALONE = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
_OTHER = r"[^\p{L}\p{N}\x00-\x7f]"
_WORD = re.compile("[a-z0-9\x80-\U0010ffff]+")

_IN_WORD = np.zeros(256, np.bool_)
_IN_WORD[[*b"abcdefghijklmnopqrstuvwxyz0123456789", *range(0x80, 0x100)]] = True
_CHUNK = 8
_HASHED_BYTES = 64
"""Of a word: a longer one is told by these and its length. A hash only ever says where to look."""
_MIX = tuple(np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53))
_ROLL = 0xD6E8FEB86659FD93


def common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """How many words the longest common subsequence of two texts has, given as their words; quadratic in time, linear in memory."""
    before = [0] * (len(right) + 1)
    for word in left:
        line = [0]
        for place, other in enumerate(right):
            line.append(before[place] + 1 if word == other else max(before[place + 1], line[place]))
        before = line
    return before[-1]


def prepared(texts: pl.Series) -> pl.Series:
    """Each text in the form whose runs of `a-z`, `0-9` and characters beyond ASCII are its words; null stays null."""
    lower = texts.str.to_lowercase()
    wide = texts.str.len_bytes() != texts.str.len_chars()
    if not wide.any():
        return lower
    folded = (
        texts.filter(wide)
        .str.normalize("NFKD")
        .str.to_lowercase()
        .str.replace_all(_UNSEEN, "")
        .str.replace_many(_ALIKE)
        .str.replace_all(_ALONE, " $1 ")
        .str.replace_all(_OTHER, " ")
    )
    return lower.scatter(wide.fill_null(value=False).arg_true(), folded)


def words(text: str) -> list[str]:
    """The words of a prepared text."""
    return _WORD.findall(text)


def places(text: str, ready: str) -> list[tuple[int, int]] | None:
    """Where in `text` each word of it begins and ends, in characters; `ready` is the text as `prepared`.

    None where a text cannot be prepared a character at a time, which no text is known for.
    """
    found = [match.span() for match in _WORD.finditer(ready)]
    if len(ready) == len(text) and text.isascii():
        return found
    pieces = prepared(pl.Series(list(text), dtype=pl.String)).to_list()
    if "".join(pieces) != ready:
        return None
    owner = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    return [(int(owner[start]), int(owner[end - 1]) + 1) for start, end in found]


@dataclass(frozen=True, slots=True)
class WordHashes:
    """The words of several texts, one behind the other."""

    hashes: Hashes
    ends: Ints
    """For each text, how many words there are up to its end."""

    @property
    def counts(self) -> Ints:
        return np.diff(self.ends, prepend=0)


def word_hashes(ready: pl.Series) -> WordHashes:
    """A 64-bit hash of every word of prepared texts, none null: the same in every process and on every machine."""
    array: Any = ready.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    size = int(bounds[-1] - bounds[0])
    raw = np.zeros(size + _CHUNK + _HASHED_BYTES, np.uint8)
    if size:
        raw[:size] = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]
    bounds = bounds - bounds[0]
    starts, ends = _runs(raw[:size], bounds)
    lengths = ends - starts
    return WordHashes(_hashed(raw, starts, lengths), np.searchsorted(starts, bounds[1:], side="left"))


def _runs(raw: npt.NDArray[np.uint8], bounds: Ints) -> tuple[Ints, Ints]:
    """Where words begin and end; none goes on from one text into the next."""
    inside = _IN_WORD[raw]
    edge = np.zeros(len(raw) + 1, np.bool_)
    edge[bounds] = True
    before, after = np.zeros(len(raw), np.bool_), np.zeros(len(raw), np.bool_)
    before[1:], after[:-1] = inside[:-1], inside[1:]
    starts = np.flatnonzero(inside & (~before | edge[:-1]))
    ends = np.flatnonzero(inside & (~after | edge[1:])) + 1
    return starts, ends


def _hashed(raw: npt.NDArray[np.uint8], starts: Ints, lengths: Ints) -> Hashes:
    eight = np.lib.stride_tricks.as_strided(
        raw[:_CHUNK].view(np.uint64), shape=(len(raw) - _CHUNK + 1,), strides=(1,), writeable=False
    )
    masks = np.array([(1 << 8 * n) - 1 for n in range(_CHUNK)] + [(1 << 64) - 1], np.uint64)
    hashes = _mixed(lengths.astype(np.uint64) * _MIX[0])
    rest = np.arange(len(starts))
    for done in range(0, _HASHED_BYTES, _CHUNK):
        left = lengths[rest] - done
        chunk = eight[starts[rest] + done] & masks[np.minimum(left, _CHUNK)]
        hashes[rest] = _mixed(hashes[rest] ^ chunk)
        rest = rest[left > _CHUNK]
        if not len(rest):
            break
    return hashes


def _mixed(hashes: Hashes) -> Hashes:
    """The finalizer of MurmurHash3: every bit depends on every other."""
    hashes = (hashes ^ (hashes >> np.uint64(33))) * _MIX[1]
    hashes = (hashes ^ (hashes >> np.uint64(33))) * _MIX[2]
    return np.asarray(hashes ^ (hashes >> np.uint64(33)))


class Rolled:
    """Hashes of all sequences of words of given lengths, made from those of half the length."""

    def __init__(self, hashes: Hashes) -> None:
        self._known = {1: hashes}

    def of(self, size: int) -> Hashes:
        """The hash of the `size` words from each word on; the last words begin none."""
        if size not in self._known:
            first = 1 << (size - 1).bit_length() - 1
            left, right = self.of(first), self.of(size - first)
            count = max(0, len(self._known[1]) - size + 1)
            factor = np.uint64(pow(_ROLL, size - first, 1 << 64))
            self._known[size] = left[:count] * factor + right[first : first + count]
        return self._known[size]
