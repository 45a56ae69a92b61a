r"""CodePlan's training rows: prompt, a plan in the form of code, response.

    def solve(a, b, c):            the plan is read off the response, parses as Python, says no answer, and makes the response likelier to a
        A = a * b                  frozen model: by 0.05 nats a token, and more than the plan of another problem does
        B = A - c
        return B                   -1.20 without, -1.05 with it, -1.22 with another's: 0.15 and -0.02, kept

Wen et al. 2024 (arXiv:2409.12452): plans as pseudocode, mined from prompts and responses that there are. The paper states neither prompt
nor filters; those here are options with our defaults. It is longer than most methods: half of it says what options and columns mean.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import polars as pl

from tracemill.schemas.filling import check_places, fill
from tracemill.schemas.plugins import Engine, PromptLike
from tracemill.schemas.request import Sampling
from tracemill.schemas.rows import Mean, Outcome, Problem, Rejection, Summary, Trace
from tracemill.synth.engine import together
from tracemill.synth.offline_opd import clamped
from tracemill.synth.plans import (
    AGAIN,
    GREEDY,
    asking,
    check_shares,
    leak,
    right_one,
    spoken,
    turned_down,
)
from tracemill.synth.plans_code import Code, unsound
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST

NEIGHBOURS = 4
"""Other problems of the build, whose plans are tried until one differs from the row's own."""
COLUMNS = {
    "plan": str, "response": str, "n_stmt": int, "n_branch": int, "n_loop": int, "straight": bool, "plan_difficulty": int,
    "plan_tok": int, "resp_tok": int, "delta_logp": float, "delta_shuffled": float, "shuffled_from": str, "ast_ok": bool,
}  # fmt: skip
MEANING = {
    "plan": "The plan, as Python.",
    "response": "The response that it was read off.",
    "n_stmt": "Statements of the plan.",
    "n_branch": "if and match of the plan, conditional expressions too.",
    "n_loop": "for and while of the plan, comprehensions too.",
    "straight": "Whether it has neither.",
    "plan_difficulty": "Branches, loops and calls.",
    "plan_tok": "Tokens of the plan, by the solver's tokenizer.",
    "resp_tok": "Tokens of the response.",
    "delta_logp": "Mean log-prob of the response with the plan less that without, nats a token.",
    "delta_shuffled": "The same with the plan of another problem.",
    "shuffled_from": "That problem's id.",
    "ast_ok": "Whether the plan parses.",
}
SCOPE = "code_plan"
# not stated in the paper; our default
SHORTEST, LONGEST, STATEMENTS, RATIO, LEAK, COPIED, LEAST = 80, 2000, 3, 0.5, 0.25, 0.5, 0.05
EXTRACT = (
    "Problem:\n{question}\n\nResponse:\n{response}\n\nWrite how this response goes about the problem as pseudocode that Python can parse: a function "
    "for each sub-goal, variables for what is found on the way, if and for where the way forks or repeats, comments of at most ten words. "
    "No number and no answer that the response works out. Reply with one block of code."
)
PLANNED = "{question}\n\nFollow this plan:\n```python\n{plan}\n```\n\nPlease reason step by step, and put your final answer within \\boxed{}."
BLOCK = "```python\n{plan}\n```\n\n{response}"


def needs(*, extractor: str, base: str) -> Mapping[str, tuple[str, ...]]:
    """The roles that these options ask, and what of them."""
    return {"solver": ("complete",), extractor: ("complete",)} | {
        base: ("complete", "score") if base == "solver" else ("score",)
    }


