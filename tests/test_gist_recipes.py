"""Recipes about what is held in memory: gist_segments and memory_actions. The numbers are worked out by hand."""

import json
from array import array
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tracemill.pipelines.build import Built, build
from tracemill.pipelines.export import export
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe
from tracemill.schemas.request import Completion, Request
from tracemill.schemas.rows import draw
from tracemill.schemas.views.gist import labels, visible
from tracemill.synth.gist_segments.layout import layout, marker_names, peaks
from tracemill.synth.gist_segments.segments import joined
from tracemill.synth.memory_actions.behaviour import alike, counts, fault, repeats
from tracemill.synth.memory_actions.memory import Move, read_move

Make = Callable[..., Recipe]
MODEL = Path(__file__).parents[1] / "data/models/tiny-reasoner"
WITH_TOKENS = {"name": "scripted-solver", "max_tokens": 64, "tokenizer": str(MODEL)}


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


def wrote(text: str, *, finish: Any = "stop") -> Completion:
    """What a model with this tokenizer would have drawn, its stop token included."""
    ids = array("i", [*tokenizer().encode(text, add_special_tokens=False).ids, 2])
    return Completion(text=text, finish_reason=finish, n_tokens=len(ids), token_ids=ids)


def built(recipe: Make, store: Store, reply: Callable[[Request], Any], **changes: Any) -> Built:
    return build(recipe(**{"filters": [], "select": [], **changes}), store, reply=reply)


def rows(made: Built, table: str = "rows") -> pl.DataFrame:
    return made.dataset.scan(table).collect().sort("id")


def rejected(made: Built) -> pl.DataFrame:
    return made.dataset.scan("rejected").collect()


def reasons(made: Built) -> dict[str, int]:
    return dict(rejected(made)["reason"].value_counts().rows())


# ---- the mask


def test_peaks_by_hand():
    assert peaks(50, [20, 30, 10], 9)[:3] == [79, 98, 87]
    row = layout(
        range(50), [range(20), range(30), range(10)], [], {name: 900 + i for i, name in enumerate(marker_names(9))}
    )
    assert (row["peak_tokens"], row["vanilla_peak"]) == (98, 110)


ROWS = st.tuples(st.integers(0, 5), st.lists(st.integers(1, 6), max_size=5), st.integers(1, 3), st.integers(0, 5))


def laid(prompt: int, thoughts: list[int], n_gist: int, answer: int) -> tuple[dict[str, Any], list[tuple[str, int]]]:
    """A row, and what each of its tokens is: prompt, thought i, split i, gist i, continue i or answer."""
    markers = {name: 900 + i for i, name in enumerate(marker_names(n_gist))}
    row = layout([1] * prompt, [[2] * length for length in thoughts], [3] * answer, markers)
    kinds = [("prompt", -1)] * prompt
    for i, length in enumerate(thoughts):
        kinds += [("thought", i)] * length + [("split", i)] + [("gist", i)] * n_gist + [("continue", i)]
    return row, kinds + [("answer", len(thoughts))] * answer


@given(ROWS)
def test_no_later_token_sees_a_thought_and_its_gist_tokens_see_what_they_are_made_of(
    drawn: tuple[int, list[int], int, int],
):
    row, kinds = laid(*drawn)
    mask = visible(len(kinds), row["spans"])
    assert mask.shape == (len(kinds), len(kinds))
    for t, (kind, i) in enumerate(kinds):
        for s, (seen, j) in enumerate(kinds):
            raw = seen in ("thought", "split")
            inside = kind in ("thought", "split", "gist") and i == j
            assert mask[t, s] == (s <= t and (not raw or inside)), (kind, i, seen, j)


@given(ROWS)
def test_most_of_what_a_token_sees_is_the_peak_but_for_split_and_continue_tokens(
    drawn: tuple[int, list[int], int, int],
):
    row, kinds = laid(*drawn)
    mask = visible(len(kinds), row["spans"])
    counted = [kind not in ("split", "continue") for kind, _ in kinds]
    held = [int((line & counted).sum()) for line, of in zip(mask, counted, strict=True) if of]
    assert max(held, default=0) == row["peak_tokens"] or drawn[0] == len(kinds)
    assert row["vanilla_peak"] == sum(kind in ("prompt", "thought", "answer") for kind, _ in kinds)


