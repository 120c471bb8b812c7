from __future__ import annotations

import pytest

from rtk.config import load_config
from rtk.config.activity import NEEDS, has_effect
from rtk.config.load import flatten


def values(*overrides: str) -> dict[str, object]:
    return dict(flatten(load_config("digits_ce", overrides).model_dump(mode="json")))


@pytest.mark.parametrize(
    ("key", "off", "on"),
    [
        ("sharpness.rho", "sharpness.variant=none", "sharpness.variant=sam"),
        ("sharpness.lmbda", "sharpness.variant=sam", "sharpness.variant=fsam"),
        ("sharpness.share", "sharpness.variant=sam", "sharpness.variant=esam"),
        ("averaging.decay", "averaging.kind=swa", "averaging.kind=ema"),
        ("optimizer.betas", "optimizer.name=sgd", "optimizer.name=adamw"),
        ("objective.regmixup.beta", "objective.regmixup.weight=0", "objective.regmixup.weight=0.5"),
        ("model.lora.alpha", "model.lora.rank=0", "model.lora.rank=4"),
        ("model.batchnorm", "train.workers=1", "train.workers=2"),
        ("data.augment.crop_padding", "data.augment.crop=resized", "data.augment.crop=pad"),
    ],
)
def test_a_key_has_an_effect_where_what_it_belongs_to_is_on(key, off, on):
    assert not has_effect(key, values(off))
    assert has_effect(key, values(on) if "lora" not in on else {**values(), "model.lora.rank": 4})


def test_what_decides_always_counts_and_unknown_keys_too():
    found = values("sharpness.variant=none", "objective.regmixup.weight=0")
    for key in ("sharpness.variant", "objective.regmixup.weight", "averaging.kind", "mine.own", "seed"):
        assert has_effect(key, found)


def test_every_key_that_is_named_exists():
    known = values()
    for need in NEEDS:
        assert need.other in known
        assert any(key == need.keys or key.startswith(need.keys) for key in known)
