"""efficientnet_pytorch's networks: their forward passes, under the names it gives to tensors."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import pad


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's `same` padding: the odd pixel at the end."""

    def forward(self, x):
        sides = []
        for size in (x.shape[-1], x.shape[-2]):
            need = max(
                (math.ceil(size / self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - size, 0
            )
            sides += [need // 2, need - need // 2]
        return super().forward(pad(x, sides))


def same(inputs, outputs, kernel=1, stride=1, groups=1, bias=False):
    return SameConv(inputs, outputs, kernel, stride, groups=groups, bias=bias)


def norm(channels):
    return nn.BatchNorm2d(channels, eps=1e-3)


class MBConv(nn.Module):
    """Block of efficientnet_pytorch's `model.py`; lite ones have ReLU6 and no squeeze."""

    def __init__(self, inputs, outputs, kernel, stride, expand, lite):
        super().__init__()
        wide = inputs * expand
        self.act, self.skips = relu6 if lite else nn.functional.silu, stride == 1 and inputs == outputs
        if expand > 1:
            self._expand_conv, self._bn0 = same(inputs, wide), norm(wide)
        self._depthwise_conv, self._bn1 = same(wide, wide, kernel, stride, groups=wide), norm(wide)
        if not lite:
            squeezed = max(1, inputs // 4)
            self._se_reduce = same(wide, squeezed, bias=True)
            self._se_expand = same(squeezed, wide, bias=True)
        self._project_conv, self._bn2 = same(wide, outputs), norm(outputs)

    def forward(self, x):
        out = self.act(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        out = self.act(self._bn1(self._depthwise_conv(out)))
        if hasattr(self, "_se_reduce"):
            squeezed = self._se_expand(self.act(self._se_reduce(out.mean((2, 3), keepdim=True))))
            out = torch.sigmoid(squeezed) * out
        out = self._bn2(self._project_conv(out))
        return out + x if self.skips else out


def relu6(x):
    return x.clamp(0, 6)


# Of B0 and Lite0: repeats, kernel, stride, expansion, channels (Tan & Le 2019, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNet(nn.Module):
    """B0, or Lite0."""

    def __init__(self, classes, lite):
        super().__init__()
        self.act = relu6 if lite else nn.functional.silu
        self._conv_stem, self._bn0 = same(3, 32, 3, 2), norm(32)
        self._blocks, inputs = nn.ModuleList(), 32
        for repeats, kernel, stride, expand, outputs in STAGES:
            for number in range(repeats):
                step = stride if number == 0 else 1
                self._blocks.append(MBConv(inputs, outputs, kernel, step, expand, lite))
                inputs = outputs
        self._conv_head, self._bn1 = same(320, 1280), norm(1280)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x):
        x = self.act(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return self._fc(self.act(self._bn1(self._conv_head(x))).mean((2, 3)))
