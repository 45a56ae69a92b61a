"""A judge is measured on planted cases before its word counts, by the way that rows go; without that, its rows are not published."""

import json
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tracemill.pipelines.asking.why import why
from tracemill.pipelines.build import Built, build
from tracemill.pipelines.cli import app
from tracemill.pipelines.judging.judges import judges_of
from tracemill.pipelines.plan import resolve
from tracemill.pipelines.publish import publish_to
from tracemill.pipelines.scale.shards import Shard, build_shard, gather
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import EngineLost, JudgeRefused, LawBroken, RecipeError, ShardsMissing
from tracemill.schemas.intervals import wilson
from tracemill.schemas.recipe import Recipe, load_recipe, parse_recipe
from tracemill.schemas.request import Completion, Request, TokenScores
from tracemill.schemas.rows import Judgement
from tracemill.synth import divergent_tokens
from tracemill.synth.tiny.planted import lines

Make = Callable[..., Recipe]
ROOT = Path(__file__).parents[1]
EQUATION = re.compile(r"(\d+ [-+*] \d+) = (\d+)")
SURE = {"use": "where", "sql": "p_true >= 0.5"}
METHOD = '''
"""A method whose judge looks at each question."""
from tracemill.schemas.rows import Outcome, Trace
{head}

async def own(problem, engine, *, limit: float = 0.5):
    [drawn] = await engine.sample(problem.question)
    asked = ({{"role": "user", "content": problem.question}},)
    judged = await engine.judge("keep " + drawn.text, ("1", "0"))
    return Outcome(traces=[Trace.of(problem, drawn, name="a", prompt=asked, model="m")])
'''
HOOK = """
CASE = ("text",)

async def calibrate(case, engine, *, limit):
    judged = await engine.judge("Is it so? " + case["text"], ("1", "0"))
    p = judged.probabilities.get("1", 0) if judged.probabilities else None
    return None if p is None else p >= limit
"""


def says(text: str, p: float = 0.9) -> Completion:
    scores = TokenScores(token_ids=array("i", [1]), logprobs=array("f", [log(p)]))
    return Completion(text=text, finish_reason="length", n_tokens=1, scores=scores)


def judge(request: Request) -> Any:
    """Believes every solution that says `sure`, reads nothing in one that says `odd`; solves like nobody."""
    if request.scope == "judge":
        text = str(request.prompt)
        return says("?" if "odd" in text else "1" if "sure" in text else "0")
    return rf"sure, \boxed{{{request.index}}}"


def planted(right: int = 8, good: int = 10, caught: int = 7, bad: int = 10, odd: int = 1) -> list[dict[str, Any]]:
    """Good cases of which `right` are believed, bad ones of which `caught` are not, and one of each that is not read for `odd`."""
    rows = [
        {"question": "q", "solution": f"good {i} {'sure' if i < right else 'no'}", "expected": "good"}
        for i in range(good)
    ]
    rows += [
        {"question": "q", "solution": f"bad {i} {'no' if i < caught else 'sure'}", "expected": "bad"}
        for i in range(bad)
    ]
    for side in ("good", "bad"):
        rows += [{"question": "q", "solution": f"odd {side} {i}", "expected": side} for i in range(odd)]
    return rows


@pytest.fixture
def store(memory_folder: Path) -> Store:
    return Store(memory_folder / "store")


@pytest.fixture
def cases(tmp_path: Path) -> Callable[[Sequence[Any]], str]:
    def write(rows: Sequence[Any]) -> str:
        file = tmp_path / "cases.jsonl"
        file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(file)

    return write