def check(
    *, n: int, shortest: int, longest: int, statements: int, ratio: float, leaked: float, copied: float, extract: str, planned: str,
    block: str, prompt: str, temperature: float | None, **_: object,
) -> None:  # fmt: skip
    """Raise ValueError for options that cannot work."""
    if not 1 <= n <= MOST:
        raise ValueError(f"n = {n}: between 1 and {MOST:,} responses, of which the first right one is taken")
    if not 1 <= shortest <= longest:
        raise ValueError(
            f"shortest = {shortest}, longest = {longest}: tokens of a response, at least 1, the lower bound first"
        )
    if statements < 1 or ratio <= 0:
        raise ValueError(f"statements = {statements}, ratio = {ratio}: at least one statement, and a ratio above 0")
    check_shares(leaked=leaked, copied=copied)
    check_places("extract", extract, "question", "response")
    check_places("planned", planned, "question", "plan")
    check_places("block", block, "plan", "response")
    check_prompt(prompt)
    check_temperature(temperature)


async def code_plan(
    problem: Problem,
    engine: Engine,
    *,
    response: Literal["drawn", "given"] = "drawn",
    n: int = 1,
    extractor: str = "solver",
    base: str = "solver",
    shortest: int = SHORTEST,
    longest: int = LONGEST,
    statements: int = STATEMENTS,
    ratio: float = RATIO,
    leaked: float = LEAK,
    copied: float = COPIED,
    least: float = LEAST,
    shuffled: Literal["required", "recorded", "none"] = "required",
    extract: str = EXTRACT,
    planned: str = PLANNED,
    block: str = BLOCK,
    prompt: str = PROMPT,
    temperature: float | None = None,
) -> Outcome:
    """Read a plan in code off a response, and keep both where the plan is one, says no answer, and helps.

    The response is the first right one of `n` draws, which are those of `sample` (the first one where there is no gold), or `given`: the first
    of the source's responses, else its solution. The role `extractor` writes the plan at temperature 0, and once more at 0.6 where Python cannot
    parse it. It has to have `statements`, at most `ratio` times the response's tokens, neither the gold nor more than `leaked` of the
    response's numbers, and at most `copied` of its runs of five words in common with the response.

    The role `base` scores the response behind `prompt`, and behind `planned`, which shows the plan: it has to gain `least` nats a token.
    `shuffled = "required"` wants that to be more than it gains with another problem's plan: of the four neighbours by the hash of
    their ids (the same ones in every run and shard) the first whose plan is another. That plan is drawn for this row, so a row costs a second response and
    plan. `recorded` keeps the row whatever comes out, `none` draws no other plan. The row's answer is `block`, to be trained on as a whole.
    """
    given = response == "given"
    drawn = None if given else await right_one(problem, engine, prompt, n, temperature)
    text = _given(problem) if given else spoken(drawn.text) if drawn else ""
    if not text:
        return turned_down("no_response", drawn=0 if given else n)
    size = engine.count_tokens(text)
    if not shortest <= size <= longest:
        return turned_down("too_short" if size < shortest else "too_long", tokens=size)
    asker = _Asker(engine, extractor, extract, prompt, given, temperature)
    code = await asker.plan(problem, text)
    tokens = engine.count_tokens(code.text)
    unfit = unsound(code, tokens, size, text, statements=statements, ratio=ratio, copied=copied)
    if unfit is None and (told := leak(code.text, problem.gold, text, leaked)) is not None:
        unfit = Rejection("leaked", {"plan": code.text, **told})
    if unfit is not None:
        return Outcome(rejections=[(None, unfit)])
    score = partial(_score, engine, base, text)
    before, after = await together((score(shown(problem, prompt)), score(asking(problem, planned, plan=code.text))))
    gain, gain_other, other = after - before, None, None
    if gain >= least and shuffled != "none" and (other := await asker.another(code)) is not None:
        gain_other = await score(asking(problem, planned, plan=other[1].text)) - before
    measured = {
        "delta_logp": gain,
        "delta_shuffled": gain_other,
        "shuffled_from": other[0].problem_id if other else None,
    }
    whole = fill(block, plan=code.text, response=text)
    trace = Trace(
        problem_id=problem.problem_id, name="plan", prompt=shown(problem, prompt), text=whole, n_tokens=engine.count_tokens(whole),
        finish_reason="given" if given else "stop", model="given" if given else engine.model_name(), counted=engine.counter(),
        key=drawn.key if drawn else None, whole=True,
        columns={"plan": code.text, "response": text, "plan_tok": tokens, "resp_tok": size, "ast_ok": True, **(code.counts or {}), **measured},
    )  # fmt: skip
    reason = useless(gain, gain_other, least, compared=shuffled == "required")
    if reason is None:
        return Outcome(traces=[trace])
    return Outcome(rejections=[(trace, Rejection(reason, {**measured, "least": least}))])


