"""The hf backend on the embedded tiny model, as transformers and peft run it."""

import asyncio
import json
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from tracemill.schemas.errors import EngineLost, RecipeError, RequestRefused
from tracemill.schemas.recipe import ModelTable
from tracemill.schemas.request import Adapter, Completion, Model, Request, Sampling
from tracemill.synth.backends.hf import Hf
from tracemill.synth.weights.adapters import Lora

torch = pytest.importorskip("torch", reason="needs the extra: pip install 'tracemill[hf]'")
pytest.importorskip("transformers", reason="needs the extra: pip install 'tracemill[hf]'")
peft = pytest.importorskip("peft", reason="needs the extra: pip install 'tracemill[hf]'")
pytestmark = [pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

TINY = Path(__file__).parents[1] / "data/models/tiny-reasoner"
TABLE = ModelTable(name="tiny-reasoner", max_tokens=100, dtype="float32")
MODEL = Model(name="tiny-reasoner", revision="0", dtype="float32")
TOKENIZER = Tokenizer.from_file(str(TINY / "tokenizer.json"))


def prompt(number: int = 0) -> tuple[int, ...]:
    """Prompts of several lengths."""
    finds = " ".join(["Tom finds 4 more."] * (number % 5))
    question = f"Tom has {number % 90} apples and buys 3 more. {finds} How many apples does Tom have?"
    return tuple(TOKENIZER.encode(f"## Question\n{question}\n## Task\nExplain.\n## Answer\n").ids)


def request(index: int = 0, **fields: Any) -> Request:
    sampling = {"temperature": 1.0, "max_tokens": 60, **fields.pop("sampling", {})}
    given = {"prompt": prompt(index), "problem_id": "apples", "index": index, **fields}
    return Request(model=MODEL, sampling=Sampling(**sampling), **given)


def greedy(index: int = 0, **fields: Any) -> Request:
    return request(index, **{**fields, "sampling": {"temperature": 0.0, **fields.get("sampling", {})}})


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain() -> Any:
    """The model without any of our code."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model without an end token: it writes as much as it may."""
    folder = tmp_path_factory.mktemp("models") / "endless"
    shutil.copytree(TINY, folder)
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


Open = Callable[..., Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines() -> AsyncIterator[Open]:
    """Starts backends, and closes them in the end."""
    made: list[Hf] = []

    async def start(folder: Path = TINY, **options: Any) -> Hf:
        made.append(Hf(folder, **{"model": TABLE, **options}))
        await made[-1].start()
        return made[-1]

    yield start
    for backend in made:
        await backend.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(engines: Open) -> Hf:
    return await engines(engine_args={"batch": 24})


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lora]:
    """One random adapter that changes answers, at several scales."""
    from transformers import AutoModelForCausalLM

    whole = tmp_path_factory.mktemp("adapter") / "1"
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"])
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(str(whole))
    made = {}
    for scale in ("0", "0.5", "1"):
        folder = whole.parent / f"at-{scale}"
        shutil.copytree(whole, folder)
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 4 * float(scale)}))
        made[scale] = Lora(Adapter(name="random", revision="1", scale=scale), folder)
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def adapted(engines: Open, loras: dict[str, Lora]) -> Hf:
    return await engines(loras=list(loras.values()))


async def ask(backend: Hf, requests: Sequence[Request]) -> list[Completion]:
    return list(await asyncio.gather(*map(backend.complete, requests)))


# -- the same request, the same answer


async def test_a_seeded_request_has_the_same_bits_whatever_the_batch_and_its_mates(engine: Hf, engines: Open) -> None:
    """Log-probs are compared as bits: on a CPU in float32 mates change nothing at all, so they change no draw either."""
    requests = [request(i, sampling={"logprobs": 3, "top_p": (0.9, 1.0)[i % 2], "max_tokens": 40}) for i in range(32)]
    together = await ask(engine, requests)
    assert (await ask(engine, requests[::-1]))[::-1] == together
    assert await ask(engine, requests[7:8]) == together[7:8]
    for batch in (3, 40):
        other = await engines(engine_args={"batch": batch})
        assert await ask(other, requests[:16]) == together[:16]
    assert len({completion.text for completion in together}) > 16, "draws of different index differ"


