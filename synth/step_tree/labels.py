"""From what was counted to labels on the nodes, once nothing more is drawn."""

from tracemill.synth.step_tree.evidence import Counts
from tracemill.synth.step_tree.hnc import count_leaves
from tracemill.synth.step_tree.search import Search
from tracemill.synth.step_tree.tree import Node, walk


def finish(search: Search, *, leaves: bool) -> Node:
    """The tree with names, counts and labels. `leaves`: a node is worth the share of right leaves below it."""
    if leaves:
        count_leaves(search.root)
    for number, node in enumerate(walk(search.root)):
        node.name = f"n{number:06d}"
        if leaves:
            _by_leaves(node)
        elif (ended := search.ended.get(node)) is not None:
            _by_outcome(node, ended)
        else:
            _by_rollouts(search, node)
    return search.root


def mark_first_errors(root: Node) -> None:
    """Where every step was looked at: the first step without value, behind one that has some or behind the question."""
    wrong_already = set[Node]()
    for node in walk(root):
        if (parent := node.parent) is None:
            continue
        before = parent in wrong_already
        good_before = parent is root or parent.label_hard == 1
        node.is_first_error = node.label_hard == 0 and good_before and not before
        if before or node.is_first_error:
            wrong_already.add(node)


def _by_leaves(node: Node) -> None:
    if node.n_correct or not node.n_undecided:
        node.label_hard = int(node.n_correct > 0)
        node.label_source = "drawn" if node.children else "outcome"


def _by_outcome(node: Node, ended: Counts) -> None:
    """A solution ends here: there is nothing to estimate."""
    node.n_correct, node.n_total, node.n_undecided = ended.correct, ended.total, ended.undecided
    if not ended.undecided:
        node.label_hard, node.label_source = int(ended.correct > 0), "outcome"
        node.low = node.high = float(node.label_hard)


def _by_rollouts(search: Search, node: Node) -> None:
    """What was drawn from here decides; else a right solution through here, which proves that it can be finished."""
    counts = search.counts.get(node, Counts())
    node.n_correct, node.n_total, node.n_undecided = counts.correct, counts.total, counts.undecided
    node.steps_left = min((r.n_steps for r in search.rollouts.get(node, ()) if r.correct), default=None)
    drawn = search.rule.hard(counts) if counts.total else None
    if counts.total:
        node.low, node.high = search.rule.interval(counts)
    if drawn is not None:
        node.label_hard, node.label_source = drawn, "drawn"
    if search.rule.threshold == 0 and node in search.proven:
        node.non_monotone = drawn == 0
        if drawn is None or (drawn == 0 and search.rule.k is None):
            node.label_hard, node.label_source = 1, "implied"
    if node in search.refused and node.leaf_kind is None:
        node.leaf_kind = "error"
