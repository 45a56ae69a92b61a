"""R2R's routing labels (arXiv:2505.21600), one row a token, in the columns of the released code."""

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.views.tables import Tables, chosen, table

LISTS = {"real_token": "real_token", "token_type": "token_type", "slm_token": "slm_token", "divergent": "divergent"}


def r2r(tables: Tables, *, unknown: bool = False) -> pl.LazyFrame:
    """`data_id`, `pos`, the real token and the small model's, `mismatch`, `divergent` (1, 0), and for a mismatch the texts that were compared.

    `pos` counts the response from 0; a router that reads the logits which predicted a token joins at `pos - 1`. Tokens that the judge gave no
    answer about are left out, or stand there as -1 with `unknown`. `slm_top_logits` holds log-probs, which are logits but for one number a place.
    """
    rows = chosen(tables)
    if "slm_token" not in rows.collect_schema().names():
        raise RecipeError("this format needs rows of the method divergent_tokens; these have no slm_token")
    places = rows.select(
        data_id="id",
        pos=pl.int_ranges(0, pl.col("real_token").list.len()),
        **{name: pl.col(column) for name, column in LISTS.items()},
        slm_top_ids="slm_top_ids",
        slm_top_logits="slm_top_logprobs",
    ).explode("pos", *LISTS, "slm_top_ids", "slm_top_logits")
    texts = table(tables, "divergences").select("pos", "common_context", "slm_cont", "ref_cont", data_id="row_id")
    joined = places.join(texts, on=("data_id", "pos"), how="left").with_columns(
        mismatch=pl.col("ref_cont").is_not_null()
    )
    return (joined if unknown else joined.filter(pl.col("divergent") >= 0)).sort("data_id", "pos")
