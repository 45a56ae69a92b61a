"""Shards in any process on any machine, on any day, and any number of them: gathered they are the version of one process."""

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from tests.conftest import solve
from tests.test_build import Counted
from tests.test_laws import METHODS, table_of
from tracemill.pipelines.asking.screens import status_lines
from tracemill.pipelines.build import build
from tracemill.pipelines.running.segments import Segments
from tracemill.pipelines.running.spool import Spool
from tracemill.pipelines.scale.shard_work import Shard, locked_shard, locked_work
from tracemill.pipelines.scale.shards import build_shard, gather
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import (
    LockHeld,
    RecipeError,
    SegmentsLost,
    ShardsMissing,
    TooManyFailures,
)
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Completion, Request
from tracemill.schemas.rows import shard_of
from tracemill.synth.journal import Journal

Make = Callable[..., Recipe]


def shards(recipe: Recipe, store: Store, of: int, reply=solve, only=None) -> list:
    return [
        build_shard(recipe, store, Shard(of, number), reply=reply) for number in (range(of) if only is None else only)
    ]


QUICK = ("sample", "mixchain", "step_tree", "hints", "code_plan")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name, case in METHODS.items()
        if case.samples
    ],
)
def test_shards_of_every_method_gather_into_the_version_of_one_process(method: str, tmp_path: Path):
    recipe, reply = table_of(method, tmp_path), METHODS[method].reply
    one = build(recipe, Store(tmp_path / "one"), reply=reply)
    counted = Counted(reply)
    store = Store(tmp_path / "store")
    done = shards(recipe, store, 3, counted)
    gathered = gather(recipe, store, reply=counted)
    assert gathered.dataset.version == one.dataset.version
    assert sum(shard.tally.meter.samples_new for shard in done) == one.tally.meter.samples_new
    assert len(counted.asked) == len({request.key for request in counted.asked})
    assert not (store.work_folder(recipe.name) / "shards").exists()


def test_a_problem_is_in_one_shard_and_the_database_agrees_which(recipe: Make, store: Store, tmp_path: Path):
    build(recipe(), store, reply=solve)
    whole = store.work_folder("sums") / "spool.sqlite"
    for of in (1, 2, 3, 7, 64):
        for number in range(of):
            with Spool(whole) as all_of_it, all_of_it.of_shard(tmp_path / "own.sqlite", number, of) as spool:
                ids = [problem.problem_id for problem in spool.problems()]
                assert spool.count_problems() == len(ids)
            assert ids == [f for f in ids if shard_of(f, of) == number]
            assert len(ids) == sum(shard_of(f"p{i:02}", of) == number for i in range(20))


def test_gathering_too_early_names_the_shards_and_the_command(recipe: Make, store: Store):
    shards(recipe(), store, 3, only=[0, 2])
    lacking = sum(shard_of(f"p{i:02}", 3) == 1 for i in range(20))
    with pytest.raises(ShardsMissing) as refused:
        gather(recipe(), store, called="sums.toml", reply=solve)
    assert str(refused.value) == (
        f"{lacking} of 20 problems have no outcome yet; nothing is committed\n"
        f"  shard 1/3: {lacking} of {lacking} problems\n"
        "run: tracemill build sums.toml --shard i/3, with i in 1; then gather again"
    )
    assert refused.value.exit_code == 4
    assert not list(store.root.glob("sums/*/manifest.json"))


def test_gathering_too_early_elsewhere_names_the_shards_of_the_segments(recipe: Make, tmp_path: Path):
    meet = {"kind": "scripted", "segments": str(tmp_path / "meet")}
    for number in (0, 2):
        shards(recipe(engine=meet), Store(tmp_path / f"node{number}"), 3, only=[number])
    for _ in range(2):  # the second time the segments are here, merged
        with pytest.raises(ShardsMissing, match=r"--shard i/3, with i in 1; then gather again"):
            gather(recipe(engine=meet), Store(tmp_path / "head"), called="sums.toml", reply=solve)


def test_gathering_what_was_never_sharded_names_the_build(recipe: Make, store: Store):
    with pytest.raises(ShardsMissing, match=r"no shards have run.*; run: tracemill build sums.toml$"):
        gather(recipe(), store, called="sums.toml", reply=solve)


