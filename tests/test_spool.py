"""The spool: problems in draw order, one an id, whole or absent; outcomes that outlive a kill."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tracemill.pipelines.reading.sources import SourceProblem, SourceRejection
from tracemill.pipelines.running.spool import IngestCounts, Spool
from tracemill.schemas.errors import DiskFull, RecipeError
from tracemill.schemas.rows import Given, Problem, draw


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "work" / "spool.sqlite"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    with Spool(path) as opened:
        yield opened


def row(problem_id: str, question: str = "6 * 7?", number: int = 1, **fields: Any) -> SourceProblem:
    return SourceProblem(problem=Problem(problem_id=problem_id, question=question, **fields), row_number=number)


def refused(number: int, reason: str = "not_json") -> SourceRejection:
    return SourceRejection(source=0, row_number=number, reason=reason, evidence={"row_number": number}, row='"{"')


def ids(spool: Spool) -> list[str]:
    return [problem.problem_id for problem in spool.problems()]


def reopened(path: Path) -> Spool:
    return Spool(path)


# ---- problems


def test_problems_come_back_as_they_went_in_and_in_draw_order(spool: Spool) -> None:
    given = [
        row(f"p{number}", number=number, gold=str(number), meta={"level": number, "x": None, "r": 0.5})
        for number in range(2000)
    ]
    given[7] = row(
        "p7", "x" * 100_000, messages=({"role": "user", "content": "q"},), tools=({"f": [1]},), options=("a",)
    )
    counts = spool.ingest("key", given)
    assert counts == IngestCounts(rows=2000, problems=2000, rejected=0, collapsed=0)
    assert list(spool.problems()) == sorted(
        (one.problem for one in given), key=lambda problem: draw(problem.problem_id)
    )


def test_problems_are_read_again_only_for_other_sources(path: Path, spool: Spool) -> None:
    assert not spool.has_problems("key")
    assert spool.ingest_counts() is None
    counts = spool.ingest("key", [row("a"), refused(2)])
    spool.close()
    with reopened(path) as later:
        assert later.has_problems("key")
        assert not later.has_problems("other key")
        assert later.ingest_counts() == counts == IngestCounts(rows=2, problems=1, rejected=1, collapsed=0)
        later.ingest("other key", [row("b")])
        assert ids(later) == ["b"]
        assert list(later.source_rejections()) == []


def test_a_source_that_fails_in_the_middle_changes_nothing(spool: Spool) -> None:
    def failing() -> Iterator[SourceProblem]:
        yield from (row(f"new{number}") for number in range(5000))
        raise RecipeError("line 5001 is not UTF-8")

    spool.ingest("key", [row("a"), refused(2)])
    with pytest.raises(RecipeError, match="5001"):
        spool.ingest("other key", failing())
    assert spool.has_problems("key")
    assert ids(spool) == ["a"]
    assert len(list(spool.source_rejections())) == 1


def test_problems_can_be_walked_while_outcomes_are_written(spool: Spool) -> None:
    spool.ingest("key", [row(f"p{number}") for number in range(1500)])

    async def work() -> None:
        for problem in spool.problems():
            await spool.put_outcome(problem.problem_id, "k", problem.problem_id.encode())

    asyncio.run(work())
    assert list(spool.outcomes()) == sorted((f"p{number}", f"p{number}".encode()) for number in range(1500))


def test_refused_rows_come_back_in_source_order(spool: Spool) -> None:
    rows = [refused(1), row("a", number=2), refused(3), row("a", "other", number=4), refused(5)]
    spool.ingest("key", rows)
    assert [one.row_number for one in spool.source_rejections()] == [1, 3, 4, 5]
    assert next(spool.source_rejections()) == refused(1)


# ---- duplicates

SAME: dict[str, tuple[SourceProblem, SourceProblem]] = {
    "the same row twice": (row("a"), row("a", number=2)),
    "another source, licence and columns for filters": (
        row("a", licence="MIT", source="x"),
        row("a", licence="unknown", source="y", source_index=1, meta={"idx": 1}),
    ),
    "white space in the question": (row("a", "6 * 7?"), row("a", "6  *\n7? ")),
    "composed and decomposed": (row("caf\u00e9", "caf\u00e9?"), row("cafe\u0301", "cafe\u0301?")),
    "case of the id": (row("AIME-1"), row("aime-1")),
    "white space in the id": (row("AIME 1"), row(" AIME\u00a0 1")),
}
DIFFERENT: dict[str, tuple[SourceProblem, SourceProblem, list[str]]] = {
    "question": (row("a", "6 * 7?"), row("a", "8 * 9?"), ["question"]),
    "gold": (row("a", gold="42"), row("a", gold="43"), ["gold"]),
    "gold is missing": (row("a", gold="42"), row("a"), ["gold"]),
    "response and gold": (
        row("a", gold="1", responses={"r": "x"}),
        row("a", gold="2", responses={"r": "y"}),
        ["gold", "responses"],
    ),
    "a response and none": (row("a", responses={"r": "x"}), row("a"), ["responses"]),
    "a twin": (row("caf\u00e9", gold="1"), row("CAFE\u0301", gold="2"), ["problem_id", "gold"]),
}


@pytest.mark.parametrize("case", SAME)
def test_rows_that_say_the_same_collapse_into_the_first(case: str, spool: Spool) -> None:
    first, second = SAME[case]
    counts = spool.ingest("key", [first, second, row("b")])
    assert counts == IngestCounts(rows=3, problems=2, rejected=0, collapsed=1)
    assert first.problem in list(spool.problems())


@pytest.mark.parametrize("case", DIFFERENT)
def test_rows_that_disagree_are_rejected_for_the_first(case: str, spool: Spool) -> None:
    first, second, differs = DIFFERENT[case]
    later = SourceProblem(problem=second.problem, row_number=3, file="part-2")
    counts = spool.ingest("key", [first, row("b"), later, later])
    assert counts == IngestCounts(rows=4, problems=2, rejected=2, collapsed=0)
    assert first.problem in list(spool.problems())
    conflict = next(spool.source_rejections())
    assert (conflict.reason, conflict.row_number, conflict.problem_id) == (
        "conflicting_duplicate",
        3,
        second.problem.problem_id,
    )
    assert conflict.evidence["first_row"] == 1
    assert conflict.evidence["first_id"] == first.problem.problem_id
    assert conflict.evidence["differs"] == differs
    assert second.problem.question in conflict.row


def test_rows_of_one_problem_bring_a_trace_each_and_a_repeated_one_collapses(spool: Spool) -> None:
    texts = ["x", "y", "x", "z", "y"]
    rows = [row("a", number=number, responses={"r": text}) for number, text in enumerate(texts, start=1)]
    counts = spool.ingest("key", [*rows, row("b"), row("a", "8 * 9?", 9, responses={"r": "w"})])
    assert counts == IngestCounts(rows=7, problems=2, rejected=1, collapsed=2, merged=2)
    merged = next(problem for problem in spool.problems() if problem.problem_id == "a")
    assert merged.responses == {"r[0]": "x", "r[1]": "y", "r[2]": "z"}
    assert (merged.question, merged.given) == ("6 * 7?", {})
    assert spool.rows_by_source() == {0: 7}


def test_a_trace_keeps_the_name_and_the_licence_that_it_brings(spool: Spool) -> None:
    def one(name: str, text: str, source: int, licence: str) -> SourceProblem:
        given = {name: Given(named=True, columns={"score": source})}
        about = {"source": f"s{source}", "source_index": source, "licence": licence}
        return row("a", responses={name: text}, given=given, number=source + 1, **about)

    rows = [one("x", "1", 0, "MIT"), one("y", "2", 1, "unknown"), one("x", "3", 1, "unknown")]
    counts = spool.ingest("key", rows)
    assert counts == IngestCounts(rows=3, problems=1, rejected=1, collapsed=0, merged=1)
    [problem] = spool.problems()
    assert problem.responses == {"x": "1", "y": "2"}
    assert problem.given["x"] == Given(named=True, columns={"score": 0})
    assert problem.given["y"] == Given(named=True, source="s1", licence="unknown", columns={"score": 1})
    [lost] = spool.source_rejections()
    assert (lost.reason, lost.evidence["trace"], lost.evidence["first_row"]) == ("duplicate_trace", "x", 1)


def test_what_a_cut_leaves_out_is_there_when_asked_for(spool: Spool) -> None:
    spool.ingest("key", [row(f"p{number}", source_index=number % 2) for number in range(600)])
    everything, place = list(spool.problems()), 100
    cut = spool.draw_at(1, place)
    spool.admit({1: cut})
    admitted = [p for p in everything if p.source_index == 0 or draw(p.problem_id) <= cut]
    assert list(spool.problems()) == admitted
    assert (spool.count_problems(), spool.count_problems(source=1), len(admitted)) == (400, place, 400)
    assert list(spool.problems(left_out_too=True)) == everything
    assert spool.count_problems(left_out_too=True) == 600
    spool.admit({})
    assert spool.count_problems() == 600


def test_who_wins_among_many_duplicates_is_the_order_of_the_sources_alone(spool: Spool) -> None:
    chance = random.Random(7)
    rows = [row(f"p{chance.randrange(300)}", str(chance.randrange(2)), number) for number in range(1, 3001)]
    counts = spool.ingest("key", rows)
    first: dict[str, SourceProblem] = {}
    same = 0
    for one in rows:
        same += (
            one is not first.setdefault(one.problem.problem_id, one)
            and one.problem == first[one.problem.problem_id].problem
        )
    assert {problem.problem_id: problem for problem in spool.problems()} == {
        key: one.problem for key, one in first.items()
    }
    assert counts == IngestCounts(rows=3000, problems=len(first), collapsed=same, rejected=3000 - len(first) - same)


# ---- outcomes


async def test_an_outcome_is_found_under_its_key_at_once_and_later(path: Path, spool: Spool) -> None:
    payload = os.urandom(100) + b"text " * 1000
    await spool.put_outcome("a", "key", payload)
    assert spool.get_outcome("a", "key") == payload
    await spool.flush()
    assert spool.get_outcome("a", "key") == payload
    assert spool.get_outcome("a", "other key") is None
    assert spool.get_outcome("b", "key") is None
    spool.close()
    with reopened(path) as later:
        assert later.get_outcome("a", "key") == payload


async def test_a_run_gives_the_outcomes_that_it_put_or_took_and_no_others(path: Path, spool: Spool) -> None:
    for problem_id in ("a", "b", "c", "ä"):
        await spool.put_outcome(problem_id, "key", b"first run")
    assert [problem_id for problem_id, _ in spool.outcomes()] == ["a", "b", "c", "ä"]
    spool.close()
    with reopened(path) as later:
        assert list(later.outcomes()) == []
        assert later.get_outcome("c", "key") == b"first run"
        assert later.get_outcome("b", "changed key") is None
        await later.put_outcome("a", "changed key", b"second run")
        assert list(later.outcomes()) == [("a", b"second run"), ("c", b"first run")]
        assert later.count_outcomes() == 2


async def test_the_last_outcome_of_a_problem_stands(spool: Spool) -> None:
    for number in range(50):
        await spool.put_outcome("a", f"key {number}", str(number).encode())
    assert list(spool.outcomes()) == [("a", b"49")]


async def test_outcomes_wait_for_the_disk_and_none_is_lost(path: Path) -> None:
    with Spool(path, queue_bytes=10_000) as spool:
        payloads = {f"p{number}": os.urandom(3000 + number) for number in range(200)} | {
            "larger than the queue": b"x" * 50_000
        }
        async with asyncio.TaskGroup() as tasks:
            for problem_id, payload in payloads.items():
                tasks.create_task(spool.put_outcome(problem_id, "key", payload))
        assert dict(spool.outcomes()) == payloads


@pytest.mark.filterwarnings("error")
def test_closing_twice_and_closing_unused_are_fine(spool: Spool) -> None:
    spool.close()
    spool.close()


# ---- what can happen to the file


@pytest.mark.parametrize(
    "content", [b"not a database, but a long enough text to be read as the header of one" * 20, b""]
)
def test_a_file_that_is_no_spool_is_begun_anew(content: bytes, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with Spool(path) as spool:
        spool.ingest("key", [row("a")])
        assert ids(spool) == ["a"]


def test_a_spool_of_another_version_is_begun_anew(path: Path, spool: Spool) -> None:
    import sqlite3

    spool.ingest("key", [row("a")])
    spool.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 999")
    db.close()
    with reopened(path) as later:
        assert not later.has_problems("key")


async def test_a_full_disk_is_said_to_be_one_and_keeps_what_was_there(path: Path) -> None:
    with Spool(path) as spool:
        spool.ingest("key", [row("a")])
        limit = spool._read.execute("PRAGMA page_count").fetchone()[0] + 20
        with spool._writer.transaction() as db:
            db.execute(f"PRAGMA max_page_count = {limit}")
        with pytest.raises(DiskFull, match="make room"):
            spool.ingest("other key", [row(f"p{number}", os.urandom(2000).hex()) for number in range(500)])
        assert spool.has_problems("key")
        assert ids(spool) == ["a"]
        await spool.put_outcome("a", "key", os.urandom(1 << 20))
        with pytest.raises(DiskFull):
            await spool.flush()
        with pytest.raises(DiskFull):
            await spool.put_outcome("b", "key", b"x")
        with pytest.raises(DiskFull):
            spool.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tracemill.pipelines.reading.sources import SourceProblem
from tracemill.pipelines.running.spool import Spool
from tracemill.schemas.rows import Problem

def rows(name, last):
    for number in range(30_000):
        yield SourceProblem(problem=Problem(problem_id=f"{name}{number}", question="q" * 300), row_number=number)
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

async def outcomes():
    for number in range(100_000):
        await spool.put_outcome(f"p{number:06}", "key", b"x" * 600)
        if number == 300:
            await spool.flush()
            print("flushed", flush=True)
        if number == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

spool = Spool(Path(sys.argv[1]))
if sys.argv[2] == "ingest":
    spool.ingest("key", list(rows("old", None))[:10])
    spool.ingest("other key", rows("new", int(sys.argv[3])))
else:
    asyncio.run(outcomes())
"""


def killed(path: Path, what: str, after: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), what, str(after)], capture_output=True, check=False
    )
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()


@pytest.mark.parametrize("after", [0, 29_000])
def test_kill_9_while_sources_are_read_leaves_the_old_problems(after: int, path: Path) -> None:
    killed(path, "ingest", after)
    with reopened(path) as spool:
        assert spool.has_problems("key")
        assert sorted(ids(spool)) == sorted(f"old{number}" for number in range(10))
        spool.ingest("other key", [row("new")])
        assert ids(spool) == ["new"]


@pytest.mark.parametrize("after", [301, 5000])
def test_kill_9_loses_no_outcome_that_was_flushed_and_tears_none(after: int, path: Path) -> None:
    killed(path, "outcomes", after)
    with reopened(path) as spool:
        kept = [spool.get_outcome(f"p{number:06}", "key") for number in range(after + 1)]
        assert all(outcome == b"x" * 600 for outcome in kept[:301])
        assert {outcome for outcome in kept if outcome is not None} == {b"x" * 600}
