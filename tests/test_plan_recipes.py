"""Recipes that put a plan in front of a solution: plan_execute_split, code_plan. The numbers are worked out by hand."""

import json
import re
from array import array
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import PROBLEMS
from tracemill.pipelines.build import Built, build
from tracemill.pipelines.scale.shards import Shard, build_shard, gather
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError, TooManyFailures
from tracemill.schemas.recipe import Recipe, load_recipe
from tracemill.schemas.request import Message, Request, TokenScores
from tracemill.schemas.rows import Problem, by_lot, draw
from tracemill.synth.backends.scripted import Scripted
from tracemill.synth.code_plan import useless
from tracemill.synth.plans import _likeness, asking, followed, leak, matches, titles
from tracemill.synth.plans_code import Code, unsound

Make = Callable[..., Recipe]
ROOT = Path(__file__).parents[1]
PLAIN = {"filters": [], "select": []}


def built(recipe: Make, store: Store, reply: Callable[[Request], Any], **changes: Any) -> Built:
    return build(recipe(**{**PLAIN, **changes}), store, reply=reply)


def rows(made: Built) -> list[dict[str, Any]]:
    return made.dataset.scan().collect().sort("id").to_dicts()


def rejected(made: Built) -> list[dict[str, Any]]:
    return made.dataset.scan("rejected").collect().to_dicts()


def reasons(made: Built) -> dict[str, int]:
    return dict(made.dataset.scan("rejected").collect()["reason"].value_counts().rows())


def gold(request: Request) -> int:
    number = int(request.problem_id[1:])
    return number + number % 3


# ---- titles, adherence, leaks


def test_three_words_of_four_are_a_match_and_a_third_is_one_in_the_loose_way_alone():
    section = "Set up equation for total"
    assert _likeness(["set", "up", "the", "equation"], section.lower().split()) == Fraction(3, 4)
    assert _likeness(["solve", "for", "x"], section.lower().split()) == Fraction(1, 3)
    assert [matches("Set up the equation", section, way) for way in ("loose", "strict")] == [True, True]
    assert [matches("Solve for x", section, way) for way in ("loose", "strict")] == [True, False]
    assert not matches("Add numbers", "Add apples", "strict"), "half of the words is not more than half"
    assert not matches("Solve linear system", "Solve another thing", "strict")
    assert matches("That is it", "That is it", "strict"), "stop words alone are words"


def test_titles_stand_behind_numbers_at_the_beginning_of_lines_and_decimals_are_none():
    text = "Plan:\n1. **Set up** it\n  2.Solve\n3.5 is no title\nso 3. neither\n10. Check  \n4.\n"
    assert titles(text) == ["Set up it", "Solve", "Check"]


@pytest.mark.parametrize(
    ("sections", "share", "ordered"),
    [
        (["read numbers", "add them", "check sum"], Fraction(1), True),
        (["look", "read numbers", "add them", "check sum"], Fraction(1), True),
        (["read numbers", "check sum"], Fraction(2, 3), True),
        (["add them", "read numbers", "check sum"], Fraction(1), False),
        (["read numbers, add them, check sum"], Fraction(1), False),
        ([], Fraction(0), True),
    ],
)
def test_an_execution_follows_a_plan_with_a_section_for_each_title_in_its_order(
    sections: list[str], share: Fraction, ordered: bool
):
    assert followed(["read numbers", "add them", "check sum"], sections, "strict") == (share, ordered)


def test_nothing_follows_a_plan_without_titles():
    assert followed([], ["add"], "loose") == (0, False)


TITLES = st.lists(st.text("abc of the 1.x", min_size=1, max_size=12), max_size=5)


@settings(max_examples=200, deadline=None)
@given(plan=TITLES, sections=TITLES, way=st.sampled_from(["loose", "strict"]))
def test_adherence_is_a_share_and_a_plan_follows_itself(plan: list[str], sections: list[str], way: Any):
    share, _ = followed(plan, sections, way)
    assert 0 <= share <= 1
    share, ordered = followed(plan, plan, way)
    worded = [title for title in plan if way == "loose" or any(ch.isalnum() for ch in title)]
    assert share == (Fraction(len(worded), len(plan)) if plan else 0)
    assert ordered or not plan