@pytest.fixture
def judged(recipe: Make) -> Make:
    """A recipe whose rows a judge decides about."""

    def make(calibration: str | None, **changes: Any) -> Recipe:
        score = changes.pop("score", {})
        if isinstance(score, dict):
            score = [{"use": "p_true", **({"calibration": calibration} if calibration else {}), **score}]
        models = {name: {"name": "scripted-solver", "max_tokens": 64} for name in ("solver", "judge")}
        table = recipe().model_dump(exclude={"models", "engines", "select", "filters", "score"}, exclude_none=True)
        whole = {**table, "models": models, "engine": {"kind": "scripted"}, "score": score, "filters": [SURE]}
        return parse_recipe({**whole, **changes})

    return make


def measured(made: Built) -> Mapping[str, Any]:
    [found] = made.dataset.manifest()["calibration"]
    assert isinstance(found, Mapping)
    return found


def told(share: Mapping[str, Any]) -> tuple[int, int]:
    low, high = wilson(share["part"] / share["whole"], share["whole"])
    assert (share["mean"], share["low"], share["high"]) == (share["part"] / share["whole"], low, high)
    return share["part"], share["whole"]


# What is measured


def test_a_judge_of_known_error_rates_gets_just_these_numbers(judged: Make, store: Store, cases: Any):
    made = build(judged(cases(planted())), store, reply=judge)
    found = measured(made)
    assert told(found["accuracy"]) == (8 + 7, 22)
    assert told(found["good_kept"]) == (8, 11)
    assert told(found["bad_caught"]) == (7, 11)
    assert (found["undecided"], found["cases"], len(found["missed"])) == (2, 22, 7)
    assert (found["use"], found["models"]) == ("p_true", {"judge": "scripted-solver"})
    assert made.dataset.manifest()["judged"] == [
        {"use": "p_true", "kind": "score", "roles": ["judge"], "by": ["filter:where"], "calibrated": True}
    ]
    assert made.dataset.manifest()["inputs"]["cases.jsonl"] == found["sha256"]


def test_it_is_the_filter_that_is_measured(judged: Make, store: Store, cases: Any):
    """The same answers under a filter that keeps nothing: all bad ones caught, no good one kept."""
    strict = {"use": "where", "sql": "p_true >= 1.5"}
    found = measured(build(judged(cases(planted()), filters=[strict]), store, reply=judge))
    assert told(found["good_kept"]) == (0, 11)
    assert told(found["bad_caught"]) == (10, 11)


def test_a_filter_that_does_not_read_the_score_has_no_say(judged: Make, store: Store, cases: Any):
    plain = [{"use": "correct"}, {"use": "length", "at_most": 1}, SURE]
    assert told(measured(build(judged(cases(planted()), filters=plain), store, reply=judge))["good_kept"]) == (8, 11)


def test_a_case_may_say_what_a_column_ought_to_hold(judged: Make, store: Store, cases: Any):
    rows = [
        {"id": "a", "question": "q", "solution": "sure", "expected": {"p_true": [0.8, 1]}},
        {"id": "b", "question": "q", "solution": "no", "expected": {"p_true": [0.8, 1], "p_true_returned": [0, 1]}},
        {"id": "c", "question": "q", "solution": "odd", "expected": {"p_true": 0}},
        {"id": "d", "question": "q", "solution": "not", "expected": {"p_true": 0}},
    ]
    found = measured(build(judged(cases(rows)), store, reply=judge))
    assert told(found["accuracy"]) == (2, 4)
    assert (found["undecided"], found["missed"]) == (1, ["b", "c"])
    assert "good_kept" not in found


def test_a_case_is_a_conversation_too_and_what_other_columns_say_is_verified(judged: Make, store: Store, cases: Any):
    turns = [{"role": "user", "content": "2 + 2?"}]
    rows = [
        {"question": "q", "gold": "4", "messages": [*turns, {"role": "assistant", "content": rf"sure \boxed{{{n}}}"}], "expected": e}
        for n, e in ((4, "good"), (5, "bad"), (6, "good"))
    ]  # fmt: skip
    both = {"use": "where", "sql": "p_true >= 0.5 AND correct"}
    found = measured(build(judged(cases(rows), filters=[both]), store, reply=judge))
    assert (told(found["good_kept"]), told(found["bad_caught"])) == ((1, 2), (1, 1))


