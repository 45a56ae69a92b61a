"""What rows hold, what it means, and what the card says of all of them."""

import polars as pl
import pyarrow as pa

from tracemill.schemas.rows import Mean, Share, Summary

INJECTION = pa.struct([("char_pos", pa.int32()), ("phrase", pa.string()), ("removed_step", pa.string())])
COLUMNS = {
    "concise": str,
    "original": str,
    "n_tok_concise": int,
    "n_tok_orig": int,
    "injections": pa.list_(INJECTION),
    "stop_step": int,
    "stop_conf": float,
    "stop_how": str,
    "sft_ok": bool,
    "pair_ok": bool,
    "n_accepted": int,
}
MEANING = {
    "concise": "The shortest accepted reply: the row's own text, and the chosen side of a pair.",
    "original": "The reply that the model gave by itself: right, and longer.",
    "n_tok_concise": "Tokens of `concise`, phrases included.",
    "n_tok_orig": "Tokens of `original`.",
    "injections": "Where in `concise` a phrase stands, in characters, the phrase, and the step that the model wrote in its place.",
    "stop_step": "The step, from 1, behind which the thought was closed because the model was sure; null where it closed it by itself.",
    "stop_conf": "How sure it was: what it gave to the words for yes, of what it gave to those for yes and no.",
    "stop_how": "`top_k` where all of these words were among the likeliest tokens; `scored` where log-probs of whole words were asked for.",
    "sft_ok": "Whether it is right and short enough to be trained on.",
    "pair_ok": "Whether it is a pair: the original is longer by the ratio asked for, and something was left out.",
    "n_accepted": "How many of the tries were accepted.",
}


def summary(traces: pl.LazyFrame) -> Summary:
    """How much shorter the accepted replies are, with phrases and without, closed by confidence or by themselves."""
    known = traces.filter(pl.col("sft_ok"))
    share = 1.0 - pl.col("n_tok_concise") / pl.col("n_tok_orig")
    phrases, stopped = pl.col("injections").list.len(), pl.col("stop_step").is_not_null()
    found = known.group_by(stopped.alias("stopped")).agg(
        replies=pl.len(),
        was=pl.col("n_tok_orig").sum(),
        now=pl.col("n_tok_concise").sum(),
        saved=share.sum(),
        squares=(share * share).sum(),
        phrases=phrases.sum(),
        pairs=pl.col("pair_ok").sum(),
    )
    rows = [
        {
            "closed": "by confidence" if row["stopped"] else "by itself",
            "replies": row["replies"],
            "tokens before": row["was"],
            "after": row["now"],
            "shorter by": Mean(row["saved"], row["squares"], row["replies"], most=1.0),
            "phrases": row["phrases"],
            "pairs": Share(row["pairs"], row["replies"]),
        }
        for row in found.sort("stopped", descending=True).collect().to_dicts()
    ]
    return Summary(title="Replies that were kept from reflecting", rows=rows)
