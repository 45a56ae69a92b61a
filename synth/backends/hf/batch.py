"""The rows that share a forward pass. They come and go at the end of a stride; within it, all write in step.

            ──── cache, a stride of columns at a time ───▶
    row 0   . . . P P P P P | w w w w w w w w | w       .  masked: a prompt is filled up on the left to whole strides
    row 1   P P P P P P P P | w w w w w w w w | w       P  the prompt but for its last token, which is fed first
    row 2                   | . . . . . . P P | w       w  written; row 2 joined a stride later
    row 2'                    a copy: on a CPU, a step has MIN_ROWS rows at least

Why so: float32 on a CPU then gives a row the same bits whoever its batch mates are, and so the same seeded draws. Sums
over the cache are taken in vector lanes, so a row must begin at the same place of a stride wherever it stands; matrix
products take another way below 16 rows, and with several threads again from some hundred rows on, so a prompt is
read on its own and a step is never smaller than that. tests/test_hf_backend.py compares the bits.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tracemill.synth.backends.hf.model import Loaded
from tracemill.synth.backends.hf.row import Row, Settings

STRIDE = 32
MIN_ROWS = 16
PREFILL = 8192
"""Tokens of several prompts that are read at once on a GPU."""


class Batch:
    """Rows of one adapter. Every call is made while the model wears it, in inference mode."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.rows: list[Row] = []
        self._cache: Any = None
        self._ids: Any = None
        """What stands in the cache, and the one token to be fed next; under the mask, any token of the same row."""
        self._mask: Any = None
        self._ways: list[tuple[Settings, list[Any], list[int]]] = []

    def settle(self, joining: Sequence[Row]) -> None:
        """Let go of the rows that are over, and take these in."""
        if not joining and not any(row.over for row in self.rows):
            return
        self._keep([place for place, row in enumerate(self.rows) if not row.over])
        for group in self._groups(joining):
            self._join(group)
        if self.rows and (short := MIN_ROWS - len(self.rows)) > 0 and self._loaded.on_cpu:
            self._select([*range(len(self.rows)), *[0] * short])
        self._ways = self._by_settings()

    def advance(self, halted: Callable[[], bool], finished: Callable[[Row], None]) -> None:
        """One stride: every row writes up to STRIDE tokens. `finished` hears of each as soon as it is done."""
        import torch

        for _ in range(STRIDE):
            if halted() or all(row.over for row in self.rows):
                return
            ones = torch.ones_like(self._ids[:, :1])
            self._mask = torch.cat([self._mask, ones], 1)
            logits = self._loaded.forward(self._ids[:, -1:], self._mask, self._cache)[:, -1]
            tokens = self._draw(logits)
            self._ids = torch.cat([self._ids, tokens[:, None]], 1)
            self._hand_out(logits, tokens, finished)

    def drop(self) -> list[Row]:
        """Give up the cache; the rows, which have to begin anew."""
        rows, self.rows = self.rows, []
        self._cache = self._ids = self._mask = None
        return rows

    # -- coming and going

    def _keep(self, places: list[int]) -> None:
        self.rows = [self.rows[place] for place in places]
        if not places:
            self.drop()
            return
        self._select(places)
        empty = int(self._mask.any(0).int().argmax()) // STRIDE * STRIDE
        if empty:
            self._mask, self._ids = self._mask[:, empty:], self._ids[:, empty:]
            for layer in self._cache.layers:
                layer.keys, layer.values = layer.keys[..., empty:, :], layer.values[..., empty:, :]

    def _select(self, places: list[int]) -> None:
        import torch

        index = torch.tensor(places, device=self._ids.device)
        self._cache.batch_select_indices(index)
        self._mask, self._ids = self._mask[index], self._ids[index]

    def _groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows whose prompts are read together; rows with the very same prompt read it once."""
        by_prompt: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            by_prompt.setdefault(tuple(row.prompt), []).append(row)
        if self._loaded.on_cpu:
            return list(by_prompt.values())
        groups: list[list[Row]] = []
        size = width = 0
        for prompt, same in sorted(by_prompt.items(), key=lambda item: len(item[0])):
            if groups and _strides(len(prompt) - 1) == width and size + width <= PREFILL:
                groups[-1].extend(same)
                size += width
            else:
                groups.append(list(same))
                size = width = _strides(len(prompt) - 1)
        return groups

    def _join(self, rows: list[Row]) -> None:
        """Read their prompts, all but the last token, into the cache."""
        import torch
        from transformers import DynamicCache

        prompts = list(dict.fromkeys(tuple(row.prompt) for row in rows))
        width = _strides(len(prompts[0]) - 1)
        ids, mask = padded([prompt[:-1] for prompt in prompts], width, [prompt[-1] for prompt in prompts], self._loaded)
        cache = DynamicCache()
        self._loaded.forward(ids, mask, cache)
        last = torch.tensor([[prompt[-1]] for prompt in prompts], device=ids.device)
        joined = Batch(self._loaded)
        joined._cache, joined._mask, joined._ids = cache, mask, torch.cat([ids, last], 1)
        joined._select([prompts.index(tuple(row.prompt)) for row in rows])
        for row in rows:
            row.begin()
            row.generator = self._generator(row)
        if self.rows:
            self._append(joined)
        else:
            self._cache, self._mask, self._ids = joined._cache, joined._mask, joined._ids
        self.rows.extend(rows)

    def _append(self, other: "Batch") -> None:
        import torch
        from torch.nn.functional import pad

        width = max(self._mask.shape[1], other._mask.shape[1])
        for mine, theirs in zip(self._cache.layers, other._cache.layers, strict=True):
            for name in ("keys", "values"):
                both = [getattr(layer, name) for layer in (mine, theirs)]
                setattr(mine, name, torch.cat([pad(part, (0, 0, width - part.shape[-2], 0)) for part in both]))
        self._mask = torch.cat([pad(part, (width - part.shape[1], 0)) for part in (self._mask, other._mask)])
        filled = ((part[:, :1].expand(-1, width + 1 - part.shape[1]), part) for part in (self._ids, other._ids))
        self._ids = torch.cat([torch.cat(parts, 1) for parts in filled])

    def _generator(self, row: Row) -> Any:
        import torch

        return None if row.seed is None else torch.Generator(self._loaded.device).manual_seed(row.seed)

    # -- drawing

    def _by_settings(self) -> list[tuple[Settings, list[Any], list[int]]]:
        places: dict[Settings, list[int]] = {}
        for place, row in enumerate(self.rows):
            places.setdefault(row.settings, []).append(place)
        return [(settings, warpers(settings), found) for settings, found in places.items()]

    def _draw(self, logits: Any) -> Any:
        """The next token of each row: the likeliest, or the one that wins a race of the row's own random numbers.

        Dividing probabilities by exponential noise and taking the largest draws from them (the Gumbel trick).
        """
        import torch

        tokens = torch.zeros_like(self._ids[:, -1])
        for settings, processors, places in self._ways:
            scores, ids = logits[places], self._ids[places]
            for processor in processors:
                scores = processor(ids, scores)
            if not settings.greedy:
                noise = torch.empty_like(scores)
                for place, own in zip(places, noise, strict=True):
                    own.exponential_(generator=self.rows[place].generator)
                scores = scores.softmax(-1) / noise.clamp_(min=1e-30)
            tokens[places] = scores.argmax(-1)
        return tokens

    def _hand_out(self, logits: Any, tokens: Any, finished: Callable[[Row], None]) -> None:
        told = {row: None for row in self.rows if row.logprobs is not None and not row.over}
        notes = {}
        if told:
            places = [place for place, row in enumerate(self.rows) if row in told]
            found = logprobs_of(logits[places], tokens[places], max(row.logprobs or 0 for row in told))
            notes = dict(zip(places, found, strict=True))
        for place, (row, token) in enumerate(zip(self.rows, tokens.tolist(), strict=False)):
            if row.over:
                continue
            if place in notes:
                logprob, top = notes[place]
                row.take(token, logprob, top[: row.logprobs])
            else:
                row.take(token)
            if row.over:
                finished(row)


def warpers(settings: Settings) -> list[Any]:
    """The chain of the library's own, in vLLM's order: penalty, temperature, min_p, top_k, top_p; greedy has no more than a penalty."""
    import transformers

    chain: list[Any] = []
    if settings.repetition_penalty != 1:
        chain.append(transformers.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.greedy:
        return chain
    if settings.temperature != 1:
        chain.append(transformers.TemperatureLogitsWarper(settings.temperature))
    if settings.min_p > 0:
        chain.append(transformers.MinPLogitsWarper(settings.min_p))
    if settings.top_k > 0:
        chain.append(transformers.TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        chain.append(transformers.TopPLogitsWarper(settings.top_p))
    return chain


def logprobs_of(logits: Any, tokens: Any, k: int) -> list[tuple[float, tuple[tuple[int, float], ...]]]:
    """Natural-log probability of each token, and the `k` likeliest, best first, in each row of logits."""
    logs = logits.log_softmax(-1)
    own = logs.gather(-1, tokens[:, None])[:, 0].tolist()
    if not k:
        return [(logprob, ()) for logprob in own]
    best = logs.topk(min(k, logs.shape[-1]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(logprob, tuple(zip(*pair, strict=True))) for logprob, pair in zip(own, pairs, strict=True)]


def padded(prompts: Sequence[Sequence[int]], width: int, fill: Sequence[int], loaded: Loaded) -> tuple[Any, Any]:
    """Ids and mask, each prompt against the right edge. Each row is filled with a token of its own."""
    import torch

    ids = [[token] * (width - len(prompt)) + list(prompt) for prompt, token in zip(prompts, fill, strict=True)]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=loaded.device), torch.tensor(mask, device=loaded.device)


def _strides(length: int) -> int:
    """A length, filled up to whole strides: one at least."""
    return max(STRIDE, -(-length // STRIDE) * STRIDE)
