"""CRL against the values recorded from its authors' code, and in cases by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from rtk.data.views.maker import View
from rtk.objectives import Observed, TermSetup
from rtk.objectives.crl import CorrectnessHistory, CrlConfig, crl_confidence, pair_losses, ranking_losses
from rtk.objectives.cross_entropy import soft_cross_entropy

NAMES = {"softmax": "msp", "entropy": "entropy", "margin": "margin"}


def history(ids, steps_per_epoch=1, **settings):
    return CorrectnessHistory(
        CrlConfig(**settings), TermSetup(3, np.array(ids), torch.device("cpu"), steps_per_epoch)
    )


def seen(state, right, ids):
    """Count a step in which the images were predicted right or wrong."""
    logits = torch.tensor([[1.0, 0, 0] if hit else [0, 1.0, 0] for hit in right])
    state.update(Observed(torch.tensor(ids), logits, torch.zeros(len(ids), dtype=torch.long)))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_equals_the_recorded_one(golden, name):
    """Four epochs of the authors' own loop: counts, losses and parameters."""
    data = golden("losses_more")
    net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 7)).double()
    net.load_state_dict(
        {k: torch.from_numpy(data[f"crl__init_param__{k.replace('.', '_')}"]) for k in net.state_dict()}
    )
    lr, momentum, decay, weight = (
        float(data[f"hp_crl_{key}"]) for key in ("lr", "momentum", "weight_decay", "rank_weight")
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    x, y, batches = (torch.from_numpy(data[f"crl__{key}"]) for key in ("x", "y", "batch_idx_epoch_step_pos"))
    config, steps = CrlConfig(confidence=NAMES[name]), batches.shape[1]
    state = history(range(len(x)), steps)
    # The authors divide the entropy by ln 10, whatever the number of classes.
    scale = math.log(7) / 2.302585 if name == "entropy" else 1.0
    recorded = {key: data[f"daintlab__crl_{name}__{key}"] for key in RECORDED}
    for step, ids in enumerate(batches.flatten(0, 1)):
        np.testing.assert_array_equal(state.right, recorded["counts_before_step"][step])
        logits = net(x[ids])
        share = state.share(ids)
        margin = (share - share.roll(-1)).abs()
        np.testing.assert_allclose(margin, recorded["margin_per_step"][step], rtol=0, atol=1e-7)
        if scale == 1.0:
            ranking = ranking_losses(logits, View(x[ids], y[ids], ids), config, state).mean()
        else:
            ring = torch.arange(len(ids) + 1) % len(ids)
            confidence = scale * crl_confidence(logits, config.confidence)
            ranking = pair_losses(confidence[ring], share[ring]).mean()
        ce = soft_cross_entropy(logits, y[ids]).mean()
        for loss, key in ((ranking, "rank_loss_per_step"), (ce, "ce_loss_per_step")):
            np.testing.assert_allclose(loss.item(), recorded[key][step], rtol=0, atol=1e-7)
        optimizer.zero_grad()
        (ce + weight * ranking).backward()
        optimizer.step()
        state.update(Observed(ids, logits.detach(), y[ids]))
        if (step + 1) % steps == 0:
            epoch = (step + 1) // steps
            parameters = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
            wanted = recorded["params_after_epoch"][epoch]
            np.testing.assert_allclose(parameters, wanted, rtol=0, atol=1e-10)
            np.testing.assert_array_equal(state.right, recorded["counts_after_epoch"][epoch - 1])


RECORDED = (
    *("counts_before_step", "counts_after_epoch", "margin_per_step", "rank_loss_per_step"),
    *("ce_loss_per_step", "params_after_epoch"),
)


def test_the_gradient_equals_that_of_sures_code(golden):
    data = golden("losses_more")
    y, batches = (torch.from_numpy(data[f"crl__{key}"]) for key in ("y", "batch_idx_epoch_step_pos"))
    state = history(range(len(y)), batches.shape[1])
    recorded = torch.from_numpy(data["daintlab__crl_softmax__logits_per_step"])
    for step, ids in enumerate(batches.flatten(0, 1)):
        logits = recorded[step].clone().requires_grad_()
        loss = ranking_losses(logits, View(logits, y[ids], ids), CrlConfig(), state).mean()
        (gradient,) = torch.autograd.grad(loss, logits)
        np.testing.assert_allclose(loss.item(), data["sureplus__crl_rank_loss_per_step"][step], atol=1e-7)
        np.testing.assert_allclose(gradient, data["sureplus__crl_grad_logits_per_step"][step], atol=1e-7)
        state.update(Observed(ids, recorded[step], y[ids]))
    np.testing.assert_array_equal(state.right, data["sureplus__crl_counts_end"])


def test_shares_by_hand():
    """Ids in any order; the least count of all images is 0, the most is the number of whole epochs."""
    state = history([30, 10, 20], steps_per_epoch=2)
    for right in ([True, True], [True, False], [True, True], [True, False]):
        seen(state, right, [20, 30])
    assert state.tensors()["right"].tolist() == [0, 4, 2]
    torch.testing.assert_close(state.share(torch.tensor([10, 20, 30])), torch.tensor([0, 2, 1]).double())
    paper = history([30, 10, 20], history="proportion")
    for right in ([True, True], [True, False], [True, True], [True, False]):
        seen(paper, right, [20, 30])
    torch.testing.assert_close(paper.share(torch.tensor([10, 20, 30])), torch.tensor([0, 1, 0.5]).double())


def test_images_that_were_all_right_in_the_first_epoch_are_not_ranked():
    """Where the published code divides 0 by 0."""
    state = history([1, 2, 3])
    seen(state, [True] * 3, [1, 2, 3])
    ids = torch.tensor([1, 2, 3])
    losses = ranking_losses(torch.randn(3, 3), View(torch.zeros(3), ids * 0, ids), CrlConfig(), state)
    assert losses.tolist() == [0, 0, 0]


def test_pair_losses_by_hand():
    """The margin is missing from 0.9 over 0.6; the second pair stands the wrong way; the third is even."""
    confidence, share = torch.tensor([0.9, 0.6, 0.8, 0.1]), torch.tensor([1.0, 0.5, 0.25, 0.25])
    torch.testing.assert_close(pair_losses(confidence, share), torch.tensor([0.2, 0.45, 0.0]))
