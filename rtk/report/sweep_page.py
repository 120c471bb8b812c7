"""The page of a sweep, beside its other files."""

from __future__ import annotations

from pathlib import Path

from rtk.report.comparison import compare
from rtk.report.comparison_page import write_comparison
from rtk.runs.sweep import Sweep


def write_sweep_page(sweep: Sweep) -> Path:
    """Write `evaluation/report.html` of a sweep."""
    return write_comparison(compare(sweep=str(sweep.path)), sweep.path / "evaluation" / "report.html")
