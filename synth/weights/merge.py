"""Weights between two models: W = W1 + alpha * (W2 - W1), read, computed and written a piece at a time.

CoT-Valve (arXiv:2502.09601, section 3.2, "zero shot") takes the difference of a reasoning model and the model it was made from as
the direction that lengthens its chains. The paper gives the vector form; the rules per tensor are ours: accumulate in
float32, cast to the dtype of the start, refuse any difference of name or shape, and where the vocabulary of the end only
goes on after that of the start, take the further rows as they are.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tracemill.schemas.errors import DiskFull, EngineLost, RecipeError
from tracemill.synth.weights.tensors import BYTES, FLOATS, TensorPlace, header_of, read_folder

if TYPE_CHECKING:
    import torch

PIECE = 1 << 18
"""Numbers that are in memory at once, of each side: 1 MiB in float32, which stays in a core's cache from reading to writing."""
VOCABULARY = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_out.weight")
"""Ends of the names of tensors with a row for each token."""
SAME = (
    *("architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "hidden_act", "tie_word_embeddings", "num_experts", "num_experts_per_tok"),
)
"""Settings of config.json that must agree: between two models that compute differently there is nothing."""


@dataclass(frozen=True)
class Line:
    """Two models that can be mixed."""

    start: Path
    end: Path

    def check(self) -> None:
        """Raise a RecipeError that names the first difference which cannot be bridged."""
        _check_configs(self.start, self.end)
        check_tokenizers(self.start, self.end)
        for pair in self.pairs():
            _check_pair(*pair, self)

    def pairs(self) -> Iterator[tuple[TensorPlace, TensorPlace]]:
        """The tensors of both by name, in the start's order; RecipeError where one has what the other has not."""
        first, second = read_folder(self.start), read_folder(self.end)
        for mine, its, here, there in ((first, second, self.start, self.end), (second, first, self.end, self.start)):
            if alone := [name for name in mine if name not in its]:
                raise RecipeError(
                    f"{here} and {there} cannot be mixed: {alone[0]} is only in {here}"
                    + (f", and {len(alone) - 1:,} more" if len(alone) > 1 else "")
                    + "; both must be of one architecture, one made from the other"
                )
        for name, place in first.items():
            yield place, second[name]


def merge(line: Line, alpha: str, out: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """Write the model at `alpha` into the new folder `out`, whole or not at all: weights, and beside them the end's files.

    Once `stopped` says so, nothing is written and EngineLost is raised. DiskFull where the model finds no room.

    `alpha` is a canonical scale; 0 is the start bit for bit, 1 the end as far as the start's dtype tells. Needs as much disk
    as the start, and memory for a few pieces, whatever the size of the models.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        with _one_thread():
            _write(list(line.pairs()), alpha, draft / "model.safetensors", stopped)
        for file in line.end.iterdir():
            if file.suffix in (".json", ".jinja", ".model", ".txt") and "index" not in file.name:
                shutil.copyfile(file, draft / file.name)
        _write_config(line, draft / "config.json")
        draft.rename(out)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"the disk is full: {out.parent} has no room for a merged model; make room and run again"
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one core: pieces are small, and handing halves of them to a second core takes longer than they do."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_config(line: Line, file: Path) -> None:
    """The end's settings, with the dtype that the weights are written in."""
    start, end = _json(line.start / "config.json"), _json(line.end / "config.json")
    dtypes = {key: start[key] for key in ("dtype", "torch_dtype") if key in start}
    rest = {key: value for key, value in end.items() if key not in ("dtype", "torch_dtype")}
    file.write_text(json.dumps({**rest, **dtypes}, indent=2) + "\n", encoding="utf-8")


def _check_configs(start: Path, end: Path) -> None:
    mine, its = _json(start / "config.json"), _json(end / "config.json")
    for key in SAME:
        if mine.get(key) != its.get(key):
            raise RecipeError(
                f"{start} and {end} cannot be mixed: {key} is {mine.get(key)!r} in the one and {its.get(key)!r} in the other"
            )
    if _positions(mine) != _positions(its):
        raise RecipeError(
            f"{start} and {end} cannot be mixed: they count positions in another way (rope {_positions(mine)} and {_positions(its)})"
        )
    for folder, config in ((start, mine), (end, its)):
        if config.get("quantization_config"):
            raise RecipeError(f"{folder} is quantised, and quantised weights cannot be mixed; name the original model")


def _positions(config: Mapping[str, Any]) -> tuple[float, str]:
    """Base and kind of the rotary embedding, in the words of older and of newer configurations."""
    new, scaling = config.get("rope_parameters") or {}, config.get("rope_scaling") or {}
    base = config.get("rope_theta") or new.get("rope_theta") or 10000.0
    return float(base), str(new.get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default")


def check_tokenizers(start: Path, end: Path) -> None:
    """Each token of the start is the same id in the end; the end may have further ones, all after these."""
    mine, its = _vocabulary(start), _vocabulary(end)
    for token, number in sorted(mine.items(), key=lambda entry: entry[1]):
        if its.get(token) != number:
            there = f"is {its[token]}" if token in its else "is not"
            raise RecipeError(
                f"{start} and {end} cannot be mixed: token {token!r} is {number} in the one's vocabulary and {there} in the "
                "other's; both must have one tokenizer"
            )
    if inserted := [token for token, number in its.items() if token not in mine and number <= max(mine.values())]:
        raise RecipeError(f"{start} and {end} cannot be mixed: {end} gives the id of another token to {inserted[0]!r}")


def _vocabulary(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise RecipeError(f"{folder} has no tokenizer.json, so nobody can tell whether its tokens are the other's")
    return dict(Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True))


def _check_pair(mine: TensorPlace, its: TensorPlace, line: Line) -> None:
    grown = mine.name.endswith(VOCABULARY) and mine.shape[1:] == its.shape[1:] and mine.shape[0] < its.shape[0]
    if mine.shape != its.shape and not grown:
        raise RecipeError(
            f"{line.start} and {line.end} cannot be mixed: {mine.name} is {list(mine.shape)} in the one and {list(its.shape)} in "
            "the other"
        )
    for place in (mine, its):
        if place.dtype not in BYTES:
            raise RecipeError(f"{place.file}: {place.name} is {place.dtype}, with which nothing can be computed")
    if (mine.dtype in FLOATS) != (its.dtype in FLOATS):
        raise RecipeError(f"{mine.name} is {mine.dtype} in {line.start} and {its.dtype} in {line.end}")


def _write(pairs: list[tuple[TensorPlace, TensorPlace]], alpha: str, file: Path, stopped: Callable[[], bool]) -> None:
    shapes = [(mine.name, mine.dtype, its.shape, BYTES[mine.dtype] * _numbers(its.shape)) for mine, its in pairs]
    readers: dict[Path, IO[bytes]] = {}
    try:
        with file.open("wb") as out:
            out.write(header_of(shapes))
            for mine, its in pairs:
                for place in (mine, its):
                    if place.file not in readers:
                        readers[place.file] = place.file.open("rb", buffering=0)
                for piece in _mixed(mine, its, readers[mine.file], readers[its.file], alpha):
                    if stopped():
                        raise EngineLost("merging was stopped")
                    out.write(piece)
            out.flush()
            os.fsync(out.fileno())
    finally:
        for reader in readers.values():
            reader.close()


def _mixed(
    mine: TensorPlace, its: TensorPlace, from_start: IO[bytes], from_end: IO[bytes], alpha: str
) -> Iterator[memoryview]:
    """The bytes of one tensor of the result, in the start's dtype; its further rows are the end's."""
    shared, total = _numbers(mine.shape), _numbers(its.shape)
    whole = mine.dtype not in FLOATS  # counters and masks are no weights: the start's stand
    wide = "F64" in (mine.dtype, its.dtype)
    for at in range(0, total, PIECE):
        right = _read(its, from_end, at, min(PIECE, total - at), wide=wide)
        if at < shared:
            left = _read(mine, from_start, at, min(PIECE, shared - at), wide=wide)
            right[: len(left)] = left if whole else _between(left, right[: len(left)], alpha)
        cast = right.to(_dtype(mine.dtype))
        if not cast.isfinite().all():
            raise RecipeError(
                f"{mine.name} at alpha {alpha} is not finite in {mine.dtype}: {mine.file} or {its.file} holds NaN or infinity, or "
                "their sum is out of range"
            )
        yield _bytes(cast)


def _between(left: "torch.Tensor", right: "torch.Tensor", alpha: str) -> "torch.Tensor":
    """Exactly the one side where alpha is 0 or 1: the sum would round."""
    if alpha in ("0", "1"):
        return left if alpha == "0" else right
    return right.sub_(left).mul_(float(alpha)).add_(left)


def _read(place: TensorPlace, stream: IO[bytes], start: int, count: int, *, wide: bool) -> "torch.Tensor":
    """Numbers `start` to `start + count` of a tensor, floats as float32 or, where `wide`, as float64."""
    import torch

    size = BYTES[place.dtype]
    numbers = torch.empty(count, dtype=_dtype(place.dtype))
    view, filled = _bytes(numbers), 0
    stream.seek(place.offset + start * size)
    while filled < len(view):
        got = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not got:
            raise RecipeError(f"{place.file} ends inside {place.name}; fetch it again")
        filled += got
    if place.dtype not in FLOATS:
        return numbers
    return numbers.double() if wide else numbers.float()  # a copy only where it is something else


def _bytes(numbers: "torch.Tensor") -> memoryview:
    import torch

    return memoryview(numbers.contiguous().view(torch.uint8).numpy())


def _dtype(name: str) -> Any:
    import torch

    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
    names |= {"I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
    return getattr(torch, names[name])


def _numbers(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _json(file: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(f"{file}: not a readable JSON object: {error}") from None
