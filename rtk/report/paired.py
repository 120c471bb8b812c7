"""Two runs against each other: a paired bootstrap over the images that both were tested on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from rtk.config.data import GROUPS
from rtk.evaluate.predictions_file import read_stamp
from rtk.metrics import accuracy, augrc, aurc, auroc, bootstrap_difference, ds_aurc, ds_f1, e_aurc, fpr_at_tpr
from rtk.metrics.bootstrap import Interval
from rtk.metrics.delong import auroc_difference
from rtk.report.evaluated import EvaluatedRun

Arrays = Sequence[np.ndarray]

DRAWS = 2_000_000  # images drawn over all resamples of a metric: some seconds
FEWEST, MOST = 200, 1000  # resamples
MOST_IMAGES = 500  # test images times OOD sets on which the joint metrics are resampled: some 10 seconds
JOINT = ("ds_f1", "ds_aurc")
ERROR_METRICS: Mapping[str, Callable[..., float]] = {
    "accuracy": lambda confidence, correct: accuracy(correct),
    "aurc": aurc,
    "e_aurc": e_aurc,
    "augrc": augrc,
}


def _is_ood(test: np.ndarray, ood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return -np.append(test, ood), np.arange(len(test) + len(ood)) >= len(test)


# Of confidence, OOD score, correctness of the test images; confidence, OOD score of those of an OOD set.
OOD_METRICS: Mapping[str, Callable[..., float]] = {
    "auroc": lambda _, test, __, ___, ood: auroc(*_is_ood(test, ood)),
    "fpr95": lambda _, test, __, ___, ood: fpr_at_tpr(*_is_ood(test, ood)),
    "ds_f1": ds_f1,
    "ds_aurc": ds_aurc,
}


def paired_difference(first: EvaluatedRun, second: EvaluatedRun, key: str) -> tuple[Interval, int] | None:
    """What a metric of the second run has over the first's, and the number of images both were tested on.

    Args:
        first: the baseline.
        second: of one seed as well, each with the scores it was evaluated with.
        key: of a headline metric, such as `aurc` or `auroc_near`.

    Returns:
        The 95 % interval of resamples that take the same images of both. None where they were not tested on
        the same images, the metric is averaged over splits or has no such interval, or takes too long.
    """
    stem, _, group = key.rpartition("_")
    group = group if group in GROUPS else ""
    name = stem if group else key
    sets = ["test", *(first.sets_of(group) if group else ())]
    if name not in (OOD_METRICS if group else ERROR_METRICS) or not _share(first, second, sets, group):
        return None
    strata = [[_arrays(entry, one) for one in sets] for entry in (first, second)]
    images = sum(len(arrays[0]) for arrays in strata[0])
    repeated = len(strata[0][0][0]) * (len(sets) - 1)
    if name in JOINT and (repeated > MOST_IMAGES or "grid" in (first.ds_method, second.ds_method)):
        return None
    metric = _mean_over_sets(OOD_METRICS[name]) if group else _of_test(ERROR_METRICS[name])
    fewest = FEWEST if name in JOINT else int(np.clip(DRAWS // images, FEWEST, MOST))
    return bootstrap_difference(metric, *strata, resamples=fewest), images


def paired_auroc(first: EvaluatedRun, second: EvaluatedRun, place: str) -> Interval | None:
    """What the AUROC of the second run's OOD score has over that of the first's, by the test of DeLong.

    Args:
        first: the baseline.
        second: a run, or the same one with another score.
        place: `near` or `far`, the mean over whose sets it is, or the name of a set.

    Returns:
        The 95 % interval; None where they were not tested on the same images, or on splits of these.
    """
    group = place if place in GROUPS else ""
    sets = first.sets_of(group) if group else [place]
    if not _share(first, second, ["test", *sets], group):
        return None
    known = [entry.pair("test")[1] for entry in (first, second)]
    others = [(first.pair(name)[1], second.pair(name)[1]) for name in sets]
    return auroc_difference(known[0], known[1], others)


def _share(first: EvaluatedRun, second: EvaluatedRun, sets: Sequence[str], group: str) -> bool:
    """Whether both were tested on the same images of some sets, with no splits."""
    if first.result.get("std") or second.result.get("std"):
        return False
    if group and set(first.sets_of(group)) != set(second.sets_of(group)):
        return False
    return all(
        _identity(first, name).equals(_identity(second, name)) and _same(first, second, name) for name in sets
    )


def _identity(entry: EvaluatedRun, name: str) -> pa.Table:
    """Ids of the images of a set in their order, and of the test set the labels."""
    mask = np.asarray(entry.table["set"]) == name
    columns = ["sample_id", "label"] if name == "test" else ["sample_id"]
    return entry.table.select(columns).filter(pa.array(mask))


def _same(first: EvaluatedRun, second: EvaluatedRun, name: str) -> bool:
    """Whether the files of a set had the same content, as far as it was noted."""
    noted = [
        read_stamp(entry.run.evaluation / "predictions" / f"{name}.parquet")
        .get("predictions", {})
        .get("data")
        for entry in (first, second)
    ]
    return None in noted or noted[0] == noted[1]


def _arrays(entry: EvaluatedRun, name: str) -> Arrays:
    """Confidence and OOD score of a set, and of the test set whether each prediction is right."""
    right = [entry.column("id", "is_correct").astype(bool)] if name == "test" else []
    return [*entry.pair(name), *right]


def _of_test(metric: Callable[..., float]) -> Callable[..., float]:
    return lambda confidence, ood_score, correct: metric(confidence, correct)


def _mean_over_sets(metric: Callable[..., float]) -> Callable[..., float]:
    def mean(*arrays: np.ndarray) -> float:
        test, rest = arrays[:3], arrays[3:]
        return float(np.mean([metric(*test, *rest[n : n + 2]) for n in range(0, len(rest), 2)]))

    return mean
