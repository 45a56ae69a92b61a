"""Charts to SVG by matplotlib: equal charts are equal bytes, whatever the clock and the machine, in the colours of whoever looks.

matplotlib draws in sentinels, colours that nobody would choose; what comes out names CSS variables in their place. So a page can be
light or dark, and a file of its own brings both. Words stay words. Ids that nothing refers to are taken out, the others bear the chart's
name, so that many pictures can stand in one page.
"""

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import Any
from xml.etree import ElementTree as ET

from tracemill.pipelines.report.charts import Bars, Boxes, Chart, Cloud, Points, Shares
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.printable import printable

SIZE = (4.7, 2.9)
"""Inches: narrow enough for its words to be read on a phone."""
COLOURS = ("s1", "s2", "s3", "s4", "s5", "s6", "s7")
"""Okabe and Ito's palette, which people see apart whose eyes lack a colour; style.css says what they are."""
INK, MUTED, RULE, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
SENTINELS = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    **{f"#1a00{n:02x}": name for n, name in enumerate(COLOURS)},
}
S = tuple(SENTINELS)[4:]
HATCHES = ("", "//", "--", "\\\\", "xx", "++", "||")
"""What tells series apart without colour."""
MARKERS = "osD^vPX"
LABEL = 18
"""Characters of a word on an axis."""
NEEDS = "pictures need matplotlib; install it with: pip install 'tracemill[report]'"

_LOCK = threading.Lock()
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a label is a dollar
    "text.usetex": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "path.simplify": False,
    "hatch.linewidth": 0.8,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
}
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
DARK = {"ink": "#e8e8e8", "muted": "#a8a8a8", "rule": "#4a4a4a", "paper": "#16181b", "s1": "#4da9e8", "s2": "#f0a830", "s3": "#2fc79a", "s4": "#ff8748", "s5": "#e29bc4", "s6": "#9ad8ff", "s7": "#9a9a9a"}  # fmt: skip
LIGHT = {"ink": "#1a1a1a", "muted": "#595959", "rule": "#c9c9c9", "paper": "#ffffff", "s1": "#0072b2", "s2": "#e69f00", "s3": "#009e73", "s4": "#d55e00", "s5": "#b8588f", "s6": "#56b4e9", "s7": "#8a8a8a"}  # fmt: skip
"""By name, the colours on a light ground."""


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


@lru_cache(maxsize=256)
def svg(chart: Chart, *, key: str = "") -> str:
    """The picture as an `svg` element in CSS variables, with title and description. `key` tells the pictures of one page apart.

    RecipeError where matplotlib is not installed.
    """
    if not can_draw():
        raise RecipeError(NEEDS)
    name = f"{key}{chart.name}"
    with _LOCK, _canvas(name) as (figure, axes):
        _DRAWN[type(chart)](axes, chart)
        raw = io.BytesIO()
        figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return _cleaned(raw.getvalue(), name, chart)


def standing_alone(chart: Chart) -> str:
    """The picture as a file: its own colours on its own ground, light or dark as the reader's screen is."""
    light, dark = (" ".join(f"--{name}: {value};" for name, value in colours.items()) for colours in (LIGHT, DARK))
    style = f"<style>:root {{ {light} }} @media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}</style>"
    head, end, rest = svg(chart).partition(">")
    return f'{head} xmlns="{_SVG}"{end}{style}<rect width="100%" height="100%" style="fill: var(--paper)"/>{rest}\n'


@contextmanager
def _canvas(salt: str) -> Iterator[tuple[Any, Any]]:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font at hand lacks: the reader's has them
        figure = Figure(figsize=SIZE)
        FigureCanvasSVG(figure)
        yield figure, figure.add_axes((0.15, 0.19, 0.8, 0.68))


# ---- the kinds of charts


