"""`tracemill curate` on traces that exist: from every place, in every layout, with what they bring along."""

import gzip
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import solve
from tests.hub import TOKEN, Hub
from tracemill.pipelines.build import Built, build
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, load_recipe, parse_recipe
from tracemill.synth.tiny.traces import replies, worked

LONG: list[dict[str, Any]] = [
    {"question": f"{i} + {i}?", "answer": str(2 * i), "response": f"So \\boxed{{{2 * i + draw % 2}}} {draw}", "n": draw}
    for draw in range(3)
    for i in range(5)
]
"""Five problems and three traces of each, a row each; the second one is wrong."""
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "6 * 7?"}]


def curate(store: Store, *sources: dict[str, Any], name: str = "curated", **changes: Any) -> Built:
    return build(parse_recipe({"name": name, "source": list(sources), **changes}), store, given=True)


def text(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def zstd(path: Path) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(text(LONG).encode())


def arrow(path: Path) -> None:
    table = pa.Table.from_pylist(LONG)
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


def saved(path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_list(LONG).save_to_disk(path)


PLACES: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": lambda path: path.write_text(text(LONG), encoding="utf-8"),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(text(LONG).encode())),
    "rows.jsonl.zst": zstd,
    "rows.parquet": lambda path: pq.write_table(pa.Table.from_pylist(LONG), path),
    "rows.arrow": arrow,
    "saved": saved,
}


def rows_of(built: Built, *columns: str) -> list[tuple[Any, ...]]:
    return built.dataset.scan("rows").sort("id").select(columns).collect().rows()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # save_to_disk leaves one to the collector
@pytest.mark.parametrize("name", PLACES)
def test_a_row_for_each_trace_is_read_from_every_place(name: str, store: Store, tmp_path: Path):
    PLACES[name](tmp_path / name)
    built = curate(store, {"path": str(tmp_path / name), "response": "response"}, filters=[{"use": "correct"}])
    problems = built.dataset.scan("problems").collect()
    assert problems["outcome"].to_list() == ["chosen"] * 5
    assert problems["roles"].list.first().struct.unnest().select("correct", "total").rows() == [(2, 3)] * 5
    names = {row_id.rpartition("/")[2] for (row_id,) in rows_of(built, "id")}
    assert (names, built.summary()["rows"], built.summary()["rejected"]) == ({"response[0]", "response[2]"}, 10, 5)
    [source] = built.dataset.manifest()["sources"]
    assert (source["read"], source["repeated"], source["held"], source["chosen"]) == (15, 10, 5, 10)


def test_conversations_end_in_their_trace(store: Store, tmp_path: Path):
    answers = [{"role": "assistant", "content": "\\boxed{42}", "reasoning_content": "6 * 7 is 42."}]
    rows = [{"messages": [*TURNS, *answers], "answer": "42"}, {"messages": TURNS, "answer": "42", "id": "asked"}]
    path = tmp_path / "chat.jsonl"
    path.write_text(text(rows), encoding="utf-8")
    built = curate(store, {"path": str(path), "messages": "messages", "response": "messages"})
    [row] = built.dataset.scan("rows").collect().to_dicts()
    assert (row["question"], row["reasoning"], row["content"]) == ("6 * 7?", "6 * 7 is 42.", "\\boxed{42}")
    assert (row["correct"], row["id"].rpartition("/")[2]) == (True, "messages")
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    assert built.dataset.scan("rejected").collect()["reason"].to_list() == ["ends_without_assistant"]


def test_columns_that_come_along_say_what_they_say(store: Store, tmp_path: Path):
    told = {"n_tokens": 900, "tokenizer": "qwen", "finish_reason": "length", "model": "r1", "correct": False}
    rows = [{**LONG[0], **told, "score": 0.5, "tags": ["a"]}, {**LONG[1], "score": None}]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    columns = ["n_tokens", "tokenizer", "finish_reason", "model", "correct", "score", "tags"]
    source = {"path": str(path), "response": "response", "columns": columns}
    built = curate(store, source, filters=[{"use": "where", "sql": "score IS NULL OR score > 0.2"}])
    found = {row["n_tokens"]: row for row in built.dataset.scan("rows").select(*columns).collect().to_dicts()}
    assert found[900] == {**told, "score": 0.5, "tags": ["a"]}, "text and gold agree, and the row says they do not"
    counted = {"n_tokens": 3, "tokenizer": "words", "finish_reason": "given", "model": "response", "correct": True}
    assert found[3] == {**counted, "score": None, "tags": None}


def test_a_trace_that_brings_a_name_keeps_it_in_any_order_of_rows(store: Store, tmp_path: Path):
    rows = [{**row, "run": f"run-{row['n']}"} for row in LONG]
    versions = []
    for number, order in enumerate((rows, rows[::-1])):
        path = tmp_path / str(number) / "rows.jsonl"
        path.parent.mkdir()
        path.write_text(text(order), encoding="utf-8")
        built = curate(store, {"path": str(path), "response": "response", "trace": "run"})
        versions.append(rows_of(built, "id", "content"))
    assert versions[0] == versions[1]
    assert {row_id.rpartition("/")[2] for row_id, _ in versions[0]} == {"run-0", "run-1", "run-2"}


def test_two_rows_of_one_name_are_refused_but_for_the_first(store: Store, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        text([{**LONG[0], "run": "x"}, {**LONG[5], "run": "x"}, {**LONG[1], "run": None}]), encoding="utf-8"
    )
    built = curate(store, {"path": str(path), "response": "response", "trace": "run"})
    reasons = sorted(built.dataset.scan("rejected").collect()["reason"])
    assert (reasons, built.summary()["rows"]) == (["duplicate_trace", "missing_trace"], 1)


def test_traces_of_another_version_keep_what_they_are(recipe: Callable[..., Recipe], store: Store):
    model = {"name": "scripted-solver", "max_tokens": 64, "system": "Be brief."}
    first = build(recipe(model=model, select=[{"use": "select2reason", "percent": 50.0}]), store, reply=solve)
    ref = f"sums@{first.dataset.version}/rows"
    built = curate(store, {"ref": ref}, name="again", filters=[{"use": "length", "at_most": 4}])
    before = first.dataset.scan("rows").drop("key").filter(pl.col("n_tokens") <= 4).sort("id").collect()
    after = built.dataset.scan("rows").drop("key").sort("id").collect()
    changed = {"source", "p1", "p0"}  # a column that is null in all rows comes without its type
    assert set(before.columns) == set(after.columns)
    assert [c for c in before.columns if c not in changed and not after[c].equals(before[c])] == []
    assert set(after["source"]) == {ref}
    [source] = built.dataset.manifest()["sources"]
    assert (source["licence"], source["licences"]) == ("CC0-1.0", ["CC0-1.0"])
    total = first.dataset.scan("rows").collect().height
    assert (source["traces"], source["chosen"]) == (total, after.height)


def test_wrong_and_undecided_traces_of_another_version_are_counted_as_before(
    recipe: Callable[..., Recipe], store: Store
):
    first = build(recipe(filters=[], select=[]), store, reply=solve)
    built = curate(store, {"ref": "sums"}, name="again")
    for table in (first, built):
        assert table.dataset.scan("rows").collect()["correct"].value_counts().sort("correct").rows() == [
            (False, 20),
            (True, 60),
        ]
    assert built.dataset.manifest()["roles"][0]["correct"] == 60


def test_a_selector_does_not_write_over_what_traces_bring(recipe: Callable[..., Recipe], store: Store):
    half = [{"use": "select2reason", "percent": 50.0}]
    build(recipe(select=half), store, reply=solve)
    with pytest.raises(RecipeError, match=r"select:select2reason writes a column '.*', and the traces bring one along"):
        curate(store, {"ref": "sums"}, name="again", select=half)
    built = curate(store, {"ref": "sums", "columns": ["n_tokens", "tokenizer"]}, name="again", select=half)
    assert built.summary()["rows"] == 15


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client calls its HTTP library so
def test_selectors_that_write_the_same_columns_follow_one_another_and_the_last_is_heard(store: Store, tmp_path: Path):
    places = [(0, 10), (5, 20), (90, 30), (100, 40)]  # degrees, words
    rows = [
        {
            "id": str(i),
            "question": f"{i}?",
            "answer": "1",
            "response": "so " * words + "1",
            "v": [cosine, math.sin(math.radians(angle))],
        }
        for i, (angle, words) in enumerate(places)
        for cosine in [math.cos(math.radians(angle))]
    ]
    (tmp_path / "rows.jsonl").write_text(text(rows))
    select = [
        {"use": "select2reason", "percent": 100.0, "length": "words"},
        {"use": "semantic_dedup", "vectors": "v", "threshold": 0.99},
        {"use": "semdedup", "vectors": "v", "eps": 0.001},
        {"use": "semantic_dedup", "vectors": "v", "threshold": 0.98},
        {"use": "select2reason", "k": 2, "length": "words"},
    ]
    source = {"path": str(tmp_path / "rows.jsonl"), "response": "response", "columns": ["v"]}
    built = curate(store, source, select=select, verify={"use": "exact", "extract": "last_number"})
    found = built.dataset.scan("rows").sort("id").collect()
    assert found.select("id", "place").rows() == [("0/response", 2), ("2/response", 1)]  # of two, and no more of four
    assert not [name for name in found.columns if name.endswith("_right")]


def test_a_target_that_is_not_met_is_told_on_the_card(store: Store, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(text(LONG))
    source = {"path": str(tmp_path / "rows.jsonl"), "response": "response"}
    built = curate(store, source, select=[{"use": "exact_target", "rows": 20}, {"use": "exact_target", "rows": 3}])
    card = (built.dataset.path / "README.md").read_text()
    assert "| rows | - | 20 | 15 | 15 | 5 |" in card.replace("|  |", "| - |")
    assert "| rows | - | 3 | 3 | 15 | 0 |" in card.replace("|  |", "| - |"), "a second step of one name is told as well"


def test_a_dataset_on_the_hub_is_curated(tmp_path: Path):
    pq.write_table(pa.Table.from_pylist(LONG), tmp_path / "train.parquet")
    (tmp_path / "recipe.toml").write_text(
        'name = "from-hub"\n[source]\nhub = "org/traces"\nresponse = "response"\nlicence = "MIT"\n', encoding="utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "tracemill.pipelines.cli",
        "curate",
        str(tmp_path / "recipe.toml"),
        "--json",
        "--quiet",
    ]
    with Hub() as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        environment = {**os.environ, **own, **quiet}
        upload = [sys.executable, "-c", UPLOAD, str(tmp_path / "train.parquet")]
        subprocess.run(upload, env=environment, check=True, capture_output=True)
        run = subprocess.run(
            [*command, "--store", str(tmp_path / "store")], env=environment, capture_output=True, text=True, check=False
        )
    assert run.returncode == 0, run.stderr
    built = json.loads(run.stdout.splitlines()[-1])
    assert (built["problems"], built["rows"]) == (5, 15)


UPLOAD = """
import sys, huggingface_hub
api = huggingface_hub.HfApi()
api.create_repo("org/traces", repo_type="dataset")
api.upload_file(path_or_fileobj=sys.argv[1], path_in_repo="train.parquet", repo_id="org/traces", repo_type="dataset")
"""


# ---- the recipe that ships

ROOT = Path(__file__).resolve().parent.parent
CAUGHT = {
    "looped": {"filter:repetition"},
    "cut": {"filter:truncated", "filter:correct"},  # the first file does not say how a text ended: no answer was found
    "refused": {"filter:refusal"},
    "german": {"filter:language"},
    "leaking": {"filter:leaks_answer"},
    "wrong": {"filter:correct"},
    "good": {"select:near_duplicates", "select:pass_rate", "select:select2reason", None},
}
CAUGHT["copied"] = set().union(*CAUGHT.values())  # of whatever it repeats


def kinds() -> dict[str, str]:
    """What is wrong with each text of the shipped files."""
    found = {}
    for row in map(json.loads, (ROOT / "data/traces/worked.jsonl").read_text(encoding="utf-8").splitlines()):
        found |= dict(zip(row["generations"], row["kinds"], strict=True))
    for row in map(json.loads, (ROOT / "data/traces/replies.jsonl").read_text(encoding="utf-8").splitlines()):
        found[row["messages"][-1]["content"]] = row["kind"]
    return found


def test_the_shipped_traces_are_those_that_the_generator_makes():
    for name, rows in (("worked", worked()), ("replies", replies())):
        assert [
            json.loads(line) for line in (ROOT / f"data/traces/{name}.jsonl").read_text("utf-8").splitlines()
        ] == list(rows)


def test_the_shipped_recipe_finds_what_is_wrong_with_its_traces(store: Store):
    pytest.importorskip("rensa")
    pytest.importorskip("py3langid")
    dataset = build(load_recipe(ROOT / "data/recipes/curate.toml"), store, given=True).dataset
    rejected = dataset.scan("rejected").collect()
    stages = {
        json.loads(row)["messages"][-1]["content"]: stage for stage, row in rejected.select("stage", "row").rows()
    }
    stages |= {turns[-1]["content"]: None for turns in dataset.scan("rows").collect()["messages"].to_list()}
    of_kind = kinds()
    assert {of_kind[text] for text in stages} == set(CAUGHT)
    assert [(of_kind[text], stage) for text, stage in stages.items() if stage not in CAUGHT[of_kind[text]]] == []
    one, other = dataset.manifest()["sources"]
    assert (one["taken"], one["left_out"], other["taken"], other["left_out"]) == (60, 0, 30, 15)
    assert 'license_name: "Apache-2.0, CC0-1.0"' in (dataset.path / "README.md").read_text(encoding="utf-8")
