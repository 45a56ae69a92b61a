"""Texts to vectors: a sentence encoder, read here or fetched from the Hub, with a folder of known vectors in front of it.

A small encoder reads some 256 tokens at once. Of a longer text it is given the head, or several windows spread over the text, whose
vectors are averaged by their tokens; how many tokens there were and how many of them were read is counted for each text.
"""

import hashlib
import importlib.util
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import Embedded, FloatArray, Workers
from tracemill.schemas.recipe import EmbedderTable
from tracemill.synth.models import hash_folder, locate
from tracemill.synth.vectors import KEY, VectorFolder

LAYOUT = "embed-1"
"""The version of how texts become vectors here."""

SLAB_TEXTS = 4096
SLAB_CHARACTERS = 1 << 24
"""So much text at once is tokenized, sorted by length and embedded; then its vectors are on disk."""
BATCH_TOKENS = 8192
BATCH_ROWS = 256
"""A batch of an encoder, padding included."""


@dataclass(frozen=True)
class Embedder:
    """What a selector asks for vectors. Nothing is loaded before a text is asked for whose vector is not on disk."""

    table: EmbedderTable
    folder: Path
    revision: str
    cache: Path
    workers: Workers | None = None
    """Who embeds in place of this process."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Elsewhere it is opened anew, once in a process, and embeds there."""
        return _opened, (self.table.model_dump_json(), str(self.folder), self.revision, str(self.cache))

    @property
    def name(self) -> str:
        """The model's name without the folders above it."""
        return Path(self.table.name).name if self.table.name.startswith("/") else self.table.name

    @cached_property
    def identity(self) -> str:
        """16 hex digits of the hash of all that decides a vector besides the text."""
        parts = (LAYOUT, self.revision, self.table.dtype, str(self.table.window), self.table.prefix)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def embed(self, texts: Iterable[str], *, chunks: int = 1) -> Embedded:
        """A unit vector for each text: of its head, or of up to `chunks` windows spread evenly over it.

        Texts are taken as they come and not kept, so an iterator that reads them from disk bounds memory. A text without a token
        has the zero vector. RecipeError where the encoder cannot be loaded.
        """
        keys: list[bytes] = []
        with self._lock:
            self._known.refresh()
            absent = self._absent(texts, chunks, keys)
            if self.workers is None:
                for slab in absent:
                    self.learn(slab, chunks)
            else:
                for _ in self.workers.each(partial(_learned, replace(self, workers=None), chunks), absent):
                    pass
                self._known.refresh()
            return self._known.gather(np.array(keys, KEY))

    def learn(self, texts: Sequence[str], chunks: int) -> None:
        """Embed those of `texts` that have no vector yet; on disk when this returns."""
        with self._lock:
            keys = np.array([self._key(text, chunks) for text in texts], KEY)
            rest = np.flatnonzero(self._known.missing(keys))
            if len(rest):
                self._known.add(keys[rest], *self._encoder.encode([texts[i] for i in rest], chunks))

    def _absent(self, texts: Iterable[str], chunks: int, keys: list[bytes]) -> Iterator[list[str]]:
        """Slabs of those texts that have no vector, each text once; the keys of all texts go to `keys`."""
        sent: set[bytes] = set()
        for slab in _slabs(texts):
            named = np.array([self._key(text, chunks) for text in slab], KEY)
            keys += named.tolist()
            fresh, first = np.unique(named, return_index=True)
            new = [i for key, i in zip(fresh.tolist(), first.tolist(), strict=True) if key not in sent]
            new = [i for i, none in zip(new, self._known.missing(named[new]), strict=True) if none]
            sent.update(named[new].tolist())
            if new:
                yield [slab[i] for i in new]

    def _key(self, text: str, chunks: int) -> bytes:
        return hashlib.sha256(f"{chunks}\0".encode() + text.encode(errors="surrogatepass")).digest()[:16]

    @cached_property
    def _known(self) -> VectorFolder:
        return VectorFolder(self.cache / self.identity)

    @cached_property
    def _lock(self) -> threading.RLock:
        return threading.RLock()

    @cached_property
    def _encoder(self) -> "Encoder":
        return Encoder(self.folder, self.table)


