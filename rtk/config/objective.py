"""`objective`: the terms of the loss; each one's block stands with the term itself, in `rtk.objectives`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rtk.config.sections import Section, Weight

# What a term can ask for besides the training images: pictures of `data`, and `model.reject_class`.
Need = Literal["mixing", "outliers", "reject_class"]


class TermConfig(Section):
    """Base of a term's block: its factor, and what the rest of the config has to fit.

    Attributes:
        needs: pictures that the term's view is made with, `mixing` (`data.mixing`, or fractals) or
            `outliers`; `reject_class`, an output more than there are classes.
        beside: terms without which this one cannot be.
        labelled: whether the term tells the model which class is right.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    beside: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")


class ObjectiveConfig(Section):
    """Terms of the loss, by name; a term of weight 0 costs nothing.

    Its fields are added by `rtk.config.plugins.add_blocks`, one for each term that is registered.
    """

    def active(self) -> dict[str, TermConfig]:
        """Blocks of positive weight, by name."""
        return {name: block for name, block in self if block.weight > 0}

    def needing(self, what: Need) -> list[str]:
        """Active terms that need something beside the training images."""
        return [name for name, block in self.active().items() if what in block.needs]

    @model_validator(mode="after")
    def _fit_together(self) -> ObjectiveConfig:
        active = self.active()
        if not active:
            raise ValueError("every term has weight 0, wanted at least one positive weight")
        for name, block in active.items():
            for other in block.beside:
                if other not in active:
                    raise ValueError(
                        f"objective.{name}.weight: needs objective.{other}.weight above 0, got 0"
                    )
        if not any(block.labelled for block in active.values()):
            raise ValueError(
                f"objective.{next(iter(active))}.weight: the term compares predictions with each other and "
                "learns no label, wanted a term that does beside it, such as objective.cross_entropy.weight "
                "above 0"
            )
        return self
