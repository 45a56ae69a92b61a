"""The store: what exists is whole, equal content is one version, and a name finds what it says or an answer that helps."""

import fcntl
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracemill.pipelines.store import Dataset, Ref, Store, parse_ref
from tracemill.pipelines.versions import cuts, parquet
from tracemill.pipelines.versions.durable import says_full, write_whole
from tracemill.schemas.errors import CountsDiffer, DiskFull, LawBroken, RecipeError
from tracemill.schemas.tables import PROBLEMS, REJECTED, ROWS

IDENTITY = {"recipe": {"name": "arith", "synth": {"use": "sample", "n": 4}}, "sources": ["ab" * 32]}
SMALL = pa.schema([("id", pa.string()), ("text", pa.string())])


def rows(n: int, **columns: Any) -> list[dict[str, Any]]:
    return [{"id": f"p{i:05}/solve-0001", "problem_id": f"p{i:05}", "n_tokens": i, **columns} for i in range(n)]


def commit(store: Store, n: int = 3, *, name: str = "arith", complete: bool = True, **facts: Any) -> Dataset:
    with store.draft(name) as draft:
        draft.table("rows", ROWS, [rows(n)])
        draft.table("problems", PROBLEMS, [[{"problem_id": f"p{i:05}", "outcome": "chosen"} for i in range(n)]])
        draft.table("rejected", REJECTED, [])
        manifest = facts.pop("manifest", {"samples": {"new": n, "replayed": 0}})
        return draft.commit(
            recipe_toml='name = "arith"\n',
            identity=facts.pop("identity", IDENTITY),
            manifest=manifest,
            complete=complete,
        )


