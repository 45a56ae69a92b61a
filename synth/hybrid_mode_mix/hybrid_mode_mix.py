r"""A mix for a model that thinks only where it pays: hard prompts with a thought, easy ones without, and prompts labelled by the better mode.

    <think>\n3 * 8 = 24. ...\n</think>\n\nThe answer is ...      a right reply from the thinking pool
    <no_think>\nHello, Tom.\n</no_think>                          a short one from the other
    thinking 1 1 0 1, not thinking 0 1 0 0: 0.75 - 0.25 > 0.2      held out, label think

Large Hybrid-Reasoning Models (Jiang et al. 2025, arXiv:2505.14631): tags, the two pools and Hybrid Accuracy are theirs; numbers are not stated and
so are our defaults. It is a folder, with labels and card apart. Tokens of both modes are balanced by the selector `balance`, over the whole set.
"""

import re
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Message, Sampling
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace, by_lot
from tracemill.synth import modes
from tracemill.synth.engine import together
from tracemill.synth.hybrid_mode_mix.columns import COLUMNS
from tracemill.synth.hybrid_mode_mix.labels import label_of, mean, pairs, tagged
from tracemill.synth.modes import CLOSE, Rollout
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown, worded
from tracemill.synth.sample import MOST

# not stated in the paper; our defaults: replies of a mode, what thinking has to gain, held-out prompts, tokens of a reply without a thought
N, DELTA, HELD_OUT, LONGEST = 4, 0.2, 0.1, 512
SUMS = re.compile(
    r"```|\\boxed|\\frac|\$[^$]+\$|\d\s*[-+*/^=]\s*\d|\b(?:def|return|import|class|equation|integral|theorem|algorithm)\b"
)
"""What tells mathematics and code, which have no place in the pool without thoughts; not stated in the paper."""


def check(
    *, n: int, delta: float, held_out: float, longest: int, thinking: tuple[str, ...], unthinking: tuple[str, ...], per_token: float,
    open_prompts: str, prompt: str, chat_prompt: str, temperature: float | None, **_: object,
) -> None:  # fmt: skip
    """Raise ValueError for options that cannot work."""
    for name, value in (("n", n), ("longest", longest)):
        if not 1 <= value <= MOST:
            raise ValueError(f"{name} = {value}: between 1 and {MOST:,}")
    if delta < 0 or not 0 <= held_out <= 1:
        raise ValueError(f"delta = {delta}, held_out = {held_out}: 0 or more, and a share from 0 to 1")
    if not thinking or not unthinking or (both := set(thinking) & set(unthinking)):
        why = f"both name {sorted(both)}" if thinking and unthinking else "one names nothing"
        raise ValueError(
            f"thinking = {list(thinking)}, unthinking = {list(unthinking)}: {why}; a pool is told by its names"
        )
    if per_token and open_prompts == "skip":
        raise ValueError(
            f"per_token = {per_token}: takes from a reward model's scores; set open_prompts = 'reward', or take it out"
        )
    check_prompt(prompt)
    check_prompt(chat_prompt)
    check_temperature(temperature)


def needs(*, open_prompts: str) -> dict[str, tuple[str, ...]]:
    """A reward model where prompts without a gold are to be scored."""
    return {"solver": ("complete", "prefix"), **({"reward": ("reward",)} if open_prompts == "reward" else {})}


