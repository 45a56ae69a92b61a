"""A version from its card alone: what the card says to type makes it again."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.conftest import PROBLEMS, solve
from tests.test_trl import blocks
from tracemill.pipelines.build import build
from tracemill.pipelines.cards.parts import column_rows
from tracemill.pipelines.cards.use import again, training
from tracemill.pipelines.recipes.catalog import find
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.recipe import Recipe, Step, load_recipe
from tracemill.schemas.tables import ROWS
from tracemill.selectors.semdedup import MEMBER


def copied(dataset: Dataset, to: Path) -> Path:
    """The version as a stranger has it: its files, writable, and nothing beside them."""
    for file in dataset.path.rglob("*"):
        if file.is_file():
            (to / file.relative_to(dataset.path)).parent.mkdir(parents=True, exist_ok=True)
            (to / file.relative_to(dataset.path)).write_bytes(file.read_bytes())
    return to


def section(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8").partition("## Build it again")[2].partition("\n## ")[0]


@pytest.mark.parametrize("columns", [{}, {"id": "nr", "question": "text", "answer": "final", "difficulty": "level"}])
def test_the_problems_of_a_version_give_it_again_without_its_source(
    recipe: Callable[..., Recipe], problems: Path, store: Store, tmp_path: Path, columns: dict[str, str]
):
    source = {"path": str(problems), "licence": "MIT", **columns}
    rows = [{columns.get(name, name): value for name, value in row.items()} for row in PROBLEMS]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = build(recipe(source=source), store, reply=solve).dataset
    problems.unlink()
    folder = copied(first, tmp_path / "stranger")
    [code] = blocks((folder / "README.md").read_text(encoding="utf-8"), "Build it again")
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env={**os.environ, "POLARS_MAX_THREADS": "1"})
    again_ = build(load_recipe(folder / "recipe.toml"), Store(tmp_path / "other"), reply=solve).dataset
    for table in ("rows", "problems", "samples", "rejected"):
        assert again_.manifest()["tables"][table]["content"] == first.manifest()["tables"][table]["content"]
    assert again_.version != first.version
    assert "the version has another name" in section(folder)


def test_a_gold_in_a_format_of_its_own_is_plain_in_the_table_and_the_card_says_what_to_set(
    recipe: Callable[..., Recipe], problems: Path, store: Store
):
    problems.write_text("".join(json.dumps({**row, "answer": f"So. #### {row['answer']}"}) + "\n" for row in PROBLEMS))
    source = {"path": str(problems), "answer_format": "gsm8k"}
    dataset = build(recipe(source=source), store, reply=solve).dataset
    assert "with `--set source.0.answer_format=plain` behind the command" in section(dataset.path)


def test_a_source_of_which_more_was_read_is_not_said_to_be_in_the_table(
    recipe: Callable[..., Recipe], problems: Path, store: Store
):
    problems.write_text("".join(json.dumps({**row, "why": "so"}) + "\n" for row in PROBLEMS))
    dataset = build(recipe(source={"path": str(problems), "solution": "why"}), store, reply=solve).dataset
    assert "the source `problems.jsonl` beside `recipe.toml`" in section(dataset.path)
    assert "write_ndjson" not in section(dataset.path)


def test_what_a_rebuild_needs_is_named():
    manifest = {
        "tracemill": "1.2.3",
        "complete": True,
        "models": {"solver": {"name": "org/model"}, "judge": {"name": "served"}},
        "plugins": {"./mine.py:fn": "ab", "keep": "cd"},
        "recipe": {
            "source": [{"hub": "org/data"}, {"ref": "sums@0123456789abcdef/rows"}],
            "engines": {"solver": {"kind": "vllm"}, "judge": {"kind": "openai"}},
        },
    }
    needs = re.findall(r"^- (.*)$", again(manifest), re.MULTILINE)
    assert needs == [
        "the version `sums@0123456789abcdef/rows` in the store",
        "the plug-in `./mine.py`: its sha256 stands in `manifest.json` under `plugins`",
        "the model `org/model` (solver)",
        "the model `served` (judge), at its address: `--set 'engines.judge.base_urls=[\"http://host:8000/v1\"]'`",
    ]


def test_wrong_answers_among_the_rows_are_left_out_of_training():
    manifest = {"tables": {"rows": {"rows": 3}}, "recipe": {"filters": []}}
    assert 'rows.filter(lambda row: row["correct"])' in training(manifest, {"rows": ROWS}, {})
    manifest["recipe"]["filters"] = [{"use": "correct"}]
    assert "rows.filter" not in training(manifest, {"rows": ROWS}, {})


def test_only_what_a_version_holds_is_trained_on():
    manifest = {"tables": {"rows": {"rows": 3}}, "models": {}}
    assert training(manifest, {}, {}) == ""
    assert training({"tables": {"rows": {"rows": 0}}}, {"rows": ROWS}, {}) == ""
    found = training(manifest, {}, {"trl-grpo": 3, "trl-prm": 2, "sharegpt": 3})
    assert re.findall(r"(\w+)Trainer\(", found) == ["GRPO"]
    assert "trl==1.13.0" in found


@pytest.mark.parametrize("name", ["sample", "mixchain", "step_tree", "hints", "petri_trace"])
def test_every_column_of_a_method_is_explained_on_its_cards(name: str):
    method = find("synth", Step(use=name))
    own = pa.schema([(column, pa.string()) for column in method.about("COLUMNS", {})])
    for column, _, meaning in column_rows("traces", own, method.about("MEANING", {})):
        assert not meaning.startswith("Of the method"), f"{name}: nothing is said of {column}"


@pytest.mark.parametrize(
    ("use", "table", "columns"),
    [
        ("cisc", "rows", "weight answer_mass"),
        ("cisc", "votes", "problem_id n n_answers T vote masses sc_answer sc_correct cisc_answer cisc_correct gold"),
        ("cisc", "votes", "wqd_pairs wqd_halves"),
        ("semdedup", "rows", "embedded_share vector_flag cluster_id dist_to_centroid max_sim_to_earlier"),
        ("semdedup", "semdedup", " ".join(MEMBER)),
        ("semdedup", "sweep", "eps kept pool share"),
        ("semantic_dedup", "rows", "embedded_share vector_flag"),
        ("semantic_dedup", "duplicates", "id removed_by similarity identical component"),
        ("semantic_dedup", "components", "component id selected size"),
        ("semantic_dedup", "near_pairs", "id near_id similarity identical"),
        ("select2reason", "rows", "d d_method p1 p0 len_raw len_dedup dup_ratio n_rethink_words rank_d rank_l rank_j"),
        ("select2reason", "rows", "place flags"),
        ("veccisc", "rows", "embedded_share vector_flag answer_norm cluster_id is_representative cos_to_centroid"),
        ("veccisc", "rows", "cluster_size represented_by drop_reason critic_conf weight embedder_id"),
        ("stratified", "strata", "stratum rows wanted taken"),
        ("budget", "budgets", "budget rows taken tokens used left"),
        ("exact_target", "shortfall", "target value wanted got available short"),
        ("length_dial", "pairs", "problem_id short_id long_id short_tokens long_tokens ratio accepted reason dial"),
    ],
)
def test_every_column_of_a_selector_is_explained_on_its_cards(use: str, table: str, columns: str):
    meaning = importlib.import_module(f"tracemill.selectors.{use}").MEANING
    schema = pa.schema([(name, pa.string()) for name in columns.split()])
    for column, _, told in column_rows(table, schema, meaning):
        assert not told.startswith("Of the method"), f"{use}: nothing is said of {column}"


def test_a_plug_in_explains_its_columns_and_those_of_its_tables():
    meaning = {
        "look": "Which look.",
        "looks.look": "Another.",
        "solution_k_token": "Its tokens.",
        "content": "Not heard.",
    }
    schema = pa.schema(
        [("look", pa.int64()), ("solution_12_token", pa.int64()), ("content", pa.string()), ("x", pa.int64())]
    )
    told = [text for _, _, text in column_rows("rows", schema, meaning)]
    assert told[:2] == ["Which look.", "Its tokens."]
    assert told[2].startswith("What follows the think tags")
    assert told[3] == "Of the source, the method, a score or a selector."
    assert next(text for _, _, text in column_rows("looks", schema, meaning)) == "Another."
