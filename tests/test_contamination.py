"""Benchmarks in a pool: what stands there is found, wherever and however it is written, and nothing depends on order or on batches."""

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.filters import contaminated as filter_module
from tracemill.filters.contaminated import contaminated
from tracemill.schemas import overlap
from tracemill.schemas.benchmarks import Benchmark, Benchmarks, Item
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.overlap import SHINGLE, WINDOW
from tracemill.schemas.rows import Selection
from tracemill.schemas.words import Rolled, places, prepared, word_hashes, words
from tracemill.selectors.decontaminate import REPORT, decontaminate

ITEM = (
    "A baker sells 14 rye loaves and 9 plum cakes on Monday. On Tuesday she sells twice as many loaves but only a third "
    "of the cakes. How many things did she sell on both days together?"
)
SHORT = "Find the remainder when 7 to the power of 90 is divided by 13."
TINY = "Compute 17 times 23 minus 5."
CLEAN = (
    "Two trains leave towns that lie 300 km apart and meet after 2 hours; one is 10 km/h faster. How fast is the other?"
)


def benchmarks(*questions: str, solutions: Sequence[str] = (), name: str = "exam") -> Benchmarks:
    items = [Item(name, f"i{number}", "question", text) for number, text in enumerate(questions)]
    items += [Item(name, f"i{number}", "solution", text) for number, text in enumerate(solutions)]
    made = Benchmark(name=name, items=items, rows=len(questions), sha256="0" * 64, revision="r1")
    return Benchmarks({name: made})


def pool(*questions: str | None, **columns: Sequence[Any]) -> pl.LazyFrame:
    rows = len(questions)
    made = {
        "id": [f"p{i:03}/t" for i in range(rows)],
        "problem_id": [f"p{i:03}" for i in range(rows)],
        "question": questions,
        "reasoning": [None] * rows,
        "content": [None] * rows,
        **columns,
    }
    return pl.LazyFrame(
        made, schema_overrides=dict.fromkeys(("id", "problem_id", "question", "reasoning", "content"), pl.String)
    )


def removed(selection: Selection) -> list[int]:
    return [int(name[1:4]) for name in selection.rows.filter(~pl.col("selected")).collect()["id"]]


def hits(selection: Selection) -> list[dict[str, Any]]:
    return selection.tables["contamination"].collect().to_dicts()


# ---- words


def test_what_hides_a_copy_from_the_eye_is_no_difference_here():
    same = [
        "The café's price: x² + 1,5 — no more!",
        "the CAFE\u0301\u2019S  price?? X2 +1;5\u00a0no\nmore",
        "t\u200bhe c\u0430f\u0435 s price x2 1 5 no m\u03bfre",
        "\u202ethe ca\u00adfe s price x2 1 5 \uff4e\uff4f more\ufeff",
    ]
    assert {tuple(words(text)) for text in prepared(pl.Series(same))} == {
        ("the", "cafe", "s", "price", "x2", "1", "5", "no", "more")
    }


def test_scripts_without_blanks_are_cut_into_characters():
    [text] = prepared(pl.Series(["求x的值。"]))
    assert words(text) == ["求", "x", "的", "值"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=6))
def test_words_have_one_hash_and_places_in_any_text(texts: list[str]):
    clean = [text.encode(errors="replace").decode() for text in texts]
    ready = prepared(pl.Series(clean, dtype=pl.String))
    hashed = word_hashes(ready)
    said = [words(text) for text in ready]
    assert hashed.counts.tolist() == [len(part) for part in said]
    flat = [word for part in said for word in part]
    assert (
        len(set(flat)) == len(set(hashed.hashes.tolist())) == len(set(zip(flat, hashed.hashes.tolist(), strict=True)))
    )
    for text, form, part in zip(clean, ready, said, strict=True):
        spans = places(text, form)
        assert spans is not None
        assert [words(prepared(pl.Series([text[start:end]]))[0])[0][:1] for start, end in spans] == [
            word[:1] for word in part
        ] or not text.isascii()


def test_the_hash_of_a_word_is_the_same_everywhere():
    hashed = word_hashes(prepared(pl.Series(["tracemill 7", "a" * 70, "a" * 71])))
    assert [f"{number:016x}" for number in hashed.hashes.tolist()] == HASHES


