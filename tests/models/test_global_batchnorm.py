"""BatchNorm over the global batch on several ranks, against one process and the whole batch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.functional import cross_entropy

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.batchnorm import fixed_running_statistics
from rtk.models.global_batchnorm import check_layers, use_global_batch
from rtk.runtime.ranks import mean_over_ranks_, rank, sum_over_ranks, world_size
from tests.train.ranks import run_on_ranks

CASES = ("plain", "channels_last", "bf16", "far", "timm", "no affine", "fixed", "cumulative", "uneven", "1d")
TOLERANCE = {"bf16": 0.05, "far": 2e-4}


class OwnForward(nn.BatchNorm2d):
    """A layer that does something of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


def layer_of(case: str) -> nn.Module:
    if case == "timm":
        return BatchNormAct2d(5)
    kind = nn.BatchNorm1d if case == "1d" else nn.BatchNorm2d
    return kind(5, affine=case != "no affine", momentum=None if case == "cumulative" else 0.1)


def batch_of(case: str, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of both ranks, and the gradient that comes back; `far` from zero, where squares lose digits."""
    generator = torch.Generator().manual_seed(number)
    shape = (8, 5) if case == "1d" else (8, 5, 4, 3)
    images = torch.randn(shape, generator=generator, dtype=torch.float64) + 1000 * (case == "far")
    return images, torch.randn(shape, generator=generator, dtype=torch.float64)


def cut(case: str, tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part."""
    parts = [2, 6] if case == "uneven" and world_size() > 1 else [8 // world_size()] * world_size()
    part = tensor.split(parts)[rank()].to(torch.bfloat16 if case == "bf16" else torch.float32)
    return part.contiguous(memory_format=torch.channels_last) if case == "channels_last" else part


def outcome(layer: nn.Module, case: str, part) -> dict[str, torch.Tensor]:
    """Output, gradients and buffers after two batches, and the output in evaluation."""
    for number in range(2):
        images, gradient = (part(tensor) for tensor in batch_of(case, number))
        images = images.detach().requires_grad_(True)
        with fixed_running_statistics(layer) if case == "fixed" else torch.enable_grad():
            out = layer(images)
        out.backward(gradient)
    found = {"out": out.detach(), "images": images.grad, "evaluated": layer.eval()(images).detach()}
    found |= {name: parameter.grad for name, parameter in layer.named_parameters()}
    return found | dict(layer.named_buffers())


def on_rank(cases: tuple[str, ...]) -> dict[str, dict[str, torch.Tensor]]:
    """Outcomes of this rank, gradients of weights summed over the ranks."""
    results = {}
    for case in cases:
        layer = layer_of(case)
        use_global_batch(layer)
        found = outcome(copy.deepcopy(layer), case, lambda tensor, case=case: cut(case, tensor))
        for name, _ in layer.named_parameters():
            sum_over_ranks(found[name])
        results[case] = found
    assert dist.is_initialized()
    return results


def resnet_gradients() -> dict[str, torch.Tensor]:
    """Gradients of a small ResNet-18 with its ReLUs, in float64, averaged over the ranks; and its buffers."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(width=8), 5, 16).double().train()
    if world_size() > 1:
        use_global_batch(model)
    images = torch.rand(16, 3, 16, 16, dtype=torch.float64).chunk(world_size())[rank()]
    labels = torch.randint(5, (16,)).chunk(world_size())[rank()]
    cross_entropy(model(images), labels).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    mean_over_ranks_(list(gradients.values()))
    return gradients | dict(model.named_buffers())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_on_ranks(2, on_rank, CASES, folder=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_normalise_as_one_process_does(results, case):
    wanted = outcome(layer_of(case).double(), case, lambda tensor: tensor)
    tolerance = TOLERANCE.get(case, 1e-5)
    for name, value in results[case].items():
        whole = wanted[name].double()
        if name in ("out", "images", "evaluated"):
            whole = whole[: len(value)]
        torch.testing.assert_close(value.double(), whole, rtol=tolerance, atol=tolerance, msg=name)


def test_a_resnet_has_the_gradients_of_one_process(tmp_path):
    wanted, found = resnet_gradients(), run_on_ranks(2, resnet_gradients, folder=tmp_path)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_names_of_the_state_stay_and_evaluation_is_torchs_own():
    layer = nn.Sequential(nn.BatchNorm2d(3))
    before, names = layer.eval()(torch.ones(2, 3, 1, 1)), list(layer.state_dict())
    use_global_batch(layer)
    assert list(layer.state_dict()) == names
    assert torch.equal(layer(torch.ones(2, 3, 1, 1)), before)


def test_a_layer_with_a_forward_pass_of_its_own_is_refused():
    check_layers(nn.Sequential(nn.BatchNorm2d(3), BatchNormAct2d(3)))
    with pytest.raises(
        ValueError, match=r"model.batchnorm: got sync, but .*OwnForward has a forward .* local"
    ):
        use_global_batch(nn.Sequential(nn.BatchNorm2d(3), OwnForward(3)))
