"""Losses by name, per sample."""

from rtk.objectives.objective import Term, active_terms, compute_losses

__all__ = ["Term", "active_terms", "compute_losses"]
