"""Recipes about thinking modes: mode_advantage and hybrid_mode_mix. The numbers are worked out by hand."""

import json
import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracemill.pipelines.build import Built, build
from tracemill.pipelines.export import export
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, load_recipe, parse_recipe
from tracemill.schemas.request import Completion, Request
from tracemill.schemas.rows import Problem, Verdict, draw
from tracemill.selectors.balance import balance
from tracemill.synth.hybrid_mode_mix.hybrid_mode_mix import SUMS
from tracemill.synth.hybrid_mode_mix.labels import label_of as better_mode
from tracemill.synth.hybrid_mode_mix.labels import mean, pairs, tagged
from tracemill.synth.mode_advantage.rewards import advantage, balanced, counted, goes_round, label_of, shaped, staged
from tracemill.synth.modes import Rollout, closes_at_once
from tracemill.synth.tiny.talk import is_held_back

Make = Callable[..., Recipe]
BOTH = {"think_prefix": "<think>\n", "nothink_prefix": "<think>\n</think>\n\n"}


def rollout(mode: str, *, right: bool | None = True, tokens: int = 10, text: str = "x", n: int = 0) -> Rollout:
    status = {True: "equal", False: "different", None: "undecided"}[right]
    completion = Completion(text=text, finish_reason="stop", n_tokens=tokens)
    return Rollout(f"{mode}-{n:04d}", mode, completion, Verdict(status=status))  # type: ignore[arg-type]


def built(recipe: Make, store: Store, reply: Callable[[Request], Any], **changes: Any) -> Built:
    return build(recipe(**{"filters": [], "select": [], **changes}), store, reply=reply)


def rows(made: Built, table: str = "rows") -> pl.DataFrame:
    return made.dataset.scan(table).collect().sort("id")


def reasons(made: Built) -> dict[str, int]:
    return dict(made.dataset.scan("rejected").collect()["reason"].value_counts().rows())


# ---- rewards


def test_adaptthinks_reward_is_rightness_less_the_reference_and_delta_for_not_thinking():
    earned = {
        (mode, right): advantage(rollout(mode, right=right), Fraction(3, 4), Fraction("0.05"))
        for mode in ("think", "nothink")
        for right in (True, False)
    }
    assert {key: float(value) for key, value in earned.items()} == {
        ("think", True): 0.25,
        ("think", False): -0.75,
        ("nothink", True): 0.3,
        ("nothink", False): -0.7,
    }


@pytest.mark.parametrize(
    ("nothink", "think", "ref", "label"),
    [
        ((11, 16), 8, 12, "think"),
        ((12, 16), 8, 12, "nothink"),
        ((7, 10), 8, 12, "nothink"),  # 0.7 + 0.05 is 0.75 in fractions; floats make it 0.7499999999999999 or 0.75
        ((0, 8), 0, 0, None),
        ((0, 8), 1, 0, "nothink"),
        ((0, 0), 8, 12, None),
        ((1, 8), 0, 0, "nothink"),
    ],
)
def test_the_cheap_mode_is_the_label_where_it_and_delta_reach_the_reference(
    nothink: tuple[int, int], think: int, ref: int, label: str | None
):
    counts = {
        "right_nothink": nothink[0],
        "n_nothink": nothink[1],
        "right_think": think,
        "ref_right": ref,
        "ref_total": 16,
    }
    assert label_of(counts, Fraction("0.05")) == label


def test_a_mode_that_fills_a_batch_earns_less():
    """Four of five think: f = (0.8 - 0.5) * 2 = 0.6."""
    share = Fraction(4, 5)
    assert [float(balanced(Fraction(raw), share, crowded)) for raw, crowded in ((1, 0), (0, -1))] == [0.4, -0.6]
    assert [float(balanced(Fraction(raw), 1 - share, crowded)) for raw, crowded in ((2, 1), (-1, -2))] == [2.0, -1.0]
    five = [rollout("think", n=i) for i in range(3)] + [rollout("think", right=False), rollout("nothink")]
    assert staged(five, 1, None) == pytest.approx([0.4, 0.4, 0.4, -0.6, 2.0])
    assert staged(five, 1, Fraction(1, 2)) == [1.0, 1.0, 1.0, 0.0, 2.0]
    assert staged(five, 1, Fraction(0)) == [1.0, 1.0, 1.0, 0.0, 1.0]
    assert staged(five, 2, None) == [1.0, 1.0, 1.0, 0.0, 2.0]


