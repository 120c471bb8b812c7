"""Several networks as one: a classifier whose backbone and head are all of theirs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from rtk.models.classifier import Classifier, build_model
from rtk.models.heads import EnsembleHead, SingleHead

if TYPE_CHECKING:
    from rtk.config.ensemble import Average, EnsembleConfig

AS_THEY_ARE = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # mean and std: each member normalises for itself


class JoinedBackbones(nn.Module):
    """The backbones of several classifiers, each behind its own normalisation."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList([member.backbone for member in members])
        for number, member in enumerate(members):
            # Constants of the config, as of a classifier.
            self.register_buffer(f"mean{number}", member.mean, persistent=False)
            self.register_buffer(f"std{number}", member.std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> the members' features side by side, (N, D)."""
        return torch.cat([member(self._normalised(images, n)) for n, member in enumerate(self.members)], 1)

    def _normalised(self, images: Tensor, number: int) -> Tensor:
        mean, std = self.get_buffer(f"mean{number}"), self.get_buffer(f"std{number}")
        return torch.addcmul(-mean / std, images, 1 / std)


def join_classifiers(members: Sequence[Classifier], average: Average = "softmax") -> Classifier:
    """One classifier of several: its logits are an average of theirs, its features all of theirs.

    It shares their weights.

    Args:
        members: classifiers of the same classes in the same order, in evaluation mode.
        average: see `rtk.models.heads.combine_logits`.
    """
    heads = [cast(SingleHead, member.head) for member in members]
    widths = [head.used_weights()[0].shape[1] for head in heads]
    head = EnsembleHead(heads, widths, average)
    return Classifier(JoinedBackbones(members), head, *AS_THEY_ARE)


def build_ensemble(config: EnsembleConfig, num_classes: int, image_size: int = 32) -> Classifier:
    """The ensemble that a config describes, with random weights; arguments as of `build_model`."""
    members = [build_model(member, num_classes, image_size) for member in config.members]
    return join_classifiers(members, config.average)
