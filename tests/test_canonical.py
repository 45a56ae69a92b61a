"""The hash of a table depends on what it holds, and on nothing else."""

import hashlib
import json
import math
import struct
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracemill.pipelines.versions.canonical import ContentHash, canonical_json, type_text
from tracemill.schemas.errors import RecipeError

TURNS = pa.list_(pa.struct([("role", pa.string()), ("n", pa.int32())]))
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("ok", pa.bool_()),
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("raw", pa.binary()),
        ("turns", TURNS),
    ]
)
TURN = st.none() | st.fixed_dictionaries(
    {"role": st.none() | st.text(max_size=4), "n": st.none() | st.integers(-(2**31), 2**31 - 1)}
)
ROW = st.fixed_dictionaries(
    {
        "id": st.none() | st.text(max_size=8),
        "ok": st.none() | st.booleans(),
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "x": st.none() | st.floats(),
        "raw": st.none() | st.binary(max_size=6),
        "turns": st.none() | st.lists(TURN, max_size=3),
    }
)


def hash_of(*batches: pa.RecordBatch, schema: pa.Schema = SCHEMA) -> str:
    content = ContentHash(schema)
    for batch in batches:
        content.update(batch)
    return content.hexdigest()


def batch_of(rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=schema)


class ByHand:
    """The form of canonical.py's docstring, row by row in plain Python: slow, and with nothing of Arrow in it."""

    def __init__(self) -> None:
        self.streams: dict[str, bytes] = {}

    def add(self, value: Any, kind: Any, path: str) -> None:
        self.put(f"{path}:valid", b"\0" if value is None else b"\1")
        if isinstance(kind, dict):
            for position, (name, field) in enumerate(kind.items()):
                self.add(None if value is None else value[name], field, f"{path}.{position}")
        elif isinstance(kind, list):
            self.put(f"{path}:length", struct.pack("<q", len(value or ())))
            for item in value or ():
                self.add(item, kind[0], f"{path}.0")
        elif kind in ("string", "binary"):
            data = b"" if value is None else value.encode() if kind == "string" else value
            self.put(f"{path}:length", struct.pack("<q", len(data)))
            self.put(f"{path}:value", data)
        elif kind == "bool":
            self.put(f"{path}:value", bytes([bool(value)]))
        elif kind == "float64":
            number = struct.pack("<d", 0.0 if value is None else value)
            nan = value is not None and math.isnan(value)
            self.put(f"{path}:value", bytes.fromhex("000000000000f87f") if nan else number)
        else:
            self.put(f"{path}:value", struct.pack("<q", value or 0))

    def put(self, stream: str, data: bytes) -> None:
        if data:
            self.streams[stream] = self.streams.get(stream, b"") + data


def hash_by_hand(rows: list[dict[str, Any]]) -> str:
    kinds = {
        "id": "string",
        "ok": "bool",
        "n": "int64",
        "x": "float64",
        "raw": "binary",
        "turns": [{"role": "string", "n": "int32"}],
    }
    hand = ByHand()
    for row in rows:
        for position, (name, kind) in enumerate(kinds.items()):
            hand.add(row[name], kind, str(position))
    schema = [["id", "string"], ["ok", "bool"], ["n", "int64"], ["x", "float64"], ["raw", "binary"]]
    schema.append(["turns", "list<struct<role: string, n: int32>>"])
    streams = {path: hashlib.sha256(data).hexdigest() for path, data in hand.streams.items()}
    table = {"form": 1, "rows": len(rows), "schema": schema, "streams": streams}
    return hashlib.sha256(json.dumps(table, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, max_size=6))
def test_the_documented_form_computed_by_hand_gives_the_same_hash(rows: list[dict[str, Any]]):
    assert hash_of(batch_of(rows)) == hash_by_hand(rows)


@settings(max_examples=100, deadline=None)
@given(st.lists(ROW, max_size=8), st.integers(0, 8), st.integers(0, 8))
def test_where_batches_are_cut_does_not_matter(rows: list[dict[str, Any]], first: int, second: int):
    whole = batch_of(rows)
    a, b = sorted((min(first, len(rows)), min(second, len(rows))))
    assert hash_of(whole) == hash_of(whole.slice(0, a), whole.slice(a, b - a), whole.slice(b))


