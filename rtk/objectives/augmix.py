"""AugMix's consistency: an image and augmented versions of it should be predicted alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from rtk.config.objective import TermConfig
from rtk.config.sections import PositiveFloat, PositiveInt, Severity, Weight
from rtk.objectives.term import Term, ViewKind

if TYPE_CHECKING:
    from torch import Tensor

    from rtk.data.views.maker import Batch, View


class AugMixConfig(TermConfig):
    """Jensen-Shannon divergence of predictions for an image and two AugMix views (Hendrycks et al. 2020)."""

    labelled: ClassVar[bool] = False

    weight: Weight = Field(0.0, description="factor of the term (12 in the paper); 0 switches it off")
    severity: Severity = Field(3.0, description="largest level of an augmentation, of 10")
    alpha: PositiveFloat = Field(1.0, description="parameter of the Dirichlet and Beta laws of the mixing")
    width: PositiveInt = Field(3, description="chains of augmentations that are mixed")
    depth: PositiveInt = Field(3, description="most augmentations in a chain")
    all_ops: bool = Field(False, description="add the four ops that overlap with common-corruption tests")


def augmix_view(batch: Batch, config: AugMixConfig) -> View:
    """The clean images and two independent AugMix versions of them, (n, 3, 3, H, W)."""
    import torch

    from rtk.data.views.augment import to_float

    versions = [_version(batch, config, name) for name in ("augmix", "augmix 2")]
    return batch.view(torch.stack([to_float(batch.images), *versions], dim=1))


def _version(batch: Batch, config: AugMixConfig, name: str) -> Tensor:
    from rtk.data.views.augmix import augmix, augmix_draw_count, draw_augmix

    draws = batch.draw(name, augmix_draw_count(config.width, config.depth))
    return augmix(
        batch.images,
        draw_augmix(draws, config.severity, config.alpha, config.width, config.depth, config.all_ops),
    )


def jensen_shannon(logits: Tensor) -> Tensor:
    """Per-sample Jensen-Shannon divergence, the mean of KL(p_v || M) over versions v, M being their mean.

    AugMix's consistency loss (Hendrycks et al., ICLR 2020, equation 2), with the gradient through M.

    Args:
        logits: (N, V, C) of V versions of N images.

    Returns:
        Losses (N,) in nats, from 0 (all versions predicted alike) to log V.
    """
    log_p = logits.log_softmax(-1)
    # logsumexp of log-probabilities, so that no probability is rounded to 0 before its logarithm.
    log_mean = log_p.logsumexp(1, keepdim=True) - logits.new_tensor(logits.shape[1]).log()
    return (log_p.exp() * (log_p - log_mean)).sum(-1).mean(1)


def _consistency(logits: Tensor, view: View, config: AugMixConfig, state: None) -> Tensor:
    return jensen_shannon(logits)


AUGMIX = Term("augmix", AugMixConfig, ViewKind("augmix", "AugMix", augmix_view, versions=3), _consistency)
