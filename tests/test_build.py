"""The promises of the README, each as one test."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import solve
from tracemill.pipelines.asking.screens import built_lines, show_lines
from tracemill.pipelines.build import build
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.errors import CountsDiffer, EngineLost, RecipeError, TooManyFailures
from tracemill.schemas.recipe import EngineTable, ModelTable, Recipe
from tracemill.schemas.request import Completion, Request
from tracemill.synth.models import hash_folder, open_role

Make = Callable[..., Recipe]


class Counted:
    """A reply function that remembers what it was asked."""

    def __init__(self, reply: Callable[[Request], str] = solve) -> None:
        self.reply, self.asked = reply, list[Request]()

    def __call__(self, request: Request) -> str:
        self.asked.append(request)
        return self.reply(request)


def table(dataset: Dataset, name: str) -> pl.DataFrame:
    return dataset.scan(name).collect()


def test_keeps_the_shortest_correct_chain_of_each_problem_and_a_reason_for_every_other(recipe: Make, store: Store):
    dataset = build(recipe(), store, reply=solve).dataset
    rows, rejected = table(dataset, "rows"), table(dataset, "rejected")
    assert rows["problem_id"].to_list() == [f"p{i:02}" for i in range(20)]
    assert rows["correct"].all()
    assert len(rows) + len(rejected) == 80
    assert set(rejected["stage"]) == {"filter:correct", "select:keep"}
    assert rejected.filter(pl.col("stage") == "filter:correct").height == 20
    kept = dict(rows.select("problem_id", "n_tokens").iter_rows())
    for problem, row in rejected.filter(pl.col("stage") == "select:keep").select("problem_id", "row").iter_rows():
        assert json.loads(row)["n_tokens"] >= kept[problem]


def test_building_again_samples_nothing_and_ends_in_the_same_version(recipe: Make, store: Store):
    first = build(recipe(), store, reply=solve)
    idle = Counted()
    again = build(recipe(), store, reply=idle)
    assert again.dataset.version == first.dataset.version
    assert idle.asked == []
    assert (again.tally.meter.samples_new, again.tally.meter.samples_replayed) == (0, 80)
    assert again.tally.reused == 20


def test_asking_for_more_samples_draws_only_the_difference(recipe: Make, store: Store):
    build(recipe(), store, reply=solve)
    more = Counted()
    build(recipe(synth={"use": "sample", "n": 6}), store, reply=more)
    assert sorted((r.problem_id, r.index) for r in more.asked) == [(f"p{i:02}", n) for i in range(20) for n in (4, 5)]


def test_changing_a_filter_samples_nothing(recipe: Make, store: Store):
    build(recipe(), store, reply=solve)
    idle = Counted()
    built = build(recipe(filters=[]), store, reply=idle)
    assert idle.asked == []
    assert built.dataset.manifest()["samples"] == {"new": 0, "replayed": 80}


def test_another_recipe_reuses_the_samples_of_the_first(recipe: Make, store: Store):
    build(recipe(), store, reply=solve)
    idle = Counted()
    build(recipe(name="other", select=[]), store, reply=idle)
    assert idle.asked == []


def test_another_run_seed_is_a_fresh_replicate(recipe: Make, store: Store):
    build(recipe(), store, reply=solve)
    fresh = Counted()
    build(recipe(model={"name": "scripted-solver", "max_tokens": 64, "seed": 1}), store, reply=fresh)
    assert len(fresh.asked) == 80


def test_arrival_order_does_not_matter(recipe: Make, tmp_path: Path):
    calm = build(recipe(), Store(tmp_path / "calm"), reply=solve)
    slow = {"kind": "scripted", "args": {"latency": 0.02}, "at_once": 7}
    jittery = build(recipe(engine=slow), Store(tmp_path / "jittery"), reply=solve)
    assert jittery.dataset.version == calm.dataset.version


def test_the_order_of_the_source_does_not_matter(recipe: Make, problems: Path, tmp_path: Path):
    first = build(recipe(), Store(tmp_path / "a"), reply=solve).dataset
    lines = problems.read_text().splitlines(keepends=True)
    problems.write_text("".join(reversed(lines)))
    second = build(recipe(), Store(tmp_path / "b"), reply=solve).dataset
    for name in ("rows", "rejected", "problems", "samples"):
        assert table(first, name).equals(table(second, name)), name


def test_a_lost_engine_stops_the_run_and_the_next_run_goes_on(recipe: Make, store: Store, tmp_path: Path):
    dying = recipe(engine={"kind": "scripted", "at_once": 4, "args": {"lose_after": 30}})
    with pytest.raises(EngineLost, match="30 answers"):
        build(dying, store, reply=solve)
    rest = Counted()
    resumed = build(recipe(), store, reply=rest)
    assert len(rest.asked) == 80 - 30
    assert resumed.dataset.version == build(recipe(), Store(tmp_path / "whole"), reply=solve).dataset.version


def test_a_failing_problem_is_recorded_and_owed_again(recipe: Make, store: Store):
    def broken(request: Request) -> str:
        if request.problem_id == "p07":
            raise ValueError("this one cannot be answered")
        return solve(request)

    dataset = build(recipe(), store, reply=broken).dataset
    failed = table(dataset, "problems").filter(pl.col("outcome") == "failed")
    assert failed.select("problem_id", "reason").rows() == [("p07", "ValueError: this one cannot be answered")]
    rest = Counted()
    mended = build(recipe(), store, reply=rest).dataset
    assert {request.problem_id for request in rest.asked} == {"p07"}
    assert table(mended, "problems").filter(pl.col("problem_id") == "p07")["outcome"].to_list() == ["chosen"]


def test_more_failures_than_tolerated_stop_the_run_and_say_why(recipe: Make, store: Store):
    def broken(request: Request) -> str:
        raise ValueError("always")

    with pytest.raises(TooManyFailures, match=r"(?s)tolerate = 3.*ValueError: always"):
        build(recipe(tolerate=3), store, reply=broken)


def test_a_run_in_which_every_problem_fails_commits_nothing(recipe: Make, store: Store):
    def broken(request: Request) -> str:
        raise ValueError("always")

    with pytest.raises(TooManyFailures, match="all 20 problems failed: 20 x ValueError: always"):
        build(recipe(tolerate=1000), store, reply=broken)
    with pytest.raises(RecipeError):
        store.open("sums")


def test_wrong_answers_are_no_failures(recipe: Make, store: Store):
    built = build(recipe(tolerate=0), store, reply=lambda _: r"\boxed{-1}")
    assert built.summary()["rows"] == 0
    assert built.summary()["rejected"] == 80


def test_a_token_budget_cuts_a_prefix_that_does_not_depend_on_timing(recipe: Make, tmp_path: Path):
    versions = set()
    for place, engine in (("a", {}), ("b", {"at_once": 3, "args": {"latency": 0.01}})):
        cut = recipe(budget={"tokens": 60}, engine={"kind": "scripted", **engine})
        built = build(cut, Store(tmp_path / place), reply=solve)
        assert built.why_partial is not None
        assert built.why_partial.startswith("budget.tokens")
        assert 0 < built.summary()["problems"] < 20
        assert not built.dataset.manifest()["complete"]
        versions.add(built.dataset.version)
    assert len(versions) == 1


def test_a_budget_of_rows_stops_once_they_are_accepted(recipe: Make, store: Store):
    built = build(recipe(budget={"accepted_rows": 10}, select=[]), store, reply=solve)
    assert 10 <= built.summary()["rows"] < 14  # whole problems, three correct traces each


def test_partial_commits_what_is_done_and_samples_nothing(recipe: Make, store: Store):
    with pytest.raises(EngineLost):
        build(recipe(engine={"kind": "scripted", "at_once": 4, "args": {"lose_after": 30}}), store, reply=solve)
    idle = Counted()
    built = build(recipe(), store, partial=True, reply=idle)
    assert idle.asked == []
    assert 0 < built.summary()["problems"] <= 7
    with pytest.raises(RecipeError):
        store.open("sums")  # a partial version never is the latest


def test_a_problem_filter_acts_before_any_token(recipe: Make, problems: Path, store: Store):
    asked = Counted()
    source = {"path": str(problems), "keep": [{"use": "where", "sql": "difficulty = '1'"}]}
    dataset = build(recipe(source=source), store, reply=asked).dataset
    assert {int(r.problem_id[1:]) % 3 for r in asked.asked} == {1}
    outcomes = table(dataset, "problems")["outcome"].value_counts().rows()
    assert dict(outcomes) == {"chosen": 7, "rejected": 13}
    assert table(dataset, "rejected").filter(pl.col("stage") == "problem_filter").height == 13


def test_two_sources_keep_their_names_and_licences(recipe: Make, problems: Path, tmp_path: Path, store: Store):
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "q01", "question": "What is 1 + 1?", "answer": "2"}\n')
    sources = [{"path": str(problems), "licence": "CC0-1.0"}, {"path": str(other), "licence": "MIT"}]
    dataset = build(recipe(source=sources), store, reply=solve).dataset
    licences = dict(table(dataset, "rows").select("source", "licence").unique().iter_rows())
    assert licences == {"problems.jsonl": "CC0-1.0", "other.jsonl": "MIT"}


def test_given_traces_are_verified_and_kept_with_their_reasons(recipe: Make, tmp_path: Path, store: Store):
    given = tmp_path / "given.jsonl"
    given.write_text(
        '{"id": "a", "question": "6 * 7?", "answer": "42", "x": {"text": "so 42: \\\\boxed{42}"}, "y": {"text": "\\\\boxed{41}"}}\n'
    )
    source = {"path": str(given), "responses": ["x.text", "y.text"]}
    table_ = recipe(source=source, select=[]).model_dump(exclude={"synth", "models", "engines"})
    dataset = build(Recipe(**table_), store, given=True).dataset
    assert table(dataset, "rows").select("id", "model", "correct").rows() == [("a/x.text", "x", True)]
    assert table(dataset, "rejected").select("id", "reason").rows() == [("a/y.text", "wrong")]
    assert "samples" not in dataset.tables()


def test_views_of_the_recipe_are_made_with_the_version(recipe: Make, store: Store):
    dataset = build(recipe(views={"trl-sft": True, "verl": False}), store, reply=solve).dataset
    sft = pl.read_parquet(dataset.path / "views" / "trl-sft" / "*.parquet")
    assert len(sft) == 20
    assert sft["messages"][0].to_list()[-1]["role"] == "assistant"
    assert not (dataset.path / "views" / "verl").exists()


def test_a_view_without_rows_is_told(recipe: Make, store: Store, tmp_path: Path):
    wanted = {"trl-sft": True, "trl-dpo": {"kind": "short_over_long"}, "verl": False}
    dataset = build(recipe(views=wanted), store, reply=lambda _: "never").dataset
    assert (
        list(show_lines(dataset))[-1] == "views     trl-sft left out, it has no rows, trl-dpo left out, it has no rows"
    )
    dataset = build(recipe(views=wanted), Store(tmp_path / "fine"), reply=solve).dataset
    [line] = [line for line in show_lines(dataset) if line.startswith("views ")]
    assert line.startswith("views     trl-sft 20, trl-dpo ")


def test_a_method_that_asks_twice_for_one_draw_is_told_so(recipe: Make, tmp_path: Path, store: Store):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from tracemill.schemas.rows import Outcome\n\n\n"
        "async def twice(problem, engine, *, n: int = 1):\n"
        "    await engine.sample('x', n=n)\n"
        "    await engine.sample('x', n=n)\n"
        "    return Outcome()\n"
    )
    with pytest.raises(TooManyFailures, match="20 x the same draw was asked for twice"):
        build(recipe(synth={"use": f"{mine}:twice"}), store, reply=solve)


def test_a_score_of_ones_own_adds_columns_that_filters_see(recipe: Make, tmp_path: Path, store: Store):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "async def words(trace, engine, *, times: int = 1):\n    return {'words': times * len(trace['content'].split())}\n"
    )
    scored = recipe(
        score=[{"use": f"{mine}:words", "times": 2}], filters=[{"use": "where", "sql": "words >= 8"}], select=[]
    )
    rows = table(build(scored, store, reply=solve).dataset, "rows")
    assert rows["words"].min() >= 8
    assert len(rows) < 80


def test_a_build_starts_no_engine_for_what_it_can_replay(recipe: Make, store: Store, monkeypatch: pytest.MonkeyPatch):
    from tracemill.synth.backends.scripted import Scripted

    build(recipe(), store, reply=solve)

    async def refuse(self: Scripted) -> None:
        raise EngineLost("nobody should start me")

    monkeypatch.setattr(Scripted, "start", refuse)
    build(recipe(filters=[]), store, reply=solve)
    with pytest.raises(EngineLost):
        build(recipe(synth={"use": "sample", "n": 5}), store, reply=solve)


async def test_a_request_in_flight_is_journaled_even_when_a_sibling_fails(recipe: Make, store: Store):
    def one_bad(request: Request) -> str:
        if request.problem_id == "p03" and request.index == 2:
            raise ValueError("bad draw")
        return solve(request)

    await asyncio.to_thread(build, recipe(), store, reply=one_bad)
    rest = Counted()
    await asyncio.to_thread(build, recipe(), store, reply=rest)
    assert [(request.problem_id, request.index) for request in rest.asked] == [("p03", 2)]


def test_an_engine_key_that_means_nothing_to_its_kind_is_refused(recipe: Make, store: Store):
    with pytest.raises(
        RecipeError, match="'timeout' means nothing to an engine of kind 'scripted'; it takes: args, at_once"
    ):
        build(recipe(engine={"kind": "scripted", "timeout": 3.0}), store, reply=solve)


def test_a_selector_of_ones_own_that_raises_costs_no_sample(recipe: Make, tmp_path: Path, store: Store):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "def mine(traces, *, engine=None):\n"
        "    if traces.collect().height:\n"
        "        raise KeyError('oops')\n"
        "    from tracemill.selectors.keep import keep\n"
        "    return keep(traces)\n"
    )
    with pytest.raises(RecipeError, match="mine raises KeyError: 'oops'; what was sampled is kept"):
        build(recipe(select=[{"use": f"{mine}:mine"}]), store, reply=solve)
    idle = Counted()
    build(recipe(), store, reply=idle)
    assert idle.asked == []


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (
            "async def mine(trace, engine):\n    return {'gold': 'x', 'correct': True}\n",
            "returns correct, gold, which the",
        ),
        ("async def mine(trace, engine):\n    return None\n", "returned NoneType; a score returns a mapping"),
    ],
)
def test_a_score_may_not_change_what_a_trace_has(code: str, error: str, recipe: Make, tmp_path: Path, store: Store):
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(RecipeError, match=error):
        build(recipe(score=[{"use": f"{tmp_path / 'mine.py'}:mine"}]), store, reply=solve)


@pytest.mark.parametrize("raised", ["SystemExit(0)", "asyncio.CancelledError()"])
def test_a_method_that_gives_up_on_one_problem_fails_that_problem(
    raised: str, recipe: Make, tmp_path: Path, store: Store
):
    (tmp_path / "mine.py").write_text(
        "import asyncio\n"
        "from tracemill.synth.sample import sample\n\n\n"
        "async def mine(problem, engine):\n"
        f"    if problem.problem_id == 'p03':\n        raise {raised}\n"
        "    return await sample(problem, engine, n=2)\n"
    )
    dataset = build(recipe(synth={"use": f"{tmp_path / 'mine.py'}:mine"}), store, reply=solve).dataset
    outcomes = dict(table(dataset, "problems").select("problem_id", "outcome").iter_rows())
    assert outcomes.pop("p03") == "failed"
    assert set(outcomes.values()) <= {"chosen", "none_chosen"}


def test_a_score_of_mixed_kinds_becomes_text_and_one_that_cannot_be_written_fails_its_problem(
    recipe: Make, tmp_path: Path, store: Store
):
    (tmp_path / "mine.py").write_text(
        "async def mine(trace, engine):\n"
        "    if trace['problem_id'] == 'p04':\n        return {'note': 2**80}\n"
        "    return {'note': 1 if trace['draw'] % 2 else 'odd'}\n"
    )
    scored = recipe(score=[{"use": f"{tmp_path / 'mine.py'}:mine"}], select=[], filters=[])
    dataset = build(scored, store, reply=solve).dataset
    assert set(table(dataset, "rows")["note"]) == {"1", "odd"}
    assert dataset.manifest()["problems"]["failed"] == 1


def test_whatever_is_turned_down_has_a_reason_and_evidence(recipe: Make, tmp_path: Path, store: Store):
    (tmp_path / "mine.py").write_text(
        "import polars as pl\n"
        "from tracemill.schemas.plugins import reject\n"
        "from tracemill.schemas.rows import Selection\n\n\n"
        "def silent():\n    return reject(pl.lit(True), '')\n\n\n"
        "def broken(traces, *, engine=None):\n"
        "    return Selection(rows=traces.with_columns("
        "selected=pl.lit(False), reason=pl.lit('no'), evidence=pl.lit('{not json')))\n\n\n"
        "def unsure(traces, *, engine=None):\n"
        "    return Selection(rows=traces.with_columns("
        "selected=pl.lit(None, pl.Boolean), reason=pl.lit('x'), evidence=pl.lit('{}')))\n"
    )
    own = str(tmp_path / "mine.py")
    for change, error in (
        ({"filters": [{"use": f"{own}:silent"}]}, "without a reason"),
        ({"select": [{"use": f"{own}:broken"}]}, "is no JSON object: '{not json'"),
        ({"select": [{"use": f"{own}:unsure"}]}, "neither yes nor no"),
    ):
        with pytest.raises(CountsDiffer, match=error):
            build(recipe(**change), store, reply=solve)


def test_a_token_budget_is_overshot_by_little(recipe: Make, store: Store):
    built = build(recipe(budget={"tokens": 60}), store, reply=solve)
    assert built.tally.meter.tokens_new < 60 + 8 * 4 * 6  # at most the first few problems, of four draws of six words


def test_what_a_server_did_not_count_the_recipes_tokenizer_does(recipe: Make, store: Store):
    def uncounted(request: Request) -> Completion:
        return Completion(text="123 apples", finish_reason="stop", n_tokens=2, counted="words")

    named = {"name": "scripted-solver", "max_tokens": 64, "tokenizer": "tiny-reasoner"}
    for model, expected in (
        (named, (4, "tiny-reasoner")),
        ({"name": "scripted-solver", "max_tokens": 64}, (2, "words")),
    ):
        dataset = build(recipe(model=model, filters=[], select=[]), store, reply=uncounted).dataset
        assert set(table(dataset, "rows").select("n_tokens", "tokenizer").iter_rows()) == {expected}


def test_weights_are_read_once_and_again_when_they_change(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"one")
    known = tmp_path / "weights.json"
    first = hash_folder(model, known)
    assert hash_folder(model, known) == hash_folder(model) == first
    known.write_text(known.read_text().replace(sha256(b"one").hexdigest(), sha256(b"trusted").hexdigest()))
    assert hash_folder(model, known) != first, "the file was read although its size and time are known"
    (model / "model.safetensors").write_bytes(b"three")
    assert hash_folder(model, known) == hash_folder(model) != first


def test_a_served_name_may_be_a_path_on_the_server(tmp_path: Path):
    served = ModelTable(name="/models/on/the/server", max_tokens=8)
    engine = EngineTable(kind="openai", base_urls=("http://127.0.0.1:9/v1",))
    role = open_role("solver", served, engine, runtime=tmp_path)
    assert (role.model.name, role.model.revision) == ("server", "unverified")


def test_every_field_of_a_request_is_in_its_key():
    from tracemill.schemas.request import Adapter, Model, Sampling

    base = Request(model=Model(name="m", revision="r"), prompt="hi", sampling=Sampling(), problem_id="p")
    other = Request(
        model=Model(name="m", revision="s"),
        prompt="ho",
        sampling=Sampling(top_p=0.5),
        problem_id="q",
        kind="score",
        prefix="x",
        adapter=Adapter(name="a", revision="b"),
        tools="[]",
        template_kwargs="{}",
        scope="judge",
        salt="1",
        index=1,
        run_seed=1,
        seeds="none",
    )
    for name in base.__dataclass_fields__:
        changed = replace(base, **{name: getattr(other, name)})
        assert changed.key != base.key, f"{name} does not reach the key"


def test_a_second_version_says_what_it_shares_with_the_first(recipe: Callable[..., Recipe], store: Store):
    first = build(recipe(samples=True), store, reply=solve)
    second = build(recipe(samples=True, filters=[]), store, reply=solve)
    assert first.shared.files == 0
    assert 0 < second.shared.files < second.shared.of_files
    assert second.dataset.files("samples")[0].samefile(first.dataset.files("samples")[0])
    [said] = [line for line in built_lines(second) if line.startswith("shared")]
    assert said.startswith(f"shared    {second.shared.files} of {second.shared.of_files} files with older versions")
