"""How often `secrets` and `personal_data` find something in texts that hold neither, and how fast they read.

python tests/bench/pii.py FOLDER          every string of 80 characters or more in the *.jsonl files under FOLDER
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tracemill.filters.personal_data import personal_data
from tracemill.filters.secrets import secrets

MOST = 8000
"""Lines of a file."""
SHORTEST = 80


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def texts_under(folder: Path) -> list[str]:
    found = []
    for file in sorted(folder.rglob("*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for _, line in zip(range(MOST), lines, strict=False):
                found += [text for text in strings(json.loads(line)) if len(text) >= SHORTEST]
    return found


async def measure(texts: list[str], label: str, score: Callable[..., Awaitable[dict[str, Any]]]) -> None:
    started, hit, spans = time.process_time(), 0, 0
    for text in texts:
        row = await score({"messages": [{"content": text}]}, None)
        found = next(value for name, value in row.items() if name.endswith("_spans"))
        hit += bool(found)
        spans += len(found)
    speed = sum(map(len, texts)) / 1e6 / (time.process_time() - started)
    print(
        f"{label:28} {spans:6} found, {1000 * hit / len(texts):6.2f} of 1,000 texts, {speed:5.2f} million characters/s"
    )


async def main(folder: Path) -> None:
    texts = texts_under(folder)
    print(f"{len(texts)} texts, {sum(map(len, texts))} characters")
    await measure(texts, "secrets", secrets)
    await measure(texts, "secrets, guesses", partial(secrets, guesses=True))
    await measure(texts, "personal_data", personal_data)
    for region in ("US", "DE"):
        await measure(texts, f"personal_data, {region}", partial(personal_data, region=region))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(Path(sys.argv[1])))
