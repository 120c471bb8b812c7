"""Labels that look wrong, from what a model makes of the images: confident learning."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SLACK = 1e-6  # a probability this close below a threshold reaches it


class LabelErrors(NamedTuple):
    """Images whose labels look wrong, the most doubtful first.

    Attributes:
        rows: int64 (E,).
        suggested: int64 (E,), the class of the largest probability.
        joint: int64 (C, C), estimated number of images by given label (row) and true label (column).
    """

    rows: np.ndarray
    suggested: np.ndarray
    joint: np.ndarray


def label_errors(probabilities: np.ndarray, labels: np.ndarray) -> LabelErrors:
    """Find label errors by confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021; arXiv 1911.00068).

    The joint distribution of given and true labels is estimated (equations 1 to 3); of each pair of classes
    as many images as it holds are taken, those with the largest margin of the true class over the given one
    ("prune by noise rate"). As in the authors' library cleanlab, one image of each class is spared, and none
    is taken whose label is the model's prediction. What cleanlab finds is the same but for images for which
    several classes reach their thresholds: of these the paper, and this, take the most probable.

    Args:
        probabilities: (N, C), out of sample: of a model that was not trained on these images. Of one that
            was, they are too sure, and fewer errors are found.
        labels: int (N,), given labels, from 0.

    Returns:
        Sorted by the probability of the given label, the smallest first.

    Raises:
        ValueError: shapes do not match, a label is out of range, or a probability is not finite.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    _check(probabilities, labels)
    joint = confident_joint(probabilities, labels)
    predicted = probabilities.argmax(1)
    wrong = np.zeros(len(labels), bool)
    for given, wanted in enumerate(_spare_one(joint)):
        own = np.flatnonzero(labels == given)
        margins = probabilities[own] - probabilities[own, given][:, None]
        for true in np.flatnonzero(wanted):
            if true != given and len(own) > 1:
                wrong[own[np.argsort(-margins[:, true], kind="stable")[: wanted[true]]]] = True
    rows = np.flatnonzero(wrong & (predicted != labels))
    rows = rows[np.argsort(probabilities[rows, labels[rows]], kind="stable")]
    return LabelErrors(rows, predicted[rows], joint)


def confident_joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Estimated number of images by given and true label, int64 (C, C); rows sum to the images of a label.

    Args:
        probabilities: (N, C).
        labels: int64 (N,).
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], classes)
    # Equation 2: the mean of a class's probability over the images labelled so.
    thresholds = np.where(counts, sums / counts.clip(min=1), np.inf)
    confident = np.where(probabilities >= thresholds - _SLACK, probabilities, -1.0)
    sure = confident.max(1) >= 0
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[sure], confident.argmax(1)[sure]), 1)  # equation 1
    np.fill_diagonal(joint, joint.diagonal().clip(min=1))
    shares = joint / joint.sum(1, keepdims=True)  # equation 3
    return _rounded(shares * counts[:, None])


def _rounded(values: np.ndarray) -> np.ndarray:
    """Whole numbers whose rows have the same sums: the largest remainders are rounded up."""
    whole = np.floor(values + 1e-9).astype(np.int64)
    left = np.rint(values.sum(1)).astype(np.int64) - whole.sum(1)
    order = np.argsort(whole - values, axis=1, kind="stable")
    for row, count in enumerate(left):
        whole[row, order[row, :count]] += 1
    return whole


def _spare_one(joint: np.ndarray) -> np.ndarray:
    """The joint with at least one right image in every class that has any."""
    spared = joint.copy()
    for given in np.flatnonzero(joint.sum(1) > 0):
        if spared[given, given] == 0:
            spared[given, spared[given].argmax()] -= 1
            spared[given, given] = 1
    return spared


def _check(probabilities: np.ndarray, labels: np.ndarray) -> None:
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities, labels: got {probabilities.shape}, {labels.shape}, wanted (N, C) and (N,)"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < probabilities.shape[1]:
        raise ValueError(
            f"labels: got {labels.min()} to {labels.max()}, wanted 0 to {probabilities.shape[1] - 1}"
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities: got one that is not finite")
