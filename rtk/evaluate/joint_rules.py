"""DS metrics of the three joint rules, fitted on calibration images, and whether they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from rtk.config.data import GROUPS
from rtk.config.errors import ConfigError
from rtk.evaluate.run_decision import calibration_images
from rtk.evaluate.run_protocol import Evaluation, Measured
from rtk.evaluate.score_table import rows_of
from rtk.metrics import bootstrap_difference, ood_aurc, ood_f1
from rtk.scores.joint_fit import fit_joint_rule
from rtk.scores.joint_rule import RULES, JointRule, Rule

RESAMPLES = 200  # where evaluate.bootstrap says nothing
METRICS: dict[str, Callable[..., float]] = {"ds_f1": ood_f1, "ds_aurc": ood_aurc}
Strata = tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]


def compare_rules(evaluation: Evaluation, measured: Measured) -> dict[str, Any]:
    """Compare the rules where one other than the rectangle is wanted.

    Args:
        evaluation: of a run.
        measured: its scores.

    Returns:
        Nothing, or `joint_rules`: `fitted`, the rule that each became, for it is the rectangle where it is no
        better by cross-validation on the images that thresholds are chosen on; and by group of test sets
        (all its images taken together) `ds_f1` and `ds_aurc` of each, along its one score, with the
        `difference` from the rectangle and its 95 % bootstrap interval.

    Raises:
        ConfigError: there are no OOD images to fit them to.
    """
    settings = evaluation.config.evaluate
    if settings.rule == "rectangle":
        return {}
    pair = (settings.confidence, settings.ood_score)
    images = calibration_images(evaluation, measured.tuned.states, pair)
    if images.is_id.all():
        raise ConfigError(f"evaluate.rule: got {settings.rule}, wanted data.validation_ood to fit it to")
    rules = {name: fit_joint_rule(images, name) for name in RULES}
    resamples = settings.bootstrap or RESAMPLES
    groups = {}
    for group in GROUPS:
        strata = {name: _strata(measured.table, group, pair, rule) for name, rule in rules.items()}
        if strata["rectangle"][1][0].size:
            groups[group] = {name: _compared(strata, name, rules[name], resamples) for name in RULES}
    return {"joint_rules": {"fitted": {name: rule.rule for name, rule in rules.items()}, **groups}}


def _strata(table: pa.Table, group: str, pair: tuple[str, str], rule: JointRule) -> Strata:
    """Score and correctness of the ID test images, and score of a group's OOD images."""
    known, others = (rows_of(table, "group", name) for name in ("id", group))
    score, other = (rule.score(rows[pair[0]], rows[pair[1]]) for rows in (known, others))
    return (score, known["is_correct"]), (other,)


def _compared(strata: Mapping[Rule, Strata], name: Rule, rule: JointRule, resamples: int) -> dict[str, Any]:
    """Both metrics of a rule; of one that is not the rectangle also the differences from that."""
    own, base = strata[name], strata["rectangle"]
    values: dict[str, Any] = {key: metric(*own[0], *own[1]) for key, metric in METRICS.items()}
    if rule.rule != "rectangle":
        found = {
            key: asdict(bootstrap_difference(metric, base, own, resamples=resamples))
            for key, metric in METRICS.items()
        }
        values["difference"] = found
    return values
