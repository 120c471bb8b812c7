"""`objective`: the terms of the loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rtk.config.sections import Fraction, PositiveFloat, PositiveInt, Section, Severity, Weight


class CrossEntropyConfig(Section):
    """Cross-entropy of the clean view."""

    weight: Weight = Field(1.0, description="factor of the term; 0 switches it off")
    label_smoothing: Fraction = Field(0.0, description="mass spread evenly over all classes")


class RegMixupConfig(Section):
    """Cross-entropy of mixed pairs, beside the clean term (RegMixup, Pinto et al. 2022)."""

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    beta: PositiveFloat = Field(10.0, description="both parameters of the Beta law of lambda")


class RegPixMixConfig(Section):
    """Cross-entropy of PixMix views, beside the clean term (SURE+, arXiv 2603.03903)."""

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    k: PositiveInt = Field(4, description="most mixing rounds; each image draws 0..k")
    beta: PositiveFloat = Field(3.0, description="severity of the mixing: parameter of its Beta laws")
    severity: Severity = Field(3.0, description="largest level of an augmentation, of 10")
    all_ops: bool = Field(False, description="add the four ops that overlap with common-corruption tests")


class CutMixConfig(Section):
    """Cross-entropy of images with a box of another pasted in, beside the clean term (Yun et al. 2019)."""

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    alpha: PositiveFloat = Field(1.0, description="both parameters of the Beta law of the share that is left")


class AugMixConfig(Section):
    """Jensen-Shannon divergence of predictions for an image and two AugMix views (Hendrycks et al. 2020)."""

    weight: Weight = Field(0.0, description="factor of the term (12 in the paper); 0 switches it off")
    severity: Severity = Field(3.0, description="largest level of an augmentation, of 10")
    alpha: PositiveFloat = Field(1.0, description="parameter of the Dirichlet and Beta laws of the mixing")
    width: PositiveInt = Field(3, description="chains of augmentations that are mixed")
    depth: PositiveInt = Field(3, description="most augmentations in a chain")
    all_ops: bool = Field(False, description="add the four ops that overlap with common-corruption tests")


class OpenMixConfig(Section):
    """Cross-entropy of images mixed with outliers of `data.outliers` (after OpenMix, Zhu et al. 2023)."""

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    alpha: PositiveFloat = Field(10.0, description="both parameters of the Beta law of the image's share")


class RatConfig(Section):
    """Cross-entropy of radius-aware perturbed inputs, beside the clean term (RAT, arXiv 2503.14783)."""

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    eps: PositiveFloat = Field(0.001, description="largest change of a pixel value, images in [0, 1]")
    mode: Literal["rat", "at", "reverse_at"] = Field(
        "rat",
        description="rat: harder where right, easier where wrong; at: always harder; reverse_at: easier",
    )
    solver: Literal["fgsm", "pgd"] = Field("fgsm", description="one signed step, or several projected ones")
    steps: PositiveInt = Field(7, description="steps of pgd")
    step_size: PositiveFloat = Field(0.0003, description="size of a pgd step")


class ObjectiveConfig(Section):
    """Terms of the loss, by name; a term of weight 0 costs nothing."""

    cross_entropy: CrossEntropyConfig = Field(default_factory=CrossEntropyConfig)
    regmixup: RegMixupConfig = Field(default_factory=RegMixupConfig)
    regpixmix: RegPixMixConfig = Field(default_factory=RegPixMixConfig)
    cutmix: CutMixConfig = Field(default_factory=CutMixConfig)
    augmix: AugMixConfig = Field(default_factory=AugMixConfig)
    openmix: OpenMixConfig = Field(default_factory=OpenMixConfig)
    rat: RatConfig = Field(default_factory=RatConfig)

    def needing(self, what: Literal["mixing", "outliers"]) -> list[str]:
        """Active terms that need some pictures beside the training images."""
        name = {"mixing": "regpixmix", "outliers": "openmix"}[what]
        return [name] if getattr(self, name).weight else []

    @model_validator(mode="after")
    def _some_term(self) -> ObjectiveConfig:
        if self.rat.weight and not self.cross_entropy.weight:
            raise ValueError("objective.rat.weight: needs objective.cross_entropy.weight above 0, got 0")
        if not any(
            getattr(self, name).weight
            for name in ("cross_entropy", "regmixup", "regpixmix", "cutmix", "openmix")
        ):
            raise ValueError("every term has weight 0, wanted at least one positive weight")
        return self
