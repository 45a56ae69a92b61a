"""Trees that somebody grew already: rows, pairs and values of their steps, by `tracemill curate`, without a model.

A source row holds the nodes of one tree, in any order. A node without a parent is a first step, or, without a text, the question:

    {"nodes": [{"id": "a", "parent_id": null, "step": "3 * 8 = 24."},
               {"id": "b", "parent_id": "a", "step": "24 - 16 = 8.", "leaf_kind": "correct"},
               {"id": "c", "parent_id": "a", "step": "24 - 16 = 40.", "leaf_kind": "wrong"}]}

What makes rows out of them is what step_tree has for the trees that it grows itself.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, get_args

import polars as pl

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Message
from tracemill.schemas.rows import Outcome, Problem, Rejection, Share, Summary
from tracemill.synth.step_tree.hnc import RATE, Counted, Order, count_leaves
from tracemill.synth.step_tree.pairs import EDITS, MARGIN
from tracemill.synth.step_tree.picture import picture
from tracemill.synth.step_tree.rows import ROW_COLUMNS, ROW_TABLES, Rules, check_rules, outcome_of
from tracemill.synth.step_tree.tables import TABLES as TREE_TABLES
from tracemill.synth.step_tree.tables import node_rows
from tracemill.synth.step_tree.tree import LeafKind, Node, walk

__all__ = ["COLUMNS", "GIVEN", "TABLES", "check", "given_tree", "picture", "summary"]

GIVEN = ("steps",)
"""What it takes from the source."""
COLUMNS = ROW_COLUMNS
TABLES: Mapping[str, Mapping[str, Any]] = {"nodes": {**TREE_TABLES["nodes"], "given_id": str}, **ROW_TABLES}

KINDS: tuple[str, ...] = get_args(LeafKind)
HIGHEST = 1000
"""Steps of a solution: every row writes out all that came before it."""
SHOWN = 10
COUNTS = ("n_correct", "n_total", "n_undecided")
LARGEST = (1 << 63) - 1
"""What a column of whole numbers holds."""


class NoTree(Exception):
    """What is wrong with given nodes: a short fixed reason, and what a person needs to find it."""

    def __init__(self, reason: str, **evidence: Any) -> None:
        super().__init__(reason)
        self.reason, self.evidence = reason, evidence


def check(**given: Any) -> None:
    """Raise ValueError for options that cannot work."""
    check_rules(_rules(given))


async def given_tree(
    problem: Problem,
    engine: Engine,
    *,
    counted: Counted = "leaves",
    hnc: bool = True,
    hnc_order: Order = "shuffled",
    hnc_rate: float = RATE,
    coarse: bool = True,
    test_coarse_on_hnc: bool = True,
    balance: bool = True,
    per_height: int = 5,
    one_label_rows: int = 5,
    test_share: float = 0.2,
    rest: bool = True,
    pairs: bool = True,
    pair_margin: float = MARGIN,
    pair_edits: int = EDITS,
    row_seed: int = 0,
) -> Outcome:
    """Make the rows of a tree that the source brings, for `tracemill curate`.

    `counted = "leaves"` counts what ends below a node: every node without children has a `leaf_kind` (correct, wrong, undecided,
    height_limit, error). `"rollouts"` takes `n_correct`, `n_total` and `n_undecided` as each node has them. `mult` is how many
    identical siblings a node stands for, 1 unless given. Nodes that make no tree turn the problem down, with the reason.
    The other options are those of step_tree.
    """
    rules = _rules(locals())
    try:
        root, given_ids = read_tree(problem.steps or (), counted)
    except NoTree as fault:
        rejection = Rejection(fault.reason, fault.evidence)
        return Outcome(rejections=[(None, rejection)], tables={name: [] for name in TABLES})
    for node in walk(root):
        node.n_tokens = engine.count_tokens(node.step)
        node.label_hard = _hard(node)
    asked = problem.messages or (Message(role="user", content=problem.question),)
    made = outcome_of(
        problem, root, rules=rules, prompt=asked, model="given", counter=engine.counter(), counted=counted
    )
    nodes = [{**row, "given_id": given_ids.get(row["node_id"])} for row in node_rows(problem.problem_id, root)]
    traces = [replace(trace, finish_reason="given") for trace in made.traces]
    return Outcome(traces=traces, rejections=made.rejections, tables={**made.tables, "nodes": nodes})


def summary(traces: pl.LazyFrame) -> Summary:
    """Rows that were made, by split and view, and how many of them are of steps that a right solution goes through."""
    hard = pl.col("label_hard")
    found = (
        traces.group_by("split", "view")
        .agg(pl.len().alias("rows"), (hard == 1).sum().alias("good"), hard.is_null().sum().alias("unknown"))
        .sort("split", "view", descending=True)
        .collect(engine="streaming")
    )
    return Summary(
        title="Rows of given trees",
        rows=[
            {
                "split": row["split"],
                "view": row["view"],
                "made": row["rows"],
                "hard 1": Share(row["good"], row["rows"]),
                "unknown": row["unknown"],
            }
            for row in found.to_dicts()
        ],
        note="A label is the share of right solutions through a step, in the tree as it was given: it is worth what grew that tree.",
    )


def read_tree(given: Sequence[Any], counted: Counted) -> tuple[Node, dict[str, str]]:
    """The tree of given nodes, and their ids by the names that they have here; NoTree where they are none."""
    by_id: dict[str, tuple[Node, str | None]] = {}
    for place, row in enumerate(given):
        name, parent, node = _read(place, row, counted)
        if name in by_id:
            raise NoTree("duplicate_node", id=name[:200], place=place)
        by_id[name] = (node, parent)
    questions = [node for node, parent in by_id.values() if parent is None and not node.step]
    if len(questions) > 1:
        raise NoTree("several_questions", nodes=len(questions))
    root = questions[0] if questions else Node(step="")
    for name, (node, parent) in by_id.items():
        if parent is not None and parent not in by_id:
            raise NoTree("unknown_parent", id=name[:200], parent_id=parent[:200])
        if node is not root:
            (root if parent is None else by_id[parent][0]).add(node)
    reached = _named(root)
    if len(reached) < len(by_id) + (not questions):
        raise NoTree("cycle", ids=_cycle({name: parent for name, (_, parent) in by_id.items()}))
    if counted == "leaves":
        _check_leaves(root, by_id)
        count_leaves(root)
        if root.n_total > LARGEST:
            raise NoTree("too_many_leaves", n_total=str(root.n_total), at_most=LARGEST)
    return root, {node.name: name for name, (node, _) in by_id.items()}


def _read(place: int, row: Any, counted: Counted) -> tuple[str, str | None, Node]:
    """Id, parent and node of what stands at a place."""
    if not isinstance(row, Mapping):
        raise NoTree("wrong_type", place=place, found=type(row).__name__, wanted="an object")
    name, parent, step = _id(place, row, "id"), _id(place, row, "parent_id"), row.get("step")
    if name is None:
        raise NoTree("no_id", place=place)
    if step is not None and not isinstance(step, str):
        raise NoTree("wrong_type", place=place, column="step", found=type(step).__name__, wanted="text")
    text = (step or "").strip()
    if parent is not None and not text:
        raise NoTree("no_text", place=place, id=name[:200])
    kind = row.get("leaf_kind")
    if kind is not None and kind not in KINDS:
        raise NoTree("no_such_leaf_kind", place=place, leaf_kind=repr(kind)[:200], known=list(KINDS))
    correct, total, undecided = (
        (_number(place, row, column) for column in COUNTS) if counted == "rollouts" else (0, 0, 0)
    )
    if correct + undecided > total:
        raise NoTree("counts_do_not_fit", place=place, n_correct=correct, n_undecided=undecided, n_total=total)
    return (
        name,
        parent,
        Node(
            step=text,
            leaf_kind=kind,
            mult=max(1, _number(place, row, "mult")),
            n_correct=correct,
            n_total=total,
            n_undecided=undecided,
        ),
    )


def _id(place: int, row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise NoTree("wrong_type", place=place, column=column, found=type(value).__name__, wanted="text or a number")
    return str(value)


def _number(place: int, row: Mapping[str, Any], column: str) -> int:
    value = row.get(column)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        raise NoTree(
            "wrong_type", place=place, column=column, found=repr(value)[:200], wanted=f"a whole number, 0 to {LARGEST}"
        )
    return value


def _named(root: Node) -> list[Node]:
    """Every node that is reached from the question, named as step_tree names its own."""
    reached: list[Node] = []
    waiting = deque([(root, 0)])
    while waiting:
        node, height = waiting.popleft()
        if height > HIGHEST:
            raise NoTree("too_deep", at_most=HIGHEST)
        node.name = f"n{len(reached):06d}"
        reached.append(node)
        waiting.extend((child, height + 1) for child in node.children)
    return reached


def _cycle(parents: Mapping[str, str | None]) -> list[str]:
    """Ids that lie on a cycle, in their order, as far as they are shown."""
    clear: set[str] = set()
    for start in parents:
        way: dict[str, None] = {}
        at: str | None = start
        while at is not None and at not in way and at not in clear:
            way[at] = None
            at = parents[at]
        if at is not None and at in way:
            ring = list(way)
            return [name[:200] for name in ring[ring.index(at) :][:SHOWN]]
        clear.update(way)
    return []


def _check_leaves(root: Node, by_id: Mapping[str, tuple[Node, str | None]]) -> None:
    """Where leaves are counted, every one of them says how it ended, and nothing else does."""
    for name, (node, _) in by_id.items():
        if node.children and node.leaf_kind is not None:
            raise NoTree("leaf_kind_of_inner_node", id=name[:200], leaf_kind=node.leaf_kind)
        if not node.children and node is not root and node.leaf_kind is None:
            raise NoTree("no_leaf_kind", id=name[:200], known=list(KINDS))


def _hard(node: Node) -> int | None:
    """1 where any solution is right, 0 where all are wrong, None where that is open."""
    if node.n_correct:
        return 1
    return None if node.n_undecided or not node.n_total else 0


def _rules(given: Mapping[str, Any]) -> Rules:
    return Rules(**{field.name: given[field.name] for field in fields(Rules)})
