"""How much of each source a build takes: shares by `weight`, at most `cap` problems, the others left out and counted.

    weight 2, 300 problems  ─┐ the scarcest for its weight is taken whole; the others as their weight allows beside it
    weight 1, 900 problems  ─┘     ▶ 300 and 150: the largest mix without repeating a problem; 750 are left out

Of a source the problems with the smallest `draw` are taken: another weight takes a longer or shorter run of the same order, so what
was sampled stays of use, and one number, the cut, tells of any problem whether it is in.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tracemill.pipelines.plan import Plan
from tracemill.pipelines.reading.problem_filters import ProblemFilters
from tracemill.pipelines.reading.sources import source_name
from tracemill.pipelines.running.spool import Spool
from tracemill.schemas.errors import CountsDiffer, RecipeError
from tracemill.schemas.recipe import Source
from tracemill.schemas.rows import Problem, draw

_BATCH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of one source: read = refused + repeated + held, and held = problems + left_out."""

    read: int
    """Rows."""
    refused: int
    repeated: int
    """Rows that stand for a problem of an earlier row, of this source or another: its twins, and its further traces."""
    held: int
    problems: int
    """Those that the build works on."""
    left_out: int
    why: str = ""
    """`weight` or `cap`, where it leaves problems out."""
    cut: int | None = None
    """Problems with a draw up to this are in; None: all are."""


def mix(plan: Plan, spool: Spool) -> list[Taken]:
    """Have the spool admit each source's part of the mix; what became of every source, in their order."""
    sources = plan.recipe.source
    spool.admit({})
    held = [spool.count_problems(source=i) for i in range(len(sources))]
    weighed = [i for i, source in enumerate(sources) if source.weight is not None or source.cap is not None]
    kept = _kept_draws(plan, spool, [i for i in weighed if plan.keeps[i]])
    there = [len(kept[i]) if i in kept else held[i] for i in range(len(sources))]
    wanted = quotas(sources, there)
    cuts = {
        i: kept[i][wanted[i] - 1] if i in kept else spool.draw_at(i, wanted[i]) for i in weighed if wanted[i] < there[i]
    }
    spool.admit(cuts)
    return [_taken(spool, i, source, there[i], cuts.get(i)) for i, source in enumerate(sources)]


def quotas(sources: Sequence[Source], there: Sequence[int]) -> list[int]:
    """How many problems of each source to take, of as many as are `there`, its filters passed.

    A source without weight gives all up to its cap. With weights, w : v of two sources is kept to the whole number below, and
    one of them gives all it may.
    """
    most = [min(n, source.cap or n) for n, source in zip(there, sources, strict=True)]
    if any(source.weight is None for source in sources):
        return most
    weights = [Fraction(str(source.weight)) for source in sources]
    scale = min(n / weight for n, weight in zip(most, weights, strict=True))
    parts = [int(scale * weight) for weight in weights]
    for source, part, n in zip(sources, parts, there, strict=True):
        if part == 0 and (n == 0 or min(there) > 0):
            why = (
                "it has no problem that counts for it: its filters kept none, or all stand in a source before it; take it out"
                if n == 0
                else f"beside the other sources it would give none of its {n:,} problems; raise its weight, or take it out"
            )
            raise RecipeError(f"source {source_name(source)}: weight = {source.weight:g}: {why}")
    return parts


def _kept_draws(plan: Plan, spool: Spool, wanted: Sequence[int]) -> Mapping[int, Sequence[int]]:
    """The draws, ascending, of the problems that the filters of these sources keep: a share is one of good problems."""
    if not wanted:
        return {}
    filters, found = ProblemFilters(plan, spool), {index: array("Q") for index in wanted}
    for batch in _batches(spool, wanted):
        kept = filters.kept(batch)
        draws = (draw(problem.problem_id) for problem, keep in zip(batch, kept, strict=True) if keep)
        found[batch[0].source_index].extend(draws)
    return found


def _batches(spool: Spool, wanted: Sequence[int]) -> Iterator[list[Problem]]:
    """Problems of these sources in the order of draws, many of one source at a time."""
    open_: dict[int, list[Problem]] = {index: [] for index in wanted}
    for problem in spool.problems():
        if (batch := open_.get(problem.source_index)) is not None:
            batch.append(problem)
            if len(batch) == _BATCH:
                yield batch
                open_[problem.source_index] = []
    yield from (batch for batch in open_.values() if batch)


def _taken(spool: Spool, index: int, source: Source, there: int, cut: int | None) -> Taken:
    read = spool.rows_by_source().get(index, 0)
    refused = sum(rejection.source == index for rejection in spool.source_rejections())
    held = spool.count_problems(source=index, left_out_too=True)
    problems = spool.count_problems(source=index)
    if read < refused + held:
        raise CountsDiffer(f"source {source_name(source)}: {read:,} rows were read and {refused + held:,} came of them")
    capped = source.weight is None or (source.cap is not None and source.cap < there and problems >= source.cap)
    return Taken(
        read=read,
        refused=refused,
        repeated=read - refused - held,
        held=held,
        problems=problems,
        left_out=held - problems,
        why="" if cut is None else "cap" if capped else "weight",
        cut=cut,
    )
