r"""ConCISE: a model that is kept from reflecting on what is right, and stopped once it is sure, writes shorter thoughts to train on.

    A is 24.    [Wait, 8 * 3 is 24.]    ->  That holds.    B is 16.    So the answer is 8.    Am I sure?  Yes .75, No .25   ->   </think>

Qiao et al. 2025 (arXiv:2505.04881): confidence injection puts an assertive phrase where a reflection would begin, early stopping reads a
detector's confidence from the next token behind a probe; the data serve SFT and SimPO. It is a package because a try, step by step, and
the reading of confidence have rules of their own, each to be read and tested alone.
"""

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tracemill.schemas.cues import CueList, cues_of
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Outcome, Problem, Rejection, Trace, Verdict
from tracemill.synth.closing import Closed
from tracemill.synth.confidence_concise.columns import COLUMNS
from tracemill.synth.confidence_concise.tries import BLANK, Task, Try
from tracemill.synth.engine import together
from tracemill.synth.prompts import PROMPT, check_prompt, check_temperature, shown
from tracemill.synth.sample import MOST

NEEDS = {"solver": ("complete", "prefix", "logprobs", "score")}

# the paper's numbers and words were not at hand: our defaults
TRIES = 4
SHARE = 0.9
RATIO = 1.25
THRESHOLD = 0.5
IN_A_ROW, INJECTIONS = 2, 20
ANSWER = r"(?i)\\boxed\s*\{|\b(?:the|my|our|final)\s+answer\s*(?:is|=|:)(?!\s+(?:not|un))"
"""A boxed answer, or a sentence that states one."""
PROBE = "\n\nAm I sure?"
CONFIDENT, DOUBT = ("Yes", "Great"), ("No", "Wait")
PHRASES = (
    *("That holds.", "This is clear.", "So far so good.", "Good, go on.", "That is settled.", "This step stands."),
    *("That follows directly.", "This much is certain.", "That is as it should be.", "Nothing to correct here."),
    *("That part is done.", "This is sound.", "Clearly so.", "That is right, on we go.", "We can build on this."),
    *("There is no doubt about this.", "This value can be used as it is.", "With this in place the rest follows."),
    *("The numbers agree.", "This is what was needed."),
)


def check(
    *,
    tries: int,
    share: float,
    ratio: float,
    threshold: float,
    in_a_row: int,
    injections: int,
    answer: str,
    probe: str,
    confident: Sequence[str],
    doubt: Sequence[str],
    phrases: Sequence[str],
    think: tuple[str, str],
    prompt: str,
    temperature: float | None,
    **_: Any,
) -> None:
    """Raise ValueError for options that cannot work."""
    if not 1 <= tries <= MOST or in_a_row < 1 or injections < 1:
        raise ValueError(
            f"tries = {tries}, in_a_row = {in_a_row}, injections = {injections}: at least 1 of each, and at most {MOST:,} tries"
        )
    if not 0 < share <= 1 or ratio < 1:
        raise ValueError(f"share = {share}, ratio = {ratio}: a share above 0 and up to 1, and a ratio of 1 or more")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold = {threshold}: how sure is sure enough, above 0 and up to 1")
    if not phrases or any(not p.strip() or BLANK in p or think[1] in p for p in phrases):
        raise ValueError(
            f"phrases = {list(phrases)}: at least one, none empty or with a blank line or {think[1]} in it"
        )
    if not confident or not doubt or not all(w.strip() for w in (*confident, *doubt)) or {*confident} & {*doubt}:
        raise ValueError(f"confident = {list(confident)}, doubt = {list(doubt)}: words for yes, and other ones for no")
    if not probe.strip() or not all(tag.strip() for tag in think):
        raise ValueError(f"probe = {probe!r}, think = {list(think)}: none of them may be empty")
    try:
        re.compile(answer)
    except re.error as error:
        raise ValueError(f"answer = {answer!r} is no regular expression: {error}") from None
    check_prompt(prompt)
    check_temperature(temperature)


