"""The engine that methods talk to: who gets through the gate when, which draw is which, and what the journal answers."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracemill.schemas.errors import DiskFull, EngineLost, ProblemFailed, RecipeError, RequestRefused
from tracemill.schemas.recipe import EngineTable, ModelTable
from tracemill.schemas.request import Adapter, Completion, Request, Sampling
from tracemill.schemas.rows import Problem
from tracemill.synth.backends.scripted import Scripted
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.gate import Gate, Stopped
from tracemill.synth.journal import Journal
from tracemill.synth.models import open_role
from tracemill.synth.roles import Role
from tracemill.synth.verify import Verifier
from tracemill.synth.workshop import Workshop


def numbered(request: Request) -> str:
    return f"draw {request.index} of {request.problem_id}"


def role(backend: Scripted | None = None, **model: Any) -> Role:
    table = ModelTable(name="m", max_tokens=64, **model)
    opened = open_role("solver", table, EngineTable(kind="scripted"), runtime=Path(), reply=numbered)
    return replace(opened, backend=backend or opened.backend)


class Door(Scripted):
    """A scripted backend whose start and answers wait until they are let go."""

    def __init__(self, at_once: int = 1) -> None:
        super().__init__(numbered, at_once=at_once)
        self.ready, self.starts = asyncio.Event(), 0
        self.failure: Exception | None = None

    async def start(self) -> None:
        self.starts += 1
        await self.ready.wait()
        if self.failure is not None:
            raise self.failure


async def test_whatever_a_start_raises_ends_the_run_and_is_no_problems_fault():
    for failure, kind in ((ValueError("odd"), EngineLost), (OSError(errno.ENOSPC, "full"), DiskFull)):
        door = Door()
        door.failure = failure
        door.ready.set()
        with pytest.raises(kind):
            async with Gate(door).entered():
                pass


class Visitors:
    """Tasks that go through a gate and stay inside until they are sent away."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.inside, self.seen = gate, list[int](), list[int]()
        self.go: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def come(self, *numbers: int) -> None:
        for number in numbers:
            self.go[number] = asyncio.Event()
            self.tasks[number] = asyncio.create_task(self._visit(number))
            await settle()

    async def leave(self, *numbers: int) -> None:
        for number in numbers:
            self.go[number].set()
            await settle()

    async def _visit(self, number: int) -> None:
        async with self.gate.entered():
            self.inside.append(number)
            self.seen.append(number)
            try:
                await self.go[number].wait()
            finally:
                self.inside.remove(number)

    async def outcomes(self) -> list[Any]:
        return await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


def opened(at_once: int) -> tuple[Door, Visitors]:
    door = Door(at_once)
    door.ready.set()
    return door, Visitors(Gate(door))


# ---- the gate


async def test_no_more_than_the_backend_wants_are_inside_and_the_first_to_come_is_the_first_to_enter():
    _, visitors = opened(2)
    await visitors.come(0, 1, 2, 3, 4)
    assert visitors.inside == [0, 1]
    await visitors.leave(1)
    assert visitors.inside == [0, 2]
    await visitors.come(5)  # there is no overtaking
    await visitors.leave(0, 2, 3, 4, 5)
    assert visitors.seen == [0, 1, 2, 3, 4, 5]
    assert visitors.gate.inside == 0


async def test_how_many_may_be_inside_is_read_again_as_it_goes():
    door, visitors = opened(1)
    await visitors.come(0, 1, 2, 3)
    door.at_once = 3
    await visitors.leave(0)
    assert visitors.inside == [1, 2, 3]
    door.at_once = 1
    await visitors.come(4)
    await visitors.leave(1, 2)
    assert visitors.inside == [3]
    await visitors.leave(3, 4)
    assert visitors.seen == [0, 1, 2, 3, 4]


async def test_room_that_was_made_meanwhile_goes_to_who_came_first():
    door, visitors = opened(1)
    await visitors.come(0, 1, 2)
    door.at_once = 2
    await visitors.come(3)
    assert visitors.inside == [0, 1]
    door.at_once = 4
    await visitors.come(4)
    assert visitors.inside == [0, 1, 2, 3]
    await visitors.leave(0, 1, 2, 3, 4)
    assert visitors.seen == [0, 1, 2, 3, 4]


async def test_who_gives_up_waiting_takes_nobodys_turn():
    _, visitors = opened(1)
    await visitors.come(0, 1, 2)
    visitors.tasks[1].cancel()
    await settle()
    await visitors.leave(0)
    assert visitors.inside == [2]
    await visitors.leave(2)
    await visitors.come(3)
    assert visitors.inside == [3]
    await visitors.leave(3)


async def test_who_gives_up_at_the_moment_of_entering_leaves_the_place_to_the_next():
    _, visitors = opened(1)
    await visitors.come(0, 1, 2)
    visitors.go[0].set()
    await asyncio.sleep(0)
    assert (visitors.inside, visitors.gate.inside) == ([], 1)  # it is the turn of 1, who does not know yet
    visitors.tasks[1].cancel()
    await settle()
    assert visitors.inside == [2]
    await visitors.leave(2)
    assert visitors.gate.inside == 0


