"""O1-Pruner's offline weights: shorter than a problem's mean is good, right more often than its mean is better.

    w = (mean_len - len) / len + alpha * (correct - accuracy)        both means over all n samples of the problem

Luo et al. 2025 (arXiv:2501.12570) and the released code. The trainer multiplies each sample's advantage by `weight`: `w`, clipped, then
standardised over the finished set, which is the selector `standardize`:

    [[select]]
    use = "standardize"
    column = "w_clipped"
    into = "weight"
"""

from collections.abc import Sequence
from fractions import Fraction

import polars as pl

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Sampling
from tracemill.schemas.rows import Mean, Outcome, Problem, Rejection, Summary, Trace, Verdict, draw
from tracemill.synth.engine import together
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST

COLUMNS = {
    "ref_mean_len": float,
    "ref_acc": float,
    "k_total": int,
    "w_raw": float,
    "w_clipped": float,
    "alpha": float,
    "all_correct": bool,
}
MEANING = {
    "ref_mean_len": "Mean tokens of all samples of the problem.",
    "ref_acc": "Share of them that is right.",
    "k_total": "How many samples the problem has.",
    "w_raw": "(mean length - length) / length + alpha * (right - share of right).",
    "w_clipped": "The same within the bounds of the recipe.",
    "alpha": "What being right counts for.",
    "all_correct": "Whether every sample of the problem is right.",
}

# the released scripts: 16 samples (Marco-o1-7B; 12 for QwQ-32B), two of them taken, alpha 5 (QwQ-32B; 2 for Marco-o1-7B)
N, K, ALPHA = 16, 2, 5.0
CLIP = (-2.0, 4.0)
SEED = 42


def check(
    *, n: int, k: int, alpha: float, clip: tuple[float, float], prompt: str, temperature: float | None, **_: object
) -> None:
    """Raise ValueError for options that cannot work."""
    if not 1 <= n <= MOST:
        raise ValueError(f"n = {n}: between 1 and {MOST:,} samples of each problem")
    if not 1 <= k <= n:
        raise ValueError(f"k = {k}: take between 1 and n = {n} of the samples")
    if alpha < 0:
        raise ValueError(f"alpha = {alpha}: what being right counts for, 0 or more")
    if not clip[0] < clip[1]:
        raise ValueError(f"clip = {list(clip)}: the lower bound first, then the higher one")
    check_prompt(prompt)
    check_temperature(temperature)


async def length_harmonize(
    problem: Problem,
    engine: Engine,
    *,
    n: int = N,
    k: int = K,
    alpha: float = ALPHA,
    clip: tuple[float, float] = CLIP,
    seed: int = SEED,
    drop_truncated: bool = True,
    drop_unsolved: bool = True,
    prompt: str = PROMPT,
    temperature: float | None = None,
) -> Outcome:
    """Weigh `k` of a problem's `n` samples, drawn by lot and not the best ones, against the mean of all `n`.

    Means are over all samples, cut ones included. A sample without a token or with an undecided verdict has no weight. A cut
    sample is not taken, nor any of a problem that was never solved, unless `drop_truncated` and `drop_unsolved` say so: the
    published code takes both, and then rewards short wrong answers. Samples are those of `sample`: what it drew is not drawn again.
    The paper draws at temperature 0.5 and top_p 0.8 (`[model]`), up to 8,192 tokens.
    """
    asked = shown(problem, prompt)
    drawn = await engine.sample(asked, n=n, sampling=Sampling(temperature=temperature))
    verdicts = await together(engine.verify(c, problem.gold, truncated=c.truncated) for c in drawn)
    right, tokens = sum(v.correct is True for v in verdicts), sum(c.n_tokens for c in drawn)
    reasons = [
        _unfit(completion, verdict, right, drop_truncated=drop_truncated, drop_unsolved=drop_unsolved)
        for completion, verdict in zip(drawn, verdicts, strict=True)
    ]
    taken = _by_lot(problem, [i for i, reason in enumerate(reasons) if reason is None], k, seed)
    model, traces, rejections = engine.model_name(), [], []
    for i, (completion, verdict, reason) in enumerate(zip(drawn, verdicts, reasons, strict=True)):
        raw = weight(completion.n_tokens, verdict.correct is True, tokens, right, n, alpha)
        trace = Trace.of(
            problem,
            completion,
            name=f"solve-{i:04d}",
            prompt=asked,
            model=model,
            ref_mean_len=tokens / n,
            ref_acc=right / n,
            k_total=n,
            w_raw=None if raw is None else float(raw),
            w_clipped=None if raw is None else min(max(float(raw), clip[0]), clip[1]),
            alpha=alpha,
            all_correct=right == n,
        )
        if i in taken:
            traces.append(trace)
        else:
            rejections.append((trace, Rejection(reason or "not_drawn", {"correct": right, "of": n})))
    return Outcome(traces=traces, rejections=rejections)


def weight(length: int, correct: bool, tokens: int, right: int, n: int, alpha: float) -> Fraction | None:
    """The weight before clipping, of a sample of `length` tokens among `n` with `tokens` tokens of which `right` are right."""
    if length == 0:
        return None
    return Fraction(tokens - n * length, n * length) + Fraction(str(alpha)) * (correct - Fraction(right, n))


def _unfit(
    completion: Completion, verdict: Verdict, right: int, *, drop_truncated: bool, drop_unsolved: bool
) -> str | None:
    """Why a sample is not among those of which some are drawn."""
    if completion.n_tokens == 0:
        return "empty"
    if completion.truncated and drop_truncated:
        return "truncated"
    if verdict.correct is None and not completion.truncated:
        return "undecided"
    return "unsolved" if drop_unsolved and right == 0 else None


def _by_lot(problem: Problem, fit: Sequence[int], k: int, seed: int) -> set[int]:
    """`k` of the samples by the hash of their names: the same ones in every run, whatever they say."""
    return set(sorted(fit, key=lambda i: draw(f"{seed}|{problem.problem_id}/solve-{i:04d}"))[:k])


def summary(traces: pl.LazyFrame) -> Summary:
    """The weights of right and of wrong samples, drawn by the lot or not, and how long each are."""
    share = pl.col("w_clipped")
    length = pl.col("n_tokens").cast(pl.Float64)
    stats = (
        traces.filter(pl.col("correct").is_not_null())
        .group_by("correct")
        .agg(samples=pl.len(), weights=share.sum(), squares=(share * share).sum(), tokens=length.sum(), tokens2=(length * length).sum())
        .sort("correct", descending=True)
        .collect()
    )  # fmt: skip
    rows = [
        {
            "samples": "right" if row["correct"] else "wrong",
            "number": row["samples"],
            "mean tokens": Mean(row["tokens"], row["tokens2"], row["samples"]),
            "mean weight, clipped": Mean(row["weights"], row["squares"], row["samples"]),
        }
        for row in stats.to_dicts()
    ]
    return Summary(title="Weights of all samples", rows=rows)
