"""The protocols that plug-ins are written against. A plug-in is one file with one function of the file's name.

    async def <method>(problem: Problem, engine: Engine, *, <options>) -> Outcome
    async def <score>(trace: Mapping, engine: Engine, *, <options>) -> Mapping
    def <filter>(*, <options>) -> pl.Expr
    def <selector>(traces: pl.LazyFrame, *, engine=None, workers=None, <options>) -> Selection

Everything after the `*` comes from the recipe; its annotations are checked before the first token.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from tracemill.schemas.request import Adapter, Completion, Message, Rendered, Reward, Sampling, TokenScores
from tracemill.schemas.rows import Judgement, Outcome, Problem, Selection, Verdict

PromptLike = str | tuple[Message, ...] | Rendered
"""Messages, a text that becomes one user message, or what `Engine.rendered` made of either."""


class Engine(Protocol):
    """What a method talks to: the models of this build, for one problem, with the journal in front of them."""

    async def sample(
        self,
        prompt: PromptLike,
        *,
        n: int = 1,
        start: int = 0,
        role: str = "solver",
        scope: str = "solve",
        salt: str = "",
        sampling: Sampling = Sampling(),
        prefix: str | tuple[int, ...] | None = None,
        adapter: Adapter | None = None,
    ) -> list[Completion]:
        """Draw `n` completions, numbers `start` to `start + n - 1`, in that order.

        What the journal holds comes back at once; the rest is sampled, all at the same time. n=4 and later n=8, or 4 more
        with start=4, are the same draws. Methods that draw plain solutions leave `scope` alone and so share samples. Asking
        for one draw twice within a problem is a bug in the method and raises ProblemFailed: give it an index or a salt.
        """
        ...

    async def score(
        self,
        prompt: PromptLike,
        continuation: str | tuple[int, ...],
        *,
        role: str = "solver",
        adapter: Adapter | None = None,
        top: int = 0,
    ) -> TokenScores:
        """Log-probs of the tokens of `continuation` after `prompt`, and the `top` likeliest ones at each position (at most 20).

        A score is no draw: whoever asks for the same one, in whatever problem, gets the one that is journaled.
        """
        ...

    async def judge(
        self, prompt: PromptLike, answers: Sequence[str], *, role: str = "judge", top: int = 20
    ) -> Judgement:
        """How likely the role's reply to `prompt` begins with each of `answers`, of one token each.

        Read from the `top` likeliest tokens of the first position, at most 20, before temperature and truncation. It is no draw:
        the same question is asked once, by whomever. Needs the capability `logprobs`.
        """
        ...

    async def reward(
        self, prompt: str | tuple[Message, ...], reply: str, *, role: str = "reward", by_step: bool = False
    ) -> Reward:
        """What the role's reward model gives `reply` as an answer to `prompt`: for the whole of it, or by steps.

        For the whole, the numbers are those before any activation; by steps they are the probabilities that process reward models
        are trained for. It is no draw: the same question is asked once, by whomever. Needs the capability `reward`.
        """
        ...

    async def verify(self, text: str | Completion, gold: str | None, *, truncated: bool = False) -> Verdict:
        """Whether the final answer of `text` equals `gold`, as the recipe's `[verify]` says.

        `text` follows the solver's prompt: where that opens a thought, the text begins inside it. The verdict on a completion
        is kept with it: nobody compares it a second time.
        """
        ...

    async def verifiable(self, gold: str | None) -> bool:
        """Whether `gold` is an answer that the verifier can tell from others: one that it finds equal to itself."""
        ...

    def neighbours(self) -> tuple[Problem, ...]:
        """Other problems of this build, as many as a module-level `NEIGHBOURS = 1` declares, fewer where the build has fewer.

        They are those that follow in the order of `draw(problem_id)`: the same ones in every run and shard. What is drawn for one of
        them is drawn for the problem at hand, so give it a scope and salt of its own.
        """
        ...

    def level(self, scale: str, role: str = "solver") -> Adapter:
        """What `sample(adapter=...)` takes for the weights at `scale`, of those that the method's `levels` declared."""
        ...

    def model_name(self, role: str = "solver") -> str:
        """The name that rows show for a role's model."""
        ...

    def revision(self, role: str = "solver") -> str:
        """What proves a role's weights: their hash or Hub commit; `unverified` where a server cannot prove one."""
        ...

    def rendered(self, prompt: PromptLike, role: str = "solver") -> Rendered:
        """`prompt` as the role's model is shown it, for a second role that is to read the very same tokens.

        A plug-in that hands on tokens names the roles in a module-level `ONE_TOKENIZER = ("solver", "teacher")`: where their
        tokens differ, the recipe is refused.
        """
        ...

    def conversation(self, prompt: str | tuple[Message, ...], role: str = "solver") -> tuple[Message, ...]:
        """The turns that the model is shown for `prompt`, the recipe's system prompt included: a trace's prompt."""
        ...

    def counter(self, role: str = "solver") -> str | None:
        """Whose tokens `count_tokens` counts, in the words of `Completion.counted`: None for the role's own tokenizer."""
        ...

    def count_tokens(self, text: str, role: str = "solver") -> int:
        """Tokens of a given text, by the role's tokenizer; words where no model is at hand."""
        ...

    def text_of(self, tokens: Sequence[int], role: str = "solver") -> str:
        """The text of token ids, special ones written out; the numbers themselves where no tokenizer is at hand."""
        ...

    def tokens_of(self, text: str, role: str = "solver") -> tuple[int, ...] | None:
        """Token ids of a text that no model wrote, special tokens by their spelling; None where no tokenizer is at hand.

        What a model drew has ids already (`Completion.token_ids`), and its text encoded again may have others.
        """
        ...

    def vocabulary(self, role: str = "solver") -> int | None:
        """The first token id that the role's tokenizer leaves free, as it would give to a token added to it; None without a tokenizer."""
        ...

    def token_starts(
        self, text: str, prompt: str | tuple[Message, ...] | None = None, role: str = "solver"
    ) -> list[int] | None:
        """Where in `text` each token of it begins, in characters; with `prompt`, those of the whole conversation.

        The tokens of the prompt, rendered as the model is shown it, come first and begin at negative numbers. None where no
        tokenizer is at hand.
        """
        ...


FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Texts as vectors, and how much of each text they stand for."""

    vectors: FloatArray
    """[n, d], each of length one; zero for a text without a token. A large one is mapped from a file."""
    tokens: npt.NDArray[np.int64]
    """[n], of the encoder's tokenizer."""
    covered: npt.NDArray[np.int64]
    """[n], how many of these the encoder read."""


class Embedder(Protocol):
    """What a selector gets as `engine`: the recipe's `[embedder]`, with the vectors that are known in front of it."""

    @property
    def identity(self) -> str:
        """Says which model it is, and how it reads: equal identities give equal vectors."""
        ...

    def embed(self, texts: Iterable[str], *, chunks: int = 1) -> Embedded:
        """A vector for each text: of its head where `chunks` is 1, else of up to so many windows spread over it."""
        ...


X = TypeVar("X")
Y = TypeVar("Y")


class Workers(Protocol):
    """Processes on this and other machines; what a selector with a parameter `workers` gets where a build has them."""

    @property
    def count(self) -> int:
        """How many calls they make at once."""
        ...

    @property
    def folder(self) -> Path:
        """A folder that all of them see, for what is too large to be sent; it is removed at the end."""
        ...

    def each(self, call: Callable[[X], Y], items: Iterable[X]) -> Iterator[Y]:
        """`call`, a function of a module, of every item: the results in order. Items and results travel, so they are small."""
        ...

    def rows(self, call: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
        """What `call`, a function of a module, makes of all traces, some problems at a time: `id` and columns made of that row alone.

        For what is narrow but is made of long texts. `call` sees the columns that traces had before any selector.
        """
        ...


Method = Callable[[Problem, Engine], Awaitable[Outcome]]
Score = Callable[[Mapping[str, Any], Engine], Awaitable[Mapping[str, Any]]]
Selector = Callable[[pl.LazyFrame], Selection]


def reject(when: pl.Expr, reason: str, **evidence: pl.Expr | str | int | float | bool | None) -> pl.Expr:
    """The verdict of a filter: null where a row is kept, else struct(reason, evidence as JSON text).

    A null `when` rejects too: a filter that cannot tell says so with its evidence instead of letting the row through.
    """
    shown = [(v if isinstance(v, pl.Expr) else pl.lit(v)).alias(name) for name, v in evidence.items()]
    text = pl.struct(shown).struct.json_encode() if shown else pl.lit("{}")
    verdict = pl.struct([pl.lit(reason).alias("reason"), text.alias("evidence")])
    return pl.when(when.fill_null(value=True)).then(verdict)
