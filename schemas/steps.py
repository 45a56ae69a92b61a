r"""The steps of a chain: what stands between blank lines, with blocks of code and mathematics in one piece; and its segments.

"First.\n\n\\[\na\n\nb\n\\]\n\nThen."   ->   ["First.", "\\[\na\n\nb\n\\]", "Then."]
"""

import re
from collections.abc import Sequence
from functools import cache

_MARK = re.compile(
    r"(?P<gap>\n(?:[ \t\r]*\n)+)"
    r"|^[ \t]*(?P<fence>```|~~~)"
    r"|(?<!\\)(?P<display>\$\$|\\\[)"  # not the line break \\[2pt]
    r"|\\begin\{(?P<environment>[^{}\n]*)\}",
    re.MULTILINE,
)


def split_steps(text: str) -> list[str]:
    r"""The steps of `text` in order, stripped, none of them empty.

    A blank line inside a fenced block of code, `$$ $$`, `\[ \]` or an environment of LaTeX splits nothing. A block that is
    never closed is none: its blank lines split like any others. Of environments of one name inside each other the
    first end closes.
    """
    gaps = _marks(text)[0]
    starts, ends = [0, *(end for _, end in gaps)], [*(start for start, _ in gaps), len(text)]
    return [step for start, end in zip(starts, ends, strict=True) if (step := text[start:end].strip())]


def segment(text: str, *, cues: Sequence[str] = (), paragraphs: bool = False) -> list[tuple[str, str]]:
    r"""`text` in segments, each with its label: the cue that it begins with, in lower case, or "" where it begins with none.

    A segment begins where a sentence begins with one of `cues`, and with `paragraphs` at each step of `split_steps`, too; never inside a
    block. Blank lines belong to the segment before them, a space to the one behind it. The texts, joined, are `text` again;
    white space alone is no segment, and a text without a start is one.

    "A is 24.\n\nWait, 8 * 3 = 24. So A is 24."   ->   [("A is 24.\n\n", ""), ("Wait, 8 * 3 = 24.", "wait"), (" So A is 24.", "so")]
    """
    gaps, blocks, _ = _marks(text)
    starts = {end: "" for _, end in gaps} if paragraphs else {}
    for match in _pattern(tuple(cues)).finditer(text) if cues else ():
        at = match.start("at")
        if not any(start < at < end for start, end in blocks):
            starts[at] = _canonical(match["cue"])
    first, last = len(text) - len(text.lstrip()), len(text.rstrip())
    begins = [at for at in sorted(starts) if first < at < last]
    labels = [starts_with(text, cues) or "", *(starts[at] for at in begins)]
    bounds = zip([0, *begins], [*begins, len(text)], labels, strict=True)
    return [(text[start:end], label) for start, end, label in bounds if text.strip()]


def starts_with(text: str, cues: Sequence[str]) -> str | None:
    """The cue that a text begins with, in lower case; None where it begins with none of them."""
    match = _pattern(tuple(cues)).match(text.lstrip()) if cues else None
    return _canonical(match["cue"]) if match else None


@cache
def _pattern(cues: tuple[str, ...]) -> re.Pattern[str]:
    """A cue at the start of a sentence: of the text, of a line, or behind a full stop."""
    words = "|".join(r"\s+".join(map(re.escape, cue.split())) for cue in sorted(cues, key=len, reverse=True))
    start = r"(?:\A|\n|[.!?][\"')\]]*(?=[ \t]))(?P<at>)[ \t]*[\"'(*_]*"
    return re.compile(rf"{start}(?P<cue>{words})(?!\w)", re.IGNORECASE)


def _canonical(cue: str) -> str:
    return " ".join(cue.lower().split())


def inside_block(text: str) -> bool:
    """Whether a block was opened and is not closed yet, so that a blank line at the end of a text that goes on parts no steps."""
    return bool(_marks(text)[2])


def _marks(text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]], set[str]]:
    """Where blank lines outside of blocks are, where blocks are, and what would close blocks that are not closed."""
    gaps, blocks = [], []
    here = 0
    never_closed: set[str] = set()  # looked for once and for all: a text of openings alone stays cheap
    while mark := _MARK.search(text, here):
        here = mark.end()
        if mark["gap"]:
            gaps.append(mark.span())
            continue
        closing = _closing(mark)
        end = -1 if closing in never_closed else text.find(closing, here)
        if end >= 0:
            here = end + len(closing)
            blocks.append((mark.start(), here))
        else:
            never_closed.add(closing)
    return gaps, blocks, never_closed


def _closing(mark: re.Match[str]) -> str:
    if mark["environment"] is not None:
        return f"\\end{{{mark['environment']}}}"
    opening: str = mark["fence"] or mark["display"]
    return r"\]" if opening == r"\[" else opening
