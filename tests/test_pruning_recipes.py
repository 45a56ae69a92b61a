"""pattern_prune_pairs and confidence_concise, and what they stand on: closing a thought by force, segments, bounds of entropy."""

import asyncio
import json
import math
from array import array
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracemill.pipelines.build import Built, build
from tracemill.pipelines.export import export
from tracemill.pipelines.recipes.catalog import find
from tracemill.pipelines.store import Store
from tracemill.schemas.cues import CUES, TURNS
from tracemill.schemas.entropy import uncertainties, uncertainty
from tracemill.schemas.errors import ProblemFailed, RecipeError
from tracemill.schemas.recipe import Recipe, Step, load_recipe
from tracemill.schemas.request import Completion, Message, Rendered, Request, TokenScores
from tracemill.schemas.steps import inside_block, segment, split_steps, starts_with
from tracemill.synth.closing import Closed, behind, cut, ids_of, spelled, text_of, trimmed
from tracemill.synth.confidence_concise.confidence import share
from tracemill.synth.confidence_concise.confidence_concise import _columns as concise_columns
from tracemill.synth.confidence_concise.tries import Try
from tracemill.synth.pattern_prune_pairs.exits import first_exit
from tracemill.synth.pattern_prune_pairs.needed import decision

Make = Callable[..., Recipe]
ROOT = Path(__file__).parents[1]
JUDGE = {"models": {"judge": {"name": "judge", "max_tokens": 64}}, "filters": [], "select": []}


def rows(made: Built) -> list[dict[str, Any]]:
    return made.dataset.scan().collect().sort("id").to_dicts()


def reasons(made: Built) -> dict[str, int]:
    return dict(made.dataset.scan("rejected").collect()["reason"].value_counts().rows())


def gold(request: Request) -> int:
    number = int(request.problem_id[1:])
    return number + number % 3


# ---- segments


def test_a_text_is_split_where_a_sentence_begins_with_a_cue_and_nowhere_inside_a_block():
    text = "A is 24. But wait, so what.\n\nHmm. It holds! So it is.\n```\nso = 1\n\nBut not here\n```\nLet me see.\n\nDone."
    assert segment(text, cues=(*CUES, *TURNS)) == [
        ("A is 24.", ""),
        (" But wait, so what.\n\n", "but"),
        ("Hmm. It holds!", "hmm"),
        (" So it is.\n```\nso = 1\n\nBut not here\n```\n", "so"),
        ("Let me see.\n\nDone.", "let me"),
    ]
    assert [label for _, label in segment(text, cues=CUES, paragraphs=True)] == ["", "but", "hmm", ""]
    assert segment("Let\n me see.", cues=TURNS) == [("Let\n me see.", "let me")]
    assert segment(" \n\n ", cues=CUES, paragraphs=True) == segment("", cues=CUES) == []
    assert segment("Nothing of the kind. Button up.", cues=CUES) == [("Nothing of the kind. Button up.", "")]


@given(st.lists(st.sampled_from(["a", "Wait, b", "c. ", "So d.", "\n", "\n\n", " ", "```", "$$", "\\[", "\\]", "but", '("Hmm']), max_size=30), st.booleans())  # fmt: skip
def test_segments_joined_are_the_text_and_those_of_paragraphs_are_its_steps(parts: list[str], paragraphs: bool):
    text = "".join(parts)
    segments = segment(text, cues=CUES, paragraphs=paragraphs)
    assert "".join(part for part, _ in segments) == (text if text.strip() else "")
    assert all(part.strip() for part, _ in segments)
    assert [part.strip() for part, _ in segment(text, paragraphs=True)] == split_steps(text)
    assert all(label == (starts_with(part, CUES) or "") for part, label in segments)


def test_what_begins_with_a_cue_and_what_is_inside_a_block():
    said = ("Wait, no", " *Hmm*", "waiting", "Double-check it", "hold  on now", "So", "")
    assert [starts_with(text, CUES) for text in said] == ["wait", "hmm", None, "double-check", "hold on", None, None]
    assert [inside_block(text) for text in ("a\n\n", "```\na\n\n", "```\na\n```\n\n", "\\[ a\n\n")] == [
        False,
        True,
        False,
        True,
    ]


