"""Judging: one token, its log-probs, one question asked once, and what scores make of it."""

import json
import math
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROBLEMS
from tracemill.pipelines.build import build
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Completion, Request, TokenScores
from tracemill.synth.judge import judgement

Make = Callable[..., Recipe]
ROOT = Path(__file__).parents[1]
TEXTS = {1: "1", 2: "0", 3: " 1", 4: "The", 5: "10"}


def first_token(top: Mapping[int, float] | None, text: str = "1", p: float = 0.5) -> Completion:
    """A completion of one token; `top` is the probability of each token id that came back."""
    ranked = sorted(top.items(), key=lambda pair: -pair[1]) if top else ()
    scores = TokenScores(
        token_ids=array("i", [1]),
        logprobs=array("f", [math.log(p)]),
        top=(tuple((token, math.log(share)) for token, share in ranked),) if top is not None else None,
    )
    return Completion(text=text, finish_reason="length", n_tokens=1, scores=scores)


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ({1: 0.6, 2: 0.3}, {"1": 0.6, "0": 0.3}),
        ({1: 0.4, 3: 0.2, 2: 0.1}, {"1": 0.6, "0": 0.1}),
        ({2: 0.7, 4: 0.2}, {"0": 0.7}),
        ({4: 0.6, 5: 0.3}, {}),
    ],
)
def test_answers_are_summed_over_their_spellings(top: dict[int, float], expected: dict[str, float]):
    judged = judgement(first_token(top), ("1", "0"), TEXTS.__getitem__)
    assert judged.probabilities == pytest.approx(expected)
    assert [text for text, _ in judged.returned] == [TEXTS[t] for t in sorted(top, key=lambda t: -top[t])]


def test_without_a_tokenizer_only_the_drawn_token_has_a_text():
    assert judgement(first_token({2: 0.9}, text="0", p=0.9), ("1", "0"), None).probabilities == pytest.approx(
        {"0": 0.9}
    )
    assert judgement(first_token(None, p=0.25), ("1", "0"), TEXTS.__getitem__).returned == (("1", pytest.approx(0.25)),)
    unscored = Completion(text="1", finish_reason="stop", n_tokens=1)
    assert judgement(unscored, ("1", "0"), None).returned == ()


# ---- scores that judge


def judged(
    recipe: Make, store: Store, score: dict[str, Any], reply: Callable[[Request], Any], **changes: Any
) -> Dataset:
    models = {name: {"name": "scripted-solver", "max_tokens": 64} for name in ("solver", "judge")}
    table = recipe().model_dump(exclude={"models", "engines", "select", "filters", "score"}, exclude_none=True)
    whole = {**table, "models": models, "engine": {"kind": "scripted"}, "score": [score], **changes}
    return build(parse_recipe(whole), store, reply=reply).dataset


def hard_if_even(request: Request) -> str | Completion:
    number = int(request.problem_id[1:])
    if request.scope != "judge":
        return rf"\boxed{{{number}}}"
    assert request.sampling.max_tokens == 1
    assert (request.sampling.temperature, request.sampling.logprobs) == (0.0, 20)
    return first_token(None, text="1" if number % 2 == 0 else "0", p=0.75)


def test_a_problem_is_judged_once_for_all_its_traces_and_never_again(recipe: Make, store: Store):
    first = judged(recipe, store, {"use": "judge_difficulty"}, hard_if_even)
    rows = first.scan().collect()
    assert len(rows) == 4 * len(PROBLEMS)
    by_problem = rows.group_by("problem_id").agg("p1", "p0").sort("problem_id").to_dicts()
    for number, row in enumerate(by_problem):
        said, other = ("p1", "p0") if number % 2 == 0 else ("p0", "p1")
        assert row[said] == pytest.approx([0.75] * 4)
        assert row[other] == [None] * 4
    samples = first.scan("samples").collect()
    assert samples["role"].value_counts().sort("role").rows() == [
        ("judge", len(PROBLEMS)),
        ("solver", 4 * len(PROBLEMS)),
    ]
    more = {"use": "sample", "n": 5}
    again = judged(recipe, store, {"use": "judge_difficulty"}, hard_if_even, synth=more)
    counts = again.manifest()["samples"]
    assert (counts["new"], counts["replayed"]) == (len(PROBLEMS), 5 * len(PROBLEMS))


