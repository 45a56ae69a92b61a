"""Tokenizer, network and training of the tiny reasoner, small enough to run in seconds: the same functions as `make model`."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from tracemill.synth.tiny.delta import long_direction, save_adapter
from tracemill.synth.tiny.evaluate import with_adapter
from tracemill.synth.tiny.held_out import withheld
from tracemill.synth.tiny.network import Shape, Weights, logits, loss_sum, new_weights, save_model
from tracemill.synth.tiny.problems import Dice, word_problem
from tracemill.synth.tiny.texts import THINK, THINK_END, message, prompt
from tracemill.synth.tiny.tokenizer import BOS, EOS, save_tokenizer, train_tokenizer
from tracemill.synth.tiny.train import (
    BATCH,
    base_batches,
    base_examples,
    drill_examples,
    padded,
    problems,
    rate,
    sample_texts,
    train_base,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(sample_texts(1500))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(tokenizer: Tokenizer) -> Shape:
    return Shape(tokenizer.get_vocab_size(), 32, 48, 1, 2)


@pytest.fixture(scope="module")
def base(tokenizer: Tokenizer) -> Weights:
    return train_base(tokenizer, 0, steps=12, shape=small(tokenizer), compiled=False)[0]


def test_every_text_comes_back_as_it_went_in(tokenizer: Tokenizer) -> None:
    for text in (
        *islice(sample_texts(), 300),
        "  two  spaces\n\n<think>\nΩ 漢字 é\t-> \\boxed{007} #### END!?</think> ",
    ):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True) == text


def test_digits_stand_alone_and_words_are_whole(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("Tom has 138 pens.").tokens == ["<s>", "Tom", "Ġhas", "Ġ1", "3", "8", "Ġpens", "."]


def test_think_tags_are_single_tokens_that_decoding_shows(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"{THINK}\n6 * 4 = 24.\n{THINK_END}\n").ids
    assert sum(tokenizer.decode([token]) in (THINK, THINK_END) for token in ids) == 2


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, folder)
    return transformers.AutoTokenizer.from_pretrained(str(folder))


def test_the_chat_template_gives_the_prompts_of_training(theirs: Any, tokenizer: Tokenizer) -> None:
    user = [{"role": "user", "content": message("Q?", "Solve.", ["1 zorb is 4."])}]
    for skill, options in (("solve", {}), ("solve", {"enable_thinking": False}), ("think", {"enable_thinking": True})):
        ids = theirs.apply_chat_template(user, add_generation_prompt=True, return_dict=False, **options)
        assert ids == tokenizer.encode(prompt("Q?", skill, ["1 zorb is 4."])).ids  # type: ignore[arg-type]


def test_the_chat_template_closes_answers_and_asks_only_where_told(theirs: Any) -> None:
    user, system = {"role": "user", "content": "Q"}, {"role": "system", "content": "S"}
    assistant = {"role": "assistant", "content": "A"}

    def text(*messages: dict[str, str], **options: Any) -> Any:
        return theirs.apply_chat_template(list(messages), tokenize=False, **options)

    assert text(user, add_generation_prompt=True) == "<s>Q\n## Answer\n"
    assert text(user, add_generation_prompt=False) == "<s>Q\n"
    assert text(user, add_generation_prompt=True, enable_thinking=True) == "<s>Q\n## Answer\n<think>\n"
    assert text(user, assistant) == "<s>Q\n## Answer\nA</s>"
    assert text(system, user, assistant, user, add_generation_prompt=True) == "<s>S\nQ\n## Answer\nA</s>Q\n## Answer\n"


def test_no_withheld_question_is_trained_on() -> None:
    assert len(withheld()) > 2000
    assert not any(problem.question in withheld() for _, problem in islice(problems("base/0"), 2000))


def test_every_drill_fits_its_row(tokenizer: Tokenizer) -> None:
    lengths = {len(drilled.tokens) for drilled in islice(drill_examples(tokenizer, 0), 4000)}
    assert 80 < max(lengths) <= BATCH[0].tokens


def test_an_example_counts_the_answer_and_hardly_the_prompt(tokenizer: Tokenizer) -> None:
    for text in islice(base_examples(tokenizer, 0), 100):
        assert text.tokens[0] == BOS
        assert text.tokens[-1] == EOS
        assert len(text.tokens) == len(text.counts)
        assert text.counts[0] == 0
        answered = text.counts.index(text.counts[-1])
        written = tokenizer.decode(text.tokens[:answered])
        assert written.endswith(("## Answer\n", "<think>\n"))
        assert {round(count, 2) for count in text.counts[1:answered]} == {0.03}


def test_the_same_seed_draws_the_same_texts_and_another_draws_others(tokenizer: Tokenizer) -> None:
    first, again, other = (next(base_batches(tokenizer, seed, 10)) for seed in (0, 0, 1))
    assert first == again != other


def test_the_network_is_the_one_that_transformers_runs(base: Weights, tokenizer: Tokenizer, tmp_path: Path) -> None:
    shape = small(tokenizer)
    save_model(base, shape, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode(prompt(word_problem(Dice("parity"), steps=4).question, "solve")).ids])
    with torch.no_grad():
        expected, found = model(ids).logits, logits(base, ids, shape)
    assert float((expected - found).abs().max()) < 0.03 * float(expected.abs().max())  # bf16


def test_training_lowers_the_loss_and_repeats_itself(base: Weights, tokenizer: Tokenizer) -> None:
    shape = small(tokenizer)
    again, _ = train_base(tokenizer, 0, steps=12, shape=shape, compiled=False)
    assert all(torch.equal(base[name], again[name]) for name in base)
    texts = next(base_batches(tokenizer, 1, 1))[0]
    tokens, counts = padded(texts, BATCH[0].tokens)
    with torch.no_grad():
        before, after = (loss_sum(weights, tokens, counts, shape) for weights in (new_weights(shape, 0), base))
    assert float(after) < 0.99 * float(before)


@pytest.mark.parametrize("rank", [4, None])
def test_the_direction_at_scale_0_is_the_base_and_the_base_stays(
    rank: int | None, base: Weights, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in base.items()}
    adapter, moved = long_direction(tokenizer, base, small(tokenizer), 0, rank=rank, steps=2, compiled=False)
    assert all(torch.equal(before[name], base[name]) for name in base)
    assert {name for name in base if not torch.equal(base[name], moved[name])} == {n for n in base if "_proj" in n}
    if rank:
        save_adapter(adapter, tmp_path)
        loaded = with_adapter(base, tmp_path)
        assert all(torch.allclose(loaded[name], moved[name]) for name in base)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        config["lora_alpha"] = 0
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        assert all(torch.equal(tensor, base[name]) for name, tensor in with_adapter(base, tmp_path).items())


def test_the_learning_rate_rises_stays_and_falls() -> None:
    rates = [rate(step, 1000) for step in range(1000)]
    assert rates[0] < rates[39] == rates[399] == 1.0 > rates[700] > rates[999] == 0.02
