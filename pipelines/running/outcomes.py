"""What became of one problem, as one record: made by a method, verified and scored here, kept in the spool."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from tracemill.pipelines.plan import Plan
from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.schemas.errors import ProblemFailed, RecipeError
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace, Verdict
from tracemill.schemas.tables import COMMON, stored
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.reply import never_closed, split_reasoning, with_opening
from tracemill.synth.roles import THINK, Role
from tracemill.synth.workshop import Drawn


class Refused(msgspec.Struct, array_like=True):
    """A trace, or a whole problem (`row` is null), that never reached the filters."""

    id: str | None
    stage: str
    reason: str
    evidence: str
    row: str | None = None


class RoleCounts(msgspec.Struct):
    """Samples of one role; undecided and truncated stand inside total, never in correct."""

    role: str
    correct: int = 0
    total: int = 0
    undecided: int = 0
    truncated: int = 0
    unclosed: int = 0
    """Thoughts that never closed."""

    def add(self, other: "RoleCounts") -> None:
        """Count the samples of another problem too."""
        for name in ("correct", "total", "undecided", "truncated", "unclosed"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Record(msgspec.Struct):
    """One problem's outcome. `done` is final for its key; `failed` is owed again at the next run."""

    problem: Problem
    status: Literal["done", "filtered", "failed"]
    reason: str | None = None
    prompt: list[dict[str, Any]] | None = None
    traces: list[dict[str, Any]] = []
    tables: dict[str, list[dict[str, Any]]] = {}
    refused: list[Refused] = []
    drawn: list[dict[str, Any]] = []
    """Rows of `samples` without what the journal holds."""
    counts: list[RoleCounts] = []
    tokens: int = 0
    """Of all its samples, new and replayed."""


OWN_COLUMNS = ("problem_id", "question", "gold", "solution", "source", "licence", "difficulty")
"""The texts of a problem that problem filters see beside the other columns of its source row."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    return _encoder.encode(record)


def decode(payload: bytes) -> Record:
    return _decoder.decode(payload)


async def work(plan: Plan, problem: Problem, engine: ProblemEngine) -> Record:
    """Run the method on one problem, then verify and score what it made."""
    outcome = _checked(plan, problem, await plan.method.call(problem, engine))
    verdicts = await _verdicts(engine, problem, outcome.traces)
    by_key = {t.key: v for t, v in zip(outcome.traces, verdicts, strict=True) if t.key} | engine.verdicts
    counts = _counts(engine.drawn, by_key) or _counts_of_given(outcome.traces, verdicts)
    rows = [trace_row(plan, problem, t, v) for t, v in zip(outcome.traces, verdicts, strict=True)]
    for score in plan.scores:
        for row in rows:
            await scored(score, row, engine)
    return Record(
        problem=problem,
        status="done",
        prompt=rows[0]["messages"][:-1] if rows else None,
        traces=rows,
        tables={name: [dict(row) for row in table] for name, table in outcome.tables.items()},
        refused=[_refused(plan, problem, trace, why, engine) for trace, why in outcome.rejections],
        drawn=[_sample(drawn, by_key) for drawn in engine.drawn],
        counts=counts,
        tokens=sum(drawn.n_tokens for drawn in engine.drawn),
    )


async def scored(score: Plugin, row: dict[str, Any], engine: ProblemEngine) -> None:
    """Add what a score says of a trace."""
    row.update(_new_columns(score.name, row, await score.call(dict(row), engine)))


def failed(problem: Problem, failure: BaseException) -> Record:
    """The record of a problem that raised."""
    text = str(failure) if isinstance(failure, ProblemFailed) else f"{type(failure).__name__}: {failure}"
    return Record(problem=problem, status="failed", reason=text)


def filtered(problem: Problem, name: str, verdict: Mapping[str, str]) -> Record:
    """The record of a problem that a problem filter turned down."""
    row = problem_json(problem)
    why = Refused(None, "problem_filter", verdict["reason"], verdict["evidence"], row)
    return Record(problem=problem, status="filtered", reason=f"{name}: {verdict['reason']}", refused=[why])


def problem_columns(problem: Problem) -> dict[str, Any]:
    """What a problem filter sees: the problem's own columns, and those of its source row."""
    return {**problem.meta, **{name: getattr(problem, name) for name in OWN_COLUMNS}}


def problem_json(problem: Problem) -> str:
    return msgspec.json.encode(problem, enc_hook=dict).decode()


def verdict_text(verdict: Verdict) -> str:
    """`equal`, `different` or `undecided`, with the reason behind it where there is one."""
    return f"{verdict.status}: {verdict.reason}" if verdict.reason else verdict.status


def _checked(plan: Plan, problem: Problem, outcome: object) -> Outcome:
    """The outcome, if it has the form that the rest relies on."""
    if not isinstance(outcome, Outcome):
        raise RecipeError(f"{plan.method.name} returned {type(outcome).__name__}; a method returns an Outcome")
    if clash := COMMON & outcome.tables.keys():
        raise RecipeError(
            f"{plan.method.name} makes a table {min(clash)!r}, which every version has; give it another name"
        )
    for name, table in outcome.tables.items():
        if strays := {row.get("problem_id", problem.problem_id) for row in table} - {problem.problem_id}:
            raise ProblemFailed(f"the method's table {name!r} has rows of another problem: {min(strays, key=str)!r}")
    _check_names(problem, outcome.traces)
    return outcome


