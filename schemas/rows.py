"""What goes through the pipeline: a `Problem` goes in, `Trace`s come out, and what does not come out has a `Rejection`."""

import hashlib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import polars as pl

from tracemill.schemas.request import Completion, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A question, usually with a checkable answer."""

    problem_id: str
    question: str
    gold: str | None = None
    source: str = ""
    source_index: int = 0
    """Which `[[source]]` of the recipe it comes from."""
    licence: str = "unknown"
    difficulty: str | None = None
    messages: tuple[Message, ...] | None = None
    """A given conversation that ends before the answer; None where `question` is all there is."""
    tools: tuple[Mapping[str, Any], ...] | None = None
    options: tuple[str, ...] | None = None
    solution: str | None = None
    chains: str | tuple[tuple[str, ...], ...] | None = None
    """Given ways to the answer: lines such as `1: A->B->C`, or lists of names."""
    question_entities: tuple[tuple[str, str | None], ...] | None = None
    """What the question names, by name and type; the type None where it is not told."""
    answer_entities: tuple[tuple[str, str | None], ...] | None = None
    kp_list: tuple[str, ...] | None = None
    """Given knowledge points; None where the source names no such column."""
    kp_kept: tuple[int, ...] | None = None
    """The ones of them that somebody chose already: their places, ascending from 0."""
    responses: Mapping[str, str | None] = field(default_factory=dict)
    """Given traces by the column they came from, or the name they bring; None is a gap in a list of them."""
    given: Mapping[str, "Given"] = field(default_factory=dict)
    """What the source says of these traces, by the same names, where it says anything."""
    steps: tuple[Any, ...] | None = None
    """Given steps as their source has them, for a method to read; None where the source names no such column."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The other columns of the source row, for filters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a source says of a trace that it brings, beside its text."""

    named: bool = False
    """Whether the source names the trace, and not its column."""
    prompt: tuple[Message, ...] | None = None
    """The turns before the answer, where the trace is the end of a conversation; None: those of the problem."""
    source: str | None = None
    licence: str | None = None
    """Where they differ from the problem's: two sources may bring traces of one problem."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Columns of its row that come along."""

    def said(self) -> tuple[Any, ...]:
        """All of it but where it comes from."""
        return self.named, self.prompt, self.columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One candidate: what a model answered to a problem, and what the method says of it."""

    problem_id: str
    name: str
    """Unique within the problem and the same in every run: `solve-0003`."""
    prompt: tuple[Message, ...]
    text: str
    n_tokens: int
    finish_reason: str
    model: str
    counted: str | None = None
    """Whose count `n_tokens` is, where it is not that of the solver's tokenizer."""
    key: str | None = None
    """The key of the completion it is made of, the last one where there are several; None for a given trace."""
    whole: bool = False
    """Whether the text is put together by the method: it then begins outside any thought, whatever the prompts of its parts."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The method's own columns."""
    verdict: "Verdict | None" = None
    """Known without asking: a reference solution is right by what it is. None: it is verified like any other."""

    @property
    def id(self) -> str:
        return f"{self.problem_id}/{self.name}"

    @classmethod
    def of(
        cls,
        problem: Problem,
        completion: Completion,
        *,
        name: str,
        prompt: tuple[Message, ...],
        model: str,
        **columns: Any,
    ) -> "Trace":
        """The trace that is one completion, unchanged."""
        return cls(
            problem_id=problem.problem_id,
            name=name,
            prompt=prompt,
            text=completion.text,
            n_tokens=completion.n_tokens,
            finish_reason=completion.finish_reason,
            model=model,
            counted=completion.counted,
            key=completion.key,
            columns=columns,
        )


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why something is not in the dataset. `reason` is a short fixed code, `evidence` what a person needs to agree."""

    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a method made of one problem."""

    traces: Sequence[Trace] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    rejections: Sequence[tuple[Trace | None, Rejection]] = ()
    """Traces that the method itself turns down; None for the problem as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an answer equals the gold. Undecided is not wrong: `reason` says what stopped the check."""

    status: Literal["equal", "different", "undecided"]
    reason: str | None = None
    answer: str | None = None
    """What counted as the final answer."""
    how: str = ""
    """What decided: exact, numeric, choice, math, or the user's grader."""

    @property
    def correct(self) -> bool | None:
        return None if self.status == "undecided" else self.status == "equal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a judge gives to each answer that it could begin with."""

    probabilities: Mapping[str, float]
    """By answer, summed over the tokens that spell it; an answer that did not come back is not in it."""
    returned: tuple[tuple[str, float], ...]
    """Every token that came back, whatever it says, with its probability, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Share:
    """`part` of `whole`, which is shown with its 95 % interval."""

    part: int
    whole: int


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of `count` numbers with this sum and sum of squares, shown with its 95 % interval within what it can be."""

    total: float
    squares: float
    count: int
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a method says of its whole dataset, for the card and the screen; the keys of the first row are the columns."""

    title: str
    rows: Sequence[Mapping[str, Share | Mean | str | int | float | None]]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Every row that a selector saw, with `selected` (bool), `reason` and `evidence` (strings, null where selected)."""

    rows: pl.LazyFrame
    tables: Mapping[str, pl.LazyFrame] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """How the choice was made, plain data for the manifest: it may differ between machines and is not in the version's id."""
    summary: Summary | None = None
    """What was found, for the card."""


def qid(question: str) -> str:
    """The id of a problem that brings none: 16 hex digits of SHA-256 of its NFC text with white space collapsed."""
    text = " ".join(unicodedata.normalize("NFC", question).split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def draw(row_id: str) -> int:
    """A uniform 64-bit number that an id keeps for ever, on every machine and library version.

    Order of admission, shards, splits and "a random tenth" all come from it.
    """
    return int.from_bytes(hashlib.sha256(row_id.encode()).digest()[:8], "big")


def by_lot(kind: str, row_id: str, share: float) -> bool:
    """Whether an id is among the `share` that its hash draws: the same ids in every run, whatever stands beside them."""
    wanted = Fraction(str(share))
    return draw(f"{kind}|{row_id}") * wanted.denominator < wanted.numerator << 64


def shard_of(row_id: str, count: int) -> int:
    """Which of `count` shards an id belongs to: its draw modulo the count, so that a prefix of the draws is in all of them."""
    return draw(row_id) % count