def useless(own: float, another: float | None, least: float, *, compared: bool) -> str | None:
    """Why a plan that gains `own` nats a token is not worth keeping, beside one of another problem that gains `another`."""
    if own < least:
        return "not_useful"
    if not compared:
        return None
    return "no_other_plan" if another is None else "no_better_than_another" if own <= another else None


@dataclass(frozen=True, slots=True)
class _Asker:
    """How responses and plans are come by, the problem's own and those of its neighbours."""

    engine: Engine
    extractor: str
    extract: str
    prompt: str
    given: bool
    temperature: float | None

    async def plan(self, problem: Problem, response: str, salt: str = "plan") -> Code:
        """The plan of a response: the greedy one, or one drawn after it where that does not parse."""
        asked, code = asking(problem, self.extract, response=response), Code("", None)
        for how in (GREEDY, AGAIN):
            [reply] = await self.engine.sample(asked, role=self.extractor, scope=SCOPE, salt=salt, sampling=how)
            code = Code.read(spoken(reply.text), whole=not reply.truncated)
            if code.counts is not None:
                break
        return code

    async def another(self, own: Code) -> tuple[Problem, Code] | None:
        """The first neighbour with a plan that is one, and is not the same."""
        for beside in self.engine.neighbours():
            text = _given(beside) if self.given else await self._drawn(beside)
            code = await self.plan(beside, text, f"plan of {beside.problem_id}") if text else own
            if code.counts is not None and code.text != own.text:
                return beside, code
        return None

    async def _drawn(self, beside: Problem) -> str:
        asked, sampling = shown(beside, self.prompt), Sampling(temperature=self.temperature)
        [reply] = await self.engine.sample(asked, scope=SCOPE, salt=f"of {beside.problem_id}", sampling=sampling)
        return "" if reply.truncated else spoken(reply.text)


async def _score(engine: Engine, base: str, text: str, asked: PromptLike) -> float:
    """The mean log-prob of a response behind a prompt, in nats a token."""
    logprobs = clamped((await engine.score(asked, text, role=base)).logprobs)
    return math.fsum(logprobs) / len(logprobs)


def _given(problem: Problem) -> str:
    """What the source answers; empty where it says nothing."""
    return next((spoken(text) for text in (*problem.responses.values(), problem.solution) if text and text.strip()), "")


def summary(traces: pl.LazyFrame) -> Summary:
    """What plans gain, the own ones and those of other problems, and how long they are."""
    measures = {
        "own": 1000 * pl.col("delta_logp"), "another": 1000 * pl.col("delta_shuffled"),
        "length": 100 * pl.col("plan_tok") / pl.col("resp_tok"),
    }  # fmt: skip
    stats = traces.group_by("straight").agg(
        pl.len().alias("rows"),
        pl.col("delta_shuffled").count().alias("compared"),
        *(value.sum().alias(name) for name, value in measures.items()),
        *((value * value).sum().alias(f"{name}2") for name, value in measures.items()),
    )
    rows = [
        {
            "plans": "straight" if row["straight"] else "with branches or loops",
            "scored": row["rows"],
            "gain, nats in 1,000 tokens": Mean(row["own"], row["own2"], row["rows"]),
            "with another's": Mean(row["another"], row["another2"], row["compared"]) if row["compared"] else None,
            "tokens, % of the response": Mean(row["length"], row["length2"], row["rows"], least=0),
        }
        for row in stats.sort("straight").collect().to_dicts()
    ]
    return Summary(title="Plans in code, whatever became of them", rows=rows)
