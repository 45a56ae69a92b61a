"""Step trees on a scripted model: the truths of the papers, labels with error bars, and the cases at the edges."""

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tracemill.pipelines.build import Built, build
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError, RequestRefused
from tracemill.schemas.recipe import Recipe, load_recipe, parse_recipe
from tracemill.schemas.request import Completion, Request
from tracemill.synth.step_tree.evidence import Counts, Rule
from tracemill.synth.step_tree.interval import interval, wrong_enough
from tracemill.synth.step_tree.labels import mark_first_errors
from tracemill.synth.step_tree.layout import Layout
from tracemill.synth.step_tree.omega import score
from tracemill.synth.step_tree.tree import Node

RECIPES = Path(__file__).parents[1] / "data" / "recipes"
RIGHT, WRONG = r"\boxed{7}", r"\boxed{0}"
Plan = Callable[[int, int, str], list[str]]
"""(height of the prefix, number of the draw, prefix) -> the steps that follow; the last one holds the answer."""
Tables = dict[str, pl.DataFrame]


def written(steps: list[str], height: int) -> str:
    """The steps as a model writes them behind so many others."""
    *before, last = steps
    text = "".join(f"# Step {number}\n{step}\n" for number, step in enumerate(before, start=height + 1))
    step, _, answer = last.rpartition(" ")
    return f"{text}# Step {height + len(steps)}\n{step}\n# Answer\n{answer}\n# END!"


def height_of(request: Request) -> int:
    return str(request.prefix or "").count("# Step")


@pytest.fixture
def grown(tmp_path: Path) -> Callable[..., Tables]:
    """Builds one problem, whose answer is 7, with a plan in place of a model; options of the method are keywords."""
    source = tmp_path / "one.jsonl"
    source.write_text(json.dumps({"id": "p", "question": "3 + 4?", "answer": "7"}) + "\n", encoding="utf-8")

    def make(
        plan: Plan | None = None, *, reply: Any = None, asked: list[Request] | None = None, **options: Any
    ) -> Tables:
        def answer(request: Request) -> Any:
            if asked is not None:
                asked.append(request)
            if plan is None:
                return reply(request)
            height = height_of(request)
            return written(plan(height, request.index, str(request.prefix or "")), height)

        built = build(
            recipe(source, **options), Store(tmp_path / f"store{len(list(tmp_path.iterdir()))}"), reply=answer
        )
        return read(built)

    return make


Grown = Callable[..., Tables]


def recipe(source: Path, tables: dict[str, Any] | None = None, **options: Any) -> Recipe:
    table = {
        "name": "trees",
        "source": {"path": str(source)},
        "model": {"name": "scripted-solver", "max_tokens": 100_000},
        "engine": {"kind": "scripted"},
        "synth": {"use": "step_tree", **options},
    }
    return parse_recipe({**table, **(tables or {})})


def read(built: Built) -> Tables:
    return {name: built.dataset.scan(name).collect() for name in built.dataset.tables()}


def by_step(nodes: pl.DataFrame, column: str) -> dict[str, Any]:
    return dict(nodes.select("step", column).iter_rows())


# ---- OmegaPRM


def eight(height: int, draw: int, prefix: str) -> list[str]:
    """Eight steps, of which the seventh is wrong: values 0.25 after four, 0.5 after six, 0 after seven."""
    wrong = [f"s{n}" for n in range(height + 1, 8)] + [f"s8 {WRONG}"]
    right = [f"r{height + 1}", f"done {RIGHT}"]
    if height == 0:
        return wrong if draw == 0 else right
    return right if draw < {4: 2, 6: 4}.get(height, 0) else wrong


def test_the_eight_steps_of_the_papers_figure_take_three_probes_and_24_rollouts(grown: Grown):
    asked: list[Request] = []
    found = grown(eight, asked=asked, rollouts="fixed", k=8, search_limit=1)
    probes = Counter(height_of(request) for request in asked)
    assert probes == {0: 32, 4: 8, 6: 8, 7: 8}
    assert list(probes) == [0, 4, 6, 7]
    nodes = found["nodes"]
    assert nodes.filter("is_first_error")["step"].to_list() == ["s7"]
    drawn = nodes.filter(pl.col("n_total") == 8)
    assert dict(drawn.select("step", "n_correct").iter_rows()) == {"s4": 2, "s6": 4, "s7": 0}
    assert by_step(drawn, "label_soft") == {"s4": 0.25, "s6": 0.5, "s7": 0.0}
    assert by_step(drawn, "search_iter") == {"s4": 1, "s6": 1, "s7": 1}
    hard = by_step(nodes, "label_hard")
    assert [hard[f"s{n}"] for n in range(1, 8)] == [1, 1, 1, 1, 1, 1, 0]
    assert found["trees"].select("rollouts", "stopped").row(0) == (56, "search_limit")