@pytest.mark.parametrize(
    ("plan", "wanted", "told"),
    [
        ("1. Find 24", "24", True),
        ("1. Find 24.0 apples", "24", True),
        ("1. It ends at 1,024", "1024", True),
        ("1. Find 240 or 2.4 or x24", "24", False),
        ("24. Find it", "24", False),
        ("1. Take 2 of them", "2", True),
        ("1. Go to paris", "Paris", True),
        ("1. Go to Parisian cafes", "Paris", False),
        ("1. A sum of two", "A", False),
        ("1. Anything", None, False),
    ],
)
def test_a_gold_in_a_plan_is_found_as_a_whole_number_or_word(plan: str, wanted: str | None, told: bool):
    assert (leak(plan, wanted, "no numbers", 0.25) == {"gold": wanted}) == told


def test_a_plan_may_name_a_quarter_of_the_solutions_numbers_and_no_more():
    solution = "1. 3 * 8 = 24\n2. 24 - 5 = 19\nStep 7: 3 again"  # 3, 8, 24, 5, 19: five different ones
    assert leak("Take 3", "9", solution, 0.25) is None
    assert leak("Take 3 and 8", "9", solution, 0.25) == {"numbers": ["3", "8"], "of": 5, "share": 0.25}
    assert leak("Take 3", "9", "3 = 3, 8, 24, 5", 0.25) is None, "just a quarter"
    assert leak("Take 3", "9", solution, 0.0) is not None
    assert leak("Take 77", "9", "no number at all", 0.0) is None


@settings(max_examples=200, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 999), min_size=1, max_size=6),
    mark=st.sampled_from(["{}. ", "{}) ", "Step {}: ", "  {}. ", "**{}.** ", "{}: "]),
    wanted=st.integers(0, 999),
)
def test_the_numbering_of_titles_never_leaks(numbers: list[int], mark: str, wanted: int):
    plan = "\n".join(f"{mark.format(n)}add what is left" for n in numbers)
    assert leak(plan, str(wanted), " ".join(map(str, [*numbers, wanted])), 0.0) is None


def test_braces_in_what_is_filled_in_stay_what_they_are():
    problem = Problem(problem_id="p", question="What is {plan}?")
    assert (
        asking(problem, "{question} {plan} {other}", plan="{question}")[0]["content"]
        == "What is {plan}? {question} {other}"
    )


def test_what_a_problem_says_before_its_question_stays_before_it():
    turns = tuple(Message(role=role, content=role) for role in ("system", "user", "assistant", "user"))
    given = asking(Problem(problem_id="p", question="user", messages=turns), "{question}? {plan}", plan="x")
    assert [turn["content"] for turn in given] == ["system", "user", "assistant", "user? x"]
    ended = asking(Problem(problem_id="p", question="user", messages=turns[:3]), "{question}?")
    assert [turn["content"] for turn in ended] == ["system", "user", "assistant", "user?"]


def test_a_lot_depends_on_the_id_alone_and_draws_its_share():
    ids = [f"p{i}" for i in range(4000)]
    drawn = [by_lot("plan_only", name, 0.1) for name in ids]
    assert drawn == [draw(f"plan_only|{name}") / 2**64 < 0.1 for name in ids]
    assert 340 < sum(drawn) < 460
    assert not any(by_lot("x", name, 0.0) for name in ids)
    assert all(by_lot("x", name, 1.0) for name in ids)


# ---- plan_execute_split

PLAN = "1. Read both numbers\n2. Add them up"


def planner(
    plan: str = PLAN, first: str | None = None, later: str | None = None, solved: str | None = None
) -> Callable[[Request], Any]:
    """A model that solves, plans and executes; what it says first, greedily, and later, at 0.6."""

    def reply(request: Request) -> Any:
        right = rf"\boxed{{{gold(request)}}}"
        good = f"1. Read both numbers\nWe see them.\n2. Add them up\nso {right}"
        if request.scope == "solve":
            return f"so {right}" if solved is None else solved
        if request.salt == "plan":
            return plan
        said = first if request.sampling.temperature == 0 else later
        return good if said is None else said.replace("GOLD", right)

    return reply


