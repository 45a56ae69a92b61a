"""`tracemill build recipe.toml`: from problems to a versioned dataset. Start reading here.

    sources ──read──▶ problems ──synthesize──▶ outcomes ──stage──▶ traces ──decide──▶ chosen ──commit──▶ <store>/<name>/<version>/

Every arrow is a line of `build`. Run it again after a crash and it goes on where it stopped; run it again after it finished
and it returns the same version without sampling a token.
"""

import asyncio
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracemill.pipelines.cards.summaries import plain_summary, summary_of
from tracemill.pipelines.choosing.assemble import as_rejected, assemble
from tracemill.pipelines.choosing.staging import Staged, stage
from tracemill.pipelines.curate import Decisions, decide
from tracemill.pipelines.export import write_view
from tracemill.pipelines.judging.facts import inherited
from tracemill.pipelines.plan import Plan, code_hash, resolve
from tracemill.pipelines.reading.mixing import Taken, mix
from tracemill.pipelines.reading.readers import Resolve
from tracemill.pipelines.reading.sources import read_source, source_hash, source_key
from tracemill.pipelines.report.cards import card_pictures
from tracemill.pipelines.running import outcomes
from tracemill.pipelines.running.brake import Brake
from tracemill.pipelines.running.forecast import kept_forecast
from tracemill.pipelines.running.outcomes import Record
from tracemill.pipelines.running.progress import Report
from tracemill.pipelines.running.segments import Segments, open_segments
from tracemill.pipelines.running.spool import Spool
from tracemill.pipelines.running.tally import Tally, too_many
from tracemill.pipelines.scale.shard_work import adopt_shards, locked_work, refuse_missing, remove_shards
from tracemill.pipelines.store import Dataset, Store, parse_ref
from tracemill.pipelines.synthesize import synthesize
from tracemill.pipelines.versions.lineage import accuracy_of, card_of, identity_of, made_from, resolved_toml
from tracemill.pipelines.versions.parents import with_parents
from tracemill.pipelines.versions.sharing import Shared
from tracemill.schemas.errors import CountsDiffer, Interrupted, RecipeError, ShardsMissing, TooManyFailures
from tracemill.schemas.recipe import Recipe
from tracemill.schemas.rows import Problem, draw
from tracemill.synth.backends.scripted import Reply
from tracemill.synth.journal import Journal
from tracemill.synth.workshop import Workshop

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True, slots=True)
class Built:
    """A finished build: the version, and what the run did for it."""

    dataset: Dataset
    tally: Tally
    why_partial: str | None = None
    shared: Shared = field(default_factory=Shared)
    """What the version has in common with older ones, on the disk too."""
    notes: Sequence[str] = ()
    """What a person should know of the run although it is done."""
    report: Path | None = None
    """The page about the version, where one was written."""

    def summary(self) -> dict[str, Any]:
        """The last line of `tracemill build --json`."""
        tables = self.dataset.manifest()["tables"]
        return {
            "name": self.dataset.name,
            "version": self.dataset.version,
            "path": str(self.dataset.path),
            "problems": tables["problems"]["rows"],
            "rows": tables["rows"]["rows"],
            "rejected": tables["rejected"]["rows"],
            "samples_new": self.tally.meter.samples_new,
            "samples_replayed": self.tally.meter.samples_replayed,
            "tokens_new": self.tally.meter.tokens_new,
            "complete": self.why_partial is None,
        }


