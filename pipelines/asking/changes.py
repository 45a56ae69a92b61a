"""Which field of a request changed: a request that nobody answered beside the nearest one that somebody did.

    request ──its problem's earlier requests──▶ the nearest: same kind; then scope, salt, draw, and the fewest other fields
            ──▶ {"sampling.temperature": (0.7, 0.8)}

Fields have the names of `schemas/request.py`, `model.revision` or `adapter.scale`; three words are our own: `draws` for a draw
beyond those there were, `problem text` for a prompt that changed with the problem, `problem` for one of which nothing was asked.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from tracemill.schemas.request import Request
from tracemill.synth.journal.asked import Asked, take_apart
from tracemill.synth.journal.history import Earlier, History

DRAWS, TEXT, NEW, FIRST = "draws", "problem text", "problem", "first of its kind"
LONG = ("prompt", "prefix", "tools", "template_kwargs", TEXT)
"""Fields that are told without their values."""
MOST = 64
"""So many earlier requests of one kind are looked at, the latest ones."""
KEPT = 512
"""Problems whose earlier requests are at hand: those that are open."""

Changes = dict[str, tuple[Any, Any]]
"""What was and what is, by field."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The earlier request that a request is compared with, and what is different; None: there is none."""

    earlier: Earlier | None
    changes: Changes


class _Of:
    """The earlier requests of one problem, by what has to agree first."""

    def __init__(self, found: Sequence[Earlier], history: History) -> None:
        self._by: dict[tuple[Any, ...], list[Earlier]] = {}
        for earlier in found:
            _, setting, shown, forced, salt, draw = earlier.row
            fields = history.part(setting)
            for place in _places(fields["kind"], fields["scope"], setting, shown, forced, salt, draw):
                self._by.setdefault(place, []).append(earlier)

    def near(self, request: Request, asked: Asked) -> list[Earlier]:
        """Those that agree in most of what has to agree first: the same but for the draw, else the same draw, ..."""
        _, setting, shown, forced, salt, draw = asked.row
        for place in _places(request.kind, request.scope, setting, shown, forced, salt, draw):
            if found := self._by.get(place):
                return found[-MOST:]
        return []


class Comparison:
    """Requests beside those that a journal has answered."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._open: OrderedDict[str, _Of] = OrderedDict()
        self._setting = lru_cache(4096)(self._unlike_settings)

    def nearest(self, request: Request) -> Nearest:
        """The earlier request that differs in the fewest fields, the latest of several, and what differs."""
        asked = take_apart(request)
        found = self._of(request.problem_id).near(request, asked)
        if not found:
            return Nearest(None, {})
        differing = [(self._changes(asked, earlier), earlier) for earlier in found]
        fewest = min(len(changes) for changes, _ in differing)
        best = [(changes, earlier) for changes, earlier in differing if len(changes) == fewest]
        of_other_draws = all(DRAWS in changes for changes, _ in best)  # then each stands in for one of them
        changes, earlier = best[request.index % len(best) if of_other_draws else -1]
        return Nearest(earlier, changes)

    def _of(self, problem_id: str) -> _Of:
        if problem_id not in self._open:
            # a score belongs to no problem, and everybody's scores are no history of one
            found = self._history.of(problem_id) if problem_id else []
            self._open[problem_id] = _Of(found, self._history)
            if len(self._open) > KEPT:
                self._open.popitem(last=False)
        self._open.move_to_end(problem_id)
        return self._open[problem_id]

    def _changes(self, asked: Asked, earlier: Earlier) -> Changes:
        _, setting, shown, forced, salt, draw = asked.row
        _, setting_was, shown_was, forced_was, salt_was, draw_was = earlier.row
        changes: Changes = {}
        if setting != setting_was:
            changes.update(self._setting(setting_was, setting, asked.parts[setting]))
        if shown != shown_was:
            was, now = self._history.part(shown_was), msgspec.json.decode(asked.parts[shown])
            changes.update({name: (was[name], now[name]) for name in now if was.get(name) != now[name]})
        if forced != forced_was:
            changes["prefix"] = (forced_was, forced)
        if salt != salt_was:
            changes["salt"] = (salt_was, salt)
        if draw != draw_was:
            changes[DRAWS] = (draw_was, draw)
        return changes

    def _unlike_settings(self, was: int, now: int, body: bytes) -> Changes:
        del now  # what it is known by
        before, after = _flat(self._history.part(was)), _flat(msgspec.json.decode(body))
        names = dict.fromkeys([*after, *before])
        return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _places(
    kind: str, scope: str, setting: Any, shown: Any, forced: Any, salt: Any, draw: Any
) -> list[tuple[Any, ...]]:
    """Where a request stands in the index, the place that agrees in most first."""
    return [
        (kind, setting, shown, forced, salt),
        (kind, scope, salt, draw),
        (kind, scope, salt),
        (kind, scope),
        (kind,),
    ]


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by their path; one that is null has no path below it."""
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": below for inner, below in value.items()})
        else:
            flat[name] = value
    return {name: value for name, value in flat.items() if value is not None}
