"""Chains from a knowledge graph (MedReason, arXiv:2504.00993): what question and answer name, linked to nodes, and the ways between.

    question: "colon mass" (finding)      ──▶ node ──┐
    question: "Lynch syndrome" (disease)  ──▶ node ──┤ all shortest paths ──▶ at most 3 a pair ──▶ Lynch syndrome->MSH2->repair
    answer:   "mismatch repair" (process) ──▶ node ──┘

As the released code does it, save for this: a node is known by type and name, not by its lower-case name alone; one call names the
entities and says on which side each stands, where the release has two; without a judge a stated rule prunes the paths; and the
filter that answers from the reasoning alone is what petri_trace's conclusion is (written and checked from the steps).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Literal, Protocol

import pyarrow as pa

from tracemill.schemas.request import Completion
from tracemill.schemas.rows import Problem, Rejection
from tracemill.synth.petri_trace.chains import Chains, Unusable
from tracemill.synth.petri_trace.chains import name as chain_name
from tracemill.synth.petri_trace.embed import check_embedder, nearest
from tracemill.synth.petri_trace.graph import Graph, Node, Way, folded, read_graph

CANDIDATES = 10
SIMILAR = 0.70
SURE = 0.85
SAMPLED = 50
PER_PAIR = 3
"""MedReason, released code: ten candidates above 0.70; the first is taken above 0.85, else a model picks; of more than 50 paths
between two entities 50 are drawn, and at most three are kept."""
EMBEDDER = "abhinand/MedEmbed-large-v0.1"
"""What the release embeds names with; another field needs another one."""

Side = Literal["question", "answer"]

_ENTITY = pa.struct(
    [
        ("side", pa.string()),
        ("type", pa.string()),  # as it was given or named; null where it was not told
        ("name", pa.string()),
        ("node", pa.string()),  # the name in the graph; null where it is linked to none
        ("node_type", pa.string()),
        ("similarity", pa.float64()),  # null where no vectors were asked
        (
            "how",
            pa.string(),
        ),  # exact | top1 | llm; else why not: no_such_type, none_similar, no_embedder, llm_none, llm_unreadable
    ]
)
COLUMNS: Mapping[str, Any] = {
    "kg_entities": pa.list_(_ENTITY),
    "kg_paths": pa.list_(pa.list_(pa.string())),  # the kept paths, as the names of their nodes
    "kg_relations": pa.list_(pa.list_(pa.string())),  # by path what each of its edges says
    "kg_paths_found": int,  # shortest paths between all pairs, before any was left out
    "kg_pruned_by": pa.list_(pa.string()),  # by pair with more paths than are kept: model, rule, or rule: unreadable
}
"""Columns of a trace whose chains come from a graph; null in others."""

_LINE = re.compile(r"\s*(question|answer)\s*\|([^|]*)\|([^|]+)", re.IGNORECASE)
_NUMBER = re.compile(r"\s*(\d{1,4})\s*\.?\s*")
_NUMBERS = re.compile(r"\s*\d{1,4}(\s*,\s*\d{1,4})*\s*\.?\s*")
_NONE = re.compile(r"\s*none\s*\.?\s*", re.IGNORECASE)
_TYPES_SHOWN = 200


class Asks(Protocol):
    """What grounding asks of the one who puts questions to the models: `Asker` of writer.py."""

    @property
    def problem(self) -> Problem: ...
    @property
    def planner(self) -> str: ...

    async def ask(
        self, call: str, values: Mapping[str, object], *, salt: str = "", role: str = "solver", draw: int = 0
    ) -> Completion: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How names are linked and paths pruned."""

    embedder: str | None = None
    """A sentence-transformers folder or Hub id; None links only what has the name of a node."""
    candidates: int = CANDIDATES
    similar: float = SIMILAR
    sure: float = SURE
    sampled: int = SAMPLED
    per_pair: int = PER_PAIR
    path_judge: str | None = None
    """The role that picks among paths; None: those with the fewest edges at their inner nodes stay, ties by name."""

    def check(self) -> None:
        """Raise ValueError for values that cannot work."""
        for option, value in (
            ("candidates", self.candidates),
            ("sampled", self.sampled),
            ("per_pair", self.per_pair),
        ):
            if value < 1:
                raise ValueError(f"{option} = {value}: at least 1")
        if not -1 <= self.similar <= self.sure <= 1:
            raise ValueError(
                f"similar = {self.similar}, sure = {self.sure}: similarities, similar at most sure, up to 1"
            )


