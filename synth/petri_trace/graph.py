"""A knowledge graph from an edge table, and all shortest paths in it.

    head,relation,tail,head_type,tail_type
    MLH1,repairs,mismatched DNA,gene,process           a node is (type, name): one name under two types is two nodes
    Lynch syndrome,caused by,MLH1,disease,gene         an edge keeps its relations, and which way each of them points

Paths go along edges in both directions. Between two nodes there can be more shortest paths than fit into memory, so they are
counted before they are listed: few are listed by rustworkx, of many a fixed sample is taken by number.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tracemill.schemas.recipe import suggest

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "head": ("head", "x_name"),
    "relation": ("relation", "display_relation"),
    "tail": ("tail", "y_name"),
    "head_type": ("head_type", "x_type"),
    "tail_type": ("tail_type", "y_type"),
}
"""What a table must have, and the names that PrimeKG gives it."""
SUFFIXES = (".csv", ".tsv", ".parquet")

Node = int
Way = tuple[Node, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes are numbers in the order in which the table first names them; edges are there once, whichever way they were given."""

    names: Sequence[str]
    types: Sequence[str]
    first: np.ndarray
    """Where the neighbours of a node begin in `beside`; one more entry than nodes."""
    beside: np.ndarray
    edge: np.ndarray
    """The edge to each neighbour, a row of `relations`."""
    relations: pl.Series
    """By edge a list of (relation, whether it points from the lower node to the higher)."""
    by_name: Mapping[tuple[str, str], Node]
    """By type and name, both in lower case, the first such node."""
    self_loops: int
    """Edges of the table from a node to itself: on no shortest path, and left out."""

    @property
    def n_edges(self) -> int:
        return len(self.relations)

    def kinds(self) -> list[str]:
        """The types of nodes, sorted."""
        return sorted(set(self.types))

    def named(self, name: str, kind: str | None) -> Node | None:
        """The node of this name, upper and lower case being one; of the type, or of any where it is None."""
        kinds = self.kinds() if kind is None else [kind]
        found = [self.by_name.get((folded(each), folded(name))) for each in kinds]
        return min((node for node in found if node is not None), default=None)

    def of_kind(self, kind: str | None) -> list[Node]:
        """All nodes of a type, whatever its case; all nodes for None."""
        return [n for n, own in enumerate(self.types) if kind is None or folded(own) == folded(kind)]

    def degree(self, node: Node) -> int:
        return int(self.first[node + 1] - self.first[node])

    def between(self, one: Node, other: Node) -> list[str]:
        """What the edge from one node to its neighbour says; `inverse of` where the table has it the other way round."""
        start, end = self.first[one], self.first[one + 1]
        [place] = np.flatnonzero(self.beside[start:end] == other)
        said = self.relations[int(self.edge[start + place])].to_list()
        return [r["relation"] if r["up"] == (one < other) else f"inverse of {r['relation']}" for r in said]

    def shortest_paths(self, source: Node, target: Node, *, most: int, salt: str = "") -> tuple[list[Way], int]:
        """All shortest paths, sorted; or, of more than `most`, that many by the hash of `salt`. And how many there are.

        No path, and none of one node: where both ends are one, there is nothing to go through.
        """
        before = self._before(source, target) if source != target else {}
        if not before:
            return [], 0
        ways = _counted(before, source, target)
        if ways[target] <= most:
            return sorted(_listed(before, source, target)), ways[target]
        numbers = _drawn(ways[target], most, f"{salt}|{self.names[source]}|{self.names[target]}")
        return sorted(_numbered(before, ways, source, target, number) for number in numbers), ways[target]

    def _before(self, source: Node, target: Node) -> dict[Node, list[Node]]:
        """By node on a shortest path, target first, those that can come before it; empty where no path leads there."""
        distance = np.full(len(self.names), -1, dtype=np.int32)
        distance[source] = 0
        layer, steps = np.array([source]), 0
        while len(layer) and distance[target] < 0:
            steps += 1
            _, near = self._beside(layer)
            distance[near[distance[near] < 0]] = steps
            layer = np.flatnonzero(distance == steps)
        before: dict[Node, list[Node]] = {}
        layer = np.array([target]) if distance[target] > 0 else layer[:0]
        for steps in range(int(distance[target]) - 1, -1, -1):
            of, near = self._beside(layer)
            right = distance[near] == steps
            for node, earlier in zip(of[right].tolist(), near[right].tolist(), strict=True):
                before.setdefault(node, []).append(earlier)
            layer = np.unique(near[right])
        return before

    def _beside(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The neighbours of all of these nodes, and beside each the node whose neighbour it is."""
        starts, counts = self.first[nodes], self.first[nodes + 1] - self.first[nodes]
        ends = np.cumsum(counts)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
        return np.repeat(nodes, counts), self.beside[places]


def folded(text: str) -> str:
    """The form in which names are compared."""
    return " ".join(text.split()).casefold()


# ---- paths


def _counted(before: dict[Node, list[Node]], source: Node, target: Node) -> dict[Node, int]:
    """How many shortest paths lead from the source to each node on one."""
    ways = {source: 1}
    for node in reversed(before):  # a node stands behind all of those that come after it
        ways[node] = sum(ways[earlier] for earlier in before[node])
    return {**ways, target: ways[target]}


def _listed(before: Mapping[Node, Sequence[Node]], source: Node, target: Node) -> list[Way]:
    rustworkx = _rustworkx()
    number = {node: place for place, node in enumerate((source, *before))}
    nodes = list(number)
    narrowed = rustworkx.PyDiGraph()
    narrowed.add_nodes_from(nodes)
    narrowed.add_edges_from_no_data([(number[e], number[node]) for node, es in before.items() for e in es])
    paths = rustworkx.digraph_all_shortest_paths(narrowed, number[source], number[target])
    return [tuple(nodes[place] for place in path) for path in paths]


def _drawn(total: int, most: int, salt: str) -> list[int]:
    """`most` different numbers below `total`, the same for the same salt."""
    numbers: dict[int, None] = {}
    draws = 0
    while len(numbers) < most:
        digest = hashlib.sha256(f"{salt}|{draws}".encode()).digest()
        numbers[int.from_bytes(digest, "big") % total] = None
        draws += 1
    return list(numbers)


def _numbered(
    before: Mapping[Node, Sequence[Node]], ways: Mapping[Node, int], source: Node, target: Node, number: int
) -> Way:
    """The path of this number, paths being numbered by the nodes that come before each, in their order."""
    path = [target]
    while path[-1] != source:
        for earlier in before[path[-1]]:
            if number < ways[earlier]:
                path.append(earlier)
                break
            number -= ways[earlier]
    return tuple(reversed(path))


def _rustworkx() -> Any:
    try:
        import rustworkx
    except ModuleNotFoundError:
        raise ValueError("graph: needs the rustworkx package: pip install 'tracemill[graph]'") from None
    return rustworkx


# ---- reading


def read_graph(path: str | Path) -> Graph:
    """The graph of a CSV, TSV or Parquet file; ValueError says what is wrong with it. Kept for the next who asks, two at most."""
    _rustworkx()
    file = Path(path)
    if file.suffix not in SUFFIXES:
        raise ValueError(f"graph = {str(path)!r}: an edge table is a file that ends in {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise ValueError(
            f"graph = {str(path)!r}: there is no such file; write its path with ./, relative to the recipe, or in --set to the working folder"
        )
    stat = file.stat()
    return _read(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=2)
def _read(file: Path, changed: int, size: int) -> Graph:  # noqa: ARG001 - a file that was written again is another one
    edges = _edges(file)
    nodes = pl.concat([edges.select(type=f"{end}_type", name=end) for end in ("head", "tail")])
    nodes = nodes.unique(maintain_order=True).with_row_index("node")
    for end in ("head", "tail"):
        on = nodes.select(pl.col("node").cast(pl.Int64).alias(f"{end}_node"), end=pl.col("name"), kind=pl.col("type"))
        edges = edges.join(
            on, left_on=[end, f"{end}_type"], right_on=["end", "kind"], how="left", maintain_order="left"
        )
    loops = edges.filter(pl.col("head_node") == pl.col("tail_node")).height
    low, high = pl.min_horizontal("head_node", "tail_node"), pl.max_horizontal("head_node", "tail_node")
    merged = (
        edges.filter(pl.col("head_node") != pl.col("tail_node"))
        .select(
            low.alias("low"), high.alias("high"), pl.struct("relation", up=pl.col("head_node") == low).alias("said")
        )
        .group_by("low", "high", maintain_order=True)
        .agg(pl.col("said").unique(maintain_order=True))
    )
    first, beside, edge = _neighbours(nodes.height, merged["low"].to_numpy(), merged["high"].to_numpy())
    names, types = nodes["name"].to_list(), nodes["type"].to_list()
    by_name: dict[tuple[str, str], Node] = {}
    for node, (kind, name) in enumerate(zip(types, names, strict=True)):
        by_name.setdefault((folded(kind), folded(name)), node)
    return Graph(names, types, first, beside, edge, merged["said"], by_name, loops)


def _neighbours(nodes: int, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    of, to = np.concatenate([low, high]), np.concatenate([high, low])
    order = np.lexsort((to, of))
    first = np.zeros(nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(of, minlength=nodes), out=first[1:])
    return first, to[order], np.tile(np.arange(len(low)), 2)[order]


def _edges(file: Path) -> pl.DataFrame:
    """Its five columns as text: NFC, white space joined and cut off at the ends; ValueError for a row with a gap."""
    try:
        frame = _scan(file)
        schema = frame.collect_schema()
        names = schema.names()
        wanted = {column: _column(file, column, known, names) for column, known in COLUMNS.items()}
        text = {
            column: (pl.col(name).fill_nan(None) if schema[name].is_float() else pl.col(name))
            .cast(pl.String)
            .str.normalize("NFC")
            .str.replace_all(r"\s+", " ")
            .str.strip_chars()
            for column, name in wanted.items()
        }
        edges = frame.select(**text).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"graph {file.name}: not readable as an edge table: {_first(error)}") from None
    gaps = edges.select(row=pl.int_range(1, pl.len() + 1), gap=_gap(edges.columns)).filter(pl.col("gap").is_not_null())
    if not gaps.is_empty():
        row, column = gaps.row(0)
        raise ValueError(
            f"graph {file.name}: row {row} has no {column} ({gaps.height:,} rows have such a gap); fill it or take the row out"
        )
    if edges.is_empty():
        raise ValueError(f"graph {file.name}: has no rows; an edge table has one or more")
    return edges


def _first(error: Exception) -> str:
    """Its first paragraph: the others tell Python programmers what to pass."""
    return str(error).strip().split("\n\n")[0]


def _scan(file: Path) -> pl.LazyFrame:
    if file.suffix == ".parquet":
        return pl.scan_parquet(file)
    return pl.scan_csv(file, separator="\t" if file.suffix == ".tsv" else ",", infer_schema=False)


def _column(file: Path, column: str, known: Sequence[str], names: Sequence[str]) -> str:
    found = next((name for name in known if name in names), None)
    if found is None:
        raise ValueError(
            f"graph {file.name}: no column {column!r}{suggest(column, names)}; an edge table has {', '.join(COLUMNS)}"
        )
    return found


def _gap(columns: Iterable[str]) -> pl.Expr:
    """The first of the columns in which a row holds nothing, or null."""
    empty = [pl.when(pl.col(c).is_null() | (pl.col(c) == "")).then(pl.lit(c)) for c in columns]
    return pl.coalesce(empty)
