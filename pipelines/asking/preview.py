"""`tracemill check` and `tracemill preview`: what a recipe means, and what it will cost, before it is run.

The probes of a preview are real samples of the build's first problems: they are journaled, and the build replays them.
"""

import asyncio
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from tracemill.pipelines.asking.screens import columns
from tracemill.pipelines.build import read_problems, resolver
from tracemill.pipelines.plan import Plan, resolve
from tracemill.pipelines.reading.problem_filters import ProblemFilters
from tracemill.pipelines.reading.sources import source_hash, source_name
from tracemill.pipelines.running import outcomes
from tracemill.pipelines.running.forecast import Foreseen, keep_forecast
from tracemill.pipelines.running.progress import Report
from tracemill.pipelines.running.spool import Spool
from tracemill.pipelines.scale.shard_work import locked_work
from tracemill.pipelines.store import Store
from tracemill.pipelines.synthesize import synthesize
from tracemill.pipelines.versions.lineage import identity_of
from tracemill.schemas.recipe import EngineTable, Recipe
from tracemill.schemas.request import Completion, Request
from tracemill.schemas.rows import Problem
from tracemill.schemas.tables import stored
from tracemill.synth.backends.scripted import Scripted
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.gate import Stopped
from tracemill.synth.journal import Journal
from tracemill.synth.roles import Role, with_backend
from tracemill.synth.workshop import Workshop


def check(recipe: Recipe, store: Store, *, reach: bool = True) -> Iterator[str]:
    """Resolve the recipe, read its sources and, unless `reach` says no, reach its servers; a line for each thing found."""
    plan = resolve(recipe, given=recipe.synth is None, runtime=store.engines_folder, vectors=store.vectors_folder)
    work = store.work_folder(recipe.name)
    with locked_work(work, recipe.name), Spool(work / "spool.sqlite") as spool:
        taken = read_problems(plan, store, spool, Report())
        ProblemFilters(plan, spool)
        counts = spool.ingest_counts()
        if counts is not None:
            merged = f", {counts.merged:,} rows bring further traces" if counts.merged else ""
            yield (
                f"problems  {counts.problems:,}; {counts.rejected:,} rows refused, {counts.collapsed:,} identical rows "
                f"collapsed{merged}"
            )
        for source, part in zip(plan.recipe.source, taken, strict=True):
            if part.left_out:
                name = source_name(source)
                yield f"  {name}: {part.problems:,} of {part.held:,} problems taken, {part.left_out:,} left out by its {part.why}"
        for rejection in islice(spool.source_rejections(), 5):
            yield f"  refused row {rejection.row_number}: {rejection.reason}"
    if reach:
        asyncio.run(_reach(plan))
    for name, role in plan.roles.items():
        drawing = role.defaults
        yield (
            f"model     {name}: {role.model.name} at {role.model.revision}, prompts {role.model.template}, "
            f"temperature {drawing.temperature}, top_p {drawing.top_p}, max_tokens {drawing.max_tokens}"
        )
        yield from _prompt_side(role)
        for level in role.levels.values():
            at = level.adapter
            yield f"level     {name}: {at.kind} {at.name} at {at.scale}, {at.revision}"
    steps = [f"{plugin.name}({_shown(plugin.options)})" for plugin in (plan.method, *plan.scores)]
    steps += [f"{plugin.name}({_shown(plugin.options)})" for plugin in (*plan.filters, *plan.selectors)]
    yield f"steps     {' -> '.join(steps)}"
    yield "the recipe can be built"


def _prompt_side(role: Role) -> Iterator[str]:
    """What is shown to a model beside the question, and how its thoughts are told from its answer."""
    if role.system is not None:
        yield f"  system    {role.system!r}"
    for name, value in (role.template_kwargs or {}).items():
        yield f"  template  {name} = {json.dumps(value)}"
    opened = "; the prompt opens the thought" if role.opens_thought else ""
    yield f"  thoughts  between {role.think[0]} and {role.think[1]}{opened}"
    for note in role.notes:
        yield f"  note      {note}"


async def _reach(plan: Plan) -> None:
    """Ask every server whether it is there; an engine of our own is not started for that."""
    for name, role in plan.roles.items():
        if plan.recipe.engines.get(name, plan.recipe.engines.get("solver", EngineTable())).kind == "openai":
            try:
                await role.backend.start()
            finally:
                await role.backend.close()


def preview(recipe: Recipe, store: Store, *, n: int) -> Iterator[str]:
    """Show the first prompts, sample two probes of n and 4n problems, and forecast the build with ranges."""
    plan = resolve(recipe, runtime=store.engines_folder, vectors=store.vectors_folder)
    work = store.work_folder(recipe.name)
    with (
        locked_work(work, recipe.name),
        Spool(work / "spool.sqlite") as spool,
        Journal(store.journal_folder) as journal,
    ):
        read_problems(plan, store, spool, Report())
        for name, role in plan.roles.items():
            yield f"--- {name}: {role.model.name}"
            yield from _prompt_side(role)
        for problem in islice(spool.problems(), n):
            yield f"--- prompt of {problem.problem_id}"
            yield asyncio.run(_first_prompt(plan, problem))
        probes = asyncio.run(_probes(plan, spool, journal, [n, 5 * n]))
        lines = _forecast(plan, spool, probes)
        hashes = [source_hash(source, resolve=resolver(store)) for source in plan.recipe.source]
        keep_forecast(work, identity_of(plan, hashes), lines, probes[-1].problems)
        yield "--- forecast"
        yield from columns([line.shown() for line in lines])
        yield f"from {probes[-1].problems} problems, sampled for real and replayed by the build; ranges are 95 % intervals"


