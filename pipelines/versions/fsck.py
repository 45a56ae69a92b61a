"""`tracemill fsck`: reads every byte that a store promises to hold, and names what is damaged, missing or extra.

    manifest ──seal, digest, name──▶ files ──size, sha256, footer, row count──▶ pointers ──▶ journal

Nothing is changed. A fault is something that a reader would stumble over; a note is something that lies about.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tracemill.pipelines.versions.canonical import ContentHash
from tracemill.pipelines.versions.dataset import Dataset, find_version, homes_of, latest_of, parse_ref, versions_of
from tracemill.pipelines.versions.manifest import digest_of, listed_files, seal_of
from tracemill.pipelines.versions.parquet import sha256_of
from tracemill.pipelines.versions.reports import without_version
from tracemill.schemas.errors import LawBroken, RecipeError
from tracemill.schemas.recipe import NAME
from tracemill.synth.journal.check import check

AGAIN = "move the folder of the version away and build its recipe again: what the journal holds is not sampled again"
UNLISTED = ("README.md", "recipe.toml", "views/")
"""What manifests of early versions do not list."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong. `kind`: damaged, missing, extra, pointer, newer or journal."""

    where: str
    kind: str
    says: str
    do: str


@dataclass(slots=True)
class Report:
    """What was read and what was found."""

    versions: int = 0
    files: int = 0
    bytes: int = 0
    entries: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "whole": not self.faults}


def fsck(root: Path, ref: str | None = None, *, deep: bool = False) -> Report:
    """Check a version, or with no `ref` all versions, pointers and the journal of the store at `root`.

    `deep` also reads every value of every table and makes its content hash anew, so that the version's name is proven.
    """
    report = Report()
    hashes = _Hashes()
    if ref is not None:
        _version(_found(root, ref), report, hashes, deep=deep)
        return report
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            continue
        if not NAME.fullmatch(entry.name) or ".." in entry.name or entry.is_symlink() or not entry.is_dir():
            report.notes.append(f"{entry}: no dataset of ours; left alone")
            continue
        for version in versions_of(entry):
            _version(Dataset(entry.name, version, entry / version), report, hashes, deep=deep)
        _pointers(entry, report)
    for page in without_version(root):
        report.notes.append(f"{page}: the report of a version that is gone; `tracemill gc` removes it")
    _journal(root / ".journal", report)
    return report


def whole_or_refused(dataset: Dataset) -> Mapping[str, Any]:
    """The manifest of a version whose every file was just hashed; LawBroken names what is wrong with it."""
    report = Report()
    _version(dataset, report, _Hashes(), deep=False)
    if report.faults:
        first = report.faults[0]
        more = f" and {len(report.faults) - 1} more, see `tracemill fsck {dataset}`" if len(report.faults) > 1 else ""
        raise LawBroken(f"{dataset} is not whole: {first.where}: {first.says}{more}; {first.do}")
    return dataset.manifest()


