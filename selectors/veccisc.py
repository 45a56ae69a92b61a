"""VecCISC: of a problem's traces the one that stands for each cluster of alike ones, and a vote of these weighed by confidence.

    traces ──pre-filter──▶ by answer ──embed, cluster──▶ representatives ──a critic's confidence──▶ masses ──▶ answer

arXiv:2605.08070; the vote is that of CISC (arXiv:2502.06233). Traces of different answers are never in one cluster, and a representative
counts once however large its cluster is. An outlier that has a cluster to itself stays.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import polars as pl

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Embedder
from tracemill.schemas.rows import Selection
from tracemill.selectors.clusters import Method, Trace, clustered
from tracemill.selectors.meaning import OUTPUT, check_vectors, meaning_of, streamed, text_of, with_verdicts
from tracemill.selectors.shares import require
from tracemill.selectors.votes import Mass, Take, Vote, vote

PolarsType = pl.DataType | type[pl.DataType]

REACH = "group"
GROUP = ("problem_id",)
NEEDS = ("id", "problem_id", "reasoning", "content", "answer", "gold", "n_tokens", "finish_reason")
MEANING = {
    "embedded_share": "The share of the text's tokens that the encoder read.",
    "vector_flag": "`no_text`, `zero_vector` or `not_finite` where the row has no direction to compare.",
    "answer_norm": "The answer as it was compared.",
    "cluster_id": "The cluster of like traces with this answer.",
    "is_representative": "Whether it speaks for its cluster.",
    "cos_to_centroid": "Cosine with the centre of its cluster.",
    "cluster_size": "Traces of the cluster.",
    "represented_by": "The trace that speaks for it.",
    "drop_reason": "`no_answer`, `truncated`, `degenerate`, `duplicate_exact` or `not_representative`.",
    "critic_conf": "The critic's confidence in it.",
    "weight": "Its share of its problem's vote.",
    "embedder_id": "The encoder of the vectors.",
}
"""What its columns mean, for cards."""

# Not stated in the paper; our defaults
FEWEST_TOKENS = 16
DISTINCT = 0.3
NGRAM = 4
SAME_LINES = 5
K = 5

COLUMNS: Mapping[str, PolarsType] = {
    "answer_norm": pl.String,
    "cluster_id": pl.String,
    "is_representative": pl.Boolean,
    "cos_to_centroid": pl.Float64,
    "cluster_size": pl.Int64,
    "represented_by": pl.String,
    "drop_reason": pl.String,
    "critic_conf": pl.Float64,
    "weight": pl.Float64,
}
QUESTION: Mapping[str, PolarsType] = {
    "problem_id": pl.String,
    "n": pl.Int64,
    "k_param": pl.Int64,
    "T": pl.Float64,
    "vote_mass": pl.String,
    "vote": pl.String,
    "n_answers": pl.Int64,
    "unanimous": pl.Boolean,
    "n_critic_calls": pl.Int64,
    "call_reduction": pl.Float64,
    "token_reduction": pl.Float64,
    "masses": pl.List(pl.Struct({"answer": pl.String, "members": pl.Int64, "mass": pl.Float64})),
    "sc_answer": pl.String,
    "cisc_answer": pl.String,
    "veccisc_answer": pl.String,
    "gold": pl.String,
}


def check(*, k: int, temperature: float, vectors: str | None, text: str, chunks: int, **_: object) -> None:
    """Raise ValueError for options that cannot work."""
    if k < 1:
        raise ValueError(f"k = {k}: at least one cluster for each answer")
    if not 0 < temperature < float("inf"):
        raise ValueError(
            f"temperature = {temperature}: a number above 0; the smaller, the more the most confident trace weighs"
        )
    check_vectors(vectors, text, chunks)


def veccisc(
    traces: pl.LazyFrame,
    *,
    engine: Embedder | None = None,
    k: int = K,
    temperature: float = 1.0,
    confidence: str | None = None,
    method: Method = "kmeans",
    vote_mass: Mass = "representative",
    take: Take = "best",
    prefilter: bool = True,
    skip_unanimous: bool = False,
    text: str = "output",
    chunks: int = 1,
    vectors: str | None = None,
) -> Selection:
    """Cluster the traces of each answer of a problem into up to `k`, let one of each vote, and take traces of the answer that wins.

    A representative has the highest cosine to the mean of its cluster (then fewer tokens, then the smaller id). `kmeans` has 10 starts on
    unit vectors; `agglomerative` joins by average cosine distance. `confidence` names the column of a critic's confidence; only those of
    representatives count, and one without has no weight; without any, all traces vote by number. `vote_mass = "cluster_size"` counts
    a representative as often as its cluster has members, which is not in the paper. `take`: the most confident representative of the winning
    answer (`best`), all of it (`winner`), or all `representatives` whatever won, to be shown to a critic. `skip_unanimous`: no critic
    is needed where all agree. k and temperature are to be tuned on problems put aside.

    Before that are dropped, unless `prefilter = false`: `truncated` traces, `degenerate` ones (under 0.3 of their 4-grams of words are
    distinct, a line stands more than 5 times, or fewer than 16 tokens) and `duplicate_exact` of an earlier trace with that answer. `no_answer`, and
    `degenerate` for want of a vector, are dropped in any case. Texts and vectors are named as for `semantic_dedup`.

    Rows get the columns `answer_norm` to `weight` of docs/tables.md, `embedded_share`, `vector_flag` and `embedder_id`. Table `veccisc`: a problem's
    vote, with the critic calls and tokens that are saved.
    """
    check(k=k, temperature=temperature, vectors=vectors, text=text, chunks=chunks)
    if find_spec("sklearn") is None:
        raise RecipeError("veccisc clusters with scikit-learn; install it with: pip install 'tracemill[embed]'")
    schema = require("veccisc", traces, *NEEDS, *((confidence,) if confidence else ()))
    wanted = ("problem_id", "answer", "gold", "n_tokens", "finish_reason")
    critic = pl.lit(None, pl.Float64) if confidence is None else pl.col(confidence).cast(pl.Float64)
    seen = traces.with_columns(pl.when(critic.is_finite()).then(critic).alias("critic_conf"))
    said = meaning_of(
        "veccisc", seen, engine, text=text, vectors=vectors, chunks=chunks, columns=(*wanted, "critic_conf")
    )
    marks = _marks(seen.sort("id").select(text_of("veccisc", schema, OUTPUT if vectors else text).alias("text")))
    rows = said.frame.rows(named=True)
    pool: dict[str, list[Trace]] = {}
    for place, row in enumerate(rows):
        pool.setdefault(row["problem_id"], []).append(_trace(place, row, bool(said.usable[place])))
    lines = []
    for problem, own in sorted(pool.items()):
        _drop(own, marks, prefilter=prefilter)
        clustered(own, said.vectors, k, method)
        votes = vote(own, temperature, vote_mass, take)
        golds = [rows[trace.place]["gold"] for trace in own if rows[trace.place]["gold"] is not None]
        lines.append(
            _question(problem, own, votes, k, temperature, vote_mass, min(golds, default=None), skip_unanimous)
        )
    decided = _decided(said.frame, [trace for own in pool.values() for trace in own], said.embedder_id)
    shown = {name: pl.col(name) for name in ("answer_norm", "cluster_id", "represented_by", "weight")}
    return Selection(
        rows=with_verdicts(traces, decided, **shown, winner=pl.col("winner")).drop("winner"),
        tables={"veccisc": pl.DataFrame(lines, schema=QUESTION).lazy()},
    )


def _trace(place: int, row: Mapping[str, Any], usable: bool) -> Trace:
    answer = " ".join((row["answer"] or "").split()).lower()
    trace = Trace(place, row["id"], answer or None, row["n_tokens"] or 0, row["critic_conf"])
    if not answer:
        trace.drop_reason = "no_answer"
    elif row["finish_reason"] == "length":
        trace.soft_reason = "truncated"
    elif row["n_tokens"] is not None and row["n_tokens"] < FEWEST_TOKENS:
        trace.soft_reason = "degenerate"
    trace.directed = usable
    return trace


def _drop(own: Sequence[Trace], marks: Sequence[tuple[bool, bytes]], *, prefilter: bool) -> None:
    """Write the reasons of traces that take no part in clusters; the traces come in the order of their ids."""
    seen: dict[tuple[str | None, bytes], str] = {}
    for trace in own:
        if trace.drop_reason is None and prefilter:
            looped, digest = marks[trace.place]
            earlier = seen.get((trace.answer, digest)) if digest else None
            trace.drop_reason = trace.soft_reason or (
                "degenerate" if looped else "duplicate_exact" if earlier else None
            )
            if trace.drop_reason == "duplicate_exact":
                trace.represented_by = earlier
            elif trace.drop_reason is None:
                seen[trace.answer, digest] = trace.id
        if trace.drop_reason is None and not trace.directed:
            trace.drop_reason = "degenerate"


def _marks(texts: pl.LazyFrame) -> list[tuple[bool, bytes]]:
    """For each text whether it goes in circles, and a digest of its words; empty where there are none."""
    return [_mark(text) for text in streamed(texts)]


def _mark(text: str) -> tuple[bool, bytes]:
    words = text.lower().split()
    grams = [tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
    lines = Counter(line for raw in text.splitlines() if (line := raw.strip()))
    looped = bool(grams) and len(set(grams)) < DISTINCT * len(grams)
    repeated = max(lines.values(), default=0) > SAME_LINES
    return looped or repeated, hashlib.sha256(" ".join(words).encode(errors="surrogatepass")).digest() if words else b""


def _question(
    problem: str,
    own: Sequence[Trace],
    votes: Vote,
    k: int,
    temperature: float,
    vote_mass: str,
    gold: str | None,
    skip: bool,
) -> dict[str, Any]:
    standing = [trace for trace in own if trace.is_representative]
    tokens, asked = sum(trace.tokens for trace in own), sum(trace.tokens for trace in standing)
    answers = {trace.answer for trace in own} - {None}
    spared = skip and len(answers) == 1
    calls = 0 if spared else len(standing)
    return {
        "problem_id": problem,
        "n": len(own),
        "k_param": k,
        "T": temperature,
        "vote_mass": vote_mass,
        "vote": votes.how,
        "n_answers": len(answers),
        "unanimous": len(answers) == 1,
        "n_critic_calls": calls,
        "call_reduction": 1 - calls / len(own),
        "token_reduction": (1 - (0 if spared else asked) / tokens) if tokens else None,
        "masses": votes.masses,
        "sc_answer": votes.majority,
        "cisc_answer": votes.cisc,
        "veccisc_answer": votes.answer,
        "gold": gold,
    }


def _decided(frame: pl.DataFrame, traces: Sequence[Trace], embedder: str | None) -> pl.DataFrame:
    """The pool with `reason`, `winner` and the columns that rows get."""
    by_place = sorted(traces, key=lambda trace: trace.place)
    said = {name: [getattr(trace, name) for trace in by_place] for name in (*COLUMNS, "reason", "winner")}
    schema = {**COLUMNS, "reason": pl.String, "winner": pl.String}
    known = pl.DataFrame(said, schema=schema, strict=False)
    return pl.concat([frame.select("id", "embedded_share", "vector_flag"), known], how="horizontal").with_columns(
        pl.lit(embedder, pl.String).alias("embedder_id")
    )
