"""Trees and nets as images: everything is there and at its place, nothing that a text holds gets through."""

import itertools
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.petri_rows import HOSTILE, LYNCH, dags, row_of, row_of_deps
from tests.trees import grown, node_rows
from tracemill.pipelines.drawings import CSS, net_svg, standalone, tree_svg
from tracemill.pipelines.drawings.layers import crossings, heights, ordered
from tracemill.pipelines.drawings.svg import DARK, LIGHT

SVG = "{http://www.w3.org/2000/svg}"
SPEC = {"A": {"A1": "correct", "A2": {"A21": "wrong", "A22": "correct"}}, "B": {"B1": "wrong"}, "C": "undecided"}


def parsed(drawing: str) -> Any:
    return etree.fromstring(drawing.encode())


def boxes(image: Any) -> dict[str, tuple[float, float, float, float]]:
    """By node of a net the left, top, right and bottom of its outline."""
    found = {}
    for group in image.iter(f"{SVG}g"):
        box = group.find(f"{SVG}rect")
        x, y, width, height = (float(box.get(name)) for name in ("x", "y", "width", "height"))
        found[group.get("data-node")] = (x, y, x + width, y + height)
    return found


def ends(path: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where a path begins and ends, of M, C, V and H."""
    x = y = 0.0
    begin = None
    for command, text in re.findall(r"([MCVH])([^MCVH]*)", path.get("d")):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+(?:e[+-]?\d+)?", text)]
        x, y = (x, numbers[-1]) if command == "V" else (numbers[-1], y) if command == "H" else tuple(numbers[-2:])
        begin = begin or (x, y)
    assert begin is not None
    return begin, (x, y)


def inside(image: Any) -> None:
    """Everything stands within the image."""
    width, height = float(image.get("width")), float(image.get("height"))
    for left, top, right, bottom in boxes(image).values():
        assert 0 <= left <= right <= width
        assert 0 <= top <= bottom <= height


# ---- trees


@st.composite
def trees(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of `nodes` in any order, each below one made before it."""
    count = draw(st.integers(1, 25))
    parents = [None, *(draw(st.integers(0, n - 1)) for n in range(1, count))]
    rows = [
        node(n, None if parent is None else f"p/n{parent}", draw(st.integers(0, 4))) for n, parent in enumerate(parents)
    ]
    return draw(st.permutations(rows))


def node(n: int, parent: str | None, correct: int = 0, **more: Any) -> dict[str, Any]:
    row = {"id": f"p/n{n}", "node_id": f"n{n}", "parent_id": parent, "step": f"step {n}", "leaf_kind": None, "mult": 1}
    counts = {"n_correct": correct, "n_total": 4, "n_undecided": 0, "label_hard": (0, 1, None)[correct % 3]}
    return {**row, **counts, "low": correct / 5, "high": (correct + 1) / 5, **more}


@settings(deadline=None)
@given(trees())
def test_every_node_has_a_line_of_its_own_below_its_parent_and_hangs_from_it(rows: list[dict[str, Any]]) -> None:
    image = parsed(tree_svg(rows))
    at = {g.get("data-node"): float(g.find(f"{SVG}text").get("y")) for g in image.iter(f"{SVG}g")}
    assert at.keys() == {row["id"] for row in rows}
    assert len(set(at.values())) == len(rows)
    assert min(b - a for a, b in itertools.pairwise(sorted(at.values()))) >= 20 if len(rows) > 1 else True
    edges = {
        (path.get("data-from"), path.get("data-to")): path for path in image.iter(f"{SVG}path") if path.get("data-to")
    }
    assert edges.keys() == {(row["parent_id"], row["id"]) for row in rows if row["parent_id"] is not None}
    for (parent, child), path in edges.items():
        (x, top), (end, bottom) = ends(path)
        assert (top, bottom) == (at[parent] - 4, at[child] - 4)
        assert top < bottom
        assert x < end


@settings(deadline=None)
@given(trees(), st.integers(1, 12))
def test_of_a_large_tree_the_nodes_nearest_the_question_are_drawn_and_the_others_counted(
    rows: list[dict[str, Any]], most: int
) -> None:
    image = parsed(tree_svg(rows, most=most))
    drawn = {group.get("data-node") for group in image.iter(f"{SVG}g")}
    assert len(drawn) == min(most, len(rows))
    parent = {row["id"]: row["parent_id"] for row in rows}
    assert all(parent[str(name)] is None or parent[str(name)] in drawn for name in drawn)
    texts = " ".join(image.itertext())
    below = sum(int(n) for n in re.findall(r"(\d+) below not drawn", texts))
    assert (f"and {len(rows) - most} of {len(rows)} nodes are not drawn" in texts) == (len(rows) > most)
    assert below >= len(rows) - len(drawn)


def test_counts_intervals_and_marks_stand_on_the_nodes() -> None:
    rows = list(node_rows(grown(SPEC)))
    rows[1] |= {"low": 0.25, "high": 0.75, "mult": 3}
    rows[5] |= {"is_first_error": True}
    image = parsed(tree_svg(rows))
    groups = {group.get("data-node"): group for group in image.iter(f"{SVG}g")}
    first = groups[rows[1]["id"]]
    assert first.findtext(f"{SVG}title").startswith(
        "n000001, good: 2/3 right, 0.67 between 0.25 and 0.75; drawn 3 times"
    )
    assert "2/3" in list(first.itertext())
    interval = next(path for path in first.iter(f"{SVG}path"))
    begin, end = (float(n) for n in re.findall(r"M([\d.]+),[\d.]+ H([\d.]+)", interval.get("d"))[0])
    dot = next(circle for circle in first.iter(f"{SVG}circle") if circle.get("r") == "3.5")
    assert end - begin == 55  # half of the range
    assert begin < float(dot.get("cx")) < end
    wrong = groups[rows[5]["id"]]
    assert "FIRST ERROR" in "".join(wrong.itertext())
    told = image.findtext(f"{SVG}desc")
    assert f"First errors: {rows[5]['node_id']}." in told
    assert told.startswith("9 nodes: ")


def test_good_bad_and_open_differ_in_shape() -> None:
    rows = [node(0, None, 0), node(1, "p/n0", 1), node(2, "p/n0", 2)]
    groups = list(parsed(tree_svg(rows)).iter(f"{SVG}g"))
    assert [[child.tag.removeprefix(SVG) for child in group][1] for group in groups] == ["rect", "circle", "path"]


def test_nodes_below_nothing_and_nodes_below_themselves_are_drawn_too() -> None:
    rows = [node(0, None), node(1, "p/gone"), node(2, "p/n3"), node(3, "p/n2"), node(4, "p/n4")]
    drawn = [group.get("data-node") for group in parsed(tree_svg(rows)).iter(f"{SVG}g")]
    assert sorted(drawn) == [f"p/n{n}" for n in range(5)]
    assert parsed(tree_svg([])).findtext(f"{SVG}desc") == "0 nodes: 0 good, 0 bad, 0 open."


def test_a_deep_tree_of_ten_thousand_nodes_is_one_small_image() -> None:
    rows = [node(n, f"p/n{n - 1}" if n else None, 1) for n in range(10_000)]
    drawing = tree_svg(rows)
    assert len(drawing) < 120_000
    assert "and 9,920 of 10,000 nodes are not drawn" in drawing


@pytest.mark.parametrize("text", [*HOSTILE, "\ud800 half", "\u200bzero\u2066"], ids=range(len(HOSTILE) + 2))
def test_no_text_of_a_node_gets_through(text: str) -> None:
    row = node(0, None, step=text) | {"id": text, "node_id": text, "leaf_kind": text}
    drawing = tree_svg([row, node(1, text)])
    assert all(c.isprintable() for c in drawing)
    tags = {element.tag for element in parsed(drawing).iter()}
    assert tags <= {f"{SVG}{tag}" for tag in ("svg", "title", "desc", "rect", "path", "g", "text", "tspan", "circle")}
    assert len(drawing) < 12_000


def test_rows_of_another_table_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="these rows are no nodes of a step tree: KeyError"):
        tree_svg([{"id": "x"}])
    with pytest.raises(ValueError, match="no nodes of a step tree: TypeError"):
        tree_svg([node(0, None) | {"low": None, "high": None, "n_total": None, "n_correct": 3}])


