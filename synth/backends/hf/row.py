"""One request on its way: what was asked of the model, and what it has written so far. Holds no torch but a generator."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from tracemill.schemas.request import Completion, TokenScores

Top = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Settings:
    """How a row draws its next token. Rows with equal settings are drawn together."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def greedy(self) -> bool:
        return self.temperature < 1e-5  # where vLLM draws the line


@dataclass(eq=False)
class Row:
    """A completion in the making."""

    prompt: list[int]
    """The forced prefix included."""
    settings: Settings
    limit: int
    """Tokens it may write, by max_tokens and by the room in the context."""
    ends: frozenset[int]
    tokenizer: Tokenizer
    seed: int | None = None
    """None: from torch's own stream."""
    logprobs: int | None = None
    stop: Sequence[str] = ()
    include_stop: bool = False
    over: bool = False
    """Finished, or nobody waits for it any more."""
    generator: Any = None
    ids: "array[int]" = field(default_factory=lambda: array("i"))
    chosen: "array[float]" = field(default_factory=lambda: array("f"))
    top: list[Top] = field(default_factory=list)
    stopped: bool = False
    _text: str = ""
    _decoded: int = 0
    _stream: DecodeStream | None = None

    def begin(self) -> None:
        """From the first token; also again, where the memory for going on was not there."""
        self.ids, self.chosen, self.top = array("i"), array("f"), []
        self.generator, self.stopped = None, False
        self._text, self._decoded, self._stream = "", 0, None

    def take(self, token: int, logprob: float | None = None, top: Top = ()) -> None:
        """Add a token as sampled; `over` says whether that was the last."""
        self.ids.append(token)
        if logprob is not None:
            self.chosen.append(logprob)
            self.top.append(top)
        if token in self.ends or (self.stop and self._reached_stop()):
            self.stopped = self.over = True
        elif len(self.ids) >= self.limit:
            self.over = True

    def _reached_stop(self) -> bool:
        """Look for a stop string that the newest token completes, and cut the text there."""
        before = len(self._text)
        self._decode(len(self.ids))
        for stop in self.stop:
            at = self._text.find(stop, max(0, before - len(stop) + 1))
            if at >= 0:
                self._text = self._text[: at + len(stop) * self.include_stop]
                return True
        return False

    def _decode(self, upto: int) -> None:
        """Tokens to text, as they come: special tokens do not show, and an unfinished character waits."""
        if self._stream is None:
            self._stream = DecodeStream(ids=self.prompt, skip_special_tokens=True)
        for token in self.ids[self._decoded : upto]:
            try:
                piece = self._stream.step(self.tokenizer, token)
            except Exception:  # noqa: BLE001 - the library raises nothing narrower; some bytes confuse it, and it starts afresh
                self._stream = DecodeStream(skip_special_tokens=True)
                piece = self._stream.step(self.tokenizer, token)
            self._text += piece or ""
        self._decoded = max(self._decoded, upto)

    def completion(self) -> Completion:
        ended = bool(self.ids) and self.ids[-1] in self.ends
        if self._decoded < len(self.ids):
            self._decode(len(self.ids) - (ended and not self.include_stop))
        scores = None
        if self.logprobs is not None:
            scores = TokenScores(
                token_ids=self.ids, logprobs=self.chosen, top=tuple(self.top) if self.logprobs else None
            )
        return Completion(
            text=self._text,
            finish_reason="stop" if self.stopped else "length",
            n_tokens=len(self.ids),
            prompt_tokens=len(self.prompt),
            token_ids=self.ids,
            scores=scores,
        )
