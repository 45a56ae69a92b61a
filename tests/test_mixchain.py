"""MixChain on a scripted model: the truths of CoT-Valve's tables, the cases at the edges, and what is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tracemill.pipelines.build import build
from tracemill.pipelines.export import export, tables_of
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Completion, Request
from tracemill.schemas.views import mixchain_long
from tracemill.synth.mixchain.lengths import acu, betas_of, is_monotone

Lengths = dict[str, tuple[int, ...]]

QUESTIONS: Lengths = {
    "q1": (116, 280, 311, 387, 497),
    "q2": (116, 280, 311, 387, 497),
    "q3": (116, 300, 250, 387, 497),
}
"""Tokens of the reference and of the chains at 0.2, 0.4, 0.6 and 0.8; the chain of q2 at 0.6 is wrong."""
WRONG = {("q2", "0.6")}


def words(count: int, last: str) -> str:
    return "so " * (count - 1) + last


def chain(request: Request) -> Completion:
    assert request.adapter is not None
    length = QUESTIONS[request.problem_id][int(float(request.adapter.scale) * 5)]
    answer = "0" if (request.problem_id, request.adapter.scale) in WRONG else "7"
    return Completion(
        text=words(length, rf"\boxed{{{answer}}}"), finish_reason="stop", n_tokens=length, counted="words"
    )


@pytest.fixture
def three(tmp_path: Path) -> Callable[..., Recipe]:
    """Makes a recipe over QUESTIONS; keyword arguments replace options of the method."""
    rows = [{"id": q, "question": f"{q}?", "answer": "7", "solution": words(n[0], "7")} for q, n in QUESTIONS.items()]
    source = tmp_path / "three.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def make(tables: dict[str, Any] | None = None, **options: Any) -> Recipe:
        return parse_recipe(
            {
                "name": "three",
                "source": {"path": str(source), "solution": "solution", "licence": "CC0-1.0"},
                "model": {"name": "base", "max_tokens": 600},
                "engine": {"kind": "scripted"},
                "synth": {"use": "mixchain", "start": "base", "end": "reasoner", **options},
                **(tables or {}),
            }
        )

    return make


Make = Callable[..., Recipe]


def read(dataset: Dataset, name: str) -> pl.DataFrame:
    return dataset.scan(name).collect()


def test_beta_goes_from_one_for_the_shortest_chain_to_zero_for_the_longest(three: Make, store: Store):
    rows = read(build(three(), store, reply=chain).dataset, "rows")
    betas = rows.filter(pl.col("problem_id") == "q1").select(f"beta_{k}" for k in range(5)).row(0)
    assert [round(beta, 4) for beta in betas] == [1.0, 0.5696, 0.4882, 0.2887, 0.0]


@pytest.mark.parametrize(
    ("mode", "long_rows", "wide_rows"),
    [
        ("per_question", {"q1": 5, "q3": 5}, 2),
        ("per_solution", {"q1": 5, "q2": 4, "q3": 5}, 3),
        ("flag_only", {"q1": 5, "q2": 5, "q3": 5}, 3),
    ],
)
def test_each_filter_mode_keeps_what_its_published_set_kept(
    mode: str, long_rows: dict[str, int], wide_rows: int, three: Make, store: Store
):
    built = build(three(filter_mode=mode), store, reply=chain)
    counts = read(built.dataset, "traces").group_by("problem_id").len()
    assert dict(counts.iter_rows()) == long_rows
    rows = read(built.dataset, "rows")
    assert len(rows) == wide_rows
    flags = rows.filter(pl.col("problem_id") == "q2").select(f"correct_{k}" for k in (1, 2, 3, 4)).rows()
    assert (
        flags
        == {"per_question": [], "per_solution": [(True, True, None, True)], "flag_only": [(True, True, False, True)]}[
            mode
        ]
    )
    assert len(read(built.dataset, "rejected").filter(pl.col("id").is_not_null())) == 15 - sum(long_rows.values())


def test_a_question_turned_down_whole_says_why_and_so_does_each_of_its_chains(three: Make, store: Store):
    dataset = build(three(filter_mode="per_question"), store, reply=chain).dataset
    down = read(dataset, "rejected")
    assert set(down["stage"]) == {"method"}
    assert dict(down.group_by("reason").len().iter_rows()) == {"wrong": 1, "not_all_correct": 5}
    wrong = down.filter(pl.col("reason") == "wrong")
    assert wrong["id"].to_list() == ["q2/alpha-0.6"]
    assert json.loads(wrong["row"][0])["correct"] is False
    fate = read(dataset, "problems").filter(pl.col("problem_id") == "q2").select("outcome", "reason").row(0)
    assert fate == ("rejected", "method: not_all_correct")


def test_columns_stand_in_the_order_of_alpha_whatever_their_lengths(three: Make, store: Store):
    rows = read(build(three(), store, reply=chain).dataset, "rows")
    third = rows.filter(pl.col("problem_id") == "q3")
    assert third["length_monotone"].item() is False
    assert third.select(f"solution_{k}_token" for k in (1, 2, 3, 4)).row(0) == (300, 250, 387, 497)
    assert third.select(f"length_rank_{k}" for k in range(5)).row(0) == (1, 3, 2, 4, 5)
    assert third.select(f"alpha_{k}" for k in (1, 2, 3, 4)).row(0) == (0.2, 0.4, 0.6, 0.8)
    assert rows.filter(pl.col("problem_id") == "q1")["length_monotone"].item() is True


def test_alphas_in_any_order_and_spelling_are_the_same_dataset(three: Make, store: Store):
    first = build(three(), store, reply=chain)
    again = build(three(alphas=[0.80, 0.2, 0.4, 0.6]), store, reply=chain)
    assert again.tally.meter.samples_new == 0
    assert read(again.dataset, "rows").equals(read(first.dataset, "rows"))


def test_one_level_more_draws_that_level_and_other_modes_draw_nothing(three: Make, store: Store):
    build(three(alphas=[0.2, 0.4, 0.8]), store, reply=chain)
    more = build(three(), store, reply=chain).tally.meter
    assert (more.samples_new, more.samples_replayed) == (3, 9)
    other = build(three(filter_mode="per_question", layout="long", solution_0=False), store, reply=chain).tally.meter
    assert (other.samples_new, other.samples_replayed) == (0, 12)


def test_the_wide_format_has_the_published_columns_and_no_others(three: Make, store: Store, tmp_path: Path):
    dataset = build(three(), store, reply=chain).dataset
    out = export(dataset.path, "mixchain-wide", tmp_path / "wide")
    frame = pl.read_parquet(out / "*.parquet")
    assert frame.columns == [
        *("question", "answer", "target", "solution_0", "solution_1", "solution_2", "solution_3", "solution_4"),
        *("solution_1_token", "solution_2_token", "solution_3_token", "solution_4_token"),
        *("correct_1", "correct_2", "correct_3", "correct_4"),
    ]
    assert frame["solution_0"].equals(frame["answer"], check_names=False)
    assert frame["target"].to_list() == ["7", "7", "7"]
    assert frame.schema["solution_1_token"] == pl.Int64
    assert frame.schema["correct_1"] == pl.Boolean


def test_stages_run_from_the_longest_column_to_the_shortest(three: Make, store: Store, tmp_path: Path):
    dataset = build(three(), store, reply=chain).dataset
    long = pl.read_parquet(export(dataset.path, "mixchain-long", tmp_path / "long") / "*.parquet")
    assert long.columns == [
        *("problem_id", "question", "solution", "solution_index", "alpha", "beta", "stage", "n_tokens", "target")
    ]
    order = long.group_by("stage").agg(pl.col("solution_index").first()).sort("stage")["solution_index"].to_list()
    assert order == [4, 3, 2, 1, 0]
    training = mixchain_long(tables_of(dataset.path), training=True).collect()
    assert len(training) == 14  # the wrong chain is left out


def test_the_progressive_schedule_of_gsm8k_adds_a_full_column_at_each_stage():
    """CoT-Valve, Table 9 and section 4: 6,863 questions with five solutions each."""
    question = pl.DataFrame({"problem_id": [f"{i:04}" for i in range(6863)]})
    lengths = pl.DataFrame({"solution_index": range(5), "n_tokens": [116, 280, 311, 387, 497]})
    traces = question.join(lengths, how="cross").with_columns(
        *(
            pl.lit(None, kind).alias(name)
            for name, kind in {"alpha": pl.Float64, "beta": pl.Float64, "dup_of": pl.String}.items()
        ),
        question=pl.lit("?"),
        gold=pl.lit("7"),
        correct=pl.lit(value=True),
        messages=pl.lit(
            [{"role": "assistant", "content": "7"}], pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
        ),
    )
    stages = mixchain_long({"traces": traces.lazy()}).select("stage").collect().group_by("stage").len().sort("stage")
    assert stages["len"].cum_sum().to_list() == [6863, 13726, 20589, 27452, 34315]


@pytest.mark.parametrize(
    ("accuracy", "billions", "tokens", "published"),
    [(95.1, 32, 741.1, 0.401), (45.9, 1, 104.3, 44.008), (56.9, 8, 282.1, 2.521)],
)
def test_accuracy_per_computation_unit_is_the_published_one(
    accuracy: float, billions: float, tokens: float, published: float
):
    assert round(acu(accuracy, billions, tokens), 3) == published


def test_equal_lengths_have_equal_betas_and_one_length_has_none():
    assert betas_of({1: 50, 2: 50, 3: 100}) == {1: 1.0, 2: 1.0, 3: 0.0}
    assert betas_of({1: 50, 2: 50}) == {1: None, 2: None}
    assert betas_of({3: 9}) == {3: None}
    assert betas_of({}) == {}


def test_the_order_of_lengths_is_judged_by_the_direction():
    assert is_monotone({0: 1, 1: 5, 2: 5, 3: 9}, "short_to_long")
    assert not is_monotone({0: 6, 1: 5}, "short_to_long")
    assert is_monotone({0: 1, 1: 9, 2: 5}, "long_to_short")
    assert not is_monotone({1: 5, 2: 9}, "long_to_short")


def test_beta_can_leave_the_reference_out(three: Make, store: Store):
    rows = read(build(three(beta_include_index0=False), store, reply=chain).dataset, "rows")
    first = rows.filter(pl.col("problem_id") == "q1")
    assert first["beta_0"].item() is None
    assert first["beta_1"].item() == 1.0


def test_a_reference_counted_in_words_is_not_compared_with_chains_counted_in_tokens(three: Make, store: Store):
    def counted_by_a_server(request: Request) -> Completion:
        full = chain(request)
        return Completion(text=full.text, finish_reason="stop", n_tokens=full.n_tokens, counted="usage")

    rows = read(build(three(), store, reply=counted_by_a_server).dataset, "rows")
    first = rows.filter(pl.col("problem_id") == "q1")
    assert first.select("beta_0", "length_rank_0").row(0) == (None, None)
    assert first.select("beta_1", "length_rank_1").row(0) == (1.0, 1)


def test_a_wrong_chain_has_no_beta_and_moves_no_other(three: Make, store: Store):
    rows = read(build(three(), store, reply=chain).dataset, "rows").filter(pl.col("problem_id") == "q2")
    assert rows["beta_3"].item() is None
    assert round(rows["beta_1"].item(), 4) == 0.5696


def test_the_same_text_at_two_alphas_keeps_both_columns_and_trains_once(three: Make, store: Store):
    same = r"short \boxed{7}"
    dataset = build(three(), store, reply=lambda _: same).dataset
    rows, traces = read(dataset, "rows"), read(dataset, "traces")
    assert rows.select("solution_1", "solution_4").row(0) == (same, same)
    copies = traces.filter((pl.col("problem_id") == "q1") & pl.col("dup_of").is_not_null())
    assert copies["id"].to_list() == ["q1/alpha-0.4", "q1/alpha-0.6", "q1/alpha-0.8"]
    assert copies["dup_of"].unique().to_list() == ["q1/alpha-0.2"]
    assert len(mixchain_long(tables_of(dataset.path), training=True).collect()) == 6  # the reference and one chain each


def test_a_truncated_chain_is_wrong_whatever_it_boxed(three: Make, store: Store):
    def cut(request: Request) -> Completion:
        full = chain(request)
        return Completion(text=full.text, finish_reason="length", n_tokens=full.n_tokens, counted="words")

    built = build(three(filter_mode="per_solution"), store, reply=cut)
    down = read(built.dataset, "rejected")
    assert dict(down.group_by("reason").len().iter_rows()) == {"truncated": 12, "no_correct_sample": 6}
    assert set(read(built.dataset, "problems")["reason"]) == {"method: no_correct_sample"}
    assert {row["truncated"] for row in built.dataset.manifest()["summary"]["rows"]} == {3}


def test_all_chains_wrong_is_kept_only_where_chains_are_flagged(three: Make, store: Store):
    dataset = build(three(), store, reply=lambda _: r"\boxed{0}").dataset
    assert len(read(dataset, "rows")) == 3
    assert read(dataset, "rows")["beta_0"].to_list() == [None] * 3


def test_a_gold_that_nobody_can_check_is_turned_down_before_a_token_is_drawn(tmp_path: Path, store: Store):
    source = tmp_path / "proofs.jsonl"
    gold = "Because the sum of the angles is 180 the triangle is isosceles."
    source.write_text(json.dumps({"id": "p", "question": "?", "answer": gold}) + "\n", encoding="utf-8")
    asked: list[Request] = []
    recipe = parse_recipe(
        {
            "name": "proofs",
            "source": {"path": str(source)},
            "model": {"name": "m", "max_tokens": 9},
            "engine": {"kind": "scripted"},
            "synth": {"use": "mixchain", "adapter": "a"},
        }
    )
    dataset = build(recipe, store, reply=lambda request: asked.append(request) or "x").dataset
    assert asked == []
    assert read(dataset, "rejected")["reason"].to_list() == ["unverifiable_gold"]
    assert read(dataset, "problems").select("outcome", "reason").row(0) == ("rejected", "method: unverifiable_gold")


def test_a_direction_by_adapter_has_no_reference_unless_asked(three: Make, store: Store):
    cold = build(three({"name": "cold"}, start=None, end=None, adapter="lora"), store, reply=chain).dataset
    assert read(cold, "rows")["solution_0"].null_count() == 3
    asked = build(three({"name": "cold"}, start=None, end=None, adapter="lora", solution_0=True), store, reply=chain)
    assert read(asked.dataset, "rows")["solution_0"].null_count() == 0


def test_the_summary_counts_every_chain_that_was_drawn_and_marks_the_frontier(three: Make, store: Store):
    for mode in ("flag_only", "per_solution", "per_question"):
        rows = build(three(filter_mode=mode), store, reply=chain).dataset.manifest()["summary"]["rows"]
        assert [row["alpha"] for row in rows] == ["0.2", "0.4", "0.6", "0.8"]
        assert [(row["correct"]["part"], row["correct"]["whole"]) for row in rows] == [(3, 3), (3, 3), (2, 3), (3, 3)]
        assert [round(row["mean tokens"]["mean"], 1) for row in rows] == [286.7, 290.7, 387.0, 497.0]
        assert [row["frontier"] for row in rows] == ["yes", "", "", ""]


def test_the_summary_says_where_lengths_go_against_the_stated_direction(three: Make, store: Store):
    with_it = build(three(), store, reply=chain).dataset.manifest()["summary"]
    against = build(three(direction="long_to_short"), store, reply=chain).dataset.manifest()["summary"]
    assert "the other way" not in with_it["note"]
    assert "the other way" in against["note"]


def test_a_blank_solution_is_none(three: Make, store: Store, tmp_path: Path):
    source = tmp_path / "blank.jsonl"
    source.write_text(
        json.dumps({"id": "q1", "question": "?", "answer": "7", "solution": "  "}) + "\n", encoding="utf-8"
    )
    dataset = build(three({"source": {"path": str(source), "solution": "solution"}}), store, reply=chain).dataset
    assert set(read(dataset, "traces")["origin"]) == {"generated"}


def test_the_dial_never_takes_the_reference(three: Make, store: Store):
    dataset = build(three({"select": [{"use": "length_dial"}]}, layout="long"), store, reply=chain).dataset
    assert set(read(dataset, "rows")["origin"]) == {"generated"}
    assert "reference" in set(read(dataset, "rejected")["reason"])
    assert not any(name.endswith("solution-0") for name in read(dataset, "pairs")["short_id"])


def test_a_copy_trains_where_the_first_of_the_two_was_turned_down(three: Make, store: Store):
    only = {"filters": [{"use": "where", "sql": "alpha > 0.3"}]}
    dataset = build(three(only, solution_0=False), store, reply=lambda _: r"\boxed{7}").dataset
    training = mixchain_long(tables_of(dataset.path), training=True).collect()
    assert training.select("problem_id", "alpha").rows() == [("q1", 0.4), ("q2", 0.4), ("q3", 0.4)]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"synth": {"use": "mixchain", "adapter": "a", "layout": "long"}}, 'needs synth.layout = "wide"'),
        ({"synth": {"use": "sample", "n": 1}}, "needs traces of the method mixchain, not of sample"),
    ],
)
def test_a_view_that_cannot_be_written_is_found_before_the_first_token(
    table: dict[str, Any], said: str, three: Make, store: Store
):
    with pytest.raises(RecipeError) as refused:
        build(
            three({**table, "views": {"mixchain-wide": True}}), store, reply=lambda _: pytest.fail("a token was drawn")
        )
    assert said in str(refused.value)


def test_one_row_a_chain_where_the_layout_is_long(three: Make, store: Store):
    dataset = build(three(layout="long"), store, reply=chain).dataset
    assert "traces" not in dataset.manifest()["tables"]
    assert len(read(dataset, "rows")) == 15


def test_trainers_views_read_the_chains_of_folded_rows(three: Make, store: Store, tmp_path: Path):
    dataset = build(three({"filters": [{"use": "correct"}]}), store, reply=chain).dataset
    sft = pl.read_parquet(export(dataset.path, "trl-sft", tmp_path / "sft") / "*.parquet")
    assert len(sft) == 14


def test_the_dial_takes_the_shortest_right_chain_and_refuses_pairs_that_lost_the_answer(three: Make, store: Store):
    def early(request: Request) -> Completion:
        full = chain(request)
        wrong = request.problem_id == "q1" and request.adapter is not None and request.adapter.scale == "0.2"
        return Completion(
            text="so 0" if wrong else full.text, finish_reason="stop", n_tokens=full.n_tokens, counted="words"
        )

    recipe = three(
        {"select": [{"use": "length_dial"}], "verify": {"extract": "last_number"}}, layout="long", solution_0=False
    )
    dataset = build(recipe, store, reply=early).dataset
    assert read(dataset, "rows").select("id", "n_tokens").rows() == [
        ("q1/alpha-0.4", 311),
        ("q2/alpha-0.2", 280),
        ("q3/alpha-0.4", 250),
    ]
    pairs = read(dataset, "pairs")
    refused = pairs.filter(~pl.col("accepted"))
    assert refused.select("short_id", "reason").rows() == [
        ("q1/alpha-0.2", "shorter_lost_correctness"),
        ("q2/alpha-0.6", "shorter_lost_correctness"),
    ]
    assert pairs.filter("dial")["short_id"].to_list() == ["q1/alpha-0.4", "q2/alpha-0.2", "q3/alpha-0.4"]
    assert set(pairs["long_id"]) == {"q1/alpha-0.8", "q2/alpha-0.8", "q3/alpha-0.8"}
    assert (pairs["short_tokens"] < pairs["long_tokens"]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"alphas": ["short"]}, "valid number"),
        ({"alphas": [0.2, 0.20]}, "0.2 is there 2 times"),
        ({"alphas": [0.1 + 0.2]}, "write 0.3"),
        ({"alphas": []}, "at least one"),
        ({"alphas": [17]}, "beyond 16"),
        ({"adapter": "a"}, "give one"),
        ({"start": None, "end": None}, "the direction is missing"),
        ({"served": {"0.2": "m"}}, "means nothing to an engine of kind 'scripted'"),
        ({"served": {"0.20": "m"}}, "'0.20' is none of the levels"),
        ({"filter_mode": "per_row"}, "filter_mode"),
        ({"prompt": "solve it"}, "{question}"),
        ({"temperature": 3.0}, "between 0 and 2"),
    ],
)
def test_options_that_cannot_work_are_refused_before_the_first_token(
    options: dict[str, Any], said: str, three: Make, store: Store
):
    with pytest.raises(RecipeError) as refused:
        build(three(**options), store, reply=lambda _: pytest.fail("a token was drawn"))
    assert said in str(refused.value)
