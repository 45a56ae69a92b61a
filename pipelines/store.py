"""Datasets on disk: written once, never changed, found by name and version.

    <root>/<name>/<version>/     README.md, manifest.json, recipe.toml, <table>/part-00000.parquet
    <root>/<name>/latest         a symlink to the version that the last complete build ended in
    <root>/.journal .work/<name> .engines .vectors           what builds keep between runs
    <root>/.replays              how many samples of a version came out the same when they were drawn anew
    <root>/.reports/<name>       a page about each version, for people

A version is the hash of its content and of what identifies its making, so equal content is the equal version on any machine.
It appears by one rename after every byte of it is on the disk: if it exists, it is whole.
"""

import fcntl
import os
import secrets
import shutil
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tracemill.pipelines.cards.card import CardFacts, CardPicture, write_card
from tracemill.pipelines.cards.parts import lengths
from tracemill.pipelines.versions.dataset import (
    TABLE,
    Dataset,
    Drafted,
    Ref,
    Summary,
    check_name,
    find_version,
    parse_ref,
    summaries,
)
from tracemill.pipelines.versions.durable import locked, point, says_full, sync, sync_tree, watch_disk
from tracemill.pipelines.versions.manifest import MadeFrom, full_manifest, listed_files, pretty_json, sealed, version_id
from tracemill.pipelines.versions.parquet import Batch, FileFacts, TableFacts, file_facts, write_table
from tracemill.pipelines.versions.sharing import Shared, share
from tracemill.schemas.errors import LawBroken, RecipeError

__all__ = ["CardFacts", "Dataset", "Draft", "MadeFrom", "Ref", "Store", "Summary", "parse_ref"]


Draw = Callable[[Dataset], Sequence[tuple[CardPicture, str]]]
"""Pictures of a version that is about to be one, each with the text of its file."""


