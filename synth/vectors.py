"""Vectors by content, kept on disk: what was embedded once is never embedded again.

    <folder>/<time>-<random>.npy     rows of (key: 16 bytes, tokens, covered, vector: d x float32), written whole or not there

Keys are hashes of texts; the folder belongs to one encoder. Any number of processes may read it and add to it. Where two of them
embedded one text, the older file counts, so whoever has read a vector reads the same one again.
"""

import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.mapped import room
from tracemill.schemas.plugins import Embedded

KEY = "S16"
"""The type of a key: its first 16 bytes; numpy sorts and compares them as bytes."""
PIECE = 1 << 15

Keys = npt.NDArray[np.bytes_]


class VectorFolder:
    """The vectors of one encoder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._files: list[npt.NDArray[Any]] = []
        self._seen: set[str] = set()
        self._keys: Keys = np.empty(0, KEY)
        self._places: npt.NDArray[np.int64] = np.empty((0, 2), np.int64)
        self.refresh()

    def refresh(self) -> None:
        """Read the keys of files that other processes have added."""
        keys, places = [self._keys], [self._places]
        for file in sorted(file for file in self.folder.glob("*.npy") if file.name not in self._seen):
            rows = _opened(file)
            keys.append(rows["key"])
            places.append(np.stack([np.full(len(rows), len(self._files)), np.arange(len(rows))], axis=1))
            self._files.append(rows)
            self._seen.add(file.name)
        if len(keys) > 1:
            found, first = np.unique(np.concatenate(keys), return_index=True)  # of equal keys the older file's
            self._keys, self._places = found, np.concatenate(places)[first]

    def missing(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """Which of `keys` [n] have no vector here."""
        if not len(self._keys):
            return np.ones(len(keys), np.bool_)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.asarray(self._keys[at] != keys)

    def add(self, keys: Keys, tokens: Sequence[int], covered: Sequence[int], vectors: npt.NDArray[np.float32]) -> None:
        """Keep `vectors` [n, d]: on disk when this returns."""
        rows = np.empty(len(keys), _row(vectors.shape[1]))
        rows["key"], rows["tokens"], rows["covered"], rows["vector"] = keys, tokens, covered, vectors
        name = f"{time.time_ns():020}-{secrets.token_hex(4)}"
        draft = self.folder / f".{name}"
        with draft.open("wb") as file:
            np.save(file, rows, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.folder / f"{name}.npy")
        self.refresh()

    def gather(self, keys: Keys) -> Embedded:
        """The vectors of `keys`, none of which is missing, in their order."""
        size = self._files[0].dtype["vector"].shape[0] if self._files else 0
        places = self._places[np.searchsorted(self._keys, keys)] if len(keys) else np.empty((0, 2), np.int64)
        vectors = room(len(keys), size, self.folder)
        tokens, covered = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        for number in np.unique(places[:, 0]):
            rows, wanted = self._files[number], np.flatnonzero(places[:, 0] == number)
            for start in range(0, len(wanted), PIECE):
                to = wanted[start : start + PIECE]
                found = rows[places[to, 1]]
                vectors[to], tokens[to], covered[to] = found["vector"], found["tokens"], found["covered"]
        return Embedded(vectors, tokens, covered)


def _row(size: int) -> np.dtype[Any]:
    return np.dtype([("key", KEY), ("tokens", "<i8"), ("covered", "<i8"), ("vector", "<f4", (size,))])


def _opened(file: Path) -> npt.NDArray[Any]:
    try:
        rows: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecipeError(
            f"{file} holds vectors and cannot be read ({error}); delete it: they are computed again"
        ) from error
    return rows