HASHES = ["751f3521ed63ebf2", "cbd76b2515bc1831", "3165b3e1abc0399c", "f0653005f68d9d82"]


# ---- what is found, against the definition


def brute_ngram(item: list[str], text: list[str]) -> tuple[int, int]:
    size = 13 if len(item) >= 26 else min(8, len(item))
    mine = {tuple(item[i : i + size]) for i in range(len(item) - size + 1)} if item else set()
    theirs = {tuple(text[i : i + size]) for i in range(len(text) - size + 1)}
    if len(item) < 4 and text != item:
        return 0, len(mine)
    return len(mine & theirs), len(mine)


def brute_near(item: list[str], text: list[str]) -> tuple[int, int]:
    mine = {tuple(item[i : i + SHINGLE]) for i in range(len(item) - SHINGLE + 1)}
    best, width = 0, WINDOW * len(item)
    for start in range(max(1, len(text) - SHINGLE + 1)):
        part = text[start : start + width]
        best = max(best, len(mine & {tuple(part[i : i + SHINGLE]) for i in range(len(part) - SHINGLE + 1)}))
    return (best, len(mine)) if len(item) >= 10 else (0, max(1, len(mine)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([3, 12, 200]))
def test_it_is_the_definition(seed: int, vocabulary: int):
    rng = random.Random(seed)
    said = [[f"w{rng.randrange(vocabulary)}" for _ in range(rng.choice([1, 3, 5, 9, 15, 30, 50]))] for _ in range(6)]
    texts = []
    for _ in range(12):
        text = [f"w{rng.randrange(vocabulary)}" for _ in range(rng.randrange(30))]
        text += [word if rng.random() > 0.04 else "changed" for word in rng.choice(said)]
        texts.append([*text, *(f"w{rng.randrange(vocabulary)}" for _ in range(rng.randrange(30)))])
    options = {"common": 10_000, "near_floor": 0.5, "ngram_floor": 0.0, "ngram_share": 0.0}
    found = hits(decontaminate(pool(*map(" ".join, texts)), benchmarks=benchmarks(*map(" ".join, said)), **options))
    got = {(int(h["id"][1:4]), int(h["item"][1:]), h["net"]): h["score"] for h in found}
    wanted = {}
    for row, text in enumerate(texts):
        for number, item in enumerate(said):
            shared, of = brute_ngram(item, text)
            if shared:
                wanted[row, number, "ngram"] = shared / of
            near, of = brute_near(item, text)
            if near * 2 >= of and near:
                wanted[row, number, "near"] = near / of
    assert got == pytest.approx(wanted)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([3, 6, 30]), st.integers(1, 3), st.sampled_from([0.4, 0.5, 0.75, 1.0]))
def test_no_near_copy_is_missed_however_common_its_sequences_are(seed: int, vocabulary: int, common: int, share: float):
    """With few words nearly every sequence is in many items, and an item is told by its rarest ones alone."""
    rng = random.Random(seed)
    said = [[f"w{rng.randrange(vocabulary)}" for _ in range(rng.choice([10, 14, 25]))] for _ in range(9)]
    texts = [[word if rng.random() > 0.1 else "changed" for word in rng.choice(said)] for _ in range(12)]
    options: dict[str, Any] = {"nets": ("near",), "common": common, "near": share, "near_floor": share}
    found = hits(decontaminate(pool(*map(" ".join, texts)), benchmarks=benchmarks(*map(" ".join, said)), **options))
    near = {(row, number): brute_near(item, text) for row, text in enumerate(texts) for number, item in enumerate(said)}
    wanted = {pair for pair, (part, of) in near.items() if part and part >= share * of}
    assert {(int(h["id"][1:4]), int(h["item"][1:])) for h in found} == wanted


def test_a_near_copy_that_has_only_the_common_half_of_an_item_is_found():
    words_of_item = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    common = " ".join(words_of_item[:6])
    others = [f"{common} {' '.join(f'{name}{i}' for i in range(9))}" for name in "abc"]
    items = benchmarks(" ".join(words_of_item), *others)
    found = hits(decontaminate(pool(f"{common} and no more"), benchmarks=items, nets=("near",), common=1))
    assert [(h["item"], h["score"]) for h in found] == [("i0", 0.5)]