# ---- nets


@settings(deadline=None)
@given(dags(), st.lists(st.integers(1, 9), min_size=7, max_size=7))
def test_every_place_and_transition_is_drawn_and_arcs_meet_their_ends(
    deps: dict[int, list[int]], tokens: list[int]
) -> None:
    row = row_of_deps(deps, tokens)
    image = parsed(net_svg(row))
    inside(image)
    at = boxes(image)
    names = {name for step in row["steps"] for name in (*step["left"], step["right"])}
    assert at.keys() == {f"place {name}" for name in names} | {f"step {n}" for n in deps}
    arcs = {
        (path.get("data-from"), path.get("data-to")): path for path in image.iter(f"{SVG}path") if path.get("data-to")
    }
    reads = {(f"place {name}", f"step {step['n']}") for step in row["steps"] for name in step["left"]}
    assert arcs.keys() == reads | {(f"step {step['n']}", f"place {step['right']}") for step in row["steps"]}
    for (source, target), path in arcs.items():
        (x, y), (end, height) = ends(path)
        assert x == pytest.approx(at[source][2], abs=0.1)
        assert y == pytest.approx((at[source][1] + at[source][3]) / 2, abs=0.2)
        assert end == pytest.approx(at[target][0], abs=0.1)
        assert height == pytest.approx((at[target][1] + at[target][3]) / 2, abs=0.2)
        assert x < end


