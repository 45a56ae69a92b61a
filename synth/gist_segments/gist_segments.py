"""LightThinker's rows: behind each thought a few gist tokens that stand in for it from there on.

    prompt 50, thoughts of 20, 30 and 10 tokens, 9 gist tokens:  50 + 20 + 9 = 79,  50 + 9 + 30 + 9 = 98,  50 + 18 + 10 + 9 = 87
    so at most 98 tokens are held at a time, where all of them would be 110

Zhang et al. 2025 (arXiv:2502.15589) and its released code, in the mode that leaves the prompt as it is. A thought ends in a split token, and
a continue token follows its gist tokens; neither is counted above. The format gist-segments writes labels and the attention mask.
It is a folder: ids that were drawn have to be parted where the text says so, and be laid out with ids of tokens that do not exist yet.
"""

from collections.abc import Mapping
from typing import Any, Literal

from tracemill.schemas.errors import ProblemFailed
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace, Verdict, draw
from tracemill.synth.engine import together
from tracemill.synth.gist_segments.layout import layout, marker_ids, marker_names
from tracemill.synth.gist_segments.segments import segments
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST

# the released code: gist tokens (9 for Qwen, 7 for Llama; 2 at token level), tokens of a segment at that level, tokens of a row
N_GIST, STEP, LONGEST = {"thought": 9, "token": 2}, 6, 4096
# not stated in the paper; our defaults
LEAST, MOST_THOUGHTS, ONE_IN = 3, 60, 50


def check(
    *, n: int, granularity: str, n_gist: int | None, step: int, least: int, most: int, longest: int, markers: Mapping[str, int] | None,
    prompt: str, temperature: float | None, **_: object,
) -> None:  # fmt: skip
    """Raise ValueError for options that cannot work."""
    if not 1 <= n <= MOST:
        raise ValueError(f"n = {n}: between 1 and {MOST:,} traces of each problem")
    count = N_GIST[granularity] if n_gist is None else n_gist
    if min(count, step, longest) < 1:
        raise ValueError(f"n_gist = {count}, step = {step}, longest = {longest}: at least 1 of each")
    if not 1 <= least <= most:
        raise ValueError(f"least = {least}, most = {most}: thoughts of a trace, at least 1, the smaller number first")
    names = marker_names(count)
    if markers is not None and sorted(markers) != sorted(names):
        raise ValueError(f"markers = {sorted(markers)}: name each of {', '.join(names)} with its token id")
    if markers is not None and (len(set(markers.values())) < len(markers) or min(markers.values()) < 0):
        raise ValueError(f"markers = {dict(markers)}: an id of its own for each, 0 or more")
    check_prompt(prompt)
    check_temperature(temperature)


async def gist_segments(
    problem: Problem,
    engine: Engine,
    *,
    n: int = 1,
    take: Literal["drawn", "given"] = "drawn",
    granularity: Literal["thought", "token"] = "thought",
    n_gist: int | None = None,
    step: int = STEP,
    least: int = LEAST,
    most: int = MOST_THOUGHTS,
    longest: int = LONGEST,
    markers: Mapping[str, int] | None = None,
    prompt: str = PROMPT,
    temperature: float | None = None,
) -> Outcome:
    """Lay out `n` right traces of each problem with gist tokens, as token ids with the spans from which the mask follows.

    Traces are those of `sample`, or with `given` the source's `solution`: a thought, then `</think>` and the answer. A `thought` ends at a blank
    line; without one, sentences are put together to some 60 tokens, and what has fewer than three tokens joins its neighbour. `token` takes
    `step` tokens a segment. `n_gist` is 9, at token level 2.

    `markers` gives each added token its id. Without it a token that the tokenizer knows keeps its id, and the others take the first free ids
    behind the vocabulary, in the order of `marker_names`, which is what adding them to it gives.

    Turned down: what is not right or was cut off, what has no closed thought, more than `longest` tokens with the markers, or, of thoughts, more than `most`
    or fewer than `least`. Of traces with one segment two in a hundred are kept, by hash, and marked.
    """
    ids = marker_ids(engine, marker_names(N_GIST[granularity] if n_gist is None else n_gist), markers)
    asked = shown(problem, prompt)
    if take == "given" and problem.solution is None:
        return Outcome(
            rejections=[(None, Rejection("no_solution", {"say": 'name its column: [source] solution = "..."'}))]
        )
    drawn = (
        [_given(problem, engine)]
        if take == "given"
        else await engine.sample(asked, n=n, sampling=Sampling(temperature=temperature))
    )
    verdicts = await together(engine.verify(c if c.key else c.text, problem.gold, truncated=c.truncated) for c in drawn)
    made, rejections = [], []
    for i, (completion, verdict) in enumerate(zip(drawn, verdicts, strict=True)):
        columns = _columns(engine, asked, completion, granularity, step, ids)
        name, model = (f"solve-{i:04d}", engine.model_name()) if completion.key else (f"given-{i:04d}", "given")
        trace = Trace.of(problem, completion, name=name, prompt=asked, model=model, **columns)
        tokens, thoughts = len(columns["input_ids"]), len(columns["thoughts"])
        counts = (least, most) if granularity == "thought" else (1, tokens)
        reason = _unfit(trace, verdict, tokens, longest, counts)
        if reason is None:
            made.append(trace)
        else:
            evidence = {"thoughts": thoughts, "tokens": tokens, "verdict": verdict.reason or verdict.status}
            rejections.append((trace, Rejection(reason, evidence)))
    return Outcome(traces=made, rejections=rejections)


def _given(problem: Problem, engine: Engine) -> Completion:
    text = problem.solution or ""
    return Completion(text=text, finish_reason="stop", n_tokens=engine.count_tokens(text), counted=engine.counter())


def _columns(
    engine: Engine,
    asked: tuple[Message, ...],
    completion: Completion,
    granularity: Literal["thought", "token"],
    step: int,
    ids: Mapping[str, int],
) -> dict[str, Any]:
    """The row of one trace."""
    read = engine.rendered(asked)
    before = tuple(read.token_ids) or (None if read.text is None else engine.tokens_of(read.text))
    if before is None:
        raise ProblemFailed(
            "the server renders the prompt, so its token ids are not known: use send = 'tokens' and a tokenizer"
        )
    head, thoughts, answer = segments(engine, completion, granularity, step)
    return {
        **layout([*before, *head], thoughts, answer, ids),
        "system": next((turn["content"] for turn in engine.conversation(asked) if turn["role"] == "system"), None),
        "thoughts": [engine.text_of(thought) for thought in thoughts],
        "n_gist": len(ids) - 2,
        "granularity": granularity,
        "one_thought": len(thoughts) == 1,
        "marker_names": list(ids),
        "marker_ids": list(ids.values()),
    }


def _unfit(trace: Trace, verdict: Verdict, tokens: int, longest: int, counts: tuple[int, int]) -> str | None:
    thoughts = len(trace.columns["thoughts"])
    if trace.finish_reason == "length":
        return "truncated"
    if verdict.correct is not True:
        return "undecided" if verdict.correct is None else "wrong"
    if thoughts == 0:
        return "no_thought"
    if tokens > longest:
        return "too_long"
    if thoughts > counts[1]:
        return "many_thoughts"
    if thoughts == 1 < counts[0]:
        return "one_thought" if draw(f"one_thought|{trace.id}") % ONE_IN else None
    return "few_thoughts" if thoughts < counts[0] else None
