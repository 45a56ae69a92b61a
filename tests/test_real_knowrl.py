"""The released problems of KnowRL with their labels. They lie outside the repository; without them these tests skip.

Of the 1,374 released problems, these files hold the 570 of three benchmarks; their counts are compared with those of the files.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tracemill.pipelines.build import build
from tracemill.pipelines.export import tables_of
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import parse_recipe
from tracemill.schemas.views import knowrl
from tracemill.synth.hints.knowledge import parsed
from tracemill.synth.hints.strategies import Count, choose, first_stage, second_stage

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("TRACEMILL_TEST_DATA", ROOT.parent / "shared" / "data")) / "knowrl"
FILES = {"AIME24": 30, "AMC23": 40, "MATH_500": 500}

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(),
    reason=f"the KnowRL files are not at {DATA}; set TRACEMILL_TEST_DATA to the folder that holds knowrl/",
)

Row = Mapping[str, Any]


def rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def everything() -> Iterator[Row]:
    for name in FILES:
        yield from rows(name)


def kept(row: Row, policy: str) -> tuple[int, ...]:
    return tuple(row[f"{policy}_kept_kp_index"])


def test_the_invariants_of_the_layout_hold_in_every_released_row():
    assert Counter(name for name in FILES for _ in rows(name)) == FILES
    for row in everything():
        for policy in ("css", "cbrs"):
            index = kept(row, policy)
            assert index == tuple(sorted(set(index)))
            assert row[f"{policy}_selected_kps"] == [row["kp_list"][place] for place in index]


def size(index: tuple[int, ...], n: int) -> str:
    return {0: "empty", n: "full", n - 1: "all but one"}.get(len(index), "other")


def test_the_labels_count_up_to_what_is_known_of_them():
    points = Counter(len(row["kp_list"]) for row in everything())
    assert points == {2: 1, 3: 36, 4: 93, 5: 213, 6: 137, 7: 75, 8: 14, 9: 1}
    assert sum(n * count for n, count in points.items()) == 3015
    sizes = {p: Counter(size(kept(row, p), len(row["kp_list"])) for row in everything()) for p in ("css", "cbrs")}
    assert sizes["css"] == {"empty": 322, "full": 19, "all but one": 219, "other": 10}
    assert sizes["cbrs"] == {"empty": 321, "full": 24, "all but one": 225}, "CBRS looks at no other configuration"
    assert sum(len(kept(row, "css")) for row in everything()) == 1144
    assert sum(len(kept(row, "cbrs")) for row in everything()) == 1165
    pairs = [(set(kept(row, "css")), set(kept(row, "cbrs"))) for row in everything()]
    assert sum(css == cbrs for css, cbrs in pairs) == 415
    overlap = [len(css & cbrs) / len(css | cbrs) for css, cbrs in pairs if css | cbrs]
    assert (len(overlap), round(sum(overlap) / len(overlap), 3)) == (263, 0.725)


def test_every_point_has_the_form_that_extraction_asks_for():
    for row in everything():
        for point in row["kp_list"]:
            [found], malformed = parsed(f"1. {point}")
            assert (found.split(), malformed) == (point.split(), [])


def test_every_released_choice_is_one_that_the_strategies_can_make():
    """Counts in which a label is the best configuration lead to that label."""
    for row in everything():
        n = len(row["kp_list"])
        css, cbrs = kept(row, "css"), kept(row, "cbrs")
        assert cbrs in first_stage(n)
        table = {config: Count(20 if config == cbrs else 10, 32) for config in first_stage(n)}
        assert choose("max_score", n, table).kept == choose("cbrs", n, table).kept == cbrs
        first = first_stage(n)
        removed = tuple(place for place in range(n) if place not in css)
        harmless = {tuple(j for j in range(n) if j != place) for place in removed}
        table = {config: Count(12 if config in harmless and css not in first else 10, 32) for config in first}
        assert css in first or css in second_stage(n, removed, ())
        assert choose("css", n, {**table, css: Count(20, 32)}).kept == css


@pytest.mark.timeout(300)
def test_released_problems_and_choices_come_out_as_they_went_in(store: Store):
    source = {
        "messages": "prompt",
        "answer": "reward_model.ground_truth",
        "kp_list": "kp_list",
        "kp_kept": "css_kept_kp_index",
    }
    sources = [
        {**source, "path": str(DATA / f"{name}.jsonl"), **({"answer_format": "boxed"} if name == "AIME24" else {})}
        for name in FILES
    ]
    recipe = parse_recipe(
        {
            "name": "released",
            "source": sources,
            "model": {"name": "any", "max_tokens": 64},
            "engine": {"kind": "scripted"},
            "verify": {"use": "exact"},
            "synth": {"use": "hints", "strategies": ["given"], "m": 2},
        }
    )
    dataset = build(recipe, store, reply=lambda _: r"\boxed{1}").dataset
    assert dataset.manifest()["problems"] == {"chosen": 570, "none_chosen": 0}
    made = {row["prompt"][0]["content"]: row for row in knowrl(tables_of(dataset.path)).collect().iter_rows(named=True)}
    for row in everything():
        mine = made[row["prompt"][0]["content"]]
        assert mine["kp_list"] == row["kp_list"]
        assert mine["given_kept_kp_index"] == row["css_kept_kp_index"]
        assert mine["given_selected_kps"] == row["css_selected_kps"]
        gold = row["reward_model"]["ground_truth"]
        assert mine["reward_model"] == {
            "ground_truth": gold if "boxed" in gold else f"\\boxed{{{gold}}}",
            "style": "rule",
        }
    prompts = dataset.scan("rows").select("prompt", "n_kp", pl.col("kept_kp_index").list.len().alias("kept")).collect()
    for prompt, _, count in prompts.iter_rows():
        assert ("\n\n## Hint\n1. " in prompt[-1]["content"]) == (count > 0)
    warned = dataset.scan("knowledge_points").select(pl.col("findings").list.len() > 0).collect().to_series()
    assert 0 < warned.sum() < 150, "the gate reports what it is unsure of and drops nothing"
    assert set(dataset.scan("knowledge_points").select("fate").collect().to_series()) == {"kept"}
