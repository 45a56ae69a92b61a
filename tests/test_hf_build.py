"""The hf engine in a recipe, from the weights to a version."""

from pathlib import Path
from typing import Any

import pytest

from tracemill.pipelines.build import build
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import EngineTable, ModelTable, parse_recipe
from tracemill.synth.backends.hf import Hf
from tracemill.synth.models import hash_folder, open_role

pytest.importorskip("transformers", reason="needs the extra: pip install 'tracemill[hf]'")
pytestmark = pytest.mark.timeout(180)

ROOT = Path(__file__).parents[1]
TINY = ROOT / "data/models/tiny-reasoner"
RECIPE: dict[str, Any] = {
    "name": "sums",
    "source": {"path": str(ROOT / "data/problems/arith.jsonl"), "limit": 3},
    "model": {"name": "tiny-reasoner", "max_tokens": 100, "dtype": "float32"},
    "engine": {"kind": "hf", "args": {"batch": 5}},
    "synth": {"use": "sample", "n": 2, "prompt": "## Question\n{question}\n## Task\nThink carefully."},
}


def test_the_recipe_finds_the_engine_and_proves_the_weights(tmp_path: Path) -> None:
    role = open_role("solver", ModelTable(name="tiny-reasoner", max_tokens=9), EngineTable(kind="hf"), runtime=tmp_path)
    assert isinstance(role.backend, Hf)
    assert role.send == "tokens"
    assert role.model.revision == hash_folder(TINY)
    stray = EngineTable(kind="hf", base_urls=("http://127.0.0.1:9/v1",))
    with pytest.raises(RecipeError, match="'base_urls' means nothing to an engine of kind 'hf'"):
        open_role("solver", ModelTable(name="tiny-reasoner", max_tokens=9), stray, runtime=tmp_path)


def test_a_build_draws_once_and_is_the_same_on_another_store_and_batch_size(tmp_path: Path) -> None:
    recipe = parse_recipe(RECIPE)
    first = build(recipe, Store(tmp_path / "store"))
    assert first.tally.meter.samples_new == 6
    again = build(recipe, Store(tmp_path / "store"))
    assert (again.tally.meter.samples_new, again.tally.meter.samples_replayed) == (0, 6)
    wider = parse_recipe({**RECIPE, "engine": {"kind": "hf", "at_once": 3}})
    anew = build(wider, Store(tmp_path / "elsewhere"))
    assert anew.tally.meter.samples_new == 6
    assert first.dataset.version == again.dataset.version == anew.dataset.version
    assert first.dataset.manifest()["engines"]["solver"]["engine"] == "hf"
