"""Every metric that is selected, searched, sorted or shown by has one direction, from one table."""

from __future__ import annotations

from typing import get_args

import pytest

from rtk.config.metric_names import LARGER_IS_BETTER, VALIDATION_METRICS, larger_is_better
from rtk.config.training import TrainConfig
from rtk.report.tables import HEADLINE, METRICS


@pytest.mark.parametrize(
    ("metric", "larger"),
    [
        ("val/accuracy", True),
        ("val/nll", False),
        ("auroc_near", True),
        ("val/ds_aurc_far", False),
        ("fpr95", False),
    ],
)
def test_the_direction_does_not_depend_on_where_a_metric_was_measured(metric, larger):
    assert larger_is_better(metric) is larger


def test_whatever_can_be_chosen_or_shown_has_a_direction():
    selectable = get_args(TrainConfig.model_fields["select"].annotation)
    assert set(selectable) <= set(VALIDATION_METRICS)
    assert set(METRICS) <= set(LARGER_IS_BETTER)
    assert {larger_is_better(name) for name in (*selectable, *VALIDATION_METRICS, *HEADLINE)} == {True, False}
