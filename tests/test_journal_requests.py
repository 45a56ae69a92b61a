"""The journal keeps what was asked beside the answer: every field comes back, and proves itself by its key."""

import asyncio
import shutil
import sqlite3
from array import array
from dataclasses import fields, replace
from pathlib import Path

import msgspec
import pytest

from tracemill.schemas.request import Adapter, Completion, Message, Model, Request, Sampling, TokenScores
from tracemill.synth.journal import Journal, asked, merge
from tracemill.synth.journal.check import check

BASE = Request(
    model=Model(name="m", revision="sha256:0"),
    prompt="What is 1 + 1?",
    sampling=Sampling(temperature=1.0, stop=("\n\n",), max_tokens=8),
    problem_id="p1",
)
CALL: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1.5}}}],
}
KINDS = {
    "text": BASE,
    "whole numbers for shares": replace(BASE, sampling=Sampling(temperature=1, top_p=1, top_k=0)),
    "token ids": replace(BASE, prompt=(1, 2, 150_000), prefix=(7, 8)),
    "nothing shown": replace(BASE, prompt=""),
    "messages": replace(BASE, prompt=({"role": "user", "content": "é\u2028 ok"}, CALL), tools='[{"a": 1}]'),
    "an adapter": replace(BASE, adapter=Adapter(name="long", revision="r", scale="0.2"), salt="x", index=3),
    "a forced beginning": replace(BASE, prefix="It is", scope="tree", run_seed=5, seeds="none"),
    "an empty beginning": replace(BASE, prefix=""),
    "a score": replace(BASE, kind="score", prefix=(1,), problem_id="", template_kwargs='{"a": true}'),
}


def said(text: object) -> Completion:
    return Completion(text=str(text), finish_reason="stop", n_tokens=3)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sqlite"))


def merged_into_one(folder: Path) -> Path:
    sources = segments(folder)
    assert merge.copy(sources, folder / "both", lambda: False)
    for source in sources:
        source.unlink()
    return (folder / "both").rename(folder / "0.sqlite")


async def fill(folder: Path, *requests: Request) -> None:
    with Journal(folder) as journal:
        await asyncio.gather(*(journal.put(r.key, said(r.index), r) for r in requests))


@pytest.mark.parametrize("request_", KINDS.values(), ids=KINDS)
def test_a_request_that_is_taken_apart_comes_back_whole(request_: Request) -> None:
    apart = asked.take_apart(request_)
    stored = {hash_: asked.pack_part(body) for hash_, body in apart.parts.items()}
    again = asked.fields_of(apart.row, lambda hash_: asked.unpack_part(stored[hash_]))
    assert again.keys() == {field.name for field in fields(Request)}
    assert asked.key_of(again) == request_.key
    assert asked.request_of(again) == request_


async def test_every_kind_of_answer_keeps_its_request(tmp_path: Path) -> None:
    scored = KINDS["a score"]
    with Journal(tmp_path) as journal:
        await journal.put(scored.key, TokenScores(token_ids=array("i"), logprobs=array("f")), scored)
    await fill(tmp_path, *KINDS.values())
    with Journal(tmp_path) as journal:
        found = dict(journal.requests([*(r.key for r in KINDS.values()), "0" * 64]))
    assert {key: asked.request_of(f) for key, f in found.items()} == {r.key: r for r in KINDS.values()}


async def test_what_many_requests_share_is_stored_once(tmp_path: Path) -> None:
    draws = [replace(BASE, index=i, prompt="long " * 400) for i in range(500)]
    await fill(tmp_path, *draws)
    (segment,) = segments(tmp_path)
    with sqlite3.connect(segment) as db:
        assert db.execute("SELECT count(*) FROM parts").fetchone() == (2,)
        assert db.execute("SELECT count(*) FROM asked").fetchone() == (500,)
    db.close()


async def test_a_merge_keeps_every_request_and_each_part_once(tmp_path: Path) -> None:
    await fill(tmp_path, *(replace(BASE, index=i) for i in range(40)))
    await fill(tmp_path, *(replace(BASE, index=i) for i in range(20, 60)), KINDS["token ids"])
    one = merged_into_one(tmp_path)
    wanted = [replace(BASE, index=i) for i in range(60)] + [KINDS["token ids"]]
    with Journal(tmp_path) as journal:
        assert [asked.request_of(f) for _, f in journal.requests([r.key for r in wanted])] == wanted
        assert len(journal) == 61
    with sqlite3.connect(one) as db:
        assert db.execute("SELECT count(*) FROM parts").fetchone() == (4,)
    db.close()


def older(segment: Path) -> None:
    """Make a segment one of format 1, as releases before wrote it."""
    with sqlite3.connect(segment) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        db.executescript("DROP TABLE asked; DROP TABLE parts; PRAGMA user_version = 1;")
    db.close()


async def test_segments_of_the_first_format_are_read_and_merged_as_they_are(tmp_path: Path) -> None:
    old, new = replace(BASE, index=1), replace(BASE, index=2)
    await fill(tmp_path, old)
    (segment,) = segments(tmp_path)
    older(segment)
    await fill(tmp_path, new)
    for merged in (False, True):
        if merged:
            merged_into_one(tmp_path)
        with Journal(tmp_path) as journal:
            assert set(await journal.get([old.key, new.key])) == {old.key, new.key}
            assert [key for key, _ in journal.requests([old.key, new.key])] == [new.key]
        assert [checked.fault for checked in check(tmp_path)] == [""] * (1 if merged else 2)


async def test_a_request_that_does_not_hash_to_its_key_is_found_and_never_given(tmp_path: Path) -> None:
    await fill(tmp_path, BASE, replace(BASE, index=1))
    (segment,) = segments(tmp_path)
    with sqlite3.connect(segment) as db:
        db.execute("UPDATE asked SET draw = 7 WHERE id = 2")
    db.close()
    with Journal(tmp_path) as journal:
        assert len(list(journal.requests([BASE.key, replace(BASE, index=1).key]))) == 1
        assert len(await journal.get([BASE.key, replace(BASE, index=1).key])) == 2
    (checked,) = check(tmp_path)
    assert "1 requests do not hash to their key; the first is " in checked.fault


async def test_a_segment_is_whole_when_it_is_copied_alone(tmp_path: Path) -> None:
    await fill(tmp_path / "here", BASE)
    (tmp_path / "there").mkdir()
    shutil.copy(*segments(tmp_path / "here"), tmp_path / "there")
    with Journal(tmp_path / "there") as journal:
        assert [asked.request_of(f) for _, f in journal.requests([BASE.key])] == [BASE]


def test_a_part_is_packed_as_the_rest_of_the_journal_is() -> None:
    body = msgspec.json.encode(["word"] * 1000)
    assert len(asked.pack_part(body)) < len(body) / 10
    with pytest.raises((ValueError, OSError)):
        asked.unpack_part(asked.pack_part(body)[:-3])