def test_short_right_and_long_wrong_rollouts_earn_more_in_the_third_stage():
    two = [rollout("think", tokens=100), rollout("think", tokens=300)]
    assert [round(value, 3) for value in staged(two, 3, None)] == [1.036, 0.965]
    wrong = [rollout("think", tokens=100, right=False), rollout("think", tokens=300, right=False)]
    assert [round(value, 3) for value in staged(wrong, 3, None)] == [-0.036, 0.035]
    assert shaped([100, 300, 50], [True, True, False])[2] == 0.0, "alone"
    assert shaped([7, 7, 7], [True] * 3) == [0.0] * 3
    assert shaped([], []) == []


@given(st.lists(st.tuples(st.integers(1, 5000), st.booleans()), max_size=12))
def test_what_length_adds_is_bounded_finite_and_falls_with_length_among_right_ones(drawn: list[tuple[int, bool]]):
    lengths, right = [length for length, _ in drawn], [ok for _, ok in drawn]
    moved = shaped(lengths, right)
    assert all(math.isfinite(value) for value in moved)
    for kind, sign in ((True, -1), (False, 1)):
        group = sorted(
            (length, sign * value) for length, value, ok in zip(lengths, moved, right, strict=True) if ok is kind
        )
        assert [value for _, value in group] == sorted(value for _, value in group)


def test_a_wrong_answer_that_goes_round_earns_less_where_it_earned_below_0_already():
    loop = " ".join(["so it is"] * 10)
    assert goes_round(f"first of all {loop}")
    assert not goes_round(" ".join(["so it is"] * 9))
    assert goes_round("a" * 120)
    assert not goes_round("a" * 119)
    assert not goes_round("")
    looping = [rollout(mode, right=False, text=loop) for mode in ("think", "nothink")]
    assert staged(looping, 2, None) == [0.0, -2.0]
    assert staged([rollout("nothink", text=loop)], 2, None) == [2.0]


def test_undecided_ones_stand_in_totals_and_empty_ones_say_nothing():
    group = [rollout("think"), rollout("think", right=None), rollout("nothink", tokens=0, right=None)]
    counts = counted(group, group[:2])
    assert counts == {
        "right_think": 1, "n_think": 2, "right_nothink": 0, "n_nothink": 1, "undecided": 1, "ref_right": 1, "ref_undecided": 1, "ref_total": 2,
    }  # fmt: skip
    assert [r.fault for r in group] == [None, "undecided", "empty"]


@pytest.mark.parametrize(
    ("reply", "at_once"), [("</think>\n\nSo", True), ("\n</think>", True), ("So </think>", False), ("", False)]
)
def test_a_choice_is_read_from_how_a_reply_begins(reply: str, at_once: bool):
    assert closes_at_once(reply) is at_once


# ---- mode_advantage as a build


def both(request: Request) -> Completion:
    """Thinking, in 100 to 400 tokens, all draws but each fourth are right; without it only the problems with an even number."""
    number, i = int(request.problem_id[1:]), request.index
    forced = "</think>" in str(request.prefix)
    right = number % 2 == 0 if forced else i % 4 != 3
    answer = rf"so \boxed{{{number + number % 3 if right else 1000}}}"
    text = answer if forced else f"Let me see.\n</think>\n\n{answer}"
    return Completion(text=text, finish_reason="stop", n_tokens=5 + i if forced else 100 * (1 + i % 4))


