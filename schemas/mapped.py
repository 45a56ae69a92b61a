"""Room for tables of numbers that may be larger than memory."""

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

IN_MEMORY = 256 << 20
"""Tables of more bytes lie in a file without a name that is mapped; the system drops its pages where memory is short."""


def room(rows: int, size: int, folder: Path | None = None) -> npt.NDArray[np.float32]:
    """Zeros [rows, size]: in memory, or mapped from a file in `folder` that is gone when nobody holds the table."""
    if rows * size * 4 <= IN_MEMORY:
        return np.zeros((rows, size), np.float32)
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float32, "w+", shape=(rows, size))
