"""Hints from given knowledge points: what each strategy keeps, what is shown, what it costs, and what is written."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tracemill.pipelines.asking.explain import explain
from tracemill.pipelines.build import Built, build
from tracemill.pipelines.export import export, tables_of
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import LawBroken, RecipeError
from tracemill.schemas.recipe import Recipe, load_recipe, parse_recipe
from tracemill.schemas.request import Request
from tracemill.schemas.rows import Problem
from tracemill.schemas.views import knowrl
from tracemill.synth.hints.picture import picture
from tracemill.synth.hints.prompts import block, hinted

POINTS = ["Angles of a triangle.", "Sine rule.", "Cosine rule."]
TRUTH = {(): 10, (0, 1, 2): 16, (1, 2): 18, (0, 2): 16, (0, 1): 15, (2,): 20}
"""Right answers of 32 by the points that are shown, from 0: the example of KnowRL's strategies."""

Counts = Mapping[tuple[int, ...], int]
Make = Callable[..., Recipe]
Answer = Callable[[Request], str]


def shown(request: Request, points: list[str] = POINTS) -> tuple[int, ...]:
    """The places of the points in a prompt."""
    lines = re.findall(r"^\d+\. (.*)$", str(request.prompt), re.MULTILINE)
    return tuple(points.index(line) for line in lines)


def answering(counts: Counts, points: list[str] = POINTS, m: int = 32) -> Answer:
    """A solver whose first so many draws of m are right, by what it is shown."""

    def reply(request: Request) -> str:
        right = request.index % m < counts.get(shown(request, points), 0)
        return rf"So \boxed{{{7 if right else 8}}}."

    return reply


@pytest.fixture
def recipe(tmp_path: Path) -> Make:
    """Makes a recipe over problems whose gold is 7; `rows` are further columns, one problem each."""

    def make(*rows: Mapping[str, Any], tables: Mapping[str, Any] | None = None, **options: Any) -> Recipe:
        given = rows or ({"kp_list": POINTS},)
        path = tmp_path / "problems.jsonl"
        lines = [{"id": f"p{i}", "question": f"Problem {i}?", "answer": "7", **row} for i, row in enumerate(given)]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        table: dict[str, Any] = {
            "name": "hinted",
            "source": {"path": str(path), "kp_list": "kp_list", "licence": "CC0-1.0"},
            "model": {"name": "any", "max_tokens": 64},
            "engine": {"kind": "scripted"},
            "synth": {"use": "hints", "allocation": "fixed", **options},
        }
        for name, value in (tables or {}).items():
            table[name] = {**table[name], **value} if name in table else value
        return parse_recipe(table)

    return make


def read(built: Built | Dataset, name: str) -> pl.DataFrame:
    return (built.dataset if isinstance(built, Built) else built).scan(name).collect()


def kept_by(built: Built, problem: str = "p0") -> dict[str, list[int]]:
    choices = read(built, "choices").filter(pl.col("problem_id") == problem)
    return dict(choices.select("strategy", "kept_kp_index").iter_rows())


ALL = ["css", "none", "all", "random", "max_score", "s_loo", "t_loo", "cbrs"]


@pytest.mark.parametrize(("third_alone", "css"), [(20, [2]), (12, [1, 2])])
def test_every_strategy_keeps_what_the_known_counts_say(third_alone: int, css: list[int], recipe: Make, store: Store):
    built = build(recipe(strategies=ALL), store, reply=answering({**TRUTH, (2,): third_alone}))
    found = kept_by(built)
    assert found["css"] == css
    assert found["max_score"] == found["cbrs"] == [1, 2]
    assert (found["s_loo"], found["t_loo"], found["none"], found["all"]) == ([2], [], [], [0, 1, 2])
    assert len(found["random"]) == len(css)
    row = read(built, "rows").row(0, named=True)
    assert (row["h_set"], row["n_set"], row["c_set"]) == ([0, 1], [0], [1])
    assert row["strategy"] == "css"
    assert row["selected_kps"] == row["css_selected_kps"] == [POINTS[i] for i in css]
    assert row["css_kept_kp_index"] == row["kept_kp_index"] == css
    for name in ALL:
        assert row[f"{name}_selected_kps"] == [POINTS[place] for place in row[f"{name}_kept_kp_index"]]


