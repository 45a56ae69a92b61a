"""What `ls`, `show`, `status` and a finished build print, as lines."""

import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tracemill.pipelines.cards.summaries import shown_summary
from tracemill.pipelines.judging.told import calibration_lines
from tracemill.pipelines.running.progress import span
from tracemill.pipelines.scale.shard_work import is_locked, shards_here
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.lineage import shown_accuracy
from tracemill.pipelines.versions.replays import last_replay, replay_told
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.printable import printable
from tracemill.schemas.recipe import suggest

if TYPE_CHECKING:
    from tracemill.pipelines.build import Built
    from tracemill.pipelines.versions.sharing import Shared


def built_lines(built: "Built") -> Iterator[str]:
    """A finished build: accuracy, what was turned down and why, the path, and what to try next."""
    manifest = built.dataset.manifest()
    yield from version_lines(manifest)
    yield from _views(built.dataset)
    meter = built.tally.meter
    yield f"samples   {meter.samples_new:,} new ({meter.tokens_new:,} tokens), {meter.samples_replayed:,} replayed"
    if built.why_partial:
        yield f"partial   {built.why_partial}"
    yield from (f"note      {note}" for note in built.notes)
    yield from _shared_lines(built.shared)
    yield f"version   {built.dataset}"
    yield f"path      {built.dataset.path}"
    if built.report is not None:
        yield f"report    {built.report}"
    yield ""
    yield f"next      tracemill show {_shortest_ref(built.dataset)}"
    yield f"          python -c \"from datasets import load_dataset; print(load_dataset('{built.dataset.path}'))\""


def _shared_lines(shared: "Shared") -> Iterator[str]:
    if shared.files:
        bytes_ = f"{shared.bytes / 1e6:,.1f} of {shared.of_bytes / 1e6:,.1f} MB"
        yield f"shared    {shared.files:,} of {shared.of_files:,} files with older versions, {bytes_}"
    if shared.copied:
        yield f"copied    {shared.copied:,} files that older versions hold too: no hard links here ({shared.why})"


def _shortest_ref(dataset: Dataset) -> str:
    """What to type after `tracemill show` to see just this version, from the folder of the build."""
    ref = dataset.name if dataset.manifest()["complete"] else str(dataset)
    root = dataset.path.parent.parent
    found = Path(os.environ.get("TRACEMILL_STORE") or "data/store").expanduser().absolute()
    return ref if root == found else f"{ref} --store {root}"


def opened_lines(dataset: Dataset) -> Iterator[str]:
    """The proof that a version is a dataset like any other: `datasets` opens its folder, and here is a row."""
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.load_dataset(str(dataset.path), split="train")
    yield ""
    yield f"opened    datasets.load_dataset gives {len(rows):,} rows of {len(rows.column_names)} columns; the first:"
    for name in ("id", "question", "content", "answer", "gold", "correct", "target", "solution_1", "solution_4"):
        if name in rows.column_names:
            yield f"  {name:<10} {rows[0][name]}"