def test_a_mix_is_decided_over_whole_sources_whatever_the_shard(tmp_path: Path):
    for name, count in (("a", 40), ("b", 30)):
        lines = [json.dumps({"id": f"{name}{i}", "question": f"{i} + 1?", "answer": str(i + 1)}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    mixed = parse_recipe(
        {
            "name": "mixed",
            "source": [
                {"path": str(tmp_path / "a.jsonl"), "weight": 2.0, "cap": 20},
                {"path": str(tmp_path / "b.jsonl"), "weight": 1.0},
            ],
            "model": {"name": "m", "max_tokens": 64},
            "engine": {"kind": "scripted"},
            "synth": {"use": "sample", "n": 2},
        }
    )
    one = build(mixed, Store(tmp_path / "one"), reply=solve).dataset
    done = shards(mixed, Store(tmp_path / "store"), 3)
    assert sum(shard.tally.total for shard in done) == 30 == one.scan("problems").collect().height
    assert gather(mixed, Store(tmp_path / "store"), reply=solve).dataset.version == one.version


def test_another_number_of_shards_samples_nothing_twice(recipe: Make, store: Store, tmp_path: Path):
    first, second = Counted(), Counted()
    shards(recipe(), store, 3, first, only=[0, 1])
    shards(recipe(), store, 2, second)
    gathered = gather(recipe(), store)
    keys = [request.key for request in (*first.asked, *second.asked)]
    assert len(keys) == len(set(keys)) == 80
    assert gathered.dataset.version == build(recipe(), Store(tmp_path / "one"), reply=solve).dataset.version


@pytest.mark.parametrize("shared", [False, True], ids=["one disk", "disks apart"])
def test_what_failed_in_a_shard_failed_in_the_version_and_is_not_asked_again(
    shared: bool, recipe: Make, tmp_path: Path
):
    """A refused request leaves nothing in the journal that another machine could fail of."""
    faulty = {"kind": "scripted", "args": {"refuse": 0.02}}
    one = build(recipe(engine=faulty), Store(tmp_path / "one"), reply=solve)
    assert 0 < one.tally.failed < 10
    if not shared:
        place = Store(tmp_path / "store")
        shards(recipe(engine=faulty), place, 2)
        gathered = gather(recipe(engine=faulty), place)
    else:
        faulty |= {"segments": str(tmp_path / "shared")}
        for number in range(2):
            shards(recipe(engine=faulty), Store(tmp_path / f"node{number}"), 2, only=[number])
        gathered = gather(recipe(engine=faulty), Store(tmp_path / "head"))
    assert gathered.tally.failed == one.tally.failed
    assert gathered.dataset.version == one.dataset.version


def test_what_failed_is_tried_again_by_the_next_run_of_its_shard(recipe: Make, store: Store, tmp_path: Path):
    shards(recipe(engine={"kind": "scripted", "args": {"refuse": 0.02}}), store, 2)
    again = Counted()
    shards(recipe(), store, 2, again)
    assert again.asked
    whole = build(recipe(), Store(tmp_path / "one"), reply=solve)
    assert gather(recipe(), store).dataset.version == whole.dataset.version


def test_failures_of_all_shards_together_are_held_against_tolerate(recipe: Make, store: Store):
    engine = {"kind": "scripted", "args": {"refuse": 0.08}}
    failed = [shard.tally.failed for shard in shards(recipe(engine=engine), store, 4)]
    assert max(failed) < sum(failed)
    with pytest.raises(TooManyFailures, match=rf"{sum(failed)} problems failed"):
        gather(recipe(engine=engine, tolerate=sum(failed) - 1), store)
    assert gather(recipe(engine=engine, tolerate=sum(failed)), store).tally.failed == sum(failed)


def test_problem_filters_see_the_same_columns_in_every_shard(recipe: Make, store: Store, tmp_path: Path):
    """A column of numbers among which one problem has a word is text, in shards that do not have that problem too."""
    rows = [{"id": f"p{i:02}", "question": f"{i} + {i % 3}?", "answer": str(i + i % 3), "grade": i} for i in range(20)]
    rows[0]["grade"] = "none"
    (tmp_path / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keep = [{"use": "where", "sql": "grade < '3'"}]
    graded = recipe(source={"path": str(tmp_path / "graded.jsonl"), "keep": keep})
    one = build(graded, Store(tmp_path / "one"), reply=solve)
    shards(graded, store, 4)
    assert gather(graded, store).dataset.version == one.dataset.version


@pytest.mark.parametrize("limit", [{"tokens": 50}, {"accepted_rows": 3}, {"wall": 9.0}, {"gpu_hours": 1.0}])
def test_a_budget_and_shards_are_refused_with_the_reason(limit: dict, recipe: Make, store: Store):
    with pytest.raises(RecipeError, match=rf"budget.{next(iter(limit))}.*does not know what the others spend"):
        shards(recipe(budget=limit), store, 2)


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "a/b", "1/0", "0/1000000", ""])
def test_a_shard_that_is_none_is_refused(text: str):
    with pytest.raises(RecipeError, match="write i/N with i from 0 to N - 1"):
        Shard.parse(text)


def test_a_shard_runs_once_at_a_time_and_beside_others_of_its_number_only(store: Store):
    work = store.work_folder("sums")
    with locked_shard(work, "sums", Shard(3, 0)), locked_shard(work, "sums", Shard(3, 1)):
        with pytest.raises(LockHeld, match="shard 0/3 of 'sums' is running"), locked_shard(work, "sums", Shard(3, 0)):
            pass
        with pytest.raises(LockHeld, match=r"0/3, 1/3 run in this store"), locked_shard(work, "sums", Shard(2, 0)):
            pass
        with pytest.raises(LockHeld, match=r"shards of 'sums' are running in this store \(0/3, 1/3\)"):
            locked_work(work, "sums").__enter__()
    refused = pytest.raises(LockHeld, match="a build of 'sums' is running")
    with locked_work(work, "sums"), refused, locked_shard(work, "sums", Shard(3, 0)):
        pass


def test_status_shows_shards_that_have_problems_left(recipe: Make, store: Store):
    from tracemill.pipelines.running.progress import ProgressFile
    from tracemill.schemas.errors import EngineLost

    lost = recipe(engine={"kind": "scripted", "args": {"lose_after": 5}})
    place = Shard(2, 1).folder(store.work_folder("sums"))
    with pytest.raises(EngineLost):
        build_shard(lost, store, Shard(2, 1), reply=solve, report=ProgressFile(place))
    head, line = status_lines(store, None)
    assert head == "sums: shards only"
    assert line.startswith("  shard 1/2: stopped, resumable (sampling), ")


# ---- segments


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/shared" if request.param == "file" else f"memory://{tmp_path.name}-shared"


def at(url: str, **engine) -> dict:
    return {"kind": "scripted", "segments": url, **engine}


def names(url: str) -> list[str]:
    fs, base = fsspec.core.url_to_fs(url)
    return sorted(str(path).rpartition("/")[2] for path in fs.ls(base, detail=False))


def test_a_machine_samples_nothing_that_another_has_sent(url: str, recipe: Make, tmp_path: Path):
    counted = Counted()
    shards(recipe(engine=at(url)), Store(tmp_path / "a"), 3, counted, only=[0, 1])
    shards(recipe(engine=at(url)), Store(tmp_path / "b"), 2, counted)
    again = shards(recipe(engine=at(url)), Store(tmp_path / "c"), 5, counted)
    assert len(counted.asked) == len({request.key for request in counted.asked}) == 80
    assert all(shard.sent == 0 for shard in again)  # what came from there is not sent back
    gathered = gather(recipe(engine=at(url)), Store(tmp_path / "d"))
    assert gathered.dataset.version == build(recipe(), Store(tmp_path / "one"), reply=solve).dataset.version
    assert "segments" not in (gathered.dataset.path / "recipe.toml").read_text()


def test_segments_are_fetched_once_and_those_that_cannot_matter_not_at_all(recipe: Make, tmp_path: Path):
    url = str(tmp_path / "shared")
    shards(recipe(engine=at(url)), Store(tmp_path / "a"), 4)
    folder = Store(tmp_path / "b").journal_folder
    for shard, expected in (((1, 4), 1), ((1, 2), 1), ((1, 2), 0), (None, 1), (None, 0), ((0, 3), 0)):
        segments = Segments(url, folder, every=300, shard=shard)
        segments.begin()
        assert segments.fetched == expected, (
            shard
        )  # 1 of 2 needs 1 and 3 of 4, and has 1; the whole needs 0 of 4; 2 of 4 has no problem


async def test_merged_segments_are_not_sent_again(tmp_path: Path):
    folder, url = tmp_path / "journal", str(tmp_path / "shared")
    segments = Segments(url, folder, every=300)
    folder.mkdir()
    segments.begin()
    with Journal(folder) as journal:
        for number in range(30):
            await journal.put(
                f"{number:064x}", Completion(text=f"said {number}", finish_reason="stop", n_tokens=2, prompt_tokens=1)
            )
            await segments._pass_on(journal)
            if number % 10 == 9:
                await asyncio.sleep(0.2)  # the merge has a thread of its own
    assert segments.sent == 30
    assert len(list(folder.glob("*.sqlite"))) < 30
    later = Segments(url, folder, every=300)
    later.begin()
    assert (later.sent, later.fetched) == (0, 0)
    other = Segments(url, tmp_path / "other", every=300)
    (tmp_path / "other").mkdir()
    other.begin()
    with Journal(tmp_path / "other") as journal:
        assert len(list(journal.read(f"{number:064x}" for number in range(30)))) == 30


async def test_segments_go_while_the_run_goes_on(tmp_path: Path):
    folder, url = tmp_path / "journal", str(tmp_path / "shared")
    folder.mkdir()
    segments = Segments(url, folder, every=0.05)
    segments.begin()
    with Journal(folder, mark="0of2") as journal:
        async with segments.shipping(journal):
            await journal.put("0" * 64, Completion(text="first", finish_reason="stop", n_tokens=1, prompt_tokens=1))
            while not names(url):  # noqa: ASYNC110 - a thread writes it
                await asyncio.sleep(0.02)
            await journal.put("1" * 64, Completion(text="second", finish_reason="stop", n_tokens=1, prompt_tokens=1))
        assert set(await journal.get(["0" * 64, "1" * 64])) == {"0" * 64, "1" * 64}
    assert segments.sent == 2
    assert all("-0of2.sqlite" in name for name in names(url))


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_a_damaged_segment_is_named_and_never_used(how: str, recipe: Make, tmp_path: Path):
    url = tmp_path / "shared"
    shards(recipe(engine=at(str(url))), Store(tmp_path / "a"), 1)
    [segment] = url.glob("*.sqlite")
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content[:-5] if how == "cut" else content)
    if how == "gone":
        segment.unlink()
    fresh = Counted()
    with pytest.raises(RecipeError, match=rf"segment {segment.name} in .*shared is damaged.*sends it again"):
        build(recipe(engine=at(str(url))), Store(tmp_path / "b"), reply=fresh)
    assert not fresh.asked
    Path(f"{segment}.json").unlink()  # as the message says
    shards(recipe(engine=at(str(url))), Store(tmp_path / "a"), 1)
    build(recipe(engine=at(str(url))), Store(tmp_path / "b"), reply=fresh)
    assert not fresh.asked