def test_the_accuracy_table_holds_every_configuration_once_under_its_released_name(recipe: Make, store: Store):
    built = build(recipe(), store, reply=answering(TRUTH))
    table = read(built, "subset_accuracies").select("config", "correct", "total", "undecided", "kept_by")
    assert sorted(table.rows()) == [
        ("", 10, 32, 0, []),
        ("*", 16, 32, 0, []),
        ("0,1", 15, 32, 0, []),
        ("0,2", 16, 32, 0, []),
        ("1,2", 18, 32, 0, []),
        ("2", 20, 32, 0, ["css"]),
    ]
    row = read(built, "rows").row(0, named=True)
    assert {entry["key"]: entry["value"]["correct"] for entry in row["acc_table"]} == {
        config: correct for config, correct, *_ in table.rows()
    }
    assert (row["hint_correct"], row["hint_total"]) == (20, 32)


@pytest.mark.parametrize("strategy", ["css", "none"])
def test_undecided_answers_stand_in_the_total_and_never_among_the_right_ones(strategy: str, recipe: Make, store: Store):
    def reply(request: Request) -> str:
        return "I give up." if request.index < 8 else answering(TRUTH)(request)

    table = read(build(recipe(m=16, strategies=[strategy]), store, reply=reply), "subset_accuracies")
    assert table.filter(config="").select("correct", "total", "undecided").row(0) == (2, 16, 8)


def test_the_sequential_protocol_keeps_the_same_and_draws_less(recipe: Make, store: Store, tmp_path: Path):
    wide = {(): 2, (0, 1, 2): 30, (1, 2): 30, (0, 2): 3, (0, 1): 2, (2,): 2}
    fixed = build(recipe(), store, reply=answering(wide))
    less = build(recipe(allocation="sequential"), Store(tmp_path / "other"), reply=answering(wide))
    assert kept_by(less) == kept_by(fixed) == {"css": [1, 2]}
    assert less.tally.meter.samples_new < fixed.tally.meter.samples_new / 2


# ---- what is shown


def test_hints_stand_between_problem_and_instruction_as_in_the_released_prompts(recipe: Make, store: Store):
    two_lines = "**Knowledge Point**: Sums.\n   **Key Considerations**: Carry."
    built = build(recipe({"kp_list": [two_lines, "Sine rule."]}, strategies=["all"], m=2), store, reply=lambda _: "8")
    [row] = read(built, "rows").rows(named=True)
    assert row["prompt"] == [
        {
            "role": "user",
            "content": "Problem 0?\n\n## Hint\n1. **Knowledge Point**: Sums.\n   **Key Considerations**: Carry.\n2. Sine rule.\n\n"
            "Please reason step by step, and put your final answer within \\boxed{}.",
        }
    ]


def test_where_nothing_is_shown_there_is_no_header_and_the_draws_are_those_of_plain_sampling(
    recipe: Make, store: Store
):
    made = recipe(strategies=["none"], m=4, temperature="model", top_p="model")
    sample = made.model_copy(
        update={"name": "plain", "synth": type(made.synth).model_validate({"use": "sample", "n": 3})}
    )
    build(sample, store, reply=lambda _: "8")
    built = build(made, store, reply=lambda _: "8")
    assert (built.tally.meter.samples_replayed, built.tally.meter.samples_new) == (3, 1)
    assert "Hint" not in read(built, "rows")["prompt"][0][0]["content"]


@pytest.mark.parametrize(
    ("layout", "with_hints", "without"),
    [
        ("{question}\n\n{hints}", "Q?\n\n## Hint\n1. A", "Q?"),
        ("{hints}\n## Question\n{question}", "## Hint\n1. A\n## Question\nQ?", "## Question\nQ?"),
        ("Go.\n{hints}\n\n{question}", "Go.\n## Hint\n1. A\n\nQ?", "Go.\nQ?"),
    ],
)
def test_a_layout_of_ones_own_leaves_no_gap_where_there_are_no_hints(layout: str, with_hints: str, without: str):
    problem = Problem(problem_id="p", question="Q?")
    assert hinted(problem, ["A"], layout)[0]["content"] == with_hints
    assert hinted(problem, [], layout)[0]["content"] == without


def test_a_point_that_reads_like_a_place_of_the_layout_is_shown_as_it_is():
    assert "1. Use {question} and {hints}." in hinted(Problem(problem_id="p", question="Q?"), ["Use {question} and {hints}."])[0]["content"]  # fmt: skip
    assert block([]) == ""


