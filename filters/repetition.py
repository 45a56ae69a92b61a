"""Drop texts that go round in circles, or that are hardly there."""

import zlib
from functools import partial

import polars as pl

from tracemill.filters.texts import SHOWN_CHARACTERS, first_reason, judge_texts

NEEDS = ("messages",)

# VecCISC (arXiv 2605.08070) drops degenerate traces before it clusters, and has no detector for them: these are our choice.
NGRAM = 4
DISTINCT_AT_LEAST = 0.3
SAME_LINE_AT_MOST = 5
WORDS_AT_LEAST = 16

# Our choice: solutions of MATH-500 compress to 0.23 and more of their bytes, a hundred kilobytes of them to 0.39; 500 lines that
# only count up to 0.08.
COMPRESSED_AT_LEAST = 0.1

_LOOKAHEAD = 262
"""Bytes of a window that zlib keeps free of matches: MIN_LOOKAHEAD of its deflate.h."""
_TABLES = 512
"""Bytes; the table of one block takes up to some 300."""
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}"
WORD = rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+"
_LINE = rf"\S\s+\S|[{_UNSPACED}]{{2}}"
"""Two words or more: `\\[`, `Thus,` and `\\end{aligned}` stand alone in a line of a good derivation as often as it has formulas."""


def repetition(
    *,
    column: str | None = None,
    words_at_least: int = WORDS_AT_LEAST,
    same_line_at_most: int = SAME_LINE_AT_MOST,
    ngram: int = NGRAM,
    distinct_at_least: float = DISTINCT_AT_LEAST,
    compressed_at_least: float = COMPRESSED_AT_LEAST,
) -> pl.Expr:
    """Keep a text that goes on saying something new: no loops, no degenerate tails, and not next to nothing.

    Turned down, in this order, as `few_words`; as `looped_line`, where one line stands there more than `same_line_at_most`
    times, next to each other or not; as `looped_words`, where fewer than `distinct_at_least` of its runs of `ngram` words are
    different ones; as `compressible`, where zlib (level 1) makes it smaller than `compressed_at_least` of its bytes, which finds loops that
    count up. 0 turns a rule off, for lines `same_line_at_most = 0` does. Words stand between white space, and
    every Han, kana and Thai character is one. Lines count with two words or more and a letter or digit. An empty text has no words.
    Without `column`: the whole trace, thoughts included. The zlib at hand decides the last rule, for rows that the
    others kept, and may differ in a byte from another's; it is the one rule that is computed row by row.
    """
    for name, value in (("words_at_least", words_at_least), ("same_line_at_most", same_line_at_most)):
        if value < 0:
            raise ValueError(f"{name} = {value}: must be 0 or more")
    if ngram < 1:
        raise ValueError(f"ngram = {ngram}: must be 1 or more")
    for name, share in (("distinct_at_least", distinct_at_least), ("compressed_at_least", compressed_at_least)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} = {share}: must be between 0 and 1")
    rules = partial(
        _measure,
        words_at_least=words_at_least,
        same_line_at_most=same_line_at_most,
        ngram=ngram,
        distinct_at_least=distinct_at_least,
        compressed_at_least=compressed_at_least,
    )
    return judge_texts("repetition", column, rules)


