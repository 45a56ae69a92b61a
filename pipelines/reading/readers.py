"""From the place that a source names to its rows: files, folders, Hub datasets and tables of the store.

train.jsonl(.gz|.zst)   x.parquet   x.arrow   saved/ (save_to_disk)   repo/ (load_dataset)   hub = "org/name"
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from tracemill.pipelines.reading.jsonl import check_ratio, read_jsonl
from tracemill.pipelines.reading.rawrow import BadRow, Limits, Row, fault_in, json_text
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Source, suggest

Resolve = Callable[[str], Sequence[Path]]
"""The Parquet files of a table of the store, from `name@version/table`."""

_Format = Literal["jsonl", "gzip", "zstd", "parquet", "arrow"]
_BATCH = 16  # rows: a table may repeat one long text for next to nothing, and memory holds a batch of them
_MAGIC: tuple[tuple[bytes, _Format], ...] = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"PAR1", "parquet"), (b"ARROW1", "arrow"),
          (b"\xff\xff\xff\xff", "arrow"))  # fmt: skip
_SUFFIXES = {".gz": "gzip", ".zst": "zstd", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
_TEXT = ("", ".jsonl", ".ndjson", ".json")
_KNOWN = "JSONL, JSONL.gz, JSONL.zst, Parquet and Arrow"


def files_of(source: Source, resolve: Resolve | None) -> list[Path] | None:
    """The files that hold a source's rows, in reading order; None for a Hub dataset, which `datasets` reads."""
    if source.hub is not None:
        return None
    if source.ref is not None:
        if resolve is None:
            raise RecipeError(f"source ref = {source.ref!r}: a table of the store, and there is no store here")
        return list(resolve(source.ref))
    place = Path(str(source.path))
    if not place.exists():
        beside = [file.name for file in place.parent.iterdir()] if place.parent.is_dir() else []
        raise RecipeError(f"source path: no file or folder at {place}{suggest(place.name, beside[:20])}")
    return _files_in(place, source) if place.is_dir() else [place]


def read_rows(source: Source, resolve: Resolve | None, limits: Limits) -> Iterator[Row | BadRow]:
    """All rows of a source in order, with the file they stand in where there are several."""
    files = files_of(source, resolve)
    if files is None:
        yield from _table_rows(str(source.hub), hub_batches(source), limits)
        return
    for file in files:
        name = file.name if len(files) > 1 else ""
        for row in read_file(file, limits):
            yield replace(row, file=name) if name else row


def read_file(path: Path, limits: Limits) -> Iterator[Row | BadRow]:
    """The rows of one file, in whichever format it is written."""
    try:
        match _format(path):
            case "parquet":
                with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as table:
                    yield from _metered_rows(path, table.iter_batches(_BATCH), limits)
            case "arrow":
                with pa.memory_map(str(path)) as file:
                    yield from _metered_rows(path, _arrow_batches(file), limits)
            case "gzip" | "zstd" as compression:
                yield from read_jsonl(path, limits, compression)
            case "jsonl":
                yield from read_jsonl(path, limits)
    except (OSError, pa.ArrowException) as error:
        raise RecipeError(f"{path}: not readable: {error}; is the file whole, and yours to read?") from None


def _format(path: Path) -> _Format:
    """By what the file begins with; a name that says otherwise is an error, not a guess."""
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise RecipeError(f"{path}: an empty file; a source holds one row or more")
    found: _Format = next((name for magic, name in _MAGIC if head.startswith(magic)), "jsonl")
    named = _SUFFIXES.get(path.suffix, "jsonl" if path.suffix in _TEXT else None)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if found == "jsonl" and (named not in ("jsonl", None) or (named is None and not text.startswith(b"{"))):
        raise RecipeError(f"{path}: not {named or 'JSON lines'}: it begins with {head[:8]!r}; tracemill reads {_KNOWN}")
    if found == "jsonl" and text.startswith(b"["):
        raise RecipeError(f"{path}: one JSON array, not one object a line; `jq -c '.[]' {path.name}` writes JSON lines")
    return found


# ---- tables


def _arrow_batches(file: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    if file.read(6) == b"ARROW1":
        table = pa.ipc.open_file(file)
        batches: Iterable[pa.RecordBatch] = (table.get_batch(index) for index in range(table.num_record_batches))
    else:
        file.seek(0)
        batches = pa.ipc.open_stream(file)
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH):
            yield batch.slice(start, _BATCH)


