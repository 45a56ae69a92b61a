"""Rows of petri_trace for tests: the Lynch example, nets drawn by hypothesis, and names that mean harm."""

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

LYNCH = {
    1: (["FH", "CM"], "LS", [], 4),
    2: (["FH", "LS"], "MLH1", [1], 3),
    3: (["LS"], "MSH2", [1], 5),
    4: (["LS"], "MSH6", [1], 2),
    5: (["MLH1", "MSH2", "MSH6"], "MMR", [2, 3, 4], 4),
}
"""By number: left, right, dependencies, tokens (MedVerse, arXiv:2602.07529, overview figure)."""

HOSTILE = [
    "a\x1b[31mred",
    "</text><script>alert(1)</script>",
    "a & b <0.04",
    "x\x00y",
    "\u202eevil",
    "n" * 5000,
    "a\nb",
]


def row_of(
    steps: Mapping[int, tuple[Sequence[str], str, Sequence[int], int]], row_id: str = "p1/plan"
) -> dict[str, Any]:
    """The part of a row that says what its steps are."""
    return {
        "id": row_id,
        "steps": [
            {"n": n, "left": list(left), "right": right, "deps": list(deps), "text": "", "n_tokens": tokens}
            for n, (left, right, deps, tokens) in steps.items()
        ],
    }


@st.composite
def dags(draw: st.DrawFn, most: int = 7) -> dict[int, list[int]]:
    """Dependencies of steps 1 to n, each on some of those before it."""
    count = draw(st.integers(1, most))
    return {n: [dep for dep in range(1, n) if draw(st.booleans())] for n in range(1, count + 1)}


def row_of_deps(deps: Mapping[int, Sequence[int]], tokens: Sequence[int] = ()) -> dict[str, Any]:
    """A row whose step n makes the entity "e<n>" of those of its dependencies, or of a premise of its own."""
    weights = {n: tokens[place] if place < len(tokens) else 0 for place, n in enumerate(deps)}
    return row_of(
        {n: ([f"e{dep}" for dep in before] or [f"root {n}"], f"e{n}", before, weights[n]) for n, before in deps.items()}
    )
