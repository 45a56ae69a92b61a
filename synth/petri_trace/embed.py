"""The nodes of a graph that are nearest to a name, by the vectors of an encoder.

It runs on the CPU in float32, and similarities are rounded to four decimals: what a name is
linked to does not hang on what else is asked at the moment. Vectors of nodes are made when the first name of their type is
looked up and stay in memory, `MOST_BYTES` of them; of what is more, those asked for longest ago are made again when needed.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tracemill.schemas.errors import RecipeError
from tracemill.schemas.plugins import FloatArray
from tracemill.schemas.recipe import EmbedderTable
from tracemill.synth.embed import Encoder
from tracemill.synth.models import locate
from tracemill.synth.petri_trace.graph import Graph, Node, folded

MOST_BYTES = 1 << 30


@lru_cache(maxsize=2)
def encoder(name: str) -> Encoder:
    """The sentence-transformers model of this folder or Hub id; ValueError where it cannot be loaded."""
    try:
        return Encoder(locate("embedder", name), EmbedderTable(name=name), device="cpu")
    except ModuleNotFoundError:
        raise ValueError("embedder: needs the sentence-transformers package: pip install 'tracemill[embed]'") from None
    except RecipeError as error:
        raise ValueError(f"embedder = {name!r}: no sentence-transformers model could be loaded: {error}") from error


def check_embedder(name: str) -> None:
    """Raise ValueError for an embedder that cannot work, as far as that can be told without loading it."""
    if find_spec("sentence_transformers") is None:
        raise ValueError("embedder: needs the sentence-transformers package: pip install 'tracemill[embed]'")
    if Path(name).is_absolute() and not (Path(name) / "modules.json").is_file():
        raise ValueError(f"embedder = {name!r}: no sentence-transformers model there; its folder holds a modules.json")


def embed(name: str, texts: Sequence[str]) -> FloatArray:
    """Unit vectors of texts, float32 of shape (texts, dimensions)."""
    return encoder(name).encode(texts, 1)[2]


@dataclass(slots=True, eq=False)
class Nearest:
    """The nodes of one graph by what their names mean."""

    graph: Graph
    embedder: str
    _vectors: "OrderedDict[str | None, tuple[list[Node], np.ndarray]]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def to(self, name: str, kind: str | None, *, k: int, above: float) -> list[tuple[Node, float]]:
        """Up to `k` nodes of a type with a cosine similarity above `above`, the nearest first, ties by name.

        A thread does the work, one name at a time.
        """
        return await asyncio.to_thread(self._to, name, kind, k, above)

    def _to(self, name: str, kind: str | None, k: int, above: float) -> list[tuple[Node, float]]:
        with self._lock:
            nodes, vectors = self._of_kind(None if kind is None else folded(kind))
            if not nodes:
                return []
            likeness = np.round((vectors @ embed(self.embedder, [name])[0]).astype(np.float64), 4)
        near = np.flatnonzero(likeness > above).tolist()
        names = self.graph.names
        best = sorted(near, key=lambda place: (-likeness[place], names[nodes[place]], nodes[place]))[:k]
        return [(nodes[place], float(likeness[place])) for place in best]

    def _of_kind(self, kind: str | None) -> tuple[list[Node], np.ndarray]:
        if kind not in self._vectors:
            nodes = self.graph.of_kind(kind)
            self._vectors[kind] = nodes, embed(self.embedder, [self.graph.names[node] for node in nodes])
        self._vectors.move_to_end(kind)
        while len(self._vectors) > 1 and sum(vectors.nbytes for _, vectors in self._vectors.values()) > MOST_BYTES:
            self._vectors.popitem(last=False)
        return self._vectors[kind]


@lru_cache(maxsize=2)
def nearest(graph: Graph, embedder: str) -> Nearest:
    """The one `Nearest` of a graph and an embedder: problems share it."""
    return Nearest(graph, embedder)