def test_two_scores_that_one_filter_reads_decide_together(judged: Make, store: Store, cases: Any):
    def reply(request: Request) -> Any:
        return (
            "90"
            if request.scope == "critic" and "good" in str(request.prompt)
            else "10"
            if request.scope == "critic"
            else judge(request)
        )

    scores = [
        {"use": "critic"},
        {"use": "p_true", "calibration": cases(planted(good=4, right=4, bad=4, caught=0, odd=0))},
    ]
    both = {"use": "where", "sql": "p_true >= 0.5 AND critic > 0.5"}
    found = measured(build(judged(None, score=scores, filters=[both]), store, reply=reply))
    assert (told(found["good_kept"]), told(found["bad_caught"])) == ((4, 4), (4, 4))


# The journal


def test_no_case_is_asked_twice_whatever_the_file_becomes(judged: Make, store: Store, cases: Any):
    asked: Counter[str] = Counter()

    def counting(request: Request) -> Any:
        asked[request.key] += 1
        return judge(request)

    first = build(judged(cases(planted())), store, reply=counting)
    before = sum(asked.values())
    assert build(judged(cases(planted())), store, reply=counting).dataset.version == first.dataset.version
    assert sum(asked.values()) == before
    more = [
        {**planted()[0], "expected": "bad"},
        *planted()[:0:-1],
        {"question": "q", "solution": "new sure", "expected": "good"},
    ]
    second = build(judged(cases(more)), store, reply=counting)
    assert sum(asked.values()) == before + 1, "another order and another label ask nothing"
    assert second.dataset.version != first.dataset.version, "its card says something else"
    assert set(asked.values()) == {1}
    assert second.tally.reused == second.tally.total, "no problem is worked on again"


def test_a_killed_calibration_goes_on_where_it_was(judged: Make, store: Store, cases: Any, tmp_path: Path):
    asked: Counter[str] = Counter()

    def dying(request: Request) -> Any:
        if request.problem_id.startswith("calibration") and len(asked) >= 9:
            raise EngineLost("killed")
        asked[request.key] += 1
        return judge(request)

    with pytest.raises(EngineLost):
        build(judged(cases(planted())), store, reply=dying)
    assert len(asked) == 9, "no problem before the cases"
    kept = set(asked)
    again: Counter[str] = Counter()

    def counting(request: Request) -> Any:
        again[request.key] += 1
        return judge(request)

    made = build(judged(cases(planted())), store, reply=counting)
    assert not kept & set(again)
    whole = build(judged(cases(planted())), Store(store.root.parent / "other"), reply=judge)
    assert made.dataset.version == whole.dataset.version
    assert measured(made) == measured(whole)


def test_shards_ask_and_gathering_does_not(judged: Make, store: Store, cases: Any):
    told_of = judged(cases(planted()))
    for shard in ("0/2", "1/2"):
        build_shard(told_of, store, Shard.parse(shard), reply=judge)
    changed = judged(cases([*planted(), {"question": "q", "solution": "new", "expected": "bad"}]))
    with pytest.raises(ShardsMissing, match=r"not all cases that calibrate p_true \(cases.jsonl\).*--shard"):
        gather(changed, store, called="r.toml")
    assert measured(gather(judged(cases(planted())), store))["cases"] == 22


def test_partial_says_what_is_known(judged: Make, store: Store, cases: Any):
    made = build(judged(cases(planted())), store, reply=judge, partial=True)
    assert "calibration" not in made.dataset.manifest()
    assert made.dataset.manifest()["judged"][0]["calibrated"] is False


