"""`tracemill why RECIPE`: what a build would sample, which field of which request is the reason, and what it would cost.

    problems ──spool?──▶ outcome as it was
        └──▶ method on the journal ──▶ all answered: worked out again, nothing sampled
                 └──▶ stopped: every request that it is sure to make        (exact)
                          └──▶ once more, on the answers to the nearest earlier requests: what it would ask next   (an estimate)

Nothing is sampled and nothing is kept: methods run on what the journal holds, as in `build --partial`.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from tracemill.pipelines.asking.changes import DRAWS, FIRST, LONG, NEW, TEXT, Comparison, Nearest
from tracemill.pipelines.asking.costs import Cost, Lengths, summed
from tracemill.pipelines.asking.looking import LookedAt, Looking, looked
from tracemill.pipelines.asking.reasons import differences
from tracemill.pipelines.build import resolver
from tracemill.pipelines.judging.calibrate import calibrate
from tracemill.pipelines.plan import Plan, code_hash, resolve
from tracemill.pipelines.reading.sources import source_hash, source_key
from tracemill.pipelines.running import outcomes
from tracemill.pipelines.running.outcomes import Record
from tracemill.pipelines.running.tally import Tally
from tracemill.pipelines.store import Store
from tracemill.pipelines.synthesize import Run
from tracemill.pipelines.versions.lineage import identity_of
from tracemill.schemas.errors import DiskFull, EngineLost, JudgeRefused, LawBroken, RecipeError
from tracemill.schemas.recipe import Recipe
from tracemill.schemas.request import Capability, Completion, Request, TokenScores
from tracemill.schemas.rows import Problem
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.gate import Stopped
from tracemill.synth.roles import with_backend
from tracemill.synth.workshop import Workshop

SCHEMA = 1
AT_ONCE = 256
OF_A_PROBLEM = ("question", "messages", "tools", "options", "solution", "chains", "kp_list", "kp_kept", "responses")
"""What of a problem a method can put into a prompt."""

Reason = tuple[tuple[str, str | None, str | None], ...]
"""Fields that changed, each with what was and what is, as JSON; null where they are too long to tell."""


@dataclass(slots=True)
class Group:
    """Requests that nobody answered, for one reason."""

    sure: int = 0
    likely: int = 0
    """Those that follow from an answer nobody has: an estimate."""
    problems: int = 0
    cost: Cost = field(default_factory=Cost)
    like: Lengths = field(default_factory=Lengths)
    """Samples of the same role, for those that have no earlier one to be compared with."""


@dataclass(slots=True)
class Missing:
    """A request that the journal cannot answer, and the sample that was compared with it."""

    request: Request
    role: str
    nearest: Nearest
    stand_in: Completion | None = None


@dataclass(slots=True)
class Going:
    """One problem on its way through the method."""

    follow: bool = False
    """Go on after the first missing answer, with that to the nearest earlier request in its place."""
    answered: int = 0
    missing: dict[str, Missing] = field(default_factory=dict)
    compared: Mapping[str, Missing] = field(default_factory=dict)
    """What the way up to there found."""


_going: ContextVar[Going] = ContextVar("going")
"""Of the problem that the present task works on, and the tasks that it starts."""


@dataclass
class Found:
    """What was found, as the methods ran."""

    groups: dict[Reason, Group] = field(default_factory=dict)
    like: dict[str, Lengths] = field(default_factory=dict)
    """Lengths of recorded samples by role."""
    followed: Lengths = field(default_factory=Lengths)
    """Requests of each problem that could be followed to its end."""
    unfollowed: list[int] = field(default_factory=list)
    """Of the others, how many are known."""
    answered: int = 0
    again: int = 0
    """Problems that are worked out again, all from the journal."""
    planted: int = 0
    """New requests that are about the cases of judges."""
    sampled: int = 0
    """Problems of which something would be sampled."""

    def lengths(self, role: str) -> Lengths:
        return self.like.setdefault(role, Lengths())


def why(recipe: Recipe, store: Store) -> dict[str, Any]:
    """What a build of this recipe would do now, as plain data; errors as of `build`."""
    plan = resolve(recipe, given=recipe.synth is None, runtime=store.engines_folder, vectors=store.vectors_folder)
    key = source_key(plan.recipe.source, resolve=resolver(store), code=code_hash())
    with looked(plan, store, key) as spool, LookedAt(store.journal_folder, _note_answers) as journal:
        history = journal.history()
        look = _look(plan, spool, journal, Comparison(history))
        asyncio.run(look.go_all())
        notes = list(_notes(look, history.unknown, stopped=look.tally.stopped))
    facts = _facts(look)
    return {**facts, "cost": _rate(plan, store, facts["tokens"]), "recipe": _since(plan, store), "notes": notes}


def _note_answers(count: int) -> None:
    if (going := _going.get(None)) is not None:
        going.answered += count


def _look(plan: Plan, spool: Looking, journal: LookedAt, compare: Comparison) -> "Look":
    budget = plan.recipe.budget.model_copy(update={"accepted_rows": None, "wall": None, "gpu_hours": None})
    roles = {name: with_backend(role, _Absent(name, journal, compare)) for name, role in plan.roles.items()}
    calm = plan.recipe.model_copy(update={"tolerate": 1 << 60, "budget": budget})
    shop = Workshop(roles, journal, plan.verifier)
    tally = Tally(shop.meter, total=spool.count_problems())
    return Look(replace(plan, recipe=calm, roles=roles), spool, shop, tally)


class Look(Run):
    """A run over all problems that stops each where an answer is missing, and then goes on as if it were as it was."""

    def __init__(self, plan: Plan, spool: Looking, shop: Workshop, tally: Tally) -> None:
        super().__init__(plan, spool, shop, tally)
        self._looking = spool
        self.found = Found()

    async def calibrate(self) -> None:
        """What the recipe's judges would be asked about their cases, each set on its own."""
        for cases in self.plan.calibrations:
            going = Going()
            _going.set(going)
            with suppress(Stopped, JudgeRefused):
                await calibrate(replace(self.plan, calibrations=(cases,)), self.shop)
            self.found.answered += going.answered
            self.found.planted += len(going.missing)
            if going.missing:
                self._sort_out(Problem(problem_id=f"calibration of {cases.plugin.name}", question=""), going, Going())

    async def _record(self, problem: Problem) -> Record:
        record = await super()._record(problem)
        if record.drawn:  # those that `_worked` makes have none: this one is from the spool
            self._note_known(record)
        return record

    def _note_known(self, record: Record) -> None:
        self.found.answered += len(record.drawn)
        self.found.followed.add(len(record.drawn))
        roles = {str(sample["role"]) for sample in record.drawn}
        if len(roles) == 1:
            self.found.lengths(roles.pop()).add(record.tokens / len(record.drawn), len(record.drawn))

    async def _worked(self, problem: Problem) -> tuple[Record, bytes]:
        first = Going()
        record = await self._asked(problem, first)
        self.found.answered += first.answered
        if not first.missing:
            self.found.again += 1
            self.found.followed.add(first.answered)
            return record or Record(problem=problem, status="filtered"), b""
        second = Going(follow=True, compared=first.missing)
        record = await self._asked(problem, second)
        self.found.sampled += 1
        known = second.answered + len(second.missing)
        if record is not None:
            self.found.followed.add(known)
        else:
            self.found.unfollowed.append(known)
        self._sort_out(problem, first, second)
        return record or Record(problem=problem, status="filtered"), b""

    async def _asked(self, problem: Problem, going: Going) -> Record | None:
        """Run the method, and the scores that may ask for something too; None where it could not go on to its end."""
        _going.set(going)
        engine = ProblemEngine(self.shop, problem)
        try:
            if self.plan.scores:
                await outcomes.work(self.plan, problem, engine)
            else:
                await self.plan.method.call(problem, engine)
        except Stopped:
            return None
        except (EngineLost, RecipeError, LawBroken, DiskFull):
            raise
        except (Exception, SystemExit) as failure:  # noqa: BLE001 - a bad problem is data, not a crash
            return outcomes.failed(problem, failure)
        finally:
            self.shop.held -= engine.held
        for drawn in engine.drawn:
            if drawn.key not in going.missing:
                self.found.lengths(drawn.role).add(drawn.n_tokens)
        return Record(problem=problem, status="done", tokens=sum(drawn.n_tokens for drawn in engine.drawn))

    def _sort_out(self, problem: Problem, first: Going, second: Going) -> None:
        """Put what is missing into its groups."""
        before = self._looking.earlier(problem.problem_id)
        touched = set()
        for key, missing in {**first.missing, **second.missing}.items():
            reason = _reason(missing, problem, before)
            group = self.found.groups.setdefault(reason, Group(like=self.found.lengths(missing.role)))
            group.sure += key in first.missing
            group.likely += key not in first.missing
            touched.add(reason)
            if missing.request.kind == "complete":
                _add_cost(group.cost, missing, self.found.lengths(missing.role))
        for reason in touched:
            self.found.groups[reason].problems += 1