async def test_a_long_row_keeps_its_bits_while_others_come_and_go(endless: Path, engines: Open) -> None:
    """Far into the context, too, where kernels may cut what they sum in blocks."""
    engine = await engines(endless, engine_args={"batch": 8})
    long = request(3, prompt=(prompt(3) * 15)[:500], sampling={"max_tokens": 100, "logprobs": 0})
    alone = await engine.complete(long)
    assert alone.n_tokens == 100
    crowd = [request(i, prompt=prompt(i) * (1 + i % 8), sampling={"max_tokens": 5 * i}) for i in range(4, 20)]
    assert (await ask(engine, [*crowd[:5], long, *crowd[5:]]))[5] == alone


async def test_without_seeds_every_draw_is_a_fresh_one(engine: Hf) -> None:
    first, second = await ask(engine, [request(seeds="none")] * 2)
    assert first.token_ids != second.token_ids


async def test_greedy_is_what_transformers_generates(engine: Hf, plain: Any) -> None:
    requests = [greedy(i) for i in range(10)]
    for asked, said in zip(requests, await ask(engine, requests), strict=True):
        ids = torch.tensor([asked.prompt])
        known = plain.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=60)
        assert list(said.token_ids or ()) == known[0, ids.shape[1] :].tolist()
        assert said.finish_reason == ("stop" if known[0, -1] == plain.generation_config.eos_token_id else "length")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["gpt2", "bloom", "mistral", "gemma2", "qwen2"])
async def test_other_families_of_models_answer_as_transformers_generates(
    kind: str, attention: str, engines: Open, tmp_path: Path
) -> None:
    """Learned positions, none at all, sliding windows, capped logits; random weights, and rows of several lengths."""
    if (kind, attention) in {("bloom", "sdpa"), ("gemma2", "sdpa")}:
        pytest.skip("the family has none, or warns against it")
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    small = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 16,
    }
    small |= {"num_key_value_heads": 2, "sliding_window": 24, "use_sliding_window": True, "max_window_layers": 1}
    odd = {"gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4}, "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4}}
    ends = {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.3}
    config = AutoConfig.for_model(kind, vocab_size=577, **ends, **odd.get(kind, small))
    folder = tmp_path / kind
    shutil.copytree(TINY, folder)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    backend = await engines(folder, engine_args={"attn_implementation": attention})
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
    requests = [
        greedy(i, prompt=prompt(i)[-length:], sampling={"max_tokens": 40}) for i, length in enumerate((3, 20, 33, 48))
    ]
    for asked, said in zip(requests, await ask(backend, requests), strict=True):
        ids = torch.tensor([asked.prompt])
        known = plain.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
        assert list(said.token_ids or ()) == known[0, ids.shape[1] :].tolist()


async def test_a_prompt_of_one_token_is_answered_as_transformers_does(engine: Hf, plain: Any) -> None:
    known = plain.generate(torch.tensor([[1]]), attention_mask=torch.tensor([[1]]), do_sample=False, max_new_tokens=20)
    said = (await ask(engine, [greedy(prompt=(1,), sampling={"max_tokens": 20}), greedy(4)]))[0]
    assert list(said.token_ids or ()) == known[0, 1:].tolist()


# -- drawing


def first_token_probabilities(plain: Any, ids: Sequence[int], temperature: float = 1.0) -> Any:
    with torch.inference_mode():
        return (plain(torch.tensor([ids])).logits[0, -1] / temperature).softmax(-1)