def everything_in(folder: Path) -> dict[str, str]:
    """What a reader can see: every file but the hidden ones, by its content."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() or p.is_symlink())
    shown = (p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts))
    return {
        p.relative_to(folder).as_posix(): str(p.readlink()) if p.is_symlink() else sha256(p.read_bytes()).hexdigest()
        for p in shown
        if "latest" not in p.parts or p.is_symlink()
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# what a version is


def test_a_version_holds_what_was_written_and_names_itself(store: Store):
    dataset = commit(store, 3)
    assert str(dataset) == f"arith@{dataset.version}"
    assert dataset.scan().select("id", "n_tokens").collect().rows() == [(r["id"], r["n_tokens"]) for r in rows(3)]
    assert dataset.tables() == ["problems", "rejected", "rows"]
    assert dataset.scan("rejected").collect().is_empty()
    assert {p.name for p in dataset.path.iterdir()} == {
        "README.md", "manifest.json", "recipe.toml", "rows", "problems", "rejected",
    }  # fmt: skip


def test_the_manifest_has_the_hash_of_every_file(store: Store):
    dataset = commit(store)
    tables = dataset.manifest()["tables"]
    for table in dataset.tables():
        for file, path in zip(tables[table]["files"], dataset.files(table), strict=True):
            assert sha256(path.read_bytes()).hexdigest() == file["sha256"]
            assert path.stat().st_size == file["bytes"]
    assert [tables[name]["rows"] for name in ("rows", "problems", "rejected")] == [3, 3, 0]


def test_equal_content_is_one_version_and_its_first_manifest_stays(store: Store):
    first = commit(store, manifest={"samples": {"new": 3, "replayed": 0}})
    before = everything_in(store.root)
    second = commit(store, manifest={"samples": {"new": 0, "replayed": 3}})
    assert first == second
    assert everything_in(store.root) == before


def test_the_version_is_the_same_in_another_store_at_another_time(tmp_path: Path):
    assert commit(Store(tmp_path / "a")).version == commit(Store(tmp_path / "b")).version


def test_how_rows_come_in_does_not_change_the_version(store: Store):
    def version(batches: Any) -> str:
        with store.draft("arith") as draft:
            draft.table("rows", ROWS, batches)
            return draft.commit(recipe_toml="", identity={}, manifest={}).version

    dicts = rows(10)
    frame = pl.DataFrame(dicts, schema_overrides={"n_tokens": pl.Int32})
    whole = pa.Table.from_pylist(dicts, schema=ROWS)
    assert (
        len({version(b) for b in ([dicts], [[d] for d in dicts], [whole], whole.to_batches(3), [dicts[:4], dicts[4:]])})
        == 1
    )
    missing = frame.with_columns(pl.lit(None).alias(name) for name in ROWS.names if name not in frame.columns)
    assert version([missing]) == version([dicts])


@pytest.mark.parametrize(
    "change", [{"n": 4}, {"identity": {**IDENTITY, "sources": ["cd" * 32]}}, {"complete": False}, {"identity": {}}]
)
def test_whatever_the_version_rests_on_changes_it(store: Store, change: dict[str, Any]):
    assert commit(store).version != commit(store, **change).version


def test_a_version_is_read_only_and_readable_by_others(store: Store):
    dataset = commit(store)
    assert all(not p.stat().st_mode & 0o222 for p in dataset.path.rglob("*") if p.is_file())
    mask = os.umask(0)
    os.umask(mask)
    assert dataset.path.stat().st_mode & 0o777 == 0o777 & ~mask


# Parquet


def test_files_are_zstd_with_checksums_and_page_index_in_one_row_group(store: Store):
    [file] = commit(store, 5000).files()
    meta = pq.ParquetFile(file, page_checksum_verification=True).metadata
    assert meta.num_row_groups == 1
    column = meta.row_group(0).column(0)
    assert column.compression == "ZSTD"
    assert column.has_offset_index
    assert column.has_column_index


def test_a_flipped_bit_is_found_by_the_page_checksum(store: Store):
    [file] = commit(store, 5000).files()
    data = bytearray(file.read_bytes())
    data[60] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)
    with pytest.raises(OSError, match=r"CRC"):
        pq.read_table(file, page_checksum_verification=True)


def test_a_long_table_falls_into_row_groups_and_files_and_reads_back_in_order(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parquet, "CHUNK_ROWS", 100)
    monkeypatch.setattr(cuts, "GROUP", 8_000)
    monkeypatch.setattr(cuts, "MANY", 10)
    dataset = commit(store, 3000)
    files = dataset.files()
    assert [f.name for f in files] == [f"part-{i:05}.parquet" for i in range(len(files))]
    groups = [pq.read_metadata(f).num_row_groups for f in files]
    assert len(groups) > 10
    assert groups[0] == 1  # and the farther into the table, the larger its files
    assert max(groups) > 3
    assert dataset.scan().collect()["id"].to_list() == [r["id"] for r in rows(3000)]
    monkeypatch.undo()
    assert commit(store, 3000) == dataset


def test_an_early_row_inserted_leaves_most_of_the_bytes_as_they_were(store: Store):
    """Content-defined chunking: without it every page after the new row would be cut at another place."""

    def file_of(ids: list[int]) -> bytes:
        with store.draft("cdc") as draft:
            draft.table("rows", SMALL, [[{"id": f"{i:07}", "text": sha256(b"%d" % i).hexdigest() * 8} for i in ids]])
            return (draft.path / "rows/part-00000.parquet").read_bytes()

    old, new = file_of(list(range(1, 20_000))), file_of(list(range(20_000)))
    probes = [old[i : i + 64] for i in range(len(old) // 2, len(old) - 65_536, 65_536)]
    assert sum(probe in new for probe in probes) > 0.7 * len(probes)


# what is refused


@pytest.mark.parametrize(
    ("table", "schema", "batches", "says"),
    [
        ("rows", SMALL, [[{"id": "b"}, {"id": "a"}]], "out of order: 'a' after 'b'"),
        ("rows", SMALL, [[{"id": "b"}], [{"id": "a"}]], "out of order: 'a' after 'b'"),
        ("rows", SMALL, [[{"id": "a"}], [{"id": "a"}]], "twice in it: 'a'"),
        ("rows", SMALL, [[{"id": "a"}, {"id": None}]], "out of order: None after 'a'"),
        ("rows", SMALL, [[{"id": "a", "extra": 1}]], r"no column \['extra'\]"),
        ("rows", SMALL, [pl.DataFrame({"id": ["a"]})], "do not fit"),
        ("rows", SMALL, [[{"id": 7}]], "do not fit"),
        ("rows", SMALL, [[{"id": "a", "text": "\ud800"}]], "do not fit"),
        ("rejected", REJECTED, [[{"problem_id": "b"}, {"problem_id": "a"}]], "sorted by problem_id, id, stage"),
        ("steps", SMALL, [[{"id": "a", "text": "2"}, {"id": "a", "text": "1"}]], "out of order"),
    ],
)  # fmt: skip
def test_rows_out_of_order_doubled_or_ill_fitting_stop_the_commit(
    store: Store, table: str, schema: pa.Schema, batches: Any, says: str
):
    with pytest.raises(CountsDiffer, match=says), store.draft("arith") as draft:
        draft.table(table, schema, batches)
    assert list((store.root / "arith").iterdir()) == []


def test_order_is_that_of_polars_nulls_first_and_ties_where_nothing_differs(store: Store):
    found = [
        {"id": i, "problem_id": p, "stage": s, "reason": "r"}
        for p in ("a", "b", "é", "z", "\uff5e", "\U0001d538")
        for i in (None, "1", "10", "2")
        for s in ("source", "verify", "verify")
    ]
    frame = pl.DataFrame(found, schema=pl.Schema(pl.from_arrow(REJECTED.empty_table()).schema))  # type: ignore[union-attr]
    frame = frame.sort(*parquet.order_of("rejected", REJECTED))
    with store.draft("arith") as draft:
        assert draft.table("rejected", REJECTED, [frame[:7], frame[7:]]).rows == len(found)


def test_a_table_is_written_once_and_rows_must_be_there(store: Store):
    with store.draft("arith") as draft:
        draft.table("problems", PROBLEMS, [])
        with pytest.raises(LawBroken, match="written twice"):
            draft.table("problems", PROBLEMS, [])
        with pytest.raises(LawBroken, match="cannot be a table"):
            draft.table("../rows", ROWS, [])
        with pytest.raises(LawBroken, match="needs a table 'rows'"):
            draft.commit(recipe_toml="", identity={}, manifest={})


TRICKS = ["\uff41rith", "ar\u200bith", "\u202earith", "\u0430rith", "a\u2215b", "ari\u0301th", "a\\b", "a ", "a\u00a0"]
"""Full width, zero width, right to left, Cyrillic, a slash that is none, a combining accent, a backslash, blanks."""


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/etc", "", ".journal", "A", "a..b", "a\0b", "a" * 81, "ä", "a\n", *TRICKS]
)
def test_a_name_that_is_none_never_reaches_the_disk(store: Store, name: str):
    for use in (store.draft, store.open, store.work_folder):
        with pytest.raises(RecipeError, match=r"not a name of a dataset|a table is|no dataset"):
            use(name)
    assert list(store.root.iterdir()) == []


def test_a_symlink_is_neither_a_dataset_nor_a_version_nor_a_way_out(store: Store, tmp_path: Path):
    real = commit(store)
    outside = Store(tmp_path / "outside")
    other = commit(outside, 5)
    (store.root / "linked").symlink_to(outside.root / "arith")
    with pytest.raises(RecipeError, match="no dataset 'linked'"):
        store.open("linked")
    with pytest.raises(RecipeError, match="not a folder of its own"):
        store.draft("linked")
    (store.root / "arith" / other.version).symlink_to(other.path)
    with pytest.raises(RecipeError, match="has no version"):
        store.open(f"arith@{other.version}")
    (store.root / "arith/latest").unlink()
    (store.root / "arith/latest").symlink_to(f"../../outside/arith/{other.version}")
    assert store.open("arith") == real


def test_a_manifest_that_points_out_of_its_version_is_refused(store: Store):
    dataset = commit(store)
    edit_manifest(dataset, lambda m: m["tables"]["rows"]["files"][0].update(path="../../../secret.parquet"))
    with pytest.raises(LawBroken, match="points out of the version"):
        dataset.scan()


def edit_manifest(dataset: Dataset, edit: Any) -> None:
    path = dataset.path / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.chmod(0o600)
    path.write_text(json.dumps(manifest))


def test_a_manifest_of_a_newer_release_says_to_upgrade(store: Store):
    dataset = commit(store)
    edit_manifest(dataset, lambda m: m.update(schema_version=99, tracemill="9.0"))
    with pytest.raises(RecipeError, match=r"made by tracemill 9\.0.*upgrade"):
        dataset.manifest()


def test_a_damaged_version_is_listed_as_damaged_and_not_built_over(store: Store):
    dataset = commit(store)
    edit_manifest(dataset, lambda m: m.clear())
    [line] = store.list()
    assert "is damaged" in line.damage
    with pytest.raises(LawBroken, match="is damaged"):
        commit(store)


# finding


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("arith", Ref("arith")),
        ("arith@latest", Ref("arith")),
        ("arith/problems", Ref("arith", table="problems")),
        ("arith@0123ab", Ref("arith", "0123ab")),
        ("arith@0123ab/rows", Ref("arith", "0123ab", "rows")),
        ("arith@latest/rows", Ref("arith", table="rows")),
    ],
)
def test_a_reference_says_name_version_and_table(text: str, ref: Ref):
    assert parse_ref(text) == ref


@pytest.mark.parametrize(
    "text", ["a@", "a@12345", "a@xyzxyz", "a@../b", "a@latest/../x", "a@latest/", "a/", "a/B", "a@0123ab/x/y"]
)
def test_a_reference_that_is_none_is_explained(text: str):
    with pytest.raises(RecipeError, match="write"):
        parse_ref(text)


def test_a_name_finds_the_last_complete_build_and_a_prefix_its_version(store: Store):
    three, four = commit(store, 3), commit(store, 4)
    partial = commit(store, 2, complete=False)
    assert store.open("arith") == store.open("arith@latest") == four
    assert store.open(f"arith@{three.version[:6]}") == three
    assert store.open(str(partial)) == partial
    commit(store, 3)  # an older version built again is what the last build made
    assert store.open("arith/rows") == three


def test_what_is_not_there_is_answered_with_what_is(store: Store):
    dataset = commit(store)
    with pytest.raises(RecipeError, match=r"no dataset 'arit' .* did you mean 'arith'"):
        store.open("arit")
    with pytest.raises(RecipeError, match=f"no version '000000' .* it has {dataset.version}"):
        store.open("arith@000000")
    with pytest.raises(RecipeError, match="no table 'row'; did you mean 'rows'"):
        dataset.scan("row")


def test_two_versions_with_one_prefix_are_named(store: Store):
    dataset = commit(store)
    twin = dataset.version[:8] + "0" * 8
    shutil.copytree(dataset.path, dataset.path.parent / twin)
    with pytest.raises(RecipeError, match=f"could be .*{twin}"):
        store.open(f"arith@{dataset.version[:8]}")


def test_only_partial_versions_are_no_answer_to_a_bare_name(store: Store):
    partial = commit(store, complete=False)
    with pytest.raises(RecipeError, match=f"no complete version yet; its partial ones: {partial.version}"):
        store.open("arith")
    assert not (store.root / "arith/latest").exists()


def test_list_tells_rows_bytes_and_which_is_latest(store: Store):
    commit(store, 2, name="b")
    old, new = commit(store, 3, name="a"), commit(store, 4, name="a")
    partial = commit(store, 1, name="a", complete=False)
    lines = store.list()
    assert [(line.name, line.version) for line in lines[:3]] == [
        ("a", old.version),
        ("a", new.version),
        ("a", partial.version),
    ]
    assert [(line.rows, line.complete, line.latest) for line in lines[:3]] == [
        (3, True, False),
        (4, True, True),
        (1, False, False),
    ]
    assert lines[0].bytes == sum(p.stat().st_size for p in old.path.rglob("*.parquet"))


# the folder


def test_a_store_that_cannot_be_written_says_where_and_why(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=r"store .*/file cannot be written to: File exists"):
        Store(tmp_path / "file")
    with pytest.raises(RecipeError, match="cannot be written to: Not a directory"):
        Store(tmp_path / "file/store")
    with pytest.raises(RecipeError, match="no store at"):
        Store(tmp_path / "none", read_only=True)
    with pytest.raises(RecipeError, match="cannot be written to"):
        Store(Path("/proc/self/store"))


def test_folders_of_builds_are_hidden_from_list(store: Store):
    folders = [store.journal_folder, store.engines_folder, store.work_folder("arith")]
    assert all(folder.is_dir() for folder in folders)
    assert store.list() == []


# crashes


def test_a_failing_draft_leaves_nothing(store: Store):
    def broken() -> Iterator[list[dict[str, Any]]]:
        yield rows(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), store.draft("arith") as draft:
        draft.table("rows", ROWS, broken())
    assert list((store.root / "arith").iterdir()) == []


def test_the_next_draft_removes_those_of_dead_processes_only(store: Store):
    with store.draft("arith") as living:
        dead = store.root / "arith/.draft-dead"
        (dead / "rows").mkdir(parents=True)
        (store.root / "arith/.latest-dead").symlink_to("0123456789abcdef")
        with store.draft("arith"):
            assert not dead.exists()
            assert living.path.is_dir()
    assert list((store.root / "arith").iterdir()) == []


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_store
from tracemill.pipelines.store import Store

# Every step that Python takes on the file system below the store is counted; the child dies at its n-th.
STEPS = {"open", "os.mkdir", "os.rename", "os.symlink", "os.chmod", "os.remove", "os.rmdir", "fcntl.flock", "os.link"}

def child(root, n):
    left = [n]
    def die(event, args):
        if event in STEPS and (event == "fcntl.flock" or "/store/" in str(args)):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(die)
    test_store.commit(Store(root), 4)
    os._exit(0)

test_store.pa.Table.from_pylist([{"a": 1}])  # Arrow looks for pandas once a process
folder = Path(sys.argv[2])
for n in range(200):  # forked before any thread is started, so that imports are paid once
    shutil.copytree(folder / "fresh", folder / str(n), symlinks=True)
    pid = os.fork()
    if pid == 0:
        child(folder / str(n) / "store", n)
    if os.waitpid(pid, 0)[1] == 0:
        print(n)
        break
"""


