"""Figures of a comparison or a search, as SVG text: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rtk.report.plot_style import COLOURS, SIZE, STYLE, as_svg

# The worst run light but legible on white, the best dark.
GOODNESS = LinearSegmentedColormap.from_list("goodness", ["#b3bfcc", "#0072b2", "#08244a"])
STATE_LOOKS = {"complete": (COLOURS[0], "o"), "pruned": (COLOURS[4], "v"), "failed": (COLOURS[1], "x")}
LABEL: Any = {"bbox": {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}}
LOG_RATIO = 20  # an axis whose values span more than this is logarithmic


def parallel_coordinates(
    columns: Mapping[str, Sequence[Any]],
    metric: str,
    values: Sequence[float],
    larger_is_better: bool,
    logarithmic: Mapping[str, bool] | None = None,
) -> str:
    """A line per run through its values of several keys, coloured by a metric, the best on top.

    Args:
        columns: values by key, one per run; numbers, or words (placed in order of appearance); None for none.
        metric: name of the last axis.
        values: the metric, one per run.
        larger_is_better: which way it is better.
        logarithmic: whether the axis of a key is; of those not named, the values decide.
    """
    axes_columns = {**columns, metric: values}
    scales = {name: _scale(column, (logarithmic or {}).get(name)) for name, column in axes_columns.items()}
    placed = np.array([_placed(column, scales[name]) for name, column in axes_columns.items()])
    goodness = _goodness(values, larger_is_better)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9.4, 3.8))
        axes = figure.subplots()
        for run in np.argsort(goodness):
            look = {"color": GOODNESS(goodness[run]), "linewidth": 1.1 + 1.4 * goodness[run] ** 4}
            axes.plot(range(len(placed)), placed[:, run], **look)
        for number, (name, column) in enumerate(axes_columns.items()):
            axes.vlines(number, 0, 1, color="#9aa5b1", linewidth=0.8, zorder=0)
            for height, text in _ticks(column, scales[name]):
                axes.annotate(
                    text,
                    (number, height),
                    (4, 0),
                    textcoords="offset points",
                    fontsize=8,
                    va="center",
                    **LABEL,
                )
            scale = scales[name]
            kind = " (log)" if scale is not None and scale[2] else ""
            axes.annotate(f"{name}{kind}", (number, 1.08), ha="center", fontsize=8.5)
        axes.set(xlim=(-0.15, len(placed) - 0.45), ylim=(-0.05, 1.16), yticks=[], xticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
        return as_svg(figure)


def _goodness(values: Sequence[float], larger_is_better: bool) -> np.ndarray:
    """0 for the worst ... 1 for the best by rank, (N,); equal ones are equally good."""
    _, ranks = np.unique(np.array(values) * (1 if larger_is_better else -1), return_inverse=True)
    return ranks / ranks.max() if ranks.max() else np.ones(len(ranks))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Scale = tuple[float, float, bool]  # lowest and highest number, whether the axis is logarithmic


def _scale(column: Sequence[Any], logarithmic: bool | None) -> Scale | None:
    """The axis of a column; None for words."""
    known = [value for value in column if value is not None]
    if not known or not all(map(_is_number, known)):
        return None
    low, high = min(known), max(known)
    is_wide = low > 0 and high / low > LOG_RATIO
    return low, high, low > 0 and (is_wide if logarithmic is None else logarithmic)


def _placed(column: Sequence[Any], scale: Scale | None) -> list[float]:
    """Heights 0 ... 1 on an axis; NaN for None."""
    if scale is None:
        words = list(dict.fromkeys(str(value) for value in column))
        return [words.index(str(value)) / max(1, len(words) - 1) for value in column]
    low, high, is_log = scale
    shape: Any = np.log if is_log else lambda x: x
    span = shape(high) - shape(low) or 1.0
    return [np.nan if value is None else (shape(value) - shape(low)) / span for value in column]


def _ticks(column: Sequence[Any], scale: Scale | None) -> list[tuple[float, str]]:
    if scale is None:
        words = list(dict.fromkeys(str(value) for value in column))
        return [(number / max(1, len(words) - 1), word) for number, word in enumerate(words)]
    low, high, is_log = scale
    middle = (low * high) ** 0.5 if is_log else (low + high) / 2
    return [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]


def importance(shares: Mapping[str, float]) -> str:
    """Bars of how much each key decides."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        names = list(shares)[::-1]
        bars = axes.barh(names, [shares[name] for name in names], color=COLOURS[0])
        axes.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=3, fontsize=8)
        axes.set(title="Importance", xlabel="share of the variance", xlim=(0, 1.12 * max(shares.values())))
        axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1))
        axes.grid(axis="y", visible=False)
        return as_svg(figure)


def history(
    numbers: Sequence[int], values: Sequence[float], states: Sequence[str], metric: str, larger: bool
) -> str:
    """The metric of each trial in their order, and the best whole one so far."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        for state, (colour, marker) in STATE_LOOKS.items():
            points = [(n, v) for n, v, s in zip(numbers, values, states, strict=True) if s == state]
            if points:
                axes.plot(*zip(*points, strict=True), marker, color=colour, label=state, markersize=5)
        whole = sorted((n, v) for n, v, s in zip(numbers, values, states, strict=True) if s == "complete")
        if whole:
            best = (np.maximum if larger else np.minimum).accumulate([value for _, value in whole])
            ends = [*(number for number, _ in whole), max(numbers)]
            axes.step(
                ends, [*best, best[-1]], where="post", color="#1f2933", linewidth=1.4, label="best so far"
            )
        axes.set(title="Optimisation history", xlabel="trial", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(fontsize=8)
        return as_svg(figure)


def pareto(points: Sequence[tuple[float, float]], front: Sequence[bool], names: tuple[str, str]) -> str:
    """Trials in the plane of two objectives, with the front that no other trial beats in both."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE)
        axes = figure.subplots()
        beaten = [point for point, is_on in zip(points, front, strict=True) if not is_on]
        best = sorted(point for point, is_on in zip(points, front, strict=True) if is_on)
        if beaten:
            axes.plot(*zip(*beaten, strict=True), "o", color="#9aa5b1", markersize=5, label="beaten in both")
        axes.plot(*zip(*best, strict=True), "o-", color=COLOURS[1], markersize=6, label="Pareto front")
        axes.set(title="Pareto front", xlabel=names[0], ylabel=names[1])
        axes.legend(fontsize=8)
        return as_svg(figure)
