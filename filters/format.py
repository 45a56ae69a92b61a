r"""Keep texts whose form a trainer or a verifier can rely on: boxed answers, think tags, and an answer after them."""

from functools import partial
from typing import Literal

import polars as pl

from tracemill.filters.bounds import check_bounds
from tracemill.filters.texts import SHOWN_CHARACTERS, first_reason, judge_texts

NEEDS = ("messages",)

_DEEPEST = 8
r"""Braces within braces that a box may hold: `\boxed{\frac{1}{\sqrt{2}}}` has two."""


def _braces(deep: int) -> str:
    inside = rf"|{_braces(deep - 1)}" if deep else ""
    return rf"\{{(?:[^{{}}\\]|\\.{inside})*\}}"


_BOX = rf"(?s)\\(?:boxed|fbox)(?:\s*{_braces(_DEEPEST)}|\s+[0-9A-Za-z]\b|[0-9]\b)"
_EMPTY_BOX = r"\\(?:boxed|fbox)\s*\{\s*\}"
_OPEN, _CLOSE = "o", "c"


def format(  # noqa: A001 - the name in a recipe
    *,
    column: str | None = None,
    boxes_at_least: int = 1,
    boxes_at_most: int | None = None,
    think: Literal["optional", "required", "none"] = "optional",
    tags: tuple[str, str] = ("<think>", "</think>"),
    opened: bool = True,
) -> pl.Expr:
    r"""Keep a text whose think tags are in order, with an answer after the last of them and so many boxes in it.

    Tags are in order where every opening one is followed by its closing one before the next opens; with `opened` the first closing
    tag may come without its opening one, which many chat templates write themselves. Else `tags_out_of_order`, or
    `thought_not_closed` where the last one stays open. `no_answer_after_thought`: nothing but white space follows. `think` says
    whether there has to be a thought (`no_thought`) or may be none (`thought`). Boxes are `\boxed` and `\fbox` with something in them and
    braces in balance, up to eight deep, after the last closing tag; drafts in thoughts do not count: `no_box` or
    `few_boxes`, `many_boxes`; `boxes_at_least = 0` asks for none. Without `column`: the trace as it was written, tags included;
    `content` and `reasoning` have lost theirs. An empty text has no thought, no box, and no fault where neither is asked for.
    """
    check_bounds(boxes_at_least, boxes_at_most)
    opening, closing = tags
    if not opening or not closing or opening == closing:
        raise ValueError(f"tags = {list(tags)}: an opening and a closing tag, two different texts")
    measure = partial(_measure, boxes=(boxes_at_least, boxes_at_most), think=think, tags=tags, opened=opened)
    return judge_texts("format", column, measure)


def _measure(
    texts: pl.DataFrame, *, boxes: tuple[int, int | None], think: str, tags: tuple[str, str], opened: bool
) -> pl.DataFrame:
    opening, closing = (pl.escape_regex(tag) for tag in tags)
    text = pl.col("text")
    answer = text.str.split(tags[1]).list.last()
    mark = pl.when(pl.element() == tags[0]).then(pl.lit(_OPEN)).otherwise(pl.lit(_CLOSE))
    marks = text.str.extract_all(f"{opening}|{closing}").list.eval(mark).list.join("")
    measured = texts.select(text, answer=answer, marks=marks).with_columns(
        boxes=(pl.col("answer").str.count_matches(_BOX) - pl.col("answer").str.count_matches(_EMPTY_BOX)).cast(pl.Int64)
    )
    seen, found = pl.col("marks"), pl.col("boxes")
    least, most = boxes
    thought = seen != ""
    first = f"{_CLOSE}?" if opened else ""
    down = first_reason(
        ("thought", thought if think == "none" else pl.lit(value=False)),
        ("no_thought", ~thought if think == "required" else pl.lit(value=False)),
        ("thought_not_closed", seen.str.contains(f"^{first}(?:{_OPEN}{_CLOSE})*{_OPEN}$")),
        ("tags_out_of_order", ~seen.str.contains(f"^{first}(?:{_OPEN}{_CLOSE})*$")),
        ("no_answer_after_thought", thought & (pl.col("answer").str.strip_chars() == "")),
        ("no_box", (found == 0) & (least > 0)),
        ("few_boxes", found < least),
        ("many_boxes", found > most if most is not None else pl.lit(value=False)),
    )
    return measured.select(
        down.alias("reason"),
        boxes="boxes",
        opening_tags=seen.str.count_matches(_OPEN),
        closing_tags=seen.str.count_matches(_CLOSE),
        end=text.str.tail(SHOWN_CHARACTERS),
    )
