"""The structure of a trace as data: spans, ancestors, chunks and positions, and the masks that a trainer makes of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.petri_rows import dags
from tracemill.schemas.request import Message
from tracemill.synth.petri_trace import attention, layout
from tracemill.synth.petri_trace.net import Net, Step
from tracemill.synth.render import Renderer

LYNCH = {1: [], 2: [1], 3: [1], 4: [1], 5: [2, 3, 4]}
"""Family history and colon mass point to Lynch syndrome, that to three genes, and those to mismatch repair."""
TWO_ROOTS = {1: [], 2: [1], 3: [], 4: [3]}
"""Two chains, written one after the other: here the two schemes differ."""


def laid_out(deps: Mapping[int, Sequence[int]], lengths: Sequence[int], prefix: int, post: int = 0) -> dict[str, Any]:
    """The layout of a text with one token a character."""
    steps = [Step(n, (f"a{n}",), f"b{n}", tuple(before)) for n, before in deps.items()]
    blocks = ["x" * length for length in lengths]
    starts = range(prefix + sum(lengths) + post)
    return layout.of(steps, "p" * prefix, blocks, starts=list(starts))


def lynch() -> dict[str, Any]:
    return laid_out(LYNCH, [4, 3, 5, 2, 4], prefix=10, post=3)


def pairs_seen(row: Mapping[str, Any], scheme: str) -> list[tuple[int, int]]:
    """Which token sees which, from the definition: pair by pair, segment by segment."""
    segment = ["prefix"] * row["prefix_end"]
    for span in row["spans"]:
        segment += [span["n"]] * (span["tok_end"] - span["tok_start"])
    segment += ["post"] * (row["seq_len"] - len(segment))
    ancestors, chunk = layout.by_step(row["ancestors"]), layout.by_step(row["chunk"])

    def sees(i: int, j: int) -> bool:
        mine, other = segment[i], segment[j]
        if other == "prefix" or mine in (other, "post"):
            return True
        if mine == "prefix" or other == "post":
            return False
        return other in ancestors[mine] if scheme == "exact" else chunk[other] < chunk[mine]

    return [(i, j) for i in range(len(segment)) for j in range(i + 1) if sees(i, j)]


# ---- known truths


def test_the_lynch_example_has_the_spans_and_positions_of_the_paper():
    row = lynch()
    assert [(s["tok_start"], s["tok_end"]) for s in row["spans"]] == [(10, 14), (14, 17), (17, 22), (22, 24), (24, 28)]
    assert (row["prefix_end"], row["post_start"], row["seq_len"]) == (10, 28, 31)
    for column in ("pos_start", "pos_start_chunk"):
        assert list(layout.by_step(row[column]).values()) == [10, 14, 14, 14, 19]
    assert row["post_pos"] == row["post_pos_chunk"] == 23
    assert row["frontiers"] == [[1], [2, 3, 4], [5]]
    assert layout.by_step(row["ancestors"]) == {1: [], 2: [1], 3: [1], 4: [1], 5: [1, 2, 3, 4]}


@pytest.mark.parametrize("scheme", ["exact", "chunk"])
def test_in_the_lynch_example_465_pairs_of_tokens_see_each_other(scheme: str):
    assert len(pairs_seen(lynch(), scheme)) == 496 - (15 + 6 + 10) == 465


def test_the_two_schemes_part_where_two_chains_are_written_one_after_the_other():
    row = laid_out(TWO_ROOTS, [4, 4, 6, 2], prefix=0)
    assert list(layout.by_step(row["pos_start"]).values()) == [0, 4, 0, 6]
    assert list(layout.by_step(row["pos_start_chunk"]).values()) == [0, 4, 4, 10]
    assert (row["post_pos"], row["post_pos_chunk"]) == (8, 12)
    assert layout.by_step(row["chunk"]) == {1: 1, 2: 2, 3: 2, 4: 3}
    assert layout.by_step(row["ancestors"])[4] == [3]
    seen = {j for i, j in pairs_seen(row, "exact") if i == 14}
    assert seen == set(range(8, 15))
    assert {j for i, j in pairs_seen(row, "chunk") if i == 14} == set(range(15))


# ---- laws


LENGTHS = st.lists(st.integers(1, 4), min_size=7, max_size=7)


@given(dags(), LENGTHS, st.integers(0, 3), st.integers(0, 3))
def test_a_step_begins_behind_all_that_it_sees_and_no_position_is_used_twice_on_a_way(deps, lengths, prefix, post):
    row = laid_out(deps, lengths[: len(deps)], prefix, post)
    size = {span["n"]: span["tok_end"] - span["tok_start"] for span in row["spans"]}
    for starts, end, sees in (
        (row["pos_start"], row["post_pos"], layout.by_step(row["ancestors"])),
        (row["pos_start_chunk"], row["post_pos_chunk"], _earlier_chunks(row)),
    ):
        begin = layout.by_step(starts)
        for n, before in sees.items():
            assert begin[n] >= max((begin[other] + size[other] for other in before), default=prefix)
        assert end == max(begin[n] + size[n] for n in begin)


def _earlier_chunks(row: Mapping[str, Any]) -> dict[int, list[int]]:
    chunk = layout.by_step(row["chunk"])
    return {n: [other for other in chunk if chunk[other] < chunk[n]] for n in chunk}


@given(dags())
def test_frontiers_are_those_of_the_net_and_chunks_never_hide_an_ancestor(deps):
    row = laid_out(deps, [1] * len(deps), prefix=1)
    steps = [
        Step(n, tuple(f"e{dep}" for dep in before) or ("root",), f"e{n}", tuple(before)) for n, before in deps.items()
    ]
    assert row["frontiers"] == Net.of_steps(steps).frontiers()
    earlier = _earlier_chunks(row)
    assert all(set(before) <= set(earlier[n]) for n, before in layout.by_step(row["ancestors"]).items())


# ---- tokens


def test_a_token_that_straddles_two_parts_belongs_to_the_one_in_which_it_begins():
    steps = [Step(1, ("a",), "b", ()), Step(2, ("b",), "c", (1,))]
    # |pr|ef|s1|\n+s|2|po|: the fourth token holds the separator of step 1 and the first letter of step 2
    row = layout.of(steps, "pref", ["s1\n", "s2"], starts=[-3, 0, 2, 4, 6, 8, 9])
    assert [(s["tok_start"], s["tok_end"]) for s in row["spans"]] == [(3, 5), (5, 6)]
    assert (row["prompt_end"], row["prefix_end"], row["post_start"], row["seq_len"]) == (1, 3, 6, 7)


def test_without_a_tokenizer_the_columns_that_count_tokens_are_null_and_the_others_are_not():
    steps = [Step(n, ("a",), "b", tuple(before)) for n, before in LYNCH.items()]
    row = layout.of(steps, "p", ["s\n"] * 5, starts=None)
    assert row.keys() == layout.COLUMNS.keys()
    assert {name for name, value in row.items() if value is None} == {
        *("prompt_end", "prefix_end", "post_start", "seq_len"),
        *("pos_start", "pos_start_chunk", "post_pos", "post_pos_chunk"),
    }
    assert row["spans"][1] == {"n": 2, "deps": [1], "char_start": 3, "char_end": 5, "tok_start": None, "tok_end": None}
    assert row["frontiers"] == [[1], [2, 3, 4], [5]]


def test_a_layout_refuses_what_it_cannot_place():
    step = Step(1, ("a",), "b", ())
    with pytest.raises(ValueError, match="1 steps with 2 blocks"):
        layout.of([step], "", ["x", "y"], starts=None)
    with pytest.raises(ValueError, match="two steps have the number 1"):
        layout.of([step, step], "", ["x", "y"], starts=None)
    with pytest.raises(ValueError, match=r"step 1 depends on \[2\], which do not stand before it"):
        layout.of([Step(1, ("a",), "b", (2,)), Step(2, ("b",), "a", ())], "", ["x", "y"], starts=None)


def test_a_chain_of_two_thousand_steps_is_laid_out_in_both_schemes():
    row = laid_out({n: [n - 1] if n > 1 else [] for n in range(1, 2001)}, [2] * 2000, prefix=3)
    assert row["post_pos"] == row["post_pos_chunk"] == 4003
    assert layout.by_step(row["ancestors"])[2000] == list(range(1, 2000))


# ---- the primitive behind it


MODEL = Path(__file__).resolve().parent.parent / "data" / "models" / "tiny-reasoner"


def test_tokens_of_a_conversation_are_placed_in_the_text_and_those_of_its_prompt_before_it():
    renderer = Renderer.load(MODEL, "tiny-reasoner")
    turn = (Message(role="user", content="What is 2 + 3?"),)
    shown, text = renderer.text(turn), "2 + 3 = 5 é\nso 5"
    starts = renderer.token_starts(text, shown)
    assert len(starts) == len(renderer.encode(shown + text))
    assert sum(start < 0 for start in starts) == len(renderer.tokens(turn))
    assert [start + len(shown) for start in starts if start < 0] == renderer.token_starts(shown)
    assert [start for start in starts if start >= 0] == renderer.token_starts(text)
    assert sorted(starts) == starts


# ---- masks


@pytest.mark.parametrize("scheme", ["exact", "chunk"])
@given(deps=dags(), lengths=LENGTHS, prefix=st.integers(0, 3), post=st.integers(0, 3), longer=st.integers(0, 2))
@settings(deadline=None, max_examples=25)
def test_both_masks_are_the_definition_pair_by_pair(scheme, deps, lengths, prefix, post, longer):
    import torch
    from torch.nn.attention.flex_attention import create_mask

    row = laid_out(deps, lengths[: len(deps)], prefix, post)
    size = row["seq_len"] + longer
    wanted = torch.full((1, size, size), float("-inf"))
    for i, j in pairs_seen({**row, "seq_len": size}, scheme):
        wanted[0, i, j] = 0
    assert torch.equal(attention.dense_mask(row, scheme=scheme, length=size), wanted)
    flex = create_mask(attention.mask_mod(row, scheme=scheme, length=size), 1, 1, size, size, device="cpu")
    assert torch.equal(flex[0], wanted == 0)


@given(deps=dags(), lengths=LENGTHS, prefix=st.integers(0, 3), post=st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_positions_go_up_by_one_in_every_part_from_where_the_scheme_lets_it_begin(deps, lengths, prefix, post):
    row = laid_out(deps, lengths[: len(deps)], prefix, post)
    for scheme, column, behind in (("exact", "pos_start", "post_pos"), ("chunk", "pos_start_chunk", "post_pos_chunk")):
        [found] = attention.position_ids(row, scheme=scheme, length=row["seq_len"] + 1).tolist()
        assert found[:prefix] == list(range(prefix))
        for span in row["spans"]:
            start, size = layout.by_step(row[column])[span["n"]], span["tok_end"] - span["tok_start"]
            assert found[span["tok_start"] : span["tok_end"]] == list(range(start, start + size))
        assert found[row["post_start"] :] == list(range(row[behind], row[behind] + post + 1))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_a_batch_of_rows_shares_one_flex_attention_and_gives_what_dense_masks_give():
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    from torch.nn.functional import scaled_dot_product_attention

    rows = [lynch(), laid_out(TWO_ROOTS, [4, 4, 6, 2], prefix=3, post=2)]
    size = max(row["seq_len"] for row in rows)
    query, key, value = torch.randn(3, 2, 1, size, 16, generator=torch.Generator().manual_seed(0)).unbind()
    for scheme in ("exact", "chunk"):
        block = create_block_mask(attention.mask_mod(rows, scheme=scheme), 2, None, size, size, device="cpu")
        flex = flex_attention(query, key, value, block_mask=block)
        dense = torch.stack([attention.dense_mask(row, scheme=scheme, length=size) for row in rows])
        torch.testing.assert_close(flex, scaled_dot_product_attention(query, key, value, attn_mask=dense))


def test_a_real_model_reads_a_step_under_the_mask_as_if_nothing_but_its_ancestors_stood_before_it():
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    row = laid_out(TWO_ROOTS, [4, 4, 6, 2], prefix=5, post=2)
    tokens = torch.randint(3, model.config.vocab_size, (1, row["seq_len"]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        masked = model(
            tokens, attention_mask=attention.dense_mask(row)[None], position_ids=attention.position_ids(row)
        ).logits
        alone = model(torch.cat([tokens[:, :5], tokens[:, 13:21]], dim=1)).logits  # the prefix, steps 3 and 4
        everything = model(tokens).logits
    torch.testing.assert_close(masked[:, 13:21], alone[:, 5:])
    assert not torch.allclose(everything[:, 13:21], alone[:, 5:], atol=1e-2)


def test_a_row_that_cannot_be_masked_says_why_and_what_to_do():
    row = {**lynch(), "id": "p1/plan"}
    with pytest.raises(
        ValueError, match="p1/plan has 31 tokens, length = 30; leave the row out, a trace cannot be cut"
    ):
        attention.dense_mask(row, length=30)
    with pytest.raises(ValueError, match="p1/plan has no columns 'spans'"):
        attention.position_ids({"id": "p1/plan"})
    uncounted = layout.of([Step(1, ("a",), "b", ())], "p", ["ss"], starts=None)
    with pytest.raises(ValueError, match=r"made without a tokenizer.*retokenized"):
        attention.mask_mod(uncounted)
    counted = attention.retokenized(uncounted, [-1, 0, 1, 2, 3])
    assert attention.position_ids(counted).tolist() == [[0, 1, 2, 3, 4]]
    assert counted["spans"][0]["tok_start"] == 2
