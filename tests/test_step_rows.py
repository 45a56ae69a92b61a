"""Rows out of step trees: labels, compression, balancing, values and pairs, with the truths that can be counted by hand."""

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trees import QUESTION, Spec, at, count, grown, node_rows, problem, share
from tracemill.schemas.rows import Outcome, Problem, Trace
from tracemill.synth.step_tree.hnc import compressed, merge
from tracemill.synth.step_tree.pairs import Side, differ, pair_rows, paired, q_of, side_of, ways_down
from tracemill.synth.step_tree.picture import picture
from tracemill.synth.step_tree.render import shown_input
from tracemill.synth.step_tree.rest import value_rows
from tracemill.synth.step_tree.rows import Rules, check_rules, drawn, outcome_of, split_of, tree_flag
from tracemill.synth.step_tree.tree import Node, walk

SMALL: Spec = {"A": {"A1": "correct", "A2": "wrong"}, "B": {"B1": "wrong", "B2": "wrong"}}
FIVE: Spec = {"P": {"c1": "correct", "c2": "correct", "c3": "wrong", "c4": "wrong", "c5": "wrong"}, "Q": "wrong"}


def made(root: Node, asked: Problem | None = None, *, counted: Any = "leaves", **rules: Any) -> Outcome:
    return outcome_of(
        asked or problem(),
        root,
        rules=Rules(**rules),
        prompt=({"role": "user", "content": QUESTION},),
        model="m",
        counted=counted,
    )


def rows(root: Node, **rules: Any) -> list[dict[str, Any]]:
    return [{"name": trace.name, **trace.columns} for trace in made(root, **rules).traces]


def in_order(parent: Node) -> list[Node]:
    return list(parent.children)


def forced(root: Node, *steps: str) -> Node:
    """The tree with the coin at heads for these steps, and for no others."""
    merge(root, lambda child: child.step in steps, in_order)
    return root


def bushy(luck: random.Random, height: int = 4) -> Node:
    """A tree of up to `height` steps, with leaves of all kinds here and there."""

    def below(level: int) -> Spec | str:
        if level == height or (level and luck.random() < 0.2):
            return luck.choice(["correct", "wrong", "wrong", "undecided", "height_limit"])
        return {f"{level}{luck.random():.6f}": below(level + 1) for _ in range(luck.randint(1, 6))}

    spec = below(0)
    assert not isinstance(spec, str)
    return grown(spec)


# ---- labels and rows


def test_a_label_is_the_share_of_right_leaves_and_each_label_value_of_a_height_gives_as_many_rows():
    root = grown(SMALL)
    assert {step: share(at(root, step)) for step in ("A", "B", "A1", "A2", "B1", "B2")} == {
        "A": (1, 2), "B": (0, 2), "A1": (1, 1), "A2": (0, 1), "B1": (0, 1), "B2": (0, 1),
    }  # fmt: skip
    found = rows(root)
    assert Counter((row["height"], row["granularity"], row["label"]) for row in found) == {
        (1, "single", 0.5): 1,
        (1, "single", 0.0): 1,
        (2, "single", 1.0): 1,
        (2, "single", 0.0): 1,
        (2, "pair", 1.0): 1,
        (2, "pair", 0.0): 1,
    }
    assert {row["view"] for row in found} == {"orig"}, "no parent has four children, so the copy is the tree itself"
    assert len(rows(root, coarse=False)) == 4


def test_a_pair_row_shows_two_steps_and_has_the_label_of_the_second():
    [row] = [row for row in rows(grown(SMALL)) if row["granularity"] == "pair" and row["label"] == 1]
    assert (row["previous_steps"], row["current_steps"]) == ([], ["A", "A1"])
    three = rows(grown({"a": {"b": {"c": "correct"}}, "d": "wrong"}), balance=False, hnc=False)
    [single] = [row for row in three if row["granularity"] == "single" and row["height"] == 3]
    [pair] = [row for row in three if row["granularity"] == "pair" and row["height"] == 3]
    assert (single["previous_steps"], single["current_steps"]) == (["a", "b"], ["c"])
    assert (pair["previous_steps"], pair["current_steps"]) == (["a"], ["b", "c"])
    assert single["label"] == pair["label"] == 1.0