def open_embedder(table: EmbedderTable, *, runtime: Path, cache: Path) -> Embedder:
    """Find the model of a recipe's `[embedder]` and hash its files; nothing is loaded. RecipeError for what cannot work."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise RecipeError("[embedder] needs sentence-transformers; install it with: pip install 'tracemill[embed]'")
    folder = locate("embedder.name", table.name, table.revision)
    if not (folder / "modules.json").is_file():
        raise RecipeError(
            f"embedder.name: {folder} has no modules.json, so it is no sentence-transformers model; a good small one is "
            "sentence-transformers/all-MiniLM-L6-v2"
        )
    if not any(folder.glob("*.safetensors")):
        raise RecipeError(f"embedder.name: {folder} has no *.safetensors; weights in other forms are not loaded")
    parts = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and (path / "config.json").is_file())]
    hashes = "+".join(hash_folder(part, runtime / "weights.hashes") for part in parts)
    revision = f"sha256:{hashlib.sha256(hashes.encode()).hexdigest()[:16]}"
    if table.name.startswith("/") and table.revision not in (None, revision):
        raise RecipeError(f"embedder.revision is {table.revision}, but the files in {folder} hash to {revision}")
    return Embedder(table, folder, revision, cache)


@lru_cache(maxsize=4)
def _opened(table: str, folder: str, revision: str, cache: str) -> Embedder:
    """The embedder of another process, here."""
    if not Path(folder, "modules.json").is_file():
        raise RecipeError(
            f"a worker does not see the encoder's folder {folder}; put it where all machines find it under this name"
        )
    return Embedder(EmbedderTable.model_validate_json(table), Path(folder), revision, Path(cache))


def _learned(embedder: Embedder, chunks: int, texts: Sequence[str]) -> None:
    embedder.learn(texts, chunks)


class Encoder:
    """A loaded model of sentence-transformers, on the GPU where there is one, unless `device` says where."""

    def __init__(self, folder: Path, table: EmbedderTable, *, device: str | None = None) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from tokenizers import Tokenizer

        self._torch = torch
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            model = SentenceTransformer(str(folder), device=self._device, model_kwargs={"use_safetensors": True})
            self._model = model.eval().to(getattr(torch, table.dtype))
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # other people's code reads other people's files: anything may come out
            raise RecipeError(f"embedder.name: {folder} cannot be loaded: {type(error).__name__}: {error}") from error
        widest = int(self._model.max_seq_length or 512)
        self._window = table.window or widest
        if self._window > widest:
            raise RecipeError(f"embedder.window = {self._window}: this model reads at most {widest} tokens at once")
        self._prefix = table.prefix
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=self._window)
        self._size = self._forward([self._tokenizer.encode("a").ids]).shape[1]

    def encode(self, texts: Sequence[str], chunks: int) -> tuple[list[int], list[int], FloatArray]:
        """Tokens of each text, how many of them were read, and unit vectors [n, d]."""
        windows: list[list[int]] = []
        owners: list[int] = []
        read: list[int] = []
        tokens = []
        for owner, encoding in enumerate(self._tokenizer.encode_batch([self._shown(text) for text in texts])):
            parts = [encoding, *encoding.overflowing]
            sizes = [len(part.ids) - sum(part.special_tokens_mask) for part in parts]
            tokens.append(sum(sizes))
            for i in _spread(len(parts), chunks):
                if sizes[i]:
                    windows.append(parts[i].ids)
                    owners.append(owner)
                    read.append(sizes[i])
        vectors = self._pooled(windows, np.array(owners, np.int64), np.array(read, np.float64), len(texts))
        covered = np.bincount(np.array(owners, np.int64), np.array(read, np.float64), len(texts)).astype(int)
        return tokens, covered.tolist(), vectors

    def _shown(self, text: str) -> str:
        """What is tokenized: half a surrogate pair, which no tokenizer takes, becomes a question mark."""
        return self._prefix + text.encode(errors="replace").decode()

    def _pooled(
        self, windows: list[list[int]], owners: npt.NDArray[np.int64], read: npt.NDArray[np.float64], texts: int
    ) -> FloatArray:
        total = np.zeros((texts, self._size), np.float64)
        for batch in _batches([len(window) for window in windows]):
            found = self._forward([windows[i] for i in batch])
            found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float64).tiny)
            np.add.at(total, owners[batch], found * read[batch, None])
        norms = np.linalg.norm(total, axis=1, keepdims=True)
        return np.asarray(total / np.where(norms > 0, norms, 1.0), np.float32)

    def _forward(self, windows: list[list[int]]) -> npt.NDArray[np.float64]:
        torch = self._torch
        longest = max(map(len, windows))
        ids = torch.zeros((len(windows), longest), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = torch.tensor(window)
            mask[row, : len(window)] = 1
        features = {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}
        with torch.inference_mode():
            out: Any = self._model(features)["sentence_embedding"]
        return np.asarray(out.double().cpu().numpy())


def _slabs(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts some at a time: not too many, and not too much."""
    rest = iter(texts)
    while slab := list(islice(rest, 1)):
        size = len(slab[0])
        while size < SLAB_CHARACTERS and len(slab) < SLAB_TEXTS and (more := list(islice(rest, 1))):
            slab += more
            size += len(more[0])
        yield slab


def _spread(there: int, wanted: int) -> list[int]:
    """Up to `wanted` of `there` windows, the first and the last among them, evenly spread; one is the head."""
    if wanted >= there:
        return list(range(there))
    return [0] if wanted == 1 else sorted({i * (there - 1) // (wanted - 1) for i in range(wanted)})


def _batches(lengths: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
    """Places of windows, longest first, so many at once as a batch holds when padded to its longest."""
    order = np.argsort(-np.array(lengths, np.int64), kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, min(BATCH_ROWS, BATCH_TOKENS // lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
