"""A trained run, evaluated: predictions once, and every number that follows from them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from rtk.cli import main
from rtk.data.decode.pipeline import Selection, decode_datasets
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset
from rtk.evaluate import measure
from rtk.evaluate.evaluate import evaluate_run
from rtk.evaluate.model import load_model
from rtk.evaluate.predictions_file import read_predictions, read_stamp
from rtk.evaluate.score_table import rows_of
from rtk.evaluate.sets import evaluation_config
from rtk.metrics import aurc, ds_aurc
from rtk.report.run_page import write_report
from rtk.runs.results import read_result, read_scores
from tests.evaluate.conftest import copy_of

pytestmark = pytest.mark.slow


def test_predictions_are_those_of_the_model_in_the_order_of_the_data(run):
    dataset = open_dataset(resolve_path("builtin:digits/test.parquet"))
    arrays = decode_datasets({"test": Selection(dataset, 32)})["test"]
    saved = read_predictions(run.evaluation / "predictions" / "test.parquet")
    with torch.no_grad():
        logits, features = load_model(run).forward_features(torch.from_numpy(arrays.images).float() / 255)
    np.testing.assert_allclose(saved["logits"], logits.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(saved["features"], features.numpy(), rtol=0, atol=1e-4)
    assert (saved["sample_id"] == arrays.sample_ids).all()
    assert (saved["label"] == arrays.labels).all()


def test_summary_equals_metrics_computed_from_the_predictions(run):
    summary = read_result(run)["summary"]
    predictions = {
        n: read_predictions(run.evaluation / "predictions" / f"{n}.parquet") for n in ("test", "photos")
    }
    test = predictions["test"]
    confidence = {n: torch.from_numpy(p["logits"]).softmax(1).amax(1).numpy() for n, p in predictions.items()}
    correct = test["label"] == test["prediction"]
    assert summary["accuracy"] == pytest.approx(correct.mean())
    assert summary["aurc"] == pytest.approx(aurc(confidence["test"], correct), abs=1e-9)
    msp = read_result(run)["scores"]["msp"]
    five = (confidence["test"], confidence["test"], correct, confidence["photos"], confidence["photos"])
    assert msp["ds_aurc_far"] == pytest.approx(ds_aurc(*five), abs=1e-9)


def test_predictions_are_written_once_and_measured_the_same_by_tasks(run, monkeypatch):
    summary = read_result(run)["summary"]
    paths = sorted((run.evaluation / "predictions").glob("*.parquet"))
    before = [path.stat().st_mtime_ns for path in paths]
    monkeypatch.setattr(measure, "QUICK", 0)
    assert evaluate_run(run, evaluation_config(run, ["evaluate.scores=[msp]"]))["summary"] == summary
    monkeypatch.undo()
    assert [path.stat().st_mtime_ns for path in paths] == before
    evaluate_run(run)


def test_splits_have_a_mean_and_a_spread(run):
    overrides = ["evaluate.protocol=rat_splits", "evaluate.scores=[msp, odin_temperature]"]
    result = evaluate_run(run, evaluation_config(run, overrides))
    images = open_dataset(resolve_path("builtin:digits/test.parquet")).rows
    assert len(result["protocol"]["splits"]) == 3
    assert result["std"]["summary"]["accuracy"] > 0
    assert {"temperature", "criterion"} == set(result["protocol"]["tried"]["odin_temperature"][0])
    assert len(rows_of(read_scores(run), "set", "test")["label"]) == images - int(0.2 * images)
    assert " ± " in write_report([run]).read_text()
    evaluate_run(run)


def test_classes_in_another_order_are_measured_by_name(run, tmp_path, capsys):
    """The digits 7 to 2, as a person might have prepared them apart: same images, same figures."""
    table = pq.read_table(resolve_path("builtin:digits/test.parquet"))
    chosen = table.filter(pc.greater_equal(table["label"], 2))
    for name, names in (("same", [str(n) for n in range(8)]), ("turned", [str(n) for n in range(7, 1, -1)])):
        numbers = pa.array([names.index(str(label)) for label in chosen["label"].to_pylist()])
        (tmp_path / name).mkdir()
        pq.write_table(chosen.set_column(1, "label", numbers), tmp_path / name / "all.parquet")
        (tmp_path / name / "classes.json").write_text(json.dumps({"classes": names}))
    test, fit = (tmp_path / name / "all.parquet" for name in ("turned", "same"))
    run = copy_of(run, tmp_path)
    expected = evaluate_run(run, evaluation_config(run, [f"data.test={fit}"]))["summary"]
    found = evaluate_run(run, evaluation_config(run, [f"data.test={test}"]))
    assert found["summary"] == expected
    predicted = read_predictions(run.evaluation / "predictions" / "test.parquet")["prediction"]
    digits = chosen["label"].to_numpy()
    assert expected["accuracy"] == pytest.approx((predicted == digits).mean())
    stamp = read_stamp(run.evaluation / "predictions" / "test.parquet")["predictions"]
    assert stamp["labels"] == [7, 6, 5, 4, 3, 2]
    assert {key: stamp[key] for key in ("data", "rows")}.items() <= found["measured_on"]["test"].items()
    assert "labels are taken by name (6 of 8 classes)" in capsys.readouterr().err
    by_number = evaluate_run(run, evaluation_config(run, [f"data.test={test}", "data.labels_by=number"]))
    assert by_number["summary"]["accuracy"] == pytest.approx((predicted == 7 - digits).mean())


def test_command_prints_one_json_object(run, tmp_path, capsys):
    run = copy_of(run, tmp_path)
    extra = f"far:again={resolve_path('builtin:digits/far_photos.parquet')}"
    (run.evaluation / "table.csv").unlink(missing_ok=True)
    assert main(["evaluate", str(run.path), "--ood", extra, "--scores", "msp", "energy", "--json"]) == 0
    assert "again" in (run.evaluation / "table.csv").read_text()
    result = json.loads(capsys.readouterr().out)
    assert result["sets"]["again"]["energy"] == result["sets"]["photos"]["energy"]
    assert set(result["scores"]) == {"msp", "energy", "knn"}  # knn is the recipe's headline score


def test_missing_pieces_are_named(run, capsys):
    assert main(["evaluate", str(run.path), "--ood", "far:x=/nowhere"]) == 2
    assert "data.far_ood.x: /nowhere: " in capsys.readouterr().err
    assert main(["evaluate", str(run.path), "--scores", "mps"]) == 2
    assert "msp" in capsys.readouterr().err
    assert main(["evaluate", str(run.path), "--ood", "far:test=/a"]) == 2
    assert "'test' is taken" in capsys.readouterr().err
    assert main(["evaluate", str(run.path), "--calibration", "builtin:digits/validation.parquet"]) == 2
    assert "--calibration: got images to choose thresholds on, wanted --risk R" in capsys.readouterr().err


def test_what_was_trained_on_is_not_evaluated_on(run, capsys):
    train = run.config().data.train
    for override, message in (
        (f"data.test={train}", "data.train: got images of the test set 'test'"),
        (f"data.validation={train}", "data.validation: got the training images"),
        ("data.validation=null", "the run held no training images out"),
        ("evaluate.bootstrap=9", "evaluate.bootstrap: got resamples with evaluate.protocol=rat_splits"),
    ):
        assert main(["evaluate", str(run.path), override, "--protocol", "rat_splits"]) == 2
        assert message in capsys.readouterr().err