def test_of_an_odd_number_of_steps_the_shorter_half_is_probed_first(grown: Grown):
    def plan(height: int, draw: int, prefix: str) -> list[str]:
        if height == 0 and draw == 0:
            return ["a", "b", f"c {WRONG}"]
        return [f"right {RIGHT if height < 2 else WRONG}"]

    asked: list[Request] = []
    found = grown(plan, asked=asked, rollouts="fixed", search_limit=1)
    assert list(Counter(map(height_of, asked))) == [0, 1, 2]
    assert found["nodes"].filter("is_first_error")["step"].to_list() == ["b"]


def test_adaptive_rollouts_find_the_same_error_for_fewer(grown: Grown):
    asked: list[Request] = []
    found = grown(eight, asked=asked, search_limit=1)
    # the question: a wrong and a right one in the first look of four. That wrong one counts at each probe: at 4 and at 6 one more
    # settles it, being right, and at 7 seven more do
    assert Counter(map(height_of, asked)) == {0: 4, 4: 1, 6: 1, 7: 7}
    assert found["nodes"].filter("is_first_error")["step"].to_list() == ["s7"]


def test_the_rollout_that_is_searched_next_is_the_papers():
    first, second = score(Counts(4, 8), 250, 1, 3), score(Counts(7, 8), 1000, 2, 3)
    assert (round(first, 4), round(second, 4)) == (0.7791, 0.8149)


def test_of_two_wrong_rollouts_the_one_with_the_higher_score_is_searched_first(grown: Grown):
    def plan(height: int, draw: int, prefix: str) -> list[str]:
        if height == 0 and draw < 2:
            name = "ab"[draw]
            return [f"{name}{n}" + " and so on" * (20 if draw == 0 else 0) for n in (1, 2, 3)] + [f"{name}4 {WRONG}"]
        return [f"r {RIGHT}"]

    asked: list[Request] = []
    grown(plan, asked=asked, rollouts="fixed", k=2, search_limit=1)
    assert {str(request.prefix).splitlines()[1] for request in asked if request.prefix} == {"b1"}  # the short one


@pytest.mark.parametrize(("right", "reason"), [(True, "all_correct"), (False, "no_correct_sample")])
def test_a_question_whose_rollouts_all_end_alike_is_turned_down_after_32(right: bool, reason: str, grown: Grown):
    found = grown(lambda height, draw, prefix: [f"a{draw % 3}", f"b {RIGHT if right else WRONG}"])
    assert found["rejected"]["reason"].to_list() == [reason]
    assert json.loads(found["rejected"]["evidence"][0]) == {"correct": 32 * right, "drawn": 32, "undecided": 0}
    assert found["trees"].select("outcome", "rollouts").row(0) == (reason, 32)
    assert found["nodes"].filter(pl.col("height") == 1)["mult"].sum() == 32
    assert len(found["rows"]) == 0


def test_a_solution_of_one_step_is_the_error_and_no_rollout_is_drawn_for_it(grown: Grown):
    asked: list[Request] = []
    found = grown(lambda h, draw, p: [f"only {WRONG}"] if draw == 0 else [f"right {RIGHT}"], asked=asked)
    assert set(map(height_of, asked)) == {0}
    assert found["nodes"].filter("is_first_error")["leaf_kind"].to_list() == ["wrong"]


def test_no_rollout_is_drawn_twice_and_what_is_known_of_a_prefix_is_not_asked_again(grown: Grown):
    asked: list[Request] = []
    found = grown(eight, asked=asked, rollouts="fixed", k=8)
    assert len({request.key for request in asked}) == len(asked)
    inner = found["nodes"].filter(pl.col("leaf_kind").is_null() & (pl.col("height") > 0))
    assert set(inner["n_total"]) == {0, 8}
    assert found["trees"]["rollouts"].to_list() == [32 + inner["n_total"].sum()]
    assert found["trees"]["stopped"].to_list() == [None]


# ---- Math-Shepherd


