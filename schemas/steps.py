r"""The steps of a chain: what stands between blank lines, with blocks of code and mathematics in one piece.

"First.\n\n\\[\na\n\nb\n\\]\n\nThen."   ->   ["First.", "\\[\na\n\nb\n\\]", "Then."]
"""

import re

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
    steps = []
    start = here = 0
    never_closed: set[str] = set()  # looked for once and for all: a text of openings alone stays cheap
    while mark := _MARK.search(text, here):
        here = mark.end()
        if mark["gap"]:
            steps.append(text[start : mark.start()])
            start = here
            continue
        closing = _closing(mark)
        end = -1 if closing in never_closed else text.find(closing, here)
        if end >= 0:
            here = end + len(closing)
        else:
            never_closed.add(closing)
    steps.append(text[start:])
    return [stripped for step in steps if (stripped := step.strip())]


def _closing(mark: re.Match[str]) -> str:
    if mark["environment"] is not None:
        return f"\\end{{{mark['environment']}}}"
    opening: str = mark["fence"] or mark["display"]
    return r"\]" if opening == r"\[" else opening
