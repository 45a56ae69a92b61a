"""The requests behind the samples of a version: from the journal that kept them, else from running its method once more.

    keys ──journal──▶ requests                                           (fields that hash to the key)
      └──▶ their problems ──method, on the answers that are recorded──▶ the requests it makes, those among them whose key is wanted

Either way the key proves the request, so nothing that was asked differently is taken for it.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from tracemill.pipelines.asking.looking import LookedAt, Looking
from tracemill.pipelines.asking.reasons import columns_of
from tracemill.pipelines.plan import Plan
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.schemas.request import Capability, Completion, Request, TokenScores
from tracemill.schemas.rows import Problem
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.gate import Stopped
from tracemill.synth.journal import Journal
from tracemill.synth.journal.asked import request_of
from tracemill.synth.roles import with_backend
from tracemill.synth.workshop import Workshop

_PROBLEM = dict.fromkeys(("problem_id", "question", "gold", "source", "difficulty"), pl.String)


def requests_kept(journal: Journal, keys: Iterable[str]) -> Iterator[tuple[str, Request]]:
    """Those of the keys whose request the journal kept."""
    for key, fields in journal.requests(keys):
        try:
            request = request_of(fields)
        except TypeError:
            continue  # another release wrote it, and this one cannot ask it
        if request.key == key:
            yield key, request


def requests_made(
    plan: Plan,
    problems: Sequence[Problem],
    journal: LookedAt,
    recorded: Mapping[str, Completion],
    wanted: set[str],
    *,
    neighbours: Callable[[Problem], tuple[Problem, ...]],
) -> dict[str, Request]:
    """The wanted requests that the method makes for these problems, on the answers in the journal and the recorded ones."""
    answers = _Recorded(journal, recorded)
    roles = {name: with_backend(role, answers) for name, role in plan.roles.items()}

    async def run() -> None:
        with Journal() as empty:
            shop = Workshop(roles, empty, plan.verifier, neighbours=neighbours)
            for problem in problems:
                try:
                    await plan.method.call(problem, ProblemEngine(shop, problem))
                except Stopped:
                    continue
                except Exception:  # noqa: BLE001, S112 - what it asked up to there is known; why it failed is its version's affair
                    continue

    asyncio.run(run())
    return {key: request for key, request in answers.asked.items() if key in wanted}


def problems_of(dataset: Dataset, spool: Looking, problem_ids: Iterable[str]) -> dict[str, Problem]:
    """The problems as the last build read them, or as far as the version's own table tells."""
    wanted = sorted(set(problem_ids))
    found = {name: record.problem for name in wanted if (record := spool.earlier(name)) is not None}
    rest = [name for name in wanted if name not in found]
    table = columns_of(dataset, "problems", _PROBLEM).filter(pl.col("problem_id").is_in(rest))
    for row in table.collect(engine="streaming").to_dicts():
        found[row["problem_id"]] = Problem(**{**row, "question": row["question"] or "", "source": row["source"] or ""})
    return found


@dataclass
class _Recorded:
    """A backend that answers what was recorded, and notes what it was asked."""

    journal: LookedAt
    recorded: Mapping[str, Completion]
    asked: dict[str, Request] = field(default_factory=dict)
    capabilities: frozenset[Capability] = frozenset({"complete", "prefix", "logprobs", "score", "adapter"})
    at_once: int = 256

    async def start(self) -> None:
        """Nothing to make ready."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def complete(self, request: Request) -> Completion:
        self.asked[request.key] = request
        found = await self.journal.peek(request.key)
        known = found if isinstance(found, Completion) else self.recorded.get(request.key)
        if known is None:
            raise Stopped("nothing was recorded for it")
        return replace(known, key="")

    async def score(self, request: Request) -> TokenScores:
        found = await self.journal.peek(request.key)
        if not isinstance(found, TokenScores):
            raise Stopped("no scores were recorded for it")
        return found

    def facts(self) -> dict[str, Any]:
        return {}

    def progress(self) -> Sequence[str]:
        return ()
