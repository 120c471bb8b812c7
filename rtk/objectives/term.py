"""What a term of the loss is: a row of the table, and the same with a run's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rtk.config.objective import TermConfig

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from rtk.data.views.maker import Batch, View


@dataclass(frozen=True)
class ViewKind:
    """A view of the batch: what a term looks at.

    Attributes:
        name: terms that name the same view share it, and one forward pass over it.
        caption: its row on the view sheet.
        make: the view of a batch, given the block of the first term that looks at it.
        versions: images of each sample; more than one are stacked as (n, versions, 3, H, W).
    """

    name: str
    caption: str
    make: Callable[[Batch, Any], View]
    versions: int = 1


CLEAN = ViewKind("clean", "clean", lambda batch, config: batch.view(batch.images))


@dataclass(frozen=True)
class CleanPass:
    """A view after its backward pass, from which an attack starts.

    Attributes:
        images: (n, 3, H, W), a leaf that holds the gradient of the loss.
        targets: labels (n,) or distributions (n, C).
        logits: (n, C), detached.
    """

    images: Tensor
    targets: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Observed:
    """What a term saw in a step: the whole global batch in its order, whatever the number of ranks.

    Attributes:
        ids: sample ids int64 (n,).
        logits: (n, C), or (n, versions, C), at the weights before the step; detached.
        targets: labels (n,) or distributions (n, C).
    """

    ids: Tensor
    logits: Tensor
    targets: Tensor


@dataclass(frozen=True)
class TermSetup:
    """What a term's state is built from.

    Attributes:
        num_classes: C, the reject class included where the model has one.
        sample_ids: ids int64 (N,) of the training images.
        device: where the state is kept.
        steps_per_epoch: updates of the weights in an epoch.
    """

    num_classes: int
    sample_ids: NDArray[np.int64]
    device: torch.device
    steps_per_epoch: int = 1


class TermState(Protocol):
    """What a term keeps between steps: the same on every rank."""

    def update(self, observed: Observed) -> None:
        """Take in a step; called on every rank after the optimiser's step."""

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors by name: checkpoints save them, and write into them where a run is resumed."""


@dataclass(frozen=True)
class Term:
    """A term of the loss, `objective.NAME` in a config.

    Attributes:
        name: key of its block, and name of its loss in the logs.
        block: class of its block: its settings with their defaults, and what it needs.
        view: what it looks at.
        loss: losses (n,) from logits (n, C) or (n, versions, C), the view, the block and the state.
        attack: makes the images that the term looks at in place of its view's, from the model, the pass of
            the first other term that looks at this view, and the block.
        gradient_of: from the block to the views whose loss an attack takes the gradient of, the first that a
            term looks at; where none does, the attack's start is a pass of its own over its view's
            cross-entropy. None: of the term's own view, which another term has to look at.
        start: makes the pass that an attack starts from, from the model and the view, in place of all these.
        state: builds what the term keeps between steps, from the block and a `TermSetup`.
    """

    name: str
    block: type[TermConfig]
    view: ViewKind
    loss: Callable[[Tensor, View, Any, Any], Tensor]
    attack: Callable[[nn.Module, CleanPass, Any], Tensor] | None = None
    gradient_of: Callable[[Any], tuple[ViewKind, ...]] | None = None
    start: Callable[[nn.Module, View], CleanPass] | None = None
    state: Callable[[Any, TermSetup], TermState] | None = None


@dataclass(frozen=True, eq=False)
class ActiveTerm:
    """A term with the settings of a run, its state where it keeps one, and the steps in which it is on."""

    term: Term
    config: TermConfig
    state: TermState | None = None
    steps: range | None = None  # None: all

    @property
    def name(self) -> str:
        """Key of its block, and name of its loss in the logs."""
        return self.term.name

    @property
    def weight(self) -> float:
        """Its factor."""
        return self.config.weight

    @property
    def view(self) -> ViewKind:
        """What it looks at."""
        return self.term.view

    def is_on(self, step: int) -> bool:
        """Whether it takes part in a step of the run."""
        return self.steps is None or step in self.steps

    @property
    def attacks(self) -> bool:
        """Whether it looks at attacked images."""
        return self.term.attack is not None

    @property
    def gradient_of(self) -> tuple[ViewKind, ...]:
        """Views whose loss its attack takes the gradient of, the first that a term looks at."""
        return (self.view,) if self.term.gradient_of is None else self.term.gradient_of(self.config)

    def losses(self, logits: Tensor, view: View) -> Tensor:
        """Per-sample losses (n,)."""
        return self.term.loss(logits, view, self.config, self.state)

    def attacked_images(self, model: nn.Module, clean: CleanPass) -> Tensor:
        """The images that it looks at in place of its view's."""
        assert self.term.attack is not None
        return self.term.attack(model, clean, self.config)
