"""The DINOv3 of `golden/dinov3_meta.npz`: its weights under Meta's names, and rtk's model for them."""

import numpy as np
import torch

from rtk.models import Classifier
from rtk.models.backbones import keep_rope_periods
from rtk.models.heads import CosineHead, LinearHead

WIDTH, CLASSES = 192, 5


def meta_state(data: np.lib.npyio.NpzFile) -> dict[str, torch.Tensor]:
    return {key.removeprefix("sd/"): torch.from_numpy(data[key]) for key in data if key.startswith("sd/")}


def recorded_model(qkv_bias: bool = True, cosine: bool = False) -> Classifier:
    """Two blocks of width 192; the recorded input is already normalised."""
    import timm

    torch.manual_seed(0)
    name = "vit_tiny_patch16_dinov3_qkvb"
    options = {"num_classes": 0, "global_pool": "token", "qkv_bias": qkv_bias}
    backbone = timm.create_model(name, depth=2, **options)
    keep_rope_periods(backbone)
    head = CosineHead(WIDTH, CLASSES) if cosine else LinearHead(WIDTH, CLASSES)
    return Classifier(backbone, head, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval()
