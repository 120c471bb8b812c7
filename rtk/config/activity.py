"""Which keys of a config have an effect, given the others: comparisons leave out those that have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Need(NamedTuple):
    """Keys that have an effect only where another key has a fitting value.

    Attributes:
        keys: a key, or all below one where it ends in a dot.
        other: the key that decides.
        fits: whether its value lets the keys have an effect.
    """

    keys: str
    other: str
    fits: Callable[[Any], bool]


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


NEEDS = (
    Need("data.augment.crop_scale", "data.augment.crop", _one_of("resized")),
    Need("data.augment.crop_ratio", "data.augment.crop", _one_of("resized")),
    Need("data.augment.crop_padding", "data.augment.crop", _one_of("pad")),
    Need("data.max_errors", "data.on_error", _one_of("skip")),
    Need("data.shuffle_rows", "data.stream", bool),
    Need("data.validation_fraction", "data.validation", lambda path: path is None),
    Need("model.temperature", "model.head", _one_of("cosine")),
    Need("model.standardise", "model.head", _one_of("linear")),
    Need("model.head_weights", "model.weights", bool),
    Need("model.batchnorm", "train.workers", lambda workers: workers > 1),
    Need("model.lora.", "model.lora.rank", bool),
    Need("optimizer.momentum", "optimizer.name", _one_of("sgd")),
    Need("optimizer.nesterov", "optimizer.name", _one_of("sgd")),
    Need("optimizer.betas", "optimizer.name", _one_of("adamw")),
    Need("evaluate.search_images", "evaluate.protocol", _one_of("rat_splits")),
    Need("sharpness.", "sharpness.variant", lambda variant: variant != "none"),
    Need("sharpness.sigma", "sharpness.variant", _one_of("fsam")),
    Need("sharpness.lmbda", "sharpness.variant", _one_of("fsam")),
    Need("sharpness.alpha", "sharpness.variant", _one_of("looksam")),
    Need("sharpness.share", "sharpness.variant", _one_of("esam")),
    Need("sharpness.perturbed", "sharpness.variant", _one_of("esam")),
    Need("sharpness.every", "sharpness.variant", lambda variant: variant != "msam"),
    Need("sharpness.redraw_views", "sharpness.variant", lambda variant: variant != "msam"),
    Need("schedule.warmup_shape", "schedule.warmup", lambda warmup: warmup not in ("0ep", "0steps")),
    Need("schedule.final_fraction", "schedule.name", _one_of("cosine")),
    Need("schedule.swa_lr", "averaging.kind", _one_of("swa")),
    Need("schedule.swa_anneal", "schedule.swa_lr", bool),
    Need("averaging.", "averaging.kind", lambda kind: kind != "none"),
    Need("averaging.decay", "averaging.kind", _one_of("ema")),
    Need("averaging.ramp", "averaging.kind", _one_of("ema")),
    Need("averaging.start", "averaging.kind", _one_of("swa")),
    Need("averaging.every", "averaging.kind", _one_of("swa")),
)


def has_effect(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a key has an effect in a config.

    Args:
        key: dotted.
        values: of the config, by dotted key; keys that it lacks decide nothing.
    """
    return all(need.fits(values[need.other]) for need in _needs(key) if need.other in values)


def _needs(key: str) -> list[Need]:
    """What a key needs; a term of the objective needs its weight, a user's own term too."""
    found = [
        need
        for need in NEEDS
        if key == need.keys or (need.keys.endswith(".") and key.startswith(need.keys) and key != need.other)
    ]
    section, _, rest = key.partition(".")
    term, dot, name = rest.partition(".")
    if section == "objective" and dot and name != "weight":
        found.append(Need(key, f"objective.{term}.weight", bool))
    return found
