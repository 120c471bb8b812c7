"""The same numbers as pytorch-ood and torch-uncertainty, wherever they define the same thing.

Where they differ by definition, the test states the relation (docs/metrics.md, "Metrics", says why).
"""

import numpy as np
import pytest
import torch
from pytorch_ood.metrics import functional as pytorch_ood
from torch_uncertainty.metrics import classification as torch_uncertainty
from torchmetrics.functional import classification as torchmetrics

from rtk import metrics

pytestmark = pytest.mark.filterwarnings("ignore:Metric `FPR")

TOLERANCE = 1e-6  # torch-uncertainty accumulates in float32 where its inputs are


@pytest.fixture(params=["continuous", "tied"])
def scores(request):
    """Scores (N,) larger = more in-distribution, and which of them are OOD."""
    rng = np.random.default_rng(0)
    values = rng.normal(np.repeat([1.0, 0.0], [400, 300]))
    return (values if request.param == "continuous" else np.round(values, 1)), np.arange(700) >= 400


@pytest.fixture
def probabilities():
    """Softmax (N, 5) in float64 without ties, and labels that it predicts better than chance."""
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(2 * rng.normal(size=(500, 5)))
    labels = torch.distributions.Categorical(logits=logits).sample()
    return logits.softmax(1), labels


@pytest.fixture
def confidence_and_correct(probabilities):
    probs, labels = probabilities
    return probs.amax(1).numpy(), (probs.argmax(1) == labels).numpy()


def of_torch_uncertainty(metric, *inputs):
    metric.update(*inputs)
    return float(metric.compute())


def test_ood_detection_equals_pytorch_ood(scores):
    values, is_ood = scores
    outlier_score, labels = torch.from_numpy(-values), torch.from_numpy(np.where(is_ood, -1, 0))
    ours = metrics.ood_detection(values[~is_ood], values[is_ood])
    theirs = {
        "auroc": pytorch_ood.auroc(outlier_score, labels),
        "fpr95": pytorch_ood.fpr_at_tpr(outlier_score, labels),
        "aupr_in": pytorch_ood.aupr(outlier_score, labels, positive="id"),
        "aupr_out": pytorch_ood.aupr(outlier_score, labels, positive="ood"),
    }
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(float(value), abs=1e-12), name


@pytest.mark.parametrize("tpr", [0.5, 0.8, 0.95, 1.0])
def test_fpr_at_tpr_equals_both(scores, tpr):
    values, is_ood = scores
    ours = metrics.fpr_at_tpr(-values, is_ood, tpr)
    labels = torch.from_numpy(np.where(is_ood, -1, 0))
    assert ours == pytest.approx(float(pytorch_ood.fpr_at_tpr(torch.from_numpy(-values), labels, tpr)))
    fpr = torch_uncertainty.FPRx(recall_level=tpr, pos_label=1)
    theirs = of_torch_uncertainty(fpr, torch.from_numpy(-values), torch.from_numpy(is_ood.astype(int)))
    assert ours == pytest.approx(theirs, abs=TOLERANCE)


def test_auroc_and_average_precision_equal_what_torch_uncertainty_calls(scores):
    values, is_ood = scores
    # Ranks within [0, 1]: scores outside are put through a sigmoid in float32 there, which can make ties.
    outlier_score = torch.from_numpy(np.unique(-values, return_inverse=True)[1] / values.size)
    target = torch.from_numpy(is_ood.astype(int))
    auroc = torchmetrics.binary_auroc(outlier_score, target)
    assert metrics.auroc(-values, is_ood) == pytest.approx(float(auroc), abs=TOLERANCE)
    precision = torchmetrics.binary_average_precision(outlier_score, target)
    ours = metrics.ood_detection(values[~is_ood], values[is_ood])["ap_out"]
    assert ours == pytest.approx(float(precision), abs=TOLERANCE)