def test_a_conversation_of_the_source_gets_its_hints_under_its_last_question():
    turns = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q?"})
    problem = Problem(problem_id="p", question="Q?", messages=turns)  # type: ignore[arg-type]
    assert hinted(problem, []) == turns
    assert [turn["content"] for turn in hinted(problem, ["A"])] == ["Be brief.", "Q?\n\n## Hint\n1. A"]


# ---- what it costs


def test_more_samples_a_configuration_draw_only_the_difference(recipe: Make, store: Store):
    first = build(recipe(m=8, strategies=["max_score"]), store, reply=answering(TRUTH)).tally.meter
    more = build(recipe(m=12, strategies=["max_score"]), store, reply=answering(TRUTH)).tally.meter
    assert (first.samples_new, first.samples_replayed) == (5 * 8, 0)
    assert (more.samples_new, more.samples_replayed) == (5 * 4, 5 * 8)


def test_another_strategy_draws_only_what_it_compares_beyond_the_others(recipe: Make, store: Store):
    assert build(recipe(strategies=["max_score"]), store, reply=answering(TRUTH)).tally.meter.samples_new == 5 * 32
    css = build(recipe(), store, reply=answering(TRUTH)).tally.meter
    assert (css.samples_new, css.samples_replayed) == (32, 5 * 32)
    none = build(recipe(strategies=["none"]), store, reply=answering(TRUTH)).tally.meter
    assert (none.samples_new, none.samples_replayed) == (0, 32)


def test_fresh_draws_take_no_part_in_the_choice(recipe: Make, store: Store):
    def reply(request: Request) -> str:
        return r"\boxed{7}" if request.scope == "hints_fresh" else answering(TRUTH)(request)

    built = build(recipe(strategies=["css", "none"], evaluate=3), store, reply=reply)
    choices = read(built, "choices").sort("strategy")
    assert choices.select("correct", "total", "fresh_correct", "fresh_total").rows() == [(20, 32, 3, 3), (10, 32, 3, 3)]
    assert choices["rollouts"].to_list() == [6 * 32, 32]
    assert [row["accuracy %"]["mean"] for row in built.dataset.manifest()["summary"]["rows"]] == [100, 100]
    assert built.tally.meter.samples_new == 6 * 32 + 2 * 3


# ---- what is reported beside


def test_points_that_may_each_be_left_out_and_not_together_are_reported(recipe: Make, store: Store):
    counts = {**TRUTH, (2,): 12, (): 10}
    built = build(
        recipe(strategies=["max_score"], allocation="sequential", paradox=True), store, reply=answering(counts)
    )
    s_loo, t_loo = read(built, "paradox").sort("rule").rows(named=True)
    assert (s_loo["rule"], s_loo["removed"], s_loo["violation"]) == ("s_loo", [0, 1], True)
    drop = s_loo["single_correct"] / s_loo["single_total"] - s_loo["joint_correct"] / s_loo["joint_total"]
    assert drop == 5 / 32
    assert (t_loo["m"], t_loo["joint_correct"], t_loo["violation"]) == (3, 10, True)
    assert read(built, "rows")["paradox"][0][0]["violation"] is True
    note = built.dataset.manifest()["summary"]["note"]
    assert (
        "Left out by s_loo, and missed more together than one by one: 2 points: 1 of 1 (mean drop 15.6 points of 100)."
        in note
    )


def test_without_the_report_nothing_is_drawn_for_it(recipe: Make, store: Store):
    built = build(recipe(strategies=["max_score"]), store, reply=answering(TRUTH))
    assert read(built, "paradox").is_empty()
    assert read(built, "rows")["paradox"].to_list() == [None]
    more = build(recipe(strategies=["max_score"], paradox=True), store, reply=answering(TRUTH)).tally.meter
    assert more.samples_new == 32, "the points that S-LOO leaves out together"


