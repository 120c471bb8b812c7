"""ResNet-18 with the CIFAR stem: 3x3 stride-1 first convolution, no max-pooling (He et al. 2016)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import relu


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; a 1x1 convolution carries it across a change of shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        out = relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return relu(out + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    """Backbone of four stages of two blocks; `width` channels in the first, doubled at each stage.

    Attributes:
        num_features: size of the feature vector, 8 * width.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.num_features = 8 * width
        self.conv1 = _conv(3, width)
        self.bn1 = nn.BatchNorm2d(width)
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(BasicBlock(inputs, outputs, 1 + (stage > 0)), BasicBlock(outputs, outputs, 1))
                for stage, (inputs, outputs) in enumerate(pairwise(channels))
            )
        )
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> features (N, 8 * width), the spatial mean of the last map."""
        out = relu(self.bn1(self.conv1(x)), inplace=True)
        return torch.mean(self.stages(out), dim=(2, 3))
