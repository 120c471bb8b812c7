"""Scores by the smallest perturbation that an attack finds: DeepFool and FAB in the L-infinity norm.

A model in evaluation mode, from images to logits, and images (N, 3, H, W) in [0, 1] -> (N,), larger = more
trustworthy, in pixel units. The attacks start from the predicted class; rivals are the classes with the
next largest logits of the clean image.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rtk.models.batchnorm import fixed_running_statistics
from rtk.scores.hyperparameters import PositiveInt, UnitInterval
from rtk.scores.score import Score

Norm = Literal["linf", "l2"]

# FAB's constants: how far beyond the plane a step goes, the weight of the way back to the image, and how far
# it goes back after a success.
ETA, LARGEST_RETURN, BACKWARD = 1.05, 0.1, 0.9
# DeepFool leaves an image alone once a step adds less than this share to its perturbation: where the box cuts
# off part of every step, an image comes nearer and nearer to the boundary without ever crossing it.
SETTLED = 1e-5


def deepfool(
    model: nn.Module,
    images: Tensor,
    *,
    steps: PositiveInt = 50,
    overshoot: UnitInterval = 0.02,
    rivals: PositiveInt = 9,
    norm: Norm = "linf",
) -> Tensor:
    """Size of DeepFool's perturbation: steps to the nearest linearised boundary, L2-minimal each.

    An image whose prediction never changes has the size it got to, when `steps` are over or they add nothing.

    Args:
        model: from images to logits.
        images: (N, 3, H, W).
        steps: largest number of steps.
        overshoot: share by which every step goes further.
        rivals: number of other classes that are looked at.
        norm: of the perturbation: "linf", as RAT_MisD measures it, or "l2", which DeepFool minimises.

    Source: Moosavi-Dezfooli et al., "DeepFool: a simple and accurate method to fool deep neural networks",
    CVPR 2016 (arXiv 1511.04599); as torchattacks, every step is clipped to [0, 1].
    """
    moved, classes = images.detach().clone(), _contenders(model, images, rivals)
    rows = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        gaps, normals, unchanged = _boundaries(model, moved[rows], classes[rows])
        rows, gaps, normals = rows[unchanged], gaps[unchanged], normals[unchanged]
        # Where the gradient is zero no boundary is in sight: the image stays where it is.
        lengths = torch.linalg.vector_norm(normals, dim=2).clamp_min(1e-12)
        gap, normal, length = _pick((gaps / lengths).argmin(dim=1), gaps, normals, lengths)
        change = (gap / length).unsqueeze(1) * (normal / length.unsqueeze(1))
        before = moved[rows]
        moved[rows] = (before + (1 + overshoot) * change.view_as(before)).clamp(0, 1)
        rows = rows[_lengths(moved[rows] - before) > SETTLED * _lengths(moved[rows] - images[rows])]
        if len(rows) == 0:
            break
    return _lengths(moved - images, torch.inf if norm == "linf" else 2)


def fab(model: nn.Module, images: Tensor, *, steps: PositiveInt = 10, rivals: PositiveInt = 9) -> Tensor:
    """FAB's smallest L-infinity perturbation that changes the prediction; 1 where it finds none.

    Args:
        model: from images to logits.
        images: (N, 3, H, W).
        steps: number of them; 100 is the paper's, 10 RAT_MisD's.
        rivals: number of other classes that are looked at.

    Source: Croce & Hein, "Minimally distorted adversarial attacks with a fast adaptive boundary attack", ICML
    2020 (arXiv 1907.02044), algorithm 1, without restarts.
    """
    clean, shape = images.detach().flatten(1), images.shape
    classes, moved = _contenders(model, images, rivals), clean.clone()
    smallest = torch.ones_like(clean[:, 0])
    for _ in range(steps):
        gaps, normals, _ = _boundaries(model, moved.view(shape), classes)
        distances = gaps.abs() / normals.abs().sum(dim=2).clamp_min(1e-12)
        gap, normal = _pick(distances.argmin(dim=1), gaps, normals)
        # The plane is where normal . x = offset; the predicted class is ahead by `gap` here.
        offset = gap + (normal * moved).sum(dim=1)
        step, back = project_linf(moved, normal, offset), project_linf(clean, normal, offset)
        share = _return_share(step, back)
        moved = ((moved + ETA * step) * (1 - share) + (clean + ETA * back) * share).clamp(0, 1)
        changed = _has_changed(model, moved.view(shape), classes[:, 0])
        size = (moved - clean).abs().amax(dim=1)
        smallest = torch.where(changed, smallest.minimum(size), smallest)
        moved = torch.where(changed.unsqueeze(1), clean + BACKWARD * (moved - clean), moved)
    return smallest


def project_linf(points: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
    """Change (N, P), smallest in its largest entry, that brings points onto planes within the box [0, 1].

    Every pixel moves by t in its useful direction, or as far as the box lets it; t is where the moves add up
    to the distance. Where the plane misses the box, all pixels go to its side.

    Args:
        points: (N, P) in [0, 1].
        normals: w (N, P).
        offsets: b (N,), of the planes w . x = b.
    """
    missing = offsets - (normals * points).sum(dim=1)
    directions = normals.sign() * missing.sign().unsqueeze(1)
    room = torch.where(directions > 0, 1 - points, points)
    rooms, order = room.sort(dim=1)
    weights = normals.abs().gather(1, order)
    # With t at the k-th smallest room, pixels up to k contribute their rooms and the others t.
    beyond = weights.flip(1).cumsum(1).flip(1) - weights
    reached = (weights * rooms).cumsum(1) + rooms * beyond
    place = torch.searchsorted(reached, missing.abs().unsqueeze(1)).clamp_max(rooms.shape[1] - 1)
    at = place.squeeze(1), rooms.gather(1, place).squeeze(1), reached.gather(1, place).squeeze(1)
    slope = (beyond + weights).gather(1, place).squeeze(1).clamp_min(torch.finfo(points.dtype).tiny)
    size = (at[1] - (at[2] - missing.abs()).clamp_min(0) / slope).clamp_min(0)
    return directions * room.minimum(size.unsqueeze(1))


def _lengths(changes: Tensor, order: float = 2) -> Tensor:
    """Norm (N,) of changes (N, ...)."""
    return torch.linalg.vector_norm(changes.flatten(1), ord=order, dim=1)


def _return_share(step: Tensor, back: Tensor) -> Tensor:
    """Weight (N, 1) of the projection of the clean image against that of the current one."""
    own, clean = (change.abs().amax(dim=1, keepdim=True).clamp_min(1e-8) for change in (step, back))
    return (own / (own + clean)).clamp_max(LARGEST_RETURN)


def _contenders(model: nn.Module, images: Tensor, rivals: int) -> Tensor:
    """The predicted class and its rivals (N, 1 + rivals), fewer where there are fewer classes."""
    with torch.no_grad():
        logits = model(images)
    classes: Tensor = logits.topk(min(1 + rivals, logits.shape[1]), dim=1).indices
    return classes


def _boundaries(model: nn.Module, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Linearised boundaries between the first class and the R others.

    Returns:
        gaps (N, R), how far the first class is ahead; normals (N, R, P), the gradients of the others' lead;
        and whether the first class is still predicted (N,).
    """
    leaf = images.detach().requires_grad_(True)
    with torch.enable_grad(), fixed_running_statistics(model):
        logits = model(leaf)
        lead = logits.gather(1, classes[:, 1:]) - logits.gather(1, classes[:, :1])
        gradients = [torch.autograd.grad(c.sum(), leaf, retain_graph=True)[0] for c in lead.unbind(dim=1)]
    normals = torch.stack([gradient.flatten(1) for gradient in gradients], dim=1)
    return -lead.detach(), normals, logits.argmax(dim=1) == classes[:, 0]


def _has_changed(model: nn.Module, images: Tensor, predicted: Tensor) -> Tensor:
    with torch.no_grad():
        crossed: Tensor = model(images).argmax(dim=1) != predicted
    return crossed


def _pick(rival: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Entries of values (N, R, ...) for one rival (N,) each."""
    rows = torch.arange(len(rival), device=rival.device)
    return tuple(value[rows, rival] for value in values)


ROWS = (Score("deepfool", deepfool, inputs="images"), Score("fab", fab, inputs="images"))
