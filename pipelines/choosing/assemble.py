"""From staged columns and decisions to the tables of a version, streamed: what is wide is in memory a part at a time."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tracemill.pipelines.choosing.staging import SAMPLE_REFS, Parts, Staged
from tracemill.pipelines.curate import DECISION, Decisions
from tracemill.pipelines.plan import Plan
from tracemill.pipelines.store import Draft
from tracemill.pipelines.versions.parquet import order_of
from tracemill.schemas.errors import CountsDiffer
from tracemill.schemas.request import Completion
from tracemill.schemas.tables import REJECTED, ROWS, SAMPLES, TOOLS
from tracemill.synth.journal import Journal

SAMPLE_BYTES = 32 << 20


def assemble(
    draft: Draft,
    plan: Plan,
    staged: Staged,
    decisions: Decisions,
    source_rejections: Iterable[Mapping[str, Any]],
    journal: Journal,
) -> None:
    """Write every table of the version into `draft`."""
    chosen, parts = _chosen(staged.traces, decisions)
    draft.table("traces" if plan.folds else "rows", chosen, parts)
    if plan.folds:
        draft.table("rows", *_folded(plan, chosen, _chosen_parts(staged.traces, decisions, chosen.names)))
    draft.table("rejected", REJECTED, _rejected(staged, decisions, source_rejections))
    draft.table("problems", staged.problems.schema, _problems(staged, decisions))
    if plan.recipe.samples and plan.roles:
        draft.table("samples", SAMPLES, _samples(staged.samples, journal))
    if clash := staged.tables.keys() & decisions.tables.keys():
        raise CountsDiffer(f"the method and a selector both make a table {min(clash)!r}")
    for name, table in staged.tables.items():
        draft.table(name, *_in_order(name, table))
    for name, selected in decisions.tables.items():
        frame = selected.collect()
        schema = arrow_schema(frame.schema, pa.schema([]))
        draft.table(name, schema, [frame.sort(order_of(name, schema), nulls_last=False)])


def arrow_schema(schema: pl.Schema, known: pa.Schema) -> pa.Schema:
    """Arrow types that `datasets` and every reader know; those columns that `known` has come first, with its types."""
    own = pl.DataFrame(schema=schema).to_arrow().schema
    fields = [known.field(name) for name in known.names if name in schema]
    fields += [pa.field(f.name, _plain_type(f.type)) for f in own if f.name not in known.names]
    return pa.schema(fields)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, _plain_type(f.type)) for f in kind])
    return kind


def _chosen(traces: Parts, decisions: Decisions) -> tuple[pa.Schema, Iterator[pl.DataFrame]]:
    """Schema and batches of the chosen traces, in the order of their ids."""
    order = decisions.chosen["id"]
    wanted = _with_decision(traces.scan(), decisions.chosen)
    schema = arrow_schema(wanted.collect_schema(), traces.schema)
    if not order.is_sorted():  # ids that hold characters before '/' can sort unlike their problems
        return schema, iter([wanted.sort("id").collect().select(schema.names)])
    return schema, _chosen_parts(traces, decisions, schema.names)


def _chosen_parts(traces: Parts, decisions: Decisions, names: Sequence[str]) -> Iterator[pl.DataFrame]:
    added = [name for name in decisions.frame.columns if name not in DECISION]
    for part, decided in _beside_decisions(traces, decisions):
        chosen = decided["stage"].is_null()
        yield part.filter(chosen).hstack(decided.filter(chosen).select(added).get_columns()).select(names)


def _beside_decisions(traces: Parts, decisions: Decisions) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Each part of the traces and, row by row, what was decided about it."""
    start = 0
    for part in traces.frames():
        decided = decisions.frame.slice(start, part.height)
        start += part.height
        if not decided["id"].equals(part["id"]):  # a stage was free to change the order
            decided = part.select("id").join(decisions.frame, on="id", how="left", maintain_order="left")
        yield part, decided


