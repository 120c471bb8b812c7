"""Checks of metric inputs: every metric validates here, so every mistake reads the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def as_scores(name: str, values: ArrayLike) -> FloatArray:
    """Convert to a float64 vector (N,); infinite scores are allowed, they rank first or last.

    Raises:
        ValueError: not one-dimensional, empty, or containing NaN.
    """
    scores = np.asarray(values, dtype=np.float64)
    _require_vector(name, scores)
    n_nan = int(np.isnan(scores).sum())
    if n_nan:
        raise ValueError(f"{name}: got {n_nan} NaN among {scores.size} values, wanted none")
    return scores


def as_flags(name: str, values: ArrayLike) -> BoolArray:
    """Convert booleans, or numbers that are all 0 or 1, to a boolean vector (N,).

    Raises:
        ValueError: not one-dimensional, empty, or holding anything but true and false.
    """
    flags = np.asarray(values)
    _require_vector(name, flags)
    if flags.dtype != np.bool_ and not np.isin(flags, (0, 1)).all():
        raise ValueError(f"{name}: got {flags.dtype} values other than 0 and 1, wanted booleans")
    return flags.astype(np.bool_)


def require_same_length(**arrays: NDArray[Any]) -> None:
    """Raise ValueError, naming each argument and its length, unless all lengths are equal."""
    if len({len(array) for array in arrays.values()}) > 1:
        got = ", ".join(f"{name}: {len(array)}" for name, array in arrays.items())
        raise ValueError(f"{' and '.join(arrays)}: got different lengths ({got}), wanted equal ones")


def require_both_classes(name: str, flags: BoolArray) -> None:
    """Raise ValueError unless `flags` holds at least one true and one false value."""
    if flags.all() or not flags.any():
        raise ValueError(
            f"{name}: got only {bool(flags[0])} ({flags.size} values), wanted both True and False"
        )


def require_finite(**arrays: FloatArray) -> None:
    """Raise ValueError naming the first argument that holds an infinite value."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name}: got infinite values, wanted finite ones (a grid has to span the scores)"
            )


def require_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, wanted one of {', '.join(map(repr, choices))}")


def require_fraction(name: str, value: float, *, zero_allowed: bool) -> None:
    """Raise ValueError unless `value` lies in (0, 1], or in [0, 1] if `zero_allowed`."""
    if not (0 < value <= 1 or (zero_allowed and value == 0)):
        raise ValueError(f"{name}: got {value}, wanted a number in {'[' if zero_allowed else '('}0, 1]")


def require_positive_int(name: str, value: int) -> None:
    """Raise ValueError unless `value` is at least 1."""
    if value < 1:
        raise ValueError(f"{name}: got {value}, wanted at least 1")


def as_probabilities_and_labels(probabilities: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, IntArray]:
    """Convert class probabilities (N, C) and class indices (N,).

    Raises:
        ValueError: wrong shape, empty, NaN, rows that are not probabilities (logits, say), labels that are
            not integers in [0, C), or different lengths.
    """
    probs = np.asarray(probabilities, dtype=np.float64)
    if probs.ndim != 2 or probs.size == 0:
        raise ValueError(f"probabilities: got shape {probs.shape}, wanted (N, C) with N, C >= 1")
    # The tolerance admits a softmax in half precision and still refuses logits. NaN fails the comparison.
    if not ((probs >= 0).all() and (np.abs(probs.sum(axis=1) - 1) < 1e-2).all()):
        raise ValueError(
            "probabilities: got negative values, NaN, or rows not summing to 1, wanted a softmax"
        )
    classes = np.asarray(labels)
    _require_vector("labels", classes)
    require_same_length(probabilities=probs, labels=classes)
    if not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(f"labels: got dtype {classes.dtype}, wanted integers")
    if classes.min() < 0 or classes.max() >= probs.shape[1]:
        got = f"{classes.min()}..{classes.max()}"
        raise ValueError(f"labels: got values {got}, wanted 0..{probs.shape[1] - 1}")
    return probs, classes.astype(np.int64)


def _require_vector(name: str, array: NDArray[Any]) -> None:
    if array.ndim != 1:
        raise ValueError(f"{name}: got shape {array.shape}, wanted (N,)")
    if array.size == 0:
        raise ValueError(f"{name}: got an empty array, wanted at least one value")
