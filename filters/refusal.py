"""Drop texts in which the model declines, or only apologises, instead of answering."""

from functools import partial

import polars as pl
from polars.exceptions import ComputeError

from tracemill.filters.texts import first_reason, judge_texts

NEEDS = ("content",)

# Our choice, in our words.
BEGINNING = 200
SHORT = 300
_HELP = (
    r"(?:help|assist|comply|provide|fulfil|fulfill|engage|participate|discuss|respond|continue with|take part|give (?:you|advice)|"
    r"(?:answer|do|share|support|create|generate|write|carry out) (?:this|that|these|those|such|your|any))"
)
REFUSALS = (
    r"i(?:'m| am) (?:really |very |so |terribly )?(?:sorry|afraid),? (?:but )?(?:that )?i (?:can't|cannot|can not|won't|am unable|must)",
    rf"i(?:'m| am) (?:unable|not able|not allowed|not permitted|not in a position) to {_HELP}\b",
    rf"i (?:can't|cannot|can not|won't|will not|would rather not|am not going to) (?:in good conscience )?{_HELP}\b",
    r"i (?:must|have to|need to|respectfully|will have to)(?: respectfully| politely)? (?:decline|refuse)\b",
    r"(?:as|being|i'm|i am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b",
    r"(?:this|that|it|your request) (?:goes|is|would be) against (?:my|our|the) (?:guidelines|policy|policies|rules|principles)\b",
    r"(?:this|that|your) (?:request|question|topic) (?:is|seems) (?:inappropriate|harmful|unethical|not something i)\b",
)
APOLOGIES = (
    r"(?:i(?:'m| am) (?:really |very |so |terribly )?)?sorry\b",
    r"(?:my|our) apologies\b",
    r"(?:i|we) apologi[sz]e\b",
)
_CLAUSE = r"(?:^|[.!?,;:] )(?:(?:but|and|however|unfortunately|well|no|thus|so|also),? )*"


def refusal(*, column: str = "content", also: tuple[str, ...] = ()) -> pl.Expr:
    """Keep a text that does not decline: English phrases by which assistants turn a request down, in any case.

    `refusal`: one of them begins a clause within the first 200 characters, where a chain that later writes `I cannot
    divide by x` has long begun. `apology`: the text begins with one and has no more than 300 characters, so that nothing but it is there; a
    chain that apologises for a slip and goes on is kept. `also` adds regular expressions to the first kind, matched
    anywhere in the first 200 characters, of small letters with single blanks and straight quotes. What a model cannot know (`there is not
    enough information`) is an answer, and no refusal. An empty text declines nothing.
    """
    for pattern in also:
        try:
            pl.Series([""]).str.contains(pattern)
        except ComputeError as error:
            raise ValueError(f"also: {pattern!r} is not a regular expression: {str(error).splitlines()[0]}") from None
        if not pattern:
            raise ValueError("also: an empty pattern would turn every row down")
    return judge_texts("refusal", column, partial(_measure, also=also))


def _measure(texts: pl.DataFrame, *, also: tuple[str, ...]) -> pl.DataFrame:
    text = pl.col("text")
    plain = text.str.strip_chars().str.head(SHORT + 1)
    head = plain.str.to_lowercase().str.replace_all("[\u2018\u2019\u02bc]", "'").str.replace_all(r"[*_#>\s]+", " ")
    declines = "|".join([rf"{_CLAUSE}({'|'.join(REFUSALS)})", *(f"({pattern})" for pattern in also)])
    return texts.select(head=head.str.strip_chars().str.head(BEGINNING), short=plain.str.len_chars() <= SHORT).select(
        reason=first_reason(
            ("refusal", pl.col("head").str.contains(declines)),
            ("apology", pl.col("short") & pl.col("head").str.contains(rf"^(?:{'|'.join(APOLOGIES)})")),
        ),
        match=pl.coalesce(
            pl.col("head").str.extract(declines, 0), pl.col("head").str.extract(rf"^(?:{'|'.join(APOLOGIES)})", 0)
        ),
        beginning=pl.col("head"),
    )
