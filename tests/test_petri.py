"""Petri-net traces on a scripted model: what is asked and shown, what is asked again, and what becomes of what fails."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.test_petri_net import EXECUTION, LYNCH, NEGATIVES, PLAN
from tracemill.pipelines.build import build
from tracemill.pipelines.export import export
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, load_recipe, parse_recipe
from tracemill.schemas.request import Completion, Request
from tracemill.synth.backends.scripted import Scripted
from tracemill.synth.petri_trace.prompts import PROMPTS, check_prompts
from tracemill.synth.petri_trace.text import (
    SPECIAL_TOKENS,
)

Reply = Callable[[Request], str]


def call_of(request: Request) -> tuple[str, str]:
    """Which call a request is, and of what: ("step", "2")."""
    call, _, rest = request.salt.partition("/")
    return call, rest


def doctor(request: Request) -> str:
    """Writes every step, and concludes rightly."""
    call, rest = call_of(request)
    return f"text of {rest}" if call == "step" else "Explanation: MMR fails.\nAnswer: \\boxed{7}"


@pytest.fixture
def petri(tmp_path: Path) -> Callable[..., Recipe]:
    """Makes a recipe over problems with these columns each; keyword arguments are options of the method."""

    def make(
        *rows: Mapping[str, Any],
        tables: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Recipe:
        path = tmp_path / "problems.jsonl"
        lines = [
            {"id": f"p{i}", "question": f"Q{i}? Why?", "answer": "7", "chains": LYNCH, **row}
            for i, row in enumerate(rows or [{}])
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return parse_recipe(
            {
                "name": "nets",
                "source": {"path": str(path), "chains": "chains", **(source or {})},
                "model": {"name": "scripted-solver", "max_tokens": 400},
                "engine": {"kind": "scripted"},
                "synth": {"use": "petri_trace", "refine": [], **options},
                **(tables or {}),
            }
        )

    return make


Make = Callable[..., Recipe]


def table(dataset: Dataset, name: str) -> pl.DataFrame:
    return dataset.scan(name).collect()


def only(dataset: Dataset, name: str = "rows") -> dict[str, Any]:
    frame = table(dataset, name)
    assert frame.height == 1
    return frame.row(0, named=True)


def test_a_row_has_the_net_its_texts_and_where_they_stand(petri: Make, store: Store):
    row = only(build(petri(), store, reply=doctor).dataset)
    assert (row["eligible"], row["failed_checks"], row["n_regenerations"]) == (2, [], 0)
    assert (row["width"], row["depth"], row["shape"], row["linear"]) == (3, 3, "dag", False)
    assert row["frontiers"] == [[1], [2, 3, 4], [5]]
    assert [step["text"] for step in row["steps"]] == [f"text of {n}" for n in range(1, 6)]
    assert row["conclusion"] == {"explanation": "MMR fails.", "answer": "7"}
    assert (row["kg_paths"], row["options"], row["paths_capped"]) == (None, [], False)
    assert row["messages"][-1]["content"].startswith("<Think>")
    assert (row["correct"], row["answer"]) == (True, "7")
    for span, step in zip(row["spans"], row["steps"], strict=True):
        block = row["content"][span["char_start"] : span["char_end"]]
        assert block.startswith(f"<Step> Transient Step {step['n']}:")
        assert step["text"] in block


def test_a_step_sees_the_goal_the_plan_and_what_it_depends_on_and_nothing_else(petri: Make, store: Store):
    seen: dict[str, str] = {}

    def reply(request: Request) -> str:
        call, rest = call_of(request)
        seen[rest if call == "step" else call] = str(request.prompt)
        return doctor(request)

    build(petri(), store, reply=reply)
    shown = {n: {k for k in "12345" if f"text of {k}" in seen[n]} for n in "12345"}
    assert shown == {"1": set(), "2": {"1"}, "3": {"1"}, "4": {"1"}, "5": {"2", "3", "4"}}
    assert all("Answer: 7" in seen[n] and "Transient Step 5" in seen[n] for n in "12345")
    assert all(f"text of {n}" in seen["conclusion"] for n in "12345")
    assert "Answer: 7" not in seen["conclusion"]


def test_the_gold_is_not_shown_where_the_recipe_says_so(petri: Make, store: Store):
    prompts: list[str] = []

    def reply(request: Request) -> str:
        prompts.append(str(request.prompt))
        return doctor(request)

    row = only(build(petri(show_answer=False), store, reply=reply).dataset)
    assert not any("Answer: 7" in prompt for prompt in prompts)
    assert row["goal"] == "Question: Q0? Why?"


def test_a_frontier_is_written_side_by_side_and_one_after_the_other_gives_the_same_texts(
    petri: Make, store: Store, monkeypatch: pytest.MonkeyPatch
):
    flying, most, order = 0, [0], list[str]()
    complete = Scripted.complete

    async def watched(self: Scripted, request: Request) -> Completion:
        import asyncio

        nonlocal flying
        flying += 1
        most[-1] = max(most[-1], flying)
        order.append(request.salt)
        await asyncio.sleep(0.01)
        flying -= 1
        return await complete(self, request)

    monkeypatch.setattr(Scripted, "complete", watched)
    frontier = only(build(petri(), store, reply=doctor).dataset)
    most.append(0)
    order.clear()
    other = Store(store.root.parent / "other")
    sequential = only(build(petri(execution="sequential"), other, reply=doctor).dataset)
    assert most == [3, 1]
    assert order == [*(f"step/{n}" for n in range(1, 6)), "conclusion/"]
    assert frontier == sequential


def failing(calls: Mapping[str, int]) -> tuple[Reply, Counter[str]]:
    """A doctor whose calls fail so many times, and how often each was asked."""
    asked: Counter[str] = Counter()

    def reply(request: Request) -> str:
        call, rest = call_of(request)
        name = f"{call}{rest}"
        asked[name] += 1
        if asked[name] > calls.get(name, 0):
            return doctor(request)
        return "" if call == "step" else "Explanation: MMR fails.\nAnswer: \\boxed{8}"

    return reply, asked


def test_a_step_that_fails_is_written_again_with_what_was_built_on_it_and_nothing_else(petri: Make, store: Store):
    reply, asked = failing({"step3": 2})
    row = only(build(petri(), store, reply=reply).dataset)
    assert asked == {"step1": 1, "step2": 1, "step3": 3, "step4": 1, "step5": 3, "conclusion": 1}
    assert (row["eligible"], row["n_regenerations"]) == (2, 2)


def test_a_text_that_xml_cannot_hold_is_written_again(petri: Make, store: Store):
    """A control character cannot be escaped."""
    asked: Counter[str] = Counter()

    def reply(request: Request) -> str:
        asked[request.salt] += 1
        return "page\x0cbreak" if request.salt == "step/3" and asked[request.salt] == 1 else doctor(request)

    row = only(build(petri(), store, reply=reply).dataset)
    assert asked == {"step/1": 1, "step/2": 1, "step/3": 2, "step/4": 1, "step/5": 2, "conclusion/": 1}
    assert (row["eligible"], row["n_regenerations"]) == (2, 1)


def test_what_still_fails_after_five_rounds_is_turned_down_with_the_last_failed_checks(petri: Make, store: Store):
    reply, asked = failing({"step3": 99})
    dataset = build(petri({}, {"chains": "1: A->MMR"}), store, reply=reply).dataset
    down = only(dataset, "rejected")
    assert down["reason"] == "V2_wrong_tags"
    row = json.loads(down["row"])
    assert (row["eligible"], row["failed_checks"], row["n_regenerations"]) == (0, ["V2"], 5)
    assert asked["step3"] == 6
    assert "conclusion" in asked  # of the other problem alone: the conclusion is a matter of sound nets
    assert asked["conclusion"] == 1
    assert only(dataset)["problem_id"] == "p1"


def test_a_conclusion_that_fails_is_written_again_alone_or_with_the_steps(petri: Make, store: Store):
    reply, asked = failing({"conclusion": 2})
    row = only(build(petri(), store, reply=reply).dataset)
    assert (asked["step1"], asked["conclusion"], row["n_regenerations"]) == (1, 3, 2)
    reply, asked = failing({"conclusion": 2})
    row = only(build(petri(rewrite="steps"), Store(store.root.parent / "other"), reply=reply).dataset)
    assert (asked["step1"], asked["step5"], asked["conclusion"], row["n_regenerations"]) == (3, 3, 3, 2)


def test_a_conclusion_that_never_holds_makes_a_row_eligible_once_and_turned_down(petri: Make, store: Store):
    reply, _ = failing({"conclusion": 99})
    down = only(build(petri(rounds=1), store, reply=reply).dataset, "rejected")
    assert down["reason"] == "conclusion_differs"
    assert json.loads(down["row"])["eligible"] == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Explanation: so.\nAnswer: \\boxed{7}", "V11_not_connected"),
        ("Explanation: the MMRs.\nAnswer: \\boxed{7}", "V11_not_connected"),
        ("I cannot tell", "conclusion_unanswered"),
        ("Explanation: MMR.\nAnswer: \\boxed{8}", "conclusion_differs"),
    ],
)
def test_a_conclusion_that_does_not_rest_on_the_last_steps_is_no_conclusion(
    said: str, reason: str, petri: Make, store: Store
):
    def reply(request: Request) -> str:
        return said if call_of(request)[0] == "conclusion" else doctor(request)

    assert only(build(petri(rounds=0), store, reply=reply).dataset, "rejected")["reason"] == reason


def test_every_last_step_has_to_be_used_and_an_answer_without_a_box_counts(petri: Make, store: Store):
    two = {"chains": "1: A->Bee\n2: A->Cee"}

    def reply(request: Request) -> str:
        used = "Bee" if request.problem_id == "p0" else "Bee and Cee"
        return f"Explanation: {used}.\nAnswer: 7" if call_of(request)[0] == "conclusion" else doctor(request)

    dataset = build(petri(two, two, rounds=0), store, reply=reply).dataset
    assert only(dataset, "rejected")["reason"] == "conclusion_unused"
    assert only(dataset)["id"] == "p1/net"


def test_a_judge_may_turn_down_what_the_rules_let_pass(petri: Make, store: Store):
    def reply(request: Request) -> str:
        if call_of(request)[0] == "consistent":
            return "FAIL: it does not follow" if request.problem_id == "p0" else "PASS"
        return doctor(request)

    roles = {
        "models": {name: {"name": name, "max_tokens": 99} for name in ("solver", "judge")},
        "engines": {"solver": {"kind": "scripted"}},
    }
    recipe = petri({}, {}, judge="judge", rounds=1)
    recipe = parse_recipe(
        {
            **json.loads(recipe.model_dump_json(exclude={"models", "engines", "views", "budget"}, exclude_none=True)),
            **roles,
        }
    )
    dataset = build(recipe, store, reply=reply).dataset
    assert only(dataset, "rejected")["reason"] == "conclusion_judged_wrong"
    assert only(dataset)["judged"] is True
    with pytest.raises(RecipeError, match=r"add \[models.judge\]"):
        build(petri(judge="judge"), store, reply=reply)


def test_the_gold_in_an_early_step_is_recorded_and_in_the_last_one_it_is_not(petri: Make, store: Store):
    def reply(request: Request) -> str:
        return "it is 7" if call_of(request) in {("step", "2"), ("step", "5")} else doctor(request)

    built = build(petri(), store, reply=reply)
    assert (only(built.dataset)["leaks"], only(built.dataset)["n_leaks"]) == ([2], 1)
    assert "gold before the end" in json.dumps(built.dataset.manifest())


BAD = {
    "cycle": "1: A->B\n2: B->A",
    "self_loop": "1: A->A",
    "empty_entity": "1: A->->B",
    "entity_too_long": "1: A->" + "n" * 5000,
    "entity_characters": "1: A->B [x]",
    "bad_chain": "A to B",
    "chain_numbers": "2: A->B",
    "empty_candidate_set": " ",
}


def test_bad_chains_land_in_rejected_with_their_reason_and_cost_nobody_else_anything(petri: Make, store: Store):
    rows = [{"chains": chains} for chains in BAD.values()]
    dataset = build(petri(*rows, {}), store, reply=doctor).dataset
    down = table(dataset, "rejected").sort("problem_id")
    assert down["reason"].to_list() == list(BAD)
    assert set(down["stage"]) == {"method"}
    assert only(dataset)["problem_id"] == f"p{len(BAD)}"


def written(plan_part: str, execution: str, conclusion: str = "Explanation: MMR.\nAnswer: 7") -> dict[str, str]:
    return {"response": f"<Think>\n{plan_part}\n{execution}\n<Conclusion>\n{conclusion}\n</Conclusion>\n</Think>"}


FATAL = {number: 1 if number == "V1" else 0 for number in NEGATIVES if number not in {"V4", "V7"}}
"""Which negative of each check a plan brings; V4 and V7 are mended by writing the step again."""


def test_a_trace_in_tags_whose_plan_fails_is_turned_down_under_the_check_that_it_fails(petri: Make, store: Store):
    rows = [written(*NEGATIVES[number][which]) for number, which in FATAL.items()]
    dataset = build(
        petri(*rows, written(PLAN, EXECUTION), source={"response": "response"}, plan="written"), store, reply=doctor
    ).dataset
    found = {
        row["problem_id"]: json.loads(row["evidence"])["failed_checks"] for row in table(dataset, "rejected").to_dicts()
    }
    assert {number: number in found[f"p{i}"] for i, number in enumerate(FATAL)} == dict.fromkeys(FATAL, True)
    reasons = dict(table(dataset, "rejected").select("problem_id", "reason").iter_rows())
    assert reasons[f"p{list(FATAL).index('V12')}"] == "V12_not_escaped"
    row = only(dataset)
    assert row["problem_id"] == f"p{len(rows)}"
    assert (row["eligible"], row["model"], row["conclusion"]["answer"]) == (2, "given", "7")


def test_only_the_step_that_is_not_as_planned_is_written_again(petri: Make, store: Store):
    reply, asked = failing({})
    row = written(PLAN, NEGATIVES["V7"][0][1])
    recipe = petri(row, source={"response": "response"}, plan="written")
    made = only(build(recipe, store, reply=reply).dataset)
    assert (asked, made["n_regenerations"]) == ({"step3": 1, "conclusion": 1}, 1)
    assert [step["text"] for step in made["steps"]] == [
        "So it is. 1",
        "So it is. 2",
        "text of 3",
        "So it is. 4",
        "So it is. 5",
    ]


def test_a_plan_is_drawn_until_one_can_be_used(petri: Make, store: Store):
    plans = ["1: A->B\n2: B->A", "no idea", "1: A->MMR"]

    def reply(request: Request) -> str:
        call, rest = call_of(request)
        return plans[int(rest)] if call == "plan" else doctor(request)

    row = only(build(petri(plan="generated"), store, reply=reply).dataset)
    assert (row["n_regenerations"], row["chains"]) == (2, [["A", "MMR"]])
    plans[2] = "1: C->D->C"
    down = only(
        build(petri(plan="generated", rounds=2), Store(store.root.parent / "other"), reply=reply).dataset, "rejected"
    )
    assert down["reason"] == "cycle"


def test_the_five_calls_refine_chains_and_a_second_fail_turns_them_down(petri: Make, store: Store):
    judged: dict[str, list[str]] = {"p0": ["PASS"], "p1": ["FAIL: no", "PASS"], "p2": ["FAIL: no", "fail again"]}
    said = {
        "filter": "1: A->B->MMR\n2: A->MMR",
        "repair": "1: A->B->MMR\n2: A->MMR\n3: X->MMR",
        "compose": "Here they are:\n1: A->B->MMR",
        "fill": "1: A->x->B->MMR",
        "mend": "1: A->x->MMR",
    }
    calls: list[str] = []

    def reply(request: Request) -> str:
        call, _ = call_of(request)
        if request.problem_id == "p1":
            calls.append(call)
        return judged[request.problem_id].pop(0) if call == "judge" else said.get(call) or doctor(request)

    rows = [{"chains": "A->B->MMR; A->MMR"}] * 3
    dataset = build(petri(*rows, refine=["filter", "repair", "compose", "fill", "judge"]), store, reply=reply).dataset
    chains = dict(table(dataset, "rows").select("problem_id", "chains").iter_rows())
    assert chains == {"p0": [["A", "x", "B", "MMR"]], "p1": [["A", "x", "MMR"]]}
    assert only(dataset, "rejected")["reason"] == "judged_to_fail"
    assert calls[:7] == ["repair", "filter", "compose", "fill", "judge", "mend", "judge"]


def test_a_solved_chain_becomes_a_net_by_asking_or_by_its_numbers(petri: Make, store: Store):
    solution = "3 * 4 = 12.\n\n5 + 2 = 7.\n\n12 + 7 = 19."

    def reply(request: Request) -> str:
        call, rest = call_of(request)
        assert call == "uses"
        return {"2": "none", "3": "steps 1 and 2" if request.index else "4"}[rest]

    made = []
    for uses in ("asked", "numbers"):
        recipe = petri(
            {"solution": solution, "answer": "19"},
            {"solution": " "},
            source={"solution": "solution"},
            plan="from_solution",
            uses=uses,
        )
        dataset = build(recipe, Store(store.root.parent / uses), reply=reply).dataset
        assert only(dataset, "rejected")["reason"] == "no_solution"
        made.append(only(dataset))
    assert made[0] == made[1]
    assert [(step["left"], step["deps"]) for step in made[0]["steps"]] == [
        (["Question"], []),
        (["Question"], []),
        (["Step 1", "Step 2"], [1, 2]),
    ]
    assert (made[0]["shape"], made[0]["eligible"], made[0]["verdict"]) == ("dag", 2, "equal")


def test_a_response_that_is_wrong_makes_no_trace_and_is_not_written_again(petri: Make, store: Store):
    rows = [{"response": f"1 + 1 = 2.\n\n2 + 5 = 7. So \\boxed{{{said}}}."} for said in (8, 7)]
    recipe = petri(*rows, source={"response": "response"}, plan="from_solution", uses="numbers")
    dataset = build(recipe, store, reply=doctor).dataset
    assert only(dataset, "rejected")["reason"] == "conclusion_differs"
    assert (only(dataset)["shape"], table(dataset, "samples").height) == ("linear", 0)


def test_polish_cleans_says_nothing_twice_and_inserts_what_is_missing(petri: Make, store: Store):
    said = {"clean": "clean", "deduplicate": "1: one\n2: two", "missing": "2: fever", "insert": "two with fever"}

    def reply(request: Request) -> str:
        return said.get(call_of(request)[0]) or doctor(request)

    row = {"chains": "1: A->B->MMR"}
    made = only(build(petri(row, polish=["clean", "deduplicate", "insert"]), store, reply=reply).dataset)
    assert [step["text"] for step in made["steps"]] == ["one", "two with fever"]
    said["deduplicate"] = "1: one"  # a reply without every step changes nothing
    said["missing"] = "none"
    made = only(
        build(
            petri(row, polish=["clean", "deduplicate", "insert"]), Store(store.root.parent / "o"), reply=reply
        ).dataset
    )
    assert [step["text"] for step in made["steps"]] == ["clean", "clean"]


def test_a_row_that_is_too_long_is_dropped_and_never_cut(petri: Make, store: Store):
    whole = only(build(petri(), store, reply=doctor).dataset)
    down = only(build(petri(max_tokens=whole["n_tokens"] - 1), store, reply=doctor).dataset, "rejected")
    assert down["reason"] == "too_long"
    assert json.loads(down["evidence"]) == {"n_tokens": whole["n_tokens"], "at_most": whole["n_tokens"] - 1}
    assert json.loads(down["row"])["execution_text"] == whole["execution_text"]


def test_a_plan_that_is_too_long_already_costs_no_token(petri: Make, store: Store):
    long = {"chains": "1: A->" + "->".join(f"n{i}" for i in range(2000)) + "->MMR"}
    dataset = build(petri(long), store, reply=doctor).dataset
    down = only(dataset, "rejected")
    assert (down["reason"], table(dataset, "samples").height) == ("too_long", 0)
    assert json.loads(down["evidence"])["at_most"] == 8192


def test_a_step_that_the_token_limit_cut_off_is_written_again(petri: Make, store: Store):
    def reply(request: Request) -> str:
        long = call_of(request) == ("step", "2") and request.index == 0
        return "word " * 500 if long else doctor(request)

    row = only(build(petri(), store, reply=reply).dataset)
    assert (row["n_regenerations"], row["steps"][1]["text"]) == (1, "text of 2")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompts": {"setp": "x"}}, "prompts.setp: no such call"),
        ({"prompts": {"step": "{question} {fcats}"}}, "nothing fills {fcats}"),
        ({"prefixes": {"conclusion": "{facts}"}}, "prefixes.conclusion: nothing fills {facts}"),
        ({"begins": "{rigth} is"}, "nothing fills {rigth}"),
        ({"stops": {"stpe": ["x"]}}, "stops.stpe"),
        ({"rounds": -1}, "rounds = -1: at least 0"),
        ({"temperature": 0.0}, "at temperature 0 they write the same again"),
        ({"max_paths": 0}, "max_paths = 0"),
        ({"plan": "guessed"}, "plan"),
    ],
)
def test_options_that_cannot_work_are_errors_before_the_first_token(
    options: dict[str, Any], says: str, petri: Make, store: Store
):
    with pytest.raises(RecipeError) as error:
        build(petri(**options), store, reply=doctor)
    assert says in str(error.value)


def test_every_prompt_that_ships_is_filled_whole(petri: Make, store: Store):
    for call, template in PROMPTS.items():
        check_prompts({call: template}, option="prompts")
    everything = petri(
        {"chains": "A->B->MMR"},
        plan="generated",
        refine=["filter", "repair", "compose", "fill", "judge"],
        polish=["clean", "deduplicate", "insert"],
    )
    said = {"judge": "PASS", "missing": "1: fever", "repair": "1: A->MMR", "filter": "1: A->MMR"}
    calls = set()

    def reply(request: Request) -> str:
        call, _ = call_of(request)
        calls.add(call)
        assert not re.findall(r"(?<!\w)\{\w+\}", str(request.prompt))
        return said.get(call) or ("1: A->B->MMR" if call in ("compose", "fill") else doctor(request))

    assert only(build(everything, store, reply=reply).dataset)["eligible"] == 2
    assert calls == PROMPTS.keys() - {"mend", "entities", "pick", "relevant", "shown", "uses", "consistent"}


def test_chains_may_be_lines_or_lists_and_nothing_else(petri: Make, store: Store):
    rows = [{"chains": ["1: A->MMR"]}, {"chains": [["A", "MMR"]]}, {"chains": 7}, {"chains": None}]
    dataset = build(petri(*rows), store, reply=doctor).dataset
    assert table(dataset, "rows")["chains"].to_list() == [[["A", "MMR"]], [["A", "MMR"]]]
    assert table(dataset, "rejected").sort("problem_id")["reason"].to_list() == ["wrong_type", "empty_candidate_set"]


def test_the_views_are_the_published_messages_a_chain_and_a_step_a_row(petri: Make, store: Store, tmp_path: Path):
    import datasets

    dataset = build(petri({}, {}), store, reply=doctor).dataset
    loaded = {
        to: datasets.load_dataset(
            str(export(dataset.path, to, tmp_path / to)), split="train", cache_dir=str(tmp_path / "c")
        )
        for to in ("medverse", "petri-linear", "petri-dag")
    }
    assert loaded["medverse"].column_names == ["id", "messages"]
    turns = loaded["medverse"][0]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert all(tag in turns[1]["content"] for tag in SPECIAL_TOKENS)
    linear = loaded["petri-linear"][0]["messages"][1]["content"]
    assert linear == "\n\n".join([*(f"text of {n}" for n in range(1, 6)), "The final answer is \\boxed{7}."])
    steps = [(row["n"], row["deps"], row["level"]) for row in loaded["petri-dag"] if row["problem_id"] == "p0"]
    assert steps == [(1, [], 1), (2, [1], 2), (3, [1], 2), (4, [1], 2), (5, [2, 3, 4], 3)]


def test_a_trace_without_an_answer_is_in_the_linear_view_without_one(petri: Make, store: Store, tmp_path: Path):
    def reply(request: Request) -> str:
        return "I cannot tell" if call_of(request)[0] == "conclusion" else doctor(request)

    dataset = build(petri(rounds=0, eligible=1), store, reply=reply).dataset
    row = pl.read_parquet(export(dataset.path, "petri-linear", tmp_path / "linear") / "*.parquet").row(0, named=True)
    assert row["messages"][-1]["content"] == "\n\n".join(f"text of {n}" for n in range(1, 6))


def test_nets_in_which_nothing_runs_at_once_are_counted_whatever_their_shape(petri: Make, store: Store):
    shortcut = {"chains": "1: A->B->C->MMR\n2: B->MMR"}
    dataset = build(petri(shortcut, {"chains": "1: A->B->MMR"}, {}), store, reply=doctor).dataset
    assert [(row["shape"], row["linear"]) for row in table(dataset, "rows").sort("problem_id").to_dicts()] == [
        ("dag", True),
        ("linear", True),
        ("dag", False),
    ]
    assert "2 of 3 nets are linear: nothing in them runs" in json.dumps(dataset.manifest())


# ---- the small model


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_the_small_model_writes_nets_side_by_side_that_end_right(store: Store):
    pytest.importorskip("vllm", reason="needs vLLM: make demo installs its CPU build")
    recipe = Path(__file__).parent.parent / "data" / "recipes" / "petri-arith.toml"
    for plan_of in ("given", "generated"):
        dataset = build(load_recipe(recipe, ["source.0.limit=12", f"synth.plan={plan_of}"]), store).dataset
        rows, down = table(dataset, "rows"), table(dataset, "rejected")
        assert rows.height + down.height == 12
        assert rows.height >= 4
        assert rows["width"].min() >= 2
        assert rows["correct"].all()
        assert set(rows["eligible"]) == {2}
        assert (rows["seq_len"] > rows["post_start"]).all()
