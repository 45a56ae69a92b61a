"""The laws of docs/design.md, held against every method there is and will be."""

import asyncio
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.loopback import Loopback
from tracemill.pipelines.build import Built, build
from tracemill.pipelines.cli import app
from tracemill.pipelines.recipes import catalog
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import EngineLost
from tracemill.schemas.recipe import Recipe, Step, parse_recipe
from tracemill.schemas.request import Request
from tracemill.schemas.rows import draw, qid
from tracemill.schemas.tables import ROWS, declared, polars_types
from tracemill.synth.backends.scripted import Scripted, guess


@dataclass(frozen=True)
class Case:
    """How the laws run a method: its options, and what its problems and roles need beside the usual."""

    options: Mapping[str, Any] = field(default_factory=dict)
    columns: Callable[[int], Mapping[str, Any]] = lambda _: {}
    """Further columns of problem number i."""
    source: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    reply: Callable[[Request], str] = guess
    samples: bool = True
    """False where the method takes what the source brings (`tracemill curate`)."""


def in_steps(request: Request) -> str:
    """A solution of up to four steps behind what is there; the further it has come wrong, the rarer it ends right."""
    number, prefix = int(request.problem_id[1:]), str(request.prefix or "")
    height, luck = prefix.count("# Step"), request.rng_seed % 10
    rest = range(height + 1, height + 2 + request.rng_seed % (5 - min(height, 4)))
    steps = "".join(f"# Step {n}\nstep {n} the {luck % 2} way\n" for n in rest)
    wrong = luck + 3 * prefix.count("1 way") + number % 4 > 8
    return f"{steps}# Answer\n\\boxed{{{2 * number + 1 + wrong}}}\n# END!"


def in_segments(request: Request) -> str:
    """A thought of up to five segments; the more of it stands before a forced answer, the likelier that is right. A judge of three minds."""
    number, luck = int(request.problem_id[1:]), request.rng_seed % 10
    if request.model.name == "scripted-judge":
        return ("keep: it is used.", "drop: it is not.", "Who knows?")[luck % 3]
    if request.scope != "solve":
        return f"{2 * number + (luck < 3 + 2 * str(request.prefix).count('Wait'))}}}."
    thought = " ".join(f"Wait, part {n} of it is so and so." for n in range(1 + number % 5))
    return f"<think>\n{thought}\n</think>\n\n\\boxed{{{2 * number + (luck > 2)}}}"


def in_doubt(request: Request) -> str:
    """A thought step by step, of which every other one reflects; it is sure of its answer about as often as not."""
    number, luck = int(request.problem_id[1:]), request.rng_seed % 10
    if request.scope == "judge":
        return "Yes" if luck < 5 else "No"
    right = 2 * number + (luck > 1)
    if request.scope == "solve":
        return f"<think>\n{'Hmm, well. ' * 25}\n</think>\n\n\\boxed{{{right}}}"
    if request.salt.endswith("answer"):
        return f"\\boxed{{{right}}}"
    return ("Wait, is it?\n\n", "It is.\n\n", "The answer is 1.\n\n", "So.\n</think>\n\n", "</s>")[
        luck // 2 - (luck == 9)
    ]


def in_modes(request: Request) -> str:
    """A thought and an answer; behind a closing tag the answer alone, and behind an ellipsis now one, now the other."""
    prefix = str(request.prefix or "")
    if "</think>" in prefix:
        return guess(request)
    at_once = prefix.endswith("...\n") and request.rng_seed % 3 == 0
    return f"{'' if at_once else 'Let us think.'}\n</think>\n\n{guess(request)}"


def in_paragraphs(request: Request) -> str:
    """A thought of up to five paragraphs, and an answer."""
    thought = "\n\n".join(f"Step {n} of it." for n in range(request.rng_seed % 6))
    return f"{thought}\n</think>\n\n{guess(request)}"


