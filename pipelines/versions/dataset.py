"""A version of a dataset, as a reader finds it: by name, by `name@version`, by the first digits of a version."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from tracemill.schemas.errors import LawBroken, RecipeError
from tracemill.schemas.recipe import NAME, suggest

MANIFEST_SCHEMA = 1
TABLE = re.compile(r"[a-z][a-z0-9_]{0,63}")
VERSION = re.compile(r"[0-9a-f]{16}")
_PREFIX = re.compile(r"[0-9a-f]{6,16}")


@dataclass(frozen=True, slots=True)
class Ref:
    """`name`, `name@version`, `name@latest`, each with or without `/table`."""

    name: str
    version: str | None = None
    """The first 6 digits of a version or more; None means the newest complete one."""
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """One immutable version of one dataset."""

    name: str
    version: str
    path: Path

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def manifest(self) -> dict[str, Any]:
        """What it was made from and what it holds; see `pipelines/versions/manifest.py`."""
        path = self.path / "manifest.json"
        try:
            manifest = json.loads(path.read_bytes())
            schema = int(manifest["schema_version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LawBroken(
                f"{self}: {path} is damaged ({type(error).__name__}: {error}); versions are written whole, so the disk or "
                "somebody changed it: restore it, or move the folder away and build again"
            ) from error
        if schema > MANIFEST_SCHEMA:
            made = manifest.get("tracemill", "a newer release")
            raise RecipeError(
                f"{self} was made by tracemill {made}: its manifest has schema {schema}, this release reads up to "
                f"{MANIFEST_SCHEMA}; upgrade with `pip install -U tracemill`"
            )
        return dict(manifest)

    def tables(self) -> list[str]:
        """The names of its tables, those without rows too."""
        return sorted(self.manifest()["tables"])

    def scan(self, table: str = "rows") -> pl.LazyFrame:
        """One table, in its order, read as far as it is used."""
        return pl.scan_parquet(self.files(table))

    def files(self, table: str = "rows") -> list[Path]:
        """The Parquet files of a table, in order."""
        tables = self.manifest()["tables"]
        if table not in tables:
            raise RecipeError(f"{self} has no table {table!r}{suggest(table, tables)}")
        files = [self.path / file["path"] for file in tables[table]["files"]]
        for file in files:
            if not file.resolve().is_relative_to(self.path.resolve()):
                raise LawBroken(f"{self}: the manifest points out of the version, to {file}; it is not one of ours")
        return files


@dataclass(frozen=True, slots=True)
class Drafted(Dataset):
    """A version in the making: its tables stand, its manifest is not written yet."""

    facts: Mapping[str, Any]

    def manifest(self) -> dict[str, Any]:
        return dict(self.facts)


@contextmanager
def reading(*datasets: Dataset) -> Iterator[None]:
    """Where a file of these versions is gone or cannot be read: LawBroken, with the command that says which and what to do."""
    try:
        yield
    except (FileNotFoundError, RecipeError, pl.exceptions.ComputeError, pa.ArrowInvalid) as error:
        gone = [
            file
            for dataset in datasets
            for table in dataset.tables()
            for file in dataset.files(table)
            if not file.exists()
        ]
        if not gone and isinstance(error, (FileNotFoundError, RecipeError)):
            raise  # of something else
        names = list(dict.fromkeys(map(str, datasets)))
        said = f"{gone[0]} is missing" if gone else f"a file cannot be read ({str(error).splitlines()[0]})"
        checks = " or ".join(f"`tracemill fsck {name}`" for name in names)
        raise LawBroken(f"{' or '.join(names)}: {said}; {checks} says what is wrong and what to do") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A line of `tracemill ls`."""

    name: str
    version: str
    rows: int
    created: str
    complete: bool
    bytes: int
    latest: bool
    """Whether `name` alone means this version."""
    damage: str = ""
    """What is wrong with it, where it cannot be read; the other numbers are 0 then."""