@given(ROWS)
def test_prompt_gist_and_continue_tokens_are_not_learnt(drawn: tuple[int, list[int], int, int]):
    row, kinds = laid(*drawn)
    learnt = labels(row["input_ids"], row["prompt_len"], row["spans"])
    for (kind, _), token, label in zip(kinds, row["input_ids"], learnt, strict=True):
        assert label == (-100 if kind in ("prompt", "gist", "continue") else token)


@given(st.lists(st.integers(1, 6), max_size=8))
def test_short_thoughts_join_their_neighbours_and_no_token_is_lost(lengths: list[int]):
    parts = [tuple([i] * length) for i, length in enumerate(lengths)]
    found = joined(parts)
    assert [token for part in found for token in part] == [token for part in parts for token in part]
    assert all(len(part) >= 3 for part in found) or sum(lengths) < 3
    if all(length >= 3 for length in lengths):
        assert found == parts


# ---- gist_segments as a build

THOUGHT = "We look for C.\n\nA is 3 times 8: 3 * 8 = 24.\n\nSo the answer is {answer}."


def thinks(request: Request) -> Completion:
    number = int(request.problem_id[1:])
    answer = number + number % 3
    return wrote(THOUGHT.format(answer=answer) + rf"{chr(10)}</think>{chr(10) * 2}The answer is \boxed{{{answer}}}.")


def test_a_trace_keeps_the_ids_that_were_drawn_and_markers_lie_beyond_the_vocabulary(
    recipe: Make, store: Store, tmp_path: Path
):
    made = built(recipe, store, thinks, model=WITH_TOKENS, synth={"use": "gist_segments", "n_gist": 2})
    assert rows(made).height == 20
    for row in rows(made).to_dicts():
        assert [text.strip() for text in row["thoughts"]] == THOUGHT.format(answer=row["answer"]).split("\n\n")
        assert (row["marker_names"], row["marker_ids"]) == (
            ["<|splitter|>", "<|o_0|>", "<|o_1|>", "<|continue|>"],
            [576, 577, 578, 579],
        )
        rest = [token for token in row["input_ids"][row["prompt_len"] :] if token < 576]
        text = row["messages"][-1]["content"].removeprefix("<think>\n")  # which the prompt ends in
        assert rest == [*tokenizer().encode(text, add_special_tokens=False).ids, 2], (
            "as they were drawn, the stop token last"
        )
        for span, thought in zip(row["spans"], row["thoughts"], strict=True):
            assert tokenizer().decode(row["input_ids"][span["start"] : span["end"]]) == thought
            assert row["input_ids"][span["end"] : span["gist_end"] + 1] == [576, 577, 578, 579]
        assert row["system"] is None
        assert row["peak_tokens"] < row["vanilla_peak"]
    views = {
        mask: pl.read_parquet(f"{export(made.dataset.path, 'gist-segments', tmp_path / mask, mask=mask)}/*.parquet")
        for mask in ("spans", "dense")
    }
    assert views["spans"].drop("spans").equals(views["dense"].drop("attention_mask"))
    for spans, dense in zip(views["spans"].to_dicts(), views["dense"].to_dicts(), strict=True):
        assert dense["attention_mask"] == visible(len(spans["input_ids"]), spans["spans"]).astype(int).tolist()
        assert len(spans["labels"]) == len(spans["input_ids"])


