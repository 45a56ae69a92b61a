"""`manifest.json`: what a version was made from, how, and what it holds. Written last: where it stands, all of it stands."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NotRequired, TypedDict

from tracemill.pipelines.versions.canonical import canonical_json
from tracemill.pipelines.versions.dataset import MANIFEST_SCHEMA
from tracemill.pipelines.versions.parquet import FileFacts, TableFacts

LIBRARIES = (
    "pyarrow",
    "polars",
    "datasets",
    "math-verify",
    "sympy",
    "tokenizers",
    "msgspec",
    "vllm",
    "transformers",
    "torch",
    "peft",
)
"""Whose versions the manifest records, where they are installed."""


class ParentFacts(TypedDict):
    """A version that is a source: `name@version`, its table, and what its own sources state."""

    ref: str
    table: str
    licences: Sequence[str]


class SourceFacts(TypedDict, total=False):
    """Where problems came from."""

    name: str
    sha256: str
    licence: str
    licences: Sequence[str]
    """Each licence of it alone: a table of the store may bring several."""
    parent: ParentFacts
    """The version that `ref` meant when this one was made."""
    rows: int
    """Problems of this source's name in the version."""
    read: int
    """Rows of it that were read: read = refused + repeated + held."""
    refused: int
    repeated: int
    """Rows that stand for a problem of an earlier row, of this source or another."""
    held: int
    """Problems: held = taken + left_out."""
    taken: int
    left_out: int
    why: str
    """What leaves problems out: `weight` or `cap`."""
    cut: str
    """Of a source that leaves some out: taken are the problems whose SHA-256 of the id begins with 16 hex digits up to this."""
    weight: float
    traces: int
    chosen: int
    """Its traces, and those of them that were chosen; not told of two sources of one name."""


class ModelFacts(TypedDict, total=False):
    """One role's model. `verified` says that the revision was proven, by a hash of the weights or a Hub commit."""

    name: str
    revision: str | None
    verified: bool
    asked: Mapping[str, Any]
    """The effective settings: identity, drawing, prompt side, seeds."""


class EngineLevel(TypedDict):
    """The determinism level of one role's engine, and why."""

    level: str
    why: str


class Determinism(TypedDict):
    """`level`: L0 none, L1 seeded, L2 batch-invariant, L3 replayed. `promise`: in words, what a rebuild gives."""

    level: str
    promise: str
    fresh: NotRequired[str]
    """The level of sampling anew: that of the engine which promises least."""
    roles: NotRequired[Mapping[str, EngineLevel]]


class Rate(TypedDict):
    """How fast the build sampled, where it did: new tokens, seconds of synthesis, GPUs that it occupied (1 on CPUs)."""

    tokens: int
    seconds: float
    gpus: int


class Count(TypedDict):
    """How many rows a stage turned down for a reason; stage `chosen` for those it kept."""

    stage: str
    reason: str
    rows: int


class SampleCounts(TypedDict):
    """The samples of one role; `given` for traces that the source brings. All but `total` stand inside it."""

    role: str
    total: int
    correct: int
    undecided: int
    truncated: int
    unclosed: int
    """Thoughts that never closed: cut off, or ended in the middle."""