# ---- entropy


def test_the_entropy_of_what_came_back_is_a_lower_bound():
    known = uncertainty([math.log(0.5), math.log(0.25)], vocabulary=10)
    assert known.covered == pytest.approx(0.75)
    assert known.at_least == pytest.approx(1.5 * math.log(2))  # the rest in one piece of 0.25
    assert known.at_most == pytest.approx(math.log(2) + 0.25 * math.log(8 / 0.25))
    ids, sampled = array("i", [7]), array("f", [-0.5])
    [found] = uncertainties(TokenScores(token_ids=ids, logprobs=sampled, top=(((7, 0.0),),)))
    assert (found.at_least, found.at_most) == (0.0, None)
    with pytest.raises(ValueError, match="ask for them"):
        uncertainties(TokenScores(token_ids=ids, logprobs=sampled))
    with pytest.raises(ValueError, match="0 likeliest tokens"):
        uncertainty([])


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 40))
def test_the_true_entropy_lies_between_the_bounds(weights: list[int], k: int):
    p = sorted((w / sum(weights) for w in weights), reverse=True)
    true = -math.fsum(x * math.log(x) for x in p)
    found = uncertainty([math.log(x) for x in p[:k]], vocabulary=len(p))
    assert found.at_most is not None
    assert found.at_least - 1e-9 <= true <= found.at_most + 1e-9
    if k >= len(p):
        assert found.at_least == pytest.approx(true, abs=1e-9)


# ---- closing by force


class Letters:
    """An engine whose tokens are pairs of letters, as far as closing asks it."""

    def __init__(self, by_ids: bool = True, chat: bool = False) -> None:
        self.by_ids, self.chat = by_ids, chat

    def text_of(self, tokens: list[int], role: str = "solver") -> str:
        return "".join(f"{chr(t // 256)}{chr(t % 256)}".strip("\0") for t in tokens)

    def tokens_of(self, text: str, role: str = "solver") -> tuple[int, ...]:
        return tuple(ord(letter) for letter in text)

    def rendered(self, prompt: Any, role: str = "solver") -> Rendered:
        if self.chat:
            return Rendered((Message(role="user", content="?"),), None)
        return Rendered((1, 2), "??") if self.by_ids else Rendered("??", "??")


def pairs(text: str) -> "array[int]":
    return array("i", [ord(a) * 256 + ord(b) for a, b in zip(text[::2], text[1::2], strict=True)])


def test_tokens_that_were_drawn_go_back_as_they_are_and_a_cut_one_as_text():
    engine: Any = Letters()
    ids = pairs("One.\n\nTwo.  ")
    said = spelled(engine, Completion(text="One.\n\nTwo.", finish_reason="stop", n_tokens=6, token_ids=ids))
    assert [text for text, _ in said] == ["On", "e.", "\n\n", "Tw", "o."]
    assert cut(said, 0, 5) == [("On", (ids[0],)), ("e.", (ids[1],)), ("\n", ())]
    assert ids_of(engine, trimmed(cut(said, 1, 6))) == (ord("n"), ids[1])
    assert ids_of(engine, [*cut(said, 0, 3), ("!?", ())]) == (ids[0], ord("e"), ord("!"), ord("?"))
    assert behind(engine, "", said[:1]) == Rendered((1, 2, ids[0]), "??On")
    assert behind(Letters(by_ids=False), "", said[:1]) == Rendered("??On", "??On")  # type: ignore[arg-type]
    with pytest.raises(ProblemFailed, match="the server renders"):
        behind(Letters(chat=True), "", said)  # type: ignore[arg-type]


