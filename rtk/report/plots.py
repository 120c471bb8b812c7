"""Figures of a report, as SVG text: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rtk.report.curves import Curve
from rtk.report.plot_style import COLOURS, SIZE, STYLE, as_svg, line_look

PART_COLOURS = {"right": "#0072b2", "wrong": "#d55e00", "near": "#e69f00", "far": "#666666"}
HISTOGRAM_BINS = 25
MARK: Any = {"color": "#1f2933", "linewidth": 1.2, "linestyle": (0, (4, 2))}  # a threshold, a chosen epoch
Surface = tuple[np.ndarray, np.ndarray, np.ndarray]


def curves(
    lines: Mapping[str, Curve],
    title: str,
    x_label: str,
    y_label: str,
    numbers: Mapping[str, int] | None = None,
    diagonal: bool = False,
) -> str:
    """Lines of shares by name, each a pair of arrays x, y; the horizontal axis shows 0 to 100 %.

    Args:
        lines: at most seven can be told apart.
        title: heading.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        numbers: of all that the page shows, those without a line here too; they say the colour, and where
            there are several, each line is named. None: the lines, in their order.
        diagonal: draw the line of chance.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        _draw_lines(axes, lines, numbers)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        _percent(axes.xaxis, axes.yaxis)
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        if diagonal:
            axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, zorder=0)
            axes.set_ylim(0, 1)
        return as_svg(figure)


def histories(
    lines: Mapping[str, Curve],
    title: str,
    x_label: str,
    y_label: str,
    numbers: Mapping[str, int] | None = None,
    mark: tuple[float, str] | None = None,
) -> str:
    """Lines over something that is counted: epochs, severities.

    Args:
        lines: by name, x and y.
        title: heading.
        x_label: of the horizontal axis, which has whole numbers.
        y_label: of the vertical axis.
        numbers: as in `curves`.
        mark: a place on the horizontal axis that is marked, and the words for it.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        _draw_lines(axes, lines, numbers)
        if mark is not None:
            axes.axvline(mark[0], **MARK, label=mark[1])
            axes.legend(loc="best", fontsize=8)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return as_svg(figure)


def over_powers(lines: Mapping[str, Curve], title: str, x_label: str, y_label: str) -> str:
    """Lines over something that is multiplied, on a logarithmic axis; arguments as in `histories`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        _draw_lines(axes, lines, None)
        axes.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log")
        return as_svg(figure)


def _draw_lines(axes: Axes, lines: Mapping[str, Curve], numbers: Mapping[str, int] | None) -> None:
    numbers = numbers or {name: number for number, name in enumerate(lines)}
    for name, (x, y) in lines.items():
        alone: Any = {"marker": "o", "markersize": 5} if len(x) == 1 else {}  # one point makes no line
        axes.plot(
            x, y, label=name, linewidth=1.8, gid=f"line-{numbers[name]}", **line_look(numbers[name]), **alone
        )
    if len(numbers) > 1:
        axes.legend(loc="best", fontsize=8)


