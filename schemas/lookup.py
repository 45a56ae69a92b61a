"""Sequences of words by their hashes: a table of bits that most hashes fail at, the sorted hashes, and who holds each."""

import numpy as np

from tracemill.schemas.words import Hashes, Ints

_SLOTS_PER_KEY = 16


class Lookup:
    """Which items hold a sequence of words, by its hash; sequences are numbered from `base`."""

    def __init__(self, size: int, base: int, hashes: Hashes, items: Ints) -> None:
        self.size, self.base = size, base
        order = np.lexsort((items, hashes))
        hashes, items = hashes[order], items[order]
        again = (hashes[1:] == hashes[:-1]) & (items[1:] == items[:-1])
        fresh = np.concatenate([np.ones(min(1, len(hashes)), np.bool_), ~again])
        self.items = items[fresh]
        self.keys, starts = np.unique(hashes[fresh], return_index=True)
        self.starts = np.append(starts, len(self.items))
        bits = max(10, (_SLOTS_PER_KEY * max(1, len(self.keys))).bit_length())
        self._shift = np.uint64(64 - bits)
        self._slots = np.zeros(1 << bits, np.bool_)
        self._slots[self.keys >> self._shift] = True

    def find(self, hashes: Hashes) -> tuple[Ints, Ints]:
        """Places in `hashes` that hold a sequence, and its number there."""
        at = np.flatnonzero(self._slots[hashes >> self._shift])
        number = np.searchsorted(self.keys, hashes[at])
        number[number == len(self.keys)] = 0
        same = self.keys[number] == hashes[at] if len(self.keys) else np.zeros(0, np.bool_)
        return at[same], number[same]

    def holders(self, numbers: Ints) -> tuple[Ints, Ints]:
        """For each of `numbers` every item that holds it: the places in `numbers`, and the items."""
        counts = self.starts[numbers + 1] - self.starts[numbers]
        owner = np.repeat(np.arange(len(numbers)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        return owner, self.items[self.starts[numbers][owner] + within]
