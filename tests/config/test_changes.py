import pytest

from rtk.config.changes import CHANGES, When, changing_keys, may_change
from rtk.config.load import valid_keys


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("train.duration", When.TRIAL | When.RESUME),
        ("train.batch_size", When.TRIAL),
        ("train.workers", When.RESUME),
        ("train.threads", When.TRIAL | When.RESUME | When.INCIDENTAL),
        ("optimizer.lr", When.TRIAL | When.POPULATION),
        ("optimizer.name", When.TRIAL),
        ("objective.rat.eps", When.TRIAL | When.POPULATION),
        ("data.train", When.IMPORTED),
        ("data.near_ood", When.EVALUATION | When.RESUME),
        ("data.near_ood.cats", When.EVALUATION | When.RESUME),
        ("data.validation_near_ood.cats", When.NEVER),
        ("data.augment.flip", When.TRIAL | When.POPULATION),
        ("data.augment.crop", When.NEVER),
        ("data.augment.crop_scale", When.TRIAL | When.POPULATION),
        ("evaluate.scores", When.EVALUATION),
        ("seed", When.INCIDENTAL),
        ("deepspeed.zero_optimization.contiguous_gradients", When.TRIAL),
    ],
)
def test_the_longest_entry_decides(key, allowed):
    assert {when for when in When if may_change(key, when)} == set(allowed)


def test_every_key_of_the_schema_has_an_entry_and_every_entry_a_key():
    known = valid_keys()
    for key in known:
        may_change(key, When.RESUME)
    assert [entry for entry in CHANGES if entry.rstrip(".") not in known] == []


def test_messages_name_sections_as_a_whole():
    assert changing_keys(When.EVALUATION)[-1] == "evaluate.*"
    assert "train.zero_stage" in changing_keys(When.RESUME)
