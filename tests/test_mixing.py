"""Several sources as one mix: shares by weight, caps, who is left out and how that is told, and whose licence holds."""

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import solve
from tracemill.pipelines.build import Built, build
from tracemill.pipelines.reading.mixing import quotas
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe, Source, parse_recipe
from tracemill.schemas.rows import draw

Mixed = Callable[..., Built]


def source_file(folder: Path, name: str, numbers: range) -> Path:
    path = folder / f"{name}.jsonl"
    rows = (
        {"id": f"{name[0]}{i:03}", "question": f"{i} + {i % 3}?", "answer": str(i + i % 3), "level": i % 2}
        for i in numbers
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def mixed(tmp_path: Path, store: Store) -> Mixed:
    """Builds a mix of 30 and 90 problems; the keywords are further keys of the two sources."""
    few, many = source_file(tmp_path, "few", range(30)), source_file(tmp_path, "many", range(100, 190))

    def build_it(one: dict[str, Any], other: dict[str, Any], **changes: Any) -> Built:
        table = {
            "name": "mix",
            "source": [{"path": str(few), "licence": "MIT", **one}, {"path": str(many), **other}],
            "model": {"name": "scripted-solver", "max_tokens": 64},
            "engine": {"kind": "scripted"},
            "synth": {"use": "sample", "n": 2},
            **changes,
        }
        return build(parse_recipe(table), store, reply=solve)

    return build_it


def problem_ids(built: Built) -> dict[str, list[str]]:
    ids = built.dataset.scan("problems").collect()["problem_id"].to_list()
    return {letter: sorted((i for i in ids if i[0] == letter), key=draw) for letter in "fm"}


def in_draw_order(letter: str, numbers: range) -> list[str]:
    return sorted((f"{letter}{i:03}" for i in numbers), key=draw)


def test_weights_are_shares_of_problems_and_the_scarcest_source_is_taken_whole(mixed: Mixed):
    built = mixed({"weight": 2.0}, {"weight": 1})
    ids = problem_ids(built)
    assert ids["f"] == in_draw_order("f", range(30))
    assert ids["m"] == in_draw_order("m", range(100, 190))[:15]
    few, many = built.dataset.manifest()["sources"]
    assert {key: few[key] for key in ("read", "refused", "repeated", "held", "taken", "left_out", "rows")} == {
        **dict.fromkeys(("read", "held", "taken", "rows"), 30),
        **dict.fromkeys(("refused", "repeated", "left_out"), 0),
    }
    assert (many["held"], many["taken"], many["left_out"], many["why"]) == (90, 15, 75, "weight")
    assert "cut" not in few


def test_the_cut_in_the_manifest_tells_of_every_problem_whether_it_is_in(mixed: Mixed):
    built = mixed({"weight": 1}, {"weight": 1})
    cut = int(built.dataset.manifest()["sources"][1]["cut"], 16)
    held = in_draw_order("m", range(100, 190))
    assert problem_ids(built)["m"] == [i for i in held if draw(i) <= cut] == held[:30]


def test_another_weight_samples_nothing_again(mixed: Mixed):
    first = mixed({"weight": 2}, {"weight": 1})
    more = mixed({"weight": 1}, {"weight": 1})
    assert (first.tally.meter.samples_new, more.tally.meter.samples_new) == (90, 30)
    assert more.tally.reused == 45
    again = mixed({"weight": 2}, {"weight": 1})
    assert (again.tally.meter.samples_new, again.tally.reused) == (0, 45)
    assert again.dataset.version == first.dataset.version != more.dataset.version


def test_a_cap_takes_the_first_by_hash_and_not_the_first_of_the_file(mixed: Mixed):
    built = mixed({}, {"cap": 12})
    assert problem_ids(built)["m"] == in_draw_order("m", range(100, 190))[:12]
    assert len(problem_ids(built)["f"]) == 30
    many = built.dataset.manifest()["sources"][1]
    assert (many["taken"], many["left_out"], many["why"]) == (12, 78, "cap")


def test_a_cap_makes_a_source_the_scarcest_of_a_mix(mixed: Mixed):
    built = mixed({"weight": 1, "cap": 10}, {"weight": 3})
    assert {letter: len(ids) for letter, ids in problem_ids(built).items()} == {"f": 10, "m": 30}
    assert [source["why"] for source in built.dataset.manifest()["sources"]] == ["cap", "weight"]


def test_shares_are_of_the_problems_that_the_filters_of_a_source_keep(mixed: Mixed):
    keep = [{"use": "where", "sql": "level = 1"}]
    built = mixed({"weight": 1}, {"weight": 1, "keep": keep})
    outcomes = built.dataset.scan("problems").collect()
    of_many = outcomes.filter(outcomes["problem_id"].str.starts_with("m"))
    assert Counter(of_many["outcome"])["rejected"] == len(of_many) - 30 > 0
    held = in_draw_order("m", range(100, 190))
    good = [i for i in held if int(i[1:]) % 2]
    assert problem_ids(built)["m"] == held[: held.index(good[29]) + 1]


def test_the_card_has_a_line_for_each_source_and_an_unknown_licence_stays_unknown(mixed: Mixed):
    card = (mixed({"weight": 2}, {"weight": 1}).dataset.path / "README.md").read_text(encoding="utf-8")
    lines = [line for line in card.splitlines() if line.startswith(("| few", "| many", "| source |"))]
    assert [line.rpartition(" | `")[0] for line in lines[1:]] == [
        "| few.jsonl | MIT | 2 | 30 | 0 | 30 | 60 | 60",
        "| many.jsonl | unknown | 1 | 90 | 75 | 15 | 30 | 30",
    ]
    assert lines[0] == "| source | licence | weight | rows read | left out | problems | traces | chosen | sha256 |"
    assert "license: other" in card
    assert 'license_name: "MIT, unknown"' in card
    assert "are no part of this version" in card


def test_a_problem_of_two_sources_counts_for_the_first(tmp_path: Path, store: Store):
    one, other = source_file(tmp_path, "one", range(20)), tmp_path / "two.jsonl"
    other.write_bytes(one.read_bytes().replace(b'"o0', b'"o9', 5))
    sources = [{"path": str(one), "weight": 1}, {"path": str(other), "weight": 1}]
    table = {"name": "mix", "source": sources, "synth": {"use": "sample"}}
    model = {"model": {"name": "m", "max_tokens": 64}, "engine": {"kind": "scripted"}}
    built = build(parse_recipe({**table, **model}), store, reply=lambda _: "so")
    first, second = built.dataset.manifest()["sources"]
    assert (second["read"], second["repeated"], second["held"]) == (20, 15, 5)
    assert (first["taken"], first["left_out"], second["taken"]) == (5, 15, 5)


WRONG: dict[str, tuple[list[dict[str, Any]], str]] = {
    "one of two has a weight": ([{"weight": 1}, {}], "source.1 has no weight beside sources that have one"),
    "nothing": ([{"weight": 0}, {"weight": 1}], "source.0.weight: Input should be greater than 0"),
    "below nothing": ([{"weight": -2.5}], "source.0.weight: Input should be greater than 0"),
    "a text": ([{"weight": "2"}], "source.0.weight"),
    "not a number": ([{"weight": float("nan")}], "source.0.weight = nan"),
    "a cap of nothing": ([{"cap": 0}], "source.0.cap: Input should be greater than 0"),
    "columns of no trace": ([{"columns": ["model"]}], "name their column, response, too"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_weight_says_why(case: str):
    sources, message = WRONG[case]
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"name": "mix", "source": [{"path": "x.jsonl", **source} for source in sources]})


def test_a_source_that_would_give_nothing_is_an_error_before_anything_is_sampled(mixed: Mixed):
    with pytest.raises(
        RecipeError, match=r"few.jsonl: weight = 0.001: beside .* none of its 30 problems; raise its weight"
    ):
        mixed({"weight": 0.001}, {"weight": 3})
    nothing = [{"use": "where", "sql": "level = 7"}]
    with pytest.raises(
        RecipeError, match=r"many.jsonl: weight = 1: it has no problem that counts for it: its filters kept none"
    ):
        mixed({"weight": 1}, {"weight": 1, "keep": nothing})


COUNTS = st.lists(st.tuples(st.integers(1, 500), st.integers(1, 400)), min_size=1, max_size=5)


@given(COUNTS)
def test_a_mix_keeps_the_shares_to_the_whole_number_below_and_is_the_largest(counts: list[tuple[int, int]]):
    weights, there = [Fraction(w, 100) for w, _ in counts], [n for _, n in counts]
    sources = [Source(path="x", weight=float(w)) for w in weights]
    scale = min(n / w for n, w in zip(there, weights, strict=True))
    if any(scale * w < 1 for w in weights):
        with pytest.raises(RecipeError):
            quotas(sources, there)
        return
    taken = quotas(sources, there)
    assert all(0 < part <= n for part, n in zip(taken, there, strict=True))
    assert any(part == n for part, n in zip(taken, there, strict=True)), "one source is taken whole"
    assert all(0 <= scale * w - part < 1 for part, w in zip(taken, weights, strict=True))


def test_a_recipe_without_weights_is_what_it_was(recipe: Callable[..., Recipe], store: Store):
    manifest = build(recipe(), store, reply=solve).dataset.manifest()
    assert "weight" not in json.dumps(manifest["identity"])
    assert manifest["sources"][0]["left_out"] == 0