def test_why_tells_of_cases(judged: Make, store: Store, cases: Any):
    build(judged(cases(planted())), store, reply=judge)
    new = [*planted(), *({"question": "q", "solution": f"new {i}", "expected": "bad"} for i in range(3))]
    facts = why(judged(cases(new)), store)
    assert facts["requests"]["new"] == 3
    assert facts["notes"][0] == "3 of the new requests are about cases that measure judges before the first problem"


# What it decides


def test_a_judge_that_is_too_bad_stops_the_build_before_the_first_problem(judged: Make, store: Store, cases: Any):
    worked: list[str] = []

    def noting(request: Request) -> Any:
        worked.append(request.problem_id)
        return judge(request)

    file = cases(planted(odd=0))
    with pytest.raises(
        JudgeRefused, match=r"right about 15 of 20 cases of cases.jsonl, 0 of them undecided.*least_accuracy = 0.76"
    ):
        build(judged(file, score={"least_accuracy": 0.76}), store, reply=noting)
    assert {name.partition("-")[0] for name in worked} == {"calibration"}
    assert not store.list()
    enough = build(judged(file, score={"least_accuracy": 0.75}), store, reply=judge)
    assert measured(enough)["least_accuracy"] == 0.75


def test_a_case_that_cannot_be_asked_is_undecided_and_all_of_them_an_error(
    judged: Make, store: Store, cases: Any, tmp_path: Path
):
    (tmp_path / "mine.py").write_text(
        'NEEDS = {"judge": ("complete",)}\nCOLUMNS = {"n": int}\n'
        "async def mine(trace, engine):\n    return {'n': 1 // (trace['messages'][-1]['content'] != 'good 0 sure')}\n"
    )
    score = {"use": f"{tmp_path}/mine.py:mine", "calibration": cases(planted(odd=0))}
    made = build(judged(None, score=score, filters=[{"use": "where", "sql": "n = 1"}]), store, reply=judge)
    found = measured(made)
    assert (told(found["good_kept"]), told(found["bad_caught"]), found["undecided"]) == ((9, 10), (0, 10), 1)
    assert list(found["faults"].values()) == ["ZeroDivisionError: integer division or modulo by zero"]
    (tmp_path / "mine.py").write_text(
        'NEEDS = {"judge": ("complete",)}\nCOLUMNS = {"n": int}\nasync def mine(trace, engine):\n    return {"n": 1 // 0}\n'
    )
    with pytest.raises(RecipeError, match=r"none of the 20 cases of cases.jsonl could be asked.*ZeroDivision"):
        build(judged(None, score=score, filters=[{"use": "where", "sql": "n = 1"}]), store, reply=judge)


# Who judges


@pytest.mark.parametrize(
    ("scores", "filters", "select", "by"),
    [
        ([{"use": "p_true"}], [], [], []),
        ([{"use": "p_true"}], [{"use": "correct"}], [{"use": "keep", "k": 1}], []),
        ([{"use": "p_true"}], [SURE], [], ["filter:where"]),
        ([{"use": "p_true"}], [], [{"use": "cisc", "confidence": "p_true"}], ["select:cisc"]),
        ([{"use": "critic"}], [], [{"use": "standardize", "column": "critic", "into": "w"}], []),
        (
            [{"use": "critic"}], [],
            [{"use": "standardize", "column": "critic", "into": "w"}, {"use": "budget", "tokens": 100, "order": ["-w"]}], ["select:budget"],
        ),
        ([{"use": "judge_difficulty"}], [], [{"use": "select2reason", "percent": 50, "d_method": "judge"}], ["select:select2reason"]),
    ],
)  # fmt: skip
def test_a_judge_is_who_is_asked_for_a_column_that_a_step_decides_by(
    judged: Make, store: Store, scores: Any, filters: Any, select: Any, by: list[str]
):
    changed = judged(None, score=scores, filters=filters, select=select)
    found = judges_of(resolve(changed, runtime=store.engines_folder))
    assert [step for judge in found for step in judge.by] == by
    assert [judge.roles for judge in found] == ([("judge",)] if by else [])


