import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import nn

from rtk.config.load import build_config
from rtk.data.views.maker import View
from rtk.objectives import active_terms
from rtk.objectives.augmix import jensen_shannon
from rtk.objectives.objective import compute_losses


def test_two_versions_equal_scipy():
    logits = torch.randn(6, 2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(-1).numpy()
    wanted = [jensenshannon(one, other) ** 2 for one, other in p]
    torch.testing.assert_close(jensen_shannon(logits), torch.tensor(wanted))


def test_bounds_and_gradient():
    alike = torch.randn(4, 1, 5).expand(4, 3, 5)
    torch.testing.assert_close(jensen_shannon(alike), torch.zeros(4), rtol=0, atol=1e-6)
    apart = 200 * torch.eye(3)[None].requires_grad_()
    loss = jensen_shannon(apart)
    assert loss.item() == pytest.approx(math.log(3))
    (gradient,) = torch.autograd.grad(loss, apart)
    assert gradient.isfinite().all()
    logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(jensen_shannon, logits)


def test_the_term_compares_the_versions_of_each_image():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    tree = {"augmix": {"weight": 12.0}}
    terms = active_terms(build_config({"data": {"train": "unused"}, "objective": tree}).objective)
    images = torch.rand(6, 3, 3, 2, 2)
    labels = torch.zeros(6, dtype=torch.long)
    views = {"clean": View(images[:, 0], labels), "augmix": View(images, labels)}
    wanted = jensen_shannon(torch.stack([model(images[:, version]) for version in range(3)], 1))
    for concatenate in (False, True):
        passes = compute_losses(model, views, terms, concatenate=concatenate)
        losses = {term.name: loss for together in passes for term, loss in together}
        torch.testing.assert_close(losses["augmix"], wanted)
