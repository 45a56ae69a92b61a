"""The texts of tiny-generalist say what is so, its joints tokenise as they are asked, and its weights do what the card says."""

import ast
import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer

from tracemill.synth.models import EMBEDDED
from tracemill.synth.tiny import aloud, judging, moves, plans
from tracemill.synth.tiny.asking import Text, ask, rendered
from tracemill.synth.tiny.astray import astray
from tracemill.synth.tiny.card import MEASURED
from tracemill.synth.tiny.card_generalist import card
from tracemill.synth.tiny.evaluate import EQUATION, Sampler, last_boxed
from tracemill.synth.tiny.evaluate_generalist import thinks_aloud, yes
from tracemill.synth.tiny.generalist import NAME, ROUNDS, TASKS, round_batches, round_examples
from tracemill.synth.tiny.held_out import measured, withheld
from tracemill.synth.tiny.network import Weights, load_model
from tracemill.synth.tiny.problems import LETTERS, Dice, WordProblem, word_problem
from tracemill.synth.tiny.talk import KINDS, exchange, is_answer, is_held_back, is_listed
from tracemill.synth.tiny.train import Course, Rows, batches, example, trained

HOME, BASE = EMBEDDED / NAME, EMBEDDED / "tiny-reasoner"
SIGNS: dict[str, Callable[[int, int], int]] = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
seeds = st.integers(0, 10**6)


def problem(seed: int, steps: int = 0) -> WordProblem:
    return word_problem(Dice(f"generalist/{seed}"), steps=steps or seed % 5 + 1)


def equations(text: str) -> list[tuple[bool, int]]:
    """Whether each equation is true, and its value."""
    return [(SIGNS[sign](int(a), int(b)) == int(value), int(value)) for a, sign, b, value in EQUATION.findall(text)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(HOME / "tokenizer.json"))


@pytest.fixture(scope="module")
def sampler() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Sampler(HOME)
    torch.set_num_threads(before)


# texts


@given(seed=seeds)
def test_a_thought_ends_in_the_answer_and_says_no_untruth_that_it_does_not_find(seed: int) -> None:
    asked = problem(seed)
    paragraphs = aloud.thought(Dice(str(seed)), asked)
    text = aloud.joined(paragraphs)
    assert text.startswith(f"We look for {LETTERS[asked.difficulty - 1]}.\n\nA is ")
    assert f"\n\nSo the answer is {asked.answer}." in text
    slips = sum(paragraph.kind == "rights" for paragraph in paragraphs)
    assert text.count(", not ") == slips == sum(not paragraph.right for paragraph in paragraphs)
    wrong = [paragraph for paragraph in paragraphs if not all(true for true, _ in equations(paragraph.text))]
    assert all(not paragraph.right for paragraph in wrong)
    assert len(wrong) == slips
    for paragraph in paragraphs:
        reflects = paragraph.text.startswith(("Wait, ", "Hmm, ", "Alternatively, "))
        assert reflects == (paragraph.kind in ("rights", "checks", "again"))
        assert "\n" not in paragraph.text
    given_ = [paragraph.number for paragraph in paragraphs if paragraph.kind == "gives"]
    assert given_ == list(range(asked.difficulty))
    after = [p.kind for p in paragraphs][[p.kind for p in paragraphs].index("states") + 1 :]
    assert len(after) <= 3
    assert set(after) <= {"again", "checks"}


def test_reflections_assertions_and_slips_come_as_often_as_they_should() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(1500):
        paragraphs = aloud.thought(Dice(str(seed)), problem(seed))
        known = paragraphs[: [p.kind for p in paragraphs].index("states")]
        kinds.update(paragraph.kind for paragraph in known)
    every = kinds["gives"]
    straight = every - kinds["rights"]
    assert kinds["rights"] / every == pytest.approx(aloud.SLIPS / 100, abs=0.02)
    assert kinds["checks"] / straight == pytest.approx(aloud.REFLECTS / 100, abs=0.03)
    assert kinds["asserts"] / straight == pytest.approx(aloud.ASSERTS / 100, abs=0.03)


