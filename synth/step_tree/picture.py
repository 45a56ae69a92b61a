"""What `tracemill explain` draws: the way to a step with what was counted on it, or the whole tree of a problem.

question  How many more books does Ben have than Amy?
 1  n000001  3/5  0.60 [0.19, 0.91]  good   3 * 8 = 24.
 2  n000004  0/1  0.00               bad    8 * 2 = 18.   <- first error
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from tracemill.schemas.printable import printable

WIDTH = 90
"""Characters of a step."""
MOST = 80
"""Nodes of a tree that are drawn."""

Row = Mapping[str, Any]


def picture(found: Mapping[str, Any]) -> Iterator[str]:
    """Lines for what was asked for: the tree for a problem, the way from the question for a node or a row."""
    nodes = {str(row["id"]): row for row in found["tables"].get("nodes", ())}
    if not nodes:
        return
    asked = _asked_nodes(found, nodes)
    if not asked:
        yield from _tree(nodes)
    for number, name in enumerate(asked):
        if number:
            yield ""
        yield from _way(found, nodes, name)


def _asked_nodes(found: Mapping[str, Any], nodes: Mapping[str, Row]) -> list[str]:
    """The nodes that were asked for: one by its own id, those of a row, or those cut from a completion."""
    kind, wanted = found["asked"]["kind"], found["asked"]["id"]
    if kind == "nodes":
        return [wanted] if wanted in nodes else []
    of = {"trace": "id", "key": "key"}.get(kind)
    rows = [trace["row"] for trace in found["traces"] if of is not None and trace["row"].get(of) == wanted]
    ids = dict.fromkeys(f"{found['problem_id']}/{row.get('node_id')}" for row in rows)
    return [name for name in ids if name in nodes]


def _way(found: Mapping[str, Any], nodes: Mapping[str, Row], name: str) -> Iterator[str]:
    way: list[Row] = []
    seen: set[str] = set()
    at: str | None = name
    while at is not None and at in nodes and at not in seen:
        seen.add(at)
        way.append(nodes[at])
        at = nodes[at]["parent_id"]
    problem = found.get("problem") or {}
    yield f"question  {_short(str(problem.get('question') or ''), 2 * WIDTH)}"
    steps = [row for row in reversed(way) if row["parent_id"] is not None]
    for number, cells in enumerate(_columns([_cells(row) for row in steps]), start=1):
        yield f"{number:>3}  {cells}"
    if at is not None:
        yield f"     the way ends here: {'it comes back to' if at in seen else 'there is no node'} {_short(at, WIDTH)}"


def _tree(nodes: Mapping[str, Row]) -> Iterator[str]:
    """Every node below its parent, siblings in order, as far as there is room."""
    below: dict[str | None, list[Row]] = {}
    for row in nodes.values():
        below.setdefault(row["parent_id"], []).append(row)
    if None not in below:
        yield f"{len(nodes):,} nodes, and each of them stands below another: this is no tree"
    for root in below.get(None, ()):
        yield f"{len(nodes):,} nodes, {root['n_correct']}/{root['n_total']} right"
        drawn = list(islice(_branches(root, below), MOST))
        wide = max((len(branch) for branch, _ in drawn), default=0)
        told = _columns([_cells(row) for _, row in drawn])
        yield from (f"{branch:<{wide}} {cells}" for (branch, _), cells in zip(drawn, told, strict=True))
        if (more := len(nodes) - 1 - len(drawn)) > 0:
            yield f"and {more:,} more; --json has all"


def _branches(root: Row, below: Mapping[str | None, Sequence[Row]]) -> Iterator[tuple[str, Row]]:
    """The nodes below `root`, each with the branch that leads to it; a node that comes again is not gone into."""
    seen = {root["id"]}
    waiting = [("", root, "")]
    while waiting:
        branch, row, indent = waiting.pop()
        if row is not root:
            yield branch, row
        children = [child for child in below.get(row["id"], ()) if child["id"] not in seen]
        seen.update(child["id"] for child in children)
        for child in reversed(children):
            last = child is children[-1]
            waiting.append((indent + ("└─" if last else "├─"), child, indent + ("  " if last else "│ ")))


def _cells(row: Row) -> tuple[str, ...]:
    """Name, counts, share with its interval, label, step, and what is to be said of it."""
    correct, total, undecided = row["n_correct"], row["n_total"], row["n_undecided"]
    counts = f"{correct}/{total}" + (f" ({undecided} undecided)" if undecided else "")
    share = f"{correct / total:.2f}" if total else "-"
    if row.get("low") is not None and row.get("high") is not None:
        share += f" [{row['low']:.2f}, {row['high']:.2f}]"
    label = {1: "good", 0: "bad"}.get(row["label_hard"], "open")
    marks = [f"x{row['mult']}"] if row["mult"] > 1 else []
    marks += [row["leaf_kind"]] if row["leaf_kind"] else []
    marks += ["first error"] if row.get("is_first_error") else []
    marks += ["not monotone"] if row.get("non_monotone") else []
    told = f"   <- {', '.join(marks)}" if marks else ""
    return str(row["node_id"]), counts, share, label, _short(row["step"] or "", WIDTH) + told


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in rows]


def _short(text: str, width: int) -> str:
    """A text of a model in one line that no terminal takes for anything else."""
    joined = " ".join(text[: 4 * width].split())
    shown = printable(joined)
    return shown if len(shown) <= width and len(text) <= 4 * width else f"{shown[: width - 3]}..."