def test_every_rollout_has_its_reward_and_the_shortest_right_one_of_the_label_is_for_training(
    recipe: Make, store: Store, tmp_path: Path
):
    made = built(recipe, store, both, synth={"use": "mode_advantage", "k": 8, "n": 4, **BOTH})
    for row in rows(made).to_dicts():
        even = int(row["problem_id"][1:]) % 2 == 0
        assert (row["ref_acc"], row["ref_len"], row["clip_ratio"], row["forced"]) == (0.75, 250.0, 0.0, True)
        assert row["label_mode"] == ("nothink" if even else "think")
        earned = {("think", True): 0.25, ("think", False): -0.75, ("nothink", True): 0.3, ("nothink", False): -0.7}
        assert row["reward"] == pytest.approx(earned[row["mode"], row["correct"]])
        assert row["sft"] == row["id"].endswith("/nothink-0000" if even else "/think-0000")
        assert row["response"].startswith(BOTH[f"{row['mode']}_prefix"])
        assert row["n_tok"] == row["n_tokens"]
    assert rows(made).group_by("problem_id").len()["len"].unique().to_list() == [8]
    for row in rows(made, "pairs").to_dicts():
        assert {row["mode"], row["rejected_mode"]} == {"think", "nothink"}
        assert (row["chosen_tokens"], row["rejected_tokens"]) in ((5, 100), (100, 5))
    view = pl.read_parquet(f"{export(made.dataset.path, 'mode-pairs', tmp_path / 'pairs')}/*.parquet")
    assert view.height == rows(made, "pairs").height == 20
    assert view["chosen"].list.len().unique().to_list() == [1]
    card = (made.dataset.path / "README.md").read_text()
    assert "problems labelled so" in card


def test_thinking_rollouts_are_those_of_sample_where_nothing_is_forced(recipe: Make, store: Store, tmp_path: Path):
    template = tmp_path / "open.jinja"
    template.write_text(
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<think>\n{% endif %}"
    )
    model = {
        "name": "s",
        "max_tokens": 64,
        "tokenizer": str(Path(__file__).parents[1] / "data/models/tiny-reasoner"),
        "template": str(template),
    }
    first = built(recipe, store, both, model=model, synth={"use": "sample", "n": 4})
    made = built(recipe, store, both, model=model, synth={"use": "mode_advantage", "k": 4, "n": 4})
    problems = first.dataset.scan("problems").collect().height
    assert made.tally.meter.samples_new == 4 * problems, "those without thinking alone"
    answers = rows(made).filter(mode="nothink")
    assert set(answers["reasoning"]) == {""}
    assert set(answers["content"].str.slice(0, 2)) == {"so"}


def test_a_prompt_that_opens_no_thought_is_refused_with_what_to_write(recipe: Make, store: Store):
    with pytest.raises(RecipeError, match=r"begins outside a thought; have the template end in '<think>'"):
        built(recipe, store, both, synth={"use": "mode_advantage"})
    with pytest.raises(RecipeError, match="begins inside a thought: write '</think>' at its end"):
        built(recipe, store, both, synth={"use": "mode_advantage", **BOTH, "nothink_prefix": "<think>\n"})


def test_a_reference_of_other_weights_than_those_that_are_trained_is_refused(recipe: Make, store: Store):
    model = {"name": "s", "max_tokens": 64, "revision": "r1"}
    with pytest.raises(RecipeError, match="checkpoint = 'r0', and \\[model\\] is 'r1'"):
        built(recipe, store, both, model=model, synth={"use": "mode_advantage", "checkpoint": "r0", **BOTH})
    assert rows(
        built(recipe, store, both, model=model, synth={"use": "mode_advantage", "checkpoint": "r1", **BOTH})
    ).height


def test_a_problem_that_neither_mode_solves_has_no_label_and_no_pair(recipe: Make, store: Store):
    def wrong(request: Request) -> str:
        return r"</think> \boxed{1000}"

    made = built(recipe, store, wrong, synth={"use": "mode_advantage", "k": 4, "n": 2, **BOTH})
    assert rows(made)["label_mode"].null_count() == rows(made).height
    assert not rows(made)["sft"].any()
    assert rows(made, "pairs").height == 0
    assert set(zip(rows(made)["mode"], rows(made)["reward"], strict=True)) == {("think", 0.0), ("nothink", 0.05)}


def test_what_is_empty_undecided_or_cut_off_is_no_positive(recipe: Make, store: Store):
    def reply(request: Request) -> Completion:
        said = ["", "I cannot tell.", r"so \boxed{1}", r"so \boxed{1}"][request.index]
        cut = request.index == 3
        return Completion(
            text=f"</think>{said}" if said else "", finish_reason="length" if cut else "stop", n_tokens=len(said)
        )

    made = built(recipe, store, reply, synth={"use": "mode_advantage", "k": 4, "n": 4, **BOTH})
    problems = made.dataset.scan("problems").collect().height
    assert reasons(made) == {"empty": 2 * problems, "undecided": 2 * problems}
    assert not rows(made).filter(finish_reason="length")["sft"].any()
    assert set(rows(made)["clip_ratio"]) == {0.25}


