"""The viewer: who may ask it, rows by number and by search as polars has them, and nothing that a row holds does anything."""

import asyncio
import contextlib
import html
import http.client
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html as lxml_html

from tests.shown import HOSTILE, NAMES, commit
from tracemill.pipelines.asking.explain import explain
from tracemill.pipelines.asking.explain_screens import explain_lines
from tracemill.pipelines.store import Dataset, Store
from tracemill.pipelines.versions import cuts
from tracemill.pipelines.viewer import app, serve
from tracemill.pipelines.viewer.pages import Query, Viewer
from tracemill.pipelines.viewer.paging import Table
from tracemill.pipelines.viewer.search import Condition, Search
from tracemill.pipelines.viewer.security import HEADERS, REFUSED
from tracemill.pipelines.viewer.text import visible
from tracemill.schemas.errors import RecipeError

TOKEN, PORT = "t" * 32, 4321
HERE = f"http://127.0.0.1:{PORT}/{TOKEN}/"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """The version of `shown.py`, cut into many small row groups and files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "GROUP", 3000)
        patch.setattr(cuts, "MANY", 4)
        yield commit(Store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def viewer(shown: Dataset) -> Viewer:
    return Viewer(shown, shown.path.parent.parent)


@pytest.fixture(scope="module")
def table(viewer: Viewer) -> Table:
    made = viewer.table("rows")
    assert len(made.groups) > 8
    assert len({group.file for group in made.groups}) > 1
    return made


@pytest.fixture(scope="module")
def frame(shown: Dataset) -> pl.DataFrame:
    return shown.scan("rows").collect()


async def get(viewer: Viewer, path: str = "", *, method: str = "GET", host: str | None = None) -> httpx.Response:
    transport = httpx.ASGITransport(app.make_app(viewer, token=TOKEN, port=PORT))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport) as client:
        headers = {"host": host} if host is not None else {}
        return await client.request(method, path if path.startswith("http") else HERE + path, headers=headers)


# ---- who may ask


@pytest.mark.parametrize(
    "path",
    ["", "table", f"{'t' * 31}/", f"{TOKEN}x/", f"x{TOKEN}/", "style.css", f"{TOKEN.upper()}/", "%2e%2e/", "\u00e9/"],
)
async def test_without_the_token_nothing_is_said_about_the_data(viewer: Viewer, path: str) -> None:
    answer = await get(viewer, f"http://127.0.0.1:{PORT}/{path}")
    assert (answer.status_code, answer.text) == (403, REFUSED)
    assert "shown" not in str(answer.headers)


@pytest.mark.parametrize(
    "host",
    ["example.org", f"example.org:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", f"127.0.0.1:{PORT}.example.org", ""],
)
async def test_a_name_that_was_bound_to_the_loopback_gets_nothing_even_with_the_token(
    viewer: Viewer, host: str
) -> None:
    assert (await get(viewer, host=host)).status_code == 403
    assert (await get(viewer, host=f"localhost:{PORT}")).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
async def test_nothing_but_get_and_head_is_answered(viewer: Viewer, method: str) -> None:
    answer = await get(viewer, method=method)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert (await get(viewer, method="HEAD")).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["", "table", "row", "life?id=p0003", "style.css", "icon.svg", "nowhere", "row?n=x", "file?name=recipe.toml"],
)
async def test_every_answer_says_what_a_page_may_do(viewer: Viewer, path: str) -> None:
    answer = await get(viewer, path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "script" not in HEADERS["content-security-policy"]
    assert HEADERS["content-security-policy"].startswith("default-src 'none'")
    refused = await get(viewer, "http://127.0.0.1:1/")
    assert {name: refused.headers[name] for name in HEADERS} == HEADERS


async def test_the_address_without_its_last_slash_leads_to_the_overview(viewer: Viewer) -> None:
    answer = await get(viewer, HERE.rstrip("/"))
    assert (answer.status_code, answer.headers["location"]) == (307, f"/{TOKEN}/")


# ---- rows by number


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 260), count=st.integers(1, 120), data=st.data())
def test_a_page_is_what_polars_slices(
    table: Table, frame: pl.DataFrame, start: int, count: int, data: st.DataObject
) -> None:
    columns = data.draw(st.lists(st.sampled_from(table.schema.names), min_size=1, unique=True))
    page = table.page(start, count, columns)
    assert page.column_names == columns
    assert page.to_pylist() == frame.select(columns).slice(start, count).to_dicts()


def test_a_page_reads_no_row_group_but_its_own(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = Table._read
    monkeypatch.setattr(
        Table, "_read", lambda self, group, columns: read.append(group.start) or real(self, group, columns)
    )
    last = table.groups[-1]
    table.page(last.start, 5, ["id"])
    assert read == [last.start]
    read.clear()
    assert table.find("id", "p0100/solve-0000") is not None
    assert len(read) == 1


def test_every_row_is_found_by_its_id_and_by_its_number(table: Table, frame: pl.DataFrame) -> None:
    for number, row in enumerate(frame.iter_rows(named=True)):
        assert table.find("id", row["id"]) == number
        if number % 20 == 0:
            assert table.row(number) == row
    for absent in ("", "p", "p0100/solve-0000x", "\uffff", "p0100/solve-000"):
        assert table.find("id", absent) is None
    assert table.row(-1) is None
    assert table.row(table.rows) is None


# ---- rows by search


CONDITIONS = st.one_of(
    st.tuples(
        st.sampled_from(["id", "content", "question"]),
        st.just("contains"),
        st.sampled_from(["1", "p01", "think", "肝", "", ".", "\u202e"]),
    ),
    st.tuples(
        st.sampled_from(["id", "difficulty", "verdict"]),
        st.sampled_from(["is", "not"]),
        st.sampled_from(["1", "4", "p0100/solve-0000", "equal", ""]),
    ),
    st.tuples(st.just("n_tokens"), st.sampled_from(["is", "not", "least", "most"]), st.integers(-3, 110).map(str)),
    st.tuples(st.just("correct"), st.sampled_from(["is", "not"]), st.sampled_from(["true", "false", " True "])),
    st.tuples(
        st.sampled_from(["steps", "difficulty", "answer", "messages"]), st.sampled_from(["empty", "given"]), st.just("")
    ),
)


def as_polars(column: str, operator: str, value: str) -> pl.Expr:
    here = pl.col(column)
    typed: Any = (
        int(value) if column == "n_tokens" else value.strip().lower() == "true" if column == "correct" else value
    )
    return {
        "is": lambda: here == typed,
        "not": lambda: here != typed,
        "contains": lambda: here.str.contains(typed, literal=True),
        "least": lambda: here >= typed,
        "most": lambda: here <= typed,
        "empty": lambda: here.is_null(),
        "given": lambda: here.is_not_null(),
    }[operator]()


@settings(max_examples=40, deadline=None)
@given(
    asked=st.lists(CONDITIONS, max_size=3),
    words=st.sampled_from(["", "", "IT IS 1", "let me", "肝", "a.c", "(", "owned"]),
    start=st.integers(0, 250),
)
def test_a_search_finds_what_polars_filters(
    table: Table, frame: pl.DataFrame, asked: list[tuple[str, str, str]], words: str, start: int
) -> None:
    search = Search.read(table.schema, asked, words)
    if not search:
        return
    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    fits = [as_polars(*one) for one in asked]
    if words:
        fits.append(pl.any_horizontal(pl.col(name).str.contains(f"(?i){re.escape(words)}") for name in texts))
    wanted = frame.with_row_index("number").filter(pl.all_horizontal(fits), pl.col("number") >= start)
    found = table.search(search, start=start, count=1000, columns=["content", "id"], stop=Event(), seconds=60)
    assert found.numbers == wanted["number"].to_list()
    assert found.rows["id"].to_pylist() == wanted["id"].to_list()
    assert found.looked_to == table.rows


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.sampled_from([0.0, 60.0]))
def test_a_search_that_is_cut_short_goes_on_where_it_stopped(table: Table, count: int, seconds: float) -> None:
    search = Search.read(table.schema, [("correct", "is", "false")], "")
    whole = table.search(search, start=0, count=1000, columns=["id"], stop=Event(), seconds=60).numbers
    found, at, rounds = [], 0, 0
    while at < table.rows:
        part = table.search(search, start=at, count=count, columns=["id"], stop=Event(), seconds=seconds)
        assert part.looked_to > at
        assert len(part.numbers) <= count
        found, at, rounds = found + part.numbers, part.looked_to, rounds + 1
    assert found == whole
    assert rounds > 3


def test_a_search_that_nobody_waits_for_ends_at_the_next_batch(table: Table) -> None:
    stop = Event()
    stop.set()
    part = table.search(Search(text="nowhere to be found"), start=0, count=50, columns=["id"], stop=stop, seconds=60)
    assert part.numbers == []
    assert part.looked_to <= table.groups[0].rows


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (("contant", "is", "x"), "did you mean 'content'"),
        (("n_tokens", "contains", "1"), "holds a number: 'contains' cannot be asked"),
        (("n_tokens", "is", "many"), "holds numbers, and 'many' is none"),
        (("n_tokens", "least", "9" * 30), "beyond every number"),
        (("correct", "is", "perhaps"), "is true or false"),
        (("messages", "is", "x"), "holds a list"),
        (("content", "matches", "x"), "'matches' cannot be asked"),
        (("content", "is", "\ud800"), "half of a surrogate pair"),
    ],
)
def test_a_condition_that_cannot_be_is_refused_in_words(table: Table, one: tuple[str, str, str], said: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(said)):
        Search.read(table.schema, [one], "")


def test_statistics_leave_out_only_groups_that_hold_nothing() -> None:
    class Bounds:
        has_min_max, min, max = True, 3, 7

    kept = {
        op: [v for v in range(11) if not Condition("x", op, v).excluded(Bounds())]
        for op in ("is", "least", "most", "not")
    }
    assert kept == {"is": [3, 4, 5, 6, 7], "least": list(range(8)), "most": list(range(3, 11)), "not": list(range(11))}
    assert not Condition("x", "is", 9).excluded(None)


# ---- pages


def page_of(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text[:500]
    return lxml_html.fromstring(answer.content)


def harmless(page: Any) -> None:
    """No element that runs or loads anything, no attribute that does, and no link that leads out."""
    tags = {str(element.tag).lower() for element in page.iter() if isinstance(element.tag, str)}
    assert not tags & {
        "script",
        "style",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "image",
        "foreignobject",
        "use",
        "animate",
    }
    for element in page.iter():
        for name, value in element.attrib.items() if isinstance(element.tag, str) else ():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("href", "src", "action"):
                assert re.match(
                    r"(\./|style\.css|icon\.svg|#main|report|(table|row|life|tree|text|file)(\?|$))", value
                ), value


async def test_the_overview_leads_to_every_table_and_to_the_reasons(viewer: Viewer) -> None:
    page = page_of(await get(viewer))
    harmless(page)
    rows = [[cell.text_content() for cell in row.iter("th", "td")] for row in page.iter("tr")]
    assert ["rows", "239"] in [row[:2] for row in rows]
    reason = next(link.get("href") for link in page.iter("a") if link.text == "too_long")
    found = page_of(await get(viewer, reason))
    assert "20 found" in found.text_content()


async def test_a_table_page_shows_its_rows_cut_with_their_length(viewer: Viewer, frame: pl.DataFrame) -> None:
    page = page_of(await get(viewer, "table?t=rows&from=200&n=60&c=id&c=question&c=n_tokens"))
    harmless(page)
    lines = page.xpath("//tbody/tr")
    assert len(lines) == 39
    texts = [[cell.text_content().strip() for cell in line] for line in lines]
    assert [line[0] for line in texts] == [str(n) for n in range(200, 239)]
    assert [line[3] for line in texts] == [f"{n}" for n in frame["n_tokens"][200:]]
    assert any(line[2].endswith("1,000,000 characters") and len(line[2]) < 200 for line in texts)
    assert len((await get(viewer, "table?n=200")).content) < 400_000


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
async def test_a_hostile_row_is_shown_as_text_by_its_permalink(viewer: Viewer, frame: pl.DataFrame, name: str) -> None:
    page = page_of(await get(viewer, f"row?t=rows&id={quote(name, safe='')}"))
    harmless(page)
    said = str(frame.filter(pl.col("id") == name)["content"][0])
    turn = page.xpath("//section[contains(@class, 'own')]//pre")[-1].text_content()
    if all(c.isprintable() or c == "\n" for c in said):
        assert turn.strip("\n") == said[:100_000].strip("\n")
    assert all(c.isprintable() or c == "\n" for c in page.text_content())
    permalink = next(link.get("href") for link in page.iter("a") if link.text == "link to this row")
    again = page_of(await get(viewer, permalink))
    assert again.xpath("string(//h1)") == page.xpath("string(//h1)")
    for other in ("life?id=", "tree?problem="):
        answer = await get(viewer, other + quote(name, safe=""))
        assert answer.status_code in (200, 404)
        harmless(lxml_html.fromstring(answer.content))


async def test_a_long_text_is_whole_as_plain_text(viewer: Viewer, frame: pl.DataFrame) -> None:
    name = NAMES[HOSTILE.index("x" * 1_000_000)]
    page = page_of(await get(viewer, f"row?t=rows&id={quote(name)}"))
    assert "The first 100,000 of 1,000,000 characters" in page.text_content()
    href = next(link.get("href") for link in page.iter("a") if link.text == "the whole as plain text")
    answer = await get(viewer, href)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "x" * 1_000_000


async def test_evidence_with_half_a_surrogate_pair_is_shown(viewer: Viewer) -> None:
    page = page_of(await get(viewer, "row?t=rejected&n=3"))
    assert "\\ud800" in page.text_content()
    page = page_of(await get(viewer, "life?id=p0003/solve-0001"))
    harmless(page)
    assert "half \\ud800" in page.text_content()


async def test_thoughts_fold_and_a_net_and_a_tree_are_pictures_with_a_text(viewer: Viewer) -> None:
    row = page_of(await get(viewer, "row?t=rows&id=p0011/solve-0000"))
    thought = row.xpath("//details[contains(@class, 'thought')]")[0]
    assert thought.get("open") is None
    assert "Let me add 11 and 4." in thought.text_content()
    assert "It is 15." not in thought.text_content()
    assert "Petri net of p0011/solve-0000" in row.xpath("string(//svg/title)")
    assert "* [1] FH, CM -> LS" in row.text_content()
    tree = page_of(await get(viewer, "tree?problem=p0003"))
    harmless(tree)
    assert len(tree.xpath("//svg//g[@data-node]")) == 7
    assert "n000001" in tree.xpath("string(//figure//pre)")
    links = {link.text for link in page_of(await get(viewer, "row?t=rows&id=p0003/solve-0000")).iter("a")}
    assert "tree of the problem" in links
    assert "tree of the problem" not in {link.text for link in row.iter("a")}


async def test_the_life_of_a_row_is_what_explain_tells(viewer: Viewer, shown: Dataset) -> None:
    page = page_of(await get(viewer, "life?id=p0003/solve-0000"))
    harmless(page)
    told = "\n".join(explain_lines(explain(shown, "p0003/solve-0000")))
    assert page.xpath("//details[summary='The same as text']/pre")[-1].text_content() == visible_text(told)
    assert "turned down at filter:length: too_long" in page.text_content()
    assert page.xpath("//section[contains(@class, 'meant')]//h3/a/text()") == ["p0003/solve-0000"]
    assert (await get(viewer, "life")).status_code == 200


def visible_text(text: str) -> str:
    return str(lxml_html.fromstring(f"<pre>{visible(text)}</pre>").text_content())


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("table?t=row", "has no table 'row'; did you mean 'rows'"),
        ("table?c=contant", "no column 'contant'; did you mean 'content'"),
        ("table?from=-1", "from is a whole number from 0, not '-1'"),
        ("table?from=1e9", "from is a whole number"),
        ("table?f=id&o=is", "f, o and v come together"),
        ("row?n=239", "rows has no row 239: it has 239, numbered from 0"),
        ("row?t=rows&id=nope", "rows has no row 'nope'"),
        ("row?t=rejected&id=nope", "rows of rejected have no id of their own"),
        ("tree?problem=p0004", "no tree of a problem 'p0004'"),
        ("life?id=nothing-like-it", "holds no row, trace, problem or request"),
        ("text?c=nope", "no column 'nope'"),
        ("file?name=../../x", "no file '../../x'"),
        ("nowhere", "There is no such page."),
        ("row?n=%ff%fe", "n is a whole number"),
    ],
)
async def test_what_is_not_there_is_a_page_that_says_so(viewer: Viewer, path: str, said: str) -> None:
    answer = await get(viewer, path)
    assert answer.status_code == 404
    page = lxml_html.fromstring(answer.content)
    harmless(page)
    assert said in page.text_content()


async def test_pages_beyond_the_end_are_empty_and_lead_back(viewer: Viewer) -> None:
    page = page_of(await get(viewer, "table?from=999999999"))
    assert "No rows here." in page.text_content()
    assert {"first", "previous"} <= {link.text for link in page.iter("a")}


async def test_a_search_from_beyond_the_end_names_no_row_that_is_not_there(viewer: Viewer) -> None:
    answer = await get(viewer, "table?t=rows&q=x&from=5000")
    assert "Nothing was looked at: the last row is 238." in answer.text


async def test_a_report_may_run_its_own_scripts_and_is_a_stranger_to_the_viewer(viewer: Viewer) -> None:
    assert (await get(viewer, "report")).status_code == 404
    viewer.report_file.parent.mkdir(parents=True)
    viewer.report_file.write_text("<!doctype html><title>r</title>")
    answer = await get(viewer, "report")
    assert "sandbox allow-scripts" in answer.headers["content-security-policy"]
    assert "allow-same-origin" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_version_that_is_removed_or_damaged_meanwhile_is_a_page(tmp_path: Path) -> None:
    made = commit(Store(tmp_path), count=5)
    looked = Viewer(made, tmp_path)
    assert (await get(looked, "table")).status_code == 200
    file = made.files("rejected")[0]
    file.write_bytes(file.read_bytes()[:-100])
    damaged = await get(looked, "table?t=rejected")
    assert damaged.status_code == 500
    assert f"tracemill fsck {made}" in html.unescape(damaged.text)
    file.unlink()
    assert (await get(looked, "table?t=rejected")).status_code == 500
    shutil.rmtree(made.path)
    for path in ("table", "row?n=1", "life?id=p0001", "file?name=recipe.toml", "table?t=problems"):
        gone = await get(looked, path)
        assert gone.status_code == 410
        assert "is no longer in" in gone.text


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_visible_text_is_the_text_with_what_cannot_be_seen_as_escapes(text: str) -> None:
    shown = visible_text("." + text)[1:]
    assert re.sub(f" {TIMES}[\\d,]+", "", shown) == re.sub(f" {TIMES}[\\d,]+", "", collapsed(text))
    assert all(c.isprintable() or c in "\n\t" for c in visible(text))


TIMES = "\N{MULTIPLICATION SIGN}"


def collapsed(text: str) -> str:
    """Runs of one character that cannot be seen are one escape, printed once."""
    return re.sub(
        r"([^\x20-\x7e\n\t])\1*",
        lambda m: m[0] if m[1].isprintable() else m[1].encode("unicode_escape").decode(),
        text,
    )


async def test_a_page_that_nobody_waits_for_is_told_to_stop(viewer: Viewer) -> None:
    from anyio import CapacityLimiter
    from starlette.requests import Request

    told: list[bool] = []
    messages = iter([{"type": "http.request", "body": b""}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    def page(viewer: Viewer, asked: Query, stop: Event) -> str:
        told.append(stop.wait(30))
        return "late"

    request = Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}, receive)
    await app._answered(viewer, page, request, CapacityLimiter(1), "text/html")
    assert told == [True]


async def test_pages_are_made_while_searches_run(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = Event()

    def search(viewer: Viewer, asked: Query, stop: Event) -> str:
        return "found" if not asked.get("q") or hold.wait(60) else "late"

    monkeypatch.setattr(app, "table_page", search)
    running = app.make_app(viewer, token=TOKEN, port=PORT)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(running)) as client:  # type: ignore[arg-type]
        searches = [asyncio.create_task(client.get(HERE + "table?q=x")) for _ in range(9)]
        await asyncio.sleep(0.05)
        assert (await client.get(HERE + "row?n=1")).status_code == 200
        assert (await client.get(HERE + "table?from=3")).text == "found"
        assert not any(search.done() for search in searches)
        hold.set()
        assert [(await search).text for search in searches] == ["found"] * 9


# ---- the command


@contextlib.contextmanager
def viewing(store: Path, *more: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    command = [sys.executable, "-m", "tracemill.pipelines.cli", "view", "shown", "--store", str(store), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def fetched(url: str, method: str = "GET") -> tuple[int, str]:
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=30)) as line:
        line.request(method, parts.path + (f"?{parts.query}" if parts.query else ""))
        answer = line.getresponse()
        return answer.status, answer.read().decode()


def test_the_command_prints_one_line_serves_the_loopback_alone_and_ends_when_told(shown: Dataset) -> None:
    store = shown.path.parent.parent
    with viewing(store) as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", url)
        assert fetched(url)[0] == 200
        assert fetched(url + "table?" + urlencode({"q": "it is 2"}))[0] == 200
        assert fetched(url.replace(url[-10:], "wrong/"))[0] == 403
        port = int(urlsplit(url).port or 0)
        listening = [
            line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if f":{port:04X} " in line
        ]
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
        other = subprocess.run(
            [*process.args[:-1], str(store), "--port", str(port)], capture_output=True, text=True, check=False
        )  # type: ignore[index]
        assert other.returncode == 2
        assert f"port {port} of 127.0.0.1 cannot be had" in other.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_ctrl_c_ends_it_quietly_even_while_a_page_is_being_read(shown: Dataset) -> None:
    with viewing(shown.path.parent.parent) as (process, url):
        parts = urlsplit(url)
        with socket.create_connection((str(parts.hostname), int(parts.port or 0))) as idle:
            idle.sendall(b"GET / HTTP/1.1\r\n")  # and then nothing more
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_sigterm_ends_it_quietly_while_many_look_for_a_row(shown: Dataset) -> None:
    with viewing(shown.path.parent.parent) as (process, url), contextlib.ExitStack() as stack:
        parts = urlsplit(url)
        for number in range(300):  # two lives are looked up at once, the others wait for their turn
            line = stack.enter_context(socket.create_connection((str(parts.hostname), int(parts.port or 0))))
            line.sendall(
                f"GET {parts.path}life?id=p{number % 200:04} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
            )
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_what_is_missing_is_named_with_what_to_type(shown: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=re.escape("pip install 'tracemill[view]' (starlette, uvicorn missing)")):
        serve.serve(shown, shown.path.parent.parent, port=0, ready=print)
