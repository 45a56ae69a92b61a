"""The primitives that methods rest on, asked through `Engine` and its journal, on every kind of engine: one table, one file.

What one backend does with one request is tested beside that backend and not again here:

    seeds, stop strings, limits, cancelling, faults          test_hf_backend.py, test_openai_backend.py, test_vllm_backend.py, test_vllm_engine.py
    log-probs against a plain forward pass of transformers   test_hf_backend.py; of vLLM's scores against its own draws: test_vllm_engine.py
    adapters at scales                                       test_levels_engine.py, test_hf_backend.py
    reward models                                            test_reward_model.py
    verdicts, draws and keys                                 test_engine.py
    tokenizers that differ, in a recipe                      test_offline_recipes.py
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.loopback import Loopback, reply
from tracemill.schemas.errors import ProblemFailed, RecipeError
from tracemill.schemas.recipe import EngineTable, ModelTable
from tracemill.schemas.request import Message, Sampling
from tracemill.schemas.rows import Problem
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.fit import check_one_tokenizer
from tracemill.synth.journal import Journal
from tracemill.synth.models import open_role
from tracemill.synth.roles import Role
from tracemill.synth.verify import Verifier
from tracemill.synth.workshop import Workshop

pytestmark = [pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]

QUESTION = "Tom has 5 apples and buys 3 more. Tom finds 4 more. How many apples does Tom have?"
ASKED = (Message(role="user", content=f"## Question\n{QUESTION}\n## Task\nExplain."),)
GREEDY = Sampling(temperature=0.0, max_tokens=24, logprobs=0)


@dataclass(frozen=True)
class Kind:
    """What an engine of a kind can be held to."""

    name: str
    tokens: bool = True
    """Prompts are rendered here to the ids of the model's own tokenizer."""
    model: bool = True
    """A real model answers, so that what it says of its own words can be told to be true."""


KINDS = {
    "scripted": Kind("scripted", tokens=False, model=False),
    "hf": Kind("hf"),
    "openai": Kind("openai", model=False),
    "vllm": Kind("vllm"),
}


class Once:
    """A backend that several roles share: it starts once, and counts what it is asked."""

    def __init__(self, backend: Any) -> None:
        self._backend, self._started = backend, asyncio.Lock()
        self._running, self.asked = False, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def start(self) -> None:
        async with self._started:
            if not self._running:
                await self._backend.start()
                self._running = True

    async def complete(self, request: Any) -> Any:
        self.asked += 1
        return await self._backend.complete(request)

    async def score(self, request: Any) -> Any:
        self.asked += 1
        return await self._backend.score(request)


@dataclass
class Shop:
    """One engine of a kind, as the solver, the judge and a second model of one tokenizer."""

    kind: Kind
    workshop: Workshop
    backend: Once
    numbers: Any

    def engine(self, problem_id: str = "") -> ProblemEngine:
        """A problem's; a new problem unless one is named."""
        return ProblemEngine(
            self.workshop, Problem(problem_id=problem_id or f"p{next(self.numbers)}", question=QUESTION)
        )


def words(role: Role) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A server that writes words of the small model's vocabulary, by what it is asked alone."""

    def answer(body: Mapping[str, Any]) -> dict[str, Any]:
        dice = random.Random(f"{body['prompt']}/{body.get('seed') if body.get('temperature') else ''}")
        ids = [dice.randrange(100, 500) for _ in range(min(body.get("max_tokens", 16), 12))]
        assert role.renderer is not None
        return reply(body, ids, "".join(map(role.renderer.text_of, ids)))

    return answer


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param(name, marks=pytest.mark.vllm if name == "vllm" else ()) for name in KINDS],
)
async def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    kind = KINDS[request.param]
    if kind.name in ("hf", "vllm"):
        pytest.importorskip("transformers" if kind.name == "hf" else "vllm", reason=f"needs the extra {kind.name}")
    folder = tmp_path_factory.mktemp(kind.name)
    server = Loopback(models=None)
    await server.start()
    role = opened(kind, folder, server.url)
    server.answer = words(role) if kind.name == "openai" else server.answer
    backend = Once(role.backend)
    roles = {name: replace(role, name=name, backend=backend) for name in ("solver", "judge", "second")}
    workshop = Workshop(roles, Journal(folder / "journal"), Verifier())
    yield Shop(kind, workshop, backend, iter(range(10**6)))
    await backend.close()
    workshop.verifier.close()
    workshop.journal.close()
    await server.stop()


def opened(kind: Kind, folder: Path, url: str, **engine: Any) -> Role:
    table = ModelTable(
        name={"openai": "served", "scripted": "scripted-solver"}.get(kind.name, "tiny-reasoner"), max_tokens=24, dtype="float32",
        tokenizer="tiny-reasoner" if kind.name == "openai" else None,
    )  # fmt: skip
    at = {"base_urls": (url,), "send": "tokens"} if kind.name == "openai" else {}
    said = {"reply": lambda r: " ".join(f"w{r.rng_seed >> k & 7}" for k in range(6))} if kind.name == "scripted" else {}
    return open_role("solver", table, EngineTable(kind=kind.name, **at, **engine), runtime=folder, **said)  # type: ignore[arg-type]


