"""PALM: features near the prototypes of their class, of which every class has several.

Lu et al., ICLR 2024 (arXiv 2402.02653), with their code. Projected features z lie on the unit sphere, and so
do the prototypes P of every class. A step assigns the features of a batch to the prototypes of their class
(Sinkhorn), moves these by what is assigned to them, and lowers

- -log of the likelihood of each z under the mixture of its class, among the prototypes of all classes, and
- a contrast of the prototypes: near those of their own class, far from others. Its gradient reaches the
  features through the step's move of the prototypes.

The linear classifier of the head is fitted beside it, by the cross-entropy of features that receive no
gradient from it. Mahalanobis and nearest-neighbour scores are of the features before head and projection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from rtk.config.objective import Need, TermConfig
from rtk.config.sections import Fraction, PositiveFloat, PositiveInt, Weight
from rtk.objectives.term import Observed, Term, TermSetup, ViewKind

if TYPE_CHECKING:
    from torch import Tensor

    from rtk.data.views.maker import Batch, View

ROUNDS = 3  # of Sinkhorn's normalisation, as published


class PalmConfig(TermConfig):
    """Mixtures of prototypes on the unit sphere, with `model.head: projection` (PALM, arXiv 2402.02653)."""

    needs: ClassVar[tuple[Need, ...]] = ("projection",)

    prototypes: PositiveInt = Field(6, description="prototypes of a class")
    nearest: int = Field(
        5, ge=0, description="prototypes that an image counts for, those it is assigned to most; 0: all"
    )
    temperature: PositiveFloat = Field(0.1, description="spread of a prototype's features")
    epsilon: PositiveFloat = Field(0.05, description="smoothness of the assignment (Sinkhorn)")
    decay: Fraction = Field(0.999, description="share of a prototype that stays when it is moved")
    contrast: Weight = Field(1.0, description="factor of the prototypes' contrast")


class Prototypes:
    """The prototypes of all classes: the same on every rank, moved by the batch of all of them.

    Attributes:
        vectors: unit rows (K, D); row r is of class r mod C.
    """

    def __init__(self, config: PalmConfig, setup: TermSetup) -> None:
        import torch
        from torch.nn.functional import normalize

        from rtk.models.heads import PROJECTED

        self.config, self.classes = config, setup.num_classes
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(config.prototypes * setup.num_classes, PROJECTED, generator=generator)
        self.vectors = normalize(drawn, dim=1).to(setup.device)

    def of_class(self, labels: Tensor) -> Tensor:
        """Which prototypes are of the class of each label (n,): bool (n, K)."""
        import torch

        rows = torch.arange(len(self.vectors), device=labels.device)
        return rows % self.classes == labels.unsqueeze(1)

    def moved(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The prototypes (K, D) after a batch, through which gradients flow, and whom images counted for.

        Args:
            features: unit vectors (n, D) of the global batch.
            labels: (n,).
        """
        from torch.nn.functional import normalize

        own = self.of_class(labels)
        assigned = sinkhorn(features.detach(), self.vectors, self.config.epsilon) * own
        if self.config.nearest:
            chosen = assigned.topk(min(self.config.nearest, self.config.prototypes), dim=1).indices
            own = own.new_zeros(own.shape).scatter(1, chosen, True)
        weights = normalize(normalize(assigned * own, dim=1, p=1), dim=0, p=1)
        mean, decay = weights.T @ features, self.config.decay
        return normalize(decay * self.vectors + (1 - decay) * mean, dim=1), own

    def update(self, observed: Observed) -> None:
        """Take in the features of a step."""
        features, labels = both_views(observed.logits, observed.targets, self.vectors.shape[1])
        self.vectors.copy_(self.moved(features.to(self.vectors), labels)[0])

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of them."""
        return {"prototypes": self.vectors}


def sinkhorn(features: Tensor, prototypes: Tensor, epsilon: float) -> Tensor:
    """Shares (n, K), rows of sum 1, of the prototypes in unit features (n, D), all prototypes used alike.

    exp(z . P / epsilon), normalised in turns over images and prototypes (Cuturi 2013; PALM, equation 6).
    """
    scores = features @ prototypes.T / epsilon
    shares = (scores - scores.max()).exp()
    for _ in range(ROUNDS):
        shares = shares / shares.sum(0)
        shares = shares / shares.sum(1, keepdim=True)
    return shares


def likelihood_losses(features: Tensor, prototypes: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """-log likelihood (n,) of unit features (n, D) under the mixture of their class (PALM, equation 4).

    log sum over all prototypes of exp(z . P / t), less the mean of z . P / t with weights (n, K).
    """
    logits = features @ prototypes.T / temperature
    return logits.logsumexp(1) - (weights * logits).sum(1)


def prototype_contrast(prototypes: Tensor, classes: int) -> Tensor:
    """Mean over prototypes r of log sum over s != r of exp(2 P_r . P_s), less the mean of 2 P_r . P_s over
    the other prototypes s of r's class (PALM, equation 8): a scalar of unit rows (K, D).
    """
    import torch

    similar = 2 * prototypes @ prototypes.T
    rows = torch.arange(len(prototypes), device=prototypes.device)
    other = rows.unsqueeze(1) != rows
    same = (rows.unsqueeze(1) % classes == rows % classes) & other
    near = (similar * same).sum(1) / same.sum(1).clamp_min(1)
    return (similar.masked_fill(~other, -torch.inf).logsumexp(1) - near).mean()


def both_views(outputs: Tensor, labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Projected features (2 n, D) of outputs (n, 2, D + C), and their labels (2 n,)."""
    return outputs[..., :size].flatten(0, 1), labels.repeat_interleave(outputs.shape[1])


def palm_losses(outputs: Tensor, view: View, config: PalmConfig, state: Prototypes) -> Tensor:
    """Losses (n,) of outputs (n, 2, D + C) of a projection head for two views of each image."""
    from torch.nn.functional import cross_entropy, normalize

    from rtk.runtime.ranks import gather_rows, rank, world_size

    size = state.vectors.shape[1]
    features, labels = both_views(outputs, view.targets, size)
    everyone, all_labels = gather_rows(features.detach()), gather_rows(labels)
    mine = slice(rank() * len(features), (rank() + 1) * len(features))
    if features.requires_grad:
        everyone = everyone.clone()
        everyone[mine] = features
    prototypes, counted = state.moved(everyone, all_labels)
    fixed = prototypes.detach()
    assigned = sinkhorn(everyone.detach(), fixed, config.epsilon)
    weights = normalize(assigned * counted, dim=1, p=1)[mine]
    mixture = likelihood_losses(features, fixed, weights, config.temperature)
    contrast = config.contrast * prototype_contrast(prototypes, state.classes)
    # Every rank has the whole contrast, but its gradient by its own features only: these are averaged.
    contrast = contrast * world_size() - contrast.detach() * (world_size() - 1)
    classifier = cross_entropy(outputs[..., size:].flatten(0, 1), labels, reduction="none")
    return (mixture + classifier).unflatten(0, (len(outputs), -1)).mean(1) + contrast


def two_views(batch: Batch, config: PalmConfig) -> View:
    """The images, cropped and flipped twice: (n, 2, 3, H, W)."""
    import torch

    from rtk.data.views.augment import to_float

    return batch.view(to_float(torch.stack([batch.images, batch.again("second crop")], dim=1)))


PALM = Term(
    "palm",
    PalmConfig,
    ViewKind("two crops", "cropped anew", two_views, versions=2),
    palm_losses,
    state=Prototypes,
)
