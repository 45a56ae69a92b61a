"""Where the nodes of a layered graph go whose columns are given: the order within columns, and how high each node stands.

    columns [[a, b], [c, d]], links [(a, d), (b, c)]   ──▶   order [[a, b], [d, c]], heights {a: 0, d: 0, b: 1, c: 1}

Two steps of the usual four (Sugiyama, Tagawa and Toda 1981): sweeps that sort each column by the mean place of its neighbours and exchange
those that cross, of which the order with the fewest crossings stays (Gansner et al. 1993), and then heights, each column as near to its neighbours as its
order and its distances let it be. The other two, which libraries for such drawings are for, would undo what is wanted here: they choose the columns
themselves, and here a column is a frontier.
"""

from bisect import bisect_right, insort
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

Node = TypeVar("Node", bound=Hashable)

SWEEPS = 12


def ordered(columns: Sequence[Sequence[Node]], links: Iterable[tuple[Node, Node]]) -> list[list[Node]]:
    """The columns with their nodes in another order: as few links cross as the sweeps found, never more than as given.

    Links between neighbouring columns count, in either direction; others are passed over.
    """
    before, after = _neighbours(columns, links)
    best = now = [list(column) for column in columns]
    fewest = crossings(best, after)
    for sweep in range(SWEEPS):
        if fewest == 0:
            break
        forth = sweep % 2 == 0
        now = _exchanged(_swept(now, before if forth else after, forth=forth, flip=sweep % 4 > 1), before, after)
        if (count := crossings(now, after)) < fewest:
            best, fewest = now, count
    return [list(column) for column in best]


def crossings(columns: Sequence[Sequence[Node]], after: Mapping[Node, Sequence[Node]]) -> int:
    """How many pairs of links cross, where `after` has by node those of the next column that it is linked to."""
    count = 0
    for here, there in pairwise(columns):
        place = {node: at for at, node in enumerate(there)}
        seen: list[int] = []
        for node in here:
            ends = sorted(place[end] for end in after.get(node, ()))
            count += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return count


def heights(
    columns: Sequence[Sequence[Node]], links: Iterable[tuple[Node, Node]], room: Mapping[Node, float]
) -> dict[Node, float]:
    """By node the height of its middle, from 0. Two of one column are apart by half of the room of each, or more."""
    before, after = _neighbours(columns, links)
    found: dict[Node, float] = {}
    for column in columns:
        found |= _settled(column, dict.fromkeys(column, 0.0), room)
    for sweep in range(SWEEPS):
        near = before if sweep % 2 == 0 else after
        for column in columns if sweep % 2 == 0 else reversed(columns):
            wanted = {
                node: sum(found[other] for other in near[node]) / len(near[node]) if near[node] else found[node]
                for node in column
            }
            found |= _settled(column, wanted, room)
    top = min((height - room[node] / 2 for node, height in found.items()), default=0.0)
    return {node: height - top for node, height in found.items()}


def _neighbours(
    columns: Sequence[Sequence[Node]], links: Iterable[tuple[Node, Node]]
) -> tuple[dict[Node, list[Node]], dict[Node, list[Node]]]:
    """By node those of the column before it and of the column after it that it is linked to."""
    column_of = {node: at for at, column in enumerate(columns) for node in column}
    before: dict[Node, list[Node]] = {node: [] for node in column_of}
    after: dict[Node, list[Node]] = {node: [] for node in column_of}
    for one, other in dict.fromkeys(links):
        left, right = (one, other) if column_of[one] <= column_of[other] else (other, one)
        if column_of[right] - column_of[left] == 1:
            before[right].append(left)
            after[left].append(right)
    return before, after


def _swept(
    columns: Sequence[Sequence[Node]], near: Mapping[Node, Sequence[Node]], *, forth: bool, flip: bool
) -> list[list[Node]]:
    """Every column but the first sorted by the mean place of its neighbours in the one before; those without stay.

    Equals keep their order, or with `flip` change it: otherwise the sweeps come to a stop at the first order that has none to sort.
    """
    done: list[list[Node]] = []
    place: dict[Node, int] = {}
    for column in columns if forth else reversed(columns):
        own = {node: at for at, node in enumerate(column)}
        wants = {
            node: sum(place[other] for other in near[node]) / len(near[node]) if near[node] else own[node]
            for node in column
        }
        done.append(
            sorted(column, key=lambda node: (wants[node], -own[node] if flip else own[node])) if done else list(column)
        )
        place = {node: at for at, node in enumerate(done[-1])}
    return done if forth else done[::-1]


def _exchanged(
    columns: list[list[Node]], before: Mapping[Node, Sequence[Node]], after: Mapping[Node, Sequence[Node]]
) -> list[list[Node]]:
    """Columns in which no two neighbours would cross less the other way round, as far as two passes find them."""
    for number in [*range(len(columns)), *reversed(range(len(columns)))]:
        column = columns[number]
        sides = [
            ({node: at for at, node in enumerate(columns[other])}, near)
            for other, near in ((number - 1, before), (number + 1, after))
            if 0 <= other < len(columns)
        ]
        for at in range(len(column) - 1):
            one, two = column[at], column[at + 1]
            gain = sum(
                (place[a] > place[b]) - (place[a] < place[b])
                for place, near in sides
                for a in near[one]
                for b in near[two]
            )
            if gain > 0:
                column[at], column[at + 1] = two, one
    return columns


def _settled(column: Sequence[Node], wanted: Mapping[Node, float], room: Mapping[Node, float]) -> dict[Node, float]:
    """Heights in the column's order, with its distances, and the least sum of squares from what is wanted.

    Nodes that come too near are joined to blocks that stand where the mean of their wishes is (pool adjacent violators).
    """
    offsets: list[float] = []
    for at, node in enumerate(column):
        offsets.append(offsets[-1] + (room[column[at - 1]] + room[node]) / 2 if at else 0.0)
    blocks: list[tuple[float, int]] = []
    for at, node in enumerate(column):
        total, size = wanted[node] - offsets[at], 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / size:
            more, others = blocks.pop()
            total, size = total + more, size + others
        blocks.append((total, size))
    bases = [total / size for total, size in blocks for _ in range(size)]
    return {node: base + offset for node, base, offset in zip(column, bases, offsets, strict=True)}
