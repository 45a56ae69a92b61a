"""Knowledge points out of a solution: the form they must have, what the leakage gate lets through, and what becomes of the rest."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tracemill.pipelines.build import Built, build
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Completion, Request
from tracemill.synth.hints.asking import judged
from tracemill.synth.hints.knowledge import parsed
from tracemill.synth.hints.leakage import Secrets, leaks

QUESTION = "Tom ties triangle $ABC$ with a rope of 35 metres. How many metres are left of 77?"
SOLUTION = r"77 - 35 = 42, so \boxed{42}."
GOLD = "42"


def point(principle: str, caveats: str = "Mind the order.") -> str:
    return f"**Knowledge Point**: {principle}\n   **Key Considerations**: {caveats}"


# ---- the rules that need no model


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("What is taken away is subtracted.", []),
        ("The result is 42 here.", ["L1", "L2"]),
        ("A number such as 42.0 is whole.", ["L1", "L2"]),
        ("In 1942 this was known; 142 and 4.2 are other numbers.", []),
        ("Take away 35 first.", ["L2"]),
        ("Take 1 or 2 away from 100 or 360.", []),
        ("For all real numbers $35x = x \\cdot 35$.", []),
        ("$(a+b)^{35} = (b+a)^{35}$ by symmetry.", []),
        ("Here $x = 35$ holds.", ["L2"]),
        ("Say how many metres are left of 77 metres and why.", ["L2"]),
        ("Ask: how many metres are left of 77, no more.", ["L2"]),
        ("He ties triangle abc with a rope of 35 metres.", ["L2"]),
        ("Note how he ties triangle ABC with a rope of 35 metres.", ["L2"]),
        ("Subtract what Tom ties from the rest.", ["L4"]),
        ("Tom's rope is a line.", ["L4"]),
        ("The sides of $ABC$ are ropes.", ["L4"]),
        ("The sides of $PQR$ are ropes, by the rule of Pythagoras.", []),
    ],
)
def test_each_rule_finds_what_it_is_for(text: str, rules: list[str]):
    found = leaks(text, Secrets(GOLD, QUESTION, SOLUTION))
    assert [leak.rule for leak in found if leak.fails and leak.rule != "L3"] == rules


def test_eight_words_in_a_row_are_found_in_problem_and_solution():
    words = "we add the two angles and then subtract"
    assert [leak.rule for leak in leaks(f"As {words}.", Secrets("7", f"If {words}, what is left?"))] == ["L3"]
    assert [leak.rule for leak in leaks(f"As {words}.", Secrets("7", "?", f"So {words}."))] == ["L3"]
    assert leaks("As we add the two angles and then stop.", Secrets("7", f"If {words}, what is left?")) == []


@pytest.mark.parametrize(
    ("gold", "text", "fails"),
    [
        ("2", "There are 2 cases.", False),
        ("-1", "Take 1 away.", False),
        ("A", "A rule of thumb.", False),
        ("3", "There are 3 cases.", True),
        (r"\boxed{468}", "It is 468.", True),
        ("1,000", "It is 1000.", True),
        (r"\frac{3}{4}", "A share of 3/4 is left.", True),
        ("x+1", "It is $x+1$ then.", True),
        ("Evelyn", "It was evelyn.", True),
        ("Evelyn", "Evelyns are many.", None),
        ("3", "There are 33 cases, 1.3 each.", None),
    ],
)
def test_the_gold_is_sought_as_a_token_and_small_ones_only_warn(gold: str, text: str, fails: bool | None):
    found = [leak for leak in leaks(text, Secrets(gold, "?")) if leak.rule == "L1"]
    assert [leak.fails for leak in found] == ([] if fails is None else [fails])


@pytest.mark.parametrize(("number", "rules"), [*((n, []) for n in (0, 1, 2, 10, 100, 1000, 180, 360)), (90, ["L2"])])
def test_numbers_of_principles_are_no_leak(number: int, rules: list[str]):
    found = leaks(f"The sum is {number}.", Secrets("7", f"Of {number} things, how many?"))
    assert [leak.rule for leak in found] == rules


# ---- the one form of a reply


def test_points_are_read_in_their_one_form_and_what_has_another_is_told_apart():
    reply = (
        f"<think>Two.</think>Here they are:\n\n1. {point('Sums.')}\n2. {point('Sines.')}\n\n"
        "3. **Knowledge Point**: no second line\n- **Knowledge Point**: Third.\n**Key Considerations**: At any indent.\n"
        "4. **Knowledge Point**: Two\nlines.\n   **Key Considerations**: so not one."
    )
    points, malformed = parsed(reply)
    assert points == [point("Sums."), point("Sines."), point("Third.", "At any indent.")]
    assert len(malformed) == 2
    assert parsed(f"{point('Sums.')}\nAnd a third line.") == ([], [f"{point('Sums.')}\nAnd a third line."])
    assert parsed("The principles are sums and sines.") == ([], [])
    assert parsed("<think>" + point("In a thought.")) == ([], [])


@pytest.mark.parametrize(
    ("reply", "fails"),
    [
        ('{"instance_bound": false, "reveals_answer": false, "evidence": ""}', False),
        ('```json\n{"instance_bound": true, "reveals_answer": false, "evidence": "35"}\n```', True),
        ('<think>Hm.</think>{"instance_bound": false, "reveals_answer": true}', True),
        ('{"instance_bound": "false", "reveals_answer": false}', None),
        ('Sure: {"instance_bound": false, "reveals_answer": false}', None),
        ("[]", None),
        ("", None),
    ],
)
def test_a_judgement_is_one_json_object_and_nothing_else(reply: str, fails: bool | None):
    found = judged(reply)
    assert (found and found.fails) == fails


# ---- from solution to points


class Teacher:
    """Answers what the method asks, by scope; the tests replace what they are about."""

    def __init__(self, **replies: Callable[[Request], str | Completion] | str) -> None:
        self.replies: dict[str, Any] = {
            "solve": SOLUTION,
            "hints": SOLUTION,
            "hints_extract": f"{point('Differences.')}\n{point('Lengths.')}",
            "hints_verify": '{"instance_bound": false, "reveals_answer": false, "evidence": ""}',
            "hints_revise": point("A general principle."),
            "hints_alone": "I cannot know.",
            **replies,
        }
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> str | Completion:
        self.asked.append(request)
        reply = self.replies[request.scope]
        return reply(request) if callable(reply) else reply

    def scopes(self, model: str = "student") -> list[str]:
        return [request.scope for request in self.asked if request.model.name == model]


Run = Callable[..., Built]


@pytest.fixture
def run(tmp_path: Path, store: Store) -> Run:
    """Builds one problem; keyword arguments replace its columns, options are those of the method."""

    def build_one(
        teacher: Teacher, options: dict[str, Any] | None = None, *, roles: bool = True, **columns: Any
    ) -> Built:
        path = tmp_path / "problem.jsonl"
        row = {"id": "p", "question": QUESTION, "answer": GOLD, "solution": None, **columns}
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        models = {"solver": {"name": "student", "max_tokens": 64}}
        if roles:
            models["teacher"] = {"name": "teacher", "max_tokens": 500}
        recipe: Recipe = parse_recipe(
            {
                "name": "extracted",
                "source": {"path": str(path), "solution": "solution"},
                "models": models,
                "engine": {"kind": "scripted"},
                "synth": {"use": "hints", "strategies": ["all"], "m": 2, "leak_samples": 3, **(options or {})},
            }
        )
        return build(recipe, store, reply=teacher)

    return build_one


def read(built: Built, name: str) -> pl.DataFrame:
    return built.dataset.scan(name).collect()


def points_of(built: Built) -> list[tuple[str, int, list[str]]]:
    """Fate, revisions, and the rules that found something."""
    rows = read(built, "knowledge_points").sort("number")
    return [
        (fate, revision, [finding["rule"] for finding in findings])
        for fate, revision, findings in rows.select("fate", "revision", "findings").iter_rows()
    ]


def test_a_given_solution_that_verifies_is_taken_and_none_is_drawn(run: Run):
    teacher = Teacher()
    row = read(run(teacher, solution=SOLUTION), "rows").row(0, named=True)
    assert row["kp_list"] == [point("Differences."), point("Lengths.")]
    assert (row["solution_from"], row["status"]) == ("source", "ok")
    assert teacher.scopes("teacher") == ["hints_extract", "hints_verify", "hints_verify"]


def test_a_given_solution_that_does_not_verify_is_not_believed(run: Run):
    teacher = Teacher(solve=lambda request: SOLUTION if request.index == 5 else r"\boxed{41}")
    row = read(run(teacher, solution=r"\boxed{41}"), "rows").row(0, named=True)
    assert row["solution_from"] == "teacher"
    assert teacher.scopes("teacher").count("solve") == 8
    assert SOLUTION in str(next(r.prompt for r in teacher.asked if r.scope == "hints_extract"))


def test_without_a_verified_solution_a_problem_is_turned_down(run: Run):
    teacher = Teacher(solve=lambda request: "I do not know." if request.index % 2 else r"\boxed{41}")
    built = run(teacher, {"tries": 6})
    [down] = read(built, "rejected").rows(named=True)
    assert (down["stage"], down["reason"]) == ("method", "no_correct_sample")
    assert json.loads(down["evidence"]) == {"drawn": 6, "undecided": 3, "role": "teacher"}
    assert len(teacher.asked) == 6
    assert read(built, "rows").is_empty()


def test_without_a_teacher_the_solver_does_all_and_its_solutions_are_its_draws_without_hints(run: Run):
    teacher = Teacher()
    built = run(teacher, {"strategies": ["none"], "m": 6}, roles=False)
    assert teacher.scopes().count("solve") == 6, "four for a solution, two more for the accuracy"
    assert read(built, "rows")["solution_from"].to_list() == ["solver"]


def test_a_reply_that_cannot_be_read_is_asked_for_again_and_then_given_up(run: Run):
    late = Teacher(hints_extract=lambda request: point("Late.") if request.index == 2 else "Sums, mostly.")
    assert read(run(late, solution=SOLUTION), "rows")["kp_list"].to_list() == [[point("Late.")]]
    never = run(Teacher(hints_extract="Sums, mostly."), solution=SOLUTION, id="q")
    [down] = read(never, "rejected").rows(named=True)
    assert down["reason"] == "generator_error"
    assert json.loads(down["evidence"])["replies"] == 3


def test_more_points_than_asked_for_and_malformed_ones_are_told_of(run: Run):
    many = "\n".join(point(f"Principle {letter}.") for letter in "abcd") + "\n**Knowledge Point**: torn"
    built = run(Teacher(hints_extract=many), {"most": 3}, solution=SOLUTION)
    assert [fate for fate, *_ in points_of(built)] == ["kept", "kept", "kept", "over_the_limit", "malformed"]
    assert read(built, "rows")["n_kp"].to_list() == [3]


# ---- the gate


def test_a_point_that_leaks_is_rewritten_and_shown_as_rewritten(run: Run):
    teacher = Teacher(hints_extract=f"{point('The rest is 42 metres.')}\n{point('Lengths.')}")
    built = run(teacher, solution=SOLUTION)
    assert points_of(built) == [("kept", 1, ["L1", "L2"]), ("kept", 0, [])]
    row = read(built, "rows").row(0, named=True)
    assert row["kp_list"] == [point("A general principle."), point("Lengths.")]
    assert row["leak_report"][0] == {"kp": 0, "rule": "L1", "weight": "fails", "revision": 0, "evidence": "42"}
    [asked] = [str(request.prompt) for request in teacher.asked if request.scope == "hints_revise"]
    assert "it holds the answer; it holds numbers of the problem or its solution (42)" in asked


def test_after_two_rewritings_that_leak_a_point_is_dropped_and_reported(run: Run):
    teacher = Teacher(hints_extract=point("Take 35."), hints_revise=point("Take 35 of 77."))
    built = run(teacher, solution=SOLUTION)
    assert points_of(built) == [("leaks", 2, ["L2", "L2", "L2"])]
    assert teacher.scopes("teacher").count("hints_revise") == 2
    row = read(built, "rows").row(0, named=True)
    assert (row["status"], row["kp_list"], row["all_kept_kp_index"]) == ("empty_candidate_set", [], [])
    assert "## Hint" not in row["prompt"][0]["content"]


@pytest.mark.parametrize(
    "reply", ["DROP", "<think>Nothing left.</think>DROP.", "No idea.", f"{point('A')}\n{point('B')}"]
)
def test_a_rewriting_that_gives_up_or_has_no_form_drops_the_point(reply: str, run: Run):
    built = run(Teacher(hints_extract=point("Take 35."), hints_revise=reply), solution=SOLUTION)
    assert points_of(built) == [("leaks", 1, ["L2"])]


def test_what_a_model_calls_bound_to_the_problem_is_rewritten_and_no_verdict_is_a_bad_one(run: Run):
    def verdict(request: Request) -> str:
        bound = "Differences" in str(request.prompt)
        return json.dumps({"instance_bound": bound, "reveals_answer": False, "evidence": "differences"})

    assert points_of(run(Teacher(hints_verify=verdict), solution=SOLUTION)) == [("kept", 1, ["L5"]), ("kept", 0, [])]
    mute = run(Teacher(hints_verify="Fine."), solution=SOLUTION, id="q")
    assert points_of(mute) == [("leaks", 2, ["L5", "L5", "L5"])] * 2


def test_a_point_from_which_the_answer_follows_alone_is_rewritten(run: Run):
    def alone(request: Request) -> str:
        found = "Lengths" in str(request.prompt) and request.index == 2
        return rf"\boxed{{{42 if found else 5}}}"

    teacher = Teacher(hints_alone=alone)
    assert points_of(run(teacher, solution=SOLUTION)) == [("kept", 0, []), ("kept", 1, ["L6"])]
    assert all(QUESTION not in str(r.prompt) for r in teacher.asked if r.scope == "hints_alone")


def test_points_that_tell_the_answer_only_together_are_all_dropped(run: Run):
    def alone(request: Request) -> str:
        both = len(re.findall("Knowledge Point", str(request.prompt))) == 2
        return rf"\boxed{{{42 if both else 5}}}"

    built = run(Teacher(hints_alone=alone), solution=SOLUTION)
    assert points_of(built) == [("leaks", 0, ["L6"]), ("leaks", 0, ["L6"])]
    assert read(built, "rows")["status"].to_list() == ["empty_candidate_set"]


def test_a_gold_that_any_guess_hits_makes_the_last_rule_a_warning(run: Run):
    teacher = Teacher(solve=r"\boxed{2}", hints=r"\boxed{2}", hints_alone=r"\boxed{2}")
    built = run(teacher, solution=r"\boxed{2}", answer="2")
    assert points_of(built) == [("kept", 0, ["L6"]), ("kept", 0, ["L6"])]


def test_given_points_are_looked_at_by_the_rules_without_a_model_and_none_is_dropped(tmp_path: Path, store: Store):
    path = tmp_path / "given.jsonl"
    row = {"id": "p", "question": QUESTION, "answer": GOLD, "kp_list": ["It is 42.", "Take 35.", "Lengths."]}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    teacher = Teacher()
    recipe = parse_recipe(
        {
            "name": "given",
            "source": {"path": str(path), "kp_list": "kp_list"},
            "models": {
                "solver": {"name": "student", "max_tokens": 64},
                "teacher": {"name": "teacher", "max_tokens": 64},
            },
            "engine": {"kind": "scripted"},
            "synth": {"use": "hints", "strategies": ["all"], "m": 2},
        }
    )
    built = build(recipe, store, reply=teacher)
    assert points_of(built) == [("kept", 0, ["L1"]), ("kept", 0, ["L2"]), ("kept", 0, [])]
    assert read(built, "rows")["n_kp"].to_list() == [3]
    assert teacher.scopes("teacher") == []
    assert set(teacher.scopes()) == {"hints"}
