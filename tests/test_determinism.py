"""The determinism level of a version, and what its manifest and card say of it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import solve
from tests.loopback import Loopback
from tracemill.pipelines.asking.screens import show_lines
from tracemill.pipelines.build import build
from tracemill.pipelines.store import Store
from tracemill.pipelines.versions.determinism import engine_level
from tracemill.schemas.errors import EngineLost
from tracemill.schemas.recipe import Recipe, parse_recipe

Make = Callable[..., Recipe]


@pytest.mark.parametrize(
    ("seeds", "facts", "level"),
    [
        ("request", {"engine": "scripted"}, "L2"),
        ("request", {"engine": "vllm", "platform": "cuda", "dtype": "bfloat16", "batch_invariant": True}, "L2"),
        ("request", {"engine": "vllm", "platform": "cuda", "dtype": "float32", "batch_invariant": False}, "L1"),
        ("request", {"engine": "vllm", "platform": "cpu", "dtype": "float32", "batch_invariant": True}, "L1"),
        ("request", {"engine": "vllm"}, "L1"),
        ("request", {"engine": "hf", "platform": "cpu", "dtype": "float32", "batch_invariant": True}, "L2"),
        ("request", {"engine": "hf", "platform": "cuda", "dtype": "float32", "batch_invariant": False}, "L1"),
        ("request", {"engine": "openai"}, "L1"),
        ("none", {"engine": "vllm", "platform": "cuda", "batch_invariant": True}, "L0"),
        ("none", {"engine": "openai"}, "L0"),
    ],
)
def test_the_level_of_an_engine_follows_from_what_it_says_of_itself(
    seeds: str, facts: dict[str, Any], level: str
) -> None:
    found = engine_level(seeds, facts, "auto")
    assert found["level"] == level
    assert found["why"]


def test_a_build_states_the_level_of_its_engine_and_a_rebuild_that_it_was_replayed(
    recipe: Make, store: Store, tmp_path: Path
) -> None:
    first = build(recipe(), store, reply=solve).dataset
    stated = first.manifest()["determinism"]
    assert (stated["level"], stated["fresh"]) == ("L2", "L2")
    assert stated["roles"] == {"solver": {"level": "L2", "why": "a script answers each request by itself"}}
    card = (first.path / "README.md").read_text(encoding="utf-8")
    assert "Determinism L2: Every request is seeded by its content, and an answer does not depend on" in card
    assert f"`tracemill replay {first} --sample 50`" in card
    assert any(line.startswith("promise   L2: ") for line in show_lines(first))
    second = build(recipe(select=[]), store, reply=solve).dataset
    again = second.manifest()["determinism"]
    assert (again["level"], again["fresh"]) == ("L3", "L2")
    assert again["promise"].startswith("all 80 samples came out of the journal, which gives this version again.")
    grown = build(recipe(synth={"use": "sample", "n": 6}), store, reply=solve).dataset.manifest()["determinism"]
    assert grown["level"] == "L2"
    assert grown["promise"].endswith("Of 120 samples 80 came out of the journal.")


def test_an_interrupted_build_says_what_the_journal_gave_it(recipe: Make, store: Store) -> None:
    with pytest.raises(EngineLost):
        build(recipe(engine={"kind": "scripted", "args": {"lose_after": 30}, "at_once": 1}), store)
    stated = build(recipe(), store).dataset.manifest()["determinism"]
    assert stated["promise"].endswith("Of 80 samples 30 came out of the journal.")


def test_the_least_of_several_engines_holds_and_those_not_asked_do_not_count(recipe: Make, store: Store) -> None:
    models = {name: {"name": f"scripted-{name}", "max_tokens": 64} for name in ("solver", "judge")}
    table = recipe().model_dump(exclude_none=True, exclude={"models", "engines"})
    made = parse_recipe({**table, "models": models, "engines": {"solver": {"kind": "scripted"}}})
    stated = build(made, store, reply=solve).dataset.manifest()["determinism"]
    assert list(stated["roles"]) == ["solver"]


def test_where_nothing_was_sampled_a_rebuild_is_the_same(store: Store, tmp_path: Path) -> None:
    row = {"id": "a", "question": "1 + 1?", "answer": "2", "response": r"\boxed{2}"}
    (tmp_path / "given.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    given = parse_recipe({"name": "given", "source": {"path": str(tmp_path / "given.jsonl"), "response": "response"}})
    dataset = build(given, store, given=True).dataset
    stated = dataset.manifest()["determinism"]
    assert stated == {
        "level": "L3",
        "promise": "nothing was sampled: a rebuild from the same sources is the same version.",
    }
    assert "tracemill replay" not in (dataset.path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("seeds", "level"), [("request", "L1"), ("none", "L0")])
async def test_a_server_is_believed_no_more_than_it_can_prove(
    problems: Path, store: Store, seeds: str, level: str
) -> None:
    async with Loopback() as server:
        table = {
            "name": "sums",
            "source": {"path": str(problems), "limit": 3},
            "model": {"name": "tiny", "max_tokens": 8, "seeds": seeds},
            "engine": {"kind": "openai", "base_urls": [server.url]},
            "synth": {"use": "sample", "n": 1},
        }
        built = await asyncio.to_thread(build, parse_recipe(table), store)
    assert built.dataset.manifest()["determinism"]["level"] == level
