"""How often Python looks for garbage while thousands of problems are open."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ALLOCATIONS = 20_000


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Let Python's cyclic collector run less often, and look at old objects less often still.

    What open problems hold is alive, not garbage; looking at it after every 700 allocations took a quarter of the CPU time
    of a build. See docs/benchmarks.md.
    """
    before = gc.get_threshold()
    gc.set_threshold(ALLOCATIONS, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
