"""Drop problems, hints and plans that give the answer away."""

from functools import partial

import polars as pl

from tracemill.filters.texts import SHOWN_CHARACTERS, first_reason, judge_texts

NEEDS = ("gold",)

# Our choice.
ANYWHERE_FROM = 4

_GOLD, _HERE = "\ue000", "\ue001"
"""Stand for the gold in a text, and behind what announces an answer: so one expression finds every row's gold, where one
made of each gold would have to be compiled for each."""
_LETTER = r"[\p{L}--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]]"
"""What a word would go on with; scripts without blanks between words have no such letters."""
_BEFORE = rf"(?:^|[^{_LETTER}\p{{N}}{_GOLD}_./,^\\\u2212-]|[^\p{{N}}{_GOLD}][.,/]|^[.,/])"
_AFTER = rf"(?:$|[^{_LETTER}\p{{N}}{_GOLD}_./,^%\\]|[.,](?:$|[^\p{{N}}{_GOLD}])|\\[^%])"
_ANNOUNCED = (
    r"(?:\\boxed ?\{|\\fbox ?\{|#### ?"
    r"|\b(?:answer|result|solution)(?: to [^.:=]{1,40})?(?: is| was| equals| will be|:| =)(?: therefore| thus| simply| just| then)?)"
)
_OPENING = r"[ $*`({\[\"']{0,6}"


def leaks_answer(
    *, column: str = "question", before: str = "", anywhere_from: int = ANYWHERE_FROM, announced_only: bool = False
) -> pl.Expr:
    r"""Keep a row whose text in `column` does not say its `gold`: a question, a hint, or a plan.

    A gold of `anywhere_from` characters or more counts wherever it stands by itself: not inside a longer word or number (`1024` is not in
    `11024`, `1024.5`, `-1024`, `1/1024` or `1024%`). A shorter one, `2` or `B`, stands in most questions without giving anything
    away and counts only where it is announced: after `answer is`, `result:` and the like, in `\boxed{` or behind `####`;
    `announced_only` asks that of all, for golds that a question has to name (`Is Alice or Bob taller?`). Case and white space
    do not matter; another form of the same number (0.5 for 1/2) is not seen. With `before`, only what stands before
    that marker is looked at, as in a plan that ends in its answer. Reasons: `gold_in_text`, `gold_announced`, and `no_gold` where
    a row has none and so nothing can be said. An empty text leaks nothing.
    """
    if anywhere_from < 1:
        raise ValueError(f"anywhere_from = {anywhere_from}: must be 1 or more")
    measure = partial(_measure, before=before, anywhere_from=anywhere_from, announced_only=announced_only)
    return judge_texts("leaks_answer", column, measure, also=("gold",))


def _measure(texts: pl.DataFrame, *, before: str, anywhere_from: int, announced_only: bool) -> pl.DataFrame:
    text = pl.col("text").str.split(before).list.first() if before else pl.col("text")
    shown = pl.col("gold").cast(pl.String)
    rows = texts.select(text=_plain(text), gold=_plain(shown), shown=shown.str.head(SHOWN_CHARACTERS)).with_row_index(
        "row"
    )
    # not `contains`, which makes a regular expression of the gold where a batch has but one row
    held = rows.filter((pl.col("gold") != "") & (pl.col("text").str.split(pl.col("gold")).list.len() > 1))
    announced_at = pl.col("text").str.replace_all(f"[{_GOLD}{_HERE}]", " ").str.replace_all(_ANNOUNCED, f"$0{_HERE}")
    marked = announced_at.str.split(pl.col("gold")).list.join(_GOLD)
    found = held.with_columns(marked=marked).with_columns(
        announced=_span(_HERE + _OPENING),
        anywhere=_span(_BEFORE),
        long=(pl.col("gold").str.len_chars() >= anywhere_from) & (not announced_only),
    )
    told = rows.select("row", "gold", "shown").join(
        found.select("row", "announced", "anywhere", "long"), on="row", how="left", maintain_order="left"
    )
    announced, anywhere = pl.col("announced"), pl.col("anywhere")
    return told.select(
        reason=first_reason(
            ("no_gold", pl.col("gold").is_null() | (pl.col("gold") == "")),
            ("gold_announced", announced.is_not_null()),
            ("gold_in_text", anywhere.is_not_null() & pl.col("long")),
        ),
        gold="shown",
        span=pl.coalesce(announced, anywhere).str.head(SHOWN_CHARACTERS),
    )


def _plain(text: pl.Expr) -> pl.Expr:
    return text.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars(" $")


def _span(left: str) -> pl.Expr:
    """Where the gold stands by itself behind `left`, with some of what is around it; null where it stands nowhere so."""
    around = pl.col("marked").str.extract(rf"(.{{0,40}}{left}{_GOLD}{_AFTER}.{{0,40}})", 1)
    return around.str.replace_all(_HERE, "", literal=True).str.split(_GOLD).list.join(pl.col("gold"))
