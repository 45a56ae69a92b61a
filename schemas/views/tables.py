"""What views read of a version's tables: the chosen traces, prompts with a gold, and answers that are right or wrong."""

from collections.abc import Mapping

import polars as pl

from tracemill.schemas.errors import RecipeError

Tables = Mapping[str, pl.LazyFrame]

_TRACE = pl.Struct(
    {
        "n_tokens": pl.Int64,
        "finish_reason": pl.String,
        "verdict": pl.String,
        "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    }
)
"""What a pair needs of a trace that was turned down."""
PAIRED: Mapping[str, tuple[str, pl.Expr]] = {
    "optimised": ("original", pl.col("tag")),
    "concise": ("original", pl.when("pair_ok").then(pl.lit("concise"))),
}
"""Columns of methods whose traces are pairs: the better text, the column of the other, and of what kind the pair is, null where it is none."""
SEVERAL_PROMPTS = frozenset({"subset_accuracies"})
"""Tables that tell a version whose samples answer more prompts than one a problem: hints are shown in many subsets."""


def chosen(tables: Tables) -> pl.LazyFrame:
    """The chosen traces: `rows`, or `traces` where rows are folded."""
    return tables["traces"] if "traces" in tables else table(tables, "rows")


def table(tables: Tables, name: str) -> pl.LazyFrame:
    if name not in tables:
        raise RecipeError(
            f"this format needs the table {name!r}; the version has: {', '.join(sorted(tables)) or 'none'}"
        )
    return tables[name]


def tools_of(frame: pl.LazyFrame) -> list[str]:
    """The column of tools, where a table has one."""
    return [name for name in frame.collect_schema().names() if name == "tools"]


def checkable(tables: Tables) -> pl.LazyFrame:
    """Problems with a gold of which a trace was chosen, in the order of their ids."""
    return (
        table(tables, "problems")
        .filter((pl.col("outcome") == "chosen") & pl.col("gold").is_not_null())
        .sort("problem_id")
    )


def _to_one_prompt(tables: Tables, answers: pl.LazyFrame) -> pl.LazyFrame:
    """The answers to the prompt that `problems` has, where a method asks its problems in several ways: those it made traces of."""
    if not SEVERAL_PROMPTS & tables.keys():
        return answers
    down = table(tables, "rejected").filter(pl.col("id").is_not_null())
    turned_down = down.select(pl.col("row").str.json_decode(pl.Struct({"key": pl.String})).struct.field("key"))
    return answers.join(pl.concat([chosen(tables).select("key"), turned_down]), on="key", how="semi")


def paired(tables: Tables) -> str | None:
    """The column of the better text, where the traces are pairs."""
    if not {"traces", "rows"} & tables.keys():
        return None
    names = set(chosen(tables).collect_schema().names())
    return next(
        (name for name, (worse, kind) in PAIRED.items() if {name, worse, *kind.meta.root_names()} <= names), None
    )


def _whole(tables: Tables, answers: pl.LazyFrame) -> pl.LazyFrame:
    """The answers that are whole replies: where traces are pairs, the better text was put together, and its sample is the end of it."""
    if (better := paired(tables)) is None:
        return answers
    down = table(tables, "rejected").filter(pl.col("id").is_not_null())
    rows = down.select(pl.col("row").str.json_decode(pl.Struct({"key": pl.String, better: pl.String}))).unnest("row")
    made = pl.concat([chosen(tables).select("key", better), rows]).filter(pl.col(better).is_not_null())
    return answers.join(made, on="key", how="anti")


def candidates(tables: Tables, role: str) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Every answer of a role that is right or wrong, narrow, and the text of each by key."""
    if "samples" in tables:
        answers = _whole(tables, _to_one_prompt(tables, tables["samples"].filter(pl.col("role") == role)))
        answers = answers.select("key", "problem_id", "text", "n_tokens", "finish_reason", "verdict")
    else:  # nothing was sampled here: the given traces are the rows, and what stands in `rejected`
        down = table(tables, "rejected").filter(pl.col("id").is_not_null())
        down = down.select("id", "problem_id", pl.col("row").str.json_decode(_TRACE)).unnest("row")
        columns = ["id", "problem_id", "n_tokens", "finish_reason", "verdict", "messages"]
        both = pl.concat([chosen(tables).select(columns), down.select(columns)]).rename({"id": "key"})
        text = pl.col("messages").list.last().struct.field("content")
        answers = both.with_columns(text.alias("text"))
    narrow = answers.select(
        "key",
        "problem_id",
        "n_tokens",
        pl.col("text").hash().alias("same_text"),
        pl.col("verdict").str.extract(r"^(\w+)").alias("status"),
        (pl.col("finish_reason") == "length").fill_null(value=True).alias("truncated"),
    ).filter(pl.col("status").is_in(["equal", "different"]))
    alike = narrow.group_by("problem_id", "same_text", "status", "truncated", "n_tokens").agg(pl.col("key").min())
    return alike, answers.select("key", "text")


def answer(text: str | pl.Expr) -> pl.Expr:
    """A text, or the text in a column, as a conversation of one turn.

    A reply that closes a thought that it never opened was drawn behind a prompt that had opened it: it gets the opening tag back.
    """
    content = pl.col(text) if isinstance(text, str) else text
    opens, closes = (content.str.find(tag, literal=True) for tag in ("<think>", "</think>"))
    bare = closes.is_not_null() & (opens.is_null() | (opens > closes))
    whole = pl.when(bare.fill_null(value=False)).then(pl.lit("<think>\n") + content).otherwise(content)
    return pl.concat_list(pl.struct(pl.lit("assistant").alias("role"), whole.alias("content")))
