"""Trainer formats: the columns that trainers read, pairs that mean what they say, and folders that are whole or absent."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.pipelines.export import export
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import FORMATS
from tracemill.schemas.tables import PROBLEMS, REJECTED, ROWS, SAMPLES
from tracemill.schemas.views import MADE_OF, trl_dpo, trl_grpo, trl_sft, verl, view_named
from tracemill.schemas.views.tables import answer

Row = dict[str, Any]


def frame(schema: pa.Schema, rows: list[Row]) -> pl.LazyFrame:
    filled = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
    return pl.DataFrame(filled).lazy()


def turn(role: str, content: str) -> Row:
    return {"role": role, "content": content}


def problem(name: str, **other: Any) -> Row:
    shown = {"prompt": [turn("system", "Be brief."), turn("user", f"{name}?")], "source": "small"}
    return {"problem_id": name, "question": name, "gold": "7", "outcome": "chosen", **shown, **other}


def sample(key: str, n_tokens: int, verdict: str = "equal", **other: Any) -> Row:
    return {
        "key": key,
        "problem_id": "p",
        "role": "solver",
        "text": f"text of {key}",
        "n_tokens": n_tokens,
        "finish_reason": "stop",
        "verdict": verdict,
        **other,
    }


def tables(samples: list[Row], problems: list[Row] | None = None) -> dict[str, pl.LazyFrame]:
    return {"samples": frame(SAMPLES, samples), "problems": frame(PROBLEMS, problems or [problem("p")])}


def pairs(*samples: Row, **options: Any) -> list[tuple[str, str, str]]:
    """(kind, chosen, rejected) of each pair, by key."""
    found = trl_dpo(tables(list(samples)), **options).collect().to_dicts()
    sides = [(row["kind"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found]
    return [(kind, *(text.removeprefix("text of ") for text in texts)) for kind, *texts in sides]


def version(folder: Path, **tables_of: pl.LazyFrame) -> Path:
    for name, table in tables_of.items():
        (folder / name).mkdir(parents=True)
        table.collect().write_parquet(folder / name / "part-00000.parquet")
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A version with two chosen traces of problem p, and problem q that nothing was chosen for."""
    turns = [turn("user", "p?"), turn("assistant", "\\boxed{7}")]
    rows = [{"id": f"p/{i}", "problem_id": "p", "question": "p", "messages": turns, "correct": True} for i in (1, 0)]
    samples = [sample("a", 3), sample("b", 9), sample("c", 2, "different"), sample("d", 1, "undecided: no answer")]
    problems = [problem("p"), problem("q", outcome="none_chosen", prompt=None)]
    return version(
        tmp_path / "version",
        rows=frame(ROWS, rows),
        problems=frame(PROBLEMS, problems),
        samples=frame(SAMPLES, samples),
        rejected=frame(REJECTED, []),
    )


def test_every_format_has_a_view() -> None:
    assert [view_named(name).__name__.replace("_", "-") for name in FORMATS] == list(FORMATS)


def test_a_misspelt_format_is_named_with_what_was_meant() -> None:
    with pytest.raises(RecipeError, match=r"no format 'trl-dop'; did you mean 'trl-dpo'\?"):
        view_named("trl-dop")


def test_sft_rows_are_whole_conversations_or_split_before_the_answer() -> None:
    turns = [turn("system", "s"), turn("user", "u"), turn("assistant", "a")]
    rows = frame(ROWS, [{"id": "b", "messages": turns[1:]}, {"id": "a", "messages": turns}])
    assert trl_sft({"rows": rows}).collect().to_dicts() == [{"messages": turns}, {"messages": turns[1:]}]
    split = trl_sft({"rows": rows}, form="prompt-completion").collect().to_dicts()
    assert split[0] == {"prompt": turns[:2], "completion": turns[2:]}


def test_the_shortest_correct_answer_is_set_over_the_longest_and_over_a_wrong_one() -> None:
    samples = [sample("mid", 5), sample("short", 3), sample("long", 9), sample("no", 4, "different")]
    assert pairs(*samples) == [("correct_over_wrong", "short", "no"), ("short_over_long", "short", "long")]
    assert pairs(*samples, kind="short_over_long") == [("short_over_long", "short", "long")]


def test_equal_lengths_make_no_pair_of_short_over_long() -> None:
    assert pairs(sample("a", 5), sample("b", 5)) == []


def test_more_pairs_go_inwards_and_stop_where_they_meet() -> None:
    samples = [sample(f"s{n}", n) for n in (1, 2, 3, 4, 5)]
    assert pairs(*samples, pairs=9) == [("short_over_long", "s1", "s5"), ("short_over_long", "s2", "s4")]


