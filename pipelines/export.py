"""`tracemill export REF --to FORMAT --out DIR`: a version in the layout of a trainer, as a folder that `load_dataset` opens."""

import inspect
import secrets
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter, ValidationError

from tracemill.pipelines.durable import sync, watch_disk
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import suggest
from tracemill.schemas.views import View, view_named


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


def find_view(to: str, options: Mapping[str, Any]) -> View:
    """The view of a format with its options checked and bound, or a RecipeError that says what to change."""
    view = view_named(to)
    parameters = inspect.signature(view, eval_str=True).parameters
    known = {name: p.annotation for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name, value in options.items():
        if name not in known:
            raise RecipeError(f"{to} has no option {name!r}{suggest(name, known)}")
        try:
            TypeAdapter(known[name]).validate_python(value, strict=True)
        except ValidationError as error:
            faults = "; ".join(fault["msg"] for fault in error.errors(include_url=False))
            raise RecipeError(f"{to}: {name} = {value!r}: {faults}") from None
    return partial(view, **options)


def write_view(view: View, dataset_path: Path, file: Path) -> int:
    """Stream a view of the version at `dataset_path` to a Parquet file, synced; how many rows it has."""
    with watch_disk(file):
        view(tables_of(dataset_path)).sink_parquet(file, compression="zstd", engine="streaming")
        sync(file)
    return int(pl.scan_parquet(file).select(pl.len()).collect().item())


def tables_of(dataset_path: Path) -> dict[str, pl.LazyFrame]:
    """The tables of a version, by name, unread."""
    folders = {path.parent for path in dataset_path.glob("*/*.parquet")}
    if not folders:
        raise RecipeError(f"{dataset_path} is no version of a dataset: it has no tables")
    return {folder.name: pl.scan_parquet(folder / "*.parquet") for folder in folders}
