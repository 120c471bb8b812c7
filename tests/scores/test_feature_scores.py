import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import weibull_min

from rtk.scores import FitData, Predictions, compute_score, fit_score
from rtk.scores.openmax import fit_weibull, openmax
from rtk.scores.subspace import _principal_dim

LOOSE = {"atol": 5e-4, "rtol": 1e-4}
TIGHT = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def recorded(golden):
    return dict(golden("scores_features"))


@pytest.fixture(scope="module")
def fit_data(recorded):
    head = torch.from_numpy(recorded["fc_weight"]), torch.from_numpy(recorded["fc_bias"])
    return FitData(said(recorded, "train"), said(recorded, "val"), *head)


def said(recorded, split):
    features = torch.from_numpy(recorded[f"feat_{split}"])
    weight, bias = torch.from_numpy(recorded["fc_weight"]), torch.from_numpy(recorded["fc_bias"])
    labels = recorded.get(f"labels_{split}", np.full(len(features), -1))
    return Predictions(features @ weight.T + bias, features, torch.from_numpy(labels))


CASES = [
    ("msp", {}, "msp", TIGHT),
    ("max_logit", {}, "maxlogit", TIGHT),
    ("energy", {"temperature": "hp_ebo"}, "energy", TIGHT),
    ("gen", {"gamma": "hp_gen_g", "m": "hp_gen_M"}, "gen", TIGHT),
    ("openmax", {"tail": "hp_openmax_tail", "alpha": "hp_openmax_alpha"}, "openmax", {"atol": 2e-3}),
    ("mds", {}, "mds", LOOSE),
    ("rmds", {}, "rmds", LOOSE),
    ("react", {"percentile": "hp_react"}, "react", TIGHT),
    ("klm", {}, "klm", TIGHT),
    ("vim", {"dim": "hp_vim"}, "vim", LOOSE),
    ("residual", {"dim": "hp_resid", "split": "validation"}, "residual", LOOSE),
    ("knn", {"k": "hp_knn"}, "knn", TIGHT),
    ("sirc", {"confidence": "msp", "feature": "l1_norm"}, "sirc_MSP_L1", LOOSE),
    ("sirc", {"confidence": "msp", "feature": "l1_to_mean"}, "sirc_MSP_Res", LOOSE),
    ("sirc", {"confidence": "entropy", "feature": "l1_norm"}, "sirc_negH_L1", LOOSE),
    ("sirc", {"confidence": "entropy", "feature": "l1_to_mean"}, "sirc_negH_Res", LOOSE),
    ("nnguide", {"k": "hp_nng_K", "fraction": 1.0}, "nnguide_alpha1", TIGHT),
    ("ash", {"variant": "b", "percentile": "hp_ash"}, "ash_b", TIGHT),
    ("ash", {"variant": "p", "percentile": "hp_ash"}, "ash_p", TIGHT),
    ("ash", {"variant": "s", "percentile": "hp_ash"}, "ash_s", LOOSE),
    ("scale", {"percentile": "hp_scale"}, "scale", LOOSE),
    ("dice", {"percentile": "hp_dice"}, "dice", TIGHT),
    ("she", {"metric": "inner_product"}, "she_inner_product", TIGHT),
    ("she", {"metric": "cosine"}, "she_cosine", TIGHT),
    ("she", {"metric": "euclidean"}, "she_euclidean", TIGHT),
    ("fdbd", {"normalizer": "distance_to_mean"}, "fdbd_dist_to_mean", TIGHT),
    ("fdbd", {"normalizer": "feature_norm"}, "fdbd_feature_norm", TIGHT),
]


def settings(recorded, hyperparameters):
    """Replace `hp_...` by what the file says."""
    is_key = {name: str(value).startswith("hp_") for name, value in hyperparameters.items()}
    return {n: recorded[v].item() if is_key[n] else v for n, v in hyperparameters.items()}


