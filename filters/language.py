"""Keep texts in the languages that are wanted; code and mathematics belong to none."""

from functools import cache, partial

import polars as pl

from tracemill.filters.texts import SHOWN_CHARACTERS, first_reason, judge_texts
from tracemill.schemas.errors import RecipeError

NEEDS = ("messages",)

# Our choice.
OTHER_SCRIPT_AT_MOST = 0.05
LETTERS_AT_LEAST = 80
_NONE = "zxx"
"""What the detector, and ISO 639, call text in no language."""
_WINDOW = 120
"""Characters of running words at the beginning, in the middle and at the end that the detector is shown."""

SCRIPTS = {
    **dict.fromkeys(("ar", "ary", "arz", "fa", "ps", "sdh", "ug", "ur", "uzs"), ("Arabic",)),
    **dict.fromkeys(("ba", "be", "bg", "ky", "mk", "mn", "ru", "tg", "uk"), ("Cyrillic",)),
    **dict.fromkeys(("crh", "kk", "sr", "tt", "uz"), ("Cyrillic", "Latin")),
    **dict.fromkeys(("gom", "hi", "mr", "ne", "sa"), ("Devanagari",)),
    **dict.fromkeys(("as", "bn"), ("Bengali",)),
    **dict.fromkeys(("wuu", "yue", "zh"), ("Han",)),
    **dict.fromkeys(("he", "hbo"), ("Hebrew",)),
    **dict.fromkeys(("el", "grc"), ("Greek",)),
    "am": ("Ethiopic",),
    "dz": ("Tibetan",),
    "gu": ("Gujarati",),
    "hy": ("Armenian",),
    "ja": ("Han", "Hiragana", "Katakana"),
    "ka": ("Georgian",),
    "km": ("Khmer",),
    "kn": ("Kannada",),
    "ko": ("Hangul", "Han"),
    "lo": ("Lao",),
    "ml": ("Malayalam",),
    "my": ("Myanmar",),
    "or": ("Oriya",),
    "pa": ("Gurmukhi",),
    "si": ("Sinhala",),
    "ta": ("Tamil",),
    "te": ("Telugu",),
    "th": ("Thai",),
}
"""What languages are written in that are not written in Latin letters."""

_BLOCKS = (
    r"(?s)```.*?(?:```|$)",
    r"`[^`\n]*`",
    r"(?s)\$\$.*?\$\$",
    r"(?s)\\\[.*?\\\]",
    r"(?s)\\\(.*?\\\)",
    r"(?s)\\begin\{(?:equation|align|aligned|gather|array|cases|[bpvBV]?matrix|tabular)\*?\}.*?\\end\{[a-zA-Z]+\*?\}",
)
"""One after the other: tried at once, an opening that never closes would have every later block looked for to the end of the text."""
_MARKUP = (
    r"\$[^$\n]{1,200}\$|\\[a-zA-Z]+(?:\{[^{}\n]*\})?|https?://\S+|</?[a-zA-Z][^<>\n]{0,100}>|\S*[_=^{}\[\]|\\0-9]\S*"
)
_WORD = r"\p{L}[\p{L}\p{M}'\u2019-]+|[\p{Han}\p{Hiragana}\p{Katakana}]"


