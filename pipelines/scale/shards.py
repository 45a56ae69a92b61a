"""`tracemill build RECIPE --shard i/N` and `tracemill gather RECIPE`: one version from many processes, machines and days.

    problems ──shard_of(id, N) = i──▶ synthesize ──▶ journal ──▶ segments at a URL
                                                                      └──all of them──▶ gather = a build that samples nothing

A shard makes no version: it answers its problems and keeps what was said. Whoever has all journals then has the version, and
N may change from run to run, because a journal knows requests and not shards.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracemill.pipelines.build import (
    Built,
    build,
    open_shop,
    read_problems,
    refuse_if_interrupted,
    synthesized,
)
from tracemill.pipelines.plan import resolve
from tracemill.pipelines.running.brake import Brake
from tracemill.pipelines.running.progress import Report
from tracemill.pipelines.running.spool import Spool
from tracemill.pipelines.running.tally import Tally
from tracemill.pipelines.scale.shard_work import Shard, alone_with_problems, locked_shard
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe
from tracemill.synth.backends.scripted import Reply

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True, slots=True)
class ShardDone:
    """A shard whose problems all have their outcome."""

    name: str
    shard: Shard
    tally: Tally
    sent: int
    """Segments that went to where they are shared."""

    def summary(self) -> Mapping[str, Any]:
        """The last line of `tracemill build --shard --json`."""
        meter = self.tally.meter
        return {
            "name": self.name,
            "shard": str(self.shard),
            "problems": self.tally.total,
            "done": self.tally.done,
            "failed": self.tally.failed,
            "samples_new": meter.samples_new,
            "samples_replayed": meter.samples_replayed,
            "tokens_new": meter.tokens_new,
            "segments_sent": self.sent,
        }

    def line(self, recipe: str) -> str:
        """What a person reads at the end; `recipe` as it stands on the command line."""
        meter = self.tally.meter
        failed = f" ({self.tally.failed:,} failed)" if self.tally.failed else ""
        return (
            f"shard {self.shard} done: {self.tally.done:,} problems{failed}, {meter.samples_new:,} samples new, "
            f"{meter.samples_replayed:,} replayed; when all are done: tracemill gather {recipe}"
        )


def build_shard(
    recipe: Recipe,
    store: Store,
    shard: Shard,
    *,
    reply: Reply | None = None,
    report: Report | None = None,
    brake: Brake | None = None,
    patience: float = 0.0,
) -> ShardDone:
    """Answer the problems of one shard, or go on where the last run stopped; the samples are in the journal when it returns.

    Raises what `build` raises, LockHeld where the shard runs already and does not end in `patience` seconds, and SegmentsLost where samples did not get to where they
    are shared.
    """
    report = report or Report()
    plan = resolve(recipe, runtime=store.engines_folder, vectors=store.vectors_folder, reply=reply)
    check_shards(recipe)
    work = store.work_folder(recipe.name)
    with locked_shard(work, recipe.name, shard, patience) as place:
        report.step("reading problems")
        with alone_with_problems(work), Spool(work / "spool.sqlite") as whole:
            read_problems(plan, store, whole, report)
            spool = whole.of_shard(place / "spool.sqlite", shard.number, shard.of)
        with spool, open_shop(plan, store, report, shard.pair) as (shop, segments):
            tally = asyncio.run(synthesized(plan, spool, shop, report, segments, brake, share_failures=True))
        refuse_if_interrupted(tally)
        if segments is not None:
            segments.all_sent()
    report.step("done")
    return ShardDone(recipe.name, shard, tally, segments.sent if segments else 0)


def gather(
    recipe: Recipe,
    store: Store,
    *,
    called: str | None = None,
    reply: Reply | None = None,
    report: Report | None = None,
    client: "Client | None" = None,
    brake: Brake | None = None,
) -> Built:
    """Join what shards have done into the version that one process would have made; nothing is sampled.

    `called` is the recipe as it stands on the command line. Raises ShardsMissing while problems have no outcome.
    """
    return build(recipe, store, gather=called or recipe.name, reply=reply, report=report, client=client, brake=brake)


def check_shards(recipe: Recipe) -> None:
    """A budget cuts the admitted problems where their tokens or rows add up to it, and a shard knows its own only."""
    limits = recipe.budget.model_dump(exclude_none=True)
    if limits:
        raise RecipeError(
            f"budget.{min(limits)}: a budget is cut after the first problems that reach it, and a shard does not know what the "
            "others spend; take [budget] out and bound the build by source.limit, or build in one process"
        )
