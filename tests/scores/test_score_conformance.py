"""What every score promises. A new score is one row in `SCORES`, and one in `OPTIONS` if it has variants."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from rtk.metrics import auroc
from rtk.scores import (
    SCORES,
    FitData,
    Predictions,
    apply_score,
    compute_score,
    fit_score,
)
from rtk.scores.hyperparameters import defaults_of
from rtk.scores.storage import load_fitted, save_fitted
from tests.scores.worlds import (
    CLASSES,
    DEGENERATE,
    DIMENSIONS,
    World,
    as_double,
    first,
    join,
    mislabel,
    with_equal_rows,
    with_features,
)

OPTIONS = {
    "cadref": [
        {"confidence": "max_logit"},
        {"confidence": "msp"},
        {"confidence": "gen"},
        {"confidence": "none"},
    ],
    "nac": [{"spacing": "uniform"}],
    "mds_pp": [{"centres": "all"}],
    "neco": [{"standardize": False}, {"times_max_logit": False}],
    "vra": [{"scope": "pooled"}, {"below": "threshold"}, {"shift": 0.3}],
    "ash": [{"variant": "b"}, {"variant": "p"}],
    "fdbd": [{"normalizer": "feature_norm"}],
    "residual": [{"split": "validation"}],
    "she": [{"metric": "cosine"}, {"metric": "euclidean"}],
    "sirc": [{"confidence": "entropy"}, {"feature": "residual"}, {"feature": "l1_to_mean"}],
}
# NAC's bins are full with 50 of 1,000 images, which is much where there are 12 classes; 100 heads take long.
BASE = {"nac": {"samples": 2400}, "weiper": {"repeats": 8}}
OF_PREDICTIONS = [
    name for name, score in SCORES.items() if score.inputs != "images" and not score.of_ensembles
]
ROWS = [
    (name, BASE.get(name, {}) | options)
    for name in OF_PREDICTIONS
    for options in [{}, *OPTIONS.get(name, [])]
]
every_score = pytest.mark.parametrize(
    ("name", "options"), ROWS, ids=[" ".join([n, *map(str, o.values())]) for n, o in ROWS]
)


@pytest.fixture(scope="module")
def world():
    world = World()
    # Some wrong labels: a model that makes no mistake leaves RelU nothing to learn from.
    train, validation = world.known(2400), world.known(300)
    fit = FitData(train, mislabel(validation), world.weight, world.bias)
    return fit, world.known(200), world.unknown(200)


@every_score
def test_one_finite_number_an_image(world, name, options):
    fit, known, unknown = world
    score = compute_score(name, join(known, unknown), fit, **options)
    assert score.shape == (400,)
    assert score.dtype == torch.float32
    assert score.isfinite().all()


@every_score
def test_larger_is_in_distribution(world, name, options):
    fit, known, unknown = world
    score = compute_score(name, join(known, unknown), fit, **options)
    assert auroc(score, np.arange(400) < 200) > 0.9


@every_score
def test_an_image_is_scored_alone(world, name, options, monkeypatch):
    fit, known, unknown = world
    state = fit_score(name, fit, **options)
    both = apply_score(name, state, join(known, unknown))
    parts = torch.cat([apply_score(name, state, known), apply_score(name, state, unknown)])
    np.testing.assert_allclose(both, parts, rtol=1e-4, atol=1e-5)
    single = Predictions(known.logits[:1], known.features[:1], known.labels[:1])
    np.testing.assert_allclose(apply_score(name, state, single), both[:1], rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("rtk.scores.compute.CHUNK", 7)
    np.testing.assert_allclose(apply_score(name, state, join(known, unknown)), both, rtol=1e-4, atol=1e-5)


@every_score
def test_fitting_does_not_depend_on_the_chunk(world, name, options, monkeypatch):
    fit, known, _ = world
    whole = compute_score(name, known, fit, **options)
    monkeypatch.setattr("rtk.scores.moments.CHUNK", 37)
    np.testing.assert_allclose(compute_score(name, known, fit, **options), whole, rtol=1e-5, atol=1e-6)


@every_score
def test_single_precision_is_close_to_double(world, name, options):
    fit, known, unknown = world
    double_fit = FitData(
        as_double(fit.train), as_double(fit.validation), fit.weight.double(), fit.bias.double()
    )
    for predictions in (known, unknown):
        double = compute_score(name, as_double(predictions), double_fit, **options)
        assert double.dtype == torch.float64
        single = compute_score(name, predictions, fit, **options)
        np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-4)


@every_score
def test_labels_of_scored_images_do_not_matter(world, name, options):
    fit, known, _ = world
    scores = compute_score(name, known, fit, **options)
    for labels in (torch.full_like(known.labels, -7), None):
        hidden = Predictions(known.logits, known.features, labels)
        assert torch.equal(compute_score(name, hidden, fit, **options), scores)


@every_score
def test_inputs_are_left_alone_and_carry_no_gradient(world, name, options):
    fit, known, _ = world
    before = known.logits.clone(), known.features.clone(), fit.train.features.clone(), fit.weight.clone()
    grown = Predictions(known.logits.clone().requires_grad_(), known.features, known.labels)
    assert not compute_score(name, grown, fit, **options).requires_grad
    after = known.logits, known.features, fit.train.features, fit.weight
    assert all(map(torch.equal, before, after))


@every_score
def test_an_image_without_any_activation_has_a_score(world, name, options):
    fit, known, _ = world
    dark = Predictions(fit.bias.unsqueeze(0), torch.zeros(1, DIMENSIONS), known.labels[:1])
    assert compute_score(name, dark, fit, **options).isfinite().all()


@every_score
def test_a_very_confident_image_has_a_score(world, name, options):
    fit, known, _ = world
    loud = Predictions(known.logits * 300, known.features * 300, known.labels)
    assert compute_score(name, loud, fit, **options).isfinite().all()


@every_score
def test_degenerate_inputs_have_finite_scores(world, name, options):
    fit, known, _ = world
    small = FitData(first(fit.train, 240), first(fit.validation, 60), fit.weight, fit.bias)
    made = {case: make(small, first(known, 20)) for case, make in DEGENERATE.items()}
    scores = {case: compute_score(name, images, data, **options) for case, (data, images) in made.items()}
    assert [case for case, score in scores.items() if not score.isfinite().all()] == []


def test_equal_head_rows_take_nothing_from_fdbd(world):
    """An image of a class that has a twin scores as under the head without the twin."""
    fit, known, _ = world
    twins, seen = with_equal_rows(fit, known, 0.0)
    kept = [c for c in range(CLASSES) if c != 1]

    def without_twin(p):
        return Predictions(p.logits[:, kept], p.features, 0 * p.labels)

    single = FitData(
        without_twin(twins.train), without_twin(twins.validation), twins.weight[kept], twins.bias[kept]
    )
    found, expected = compute_score("fdbd", seen, twins), compute_score("fdbd", without_twin(seen), single)
    of_first = seen.logits.argmax(dim=1) <= 1
    assert of_first.any()
    np.testing.assert_allclose(found[of_first], expected[of_first], rtol=1e-5)


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-5])
@pytest.mark.parametrize("length", [1e-15, 1, 1e25])
def test_knn_of_features_close_together(world, spread, length):
    """Squared distances down to 1e-11, of which 2 - 2 cos in float32 leaves nothing; at any length."""
    fit, known, _ = world
    tight, images = with_features(
        fit, known, lambda f, y: length * (World().patterns[y] + spread * (f - World().patterns[y]))
    )
    found = compute_score("knn", images, tight, k=10)
    wide = [p.features.double() for p in (images, tight.train)]
    unit = [features / features.norm(dim=1, keepdim=True) for features in wide]
    distance = torch.cdist(*unit, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(10).values
    np.testing.assert_allclose(found, -distance.square(), rtol=1e-3)


@pytest.mark.parametrize("k", [np.int64(7), np.int32(7), np.uint8(7)])
def test_hyperparameters_of_numpy_can_be_saved(world, k, tmp_path):
    fit, known, _ = world
    state = fit_score("knn", fit, k=k)
    save_fitted(tmp_path / "scores.safetensors", {"knn": state})
    assert load_fitted(tmp_path / "scores.safetensors")["knn"].hyperparameters == {"k": 7}
    assert torch.equal(
        apply_score("knn", state, known), apply_score("knn", fit_score("knn", fit, k=7), known)
    )


def test_all_fitted_scores_can_be_saved_together(world, tmp_path):
    """Several keep the head, in the same memory."""
    fit, known, _ = world
    states = {name: fit_score(name, fit) for name in OF_PREDICTIONS}
    save_fitted(tmp_path / "scores.safetensors", states)
    for name, state in load_fitted(tmp_path / "scores.safetensors").items():
        assert torch.equal(apply_score(name, state, known), apply_score(name, states[name], known)), name


@pytest.mark.parametrize("name", SCORES)
def test_rows_are_complete(name):
    row = SCORES[name]
    assert row.name == name
    assert row.source
    assert row.score.__doc__
    assert "Source: " in row.score.__doc__
    shared = row.fit_defaults.keys() & defaults_of(row.score).keys()
    assert all(row.fit_defaults[key] == defaults_of(row.score)[key] for key in shared)
    for key, value in row.defaults.items():
        assert row.limits[key].wanted != "any value"
        assert row.limits[key].accepts(value), key
    for key, values in [*row.search.items(), *row.rat_search.items()]:
        assert key in row.defaults
        assert all(row.limits[key].accepts(value) for value in values)


@pytest.mark.parametrize("name", [name for name in OF_PREDICTIONS if SCORES[name].fit is not None])
def test_states_can_be_saved(world, name):
    fit, _, _ = world
    state = fit_score(name, fit)
    loaded = load(save(dict(state.tensors)))
    assert all(torch.equal(loaded[key], value) for key, value in state.tensors.items())
    assert state.width == (CLASSES, DIMENSIONS)
    assert state.tensors
    assert all(
        value is None or isinstance(value, int | float | str) for value in state.hyperparameters.values()
    )
