"""What all drawings share: a canvas of SVG elements, colours that a page may change, and texts that fit.

Colours are CSS variables with what they are in the light as their fallback, written as attributes and not as styles: a page with a
strict Content-Security-Policy shows them too. Blue and orange are those of Okabe and Ito that the colour-blind tell apart, darkened until
text in them is legible; no drawing says anything by colour alone.
"""

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Any
from unicodedata import combining, east_asian_width
from xml.etree import ElementTree as ET  # it only writes here

from tracemill.schemas.printable import printable

LIGHT: Mapping[str, str] = {
    "ink": "#1f2328",
    "pale": "#5f6773",
    "line": "#c4c9d1",
    "paper": "#ffffff",
    "panel": "#f2f4f7",
    "good": "#0068a3",
    "bad": "#b84a00",
    "hot": "#b84a00",
}
DARK: Mapping[str, str] = {
    "ink": "#e6e9ee",
    "pale": "#9aa4b2",
    "line": "#47505e",
    "paper": "#14171c",
    "panel": "#222832",
    "good": "#6cb8f0",
    "bad": "#ffa566",
    "hot": "#ffa566",
}


def _variables(colours: Mapping[str, str]) -> str:
    return " ".join(f"--tm-{name}: {value};" for name, value in colours.items())


CSS = f""":root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
"""
"""For the style sheet of a page that holds drawings."""

LETTER = 6.6
"""Pixels of a letter at `SIZE`, on the wide side: the fonts of readers differ."""
SIZE = 12
SHOWN = 400
"""Letters of a text in a title, which a pointer or a screen reader brings up."""
_TAG = re.compile(r"<[^<>]*>")
_VARIABLE = re.compile(r'="var\(--tm-[a-z]+, (#[0-9a-f]{6})\)"')


def colour(name: str) -> str:
    """The value of an attribute such as `fill`: the page's colour of that name, else what it is in the light."""
    return f"var(--tm-{name}, {LIGHT[name]})"


def standalone(drawing: str) -> str:
    """The drawing as a file of its own: its colours are those of the light, for renderers that know no CSS variables."""
    return _TAG.sub(lambda tag: _VARIABLE.sub(r'="\1"', tag[0]), drawing) + "\n"


def letters(text: str) -> int:
    """How wide a text is: Chinese, Japanese and Korean characters count two, combining ones nothing."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)


def fitted(text: Any, most: int) -> str:
    """One line of at most `most` letters: white space joined, what is not printable as its escape, the end as `...`."""
    text = str(text)
    shown = printable(" ".join(text[: 4 * most].split()))
    if letters(shown) <= most and len(text) <= 4 * most:
        return shown
    ends = accumulate(map(letters, shown))
    return "".join(c for c, end in zip(shown, ends, strict=True) if end <= most - 3) + "..."


class Canvas:
    """An SVG image in the making: its title and description first, then what is drawn, later things on top."""

    def __init__(self, width: float, height: float, *, title: str, told: str) -> None:
        self.root = ET.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "viewBox": f"0 0 {_plain(width)} {_plain(height)}",
                "width": _plain(width),
                "height": _plain(height),
                "role": "img",
                "font-family": "system-ui, sans-serif",
                "font-size": str(SIZE),
            },
        )
        ET.SubElement(self.root, "title").text = title
        ET.SubElement(self.root, "desc").text = told
        self.rect(0, 0, width, height, fill=colour("paper"))

    def add(self, tag: str, parent: ET.Element | None = None, **attributes: Any) -> ET.Element:
        """An element; `stroke_width=2` is its attribute `stroke-width`, and None leaves one out."""
        named = {name.replace("_", "-"): _plain(value) for name, value in attributes.items() if value is not None}
        return ET.SubElement(self.root if parent is None else parent, tag, named)

    def group(self, told: str, **attributes: Any) -> ET.Element:
        """Things that belong together, and what is said of them."""
        group = self.add("g", **attributes)
        ET.SubElement(group, "title").text = told
        return group

    def rect(
        self, x: float, y: float, width: float, height: float, parent: ET.Element | None = None, **look: Any
    ) -> ET.Element:
        return self.add("rect", parent, x=x, y=y, width=width, height=height, **look)

    def path(self, d: str, parent: ET.Element | None = None, **look: Any) -> ET.Element:
        return self.add("path", parent, d=d, **{"fill": "none", **look})

    def text(self, x: float, y: float, text: str, parent: ET.Element | None = None, **look: Any) -> ET.Element:
        """A text whose base line is at y; it is to be `fitted` before."""
        element = self.add("text", parent, x=x, y=y, **{"fill": colour("ink"), **look})
        element.text = text
        return element

    def done(self) -> str:
        return ET.tostring(self.root, encoding="unicode")


def _plain(value: Any) -> str:
    """Numbers as short as they are exact to a tenth of a pixel, so that equal drawings are equal strings."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