@pytest.mark.parametrize("split", ["test", "ood"])
@pytest.mark.parametrize(("name", "hyperparameters", "key", "tolerance"), CASES, ids=[c[2] for c in CASES])
def test_scores_match_openood(recorded, fit_data, split, name, hyperparameters, key, tolerance):
    predictions = said(recorded, split)
    score = compute_score(name, predictions, fit_data, **settings(recorded, hyperparameters))
    np.testing.assert_allclose(score, recorded[f"{key}__{split}"], **{"rtol": 1e-7, **tolerance})


@pytest.mark.parametrize("split", ["test", "ood"])
def test_nnguide_with_openoods_part_of_the_bank(recorded, fit_data, split):
    size = int(recorded["nnguide_alpha0.25__bank_size_used"])
    first = next(fit_data.train.split(size))
    part = dataclasses.replace(fit_data, train=first)
    score = compute_score("nnguide", said(recorded, split), part, k=10, fraction=1)
    np.testing.assert_allclose(score, recorded[f"nnguide_alpha0.25__{split}"], **TIGHT)


def test_fitted_tensors_match_openood(recorded, fit_data):
    mds = fit_score("mds", fit_data).tensors
    precision = mds["whitening"] @ mds["whitening"].T
    np.testing.assert_allclose(precision, recorded["mds__fitted_precision"], rtol=1e-3, atol=1e-3)
    react = fit_score("react", fit_data, percentile=90).tensors
    assert react["threshold"].item() == pytest.approx(recorded["react__fitted_threshold"].item(), rel=1e-6)
    klm = fit_score("klm", fit_data).tensors
    np.testing.assert_allclose(klm["templates"], recorded["klm__fitted_mean_softmax_val"], atol=1e-6)
    vim = fit_score("vim", fit_data, dim=32).tensors
    assert vim["alpha"].item() == pytest.approx(recorded["vim__fitted_alpha"].item(), rel=1e-5)
    np.testing.assert_allclose(vim["origin"], recorded["vim__fitted_u"], atol=1e-5)
    sirc = fit_score("sirc", fit_data).tensors
    mean, std = recorded["sirc__fitted_S2_mean"].item(), recorded["sirc__fitted_S2_std"].item()
    assert sirc["a"].item() == pytest.approx(mean - 3 * std, rel=1e-5)
    assert sirc["b"].item() == pytest.approx(1 / std, rel=1e-5)


def test_openmax_weibulls_match_libmr(recorded, fit_data):
    tensors = fit_score("openmax", fit_data, tail=20).tensors
    np.testing.assert_allclose(
        tensors["means"], recorded["openmax__fitted_mav_class_x_class"], rtol=1e-5, atol=1e-5
    )
    scale, shape, _, _, smallest = recorded[
        "openmax__fitted_libmr_params_scale_shape_sign_translate_smallscore"
    ].T
    np.testing.assert_allclose(tensors["scale"], scale, rtol=1e-4)
    np.testing.assert_allclose(tensors["shape"], shape, rtol=1e-4)
    np.testing.assert_allclose(tensors["smallest"], smallest, rtol=1e-5)


@pytest.mark.parametrize("split", ["test", "ood"])
def test_openmax_with_libmrs_weibulls(recorded, fit_data, split):
    fitted = fit_score("openmax", fit_data, tail=20, alpha=3)
    scale, shape, _, _, smallest = torch.from_numpy(
        recorded["openmax__fitted_libmr_params_scale_shape_sign_translate_smallscore"]
    ).unbind(dim=1)
    tensors = {**fitted.tensors, "scale": scale, "shape": shape, "smallest": smallest}
    np.testing.assert_allclose(
        openmax(said(recorded, split), tensors), recorded[f"openmax__{split}"], atol=1e-5
    )


@pytest.mark.parametrize("seed", range(5))
def test_weibull_fit_matches_scipy(seed):
    x = 1 + np.random.default_rng(seed).gamma(2.0, 3.0, 20)
    shape, _, scale = weibull_min.fit(x, floc=0)
    assert fit_weibull(torch.from_numpy(x)) == pytest.approx((scale, shape), rel=1e-3)


