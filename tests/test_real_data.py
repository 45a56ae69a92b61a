"""The published files of GSM8K through the whole pipeline. They lie outside the repository; without them these tests skip."""

import json
import os
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from tracemill.pipelines.build import build
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import load_recipe

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
