"""Writes one table of a version: rows in order come in, Parquet files and their facts come out.

draft.table("rows", ROWS, batches) ──▶ rows/part-00000.parquet, ... ──▶ TableFacts(rows, files, content)

Equal tables become equal files, byte by byte, however their rows were batched; where they are cut says `cuts.py`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tracemill.pipelines.versions.canonical import ContentHash
from tracemill.pipelines.versions.cuts import Cutter
from tracemill.pipelines.versions.durable import watch_disk
from tracemill.schemas.errors import CountsDiffer, DiskFull

Batch = pa.RecordBatch | pa.Table | pl.DataFrame | Sequence[Mapping[str, Any]]

CHUNK_ROWS, CHUNK_BYTES = 4096, 8 << 20
"""Small batches are joined up to this size: hashing and checking cost per call."""
_UNIQUE: Mapping[str, tuple[str, ...]] = {
    "rows": ("id",),
    "traces": ("id",),
    "problems": ("problem_id",),
    "samples": ("key",),
}
_KEYS = ("problem_id", "id", "key")
_SORTABLE = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file of a version, by its path from the version's folder."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What the manifest says of a table."""

    rows: int
    content: str
    """The hash of its canonical form: what counts for the version id."""
    files: tuple[FileFacts, ...]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def file_facts(path: Path, home: Path) -> FileFacts:
    """The facts of one file below the folder of its version."""
    return FileFacts(path.relative_to(home).as_posix(), sha256_of(path), path.stat().st_size)


def order_of(table: str, schema: pa.Schema) -> tuple[str, ...]:
    """The columns that a table is sorted by, nulls first and text by code point, as polars sorts.

    `rows` and `traces` by id, `problems` by problem_id, `samples` by key, each of which is unique. Any other table by id, key and
    problem_id as far as it has them, then by all its other columns of text, whole numbers and booleans, so that two rows can
    change places only where nothing tells them apart.
    """
    if table in _UNIQUE:
        return _UNIQUE[table]
    plain = [field.name for field in schema if any(test(field.type) for test in _SORTABLE)]
    first = [name for name in ("problem_id", "id", "key") if name in plain]
    return (*first, *(name for name in plain if name not in first))


def write_table(folder: Path, schema: pa.Schema, batches: Iterable[Batch]) -> TableFacts:
    """Write the table named like `folder`. Batches may be of any size; two row groups are held in memory.

    Raises CountsDiffer where rows are out of order (see `order_of`), or one comes twice, or a column has no place in
    `schema`; DiskFull where the disk is full. What was written by then is the caller's to remove.
    """
    with watch_disk(folder):
        writer = _Writer(folder, schema)
        try:
            for batch in batches:
                writer.add(_fit(batch, schema, folder.name))
            return writer.finish()
        except BaseException:
            with suppress(OSError, DiskFull):  # only to let go of the file: what went wrong is on its way up
                writer.close()
            raise


class _Writer:
    """Checks and hashes rows while a thread of its own writes the row group before them."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._hash = ContentHash(schema)
        self._order = _Order(folder.name, schema)
        self._rows = 0
        self._cutter = Cutter(_texts(schema, order_of(folder.name, schema)))
        self._chunk = _Pile(CHUNK_ROWS, CHUNK_BYTES)
        self._group: list[pa.RecordBatch] = []
        self._files = _Files(folder, schema)
        self._thread = ThreadPoolExecutor(1, "parquet")
        self._writing: Future[None] | None = None
        folder.mkdir()

    def add(self, batches: Iterable[pa.RecordBatch]) -> None:
        for batch in batches:
            self._rows += batch.num_rows
            if self._chunk.add(batch):
                self._close_chunk()

    def finish(self) -> TableFacts:
        self._close_chunk()
        if self._group or self._rows == 0:
            self._close_group(file=True)
        self.close()
        home = self._files.folder.parent
        return TableFacts(
            self._rows, self._hash.hexdigest(), tuple(file_facts(path, home) for path in self._files.paths)
        )

    def close(self) -> None:
        try:
            self._settle()
        finally:
            self._thread.shutdown()
            self._files.close()

    def _close_chunk(self) -> None:
        chunk = pa.Table.from_batches(self._chunk.take(), self._schema).combine_chunks()
        for batch in chunk.to_batches():
            self._order.check(batch)
            self._hash.update(batch)
            start = 0
            for cut in self._cutter.cuts(batch):
                self._group.append(batch.slice(start, cut.at - start))
                start = cut.at
                self._close_group(file=cut.file)
            self._group.append(batch.slice(start))

    def _close_group(self, *, file: bool) -> None:
        # in one piece: the writer's pages can differ with the places where one piece ends and the next begins
        group = pa.Table.from_batches(self._group, self._schema).combine_chunks()
        self._group = []
        self._settle()
        self._writing = self._thread.submit(self._files.write, group, last=file)

    def _settle(self) -> None:
        """Wait until the group before this one is written: no more than two are held in memory."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