def test_the_curve_says_how_much_of_a_solution_it_takes(recipe: Make, store: Store):
    solution = r"First one. Then two. So it is \boxed{7} ."

    def reply(request: Request) -> str:
        given = len(str(request.prefix or "").split())
        return rf"\boxed{{{7 if request.index < 2 * given else 8}}}"

    row = {"kp_list": POINTS, "solution": solution}
    made = recipe(row, {**row, "solution": r"\boxed{8}"}, tables={"source": {"solution": "solution"}}, strategies=["none"], m=16, curve=[0, 0.25, 0.3, 0.5])  # fmt: skip
    built = build(made, store, reply=reply)
    found = read(built, "curve").sort("share")
    assert found.select("problem_id", "share", "correct", "total").rows() == [
        ("p0", "0", 0, 16),
        ("p0", "0.25", 4, 16),
        ("p0", "0.3", 4, 16),
        ("p0", "0.5", 8, 16),
    ]
    assert read(built, "rows").sort("id")["curve"].to_list()[1] is None, "a solution that does not verify has no curve"
    note = built.dataset.manifest()["summary"]["note"]
    assert "0: 0.0 %, 0.25: 25.0 %, 0.3: 25.0 %, 0.5: 50.0 % (1 problem)" in note
    assert "No curve for 1 problem: it has no solution that verifies." in note


def test_a_curve_that_no_problem_can_have_is_not_dropped_in_silence(recipe: Make, store: Store):
    built = build(recipe({"kp_list": POINTS}, {"kp_list": POINTS}, m=2, curve=[0.5]), store, reply=lambda _: "8")
    assert (
        "No curve for 2 problems: they have no solution that verifies." in built.dataset.manifest()["summary"]["note"]
    )


# ---- what is written


def test_the_strategy_table_stands_on_the_card_with_accuracy_size_and_cost(recipe: Make, store: Store):
    built = build(
        recipe({"kp_list": POINTS}, {"kp_list": POINTS}, strategies=["css", "all"]), store, reply=answering(TRUTH)
    )
    [css, everything] = built.dataset.manifest()["summary"]["rows"]
    assert (css["strategy"], css["problems"], css["rollouts"], css["none kept"]) == ("css", 2, 2 * 6 * 32, 0)
    assert css["accuracy %"]["mean"] == pytest.approx(62.5)
    assert (css["KPs"]["mean"], everything["KPs"]["mean"]) == (1.0, 3.0)
    assert everything["rollouts"] == 2 * 32
    assert "| css " in (built.dataset.path / "README.md").read_text()


def test_intervals_of_accuracies_and_sizes_stay_where_their_values_can_be(recipe: Make, store: Store):
    half = re.compile("Problem 0")
    built = build(
        recipe({"kp_list": POINTS}, {"kp_list": POINTS}, strategies=["none", "all"], m=4),
        store,
        reply=lambda request: rf"\boxed{{{7 if half.search(str(request.prompt)) else 8}}}",
    )
    for row in built.dataset.manifest()["summary"]["rows"]:
        assert (row["accuracy %"]["mean"], row["accuracy %"]["low"], row["accuracy %"]["high"]) == (50, 0, 100)
        assert min(row["KPs"]["low"], row["a problem"]["low"]) >= 0


def test_points_measured_in_full_by_need_are_called_no_fair_sample(recipe: Make, store: Store):
    said = "the choice hangs on most"
    for allocation, there in (("sequential", True), ("fixed", False)):
        built = build(recipe(allocation=allocation, confidence=1.0), store, reply=answering(TRUTH))
        note = built.dataset.manifest()["summary"]["note"]
        assert "measured in full" in note
        assert (said in note) == there


def test_the_released_layout_has_its_columns_and_no_others(recipe: Make, store: Store, tmp_path: Path):
    built = build(recipe(strategies=["css", "cbrs"]), store, reply=answering(TRUTH))
    frame = pl.read_parquet(export(built.dataset.path, "knowrl", tmp_path / "e") / "*.parquet")
    assert frame.columns == [
        *("dataset", "prompt", "reward_model", "kp_list", "css_kept_kp_index", "css_selected_kps"),
        *("cbrs_kept_kp_index", "cbrs_selected_kps"),
    ]
    row = frame.row(0, named=True)
    assert row["prompt"] == [{"content": "Problem 0?", "role": "user"}]
    assert row["reward_model"] == {"ground_truth": "\\boxed{7}", "style": "rule"}
    training = knowrl(tables_of(built.dataset.path), form="training").collect()
    assert training["prompt"][0][0]["content"].startswith("Problem 0?\n\n## Hint\n1. Cosine rule.\n\nPlease")
    assert training["kept_kp_index"].to_list() == [[2]]


