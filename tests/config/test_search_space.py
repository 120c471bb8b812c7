"""Distributions of a search space."""

from __future__ import annotations

import pytest

from rtk.config.search_space import Parameter, nearest


@pytest.mark.parametrize(
    ("kind", "arguments", "value", "expected"),
    [
        ("uniform", (0.5, 2.0), 2.25, 2.0),
        ("loguniform", (0.5, 2.0), 0.25, 0.5),
        ("randint", (1, 4), 3, 3),
        ("quniform", (1.0, 2.0, 0.25), 1.4, 1.5),
        ("quniform", (1.0, 2.0, 0.75), 2.0, 1.75),
        ("quniform", (1.0, 2.0, 0.25), 0.0, 1.0),
        ("quniform", (0.0, 1.0, 0.1), 1.0, 1.0),
        ("choice", ("a", "b"), "b", "b"),
        ("choice", ("a", "b"), "c", "a"),
    ],
)
def test_the_nearest_value_that_can_be_drawn(kind, arguments, value, expected):
    assert nearest(Parameter(**{kind: arguments}), value) == expected
