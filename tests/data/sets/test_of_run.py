import numpy as np
import pytest

from rtk.config import ConfigError, load_config
from rtk.data.order import holdout_split
from rtk.data.sets.of_run import (
    RunSets,
    configured_paths,
    open_configured,
    open_sets,
    open_training_sets,
    split_train,
    trained_rows,
)

DIGITS = "builtin:digits/"


@pytest.fixture
def config():
    return lambda *overrides: load_config("digits_demo", overrides)


def test_paths_of_a_config_by_key(config):
    keys = [key for key, _ in configured_paths(config("data.mixing=/pictures").data).items()]
    assert keys == [
        *("train", "validation", "test", "near_ood.digits89", "far_ood.photos"),
        *("validation_near_ood.halves", "validation_far_ood.noise", "mixing"),
    ]


def test_map_keeps_the_shape():
    sets = RunSets(train=1, near_ood={"a": 2}, validation_far_ood={"b.c": 3}, outliers=4)
    mapped = sets.map(lambda key, value: f"{key}={value}")
    assert mapped.train == "train=1"
    assert mapped.validation is None
    assert mapped.near_ood == {"a": "near_ood.a=2"}
    assert mapped.validation_groups == {"far": {"b.c": "validation_far_ood.b.c=3"}}
    assert [key for key, _ in mapped.only(["outliers"]).items()] == ["train", "outliers"]


def test_training_opens_what_it_decodes_and_looks_for_the_rest(config):
    opened = open_training_sets(config())
    assert opened.test is None
    assert {key for key, _ in opened.items()} == {
        *("train", "validation", "validation_near_ood.halves", "validation_far_ood.noise")
    }
    with pytest.raises(ConfigError, match=r"data\.near_ood\.digits89: /no: does not exist"):
        open_training_sets(config("data.near_ood.digits89=/no"))
    with pytest.raises(ConfigError, match=r"data\.mixing: /no: does not exist"):
        open_training_sets(config("data.mixing=/no"))
    open_training_sets(config("data.mixing=/no", "objective.regpixmix.weight=0"))  # nothing needs it


def test_labels_must_be_classes_of_the_training_set(config, make_parquet, png):
    path = make_parquet([png(0), png(1)], [0, 99], classes=[str(n) for n in range(100)])
    with pytest.raises(ConfigError, match=r"data\.validation: .*label 99 in row 1 is out of range"):
        open_sets(config(f"data.validation={path}", "data.labels_by=number"), ("validation",))


def test_one_place_decides_which_rows_are_held_out(config):
    held_out = config("data.validation=null", "data.validation_fraction=0.25", "seed=3")
    kept, held = split_train(held_out, 100)
    assert [part.tolist() for part in holdout_split(3, 100, 0.25)] == [kept.tolist(), held.tolist()]
    kept, held = split_train(config(), 100)
    assert np.array_equal(kept, np.arange(100))
    assert len(held) == 0
    train = open_configured(f"{DIGITS}train.parquet", "data.train", need_classes=True)
    assert trained_rows(config("data.validation=null", "data.train_rows=100"), train) == 90