def build(
    recipe: Recipe,
    store: Store,
    *,
    given: bool = False,
    partial: bool = False,
    reply: Reply | None = None,
    report: Report | None = None,
    client: "Client | None" = None,
    brake: Brake | None = None,
    gather: str | None = None,
) -> Built:
    """Build the recipe's dataset, or go on where the last build of it stopped.

    `given` takes traces that the source brings (`tracemill curate`); `partial` samples nothing and commits what is done;
    `gather` samples nothing either, commits what shards have done, and raises ShardsMissing while anything lacks: it is the recipe
    as it stands on the command line; `reply` answers in place of a scripted engine's script; the workers of `client`, a Dask
    cluster, help to select, and choose the same rows; `brake` stops it from another thread. Errors and their exit codes:
    schemas/errors.py.
    """
    report = report or Report()
    plan = resolve(recipe, given=given, runtime=store.engines_folder, vectors=store.vectors_folder, reply=reply)
    work = store.work_folder(recipe.name)
    gathering = gather is not None
    with locked_work(work, recipe.name), Spool(work / "spool.sqlite") as spool:
        taken = read_problems(plan, store, spool, report)
        if gathering:
            adopt_shards(spool, work, report)
        with open_shop(plan, store, report) as (shop, segments):
            doing = synthesized(
                plan, spool, shop, report, segments, brake, only_known=partial or gathering, share_failures=gathering
            )
            tally = asyncio.run(doing)
            _refuse_unmeasured(plan, tally, gather)
            why_partial = _why_partial(tally, spool, partial=partial)
            if gather is not None:
                refuse_missing(spool, work, store.journal_folder, gather)
            _refuse_if_all_failed(tally)
            report.step("staging")
            staged = stage(_records(spool, tally), work / "staged", plan.columns, plan.own_tables)
            _all_there(staged, spool, why_partial)
            report.step("filtering and selecting")
            decisions = decide(plan, staged.traces.scan(), staged.problems.scan(), client=client, folder=work)
            report.step("committing")
            dataset, shared, notes = _commit(plan, store, spool, shop, staged, decisions, taken, tally, why_partial)
            staged.remove()
            if gathering:
                remove_shards(work)
            notes = [*shop.housekeeping, *notes]
    built = Built(dataset, tally, why_partial, shared, notes)
    report.done(built)
    return built


@contextmanager
def open_shop(
    plan: Plan, store: Store, report: Report, shard: tuple[int, int] | None = None
) -> Iterator[tuple[Workshop, Segments | None]]:
    """Journal, models and verifier of one run, and the place where machines share their samples, where the recipe names one."""
    segments = open_segments(plan.recipe, store.journal_folder, shard)
    if segments is not None:
        report.step("fetching samples of other machines")
        segments.begin()
    mark = f"{shard[0]}of{shard[1]}" if shard else ""
    shop = Workshop(plan.roles, Journal(store.journal_folder, mark=mark), plan.verifier)
    if segments is not None:
        shop.housekeeping = segments.notes
    try:
        yield shop, segments
    finally:
        shop.journal.close()


async def synthesized(
    plan: Plan,
    spool: Spool,
    shop: Workshop,
    report: Report,
    segments: Segments | None,
    brake: Brake | None = None,
    *,
    only_known: bool = False,
    share_failures: bool = False,
) -> Tally:
    """Take the problems of the spool to their outcomes, send what is sampled where it is shared, and let go of the engines."""
    try:
        async with segments.shipping(shop.journal) if segments is not None else nullcontext():
            return await synthesize(
                plan, spool, shop, report, only_known=only_known, share_failures=share_failures, brake=brake
            )
    finally:
        await shop.close()


def read_problems(plan: Plan, store: Store, spool: Spool, report: Report) -> list[Taken]:
    """Read every source to its end, unless the spool holds just these problems from an earlier run; take the mix of them."""
    report.step("reading problems")
    sources = plan.recipe.source
    key = source_key(sources, resolve=resolver(store), code=code_hash())
    if not spool.has_problems(key):
        rows = (row for i, source in enumerate(sources) for row in read_source(source, i, resolve=resolver(store)))
        spool.ingest(key, rows)
    counts = spool.ingest_counts()
    if counts is None or counts.problems == 0:
        reasons = sorted({rejection.reason for rejection in spool.source_rejections()})
        raise RecipeError(
            f"the sources hold no usable problem; rows were refused for: {', '.join(reasons) or 'nothing'}"
        )
    if counts.rejected > plan.recipe.tolerate:
        raise TooManyFailures(too_many(plan.recipe.tolerate, counts.rejected, 0, _reasons(spool)))
    return mix(plan, spool)


def _records(spool: Spool, tally: Tally) -> Iterator[tuple[Problem, Record]]:
    """The outcomes of this run's problems up to the budget's cut, by problem id."""
    for problem_id, payload in spool.outcomes():
        if tally.cut is None or draw(problem_id) <= tally.cut:
            record = outcomes.decode(payload)
            yield record.problem, record


