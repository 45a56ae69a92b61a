"""Recipes that weigh or label plain samples: length_harmonize, reward_remaining_labels, offline_opd. The numbers are worked out by hand."""

import json
import shutil
from array import array
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tracemill.pipelines.build import Built, build
from tracemill.pipelines.export import export
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, load_recipe
from tracemill.schemas.request import Completion, Request, TokenScores
from tracemill.schemas.views.zip_rc import label
from tracemill.synth.divergent_tokens import Parting
from tracemill.synth.divergent_tokens import _sentence as real_sentence
from tracemill.synth.length_harmonize import weight
from tracemill.synth.offline_opd import clamped

Make = Callable[..., Recipe]
ROOT = Path(__file__).parents[1]

LENGTHS, RIGHT = (100, 200, 300, 400), (True, True, False, True)


def of_length(request: Request) -> Completion:
    """Four draws of 100, 200, 300 and 400 tokens, of which the third is wrong."""
    number, i = int(request.problem_id[1:]), request.index % 4
    text = rf"so \boxed{{{number + number % 3 if RIGHT[i] else 1000}}}"
    return Completion(text=text, finish_reason="stop", n_tokens=LENGTHS[i], token_ids=array("i", range(LENGTHS[i])))


def built(recipe: Make, store: Store, reply: Callable[[Request], Any] = of_length, **changes: Any) -> Built:
    return build(recipe(**{"filters": [], "select": [], **changes}), store, reply=reply)


def rows(made: Built) -> pl.DataFrame:
    return made.dataset.scan().collect().sort("id")


def reasons(made: Built) -> dict[str, int]:
    return dict(made.dataset.scan("rejected").collect()["reason"].value_counts().rows())


def test_a_weight_is_length_against_the_mean_and_rightness_against_the_mean():
    tokens, right = sum(LENGTHS), sum(RIGHT)
    assert weight(100, True, tokens, right, 4, 5.0) == Fraction(11, 4)
    assert float(weight(300, False, tokens, right, 4, 5.0) or 0) == pytest.approx(-1 / 6 - 3.75)
    assert weight(0, True, tokens, right, 4, 5.0) is None


def test_weights_are_clipped_and_standardised_over_the_finished_set(recipe: Make, store: Store):
    """Of the two samples 100 right and 300 wrong: 2.75 and -2 have mean 0.375 and deviation 2.375."""
    made = built(
        recipe, store, synth={"use": "length_harmonize", "n": 4, "k": 4},
        filters=[{"use": "where", "sql": "n_tokens = 100 OR n_tokens = 300"}],
        select=[{"use": "standardize", "column": "w_clipped", "into": "weight"}],
    )  # fmt: skip
    for row in rows(made).to_dicts():
        assert (row["ref_mean_len"], row["ref_acc"], row["k_total"]) == (250.0, 0.75, 4)
        expected = {100: (2.75, 2.75, 1.0), 300: (-1 / 6 - 3.75, -2.0, -1.0)}[row["n_tokens"]]
        assert (row["w_raw"], row["w_clipped"], row["weight"]) == pytest.approx(expected)


def test_k_of_the_samples_are_drawn_by_lot_and_the_others_are_accounted_for(recipe: Make, store: Store):
    made = built(recipe, store, synth={"use": "length_harmonize", "n": 4, "k": 2})
    chosen = rows(made)
    problems = made.dataset.scan("problems").collect().height
    assert chosen.group_by("problem_id").len()["len"].to_list() == [2] * problems
    assert len(set(chosen["n_tokens"])) == 4, "by lot, not the shortest or the best"
    assert reasons(made) == {"not_drawn": 2 * problems}


