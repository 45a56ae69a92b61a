"""`README.md` of a version: what the Hub, `datasets` and a person need to know, all of it from the manifest.

The front matter's `configs:` make `datasets.load_dataset(<folder>)` work, `rows` being the default. Tables without rows are not
listed, because `datasets` cannot load them; where `rows` itself is empty, the first table that is not becomes the default.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from tracemill.pipelines.cards.parts import WINDOWS, column_rows, features
from tracemill.pipelines.cards.use import again, training
from tracemill.pipelines.judging.told import calibration_rows, unmeasured
from tracemill.pipelines.versions.manifest import licences

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
"""The Hub's size categories, by their upper bounds; what is larger is n>10M to us, though the Hub goes on."""
LICENCES = (
    "mit apache-2.0 bsd-2-clause bsd-3-clause cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 "
    "cc-by-3.0 cc-by-sa-3.0 cc-by-nc-sa-3.0 odc-by odbl gpl-3.0 lgpl-3.0 agpl-3.0 mpl-2.0 unlicense openrail"
)
"""Identifiers of the Hub, by spaces, that a source may state; whatever else a source says is shown as it says it."""
_SOURCE_COUNTS = {
    "rows read": "read",
    "refused": "refused",
    "repeated": "repeated",
    "left out": "left_out",
    "problems": "rows",
    "traces": "traces",
    "chosen": "chosen",
}
CALIBRATED = (
    "Measured on planted cases before the first problem, with the prompt, the model and the filters that decided about rows; Wilson 95 % intervals. "
    "Undecided ones, whose reply could not be read, are among all of them and never right, kept or caught."
)
FIRST = ("rows", "traces", "samples", "problems", "rejected")
"""The order in which tables are shown; others follow by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardTable:
    """A table of numbers for the reader, such as pass@k; the keys of its first row are its columns."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPicture:
    """A picture beside the card: its file, and what it shows in words, for those who do not see it."""

    path: str
    title: str
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a card shows beyond the manifest."""

    about: str = ""
    """What the dataset is, in a sentence or two."""
    tables: Sequence[CardTable] = ()
    tags: Sequence[str] = ()
    limits: Sequence[str] = ()
    """What a user must know before relying on it, a sentence each."""
    meaning: Mapping[str, str] = field(default_factory=dict)
    """What columns of a method, a score or a selector mean: `draw`, or `pairs.ratio` of a table of its own."""
    papers: Sequence[tuple[str, str]] = ()
    """Names in the recipe, and the arXiv numbers of what they come from."""


def write_card(
    manifest: Mapping[str, Any],
    facts: CardFacts,
    schemas: Mapping[str, pa.Schema] = MappingProxyType({}),
    views: Mapping[str, int] = MappingProxyType({}),
    pictures: Sequence[CardPicture] = (),
) -> str:
    """The card of a version, as its manifest has it; with the `schemas` of its tables their columns are explained.

    `views` are the formats of trainers that the version holds, and how many rows each has.
    """
    sections = [
        f"# {manifest['name']}",
        _partial(manifest),
        facts.about,
        _made(manifest),
        _judges(manifest),
        _holds(manifest, views),
        _pictures(pictures),
        *(_numbers(table) for table in facts.tables),
        _counts(manifest),
        _tokens(manifest),
        _columns(schemas, facts.meaning),
        _sources(manifest),
        _load(manifest),
        training(manifest, schemas, views),
        again(manifest),
        _limits(manifest, facts),
        _papers(facts),
    ]
    return (
        front_matter(manifest, facts, schemas, views)
        + "\n"
        + "\n\n".join(section for section in sections if section)
        + "\n"
    )


def front_matter(
    manifest: Mapping[str, Any], facts: CardFacts, schemas: Mapping[str, pa.Schema], views: Mapping[str, int]
) -> str:
    """The YAML block that the Hub and `datasets` read. Values are JSON, which YAML takes as it is."""
    listed = listed_tables(manifest)
    rows = manifest["tables"]["rows"]["rows"]
    size = next((name for bound, name in SIZES if rows < bound), "n>10M")
    tags = dict.fromkeys(["tracemill", "reasoning", *facts.tags])
    lines = [f"pretty_name: {_json(manifest['name'])}", *_licence_lines(licences(manifest))]
    lines += [f"tags: {_json(list(tags))}", f"size_categories: {_json([size])}"]
    folders = {**dict.fromkeys(listed, ""), **dict.fromkeys((view for view in views if view not in listed), "views/")}
    lines += ["configs:"] if listed else []
    for table, folder in folders.items():
        # `datasets` caches by the folder's name and this number, not by content: without it, `latest` would stay what it was
        # when it was loaded first, and be the same for every dataset
        lines += [f"- config_name: {table}", f"  version: 0.0.{int(manifest['version'], 16)}"]
        lines += ["  default: true"] if table == listed[0] else []
        lines += ["  data_files:", "  - split: train", f"    path: {_json(f'{folder}{table}/*.parquet')}"]
    lines += ["dataset_info:"] if any(table in schemas for table in listed) else []
    for table in listed:
        lines += _info(table, manifest["tables"][table], schemas[table]) if table in schemas else []
    return "\n".join(["---", *lines, "---", ""])


def _info(table: str, facts: Mapping[str, Any], schema: pa.Schema) -> Iterator[str]:
    """What `datasets` holds a config against: types, number of rows, and the bytes of its files."""
    yield f"- config_name: {table}"
    if (known := features(schema)) is not None:
        yield "  features:"
        yield from (f"  - {_json(feature)}" for feature in known)
    yield "  splits:"
    yield "  - name: train"
    yield f"    num_bytes: {sum(file['bytes'] for file in facts['files'])}"  # without it the number of rows is ignored
    yield f"    num_examples: {facts['rows']}"


def listed_tables(manifest: Mapping[str, Any]) -> list[str]:
    """The tables that have rows, the default config first."""
    return [name for name in _in_order(manifest["tables"]) if manifest["tables"][name]["rows"]]


def _partial(manifest: Mapping[str, Any]) -> str:
    if manifest["complete"]:
        return ""
    why = manifest.get("why_partial", "the build was stopped before the end")
    return f"> **Partial version**: {_cell(why)}. Problems are missing; what is here is whole and verified as usual."


def _made(manifest: Mapping[str, Any]) -> str:
    recipe = manifest.get("recipe", {})
    how = recipe.get("synth") or {}
    lines = [f"Version `{manifest['version']}`, made {manifest['created']} by tracemill {manifest['tracemill']}."]
    if how.get("use"):
        lines.append(f"Method: `{_cell(how['use'])}` ({_options(how)}). The whole recipe stands in `recipe.toml`.")
    else:
        lines.append(
            "Nothing was sampled: given traces were verified and chosen. The whole recipe stands in `recipe.toml`."
        )
    for role, model in manifest.get("models", {}).items():
        revision = model.get("revision")
        proof = "verified" if model.get("verified") and revision else "unverified"
        at = f" at revision `{_cell(revision)}`" if revision else ", revision unknown"
        lines.append(f"Model ({role}): `{_cell(model.get('name', 'unknown'))}`{at} ({proof}).")
    for role, engine in manifest.get("engines", {}).items():
        lines.append(f"Engine ({role}): {_options(engine)}.")
    if verifier := manifest.get("verifier"):
        lines.append(f"Verifier: {_options(verifier)}.")
    if level := manifest.get("determinism"):
        lines.append(f"Determinism {level['level']}: {_cell(level['promise'])}")
        lines += [f"Engine of {role} {of['level']}: {_cell(of['why'])}." for role, of in level.get("roles", {}).items()]
        if "fresh" in level:
            ref = f"{manifest['name']}@{manifest['version']}"
            lines.append(
                f"How many samples come out the same when they are drawn anew: `tracemill replay {ref} --sample 50`."
            )
    return "## How it was made\n\n" + "\n".join(f"- {line}" for line in lines)


def _judges(manifest: Mapping[str, Any]) -> str:
    """Whose word decided about rows, and how often it was right."""
    judged, measured = manifest.get("judged", ()), calibration_rows(manifest)
    if not judged and not measured:
        return ""
    parts = [f"- `{_cell(judge['use'])}` decides by {_cell(', '.join(judge['by']))}{_of(judge)}" for judge in judged]
    sections = ["## Judges", "\n".join(parts)] if parts else ["## Judges"]
    if measured:
        head = list(measured[0])
        sections += [_table(head, ([row[name] for name in head] for row in measured)), CALIBRATED]
    return "\n\n".join(sections)


def _of(judge: Mapping[str, Any]) -> str:
    where = f", in the version `{_cell(judge['of'])}` that rows come from" if "of" in judge else ""
    return f"{where}: {'measured' if judge['calibrated'] else 'not measured on known cases'}."


def _holds(manifest: Mapping[str, Any], views: Mapping[str, int]) -> str:
    tables = manifest["tables"]
    body = _table(["table", "rows"], ([f"`{name}`", f"{tables[name]['rows']:,}"] for name in _in_order(tables)))
    notes = []
    listed = listed_tables(manifest)
    if not tables["rows"]["rows"]:
        default = f"the default config is `{listed[0]}`" if listed else "there is no config to load"
        notes.append(
            f"**No row was chosen**: `rows` is empty; {default}. The counts below say what became of the problems."
        )
    if empty := [name for name in _in_order(tables) if name not in listed and name != "rows"]:
        notes.append(f"Tables without rows are not listed as configs: {', '.join(f'`{name}`' for name in empty)}.")
    if views:
        told = ", ".join(f"`{view}` ({rows:,} rows)" for view, rows in views.items())
        notes.append(f"The same in the columns of trainers, each a config too: {told}.")
    return "\n\n".join(["## What it holds", body, *notes])


def _pictures(pictures: Sequence[CardPicture]) -> str:
    lines = [f"![{_alt(picture)}]({picture.path})" for picture in pictures]
    return "\n\n".join(["## In pictures", *lines]) if lines else ""


def _alt(picture: CardPicture) -> str:
    """Words for a picture that leave the brackets around them whole."""
    return _cell(f"{picture.title}. {picture.said}").translate(str.maketrans("[]", "()"))


def _numbers(table: CardTable) -> str:
    if not table.rows:
        return ""
    head = list(table.rows[0])
    body = _table(head, ([row.get(column) for column in head] for row in table.rows))
    return "\n\n".join(part for part in (f"## {_cell(table.title)}", body, _cell(table.note)) if part)


def _counts(manifest: Mapping[str, Any]) -> str:
    parts = []
    if problems := manifest.get("problems"):
        parts.append(_table(["problems", "number"], ([outcome, f"{n:,}"] for outcome, n in problems.items())))
    if counts := manifest.get("counts"):
        lines = ([count["stage"], count["reason"], f"{count['rows']:,}"] for count in counts)
        parts.append(_table(["stage", "reason", "rows"], lines))
        parts.append(
            "Every row that is not in `rows` stands in `rejected`, with its reason, the evidence and its content."
        )
    roles = [count for count in manifest.get("roles", ()) if count["truncated"] or count["unclosed"]]
    if roles:
        head = ["role", "samples", "truncated", "thought never closed"]
        lines = ([c["role"], f"{c['total']:,}", f"{c['truncated']:,}", f"{c['unclosed']:,}"] for c in roles)
        parts.append(_table(head, lines))
        parts.append("A truncated sample ran into the token limit and counts as wrong, whatever it boxed on the way.")
    return "\n\n".join(["## What became of what", *parts]) if parts else ""


def _tokens(manifest: Mapping[str, Any]) -> str:
    if not (numbers := manifest.get("lengths")):
        return ""
    head = ["traces", "tokens", "mean", "median", "p95", "max", *(f"over {window:,}" for window in WINDOWS)]
    over = [f"{numbers[f'over_{window}'] / numbers['rows']:.1%}" for window in WINDOWS]
    plain = [f"{numbers[name]:,}" for name in ("rows", "total", "mean", "median", "p95", "max")]
    note = "Tokens that were written, prompts not included; the column `tokenizer` says who counted."
    return "\n\n".join(["## Tokens", _table(head, [[*plain, *over]]), note])


def _columns(schemas: Mapping[str, pa.Schema], meaning: Mapping[str, str]) -> str:
    if not schemas:
        return ""
    head = ["column", "type", "meaning"]
    parts = (f"### {name}\n\n{_table(head, column_rows(name, schemas[name], meaning))}" for name in _in_order(schemas))
    return "\n\n".join(["## Columns", "Any column may be null: not known, or does not apply.", *parts])


def _papers(facts: CardFacts) -> str:
    if not facts.papers:
        return ""
    lines = (f"- `{_cell(use)}`: [arXiv:{paper}](https://arxiv.org/abs/{paper})" for use, paper in facts.papers)
    return "## Cite\n\nWhat the recipe uses was described in\n\n" + "\n".join(lines)


def _sources(manifest: Mapping[str, Any]) -> str:
    sources = manifest.get("sources", ())
    if not sources:
        return ""
    head = ["source", "licence", "weight", *_SOURCE_COUNTS, "sha256"]
    lines = [_source_line(source) for source in sources]
    shown = [
        place for place in range(len(head)) if place < 2 or any(line[place] not in (None, "", "0") for line in lines)
    ]
    notes = [_table([head[p] for p in shown], ([line[p] for p in shown] for line in lines))]
    if any(source.get("left_out") for source in sources):
        notes.append(
            "Problems that a weight or a cap leaves out are no part of this version: they are counted here and stand in no table. Taken "
            "are those whose SHA-256 of the id begins with digits up to the source's `cut` in `manifest.json`."
        )
    if any(source.get("repeated") for source in sources):
        notes.append(
            "Repeated: rows that stand for a problem of an earlier row, as a copy or as a further trace of it."
        )
    notes.append(
        "Licences are what the recipe states of each source; nobody checked them. The terms of the models come on top."
    )
    return "\n\n".join(["## Sources", *notes])


def _source_line(source: Mapping[str, Any]) -> list[Any]:
    counts = [_whole(source.get(key)) for key in _SOURCE_COUNTS.values()]
    digest = f"`{source.get('sha256', '')[:16]}`"
    return [source.get("name", ""), source.get("licence", "unknown"), source.get("weight"), *counts, digest]


def _whole(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _load(manifest: Mapping[str, Any]) -> str:
    listed = listed_tables(manifest)
    if not listed:
        return ""
    table = listed[0]
    return f"""## Load it