def _new_columns(score: str, row: Mapping[str, Any], given: object) -> Mapping[str, Any]:
    """What a score adds. It may not change what is there: a verdict or a gold that a judge overwrites is worth nothing."""
    if not isinstance(given, Mapping):
        raise RecipeError(f"{score} returned {type(given).__name__}; a score returns a mapping of its new columns")
    if clash := sorted(row.keys() & given.keys()):
        raise RecipeError(
            f"{score} returns {', '.join(clash)}, which the trace has already; give its columns other names"
        )
    return given


def _check_names(problem: Problem, traces: Sequence[Trace]) -> None:
    names = [trace.name for trace in traces]
    if len(set(names)) < len(names) or any("/" in name or not name for name in names):
        raise ProblemFailed(f"the method gave its traces names that repeat, are empty or hold '/': {sorted(names)[:5]}")
    if strays := {trace.problem_id for trace in traces} - {problem.problem_id}:
        raise ProblemFailed(f"the method made traces for other problems: {sorted(strays)[:3]}")


async def _verdicts(engine: ProblemEngine, problem: Problem, traces: Sequence[Trace]) -> list[Verdict]:
    """The verdicts that the method asked for itself, and those of all other traces."""
    known = [_known_verdict(engine, trace) for trace in traces]
    solver = engine.shop.roles.get("solver")
    unknown = [trace for trace, verdict in zip(traces, known, strict=True) if verdict is None]
    texts = [(t.text, t.finish_reason == "length", _opened(solver, t)) for t in unknown]
    found = iter(await engine.verify_all(texts, problem.gold))
    return [verdict or next(found) for verdict in known]


def _known_verdict(engine: ProblemEngine, trace: Trace) -> Verdict | None:
    """What the method says itself, or asked for while it ran."""
    return trace.verdict or engine.verdicts.get(trace.key or "")


def trace_row(plan: Plan, problem: Problem, trace: Trace, verdict: Verdict | None) -> dict[str, Any]:
    """A trace as scores, filters and tables see it."""
    solver = plan.roles.get("solver")
    think, opened = solver.think if solver else THINK, _opened(solver, trace)
    reasoning, content = split_reasoning(trace.text, think, opened=opened)
    prompt = solver.conversation(trace.prompt) if solver else trace.prompt
    turns = [*map(stored, prompt), {"role": "assistant", "content": with_opening(trace.text, think, opened=opened)}]
    tools = {"tools": tools_text(problem)} if problem.tools else {}
    return {
        "id": trace.id,
        "problem_id": problem.problem_id,
        "question": problem.question,
        "messages": turns,
        **tools,
        "reasoning": reasoning,
        "content": content,
        "answer": verdict.answer if verdict else None,
        "gold": problem.gold,
        "correct": verdict.correct if verdict else None,
        "verdict": verdict_text(verdict) if verdict else None,
        "n_tokens": trace.n_tokens,
        "tokenizer": trace.counted or _counter(solver, trace),
        "finish_reason": trace.finish_reason,
        "model": trace.model,
        "source": problem.source,
        "licence": problem.licence,
        "difficulty": problem.difficulty,
        "key": trace.key,
        **trace.columns,
    }


def _opened(solver: Role | None, trace: Trace) -> bool:
    """Whether the text begins inside a thought, because the prompt that it answers opened one."""
    return solver is not None and trace.key is not None and not trace.whole and solver.opens_thought


def tools_text(problem: Problem) -> str:
    """The tools of a problem as the column `tools` has them."""
    return msgspec.json.encode(problem.tools, enc_hook=dict).decode()


def _counter(solver: Role | None, trace: Trace) -> str:
    """Whose tokens are counted: the solver's, or words for a given trace without a tokenizer at hand."""
    return solver.tokenizer if solver and (trace.key or solver.renderer) else "words"


def _refused(plan: Plan, problem: Problem, trace: Trace | None, why: Rejection, engine: ProblemEngine) -> Refused:
    evidence = json.dumps(dict(why.evidence), ensure_ascii=False, sort_keys=True, default=str)
    if trace is None:
        return Refused(None, "method", why.reason, evidence, problem_json(problem))
    row = json.dumps(trace_row(plan, problem, trace, _known_verdict(engine, trace)), ensure_ascii=False, default=str)
    return Refused(trace.id, "method", why.reason, evidence, row)


def _sample(drawn: Drawn, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    verdict = verdicts.get(drawn.key)
    return {
        "key": drawn.key,
        "role": drawn.role,
        "adapter": drawn.adapter,
        "scale": drawn.scale,
        "seed": drawn.seed,
        "verdict": verdict_text(verdict) if verdict else None,
    }


def _counts(drawn: Sequence[Drawn], verdicts: Mapping[str, Verdict]) -> list[RoleCounts]:
    counts: dict[str, RoleCounts] = {}
    for sample in drawn:
        count = counts.setdefault(sample.role, RoleCounts(sample.role))
        verdict = verdicts.get(sample.key)
        count.total += 1
        count.truncated += sample.truncated
        count.unclosed += sample.unclosed
        count.correct += verdict is not None and verdict.status == "equal"
        count.undecided += verdict is None or verdict.status == "undecided"
    return [counts[role] for role in sorted(counts)]


def _counts_of_given(traces: Sequence[Trace], verdicts: Sequence[Verdict]) -> list[RoleCounts]:
    """Given traces are counted under the role `given`."""
    if not traces:
        return []
    return [
        RoleCounts(
            "given",
            correct=sum(v.status == "equal" for v in verdicts),
            total=len(traces),
            undecided=sum(v.status == "undecided" for v in verdicts),
            truncated=sum(t.finish_reason == "length" for t in traces),
            unclosed=sum(never_closed(t.text, THINK) for t in traces),
        )
    ]
