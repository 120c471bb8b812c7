import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d, linear, relu

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.maps import forward_maps
from rtk.scores import fit_image_score
from rtk.scores.gram import (
    gram_confidence,
    layer_deviations,
    layer_statistics,
    model_statistics,
)

BATCH = 30
SIZES = [5 * channels for channels in (8, 8, 12, 12, 12)]


def statistics_of(maps):
    return torch.cat([layer_statistics(values) for values in maps], dim=1)


@pytest.fixture(scope="module")
def recorded(golden):
    return {key: torch.from_numpy(np.asarray(value)) for key, value in golden("scores_gram").items()}


def network(recorded, images):
    """Maps of the five layers and the logits of the recorded network."""

    def conv(x, i):
        return conv2d(x, recorded[f"net__conv{i}_weight"], recorded[f"net__conv{i}_bias"], padding=1)

    first = conv(images.double(), 1)
    second = conv(avg_pool2d(relu(first), 2), 2)
    third = conv(avg_pool2d(relu(second), 2), 3)
    pooled = relu(third).mean(dim=(2, 3))
    logits = linear(pooled, recorded["net__fc_weight"], recorded["net__fc_bias"])
    return [first, relu(first), second, relu(second), third], logits


class RecordedNet(torch.nn.Module):
    """The recorded network as a model; a clamp is its last ReLU, so that the maps are the five recorded."""

    def __init__(self, recorded):
        super().__init__()
        self.recorded = recorded

    def forward(self, images):
        weights, x = self.recorded, images.double()
        for i in (1, 2, 3):
            x = conv2d(x, weights[f"net__conv{i}_weight"], weights[f"net__conv{i}_bias"], padding=1)
            x = avg_pool2d(relu(x), 2) if i < 3 else x.clamp_min(0)
        return linear(x.mean(dim=(2, 3)), weights["net__fc_weight"], weights["net__fc_bias"])


def batches(recorded, rows):
    """Batches of training images and their labels, to be read once."""
    return ((recorded["x_train"][part], recorded["y_train"][part]) for part in rows.split(BATCH))


def fit(recorded, rows, held=None, **options):
    """Gram fitted on training images of some rows, normalised by those of others."""
    held_out = None if held is None else batches(recorded, held)
    return fit_image_score("gram", RecordedNet(recorded), batches(recorded, rows), held_out, **options)


def test_the_normalizer_is_the_mean_deviation_of_predicted_classes(recorded):
    held, rest = held_out_rows(recorded)
    state = fit(recorded, rest, held)
    maps, logits = network(recorded, recorded["x_train"][held])
    deviations = layer_deviations(state, statistics_of(maps), logits.argmax(dim=1))
    np.testing.assert_allclose(state["normalizer"], deviations.mean(dim=0), rtol=1e-9)


def held_out_rows(recorded):
    """Row numbers of OpenOOD's held-out images, and of the others."""
    held = [
        (recorded["y_train"] == c).nonzero().squeeze(1)[places]
        for c, places in enumerate(recorded["openood__val_idx_within_class"])
    ]
    held_rows = torch.cat(held)
    rest = torch.arange(len(recorded["y_train"]))
    return held_rows, rest[~torch.isin(rest, held_rows)]


def test_recorded_network_is_rebuilt(recorded):
    maps, logits = network(recorded, recorded["x_test"])
    np.testing.assert_allclose(logits, recorded["logits_test"], atol=1e-5)
    for layer, values in enumerate(maps):
        expected = recorded[f"featmap{layer}_first4_test_images"]
        np.testing.assert_allclose(values[:4], expected, atol=1e-5)
    seen, statistics, sizes = model_statistics(RecordedNet(recorded), recorded["x_test"])
    np.testing.assert_allclose(seen, logits, atol=1e-12)
    np.testing.assert_allclose(statistics, statistics_of(maps), rtol=1e-9)
    assert sizes == SIZES


def test_confidence_matches_openood(recorded):
    held, rest = held_out_rows(recorded)
    state = fit(recorded, rest, held, classes="labels")
    np.testing.assert_allclose(
        state["normalizer"], recorded["openood__normalize_factors_per_layer"][0], rtol=1e-6
    )
    for split in ("test", "ood"):
        maps, logits = network(recorded, recorded[f"x_{split}"])
        np.testing.assert_allclose(
            gram_confidence(state, statistics_of(maps), logits), recorded[f"openood__conf_{split}"], rtol=1e-6
        )


