"""Nets, chains, plans and checks of Petri-net traces: the published example, and what trips every check."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from tests.petri_rows import dags
from tracemill.synth.petri_trace.chains import Unusable, read, write
from tracemill.synth.petri_trace.conclude import _read as conclusion_of
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
    read_outline,
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
        ([["A", "B\u2028C"]], "entity_characters"),
        ([["A", "B\ufffe"]], "entity_characters"),
        ([["A", "B\ud800"]], "entity_characters"),
        ("1: A->\u200b", "empty_entity"),
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


def test_a_cycle_at_the_end_of_a_long_chain_is_found_at_once_and_shown_in_short():
    """Looked for from every link in turn, this one took minutes."""
    long = "1: " + "->".join(f"n{i}" for i in range(20_000))
    for back, says in ((19_998, "n19998 -> n19999 -> n19998"), (0, r".* -> n\d+ -> \.\.\. .20,000 in all.")):
        with pytest.raises(Unusable) as fault:
            plan(read(f"{long}->n{back}"))
        assert fault.value.reason == "cycle"
        assert re.fullmatch(says, fault.value.evidence["says"])


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


def test_what_a_model_repeats_without_end_is_read_in_time_that_grows_with_its_length():
    """Each of these took minutes or hours: time went with the square or the cube of the length."""
    arrows = f"Transient Step 1: {'a -> ' * 100_000}"
    assert read_outline(arrows) is None
    assert read_outline(f"{arrows}b; Dependency: []") is not None
    assert conclusion_of("Explanation: x" + "\n" * 100_000 + "Answer 5") == ("x" + "\n" * 100_000 + "Answer 5", "")
    assert conclusion_of("Explanation: x" + "\n" * 100_000 + "Answer: 5") == ("x", "5")
    once = "<Outline>Transient Step 1: A -> B; Dependency: []</Outline>"
    steps = "<Step>Transient Step 1: A -> B\nso</Step>"
    found = check(f"<Plan>{once * 40_000}</Plan>", f"<Execution>{steps * 40_000}</Execution>")
    assert "V5" in {fault.check for fault in found}
    long = ", ".join(["x"] * 5_000)
    assert split_names(", ".join(["y"] * 10_000), {long}) == ["y"] * 10_000


def test_a_fault_shows_some_of_many_numbers():
    every = list(range(1, 10_000))
    outline = f"<Plan><Outline>Transient Step 1: A -> B; Dependency: {every}</Outline></Plan>"
    found = check(outline, "<Execution><Step>Transient Step 1: A -> B\nso</Step></Execution>")
    assert {"V6", "V8"} <= {fault.check for fault in found}
    assert all(len(fault.says) < 400 for fault in found)


def test_the_explanation_ends_where_the_answer_begins_and_may_be_empty():
    assert conclusion_of("Explanation: so\nand so\n  Answer: B\nAnswer: C") == ("so\nand so", "C")
    assert conclusion_of("Explanation:\nAnswer: B") == ("", "B")
    assert conclusion_of("Answer: B") == ("", "B")


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
        ("1,200 in all", "200", False),
        ("1,200 in all", "1", False),
        ("1,200 in all", "1,200", True),
        ("5, 200 and 7", "200", True),
        ("either 1,2", "2", True),
    ],
)
def test_an_answer_leaks_as_a_word_of_its_own(text: str, answer: str, there: bool):
    assert holds(text, answer) is there