def test_a_token_that_the_student_has_already_keeps_its_id(recipe: Make, store: Store, tmp_path: Path):
    known = json.loads((MODEL / "tokenizer.json").read_text())
    known["added_tokens"].append({**known["added_tokens"][-1], "id": 576, "content": "<|o_0|>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(known))
    (tmp_path / "tokenizer_config.json").write_text((MODEL / "tokenizer_config.json").read_text())
    model = {**WITH_TOKENS, "tokenizer": str(tmp_path)}
    made = built(recipe, store, thinks, model=model, synth={"use": "gist_segments", "n_gist": 2})
    assert rows(made)["marker_ids"][0].to_list() == [577, 576, 578, 579]
    for folder, ids in ((tmp_path, [577, 576, 578, 579]), (MODEL, [576, 577, 578, 579])):
        student = Tokenizer.from_file(str(folder / "tokenizer.json"))
        student.add_special_tokens(marker_names(2))
        assert [student.token_to_id(name) for name in marker_names(2)] == ids, "what adding them gives"


def test_marker_ids_by_name_and_those_that_mean_something_else(recipe: Make, store: Store):
    chosen = {"<|splitter|>": 1000, "<|o_0|>": 1001, "<|continue|>": 999}
    made = built(
        recipe, store, thinks, model=WITH_TOKENS, synth={"use": "gist_segments", "n_gist": 1, "markers": chosen}
    )
    assert rows(made)["marker_ids"][0].to_list() == [1000, 1001, 999]
    with pytest.raises(
        RecipeError, match=r"<\|o_0\|> = 575 is '</think>' to the tokenizer; ids of added tokens begin at 576"
    ):
        built(
            recipe,
            store,
            thinks,
            model=WITH_TOKENS,
            synth={"use": "gist_segments", "n_gist": 1, "markers": {**chosen, "<|o_0|>": 575}},
        )
    with pytest.raises(RecipeError, match=r"there is no tokenizer at hand"):
        built(recipe, store, thinks, synth={"use": "gist_segments"})


def test_tokens_in_sixes_and_sentences_in_groups(recipe: Make, store: Store):
    made = built(recipe, store, thinks, model=WITH_TOKENS, synth={"use": "gist_segments", "granularity": "token"})
    for row in rows(made).to_dicts():
        sizes = [span["end"] - span["start"] for span in row["spans"]]
        assert set(sizes[:-1]) == {6}
        assert 1 <= sizes[-1] <= 6
        assert row["n_gist"] == 2

    def flat(request: Request) -> Completion:
        return wrote("3 * 8 = 24. " * 40 + thinks(request).text.replace("\n\nA", " A").replace("\n\nSo", " So"))

    made = built(recipe, store, flat, model={**WITH_TOKENS, "seed": 1}, synth={"use": "gist_segments"})
    for row in rows(made).to_dicts():
        sizes = [span["end"] - span["start"] for span in row["spans"]]
        assert len(sizes) > 3
        assert all(60 <= size < 72 for size in sizes[:-1])
        assert all(text.rstrip().endswith(".") for text in row["thoughts"])


def test_given_solutions_are_laid_out_without_a_draw(recipe: Make, store: Store, tmp_path: Path):
    table = [{"id": f"p{i}", "question": "q", "answer": "7", "steps": THOUGHT.format(answer=7) + "\n</think>\n\n" + r"\boxed{7}"} for i in range(3)]  # fmt: skip
    (tmp_path / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    source = {"path": str(tmp_path / "given.jsonl"), "solution": "steps"}
    made = built(
        recipe, store, thinks, model=WITH_TOKENS, source=source, synth={"use": "gist_segments", "take": "given"}
    )
    assert made.tally.meter.samples_new == 0
    assert rows(made)["thoughts"].list.len().to_list() == [3, 3, 3]
    assert set(rows(made)["finish_reason"]) == {"stop"}
    made = built(recipe, store, thinks, model=WITH_TOKENS, synth={"use": "gist_segments", "take": "given"})
    assert reasons(made) == {"no_solution": 20}


def test_what_teaches_nothing_is_turned_down_with_its_reason(recipe: Make, store: Store):
    said = {
        "wrong": THOUGHT.format(answer=1) + r"</think> \boxed{1000}",
        "undecided": "We look.\n\nOn.\n\nAnd on.</think> So.",
        "few_thoughts": "We look for C.\n\nSo it is this.</think> ",
        "many_thoughts": "So it is this.\n\n" * 61 + "</think> ",
        "too_long": "So it is this.\n\n" * 50 + "</think> ",
        "truncated": THOUGHT.format(answer=1) + "</think> ",
    }
    order = list(said)

    def reply(request: Request) -> Completion:
        number = int(request.problem_id[1:])
        why = order[request.index]
        text = said[why] + (rf"\boxed{{{number + number % 3}}}" if said[why].endswith(" ") else "")
        return wrote(text, finish="length" if why == "truncated" else "stop")

    synth = {"use": "gist_segments", "n": len(order), "n_gist": 1, "longest": 600, "most": 55}
    made = built(recipe, store, reply, model=WITH_TOKENS, synth=synth)
    expected = dict.fromkeys(order, 20) | {"too_long": 40}
    del expected["many_thoughts"]
    assert reasons(made) == expected, "a row of 61 thoughts is too long before they are too many"
    synth |= {"longest": 4096, "most": 55, "n": 5}
    assert reasons(built(recipe, store, reply, model=WITH_TOKENS, synth=synth))["many_thoughts"] == 20


def test_of_traces_with_one_thought_two_in_a_hundred_stay_by_hash(recipe: Make, store: Store):
    def reply(request: Request) -> Completion:
        number = int(request.problem_id[1:])
        return wrote(rf"So it is this.</think> \boxed{{{number + number % 3}}}")

    made = built(recipe, store, reply, model=WITH_TOKENS, synth={"use": "gist_segments", "n": 50})
    kept = {row["id"] for row in rows(made).to_dicts()}
    everyone = {f"p{i:02}/solve-{j:04d}" for i in range(20) for j in range(50)}
    assert kept == {name for name in everyone if draw(f"one_thought|{name}") % 50 == 0}
    assert 5 < len(kept) < 40
    assert rows(made)["one_thought"].all()
    assert reasons(made) == {"one_thought": 1000 - len(kept)}


def test_a_reply_without_a_closed_thought_has_no_thoughts(recipe: Make, store: Store):
    def reply(request: Request) -> Completion:
        number = int(request.problem_id[1:])
        return wrote(rf"So it is \boxed{{{number + number % 3}}}")

    assert reasons(built(recipe, store, reply, model=WITH_TOKENS, synth={"use": "gist_segments"})) == {"no_thought": 20}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 0}, "n = 0: between 1 and"),
        ({"n_gist": 0}, "at least 1 of each"),
        ({"least": 5, "most": 4}, "the smaller number first"),
        ({"markers": {"<|w|>": 5}}, r"name each of <\|splitter\|>, <\|o_0\|>"),
        (
            {"n_gist": 1, "markers": {"<|splitter|>": 900, "<|o_0|>": 900, "<|continue|>": 901}},
            "an id of its own for each",
        ),
    ],
)
def test_options_of_gist_segments_that_cannot_work_are_refused(
    recipe: Make, store: Store, options: Mapping[str, Any], said: str
):
    with pytest.raises(RecipeError, match=said):
        built(recipe, store, thinks, model=WITH_TOKENS, synth={"use": "gist_segments", **options})


