"""Petri-net traces (MedVerse, arXiv:2602.07529): reasoning as a sound net, its independent steps written at the same time.

    chains "1: A->C", "2: B->C"   ->   Transient Step 1: A, B -> C   ->   texts, frontier by frontier   ->   conclusion

One trace a problem. Its row holds the net (entities, steps, frontiers, width, depth), the texts, what the checks said, and where
each step's tokens stand and may look, so that a trainer can use it as it is.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tracemill.schemas.plugins import Engine
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace, Verdict
from tracemill.synth.petri_trace import solved
from tracemill.synth.petri_trace.chains import LONGEST, Unusable
from tracemill.synth.petri_trace.conclude import Conclusion, of_sinks
from tracemill.synth.petri_trace.conclude import given as given_conclusion
from tracemill.synth.petri_trace.graph import read_graph
from tracemill.synth.petri_trace.grounding import (
    CANDIDATES,
    PER_PAIR,
    SAMPLED,
    SIMILAR,
    SURE,
    Rules,
    chains_from_graph,
    check_grounding,
)
from tracemill.synth.petri_trace.plan import BreakCycles, steps_of
from tracemill.synth.petri_trace.plan import plan as planned
from tracemill.synth.petri_trace.polish import Polish
from tracemill.synth.petri_trace.premises import Premises, with_premises
from tracemill.synth.petri_trace.prompts import check_prompts
from tracemill.synth.petri_trace.refine import CALLS, Call, Refiner
from tracemill.synth.petri_trace.result import Begun, Result, Way, carry_out
from tracemill.synth.petri_trace.rows import text_and_columns
from tracemill.synth.petri_trace.solved import Uses
from tracemill.synth.petri_trace.text import training_parts
from tracemill.synth.petri_trace.validators import check as check_blocks
from tracemill.synth.petri_trace.writer import Asker, Execution
from tracemill.synth.prompts import check_temperature, shown

Origin = Literal["given", "grounded", "generated", "from_solution", "written"]

ROUNDS = 5
"""MedVerse, released scripts: rows that fail are generated anew up to five times."""
MOST_TOKENS = 8192
"""MedVerse, released training scripts: the sequence limit. A longer row is dropped, never cut."""
MOST_PATHS = 100
"""Not stated in the paper; our default: a net of 40 steps can have a million ways through it."""


def needs(
    *, prefixes: Mapping[str, str] | None, begins: str, planner: str, judge: str | None, path_judge: str | None
) -> Mapping[str, tuple[str, ...]]:
    """The roles that these options ask, and what of them."""
    forced = ("complete", "prefix") if prefixes or begins else ("complete",)
    judges = {role: ("complete",) for role in (judge, path_judge) if role}
    return {"solver": forced, **judges, **({planner: forced} if planner else {})}


def files(*, graph: str | None, embedder: str | None) -> Iterator[Path]:
    """What the method reads beside the sources; an embedder may be a Hub id as well."""
    for name in (graph, embedder):
        if name is not None and (name == graph or Path(name).is_absolute()):
            yield Path(name)


def check(
    *,
    prompts: Mapping[str, str] | None,
    prefixes: Mapping[str, str] | None,
    stops: Mapping[str, tuple[str, ...]] | None,
    begins: str,
    rounds: int,
    max_paths: int,
    longest_name: int,
    max_tokens: int,
    temperature: float | None,
    **grounding: Any,
) -> None:
    """Raise ValueError for options that cannot work."""
    check_grounding(**grounding)
    check_prompts(prompts or {}, option="prompts")
    check_prompts(prefixes or {}, option="prefixes")
    check_prompts(dict.fromkeys(stops or {}, ""), option="stops")
    check_prompts({"step": begins}, option="begins of")
    check_temperature(temperature)
    for option, value, least in (
        ("rounds", rounds, 0),
        ("max_paths", max_paths, 1),
        ("longest_name", longest_name, 1),
        ("max_tokens", max_tokens, 1),
    ):
        if value < least:
            raise ValueError(f"{option} = {value}: at least {least}")
    if temperature == 0 and rounds > 0:
        raise ValueError(
            f"rounds = {rounds}: at temperature 0 they write the same again; give a temperature or rounds = 0"
        )


async def petri_trace(
    problem: Problem,
    engine: Engine,
    *,
    plan: Origin = "given",
    premises: Premises = "roots",
    refine: tuple[Call, ...] = CALLS,
    break_cycles: BreakCycles = "never",
    uses: Uses = "asked",
    graph: str | None = None,
    embedder: str | None = None,
    candidates: int = CANDIDATES,
    similar: float = SIMILAR,
    sure: float = SURE,
    sampled: int = SAMPLED,
    per_pair: int = PER_PAIR,
    path_judge: str | None = None,
    execution: Execution = "frontier",
    polish: tuple[Polish, ...] = (),
    rounds: int = ROUNDS,
    rewrite: Literal["conclusion", "steps"] = "conclusion",
    eligible: Literal[1, 2] = 2,
    planner: str = "solver",
    judge: str | None = None,
    show_answer: bool = True,
    prompts: Mapping[str, str] | None = None,
    prefixes: Mapping[str, str] | None = None,
    begins: str = "",
    stops: Mapping[str, tuple[str, ...]] | None = None,
    temperature: float | None = None,
    max_paths: int = MOST_PATHS,
    max_tokens: int = MOST_TOKENS,
    longest_name: int = LONGEST,
) -> Outcome:
    """Make the net of a problem and write its steps, all of a frontier at once, and its conclusion.

    `plan` says where the net comes from: `given` takes the source's `chains`; `grounded` takes the shortest paths of a
    knowledge graph between what question and answer name; `generated` asks the role `planner` for chains;
    `from_solution` takes a response or the reference solution as it is and asks which earlier steps each step uses (`uses`:
    `asked` of the model, or `numbers`, by the results that a step takes up); `written` takes a response in MedVerse's tags. A plan
    that cannot be used turns the problem down, a generated one only when `rounds` further ones could not be used either.

    `refine` are the calls on chains, in the paper's order: filter, repair of the form, compose, fill gaps, judge. `premises` says
    what stands before the first step: `roots`, the first nodes of the chains; `question`; or `sentences` of the question, for
    entities that are letters. `break_cycles = "last_chain"` drops the links that close a cycle, and records them.

    `graph` is an edge table (CSV, TSV or Parquet: head, relation, tail, head_type, tail_type). Entities come from the source's
    `question_entities` and `answer_entities`, else the planner names them. A name is linked to the node that bears it, else among
    `candidates` nodes of its type, by the vectors of `embedder` (a sentence-transformers folder or Hub id; without one nothing
    else is linked) and above `similar`: to the nearest above `sure`, else to the one that the planner picks. Of more than
    `sampled` shortest paths between two nodes so many are drawn, and `per_pair` stay: those that the role `path_judge` picks,
    or those with the fewest edges at their inner nodes.

    Each step sees the goal, the plan and the texts of the steps it depends on. `execution = "sequential"` writes the same texts one
    by one. `polish` adds the calls that clean each text, say nothing twice, and insert what is missing. Then plan and execution
    are checked (V1 to V12), and only then the conclusion: its answer equals the gold, it uses every last step, and the role
    `judge`, where there is one, lets it pass. What fails is written anew in up to `rounds` rounds, with what was built on it;
    after a conclusion that fails the conclusion alone, or with `rewrite = "steps"` the steps too. What still fails then, or has
    more than `max_tokens` tokens, is turned down; `eligible = 1` keeps what fails by its conclusion alone, and the column of that
    name says so. `show_answer` shows the gold to the step writer, as the paper does; where it
    comes up before the last steps is in `leaks`.

    `prompts` replaces what is asked, by call; `prefixes` and `begins` force what a reply begins with, of which `begins` is part of a
    step's text; `stops` are stop texts by call. `max_paths` bounds the ways through the net that are listed, `longest_name` the
    characters of an entity's name. `temperature` is the model's own unless given.
    """
    if not await engine.verifiable(problem.gold):
        return Outcome(rejections=[(None, Rejection("unverifiable_gold", {"gold": problem.gold}))])
    asker = Asker(
        problem, engine, prompts or {}, prefixes or {}, stops or {}, begins, show_answer, temperature, planner, judge
    )
    rules = Rules(
        embedder=embedder,
        candidates=candidates,
        similar=similar,
        sure=sure,
        sampled=sampled,
        per_pair=per_pair,
        path_judge=path_judge,
    )
    makers: Mapping[Origin, Callable[[], Awaitable[Begun]]] = {
        "grounded": lambda: _of_graph(asker, str(graph), rules, refine, premises, break_cycles, longest_name),
        "given": lambda: _of_chains(asker, refine, premises, break_cycles, longest_name, drawn=None),
        "generated": lambda: _of_chains(asker, refine, premises, break_cycles, longest_name, drawn=rounds),
        "from_solution": lambda: _of_solution(asker, uses, rounds),
        "written": lambda: _of_text(asker, longest_name),
    }
    try:
        begun = await makers[plan]()
        _fits(begun, engine, max_tokens)
    except Unusable as fault:
        return Outcome(rejections=[(None, Rejection(fault.reason, fault.evidence))])
    way = Way(execution, 0 if plan == "from_solution" else rounds, rewrite == "steps", polish)
    result = await carry_out(begun, asker, way)
    trace = _trace(asker, result, max_paths)
    why = _why_not(result, trace.n_tokens, max_tokens, eligible)
    return Outcome(rejections=[(trace, why)]) if why else Outcome(traces=[trace])


async def _of_chains(
    asker: Asker,
    refine: tuple[Call, ...],
    premises: Premises,
    break_cycles: BreakCycles,
    longest: int,
    *,
    drawn: int | None,
) -> Begun:
    """The plan of given chains, or of the first of `drawn` + 1 draws of the planner that make one."""
    problem = asker.problem
    refiner = Refiner(asker.of_chains, refine, longest)
    if drawn is None and not problem.chains:
        raise Unusable("empty_candidate_set", says="the source has no chains for this problem")
    fault = None
    for draw in range((drawn or 0) + 1):
        try:
            offered = problem.chains if drawn is None else await asker.of_chains("plan", str(draw))
            refined = await refiner.refined(offered or "", draw)
            chains = with_premises(refined, problem.question, premises, longest=longest)
            made = planned(chains, break_cycles=break_cycles)
            return Begun(chains, made.entities, steps_of(made.entities), made.removed, draws=draw)
        except Unusable as unusable:
            fault = unusable
    raise fault or Unusable("empty_candidate_set")


async def _of_graph(
    asker: Asker,
    graph: str,
    rules: Rules,
    refine: tuple[Call, ...],
    premises: Premises,
    break_cycles: BreakCycles,
    longest: int,
) -> Begun:
    """The plan of the chains that a knowledge graph gives."""
    found = await chains_from_graph(asker, read_graph(graph), rules)
    refined = await Refiner(asker.of_chains, refine, longest).refined(found.chains)
    chains = with_premises(refined, asker.problem.question, premises, longest=longest)
    made = planned(chains, break_cycles=break_cycles)
    return Begun(chains, made.entities, steps_of(made.entities), made.removed, grounding=found.columns)


def _solved(problem: Problem) -> str:
    """The first response that there is, or else the reference solution."""
    texts = (*problem.responses.values(), problem.solution)
    found = next((text for text in texts if text and text.strip()), None)
    if found is None:
        raise Unusable("no_solution", says="the source has no response and no solution for this problem")
    return found


async def _of_solution(asker: Asker, uses: Uses, rounds: int) -> Begun:
    text = _solved(asker.problem)
    texts = solved.split_solution(text)
    if not texts:
        raise Unusable("too_small", says="the solution has no steps")
    steps = await solved.steps_used(texts, asker, uses=uses, rounds=rounds)
    if text == asker.problem.solution:  # right by what it is
        verdict = Verdict(status="equal", answer=asker.problem.gold, how="reference")
    else:
        verdict = await asker.engine.verify(text, asker.problem.gold)
    conclusion = Conclusion(of_sinks(steps), verdict.answer or "", verdict)
    return Begun(solved.links(steps), solved.entities_of(steps), steps, conclusion=conclusion)


async def _of_text(asker: Asker, longest: int) -> Begun:
    """The plan of a trace in tags, with those texts that stand under it; a plan that fails its checks turns the problem down."""
    text = _solved(asker.problem)
    plan, execution = solved.blocks_of(text)
    faults = check_blocks(plan, execution)
    if fatal := [fault for fault in faults if not fault.steps]:
        why = next((fault for fault in fatal if fault.check == "V12"), fatal[0])  # where it is why V1 fails as well
        raise Unusable(why.reason, failed_checks=list(dict.fromkeys(f.check for f in faults)), says=why.says)
    count = asker.engine.count_tokens
    steps = [replace(s, n_tokens=count(s.text)) for s in solved.steps_written(plan, execution, longest=longest)]
    whole = all(step.text for step in steps)
    conclusion = await given_conclusion(text, steps, asker) if whole else None
    return Begun(solved.links(steps), solved.entities_of(steps), steps, conclusion=conclusion, draws=0 if whole else 1)


def _fits(begun: Begun, engine: Engine, max_tokens: int) -> None:
    """Unusable for a plan that is too long before its first step is written: no token is spent on it."""
    before, blocks, after = training_parts(begun.chains, begun.steps, "", "")
    n_tokens = engine.count_tokens("".join((before, *blocks, after)))
    if n_tokens > max_tokens:
        raise Unusable(
            "too_long",
            n_tokens=n_tokens,
            at_most=max_tokens,
            says="with the texts that there are before any is written",
        )


def _trace(asker: Asker, result: Result, max_paths: int) -> Trace:
    problem, engine = asker.problem, asker.engine
    prompt = shown(problem, "{question}")
    text, columns = text_and_columns(problem, engine, prompt, result, goal=asker.goal, max_paths=max_paths)
    conclusion = result.conclusion
    last = result.draft.last[max(result.draft.last)] if result.draft.last else None
    said = (conclusion.said if conclusion else None) or last
    missing = Verdict(status="undecided", reason="no_conclusion")
    return Trace(
        problem_id=problem.problem_id,
        name="net",
        prompt=prompt,
        text=text,
        n_tokens=engine.count_tokens(text),
        finish_reason=said.finish_reason if said else "given",
        model=engine.model_name() if said else "given",
        counted=engine.counter(),
        key=said.key if said else None,
        whole=True,
        verdict=conclusion.verdict if conclusion else missing,
        columns=columns,
    )


def _why_not(result: Result, n_tokens: int, max_tokens: int, eligible: int) -> Rejection | None:
    """Why a trace is turned down, where it is."""
    if result.eligible < eligible:
        first = result.faults[0]
        failed = [f"{fault.check}: {fault.says}" for fault in result.faults[:10]]
        evidence = {"failed_checks": failed, "eligible": result.eligible, "n_regenerations": result.regenerations}
        return Rejection(first.reason, evidence)
    if n_tokens > max_tokens:
        return Rejection("too_long", {"n_tokens": n_tokens, "at_most": max_tokens})
    return None