@settings(deadline=None)
@given(dags())
def test_frontiers_are_columns_in_which_no_two_nodes_touch(deps: dict[int, list[int]]) -> None:
    row = row_of_deps(deps)
    at = boxes(parsed(net_svg(row)))
    level: dict[int, int] = {}
    for n, before in deps.items():
        level[n] = 1 + max((level[dep] for dep in before), default=0)
    lefts = {at[f"step {n}"][0]: level[n] for n in deps}
    assert len(lefts) == len(set(level.values()))
    assert [lefts[x] for x in sorted(lefts)] == sorted(set(level.values()))
    for one, other in itertools.combinations(at.values(), 2):
        if one[0] == other[0]:
            assert one[3] <= other[1] or other[3] <= one[1]


def test_the_critical_path_is_thick_and_dashed_from_its_first_step_to_its_last_place() -> None:
    image = parsed(net_svg(row_of(LYNCH)))
    assert image.get("role") == "img"
    assert image.findtext(f"{SVG}title") == "Petri net of p1/plan"
    told = image.findtext(f"{SVG}desc")
    assert "critical path (*) 13 of 18 tokens" in told
    assert "Step 5: MLH1, MSH2, MSH6 -> MMR, after 2, 3, 4, 4 tokens." in told
    hot = [p for p in image.iter(f"{SVG}path") if p.get("stroke-dasharray") and p.get("data-to")]
    assert {(p.get("data-from"), p.get("data-to")) for p in hot} == {
        ("step 1", "place LS"),
        ("place LS", "step 3"),
        ("step 3", "place MSH2"),
        ("place MSH2", "step 5"),
        ("step 5", "place MMR"),
    }
    cold = [p for p in image.iter(f"{SVG}path") if not p.get("stroke-dasharray") and p.get("data-to")]
    assert min(float(p.get("stroke-width")) for p in hot) > max(float(p.get("stroke-width")) for p in cold)


def test_given_places_hold_a_token_and_last_ones_have_a_double_line() -> None:
    groups = {g.get("data-node"): g for g in parsed(net_svg(row_of(LYNCH))).iter(f"{SVG}g")}
    assert {name for name, group in groups.items() if group.find(f"{SVG}circle") is not None} == {
        "place FH",
        "place CM",
    }
    double = {name for name, group in groups.items() if len(group.findall(f"{SVG}rect")) == 2}
    assert double == {"place MMR"}


def test_of_a_large_net_the_first_frontiers_are_drawn_and_the_image_says_so() -> None:
    drawing = net_svg(row_of_deps({n: [n - 1] if n > 1 else [] for n in range(1, 2001)}))
    assert "1,940 of 2,000 steps are not drawn" in drawing
    assert sum(name.startswith("step ") for name in boxes(parsed(drawing))) == 60
    dense = net_svg(row_of_deps({n: list(range(1, n)) for n in range(1, 61)}))
    inside(parsed(dense))
    assert len(dense) < 1_000_000


