"""`tracemill fsck` finds what is damaged, missing or extra, and says what to do; a store that is whole it leaves in peace."""

import asyncio
import json
import os
import shutil
import subprocess
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from tests.test_store import commit, edit_manifest
from tracemill.pipelines.cli import app
from tracemill.pipelines.store import Dataset, Store
from tracemill.pipelines.versions.fsck import Report, fsck
from tracemill.pipelines.versions.manifest import seal_of
from tracemill.pipelines.versions.parquet import sha256_of
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.request import Completion
from tracemill.synth.journal import Journal


def found(report: Report) -> list[tuple[str, str]]:
    """Kind and last two parts of the place of every fault."""
    return [(fault.kind, "/".join(Path(fault.where).parts[-2:])) for fault in report.faults]


def change(path: Path, edit: Callable[[bytearray], Any]) -> None:
    """Change a file in place, as a disk or a careless person would; its inode stays."""
    data = bytearray(path.read_bytes())
    edit(data)
    path.chmod(0o600)
    path.write_bytes(data)


def flip(path: Path, at: int = 60) -> None:
    change(path, lambda data: data.__setitem__(at, data[at] ^ 1))


@pytest.fixture
def dataset(store: Store) -> Dataset:
    return commit(store, 3000)


def test_a_store_that_is_whole_is_told_so_with_what_was_read(store: Store, dataset: Dataset):
    commit(store, 2, name="other", complete=False)
    report = fsck(store.root, deep=True)
    assert report.faults == report.notes == []
    assert report.versions == 2
    assert report.files == 2 * 5  # three tables, card and recipe
    shown = [p for p in store.root.rglob("*") if p.is_file() and p.name != "manifest.json" and "latest" not in p.parts]
    assert report.bytes == sum(p.stat().st_size for p in shown)


@pytest.mark.parametrize("name", ["rows/part-00000.parquet", "README.md", "recipe.toml"])
def test_one_flipped_bit_in_any_file_is_found(store: Store, dataset: Dataset, name: str):
    flip(dataset.path / name, at=5)
    [fault] = fsck(store.root).faults
    assert (fault.kind, fault.where) == ("damaged", str(dataset.path / name))
    assert "its sha256 is" in fault.says
    assert "build its recipe again" in fault.do


def test_a_damaged_page_is_named_as_what_reading_says_of_it(store: Store, dataset: Dataset):
    flip(dataset.files()[0])
    assert "CRC" in fsck(store.root).faults[0].says


@pytest.mark.parametrize(
    ("edit", "says"),
    [(lambda d: d.__delitem__(slice(100, None)), "it has 100 bytes and should"), (lambda d: d.clear(), "it has 0 bytes")],
)  # fmt: skip
def test_a_torn_file_is_told_from_a_changed_one(store: Store, dataset: Dataset, edit: Any, says: str):
    change(dataset.files()[0], edit)
    [fault] = fsck(store.root).faults
    assert fault.says.startswith(says)
    assert "reading it fails" in fault.says


def test_what_is_missing_and_what_is_extra_is_named(store: Store, dataset: Dataset):
    dataset.files()[0].unlink()
    shutil.copy(dataset.files("problems")[0], dataset.path / "rows/part-00007.parquet")
    (dataset.path / "notes").mkdir()
    (dataset.path / "notes/todo.txt").write_text("mine")
    (dataset.path / "recipe.toml").unlink()
    (dataset.path / "recipe.toml").symlink_to("/etc/hostname")
    assert found(fsck(store.root)) == [
        ("missing", "rows/part-00000.parquet"),
        ("extra", "notes/todo.txt"),
        ("extra", "rows/part-00007.parquet"),
        ("damaged", f"{dataset.version}/recipe.toml"),
    ]


def test_a_file_that_is_whole_elsewhere_is_offered_and_the_command_mends_it(store: Store):
    first, second = commit(store, 3), commit(store, 3, identity={})
    copy = second.files()[0].read_bytes()
    second.files()[0].unlink()
    second.files()[0].write_bytes(copy[:-1] + b"x")
    [fault] = fsck(store.root).faults
    assert str(first.files()[0]) in fault.do
    subprocess.run(fault.do.partition(": ")[2].split(), check=True)
    assert fsck(store.root).faults == []


@pytest.mark.parametrize(
    ("edit", "kinds"),
    [
        (lambda m: m["counts"].append({"stage": "x", "reason": "", "rows": 1}), ["damaged"]),  # the seal
        (lambda m: m["tables"]["rows"].update(content="0" * 64), ["damaged"] * 2),  # the seal and the name
        (lambda m: m.update(identity={"a": 1}), ["damaged"] * 2),
        (lambda m: m.clear(), ["damaged"]),
        (lambda m: m.pop("tables"), ["damaged"]),
        (lambda m: m["tables"]["rows"]["files"][0].update(path="../../../x"), ["damaged", "damaged", "extra"]),
        (lambda m: m.update(schema_version=99, tracemill="9.0"), ["newer"]),
    ],
)
def test_a_manifest_that_was_changed_is_found(store: Store, edit: Any, kinds: list[str]):
    dataset = commit(store, manifest={"counts": []})
    edit_manifest(dataset, edit)
    assert [fault.kind for fault in fsck(store.root).faults] == kinds


