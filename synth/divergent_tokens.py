"""R2R's routing labels: at which tokens of a large model's answer a small one would have gone another way.

    large  so the sum is 12 .      the small one, reading each token before: so the total is 12 .
                 └─ mismatch: the large one ends the sentence behind `total`; a judge calls both the same: 0, or not: 1

Fu et al. 2025 (arXiv:2505.21600) and the released code. The large model is `[model]`, the small one `[models.small]`, of one tokenizer; the
judge `[models.judge]` answers in one token. Labels stand at the place of the token that they are about, counted from 0 in the response;
the released code joins them to the logits of the place before. It is longer than most methods: three models have a say on each token.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from tracemill.schemas.errors import ProblemFailed
from tracemill.schemas.filling import check_places, fill
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Rendered, Sampling
from tracemill.schemas.rows import Judgement, Outcome, Problem, Rejection, Share, Summary, Trace
from tracemill.synth.engine import together
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST

NEEDS = {"solver": ("complete", "prefix"), "small": ("score",), "judge": ("logprobs",)}
ONE_TOKENIZER = ("solver", "small")
IDS, FLAGS = pa.list_(pa.int32()), pa.list_(pa.int8())
COLUMNS = {
    "prompt_ids": IDS,
    "real_token": IDS,
    "token_type": FLAGS,
    "slm_token": IDS,
    "slm_top_ids": pa.list_(IDS),
    "slm_top_logprobs": pa.list_(pa.list_(pa.float16())),
    "divergent": FLAGS,
    "n_mismatch": int,
    "n_divergent": int,
}
MEANING = {
    "prompt_ids": "Token ids of the prompt.",
    "real_token": "Token ids of the answer.",
    "token_type": "1 up to the closing think tag, 2 behind it.",
    "slm_token": "The small model's likeliest token at each place.",
    "slm_top_ids": "Its likeliest tokens at each place.",
    "slm_top_logprobs": "Their natural log-probs.",
    "divergent": "1: the small model leads elsewhere; 0: it agrees, or only words differ; -1: not judged.",
    "n_mismatch": "Places where its token is another.",
    "n_divergent": "Those of them with 1.",
}
TABLES = {
    "divergences": {
        "id": str, "row_id": str, "pos": int, "real_token": int, "slm_token": int, "common_context": str, "slm_cont": str,
        "ref_cont": str, "p1": float, "p0": float, "divergent": int,
    }
}  # fmt: skip

# the released code: ends of a sentence, tokens of one continuation, characters of context shown to the judge are our default
STOPS = (".", "。", "!", "！", "?", "？", "\n")  # noqa: RUF001 - full-width ones end sentences too
LONGEST = 8192
CONTEXT = 400
TOP = 20
"""As many as engines give; the released code keeps 100."""
CLOSE = "</think>"
MARKS = ("<<", ">>")
CASE = ("context", "first", "second")
"""What a planted case for the judge says: how both texts begin, and how each goes on."""
REASONING, RESPONSE = 1, 2

JUDGE = (
    "Two texts go on after the same beginning; << >> marks where they part.\n\nBeginning:\n{context}\n\nFirst:\n{first}\n\nSecond:\n{second}\n\n"
    "Does the second differ from the first in meaning, logic, conclusion or in the way it takes? Answer with one digit: 1 if it does, 0 if only "
    "the wording differs."
)


@dataclass(frozen=True, slots=True)
class Parting:
    """One place where the small model would have written another token."""

    pos: int
    slm_token: int
    context: str
    slm_cont: str
    ref_cont: str
    p1: float | None = None
    p0: float | None = None
    said: str = ""
    """The judge's likeliest token."""

    @property
    def divergent(self) -> int:
        """What the judge would say: 1, 0, or -1 where that is neither; what differs in white space alone is no divergence."""
        if "".join(self.slm_cont.split()) == "".join(self.ref_cont.split()):
            return 0
        return int(self.said) if self.said in ("1", "0") else -1


Asks = tuple[str, tuple[str, str]]
"""What the judge is asked, and the marks around the tokens that part two texts."""


