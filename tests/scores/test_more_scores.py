"""Newer scores against what the authors' code returned, and against float64 calculations of the formulas."""

import numpy as np
import pytest
import torch

from rtk.scores import FitData, Predictions, compute_score, fit_score
from rtk.scores.densities import _edges, perturbed_heads, weiper, weiper_densities
from rtk.scores.principal import corp, corp_space

pytestmark = pytest.mark.parametrize("split", ["test", "ood"])


@pytest.fixture(scope="module")
def recorded(golden):
    return dict(golden("scores_more"))


def said(recorded, split, dtype=torch.float32):
    features, weight, bias = (
        torch.from_numpy(recorded[key]).to(dtype) for key in (f"feat_{split}", "fc_weight", "fc_bias")
    )
    labels = recorded.get(f"labels_{split}", np.zeros(len(features), int))
    return Predictions(features @ weight.T + bias, features, torch.from_numpy(labels))


def fit_data(recorded, dtype=torch.float32):
    head = (torch.from_numpy(recorded[key]).to(dtype) for key in ("fc_weight", "fc_bias"))
    # The recorded validation images have no labels, and no score here asks for them.
    return FitData(said(recorded, "train", dtype), said(recorded, "val", dtype), *head)


VRA = {"percentile_high": 90, "scope": "pooled"}
AUTHORS = {"percentile_low": 60, "percentile_high": 95}
NAC = {"bins": 48, "steepness": 20, "minimum": 10}
CASES = [
    ("nci", {"alpha": "hp_nci_alpha"}, "openood__nci", {"atol": 2e-5}),
    ("vra", VRA | {"percentile_low": 10, "below": "threshold"}, "openood__vra_as_coded", {"atol": 2e-5}),
    ("vra", VRA | {"percentile_low": 10}, "own__vra_paper_low_to_zero", {"atol": 2e-5}),
    ("vra", VRA | {"percentile_low": 60, "below": "threshold"}, "openood__vra2_as_coded", {"atol": 2e-5}),
    ("vra", VRA | {"percentile_low": 60}, "own__vra2_paper_low_to_zero", {"atol": 2e-5}),
    ("vra", AUTHORS, "vra_official__energy_per_dimension_quantiles", {"atol": 2e-5}),
    (
        "vra",
        AUTHORS | {"shift": "hp_vra_plus_lambda"},
        "own__vra_plus_as_in_official_model_code",
        {"atol": 2e-5},
    ),
    (
        "relation",
        {"power": "hp_relation_pow", "threshold": "hp_relation_threshold"},
        "openood__relation",
        {"atol": 1e-4},
    ),
    ("mds_pp", {}, "maha_norm__mahalanobis_pp", {"atol": 1e-3}),
    ("rmds_pp", {}, "maha_norm__rmds_pp", {"atol": 1e-3}),
    ("neco", {"times_max_logit": False}, "maha_norm__neco_ratio", {"atol": 1e-4}),
    ("neco", {}, "maha_norm__neco_times_maxlogit", {"atol": 1e-4}),
    ("neco", {"dim": "hp_neco_dim", "times_max_logit": False}, "own__neco_ratio_dim_hp", {"atol": 1e-4}),
    ("neco", {"dim": "hp_neco_dim"}, "own__neco_times_maxlogit_dim_hp", {"atol": 1e-4}),
    (
        "neco",
        {"dim": "hp_neco_dim", "standardize": False, "times_max_logit": False},
        "own__neco_raw_features_ratio_dim_hp",
        {"atol": 1e-4},
    ),
    ("cadref", {}, "cadref__cadref_Energy", {"atol": 2e-5}),
    ("cadref", {"confidence": "max_logit"}, "cadref__cadref_MaxLogit", {"atol": 2e-5}),
    ("cadref", {"confidence": "msp"}, "cadref__cadref_MSP", {"atol": 2e-5}),
    ("cadref", {"confidence": "gen"}, "cadref__cadref_GEN", {"atol": 5e-4}),
    ("cadref", {"confidence": "none"}, "cadref__caref", {"atol": 2e-5}),
    ("delta_mds", {}, "sc_likelihood_ratios__delta_mds", {"atol": 2e-3}),
    ("delta_knn", {"k": "hp_delta_knn_k"}, "sc_likelihood_ratios__delta_knn", {"atol": 2e-5}),
    ("cop", {"explained": "hp_cop_explained_variance"}, "kernel_pca__cop", {"atol": 2e-5}),
    ("nac", NAC, "ood_coverage__nac", {"atol": 1e-5}),
    ("nac", NAC | {"bins": "hp_nac_M", "spacing": "uniform"}, "own__nac_uniform_bins", {"atol": 1e-5}),
]


