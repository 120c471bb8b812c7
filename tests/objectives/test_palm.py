"""PALM against the values recorded from its authors' code, and on two ranks against one."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy, normalize

from rtk.config import ConfigError, load_config
from rtk.config.model import ModelConfig
from rtk.data.views.maker import View
from rtk.models import build_model
from rtk.models.heads import PROJECTED, ProjectionHead
from rtk.objectives import TERMS, Observed, TermSetup
from rtk.objectives.palm import PalmConfig, Prototypes, likelihood_losses, prototype_contrast, sinkhorn
from rtk.runtime.ranks import rank, world_size
from rtk.train.initial import initial_model
from tests.train.ranks import run_on_ranks

CLASSES = 5


def settings(data, nearest):
    names = {"temperature": "temp", "decay": "proto_m", "epsilon": "epsilon", "contrast": "lambda_pcon"}
    found = {name: float(data[f"hp_palm_{key}"]) for name, key in names.items()}
    return PalmConfig(weight=1, prototypes=int(data["hp_palm_cache_size"]), nearest=nearest, **found)


def prototypes(config, vectors):
    state = Prototypes(config, TermSetup(CLASSES, np.arange(4), torch.device("cpu")))
    state.vectors = torch.as_tensor(vectors).clone()
    return state


@pytest.mark.parametrize("nearest", [0, 2])
def test_steps_equal_the_recorded_ones(golden, nearest):
    """Losses, gradients and prototypes of three steps; the classifier's part is taken off."""
    data = golden("losses_more")
    config, key = settings(data, nearest), f"palm__k{nearest}"
    state = prototypes(config, data["palm__protos_start"])
    for step, features in enumerate(torch.from_numpy(data["palm__features_step_sample_view_dim"])):
        features.requires_grad_()
        labels = torch.from_numpy(data["palm__y"][step])
        flat = torch.cat([features[:, 0], features[:, 1]])
        shares = sinkhorn(flat.detach(), state.vectors, config.epsilon)
        np.testing.assert_allclose(shares, data[f"{key}__sinkhorn_Q_before_step"][step], rtol=0, atol=1e-7)
        logits = torch.zeros(*features.shape[:2], CLASSES, dtype=torch.float64)
        outputs = torch.cat([features, logits], dim=2)
        losses = TERMS["palm"].loss(outputs, View(torch.empty(0), labels), config, state)
        total = losses.mean() - np.log(CLASSES)
        parts = ("mle_loss_per_step", "lambda_times_proto_contra_per_step")
        wanted = sum(data[f"{key}__{part}"][step] for part in parts)
        np.testing.assert_allclose(total.item(), wanted, rtol=0, atol=1e-7)
        (gradient,) = torch.autograd.grad(total, features)
        np.testing.assert_allclose(gradient, data[f"{key}__grad_features_of_total"][step], rtol=0, atol=1e-7)
        state.update(Observed(torch.arange(len(labels)), outputs.detach(), labels))
        np.testing.assert_allclose(state.vectors, data[f"{key}__protos_after_step"][step], rtol=0, atol=1e-7)


def test_parts_equal_direct_formulas():
    torch.manual_seed(0)
    rows, z = (normalize(torch.randn(n, 4).double(), dim=1) for n in (6, 3))
    weights = torch.rand(3, 6).double()
    found = likelihood_losses(z, rows, weights, 0.1)
    for loss, x, w in zip(found, z, weights, strict=True):
        torch.testing.assert_close(loss, (10 * rows @ x).exp().sum().log() - w @ (10 * rows @ x))
    terms = []
    for r in range(6):
        others = [s for s in range(6) if s != r]
        spread = torch.stack([(2 * rows[r] @ rows[s]).exp() for s in others]).sum().log()
        near = torch.stack([2 * rows[r] @ rows[s] for s in others if s % 3 == r % 3]).mean()
        terms.append(spread - near)
    torch.testing.assert_close(prototype_contrast(rows, 3), torch.stack(terms).mean())


def batch():
    torch.manual_seed(0)
    z = normalize(torch.randn(8, 2, PROJECTED).double(), dim=2)
    return torch.cat([z, torch.randn(8, 2, CLASSES).double()], dim=2), torch.arange(8) % CLASSES


def share_of_a_step():
    """Mean loss over ranks, its gradient by all outputs, and prototypes, by this rank's share of a batch."""
    from rtk.runtime.ranks import gather_rows, mean_over_ranks_

    config = PalmConfig(weight=1, prototypes=3, nearest=2, decay=0.5)
    start = normalize(torch.randn(15, PROJECTED, generator=torch.Generator().manual_seed(1)).double(), dim=1)
    state, (outputs, labels) = prototypes(config, start), batch()
    own, targets = (part.chunk(world_size())[rank()] for part in (outputs, labels))
    own = own.clone().requires_grad_()
    loss = TERMS["palm"].loss(own, View(torch.empty(0), targets), config, state).mean()
    (gradient,) = torch.autograd.grad(loss / world_size(), own)
    mean = loss.detach().clone()
    mean_over_ranks_([mean])
    parts = [gather_rows(part.contiguous()) for part in (own.detach(), targets)]
    state.update(Observed(torch.arange(8), *parts))
    return mean, gather_rows(gradient), state.vectors


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path):
    for mine, whole in zip(run_on_ranks(2, share_of_a_step, folder=tmp_path), share_of_a_step(), strict=True):
        torch.testing.assert_close(mine, whole, rtol=0, atol=1e-12)


def test_the_classifier_is_fitted_to_features_that_it_does_not_shape():
    torch.manual_seed(0)
    head, features = ProjectionHead(10, 4).train(), torch.randn(6, 10, requires_grad=True)
    outputs = head(features)
    torch.testing.assert_close(outputs[:, :PROJECTED].norm(dim=1), torch.ones(6))
    cross_entropy(outputs[:, PROJECTED:], torch.arange(6) % 4).backward()
    assert not features.grad.any()
    assert head.weight.grad.any()
    torch.testing.assert_close(head.eval()(features), outputs[:, PROJECTED:])


def test_everything_else_sees_a_linear_head():
    model = build_model(ModelConfig(width=2, head="projection"), 4).eval()
    logits, features = model.forward_features(torch.rand(2, 3, 32, 32))
    weight, bias = model.head.used_weights()
    torch.testing.assert_close(features @ weight.T + bias, logits)


def test_a_classifier_can_be_fitted_after_training(tmp_path):
    """The backbone is taken over, and every parameter but those of a new linear head is frozen."""
    torch.manual_seed(0)
    trained = build_model(ModelConfig(width=2, head="projection"), 4).eval()
    save_file(trained.state_dict(), tmp_path / "palm.safetensors")
    changes = [
        f"model.weights={tmp_path}/palm.safetensors",
        "model.head_weights=new",
        "model.freeze_layers=9",
    ]
    config = load_config("digits_ce", [*changes, "model.width=2", "model.freeze_batchnorm=true"])
    model = initial_model(config, 4).train()
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning == ["head.weight", "head.bias"]
    images = torch.rand(3, 3, 32, 32)
    features = model.forward_features(images)[1]
    torch.testing.assert_close(features, trained.forward_features(images)[1])
    assert not torch.equal(model.head.weight, trained.head.weight)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("objective.palm.weight=1", "got linear, wanted projection for objective.palm"),
        ("model.head=projection", "got projection, wanted linear, .* for objective.cross_entropy"),
    ],
)
def test_head_and_terms_have_to_fit(key, named):
    with pytest.raises(ConfigError, match=f"model.head: {named}"):
        load_config("digits_ce", [key])
