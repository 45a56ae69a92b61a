"""What `tracemill explain` prints: the life of a row from top to bottom, what was asked for marked with an arrow."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracemill.pipelines.asking.screens import columns, one_line

Life = Mapping[str, Any]

WIDTH = 200
SHORT = 120
"""Evidence of so many characters stands on one line."""
MOST = 50
"""Samples and traces that are shown; --json has all."""
LONG = ("messages", "reasoning", "content", "question", "tools", "prompt")
"""Columns of a row that have been told before, or would fill the screen."""


def explain_lines(life: Life) -> Iterator[str]:
    yield f"{life['ref']}  {life['asked']['kind']} {one_line(life['asked']['id'], WIDTH)}"
    for title, lines in (
        ("source", _source(life)),
        ("made by", _made_by(life)),
        ("problem", _problem(life)),
        ("drawn", _drawn(life)),
        ("traces", _traces(life)),
        ("rows", _rows(life)),
        ("picture", (f"  {line}" for line in life["picture"])),
        ("tables that mention it", _tables(life)),
        ("turned down because of it", _named_by(life)),
        ("views", _views(life)),
    ):
        told = list(lines)
        if told:
            yield ""
            yield title
            yield from told


def _source(life: Life) -> Iterator[str]:
    source = life["source"]
    name = "not told" if source["name"] is None else one_line(source["name"], WIDTH)
    hashes = "".join(f", sha256 {digest[:12]}" for digest in source["sha256"])
    yield f"  {name}, licence {source['licence'] or 'not told'}{hashes}"

    for depth, parent in enumerate(life["parents"], start=1):
        yield from _parent(parent, "  " * depth)


def _parent(parent: Life, indent: str) -> Iterator[str]:
    if parent["rows"] is None:
        yield f"{indent}  from {parent['ref']}, table {parent['table']}, which is not in this store"
        return
    for row in parent["rows"]:
        name = one_line(row["id"] or row["problem_id"] or "", WIDTH)
        key = f", request {row['key'][:12]}" if row["key"] else ""
        licence = row["licence"] or ", ".join(parent["licences"])
        yield f"{indent}  from {parent['ref']}, table {parent['table']}: row {name}, licence {licence}{key}"
    if not parent["rows"]:
        yield f"{indent}  from {parent['ref']}, table {parent['table']}: none of its rows has this id"


def _made_by(life: Life) -> Iterator[str]:
    made = life["made_by"]
    for role, by in made["roles"].items():
        proof = "" if by["verified"] else " (unverified)"
        engine = " ".join(str(part) for part in (by["engine"] or "unknown", by["engine_version"]) if part is not None)
        levels = f", other weights {', '.join(dict.fromkeys(by['levels']))}" if by["levels"] else ""
        yield f"  {role}: {by['model']} at {by['revision']}{proof}{levels}, seed {by['seed']}, on {engine}"
    if made["roles"]:
        yield f"  tracemill {made['tracemill']}, code {str(made['code'])[:12]}, determinism {made['determinism']}"


def _problem(life: Life) -> Iterator[str]:
    problem = life["problem"]
    if problem is None:
        yield f"  {one_line(life['problem_id'], WIDTH)}  is no problem of this version"
    else:
        yield f"  {one_line(problem['problem_id'], WIDTH)}  {_outcome(problem)}"
        for name in ("question", "gold", "difficulty"):
            if problem[name] is not None:
                yield f"  {name:<10} {one_line(problem[name], WIDTH)}"
        for counts in problem["roles"] or ():
            yield f"  {counts['role']:<10} " + ", ".join(
                f"{counts[name]:,} {name}" for name in ("total", "correct", "undecided", "truncated")
            )
    for refused in life["refused"]:
        yield f"  turned down at {refused['stage']}: {one_line(refused['reason'], WIDTH)}"
        yield from _evidence(refused["evidence"])


def _outcome(problem: Mapping[str, Any]) -> str:
    reason = problem["reason"]
    return f"{problem['outcome']}{f': {one_line(reason, WIDTH)}' if reason else ''}"


def _drawn(life: Life) -> Iterator[str]:
    samples = life["samples"]
    if not life["samples_table"]:
        yield "  the version has no table of samples (samples = false, or nothing was sampled); traces name their requests"
        return
    lines = [
        {
            "": _arrow(life, sample["key"], *sample["traces"]),
            "key": sample["key"][:12],
            "role": sample["role"],
            "adapter": _adapter(sample),
            "seed": "" if sample["seed"] is None else str(sample["seed"]),
            "tokens": f"{sample['n_tokens']:,}",
            "ended": sample["finish_reason"],
            "verdict": one_line(sample["verdict"] or "", 40),
            "became": ", ".join(one_line(name, 60) for name in sample["traces"]),
        }
        for sample in samples
    ]
    yield from _some(lines, "seed", "tokens")


def _adapter(sample: Mapping[str, Any]) -> str:
    if sample["adapter"] is None:
        return ""
    return one_line(sample["adapter"], 40) + (f"@{sample['scale']}" if sample["scale"] is not None else "")


def _some(lines: Sequence[Mapping[str, str]], *right: str) -> Iterator[str]:
    yield from columns(lines[:MOST], right=right)
    if len(lines) > MOST:
        yield f"  and {len(lines) - MOST:,} more; --json has all"


def _arrow(life: Life, *names: str) -> str:
    return "->" if life["asked"]["kind"] != "problem" and life["asked"]["id"] in names else ""


def _traces(life: Life) -> Iterator[str]:
    for trace in life["traces"][:MOST]:
        fate = (
            "chosen"
            if trace["chosen"]
            else f"turned down at {trace['stage']}: {one_line(trace['reason'] or '', WIDTH)}"
        )
        mark = _arrow(life, trace["id"], str(trace["row"].get("key")))
        yield f"  {mark:<2}{' ' if mark else ''}{one_line(trace['id'], WIDTH)}  {fate}"
        yield f"      answer {_short(trace['row'].get('answer'))}, {_short(trace['row'].get('verdict'))}, {_tokens(trace['row'])}"
        yield from _evidence(trace["evidence"])
    if len(life["traces"]) > MOST:
        yield f"  and {len(life['traces']) - MOST:,} more; --json has all"


def _short(value: Any) -> str:
    return "none" if value is None else one_line(str(value), 60)


def _tokens(row: Mapping[str, Any]) -> str:
    count = row.get("n_tokens")
    return "length not known" if count is None else f"{count:,} tokens"


def _evidence(evidence: Any) -> Iterator[str]:
    if evidence is None:
        return
    short = json.dumps(evidence, ensure_ascii=False)
    lines = [short] if len(short) <= SHORT else json.dumps(evidence, ensure_ascii=False, indent=2).splitlines()
    for line in lines:
        yield "      " + line[: len(line) - len(line.lstrip())] + one_line(line, WIDTH)


def _rows(life: Life) -> Iterator[str]:
    if not life["rows"]:
        yield "  none: no row of this version came of it"
    for row in life["rows"][:MOST]:
        mark = _arrow(life, row["id"], str(row.get("key")))
        yield f"  {mark:<2}{' ' if mark else ''}{one_line(row['id'], WIDTH)}"
        if life["folded"]:
            parts = [trace["id"] for trace in life["traces"] if trace["chosen"]]
            yield f"      folded from {', '.join(one_line(part, 60) for part in parts)}"
        for name, value in row.items():
            if value is not None and name not in ("id", *LONG) and not name.startswith("solution_"):
                yield f"      {name:<14} {one_line(value if isinstance(value, str) else json.dumps(value, default=str), WIDTH)}"


def _tables(life: Life) -> Iterator[str]:
    for table, rows in life["tables"].items():
        yield f"  {table}"
        for row in rows[:MOST]:
            told = {name: value for name, value in row.items() if value is not None}
            yield f"      {one_line(json.dumps(told, ensure_ascii=False, default=str), WIDTH)}"
        if len(rows) > MOST:
            yield f"      and {len(rows) - MOST:,} more; --json has all"


def _named_by(life: Life) -> Iterator[str]:
    for row in life["named_by"]:
        name = row["id"] if row["id"] is not None else row["problem_id"]
        yield f"  {one_line(name, WIDTH)}  {row['stage']}: {one_line(row['reason'], WIDTH)}"
        yield f"      {one_line(json.dumps(row['evidence'], ensure_ascii=False), WIDTH)}"


def _views(life: Life) -> Iterator[str]:
    for view, count in life["views"].items():
        yield f"  {view:<14} {'has no column of ids to tell by' if count is None else f'{count:,} rows of this problem'}"