@settings(max_examples=100, deadline=None)
@given(st.lists(ROW, max_size=4), st.lists(ROW, max_size=4))
def test_different_rows_have_different_hashes(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]):
    # by their JSON text, since nan != nan
    same = repr(batch_of(ours).to_pylist()) == repr(batch_of(theirs).to_pylist())
    assert (hash_of(batch_of(ours)) == hash_of(batch_of(theirs))) == same


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([{"id": "ab"}, {"id": "c"}], [{"id": "a"}, {"id": "bc"}]),
        ([{"id": None}], [{"id": ""}]),
        ([{"n": None}], [{"n": 0}]),
        ([{"x": 0.0}], [{"x": -0.0}]),
        ([{"turns": None}], [{"turns": []}]),
        ([{"turns": [None]}], [{"turns": [{"role": None, "n": None}]}]),
        ([{"turns": [{"role": "a", "n": 1}]}, {"turns": []}], [{"turns": []}, {"turns": [{"role": "a", "n": 1}]}]),
        ([{"id": "a"}, {"id": "b"}], [{"id": "b"}, {"id": "a"}]),
        ([], [{}]),
    ],
)
def test_neighbours_that_look_alike_are_told_apart(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]):
    assert hash_of(batch_of(ours)) != hash_of(batch_of(theirs))


def test_names_types_and_order_of_columns_count():
    base = pa.schema([("a", pa.int64()), ("b", pa.int64())])
    others = [
        pa.schema([("b", pa.int64()), ("a", pa.int64())]),
        pa.schema([("a", pa.int32()), ("b", pa.int64())]),
        pa.schema([("a", pa.int64()), ("c", pa.int64())]),
    ]
    assert all(hash_of(schema=schema) != hash_of(schema=base) for schema in others)


def test_how_arrow_holds_a_value_does_not_count():
    rows = [{"t": "é", "l": ["x", None]}, {"t": None, "l": None}, {"t": "", "l": []}]
    small = pa.schema([("t", pa.string()), ("l", pa.list_(pa.string()))])
    large = pa.schema([("t", pa.large_string()), ("l", pa.large_list(pa.large_string()))])
    views = pa.schema([("t", pa.string_view()), ("l", pa.list_(pa.string_view()))])
    coded = pa.schema([("t", pa.dictionary(pa.int8(), pa.string())), ("l", pa.list_(pa.string()))])
    frame = pl.DataFrame(rows, schema={"t": pl.String, "l": pl.List(pl.String)}).to_arrow()
    expected = hash_of(batch_of(rows, small), schema=small)
    assert all(hash_of(batch_of(rows, schema), schema=schema) == expected for schema in (large, views, coded))
    assert hash_of(*frame.to_batches(), schema=frame.schema) == expected


def test_bytes_under_a_null_do_not_count():
    hidden = pa.Array.from_buffers(  # type: ignore[call-overload]
        pa.string(), 2, [pa.py_buffer(b"\x02"), pa.array([0, 3, 5], pa.int32()).buffers()[1], pa.py_buffer(b"abcde")]
    )
    schema = pa.schema([("t", pa.string())])
    plain = pa.array([None, "de"], pa.string())
    assert hash_of(pa.record_batch([hidden], schema=schema), schema=schema) == hash_of(
        pa.record_batch([plain], schema=schema), schema=schema
    )


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.date32(), pa.map_(pa.string(), pa.string()), pa.decimal128(5)])
def test_a_type_without_a_form_is_refused_before_any_row(kind: pa.DataType):
    with pytest.raises(RecipeError, match="are not stored"):
        type_text(kind)


def test_the_hash_of_a_known_table_never_changes():
    rows = [{"id": "a", "ok": True, "n": 1, "x": 0.1, "raw": b"\0", "turns": [{"role": "user", "n": 2}]}, {}]
    assert hash_of(batch_of(rows)) == "16b9b91dabb594a3561a8244a0e8934280535eb9a19c2ada510a158377b6ed74"


def test_canonical_json_is_one_text_for_equal_data():
    assert canonical_json({"b": 1.0, "a": ["é", None]}) == '{"a":["é",null],"b":1.0}'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json({"a": math.nan})
