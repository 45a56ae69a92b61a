"""Which of a few texts, the items of benchmarks, stand in many others: by long sequences of words, and by many short ones close together.

    texts ──hashes of word sequences──▶ candidates: (text, item) ──the words themselves──▶ hits: score, place, span

Two nets. `ngram`: sequences of 13 words (Brown et al. 2020, arXiv:2005.14165, appendix C), of 8 for items of fewer than 26 words, and the
whole item where it has fewer than 8. `near`: the share of an item's sequences of 3 words that stand in a window of twice its length, which
outlasts other names, other numbers and another order of sentences.

Both find all there is. A hash only says where to look, and the words decide; a near copy that reaches the floor shares more sequences with
an item than that has outside its index, so some that are in the index (prefix filter; Bayardo, Ma, Srikant 2007, section 3).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from tracemill.schemas.lookup import Lookup
from tracemill.schemas.words import Hashes, Ints, Rolled, places, prepared, word_hashes, words

NGRAM, SHORT_NGRAM = 13, 8
COMMON = 10
"""An n-gram in more texts than this means nothing (arXiv:2005.14165, appendix C: 10 documents)."""
NGRAM_SHARE, NGRAM_FLOOR = 0.2, 0.1
NEAR, NEAR_FLOOR = 0.5, 0.4
SHINGLE = 3
WINDOW = 2
"""Words of a near copy, for each word of the item."""
ALONE = 4
"""An item of fewer words is found only where it is all that a text says."""
LEAST_NEAR = 10
"""Items of fewer words have no near copies: four sequences of three words that agree mean nothing."""
SHOWN_CHARACTERS = 200
PIECE_BYTES = 1 << 21
"""Of text that is looked at at a time: its arrays stay in the cache."""

FOUND = pl.Struct({"words": pl.UInt32, "grams": pl.List(pl.UInt32), "near": pl.List(pl.UInt32)})
HIT: dict[str, Any] = {
    "item": pl.UInt32,
    "net": pl.String,
    "score": pl.Float64,
    "found": pl.UInt32,
    "of": pl.UInt32,
    "start": pl.UInt32,
    "end": pl.UInt32,
    "span": pl.String,
    "same_numbers": pl.Boolean,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is looked for. Shares are those of an item's word sequences, from 0 (any) to 1."""

    ngram: int = NGRAM
    short_ngram: int = SHORT_NGRAM
    common: int = COMMON
    near_floor: float | None = NEAR_FLOOR
    """The least share of a near copy that is looked for; None: no such net."""


def check_rules(*, ngram: int, short_ngram: int, common: int) -> None:
    """Raise ValueError for lengths that cannot work."""
    if not ALONE <= short_ngram <= ngram:
        raise ValueError(
            f"ngram = {ngram} and short_ngram = {short_ngram}: words in a row, the short ones from {ALONE} up to ngram"
        )
    if common < 1:
        raise ValueError(f"common = {common}: at least 1; n-grams in more texts than this count for nothing")


def check_share(option: str, share: float, floor: float | None = None, *, least: float = 0.0) -> None:
    """Raise ValueError for a threshold outside of what can be found, or a floor above it."""
    if not least <= share <= 1:
        raise ValueError(f"{option} = {share}: a share from {least:g} to 1")
    if floor is not None and not least <= floor <= share:
        below = f"{option.removesuffix('_share')}_floor"
        raise ValueError(
            f"{below} = {floor}: from {least:g} up to {option} = {share}; what is between is only reported"
        )


