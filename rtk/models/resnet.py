"""ResNets with the CIFAR stem: 3x3 stride-1 first convolution, no max-pooling (He et al. 2016)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size of the map, up to its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def initialise_convolutions(model: nn.Module) -> None:
    """Draw every convolution's weights from He's normal law over its outputs."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; a 1x1 convolution carries it across a change of shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        out = relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return relu(out + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """Backbone of stages of basic blocks; the number of channels doubles at each stage.

    Args:
        blocks: number of blocks of every stage: (2, 2, 2, 2) is ResNet-18, (18, 18, 18) ResNet-110.
        width: channels of the first stage, as published 64 and 16.

    Attributes:
        num_features: size of the feature vector.
    """

    def __init__(self, blocks: tuple[int, ...], width: int) -> None:
        super().__init__()
        channels = [width, *(width * 2**stage for stage in range(len(blocks)))]
        self.num_features = channels[-1]
        self.conv1 = conv(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = nn.Sequential(
            *(
                _stage(inputs, outputs, count, 1 + (stage > 0))
                for stage, (count, (inputs, outputs)) in enumerate(
                    zip(blocks, pairwise(channels), strict=True)
                )
            )
        )
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> features (N, num_features), the spatial mean of the last map."""
        out = relu(self.bn1(self.conv1(x)), inplace=True)
        return torch.mean(self.stages(out), dim=(2, 3))

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Layers by name, in timm's form: the stem, then every block."""
        return {"stem": r"^conv1|^bn1", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