class _Hashes:
    """SHA-256 of files, each inode once, several at a time."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int, int], str] = {}

    def of(self, paths: Iterable[Path]) -> dict[Path, str]:
        stats = {path: path.stat() for path in paths}
        inodes = {path: (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for path, s in stats.items()}
        new = {inode: path for path, inode in inodes.items() if inode not in self._known}
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            self._known.update(zip(new, pool.map(_sha256_or_error, new.values()), strict=True))
        return {path: self._known[inode] for path, inode in inodes.items()}


def _sha256_or_error(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:  # a disk that cannot read a sector any more
        return f"unreadable: {error.strerror}"


def _found(root: Path, ref: str) -> Dataset:
    return find_version(root, parse_ref(ref))


def _version(dataset: Dataset, report: Report, hashes: _Hashes, *, deep: bool) -> None:
    report.versions += 1
    try:
        manifest = dataset.manifest()
    except RecipeError as error:  # of a newer release
        report.faults.append(Fault(str(dataset), "newer", str(error), "check it with the release that made it"))
        return
    except LawBroken as error:
        report.faults.append(Fault(f"{dataset.path}/manifest.json", "damaged", str(error), AGAIN))
        return
    try:
        listed = listed_files(manifest)
        faults = [*_manifest_faults(dataset, manifest), *_file_faults(dataset, manifest, listed, report, hashes)]
        if deep and not faults:
            faults += _content_faults(dataset, manifest)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"the manifest lacks what every manifest has ({type(error).__name__}: {error})"
        faults = [Fault(f"{dataset.path}/manifest.json", "damaged", what, AGAIN)]
    report.faults += faults


def _manifest_faults(dataset: Dataset, manifest: Mapping[str, Any]) -> Iterator[Fault]:
    where = f"{dataset.path}/manifest.json"
    if "seal" in manifest and seal_of(manifest) != manifest["seal"]:
        yield Fault(where, "damaged", "its seal does not fit: something in it was changed after the commit", AGAIN)
    digest = digest_of(manifest)
    if digest != manifest["digest"] or digest[:16] != dataset.version:
        says = f"it describes version {digest[:16]}, the folder says {dataset.version}"
        yield Fault(where, "damaged", says, AGAIN)


def _file_faults(
    dataset: Dataset, manifest: Mapping[str, Any], listed: Mapping[str, Any], report: Report, hashes: _Hashes
) -> Iterator[Fault]:
    there = set(_all_files(dataset.path))
    for path in sorted(listed.keys() - there):
        yield _lacking(dataset, path, listed[path])
    for path in sorted(there - listed.keys() - {"manifest.json"}):
        if "files" in manifest or not path.startswith(UNLISTED):
            says = "the manifest does not know it, and readers of the folder may take it for part of the version"
            yield Fault(f"{dataset.path}/{path}", "extra", says, "move it out of the folder")
    links = {path for path in there if (dataset.path / path).is_symlink()}
    for path in sorted(listed.keys() & links):
        says = "it is a link, and a version holds files of its own"
        yield Fault(f"{dataset.path}/{path}", "damaged", says, _remedy(dataset, path, listed[path]))
    found = hashes.of(dataset.path / path for path in sorted((listed.keys() & there) - links))
    report.files += len(found)
    report.bytes += sum(file.stat().st_size for file in found)
    wrong = set()
    for file, sha in found.items():
        facts = listed[file.relative_to(dataset.path).as_posix()]
        if sha != facts["sha256"]:
            wrong.add(file)
            yield _damaged(dataset, file, sha, facts)
    for name, table in manifest["tables"].items():
        files = [dataset.path / file["path"] for file in table["files"]]
        if all(file in found and file not in wrong for file in files):
            yield from _table_faults(dataset, name, files, int(table["rows"]))


def _all_files(folder: Path) -> Iterator[str]:
    """Every file below a folder, as a manifest writes it; links count as files and are not followed."""
    for home, folders, files in os.walk(folder):
        links = [name for name in folders if Path(home, name).is_symlink()]
        for name in (*files, *links):
            yield Path(home, name).relative_to(folder).as_posix()


def _lacking(dataset: Dataset, path: str, facts: Mapping[str, Any]) -> Fault:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        return Fault(f"{dataset.path}/manifest.json", "damaged", f"it points out of the version, to {path!r}", AGAIN)
    says = f"{facts['bytes']:,} bytes with sha256 {facts['sha256'][:16]} should be here"
    return Fault(f"{dataset.path}/{path}", "missing", says, _remedy(dataset, path, facts))


def _damaged(dataset: Dataset, path: Path, sha: str, facts: Mapping[str, Any]) -> Fault:
    size = path.stat().st_size
    if size != facts["bytes"]:
        says = f"it has {size:,} bytes and should have {facts['bytes']:,}"
    else:
        says = f"its sha256 is {sha[:16]} and should be {facts['sha256'][:16]}"
    if path.suffix == ".parquet" and (why := _unreadable(path)):
        says += f"; reading it fails: {why}"
    return Fault(str(path), "damaged", says, _remedy(dataset, path.relative_to(dataset.path).as_posix(), facts))


def _unreadable(path: Path) -> str:
    try:
        for _ in pq.ParquetFile(path, page_checksum_verification=True).iter_batches(batch_size=4096):
            pass
    except (OSError, pa.ArrowException) as error:
        return str(error).partition("\n")[0]
    return ""


def _remedy(dataset: Dataset, path: str, facts: Mapping[str, Any]) -> str:
    """A copy of the same bytes in another version, where one is whole; else what to do without."""
    if twin := _twin(dataset, facts):
        return f"copy it from a version that has the same: cp --remove-destination {twin} {dataset.path / path}"
    return AGAIN


def _twin(dataset: Dataset, facts: Mapping[str, Any]) -> Path | None:
    for home in homes_of(dataset.path.parent.parent):
        for version in versions_of(home):
            other = Dataset(home.name, version, home / version)
            try:
                same = [p for p, f in listed_files(other.manifest()).items() if f["sha256"] == facts["sha256"]]
                whole = [p for p in same if (f := other.path / p).is_file() and sha256_of(f) == facts["sha256"]]
            except (LawBroken, RecipeError, KeyError, TypeError, OSError):
                continue  # no help from there; its own faults are found in its own turn
            if whole:
                return other.path / whole[0]
    return None


def _table_faults(dataset: Dataset, name: str, files: list[Path], rows: int) -> Iterator[Fault]:
    """Files whose bytes are as they were written, yet do not make up the table."""
    try:
        read = [pq.read_metadata(file) for file in files]
    except (OSError, pa.ArrowException) as error:
        yield Fault(f"{dataset.path}/{name}", "damaged", f"not readable as Parquet: {error}", AGAIN)
        return
    if (have := sum(meta.num_rows for meta in read)) != rows:
        yield Fault(f"{dataset.path}/{name}", "damaged", f"it has {have:,} rows and should have {rows:,}", AGAIN)


def _content_faults(dataset: Dataset, manifest: Mapping[str, Any]) -> Iterator[Fault]:
    for name, table in manifest["tables"].items():
        try:
            content = content_of([dataset.path / file["path"] for file in table["files"]])
        except (OSError, pa.ArrowException) as error:
            yield Fault(f"{dataset.path}/{name}", "damaged", f"reading it fails: {error}", AGAIN)
            continue
        if content != table["content"]:
            says = f"its rows hash to {content[:16]} and should to {table['content'][:16]}"
            yield Fault(f"{dataset.path}/{name}", "damaged", says, AGAIN)


def content_of(files: list[Path]) -> str:
    """The content hash of a table, from its files."""
    made = ContentHash(pq.read_schema(files[0]))
    for file in files:
        for batch in pq.ParquetFile(file, page_checksum_verification=True).iter_batches(batch_size=4096):
            made.update(batch)
    return made.hexdigest()


def _pointers(home: Path, report: Report) -> None:
    """`latest`, and what killed processes left beside the versions."""
    link, have = home / "latest", versions_of(home)
    if link.is_symlink() or link.exists():
        version = latest_of(home)
        wrong = "" if version else f"it leads to {link.readlink()}" if link.is_symlink() else "it is no link"
        if version and not _complete(Dataset(home.name, version, home / version)):
            wrong = f"it leads to {version}, which is partial"
        if wrong:
            says = f"{wrong}, and should lead to a complete version of {home.name}"
            report.faults.append(
                Fault(str(link), "pointer", says, "remove it: the newest complete version is then meant")
            )
    elif any(_complete(Dataset(home.name, version, home / version)) for version in have):
        report.notes.append(
            f"{link}: not there; {home.name} means its newest complete version, and a build sets it again"
        )
    for entry in sorted(home.iterdir()):
        if entry.name.startswith("."):
            report.notes.append(
                f"{entry}: left by a process, or in use by one; `tracemill gc` removes it when it is dead"
            )
        elif entry.name not in {*have, "latest"}:
            report.notes.append(f"{entry}: no version of ours; left alone")


def _complete(dataset: Dataset) -> bool:
    try:
        return bool(dataset.manifest()["complete"])
    except (LawBroken, RecipeError, KeyError):
        return True  # nobody can tell, and its own fault says so


def _journal(folder: Path, report: Report) -> None:
    if not folder.is_dir():
        return
    for segment in check(folder):
        report.entries += segment.entries
        if segment.fault:
            do = "restore it from a copy, or move it away: what it held is then sampled again when a build asks for it"
            report.faults.append(Fault(str(segment.path), "journal", segment.fault, do))


def fsck_lines(report: Report) -> Iterator[str]:
    """The report for people."""
    for fault in report.faults:
        yield f"{fault.kind:<8} {fault.where}"
        yield f"         {fault.says}"
        yield f"         {fault.do}"
    for note in report.notes:
        yield f"note     {note}"
    read = f"{report.versions:,} versions, {report.files:,} files, {report.bytes:,} bytes, {report.entries:,} journal entries"
    yield f"{'whole' if not report.faults else f'{len(report.faults):,} faults'}: read {read}"
