r"""What methods about thinking modes share: forcing a mode, telling in which one a reply is, the shortest one, pairs. No method stands here.

<think>\n | 3 * 8 = 24.\n</think>\n\nThe answer is ...     think: the prompt opens a thought, and the model goes on
<think>\n | </think>\n\nThe answer is ...                  no thinking: the closing tag is forced
<think>\n | ...\n                                          its own choice: behind an ellipsis it closes at once, or thinks
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Completion, Message, Sampling
from tracemill.schemas.rows import Problem, Verdict
from tracemill.synth.engine import together

OPEN, CLOSE = "<think>", "</think>"
NOTHING = f"{CLOSE}\n\n"
"""What forces an answer without a thought, where the prompt has opened one."""
ELLIPSIS = "...\n"
"""AutoThink, arXiv:2505.10832, section 2: behind the open tag."""

PAIR_COLUMNS: Mapping[str, Any] = {
    "id": str,
    "pair_kind": str,
    "mode": str,
    "rejected_mode": str,
    "chosen": str,
    "rejected": str,
    "chosen_tokens": int,
    "rejected_tokens": int,
    "chosen_score": float,
    "rejected_score": float,
}
"""The table `pairs` of both methods, which the format mode-pairs reads."""
PAIR_MEANING = {
    "pairs.pair_kind": "`inter` between the modes, `intra` within one.",
    "pairs.mode": "The mode of the chosen reply.",
    "pairs.rejected_mode": "The mode of the rejected one.",
    "pairs.chosen": "The better reply, as it follows the prompt.",
    "pairs.rejected": "The other one.",
    "pairs.chosen_tokens": "Tokens that the model wrote of it.",
    "pairs.rejected_tokens": "The same of the other.",
    "pairs.chosen_score": "What it scored: 1 for right, or a reward model's number.",
    "pairs.rejected_score": "The same of the other.",
}


@dataclass(frozen=True, slots=True)
class Rollout:
    """One reply in one mode; the completion's text begins with what was forced."""

    name: str
    mode: str
    completion: Completion
    verdict: Verdict
    forced: bool = True

    @property
    def right(self) -> bool:
        return self.verdict.correct is True

    @property
    def tokens(self) -> int:
        return self.completion.n_tokens

    @property
    def fault(self) -> str | None:
        """Why nothing can be said of it: it is empty, or neither right nor wrong; one that was cut off is wrong."""
        if self.tokens == 0:
            return "empty"
        return "undecided" if self.verdict.correct is None and not self.completion.truncated else None

    @property
    def whole(self) -> bool:
        """Whether it may stand in a pair."""
        return self.fault is None and not self.completion.truncated


async def roll(
    engine: Engine,
    problem: Problem,
    asked: tuple[Message, ...],
    *,
    n: int,
    mode: str,
    prefix: str = "",
    scope: str = "solve",
    sampling: Sampling = Sampling(),
) -> list[Rollout]:
    """`n` replies that begin with `prefix`, verified with it: what is forced may hold the tag that closes the thought.

    Without a prefix, in the scope `solve`, they are plain samples, which other methods share.
    """
    drawn = await engine.sample(asked, n=n, prefix=prefix or None, scope=scope, sampling=sampling)
    said = [replace(completion, text=prefix + completion.text) for completion in drawn]
    verdicts = await together(engine.verify(c, problem.gold, truncated=c.truncated) for c in said)
    return [Rollout(f"{mode}-{i:04d}", mode, c, v) for i, (c, v) in enumerate(zip(said, verdicts, strict=True))]


def check_prefixes(engine: Engine, asked: tuple[Message, ...], think: str, nothink: str) -> None:
    """Raise RecipeError unless a reply behind `think` begins inside a thought, and one behind `nothink` outside it.

    Where a server renders the prompt, nobody here can tell, and nothing is said.
    """
    text = engine.rendered(asked).text
    if text is None:
        return
    if not _inside(text + think):
        raise RecipeError(
            f"the prompt ends in {text[-24:]!r}, so a reply behind think_prefix = {think!r} begins outside a thought; have the template end "
            f"in {OPEN!r} (model.chat_template_kwargs = {{enable_thinking = true}}), or write think_prefix = '{OPEN}\\n' and "
            f"nothink_prefix = '{OPEN}\\n{CLOSE}\\n\\n'"
        )
    if _inside(text + nothink):
        raise RecipeError(
            f"a reply behind nothink_prefix = {nothink!r} begins inside a thought: write {CLOSE!r} at its end"
        )


def _inside(text: str) -> bool:
    return text.rfind(OPEN) > text.rfind(CLOSE)


def closes_at_once(reply: str) -> bool:
    """Whether a model that was free to think did not: AutoThink takes that for its choice."""
    return reply.lstrip().startswith(CLOSE)


def shortest(rollouts: Iterable[Rollout]) -> Rollout | None:
    """The one of fewest tokens, the first of equals; None where there is none."""
    return min(rollouts, key=lambda r: (r.tokens, r.name), default=None)


def best(rollouts: Iterable[Rollout], scores: Mapping[str, Fraction]) -> Rollout | None:
    """The one of the highest score, of equals the shortest."""
    return min(rollouts, key=lambda r: (-scores[r.name], r.tokens, r.name), default=None)


def worst(rollouts: Iterable[Rollout], scores: Mapping[str, Fraction]) -> Rollout | None:
    """The one of the lowest score, of equals the shortest: length shall tell the two of a pair apart as little as may be."""
    return min(rollouts, key=lambda r: (scores[r.name], r.tokens, r.name), default=None)


def pair(
    problem: Problem,
    kind: str,
    chosen: Rollout,
    rejected: Rollout,
    scores: Mapping[str, Fraction],
    texts: Sequence[str] | None = None,
) -> dict[str, Any]:
    """A row of `pairs`; `texts` stand in the place of what was sampled, where replies were written with other tags."""
    said = texts or (chosen.completion.text, rejected.completion.text)
    return {
        "id": f"{problem.problem_id}/{kind}-{chosen.name}",
        "problem_id": problem.problem_id,
        "pair_kind": kind,
        "mode": chosen.mode,
        "rejected_mode": rejected.mode,
        "chosen": said[0],
        "rejected": said[1],
        "chosen_tokens": chosen.tokens,
        "rejected_tokens": rejected.tokens,
        "chosen_score": float(scores[chosen.name]),
        "rejected_score": float(scores[rejected.name]),
    }
