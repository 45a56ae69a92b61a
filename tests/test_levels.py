"""Adapters and merged weights: what is refused before the first token, and what is right to the bit."""

import errno
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import solve
from tracemill.pipelines.build import build
from tracemill.pipelines.plan import resolve
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import DiskFull, EngineLost, RecipeError
from tracemill.schemas.levels import Levels, canonical_scale, canonical_scales
from tracemill.schemas.recipe import EngineTable, ModelTable, Recipe
from tracemill.schemas.request import Adapter
from tracemill.synth.models import EMBEDDED, open_role
from tracemill.synth.weights.adapters import CONFIG, WEIGHTS, at_scale, check_adapter, hash_adapter
from tracemill.synth.weights.merge import Line, merge
from tracemill.synth.weights.tensors import read_folder, read_header

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

Tensors = dict[str, Any]


def model(folder: Path, seed: int, *, dtype: str = "float32", vocab: int = 12, **config: Any) -> Path:
    """A model of three tensors, in two files and with its index."""
    folder.mkdir(parents=True)
    numbers = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)

    def weights(*shape: int) -> Any:
        return torch.randn(*shape, generator=numbers).to(kind)

    first: Tensors = {
        "model.embed_tokens.weight": weights(vocab, 4),
        "model.layers.0.self_attn.q_proj.weight": weights(6, 4),
    }
    second: Tensors = {"model.norm.weight": weights(4), "model.steps": torch.arange(3)}
    safetensors_torch.save_file(first, folder / "model-00001-of-00002.safetensors")
    safetensors_torch.save_file(second, folder / "model-00002-of-00002.safetensors")
    names = {
        **dict.fromkeys(first, "model-00001-of-00002.safetensors"),
        **dict.fromkeys(second, "model-00002-of-00002.safetensors"),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4,
        "num_attention_heads": 2,
        "dtype": dtype,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    vocabulary = {f"t{i}": i for i in range(vocab)}
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"}})
    )
    return folder


def lora(
    folder: Path,
    *,
    rank: int = 2,
    module: str = "model.layers.0.self_attn.q_proj",
    wide: int = 4,
    tall: int = 6,
    **config: Any,
) -> Path:
    folder.mkdir(parents=True)
    tensors: Tensors = {
        f"base_model.model.{module}.lora_A.weight": torch.ones(rank, wide),
        f"base_model.model.{module}.lora_B.weight": torch.ones(tall, rank),
    }
    safetensors_torch.save_file(tensors, folder / WEIGHTS)
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 32,
        "target_modules": ["q_proj"],
        "bias": "none",
        **config,
    }
    (folder / CONFIG).write_text(json.dumps(settings))
    return folder


def load(folder: Path) -> Tensors:
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= safetensors_torch.load_file(file)
    return found


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (0.2, "0.2"),
        ("0.20", "0.2"),
        (1, "1"),
        (1.0, "1"),
        (-0.0, "0"),
        ("2e-1", "0.2"),
        (-0.5, "-0.5"),
        (10, "10"),
        (1e-6, "0.000001"),
    ],
)
def test_every_spelling_of_a_scale_is_one_text(written: float | str, text: str):
    assert canonical_scale(written) == text


@given(st.integers(-16_000_000, 16_000_000))
def test_a_canonical_text_is_its_own_canonical_text_and_the_same_number(millionths: int):
    text = canonical_scale(millionths / 1e6)
    assert canonical_scale(text) == text
    assert "e" not in text.lower()
    assert math.isclose(float(text), millionths / 1e6)


@pytest.mark.parametrize("written", ["", "half", "nan", "inf", True, 0.1 + 0.2, 1e-7, 16.5])
def test_what_is_no_scale_is_refused(written: float | str):
    with pytest.raises(ValueError, match=r"number|beyond|decimals"):
        canonical_scale(written)


def test_scales_are_sorted_as_numbers_and_no_two_are_one():
    assert canonical_scales([10, 9, -1, 0.5]) == ("-1", "0.5", "9", "10")
    with pytest.raises(ValueError, match=r"alphas: 0\.5 is there 2 times"):
        canonical_scales([0.5, "0.50"])