@pytest.mark.parametrize(
    ("name", "hyperparameters", "key", "tolerance"), CASES, ids=[case[2] for case in CASES]
)
def test_scores_match_their_code(recorded, split, name, hyperparameters, key, tolerance):
    settings = {n: recorded[v].item() if str(v) in recorded else v for n, v in hyperparameters.items()}
    score = compute_score(name, said(recorded, split), fit_data(recorded), **settings)
    np.testing.assert_allclose(score, recorded[f"{key}__{split}"], rtol=0, **tolerance)


@pytest.mark.parametrize(
    ("name", "key", "tolerance"),
    [
        ("mds_pp", "own__mahalanobis_pp_f64", 1e-8),
        ("rmds_pp", "own__rmds_pp_f64", 1e-8),
        ("delta_mds", "own__delta_mds_f64", 1e-7),
    ],
)
def test_scores_match_the_formula_in_double_precision(recorded, split, name, key, tolerance):
    double = torch.float64
    score = compute_score(name, said(recorded, split, double), fit_data(recorded, double))
    np.testing.assert_allclose(score, recorded[f"{key}__{split}"], rtol=0, atol=tolerance)


def test_mahalanobis_of_all_images_is_that_of_one_gaussian(recorded, split):
    """The form of PALM's code, without classes."""
    double = torch.float64
    train, seen = (recorded[f"feat_{name}"].astype(np.float64) for name in ("train", split))
    train, seen = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, seen))
    centred = seen - train.mean(axis=0)
    precision = np.linalg.pinv(np.cov(train.T, bias=True))
    fit = fit_data(recorded, double)
    found = compute_score("mds_pp", said(recorded, split, double), fit, centres="all")
    np.testing.assert_allclose(found, -np.einsum("nd,de,ne->n", centred, precision, centred), rtol=1e-8)


def test_gradnorm_is_the_gradient_of_the_head(recorded, split):
    """OpenOOD's target has the weight 1 a class, the paper's 1/C."""
    predictions = said(recorded, split, torch.float64)
    score = compute_score("gradnorm", predictions)
    np.testing.assert_allclose(score, recorded[f"own__gradnorm_uniform_1_over_C__{split}"], rtol=1e-6)
    np.testing.assert_allclose(
        score * predictions.width[0], recorded[f"openood__gradnorm__{split}"], rtol=1e-6
    )


def test_a_class_without_mistakes_is_left_out_of_delta_mds(recorded, split):
    tensors = fit_score("delta_mds", fit_data(recorded)).tensors
    assert len(tensors["wrong_class_means"]) == len(tensors["class_means"]) - 1 == 19
    assert recorded["delta_mds__classes_without_wrong_samples"].tolist() == [3]


def test_fitted_gaussians_match(recorded, split):
    tensors = fit_score("mds_pp", fit_data(recorded, torch.float64)).tensors
    precision = tensors["whitening"] @ tensors["whitening"].T
    np.testing.assert_allclose(precision, recorded["own__mahalanobis_pp_precision"], rtol=1e-8, atol=1e-8)
    means = torch.from_numpy(recorded["own__mahalanobis_pp_class_means"]) @ tensors["whitening"]
    np.testing.assert_allclose(tensors["class_means"], means, rtol=1e-8, atol=1e-8)


def test_corp_of_the_recorded_random_features(recorded, split):
    features = said(recorded, "train", torch.float64).features
    drawn = (torch.from_numpy(recorded[f"corp__rff_{name}"]) for name in ("w", "u"))
    tensors = corp_space(features, *drawn, recorded["hp_corp_explained_variance"].item())
    assert tensors["basis"].shape[1] == 96 - recorded["corp__dim_q"]
    score = corp(said(recorded, split, torch.float64), tensors)
    np.testing.assert_allclose(score, recorded[f"kernel_pca__corp__{split}"], rtol=0, atol=2e-5)


