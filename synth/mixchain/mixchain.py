"""MixChain (CoT-Valve, arXiv:2502.09601): one question answered at several lengths, by one model at several weights.

A direction in weight space lengthens or shortens a model's chains; at scale alpha along it the model answers each question once.
Which direction is a matter of the recipe: a LoRA adapter (`adapter`, the paper's cold start), the difference of two models
(`start`, `end`, its zero shot), or levels that a server has loaded (`served`). Long, one row a chain; folded, one row a question:

    {"id": "p7/alpha-0.2", "problem_id": "p7", "solution_index": 1, "alpha": 0.2, "n_tokens": 280, "beta": 0.57, ...}
    {"id": "p7", "question": ..., "answer": ..., "target": "72", "solution_0": ..., "solution_1": ..., "solution_1_token": 280, ...}
"""

from collections.abc import Mapping
from typing import Any, Literal

from tracemill.schemas.levels import Levels, canonical_scales
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace, Verdict
from tracemill.synth.engine import together
from tracemill.synth.mixchain.lengths import Chain, measures
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown

ALPHAS = (0.2, 0.4, 0.6, 0.8)
"""CoT-Valve, section 4.1: the levels of MixChain on GSM8K and PRM12K; for LIMO 0.6 and 0.8."""

NEEDS = {"solver": ("complete", "adapter")}
COLUMNS = {
    "solution_index": int,
    "alpha": float,
    "origin": str,
    "direction": str,
    "length_rank": int,
    "length_monotone": bool,
    "beta": float,
    "dup_of": str,
}
"""The columns of its traces beyond the common ones."""

Direction = Literal["short_to_long", "long_to_short"]
FilterMode = Literal["flag_only", "per_solution", "per_question"]
Layout = Literal["wide", "long"]


def check(
    *,
    alphas: tuple[float, ...],
    prompt: str,
    temperature: float | Literal["model"],
    served: Mapping[str, str] | None,
    params_billions: float | None,
    **_: Any,
) -> None:
    """Raise ValueError for options that cannot work."""
    scales = canonical_scales(alphas)
    check_prompt(prompt)
    check_temperature(_number(temperature))
    for key in served or ():
        if key not in scales:
            raise ValueError(f"served: {key!r} is none of the levels; write them as {', '.join(scales)}")
    if params_billions is not None and not 0 < params_billions < 1e6:
        raise ValueError(f"params_billions = {params_billions}: the model's size, such as 7.6")


def levels(
    *,
    alphas: tuple[float, ...],
    adapter: str | None,
    start: str | None,
    end: str | None,
    served: Mapping[str, str] | None,
) -> Levels:
    """The weights that these options ask for."""
    return Levels(scales=canonical_scales(alphas), adapter=adapter, start=start, end=end, served=served or {})