def check_grounding(*, plan: str, graph: str | None, **options: Any) -> None:
    """Raise ValueError for options of petri_trace that cannot ground anything, and for a graph that cannot be read."""
    if (plan == "grounded") != (graph is not None):
        raise ValueError(f"plan = {plan!r}, graph = {graph!r}: a graph belongs to plan = 'grounded', which needs one")
    rules = Rules(**{field.name: options[field.name] for field in fields(Rules)})
    rules.check()
    if graph is not None:
        read_graph(graph)
    if rules.embedder is not None:
        check_embedder(rules.embedder)


@dataclass(frozen=True, slots=True)
class Mention:
    """Something that the question or its answer names, and the node it is linked to."""

    side: Side
    name: str
    kind: str | None = None
    node: Node | None = None
    similarity: float | None = None
    how: str = ""

    def row(self, graph: Graph) -> dict[str, Any]:
        node = (None, None) if self.node is None else (graph.names[self.node], graph.types[self.node])
        return {
            "side": self.side,
            "type": self.kind,
            "name": self.name,
            "node": node[0],
            "node_type": node[1],
            "similarity": self.similarity,
            "how": self.how,
        }


@dataclass(frozen=True, slots=True)
class Grounded:
    """Chains and the columns that say where they come from."""

    chains: Chains
    columns: Mapping[str, Any] = field(default_factory=dict)


async def chains_from_graph(asker: Asks, graph: Graph, rules: Rules) -> Grounded:
    """The chains that lead in `graph` from what the question names to what its answer names.

    Entities come from the problem (`question_entities`, `answer_entities`) where it brings both, else the planner names them.
    Raises Unusable: bad_entities (the planner's lines cannot be read), no_entity (on a side none is linked to a node),
    no_path (none leads from one side to the other).
    """
    mentions = [await _linked(mention, asker, graph, rules) for mention in await _mentions(asker, graph)]
    rows = [mention.row(graph) for mention in mentions]
    sides = {side: _nodes(mentions, side) for side in ("question", "answer")}
    for side, nodes in sides.items():
        if not nodes:
            raise Unusable("no_entity", says=f"nothing on the side of the {side} is a node of the graph", entities=rows)
    kept: list[Way] = []
    found, pruned = 0, []
    for start in sides["question"]:
        for end in sides["answer"]:
            ways, total = graph.shortest_paths(start, end, most=rules.sampled, salt=asker.problem.problem_id)
            found += total
            usable = [way for way in ways if _can_be_chain(way, graph)]
            few, by = await _pruned(usable, asker, graph, rules, salt=f"{start}/{end}")
            kept += few
            pruned += [by] if by else []
    if not kept:
        raise Unusable("no_path", says="no way leads from the question to the answer", entities=rows, found=found)
    kept = list(dict.fromkeys(kept))
    columns = {
        "kg_entities": rows,
        "kg_paths": [[graph.names[node] for node in way] for way in kept],
        "kg_relations": [["; ".join(graph.between(a, b)) for a, b in pairwise(way)] for way in kept],
        "kg_paths_found": found,
        "kg_pruned_by": pruned,
    }
    return Grounded(_chains(kept, graph), columns)


def rejection(fault: Unusable) -> Rejection:
    """The rejection of a problem for which there are no chains."""
    return Rejection(fault.reason, fault.evidence)


# ---- entities


async def _mentions(asker: Asks, graph: Graph) -> list[Mention]:
    problem = asker.problem
    if problem.question_entities and problem.answer_entities:
        given: list[tuple[Side, tuple[str, str | None]]] = [("question", e) for e in problem.question_entities]
        given += [("answer", entity) for entity in problem.answer_entities]
        return [Mention(side, name, kind) for side, (name, kind) in given]
    types = ", ".join(graph.kinds()[:_TYPES_SHOWN])
    said = await asker.ask("entities", {"gold": gold_text(problem), "types": types}, role=asker.planner)
    return read_entities(said.text)


def read_entities(text: str) -> list[Mention]:
    """The lines SIDE | TYPE | NAME of a model; Unusable with bad_entities where there is none, or one that is no such line."""
    lines = [line for line in text.splitlines() if line.strip()]
    found = []
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or not match[3].strip():
            raise Unusable("bad_entities", says="a line is SIDE | TYPE | NAME", line=line[:120])
        side: Side = "question" if match[1].lower() == "question" else "answer"
        found.append(Mention(side, match[3].strip(), match[2].strip() or None))
    if not found:
        raise Unusable("bad_entities", says="the model names no entity", line=text[:120])
    return list(dict.fromkeys(found))


