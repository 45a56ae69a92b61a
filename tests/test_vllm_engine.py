"""The vllm backend on the real engine with the embedded tiny model: one engine for nearly all, because one takes a minute."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tracemill.schemas.errors import RecipeError, RequestRefused
from tracemill.schemas.recipe import ModelTable
from tracemill.schemas.request import Adapter, Completion, Model, Request, Sampling
from tracemill.synth.backends.vllm import Vllm, guard

pytest.importorskip("vllm", reason="needs vLLM: make demo installs its CPU build")
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]

TINY = Path(__file__).parents[1] / "data/models/tiny-reasoner"
TABLE = ModelTable(name="tiny-reasoner", max_tokens=100, dtype="float32")
MODEL = Model(name="tiny-reasoner", revision="0", dtype="float32")
QUESTION = "Tom has 5 apples and buys 3 more. Tom finds 4 more. How many apples does Tom have?"
PROMPT = f"## Question\n{QUESTION}\n## Task\nExplain.\n## Answer\n"


def request(index: int = 0, prompt: Any = PROMPT, **fields: Any) -> Request:
    sampling = {"temperature": 1.0, "max_tokens": 100, **fields.pop("sampling", {})}
    return Request(
        model=MODEL, prompt=prompt, sampling=Sampling(**sampling), problem_id="apples", index=index, **fields
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Vllm]:
    backend = Vllm(TINY, model=TABLE, runtime=tmp_path_factory.mktemp("engines"), stall=30)
    await backend.start()
    yield backend
    record = record_of(backend)
    await backend.close()
    assert guard.session(record["pid"], record["started"]) == []
    assert not any((guard.SHARED / name).exists() for name in record["shared"])


def record_of(backend: Vllm) -> dict[str, Any]:
    return json.loads(next(backend._runtime.glob("*.json")).read_text())


async def draw(engine: Vllm, indices: Any) -> list[Completion]:
    return list(await asyncio.gather(*(engine.complete(request(index)) for index in indices)))


async def test_a_seeded_request_has_one_answer_alone_in_a_batch_and_in_any_order(engine: Vllm) -> None:
    batch = await draw(engine, range(48))
    assert (await draw(engine, reversed(range(48))))[::-1] == batch
    assert await draw(engine, [7]) == [batch[7]]
    assert len({completion.text for completion in batch}) > 24, "draws of different index differ"


async def test_a_forced_prefix_is_not_part_of_the_completion(engine: Vllm) -> None:
    whole = await engine.complete(request(sampling={"temperature": 0.0}))
    assert whole.token_ids is not None
    rest = await engine.complete(request(sampling={"temperature": 0.0}, prefix=tuple(whole.token_ids[:9])))
    assert rest.token_ids == whole.token_ids[9:]
    assert whole.text.endswith(rest.text)
    assert rest.prompt_tokens == whole.prompt_tokens + 9
    spoken = await engine.complete(request(sampling={"temperature": 0.0}, prefix="5 + 3 = 8. 8 + 4 ="))
    assert spoken.text.startswith(" 12")


async def test_what_comes_out_of_the_prefix_cache_is_counted(engine: Vllm) -> None:
    block = engine.facts()["block_size"]
    long = tuple(range(5, 105)) * (block // 50)  # two blocks, and whatever they say
    ask = {"prompt": long, "sampling": {"max_tokens": 1}, "scope": "cache"}
    await engine.complete(request(0, **ask))
    before = engine.facts()
    await engine.complete(request(1, **ask))
    after = engine.facts()
    assert after["prompt_tokens"] - before["prompt_tokens"] == len(long)
    assert after["cached_tokens"] - before["cached_tokens"] == len(long) // block * block


async def test_merged_weights_are_the_model_that_is_loaded_and_draw_by_their_own_key(engine: Vllm) -> None:
    merged = Adapter(name="a..b", revision="a..b", scale="0.2", kind="merged")
    plain, other = [await engine.complete(request(adapter=adapter)) for adapter in (None, merged)]
    assert plain.text != other.text, "another key, another stream"
    greedy = {"temperature": 0.0}
    same = [await engine.complete(request(adapter=adapter, sampling=greedy)) for adapter in (None, merged)]
    assert same[0] == same[1]


async def test_a_prompt_of_tokens_is_the_prompt_of_their_text(engine: Vllm) -> None:
    from tokenizers import Tokenizer

    ids = tuple(Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(PROMPT).ids)
    greedy = {"temperature": 0.0}
    text, tokens = [await engine.complete(request(prompt=p, sampling=greedy)) for p in (PROMPT, ids)]
    assert text == tokens


async def test_scores_of_a_completion_are_its_log_probs(engine: Vllm) -> None:
    said = await engine.complete(request(sampling={"logprobs": 3, "temperature": 0.7, "max_tokens": 20}))
    assert said.scores is not None
    assert said.token_ids is not None
    scored = await engine.score(request(prefix=tuple(said.token_ids), kind="score", sampling={"logprobs": 3}))
    assert scored.token_ids == said.token_ids == said.scores.token_ids
    assert list(scored.logprobs) == pytest.approx(list(said.scores.logprobs), abs=1e-4)
    assert scored.top is not None
    for place, (logprob, top) in enumerate(zip(scored.logprobs, scored.top, strict=True)):
        assert len(top) == 3
        assert top == tuple(sorted(top, key=lambda pair: -pair[1])), place
        assert logprob <= top[0][1]
    bare = await engine.score(request(prefix="12", kind="score"))
    assert bare.top is None
    assert len(bare.logprobs) == 2, "digits are tokens of their own"


@pytest.mark.parametrize("wanted", [0, 3])
async def test_flat_log_probs_say_what_those_of_an_object_a_token_say(wanted: int) -> None:
    from vllm.logprobs import append_logprobs_for_next_position, create_prompt_logprobs

    from tracemill.synth.backends.vllm.engine import _split, _split_flat

    ids, flat, plain = [7, 30, 12, 12, 5], create_prompt_logprobs(True), create_prompt_logprobs(False)
    for token in ids[1:]:
        likeliest = [token, 40, 41] if token == 12 else [42, 40, 41]
        own = -0.5 if token == 12 else -3.5
        tokens, logprobs = [token, *likeliest[:wanted]], [own, -0.5, -1.5, -2.5][: wanted + 1]
        for positions in (flat, plain):
            append_logprobs_for_next_position(
                positions, tokens, logprobs, [None] * (wanted + 1), 1 if own == -0.5 else 9, wanted
            )
    for start in (1, 3):
        assert _split_flat(ids[start:], flat[start:], wanted) == _split(ids[start:], plain[start:], wanted)


async def test_a_stop_string_ends_the_text_with_or_without_it(engine: Vllm) -> None:
    without = await engine.complete(request(sampling={"stop": ("8 + 4",), "temperature": 0.0}))
    within = await engine.complete(request(sampling={"stop": ("8 + 4",), "include_stop": True, "temperature": 0.0}))
    assert within.text == without.text + "8 + 4"
    assert (without.finish_reason, without.token_ids) == ("stop", within.token_ids)
    cut = await engine.complete(request(sampling={"max_tokens": 3}))
    assert (cut.finish_reason, cut.n_tokens, cut.truncated) == ("length", 3, True)


async def test_greedy_answers_are_those_of_the_hf_backend(engine: Vllm) -> None:
    """Two libraries, one model: in float32 they choose the same tokens, say the same text, and agree on log-probs."""
    pytest.importorskip("transformers", reason="needs the extra: pip install 'tracemill[hf]'")
    from tracemill.synth.backends.hf import Hf

    other = Hf(TINY, model=TABLE)
    await other.start()
    prompts = [PROMPT, PROMPT.replace("Explain", "Think carefully"), PROMPT.replace("5 apples", "9 apples")]
    for settings in ({}, {"stop": ("Check",)}, {"stop": ("= ",), "include_stop": True}, {"max_tokens": 7}):
        for prompt in prompts:
            ask = request(prompt=prompt, sampling={"temperature": 0.0, "logprobs": 2, **settings})
            theirs, ours = await engine.complete(ask), await other.complete(ask)
            assert replace(ours, scores=None) == replace(theirs, scores=None)
            assert ours.scores is not None
            assert theirs.scores is not None
            assert list(ours.scores.logprobs) == pytest.approx(list(theirs.scores.logprobs), abs=1e-3)
    await other.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": "1 " * 2000},
        {"prompt": (5000,)},
        {"sampling": {"logprobs": 21}},
        {"sampling": {"temperature": 3.0}},
        {"prompt": (), "prefix": "12", "kind": "score"},
    ],
    ids=["too long", "no such token", "too many logprobs", "too hot", "nothing to score after"],
)
async def test_what_can_never_be_answered_is_refused_and_the_engine_lives(wrong: Any, engine: Vllm) -> None:
    ask = request(**wrong)
    with pytest.raises(RequestRefused):
        await (engine.score(ask) if ask.kind == "score" else engine.complete(ask))
    assert (await draw(engine, [0]))[0].text
    assert engine.facts()["rebuilds"] == 0


async def test_facts_name_what_decides_answers(engine: Vllm) -> None:
    facts = engine.facts()
    assert facts["dtype"] == "float32"
    assert facts["max_model_len"] == 1024
    assert {"version", "package", "platform", "device", "batch_invariant", "args"} <= facts.keys()


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_engine_killed_or_stopped_in_the_middle_changes_no_answer(fate: signal.Signals, engine: Vllm) -> None:
    many = range(400)  # more than the engine has seats for: some have not begun when the first are done
    undisturbed = await draw(engine, many)
    rebuilds, answered = engine.facts()["rebuilds"], engine._answered
    again = asyncio.ensure_future(draw(engine, many))
    while engine._answered < answered + 5:  # noqa: ASYNC110 - any moment in the middle will do
        await asyncio.sleep(0.005)
    os.kill(core_of(record_of(engine)), fate)
    assert await again == undisturbed
    assert engine.facts()["rebuilds"] == rebuilds + 1


def core_of(record: dict[str, Any]) -> int:
    for pid in guard.session(record["pid"], record["started"]):
        with contextlib.suppress(OSError):
            if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise AssertionError("no EngineCore runs")


@pytest.mark.slow
async def test_arguments_that_vllm_does_not_know_or_cannot_use_are_explained(tmp_path: Path) -> None:
    for args, said in (({"max_num_seq": 8}, "did you mean 'max_num_seqs'"), ({"block_size": 7}, "did not start")):
        backend = Vllm(TINY, model=TABLE, runtime=tmp_path, engine_args=args)
        with pytest.raises(RecipeError, match=said):
            await backend.start()
        await backend.close()
        assert not list(tmp_path.glob("*.json"))  # noqa: ASYNC240 - a moment


BUILD = """
    import asyncio
    from pathlib import Path
    from tracemill.schemas.recipe import ModelTable
    from tracemill.synth.backends.vllm import Vllm

    async def build():
        backend = Vllm(Path({tiny!r}), model=ModelTable(name="t", max_tokens=9), runtime=Path({runtime!r}))
        await backend.start()
        print("started", flush=True)
        await asyncio.sleep(1000)

    asyncio.run(build())
"""


@pytest.mark.slow
async def test_a_killed_build_leaves_no_engine_and_no_shared_memory(tmp_path: Path) -> None:
    code = textwrap.dedent(BUILD.format(tiny=str(TINY), runtime=str(tmp_path)))
    record = await asyncio.to_thread(killed_build, code, tmp_path)
    assert record["shared"]
    deadline = time.monotonic() + 20
    while guard.session(record["pid"], record["started"]) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    assert guard.session(record["pid"], record["started"]) == []
    await asyncio.sleep(1)
    assert not any((guard.SHARED / name).exists() for name in record["shared"])
    assert not list(tmp_path.glob("*.json"))  # noqa: ASYNC240 - a moment


def killed_build(code: str, runtime: Path) -> dict[str, Any]:
    """The record of the engine of a build that was killed once the engine ran."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        record = json.loads(next(runtime.glob("*.json")).read_text())
        assert core_of(record)
        process.kill()
    return record
