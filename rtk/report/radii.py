"""RAT's figures: robust radii of right and wrong predictions, AURC over the temperature, what scores cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from rtk.config.errors import ConfigError
from rtk.evaluate.columns import as_matrix
from rtk.evaluate.predictions_file import read_stamp
from rtk.evaluate.throughput import read_throughput
from rtk.metrics import aurc
from rtk.report import plots
from rtk.report.curves import Curve
from rtk.report.evaluated import EvaluatedRun
from rtk.report.figures import Captioned
from rtk.report.page_tables import Cell, Grid, fit_width
from rtk.runs.bounded_parquet import open_bounded
from rtk.scores import SCORES

RADII = ("rr_fast", "rr_bs", "deepfool", "fab")


def radius_section(evaluated: Sequence[EvaluatedRun]) -> dict[str, Any]:
    """Figures and tables of the page, those that RAT's paper compares scores by (arXiv 2503.14783).

    Raises:
        ConfigError: no run was evaluated with a score that is a radius.
    """
    if not any(radii_of(entry) for entry in evaluated):
        raise ConfigError(
            f"--radii: no run was evaluated with {', '.join(RADII)}: rtk evaluate RUN --scores rr_fast rr_bs"
        )
    figures = [*_histograms(evaluated), *_temperatures(evaluated)]
    return {
        "figures": figures,
        "tables": fit_width(median_table(evaluated)) + fit_width(cost_table(evaluated)),
    }


def radii_of(entry: EvaluatedRun) -> tuple[str, ...]:
    """Scores of a run that are radii, in pixel units."""
    return tuple(name for name in RADII if name in entry.table.column_names)


def medians(entry: EvaluatedRun, name: str) -> tuple[float, float]:
    """Median radius of the test images that are predicted right, and of those that are not; NaN for none."""
    parts = _right_and_wrong(entry, name)
    return tuple(float(np.median(values)) if len(values) else np.nan for values in parts)  # type: ignore[return-value]


def _right_and_wrong(entry: EvaluatedRun, name: str) -> tuple[np.ndarray, np.ndarray]:
    radius, right = entry.column("id", name), entry.column("id", "is_correct")
    return radius[right], radius[~right]


def _histograms(evaluated: Sequence[EvaluatedRun]) -> Iterator[Captioned]:
    for entry in evaluated:
        for name in radii_of(entry):
            right, wrong = medians(entry, name)
            smallest = np.finfo(np.float32).tiny
            logs = [np.log10(values.clip(smallest)) for values in _right_and_wrong(entry, name)]
            parts = dict(zip(("right", "wrong"), logs, strict=True))
            yield Captioned(
                plots.histograms(
                    parts, f"{entry.label}: {name}", "radius, as a power of ten (pixels in [0, 1])"
                ),
                f"How far an image can be changed before its prediction does. Median {right:.3g} where it is "
                f"right, {wrong:.3g} where it is wrong. Good: far apart, as then it tells them apart.",
            )


def temperature_curves(entry: EvaluatedRun) -> dict[str, Curve]:
    """AURC over the temperatures of RAT's protocol, of the scores of logits that have one, by name.

    None where the predictions of the test images are gone, or have been made anew since the evaluation.
    """
    path = entry.run.evaluation / "predictions" / "test.parquet"
    made_of, measured = read_stamp(path).get("predictions", {}), entry.result.get("measured_on", {})
    tested = measured.get("test", {})
    kept = {key: made_of.get(key) for key in ("data", "rows", "step")}
    if kept != {"data": tested.get("data"), "rows": tested.get("rows"), "step": entry.result["step"]}:
        return {}
    with open_bounded(path) as parquet:
        table = parquet.table(["logits", "label"])
    logits = torch.from_numpy(as_matrix(table["logits"], len(table)).copy())
    correct = logits.argmax(1).numpy() == table["label"].to_numpy()
    found = {}
    for name, score in SCORES.items():
        temperatures = score.rat_search.get("temperature", ()) if score.inputs == "logits" else ()
        if temperatures:
            values = [aurc(score.score(logits, temperature=T).numpy(), correct) for T in temperatures]
            found[name] = (np.array(temperatures, float), np.array(values))
    return found


def _temperatures(evaluated: Sequence[EvaluatedRun]) -> Iterator[Captioned]:
    for entry in evaluated:
        lines = temperature_curves(entry)
        if lines:
            lowest = min(lines, key=lambda name: lines[name][1].min())
            temperatures, values = lines[lowest]
            best = f"{lowest} at {temperatures[values.argmin()]:g}: {1000 * values.min():.2f} ‰"
            yield Captioned(
                plots.over_powers(lines, f"{entry.label}: AURC over the temperature", "temperature", "AURC"),
                f"Lowest with {best}. On the test images: to look at, "
                "not to choose by; evaluate.protocol=rat_splits chooses on others.",
            )


def median_table(evaluated: Sequence[EvaluatedRun]) -> Grid:
    """Median radii of right and wrong predictions, and the first over the second, of every run."""
    names = [name for name in RADII if any(name in radii_of(entry) for entry in evaluated)]
    headings = [f"{entry.label} {kind}" for entry in evaluated for kind in ("right", "wrong", "ratio")]
    rows = [(name, [cell for entry in evaluated for cell in _median_cells(entry, name)]) for name in names]
    return Grid(headings, rows, "Median radius on the test set")


def _median_cells(entry: EvaluatedRun, name: str) -> list[Cell]:
    if name not in radii_of(entry):
        return [Cell("–")] * 3
    right, wrong = medians(entry, name)
    return [Cell(f"{value:.3g}") for value in (right, wrong, right / wrong if wrong else np.inf)]


def cost_table(evaluated: Sequence[EvaluatedRun]) -> Grid:
    """Images a second by score and run: of images on one actor, of predictions in the driver."""
    found = [read_throughput(entry.run.evaluation) for entry in evaluated]
    names = dict.fromkeys(name for one in found for name in one)
    rows = [(name, [Cell(f"{one[name]:,.0f}" if name in one else "–") for one in found]) for name in names]
    return Grid([entry.label for entry in evaluated], rows, "Images a second")