@pytest.mark.parametrize("think", ["<think>\n", "So...\n<think>\n"])
def test_behind_an_ellipsis_the_model_chooses(recipe: Make, store: Store, think: str):
    def reply(request: Request) -> str:
        number = int(request.problem_id[1:])
        answer = rf"so \boxed{{{number + number % 3}}}"
        return (
            f"</think> {answer}"
            if str(request.prefix).endswith("...\n") and request.index == 0
            else f"Hm. </think> {answer}"
        )

    made = built(
        recipe,
        store,
        reply,
        synth={"use": "mode_advantage", "variant": "ellipsis", "k": 2, "n": 5, **BOTH, "think_prefix": think},
    )
    found = rows(made)
    assert set(found["forced"]) == {False}
    assert dict(found["mode"].value_counts().rows()) == {"nothink": 20, "think": 80}
    assert set(zip(found["mode"], found["reward"].round(9), strict=True)) == {("think", 0.4), ("nothink", 2.0)}
    assert set(found["label_mode"]) == {"nothink"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "k = 0: between 1 and"),
        ({"delta": 2.0}, "delta = 2.0: what not thinking earns beside"),
        ({"stage": 1}, "AutoThink's; set variant = 'ellipsis'"),
        ({"variant": "ellipsis", "stage": 3, "share": 0.5}, "where stage = 1"),
        ({"prompt": "Solve."}, "has no place for the problem"),
    ],
)
def test_options_of_mode_advantage_that_cannot_work_are_refused(
    recipe: Make, store: Store, options: Mapping[str, Any], said: str
):
    with pytest.raises(RecipeError, match=said):
        built(recipe, store, both, synth={"use": "mode_advantage", **options})


# ---- labels of hybrid_mode_mix


def scored(think: list[int], nothink: list[int]) -> tuple[dict[str, list[Rollout]], dict[str, Fraction]]:
    groups = {
        mode: [rollout(mode, right=bool(score), n=i, tokens=10 + i) for i, score in enumerate(scores)]
        for mode, scores in (("think", think), ("no_think", nothink))
    }
    return groups, {
        r.name: Fraction(score)
        for mode, scores in (("think", think), ("no_think", nothink))
        for r, score in zip(groups[mode], scores, strict=True)
    }


def labelled(think: list[int], nothink: list[int], *, solvable: bool = True, delta: str = "0.2") -> str | None:
    groups, scores = scored(think, nothink)
    means = {mode: mean([scores[r.name] for r in group]) for mode, group in groups.items()}
    return better_mode(means, scores, solvable=solvable, delta=Fraction(delta))


@pytest.mark.parametrize(
    ("think", "nothink", "label"),
    [
        ([1, 1, 0, 1], [0, 1, 0, 0], "think"),
        ([1, 1, 0, 1], [0, 1, 1, 1], "no_think"),
        ([0, 0, 0, 0], [0, 0, 0, 0], "unsolved"),
        ([1, 1, 1, 1], [1, 1, 1, 1], "no_think"),
        (
            [1, 1, 1, 0, 0],
            [1, 1, 0, 0, 0],
            "no_think",
        ),  # 0.6 - 0.4 is no more than 0.2; floats make it 0.19999999999999996
        ([0, 0, 0, 0], [1, 0, 0, 0], "no_think"),
        ([], [1], None),
    ],
)
def test_thinking_is_the_label_only_where_it_gains_more_than_delta(
    think: list[int], nothink: list[int], label: str | None
):
    assert labelled(think, nothink) == label


def test_an_open_prompt_that_scores_0_is_not_unsolved():
    assert labelled([0, 0], [0, 0], solvable=False) == "no_think"


