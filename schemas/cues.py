"""Reflection cues: words by which a chain turns round on itself. One definition for every filter, score and selector.

    cue_count(pl.col("content"))                    how many of them a text has
    cue_counts(pl.col("content"))                   the same by cue: struct(wait, alternatively, ...)
    starts_with("Hmm, once more", CUES)             which one a step begins with (schemas/steps.py, which also splits a text at them)

Counts are expressions, so that whoever counts counts alike: regular expressions of Python and of polars part ways over word ends.
"""

from collections.abc import Sequence
from typing import Literal

import polars as pl

# ARLCP, in its code: case does not matter, whole words.
CUES = (
    "wait",
    "alternatively",
    "hold on",
    "another thought",
    "verify",
    "think again",
    "but",
    "however",
    "alternative",
    "check",
    "double-check",
    "oh",
    "hmm",
)

# Our choice: without the cues that prose has anyway.
STRICT = ("wait", "alternatively", "hold on", "another thought", "think again", "double-check", "oh", "hmm")

# Our default: what else a new turn of thought begins with; it is no reflection, and no filter counts it.
TURNS = ("let me", "so", "therefore", "suppose", "another way")

CueList = Literal["all", "strict"]
_CODE = r"(?s)```.*?```"


def cues_of(which: CueList) -> Sequence[str]:
    """The published list, or the strict one."""
    return STRICT if which == "strict" else CUES


def cue_count(text: pl.Expr, which: CueList = "all") -> pl.Expr:
    """How many cues a text has; code between fences is left out, and `double-check` is one."""
    return _prose(text).str.count_matches(_pattern(which))


def cue_counts(text: pl.Expr, which: CueList = "all") -> pl.Expr:
    """How often a text has each of the cues; their sum is `cue_count`."""
    found = _prose(text).str.extract_all(_pattern(which))
    said = found.list.eval(pl.element().str.to_lowercase().str.replace_all(r"\s+", " "))
    return pl.struct([said.list.count_matches(cue).alias(cue) for cue in cues_of(which)])


def _prose(text: pl.Expr) -> pl.Expr:
    return text.str.replace_all(_CODE, " ")


def _pattern(which: CueList) -> str:
    words = "|".join(cues_of(which)).replace(" ", r"\s+")
    return rf"(?i)\b(?:{words})\b"