```python
from pathlib import Path
from datasets import load_dataset

here = str(Path.cwd())  # this folder; on the Hub, the repository's name
{table} = load_dataset(here, "{table}", split="train")
```

```python
import polars as pl

{table} = pl.scan_parquet("{table}/*.parquet")
```"""


def _limits(manifest: Mapping[str, Any], facts: CardFacts) -> str:
    limits = list(facts.limits)
    if any(not (m.get("verified") and m.get("revision")) for m in manifest.get("models", {}).values()):
        limits.append("A model's revision is unverified: another model may answer to the same name.")
    if open_judges := unmeasured(manifest):
        told = ", ".join(open_judges)
        limits.append(f"Nobody measured how often the judge is right whose word decided about rows: {told}.")
    if "unknown" in licences(manifest):
        limits.append("The licence of a source is unknown: find out before you publish or train on it.")
    return "## Known limits\n\n" + "\n".join(f"- {_cell(limit)}" for limit in limits) if limits else ""


def _licence_lines(licences: Sequence[str]) -> list[str]:
    """One licence that the Hub knows is named; anything else is `other`, with what the sources say."""
    if len(licences) == 1:
        known = licences[0].lower()
        if known in LICENCES.split() or known == "unknown":
            return [f"license: {known}"]
    return ["license: other", f"license_name: {_json(', '.join(licences))}"]


def _in_order(tables: Iterable[str]) -> list[str]:
    return sorted(tables, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def _options(table: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{_cell(key)} {_cell(_json(value))}" for key, value in table.items() if key != "use") or "defaults"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: Any) -> str:
    """One line that leaves the table whole, whatever stands in it."""
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
