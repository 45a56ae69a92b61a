"""A version's tables in the layouts of trainers. Each view is a function with the name of its format, `-` written `_`.

    trl-sft     rows                         one row a chosen trace; where rows are folded, of the table `traces`
    trl-dpo     samples, problems            one row a pair of answers to one prompt; without samples: rows, rejected, problems
    trl-grpo    problems                     one row a problem of which a trace was chosen: prompts that can be learnt from
    verl        problems                     the same, in verl's columns
    mixchain-wide   rows                     one row a question in the published columns of MixChain
    mixchain-long   traces                   one row a chain with alpha, beta and stage

Column names are those that TRL 1.16 and verl 0.9 read. Conversations are lists of {"role", "content"} in every row, because TRL
decides by the first row how to read them all; golds stay text, because Arrow cannot mix numbers and words.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import FORMATS, suggest

Tables = Mapping[str, pl.LazyFrame]
View = Callable[..., pl.LazyFrame]
PairKind = Literal["short_over_long", "correct_over_wrong"]

_TRACE = pl.Struct(
    {
        "n_tokens": pl.Int64,
        "finish_reason": pl.String,
        "verdict": pl.String,
        "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    }
)
"""What a pair needs of a trace that was turned down."""


def view_named(name: str) -> View:
    """The function of a format."""
    if name not in FORMATS:
        raise RecipeError(f"no format {name!r}{suggest(name, FORMATS)}")
    view: View = globals()[name.replace("-", "_")]
    return view


def trl_sft(tables: Tables, *, form: Literal["messages", "prompt-completion"] = "messages") -> pl.LazyFrame:
    """Chosen traces for supervised training: `messages`, or `prompt` and `completion` to learn the answer only.

    Where the conversations have tools, `tools` follows as JSON text, which TRL reads.
    """
    rows = _chosen(tables).sort("id")
    tools = _tools_of(rows)
    if form == "messages":
        return rows.select("messages", *tools)
    turns = pl.col("messages")
    before = turns.list.slice(0, (turns.list.len().cast(pl.Int64) - 1).clip(lower_bound=0))
    return rows.select(before.alias("prompt"), turns.list.tail(1).alias("completion"), *tools)


def trl_dpo(
    tables: Tables,
    *,
    kind: PairKind | Literal["both"] = "both",
    pairs: Annotated[int, Field(ge=1)] = 1,
    role: str = "solver",
) -> pl.LazyFrame:
    """Pairs of answers to one prompt: `prompt`, `chosen`, `rejected`, with their `kind` and `problem_id`.

    `short_over_long` sets the shortest correct answer over the longest correct one, where their lengths differ;
    `correct_over_wrong` sets correct over wrong, the shortest against the shortest, so that length tells them apart as
    little as may be. Up to `pairs` of each kind a problem: the next shortest against the next longest, and so on, no answer
    on both sides. A truncated answer is never chosen, an undecided one never used; equal texts count once.
    """
    candidates, texts = _candidates(tables, role)
    right, wrong = candidates.filter(pl.col("status") == "equal"), candidates.filter(pl.col("status") == "different")
    short = _numbered(right.filter(~pl.col("truncated")), pl.col("n_tokens"), "chosen")
    rivals = {
        "short_over_long": _numbered(right, -pl.col("n_tokens"), "rejected"),
        "correct_over_wrong": _numbered(wrong, pl.col("n_tokens"), "rejected"),
    }
    found = [
        short.join(rival, on=["problem_id", "number"]).with_columns(pl.lit(name).alias("kind"))
        for name, rival in rivals.items()
        if kind in (name, "both")
    ]
    longer = pl.col("rejected_tokens") > pl.col("chosen_tokens")
    problems = _table(tables, "problems")
    tools = _tools_of(problems)
    return (
        pl.concat(found)
        .filter((pl.col("number") <= pairs) & ((pl.col("kind") != "short_over_long") | longer))
        .join(problems.select("problem_id", "prompt", *tools), on="problem_id")
        .join(texts.select(chosen_key="key", chosen=_answer("text")), on="chosen_key")
        .join(texts.select(rejected_key="key", rejected=_answer("text")), on="rejected_key")
        .sort("problem_id", "kind", "number")
        .select("prompt", "chosen", "rejected", *tools, "kind", "problem_id")
    )


def trl_grpo(tables: Tables) -> pl.LazyFrame:
    r"""Prompts with checkable answers: `prompt`, and the gold as `solution`, the name that TRL's `accuracy_reward` reads.

    That reward finds no answer in a bare `(1,2)` or `x^2+1`: a gold without `$` or `\boxed` stands between dollars here.
    `gold` is the same as the source has it.
    """
    gold = pl.col("gold")
    marked = gold.str.contains("$", literal=True) | gold.str.contains("\\boxed", literal=True)
    solution = pl.when(marked).then(gold).otherwise(pl.concat_str(pl.lit("$"), gold, pl.lit("$")))
    problems = _checkable(tables)
    return problems.select("prompt", *_tools_of(problems), solution.alias("solution"), "gold", "problem_id")


def verl(
    tables: Tables, *, data_source: str | None = None, ability: str = "math", split: str = "train"
) -> pl.LazyFrame:
    """Prompts with checkable answers in verl's columns.

    `data_source` chooses verl's reward function; it is the source's name unless given, and verl knows such as
    `openai/gsm8k`. `split` is what `extra_info` says, where `index` counts the rows.
    """
    name = pl.col("source") if data_source is None else pl.lit(data_source)
    problems = _checkable(tables)
    return problems.with_row_index("index").select(
        name.alias("data_source"),
        "prompt",
        *_tools_of(problems),
        pl.lit(ability).alias("ability"),
        pl.struct(pl.lit("rule").alias("style"), pl.col("gold").alias("ground_truth")).alias("reward_model"),
        pl.struct(pl.lit(split).alias("split"), pl.col("index").cast(pl.Int64), "problem_id").alias("extra_info"),
    )


def mixchain_wide(tables: Tables) -> pl.LazyFrame:
    """The columns of horseee/MixChain-Z-PRM12K, for as many levels as there are.

    question, answer (the worked solution, where the source has one), target (the final answer), solution_0 (the worked
    solution again), solution_1 .., solution_1_token .., correct_1 ..
    """
    rows = _table(tables, "rows")
    if "solution_1" not in (names := rows.collect_schema().names()):
        raise RecipeError("this format needs rows of the method mixchain with layout = 'wide'; rows have no solution_1")
    count = sum(name.startswith("solution_") and name[9:].isdecimal() for name in names)
    levels = range(1, count)
    return rows.sort("id").select(
        *("question", "answer", "target", "solution_0"),
        *(f"solution_{k}" for k in levels),
        *(f"solution_{k}_token" for k in levels),
        *(f"correct_{k}" for k in levels),
    )


def mixchain_long(
    tables: Tables, *, stage_order: Literal["mean_length", "index"] = "mean_length", training: bool = False
) -> pl.LazyFrame:
    """One row a chain: problem_id, question, solution, solution_index, alpha, beta, stage, n_tokens, target.

    `beta` is the strength at which CoT-Valve++ applies its adapter to the chain. `stage` is when CoT-Valve+P trains on it, 0
    first: the longest column first, by `mean_length` over the dataset, ties by index, or by `index` as in the published sets.
    `training` leaves out what nobody trains on: chains that are not right, and second copies of one text.
    """
    chains = _chosen(tables)
    if "solution_index" not in chains.collect_schema().names():
        raise RecipeError("this format needs traces of the method mixchain; these have no solution_index")
    length = pl.col("n_tokens").mean() if stage_order == "mean_length" else pl.col("solution_index").first()
    stages = (
        chains.group_by("solution_index")
        .agg(length.alias("length"))
        .sort("length", "solution_index", descending=True)
        .with_row_index("stage")
        .select("solution_index", pl.col("stage").cast(pl.Int64))
    )
    if training:
        chains = chains.filter(pl.col("correct") & pl.col("dup_of").is_null())
    return (
        chains.join(stages, on="solution_index")
        .sort("problem_id", "solution_index")
        .select(
            *("problem_id", "question"),
            pl.col("messages").list.last().struct.field("content").alias("solution"),
            *("solution_index", "alpha", "beta", "stage", "n_tokens"),
            pl.col("gold").alias("target"),
        )
    )


def _chosen(tables: Tables) -> pl.LazyFrame:
    """The chosen traces: `rows`, or `traces` where rows are folded."""
    return tables["traces"] if "traces" in tables else _table(tables, "rows")


def _table(tables: Tables, name: str) -> pl.LazyFrame:
    if name not in tables:
        raise RecipeError(
            f"this format needs the table {name!r}; the version has: {', '.join(sorted(tables)) or 'none'}"
        )
    return tables[name]


def _tools_of(table: pl.LazyFrame) -> list[str]:
    """The column of tools, where a table has one."""
    return [name for name in table.collect_schema().names() if name == "tools"]


def _checkable(tables: Tables) -> pl.LazyFrame:
    """Problems with a gold of which a trace was chosen, in the order of their ids."""
    return (
        _table(tables, "problems")
        .filter((pl.col("outcome") == "chosen") & pl.col("gold").is_not_null())
        .sort("problem_id")
    )


def _candidates(tables: Tables, role: str) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Every answer that may stand in a pair, narrow, and the text of each by key."""
    if "samples" in tables:
        answers = tables["samples"].filter(pl.col("role") == role)
        answers = answers.select("key", "problem_id", "text", "n_tokens", "finish_reason", "verdict")
    else:  # nothing was sampled here: the given traces are the rows, and what stands in `rejected`
        down = _table(tables, "rejected").filter(pl.col("id").is_not_null())
        down = down.select("id", "problem_id", pl.col("row").str.json_decode(_TRACE)).unnest("row")
        columns = ["id", "problem_id", "n_tokens", "finish_reason", "verdict", "messages"]
        both = pl.concat([_chosen(tables).select(columns), down.select(columns)]).rename({"id": "key"})
        text = pl.col("messages").list.last().struct.field("content")
        answers = both.with_columns(text.alias("text"))
    narrow = answers.select(
        "key",
        "problem_id",
        "n_tokens",
        pl.col("text").hash().alias("same_text"),
        pl.col("verdict").str.extract(r"^(\w+)").alias("status"),
        (pl.col("finish_reason") == "length").fill_null(value=True).alias("truncated"),
    ).filter(pl.col("n_tokens").is_not_null() & pl.col("status").is_in(["equal", "different"]))
    alike = narrow.group_by("problem_id", "same_text", "status", "truncated", "n_tokens").agg(pl.col("key").min())
    return alike, answers.select("key", "text")


def _numbered(answers: pl.LazyFrame, order: pl.Expr, side: str) -> pl.LazyFrame:
    """The answers of each problem, numbered from 1 in the order given, ties by key."""
    number = pl.int_range(1, pl.len() + 1).over("problem_id", order_by=[order, "key"])
    return answers.select(
        "problem_id",
        number.alias("number"),
        pl.col("key").alias(f"{side}_key"),
        pl.col("n_tokens").alias(f"{side}_tokens"),
    )


def _answer(column: str) -> pl.Expr:
    """A text as a conversation of one turn."""
    return pl.concat_list(pl.struct(pl.lit("assistant").alias("role"), pl.col(column).alias("content")))
