"""Arrays of any size: small ones in memory, large ones in files that nobody else sees."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

IN_MEMORY = 2**28  # bytes of an array above which it lies in a file
ROWS_AT_A_TIME = 8192


def empty_array(shape: tuple[int, ...], dtype: Any, folder: Path) -> np.ndarray:
    """An array to fill; a large one is a map of a file without a name, which ends with the array.

    The system keeps as much of such a file in memory as nobody else needs.

    Args:
        shape: its shape.
        dtype: its type.
        folder: where a file goes; it needs the space.

    Raises:
        OSError: the space is not there.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".rows-") as file:
        if hasattr(os, "posix_fallocate"):  # else a full disk would end the process when it writes
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype, "r+", shape=shape)


def take_rows(values: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
    """Some rows of an array; many of a large one lie in a file beside its own."""
    if isinstance(rows, slice) or not isinstance(values, np.memmap):
        return values[rows]
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows
    assert values.filename is not None
    taken = empty_array((len(rows), *values.shape[1:]), values.dtype, Path(values.filename).parent)
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        taken[part] = values[rows[part]]
    return taken
