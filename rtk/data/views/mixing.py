"""Mixup and CutMix on whole batches; PixMix and AugMix have files of their own.

All are deterministic functions of explicit draws. Where these come from is the caller's matter;
`rtk.data.views.draws` makes them a function of (seed, epoch, sample id).
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def mixup(images_a: Tensor, images_b: Tensor, lam: Tensor) -> Tensor:
    """Convex combination of two batches, `lam a + (1 - lam) b`.

    Source: mixup, Zhang et al., ICLR 2018, eq. 1; used as a regulariser beside the clean loss by RegMixup,
    Pinto et al., NeurIPS 2022.

    Args:
        images_a: `(N, ...)` float.
        images_b: `(N, ...)` float.
        lam: `(N,)` weight of the first image in [0, 1].

    Returns:
        `(N, ...)` float.

    Raises:
        ValueError: if the shapes do not match, a share is not in [0, 1], or the images are integers (these
            would wrap around).
    """
    _check_pair(images_a, images_b, lam)
    if not images_a.is_floating_point():
        raise ValueError(f"images_a: got {images_a.dtype}, wanted a float type")
    lam = lam.to(images_a.dtype).view(-1, *[1] * (images_a.ndim - 1))
    return lam * images_a + (1 - lam) * images_b


def mixup_targets(labels_a: Tensor, labels_b: Tensor, lam: Tensor, num_classes: int) -> Tensor:
    """Soft targets of mixed images: `lam` of one label and `1 - lam` of the other.

    Args:
        labels_a: `(N,)` int64 classes.
        labels_b: `(N,)` int64 classes.
        lam: `(N,)` weight of the first label in [0, 1].
        num_classes: number of classes C.

    Returns:
        `(N, C)` in the type of `lam`; rows sum to 1.

    Raises:
        ValueError: if the shapes do not match, or a share is not in [0, 1].
    """
    _check_pair(labels_a, labels_b, lam)
    one_hot_a, one_hot_b = (F.one_hot(labels, num_classes).to(lam.dtype) for labels in (labels_a, labels_b))
    return mixup(one_hot_a, one_hot_b, lam)


def openmix_targets(labels: Tensor, lam: Tensor, num_classes: int) -> Tensor:
    """Soft targets of images mixed with outliers: `lam` of the label, the rest of the last class.

    Cross-entropy against them is lam * CE(z, y) + (1 - lam) * CE(z, reject) (OpenMix, Zhu et al., CVPR 2023).

    Args:
        labels: `(N,)` int64 classes of the images.
        lam: `(N,)` share of the image in [0, 1].
        num_classes: number of classes C, the reject class included.

    Returns:
        `(N, C)` in the type of `lam`; rows sum to 1.

    Raises:
        ValueError: if a share is not in [0, 1].
    """
    return mixup_targets(labels, torch.full_like(labels, num_classes - 1), lam, num_classes)


def mixoe_targets(labels: Tensor, lam: Tensor, num_classes: int) -> Tensor:
    """Soft targets of images mixed with outliers: `lam` of the label, the rest spread over all classes.

    Source: MixOE, Zhang et al., WACV 2023, equation 2: the confidence falls with the outlier's share.

    Args:
        labels: `(N,)` int64 classes of the images.
        lam: `(N,)` share of the image in [0, 1].
        num_classes: number of classes C.

    Returns:
        `(N, C)` in the type of `lam`; rows sum to 1.

    Raises:
        ValueError: if a share is not in [0, 1].
    """
    _check_share(lam)
    one_hot = F.one_hot(labels, num_classes).to(lam.dtype)
    return one_hot * lam[:, None] + (1 - lam[:, None]) / num_classes


def cutmix(images_a: Tensor, images_b: Tensor, lam: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Paste a box of the second image into the first.

    Source: CutMix, Yun et al., ICCV 2019: a box of `1 - lam` of the area about a random centre, cut off
    at the border.

    Args:
        images_a: `(N, C, H, W)`.
        images_b: `(N, C, H, W)`.
        lam: `(N,)` share of the first image that is aimed at, in [0, 1].
        u: `(N, 2)` uniform draws: row and column of the centre of the box.

    Returns:
        The mixed images, and the share `(N,)` of the first image that is really left, for `mixup_targets`.

    Raises:
        ValueError: if the shapes do not match, or a share is not in [0, 1].
    """
    _check_pair(images_a, images_b, lam)
    if u.shape != (len(lam), 2):
        raise ValueError(f"u: got shape {tuple(u.shape)}, wanted {(len(lam), 2)}")
    side = (1 - lam).sqrt()
    rows, columns = (_interval(u[:, axis], side, images_a.shape[2 + axis]) for axis in (0, 1))
    box = rows[:, :, None] & columns[:, None, :]
    return torch.where(box.unsqueeze(1), images_b, images_a), 1 - box.to(lam.dtype).mean((1, 2))


def _interval(u: Tensor, share: Tensor, length: int) -> Tensor:
    """Mask `(N, length)` of a `share` of the length about the drawn centre, cut off at the ends."""
    centre, extent = (u * length).floor(), (share * length).floor()
    start, end = centre - (extent / 2).floor(), centre + (extent / 2).floor()
    position = torch.arange(length, device=u.device)
    return (position >= start[:, None]) & (position < end[:, None])


def _check_pair(a: Tensor, b: Tensor, lam: Tensor) -> None:
    if a.shape != b.shape or lam.shape != a.shape[:1]:
        raise ValueError(
            f"images, lam: got {tuple(a.shape)}, {tuple(b.shape)} and lam {tuple(lam.shape)}, "
            f"wanted two equal shapes (N, ...) and (N,)"
        )
    _check_share(lam)


def _check_share(lam: Tensor) -> None:
    """Raise ValueError unless all shares are in [0, 1]; those on another device are not waited for."""
    if lam.device.type == "cpu" and not ((lam >= 0) & (lam <= 1)).all():
        wrong = lam[~((lam >= 0) & (lam <= 1))][0].item()
        raise ValueError(f"lam: got {wrong:g}, wanted shares in [0, 1]")
