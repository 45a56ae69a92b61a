"""The journal: what was put is there, whatever happens to the process, the disk or the file."""

import asyncio
import hashlib
import math
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.schemas.errors import DiskFull, RecipeError
from tracemill.schemas.request import Completion, TokenScores
from tracemill.schemas.rows import Verdict
from tracemill.synth.journal import Journal, JournalStats, codec, files, merge
from tracemill.synth.journal import journal as journal_module
from tracemill.synth.journal import segment as segment_module


def key(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def said(text: object, tokens: int = 3) -> Completion:
    return Completion(text=str(text), finish_reason="stop", n_tokens=tokens, token_ids=array("i", range(tokens)))


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sqlite"))


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def fill(folder: Path, *names: object) -> Path:
    """A sealed segment that holds these."""
    before = set(segments(folder))
    with Journal(folder) as journal:
        for name in names:
            await journal.put(key(name), said(name))
    (segment,) = set(segments(folder)) - before
    return segment


# What goes in comes out

ids = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=200).map(lambda some: array("i", some))
float32 = st.floats(width=32, allow_nan=False)
texts = st.text(st.characters(), max_size=300) | st.text("ab \ud83d", max_size=300)


@st.composite
def token_scores(draw: st.DrawFn) -> TokenScores:
    token_ids = draw(ids)
    size = len(token_ids)
    logprobs = array("f", draw(st.lists(float32, min_size=size, max_size=size)))
    pair = st.tuples(st.integers(0, 2**31 - 1), st.floats(allow_nan=False) | float32)
    tops = st.lists(st.lists(pair, max_size=3).map(tuple), max_size=size).map(tuple)
    return TokenScores(token_ids=token_ids, logprobs=logprobs, top=draw(st.none() | tops))


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    scores = draw(st.none() | token_scores())
    same = st.just(scores.token_ids) if scores is not None else st.none()
    return Completion(
        text=draw(texts),
        finish_reason=draw(st.sampled_from(["stop", "length"])),
        n_tokens=draw(st.integers(0, 2**40)),
        prompt_tokens=draw(st.integers(0, 2**40)),
        token_ids=draw(st.none() | ids | same),
        scores=scores,
    )


verdicts = st.builds(
    Verdict,
    status=st.sampled_from(["equal", "different", "undecided"]),
    reason=st.none() | texts,
    answer=st.none() | texts,
    how=texts,
)


@settings(deadline=None, max_examples=150)
@given(value=completions() | token_scores() | verdicts)
def test_every_field_of_every_kind_comes_back_as_it_was(value: codec.Value) -> None:
    again = codec.decode(codec.encode(value), "its key")
    assert again == (replace(value, key="its key") if isinstance(value, Completion) else value)
    assert type(again) is type(value)


@pytest.mark.parametrize(
    ("kind", "packed", "not_stored"),
    [
        (Completion, codec._Completion, {"key"}),
        (TokenScores, codec._Scores, set()),
        (Verdict, codec._Verdict, set()),
    ],
)
def test_a_field_added_to_the_schema_is_missed_here_before_it_is_lost(
    kind: type, packed: type, not_stored: set[str]
) -> None:
    stored = {field.name for field in msgspec.structs.fields(packed)}
    assert stored == {field.name for field in fields(kind)} - not_stored


def test_infinities_and_nans_of_log_probs_survive() -> None:
    odd = array("f", [-math.inf, math.nan, -0.0, 1e-45])
    scores = TokenScores(token_ids=array("i", range(4)), logprobs=odd, top=(((7, -math.inf), (8, math.nan)),))
    again = codec.decode(codec.encode(scores), "")
    assert isinstance(again, TokenScores)
    assert again.logprobs.tobytes() == odd.tobytes()
    assert again.top is not None
    assert again.top[0][0] == (7, -math.inf)
    assert math.isnan(again.top[0][1][1])


def test_a_long_sample_takes_a_fraction_of_its_bytes() -> None:
    words = random.Random(1).choices(range(5000), weights=[1 / (rank + 1) for rank in range(5000)], k=30_000)
    sample = Completion(
        text="".join(f"{word % 1000:03d} " for word in words),
        finish_reason="stop",
        n_tokens=30_000,
        token_ids=array("i", words),
    )
    assert len(codec.encode(sample)) < 0.45 * (len(sample.text) + 4 * 30_000)


# One journal


