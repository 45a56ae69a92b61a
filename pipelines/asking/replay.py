"""`tracemill replay REF --sample N`: draw samples of a version anew, and say how many come out the same.

    samples ──sha256 of seed and key──▶ N of them ──▶ their requests ──engine──▶ new answers ──beside the recorded ones──▶ match rate

Nothing of it goes into the journal or the version: what is recorded stays what it is. The result is kept in the store's
`.replays` (replays.py), and `tracemill show` tells it.
"""

import asyncio
import hashlib
import heapq
import statistics
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import polars as pl

from tracemill.pipelines.asking.asked_again import problems_of, requests_kept, requests_made
from tracemill.pipelines.asking.looking import LookedAt, Looking
from tracemill.pipelines.asking.reasons import columns_of
from tracemill.pipelines.plan import levels_of, resolve, roles_of, verifier_of
from tracemill.pipelines.recipes import catalog
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.replays import keep_replay
from tracemill.schemas.errors import RecipeError, RequestRefused
from tracemill.schemas.intervals import wilson
from tracemill.schemas.recipe import Recipe, uncalibrated
from tracemill.schemas.request import Completion, Request
from tracemill.schemas.rows import Problem
from tracemill.synth.backends.scripted import Reply
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.gate import Gate
from tracemill.synth.roles import Role
from tracemill.synth.workshop import Workshop