@given(st.text(alphabet="ab \n", min_size=0, max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_a_cut_has_the_characters_it_is_to_have(text: str, start: int, end: int):
    text = text[: len(text) // 2 * 2]
    engine: Any = Letters()
    said = spelled(engine, Completion(text=text, finish_reason="stop", n_tokens=9, token_ids=pairs(text)))
    assert text_of(said) == text
    assert text_of(cut(said, start, end)) == text[start:end]
    assert all(i for _, i in said), "every token of it is known"


def test_ids_that_do_not_spell_the_text_are_not_used():
    engine: Any = Letters()
    strange = Completion(
        text="abcd", finish_reason="stop", n_tokens=2, token_ids=array("i", [*pairs("ab"), *pairs("xy")])
    )
    assert spelled(engine, strange) == [("ab", (pairs("ab")[0],)), ("cd", ())]
    assert spelled(engine, Completion(text="abcd", finish_reason="stop", n_tokens=2)) == [("abcd", ())]


# ---- pattern_prune_pairs

WORDS = (40, 60, 50, 70, 80)
RIGHT = (0, 2, 6, 7, 8)
"""Of eight answers behind each segment: 0, .25, .75, .875 and 1."""


def thought(words: tuple[int, ...] = WORDS) -> str:
    return "\n\n".join(" ".join([f"Wait part{i}", *["so"] * (n - 2)]) for i, n in enumerate(words))


def pruning(
    right: Callable[[str], int] = lambda before: RIGHT[before.count("Wait") - 1],
    says: Callable[[str], str] = lambda segment: "keep: it is used.",
    original: Callable[[Request], str | Completion] | None = None,
) -> Callable[[Request], str | Completion]:
    """A model that thinks in five segments, an answer of which is right so many times in eight, and a judge."""

    def reply(request: Request) -> str | Completion:
        if request.model.name == "judge":
            return says(str(request.prompt).partition("segments:\n")[2])
        if request.scope == "solve":
            made = original or (lambda r: f"<think>\n{thought()}\n</think>\n\nIt is \\boxed{{{gold(r)}}}")
            return made(request)
        assert isinstance(request.prefix, str)
        assert request.prefix.endswith("\n</think>\n\nThe answer is \\boxed{")
        return f"{gold(request) + (request.index >= right(request.prefix)) * 100}}}."

    return reply


def pruned(recipe: Make, store: Store, reply: Callable[[Request], str | Completion], **options: Any) -> Built:
    model = {"name": "solver", "max_tokens": 1000}
    return build(recipe(**JUDGE, model=model, synth={"use": "pattern_prune_pairs", **options}), store, reply=reply)


def test_a_thought_is_closed_at_the_first_of_two_segments_where_enough_answers_are_right(recipe: Make, store: Store, tmp_path: Path):  # fmt: skip
    made = pruned(recipe, store, pruning())
    assert len(rows(made)) == 20
    for row in rows(made):
        assert [one["n_tok"] for one in row["segments"]] == [*WORDS]
        assert [one["p_exit"] for one in row["segments"]] == [0, 0.25, 0.75, 0.875, 1]
        assert [one["label"] for one in row["segments"]] == ["wait"] * 5
        assert (row["exit_idx"], row["trivial"], row["tag"], row["p_before"], row["p_after"]) == (
            3,
            False,
            "shorter",
            0.75,
            0.75,
        )
        assert sum(one["n_tok"] for one in row["segments"] if one["kept"]) * 2 == sum(WORDS) == 300
        assert (row["n_tokens"], row["n_tok_original"]) == (1 + 150 + 1 + 4 + 1, 1 + 300 + 1 + 3)
        assert row["correct"]
        assert row["optimised"].startswith("<think>\nWait part0 so")
        assert row["optimised"] == row["messages"][-1]["content"]
    card = (made.dataset.path / "README.md").read_text()
    assert "Thoughts and their pruned selves" in card
    view = pl.read_parquet(f"{export(made.dataset.path, 'trl-dpo', tmp_path / 'dpo')}/*.parquet").to_dicts()
    assert len(view) == 20
    for pair, row in zip(view, sorted(rows(made), key=lambda row: row["problem_id"]), strict=True):
        assert (pair["kind"], pair["problem_id"]) == ("shorter", row["problem_id"])
        assert (pair["chosen"], pair["rejected"]) == tuple([{"role": "assistant", "content": row[side]}] for side in ("optimised", "original"))  # fmt: skip
        assert pair["prompt"] == row["messages"][:-1]
    kto = pl.read_parquet(f"{export(made.dataset.path, 'trl-kto', tmp_path / 'kto')}/*.parquet")
    assert set(kto["completion"].list.first().struct.field("content")) == {row["original"] for row in rows(made)}
    with pytest.raises(RecipeError, match="no rows"):
        export(made.dataset.path, "trl-dpo", tmp_path / "none", kind="both")


def test_what_the_judge_calls_needless_goes_and_comes_back_where_answers_get_worse(recipe: Make, store: Store):
    """Parts 0 and 1 are to go; without part 1 fewer answers are right, without part 0 as many."""

    def right(before: str) -> int:
        if "part2" in before and "part1" not in before:
            return 5
        return 6 if "part2" in before else 0

    made = pruned(recipe, store, pruning(right, lambda segment: "keep: used" if "part2" in segment else "drop: no"))
    assert len(rows(made)) == 20
    for row in rows(made):
        assert [one["kept"] for one in row["segments"]] == [False, True, True, False, False]
        assert [row[name] for name in ("n_dropped", "n_restored", "n_unclear", "p_before", "p_after")] == [
            1,
            1,
            0,
            0.75,
            0.75,
        ]
        assert [one["said"] for one in row["segments"]] == ["drop: no", "drop: no", "keep: used", None, None]
        assert row["optimised"].startswith("<think>\nWait part1 so")
    less = pruned(
        recipe, store, pruning(right, lambda segment: "keep: used" if "part2" in segment else "drop: no"), fall=0.2
    )
    assert {(row["n_dropped"], row["p_after"]) for row in rows(less)} == {(2, 0.625)}


def test_with_everything_back_a_thought_is_what_it_was_and_not_measured_again(recipe: Make, store: Store):
    asked: list[str] = []

    def right(before: str) -> int:
        asked.append(before)
        return 8 if all(f"part{i}" in before for i in range(3)) else 0

    made = pruned(recipe, store, pruning(right, lambda segment: "drop: no"))
    assert {(row["n_dropped"], row["n_restored"], row["p_after"]) for row in rows(made)} == {(0, 3, 1.0)}
    assert len(asked) == 20 * 8 * (5 + 3), "five exits, and three prunings"


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("keep: it gives A.", "keep"),
        ("Drop : it says it again.", "drop"),
        ("<think>drop: no</think>\n\n**keep:** used", "keep"),
        ("DROP.", "drop"),
        ("keep: used, drop: unused", None),
        ("I would keep it, I think", None),
        ("keep: drop it", "keep"),
        ("", None),
    ],
)
def test_what_a_judge_says_of_a_segment(reply: str, word: str | None):
    assert decision(reply) == word


def test_a_judge_that_nobody_understands_keeps_and_is_counted(recipe: Make, store: Store):
    made = pruned(recipe, store, pruning(says=lambda segment: "drop: it, keep: it" if "part0" in segment else "Hm"))
    assert {(row["n_unclear"], row["n_dropped"], row["exit_idx"]) for row in rows(made)} == {(3, 0, 3)}


def test_what_becomes_of_other_thoughts(recipe: Make, store: Store):
    """By the problem's number: never solved, one segment, no thought, no answer to verify, solved at once, wrong, no shorter, cut off."""
    kinds = ("unsolved", "one_segment", "no_thought", "undecided", "trivial", "repair", "not_shorter", "cut")

    def original(request: Request) -> str | Completion:
        kind, answer = kinds[int(request.problem_id[1:]) % 8], f"\n</think>\n\n\\boxed{{{gold(request)}}}"
        if kind == "cut":
            return Completion(text=f"<think>\n{thought((30, 500, 500))}", finish_reason="length", n_tokens=600)
        return {
            "one_segment": f"<think>\n{thought((90,))}{answer}",
            "no_thought": f"{thought()} \\boxed{{{gold(request)}}}",
            "undecided": f"<think>\n{thought()}\n</think>\n\nI cannot tell.",
            "repair": f"<think>\n{thought()}\n</think>\n\n\\boxed{{77777}}",
            "not_shorter": f"<think>\n{thought((30, 30))}{answer}",
        }.get(kind, f"<think>\n{thought()}{answer}")

    reply = pruning(original=original)

    def answers(request: Request) -> str | Completion:
        kind = kinds[int(request.problem_id[1:]) % 8]
        if request.scope == "pattern_prune_pairs" and request.model.name != "judge":
            count = str(request.prefix).count("Wait")
            right = {"unsolved": count == 3, "trivial": True, "not_shorter": count == 2}.get(kind, count > 1)
            return f"{gold(request) + 100 * (not right)}}}."
        return reply(request)

    made = pruned(recipe, store, answers)
    found = {row["problem_id"]: row for row in rows(made)}
    number = {kind: f"p{i:02}" for i, kind in enumerate(kinds)}
    assert reasons(made) == {"unsolved": 3, "one_segment": 3, "no_thought": 3, "undecided": 3, "not_shorter": 2}
    assert (found[number["trivial"]]["exit_idx"], found[number["trivial"]]["trivial"]) == (1, True)
    repaired, cut_off = found[number["repair"]], found[number["cut"]]
    assert [repaired[name] for name in ("tag", "original_correct", "correct")] == ["repair", False, True]
    assert (cut_off["tag"], cut_off["n_tok_original"], cut_off["exit_idx"]) == ("repair", 600, 2)
    down = made.dataset.scan("rejected").filter(reason="unsolved").collect()["evidence"][0]
    assert json.loads(down) == {"of": 8, "right": {"1": 0, "2": 0, "3": 8, "4": 0, "5": 0}}


def test_short_segments_belong_to_the_one_before_and_a_short_first_one_takes_the_next(recipe: Make, store: Store):
    made = pruned(recipe, store, pruning(lambda before: 8, original=lambda r: f"<think>\n{thought((5, 30, 19, 20, 7))}\n</think>\n\n\\boxed{{{gold(r)}}}"))  # fmt: skip
    assert {tuple(one["n_tok"] for one in row["segments"]) for row in rows(made)} == {(54, 27)}


@given(st.integers(1, 80), st.data())
def test_the_search_finds_the_exit_of_the_scan_where_answers_only_get_better(count: int, data: st.DataObject):
    first = data.draw(st.integers(1, count + 1))
    measured: list[int] = []

    async def above(j: int) -> bool:
        measured.append(j)
        assert 1 <= j <= count
        return j >= first

    found = asyncio.run(first_exit(above, count, scan=0))
    assert found == asyncio.run(first_exit(above, count, scan=count)) == (first if first <= count else None)
    if count > 24:
        assert len(set(measured[:-count])) <= 4 * math.ceil(math.log2(count)) + 2


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_what_the_search_finds_is_an_exit_and_the_segment_before_is_none(good: list[bool]):
    count = len(good)

    async def above(j: int) -> bool:
        return good[j - 1]

    def stands(j: int) -> bool:
        return all(good[j - 1 : j + 1])

    assert asyncio.run(first_exit(above, count, scan=count)) == next(
        (j for j in range(1, count + 1) if stands(j)), None
    )
    if (found := asyncio.run(first_exit(above, count, scan=0))) is not None:
        assert stands(found)
        assert found == 1 or not stands(found - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n = 0, answers = 8"),
        ({"threshold": 0.0}, "threshold = 0.0: the share"),
        ({"n": 10**9}, "between 1 and 100,000 thoughts and answers"),
        ({"answers": 10**9}, "between 1 and 100,000 thoughts and answers"),
        ({"fall": 0.75}, "fall = 0.75: how far"),
        ({"min_tokens": -1}, "min_tokens = -1"),
        ({"cues": []}, "name at least one cue"),
        ({"cues": [" "]}, "none of them may be empty"),
        ({"judge": "{solution}?"}, "lacks {segment}"),
        ({"prompt": "?"}, "no place for the problem"),
    ],
)
def test_options_that_cannot_prune_are_named(options: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message.replace("{", r"\{").replace("}", r"\}")):
        find("synth", Step.model_validate({"use": "pattern_prune_pairs", **options}))


