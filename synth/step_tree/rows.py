"""Rows of a process reward model out of a labelled tree, as HRM makes them (arXiv:2503.13551).

One row is one step after those before it, with the share of solutions through it that end right:

    {"id": "p7/n000012-hnc-pair", "view": "hnc", "granularity": "pair", "height": 3, "previous_steps": ["3 * 8 = 24."],
     "current_steps": ["8 * 2 = 16.", "24 - 16 = 8."], "n_correct": 3, "n_leaves": 5, "label": 0.6, "input": "## Question ...", ...}

`single` rows have one current step, `pair` rows the last two: the coarse ones. `orig` rows come of the tree as it grew, `hnc`
rows of a compressed copy. Of equal (input, label) the first stays, in the order orig before hnc and single before pair.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from math import gcd
from typing import Any, Literal

from tracemill.schemas.request import Message
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace, Verdict, by_lot, qid
from tracemill.synth.step_tree.hnc import RATE, Counted, Order, chance, compressed
from tracemill.synth.step_tree.pairs import EDITS, MARGIN, PAIR_COLUMNS, pair_rows
from tracemill.synth.step_tree.render import shown_input
from tracemill.synth.step_tree.rest import VALUE_COLUMNS, value_rows
from tracemill.synth.step_tree.tree import Node, walk

View = Literal["orig", "hnc"]
Granularity = Literal["single", "pair"]
Flag = Literal["all_wrong", "all_right", "all_undecided"]

SMALLEST_SHARE = 10
"""A group of equal labels gives at least a tenth of its nodes; the released code."""

ROW_COLUMNS: Mapping[str, Any] = {
    "tree_id": str,
    "node_id": str,
    "parent_id": str,
    "view": str,
    "granularity": str,
    "height": int,
    "previous_steps": list[str],
    "current_steps": list[str],
    "n_correct": int,
    "n_leaves": int,
    "n_undecided": int,
    "label_soft": float,
    "label_hard": int,
    "low": float,
    "high": float,
    "leaf_kind": str,
    "merged_node_ids": list[str],
    "tree_flag": str,
    "split": str,
    "input": str,
    "label": float,
}
"""The columns of a row beyond the common ones."""

ROW_TABLES: Mapping[str, Mapping[str, Any]] = {"values": VALUE_COLUMNS, "pairs": PAIR_COLUMNS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which rows a tree gives; every field is an option of the method under the same name."""

    hnc: bool = True
    """Add the rows of a compressed copy of the tree."""
    hnc_order: Order = "shuffled"
    hnc_rate: float = RATE
    coarse: bool = True
    """Add the rows of two steps at once."""
    test_coarse_on_hnc: bool = True
    """Also in the test split, of the compressed copy; the released code has none there."""
    balance: bool = True
    """Draw as many nodes of each label as of the rarest one at the height; otherwise every node is a row."""
    per_height: int = 5
    """Nodes drawn where a height has one label only; the released code."""
    one_label_rows: int = 5
    """Rows of a tree all of whose solutions are right, or wrong; not stated in the paper: our default."""
    test_share: float = 0.2
    """Of the questions, by hash; the released code takes the last fifth of its files."""
    rest: bool = True
    """Fill the table `values`: of every node its ReST-MCTS* value."""
    pairs: bool = True
    """Fill the table `pairs`: sibling steps, the better one known."""
    pair_margin: float = MARGIN
    pair_edits: int = EDITS
    row_seed: int = 0
    """Of every choice made here; the tree itself does not depend on it."""


def check_rules(rules: Rules) -> None:
    """Raise ValueError for options that cannot work."""
    for name in ("hnc_rate", "test_share"):
        if not 0 <= (share := getattr(rules, name)) <= 1:
            raise ValueError(f"{name} = {share}: a share between 0 and 1")
    for name in ("per_height", "one_label_rows"):
        if (count := getattr(rules, name)) < 1:
            raise ValueError(f"{name} = {count}: at least 1")
    if not 0 <= rules.pair_margin <= 2:
        raise ValueError(f"pair_margin = {rules.pair_margin}: a difference of two values between -1 and 1, so 0 to 2")
    if rules.pair_edits < 0:
        raise ValueError(f"pair_edits = {rules.pair_edits}: characters, 0 or more")