def split(recipe: Make, store: Store, reply: Callable[[Request], Any], **options: Any) -> Built:
    defaults = {"direct": 1.0, "plan_only": 0.0}
    return built(recipe, store, reply, synth={"use": "plan_execute_split", **defaults, **options})


def test_a_row_is_the_plan_in_its_tags_and_then_what_was_written_from_it(recipe: Make, store: Store):
    made = split(recipe, store, planner())
    assert len(rows(made)) == len(PROBLEMS)
    for row in rows(made):
        number = int(row["problem_id"][1:])
        execution = f"1. Read both numbers\nWe see them.\n2. Add them up\nso \\boxed{{{number + number % 3}}}"
        asked, said = row["messages"]
        assert asked["content"].startswith(row["question"])
        assert said["content"] == (f"<EXPLORATION>\n{PLAN}\n</EXPLORATION>\n<EXECUTION>\n{execution}\n</EXECUTION>")
        assert (row["exploration"], row["execution"]) == (PLAN, execution)
        assert row["raw_execution"] == f"so \\boxed{{{number + number % 3}}}"
        assert row["plan_titles"] == row["exec_titles"] == ["Read both numbers", "Add them up"]
        assert (row["adherence"], row["correct"], row["variant"], row["n_tries"]) == (1.0, True, "full", 1)
        assert row["answer"] == row["gold"]
        assert row["n_tokens"] == len(said["content"].split())
    assert "Plans and executions" in (made.dataset.path / "README.md").read_text()


def test_solutions_are_those_of_sample_and_only_plan_and_execution_are_new(recipe: Make, store: Store):
    built(recipe, store, planner(), synth={"use": "sample", "n": 4})
    made = split(recipe, store, planner(), n=4)
    assert made.tally.meter.samples_new == 2 * len(PROBLEMS)
    assert made.tally.meter.samples_replayed == 4 * len(PROBLEMS)


def test_plan_only_rows_end_where_the_execution_opens_and_are_drawn_by_their_id(recipe: Make, store: Store):
    made = split(recipe, store, planner(), plan_only=0.5)
    only = {row["problem_id"] for row in rows(made) if row["variant"] == "plan_only"}
    assert only == {row["id"] for row in PROBLEMS if by_lot("plan_only", f"{row['id']}/plan", 0.5)}
    assert 0 < len(only) < len(PROBLEMS)
    for row in rows(made):
        if row["variant"] == "plan_only":
            assert row["messages"][-1]["content"] == f"<EXPLORATION>\n{PLAN}\n</EXPLORATION>\n<EXECUTION>"
            assert row["correct"], "its execution is"


def test_plans_of_one_step_are_direct_and_few_of_them_stay(recipe: Make, store: Store):
    one = planner("1. Add them up", first="1. Add them up\nGOLD")
    made = split(recipe, store, one, direct=0.3, plan_only=1.0)
    stay = {row["id"] for row in PROBLEMS if by_lot("direct", row["id"], 0.3)}
    assert {row["problem_id"] for row in rows(made)} == stay
    assert {row["variant"] for row in rows(made)} == {"direct"}
    assert reasons(made) == {"direct": len(PROBLEMS) - len(stay)}
    drawn = made.dataset.scan("samples").collect().height
    assert drawn == (4 + 1) * len(PROBLEMS) + len(stay), "no execution is drawn for the others"


REVERSED = "1. Add them up\nso\n2. Read both numbers\nGOLD"


