"""Reading problems: every format gives the same problems, every fault is a clear error or a rejected row."""

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tracemill.pipelines.reading.rawrow import LIMITS, Limits, text_of
from tracemill.pipelines.reading.sources import SourceProblem, SourceRejection, read_source, source_hash, source_key
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Source
from tracemill.schemas.rows import Problem, qid

DATA = Path(__file__).parents[1] / "../shared/data"
GOOD = {"id": "g", "question": "6 * 7?", "answer": "42"}
ROWS: list[dict[str, Any]] = [
    {"id": 1, "question": "6 * 7?", "answer": 42.0, "level": 2, "a": {"solution": "6 * 7 = 42", "ok": True}},
    {"id": 2, "question": "8 * 9?", "answer": 72.0, "level": None, "a": {"solution": "ÄÖ\n", "ok": False}},
]


def jsonl(path: Path, *rows: dict[str, Any] | str | bytes) -> Path:
    lines = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def read(path: Path, limits: Limits = LIMITS, **mapping: Any) -> list[SourceProblem | SourceRejection]:
    return list(read_source(Source(path=str(path), **mapping), 0, limits=limits))


def problems(path: Path, **mapping: Any) -> list[Problem]:
    return [row.problem for row in read(path, **mapping) if isinstance(row, SourceProblem)]


def rejections(path: Path, limits: Limits = LIMITS, **mapping: Any) -> list[SourceRejection]:
    return [row for row in read(path, limits, **mapping) if isinstance(row, SourceRejection)]


# ---- formats


def write_zstd(path: Path) -> Path:
    plain = jsonl(path.with_name("plain"), *ROWS).read_bytes()
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(plain)
    return path


def write_gzip(path: Path) -> Path:
    first, second = (json.dumps(row).encode() + b"\n" for row in ROWS)
    path.write_bytes(gzip.compress(first) + gzip.compress(second))  # two members, as `cat a.gz b.gz` makes
    return path


def write_arrow(path: Path, new: Callable[..., Any]) -> Path:
    table = pa.Table.from_pylist(ROWS)
    with new(str(path), table.schema) as file:
        file.write_table(table)
    return path


def write_saved(path: Path) -> Path:
    from datasets import Dataset, DatasetDict, disable_progress_bars

    disable_progress_bars()
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])).save_to_disk(path)
    return path


def write_repo(path: Path) -> Path:
    (path / "data").mkdir(parents=True)
    for number, row in enumerate(ROWS):
        parquet(path / "data" / f"train-0000{number}-of-00002.parquet", row)
    parquet(path / "data" / "test-00000-of-00001.parquet", ROWS[0])
    return path


FORMATS: dict[str, Callable[[Path], Path]] = {
    "rows.jsonl": lambda path: jsonl(path, *ROWS),
    "bom.jsonl": lambda path: jsonl(path, b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode(), ROWS[1]),
    "crlf.jsonl": lambda path: jsonl(path, *(json.dumps(row) + "\r" for row in ROWS)),
    "blank lines.jsonl": lambda path: jsonl(path, "", ROWS[0], "  ", ROWS[1], ""),
    "rows.jsonl.gz": write_gzip,
    "rows.jsonl.zst": write_zstd,
    "rows.parquet": lambda path: parquet(path, *ROWS),
    "file.arrow": lambda path: write_arrow(path, pa.ipc.new_file),
    "stream.arrow": lambda path: write_arrow(path, pa.ipc.new_stream),
    "save_to_disk": write_saved,
    "repo": write_repo,
}