# ---- confidence_concise

STEPS = [
    "A is one.\n\n",
    "Wait, is A one?\n\n",
    "B is two.\n\n",
    "So the answer is two.\n\n",
    "Hmm, B is two.\n\n",
    "It is.\n</think>\n\n",
]


def concise(
    steps: Callable[[Request], str], sure: float = 0.3, unsure: float = 0.1, original: int = 100
) -> Callable[[Request], Completion | str]:
    """A model that writes `steps` one by one, and gives these probabilities to Yes and to what else it is asked about."""

    def reply(request: Request) -> Completion | str:
        if request.scope == "judge":
            scores = TokenScores(token_ids=array("i", [1]), logprobs=array("f", [math.log(sure)]))
            return Completion(text="Yes", finish_reason="length", n_tokens=1, scores=scores)
        if request.scope == "solve":
            return f"<think>\n{'so ' * original}\n</think>\n\n\\boxed{{{gold(request)}}}"
        if request.salt.endswith(":answer"):
            return f"\\boxed{{{gold(request)}}}"
        return steps(request)

    return reply


def in_turn(request: Request) -> str:
    """The step behind what stands there; a reflection is written again where it was thrown away but for the phrase."""
    before = str(request.prefix or "")
    return STEPS[next(i for i, step in enumerate(STEPS) if step not in before and not (i == 1 and "Fine" in before))]


