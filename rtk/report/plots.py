"""Figures of a report, as SVG text: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rtk.report.plot_style import COLOURS, DASHES, SIZE, STYLE, as_svg

PART_COLOURS = {"right": "#0072b2", "wrong": "#d55e00", "near": "#e69f00", "far": "#666666"}
HISTOGRAM_BINS = 50
MAX_POINTS = 600  # of a curve: more cannot be seen and would make the page heavy

Curve = tuple[np.ndarray, np.ndarray]


def curves(
    lines: Mapping[str, Curve],
    title: str,
    x_label: str,
    y_label: str,
    percent: bool = True,
    diagonal: bool = False,
) -> str:
    """Lines by name, each a pair of arrays x, y.

    Args:
        lines: at most seven can be told apart.
        title: heading.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        percent: both axes are shares; the horizontal one is shown from 0 to 100 %.
        diagonal: draw the line of chance.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        for number, (name, (x, y)) in enumerate(lines.items()):
            keep = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int))
            look: dict[str, Any] = {"color": COLOURS[number % 7], "linestyle": DASHES[number % 7]}
            axes.plot(np.asarray(x)[keep], np.asarray(y)[keep], label=name, linewidth=1.8, **look)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if percent:
            _percent(axes.xaxis, axes.yaxis)
            axes.set_xlim(0, 1)
            axes.set_ylim(bottom=0)
        if diagonal:
            axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, zorder=0)
            axes.set_ylim(0, 1)
        if len(lines) > 1 or diagonal:
            axes.legend(loc="best", fontsize=8)
        return as_svg(figure)


def histograms(parts: Mapping[str, np.ndarray], title: str, x_label: str) -> str:
    """Shares of a score over the images that are right, wrong, near-OOD and far-OOD."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        filled = {name: values for name, values in parts.items() if len(values)}
        pooled = np.concatenate(list(filled.values()))
        low, high = np.quantile(pooled, [0.005, 0.995])
        bins = np.linspace(low, high if high > low else low + 1, HISTOGRAM_BINS + 1).tolist()
        for name, values in filled.items():
            look: dict[str, Any] = {
                "color": PART_COLOURS[name],
                "weights": np.full(len(values), 1 / len(values)),
            }
            inside = np.clip(values, bins[0], bins[-1])
            axes.hist(inside, bins, histtype="stepfilled", alpha=0.18, **look)
            axes.hist(inside, bins, histtype="step", linewidth=1.6, label=f"{name} ({len(values):,})", **look)
        axes.set(title=title, xlabel=x_label, ylabel="share of the images of a kind")
        _percent(axes.yaxis)
        axes.legend(loc="best", fontsize=8)
        return as_svg(figure)


def reliability(
    confidence: Sequence[float], accuracy: Sequence[float], count: Sequence[int], title: str
) -> str:
    """Accuracy against confidence in bins, above the share of images that each bin holds."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, label="perfect")
        upper.vlines(
            confidence, confidence, accuracy, color=COLOURS[1], linewidth=2.5, alpha=0.6, label="gap"
        )
        upper.plot(confidence, accuracy, "o-", color=COLOURS[0], markersize=4, linewidth=1.6, label="model")
        upper.set(title=title, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        upper.legend(loc="upper left", fontsize=8)
        share = np.array(count) / np.sum(count)
        lower.bar(confidence, share, width=0.045, color=COLOURS[0], alpha=0.7)
        lower.set(xlabel="confidence", ylabel="images")
        _percent(upper.yaxis, lower.xaxis, lower.yaxis)
        return as_svg(figure)


def f1_surface(
    surface: tuple[np.ndarray, np.ndarray, np.ndarray],
    best: tuple[float, float, float],
    title: str,
    axis: str,
) -> str:
    """DS-F1 over both thresholds, as a heat map and in three dimensions, with the best pair marked.

    Args:
        surface: OOD thresholds (A,), confidence thresholds (B,), F1 (A, B).
        best: the best F1 and its thresholds, OOD first.
        title: heading.
        axis: name of the OOD score.
    """
    tau_ood, tau_id, f1 = surface
    top = max(best[0], 0.01)
    colours: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": top}
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9.4, 3.8))
        flat = figure.add_subplot(1, 2, 1)
        mesh = flat.pcolormesh(tau_id, tau_ood, f1, shading="nearest", rasterized=True, **colours)
        ring: dict[str, Any] = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "clip_on": False}
        flat.plot(best[2], best[1], **ring, markeredgecolor="white", markeredgewidth=3.5)
        flat.plot(best[2], best[1], **ring, markeredgecolor="black", markeredgewidth=1.5)
        heading = f"{title}: best {best[0]:.3f} (ring)"
        flat.set(title=heading, xlabel="confidence threshold", ylabel=f"{axis} threshold")
        figure.colorbar(mesh, ax=flat, label="F1")
        solid: Any = figure.add_subplot(1, 2, 2, projection="3d")
        x, y = np.meshgrid(tau_id, tau_ood)
        solid.plot_surface(x, y, f1, rcount=50, ccount=50, rasterized=True, **colours)
        solid.set(xlabel="confidence", ylabel=axis, zlabel="F1", zlim=(0, top))
        for direction in (solid.xaxis, solid.yaxis, solid.zaxis):
            direction.set_major_locator(mpl.ticker.MaxNLocator(4))
            direction.labelpad = 8
        solid.view_init(elev=28, azim=-125)
        return as_svg(figure)


def _percent(*directions: Any) -> None:
    for direction in directions:
        direction.set_major_formatter(PercentFormatter(1))