def four(height: int, draw: int, prefix: str) -> list[str]:
    """One solution of four steps and an answer; 6, 3, 0, 0 of eight completions of its steps are right."""
    if height == 0:
        return ["one", "two", "three", "four", f"five {WRONG}"] if draw == 0 else [f"right {RIGHT}"]
    right = draw < {1: 6, 2: 3}.get(height, 0)
    return [f"end{draw} {RIGHT if right else WRONG}"]


def test_counts_of_6_3_0_0_give_the_labels_of_math_shepherd(grown: Grown):
    found = grown(four, search="shepherd", rollouts="fixed", solutions=2)
    steps = found["nodes"].filter(pl.col("step").is_in(["one", "two", "three", "four"]))
    assert by_step(steps, "n_correct") == {"one": 6, "two": 3, "three": 0, "four": 0}
    assert set(steps["n_total"]) == {8}
    assert by_step(steps, "label_soft") == {"one": 0.75, "two": 0.375, "three": 0.0, "four": 0.0}
    assert by_step(steps, "label_hard") == {"one": 1, "two": 1, "three": 0, "four": 0}
    assert found["nodes"].filter("is_first_error")["step"].to_list() == ["three"]
    assert found["trees"]["rollouts"].to_list() == [2 + 4 * 8]


def test_adaptively_a_solution_counts_for_its_own_prefixes_and_what_is_clear_is_not_drawn_on(grown: Grown):
    found = grown(four, search="shepherd", solutions=2)
    steps = found["nodes"].filter(pl.col("step").is_in(["one", "two", "three", "four"]))
    # each prefix has the wrong solution it is of; one right continuation ends it, and eight wrong ones in all
    assert by_step(steps, "n_total") == {"one": 2, "two": 2, "three": 8, "four": 8}
    assert by_step(steps, "n_correct") == {"one": 1, "two": 1, "three": 0, "four": 0}
    assert found["trees"]["rollouts"].to_list() == [2 + 1 + 1 + 7 + 7]


def test_a_step_behind_one_that_is_unknown_is_no_first_error():
    root = Node("")
    unknown = root.add(Node("a"))
    behind = unknown.add(Node("b", label_hard=0))
    good = root.add(Node("c", label_hard=1))
    bad = good.add(Node("d", label_hard=0))
    worse = bad.add(Node("e", label_hard=0))
    mark_first_errors(root)
    assert [node.is_first_error for node in (unknown, behind, good, bad, worse)] == [False, False, False, True, False]


def test_with_a_threshold_no_error_is_looked_for_behind_a_step_that_is_bad_already(grown: Grown):
    """Behind `bad` one continuation in eight ends right: not above 0.5, though some are right."""

    def plan(height: int, draw: int, prefix: str) -> list[str]:
        if height == 0:
            return ["bad", "on", "further", f"end {WRONG}"] if draw % 2 else [f"right {RIGHT}"]
        return [f"other {draw}", f"rest {RIGHT if draw % 8 == 0 else WRONG}"]

    nodes = grown(plan, threshold=0.5, prefilter=8, rollouts="fixed", k=16)["nodes"]
    assert nodes.filter("is_first_error")["step"].to_list() == ["bad"]


def test_more_may_pass_a_step_than_would_be_drawn_from_it(grown: Grown):
    """Everything goes through `a`, `b` and `c`, and what was drawn from the question and from `a` counts behind `c`, too."""

    def plan(height: int, draw: int, prefix: str) -> list[str]:
        end = f"end {RIGHT if draw % 2 else WRONG}"
        return [*("abcde"[height:]), end]

    nodes = grown(plan, threshold=0.5, most=1000, prefilter=8)["nodes"]
    assert nodes["n_total"].max() > 1000


# ---- HRM's released trees


