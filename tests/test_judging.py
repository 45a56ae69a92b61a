"""Scores in words: grades by a rubric and the confidence of a critic, read strictly, with nothing guessed and nothing lost."""

import json
import math
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.conftest import PROBLEMS
from tracemill.filters.asking import number_in
from tracemill.filters.critic import critic
from tracemill.filters.rubric_judge import rubric_judge
from tracemill.pipelines.build import build
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.filling import fill
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Completion, Request, TokenScores
from tracemill.schemas.rows import Judgement

Make = Callable[..., Recipe]
RUBRIC = {"correctness": "Every step follows, and the answer is right.", "clarity": "Each step says what it does."}
COMMON = 4 * len(PROBLEMS)
TRACE = {"id": "p/a", "question": "Q", "messages": [{"content": "S"}], "content": "S", "gold": None}


def scored(recipe: Make, store: Store, score: Any, reply: Callable[[Request], Any], **changes: Any) -> Dataset:
    models = {name: {"name": "scripted-solver", "max_tokens": 64} for name in ("solver", "judge")}
    table = recipe().model_dump(exclude={"models", "engines", "select", "filters", "score"}, exclude_none=True)
    scores = score if isinstance(score, list) else [score]
    whole = {**table, "models": models, "engine": {"kind": "scripted"}, "score": scores, **changes}
    return build(parse_recipe(whole), store, reply=reply).dataset


def begins(text: str, p: float) -> Completion:
    """A reply of which one token was drawn, with this probability."""
    scores = TokenScores(token_ids=array("i", [1]), logprobs=array("f", [math.log(p)]))
    return Completion(text=text, finish_reason="length", n_tokens=1, scores=scores)


# Numbers in replies


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("4", 4),
        ("Score: 4", 4),
        ("**Score: 4**", 4),
        ("It is fine.\n\nFinal score = 4/5\n", 4),
        ("<think>3? 5? no</think>\ngrade: 4.", 4),
        (r"\boxed{4}", 4),
        ("The rating is as below.\nRating: `4`", 4),
    ],
)
def test_a_number_that_stands_alone_on_the_last_line_is_read(reply: str, number: int):
    assert number_in(reply, 1, 5, truncated=False) == (number, None)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("", "no_number"),
        ("four", "no_number"),
        ("not 4", "no_number"),
        ("4 or 5", "no_number"),
        ("Score: 4 because it is good", "no_number"),
        ("Score: 4\nI hope this helps!", "no_number"),
        ("6", "not_on_scale"),
        ("0", "not_on_scale"),
        ("-4", "not_on_scale"),
        ("4.5", "not_on_scale"),
        ("4/10", "not_on_scale"),
    ],
)
def test_anything_else_is_no_number_and_says_why(reply: str, fault: str):
    assert number_in(reply, 1, 5, truncated=False) == (None, fault)


def test_a_reply_that_was_cut_off_has_no_number_since_10_may_become_100():
    assert number_in("10", 0, 100, truncated=True) == (None, "cut_off")


def test_what_is_put_into_a_prompt_is_not_looked_at_for_places():
    assert fill("{a} {b} {c}", a="{b}", b="{a}") == "{b} {a} {c}"


# The critic


@pytest.mark.parametrize(
    ("scale", "reply", "confidence", "fault"),
    [
        ("percent", "85", 0.85, None),
        ("percent", "Confidence: 85%", 0.85, None),
        ("percent", "100", 1.0, None),
        ("percent", "0", 0.0, None),
        ("percent", "0.85", None, "not_on_scale"),
        ("percent", "120", None, "not_on_scale"),
        ("percent", "quite sure", None, "no_number"),
        ("binary", "1", 1.0, None),
        ("binary", "0", 0.0, None),
        ("binary", "85", None, "not_on_scale"),
        ("binary", "yes", None, "no_number"),
        ("percent", "so " * 70 + "90", None, "cut_off"),
    ],
)
async def test_a_confidence_is_what_the_critic_says_or_null_with_the_reason(
    scale: Any, reply: str, confidence: float | None, fault: str | None
):
    class Critic:
        async def sample(self, prompt: str, **_: Any) -> list[Completion]:
            words = reply.split()
            return [
                Completion(
                    text=" ".join(words[:64]),
                    finish_reason="length" if len(words) > 64 else "stop",
                    n_tokens=min(64, len(words)),
                )
            ]

    said = await critic(TRACE, Critic(), scale=scale)  # type: ignore[arg-type]
    assert (said["critic"], said["critic_fault"]) == (confidence, fault)
    assert reply.startswith(said["critic_reply"])