async def confidence_concise(
    problem: Problem,
    engine: Engine,
    *,
    tries: int = TRIES,
    share: float = SHARE,
    ratio: float = RATIO,
    threshold: float = THRESHOLD,
    cues: CueList = "all",
    in_a_row: int = IN_A_ROW,
    injections: int = INJECTIONS,
    answer: str = ANSWER,
    probe: str = PROBE,
    confident: tuple[str, ...] = CONFIDENT,
    doubt: tuple[str, ...] = DOUBT,
    phrases: tuple[str, ...] = PHRASES,
    think: tuple[str, str] = ("<think>", "</think>"),
    seed: int = 0,
    prompt: str = PROMPT,
    temperature: float | None = None,
) -> Outcome:
    """Draw a reply, and where it is right write it again, `tries` times, with less reflection; the shortest that is right is the row.

    A thought is written step by step. Until a step matches `answer`, one that begins with a cue is thrown away, and one of `phrases`, by
    lot, stands in its place, at most `in_a_row` at once and `injections` in all. From then on `probe` asks behind each step how sure the
    model is, by what it gives to the words `confident` and `doubt`; at `threshold` the thought is closed and the answer written. A try is
    accepted if it is right and has fewer than `share` of the reply's tokens; it is a pair where the reply has at least `ratio` times its
    tokens, and a reflection was thrown away or the thought was stopped.

    Turned down: replies that are `original_wrong`, `undecided`, `truncated` or without a closed thought (`no_thought`), and `none_accepted`,
    with what became of the tries. Replies are those of `sample`. 0.6 and top_p 0.95 under [model] are what such models are run with.
    """
    asked = shown(problem, prompt)
    [reply] = await engine.sample(asked, sampling=Sampling(temperature=temperature))
    verdict = await engine.verify(reply, problem.gold)
    if reason := _unfit(reply, verdict, think[1]):
        return _down(problem, engine, asked, reply, Rejection(reason, {"verdict": verdict.status}))
    limit = Fraction(str(share)) * reply.n_tokens
    task = Task(
        problem, engine, asked, limit, cues_of(cues), re.compile(answer), phrases, in_a_row, injections, probe, confident, doubt, threshold,
        think, seed, temperature,
    )  # fmt: skip
    made = [Try(task, i) for i in range(tries)]
    whys = await together(one.run() for one in made)
    accepted = [(one, one.closed) for one, why in zip(made, whys, strict=True) if why is None and one.closed]
    if not accepted:
        tried = dict(sorted(Counter(filter(None, whys)).items()))
        return _down(problem, engine, asked, reply, Rejection("none_accepted", {"tries": tried}))
    best, closed = min(accepted, key=lambda one: one[1].whole.n_tokens)
    columns = _columns(best, closed, reply, Fraction(str(ratio)), len(accepted))
    name, model = f"concise-{best.number:04d}", engine.model_name()
    return Outcome(traces=[Trace.of(problem, closed.whole, name=name, prompt=asked, model=model, **columns)])


def _unfit(reply: Completion, verdict: Verdict, closing: str) -> str | None:
    if reply.truncated:
        return "truncated"
    if verdict.correct is not True:
        return "undecided" if verdict.correct is None else "original_wrong"
    return None if closing in reply.text else "no_thought"


def _columns(best: Try, closed: Closed, reply: Completion, ratio: Fraction, accepted: int) -> dict[str, Any]:
    tokens = closed.whole.n_tokens
    touched = bool(best.injections) or best.stop_step is not None
    return {
        "concise": closed.whole.text,
        "original": reply.text,
        "n_tok_concise": tokens,
        "n_tok_orig": reply.n_tokens,
        "injections": best.injections,
        "stop_step": best.stop_step,
        "stop_conf": best.stop_conf,
        "stop_how": best.stop_how,
        "sft_ok": True,
        "pair_ok": touched and reply.n_tokens >= ratio * tokens,
        "n_accepted": accepted,
    }


def _down(problem: Problem, engine: Engine, asked: tuple[Message, ...], reply: Completion, why: Rejection) -> Outcome:
    blank = dict.fromkeys(COLUMNS)
    trace = Trace.of(problem, reply, name="solve-0000", prompt=asked, model=engine.model_name(), **blank)
    return Outcome(rejections=[(trace, why)])