class _Files:
    """The files of a table, one open at a time."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self._schema = folder, schema
        self.paths: list[Path] = []
        self._open: pq.ParquetWriter | None = None

    def write(self, group: pa.Table, *, last: bool) -> None:
        """Add a row group to the open file, or to a new one; after the `last` of a file it is closed."""
        if self._open is None:
            self.paths.append(self.folder / f"part-{len(self.paths):05}.parquet")
        with watch_disk(self.paths[-1], needs=group.nbytes):
            self._open = self._open or _parquet(self.paths[-1], self._schema)
            self._open.write_table(group, row_group_size=max(1, group.num_rows))
        if last:
            self.close()

    def close(self) -> None:
        writer, self._open = self._open, None
        if writer is not None:
            with watch_disk(self.paths[-1]):
                writer.close()


class _Pile:
    """Batches that wait until they are enough."""

    def __init__(self, rows: int, size: int) -> None:
        self._enough = rows, size
        self._batches: list[pa.RecordBatch] = []
        self.rows = self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> bool:
        """Whether it is enough now."""
        self._batches.append(batch)
        self.rows += batch.num_rows
        self._bytes += batch.nbytes
        return self.rows >= self._enough[0] or self._bytes >= self._enough[1]

    def take(self) -> list[pa.RecordBatch]:
        taken, self._batches = self._batches, []
        self.rows = self._bytes = 0
        return taken


class _Order:
    """Checks that rows come in the order of their table, across batches."""

    def __init__(self, table: str, schema: pa.Schema) -> None:
        self._table = table
        self._columns = order_of(table, schema)
        self._unique = table in _UNIQUE
        self._last: pl.DataFrame | None = None

    def check(self, batch: pa.RecordBatch) -> None:
        if not self._columns:
            return
        keys = pl.DataFrame(pl.from_arrow(batch.select(list(self._columns))))
        seen = keys if self._last is None else pl.concat([self._last, keys])
        self._last = keys.tail(1)
        wrong = seen.with_columns(wrong=self._out_of_order()).with_row_index("at").filter("wrong").head(1)
        if len(wrong):
            at = int(wrong["at"][0])
            before, row = seen.row(at - 1), seen.row(at)
            what = "twice in it" if before == row else "out of order"
            raise CountsDiffer(
                f"table {self._table!r}: a row is {what}: {_show(row)} after {_show(before)}; "
                f"it must come sorted by {', '.join(self._columns)}, nulls first{', each once' if self._unique else ''}"
            )

    def _out_of_order(self) -> pl.Expr:
        """True where a row does not belong behind the one before it."""
        after, tie = pl.lit(value=False), pl.lit(value=True)
        for name in self._columns:
            now, before = pl.col(name), pl.col(name).shift(1)
            larger = pl.when(before.is_null()).then(now.is_not_null()).otherwise((before < now).fill_null(value=False))
            after |= tie & larger
            tie &= now.eq_missing(before)
        fine = after if self._unique else after | tie
        return ~fine & (pl.int_range(pl.len()) > 0)


def _fit(batch: Batch, schema: pa.Schema, table: str) -> list[pa.RecordBatch]:
    """The rows as the schema has them. A column that the schema does not know would vanish, so it is an error."""
    try:
        if isinstance(batch, pl.DataFrame):
            batch = batch.to_arrow()
        if isinstance(batch, pa.RecordBatch):
            batch = pa.Table.from_batches([batch])
        if not isinstance(batch, pa.Table):
            names = frozenset(schema.names)
            for row in batch:
                if not row.keys() <= names:
                    _no_strays(row, schema, table)
            batch = pa.Table.from_pylist(list(batch), schema=schema)
        _no_strays(batch.schema.names, schema, table)
        return batch.select(schema.names).cast(schema).to_batches(max_chunksize=CHUNK_ROWS)
    except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError, OverflowError, UnicodeEncodeError) as error:
        raise CountsDiffer(f"table {table!r}: rows do not fit its columns: {error}") from error


def _no_strays(names: Iterable[str], schema: pa.Schema, table: str) -> None:
    if strays := set(names).difference(schema.names):
        raise CountsDiffer(f"table {table!r} has no column {sorted(strays)}; its columns: {', '.join(schema.names)}")


def _parquet(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_content_defined_chunking=True,
        write_page_index=True,
        write_page_checksum=True,
    )


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _texts(schema: pa.Schema, names: Iterable[str]) -> list[str]:
    """Which of the columns tell rows apart and are text."""
    return [name for name in names if name in _KEYS and pa.types.is_string(schema.field(name).type)]


def _show(row: tuple[Any, ...]) -> str:
    text = repr(row[0] if len(row) == 1 else row)
    return text if len(text) <= 200 else f"{text[:200]}..."
