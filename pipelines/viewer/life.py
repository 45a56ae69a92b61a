"""`tracemill explain` as a page: the life of a row from its source to the files that hold it."""

from collections.abc import Iterator, Mapping
from threading import Event
from typing import Any

from tracemill.pipelines.asking.explain import explain
from tracemill.pipelines.asking.explain_screens import explain_lines
from tracemill.pipelines.viewer import text
from tracemill.pipelines.viewer.pages import Query, Viewer, link
from tracemill.pipelines.viewer.rows import Picture, net_picture, tree_picture

SHOWN = 50
"""Samples, traces and rows of a table that are listed."""
NETS = 3
PART = 20_000
"""Characters of a text here; the page of the row has more."""


def life_page(viewer: Viewer, asked: Query, stop: Event) -> str:
    """What `explain` tells about a row, trace, problem or request; RecipeError where nothing has such an id."""
    wanted = asked.get("id")
    if stop.is_set() or not wanted:
        return viewer.render("ask.html.j2")
    life = explain(viewer.dataset, wanted)
    return viewer.render(
        "life.html.j2",
        life=life,
        shown=SHOWN,
        part=PART,
        pictures=list(_pictures(life)),
        samples=[{**sample, "href": link("row", t="samples", id=sample["key"])} for sample in life["samples"]],
        traces=[_trace(life, trace) for trace in life["traces"]],
        rows=[{"id": row["id"], "href": link("row", t="rows", id=row["id"])} for row in life["rows"]],
        mentions={name: _mention(rows) for name, rows in life["tables"].items()},
        as_text="\n".join(explain_lines(life)),
        meant={life["asked"]["id"], *_meant_by(life)},
    )


def _meant_by(life: Mapping[str, Any]) -> Iterator[str]:
    """Traces of the request that was asked for."""
    for sample in life["samples"]:
        if life["asked"]["kind"] == "key" and sample["key"] == life["asked"]["id"]:
            yield from sample["traces"]


def _trace(life: Mapping[str, Any], trace: Mapping[str, Any]) -> dict[str, Any]:
    row = trace["row"]
    said = "\n\n".join(str(row[name]) for name in ("reasoning", "content") if row.get(name))
    table = "traces" if life["folded"] else "rows"
    return {
        **trace,
        "said": said[:PART],
        "length": len(said),
        "facts": {
            name: row.get(name)
            for name in ("answer", "verdict", "n_tokens", "finish_reason")
            if row.get(name) is not None
        },
        "href": link("row", t=table, id=trace["id"]) if trace["chosen"] else None,
    }


def _pictures(life: Mapping[str, Any]) -> Iterator[Picture]:
    if nodes := life["tables"].get("nodes"):
        yield tree_picture(life["problem_id"], [node for node in nodes if node.get("problem_id") == life["problem_id"]])
    nets = [trace["row"] for trace in life["traces"] if trace["row"].get("steps")]
    meant = [row for row in nets if row.get("id") == life["asked"]["id"]]
    yield from (net_picture(row) for row in (meant or nets)[:NETS])


def _mention(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of a method's table, of the columns that hold anything."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows[:SHOWN])]
    return {
        "columns": names,
        "lines": [["" if row[name] is None else text.short(row[name]) for name in names] for row in rows[:SHOWN]],
        "rows": len(rows),
    }