async def test_what_one_method_drew_another_does_not_draw_again(shop: Shop):
    first, meter = shop.engine("shared"), shop.workshop.meter
    drawn = await first.sample(ASKED, n=3)
    before = meter.samples_new
    again = shop.engine("shared")
    assert await again.sample(ASKED, n=3) == drawn
    assert meter.samples_new == before
    more = await shop.engine("shared").sample(ASKED, n=4)
    assert (more[:3], meter.samples_new) == (drawn, before + 1)


async def test_a_forced_beginning_of_token_ids_is_gone_on_from(shop: Shop):
    [whole] = await shop.engine("forced").sample(ASKED, sampling=GREEDY)
    ids = tuple(whole.token_ids or ())
    assert len(ids) > 5
    [rest] = await shop.engine("forced").sample(ASKED, sampling=GREEDY, prefix=ids[:5])
    assert rest.key != whole.key
    if shop.kind.model:
        assert tuple(rest.token_ids or ())[: len(ids) - 5] == ids[5:]
        assert not rest.text.startswith(whole.text[:5])


async def test_a_forced_beginning_of_text_is_gone_on_from(shop: Shop):
    [spoken] = await shop.engine().sample(ASKED, sampling=GREEDY, prefix="5 + 3 = 8. 8 + 4 =")
    assert spoken.text
    if shop.kind.model:
        assert spoken.text.startswith(" 12")


async def test_given_ids_are_scored_with_the_likeliest_at_each_place(shop: Shop):
    engine = shop.engine("scored")
    [said] = await engine.sample(ASKED, sampling=GREEDY)
    ids = tuple(said.token_ids or ())
    scores = await engine.score(ASKED, ids, top=3)
    assert tuple(scores.token_ids) == ids
    assert len(scores.logprobs) == len(ids)
    assert scores.top is not None
    assert [len(place) for place in scores.top] == [3] * len(ids)
    asked = shop.backend.asked
    assert await shop.engine().score(ASKED, ids, top=3) == scores, "no draw: another problem finds it"
    assert shop.backend.asked == asked
    plain = await engine.score(ASKED, ids)
    assert plain.top is None
    assert list(plain.logprobs) == pytest.approx(list(scores.logprobs), abs=1e-4)
    if shop.kind.model:
        assert said.scores is not None
        assert list(scores.logprobs) == pytest.approx(list(said.scores.logprobs), abs=1e-3)
        assert [place[0][0] for place in scores.top] == list(ids), "greedy takes the likeliest"


async def test_what_is_rendered_is_what_is_shown_and_reads_as_its_text(shop: Shop):
    engine = shop.engine("rendered")
    shown = engine.rendered(ASKED)
    [by_turns] = await engine.sample(ASKED, sampling=GREEDY)
    [by_ids] = await shop.engine("rendered").sample(shown, sampling=GREEDY)
    assert by_turns.key == by_ids.key, "one request, whoever rendered it"
    if shop.kind.tokens:
        assert shown.token_ids == list(shown.prompt)
        assert engine.text_of(shown.token_ids) == shown.text
        assert engine.text_of(by_turns.token_ids or ()).startswith(by_turns.text)
    else:
        assert shown.token_ids == []
        assert engine.text_of([3, 14]) == "3 14", "no tokenizer: the numbers"


async def test_a_judge_is_asked_once_and_gives_probabilities(shop: Shop):
    engine, meter = shop.engine("judged"), shop.workshop.meter
    judged = await engine.judge(ASKED, ("1", "0"))
    assert set(judged.probabilities) <= {"1", "0"}
    shares = [share for _, share in judged.returned]
    assert shares
    assert all(0 < share <= 1 for share in shares)
    before = meter.samples_new
    assert await engine.judge(ASKED, ("1", "0")) == judged
    assert await shop.engine("judged").judge(ASKED, ("1", "0")) == judged
    assert (meter.samples_new, len(engine.drawn)) == (before, 1)
    if shop.kind.model:
        assert shares == sorted(shares, reverse=True)
        assert len(shares) == 20
        assert sum(shares) <= 1.001


async def test_a_second_model_of_one_tokenizer_reads_the_very_tokens(shop: Shop):
    engine = shop.engine("second")
    [said] = await engine.sample(ASKED, sampling=GREEDY)
    roles = shop.workshop.roles
    check_one_tokenizer("mine", roles["solver"], roles["second"])
    scores = await engine.score(engine.rendered(ASKED), tuple(said.token_ids or ()), role="second")
    assert tuple(scores.token_ids) == tuple(said.token_ids or ())
    if shop.kind.model:
        assert said.scores is not None
        assert list(scores.logprobs) == pytest.approx(list(said.scores.logprobs), abs=1e-3)


async def test_a_role_that_takes_no_token_ids_is_refused_by_name(shop: Shop, tmp_path: Path):
    table = ModelTable(name="served", max_tokens=8)
    chat = open_role(
        "teacher", table, EngineTable(kind="openai", base_urls=("http://127.0.0.1:9/v1",)), runtime=tmp_path
    )
    with pytest.raises(RecipeError, match=r"mine hands token ids from 'solver' to 'teacher', and '\w+' takes none"):
        check_one_tokenizer("mine", shop.workshop.roles["solver"], chat)
    with pytest.raises(ProblemFailed, match="'editor'"):
        await shop.engine().sample(ASKED, role="editor")