async def test_draws_have_the_models_probabilities(engine: Hf, plain: Any) -> None:
    n, temperature = 1500, 1.5
    settings = {"max_tokens": 1, "temperature": temperature}
    requests = [replace(request(1, sampling=settings), index=index) for index in range(n)]
    drawn = Counter(completion.token_ids[0] for completion in await ask(engine, requests) if completion.token_ids)
    expected = first_token_probabilities(plain, prompt(1), temperature) * n
    common = [token for token, count in enumerate(expected.tolist()) if count >= 5]
    bins = [(drawn[token], float(expected[token])) for token in common]
    bins.append((n - sum(count for count, _ in bins), n - sum(count for _, count in bins)))
    chi = sum((seen - mean) ** 2 / mean for seen, mean in bins if mean > 0.5)
    degrees = len(bins) - 1
    assert degrees >= 3, "or this says little: choose another prompt"
    assert chi < degrees + 4 * math.sqrt(2 * degrees)


@pytest.mark.parametrize("cut", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 0.0}])
async def test_drawing_from_the_likeliest_token_alone_is_greedy(cut: dict[str, Any], engine: Hf) -> None:
    mates = [request(i) for i in range(6)]
    settings = {"temperature": 0.7, **cut}
    replies = await ask(engine, [*mates[:3], request(2, sampling=settings), *mates[3:]])
    assert replies[3].token_ids == (await engine.complete(greedy(2))).token_ids


async def test_top_k_draws_nothing_else(engine: Hf, plain: Any) -> None:
    settings = {"max_tokens": 1, "temperature": 2.0, "top_k": 3}
    replies = await ask(engine, [replace(request(1, sampling=settings), index=i) for i in range(200)])
    allowed = first_token_probabilities(plain, prompt(1)).topk(3).indices.tolist()
    assert {reply.token_ids[0] for reply in replies if reply.token_ids} <= set(allowed)


# -- what comes back


async def test_log_probs_are_those_of_a_plain_forward_pass_before_temperature(engine: Hf, plain: Any) -> None:
    settings = {"logprobs": 4, "temperature": 0.6, "top_k": 5, "max_tokens": 30}
    asked = [request(i, sampling=settings) for i in (2, 3)]
    for one, said in zip(asked, await ask(engine, asked), strict=True):
        assert said.scores is not None
        assert said.scores.token_ids == said.token_ids
        expected = plain_logs(plain, one.prompt, said.scores.token_ids)
        own = [logs[token].item() for logs, token in zip(expected, said.scores.token_ids, strict=True)]
        assert list(said.scores.logprobs) == pytest.approx(own, abs=1e-4)
        assert said.scores.top is not None
        for logs, top in zip(expected, said.scores.top, strict=True):
            assert [token for token, _ in top] == logs.topk(4).indices.tolist()
            assert [logprob for _, logprob in top] == pytest.approx(logs.topk(4).values.tolist(), abs=1e-4)
    bare = await engine.complete(request(sampling={"logprobs": 0}))
    assert bare.scores is not None
    assert bare.scores.top is None
    assert (await engine.complete(request())).scores is None


def plain_logs(plain: Any, before: Any, tokens: Sequence[int]) -> Any:
    with torch.inference_mode():
        logits = plain(torch.tensor([[*before, *tokens]])).logits[0]
    return logits[len(before) - 1 : -1].log_softmax(-1)


async def test_scores_are_those_of_a_plain_forward_pass(engine: Hf, plain: Any) -> None:
    given = [
        request(i, kind="score", prefix=prompt(i + 1) * (1 + i % 3), sampling={"logprobs": i % 3}) for i in range(12)
    ]
    given.append(request(prompt=(5,), kind="score", prefix=(7,)))
    given.append(request(kind="score", prefix=(prompt(3) * 20)[:900]))  # several chunks
    for one, found in zip(given, await asyncio.gather(*map(engine.score, given)), strict=True):
        assert one.prefix is not None
        expected = plain_logs(plain, one.prompt, one.prefix)  # type: ignore[arg-type]
        own = [logs[token].item() for logs, token in zip(expected, one.prefix, strict=True)]
        assert list(found.logprobs) == pytest.approx(own, abs=2e-4)
        assert tuple(found.token_ids) == one.prefix
        k = one.sampling.logprobs or 0
        assert (found.top is None) == (k == 0)
        for logs, top in zip(expected, found.top or (), strict=False):
            assert [logprob for _, logprob in top] == pytest.approx(logs.topk(k).values.tolist(), abs=2e-4)
    assert len((await engine.score(request(kind="score", prefix="12"))).logprobs) == 2, "digits are tokens of their own"


