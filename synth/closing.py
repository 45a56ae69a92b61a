r"""Close a thought by force after this much of it, and draw short answers behind.

How good is what has been thought so far?

    written = spelled(engine, completion)                       its text, token by token, as it was drawn
    await close(engine, asked, cut(written, 0, 120), n=8, scope="mine", salt="after:2", lead="The answer is \\boxed{")

    ...3 * 8 = 24.\n\n | Wait, 8 * 3 is 24.      ->      ...3 * 8 = 24.\n</think>\n\nThe answer is \boxed{ | 24}.

What a model wrote goes back to it as the token ids that it drew; text is encoded only where it is new, and where a cut goes through a
token. A reply whose thought the chat template opened begins inside it, one that opens its own brings the tag along: both are closed alike.
Where prompts are sent as text, so is the forced beginning. Where the server renders (`send = "chat"`), it stands in an unfinished turn of
the assistant, and whether thoughts survive in one is up to the server's template: there `text` or `tokens` are safe.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from tracemill.schemas.errors import ProblemFailed
from tracemill.schemas.plugins import Engine, PromptLike
from tracemill.schemas.request import Completion, Rendered, Sampling
from tracemill.schemas.rows import Verdict

CLOSE = "\n</think>\n\n"
"""How models of the DeepSeek-R1 and Qwen3 families part thought and answer."""
LONGEST_CHARACTER = 8
"""Tokens that together may make one character; more of them that have no text of their own are no text of this reply."""

Token = tuple[str, tuple[int, ...]]
"""A piece of text and its token; no id for text that no model wrote, or for part of a token, several for one character of several."""


@dataclass(frozen=True, slots=True)
class Closed:
    """One answer behind a thought that was closed by force."""

    before: str
    """What the reply was forced to begin with: thought, closing and lead."""
    n_before: int
    """Its tokens."""
    answer: Completion
    """What the model wrote behind it."""

    @property
    def whole(self) -> Completion:
        """The reply from its first word to its last, as `Trace.of` takes it; its key is the answer's."""
        return replace(
            self.answer,
            text=self.before + self.answer.text,
            n_tokens=self.n_before + self.answer.n_tokens,
            token_ids=None,
            scores=None,
        )


async def close(
    engine: Engine,
    prompt: PromptLike,
    thought: str | Sequence[Token],
    *,
    n: int,
    scope: str,
    salt: str,
    start: int = 0,
    role: str = "solver",
    sampling: Sampling = Sampling(),
    close: str = CLOSE,
    lead: str = "",
) -> list[Closed]:
    """Draw `n` answers behind so much of a thought, closed by force and led in by `lead`. White space before the close is dropped."""
    spelt = [(thought, ())] if isinstance(thought, str) else thought
    forced = [*trimmed(spelt), (close + lead, ())]
    before = text_of(forced)
    prefix = spelling(engine, prompt, forced, role)
    drawn = await engine.sample(
        prompt, n=n, start=start, role=role, scope=scope, salt=salt, sampling=sampling, prefix=prefix
    )
    count = count_tokens(engine, forced, role)
    return [Closed(before, count, completion) for completion in drawn]


async def verdict(engine: Engine, closed: Closed, gold: str | None) -> Verdict:
    """On the whole reply. It is not kept with the completion, whose own text is only the end of it."""
    return await engine.verify(closed.before + closed.answer.text, gold, truncated=closed.answer.truncated)


def spelled(engine: Engine, completion: Completion, role: str = "solver") -> list[Token]:
    """A reply token by token. From where its ids do not spell its text, or where the engine tells none, the rest is one piece without an id."""
    text, ids = completion.text, list(completion.token_ids or ())
    tokens: list[Token] = []
    at, first = 0, 0
    for end in range(1, len(ids) + 1):
        piece = _piece(engine, ids, first, end, role)
        if at == len(text) or end - first > LONGEST_CHARACTER:
            break
        if piece and text.startswith(piece, at):
            tokens.append((piece, tuple(ids[first:end])))
            at, first = at + len(piece), end
    return [*tokens, (text[at:], ())] if at < len(text) else tokens


def _piece(engine: Engine, ids: Sequence[int], first: int, end: int, role: str) -> str:
    """What some tokens add to the text behind the one before them: alone, some tokenizers show them without their space."""
    if first == 0:
        return engine.text_of(ids[:end], role)
    before = engine.text_of(ids[first - 1 : first], role)
    both = engine.text_of(ids[first - 1 : end], role)
    return both[len(before) :] if both.startswith(before) else ""


def cut(tokens: Iterable[Token], start: int, end: int) -> list[Token]:
    """The characters from `start` up to `end`; a token that is not whole in there loses its id."""
    found: list[Token] = []
    at = 0
    for text, ids in tokens:
        first, last = max(start, at), min(end, at + len(text))
        if first < last:
            found.append((text[first - at : last - at], ids if last - first == len(text) else ()))
        at += len(text)
    return found


def trimmed(tokens: Sequence[Token]) -> list[Token]:
    """Without white space at the end."""
    return cut(tokens, 0, len(text_of(tokens).rstrip()))


def text_of(tokens: Iterable[Token]) -> str:
    return "".join(text for text, _ in tokens)


def ids_of(engine: Engine, tokens: Iterable[Token], role: str = "solver") -> tuple[int, ...] | None:
    """Token ids: those that were drawn, and of what has none, neighbours together, an encoding. None without a tokenizer."""
    ids: list[int] = []
    for drawn, run in groupby(tokens, key=lambda token: bool(token[1])):
        if drawn:
            ids += [i for _, some in run for i in some]
        elif (encoded := engine.tokens_of(text_of(run), role)) is not None:
            ids += encoded
        else:
            return None
    return tuple(ids)


def count_tokens(engine: Engine, tokens: Sequence[Token], role: str = "solver") -> int:
    """How many tokens they are: drawn ones as they were drawn."""
    ids = ids_of(engine, tokens, role)
    return engine.count_tokens(text_of(tokens), role) if ids is None else len(ids)


def spelling(
    engine: Engine, prompt: PromptLike, tokens: Sequence[Token], role: str = "solver"
) -> str | tuple[int, ...]:
    """What `engine.sample(prefix=...)` takes for this beginning: ids where the prompt is sent as ids, else text."""
    by_ids = bool(engine.rendered(prompt, role).token_ids)
    ids = ids_of(engine, tokens, role) if by_ids else None
    return text_of(tokens) if ids is None else ids


def behind(engine: Engine, prompt: PromptLike, tokens: Sequence[Token], role: str = "solver") -> Rendered:
    """The prompt with this beginning of a reply behind it, for `engine.judge` and `engine.score`; ProblemFailed where the server renders."""
    shown = engine.rendered(prompt, role)
    text = None if shown.text is None else shown.text + text_of(tokens)
    if isinstance(shown.prompt, str):
        return Rendered(shown.prompt + text_of(tokens), text)
    if not shown.token_ids or (ids := ids_of(engine, tokens, role)) is None:
        raise ProblemFailed(
            f'the server renders the prompts of {role!r}, so nothing can be asked inside a reply; use send = "text" or "tokens"'
        )
    return Rendered((*shown.token_ids, *ids), text)
