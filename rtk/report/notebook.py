"""Results as a notebook shows them; light to import, for `rtk.api` is."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

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