def _bars(axes: Any, chart: Bars) -> None:
    places = range(len(chart.labels))
    wide = 0.92 if chart.edges else 0.78
    base = [0.0] * len(chart.labels)
    colours = [S[0], S[1], S[6], S[2], S[3], S[4], S[5]]
    for (name, values), colour, hatch in zip(chart.series, colours, HATCHES, strict=False):
        how = {"color": colour, "edgecolor": PAPER, "linewidth": 0.4, "hatch": hatch, "label": _word(name)}
        if chart.across:
            axes.barh(places, values, wide, left=base, **how)
        else:
            axes.bar(places, values, wide, bottom=base, **how)
        base = [low + value for low, value in zip(base, values, strict=True)]
    _count_axis(axes, chart)
    if chart.edges:
        step = max(1, -(-len(chart.edges) // 6))
        axes.set_xticks([place - 0.5 for place in range(0, len(chart.edges), step)], chart.edges[::step])
    elif chart.across:
        axes.set_yticks(places, [_word(label) for label in chart.labels])
        axes.set_ylim(*_slots(len(places))[::-1])
        _make_room(axes, chart.labels)
    else:
        axes.set_xlim(*_slots(len(places)))
        _name_places(axes, chart.labels)
    _legend(axes, [name for name, _ in chart.series])


def _slots(count: int) -> tuple[float, float]:
    """The ends of an axis of labels: a few bars do not fill it, or one bar would be a wall."""
    room = max(0, 4 - count) / 2
    return -0.5 - room, count - 0.5 + room


def _count_axis(axes: Any, chart: Bars) -> None:
    end = 1.06 * max(chart.top, chart.most, 1)
    if chart.across:
        axes.set_xlim(0, end)
        axes.set_xlabel(chart.y)
        axes.grid(axis="x")
        axes.xaxis.set_major_formatter(_short)
    else:
        axes.set_ylim(0, end)
        axes.set_xlabel(chart.x)
        axes.set_ylabel(chart.y)
        axes.grid(axis="y")
        axes.yaxis.set_major_formatter(_short)
    (axes.xaxis if chart.across else axes.yaxis).get_major_locator().set_params(integer=True, nbins=5)
    axes.set_axisbelow(True)


def _points(axes: Any, chart: Points) -> None:
    line = sorted((point.x, 100 * point.y) for point in chart.points if point.marked)
    if len(line) > 1:
        axes.plot(
            *zip(*line, strict=True), color=S[1], linestyle="--", linewidth=1.6, zorder=1, label=_word(chart.mark, 40)
        )
    for place, point in enumerate(chart.points):
        colour = S[0] if point.marked or not chart.mark else S[6]
        axes.errorbar(
            point.x,
            100 * point.y,
            xerr=[[point.x - point.x_low], [point.x_high - point.x]],
            yerr=[[100 * (point.y - point.y_low)], [100 * (point.y_high - point.y)]],
            marker=MARKERS[place % len(MARKERS)],
            color=colour,
            markeredgecolor=PAPER,
            markersize=8,
            elinewidth=1.1,
            capsize=2.5,
        )
        beside = ((7, 6), (7, -14), (-7, 6), (-7, -14))[place % 4]
        axes.annotate(
            _word(point.label),
            (point.x, 100 * point.y),
            xytext=beside,
            textcoords="offset points",
            ha="left" if beside[0] > 0 else "right",
        )
    left, right = (
        own if given is None else given for given, own in zip((chart.left, chart.right), chart.ends, strict=True)
    )
    axes.set_xlim(left, right + 0.12 * (right - left))
    _percent(axes)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(f"{chart.y}, %")
    axes.xaxis.set_major_formatter(_short)
    axes.grid()
    _legend(axes, [chart.mark] if len(line) > 1 else [])


def _percent(axes: Any) -> None:
    axes.set_ylim(0, 105)
    axes.set_yticks(range(0, 101, 20))


def _shares(axes: Any, chart: Shares) -> None:
    places = range(len(chart.labels))
    means = [100 * mean for mean, _, _ in chart.shares]
    below = [100 * (mean - low) for mean, low, _ in chart.shares]
    above = [100 * (high - mean) for mean, _, high in chart.shares]
    axes.errorbar(
        places,
        means,
        yerr=[below, above],
        color=S[0],
        marker="o",
        markeredgecolor=PAPER,
        markersize=7,
        linestyle=":",
        capsize=3,
    )
    _percent(axes)
    _name_places(axes, chart.labels)
    axes.set_xlim(-0.5, len(chart.labels) - 0.5)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(f"{chart.y}, %")
    axes.grid(axis="y")


def _boxes(axes: Any, chart: Boxes) -> None:
    for place, (p5, p25, median, p75, p95) in enumerate(chart.boxes):
        axes.plot([place, place], [p5, p95], color=S[0], linewidth=1.4)
        axes.bar(place, p75 - p25, 0.5, bottom=p25, color=S[5], edgecolor=S[0], linewidth=1.2)
        axes.plot([place - 0.25, place + 0.25], [median, median], color=INK, linewidth=2)
    _name_places(axes, chart.labels)
    axes.set_xlim(-0.5, len(chart.labels) - 0.5)
    axes.set_ylim(0, 1.06 * max(chart.top, chart.most, 1))
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.yaxis.set_major_formatter(_short)
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _cloud(axes: Any, chart: Cloud) -> None:
    for place, (name, points) in enumerate(chart.groups):
        colour, size = (S[6], 7) if place == 0 else (S[(place - 1) % 6], 26)
        axes.scatter(
            *(zip(*points, strict=True) if points else ([], [])),
            s=size,
            marker=MARKERS[place % len(MARKERS)],
            color=colour,
            edgecolors=PAPER,
            linewidths=0.4,
            alpha=0.55 if place == 0 else 0.95,
            label=_word(name),
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    _legend(axes, [name for name, _ in chart.groups])


_DRAWN: dict[type, Any] = {Bars: _bars, Points: _points, Shares: _shares, Boxes: _boxes, Cloud: _cloud}


# ---- words on axes


def _name_places(axes: Any, labels: tuple[str, ...]) -> None:
    """Labels below the axis; every second, third, ... where they would touch, slanted where they are long."""
    words = [_word(label) for label in labels]
    room = 46 // max(1, len(words))
    longest = max(map(len, words), default=0)
    if longest <= room:
        axes.set_xticks(range(len(words)), words)
    elif longest <= 5:
        step = -(-len(words) * (longest + 1) // 46)
        axes.set_xticks(range(0, len(words), step), words[::step])
    else:
        step = -(-len(words) // 14)
        axes.set_xticks(range(0, len(words), step), words[::step], rotation=32, ha="right", rotation_mode="anchor")
        axes.set_position((0.15, 0.36, 0.82, 0.51))


def _make_room(axes: Any, labels: tuple[str, ...]) -> None:
    """For words to the left of bars."""
    wide = min(0.42, 0.03 + 0.0175 * max((len(_word(label)) for label in labels), default=0))
    axes.set_position((wide, 0.19, 0.96 - wide, 0.68))


def _legend(axes: Any, names: list[str]) -> None:
    if any(names):
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=min(4, len(names)),
            frameon=False,
            borderpad=0,
            handlelength=1.4,
            columnspacing=1.1,
            handletextpad=0.5,
            fontsize=9,
        )


def _word(text: str, most: int = LABEL) -> str:
    shown = printable(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _short(value: float, _: Any = None) -> str:
    """1200 as 1.2k, whole numbers as they are."""
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:g}{unit}"
    return f"{value:g}"


# ---- from what matplotlib writes to what a page takes


def _cleaned(raw: bytes, name: str, chart: Chart) -> str:
    ET.register_namespace("", _SVG)
    root = ET.fromstring(raw)  # noqa: S314
    for part in [*root.findall(f"{{{_SVG}}}metadata"), *root.findall(f"{{{_SVG}}}defs")]:
        if part.tag.endswith("metadata") or part.find(f"{{{_SVG}}}style") is not None:
            root.remove(part)
    used = set(re.findall(r"#([\w-]+)", raw.decode()))
    for element in root.iter():
        _tidy(element, used, name)
    width, height = (float(end) for end in root.attrib["viewBox"].split()[2:])
    for gone in ("width", "height", "version"):
        root.attrib.pop(gone, None)
    root.attrib |= {
        "class": "chart",
        "role": "img",
        "aria-labelledby": f"{name}-t {name}-d",
        "style": "stroke-linejoin: round",
        "viewBox": f"0 0 {width:g} {height:g}",
    }
    for place, (tag, text) in enumerate((("title", chart.title), ("desc", chart.said))):
        said = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag[0]}"})
        said.text = printable(text)
        root.insert(place, said)
    text = ET.tostring(root, encoding="unicode", short_empty_elements=True)
    text = re.sub(r"\s*\n\s*", " ", text).replace(f' xmlns="{_SVG}"', "", 1)
    return re.sub("|".join(SENTINELS), lambda found: f"var(--{SENTINELS[found[0]]})", text)


def _tidy(element: Any, used: set[str], name: str) -> None:
    """One element with fewer decimals, the page's font, and an id that is nobody else's."""
    attributes = element.attrib
    if (target := attributes.pop(_LINK, None)) is not None:
        attributes["href"] = f"#{name}-{target[1:]}"
    if (own := attributes.pop("id", None)) in used:
        attributes["id"] = f"{name}-{own}"
    for key in ("d", "x", "y", "transform", "points", "width", "height"):
        if key in attributes:
            attributes[key] = re.sub(
                r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), attributes[key]
            )
    for key in ("style", "clip-path"):
        if key in attributes:
            value = re.sub(r"url\(#", f"url(#{name}-", attributes[key])
            attributes[key] = value.replace("'DejaVu Sans'", "system-ui, sans-serif")


__all__ = ["DARK", "LIGHT", "NEEDS", "can_draw", "standing_alone", "svg"]
