"""What `tracemill diff` prints, and its page: one file that needs no network and no JavaScript, in which all text is escaped."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from tracemill.pipelines.asking.reasons import CHANGES
from tracemill.pipelines.asking.screens import columns, one_line
from tracemill.pipelines.versions.durable import write_whole
from tracemill.schemas.errors import RecipeError

Facts = Mapping[str, Any]
Table = list[dict[str, str]]

WIDTH = 160
"""Characters of a value on the screen; the page shows more."""
PAGE_WIDTH = 4000


def diff_lines(facts: Facts) -> Iterator[str]:
    """For people: the reasons counted, examples, and what shifted."""
    yield f"a         {_named(facts['a'])}"
    yield f"b         {_named(facts['b'])}"
    if facts["identical"]:
        yield "the two are one version: nothing differs"
        return
    yield f"rows      {_headline(facts)}"
    for text in _notes(facts):
        yield f"note      {text}"
    for title, table in tables_of(facts):
        if table:
            yield ""
            yield title
            yield from columns(table, right=RIGHT)
    for change in CHANGES:
        if rows := facts["examples"][change]:
            yield ""
            yield f"{change}, the first {len(rows)} of {facts['rows'][change]:,}"
            for row in rows:
                yield from _example_lines(row)


RIGHT = ("rows", "a", "b", "change", "share a", "share b")


def _named(version: Facts) -> str:
    return f"{version['ref']}  {version['rows']:,} rows, {version['created'][:19]}{'' if version['complete'] else ', partial'}"


def _headline(facts: Facts) -> str:
    rows = facts["rows"]
    if not any(rows[change] for change in CHANGES):
        return f"all {rows['same']:,} rows are the same in both"
    return ", ".join(f"{rows[name]:,} {name}" for name in (*CHANGES, "same"))


def told(facts: Facts) -> list[str]:
    """What is said before any table."""
    if facts["identical"]:
        return ["The two are one version: nothing differs."]
    return [_headline(facts), *_notes(facts)]


def _notes(facts: Facts) -> Iterator[str]:
    for side, version in (("a", facts["a"]), ("b", facts["b"])):
        if names := facts["columns"][f"only_{side}"]:
            yield f"only {version['ref']} has the columns {', '.join(names)}; they make no row a changed one"
    tokenizers = [line["value"] for line in facts["shifts"]["tokenizer"] if line["value"] is not None]
    if len(tokenizers) > 1:
        yield f"lengths were counted in tokens of {' and '.join(tokenizers)}: they do not compare"


def tables_of(facts: Facts) -> Iterator[tuple[str, Table]]:
    """The tables of screen and page, by title; a table without rows is not shown."""
    yield "why", [_reason(line) for line in facts["reasons"]]
    yield (
        "columns of the changed rows",
        [{"column": name, "rows": f"{count:,}"} for name, count in facts["columns"]["changed"].items()],
    )
    made = [{"made from": line["path"], "a": _value(line["a"]), "b": _value(line["b"])} for line in facts["recipe"]]
    yield "what the manifests say differs", made
    shifts = facts["shifts"]
    over = shifts["over"]["a"] if shifts["over"]["a"] == shifts["over"]["b"] else "rows and traces"
    lengths = [{"n_tokens": name, **_numbers(line)} for name, line in shifts["n_tokens"].items() if _known(line)]
    yield f"lengths, over {over}", lengths
    for name in ("correct", "difficulty", "source", "finish_reason"):
        lines = shifts[name]
        if any(line["value"] is not None for line in lines):
            yield f"{name.replace('_', ' ')}, over {over}", [_share(name, line) for line in lines]
    drawn = [
        {"role": s["role"], "samples": name, **_points(s[name])}
        for s in shifts["samples"]
        for name in ("correct", "truncated")
        if _known(s[name])
    ]
    yield "samples that were right, and cut off", drawn


def _reason(line: Facts) -> dict[str, str]:
    return {
        "rows": f"{line['rows']:,}",
        "": line["change"],
        "reason": line["reason"],
        "detail": one_line(line["detail"], WIDTH),
    }


def _known(shift: Facts) -> bool:
    return shift["a"] is not None or shift["b"] is not None


def _numbers(shift: Facts) -> dict[str, str]:
    return {
        "a": _number(shift["a"]),
        "b": _number(shift["b"]),
        "change": "" if shift["change"] is None else f"{shift['change']:+,.1f}",
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _share(name: str, line: Facts) -> dict[str, str]:
    share = _points(line["share"])
    return {
        name: "" if line["value"] is None else one_line(str(line["value"]), 60),
        "a": f"{line['rows']['a']:,}",
        "b": f"{line['rows']['b']:,}",
        "share a": share["a"],
        "share b": share["b"],
        "change": share["change"],
    }


def _points(shift: Facts) -> dict[str, str]:
    """Shares in percent, their change in percentage points."""
    a, b = ("" if shift[side] is None else f"{100 * shift[side]:.1f} %" for side in ("a", "b"))
    return {"a": a, "b": b, "change": "" if shift["change"] is None else f"{100 * shift['change']:+.1f}"}


def _value(value: Any) -> str:
    if value is None:
        return ""
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str), 60)


def _example_lines(row: Facts) -> Iterator[str]:
    detail = f": {one_line(row['detail'], WIDTH)}" if row["detail"] else ""
    yield f"  {one_line(row['id'], WIDTH)}  {row['reason']}{detail}"
    if row.get("evidence") is not None:
        yield f"      {one_line(json.dumps(row['evidence'], ensure_ascii=False), WIDTH)}"
    for name, values in row.get("values", {}).items():
        for sign, side in (("-", "a"), ("+", "b")):
            yield f"    {sign} {name}: {one_line(_text(values[side]), WIDTH)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# ---- the page

STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top }
th { font-weight: 600; border-bottom: 1px solid #8888 } .n { text-align: right; font-variant-numeric: tabular-nums }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; padding: .4rem .6rem; background: #8881 }
pre.a { border-left: 3px solid #c33 } pre.b { border-left: 3px solid #393 }
details { margin: .3rem 0 } summary { cursor: pointer; overflow-wrap: anywhere }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing is loaded and nothing runs, whatever a model wrote."""


