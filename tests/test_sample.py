"""Plain sampling, given traces, and the split of a reply into thought and content."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given as property_of
from hypothesis import strategies as st

from tracemill.schemas.request import Adapter, Completion, Message, Sampling, TokenScores
from tracemill.schemas.rows import Outcome, Problem, Rejection, Verdict
from tracemill.synth import sample as sample_module
from tracemill.synth.given import given
from tracemill.synth.reply import split_reasoning
from tracemill.synth.sample import PROMPT, sample

THINK = ("<think>", "</think>")


@dataclass
class Echo:
    """An engine whose draw `i` says `i`, and that remembers how it was asked."""

    asked: list[dict[str, Any]] = field(default_factory=list)

    async def sample(
        self,
        prompt: str | tuple[Message, ...],
        *,
        n: int = 1,
        start: int = 0,
        role: str = "solver",
        scope: str = "solve",
        salt: str = "",
        sampling: Sampling = Sampling(),
        prefix: str | tuple[int, ...] | None = None,
        adapter: Adapter | None = None,
    ) -> list[Completion]:
        self.asked.append({"prompt": prompt, "n": n, "start": start, "scope": scope, "sampling": sampling})
        draws = range(start, start + n)
        return [Completion(text=f"{i}", finish_reason="stop", n_tokens=1 + i, key=f"k{i}") for i in draws]

    async def score(
        self,
        prompt: str | tuple[Message, ...],
        continuation: str | tuple[int, ...],
        *,
        role: str = "solver",
        adapter: Adapter | None = None,
    ) -> TokenScores:
        raise NotImplementedError

    async def verify(self, text: str, gold: str | None, *, truncated: bool = False) -> Verdict:
        raise NotImplementedError

    def model_name(self, role: str = "solver") -> str:
        return "echo"

    def conversation(self, prompt: str | tuple[Message, ...], role: str = "solver") -> tuple[Message, ...]:
        return (Message(role="user", content=prompt),) if isinstance(prompt, str) else prompt

    def count_tokens(self, text: str, role: str = "solver") -> int:
        return len(text.split())


def problem(**other: Any) -> Problem:
    return Problem(problem_id="p", question="What is {1} + 1?", **other)


async def test_every_draw_is_a_trace_with_its_own_name_and_number() -> None:
    outcome = await sample(problem(), Echo(), n=3)
    assert [trace.id for trace in outcome.traces] == ["p/solve-0000", "p/solve-0001", "p/solve-0002"]
    assert [dict(trace.columns) for trace in outcome.traces] == [{"draw": 0}, {"draw": 1}, {"draw": 2}]
    assert [(t.text, t.n_tokens, t.key, t.model) for t in outcome.traces][2] == ("2", 3, "k2", "echo")


async def test_growing_n_keeps_the_traces_that_were_there() -> None:
    few, more = await sample(problem(), Echo(), n=2), await sample(problem(), Echo(), n=4)
    assert list(more.traces[:2]) == list(few.traces)


async def test_all_draws_are_asked_for_at_once_in_the_scope_that_methods_share() -> None:
    engine = Echo()
    await sample(problem(), engine, n=5, temperature=0.7)
    shown = (Message(role="user", content=PROMPT.replace("{question}", "What is {1} + 1?")),)
    sampling = Sampling(temperature=0.7)
    assert engine.asked == [{"prompt": shown, "n": 5, "start": 0, "scope": "solve", "sampling": sampling}]


async def test_only_the_question_is_replaced_in_a_prompt() -> None:
    engine = Echo()
    outcome = await sample(problem(), engine, n=1, prompt="{x} {question} \\boxed{}")
    assert outcome.traces[0].prompt == (Message(role="user", content="{x} What is {1} + 1? \\boxed{}"),)


async def test_a_given_conversation_is_shown_as_it_is() -> None:
    turns = (Message(role="system", content="Be brief."), Message(role="user", content="1 + 1?"))
    outcome = await sample(problem(messages=turns), Echo(), n=1)
    assert outcome.traces[0].prompt == turns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n = 0"),
        ({"prompt": "Solve {problem}"}, "write {question} where it belongs"),
        ({"temperature": 2.5}, "between 0 and 2"),
        ({"temperature": 0.0}, "8 draws at temperature 0 are one draw"),
    ],
)
def test_options_that_cannot_work_are_refused_before_the_first_token(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_module.check(**{"n": 8, "prompt": PROMPT, "temperature": None, **options})


async def test_responses_are_taken_as_they_are_even_if_two_are_the_same() -> None:
    outcome = await given(problem(responses={"a.solution": "so 2", "b.solution": "so 2"}), Echo())
    assert [(t.id, t.model, t.text, t.n_tokens, t.finish_reason, t.key) for t in outcome.traces] == [
        ("p/a.solution", "a", "so 2", 2, "given", None),
        ("p/b.solution", "b", "so 2", 2, "given", None),
    ]
    assert outcome.traces[0].prompt == (Message(role="user", content="What is {1} + 1?"),)


async def test_a_problem_without_responses_is_turned_down_with_a_reason() -> None:
    outcome: Outcome = await given(problem(), Echo())
    assert outcome.traces == ()
    assert [(trace, why.reason) for trace, why in outcome.rejections] == [(None, "no_response")]


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("<think>2?</think>So 2.", "2?", "So 2."),
        ("2?\n</think>\n\nSo 2.", "2?", "So 2."),  # the template opened the tag
        ("<think>\n\n</think>\n\nSo 2.", "", "So 2."),
        ("<think>2?", "2?", ""),  # never closed: the answer was not given
        ("So 2.", None, "So 2."),
        ("<think>a</think>b<think>c</think>d", "a</think>b<think>c", "d"),
        ("<think>a</think>b<think>c", "a</think>b<think>c", ""),
        ("Hm. <think>a", "Hm. <think>a", ""),
        ("a</think>", "a", ""),
        ("", None, ""),
    ],
)
def test_thought_ends_at_the_last_closing_tag(text: str, reasoning: str | None, content: str) -> None:
    assert split_reasoning(text, THINK) == (reasoning, content)


def test_a_reply_cut_off_inside_the_thought_that_the_prompt_opened_has_no_content() -> None:
    assert split_reasoning("so far 2", THINK, opened=True) == ("so far 2", "")
    assert split_reasoning("so far 2</think>2", THINK, opened=True) == ("so far 2", "2")


def test_a_model_without_tags_says_everything_aloud() -> None:
    assert split_reasoning("<think>2</think>3", None) == (None, "<think>2</think>3")


@property_of(parts=st.lists(st.sampled_from(["<think>", "</think>", " ", "x", "\n"]), max_size=8), opened=st.booleans())
def test_no_reply_leaves_a_tag_in_its_content(parts: list[str], opened: bool) -> None:
    text = "".join(parts)
    reasoning, content = split_reasoning(text, THINK, opened=opened)
    assert "<think>" not in content
    assert "</think>" not in content
    assert text.count("x") == (reasoning or "").count("x") + content.count("x")


async def test_a_gap_in_a_list_of_given_responses_is_turned_down_by_name() -> None:
    problem = Problem(problem_id="p", question="q", responses={"r[0]": "a", "r[1]": None})
    outcome = await given(problem, Echo())
    assert [(trace.name, trace.text) for trace in outcome.traces] == [("r[0]", "a")]
    assert outcome.rejections == [(None, Rejection("missing_response", {"column": "r[1]"}))]
