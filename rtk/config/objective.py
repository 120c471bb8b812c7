"""`objective`: the terms of the loss; each one's block stands with the term itself, in `rtk.objectives`."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from rtk.config.sections import Duration, LastPart, Section, Weight

# What a term can ask for besides the training images: pictures of `data`, `model.reject_class`, `model.head`.
Need = Literal["mixing", "outliers", "reject_class", "projection"]


class TermConfig(Section):
    """Base of a term's block: its factor, and what the rest of the config has to fit.

    Attributes:
        needs: pictures that the term's view is made with, `mixing` (`data.mixing`, or fractals) or
            `outliers`; `reject_class`, an output more than there are classes; `projection`, that head.
        beside: terms of which one has to be on wherever this one is; none: it needs none.
        labelled: whether the term tells the model which class is right.
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    beside: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = True

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    begin: Duration = Field("0ep", description="training before the term begins")
    until: Duration | None = Field(None, description="training after which it ends; null: it stays")
    last: LastPart | None = Field(
        None, description="`10ep off`: off in the last 10 epochs; `10ep only`: on in these alone"
    )


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
        if not self.active():
            raise ValueError("every term has weight 0, wanted at least one positive weight")
        self.check_together(self.active())
        return self

    def check_together(self, names: Collection[str]) -> None:
        """Check that these active terms can be on without the others.

        Raises:
            ValueError: naming the term that cannot.
        """
        blocks = {name: block for name, block in self.active().items() if name in names}
        for name, block in blocks.items():
            if block.beside and not any(other in names for other in block.beside):
                others = " or ".join(f"objective.{other}.weight" for other in block.beside)
                raise ValueError(f"objective.{name}.weight: needs {others} above 0, got 0")
        if not blocks:
            raise ValueError("objective: no term is on, wanted at least one")
        if not any(block.labelled for block in blocks.values()):
            raise ValueError(
                f"objective.{next(iter(blocks))}.weight: the term compares predictions with each other and "
                "learns no label, wanted a term that does beside it, such as objective.cross_entropy.weight "
                "above 0"
            )