KILLED = """
import os, signal, sys
from pathlib import Path
from fsspec.implementations.local import LocalFileSystem
from tests.conftest import solve
from tracemill.pipelines.scale.shard_work import Shard
from tracemill.pipelines.scale.shards import build_shard
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import load_recipe

def die(self, source, target, *rest, **options):
    data = source if isinstance(source, bytes) else Path(source).read_bytes() if Path(source).exists() else target
    place = target if not isinstance(target, bytes) else source
    Path(place).write_bytes(data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

setattr(LocalFileSystem, sys.argv[1], die)
build_shard(load_recipe(Path(sys.argv[2])), Store(Path(sys.argv[3])), Shard(1, 0), reply=solve)
"""


@pytest.mark.parametrize("step", ["put_file", "pipe_file"])
def test_killed_half_way_through_sending_a_segment(step: str, recipe: Make, tmp_path: Path):
    """SIGKILL with half of the segment, or half of its mark, there: nobody takes it for whole, and the next run sends it."""
    from tracemill.pipelines.recipes.toml import to_toml

    url = tmp_path / "shared"
    made = recipe(engine=at(str(url)))
    (tmp_path / "recipe.toml").write_text(to_toml(made.model_dump(mode="json", exclude_unset=True)))
    command = [sys.executable, "-c", KILLED, step, str(tmp_path / "recipe.toml"), str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(names(str(url))) == (1 if step == "put_file" else 2)
    with pytest.raises(ShardsMissing):
        gather(made, Store(tmp_path / "b"))
    counted = Counted()
    [shard] = shards(made, Store(tmp_path / "a"), 1, counted)
    assert (counted.asked, shard.sent) == ([], 1)
    assert gather(made, Store(tmp_path / "b")).tally.meter.samples_replayed == 80


def test_a_place_that_stops_answering_stops_no_sampling_and_ends_resumable(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from fsspec.implementations.local import LocalFileSystem

    url, put = str(tmp_path / "shared"), LocalFileSystem.put_file

    def refuse(*_: object, **__: object) -> None:
        raise OSError("503 Slow Down https://user:secret@host/x?signature=abc")

    monkeypatch.setattr(LocalFileSystem, "put_file", refuse)
    with pytest.raises(SegmentsLost, match=r"503 Slow Down.*it sends what is left") as lost:
        shards(recipe(engine=at(url)), Store(tmp_path / "a"), 1)
    assert lost.value.exit_code == 3
    assert "secret" not in str(lost.value)
    built = build(recipe(name="other", engine=at(str(tmp_path / "more"))), Store(tmp_path / "c"), reply=solve)
    assert "do not reach" in built.notes[0]  # a build has its version all the same
    monkeypatch.setattr(LocalFileSystem, "put_file", put)
    counted = Counted()
    shards(recipe(engine=at(url)), Store(tmp_path / "a"), 1, counted)
    assert not counted.asked
    assert gather(recipe(engine=at(url)), Store(tmp_path / "b")).tally.meter.samples_replayed == 80


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ({"segments": "nosuch://x"}, "engine.segments = 'nosuch://x'"),
        ({"segments": "/proc/nowhere"}, "engine.segments = '/proc/nowhere'"),
        ({"ship_every": 5.0}, "ship_every means nothing without segments"),
    ],
)
def test_a_place_that_cannot_be_used_is_refused_before_anything_is_asked(
    engine: dict, says: str, recipe: Make, store: Store
):
    counted = Counted()
    with pytest.raises(RecipeError, match=says):
        build(recipe(engine={"kind": "scripted", **engine}), store, reply=counted)
    assert not counted.asked


