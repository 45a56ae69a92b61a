"""The recipe: short forms, paths, overrides, and a message for every way to get it wrong."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tracemill.pipelines.recipes.toml import to_toml
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import (
    Budget,
    EngineTable,
    ModelTable,
    Recipe,
    Source,
    load_recipe,
    parse_recipe,
    suggest,
)

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "data" / "recipes").glob("*.toml"))
LEAST: dict[str, Any] = {
    "name": "sums",
    "source": {"path": "/data/problems.jsonl"},
    "model": {"name": "m", "max_tokens": 8},
    "synth": {"use": "sample"},
}


def recipe(**changes: Any) -> Recipe:
    return parse_recipe({**LEAST, **changes})


def written(folder: Path, text: str = "", **changes: Any) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text or to_toml({**LEAST, **changes}), encoding="utf-8")
    return file


def test_short_forms_mean_the_long_ones():
    short = recipe(engine={"kind": "scripted"}, models={"judge": {"name": "j", "max_tokens": 1}})
    long = parse_recipe(
        {
            "name": "sums",
            "source": [{"path": "/data/problems.jsonl"}],
            "models": {"solver": {"name": "m", "max_tokens": 8}, "judge": {"name": "j", "max_tokens": 1}},
            "engines": {"solver": {"kind": "scripted"}},
            "synth": {"use": "sample"},
        }
    )
    assert short == long


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_written_out_with_all_defaults_is_the_same_recipe(path: Path):
    loaded = load_recipe(path)
    spelt_out = to_toml(loaded.model_dump(mode="json", exclude_none=True))
    assert parse_recipe(tomllib.loads(spelt_out)) == loaded


@pytest.mark.parametrize(
    ("model", "table"),
    [(Source, "source"), (ModelTable, "model"), (EngineTable, "engine"), (Budget, "budget"), (Recipe, None)],
)
def test_every_key_with_a_letter_missing_is_answered_with_the_key(model: type[BaseModel], table: str | None):
    for key in model.model_fields:
        typo = key[0] + key[2:]
        if len(key) < 4:
            continue  # too short to tell
        wrong = {**LEAST, typo: 1} if table is None else {**LEAST, table: {**LEAST.get(table, {}), typo: 1}}
        with pytest.raises(RecipeError, match=rf"unknown key '[a-z0-9.]*{typo}'; did you mean '{key}'\?"):
            parse_recipe(wrong)


def test_all_that_is_wrong_is_said_at_once_and_where():
    with pytest.raises(RecipeError) as wrong:
        parse_recipe({**LEAST, "name": "A", "tolerate": -1, "budget": {"tokens": "many"}}, "my.toml")
    assert [line.split(": ")[:2] for line in str(wrong.value).splitlines()] == [
        ["my.toml", "name"],
        ["my.toml", "tolerate"],
        ["my.toml", "budget.tokens"],
    ]


@given(st.text(max_size=90) | st.text("ab1._-", max_size=90))
def test_a_name_is_either_a_safe_folder_or_refused(name: str):
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789")
    safe = 0 < len(name) <= 80 and name[0] in letters and set(name) <= letters | set("._-") and ".." not in name
    if safe:
        assert recipe(name=name).name == name
    else:
        with pytest.raises(RecipeError, match="a name is 1 to 80"):
            recipe(name=name)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("model", "temperature", 1),
        ("model", "seed", 7),
        ("engine", "at_once", 8),
        ("engine", "at_once", "auto"),
        ("budget", "wall", 60),
        ("source", "responses", ["a", "b"]),
        ("model", "think", ["<think>", "</think>"]),
    ],
)
def test_what_toml_writes_naturally_is_taken(table: str, key: str, value: Any):
    assert recipe(**{table: {**LEAST.get(table, {}), key: value}})


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("model", "temperature", "1.0"),
        ("model", "temperature", 2.5),
        ("model", "max_tokens", 8.0),
        ("model", "max_tokens", True),
        ("engine", "at_once", 0),
        ("engine", "at_once", "many"),
        ("engine", "base_urls", "http://127.0.0.1:8000/v1"),
        ("source", "limit", 0),
        ("source", "answer_format", "latex"),
    ],
)
def test_what_is_almost_right_is_refused_with_its_place_and_value(table: str, key: str, value: Any):
    with pytest.raises(RecipeError) as wrong:
        recipe(**{table: {**LEAST.get(table, {}), key: value}})
    assert f".{key}" in str(wrong.value)
    assert repr(value) in str(wrong.value)


@given(st.recursive(st.integers() | st.floats() | st.booleans() | st.text(max_size=3), st.lists, max_leaves=5))
def test_any_value_of_an_option_arrives_as_it_was_or_is_refused(value: Any):
    if fits(value):
        step = recipe(synth={"use": "./mine.py:f", "option": value}).synth
        assert step is not None
        assert step.options == {"option": value}
    else:
        with pytest.raises(RecipeError, match=r"recipe: synth\.option.* = .*: a number of a recipe is finite"):
            recipe(synth={"use": "./mine.py:f", "option": value})


def fits(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(fits, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return -(2**63) <= value < 2**63 if isinstance(value, int) else True


# ---- paths


def test_paths_are_meant_from_the_recipes_folder_and_come_back_absolute(tmp_path: Path, monkeypatch: Any):
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    file = written(
        tmp_path / "recipes",
        source={"path": "../problems.jsonl", "keep": [{"use": "./mine.py:keep"}]},
        model={"name": "./model", "max_tokens": 8, "tokenizer": "../tok", "template": "./t.jinja"},
        engine={"kind": "scripted", "script": "./reply.py:reply"},
        synth={"use": "./mine.py:method"},
        verify={"use": "./grader.py:grade"},
        filters=[{"use": "correct"}, {"use": "../f.py:f"}],
        select=[{"use": "pkg.module:s"}],
    )
    loaded = load_recipe(Path("recipes") / file.name)
    folder = tmp_path / "recipes"
    assert loaded.source[0].path == str(tmp_path / "problems.jsonl")
    assert loaded.source[0].keep[0].use == f"{folder}/mine.py:keep"
    model = loaded.models["solver"]
    assert (model.name, model.tokenizer, model.template) == (f"{folder}/model", f"{tmp_path}/tok", f"{folder}/t.jinja")
    assert loaded.engines["solver"].script == f"{folder}/reply.py:reply"
    assert loaded.synth is not None
    assert (loaded.synth.use, loaded.verify.use) == (f"{folder}/mine.py:method", f"{folder}/grader.py:grade")
    assert [step.use for step in loaded.filters] == ["correct", f"{tmp_path}/f.py:f"]
    assert loaded.select[0].use == "pkg.module:s"


def test_names_of_models_that_are_no_paths_stay_as_they_are(tmp_path: Path):
    file = written(tmp_path, model={"name": "Qwen/Qwen3-8B", "max_tokens": 8, "tokenizer": "tiny-reasoner"})
    model = load_recipe(file).models["solver"]
    assert (model.name, model.tokenizer) == ("Qwen/Qwen3-8B", "tiny-reasoner")


@pytest.mark.parametrize("override", ["source.0.path=here.jsonl", 'source={path="here.jsonl"}', 'source=[{path="here.jsonl"}]'])  # fmt: skip
def test_a_path_in_an_override_is_meant_from_the_working_folder(tmp_path: Path, monkeypatch: Any, override: str):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = load_recipe(written(tmp_path), [override])
    assert loaded.source[0].path == str(tmp_path / "elsewhere" / "here.jsonl")


# ---- overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("synth.n=4", ("synth", "n"), 4),
        ("synth.prompt=Solve {question}", ("synth", "prompt"), "Solve {question}"),
        ('synth.prompt="4"', ("synth", "prompt"), "4"),
        ("synth.alphas=[0.2, 0.4]", ("synth", "alphas"), [0.2, 0.4]),
        ("synth.a=b=c", ("synth", "a"), "b=c"),
        ("synth.empty=", ("synth", "empty"), ""),
        ("model.seed=7", ("models", "solver", "seed"), 7),
        ("models.solver.seed=7", ("models", "solver", "seed"), 7),
        ("engine.kind=scripted", ("engines", "solver", "kind"), "scripted"),
        ("tolerate=0", ("tolerate",), 0),
        ("samples=false", ("samples",), False),
        ("budget.wall=1e3", ("budget", "wall"), 1000.0),
        ("views.trl-sft=true", ("views", "trl-sft"), True),
    ],
)
def test_an_override_is_toml_where_it_can_be_and_text_otherwise(
    tmp_path: Path, override: str, path: tuple[str, ...], value: Any
):
    found: Any = load_recipe(written(tmp_path), [override])
    for part in path:
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value


def test_the_last_of_two_overrides_counts(tmp_path: Path):
    loaded = load_recipe(written(tmp_path), ["tolerate=1", "tolerate=2"])
    assert loaded.tolerate == 2


@pytest.mark.parametrize("index", ["1", "-1", "x", "²", "٣٣"])
def test_a_place_in_a_list_that_is_not_there_says_how_many_there_are(tmp_path: Path, index: str):
    with pytest.raises(RecipeError, match="is not one of 0 to 0"):
        load_recipe(written(tmp_path), [f"source.{index}.path=x"])


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("filtr", ["filters", "synth"], "; did you mean 'filters'?"),
        ("zzz", ["filters", "synth"], "; known: filters, synth"),
        ("zzz", [], "; known: none"),
    ],
)
def test_an_unknown_name_is_answered_with_what_was_meant_or_with_what_there_is(
    name: str, known: list[str], message: str
):
    assert suggest(name, known) == message
