"""The terms of the loss: a file each, and `register` for a user's own."""

from rtk.config.objective import TermConfig
from rtk.objectives.table import TERMS, active_terms, register, view_makers
from rtk.objectives.term import CLEAN, ActiveTerm, CleanPass, Observed, Term, TermSetup, TermState, ViewKind

__all__ = [
    "CLEAN",
    "TERMS",
    "ActiveTerm",
    "CleanPass",
    "Observed",
    "Term",
    "TermConfig",
    "TermSetup",
    "TermState",
    "ViewKind",
    "active_terms",
    "register",
    "view_makers",
]
