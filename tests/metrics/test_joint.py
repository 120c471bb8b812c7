import time
from pathlib import Path

import numpy as np
import pytest

from rtk.metrics import (
    GridCounts,
    ScoreRange,
    aurc,
    ds_aurc,
    ds_best_thresholds,
    ds_f1,
    ds_f1_surface,
    ds_risk_coverage,
    joint_metrics,
    ood_aurc,
    ood_f1,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ds_metrics.npz")


def golden_case(case):
    correct = GOLDEN[f"{case}id_preds"] == GOLDEN[f"{case}id_labels"]
    id_scores = GOLDEN[f"{case}id_msp"], GOLDEN[f"{case}id_ood"]
    return *id_scores, correct, GOLDEN[f"{case}ood_msp"], GOLDEN[f"{case}ood_ood"]


def ood_only(images):
    _, id_ood_score, correct, _, ood_ood_score = images
    return id_ood_score, correct, ood_ood_score


def small_case(seed):
    """Up to 7 + 6 images with few distinct scores, so that ties abound within and across the two sets."""
    rng = np.random.default_rng(seed)
    n_id, n_ood, levels = rng.integers(1, 8), rng.integers(1, 7), rng.integers(1, 7)
    id_scores = rng.integers(0, levels, (2, n_id)) / levels
    ood_scores = rng.integers(0, levels, (2, n_ood)) / levels
    return *id_scores, rng.random(n_id) < 0.6, *ood_scores


def synthetic_case(n_id, n_ood):
    rng = np.random.default_rng(0)
    skill = rng.normal(size=n_id)
    id_confidence = 1 / (1 + np.exp(-skill - rng.normal(1, 0.5, n_id)))
    id_correct = rng.random(n_id) < 1 / (1 + np.exp(-1.5 * skill - 1))
    ood_confidence = 1 / (1 + np.exp(-rng.normal(size=n_ood)))
    return id_confidence, skill + rng.normal(2, 1, n_id), id_correct, ood_confidence, rng.normal(size=n_ood)


def brute_force(id_confidence, id_ood_score, id_correct, ood_confidence, ood_ood_score):
    """Straight from the definition: best F1, and its thresholds' area of smallest risk per coverage."""
    n_id = len(id_correct)
    best_f1, risk_at = 0.0, {}
    for tau_ood in np.concatenate([id_ood_score, ood_ood_score]):
        for tau_id in np.concatenate([id_confidence, ood_confidence]):
            accepted_id = (id_ood_score >= tau_ood) & (id_confidence >= tau_id)
            accepted_ood = (ood_ood_score >= tau_ood) & (ood_confidence >= tau_id)
            n_accepted = accepted_id.sum() + accepted_ood.sum()
            true_positives = (accepted_id & id_correct).sum()
            if true_positives:
                precision, recall = true_positives / n_accepted, true_positives / n_id
                best_f1 = max(best_f1, 2 * precision * recall / (precision + recall))
            if accepted_id.any():
                risk = 1 - true_positives / n_accepted
                k = accepted_id.sum()
                risk_at[k] = min(risk, risk_at.get(k, 1.0))
    filled = [risk_at[min(reached for reached in risk_at if reached >= k)] for k in range(1, n_id + 1)]
    return best_f1, np.mean(filled)


@pytest.mark.parametrize("case", ["big__", "small_ties__"])
@pytest.mark.parametrize("metric", [ood_f1, ood_aurc, ds_f1, ds_aurc])
def test_grid_matches_sureplus(case, metric):
    images = golden_case(case)
    inputs = images if metric in (ds_f1, ds_aurc) else ood_only(images)
    expected = float(GOLDEN[f"{case}sureplus_{metric.__name__}"])
    assert metric(*inputs, method="grid") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("case", ["big__", "small_ties__"])
def test_grid_curve_matches_sureplus(case):
    coverage, risk = ds_risk_coverage(*golden_case(case), method="grid")
    np.testing.assert_allclose(coverage, GOLDEN[f"{case}sureplus_bin_centers"], atol=1e-12)
    np.testing.assert_allclose(risk, GOLDEN[f"{case}sureplus_ds_bin_risks"], atol=1e-6)

    for seed in range(200):
        images = small_case(seed)
        f1, area = brute_force(*images)
        assert ds_f1(*images) == pytest.approx(f1, abs=1e-12), seed
        assert ds_aurc(*images) == pytest.approx(area, abs=1e-12), seed


@pytest.mark.parametrize("method", ["exact", "grid"])
def test_all_four_at_once_are_the_same_to_the_last_bit(method):
    images = golden_case("small_ties__")
    three = ood_only(images)
    assert joint_metrics(*images, method=method) == {
        "ds_f1": ds_f1(*images, method=method),
        "ds_aurc": ds_aurc(*images, method=method),
        "ood_f1": ood_f1(*three, method=method),
        "ood_aurc": ood_aurc(*three, method=method),
    }


def test_ood_only_exact_matches_brute_force():
    for seed in range(200):
        _, id_ood_score, correct, _, ood_ood_score = small_case(seed)
        f1, area = brute_force(
            np.zeros(len(correct)), id_ood_score, correct, np.zeros(len(ood_ood_score)), ood_ood_score
        )
        assert ood_f1(id_ood_score, correct, ood_ood_score) == pytest.approx(f1, abs=1e-12), seed
        assert ood_aurc(id_ood_score, correct, ood_ood_score) == pytest.approx(area, abs=1e-12), seed


def test_exact_f1_is_never_below_grid():
    cases = [small_case(seed) for seed in range(50)] + [golden_case("big__"), golden_case("small_ties__")]
    for images in [*cases, synthetic_case(500, 300)]:
        id_confidence, id_ood_score, correct, ood_confidence, ood_ood_score = images
        scores = np.concatenate([id_ood_score, ood_ood_score])
        grid = GridCounts.from_arrays(
            np.concatenate([id_confidence, ood_confidence]),
            scores,
            np.append(correct, np.zeros(len(ood_confidence), bool)),
            np.arange(scores.size) >= correct.size,
            ScoreRange.from_array(scores),
        ).result()
        assert ds_f1(*images) >= grid.ds_f1
        assert ood_f1(*ood_only(images)) >= grid.ood_f1


def test_two_thresholds_are_never_worse_than_one():
    for seed in range(50):
        images = small_case(seed)
        assert ds_f1(*images) >= ood_f1(*ood_only(images))


def test_exact_depends_on_ranks_alone():
    id_confidence, id_ood, correct, ood_confidence, ood_ood = synthetic_case(200, 150)
    images = id_confidence, id_ood, correct, ood_confidence, ood_ood
    # Also not on the order of the images, nor on whether the confidence lies in [0, 1].
    transformed = [np.log(id_confidence), id_ood**3, correct, np.log(ood_confidence), ood_ood**3]
    order = np.random.default_rng(1).permutation(200)
    transformed[:3] = [values[order] for values in transformed[:3]]
    assert ds_f1(*transformed) == ds_f1(*images)
    assert ds_aurc(*transformed) == ds_aurc(*images)


def test_by_hand():
    # Only the confidence rejects the error at 0.2, only the OOD score rejects the OOD image at 0.9.
    images = [0.9, 0.8, 0.2], [3.0, 2.0, 3.0], [True, True, False], [0.9, 0.1], [1.0, 2.5]
    assert ds_f1(*images) == pytest.approx(2 * 2 / (2 + 3))
    assert ds_best_thresholds(*images).tau_ood == 2.0
    assert ds_best_thresholds(*images).tau_id == 0.8
    coverage, risk = ds_risk_coverage(*images)
    np.testing.assert_allclose(coverage, [1 / 3, 2 / 3, 1])
    # Full coverage lets in the OOD image at 0.1 only if its confidence reaches 0.2, which it does not.
    np.testing.assert_allclose(risk, [0, 0, 1 / 3], atol=1e-15)
    assert ds_aurc(*images) == pytest.approx(1 / 9)
    # The OOD score alone accepts at 3.0 one right and one wrong, at 2.0 all three and one OOD image.
    assert ood_f1(*ood_only(images)) == pytest.approx(2 * 2 / (4 + 3))
    assert ood_aurc(*ood_only(images)) == pytest.approx((1 / 2 + 1 / 2 + 1 / 2) / 3)


def test_single_image_each():
    assert ds_f1([0.9], [1.0], [True], [0.1], [0.0]) == 1
    assert ds_aurc([0.9], [1.0], [True], [0.1], [0.0]) == 0
    assert ds_f1([0.9], [1.0], [True], [0.9], [1.0]) == pytest.approx(2 / 3)
    assert ds_aurc([0.9], [1.0], [False], [0.1], [0.0]) == 1
    assert ds_f1([0.9], [1.0], [False], [0.1], [0.0]) == 0


def test_without_reachable_ood_it_is_the_selective_aurc():
    id_confidence, _, correct, _, _ = synthetic_case(300, 1)
    constant = np.zeros(300)
    area = ds_aurc(id_confidence, constant, correct, [1.0], [-np.inf])
    assert area == pytest.approx(aurc(id_confidence, correct, "mean"), abs=1e-12)


def test_best_thresholds_reach_the_f1_they_report():
    images = id_confidence, id_ood_score, correct, ood_confidence, ood_ood_score = golden_case("big__")
    best = ds_best_thresholds(*images)
    accepted_id = (id_ood_score >= best.tau_ood) & (id_confidence >= best.tau_id)
    accepted_ood = (ood_ood_score >= best.tau_ood) & (ood_confidence >= best.tau_id)
    n_accepted = accepted_id.sum() + accepted_ood.sum()
    f1 = 2 * (accepted_id & correct).sum() / (n_accepted + correct.size)
    assert best.f1 == ds_f1(*images) == pytest.approx(f1, abs=1e-15)


def test_f1_surface():
    images = id_confidence, id_ood_score, correct, ood_confidence, ood_ood_score = small_case(3)
    tau_ood, tau_id, f1 = ds_f1_surface(*images, bins=5)
    assert f1.shape == (5, 5)
    assert tau_ood[0] == min(id_ood_score.min(), ood_ood_score.min())
    assert tau_id[-1] == max(id_confidence.max(), ood_confidence.max())
    for i in range(5):
        for j in range(5):
            accepted_id = (id_ood_score >= tau_ood[i]) & (id_confidence >= tau_id[j])
            accepted_ood = (ood_ood_score >= tau_ood[i]) & (ood_confidence >= tau_id[j])
            n_accepted = accepted_id.sum() + accepted_ood.sum()
            expected = 2 * (accepted_id & correct).sum() / (n_accepted + correct.size)
            assert f1[i, j] == pytest.approx(expected)


def test_fine_surface_approaches_the_maximum():
    images = golden_case("big__")
    _, _, f1 = ds_f1_surface(*images)
    assert ds_f1(*images) - 0.01 < f1.max() <= ds_f1(*images)


def test_exact_sweep_and_recount_agree_where_neither_is_small(monkeypatch):
    rng = np.random.default_rng(0)
    images = [np.round(scores, 2) if scores.dtype == float else scores for scores in synthetic_case(600, 900)]
    # A block of OOD images at one score makes the sweep count anew halfway.
    images[4][rng.random(900) < 0.3] = 1.0
    expected = ds_best_thresholds(*images), ds_aurc(*images)
    monkeypatch.setattr("rtk.metrics._sweep._RECOUNT", 0)
    assert (ds_best_thresholds(*images), ds_aurc(*images)) == expected


def test_exact_is_fast_enough_for_an_evaluation():
    images = synthetic_case(9000, 9000)
    start = time.process_time()
    ds_aurc(*images)
    # Measured at 0.12 s on one core; the margin is for a busy machine.
    assert time.process_time() - start < 2


GOOD = [0.9, 0.8], [1.0, 2.0], [True, False], [0.5], [0.0]


@pytest.mark.parametrize("metric", [ds_f1, ds_aurc, ds_best_thresholds, ds_risk_coverage, ds_f1_surface])
@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, [], "id_confidence: got an empty array"),
        (1, [np.nan, 0], "id_ood_score: got 1 NaN among 2"),
        (1, [1.0], "id_confidence and id_ood_score and id_correct: got different lengths"),
        (2, [2, 0], "id_correct: got int64 values other than 0 and 1"),
        (3, [], "ood_confidence: got an empty array"),
        (4, [0.0, 1.0], "ood_confidence and ood_ood_score: got different lengths"),
    ],
)
def test_bad_input_is_named(metric, position, value, message):
    images = list(GOOD)
    images[position] = value
    with pytest.raises(ValueError, match=message):
        metric(*images)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="method: got 'fast', wanted one of 'exact', 'grid'"):
        ds_f1(*GOOD, method="fast")
    with pytest.raises(ValueError, match="bins: got 0"):
        ds_f1_surface(*GOOD, bins=0)
    with pytest.raises(ValueError, match=r"confidence: got values in \[-3.0, 0.5\], wanted \[0, 1\]"):
        ds_f1([-3.0, -2.0], *GOOD[1:], method="grid")
    with pytest.raises(ValueError, match="id_ood_score: got infinite values"):
        ds_aurc(GOOD[0], [-np.inf, 1.0], *GOOD[2:], method="grid")
    with pytest.raises(ValueError, match="ood_ood_score: got an empty array"):
        ood_f1([1.0], [True], [])
