"""Petri-net traces on a scripted model: the published example, every check with what trips it, and what is asked again."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given

from tests.petri_rows import dags
from tracemill.pipelines.build import build
from tracemill.pipelines.export import export
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Completion, Request
from tracemill.synth.backends.scripted import Scripted
from tracemill.synth.petri_trace.chains import Unusable, read, write
from tracemill.synth.petri_trace.conclude import holds
from tracemill.synth.petri_trace.net import Net, Step
from tracemill.synth.petri_trace.plan import paths, plan, shape, steps_of
from tracemill.synth.petri_trace.premises import facts, with_premises
from tracemill.synth.petri_trace.refine import composed, filled, kept
from tracemill.synth.petri_trace.solved import by_numbers, split_solution
from tracemill.synth.petri_trace.text import (
    SPECIAL_TOKENS,
    NotXml,
    entity_text,
    execution_text,
    plan_text,
    read_block,
    training_parts,
)
from tracemill.synth.petri_trace.validators import CHECKS, check, split_names

LYNCH = "1: FH->LS->MLH1->MMR\n2: CM->LS->MSH2->MMR\n3: FH->LS->MSH6->MMR\n4: FH->MLH1"
"""MedVerse (arXiv:2602.07529), overview figure: family history, colon mass, Lynch syndrome, and mismatch repair behind them."""


def steps_for(chains: str, text: str = "So it is.") -> list[Step]:
    return [replace(step, text=f"{text} {step.n}") for step in steps_of(plan(read(chains)).entities)]


# ---- the net, and the published example


def test_the_lynch_example_has_the_published_plan_steps_and_frontiers():
    made = plan(read(LYNCH))
    assert [(e.n, e.name, list(e.deps)) for e in made.entities] == [
        (1, "FH", []),
        (2, "CM", []),
        (3, "LS", [1, 2]),
        (4, "MLH1", [1, 3]),
        (5, "MSH2", [3]),
        (6, "MSH6", [3]),
        (7, "MMR", [4, 5, 6]),
    ]
    steps = steps_of(made.entities)
    assert [(step.n, step.title, list(step.deps)) for step in steps] == [
        (1, "FH, CM -> LS", []),
        (2, "FH, LS -> MLH1", [1]),
        (3, "LS -> MSH2", [1]),
        (4, "LS -> MSH6", [1]),
        (5, "MLH1, MSH2, MSH6 -> MMR", [2, 3, 4]),
    ]
    for net in (Net.of_steps(steps), Net.of_entities(made.entities)):
        assert net.frontiers() == [[1], [2, 3, 4], [5]]
        assert (net.width, net.depth, net.parallelism) == (3, 3, 5 / 3)
        assert net.faults() == []
    assert paths(steps, 10) == ([[1, 2, 5], [1, 3, 5], [1, 4, 5]], False)
    assert paths(steps, 2) == ([[1, 2, 5], [1, 3, 5]], True)


def test_tokens_that_cannot_be_written_side_by_side_make_the_critical_path():
    tokens = dict(zip(range(1, 6), (4, 3, 5, 2, 4), strict=True))
    net = Net.of_steps([replace(step, n_tokens=tokens[step.n]) for step in steps_for(LYNCH)])
    assert (net.critical_path, net.speed_up) == (13, 18 / 13)


def test_firing_takes_nothing_away_and_each_step_fires_once():
    net = Net.of_steps(steps_for(LYNCH))
    start = net.start()
    assert (net.enabled(start), start.marked) == ([1], frozenset({"FH", "CM"}))
    after = net.fire(start, [1])
    assert after.marked == {"FH", "CM", "LS"}
    assert net.enabled(after) == [2, 3, 4]
    assert net.enabled(net.fire(after, [3])) == [2, 4]
    with pytest.raises(ValueError, match=r"\[5\] are not enabled"):
        net.fire(after, [5])
    assert net.run().marked == set(net.places)


@given(dags())
def test_a_run_is_that_of_firing_whatever_is_enabled_until_nothing_is(deps: dict[int, list[int]]):
    net = Net.of_steps(
        [Step(n, tuple(f"e{d}" for d in before) or ("root",), f"e{n}", tuple(before)) for n, before in deps.items()]
    )
    state, fired = net.start(), []
    while enabled := net.enabled(state):
        fired.append(enabled)
        state = net.fire(state, enabled)
    assert (net.frontiers(), net.run()) == (fired, state)
    assert net.faults() == []


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([(1, "AC", "B"), (2, "B", "C"), (3, "C", "D")], ["cycle: B -> C -> B", "transition 1 never fires"]),
        ([(1, "A", "B"), (1, "A", "C")], ["transitions share a number: [1]"]),
        ([(1, "A", "B"), (2, "B", "A")], ["there is no final place", "place A leads nowhere"]),
    ],
)
def test_a_net_that_is_not_sound_says_why(steps: list[tuple[int, str, str]], says: list[str]):
    faults = "\n".join(Net.of_steps([Step(n, tuple(left), right, ()) for n, left, right in steps]).faults())
    assert all(part in faults for part in says), faults


def test_two_thousand_steps_in_a_row_and_side_by_side_need_no_recursion():
    row = steps_of(plan(read([[f"e{i}" for i in range(2001)]])).entities)
    wide = steps_of(plan(read([["root", f"e{i}", "end"] for i in range(2000)])).entities)
    assert (Net.of_steps(row).depth, Net.of_steps(wide).width) == (2000, 2000)
    for steps in (row, wide):
        written = [replace(step, text="so") for step in steps]
        assert check(plan_text(written), execution_text(written)) == []
        assert Net.of_steps(steps).faults() == []
        assert facts(steps)[len(steps)]
    assert paths(wide, 5)[1] is True


# ---- chains


@pytest.mark.parametrize(
    ("chains", "reason"),
    [
        ("", "empty_candidate_set"),
        ("A->B", "bad_chain"),
        ("1: A", "bad_chain"),
        ("1: A=>B", "bad_chain"),
        ("1: A->B\n3: B->C", "chain_numbers"),
        ("1: A->B\n1: B->C", "chain_numbers"),
        ("1: A->->B", "empty_entity"),
        ("1: A->  ", "empty_entity"),
        ("1: A->" + "n" * 5000, "entity_too_long"),
        ("1: A->B; C", "entity_characters"),
        ("1: A->B]", "entity_characters"),
        ("1: A->x <0.04", "entity_characters"),
        ([["A", "B->C"]], "entity_characters"),
        ([["A", "B\nC"]], "entity_characters"),
        ([["A", "B\x1b[31m"]], "entity_characters"),
        ("1: A->A", "self_loop"),
        ("1: A->B->B->C", "self_loop"),
        ("1: caf\u00e9->cafe\u0301", "self_loop"),
        ("1: A->B\n2: B->A", "cycle"),
        ("1: A->B->C\n2: C->D->B", "cycle"),
    ],
)
def test_chains_that_make_no_plan_say_which_rule_they_break(chains: Any, reason: str):
    with pytest.raises(Unusable) as fault:
        plan(read(chains))
    assert fault.value.reason == reason
    assert len(json.dumps(fault.value.evidence)) < 500


def test_names_that_are_equal_after_nfc_and_trimming_are_one_entity():
    made = plan(read("1: caf\u00e9 ->B\n2: cafe\u0301->C"))
    assert [entity.name for entity in made.entities] == ["caf\u00e9", "B", "C"]
    assert read(write(read(LYNCH))) == read(LYNCH)


def test_a_cycle_may_be_broken_where_the_latest_chain_closes_it():
    made = plan(read("1: A->B->C\n2: C->D->B\n3: D->E"), break_cycles="last_chain")
    assert made.removed == (("D", "B"),)
    assert [entity.name for entity in made.entities] == ["A", "B", "C", "D", "E"]
    alone = plan(read("1: A->B\n2: B->A"), break_cycles="last_chain")
    assert [(entity.name, entity.deps) for entity in alone.entities] == [("A", ()), ("B", (1,))]


@pytest.mark.parametrize(
    ("chains", "wanted"),
    [("1: A->B->C", "linear"), ("1: A->B\n2: A->C", "tree"), ("1: R->A->B->D\n2: A->C->D", "dag"), (LYNCH, "dag")],
)
def test_shapes_are_those_of_agot(chains: str, wanted: str):
    assert shape(steps_for(chains)) == wanted


def test_premises_are_the_roots_or_the_question_or_its_sentences():
    question = "Tom has 3 pens. Ann has 5. Ann finds 2 more. How many pens in total?"
    chains = read("1: A->D\n2: B->C->D")
    with_sentences = with_premises(chains, question, "sentences", longest=99)
    assert with_sentences[:3] == (("Tom has 3 pens", "A"), ("Ann has 5", "B"), ("Ann finds 2 more", "C"))
    steps = steps_of(plan(with_sentences).entities)
    assert Net.of_steps(steps).frontiers() == [[1, 2], [3], [4]]
    known = facts(steps)
    assert known[3] == "Ann has 5. Ann finds 2 more."
    assert known[4] == "Tom has 3 pens. Ann has 5. Ann finds 2 more."
    assert with_premises(chains, question, "question", longest=99)[0] == ("Question", "A", "D")
    assert with_premises(chains, question, "roots", longest=99) == chains


# ---- the checks


GOOD = steps_for(LYNCH)
PLAN, EXECUTION = plan_text(GOOD), execution_text(GOOD)
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>\n'
NEGATIVES: Mapping[str, list[tuple[str, str]]] = {
    "V1": [
        (PLAN[:-2], EXECUTION),
        (BOMB + PLAN.replace("FH", "&b;", 1), EXECUTION),
        (PLAN, EXECUTION.replace("So", "&nbsp;So")),
        (PLAN, "x" * (5 << 20)),
    ],
    "V2": [
        (PLAN.replace("Plan>", "Way>"), EXECUTION),
        ("<Plan></Plan>", EXECUTION),
        (PLAN, EXECUTION.replace("So it is. 2", "<b>So</b>")),
        (PLAN, EXECUTION.replace("So it is. 2", "")),
        (PLAN, EXECUTION.replace("</Step>\n<Step>", "</Step>\nbeside\n<Step>", 1)),
    ],
    "V3": [
        (PLAN.replace("; Dependency: [2, 3, 4]", ""), EXECUTION),
        (PLAN.replace("[2, 3, 4]", "[2, three]"), EXECUTION),
    ],
    "V4": [(PLAN, EXECUTION.replace("Transient Step 2:", "Step 2:"))],
    "V5": [(PLAN.replace("Step 3:", "Step 2:"), EXECUTION), (PLAN, EXECUTION.replace("Step 3:", "Step 2:"))],
    "V6": [(PLAN.replace("MLH1; Dependency: [1]", "MLH1; Dependency: [3]"), EXECUTION)],
    "V7": [
        (PLAN, EXECUTION.replace("LS -> MSH2", "LS -> MSH3")),
        (PLAN, EXECUTION.replace("<Step> Transient Step 5", "<Step> Transient Step 6")),
    ],
    "V8": [(PLAN.replace("Step 2:", "Step 7:").replace("[2, 3, 4]", "[2, 3, 4]"), EXECUTION)],
    "V9": [(PLAN.replace("Step 2:", "Step 7:"), EXECUTION.replace("Step 2:", "Step 7:"))],
    "V10": [(PLAN.replace("[2, 3, 4]", "[2, 3]"), EXECUTION), (PLAN.replace("FH, CM", "FH, MSH2"), EXECUTION)],
    "V11": [
        (PLAN.replace("LS; Dependency: []", "LS; Dependency: [5]"), EXECUTION),
        (PLAN.replace("MSH2; Dependency: [1]", "MSH2; Dependency: [1, 3]").replace("[2, 3, 4]", "[2, 4]"), EXECUTION),
    ],
    "V12": [
        (PLAN, EXECUTION.replace("So it is. 2", "troponin <0.04")),
        (PLAN, EXECUTION.replace("So it is. 2", "salt & water")),
    ],
}


@pytest.mark.parametrize(("number", "pair"), [(v, pair) for v, pairs in NEGATIVES.items() for pair in pairs])
def test_every_negative_trips_the_check_named_for_it(number: str, pair: tuple[str, str]):
    found = check(*pair)
    assert number in {fault.check for fault in found}, found
    assert all(fault.reason == f"{fault.check}_{CHECKS[fault.check]}" for fault in found)
    assert all(len(fault.says) < 400 for fault in found)


def test_what_is_right_trips_nothing_and_every_check_has_a_negative():
    assert check(PLAN, EXECUTION) == []
    assert NEGATIVES.keys() == CHECKS.keys()


def test_steps_1_and_3_with_a_dependency_on_2_lack_it_and_are_not_in_order():
    steps = [Step(1, ("A",), "B", (), "so"), Step(3, ("B",), "C", (2,), "so")]
    failed = {fault.check for fault in check(plan_text(steps), execution_text(steps))}
    assert {"V8", "V9"} <= failed


def test_texts_that_xml_would_act_on_are_escaped_and_read_back():
    steps = [replace(step, text="troponin <0.04 & <b>not bold</b>") for step in steps_for("1: A & B->C")]
    assert check(plan_text(steps), execution_text(steps)) == []
    assert "troponin <0.04 & <b>not bold</b>" in read_block(execution_text(steps)).children[0][1]
    assert "A &amp; B" in plan_text(steps)
    assert "A &amp; B" in entity_text(plan(read("1: A & B->C")).entities)


@pytest.mark.parametrize("before", [BOMB, "<!DOCTYPE Plan>\n", '<!DOCTYPE Plan SYSTEM "file:///etc/passwd">\n'])
def test_a_document_type_is_refused_before_anything_is_expanded_or_fetched(before: str):
    with pytest.raises(NotXml, match="a plan has no document type"):
        read_block(before + PLAN)


def test_a_comma_inside_a_name_is_told_from_one_between_names():
    chains = "1: fever, high->sepsis, early->shock\n2: early->shock"
    steps = steps_for(chains)
    names = {name for step in steps for name in (*step.left, step.right)}
    assert check(plan_text(steps), execution_text(steps), names=names) == []
    assert split_names("a, b, c, d", {"b, c"}) == ["a", "b, c", "d"]


def test_a_fault_of_a_text_names_the_step_and_one_of_the_plan_names_none():
    assert [f.steps for f in check(PLAN, EXECUTION.replace("So it is. 2", "")) if f.check == "V2"] == [(2,)]
    assert [f.steps for f in check(*NEGATIVES["V6"][0]) if f.check == "V6"] == [()]


def test_a_trace_has_the_twelve_tags_each_opened_and_closed():
    before, blocks, after = training_parts(read(LYNCH), GOOD, "because", "B")
    text = "".join((before, *blocks, after))
    assert len(SPECIAL_TOKENS) == 12
    assert all(tag in text for tag in SPECIAL_TOKENS)
    assert PLAN in text
    assert EXECUTION in text
    assert text.endswith("</Think>\nAnswer: B")


# ---- what calls on chains may do, and solved chains


def test_a_call_on_chains_can_do_no_more_than_it_is_asked_for():
    given_chains = read("1: A->B->C\n2: A->C\n3: B->C")
    assert kept(read("1: B->C\n2: A->Z\n3: A->B->C"), given_chains) == (("A", "B", "C"), ("B", "C"))
    with pytest.raises(Unusable, match="empty_candidate_set"):
        kept(read("1: A->Z"), given_chains)
    assert composed(read("1: A->N->C\n2: A->N->M->C\n3: B->N"), given_chains) == (("A", "N", "C"), ("B", "N"))
    longer = read("1: A->x->B->y->C\n2: A->1->2->3->C\n3: B->Z")
    assert filled(longer, given_chains)[0] == ("A", "x", "B", "y", "C")
    assert ("A", "1", "2", "3", "C") not in filled(longer, given_chains)
    assert ("B", "C") in filled(longer, given_chains)


SOLUTION = (
    "# Step 1\nTom has 3 * 4 = 12 pens.\n# Step 2\nAnn has 5 + 2 = 7.\n# Step 3\n12 + 7 = 19.\n# Answer\n\\boxed{19}"
)


def test_a_solved_chain_falls_into_its_steps_and_results_show_which_uses_which():
    texts = split_solution(SOLUTION.replace("\n# Step", "\n\n# Step"))
    assert texts[0] == "Tom has 3 * 4 = 12 pens."
    assert len(texts) == 3
    assert by_numbers(texts) == [(), (), (1, 2)]
    assert split_solution("One is 1. Two is 1 + 1 = 2. So \\boxed{2}") == [
        "One is 1.",
        "Two is 1 + 1 = 2.",
        "So \\boxed{2}",
    ]


@pytest.mark.parametrize(
    ("text", "answer", "there"),
    [
        ("so 19.", "19", True),
        ("so 190", "19", False),
        ("so 1.19", "19", False),
        ("19.5", "19", False),
        ("B it is", "b", True),
    ],
)
def test_an_answer_leaks_as_a_word_of_its_own(text: str, answer: str, there: bool):
    assert holds(text, answer) is there


# ---- builds


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


FATAL = [number for number in NEGATIVES if number not in {"V4", "V7"}]


def test_a_trace_in_tags_whose_plan_fails_is_turned_down_under_the_check_that_it_fails(petri: Make, store: Store):
    rows = [written(*NEGATIVES[number][0]) for number in FATAL]
    dataset = build(
        petri(*rows, written(PLAN, EXECUTION), source={"response": "response"}, plan="written"), store, reply=doctor
    ).dataset
    found = {
        row["problem_id"]: json.loads(row["evidence"])["failed_checks"]
        for row in table(dataset, "rejected").to_dicts()
        if row["stage"] == "method" and "failed_checks" in row["evidence"]
    }
    for i, number in enumerate(FATAL):
        if f"p{i}" in found:
            assert number in found[f"p{i}"], (number, found[f"p{i}"])
    assert table(dataset, "rejected").height + table(dataset, "rows").height == len(rows) + 1
    row = table(dataset, "rows").filter(pl.col("problem_id") == f"p{len(rows)}").row(0, named=True)
    assert (row["eligible"], row["model"], row["conclusion"]["answer"]) == (2, "given", "7")


def test_only_the_step_that_is_not_as_planned_is_written_again(petri: Make, store: Store):
    reply, asked = failing({})
    row = written(PLAN, NEGATIVES["V7"][0][1])
    recipe = petri(row, source={"response": "response"}, plan="written")
    made = only(build(recipe, store, reply=reply).dataset)
    assert asked == {"step3": 1, "conclusion": 1}
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
    down = only(build(petri(max_tokens=50), store, reply=doctor).dataset, "rejected")
    assert down["reason"] == "too_long"
    assert json.loads(down["evidence"])["at_most"] == 50


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
        ({"prompts": {"step": "{questoin}"}}, "nothing fills {questoin}"),
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