async def hybrid_mode_mix(
    problem: Problem,
    engine: Engine,
    *,
    pool: str | None = None,
    thinking: tuple[str, ...] = ("think",),
    unthinking: tuple[str, ...] = ("no_think",),
    n: int = N,
    held_out: float = HELD_OUT,
    delta: float = DELTA,
    open_prompts: Literal["skip", "reward"] = "skip",
    per_token: float = 0.0,
    choice: str | None = None,
    longest: int = LONGEST,
    think_prefix: str = "",
    nothink_prefix: str = modes.NOTHING,
    chat_prefix: str | None = None,
    prompt: str = PROMPT,
    chat_prompt: str = "{question}",
    temperature: float | None = None,
) -> Outcome:
    """Draw `n` replies to each prompt in the mode of its pool and keep what is right; of `held_out` prompts, `n` in either mode.

    The column `pool` of the source, or without it the source's name (`arith.jsonl` is `arith`), says which pool a problem is from: one of
    `thinking` or of `unthinking`. Thinking replies have to be right; others too where there is a gold, and else be no mathematics or code;
    none may be cut off, nor one without a thought have more than `longest` tokens. `prompt` asks the thinking pool, `chat_prompt` the other.

    Held-out prompts, by hash, are no training rows (`split`). Replies score 1 where right, and where there is no gold what `[models.reward]` gives
    them (`open_prompts = "reward"`), less `per_token` for each token. The label is `think` where its mean is more than `delta` above the other,
    else `no_think`; `unsolved` where nothing is right. Pairs set the best reply of that mode over the best of the other, and the best over the worst
    within each; there are none where all score the same. `choice` is a prefix behind which the model chooses its mode, such as AutoThink's ellipsis.
    """
    domain = _domain(problem, pool)
    if domain not in (*thinking, *unthinking):
        return Outcome(rejections=[(None, Rejection("no_pool", {"pool": domain, "known": [*thinking, *unthinking]}))])
    thinks, gold = domain in thinking, await engine.verifiable(problem.gold)
    if thinks and not gold:
        return Outcome(rejections=[(None, Rejection("unverifiable_gold", {"gold": problem.gold}))])
    asked = shown(problem, prompt if thinks else chat_prompt)
    quick = nothink_prefix if thinks or chat_prefix is None else chat_prefix
    modes.check_prefixes(engine, asked, think_prefix, quick)
    ask = _Asking(problem, engine, asked, n, Sampling(temperature=temperature), think_prefix, quick)
    if not by_lot("held_out", problem.problem_id, held_out):
        return await _training(ask, domain, thinks, gold, longest)
    scored_by = "verifier" if gold else "reward" if open_prompts == "reward" else None
    return await _held_out(ask, domain, thinks, scored_by, Fraction(str(delta)), Fraction(str(per_token)), choice)


def _domain(problem: Problem, pool: str | None) -> str:
    return str(problem.meta.get(pool)) if pool is not None else Path(problem.source).name.partition(".")[0]


class _Asking:
    """One problem's replies in either mode."""

    def __init__(
        self,
        problem: Problem,
        engine: Engine,
        asked: tuple[Message, ...],
        n: int,
        sampling: Sampling,
        think: str,
        quick: str,
    ) -> None:
        self.problem, self.engine, self.asked, self.n, self.sampling = problem, engine, asked, n, sampling
        self.prefixes = {"think": (think, "solve"), "no_think": (quick, "hybrid_mode_mix" if quick else "solve")}

    async def draw(self, mode: str) -> list[Rollout]:
        prefix, scope = self.prefixes[mode]
        return await modes.roll(self.engine, self.problem, self.asked, n=self.n, mode=mode, prefix=prefix, scope=scope, sampling=self.sampling)  # fmt: skip

    async def chosen(self, prefix: str) -> str:
        """The mode of one reply behind `prefix`."""
        begin = self.prefixes["think"][0] + prefix
        [own] = await modes.roll(self.engine, self.problem, self.asked, n=1, mode="own", prefix=begin, scope="hybrid_mode_mix", sampling=self.sampling)  # fmt: skip
        return "no_think" if modes.closes_at_once(own.completion.text[len(begin) :]) else "think"

    def trace(self, rollout: Rollout, **columns: Any) -> Trace:
        """A reply in its tags."""
        text = tagged(rollout)
        return Trace(
            problem_id=self.problem.problem_id, name=rollout.name, prompt=self.asked, text=text, n_tokens=self.engine.count_tokens(text),
            counted=self.engine.counter(), finish_reason=rollout.completion.finish_reason, model=self.engine.model_name(), key=rollout.completion.key,
            whole=True, verdict=rollout.verdict, columns={**dict.fromkeys(COLUMNS), "response": text, "mode": rollout.mode, **columns},
        )  # fmt: skip