def soft_label(node: Node) -> float | None:
    """The share of right solutions; undecided ones are among those it is a share of."""
    return node.n_correct / node.n_total if node.n_total else None


def split_of(question: str, test_share: float) -> str:
    """`train` or `test`, by the hash of the question: all that is made of one question stands on one side."""
    return "test" if by_lot("split", qid(question), test_share) else "train"


def outcome_of(
    problem: Problem,
    root: Node,
    *,
    rules: Rules,
    prompt: tuple[Message, ...],
    model: str,
    counter: str | None = None,
    counted: Counted = "leaves",
) -> Outcome:
    """The rows and tables of a tree whose nodes have their counts, or the reason why it gives no rows.

    `counted` says what the counts are of, `counter` whose tokens `Node.n_tokens` counts where not the solver's tokenizer.
    """
    if not root.children:
        too_small = Rejection("too_small", {"nodes": 1, "ended": root.leaf_kind})
        return Outcome(rejections=[(None, too_small)], tables={name: [] for name in ROW_TABLES})
    maker = _Maker(problem, rules, prompt, model, counter, tree_flag(root))
    traces = maker.traces("orig", root)
    if rules.hnc:
        copy = compressed(
            root,
            problem.problem_id,
            rate=rules.hnc_rate,
            order=rules.hnc_order,
            seed=rules.row_seed,
            counted=counted,
        )
        traces += maker.traces("hnc", copy)
    rejections = [] if traces else [(None, Rejection("no_labels", {"nodes": sum(1 for _ in walk(root))}))]
    return Outcome(traces=maker.capped(traces), rejections=rejections, tables=tables_of(root, rules, counted))


def tables_of(root: Node, rules: Rules, counted: Counted) -> dict[str, list[dict[str, Any]]]:
    """The tables of ROW_TABLES, empty where the recipe wants none."""
    return {
        "values": list(value_rows(root)) if rules.rest else [],
        "pairs": list(pair_rows(root, margin=rules.pair_margin, edits=rules.pair_edits, counted=counted))
        if rules.pairs
        else [],
    }


def tree_flag(root: Node) -> Flag | None:
    """What is so of every solution in the tree, where there is something: such labels teach little."""
    counts = [(node.n_correct, node.n_undecided, node.n_total) for _, level in levels(root) for node in level]
    if all(correct == 0 for correct, _, _ in counts):
        decided = any(undecided < total for _, undecided, total in counts)
        return "all_wrong" if decided else "all_undecided"
    return "all_right" if all(correct == total for correct, _, total in counts) else None


def levels(root: Node) -> Iterator[tuple[int, list[Node]]]:
    """The nodes of each height from 1 on, in order."""
    level, height = root.children, 1
    while level:
        yield height, level
        level, height = [child for node in level for child in node.children], height + 1