class _Absent:
    """A backend that is not there: it notes what it is asked, and knows at most what was answered to something like it."""

    capabilities: frozenset[Capability] = frozenset({"complete", "prefix", "logprobs", "score", "adapter"})
    at_once = AT_ONCE

    def __init__(self, role: str, journal: LookedAt, compare: Comparison) -> None:
        self._role = role
        self._journal = journal
        self._compare = compare

    async def start(self) -> None:
        """Nothing to make ready."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def complete(self, request: Request) -> Completion:
        missing = self._note(request)
        if _going.get().follow and missing.nearest.earlier is not None:
            found = await self._journal.peek(missing.nearest.earlier.key)
            if isinstance(found, Completion):
                missing.stand_in = found
                return found
        raise Stopped("nobody knows the answer")

    async def score(self, request: Request) -> TokenScores:
        self._note(request)
        raise Stopped("nobody knows the scores")

    def facts(self) -> dict[str, Any]:
        return {}

    def progress(self) -> Sequence[str]:
        return ()

    def _note(self, request: Request) -> Missing:
        going = _going.get()
        known = going.compared.get(request.key)
        missing = known or Missing(request, self._role, self._compare.nearest(request))
        going.missing[request.key] = missing
        return missing


def _add_cost(cost: Cost, missing: Missing, like: Lengths) -> None:
    most = missing.request.sampling.max_tokens or 0
    cost.samples += 1
    cost.most += most
    if (known := missing.stand_in) is not None:
        tokens = min(known.n_tokens, most)
        cost.lengths.add(tokens)
        like.add(tokens)
        cost.open_ended += max(0, most - known.n_tokens) if known.truncated else 0


def _reason(missing: Missing, problem: Problem, before: Record | None) -> Reason:
    """The fields that differ from the nearest earlier request, in their order of name."""
    changes = dict(missing.nearest.changes)
    if missing.nearest.earlier is None:
        new = before is None and missing.request.kind == "complete"
        return ((NEW if new else FIRST, None, None),)
    if "prompt" in changes and before is not None and _another(before.problem, problem):
        changes[TEXT] = changes.pop("prompt")
    return tuple(
        (name, *((None, None) if name in (*LONG, DRAWS, "salt") else map(_said, values)))
        for name, values in sorted(changes.items())
    )


def _another(was: Problem, now: Problem) -> bool:
    """Whether a problem of the same id says something else to a method."""
    return any(getattr(was, name) != getattr(now, name) for name in OF_A_PROBLEM)


def _said(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# ---- the report


def _facts(look: Look) -> dict[str, Any]:
    found, tally = look.found, look.tally
    groups: list[dict[str, Any]] = [
        {
            "changes": [{"field": name, "was": _value(was), "now": _value(now)} for name, was, now in reason],
            "requests": group.sure,
            "requests_estimated": group.likely,
            "problems": group.problems,
            "tokens": group.cost.tokens(group.like),
        }
        for reason, group in sorted(
            found.groups.items(), key=lambda item: (-item[1].sure - item[1].likely, str(item[0]))
        )
    ]
    return {
        "schema": SCHEMA,
        "name": look.plan.recipe.name,
        "problems": {
            "total": tally.total,
            "spool": tally.reused,
            "journal": found.again,
            "sampled": found.sampled,
            "turned_down": tally.done - tally.reused - found.again - found.sampled,
        },
        "requests": {
            "answered": found.answered,
            "new": sum(group.sure for group in found.groups.values()),
            "new_estimated": sum(group.likely for group in found.groups.values()),
            "not_followed": _not_followed(found),
        },
        "tokens": summed(group["tokens"] for group in groups),
        "groups": groups,
    }


def _not_followed(found: Found) -> int | None:
    """How many requests come after an answer that nothing is like: by what other problems took; null where none tells."""
    if not found.unfollowed:
        return 0
    if not found.followed.count:
        return None
    return round(sum(max(0.0, found.followed.mean - known) for known in found.unfollowed))


def _value(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _since(plan: Plan, store: Store) -> dict[str, Any] | None:
    """What the recipe, the plug-ins and the code have that the newest version of the dataset had not."""
    try:
        version = store.open(plan.recipe.name)
        manifest = version.manifest()
    except (RecipeError, LawBroken):  # none, or none that this release can read
        return None
    hashes = [source_hash(source, resolve=resolver(store)) for source in plan.recipe.source]
    now = {
        "identity": json.loads(json.dumps(identity_of(plan, hashes))),
        "plugins": plan.plugin_hashes,
        "verifier": plan.verifier_facts,
        "code": code_hash(),
    }
    return {"version": str(version), "differs": differences(manifest, now)}


def _rate(plan: Plan, store: Store, tokens: Mapping[str, int | None]) -> dict[str, Any] | None:
    """What the tokens take at the rate of the newest build of this dataset that sampled; null where none is recorded."""
    made = [summary for summary in store.list() if summary.name == plan.recipe.name and not summary.damage]
    for summary in sorted(made, key=lambda s: s.created, reverse=True):
        version = store.open(f"{summary.name}@{summary.version}")
        if rate := version.manifest().get("rate"):
            seconds = {n: None if t is None else t * rate["seconds"] / rate["tokens"] for n, t in tokens.items()}
            hours = {name: None if s is None else s * rate["gpus"] / 3600 for name, s in seconds.items()}
            told = {
                "version": str(version),
                "tokens_per_second": rate["tokens"] / rate["seconds"],
                "gpus": rate["gpus"],
            }
            return {**told, "seconds": seconds, "gpu_hours": hours}
    return None


def _notes(look: Look, unknown: int, *, stopped: str | None) -> Iterator[str]:
    found = look.found
    if unknown:
        yield (
            f"{unknown:,} answers and verdicts of the journal are from a release that did not keep what was asked; "
            "a request that they do not answer is compared with the others only"
        )
    if found.planted:
        yield f"{found.planted:,} of the new requests are about cases that measure judges before the first problem"
    if found.unfollowed:
        rest = _not_followed(found)
        told = (
            "nothing tells how many"
            if rest is None
            else f"about {rest:,} more, by what other problems took (an estimate)"
        )
        if rest != 0:
            yield f"{len(found.unfollowed):,} problems are known up to their first unanswered request only; after it: {told}"
    if any(group.likely for group in found.groups.values()):
        yield (
            "requests marked as an estimate depend on answers that nobody has; the answers to the nearest earlier requests "
            "stood in for them"
        )
    if stopped:
        yield f"the build would stop early: {stopped}"