def test_accuracy_equals_pytorch_ood(probabilities, confidence_and_correct):
    probs, labels = probabilities
    _, correct = confidence_and_correct
    assert metrics.accuracy(correct) == float(pytorch_ood.accuracy(probs.argmax(1), labels))


def test_aurc_equals_both(probabilities, confidence_and_correct):
    confidence, correct = confidence_and_correct
    theirs = of_torch_uncertainty(torch_uncertainty.AURC(), *probabilities)
    assert metrics.aurc(confidence, correct, "torch_uncertainty") == pytest.approx(theirs, abs=TOLERANCE)
    aurra = pytorch_ood.aurra(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert metrics.aurc(confidence, correct, "mean") == pytest.approx(1 - aurra, abs=1e-12)


def test_augrc_of_torch_uncertainty_lacks_the_first_step(probabilities, confidence_and_correct):
    confidence, correct = confidence_and_correct
    n = correct.size
    theirs = of_torch_uncertainty(torch_uncertainty.AUGRC(), *probabilities)
    # From coverage 0 to 1/n the generalised risk rises from 0 to the first sample's.
    first_step = (not correct[confidence.argmax()]) / n / (2 * n)
    assert metrics.augrc(confidence, correct) == pytest.approx(
        theirs * (1 - 1 / n) + first_step, abs=TOLERANCE
    )


@pytest.mark.parametrize("level", [0.1, 0.2, 0.5, 0.8])
def test_coverage_and_risk_equal_torch_uncertainty(probabilities, confidence_and_correct, level):
    confidence, correct = confidence_and_correct
    coverage = of_torch_uncertainty(torch_uncertainty.CovAtxRisk(level), *probabilities)
    assert metrics.coverage_at_risk(confidence, correct, level) == pytest.approx(coverage, abs=TOLERANCE)
    risk = of_torch_uncertainty(torch_uncertainty.RiskAtxCov(level), *probabilities)
    assert metrics.risk_at_coverage(confidence, correct, level) == pytest.approx(risk, abs=TOLERANCE)


def test_unreachable_risk_is_coverage_0_here_and_nan_there():
    probabilities, labels = torch.tensor([[0.9, 0.1], [0.8, 0.2]]), torch.tensor([1, 0])
    assert np.isnan(of_torch_uncertainty(torch_uncertainty.CovAtxRisk(0.1), probabilities, labels))
    assert metrics.coverage_at_risk([0.9, 0.8], [False, True], 0.1) == 0


@pytest.mark.parametrize("bins", [10, 15])
def test_ece_equals_torch_uncertainty(probabilities, bins):
    theirs = torch_uncertainty.CalibrationError(task="multiclass", num_classes=5, num_bins=bins)
    expected = of_torch_uncertainty(theirs, *probabilities)
    assert metrics.ece(*probabilities, bins=bins) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("bins", [10, 20])
def test_adaptive_ece_equals_both_where_the_bins_divide_the_samples(probabilities, bins):
    theirs = torch_uncertainty.AdaptiveCalibrationError(task="multiclass", num_classes=5, num_bins=bins)
    expected = of_torch_uncertainty(theirs, *probabilities)
    assert metrics.adaptive_ece(*probabilities, bins=bins) == pytest.approx(expected, abs=TOLERANCE)
    probs, labels = probabilities
    correct = probs.argmax(1) == labels
    of_ood = pytorch_ood.calibration_error(probs.amax(1), correct, p="1", beta=len(labels) // bins)
    assert metrics.adaptive_ece(*probabilities, bins=bins) == pytest.approx(of_ood, abs=1e-12)


def test_proper_scores_equal_torch_uncertainty(probabilities):
    nll = of_torch_uncertainty(torch_uncertainty.CategoricalNLL(), *probabilities)
    assert metrics.nll(*probabilities) == pytest.approx(nll, abs=TOLERANCE)
    brier = of_torch_uncertainty(torch_uncertainty.BrierScore(num_classes=5), *probabilities)
    assert metrics.brier(*probabilities) == pytest.approx(brier, abs=TOLERANCE)
