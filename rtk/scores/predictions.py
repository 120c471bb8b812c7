"""The shapes that scores work on: what a model said, and what scores are fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about N images.

    ```python
    import torch
    from rtk.scores import Predictions, compute_score

    logits, features = torch.tensor([[2.0, 0.0], [0.1, 0.0]]), torch.ones(2, 3)
    confidence = compute_score("msp", Predictions(logits, features))
    ```

    Attributes:
        logits: (N, C) float32 or float64, C >= 2.
        features: (N, D) float32 or float64, what the linear head multiplies.
        labels: (N,) int64, any value for images of no known class; None where they are not known. Scores look
            at the labels of what they are fitted on, never at those of what they score.
        image_scores: (N,) by name, scores that ran the model on the images when these were predicted.

    Raises:
        ValueError: a shape or dtype is another, or there is no image.
    """

    logits: Tensor
    features: Tensor
    labels: Tensor | None = None
    image_scores: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_matrix("logits", self.logits, min_columns=2)
        _require_matrix("features", self.features, min_columns=1)
        n = len(self.logits)
        if len(self.features) != n:
            raise ValueError(
                f"features: got {len(self.features)} rows, wanted {n}, one for each row of logits"
            )
        if self.labels is not None and (self.labels.shape != (n,) or self.labels.dtype != torch.int64):
            got = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise ValueError(f"labels: got {got}, wanted torch.int64 of shape ({n},)")
        for name, values in self.image_scores.items():
            if values.shape != (n,):
                raise ValueError(f"image_scores.{name}: got shape {tuple(values.shape)}, wanted ({n},)")

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def known_labels(self) -> Tensor:
        """The labels.

        Raises:
            ValueError: they are not known.
        """
        if self.labels is None:
            raise ValueError("labels: got None, wanted those of the images, torch.int64 of shape (N,)")
        return self.labels

    @property
    def width(self) -> tuple[int, int]:
        """Classes C and feature dimensions D."""
        return self.logits.shape[1], self.features.shape[1]

    def split(self, size: int) -> Iterator[Predictions]:
        """Consecutive parts of at most `size` images, as views."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            scores = {name: values[rows] for name, values in self.image_scores.items()}
            labels = None if self.labels is None else self.labels[rows]
            yield Predictions(self.logits[rows], self.features[rows], labels, scores)


@dataclass(frozen=True, eq=False)
class FitData:
    """What scores are fitted on; the images are not augmented.

    Attributes:
        train: predictions of the training images.
        validation: predictions of labelled in-distribution images that were not trained on.
        weight: (C, D) of the linear head, logits = features weightᵀ + bias.
        bias: (C,).
        members: of an ensemble, weight (C, D_m) and bias (C,) of each head; their features stand side
            by side, D is the sum of the D_m.

    Raises:
        ValueError: shapes do not fit together, labels are not known, or one is not in 0..C-1.
    """

    train: Predictions
    validation: Predictions
    weight: Tensor
    bias: Tensor
    members: tuple[tuple[Tensor, Tensor], ...] = ()

    def __post_init__(self) -> None:
        wanted = self.train.width
        if self.validation.width != wanted:
            got = self.validation.width
            raise ValueError(f"validation: got (classes, features) = {got}, wanted {wanted} as in train")
        if tuple(self.weight.shape) != wanted:
            raise ValueError(f"weight: got shape {tuple(self.weight.shape)}, wanted (C, D) = {wanted}")
        if tuple(self.bias.shape) != wanted[:1]:
            raise ValueError(f"bias: got shape {tuple(self.bias.shape)}, wanted (C,) = ({wanted[0]},)")
        widths = [weight.shape[1] for weight, _ in self.members]
        if self.members and sum(widths) != wanted[1]:
            raise ValueError(f"members: got features of {widths}, wanted {wanted[1]} in sum")
        _require_classes("train", self.train)
        _require_classes("validation", self.validation)


def _require_matrix(name: str, values: Tensor, min_columns: int) -> None:
    if values.ndim != 2 or len(values) == 0 or values.shape[1] < min_columns:
        wanted = f"two dimensions with at least one row and {min_columns} column(s)"
        raise ValueError(f"{name}: got shape {tuple(values.shape)}, wanted {wanted}")
    # Half precision ties the most confident images with each other, and CPUs lack half of the operations.
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: got {values.dtype}, wanted torch.float32 or torch.float64")


def _require_classes(name: str, predictions: Predictions) -> None:
    if predictions.labels is None:
        raise ValueError(f"{name}.labels: got None, wanted those that scores are fitted on")
    low, high = int(predictions.labels.min()), int(predictions.labels.max())
    classes = predictions.width[0]
    if low < 0 or high >= classes:
        raise ValueError(f"{name}.labels: got values {low}..{high}, wanted 0..{classes - 1}")
