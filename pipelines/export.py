"""`tracemill export REF --to FORMAT --out DIR`: a version in the layout of a trainer, as a folder that `load_dataset` opens."""

import inspect
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from tracemill.pipelines.cards.parts import WINDOWS
from tracemill.pipelines.versions.durable import sync, watch_disk
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import suggest
from tracemill.schemas.tables import MORE_OF_A_TURN, as_given
from tracemill.schemas.views import View, bound, view_named
from tracemill.schemas.views.tables import Tables, chosen


def export(dataset_path: Path, to: str, out: Path, **options: Any) -> Path:
    """Write the format `to` of the version at `dataset_path` into the new or empty folder `out`, whole or not at all."""
    view = find_view(to, options)
    out = out.expanduser().absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"--out {out} is there and not an empty folder; nothing is overwritten: name a new one")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    draft.mkdir()
    try:
        if write_view(view, dataset_path, draft / "train-00000-of-00001.parquet") == 0:
            raise RecipeError(
                f"{to} of {dataset_path} would have no rows, which no trainer can load; see `tracemill show`"
            )
        sync(draft)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync(out.parent)
    return out


def lengths(dataset_path: Path, to: str, out: Path, **options: Any) -> Iterator[str]:
    """What a trainer has to make room for in an export: its rows, and the tokens of the answers that they are made of."""
    rows = sum(pq.read_metadata(file).num_rows for file in out.glob("*.parquet"))
    tables = tables_of(dataset_path)
    if (answers := find_view(to, options).answers) is None:
        yield f"rows    {rows:,}, prompts"
        return
    table, frame = answers(tables)
    tokens = pl.col("n_tokens")
    beyond = [(tokens > limit).mean().alias(f"{limit:,}") for limit in WINDOWS]
    facts = frame.select(pl.len().alias("all"), tokens.mean().alias("mean"), tokens.max().alias("max"), *beyond)
    [found] = facts.collect(engine="streaming").to_dicts()
    yield f"rows    {rows:,}, from {found['all']:,} answers in {table}"
    if found["mean"] is not None:
        over = ", ".join(f"{limit:,}: {found[f'{limit:,}']:.1%}" for limit in WINDOWS)
        whose = _whose_tokens(tables)
        yield f"tokens  mean {found['mean']:,.0f}, max {found['max']:,}; over {over} (answers alone, counted by {whose})"


def _whose_tokens(tables: Tables) -> str:
    """Who counted: the tokenizers that the chosen traces name."""
    traces = chosen(tables)
    if "tokenizer" not in traces.collect_schema().names():
        return "a tokenizer that is not named"
    named = traces.select(pl.col("tokenizer").drop_nulls().unique().sort()).collect()["tokenizer"].to_list()
    return ", ".join(named) or "a tokenizer that is not named"


def find_view(to: str, options: Mapping[str, Any]) -> View:
    """The view of a format with its options checked and bound, or a RecipeError that says what to change."""
    parameters = inspect.signature(view_named(to), eval_str=True).parameters
    known = {name: p.annotation for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name, value in options.items():
        if name not in known:
            raise RecipeError(f"{to} has no option {name!r}{suggest(name, known)}")
        try:
            TypeAdapter(known[name]).validate_python(value, strict=True)
        except ValidationError as error:
            faults = "; ".join(fault["msg"] for fault in error.errors(include_url=False))
            raise RecipeError(f"{to}: {name} = {value!r}: {faults}") from None
    return bound(to, options)


def write_view(view: View, dataset_path: Path, file: Path) -> int:
    """Stream a view of the version at `dataset_path` to a Parquet file, synced, and beside it what else it needs.

    How many rows it has.
    """
    with watch_disk(file):
        rows = view.rows(tables_of(dataset_path))
        talks = [name for name, dtype in rows.collect_schema().items() if _holds_more(dtype)]
        plain = file.with_suffix(".plain") if talks else file
        rows.sink_parquet(plain, compression="zstd", engine="streaming")
        if talks:
            _with_turns_as_given(plain, talks, file)
            plain.unlink()
        sync(file)
        if view.info is not None:
            info = view.info(dataset_path.parent.name, file.name, pq.read_schema(file).names)
            beside = file.with_name("dataset_info.json")
            beside.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
            sync(beside)
    return pq.read_metadata(file).num_rows


def _holds_more(dtype: pl.DataType) -> bool:
    """Whether a column holds conversations whose turns have more than role and content."""
    turn = dtype.inner if isinstance(dtype, pl.List) else None
    names = {field.name for field in turn.fields} if isinstance(turn, pl.Struct) else set()
    return bool(names & MORE_OF_A_TURN.keys())


def _with_turns_as_given(plain: Path, talks: Sequence[str], file: Path) -> None:
    """Copy a view with every turn as the JSON object that it was, which `datasets` gives to a trainer as such.

    A template would take the nulls of a column for values, and the text of arguments for a text.
    """
    source = pq.ParquetFile(plain)
    turns = pa.list_(pa.json_())
    named = source.schema_arrow
    schema = pa.schema([pa.field(column.name, turns) if column.name in talks else column for column in named])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in source.iter_batches(batch_size=1024):
            columns = [_as_json(batch[name]) if name in talks else batch[name] for name in schema.names]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def _as_json(conversations: Any) -> Any:
    texts = [
        None if turns is None else [json.dumps(as_given(turn), ensure_ascii=False) for turn in turns]
        for turns in conversations.to_pylist()
    ]
    return pa.array(texts, pa.list_(pa.string())).cast(pa.list_(pa.json_()))


def tables_of(dataset_path: Path) -> dict[str, pl.LazyFrame]:
    """The tables of a version, by name, unread."""
    folders = {path.parent for path in dataset_path.glob("*/*.parquet")}
    if not folders:
        raise RecipeError(f"{dataset_path} is no version of a dataset: it has no tables")
    return {folder.name: pl.scan_parquet(folder / "*.parquet") for folder in folders}
