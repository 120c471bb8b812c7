import numpy as np
import pytest

from rtk.metrics import adaptive_ece, brier, ece, nll, reliability_curve

# Confidences 0.9, 0.8, 0.6, 0.6; the first and the third are right.
PROBABILITIES = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]])
LABELS = np.array([0, 0, 0, 0])


def test_ece_by_hand():
    # With 2 bins everything is in (0.5, 1]: accuracy 0.5, confidence 0.725.
    assert ece(PROBABILITIES, LABELS, bins=2) == pytest.approx(0.225)
    # With 10 bins: gaps 0.1 (0.9), 0.8 (0.8), and 0.1 of the two at 0.6.
    assert ece(PROBABILITIES, LABELS, bins=10) == pytest.approx((0.1 + 0.8 + 2 * 0.1) / 4)


def test_adaptive_ece_by_hand():
    # Two bins of two: 0.6, 0.6 with accuracy 0.5; 0.8, 0.9 with accuracy 0.5.
    assert adaptive_ece(PROBABILITIES, LABELS, bins=2) == pytest.approx((0.1 + 0.35) / 2)


def test_proper_scores_by_hand():
    expected = -np.log([0.9, 0.2, 0.6, 0.4]).mean()
    assert nll(PROBABILITIES, LABELS) == pytest.approx(expected)
    assert brier(PROBABILITIES, LABELS) == pytest.approx(2 * np.mean([0.1**2, 0.8**2, 0.4**2, 0.6**2]))


def test_extremes():
    right, wrong = [[1.0, 0.0]], [[0.0, 1.0]]
    assert nll(right, [0]) == brier(right, [0]) == ece(right, [0]) == adaptive_ece(right, [0]) == 0
    assert brier(wrong, [0]) == 2
    assert ece(wrong, [0]) == adaptive_ece(wrong, [0]) == 1
    assert np.isfinite(nll(wrong, [0]))


def test_reliability_curve_marks_empty_bins():
    curve = reliability_curve(PROBABILITIES, LABELS, bins=10)
    np.testing.assert_array_equal(curve.count, [0, 0, 0, 0, 0, 2, 0, 1, 1, 0])
    assert curve.accuracy[5] == 0.5
    assert curve.confidence[5] == pytest.approx(0.6)
    assert np.isnan(curve.accuracy[0])
    assert curve.edges.shape == (11,)


def test_equal_mass_bins_are_equally_filled_and_keep_ties_together():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 1000)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    curve = reliability_curve(probabilities, np.zeros(1000, int), bins=7, equal_mass=True)
    assert curve.count.sum() == 1000
    assert np.ptp(curve.count) <= 1
    tied = np.tile([0.75, 0.25], (1000, 1))
    assert reliability_curve(tied, np.zeros(1000, int), bins=7, equal_mass=True).count.max() == 1000


def test_more_bins_than_samples():
    assert adaptive_ece(PROBABILITIES, LABELS, bins=50) == pytest.approx((0.1 + 0.8 + 2 * 0.1) / 4)


def test_calibrated_predictions_have_small_error():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 20_000)
    labels = (probabilities.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert ece(probabilities, labels) < 0.02
    assert adaptive_ece(probabilities, labels) < 0.02


@pytest.mark.parametrize("metric", [ece, adaptive_ece, nll, brier, reliability_curve])
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.empty((0, 3)), [], r"probabilities: got shape \(0, 3\)"),
        ([0.5, 0.5], [0, 1], r"probabilities: got shape \(2,\)"),
        ([[2.0, -1.0]], [0], "probabilities: got negative values"),
        ([[3.0, 5.0]], [0], "probabilities: .* wanted a softmax"),
        ([[np.nan, 1.0]], [0], "probabilities: .* wanted a softmax"),
        ([[0.5, 0.5]], [0, 1], "probabilities and labels: got different lengths"),
        ([[0.5, 0.5]], [2], r"labels: got values 2\.\.2, wanted 0\.\.1"),
        ([[0.5, 0.5]], [0.0], "labels: got dtype float64, wanted integers"),
    ],
)
def test_bad_input_is_named(metric, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        metric(probabilities, labels)


def test_bad_bins_are_named():
    with pytest.raises(ValueError, match="bins: got 0, wanted at least 1"):
        ece(PROBABILITIES, LABELS, bins=0)