def test_a_score_that_asks_nobody_is_no_judge(judged: Make, store: Store):
    pytest.importorskip("detect_secrets", reason="needs the extra: pip install 'tracemill[pii]'")
    changed = judged(None, score=[{"use": "secrets"}], filters=[{"use": "where", "sql": "secrets = 0"}])
    assert judges_of(resolve(changed, runtime=store.engines_folder)) == []


@pytest.mark.parametrize(
    ("head", "roles"),
    [
        ('NEEDS = {"solver": ("complete",)}', ()),
        ('NEEDS = {"solver": ("complete",), "judge": ("logprobs",)}', ("judge",)),
        ('NEEDS = {"judge": ("logprobs",)}\ndef judges(*, limit):\n    return ("judge",) if limit > 0.6 else ()', ()),
        (
            'NEEDS = {"judge": ("logprobs",)}\ndef judges(*, limit):\n    return ("judge",) if limit < 0.6 else ()',
            ("judge",),
        ),
    ],
)
def test_a_method_judges_where_it_asks_a_judge_or_says_so(
    head: str, roles: Any, judged: Make, store: Store, tmp_path: Path
):
    (tmp_path / "own.py").write_text(METHOD.format(head=head))
    changed = judged(None, score=[], filters=[], synth={"use": f"{tmp_path}/own.py:own"})
    found = judges_of(resolve(changed, runtime=store.engines_folder))
    assert [judge.roles for judge in found] == ([roles] if roles else [])


def test_a_method_is_measured_by_its_hook(judged: Make, store: Store, cases: Any, tmp_path: Path):
    (tmp_path / "own.py").write_text(METHOD.format(head='NEEDS = {"judge": ("logprobs",)}' + HOOK))
    rows = [
        {"text": text, "expected": e} for text, e in (("sure", "good"), ("no", "good"), ("nay", "bad"), ("odd", "bad"))
    ]
    synth = {"use": f"{tmp_path}/own.py:own", "calibration": cases(rows)}

    def built(**options: Any) -> Built:
        return build(judged(None, score=[], filters=[], synth={**synth, **options}), store, reply=judge)

    made = built()
    found = measured(made)
    assert (told(found["good_kept"]), told(found["bad_caught"]), found["undecided"]) == ((1, 2), (1, 2), 1)
    assert made.dataset.manifest()["judged"] == [
        {"use": "own.py:own", "kind": "method", "roles": ["judge"], "by": ["method"], "calibrated": True}
    ]
    strict = built(limit=0.95)
    assert told(measured(strict)["good_kept"]) == (0, 2), "the hook is given the options"
    (tmp_path / "own.py").write_text(
        METHOD.format(
            head='NEEDS = {"judge": ("logprobs",)}'
            + HOOK.replace("return None if p is None else p >= limit", "return 7")
        )
    )
    with pytest.raises(RecipeError, match=r"its `calibrate` returned 7; True for good"):
        built()


# Publishing


def test_rows_of_a_judge_whom_nobody_measured_are_not_published(judged: Make, store: Store, cases: Any, tmp_path: Path):
    made = build(judged(None), store, reply=judge)
    with pytest.raises(
        LawBroken, match=r"nobody measured how often it is right: p_true \(filter:where\).*--uncalibrated"
    ):
        publish_to(made.dataset, str(tmp_path / "out"))
    command = ["publish", "sums", "--to", str(tmp_path / "out"), "--store", str(store.root)]
    refused = CliRunner().invoke(app, command)
    assert (refused.exit_code, (tmp_path / "out").exists()) == (4, False)
    sent = CliRunner().invoke(app, [*command, "--uncalibrated"])
    assert (sent.exit_code, "no judge of it was measured" in sent.stdout) == (0, True)
    card = (made.dataset.path / "README.md").read_text()
    assert "`p_true` decides by filter:where: not measured on known cases." in card
    assert (
        "- Nobody measured how often the judge is right whose word decided about rows: p_true (filter:where)." in card
    )
    good = build(judged(cases(planted())), store, reply=judge)
    assert publish_to(good.dataset, str(tmp_path / "out")).notes == []