@pytest.fixture(params=FORMATS)
def in_any_format(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return FORMATS[request.param](tmp_path / request.param)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # save_to_disk leaves one to the collector
def test_every_format_gives_the_same_problems(in_any_format: Path) -> None:
    first, second = problems(in_any_format, response="a.solution", licence="MIT")
    assert (first.problem_id, first.question, first.gold) == ("1", "6 * 7?", "42")
    assert first.responses == {"a.solution": "6 * 7 = 42"}
    assert first.meta == {"level": 2, "a.ok": True}
    assert (first.source, first.source_index, first.licence) == (in_any_format.name, 0, "MIT")
    assert (second.problem_id, second.gold, second.meta) == ("2", "72", {"level": None, "a.ok": False})
    assert second.responses == {"a.solution": "ÄÖ\n"}


def test_the_hub_is_read_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = write_repo(tmp_path / "org")
    source = Source(hub=str(repo), split="test")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    [row] = read_source(source, 0)
    assert isinstance(row, SourceProblem)
    assert (row.problem.problem_id, row.problem.gold, row.problem.source) == ("1", "42", "org")
    assert source_hash(source) == source_hash(source) != source_hash(source.model_copy(update={"split": "train"}))


def test_what_datasets_cannot_read_is_an_error_with_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    torn_parquet(write_repo(tmp_path / "org") / "data/test-00000-of-00001.parquet")
    with pytest.raises(RecipeError, match=r"org: `datasets` cannot open it: .*Parquet"):
        list(read_source(Source(hub=str(tmp_path / "org"), split="test"), 0))
    write_repo(tmp_path / "whole")
    with pytest.raises(RecipeError, match=r"whole: `datasets` cannot open it: .*dev"):
        list(read_source(Source(hub=str(tmp_path / "whole"), split="dev"), 0))


def test_a_table_of_the_store_is_read_from_the_files_that_the_store_names(tmp_path: Path) -> None:
    file = parquet(tmp_path / "part.parquet", *ROWS)
    rows = list(
        read_source(Source(ref="arith@abc/rows"), 0, resolve=lambda ref: [file] if ref == "arith@abc/rows" else [])
    )
    assert [row.problem.problem_id for row in rows if isinstance(row, SourceProblem)] == ["1", "2"]
    with pytest.raises(RecipeError, match="no store"):
        list(read_source(Source(ref="arith@abc/rows"), 0))


def test_rows_of_several_files_say_which_file_they_stand_in(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    jsonl(tmp_path / "repo/train-1.jsonl", ROWS[0])
    jsonl(tmp_path / "repo/train-2.jsonl", GOOD, {"question": None, "answer": "1"})
    [refused] = rejections(tmp_path / "repo")
    assert refused.evidence == {"source": "repo", "file": "train-2.jsonl", "row_number": 2, "column": "question"}


# ---- columns


def test_a_row_without_an_id_gets_the_qid_of_its_question(tmp_path: Path) -> None:
    [problem] = problems(jsonl(tmp_path / "x.jsonl", {"question": "6  *\n7?", "answer": "42"}))
    assert problem.problem_id == qid("6 * 7?")


@pytest.mark.parametrize(
    ("number", "text"),
    [(18, "18"), (18.0, "18"), (1e3, "1000"), (0.1, "0.1"), (-0.0, "0"), (1e-7, "0.0000001"), (10**30, "1" + "0" * 30),
     (True, "true"), ("018", "018"), (float("nan"), None), (float("inf"), None), (None, None), ([1], None)],
)  # fmt: skip
def test_a_number_has_one_text(number: Any, text: str | None) -> None:
    assert text_of(number) == text


def test_conversations_tools_and_options_are_taken_from_lists_structs_and_json_text(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "6 * 7?", "name": None}]
    tools = [{"type": "function", "function": {"name": "f", "strict": None}}]
    row = {"chat": turns, "tools": json.dumps(tools), "choices": {"B": "54", "A": "42"}, "answer": "A"}
    for path in (jsonl(tmp_path / "x.jsonl", row), parquet(tmp_path / "x.parquet", row)):
        mapping = {"messages": "chat", "tools": "tools", "options": "choices", "answer_format": "choice"}
        [problem] = problems(path, **mapping)
        assert problem.question == "6 * 7?"
        assert problem.messages == ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "6 * 7?"})
        assert problem.tools == ({"type": "function", "function": {"name": "f"}},)
        assert problem.options == ("42", "54")


