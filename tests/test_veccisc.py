"""veccisc and semdedup: the published rules worked out by hand."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.rows import Selection
from tracemill.selectors.semdedup import semdedup, spherical_kmeans
from tracemill.selectors.veccisc import veccisc

SCHEMA = {
    "id": pl.String,
    "problem_id": pl.String,
    "reasoning": pl.String,
    "content": pl.String,
    "answer": pl.String,
    "gold": pl.String,
    "n_tokens": pl.Int64,
    "finish_reason": pl.String,
    "v": pl.List(pl.Float64),
    "c": pl.Float64,
}


def at(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def trace(name: str, answer: str | None, degrees: float | None, c: float | None = None, **more: Any) -> dict[str, Any]:
    own = {"id": f"q/{name}", "problem_id": "q", "answer": answer, "n_tokens": 40, "finish_reason": "stop", "c": c}
    return {**own, "v": None if degrees is None else at(degrees), **more}


def chosen(*rows: dict[str, Any], **options: Any) -> Selection:
    given = {"vectors": "v", "k": 2, "temperature": 0.5, "confidence": "c"}
    return veccisc(pl.LazyFrame(rows, schema=SCHEMA), **{**given, **options})


def votes(selection: Selection) -> dict[str, Any]:
    [line] = selection.tables["veccisc"].collect().to_dicts()
    return line


def column(selection: Selection, name: str) -> dict[str, Any]:
    return {i[2:]: value for i, value in selection.rows.select("id", name).collect().iter_rows()}


def kept(selection: Selection) -> list[str]:
    return [i.rpartition("/")[2] for i in selection.rows.filter("selected").sort("id").collect()["id"]]


SIX = (
    trace("a1", "A", 0, 0.58),
    trace("a2", "A", 5, 0.6),
    trace("a3", "A", 10, 0.55),
    trace("a4", "A", 90, 0.2),
    trace("b1", "B", 0, 0.7),
    trace("b2", "B", 50, 0.1),
)

# ---- veccisc: known truth of the paper's rules


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_representatives_outvote_the_majority(method: str):
    found = chosen(*SIX, method=method)
    assert [i for i, there in column(found, "is_representative").items() if there] == ["a2", "a4", "b1", "b2"]
    said = votes(found)
    masses = {m["answer"]: round(m["mass"], 4) for m in said["masses"]}
    assert masses == {"a": 0.4770, "b": 0.5230}
    assert (said["veccisc_answer"], said["sc_answer"], said["cisc_answer"]) == ("b", "a", "a")
    assert (said["n"], said["n_critic_calls"], round(said["call_reduction"], 4)) == (6, 4, 0.3333)
    assert kept(found) == ["b1"]
    assert column(found, "reason") == {
        "a1": "not_representative",
        "a2": "outvoted",
        "a3": "not_representative",
        "a4": "outvoted",
        "b1": None,
        "b2": "not_best",
    }
    assert column(found, "represented_by")["a3"] == "q/a2"


def test_confidences_of_traces_that_stand_for_nobody_do_not_count():
    silent = [{**row, "c": row["c"] if row["id"] in ("q/a2", "q/a4", "q/b1", "q/b2") else None} for row in SIX]
    said = votes(chosen(*silent))
    assert round(said["masses"][0]["mass"], 4) == 0.5230
    assert said["cisc_answer"] is None


def test_all_six_scored_by_themselves_give_the_answer_of_cisc():
    found = chosen(*SIX, k=6)
    masses = {m["answer"]: round(m["mass"], 4) for m in votes(found)["masses"]}
    assert masses == {"a": 0.6759, "b": 0.3241}


def test_a_vote_by_cluster_size_is_the_majoritys_here():
    found = chosen(*SIX, vote_mass="cluster_size")
    weights = {"a": 3 * math.exp(1.2) + math.exp(0.4), "b": math.exp(1.4) + math.exp(0.2)}
    masses = {m["answer"]: m["mass"] for m in votes(found)["masses"]}
    assert masses["a"] == pytest.approx(weights["a"] / sum(weights.values()), abs=1e-5)
    assert kept(found) == ["a2"]


@pytest.mark.parametrize(("take", "stay"), [("best", ["b1"]), ("winner", ["b1", "b2"]), ("representatives", ["a2", "a4", "b1", "b2"])])  # fmt: skip
def test_what_is_taken_is_the_best_the_winners_or_all_that_stand_for_a_cluster(take: str, stay: list[str]):
    assert kept(chosen(*SIX, take=take)) == stay


def test_without_any_confidence_all_traces_vote_by_number():
    for options in ({"confidence": None}, {}):
        found = chosen(*({**row, "c": None} for row in SIX), **options)
        said = votes(found)
        assert (said["vote"], said["veccisc_answer"]) == ("majority", "a")
        assert {m["answer"]: m["members"] for m in said["masses"]} == {"a": 4, "b": 2}
        assert set(column(found, "weight").values()) == {None}


def test_a_representative_without_a_number_has_no_weight():
    rows = [{**row, "c": math.nan if row["id"] == "q/b1" else row["c"]} for row in SIX]
    said = votes(chosen(*rows))
    assert said["veccisc_answer"] == "a"
    assert said["cisc_answer"] is None


def test_of_two_members_the_shorter_stands_for_both_and_then_the_smaller_id():
    found = chosen(trace("x", "A", 0, n_tokens=50), trace("y", "A", 10, n_tokens=30), k=1)
    assert column(found, "represented_by") == {"x": "q/y", "y": None}
    found = chosen(trace("x", "A", 0), trace("y", "A", 10), k=1)
    assert column(found, "represented_by") == {"x": None, "y": "q/x"}


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_equal_vectors_make_no_empty_clusters(method: str):
    found = chosen(*(trace(f"t{i}", "A", 30) for i in range(5)), k=3, method=method)
    assert set(column(found, "cluster_size").values()) == {5}
    assert votes(found)["n_critic_calls"] == 1


def test_traces_are_dropped_before_clusters_for_the_reason_that_holds():
    words = " ".join(f"w{i}" for i in range(30))
    rows = (
        trace("a", "A", 0, content=words),
        trace("b", "A", 5, content=words.upper()),
        trace("c", "B", 5, content=words),
        trace("d", None, 5, content="no answer here"),
        trace("e", "A", 5, content="cut", finish_reason="length"),
        trace("f", "A", 5, content="again and again and so on " * 30),
        trace("g", "A", 5, content="one line\n" * 6 + words),
        trace("h", "A", 5, content="short", n_tokens=15),
        trace("i", "A", None, content="no vector"),
        trace("j", " ", 5, content="blank answer"),
    )
    found = chosen(*rows, take="representatives")
    assert column(found, "drop_reason") == {
        "a": None,
        "b": "duplicate_exact",
        "c": None,
        "d": "no_answer",
        "e": "truncated",
        "f": "degenerate",
        "g": "degenerate",
        "h": "degenerate",
        "i": "degenerate",
        "j": "no_answer",
    }
    assert column(found, "represented_by")["b"] == "q/a"
    bare = column(chosen(*rows, prefilter=False), "drop_reason")
    assert {i for i, reason in bare.items() if reason in ("no_answer", "degenerate")} == {"d", "i", "j"}


def test_where_all_agree_no_critic_is_needed_if_so_said():
    rows = [trace("x", "A", 0), trace("y", " a ", 80)]
    assert votes(chosen(*rows))["n_critic_calls"] == 2
    said = votes(chosen(*rows, skip_unanimous=True))
    assert (said["unanimous"], said["n_critic_calls"], said["call_reduction"], said["token_reduction"]) == (
        True,
        0,
        1,
        1,
    )


def test_problems_do_not_mix_and_order_does_not_matter():
    rows = [*SIX, *({**row, "id": row["id"].replace("q/", "p/"), "problem_id": "p", "c": 1 - row["c"]} for row in SIX)]
    one, other = chosen(*rows), chosen(*reversed(rows))
    assert one.rows.sort("id").collect().equals(other.rows.sort("id").collect())
    tables = [found.tables["veccisc"].collect() for found in (one, other)]
    assert tables[0].equals(tables[1])
    assert tables[0]["problem_id"].to_list() == ["p", "q"]


def test_no_rows_are_a_pool_too_and_every_row_comes_back():
    assert chosen().rows.collect().height == 0
    found = chosen(*SIX).rows.collect()
    assert found.select(pl.col("selected") == pl.col("reason").is_null())["selected"].all()
    assert found.select(pl.col("selected") == pl.col("evidence").is_null())["selected"].all()


def test_wrong_options_and_a_missing_library_are_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="k = 0: at least one cluster"):
        chosen(*SIX, k=0)
    with pytest.raises(ValueError, match=r"temperature = 0.0: a number above 0"):
        chosen(*SIX, temperature=0.0)
    with pytest.raises(RecipeError, match="no column 'sure'"):
        chosen(*SIX, confidence="sure")
    monkeypatch.setattr("tracemill.selectors.veccisc.find_spec", lambda _: None)
    with pytest.raises(RecipeError, match=r"pip install 'tracemill\[embed\]'"):
        chosen(*SIX)


# ---- semdedup: known truth of the released code


def pool(*degrees: float) -> pl.LazyFrame:
    return pl.LazyFrame({"id": [f"p/{d:03}" for d in degrees], "v": [at(d) for d in degrees]}, schema={"id": pl.String, "v": pl.List(pl.Float64)})  # fmt: skip


def dedup(*degrees: float, **options: Any) -> Selection:
    return semdedup(pool(*degrees), vectors="v", n_clusters=options.pop("n_clusters", 1), **options)


def test_hard_keeps_the_farthest_and_easy_the_nearest():
    hard = dedup(0, 10, 20, eps=0.02)
    assert kept(hard) == ["000", "020"]
    table = hard.tables["semdedup"].collect().sort("order")
    assert table["id"].to_list() == ["p/000", "p/020", "p/010"]
    assert table["max_sim_to_earlier"].to_list() == [None, 0.939693, 0.984808]
    assert kept(dedup(0, 10, 20, eps=0.02, keep="easy")) == ["010"]


def chain() -> pl.LazyFrame:
    """A chain of 0, 8 and 16 degrees that `hard` takes in this order: weights far away hold the centroid at 60 degrees."""
    return pool(0, 8, 16, *(90 + i / 10 for i in range(6)))


def test_a_chain_collapses_against_all_and_not_against_what_is_kept():
    for against, stay in (("all", ["000"]), ("kept", ["000", "016"])):
        found = semdedup(chain(), vectors="v", n_clusters=1, eps=0.02, against=against)
        order = found.tables["semdedup"].collect().sort("order")["id"].to_list()
        assert [i for i in order if float(i[2:]) < 20] == ["p/000", "p/008", "p/016"]
        assert [i for i in kept(found) if float(i) < 20] == stay


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    rows = pl.LazyFrame({"id": [f"p/{i:03}" for i in range(120)], "v": rng.normal(size=(120, 3)).tolist()})
    for against in ("all", "kept"):
        options: dict[str, Any] = {"vectors": "v", "n_clusters": 2, "eps": 0.05, "against": against}
        whole = semdedup(rows, **options)
        monkeypatch.setattr("tracemill.selectors.semdedup.BLOCK", 7)
        assert semdedup(rows, **options).rows.collect().equals(whole.rows.collect())
        monkeypatch.undo()


def test_equal_vectors_leave_the_first_and_a_zero_vector_is_kept_and_flagged():
    rows = pl.LazyFrame({"id": ["p/a", "p/b", "p/c", "p/z"], "v": [[1.0, 0], [1, 0], [1, 0], [0, 0]]})
    found = semdedup(rows, vectors="v", eps=0.05)
    assert kept(found) == ["a", "z"]
    assert found.rows.sort("id").collect()["vector_flag"].to_list() == [None, None, None, "zero_vector"]


def test_the_sweep_holds_the_share_that_each_eps_keeps():
    found = dedup(0, 10, 20, eps=0.02, keep="easy")
    sweep = dict(found.tables["sweep"].collect().select("eps", "kept").iter_rows())
    assert (sweep[0.01], sweep[0.02], sweep[0.05]) == (3, 1, 1)
    kept_rule = dedup(0, 8, 16, eps=0.02, against="kept").tables["sweep"].collect()
    assert dict(kept_rule.select("eps", "kept").iter_rows())[0.02] == 2


def test_random_order_is_the_seeds_and_stays_with_the_id():
    orders = []
    for seed, degrees in ((1, (0, 10, 20, 30)), (1, (30, 20, 10, 0)), (2, (0, 10, 20, 30))):
        table = dedup(*degrees, keep="random", seed=seed).tables["semdedup"].collect()
        orders.append(table.sort("order")["id"].to_list())
    assert orders[0] == orders[1] != orders[2]


def test_clusters_part_what_lies_apart():
    unit = np.array([at(d) for d in (0, 2, 4, 90, 92, 94)], np.float32)
    for seed in range(5):
        home, centroids = spherical_kmeans(unit, 2, iterations=100, seed=seed)
        assert len(set(home[:3])) == len(set(home[3:])) == 1
        assert home[0] != home[3]
        assert np.allclose(np.linalg.norm(centroids, axis=1), 1)
    found = dedup(0, 2, 90, 92, n_clusters=2, eps=0.01)
    assert len(kept(found)) == 2
    assert found.rows.collect()["cluster_id"].n_unique() == 2


def test_options_of_semdedup_that_cannot_work_are_refused():
    for options, message in (({"eps": 1.0}, "eps = 1.0"), ({"n_clusters": 0}, "n_clusters = 0"), ({"iterations": 0}, "iterations = 0")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            semdedup(pool(0), vectors="v", **options)
    assert semdedup(pool(), vectors="v").rows.collect().height == 0