@pytest.mark.parametrize(
    ("replies", "reason", "evidence"),
    [
        ({"solved": r"so \boxed{-7}"}, "no_correct_solution", {"drawn": 4}),
        ({"plan": "Add them up."}, "no_plan", {"begins": "Add them up.", "truncated": False}),
        ({"plan": "<think>\n1. Read\n2. Add"}, "no_plan", {"begins": "", "truncated": False}),
        ({"plan": "1. Read\n2. Add " + "on and " * 40}, "no_plan", {"truncated": True}),
        ({"first": "GOLD", "later": "GOLD"}, "not_adherent", {"not_adherent": 5, "adherence": 0.0}),
        ({"first": REVERSED, "later": REVERSED}, "order", {"order": 5, "adherence": 1.0}),
        ({"first": "GOLD", "later": r"\boxed{-7}"}, "not_adherent", {"not_adherent": 1, "wrong": 4}),
        ({"first": r"\boxed{-7}", "later": r"\boxed{-7}"}, "wrong", {"wrong": 5}),
        ({"first": "I cannot tell.", "later": "Nor now."}, "undecided", {"undecided": 5, "last": "Nor now."}),
        ({"first": "on " * 70, "later": "on " * 70}, "truncated", {"truncated": 5}),
    ],
)
def test_what_cannot_be_a_row_is_turned_down_with_its_reason(
    recipe: Make, store: Store, replies: Mapping[str, str], reason: str, evidence: Mapping[str, Any]
):
    made = split(recipe, store, planner(**replies))
    assert reasons(made) == {reason: len(PROBLEMS)}
    for row in rejected(made):
        assert evidence.items() <= json.loads(row["evidence"]).items()


def test_a_plan_that_says_the_answer_is_turned_down(recipe: Make, store: Store):
    made = split(recipe, store, planner("1. Read both numbers\n2. Add them up, to 14"))
    assert reasons(made) == {"leaked": 1}, "the sum of 13 and 1"
    [row] = rejected(made)
    assert json.loads(row["evidence"])["gold"] == "14"


def test_the_greedy_execution_comes_first_and_draws_follow_until_one_is_good(recipe: Make, store: Store):
    def reply(request: Request) -> Any:
        if request.salt == "execute" and (request.sampling.temperature == 0 or request.index < 2):
            return "no"
        return planner()(request)

    made = split(recipe, store, reply)
    assert {row["n_tries"] for row in rows(made)} == {4}, "the greedy one, draws 0 and 1, and the good one"
    assert made.dataset.scan("samples").collect().height == (4 + 1 + 4) * len(PROBLEMS)
    again = split(recipe, store, reply, tries=2)
    assert reasons(again) == {"undecided": len(PROBLEMS)}
    assert again.tally.meter.samples_new == 0


def test_a_looser_match_keeps_what_the_strict_one_turns_down(recipe: Make, store: Store):
    loose = planner("1. Add for x\n2. Go for y", first="1. Sum for total\nso\n2. End for all\nGOLD")
    assert reasons(split(recipe, store, loose)) == {"not_adherent": len(PROBLEMS)}
    made = split(recipe, store, loose, matching="loose")
    assert {row["adherence"] for row in rows(made)} == {1.0}


