"""The terms of the loss, a row each.

A new one is a file like its neighbours and a place in `BUILT_IN`; a user's own file calls `register`. The
config's block, overrides, sweeps, the loader, the view sheet, `rtk plan` and checkpoints follow from the row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rtk.config.course import term_steps
from rtk.config.objective import ObjectiveConfig, TermConfig
from rtk.config.plugin_files import note_row
from rtk.config.plugins import add_blocks
from rtk.objectives.ascood import ASCOOD
from rtk.objectives.augmix import AUGMIX
from rtk.objectives.crl import CRL
from rtk.objectives.cross_entropy import CROSS_ENTROPY
from rtk.objectives.cutmix import CUTMIX
from rtk.objectives.mixoe import MIXOE
from rtk.objectives.openmix import OPENMIX
from rtk.objectives.outlier_exposure import OUTLIER_EXPOSURE
from rtk.objectives.palm import PALM
from rtk.objectives.rat import RAT
from rtk.objectives.regmixup import REGMIXUP
from rtk.objectives.regpixmix import REGPIXMIX
from rtk.objectives.term import CLEAN, ActiveTerm, Term, TermSetup, ViewKind

if TYPE_CHECKING:
    from rtk.data.views.maker import Batch, View

BUILT_IN = (
    *(CROSS_ENTROPY, REGMIXUP, REGPIXMIX, CUTMIX, AUGMIX, OPENMIX, MIXOE, OUTLIER_EXPOSURE),
    *(RAT, CRL, ASCOOD, PALM),
)
TERMS: dict[str, Term] = {term.name: term for term in BUILT_IN}
add_blocks(ObjectiveConfig, {term.name: term.block for term in BUILT_IN})


def register(term: Term) -> Term:
    """Add a term, `objective.NAME` in every config from now on; a file that is loaded again replaces its own.

    Raises:
        ValueError: for a name, or the name of a view, that another file has taken.
    """
    _check_free(term)
    TERMS[term.name] = term
    add_blocks(ObjectiveConfig, {term.name: term.block})
    note_row("term", term.name)
    return term


def _check_free(term: Term) -> None:
    file = inspect.getfile(term.block)
    if not term.name.isidentifier():
        raise ValueError(f"{file}: term name: got {term.name!r}, wanted a word of letters, digits and _")
    for other in TERMS.values():
        theirs = inspect.getfile(other.block)
        if theirs != file and other.name == term.name:
            raise ValueError(f"{file}: term {term.name!r} exists already, in {theirs}; wanted another name")
        if theirs != file and other.view.name == term.view.name and other.view != term.view:
            raise ValueError(
                f"{file}: view {term.view.name!r} exists already, in {theirs}; wanted another name"
            )


def active_terms(
    objective: ObjectiveConfig,
    setup: Callable[[], TermSetup] | None = None,
    course: tuple[int, int] | None = None,
) -> list[ActiveTerm]:
    """Terms of positive weight, in the order in which they are back-propagated.

    Args:
        objective: settings of all terms.
        setup: gives what their states are built from; None: they get none, for those who only look at them.
        course: steps of an epoch and of the run, between which terms may begin and end; None: all are on.
    """
    active = []
    for name, config in objective.active().items():
        build = TERMS[name].state
        state = None if build is None or setup is None else build(config, setup())
        steps = None if course is None else term_steps(config, *course)
        active.append(ActiveTerm(TERMS[name], config, state, steps))
    return sorted(active, key=_place)


def _place(active: ActiveTerm) -> tuple[bool, bool, bool]:
    """The clean view first, for it moves BatchNorm's statistics and attacks start from it, and are next."""
    return active.view is not CLEAN, not active.config.labelled, active.attacks


def view_makers(objective: ObjectiveConfig) -> dict[str, Callable[[Batch], View]]:
    """What makes each view, by its name, with the settings of the first term that looks at it."""
    makers: dict[str, Callable[[Batch], View]] = {}
    for name, config in objective:
        view = TERMS[name].view
        makers.setdefault(view.name, partial(_make, view, config))
    return makers


def _make(view: ViewKind, config: TermConfig, batch: Batch) -> View:
    return view.make(batch, config)