def test_a_conversation_may_end_with_the_assistant_only_where_responses_are_given(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "6 * 7?"}, {"role": "assistant", "content": "42"}]
    path = jsonl(tmp_path / "x.jsonl", {"chat": turns, "r": ["a", None, "b"]})
    assert [row.reason for row in rejections(path, messages="chat")] == ["ends_with_assistant"]
    assert problems(path, messages="chat", response="r")[0].responses == {"r[0]": "a", "r[1]": None, "r[2]": "b"}


def test_a_list_of_nothing_but_nulls_is_no_response(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {**GOOD, "r": [None, None]}, {**GOOD, "id": 2, "r": []})
    assert [row.reason for row in rejections(path, response="r")] == ["missing_response"] * 2


def test_a_column_with_a_dot_in_its_name_wins_over_a_nested_one(tmp_path: Path) -> None:
    [problem] = problems(jsonl(tmp_path / "x.jsonl", {**GOOD, "a.b": "flat", "a": {"b": "deep"}}), solution="a.b")
    assert problem.solution == "flat"


def test_limit_counts_rows_whatever_becomes_of_them(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"question": None}, GOOD, {**GOOD, "id": 2})
    assert len(read(path, limit=2)) == 2


# ---- faults of a row: a rejected row, and the others live


DEEP = '{"question": ' + "[" * 2000 + "]" * 2000 + "}"
BAD_LINES: dict[str, tuple[str | bytes, str]] = {
    "null question": ('{"question": null, "answer": "1"}', "missing_question"),
    "no question": ('{"answer": "1"}', "missing_question"),
    "blank question": ('{"question": " \\n", "answer": "1"}', "empty_question"),
    "question is a number": ('{"question": 7, "answer": "1"}', "wrong_type"),
    "question is a list": ('{"question": ["a"], "answer": "1"}', "wrong_type"),
    "null gold": ('{"question": "q", "answer": null}', "missing_gold"),
    "empty gold": ('{"question": "q", "answer": " "}', "missing_gold"),
    "gold is a list": ('{"question": "q", "answer": [1]}', "wrong_type"),
    "id is a list": ('{"id": [1], "question": "q", "answer": "1"}', "wrong_type"),
    "NaN": ('{"question": "q", "answer": NaN}', "not_finite"),
    "infinity": ('{"question": "q", "answer": -Infinity}', "not_finite"),
    "overflow": ('{"question": "q", "answer": 1e999}', "not_finite"),
    "a million digits": ('{"question": "q", "answer": ' + "7" * 1_000_000 + "}", "not_json"),
    "key twice": ('{"question": "q", "question": "r", "answer": "1"}', "duplicate_key"),
    "lone surrogate": ('{"question": "\\ud83d", "answer": "1"}', "lone_surrogate"),
    "lone surrogate in a key": ('{"question": "q", "answer": "1", "\\udc00": 1}', "lone_surrogate"),
    "NUL": ('{"question": "a\\u0000b", "answer": "1"}', "nul"),
    "raw NUL": (b'{"question": "a\0b", "answer": "1"}', "not_json"),
    "depth 2000": (DEEP, "too_deep"),
    "depth 200": ('{"question": "q", "x": ' + "[" * 200 + "]" * 200 + "}", "too_deep"),
    "not JSON": ("question,answer", "not_json"),
    "half a row": ('{"question": "q", "ans', "not_json"),
    "two rows in a line": ('{"question": "q"} {"question": "r"}', "not_json"),
    "not an object": ("[1, 2]", "not_an_object"),
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_row_is_rejected_with_its_reason_and_the_rest_is_read(line: str, tmp_path: Path) -> None:
    text, reason = BAD_LINES[line]
    first, bad, last = read(jsonl(tmp_path / "x.jsonl", GOOD, text, {**GOOD, "id": 3}))
    assert isinstance(first, SourceProblem)
    assert isinstance(last, SourceProblem)
    assert isinstance(bad, SourceRejection)
    assert (bad.reason, bad.row_number, bad.evidence["row_number"]) == (reason, 2, 2)
    assert json.loads(bad.row)
    assert len(bad.row) < 1 << 20
    json.dumps(bad.evidence)


def test_surrogate_pairs_and_deep_text_are_no_faults(tmp_path: Path) -> None:
    row = '{"question": "\\ud83d\\ude00 ' + "[{" * 200 + '", "answer": "1"}'
    assert problems(jsonl(tmp_path / "x.jsonl", row))[0].question.startswith("😀")


@pytest.mark.parametrize(
    ("row", "reason"),
    [({"question": None}, "missing_question"), ({"question": float("nan")}, "missing_question"), ({"answer": None}, "missing_gold"),
     ({"answer": float("nan")}, "missing_gold"), ({"answer": float("inf")}, "wrong_type"), ({"question": "a\0b"}, "nul"),
     ({"question": "x" * 5000}, "too_long")],
)  # fmt: skip
def test_tables_are_held_to_the_same_policy_as_lines(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    filler = {name: type(value)() for name, value in row.items() if value is not None}
    path = parquet(tmp_path / "x.parquet", {**GOOD, **row}, {**GOOD, **filler, "question": filler.get("question", "q")})
    assert rejections(path, Limits(row_bytes=4000))[0].reason == reason


def test_a_torn_last_line_is_a_rejected_row(tmp_path: Path) -> None:
    whole = json.dumps({**GOOD, "question": "ä" * 40}, ensure_ascii=False).encode()
    for cut in (1, 30, len(whole) - 3):
        path = jsonl(tmp_path / "x.jsonl", GOOD)
        path.write_bytes(path.read_bytes() + whole[:cut])
        assert [row.reason for row in rejections(path)] == ["torn_line"]
    path.write_bytes(whole)  # a last line may lack its end and be whole
    assert len(problems(path)) == 1


def test_a_line_of_any_length_costs_no_memory_and_is_rejected_with_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps(GOOD).encode() + b'\n{"question": "')
        for _ in range(64):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + json.dumps({**GOOD, "id": 2}).encode() + b"\n")
    tracemalloc.start()
    rows = read(path, Limits(row_bytes=1 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(row) for row in rows] == [SourceProblem, SourceRejection, SourceProblem]
    assert isinstance(rows[1], SourceRejection)
    assert (rows[1].reason, rows[1].evidence["bytes"]) == ("too_long", (64 << 20) + 17)
    assert peak < 16 << 20


def test_gold_is_asked_for_only_where_it_is_needed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {"question": "q", "answer": None})
    [row] = read_source(Source(path=str(path)), 0, gold_needed=False)
    assert isinstance(row, SourceProblem)
    assert row.problem.gold is None
    assert problems(jsonl(tmp_path / "y.jsonl", {"question": "q"}))[0].gold is None


