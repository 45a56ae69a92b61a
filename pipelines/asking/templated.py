"""A trainer's view as the trainer's model reads it: in its chat template, with what the loss counts, and how long.

tracemill show REF --as trl-sft      the first rows, every special token in them
tracemill export REF --to trl-sft    how many tokens, prompts included, and how much is cut off at 8k, 16k and 32k
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from tracemill.pipelines.cards.parts import WINDOWS
from tracemill.pipelines.export import find_view, lengths, tables_of
from tracemill.pipelines.versions.dataset import Dataset
from tracemill.schemas.errors import ProblemFailed, RecipeError
from tracemill.schemas.printable import printable
from tracemill.schemas.tables import as_given
from tracemill.schemas.views.tables import Tables, chosen
from tracemill.synth.models import open_renderer
from tracemill.synth.render import Renderer

COUNTED = 20_000
"""Rows whose tokens are counted; of a longer view they are spread evenly over it."""
AT_ONCE = 1000
LEARNT = {"completion": "the answer", "chosen": "chosen", "rejected": "rejected", "output": "the answer"}
"""Columns of turns that the loss counts, and what they are to a reader; `prompt` and `input` stand before them."""
TEMPLATED = ("trl-sft", "trl-dpo", "trl-kto", "trl-grpo", "openrlhf", "verl")
"""Formats whose rows a trainer puts into its model's own template."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text that a trainer makes of a row: what the loss leaves out, and what it counts."""

    what: str
    prompt: str
    learnt: str
    note: str = ""

    @property
    def whole(self) -> str:
        return self.prompt + self.learnt


@dataclass(slots=True)
class Lengths:
    """Tokens of the longest text of each row that was counted, and of prompts and answers, as they came."""

    rows: list[int] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    learnt: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    refused: int = 0
    """Rows that the template does not take."""


def preview_lines(
    dataset: Dataset, to: str, *, n: int = 2, tokenizer: str | None = None, **options: Any
) -> Iterator[str]:
    """The first `n` rows of a format as the trainer's model reads them, and how long all of them are."""
    view = find_view(to, options)
    if to not in TEMPLATED:
        raise RecipeError(
            f"{to} is not read through the template of a model, or its trainer brings its own; --as takes {', '.join(TEMPLATED)}"
        )
    tables = tables_of(dataset.path)
    renderer, whose = template_of(dataset, tokenizer)
    yield f"template  {whose}"
    yield f"loss      {_loss(to, options, renderer)}"
    for number, row in enumerate(view.rows(tables).head(n).collect().iter_rows(named=True), 1):
        if renderer is None:
            yield from (f"--- row {number}", *_plainly(row))
            continue
        for text in texts(row, renderer):
            yield from _shown(number, text, renderer)
    yield from token_lines(dataset, to, renderer, **options)


def export_lines(
    dataset: Dataset, to: str, out: Path, *, tokenizer: str | None = None, **options: Any
) -> Iterator[str]:
    """How long the rows of an export are; where there is no template to put them into, how long their answers are."""
    if to in TEMPLATED:
        renderer, whose = template_of(dataset, tokenizer)
        yield f"template  {whose}"
        if renderer is not None:
            yield from token_lines(dataset, to, renderer, **options)
            return
    yield from lengths(dataset.path, to, out, **options)


def template_of(dataset: Dataset, tokenizer: str | None) -> tuple[Renderer | None, str]:
    """Tokenizer and template: the named ones, else the solver's where they are at hand; and a word on which they are."""
    if tokenizer is not None:
        found = open_renderer("--tokenizer", tokenizer)
        return found, f"of {found.name}, {found.identity}"
    manifest = dataset.manifest()
    asked = manifest.get("recipe", {}).get("models", {}).get("solver")
    if asked is None:
        return None, "none: no model made this version; name the one you train with --tokenizer"
    name = str(asked.get("tokenizer") or asked["name"])
    try:
        found = open_renderer("the version's model", name, asked.get("template"), here=True)
    except RecipeError as error:
        return None, f"none: {error}; name a folder or Hub id with --tokenizer"
    made_with = manifest["models"]["solver"]["asked"]["model"]["template"]
    other = "" if made_with in (found.identity, "server") else f" (the version was made with {made_with})"
    return found, f"of {found.name}, {found.identity}{other}"