def test_a_critic_is_shown_the_trace_greedily_once_and_replayed(recipe: Make, store: Store):
    seen: list[Request] = []

    def say(request: Request) -> str:
        if request.scope != "critic":
            return rf"<think>hm</think>so {{task}} \boxed{{{request.index}}}"
        seen.append(request)
        return "70"

    scored(recipe, store, {"use": "critic", "show": "content"}, say)
    assert len(seen) == COMMON
    assert {request.sampling.temperature for request in seen} == {0.0}
    assert all("so {task} \\boxed" in request.prompt and "hm" not in request.prompt for request in seen)
    assert all("from 0 (surely wrong)" in request.prompt for request in seen)
    seen.clear()
    counts = scored(recipe, store, {"use": "critic", "show": "content", "name": "sure"}, say).manifest()["samples"]
    assert (seen, counts["new"]) == ([], 0)


def test_two_critics_stand_side_by_side_under_names_of_their_own_and_vote_in_cisc(recipe: Make, store: Store):
    def say(request: Request) -> str:
        if request.scope != "critic":
            return rf"so \boxed{{{0 if request.index else 7}}}"
        assert isinstance(request.prompt, str)
        right = r"\boxed{7}" in request.prompt
        return ("1" if right else "0") if "Reply with 1 for yes" in request.prompt else ("90" if right else "10")

    scores = [{"use": "critic"}, {"use": "critic", "scale": "binary", "name": "yes"}]
    select = [{"use": "cisc", "confidence": "critic", "temperature": 0.1}]
    dataset = scored(recipe, store, scores, say, select=select)
    rows = dataset.scan().collect()
    assert set(rows["answer"]) == {"7"}, "one sure trace outweighs three unsure ones"
    assert set(rows["critic"]) == {0.9}
    assert set(rows["yes"]) == {1.0}


VECTOR = """
COLUMNS = {"v": list[float]}

async def v(trace, engine):
    return {"v": [1.0, 0.0] if "alpha" in trace["content"] else [0.0, 1.0]}
"""


def test_veccisc_in_two_passes_asks_the_critic_about_representatives_only(recipe: Make, store: Store, tmp_path: Path):
    """Selectors run after scores and cannot call them: a second recipe curates what the first let through."""
    asked: list[Request] = []

    def say(request: Request) -> str:
        if request.scope == "critic":
            asked.append(request)
            return "90" if r"\boxed{7}" in str(request.prompt) else "20"
        return (
            rf"{'alpha' if request.index < 3 else 'beta'} {request.index} so \boxed{{{7 if request.index == 3 else 8}}}"
        )

    (tmp_path / "vector.py").write_text(VECTOR)
    first = {"use": "veccisc", "k": 1, "take": "representatives", "vectors": "v", "prefilter": False}
    vector = {"use": f"{tmp_path}/vector.py:v"}
    standing = scored(recipe, store, vector, say, name="first", select=[first]).scan().collect()
    assert len(standing) == 2 * len(PROBLEMS), "four traces a problem, and one stands for the three that say 8"
    grouped = standing.group_by("problem_id", maintain_order=True).agg(
        pl.col("question", "gold").first(), pl.col("content").alias("traces")
    )
    grouped.write_ndjson(tmp_path / "standing.jsonl")
    second = {
        "name": "second",
        "source": {
            "path": str(tmp_path / "standing.jsonl"),
            "id": "problem_id",
            "answer": "gold",
            "response": "traces",
        },
        "models": {"judge": {"name": "scripted-solver", "max_tokens": 64}},
        "engines": {"judge": {"kind": "scripted"}},
        "score": [{"use": "critic"}],
        "select": [{"use": "cisc", "confidence": "critic", "temperature": 0.5}],
    }
    rows = build(parse_recipe(second), store, given=True, reply=say).dataset.scan().collect()
    assert len(asked) == len(standing)
    assert set(rows["answer"]) == {"7"}, "one sure representative of one trace, against one that stands for three"


# Grades by a rubric


def grades(request: Request) -> str | Completion:
    number = int(request.problem_id[1:])
    if request.scope != "judge":
        return rf"\boxed{{{number}}}"
    assert isinstance(request.prompt, str)
    if "Criterion: clarity" in request.prompt:
        return begins("2", 0.75)
    return begins(" 5", 0.75) if number % 2 else begins("The", 0.9)