@pytest.mark.parametrize("name", [*HOSTILE, "\ud800 half", "\u200bzero\u2066"], ids=range(len(HOSTILE) + 2))
def test_no_name_of_a_net_gets_through(name: str) -> None:
    drawing = net_svg(row_of({1: ([name], f"{name} x", [], 3)}, row_id=name))
    assert all(c.isprintable() for c in drawing)
    tags = {element.tag for element in parsed(drawing).iter()}
    assert tags <= {f"{SVG}{tag}" for tag in ("svg", "title", "desc", "rect", "path", "g", "text", "circle")}
    assert len(drawing) < 10_000


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"steps": None},
        {"steps": []},
        {"steps": [{"n": 1}]},
        row_of({1: (["a"], "b", [2], 0)}),
        {"steps": [*row_of(LYNCH)["steps"], *row_of(LYNCH)["steps"]]},
    ],
)
def test_a_row_without_a_net_is_refused_in_words(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no column 'steps'|holds no net|one number"):
        net_svg(row)


# ---- layers


@st.composite
def layered(draw: st.DrawFn) -> tuple[list[list[str]], list[tuple[str, str]]]:
    columns = [[f"{at}-{n}" for n in range(draw(st.integers(1, 5)))] for at in range(draw(st.integers(1, 4)))]
    pairs = [pair for here, there in itertools.pairwise(columns) for pair in itertools.product(here, there)]
    return columns, draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []


def counted(columns: list[list[str]], links: list[tuple[str, str]]) -> int:
    """Crossings, pair by pair."""
    place = {node: (at, n) for at, column in enumerate(columns) for n, node in enumerate(column)}
    return sum(
        place[a][0] == place[c][0] and (place[a][1] - place[c][1]) * (place[b][1] - place[d][1]) < 0
        for (a, b), (c, d) in itertools.combinations(links, 2)
    )


@settings(deadline=None)
@given(layered())
def test_ordering_keeps_every_node_in_its_column_and_never_adds_a_crossing(
    drawn: tuple[list[list[str]], list[tuple[str, str]]],
) -> None:
    columns, links = drawn
    found = ordered(columns, links)
    assert [sorted(column) for column in found] == [sorted(column) for column in columns]
    assert counted(found, links) <= counted(columns, links)
    after: dict[str, list[str]] = {}
    for one, other in links:
        after.setdefault(one, []).append(other)
    assert crossings(found, after) == counted(found, links)


def test_sweeps_over_a_good_order_do_not_spoil_it() -> None:
    rng = random.Random(1)
    for _ in range(100):
        columns = [[f"{at}-{n}" for n in range(rng.randint(2, 7))] for at in range(rng.randint(2, 5))]
        pairs = [pair for here, there in itertools.pairwise(columns) for pair in itertools.product(here, there)]
        links = rng.sample(pairs, min(len(pairs), rng.randint(4, 22)))
        good = ordered(columns, links)
        assert counted(ordered(good, links), links) <= counted(good, links)


@settings(deadline=None)
@given(layered(), st.integers(1, 40))
def test_heights_keep_the_order_and_the_distances(
    drawn: tuple[list[list[str]], list[tuple[str, str]]], room: int
) -> None:
    columns, links = drawn
    found = heights(columns, links, {node: float(room + len(node) % 2) for column in columns for node in column})
    for column in columns:
        assert all(found[b] - found[a] >= room - 1e-6 for a, b in itertools.pairwise(column))
    assert min(found.values()) >= 0


def test_ordering_comes_close_to_the_fewest_crossings_there_can_be() -> None:
    rng = random.Random(5)
    found = given_ones = fewest = 0
    for _ in range(25):
        here, there = [f"a{n}" for n in range(4)], [f"b{n}" for n in range(4)]
        links = rng.sample(list(itertools.product(here, there)), 7)
        orders = itertools.product(itertools.permutations(here), itertools.permutations(there))
        fewest += min(counted([list(one), list(other)], links) for one, other in orders)
        found += counted(ordered([here, there], links), links)
        given_ones += counted([here, there], links)
    assert fewest <= found <= 1.15 * fewest < given_ones / 1.5


# ---- both


def test_a_drawing_is_the_same_string_every_time_and_takes_the_colours_of_its_page() -> None:
    drawing = net_svg(row_of(LYNCH))
    assert drawing == net_svg(row_of(LYNCH))
    assert "style" not in drawing  # a strict Content-Security-Policy would not let it through
    used = set(re.findall(r'="var\(--tm-([a-z]+), (#[0-9a-f]{6})\)"', drawing))
    assert {name for name, _ in used} <= LIGHT.keys() == DARK.keys()
    assert all(LIGHT[name] == value for name, value in used)
    assert all(f"--tm-{name}: {value};" in CSS for colours in (LIGHT, DARK) for name, value in colours.items())


def test_a_drawing_that_stands_alone_has_no_variables_even_where_its_texts_look_like_one() -> None:
    name = '="var(--tm-ink, #1f2328)"'
    alone = standalone(net_svg(row_of({1: ([name], "b", [], 3)})))
    assert 'fill="#1f2328"' in alone
    assert {element.get("fill") for element in parsed(alone).iter()} <= {None, "none", *LIGHT.values()}
    assert any(name in str(text) for text in parsed(alone).itertext())


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours (WCAG 2.2)."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_texts_are_legible_on_paper_and_panel(colours: dict[str, str]) -> None:
    for ink, ground in itertools.product(("ink", "pale", "good", "bad", "hot"), ("paper", "panel")):
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