async def test_scores_of_a_completion_are_its_log_probs(engine: Hf) -> None:
    said = await engine.complete(request(sampling={"logprobs": 0}))
    assert said.token_ids is not None
    assert said.scores is not None
    found = await engine.score(request(kind="score", prefix=tuple(said.token_ids)))
    assert list(found.logprobs) == pytest.approx(list(said.scores.logprobs), abs=1e-4)


async def test_a_forced_prefix_is_continued_and_not_repeated(engine: Hf) -> None:
    whole = await engine.complete(greedy())
    assert whole.token_ids is not None
    less = {"max_tokens": whole.n_tokens - 9}
    rest = await engine.complete(greedy(prefix=tuple(whole.token_ids[:9]), sampling=less))
    assert rest.token_ids == whole.token_ids[9:]
    assert rest.text
    assert whole.text.endswith(rest.text)
    assert rest.prompt_tokens == whole.prompt_tokens + 9
    spoken = await engine.complete(greedy(prefix=TOKENIZER.decode(list(whole.token_ids[:9])), sampling=less))
    assert spoken == rest


async def test_a_stop_string_ends_the_text_with_or_without_it(engine: Hf) -> None:
    whole = await engine.complete(greedy())
    stop = whole.text[20:26]
    settings = {"stop": ("never said", stop)}
    without, within = await ask(
        engine, [greedy(sampling=settings), greedy(sampling={**settings, "include_stop": True})]
    )
    assert without.text == whole.text[: whole.text.index(stop)]
    assert within.text == without.text + stop
    assert without.finish_reason == "stop"
    assert without.token_ids == within.token_ids
    assert without.token_ids is not None
    assert whole.token_ids is not None
    assert without.token_ids == whole.token_ids[: without.n_tokens]
    assert stop in TOKENIZER.decode(list(without.token_ids))
    assert stop not in TOKENIZER.decode(list(without.token_ids[:-1])), "it ends with the token that completes it"


async def test_each_row_ends_at_its_own_limit(engine: Hf) -> None:
    replies = await ask(engine, [greedy(sampling={"max_tokens": limit}) for limit in (1, 3, 33, 2)])
    assert [reply.n_tokens for reply in replies][:2] == [1, 3]
    assert (replies[1].finish_reason, replies[1].truncated) == ("length", True)
    near = (prompt() * 40)[:1020]
    cut = await engine.complete(greedy(prompt=near, prefix=None, sampling={"max_tokens": 50}))
    assert cut.n_tokens <= 4, "the context has 1024 places"


async def test_an_end_token_counts_and_does_not_show(engine: Hf) -> None:
    replies = await ask(engine, [request(i, sampling={"max_tokens": 400}) for i in range(10)])
    ended = [reply for reply in replies if reply.finish_reason == "stop"]
    assert ended
    for reply in ended:
        assert reply.token_ids is not None
        assert reply.token_ids[-1] == TOKENIZER.token_to_id("</s>")
        assert reply.n_tokens == len(reply.token_ids)
        assert "</s>" not in reply.text


