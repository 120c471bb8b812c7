"""RAT's figures: medians, curves and costs are those of the run's own files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rtk.config.errors import ConfigError
from rtk.evaluate.columns import as_lists
from rtk.evaluate.predictions_file import METADATA_KEY
from rtk.evaluate.throughput import note_throughput, read_throughput
from rtk.metrics import aurc
from rtk.report.radii import cost_table, medians, radius_section, temperature_curves


@pytest.fixture
def with_radii(make_run, read):
    """Two runs, the first with radii from 0.001 on, and with logits of its test images."""
    entry, other = read(make_run("one"), make_run("two", seed=1))
    rows = len(entry.table)
    radii = pa.array(0.001 * (1 + np.arange(rows)))
    folder = entry.run.evaluation / "predictions"
    folder.mkdir(exist_ok=True)
    logits = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    predicted = {"label": np.arange(200) % 8, "logits": as_lists(logits)}
    stamp = {"predictions": {"data": "abc", "rows": 200, "step": entry.result["step"]}}
    about = {METADATA_KEY: json.dumps(stamp).encode()}
    pq.write_table(pa.table(predicted).replace_schema_metadata(about), folder / "test.parquet")
    entry.result["measured_on"] = {"test": {"data": "abc", "rows": 200}}
    return replace(entry, table=entry.table.append_column("rr_fast", radii)), other, logits


def test_medians_are_of_the_test_images(with_radii):
    entry = with_radii[0]
    table = entry.table.to_pandas()
    tested = table[table["group"] == "id"]
    expected = [tested["rr_fast"][tested["is_correct"] == right].median() for right in (True, False)]
    assert medians(entry, "rr_fast") == pytest.approx(expected)


def test_the_section_shows_every_run(with_radii):
    entry, other, _ = with_radii
    note_throughput(entry.run.evaluation, {"rr_fast": 12.4, "msp": 1e6})
    section = radius_section([entry, other])
    right, wrong = medians(entry, "rr_fast")
    assert (
        f"Median {right:.3g} where it is right, {wrong:.3g} where it is wrong"
        in section["figures"][0].caption
    )
    pages = "".join(figure.svg for figure in section["figures"])
    assert "one: rr_fast" in pages
    assert "one: AURC over the temperature" in pages
    (name, cells), *_ = section["tables"][0].rows
    assert name == "rr_fast"
    assert [cell.text for cell in cells] == [*(f"{v:.3g}" for v in (right, wrong, right / wrong)), *"–––"]


def test_the_temperature_is_that_of_the_softmax(with_radii):
    entry, other, logits = with_radii
    found = temperature_curves(entry)
    assert found.keys() == {"doctor_alpha", "doctor_beta", "odin_temperature"}
    correct = logits.argmax(1).numpy() == np.arange(200) % 8
    for temperature, value in zip(*found["odin_temperature"], strict=True):
        confidence = (logits.double() / temperature).softmax(1).amax(1).numpy()
        assert value == pytest.approx(aurc(confidence, correct), abs=1e-3)
    assert temperature_curves(other) == {}


@pytest.mark.parametrize("change", [{"step": 9}, {"measured_on": {"test": {"data": "abd", "rows": 200}}}])
def test_predictions_of_another_evaluation_are_left_alone(with_radii, change):
    entry = with_radii[0]
    assert temperature_curves(entry)
    assert temperature_curves(replace(entry, result=entry.result | change)) == {}


def test_costs_measured_before_stay(with_radii):
    entry, other, _ = with_radii
    note_throughput(entry.run.evaluation, {"rr_fast": 12.4, "msp": 9000.0})
    note_throughput(entry.run.evaluation, {"msp": 1234.0})
    assert read_throughput(entry.run.evaluation) == {"rr_fast": 12.4, "msp": 1234.0}
    rows = cost_table([entry, other]).rows
    assert [(name, [cell.text for cell in cells]) for name, cells in rows] == [
        ("rr_fast", ["12", "–"]),
        ("msp", ["1,234", "–"]),
    ]


def test_runs_without_radii_are_told_how_to_get_them(make_run, read):
    with pytest.raises(
        ConfigError, match="--radii: no run was evaluated with rr_fast, .*--scores rr_fast rr_bs"
    ):
        radius_section(read(make_run("one")))