@pytest.mark.timeout(180)
def test_killed_at_any_step_the_old_version_or_the_new_one_is_there_and_the_next_build_ends_the_same(
    memory_folder: Path,
):
    seed = Store(memory_folder / "seed/store")
    old = commit(seed, 3)
    before = everything_in(seed.root)
    shutil.copytree(memory_folder / "seed", memory_folder / "fresh", symlinks=True)
    new = commit(seed, 4)
    after = everything_in(seed.root)
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(memory_folder)],
        capture_output=True, text=True, check=True, timeout=150,
    )  # fmt: skip
    steps = int(run.stdout)
    assert steps > 20
    seen = set()
    for n in range(steps):
        store = Store(memory_folder / str(n) / "store")
        found = store.open("arith")
        assert found.version in {old.version, new.version}
        for line in store.list():
            assert not line.damage
            whole(Dataset(line.name, line.version, store.root / line.name / line.version))
        shown = drop_manifest(everything_in(store.root))
        seen.add("old" if shown == drop_manifest(before) else "new" if shown == drop_manifest(after) else "between")
        assert commit(store, 4).version == new.version
        assert drop_manifest(everything_in(store.root)) == drop_manifest(after)
        assert [p.name for p in (store.root / "arith").iterdir() if p.name.startswith(".")] == []
    assert seen == {"old", "new", "between"}  # between: the new version is there, `latest` is still the old one


