"""Rows of a table by their number, and a search that goes through them, without the table being loaded.

    row 730,112 ──offsets of the row groups, from the footers──▶ row group 28 ──only the columns shown──▶ rows

Every page costs the same: one or two row groups, of the columns that are shown. A search reads the columns that it looks at, batch
after batch, and stops once its page is full, its time is up or nobody waits for it any more; it says where to go on.
"""

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.viewer.search import Search

BATCH = 4096
SECONDS = 1.5
"""A search answers after about that time, with what it has by then."""


@dataclass(frozen=True, slots=True)
class Group:
    """One row group, and the number of its first row in the table."""

    file: int
    at: int
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has come to."""

    numbers: list[int]
    rows: pa.Table
    """One for each number, of the columns that were asked for."""
    looked_to: int
    """The number of the first row that was not looked at; all of them at the end."""


class Table:
    """One table of a version. Its footers are read once; files are opened for each page, so one that is gone is noticed."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.name = name
        self._files: list[Path] = dataset.files(name)
        self._footers = [pq.read_metadata(file) for file in self._files]
        self.schema = pq.read_schema(self._files[0]) if self._files else pa.schema([])
        places = [(f, g) for f, footer in enumerate(self._footers) for g in range(footer.num_row_groups)]
        sizes = [self._footers[f].row_group(g).num_rows for f, g in places]
        starts = accumulate(sizes, initial=0)
        self.groups = [
            Group(*place, start, size) for place, size, start in zip(places, sizes, starts, strict=False) if size
        ]
        self._starts = [group.start for group in self.groups]
        self.rows = sum(sizes)

    def page(self, start: int, count: int, columns: Sequence[str]) -> pa.Table:
        """Rows `start` to `start + count`, as far as there are any."""
        start, end = max(0, start), min(self.rows, start + count)
        first = max(0, bisect_right(self._starts, start) - 1)
        parts = []
        for group in self.groups[first:]:
            if group.start >= end:
                break
            begin = max(start, group.start) - group.start
            parts.append(self._read(group, columns).slice(begin, min(end - group.start, group.rows) - begin))
        return pa.concat_tables([self._schema_of(columns).empty_table(), *parts])

    def row(self, number: int) -> dict[str, Any] | None:
        """One row whole, or None where there is none of that number."""
        rows = self.page(number, 1, self.schema.names) if 0 <= number < self.rows else None
        return dict(rows.to_pylist()[0]) if rows is not None else None

    def find(self, column: str, value: str) -> int | None:
        """The number of the first row that holds `value`; only row groups are read that may hold it by their statistics."""
        search = Search.equal(column, value)
        for group in self.groups:
            if not self._excluded(group, search):
                at = pc.index(
                    self._read(group, [column])[column], pa.scalar(value, self.schema.field(column).type)
                ).as_py()
                if at >= 0:
                    return group.start + int(at)
        return None

    def search(
        self, search: Search, *, start: int, count: int, columns: Sequence[str], stop: Event, seconds: float = SECONDS
    ) -> Found:
        """Up to `count` rows from `start` on that `search` means, in order, and how far it looked."""
        until = time.monotonic() + seconds
        numbers: list[int] = []
        parts = [self._schema_of(columns).empty_table()]
        at = min(max(0, start), self.rows)
        for group in self.groups[max(0, bisect_right(self._starts, at) - 1) :]:
            if self._excluded(group, search):
                at = max(at, group.start + group.rows)
                continue
            hits, at, ended = self._in_group(group, search, at, count - len(numbers), stop, until)
            if hits:
                numbers += hits
                parts.append(self._read(group, columns).take([number - group.start for number in hits]))
            if ended or len(numbers) == count or stop.is_set() or time.monotonic() > until:
                break
        return Found(numbers, pa.concat_tables(parts), at)

    def _in_group(
        self, group: Group, search: Search, start: int, most: int, stop: Event, until: float
    ) -> tuple[list[int], int, bool]:
        """The numbers of hits in a group from `start` on, the row after the last one looked at, and whether to end there."""
        hits: list[int] = []
        at = group.start
        for batch in self._batches(group, search.columns(self.schema)):
            end = at + batch.num_rows
            if end > start:
                fits: list[int] = pc.indices_nonzero(search.mask(batch, self.schema)).to_pylist()
                for place in fits:
                    if at + place >= start:
                        hits.append(at + place)
                        if len(hits) == most:
                            return hits, at + place + 1, True
                if end < group.start + group.rows and (stop.is_set() or time.monotonic() > until):
                    return hits, end, True
            at = end
        return hits, at, False

    def _excluded(self, group: Group, search: Search) -> bool:
        """Whether the statistics of a row group say that no row of it fits."""
        footer = self._footers[group.file].row_group(group.at)
        for number in range(footer.num_columns):
            column = footer.column(number)
            if column.path_in_schema in search.bounded and search.excluded(column.path_in_schema, column.statistics):
                return True
        return False

    def _read(self, group: Group, columns: Sequence[str]) -> pa.Table:
        with self._open(group) as file:
            return file.read_row_group(group.at, columns=list(columns)).select(list(columns))

    def _batches(self, group: Group, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with self._open(group) as file:
            yield from file.iter_batches(BATCH, row_groups=[group.at], columns=list(columns))

    def _open(self, group: Group) -> pq.ParquetFile:
        return pq.ParquetFile(self._files[group.file], metadata=self._footers[group.file])

    def _schema_of(self, columns: Sequence[str]) -> pa.Schema:
        return pa.schema([self.schema.field(name) for name in columns])