def test_pairs_are_between_the_modes_and_within_them_and_none_where_all_score_the_same():
    problem = Problem(problem_id="p", question="q")
    groups, scores = scored([0, 1, 1, 0], [0, 0, 0, 1])
    found = {(row["pair_kind"], row["mode"]): row for row in pairs(problem, groups, "think", scores)}
    assert found.keys() == {("inter", "think"), ("intra", "think"), ("intra", "no_think")}
    assert found["inter", "think"]["rejected_mode"] == "no_think"
    assert [(row["chosen_score"], row["rejected_score"]) for row in found.values()] == [
        (1.0, 1.0),
        (1.0, 0.0),
        (1.0, 0.0),
    ]
    assert (found["intra", "think"]["chosen_tokens"], found["intra", "think"]["rejected_tokens"]) == (11, 10)
    groups, scores = scored([1, 1], [1, 1])
    assert pairs(problem, groups, "no_think", scores) == []
    assert pairs(problem, groups, "unsolved", scores) == []
    groups, scores = scored([1, 0, 0, 0, 0], [0, 0, 0, 0, 0])
    kinds = [row["pair_kind"] for row in pairs(problem, groups, "no_think", scores)]
    assert kinds == ["intra"], "the cheap mode's best is worse than the other's: no pair between them"


@pytest.mark.parametrize(
    ("mode", "text", "tags"),
    [
        ("think", "3 * 8 = 24.\n</think>\n\nSo 24.", "<think>\n3 * 8 = 24.\n</think>\n\nSo 24."),
        ("think", "<think>\n3 * 8 = 24.\n</think>\n\nSo 24.", "<think>\n3 * 8 = 24.\n</think>\n\nSo 24."),
        ("think", "3 * 8", "<think>\n3 * 8"),
        ("no_think", "</think>\n\nSo 24.", "<no_think>\nSo 24.\n</no_think>"),
        ("no_think", "<think>\n</think>\n\nSo 24.", "<no_think>\nSo 24.\n</no_think>"),
        ("no_think", "Hello, Tom.", "<no_think>\nHello, Tom.\n</no_think>"),
    ],
)
def test_a_reply_is_written_in_the_tags_of_its_mode(mode: str, text: str, tags: str):
    assert tagged(rollout(mode, text=text)) == tags


# ---- hybrid_mode_mix as a build