def in_moves(request: Request) -> str:
    """A step with a note, now and then a look at the first note and back, and an answer; one in ten replies is no move."""
    shown, luck = str(request.prompt), request.rng_seed % 10
    done, raw = shown.count(". note "), "1. We add" in shown
    if luck == 0:
        return "I cannot tell."
    if raw:
        return "fold: 1"
    if done > 1:
        return f"answer: {guess(request)}"
    return "expand: 1" if done == 1 and luck < 5 else f"We add number {done} of {luck}.\ncommit: note {done} {luck}"


TOKENIZER = str(Path(__file__).resolve().parent.parent / "data/models/tiny-reasoner")
BOTH_MODES = {"think_prefix": "<think>\n", "nothink_prefix": "<think>\n</think>\n\n"}


def in_plans(request: Request) -> str:
    """A plan in titles or in code, sometimes of one step or none; executions that are sometimes wrong or out of order."""
    number, luck = int(request.problem_id[1:]), request.rng_seed % 5
    if request.salt == "execute":
        titles = ["1. Read both numbers", "2. Add them up"][:: -1 if luck == 1 else 1]
        return "\n".join([*titles[: 1 + bool(number % 5)], rf"\boxed{{{2 * number + 1 + (luck == 2)}}}"])
    if request.scope == "plan_execute_split":
        return ["1. Add them up", "Add.", "1. Read both numbers\n2. Add them up"][min(2, number % 5)]
    if request.salt.startswith("plan"):
        return f"```python\ndef solve(a, b):\n    c{luck} = {'add(a, b)' if luck else 'a +'}\n    return c{luck}\n```"
    return guess(request)


METHODS: dict[str, Case] = {
    "sample": Case(options={"n": 5}),
    "length_harmonize": Case(options={"n": 4, "k": 3}, recipe={"filters": [], "select": []}),
    "reward_remaining_labels": Case(options={"n": 4}),
    "offline_opd": Case(
        options={"n": 2},
        recipe={"models": {"teacher": {"name": "scripted-teacher", "max_tokens": 64}}},
    ),
    "divergent_tokens": Case(
        options={"n": 2},
        recipe={"models": {role: {"name": f"scripted-{role}", "max_tokens": 64} for role in ("small", "judge")}},
    ),
    "pattern_prune_pairs": Case(
        options={"n": 2, "min_tokens": 3},
        recipe={"models": {"judge": {"name": "scripted-judge", "max_tokens": 64}}, "filters": [], "select": []},
        reply=in_segments,
    ),
    "confidence_concise": Case(recipe={"filters": [], "select": []}, reply=in_doubt),
    "mode_advantage": Case(
        options={"k": 6, "n": 4, **BOTH_MODES}, recipe={"filters": [], "select": []}, reply=in_modes
    ),
    "gist_segments": Case(
        options={"n": 3},
        recipe={
            "model": {"name": "scripted-solver", "max_tokens": 64, "tokenizer": TOKENIZER},
            "filters": [],
            "select": [],
        },
        reply=in_paragraphs,
    ),
    "hybrid_mode_mix": Case(
        options={"pool": "pool", "n": 3, "held_out": 0.4, **BOTH_MODES},
        columns=lambda i: {"pool": "think" if i % 4 else "no_think"},
        recipe={"filters": [], "select": []},
        reply=in_modes,
    ),
    "memory_actions": Case(options={"n": 3}, recipe={"filters": [], "select": []}, reply=in_moves),
    "plan_execute_split": Case(options={"tries": 2, "direct": 0.5, "plan_only": 0.5}, reply=in_plans),
    "code_plan": Case(
        options={"n": 2, "shortest": 1, "ratio": 9.0, "copied": 1.0, "least": 0.0, "shuffled": "recorded"}, reply=in_plans
    ),
    "mixchain": Case(options={"adapter": "longer", "alphas": [0.2, 0.5, 0.8]}),
    "petri_trace": Case(
        options={"refine": [], "rounds": 2},
        columns=lambda i: {"chains": "1: A->B->end\n2: C->B\n3: C->D->end" if i % 5 else "1: A->A"},
        source={"chains": "chains"},
    ),
    "hints": Case(
        options={"strategies": ["css", "random"], "m": 4, "evaluate": 1},
        columns=lambda i: {"kp_list": [f"Add {i}.", f"Then {i + 1} more.", "Carry the ten."][: i % 4]},
        source={"kp_list": "kp_list"},
    ),
    "given": Case(
        columns=lambda i: {"a": {"text": rf"so \boxed{{{2 * i + 1}}}"}, "b": {"text": rf"\boxed{{{i}}}" if i % 3 else None}},
        source={"responses": ["a.text", "b.text"]},
        samples=False,
    ),
    "human_steps": Case(
        columns=lambda i: {"label": {"steps": [
            {"completions": [{"text": f"add {i}", "rating": 1}, {"text": f"add {j}", "rating": j % 3 - 1}], "chosen_completion": 0}
            for j in range(i % 5)
        ]}},
        source={"steps": "label.steps"},
        recipe={"synth": {"use": "human_steps"}, "filters": [], "select": []},
        samples=False,
    ),
    "given_tree": Case(
        columns=lambda i: {"nodes": [
            {"id": j, "parent_id": None if j < 5 else j % 5, "step": f"step {j} of {i}", "leaf_kind": ["wrong", "correct"][j * i % 2]}
            for j in range(i)
        ]},
        source={"steps": "nodes"},
        recipe={"synth": {"use": "given_tree", "pair_edits": 1}, "filters": [], "select": []},
        samples=False,
    ),
    "step_tree": Case(
        options={"prefilter": 8, "search_limit": 3, "temperature": 1.0},
        recipe={"filters": [], "select": []},
        reply=in_steps,
    ),
}  # fmt: skip
"""One case a method. A new method is not done before it stands here: its laws are then tested with all others."""