async def test_marks_that_are_no_special_tokens_show_in_the_text(tmp_path: Path, engines: Open) -> None:
    """As with vLLM: think tags, which reasoning models add to their vocabulary as tokens of their own, are text."""
    folder = tmp_path / "thinker"
    shutil.copytree(TINY, folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    said = (await engines()).complete(greedy(sampling={"max_tokens": 12}))
    ids = list((await said).token_ids or ())
    table = json.loads(tokenizer.to_str())
    names = {place: text for text, place in table["model"]["vocab"].items()}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for place, special in ((ids[2], False), (ids[5], True)):
        table["added_tokens"].append({"id": place, "content": names[place], **flags, "special": special})
    (folder / "tokenizer.json").write_text(json.dumps(table))
    changed = Hf(folder, model=TABLE)
    await changed.start()
    text = (await changed.complete(greedy(sampling={"max_tokens": 12}))).text
    await changed.close()
    remaining = [token for token in ids if token != ids[5]]
    assert text == Tokenizer.from_file(str(folder / "tokenizer.json")).decode(remaining, skip_special_tokens=False)


# -- adapters


async def test_an_adapter_at_scale_0_is_the_base_model(adapted: Hf, engine: Hf, loras: dict[str, Lora]) -> None:
    for index in range(4):
        base = await engine.complete(greedy(index, sampling={"logprobs": 3}))
        assert await adapted.complete(greedy(index, sampling={"logprobs": 3}, adapter=loras["0"].adapter)) == base


async def test_the_base_model_is_untouched_by_loaded_adapters(adapted: Hf, engine: Hf, loras: dict[str, Lora]) -> None:
    bare = await ask(engine, [request(i, sampling={"logprobs": 2}) for i in range(12)])
    mixed = [
        request(i, sampling={"logprobs": 2}, adapter=lora) for lora in (None, loras["1"].adapter) for i in range(12)
    ]
    assert (await ask(adapted, mixed))[:12] == bare


async def test_levels_side_by_side_answer_as_each_alone(adapted: Hf, engines: Open, loras: dict[str, Lora]) -> None:
    levels = [loras["0.5"], loras["1"]]
    requests = [request(i, sampling={"logprobs": 1}, adapter=level.adapter) for i in range(8) for level in levels]
    together = await ask(adapted, requests)
    for place, level in enumerate(levels):
        alone = await engines(loras=[level])
        assert await ask(alone, requests[place::2]) == together[place::2]
    half, one = together[0::2], together[1::2]
    assert [a.text for a in half] != [b.text for b in one], "the adapter changes answers"


async def test_an_adapter_answers_as_peft_does(adapted: Hf, loras: dict[str, Lora]) -> None:
    from transformers import AutoModelForCausalLM

    level = loras["0.5"]
    whole = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32), level.folder
    )
    given = request(2, kind="score", prefix=prompt(4), adapter=level.adapter)
    expected = plain_logs(whole.eval(), given.prompt, prompt(4))
    own = [logs[token].item() for logs, token in zip(expected, prompt(4), strict=True)]
    assert list((await adapted.score(given)).logprobs) == pytest.approx(own, abs=1e-4)


