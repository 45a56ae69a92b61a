"""`tracemill gc`: removes what nothing needs, and says what and why. Builds, exports and publishing may run meanwhile.

    always          drafts of dead processes; staged tables of builds that do not run; what a killed merge left in the journal; reports
                    of versions that are gone;
                    partial versions that a later complete one supersedes
    with --keep N   complete versions beyond the newest N of their name

Never: `latest`, what a process holds (`Store.hold`), versions that the recipe of a kept one names as its source, damaged
versions (of those `tracemill fsck` speaks), anything that is not ours, and any answer of a model.
"""

import fcntl
import os
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tracemill.pipelines.versions.dataset import Dataset, homes_of, latest_of, parse_ref, versions_of
from tracemill.pipelines.versions.durable import locked, sync
from tracemill.pipelines.versions.reports import place_of, without_version
from tracemill.schemas.errors import RecipeError, TracemillError
from tracemill.synth.journal.check import leftovers

OF_NOTHING = "the report of a version that is gone"
PROBE_SECONDS = 3600
"""A probe of whether a store can be written to lives for milliseconds."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something to remove. `bytes`: what that frees once everything before it is gone; files shared with others count last."""

    path: str
    why: str
    bytes: int


@dataclass(slots=True)
class Report:
    """What was removed, or would be; and what was left for a reason that one may wonder about."""

    removed: list[Garbage] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    dry_run: bool = False

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.removed)

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "bytes": self.bytes}


def gc(root: Path, *, keep: int | None = None, dry_run: bool = False) -> Report:
    """Remove what nothing needs from the store at `root`; with `keep`, complete versions beyond the newest so many, too.

    RecipeError where `keep` is below 1. With `dry_run` nothing is touched, and the report is the same.
    """
    if keep is not None and keep < 1:
        raise RecipeError(f"--keep {keep}: at least 1 version of each dataset stays; to remove one, remove its folder")
    report = Report(dry_run=dry_run)
    weigh = _Weigh()
    for path, why in _litter(root):
        bytes_ = weigh.frees(path)
        if dry_run or _remove(path):
            report.removed.append(Garbage(str(path), why, bytes_))
    for dataset, why in _superfluous(root, keep, report.kept):
        bytes_ = weigh.frees(dataset.path)
        if dry_run or _retire(dataset, report.kept):
            report.removed.append(Garbage(str(dataset.path), why, bytes_))
            page = place_of(root, dataset)
            bytes_ = weigh.frees(page) if page.is_file() else 0
            if page.is_file() and (dry_run or _remove(page)):
                report.removed.append(Garbage(str(page), OF_NOTHING, bytes_))
    if (journal := root / ".journal").is_dir():
        report.removed += [Garbage(str(path), why, size) for path, why, size in leftovers(journal, remove=not dry_run)]
    return report