async def _training(ask: _Asking, domain: str, thinks: bool, gold: bool, longest: int) -> Outcome:
    """What is kept of the replies in the mode of the pool."""
    rollouts = await ask.draw("think" if thinks else "no_think")
    made, rejections = [], []
    for rollout in rollouts:
        trace = ask.trace(rollout, domain=domain, split="train")
        reason = _unfit(ask.problem, rollout, gold, None if thinks else longest)
        if reason is None:
            made.append(trace)
        else:
            rejections.append((trace, Rejection(reason, {"tokens": rollout.tokens, "verdict": rollout.verdict.status})))
    return Outcome(traces=made, rejections=rejections, tables={"modes": [], "pairs": []})


def _unfit(problem: Problem, rollout: Rollout, gold: bool, longest: int | None) -> str | None:
    if rollout.tokens == 0:
        return "empty"
    if rollout.completion.truncated:
        return "truncated"
    if gold and not rollout.right:
        return rollout.fault or "wrong"
    if longest is not None and rollout.tokens > longest:
        return "too_long"
    said = tagged(rollout)
    return "math_or_code" if longest is not None and SUMS.search(f"{problem.question}\n{said}") else None


async def _held_out(
    ask: _Asking,
    domain: str,
    thinks: bool,
    scored_by: str | None,
    delta: Fraction,
    per_token: Fraction,
    choice: str | None,
) -> Outcome:
    """Both modes, scored: the label of the prompt, its pairs, and the replies that were labelled by."""
    line: dict[str, Any] = {
        "id": f"{ask.problem.problem_id}/modes", "problem_id": ask.problem.problem_id, "domain": domain, "pool_mode": "think" if thinks else "no_think",
        "label_mode": None, "chosen_mode": None, "scored_by": scored_by, "mean_think": None, "mean_nothink": None, "n_think": 0, "n_nothink": 0,
        "undecided": 0,
    }  # fmt: skip
    if scored_by is None:
        why = Rejection("unscored", {"say": 'no gold to score by: open_prompts = "reward" asks a reward model'})
        return Outcome(rejections=[(None, why)], tables={"modes": [line], "pairs": []})
    groups = {mode: await ask.draw(mode) for mode in ("think", "no_think")}
    every = [rollout for group in groups.values() for rollout in group]
    found = await together(_score(ask, rollout, scored_by, per_token) for rollout in every)
    scores = {rollout.name: score for rollout, score in zip(every, found, strict=True) if score is not None}
    scored = {mode: [r for r in group if r.name in scores] for mode, group in groups.items()}
    means = {mode: mean([scores[r.name] for r in group]) for mode, group in scored.items()}
    label = label_of(means, scores, solvable=scored_by == "verifier", delta=delta)
    line |= {
        "label_mode": label, "mean_think": _float(means["think"]), "mean_nothink": _float(means["no_think"]), "n_think": len(scored["think"]),
        "n_nothink": len(scored["no_think"]), "undecided": sum(r.fault == "undecided" for r in every) if scored_by == "verifier" else 0,
        "chosen_mode": None if choice is None else await ask.chosen(choice),
    }  # fmt: skip
    shared = {name: line[name] for name in ("domain", "label_mode", "mean_think", "mean_nothink")}
    traces = {r.name: ask.trace(r, split="held_out", score=_float(scores.get(r.name)), **shared) for r in every}
    return Outcome(
        traces=[traces[r.name] for r in every if r.name in scores],
        rejections=[
            (traces[r.name], Rejection("unscored", {"tokens": r.tokens})) for r in every if r.name not in scores
        ],
        tables={"modes": [line], "pairs": pairs(ask.problem, scored, label, scores)},
    )


async def _score(ask: _Asking, rollout: Rollout, scored_by: str, per_token: Fraction) -> Fraction | None:
    """1 or 0, or the reward model's number of the answer; None where that has none."""
    if scored_by == "verifier":
        return Fraction(rollout.right)
    answer = rollout.completion.text.rpartition(CLOSE)[2].strip()
    if not answer:
        return None
    given = await ask.engine.reward(worded(ask.problem), answer)
    if given.too_long is not None or len(given.values) != 1 or len(given.values[0]) != 1:
        return None
    return Fraction(given.values[0][0]) - per_token * rollout.tokens


def _float(value: Fraction | None) -> float | None:
    return None if value is None else float(value)