def _metered_rows(path: Path, batches: Iterable[pa.RecordBatch], limits: Limits) -> Iterator[Row | BadRow]:
    stored = path.stat().st_size

    def metered() -> Iterator[pa.RecordBatch]:
        decoded = 0
        for batch in batches:
            decoded += batch.nbytes
            check_ratio(path, decoded, stored, limits)
            yield batch

    return _table_rows(str(path), metered(), limits)


def _table_rows(where: str, batches: Iterable[pa.RecordBatch], limits: Limits) -> Iterator[Row | BadRow]:
    number = 0
    for batch in batches:
        _check_batch(where, batch)
        wide = batch.nbytes > limits.row_bytes
        for part in [batch.slice(index, 1) for index in range(batch.num_rows)] if wide else [batch]:
            if part.nbytes > limits.row_bytes:
                number += 1
                yield BadRow(number, "too_long", {"bytes": part.nbytes, "at_most": limits.row_bytes})
                continue
            for columns in part.to_pylist():
                number += 1
                if fault := fault_in(columns, limits):
                    yield BadRow(number, *fault, json_text(columns))
                else:
                    yield Row(number, columns)


def _check_batch(where: str, batch: pa.RecordBatch) -> None:
    if len(names := batch.schema.names) > len(set(names)):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise RecipeError(f"{where}: two columns are named {', '.join(twice)}; rename one of them")
    try:
        batch.validate(full=True)  # offsets and UTF-8, which readers of Arrow trust blindly
    except pa.ArrowInvalid as error:
        raise RecipeError(f"{where}: a table that holds what it must not: {error}; write the file anew") from None


# ---- folders


def _files_in(folder: Path, source: Source) -> list[Path]:
    if (folder / "dataset_dict.json").exists():
        splits = sorted(file.parent.name for file in folder.glob("*/state.json"))
        if source.split not in splits:
            raise RecipeError(f"{folder}: no split {source.split!r}{suggest(source.split, splits)}")
        folder = folder / source.split
    return _saved_files(folder) if (folder / "state.json").exists() else _data_files(folder, source)


def _saved_files(folder: Path) -> list[Path]:
    """Of `Dataset.save_to_disk`, whose state names its shards."""
    try:
        state = msgspec.json.decode((folder / "state.json").read_bytes())
        files = [folder / Path(file["filename"]).name for file in state["_data_files"]]
    except (OSError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise RecipeError(f"{folder}: not a whole `save_to_disk` folder: state.json: {error}") from None
    if missing := [file.name for file in files if not file.exists()]:
        raise RecipeError(f"{folder}: state.json names files that are not there: {', '.join(missing)}")
    return files


def _data_files(folder: Path, source: Source) -> list[Path]:
    """As `datasets.load_dataset(folder)` would find them, card and all, without its copy of the data."""
    builder = _builder(str(folder), source)
    splits = {str(name): [Path(file) for file in files] for name, files in (builder.config.data_files or {}).items()}
    if source.split not in splits:
        raise RecipeError(f"{folder}: no split {source.split!r}{suggest(source.split, splits)}")
    return splits[source.split]


# ---- Hub


def hub_commit(source: Source) -> str | None:
    """The commit that a Hub dataset stands at; None where only its rows can tell, as in a folder."""
    commit = str(_builder(str(source.hub), source).hash)
    return commit if len(commit) == 40 else None


def hub_batches(source: Source) -> Iterator[pa.RecordBatch]:
    """The rows of a Hub dataset, downloaded or from the cache."""
    import datasets

    with _datasets_errors(str(source.hub)):
        datasets.disable_progress_bars()
        rows = datasets.load_dataset(source.hub, source.config, split=source.split, revision=source.revision)
        for table in rows.with_format("arrow").iter(batch_size=_BATCH):
            yield from table.to_batches()


def _builder(place: str, source: Source) -> Any:
    import datasets

    with _datasets_errors(place):
        return datasets.load_dataset_builder(place, source.config, revision=source.revision)


@contextlib.contextmanager
def _datasets_errors(place: str) -> Iterator[None]:
    import datasets

    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        raise RecipeError(f"source {place}: `datasets` cannot open it: {error}{cause}") from None