@pytest.fixture(params=["in memory", "on disk"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Journal]:
    with Journal(None if request.param == "in memory" else tmp_path / ".journal") as journal:
        yield journal


async def test_get_returns_what_was_put_and_leaves_out_what_was_not(journal: Journal) -> None:
    verdict = Verdict(status="undecided", reason="timeout")
    await journal.put(key(1), said("one"))
    await journal.put(key(2), verdict)
    found = await journal.get([key(2), key(3), key(1)])
    assert found == {key(1): replace(said("one"), key=key(1)), key(2): verdict}
    assert await journal.get([]) == {}
    assert len(journal) == 2


async def test_read_streams_in_the_order_of_its_keys(journal: Journal) -> None:
    await asyncio.gather(*(journal.put(key(i), said(i)) for i in range(400)))
    order = random.Random(2).sample(range(500), 500)
    wanted = iter([key(i) for i in order])
    stream = journal.read(wanted)
    first = next(stream)
    assert len(list(wanted)) > 300  # it has not read ahead by more than a batch
    assert first[0] == next(key(i) for i in order if i < 400)
    assert [k for k, _ in journal.read(map(key, order))] == [key(i) for i in order if i < 400]


async def test_many_puts_are_few_transactions(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        transactions = 0
        append = journal._folder.append

        def counted(entries: Sequence[tuple[bytes, bytes]]) -> None:
            nonlocal transactions
            transactions += 1
            append(entries)

        journal._folder.append = counted  # type: ignore[method-assign]
        await asyncio.gather(*(journal.put(key(i), said(i)) for i in range(2000)))
        assert len(journal) == 2000
        assert transactions < 50


async def test_many_lookups_are_few_selects(journal: Journal) -> None:
    await asyncio.gather(*(journal.put(key(i), said(i)) for i in range(1000)))
    selects = 0
    lookup = journal._folder.lookup

    def counted(keys: Sequence[bytes]) -> dict[bytes, bytes]:
        nonlocal selects
        selects += 1
        return lookup(keys)

    journal._folder.lookup = counted  # type: ignore[method-assign]
    found = await asyncio.gather(*(journal.get([key(i)]) for i in range(1000)))
    assert [list(one) for one in found] == [[key(i)] for i in range(1000)]
    assert selects < 20


async def test_writers_wait_while_the_queue_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "QUEUED_BYTES", 1000)
    with Journal(tmp_path) as journal:
        heaviest = 0
        append = journal._folder.append

        def weighed(entries: Sequence[tuple[bytes, bytes]]) -> None:
            nonlocal heaviest
            heaviest = max(heaviest, len(entries))
            append(entries)

        journal._folder.append = weighed  # type: ignore[method-assign]
        puts = [asyncio.create_task(journal.put(key(i), said("x" * 300, 0))) for i in range(40)]
        await asyncio.sleep(0)
        for put in puts[10:20]:
            put.cancel()  # those who wait for room give their turn away
        await asyncio.gather(*puts, return_exceptions=True)
        await journal.put(key("large"), said("y" * 5000))  # larger than all the room there is
        assert heaviest == 3
        assert len(await journal.get([key(i) for i in (*range(10), *range(20, 40), "large")])) == 31


async def test_one_value_that_cannot_be_stored_harms_no_other(journal: Journal) -> None:
    bad = replace(said("bad"), n_tokens=2**70)
    outcomes = await asyncio.gather(
        journal.put(key(1), said(1)), journal.put(key(2), bad), journal.put(key(3), said(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), OverflowError, type(None)]
    assert set(await journal.get([key(1), key(2), key(3)])) == {key(1), key(3)}


async def test_a_cancelled_put_is_written_whole_or_not_at_all(journal: Journal) -> None:
    puts = [asyncio.create_task(journal.put(key(i), said(i))) for i in range(50)]
    await asyncio.sleep(0)
    for put in puts[::2]:
        put.cancel()
    await asyncio.gather(*puts, return_exceptions=True)
    found = await journal.get([key(i) for i in range(50)])
    assert {key(i) for i in range(1, 50, 2)} <= set(found)
    assert all(value == replace(said(i), key=key(i)) for i in range(50) if (value := found.get(key(i))))


async def test_nothing_runs_on_after_close(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    journal = Journal(tmp_path)
    waiting = asyncio.create_task(journal.put(key(1), said(1)))
    await asyncio.sleep(0)
    journal.close()
    journal.close()
    await waiting  # what was queued is written before close returns
    assert set(threading.enumerate()) == before
    with pytest.raises(RuntimeError, match="closed"):
        await journal.put(key(2), said(2))
    with pytest.raises(RuntimeError, match="closed"):
        await journal.get([key(2)])
    with pytest.raises(RuntimeError, match="closed"):
        list(journal.read([key(2)]))


def test_an_event_loop_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    journal = Journal(tmp_path)

    async def leave() -> None:
        tasks = [asyncio.create_task(journal.put(key(i), said(i))) for i in range(20)]
        await asyncio.sleep(0)
        del tasks

    asyncio.run(leave())
    journal.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("journal")]
    with Journal(tmp_path) as again:
        assert len(list(again.read(map(key, range(20))))) == 20


# One folder, many processes


async def test_everybody_reads_the_union_of_all_segments(tmp_path: Path) -> None:
    await fill(tmp_path, "sealed")
    with Journal(tmp_path) as first:
        await first.put(key("first"), said("first"))
        with Journal(tmp_path) as second:
            await second.put(key("second"), said("second"))
            await first.put(key("later"), said("later"))
            wanted = [key(name) for name in ("sealed", "first", "second", "later")]
            assert set(await second.get(wanted)) == set(wanted)
            assert second.stats().segments == 3
        assert len(segments(tmp_path)) == 3
    with Journal(tmp_path) as third:
        assert set(await third.get(wanted)) == set(wanted)


async def test_a_journal_that_is_only_read_leaves_no_segment(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        assert await journal.get([key(1)]) == {}
        assert journal.stats() == JournalStats(entries=0, bytes=0, segments=0)
    assert segments(tmp_path) == []


async def test_a_closed_segment_is_one_file_without_a_wal(tmp_path: Path) -> None:
    segment = await fill(tmp_path, 1, 2)
    assert listing(tmp_path) == [segment.name, "lock"]


async def test_of_two_answers_everybody_sees_the_same_one_also_after_a_merge(tmp_path: Path) -> None:
    seen = set()
    for order in (["heads", "tails"], ["tails", "heads"]):
        folder = tmp_path / order[0]
        both = [Journal(folder), Journal(folder)]
        for journal, side in zip(both, order, strict=True):
            await journal.put(key("coin"), said(side))
            await journal.put(key("coin"), said(side))
        for journal in both:
            journal.close()
        for merged in (False, True):
            if merged:
                assert merge.copy(segments(folder), folder / "one", lambda: False)
                for segment in segments(folder):
                    segment.unlink()
                (folder / "one").rename(folder / "0.sqlite")
            with Journal(folder) as journal:
                ((_, value),) = journal.read([key("coin")])
                assert isinstance(value, Completion)
                seen.add(value.text)
    with Journal() as journal:
        for side in ("heads", "tails"):
            await journal.put(key("coin"), said(side))
        ((_, value),) = journal.read([key("coin")])
        assert isinstance(value, Completion)
        seen.add(value.text)
    assert len(seen) == 1


WRITER = """
    import asyncio, sys
    from pathlib import Path
    from tracemill.synth.journal import Journal
    from tracemill.schemas.request import Completion

    async def write(journal, worker):
        for number in range(10**9):
            key = f"{worker:032x}{number:032x}"
            await journal.put(key, Completion(text=key * 20, finish_reason="stop", n_tokens=1))
            print(key, flush=True)

    async def main():
        journal = Journal(Path(sys.argv[1]))
        await asyncio.gather(*(write(journal, worker) for worker in range(8)))

    asyncio.run(main())
"""


def written_until_killed(folder: Path, after: float) -> list[str]:
    """The keys whose `put` had returned in a process that was killed so many seconds after its first one."""
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return [line.strip() for line in lines if line.endswith("\n")]


def test_a_killed_process_loses_nothing_that_it_was_told_is_written(tmp_path: Path) -> None:
    keys: list[str] = []
    for instant in (0.0, 0.05, random.Random().uniform(0, 0.3)):
        folder = tmp_path / f"{instant}"
        keys = written_until_killed(folder, instant)
        assert list(folder.glob("*.own"))
        with Journal(folder) as journal:
            assert [k for k, _ in journal.read(keys)] == keys
            assert all(isinstance(v, Completion) and v.text == k * 20 for k, v in journal.read(keys))
        assert not list(folder.glob("*.own"))
        assert len(segments(folder)) == 1


def test_a_torn_wal_costs_only_what_was_torn(tmp_path: Path) -> None:
    written_until_killed(tmp_path, 0.1)
    (wal,) = tmp_path.glob("*.sqlite-wal")
    whole = wal.read_bytes()
    wal.write_bytes(whole[: len(whole) - 5000] + os.urandom(3000))
    with Journal(tmp_path) as journal:
        kept = len(journal)
        assert kept > 0
    with Journal(tmp_path) as journal:
        assert len(journal) == kept


def test_a_living_process_keeps_its_segment(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            seen = process.stdout.readline().strip()
            with Journal(tmp_path) as journal:
                assert [k for k, _ in journal.read([seen])] == [seen]
                later = process.stdout.readline().strip()
                assert [k for k, _ in journal.read([later])] == [later]
            assert list(tmp_path.glob("*.own"))
        finally:
            process.kill()


def test_what_a_crash_before_the_first_entry_leaves_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "01-a.own").touch()
    (tmp_path / "02-b.own").touch()
    (tmp_path / "02-b.sqlite").touch()
    with Journal(tmp_path) as journal:
        assert len(journal) == 0
    assert listing(tmp_path) == ["lock"]


# Merging


def wait_for_merge(folder: Path, at_most: int) -> None:
    while len(segments(folder)) > at_most or list(folder.glob("*.merging")):
        time.sleep(0.01)


async def test_many_segments_become_few_while_the_journal_is_in_use(tmp_path: Path) -> None:
    for number in range(9):
        await fill(tmp_path, number, f"also {number}")
    wanted = [key(number) for number in range(9)]
    with Journal(tmp_path) as bystander, Journal(tmp_path) as journal:
        wait_for_merge(tmp_path, at_most=1)
        assert set(await journal.get(wanted)) == set(wanted)
        assert set(await bystander.get(wanted)) == set(wanted)
    with Journal(tmp_path) as journal:
        assert journal.stats().segments == 1
        assert len(journal) == 18


async def test_a_segment_in_use_is_never_merged(tmp_path: Path) -> None:
    with Journal(tmp_path) as living:
        await living.put(key("living"), said("living"))
        (own,) = segments(tmp_path)
        for number in range(9):
            await fill(tmp_path, number)
        with Journal(tmp_path):
            wait_for_merge(tmp_path, at_most=2)
        assert own in segments(tmp_path)
        await living.put(key("more"), said("more"))
    with Journal(tmp_path) as journal:
        assert len(journal) == 11


async def test_a_merge_killed_before_the_removal_is_finished_by_the_next_to_open(tmp_path: Path) -> None:
    for number in range(3):
        await fill(tmp_path, number)
    sources = segments(tmp_path)
    assert merge.copy(sources, tmp_path / "9.merging", lambda: False)
    shutil.copy(tmp_path / "9.merging", tmp_path / "9.sqlite")
    with Journal(tmp_path) as journal:
        assert len(journal) == 3
        assert segments(tmp_path) == [tmp_path / "9.sqlite"]
        wait_for_merge(tmp_path, at_most=1)


async def test_a_stopped_merge_changes_nothing(tmp_path: Path) -> None:
    for number in range(9):
        await fill(tmp_path, number)
    before = segments(tmp_path)

    def swap(*_: object) -> None:
        raise AssertionError("half a merge was put to use")

    assert not merge.merge(tmp_path, swap, stopping=lambda: True)
    lock = files.FileLock.take(tmp_path / "merge.lock")
    assert lock is not None
    assert not merge.merge(tmp_path, swap)  # another process is at it
    lock.release()
    assert listing(tmp_path) == [*(segment.name for segment in before), "lock", "merge.lock"]


def test_large_segments_are_not_copied_for_the_sake_of_a_small_one(tmp_path: Path) -> None:
    def sized(*megabytes: int) -> list[Path]:
        paths = [tmp_path / f"{number}-{size}" for number, size in enumerate(megabytes)]
        for path, size in zip(paths, megabytes, strict=True):
            with path.open("wb") as file:
                file.truncate(size << 20)
        return paths

    assert merge.choose(sized(*[1] * 8)) == []
    mixed = sized(900, 800, 1000, 1, 700, 2, 600, 3, 500, 30)
    assert [path.name.split("-")[1] for path in merge.choose(mixed)] == ["1", "2", "3"]
    assert merge.choose(sized(*(4**power for power in range(9)))) == []


# A bad disk, a bad file, a bad place


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {mount.stderr.decode().strip()}")
    (disk / "ballast").write_bytes(bytes(700_000))
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_a_full_disk_is_said_to_every_writer_and_costs_nothing_else(small_disk: Path) -> None:
    folder = small_disk / ".journal"
    noise = random.Random(3)
    kept: list[str] = []
    outcomes: list[BaseException | None] = []
    with Journal(folder) as journal:
        while not any(outcomes):
            some = {key(noise.random()): said(noise.randbytes(10_000).hex()) for _ in range(3)}
            outcomes = await asyncio.gather(*(journal.put(*entry) for entry in some.items()), return_exceptions=True)
            kept += [k for k, outcome in zip(some, outcomes, strict=True) if outcome is None]
        assert [type(outcome) for outcome in outcomes] == [DiskFull] * 3
        assert str(folder) in str(outcomes[0])
        assert len(kept) > 3
        assert set(await journal.get(kept)) == set(kept)
        (small_disk / "ballast").unlink()
        await journal.put(key("room"), said("room"))
    with Journal(folder) as journal:
        assert set(await journal.get([*kept, key("room")])) == {*kept, key("room")}


async def test_a_file_size_limit_counts_as_a_full_disk(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(tmp_path) as journal:
        await journal.put(key(1), said(1))
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, before[1]))
        try:
            with pytest.raises(DiskFull, match="quota"):
                await journal.put(key(2), said(random.Random(1).randbytes(500_000).hex()))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        await journal.put(key(3), said(3))
        assert set(await journal.get([key(1), key(2), key(3)])) == {key(1), key(3)}


async def test_a_segment_of_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    segment = await fill(tmp_path, 1)
    with sqlite3.connect(segment) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute(f"PRAGMA user_version = {segment_module.VERSION + 1}")
    db.close()
    with pytest.raises(RecipeError, match=rf"{segment.name} has format 3; .* formats 1 to 2.*Upgrade tracemill"):
        Journal(tmp_path)


@pytest.mark.parametrize("how", ["not SQLite", "empty", "cut", "another database"])
async def test_a_damaged_segment_is_named_with_what_to_do(tmp_path: Path, how: str) -> None:
    segment = await fill(tmp_path, *range(100))
    if how == "not SQLite":
        segment.write_bytes(b"These are not the bytes of a database." * 1000)
    elif how == "empty":
        segment.write_bytes(b"")
    elif how == "cut":
        os.truncate(segment, segment.stat().st_size // 2)
    else:
        segment.unlink()
        with sqlite3.connect(segment) as db:
            db.execute("CREATE TABLE entries (id, key, stored)")
        db.close()
    said_so = pytest.raises(RecipeError, match=rf"{segment.name} is damaged .*Restore the file .* or move it away")
    with said_so, Journal(tmp_path) as journal:
        await journal.get([key(number) for number in range(100)])
    segment.rename(segment.with_suffix(".away"))
    with Journal(tmp_path) as journal:
        assert len(journal) == 0


async def test_a_flipped_bit_is_found_when_it_is_read(tmp_path: Path) -> None:
    segment = await fill(tmp_path, "a sentence that stands in the file as it is")
    data = bytearray(segment.read_bytes())
    data[data.index(b"sentence")] ^= 1
    segment.write_bytes(data)
    with Journal(tmp_path) as journal, pytest.raises(RecipeError, match=rf"{segment.name} is damaged \(checksum"):
        await journal.get([key("a sentence that stands in the file as it is")])


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"cannot be written in .*file.*TRACEMILL_STORE"):
        Journal(tmp_path / "file" / ".journal")


@pytest.mark.parametrize(
    ("kind", "point", "refused"),
    [
        ("nfs4", "/data", True),
        ("cifs", "/data", True),
        ("lustre", "/data", True),
        ("fuse.sshfs", "/data/with\\040space", True),
        ("nfs4", "/elsewhere", False),
        ("ext4", "/data", False),
        ("fuse.fuse-overlayfs", "/data", False),
    ],
)
def test_a_network_file_system_is_refused_with_the_way_out(kind: str, point: str, refused: bool) -> None:
    folder = Path("/data/with space/store/.journal")
    mounts = f"/dev/vda / ext4 rw 0 0\nproc /proc proc rw 0 0\nserver:/x {point} {kind} rw 0 0\n"
    if not refused:
        files.refuse_remote(folder, mounts)
        return
    with pytest.raises(RecipeError, match=rf"{kind}.*TRACEMILL_STORE="):
        files.refuse_remote(folder, mounts)