def test_a_version_made_of_judged_rows_is_judged(judged: Make, recipe: Make, store: Store, cases: Any, tmp_path: Path):
    first = build(judged(None), store, reply=judge).dataset
    again = recipe(
        name="child", source={"ref": "sums", "licence": "CC0-1.0"}, filters=[], select=[], synth={"use": "sample"}
    ).model_dump(exclude_none=True)
    child = build(parse_recipe({**again, "synth": None, "models": {}, "engines": {}} | {}), store, given=True).dataset
    assert child.manifest()["judged"][0]["of"] == str(first)
    with pytest.raises(LawBroken, match=rf"p_true \(filter:where of {first}\)"):
        publish_to(child, str(tmp_path / "out"))


def test_card_and_screen_say_what_was_measured(judged: Make, store: Store, cases: Any):
    made = build(judged(cases(planted())), store, reply=judge)
    card = (made.dataset.path / "README.md").read_text()
    assert "| judge | cases | accuracy | good kept | bad caught | undecided |" in card
    assert (
        "| p_true by scripted-solver | 22 | 15 of 22, 0.682 [0.473, 0.836] | 8 of 11, 0.727 [0.434, 0.903] | 7 of 11, 0.636"
        in card
    )
    assert card.index("## Judges") < card.index("## What it holds")
    assert "Nobody measured" not in card
    shown = CliRunner().invoke(app, ["show", "sums", "--store", str(store.root)]).stdout
    assert "judge     p_true by scripted-solver: right about 15 of 22, 0.682 [0.473, 0.836] cases" in shown


def test_the_recipe_of_a_version_has_no_folders_in_it(judged: Make, store: Store, cases: Any):
    made = build(judged(cases(planted())), store, reply=judge)
    read = load_recipe(made.dataset.path / "recipe.toml")
    assert read.score[0].calibration == str(made.dataset.path / "cases.jsonl"), (
        "a name, read from the recipe's own folder"
    )
    assert "cases.jsonl" in (made.dataset.path / "recipe.toml").read_text()
    assert str(Path(cases(planted())).parent) not in (made.dataset.path / "recipe.toml").read_text()


# Bad files