def _measure(
    texts: pl.DataFrame,
    *,
    words_at_least: int,
    same_line_at_most: int,
    ngram: int,
    distinct_at_least: float,
    compressed_at_least: float,
) -> pl.DataFrame:
    rows = texts.select("text").with_row_index("row")
    # a line cannot stand there more often than there are lines; of the others it is looked up once they are turned down
    lines = rows.filter(pl.lit(same_line_at_most > 0) & (_line_ends() >= same_line_at_most))
    measured = (
        rows.join(_grams(rows, ngram), on="row", how="left", maintain_order="left")
        .join(_worst_lines(lines), on="row", how="left", maintain_order="left")
        .with_columns(pl.col("words", "ngrams", "distinct").fill_null(0))
    )
    share = pl.col("distinct") / pl.col("ngrams")
    down = first_reason(
        ("few_words", pl.col("words") < words_at_least),
        ("looped_line", pl.col("line_count") > same_line_at_most if same_line_at_most else pl.lit(value=False)),
        ("looped_words", (pl.col("ngrams") > 0) & (share < distinct_at_least)),
    )
    measured = measured.with_columns(reason=down, compressed=pl.lit(None, pl.Float64))
    if compressed_at_least:
        kept = pl.col("reason").is_null()
        left = measured.filter(kept)
        sizes = pl.Series("size", [_compressed(text, compressed_at_least) for text in left["text"]], dtype=pl.Float64)
        measured = measured.join(left.select("row").with_columns(sizes), on="row", how="left", maintain_order="left")
        too_small = first_reason(("compressible", pl.col("size") < compressed_at_least))
        measured = measured.with_columns(pl.coalesce("reason", too_small), compressed="size")
    late = measured.filter(pl.col("reason").is_not_null()).join(lines, on="row", how="anti").select("row", "text")
    measured = measured.update(_worst_lines(late), on="row")
    return measured.select(
        "reason",
        "words",
        pl.lit(ngram).alias("ngram"),
        "ngrams",
        distinct_ngrams="distinct",
        distinct_share=share.fill_nan(None).round(4),
        worst_line=pl.col("line").str.head(SHOWN_CHARACTERS),
        worst_line_count=pl.col("line_count").fill_null(0),
        compressed_share=pl.col("compressed").round(2),
    )


def _line_ends() -> pl.Expr:
    return pl.col("text").str.count_matches("\n", literal=True)


def _grams(rows: pl.DataFrame, n: int) -> pl.DataFrame:
    """How many words every row has, how many runs of `n` of them, and how many different ones."""
    words = _words(rows).select("row", pl.col("word").hash())
    gram = pl.col("word")
    for ahead in range(1, n):  # unsigned numbers wrap around: a polynomial in the hashes, equal where all words are
        gram = gram * 1_000_003 + pl.col("word").shift(-ahead)
    whole = pl.col("row").shift(1 - n) == pl.col("row")
    runs = words.select("row", gram=pl.when(whole).then(gram))
    return runs.group_by("row").agg(
        words=pl.len(), ngrams=pl.col("gram").count(), distinct=pl.col("gram").drop_nulls().n_unique()
    )


def _words(rows: pl.DataFrame) -> pl.DataFrame:
    """The words of every row in order, a row each. ASCII knows six blanks and no script without them: no regex is needed."""
    text = pl.col("text")
    plain = text.str.len_bytes() == text.str.len_chars()
    blank = text
    for other in "\t\n\v\f\r":
        blank = blank.str.replace_all(other, " ", literal=True)
    parted = rows.filter(plain).select("row", word=blank.str.split(" ")).explode("word").filter(pl.col("word") != "")
    found = rows.filter(~plain).select("row", word=text.str.extract_all(WORD)).explode("word").drop_nulls()
    return pl.concat([parted, found])


def _worst_lines(rows: pl.DataFrame) -> pl.DataFrame:
    """The commonest line of every row, the first in the alphabet of several, and how often it stands there."""
    line = pl.col("line").str.strip_chars()
    lines = rows.select("row", line=pl.col("text").str.split("\n")).explode("line").select("row", line=line)
    says = pl.col("line").str.contains(_LINE) & pl.col("line").str.contains(r"[\p{L}\p{N}]")
    counted = lines.filter(says).group_by("row", "line").agg(line_count=pl.len())
    worst = counted.sort("line_count", "line", descending=[True, False])
    return worst.unique("row", keep="first", maintain_order=True)


def _compressed(text: str, enough: float) -> float:
    """What share zlib leaves of a text; 1 where its beginning alone takes `enough` of the whole, and more.

    A beginning is parsed as it is within the whole, but for the last match, and its own code is the best one for it: it can only
    take less within the whole by what a code's table costs, which `_TABLES` is far above.
    """
    raw = text.encode()
    part = int(4 * enough * len(raw)) + 4 * _TABLES
    if 4 * part < 3 * len(raw) and len(zlib.compress(raw[:part], 1)) >= enough * len(raw) + _TABLES:
        return 1.0
    # a window that holds all of it gives as many bytes as the largest, and is set up sooner
    window = min(15, max(10, (len(raw) + _LOOKAHEAD).bit_length()))
    return len(zlib.compress(raw, 1, window)) / len(raw) if raw else 1.0
