"""Split conformal sets: scores by hand, and how often the right class is in them."""

from __future__ import annotations

import numpy as np
import pytest

from rtk.metrics.prediction_sets import SET_METHODS, SetRule, calibrate_sets, class_scores, prediction_sets

SHARES = [[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]]


def softmax_and_labels(seed: int, images: int, classes: int = 12):
    """Calibrated or not, it must not matter: probabilities are too sharp by a factor of two."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.standard_normal((images, classes))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (generator.random((images, 1)) > true.cumsum(1)).sum(1).clip(max=classes - 1)
    sharp = np.exp(2 * logits)
    return sharp / sharp.sum(1, keepdims=True), labels


def test_scores_by_hand():
    np.testing.assert_allclose(class_scores(SHARES, "lac"), [[0.5, 0.8, 0.7], [0.9, 0.2, 0.9]])
    np.testing.assert_allclose(class_scores(SHARES, "aps"), [[0.5, 1.0, 0.8], [0.9, 0.8, 1.0]])
    many = np.full((1, 8), 0.125)
    np.testing.assert_allclose(
        class_scores(many, "raps")[0], np.arange(1, 9) / 8 + [0, 0, 0, 0, 0, 0.01, 0.02, 0.03]
    )
    with pytest.raises(ValueError, match="method"):
        class_scores(SHARES, "other")


def test_limit_is_the_conformal_quantile():
    shares = np.array([[share, 1 - share] for share in (0.9, 0.6, 0.7, 0.2)])
    rule = calibrate_sets(shares, [0, 0, 0, 0], 0.6, "lac")
    assert rule.limit == pytest.approx(0.4)  # ceil(5 * 0.6) = 3rd smallest of 0.1, 0.3, 0.4, 0.8
    assert calibrate_sets(shares, [0, 0, 0, 0], 0.9, "lac") == SetRule("lac", 0.9, None, 4)
    assert prediction_sets(shares, SetRule("lac", 0.9, None, 4)).all()
    assert prediction_sets(shares, rule).tolist() == [[True, False]] * 3 + [[False, True]]


def test_the_likeliest_class_is_always_in():
    inside = prediction_sets(SHARES, SetRule("aps", 0.1, 0.05, 10))
    assert inside.tolist() == [[True, False, False], [False, True, False]]


@pytest.mark.parametrize("method", SET_METHODS)
def test_the_right_class_is_in_as_often_as_wanted(method):
    shares, labels = softmax_and_labels(1, 60_000)
    hits = []
    for start in range(0, 60_000, 300):
        part = slice(start, start + 300)
        rule = calibrate_sets(shares[part][:100], labels[part][:100], 0.8, method)
        inside = prediction_sets(shares[part][100:], rule)
        hits.append(inside[np.arange(200), labels[part][100:]].mean())
    spread = np.std(hits) / np.sqrt(len(hits))
    assert np.mean(hits) >= 0.8 - 3 * spread
    assert np.mean(hits) <= 0.8 + (0.01 if method == "lac" else 0.06) + 3 * spread