def test_every_node_is_expanded_breadth_first_and_worth_its_share_of_right_leaves(grown: Grown):
    def plan(height: int, draw: int, prefix: str) -> str:
        """A and B; below A a right and a wrong leaf, below B two wrong ones."""
        if str(prefix) == "# Step 1\n":
            return f"{'AB'[draw]}\n# Step 2"
        right = "\nA\n" in f"\n{prefix}" and draw == 0
        return f"leaf{draw}\n# Answer\n{RIGHT if right else WRONG}\n# END!"

    asked: list[Request] = []
    found = grown(
        reply=lambda r: plan(height_of(r), r.index, str(r.prefix)), asked=asked, search="bfs", branching=2, hnc=False
    )
    soft = {(row["step"][:1], row["height"], row["label_soft"]) for row in found["nodes"].to_dicts()}
    assert {("A", 1, 0.5), ("B", 1, 0.0), ("l", 2, 1.0), ("l", 2, 0.0)} <= soft
    assert found["rows"].group_by("granularity").len().sort("granularity").rows() == [("pair", 2), ("single", 4)]
    assert {request.sampling.temperature for request in asked} == {0.1}
    assert asked[0].sampling.stop == ("# Step 2", "# END!")
    assert found["nodes"].filter(pl.col("leaf_kind") == "correct").height == 1


def test_in_paragraphs_a_blank_line_ends_a_step_and_the_model_ends_the_solution(grown: Grown):
    def reply(request: Request) -> str:
        assert request.sampling.stop == ("\n\n",)
        return f"done {RIGHT}" if request.prefix or request.index else "first\n\n"

    nodes = grown(reply=reply, search="bfs", steps="paragraphs", branching=2)["nodes"]
    assert sorted(nodes.filter(pl.col("height") > 0).select("height", "step", "leaf_kind", "mult").rows()) == [
        (1, f"done {RIGHT}", "correct", 1),
        (1, "first", None, 1),
        (2, f"done {RIGHT}", "correct", 2),
    ]


def test_at_the_height_limit_what_has_no_answer_is_a_leaf_that_is_not_right(grown: Grown):
    found = grown(reply=lambda r: f"go on {r.index}", search="bfs", branching=2, height=2)
    assert Counter(found["nodes"]["leaf_kind"]) == {None: 3, "height_limit": 4}
    assert set(found["nodes"]["n_correct"]) == {0}


def test_identical_siblings_become_one_node_that_counts_for_all_of_them(grown: Grown):
    def plan(request: Request) -> str:
        if height_of(request) == 1:
            return "same" if request.index < 3 else f"other\n# Answer\n{RIGHT}\n# END!"
        return f"end\n# Answer\n{WRONG if request.index else RIGHT}\n# END!"

    asked: list[Request] = []
    nodes = grown(reply=plan, asked=asked, search="bfs", branching=4)["nodes"]
    assert len(asked) == 8
    top = {row["step"].splitlines()[0]: row for row in nodes.filter(pl.col("height") == 1).to_dicts()}
    assert (top["same"]["mult"], top["other"]["mult"]) == (3, 1)
    assert (top["same"]["n_correct"], top["same"]["n_total"]) == (1, 4)
    root = nodes.filter(pl.col("height") == 0).row(0, named=True)
    assert (root["n_correct"], root["n_total"]) == (3 * 1 + 1, 3 * 4 + 1)


# ---- labels with error bars


def missed(share: Fraction, confidence: Fraction, most: int) -> float:
    """The exact probability that the interval leaves out the true share at any count up to `most`."""
    alive, lost = {0: 1.0}, 0.0
    for total in range(1, most + 1):
        after: Counter[int] = Counter()
        for correct, mass in alive.items():
            after[correct] += mass * float(1 - share)
            after[correct + 1] += mass * float(share)
        alive = {}
        for correct, mass in after.items():
            low, high = interval(correct, total, confidence)
            if low <= share <= high:
                alive[correct] = mass
            else:
                lost += mass
    return lost


@pytest.mark.parametrize("share", ["0", "0.02", "0.1", "0.3", "0.5", "0.77", "0.95", "1"])
def test_the_interval_holds_at_all_counts_at_once_as_often_as_it_says(share: str):
    for confidence in ("0.8", "0.95"):
        assert missed(Fraction(share), Fraction(confidence), 80) <= 1 - float(confidence)


def test_an_interval_that_is_read_until_it_pleases_still_covers():
    """By simulation: stop at the first look that leaves a half out, or at 64; then the share is inside as often as promised."""
    luck, rule, outside = random.Random(7), Rule(k=None, threshold=Fraction(1, 2)), 0
    for _ in range(2000):
        share, counts = luck.choice([0.05, 0.35, 0.5, 0.65, 0.9]), Counts()
        while n := rule.more(counts):
            for _ in range(n):
                counts = counts.and_one(luck.random() < share)
        low, high = rule.interval(counts)
        outside += not low <= share <= high
    assert outside / 2000 <= 0.05


