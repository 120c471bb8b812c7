from dataclasses import replace

import pytest

from rtk.config import ConfigError, load_config
from rtk.train.plan import (
    GIB,
    USABLE,
    Load,
    choose_stage,
    count_classes,
    describe_load,
    plan_recipe,
    plan_stage,
)

# SURE+ with AdamW on 8 ranks: 1000 weights, three terms, F-SAM's average and an EMA.
LOAD = Load(
    ranks=8,
    trained=1000,
    frozen=0,
    weight_bytes=4,
    activations=10**6,
    images=0,
    terms=3,
    passes=2,
    moments=2,
    averages=8,
    backup=4,
    moves=1,
    local=False,
    masters=False,
    autocast=True,
    bucket=1000,
    live=10**9,
)


def test_replicated_state_counted_by_hand():
    parts = plan_stage(0, LOAD).parts
    assert parts == {
        "weights": 4000,
        "optimizer": 8000,
        "averages": 8000,
        "SAM backup": 4000,
        "gradients": 4000,
        "activations": 10**6,
        "buffers": 0,
    }


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_method_state_is_cut_over_the_ranks(stage):
    parts = plan_stage(stage, LOAD).parts
    assert parts["optimizer"] == parts["averages"] == 1000
    assert parts["SAM backup"] == 500
    assert parts["weights"] == {1: 4500, 2: 4500, 3: 1000}[stage]


def test_a_local_ascent_backs_up_all_weights_and_saves_communication():
    local = replace(LOAD, local=True, averages=4)
    assert plan_stage(1, local).parts["SAM backup"] == 4000
    # One reduction and one gather less, each 7/8 of the weights.
    assert plan_stage(1, LOAD).communication - plan_stage(1, local).communication == 2 * 3500


@pytest.mark.parametrize(
    ("variant", "kept", "backup", "passes", "moves"),
    [
        ("none", 0, 0, 1, 0),
        ("fsam", 4, 4, 2, 1),
        ("looksam", 4, 4, 2, 1),
        ("msam", 0, 4, 1, 1),
        ("esam", 0, 4, 2, 1),
    ],
)
def test_what_a_sharpness_aware_step_keeps_and_sends(variant, kept, backup, passes, moves):
    config = load_config("digits_ce", [f"sharpness.variant={variant}", "sharpness.every=5"])
    load = describe_load(config, 10)
    assert (load.averages, load.backup, load.passes, load.moves) == (kept, backup, passes, moves)
    gathered = plan_stage(1, replace(LOAD, passes=1, moves=moves)).communication
    assert gathered == (2 + moves) * 3500


def test_the_choice_of_images_is_counted():
    """Copies of those chosen, which may travel, and forward passes that gather weights under ZeRO-3."""
    sam, esam = (
        describe_load(load_config("digits_ce", [f"sharpness.variant={name}", "sharpness.share=0.25"]), 10)
        for name in ("sam", "esam")
    )
    assert (sam.looks, sam.exchanged) == (0, 0)
    assert (esam.looks, esam.exchanged) == (1, sam.images / 4)
    assert esam.images == sam.images * 1.25
    more = replace(LOAD, looks=3, exchanged=800)
    for stage, gathered in enumerate((0, 0, 0, 3 * 4000)):
        sent = plan_stage(stage, more).communication - plan_stage(stage, LOAD).communication
        assert sent == (gathered + 800) * 7 / 8


def test_weights_that_zero3_keeps_gathered_are_gathered_once_a_pass():
    kept, released = plan_stage(3, LOAD), plan_stage(3, replace(LOAD, live=100))
    assert kept.communication < released.communication
    assert kept.parts["buffers"] > released.parts["buffers"]


@pytest.mark.parametrize("together", [False, True])
def test_the_three_versions_of_augmix_are_counted(together):
    model = ["model.name=timm/test_vit", "model.width=null"]
    changes = [*model, f"train.concatenate_views={str(together).lower()}", "train.precision=fp32"]
    clean, augmix = (
        describe_load(load_config("digits_ce", [*changes, f"objective.augmix.weight={weight}"]), 8)
        for weight in (0, 12)
    )
    # The clean view goes alone, or with the three versions in one pass of four times as many images.
    assert augmix.activations == pytest.approx(
        (4 if together else 3) * clean.activations, rel=0.05
    )  # and copies of weights
    assert augmix.images == 4 * clean.images
    assert augmix.terms == (1 if together else 2)


def test_recipe():
    config = load_config("digits_demo", ["train.workers=2"])
    plans = plan_recipe(config, count_classes(config))
    assert [plan.stage for plan in plans] == [0, 1, 2, 3]
    assert all(plan.fits(80 * GIB) and not plan.fits(plan.total) for plan in plans)
    assert plans[1].total < plans[0].total


def test_the_first_stage_that_fits_is_chosen():
    automatic = load_config("digits_demo", ["train.workers=2", "train.zero_stage=auto"])
    totals = [plan.total / USABLE for plan in plan_recipe(automatic, 8)]
    assert totals[2] < totals[1] < totals[0]
    for stage, memory in ((0, totals[0] + 1), (1, totals[0] - 1), (2, totals[1] - 1)):
        assert choose_stage(automatic, 8, memory).train.zero_stage == stage
    with pytest.raises(ConfigError, match=r"^train.zero_stage: got auto, but no stage .* fits into 0.00"):
        choose_stage(automatic, 8, min(totals) / 2)


def test_the_stage_that_is_chosen_fits_with_the_fewest_workers():
    two = load_config("digits_demo", ["train.workers=2", "train.zero_stage=auto"])
    plans = plan_recipe(two, 8)
    between = (plans[1].total / USABLE + plans[2].total / USABLE) / 2
    eight = load_config("digits_demo", ["train.workers=8", "train.zero_stage=auto"])
    assert choose_stage(eight, 8, between).train.zero_stage == 0
    elastic = load_config(
        "digits_demo", ["train.workers={min: 2, max: 8}", "train.zero_stage=auto", "model.batchnorm=sync"]
    )
    assert choose_stage(elastic, 8, between).train.zero_stage == 2


def test_a_stage_that_another_key_refuses_is_not_chosen():
    local = ["train.zero_stage=auto", "sharpness.variant=sam", "sharpness.sync=local", "train.workers=2"]
    config = load_config("digits_demo", local)
    memory = (plan_recipe(config, 8)[1].total - 1) / USABLE  # ZeRO-2 and 3 would do
    with pytest.raises(ConfigError, match="no stage is permitted and fits"):
        choose_stage(config, 8, memory)


def test_a_stage_that_is_given_stays():
    config = load_config("digits_demo", ["train.zero_stage=3"])
    assert choose_stage(config, 8, 1) is config


def test_classes_of_a_set_that_is_not_there():
    config = load_config("digits_demo", ["data.train=/nowhere"])
    with pytest.raises(ConfigError, match=r"^data.train: .*--classes"):
        count_classes(config)
