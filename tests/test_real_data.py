"""The published files of GSM8K through the whole pipeline. They lie outside the repository; without them these tests skip."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from tracemill.pipelines.build import build
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import load_recipe, parse_recipe

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TRACEMILL_TEST_DATA", ROOT.parent / "shared" / "data")) / "gsm8k"
RECIPES = ROOT / "data" / "recipes"

needs_data = pytest.mark.skipif(
    not DATA.is_dir(),
    reason=f"the GSM8K files are not at {DATA}; set TRACEMILL_TEST_DATA to the folder that holds gsm8k/",
)


@needs_data
@pytest.mark.timeout(300)
def test_the_solutions_of_four_models_become_a_verified_dataset(store: Store):
    file = DATA / "example_model_solutions.jsonl"
    recipe = load_recipe(RECIPES / "gsm8k-given.toml", [f"source.0.path={file}"])
    dataset = build(recipe, store, given=True).dataset
    rows, rejected = dataset.scan("rows").collect(), dataset.scan("rejected").collect()
    assert len(rows) + len(rejected) == 5276
    ours = dict.fromkeys(rows["id"], True) | dict.fromkeys(rejected["id"], False)
    theirs = {}
    questions = dict(dataset.scan("problems").select("question", "problem_id").collect().iter_rows())
    for line in file.read_text(encoding="utf-8").splitlines():
        problem = json.loads(line)
        for column in recipe.source[0].responses:
            model = column.partition(".")[0]
            theirs[f"{questions[problem['question']]}/{column}"] = problem[model]["is_correct"]
    differences = Counter((theirs[id_], ours[id_]) for id_ in theirs if theirs[id_] != ours[id_])
    assert differences == Counter()
    assert set(rejected["reason"]) <= {"wrong", "undecided"}
    assert dataset.manifest()["problems"] == {"chosen": 887, "none_chosen": 432}


@needs_data
@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_real_problems_on_a_model_that_fails_most_of_them_end_in_a_plain_ledger(store: Store):
    overrides = [f"source.0.path={DATA / 'train.jsonl'}", "source.0.limit=50"]
    dataset = build(load_recipe(RECIPES / "gsm8k-tiny.toml", overrides), store).dataset
    problems, rejected = dataset.scan("problems").collect(), dataset.scan("rejected").collect()
    rows = dataset.scan("rows").collect()
    assert len(problems) == 50
    assert len(rows) + len(rejected) == 200
    assert len(rows) < 40, "the small model was never taught GSM8K"
    assert set(problems["outcome"]) <= {"chosen", "none_chosen"}
    counts = problems.select(pl.col("roles").list.first().struct.unnest()).sum().row(0, named=True)
    assert counts["total"] == 200
    assert counts["correct"] == len(rows)
    assert counts["undecided"] == rejected.filter(pl.col("reason") == "undecided").height
    assert dataset.manifest()["sources"][0]["licence"] == "MIT"


def _number(text: str) -> str | None:
    """The number behind the last `A:` or `####`, read here by itself: without commas, units and a point at the end."""
    found = None
    for match in re.finditer(r"(?:A:|####)\s*\$?(-?[\d,]*\.?\d+)", text):
        found = match[1]
    return None if found is None else f"{float(found.replace(',', '')):g}"


@needs_data
@pytest.mark.timeout(300)
def test_the_columns_of_gsm8k_are_set_and_every_count_is_what_the_file_says(store: Store):
    """Four nested responses a row, with selectors on top; counted anew here, from the file alone."""
    file = DATA / "example_model_solutions.jsonl"
    models = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    source = {
        "path": str(file),
        "id": "question",
        "question": "question",
        "answer": "ground_truth",
        "answer_format": "gsm8k",
        "responses": [f"{model}.solution" for model in models],
        "licence": "MIT",
    }
    steps = [{"use": "pass_rate", "at_least": 0.25, "at_most": 0.75}, {"use": "keep", "k": 1, "prefer": "shortest"}]
    table = {"name": "gsm8k", "source": source, "verify": {"use": "math", "extract": "gsm8k"}}
    recipe = parse_recipe({**table, "filters": [{"use": "correct"}], "select": steps})
    dataset = build(recipe, store, given=True).dataset
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    problems = dataset.scan("problems").collect()
    ours = dict(problems.select("question", pl.col("roles").list.first().struct.field("correct")).iter_rows())
    assert len(ours) == len(lines) == 1319
    theirs = {row["question"]: sum(row[model]["is_correct"] for model in models) for row in lines}
    read_here = {
        row["question"]: sum(_number(row[model]["solution"]) == _number(row["ground_truth"]) for model in models)
        for row in lines
    }
    differ = {question: (ours[question], theirs[question]) for question in ours if ours[question] != theirs[question]}
    assert differ == {}, "verdicts of ours that differ from the file's is_correct"
    assert sum(read_here[q] != theirs[q] for q in theirs) <= 5, "reading the last number alone agrees but for a few"
    rates = Counter(theirs.values())
    counts = Counter({(c["stage"], c["reason"]): c["rows"] for c in dataset.manifest()["counts"]})
    assert counts["select:pass_rate", "too_easy"] == 4 * rates[4]
    assert counts["chosen", ""] == rates[1] + rates[2] + rates[3]
    not_kept = sum(rows for (stage, _), rows in counts.items() if stage == "select:keep")
    assert not_kept + counts["chosen", ""] == sum(n * rates[n] for n in (1, 2, 3))
    wrong = counts["filter:correct", "wrong"] + counts["filter:correct", "undecided"]
    assert wrong == 4 * 1319 - sum(theirs.values())
