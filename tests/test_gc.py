"""`tracemill gc` removes what nothing needs, frees what it says it frees, and never takes anything from anybody."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.test_fsck import journaled
from tests.test_store import commit, edit_manifest, everything_in
from tracemill.pipelines.cli import app
from tracemill.pipelines.store import Dataset, Store
from tracemill.pipelines.versions import gc as collector
from tracemill.pipelines.versions.fsck import fsck
from tracemill.pipelines.versions.gc import Report, gc
from tracemill.schemas.errors import RecipeError
from tracemill.synth.journal import Journal


@pytest.fixture
def store(memory_folder: Path) -> Store:
    return Store(memory_folder / "store")


def gone(report: Report) -> list[str]:
    return [Path(item.path).name for item in report.removed]


def later(n: int) -> dict[str, Any]:
    """The creation time of a version is read from its manifest: tests set it, so that no clock decides."""
    return {"created": f"2026-01-{n:02}T00:00:00.000+00:00"}


def made(store: Store, day: int, *, name: str = "arith", complete: bool = True, **facts: Any) -> Dataset:
    return commit(store, day, name=name, complete=complete, manifest={**later(day), **facts})


def test_a_clean_store_is_left_as_it_is_whatever_it_holds(store: Store):
    made(store, 1)
    made(store, 2)
    made(store, 3, complete=False)
    made(store, 1, name="only-partial", complete=False)
    before = everything_in(store.root)
    assert gc(store.root).removed == []
    assert everything_in(store.root) == before


def test_partial_versions_go_once_a_later_one_is_complete(store: Store):
    old, new = made(store, 1, complete=False), made(store, 4, complete=False)
    made(store, 2)
    assert gone(gc(store.root)) == [old.version]
    assert new.path.is_dir()


def test_keep_takes_the_oldest_and_never_the_latest(store: Store):
    versions = [made(store, day) for day in (1, 2, 3, 4)]
    made(store, 1)  # built again: `latest` is the oldest now
    other = made(store, 1, name="other")
    assert gone(gc(store.root, keep=2)) == [versions[2].version, versions[1].version]
    assert store.open("arith") == versions[0]
    assert gone(gc(store.root, keep=1)) == [versions[3].version]
    assert other.path.is_dir()
    with pytest.raises(RecipeError, match="--keep 0"):
        gc(store.root, keep=0)


def test_what_is_freed_is_what_is_printed_and_shared_files_stay(store: Store):
    made(store, 1)
    made(store, 2)
    commit(store, 1, identity={}, manifest=later(3))  # shares the rows of the first
    before = used(store.root)
    asked = gc(store.root, keep=1, dry_run=True)
    assert used(store.root) == before
    did = gc(store.root, keep=1)
    assert did.removed == asked.removed
    assert len(did.removed) == 2
    assert before - used(store.root) == did.bytes > 0
    assert fsck(store.root).faults == []


def used(root: Path) -> int:
    inodes = {p.stat().st_ino: p.stat().st_size for p in root.rglob("*") if p.is_file() and not p.is_symlink()}
    return sum(inodes.values())


def test_what_dead_processes_left_goes_and_what_living_ones_use_stays(store: Store):
    made(store, 1)
    home = store.root / "arith"
    stale, fresh = store.root / ".probe-old", store.root / ".probe-new"
    stale.touch()
    fresh.touch()
    os.utime(stale, (time.time() - 7200,) * 2)
    (store.work_folder("arith") / "staged/traces").mkdir(parents=True)
    (store.work_folder("arith") / "staged/traces/000000.parquet").write_bytes(b"x" * 500)
    with store.draft("arith") as living:
        for name in (".draft-dead", ".trash-dead"):
            (home / name / "rows").mkdir(parents=True)
            (home / name / "rows/part-00000.parquet").write_bytes(b"x" * 1000)
        report = gc(store.root)
        assert living.path.is_dir()
    assert gone(report) == [".draft-dead", ".trash-dead", "staged", ".probe-old"]
    assert report.bytes == 2500
    assert fresh.exists()


def test_staged_tables_of_a_build_that_runs_stay(store: Store):
    work = store.work_folder("arith")
    (work / "staged").mkdir()
    code = "import fcntl, sys\nf = open(sys.argv[1], 'a')\nfcntl.flock(f, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, work / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as build:
        assert build.stdout is not None
        assert build.stdout.readline() == b"held\n"
        assert gc(store.root).removed == []
        build.kill()
    assert gone(gc(store.root)) == ["staged"]


def test_a_version_that_a_process_holds_stays(store: Store):
    old = made(store, 1)
    made(store, 2)
    reader = Store(store.root)
    reader.hold(old)
    report = gc(store.root, keep=1)
    assert report.removed == []
    assert report.kept == [f"{old.path}: a process is reading it"]
    del reader
    assert gone(gc(store.root, keep=1)) == [old.version]
    with pytest.raises(RecipeError, match="has just been removed"):
        store.hold(old)


def test_a_source_of_a_version_that_stays_stays_and_its_own_sources_too(store: Store):
    first = made(store, 1, name="a")
    second = made(store, 1, name="b", recipe={"source": [{"ref": f"{first}/rows"}, {"path": "x.jsonl"}]})
    made(store, 1, name="c", recipe={"source": [{"ref": f"b@{second.version[:8]}"}]})
    unused = made(store, 2, name="a")
    for name in ("a", "b"):
        made(store, 3, name=name)
    report = gc(store.root, keep=1)
    assert gone(report) == [unused.version]
    assert len(report.kept) == 2
    assert "names it as its source" in report.kept[0]


def test_damaged_versions_and_those_of_newer_releases_are_not_judged(store: Store):
    broken, newer = made(store, 1), made(store, 2)
    made(store, 3)
    edit_manifest(broken, lambda m: m.clear())
    edit_manifest(newer, lambda m: m.update(schema_version=99))
    assert gc(store.root, keep=1).removed == []


def test_a_version_that_becomes_the_latest_while_gc_looks_stays(store: Store, monkeypatch: pytest.MonkeyPatch):
    old = made(store, 1)
    made(store, 2)
    plan = collector._superfluous

    def meanwhile(root: Path, keep: int | None, kept: list[str]) -> Any:
        found = plan(root, keep, kept)
        made(store, 1)  # a build that ends in it again
        return found

    monkeypatch.setattr(collector, "_superfluous", meanwhile)
    report = gc(store.root, keep=1)
    assert report.removed == []
    assert report.kept == [f"{old.path}: a build has just made it the latest"]
    assert store.open("arith") == old


def test_killed_while_removing_the_version_is_whole_or_gone_and_the_next_run_finishes(store: Store):
    old, new = made(store, 1), made(store, 2)
    code = (
        "import os, sys, shutil\nfrom pathlib import Path\nfrom tracemill.pipelines.versions.gc import gc\n"
        "shutil.rmtree = lambda *a, **k: os.kill(os.getpid(), 9)\ngc(Path(sys.argv[1]), keep=1)"
    )
    assert subprocess.run([sys.executable, "-c", code, store.root], check=False).returncode == -9
    assert not old.path.exists()
    assert fsck(store.root).faults == []
    assert [name[:7] for name in gone(gc(store.root))] == [".trash-"]
    assert store.open("arith") == new


def collect_often(root: Path) -> None:
    for _ in range(12):
        gc(root, keep=1)


def commit_often(root: Path) -> None:
    store = Store(root)
    for day in [1, 2, 3] * 2:
        made(store, day)


def test_builds_and_gc_at_once_lose_nothing(store: Store):
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=work, args=(store.root,)) for work in (collect_often, commit_often, commit_often)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(50)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert fsck(store.root, deep=True).faults == []
    assert store.open("arith").scan().collect().height in (1, 2, 3)
    gc(store.root, keep=1)
    assert len(store.list()) == 1


async def test_what_a_killed_merge_left_goes_and_no_answer_with_it(store: Store):
    [one] = await journaled(store, 5)
    (store.journal_folder / "00000000000000000000-aaaaaaaa.merging").write_bytes(b"x" * 100)
    twin = store.journal_folder / "99999999999999999999-bbbbbbbb.sqlite"
    shutil.copy(one, twin)
    with sqlite3.connect(twin) as db:
        db.execute("INSERT INTO sources VALUES (?)", (one.name,))
    db.close()
    assert gone(gc(store.root, dry_run=True)) == [f"{'0' * 20}-aaaaaaaa.merging", one.name]
    assert gone(gc(store.root)) == [f"{'0' * 20}-aaaaaaaa.merging", one.name]
    assert [path.name for path in store.journal_folder.glob("*.*") if "lock" not in path.name] == [twin.name]
    with Journal(store.journal_folder) as journal:
        assert len(journal) == 5


def test_the_command_says_what_it_would_free_and_its_json_too(store: Store):
    made(store, 1, complete=False)
    made(store, 2)

    def run(*args: str) -> str:
        done = CliRunner().invoke(app, ["gc", *args, "--store", str(store.root)])
        assert done.exit_code == 0, done.output
        return done.stdout

    said = run("--dry-run").splitlines()
    assert said[0].startswith("would remove  ")
    assert said[-1].startswith("would free ")
    assert said[-1].endswith(" 1 things to remove")
    facts = json.loads(run("--json"))
    assert facts["bytes"] > 0
    assert facts["removed"][0]["why"] == "partial, and a later version is complete"
    assert run() == "freed 0 bytes, nothing removed\n"
