"""All pairs of thresholds in O(N (N + M)): lower tau_OOD image by image, keep the counts for every tau_ID.

For one tau_OOD, let a_1 ... a_n be the accepted ID images, most confident first. Setting tau_ID to the
confidence of a_k accepts the ID images a_1 ... a_k, so two arrays over k hold all there is to know:

    correct[k]  right predictions among a_1 ... a_k
    total[k]    k plus the accepted OOD images whose confidence reaches that of a_k

Where a_(k+1) is as confident as a_k, no threshold accepts exactly k images: correct[k] is -inf, which stays
so under addition and never wins a maximum. An ID image that comes in at rank p shifts what lies behind it by
one place and adds to it; an OOD image adds one from its place on.

Nothing is lost by what is not looked at:

- Thresholds between the scores of ID images. Raising one to the next ID score rejects OOD images only: same
  recall and coverage, precision at least as high.
- Ranks k before the first place where an ID image came in. There the accepted ID images are those of the
  tau_OOD before, which accepted no more OOD images.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rtk.metrics._acceptance import Images
from rtk.metrics._checks import BoolArray, FloatArray, IntArray

_RECOUNT = 128  # images that come in at once from which on counting anew is quicker; 64 to 500 do alike


@dataclass(frozen=True)
class Row:
    """Counts for one tau_OOD and all tau_ID at which they can be better than for a larger tau_OOD.

    Attributes:
        tau_ood: accepted are OOD scores from here on.
        first: the arrays begin at k = first + 1 accepted ID images.
        correct: (K,) right predictions among the accepted, -inf where no tau_ID accepts exactly k ID images.
        total: (K,) accepted ID and OOD images.

    The arrays are views that the next step of the sweep changes.
    """

    tau_ood: float
    first: int
    correct: FloatArray
    total: FloatArray


def sweep(images: Images) -> Iterator[Row]:
    """Lower tau_OOD through the distinct OOD scores of the ID images; one row each."""
    id_images, ood_images = _confident_first(images)
    id_scores, ood_scores = images.id_ood_score[id_images], images.ood_ood_score[ood_images]
    id_order, ood_order = np.argsort(-id_scores, kind="stable"), np.argsort(-ood_scores, kind="stable")
    ranked = id_scores[id_order]
    id_ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]) + 1, ranked.size)
    tau_ood = ranked[id_ends - 1]
    ood_ends = np.searchsorted(-ood_scores[ood_order], -tau_ood, side="right")
    counts = _Counts(
        images.id_confidence[id_images], images.id_correct[id_images], images.ood_confidence[ood_images]
    )
    id_start = ood_start = 0
    for tau, id_end, ood_end in zip(tau_ood.tolist(), id_ends.tolist(), ood_ends.tolist(), strict=True):
        first = counts.accept(id_order[id_start:id_end], ood_order[ood_start:ood_end])
        yield Row(tau, first, counts.correct[first:id_end], counts.total[first:id_end])
        id_start, ood_start = id_end, ood_end


def lowest_risk(images: Images) -> FloatArray:
    """Smallest risk (N,) over the thresholds that accept exactly k = 1 ... N ID images; inf where none do."""
    highest_precision = np.full(images.n_id, -np.inf)
    for row in sweep(images):
        best = highest_precision[row.first : row.first + row.correct.size]
        np.maximum(best, row.correct / row.total, out=best)
    return 1 - highest_precision


def best_f1(images: Images) -> tuple[float, float, float]:
    """Largest F1 and the thresholds that reach it; among equals the largest tau_OOD, then tau_ID.

    Returns:
        f1, tau_ood, tau_id.
    """
    best, best_tau, best_rank = -np.inf, np.nan, 0
    for row in sweep(images):
        f1 = 2 * row.correct / (row.total + images.n_id)
        k = int(f1.argmax())
        if f1[k] > best:
            best, best_tau, best_rank = float(f1[k]), row.tau_ood, row.first + k
    accepted = np.sort(images.id_confidence[images.id_ood_score >= best_tau])[::-1]
    return best, best_tau, float(accepted[best_rank])


class _Counts:
    """`correct` and `total` for the current tau_OOD. Images go by their place in order of confidence."""

    def __init__(self, id_confidence: FloatArray, id_correct: BoolArray, ood_confidence: FloatArray) -> None:
        self.correct, self.total = np.empty(id_confidence.size), np.empty(id_confidence.size)
        self._n = 0
        self._confidence, self._is_correct = id_confidence, id_correct
        self._id_in = np.zeros(id_confidence.size, np.bool_)
        self._ood_in = np.zeros(ood_confidence.size, np.bool_)
        # How many images are more, or at least as, confident as an image; both confidences decrease.
        self._id_above_id = np.searchsorted(-id_confidence, -id_confidence, side="left")
        self._id_upto_id = np.searchsorted(-id_confidence, -id_confidence, side="right")
        self._ood_upto_id = np.searchsorted(-ood_confidence, -id_confidence, side="right")
        self._id_above_ood = np.searchsorted(-id_confidence, -ood_confidence, side="left")

    def accept(self, id_images: IntArray, ood_images: IntArray) -> int:
        """Take in images; return the index from which on counts may be better than before."""
        if id_images.size + ood_images.size > _RECOUNT:
            self._id_in[id_images] = self._ood_in[ood_images] = True
            self._recount()
            return 0
        for image in ood_images.tolist():
            self._accept_ood(image)
        return min([self._accept_id(image) for image in id_images.tolist()])

    def _recount(self) -> None:
        accepted = np.flatnonzero(self._id_in)
        self._n = n = accepted.size
        correct, total = self.correct[:n], self.total[:n]
        np.cumsum(self._is_correct[accepted], out=correct)
        ood_so_far = np.append(0, np.cumsum(self._ood_in))
        np.add(np.arange(1, n + 1), ood_so_far[self._ood_upto_id[accepted]], out=total)
        confidence = self._confidence[accepted]
        correct[:-1][confidence[1:] == confidence[:-1]] = -np.inf

    def _accept_ood(self, image: int) -> None:
        more_confident = np.count_nonzero(self._id_in[: self._id_above_ood[image]])
        self.total[more_confident : self._n] += 1
        self._ood_in[image] = True

    def _accept_id(self, image: int) -> int:
        """Insert behind the images at least as confident; return the place."""
        above, upto = self._id_above_id[image], self._id_upto_id[image]
        place, n, right = int(np.count_nonzero(self._id_in[:upto])), self._n, float(self._is_correct[image])
        self.correct[place + 1 : n + 1] = self.correct[place:n] + right
        self.total[place + 1 : n + 1] = self.total[place:n] + 1
        self.correct[place] = right + (self.correct[place - 1] if place else 0)
        self.total[place] = place + 1 + np.count_nonzero(self._ood_in[: self._ood_upto_id[image]])
        if self._id_in[above:upto].any():
            self.correct[place - 1] = -np.inf
        self._id_in[image] = True
        self._n += 1
        return place


def _confident_first(images: Images) -> tuple[IntArray, IntArray]:
    return np.argsort(-images.id_confidence, kind="stable"), np.argsort(-images.ood_confidence, kind="stable")
