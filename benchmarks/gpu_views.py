"""Part d of `gpu.py`: the clean, mixed and PixMix views, made on the device and on the host."""

from __future__ import annotations

import numpy as np
import torch
from gpu_steps import Settings, seconds
from torch import Tensor

from rtk.data.views.augment import crop_flip, to_float
from rtk.data.views.mixing import mixup, mixup_targets
from rtk.data.views.pixmix import draw_pixmix, pixmix, pixmix_draw_count


def pixmix_inputs(batch: int, side: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Random clean images and mixing pictures, uint8, and uniform draws."""
    generator = np.random.default_rng(0)
    shape = (2, batch, 3, side, side)
    clean, pictures = torch.from_numpy(generator.integers(0, 256, shape, dtype=np.uint8))
    return clean, pictures, generator.random((batch, pixmix_draw_count(4)))


def measure_views(settings: Settings) -> bool:
    """Print images/s of all three views, from decoded pictures that are where they are made."""
    for side, batch in ((32, 64), (64, 8)) if settings.small else ((32, 1024), (224, 128)):
        host = _views_per_second("cpu", side, batch, settings.seconds / 4)
        device = host if settings.small else _views_per_second("cuda", side, batch, settings.seconds / 4)
        threads = torch.get_num_threads()
        print(
            f"d  views, {side} px: {device:.0f} images/s on {settings.device}, {host:.0f} on the host's "
            f"{threads} threads, ratio {device / host:.2f}",
            flush=True,
        )
    return True


def _views_per_second(device: str, side: int, batch: int, budget: float) -> float:
    clean, pictures, draws = pixmix_inputs(batch, side)
    images, pictures = clean.to(device), pictures.to(device)
    labels, generator = torch.arange(batch, device=device) % 10, np.random.default_rng(1)
    lam = torch.from_numpy(generator.beta(10, 10, batch)).float().to(device)

    def make() -> None:
        cropped = crop_flip(images, generator.random((batch, 3)), side // 8, True)
        mixup(to_float(cropped), to_float(cropped.flip(0)), lam)
        mixup_targets(labels, labels.flip(0), lam, 10)
        pixmix(cropped, pictures, draw_pixmix(draws, 3, 3, 4))

    return batch / seconds(make, device, budget)