QUESTION, ANSWERED = {"question": "q"}, {"question": "r", "answer": "1"}


def kinds(rows: Iterable[SourceProblem | SourceRejection]) -> list[str]:
    return [row.reason if isinstance(row, SourceRejection) else "problem" for row in rows]


def test_where_one_row_has_an_answer_the_rows_without_are_refused_before_and_after_it(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", QUESTION, "torn", QUESTION, ANSWERED, QUESTION, ANSWERED)
    rows = read(path)
    assert kinds(rows) == ["missing_gold", "not_json", "missing_gold", "problem", "missing_gold", "problem"]
    assert [row.row_number for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows == read(path)
    assert kinds(read(path, limit=3)) == ["problem", "not_json", "problem"]


def test_a_source_that_is_verified_by_nothing_may_answer_some_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", QUESTION, ANSWERED)
    assert kinds(read_source(Source(path=str(path)), 0, gold_needed=False)) == ["problem", "problem"]


@pytest.mark.parametrize(("before", "first"), [(999, "missing_gold"), (1000, "problem")])
def test_an_answer_is_waited_for_a_thousand_rows(before: int, first: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", *[QUESTION] * before, ANSWERED, QUESTION)
    assert kinds(read(path)) == [first] * before + ["problem", "missing_gold"]


# ---- faults of a file: an error before anything is sampled


def bomb(path: Path) -> Path:
    with gzip.open(path, "wb") as file:
        for _ in range(40):
            file.write(b" " * (1 << 20))
    return path


def bomb_parquet(path: Path) -> Path:
    long = pa.array(["x" * 100_000])
    same = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), long)
    pq.write_table(pa.table({"question": same, "answer": ["1"] * 1000}), path)
    return path


def torn_parquet(path: Path) -> Path:
    whole = parquet(path, *ROWS).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def bad_utf8_parquet(path: Path) -> Path:
    bad = pa.array([b"\xff\xfe", b"ok"]).view(pa.string())
    pq.write_table(pa.table({"question": bad, "answer": ["1", "2"]}), path)
    return path


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing.jsonl": (lambda _: None, "no file or folder"),
    "empty.jsonl": (lambda path: path.touch(), "empty"),
    "blank.jsonl": (lambda path: path.write_text("\n\n"), "empty"),
    "no rows.parquet": (lambda path: pq.write_table(pa.table({"question": pa.array([], pa.string())}), path), "empty"),
    "prose.jsonl": (lambda path: path.write_text("Dear all,\nplease find\n"), "not JSON lines"),
    "table.csv": (lambda path: path.write_text("question,answer\n"), "tracemill reads JSONL"),
    "array.jsonl": (lambda path: path.write_text('[\n{"question": "q"}\n]'), "one JSON array"),
    "utf16.jsonl": (lambda path: path.write_text('{"question": "q"}\n', encoding="utf-16"), "not UTF-8"),
    "latin1.jsonl": (lambda path: jsonl(path, GOOD, '{"question": "ä"}'.encode("latin-1")), "line 2 is not UTF-8: byte 0xe4"),
    "bomb.jsonl.gz": (bomb, "bomb"),
    "bomb.parquet": (bomb_parquet, "bomb"),
    "torn.jsonl.gz": (lambda path: path.write_bytes(write_gzip(path).read_bytes()[:-12]), "not readable as gzip"),
    "fake.jsonl.gz": (lambda path: jsonl(path, GOOD), "not gzip"),
    "fake.parquet": (lambda path: jsonl(path, GOOD), "not parquet"),
    "torn.parquet": (torn_parquet, "not readable"),
    "bad utf8.parquet": (bad_utf8_parquet, "UTF8|UTF-8"),
    "twice.parquet": (lambda path: pq.write_table(pa.table([["a"], ["b"]], names=["question", "question"]), path), "two columns"),
    "no question.jsonl": (lambda path: jsonl(path, {"qestion": "q", "answer": "1"}), "did you mean 'qestion'"),
    "no question.parquet": (lambda path: parquet(path, {"qestion": "q"}), "did you mean 'qestion'"),
    "folder": (lambda path: path.mkdir(), "any data files"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    make, message = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(RecipeError, match=message) as caught:
        read(tmp_path / name, Limits(ratio_from=1 << 20))
    assert name in str(caught.value)


def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop.jsonl"
    loop.symlink_to(loop)
    with pytest.raises(RecipeError, match=r"loop\.jsonl"):
        read(loop)


@pytest.mark.parametrize(
    "mapped",
    ["id", "answer", "solution", "difficulty", "response", "options", "messages", "tools", "question_entities"],
)
def test_a_column_that_no_row_has_is_an_error_that_names_those_there_are(mapped: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", {**GOOD, "a": {"text": "x"}})
    with pytest.raises(
        RecipeError, match=r"no column 'a\.txt'; did you mean 'a\.text'.*the columns are: a, a\.text, answer"
    ):
        read(path, **{mapped: "a.txt"})


def test_a_misspelt_question_column_shows_long_before_the_end_of_the_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", *({"problem": "q", "answer": "1"} for _ in range(2000)))
    rows = read_source(Source(path=str(path)), 0)
    with pytest.raises(RecipeError, match="no column 'question'"):
        list(islice(rows, 1500))


def test_a_rare_column_is_no_misspelt_one(tmp_path: Path) -> None:
    rows = [{"id": number, "question": "q"} for number in range(1500)]
    path = jsonl(tmp_path / "x.jsonl", *rows, {"question": "r", "proof": "p"})
    assert problems(path, solution="proof")[-1].solution == "p"


def test_entities_are_names_or_objects_with_a_type_and_anything_else_turns_the_row_down(tmp_path: Path) -> None:
    both = {"question_entities": "q", "answer_entities": "a"}
    rows = [
        {"q": [{"name": " polyuria ", "type": "sign"}, {"name": "thirst"}], "a": ["insulin"]},
        {"q": None, "a": []},
        *(
            {"q": wrong, "a": ["x"]}
            for wrong in ("polyuria", [1], [{"type": "sign"}], [" "], [{"name": "x", "type": 1}])
        ),
    ]
    path = jsonl(tmp_path / "x.jsonl", *({**GOOD, "id": str(n), **row} for n, row in enumerate(rows)))
    first, second = problems(path, **both)
    assert first.question_entities == (("polyuria", "sign"), ("thirst", None))
    assert first.answer_entities == (("insulin", None),)
    assert (second.question_entities, second.answer_entities) == (None, ())
    assert {row.reason for row in rejections(path, **both)} == {"wrong_type"}
    assert len(rejections(path, **both)) == 5


# ---- hashes


def test_the_hash_of_a_source_is_its_content_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    here, there = jsonl(tmp_path / "x.jsonl", *ROWS), jsonl(tmp_path / "elsewhere/y.jsonl", *ROWS)
    assert source_hash(Source(path=str(here))) == source_hash(Source(path=str(there)))
    jsonl(there, ROWS[0])
    assert source_hash(Source(path=str(here))) != source_hash(Source(path=str(there)))


def test_the_key_of_sources_changes_with_all_that_changes_a_problem(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", *ROWS)

    def keys() -> Iterator[str]:
        source = Source(path=str(path))
        changes: dict[str, Any] = {
            "answer": "answer",
            "licence": "MIT",
            "limit": 1,
            "solution": "a",
            "answer_format": "boxed",
        }
        yield source_key([source])
        yield source_key([source, source])
        yield source_key([source], gold_needed=False)
        for name, value in changes.items():
            yield source_key([source.model_copy(update={name: value})])

    assert len(set(keys())) == 8


# ---- real data


@pytest.mark.skipif(not DATA.is_dir(), reason="real data is not beside the checkout")
@pytest.mark.parametrize(
    ("file", "mapping", "count"),
    [
        ("gsm8k/train.jsonl", {"answer_format": "gsm8k"}, 7473),
        ("gsm8k/example_model_solutions.jsonl", {"answer": "ground_truth", "response": "6b_finetuning.solution", "limit": 500}, 500),
        ("math500/test.jsonl", {"question": "problem", "solution": "solution", "difficulty": "level"}, 500),
    ],
)  # fmt: skip
def test_real_data_is_read_whole(file: str, mapping: dict[str, Any], count: int) -> None:
    rows = problems(DATA / file, **mapping)
    assert len(rows) == count
    assert all(row.gold for row in rows)
