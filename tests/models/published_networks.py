"""Networks of public projects in the small: their forward passes, under the names they give to tensors."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import normalize, relu


def conv(inputs, outputs, kernel=3, stride=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False, **options)


def settle(model, seed=0):
    """The model in evaluation mode with weights and BatchNorm statistics as after a training."""
    torch.manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.ndim == 1 and not name.endswith("cos_temp"):
            value.copy_(0.5 * torch.rand(value.shape) + (0.5 if name.endswith("running_var") else 0.0))
        elif value.ndim > 1 and name not in ("mean", "std"):
            value.copy_(torch.randn(value.shape) * (2 / value[0].numel()) ** 0.5)
    return model.eval()


# ---------------------------------------------------------------- SUREPlus, OpenOOD, pytorch-cifar


class CosineClassifier(nn.Module):
    """SUREPlus's `model/classifier.py`: a column a class, an unused bias, the temperature as a parameter."""

    def __init__(self, features, classes, temperature):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, classes))
        self.bias = nn.Parameter(torch.randn(classes))
        self.cos_temp = nn.Parameter(torch.full((1,), temperature), requires_grad=False)

    def forward(self, x):
        return self.cos_temp * normalize(x, dim=1) @ normalize(self.weight, dim=0)


class CifarBlock(nn.Module):
    """Basic block of SUREPlus's `resnet18.py` and OpenOOD's `resnet18_32x32.py`."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet-18 of both; `head` is `linear` or `classifier` (a cosine one) in SUREPlus, `fc` in OpenOOD."""

    def __init__(self, width, classes, head="fc", temperature=16.0):
        super().__init__()
        self.conv1, self.bn1 = conv(3, width), nn.BatchNorm2d(width)
        widths = [width, *(width * 2**stage for stage in range(4))]
        for stage, (inputs, outputs) in enumerate(pairwise(widths), start=1):
            first = CifarBlock(inputs, outputs, 1 if stage == 1 else 2)
            setattr(self, f"layer{stage}", nn.Sequential(first, CifarBlock(outputs, outputs, 1)))
        cosine = head == "classifier"
        made = (
            CosineClassifier(widths[-1], classes, temperature) if cosine else nn.Linear(widths[-1], classes)
        )
        self.head_name = head
        setattr(self, head, made)

    def forward(self, x):
        x = relu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return getattr(self, self.head_name)(x.mean((2, 3)))


class WideBlock(nn.Module):
    """Block of OpenOOD's and OpenMix's `wrn.py`."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, stride=stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs)
        self.convShortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride)

    def forward(self, x):
        active = relu(self.bn1(x))
        out = self.conv2(relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class WideStage(nn.Module):
    def __init__(self, blocks, inputs, outputs, stride):
        super().__init__()
        rest = [WideBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(WideBlock(inputs, outputs, stride), *rest)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-28 of both, of some width."""

    def __init__(self, width, classes):
        super().__init__()
        self.conv1 = conv(3, 16)
        self.block1 = WideStage(4, 16, width, 1)
        self.block2 = WideStage(4, width, 2 * width, 2)
        self.block3 = WideStage(4, 2 * width, 4 * width, 2)
        self.bn1, self.fc = nn.BatchNorm2d(4 * width), nn.Linear(4 * width, classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(relu(self.bn1(x)).mean((2, 3)))


# ---------------------------------------------------------------- pytorchcv; RAT trains its networks


class ConvBlock(nn.Module):
    """Convolution, BatchNorm, perhaps ReLU."""

    def __init__(self, inputs, outputs, kernel=3, stride=1, active=True):
        super().__init__()
        self.conv, self.bn, self.active = (
            conv(inputs, outputs, kernel, stride),
            nn.BatchNorm2d(outputs),
            active,
        )

    def forward(self, x):
        x = self.bn(self.conv(x))
        return relu(x) if self.active else x


class PreConvBlock(nn.Module):
    """BatchNorm, ReLU, convolution; gives what came before the convolution too."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inputs), conv(inputs, outputs, stride=stride)

    def forward(self, x):
        active = relu(self.bn(x))
        return self.conv(active), active


class Body(nn.Module):
    def __init__(self, *convolutions):
        super().__init__()
        for number, convolution in enumerate(convolutions, start=1):
            setattr(self, f"conv{number}", convolution)


class ResUnit(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = Body(ConvBlock(inputs, outputs, 3, stride), ConvBlock(outputs, outputs, active=False))
        if inputs != outputs or stride != 1:
            self.identity_conv = ConvBlock(inputs, outputs, 1, stride, active=False)

    def forward(self, x):
        identity = self.identity_conv(x) if hasattr(self, "identity_conv") else x
        return relu(self.body.conv2(self.body.conv1(x)) + identity)


class PreResUnit(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = Body(PreConvBlock(inputs, outputs, stride), PreConvBlock(outputs, outputs, 1))
        if inputs != outputs or stride != 1:
            self.identity_conv = conv(inputs, outputs, 1, stride)

    def forward(self, x):
        out, active = self.body.conv1(x)
        identity = self.identity_conv(active) if hasattr(self, "identity_conv") else x
        return self.body.conv2(out)[0] + identity


class PostActivation(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return relu(self.bn(x))


class InitBlock(nn.Module):
    """Stem of the ImageNet ResNets."""

    def __init__(self, outputs):
        super().__init__()
        self.conv, self.pool = ConvBlock(3, outputs, 7, 2), nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        return self.pool(self.conv(x))


class PytorchcvNet(nn.Module):
    """`features` and `output`, as all of pytorchcv's.

    Args:
        stem: first module, and its channels.
        unit: `ResUnit` or `PreResUnit`.
        blocks: units of every stage.
        widths: channels of every stage.
        classes: of the output.
    """

    def __init__(self, stem, unit, blocks, widths, classes):
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("init_block", stem[0])
        for stage, (inputs, outputs) in enumerate(pairwise([stem[1], *widths]), start=1):
            units = nn.Sequential()
            for number in range(1, blocks + 1):
                strides = stage > 1 and number == 1
                units.add_module(
                    f"unit{number}", unit(inputs if number == 1 else outputs, outputs, 1 + strides)
                )
            self.features.add_module(f"stage{stage}", units)
        if unit is PreResUnit:
            self.features.add_module("post_activ", PostActivation(widths[-1]))
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, x):
        return self.output(self.features(x).mean((2, 3)))


def pytorchcv_resnet110(width, classes):
    """`resnet110_cifar10` and such, of another width."""
    return PytorchcvNet((ConvBlock(3, width), width), ResUnit, 18, [width, 2 * width, 4 * width], classes)


def pytorchcv_wrn28(width, classes):
    """`wrn28_10_cifar10` and such, of another width."""
    return PytorchcvNet((conv(3, 16), 16), PreResUnit, 4, [width, 2 * width, 4 * width], classes)


def pytorchcv_resnet18(classes):
    """`resnet18`, for ImageNet."""
    return PytorchcvNet((InitBlock(64), 64), ResUnit, 2, [64, 128, 256, 512], classes)


class RadTrainer(nn.Module):
    """RAT's Lightning module: a network behind its normalisation."""

    def __init__(self, backbone, mean, std):
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x):
        return self.backbone((x - self.mean) / self.std)