def texts(row: Mapping[str, Any], renderer: Renderer) -> list[Text]:
    """What a trainer makes of one row. Raises ProblemFailed where the template refuses it."""
    tools = json.loads(row["tools"]) if row.get("tools") else None
    if row.get("messages") is not None:
        return [Text("the conversation", "", _text(renderer, row["messages"], tools, waits=False))]
    before = row["prompt"] if "prompt" in row else row["input"]
    prompt = _text(renderer, before, tools, waits=True)
    found = []
    for column, what in LEARNT.items():
        if column in row:
            whole = _text(renderer, [*before, *row[column]], tools, waits=False)
            found.append(_split(what, prompt, whole))
    return found or [Text("the prompt", prompt, "")]


def _split(what: str, prompt: str, whole: str) -> Text:
    """Where the answer begins: behind the prompt, which a template may write otherwise once an answer follows."""
    if whole.startswith(prompt):
        return Text(what, prompt, whole[len(prompt) :])
    same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
    note = "the template writes the prompt otherwise where an answer follows; trainers then mark too much or too little"
    return Text(what, whole[:same], whole[same:], note)


def _text(renderer: Renderer, turns: Iterable[Mapping[str, Any]], tools: Any, *, waits: bool) -> str:
    given: Any = [as_given(turn) for turn in turns]
    return renderer.text(given, tools=tools, add_generation_prompt=waits)


def _shown(number: int, text: Text, renderer: Renderer) -> Iterator[str]:
    if text.prompt:
        what = f"before {text.what}" if text.learnt else text.what
        yield f"--- row {number}, {what}: {renderer.count(text.prompt):,} tokens, not in the loss"
        yield _lines(text.prompt)
    if text.learnt:
        yield f"--- row {number}, {text.what}: {renderer.count(text.learnt):,} tokens, in the loss"
        yield _lines(text.learnt)
    if text.note:
        yield f"note      {text.note}"


def _plainly(row: Mapping[str, Any]) -> Iterator[str]:
    """The turns of a row, where there is no template to put them into."""
    for column, turns in row.items():
        if isinstance(turns, list) and turns and isinstance(turns[0], dict) and "role" in turns[0]:
            yield from (f"{column} [{turn['role']}] {_lines(turn['content'] or '')}" for turn in turns)


