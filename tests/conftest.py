"""What many tests start from: a store of their own, small problems, and a scripted model that is right for some of them."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import chromium
from tracemill.pipelines.store import Store
from tracemill.schemas.recipe import Recipe, parse_recipe
from tracemill.schemas.request import Request

PROBLEMS = [
    {"id": f"p{i:02}", "question": f"What is {i} + {i % 3}?", "answer": str(i + i % 3), "difficulty": str(i % 3)}
    for i in range(20)
]
"""Twenty sums; the answer to number i is i + i % 3."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """Where syncing costs nothing: what a kill leaves does not depend on it, only what a power cut leaves."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """A JSONL file of PROBLEMS."""
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS), encoding="utf-8")
    return path


@pytest.fixture
def recipe(problems: Path) -> Callable[..., Recipe]:
    """Makes a recipe over `problems`; keyword arguments replace its tables."""

    def make(**changes: Any) -> Recipe:
        table: dict[str, Any] = {
            "name": "sums",
            "source": {"path": str(problems), "licence": "CC0-1.0"},
            "model": {"name": "scripted-solver", "max_tokens": 64},
            "engine": {"kind": "scripted"},
            "synth": {"use": "sample", "n": 4},
            "filters": [{"use": "correct"}],
            "select": [{"use": "keep", "k": 1}],
        }
        return parse_recipe({**table, **changes})

    return make


@pytest.fixture(scope="session")
def _chromium() -> Iterator[chromium.Browser]:
    if (lack := chromium.missing()) is not None:
        pytest.skip(lack)
    with chromium.chromium() as browser:
        yield browser


@pytest.fixture
def browser(_chromium: chromium.Browser) -> Iterator[chromium.Browser]:
    """A real Chromium; the test fails where a page wrote an error into its console or asked another machine for anything."""
    _chromium.fresh()
    yield _chromium
    assert _chromium.complaints() == []


def solve(request: Request) -> str:
    """Right for three draws of four, in one to four words more than it needs; the fourth is wrong."""
    number = int(request.problem_id[1:])
    answer = number + number % 3 if request.index % 4 else 1000
    return "well " * (request.rng_seed % 4) + rf"so \boxed{{{answer}}}"