GOOD = {"question": "q", "solution": "s", "expected": "good"}
BAD = {"question": "q", "solution": "t", "expected": "bad"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"no case in it"),
        (["", "  "], r"no case in it"),
        ([GOOD], r"all 1 cases are good: a judge that always says so.*add bad ones"),
        ([BAD, {**BAD, "solution": "u"}], r"all 2 cases are bad.*add good ones"),
        ([GOOD, BAD, "{"], r"cases.jsonl', line 3: not JSON"),
        ([GOOD, "[1]"], r"line 2: '\[1\]' is no object"),
        ([GOOD, {**BAD, "solutoin": "x"}], r"line 2: unknown field 'solutoin'; did you mean 'solution'\?"),
        ([GOOD, {**BAD, "n_tokens": 3}], r"unknown field 'n_tokens'.*'n_tokens' is made from these"),
        ([GOOD, {**BAD, "p_true": 0.5}], r"unknown field 'p_true'.*is made from these"),
        ([GOOD, {"question": "q", "solution": "t"}], r"line 2: no `expected`"),
        ([GOOD, {**BAD, "expected": "fine"}], r"expected = 'fine'"),
        ([GOOD, {**BAD, "expected": {}}], r"expected = \{\}"),
        ([GOOD, {**BAD, "expected": {"p_true": [1, 0]}}], r"expected.p_true = \[1, 0\]: a range is two numbers"),
        ([GOOD, {**BAD, "expected": {"p_true": 1}}], r"one set has one kind"),
        ([{**GOOD, "expected": {"p_true": 1}}], r"all 1 cases expect"),
        ([{**GOOD, "expected": {"p_tru": 1}}, {**BAD, "expected": {"p_true": 0}}], r"expects 'p_tru', which it does not make; did you mean 'p_true'"),
        ([GOOD, {**BAD, "question": " "}], r"line 2: no `question`"),
        ([GOOD, {**BAD, "question": 7}], r"question = 7 is no text"),
        ([GOOD, {"question": "q", "expected": "bad"}], r"either `solution`"),
        ([GOOD, {**BAD, "messages": []}], r"either `solution`"),
        ([GOOD, {"question": "q", "messages": [{"role": "user", "content": "x"}], "expected": "bad"}], r"messages: turns of role and content"),
        ([GOOD, {**BAD, "id": 3}], r"id = 3: a text"),
        ([GOOD, {**BAD, "id": "\ud800"}], r"line 2: half of a surrogate pair"),
        ([GOOD, {**BAD, "solution": "x \udc00"}], r"line 2: half of a surrogate pair"),
        ([{**GOOD, "id": "a"}, {**BAD, "id": "a"}], r"line 2: the same case as line 1, by its id"),
        ([GOOD, BAD, {**BAD, "expected": "good"}], r"line 3: the same case as line 2, by its content"),
    ],
)  # fmt: skip
def test_a_file_that_measures_nothing_is_refused_before_the_first_token(
    rows: list[Any], message: str, judged: Make, store: Store, cases: Any
):
    with pytest.raises(RecipeError, match=message):
        build(judged(cases(rows)), store, reply=lambda _: pytest.fail("asked"))


def test_a_line_ends_where_json_lines_end(judged: Make, store: Store, cases: Any):
    rows = [{**row, "solution": f"sure\u2028\x85 {i}"} for i, row in enumerate((GOOD, BAD))]
    lines = [json.dumps(row, ensure_ascii=False) + "\r" for row in rows]
    made = build(judged(cases(["\ufeff" + lines[0], lines[1]])), store, reply=judge)
    assert measured(made)["cases"] == 2


def test_what_cannot_be_measured_is_refused_before_the_first_token(
    judged: Make, store: Store, cases: Any, tmp_path: Path
):
    def refused(message: str, made: Callable[[], Recipe]) -> None:
        with pytest.raises(RecipeError, match=message):
            build(made(), store, reply=lambda _: pytest.fail("asked"))

    file = cases([GOOD, BAD])
    refused(r"no/such.jsonl cannot be read \(No such file", lambda: judged(str(tmp_path / "no/such.jsonl")))
    refused(r"cannot be read \(Is a directory", lambda: judged(str(tmp_path)))
    (tmp_path / "odd.jsonl").write_bytes(b'{"question": "\xff"}')
    refused("is no text in UTF-8", lambda: judged(str(tmp_path / "odd.jsonl")))
    refused(r"no filter decides by one of its columns \(p_true, p_true_returned\)", lambda: judged(file, filters=[]))
    refused(r"filter where also reads 'correct', which is not known of 2 of 2 cases.*give it a `gold`",
            lambda: judged(file, filters=[{"use": "where", "sql": "p_true > 0.5 AND correct"}]))  # fmt: skip
    refused("least_accuracy is measured on planted cases", lambda: judged(None, score={"least_accuracy": 0.5}))
    refused("less than or equal to 1", lambda: judged(file, score={"least_accuracy": 1.5}))
    refused("sample has no function `calibrate`", lambda: judged(None, synth={"use": "sample", "calibration": file}))
    refused(
        "correct has no option 'calibration'", lambda: judged(None, filters=[{"use": "correct", "calibration": file}])
    )
    (tmp_path / "own.py").write_text(METHOD.format(head='NEEDS = {"judge": ("logprobs",)}' + HOOK))
    own = {"use": f"{tmp_path}/own.py:own", "calibration": file}
    refused("unknown field 'question'; known: expected, id, text", lambda: judged(None, synth=own))
    cases([{"text": 3, "expected": "good"}])
    refused("text = 3: own.py:own wants a text", lambda: judged(None, synth=own))
    cases([{"text": "a", "expected": {"x": 1}}, {"text": "b", "expected": {"x": 2}}])
    refused('cases of a method expect "good" or "bad"', lambda: judged(None, synth=own))


