"""A version that changes a little takes a little: tables are cut where rows say so, and equal files are one file."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.test_fsck import flip
from tests.test_store import SMALL, commit, rows
from tracemill.pipelines.store import Dataset, Draft, Store
from tracemill.pipelines.versions import cuts, parquet, sharing
from tracemill.pipelines.versions.cuts import Cutter, file_bytes, row_bytes
from tracemill.pipelines.versions.fsck import fsck
from tracemill.schemas.tables import ROWS


@pytest.fixture
def store(memory_folder: Path) -> Store:
    """In memory: hundreds of files are synced, and no test here cuts the power."""
    return Store(memory_folder / "store")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a few hundred KB are cut like tables of GB."""
    monkeypatch.setattr(cuts, "GROUP", 8_000)


def line(i: int, salt: str = "") -> dict[str, Any]:
    return {"id": f"p{i:06}", "text": sha256(f"{i}{salt}".encode()).hexdigest() * 3}


def table(lines: list[dict[str, Any]], store: Store, **more: Any) -> tuple[Dataset, Draft]:
    with store.draft("arith") as draft:
        draft.table("rows", SMALL, [lines[i : i + 97] for i in range(0, len(lines), 97)])
        for name, schema, batch in more.values():
            draft.table(name, schema, [batch])
        return draft.commit(recipe_toml="", identity={}, manifest={}), draft


def new_bytes(old: Dataset, new: Dataset) -> float:
    """The share of a version's tables that its elder does not hold already, by inode."""
    have = {p.stat().st_ino for p in old.path.rglob("*.parquet")}
    files = list(new.path.rglob("*.parquet"))
    return sum(p.stat().st_size for p in files if p.stat().st_ino not in have) / sum(p.stat().st_size for p in files)


LINES = [line(i) for i in range(12_000)]
"""2.4 MB: some 300 groups of 8 KB, like 5 GB at the size that ships."""


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("change", "at_most"),
    [
        (lambda lines: [*lines[:6000], *(line(i, "new") for i in range(6000, 6120)), *lines[6120:]], 0.05),
        (lambda lines: [*lines, *(line(i) for i in range(12_000, 12_120))], 0.05),
        (lambda lines: [*lines[:3000], *lines[3120:]], 0.05),  # a run of rows gone: all that follows is shared
        (lambda lines: lines[120:], 0.05),
        (lambda lines: [line(i, "new" if i % 100 == 0 else "") for i in range(12_000)], 1.0),
    ],
)
def test_one_percent_changed_in_a_run_adds_at_most_five_percent(store: Store, change: Any, at_most: float):
    old, _ = table(LINES, store)
    lines = change(LINES)
    new, draft = table(lines, store)
    assert 0 < new_bytes(old, new) <= at_most
    assert new.scan().collect().to_dicts() == lines
    assert draft.shared.of_files == len(new.files())
    assert draft.shared.files == sum(p.stat().st_nlink == 2 for p in new.files())
    assert fsck(store.root, deep=True).faults == []


@pytest.mark.usefixtures("small")
def test_a_volatile_column_in_a_table_of_its_own_leaves_the_rows_shared(store: Store):
    schema = pa.schema([("id", pa.string()), ("score", pa.float64())])

    def scored(salt: str) -> Dataset:
        scores = [{"id": row["id"], "score": float(len(salt)) + i % 7} for i, row in enumerate(LINES)]
        return table(LINES, store, scores=("scores", schema, scores))[0]

    old, new = scored(""), scored("new")
    assert all(a.samefile(b) for a, b in zip(old.files(), new.files(), strict=True))
    assert new_bytes(old, new) < 0.06  # a number a row beside 192 characters


def test_the_version_does_not_depend_on_where_its_tables_are_cut(store: Store, monkeypatch: pytest.MonkeyPatch):
    whole, _ = table(LINES, store)
    monkeypatch.setattr(cuts, "GROUP", 8_000)
    cut, _ = table(LINES, Store(store.root.parent / "other"))
    assert (len(whole.files()), whole.version) == (1, cut.version)
    assert len(cut.files()) > 100


@pytest.mark.usefixtures("small")
def test_equal_rows_make_equal_files_however_they_were_batched(tmp_path: Path):
    def hashes(step: int) -> list[str]:
        with Store(tmp_path / str(step)).draft("arith") as draft:
            facts = draft.table("rows", SMALL, [LINES[i : min(i + step, 3000)] for i in range(0, 3000, step)])
        return [file.sha256 for file in facts.files]

    assert hashes(3000) == hashes(1) == hashes(101)


@pytest.mark.usefixtures("small")
def test_every_row_group_reaches_parquet_in_one_piece(store: Store, monkeypatch: pytest.MonkeyPatch):
    """Pyarrow's pages can differ with how a column is pieced together: seen in 4 files of 33, of 8 MB each."""
    write, pieces = parquet._Files.write, set()

    def seen(self: Any, group: pa.Table, *, last: bool) -> None:
        pieces.update(column.num_chunks for column in group.columns)
        write(self, group, last=last)

    monkeypatch.setattr(parquet._Files, "write", seen)
    monkeypatch.setattr(parquet, "CHUNK_ROWS", 10)
    table(LINES[:2000], store)
    assert pieces == {1}