def test_what_is_cut_empty_or_never_solved_has_no_weight_in_the_set(recipe: Make, store: Store):
    def reply(request: Request) -> Completion:
        number, i = int(request.problem_id[1:]), request.index
        if i == 0:
            return Completion(text="", finish_reason="stop", n_tokens=0)
        answer = number + number % 3 if number % 2 else 1000
        return Completion(text=rf"\boxed{{{answer}}}", finish_reason="length" if i == 1 else "stop", n_tokens=10)

    made = built(recipe, store, reply, synth={"use": "length_harmonize", "n": 4, "k": 4})
    problems = made.dataset.scan("problems").collect()
    odd = sum(int(name[1:]) % 2 for name in problems["problem_id"])
    even = problems.height - odd
    assert reasons(made) == {"empty": problems.height, "truncated": problems.height, "unsolved": 2 * even}
    assert rows(made).height == 2 * odd


def test_what_sample_drew_is_not_drawn_again(recipe: Make, store: Store):
    built(recipe, store, synth={"use": "sample", "n": 4})
    for other in ({"use": "length_harmonize", "n": 4, "k": 2}, {"use": "reward_remaining_labels", "n": 4}):
        assert built(recipe, store, synth=other).tally.meter.samples_new == 0


@pytest.mark.parametrize(
    ("left", "reward", "states", "expected"),
    [(300, 1, 2, 9), (5000, 0, 2, 5), (0, 0.5, 7, 24), (40_000, 0.5, 7, 31), (0, 0, 2, 0), (0, 1, 2, 8), (7, 2.0, 2, 8), (256, -1, 2, 1), (0, 0.4, 7, 16)],
)  # fmt: skip
def test_a_label_is_the_bin_of_what_is_left_and_the_state_of_the_reward(
    left: int, reward: float, states: int, expected: int
):
    assert label(left, reward, states=states) == expected


def test_labels_follow_from_the_rows(recipe: Make, store: Store, tmp_path: Path):
    made = built(recipe, store, synth={"use": "reward_remaining_labels", "n": 4, "edges": [0, 10, 50, 150]})
    for row in rows(made).to_dicts():
        right = RIGHT[int(row["id"][-1])]
        assert (row["reward"], row["finished"], row["value"]) == (float(right), True, None)
        assert (row["first_class"], row["last_class"]) == (2 + 3 * right, 3 * right)
        assert len(row["input_ids"]) == row["prompt_len"] + row["n_tokens"]
    for most in (64, 0):
        folder = export(made.dataset.path, "zip-rc", tmp_path / str(most), most=most)
        view = pl.read_parquet(f"{folder}/*.parquet")
        assert view.height == rows(made).height
        for row in view.to_dicts():
            total = len(row["input_ids"]) - row["prompt_len"]
            assert len(set(row["positions"])) == len(row["labels"]) == (min(most, total) or total)
            left = [total - 1 - (place - row["prompt_len"]) for place in row["positions"]]
            assert min(left) >= 0
            assert row["labels"] == [label(n, row["reward"], edges=row["length_edges"]) for n in left]


def test_a_rollout_that_did_not_end_is_not_right_and_an_undecided_one_has_no_label(recipe: Make, store: Store):
    def reply(request: Request) -> Completion:
        number = int(request.problem_id[1:])
        text = [rf"\boxed{{{number + number % 3}}}", "I cannot tell."][request.index]
        return Completion(text=text, finish_reason=["length", "stop"][request.index], n_tokens=5, token_ids=array("i", range(5)))  # type: ignore[arg-type]  # fmt: skip

    made = built(recipe, store, reply, synth={"use": "reward_remaining_labels"})
    assert set(rows(made)["finished"]) == {False}
    assert set(rows(made)["reward"]) == {0.0}
    assert set(reasons(made)) == {"undecided"}


def with_teacher(**changes: Any) -> dict[str, Any]:
    return {"models": {"teacher": {"name": "teacher", "revision": "r1", "max_tokens": 64}}, **changes}


def teach(request: Request) -> Completion:
    return Completion(text=r"so \boxed{1}", finish_reason="stop", n_tokens=6, token_ids=array("i", range(500, 506)))