# ---- what trajectories are worth


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ("C1 C2 E1 F1 C3", None),
        ("C1 C2 E1 F1 C3 A", None),
        ("C1 C2 E2 F1", "symmetry"),
        ("C1 E1 F1 E1 F1", "expands"),
        ("C1 F1 E1", "symmetry"),
        ("C1 E1 F1 F1", "symmetry"),
        ("C1 C2 E1 E1 F1", "repeated"),
        ("C1 C2 E1 F1 E2 F2", None),
        ("C1 C2 E1 F1 E1 F1 E2", "expands"),
        ("C1 C2 C3 E1 F1 E2 F2 E3 F3", None),
        ("C1 C2 C3 E1", "partial_suite"),
        ("C1 C2 C3 A", None),
    ],
)
def test_a_trajectory_is_judged_by_its_operations(ops: str, why: str | None):
    assert fault(ops.split()) == why


def test_counts_by_hand():
    assert counts(["C1", "C2", "E1", "F1", "C3", "A"]) == (3, 1, 1)


@given(st.lists(st.tuples(st.sampled_from("CEF"), st.integers(1, 3)), max_size=10))
def test_what_passes_holds_to_every_rule(drawn: list[tuple[str, int]]):
    ops = [f"{kind}{k}" for kind, k in drawn]
    commits, expands, folds = (sum(op[0] == kind for op in ops) for kind in "CEF")
    assert counts(ops) == (commits, expands, folds)
    if fault(ops) is None:
        assert expands <= commits
        assert expands + folds <= 2 * commits
        assert all(a != b for a, b in pairwise(ops))
        for at, op in enumerate(ops):
            if op[0] == "F":
                before = [other for other in ops[:at] if other[1:] == op[1:] and other[0] != "C"]
                assert before
                assert before[-1][0] == "E"


def test_notes_that_say_the_same_are_told_by_their_longest_common_subsequence():
    ten = "one two three four five six seven eight nine ten"
    assert alike(ten, ten) == 1
    assert alike(ten, ten.replace("ten", "other")) == Fraction(9, 10)
    assert alike("a b c d", "b d") == Fraction(1, 2)
    assert (alike("", ""), alike("a", "")) == (0, 0)
    assert repeats(["A = 24", ten, ten, ten]) == 3
    assert repeats([ten, ten.replace("ten", "other"), "A = 24"]) is None


