"""From the records of a spool to columns on disk: what filters and selectors can look at without holding it in memory.

spool ──▶ <work>/staged/{traces,problems,refused,samples,table-NAME}/000000.parquet, ... , in the order of problem_id
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tracemill.pipelines.running.collector import collected_rarely
from tracemill.pipelines.running.outcomes import Record, RoleCounts, tools_text
from tracemill.pipelines.versions.durable import watch_disk
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.request import Message
from tracemill.schemas.rows import Problem
from tracemill.schemas.tables import PROBLEMS, REJECTED, ROWS, SAMPLES, TOOLS, Talk, stored

PART_ROWS, PART_BYTES = 4096, 32 << 20
"""A part is rows of Python objects until it is written, which take several times its bytes."""

SAMPLE_REFS = pa.schema(
    [field for field in SAMPLES if field.name not in ("text", "token_ids", "n_tokens", "finish_reason")]
)
"""The columns of `samples` that are not in the journal."""


class Parts:
    """Rows of one kind, written to a folder of small Parquet files as they come.

    The columns of `schema` come first with its types; columns beyond it take the type of what is in them. Where its column
    `turns` holds conversations, they have the fields that `talk` saw in any of them, whichever part they stand in.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, turns: str = "", talk: Talk | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder, self._plain = folder, schema
        self._turns, self._talk = turns, talk or Talk()
        self.rows = 0
        self._pile: list[Mapping[str, Any]] = []
        self._bytes = self._written = 0

    @property
    def schema(self) -> pa.Schema:
        """The columns that are known beforehand, as far as the rows were seen."""
        return self._talk.over(self._plain)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self._pile.append(row)
            if self._turns:
                self._talk.see(row, self._turns)
            self._bytes += sum(len(value) for value in row.values() if isinstance(value, str))
            if len(self._pile) >= PART_ROWS or self._bytes >= PART_BYTES:
                self.flush()

    def flush(self) -> None:
        if not self._pile:
            return
        file = self.folder / f"{self._written:06}.parquet"
        with watch_disk(file):
            pq.write_table(self._table(), file, compression="lz4")
        self._written += 1
        self.rows += len(self._pile)
        self._pile, self._bytes = [], 0

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def scan(self) -> pl.LazyFrame:
        """All rows, in order; a part that lacks another's column has nulls in it."""
        frames = [self._whole(pl.scan_parquet(file)) for file in self.files()]
        if not frames:
            return pl.DataFrame(self.schema.empty_table()).lazy()
        return pl.concat(frames, how="diagonal_relaxed")

    def frames(self) -> Iterator[pl.DataFrame]:
        """The parts, one in memory at a time, each with the columns and types of the whole."""
        whole = self.scan().collect_schema().to_frame()
        for file in self.files():
            yield pl.concat([whole, self._whole(pl.scan_parquet(file)).collect()], how="diagonal_relaxed")

    def _whole(self, part: pl.LazyFrame) -> pl.LazyFrame:
        """A part with the conversations of the whole: it was written before a later part held more."""
        schema = self.schema
        if schema.equals(self._plain):
            return part
        turns = pl.DataFrame(schema.empty_table()).schema[self._turns]
        part = part.with_columns(pl.col(self._turns).cast(turns))  # by name: what a turn lacks becomes null
        if TOOLS.name in schema.names and TOOLS.name not in part.collect_schema():
            part = part.with_columns(pl.lit(None, pl.String).alias(TOOLS.name))
        own = [name for name in part.collect_schema().names() if name not in schema.names]
        return part.select(*schema.names, *own)

    def _table(self) -> pa.Table:
        schema = self.schema
        known = set(schema.names)
        columns = [_declared(field, [row.get(field.name) for row in self._pile]) for field in schema]
        table = pa.Table.from_arrays(columns, schema=schema)
        for name in dict.fromkeys(name for row in self._pile for name in row if name not in known):
            table = table.append_column(name, _column([row.get(name) for row in self._pile]))
        return table


def _declared(field: Any, values: list[Any]) -> Any:
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise RecipeError(f"the method declares its column {field.name!r} as {field.type}, and {error}") from None


