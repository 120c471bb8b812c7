from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from rtk.metrics import aupr, auroc, fpr_at_tpr, misclassification_detection, ood_detection

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ds_metrics.npz")


@pytest.mark.parametrize("case", ["big__", "small_ties__"])
@pytest.mark.parametrize(("score", "key"), [("ood", "oodscore"), ("msp", "msp")])
def test_ood_detection_matches_sureplus(case, score, key):
    id_score, ood_score = GOLDEN[f"{case}id_{score}"], GOLDEN[f"{case}ood_{score}"]
    result = ood_detection(id_score, ood_score)
    for name in ("auroc", "fpr95", "aupr_in", "aupr_out"):
        expected = float(GOLDEN[f"{case}sureplus_allmetrics_{key}_{name}"])
        assert result[name] == pytest.approx(expected, abs=1e-9), name
    is_id = np.arange(id_score.size + ood_score.size) < id_score.size
    scores = np.append(id_score, ood_score)
    assert result["ap_in"] == pytest.approx(average_precision_score(is_id, scores), abs=1e-12)
    assert result["ap_out"] == pytest.approx(average_precision_score(~is_id, -scores), abs=1e-12)


@pytest.mark.parametrize("case", ["big__", "small_ties__"])
def test_misclassification_detection_matches_rat(case):
    correct = GOLDEN[f"{case}id_preds"] == GOLDEN[f"{case}id_labels"]
    result = misclassification_detection(GOLDEN[f"{case}id_msp"], correct)
    assert result["auroc"] == pytest.approx(float(GOLDEN[f"{case}rat_misclf_auroc"]), abs=1e-9)
    assert result["fpr95"] == pytest.approx(float(GOLDEN[f"{case}rat_misclf_fpr95"]), abs=1e-9)
    confidence = GOLDEN[f"{case}id_msp"]
    assert result["ap_success"] == pytest.approx(average_precision_score(correct, confidence), abs=1e-12)
    assert result["ap_error"] == pytest.approx(average_precision_score(~correct, -confidence), abs=1e-12)


def test_auroc_counts_ties_one_half():
    assert auroc([3, 1, 2, 2], [True, False, True, False]) == 3.5 / 4
    assert auroc([1, 1, 1], [True, False, False]) == 0.5
    assert auroc([2, 1], [True, False]) == 1
    assert auroc([1, 2], [True, False]) == 0


def test_aupr_by_hand():
    # Accepted in order +, -, +: recall 1/2, 1/2, 1; precision 1, 1/2, 2/3.
    scores, positive = [3, 2, 1], [True, False, True]
    assert aupr(scores, positive) == pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)
    assert aupr(scores, positive, method="average_precision") == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_fpr_at_tpr_by_hand():
    scores, positive = [4, 3, 2, 1], [True, False, True, False]
    assert fpr_at_tpr(scores, positive, tpr=0.5) == 0
    assert fpr_at_tpr(scores, positive, tpr=0.51) == 0.5
    assert fpr_at_tpr(scores, positive, tpr=1) == 0.5
    # A tie group is accepted as a whole.
    assert fpr_at_tpr([1, 1, 1, 0], [True, False, True, False], tpr=0.5) == 0.5


def test_fpr_at_tpr_counts_exactly_reached_rate_as_reached():
    scores = np.arange(40, 0, -1)
    positive = np.tile([True, False], 20)
    assert fpr_at_tpr(scores, positive, tpr=0.95) == 18 / 20


@pytest.mark.parametrize("seed", range(20))
def test_matches_scikit_learn_with_ties(seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 8, 50), rng.random(50) < 0.4
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    expected = average_precision_score(positive, scores)
    assert aupr(scores, positive, method="average_precision") == pytest.approx(expected)


def test_infinite_scores_rank_first_and_last():
    assert auroc([np.inf, 0, -np.inf], [True, True, False]) == 1


def test_one_sample_each():
    perfect = {"auroc": 1, "fpr95": 0, "aupr_in": 1, "aupr_out": 1, "ap_in": 1, "ap_out": 1}
    assert ood_detection([1.0], [0.0]) == perfect


@pytest.mark.parametrize("metric", [auroc, aupr, fpr_at_tpr])
@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        ([], [], "scores: got an empty array"),
        ([[1.0]], [True], r"scores: got shape \(1, 1\)"),
        ([1.0, np.nan], [True, False], "scores: got 1 NaN among 2"),
        ([1.0, 2.0], [True], "scores and is_positive: got different lengths"),
        ([1.0, 2.0], [True, True], "is_positive: got only True"),
        ([1.0, 2.0], [3, 1], "is_positive: got int64 values other than 0 and 1"),
    ],
)
def test_bad_input_is_named(metric, scores, positive, message):
    with pytest.raises(ValueError, match=message):
        metric(scores, positive)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="tpr: got 95"):
        fpr_at_tpr([0, 1], [False, True], tpr=95)
    with pytest.raises(
        ValueError, match="method: got 'area', wanted one of 'trapezoid', 'average_precision'"
    ):
        aupr([0, 1], [False, True], method="area")
    with pytest.raises(ValueError, match="ood_score: got an empty array"):
        ood_detection([1.0], [])
    with pytest.raises(ValueError, match="is_correct: got only True"):
        misclassification_detection([0.5, 0.6], [True, True])