class Store:
    """A folder of datasets. Any number of processes may read it and commit to it at once."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        """Open the store, and unless `read_only` make it where it is missing; RecipeError where that cannot be done."""
        self.root = root.expanduser().absolute()
        if read_only:
            if not self.root.is_dir():
                raise RecipeError(f"no store at {self.root}; name one with --store DIR or TRACEMILL_STORE")
        else:
            _make_writable(self.root)

    @property
    def journal_folder(self) -> Path:
        """Where the processes of all recipes keep what models said."""
        return _made(self.root / ".journal")

    @property
    def engines_folder(self) -> Path:
        """Where engines that are running leave their records, for whoever has to clean up after a killed build."""
        return _made(self.root / ".engines")

    @property
    def vectors_folder(self) -> Path:
        """Where the vectors of embedded texts are kept, a folder for each encoder."""
        return _made(self.root / ".vectors")

    @property
    def replays_folder(self) -> Path:
        """Where it is kept what replays of versions said, a file for each version."""
        return _made(self.root / ".replays")

    def work_folder(self, name: str) -> Path:
        """Where builds of `name` keep unfinished work between runs."""
        check_name(name)
        return _made(self.root / ".work" / name)

    def draft(self, name: str) -> "Draft":
        """A new version of `name` in the making; use it in a `with`, and what is not committed leaves nothing behind."""
        check_name(name)
        home = self.root / name
        if home.is_symlink() or (home.exists() and not home.is_dir()):
            raise RecipeError(f"{home} is not a folder of its own; move it away or choose another name")
        return Draft(home)

    def open(self, ref: str) -> Dataset:
        """Find `name` (what its last complete build made), `name@latest`, or `name@version` by 6 digits or more.

        A `/table` behind it is allowed and ignored; `parse_ref` tells which.
        Raises RecipeError where there is no such version, or more than one, and lists what there is.
        """
        return find_version(self.root, parse_ref(ref))

    def hold(self, dataset: Dataset) -> Dataset:
        """Keep `tracemill gc` off a version for as long as this object lives; RecipeError where it is gone already."""
        try:
            handle = os.open(dataset.path, os.O_RDONLY | os.O_DIRECTORY)
            weakref.finalize(self, os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_SH)
            there = dataset.path.stat().st_ino == os.fstat(handle).st_ino
        except FileNotFoundError:
            there = False
        if not there:
            raise RecipeError(f"{dataset} has just been removed from {self.root}; `tracemill ls` shows what there is")
        return dataset

    def list(self) -> list[Summary]:
        """Every version, partial and damaged ones too."""
        return summaries(self.root)


class Draft:
    """A version in the making: a hidden folder beside the versions, which one rename turns into one.

    The folder is locked for as long as its process lives; the next draft of the name removes folders whose process is gone.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._tables: dict[str, TableFacts] = {}
        self._schemas: dict[str, pa.Schema] = {}
        self._lock = -1
        self.path = home / f".draft-{secrets.token_hex(6)}"
        self.shared = Shared()
        """What `commit` did not have to keep twice."""
        self.notes: list[str] = []
        """What a person should know of the commit although it is done."""

    def __enter__(self) -> Self:
        with watch_disk(self._home):
            if not self._home.is_dir():
                self._home.mkdir(exist_ok=True)
                sync(self._home.parent)
            with locked(self._home):
                _sweep(self._home)
                self.path.mkdir()
                self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)  # committed: it is not there any more
        os.close(self._lock)

    def table(self, name: str, schema: pa.Schema, batches: Iterable[Batch]) -> TableFacts:
        """Write one table as its rows come in, in the order of `parquet.order_of` and of any batch size.

        A batch is a list of dicts, an Arrow batch or table, or a polars frame. At most two row groups are held in memory.
        Raises CountsDiffer where rows are out of order, come twice or do not fit the schema, and DiskFull.
        """
        if not TABLE.fullmatch(name):
            raise LawBroken(f"{name!r} cannot be a table: a name is a-z 0-9 _ and begins with a letter")
        if name in self._tables:
            raise LawBroken(f"table {name!r} of {self._home.name} is written twice; a table is written in one go")
        self._schemas[name] = schema
        self._tables[name] = write_table(self.path / name, schema, batches)
        return self._tables[name]

    def commit(
        self,
        *,
        recipe_toml: str,
        identity: Mapping[str, Any],
        manifest: MadeFrom,
        complete: bool = True,
        card: CardFacts | None = None,
        draw: Draw | None = None,
    ) -> Dataset:
        """Make it a version, and the latest one if it is complete.

        `identity` is the recipe without engine and paths, and the hashes of the sources: with the content of the tables it
        makes the version id. `manifest` says where it all came from and is not in the id; its `why_partial` says what
        stopped a version that is not complete. `draw` makes the pictures of its card, which are not in the id either. Where the store holds this version already, its first manifest stays.
        """
        if "rows" not in self._tables:
            raise LawBroken(f"a version of {self._home.name} needs a table 'rows'; it may be empty")
        digest = version_id(self._tables, identity, complete=complete)
        dataset = Dataset(self._home.name, digest[:16], self._home / digest[:16])
        if numbers := self._lengths():
            manifest = {**manifest, "lengths": numbers}
        facts = full_manifest(
            manifest, name=dataset.name, digest=digest, identity=identity, tables=self._tables, complete=complete
        )
        with watch_disk(dataset.path, needs=len(recipe_toml) + (64 << 10)):
            (self.path / "recipe.toml").write_text(recipe_toml, encoding="utf-8")
            pictures = self._pictures(draw, facts)
            text = write_card(facts, card or CardFacts(), self._schemas, self._views(), pictures)
            (self.path / "README.md").write_text(text, encoding="utf-8")
            whole = sealed(facts, self._others())
            (self.path / "manifest.json").write_text(pretty_json(whole), encoding="utf-8")
            self.shared = share(
                self.path, [FileFacts(**file) for file in listed_files(whole).values()], self._home.parent
            )
            sync_tree(self.path)
            with locked(self._home):
                self._publish(dataset, digest)
                if complete:
                    point(self._home / "latest", dataset.version)
        return dataset

    def _pictures(self, draw: Draw | None, facts: Mapping[str, Any]) -> list[CardPicture]:
        """Draw them into the draft; one that cannot be drawn is a note, and no reason to lose a version."""
        if draw is None:
            return []
        try:
            found = draw(Drafted(str(facts["name"]), str(facts["version"]), self.path, facts))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a picture, the version is not lost
            self.notes.append(f"no pictures of this version were made: {error}")
            return []
        for picture, text in found:
            file = self.path / picture.path
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return [picture for picture, _ in found]

    def _lengths(self) -> dict[str, Any] | None:
        """How long the chosen traces are, folded or not."""
        table = "traces" if "traces" in self._tables else "rows"
        return lengths([self.path / file.path for file in self._tables[table].files])

    def _views(self) -> dict[str, int]:
        """The rows of each trainer's format in the draft."""
        files = sorted(self.path.glob("views/*/*.parquet"))
        return {file.parent.name: pq.read_metadata(file).num_rows for file in files}

    def _others(self) -> list[FileFacts]:
        """The files of the draft that belong to no table."""
        of_tables = {file.path for table in self._tables.values() for file in table.files}
        found = (file_facts(path, self.path) for path in sorted(self.path.rglob("*")) if path.is_file())
        return [file for file in found if file.path not in of_tables]

    def _publish(self, dataset: Dataset, digest: str) -> None:
        if dataset.path.exists():
            if (there := dataset.manifest().get("digest")) != digest:
                raise LawBroken(f"{dataset} is taken by other content: its digest is {there}, this one's {digest}")
            return
        self.path.rename(dataset.path)
        sync(self._home)


def _sweep(home: Path) -> None:
    """Remove what killed processes left. The caller holds the lock of `home`, so nothing here is just being made."""
    for pointer in home.glob(".latest-*"):
        pointer.unlink()
    for draft in (*home.glob(".draft-*"), *home.glob(".trash-*")):
        try:
            handle = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # its process removed it just now
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its process lives
        else:
            shutil.rmtree(draft)
        finally:
            os.close(handle)


def _make_writable(root: Path) -> None:
    """Make the folder and write to it once, rather than believe its mode: file systems have reasons of their own."""
    probe = root / f".probe-{secrets.token_hex(4)}"
    with watch_disk(root):
        try:
            root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"writable")
            probe.unlink()
        except OSError as error:
            if says_full(error):
                raise
            raise RecipeError(
                f"the store {root} cannot be written to: {error.strerror}; name another with --store DIR or TRACEMILL_STORE"
            ) from None


def _made(folder: Path) -> Path:
    with watch_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