def test_headers_are_counted_anew_and_the_first_step_has_no_block_of_previous_ones():
    text = shown_input("2 + 2?", ["add", "so"], ["four"])
    assert text.startswith("## Question\n2 + 2?\n")
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        *("## Question", "## Previous steps", "# Step 1", "# Step 2", "## Current step", "# Step 3"),
    ]
    assert "## Previous steps" not in shown_input("2 + 2?", [], ["four"])
    assert "# Step 1" in shown_input("2 + 2?", [], ["four"])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3], {1: 3}),  # one label value: all, up to five
        ([9], {1: 5}),
        ([3, 8], {1: 3, 2: 3}),  # as many as of the rarest
        ([2, 57], {1: 2, 2: 5}),  # or a tenth, rounded down
        ([2, 59, 8], {1: 2, 2: 5, 3: 2}),
    ],
)
def test_every_height_is_balanced_by_the_released_rule(labels: list[int], expected: dict[int, int]):
    root = Node(step="")
    for value, size in enumerate(labels, start=1):
        for number in range(size):
            root.add(Node(step=f"{value}.{number}", name=f"n{value}{number:04}", n_correct=2 * value, n_total=8))
    taken = Counter(node.n_correct // 2 for node in drawn(root, "p1", Rules()))
    assert taken == expected
    assert len(list(drawn(root, "p1", Rules(balance=False)))) == sum(labels)


def test_labels_are_compared_as_fractions_and_not_as_counts():
    root = Node(step="")
    for number, (correct, total) in enumerate([(1, 2), (2, 4), (4, 8), (0, 3)]):
        root.add(Node(step=str(number), name=f"n{number}", n_correct=correct, n_total=total))
    assert len(list(drawn(root, "p1", Rules()))) == 2


def test_a_node_that_nothing_was_counted_for_gives_no_row():
    root = grown(SMALL)
    at(root, "A").n_total = at(root, "A").n_correct = 0
    assert "A" not in {row["current_steps"][-1] for row in rows(root, balance=False)}
    for node in walk(root):
        node.n_total = node.n_correct = 0
    [(nothing, why)] = made(root).rejections
    assert (nothing, why.reason) == (None, "no_labels")


def test_the_draw_hangs_on_the_seed_and_the_problem_and_on_nothing_else():
    root = bushy(random.Random(3))
    first = [row["name"] for row in rows(root)]
    assert first == [row["name"] for row in rows(bushy(random.Random(3)))]
    assert first != [row["name"] for row in rows(root, row_seed=1)]
    turned = bushy(random.Random(3))
    for node in walk(turned):
        node.children.reverse()
    assert set(first) == {row["name"] for row in rows(turned)}


def test_undecided_ends_stand_inside_the_total_and_leave_a_label_open():
    root = grown({"A": {"A1": "undecided", "A2": "wrong"}, "B": {"B1": "correct", "B2": "undecided"}})
    found = {row["current_steps"][-1]: row for row in rows(root, balance=False, coarse=False, hnc=False)}
    told = {step: (row["n_correct"], row["n_leaves"], row["n_undecided"]) for step, row in found.items()}
    assert (told["A"], told["B"]) == ((0, 2, 1), (1, 2, 1))
    hard = {step: row["label_hard"] for step, row in found.items()}
    assert hard == {"A": None, "B": 1, "A1": None, "A2": 0, "B1": 1, "B2": None}
    assert found["A"]["label_soft"] == 0.0


@pytest.mark.parametrize(
    ("kind", "verdict", "ended"),
    [
        ("correct", ("equal", None), "stop"),
        ("wrong", ("different", None), "stop"),
        ("undecided", ("undecided", "undecided"), "stop"),
        ("height_limit", ("undecided", "height_limit"), "length"),
        ("error", ("undecided", "error"), "stop"),
    ],
)
def test_only_a_row_that_ends_a_solution_is_right_or_wrong(kind: str, verdict: tuple[str, str | None], ended: str):
    traces = made(grown({"a": {"b": kind, "c": "correct"}}), balance=False).traces
    by_step = {trace.columns["current_steps"][-1]: trace for trace in traces}
    assert said(by_step["a"]) == ("undecided", "inner_step")
    assert said(by_step["b"]) == verdict
    assert by_step["b"].finish_reason == ended


def said(trace: Trace) -> tuple[str, str | None]:
    assert trace.verdict is not None
    return trace.verdict.status, trace.verdict.reason


def test_a_row_is_the_solution_up_to_its_step_and_counts_its_tokens():
    [trace] = [t for t in made(grown({"one two": {"three": "correct"}})).traces if t.name == "n000002-orig-single"]
    assert (trace.text, trace.n_tokens) == ("one two\nthree", 3)
    assert trace.columns["parent_id"] == "p1/n000001"


# ---- trees at the edges


def test_a_tree_without_a_step_is_too_small():
    outcome = made(grown({}))
    [(nothing, why)] = outcome.rejections
    assert (nothing, why.reason, list(outcome.traces)) == (None, "too_small", [])
    assert outcome.tables == {"values": [], "pairs": []}


@pytest.mark.parametrize(
    ("kind", "flag"), [("wrong", "all_wrong"), ("correct", "all_right"), ("undecided", "all_undecided")]
)
def test_a_tree_of_one_label_says_so_and_gives_five_rows_at_most(kind: str, flag: str):
    root = grown({f"s{i}": {f"s{i}{j}": kind for j in range(5)} for i in range(5)})
    found = rows(root)
    assert len(found) == 5
    assert {row["tree_flag"] for row in found} == {flag}
    assert found == rows(root)
    assert len(rows(root, one_label_rows=8)) == 8
    assert tree_flag(grown(SMALL)) is None


def test_identical_siblings_count_as_often_as_they_came():
    root = grown({"A": {"A1": "correct", "A2": "wrong"}, "B": "wrong"})
    at(root, "A1").mult = 3
    count(root)
    assert share(at(root, "A")) == (3, 4)
    assert share(root) == (3, 5)
    [row] = [row for row in rows(root, balance=False, coarse=False) if row["current_steps"] == ["A"]]
    assert row["label"] == 0.75


# ---- hierarchical node compression


@pytest.mark.parametrize(("step", "label", "of_parent"), [("c1", (1, 1), (1, 4)), ("c3", (0, 1), (2, 4))])
def test_a_step_that_moves_up_keeps_its_label_and_changes_that_of_its_old_parent_alone(
    step: str, label: tuple[int, int], of_parent: tuple[int, int]
):
    root = grown(FIVE)
    assert (share(at(root, "P")), share(root)) == ((2, 5), (2, 6))
    forced(root, step)
    moved = at(root, f"P\n{step}")
    assert (moved.parent, moved.height, share(moved)) == (root, 1, label)
    assert moved.merged == (at(root, "P").name, moved.name)
    assert share(at(root, "P")) == of_parent
    assert share(root) == (2, 6), "the same leaves are below it"
    before = [share(node) for node in walk(root)]
    count(root)
    assert [share(node) for node in walk(root)] == before


def test_a_mean_over_children_would_have_moved_the_roots_label():
    def mean(node: Node) -> float:
        return (
            sum(map(mean, node.children)) / len(node.children) if node.children else float(node.leaf_kind == "correct")
        )

    assert mean(grown(FIVE)) == pytest.approx(0.2)
    assert mean(forced(grown(FIVE), "c1")) == pytest.approx(0.4167, abs=1e-4)


def five_children(number: int) -> Node:
    return grown({"P": {f"c{i}": "wrong" for i in range(5)}, "Q": "correct"})


@pytest.mark.parametrize("order", ["shuffled", "reference"])
def test_of_five_children_one_moves_in_31_of_32_trees(order: Any):
    first = Counter[str]()
    for number in range(10_000):
        copy = compressed(five_children(number), f"t{number}", order=order, counted="leaves")
        moved = [node.step for node in walk(copy) if node.merged]
        assert len(moved) <= 1
        first.update(step[-2:] for step in moved)
    assert first.total() / 10_000 == pytest.approx(0.969, abs=0.006)
    if order == "reference":
        assert [first[f"c{i}"] / 10_000 for i in range(5)] == pytest.approx(
            [0.5, 0.25, 0.125, 0.0625, 0.03125], abs=0.02
        )
    else:
        assert all(count / 10_000 == pytest.approx(0.194, abs=0.02) for count in first.values())


def test_nothing_moves_out_of_three_children_nor_from_below_the_question():
    root = grown({"P": {"c1": "wrong", "c2": "wrong", "c3": "correct"}, **{f"Q{i}": "wrong" for i in range(5)}})
    forced(root, *(node.step for node in walk(root)))
    assert not any(node.merged for node in walk(root))


def test_one_child_of_a_parent_moves_and_none_of_a_step_that_has_moved():
    four = {f"g{i}": "wrong" for i in range(4)}
    root = grown({"P": {"c1": four, "c2": "wrong", "c3": "wrong", "c4": "correct"}})
    forced(root, "c1", "c2", "g0", "g1")
    assert [node.merged for node in walk(root) if node.merged] == [("n000001", at(root, "P\nc1").name)]


def test_a_draw_that_gave_no_step_moves_nowhere_and_is_in_no_row_value_or_pair():
    root = grown({"P": {"": "error", "a right step of some length": "correct", "c3": "wrong", "c4": "wrong"}})
    forced(root, "")
    assert not any(node.merged for node in walk(root))
    made = outcome_of(problem(), root, rules=Rules(balance=False, hnc=False, pair_edits=1), prompt=(), model="m")
    assert {trace.columns["current_steps"][-1] for trace in made.traces} == {
        "P",
        "a right step of some length",
        "c3",
        "c4",
    }
    names = {node.name: node.step for node in walk(root)}
    assert "" not in {names[row["node_id"]] for row in made.tables["values"]}
    assert {row["neg"] for row in made.tables["pairs"]} == {"c3", "c4"}


def test_what_hangs_below_a_step_follows_it():
    below = {f"g{i}": {"h": "wrong"} for i in range(4)}
    root = grown({"P": {"c1": below, "c2": "wrong", "c3": "wrong", "c4": "correct"}})
    forced(root, "c1")
    deep = next(node for node in walk(root) if node.step == "h")
    assert deep.steps() == ["P\nc1", "g0", "h"]
    assert deep.height == 3
    shown = shown_input(QUESTION, deep.steps()[:-1], deep.steps()[-1:])
    assert [line for line in shown.splitlines() if line.startswith("# Step")] == ["# Step 1", "# Step 2", "# Step 3"]


def test_a_child_of_identical_siblings_is_worth_as_much_above_them():
    root = grown(FIVE)
    at(root, "P").mult = 2
    count(root)
    forced(root, "c1")
    assert share(root) == (4, 11)
    count(root)
    assert share(root) == (4, 11)


def test_where_rollouts_were_counted_no_label_changes():
    root = grown(FIVE)
    for node in walk(root):
        node.n_correct, node.n_total, node.mult = 3, 8, 4
    merge(root, lambda child: child.step == "c1", in_order, counted="rollouts")
    assert at(root, "P\nc1").mult == 4, "it came four times, as before"
    assert {share(node) for node in walk(root)} == {(3, 8)}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), order=st.sampled_from(["shuffled", "reference"]))
