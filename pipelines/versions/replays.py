"""What replays of a version said: `<store>/.replays/<name>/<version>.jsonl`, a line a run. A version itself never changes."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.durable import sync

FOLDER = ".replays"


def keep_replay(folder: Path, dataset: Dataset, facts: Mapping[str, Any]) -> None:
    """Add a line to what is kept of a version; `folder` is the store's."""
    file = folder / dataset.name / f"{dataset.version}.jsonl"
    file.parent.mkdir(exist_ok=True)
    kept = {name: value for name, value in facts.items() if name != "differing"}
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(handle, json.dumps(kept).encode() + b"\n")  # in one go: the lines of two replays do not mix
        os.fsync(handle)
    finally:
        os.close(handle)
    sync(file.parent)


def last_replay(root: Path, dataset: Dataset) -> dict[str, Any] | None:
    """What the newest replay of a version said; null where there was none, or its line is torn."""
    file = root / FOLDER / dataset.name / f"{dataset.version}.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        return dict(json.loads(lines[-1])) if lines else None
    except (FileNotFoundError, ValueError):
        return None


def replay_told(facts: Mapping[str, Any]) -> str:
    """One line: how many came out the same, on which engines, when."""
    engines = ", ".join(sorted({str(engine.get("engine", "unknown")) for engine in facts["engines"].values()}))
    return f"{rate_told(facts['all']['exact'])} samples came out the same on {engines}, {facts['at']}"


def rate_told(rate: Mapping[str, Any] | None) -> str:
    """As `47 of 50 (94.0 %, 83.8 to 97.9)`."""
    if rate is None:
        return "none could be told"
    return f"{rate['same']:,} of {rate['of']:,} ({100 * rate['rate']:.1f} %, {100 * rate['low']:.1f} to {100 * rate['high']:.1f})"


def replay_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """What `tracemill replay` prints."""
    yield f"replayed  {facts['ref']}: {replay_told(facts)}"
    for role, rates in {"all": facts["all"], **facts["roles"]}.items():
        if role != "all" and len(facts["roles"]) == 1:
            continue
        yield f"  {role}"
        for name, what in (("tokens", "token ids"), ("text", "text"), ("verdict", "verdict")):
            if rates[name] is not None:
                yield f"    {what:<10} {rate_told(rates[name])}"
        if (first := rates["first_difference"]) is not None:
            yield f"    where they part: at position {first['median']:,.0f} in the middle, {first['earliest']:,} at the earliest"
    if facts["refused"]:
        yield f"  {facts['refused']:,} requests were refused by the engine"
    if facts["not_found"]:
        yield f"  {facts['not_found']:,} samples could not be asked again: their requests are neither in the journal nor made by the method"
    for one in facts["differing"][:10]:
        same = "" if one["same_verdict"] is None else f", verdict {'the same' if one['same_verdict'] else 'another'}"
        yield f"  {one['key'][:12]} parts at position {one['first_difference']:,}{same}"
    yield "shares are of samples, with 95 % Wilson intervals; tracemill explain takes a key"