def whole(dataset: Dataset) -> None:
    tables = dataset.manifest()["tables"]
    for table, facts in tables.items():
        assert [sha256(p.read_bytes()).hexdigest() for p in dataset.files(table)] == [
            f["sha256"] for f in facts["files"]
        ]
    assert (dataset.path / "README.md").is_file()
    assert (dataset.path / "recipe.toml").is_file()


def drop_manifest(files: dict[str, str]) -> dict[str, str]:
    """Manifest and card show the time of their making."""
    return {path: digest for path, digest in files.items() if not path.endswith(("manifest.json", "README.md"))}


def test_a_draft_that_its_process_removes_while_others_are_looked_for_is_in_nobodys_way(tmp_path: Path):
    """A link that leads nowhere is to the sweep what such a folder is: listed, and gone when it is opened."""
    store = Store(tmp_path / "store")
    first = commit(store, 1)
    (first.path.parent / ".draft-gone").symlink_to("nowhere")
    whole(commit(store, 2))


def commit_often(root: Path, sizes: list[int]) -> None:
    store = Store(root)
    for n in sizes:
        commit(store, n)


def test_processes_that_commit_at_once_lose_nothing(tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    sizes = [1, 2, 3, 4, 5, 6]
    workers = [spawn.Process(target=commit_often, args=(tmp_path / "store", order)) for order in (sizes, sizes[::-1])]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(40)
    assert [worker.exitcode for worker in workers] == [0, 0]
    store = Store(tmp_path / "store")
    assert sorted(line.rows for line in store.list()) == sizes
    assert sum(line.latest for line in store.list()) == 1
    assert not any(p.name.startswith(".") for p in (store.root / "arith").iterdir())
    for line in store.list():
        whole(store.open(f"arith@{line.version}"))


def test_a_draft_waits_while_another_process_publishes(store: Store):
    home = store.root / "arith"
    home.mkdir()
    other = os.open(home, os.O_RDONLY)  # a lock belongs to what was opened, so this holds off our own process too
    fcntl.flock(other, fcntl.LOCK_EX)
    thread = threading.Thread(target=commit, args=(store, 1))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    assert list(home.iterdir()) == []
    os.close(other)
    thread.join()
    assert store.open("arith").scan().collect().height == 1


# disk full


def test_a_full_disk_says_where_and_how_much_and_leaves_the_old_version(store: Store):
    """/dev/full answers every write as a full disk does."""
    old = commit(store)
    before = everything_in(store.root)

    def batches(folder: Path) -> Iterator[list[dict[str, Any]]]:
        (folder / "part-00000.parquet").symlink_to("/dev/full")
        yield rows(2000)

    with (
        pytest.raises(
            DiskFull, match=r"disk full while writing .*/rows/part-00000.parquet: [\d,]+ more bytes .* are free"
        ),
        store.draft("arith") as draft,
    ):
        draft.table("rows", ROWS, batches(draft.path / "rows"))
    assert everything_in(store.root) == before
    assert store.open("arith") == old
    assert not any(p.name.startswith(".draft") for p in (store.root / "arith").iterdir())


FULL = """
import subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
disk = Path(sys.argv[2])
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "none", disk], capture_output=True).returncode:
    sys.exit(77)
import os
from test_store import *
store = Store(disk / "store")
old = commit(store)
before = everything_in(store.root)
noise = lambda n: [dict(row, content=os.urandom(500).hex()) for row in rows(n)]
try:
    with store.draft("arith") as draft:
        draft.table("rows", ROWS, [noise(3000)])
except DiskFull as error:
    print(error)
assert everything_in(store.root) == before and store.open("arith") == old
assert len(list((store.root / "arith").iterdir())) == 2
commit(store, 4)

# room for the tables, not for what is written last
filler = disk / "filler"
with pytest.raises(DiskFull), store.draft("arith") as draft:
    draft.table("rows", ROWS, [rows(5)])
    try:
        filler.write_bytes(b"x" * 2_000_000)
    except OSError:
        pass
    draft.commit(recipe_toml="#" * 100_000, identity={}, manifest={})
filler.unlink()
assert sorted(line.rows for line in store.list()) == [3, 4]
print("intact")
"""


def test_on_a_disk_that_is_really_full_nothing_half_written_stays(tmp_path: Path):
    run = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    if run.returncode == 77 or "unshare" in run.stderr.partition("\n")[0]:
        pytest.skip("this system lets nobody mount a small disk of their own")
    assert run.returncode == 0, run.stderr
    assert "disk full while writing" in run.stdout
    assert "intact" in run.stdout


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(28, "Auf dem Datenträger ist kein Platz"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (pl.exceptions.ComputeError("No space left on device (os error 28)"), True),
        (OSError(13, "Permission denied"), False),
        (ValueError("28"), False),
    ],
)
def test_every_librarys_word_for_a_full_disk_is_known(error: Exception, full: bool):
    assert says_full(error) is full


def test_a_file_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "progress.json"
    write_whole(path, "old")
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["progress.json"]
