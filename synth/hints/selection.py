"""From points to an outcome: what the solver makes of the subsets, what each strategy keeps, and the rows that say so."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tracemill.schemas.rows import Outcome, Trace
from tracemill.synth.engine import together
from tracemill.synth.hints.allocation import Allocation, measure
from tracemill.synth.hints.knowledge import Point
from tracemill.synth.hints.reports import Paradox, curve, paradoxes, plain, tally
from tracemill.synth.hints.rollouts import Rollouts
from tracemill.synth.hints.strategies import (
    NOTHING,
    Choice,
    Config,
    Count,
    Rules,
    choose,
    css_sets,
    first_stage,
    second_stage,
)

__all__ = ["Allocation", "Decided", "Found", "Protocol", "Strategy", "decided"]

Strategy = Literal["none", "all", "random", "max_score", "s_loo", "t_loo", "cbrs", "css", "given"]


@dataclass(frozen=True, slots=True)
class Found:
    """The points of a problem, those that are not kept among them."""

    points: Sequence[Point]
    origin: str
    """Whose solution they are from: source, or the role that wrote it; empty for given points."""
    given: Config | None = None
    """What the source chose of those that are kept."""
    solution: str | None = None
    """One that verifies, where it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How subsets are measured and chosen; see the options of the method."""

    strategies: Sequence[Strategy]
    m: int
    allocation: Allocation
    confidence: float
    evaluate: int
    paradox: bool
    curve: Sequence[float]

    @property
    def rules(self) -> Rules:
        return Rules(m=self.m)

    @property
    def own(self) -> list[str]:
        """The strategies that decide by counts."""
        return [name for name in self.strategies if name != "given"]


async def decided(rollouts: Rollouts, found: Found, protocol: Protocol) -> "Decided":
    """Measure what the strategies need, let them choose, and draw from choices that they did not have to measure.

    Those are none, all and random, and what S-LOO and T-LOO put together; with fresh draws only the one that is shown needs others.
    """
    n, seed_key = len(rollouts.points), rollouts.problem.problem_id
    table = await measure(
        n,
        rollouts.statuses,
        strategies=protocol.own,
        m=protocol.m,
        allocation=protocol.allocation,
        confidence=protocol.confidence,
        seed_key=seed_key,
        rules=protocol.rules,
    )
    choices = {
        name: Choice(found.given or ())
        if name == "given"
        else choose(name, n, table, seed_key=seed_key, rules=protocol.rules)
        for name in protocol.strategies
    }
    kept = sorted({choice.kept for choice in choices.values()})
    shown = {choices[protocol.strategies[0]].kept} if protocol.evaluate else set(kept)
    bare = sorted(config for config in shown if not table.get(config, NOTHING).total)
    table |= dict(zip(bare, map(tally, await together(rollouts.statuses(c, 0, protocol.m) for c in bare)), strict=True))
    fresh = await together(rollouts.fresh(config, protocol.evaluate) for config in kept)
    paradox = await paradoxes(rollouts, protocol.rules) if protocol.paradox else []
    segments = await curve(rollouts, found.solution, protocol.curve, protocol.m) if found.solution else []
    return Decided(
        *(rollouts, found, protocol, table, choices),
        fresh=dict(zip(kept, map(tally, fresh), strict=True)),
        paradox=paradox,
        curve=segments,
    )


@dataclass(frozen=True, slots=True)
class Decided:
    """All that is known of a problem's hints."""

    rollouts: Rollouts
    found: Found
    protocol: Protocol
    table: Mapping[Config, Count]
    choices: Mapping[Strategy, Choice]
    fresh: Mapping[Config, Count]
    """Draws of the kept configurations that no choice rests on."""
    paradox: Sequence[Paradox]
    curve: Sequence[Mapping[str, Any]]

    @property
    def n(self) -> int:
        return len(self.rollouts.points)

    def outcome(self) -> Outcome:
        """Traces of the first strategy's prompt, and the tables."""
        rollouts, first = self.rollouts, self.protocol.strategies[0]
        kept = self.choices[first].kept
        prompt, model, columns = rollouts.prompt_of(kept), rollouts.engine.model_name(), self._columns()
        traces = [
            Trace.of(
                rollouts.problem,
                rollout.completion,
                name=f"{first}-{rollout.index:04d}",
                prompt=prompt,
                model=model,
                draw=rollout.index,
                **columns,
            )
            for rollout in rollouts.drawn(kept)
        ]
        tables: dict[str, list[dict[str, Any]]] = {
            "subset_accuracies": [self._accuracy(config) for config in self.table],
            "choices": [self._choice(name) for name in self.protocol.strategies],
            "knowledge_points": self._points(),
            "paradox": [paradox.row() for paradox in self.paradox],
            "curve": [dict(segment) for segment in self.curve],
        }
        return Outcome(traces=traces, tables=tables)

    def _columns(self) -> dict[str, Any]:
        points, first = self.rollouts.points, self.protocol.strategies[0]
        choice, css = self.choices[first], self.choices.get("css")
        sampling = self.rollouts.sampling
        count = tally([rollout.verdict.status for rollout in self.rollouts.drawn(choice.kept)])
        return {
            "status": "ok" if points else "empty_candidate_set",
            "kp_list": list(points),
            "n_kp": self.n,
            "strategy": first,
            "kept_kp_index": list(choice.kept),
            "selected_kps": [points[place] for place in choice.kept],
            "hint_correct": count.correct,
            "hint_total": count.total,
            "hint_undecided": count.undecided,
            "acc_table": [{"key": self._key(c), "value": plain(self.table[c].sum)} for c in sorted(self.table)],
            **{name: list(getattr(css, name)) if css else None for name in ("h_set", "n_set", "c_set")},
            **{name: getattr(choice, name) for name in ("guard_empty", "all_zero", "saturated")},
            "css_truncated": css.css_truncated if css else None,
            "paradox": [paradox.row() for paradox in self.paradox] if self.protocol.paradox else None,
            "curve": list(self.curve) if self.protocol.curve and self.found.solution else None,
            "leak_report": [finding for point in self.found.points for finding in _findings(point)],
            "solution_from": self.found.origin or None,
            "decoding": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "m": self.protocol.m,
                "allocation": self.protocol.allocation,
            },
            "choices": [
                {"strategy": name, "kept_kp_index": list(choice.kept)} for name, choice in self.choices.items()
            ],
        }

    def _accuracy(self, config: Config) -> dict[str, Any]:
        count = self.table[config]
        return {
            "config": self._key(config),
            "n_kept": len(config),
            **plain(count.sum),
            "kept_by": [name for name, choice in self.choices.items() if choice.kept == config],
            "runs": [plain(run) for run in (count, *count.runs)] if count.runs else None,
        }

    def _choice(self, name: Strategy) -> dict[str, Any]:
        choice = self.choices[name]
        return {
            "strategy": name,
            "kept_kp_index": list(choice.kept),
            "n_kept": len(choice.kept),
            **plain(self.table.get(choice.kept, NOTHING).sum),
            **{f"fresh_{key}": value for key, value in plain(self.fresh[choice.kept]).items()},
            "rollouts": self._cost(name),
            **{flag: getattr(choice, flag) for flag in ("guard_empty", "all_zero", "saturated")},
            "truncated": choice.css_truncated,
        }

    def _cost(self, name: Strategy) -> int:
        """Draws of all configurations that the strategy compared; strategies that compare the same ones share them."""
        if name in ("none", "all", "given") or not self.n:
            return self.table.get(self.choices[name].kept, NOTHING).total
        compared = set(first_stage(self.n))
        if name in ("css", "random"):
            _, pruned, tried = css_sets(self.n, self.table, self.protocol.rules)
            compared |= set(second_stage(self.n, pruned, tried, self.protocol.rules))
        if name == "random":
            compared.add(self.choices[name].kept)
        counts = [self.table.get(config, NOTHING) for config in compared]
        return sum(count.sum.total if name == "cbrs" else count.total for count in counts)

    def _points(self) -> list[dict[str, Any]]:
        place = {point.number: at for at, point in enumerate(point for point in self.found.points if point.kept)}
        return [
            {
                "id": f"{self.rollouts.problem.problem_id}/kp-{point.number:03d}",
                "number": point.number,
                "place": place.get(point.number),
                **{name: getattr(point, name) for name in ("fate", "revision", "same_as", "text")},
                "findings": [
                    {name: finding[name] for name in ("rule", "weight", "revision", "evidence")}
                    for finding in _findings(point)
                ],
            }
            for point in self.found.points
        ]

    def _key(self, config: Config) -> str:
        """The released name of a configuration: kept places with commas, `*` for all, empty for none."""
        return "*" if config and len(config) == self.n else ",".join(map(str, config))


def _findings(point: Point) -> list[dict[str, Any]]:
    return [
        {"kp": point.number, "rule": f.rule, "weight": f.weight, "revision": f.revision, "evidence": f.evidence}
        for f in point.findings
    ]