def parse_ref(text: str) -> Ref:
    """Take a reference apart, or say what one looks like. Nothing in it can lead out of the store."""
    name, at, rest = text.partition("@")
    if at:
        version, slash, table = rest.partition("/")
    else:
        name, slash, table = name.partition("/")
        version = "latest"
    check_name(name)
    if version != "latest" and not _PREFIX.fullmatch(version):
        raise RecipeError(f"{text!r}: a version is {version!r}; write 6 to 16 hex digits, or latest: {name}@latest")
    if slash and not TABLE.fullmatch(table):
        raise RecipeError(f"{text!r}: a table is {table!r}; write a name, such as {name}/rows")
    return Ref(name, None if version == "latest" else version, table or None)


def check_name(name: str) -> None:
    """Raise RecipeError unless `name` can be a folder of the store."""
    if not NAME.fullmatch(name) or ".." in name:
        raise RecipeError(
            f"{name!r} is not a name of a dataset: 1 to 80 of a-z 0-9 . _ - beginning with a letter or digit, no '..'; "
            "write name, name@version or name@version/table"
        )


def find_version(root: Path, ref: Ref) -> Dataset:
    """The version that a reference means, or RecipeError with what there is."""
    home = root / ref.name
    names = [path.name for path in root.iterdir() if _is_home(path)]
    if ref.name not in names:
        raise RecipeError(f"no dataset {ref.name!r} in {root}{suggest(ref.name, names)}")
    if ref.version is None:
        return _newest(home)
    have = versions_of(home)
    found = [version for version in have if version.startswith(ref.version)]
    if not found:
        raise RecipeError(f"{ref.name!r} has no version {ref.version!r} in {root}; it has {_listed(have)}")
    if len(found) > 1:
        raise RecipeError(f"{ref.name}@{ref.version} could be {_listed(found)}; write more digits")
    return Dataset(ref.name, found[0], home / found[0])


def versions_of(home: Path) -> list[str]:
    """The committed versions of one dataset, by id. A symlink is not a version, wherever it points."""
    if not _is_home(home):
        return []
    return sorted(p.name for p in home.iterdir() if VERSION.fullmatch(p.name) and p.is_dir() and not p.is_symlink())


def homes_of(root: Path) -> list[Path]:
    """The folders of a store that hold versions, by name."""
    return sorted(path for path in root.iterdir() if _is_home(path))


def latest_of(home: Path) -> str | None:
    """The version that `latest` points to, where it points to one."""
    link = home / "latest"
    target = link.readlink().as_posix() if link.is_symlink() else ""
    return target if target in versions_of(home) else None


def summaries(root: Path) -> list[Summary]:
    """Every version in a store, by name and time."""
    homes = homes_of(root)
    found = [_summary(Dataset(home.name, version, home / version)) for home in homes for version in versions_of(home)]
    return sorted(found, key=lambda line: (line.name, line.created, line.version))


def _is_home(path: Path) -> bool:
    return bool(NAME.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()


def _newest(home: Path) -> Dataset:
    """The version that `latest` names; where a kill came between commit and pointer, the newest complete one."""
    if (version := latest_of(home)) is not None:
        return Dataset(home.name, version, home / version)
    have = [_summary(Dataset(home.name, version, home / version)) for version in versions_of(home)]
    if complete := [line for line in have if line.complete]:
        version = max(complete, key=lambda line: (line.created, line.version)).version
        return Dataset(home.name, version, home / version)
    if have:
        partial = _listed([line.version for line in have])
        raise RecipeError(f"{home.name!r} has no complete version yet; its partial ones: {partial}: name one")
    raise RecipeError(f"{home.name!r} has no version yet; run `tracemill build` again to finish its build")


def _summary(dataset: Dataset) -> Summary:
    home, version = dataset.path.parent, dataset.version
    latest = latest_of(home) == version
    try:
        manifest = dataset.manifest()
    except (LawBroken, RecipeError) as error:
        return Summary(
            name=dataset.name,
            version=version,
            rows=0,
            created="",
            complete=False,
            bytes=0,
            latest=latest,
            damage=str(error),
        )
    tables = manifest["tables"]
    return Summary(
        name=dataset.name,
        version=version,
        rows=tables["rows"]["rows"],
        created=manifest["created"],
        complete=manifest["complete"],
        bytes=sum(file["bytes"] for table in tables.values() for file in table["files"]),
        latest=latest,
    )


def _listed(versions: Iterable[str]) -> str:
    return ", ".join(versions) or "none"
