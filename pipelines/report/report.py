"""The page of a version, or of two: count, put into sections, write."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracemill.pipelines.asking.diff import diff
from tracemill.pipelines.asking.diff_screens import tables_of, told
from tracemill.pipelines.asking.reasons import CHANGES
from tracemill.pipelines.report.blocks import Block, Change, Changes, Numbers, Section, Text
from tracemill.pipelines.report.examples import examples_of
from tracemill.pipelines.report.facts import Facts, facts_of
from tracemill.pipelines.report.funnel import EXAMPLES
from tracemill.pipelines.report.page import BYTES, page_of, pair_page
from tracemill.pipelines.report.plane import map_section, opened
from tracemill.pipelines.report.sections import sections_of
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.durable import write_whole
from tracemill.pipelines.versions.reports import place_of, write_beside
from tracemill.schemas.errors import LawBroken, RecipeError
from tracemill.synth.embed import Embedder

VALUE = 1500
"""Characters of a value that differs."""
MOST_CHANGES = 10


def report(dataset: Dataset, embedder: Embedder | None = None) -> str:
    """The page of one version; of examples as many as keep it below `BYTES`. With an `embedder`, also a map of its rows."""
    for examples in (EXAMPLES, 1, 0):
        facts = facts_of(dataset, examples=examples)
        page = page_of(_sections(dataset, facts, embedder), str(dataset), _subtitle(facts))
        if len(page.encode()) < BYTES:
            return page
    raise LawBroken(f"the report of {dataset} is larger than {BYTES:,} bytes without any example")


def report_two(a: Dataset, b: Dataset, embedder: Embedder | None = None) -> str:
    """The page of two versions side by side, with what `tracemill diff` says on top."""
    said = diff(a, b, examples=MOST_CHANGES)
    for examples in (EXAMPLES, 1, 0):
        one, other = _on_one_scale(a, b, examples)
        top = [Section("differs", "What differs", list(_differs(said)))]
        refs = (one.ref, other.ref)
        page = pair_page(
            top,
            _sections(a, one, embedder),
            _sections(b, other, embedder),
            refs,
            f"a: {_subtitle(one)} b: {_subtitle(other)}",
        )
        if len(page.encode()) < BYTES:
            return page
    raise LawBroken(f"the report of {a} and {b} is larger than {BYTES:,} bytes without any example")


def _sections(dataset: Dataset, facts: Facts, embedder: Embedder | None) -> list[Section]:
    return sections_of(facts, [*examples_of(dataset), map_section(dataset, facts, embedder)])


def _on_one_scale(a: Dataset, b: Dataset, examples: int) -> tuple[Facts, Facts]:
    one, other = (facts_of(dataset, examples=examples) for dataset in (a, b))
    widths = tuple(max(_widths(one)[place], _widths(other)[place]) for place in (0, 1))
    again = (widths[0], widths[1])
    if _widths(one) != again:
        one = facts_of(a, examples=examples, widths=again)
    if _widths(other) != again:
        other = facts_of(b, examples=examples, widths=again)
    return one, other


def _widths(facts: Facts) -> tuple[int, int]:
    return facts.lengths.histogram.width if facts.lengths else 0, facts.samples.width if facts.samples else 0


def _subtitle(facts: Facts) -> str:
    manifest = facts.manifest
    method = (manifest.get("recipe", {}).get("synth") or {}).get("use")
    how = f"made by the method {method}" if method else "given traces, verified and chosen"
    return f"Version {manifest['version']}, {how}, {manifest['created'][:10]}{'' if manifest['complete'] else ', partial'}."


def _differs(said: Mapping[str, Any]) -> Iterator[Block]:
    lines = told(said)
    for place, line in enumerate(lines):
        yield Text(f"said{place}", line)
    if said["identical"]:
        return
    for place, (title, rows) in enumerate(tables_of(said)):
        if rows:
            yield Numbers(f"diff{place}", title, (tuple(rows[0]), tuple(tuple(row.values()) for row in rows)))
    for change in CHANGES:
        if rows := said["examples"][change]:
            title = f"{change}, the first {len(rows)} of {said['rows'][change]:,}"
            yield Changes(f"rows-{change}", title, tuple(map(_change, rows)))


def _change(row: Mapping[str, Any]) -> Change:
    detail = f": {row['detail']}" if row["detail"] else ""
    evidence = "" if row.get("evidence") is None else json.dumps(row["evidence"], ensure_ascii=False, indent=1)
    values = tuple((name, _cut(both["a"]), _cut(both["b"])) for name, both in row.get("values", {}).items())
    return Change(f"{row['id']}  {row['reason']}{detail}"[:VALUE], evidence[:VALUE], values)


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= VALUE else f"{text[:VALUE]} … ({len(text):,} characters)"


def write_report(page: str, file: Path) -> Path:
    """Write a page, in place of the one that was there; RecipeError where that cannot be."""
    file = file.expanduser().absolute()
    if not file.parent.is_dir() or file.is_dir():
        raise RecipeError(f"--out {file} cannot be written: name a file in a folder that is there")
    write_whole(file, page)
    return file


def make(store: Store, chosen: Sequence[Dataset], out: Path | None, embedder: str | None) -> Path:
    """`tracemill report`: write the page of one version or two, and say where it is."""
    reader = opened(store, embedder) if embedder else None
    page = report(chosen[0], reader) if len(chosen) == 1 else report_two(chosen[0], chosen[1], reader)
    if out is not None:
        return write_report(page, out)
    if len(chosen) == 1:
        try:
            return write_beside(store.root, chosen[0], page)
        except OSError as error:
            where = place_of(store.root, chosen[0])
            raise RecipeError(
                f"{where} cannot be written: {error.strerror}; name another place with --out FILE"
            ) from None
    names = "-".join(f"{dataset.name}-{dataset.version[:8]}" for dataset in chosen)
    return write_report(page, Path(f"report-{names}.html"))
