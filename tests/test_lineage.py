"""From a row to every model call it rests on, and to the rows of other versions that it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from tests.conftest import solve
from tracemill.pipelines.asking.explain import explain
from tracemill.pipelines.asking.explain_screens import explain_lines
from tracemill.pipelines.build import build
from tracemill.pipelines.cli import app
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.pipelines.versions.manifest import licences
from tracemill.schemas.recipe import Recipe
from tracemill.synth.journal import Journal
from tracemill.synth.journal.asked import request_of

Make = Callable[..., Recipe]


@pytest.fixture
def store(memory_folder: Path) -> Store:
    return Store(memory_folder / "store")


@pytest.mark.parametrize("samples", [True, False])
def test_every_row_leads_to_the_request_that_made_it_and_all_that_decided_the_answer(
    recipe: Make, store: Store, samples: bool
) -> None:
    built = build(recipe(samples=samples), store, reply=solve).dataset
    manifest = built.manifest()
    rows = built.scan("rows").collect()
    down = [json.loads(row) for row in built.scan("rejected").collect()["row"]]
    keys = [*rows["key"], *(row["key"] for row in down)]
    assert len(set(keys)) == 80
    with Journal(store.journal_folder) as journal:
        requests = {key: request_of(fields) for key, fields in journal.requests(keys)}
        answers = dict(journal.read(keys))
    assert requests.keys() == answers.keys() == set(keys)
    asked = manifest["models"]["solver"]["asked"]
    for row in rows.to_dicts():
        request = requests[row["key"]]
        assert answers[row["key"]].text == row["messages"][-1]["content"]  # type: ignore[union-attr]
        assert (request.problem_id, request.model.name) == (row["problem_id"], row["model"])
        assert request.model.revision == asked["model"]["revision"] == manifest["models"]["solver"]["revision"]
        assert request.sampling.temperature == asked["sampling"]["temperature"]
        assert (request.run_seed, request.seeds) == (asked["seed"], asked["seeds"])
    for name in (
        "recipe",
        "code",
        "plugins",
        "libraries",
        "tracemill",
        "engines",
        "verifier",
        "sources",
        "determinism",
    ):
        assert manifest[name], name
    assert manifest["rate"]["tokens"] == manifest["tokens"]["new"]


def test_explain_names_what_answered(recipe: Make, store: Store) -> None:
    built = build(recipe(), store, reply=solve).dataset
    life = explain(built, "p03")
    by = life["made_by"]["roles"]["solver"]
    assert (by["model"], by["revision"], by["verified"], by["engine"]) == (
        "scripted-solver",
        "unverified",
        False,
        "scripted",
    )
    assert life["made_by"]["code"] == built.manifest()["code"]
    told = list(explain_lines(life))
    assert "  solver: scripted-solver at unverified (unverified), seed 0, on scripted" in told
    assert any("determinism L2" in line for line in told)


def generations(recipe: Make, store: Store, **last: Any) -> list[Dataset]:
    """Sums; sums asked once more, of the rows of the first; and those curated."""
    first = build(recipe(), store, reply=solve).dataset
    columns = {"id": "problem_id", "answer": "gold"}
    again = recipe(name="again", source={"ref": "sums", **columns})
    second = build(again, store, reply=solve).dataset
    table = {"ref": f"again@{second.version[:8]}/rows", "id": "id", "answer": "gold", "response": "content", **last}
    third = recipe(name="third", source=table).model_copy(update={"synth": None, "models": {}, "engines": {}})
    return [first, second, build(third, store, given=True).dataset]


def test_a_row_of_another_version_is_followed_to_where_it_began(recipe: Make, store: Store) -> None:
    first, second, third = generations(recipe, store)
    assert second.manifest()["sources"][0]["parent"] == {"ref": str(first), "table": "rows", "licences": ["CC0-1.0"]}
    row = third.scan("rows").collect().sort("id").to_dicts()[0]
    life = explain(third, row["id"])
    assert [parent["ref"] for parent in life["parents"]] == [str(second), str(first)]
    (was,) = life["parents"][0]["rows"]
    assert was["id"] in row["id"]
    (began,) = life["parents"][1]["rows"]
    assert began["problem_id"] == was["problem_id"]
    assert began["key"] == first.scan("rows").filter(pl.col("id") == began["id"]).collect()["key"].item()
    told = list(explain_lines(life))
    assert any(line.startswith(f"    from {second}, table rows: row {was['id']}") for line in told)
    assert any(line.startswith(f"      from {first}, table rows: row {began['id']}, licence CC0-1.0") for line in told)


def test_a_parent_that_is_gone_is_named_all_the_same(recipe: Make, store: Store) -> None:
    first, second, _ = generations(recipe, store)
    shutil.rmtree(first.path)
    life = explain(second, "p03")
    assert life["parents"][0]["ref"] == str(first)
    assert life["parents"][0]["rows"] is None
    assert any("which is not in this store" in line for line in explain_lines(life))


@pytest.mark.parametrize(
    ("of_parent", "stated", "rolled"),
    [
        ("MIT", "MIT", ["MIT"]),
        ("CC-BY-NC-4.0", "MIT", ["CC-BY-NC-4.0", "MIT"]),
        ("unknown", "MIT", ["MIT", "unknown"]),
        ("MIT", "unknown", ["MIT", "unknown"]),
        ("unknown", "unknown", ["unknown"]),
    ],
)
def test_a_recipe_cannot_state_away_the_licence_of_a_parent(
    recipe: Make, store: Store, problems: Path, of_parent: str, stated: str, rolled: list[str]
) -> None:
    build(recipe(source={"path": str(problems), "licence": of_parent}), store, reply=solve)
    source = {"ref": "sums", "id": "problem_id", "answer": "gold", "licence": stated}
    child = build(recipe(name="child", source=source), store, reply=solve).dataset
    assert licences(child.manifest()) == rolled


@pytest.mark.parametrize(
    "command",
    [
        ["show"],
        ["path"],
        ["explain", "p03"],
        ["diff"],
        ["replay", "--sample", "2"],
        ["export", "--to", "trl-sft"],
        ["publish"],
    ],
    ids=lambda command: command[0],
)
def test_every_command_refuses_a_version_of_a_newer_release_and_says_what_to_do(
    recipe: Make, store: Store, tmp_path: Path, command: list[str]
) -> None:
    built = build(recipe(), store, reply=solve).dataset
    file = built.path / "manifest.json"
    file.chmod(0o600)
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 99, "tracemill": "9.0"}))
    name, *rest = command
    rest += {
        "diff": [str(built)],
        "export": ["--out", str(tmp_path / "out")],
        "publish": ["--to", str(tmp_path / "up")],
    }.get(name, [])
    result = CliRunner().invoke(app, [name, str(built), *rest, "--store", str(store.root)])
    if name == "path":
        assert result.exit_code == 0  # where it lies is known
        return
    assert result.exit_code == (4 if name == "publish" else 2), result.output
    assert "made by tracemill 9.0" in result.output
    assert "pip install -U tracemill" in result.output
    assert not any(tmp_path.glob("out/*"))
    assert not any(tmp_path.glob("up/*"))