def _folded(plan: Plan, schema: pa.Schema, chosen: Iterator[pl.DataFrame]) -> tuple[pa.Schema, Iterator[pl.DataFrame]]:
    """Schema and batches of the rows that the method folds the chosen traces into, whole problems at a time."""
    nothing = pl.DataFrame(schema.empty_table())
    names = plan.fold(nothing.lazy()).collect_schema()
    common = [field for field in schema if field.name in (*ROWS.names, TOOLS.name)]
    folded = arrow_schema(
        names, pa.schema([field for field in common if names.get(field.name) == nothing.schema[field.name]])
    )

    def batches() -> Iterator[pl.DataFrame]:
        for piece in _whole_problems(chosen):
            yield plan.fold(piece.lazy()).sort("id").collect().select(folded.names)

    return folded, batches()


def _whole_problems(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Frames in the order of problem_id, cut anew so that no problem lies in two."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        if frame.is_empty():
            continue
        last = pl.col("problem_id") == frame["problem_id"][-1]
        ended, open_ = frame.filter(~last), frame.filter(last)
        if ended.is_empty() and held and held[-1]["problem_id"][-1] == frame["problem_id"][-1]:
            held.append(open_)
            continue
        if held or not ended.is_empty():
            yield pl.concat([*held, ended])
        held = [open_]
    if held:
        yield pl.concat(held)


def _with_decision(traces: pl.LazyFrame, chosen: pl.DataFrame) -> pl.LazyFrame:
    """The traces that are chosen, with what selectors added."""
    added = [name for name in chosen.columns if name not in DECISION]
    return traces.join(chosen.lazy().select("id", *added), on="id", how="inner", maintain_order="left")


def _rejected(
    staged: Staged, decisions: Decisions, source_rejections: Iterable[Mapping[str, Any]]
) -> Iterator[pl.DataFrame]:
    """Rows lost at the source, problems and traces turned down by the method, traces turned down later: merged in order."""
    order = order_of("rejected", REJECTED)
    lost = pl.DataFrame(pa.Table.from_pylist([dict(row) for row in source_rejections], REJECTED)).sort(order)
    nameless = pl.col("problem_id").is_null()
    yield lost.filter(nameless)
    streams = [iter([lost.filter(~nameless)]), staged.refused.frames(), _turned_down(staged.traces, decisions)]
    for piece in _merged(streams, "problem_id"):
        yield piece.sort(order)


def _merged(streams: Sequence[Iterator[pl.DataFrame]], by: str) -> Iterator[pl.DataFrame]:
    """Streams that are sorted by one column, as one: what equals in it comes in one piece, in no order within it."""
    reached = dict.fromkeys(range(len(streams)), "")
    held: list[pl.DataFrame] = []
    while reached:
        slowest = min(reached, key=reached.__getitem__)
        piece = next(streams[slowest], None)
        if piece is None:
            del reached[slowest]
        elif piece.height:
            reached[slowest] = piece[by][-1]
            held.append(piece)
        if not held:
            continue
        rows = pl.concat(held)
        complete = rows[by] < min(reached.values()) if reached else rows[by].is_not_null()
        yield rows.filter(complete)
        held = [rows.filter(~complete)]


def _turned_down(traces: Parts, decisions: Decisions) -> Iterator[pl.DataFrame]:
    for part, decided in _beside_decisions(traces, decisions):
        down = decided["stage"].is_not_null()
        rows = part.filter(down).select("problem_id", row=pl.struct(part.columns).struct.json_encode())
        yield rows.hstack(decided.filter(down).select(*DECISION).get_columns()).select(REJECTED.names)


def _problems(staged: Staged, decisions: Decisions) -> Iterator[pl.DataFrame]:
    """Settle what became of each problem: chosen where a trace of it is, else why not."""
    problem = pl.col("id").str.replace(r"/[^/]*$", "").alias("problem_id")
    why = pl.concat_str("stage", "reason", separator=": ").drop_nulls().first()
    fate = decisions.frame.group_by(problem).agg(chosen=pl.col("stage").is_null().any(), why=why)
    seen = 0
    for part in staged.problems.frames():
        ids = part["problem_id"]
        theirs = fate.filter(pl.col("problem_id").is_between(pl.lit(ids[0]), pl.lit(ids[-1])))
        frame = part.join(theirs, on="problem_id", how="left", maintain_order="left")
        open_, chosen = pl.col("outcome").is_null(), pl.col("chosen").fill_null(value=False)
        settled = frame.with_columns(
            outcome=pl.when(open_ & chosen)
            .then(pl.lit("chosen"))
            .when(open_)
            .then(pl.lit("none_chosen"))
            .otherwise("outcome"),
            reason=pl.when(open_ & chosen)
            .then(None)
            .when(open_)
            .then(pl.coalesce("why", pl.lit("no_trace")))
            .otherwise("reason"),
        )
        seen += len(settled)
        yield settled.select(staged.problems.schema.names)
    if seen != staged.problems.rows:
        raise CountsDiffer(f"problems: {staged.problems.rows:,} were staged and {seen:,} are written")


def _samples(refs: Parts, journal: Journal) -> Iterator[pa.RecordBatch]:
    """Every completion that the version rests on, with its text and tokens from the journal."""
    ordered = refs.scan().select(SAMPLE_REFS.names).sort("key").collect()
    if (twice := (ordered["key"] == ordered["key"].shift()).sum()) > 0:
        raise CountsDiffer(f"samples: {twice:,} keys stand for more than one sample")
    for piece in ordered.iter_slices(512):
        found = {key: value for key, value in journal.read(piece["key"]) if isinstance(value, Completion)}
        if missing := [key for key in piece["key"] if key not in found]:
            raise CountsDiffer(
                f"samples: the journal no longer holds {len(missing):,} completions, such as {missing[0]}"
            )
        yield from _sample_batches(piece, [found[key] for key in piece["key"]])


def _sample_batches(refs: pl.DataFrame, completions: list[Completion]) -> Iterator[pa.RecordBatch]:
    start, size = 0, 0
    for end, completion in enumerate(completions, start=1):
        size += len(completion.text) + 4 * completion.n_tokens
        if size >= SAMPLE_BYTES or end == len(completions):
            yield _sample_batch(refs[start:end], completions[start:end])
            start, size = end, 0


def _sample_batch(refs: pl.DataFrame, completions: list[Completion]) -> pa.RecordBatch:
    columns: dict[str, Any] = {
        name: pa.array(refs[name].to_list(), SAMPLE_REFS.field(name).type) for name in refs.columns
    }
    columns["text"] = pa.array([c.text for c in completions], pa.string())
    columns["token_ids"] = _token_lists(completions)
    columns["n_tokens"] = pa.array([c.n_tokens for c in completions], pa.int64())
    columns["finish_reason"] = pa.array([c.finish_reason for c in completions], pa.string())
    return pa.RecordBatch.from_arrays([columns[name] for name in SAMPLES.names], schema=SAMPLES)


def _token_lists(completions: list[Completion]) -> Any:
    """A list column made of the completions' own buffers: 30,000 token ids are never 30,000 Python objects."""
    lengths = [len(c.token_ids or ()) for c in completions]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    known = [np.frombuffer(c.token_ids, np.int32) for c in completions if c.token_ids]
    values = np.concatenate(known) if known else np.empty(0, np.int32)
    missing: Any = pa.array([c.token_ids is None for c in completions])
    tokens: Any = pa.array(values, pa.int32())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), tokens, mask=missing)


def _in_order(name: str, parts: Parts) -> tuple[pa.Schema, Iterator[pl.DataFrame]]:
    """Schema and batches of a table of the method's own: its problems come in order, and the rows of each are sorted here."""
    schema = arrow_schema(parts.scan().collect_schema(), parts.schema)
    order = order_of(name, schema)
    pieces = (piece.sort(order, nulls_last=False) for piece in _whole_problems(parts.frames()))
    return schema, (piece.select(schema.names) for piece in pieces)


def as_rejected(problem_id: str | None, reason: str, evidence: Mapping[str, Any], row: str | None) -> dict[str, Any]:
    """A source row that became no problem, as a row of `rejected`."""
    text = json.dumps(dict(evidence), ensure_ascii=False, sort_keys=True, default=str)
    return {"id": None, "problem_id": problem_id, "stage": "source", "reason": reason, "evidence": text, "row": row}
