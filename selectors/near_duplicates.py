"""Texts that share most of their word sequences: one of each is kept, and of every other it is said which one it repeats.

    MinHash finds who may be alike ──▶ their sets of word sequences are compared, exactly ──▶ greedy keep in a stated order

Broder 1997 (resemblance of sets of shingles) and MinHash with bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4). A row
is only ever removed because of a row that is kept, never because of one that was removed itself.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.rows import Selection
from tracemill.selectors.shares import place, ratio, require, verdict, written

REACH = "table"
NEEDS = ("id",)

Hashes = npt.NDArray[np.uint64]

PERMUTATIONS = 128
SEED = 1
RECALL = 0.99
"""Of pairs just at the threshold; pairs more alike are found more surely."""
_WORD = re.compile(r"\w+")
_BY, _SHARED, _EITHER = ("_near_by", "_near_shared", "_near_either")


def check(*, threshold: float, shingle: int, **_: Any) -> None:
    """Raise ValueError for options that cannot work."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold = {threshold}: a similarity above 0 and up to 1, such as 0.8")
    if shingle < 1:
        raise ValueError(f"shingle = {shingle}: so many words in a row, at least 1")
    if bands(threshold)[1] < RECALL:
        raise ValueError(
            f"threshold = {threshold}: {PERMUTATIONS} permutations find {bands(threshold)[1]:.0%} of such pairs; take a larger one"
        )


def near_duplicates(
    traces: pl.LazyFrame,
    *,
    engine: object = None,  # noqa: ARG001 - every selector has it; this one asks no model
    column: str = "question",
    threshold: float = 0.8,
    shingle: int = 5,
    order: tuple[str, ...] = ("id",),
    once: tuple[str, ...] = (),
) -> Selection:
    """Keep one of every group of rows whose `column` says nearly the same; the others are removed by the kept row most like them.

    Alike is a Jaccard similarity of at least `threshold` between the sets of `shingle` words in a row, in lower case; a shorter text is one
    sequence. `order` names columns by which rows are gone through, a `-` in front for the largest first, ties by id; who comes first is kept.
    Rows that are equal in the columns `once` are never compared: with `once = ["problem_id"]` the traces of a problem stay together.

    Similarities are exact. Who is compared at all is found by MinHash, which misses a pair at the threshold in at most 1 of 100 cases: table
    `near_duplicate_search` says the chance and how many were compared. A row without text is kept. The evidence names the kept row and what the
    two share. In memory are the texts, and some hundred bytes for each kept row in each band; its sequences lie in a file meanwhile.
    """
    check(threshold=threshold, shingle=shingle)
    schema = require("near_duplicates", traces, column, *once)
    if schema[column] != pl.String:
        raise RecipeError(f"near_duplicates: column {column!r} is {schema[column]}; name a column of text")
    placed = traces.select(
        "id",
        column,
        (pl.struct(once) if once else pl.lit(None)).alias("once"),
        place("near_duplicates", traces, order, 0).alias("place"),
    )
    with tempfile.TemporaryFile() as file:
        search = Search(threshold, shingle, file)
        found = list(search.removed(placed.sort("place").drop("place").collect(engine="streaming").iter_rows()))
    down = pl.DataFrame(
        found, orient="row", schema={"id": pl.String, _BY: pl.String, _SHARED: pl.Int64, _EITHER: pl.Int64}
    )
    rows = traces.join(down.lazy(), on="id", how="left", maintain_order="left")
    jaccard = ratio(pl.col(_SHARED), pl.col(_EITHER))
    reason = pl.when(pl.col(_BY).is_not_null()).then(pl.lit("near_duplicate"))
    shown = {"removed_by": pl.col(_BY), "jaccard": jaccard, "shared": pl.col(_SHARED), "of": pl.col(_EITHER)}
    rows = rows.with_columns(*verdict(reason, **shown, threshold=threshold))
    return Selection(rows=rows.drop(_BY, _SHARED, _EITHER), tables={"near_duplicate_search": search.facts().lazy()})


