"""What may change when: one list of keys behind resume, evaluation, sweeps and comparisons."""

from __future__ import annotations

from enum import Flag, auto


class When(Flag):
    """An occasion on which a key may have another value than the run was trained with."""

    NEVER = 0
    RESUME = auto()  # a run goes on from its last checkpoint
    EVALUATION = auto()  # a trained run is evaluated
    TRIAL = auto()  # from trial to trial of a sweep, which share data, seed and place
    POPULATION = auto()  # within a running trial: a checkpoint holds nothing that the key shapes
    # A run whose weights rtk did not train is evaluated: its training images only fit scores.
    IMPORTED = auto()
    INCIDENTAL = auto()  # says where or how fast a run went, or which repetition it is: not what was tried


R, E, T, P, I = When.RESUME, When.EVALUATION, When.TRIAL, When.POPULATION, When.INCIDENTAL  # noqa: E741
F = When.IMPORTED

# An entry that ends in a dot is about all keys below it; the longest that fits a key decides.
CHANGES: dict[str, When] = {
    "name": I,
    "seed": I,
    "output": I,
    "plugins": When.NEVER,
    "tracking.": I,
    "data.": When.NEVER,
    "data.train": F,
    "data.train_rows": F,
    "data.validation_fraction": F,
    "data.labels_by": E | R,
    "data.test": E | R,
    "data.validation": E,
    "data.validation_ood": E | R,
    "data.calibration": E | R,
    "data.csid.": E | R,
    "data.near_ood.": E | R,
    "data.far_ood.": E | R,
    "data.on_error": E,
    "data.max_errors": E,
    "data.remainder": T,
    "data.augment.": T | P,
    "data.augment.crop": When.NEVER,  # it decides the size that images are decoded to
    "model.": T,
    "objective.": T | P,
    "optimizer.": T,
    "optimizer.lr": T | P,
    "optimizer.momentum": T | P,
    "optimizer.weight_decay": T | P,
    "optimizer.clip_norm": T | P,
    "sharpness.": T,
    "sharpness.rho": T | P,
    "sharpness.sigma": T | P,
    "sharpness.lmbda": T | P,
    "sharpness.alpha": T | P,
    "sharpness.perturbed": T | P,
    "schedule.": T,
    "averaging.": T,
    "averaging.decay": T | P,
    "train.": T,
    "train.duration": T | R,
    "train.workers": R,
    "train.min_workers": R,
    "train.wait_for_workers": R | I,
    "train.zero_stage": R,
    "train.threads": T | R | I,
    "train.max_restarts": T | R | I,
    "train.hang_timeout": T | R | I,
    "train.checkpoint_every": T | R | I,
    "train.checkpoints_kept": T | R | I,
    "train.verify": T | R | I,
    "train.background_saves": T | R | I,
    "evaluate.": E,
    "deepspeed.": T,
}


def may_change(key: str, when: When) -> bool:
    """Whether a dotted key may change on an occasion."""
    entries = [e for e in CHANGES if e == key or (e.endswith(".") and f"{key}.".startswith(e))]
    allowed = CHANGES[max(entries, key=len)] if entries else T  # a block that a user's own file has added
    return bool(allowed & when)


def changing_keys(when: When) -> list[str]:
    """Keys that may change on an occasion, for messages; `evaluate.*` stands for all below it."""
    return [f"{key}*" if key.endswith(".") else key for key, allowed in CHANGES.items() if allowed & when]
