"""The tables of an evaluated run, in every format, beside its other files."""

from __future__ import annotations

from pathlib import Path

from rtk.report.table_files import FORMATS, write_table
from rtk.report.tables import pooled_rows
from rtk.runs.folder import RunFolder
from rtk.runs.results import read_result


def write_run_tables(run: RunFolder) -> list[Path]:
    """Write `evaluation/table.{csv,json,md,tex,html}` of an evaluated run.

    Raises:
        ConfigError: the run has not been evaluated.
    """
    rows = pooled_rows({run.name: read_result(run)})
    return [write_table(run.evaluation / f"table.{ending}", rows) for ending in FORMATS]