def bands(threshold: float) -> tuple[int, float]:
    """(bands of the signature, chance to find a pair at `threshold`): as few bands as give the chance RECALL."""
    found = 0, 0.0
    for count in (2**power for power in range(PERMUTATIONS.bit_length())):
        found = count, 1 - (1 - threshold ** (PERMUTATIONS // count)) ** count
        if found[1] >= RECALL:
            break
    return found


@dataclass(frozen=True, slots=True)
class Kept:
    """A row that is kept, and where its sequences lie in the file."""

    id: str
    start: int
    count: int
    once: Any


@dataclass(slots=True)
class Search:
    """The rows kept so far, and which later rows repeat one of them."""

    threshold: float
    shingle: int
    file: BinaryIO
    kept: list[Kept] = field(default_factory=list)
    compared: int = 0
    seen: int = 0
    _first: dict[bytes, int] = field(default_factory=dict)
    """The first kept row of each set of sequences: copies are found without a comparison."""

    def removed(self, rows: Iterable[tuple[str, str | None, Any]]) -> Iterator[tuple[str, str, int, int]]:
        """(id, id of the kept row, sequences that both have, sequences that either has) of each of `rows` that repeats an earlier one.

        `rows` are id, text and what is never compared with its like.
        """
        index = _index(self.threshold)
        for name, text, once in rows:
            self.seen += 1
            if text is None or not text.strip():
                continue
            hashes = sequences(text, self.shingle)
            digest = hashlib.sha256(hashes.tobytes()).digest()
            twin = self._first.get(digest)
            if twin is not None and not self._together(self.kept[twin], once):
                yield name, self.kept[twin].id, len(hashes), len(hashes)
                continue
            signature = _signature(hashes)
            if (best := self._most_alike(hashes, index.query(signature), once)) is not None:
                yield name, *best
                continue
            self._first.setdefault(digest, len(self.kept))
            index.insert(len(self.kept), signature)
            self._keep(name, hashes, once)

    def _most_alike(self, hashes: Hashes, candidates: Iterable[int], once: Any) -> tuple[str, int, int] | None:
        """The kept row with the largest similarity, the first of equals, if it reaches the threshold."""
        best: tuple[Fraction, Kept, int, int] | None = None
        least = written(self.threshold)
        for number in sorted(candidates):
            row = self.kept[number]
            if self._together(row, once) or not _could(row.count, len(hashes), least):
                continue
            self.compared += 1
            shared = len(np.intersect1d(self._hashes(row), hashes, assume_unique=True))
            either = row.count + len(hashes) - shared
            alike = Fraction(shared, either)
            if alike >= least and (best is None or alike > best[0]):
                best = alike, row, shared, either
        return (best[1].id, best[2], best[3]) if best else None

    @staticmethod
    def _together(row: Kept, once: Any) -> bool:
        return once is not None and row.once == once

    def _keep(self, name: str, hashes: Hashes, once: Any) -> None:
        start = self.kept[-1].start + self.kept[-1].count if self.kept else 0
        self.file.write(hashes.tobytes())
        self.kept.append(Kept(name, start, len(hashes), once))

    def _hashes(self, row: Kept) -> Hashes:
        self.file.flush()
        return np.frombuffer(os.pread(self.file.fileno(), 8 * row.count, 8 * row.start), np.uint64)

    def facts(self) -> pl.DataFrame:
        """One row: what was asked for, how surely it is found, and what that took."""
        count, chance = bands(self.threshold)
        facts = {"rows": self.seen, "kept": len(self.kept), "threshold": self.threshold, "shingle": self.shingle}
        facts |= {
            "permutations": PERMUTATIONS,
            "bands": count,
            "chance_at_threshold": chance,
            "compared": self.compared,
        }
        return pl.DataFrame([facts])


def sequences(text: str, shingle: int) -> Hashes:
    """64-bit hashes of every `shingle` words in a row, sorted, each once; of all words where there are fewer."""
    words = _WORD.findall(text.lower()) or [text.strip()]
    joined = {" ".join(words[i : i + shingle]) for i in range(max(1, len(words) - shingle + 1))}
    raw = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in joined)
    return np.unique(np.frombuffer(raw, np.uint64))


def _could(one: int, other: int, least: Fraction) -> bool:
    """Whether sets of these sizes can be so alike at all: the smaller one may lie inside the larger."""
    return Fraction(min(one, other), max(one, other)) >= least


def _signature(hashes: Hashes) -> Any:
    from rensa import RMinHash

    signature = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
    raw = hashes.tobytes()
    signature.update([raw[i : i + 8] for i in range(0, len(raw), 8)])
    return signature


def _index(threshold: float) -> Any:
    try:
        from rensa import RMinHashLSH
    except ImportError:
        raise RecipeError("near_duplicates needs rensa: pip install 'tracemill[dedup]'") from None
    return RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=bands(threshold)[0])