class _Weigh:
    """What removing frees: a file goes with the last of its links."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[int, int]] = Counter()
        self._links: dict[tuple[int, int], int] = {}

    def frees(self, path: Path) -> int:
        total = 0
        for file in [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]:
            stat = file.lstat()
            inode = stat.st_dev, stat.st_ino
            self._seen[inode] += 1
            links = self._links.setdefault(inode, stat.st_nlink)  # as it was before anything was removed
            if not file.is_dir() and self._seen[inode] == links:
                total += stat.st_size
        return total


def _litter(root: Path) -> Iterator[tuple[Path, str]]:
    """What processes left that do not live any more."""
    for home in homes_of(root):
        for pattern, why in ((".draft-*", "a draft of a process that is gone"), (".trash-*", "half removed")):
            yield from ((path, why) for path in sorted(home.glob(pattern)) if not in_use(path))
    for staged in sorted((root / ".work").glob("*/staged")):
        if not in_use(staged.parent / "lock"):
            yield staged, "staged tables of a build that does not run; the next makes them anew"
    yield from ((report, OF_NOTHING) for report in without_version(root))
    for probe in sorted(root.glob(".probe-*")):
        if time.time() - probe.lstat().st_mtime > PROBE_SECONDS:
            yield probe, "a probe of a process that is gone"


def _superfluous(root: Path, keep: int | None, kept: list[str]) -> list[tuple[Dataset, str]]:
    """The versions to remove; into `kept` goes why others that look the same are not."""
    manifests = {dataset.path: manifest for dataset, manifest in _readable(root)}
    found: dict[Path, tuple[Dataset, str]] = {}
    for home in homes_of(root):
        for version, why in _old(home, manifests, keep).items():
            found[home / version] = Dataset(home.name, version, home / version), why
    while needed := [
        (path, user)
        for user in manifests.keys() - found.keys()
        for path in _sources(root, manifests[user])
        if path in found
    ]:
        for path, user in sorted(needed):
            if found.pop(path, None):
                kept.append(f"{path}: {user} names it as its source")
    for path in [path for path in found if in_use(path)]:
        del found[path]
        kept.append(f"{path}: a process is reading it")
    return list(found.values())


def _readable(root: Path) -> Iterator[tuple[Dataset, Mapping[str, Any]]]:
    for home in homes_of(root):
        for version in versions_of(home):
            dataset = Dataset(home.name, version, home / version)
            try:
                manifest = dataset.manifest()
                str(manifest["created"]), bool(manifest["complete"])
            except (TracemillError, KeyError):
                continue  # damaged or of a newer release: not ours to judge
            yield dataset, manifest


def _old(home: Path, manifests: Mapping[Path, Mapping[str, Any]], keep: int | None) -> dict[str, str]:
    """Versions of one name that are out of date, and why."""
    have = {version: manifests[home / version] for version in versions_of(home) if home / version in manifests}
    latest = latest_of(home)
    complete = sorted((v for v in have if have[v]["complete"]), key=lambda v: (have[v]["created"], v), reverse=True)
    newest = str(have[complete[0]]["created"]) if complete else ""
    old = {v: "partial, and a later version is complete" for v in have if have[v]["created"] < newest}
    old = {version: why for version, why in old.items() if version not in complete}
    if keep is not None:
        stay = {latest, *complete[: keep - 1 if latest in complete[keep:] else keep]}
        old |= {version: f"older than the {keep} to keep" for version in complete if version not in stay}
    return old


def _sources(root: Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """The versions that the recipe of a version names as its sources; a name alone means whatever is newest."""
    sources = manifest.get("recipe", {}).get("source", ())
    for source in sources if isinstance(sources, list) else [sources]:
        try:
            ref = parse_ref(str(source["ref"]))
        except (RecipeError, KeyError, TypeError):
            continue
        for version in versions_of(root / ref.name) if ref.version else ():
            if version.startswith(str(ref.version)):
                yield root / ref.name / version


def in_use(path: Path) -> bool:
    """Whether a process that lives holds the lock of a file or folder; False where it is not there."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _remove(path: Path) -> bool:
    """Remove litter; False where another process has come to use it, or removed it first."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(handle)
    return True


def _retire(dataset: Dataset, kept: list[str]) -> bool:
    """Take a version out of sight by one rename, then remove it; not where it has become the latest, or is being read."""
    home = dataset.path.parent
    away = home / f".trash-{secrets.token_hex(6)}"
    with locked(home):
        handle = os.open(dataset.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if latest_of(home) == dataset.version:
                kept.append(f"{dataset.path}: a build has just made it the latest")
                return False
            dataset.path.rename(away)
            sync(home)
        except BlockingIOError:
            kept.append(f"{dataset.path}: a process is reading it")
            return False
        finally:
            os.close(handle)
    shutil.rmtree(away, ignore_errors=True)  # what is left of it, another gc removes
    return True


def gc_lines(report: Report) -> Iterator[str]:
    """The report for people."""
    for item in report.removed:
        yield f"{'would remove' if report.dry_run else 'removed'}  {item.path}  {item.bytes:,} bytes: {item.why}"
    for line in report.kept:
        yield f"kept  {line}"
    number = f"{len(report.removed):,} things" if report.removed else "nothing"
    freed, removed = ("would free", "to remove") if report.dry_run else ("freed", "removed")
    yield f"{freed} {report.bytes:,} bytes, {number} {removed}"
