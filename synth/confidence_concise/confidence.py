r"""How sure a model is inside its thought: what it gives to words for yes and for no behind a short question to itself.

...So the answer is 8.\n\nAm I sure?     P(Yes) 0.30, P(No) 0.10     ->     0.75
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from tracemill.schemas.plugins import Engine, PromptLike
from tracemill.schemas.request import Rendered
from tracemill.synth.closing import Token, behind, trimmed
from tracemill.synth.engine import together

How = Literal["top_k", "scored"]


async def confidence(
    engine: Engine,
    prompt: PromptLike,
    thought: Sequence[Token],
    *,
    probe: str,
    confident: Sequence[str],
    doubt: Sequence[str],
) -> tuple[float | None, How]:
    """How sure the model is after so much of its thought, between 0 and 1, None where it gives nothing to any of the words; and how.

    Words are looked for among the 20 likeliest tokens. One that is not there, or is several tokens, is scored as a whole behind the
    probe, and never taken for 0.
    """
    asked = behind(engine, prompt, [*trimmed(thought), (probe, ())])
    judged = await engine.judge(asked, (*confident, *doubt), role="solver")
    missing = [word for word in (*confident, *doubt) if word not in judged.probabilities]
    space = "" if probe[-1].isspace() else " "
    scored = await together(_probability(engine, asked, space + word) for word in missing)
    found = {**judged.probabilities, **dict(zip(missing, scored, strict=True))}
    return share(found, confident, doubt), "scored" if missing else "top_k"


def share(found: Mapping[str, float], confident: Sequence[str], doubt: Sequence[str]) -> float | None:
    """What the words for yes have of what all have together."""
    yes, no = (math.fsum(found[word] for word in words) for words in (confident, doubt))
    return yes / (yes + no) if yes + no > 0 else None


async def _probability(engine: Engine, asked: Rendered, word: str) -> float:
    """Of a whole word, all its tokens."""
    ids = engine.tokens_of(word) if asked.token_ids else None
    scores = await engine.score(asked, word if ids is None else ids)
    return math.exp(math.fsum(scores.logprobs))