@pytest.mark.parametrize("form", ["verl", "trl-grpo"])
def test_prompts_to_learn_from_hold_the_hints_of_the_first_strategy(
    form: str, recipe: Make, store: Store, tmp_path: Path
):
    built = build(recipe(strategies=["max_score", "css"]), store, reply=answering(TRUTH))
    row = pl.read_parquet(export(built.dataset.path, form, tmp_path / form) / "*.parquet").row(0, named=True)
    assert "## Hint\n1. Sine rule.\n2. Cosine rule.\n\n" in row["prompt"][0]["content"]
    if form == "verl":
        assert row["reward_model"] == {"style": "rule", "ground_truth": "7"}
        assert {"data_source", "prompt", "ability", "reward_model", "extra_info"} == row.keys()


def test_pairs_are_made_of_answers_to_the_prompt_that_stands_beside_them(recipe: Make, store: Store, tmp_path: Path):
    def reply(request: Request) -> str:
        return f"{'.'.join(map(str, shown(request)))}: {answering(TRUTH)(request)}"

    built = build(recipe(), store, reply=reply)
    pair = pl.read_parquet(export(built.dataset.path, "trl-dpo", tmp_path / "dpo") / "*.parquet").row(0, named=True)
    assert "1. Cosine rule." in pair["prompt"][0]["content"]
    assert pair["chosen"][0]["content"].startswith("2: ")
    assert pair["rejected"][0]["content"].startswith("2: ")


def test_filters_see_a_trace_for_each_answer_and_rows_keep_a_problem_each(recipe: Make, store: Store):
    filtered = recipe(tables={"filters": [{"use": "correct"}], "select": [{"use": "keep", "k": 3}]})
    built = build(filtered, store, reply=answering(TRUTH))
    assert read(built, "traces")["id"].to_list() == ["p0/css-0000", "p0/css-0001", "p0/css-0002"]
    assert read(built, "rejected")["reason"].value_counts().sort("count").rows() == [
        ("wrong", 12),
        ("not_shortest", 17),
    ]
    assert read(built, "rows").height == 1


def test_the_counts_of_the_hinted_prompt_are_those_of_its_traces_whatever_drew_them(recipe: Make, store: Store):
    made = recipe(allocation="sequential", confidence=0.6, paradox=True)
    built = build(made, store, reply=answering({**TRUTH, (): 30}))
    traces, row = read(built, "traces"), read(built, "rows").row(0, named=True)
    measured = {entry["key"]: entry["value"]["total"] for entry in row["acc_table"]}
    assert (row["kept_kp_index"], traces.height) == ([], 32), "the report draws all of what it compares"
    assert measured[""] < 32, "and the choice rests on fewer"
    assert (row["hint_correct"], row["hint_total"], row["hint_undecided"]) == (traces["correct"].sum(), 32, 0)


def test_explain_draws_who_keeps_what_and_how_often_it_was_right(recipe: Make, store: Store):
    built = build(recipe(strategies=["css", "all"]), store, reply=answering(TRUTH))
    lines = explain(built.dataset, "p0")["picture"]
    assert "x x   2  Cosine rule." in lines
    assert "x .   0  Angles of a triangle." in lines
    assert any(re.fullmatch(r"2 +20/32 +#{20} +css", line) for line in lines)


def test_a_picture_of_many_configurations_shows_the_best_and_says_how_many_it_leaves_out():
    points = [{"number": i, "place": i, "text": f"P{i}", "fate": "kept", "findings": []} for i in range(30)]
    rows = [
        {"config": ",".join(map(str, kept)), "n_kept": len(kept), "correct": 40 - at, "total": 64, "kept_by": []}
        for at, kept in enumerate(
            [*(tuple(j for j in range(30) if j != i) for i in range(30)), *((i,) for i in range(20))]
        )
    ]
    rows[-1]["kept_by"] = ["css"]
    lines = list(picture({"tables": {"knowledge_points": points, "choices": [], "subset_accuracies": rows}}))[30:]
    assert [line.split()[0:3] for line in lines[:2]] == [["all", "but", "0"], ["all", "but", "1"]]
    assert max(map(len, lines)) < 100
    assert lines[-2].split()[0] == "19", "what a strategy keeps is always shown"
    assert lines[-1] == "and 19 more; --json has all"