@pytest.mark.parametrize(
    ("reply", "move"),
    [
        ("B is 8.\ncommit: B = 8", Move("commit", raw="B is 8.", note="B = 8")),
        ("<think>\nhm, expand: 1\n</think>\n\nexpand: 2", Move("expand", 2)),
        ("Fold: #3.", Move("fold", 3)),
        ("answer: \\boxed{8}", Move("answer", note="\\boxed{8}")),
        ("answer:\n8", Move("answer", note="8")),
        ("B is 8.", "no_action"),
        ("a\ncommit: b\nexpand: 1", "several_actions"),
        ("commit: B = 8", "empty_action"),
        ("B is 8.\ncommit:", "empty_action"),
        ("answer: ", "empty_action"),
        ("expand: the first", "no_number"),
        ("expand: " + "9" * 20, "no_number"),
        ("expand: " + "9" * 5000, "no_number"),
        ("", "no_action"),
    ],
)
def test_a_reply_is_one_move_or_says_why_it_is_none(reply: str, move: Move | str):
    assert read_move(reply) == move


# ---- memory_actions as a build

SECRET = "the long way to {k} is dark and wide"


def remembers(*moves: str) -> Callable[[Request], str]:
    """Replies in this order: `C` a step with a note, `E1` and so on; the answer at the end is right."""

    def reply(request: Request) -> str:
        at, number = int(request.salt), int(request.problem_id[1:])
        move = moves[at] if at < len(moves) else "A"
        if move[0] == "C":
            k = sum(other[0] == "C" for other in moves[: at + 1])
            return f"{SECRET.format(k=k)}\ncommit: {move[1:] or 'found'} {k}"
        if move == "A":
            return rf"answer: \boxed{{{number + number % 3}}}"
        return {"E": f"expand: {move[1:]}", "F": f"fold: {move[1:]}"}.get(move[0], move)

    return reply


def test_what_is_folded_is_shown_to_nobody_and_each_step_is_a_row(recipe: Make, store: Store):
    asked: list[Request] = []
    replies = remembers("C", "C", "E1", "C", "F1")

    def reply(request: Request) -> str:
        asked.append(request)
        return replies(request)

    made = built(recipe, store, reply, synth={"use": "memory_actions"})
    shown = {int(request.salt): str(request.prompt) for request in asked if request.problem_id == "p00"}
    assert [sorted(k for k in (1, 2, 3) if SECRET.format(k=k) in shown[at]) for at in range(6)] == [
        [],
        [],
        [],
        [1],
        [1],
        [],
    ]
    assert [sorted(k for k in (1, 2, 3) if f"found {k}" in shown[at]) for at in range(6)] == [
        [],
        [1],
        [1, 2],
        [2],
        [2, 3],
        [1, 2, 3],
    ]
    assert "Notes" not in shown[0]
    found = rows(made).filter(problem_id="p00")
    assert found["action"].to_list() == ["commit", "commit", "expand", "commit", "fold", "answer"]
    assert found["arg"].to_list() == [None, None, 1, None, 1, None]
    assert found["step"].to_list() == list(range(6))
    assert found["z"].to_list() == ["found 1", "found 2", None, "found 3", None, None]
    assert (found["target"] == found["content"]).all()
    for row in found.to_dicts():
        assert row["context"] == row["messages"][0]["content"]
        assert (row["n_com"], row["n_exp"], row["n_fld"], row["suite"], row["correct"]) == (3, 1, 1, "full", True)
        assert row["visible_tokens"] == len(row["context"].split())
    saved = 9 - 2  # words of a step, less those of its note
    hidden = [0, 1, 2, 1, 2, 3]
    assert (found["raw_tokens"] - found["visible_tokens"]).to_list() == [saved * n for n in hidden]
    table = rows(made, "trajectories")
    assert set(table["ops"]) == {"C1 C2 E1 C3 F1 A"}
    assert set(table["outcome"]) == {"kept"}
    assert "Trajectories" in (made.dataset.path / "README.md").read_text()


@pytest.mark.parametrize(
    ("moves", "why"),
    [
        (("C", "C", "E2", "F1"), "symmetry"),
        (("C", "E1", "F1", "E1", "F1"), "expands"),
        (("C", "C", "E1"), "partial_suite"),
        (("C", "C", "E1", "E1"), "repeated"),
        ((), "no_commit"),
        (("C", "E2"), "unknown_note"),
        (("C", "hm"), "no_action"),
        (
            (
                "Csame words as ever again and again and again and once more",
                "Csame words as ever again and again and again and once more",
            ),
            "same_note",
        ),
        (("C",) * 9, "no_answer"),
    ],
)
def test_a_trajectory_that_teaches_the_wrong_thing_is_turned_down_step_by_step(
    recipe: Make, store: Store, moves: tuple[str, ...], why: str
):
    steps = {"no_answer": 6}.get(why, 40)
    made = built(recipe, store, remembers(*moves), synth={"use": "memory_actions", "steps": steps})
    assert rows(made).height == 0
    assert set(rows(made, "trajectories")["outcome"]) == {why}
    assert reasons(made).keys() == {why}
    assert rejected(made).height == rows(made, "trajectories")["steps"].sum()
    assert all("ops" in json.loads(evidence) for evidence in rejected(made)["evidence"])


