"""The hash of a table's content: equal rows in equal order give the equal hash, whatever wrote or holds them.

    ContentHash(schema) ──update(batch)──▶ ... ──hexdigest()──▶ 64 hex digits

Form 1. A column falls into streams of plain bytes, and each stream has a SHA-256 of its own, so that a table can be hashed
batch by batch and where the batches are cut does not matter. A value of a column at path `p` adds:

    every type          p:valid    one byte, 1 or 0 for null
    string, binary      p:length   its bytes' count as int64, 0 for null     p:value   its UTF-8, or bytes
    list                p:length   its items' count as int64, 0 for null     and its items, at path `p.0`
    struct              its fields at `p.0`, `p.1`, ...; all of them null where the struct is
    bool                p:value    one byte, 0 for null
    integers            p:value    int64 (uint64: uint64), 0 for null
    floats              p:value    float64, 0 for null; every NaN is 7ff8000000000000; -0.0 is not 0.0

Numbers are little endian; a column's path is its position. The table's hash is the SHA-256 of the canonical JSON of
`{"form": 1, "rows": n, "schema": [[name, type], ...], "streams": {path: hex}}`. Given the schema, the streams determine the rows and
the rows the streams. Why not a line of JSON a row: text forms of numbers and escapes belong to the library that writes them
and change with it, these bytes do not; and bytes that Arrow holds anyway are hashed at the speed of SHA-256.

Types by what they hold, not how: a string is a string whether its offsets take 4 bytes or 8, a dictionary is its values.
Dates, times, decimals and maps have no form yet and are refused: a clock has no place in what identifies content.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracemill.schemas.errors import RecipeError

if TYPE_CHECKING:
    from hashlib import _Hash

# Arrays and types are Any below: pyarrow's stubs know them by their exact class, and what stands here takes any.
Emit = Callable[[str, Any], None]
"""Takes a stream's name and the bytes to add to it."""


def canonical_json(value: Any) -> bytes:
    """The one JSON text of plain data: sorted keys, no spaces, UTF-8; NaN is refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    ).encode()


def type_text(kind: Any) -> str:
    """The name of a type in the form above: `string`, `int64`, `list<struct<role: string, content: string>>`."""
    if pa.types.is_dictionary(kind):
        return type_text(kind.value_type)
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{f.name}: {type_text(f.type)}' for f in kind)}>"
    if _is_list(kind):
        return f"list<{type_text(kind.value_type)}>"
    if _is_text(kind):
        return "string"
    if _is_bytes(kind):
        return "binary"
    if pa.types.is_floating(kind):
        return f"float{kind.bit_width}"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return str(kind)
    raise RecipeError(
        f"columns of type {kind} are not stored; use text, numbers, booleans, and lists and structs of them "
        "(a map as list<struct<key, value>>)"
    )


class ContentHash:
    """Hashes a table as it streams by. Raises RecipeError at once for a type without a canonical form."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = [[field.name, type_text(field.type)] for field in schema]
        self._rows = 0
        self._streams: dict[str, _Hash] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows
        for position, column in enumerate(batch.columns):
            _emit(column, str(position), self._add)

    def hexdigest(self) -> str:
        # a stream that no byte reached counts as not there, or a table of no batches would differ from one empty batch
        streams = {name: digest.hexdigest() for name, digest in self._streams.items()}
        table = {"form": 1, "rows": self._rows, "schema": self._schema, "streams": streams}
        return hashlib.sha256(canonical_json(table)).hexdigest()

    def _add(self, stream: str, data: Any) -> None:
        if len(data):
            self._streams.setdefault(stream, hashlib.sha256()).update(data)


def _emit(array: Any, path: str, emit: Emit) -> None:
    """Send one column, of any type that has a form, to its streams."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _emit(array.dictionary_decode(), path, emit)
    emit(f"{path}:valid", array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8).data)
    if pa.types.is_struct(kind):
        for position, field in enumerate(array.flatten()):
            _emit(field, f"{path}.{position}", emit)
    elif _is_list(kind):
        emit(f"{path}:length", _numbers(array.value_lengths(), pa.int64()))
        _emit(array.flatten(), f"{path}.0", emit)
    elif _is_text(kind) or _is_bytes(kind):
        _emit_bytes(array.cast(pa.large_string() if _is_text(kind) else pa.large_binary()), path, emit)
    elif pa.types.is_boolean(kind):
        emit(f"{path}:value", array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint8).data)
    elif pa.types.is_floating(kind):
        emit(f"{path}:value", _numbers(array, pa.float64()))
    elif pa.types.is_integer(kind):
        emit(f"{path}:value", _numbers(array, pa.uint64() if kind == pa.uint64() else pa.int64()))
    return None


def _emit_bytes(array: Any, path: str, emit: Emit) -> None:
    emit(f"{path}:length", _numbers(pc.binary_length(array), pa.int64()))
    values = array.drop_null()  # a null may lie over bytes that are nobody's value
    _, offsets, data = values.buffers()
    if len(values) and data is not None:
        ends = np.frombuffer(memoryview(offsets), np.int64)[values.offset : values.offset + len(values) + 1]
        emit(f"{path}:value", memoryview(data)[int(ends[0]) : int(ends[-1])])


def _numbers(array: Any, kind: pa.DataType) -> Any:
    values: Any = array.cast(kind).fill_null(0).to_numpy(zero_copy_only=False)
    if kind == pa.float64() and np.isnan(values).any():
        values = np.where(np.isnan(values), np.nan, values)  # one NaN for all
    if sys.byteorder == "big":
        values = values.byteswap()
    return np.ascontiguousarray(values).view(np.uint8).data


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not plain data: {value!r}")