@given(seed=seeds)
def test_a_forced_thought_is_a_beginning_of_one_and_only_what_follows_the_force_is_learned(seed: int) -> None:
    asked = problem(seed)
    text = aloud.forced(Dice(str(seed)), asked)
    begun, _, answer = text.answer.partition(aloud.FORCED)
    assert answer == f"{asked.answer}}}."
    assert aloud.joined(aloud.thought(Dice(str(seed)), asked)).startswith(begun)
    assert [span.weight for span in text.spans if span.text == aloud.FORCED] == [0.0]
    at_once = aloud.at_once(Dice(str(seed)), asked)
    assert at_once.answer == f"{aloud.AT_ONCE}The answer is \\boxed{{{asked.answer}}}."
    assert at_once.spans[0].weight == 0.0


@given(seed=seeds)
def test_the_probe_asks_about_what_has_been_stated(seed: int) -> None:
    asked = problem(seed)
    paragraphs = aloud.thought(Dice(str(seed)), asked)
    stated = [aloud.is_stated(paragraphs[:end], asked) for end in range(1, len(paragraphs) + 1)]
    assert not stated[0]
    assert stated[-1]
    first = next(end for end, value in enumerate(stated) if value)
    value = rf"= {asked.answer}\."
    assert re.search(value, paragraphs[first].text)
    told = aloud.sure(Dice(str(seed)), asked, astray(Dice(f"{seed}/wrong"), asked))
    assert aloud.PROBE in told.answer
    assert all(span.weight == 0 for span in told.spans[:-1])


def test_whether_it_says_that_it_is_sure_wavers_a_little() -> None:
    said: Counter[tuple[str, bool]] = Counter()
    for seed in range(1500):
        asked, dice = problem(seed), Dice(str(seed))
        told = asked if seed % 2 else astray(Dice(f"{seed}/wrong"), asked)
        answer = aloud.sure(dice, asked, told).answer
        so_far = answer.partition(aloud.PROBE)[0]
        stated = told is asked and equations(so_far)[-1:] != [] and f"So the answer is {asked.answer}." in so_far
        said["stated" if stated else "wrong" if told is not asked else "open", answer.endswith(aloud.YES)] += 1
    assert 0.9 < said["stated", True] / (said["stated", True] + said["stated", False]) < 0.99
    assert 0.01 < said["wrong", True] / (said["wrong", True] + said["wrong", False]) < 0.1


@given(seed=seeds)
def test_plans_and_code_hold_no_number_and_code_gives_the_answer(seed: int) -> None:
    asked = problem(seed)
    plan, code = plans.strategy(asked), plans.code(asked)
    assert not re.search(r"\d", re.sub(r"^\d\. ", "", plan, flags=re.MULTILINE))
    assert not re.search(r"\d", code)
    assert [type(node) for node in ast.parse(code).body] == [ast.FunctionDef]
    numbers = []
    for equation, sources in zip(asked.equations, asked.sources, strict=True):
        double = len(sources) == 1 and equation.operator == "*"
        taken = [equation.left, equation.right][len(sources) :]
        numbers += [] if double else taken
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["solve"](*numbers) == asked.answer


@given(seed=seeds)
def test_a_walk_along_a_plan_says_each_line_and_its_equation(seed: int) -> None:
    asked = problem(seed)
    lines = plans.along(asked).split("\n")
    assert lines[-1] == f"The answer is \\boxed{{{asked.answer}}}."
    assert "\n".join(lines[:-1:2]) == plans.strategy(asked)
    assert [equations(line) for line in lines[1::2]] == [[(True, equation.value)] for equation in asked.equations]


