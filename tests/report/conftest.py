"""Evaluated runs without training: scores are drawn, everything else is computed as `rtk evaluate` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtk.config import load_config
from rtk.evaluate.measure import ScoreColumns, _by_place, score_metrics
from rtk.report.evaluated import EvaluatedRun
from rtk.runs.atomic import write_json
from rtk.runs.folder import RunFolder

SCORES = ("msp", "knn")
SETS = {"cats": ("near", 60), "dogs": ("near", 25), "noise": ("far", 40)}
IMAGES = 150


def score_rows(rng: np.random.Generator, name: str, group: str, count: int, skill: float) -> pa.Table:
    """Rows of one set: of images that are right the scores are larger, of OOD images smaller."""
    labels = rng.integers(0, 8, count)
    right = (rng.random(count) < 0.8) & (group == "id")
    centre = {"id": 0.6, "near": 0.45, "far": 0.2}[group]
    return pa.table(
        {
            "set": [name] * count,
            "group": [group] * count,
            "sample_id": np.arange(count),
            "label": labels,
            "prediction": np.where(right, labels, (labels + 1) % 8),
            "is_correct": right,
            "msp": np.clip(centre + skill * right + 0.15 * rng.standard_normal(count), 0, 1),
            "knn": centre + 0.2 * rng.standard_normal(count),
        }
    )


@pytest.fixture
def make_run(tmp_path):
    """Write an evaluated run; a function of its name, seed, skill of its confidence and OOD sets."""

    def make(
        name: str,
        seed: int = 0,
        skill: float = 0.2,
        sets: Mapping[str, tuple[str, int]] = SETS,
        overrides: tuple[str, ...] = (),
    ) -> RunFolder:
        rng = np.random.default_rng(seed)
        config = load_config("digits_ce", [f"output={tmp_path}", *overrides])
        run = RunFolder.create(config, name)
        kinds = {"test": ("id", IMAGES), **sets}
        tables = {key: score_rows(rng, key, *kind, skill) for key, kind in kinds.items()}
        table = pa.concat_tables(tables.values())
        pq.write_table(table, run.evaluation / "scores.parquet")
        write_json(run.evaluation / "metrics.json", result_of(tables, sets, config.evaluate))
        return run

    return make


def result_of(tables, sets, settings) -> dict:
    measured = {}
    for score in SCORES:
        columns = {
            key: ScoreColumns(
                *(rows[name].to_numpy() for name in ("msp", score, "is_correct")), rows["group"][0].as_py()
            )
            for key, rows in tables.items()
        }
        measured[score] = score_metrics(columns, "exact")
    return {
        **_by_place(settings.model_copy(update={"confidence": "msp", "ood_score": "knn"}), measured),
        "confidence": "msp",
        "ood_score": "knn",
        "ds_method": "exact",
        "groups": {key: group for key, (group, _) in sets.items()},
        "paths": {key: f"nowhere/{key}.parquet" for key in tables},
        "protocol": {"name": "fixed", "hyperparameters": {}},
        "calibration": {
            "ece": 0.3 * abs(0.2 - 0.1) + 0.7 * abs(0.9 - 0.8),
            "reliability": {"confidence": [0.2, 0.9], "accuracy": [0.1, 0.8], "count": [45, 105]},
        },
        "skipped": {},
        "step": 8,
    }


@pytest.fixture
def read():
    """Runs as a page reads them, numbered in their order."""
    return lambda *runs: [EvaluatedRun.read(run, run.name, number) for number, run in enumerate(runs)]


@pytest.fixture(scope="session")
def old_run() -> Path:
    """A run that was trained and evaluated by an earlier version; its images ship with rtk."""
    return Path(__file__).parent.parent / "old" / "run"
