"""One adapter at several scales on real engines: side by side, in the same words on each of them."""

import asyncio
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tracemill.schemas.errors import RequestRefused
from tracemill.schemas.levels import Levels
from tracemill.schemas.recipe import EngineTable, ModelTable
from tracemill.schemas.request import Adapter, Completion, Sampling
from tracemill.synth.backends.vllm.args import environment
from tracemill.synth.models import EMBEDDED, open_role
from tracemill.synth.roles import Role
from tracemill.synth.tiny.problems import arith

pytest.importorskip("vllm", reason="needs vLLM: make demo installs its CPU build")
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]

SCALES = ("0", "0.4", "0.8")
TABLE = ModelTable(name="tiny-reasoner", max_tokens=200, dtype="float32")
QUESTIONS = [row["question"] for row in itertools.islice(arith(seed=77), 12)]
GREEDY = Sampling(temperature=0.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Role]:
    role = of_kind("vllm", tmp_path_factory.mktemp("vllm"))
    await role.backend.start()
    yield role
    await role.backend.close()


def of_kind(kind: str, runtime: Path) -> Role:
    levels = Levels(scales=SCALES, adapter="tiny-reasoner-long")
    return open_role("solver", TABLE, EngineTable(kind=kind), runtime=runtime, levels=levels)  # type: ignore[arg-type]


async def answers(
    role: Role, scales: tuple[str | None, ...] = SCALES, sampling: Sampling = GREEDY
) -> dict[str | None, list[Completion]]:
    """What the role says to every question at each scale, all at once; None is the model itself."""
    asked = [
        role.request(
            f"## Question\n{question}\n## Task\nSolve.",
            sampling=sampling,
            prefix=None,
            tools=None,
            adapter=None if scale is None else role.levels[scale].adapter,
            problem_id=str(number),
        )
        for scale in scales
        for number, question in enumerate(QUESTIONS)
    ]
    found = iter(await asyncio.gather(*map(role.backend.complete, asked)))
    return {scale: [next(found) for _ in QUESTIONS] for scale in scales}


def ids(completions: list[Completion]) -> list[list[int]]:
    return [list(completion.token_ids or ()) for completion in completions]


async def test_levels_side_by_side_say_what_each_says_alone_and_the_model_is_itself_among_them(vllm: Role):
    drawn = Sampling(temperature=1.0)
    for sampling in (GREEDY, drawn):
        together = await answers(vllm, (None, *SCALES), sampling)
        alone = {scale: (await answers(vllm, (scale,), sampling))[scale] for scale in (None, *SCALES)}
        assert together == alone
    greedy = await answers(vllm, (None, "0"))
    assert ids(greedy[None]) == ids(greedy["0"]), "scale 0 is the model itself"


async def test_the_scale_moves_the_length(vllm: Role):
    found = await answers(vllm)
    tokens = [sum(completion.n_tokens for completion in found[scale]) for scale in SCALES]
    assert tokens == sorted(tokens)
    assert tokens[-1] > 1.5 * tokens[0]


async def test_an_adapter_that_is_not_loaded_is_refused_and_the_engine_lives(vllm: Role):
    stranger = Adapter(name="tiny-reasoner-long", revision="sha256:other", scale="0.4")
    request = vllm.request("1 + 1", sampling=GREEDY, prefix=None, tools=None, adapter=stranger, problem_id="x")
    with pytest.raises(RequestRefused, match="has not loaded"):
        await vllm.backend.complete(request)
    assert (await answers(vllm, ("0.4",)))["0.4"][0].text


async def test_transformers_says_the_same_at_every_scale(vllm: Role, tmp_path: Path):
    role = of_kind("hf", tmp_path)
    await role.backend.start()
    try:
        mine, theirs = await answers(role, (None, *SCALES)), await answers(vllm, (None, *SCALES))
    finally:
        await role.backend.close()
    for scale in (None, *SCALES):
        assert ids(mine[scale]) == ids(theirs[scale]), scale


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own server with the adapter loaded once for each scale."""
    runtime = tmp_path_factory.mktemp("server")
    scaled = [f"level-{s}={runtime / 'adapters' / folder.name}" for s, folder in scaled_folders(runtime)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(EMBEDDED / "tiny-reasoner")]
    command += ["--served-model-name", "tiny-reasoner", "--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1"]
    command += [
        "--no-enable-chunked-prefill",
        "--max-num-batched-tokens",
        "2048",
        "--max-num-seqs",
        "64",
        "--port",
        str(port),
    ]
    command += ["--enable-lora", "--max-loras", str(len(SCALES)), "--max-lora-rank", "16", "--lora-modules", *scaled]
    with (runtime / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(local=True), start_new_session=True, cwd=runtime
        )
    yield f"http://127.0.0.1:{port}/v1"
    os.killpg(process.pid, 9)
    process.wait()


def scaled_folders(runtime: Path) -> list[tuple[str, Path]]:
    role = of_kind("vllm", runtime)
    place = runtime / "adapters"
    return [(scale, next(place.glob(f"*-{scale}"))) for scale in role.levels]


async def test_a_server_of_the_levels_says_the_same(vllm: Role, server: str, tmp_path: Path):
    await ready(server)
    engine = EngineTable(kind="openai", base_urls=(server,), send="tokens")
    levels = Levels(scales=SCALES, served={scale: f"level-{scale}" for scale in SCALES})
    table = TABLE.model_copy(update={"tokenizer": "tiny-reasoner"})
    role = open_role("solver", table, engine, runtime=tmp_path, levels=levels)
    await role.backend.start()
    try:
        mine, theirs = await answers(role), await answers(vllm)
    finally:
        await role.backend.close()
    for scale in SCALES:
        assert ids(mine[scale]) == ids(theirs[scale]), scale


async def ready(server: str) -> None:
    """Wait until the server answers; a minute or two."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{server}/models") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)