async def _linked(mention: Mention, asker: Asks, graph: Graph, rules: Rules) -> Mention:
    """The mention with its node: by name, else the nearest one, else the one that the planner picks."""
    kind = mention.kind
    if kind is not None and folded(kind) not in {folded(known) for known in graph.kinds()}:
        return replace(mention, how="no_such_type")
    if (node := graph.named(mention.name, kind)) is not None:
        return replace(mention, node=node, similarity=1.0, how="exact")
    if rules.embedder is None:
        return replace(mention, how="no_embedder")
    near = await nearest(graph, rules.embedder).to(mention.name, kind, k=rules.candidates, above=rules.similar)
    if not near:
        return replace(mention, how="none_similar")
    if near[0][1] > rules.sure:
        return replace(mention, node=near[0][0], similarity=near[0][1], how="top1")
    return await _picked(mention, near, asker, graph)


async def _picked(mention: Mention, near: Sequence[tuple[Node, float]], asker: Asks, graph: Graph) -> Mention:
    lines = [f"{i}. {graph.names[node]} ({graph.types[node]})" for i, (node, _) in enumerate(near, start=1)]
    values = {
        "gold": gold_text(asker.problem),
        "entity": mention.name,
        "kind": mention.kind or "of any type",
        "candidates": "\n".join(lines),
    }
    said = await asker.ask("pick", values, salt=f"{mention.side}/{mention.kind}/{mention.name}", role=asker.planner)
    if _NONE.fullmatch(said.text):
        return replace(mention, how="llm_none")
    number = _NUMBER.fullmatch(said.text)
    if number is None or not 1 <= int(number[1]) <= len(near):
        return replace(mention, how="llm_unreadable")
    node, similarity = near[int(number[1]) - 1]
    return replace(mention, node=node, similarity=similarity, how="llm")


def _nodes(mentions: Sequence[Mention], side: Side) -> list[Node]:
    return list(dict.fromkeys(m.node for m in mentions if m.side == side and m.node is not None))


def gold_text(problem: Problem) -> str:
    """The gold in words: of a multiple choice the option that its letter stands for."""
    gold = (problem.gold or "").strip()
    place = ord(gold) - ord("A") if len(gold) == 1 else -1
    options = problem.options or ()
    return options[place] if 0 <= place < len(options) else gold


# ---- paths


async def _pruned(
    ways: Sequence[Way], asker: Asks, graph: Graph, rules: Rules, *, salt: str
) -> tuple[list[Way], str | None]:
    """At most `per_pair` of the paths between two nodes, and who chose them where a choice was to be made."""
    by_rule = sorted(ways, key=lambda way: (sum(graph.degree(n) for n in way[1:-1]), [graph.names[n] for n in way]))
    if len(ways) <= rules.per_pair:
        return by_rule, None
    if rules.path_judge is None:
        return by_rule[: rules.per_pair], "rule"
    lines = [f"{number}. {_told(way, graph)}" for number, way in enumerate(by_rule, start=1)]
    values = {"gold": gold_text(asker.problem), "paths": "\n".join(lines), "most": rules.per_pair}
    said = await asker.ask("relevant", values, salt=salt, role=rules.path_judge)
    if _NONE.fullmatch(said.text):
        return [], "model"
    numbers = [int(number) for number in re.findall(r"\d+", said.text)] if _NUMBERS.fullmatch(said.text) else []
    if not numbers or not all(1 <= number <= len(by_rule) for number in numbers):
        return by_rule[: rules.per_pair], "rule: unreadable"
    return [by_rule[number - 1] for number in dict.fromkeys(numbers)][: rules.per_pair], "model"


def _told(way: Way, graph: Graph) -> str:
    said = [graph.names[way[0]]]
    for one, other in pairwise(way):
        said.append(f"-[{'; '.join(graph.between(one, other))}]-> {graph.names[other]}")
    return " ".join(said)


def _can_be_chain(way: Way, graph: Graph) -> bool:
    """Whether every node of the path has a name that a plan can hold."""
    try:
        return all(chain_name(graph.names[node]) for node in way)
    except Unusable:
        return False


def _chains(ways: Sequence[Way], graph: Graph) -> Chains:
    """Paths as chains of names; where two nodes of them share a name, each bears its type as well."""
    nodes = list(dict.fromkeys(node for way in ways for node in way))
    shared: dict[str, set[Node]] = {}
    for node in nodes:
        shared.setdefault(graph.names[node], set()).add(node)
    label = {
        node: graph.names[node] if len(shared[graph.names[node]]) == 1 else f"{graph.names[node]} ({graph.types[node]})"
        for node in nodes
    }
    return tuple(dict.fromkeys(tuple(chain_name(label[node]) for node in way) for way in ways))
