"""Which images each worker sees, and when: pure functions of (seed, epoch, step).

The order of an epoch is drawn once for all workers, cut into global batches, and each batch (or micro-batch)
is cut into equal parts, one per rank. So the global batches do not depend on the number of workers, each
image appears once per epoch, and resuming at any step needs no state.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def steps_per_epoch(rows: int, batch_size: int, remainder: str = "drop") -> int:
    """Global batches in an epoch.

    Args:
        rows: number of training images.
        batch_size: images per step over all workers.
        remainder: `drop` the last incomplete batch, or `pad` it by wrap-around.

    Raises:
        ValueError: where not even one batch can be had.
    """
    steps = rows // batch_size if remainder == "drop" else -(-rows // batch_size)
    if steps == 0:
        raise ValueError(
            f"train.batch_size: got {batch_size}, wanted at most the {rows} training rows "
            "(or data.remainder=pad)"
        )
    return steps


def epoch_order(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """Permutation (rows,) of the training images for one epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)


def rank_batch(
    order: NDArray[np.int64], step: int, batch_size: int, rank: int, ranks: int, micro_batches: int = 1
) -> NDArray[np.int64]:
    """Rows (batch_size / ranks,) that one rank takes in one step of an epoch.

    Args:
        order: permutation (rows,) of the epoch.
        step: 0-based step within the epoch; past the end of the order it wraps around (`pad`).
        batch_size: images per step over all workers, a multiple of `ranks` times `micro_batches`.
        rank: this worker.
        ranks: number of workers.
        micro_batches: parts of the batch that follow each other; a rank's rows are its share of the first,
            then of the second, so that the parts do not depend on the number of workers either.
    """
    rows = np.arange(step * batch_size, (step + 1) * batch_size).reshape(micro_batches, ranks, -1)
    return order[rows[:, rank].reshape(-1) % len(order)]


def holdout_split(seed: int, rows: int, fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that stay in training and rows held out for validation, both ascending.

    Args:
        seed: seed of the run; the split does not depend on anything else.
        rows: number of rows to split.
        fraction: share held out; at least one row where it is positive.
    """
    # As unsigned words: NumPy makes floats of a list that only these hold, and rounds seeds above 2^53.
    key = np.array([seed, 2**63], np.uint64)
    order = np.random.Generator(np.random.Philox(key=key)).permutation(rows)
    held = max(1, round(rows * fraction)) if fraction > 0 else 0
    return np.sort(order[held:]), np.sort(order[:held])


def window_size(shuffle_rows: int, batch_size: int) -> int:
    """Rows of a window of a stream: whole global batches, so that no batch straddles two windows."""
    return max(1, shuffle_rows // batch_size) * batch_size


def group_order(seed: int, epoch: int, groups: int) -> NDArray[np.int64]:
    """Permutation (groups,) in which a stream reads the row groups of its files in one epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(groups)


def window_order(seed: int, epoch: int, window: int, rows: int) -> NDArray[np.int64]:
    """Permutation (rows,) of one window of a stream."""
    philox = np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, window + 1])
    return np.random.Generator(philox).permutation(rows)