def test_the_teacher_scores_the_very_ids_that_the_student_drew(recipe: Make, store: Store):
    synth = {"use": "offline_opd", "n": 2, "most": 4, "score_student": True, "sft_teacher": "r1"}
    made = built(recipe, store, teach, **with_teacher(synth=synth))
    for row in rows(made).to_dicts():
        assert row["response_ids"] == [500, 501, 502, 503]
        assert row["teacher_logp"] == row["student_logp"] == pytest.approx([-0.5, -0.501, -0.502, -0.503])
        assert (row["loss_mask"], row["truncated"], row["n_clamped"]) == ([1] * 4, True, 0)
        assert (row["sft_teacher"], row["opd_teacher"]) == ("r1", "r1")
    card = (made.dataset.path / "README.md").read_text()
    assert "reverse KL" in card


def test_a_teacher_that_the_student_did_not_learn_from_is_refused_before_anything_is_drawn(recipe: Make, store: Store):
    with pytest.raises(RecipeError, match=r"sft_teacher = 'r0', and \[models.teacher\] is 'r1'"):
        built(recipe, store, teach, **with_teacher(synth={"use": "offline_opd", "sft_teacher": "r0"}))
    again = built(recipe, store, teach, **with_teacher(synth={"use": "offline_opd"}))
    assert again.tally.meter.samples_replayed == 0
    assert set(rows(again)["sft_teacher"]) == {None}


def test_log_probs_that_are_no_numbers_to_learn_from_are_clamped():
    assert clamped(array("f", [-0.5, float("-inf"), -250.0, float("nan")])) == [-0.5, -100.0, -100.0, -100.0]


def test_a_rollout_without_a_token_is_turned_down(recipe: Make, store: Store):
    def reply(request: Request) -> Completion:
        if request.index:
            return Completion(text="", finish_reason="stop", n_tokens=0, token_ids=array("i"))
        return teach(request)

    made = built(recipe, store, reply, **with_teacher(synth={"use": "offline_opd", "n": 2}))
    assert reasons(made) == {"empty": rows(made).height}


def test_an_engine_that_cannot_score_is_named_as_it_is_set_up(recipe: Make, store: Store):
    """The teacher has no engine of its own, so it runs on one like the solver's."""
    engine = {"kind": "openai", "base_urls": ["http://127.0.0.1:9/v1"], "send": "chat"}
    with pytest.raises(RecipeError, match="of the role 'teacher', and an engine of kind 'openai'"):
        built(recipe, store, **with_teacher(synth={"use": "offline_opd"}, engine=engine))


def test_models_of_two_tokenizers_are_refused_by_name(recipe: Make, store: Store, tmp_path: Path):
    folder = tmp_path / "other"
    shutil.copytree(ROOT / "data/models/tiny-reasoner", folder)
    known = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = known["model"]["vocab"]
    vocabulary["Ġglims"], vocabulary["Ġvints"] = vocabulary["Ġvints"], vocabulary["Ġglims"]
    (folder / "tokenizer.json").write_text(json.dumps(known))
    changes = {
        "model": {"name": "tiny-reasoner", "max_tokens": 8},
        "engine": {"kind": "hf"},
        "synth": {"use": "offline_opd"},
    }
    other = {"models": {"teacher": {"name": str(folder), "max_tokens": 8}}}
    with pytest.raises(RecipeError, match="hands token ids from 'solver' to 'teacher', so both need one tokenizer"):
        built(recipe, store, **changes, **other)
    served = {"models": {"teacher": {"name": "t", "max_tokens": 8}}, "engines": {"teacher": {"kind": "scripted"}}}
    with pytest.raises(RecipeError, match="'teacher' takes none as it is set up"):
        built(recipe, store, **changes, **served)


TEN = (1, 2, 5, 1, 2, 3, 10, 1, 2, 3)
"""Ids of an answer: to the scripted small model another token is likelier before 5 and before 10, at places 2 and 6."""