async def test_a_closed_gate_turns_away_who_waits_and_lets_finish_who_is_inside():
    _, visitors = opened(1)
    await visitors.come(0, 1)
    visitors.gate.close("the budget is spent")
    await visitors.come(2)
    await visitors.leave(0)
    first, *rest = await visitors.outcomes()
    assert first is None
    assert [type(failure) for failure in rest] == [Stopped, Stopped]
    assert "the budget is spent" in str(rest[0])


async def test_the_backend_is_started_once_by_the_first_who_comes():
    door = Door(at_once=9)
    visitors = Visitors(Gate(door))
    await settle()
    assert door.starts == 0
    await visitors.come(0, 1, 2)
    assert (door.starts, visitors.inside) == (1, [])
    door.ready.set()
    await settle()
    assert (door.starts, visitors.inside) == (1, [0, 1, 2])
    await visitors.leave(0, 1, 2)
    await visitors.come(3)
    assert door.starts == 1
    await visitors.leave(3)


async def test_a_start_that_fails_is_told_to_everybody_now_and_later():
    door = Door(at_once=9)
    door.failure = RecipeError("no such model")
    visitors = Visitors(Gate(door))
    await visitors.come(0, 1)
    door.ready.set()
    await settle()
    await visitors.come(2)
    assert [str(failure) for failure in await visitors.outcomes()] == ["no such model"] * 3
    assert door.starts == 1


async def test_who_waits_for_the_start_is_not_let_in_once_the_gate_is_closed():
    door = Door(at_once=9)
    visitors = Visitors(Gate(door))
    await visitors.come(0, 1)
    visitors.gate.close("stopped while the engine was starting")
    door.ready.set()
    await settle()
    assert visitors.seen == []
    assert [type(failure) for failure in await visitors.outcomes()] == [Stopped, Stopped]


async def test_who_gives_up_during_the_start_does_not_stop_it():
    door = Door(at_once=9)
    visitors = Visitors(Gate(door))
    await visitors.come(0, 1)
    visitors.tasks[0].cancel()
    door.ready.set()
    await settle()
    assert visitors.inside == [1]
    await visitors.leave(1)


# ---- draws


@pytest.fixture
async def shop() -> AsyncIterator[Callable[..., Workshop]]:
    made: list[Workshop] = []
    journal = Journal()

    def make(backend: Scripted | None = None, **model: Any) -> Workshop:
        roles = {"solver": role(backend, **model)}
        made.append(Workshop(roles, journal, Verifier()))
        return made[-1]

    yield make
    for shop in made:
        await shop.close()
    journal.close()


def engine_for(shop: Workshop, problem_id: str = "p1") -> ProblemEngine:
    return ProblemEngine(shop, Problem(problem_id=problem_id, question="1 + 1?", gold="2"))


Shop = Callable[..., Workshop]


async def test_four_draws_and_four_more_are_the_eight_draws_of_one_call(shop: Shop):
    engine = engine_for(shop())
    first, more = await engine.sample("q", n=4), await engine.sample("q", n=4, start=4)
    at_once = shop()
    eight = await engine_for(at_once).sample("q", n=8)
    assert [c.text for c in eight] == [f"draw {i} of p1" for i in range(8)]
    assert [c.key for c in [*first, *more]] == [c.key for c in eight]
    assert (at_once.meter.samples_new, at_once.meter.samples_replayed) == (0, 8)


async def test_draws_come_back_in_their_order_whatever_was_known_already(shop: Shop):
    await engine_for(shop()).sample("q", n=2, start=1)
    mixed = shop()
    found = await engine_for(mixed).sample("q", n=5)
    assert [c.text for c in found] == [f"draw {i} of p1" for i in range(5)]
    assert (mixed.meter.samples_new, mixed.meter.samples_replayed) == (3, 2)


async def test_the_same_draw_twice_within_a_problem_is_refused_with_what_to_change(shop: Shop):
    engine = engine_for(shop())
    await engine.sample("q", n=2)
    with pytest.raises(ProblemFailed, match=r"index=1\); give each draw its own index or salt"):
        await engine.sample("q", start=1)
    await engine.sample("q", start=2)
    await engine.sample("q", salt="again")
    await engine.sample("q", scope="judge")
    await engine.sample("another question")
    await engine_for(shop(), "p2").sample("q", n=2)


@pytest.mark.parametrize(
    "other",
    [
        {"prefix": "So"},
        {"prefix": (1, 2)},
        {"sampling": Sampling(temperature=0.5)},
        {"sampling": Sampling(stop=("END!",))},
        {"sampling": Sampling(logprobs=0)},
        {"adapter": Adapter(name="long", revision="r", scale="0.2")},
        {"salt": "1"},
        {"scope": "judge"},
        {"start": 1},
    ],
    ids=repr,
)
async def test_whatever_can_change_an_answer_makes_it_another_draw(shop: Shop, other: dict[str, Any]):
    made = shop()
    [plain] = await engine_for(made).sample("q")
    [changed] = await engine_for(made).sample("q", **other)
    assert plain.key != changed.key
    assert made.meter.samples_new == 2