def test_compression_leaves_the_tree_alone_and_keeps_its_leaves_and_their_kinds(seed: int, order: Any):
    root = bushy(random.Random(seed))
    before = [dataclasses.replace(node, parent=None, children=[]).__repr__() for node in walk(root)]
    copy = compressed(root, f"p{seed}", order=order, rate=0.8, counted="leaves")
    assert [dataclasses.replace(node, parent=None, children=[]).__repr__() for node in walk(root)] == before
    nodes = list(walk(copy))
    assert sorted(node.name for node in nodes) == sorted(node.name for node in walk(root))
    assert Counter(n.leaf_kind for n in nodes if not n.children) == Counter(
        n.leaf_kind for n in walk(root) if not n.children
    )
    assert all(child.parent is node for node in nodes for child in node.children)
    text = {node.name: "\n".join(node.steps()) for node in walk(root)}
    assert {node.name: "\n".join(node.steps()) for node in nodes} == text, "the words of every solution are the same"
    assert share(copy) == share(root)
    counts = [share(node) for node in nodes]
    count(copy)
    assert [share(node) for node in nodes] == counts


def test_of_equal_inputs_and_labels_one_row_stays_and_the_compressed_copy_adds_the_rest():
    root = bushy(random.Random(5))
    found = rows(root, hnc_rate=0.9)
    shown = [(row["input"], row["label"]) for row in found]
    assert len(shown) == len(set(shown))
    added = [row for row in found if row["view"] == "hnc"]
    assert any(row["merged_node_ids"] for row in added)
    assert {row["view"] for row in rows(root, hnc=False)} == {"orig"}
    assert len(rows(root, hnc_rate=0.0)) == len(rows(root, hnc=False))


