"""Which metrics there are, and which way each is better: selection, sorting and searches ask here."""

from __future__ import annotations

from rtk.config.data import GROUPS

LARGER_IS_BETTER = {
    "accuracy": True,
    "aurc": False,
    "e_aurc": False,
    "augrc": False,
    "nll": False,
    "auroc_errors": True,
    "fpr95_errors": False,
    "aupr_success": True,
    "aupr_errors": True,
    "auroc": True,
    "fpr95": False,
    "aupr_in": True,
    "aupr_out": True,
    "ap_in": True,
    "ap_out": True,
    "ds_f1": True,
    "ds_aurc": False,
    "ood_f1": True,
    "ood_aurc": False,
}
VALIDATION = "val/"
FULL_SPECTRUM = "full_spectrum/"  # of test images with those under covariate shift
# Measured on validation sets after each epoch.
VALIDATION_METRICS = (
    "val/accuracy",
    "val/aurc",
    "val/nll",
    *(f"val/{metric}_{group}" for metric in ("auroc", "ds_f1", "ds_aurc") for group in GROUPS),
)


def bare_name(metric: str) -> str:
    """A metric without where it was measured: `aurc` of `val/aurc`."""
    return metric.removeprefix(VALIDATION).removeprefix(FULL_SPECTRUM)


def larger_is_better(metric: str) -> bool:
    """Which way a metric is better; its name may say where it was measured: `val/aurc`, `auroc_near`."""
    name = bare_name(metric)
    stem, _, group = name.rpartition("_")
    return LARGER_IS_BETTER[stem if group in GROUPS else name]
