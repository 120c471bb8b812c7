"""How often a step waits for the device: each number that the host reads lets it run dry."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from rtk.optim import EfficientSam, LookSam, MomentumSam, SharpnessAware
from rtk.train.agreement import agree

READS = ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__")


@pytest.fixture
def reads(monkeypatch) -> Counter[str]:
    """Numbers that were read of tensors, by how."""
    found: Counter[str] = Counter()

    def counted(name: str) -> None:
        own = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda *given: found.update([name]) or own(*given))

    for name in READS:
        counted(name)
    return found


def optimizer_of(variant: str, base: torch.optim.Optimizer) -> SharpnessAware:
    kinds = {"looksam": LookSam, "msam": MomentumSam, "esam": EfficientSam}
    if variant in kinds:
        return kinds[variant](base, rho=0.1)
    return SharpnessAware(base, variant, rho=0.1)


@pytest.mark.parametrize(
    ("variant", "wanted"), [("sam", 1), ("asam", 1), ("fsam", 1), ("msam", 1), ("esam", 1), ("looksam", 2)]
)
def test_a_step_reads_its_norm_once(variant, wanted, reads):
    """LookSAM reads how much of the second gradient lies along the first too."""
    net, images = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), torch.rand(8, 5)
    optimizer = optimizer_of(variant, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    for _ in range(2):  # with what is kept between steps
        reads.clear()
        net(images).square().sum().backward()
        with optimizer.first_pass():
            pass
        if optimizer.ascends_at(0):
            with optimizer.ascended():
                net(images).square().sum().backward()
        optimizer.before_step()
        optimizer.base.step()
        optimizer.steps = 0
    assert reads.total() == wanted


def test_losses_and_requests_are_read_at_once_and_when_they_are_wanted(reads):
    losses = {name: torch.rand(()) for name in ("cross_entropy", "regmixup", "cross_entropy at w + e")}
    agreement = agree(losses, ["cross_entropy"], [torch.rand(3)], asked=1)
    assert not reads
    agreement.read()
    assert reads.total() == 1
