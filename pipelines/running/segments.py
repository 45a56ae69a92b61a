"""The journal beyond one disk: sealed segments go to a URL, and every start reads what stands there (`[engine] segments`).

    own segment ──every `ship_every` seconds: seal──▶ <url>/<name>.sqlite, then <url>/<name>.json     (what is marked is whole)
    start: <url>/*.json ──what is not here yet──▶ download, hash ──▶ one local segment that names what it was made of

    {"bytes": 81920, "sha256": "5f0c…", "holds": ["0176…-9f2c…-2of8.sqlite"]}

The mark is written last, so a half-uploaded segment is not there. A segment is fetched once: local segments know the names of
all that was merged into them. The name of a shard's segment ends in the shard, 2of8, and other shards that cannot meet its
problems leave it where it is.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from tracemill.pipelines.publish import clean
from tracemill.pipelines.versions.parquet import sha256_of
from tracemill.schemas.errors import DiskFull, RecipeError, SegmentsLost
from tracemill.schemas.recipe import Recipe
from tracemill.synth.journal import Journal
from tracemill.synth.journal.files import (
    MERGING,
    SUFFIX,
    FileLock,
    alone,
    remove,
    sealed_segments,
    sync_folder,
    unique_name,
)
from tracemill.synth.journal.folder import recover
from tracemill.synth.journal.merge import MERGED, copy
from tracemill.synth.journal.segment import Segment, explained

MARK = ".json"
AT_A_TIME = 1 << 30
"""Bytes of segments that are downloaded before they become one local segment."""
OF_SHARD = re.compile(r"-(\d+)of(\d+)$")


class Marker(msgspec.Struct, frozen=True):
    """What stands beside a segment elsewhere: how to know it, and the names of the segments whose entries are in it."""

    bytes: int
    sha256: str
    holds: tuple[str, ...]


class Segments:
    """One journal's way to a URL and back."""

    def __init__(self, url: str, folder: Path, *, every: float, shard: tuple[int, int] | None = None) -> None:
        """RecipeError where fsspec does not know the URL. `shard` is (number, of how many); None needs everything."""
        import fsspec

        self._shown, self._folder, self._every, self._shard = clean(url), folder, every, shard
        self.notes: list[str] = []
        """What a person should know of the last attempt; empty where all is well."""
        self.sent = self.fetched = 0
        """Segments in this run."""
        self._there: dict[str, tuple[str, ...]] = {}
        try:
            self._fs, base = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise RecipeError(f"engine.segments = {self._shown!r}: {clean(str(error))}") from None
        self._base = str(base).rstrip("/")

    def begin(self) -> None:
        """Before the journal is opened: send what killed processes left here, fetch what others sent.

        RecipeError: nobody answers, a segment there is damaged. DiskFull.
        """
        with self._housekeeping(), self._answering():
            recover(self._folder)
            self._fs.makedirs(self._base, exist_ok=True)
            self._look()
            self._send()
            self._fetch()

    @asynccontextmanager
    async def shipping(self, journal: Journal) -> AsyncIterator[None]:
        """While the block runs, and once more when it ends however it ends, seal and send what was journaled."""
        going = asyncio.create_task(self._again_and_again(journal))
        try:
            yield
        finally:
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
            await asyncio.shield(self._pass_on(journal))

    def all_sent(self) -> None:
        """SegmentsLost where something that was journaled did not get there."""
        if self.notes:
            raise SegmentsLost(f"{self.notes[0]}; run the same command again on this machine: it sends what is left")

    async def _again_and_again(self, journal: Journal) -> None:
        while True:
            await asyncio.sleep(self._every)
            await asyncio.shield(self._pass_on(journal))

    async def _pass_on(self, journal: Journal) -> None:
        """Seal and send once. A URL that does not answer stops nobody: the samples are on this disk, and are sent later."""
        lock = await asyncio.to_thread(FileLock.take, self._folder / "merge.lock", wait=True)
        try:
            with contextlib.suppress(DiskFull):  # all that fits is on the disk; who writes is told
                await journal.seal()
            await asyncio.to_thread(self._send)
            self.notes.clear()
        except Exception as error:  # noqa: BLE001 - whatever a file system of fsspec raises, it is told and tried again
            self.notes[:] = [f"segments do not reach {self._shown}: {type(error).__name__}: {clean(str(error))[:200]}"]
        finally:
            if lock is not None:
                lock.release()
        journal.tidy()

    @contextmanager
    def _housekeeping(self) -> Iterator[None]:
        """While nobody merges: what is sealed and not yet sent should not become part of something larger."""
        with explained(f"the journal in {self._folder}"):
            lock = FileLock.take(self._folder / "merge.lock", wait=True)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (PermissionError, NotImplementedError) as error:
            raise RecipeError(f"engine.segments = {self._shown!r} cannot be used: {clean(str(error))}") from None
        except (OSError, RuntimeError) as error:
            raise RecipeError(
                f"engine.segments = {self._shown!r} does not answer: {clean(str(error))}; without what stands there samples "
                "would be drawn twice, so nothing was begun"
            ) from None

    # ---- there

    def _look(self) -> None:
        """Read the marks there that may matter here."""
        self._fs.invalidate_cache(self._base)
        found = self._fs.ls(self._base, detail=False)
        names = sorted(str(path).rpartition("/")[2].removesuffix(MARK) for path in found if str(path).endswith(MARK))
        for name in names:
            if not self._meets(name):
                self._there[name] = (name,)
            elif (mark := self._mark(name)) is not None:
                self._there[name] = mark.holds

    def _mark(self, name: str) -> Marker | None:
        """The mark of a segment; None where it is half-written, so its sender was killed and sends it again."""
        try:
            return msgspec.json.decode(self._fs.cat_file(f"{self._base}/{name}{MARK}"), type=Marker)
        except (msgspec.MsgspecError, FileNotFoundError):
            return None

    def _meets(self, name: str) -> bool:
        """Whether a segment may hold problems of this shard: i of N and k of M meet where i = k modulo gcd(N, M)."""
        found = OF_SHARD.search(name.removesuffix(SUFFIX))
        if found is None or self._shard is None:
            return True
        common = math.gcd(self._shard[1], int(found[2]))
        return self._shard[0] % common == int(found[1]) % common

    # ---- to there

    def _send(self) -> None:
        """Send every sealed segment of which something is not there yet."""
        there = {leaf for holds in self._there.values() for leaf in holds}
        for path, leaves in _leaves(self._folder):
            if not there.issuperset(leaves):
                self._send_one(path, leaves)
                there.update(leaves)

    def _send_one(self, path: Path, leaves: Sequence[str]) -> None:
        size = path.stat().st_size
        mark = Marker(size, sha256_of(path), tuple(leaves))
        target = f"{self._base}/{path.name}"
        self._fs.put_file(str(path), target)
        if (arrived := int(self._fs.info(target)["size"])) != size:
            raise OSError(f"{path.name} arrived with {arrived:,} of {size:,} bytes")
        self._fs.pipe_file(target + MARK, msgspec.json.encode(mark))
        self._there[path.name] = mark.holds
        self.sent += 1

    # ---- from there

    def _fetch(self) -> None:
        here = {leaf for _, leaves in _leaves(self._folder) for leaf in leaves}
        here |= {path.name for path in self._folder.glob(f"*{SUFFIX}")}
        wanted = [
            name for name, holds in sorted(self._there.items()) if self._meets(name) and not here.issuperset(holds)
        ]
        place = self._folder / "fetched"
        place.mkdir(exist_ok=True)
        try:
            for left in place.iterdir():
                left.unlink()
            batch: list[Path] = []
            for name in wanted:
                batch.append(self._download(name, place))
                if sum(path.stat().st_size for path in batch) >= AT_A_TIME:
                    self._take_in(batch)
                    batch = []
            self._take_in(batch)
        finally:
            for left in place.iterdir():
                left.unlink()
            place.rmdir()

    def _download(self, name: str, place: Path) -> Path:
        """One segment, proven to be what was sent."""
        mark, target = self._mark(name), place / name
        if mark is None:
            raise OSError(f"the mark of {name} has just been removed")
        with explained(f"the journal in {self._folder}"):
            try:
                self._fs.get_file(f"{self._base}/{name}", str(target))
            except FileNotFoundError:
                raise self._damaged(name, "it is not there, though it is marked as whole") from None
        size = target.stat().st_size
        if (size, sha256_of(target)) != (mark.bytes, mark.sha256):
            raise self._damaged(name, f"{size:,} bytes of another SHA-256 than the {mark.bytes:,} that were sent")
        return target

    def _damaged(self, name: str, how: str) -> RecipeError:
        return RecipeError(
            f"the segment {name} in {self._shown} is damaged: {how}. Restore it, or remove {name}{MARK} there: then the machine "
            "that made it sends it again when it next runs, and if that machine is gone what it held is sampled again"
        )

    def _take_in(self, batch: Sequence[Path]) -> None:
        """Make one local segment of what was downloaded; it is there whole or not at all."""
        if not batch:
            return
        target = self._folder / f"{unique_name(MERGED)}{SUFFIX}"
        half = target.with_suffix(MERGING)
        with explained(f"the journal in {self._folder}"):
            try:
                copy(batch, half, lambda: False)
                with alone(self._folder):
                    half.rename(target)
                    sync_folder(self._folder)
            finally:
                remove(half)
        for path in batch:
            path.unlink()
        self.fetched += len(batch)