@pytest.mark.usefixtures("small")
def test_every_reader_opens_a_version_that_is_cut_and_shared_in_order(store: Store, tmp_path: Path):
    table(LINES, store)
    dataset, _ = table([*LINES, line(20_000)], store)
    ids = [row["id"] for row in [*LINES, line(20_000)]]
    assert pl.scan_parquet(dataset.path / "rows/*.parquet").collect()["id"].to_list() == ids
    assert pa.dataset.dataset(dataset.path / "rows").to_table()["id"].to_pylist() == ids
    code = "import sys, datasets; print(*datasets.load_dataset(sys.argv[1], split='train')['id'])"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    run = subprocess.run(
        [sys.executable, "-c", code, dataset.path], env=env, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ids


# what is shared, and what is not


def test_equal_files_are_one_file_across_datasets_and_views_too(store: Store):
    def with_view(name: str, n: int) -> Dataset:
        with store.draft(name) as draft:
            draft.table("rows", ROWS, [rows(n)])
            (draft.path / "views/plain").mkdir(parents=True)
            pl.DataFrame({"a": [1, 2]}).write_parquet(draft.path / "views/plain/train.parquet")
            return draft.commit(recipe_toml="", identity={}, manifest={})

    one, two = with_view("one", 3), with_view("two", 4)
    assert (one.path / "views/plain/train.parquet").samefile(two.path / "views/plain/train.parquet")
    assert not one.files()[0].samefile(two.files()[0])
    three = commit(store, 3, name="three")
    assert three.files()[0].samefile(one.files()[0])
    shutil.rmtree(one.path.parent)  # takes nothing from the others
    assert fsck(store.root).faults == []


def test_a_file_that_is_damaged_on_the_disk_is_not_shared(store: Store):
    old = commit(store, 3)
    flip(old.files()[0])
    new = commit(store, 3, identity={})
    assert not new.files()[0].samefile(old.files()[0])
    assert [fault.where for fault in fsck(store.root).faults] == [str(old.files()[0])]


def test_where_there_are_no_hard_links_the_version_is_whole_all_the_same_and_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    table([line(1)], store)
    monkeypatch.setattr(sharing.os, "link", refuse)
    dataset, draft = table([line(1)], store, more=("more", SMALL, [line(2)]))
    assert (draft.shared.files, draft.shared.copied, draft.shared.why) == (0, 1, "Operation not supported")
    assert dataset.files()[0].stat().st_nlink == 1
    assert fsck(store.root).faults == []
    assert not list(dataset.path.rglob(".*"))


def test_a_version_that_goes_away_while_we_look_is_no_hindrance(store: Store, monkeypatch: pytest.MonkeyPatch):
    old, _ = table([line(1)], store)
    known = sharing._by_hash

    def gone(root: Path) -> Any:
        found = known(root)
        shutil.rmtree(old.path)
        return found

    monkeypatch.setattr(sharing, "_by_hash", gone)
    dataset, draft = table([line(1)], store, more=("more", SMALL, [line(2)]))
    assert draft.shared.files == 0
    assert dataset.scan().collect().height == 1


# the cuts


def batch_of(texts: list[str | None]) -> pa.RecordBatch:
    ids = [f"{i:05}" for i in range(len(texts))]
    return pa.RecordBatch.from_arrays([pa.array(ids), pa.array(texts, pa.string())], names=["id", "text"])


def all_cuts(batches: list[pa.RecordBatch], key: list[str]) -> Iterator[tuple[int, bool]]:
    cutter, start = Cutter(key), 0
    for batch in batches:
        yield from ((start + cut.at, cut.file) for cut in cutter.cuts(batch))
        start += batch.num_rows


@settings(max_examples=40, deadline=None)
@example([159_986, 119_986, 159_986], 1, False)
@example([159_986, 119_986, 159_986], 1, True)
@given(st.lists(st.integers(0, 300_000) | st.integers(0, 500), max_size=200), st.integers(1, 50), st.booleans())
def test_cuts_do_not_depend_on_batches_and_groups_keep_to_their_bounds(lengths: list[int], step: int, keyed: bool):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "GROUP", 40_000)
        patch.setattr(cuts, "MANY", 4)
        batch = batch_of(["x" * n for n in lengths])
        pieces = [batch.slice(i, step) for i in range(0, len(lengths), step)]
        key = ["id"] if keyed else []
        found = list(all_cuts([batch], key))
        assert found == list(all_cuts(pieces, key))
        sizes = row_bytes(batch)
        edges = [0, *(at for at, _ in found), len(sizes)]
        for begin, end in pairwise(edges[:-1]):  # the last group is what is left over
            assert sizes[begin:end].sum() >= 10_000
            assert sizes[begin : end - 1].sum() < 160_000  # without its last row, which may be of any size


def test_the_size_of_a_row_is_its_own_whatever_lies_beside_it():
    talk = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    values = [
        [{"role": "user", "content": "é" * 10}, None], None, [], [{"role": None, "content": "x"}],
    ]  # fmt: skip
    columns = {
        "talk": pa.array(values, talk),
        "n": pa.array([1, None, 3, 4], pa.int32()),
        "b": pa.array([True, None, False, True]),
        "ids": pa.array([[1, 2, 3], None, [], [4]], pa.list_(pa.int64())),
        "raw": pa.array([b"abc", None, b"", b"x"]),
        "cat": pa.array(["aa", None, "aa", "b"]).dictionary_encode(),
        "nothing": pa.nulls(4),
    }
    batch = pa.RecordBatch.from_pydict(columns)
    sizes = row_bytes(batch)
    alone = [int(row_bytes(batch.slice(i, 1))[0]) for i in range(4)]
    assert sizes.tolist() == alone
    assert sizes[0] - sizes[2] >= 20 + 4 + 24 + 3


def test_files_grow_with_the_table_so_that_there_are_never_thousands():
    sizes = [file_bytes(place << 30) for place in (0, 1, 2, 7, 8, 31, 32, 127, 128, 10_000)]
    assert [size >> 20 for size in sizes] == [16, 16, 64, 64, 256, 256, 1024, 1024, 1024, 1024]
    assert np.all(np.diff(sizes) >= 0)
