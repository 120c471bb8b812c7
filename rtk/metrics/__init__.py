"""Metrics for classifiers that know when they are wrong.

Pure NumPy in float64 on array-likes. Every score and confidence: larger = more trustworthy; flags are
booleans. Results are fractions, not percent.
"""

from rtk.metrics.bootstrap import (
    Interval,
    bootstrap_difference,
    bootstrap_interval,
    proportion_interval,
    resample_rows,
)
from rtk.metrics.calibration import ReliabilityCurve, adaptive_ece, brier, ece, nll, reliability_curve
from rtk.metrics.grid import GridCounts, GridMetrics, ScoreRange
from rtk.metrics.joint import (
    DSThresholds,
    ds_aurc,
    ds_best_thresholds,
    ds_f1,
    ds_f1_surface,
    ds_risk_coverage,
    joint_metrics,
    ood_aurc,
    ood_f1,
)
from rtk.metrics.ranking import aupr, auroc, fpr_at_tpr, misclassification_detection, ood_detection
from rtk.metrics.selective import (
    RiskCoverage,
    accuracy,
    augrc,
    aurc,
    coverage_at_risk,
    e_aurc,
    risk_at_coverage,
    risk_coverage,
    selective_classification,
)

__all__ = [
    "DSThresholds",
    "GridCounts",
    "GridMetrics",
    "Interval",
    "ReliabilityCurve",
    "RiskCoverage",
    "ScoreRange",
    "accuracy",
    "adaptive_ece",
    "augrc",
    "aupr",
    "aurc",
    "auroc",
    "bootstrap_difference",
    "bootstrap_interval",
    "brier",
    "coverage_at_risk",
    "ds_aurc",
    "ds_best_thresholds",
    "ds_f1",
    "ds_f1_surface",
    "ds_risk_coverage",
    "e_aurc",
    "ece",
    "fpr_at_tpr",
    "joint_metrics",
    "misclassification_detection",
    "nll",
    "ood_aurc",
    "ood_detection",
    "ood_f1",
    "proportion_interval",
    "reliability_curve",
    "resample_rows",
    "risk_at_coverage",
    "risk_coverage",
    "selective_classification",
]