def drawn(root: Node, problem_id: str, rules: Rules) -> Iterator[Node]:
    """The nodes that become rows: the released rule, at each height, with a draw of each node's own.

    With several label values at a height, each gives as many nodes as the rarest has, or a tenth of its own if that is more; with
    one, `per_height`. Labels are compared as fractions of whole numbers. A node that nothing was counted for gives none.
    """
    for _, level in levels(root):
        groups: dict[tuple[int, int], list[Node]] = {}
        for node in level:
            if node.n_total and node.step:  # a draw that failed is a leaf without a step
                common = gcd(node.n_correct, node.n_total)
                groups.setdefault((node.n_correct // common, node.n_total // common), []).append(node)
        fewest = min(map(len, groups.values()), default=0)
        taken: set[str] = set()
        for group in groups.values():
            wanted = max(fewest, len(group) // SMALLEST_SHARE) if len(groups) > 1 else rules.per_height
            taken.update(node.name for node in _some(group, wanted, problem_id, rules))
        yield from (node for node in level if node.name in taken)


def _some(group: list[Node], wanted: int, problem_id: str, rules: Rules) -> list[Node]:
    if not rules.balance or wanted >= len(group):
        return group
    return nsmallest(
        wanted, group, key=lambda node: (chance(rules.row_seed, "balance", problem_id, node.name), node.name)
    )


@dataclass(slots=True)
class _Maker:
    """Makes the traces of one tree, each (input, label) once."""

    problem: Problem
    rules: Rules
    prompt: tuple[Message, ...]
    model: str
    counter: str | None
    flag: Flag | None
    split: str = field(init=False)
    seen: set[tuple[str, float]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.split = split_of(self.problem.question, self.rules.test_share)

    def traces(self, view: View, root: Node) -> list[Trace]:
        nodes = [(node, node.path()[1:]) for node in drawn(root, self.problem.problem_id, self.rules)]
        made = [self._trace(view, "single", node, path) for node, path in nodes]
        if self.rules.coarse and (view == "orig" or self.split == "train" or self.rules.test_coarse_on_hnc):
            made += [self._trace(view, "pair", node, path) for node, path in nodes if len(path) > 1]
        return [trace for trace in made if trace is not None]

    def _trace(self, view: View, granularity: Granularity, node: Node, path: list[Node]) -> Trace | None:
        """One row; None where the same input with the same label stands there already."""
        steps = [each.step for each in path]
        cut = len(steps) - (2 if granularity == "pair" else 1)
        shown, label = shown_input(self.problem.question, steps[:cut], steps[cut:]), node.n_correct / node.n_total
        if (shown, label) in self.seen:
            return None
        self.seen.add((shown, label))
        return Trace(
            problem_id=self.problem.problem_id,
            name=f"{node.name}-{view}-{granularity}",
            prompt=self.prompt,
            text="\n".join(steps),
            n_tokens=sum(each.n_tokens for each in path),
            finish_reason="length" if node.leaf_kind == "height_limit" else "stop",
            model=self.model,
            counted=self.counter,
            key=node.key,
            verdict=verdict_of(node),
            columns={
                **self._of_node(node, len(steps)),
                "view": view,
                "granularity": granularity,
                "previous_steps": steps[:cut],
                "current_steps": steps[cut:],
                "input": shown,
                "label": label,
            },
        )

    def _of_node(self, node: Node, height: int) -> dict[str, Any]:
        return {
            "tree_id": self.problem.problem_id,
            "node_id": node.name,
            "parent_id": f"{self.problem.problem_id}/{node.parent.name}" if node.parent else None,
            "height": height,
            "n_correct": node.n_correct,
            "n_leaves": node.n_total,
            "n_undecided": node.n_undecided,
            "label_soft": soft_label(node),
            "label_hard": node.label_hard,
            "low": node.low,
            "high": node.high,
            "leaf_kind": node.leaf_kind,
            "merged_node_ids": list(node.merged),
            "tree_flag": self.flag,
            "split": self.split,
        }

    def capped(self, traces: list[Trace]) -> list[Trace]:
        """All of them, or some by hash where every solution of the tree is of one kind."""
        if self.flag is None or len(traces) <= self.rules.one_label_rows:
            return traces
        names = [trace.name for trace in traces]
        rules, problem_id = self.rules, self.problem.problem_id
        kept = nsmallest(
            rules.one_label_rows, names, key=lambda name: chance(rules.row_seed, "one-label", problem_id, name)
        )
        return [trace for trace in traces if trace.name in kept]


def verdict_of(node: Node) -> Verdict:
    """A row's verdict: a solution that ended is right or wrong; a step on the way to an end is neither."""
    match node.leaf_kind:
        case "correct":
            return Verdict(status="equal", how="tree")
        case "wrong":
            return Verdict(status="different", how="tree")
        case None:
            return Verdict(status="undecided", reason="inner_step", how="tree")
        case kind:
            return Verdict(status="undecided", reason=kind, how="tree")
