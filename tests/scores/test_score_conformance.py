"""What every score promises. A new score is one row in `SCORES`, and one in `OPTIONS` if it has variants."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from rtk.metrics import auroc
from rtk.scores import SCORES, FitData, Predictions, apply_score, compute_score, fit_score
from rtk.scores.hyperparameters import defaults_of

OPTIONS = {
    "ash": [{"variant": "b"}, {"variant": "p"}],
    "fdbd": [{"normalizer": "feature_norm"}],
    "residual": [{"split": "validation"}],
    "she": [{"metric": "cosine"}, {"metric": "euclidean"}],
    "sirc": [{"confidence": "entropy"}, {"feature": "residual"}, {"feature": "l1_to_mean"}],
}
OF_PREDICTIONS = [name for name, score in SCORES.items() if score.inputs != "images"]
ROWS = [(name, options) for name in OF_PREDICTIONS for options in [{}, *OPTIONS.get(name, [])]]
every_score = pytest.mark.parametrize(
    ("name", "options"), ROWS, ids=[" ".join([n, *map(str, o.values())]) for n, o in ROWS]
)

CLASSES, DIMENSIONS = 12, 48


class World:
    """Non-negative features around class patterns, and a head that matches; OOD features are noise."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)
        self.patterns = torch.eye(CLASSES).repeat_interleave(DIMENSIONS // CLASSES, dim=1) * 4
        # Centred rows: more activation alone must not mean a larger logit.
        self.weight = self.patterns / 8 - self.patterns.mean(dim=0) / 8
        self.bias = torch.linspace(-0.1, 0.1, CLASSES)

    def known(self, count):
        labels = torch.randint(CLASSES, (count,), generator=self.generator)
        return self.said(self.patterns[labels] + self.noise(count, 0.4), labels)

    def unknown(self, count):
        return self.said(self.noise(count, 1.0), torch.full((count,), -1))

    def noise(self, count, size):
        return size * torch.randn(count, DIMENSIONS, generator=self.generator)

    def said(self, features, labels):
        features = features.relu()
        return Predictions(features @ self.weight.T + self.bias, features, labels)


@pytest.fixture(scope="module")
def world():
    world = World()
    # Some wrong labels: a model that makes no mistake leaves RelU nothing to learn from.
    train, validation = world.known(2400), world.known(300)
    fit = FitData(train, mislabel(validation), world.weight, world.bias)
    return fit, world.known(200), world.unknown(200)


def mislabel(predictions):
    labels = predictions.labels.clone()
    labels[::20] = (labels[::20] + 1) % CLASSES
    return Predictions(predictions.logits, predictions.features, labels)


def join(first, second):
    return Predictions(
        *(torch.cat([getattr(first, k), getattr(second, k)]) for k in ("logits", "features", "labels"))
    )


def as_double(predictions):
    return Predictions(predictions.logits.double(), predictions.features.double(), predictions.labels)


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
    hidden = Predictions(known.logits, known.features, torch.full_like(known.labels, -7))
    assert torch.equal(
        compute_score(name, hidden, fit, **options), compute_score(name, known, fit, **options)
    )


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
