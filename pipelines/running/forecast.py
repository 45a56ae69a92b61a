"""What `tracemill preview` foresaw, kept in a dataset's work folder until its version says what came of it.

A forecast belongs to one recipe over one content of its sources: that of any other is not told. It is provenance, and in no version's id.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tracemill.pipelines.running.progress import span
from tracemill.pipelines.versions.canonical import canonical_json
from tracemill.pipelines.versions.durable import write_whole

FILE = "forecast.json"


@dataclass(frozen=True, slots=True)
class Foreseen:
    """One quantity over the whole build; `low` and `high` are the ends of a 95 % interval, None where there is nothing to estimate."""

    what: str
    low: float | None
    expected: float
    high: float | None
    digits: int = 0

    def shown(self) -> dict[str, str]:
        """For people: seconds as hours and minutes."""
        ends = {"low": self.low, "expected": self.expected, "high": self.high}
        if self.what == "seconds":
            return {"what": "time", **{name: "" if end is None else span(end) for name, end in ends.items()}}
        return {
            "what": self.what,
            **{name: "" if end is None else f"{end:,.{self.digits}f}" for name, end in ends.items()},
        }


def keep_forecast(work: Path, identity: Mapping[str, Any], lines: Sequence[Foreseen], probed: int) -> None:
    """Keep it for the build of this very recipe, in place of an earlier one."""
    told = [{name: value for name, value in asdict(line).items() if name != "digits"} for line in lines]
    write_whole(work / FILE, json.dumps({"recipe": _digest(identity), "probed": probed, "lines": told}, indent=1))


def kept_forecast(work: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """How many problems were probed and what was foreseen, where it was foreseen of this recipe."""
    try:
        kept = json.loads((work / FILE).read_bytes())
        same = kept["recipe"] == _digest(identity)
        return {"probed": int(kept["probed"]), "lines": list(kept["lines"])} if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or half of one from a disk that broke: nothing hangs on it


def _digest(identity: Mapping[str, Any]) -> str:
    return sha256(canonical_json(identity)).hexdigest()