def test_a_truncated_answer_is_never_chosen() -> None:
    cut = sample("cut", 1, finish_reason="length")
    assert pairs(cut, sample("no", 4, "different")) == []
    assert pairs(cut, sample("whole", 6), sample("no", 4, "different")) == [("correct_over_wrong", "whole", "no")]


def test_an_undecided_answer_stands_on_neither_side() -> None:
    unsure = [sample("u", 1, "undecided: timeout"), sample("v", 99, verdict=None)]  # type: ignore[arg-type]
    assert pairs(*unsure, sample("a", 5)) == []


def test_only_answers_of_the_role_are_paired() -> None:
    assert pairs(sample("a", 5), sample("b", 9, role="judge")) == []
    assert pairs(sample("a", 5, role="r"), sample("b", 9, role="r"), role="r") == [("short_over_long", "a", "b")]


def test_answers_of_equal_text_count_once() -> None:
    twins = [sample("a", 5, text="text of a"), sample("b", 5, text="text of a"), sample("c", 7), sample("d", 8)]
    assert pairs(*twins, pairs=4) == [("short_over_long", "a", "d")]


def test_a_pair_carries_the_prompt_that_was_answered() -> None:
    row = trl_dpo(tables([sample("a", 5), sample("b", 9)])).collect().to_dicts()[0]
    assert row["prompt"] == [turn("system", "Be brief."), turn("user", "p?")]
    assert (row["chosen"], row["rejected"]) == ([turn("assistant", "text of a")], [turn("assistant", "text of b")])
    assert row["problem_id"] == "p"


some_samples = st.lists(
    st.tuples(
        st.sampled_from("pq"),
        st.integers(0, 4),
        st.sampled_from(["equal", "equal: math", "different", "undecided: x", None]),
        st.sampled_from(["stop", "length"]),
        st.sampled_from("xyz"),
    ),
    max_size=16,
)


@given(drawn=some_samples, most=st.integers(1, 3), data=st.data())
@settings(max_examples=60, deadline=None)
def test_pairs_keep_their_promises_for_any_samples_in_any_order(drawn: Any, most: int, data: st.DataObject) -> None:
    made = [
        sample(f"{i:02}", n, verdict, problem_id=of, finish_reason=end, text=f"{text}{n}")
        for i, (of, n, verdict, end, text) in enumerate(drawn)
    ]
    problems = [problem("p"), problem("q")]
    found = trl_dpo(tables(made, problems), pairs=most).collect()
    shuffled = [made[i] for i in data.draw(st.permutations(range(len(made))))]
    assert trl_dpo(tables(shuffled, problems), pairs=most).collect().equals(found)
    right = {(row["problem_id"], row["text"]) for row in made if (row["verdict"] or "").startswith("equal")}
    whole = {(row["problem_id"], row["text"]) for row in made if row["finish_reason"] == "stop"}
    wrong = {(row["problem_id"], row["text"]) for row in made if row["verdict"] == "different"}
    for row in found.to_dicts():
        chosen, rejected = ((row["problem_id"], row[side][0]["content"]) for side in ("chosen", "rejected"))
        assert chosen in right & whole
        assert rejected in (right if row["kind"] == "short_over_long" else wrong)
        assert row["kind"] != "short_over_long" or int(chosen[1][1:]) < int(rejected[1][1:])
    per = found.group_by("problem_id", "kind").len()
    assert per.filter(pl.col("len") > most).is_empty()


def test_given_traces_are_paired_from_what_was_chosen_and_what_was_turned_down() -> None:
    def trace(name: str, n: int, verdict: str) -> Row:
        turns = [turn("user", "p?"), turn("assistant", f"text of {name}")]
        return {
            "id": name,
            "problem_id": "p",
            "messages": turns,
            "n_tokens": n,
            "finish_reason": "given",
            "verdict": verdict,
        }

    down = [trace("no", 4, "different"), trace("long", 9, "equal"), trace("open", 9, "undecided: no answer")]
    rejected: list[Row] = [
        {"id": row["id"], "problem_id": "p", "row": json.dumps({**row, "more": [1]})} for row in down
    ]
    rejected.append({"id": None, "problem_id": "q", "row": '{"question": "q"}'})
    version = {
        "rows": frame(ROWS, [trace("short", 3, "equal")]),
        "rejected": frame(REJECTED, rejected),
        "problems": frame(PROBLEMS, [problem("p")]),
    }
    found = trl_dpo(version).collect().to_dicts()
    assert [(row["kind"], row["rejected"][0]["content"]) for row in found] == [
        ("correct_over_wrong", "text of no"),
        ("short_over_long", "text of long"),
    ]


