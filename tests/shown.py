"""A version to look at: plain rows, a net, a tree, rows that were turned down, and rows that mean harm."""

import json
from typing import Any

import pyarrow as pa

from tests.petri_rows import LYNCH, row_of
from tests.trees import grown, node_rows
from tracemill.pipelines.store import Dataset, Store
from tracemill.schemas.tables import PROBLEMS, REJECTED, ROWS, SAMPLES, declared
from tracemill.synth.petri_trace.rows import COLUMNS
from tracemill.synth.step_tree.tables import TABLES

SCRIPT = "<script>document.title = 'owned'</script>"
HOSTILE = [
    SCRIPT,
    "</pre></details><img src=x onerror=\"document.title='owned'\">",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "\u202eright to left\u202c and zero\u200bwidth\u2066\x1b[31m\x00\x07\r",
    "x" * 1_000_000,
    "<a href='javascript:alert(1)'>click</a> <style>body{display:none}</style>",
    "مرحبا שלום 肝糖新生 a\u0301 🧪",
    "&lt;b&gt; &amp;amp; ' \" `",
    "\n" * 500 + "far below",
]
NAMES = ["../../etc", "..", "a b&c=d#e?f", "%2e%2e%2f", "\u202eid", SCRIPT, "肝/0", "quote\"'", "x" * 3000]
"""Ids of the hostile rows, as many as there are texts."""
SPEC = {
    "3 * 8 = 24.": {"24 - 16 = 8.": "correct", "8 * 2 = 16.": {"24 - 9": "wrong"}},
    SCRIPT: "wrong",
    "hm": "undecided",
}
NODES = {"problem_id": str, **TABLES["nodes"]}
SCHEMA = pa.schema([*ROWS, pa.field("steps", declared({"steps": COLUMNS["steps"]}, where="x").field(0).type)])


def rows(count: int = 230) -> list[dict[str, Any]]:
    """In the order of their ids. One of three is wrong, some have no difficulty, one a thought that is folded."""
    found = []
    for n in range(count):
        said = f"<think>Let me add {n} and {n % 7}.</think>It is {n + n % 7}." if n % 2 else f"It is {n + n % 7}."
        found.append(
            _row(f"p{n:04}/solve-0000", f"What is {n} + {n % 7}?", said, n_tokens=n * 3 % 101, correct=n % 3 > 0)
        )
        found[-1]["difficulty"] = None if n % 5 == 0 else str(n % 5)
    for row in found[11:12]:
        row["steps"] = row_of(LYNCH)["steps"]
    bad = [_row(name, text, text, n_tokens=1, correct=False) for name, text in zip(NAMES, HOSTILE, strict=True)]
    return sorted([*found, *bad], key=lambda row: str(row["id"]))


def _row(name: str, question: str, said: str, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    plain = dict.fromkeys(SCHEMA.names) | {"id": name, "problem_id": name.partition("/")[0], "source": "shown"}
    return plain | {"question": question, "content": said, "messages": turns, "verdict": "equal", **more}


def rejected() -> list[dict[str, Any]]:
    return [
        {
            "id": f"p{n:04}/solve-0001",
            "problem_id": f"p{n:04}",
            "stage": "filter:length",
            "reason": "too_long" if n % 2 else "too_short",
            "evidence": json.dumps({"n_tokens": n, "said": "half \ud800" if n == 3 else SCRIPT}),
            "row": json.dumps({"id": f"p{n:04}/solve-0001", "content": "no"}),
        }
        for n in range(40)
    ]


def commit(store: Store, count: int = 230) -> Dataset:
    """The version in a store."""
    kept = rows(count)
    problems = sorted({row["problem_id"] for row in kept})
    nodes = list(node_rows(grown(SPEC), "p0003"))
    with store.draft("shown") as draft:
        draft.table("rows", SCHEMA, [kept])
        draft.table("rejected", REJECTED, [rejected()])
        draft.table("problems", PROBLEMS, [[dict.fromkeys(PROBLEMS.names) | _problem(name) for name in problems]])
        draft.table("samples", SAMPLES, [[dict.fromkeys(SAMPLES.names) | _sample(n) for n in range(20)]])
        draft.table("nodes", declared(NODES, where="nodes"), [[_node(row) for row in sorted(nodes, key=_order)]])
        counts = [
            {"stage": "filter:length", "reason": "too_long", "rows": 20},
            {"stage": "select:near_duplicates_of_others", "reason": "near_duplicate_of_a_better_one", "rows": 0},
            {"stage": "chosen", "reason": "", "rows": len(kept)},
        ]
        facts = {"counts": counts, "problems": {"chosen": len(problems)}}
        return draft.commit(recipe_toml='[synth]\nuse = "sample"\n', identity={"name": "shown"}, manifest=facts)


def _problem(name: str) -> dict[str, Any]:
    return {"problem_id": name, "question": f"Of {name[:20]}?", "outcome": "chosen", "source": "shown"}


def _sample(n: int) -> dict[str, Any]:
    key = f"{n:064x}"
    told = {
        "key": key,
        "problem_id": f"p{n:04}",
        "role": "solver",
        "text": f"said {n} {SCRIPT}",
        "token_ids": [1, 2, n],
    }
    return told | {"n_tokens": 3, "finish_reason": "stop", "seed": n}


def _node(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in NODES}


def _order(row: dict[str, Any]) -> tuple[str, str]:
    return row["problem_id"], row["id"]