# ---- the cases at the edges


@pytest.mark.parametrize(
    ("counts", "points", "kept", "flags"),
    [
        ({}, POINTS, [], (True, True, False)),
        (dict.fromkeys([(), (0, 1, 2), (1, 2), (0, 2), (0, 1), (0,), (1,), (2,)], 32), POINTS, [], (True, False, True)),
        ({(): 3, (0,): 9}, POINTS[:1], [0], (False, False, False)),
    ],
)
@pytest.mark.parametrize("allocation", ["fixed", "sequential"])
def test_all_wrong_all_right_and_a_single_point(
    counts: Counts,
    points: list[str],
    kept: list[int],
    flags: tuple[bool, ...],
    allocation: str,
    recipe: Make,
    store: Store,
):
    built = build(recipe({"kp_list": points}, allocation=allocation), store, reply=answering(counts))
    row = read(built, "rows").row(0, named=True)
    assert row["kept_kp_index"] == kept
    assert (row["guard_empty"], row["all_zero"], row["saturated"]) == flags
    assert ("## Hint" in row["prompt"][0]["content"]) == bool(kept)


def test_a_problem_without_points_is_shown_without_hints_and_says_so(recipe: Make, store: Store):
    built = build(recipe({"kp_list": []}, strategies=ALL, m=4), store, reply=answering({(): 2}, m=4))
    row = read(built, "rows").row(0, named=True)
    assert (row["status"], row["kp_list"], row["n_kp"]) == ("empty_candidate_set", [], 0)
    assert all(row[f"{name}_kept_kp_index"] == row[f"{name}_selected_kps"] == [] for name in ALL)
    assert built.tally.meter.samples_new == 4


def test_blank_repeated_and_endless_points_are_not_shown_and_not_lost(recipe: Make, store: Store):
    given = ["Sine rule.", "  ", "sine  rule.", "x" * 10_000, "Cosine rule."]
    source = {"kp_kept": "kept"}
    built = build(
        recipe({"kp_list": given, "kept": [2, 3, 4]}, tables={"source": source}, strategies=["given"], m=2),
        store,
        reply=lambda _: "8",
    )
    row = read(built, "rows").row(0, named=True)
    assert row["kp_list"] == ["Sine rule.", "Cosine rule."]
    assert row["given_kept_kp_index"] == [0, 1]
    fates = read(built, "knowledge_points").sort("number").select("fate", "place", "same_as").rows()
    assert fates == [("kept", 0, None), ("blank", None, None), ("duplicate", None, 0), ("too_long", None, None), ("kept", 1, None)]  # fmt: skip
    assert read(built, "knowledge_points")["text"].str.len_chars().max() == 10_000


def test_thirty_points_are_searched_up_to_a_cap_that_the_row_tells_of(recipe: Make, store: Store):
    points = [f"Point number {chr(97 + i % 26)}{i}." for i in range(14)]
    first = tuple(range(1, 14))

    def reply(request: Request) -> str:
        config = shown(request, points)
        right = 2 if config == first else 1 if len(config) >= 10 and len(config) < 14 else 0
        return rf"\boxed{{{7 if request.index % 2 < right else 8}}}"

    built = build(recipe({"kp_list": points}, m=2), store, reply=reply)
    row = read(built, "rows").row(0, named=True)
    assert row["css_truncated"] is True
    assert (len(row["c_set"]), row["n_set"]) == (13, [0])
    assert read(built, "subset_accuracies").height == 2 + 14 + 13 + 78 + 286


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"kp_list": "Sine rule."}, "wrong_type"),
    ({"kp_list": 5}, "wrong_type"),
    ({"kp_list": {"a": "b"}}, "wrong_type"),
    ({"kp_list": ["Sine rule.", 3]}, "wrong_type"),
    ({"kp_list": None}, "missing_kp_list"),
    ({"kept": [0, 3]}, "kp_out_of_range"),
    ({"kept": [-1]}, "kp_out_of_range"),
    ({"kept": [1, 0]}, "kp_not_ascending"),
    ({"kept": [1, 1]}, "kp_not_ascending"),
    ({"kept": [True]}, "wrong_type"),
    ({"kept": "0"}, "wrong_type"),
    ({"kept": None}, "missing_kp_kept"),
]


