"""`tracemill publish`: a version goes to the Hub, a folder or any fsspec URL, whole or not at all. The Hub's part is `hub.py`.

    version ──fsck──▶ files ──not there yet──▶ upload ──one commit (Hub), manifest last (elsewhere)──▶ tag = version

What stands there already is not sent again, so a second run goes on where the first one stopped.
"""

import json
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tracemill.pipelines.judging.told import unmeasured
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.durable import locked, point, sync, sync_tree, watch_disk
from tracemill.pipelines.versions.fsck import whole_or_refused
from tracemill.pipelines.versions.manifest import licences, listed_files
from tracemill.pipelines.versions.parquet import FileFacts, file_facts
from tracemill.pipelines.versions.sharing import share
from tracemill.schemas.errors import HubLost, LawBroken, RecipeError

MANIFEST = "manifest.json"


@dataclass(slots=True)
class Published:
    """Where a version went, and what had to be sent for it."""

    dataset: str
    to: str
    files: Sequence[FileFacts]
    sent: Sequence[FileFacts] = ()
    """Those that were not there yet; with `dry_run`, those that would go up."""
    removed: Sequence[str] = ()
    """Files of an earlier version that this one does not have: not in the new state of the Hub, still in its history."""
    commit: str | None = None
    private: bool | None = None
    dry_run: bool = False
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def facts_to_publish(
    dataset: Dataset, *, partial: bool, uncalibrated: bool = False
) -> tuple[Mapping[str, Any], list[FileFacts], list[str]]:
    """Manifest, files (the manifest last) and notes of a version that may go out; LawBroken where it may not."""
    manifest = whole_or_refused(dataset)
    if not manifest["complete"] and not partial:
        why = manifest.get("why_partial", "its build was stopped")
        raise LawBroken(f"{dataset} is partial ({why}): finish its build, or publish it as it is with --partial")
    judges = ", ".join(unmeasured(manifest))
    if judges and not uncalibrated:
        raise LawBroken(
            f"{dataset}: a judge decided about its rows, and nobody measured how often it is right: {judges}; name a file of cases whose "
            'truth is known, calibration = "./cases.jsonl", and build again, or publish it as it is with --uncalibrated'
        )
    listed = [FileFacts(path, f["sha256"], f["bytes"]) for path, f in sorted(listed_files(manifest).items())]
    if "files" not in manifest:  # of an early release: nobody wrote their hashes down
        known = {file.path for file in listed}
        more = (p for p in sorted(dataset.path.rglob("*")) if p.is_file() and p.name != MANIFEST)
        listed += [f for f in (file_facts(path, dataset.path) for path in more) if f.path not in known]
    files = [*listed, file_facts(dataset.path / MANIFEST, dataset.path)]
    stated = licences(manifest)
    notes = []
    if judges:
        notes.append(f"no judge of it was measured, and the card says so: {judges}")
    if "unknown" in stated:
        notes.append("the licence of a source is unknown, and the card says so: find out before others train on it")
    return manifest, files, notes


def publish_to(
    dataset: Dataset, url: str, *, partial: bool = False, uncalibrated: bool = False, dry_run: bool = False
) -> Published:
    """Copy a version to `<url>/<name>/<version>/`, where `url` is a folder or what fsspec takes: a store that can be read.

    Raises RecipeError for a URL that cannot be used, LawBroken for a version that is not whole, whose judges nobody measured, or
    that differs from what is there, HubLost where the other side fails on the way, DiskFull.
    """
    manifest, files, notes = facts_to_publish(dataset, partial=partial, uncalibrated=uncalibrated)
    if re.match(r"\w[\w+.-]*://", url) and not url.startswith("file://"):
        done = _to_url(dataset, files, url.rstrip("/"), str(manifest["digest"]), dry_run=dry_run)
    else:
        root = Path(url.removeprefix("file://")).expanduser().absolute()
        done = _to_folder(dataset, files, root, manifest, dry_run=dry_run)
    done.notes += notes
    return done


def _to_folder(
    dataset: Dataset, files: list[FileFacts], root: Path, manifest: Mapping[str, Any], *, dry_run: bool
) -> Published:
    home = root / dataset.name
    place = home / dataset.version
    done = Published(str(dataset), str(place), files, dry_run=dry_run)
    if place.exists():
        _same_or_refused(Dataset(dataset.name, dataset.version, place), manifest["digest"])
        return done
    done.sent = files
    if dry_run:
        return done
    try:
        with watch_disk(place, needs=sum(file.bytes for file in files)):
            home.mkdir(parents=True, exist_ok=True)
            _copy(dataset, files, home, complete=bool(manifest["complete"]))
    except OSError as error:
        raise RecipeError(f"--to {root} cannot be written to: {error.strerror}; name another folder") from None
    return done