@given(seed=seeds)
def test_what_has_gone_astray_ends_in_another_number(seed: int) -> None:
    asked = problem(seed)
    wrong = astray(Dice(str(seed)), asked)
    assert (wrong.question, wrong.answer != asked.answer) == (asked.question, True)
    assert len(wrong.sources) == wrong.difficulty
    for equation, sources in zip(wrong.equations, wrong.sources, strict=True):
        assert all(wrong.equations[source].value in (equation.left, equation.right) for source in sources)


def test_what_goes_astray_early_is_carried_on_and_steps_are_left_out_at_times() -> None:
    found: Counter[str] = Counter()
    for seed in range(400):
        asked = problem(seed, 4)
        wrong = astray(Dice(str(seed)), asked)
        found["skipped"] += wrong.difficulty < asked.difficulty
        found["early"] += wrong.difficulty == asked.difficulty and wrong.equations[0] != asked.equations[0]
    assert found["skipped"] > 20
    assert found["early"] > 40


@given(seed=seeds)
def test_judgements_are_what_the_texts_give(seed: int) -> None:
    asked, dice = problem(seed), Dice(str(seed))
    found = judging.differ(dice, asked)
    first, second = re.findall(r"## (?:First|Second)\n(.*)", found.asked)
    assert found.answer == str(int(judging.content(first) != judging.content(second)))
    needed = judging.needed(dice, asked)
    segment = needed.asked.partition("## Segment\n")[2].partition("\n")[0]
    kept = bool(re.match(r"[A-E] is ", segment)) or ", not " in segment
    assert needed.answer.startswith("keep" if kept else "drop")
    assert f"\n{segment}\n" in needed.asked
    text = judging.right(dice, asked)
    shown = text.asked.partition("## Solution\n")[2].partition("\n## Task")[0]
    if text.answer == "1":
        assert last_boxed(shown) == str(asked.answer)
    else:
        assert last_boxed(shown) != str(asked.answer)


def test_labels_are_near_even() -> None:
    for task in ("differ", "right"):
        ones = sum(TASKS[task](Dice(str(seed)), problem(seed)).answer == "1" for seed in range(600))
        assert 0.4 < ones / 600 < 0.6, task


@given(seed=seeds)
def test_every_trajectory_is_legal_and_ends_in_the_right_answer(seed: int) -> None:
    asked = problem(seed)
    notes = moves.Notebook()
    for shown, move in moves.trajectory(Dice(str(seed)), asked):
        assert shown == notes.shown
        assert notes.take(move), move
        assert all(true for true, _ in equations(move))
    assert notes.answer == str(asked.answer)
    assert len(notes.folded_texts) == asked.difficulty


def test_looks_come_before_two_steps_in_five_that_can_look_back() -> None:
    looks = Counter[bool]()
    for seed in range(800):
        asked = problem(seed)
        for shown, move in moves.trajectory(Dice(str(seed)), asked):
            if move.startswith("expand") or (re.match(r"[B-E] is .*[A-E] ", move + " ") and " is " not in shown):
                looks[move.startswith("expand")] += 1
    assert looks[True] / (looks[True] + looks[False]) == pytest.approx(0.4, abs=0.06)


def test_moves_that_are_not_allowed_are_refused() -> None:
    notes = moves.Notebook()
    step = "A is 3 times 8: 3 * 8 = 24.\ncommit: A = 24"
    for move in (
        "answer: \\boxed{3}",
        "expand: 1",
        "fold: 1",
        step.replace("A", "B"),
        step[:-1] + "5",
        step + "\n",
        "",
    ):
        assert not notes.take(move), move
    assert notes.take(step)
    assert notes.shown == "1. A = 24"
    assert not notes.take("fold: 1")
    assert notes.take("expand: 1")
    assert notes.shown == "1. A is 3 times 8: 3 * 8 = 24."
    assert not notes.take("answer: \\boxed{24}")
    assert notes.take("fold: 1")
    assert notes.take("answer: \\boxed{24}")
    assert notes.answer == "24"


