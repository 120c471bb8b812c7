"""Learning rate as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math


def learning_rate(
    step: int,
    total_steps: int,
    peak: float,
    name: str = "cosine",
    warmup_steps: int = 0,
    final: float = 0.0,
    warmup_shape: str = "linear",
) -> float:
    """Learning rate of an optimiser step.

    Args:
        step: 0-based index of the step.
        total_steps: steps of the whole run.
        peak: learning rate after the warm-up.
        name: `cosine` (Loshchilov & Hutter 2017, equation 5, without restarts) or `constant`.
        warmup_steps: steps of growth to the peak.
        final: learning rate at the end as a share of the peak.
        warmup_shape: of the growth, `linear`, or `cosine` (half of one, as RAT's code).
    """
    if step < warmup_steps:
        grown = (step + 1) / warmup_steps
        return peak * (1 - _falling(grown) if warmup_shape == "cosine" else grown)
    if name == "constant":
        return peak
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * (final + (1 - final) * _falling(progress))


def averaging_phase(after: int, before: float, swa_lr: float, anneal_steps: int) -> float:
    """Learning rate while weights are averaged: a cosine from what it was to a constant, which then stays.

    Source: SWA, Izmailov et al. 2018, and FMFP, Zhu et al. 2022, as torch's `SWALR` has it. Here it moves
    with every step; at the beginning of an epoch it is what `SWALR` sets for that epoch.

    Args:
        after: steps since averaging began.
        before: learning rate when it began.
        swa_lr: the constant.
        anneal_steps: steps from one to the other.
    """
    return swa_lr + (before - swa_lr) * _falling(after / max(1, anneal_steps))


def _falling(progress: float) -> float:
    """Half a cosine from 1 to 0, where it stays."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
