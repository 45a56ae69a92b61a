"""The filter `repetition` against its definition, a text at a time and by the letter: what is fast has to say the same."""

import re
import zlib
from collections import Counter
from typing import Any

import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracemill.filters.repetition import repetition

BLANK = "\t\n\v\f\r \u0085\u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
"""White_Space of Unicode."""
UNSPACED = "計算しまตก"
WORD = re.compile(f"[{UNSPACED}]|[^{BLANK}{UNSPACED}]+")


def by_definition(text: str, *, words: int, lines: int, ngram: int, distinct: float, compressed: float) -> str | None:
    found = WORD.findall(text)
    if len(found) < words:
        return "few_words"
    counted = Counter(line.strip(BLANK) for line in text.split("\n"))
    says = [n for line, n in counted.items() if _two_words(line) and any(c.isalnum() for c in line)]
    if lines and max(says, default=0) > lines:
        return "looped_line"
    grams = [tuple(found[i : i + ngram]) for i in range(len(found) - ngram + 1)]
    if grams and len(set(grams)) / len(grams) < distinct:
        return "looped_words"
    raw = text.encode()
    small = compressed and raw and len(zlib.compress(raw, 1)) / len(raw) < compressed
    return "compressible" if small else None


def _two_words(line: str) -> bool:
    return re.search(rf"[^{BLANK}][{BLANK}]+[^{BLANK}]|[{UNSPACED}]{{2}}", line) is not None


LOOPS = st.tuples(
    st.sampled_from(["so we go on ", "x = 4\n", "and\tthen\n", "計算", "a\u00a0b ", "\n", "12 "]), st.integers(1, 40)
)
COUNTS = st.integers(1, 900).map(lambda n: "\n".join(f"count {i}" for i in range(n)))
VARIED = st.text(st.sampled_from("abcdef " + UNSPACED + BLANK), max_size=200)
TEXTS = st.lists(st.one_of(LOOPS.map(lambda loop: loop[0] * loop[1]), COUNTS, VARIED), max_size=4).map("".join)


@settings(deadline=None)
@given(
    texts=st.lists(TEXTS, max_size=6),
    words=st.integers(0, 20),
    lines=st.integers(0, 6),
    ngram=st.integers(1, 5),
    distinct=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    compressed=st.sampled_from([0.0, 0.1, 0.5]),
)
@example(texts=["go on " * 900 + "end"], words=0, lines=5, ngram=4, distinct=0.0, compressed=0.1)
def test_it_says_what_its_definition_says(texts: list[str], **rules: Any):
    keep = repetition(
        column="text",
        words_at_least=rules["words"],
        same_line_at_most=rules["lines"],
        ngram=rules["ngram"],
        distinct_at_least=rules["distinct"],
        compressed_at_least=rules["compressed"],
    )
    found = (
        pl.DataFrame({"text": texts}, schema={"text": pl.String})
        .select(why=keep)["why"]
        .struct.field("reason")
        .to_list()
    )
    assert found == [by_definition(text, **rules) for text in texts]


def test_what_begins_well_is_still_found_where_it_loops_on_and_on():
    """The beginning of a long text speaks for all of it only where it takes enough bytes of the whole."""
    start = " ".join(str(i * 7919 % 10007) for i in range(400))
    long = [start + "\nand so on" * n for n in (10, 2_000, 6_000)]
    rules: dict[str, Any] = {"same_line_at_most": 0, "distinct_at_least": 0.0}
    found = pl.DataFrame({"text": long}).select(why=repetition(column="text", **rules))["why"].struct.field("reason")
    expected = [by_definition(text, words=16, lines=0, ngram=4, distinct=0.0, compressed=0.1) for text in long]
    assert found.to_list() == expected == [None, "compressible", "compressible"]


def test_as_many_lines_as_are_allowed_and_one_more():
    lines = [f"so we go on {'and on ' * i}" for i in range(12)]
    texts = ["\n".join([*(["the same line"] * n), *lines[n:10]]) for n in (5, 6)] + [
        "\n".join(["the same line"] * n) for n in (5, 6)
    ]
    rules: dict[str, Any] = {"words_at_least": 0, "distinct_at_least": 0.0, "compressed_at_least": 0.0}
    found = pl.DataFrame({"text": texts}).select(why=repetition(column="text", **rules))["why"].struct.field("reason")
    assert found.to_list() == [None, "looped_line", None, "looped_line"]