@pytest.fixture
def pools(tmp_path: Path) -> list[dict[str, str]]:
    """Twenty sums, and twenty greetings of which one in four is about code."""
    sums = [{"id": f"p{i:02}", "question": f"What is {i} + {i % 3}?", "answer": str(i + i % 3)} for i in range(20)]
    talk = [
        {"id": f"t{i:02}", "question": f"Say hello to {'the class' if i % 4 == 0 else 'Tom'}{'!' * i}"}
        for i in range(20)
    ]
    for name, table in (("sums", sums), ("talk", talk)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    return [{"path": str(tmp_path / f"{name}.jsonl")} for name in ("sums", "talk")]


POOLS = {"thinking": ["sums"], "unthinking": ["talk"]}


def mixed(request: Request) -> str:
    """Thinking is right for three draws of four, not thinking for one; a greeting is one. A reward model likes short ones."""
    if request.kind == "reward":
        return str(100 - len(str(request.prompt)))
    forced = "</think>" in str(request.prefix)
    if request.problem_id[0] == "t":
        return "Hello." if forced else "He is new.\n</think>\n\nHello."
    number = int(request.problem_id[1:])
    right = (request.index == 3) if forced else (request.index != 2)
    answer = rf"so \boxed{{{number + number % 3 if right else 1000}}}"
    if str(request.prefix).endswith("...\n"):
        return f"{'' if number % 2 else 'Hm.'}</think>{answer}"
    return answer if forced else f"I add.\n</think>\n\n{answer}"


def test_each_pool_gives_rows_in_its_own_tags_and_held_out_prompts_are_labelled(
    recipe: Make, store: Store, tmp_path: Path, pools: list[dict[str, str]]
):
    synth = {"use": "hybrid_mode_mix", **POOLS, "held_out": 0.5, "choice": "...\n", **BOTH}
    made = built(recipe, store, mixed, source=pools, synth=synth)
    found = rows(made)
    train, held = found.filter(split="train"), found.filter(split="held_out")
    outside = {name for name in found["problem_id"] if draw(f"held_out|{name}") < 1 << 63}
    assert set(held["problem_id"]) == {name for name in outside if name[0] == "p"}
    assert set(train.filter(domain="sums")["response"].str.slice(0, 8)) == {"<think>\n"}
    assert train.filter(domain="sums")["correct"].all()
    assert set(train.filter(domain="talk")["response"]) == {"<no_think>\nHello.\n</no_think>"}
    assert set(train.filter(domain="talk")["mode"]) == {"no_think"}
    assert train["score"].null_count() == train.height
    assert set(train["label_mode"]) == {None}
    assert {(row["mean_think"], row["mean_nothink"], row["label_mode"]) for row in held.to_dicts()} == {
        (0.75, 0.25, "think")
    }
    assert held.group_by("problem_id").len()["len"].unique().to_list() == [8]
    assert (held["score"] == held["correct"].cast(pl.Float64)).all()
    table = rows(made, "modes")
    sums = table.filter(domain="sums")
    assert {row["chosen_mode"] for row in sums.to_dicts()} == {"think", "no_think"}
    assert (
        sums["chosen_mode"] == pl.Series([("no_think" if int(name[1:3]) % 2 else "think") for name in sums["id"]])
    ).all()
    assert set(table.filter(domain="talk")["label_mode"]) == {None}
    turned = reasons(made)
    assert turned["unscored"] == table.filter(domain="talk").height
    about_code = {f"t{i:02}" for i in range(0, 20, 4)}
    assert turned["math_or_code"] == 4 * len({name for name in about_code if draw(f"held_out|{name}") >= 1 << 63})
    kinds = dict(rows(made, "pairs")["pair_kind"].value_counts().rows())
    assert kinds == {"inter": sums.height, "intra": 2 * sums.height}
    view = pl.read_parquet(f"{export(made.dataset.path, 'mode-pairs', tmp_path / 'v', kind='inter')}/*.parquet")
    assert view.height == sums.height
    card = (made.dataset.path / "README.md").read_text()
    odd = sum(int(name[1:3]) % 2 == 0 for name in sums["id"])
    assert "Hybrid Accuracy" in card
    assert f"{odd / sums.height:.3f}" in card
    assert f"{sums.height} think, 0 no_think; left out 0 unsolved" in card


def test_open_prompts_are_scored_by_a_reward_model_where_the_recipe_says_so(
    recipe: Make, store: Store, pools: list[dict[str, str]]
):
    synth = {"use": "hybrid_mode_mix", **POOLS, "held_out": 1.0, "open_prompts": "reward", **BOTH}
    with pytest.raises(RecipeError, match="reward"):
        built(recipe, store, mixed, source=pools[1:], synth=synth)
    models = {"solver": {"name": "s", "max_tokens": 64}, "reward": {"name": "r", "max_tokens": 1}}

    def reply(request: Request) -> str:
        """The reward model likes what was thought about."""
        if request.kind == "reward":
            return "2.0" if "Considered" in str(request.prompt) else "1.0"
        return "Hello." if "</think>" in str(request.prefix) else "Hm.</think>Considered hello."

    make = {
        "source": pools[1:],
        "filters": [],
        "select": [],
        "name": "open",
        "models": models,
        "engines": {"solver": {"kind": "scripted"}},
    }
    made = build(parse_recipe({**make, "synth": synth}), store, reply=reply)
    assert {(row["mean_think"], row["mean_nothink"], row["label_mode"], row["scored_by"]) for row in rows(made, "modes").to_dicts()} == {(2.0, 1.0, "think", "reward")}  # fmt: skip
    shorter = build(parse_recipe({**make, "synth": {**synth, "per_token": 1.0}}), store, reply=reply)
    assert set(rows(shorter, "modes")["label_mode"]) == {"no_think"}


def test_a_prompt_of_no_pool_is_turned_down_by_name(recipe: Make, store: Store, pools: list[dict[str, str]]):
    made = built(
        recipe,
        store,
        mixed,
        source=pools,
        synth={"use": "hybrid_mode_mix", "thinking": ["sums"], "unthinking": ["chat"], "held_out": 0.0, **BOTH},
    )
    assert reasons(made)["no_pool"] == 20
    assert set(rows(made)["domain"]) == {"sums"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"thinking": ["a"], "unthinking": ["a"]}, r"both name \['a'\]"),
        ({"thinking": []}, "one names nothing"),
        ({"held_out": 1.5}, "a share from 0 to 1"),
        ({"per_token": 0.1}, "takes from a reward model's scores"),
        ({"chat_prompt": "Hi"}, "has no place for the problem"),
    ],
)
def test_options_of_hybrid_mode_mix_that_cannot_work_are_refused(
    recipe: Make, store: Store, options: Mapping[str, Any], said: str
):
    with pytest.raises(RecipeError, match=said):
        built(recipe, store, mixed, synth={"use": "hybrid_mode_mix", **options})


