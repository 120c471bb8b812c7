"""A backbone of your own. In a recipe: `plugins: [my_backbone.py]` and `model.name: tiny_net`."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from rtk.models.backbones import Backbone, register


class TinyNet(nn.Module):
    """Three convolutions; rtk puts the normalisation before and the head behind.

    Args:
        width: channels of the first one, `model.width`.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = 4 * width  # the size of its features: rtk asks for it
        channels = (3, width, 2 * width, 4 * width)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
                for i, o in pairwise(channels)
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) -> features (N, D)."""
        features: Tensor = self.layers(images).mean(dim=(2, 3))
        return features

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Which layer a weight belongs to: for `model.freeze_layers` and `optimizer.layer_decay` alone."""
        return {"stem": r"^layers\.0", "blocks": r"^layers\.(\d+)"}


register(Backbone("tiny_net", TinyNet, width=32))