@pytest.mark.parametrize("split", ["test", "ood"])
def test_deviations_match_the_definition(recorded, split):
    state = fit(recorded, torch.arange(200))
    maps, logits = network(recorded, recorded[f"x_{split}"])
    deviations = layer_deviations(state, statistics_of(maps), logits.argmax(dim=1))
    np.testing.assert_allclose(deviations, recorded[f"own__layer_deviations_{split}"], rtol=1e-8, atol=1e-12)
    total = recorded[f"own__neg_total_deviation_{split}"]
    confidence = torch.softmax(logits, dim=1).amax(dim=1)
    np.testing.assert_allclose(
        gram_confidence(state, statistics_of(maps), logits) * confidence, total, rtol=1e-8
    )


def test_statistics_are_row_sums_of_gram_matrices():
    maps = torch.randn(3, 4, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = layer_statistics(maps, powers=(1, 3)).reshape(3, 2, 4)
    for place, power in enumerate((1, 3)):
        flat = maps.flatten(2) ** power
        sums = (flat @ flat.transpose(1, 2)).sum(dim=2)
        np.testing.assert_allclose(found[:, place], sums.sign() * sums.abs() ** (1 / power))


def test_large_activations_do_not_overflow():
    maps = torch.rand(2, 4, 2, 5, generator=torch.Generator().manual_seed(0))
    for power in (5, 10):
        ordinary, large = (layer_statistics(scale * maps, powers=(power,)) for scale in (1, 1e6))
        torch.testing.assert_close(large, 1e12 * ordinary)
    assert torch.equal(layer_statistics(0 * maps, powers=(5,)), torch.zeros(2, 4))


def test_vectors_count_as_one_pixel():
    vectors = torch.tensor([[1.0, 2.0]])
    np.testing.assert_allclose(layer_statistics(vectors, powers=(1,)), [[3, 6]])


def test_training_images_have_no_deviation(recorded):
    state = fit(recorded, torch.arange(200))
    maps, _ = network(recorded, recorded["x_train"])
    assert not layer_deviations(state, statistics_of(maps), recorded["y_train"]).any()


def test_class_without_images_has_the_bounds_of_all(recorded):
    rows = (recorded["y_train"] != 3).nonzero().squeeze(1)
    state = fit(recorded, rows)
    lower, upper = state["lower"], state["upper"]
    assert torch.equal(lower[3], lower[torch.arange(10) != 3].amin(dim=0))
    assert torch.equal(upper[3], upper[torch.arange(10) != 3].amax(dim=0))


def test_bad_input_is_named(recorded):
    with pytest.raises(ValueError, match="classes: got 'truth', wanted one of 'predicted', 'labels'"):
        fit(recorded, torch.arange(200), classes="truth")
    with pytest.raises(ValueError, match="train: got no batch"):
        fit_image_score("gram", RecordedNet(recorded), [])
    with pytest.raises(ValueError, match="held_out: got no batch"):
        fit_image_score("gram", RecordedNet(recorded), batches(recorded, torch.arange(200)), [])
    state = fit(recorded, torch.arange(200))
    maps, logits = network(recorded, recorded["x_test"])
    with pytest.raises(ValueError, match="statistics: got 200 an image, wanted the 260"):
        gram_confidence(state, statistics_of(maps[:4]), logits)


class PlainNet(torch.nn.Sequential):
    """Convolutions followed by in-place ReLUs, which overwrite what the convolutions gave."""

    def __init__(self):
        conv, again = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3)
        rest = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
        super().__init__(conv, torch.nn.ReLU(inplace=True), again, torch.nn.ReLU(inplace=True), *rest)


def test_statistics_of_a_model_are_those_of_its_maps():
    torch.manual_seed(0)
    net, images = PlainNet(), torch.rand(6, 3, 8, 8)
    logits, statistics, sizes = model_statistics(net, images)
    first = net[0](images)
    second = net[2](first.relu())
    expected = statistics_of([first, first.relu(), second, second.relu()])
    np.testing.assert_allclose(statistics, expected.detach(), rtol=1e-5)
    assert torch.equal(logits, net(images))
    assert sizes == [20, 20, 25, 25]


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 37), ("timm/vit_tiny_patch16_224", 12)])
def test_backbones_have_maps(name, layers):
    model = build_model(
        ModelConfig(name=name, width=None if "timm" in name else 4), 10, 224 if "timm" in name else 32
    ).eval()
    images = torch.rand(2, 3, 224, 224) if "timm" in name else torch.rand(2, 3, 32, 32)
    logits, maps = forward_maps(model, images)
    assert logits.shape == (2, 10)
    assert len(maps) == layers


def test_a_model_without_maps_is_refused():
    with pytest.raises(ValueError, match="model: got no convolution"):
        forward_maps(torch.nn.Linear(3, 2), torch.rand(2, 3))