@pytest.mark.parametrize("kind", ["solutions", "differences", "segments"])
def test_the_shipped_sets_are_what_their_script_makes(kind: str):
    assert (ROOT / f"data/calibration/{kind}.jsonl").read_text(encoding="utf-8") == lines(kind)


def test_shipped_solutions_are_what_they_are_called():
    for row in map(json.loads, lines("solutions").splitlines()):
        false = [e for e in EQUATION.findall(row["solution"]) if not eval(f"{e[0]} == {e[1]}", {}, {})]
        said = row["solution"].rpartition("{")[2].rstrip("}.")
        assert (row["expected"] == "good") == (not false and said == row["gold"])


def test_shipped_differences_are_what_they_are_called():
    for row in map(json.loads, lines("differences").splitlines()):
        one, other = (
            re.findall(r"\d+|[-+*]", row["context"] + row[name].rpartition(":")[2]) for name in ("first", "second")
        )
        assert row["first"][0] != row["second"][0]
        assert (row["expected"] == "good") == (one[-4:] == other[-4:])


def test_shipped_segments_are_what_they_are_called():
    for row in map(json.loads, lines("segments").splitlines()):
        assert row["segment"] in row["solution"]
        begins = row["segment"].startswith(
            ("Wait", "Hmm", "Alternatively", "So the answer", "That", "This", "So far", "Good", "We look")
        )
        assert (row["expected"] == "bad") == begins or ", not " in row["segment"]


async def test_a_divergence_is_judged_as_in_a_build():
    """The first word of each text stands between the marks, and good is a pair of which only words differ."""
    asked: list[str] = []

    class Asked:
        async def judge(self, prompt: str, answers: Sequence[str], **_: Any) -> Judgement:
            asked.append(prompt)
            said = "0" if "So" in prompt else "?" if "odd" in prompt else "1"
            return Judgement(probabilities={said: 0.9}, returned=((said, 0.9),))

    async def of(first: str, second: str, **options: Any) -> bool | None:
        case = {"context": "A. ", "first": first, "second": second}
        chosen = {"judge": "{context}|{first}|{second}", "marks": ("<", ">"), **options}
        return await divergent_tokens.calibrate(case, Asked(), **chosen)  # type: ignore[arg-type]

    assert await of("So 4 = 4.", "Now 4 = 4.") is True
    assert await of(" 4.", " 5.") is False
    assert await of("odd", "even", marks=("", "")) is None
    assert asked == ["A. |<So> 4 = 4.|<Now> 4 = 4.", "A. |< 4.>|< 5.>", "A. |odd|even"]


def test_a_recipe_finds_its_cases_beside_it(judged: Make, store: Store, cases: Any, tmp_path: Path, problems: Path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    shutil.move(cases([GOOD, BAD]), folder / "cases.jsonl")
    (folder / "r.toml").write_text(
        f'name = "sums"\n[source]\npath = "{problems}"\n[model]\nname = "a"\nmax_tokens = 8\n[models.judge]\nname = "b"\nmax_tokens = 8\n'
        '[engine]\nkind = "scripted"\n[synth]\nuse = "sample"\n[[score]]\nuse = "p_true"\ncalibration = "cases.jsonl"\n'
        '[[filters]]\nuse = "where"\nsql = "p_true > 0.5"\n'
    )
    assert CliRunner().invoke(app, ["check", str(folder / "r.toml"), "--store", str(store.root)]).exit_code == 0