def test_what_a_judge_says_ranks_rows_in_select2reason(recipe: Make, store: Store):
    select = [{"use": "select2reason", "d_method": "judge", "percent": 50, "w": 1.0}]
    rows = judged(recipe, store, {"use": "judge_difficulty"}, hard_if_even, select=select).scan().collect()
    assert set(rows["d"]) == {1.0}
    assert {int(name[1:]) % 2 for name in rows["problem_id"]} == {0}


def test_p_true_is_of_the_trace_and_equal_traces_are_asked_about_once(recipe: Make, store: Store):
    def reply(request: Request) -> str | Completion:
        if request.scope != "judge":
            return rf"{{solution}} \boxed{{{request.index // 2}}}"
        assert isinstance(request.prompt, str)
        return (
            first_token(None, text="1", p=0.9)
            if r"\boxed{1}" in request.prompt
            else first_token(None, text="no", p=0.9)
        )

    dataset = judged(recipe, store, {"use": "p_true"}, reply)
    rows = dataset.scan().collect().sort("id")
    assert rows["p_true"].to_list() == [None, None, 1.0, 1.0] * len(PROBLEMS)
    assert rows["p_true_returned"].to_list() == pytest.approx([0.0, 0.0, 0.9, 0.9] * len(PROBLEMS))
    asked = dataset.scan("samples").collect()
    assert asked["role"].to_list().count("judge") == 2 * len(PROBLEMS)


@pytest.mark.parametrize(
    ("score", "says"),
    [
        ({"use": "judge_difficulty", "top": 1}, "top = 1: between 2"),
        ({"use": "judge_difficulty", "prompt": "hard?"}, "has no place for the problem"),
        ({"use": "p_true", "prompt": "{question}"}, r"lacks \{solution\}"),
    ],
)
def test_options_that_cannot_work_are_refused(score: dict[str, Any], says: str, recipe: Make, store: Store):
    with pytest.raises(RecipeError, match=says):
        judged(recipe, store, score, hard_if_even)


def test_without_a_judge_nothing_is_sampled(recipe: Make, store: Store):
    with pytest.raises(RecipeError, match="judge"):
        build(recipe(score=[{"use": "judge_difficulty"}]), store, reply=hard_if_even)


@pytest.mark.timeout(180)
def test_the_small_model_tells_hard_problems_from_easy_ones(tmp_path: Path):
    pytest.importorskip("transformers", reason="needs the extra: pip install 'tracemill[hf]'")
    lines = (ROOT / "data/problems/arith.jsonl").read_text().splitlines()
    by_level = {level: [line for line in lines if json.loads(line)["difficulty"] == level][:3] for level in "15"}
    (tmp_path / "some.jsonl").write_text("\n".join(by_level["1"] + by_level["5"]) + "\n")
    ask = "## Question\n{question}\n## Task\n"
    model = {"name": "tiny-reasoner", "max_tokens": 100, "dtype": "float32"}
    recipe = {
        "name": "judged",
        "source": {"path": str(tmp_path / "some.jsonl")},
        "models": {"solver": model, "judge": model},
        "engine": {"kind": "hf"},
        "synth": {"use": "sample", "n": 1, "prompt": ask + "Solve."},
        "score": [{"use": "judge_difficulty", "prompt": ask + "Is it hard?", "system": ""}],
    }
    rows = build(parse_recipe(recipe), Store(tmp_path / "store")).dataset.scan().collect()
    assert len(rows) == 6
    share = {row["difficulty"]: row["p1"] / (row["p1"] + row["p0"]) for row in rows.to_dicts()}
    assert share["1"] < 0.3
    assert share["5"] > 0.7
    assert rows["p_returned"].min() > 0.95