def test_a_sequence_of_words_has_a_hash_of_its_own():
    hashed = word_hashes(prepared(pl.Series(["a b c d e f g a b c d e f h b a c d e f g"])))
    rolled = Rolled(hashed.hashes)
    said = words("a b c d e f g a b c d e f h b a c d e f g")
    for size in range(1, 15):
        grams = [tuple(said[i : i + size]) for i in range(len(said) - size + 1)]
        pairs = set(zip(grams, rolled.of(size).tolist(), strict=True))
        assert len(pairs) == len(set(grams)) == len({number for _, number in pairs})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40), st.text(max_size=30), st.text(max_size=30))
def test_any_thirteen_words_of_a_long_item_are_found(seed: int, start: int, before: str, behind: str):
    rng = random.Random(seed)
    item = [f"word{rng.randrange(10**6)}" for _ in range(53)]
    clean = [text.encode(errors="replace").decode().replace("word", "") for text in (before, behind)]
    text = f"{clean[0]} {' '.join(item[start : start + 13]).upper()} {clean[1]}"
    [hit] = hits(decontaminate(pool(text), benchmarks=benchmarks(" ".join(item)), ngram_share=0.0, ngram_floor=0.0))
    assert (hit["net"], hit["score"], hit["removed"]) == ("ngram", 1 / 41, True)
    assert text[hit["start"] : hit["end"]].lower().split() == item[start : start + 13]


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 400))
def test_neither_order_nor_batches_change_anything(rng: random.Random, piece: int):
    texts = [ITEM, CLEAN, f"{CLEAN} {SHORT}", ITEM.replace("baker", "grocer"), TINY, None, "", ITEM.upper(), CLEAN]
    frame = pool(*texts).collect()
    expected = decontaminate(frame.lazy(), benchmarks=benchmarks(ITEM, SHORT, TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "PIECE_BYTES", piece)
        order = list(range(len(frame)))
        rng.shuffle(order)
        other = decontaminate(frame[order].lazy(), benchmarks=benchmarks(ITEM, SHORT, TINY))
        assert hits(other) == hits(expected)
        assert other.rows.sort("id").collect().equals(expected.rows.sort("id").collect())
        assert other.rows.collect()["id"].to_list() == frame[order]["id"].to_list()
    assert removed(expected) == [0, 2, 3, 4, 7]


# ---- rows


def test_the_evidence_names_benchmark_item_net_span_and_score():
    text = f"Please help me with this: {ITEM} Thanks!"
    rows = decontaminate(pool(CLEAN, text), benchmarks=benchmarks(SHORT, ITEM)).rows.collect()
    assert rows["selected"].to_list() == [True, False]
    assert rows["reason"].to_list() == [None, "contaminated"]
    evidence = json.loads(rows["evidence"][1])
    assert evidence.pop("span") == ITEM[: overlap.SHOWN_CHARACTERS].rstrip("?")
    assert text[evidence["start"] : evidence["end"]] == ITEM.rstrip("?")
    del evidence["start"], evidence["end"]
    assert evidence == {
        "benchmark": "exam",
        "item": "i1",
        "part": "question",
        "net": "ngram",
        "column": "question",
        "score": 1.0,
        "threshold": 0.2,
        "same_numbers": True,
    }


def test_offsets_count_characters_of_the_text_as_it_is():
    text = "Zażółć 日本 \u200b" + ITEM.replace("baker", "b\u00e0k\u200ber")
    [hit] = hits(decontaminate(pool(text), benchmarks=benchmarks(ITEM), nets=("ngram",)))
    assert text[hit["start"] : hit["end"]] == text[text.index("A b\u00e0k") :].rstrip("?")


def test_other_numbers_are_a_near_copy_and_it_is_said_that_they_differ():
    changed = ITEM.replace("14", "31").replace("9", "12").replace("third", "quarter")
    rows = decontaminate(pool(changed), benchmarks=benchmarks(ITEM))
    assert removed(rows) == [0]
    assert {(h["net"], h["same_numbers"]) for h in hits(rows)} == {("ngram", False), ("near", False)}


def test_sentences_in_another_order_are_a_near_copy():
    one, two, three = re.split(r"(?<=[.]) ", ITEM)
    rows = decontaminate(pool(f"{two} {one} {three}"), benchmarks=benchmarks(ITEM), nets=("near",))
    assert removed(rows) == [0]
    assert hits(rows)[0]["score"] > 0.85


def test_traces_are_looked_through_too_and_the_column_is_told():
    frame = pool(CLEAN, CLEAN, reasoning=[f"I know this one. {ITEM} So 49.", None], content=[None, SHORT])
    found = hits(decontaminate(frame, benchmarks=benchmarks(ITEM, SHORT), nets=("ngram",)))
    assert [(h["id"], h["column"], h["item"]) for h in found] == [
        ("p000/t", "reasoning", "i0"),
        ("p001/t", "content", "i1"),
    ]
    assert removed(decontaminate(frame, benchmarks=benchmarks(ITEM, SHORT), columns=("question",))) == []


def test_solutions_are_looked_for_where_a_benchmark_has_them():
    solution = "First she sells 23 things, then 28 loaves and 3 cakes, which makes 54 in all on these two days of trade at her shop."
    [hit] = hits(
        decontaminate(
            pool(CLEAN, content=[solution]), benchmarks=benchmarks(ITEM, solutions=[solution]), nets=("ngram",)
        )
    )
    assert (hit["item"], hit["part"], hit["removed"]) == ("i0", "solution", True)


def test_short_items_are_found_whole_and_very_short_ones_only_alone():
    questions = [
        f"Now {TINY} Thanks",
        "Compute 17 times 23 minus 6.",
        "What is 2?",
        "what is  2",
        "Tell me: what is 2?",
    ]
    rows = decontaminate(pool(*questions), benchmarks=benchmarks(TINY, "What is 2?"))
    assert removed(rows) == [0, 2, 3]
    said = rows.facts["benchmarks"]["exam"]
    assert (said["findable_ngram"], said["findable_near"], said["items_hit"]) == (2, 0, 2)


def test_what_is_nearly_enough_is_reported_and_stays():
    half = " ".join(ITEM.split()[:18])
    rows = decontaminate(pool(f"{half} {CLEAN}"), benchmarks=benchmarks(ITEM), ngram_share=0.5, nets=("ngram",))
    assert removed(rows) == []
    [hit] = hits(rows)
    assert (hit["removed"], hit["net"], hit["score"], hit["threshold"]) == (False, "ngram", 6 / 25, 0.5)
    assert rows.facts["benchmarks"]["exam"]["rows_below"] == 1


def test_a_threshold_is_met_by_the_share_as_it_was_written():
    item = " ".join(f"w{i}" for i in range(32))  # 20 n-grams
    text = " ".join(f"w{i}" for i in range(18))  # 6 of them
    assert removed(decontaminate(pool(text), benchmarks=benchmarks(item), ngram_share=0.3, nets=("ngram",))) == [0]
    assert removed(decontaminate(pool(text), benchmarks=benchmarks(item), ngram_share=0.31, nets=("ngram",))) == []


def test_the_evidence_is_the_strongest_hit_of_filter_and_selector():
    long = [f"w{i}" for i in range(60)]
    weak = " ".join(long[:16] + [f"other{i}" for i in range(14)])  # 4 of its 18 sequences stand in the text
    strong = " ".join(long[5:45])  # all of its 28
    marks = benchmarks(weak, strong)
    [evidence] = decontaminate(pool(" ".join(long)), benchmarks=marks).rows.collect()["evidence"]
    [by_filter] = pool(" ".join(long)).select(contaminated(benchmarks=marks).alias("why")).collect()["why"]
    for told in (json.loads(evidence), json.loads(by_filter["evidence"])):
        assert (told["item"], told["net"], told["score"]) == ("i1", "ngram", 1.0)


# ---- what is common means nothing


@pytest.mark.parametrize(("words_shared", "common"), [(22, 10), (25, 13), (26, 0), (40, 0)])
def test_what_many_problems_have_is_common_unless_they_hold_half_of_the_item(words_shared: int, common: int):
    item = [f"w{i}" for i in range(40)]  # 28 sequences
    texts = [f"a{i} {' '.join(item[:words_shared])} z{i}" for i in range(12)]
    found = decontaminate(pool(*texts), benchmarks=benchmarks(" ".join(item)), nets=("ngram",))
    assert found.facts["common_ngrams"] == common
    assert removed(found) == ([] if common else list(range(12)))


BOILERPLATE = "where m and n are relatively prime positive integers and then find the value of m plus n"


def test_a_phrase_of_many_problems_counts_for_nothing():
    item = f"A fair coin is tossed until heads comes up twice in a row {BOILERPLATE}"
    others = [f"Problem {'abcdefghijklmnop'[i]} is another story altogether {BOILERPLATE}" for i in range(11)]
    found = decontaminate(pool(*others, item), benchmarks=benchmarks(item), nets=("ngram",))
    assert removed(found) == [11]
    assert found.facts["common_ngrams"] == 6
    assert [h["score"] for h in hits(found)] == [1.0]
    few = decontaminate(pool(*others[:10], item), benchmarks=benchmarks(item), nets=("ngram",))
    assert removed(few) == [*range(11)]
    assert few.facts["common_ngrams"] == 0


def test_an_item_that_was_copied_a_hundred_times_does_not_hide_itself():
    assert removed(decontaminate(pool(*[ITEM] * 100), benchmarks=benchmarks(ITEM), nets=("ngram",))) == [*range(100)]
    assert removed(decontaminate(pool(*[TINY] * 100), benchmarks=benchmarks(TINY), nets=("ngram",))) == [*range(100)]
    inside = [f"{CLEAN} {TINY}" for _ in range(100)]
    assert removed(decontaminate(pool(*inside), benchmarks=benchmarks(TINY), nets=("ngram",))) == []


def test_many_traces_of_one_problem_are_one_problem():
    frame = pool(*[f"{BOILERPLATE} {i}" for i in range(30)], problem_id=["p"] * 30)
    item = f"A fair coin is tossed until heads comes up twice in a row {BOILERPLATE}"
    assert len(removed(decontaminate(frame, benchmarks=benchmarks(item), nets=("ngram",)))) == 30


def test_a_phrase_of_many_items_counts_for_nothing_in_a_filter_too():
    items = [f"{name} tosses a coin until heads comes up and wins {BOILERPLATE}" for name in "abcdefghijkl"]
    text = f"Something else is asked for here {BOILERPLATE}"
    assert (
        pool(text).select(contaminated(benchmarks=benchmarks(*items[:9]), nets=("ngram",))).collect().item() is not None
    )
    assert pool(text).select(contaminated(benchmarks=benchmarks(*items), nets=("ngram",))).collect().item() is None


# ---- the filter


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_filter_and_selector_agree(seed: int):
    rng = random.Random(seed)
    items = [" ".join(f"w{rng.randrange(40)}" for _ in range(rng.choice([2, 5, 12, 40]))) for _ in range(5)]
    texts = []
    for _ in range(9):
        text = rng.choice([*items, CLEAN]).split()
        text[rng.randrange(len(text))] = "other"
        texts.append(" ".join(["so", *text] if rng.random() < 0.5 else text))
    marks = benchmarks(*items)
    by_filter = pool(*texts).select(contaminated(benchmarks=marks, common=1000).alias("why")).collect()["why"]
    rows = decontaminate(
        pool(*texts), benchmarks=marks, columns=("question",), common=1000, near_floor=0.5
    ).rows.collect()
    assert [why is None for why in by_filter.to_list()] == rows["selected"].to_list()
    for why, evidence in zip(by_filter.to_list(), rows["evidence"], strict=True):
        if why is not None:
            assert json.loads(why["evidence"]) == json.loads(evidence)


def test_a_filter_gives_the_same_verdict_on_a_row_alone_and_among_others():
    texts = [CLEAN, ITEM, None, TINY, SHORT.upper(), "", f"{CLEAN} {ITEM}"]
    why = contaminated(benchmarks=benchmarks(ITEM, TINY)).alias("why")
    together = pool(*texts).select(why).collect()["why"].to_list()
    assert together == [pool(text).select(why).collect()["why"].item() for text in texts]
    assert [verdict is None for verdict in together] == [True, False, False, False, True, True, False]
    assert pool(CLEAN, CLEAN).select(why).collect()["why"].to_list() == [None, None]


def test_the_filter_is_total_on_odd_rows():
    texts = [None, "", " \u200b ", "\x00", ITEM, "wort " * 200_000]
    reasons = (
        pool(*texts).select(contaminated(benchmarks=benchmarks(ITEM)).struct.field("reason")).collect().to_series()
    )
    assert reasons.to_list() == ["no_text", None, None, None, "contaminated", None]


# ---- odd input


def test_odd_texts_go_through():
    texts = [
        None,
        "",
        "\u200b",
        "?",
        "a" * 1_000_000,
        f"{'lorem ipsum ' * 90_000}{ITEM}",
        "\u202e" + ITEM,
        "مسألة: " + ITEM,
    ]
    assert removed(decontaminate(pool(*texts), benchmarks=benchmarks(ITEM))) == [5, 6, 7]


def test_no_rows_and_no_hits_give_tables_with_columns():
    for frame in (pool(), pool(CLEAN)):
        selection = decontaminate(frame, benchmarks=benchmarks(ITEM))
        table = selection.tables["contamination"].collect()
        assert (table.height, table.schema) == (0, pl.Schema(REPORT))
        assert selection.rows.collect()["selected"].to_list() == [True] * frame.collect().height


def test_a_benchmark_that_is_the_pool_removes_all_of_it():
    texts = [f"{ITEM} Part {i}." for i in range(40)]
    selection = decontaminate(pool(*texts), benchmarks=benchmarks(*texts))
    assert removed(selection) == [*range(40)]
    [row] = selection.summary.rows  # type: ignore[union-attr]
    assert (row["items"], row["items found"], row["rows removed"]) == (40, 40, 40)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ngram": 5}, "ngram = 5 and short_ngram = 8"),
        ({"short_ngram": 3}, "from 4 up"),
        ({"ngram_share": 1.5}, "ngram_share = 1.5: a share from 0 to 1"),
        ({"ngram_floor": 0.3}, "ngram_floor = 0.3: from 0 up to ngram_share = 0.2"),
        ({"near": 0.1}, "near = 0.1: a share from 0.3 to 1"),
        ({"near_floor": 0.6}, "near_floor = 0.6"),
        ({"meaning_floor": 0.85}, "meaning_floor = 0.85"),
        ({"common": 0}, "common = 0"),
        ({"columns": ()}, "name a text column"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=re.escape(says)):
        decontaminate(pool(ITEM), benchmarks=benchmarks(ITEM), **options)


@pytest.mark.parametrize("options", [{"nets": ()}, {"column": ""}, {"near": 0.2}, {"ngram": 1}, {"ngram_share": -1.0}])
def test_options_of_the_filter_that_cannot_work_are_refused(options: dict[str, Any]):
    known = {
        "column": "question",
        "nets": ("near",),
        "ngram": 13,
        "short_ngram": 8,
        "ngram_share": 0.2,
        "common": 1,
        "near": 0.6,
    }
    with pytest.raises(ValueError, match="="):
        filter_module.check(**{**known, **options})


def test_columns_and_benchmarks_that_are_not_there_are_named():
    with pytest.raises(RecipeError, match="no column 'questio'; did you mean 'question'"):
        decontaminate(pool(ITEM), benchmarks=benchmarks(ITEM), columns=("questio",))
    with pytest.raises(RecipeError, match="column 'n' is Int64; name a column of text"):
        decontaminate(pool(ITEM, n=[1]), benchmarks=benchmarks(ITEM), columns=("n",))
    with pytest.raises(RecipeError, match=r"the recipe has no \[benchmarks.exan\]; did you mean 'exam'"):
        decontaminate(pool(ITEM), benchmarks=benchmarks(ITEM), against=("exan",))
    with pytest.raises(RecipeError, match=r"the recipe names none; add \[benchmarks.NAME\]"):
        decontaminate(pool(ITEM))
    with pytest.raises(RecipeError, match=r"names no encoder; add .embedder. .* or leave .meaning. out of nets"):
        decontaminate(pool(ITEM), benchmarks=benchmarks(ITEM), nets=("meaning",))
