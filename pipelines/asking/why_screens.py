"""What `tracemill why` prints: counts, then a line for each reason, then what it would cost."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tracemill.pipelines.asking.changes import DRAWS, FIRST, NEW
from tracemill.pipelines.running.progress import span
from tracemill.schemas.printable import printable

WIDTH = 60
_SAID = {
    DRAWS: "more draws than before",
    NEW: "problem added: nothing of it was asked before",
    FIRST: "first of its kind: nothing like it was asked of this problem",
    "problem text": "problem text changed",
    "prompt": "prompt changed",
    "prefix": "the forced beginning changed",
    "salt": "salt changed",
}


def why_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    problems, requests = facts["problems"], facts["requests"]
    yield (
        f"problems  {problems['total']:,}: {problems['spool']:,} as they were, {problems['journal']:,} worked out again from the "
        f"journal, {problems['sampled']:,} to be sampled"
        + (f", {problems['turned_down']:,} turned down by a filter or not reached" if problems["turned_down"] else "")
    )
    estimated = f", and about {requests['new_estimated']:,} more (estimate)" if requests["new_estimated"] else ""
    yield f"requests  {requests['answered']:,} answered by the journal, {requests['new']:,} new{estimated}"
    yield from _since(facts)
    if not facts["groups"]:
        yield "nothing would be sampled"
    for group in facts["groups"]:
        yield _group(group)
    if facts["groups"]:
        yield f"cost      {_tokens(facts['tokens'])}{_time(facts['cost'])}"
    for note in facts["notes"]:
        yield f"note      {note}"


def _since(facts: Mapping[str, Any]) -> Iterator[str]:
    recipe = facts["recipe"]
    if recipe is None:
        yield "recipe    no complete version of this name to compare it with"
        return
    differs = recipe["differs"]
    told = ", ".join(_key(line) for line in differs[:12])
    more = f" and {len(differs) - 12:,} more" if len(differs) > 12 else ""
    of = recipe["version"]
    yield f"recipe    since {of}: {told}{more}" if differs else f"recipe    the same as of {of}"


def _key(line: Mapping[str, Any]) -> str:
    path = str(line["path"])
    if path == "code":
        return "tracemill's code"
    if path.startswith("plugins."):
        return f"the code of {path.removeprefix('plugins.')}"
    return f"{path} {_value(line['a'])} -> {_value(line['b'])}"


def _group(group: Mapping[str, Any]) -> str:
    reason = ", ".join(_change(change) for change in group["changes"])
    sure, likely = group["requests"], group["requests_estimated"]
    count = f"{sure:,} requests" if sure else ""
    if likely:
        count += f"{' and ' if count else ''}about {likely:,} {'more ' if sure else ''}(estimate)"
    return f"  {reason}: {count} of {group['problems']:,} problems, {_tokens(group['tokens'])}"


def _change(change: Mapping[str, Any]) -> str:
    name = str(change["field"])
    if change["was"] is None and change["now"] is None:
        return _SAID.get(name, f"{name} changed")
    return f"{name} {_value(change['was'])} -> {_value(change['now'])}"


def _value(value: Any) -> str:
    text = (
        "nothing"
        if value is None
        else value
        if isinstance(value, str) and value
        else json.dumps(value, ensure_ascii=False)
    )
    return printable(text if len(text) <= WIDTH else text[: WIDTH - 3] + "...")


def _tokens(tokens: Mapping[str, int | None]) -> str:
    if tokens["expected"] is None:
        return f"at most {_round(tokens['high'])} tokens; nothing like them was sampled"
    return f"about {_round(tokens['expected'])} tokens ({_round(tokens['low'])} to {_round(tokens['high'])})"


def _round(count: int | None) -> str:
    """Three digits are all that an estimate has."""
    value = float(count or 0)
    for least, size, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}"


def _time(cost: Mapping[str, Any] | None) -> str:
    if cost is None:
        return "; no build of this name recorded how fast it samples"
    seconds, hours = cost["seconds"], cost["gpu_hours"]
    which = "expected" if seconds["expected"] is not None else "high"
    least = "" if which == "expected" else "at most "
    gpu = f", {hours[which]:,.2f} GPU-hours" if cost["gpus"] > 1 or hours[which] >= 0.01 else ""
    return f", {least}{span(seconds[which])}{gpu} at the {cost['tokens_per_second']:,.0f} tokens/s of {cost['version']}"
