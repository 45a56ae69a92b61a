"""The committed weights: what they weigh, that their parts fit together, and that they do what their card says."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tracemill.schemas.intervals import wilson
from tracemill.synth.tiny.card import MEASURED, card, expected, find, pooled
from tracemill.synth.tiny.evaluate import Sampler, along, is_right, skills
from tracemill.synth.tiny.held_out import measured
from tracemill.synth.tiny.texts import plan
from tracemill.synth.tiny.tokenizer import save_tokenizer, train_tokenizer
from tracemill.synth.tiny.train import sample_texts

MODELS = Path(__file__).resolve().parent.parent / "data" / "models"
BASE, LONG, SLOW = (MODELS / name for name in ("tiny-reasoner", "tiny-reasoner-long", "tiny-reasoner-slow"))
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture(scope="module")
def numbers() -> Any:
    return json.loads((BASE / MEASURED).read_text())["numbers"]


def test_all_weights_together_are_under_12_megabytes() -> None:
    assert sum(file.stat().st_size for folder in (BASE, LONG, SLOW) for file in folder.iterdir()) < 12_000_000


def test_the_full_checkpoint_has_the_names_shapes_and_tokenizer_of_the_base() -> None:
    base, slow = (load_file(folder / "model.safetensors") for folder in (BASE, SLOW))
    assert {name: tensor.shape for name, tensor in base.items()} == {name: t.shape for name, t in slow.items()}
    assert 900_000 < sum(tensor.numel() for tensor in base.values()) < 1_000_000
    for name in (*TOKENIZER, "config.json"):
        assert (BASE / name).read_bytes() == (SLOW / name).read_bytes()


def test_the_adapter_fits_every_linear_layer_of_the_base() -> None:
    config = json.loads((LONG / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["bias"]) == ("tiny-reasoner", "none")
    base, halves = load_file(BASE / "model.safetensors"), load_file(LONG / "adapter_model.safetensors")
    assert len(halves) == 2 * sum("_proj" in name for name in base)
    for name, tensor in base.items():
        if "_proj" in name:
            prefix = f"base_model.model.{name.removesuffix('.weight')}"
            assert halves[f"{prefix}.lora_A.weight"].shape == (config["r"], tensor.shape[1])
            assert halves[f"{prefix}.lora_B.weight"].shape == (tensor.shape[0], config["r"])


def test_the_committed_tokenizer_is_the_one_that_training_makes(tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(sample_texts()), tmp_path)
    for name in TOKENIZER:
        assert (tmp_path / name).read_bytes() == (BASE / name).read_bytes()


def test_the_card_is_what_its_numbers_give() -> None:
    assert card(json.loads((BASE / MEASURED).read_text())) == (BASE / "README.md").read_text()


def test_the_card_has_two_seeds_and_says_where_a_third_is_expected(numbers: Any) -> None:
    assert len(numbers) == 2
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert expected([{"right": 50, "n": 100}, {"right": 60, "n": 100}]) == (wilson(0.5, 100)[0], wilson(0.6, 100)[1])


def test_sampled_accuracy_over_all_tasks_falls_with_difficulty_and_leaves_something_to_verify(numbers: Any) -> None:
    for seed in numbers:
        tasks = [cell for cell in seed["cells"] if cell["temperature"] == 1 and cell["table"] == "skills"]
        tasks += find(seed, "hints", "needed", 1.0)
        levels = [pooled([cell for cell in tasks if cell["level"] == level]) for level in (1, 3, 5)]
        assert 0.5 <= pooled(tasks)["right"] / pooled(tasks)["n"] <= 0.95
        easy, middle, hard = (level["right"] / level["n"] for level in levels)
        assert easy > middle > hard > 0.5


@pytest.mark.parametrize("route", ["adapter", "slow"])
def test_length_grows_with_the_scale_and_accuracy_holds_in_the_middle(route: str, numbers: Any) -> None:
    for seed in numbers:
        cells = [pooled(find(seed, "scale", f"{route} {scale}", 1.0)) for scale in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
        lengths = [cell["tokens"] for cell in cells]
        gains = [after - before for before, after in itertools.pairwise(lengths)]
        assert min(gains) > 0
        assert max(gains) < 0.5 * (lengths[-1] - lengths[0])  # a slope, not a jump
        right = [cell["right"] / cell["n"] for cell in cells]
        assert min(right[1:-1]) > max(0.8, min(right[0], right[-1]) - 0.15)  # a dip, and no hole


def test_what_counts_as_right() -> None:
    problem = next(problem for problem in measured(5) if problem.difficulty == 3)
    ending, answer = f"The answer is \\boxed{{{problem.answer}}}.", problem.answer
    assert is_right(f"1 + 1 = 2. {ending}", problem, "solve")
    assert not is_right(f"{ending} The answer is \\boxed{{{answer + 1}}}.", problem, "long")
    assert is_right(f"so\n</think>\n{ending}", problem, "think")
    assert not is_right(f"so {ending}", problem, "think")
    assert not is_right(f"{ending}\n</think>\n", problem, "think")
    assert is_right(f"# Step 1\nso\n# Answer\n\\boxed{{{answer}}}\n# END!", problem, "steps")
    assert not is_right(f"# Answer\n\\boxed{{{answer}}}", problem, "steps")
    assert (is_right("1", problem, "judge"), is_right("0", problem, "judge")) == (True, False)
    assert is_right(plan(problem), problem, "plan")
    assert not is_right(plan(problem) + "\n", problem, "plan")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_committed_weights_reach_the_numbers_of_the_card(numbers: Any) -> None:
    for cell in skills(Sampler(BASE), 20):
        known = pooled(find(numbers[0], "skills", cell.row, cell.temperature, cell.level))
        low, high = wilson(cell.right / cell.n, cell.n, z=3.3)
        assert low <= known["right"] / known["n"] <= high, cell


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_committed_routes_lengthen_chains(numbers: Any) -> None:
    cells = list(along(Sampler(BASE), MODELS, 20, scales=(0.0, 0.5, 1.0)))
    for route in ("adapter", "slow"):
        lengths = [sum(c.tokens for c in cells if c.row == f"{route} {scale}") for scale in (0.0, 0.5, 1.0)]
        assert lengths[0] < 0.8 * lengths[1] < 0.64 * lengths[2]