@pytest.mark.parametrize(
    ("counts", "more", "label"),
    [
        (Counts(), 2, None),
        (Counts(0, 2), 2, None),
        (Counts(0, 4), 4, None),
        (Counts(0, 8), 0, 0),  # the upper end is 0.3927
        (Counts(1, 2), 0, 1),
        (Counts(0, 8, 3), 3, None),  # five wrong ones and three of which nobody knows
        (Counts(0, 64, 64), 0, None),
    ],
)
def test_adaptive_rollouts_stop_where_the_label_is_clear(counts: Counts, more: int, label: int | None):
    rule = Rule(k=None)
    assert (rule.more(counts), rule.hard(counts)) == (more, label)


def test_around_a_threshold_more_is_drawn_the_closer_the_value_is_to_it():
    rule, luck, spent = Rule(k=None, threshold=Fraction(1, 2), most=256), random.Random(3), dict[float, int]()
    for share in (0.5, 0.7, 0.9, 1.0):
        for _ in range(40):
            counts = Counts()
            while n := rule.more(counts):
                for _ in range(n):
                    counts = counts.and_one(luck.random() < share)
            spent[share] = spent.get(share, 0) + counts.total
    assert spent[0.5] > spent[0.7] > spent[0.9] > spent[1.0]


def test_the_fixed_protocol_leaves_open_what_undecided_answers_could_turn():
    rule = Rule(k=8)
    assert (rule.more(Counts(0, 3)), rule.more(Counts(0, 8, 2))) == (5, 0)
    assert (rule.hard(Counts(0, 8)), rule.hard(Counts(0, 8, 2)), rule.hard(Counts(1, 8, 7))) == (0, None, 1)
    half = Rule(k=8, threshold=Fraction(1, 2))
    assert (half.hard(Counts(4, 8)), half.hard(Counts(5, 8)), half.hard(Counts(4, 8, 1))) == (0, 1, None)


LUCK = (0.95, 0.5, 0.1, 0.0)
"""How often a solution ends right, by how many of its three steps went the bad way; each does three times in ten."""


def wander(request: Request) -> str:
    luck = random.Random(request.rng_seed)
    height, bad = height_of(request), str(request.prefix or "").count("bad")
    steps = []
    for _ in range(height + 1, 4):
        steps.append("bad" if luck.random() < 0.3 else "good")
        bad += steps[-1] == "bad"
    answer = RIGHT if luck.random() < LUCK[bad] else WRONG
    return written([*steps, f"so {answer}"], height)


def value(height: int, bad: int) -> float:
    return LUCK[bad] if height == 3 else 0.7 * value(height + 1, bad) + 0.3 * value(height + 1, bad + 1)