async def test_an_adapter_that_is_not_loaded_is_refused_and_those_that_are_are_named(adapted: Hf, engine: Hf) -> None:
    stranger = request(adapter=Adapter(name="random", revision="1", scale="0.7"))
    with pytest.raises(
        RequestRefused, match=r"'random' at scale 0.7 .* loaded: random at 0 \(1\), random at 0.5 \(1\)"
    ):
        await adapted.complete(stranger)
    with pytest.raises(RequestRefused, match="loaded: none"):
        await engine.complete(stranger)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"?"), "at scale 1: peft cannot load"),
    ],
)
async def test_an_adapter_that_cannot_be_loaded_is_named_before_the_first_token(
    spoil: Callable[[Path], None], said: str, loras: dict[str, Lora], tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(loras["1"].folder, folder)
    spoil(folder)
    with pytest.raises(RecipeError, match=f"adapter 'random'.*{said}"):
        await Hf(TINY, model=TABLE, loras=[replace(loras["1"], folder=folder)]).start()


# -- what goes wrong


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompt": (5,) * 1024}, "1024 tokens"),
        ({"prompt": (5000,)}, "5000 is outside the vocabulary of \\d+"),
        ({"prompt": (-1,)}, "outside the vocabulary"),
        ({"prompt": ()}, "the prompt is empty"),
        ({"prompt": ({"role": "user", "content": "?"},)}, "messages are rendered"),
        ({"sampling": {"logprobs": 21}}, "at most 20"),
        ({"sampling": {"max_tokens": None}}, "max_tokens"),
        ({"sampling": {"temperature": 3.0}}, "0 to 2"),
        ({"prompt": (), "prefix": (5,), "kind": "score"}, "nothing to be scored after"),
        ({"kind": "score"}, "no prefix"),
        ({"kind": "score", "prefix": (5,) * 1020}, "the context has 1024"),
    ],
)
async def test_what_can_never_be_answered_is_refused_for_a_reason(wrong: Any, said: str, engine: Hf) -> None:
    asked = request(**wrong)
    with pytest.raises(RequestRefused, match=said):
        await (engine.score(asked) if asked.kind == "score" else engine.complete(asked))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"bacth": 8}, "did you mean 'batch'"),
        ({"dtype": "float16"}, r"'dtype' changes answers, so it stands under \[model\]"),
        ({"trust_remote_code": True}, "code from a model is not run"),
        ({"batch": 0}, "a whole number of rows"),
        ({"device": 0}, "write a text"),
    ],
)
async def test_engine_arguments_that_mean_nothing_here_are_refused(args: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Hf(TINY, model=TABLE, engine_args=args)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dtype": "fp8"}, "dtype = 'fp8': an hf engine has auto, float32"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype = 'fp8'"),
        ({"quantization": "awq"}, "quantization = 'awq': .* not quantized"),
        ({"max_model_len": 4096}, "max_model_len = 4096: this model has room for 1024"),
    ],
)
async def test_model_settings_that_it_cannot_do_are_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        await Hf(TINY, model=TABLE.model_copy(update=change)).start()


async def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(RecipeError, match="device = 'cuda:99' cannot be used here"):
        await Hf(TINY, model=TABLE, engine_args={"device": "cuda:99"}).start()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model.safetensors", b"no weights", "cannot load .*model: "),
        (
            "config.json",
            b'{"model_type": "llama", "vocab_size": 577, "hidden_size": 64, "intermediate_size": 64}',
            "cannot load|mismatched",
        ),
        ("config.json", None, "no config.json"),
        ("model.safetensors", None, r"no \*.safetensors"),
        ("tokenizer.json", None, "no tokenizer.json"),
    ],
)
async def test_a_model_that_cannot_be_loaded_is_a_fault_of_the_recipe(
    file: str, content: bytes | None, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(RecipeError, match=said):
        await Hf(folder, model=TABLE).start()


async def test_a_checkpoint_that_lacks_weights_is_not_filled_up_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.2.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match=r"missing keys: model.layers.2.mlp.up_proj.weight"):
        await Hf(folder, model=TABLE).start()


async def test_a_model_without_keys_and_values_to_cut_is_refused(tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    folder = tmp_path / "mamba"
    shutil.copytree(TINY, folder)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 577, "state_size": 4}
    MambaForCausalLM(MambaConfig(**small)).save_pretrained(folder)
    with pytest.raises(RecipeError, match="keeps a state"):
        await Hf(folder, model=TABLE).start()


@pytest.mark.parametrize("package", ["torch", "transformers", "peft"])
async def test_without_the_extra_the_error_names_the_command_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch, loras: dict[str, Lora]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RecipeError, match=rf"the {package} package: pip install 'tracemill\[hf\]'"):
        await Hf(TINY, model=TABLE, loras=list(loras.values())).start()


def failing(backend: Hf, when: Callable[[int], bool], error: Callable[[], Exception]) -> Any:
    """Make forward passes of that many rows fail, as a device would; `remove()` it to mend that."""

    def hook(_: Any, __: Any, given: dict[str, Any]) -> None:
        if when(given["input_ids"].shape[0]):
            raise error()

    assert backend._loaded is not None
    return backend._loaded.model.register_forward_pre_hook(hook, with_kwargs=True)


