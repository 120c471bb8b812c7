"""RankFeat and AdaSCALE against what OpenOOD's code returned for the recorded maps and network."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, relu

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.parts import forward_changed, head_weights, last_stages, watched_features
from rtk.scores import SCORES, compute_image_score, fit_image_score
from rtk.scores.adascale import _statistic, shifted_features
from rtk.scores.logits import ROWS as LOGIT_ROWS
from rtk.scores.logits import energy
from rtk.scores.rankfeat import without_leading
from tests.scores.worlds import small_net

splits = pytest.mark.parametrize("split", ["test", "ood"])


@pytest.fixture(scope="module")
def recorded(golden):
    return {key: torch.from_numpy(np.asarray(value)) for key, value in golden("scores_more").items()}


class LastStages(nn.Module):
    """A network from a recorded map on, which stands for images: that of its third stage, or its last."""

    def __init__(self, recorded, convolves):
        super().__init__()
        self.layer3, self.layer4 = nn.Identity(), nn.Identity()
        if convolves:
            conv = nn.Conv2d(16, 64, 3, stride=2, padding=1)
            for name in ("weight", "bias"):
                getattr(conv, name).data = recorded[f"rankfeat__layer4_conv_{name}"]
            self.layer4 = nn.Sequential(conv, nn.ReLU())
        self.fc = nn.Linear(64, 20)
        self.fc.weight.data, self.fc.bias.data = recorded["fc_weight"], recorded["fc_bias"]

    def forward(self, maps):
        return self.fc(self.layer4(self.layer3(maps)).mean(dim=(2, 3)))


@splits
def test_rankfeat_matches_openood(recorded, split):
    logits = []
    for block, stages in ((3, "previous"), (4, "last")):
        net, maps = (
            LastStages(recorded, convolves=block == 3),
            recorded[f"rankfeat__block{block}_map__{split}"],
        )
        score = compute_image_score("rankfeat", net, maps, stages=stages)
        expected = recorded[f"own__rankfeat_block{block}_only__{split}"]
        np.testing.assert_allclose(score, expected, rtol=0, atol=2e-5)
        logits.append(forward_changed(net, maps, [getattr(net, f"layer{block}")], without_leading))
    both = energy(torch.stack(logits).mean(dim=0))
    np.testing.assert_allclose(both, recorded[f"openood__rankfeat__{split}"], rtol=0, atol=2e-5)


def test_rankfeat_of_both_stages_takes_the_mean_of_their_logits(recorded):
    net, maps = LastStages(recorded, convolves=True), recorded["rankfeat__block3_map__test"]
    logits = [forward_changed(net, maps, stages, without_leading) for stages in last_stages(net)]
    expected = 2 * energy(sum(logits) / 2 / 2)
    score = compute_image_score("rankfeat", net, maps, temperature=2.0)
    np.testing.assert_allclose(score, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 30, 2, 2), (4, 6, 8)])
def test_the_leading_component_is_that_of_an_svd(shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(values.flatten(2).double(), full_matrices=False)
    rest = (u[..., 1:] * s[:, None, 1:]) @ v[:, 1:]
    np.testing.assert_allclose(without_leading(values).flatten(2), rest, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"width": 4}),
        ("resnet110", {"width": 4}),
        ("wrn28_10", {"width": 4}),
        ("timm/test_resnet", {}),
        ("timm/test_efficientnet", {}),
        ("timm/test_vit", {}),
    ],
)
def test_networks_have_stages_and_a_head(name, options):
    """Two stages that change the logits; and the features that are watched give them."""
    torch.manual_seed(0)
    size = 160 if name == "timm/test_vit" else 32
    model = build_model(ModelConfig(name=name, **options), num_classes=5, image_size=size).eval()
    images = torch.rand(2, 3, size, size)
    with watched_features(model) as found, torch.no_grad():
        logits = model(images)
    weight, bias = head_weights(model)
    torch.testing.assert_close(found[0] @ weight.T + bias, logits)
    for stages in last_stages(model):
        assert not torch.equal(forward_changed(model, images, stages, without_leading), logits)
    with torch.no_grad():
        assert torch.equal(model(images), logits)  # no hook is left


def test_features_of_a_cosine_head_are_those_it_multiplies():
    model = build_model(ModelConfig(name="resnet18", width=4, head="cosine"), num_classes=5).eval()
    with watched_features(model) as found, torch.no_grad():
        logits = model(torch.rand(2, 3, 32, 32))
    weight, bias = head_weights(model)
    torch.testing.assert_close(found[0].norm(dim=1), torch.ones(2))
    torch.testing.assert_close(found[0] @ weight.T + bias, logits)


class RecordedNet(nn.Module):
    """The recorded network of AdaSCALE, in float64."""

    def __init__(self, recorded):
        super().__init__()
        self.recorded = recorded
        self.fc = nn.Linear(64, 10).double()
        self.fc.weight.data = recorded["adascale_net__fc_weight"]
        self.fc.bias.data = recorded["adascale_net__fc_bias"]

    def forward(self, images):
        x = images.double()
        for layer in ("c1", "c2"):
            weights = (self.recorded[f"adascale_net__{layer}_{name}"] for name in ("weight", "bias"))
            x = relu(conv2d(x, *weights, padding=1))
            x = avg_pool2d(x, 2) if layer == "c1" else x.mean(dim=(2, 3))
        return self.fc(x)


@pytest.fixture(scope="module")
def adascale(recorded):
    """The network, the settings of its steps, and the percentiles."""
    low, high = recorded["hp_adascale_percentile_min_max"].tolist()
    steps = {
        "k1": recorded["hp_adascale_k1_percent"].item(),
        "k2": recorded["hp_adascale_k2_percent"].item(),
        "shift_weight": recorded["hp_adascale_lambda"].item(),
        "pixels": recorded["hp_adascale_o"].item(),
        "epsilon": recorded["hp_adascale_epsilon"].item(),
    }
    return RecordedNet(recorded).eval(), steps, {"percentile_low": low, "percentile_high": high}


def batches(recorded):
    """Held-out images in batches of two sizes."""
    return [
        (part, torch.zeros(len(part), dtype=int)) for part in recorded["adascale__x_val"].double().split(37)
    ]


@splits
@pytest.mark.parametrize("variant", ["a", "l"])
def test_adascale_matches_openood(recorded, adascale, split, variant):
    net, steps, percentiles = adascale
    name = f"adascale_{variant}"
    tensors = fit_image_score(name, net, [], batches(recorded), **steps)
    np.testing.assert_allclose(tensors["statistic"], recorded["own__adascale_Q_statistic__val"], atol=1e-8)
    images = recorded[f"adascale__x_{split}"].double()
    score = compute_image_score(name, net, images, tensors, **steps, **percentiles)
    np.testing.assert_allclose(score, recorded[f"openood__{name}__{split}"], rtol=0, atol=1e-8)


@splits
def test_the_step_of_adascale_moves_what_hardly_matters(recorded, adascale, split):
    net, steps, _ = adascale
    images = recorded[f"adascale__x_{split}"].double()
    shifted = shifted_features(net, images, steps["pixels"], steps["epsilon"])
    with watched_features(net) as found, torch.no_grad():
        net(images)
        net(images + recorded[f"adascale__perturbed_minus_x__{split}"].double())
    torch.testing.assert_close(shifted.before, found[0])
    torch.testing.assert_close(shifted.after, found[1], atol=1e-5, rtol=0)  # the step is kept to 1e-6
    q = _statistic(shifted, steps["k1"], steps["k2"], steps["shift_weight"])
    np.testing.assert_allclose(q, recorded[f"own__adascale_Q_statistic__{split}"], rtol=0, atol=1e-8)


def test_the_step_of_adascale_is_one_of_normalised_images():
    """As in OpenOOD: half a standard deviation of a channel, wherever normalisation is done."""
    torch.manual_seed(0)
    std = (0.1, 0.2, 0.4)
    model = build_model(ModelConfig(name="resnet18", width=4, std=std), num_classes=5).eval()
    images, seen = torch.rand(3, 3, 32, 32), []
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    shifted_features(model, images, 0.05, 0.5)
    hook.remove()
    step = (seen[1] - images) / torch.tensor(std).view(1, 3, 1, 1)
    moved = step.abs() > 1e-6
    assert moved.flatten(1).sum(dim=1).tolist() == [int(0.05 * 3 * 32 * 32)] * 3
    torch.testing.assert_close(step.abs()[moved], torch.full_like(step[moved], 0.5))


@pytest.fixture(scope="module")
def pictures():
    model = small_net()
    return model, torch.rand(5, 3, 10, 10, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("score", [row.name for row in LOGIT_ROWS])
def test_augmentation_averages_any_score_of_the_logits(pictures, score):
    model, images = pictures
    with torch.no_grad():
        mirrored = [SCORES[score].score(model(view)) for view in (images, images.flip(3))]
    found = compute_image_score("tta", model, images, score=score)
    torch.testing.assert_close(found, sum(mirrored) / 2)


def test_shifted_views_repeat_the_edge(pictures):
    model, images = pictures
    rows = torch.tensor([0, 0, *range(8)]), torch.tensor([*range(2, 10), 9, 9])
    views = [images, *(images[:, :, row] for row in rows), *(images[..., row] for row in rows)]
    with torch.no_grad():
        shifted = sum(SCORES["msp"].score(model(view)) for view in views) / 5
        both = sum(SCORES["msp"].score(model(view.flip(3))) for view in views) / 10 + shifted / 2
    found = [compute_image_score("tta", model, images, views=views) for views in ("shift", "flip_shift")]
    torch.testing.assert_close(found, [shifted, both])


def test_dropout_takes_the_same_features_from_every_image(pictures):
    model, images = pictures
    rate, passes = 0.4, 3
    drawn = torch.rand(passes, 8, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        features = model[:-1](images)
        thinned = [model[-1](features * (row >= rate) / (1 - rate)) for row in drawn]
    expected = sum(SCORES["entropy"].score(logits) for logits in thinned) / passes
    settings = {"score": "entropy", "rate": rate, "passes": passes}
    found = compute_image_score("mc_dropout", model, images, seed=5, **settings)
    torch.testing.assert_close(found, expected)
    alone = [compute_image_score("mc_dropout", model, image[None], seed=5, **settings) for image in images]
    torch.testing.assert_close(torch.cat(alone), found)
    assert not torch.equal(compute_image_score("mc_dropout", model, images, seed=6, **settings), found)
    undropped = compute_image_score("mc_dropout", model, images, rate=0.0)
    torch.testing.assert_close(undropped, SCORES["msp"].score(model(images).detach()))


def test_only_scores_of_the_logits_are_averaged(pictures):
    with pytest.raises(ValueError, match="score: got 'knn', wanted one of msp, "):
        compute_image_score("mc_dropout", *pictures, score="knn")