def test_two_places_for_one_journal_are_refused(recipe: Make, store: Store):
    models = {"solver": {"name": "a", "max_tokens": 9}, "judge": {"name": "b", "max_tokens": 9}}
    engines = {name: at(f"memory://{name}") for name in models}
    table = recipe().model_dump(mode="json", exclude_unset=True) | {"models": models, "engines": engines}
    with pytest.raises(RecipeError, match="several places"):
        build(parse_recipe(table), store, reply=solve)


# ---- side by side


def _work(recipe: Recipe, root: Path, number: int, of: int) -> None:
    build_shard(recipe, Store(root), Shard(of, number), reply=slow)


def slow(request: Request) -> str:
    time.sleep(0.002)
    with Path(os.environ["ASKED"]).open("a") as log:
        log.write(request.key + "\n")
    return solve(request)


@pytest.mark.slow
def test_shards_work_side_by_side_in_one_store(
    recipe: Make, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    context = multiprocessing.get_context("spawn")
    work = [context.Process(target=_work, args=(recipe(), store.root, number, 3)) for number in range(3)]
    for process in work:
        process.start()
    for process in work:
        process.join()
        assert process.exitcode == 0
    keys = (tmp_path / "asked").read_text().split()
    assert len(keys) == len(set(keys)) == 80
    gathered = gather(recipe(), store)
    assert gathered.dataset.version == build(recipe(), Store(tmp_path / "one"), reply=solve).dataset.version


def test_a_clock_that_is_set_back_changes_nothing(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every look at the wall clock finds it an hour further back."""
    began, looks = time.time_ns(), iter(range(10**9))
    monkeypatch.setattr(time, "time_ns", lambda: began - next(looks) * 3600 * 10**9)
    monkeypatch.setattr(time, "time", lambda: began / 1e9 - next(looks) * 3600)
    url, counted = str(tmp_path / "shared"), Counted()
    for number in range(3):
        shards(recipe(engine=at(url, ship_every=0.01)), Store(tmp_path / f"{number}"), 3, counted, only=[number])
    gathered = gather(recipe(engine=at(url)), Store(tmp_path / "head"))
    assert len(counted.asked) == 80
    assert gathered.tally.meter.samples_replayed == 80