def test_given_solutions_are_taken_as_they_are_and_another_model_may_plan(recipe: Make, store: Store, tmp_path: Path):
    path = tmp_path / "given.jsonl"
    path.write_text("".join(json.dumps({**row, "worked": "see" if i else ""}) + "\n" for i, row in enumerate(PROBLEMS)))
    made = build(
        recipe(
            source={"path": str(path), "solution": "worked"},
            models={"writer": {"name": "writer", "max_tokens": 64}},
            synth={"use": "plan_execute_split", "solution": "given", "planner": "writer", "plan_only": 0.0},
            **PLAIN,
        ),
        store,
        reply=planner(),
    )
    assert reasons(made) == {"no_correct_solution": 1}
    assert {row["raw_execution"] for row in rows(made)} == {"see"}
    assert made.dataset.scan("samples").collect()["role"].value_counts(sort=True).rows() == [
        ("writer", len(PROBLEMS) - 1),
        ("solver", len(PROBLEMS) - 1),
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 0}, "n = 0: between 1 and"),
        ({"tries": -1}, "tries = -1"),
        ({"adherence": 1.5}, r"adherence = 1.5: a share, from 0 to 1"),
        ({"plan_only": -0.1}, r"plan_only = -0.1: a share"),
        ({"plan": "{question}"}, r"plan = '\{question\}' lacks \{solution\}: write it where it belongs"),
        ({"execute": "{question}"}, r"lacks \{plan\}"),
        ({"matching": "exact"}, "matching"),
        ({"planner": "writer"}, "writer"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_drawn(
    recipe: Make, store: Store, options: Mapping[str, Any], says: str
):
    with pytest.raises(RecipeError, match=says):
        split(recipe, store, planner(), **options)


# ---- code_plan

OWN = "def solve(a, b):\n    total = a + b\n    return total"
ANOTHER = "def solve(a, b):\n    c = later(b)\n    return c"


def test_a_plan_has_to_gain_and_more_than_that_of_another_problem():
    without, own, another = -1.20, -1.05, -1.22
    gains = (own - without, another - without)
    assert gains == pytest.approx((0.15, -0.02))
    assert useless(*gains, 0.05, compared=True) is None
    assert useless(0.04, -0.02, 0.05, compared=True) == "not_useful"
    assert useless(0.15, 0.15, 0.05, compared=True) == "no_better_than_another"
    assert useless(0.15, None, 0.05, compared=True) == "no_other_plan"
    assert useless(0.15, None, 0.05, compared=False) is useless(0.15, 0.2, 0.05, compared=False) is None


@pytest.mark.parametrize(
    ("reply", "counts"),
    [
        (f"Here it is:\n```python\n{OWN}\n```\nSo.", (3, 0, 0, 0)),
        (OWN, (3, 0, 0, 0)),
        ("```\nfor x in them:\n    if odd(x):\n        y = f(g(x))\n```", (3, 1, 1, 5)),
        ('def f():\n    """Says."""\n    ...\n    pass\n    return [a if b else c for a in d]', (2, 1, 1, 2)),
        ("while x:\n    match x:\n        case 1:\n            x = 0", (3, 1, 1, 2)),
        ("", (0, 0, 0, 0)),
        ("def solve(a, b)\n    return", None),
        ("First add.\nThen stop.", None),
        ("x = '\0'", None),
        ("(" * 5000, None),
    ],
)
def test_what_a_plan_holds_is_counted_on_its_syntax_tree(reply: str, counts: tuple[int, ...] | None):
    found = Code.read(reply).counts
    names = ("n_stmt", "n_branch", "n_loop", "plan_difficulty")
    assert (found and tuple(found[name] for name in names)) == counts
    if found and counts:
        assert found["straight"] == (counts[1] + counts[2] == 0)


def test_a_plan_that_is_cut_off_is_none():
    assert Code.read(OWN, whole=False).counts is None


@pytest.mark.parametrize(
    ("plan", "tokens", "response", "reason"),
    [
        (OWN, 20, "something else", None),
        (OWN, 21, "something else", "too_long_a_plan"),
        ("x = a\ny = x", 5, "", "few_statements"),
        ("x = (", 5, "", "not_code"),
        ("# one two three four five six\nx = 1\ny = 2\nz = 3", 5, "One, two three four five six!", None),
        ("# one two three four five\nx = 1\ny = 2\nz = 3", 5, "one two three four five x 1 y 2 z", "copied"),
    ],
)
def test_a_plan_is_short_beside_its_response_and_no_copy_of_it(
    plan: str, tokens: int, response: str, reason: str | None
):
    found = unsound(Code.read(plan), tokens, 40, response, statements=3, ratio=0.5, copied=0.5)
    assert (found and found.reason) == reason


def coder(*plans: str, response: str = "so it is") -> Callable[[Request], Any]:
    """A model that answers, and writes the plan of the question that it is shown: the plans take turns by its first number."""
    plans = plans or (OWN, ANOTHER)

    def reply(request: Request) -> Any:
        if request.scope == "solve":
            return rf"{response} \boxed{{{gold(request)}}}"
        if request.salt.startswith("of "):
            return f"{response} of another"
        number = int(str(request.prompt).partition("What is ")[2].split(" ")[0])
        return f"```python\n{plans[number % len(plans)]}\n```"

    return reply


def scored(monkeypatch: pytest.MonkeyPatch, means: Callable[[str], float]) -> list[Request]:
    """Responses get these mean log-probs behind what is asked."""
    asked = list[Request]()

    async def score(self: Scripted, request: Request) -> TokenScores:
        asked.append(request)
        tokens = array("i", map(ord, str(request.prefix)))
        return TokenScores(token_ids=tokens, logprobs=array("f", [means(str(request.prompt))] * len(tokens)))

    monkeypatch.setattr(Scripted, "score", score)
    return asked


def by_hand(prompt: str) -> float:
    """-1.20 without a plan, -1.05 with that of the question, -1.22 with another's."""
    if "def solve" not in prompt:
        return -1.20
    number = int(prompt.partition("What is ")[2].split(" ")[0])
    return -1.05 if ("later" in prompt) == bool(number % 2) else -1.22


def code(recipe: Make, store: Store, reply: Callable[[Request], Any], **options: Any) -> Built:
    return built(recipe, store, reply, synth={"use": "code_plan", "shortest": 1, "ratio": 9.0, **options})


def test_a_plan_that_makes_its_response_likelier_is_kept_with_what_it_gained(
    recipe: Make, store: Store, monkeypatch: pytest.MonkeyPatch
):
    scored(monkeypatch, by_hand)
    made = code(recipe, store, coder())
    assert len(rows(made)) == len(PROBLEMS)
    for row in rows(made):
        number = int(row["problem_id"][1:])
        assert row["plan"] == (ANOTHER if number % 2 else OWN)
        assert row["delta_logp"] == pytest.approx(0.15)
        assert row["delta_shuffled"] == pytest.approx(-0.02)
        assert int(row["shuffled_from"][1:]) % 2 != number % 2, "the plan of another problem, and another plan"
        assert row["response"] == rf"so it is \boxed{{{number + number % 3}}}"
        assert row["messages"][-1]["content"] == f"```python\n{row['plan']}\n```\n\n{row['response']}"
        assert (row["n_stmt"], row["n_branch"], row["n_loop"], row["plan_difficulty"]) == (3, 0, 0, number % 2)
        assert (row["straight"], row["ast_ok"], row["correct"]) == (True, True, True)
        assert (row["plan_tok"], row["resp_tok"]) == (len(row["plan"].split()), 4)
    assert "Plans in code" in (made.dataset.path / "README.md").read_text()


def test_another_problem_is_the_next_by_hash_whose_plan_is_another(
    recipe: Make, store: Store, monkeypatch: pytest.MonkeyPatch
):
    scored(monkeypatch, by_hand)
    order = sorted((row["id"] for row in PROBLEMS), key=draw)
    found = rows(code(recipe, store, coder()))
    assert len(found) == len(order), "behind the last comes the first"
    for row in found:
        at = order.index(row["problem_id"])
        following = (order[at + 1 :] + order[:at])[:4]
        assert row["shuffled_from"] == next(
            name for name in following if int(name[1:]) % 2 != int(row["problem_id"][1:]) % 2
        )


@pytest.mark.parametrize(
    ("means", "options", "reason"),
    [
        (lambda prompt: -1.0, {}, "not_useful"),
        (lambda prompt: -1.0 if "def solve" in prompt else -1.2, {}, "no_better_than_another"),
        (lambda prompt: -1.0 if "def solve" in prompt else -1.2, {"shuffled": "recorded"}, None),
        (lambda prompt: -1.0 if "def solve" in prompt else -1.2, {"shuffled": "none"}, None),
        (lambda prompt: -1.16 if "def solve" in prompt else -1.2, {"least": 0.03, "shuffled": "none"}, None),
    ],
)
def test_a_plan_that_is_of_no_use_is_turned_down_as_the_recipe_says(
    recipe: Make, store: Store, monkeypatch: pytest.MonkeyPatch, means: Any, options: Any, reason: str | None
):
    scored(monkeypatch, means)
    made = code(recipe, store, coder(), **options)
    assert reasons(made) == ({reason: len(PROBLEMS)} if reason else {})
    for row in rejected(made):
        kept = json.loads(row["row"])
        assert kept["plan"] in (OWN, ANOTHER)
        assert json.loads(row["evidence"])["delta_logp"] == pytest.approx(kept["delta_logp"])
    if options.get("shuffled") == "none" or reason == "not_useful":
        assert made.dataset.scan("samples").collect().height == 2 * len(PROBLEMS), "no other plan is drawn"


def test_where_all_plans_are_one_there_is_none_to_compare_with(
    recipe: Make, store: Store, monkeypatch: pytest.MonkeyPatch
):
    scored(monkeypatch, lambda prompt: -1.0 if "def solve" in prompt else -1.2)
    assert reasons(code(recipe, store, coder(OWN))) == {"no_other_plan": len(PROBLEMS)}
    alone = built(recipe, store, coder(), source={"path": str(lone(store.root)), "licence": "CC0-1.0"}, synth={"use": "code_plan", "shortest": 1, "ratio": 9.0})  # fmt: skip
    assert reasons(alone) == {"no_other_plan": 1}


def lone(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lone.jsonl"
    path.write_text(json.dumps(PROBLEMS[4]) + "\n")
    return path


@pytest.mark.parametrize(
    ("reply", "options", "reason"),
    [
        (lambda request: r"\boxed{-1}", {}, "no_response"),
        (coder(), {"shortest": 5}, "too_short"),
        (coder(), {"shortest": 1, "longest": 3}, "too_long"),
        (coder("def solve(a, b)\n    return a"), {}, "not_code"),
        (coder("x = a\ny = b"), {}, "few_statements"),
        (coder(), {"ratio": 0.5}, "too_long_a_plan"),
        (
            coder("total = a + b + c\nnext = total\nlast = next", response="total a b c next total last next"),
            {},
            "copied",
        ),
    ],
)
def test_what_is_no_response_or_no_plan_is_turned_down_with_its_reason(
    recipe: Make, store: Store, reply: Any, options: Any, reason: str
):
    made = code(recipe, store, reply, least=-1.0, shuffled="none", **options)
    assert reasons(made) == {reason: len(PROBLEMS)}


def test_a_plan_in_code_that_says_the_answer_is_turned_down(recipe: Make, store: Store):
    reply = coder("x = 20\ny = x\nz = x")
    assert reasons(code(recipe, store, reply, least=-1.0, shuffled="none")) == {"leaked": 1}, "the sum of 19 and 1"


def test_a_plan_that_does_not_parse_is_asked_for_once_more(recipe: Make, store: Store):
    def reply(request: Request) -> Any:
        if request.salt == "plan" and request.sampling.temperature == 0:
            return "def solve(a, b)"
        return coder()(request)

    made = code(recipe, store, reply, least=-1.0, shuffled="none")
    assert len(rows(made)) == len(PROBLEMS)
    assert made.dataset.scan("samples").collect().height == 3 * len(PROBLEMS)


def test_given_responses_are_read_and_nothing_is_solved(
    recipe: Make, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = scored(monkeypatch, by_hand)
    path = tmp_path / "given.jsonl"
    path.write_text("".join(json.dumps({**row, "said": f"Take it. It is {row['answer']}."}) + "\n" for row in PROBLEMS))
    models = {role: {"name": role, "max_tokens": 64} for role in ("writer", "frozen")}
    synth = {
        "use": "code_plan",
        "response": "given",
        "shortest": 1,
        "ratio": 9.0,
        "extractor": "writer",
        "base": "frozen",
    }
    for key in ("response", "solution"):
        made = built(recipe, store, coder(), source={"path": str(path), key: "said"}, models=models, synth=synth)
        assert len(rows(made)) == len(PROBLEMS)
        assert set(made.dataset.scan("samples").collect()["role"]) == {"writer"}
        assert {request.model.name for request in asked} == {"frozen"}
        for row in rows(made):
            assert row["response"] == f"Take it. It is {row['gold']}."
            assert (row["finish_reason"], row["model"], row["key"]) == ("given", "given", None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 0}, "n = 0"),
        ({"shortest": 9, "longest": 8}, "shortest = 9, longest = 8"),
        ({"statements": 0}, "at least one statement"),
        ({"ratio": 0.0}, "a ratio above 0"),
        ({"copied": 2.0}, "copied = 2.0: a share"),
        ({"extract": "{question}"}, r"lacks \{response\}"),
        ({"planned": "{question}"}, r"lacks \{plan\}"),
        ({"block": "{plan}"}, r"block = '\{plan\}' lacks \{response\}"),
        ({"base": "frozen"}, "frozen"),
        ({"shuffled": "maybe"}, "shuffled"),
    ],
)
def test_options_of_code_plans_that_cannot_work_are_refused(
    recipe: Make, store: Store, options: Mapping[str, Any], says: str
):
    with pytest.raises(RecipeError, match=says):
        code(recipe, store, coder(), **options)