def test_the_small_talk_that_ships_is_of_sentences_that_the_small_model_never_saw_and_holds_no_sums():
    lines = (Path(__file__).parents[1] / "data/problems/talk.jsonl").read_text().splitlines()
    said = [json.loads(line)["question"] for line in lines]
    assert len(set(said)) == len(said) == 60
    assert all(is_held_back(question) and not SUMS.search(question) for question in said)


# ---- the selector that weighs both alike

TOKENS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40) | st.none()), max_size=20)


@given(TOKENS)
def test_no_kind_is_taken_with_more_tokens_than_the_least_has(drawn: list[tuple[str, int | None]]):
    frame = pl.LazyFrame(
        {
            "id": [f"r{i:02}" for i in range(len(drawn))],
            "mode": [mode for mode, _ in drawn],
            "n_tokens": [n for _, n in drawn],
        },
        schema={"id": pl.String, "mode": pl.String, "n_tokens": pl.Int64},
    )
    found = balance(frame, by=("mode",)).rows.collect()
    assert found["id"].to_list() == [f"r{i:02}" for i in range(len(drawn))]
    sums = {mode: sum(n or 0 for other, n in drawn if other == mode) for mode in {mode for mode, _ in drawn}}
    least = max(1, min(sums.values(), default=1))
    for mode, total in sums.items():
        taken = found.filter(pl.col("selected") & (pl.col("mode") == mode))["n_tokens"].sum()
        assert taken <= least
        if total == least:
            assert taken == total, "the least is taken whole"
        spare = found.filter(~pl.col("selected") & (pl.col("mode") == mode))["n_tokens"].drop_nulls()
        assert all(n > least - taken for n in spare), "whatever still fits is taken"


def test_a_balance_of_nothing_or_over_nothing_is_refused_or_empty():
    frame = pl.LazyFrame({"id": ["a"], "mode": ["x"], "n_tokens": [3]})
    with pytest.raises(ValueError, match=r"by = \[\]: name the columns"):
        balance(frame, by=())
    with pytest.raises(RecipeError, match="no column 'mod'; did you mean 'mode'"):
        balance(frame, by=("mod",))
    assert balance(frame.head(0), by=("mode",)).rows.collect().height == 0


# ---- all four on the small model


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(2400)
def test_the_recipes_of_modes_and_memory_build_on_the_small_model(tmp_path: Path):
    pytest.importorskip("vllm", reason="needs the CPU build of vLLM")
    root = Path(__file__).parents[1]
    if not (root / "data/models/tiny-generalist/model.safetensors").exists():
        pytest.skip("data/models/tiny-generalist has no weights yet")
    store = Store(tmp_path / "store")
    made = {
        name: build(load_recipe(root / f"data/recipes/{name}.toml", ["source.0.limit=8"]), store)
        for name in ("mode-advantage", "gist-segments", "memory-actions", "hybrid-mode-mix")
    }
    both = rows(made["mode-advantage"])
    assert set(both["mode"]) == {"think", "nothink"}
    assert both.filter(mode="think")["n_tok"].mean() > 3 * both.filter(mode="nothink")["n_tok"].mean()  # type: ignore[operator]
    assert made["gist-segments"].tally.meter.samples_new == 0, "its traces are the thinking rollouts"
    gist = rows(made["gist-segments"])
    assert gist.height > 8
    assert (gist["peak_tokens"] < gist["vanilla_peak"]).all()
    moves = rows(made["memory-actions"])
    assert {"commit", "answer"} <= set(moves["action"])
    assert moves["correct"].all()
    mix = rows(made["hybrid-mode-mix"])
    assert set(mix["mode"]) == {"think", "no_think"}
    assert set(mix["split"]) == {"train"}
