"""docs/tables.md and schemas/tables.py say the same."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from tracemill.pipelines.versions.canonical import type_text
from tracemill.schemas import tables

DOC = Path(__file__).parent.parent / "docs" / "tables.md"


@pytest.mark.parametrize(
    ("table", "schema"),
    [("rows", tables.ROWS), ("rejected", tables.REJECTED), ("problems", tables.PROBLEMS), ("samples", tables.SAMPLES)],
)
def test_every_column_is_explained_with_its_type_in_its_place(table: str, schema: pa.Schema):
    section = DOC.read_text(encoding="utf-8").split(f"\n## {table}\n")[1].split("\n## ")[0]
    explained = re.findall(r"^\| `(\w+)` \| (.+?) \| \S.*\|$", section, re.MULTILINE)
    assert explained == [(field.name, type_text(field.type)) for field in schema]


def test_every_schema_has_a_section():
    schemas = {name.lower() for name, value in vars(tables).items() if isinstance(value, pa.Schema)}
    sections = set(re.findall(r"^## (\w+)$", DOC.read_text(encoding="utf-8"), re.MULTILINE))
    assert schemas == sections


def test_what_a_turn_may_hold_besides_is_explained_with_its_type():
    section = DOC.read_text(encoding="utf-8").split("\n## Conversations with more")[1].split("\n## ")[0]
    explained = re.findall(r"^\| `(\w+)` \| (.+?) \| \S.*\|$", section, re.MULTILINE)
    assert explained == [(name, type_text(kind)) for name, kind in tables.MORE_OF_A_TURN.items()]