def language(
    *,
    column: str | None = None,
    allow: tuple[str, ...] = ("en",),
    other_script_at_most: float = OTHER_SCRIPT_AT_MOST,
    letters_at_least: int = LETTERS_AT_LEAST,
) -> pl.Expr:
    """Keep a text whose prose is in one of the languages of `allow`, by their ISO 639-1 codes.

    Prose is what is left without fenced and quoted code, formulas, LaTeX, tags, addresses, and words with digits or signs of code in them; single
    letters count for nothing. `other_script`: more than `other_script_at_most` of its letters belong to a script that no allowed language is
    written in, as where a chain falls into Chinese for a few sentences; Greek letters are mathematics and never do. `other_language`:
    py3langid, which knows some 140 languages and brings its model along, finds another one in 120 characters each of the
    beginning, the middle and the end. With fewer than `letters_at_least` letters nothing can be told, and the row is kept: an
    empty text, a bare formula, `x = 4`. What turns to another language of the same script for a part only may pass. The
    detector works row by row, some thousand rows a second. Needs `pip install 'tracemill[language]'`.
    """
    known = _known()
    if not allow:
        raise ValueError("allow = []: name at least one language, such as 'en'")
    if strange := [code for code in allow if code not in known]:
        raise ValueError(f"allow: no language {strange[0]!r}; there are: {', '.join(sorted(known))}")
    if not 0 <= other_script_at_most <= 1:
        raise ValueError(f"other_script_at_most = {other_script_at_most}: must be between 0 and 1")
    if letters_at_least < 1:
        raise ValueError(f"letters_at_least = {letters_at_least}: must be 1 or more")
    measure = partial(
        _measure, allow=allow, other_script_at_most=other_script_at_most, letters_at_least=letters_at_least
    )
    return judge_texts("language", column, measure)


def prose(text: pl.Expr) -> pl.Expr:
    """The running words of a text, one blank between them."""
    for block in (*_BLOCKS, _MARKUP):
        text = text.str.replace_all(block, " ")
    return text.str.extract_all(_WORD).list.join(" ")


def _measure(
    texts: pl.DataFrame, *, allow: tuple[str, ...], other_script_at_most: float, letters_at_least: int
) -> pl.DataFrame:
    scripts = sorted({script for code in allow for script in SCRIPTS.get(code, ("Latin",))} | {"Greek"})
    strange = r"[\p{L}--[" + "".join(rf"\p{{{script}}}" for script in scripts) + "]]"
    words = texts.select(prose=prose(pl.col("text"))).with_columns(
        letters=pl.col("prose").str.count_matches(r"\p{L}").cast(pl.Int64),
        other_letters=pl.col("prose").str.count_matches(strange).cast(pl.Int64),
    )
    enough = pl.col("letters") >= letters_at_least
    judged = words.with_columns(
        reason=first_reason(
            ("other_script", enough & (pl.col("other_letters") > other_script_at_most * pl.col("letters")))
        )
    )
    open_ = judged.with_row_index("row").filter(enough & pl.col("reason").is_null())
    heard = open_.select("row", shown=_windows(pl.col("prose")))
    told = heard.with_columns(language=pl.Series(_heard(heard["shown"]), dtype=pl.String))
    both = judged.with_row_index("row").join(told, on="row", how="left", maintain_order="left")
    span = pl.col("prose").str.extract(rf"(.{{0,40}}{strange}.{{0,40}})", 1)
    return both.select(
        pl.coalesce("reason", first_reason(("other_language", ~pl.col("language").is_in([*allow, _NONE])))),
        "language",
        "letters",
        "other_letters",
        pl.lit(", ".join(allow)).alias("allow"),
        shown=pl.when(pl.col("reason").is_null()).then(pl.col("shown")).otherwise(span).str.head(SHOWN_CHARACTERS),
    )


def _windows(words: pl.Expr) -> pl.Expr:
    size = words.str.len_chars().cast(pl.Int64)
    middle = words.str.slice((size // 2 - _WINDOW // 2).clip(lower_bound=0), _WINDOW)
    parts = pl.concat_str([words.str.head(_WINDOW), middle, words.str.tail(_WINDOW)], separator=" ")
    return pl.when(size <= 3 * _WINDOW).then(words).otherwise(parts)


def _heard(texts: pl.Series) -> list[str]:
    from py3langid import classify

    return [classify(text)[0] for text in texts]


@cache
def _known() -> frozenset[str]:
    """The codes of the detector, whose model is loaded with that."""
    try:
        from py3langid import rank
    except ImportError:
        raise RecipeError(
            "the filter language needs the py3langid package: pip install 'tracemill[language]'"
        ) from None
    return frozenset(code for code, _ in rank("")) - {_NONE}