def check(*, n: int, most: int, top: int, judge: str, prompt: str, temperature: float | None, **_: Any) -> None:
    """Raise ValueError for options that cannot work."""
    if not 1 <= n <= MOST or most < 1:
        raise ValueError(f"n = {n}, most = {most}: between 1 and {MOST:,} answers, of at least one token")
    if not 1 <= top <= TOP:
        raise ValueError(f"top = {top}: between 1 and {TOP} of the small model's likeliest tokens at each place")
    check_places("judge", judge, "first", "second")
    check_prompt(prompt)
    check_temperature(temperature)


async def divergent_tokens(
    problem: Problem,
    engine: Engine,
    *,
    n: int = 1,
    most: int = 32768,
    top: int = TOP,
    judge: str = JUDGE,
    marks: tuple[str, str] = MARKS,
    prompt: str = PROMPT,
    temperature: float | None = None,
) -> Outcome:
    """Draw `n` answers of the large model and label each of their tokens: 0 the small one agrees, or means the same; 1 it diverges; -1 unknown.

    Where the small model's likeliest token is another, the large one goes on greedily behind it to the end of the sentence, and the judge
    compares that with what the answer really says. A closing think tag is never a mismatch. Answers that were cut off or have more than `most`
    tokens are turned down. Right and wrong answers are labelled alike; the answers are those of `sample`. `judge` is what the judge is asked,
    with {first} and {second} in their places and {context} where it is to see it; `marks` stand around the tokens that part the two, and may be empty.
    """
    asked = shown(problem, prompt)
    drawn = await engine.sample(asked, n=n, sampling=Sampling(temperature=temperature))
    read, traces, rejections, rows = engine.rendered(asked), [], [], []
    for i, completion in enumerate(drawn):
        name, model = f"solve-{i:04d}", engine.model_name()
        if completion.token_ids is None:
            raise ProblemFailed("the engine returns no token ids, and text encoded again may have others")
        reason = "truncated" if completion.truncated else "too_long" if completion.n_tokens > most else None
        reason = reason or (None if completion.token_ids else "empty")
        if reason is not None:
            blank = Trace.of(problem, completion, name=name, prompt=asked, model=model, **dict.fromkeys(COLUMNS))
            rejections.append((blank, Rejection(reason, {"tokens": completion.n_tokens})))
            continue
        ids = tuple(completion.token_ids)
        scores = await engine.score(read, ids, role="small", top=top)
        found = await _partings(engine, read, ids, [best[0][0] for best in scores.top or ()], (judge, marks), name)
        columns = _columns(engine, read, ids, scores.top or (), found)
        traces.append(Trace.of(problem, completion, name=name, prompt=asked, model=model, **columns))
        rows += [_row(f"{problem.problem_id}/{name}", ids, parting) for parting in found]
    return Outcome(traces=traces, rejections=rejections, tables={"divergences": rows})


async def _partings(
    engine: Engine, read: Rendered, ids: tuple[int, ...], small: Sequence[int], asks: Asks, name: str
) -> list[Parting]:
    """Every mismatch of an answer, judged."""
    places = [
        t
        for t, (own, other) in enumerate(zip(ids, small, strict=True))
        if own != other and CLOSE not in engine.text_of([own])
    ]
    greedy = Sampling(temperature=0.0, max_tokens=LONGEST, stop=STOPS, include_stop=True)
    went = await together(
        engine.sample(read, prefix=(*ids[:t], small[t]), scope="divergent_tokens", salt=f"{name}:{t}", sampling=greedy) for t in places
    )  # fmt: skip
    return await together(
        _judged(engine, ids, t, small[t], other, asks) for t, [other] in zip(places, went, strict=True)
    )


async def _judged(engine: Engine, ids: tuple[int, ...], t: int, slm: int, went: Completion, asks: Asks) -> Parting:
    """What the judge makes of one mismatch; it is not asked where nothing but white space differs."""
    context = engine.text_of(ids[:t])[-CONTEXT:]
    other = engine.text_of([slm]) + went.text
    real = _sentence(engine.text_of([ids[t]]), engine.text_of(ids[t + 1 :]))
    plain = Parting(t, slm, context, other, real)
    if plain.divergent == 0:
        return plain
    judge, (opening, closing) = asks
    marked = [
        f"{opening}{engine.text_of([token])}{closing}{text[len(engine.text_of([token])) :]}"
        for token, text in ((ids[t], real), (slm, other))
    ]
    judged, said = await _word(engine, judge, context, *marked)
    return Parting(t, slm, context, other, real, judged.probabilities.get("1"), judged.probabilities.get("0"), said)