SCHEMA = 1
_SAMPLE = {
    **dict.fromkeys(("key", "problem_id", "role", "verdict", "text", "finish_reason"), pl.String),
    "token_ids": pl.List(pl.Int32),
    "n_tokens": pl.Int64,
}
_TRACE = dict.fromkeys(("key", "problem_id", "verdict"), pl.String)
_DOWN = dict.fromkeys(("problem_id", "row"), pl.String)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A sample as the version has it."""

    key: str
    problem_id: str
    role: str | None
    verdict: str | None
    completion: Completion


@dataclass(frozen=True, slots=True)
class Compared:
    """A sample beside the one that was drawn anew."""

    key: str
    role: str
    same_tokens: bool | None
    """None where one of the two has no token ids."""
    same_text: bool
    first_difference: int | None
    """Position of the first token that differs, of the first character where there are no ids; None where none does."""
    same_verdict: bool | None
    """None where the sample has no verdict."""

    @property
    def exact(self) -> bool:
        return self.same_text if self.same_tokens is None else self.same_tokens


def replay(
    dataset: Dataset, store: Store, recipe: Recipe, *, sample: int, seed: int = 0, reply: Reply | None = None
) -> dict[str, Any]:
    """Draw `sample` samples anew, chosen by `seed`, and compare. `recipe`: the version's, with an engine that is there.

    RecipeError: the engine has another model than the version, or nothing can be asked again. EngineLost: it is gone.
    """
    with LookedAt(store.journal_folder, lambda _: None) as journal:
        recorded = _chosen(dataset, journal, sample, seed)
        spool = store.work_folder(dataset.name) / "spool.sqlite"
        with Looking(spool, spool) as looking:
            problems = problems_of(dataset, looking, (r.problem_id for r in recorded))
        requests = dict(requests_kept(journal, (r.key for r in recorded)))
        requests |= _made(recipe, store, problems, journal, [r for r in recorded if r.key not in requests], dataset)
        known = [r for r in recorded if r.key in requests]
        if not known:
            raise RecipeError(_nothing(dataset, len(recorded)))
        roles = _roles(recipe, store, [requests[r.key] for r in known], reply)
        asked = [(r, requests[r.key], _role_of(r, requests[r.key], roles)) for r in known]
        shop = Workshop(roles, journal, verifier_of(recipe))
        compared, refused = asyncio.run(_compared(shop, asked, problems))
    facts = _facts(dataset, compared, refused, seed, lost=len(recorded) - len(known))
    facts["engines"] = {name: role.facts() for name, role in roles.items()}
    keep_replay(store.replays_folder, dataset, facts)
    return facts


# ---- what is asked


def _chosen(dataset: Dataset, journal: LookedAt, sample: int, seed: int) -> list[Recorded]:
    """So many samples of the version, those whose hash with the seed is smallest: the same ones everywhere."""
    if "samples" in dataset.tables():
        keys = dataset.scan("samples").select("key").collect(engine="streaming")["key"]
        wanted = _smallest(keys, sample, seed)
        frame = columns_of(dataset, "samples", _SAMPLE).filter(pl.col("key").is_in(wanted))
        rows = frame.collect(engine="streaming").to_dicts()
        return [_recorded(row) for row in sorted(rows, key=lambda row: wanted.index(row["key"]))]
    named = {row["key"]: row for row in _named(dataset)}
    wanted = _smallest(named, sample, seed)
    return [
        Recorded(key, named[key]["problem_id"], None, named[key]["verdict"], value)
        for key, value in journal.read(wanted)
        if isinstance(value, Completion)
    ]


def _smallest(keys: Iterable[str], sample: int, seed: int) -> list[str]:
    return heapq.nsmallest(sample, keys, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())


def _named(dataset: Dataset) -> list[dict[str, Any]]:
    """The requests that traces name, chosen or not, of a version without a table of samples."""
    kept = [columns_of(dataset, table, _TRACE) for table in ("rows", "traces")]
    text = [pl.col("row").str.json_path_match(f"$.{name}").alias(name) for name in ("key", "verdict")]
    down = columns_of(dataset, "rejected", _DOWN).select(text[0], "problem_id", text[1])
    named = (
        pl.concat([*kept, down]).filter(pl.col("key").is_not_null()).unique("key", keep="first", maintain_order=True)
    )
    return named.collect(engine="streaming").to_dicts()


def _recorded(row: Mapping[str, Any]) -> Recorded:
    ids = row["token_ids"]
    completion = Completion(
        text=row["text"],
        finish_reason=row["finish_reason"],
        n_tokens=row["n_tokens"],
        token_ids=None if ids is None else array("i", ids),
        key=row["key"],
    )
    return Recorded(row["key"], row["problem_id"], row["role"], row["verdict"], completion)


def _made(
    recipe: Recipe,
    store: Store,
    problems: Mapping[str, Problem],
    journal: LookedAt,
    unknown: Sequence[Recorded],
    dataset: Dataset,
) -> dict[str, Request]:
    """Requests that the journal did not keep, as the method makes them again."""
    if not unknown:
        return {}
    plan = resolve(uncalibrated(recipe), runtime=store.engines_folder, vectors=store.vectors_folder)
    theirs = sorted({r.problem_id for r in unknown if r.problem_id in problems})
    frame = columns_of(dataset, "samples", _SAMPLE).filter(pl.col("problem_id").is_in(theirs))
    answers = {r.key: r.completion for r in map(_recorded, frame.collect(engine="streaming").to_dicts())}
    spool = store.work_folder(dataset.name) / "spool.sqlite"
    with Looking(spool, spool) as looking:
        beside = partial(looking.neighbours, count=plan.neighbours)
        asked, wanted = [problems[name] for name in theirs], {r.key for r in unknown}
        return requests_made(plan, asked, journal, answers, wanted, neighbours=beside)


def _nothing(dataset: Dataset, sampled: int) -> str:
    if not sampled:
        return f"{dataset} rests on no samples that can be found: nothing was sampled, or it names them nowhere and has no table of them"
    return (
        f"none of {sampled:,} samples of {dataset} can be asked again: this store's journal does not have their requests, and its "
        "method, run on what is recorded, does not make them; use the store that built it, or name its recipe: --recipe FILE"
    )


def _roles(recipe: Recipe, store: Store, requests: Sequence[Request], reply: Reply | None) -> dict[str, Role]:
    """The models of the recipe on their engines, with other weights only where a request asks for them."""
    levels = None
    if any(request.adapter is not None for request in requests) and recipe.synth is not None:
        levels = levels_of(catalog.find("synth", recipe.synth))
    return roles_of(recipe, levels, store.engines_folder, reply)


def _role_of(recorded: Recorded, request: Request, roles: Mapping[str, Role]) -> Role:
    """The role that is to answer; RecipeError where it is not the model that was asked."""
    if recorded.role is None:
        same = [role for role in roles.values() if role.model == request.model]
        role = same[0] if same else next(iter(roles.values()))
    elif recorded.role in roles:
        role = roles[recorded.role]
    else:
        raise RecipeError(f"the version has samples of the role {recorded.role!r}; the recipe has: {', '.join(roles)}")
    if differs := _unlike(request.model, role.model):
        raise RecipeError(
            f"models.{role.name} is not the model that was asked: {differs}; name the same one with --recipe FILE or --set"
        )
    level = role.levels.get(request.adapter.scale) if request.adapter else None
    if request.adapter is not None and (level is None or level.adapter != request.adapter):
        differs = _unlike(request.adapter, level.adapter) if level else f"no level {request.adapter.scale}"
        raise RecipeError(
            f"models.{role.name} has not the adapter that was asked: {differs}; name it with --recipe FILE"
        )
    return role


def _unlike(was: Any, now: Any) -> str:
    if not is_dataclass(was):
        return ""
    names = [field.name for field in fields(was) if getattr(was, field.name) != getattr(now, field.name)]
    return ", ".join(f"{name} was {getattr(was, name)!r} and is {getattr(now, name)!r}" for name in names)


# ---- asking, and comparing


async def _compared(
    shop: Workshop, asked: Sequence[tuple[Recorded, Request, Role]], problems: Mapping[str, Problem]
) -> tuple[list[Compared], int]:
    """Every answer beside its recorded one, and how many requests were refused; one engine of several weights after another."""
    answers: dict[str, Completion | None] = {}
    try:
        for scale in (None, *shop.passes()):
            shop.loaded = scale
            turn = [(request, role) for _, request, role in asked if _scale(request, role) == scale]
            gates: dict[int, Gate] = {}
            drawn = await asyncio.gather(*(_ask(gates, request, role) for request, role in turn))
            answers |= {request.key: answer for (request, _), answer in zip(turn, drawn, strict=True)}
            if scale is not None:
                await shop.unload(scale)
        compared = []
        for recorded, request, role in asked:
            if (new := answers[request.key]) is not None:
                agree = await _agrees(shop, recorded, request, new, problems)
                compared.append(_beside(recorded, new, role.name, agree))
    finally:
        await shop.close()
    return compared, sum(answer is None for answer in answers.values())


def _scale(request: Request, role: Role) -> str | None:
    """The scale of merged weights that have to be loaded for a request."""
    return request.adapter.scale if request.adapter and role.backend_of(request.adapter) is not role.backend else None


async def _ask(gates: dict[int, Gate], request: Request, role: Role) -> Completion | None:
    """A new answer, as a build gets it; None where the engine refuses it."""
    backend = role.backend_of(request.adapter)
    gate = gates.setdefault(id(backend), Gate(backend))
    async with gate.entered():
        try:
            return await backend.complete(request)
        except RequestRefused:
            return None


async def _agrees(
    shop: Workshop, recorded: Recorded, request: Request, new: Completion, problems: Mapping[str, Problem]
) -> bool | None:
    if recorded.verdict is None:
        return None
    if new.text == recorded.completion.text:
        return True
    if (problem := problems.get(recorded.problem_id)) is None:
        return None
    begun = request.prefix if isinstance(request.prefix, str) else ""
    solver = shop.roles.get("solver")
    opened = solver is not None and solver.opens_thought
    (verdict,) = await ProblemEngine(shop, problem).verify_all(
        [(begun + new.text, new.truncated, opened)], problem.gold
    )
    return verdict.status == recorded.verdict.partition(":")[0]


def _beside(recorded: Recorded, new: Completion, role: str, agree: bool | None) -> Compared:
    old = recorded.completion
    ids = None if old.token_ids is None or new.token_ids is None else (old.token_ids, new.token_ids)
    same_text = old.text == new.text
    same_tokens = None if ids is None else ids[0] == ids[1]
    first = _first(*ids) if ids is not None else _first(old.text, new.text)
    return Compared(recorded.key, role, same_tokens, same_text, first, agree)


def _first(a: Sequence[Any], b: Sequence[Any]) -> int | None:
    """The first position at which two sequences differ; one may be the beginning of the other."""
    for place, (mine, theirs) in enumerate(zip(a, b, strict=False)):
        if mine != theirs:
            return place
    return min(len(a), len(b)) if len(a) != len(b) else None


# ---- the result


def _facts(dataset: Dataset, compared: Sequence[Compared], refused: int, seed: int, *, lost: int) -> dict[str, Any]:
    by_role = {role: [c for c in compared if c.role == role] for role in sorted({c.role for c in compared})}
    return {
        "schema": SCHEMA,
        "ref": str(dataset),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "all": _rates(compared),
        "roles": {role: _rates(some) for role, some in by_role.items()},
        "refused": refused,
        "not_found": lost,
        "differing": [
            {"key": c.key, "role": c.role, "first_difference": c.first_difference, "same_verdict": c.same_verdict}
            for c in sorted(compared, key=lambda c: c.key)
            if not c.exact
        ],
    }


def _rates(compared: Sequence[Compared]) -> dict[str, Any]:
    places = [c.first_difference for c in compared if c.first_difference is not None]
    return {
        "samples": len(compared),
        "exact": _rate([c.exact for c in compared]),
        "tokens": _rate([c.same_tokens for c in compared]),
        "text": _rate([c.same_text for c in compared]),
        "verdict": _rate([c.same_verdict for c in compared]),
        "first_difference": {"earliest": min(places), "median": statistics.median(places)} if places else None,
    }


def _rate(agree: Iterable[bool | None]) -> dict[str, Any] | None:
    """How many of those that can be told agree, with the Wilson 95 % interval; null where none can."""
    told = [same for same in agree if same is not None]
    if not told:
        return None
    share = sum(told) / len(told)
    low, high = wilson(share, len(told))
    return {"same": sum(told), "of": len(told), "rate": share, "low": low, "high": high}
