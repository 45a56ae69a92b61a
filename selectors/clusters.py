"""The traces of one problem, clustered within each answer, and who stands for each cluster. No selector stands here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tracemill.schemas.plugins import FloatArray

Method = Literal["kmeans", "agglomerative"]

# arXiv:2605.08070: 10 starts and unit vectors; which seed is not stated
STARTS = 10
SEED = 0
DECIMALS = 9
"""Cosines to a centroid that are equal so far are equal: then the shorter trace stands for the cluster."""


@dataclass(slots=True)
class Trace:
    """One candidate of a problem, and what becomes of it."""

    place: int
    id: str
    answer: str | None
    tokens: int
    critic_conf: float | None
    directed: bool = True
    soft_reason: str | None = None
    """Why a pre-filter would drop it."""
    drop_reason: str | None = None
    cluster_id: str | None = None
    cluster_size: int | None = None
    cos_to_centroid: float | None = None
    is_representative: bool = False
    represented_by: str | None = None
    weight: float | None = None
    reason: str | None = None
    winner: str | None = None

    @property
    def answer_norm(self) -> str | None:
        return self.answer


def clustered(traces: Sequence[Trace], vectors: FloatArray, k: int, method: Method) -> None:
    """Write cluster and representative of each trace that nothing dropped."""
    answers: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.drop_reason is None and trace.answer is not None:
            answers.setdefault(trace.answer, []).append(trace)
    for answer, group in answers.items():
        rows = np.asarray(vectors[[trace.place for trace in group]], np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        labels = _labels(rows, k, method)
        for number, label in enumerate(dict.fromkeys(labels.tolist())):
            _stand_in(f"{answer}#{number}", [(t, rows[i]) for i, t in enumerate(group) if labels[i] == label])


def _labels(rows: npt.NDArray[np.float64], k: int, method: Method) -> npt.NDArray[np.int64]:
    """A number for each row; rows that are equal have one place, so no more clusters than there are different ones."""
    distinct, place = np.unique(rows, axis=0, return_inverse=True)
    k = min(k, len(distinct))
    if k == len(distinct):
        return np.asarray(place.reshape(-1), np.int64)
    if k == 1:
        return np.zeros(len(rows), np.int64)
    if method == "agglomerative":
        from sklearn.cluster import AgglomerativeClustering

        return np.asarray(AgglomerativeClustering(k, metric="cosine", linkage="average").fit_predict(rows), np.int64)
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(k, n_init=STARTS, random_state=SEED).fit_predict(rows), np.int64)


def _stand_in(name: str, members: Sequence[tuple[Trace, npt.NDArray[np.float64]]]) -> None:
    centroid = np.mean([row for _, row in members], axis=0)
    length = float(np.linalg.norm(centroid))
    for trace, row in members:
        trace.cluster_id, trace.cluster_size = name, len(members)
        trace.cos_to_centroid = round(float(row @ centroid) / length, DECIMALS) if length > 0 else 0.0
    first = min((t for t, _ in members), key=lambda t: (-(t.cos_to_centroid or 0.0), t.tokens, t.id))
    first.is_representative = True
    for trace, _ in members:
        if trace is not first:
            trace.drop_reason, trace.represented_by = "not_representative", first.id