async def test_what_a_request_does_not_say_is_as_the_recipe_says(shop: Shop):
    backend = Scripted(numbered)
    made = shop(backend, temperature=0.7, top_p=0.9, stop=("END!",))
    await engine_for(made).sample("q", sampling=Sampling(temperature=0.0, max_tokens=3))
    asked = backend.asked[0].sampling
    assert (asked.temperature, asked.top_p, asked.stop, asked.max_tokens) == (0.0, 0.9, ("END!",), 3)
    assert (asked.top_k, asked.min_p) == (0, 0.0)


SAMPLINGS = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.1, 1),
    top_k=st.none() | st.integers(0, 50),
    max_tokens=st.none() | st.integers(1, 9),
    stop=st.none() | st.just(()) | st.just(("a",)),
    include_stop=st.booleans(),
    logprobs=st.none() | st.integers(0, 20),
)


@given(mine=SAMPLINGS, defaults=SAMPLINGS)
def test_settings_over_defaults_keep_what_they_say_even_if_it_is_nothing_or_empty(mine: Sampling, defaults: Sampling):
    both = mine.over(defaults)
    for name in (field.name for field in fields(Sampling)):
        said = getattr(mine, name)
        assert getattr(both, name) == (getattr(defaults, name) if said is None else said)


async def test_a_system_prompt_is_shown_first_unless_the_conversation_brings_its_own(shop: Shop):
    backend = Scripted(numbered)
    engine = engine_for(shop(backend, system="Be brief."))
    await engine.sample("q")
    await engine.sample(({"role": "system", "content": "Be long."}, {"role": "user", "content": "q"}))
    assert [request.prompt for request in backend.asked] == ["Be brief.\n\nq", "Be long.\n\nq"]


# ---- scores, verdicts, failures


async def test_a_score_is_journaled_and_shared_by_all_who_ask(shop: Shop):
    backend = Scripted(numbered)
    scores = await engine_for(shop(backend)).score("q", "ab")
    assert list(scores.token_ids) == [97, 98]
    again = await engine_for(shop(backend), "p2").score("q", "ab")
    assert again == scores
    assert len(backend.asked) == 1
    await engine_for(shop(backend)).score("q", "ac")
    assert len(backend.asked) == 2


async def test_a_verdict_that_took_algebra_is_computed_once(shop: Shop):
    first = await engine_for(shop()).verify(r"\boxed{\sqrt{2}^2 + x - x}", "2")
    assert first.status == "equal"
    made = shop()
    made.verifier.close()

    async def never(*_: Any) -> Any:
        raise AssertionError("asked the algebra again")

    made.verifier.compare = never  # type: ignore[method-assign]
    assert await engine_for(made).verify(r"\boxed{\sqrt{2}^2 + x - x}", "2") == first


async def test_a_role_that_the_recipe_does_not_have_is_the_problems_failure(shop: Shop):
    with pytest.raises(ProblemFailed, match="a role 'judge'; the recipe has: solver"):
        await engine_for(shop()).sample("q", role="judge")


async def test_a_refused_request_fails_its_problem_and_its_siblings_are_kept(shop: Shop):
    def reply(request: Request) -> str:
        if request.index == 1:
            raise RequestRefused("too long")
        return numbered(request)

    with pytest.raises(ProblemFailed, match="refuses a request of this problem: too long"):
        await engine_for(shop(Scripted(reply))).sample("q", n=3)
    rest = shop(Scripted(numbered))
    await engine_for(rest).sample("q", n=3)
    assert (rest.meter.samples_new, rest.meter.samples_replayed) == (1, 2)


async def test_among_several_failures_the_lost_engine_is_the_one_that_counts(shop: Shop):
    def reply(request: Request) -> str:
        raise EngineLost("gone") if request.index == 2 else ValueError("bad")

    with pytest.raises(EngineLost):
        await engine_for(shop(Scripted(reply))).sample("q", n=3)


async def test_a_stopped_workshop_replays_and_draws_nothing_new(shop: Shop):
    await engine_for(shop()).sample("q", n=2)
    stopped = shop()
    stopped.stop("only what the journal holds")
    assert len(await engine_for(stopped).sample("q", n=2)) == 2
    with pytest.raises(Stopped, match="only what the journal holds"):
        await engine_for(stopped).sample("q", n=1, start=2)


async def test_a_completion_is_in_the_journal_before_the_method_sees_it(tmp_path: Path):
    journal = Journal(tmp_path)
    shop = Workshop({"solver": role()}, journal, Verifier())
    [completion] = await engine_for(shop).sample("q")
    with Journal(tmp_path) as other:
        [(key, kept)] = list(other.read([completion.key]))
    assert key == completion.key
    assert isinstance(kept, Completion)
    assert kept.text == completion.text
    await shop.close()
    journal.close()