COUNT = 24
SHIPPED = catalog.names("synth")


def table_of(method: str, folder: Path, *, order: list[int] | None = None, **changes: Any) -> Recipe:
    """A recipe that runs a method over problems with ids of their own, in the order given."""
    case = METHODS[method]
    rows = [
        {
            "id": f"p{i:02}",
            "question": f"What is {i} + {i + 1}?",
            "answer": str(2 * i + 1),
            "difficulty": str(i % 3),
            **case.columns(i),
        }
        for i in order or range(COUNT)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table: dict[str, Any] = {
        "name": "law",
        "source": {"path": str(folder / "problems.jsonl"), **case.source},
        "filters": [{"use": "correct"}],
        "select": [{"use": "keep", "k": 2}],
        **case.recipe,
    }
    if case.samples:
        table |= {
            "model": {"name": "scripted-solver", "max_tokens": 64, **case.recipe.get("model", {})},
            "engine": {"kind": "scripted"},
            "synth": {"use": method, **case.options},
        }
    return parse_recipe({**table, **changes})


def run(method: str, recipe: Recipe, store: Path, reply: Callable[[Request], str] | None = None, **how: Any) -> Built:
    case = METHODS[method]
    return build(recipe, Store(store), given=not case.samples, reply=reply or case.reply, **how)


def tables(built: Built) -> dict[str, pl.DataFrame]:
    return {name: built.dataset.scan(name).collect() for name in built.dataset.tables()}


def test_every_method_has_a_case_here_and_every_case_a_method():
    assert METHODS.keys() == set(SHIPPED)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """A build that nothing disturbed, one for each method."""
    made: dict[str, Built] = {}

    def of(method: str) -> Built:
        if method not in made:
            folder = tmp_path_factory.mktemp(method)
            made[method] = run(method, table_of(method, folder), folder / "store")
        return made[method]

    return of


# ---- 1 and 2: replay, and content is identity


@pytest.mark.parametrize("method", SHIPPED)
@pytest.mark.parametrize(("seed", "at_once"), [(1, 1), (2, 3), (3, 17), (4, 1024)])
def test_the_order_in_which_answers_arrive_does_not_reach_the_version(
    method: str, seed: int, at_once: int, calm: Callable[[str], Built], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    slowed(monkeypatch, seed)
    recipe = table_of(method, tmp_path, **scripted(method, at_once=at_once))
    assert run(method, recipe, tmp_path / "store").dataset.version == calm(method).dataset.version


def scripted(method: str, **engine: Any) -> dict[str, Any]:
    return {"engine": {"kind": "scripted", **engine}} if METHODS[method].samples else {}


def slowed(monkeypatch: pytest.MonkeyPatch, seed: int, most: float = 0.01) -> None:
    """Every answer of a scripted engine takes a while that depends on the seed and on who asks when."""
    luck, at_once = random.Random(seed), Scripted.complete

    async def late(self: Scripted, request: Request) -> Any:
        await asyncio.sleep(luck.random() * most)
        return await at_once(self, request)

    monkeypatch.setattr(Scripted, "complete", late)


@pytest.mark.parametrize("method", SHIPPED)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_of_the_source_does_not_reach_the_tables(
    method: str, seed: int, calm: Callable[[str], Built], tmp_path: Path
):
    order = random.Random(seed).sample(range(COUNT), COUNT)
    shuffled = tables(run(method, table_of(method, tmp_path, order=order), tmp_path / "store"))
    expected = tables(calm(method))
    assert shuffled.keys() == expected.keys()
    for name, frame in expected.items():
        assert shuffled[name].equals(frame), name


@pytest.mark.parametrize("method", SHIPPED)
def test_the_place_where_it_is_built_does_not_reach_the_version(
    method: str, calm: Callable[[str], Built], tmp_path: Path
):
    elsewhere = tmp_path / "another place"
    assert run(method, table_of(method, elsewhere), elsewhere / "s").dataset.version == calm(method).dataset.version


def test_a_version_names_no_folder_and_a_text_that_looks_like_one_is_kept(tmp_path: Path):
    model = {"name": "scripted-solver", "max_tokens": 64, "system": "/no_think"}
    built = run("sample", table_of("sample", tmp_path / "here", model=model), tmp_path / "store")
    recipe = (built.dataset.path / "recipe.toml").read_text()
    assert 'system = "/no_think"' in recipe
    for file in built.dataset.path.rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes(), file.name


@pytest.mark.parametrize("method", SHIPPED)
def test_an_unchanged_rebuild_samples_nothing_and_is_the_same_version(method: str, tmp_path: Path):
    recipe = table_of(method, tmp_path)
    first = run(method, recipe, tmp_path / "store")
    again = run(method, recipe, tmp_path / "store", reply=nobody)
    assert again.dataset.version == first.dataset.version
    assert again.tally.meter.samples_new == 0
    assert again.tally.meter.samples_replayed == first.tally.meter.samples_new


def nobody(request: Request) -> str:
    raise AssertionError(f"asked for {request.problem_id} again, draw {request.index}")


@pytest.mark.parametrize("method", SHIPPED)
def test_without_its_spool_a_build_is_replayed_from_the_journal_alone(method: str, tmp_path: Path):
    recipe = table_of(method, tmp_path)
    first = run(method, recipe, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / ".work")
    again = run(method, recipe, tmp_path / "store", reply=nobody)
    assert again.dataset.version == first.dataset.version


@pytest.mark.parametrize("method", [name for name in SHIPPED if METHODS[name].samples])
@pytest.mark.parametrize("answers", [1, 7, 40])
def test_a_build_that_lost_its_engine_ends_in_the_version_of_one_that_did_not(
    method: str, answers: int, calm: Callable[[str], Built], tmp_path: Path
):
    asked = list[str]()

    def reply(request: Request) -> str:
        asked.append(request.key)
        return METHODS[method].reply(request)

    dying = table_of(method, tmp_path, **scripted(method, at_once=4, args={"lose_after": answers}))
    with pytest.raises(EngineLost):
        run(method, dying, tmp_path / "store", reply=reply)
    resumed = run(method, table_of(method, tmp_path), tmp_path / "store", reply=reply)
    assert resumed.dataset.version == calm(method).dataset.version
    assert len(asked) == len(set(asked)), "a journaled request was asked again"


# ---- 3: conservation


@pytest.mark.parametrize("method", SHIPPED)
def test_every_problem_and_every_trace_is_accounted_for(method: str, calm: Callable[[str], Built]):
    accounted(calm(method))


def accounted(built: Built, problems: int = COUNT) -> None:
    found, manifest = tables(built), built.dataset.manifest()
    chosen = found.get("traces", found["rows"])
    down = found["rejected"].filter(pl.col("id").is_not_null())
    assert found["problems"].height == problems
    assert found["problems"]["problem_id"].n_unique() == problems
    assert found["problems"]["outcome"].null_count() == 0
    assert not set(chosen["id"]) & set(down["id"]), "chosen and turned down"
    assert found["rejected"].select(pl.col("stage", "reason", "evidence").null_count()).row(0) == (0, 0, 0)
    for row, evidence in down.select("row", "evidence").iter_rows():
        assert set(ROWS.names) <= json.loads(row).keys(), "a rejected trace keeps its content"
        assert isinstance(json.loads(evidence), dict)
    if "samples" in found:
        assert set(chosen["key"]) | {json.loads(row)["key"] for row in down["row"]} <= set(found["samples"]["key"])
    for name, frame in found.items():
        assert manifest["tables"][name]["rows"] == frame.height
    counted = dict.fromkeys(("chosen", *found["rejected"]["stage"]), 0)
    for line in manifest["counts"]:
        counted[line["stage"]] += line["rows"]
    by_stage = dict(found["rejected"].group_by("stage").len().iter_rows())
    assert counted == {"chosen": chosen.height, **by_stage}
    assert manifest["problems"] | dict(found["problems"].group_by("outcome").len().iter_rows()) == manifest["problems"]
    assert sum(manifest["problems"].values()) == problems


@pytest.mark.parametrize("method", SHIPPED)
def test_counts_are_whole_numbers_and_undecided_stands_inside_the_total_and_never_inside_correct(
    method: str, calm: Callable[[str], Built]
):
    found = tables(calm(method))
    roles = found["problems"]["roles"].explode().drop_nulls().struct.unnest()
    assert {dtype for name, dtype in roles.schema.items() if name != "role"} == {pl.Int64}
    assert roles.filter(pl.col("correct") + pl.col("undecided") > pl.col("total")).height == 0
    if "samples" in found:
        verdicts = found["samples"]["verdict"]
        assert roles["total"].sum() == len(verdicts)
        assert roles["correct"].sum() == (verdicts == "equal").sum()
        assert roles["undecided"].sum() == (
            verdicts.str.starts_with("undecided").fill_null(value=True).sum()  # what is no answer has no verdict
        )
    plugin = catalog.find("synth", step_of(method))
    declared = [plugin.about("COLUMNS", {}), *plugin.about("TABLES", {}).values()]
    measures = {
        name for columns in declared for name, kind in columns.items() if kind is float
    }  # what a method measures, and decides nothing by
    floats = {name for frame in found.values() for name, dtype in frame.schema.items() if dtype.is_float()}
    numbered = {name for name in floats if name.rstrip("0123456789").rstrip("_") in measures}
    assert floats - numbered <= measures, "a share is decided on (correct, total)"


@pytest.mark.parametrize("method", SHIPPED)
def test_a_methods_traces_have_the_columns_that_it_declares_and_no_others(method: str, calm: Callable[[str], Built]):
    found = tables(calm(method))
    traces = found.get("traces", found["rows"])
    columns = declared(catalog.find("synth", step_of(method)).about("COLUMNS", {}), where=method)
    assert set(traces.columns) == {*ROWS.names, *columns.names}
    assert traces.select(columns.names).schema == polars_types(columns)


def step_of(method: str) -> Step:
    return Step.model_validate({"use": method, **METHODS[method].options})


FILTERS = st.lists(
    st.one_of(
        st.sampled_from([{"use": "correct"}, {"use": "answered"}, {"use": "truncated"}]),
        st.builds(lambda n: {"use": "length", "at_most": n}, st.integers(0, 20)),
        st.builds(lambda n: {"use": "characters", "at_least": n}, st.integers(0, 80)),
        st.builds(lambda n: {"use": "where", "sql": f"difficulty <> '{n}' OR n_tokens % 2 = 0"}, st.integers(0, 3)),
    ),
    max_size=3,
)
SELECTORS = st.lists(
    st.one_of(
        st.builds(
            lambda k, prefer, correct: {"use": "keep", "k": k, "prefer": prefer, "correct_only": correct},
            st.integers(1, 4),
            st.sampled_from(["shortest", "longest", "random", "central"]),
            st.booleans(),
        ),
        st.builds(
            lambda low, high: {"use": "pass_rate", "at_least": low / 8, "at_most": (low + high) / 8},
            st.integers(0, 4),
            st.integers(0, 4),
        ),
        st.builds(lambda k: {"use": "select2reason", "k": k}, st.integers(1, 60)),
        st.builds(
            lambda kind, k: {"use": "baseline", "kind": kind, "k": k},
            st.sampled_from(["random", "longest", "shortest", "middle", "difficulty", "keyword"]),
            st.integers(1, 60),
        ),
        st.builds(lambda k: {"use": "stratified", "by": ["difficulty"], "k": k}, st.integers(1, 60)),
        st.builds(
            lambda tokens, rule: {"use": "budget", "tokens": tokens, "rule": rule},
            st.integers(1, 900),
            st.sampled_from(["prefix", "greedy"]),
        ),
        st.builds(
            lambda rows, length: {"use": "exact_target", "rows": rows, **length},
            st.integers(1, 60),
            st.sampled_from([{}, {"median": 12}, {"mean": 12, "tolerance": 1}]),
        ),
        st.just({"use": "cisc", "confidence": "n_tokens"}),
    ),
    max_size=2,
)
NUMBER = count()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(filters=FILTERS, selectors=SELECTORS)
def test_whatever_filters_and_selectors_say_nothing_disappears_and_nothing_is_sampled_again(
    tmp_path: Path, filters: list[dict[str, Any]], selectors: list[dict[str, Any]]
):
    first = next(NUMBER) == 0
    recipe = table_of("sample", tmp_path, filters=filters, select=selectors)
    built = run("sample", recipe, tmp_path / "store", reply=None if first else nobody)
    accounted(built)
    stages = {f"filter:{step['use']}" for step in filters} | {f"select:{step['use']}" for step in selectors}
    assert set(tables(built)["rejected"]["stage"]) <= stages


@pytest.mark.parametrize(
    "step",
    [
        {"use": "select2reason", "percent": 30},
        {"use": "baseline", "kind": "diverse", "by": "difficulty", "percent": 30},
        {"use": "cisc", "confidence": "n_tokens"},
        {"use": "stratified", "by": ["difficulty"], "each": 7},
        {"use": "budget", "tokens": 60, "per": ["difficulty"], "rule": "greedy"},
        {"use": "balance", "by": ["difficulty"]},
        {
            "use": "exact_target",
            "rows": 30,
            "by": "difficulty",
            "histogram": {"0": 0.5, "1": 0.3, "2": 0.2},
            "mean": 12,
            "tolerance": 1,
        },
    ],
    ids=lambda step: step["use"],
)
def test_a_selector_accounts_for_every_row_also_when_it_stands_there_twice(tmp_path: Path, step: dict[str, Any]):
    built = run("sample", table_of("sample", tmp_path / "a", select=[step]), tmp_path / "store")
    accounted(built)
    assert set(tables(built)["rejected"]["stage"]) == {"filter:correct", f"select:{step['use']}"}
    order = random.Random(4).sample(range(COUNT), COUNT)
    again = run("sample", table_of("sample", tmp_path / "b", select=[step], order=order), tmp_path / "other")
    for name, frame in tables(built).items():
        assert tables(again)[name].equals(frame), name
    accounted(run("sample", table_of("sample", tmp_path / "c", select=[step, step]), tmp_path / "store"))


# ---- 5, 8, 9


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(broken=st.sets(st.integers(0, COUNT - 1), max_size=COUNT - 1))
def test_failing_problems_are_counted_and_the_others_are_as_if_alone(
    tmp_path: Path, calm: Callable[[str], Built], broken: set[int]
):
    def reply(request: Request) -> str:
        if int(request.problem_id[1:]) in broken:
            raise ValueError("broken on purpose")
        return guess(request)

    place = tmp_path / str(next(NUMBER))
    built = run("sample", table_of("sample", place), place / "store", reply=reply)
    accounted(built)
    ids = [f"p{i:02}" for i in sorted(broken)]
    failed = tables(built)["problems"].filter(pl.col("outcome") == "failed")
    assert failed["problem_id"].to_list() == ids
    whole = tables(calm("sample"))
    for name in ("rows", "rejected", "samples"):
        assert tables(built)[name].equals(whole[name].filter(~pl.col("problem_id").is_in(ids))), name


def test_draws_and_ids_are_ours_for_ever():
    # pinned: a change here moves every shard, split and budget cut that was ever made
    assert draw("p00") == 17432098177639034021
    assert draw("café/solve-0003") == 16700729539787750586
    assert qid("  What is\n1 + 1? ") == qid("What is 1 + 1?") == "72f8917549de2d6d"
    assert qid("cafe\u0301") == qid("caf\u00e9") == "850f7dc43910ff89"


def test_a_budget_cuts_the_same_prefix_whoever_is_there_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cut = set()
    for seed in (1, 2, 3):
        slowed(monkeypatch, seed, most=0.05)
        place = tmp_path / str(seed)
        recipe = table_of("sample", place, budget={"tokens": 300}, **scripted("sample", at_once=40 * seed))
        built = run("sample", recipe, place / "store")
        done = tables(built)["problems"]["problem_id"].to_list()
        everyone = sorted((f"p{i:02}" for i in range(COUNT)), key=draw)
        assert sorted(done, key=draw) == everyone[: len(done)]
        cut.add(built.dataset.version)
    assert len(cut) == 1


SECRETS = ("sk-very-secret-key", "hunter2password")


@pytest.mark.parametrize("reached", [True, False])
async def test_no_secret_reaches_a_file_or_a_line_of_output(tmp_path: Path, reached: bool):
    async with Loopback(api_key=SECRETS[0] if reached else "another") as server:
        for name, url, key in (
            ("by-key", server.url, 'api_key_env = "TRACEMILL_TEST_KEY"'),
            ("by-url", server.url.replace("://", f"://somebody:{SECRETS[1]}@"), ""),
        ):
            server.api_key = server.api_key if key else None if reached else "another"
            (tmp_path / "problems.jsonl").write_text('{"id": "a", "question": "1 + 1?", "answer": "2"}\n')
            (tmp_path / f"{name}.toml").write_text(
                f'name = "{name}"\nsource = [{{ path = "problems.jsonl" }}]\nsynth = {{ use = "sample", n = 2 }}\n'
                f'[model]\nname = "tiny"\nmax_tokens = 8\n[engine]\nkind = "openai"\nbase_urls = ["{url}"]\n{key}\n'
            )
            code, said = await tracemill("build", str(tmp_path / f"{name}.toml"), str(tmp_path / "store"))
            assert code == (0 if reached else 2), said
            assert not [secret for secret in SECRETS if secret in said], said
    leaks = [
        (file.name, secret)
        for file in (tmp_path / "store").rglob("*")
        if file.is_file()
        for secret in SECRETS
        if secret.encode() in file.read_bytes()
    ]
    assert leaks == []
    if reached:
        assert len(Store(tmp_path / "store").list()) == 2


async def tracemill(command: str, recipe: str, store: str) -> tuple[int, str]:
    """Exit code and all output of the command line, in a thread: the server lives in this one."""
    result = await asyncio.to_thread(
        CliRunner(env={"TRACEMILL_TEST_KEY": SECRETS[0]}).invoke, app, [command, recipe, "--store", store]
    )
    return result.exit_code, result.output
