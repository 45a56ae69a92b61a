"""Filters of texts: what they turn down and show, counted by hand; and what no text, no column and no size can break."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.filters.format import format as form
from tracemill.filters.language import language
from tracemill.filters.leaks_answer import leaks_answer
from tracemill.filters.reflection import reflection
from tracemill.filters.refusal import refusal
from tracemill.filters.repetition import repetition
from tracemill.pipelines.build import build
from tracemill.pipelines.recipes.catalog import find
from tracemill.pipelines.store import Store
from tracemill.schemas.cues import CUES, STRICT, cue_count, cue_counts
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Step, parse_recipe
from tracemill.schemas.steps import split_steps

ENGLISH = (
    "First we work out how many apples there are in the basket, and then we share the rest of them among the children. "
)
FRENCH = "D'abord nous calculons le nombre total de pommes, puis nous partageons les autres entre les enfants. "
CHINESE = "首先我们计算苹果的总数\uff0c然后把剩下的分给孩子们。"

FILTERS: Mapping[str, Callable[..., pl.Expr]] = {
    "repetition": repetition,
    "language": language,
    "format": form,
    "reflection": lambda **column: reflection(at_least=1, at_most=3, **column),
    "leaks_answer": leaks_answer,
    "refusal": refusal,
}

Said = list[tuple[str, dict[str, Any]] | None]


def said_of(keep: pl.Expr, texts: list[str | None], gold: str | None = "1024") -> Said:
    """What a filter says of texts: null, or the reason with its evidence."""
    frame = pl.DataFrame({"content": texts, "gold": gold}, schema={"content": pl.String, "gold": pl.String})
    found = frame.lazy().select(keep.alias("verdict")).collect()["verdict"].to_list()
    return [why and (why["reason"], json.loads(why["evidence"])) for why in found]


def reasons(keep: pl.Expr, *texts: str | None, gold: str | None = "1024") -> list[str | None]:
    return [why and why[0] for why in said_of(keep, list(texts), gold)]


def evidence(keep: pl.Expr, text: str, gold: str | None = "1024") -> dict[str, Any]:
    [why] = said_of(keep, [text], gold)
    assert why is not None
    return why[1]


# ---- all of them

parts = st.sampled_from(
    [
        *(
            "<think>",
            "</think>",
            "\\boxed{",
            "}",
            "\\[",
            "```",
            "$$",
            "\n",
            "\n\n",
            " ",
            "wait",
            "1024",
            "answer is",
            "我",
        ),
        *("I'm sorry, I can't help", "x" * 3000, "\0", "\ue000", "\ue001", "é\u0301", "\U0001d7d9", ENGLISH, FRENCH),
    ]
)
text = st.none() | st.text(max_size=8) | st.lists(parts, max_size=6).map("".join)
gold = st.none() | st.text(max_size=4) | st.sampled_from(["1024", "a", "(", "\\", "answer is 1024", "\ue000", " $ "])


@pytest.mark.parametrize("name", FILTERS)
@given(rows=st.lists(st.tuples(text, gold), max_size=6))
@settings(max_examples=40, deadline=None)
def test_every_text_is_kept_or_has_a_reason_and_evidence(name: str, rows: list[tuple[str | None, str | None]]) -> None:
    frame = pl.DataFrame(rows, schema={"content": pl.String, "gold": pl.String}, orient="row")
    said = frame.lazy().select(FILTERS[name](column="content").alias("verdict")).collect()["verdict"].to_list()
    assert len(said) == len(rows)
    for why, (content, _) in zip(said, rows, strict=True):
        assert why is None or (why["reason"] and json.loads(why["evidence"])["column"] == "content")
        assert (content is None) == (why is not None and why["reason"] == "no_text")


@pytest.mark.parametrize("name", FILTERS)
@given(rows=st.lists(text, min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_a_verdict_on_a_text_does_not_depend_on_its_neighbours(name: str, rows: list[str | None]) -> None:
    keep = FILTERS[name](column="content")
    assert said_of(keep, rows) == [said_of(keep, [row])[0] for row in rows]


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_of_texts_says_the_same_in_the_streaming_engine_and_in_pieces(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        *(f"Wait. {ENGLISH}{i} \\boxed{{{i}}}" for i in range(40)),
        None,
        "",
        "wait " * 20,
        FRENCH,
        "1024",
        CHINESE,
    ] * 3
    frame = (
        pl.DataFrame({"content": rows, "gold": "1024"}).lazy().with_columns(FILTERS[name](column="content").alias("v"))
    )
    whole = frame.collect()
    assert whole["v"].null_count() not in (0, len(rows))
    assert frame.collect(engine="streaming").equals(whole)
    monkeypatch.setattr("tracemill.filters.texts._PIECE_BYTES", 300)
    assert frame.collect().equals(whole)


@pytest.mark.parametrize("name", FILTERS)
def test_a_column_that_is_no_text_is_the_recipes_fault_before_there_is_a_row(name: str) -> None:
    for values in (pl.Series([1, 2]), pl.Series([["a"]]), pl.Series([], dtype=pl.Boolean)):
        frame = pl.DataFrame({"n": values}).with_columns(gold=pl.lit("7"))
        for rows in (frame, frame.clear()):
            with pytest.raises(
                RecipeError, match=rf"{name}: column 'n' is {values.dtype.base_type()}.*name a text column"
            ):
                rows.select(FILTERS[name](column="n"))


@pytest.mark.parametrize("name", FILTERS)
def test_a_column_of_nulls_has_no_texts(name: str) -> None:
    frame = pl.DataFrame({"content": [None, None], "gold": "7"})
    said = frame.select(FILTERS[name](column="content").alias("v"))["v"].to_list()
    assert said == [{"reason": "no_text", "evidence": '{"column":"content"}'}] * 2


@pytest.mark.parametrize("name", FILTERS)
def test_a_column_without_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="column = '': name a text column"):
        FILTERS[name](column="")


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    "part", ["a", "\\boxed{ \\boxed{1} ", "\\[ $$a$$ ``` \\( `x", "<think>", "answer is 1024.5 ", "wait\n"]
)
def test_a_text_of_a_megabyte_takes_a_moment_however_nasty(name: str, part: str) -> None:
    text = (part * (2**20 // len(part) + 1))[: 2**20]
    started = time.process_time()
    said_of(FILTERS[name](column="content"), [text])
    assert time.process_time() - started < 20  # about 0.1; a search that starts again at every opening takes hours


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        *(("repetition", "few_words"), ("language", None), ("format", "no_box")),
        *(("reflection", "few_reflections"), ("leaks_answer", None), ("refusal", None)),
    ],
)
def test_an_empty_text_is_a_text(name: str, empty: str | None) -> None:
    assert reasons(FILTERS[name](column="content"), "", " \n") == [empty, empty]


@pytest.mark.parametrize("name", ["repetition", "language", "format", "reflection"])
def test_without_a_column_the_trace_as_it_was_written_is_looked_at_and_not_the_question(name: str) -> None:
    bad = {"repetition": "go on " * 50, "language": FRENCH, "format": "<think>a", "reflection": "Wait. " * 4}[name]
    turns = [[{"role": "user", "content": bad}, {"role": "assistant", "content": ENGLISH + "Hmm. \\boxed{3}"}]]
    turns += [[{"role": "user", "content": "?"}, {"role": "assistant", "content": bad}], [], None]
    frame = pl.DataFrame({"messages": turns})
    said = frame.select(FILTERS[name]().alias("v"))["v"].to_list()
    assert said[0] is None
    assert said[1]["reason"] != "no_text"
    assert [why["reason"] for why in said[2:]] == ["no_text", "no_text"]


# ---- in a build


def recipe(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Any:
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = {
        "name": "texts",
        "source": {"path": str(folder / "problems.jsonl"), **changes.pop("source", {})},
        "model": {"name": "scripted-solver", "max_tokens": 64},
        "engine": {"kind": "scripted"},
        "synth": {"use": "sample", "n": 1},
    }
    return parse_recipe(table | changes)


def nobody(request: object) -> str:
    raise AssertionError("a token was spent")


def test_problems_that_give_their_answer_away_are_turned_down_before_a_token_is_spent(tmp_path: Path) -> None:
    rows = [{"id": "leaks", "question": "Show that 32 * 32 is 1024.", "answer": "1024"}]
    rows += [{"id": "fair", "question": "What is 30 + 4?", "answer": "34"}]
    rows += [{"id": "french", "question": FRENCH, "answer": "34"}]
    keep = [{"use": "leaks_answer"}, {"use": "language", "column": "question"}]
    asked: list[str] = []

    def reply(request: Any) -> str:
        asked.append(request.problem_id)
        return "It is \\boxed{34}."

    built = build(recipe(tmp_path, rows, source={"keep": keep}), Store(tmp_path / "store"), reply=reply)
    assert asked == ["fair"]
    down = built.dataset.scan("rejected").sort("problem_id").collect()
    assert down.select("problem_id", "stage", "reason").rows() == [
        ("french", "problem_filter", "other_language"),
        ("leaks", "problem_filter", "gold_in_text"),
    ]


def test_every_trace_of_a_build_is_chosen_or_turned_down_by_the_first_filter_that_says_no(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(6)]
    replies = [
        f"<think>{ENGLISH}Wait.</think>So it is \\boxed{{1}}.",
        f"<think>{'round and round ' * 40}</think>\\boxed{{2}}",
        f"<think>{FRENCH}</think>\\boxed{{3}}",
        f"<think>{ENGLISH}{'Hmm. ' * 9}</think>\\boxed{{4}}",
        f"<think>{ENGLISH}</think>So it is 5.",
        f"<think>{ENGLISH}</think>I'm sorry, but I can't help with that.",
    ]
    steps = [
        {"use": "repetition"},
        {"use": "language"},
        {"use": "reflection", "at_most_per_1000_tokens": 99, "cues": "strict"},
    ]
    steps += [{"use": "refusal"}, {"use": "format"}]
    built = build(
        recipe(tmp_path, rows, filters=steps),
        Store(tmp_path / "store"),
        reply=lambda request: replies[int(request.problem_id[1:])],
    )
    assert built.dataset.scan().collect()["problem_id"].to_list() == ["p0"]
    down = built.dataset.scan("rejected").sort("problem_id").collect()
    assert down.select("problem_id", "stage", "reason").rows() == [
        ("p1", "filter:repetition", "looped_words"),
        ("p2", "filter:language", "other_language"),
        ("p3", "filter:reflection", "many_reflections"),
        ("p4", "filter:format", "no_box"),
        ("p5", "filter:refusal", "refusal"),
    ]


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("column", ["n_tokens", "difficult"])
def test_a_column_that_does_not_serve_stops_a_build_before_the_first_token(
    tmp_path: Path, name: str, column: str
) -> None:
    step = {"use": name, "column": column} | ({"at_most": 3} if name == "reflection" else {})
    rows = [{"id": "a", "question": "What is 1 + 1?", "answer": "2"}]
    with pytest.raises(RecipeError, match=f"{name}: .*{column}"):
        build(recipe(tmp_path, rows, filters=[step]), Store(tmp_path / "store"), reply=nobody)
    step["column"] = "grade" if column == "n_tokens" else column
    with pytest.raises(RecipeError, match=f"{name}: .*{step['column']}"):
        build(
            recipe(tmp_path, [rows[0] | {"grade": 3}], source={"keep": [step]}), Store(tmp_path / "store"), reply=nobody
        )


# ---- repetition

VARIED = " ".join(f"w{i}" for i in range(16))


def test_sixteen_words_are_enough_and_fifteen_are_not() -> None:
    fifteen = VARIED.rpartition(" ")[0]
    assert reasons(repetition(column="content"), VARIED, fifteen) == [None, "few_words"]
    assert evidence(repetition(column="content"), fifteen)["words"] == 15
    assert reasons(repetition(column="content", words_at_least=0), fifteen, "") == [None, None]


def test_a_line_may_stand_five_times_and_not_six_wherever_it_stands() -> None:
    lines = [f"step {i} of many\nso we go on" for i in range(6)]
    assert reasons(repetition(column="content"), "\n".join(lines[:5]), "\n".join(lines)) == [None, "looped_line"]
    shown = evidence(repetition(column="content"), "\n".join([*lines, "  so we go on \r"]))
    assert (shown["worst_line"], shown["worst_line_count"]) == ("so we go on", 7)
    assert reasons(repetition(column="content", same_line_at_most=0), "\n".join(lines)) == [None]


def test_delimiters_and_rules_may_stand_in_as_many_lines_as_there_are_formulas() -> None:
    formulas = "".join(f"So\n\\[\nx_{i} + {i * i}\n\\]\n| --- | --- |\n\\end{{aligned}}\n" for i in range(20))
    assert reasons(repetition(column="content"), formulas) == [None]


def test_the_share_of_different_runs_of_four_words_is_counted_as_by_hand() -> None:
    # 20 words have 17 runs of four; a b c d a b c d ... has 4 different ones of them
    shown = evidence(repetition(column="content"), " ".join("abcd" * 5))
    assert (shown["words"], shown["ngrams"], shown["distinct_ngrams"]) == (20, 17, 4)
    assert shown["distinct_share"] == 0.2353
    # x x x x x x has 3 runs of four, 1 of them different; 1/3 is no less than a third
    six = "x x x x x x"
    loose = {"column": "content", "words_at_least": 0, "compressed_at_least": 0.0}
    assert reasons(repetition(**loose, distinct_at_least=1 / 3), six) == [None]
    assert reasons(repetition(**loose, distinct_at_least=0.34), six) == ["looped_words"]
    assert evidence(repetition(**loose, ngram=1), six)["distinct_ngrams"] == 1


def test_runs_do_not_reach_from_one_text_into_the_next() -> None:
    keep = repetition(column="content", words_at_least=0, ngram=3, distinct_at_least=1.0, compressed_at_least=0)
    assert reasons(keep, "a a", "a a", "a b c a b c", "a") == [None, None, "looped_words", None]


def test_words_without_blanks_between_them_are_counted_by_character() -> None:
    assert reasons(repetition(column="content"), CHINESE, CHINESE[:8]) == [None, "few_words"]
    assert reasons(repetition(column="content"), "我们再想想" * 30) == ["looped_words"]


def test_a_loop_that_counts_up_is_found_by_its_compression() -> None:
    counting = "".join(f"So we try {i} and fail again.\n" for i in range(500))
    assert reasons(repetition(column="content"), counting) == ["compressible"]
    shown = evidence(repetition(column="content"), counting)
    # 3497 runs of four words; four that begin in a line have its number in them, three others are the same throughout: 2003
    assert (shown["words"], shown["distinct_share"]) == (3500, 0.5728)
    assert shown["worst_line_count"] == 1
    assert 0.01 < shown["compressed_share"] < 0.1
    assert reasons(repetition(column="content", compressed_at_least=0.0), counting) == [None]


# ---- language


def test_english_is_kept_and_french_and_chinese_are_not() -> None:
    assert reasons(language(column="content"), ENGLISH, FRENCH, CHINESE * 4) == [None, "other_language", "other_script"]
    assert evidence(language(column="content"), FRENCH)["language"] == "fr"


def test_every_allowed_language_is_kept() -> None:
    both = language(column="content", allow=("fr", "zh"))
    assert reasons(both, ENGLISH, FRENCH, CHINESE * 4) == ["other_language", None, None]


def test_a_chain_that_falls_into_another_script_is_turned_down_with_the_place() -> None:
    mixed = ENGLISH + CHINESE[:8]
    shown = evidence(language(column="content"), mixed)
    assert shown["other_letters"] == 8
    assert CHINESE[:8] in shown["shown"]
    share = shown["other_letters"] / shown["letters"]
    assert reasons(language(column="content", other_script_at_most=share), mixed) != ["other_script"]
    assert reasons(language(column="content", other_script_at_most=share - 0.01), mixed) == ["other_script"]


@pytest.mark.parametrize(
    "code_or_maths",
    [
        "```python\ndef suma(números):\n    retorno = sumar_todos_los_elementos(números)\n    return retorno\n```",
        "\\[ \\text{nombre de pommes} = \\frac{\\alpha + \\beta}{\\gamma} \\] $\\text{valeur moyenne des pommes}$",
        "\\begin{align*} \\text{Anzahl der roten Kugeln} &= \\binom{n}{k} \\end{align*}",
        "αβγδ εζηθ ικλμ",
        "`grüße_an_alle_kinder_der_welt` https://example.org/viele/schöne/grüße",
        "x = 4; y_1 = f(x) / 2; sin(x) + cos(y) >= 0",
    ],
)
def test_code_and_mathematics_do_not_make_english_foreign(code_or_maths: str) -> None:
    keep = language(column="content", letters_at_least=20)
    assert reasons(keep, ENGLISH + code_or_maths, code_or_maths) == [None, None]


def test_where_too_little_is_said_nothing_is_held_against_it() -> None:
    assert reasons(language(column="content"), FRENCH[:60], CHINESE, "42", "x = 4") == [None] * 4
    assert reasons(language(column="content", letters_at_least=20), FRENCH[:60]) == ["other_language"]


def test_a_missing_detector_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    language_file_known = sys.modules["tracemill.filters.language"]._known
    monkeypatch.setitem(sys.modules, "py3langid", None)
    language_file_known.cache_clear()
    with pytest.raises(RecipeError, match=r"pip install 'tracemill\[language\]'"):
        find("filters", Step(use="language"))


def test_scripts_are_written_down_for_languages_that_the_detector_knows() -> None:
    module = sys.modules["tracemill.filters.language"]
    assert module.SCRIPTS.keys() <= module._known()
    for scripts in module.SCRIPTS.values():
        for script in scripts:
            assert pl.Series(["x"]).str.contains(rf"\p{{{script}}}").to_list() == [False] or script == "Latin"


# ---- format


def test_a_box_after_the_last_thought_is_asked_for_and_drafts_in_thoughts_do_not_count() -> None:
    keep = form(column="content")
    assert reasons(keep, "<think>a</think>\\boxed{1}", "\\fbox{\\frac{1}{\\sqrt{2}}}", "\\boxed 7") == [None] * 3
    assert reasons(keep, "<think>\\boxed{1}</think>It is 1.", "\\boxed{ }", "\\boxed{1") == ["no_box"] * 3


def test_boxes_are_counted_up_to_what_is_allowed() -> None:
    texts = [" ".join(f"\\boxed{{{i}}}" for i in range(n)) for n in (1, 2, 3)]
    assert reasons(form(column="content", boxes_at_least=2, boxes_at_most=2), *texts) == [
        "few_boxes",
        None,
        "many_boxes",
    ]
    assert evidence(form(column="content", boxes_at_most=2), texts[2])["boxes"] == 3
    assert reasons(form(column="content", boxes_at_least=0), "It is 1.", "") == [None, None]


def test_think_tags_are_in_order_or_it_is_said_how_they_are_not() -> None:
    answer = " \\boxed{1}"
    keep = form(column="content")
    good = ["<think>a</think>", "<think>a</think>b<think>c</think>", "a</think>", "a</think><think>b</think>"]
    bad = ["<think><think>a</think></think>", "a</think></think>", "<think>a</think></think>"]
    assert reasons(keep, *(tags + answer for tags in good)) == [None] * 4
    assert reasons(keep, *(tags + answer for tags in bad)) == ["tags_out_of_order"] * 3
    open_ = ["<think>a" + answer, "<think>a</think>b<think>c" + answer]
    assert reasons(keep, *open_) == ["thought_not_closed"] * 2
    assert reasons(form(column="content", opened=False), "a</think>" + answer) == ["tags_out_of_order"]
    shown = evidence(keep, "<think><think>a</think>b")
    assert (shown["opening_tags"], shown["closing_tags"]) == (2, 1)


def test_something_has_to_follow_the_thought() -> None:
    keep = form(column="content", boxes_at_least=0)
    assert reasons(keep, "<think>\\boxed{1}</think> \n", "<think>a</think>1") == ["no_answer_after_thought", None]


def test_a_thought_may_be_asked_for_or_ruled_out() -> None:
    texts = ["<think>a</think>\\boxed{1}", "\\boxed{1}"]
    assert reasons(form(column="content", think="required"), *texts) == [None, "no_thought"]
    assert reasons(form(column="content", think="none"), *texts) == ["thought", None]


def test_the_tags_may_be_others() -> None:
    keep = form(column="content", tags=("[", "]"), think="required")
    assert reasons(keep, "[a]\\boxed{1}", "<think>a</think>\\boxed{1}", "[a\\boxed{1}") == [
        None,
        "no_thought",
        "thought_not_closed",
    ]


# ---- reflection


def test_cues_are_whole_words_in_any_case_and_double_check_is_one() -> None:
    counted = [
        ("Wait, but WAIT.", 3),
        ("Let me double-check.", 1),
        ("Let me double check.", 1),
        ("Hold\non: another thought.", 2),
        ("Alternatively, an alternative", 2),
        ("waiter buttons checked unverified Ohio hmmm", 0),
        ("Hmm. Oh! Think again; however, verify.", 5),
        ("```\nwait = check(but)\n``` wait", 1),
        ("", 0),
    ]
    frame = pl.DataFrame({"text": [said for said, _ in counted]})
    assert frame.select(cue_count(pl.col("text")))["text"].to_list() == [n for _, n in counted]
    by_cue = frame.select(cue_counts(pl.col("text")).alias("cues"))["cues"].to_list()
    assert [sum(found.values()) for found in by_cue] == [n for _, n in counted]
    assert by_cue[3] == dict.fromkeys(CUES, 0) | {"hold on": 1, "another thought": 1}


@given(st.lists(st.sampled_from([*CUES, "Wait", "DOUBLE-CHECK", "apple", "but,", "hold\non"]), max_size=12))
@settings(deadline=None)
def test_counts_by_cue_add_up_to_the_count_and_the_strict_list_is_part_of_the_other(said: list[str]) -> None:
    frame = pl.DataFrame({"text": [" ".join(said)]})
    for cues in ("all", "strict"):
        total = frame.select(cue_count(pl.col("text"), cues)).item()
        by_cue = frame.select(cue_counts(pl.col("text"), cues).alias("cues"))["cues"][0]
        assert sum(by_cue.values()) == total
    every = frame.select(cue_counts(pl.col("text")).alias("cues"))["cues"][0]
    assert by_cue == {cue: every[cue] for cue in STRICT}
    assert set(STRICT) < set(CUES)


def test_both_ends_of_a_number_of_reflections_are_inside() -> None:
    texts = ["wait " * n for n in range(1, 5)]
    keep = reflection(column="content", at_least=2, at_most=3)
    assert reasons(keep, *texts) == ["few_reflections", None, None, "many_reflections"]
    shown = evidence(keep, texts[3])
    assert (shown["reflections"], shown["cues"]["wait"], shown["at_most"]) == (4, 4, 3)


def test_reflections_by_tokens_are_counted_over_the_tokens_of_the_trace() -> None:
    def trace(cues: int, tokens: int | None) -> dict[str, Any]:
        return {"messages": [{"role": "assistant", "content": "wait " * cues}], "n_tokens": tokens}

    frame = pl.DataFrame([trace(2, 1000), trace(3, 1000), trace(3, 1500), trace(0, 1000), trace(2, 0), trace(2, None)])
    keep = reflection(at_least_per_1000_tokens=0.5, at_most_per_1000_tokens=2.0)
    said = frame.select(keep.alias("v"))["v"].to_list()
    assert [why and why["reason"] for why in said] == [
        *(None, "many_reflections", None, "few_reflections", "unknown_length", "unknown_length")
    ]
    assert json.loads(said[1]["evidence"])["per_1000_tokens"] == 3.0


def test_plain_words_of_prose_count_in_the_published_list_only() -> None:
    prose = "But check the map, however. Verify the alternative."
    assert reasons(reflection(column="content", at_most=4), prose) == ["many_reflections"]
    assert reasons(reflection(column="content", at_most=0, cues="strict"), prose) == [None]


# ---- leaks_answer


@pytest.mark.parametrize(
    ("said", "answer", "reason"),
    [
        ("so 1024 bytes", "1024", "gold_in_text"),
        ("(1024), $1024$, is 1024.", "1024", "gold_in_text"),
        ("11024 or 10245 or x1024", "1024", None),
        ("1024.5 or 0.1024 or 3,1024 or 1024,000", "1024", None),
        ("-1024 or \u22121024 or 1/1024 or 1024/3 or 1024%", "1024", None),
        ("是1024个", "1024", "gold_in_text"),
        ("10241024", "1024", None),
        ("Is Alice taller?", "alice", "gold_in_text"),
        ("Is Malice taller?", "alice", None),
        ("reach  the\nblue   House", "Blue house", "gold_in_text"),
        ("take $\\frac{1}{2}$ of", "$\\frac{1}{2}$", "gold_in_text"),
        ("There are 2 apples and 2 pears.", "2", None),
        ("A) 1 B) 2", "B", None),
        ("The answer is 2.", "2", "gold_announced"),
        ("The answer is 24 or -2 or 2.5.", "2", None),
        ("answer: **2**", "2", "gold_announced"),
        ("Result = $2$", "2", "gold_announced"),
        ("The answer to the riddle is thus B.", "b", "gold_announced"),
        ("so \\boxed{B}", "B", "gold_announced"),
        ("72 / 36 #### 2", "2", "gold_announced"),
        ("answer is (1,2)", "(1,2)", "gold_announced"),
        ("answer", "a", None),
        ("banana", "ana", None),
    ],
)
def test_a_gold_counts_where_it_stands_by_itself_and_a_short_one_where_it_is_announced(
    said: str, answer: str, reason: str | None
) -> None:
    assert reasons(leaks_answer(column="content"), said, gold=answer) == [reason]


def test_the_evidence_shows_the_gold_with_what_is_around_it() -> None:
    shown = evidence(leaks_answer(column="content"), f"{'a ' * 99}we end up with 1024 bytes", "1024")
    assert shown == {"column": "content", "gold": "1024", "span": shown["span"]}
    assert shown["span"].endswith("we end up with 1024 bytes")
    assert len(shown["span"]) < 80
    assert evidence(leaks_answer(column="content"), "The answer is a.", "a")["span"] == "the answer is a."


def test_where_a_short_gold_begins_and_whether_any_has_to_be_announced_are_options() -> None:
    assert reasons(leaks_answer(column="content", anywhere_from=1), "There are 2 apples.", gold="2") == ["gold_in_text"]
    strict = leaks_answer(column="content", announced_only=True)
    assert reasons(strict, "Is Alice or Bob taller?", "Answer: Alice", gold="Alice") == [None, "gold_announced"]


def test_a_plan_may_say_the_answer_behind_its_marker() -> None:
    plan = "Double five times.\n# Answer\n1024"
    assert reasons(leaks_answer(column="content"), plan) == ["gold_in_text"]
    assert reasons(leaks_answer(column="content", before="# Answer"), plan, "1024\n# Answer") == [None, "gold_in_text"]


@pytest.mark.parametrize("answer", [None, "", " ", "$"])
def test_without_a_gold_nothing_can_be_said(answer: str | None) -> None:
    assert reasons(leaks_answer(column="content"), "a text", "", gold=answer) == ["no_gold", "no_gold"]


def test_a_gold_of_any_length_can_be_looked_for() -> None:
    long = "so it goes " * 20000
    assert reasons(leaks_answer(column="content"), f"Then {long} and", "no", gold=long) == ["gold_in_text", None]


# ---- refusal


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I\u2019m sorry, I can\u2019t assist with this request. " + ENGLISH * 9, "refusal"),
        ("As an AI language model, I do not have views.", "refusal"),
        ("Unfortunately, I am unable to provide that.", "refusal"),
        ("**I must decline.**", "refusal"),
        ("Thank you for asking. I won't write this.", "refusal"),
        ("I apologise.", "apology"),
        ("My apologies for the trouble!", "apology"),
        ("Sorry, that was a slip: 3 + 4 = 7, so we go on. " + ENGLISH * 9, None),
        ("I cannot divide by x, because x may be 0.", None),
        ("We can't write x as a sum, and I can't write it as a product.", None),
        ("There is not enough information to tell.", None),
        (ENGLISH * 3 + "I can't help with that.", None),
        ("The sorry state of the bridge, 3 m wide.", None),
    ],
)
def test_declining_at_the_beginning_and_apologising_for_all_there_is_are_told_from_reasoning(
    said: str, reason: str | None
) -> None:
    assert reasons(refusal(), said) == [reason]


def test_the_evidence_shows_the_phrase_that_declines() -> None:
    assert evidence(refusal(), "Well, I must respectfully decline, as")["match"] == "well, i must respectfully decline"


def test_phrases_of_ones_own_are_looked_for_in_small_letters() -> None:
    keep = refusal(also=(r"no puedo (?:ayudar|responder)",))
    assert reasons(keep, "Lo siento, NO PUEDO\nayudar.", ENGLISH) == ["refusal", None]


# ---- steps


@pytest.mark.parametrize(
    ("chain", "steps"),
    [
        ("", []),
        (" \n\n \n", []),
        ("One.\n\nTwo.\nstill two\n \t\n\nThree.", ["One.", "Two.\nstill two", "Three."]),
        ("A\n\n```py\nx = 1\n\ny = 2\n```\nso\n\nB", ["A", "```py\nx = 1\n\ny = 2\n```\nso", "B"]),
        ("\\[\na\n\nb\n\\]\n\nc", ["\\[\na\n\nb\n\\]", "c"]),
        ("$$\na\n\nb\n$$\n\nc", ["$$\na\n\nb\n$$", "c"]),
        (
            "\\begin{align}\na \\\\[2pt]\n\nb\n\\end{align}\n\nc",
            ["\\begin{align}\na \\\\[2pt]\n\nb\n\\end{align}", "c"],
        ),
        ("```\nnever closed\n\nB\n\n$$ C", ["```\nnever closed", "B", "$$ C"]),
        ("a line break \\\\[2pt]\n\nB", ["a line break \\\\[2pt]", "B"]),
    ],
)
def test_steps_stand_between_blank_lines_that_no_block_holds(chain: str, steps: list[str]) -> None:
    assert split_steps(chain) == steps


@given(st.lists(st.sampled_from(["a", "b c", "\n", "\n\n", " ", "```", "$$", "\\[", "\\]", "\\begin{x}", "\\end{x}"])))
def test_no_step_is_empty_and_only_white_space_is_lost(parts: list[str]) -> None:
    chain = "".join(parts)
    steps = split_steps(chain)
    assert all(step and step == step.strip() for step in steps)
    assert "".join("".join(steps).split()) == "".join(chain.split())


# ---- options


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: repetition(words_at_least=-1), "words_at_least = -1: must be 0 or more"),
        (lambda: repetition(same_line_at_most=-1), "same_line_at_most = -1: must be 0 or more"),
        (lambda: repetition(ngram=0), "ngram = 0: must be 1 or more"),
        (lambda: repetition(distinct_at_least=1.5), "distinct_at_least = 1.5: must be between 0 and 1"),
        (lambda: repetition(compressed_at_least=float("nan")), "compressed_at_least = nan: must be between"),
        (lambda: language(allow=()), "name at least one language"),
        (lambda: language(allow=("english",)), "no language 'english'; there are: .*en"),
        (lambda: language(other_script_at_most=2.0), "other_script_at_most = 2.0: must be between 0 and 1"),
        (lambda: language(letters_at_least=0), "letters_at_least = 0: must be 1 or more"),
        (lambda: form(boxes_at_least=2, boxes_at_most=1), "nothing would be kept"),
        (lambda: form(tags=("<t>", "<t>")), "two different texts"),
        (lambda: form(tags=("", "</t>")), "two different texts"),
        (lambda: reflection(), "needs at_least, at_most or both"),
        (lambda: reflection(at_least=3, at_most=2), "nothing would be kept"),
        (lambda: reflection(column="content", at_most_per_1000_tokens=3.0), "tokens are known of whole traces"),
        (lambda: reflection(at_most_per_1000_tokens=-1.0), "-1.0 cues per 1,000 tokens: must be 0 or more"),
        (lambda: reflection(at_least_per_1000_tokens=2.0, at_most_per_1000_tokens=1.0), "nothing would be kept"),
        (lambda: leaks_answer(anywhere_from=0), "anywhere_from = 0: must be 1 or more"),
        (lambda: refusal(also=("(",)), "not a regular expression"),
        (lambda: refusal(also=("",)), "an empty pattern would turn every row down"),
    ],
)
def test_options_of_texts_that_cannot_work_are_refused_at_once(make: Callable[[], pl.Expr], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
