"""The same decisions by many processes: problems are parted into pieces, and a worker of a cluster decides about each.

    filters, and selectors that look at a row, a problem or a group alone ──▶ a call for each piece
    selectors that look at all rows ──▶ here, on the columns they read; vectors and pairs of near vectors by the workers

What is sent is narrow: how traces are read (paths and expressions) lies in a file, a piece is ids and decisions.
"""

import pickle
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from tracemill.pipelines.choosing.choice import Choice, choose, verdicts
from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.pipelines.recipes.foresee import recipes_fault
from tracemill.pipelines.scale.dask_workers import DaskWorkers, workers_of
from tracemill.pipelines.scale.shipping import Shipped, shipped
from tracemill.schemas.plugins import Workers
from tracemill.synth.embed import Embedder

if TYPE_CHECKING:
    from distributed import Client

X = TypeVar("X")
Y = TypeVar("Y")
Piece = tuple[pl.Expr, pl.DataFrame]


@dataclass(frozen=True)
class Tables:
    """Where a worker finds how traces and problems are read."""

    traces: Path
    problems: Path


@contextmanager
def spread_over(
    client: "Client | None", folder: Path | None, traces: pl.LazyFrame, problems: pl.LazyFrame, rows: int
) -> Iterator["Spread | None"]:
    """The workers of `client` with the tables, to be shown `rows` at a time; None without a client."""
    with workers_of(client, folder) as workers:
        yield None if workers is None else Spread(workers, traces, problems, rows)


class Spread:
    """Decisions about `traces`, by workers of whom `rows` at a time are shown to each; the `Workers` of schemas/plugins.py."""

    def __init__(self, workers: DaskWorkers, traces: pl.LazyFrame, problems: pl.LazyFrame, rows: int) -> None:
        self._workers, self._traces, self._piece = workers, traces, rows
        self.folder = workers.folder
        self._tables = Tables(workers.folder / "traces.plan", workers.folder / "problems.plan")
        traces.serialize(self._tables.traces)
        problems.serialize(self._tables.problems)

    @property
    def count(self) -> int:
        return self._workers.count

    def each(self, call: Callable[[X], Y], items: Iterable[X]) -> Iterator[Y]:
        return self._workers.each(call, items)

    def rows(self, call: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
        made = self.each(partial(_rows_there, self._tables, call), self._near())
        return pl.concat(list(made), how="vertical_relaxed")

    def verdicts(self, filters: Sequence[Plugin]) -> pl.DataFrame:
        """`choice.verdicts`, in the order of the traces."""
        call = partial(_verdicts_there, self._tables, self._sent(filters))
        frame = pl.concat(list(self.each(call, self._near())), how="vertical_relaxed")
        return in_order(self._traces.select("id").collect(engine="streaming"), frame)

    def _sent(self, plugins: Sequence[Plugin]) -> Path:
        """Plug-ins with all that is bound to them, in a file: benchmarks are large, and a worker reads them once."""
        file = self.folder / f"{secrets.token_hex(4)}.plugins"
        file.write_bytes(pickle.dumps(tuple(map(shipped, plugins))))
        return file

    def _near(self) -> list[pl.Expr]:
        """Conditions that part the traces into pieces, whole problems each."""
        problem = self._traces.select(pl.col("problem_id").sort()).collect(engine="streaming")["problem_id"]
        return [near for near, *_ in cut(problem, self._piece)] or [pl.lit(value=True)]

    def choices(
        self, selector: Plugin, engine: Embedder | None, pieces: Iterable[Piece], *, brought: bool
    ) -> Iterator[Choice]:
        """`choice.choose` of each piece."""
        call = partial(_choice_there, self._tables, self._sent([selector]), engine, brought)
        return self.each(call, pieces)

    def whole(
        self,
        selector: Plugin,
        engine: Embedder | None,
        traces: pl.LazyFrame,
        problems: pl.LazyFrame,
        frame: pl.DataFrame,
        *,
        brought: bool,
    ) -> Choice:
        """`choice.choose` of all rows, here; what it hands to workers is its own affair."""
        handed: dict[str, Any] = {} if engine is None else {"engine": replace(engine, workers=self)}
        if selector.takes("workers"):
            workers: Workers = self
            handed["workers"] = workers
        return choose(selector, handed, traces, problems, frame, brought=brought).collected()

    def by_group(self, per: Sequence[str], frame: pl.DataFrame) -> Iterator[Piece]:
        """Pieces that hold whole groups of equal `per`."""
        there = self._traces.collect_schema().names()
        if frame.height <= self._piece or not set(per) <= {
            *there,
            *frame.columns,
        }:  # an unknown column is the selector's to name
            yield pl.lit(value=True), frame
            return
        wide = self._traces.select("id", *(name for name in per if name not in frame.columns))
        keyed = frame.lazy().join(wide, on="id", how="left", maintain_order="left").select("id", *per)
        sizes = keyed.group_by(per, maintain_order=True).agg("id").select("id").collect()["id"]
        number = (sizes.list.len().cum_sum() - sizes.list.len()) // self._piece
        groups = pl.DataFrame({"id": sizes, "_piece": number}).explode("id")
        parted = frame.join(groups, on="id", how="left", maintain_order="left")
        for piece in parted.partition_by("_piece", maintain_order=True, include_key=False):
            yield pl.lit(value=True), piece


def problem_of(frame: pl.DataFrame) -> pl.Series:
    """The problem of each row, from its id."""
    return frame["id"].str.replace(r"/[^/]*$", "")


def cut(problem: pl.Series, rows: int) -> Iterator[tuple[pl.Expr, int, int]]:
    """Where sorted problems are parted into pieces of about `rows` rows, whole problems each: the condition, start and end."""
    start = 0
    while start < len(problem):
        first, last = problem[start], problem[min(start + rows, len(problem)) - 1]
        end = int(problem.search_sorted(last, side="right"))
        yield pl.col("problem_id").is_between(pl.lit(first), pl.lit(last)), start, end
        start = end


def in_order(ids: pl.DataFrame, frame: pl.DataFrame) -> pl.DataFrame:
    """The rows of `frame` in the order of `ids`: no order of pieces is to be seen."""
    if frame["id"].equals(ids["id"]):
        return frame
    return ids.select("id").join(frame, on="id", how="left", maintain_order="left")


def _rows_there(tables: Tables, call: Callable[[pl.LazyFrame], pl.LazyFrame], near: pl.Expr) -> pl.DataFrame:
    return call(_read(tables.traces).filter(near)).collect(engine="streaming")


def _verdicts_there(tables: Tables, filters: Path, near: pl.Expr) -> pl.DataFrame:
    return verdicts(_plugins(filters), _read(tables.traces).filter(near))


def _choice_there(tables: Tables, sent: Path, engine: Embedder | None, brought: bool, piece: Piece) -> Choice:
    near, frame = piece
    [selector] = _plugins(sent)
    handed = {} if engine is None else {"engine": engine}
    traces, problems = _read(tables.traces).filter(near), _read(tables.problems).filter(near)
    choice = choose(selector, handed, traces, problems, frame, brought=brought)
    with recipes_fault(selector.name):
        return choice.collected()


@lru_cache(maxsize=4)
def _read(file: Path) -> pl.LazyFrame:
    return pl.LazyFrame.deserialize(file)


@lru_cache(maxsize=4)
def _plugins(file: Path) -> tuple[Plugin, ...]:
    plugins: tuple[Shipped, ...] = pickle.loads(file.read_bytes())  # noqa: S301 - this build wrote it, as Dask sends calls
    return tuple(plugin.plugin() for plugin in plugins)