@given(seed=seeds)
def test_small_talk_answers_what_was_said_and_holds_no_number(seed: int) -> None:
    question, answer, kind = exchange(Dice(str(seed)))
    assert is_answer(question, answer)
    assert not is_answer(question, answer.replace(".", "!").replace("?", "!"))
    assert not re.search(r"\d", question + answer)
    assert 0 <= kind < len(KINDS) >= 12


def test_what_lists_may_hold_is_known() -> None:
    lists = [TASKS["talk, lists"](Dice(str(seed)), problem(0)).asked.split("\n")[1] for seed in range(300)]
    assert all(map(is_listed, lists))
    assert is_listed("Say hello to Tom and Ann.")
    assert not any(map(is_listed, ("Say hello to Tom.", "Ask Tom for the pens.", "Do you like pens?")))


def test_one_sentence_of_talk_in_eight_is_held_back() -> None:
    questions = {exchange(Dice(str(seed)))[0] for seed in range(3000)}
    assert sum(map(is_held_back, questions)) / len(questions) == pytest.approx(1 / 8, abs=0.04)


# training


def test_no_text_of_training_shows_a_withheld_problem_or_talk(tokenizer: Tokenizer) -> None:
    for number in range(len(ROUNDS)):
        for text in islice(round_examples(tokenizer, 0, number), 300):
            written = tokenizer.decode(text.tokens)
            question = written.partition("## Question\n")[2].partition("\n")[0]
            assert question not in withheld()
            assert not ("Talk." in written and is_held_back(question) and not is_listed(question))


def test_rounds_hold_every_task_and_draw_texts_of_their_own(tokenizer: Tokenizer) -> None:
    assert set().union(*(this.shares for this in ROUNDS)) == set(TASKS)
    assert all(set(this.shares) <= set(TASKS) for this in ROUNDS)
    assert next(round_examples(tokenizer, 0, 0)) != next(round_examples(tokenizer, 0, 1))


@pytest.mark.parametrize("number", range(len(ROUNDS)))
def test_the_same_seed_draws_the_same_batches_and_all_fit(number: int, tokenizer: Tokenizer) -> None:
    first, again, other = (next(round_batches(tokenizer, seed, number, 1)) for seed in (0, 0, 1))
    assert first == again != other
    for texts, rows in zip(first, ROUNDS[number].rows, strict=True):
        assert len(texts) == rows.texts
        assert all(len(text.tokens) <= rows.tokens for text in texts)


def test_training_goes_on_from_the_base_and_repeats_itself(tokenizer: Tokenizer) -> None:
    base, shape = load_model(BASE)
    small = Course("try", 2, (Rows(4, 104),), 0.01, 1e-3, 9)

    def run() -> Weights:
        texts = batches(round_examples(tokenizer, 0, 0), iter(()), small.rows, [0, 0])
        return trained({name: tensor.clone() for name, tensor in base.items()}, shape, small, texts, compiled=False)

    one, other = run(), run()
    assert all(torch.equal(one[name], other[name]) for name in base)
    moved = max(float((one[name] - base[name]).abs().max()) for name in base)
    assert 0 < moved < 0.1


@pytest.mark.parametrize("task", TASKS)
def test_a_prompt_and_its_answer_tokenise_alike_apart_and_together(task: str, tokenizer: Tokenizer) -> None:
    """At each place where a user may end what is given: behind the prompt, before and behind what is forced."""
    for seed in range(40):
        text = TASKS[task](Dice(f"joint/{seed}"), problem(seed))
        whole = example(tokenizer, text.asked, text.spans).tokens[:-1]
        for given_ in ("", *beginnings(text)):
            ids = tokenizer.encode(text.asked + given_).ids
            assert whole[: len(ids)] == ids, text.asked + given_


