"""What a folder of safetensors files holds, read from the files' headers: names, shapes, dtypes and where the bytes lie.

A file is eight bytes of length, a JSON header {"name": {"dtype": "BF16", "shape": [5, 3], "data_offsets": [0, 30]}, ...} padded
with spaces, and the bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracemill.schemas.errors import RecipeError

BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of one number; what is not here (packed or 8-bit floats) is carried as it is and never computed with."""
FLOATS = ("F64", "F32", "F16", "BF16")
LONGEST_HEADER = 100 << 20


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor of a file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """Of its first byte in the file."""
    size: int
    """Bytes."""


def read_folder(folder: Path) -> dict[str, TensorPlace]:
    """Every tensor of a model or adapter folder by name, in the order of files and bytes."""
    files = _listed(folder)
    if not files:
        raise RecipeError(f"{folder} has no *.safetensors; weights in other formats are not read, convert them first")
    found: dict[str, TensorPlace] = {}
    for file in files:
        for place in read_header(file):
            if place.name in found:
                raise RecipeError(f"{folder}: {place.name} stands in {found[place.name].file.name} and in {file.name}")
            found[place.name] = place
    return found


def read_header(file: Path) -> list[TensorPlace]:
    """The tensors of one file in the order of their bytes; RecipeError where it is damaged or cut short."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, LONGEST_HEADER)))
            places = [
                TensorPlace(name, file, entry["dtype"], tuple(entry["shape"]), 8 + length + start, end - start)
                for name, entry in header.items()
                if name != "__metadata__"
                for start, end in [entry["data_offsets"]]
            ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{file} is not a safetensors file: {error}; fetch it again") from None
    places.sort(key=lambda place: place.offset)
    size = file.stat().st_size
    if places and places[-1].offset + places[-1].size > size:
        raise RecipeError(f"{file} is cut short: {size:,} bytes, and its last tensor ends beyond; fetch it again")
    return places


def header_of(places: Sequence[tuple[str, str, Sequence[int], int]]) -> bytes:
    """The length and header of a file that holds these (name, dtype, shape, bytes) one after the other."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape, size in places:
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _listed(folder: Path) -> list[Path]:
    """The files of the index where there is one: a folder may hold the same weights a second time."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    try:
        weight_map: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise RecipeError(f"{index} is no index of weights: {error}") from None
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise RecipeError(f"{folder} lacks {missing[0]}, which its index names; fetch the model again")
    return [folder / name for name in names]
