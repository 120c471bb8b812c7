"""Wide ResNet with the CIFAR stem (Zagoruyko & Komodakis 2016): pre-activation blocks, three wide stages."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rtk.models.resnet import conv, initialise_convolutions


class PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each of two 3x3 convolutions, and before a shortcut of another shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs)
        self.shortcut = None if inputs == outputs and stride == 1 else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        activated = relu(self.bn1(x))
        out = self.conv2(relu(self.bn2(self.conv1(activated)), inplace=True))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """Backbone of three stages of (depth - 4) / 6 blocks.

    Args:
        depth: 28 for WRN-28-10.
        width: channels of the first stage, 16 times the widening factor: 160 for WRN-28-10.

    Attributes:
        num_features: size of the feature vector, 4 * width.
    """

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.num_features = 4 * width
        self.conv1 = conv(3, 16)
        blocks, channels = (depth - 4) // 6, [16, width, 2 * width, 4 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    PreActivationBlock(inputs, outputs, 1 + (stage > 0)),
                    *(PreActivationBlock(outputs, outputs, 1) for _ in range(blocks - 1)),
                )
                for stage, (inputs, outputs) in enumerate(pairwise(channels))
            )
        )
        self.bn1 = nn.BatchNorm2d(self.num_features)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (N, 3, H, W) -> features (N, 4 * width), the spatial mean of the last map."""
        return torch.mean(relu(self.bn1(self.stages(self.conv1(x))), inplace=True), dim=(2, 3))

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Layers by name, in timm's form: the stem, then every block; the last BatchNorm is on top."""
        return {"stem": r"^conv1", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}