def _column(values: list[Any]) -> Any:
    """A column of a method's own; whole numbers and fractions in one column are numbers, any other mixture is JSON text."""
    with suppress(pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array(values)
    if all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
        return pa.array([None if v is None else float(v) for v in values])
    return pa.array(
        [v if v is None or isinstance(v, str) else json.dumps(v, sort_keys=True, default=str) for v in values]
    )


@dataclass
class Staged:
    """The outcome of a synthesis, as scannable columns."""

    folder: Path
    columns: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """The method's own columns of traces, as far as it declares them."""
    own: Mapping[str, pa.Schema] = field(default_factory=dict)
    """The method's own tables, as far as it declares them."""
    traces: Parts = field(init=False)
    problems: Parts = field(init=False)
    refused: Parts = field(init=False)
    samples: Parts = field(init=False)
    tables: dict[str, Parts] = field(default_factory=dict)
    talk: Talk = field(default_factory=Talk)
    counts: dict[str, RoleCounts] = field(default_factory=dict)
    """Over the samples of all problems, by role."""

    def __post_init__(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)
        traces = pa.schema([*ROWS, *self.columns])
        self.traces = Parts(self.folder / "traces", traces, turns="messages", talk=self.talk)
        self.problems = Parts(self.folder / "problems", PROBLEMS, turns="prompt", talk=self.talk)
        self.refused = Parts(self.folder / "refused", REJECTED)
        self.samples = Parts(self.folder / "samples", SAMPLE_REFS)
        for name in self.own:
            self._own_table(name)

    def add(self, problem: Problem, record: Record) -> None:
        pid = problem.problem_id
        self.traces.add(sorted(record.traces, key=lambda row: str(row["id"])))
        self.problems.add([_problem_row(problem, record)])
        refused = [
            {"id": r.id, "problem_id": pid, "stage": r.stage, "reason": r.reason, "evidence": r.evidence, "row": r.row}
            for r in record.refused
        ]
        self.refused.add(sorted(refused, key=lambda row: row["id"] or ""))
        self.samples.add({**sample, "problem_id": pid} for sample in record.drawn)
        for count in record.counts:
            self.counts.setdefault(count.role, RoleCounts(count.role)).add(count)
        for name, rows in record.tables.items():
            table = self.tables[name] if name in self.tables else self._own_table(name)
            table.add({"problem_id": pid, **row} for row in rows)

    def _own_table(self, name: str) -> Parts:
        known = self.own.get(name, pa.schema([]))
        columns = [pa.field("problem_id", pa.string()), *(known.field(n) for n in known.names if n != "problem_id")]
        self.tables[name] = Parts(self.folder / f"table-{name}", pa.schema(columns))
        return self.tables[name]

    def remove(self) -> None:
        """Give the disk back: the version has it all."""
        shutil.rmtree(self.folder)

    def close(self) -> None:
        for parts in (self.traces, self.problems, self.refused, self.samples, *self.tables.values()):
            parts.flush()


def stage(
    records: Iterator[tuple[Problem, Record]],
    folder: Path,
    columns: pa.Schema,
    own: Mapping[str, pa.Schema] = MappingProxyType({}),
) -> Staged:
    """Write every record's rows to `folder`, which is emptied first.

    `columns` of traces and the tables in `own` are those that the method declares.
    """
    staged = Staged(folder, columns, own)
    with collected_rarely():
        for problem, record in records:
            staged.add(problem, record)
    staged.close()
    return staged


def _problem_row(problem: Problem, record: Record) -> dict[str, Any]:
    """The row of `problems`; `outcome` is settled once it is known which traces are chosen."""
    outcome, reason = {"done": None, "filtered": "rejected", "failed": "failed"}[record.status], record.reason
    if outcome is None and not record.traces:
        # a method that turned the whole problem down says why
        whole = next((refusal for refusal in record.refused if refusal.id is None), None)
        outcome, reason = ("rejected", f"{whole.stage}: {whole.reason}") if whole else (None, reason)
    return {
        "problem_id": problem.problem_id,
        "question": problem.question,
        "gold": problem.gold,
        "source": problem.source,
        "difficulty": problem.difficulty,
        "outcome": outcome,
        "reason": reason,
        "roles": [
            {"role": c.role, "correct": c.correct, "total": c.total, "undecided": c.undecided, "truncated": c.truncated}
            for c in record.counts
        ],
        "prompt": record.prompt or [stored(turn) for turn in _asked(problem)],
        **({"tools": tools_text(problem)} if problem.tools else {}),
    }


def _asked(problem: Problem) -> tuple[Message, ...]:
    return problem.messages or (Message(role="user", content=problem.question),)