def beginnings(text: Text) -> list[str]:
    """The answer up to what was forced upon it, and up to the end of that."""
    forced = (aloud.PROBE, aloud.FORCED, aloud.AT_ONCE, aloud.ELLIPSIS)
    ends = [end for mark in forced if (at := text.answer.find(mark)) >= 0 for end in (at, at + len(mark))]
    return [text.answer[:end] for end in ends]


# weights


def test_the_package_ships_it_under_its_name_with_the_tokenizer_of_the_base() -> None:
    assert HOME.is_dir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        assert (HOME / name).read_bytes() == (BASE / name).read_bytes()
    mine, base = (load_file(folder / "model.safetensors") for folder in (HOME, BASE))
    assert {name: tensor.shape for name, tensor in mine.items()} == {name: t.shape for name, t in base.items()}
    assert all(bool(tensor.isfinite().all()) for tensor in mine.values())
    assert sum(file.stat().st_size for file in HOME.iterdir()) < 4_500_000


def test_the_card_is_what_its_numbers_give() -> None:
    measured_ = json.loads((HOME / MEASURED).read_text())
    measured_["numbers"] = measured_["numbers"][0]
    assert card(measured_, json.loads((BASE / MEASURED).read_text())) == (HOME / "README.md").read_text()


@pytest.mark.timeout(180)  # the first of them imports transformers
def test_a_prompt_is_what_the_chat_template_makes_of_its_message(sampler: Any) -> None:
    sections = {"Question": "Q?", "Notes": "", "Plan": "P"}
    user = [{"role": "user", "content": ask(sections, "Solve.")}]
    assert user[0]["content"] == "## Question\nQ?\n## Plan\nP\n## Task\nSolve."
    for thinking in (True, False):
        text = sampler.tokenizer.apply_chat_template(
            user, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        assert text == "<s>" + rendered(sections, "Solve.", thinking=thinking)


@pytest.mark.timeout(180)  # the first of them imports transformers
def test_it_does_its_tasks_on_a_few_held_out_problems(sampler: Any) -> None:
    held = [asked for asked in measured(3) if asked.difficulty <= 3]
    tasks = {
        "naming": plans.naming, "following": plans.following, "coding": plans.coding, "differ": judging.differ,
        "needed": judging.needed,
    }  # fmt: skip
    for name, make in tasks.items():
        texts = [make(Dice(f"spot/{number}"), asked) for number, asked in enumerate(held)]
        answers = sampler.answers([text.asked for text in texts], 0.0, seed=0)
        good = sum(text.answer == answer.text for text, answer in zip(texts, answers, strict=True))
        assert good >= 6, (name, good, len(held))


@pytest.mark.timeout(180)  # the first of them imports transformers
def test_a_thought_closed_late_gives_the_answer_and_says_that_it_is_sure(sampler: Any) -> None:
    held = [asked for asked in measured(2) if asked.difficulty <= 3]
    late, early = [], []
    for number, asked in enumerate(held):
        paragraphs = aloud.thought(Dice(f"spot/{number}"), asked, slips=0)
        late.append(thinks_aloud(asked) + aloud.joined(paragraphs))
        early.append(thinks_aloud(asked) + paragraphs[0].text)
    answers = sampler.answers([text + aloud.FORCED for text in late], 0.0, seed=0)
    good = [answer.text == f"{asked.answer}}}." for answer, asked in zip(answers, held, strict=True)]
    assert sum(good) >= len(held) - 1
    surer, less = (sum(yes(sampler, [text + aloud.PROBE for text in texts])) / len(held) for texts in (late, early))
    assert surer > 0.7 > 0.4 > less


def test_what_is_forced_and_asked_reads_as_the_card_says() -> None:
    assert aloud.FORCED == "\n</think>\n\nThe answer is \\boxed{"
    assert (aloud.AT_ONCE, aloud.ELLIPSIS) == ("</think>\n\n", "...\n")
    assert (aloud.PROBE, aloud.YES, aloud.NO) == ("\n\nAm I sure?", " Yes", " No")