def test_merged_weights_are_the_sum_in_float32_cast_to_the_dtype_of_the_start(tmp_path: Path):
    start, end = model(tmp_path / "a", 1, dtype="bfloat16"), model(tmp_path / "b", 2, dtype="bfloat16")
    merge(Line(start, end), "0.3", tmp_path / "out")
    first, second, made = load(start), load(end), load(tmp_path / "out")
    assert made.keys() == first.keys()
    for name in first.keys() - {"model.steps"}:
        wanted = (first[name].float() + 0.3 * (second[name].float() - first[name].float())).to(torch.bfloat16)
        assert torch.equal(made[name], wanted)
    assert made["model.steps"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
@pytest.mark.parametrize(("alpha", "side"), [("0", "a"), ("1", "b")])
def test_the_ends_of_the_line_are_the_models_bit_for_bit(dtype: str, alpha: str, side: str, tmp_path: Path):
    line = Line(model(tmp_path / "a", 1, dtype=dtype), model(tmp_path / "b", 2, dtype=dtype))
    merge(line, alpha, tmp_path / "out")
    wanted, made = load(tmp_path / side), load(tmp_path / "out")
    assert all(torch.equal(wanted[name], made[name]) for name in wanted)


def test_pieces_of_a_tensor_come_together_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    start, end = model(tmp_path / "a", 1), model(tmp_path / "b", 2, vocab=15)
    merge(Line(start, end), "0.7", tmp_path / "whole")
    monkeypatch.setattr("tracemill.synth.weights.merge.PIECE", 7)  # cuts every tensor, and rows in the middle
    merge(Line(start, end), "0.7", tmp_path / "pieces")
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "pieces" / "model.safetensors"
    ).read_bytes()


def test_a_full_disk_is_said_to_be_one_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    line = Line(model(tmp_path / "a", 1), model(tmp_path / "b", 2))

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tracemill.synth.weights.merge.os.fsync", full)
    with pytest.raises(DiskFull, match="no room for a merged model"):
        merge(line, "0.5", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_merge_that_is_told_to_stop_stops_and_leaves_nothing(tmp_path: Path):
    line = Line(model(tmp_path / "a", 1), model(tmp_path / "b", 2))
    with pytest.raises(EngineLost, match="stopped"):
        merge(line, "0.5", tmp_path / "out", lambda: True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def other_rope(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 500000.0}))


def test_further_tokens_of_the_end_are_taken_as_they_are(tmp_path: Path):
    line = Line(model(tmp_path / "a", 1), model(tmp_path / "b", 2, vocab=15))
    line.check()
    merge(line, "0.5", tmp_path / "out")
    first, second, made = (load(tmp_path / side)["model.embed_tokens.weight"] for side in ("a", "b", "out"))
    assert made.shape == (15, 4)
    assert torch.equal(made[12:], second[12:])
    assert torch.equal(made[:12], first + 0.5 * (second[:12] - first))


@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", float("nan")), ("float16", 60000.0), ("bfloat16", float("inf"))]
)
def test_weights_that_are_not_finite_are_not_merged(dtype: str, value: float, tmp_path: Path):
    start, end = model(tmp_path / "a", 1, dtype=dtype), model(tmp_path / "b", 2, dtype=dtype)
    for folder, sign in ((start, -1), (end, 1)):
        for file in folder.glob("*.safetensors"):
            loaded = safetensors_torch.load_file(file)
            tensors = {n: torch.full_like(t, sign * value) if t.is_floating_point() else t for n, t in loaded.items()}
            safetensors_torch.save_file(tensors, file)
    with pytest.raises(RecipeError, match=r"at alpha 1\.5 is not finite"):
        merge(Line(start, end), "1.5", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merge_that_fails_leaves_nothing(tmp_path: Path):
    start, end = model(tmp_path / "a", 1), model(tmp_path / "b", 2)
    file = end / "model-00002-of-00002.safetensors"
    line = Line(start, end)
    pairs = list(line.pairs())
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(RecipeError, match="cut short"):
        merge(line, "0.5", tmp_path / "out")
    assert len(pairs) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def replaced(name: str, length: int) -> Callable[[Path], None]:
    """Spoils a model by one tensor: another shape of one it has, or one more."""

    def spoil(folder: Path) -> None:
        tensors = load(folder) | {name: torch.ones(length)}
        for file in folder.glob("*.safetensors*"):
            file.unlink()
        safetensors_torch.save_file(tensors, folder / "model.safetensors")

    return spoil


def other_token(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text().replace('"t3"', '"T3"')
    (folder / "tokenizer.json").write_text(text)


def other_heads(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 4}))


def lost_file(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (replaced("model.norm.weight", 5), "model.norm.weight is [4] in the one and [5] in the other"),
        (replaced("model.extra.weight", 5), "model.extra.weight is only in"),
        (other_token, "token 't3' is 3 in the one's vocabulary and is not in the other's"),
        (other_heads, "num_attention_heads is 2 in the one and 4 in the other"),
        (other_rope, "they count positions in another way"),
        (lost_file, "lacks model-00002-of-00002.safetensors"),
    ],
)
def test_models_that_do_not_fit_are_not_mixed(spoil: Callable[[Path], None], said: str, tmp_path: Path):
    line = Line(model(tmp_path / "a", 1), model(tmp_path / "b", 2))
    line.check()
    spoil(line.end)
    with pytest.raises(RecipeError) as refused:
        line.check()
    assert said in str(refused.value)