async def _first_prompt(plan: Plan, problem: Problem) -> str:
    """What the method asks first, as the model is shown it; nothing is sampled."""
    seen: list[Request] = []

    def peek(request: Request) -> Completion:
        seen.append(request)
        raise Stopped("a preview looks, and does not sample")

    roles = {name: with_backend(role, Scripted(peek)) for name, role in plan.roles.items()}
    engine = ProblemEngine(Workshop(roles, Journal(), plan.verifier), problem)
    try:
        await plan.method.call(problem, engine)
    except Stopped:
        return _text(plan.roles["solver"], seen[0])
    finally:
        engine.shop.journal.close()
    return "(the method asks nothing)"


def _text(role: Role, request: Request) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    if role.renderer is not None and all(isinstance(token, int) for token in request.prompt):
        return role.renderer.tokenizer.decode(
            [t for t in request.prompt if isinstance(t, int)], skip_special_tokens=False
        )
    return "\n".join(_turns(request))


def _turns(request: Request) -> Iterator[str]:
    """What a server that renders is sent."""
    for what, text in (("tools", request.tools), ("chat_template_kwargs", request.template_kwargs)):
        if text is not None:
            yield f"[{what}] {text}"
    for turn in request.prompt:
        if isinstance(turn, Mapping):
            said = stored(turn)
            more = {name: value for name, value in said.items() if name not in ("role", "content")}
            yield f"[{said['role']}] {said['content']}{' ' + json.dumps(more, ensure_ascii=False) if more else ''}"


@dataclass
class Probe:
    """What sampling the first problems took."""

    problems: int = 0
    tokens: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    seconds: float = 0.0
    tokens_new: int = 0


async def _probes(plan: Plan, spool: Spool, journal: Journal, sizes: Sequence[int]) -> list[Probe]:
    shop = Workshop(plan.roles, journal, plan.verifier)
    try:
        wanted = sizes[-1:] if shop.passes() else sizes  # weights that are loaded in turns are not loaded twice
        return [await _probe(plan, spool, shop, size) for size in wanted]
    finally:
        await shop.close()


async def _probe(plan: Plan, spool: Spool, shop: Workshop, size: int) -> Probe:
    before, started = shop.meter.tokens_new, time.monotonic()
    tally = await synthesize(plan, spool, shop, Report(), limit=size)
    probe = Probe(tally.done, seconds=time.monotonic() - started, tokens_new=shop.meter.tokens_new - before)
    filters = ProblemFilters(plan, spool)
    for problem in islice(spool.problems(), size):
        payload = spool.get_outcome(problem.problem_id, filters.outcome_key(problem))
        if payload is not None and (record := outcomes.decode(payload)).status == "done":
            probe.tokens.append(record.tokens)
            probe.accepted.append(plan.accepted(record.traces))
    return probe


def _forecast(plan: Plan, spool: Spool, probes: Sequence[Probe]) -> list[Foreseen]:
    last, total = probes[-1], spool.count_problems()
    tokens = _range(last.tokens, total)
    accepted = _range(last.accepted, total)
    lines = [Foreseen("problems", None, total, None), Foreseen("tokens", *tokens), Foreseen("accepted rows", *accepted)]
    if accepted[1] > 0:
        low, expected, high = (tokens[1] / max(a, 1) for a in reversed(accepted))
        lines.append(Foreseen("tokens per accepted row", low, expected, high))
    if rates := sorted(p.tokens_new / p.seconds for p in probes if p.tokens_new):
        low, expected, high = tokens[0] / rates[-1], tokens[1] / rates[-1], tokens[2] / rates[0]
        lines.append(Foreseen("seconds", low, expected, high))
        hours = max(1, sum(int(role.backend.facts().get("gpus", 1)) for role in plan.roles.values())) / 3600
        lines.append(Foreseen("GPU-hours", low * hours, expected * hours, high * hours, digits=2))
    low, expected, high = (t * 8 / 1e6 for t in tokens)
    lines.append(Foreseen("disk, MB", low, expected, high))
    return lines


def _range(values: Sequence[int], total: int) -> tuple[float, float, float]:
    """Low, expected and high of a sum over all problems, from the values of a few."""
    if not values:
        return 0.0, 0.0, 0.0
    mean = statistics.fmean(values)
    spread = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else mean
    return max(0.0, mean - spread) * total, mean * total, (mean + spread) * total


def _shown(options: object) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in dict(options).items()) if isinstance(options, dict) else ""
