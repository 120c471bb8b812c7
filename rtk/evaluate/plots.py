"""Figures of a report, as SVG text: pure functions of arrays."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
# Okabe-Ito: told apart with any colour vision.
RUN_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
PART_COLOURS = {"right": "#0072b2", "wrong": "#d55e00", "near": "#e69f00", "far": "#999999"}
HISTOGRAM_BINS = 50
MAX_POINTS = 600  # of a curve: more cannot be seen and would make the page heavy

Curve = tuple[np.ndarray, np.ndarray]


def curves(lines: Mapping[str, Curve], title: str, x_label: str, y_label: str, percent: bool = True) -> str:
    """Lines by name, each a pair of arrays x, y."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.3))
        axes = figure.subplots()
        for (name, (x, y)), colour in zip(lines.items(), RUN_COLOURS * 9, strict=False):
            keep = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int))
            axes.plot(np.asarray(x)[keep], np.asarray(y)[keep], label=name, color=colour, linewidth=1.8)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if percent:
            axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
            axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
            axes.set_xlim(0, 1)
            axes.set_ylim(bottom=0)
        axes.legend(loc="best", fontsize=9)
        return _svg(figure)


def histograms(parts: Mapping[str, np.ndarray], title: str, x_label: str) -> str:
    """Densities of a score over the images that are right, wrong, near-OOD and far-OOD."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.3))
        axes = figure.subplots()
        pooled = np.concatenate([values for values in parts.values() if len(values)])
        low, high = np.quantile(pooled, [0.002, 1.0])
        bins = np.linspace(low, high if high > low else low + 1, HISTOGRAM_BINS + 1).tolist()
        for name, values in parts.items():
            if len(values):
                weights = np.full(len(values), 1 / len(values))
                shape: dict[str, Any] = {"histtype": "stepfilled", "alpha": 0.35, "color": PART_COLOURS[name]}
                axes.hist(
                    np.clip(values, low, high),
                    bins,
                    weights=weights,
                    label=f"{name} ({len(values)})",
                    **shape,
                )
                axes.hist(
                    np.clip(values, low, high),
                    bins,
                    weights=weights,
                    histtype="step",
                    color=PART_COLOURS[name],
                )
        axes.set(title=title, xlabel=x_label, ylabel="share of images")
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
        axes.legend(loc="best", fontsize=9)
        return _svg(figure)


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
    top = max(best[0], 0.05)
    colours: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": top}
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9.4, 3.6))
        flat = figure.add_subplot(1, 2, 1)
        mesh = flat.pcolormesh(
            tau_id, tau_ood, f1, cmap="viridis", vmin=0, vmax=1, shading="nearest", rasterized=True
        )
        ring: dict[str, Any] = {"marker": "o", "markersize": 9, "markerfacecolor": "none"}
        flat.plot(best[2], best[1], **ring, markeredgecolor="white", markeredgewidth=3.5)
        flat.plot(best[2], best[1], **ring, markeredgecolor="black", markeredgewidth=1.5)
        heading = f"{title}: best {best[0]:.3f}"
        flat.set(title=heading, xlabel="confidence threshold", ylabel=f"{axis} threshold")
        figure.colorbar(mesh, ax=flat, label="F1")
        solid: Any = figure.add_subplot(1, 2, 2, projection="3d")
        x, y = np.meshgrid(tau_id, tau_ood)
        solid.plot_surface(x, y, f1, rcount=50, ccount=50, rasterized=True, **colours)
        solid.set(xlabel="confidence", ylabel=axis, zlabel="F1", zlim=(0, top))
        solid.view_init(elev=28, azim=-125)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure as an `<svg>` element without XML prologue, dates or fixed size."""
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=110)
    text = buffer.getvalue()
    return re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text[text.index("<svg") :], count=1)