def test_the_tensors_of_a_real_model_are_read_as_its_own_library_reads_them():
    folder = EMBEDDED / "tiny-reasoner"
    ours, theirs = read_folder(folder), load(folder)
    assert {name: place.shape for name, place in ours.items()} == {name: tuple(t.shape) for name, t in theirs.items()}


def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path):
    bad = tmp_path / "model.safetensors"
    for content in (b"", b"not a header at all", (5).to_bytes(8, "little") + b"[1,2]"):
        bad.write_bytes(content)
        with pytest.raises(RecipeError, match=r"model\.safetensors is not a safetensors file"):
            read_header(bad)


def test_a_scaled_adapter_is_the_adapter_with_its_alpha_scaled(tmp_path: Path):
    folder = lora(tmp_path / "lora", alpha_pattern={"q_proj": 8})
    made = at_scale(folder, Adapter(name="lora", revision=hash_adapter(folder), scale="0.2"), 2, tmp_path / "run")
    config = json.loads((made.folder / CONFIG).read_text())
    assert (config["lora_alpha"], config["alpha_pattern"]) == (6.4, {"q_proj": 1.6})
    assert (made.folder / WEIGHTS).resolve() == (folder / WEIGHTS).resolve()
    again = at_scale(folder, made.adapter, 2, tmp_path / "run")  # a second build finds it there
    assert again == made


@pytest.mark.parametrize("name", ["q_proj", "self_attn.q_proj", r"model\.layers\.\d+\.self_attn\.q_proj"])
def test_a_rank_pattern_counts_for_the_modules_that_it_names(name: str, tmp_path: Path):
    folder = lora(tmp_path / "lora", rank=2, r=8, rank_pattern={"k_proj": 4, name: 2})
    assert check_adapter(folder, model(tmp_path / "base", 1)) == 2


def test_the_hash_of_an_adapter_is_of_its_content_and_not_of_its_name(tmp_path: Path):
    first, same, other = lora(tmp_path / "a"), lora(tmp_path / "b"), lora(tmp_path / "c", lora_alpha=16)
    assert hash_adapter(first) == hash_adapter(same) != hash_adapter(other)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ({"peft_type": "LOHA"}, "only LoRA adapters"),
        ({"use_dora": True}, "DoRA"),
        ({"init_lora_weights": "pissa"}, "changes the base weights too"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan, not a number"),
        ({"r": True}, "r is True, not a number"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "replaces whole modules"),
        ({"lora_alpha": "32"}, "lora_alpha is '32', not a number"),
        ({"r": 4}, "gives model.layers.0.self_attn.q_proj rank 4, and its tensors are of rank 2"),
        (
            {"rank_pattern": {"q_proj": 4}},
            "gives model.layers.0.self_attn.q_proj rank 4, and its tensors are of rank 2",
        ),
        ({"r": 4, "rank_pattern": {"k_proj": 2}}, "gives model.layers.0.self_attn.q_proj rank 4"),
        ({"rank_pattern": {"q_(": 4}}, "rank_pattern names 'q_(', which is no regular expression"),
    ],
)
def test_adapters_that_no_scale_fits_are_refused(make: dict[str, Any], said: str, tmp_path: Path):
    base = model(tmp_path / "base", 1)
    folder = lora(tmp_path / "lora")
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **make}))
    with pytest.raises(RecipeError) as refused:
        check_adapter(folder, base)
    assert said in str(refused.value)


def test_an_adapter_of_another_model_is_refused_by_the_first_weight_that_differs(tmp_path: Path):
    base = model(tmp_path / "base", 1)
    assert check_adapter(lora(tmp_path / "fits"), base) == 2
    with pytest.raises(RecipeError, match=r"q_proj is \[6, 5\] to it, and \[6, 4\]"):
        check_adapter(lora(tmp_path / "wide", wide=5), base)
    with pytest.raises(RecipeError, match=r"changes model\.layers\.7\.mlp\.up_proj"):
        check_adapter(lora(tmp_path / "deep", module="model.layers.7.mlp.up_proj"), base)


def test_an_adapter_that_is_missing_or_a_pickle_is_refused(tmp_path: Path):
    base = model(tmp_path / "base", 1)
    with pytest.raises(RecipeError, match="no adapter folder"):
        check_adapter(tmp_path / "nowhere", base)
    folder = lora(tmp_path / "lora")
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(RecipeError, match=r"adapter_model\.bin is a pickle, which is never loaded"):
        check_adapter(folder, base)


def tiny(tmp_path: Path, levels: Levels, engine: EngineTable | None = None) -> Any:
    table = ModelTable(name="tiny-reasoner", max_tokens=9)
    return open_role("solver", table, engine or EngineTable(kind="vllm"), runtime=tmp_path, levels=levels)


