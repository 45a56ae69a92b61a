"""A net in PNML, the interchange format of Petri-net tools (ISO/IEC 15909-2), as a place/transition net.

In the nets of this package firing takes nothing away, and each transition fires once. Tools play the ordinary game, in which
firing consumes what it reads. So that both make the same moves, a transition here has an arc from every place that it reads and
another back to it, and reads one place more, its own, that holds a single token and gets none back:

    place e0 "FH" (1) ──▶ transition t1 "FH, CM -> LS" ──▶ place e2 "LS"
                      ◀──          ▲
                     place w1 "step 1 waits" (1)

A transition is then enabled while it has not fired and all that it reads is marked, and a frontier fires in any order.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree as ET  # it only writes here

from tracemill.synth.petri_trace.drawing import legible
from tracemill.synth.petri_trace.layout import steps_of
from tracemill.synth.petri_trace.net import Net

NAMESPACE = "http://www.pnml.org/version-2009/grammar/pnml"
TYPE = "http://www.pnml.org/version-2009/grammar/ptnet"

_LONGEST = 10_000
_COLUMN, _ROW = 200, 60


def pnml(row: Mapping[str, Any]) -> str:
    """The net of a row as a PNML document."""
    return of_net(Net.of_steps(steps_of(row)), name=str(row.get("id", "net")))


def of_net(net: Net, *, name: str = "net") -> str:
    """A net as a PNML document: one net with one page, and positions by frontier so that tools need not place the nodes."""
    root = ET.Element("pnml", {"xmlns": NAMESPACE})
    tree = ET.SubElement(root, "net", {"id": "net", "type": TYPE})
    _name(tree, name)
    page = ET.SubElement(tree, "page", {"id": "page"})
    entities = {place: f"e{number}" for number, place in enumerate(net.places)}
    where = _columns(net)
    heights: dict[int, int] = {}
    for place, identifier in entities.items():
        node = ET.SubElement(page, "place", {"id": identifier})
        _node(node, place, _next(heights, where[place]))
        if place in net.initial:
            _marked(node)
    for transition in net.transitions:
        column = where[transition.n]
        node = ET.SubElement(page, "place", {"id": f"w{transition.n}"})
        _node(node, f"step {transition.n} waits", _next(heights, column))
        _marked(node)
        node = ET.SubElement(page, "transition", {"id": f"t{transition.n}"})
        _node(node, f"{', '.join(transition.inputs)} -> {transition.output}", _next(heights, column))
    for number, (source, target) in enumerate(_arcs(net, entities)):
        ET.SubElement(page, "arc", {"id": f"a{number}", "source": source, "target": target})
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _arcs(net: Net, entities: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for transition in net.transitions:
        own = f"t{transition.n}"
        yield f"w{transition.n}", own
        for place in dict.fromkeys(transition.inputs):
            yield entities[place], own
            yield own, entities[place]
        yield own, entities[transition.output]


def _columns(net: Net) -> dict[str | int, int]:
    """The column of each place and transition: a transition stands behind what it reads; one that never fires stands first."""
    frontier = {n: number for number, fired in enumerate(net.frontiers()) for n in fired}
    columns: dict[str | int, int] = dict.fromkeys(net.places, 0)
    for transition in net.transitions:
        columns[transition.n] = 2 * frontier.get(transition.n, 0) + 1
        columns[transition.output] = max(columns[transition.output], columns[transition.n] + 1)
    return columns


def _next(heights: dict[int, int], column: int) -> tuple[int, int]:
    heights[column] = heights.get(column, 0) + 1
    return column * _COLUMN, heights[column] * _ROW


def _node(node: ET.Element, name: str, at: tuple[int, int]) -> None:
    _name(node, name)
    graphics = ET.SubElement(node, "graphics")
    ET.SubElement(graphics, "position", {"x": str(at[0]), "y": str(at[1])})


def _name(element: ET.Element, name: str) -> None:
    ET.SubElement(ET.SubElement(element, "name"), "text").text = legible(name, _LONGEST)


def _marked(place: ET.Element) -> None:
    ET.SubElement(ET.SubElement(place, "initialMarking"), "text").text = "1"