def _lines(text: str) -> str:
    """What can be printed of a text, its lines kept."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _loss(to: str, options: Mapping[str, Any], renderer: Renderer | None) -> str:
    """What each trainer counts, as it is set up unless told otherwise."""
    if to == "trl-sft" and options.get("form", "messages") == "messages":
        marks = renderer is not None and "{% generation" in (renderer.template or "").replace("{%-", "{%")
        turns = (
            "assistant_only_loss = True" if marks else "a template with {% generation %} and assistant_only_loss = True"
        )
        return f"prompts too; --set form=prompt-completion leaves them out, and so does {turns}"
    if to in ("trl-grpo", "verl") or options.get("form") == "rl":
        return "the answers that the model will write, not the prompts"
    return "the answers, not the prompts"


def token_lines(dataset: Dataset, to: str, renderer: Renderer | None, **options: Any) -> Iterator[str]:
    """Rows, tokens with their prompts, and how many rows are cut off at each window, by source where there are any."""
    if renderer is None or to not in TEMPLATED:
        return
    tables = tables_of(dataset.path)
    rows = find_view(to, options).rows(tables)
    total = int(rows.select(pl.len()).collect().item())
    counted = count(rows, total, tables, to, renderer)
    some = "" if len(counted.rows) == total else f", {len(counted.rows):,} of them counted"
    yield f"rows      {total:,}{some}"
    if counted.refused:
        yield f"refused   {counted.refused:,} rows that the template does not take"
    if not counted.rows:
        return
    order = sorted(counted.rows)
    means = {"prompts": counted.prompts, "answers": counted.learnt if counted.prompts else []}
    parts = "".join(f"; {name} mean {sum(found) / len(found):,.0f}" for name, found in means.items() if found)
    median, p95 = order[(len(order) - 1) // 2], order[(len(order) - 1) * 95 // 100]
    yield f"tokens    mean {sum(order) / len(order):,.0f}, median {median:,}, p95 {p95:,}, max {order[-1]:,}{parts}"
    over = {window: sum(length > window for length in order) for window in WINDOWS}
    yield "cut off   " + ", ".join(f"at {window:,}: {n:,} rows, {n / len(order):.1%}" for window, n in over.items())
    yield from _by_source(counted, over)


def _by_source(counted: Lengths, over: Mapping[int, int]) -> Iterator[str]:
    of_each = Counter(counted.sources)
    for window, any_ in over.items():
        if any_ and len(of_each) > 1:
            long = Counter(s for s, length in zip(counted.sources, counted.rows, strict=True) if length > window)
            told = ", ".join(f"{source} {n:,} of {of_each[source]:,}" for source, n in long.most_common())
            yield f"  at {window:,} by source: {told}"


def count(rows: pl.LazyFrame, total: int, tables: Tables, to: str, renderer: Renderer) -> Lengths:
    """The tokens of a view's rows, special ones included; of more than COUNTED rows, of as many spread evenly."""
    every = -(-total // COUNTED) or 1
    picked = _with_sources(rows, tables, to).with_row_index("_row").filter(pl.col("_row") % every == 0)
    found = Lengths()
    for batch in picked.collect(engine="streaming").sort("_row").iter_slices(AT_ONCE):
        _count(batch.iter_rows(named=True), found, renderer)
    return found


def _count(rows: Iterable[Mapping[str, Any]], found: Lengths, renderer: Renderer) -> None:
    made: list[list[Text]] = []
    for row in rows:
        try:
            made.append(texts(row, renderer))
            found.sources.append(str(row["_source"]))
        except ProblemFailed:
            found.refused += 1
    flat = list(chain.from_iterable(made))
    prompts = _tokens(renderer, [text.prompt for text in flat])
    wholes = _tokens(renderer, [text.whole for text in flat])
    found.prompts += [n for text, n in zip(flat, prompts, strict=True) if text.prompt]
    found.learnt += [w - p for text, w, p in zip(flat, wholes, prompts, strict=True) if text.learnt]
    each = iter(wholes)
    found.rows += [max(next(each) for _ in some) for some in made]


def _tokens(renderer: Renderer, some: Sequence[str]) -> list[int]:
    special = renderer.template is None
    return [
        len(encoded.ids) for encoded in renderer.tokenizer.encode_batch_fast(list(some), add_special_tokens=special)
    ]


def _with_sources(rows: pl.LazyFrame, tables: Tables, to: str) -> pl.LazyFrame:
    """A view with the source of each of its rows: by its problem, or beside the trace that it was made of."""
    names = rows.collect_schema().names()
    if "problem_id" in names or to == "verl":
        problem = pl.col("problem_id") if "problem_id" in names else pl.col("extra_info").struct.field("problem_id")
        sources = tables["problems"].select(_problem="problem_id", _source="source")
        return rows.with_columns(problem.alias("_problem")).join(
            sources, on="_problem", how="left", maintain_order="left"
        )
    of_traces = chosen(tables).sort("id")
    known = "source" in of_traces.collect_schema().names()
    source = (pl.col("source") if known else pl.lit(None, pl.String)).alias("_source")
    return pl.concat([rows, of_traces.select("id", source).drop("id")], how="horizontal")