def diff_page(facts: Facts) -> str:
    """The same as one HTML file."""
    title = f"{facts['a']['ref']} and {facts['b']['ref']}"
    said = "The two are one version: nothing differs." if facts["identical"] else _headline(facts)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<p>a: {escape(_named(facts['a']))}<br>b: {escape(_named(facts['b']))}</p><p>{escape(said)}</p>",
        *(f"<p>{escape(text)}</p>" for text in _notes(facts)),
    ]
    if not facts["identical"]:
        parts += [_html_table(name, table) for name, table in tables_of(facts) if table]
        parts += [_html_examples(change, facts) for change in CHANGES if facts["examples"][change]]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _html_table(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(_cell("th", name, name) for name in rows[0])
    lines = ("".join(_cell("td", name, value) for name, value in row.items()) for row in rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<h2>{escape(title)}</h2>\n<table><tr>{head}</tr>\n{body}</table>"


def _cell(tag: str, column: str, text: str) -> str:
    return f"<{tag}{_align(column)}>{escape(text)}</{tag}>"


def _align(column: str) -> str:
    return ' class="n"' if column in RIGHT else ""


def _html_examples(change: str, facts: Facts) -> str:
    rows = facts["examples"][change]
    title = f"{change}, the first {len(rows)} of {facts['rows'][change]:,}"
    return "\n".join([f"<h2>{escape(title)}</h2>", *(_html_example(row) for row in rows)])


def _html_example(row: Facts) -> str:
    detail = f": {row['detail']}" if row["detail"] else ""
    inside: list[str] = []
    if row.get("evidence") is not None:
        inside.append(_pre("", json.dumps(row["evidence"], ensure_ascii=False, indent=2)))
    for name, values in row.get("values", {}).items():
        inside += [f"<div>{escape(name)}</div>", *(_pre(side, _text(values[side])) for side in ("a", "b"))]
    head = escape(f"{row['id']}  {row['reason']}{detail}")
    return f"<details><summary>{head}</summary>{''.join(inside)}</details>" if inside else f"<div>{head}</div>"


def _pre(side: str, text: str) -> str:
    cut = text if len(text) <= PAGE_WIDTH else f"{text[:PAGE_WIDTH]} ... ({len(text):,} characters)"
    return f'<pre class="{side}">{escape(cut)}</pre>'


def write_page(facts: Facts, file: Path) -> None:
    """Write the page, in place of the one that was there."""
    file = file.expanduser().absolute()
    if not file.parent.is_dir() or file.is_dir():
        raise RecipeError(f"--html {file} cannot be written: name a file in a folder that is there")
    write_whole(file, diff_page(facts))


def as_json(facts: Facts) -> str:
    """The document as one line of JSON; what has no place in JSON is its text."""
    return json.dumps(_finite(facts), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not -1e308 <= value <= 1e308:
        return None
    return value
