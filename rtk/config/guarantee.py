"""`evaluate.guarantee` and `evaluate.prediction_sets`: what a decision rule promises of images to come."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rtk.config.sections import Fraction, Section

Share = Annotated[float, Field(gt=0, lt=1)]


class GuaranteeConfig(Section):
    """What the thresholds of `evaluate.risk` promise."""

    confidence: Share | None = Field(
        None,
        description="probability, over the draw of the calibration images, that at most the share "
        "evaluate.risk of the accepted ID images is wrong; null: none is promised",
    )
    method: Literal["ltt", "crc", "empirical"] | None = Field(
        None,
        description="ltt: Learn-then-Test, with confidence; crc: conformal risk control, in expectation; "
        "empirical: holds on the images that it is chosen on, promises nothing; null: ltt where confidence "
        "is given",
    )
    procedure: Literal["fixed_sequence", "holm"] = Field(
        "fixed_sequence", description="of ltt: thresholds tested one after the other, or every pair of a grid"
    )
    floor: Fraction = Field(
        0.0, description="smallest share accepted of the ID images it is chosen on; below it there is no rule"
    )
    per_class: bool = Field(
        False, description="hold the risk for every predicted class, by a threshold of its own"
    )
    ood_acceptance: Share | None = Field(
        None,
        description="of ltt: largest share accepted of OOD images, with the same confidence; it holds for "
        "those mixed as data.validation_ood only; null: any",
    )

    @property
    def chosen(self) -> str:
        """The method, settled."""
        return self.method or ("empirical" if self.confidence is None else "ltt")

    @model_validator(mode="after")
    def _consistent(self) -> GuaranteeConfig:
        if self.chosen == "ltt" and self.confidence is None:
            raise ValueError("method: got ltt without confidence, wanted evaluate.guarantee.confidence too")
        if self.per_class and self.chosen == "empirical":
            raise ValueError("per_class: got true with method empirical, wanted ltt or crc")
        if self.ood_acceptance is not None and (self.chosen != "ltt" or self.per_class):
            raise ValueError("ood_acceptance: wanted method ltt, and per_class false")
        return self


class PredictionSetsConfig(Section):
    """Sets of classes that the decision rule gives images that are likely wrong."""

    method: Literal["lac", "aps", "raps"] | None = Field(
        None, description="score of a class: 1 - probability, or sums of sorted ones; null: no sets"
    )
    coverage: Share = Field(0.9, description="wanted probability that the right class is in the set")
