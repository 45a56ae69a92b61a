"""How far a build is that is spread over workers: the progress of its shards, added up."""

from collections.abc import Iterator, Mapping
from typing import Any

from tracemill.pipelines.running.progress import span
from tracemill.pipelines.running.tally import Tally

NAMES = ("step", "problems", "done", "failed", "samples_new", "samples_replayed", "tokens_per_second", "longest_open")
"""What `tracemill status` tells of a shard that runs."""


def add_up(
    tally: Tally, total: int, done: Mapping[str, Mapping[str, Any]], running: Mapping[str, Mapping[str, Any]]
) -> None:
    """Make `tally` that of all shards, of what those said that are done and of the progress files of those that run."""
    facts = [*done.values(), *running.values()]
    meter = tally.meter
    tally.done = min(total, _sum(facts, "done"))
    tally.failed = _sum(facts, "failed")
    meter.samples_new, meter.samples_replayed = _sum(facts, "samples_new"), _sum(facts, "samples_replayed")
    meter.tokens_new = _sum(facts, "tokens_new")
    tally.shards = [
        {"shard": shard, "worker": of["worker"], **{name: of[name] for name in NAMES if name in of}}
        for shard, of in sorted(running.items(), key=lambda pair: int(pair[0].partition("/")[0]))
    ]


def stragglers(tally: Tally) -> Iterator[str]:
    """The shards that wait for their last problems, and for which."""
    for row in tally.shards:
        left = int(row.get("problems", 0)) - int(row.get("done", 0))
        if 0 < left <= 3 and row.get("longest_open"):
            problem, seconds = row["longest_open"][0]
            yield f"shard {row['shard']} waits for {left} of its problems, {problem} for {span(seconds)}"


def _sum(facts: list[Mapping[str, Any]], name: str) -> int:
    return sum(int(shard.get(name, 0)) for shard in facts)
