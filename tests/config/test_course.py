"""When terms begin and end."""

from __future__ import annotations

import pytest

from rtk.config.course import check_course, term_steps
from rtk.config.errors import ConfigError
from rtk.config.load import build_config
from rtk.config.objective import TermConfig


def config(duration: str, **objective):
    return build_config(
        {"data": {"train": "unused"}, "train": {"duration": duration}, "objective": objective}
    )


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ({}, range(0, 100)),
        ({"begin": "2ep"}, range(20, 100)),
        ({"until": "75steps"}, range(0, 75)),
        ({"last": "3ep off"}, range(0, 70)),
        ({"last": "3ep only"}, range(70, 100)),
        ({"begin": "1ep", "until": "9ep", "last": "5steps off"}, range(10, 90)),
    ],
)
def test_steps_of_a_term(keys, steps):
    assert term_steps(TermConfig(weight=1.0, **keys), steps_per_epoch=10, total_steps=100) == steps


MIXUP_THEN_CLEAN = {
    "cross_entropy": {"last": "2ep only"},
    "regmixup": {"weight": 1.0, "last": "2ep off"},
}


def test_one_term_takes_the_place_of_another():
    objective = config("10ep", **MIXUP_THEN_CLEAN, rat={"weight": 1.0}).objective
    check_course(objective, "10ep", 7)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            {"regmixup": {"weight": 1.0, "until": "11ep"}},
            r"^objective.regmixup.until: got '11ep', wanted at most train.duration, '10ep'$",
        ),
        (
            {"regmixup": {"weight": 1.0, "last": "11ep off"}},
            r"^objective.regmixup.last: got '11ep', wanted at most",
        ),
        (
            {"regmixup": {"weight": 1.0, "begin": "5ep", "until": "5ep"}},
            r"^objective.regmixup: with begin, until and last as they are it is on in no step",
        ),
        ({"cross_entropy": {"until": "9ep"}}, r"^objective: no term is on.*\(after 9 epochs\)$"),
        (
            {"cross_entropy": {"last": "4ep off"}, "regpixmix": {"weight": 1.0}, "rat": {"weight": 1.0}},
            r"^objective.rat.weight: needs objective.cross_entropy.weight or .*\(after 6 epochs\)$",
        ),
        (
            {"cross_entropy": {"last": "4ep"}},
            r"^objective.cross_entropy.last: got '4ep', wanted a duration and off or only",
        ),
    ],
)
def test_what_cannot_be_is_one_line(objective, message):
    with pytest.raises(ConfigError, match=message) as caught:
        config("10ep", **objective)
    assert "\n" not in str(caught.value)


def test_epochs_beside_steps_are_checked_once_their_length_is_known():
    objective = config("10ep", regmixup={"weight": 1.0, "until": "75steps"}).objective
    check_course(objective, "10ep", 8)
    with pytest.raises(ValueError, match=r"until: got '75steps', wanted at most train.duration, '10ep'"):
        check_course(objective, "10ep", 7)


def test_terms_that_are_off_may_say_what_they_like():
    assert config("10ep", regmixup={"weight": 0.0, "until": "11ep"}).objective.active().keys() == {
        "cross_entropy"
    }