def test_rl_rows_are_problems_with_a_gold_of_which_a_trace_was_chosen() -> None:
    problems = [problem("c"), problem("a"), problem("x", gold=None), problem("y", outcome="none_chosen")]
    assert trl_grpo(tables([], problems)).collect()["problem_id"].to_list() == ["a", "c"]
    assert [row["problem_id"] for row in verl(tables([], problems)).collect()["extra_info"]] == ["a", "c"]


@pytest.mark.parametrize(
    ("gold", "solution"),
    [("72", "$72$"), ("(1,2)", "$(1,2)$"), ("$x^2$", "$x^2$"), ("so \\boxed{7}", "so \\boxed{7}")],
)
def test_a_gold_is_marked_as_math_once(gold: str, solution: str) -> None:
    row = trl_grpo(tables([], [problem("p", gold=gold)])).collect().to_dicts()[0]
    assert (row["solution"], row["gold"]) == (solution, gold)


def test_verl_rows_have_the_columns_that_verl_reads() -> None:
    row = verl(tables([], [problem("p")]), data_source="openai/gsm8k", split="test").collect().to_dicts()[0]
    assert row == {
        "data_source": "openai/gsm8k",
        "prompt": [turn("system", "Be brief."), turn("user", "p?")],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "7"},
        "extra_info": {"split": "test", "index": 0, "problem_id": "p"},
    }
    assert verl(tables([], [problem("p")])).collect()["data_source"][0] == "small"


def test_a_table_that_is_missing_is_named() -> None:
    with pytest.raises(RecipeError, match="needs the table 'rows'; the version has: problems, samples"):
        trl_sft(tables([]))


@pytest.mark.parametrize(("to", "rows"), [("trl-sft", 2), ("trl-dpo", 2), ("trl-grpo", 1), ("verl", 1)])
def test_load_dataset_opens_what_export_wrote(dataset: Path, tmp_path: Path, to: str, rows: int) -> None:
    import datasets

    out = export(dataset, to, tmp_path / "out" / to)
    for how in ({"path": str(out)}, {"path": "parquet", "data_files": str(out / "*.parquet")}):
        loaded = datasets.load_dataset(**how, split="train", cache_dir=str(tmp_path / "cache"))
        assert loaded.to_list() == pl.read_parquet(out / "*.parquet").to_dicts()
        assert len(loaded) == rows


def test_the_same_export_twice_is_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    for to in set(FORMATS) - MADE_OF.keys():  # those are of other methods
        first, second = (export(dataset, to, tmp_path / f"{to}-{i}") for i in (1, 2))
        assert [p.read_bytes() for p in first.iterdir()] == [p.read_bytes() for p in second.iterdir()]


def test_export_overwrites_nothing_and_leaves_nothing_half_done(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(RecipeError, match="not an empty folder"):
        export(dataset, "trl-sft", out)
    with pytest.raises(RecipeError, match="would have no rows"):
        export(dataset, "trl-dpo", tmp_path / "none", role="nobody")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "version"]
    assert (out / "mine.txt").read_text() == "mine"


def test_an_empty_folder_may_be_exported_into(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert [path.name for path in export(dataset, "verl", tmp_path / "out").iterdir()] == [
        "train-00000-of-00001.parquet"
    ]


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("trl-dpo", {"pair": 2}, "trl-dpo has no option 'pair'; did you mean 'pairs'"),
        ("trl-dpo", {"pairs": 0}, "pairs = 0: Input should be greater than or equal to 1"),
        ("trl-dpo", {"kind": "best"}, "kind = 'best': Input should be 'short_over_long'"),
        ("trl-sft", {"form": 1}, "form = 1"),
    ],
)
def test_options_of_a_format_are_checked_before_anything_is_written(
    dataset: Path, tmp_path: Path, to: str, options: Row, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        export(dataset, to, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is no version of a dataset"):
        export(tmp_path, "verl", tmp_path / "out")


def test_an_answer_that_closes_a_thought_it_never_opened_gets_the_opening_back():
    texts = [
        "a\n</think>\n2",
        "<think>\na\n</think>\n2",
        "2",
        "a</think>b<think>c</think>",
        None,
        "<think>never closed",
    ]
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    turns = frame.select(turn=answer("text"))["turn"].to_list()
    assert [turn[0]["content"] for turn in turns] == [
        "<think>\na\n</think>\n2",
        texts[1],
        "2",
        "<think>\na</think>b<think>c</think>",
        None,
        texts[5],
    ]