class Index:
    """The items, ready to be looked for."""

    def __init__(self, texts: Sequence[str], groups: Sequence[str], rules: Rules) -> None:
        self.rules = rules
        ready = prepared(pl.Series(texts, dtype=pl.String))
        self.words = [words(text) for text in ready]
        hashed = word_hashes(ready)
        self._rolled, self._ends = Rolled(hashed.hashes), hashed.ends
        self.lengths = hashed.counts
        self.sizes = np.where(
            self.lengths >= 2 * rules.ngram,
            rules.ngram,
            np.where(self.lengths >= rules.short_ngram, rules.short_ngram, self.lengths),
        )
        group = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)[1] if groups else np.zeros(0, np.int64)
        self._lookups = self._of_ngrams(group)
        self.totals = np.zeros(len(self.words), np.int64)
        for lookup in self._lookups:
            self.totals += np.bincount(lookup.items, minlength=len(self.words))
        self._near: Lookup | None = None
        if rules.near_floor is not None:
            self._near, self._needed = self._of_near(rules.near_floor)
        self._grams_of = lru_cache(4096)(self._grams)

    def _sequences(self, size: int, members: npt.NDArray[np.bool_]) -> tuple[Hashes, Ints]:
        """Hash and item of every sequence of `size` words in the `members`, as often as it is there."""
        hashes = self._rolled.of(size)
        at = np.arange(len(hashes))
        item = np.searchsorted(self._ends, at, side="right")
        whole = at + size <= self._ends[item] if len(item) else np.zeros(0, np.bool_)
        wanted = whole & members[item] if len(item) else whole
        return hashes[wanted], item[wanted]

    def _of_ngrams(self, group: Ints) -> list[Lookup]:
        found, base = [], 0
        for size in np.unique(self.sizes[self.sizes > 0]).tolist():
            hashes, item = self._sequences(size, self.sizes == size)
            lookup = Lookup(size, base, *self._uncommon(hashes, item, group))
            base += len(lookup.keys)
            found.append(lookup)
        return found

    def _uncommon(self, hashes: Hashes, item: Ints, group: Ints) -> tuple[Hashes, Ints]:
        """Without the sequences that stand in too many items of one benchmark."""
        pairs = pl.DataFrame({"hash": hashes, "item": item, "group": group[item]}).unique()
        often = pairs.group_by("hash", "group").len().filter(pl.col("len") > self.rules.common).select("hash").unique()
        left = pairs.join(often, on="hash", how="anti")
        return left["hash"].to_numpy(), left["item"].to_numpy().astype(np.int64)

    def _of_near(self, floor: float) -> tuple[Lookup, Ints]:
        """The rarest sequences of each item, and how many of these a near copy has at least.

        Of m sequences a copy has at least floor * m; so many of them at most are outside the index, and the rest are in it.
        """
        hashes, item = self._sequences(SHINGLE, self.lengths >= LEAST_NEAR)
        pairs = pl.DataFrame({"hash": hashes, "item": item}).unique()
        pairs = pairs.with_columns(pl.len().over("hash").alias("rare"), pl.len().over("item").alias("m"))
        pairs = pairs.with_columns(pl.struct("rare", "hash").rank("ordinal").over("item").alias("place"))
        least = _least(pairs["m"].to_numpy(), floor)
        pairs = pairs.with_columns(pl.Series("least", least))
        held = pairs.filter(
            (pl.col("rare") <= self.rules.common) | (pl.col("place") <= pl.col("m") - pl.col("least") + 1)
        )
        needed = held.group_by("item").agg(pl.col("least").first() - pl.col("m").first() + pl.len().cast(pl.Int64))
        counts = np.ones(len(self.words), np.int64)
        counts[needed["item"].to_numpy()] = np.maximum(1, needed["least"].to_numpy())
        return Lookup(SHINGLE, 0, held["hash"].to_numpy(), held["item"].to_numpy().astype(np.int64)), counts

    # ---- where to look

    def candidates(self, texts: pl.Series) -> pl.Series:
        """For each text its words, the n-grams of items in it, and the items that it may nearly copy; null where the text is."""
        if len(texts) == 1:
            return pl.Series(texts.name, [self._one(texts)], dtype=FOUND)
        frame = texts.alias("text").to_frame().with_row_index("row")
        found = [self._looked_through(piece) for piece in pieces(frame.filter(pl.col("text").is_not_null()))]
        empty = pl.DataFrame(schema={"row": pl.UInt32, **{field.name: field.dtype for field in FOUND.fields}})
        joined = frame.select("row").join(pl.concat([empty, *found]), on="row", how="left", maintain_order="left")
        names = [field.name for field in FOUND.fields]
        seen = pl.when(pl.col("words").is_not_null()).then(pl.struct(names))
        return joined.select(seen.alias(texts.name)).to_series().cast(FOUND)

    def _one(self, text: pl.Series) -> dict[str, Any] | None:
        """The same for a text by itself: problems come one at a time, and tables would cost more than the search."""
        if text[0] is None:
            return None
        hashed = word_hashes(prepared(text))
        rolled = Rolled(hashed.hashes)
        grams = np.unique(self._grams_in(hashed.ends, hashed.counts, rolled)["grams"]).tolist()
        near = np.unique(self._near_in(hashed.ends, rolled)["near"]).tolist()
        return {"words": len(hashed.hashes), "grams": grams or None, "near": near or None}

    def _looked_through(self, piece: pl.DataFrame) -> pl.DataFrame:
        """The same for some texts, each of which is looked at once however often it is there."""
        once = piece.select(pl.col("text").unique(maintain_order=True)).with_row_index("number")
        hashed = word_hashes(prepared(once["text"]))
        rolled = Rolled(hashed.hashes)
        numbers = pl.DataFrame({"number": once["number"], "words": hashed.counts.astype(np.uint32)})
        grams, near = self._grams_in(hashed.ends, hashed.counts, rolled), self._near_in(hashed.ends, rolled)
        for name, found in (("grams", grams), ("near", near)):
            pairs = pl.DataFrame(found, schema={"number": pl.UInt32, name: pl.UInt32}).unique().sort("number", name)
            lists = pairs.group_by("number", maintain_order=True).agg(name)
            numbers = numbers.join(lists, on="number", how="left", maintain_order="left")
        if once.height == piece.height:
            return piece.select("row").hstack(numbers.drop("number"))
        told = once.hstack(numbers.drop("number"))
        return piece.join(told, on="text", how="left", maintain_order="left").drop("text", "number")

    def _grams_in(self, ends: Ints, counts: Ints, rolled: Rolled) -> dict[str, npt.NDArray[np.uint32]]:
        texts, grams = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for lookup in self._lookups:
            at, number = lookup.find(rolled.of(lookup.size))
            text = np.searchsorted(ends, at, side="right")
            whole = at + lookup.size <= ends[text]
            if lookup.size < ALONE:
                whole &= counts[text] == lookup.size
            texts.append(text[whole])
            grams.append(number[whole] + lookup.base)
        return {"number": np.concatenate(texts).astype(np.uint32), "grams": np.concatenate(grams).astype(np.uint32)}

    def _near_in(self, ends: Ints, rolled: Rolled) -> dict[str, npt.NDArray[np.uint32]]:
        nothing = np.zeros(0, np.uint32)
        if self._near is None or not len(self._near.keys):
            return {"number": nothing, "near": nothing}
        at, number = self._near.find(rolled.of(SHINGLE))
        text = np.searchsorted(ends, at, side="right")
        whole = at + SHINGLE <= ends[text]
        both = np.unique(text[whole] * len(self._near.keys) + number[whole])
        text, number = np.divmod(both, len(self._near.keys))
        owner, item = self._near.holders(number)
        pair, shared = np.unique(text[owner] * len(self.words) + item, return_counts=True)
        text, item = np.divmod(pair, len(self.words))
        enough = shared >= self._needed[item]
        return {"number": text[enough].astype(np.uint32), "near": item[enough].astype(np.uint32)}

    def holders(self) -> pl.DataFrame:
        """Every n-gram that is looked for with the items that hold it: `gram`, `item`."""
        parts = [
            pl.DataFrame({"gram": np.repeat(np.arange(len(k.keys)), np.diff(k.starts)) + k.base, "item": k.items})
            for k in self._lookups
        ]
        schema = pl.Schema({"gram": pl.UInt32, "item": pl.UInt32})
        return pl.concat([pl.DataFrame(schema=schema), *(part.cast(schema) for part in parts)])

    def looks_for(self) -> dict[str, npt.NDArray[np.bool_]]:
        """By net, which items can be found at all."""
        near = self.lengths >= LEAST_NEAR if self._near is not None else np.zeros(len(self.words), np.bool_)
        return {"ngram": self.totals > 0, "near": near}

    # ---- what is there

    def hits(
        self, text: str, ready: str, wanted: Sequence[tuple[int, bool]], without: frozenset[int]
    ) -> list[dict[str, Any]]:
        """What `text` shares with the items `wanted`, each by n-grams (False) or as a near copy (True): rows of HIT.

        n-grams of the numbers `without` count for nothing.
        """
        said = words(ready)
        spans: list[tuple[int, int]] | None = None
        found = []
        for item, near in wanted:
            hit = self._near_copy(item, said) if near else self._shared(item, said, without)
            if hit is None:
                continue
            first, last, share, of = hit
            spans = spans if spans is not None else places(text, ready)
            start, end = (spans[first][0], spans[last][1]) if spans is not None else (None, None)
            room = 0 if near else len(self.words[item])
            around = said[max(0, first - room) : last + 1 + room]
            shown = " ".join(said[first : last + 1]) if start is None else text[start:end]
            found.append(
                {
                    "item": item,
                    "net": "near" if near else "ngram",
                    "score": share / of,
                    "found": share,
                    "of": of,
                    "start": start,
                    "end": end,
                    "span": shown[:SHOWN_CHARACTERS],
                    "same_numbers": _numbers(self.words[item]) <= _numbers(around),
                }
            )
        return found

    def _grams(self, item: int, size: int, without: frozenset[int]) -> frozenset[tuple[str, ...]]:
        """The item's sequences of `size` words that count."""
        said = self.words[item]
        there = len(said) - size + 1
        if size == SHINGLE and size != self.sizes[item]:
            return frozenset(tuple(said[i : i + size]) for i in range(there))
        [lookup] = [lookup for lookup in self._lookups if lookup.size == size]
        first = int(self._ends[item]) - len(said)
        at, number = lookup.find(self._rolled.of(size)[first : first + there])
        counts = (i for i, n in zip(at.tolist(), number.tolist(), strict=True) if n + lookup.base not in without)
        return frozenset(tuple(said[i : i + size]) for i in counts)

    def _shared(self, item: int, said: list[str], without: frozenset[int]) -> tuple[int, int, int, int] | None:
        """First and last word of the longest run of common n-grams, how many different ones there are, and of how many."""
        size = int(self.sizes[item])
        grams = self._grams_of(item, size, without)
        there = [(i, gram) for i in range(len(said) - size + 1) if (gram := tuple(said[i : i + size])) in grams]
        if not there:
            return None
        runs = [
            [i for _, i in run]
            for _, run in groupby(((n - i, i) for n, (i, _) in enumerate(there)), lambda pair: pair[0])
        ]
        longest = max(runs, key=len)
        return longest[0], longest[-1] + size - 1, len({gram for _, gram in there}), len(grams)

    def _near_copy(self, item: int, said: list[str]) -> tuple[int, int, int, int] | None:
        """First and last word of the window that has most of the item's short sequences, how many, and of how many."""
        shingles = self._grams_of(item, SHINGLE, frozenset())
        there = [
            (i, gram) for i in range(len(said) - SHINGLE + 1) if (gram := tuple(said[i : i + SHINGLE])) in shingles
        ]
        room = WINDOW * len(self.words[item]) - SHINGLE
        best: tuple[int, int, int] | None = None
        inside: dict[tuple[str, ...], int] = {}
        left = 0
        for i, gram in there:
            inside[gram] = inside.get(gram, 0) + 1
            while there[left][0] < i - room:
                out = there[left][1]
                inside[out] -= 1
                if not inside[out]:
                    del inside[out]
                left += 1
            if best is None or len(inside) > best[2]:
                best = there[left][0], i + SHINGLE - 1, len(inside)
        return (*best, len(shingles)) if best else None


def pieces(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows in order, so many at a time as have some megabytes of `text`."""
    size = pl.col("text").str.len_bytes().cast(pl.Int64)
    numbered = frame.with_columns(((size.cum_sum() - size) // PIECE_BYTES).alias("_piece"))
    yield from numbered.partition_by("_piece", maintain_order=True, include_key=False) if frame.height else ()


def mapped(column: pl.Expr, function: Callable[[pl.Series], pl.Series], dtype: pl.DataType) -> pl.Expr:
    """An expression that is `function` of whole batches, row by row."""
    return column.map_batches(function, return_dtype=dtype, is_elementwise=True)


def _least(counts: Ints, share: float) -> Ints:
    """The least whole number that is `share` of each of `counts`, as it was written."""
    exact = Fraction(str(share))
    return np.asarray(-(-counts.astype(np.int64) * exact.numerator // exact.denominator), np.int64)


def _numbers(said: Sequence[str]) -> set[str]:
    return {word for word in said if any(letter.isdigit() for letter in word)}
