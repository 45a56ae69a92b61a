"""A knowledge graph: seconds and memory to load it, and to find all shortest paths between pairs of its nodes.

    python tests/bench/graph.py [--edges 100000 1000000] [--queries 1000]

Edges are drawn at random, half of their ends in proportion to the edges that a node has already, so that there are hubs as in
graphs of knowledge. Loading and queries run in a process of their own; beside them rustworkx's own search of the whole graph,
for as many of the queries as `--theirs` says, whose answers have to be the same.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from common import _peak_mb, scratch, table


def write_table(path: Path, edges: int) -> None:
    """Three nodes for every ten edges, ten types of nodes, seven relations."""
    rng = random.Random(0)
    nodes = edges * 3 // 10
    ends: list[int] = []
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["head", "relation", "tail", "head_type", "tail_type"])
        for _ in range(edges):
            head = rng.randrange(nodes)
            tail = rng.choice(ends) if ends and rng.random() < 0.5 else rng.randrange(nodes)
            ends += [head, tail]
            rows.writerow([f"node {head}", f"r{rng.randrange(7)}", f"node {tail}", f"t{head % 10}", f"t{tail % 10}"])


def measure(path: Path, queries: int, theirs: int) -> None:
    """Load, ask, compare, in this process; say what it took."""
    import rustworkx

    from tracemill.synth.petri_trace.graph import read_graph

    began = time.perf_counter()
    graph = read_graph(path)
    load = time.perf_counter() - began
    rng = random.Random(1)
    pairs = [(rng.randrange(len(graph.names)), rng.randrange(len(graph.names))) for _ in range(queries)]
    began, cpu = time.perf_counter(), time.process_time()
    found = [graph.shortest_paths(source, target, most=10**9) for source, target in pairs]
    asked, asked_cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = _peak_mb()

    whole = rustworkx.PyGraph(multigraph=False)
    whole.add_nodes_from(range(len(graph.names)))
    whole.add_edges_from_no_data(
        [
            (a, int(b))
            for a in range(len(graph.names))
            for b in graph.beside[graph.first[a] : graph.first[a + 1]]
            if a < b
        ]
    )
    began = time.perf_counter()
    for (source, target), (ours, _) in list(zip(pairs, found, strict=True))[:theirs]:
        wanted = rustworkx.graph_all_shortest_paths(whole, source, target) if source != target else []
        assert ours == sorted(tuple(way) for way in wanted), (source, target)
    rest = (time.perf_counter() - began) / max(1, theirs)
    paths = sum(total for _, total in found)
    print(json.dumps([load, asked, asked_cpu, peak, paths, max(total for _, total in found), rest]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--theirs", type=int, default=50)
    parser.add_argument("--measure", type=Path)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure, given.queries, given.theirs)
        return

    def rows():
        for edges in given.edges:
            with scratch() as folder:
                write_table(folder / "graph.csv", edges)
                command = [sys.executable, __file__, "--queries", str(given.queries), "--theirs", str(given.theirs)]
                out = subprocess.run(
                    [*command, "--measure", str(folder / "graph.csv")], stdout=subprocess.PIPE, check=True, text=True
                ).stdout
            load, asked, cpu, peak, paths, most, theirs = json.loads(out)
            yield [
                f"{edges:,}",
                f"{load:.1f}",
                f"{asked:.1f}",
                f"{cpu:.1f}",
                f"{peak:,.0f}",
                f"{paths:,}",
                most,
                f"{1000 * asked / given.queries:.0f}",
                f"{1000 * theirs:.0f}",
            ]

    table(
        [
            *("edges", "load s", f"{given.queries:,} queries s", "CPU s", "peak MB"),
            *("paths", "most of a pair", "ms a query", "rustworkx on the whole graph, ms"),
        ],
        rows(),
    )


if __name__ == "__main__":
    main()
