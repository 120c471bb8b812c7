"""Sets of classes for images that a decision rule calls likely wrong, and how often the right one is in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from rtk.evaluate.run_protocol import Evaluation
from rtk.evaluate.score_table import rows_of
from rtk.evaluate.thresholds import Thresholds
from rtk.metrics.prediction_sets import SetRule, calibrate_sets, prediction_sets
from rtk.scores.decision import LIKELY_WRONG
from rtk.scores.threshold_search import ScoredImages, combine


def calibrated_sets(
    evaluation: Evaluation, table: pa.Table, found: Thresholds, images: ScoredImages
) -> tuple[SetRule | None, dict[str, Any]]:
    """The sets, calibrated on those ID images that thresholds were chosen on that are likely wrong by them.

    The right class is in the set of a likely-wrong ID image with the wanted probability, not of an image that
    is not asked about. It is exact for thresholds chosen on other images; of these it is nearly so.

    Args:
        evaluation: of a run, which says whether sets are wanted.
        table: scores of the test images.
        found: the thresholds.
        images: that thresholds were chosen on, ID images first.

    Returns:
        None where none are wanted; and for `metrics.json` `sets`: what was calibrated, and of the test images
        that are likely wrong the share whose set has the right class, and the mean number of classes in it.
    """
    settings, known = evaluation.config.evaluate, evaluation.calibration
    wanted = settings.prediction_sets
    if wanted.method is None:
        return None, {}
    unsure = found.decide(images.only(images.is_id)) == LIKELY_WRONG
    shares = known.logits.double().softmax(1).numpy()
    rule = calibrate_sets(shares[unsure], known.known_labels.numpy()[unsure], wanted.coverage, wanted.method)
    about = {"method": rule.method, "coverage": rule.coverage, "limit": rule.limit, "images": rule.images}
    return rule, {"sets": about | _on_test(evaluation, table, found, rule)}


def _on_test(evaluation: Evaluation, table: pa.Table, found: Thresholds, rule: SetRule) -> dict[str, Any]:
    """Of the likely-wrong test images; nothing where there are none, or a protocol measures only some."""
    settings, test = evaluation.config.evaluate, evaluation.predictions["test"]
    rows = rows_of(table, "group", "id")
    if len(rows["label"]) != len(test["label"]):
        return {}
    scores = (rows[settings.confidence], rows[settings.ood_score])
    unsure = found.decide(combine(*scores, rows["is_correct"], predicted=rows["prediction"])) == LIKELY_WRONG
    if not unsure.any():
        return {}
    logits = np.asarray(test["logits"])[unsure].astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    inside = prediction_sets(shares / shares.sum(1, keepdims=True), rule)
    hits = inside[np.arange(len(inside)), np.asarray(test["label"])[unsure]]
    return {"test_images": len(inside), "test_coverage": hits.mean(), "test_size": inside.sum(1).mean()}
