"""What a card says of a version beyond its manifest: what each column means, its type to `datasets`, how long rows are."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

MEANING: Mapping[str, Mapping[str, str]] = {
    "rows": {
        "id": "The row: the problem's id, `/`, and a name that is the same in every run, such as `0007/solve-0003`.",
        "problem_id": "The problem: the source's own id, or 16 hex digits of the SHA-256 of the question's text (NFC, white space collapsed).",
        "question": "The question as the source has it, before any template.",
        "messages": "The conversation a trainer learns from: the prompt's turns and the assistant's answer. Turns may hold more.",
        "reasoning": "What stands between the think tags; null where the model has none.",
        "content": "What follows the think tags, or the whole text where there are none.",
        "answer": "What counted as the final answer; null where none was found.",
        "gold": "The reference answer, as extracted from the source; null where the source has none.",
        "correct": "Whether `answer` equals `gold`; null means undecided, which is not wrong.",
        "verdict": "`equal`, `different`, or `undecided: ` and why.",
        "n_tokens": "Tokens that the model wrote, prompt not included, the stop token included.",
        "tokenizer": "Whose tokens `n_tokens` counts: the model's, a tokenizer's name, or the server's `usage`. `words` where the server counts nothing and the recipe names no tokenizer, or a given trace has none at hand: then `n_tokens`, and what goes by it, counts words between white space.",
        "finish_reason": "`stop`: the model ended by itself. `length`: it was cut off at a limit. `given`: the trace came with the source.",
        "model": "The name of the model that wrote it.",
        "source": "The source the problem came from, as the manifest lists it.",
        "licence": "The licence that the recipe states for the source; `unknown` unless it says one.",
        "difficulty": "The source's own label of difficulty; null where it has none.",
        "key": "The request that the text answers, 64 hex digits: its row in `samples`, and in the journal. Null for a given trace.",
    },
    "rejected": {
        "id": "The trace that was turned down; null where it was a problem.",
        "problem_id": "Its problem.",
        "stage": "Where: `source`, `problem_filter`, `method`, `verify`, `score`, `filter:NAME` or `select:NAME`.",
        "reason": "Why: a short code that stays the same, to count by.",
        "evidence": "What a person needs to agree, as JSON text: the numbers compared, the other row's id.",
        "row": "The row as it was, as JSON text.",
    },
    "problems": {
        "problem_id": "The problem; every problem that was admitted has one row.",
        "question": "The question as the source has it.",
        "gold": "The reference answer; null where the source has none.",
        "source": "The source it came from.",
        "difficulty": "The source's own label; null where it has none.",
        "outcome": "`chosen`: a row came of it. `none_chosen`: it was worked on and no trace was chosen. `rejected`: a filter on problems, or the method, turned it down. `failed`: it could not be worked on.",
        "reason": "Why it was rejected or failed; null otherwise.",
        "roles": "Samples drawn for it, counted for each role of a model. `undecided` and `truncated` stand inside `total`, never inside `correct`.",
        "prompt": "The turns that the model was shown before its answer; the given conversation, or the question as one user turn, where nothing was shown.",
    },
    "samples": {
        "key": "The request, 64 hex digits: the SHA-256 of everything that decides the completion.",
        "problem_id": "The problem it was asked for.",
        "role": "The role that the model played in the build, such as `solver` or `judge`.",
        "adapter": "The LoRA adapter's name, the two models' (`base..reasoner`) or the served name; null for the model as it is.",
        "scale": "Its scale, as its one decimal text (`0.2`); null without an adapter.",
        "seed": "The seed that the engine was given: 48 bits of `key`. Null where requests are not seeded.",
        "text": "What the model wrote, without prompt and without forced prefix.",
        "token_ids": "Its tokens as sampled, the stop token included; null where the server does not tell. Never encoded again from the text.",
        "n_tokens": "How many tokens it wrote.",
        "finish_reason": "`stop` or `length`, as in `rows`.",
        "verdict": "As in `rows`; null where the text was not verified.",
    },
}
"""By table, the columns that every version may have: the words of docs/tables.md."""
_OF_ANY = {"id": "The row.", "problem_id": "The problem that it is of."}
WINDOWS = (8192, 16384, 32768)
"""Context windows that trainers commonly cut at."""


def features(schema: pa.Schema) -> list[dict[str, Any]] | None:
    """The columns as the `dataset_info` of a card has them; None where a type has no such name."""
    found = [_feature(field.type) for field in schema]
    if not all(found):
        return None
    return [{"name": field.name, **feature} for field, feature in zip(schema, found, strict=True) if feature]


def _feature(kind: Any) -> dict[str, Any] | None:
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return None if inner is None else {"list": inner.get("dtype") or inner.get("struct") or inner}
    if pa.types.is_struct(kind):
        inside = features(pa.schema(list(kind)))
        return None if inside is None else {"struct": inside}
    names = {pa.float32(): "float32", pa.float64(): "float64"}
    plain = (
        pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_binary(kind)
    )
    name = names.get(kind, str(kind) if plain else "")
    return {"dtype": name} if name else None


def column_rows(name: str, schema: pa.Schema, meaning: Mapping[str, str]) -> list[list[str]]:
    """Name, type and meaning of each column of a table; `meaning` is what plug-ins say of theirs."""
    traces = name in ("rows", "traces")
    own = "Of the source, the method, a score or a selector." if traces else "Of the method or selector."
    known = {**(meaning if traces else {}), **MEANING.get("rows" if traces else name, _OF_ANY)}
    known |= {key.partition(".")[2]: text for key, text in meaning.items() if key.startswith(f"{name}.")}
    return [[f"`{f.name}`", _short(f.type), known.get(f.name) or known.get(_numbered(f.name), own)] for f in schema]


def _numbered(name: str) -> str:
    """The name that stands for a family of columns: `solution_k_token` for `solution_3_token`."""
    return re.sub(r"_\d+(?=_|$)", "_k", name)


def _short(kind: Any) -> str:
    text = str(kind).replace("element: ", "").replace("item: ", "")
    return text.replace(" not null", "")


def lengths(files: Sequence[Path]) -> dict[str, Any] | None:
    """Mean, median, 95th percentile and maximum of `n_tokens`, and how many rows are longer than each window.

    None where no row has such a number.
    """
    frame = pl.scan_parquet(list(files))
    if frame.collect_schema().get("n_tokens") != pl.Int64:
        return None
    tokens = pl.col("n_tokens").drop_nulls()
    numbers = {
        "rows": tokens.len(),
        "total": tokens.sum(),
        "mean": tokens.mean().round(1),
        "median": tokens.quantile(0.5, "lower").cast(pl.Int64),
        "p95": tokens.quantile(0.95, "lower").cast(pl.Int64),
        "max": tokens.max(),
        **{f"over_{window}": (tokens > window).sum() for window in WINDOWS},
    }
    [found] = frame.select(**numbers).collect().to_dicts()
    return found if found["rows"] else None