def test_a_merged_level_is_known_by_both_models_and_alpha_and_not_by_folders(tmp_path: Path):
    shutil.copytree(EMBEDDED / "tiny-reasoner", tmp_path / "one" / "end")
    (tmp_path / "one" / "end" / "generation_config.json").write_text('{"top_k": 5}')
    shutil.copytree(tmp_path / "one" / "end", tmp_path / "two" / "end")
    made = []
    for place in ("one", "two"):
        role = tiny(tmp_path, Levels(scales=("0.2", "0.8"), end=str(tmp_path / place / "end")))
        made.append([level.adapter for level in role.levels.values()])
        assert role.passes() == ["0.2", "0.8"]
    assert made[0] == made[1]
    assert [adapter.scale for adapter in made[0]] == ["0.2", "0.8"]
    assert made[0][0].revision.count("sha256:") == 2


def test_a_start_beside_the_model_has_to_have_the_models_tokenizer(tmp_path: Path):
    start = model(tmp_path / "a", 1)
    end = model(tmp_path / "b", 2)
    with pytest.raises(RecipeError, match="cannot be mixed: token"):
        tiny(tmp_path, Levels(scales=("0.2",), start=str(start), end=str(end)))


@pytest.mark.parametrize("key", ["adapter", "end"])
def test_an_empty_name_is_refused(key: str, tmp_path: Path):
    with pytest.raises(RecipeError, match=rf"synth\.{key} is empty"):
        tiny(tmp_path, Levels(scales=("0.2",), **{key: ""}))


def test_the_same_model_at_both_ends_is_no_direction(tmp_path: Path):
    with pytest.raises(RecipeError, match="no direction between them"):
        tiny(tmp_path, Levels(scales=("0.2",), end="tiny-reasoner"))


@pytest.mark.parametrize("key", ["adapter", "end"])
def test_a_misspelt_name_of_weights_is_found_before_the_first_token(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RecipeError, match=rf"synth\.{key}: 'tiny-reasoner-lonh' is neither an embedded model"):
        tiny(tmp_path, Levels(scales=("0.2",), **{key: "tiny-reasoner-lonh"}))


def test_an_openai_engine_asks_for_served_names_by_alpha(tmp_path: Path):
    engine = EngineTable(kind="openai", base_urls=("http://127.0.0.1:1/v1",))
    role = tiny(tmp_path, Levels(scales=("0.2", "0.8"), served={"0.8": "long"}), engine)
    assert [level.adapter.name for level in role.levels.values()] == ["tiny-reasoner-alpha0.2", "long"]
    with pytest.raises(RecipeError, match="both 'long'"):
        tiny(tmp_path, Levels(scales=("0.2", "0.8"), served={"0.2": "long", "0.8": "long"}), engine)
    with pytest.raises(RecipeError, match="its server has loaded"):
        tiny(tmp_path, Levels(scales=("0.2",), adapter="tiny-reasoner-long"), engine)


def test_the_recipes_own_folders_are_meant_from_the_recipe(tmp_path: Path, problems: Path):
    from tracemill.schemas.recipe import load_recipe

    file = tmp_path / "r" / "recipe.toml"
    file.parent.mkdir()
    file.write_text(
        f'name = "x"\n[source]\npath = "{problems}"\n[model]\nname = "m"\nmax_tokens = 9\n[synth]\nuse = "mixchain"\nadapter = "./lora"\n'
    )
    recipe = load_recipe(file)
    assert recipe.synth is not None
    assert recipe.synth.options["adapter"] == str(tmp_path / "r" / "lora")


def test_where_an_adapter_lies_is_not_part_of_the_version(recipe: Callable[..., Recipe], store: Store, tmp_path: Path):
    versions = {
        build(
            recipe(synth={"use": "mixchain", "adapter": str(tmp_path / place / "lora")}, filters=[], select=[]),
            store,
            reply=solve,
        ).dataset.version
        for place in ("here", "there")
    }
    assert len(versions) == 1


def test_a_budget_is_refused_where_weights_are_loaded_in_turns(
    recipe: Callable[..., Recipe], store: Store, tmp_path: Path
):
    shutil.copytree(EMBEDDED / "tiny-reasoner", tmp_path / "end")
    (tmp_path / "end" / "generation_config.json").write_text('{"top_k": 5}')
    with pytest.raises(RecipeError, match=r"budget\.tokens: merged weights are loaded one after another"):
        resolve(
            recipe(
                model={"name": "tiny-reasoner", "max_tokens": 9},
                engine={"kind": "vllm"},
                synth={"use": "mixchain", "end": str(tmp_path / "end")},
                budget={"tokens": 5},
            ),
            runtime=store.engines_folder,
        )