def test_weibull_of_equal_values_is_a_step():
    scale, shape = fit_weibull(torch.ones(3, dtype=torch.float64))
    assert scale == pytest.approx(1)
    assert shape == pytest.approx(1000)


def test_knn_by_hand():
    """Unit circle: bank at 0, 90 and 180 degrees, query at 0 of another length; 2 - 2 cos."""
    bank = torch.tensor([[3.0, 0.0], [0.0, 0.5], [-1.0, 0.0]])
    known = Predictions(torch.eye(3)[:, :2], bank, torch.tensor([0, 1, 0]))
    fit = FitData(known, known, torch.eye(2), torch.zeros(2))
    query = Predictions(torch.zeros(1, 2), torch.tensor([[7.0, 0.0]]), torch.tensor([0]))
    found = [compute_score("knn", query, fit, k=k).item() for k in (1, 2, 3)]
    assert found == pytest.approx([0, -2, -4])


def test_knn_walks_banks_larger_than_a_chunk(fit_data, recorded, monkeypatch):
    whole = compute_score("knn", said(recorded, "test"), fit_data)
    monkeypatch.setattr("rtk.scores.neighbours.BANK_CHUNK", 7)
    np.testing.assert_allclose(compute_score("knn", said(recorded, "test"), fit_data), whole, atol=1e-6)


@pytest.mark.parametrize("name", ["mds", "rmds", "openmax", "she", "klm", "relu", "vim", "fdbd"])
def test_a_class_without_images_does_no_harm(recorded, fit_data, name):
    def without(p):
        kept = (p.labels != 3) & (p.logits.argmax(dim=1) != 3)
        return Predictions(p.logits[kept], p.features[kept], p.labels[kept])

    fit = dataclasses.replace(
        fit_data, train=without(fit_data.train), validation=without(fit_data.validation)
    )
    assert compute_score(name, said(recorded, "test"), fit).isfinite().all()


def test_mds_survives_dead_features(recorded, fit_data):
    """Constant and repeated features make the covariance singular: its pseudo-inverse ignores them."""

    def pad(p):
        extra = [p.features, torch.full((len(p), 2), 3.0), p.features[:, :1]]
        return Predictions(p.logits, torch.cat(extra, dim=1), p.labels)

    weight = torch.cat([fit_data.weight, torch.zeros(20, 3)], dim=1)
    padded = FitData(pad(fit_data.train), pad(fit_data.validation), weight, fit_data.bias)
    score = compute_score("mds", pad(said(recorded, "test")), padded)
    np.testing.assert_allclose(score, recorded["mds__test"], rtol=1e-3, atol=1e-3)


def test_default_dimension_leaves_a_residual_space(recorded, fit_data):
    by_default = compute_score("vim", said(recorded, "test"), fit_data)
    np.testing.assert_allclose(by_default, compute_score("vim", said(recorded, "test"), fit_data, dim=32))


def test_sirc_residual_lowers_what_leaves_the_principal_space(recorded, fit_data):
    known, far = said(recorded, "test"), said(recorded, "ood")
    # The same logits, so that only the feature statistic can tell them apart.
    disguised = Predictions(known.logits, far.features, known.labels)
    before = compute_score("sirc", known, fit_data, feature="residual")
    after = compute_score("sirc", disguised, fit_data, feature="residual")
    assert after.mean() < before.mean()


def test_sirc_of_one_validation_image_has_a_spread(fit_data):
    one = fit_data.validation
    alone = FitData(
        fit_data.train,
        Predictions(one.logits[:1], one.features[:1], one.labels[:1]),
        fit_data.weight,
        fit_data.bias,
    )
    tensors = fit_score("sirc", alone).tensors
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_vim_takes_the_published_space_wherever_it_leaves_a_residual():
    assert [_principal_dim(None, features, 256) for features in (512, 384, 256, 64)] == [256, 256, 128, 32]
