"""JSON lines, plain, gzip or zstd: bytes in, one `Row` or `BadRow` for every line that is not blank.

One bad line is a `BadRow`. A file that is not UTF-8, not decodable or a decompression bomb is a RecipeError.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

import pyarrow as pa

from tracemill.pipelines.reading.rawrow import EXCERPT, BadRow, Limits, Row, fault_in
from tracemill.schemas.errors import RecipeError

Compression = Literal["gzip", "zstd"]
_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_ESCAPED_ODDITY = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


def read_jsonl(path: Path, limits: Limits, compression: Compression | None = None) -> Iterator[Row | BadRow]:
    """The rows of a file, in bounded memory whatever the file holds."""
    with path.open("rb") as file:
        stream: BinaryIO = io.BufferedReader(_Metered(file, path, limits, compression), _BLOCK)
        number = 0
        while True:
            line = stream.readline(limits.row_bytes + 1)
            if not line:
                return
            number += 1
            if number == 1:
                line = line.removeprefix(_BOM)
            if len(line) > limits.row_bytes and not line.endswith(b"\n"):
                size = len(line) + _skip_line(stream, limits.row_bytes)
                yield _bad(number, "too_long", {"bytes": size, "at_most": limits.row_bytes}, line)
            elif not line.isspace():
                yield parse_line(line, number, path, limits)


def parse_line(line: bytes, number: int, path: Path, limits: Limits) -> Row | BadRow:
    """One line, with its end: a line without one is the last, and may have been torn off in the middle."""
    torn = not line.endswith(b"\n")
    try:
        columns = _decoder.decode(line.decode("utf-8").strip())
        if not isinstance(columns, dict):
            return _bad(number, "not_an_object", {"found": type(columns).__name__}, line)
        # what the parser lets through is rare and seen in the bytes; walking each row would double the time
        odd = _ESCAPED_ODDITY.search(line) or line.count(b"[") + line.count(b"{") > limits.depth
        if odd and (fault := fault_in(columns, limits)):
            return _bad(number, *fault, line)
    except UnicodeDecodeError as error:
        if torn:
            return _bad(number, "torn_line", {"bytes": len(line)}, line)
        raise RecipeError(
            f"{path}: line {number} is not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}; "
            f"convert the file (iconv -f LATIN1 -t UTF-8) or remove the line"
        ) from None
    except _Refused as refused:
        return _bad(number, refused.reason, {"found": refused.found}, line)
    except RecursionError:
        return _bad(number, "too_deep", {"at_most": limits.depth}, line)
    except ValueError as error:  # JSONDecodeError, or a number of more digits than Python parses
        return _bad(number, "torn_line" if torn else "not_json", {"error": str(error), "bytes": len(line)}, line)
    return Row(number, columns)


class _Refused(Exception):
    """JSON that the standard library would let through and other readers would not."""

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(reason)
        self.reason, self.found = reason, found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    columns = dict(pairs)
    if len(columns) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Refused("duplicate_key", next(ascii(name) for name in names if names.count(name) > 1))
    return columns


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise _Refused("not_finite", text[:40])
    return number


def _no_constant(name: str) -> NoReturn:
    raise _Refused("not_finite", name)


_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)


def _bad(number: int, reason: str, evidence: Mapping[str, Any], line: bytes) -> BadRow:
    return BadRow(number, reason, evidence, json.dumps(line[:EXCERPT].decode("utf-8", "replace")))


def _skip_line(stream: BinaryIO, step: int) -> int:
    size = 0
    while part := stream.readline(step):
        size += len(part)
        if part.endswith(b"\n"):
            break
    return size


class _Metered(io.RawIOBase):
    """A file's decoded bytes, cut off with a RecipeError once there are more than any honest file decodes to."""

    def __init__(self, file: io.BufferedReader, path: Path, limits: Limits, compression: Compression | None) -> None:
        self._stored = file
        self._decoded: Any = pa.CompressedInputStream(file, compression) if compression else file
        self._path, self._limits, self._compression = path, limits, compression
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            read = int(self._decoded.readinto(buffer))
        except OSError as error:
            what = f"not readable as {self._compression}" if self._compression else "unreadable"
            raise RecipeError(f"{self._path}: {what}: {error}; restore the file from its origin") from None
        self._count += read
        if self._compression:
            check_ratio(self._path, self._count, self._stored.tell(), self._limits)
        return read


def check_ratio(path: Path, decoded: int, stored: int, limits: Limits) -> None:
    """Stop at a decompression bomb, long before it fills the disk."""
    if decoded > limits.total_bytes:
        raise RecipeError(
            f"{path}: decodes to more than {limits.total_bytes} bytes, the most that one file may; split it"
        )
    if decoded > limits.ratio_from and decoded > limits.ratio * max(stored, 1):
        raise RecipeError(
            f"{path}: {stored} stored bytes decode to {decoded} or more, {decoded // max(stored, 1)} to 1; the limit is "
            f"{limits.ratio} to 1, so that a decompression bomb stops here. If this is real data, decompress it first"
        )