def test_rows_that_are_not_those_of_the_version_are_found_by_reading_them(store: Store, dataset: Dataset):
    """A manifest that fits its files and its seal, by somebody who knows how: only the content tells."""
    other = commit(store, 3000, name="other", manifest={"x": 1})  # type: ignore[typeddict-unknown-key]
    twisted = other.files("problems")[0]
    frame = pl.read_parquet(twisted).with_columns(outcome=pl.lit("failed"))
    twisted.unlink()  # the other version shares it
    frame.write_parquet(twisted)

    def cover(manifest: dict[str, Any]) -> None:
        manifest["tables"]["problems"]["files"][0].update(sha256=sha256_of(twisted), bytes=twisted.stat().st_size)
        manifest["seal"] = seal_of(manifest)

    edit_manifest(other, cover)
    assert fsck(store.root).faults == []
    assert found(fsck(store.root, deep=True)) == [("damaged", f"{other.version}/problems")]


def test_pointers_that_lead_nowhere_are_found_and_removing_them_helps(store: Store, dataset: Dataset):
    partial = commit(store, 1, complete=False)
    link = store.root / "arith/latest"
    for target in ("0123456789abcdef", "../elsewhere", partial.version):
        link.unlink()
        link.symlink_to(target)
        [fault] = fsck(store.root).faults
        assert (fault.kind, fault.where) == ("pointer", str(link))
    link.unlink()
    report = fsck(store.root)
    assert report.faults == []
    assert "not there" in report.notes[0]
    assert store.open("arith") == dataset


def test_what_is_not_ours_is_left_alone_and_what_lies_about_is_noted(store: Store, dataset: Dataset):
    for name in ("\uff41rith", "a..b", "Upper", "a b", "arith\u200b"):
        (store.root / name).mkdir()
    (store.root / "linked").symlink_to(store.root / "arith")
    (store.root / "arith/.draft-dead").mkdir()
    (store.root / "arith/mine").mkdir()
    report = fsck(store.root)
    assert report.faults == []
    assert report.versions == 1
    assert len(report.notes) == 8
    assert sum("no dataset of ours" in note for note in report.notes) == 6


async def journaled(store: Store, n: int) -> list[Path]:
    with Journal(store.journal_folder) as journal:
        texts = (
            Completion(text=f"{i} words", finish_reason="stop", n_tokens=2, token_ids=array("i", [i])) for i in range(n)
        )
        await asyncio.gather(*(journal.put(f"{i:064x}", text) for i, text in enumerate(texts)))
    return sorted(store.journal_folder.glob("*.sqlite"))


async def test_a_flipped_bit_in_the_journal_is_found(store: Store):
    [segment] = await journaled(store, 50)
    assert fsck(store.root).entries == 50
    at = segment.read_bytes().rindex(b"words")
    flip(segment, at)
    [fault] = fsck(store.root).faults
    assert (fault.kind, fault.where) == ("journal", str(segment))
    assert "1 entries fail their checksum" in fault.says
    assert "move it away" in fault.do


async def test_a_segment_that_sqlite_cannot_make_sense_of_is_found(store: Store):
    whole, torn = await journaled(store, 50), None
    [torn] = set(await journaled(store, 900)) - set(whole)
    change(torn, lambda data: data.__setitem__(slice(20_000, 40_000), b"\xff" * 20_000))
    report = fsck(store.root)
    assert [(f.kind, f.where) for f in report.faults] == [("journal", str(torn))]
    change(torn, lambda data: data.__delitem__(slice(0, None)))
    assert "not a segment" in fsck(store.root).faults[0].says


async def test_a_segment_that_is_being_written_is_read_as_far_as_it_goes(store: Store):
    with Journal(store.journal_folder) as journal:
        await journal.put("ab" * 32, Completion(text="x", finish_reason="stop", n_tokens=1))
        assert fsck(store.root).entries == 1
        await journal.put("cd" * 32, Completion(text="y", finish_reason="stop", n_tokens=1))
    with Journal(store.journal_folder) as journal:
        assert len(journal) == 2


def test_one_version_can_be_checked_alone(store: Store, dataset: Dataset):
    flip(commit(store, 5, name="other").files()[0])
    assert fsck(store.root, "arith").faults == []
    assert found(fsck(store.root, "other")) == [("damaged", "rows/part-00000.parquet")]
    with pytest.raises(RecipeError, match="no dataset 'nothere'"):
        fsck(store.root, "nothere")


def test_the_command_ends_in_4_where_anything_is_wrong_and_its_json_says_all(store: Store, dataset: Dataset):
    def run(*args: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["fsck", *args, "--store", str(store.root)])
        return done.exit_code, done.stdout

    assert run()[0] == 0
    assert run()[1].startswith("whole: read 1 versions, 5 files, ")
    flip(dataset.files()[0])
    code, said = run("arith", "--json")
    assert code == 4
    assert json.loads(said)["whole"] is False
    assert json.loads(said)["faults"][0]["where"] == str(dataset.files()[0])
    code, said = run()
    assert code == 4
    assert said.splitlines()[-1].startswith("1 faults: read")
    assert os.fspath(dataset.files()[0]) in said
