"""E2C's training rows: a short plan first, then an execution that was written from the plan and follows it.

    right solution ──▶ plan ──no leak──▶ execution from (problem, plan) ──right, adherent, in order──▶
        <EXPLORATION> 1. Set up the equation ... </EXPLORATION> <EXECUTION> 1. Set up the equation: 3 * 8 = 24 ... </EXECUTION>

Yang et al. 2025 (arXiv:2509.23946) and the released code. A plan that is only read off a solution teaches nobody to follow plans, so the
execution is written anew, from the plan. What the paper does not state is an option here, with our default. It is longer than most
methods: half of it says what options, columns and prompts mean.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import polars as pl

from tracemill.schemas.filling import check_places
from tracemill.schemas.plugins import Engine, PromptLike
from tracemill.schemas.request import Completion
from tracemill.schemas.rows import Mean, Outcome, Problem, Share, Summary, Trace, Verdict, by_lot
from tracemill.synth.plans import (
    AGAIN,
    GREEDY,
    Matching,
    asking,
    check_shares,
    followed,
    leak,
    right_one,
    spoken,
    titles,
    turned_down,
)
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST

COLUMNS = {
    "exploration": str,
    "execution": str,
    "raw_execution": str,
    "plan_titles": list[str],
    "exec_titles": list[str],
    "adherence": float,
    "variant": str,
    "n_tries": int,
}
MEANING = {
    "exploration": "The plan.",
    "execution": "What was written from it; in a plan-only row the execution that proved the plan, which is not trained on.",
    "raw_execution": "The right solution that the plan was read off.",
    "plan_titles": "The plan's numbered titles.",
    "exec_titles": "Those of the execution.",
    "adherence": "Share of the plan's titles that the execution bears.",
    "variant": "full; plan_only: the row ends at <EXECUTION>; direct: a plan of one step.",
    "n_tries": "Executions that it took: 1 is the greedy one.",
}

PLAN_OPENS, PLAN_CLOSES, OPENS, CLOSES = "<EXPLORATION>", "</EXPLORATION>", "<EXECUTION>", "</EXECUTION>"
SCOPE = "plan_execute_split"
# not stated in the paper; our default
TRIES, ADHERENCE, LEAK, PLAN_ONLY, DIRECT = 4, 0.8, 0.25, 0.1, 0.05
FAULTS = ("truncated", "undecided", "wrong", "not_adherent", "order")
"""Why an execution is turned down, the one that came furthest last."""
PLAN = (
    "Problem:\n{question}\n\nSolution:\n{solution}\n\nWrite the plan behind this solution as a short numbered list, one title a line, such as "
    "`1. Set up the equation`. Say what is done in each step and why it helps, in a few words: no numbers of the problem, nothing that is worked "
    "out, no answer. Reply with the list alone."
)
EXECUTE = (
    "{question}\n\nFollow this plan:\n{plan}\n\nWrite one section for each step of the plan, in its order. Begin each with its number and title, as "
    "they stand there, on a line of their own; then carry it out. Put your final answer within \\boxed{} at the end."
)


@dataclass(frozen=True, slots=True)
class Execution:
    """One attempt to carry out a plan."""

    done: Completion
    verdict: Verdict
    sections: list[str]
    share: Fraction
    fault: str | None


def needs(*, planner: str) -> Mapping[str, tuple[str, ...]]:
    """The roles that these options ask."""
    return {"solver": ("complete",), planner: ("complete",)}


def check(
    *, n: int, tries: int, plan: str, execute: str, prompt: str, temperature: float | None,
    adherence: float, leaked: float, plan_only: float, direct: float, **_: object,
) -> None:  # fmt: skip
    """Raise ValueError for options that cannot work."""
    if not 1 <= n <= MOST:
        raise ValueError(f"n = {n}: between 1 and {MOST:,} solutions, of which the first right one is taken")
    if tries < 0:
        raise ValueError(f"tries = {tries}: executions after the greedy one, 0 or more")
    check_shares(adherence=adherence, leaked=leaked, plan_only=plan_only, direct=direct)
    check_places("plan", plan, "question", "solution")
    check_places("execute", execute, "question", "plan")
    check_prompt(prompt)
    check_temperature(temperature)


async def plan_execute_split(
    problem: Problem,
    engine: Engine,
    *,
    solution: Literal["drawn", "given"] = "drawn",
    n: int = 4,
    planner: str = "solver",
    leaked: float = LEAK,
    tries: int = TRIES,
    adherence: float = ADHERENCE,
    matching: Matching = "strict",
    plan_only: float = PLAN_ONLY,
    direct: float = DIRECT,
    plan: str = PLAN,
    execute: str = EXECUTE,
    prompt: str = PROMPT,
    temperature: float | None = None,
) -> Outcome:
    """Read a plan off a right solution, have it carried out, and keep it where the execution is right and follows it.

    The solution is the first right one of `n`, which are those of `sample`; `given` takes the source's, which is right by what it is. The role
    `planner` writes the plan. It is turned down where it says the gold or more than `leaked` of the numbers in the solution. The solver
    carries it out at temperature 0, then up to `tries` times at 0.6, until the answer is right, `adherence` of the plan's titles are found,
    and they stand in its order. `matching = "loose"` finds titles as the released code does, where one shared word of three is
    enough; `strict` leaves stop words out and wants more than half.

    Of the rows `plan_only` end at the opening of the execution (EF-SFT). A plan of one step is `direct`, and `direct` is the share of such
    problems that stay: each of them by the hash of its own id, 5 in 100 of the problems with such plans on average and not a cap on their share
    of the set; the others cost no execution. What models think in think tags is left out.
    """
    if not await engine.verifiable(problem.gold):
        return turned_down("unverifiable_gold", gold=problem.gold)
    drawn = None if solution == "given" else await right_one(problem, engine, prompt, n, temperature)
    raw = (problem.solution or "").strip() if solution == "given" else spoken(drawn.text) if drawn else ""
    if not raw:
        return turned_down("no_correct_solution", drawn=0 if solution == "given" else n)
    [reply] = await engine.sample(
        asking(problem, plan, solution=raw), role=planner, scope=SCOPE, salt="plan", sampling=GREEDY
    )
    exploration = _untagged(reply.text)
    steps = titles(exploration)
    if reply.truncated or not steps:
        return turned_down("no_plan", truncated=reply.truncated, begins=exploration[:200])
    if (told := leak(exploration, problem.gold, raw, leaked)) is not None:
        return turned_down("leaked", plan=exploration, **told)
    if len(steps) == 1 and not by_lot("direct", problem.problem_id, direct):
        return turned_down("direct", plan=exploration, share=direct)
    made = await _carried_out(
        problem, engine, asking(problem, execute, plan=exploration), steps, tries, adherence, matching
    )
    last = made[-1]
    if last.fault is not None:
        failures = Counter(one.fault for one in made if one.fault)
        furthest = max(failures, key=FAULTS.index)
        return turned_down(
            furthest, plan=exploration, last=_untagged(last.done.text), adherence=float(last.share), **failures
        )
    only = len(steps) > 1 and by_lot("plan_only", f"{problem.problem_id}/plan", plan_only)
    execution = _untagged(last.done.text)
    text = f"{PLAN_OPENS}\n{exploration}\n{PLAN_CLOSES}\n{OPENS}" + ("" if only else f"\n{execution}\n{CLOSES}")
    columns = {
        "exploration": exploration, "execution": execution, "raw_execution": raw, "plan_titles": steps, "exec_titles": last.sections,
        "adherence": float(last.share), "variant": "plan_only" if only else "full" if len(steps) > 1 else "direct", "n_tries": len(made),
    }  # fmt: skip
    trace = Trace(
        problem_id=problem.problem_id, name="plan", prompt=shown(problem, prompt), text=text, n_tokens=engine.count_tokens(text),
        finish_reason="stop", model=engine.model_name(), counted=engine.counter(), key=last.done.key, whole=True, verdict=last.verdict, columns=columns,
    )  # fmt: skip
    return Outcome(traces=[trace])


async def _carried_out(
    problem: Problem, engine: Engine, asked: PromptLike, steps: list[str], tries: int, least: float, matching: Matching
) -> list[Execution]:
    """Executions of a plan, the greedy one first, up to the first without a fault."""
    made: list[Execution] = []
    for number in range(tries + 1):
        how, start = (AGAIN, number - 1) if number else (GREEDY, 0)
        [done] = await engine.sample(asked, start=start, scope=SCOPE, salt="execute", sampling=how)
        verdict, sections = await engine.verify(done, problem.gold), titles(spoken(done.text))
        share, ordered = followed(steps, sections, matching)
        fault = "not_adherent" if share < Fraction(str(least)) else None if ordered else "order"
        if not verdict.correct:
            fault = "undecided" if verdict.correct is None else "wrong"
        made.append(Execution(done, verdict, sections, share, "truncated" if done.truncated else fault))
        if made[-1].fault is None:
            break
    return made


def _untagged(text: str) -> str:
    """What a reply says, without tags that it writes itself."""
    return re.sub("|".join((PLAN_OPENS, PLAN_CLOSES, OPENS, CLOSES)), "", spoken(text)).strip()


def summary(traces: pl.LazyFrame) -> Summary:
    """Rows of each variant: how long their plans are, how closely they are followed, and how often greedily."""
    steps, share = pl.col("plan_titles").list.len().cast(pl.Float64), pl.col("adherence")
    stats = traces.group_by("variant").agg(
        rows=pl.len(), steps=steps.sum(), steps2=(steps * steps).sum(), share=share.sum(), share2=(share * share).sum(),
        greedy=(pl.col("n_tries") == 1).sum(),
    ).sort("variant").collect()  # fmt: skip
    rows = [
        {
            "variant": row["variant"],
            "rows": row["rows"],
            "steps": Mean(row["steps"], row["steps2"], row["rows"], least=1),
            "adherence": Mean(row["share"], row["share2"], row["rows"], least=0, most=1),
            "greedy": Share(row["greedy"], row["rows"]),
        }
        for row in stats.to_dicts()
    ]
    return Summary(title="Plans and executions", rows=rows)