def scored(monkeypatch: pytest.MonkeyPatch, probability: float) -> None:
    """What a word has that is not among the likeliest tokens."""
    from tracemill.synth.backends.scripted import Scripted

    async def score(self: Scripted, request: Request) -> TokenScores:
        assert request.prefix == " No"
        assert str(request.prompt).endswith("Am I sure?")
        return TokenScores(token_ids=array("i", [1, 2]), logprobs=array("f", [math.log(probability), 0.0]))

    monkeypatch.setattr(Scripted, "score", score)


def kept_short(recipe: Make, store: Store, reply: Callable[..., Any], **options: Any) -> Built:
    options = {"confident": ["Yes"], "doubt": ["No"], "phrases": ["Fine so far."], **options}
    changes = {"filters": [], "select": [], "model": {"name": "solver", "max_tokens": 2000}}
    return build(recipe(**changes, synth={"use": "confidence_concise", **options}), store, reply=reply)


def test_a_thought_goes_on_without_its_reflections_and_ends_once_the_model_is_sure(recipe: Make, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    scored(monkeypatch, 0.1)
    made = kept_short(recipe, store, concise(in_turn))
    assert len(rows(made)) == 20
    for row in rows(made):
        assert (
            row["concise"]
            == f"A is one.\n\nFine so far.\n\nB is two.\n\nSo the answer is two.\n</think>\n\n\\boxed{{{row['gold']}}}"
        )
        [injection] = row["injections"]
        assert row["concise"][injection["char_pos"] :].startswith(injection["phrase"])
        assert injection["removed_step"] == "Wait, is A one?"
        assert (row["stop_step"], row["stop_how"], row["n_accepted"]) == (3, "scored", 4)
        assert row["stop_conf"] == pytest.approx(0.75)
        assert (row["n_tok_concise"], row["n_tok_orig"], row["sft_ok"], row["pair_ok"]) == (16, 103, True, True)
    assert "by confidence" in (made.dataset.path / "README.md").read_text()
    view = pl.read_parquet(f"{export(made.dataset.path, 'trl-dpo', tmp_path / 'dpo')}/*.parquet")
    assert view["kind"].to_list() == ["concise"] * 20
    assert view["chosen"].list.first().struct.field("content").to_list() == [
        f"<think>\n{row['concise']}" for row in rows(made)
    ], "behind the tag that the prompt had opened"


def test_a_model_that_is_not_sure_goes_on_and_may_reflect_on_its_answer(recipe: Make, store: Store, monkeypatch: pytest.MonkeyPatch):  # fmt: skip
    scored(monkeypatch, 0.31)
    made = kept_short(recipe, store, concise(in_turn))
    assert len(rows(made)) == 20
    for row in rows(made):
        assert "Hmm, B is two.\n\nIt is.\n</think>" in row["concise"]
        assert (row["stop_step"], row["stop_conf"], row["stop_how"], len(row["injections"])) == (None, None, None, 1)


def test_confidence_is_what_the_words_for_yes_have_of_all():
    assert share({"Yes": 0.2, "Great": 0.1, "No": 0.1}, ("Yes", "Great"), ("No",)) == pytest.approx(0.75)
    assert share({"Yes": 0.0, "No": 0.0}, ("Yes",), ("No",)) is None


@pytest.mark.parametrize(("tokens", "touched", "pair"), [(480, True, True), (800, True, True), (801, True, False), (480, False, False)])  # fmt: skip
def test_a_pair_takes_a_ratio_of_lengths_and_something_that_was_left_out(tokens: int, touched: bool, pair: bool):
    """1000 tokens against 480 are 2.08 times as many; 1000 against 800 are 1.25."""
    reply = Completion(text="o", finish_reason="stop", n_tokens=1000)
    closed = Closed("c", tokens - 10, Completion(text="", finish_reason="stop", n_tokens=10))
    made = Try.__new__(Try)
    made.injections, made.stop_step, made.stop_conf, made.stop_how = [], 3 if touched else None, None, None
    found = concise_columns(made, closed, reply, Fraction("1.25"), 1)
    assert (found["pair_ok"], found["n_tok_concise"]) == (pair, tokens)


@pytest.mark.parametrize(
    ("steps", "original", "tries"),
    [
        (lambda r: "Wait, no.\n\n", 100, {"injection_loop": 4}),
        (lambda r: "Wait, no.\n\n" if r.rng_seed % 2 else "On.\n\n", 60, None),
        (lambda r: "On and on.\n\n", 20, {"not_shorter": 4}),
        (lambda r: "On and on.", 100, {"unclosed": 4}),
        (lambda r: "on " * 3000, 100, {"truncated": 4}),
        (lambda r: "So the answer is nine.\n</think>\n\n", 1, {"not_shorter": 4}),
    ],
    ids=["reflects", "reflects_often", "goes_on", "ends", "cut", "short"],
)
def test_what_becomes_of_tries(recipe: Make, store: Store, steps: Callable[[Request], str], original: int, tries: dict[str, int] | None):  # fmt: skip
    made = kept_short(recipe, store, concise(steps, original=original))
    assert reasons(made) == {"none_accepted": 20}
    if tries and "injection_loop" in tries:
        assert made.dataset.scan("samples").collect().height == 20 * (1 + 4 * 3), (
            "the third reflection in a row ends a try"
        )
    found = [json.loads(evidence)["tries"] for evidence in made.dataset.scan("rejected").collect()["evidence"]]
    assert (
        all(one == tries for one in found)
        if tries
        else all(one.keys() <= {"injection_loop", "not_shorter"} for one in found)
    )


def test_only_right_replies_with_a_thought_are_written_again(recipe: Make, store: Store):
    whole = [
        "<think>\nso\n</think>\n\n\\boxed{777}",
        "<think>\nso\n</think>\n\nI cannot tell.",
        "<think>\n" + "so " * 3000,
    ]

    def reply(request: Request) -> str:
        assert request.scope == "solve"
        texts = [*whole, f"\\boxed{{{gold(request)}}}"]
        return texts[int(request.problem_id[1:]) % 4]

    made = kept_short(recipe, store, reply)
    assert reasons(made) == {"original_wrong": 5, "undecided": 5, "truncated": 5, "no_thought": 5}


def test_the_model_that_opens_its_own_thought_keeps_the_tag_and_code_is_no_reflection(recipe: Make, store: Store):
    said = ["<think>\nWait, what?\n\n", "```\n\n", "Wait = 1\n\n", "```\n\n", "\\boxed{3}\n</think>\n\n"]

    def steps(request: Request) -> str:
        before = str(request.prefix or "")
        return said[0] if not before else said[1 + sum(before.count(x) for x in ("```\n\n", "Wait = 1"))]

    made = kept_short(recipe, store, concise(steps))
    assert len(rows(made)) == 20
    for row in rows(made):
        assert row["concise"].startswith("<think>\nFine so far.\n\n```\n\nWait = 1\n\n```\n\n\\boxed{3}\n</think>\n\n")
        assert [(one["char_pos"], one["removed_step"]) for one in row["injections"]] == [(8, "Wait, what?")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tries": 0}, "tries = 0"),
        ({"tries": 10**9}, "at most 100,000 tries"),
        ({"share": 1.5}, "share = 1.5"),
        ({"ratio": 0.9}, "ratio = 0.9"),
        ({"threshold": 0.0}, "threshold = 0.0"),
        ({"phrases": []}, "phrases = "),
        ({"phrases": ["a\n\nb"]}, "with a blank line"),
        ({"doubt": ["Yes"]}, "other ones for no"),
        ({"probe": " "}, "none of them may be empty"),
        ({"answer": "("}, "is no regular expression"),
    ],
)
def test_options_that_cannot_keep_a_thought_short_are_named(options: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        find("synth", Step.model_validate({"use": "confidence_concise", **options}))


# ---- on engines with tokens

CLOSING = """
from tracemill.schemas.request import Message, Sampling
from tracemill.schemas.rows import Outcome, Trace
from tracemill.synth.closing import close, cut, ids_of, spelled, spelling, verdict

COLUMNS = {"own": bool, "kept": bool, "all_known": bool, "status": str, "by_ids": bool}


async def closing(problem, engine):
    asked = (Message(role="user", content=f"## Question\\n{problem.question}\\n## Task\\nThink carefully."),)
    [reply] = await engine.sample(asked, sampling=Sampling(max_tokens=20))
    written = spelled(engine, reply)
    half = cut(written, 0, len(reply.text) // 2)
    [closed] = await close(engine, asked, half, n=1, scope="closing", salt="half", sampling=Sampling(max_tokens=4), lead="7")
    ids = ids_of(engine, half)
    own = [i for _, some in half for i in some]
    columns = {
        "own": list(ids[: len(own)]) == own == list(reply.token_ids[: len(own)]),
        "kept": len(own) >= len(half) - 1,
        "all_known": all(some for _, some in written),
        "by_ids": isinstance(spelling(engine, asked, half), tuple),
        "status": (await verdict(engine, closed, "7")).status,
    }
    return Outcome(traces=[Trace.of(problem, closed.whole, name="closed", prompt=asked, model=engine.model_name(), **columns)])
"""


@pytest.mark.timeout(180)
def test_a_thought_that_the_template_opened_is_closed_with_the_ids_that_were_drawn(recipe: Make, store: Store, tmp_path: Path):  # fmt: skip
    pytest.importorskip("transformers", reason="needs the extra: pip install 'tracemill[hf]'")
    (tmp_path / "closing.py").write_text(CLOSING)
    model = {"name": "tiny-reasoner", "max_tokens": 60, "chat_template_kwargs": {"enable_thinking": True}}
    made = build(recipe(model=model, engine={"kind": "hf"}, synth={"use": str(tmp_path / "closing.py") + ":closing"}, filters=[], select=[]), store)  # fmt: skip
    assert len(rows(made)) == 20
    for row in rows(made):
        assert [row[name] for name in ("own", "kept", "all_known", "by_ids")] == [True] * 4
        assert row["content"].startswith("7")
        assert f"{row['reasoning']}\n</think>\n\n7" in row["messages"][-1]["content"]
    assert made.dataset.manifest()["roles"][0]["unclosed"] == 20, (
        "the beginnings themselves, and none of the closed ones"
    )


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_the_recipes_that_ship_make_pairs_of_the_small_model(tmp_path: Path):
    pytest.importorskip("vllm", reason="needs vLLM: make demo installs its CPU build")
    for name, column in (("pattern-prune-pairs", "optimised"), ("confidence-concise", "concise")):
        made = build(load_recipe(ROOT / f"data/recipes/{name}.toml", ["source.0.limit=8"]), Store(tmp_path / "store"))
        assert rows(made)
        for row in rows(made):
            assert row["correct"]
            assert row["messages"][-1]["content"] == row[column]
            assert row["content"] == f"The answer is \\boxed{{{row['answer']}}}."
            for one in row.get("injections", ()):
                assert row["concise"][one["char_pos"] :].startswith(f"{one['phrase']}\n\n")
        view = pl.read_parquet(f"{export(made.dataset.path, 'trl-dpo', tmp_path / name)}/*.parquet")
        assert view.height > 0
        samples = made.dataset.scan("samples").collect()
        assert samples["token_ids"].null_count() == 0