def _why_partial(tally: Tally, spool: Spool, *, partial: bool) -> str | None:
    """Why the version will not be complete; raises where the run was interrupted and nothing is to be committed."""
    refuse_if_interrupted(tally, ", or add --partial to commit what is done")
    if partial and tally.done < spool.count_problems():
        return f"--partial: {tally.done:,} of {tally.total:,} problems are done"
    return tally.stopped


def refuse_if_interrupted(tally: Tally, otherwise: str = "") -> None:
    """Raise what a signal stands for, once the run has drained."""
    if tally.signal is not None:
        raise Interrupted(
            f"stopped by a signal after {tally.done:,} of {tally.total:,} problems; all samples drawn are kept: run the same "
            f"command again to go on{otherwise}",
            signal=tally.signal,
        )


def _refuse_unmeasured(plan: Plan, tally: Tally, gather: str | None) -> None:
    """Gathering samples nothing, so its judges have to be measured before: shards do that."""
    if gather is not None and plan.calibrations and tally.calibration is None:
        names = ", ".join(f"{cases.plugin.name} ({cases.file})" for cases in plan.calibrations)
        raise ShardsMissing(
            f"not all cases that calibrate {names} have an answer in the journal; run: tracemill build {gather} --shard 0/1"
        )


def _refuse_if_all_failed(tally: Tally) -> None:
    """A run in which nothing worked is a mistake however much is tolerated: its version would be empty."""
    if tally.failed and tally.failed == tally.done:
        common = "; ".join(f"{count:,} x {reason}" for reason, count in tally.failures.most_common(3))
        raise TooManyFailures(
            f"all {tally.failed:,} problems failed: {common}; nothing is committed, mend that and run again"
        )


def _all_there(staged: Staged, spool: Spool, why_partial: str | None) -> None:
    if why_partial is None and staged.problems.rows != spool.count_problems():
        raise CountsDiffer(
            f"{spool.count_problems():,} problems were read and {staged.problems.rows:,} have an outcome"
        )


def _commit(
    plan: Plan,
    store: Store,
    spool: Spool,
    shop: Workshop,
    staged: Staged,
    decisions: Decisions,
    taken: list[Taken],
    tally: Tally,
    why_partial: str | None,
) -> tuple[Dataset, Shared, list[str]]:
    lost = [as_rejected(r.problem_id, r.reason, r.evidence, r.row) for r in spool.source_rejections()]
    hashes = [source_hash(source, resolve=resolver(store)) for source in plan.recipe.source]
    identity = identity_of(plan, hashes)
    accuracy, summary = accuracy_of(plan, staged), summary_of(plan, staged)
    with store.draft(plan.recipe.name) as draft:
        assemble(draft, plan, staged, decisions, lost, shop.journal)
        for name, view in plan.views.items():
            (folder := draft.path / "views" / name).mkdir(parents=True)
            if write_view(view, draft.path, folder / "train-00000-of-00001.parquet") == 0:
                shutil.rmtree(folder)  # no trainer can load a table without rows
        made = made_from(plan, hashes, taken, staged, decisions, lost, tally, accuracy, summary, why_partial)
        if (forecast := kept_forecast(store.work_folder(plan.recipe.name), identity)) is not None:
            made["forecast"] = forecast
        made["sources"] = with_parents(made["sources"], plan.recipe.source, store)
        if judged := inherited([store.open(source.ref) for source in plan.recipe.source if source.ref is not None]):
            made["judged"] = [*made.get("judged", ()), *judged]
        dataset = draft.commit(
            recipe_toml=resolved_toml(plan.recipe),
            identity=identity,
            manifest=made,
            complete=why_partial is None,
            card=card_of(plan, accuracy, summary, [plain_summary(found) for found in decisions.summaries.values()]),
            draw=card_pictures if plan.recipe.report.pictures else None,
        )
        return dataset, draft.shared, draft.notes


def resolver(store: Store) -> Resolve:
    """How a source's `ref` becomes files: the Parquet files of a table in this store."""

    def files(ref: str) -> list[Path]:
        return store.hold(store.open(ref)).files(parse_ref(ref).table or "rows")

    return files


def _reasons(spool: Spool) -> Counter[str]:
    return Counter(f"source: {rejection.reason}" for rejection in spool.source_rejections())
