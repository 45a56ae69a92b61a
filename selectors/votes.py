"""Votes over the answers of one problem, in whole units so that equal is equal. No selector stands here."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tracemill.selectors.cisc import UNIT
from tracemill.selectors.clusters import Trace

Mass = Literal["representative", "cluster_size"]
Take = Literal["best", "winner", "representatives"]


@dataclass(frozen=True)
class Vote:
    """What a problem's traces decided."""

    how: str
    """`confidence`, or `majority` where no representative has a confidence."""
    answer: str | None
    majority: str | None
    cisc: str | None
    """By all traces with an answer; null unless each of them has a confidence."""
    masses: Sequence[Mapping[str, Any]]


def vote(traces: Sequence[Trace], temperature: float, mass: Mass, take: Take) -> Vote:
    """Count the votes, and write into each trace its weight, the winner, and why it is not taken."""
    standing = [trace for trace in traces if trace.is_representative]
    answered = [trace for trace in traces if trace.answer is not None]
    majority = tally(answered, lambda _: 1)
    units = confident(standing, temperature)
    if units:
        for trace in standing:
            units[trace.id] *= (trace.cluster_size or 1) if mass == "cluster_size" else 1
        total = sum(units.values())
        for trace in standing:
            trace.weight = units[trace.id] / total if trace.critic_conf is not None else None
        ranked = tally(standing, lambda trace: units[trace.id])
    else:
        total, ranked = len(answered), majority
    winner = ranked[0][0] if ranked else None
    _verdicts(traces, winner, take)
    all_known = bool(answered) and all(trace.critic_conf is not None for trace in answered)
    every = confident(answered, temperature) if all_known else {}
    cisc = tally(answered, lambda trace: every[trace.id])[0][0] if all_known else None
    masses = [
        {"answer": answer, "members": members, "mass": found / total if total else None}
        for answer, found, members in ranked
    ]
    return Vote("confidence" if units else "majority", winner, majority[0][0] if majority else None, cisc, masses)


def confident(traces: Sequence[Trace], temperature: float) -> dict[str, int]:
    """The weight of each trace in whole units, 0 without a confidence; empty where none has one."""
    known = [trace.critic_conf for trace in traces if trace.critic_conf is not None]
    if not known:
        return {}
    top = max(known)
    return {
        trace.id: 0 if trace.critic_conf is None else round(math.exp((trace.critic_conf - top) / temperature) * UNIT)
        for trace in traces
    }


def tally(traces: Iterable[Trace], units: Callable[[Trace], int]) -> list[tuple[str, int, int]]:
    """Answers with their units and members, the winner first: more units, more members, the higher best confidence, the smaller text."""
    found: dict[str, list[Trace]] = {}
    for trace in traces:
        found.setdefault(str(trace.answer), []).append(trace)
    lines = [
        (answer, sum(map(units, own)), len(own), max((t.critic_conf or 0.0 for t in own), default=0.0))
        for answer, own in found.items()
    ]
    lines.sort(key=lambda line: (-line[1], -line[2], -line[3], line[0]))
    return [line[:3] for line in lines]


def _verdicts(traces: Sequence[Trace], winner: str | None, take: Take) -> None:
    of_winner = [trace for trace in traces if trace.is_representative and trace.answer == winner]
    best = min(
        of_winner,
        key=lambda t: (-(t.critic_conf if t.critic_conf is not None else -math.inf), t.tokens, t.id),
        default=None,
    )
    for trace in traces:
        trace.winner = winner
        trace.reason = trace.drop_reason
        if trace.is_representative and take != "representatives":
            lost = "outvoted" if trace.answer != winner else None
            trace.reason = lost or ("not_best" if take == "best" and trace is not best else None)
