"""Merged weights: peak memory over the size of one model, and bytes written a second over a plain copy of the same file.

    python tests/bench/merge.py [--gigabytes 2] [--rounds 3]

Two random bfloat16 models of that size; each merge and each copy runs in a process of its own, taken in turns. The copy reads
one model and writes one, as `shutil.copyfile` does with a synced end; a merge reads two and writes one.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import scratch, table

LAYER = (4096, 4096)
ALPHA = "0.4"


def write_model(folder: Path, gigabytes: float, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    numbers = torch.Generator().manual_seed(seed)
    layers = max(1, round(gigabytes * 1e9 / (2 * LAYER[0] * LAYER[1])))
    weights = {f"model.layers.{i}.weight": torch.randn(*LAYER, generator=numbers).bfloat16() for i in range(layers)}
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}')
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}})
    )


def one(way: str, folder: Path) -> None:
    """Merge or copy in this process, and say how long it took and how much memory it had at most."""
    out = folder / "out"
    if way == "merge":
        import torch

        from tracemill.synth.weights.merge import Line, merge

        torch.zeros(1)
        began = time.perf_counter()
        merge(Line(folder / "a", folder / "b"), ALPHA, out)
    else:
        out.mkdir()
        began = time.perf_counter()
        shutil.copyfile(folder / "a" / "model.safetensors", out / "model.safetensors")
        with (out / "model.safetensors").open("rb+") as file:
            os.fsync(file.fileno())
    took = time.perf_counter() - began
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": took, "peak": int(peak.split()[1]) * 1024}))
    shutil.rmtree(out)


def main(gigabytes: float, rounds: int) -> None:
    with scratch() as folder:
        for name, seed in (("a", 1), ("b", 2)):
            write_model(folder / name, gigabytes, seed)
        size = (folder / "a" / "model.safetensors").stat().st_size
        found: dict[str, list[dict[str, float]]] = {"copy": [], "merge": []}
        for number in range(rounds):
            for way in list(found)[:: -1 if number % 2 else 1]:
                command = [sys.executable, __file__, "--one", way, "--folder", str(folder)]
                said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
                found[way].append(json.loads(said))
    rows = [
        [
            way,
            f"{size / 1e9:.2f}",
            f"{statistics.median(run['seconds'] for run in runs):.1f}",
            f"{size / statistics.median(run['seconds'] for run in runs) / 1e6:.0f}",
            f"{max(run['peak'] for run in runs) / 1e6:.0f}",
            f"{max(run['peak'] for run in runs) / size:.2f}",
        ]
        for way, runs in found.items()
    ]
    table(["way", "GB of one model", "median s", "MB written a second", "peak MB", "peak over one model"], rows)
    ratios = sorted(c["seconds"] / m["seconds"] for c, m in zip(found["copy"], found["merge"], strict=True))
    print(
        f"bytes a second, merge over copy: {statistics.median(ratios):.2f} (rounds from {ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=("copy", "merge"))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.folder)
    else:
        main(options.gigabytes, options.rounds)