# ---- other problems of a build


def test_a_problem_whose_neighbour_changed_is_worked_on_again_and_the_others_are_not(
    recipe: Make, store: Store, problems: Path, monkeypatch: pytest.MonkeyPatch
):
    scored(monkeypatch, by_hand)
    code(recipe, store, coder())
    order = sorted((row["id"] for row in PROBLEMS), key=draw)
    changed = order[7]
    problems.write_text(
        "".join(json.dumps({**row, "difficulty": "9"} if row["id"] == changed else row) + "\n" for row in PROBLEMS)
    )
    again = code(recipe, store, coder())
    assert again.tally.reused == len(PROBLEMS) - 5, "itself and the four whose neighbour it is"


def test_shards_see_the_neighbours_of_the_whole_build(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scored(monkeypatch, by_hand)
    one = code(recipe, Store(tmp_path / "one"), coder())
    store, table = Store(tmp_path / "store"), recipe(**PLAIN, synth={"use": "code_plan", "shortest": 1, "ratio": 9.0})
    for number in range(3):
        build_shard(table, store, Shard(3, number), reply=coder())
    assert gather(table, store, reply=coder()).dataset.version == one.dataset.version


def test_a_method_that_declares_no_neighbours_is_told_what_to_write(recipe: Make, store: Store, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "from tracemill.schemas.rows import Outcome\nasync def mine(problem, engine):\n    engine.neighbours()\n    return Outcome()\n"
    )
    with pytest.raises(TooManyFailures, match="declares none: write NEIGHBOURS = 1"):
        built(recipe, store, coder(), synth={"use": f"{tmp_path / 'mine.py'}:mine"})


# ---- the recipes that ship


def test_the_recipe_of_the_guide_caps_straight_plans(tmp_path: Path):
    """Every fourth plan has a loop, and the others are straight."""
    [block] = [text for text in re.findall(r"```toml\n(.*?)```", (ROOT / "docs/recipes.md").read_text(), re.DOTALL) if "code-plans.toml" in text]  # fmt: skip
    (tmp_path / "code-plans.toml").write_text(block)
    lines = (ROOT / "data/problems/arith.jsonl").read_text().splitlines()
    (tmp_path / "arith.jsonl").write_text("\n".join(lines))
    answers = {row["id"]: row["answer"] for row in map(json.loads, lines)}

    def reply(request: Request) -> str:
        if request.scope == "solve":
            return rf"so it is \boxed{{{answers[request.problem_id]}}}"
        return "for a in them:\n    b = a\n    c = b" if draw(request.problem_id) % 4 == 0 else OWN

    made = build(load_recipe(tmp_path / "code-plans.toml"), Store(tmp_path / "store"), reply=reply)
    assert sorted(row["straight"] for row in rows(made)) == [False] * 20 + [True] * 5
    assert set(reasons(made)) == {"quota_full"}


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1200)
def test_the_recipes_make_rows_with_the_small_model(tmp_path: Path):
    pytest.importorskip("vllm", reason="needs vLLM: make demo installs its CPU build")
    store, few = Store(tmp_path / "store"), ["source.0.limit=20"]
    made = {name: build(load_recipe(ROOT / f"data/recipes/{name}.toml", few), store) for name in ("plan-execute-split", "code-plan")}  # fmt: skip
    plans = rows(made["plan-execute-split"])
    assert len(plans) >= 5
    for row in plans:
        text = row["messages"][-1]["content"]
        assert text.startswith(f"<EXPLORATION>\n{row['exploration']}\n</EXPLORATION>\n<EXECUTION>")
        assert row["plan_titles"] == row["exec_titles"]
        assert row["correct"]
        assert row["gold"] not in row["exploration"]
    codes = rows(made["code-plan"])
    assert codes
    for row in codes:
        compile(row["plan"], "plan", "exec")
        assert row["delta_logp"] >= -0.01
        assert row["delta_logp"] > row["delta_shuffled"]
        assert row["shuffled_from"] != row["problem_id"]
