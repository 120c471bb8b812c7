"""An evaluated run as every page reads it: its result and its table of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rtk.config.data import GROUPS
from rtk.config.errors import ConfigError
from rtk.evaluate import corruptions
from rtk.evaluate.score_table import rows_of
from rtk.report.curves import Pair
from rtk.runs.folder import RunFolder
from rtk.runs.results import read_result, read_scores

KINDS = ("confidence", "ood_score")
Five = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class EvaluatedRun:
    """An evaluated run as the report needs it.

    Attributes:
        run: its folder.
        label: short name of the run on its page.
        result: what `rtk evaluate` found.
        table: scores of every image, of `score_table`.
        number: among the runs of a page, from 0; it says the run's colour in every figure.
    """

    run: RunFolder
    label: str
    result: dict[str, Any]
    table: pa.Table
    number: int = 0

    @classmethod
    def read(cls, run: RunFolder, label: str, number: int = 0) -> EvaluatedRun:
        """Read what `rtk evaluate` wrote.

        Raises:
            ConfigError: the run has not been evaluated.
        """
        return cls(run, label, read_result(run), read_scores(run), number)

    @property
    def groups(self) -> list[str]:
        """Those of `near` and `far` that have images."""
        there = set(self.result["groups"].values())
        return [group for group in GROUPS if group in there]

    @property
    def decision(self) -> dict[str, Any] | None:
        """The decision rule and what it reached; None where none was asked for or found."""
        decision: dict[str, Any] | None = self.result.get("decision")
        return decision if decision is not None and decision["reached"] else None

    @property
    def ds_method(self) -> str:
        """How DS-AURC was computed: `exact` or `grid`."""
        of_training = self.run.config_tree().get("evaluate", {}).get("ds_method", "exact")
        return str(self.result.get("ds_method", of_training))

    def sets_of(self, group: str) -> list[str]:
        """Names of the OOD sets of a group."""
        return [name for name, own in self.result["groups"].items() if own == group]

    def column(self, group: str, kind: str) -> np.ndarray:
        """`confidence`, `ood_score` or `is_correct`, (N,), of a group (`id`, `near`, `far`)."""
        name = self.result[kind] if kind in KINDS else kind
        return self.scores_of(group, [name])[name]

    def scores_of(self, value: str, names: list[str], column: str = "group") -> dict[str, np.ndarray]:
        """Columns of a group or, by `column="set"`, of a set, each (N,)."""
        missing = [name for name in names if name not in self.table.column_names]
        if missing:
            raise ConfigError(f"{self.run.path}: evaluation/scores.parquet is damaged: has no {missing[0]!r}")
        return rows_of(self.table.select(["set", "group", *dict.fromkeys(names)]), column, value)

    def pair(self, name: str) -> Pair:
        """Confidence and OOD score of the images of a set, each (N,)."""
        confidence, ood_score = (self.result[kind] for kind in KINDS)
        found = self.scores_of(name, [confidence, ood_score], "set")
        return found[confidence], found[ood_score]

    def finite(self, group: str, kind: str) -> np.ndarray:
        """As `column`; infinite scores (Gram's, far from all classes) become the last finite ones."""
        everywhere = self.table[self.result[kind]].to_numpy()
        bounds = everywhere[np.isfinite(everywhere)]
        values = self.column(group, kind)
        return values.clip(bounds.min(), bounds.max()) if len(bounds) else values

    def corruption_rows(self) -> list[dict[str, Any]]:
        """What `corruptions.csv` says about the evaluated checkpoint, on the same test set."""
        measured = corruptions.measured_with(self.result)
        return corruptions.read_rows(self.run.evaluation, self.result["step"], measured)

    def pooled(self, group: str) -> Five:
        """The arguments of the DS metrics, the test set against all sets of a group as one, scores finite."""
        id_part = [self.finite("id", kind) for kind in KINDS]
        ood_part = [self.finite(group, kind) for kind in KINDS]
        return id_part[0], id_part[1], self.column("id", "is_correct"), ood_part[0], ood_part[1]
