"""The page of a sweep, beside its other files."""

from __future__ import annotations

from pathlib import Path

from rtk.report.comparison import compare
from rtk.report.comparison_page import write_page
from rtk.runs.sweep import Sweep


def write_sweep_page(sweep: Sweep) -> Path:
    """Write `evaluation/report.html` of a sweep."""
    found = compare(sweep=str(sweep.path))
    about = (found.title, found.groups, found.metrics, found.differences, found.space, found.importances)
    return write_page(sweep.path / "evaluation" / "report.html", *about)
