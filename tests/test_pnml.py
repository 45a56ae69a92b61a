"""Nets for other tools: the PNML document is one by its grammar, and their token game makes the moves of ours."""

from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tests.petri_rows import HOSTILE, LYNCH, dags, row_of, row_of_deps
from tracemill.synth.petri_trace.drawing import legible
from tracemill.synth.petri_trace.layout import steps_of
from tracemill.synth.petri_trace.net import Net, Transition
from tracemill.synth.petri_trace.pnml import NAMESPACE, of_net, pnml

GRAMMAR = etree.RelaxNG(etree.parse(str(Path(__file__).with_name("ptnet.rng"))))


class Game:
    """The ordinary token game of place/transition nets, on a PNML document: firing takes a token for each arc into it."""

    def __init__(self, document: str) -> None:
        page = ET.fromstring(document).find(f"{{{NAMESPACE}}}net/{{{NAMESPACE}}}page")
        assert page is not None
        tag = f"{{{NAMESPACE}}}"
        self.marking: Counter[str] = Counter()
        for place in page.iter(f"{tag}place"):
            self.marking[place.attrib["id"]] = int(place.findtext(f"{tag}initialMarking/{tag}text", "0"))
        self.transitions = [transition.attrib["id"] for transition in page.iter(f"{tag}transition")]
        arcs = [(arc.attrib["source"], arc.attrib["target"]) for arc in page.iter(f"{tag}arc")]
        self.takes = {t: Counter(source for source, target in arcs if target == t) for t in self.transitions}
        self.gives = {t: Counter(target for source, target in arcs if source == t) for t in self.transitions}

    def enabled(self) -> list[str]:
        return [t for t in self.transitions if self.marking >= self.takes[t]]

    def fire(self, transition: str) -> None:
        assert transition in self.enabled()
        self.marking = self.marking - self.takes[transition] + self.gives[transition]


def valid(document: str) -> bool:
    return bool(GRAMMAR.validate(etree.fromstring(document.encode())))


def test_the_lynch_net_is_valid_pnml_and_names_its_places():
    document = pnml(row_of(LYNCH))
    assert valid(document), GRAMMAR.error_log
    names = [text.text for text in ET.fromstring(document).iter(f"{{{NAMESPACE}}}text")]
    assert {"p1/plan", "FH", "MMR", "step 5 waits", "MLH1, MSH2, MSH6 -> MMR"} <= set(names)


@given(dags(), st.randoms(use_true_random=False))
def test_tools_that_consume_tokens_fire_the_same_frontiers_in_any_order_and_stop_where_we_do(deps, random):
    row = row_of_deps(deps)
    net, game = Net.of_steps(steps_of(row)), Game(pnml(row))
    frontiers = []
    while enabled := game.enabled():
        frontiers.append(sorted(int(t[1:]) for t in enabled))
        assert len(frontiers) <= len(deps), "a transition fires more than once"
        random.shuffle(enabled)
        for transition in enabled:
            game.fire(transition)  # what was enabled stays so, whatever else of its frontier fired before it
    assert frontiers == net.frontiers()
    final = {f"e{number}" for number, place in enumerate(net.places) if place in net.run().marked}
    assert {place for place, count in game.marking.items() if count} == final


@given(dags())
def test_every_net_is_valid_pnml(deps):
    assert valid(pnml(row_of_deps(deps)))


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_name_that_xml_would_act_on_is_text_or_an_escape(name: str):
    document = pnml(row_of({1: ([name], name + " too", [], 0)}, row_id=name))
    assert valid(document), GRAMMAR.error_log
    root = ET.fromstring(document)
    assert not list(root.iter("script"))
    assert [t.text for t in root.iter(f"{{{NAMESPACE}}}text")][1] == legible(name, 10_000)


def test_a_net_that_cannot_run_is_exported_all_the_same():
    stuck = Net(("a", "b"), (Transition(1, ("b",), "a"), Transition(2, ("a",), "b")), frozenset(), frozenset())
    document = of_net(stuck)
    assert valid(document), GRAMMAR.error_log
    assert Game(document).enabled() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("grammar/ptnet", "grammar/symmetricnet"),
        ('id="e1"', 'id="e0"'),
        ('source="w1"', 'source="nowhere"'),
        ("<text>1</text>", "<text>-1</text>"),
        ('<position x="0"', '<position x="left"'),
        ("version-2009/grammar/pnml", "version-2003/grammar/pnml"),
    ],
)
def test_the_grammar_of_these_tests_tells_right_from_wrong(old: str, new: str):
    document = pnml(row_of(LYNCH))
    assert old in document
    assert not valid(document.replace(old, new, 1))


def test_a_row_without_steps_says_so():
    with pytest.raises(ValueError, match="p1/plan has no column 'steps'"):
        pnml({"id": "p1/plan"})