def divergent(recipe: Make, store: Store, says: Mapping[int, str | None], **changes: Any) -> Built:
    """A build of divergent_tokens in which the judge says this at a place."""

    def reply(request: Request) -> Completion:
        if request.scope == "solve":
            return Completion(text=r"so \boxed{1}", finish_reason="stop", n_tokens=10, token_ids=array("i", TEN))
        if request.scope == "divergent_tokens":
            assert request.prefix is not None
            return Completion(
                text=f" and {request.prefix[-1]}.", finish_reason="stop", n_tokens=2, token_ids=array("i", (7, 8))
            )
        place = 2 if "<<6>>" in str(request.prompt) else 6
        said = says[place] or "maybe"
        scores = TokenScores(token_ids=array("i", [1]), logprobs=array("f", [-0.1]))
        return Completion(text=said, finish_reason="length", n_tokens=1, scores=scores)

    models = {role: {"name": role, "max_tokens": 64} for role in ("small", "judge")}
    return built(recipe, store, reply, models=models, synth={"use": "divergent_tokens"}, **changes)


def test_a_token_that_the_small_model_would_not_write_diverges_where_the_judge_says_so(
    recipe: Make, store: Store, tmp_path: Path
):
    made = divergent(recipe, store, {2: "1", 6: "0"})
    for row in rows(made).to_dicts():
        assert row["divergent"] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
        assert (row["n_mismatch"] / 10, row["n_divergent"] / 10) == (0.2, 0.1)
        assert row["slm_token"] == [1, 2, 6, 1, 2, 3, 11, 1, 2, 3]
        assert row["token_type"] == [2] * 10
    table = made.dataset.scan("divergences").collect()
    assert set(zip(table["pos"], table["divergent"], strict=True)) == {(2, 1), (6, 0)}
    assert set(table["slm_cont"]) == {"6 and 6.", "11 and 11."}
    assert table.filter(pos=2)["common_context"].unique().to_list() == ["1 2"]
    view = pl.read_parquet(f"{export(made.dataset.path, 'r2r', tmp_path / 'r2r')}/*.parquet")
    assert view.height == 10 * rows(made).height
    assert view.filter("mismatch")["pos"].unique().sort().to_list() == [2, 6]
    assert view["divergent"].sum() == rows(made).height


def test_what_the_judge_does_not_answer_is_unknown_and_not_agreement(recipe: Make, store: Store, tmp_path: Path):
    made = divergent(recipe, store, {2: None, 6: "1"})
    assert rows(made)["divergent"].to_list()[0] == [0, 0, -1, 0, 0, 0, 1, 0, 0, 0]
    for unknown, places in ((False, 9), (True, 10)):
        folder = export(made.dataset.path, "r2r", tmp_path / str(unknown), unknown=unknown)
        assert pl.read_parquet(f"{folder}/*.parquet").height == places * rows(made).height


@pytest.mark.parametrize(
    ("token", "rest", "sentence"),
    [
        ("so", " it is 12. Then", "so it is 12."),
        (".", " Then", "."),
        ("so", " on", "so on"),
        ("so", " it\nis.", "so it\n"),
    ],
)
def test_a_sentence_ends_where_the_first_of_its_ends_stands(token: str, rest: str, sentence: str):
    assert real_sentence(token, rest) == sentence


def test_white_space_alone_is_no_divergence_whatever_a_judge_would_say():
    assert Parting(3, 7, "", "so  it\nis.", "so it is.", said="1").divergent == 0
    assert [Parting(3, 7, "", "so", "no", said=said).divergent for said in ("1", "0", "", "yes")] == [1, 0, -1, -1]


@pytest.mark.timeout(180)
def test_a_small_teacher_scores_a_small_student(tmp_path: Path):
    pytest.importorskip("transformers", reason="needs the extra: pip install 'tracemill[hf]'")
    made = build(load_recipe(ROOT / "data/recipes/offline-opd.toml", ['engine={kind="hf"}', "source.0.limit=4", "synth.score_student=true"]), Store(tmp_path / "store"))  # fmt: skip
    for row in rows(made).to_dicts():
        assert len(row["teacher_logp"]) == len(row["response_ids"]) == row["n_tokens"]
        assert row["teacher_logp"] != row["student_logp"]
        assert row["prompt_text"].endswith("## Answer\n")
