import numpy as np
import pytest
import torch

from rtk.metrics import auroc
from rtk.scores import FitData, Predictions, compute_score, fit_score, fit_temperature
from rtk.scores.logits import log_complement


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("scores_logits")


@pytest.fixture(scope="module")
def predictions(recorded):
    return at(recorded, slice(None))


def at(recorded, rows):
    """Predictions (float64) of some rows; the features play no part."""
    logits = torch.from_numpy(recorded["logits"][rows]).double()
    return Predictions(logits, torch.zeros(len(logits), 1), torch.from_numpy(recorded["labels"][rows]))


def fit_data(recorded):
    half = at(recorded, recorded["relu_fit_idx"])
    return FitData(half, half, torch.zeros(20, 1), torch.zeros(20))


@pytest.mark.parametrize(
    ("name", "hyperparameters", "key"),
    [
        ("msp", {}, "rat__MSR"),
        ("msp", {}, "openood__MSP"),
        ("max_logit", {}, "rat__MLS"),
        ("max_logit", {}, "openood__MLS"),
        ("energy", {}, "openood__EBO_T1"),
        ("energy", {"temperature": 2}, "openood__EBO_T2"),
        ("entropy", {}, "own__neg_entropy_exact"),
        ("gen", {"gamma": 0.5, "m": 5}, "openood__GEN_gamma0.5_M5"),
        ("doctor_alpha", {}, "own__doctor_alpha_T1.0"),
        ("doctor_alpha", {"temperature": 1.5}, "own__doctor_alpha_T1.5"),
        ("doctor_beta", {}, "own__doctor_beta_T1.0"),
        ("doctor_beta", {"temperature": 1.5}, "own__doctor_beta_T1.5"),
        ("odin_temperature", {"temperature": 1.5}, "rat__ODIN_T1.5"),
        ("odin_temperature", {"temperature": 100}, "rat__ODIN_T100"),
        ("odin_temperature", {}, "rat__ODIN_T1000"),
        ("margin", {}, "rat__LogitDiff"),
        ("soft_margin", {}, "rat__SoftLogitDiff_T1"),
    ],
)
def test_logit_scores_match_references(recorded, predictions, name, hyperparameters, key):
    score = compute_score(name, predictions, **hyperparameters)
    np.testing.assert_allclose(score, recorded[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("m", [100, 10])
def test_gen_with_a_small_exponent(recorded, predictions, m):
    score = compute_score("gen", predictions, m=m)
    # The reference rounds 1 - p, here down to 8e-11, before it takes the power: it is off by 1e-8.
    np.testing.assert_allclose(score, recorded[f"openood__GEN_gamma0.1_M{m}"], rtol=2e-8)


def test_gen_is_exact_next_to_one(recorded, predictions):
    exact = np.exp(recorded["logits"].astype(np.longdouble))
    others = np.stack([np.delete(exact, c, axis=1).sum(axis=1) for c in range(20)], axis=1)
    expected = -((exact * others) ** 0.1 / exact.sum(axis=1, keepdims=True) ** 0.2).sum(axis=1)
    np.testing.assert_allclose(compute_score("gen", predictions), expected.astype(float), rtol=1e-12)


def test_doctor_alpha_is_rat_plus_one(recorded, predictions):
    score = compute_score("doctor_alpha", predictions)
    np.testing.assert_allclose(score - 1, recorded["rat__Doctor_T1.0"], rtol=1e-9)


@pytest.mark.parametrize(("lmbda", "temperature"), [(0.5, 1.0), (0.5, 1.5), (0.25, 1.0)])
def test_relu_matches_rat(recorded, lmbda, temperature):
    key = f"rat__RelU_lbd{lmbda}_T{temperature}"
    evaluated = at(recorded, recorded["relu_eval_idx"])
    hyperparameters = {"lmbda": lmbda, "temperature": temperature}
    fitted = fit_score("relu", fit_data(recorded), **hyperparameters)
    np.testing.assert_allclose(fitted.tensors["matrix"], recorded[f"{key}__matrix_after_fit"], atol=1e-9)
    score = compute_score("relu", evaluated, fit_data(recorded), **hyperparameters)
    np.testing.assert_allclose(score, recorded[f"{key}__eval_scores"], atol=1e-9)


def test_relu_without_mistakes_weighs_all_pairs_alike(recorded, predictions):
    right = Predictions(predictions.logits, predictions.features, predictions.logits.argmax(dim=1))
    fitted = fit_score("relu", FitData(right, right, torch.zeros(20, 1), torch.zeros(20)))
    matrix = fitted.tensors["matrix"]
    assert matrix.norm().item() == pytest.approx(1)
    assert matrix.unique().numel() == 2
    assert not matrix.diag().any()


def test_temperature_is_the_minimiser(recorded):
    half = at(recorded, recorded["relu_fit_idx"])
    temperature = fit_temperature(half.logits, half.labels)
    assert temperature == pytest.approx(float(recorded["ts_own_T_optimum"]), abs=1e-4)
    nll = torch.nn.functional.cross_entropy(half.logits / temperature, half.labels).item()
    assert nll == pytest.approx(float(recorded["ts_own_nll_at_optimum"]), abs=1e-9)
    score = compute_score("temperature_scaling", at(recorded, slice(None)), fit_data(recorded))
    np.testing.assert_allclose(score, recorded["ts_msp_at_T_optimum_all"], atol=1e-5)


@pytest.mark.parametrize("factor", [0.05, 1, 30])
def test_temperature_scales_with_the_logits(recorded, factor):
    half = at(recorded, recorded["relu_fit_idx"])
    temperature = fit_temperature(factor * half.logits, half.labels)
    assert temperature == pytest.approx(factor * float(recorded["ts_own_T_optimum"]), rel=1e-4)


def test_temperature_stays_in_its_bounds():
    logits = torch.eye(3, dtype=torch.float64)
    assert fit_temperature(logits, torch.arange(3)) == 0.01
    assert fit_temperature(logits, torch.tensor([1, 2, 0])) == 100


def test_confident_images_do_not_tie_in_float32():
    gap = torch.linspace(20, 60, 9)
    logits = torch.stack([gap, torch.zeros(9), torch.full((9,), -1.0)], dim=1)
    assert (
        compute_score("msp", Predictions(logits, gap[:, None], torch.zeros(9).long())).unique().numel() == 1
    )
    for name in ("soft_margin", "doctor_alpha", "doctor_beta", "gen"):
        score = compute_score(name, Predictions(logits, gap[:, None], torch.zeros(9).long()))
        assert (score.diff() > 0).all(), name


def test_log_complement_by_hand():
    found = log_complement(torch.tensor([[0.0, 0.0], [50.0, 0.0]], dtype=torch.float64))
    np.testing.assert_allclose(found, [[np.log(0.5), np.log(0.5)], [-50, 0]], atol=1e-12)


def test_confidences_tell_right_from_wrong(recorded, predictions):
    correct = recorded["preds"] == recorded["labels"]
    for name in ("msp", "entropy", "gen", "doctor_alpha", "doctor_beta", "margin", "soft_margin"):
        assert auroc(compute_score(name, predictions), correct) > 0.6, name