def test_each_criterion_gets_a_grade_its_spread_and_the_share_of_the_scale(recipe: Make, store: Store):
    dataset = scored(recipe, store, {"use": "rubric_judge", "rubric": RUBRIC}, grades)
    rows = dataset.scan().collect().to_dicts()
    assert len(rows) == COMMON
    for row in rows:
        odd = int(row["problem_id"][1:]) % 2
        assert row["rubric_clarity"] == 2.0
        assert row["rubric_clarity_p"] == [0.0, 1.0, 0.0, 0.0, 0.0]
        assert row["rubric_clarity_on_scale"] == pytest.approx(0.75)
        assert row["rubric_correctness"] == (5.0 if odd else None)
        assert row["rubric"] == (3.5 if odd else None), "no mean of those that came by chance"
        assert json.loads(row["rubric_unread"] or "{}") == (
            {} if odd else {"correctness": {"begins": "The", "on_scale": 0.0}}
        )


async def test_a_grade_is_the_mean_over_the_probabilities_of_the_digits():
    prompts = []

    class Judge:
        async def judge(self, prompt: str, answers: list[str], *, role: str) -> Judgement:
            prompts.append(prompt)
            upwards = prompt.index("1 (not met") < prompt.index("5 (met in full")
            p = {"4": 0.5, "5": 0.3} if upwards else {"4": 0.2, "3": 0.6}
            return Judgement(probabilities=p, returned=tuple(p.items()))

    rubric = {"clarity": "Say it."}
    once: Mapping[str, Any] = await rubric_judge(TRACE, Judge(), rubric=rubric)  # type: ignore[arg-type]
    assert once["rubric_clarity"] == pytest.approx((4 * 0.5 + 5 * 0.3) / 0.8)
    assert once["rubric_clarity_p"] == pytest.approx([0, 0, 0, 0.625, 0.375])
    both = await rubric_judge(TRACE, Judge(), rubric=rubric, both_orders=True)  # type: ignore[arg-type]
    assert both["rubric_clarity"] == pytest.approx((4.375 + 3.25) / 2)
    assert both["rubric_clarity_p"] == pytest.approx([0, 0, 0.375, 0.4375, 0.1875])
    assert len(prompts) == 3
    strict = await rubric_judge(TRACE, Judge(), rubric=rubric, on_scale=0.9)  # type: ignore[arg-type]
    assert (strict["rubric_clarity"], strict["rubric"]) == (None, None)
    assert strict["rubric_clarity_on_scale"] == pytest.approx(0.8)


def test_with_reasons_the_last_line_is_the_grade_and_the_reply_is_kept(recipe: Make, store: Store):
    def say(request: Request) -> str:
        if request.scope != "rubric_judge":
            return rf"\boxed{{{request.index}}}"
        return "Good.\nScore: 40" if "Criterion: clarity" in str(request.prompt) else "Good, I would say 40"

    score = {"use": "rubric_judge", "rubric": RUBRIC, "reasons": True, "lowest": 0, "highest": 50, "name": "r"}
    rows = scored(recipe, store, score, say).scan().collect()
    assert set(rows["r_clarity"]) == {40.0}
    assert set(rows["r_correctness"]) == {None}
    assert set(rows["r_correctness_reply"]) == {"Good, I would say 40"}
    [unread] = set(rows["r_unread"])
    assert json.loads(unread) == {"correctness": {"fault": "no_number", "reply": "Good, I would say 40"}}
    assert rows.schema["r_unread"] == rows.schema["r_clarity_reply"]