def histograms(
    parts: Mapping[str, np.ndarray], title: str, x_label: str, threshold: float | None = None
) -> str:
    """Shares of a score over the images that are right, wrong, near-OOD and far-OOD, as outlines.

    Args:
        parts: scores by kind of image.
        title: heading.
        x_label: name of the score.
        threshold: of the decision rule, from which on images are accepted; None: there is none.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        filled = {name: values for name, values in parts.items() if len(values)}
        pooled = np.concatenate(list(filled.values()))
        low, high = np.quantile(pooled, [0.005, 0.995])
        bins = np.linspace(low, high if high > low else low + 1, HISTOGRAM_BINS + 1)
        for name, values in filled.items():
            counts, _ = np.histogram(np.clip(values, bins[0], bins[-1]), bins)
            label = f"{name} ({len(values):,})"
            axes.stairs(
                counts / len(values),
                bins,
                color=PART_COLOURS[name],
                linewidth=1.7,
                label=label,
                baseline=None,
            )
        if threshold is not None:
            axes.axvline(
                float(np.clip(threshold, bins[0], bins[-1])), **MARK, label=f"accepted ≥ {threshold:.4g}"
            )
        axes.set(title=title, xlabel=x_label, ylabel="share of the images of a kind")
        axes.set_ylim(bottom=0)
        _percent(axes.yaxis)
        axes.legend(loc="best", fontsize=8)
        return as_svg(figure)


def reliability(
    confidence: Sequence[float], accuracy: Sequence[float], count: Sequence[int], title: str, number: int = 0
) -> str:
    """Accuracy against confidence in bins, above the share of images in each; in the colour of a run."""
    colour = COLOURS[number % len(COLOURS)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1, label="perfect")
        upper.vlines(confidence, confidence, accuracy, color="#52606d", linewidth=2.5, alpha=0.6, label="gap")
        upper.plot(confidence, accuracy, "o-", color=colour, markersize=4, linewidth=1.6, label="model")
        upper.set(title=title, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        upper.legend(loc="upper left", fontsize=8)
        share = np.array(count) / np.sum(count)
        lower.bar(confidence, share, width=0.045, color=colour, alpha=0.7)
        lower.set(xlabel="confidence", ylabel="images")
        _percent(upper.yaxis, lower.xaxis, lower.yaxis)
        return as_svg(figure)


def f1_map(
    surface: Surface,
    best: tuple[float, float, float],
    title: str,
    axis: str,
    chosen: tuple[float, float] | None = None,
) -> str:
    """DS-F1 over both thresholds as a heat map, with the best pair and the chosen one marked.

    Args:
        surface: OOD thresholds (A,), confidence thresholds (B,), F1 (A, B).
        best: the best F1 and its thresholds, OOD first.
        title: heading.
        axis: name of the OOD score.
        chosen: thresholds of the decision rule, OOD first; None: there is none.
    """
    tau_ood, tau_id, f1 = surface
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=SIZE)
        flat = figure.subplots()
        mesh = flat.pcolormesh(
            tau_id, tau_ood, f1, shading="nearest", rasterized=True, **_f1_colours(best[0])
        )
        _ring(flat, best[2], best[1], f"best {best[0]:.3f}")
        if chosen is not None:
            x, y = np.clip(chosen[1], tau_id[0], tau_id[-1]), np.clip(chosen[0], tau_ood[0], tau_ood[-1])
            for style in ({"color": "white", "linewidth": 2.6}, {**MARK, "color": "black"}):
                flat.axvline(x, **style)
                flat.axhline(y, **style)
            flat.plot([], [], **{**MARK, "color": "black"}, label="decision rule")
        flat.set(title=title, xlabel="confidence threshold", ylabel=f"{axis} threshold")
        figure.colorbar(mesh, ax=flat, label="F1")
        flat.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, fontsize=8)
        return as_svg(figure)


def f1_surface(surface: Surface, top: float, title: str, axis: str) -> str:
    """DS-F1 over both thresholds in three dimensions; arguments as in `f1_map`, `top` is the best F1."""
    tau_ood, tau_id, f1 = surface
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=SIZE)
        solid: Any = figure.add_subplot(projection="3d")
        x, y = np.meshgrid(tau_id, tau_ood)
        solid.plot_surface(x, y, f1, rcount=50, ccount=50, rasterized=True, **_f1_colours(top))
        solid.set(title=title, xlabel="confidence", ylabel=axis, zlabel="F1", zlim=(0, max(top, 0.01)))
        for direction in (solid.xaxis, solid.yaxis, solid.zaxis):
            direction.set_major_locator(MaxNLocator(4))
            direction.labelpad = 8
        solid.view_init(elev=28, azim=-125)
        return as_svg(figure)


def _f1_colours(top: float) -> dict[str, Any]:
    return {"cmap": "viridis", "vmin": 0, "vmax": max(top, 0.01)}


def _ring(axes: Axes, x: float, y: float, label: str) -> None:
    ring: dict[str, Any] = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "clip_on": False}
    axes.plot(x, y, **ring, markeredgecolor="white", markeredgewidth=3.5)
    axes.plot(x, y, **ring, markeredgecolor="black", markeredgewidth=1.5, linestyle="none", label=label)


def confusion_map(shares: np.ndarray, counts: np.ndarray, names: Sequence[str]) -> str:
    """A confusion matrix: a row for each true class, shares of its images in colour, counts as numbers.

    Args:
        shares: (C, C), rows add up to 1.
        counts: (C, C).
        names: of the classes.
    """
    side = 2.2 + 0.36 * len(names)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side + 0.9, side))
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in zip(*np.nonzero(counts), strict=True):
            look: Any = {"color": "white" if shares[row, column] > 0.55 else "black", "fontsize": 8}
            axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", **look)
        ticks = range(len(names))
        axes.set_xticks(ticks, names, rotation=45, ha="right")
        axes.set_yticks(ticks, names)
        axes.set(title="Confusion", xlabel="predicted", ylabel="true class")
        bar = figure.colorbar(image, ax=axes, label="share of the class", fraction=0.046)
        _percent(bar.ax.yaxis)
        return as_svg(figure)


def _percent(*directions: Any) -> None:
    for direction in directions:
        direction.set_major_formatter(PercentFormatter(1))
