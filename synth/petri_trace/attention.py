"""From a row to what a trainer feeds: positions and an attention mask, dense or for FlexAttention.

    row = load_dataset("data/store/petri-arith/1", split="train")[0]
    position_ids(row)                                      # (1, S)
    dense_mask(row)                                        # (1, S, S): 0 where a token may look, -inf elsewhere
    create_block_mask(mask_mod(row), 1, None, S, S)        # of torch.nn.attention.flex_attention

S is `seq_len`, the tokens of the whole conversation as the model is shown it; with `length` the sequence goes on behind them, as
the end of a turn or padding does. Token i looks at j <= i where j is in the prefix, in the same step, where i stands behind all
steps, or where the scheme lets the step of i see that of j (layout.py). A sequence is never cut: a row that is too long has to
be left out, because what remained would look at steps that are not there.

torch is imported when a function is called.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tracemill.synth.petri_trace.layout import Scheme, by_step, over

if TYPE_CHECKING:
    from torch import Tensor

Row = Mapping[str, Any]


def position_ids(row: Row, *, scheme: Scheme = "exact", length: int | None = None) -> "Tensor":
    """Positions, int64 of shape (1, S): those of a step begin where the scheme says, what stands behind all steps goes on."""
    import torch

    size = _length(row, length)
    starts = by_step(row["pos_start" if scheme == "exact" else "pos_start_chunk"])
    behind = row["post_pos" if scheme == "exact" else "post_pos_chunk"]
    parts = [(0, row["prefix_end"])]
    parts += [(starts[span["n"]], span["tok_end"] - span["tok_start"]) for span in row["spans"]]
    parts += [(behind, size - row["post_start"])]
    return torch.cat([torch.arange(start, start + count) for start, count in parts]).unsqueeze(0)


def dense_mask(row: Row, *, scheme: Scheme = "exact", length: int | None = None, dtype: Any = None) -> "Tensor":
    """An additive mask of shape (1, S, S), float32 unless `dtype` says otherwise: 0 where row i may look at column j, else -inf.

    Stacked, masks of several rows of one `length` have the shape (batch, 1, S, S) that transformers takes as it is.
    """
    import torch

    size = _length(row, length)
    segment, sees = _segments(row, scheme, size)
    seen = sees[segment][:, segment] & torch.ones(size, size, dtype=torch.bool).tril()
    mask = torch.full((1, size, size), float("-inf"), dtype=dtype or torch.float32)
    return mask.masked_fill_(seen, 0.0)


def mask_mod(
    rows: Row | Sequence[Row], *, scheme: Scheme = "exact", length: int | None = None, device: Any = "cpu"
) -> Callable[["Tensor", "Tensor", "Tensor", "Tensor"], "Tensor"]:
    """The same rule as `mask_mod(b, h, q, kv)` of FlexAttention, for one row or a batch of rows.

    It closes over the segment of each token, (batch, S), and over which segment sees which, (batch, steps + 2, steps + 2), both on
    `device`; S is the longest of the rows unless `length` says otherwise. What is behind a shorter row sees and is not seen.
    """
    import torch

    batch = [rows] if isinstance(rows, Mapping) else list(rows)
    size = max(_length(row, length) for row in batch)
    widest = max(len(row["spans"]) for row in batch) + 2
    segment = torch.zeros(len(batch), size, dtype=torch.long)
    sees = torch.zeros(len(batch), widest, widest, dtype=torch.bool)
    for number, row in enumerate(batch):
        segment[number], own = _segments(row, scheme, size)
        sees[number, : len(own), : len(own)] = own
    segment, sees = segment.to(device), sees.to(device)

    def allowed(b: "Tensor", _h: "Tensor", q: "Tensor", kv: "Tensor") -> "Tensor":
        return (kv <= q) & sees[b, segment[b, q], segment[b, kv]]

    return allowed


def retokenized(row: Row, starts: Sequence[int]) -> dict[str, Any]:
    """The row with its structure in the tokens of another tokenizer, or of the same with tokens added.

    `starts` says where each token of the sequence begins, in characters of the assistant's text and negative before it: the
    first numbers of a fast tokenizer's `offset_mapping`, less the place at which that text begins.
    """
    return {**row, **over(row["spans"], starts)}


def _length(row: Row, length: int | None) -> int:
    name = row.get("id", "the row")
    if "seq_len" not in row or "spans" not in row:
        raise ValueError(f"{name} has no columns 'spans' and 'seq_len'; give a row of a dataset that petri_trace made")
    own = row["seq_len"]
    if own is None:
        raise ValueError(
            f"{name} was made without a tokenizer, its tokens are not counted; count them: retokenized(row, starts)"
        )
    if length is not None and length < own:
        raise ValueError(f"{name} has {own} tokens, length = {length}; leave the row out, a trace cannot be cut")
    return int(own if length is None else length)


def _segments(row: Row, scheme: Scheme, size: int) -> tuple["Tensor", "Tensor"]:
    """By token its segment (0 the prefix, then the steps in the order of the text, then what follows); which sees which."""
    import torch

    spans = row["spans"]
    lengths = [row["prefix_end"], *(span["tok_end"] - span["tok_start"] for span in spans), size - row["post_start"]]
    segment = torch.repeat_interleave(torch.tensor(lengths))
    place = {span["n"]: number for number, span in enumerate(spans, start=1)}
    sees = torch.eye(len(lengths), dtype=torch.bool)
    sees[:, 0] = True
    sees[-1] = True
    if scheme == "exact":
        for n, before in by_step(row["ancestors"]).items():
            sees[place[n], [place[other] for other in before]] = True
    else:
        chunks = by_step(row["chunk"])
        chunk = torch.tensor([chunks[span["n"]] for span in spans])
        sees[1:-1, 1:-1] |= chunk[:, None] > chunk[None, :]
    return segment, sees