async def _word(engine: Engine, judge: str, context: str, first: str, second: str) -> tuple[Judgement, str]:
    """What the judge says of two texts, and its likeliest token."""
    asked = fill(judge, context=context, first=first, second=second)
    judged = await engine.judge(asked, ("1", "0"))
    return judged, judged.returned[0][0].strip() if judged.returned else ""


async def calibrate(case: Mapping[str, str], engine: Engine, *, judge: str, marks: tuple[str, str]) -> bool | None:
    """Whether the judge lets the second text pass for the first: a good case differs in words alone, a bad one leads elsewhere.

    The first word of each stands between the marks, as the first token of a real one does. None where it says neither 1 nor 0.
    """
    shown = [
        re.sub(r"\s*\S+", lambda word: f"{marks[0]}{word[0]}{marks[1]}", case[name], count=1)
        for name in ("first", "second")
    ]
    _, said = await _word(engine, judge, case["context"][-CONTEXT:], *shown)
    return said == "0" if said in ("0", "1") else None


def _sentence(token: str, rest: str) -> str:
    """The real text from a token on to the end of its sentence."""
    if token.rstrip(" ").endswith(STOPS):
        return token
    ends = [at + 1 for stop in STOPS if (at := rest.find(stop)) >= 0]
    return token + (rest[: min(ends)] if ends else rest)


def _columns(
    engine: Engine,
    read: Rendered,
    ids: tuple[int, ...],
    top: Sequence[Sequence[tuple[int, float]]],
    found: Sequence[Parting],
) -> dict[str, Any]:
    label = {parting.pos: parting.divergent for parting in found}
    closed = next((t for t, token in enumerate(ids) if CLOSE in engine.text_of([token])), -1)
    return {
        "prompt_ids": read.token_ids or None,
        "real_token": list(ids),
        "token_type": [REASONING if t <= closed else RESPONSE for t in range(len(ids))],
        "slm_token": [best[0][0] for best in top],
        "slm_top_ids": [[token for token, _ in best] for best in top],
        "slm_top_logprobs": [[logprob for _, logprob in best] for best in top],
        "divergent": [label.get(t, 0) for t in range(len(ids))],
        "n_mismatch": len(found),
        "n_divergent": sum(value == 1 for value in label.values()),
    }


def _row(row_id: str, ids: tuple[int, ...], parting: Parting) -> dict[str, Any]:
    return {
        "id": f"{row_id}:{parting.pos}", "row_id": row_id, "pos": parting.pos, "real_token": ids[parting.pos], "slm_token": parting.slm_token,
        "common_context": parting.context, "slm_cont": parting.slm_cont, "ref_cont": parting.ref_cont, "p1": parting.p1, "p0": parting.p0,
        "divergent": parting.divergent,
    }  # fmt: skip


def summary(traces: pl.LazyFrame) -> Summary:
    """How many tokens the small model would have written otherwise, and how many of these lead elsewhere."""
    known = traces.filter(pl.col("n_mismatch").is_not_null())
    unknown = pl.col("divergent").list.count_matches(-1).sum()
    stats = known.select(
        answers=pl.len(), tokens=pl.col("real_token").list.len().sum(), mismatch=pl.col("n_mismatch").sum(),
        divergent=pl.col("n_divergent").sum(), unknown=unknown,
    ).collect().row(0, named=True)  # fmt: skip
    row = {"answers": stats["answers"], "tokens": stats["tokens"]}
    shares = {name: Share(stats[name], stats["tokens"]) for name in ("mismatch", "divergent")}
    return Summary(
        title="Tokens at which the small model goes another way",
        rows=[{**row, **shares, "not judged": stats["unknown"]}],
    )