def _copy(dataset: Dataset, files: list[FileFacts], home: Path, *, complete: bool) -> None:
    draft = home / f".draft-{secrets.token_hex(6)}"
    with locked(home):
        for left in home.glob(".draft-*"):  # the lock is ours, so their processes are gone
            shutil.rmtree(left)
        try:
            for file in files:
                (draft / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(dataset.path / file.path, draft / file.path)
            share(draft, files, home.parent)
            sync_tree(draft)
            draft.rename(home / dataset.version)
            sync(home)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        if complete:
            point(home / "latest", dataset.version)


def _same_or_refused(there: Dataset, digest: str) -> None:
    """Two machines may have made one version; their manifests differ in clocks, and the first one stays."""
    if (found := whole_or_refused(there)["digest"]) != digest:
        raise LawBroken(f"{there.path} holds another version, {found}; name another folder")


def _to_url(dataset: Dataset, files: list[FileFacts], url: str, digest: str, *, dry_run: bool) -> Published:
    import fsspec

    place = f"{url}/{dataset.name}/{dataset.version}"
    done = Published(str(dataset), clean(place), files, dry_run=dry_run)
    try:
        fs, base = fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise RecipeError(f"--to {clean(url)}: {clean(str(error))}") from None
    try:
        if (found := _digest_at(fs, f"{base}/{MANIFEST}")) not in (None, digest):
            raise LawBroken(f"{clean(place)} holds another version, {found}; name another place")
        # of a version that is not whole there yet, a table's file of the right size is the right file
        there = {f.path for f in files if f.path.endswith(".parquet") and _size(fs, f"{base}/{f.path}") == f.bytes}
        done.sent = [] if found else [file for file in files if file.path not in there]
        for file in () if dry_run else done.sent:  # the manifest is the last: where it stands, all of it stands
            _put(fs, dataset.path / file.path, f"{base}/{file.path}", file.bytes)
    except (PermissionError, NotImplementedError) as error:
        raise RecipeError(f"--to {clean(url)} cannot be written to: {clean(str(error))}") from None
    except (OSError, RuntimeError) as error:
        raise HubLost(f"{clean(place)} stopped answering: {clean(str(error))}; what arrived stays: run again") from None
    return done


def _put(fs: Any, source: Path, target: str, size: int) -> None:
    fs.makedirs(target.rpartition("/")[0], exist_ok=True)
    fs.put_file(str(source), target)
    if (arrived := _size(fs, target)) != size:
        raise HubLost(f"{clean(target)} arrived with {arrived} of {size:,} bytes; run again")


def _digest_at(fs: Any, path: str) -> str | None:
    """The digest in a manifest elsewhere; None where there is none, or half of one."""
    try:
        return str(json.loads(fs.cat_file(path))["digest"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def _size(fs: Any, path: str) -> int | None:
    try:
        return int(fs.info(path)["size"])
    except FileNotFoundError:
        return None


def clean(text: str, *secret: str | None) -> str:
    """A message without tokens, passwords in URLs and signatures behind them."""
    for word in secret:
        text = text.replace(word, "***") if word else text
    text = re.sub(r"\bhf_\w{8,}", "***", text)
    text = re.sub(r"(?<=://)[^/@\s]+@", "***@", text)
    return re.sub(r"(?<=[\w/])\?[\w%.&=+;:/~-]*=[\w%.&=+;:/~-]*", "?***", text)


def published_lines(done: Published) -> Iterator[str]:
    """What went where, for people."""
    sent = sum(file.bytes for file in done.sent)
    total = sum(file.bytes for file in done.files)
    if done.dry_run:
        there = {file.path for file in done.files} - {file.path for file in done.sent}
        for file in done.files:
            yield f"  {file.bytes:>14,}  {file.path}{'  (there already)' if file.path in there else ''}"
        for path in done.removed:
            yield f"  {'removed':>14}  {path}"
    verb = "would go" if done.dry_run else "went"
    who = "" if done.private is None else ", private" if done.private else ", public"
    yield f"{verb:<9} {done.dataset} to {done.to}{who}"
    yield f"{'to send' if done.dry_run else 'sent':<9} {len(done.sent):,} of {len(done.files):,} files, {sent:,} of {total:,} bytes"
    if done.commit:
        yield f"commit    {done.commit}, tag {done.dataset.partition('@')[2]}"
    for note in done.notes:
        yield f"note      {note}"