class MadeFrom(TypedDict, total=False):
    """What the builder knows. All of it is provenance: none of it is in the version id, which has `identity` for that."""

    recipe: Mapping[str, Any]
    sources: Sequence[SourceFacts]
    models: Mapping[str, ModelFacts]
    """By role."""
    engines: Mapping[str, Mapping[str, Any]]
    """By role, the facts of the backend; no addresses, no secrets."""
    verifier: Mapping[str, Any]
    problems: Mapping[str, int]
    """By outcome."""
    counts: Sequence[Count]
    samples: Mapping[str, int]
    """`new` and `replayed`."""
    roles: Sequence[SampleCounts]
    """What became of the samples of each role, whatever became of their problems."""
    tokens: Mapping[str, int]
    rate: Rate
    forecast: Mapping[str, Any]
    """What `tracemill preview` foresaw of this recipe, where it was asked: how many problems it `probed`, and `lines` of what, low, expected, high."""
    accuracy: Sequence[Mapping[str, Any]]
    """pass@k and maj@k by difficulty, a row each."""
    summary: Mapping[str, Any]
    """What the method says of it all, where it has a `summary`: title, rows, note."""
    lengths: Mapping[str, Any]
    """Tokens of the chosen traces: how many traces have such a number, and its mean, median, p95, maximum; the store counts them."""
    determinism: Determinism
    code: str
    """The hash of the installed package."""
    plugins: Mapping[str, str]
    """SHA-256 of the file of each plug-in that was used, by its name in the recipe."""
    inputs: Mapping[str, str]
    """SHA-256 of each file and folder that was read beside the sources, by its name."""
    benchmarks: Mapping[str, Mapping[str, Any]]
    """Revision, SHA-256 of the content, and rows of each benchmark that was looked for."""
    judged: Sequence[Mapping[str, Any]]
    """Plug-ins whose model's word decides about rows, by which steps, and whether that was measured; of a source's version, too."""
    calibration: Sequence[Mapping[str, Any]]
    """How often each judge was right on planted cases: counts, shares with intervals, and the cases it missed."""
    selected: Mapping[str, Mapping[str, object]]
    """How selectors chose, where they say so: it may differ between machines."""
    why_partial: str
    """What stopped the build, in a version that is not complete."""


def version_id(tables: Mapping[str, TableFacts], identity: Mapping[str, Any], *, complete: bool) -> str:
    """The full hash that a version is named by: its 16 first digits are the folder.

    A partial version never has the id of a complete one, even where the tables agree: what is said about it differs.
    """
    return _digest({name: table.content for name, table in tables.items()}, identity, complete=complete)


def full_manifest(
    made_from: MadeFrom,
    *,
    name: str,
    digest: str,
    identity: Mapping[str, Any],
    tables: Mapping[str, TableFacts],
    complete: bool,
) -> dict[str, Any]:
    """What the builder knows, and what the store adds."""
    return {
        "schema_version": MANIFEST_SCHEMA,
        "name": name,
        "version": digest[:16],
        "digest": digest,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "complete": complete,
        "identity": identity,
        "tables": {table: facts.plain() for table, facts in tables.items()},
        "tracemill": _version_of("tracemill"),
        "python": platform.python_version(),
        "libraries": {library: have for library in LIBRARIES if (have := _version_of(library))},
        **made_from,
    }


def licences(manifest: Mapping[str, Any]) -> list[str]:
    """What the sources state, each once; `unknown` stays unknown."""
    sources = manifest.get("sources", ())
    stated = (name for source in sources for name in source.get("licences") or [source.get("licence")])
    return sorted({str(name or "unknown").strip() for name in stated}) or ["unknown"]


def listed_files(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The facts of every file that a manifest promises, by path from the version's folder."""
    tables = [file for table in manifest["tables"].values() for file in table["files"]]
    return {str(file["path"]): file for file in [*tables, *manifest.get("files", ())]}


def sealed(manifest: Mapping[str, Any], files: Sequence[FileFacts]) -> dict[str, Any]:
    """The manifest with the facts of the files that are no part of a table (card, recipe, views), and a hash over all of it."""
    whole = {**manifest, "files": [asdict(file) for file in files]}
    return {**whole, "seal": seal_of(whole)}


def seal_of(manifest: Mapping[str, Any]) -> str:
    """The hash of everything in a manifest but its seal, whatever white space and order its JSON has."""
    return sha256(canonical_json({key: value for key, value in manifest.items() if key != "seal"})).hexdigest()


def digest_of(manifest: Mapping[str, Any]) -> str:
    """The hash that a version with this manifest is named by, made anew from what the manifest says of its content."""
    return _digest(
        {name: table["content"] for name, table in manifest["tables"].items()},
        manifest["identity"],
        complete=manifest["complete"],
    )


def pretty_json(value: Mapping[str, Any]) -> str:
    """JSON for people and programs: indented, in order, ending in a line feed."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _digest(content: Mapping[str, str], identity: Mapping[str, Any], *, complete: bool) -> str:
    return sha256(
        canonical_json({"form": 1, "complete": complete, "identity": identity, "tables": content})
    ).hexdigest()


def _version_of(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
