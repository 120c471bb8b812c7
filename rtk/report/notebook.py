"""Results as a notebook shows them; light to import, for `rtk.api` is."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Figure:
    """A figure of a report; a notebook shows it.

    Attributes:
        svg: the figure.
        caption: what it shows, and what good looks like.
    """

    svg: str
    caption: str

    def _repr_html_(self) -> str:
        return f"<figure>{self.svg}<figcaption>{self.caption}</figcaption></figure>"


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a run.

    Attributes:
        run: its folder.
        result: everything, as in `evaluation/metrics.json`.
        table: a row for every set and score, metrics as fractions.
        report: the page with all tables and figures.
    """

    run: Path
    result: dict[str, Any]
    table: pd.DataFrame
    report: Path

    @property
    def summary(self) -> dict[str, float]:
        """Headline metrics, as fractions: `accuracy`, `aurc`, `ds_aurc_near`, ..."""
        summary: dict[str, float] = self.result["summary"]
        return summary

    @property
    def figures(self) -> list[Figure]:
        """The report's figures of this run: risk-coverage curves, histograms, ROC, reliability."""
        from rtk.report.evaluated import EvaluatedRun
        from rtk.report.figures import risk_coverage_figures, score_figures
        from rtk.runs.folder import RunFolder

        read = EvaluatedRun.read(RunFolder(self.run), self.run.name)
        return [Figure(*drawn) for drawn in (*risk_coverage_figures([read]), *score_figures(read))]

    def _repr_html_(self) -> str:
        return f'{self.table.to_html(index=False)}<p>report: <a href="{self.report}">{self.report}</a></p>'


@dataclass(frozen=True)
class ComparedRuns:
    """Runs side by side, those that differ in nothing but the seed taken together.

    Attributes:
        table: a row for each group, the best first: as `rtk compare` prints it.
        runs: a row for each run: `metrics.NAME` as fractions, `params.KEY` where they differ.
        differences: of each group from the first run's, with 95 % intervals (paired bootstrap over seeds).
        unlike: what the runs were not measured alike on; where there is anything they are not ranked, and no
            differences given, but by `force`.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    differences: pd.DataFrame
    unlike: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        tables = [self.table, *([self.differences] if len(self.differences) else [])]
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.unlike)
        warning = f"<p>Not measured on the same:</p><ul>{lines}</ul>" if lines else ""
        return warning + "".join(table.to_html(index=False) for table in tables)