def test_grades_are_there_for_filters(recipe: Make, store: Store):
    score = {"use": "rubric_judge", "rubric": RUBRIC}
    filters = [{"use": "where", "sql": "rubric_correctness >= 4"}]
    dataset = scored(recipe, store, score, grades, filters=filters)
    assert len(dataset.scan().collect()) == COMMON // 2
    reasons = dataset.scan("rejected").collect()["reason"]
    assert reasons.value_counts().rows() == [("unknown", COMMON // 2)]
    with pytest.raises(RecipeError, match="rubric_elegance"):
        scored(recipe, store, score, grades, filters=[{"use": "where", "sql": "rubric_elegance >= 4"}])


@pytest.mark.parametrize(
    ("score", "says"),
    [
        ({"use": "rubric_judge"}, "rubric: Field required"),
        ({"use": "rubric_judge", "rubric": {}}, "rubric is empty"),
        ({"use": "rubric_judge", "rubric": {"a": " "}}, "rubric.a is empty"),
        ({"use": "rubric_judge", "rubric": {"Two words": "x"}}, "the name of a criterion = 'Two words'"),
        ({"use": "rubric_judge", "rubric": {"a": "x", "a_p": "y"}}, "two columns would be named 'rubric_a_p'"),
        ({"use": "rubric_judge", "rubric": {"a": "x"}, "highest": 10}, "reasons = true reads numbers up to 100"),
        ({"use": "rubric_judge", "rubric": {"a": "x"}, "lowest": 5}, "lowest = 5, highest = 5"),
        ({"use": "rubric_judge", "rubric": {"a": "x"}, "on_scale": 0}, "on_scale = 0"),
        ({"use": "rubric_judge", "rubric": {"a": "x"}, "prompt": "{solution}"}, r"lacks \{text\}"),
        ({"use": "rubric_judge", "rubric": {"a": "x"}, "name": "My grade"}, "name = 'My grade'"),
        ({"use": "critic", "prompt": "{question} {solution}"}, r"lacks \{task\}"),
        ({"use": "critic", "scale": "words"}, "scale: Input should be 'percent' or 'binary'"),
        ({"use": "critic", "max_tokens": 0}, "max_tokens = 0"),
        ({"use": "critic", "role": "critics"}, r"needs a model for the role 'critics'; add \[models.critics\]"),
    ],
)
def test_options_that_cannot_work_are_refused(score: dict[str, Any], says: str, recipe: Make, store: Store):
    with pytest.raises(RecipeError, match=says):
        scored(recipe, store, score, grades)


# Columns that get in each other's way

MINE = """
COLUMNS = {{"n": {kind}}}

async def one(trace, engine):
    return {{"n": {value}}}

async def two(trace, engine):
    return {{}}
"""


def test_a_column_declared_in_two_types_names_both_and_what_to_do(recipe: Make, store: Store, tmp_path: Path):
    for name, kind, value in (("a", "int", 1), ("b", "str", "'x'")):
        (tmp_path / f"{name}.py").write_text(MINE.format(kind=kind, value=value))
    a, b = ({"use": f"{tmp_path}/{name}.py:one"} for name in "ab")
    says = r"a.py:one and b.py:one declare the same column 'n', as int64 and as string.*take one of them out"
    with pytest.raises(RecipeError, match=says):
        scored(recipe, store, [a, b], grades)
    with pytest.raises(RecipeError, match=r"critic and critic declare the same column 'critic', both as double.*name"):
        scored(recipe, store, [{"use": "critic"}, {"use": "critic", "scale": "binary"}], grades)
    both = [a, {"use": f"{tmp_path}/a.py:two"}]  # two functions of a file share its COLUMNS
    assert scored(recipe, store, both, grades).scan().collect()["n"].to_list() == [1] * COMMON


@pytest.mark.timeout(180)
def test_a_real_model_that_does_not_know_what_is_asked_makes_nulls_and_loses_no_row(store: Store, tmp_path: Path):
    pytest.importorskip("transformers", reason="needs the extra: pip install 'tracemill[hf]'")
    lines = (Path(__file__).parents[1] / "data/problems/arith.jsonl").read_text().splitlines()[:3]
    (tmp_path / "some.jsonl").write_text("\n".join(lines) + "\n")
    model = {"name": "tiny-reasoner", "max_tokens": 40, "dtype": "float32"}
    table = {
        "name": "judged",
        "source": {"path": str(tmp_path / "some.jsonl")},
        "models": {"solver": model, "judge": model},
        "engine": {"kind": "hf"},
        "synth": {"use": "sample", "n": 1},
        "score": [{"use": "rubric_judge", "rubric": RUBRIC}, {"use": "critic"}],
    }
    dataset = build(parse_recipe(table), store).dataset
    rows = dataset.scan().collect()
    assert len(rows) == 3
    assert set(rows["critic_fault"]) <= {"no_number", "not_on_scale", "cut_off"}
    assert rows["critic"].null_count() == 3
    assert rows["critic_reply"].null_count() == 0
    for name in RUBRIC:
        assert rows[f"rubric_{name}_on_scale"].is_between(0, 1).all()
        known = rows[f"rubric_{name}_on_scale"] >= 0.5
        assert (rows[f"rubric_{name}"].is_not_null() == known).all()
    assert dataset.scan("samples").collect()["role"].to_list().count("judge") == 3 * 3
