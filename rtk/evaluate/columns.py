"""Matrices as Arrow columns and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from torch import Tensor


def as_lists(values: Tensor) -> pa.Array:
    """Rows (N, D) as fixed-size lists of float32."""
    flat = pa.array(values.float().cpu().numpy().reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def as_matrix(column: pa.Array | pa.ChunkedArray, rows: int) -> np.ndarray:
    """Lists of equal length as (rows, D)."""
    joined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    matrix: np.ndarray = joined.flatten().to_numpy().reshape(rows, -1)
    return matrix
