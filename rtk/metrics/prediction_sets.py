"""Sets of classes that hold the right one with a wanted probability: split conformal prediction.

A class is in the set where its score is at most the quantile of the true classes' scores on n calibration
images, the ceil((n + 1) coverage)-th smallest. The right class of a new image is then in its set with that
probability at least, averaged over calibration images and the new one, if all are drawn alike (Vovk et al.).

Scores, from the softmax sorted downwards: `lac` 1 - p_y (Sadinle et al. 2019: the smallest sets); `aps` the
sum of all probabilities from the largest to p_y (Romano et al. 2020), here without its random part, so that
an image always gets the same set, which makes sets a little larger; `raps` adds a penalty for every class
beyond the first few (Angelopoulos et al., arXiv 2009.14193).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._checks import BoolArray, FloatArray, require_choice

SetMethod = Literal["lac", "aps", "raps"]
SET_METHODS = ("lac", "aps", "raps")
PENALTY, FREE_CLASSES = 0.01, 5  # of raps: lambda and k_reg in the paper's experiments on ImageNet


@dataclass(frozen=True)
class SetRule:
    """Which classes are in the set of an image.

    Attributes:
        method: of the scores, see above.
        coverage: wanted probability that the right class is in the set.
        limit: largest score of a class that is; None: every class is.
        images: calibrated on.
    """

    method: SetMethod
    coverage: float
    limit: float | None
    images: int


def class_scores(probabilities: ArrayLike, method: SetMethod) -> FloatArray:
    """How ill each class fits, (N, C), of softmax probabilities (N, C); smaller fits better.

    Raises:
        ValueError: an unknown method.
    """
    require_choice("method", method, SET_METHODS)
    shares = np.asarray(probabilities, np.float64)
    if method == "lac":
        return 1 - shares
    order = np.argsort(-shares, axis=1, kind="stable")
    sums = np.cumsum(np.take_along_axis(shares, order, 1), axis=1)
    if method == "raps":
        sums += PENALTY * np.maximum(np.arange(1, shares.shape[1] + 1) - FREE_CLASSES, 0)
    scores = np.empty_like(sums)
    np.put_along_axis(scores, order, sums, 1)
    return scores


def calibrate_sets(
    probabilities: ArrayLike, labels: ArrayLike, coverage: float, method: SetMethod
) -> SetRule:
    """Find the largest score of a class that is in a set.

    Where the images are too few for the coverage, every class is: only the set of all has it.

    Args:
        probabilities: softmax of calibration images, (N, C).
        labels: their classes (N,), whole numbers.
        coverage: wanted probability, in (0, 1), that the right class is in the set.
        method: see above.
    """
    classes = np.asarray(labels, np.int64)
    place = int(np.ceil((classes.size + 1) * coverage))
    if place > classes.size:
        return SetRule(method, coverage, None, classes.size)
    own = class_scores(probabilities, method)[np.arange(classes.size), classes]
    return SetRule(method, coverage, float(np.partition(own, place - 1)[place - 1]), classes.size)


def prediction_sets(probabilities: ArrayLike, rule: SetRule) -> BoolArray:
    """Which classes are in the set of each image, (N, C), of softmax (N, C); the likeliest always is."""
    shares = np.asarray(probabilities, np.float64)
    if rule.limit is None:
        return np.ones(shares.shape, bool)
    inside: BoolArray = class_scores(shares, rule.method) <= rule.limit
    inside[np.arange(len(shares)), shares.argmax(1)] = True
    return inside