# ---- splits


def test_a_question_stands_on_one_side_whatever_its_problem_is_called_and_a_fifth_is_test():
    assert len({split_of(text, 0.2) for text in ("How  many?", "How many?", " How many?\n")}) == 1
    sides = Counter(split_of(f"question {number}", 0.2) for number in range(5000))
    assert sides["test"] / 5000 == pytest.approx(0.2, abs=0.02)
    assert {split_of(f"{n}", 0.0) for n in range(50)} == {"train"}
    assert {split_of(f"{n}", 1.0) for n in range(50)} == {"test"}
    assert {row["split"] for row in rows(bushy(random.Random(1)))} == {split_of(QUESTION, 0.2)}


@pytest.mark.parametrize(("share_", "kept"), [(1.0, False), (0.0, True)])
def test_the_released_test_split_has_no_coarse_rows_of_the_compressed_copy(share_: float, kept: bool):
    options = {"test_share": share_, "hnc_rate": 0.9}
    root = bushy(random.Random(5))
    coarse = [
        r for r in rows(root, test_coarse_on_hnc=False, **options) if (r["view"], r["granularity"]) == ("hnc", "pair")
    ]
    assert bool(coarse) is kept
    assert any((r["view"], r["granularity"]) == ("hnc", "pair") for r in rows(root, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hnc_rate": 1.5}, "hnc_rate = 1.5: a share between 0 and 1"),
        ({"test_share": -0.1}, "test_share = -0.1: a share"),
        ({"per_height": 0}, "per_height = 0: at least 1"),
        ({"one_label_rows": 0}, "one_label_rows = 0: at least 1"),
        ({"pair_margin": 3.0}, "pair_margin = 3.0: a difference of two values"),
        ({"pair_edits": -1}, "pair_edits = -1: characters"),
    ],
)
def test_options_that_cannot_work_say_what_would(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        check_rules(Rules(**options))


# ---- ReST-MCTS* values


def values(root: Node) -> dict[str, float]:
    steps = {node.name: node.step for node in walk(root)}
    return {steps[row["node_id"]]: row["value"] for row in value_rows(root)}


def test_values_rise_evenly_to_a_right_end_and_a_wrong_step_falls_by_what_was_left():
    root = grown({"one": {"two": {"three": "correct"}, "off": "wrong"}, "lost": "wrong"})
    found = values(root)
    assert [found[step] for step in ("one", "two", "three")] == pytest.approx([1 / 3, 2 / 3, 1])
    assert found["off"] == pytest.approx(1 / 9)
    assert found["lost"] == 0
    told = {row["node_id"]: (row["height"], row["m"], row["r"]) for row in value_rows(root)}
    assert told[at(root, "off").name] == (2, 2, 1)
    assert told[at(root, "lost").name] == (1, 3, 1)
    assert told[at(root, "one").name] == (1, 2, 0)


def test_the_nearest_right_end_counts_and_a_tree_without_one_has_no_values():
    root = grown({"a": {"b": "correct", "c": {"d": {"e": "correct"}}}})
    assert values(root)["a"] == 0.5
    assert values(grown({"a": {"b": "wrong"}, "c": "undecided"})) == {}
    assert made(grown({"a": {"b": "wrong"}})).tables["values"] == []
    assert made(grown(SMALL), rest=False).tables["values"] == []


def test_a_right_rollout_whose_steps_are_known_is_a_right_end():
    root = grown({"a": {"b": "wrong"}})
    at(root, "a").steps_left, at(root, "a").n_correct = 1, 2
    assert values(root) == {"a": 0.5, "b": 0.25}


# ---- sibling pairs


LONG = {
    "good": "Multiply three by eight, which is twenty-four.",
    "fair": "First look at what the second hint tells us.",
    "poor": "Guess: somewhere around one hundred, perhaps?",
    "bad": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
}


def side(name: str, q: float, *, best: float | None = None, worst: float | None = None) -> Side:
    return Side(
        Node(step=LONG[name], name=name), q, -math.inf if best is None else best, math.inf if worst is None else worst
    )


def test_two_steps_that_lead_to_right_ends_and_two_that_do_not_are_four_pairs():
    sides = [
        side("good", 0.9, best=0.9),
        side("fair", 0.5, best=0.5),
        side("poor", -0.2, worst=-0.2),
        side("bad", -0.8, worst=-0.8),
    ]
    pairs, counts = paired(sides)
    margins = {(p.node.name, n.node.name): round(p.q - n.q, 9) for p, n in pairs}
    assert margins == {("good", "bad"): 1.7, ("fair", "bad"): 1.3, ("good", "poor"): 1.1, ("fair", "poor"): 0.7}
    assert counts == (2, 2)
    assert all(differ(p.node.step, n.node.step, 20) for p, n in pairs)


def test_no_pairs_without_a_wrong_step_or_without_a_right_one():
    assert paired([side("good", 0.9, best=0.9), side("fair", 0.5, best=0.5)])[0] == []
    assert paired([side("poor", -0.2, worst=-0.2), side("bad", -0.8, worst=-0.8)])[0] == []
    assert list(pair_rows(grown({"a": {"b": "wrong", "c": "wrong"}}), edits=0)) == []


def test_a_side_of_one_meets_up_to_four_and_a_side_of_more_meets_two():
    def right(count: int) -> list[Side]:
        return [side("good", 0.9 - i / 100, best=0.9) for i in range(count)]

    def wrong(count: int) -> list[Side]:
        return [side("bad", -0.9 + i / 100, worst=-0.9) for i in range(count)]

    assert paired(right(1) + wrong(6))[1] == (1, 4)
    assert paired(right(6) + wrong(1))[1] == (4, 1)
    assert paired(right(6) + wrong(6))[1] == (2, 2)
    kept, _ = paired(right(6) + wrong(6))
    assert {(round(p.q, 2), round(n.q, 2)) for p, n in kept} == {(0.9, -0.9), (0.89, -0.9), (0.9, -0.89), (0.89, -0.89)}


def test_a_pair_needs_the_margin_and_a_better_way_down():
    assert paired([side("good", 0.3, best=0.3), side("bad", -0.2, worst=-0.2)])[0], "0.5 is enough"
    assert not paired([side("good", 0.29, best=0.3), side("bad", -0.2, worst=-0.2)])[0]
    assert not paired([side("good", 0.9, best=0.1), side("bad", 0.2, worst=0.1)])[0], "no better where they go on"


def test_pairs_of_a_tree_have_the_steps_before_them_and_what_was_counted():
    root = grown(
        {"so": {LONG["good"]: {"x": "correct", "y": "correct"}, LONG["bad"]: {"z": "wrong"}, "short": "wrong"}}
    )
    found = list(pair_rows(root))
    assert [(row["pos"], row["neg"], row["margin"]) for row in found] == [
        (LONG["good"], LONG["bad"], 2.0),
        (LONG["good"], "short", 2.0),
    ]
    assert found[0] | {"pos_id": "", "neg_id": "", "node_id": ""} == {
        "node_id": "", "pos_id": "", "neg_id": "", "height": 2, "prefix": ["so"], "pos": LONG["good"], "neg": LONG["bad"],
        "q_pos": 1.0, "q_neg": -1.0, "margin": 2.0, "pos_count": 1, "neg_count": 2,
    }  # fmt: skip
    assert made(root, pairs=False).tables["pairs"] == []
    assert list(pair_rows(grown({"abc": "correct", "abd": "wrong"}))) == [], "they say almost the same"


def ways_by_hand(node: Node) -> Iterator[tuple[float, str | None]]:
    """The mean of Q on each way down from a node, itself counted, and how it ends."""
    q = q_of(node)

    def below(at_: Node, sums: float, steps: int) -> Iterator[tuple[float, str | None]]:
        if not at_.children:
            yield sums / steps, at_.leaf_kind
        for child in at_.children:
            yield from below(child, sums + q_of(child), steps + 1)

    yield from below(node, q, 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_a_way_down_is_worth_the_mean_of_its_steps(seed: int):
    root = bushy(random.Random(seed))
    nodes = list(walk(root))
    ways = ways_down(nodes, "leaves")
    for node in nodes:
        found = list(ways_by_hand(node))
        right = [mean for mean, kind in found if kind == "correct"]
        wrong = [mean for mean, kind in found if kind not in ("correct", "undecided")]
        got = side_of(node, *ways[node.name])
        assert got.best == pytest.approx(max(right, default=-math.inf))
        assert got.worst == pytest.approx(min(wrong, default=math.inf))


def test_undecided_ends_count_among_all_and_pull_to_neither_side():
    root = grown({LONG["good"]: {"a": "correct", "b": "undecided"}, LONG["bad"]: {"c": "undecided", "d": "wrong"}})
    [row] = list(pair_rows(root))
    assert (row["q_pos"], row["q_neg"]) == (0.5, -0.5)


def levenshtein(one: str, other: str) -> int:
    last = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        line = [i]
        for j, b in enumerate(other, start=1):
            line.append(min(last[j] + 1, line[-1] + 1, last[j - 1] + (a != b)))
        last = line
    return last[-1]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(one=st.text("abc", max_size=14), other=st.text("abc", max_size=14), edits=st.integers(0, 9))
def test_the_edit_distance_is_levenshteins(one: str, other: str, edits: int):
    assert differ(one, other, edits) is (levenshtein(one, other) >= edits)


# ---- the picture


def life(root: Node, kind: str, name: str, **more: Any) -> dict[str, Any]:
    traces = [{"row": {"id": f"p1/{t.name}", "key": t.key, **t.columns}} for t in made(root, balance=False).traces]
    return {
        "asked": {"kind": kind, "id": name},
        "problem_id": "p1",
        "problem": {"question": QUESTION},
        "traces": traces,
        "tables": {"nodes": list(node_rows(root))},
        **more,
    }


def test_the_picture_of_a_node_is_the_way_to_it_with_its_counts():
    root = grown(SMALL)
    at(root, "A").low, at(root, "A").high = 0.01, 0.99
    expected = [
        "question  How many?",
        "  1  n000001  1/2  0.50 [0.01, 0.99]  good  A",
        "  2  n000003  0/1  0.00               bad   A2   <- wrong",
    ]
    assert list(picture(life(root, "nodes", "p1/n000003"))) == expected
    assert list(picture(life(root, "trace", "p1/n000003-orig-pair"))) == expected


def test_the_picture_of_a_problem_is_its_tree_as_far_as_there_is_room():
    lines = list(picture(life(grown(SMALL), "problem", "p1")))
    assert lines[0] == "7 nodes, 1/4 right"
    assert [line.split()[0] for line in lines[1:]] == ["├─", "│", "│", "└─", "├─", "└─"]
    wide = list(picture(life(grown({f"s{i:03}": "wrong" for i in range(300)}), "problem", "p1")))
    assert len(wide) == 82
    assert wide[-1] == "and 220 more; --json has all"


def test_no_text_of_a_step_breaks_the_picture():
    hostile = {"\x1b[2J\x07\r\n\u202e back": {"long " * 50_000: "wrong", "": "error"}}
    for kind, name in (("problem", "p1"), ("nodes", "p1/n000002"), ("nodes", "p1/n000003")):
        for line in picture(life(grown(hostile), kind, name)):
            assert line.isprintable()
            assert len(line) < 200


def test_a_table_that_is_no_tree_is_drawn_as_far_as_it_goes():
    found = life(grown(SMALL), "nodes", "p1/n000003")
    found["tables"]["nodes"][1]["parent_id"] = "p1/n000003"
    assert list(picture(found))[-1].strip() == "the way ends here: it comes back to p1/n000003"
    found["tables"]["nodes"][1]["parent_id"] = "p1/gone"
    assert list(picture(found))[-1].strip() == "the way ends here: there is no node p1/gone"
    found["tables"]["nodes"][0]["parent_id"] = "p1/n000003"
    assert "this is no tree" in next(iter(picture(life(grown(SMALL), "problem", "p1") | {"tables": found["tables"]})))
    assert list(picture(life(grown(SMALL), "problem", "p1") | {"tables": {}})) == []
