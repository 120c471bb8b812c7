"""Right and wrong by class: accuracy of each, and which are taken for which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtk.config.errors import ConfigError
from rtk.data.sets.of_run import open_configured
from rtk.report import plots
from rtk.report.evaluated import EvaluatedRun
from rtk.report.figures import Captioned
from rtk.report.page_tables import Cell, Grid
from rtk.report.tables import format_value
from rtk.scores.decision import ACCEPT, decide_as_described

MOST_IN_MATRIX = 20  # classes; of more, the commonest confusions are listed
TOP_PAIRS = 15
WORST_SHOWN = 15  # classes that are shown at once; the others on a click
MOST_ROWS = 1000


def class_names(entry: EvaluatedRun) -> tuple[str, ...]:
    """Names of the classes by label: as the run or its training set have them, else the numbers."""
    seen = [entry.column("id", "label"), entry.table["prediction"].to_numpy()]
    count = 1 + max(int(numbers.max()) for numbers in seen)
    found = tuple((entry.run.read_json("environment.json") or {}).get("classes", ()))
    if not found:
        try:
            found = open_configured(entry.run.config_tree()["data"]["train"], "data.train").classes
        except (ConfigError, OSError):
            found = ()
    return found if len(found) >= count else tuple(map(str, range(count)))


def confusions(labels: np.ndarray, predictions: np.ndarray) -> list[tuple[int, int, int]]:
    """True class, predicted class and number of images of every mistake that was made, the commonest first.

    Args:
        labels: (N,) int64.
        predictions: (N,) int64.
    """
    wrong = labels != predictions
    pairs, counts = np.unique(np.stack([labels[wrong], predictions[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(pairs[0, n]), int(pairs[1, n]), int(counts[n])) for n in order]


def class_table(entry: EvaluatedRun, names: Sequence[str]) -> Grid:
    """Images and accuracy of each class, the worst first; under a decision rule, what it does to each."""
    labels, correct = entry.column("id", "label"), entry.column("id", "is_correct")
    images = np.bincount(labels, minlength=len(names))
    right = np.bincount(labels[correct], minlength=len(names))
    rule, columns = entry.decision, ["images", "accuracy %"]
    if rule is not None:
        predicted = entry.column("id", "prediction")
        accepted = decide_as_described(rule, *entry.pair("test"), predicted) == ACCEPT
        kept = np.bincount(labels[accepted], minlength=len(names))
        kept_right = np.bincount(labels[accepted & correct], minlength=len(names))
        columns += ["accepted %", "risk of the accepted %"]
    share = np.divide(right, images, out=np.ones(len(names)), where=images > 0)
    rows = []
    for number in np.argsort(share, kind="stable")[:MOST_ROWS]:
        shares = [(right[number], images[number])]
        if rule is not None:
            shares += [(kept[number], images[number]), (kept[number] - kept_right[number], kept[number])]
        cells = [Cell(format_value("accuracy", part / whole if whole else None)) for part, whole in shares]
        rows.append((names[number], [Cell(f"{images[number]:,}"), *cells]))
    return Grid(columns, rows, first="class")


def pair_table(entry: EvaluatedRun, names: Sequence[str]) -> Grid:
    """The commonest mistakes, with the share of the true class's images that each takes."""
    labels = entry.column("id", "label")
    images = np.bincount(labels)
    rows = []
    for true, predicted, count in confusions(labels, entry.column("id", "prediction"))[:TOP_PAIRS]:
        share = format_value("accuracy", count / images[true])
        rows.append((names[true], [Cell(names[predicted]), Cell(f"{count:,}"), Cell(share)]))
    return Grid(["taken for", "images", "share of the class %"], rows, "Commonest mistakes", "true class")


def confusion_figure(entry: EvaluatedRun, names: Sequence[str]) -> Captioned | None:
    """The confusion matrix of the test set; None where the classes are too many to be read."""
    count = len(names)
    if count > MOST_IN_MATRIX:
        return None
    cells = entry.column("id", "label") * count + entry.column("id", "prediction")
    counts = np.bincount(cells, minlength=count * count).reshape(count, count)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    return Captioned(
        plots.confusion_map(shares, counts, names),
        "Test images by true and predicted class. Good: numbers on the diagonal alone.",
    )