def test_points_and_choices_of_a_wrong_form_are_turned_down_at_the_source(recipe: Make, store: Store):
    bad = [{"kp_list": POINTS, "kept": [0], **fault} for fault, _ in FAULTS]
    good = {"kp_list": json.dumps(POINTS), "kept": "[0, 2]"}
    made = recipe(*bad, good, tables={"source": {"kp_kept": "kept"}}, strategies=["given"], m=2)
    built = build(made, store, reply=lambda _: "8")
    found = dict(read(built, "rejected").select("problem_id", "reason").iter_rows())
    assert found == {f"p{number}": reason for number, (_, reason) in enumerate(FAULTS)}
    assert set(read(built, "rejected")["stage"]) == {"source"}
    assert read(built, "rows")["given_kept_kp_index"].to_list() == [[0, 2]]


def test_a_gold_that_nobody_could_check_costs_no_token(recipe: Make, store: Store):
    gold = "Because the sum of the angles is 180 the triangle is isosceles."
    built = build(recipe({"kp_list": POINTS, "answer": gold}), store, reply=lambda _: "8")
    assert read(built, "rejected")["reason"].to_list() == ["unverifiable_gold"]
    assert built.tally.meter.samples_new == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strategies": []}, "name one or more"),
        ({"strategies": ["css", "css"]}, "each once"),
        ({"strategies": ["ccs"]}, "css"),
        ({"m": 1}, "m = 1: at least 2"),
        ({"confidence": 0.3}, "confidence = 0.3: more than 0.5"),
        ({"prompt": "{question}"}, "0 places for the hints"),
        ({"prompt": "{hints}"}, "no place for the problem"),
        ({"temperature": 0}, "use a temperature above 0"),
        ({"evaluate": -1}, "evaluate = -1"),
        ({"allocation": "greedy"}, "fixed"),
        ({"curve": [0.5, 1.0]}, "from 0 to below 1"),
    ],
)
def test_options_that_cannot_work_say_so_before_anything_is_drawn(
    options: dict[str, Any], says: str, recipe: Make, store: Store
):
    with pytest.raises(RecipeError, match=re.escape(says)):
        build(recipe(**options), store, reply=answering(TRUTH))


def test_choices_that_the_source_does_not_bring_are_asked_for_by_name(recipe: Make, store: Store):
    with pytest.raises(RecipeError, match="add kp_kept"):
        build(recipe(strategies=["given"]), store, reply=answering(TRUTH))
    with pytest.raises(RecipeError, match="name its column, kp_list"):
        recipe(tables={"source": {"kp_list": None, "kp_kept": "kept"}})


def test_a_refused_request_fails_its_problem_and_no_other(recipe: Make, store: Store):
    made = recipe(
        {"kp_list": POINTS}, {"kp_list": POINTS}, m=4, tables={"tolerate": 0, "engine": {"args": {"refuse": 0.3}}}
    )
    with pytest.raises(LawBroken, match="refuses a request"):
        build(made, store, reply=answering(TRUTH))


@pytest.mark.vllm
@pytest.mark.timeout(600)
def test_the_small_model_is_shown_the_hints_that_its_problems_need(store: Store):
    data = Path(__file__).resolve().parent.parent / "data"
    few = ["source.0.limit=4", "synth.m=6", "synth.evaluate=0", 'synth.strategies=["css", "none", "all"]']
    recipe = load_recipe(data / "recipes" / "hints.toml", few)
    built = build(recipe, store)
    rows = read(built, "rows")
    given = [json.loads(line) for line in (data / "problems" / "hints.jsonl").read_text().splitlines()]
    needed = {row["id"]: set(row["needed"]) for row in given}
    kept = {row["problem_id"]: set(row["css_kept_kp_index"]) for row in rows.iter_rows(named=True)}
    hits = sum(len(kept[problem] & needed[problem]) for problem in kept)
    assert hits / sum(map(len, kept.values())) > 0.5
    assert hits / sum(len(needed[problem]) for problem in kept) > 0.5
    for row in rows.iter_rows(named=True):
        first = row["prompt"][0]["content"].splitlines()[0]
        assert first == ("## Hint" if row["css_kept_kp_index"] else "## Question")
    again = build(recipe, store)
    assert (again.dataset.version, again.tally.meter.samples_new) == (built.dataset.version, 0)
