"""How many images each pair of thresholds (tau_OOD, tau_ID) accepts: the counts under every joint metric."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._checks import (
    BoolArray,
    FloatArray,
    IntArray,
    as_flags,
    as_scores,
    require_finite,
    require_same_length,
)

_BLOCK_CELLS = 2**20  # pairs counted at once by `exact_blocks`: 8 MB an array, about 60 MB in all
_GRID_STEPS = 1000  # SUREPlus `num_bins`
_GRID_EPS = np.float32(1e-12)  # SUREPlus `eps`


@dataclass(frozen=True)
class Images:
    """Scores of N in-distribution and M OOD images, checked."""

    id_confidence: FloatArray
    id_ood_score: FloatArray
    id_correct: BoolArray
    ood_confidence: FloatArray
    ood_ood_score: FloatArray

    @property
    def n_id(self) -> int:
        """Number of in-distribution images N."""
        return self.id_correct.size

    def ood_score_range(self) -> tuple[float, float]:
        """Smallest and largest OOD score of all images; ValueError if infinite."""
        require_finite(id_ood_score=self.id_ood_score, ood_ood_score=self.ood_ood_score)
        return _range(self.id_ood_score, self.ood_ood_score)

    def confidence_range(self) -> tuple[float, float]:
        """Smallest and largest confidence of all images; ValueError if infinite."""
        require_finite(id_confidence=self.id_confidence, ood_confidence=self.ood_confidence)
        return _range(self.id_confidence, self.ood_confidence)


@dataclass(frozen=True)
class Block:
    """Images accepted by R x C pairs of thresholds: OOD score >= tau_ood[i] and confidence >= tau_id[j].

    Attributes:
        tau_ood: (R,) decreasing.
        tau_id: (C,) decreasing.
        correct: (R, C) accepted ID images with a right prediction.
        accepted_id: (R, C) accepted ID images.
        accepted: (R, C) accepted images, OOD included.
    """

    tau_ood: FloatArray
    tau_id: FloatArray
    correct: IntArray
    accepted_id: IntArray
    accepted: IntArray


def check_images(
    id_confidence: ArrayLike,
    id_ood_score: ArrayLike,
    id_correct: ArrayLike,
    ood_confidence: ArrayLike,
    ood_ood_score: ArrayLike,
) -> Images:
    """Check the five inputs of a joint metric: (N,), (N,), (N,), (M,), (M,).

    Raises:
        ValueError: empty input, NaN, or different lengths.
    """
    images = Images(
        as_scores("id_confidence", id_confidence),
        as_scores("id_ood_score", id_ood_score),
        as_flags("id_correct", id_correct),
        as_scores("ood_confidence", ood_confidence),
        as_scores("ood_ood_score", ood_ood_score),
    )
    require_same_length(
        id_confidence=images.id_confidence, id_ood_score=images.id_ood_score, id_correct=images.id_correct
    )
    require_same_length(ood_confidence=images.ood_confidence, ood_ood_score=images.ood_ood_score)
    return images


def count_block(images: Images, tau_ood: FloatArray, tau_id: FloatArray) -> Block:
    """Count what each pair of the given thresholds, both decreasing, accepts."""
    shape = (tau_ood.size, tau_id.size)
    row = _first_accepting(tau_ood, images.id_ood_score)
    column = _first_accepting(tau_id, images.id_confidence)
    accepted_id = _count(row, column, shape)
    correct = _count(row[images.id_correct], column[images.id_correct], shape)
    accepted = _count(
        _first_accepting(tau_ood, images.ood_ood_score),
        _first_accepting(tau_id, images.ood_confidence),
        shape,
    )
    accepted += accepted_id
    return Block(tau_ood, tau_id, correct, accepted_id, accepted)


def exact_blocks(images: Images) -> Iterator[Block]:
    """Count all thresholds that matter, in blocks of bounded size, tau_ood decreasing.

    Thresholds at scores of ID images suffice: raising one up to the next ID score only rejects OOD images. So
    a block needs, as confidence thresholds, only those of ID images that its lowest tau_ood accepts.
    """
    images = _sorted_by_confidence(images)
    tau_ood = np.unique(images.id_ood_score)[::-1]
    rows = max(1, _BLOCK_CELLS // images.n_id)
    for start in range(0, tau_ood.size, rows):
        block_tau_ood = tau_ood[start : start + rows]
        accepted_by_last = images.id_ood_score >= block_tau_ood[-1]
        yield count_block(images, block_tau_ood, np.unique(images.id_confidence[accepted_by_last])[::-1])


def grid_block(images: Images) -> Block:
    """Count the 1001 x 1001 thresholds of SUREPlus: k / 1000 on the confidence and on the scaled OOD score.

    The scaling is min-max over all images, in float32 as in the original, and `tau_ood` is in its units.

    Raises:
        ValueError: infinite OOD scores, or a confidence outside [0, 1].
    """
    low, high = images.confidence_range()
    # A softmax in float32 can exceed 1 by a few units in the last place.
    if low < 0 or high > 1 + 1e-6:
        raise ValueError(f"confidence: got values in [{low}, {high}], wanted [0, 1] for method 'grid'")
    grid = np.linspace(0, 1, _GRID_STEPS + 1, dtype=np.float32).astype(np.float64)[::-1]
    return count_block(_in_grid_units(images), grid, grid)


def _in_grid_units(images: Images) -> Images:
    """Round the confidence to float32 and scale the OOD score to [0, 1] in float32 (held as float64)."""
    lowest, highest = (np.float32(bound) for bound in images.ood_score_range())
    width = highest - lowest + _GRID_EPS

    def scaled(ood_score: FloatArray) -> FloatArray:
        return ((ood_score.astype(np.float32) - lowest) / width).astype(np.float64)

    def rounded(confidence: FloatArray) -> FloatArray:
        return confidence.astype(np.float32).astype(np.float64)

    return Images(
        rounded(images.id_confidence),
        scaled(images.id_ood_score),
        images.id_correct,
        rounded(images.ood_confidence),
        scaled(images.ood_ood_score),
    )


def _first_accepting(thresholds: FloatArray, scores: FloatArray) -> IntArray:
    """Index of the first of the decreasing thresholds <= score; their number if there is none."""
    return np.searchsorted(-thresholds, -scores, side="left")


def _count(row: IntArray, column: IntArray, shape: tuple[int, int]) -> IntArray:
    """Count (R, C): images whose first accepting row and column are at most i and j."""
    inside = (row < shape[0]) & (column < shape[1])
    cells = row[inside] * shape[1] + column[inside]
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    np.cumsum(counts, axis=1, out=counts)
    return np.cumsum(counts, axis=0, out=counts)


def _sorted_by_confidence(images: Images) -> Images:
    """Reorder the images: searching and sorting already sorted scores takes a fraction of the time."""
    id_order, ood_order = np.argsort(images.id_confidence), np.argsort(images.ood_confidence)
    return Images(
        images.id_confidence[id_order],
        images.id_ood_score[id_order],
        images.id_correct[id_order],
        images.ood_confidence[ood_order],
        images.ood_ood_score[ood_order],
    )


def _range(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    return float(min(first.min(), second.min())), float(max(first.max(), second.max()))