async def mixchain(
    problem: Problem,
    engine: Engine,
    *,
    alphas: tuple[float, ...] = ALPHAS,
    adapter: str | None = None,
    start: str | None = None,
    end: str | None = None,
    served: Mapping[str, str] | None = None,
    direction: Direction = "short_to_long",
    filter_mode: FilterMode = "flag_only",
    solution_0: bool | None = None,
    beta_include_index0: bool = True,
    prompt: str = PROMPT,
    temperature: float | Literal["model"] = 0.0,
    layout: Layout = "wide",
    params_billions: float | None = None,  # noqa: ARG001 - for the summary
) -> Outcome:
    """Answer a question once at each of `alphas`, and keep what `filter_mode` keeps.

    Give one direction: `adapter`, a LoRA adapter on the model; `end`, the model at alpha 1, and `start`, the one at 0 where it is
    not the model itself; or, on an openai engine, `served`, the names of the levels by alpha (default NAME-alphaA).
    `direction` says what growing alpha does to the length, and is recorded.

    `flag_only` keeps every chain with its verdict (as published for PRM12K), `per_solution` the right ones (as for LIMO),
    `per_question` a question's chains where all of them are right (as for GSM8K). A question without a right chain is turned
    down as `no_correct_sample`, save in `flag_only`.

    `solution_0` puts the source's reference solution at index 0; unless told otherwise, where the direction is `end` and
    there is one. `beta` (CoT-Valve++) goes from 0, the longest right chain of the question, to 1, the shortest;
    `beta_include_index0` counts the reference among them. `layout = "long"` leaves the rows a chain each. `temperature` 0
    is greedy; `model` is the model's own. `params_billions` adds the accuracy per computation unit (ACU) to the summary.
    """
    del served, start, layout  # read by `levels` and by the fold
    if not await engine.verifiable(problem.gold):
        return Outcome(rejections=[(None, Rejection("unverifiable_gold", {"gold": problem.gold}))])
    messages = shown(problem, prompt)
    scales = canonical_scales(alphas)
    drawn = await together(
        engine.sample(messages, sampling=Sampling(temperature=_number(temperature)), adapter=engine.level(scale))
        for scale in scales
    )
    chains = [
        Chain(index, completion, await engine.verify(completion, problem.gold), scale)
        for index, (scale, (completion,)) in enumerate(zip(scales, drawn, strict=True), start=1)
    ]
    wanted = (end is not None and adapter is None) if solution_0 is None else solution_0
    if wanted and problem.solution and problem.solution.strip():
        chains.insert(0, _reference(problem.solution, problem, engine))
    kept, turned_down, why_none = _kept(chains, filter_mode)
    of_length = measures(kept, direction, include_index0=beta_include_index0)

    def trace(chain: Chain) -> Trace:
        return _trace(
            problem, chain, messages, engine.model_name(), {"direction": direction, **of_length.get(chain.index, {})}
        )

    rejections: list[tuple[Trace | None, Rejection]] = [(None, why_none)] if why_none else []
    rejections += [(trace(chain), why) for chain, why in turned_down]
    return Outcome(traces=[trace(chain) for chain in kept], rejections=rejections)


def _number(temperature: float | Literal["model"]) -> float | None:
    """None, the model's own, where the recipe says `model`."""
    return None if temperature == "model" else float(temperature)


def _reference(solution: str, problem: Problem, engine: Engine) -> Chain:
    """Index 0: the source's own solution, right by what it is."""
    tokens = engine.count_tokens(solution)
    completion = Completion(text=solution, finish_reason="stop", n_tokens=tokens, counted=engine.counter())
    return Chain(0, completion, Verdict(status="equal", answer=problem.gold, how="reference"), None)


def _kept(chains: list[Chain], mode: FilterMode) -> tuple[list[Chain], list[tuple[Chain, Rejection]], Rejection | None]:
    """What stays, what does not with the reason for each, and why nothing stays where that is so."""
    if mode == "flag_only":
        return chains, [], None
    drawn = [chain for chain in chains if chain.index > 0]
    right = [chain for chain in drawn if chain.right]
    wrong = [(chain, Rejection(chain.fault, chain.evidence)) for chain in drawn if not chain.right]
    if right and (mode == "per_solution" or not wrong):
        return [chain for chain in chains if chain.right], wrong, None
    why = Rejection("not_all_correct" if right else "no_correct_sample", {"right": len(right), "drawn": len(drawn)})
    return [], [*wrong, *((chain, why) for chain in chains if chain.right)], why


def _trace(
    problem: Problem, chain: Chain, messages: tuple[Message, ...], model: str, columns: Mapping[str, Any]
) -> Trace:
    drawn = chain.scale is not None
    dup_of = columns.get("dup_of")
    return Trace(
        problem_id=problem.problem_id,
        name=chain.name,
        prompt=messages,
        text=chain.completion.text,
        n_tokens=chain.completion.n_tokens,
        finish_reason=chain.completion.finish_reason if drawn else "given",
        model=model if drawn else "reference",
        counted=chain.completion.counted,
        key=chain.completion.key or None,
        verdict=chain.verdict,
        columns={
            **dict.fromkeys(COLUMNS),
            **columns,
            "solution_index": chain.index,
            "alpha": float(chain.scale) if chain.scale is not None else None,
            "origin": "generated" if drawn else "ground_truth",
            "dup_of": dup_of and f"{problem.problem_id}/{dup_of}",
        },
    )