def version_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Accuracy, outcomes and reasons of one version."""
    if accuracy := manifest.get("accuracy"):
        yield "accuracy, with 95 % intervals over problems"
        yield from columns(shown_accuracy(accuracy))
        yield ""
    if (summary := manifest.get("summary")) and summary["rows"]:
        yield summary["title"][:1].lower() + summary["title"][1:]
        yield from columns(shown_summary(summary))
        yield ""
    if judging := list(calibration_lines(manifest)):
        yield from (*judging, "")
    yield "rows by stage and reason"
    yield from columns(
        [{"rows": f"{c['rows']:,}", "stage": c["stage"], "reason": c["reason"]} for c in manifest["counts"]],
        right=("rows",),
    )
    yield ""
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in manifest["problems"].items())
    yield f"problems  {sum(manifest['problems'].values()):,} ({outcomes})"
    yield from _cut_off(manifest.get("roles", ()))
    tables = ", ".join(f"{name} {facts['rows']:,}" for name, facts in manifest["tables"].items())
    yield f"tables    {tables}"


def _cut_off(roles: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """How many samples of each role ran into the token limit or never closed their thought; nothing where none did."""
    for count in roles:
        if count["truncated"] or count["unclosed"]:
            truncated = f"{count['truncated']:,} of {count['total']:,} samples truncated"
            yield f"cut off   {count['role']}: {truncated}, {count['unclosed']:,} thoughts never closed"


def show_lines(dataset: Dataset) -> Iterator[str]:
    """One version: where it comes from and what it holds."""
    manifest = dataset.manifest()
    yield f"{dataset}{'' if manifest['complete'] else '  (partial: ' + str(manifest.get('why_partial')) + ')'}"
    yield f"path      {dataset.path}"
    yield f"created   {manifest['created']} by tracemill {manifest['tracemill']}"
    for source in manifest.get("sources", []):
        yield f"source    {source['name']}: {source['rows']:,} problems, licence {source['licence']}, sha256 {source['sha256'][:12]}"
    for role, model in manifest.get("models", {}).items():
        yield f"model     {role}: {model['name']} at {model['revision']}{'' if model['verified'] else ' (unverified)'}"
    level = manifest.get("determinism")
    if level:
        yield f"promise   {level['level']}: {level['promise']}"
    if last := last_replay(dataset.path.parent.parent, dataset):
        yield f"replayed  {replay_told(last)}"
    yield ""
    yield from version_lines(manifest)
    yield from _views(dataset)


def _views(dataset: Dataset) -> Iterator[str]:
    """The rows of each view that the recipe asks for; one without rows is not there, and that is said."""
    asked = tomllib.loads((dataset.path / "recipe.toml").read_text(encoding="utf-8")).get("views", {})
    counts = {
        name: sum(pq.read_metadata(file).num_rows for file in (dataset.path / "views" / name).glob("*.parquet"))
        for name, options in asked.items()
        if options is not False
    }
    if counts:
        told = (f"{name} {rows:,}" if rows else f"{name} left out, it has no rows" for name, rows in counts.items())
        yield f"views     {', '.join(told)}"


def list_lines(store: Store) -> Iterator[str]:
    """Every version of every dataset."""
    rows = [
        {
            "dataset": f"{s.name}@{s.version}",
            "rows": f"{s.rows:,}",
            "bytes": f"{s.bytes:,}",
            "created": s.created,
            "": "" if s.complete else "partial",
        }
        for s in store.list()
    ]
    yield from columns(rows, right=("rows", "bytes")) if rows else [f"no datasets in {store.root}"]


def status_lines(store: Store, name: str | None) -> Iterator[str]:
    """What is running or can be taken up again."""
    of_shards = {file.parents[2].name: file for file in sorted((store.root / ".work").glob("*/shards/*/progress.json"))}
    files = of_shards | {file.parent.name: file for file in sorted((store.root / ".work").glob("*/progress.json"))}
    if name is not None and name not in files:
        raise RecipeError(f"no build of {name!r} was ever started in {store.root}{suggest(name, files)}")
    if not files:
        yield f"no build was ever started in {store.root}"
    for dataset, file in files.items():
        if name in (None, dataset):
            work = store.root / ".work" / dataset
            if file.parent == work:
                yield _status(dataset, file)
            else:
                yield f"{dataset}: shards only"
            yield from _shard_lines(work)


def _status(name: str, file: Path) -> str:
    facts = json.loads(file.read_text(encoding="utf-8"))
    running = is_locked(file.parent / "lock") or is_locked(file.parent / "driver.lock")
    state = f"running ({facts['step']})" if running else "done" if facts["step"] == "done" else "stopped, resumable"
    text = f"{name}: {state}"
    if "problems" in facts:
        text += f", {facts['done']:,} of {facts['problems']:,} problems, {facts['samples_new']:,} samples new"
        text += f", {facts['samples_replayed']:,} replayed, {facts['tokens_per_second']:,.0f} tokens/s"
    if facts["step"] == "done":
        text += f", version {facts['version']}"
    return f"{text} (process {facts['pid']}, updated {facts['updated']})"


def _shard_lines(work: Path) -> Iterator[str]:
    """The shards of a dataset that run here, or were begun here and are not done; those that run elsewhere, as their driver saw them."""
    here = {str(shard): (shard.folder(work) / "progress.json", alive) for shard, alive in shards_here(work)}
    for name, (file, alive) in here.items():
        if file.exists() and (facts := json.loads(file.read_text(encoding="utf-8")))["step"] != "done":
            yield f"  shard {name}: {'running' if alive else 'stopped, resumable'} ({facts['step']}){_shard_text(facts)}"
    file = work / "progress.json"
    if is_locked(work / "driver.lock") and file.exists():
        for facts in json.loads(file.read_text(encoding="utf-8")).get("shards", ()):
            if facts["shard"] not in here:
                yield f"  shard {facts['shard']}: running on {facts['worker']}{_shard_text(facts)}"


def _shard_text(facts: Mapping[str, Any]) -> str:
    text = (
        f", {facts['done']:,} of {facts['problems']:,} problems, {facts['samples_new']:,} samples new"
        if "done" in facts
        else ""
    )
    if facts.get("longest_open") and facts["step"] != "done":
        problem, seconds = facts["longest_open"][0]
        text += f", longest open: {problem} for {span(seconds)}"
    return text


def columns(rows: Sequence[Mapping[str, Any]], *, right: Iterable[str] = ()) -> Iterator[str]:
    """A table as aligned text; the keys of the first row are its head."""
    if not rows:
        return
    names = list(rows[0])
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    for line in cells:
        padded = (c.rjust(w) if n in right else c.ljust(w) for c, w, n in zip(line, widths, names, strict=True))
        yield "  " + "  ".join(padded).rstrip()


def _cell(value: Any) -> str:
    return "" if value is None else printable(str(value))


def one_line(text: str, width: int) -> str:
    """Text of a model or a source as one line of a screen: white space joined, control characters shown, cut at `width`."""
    joined = " ".join(text.split())
    shown = printable(joined[: width + 1])
    return shown if len(joined) <= width else f"{shown[: width - 3]}..."