def test_a_wrong_an_undecided_and_a_cut_off_end_have_their_own_reasons(recipe: Make, store: Store):
    def reply(request: Request) -> Completion:
        at, way = int(request.salt), request.index
        said = "On we go\ncommit: on" if at == 0 else ["answer: \\boxed{1000}", "answer: it", "answer: \\boxed{1}"][way]
        cut = at == 1 and way == 2
        return Completion(text=said, finish_reason="length" if cut else "stop", n_tokens=len(said.split()))

    made = built(recipe, store, reply, synth={"use": "memory_actions", "n": 3})
    assert reasons(made) == {"wrong": 40, "undecided": 40, "truncated": 40}


def test_of_trajectories_that_only_commit_three_in_ten_stay_by_hash_and_a_long_note_goes_alone(
    recipe: Make, store: Store
):
    made = built(
        recipe,
        store,
        remembers("C", "Ca note of many more words than the step that it stands for has"),
        synth={"use": "memory_actions", "n": 10},
    )
    kept = set(rows(made)["traj_id"])
    everyone = {f"p{i:02}/memory-{j:04d}" for i in range(20) for j in range(10)}
    assert kept == {name for name in everyone if draw(f"commit_only|{name}") < 0.3 * (1 << 64)}
    assert 40 < len(kept) < 80
    assert set(rows(made)["suite"]) == {"commit_only"}
    assert rows(made).height == 2 * len(kept)
    assert reasons(made) == {"longer_note": len(kept), "commit_only": 3 * (200 - len(kept))}
    none = built(recipe, store, remembers("C"), synth={"use": "memory_actions", "commit_only": 0.0})
    assert rows(none).height == 0


def test_the_protocol_of_another_model(recipe: Make, store: Store):
    asked: list[str] = []

    def reply(request: Request) -> str:
        asked.append(str(request.prompt))
        return remembers("C", "C", "E1", "F1")(request)

    prompt, notes = "## Question\n{question}\n{notes}## Task\nNext move.", "## Notes\n{notes}\n"
    synth = {"use": "memory_actions", "prompt": prompt, "notes": notes}
    made = built(recipe, store, reply, synth=synth)
    assert rows(made).height == 20 * 5
    assert any("## Question\nWhat is 0 + 0?\n## Task\nNext move." in text for text in asked)
    assert any("## Question\nWhat is 0 + 0?\n## Notes\n1. found 1\n2. found 2\n## Task" in text for text in asked)


def test_a_conversation_keeps_its_system_prompt_and_earlier_turns_at_every_step(
    recipe: Make, store: Store, tmp_path: Path
):
    turns = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Hi."}]
    turns += [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "What is 1 + 1?"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"id": "p", "messages": turns, "answer": "2"}))
    source = {"path": str(tmp_path / "chats.jsonl"), "messages": "messages"}
    asked: list[str] = []

    def reply(request: Request) -> str:
        asked.append(str(request.prompt))
        return "answer: \\boxed{2}" if len(asked) > 1 else "1 and 1 is 2.\ncommit: 2"

    made = built(recipe, store, reply, source=source, synth={"use": "memory_actions", "commit_only": 1.0})
    assert [all(turn in text for turn in ("Be terse.", "Hi.", "Hello.")) for text in asked] == [True, True]
    assert [len(messages) for messages in rows(made)["messages"]] == [5, 5]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 1}, "2 to 1000 steps"),
        ({"n": 10**9}, "between 1 and 100,000 trajectories"),
        ({"commit_only": 30.0}, "commit_only = 30.0: the share that is kept"),
        ({"prompt": "{question}"}, "prompt = '{question}' has no place for the notes"),
        ({"notes": "Notes:"}, "notes = 'Notes:' has no place for the notes"),
        ({"prompt": "{notes}"}, "has no place for the problem"),
    ],
)
def test_options_of_memory_actions_that_cannot_work_are_refused(
    recipe: Make, store: Store, options: Mapping[str, Any], said: str
):
    with pytest.raises(RecipeError, match=said):
        built(recipe, store, remembers("C"), synth={"use": "memory_actions", **options})