def open_segments(recipe: Recipe, folder: Path, shard: tuple[int, int] | None = None) -> Segments | None:
    """Where the recipe's samples are shared, if anywhere. RecipeError: two places, or no such kind of place."""
    tables = [table for table in recipe.engines.values() if table.segments is not None]
    urls = sorted({str(table.segments) for table in tables})
    if not urls:
        return None
    if len(urls) > 1:
        raise RecipeError(
            f"engines name several places for segments, {', '.join(map(clean, urls))}: a store has one journal"
        )
    return Segments(urls[0], folder, every=min(table.ship_every for table in tables), shard=shard)


def sent_names(folder: Path) -> Iterator[str]:
    """The names under which machines sealed what lies here, that also which came from elsewhere and is merged by now."""
    for path, leaves in _leaves(folder):
        yield path.stem
        yield from (name.removesuffix(SUFFIX) for name in leaves)


def _leaves(folder: Path) -> Iterable[tuple[Path, list[str]]]:
    """The sealed segments here, each with the names of those that it was made of, or its own."""
    for path in sealed_segments(folder):
        segment = Segment(path, "sealed")
        try:
            made_of = sorted(name for name in segment.sources() if not name.endswith(f"-{MERGED}{SUFFIX}"))
            yield path, made_of or [path.name]
        finally:
            segment.close()