async def test_when_memory_runs_out_the_batch_is_halved_and_every_answer_is_as_without(
    engine: Hf, engines: Open
) -> None:
    tight = await engines(engine_args={"batch": 40})
    failing(tight, lambda rows: rows > 20, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    requests = [request(i, sampling={"max_tokens": 40}) for i in range(44)]
    assert await ask(tight, requests) == await ask(engine, requests)
    assert tight.at_once == 25
    assert tight.progress() == ["memory ran out with 40 rows at once; 20 from now on"]


async def test_a_request_too_large_for_the_memory_alone_is_refused(engines: Open) -> None:
    tight = await engines()
    hook = failing(tight, lambda _: True, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    for ask_it in (tight.complete(request()), tight.score(request(kind="score", prefix=(5,)))):
        with pytest.raises(RequestRefused, match="does not fit in memory"):
            await ask_it
    hook.remove()
    assert (await tight.complete(request())).n_tokens
    assert tight.progress() == []


async def test_a_broken_device_is_a_lost_engine_for_all_who_wait_and_who_come(engines: Open) -> None:
    broken = await engines()
    failing(broken, lambda _: True, lambda: RuntimeError("CUDA error: an illegal memory access was encountered"))
    replies = await asyncio.gather(*(broken.complete(request(i)) for i in range(40)), return_exceptions=True)
    assert {type(reply) for reply in replies} == {EngineLost}
    with pytest.raises(EngineLost, match="illegal memory access"):
        await broken.complete(request())
    assert broken.progress() == ["engine lost"]


async def test_a_cancelled_request_leaves_and_those_not_begun_never_run(endless: Path, engines: Open) -> None:
    small = await engines(endless, engine_args={"batch": 2})
    tasks = [asyncio.create_task(small.complete(request(i, sampling={"max_tokens": 900}))) for i in range(30)]
    await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    began = time.monotonic()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await small.complete(request())).n_tokens
    assert time.monotonic() - began < 10
    assert not small._waiting


async def test_the_event_loop_stays_free_while_the_model_works(engine: Hf) -> None:
    work = asyncio.gather(*(engine.complete(request(i)) for i in range(40)))
    ticks = 0
    while not work.done():
        await asyncio.sleep(0.005)
        ticks += 1
    await work
    assert ticks > 10


async def test_close_is_prompt_tells_those_who_wait_and_may_come_twice(endless: Path, engines: Open) -> None:
    closing = await engines(endless)
    tasks = [asyncio.create_task(closing.complete(request(i, sampling={"max_tokens": 900}))) for i in range(200)]
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await closing.close()
    await closing.close()
    assert time.monotonic() - began < 5
    replies = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(reply) for reply in replies} == {EngineLost}
    with pytest.raises(EngineLost, match="closed"):
        await closing.complete(request())


async def test_a_short_row_does_not_wait_for_a_long_one(endless: Path, engines: Open) -> None:
    engine = await engines(endless, engine_args={"batch": 24})
    long = [request(i, sampling={"max_tokens": 200}) for i in range(12)]
    order: list[int] = []

    async def one(asked: Request, place: int) -> None:
        await engine.complete(asked)
        order.append(place)

    short = [request(i, sampling={"max_tokens": 4}) for i in range(30)]
    await asyncio.gather(*(one(asked, place) for place, asked in enumerate([*long[:8], *short, *long[8:]])))
    assert max(order.index(place) for place in range(8, 38)) < len(order) - 8


async def test_facts_name_what_decides_answers(engine: Hf, adapted: Hf) -> None:
    facts = engine.facts()
    assert facts["engine"] == "hf"
    assert {"package", "version", "torch", "device", "threads", "batch", "args"} <= facts.keys()
    assert (facts["dtype"], facts["max_model_len"], facts["batch"]) == ("float32", 1024, 24)
    assert facts["batch_invariant"]
    assert "peft" in adapted.facts()
    json.dumps(facts)