def test_random_features_follow_from_the_seed_and_approach_the_kernel(recorded, split):
    """The inner products of M random features have the kernel as their mean, and spread by 1 / sqrt(M)."""
    fit = fit_data(recorded)
    first, again, other = (fit_score("corp", fit, seed=seed).tensors["frequencies"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (4 * 64, 64)
    assert first.square().mean().item() == pytest.approx(2 * 2.0, rel=0.03)  # 2 gamma


def weiper_settings(recorded):
    keys = ("lambda_1", "lambda_2", "smoothing", "smoothing_perturbed", "epsilon", "epsilon_perturbed")
    names = ("logit_weight", "msp_weight", "smoothing", "logit_smoothing", "epsilon", "logit_epsilon")
    return {n: recorded[f"hp_weiper_{key}"].item() for n, key in zip(names, keys, strict=True)}


@pytest.fixture
def weiper_tensors(recorded):
    fit = fit_data(recorded)
    noise = torch.from_numpy(recorded["weiper__noise_normal_draws"])
    heads = perturbed_heads(fit.weight, noise, recorded["hp_weiper_perturbation_distance"].item())
    return weiper_densities(fit, heads, recorded["hp_weiper_n_bins"].item(), 10_000)


def test_weiper_of_the_recorded_noise(recorded, split, weiper_tensors):
    predictions, settings = said(recorded, split), weiper_settings(recorded)
    score = weiper(predictions, weiper_tensors, **settings)
    np.testing.assert_allclose(score, recorded[f"weiper__kld_fixed_perturbation__{split}"], rtol=0, atol=1e-4)
    only = {"logit_weight": 0.0, "msp_weight": 0.0}
    of_features = weiper(predictions, weiper_tensors, **settings | only)
    np.testing.assert_allclose(of_features, -recorded[f"own__weiper_kl_features__{split}"], rtol=0, atol=1e-4)
    msp = weiper(predictions, weiper_tensors, **settings | only | {"msp_weight": 1.0}) - of_features
    np.testing.assert_allclose(msp, recorded[f"own__weiper_msp__{split}"], rtol=0, atol=1e-4)
    of_logits = weiper(predictions, weiper_tensors, **settings | only | {"logit_weight": 1.0}) - of_features
    np.testing.assert_allclose(of_logits, -recorded[f"own__weiper_kl_perturbed__{split}"], rtol=0, atol=1e-4)


def test_densities_of_the_training_images(recorded, split, weiper_tensors):
    ends = [weiper_tensors[f"{name}_edges"][[0, -1]] for name in ("feature", "logit")]
    expected = recorded["weiper__fitted_min_max_feature_min_max_perturbed"]
    np.testing.assert_allclose(torch.cat(ends), expected, atol=1e-5)
    for name, key in (("feature", "feature"), ("logit", "perturbed")):
        density = recorded[f"weiper__mean_train_density_{key}"]
        np.testing.assert_allclose(weiper_tensors[f"{name}_density"], density, atol=1e-4)


def test_neurons_of_nac_are_counted_as_in_its_code(recorded, split):
    """Its last bin lies beyond 1 and stays empty."""
    edges = recorded["nac__thresholds"]
    np.testing.assert_allclose(_edges(48, "log")[:-1], edges[:-2], atol=1e-12)
    tensors = fit_score("nac", fit_data(recorded), bins=48, spacing="log", steepness=20.0).tensors
    np.testing.assert_array_equal(tensors["counts"].T, recorded["nac__counts_bin_x_neuron"][:-1])


@pytest.mark.parametrize("name", ["delta_mds", "delta_knn"])
def test_without_mistakes_a_likelihood_ratio_is_that_of_the_right_ones(recorded, split, name):
    fit = fit_data(recorded)
    right = Predictions(fit.train.logits, fit.train.features, fit.train.logits.argmax(dim=1))
    faultless = FitData(right, fit.validation, fit.weight, fit.bias)
    score = compute_score(name, said(recorded, split), faultless)
    assert score.isfinite().all()
    if name == "delta_mds":
        alone = compute_score("mds", said(recorded, split), faultless)
        np.testing.assert_allclose(score, alone, rtol=1e-6)


@pytest.mark.parametrize("name", ["delta_knn", "relation"])
def test_banks_are_walked_in_parts(recorded, split, name, monkeypatch):
    """Some of which hold no wrongly classified image."""
    whole = compute_score(name, said(recorded, split), fit_data(recorded))
    monkeypatch.setattr("rtk.scores.neighbours.BANK_CHUNK", 3)
    parts = compute_score(name, said(recorded, split), fit_data(recorded))
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["relation", "vra", "nac", "weiper"])
def test_a_part_of_the_training_images_is_spread_evenly(recorded, split, name, monkeypatch):
    """And is what the whole score would be of it."""
    fit = fit_data(recorded)
    kept = torch.arange(60) * 10
    part = Predictions(fit.train.logits[kept], fit.train.features[kept], fit.train.labels[kept])
    monkeypatch.setattr("rtk.scores.shaping.PERCENTILE_ROWS", 60)
    settings = {"relation": {"fraction": 0.1}, "vra": {}}.get(name, {"samples": 60})
    found = compute_score(name, said(recorded, split), fit, **settings)
    expected = compute_score(name, said(recorded, split), FitData(part, fit.validation, fit.weight, fit.bias))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