@pytest.mark.parametrize("search", ["omega", "shepherd"])
def test_labels_hold_what_they_promise_of_values_that_are_known(search: str, tmp_path: Path, store: Store):
    """Solutions count at every prefix they pass, and searches look where they went wrong: the intervals have to stand that."""
    source, problems = tmp_path / "many.jsonl", 60
    rows = [{"id": f"p{i}", "question": f"{i} + 4?", "answer": "7"} for i in range(problems)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    nodes = read(build(recipe(source, search=search), store, reply=wander))["nodes"]
    seen, outside, wrong = 0, 0, 0
    for _, tree in nodes.group_by("problem_id"):
        bad = {None: 0}
        for row in tree.sort("height", "id").to_dicts():
            bad[row["id"]] = (bad[row["parent_id"]] if row["parent_id"] else 0) + (row["step"] == "bad")
            if row["n_total"] and 0 < row["height"] < 4:
                truth = value(row["height"], bad[row["id"]])
                seen += 1
                outside += not row["low"] <= truth <= row["high"]
                wrong += (row["label_hard"] == 0 and truth > 0.4) or (row["label_hard"] == 1 and truth == 0)
    assert seen > 400
    assert outside <= 0.05 * seen
    assert wrong <= 0.05 * seen


def test_how_many_wrong_ones_it_takes_follows_from_what_is_small_enough():
    assert [wrong_enough(Fraction(value), Fraction("0.95")) for value in ("0.4", "0.2", "0.1")] == [8, 19, 39]
    assert wrong_enough(Fraction("0.001"), Fraction("0.95")) is None


def test_intervals_are_a_column_and_unknown_labels_are_null(grown: Grown):
    def reply(request: Request) -> str:
        if height_of(request) == 0:
            return written(["a", "b", f"c {WRONG}"] if request.index == 0 else [f"d {RIGHT}"], 0)
        return "# Step 3\nnothing boxed\n# Answer\nI cannot tell.\n# END!"

    found = grown(reply=reply, most=8)
    probed = found["nodes"].filter(pl.col("step") == "a").row(0, named=True)
    assert (probed["n_correct"], probed["n_total"], probed["n_undecided"]) == (
        0,
        8,
        7,
    )  # the wrong one came through here
    assert (probed["low"], probed["high"], probed["label_hard"]) == (0.0, 0.975, None)
    assert found["nodes"].filter("is_first_error").height == 0


# ---- the small model


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_recipe_that_ships_finds_errors_of_the_small_model(store: Store):
    pytest.importorskip("vllm", reason="needs vLLM: make demo installs its CPU build")
    shipped = load_recipe(RECIPES / "step-tree.toml")
    built = build(shipped.model_copy(update={"source": (shipped.source[0].model_copy(update={"limit": 10}),)}), store)
    found = read(built)
    assert found["nodes"].filter("is_first_error").height > 0
    assert found["trees"].height == 10
    card = (built.dataset.path / "README.md").read_text()
    assert "no judgement of the step" in card
    assert "unknown" in card
    engine = json.dumps(built.dataset.manifest())
    assert '"block_size": 32' in engine
    assert re.search(r'"cached_tokens": [1-9]', engine)


# ---- bad input


def test_a_solution_without_headers_or_end_mark_is_taken_as_it_is():
    layout = Layout("headers")
    assert layout.split("no header at all") == ["no header at all"]
    assert layout.split("first\n# Step 2\nsecond") == ["first", "second"]
    assert layout.split("# Step 1\na\n# Step 2\nb\n# Answer\n7") == ["a", "b\n# Answer\n7"]
    assert layout.split("# Step 1\na\n# Answer\n7\n# END! and on # Step 9\nx") == ["a\n# Answer\n7"]
    assert layout.split("## step 1: a\n\n\n# Step 2\n\n# STEP 3.\nc") == ["a", "c"]
    assert layout.split("") == layout.split("# END!") == []


def test_what_is_split_is_put_before_the_model_as_it_was():
    text = "# Step 1\na\n# Step 2\nb\n"
    assert Layout("headers").prefix(Layout("headers").split(text)) == text
    assert Layout("headers").prefix([]) is None
    assert Layout("headers").prefix(["a"], opened=True) == "# Step 1\na\n# Step 2\n"
    whole = "a\n\n```\nx\n\ny\n```\n\n"
    assert Layout("paragraphs").prefix(Layout("paragraphs").split(whole)) == whole


def test_models_that_write_paragraphs_are_searched_in_paragraphs(grown: Grown):
    def reply(request: Request) -> str:
        height = str(request.prefix or "").count("\n\n")
        if height == 0:
            return f"a\n\nb\n\nc {WRONG}" if request.index == 0 else f"fine {RIGHT}"
        return f"so {RIGHT if height == 1 else WRONG}"

    asked: list[Request] = []
    found = grown(reply=reply, asked=asked, steps="paragraphs")
    assert {str(request.prefix) for request in asked} == {"None", "a\n\n", "a\n\nb\n\n"}
    assert found["nodes"].filter("is_first_error")["step"].to_list() == ["b"]


def test_a_model_that_writes_nothing_gives_a_tree_that_is_too_small(grown: Grown):
    found = grown(reply=lambda request: "", search="bfs")
    assert found["rejected"]["reason"].to_list() == ["no_labels"]
    assert found["nodes"].select("leaf_kind", "mult").rows() == [(None, 1), ("error", 5)]
    shepherd = grown(reply=lambda request: "", search="shepherd")
    assert shepherd["rejected"]["reason"].to_list() == ["no_correct_sample"]


def test_a_step_of_20_000_tokens_is_a_step_like_any_other(grown: Grown):
    long = "word " * 20_000 + "end"

    def plan(height: int, draw: int, prefix: str) -> list[str]:
        if height == 0:
            return ["a", long, "c", f"d {WRONG}"] if draw == 0 else [f"fine {RIGHT}"]
        return [f"so {RIGHT if height < 3 else WRONG}"]

    nodes = grown(plan)["nodes"]
    assert nodes.filter(pl.col("step") == long)["n_tokens"].to_list() == [20_001]
    assert nodes.filter("is_first_error")["step"].to_list() == ["c"]


def test_a_prefix_that_the_backend_refuses_ends_there_and_the_tree_goes_on(grown: Grown):
    def reply(request: Request) -> str:
        if height_of(request) == 2:
            raise RequestRefused("the prompt is longer than the context")
        steps = ["a", "b", "c", f"d {WRONG}"] if request.index == 0 else [f"fine {RIGHT}"]
        return written(steps if height_of(request) == 0 else [f"so {RIGHT}"], height_of(request))

    found = grown(reply=reply)
    refused = found["nodes"].filter(pl.col("leaf_kind") == "error")
    assert refused["step"].to_list() == ["b"]
    assert refused["label_hard"].to_list() == [None]
    assert found["problems"]["outcome"].to_list() == ["chosen"]


def test_a_rollout_that_ran_out_of_tokens_is_wrong_and_its_last_step_is_blamed_for_nothing(grown: Grown):
    def reply(request: Request) -> Any:
        if request.index == 0 and height_of(request) == 0:
            return Completion(
                text="# Step 1\na\n# Step 2\nand the", finish_reason="length", n_tokens=9, counted="words"
            )
        return written([f"fine {RIGHT}"], 0)

    found = grown(reply=reply)
    assert found["nodes"].filter("is_first_error").height == 0
    cut = found["nodes"].filter(pl.col("leaf_kind") == "height_limit").row(0, named=True)
    assert (cut["step"], cut["n_total"], cut["label_hard"]) == ("and the", 0, None)


@pytest.mark.parametrize("search", ["omega", "shepherd", "bfs"])
def test_a_tree_that_has_cost_what_it_may_is_kept_and_says_so(search: str, grown: Grown):
    def reply(request: Request) -> str:
        if search == "bfs":
            return f"step {request.index} with some words"
        height = height_of(request)
        return written(eight(height, request.index, str(request.prefix or "")), height)

    few = {"branching": 2} if search == "bfs" else {}
    whole = grown(reply=reply, search=search, **few)["trees"]
    assert whole["stopped"].to_list() == [None]
    limit = whole["tokens"].item() // 3
    found = grown(reply=reply, search=search, max_tokens_per_problem=limit, **few)
    tree = found["trees"].row(0, named=True)
    assert tree["stopped"] == "token_budget"
    assert limit <= tree["tokens"] < whole["tokens"].item()
    assert found["nodes"].height > 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"search": "shepherd", "branching": 5}, "branching belongs to search = 'bfs'"),
        ({"search": "bfs", "k": 4}, "draws no rollouts"),
        ({"k": 4}, "k belongs to rollouts = 'fixed'"),
        ({"rollouts": "fixed", "most": 9}, "most belongs to rollouts = 'adaptive'"),
        ({"min_value": 0.01}, "takes 390 rollouts|takes .* rollouts without a right one"),
        ({"threshold": 0.5, "min_value": 0.3}, "min_value decides where threshold = 0"),
        ({"threshold": 1.0}, "threshold = 1.0"),
        ({"confidence": 1.0}, "confidence = 1.0"),
        ({"prefilter": 0}, "prefilter = 0"),
        ({"max_tokens_per_problem": 0}, "max_tokens_per_problem = 0"),
        ({"prompt": "no place"}, "has no place for the problem"),
        ({"search": "mcts"}, "search"),
        ({"rollouts": "fixed", "k": 5000}, "k = 5000"),
        ({"prefilter": 1500}, "prefilter = 1500: .* 1 to 1000"),
        ({"search": "shepherd", "solutions": 1500}, "solutions = 1500: .* 1 to 1000"),
    ],
)
def test_options_that_cannot_work_are_refused_before_the_first_token(options: dict[str, Any], said: str, grown: Grown):
    with pytest.raises(RecipeError, match=said):
        grown(reply=lambda request: pytest.fail("asked"), **options)


def test_a_gold_that_nothing_can_be_told_from_costs_no_token(tmp_path: Path, store: Store):
    source = tmp_path / "one.jsonl"
    gold = "Because the sum of the angles is 180 the triangle is isosceles."
    source.write_text(json.dumps({"id": "p", "question": "?", "answer": gold}) + "\n", encoding="utf-8")
    found = read(build(recipe(source), store, reply=lambda request: pytest.fail("asked")))
    assert found["rejected"]["reason"].to_list() == ["unverifiable_gold"]
